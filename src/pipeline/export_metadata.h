/* What a GGUF file says about itself (licence, tags, names ...) carried by a folder, in
 * config.json:
 *
 *     "pare": {"gguf": {"general.license": {"type": "string", "value": "apache-2.0"},
 *                       "general.tags": {"type": "string", "value": ["text-generation"]}, ...}}
 *
 * type: of GGUF, an array's that of its items; value: an array for arrays. Other programs leave the
 * key alone. Keys that the folder says elsewhere (ARCH.*, tokenizer.*, general.architecture) or
 * that describe one file (split.*, alignment, quantization_version) are not carried. */
#ifndef PARE_SRC_PIPELINE_EXPORT_METADATA_H
#define PARE_SRC_PIPELINE_EXPORT_METADATA_H

#include "base/runtime.h"
#include "io/gguf_writer.h"
#include "io/json.h"

/* The object behind "gguf"; NULL when there is nothing to carry. arch: the file's, "llama". What
 * JSON cannot hold (text that is not UTF-8, NaN), is longer than 64 KiB or has no room in 4 MiB of
 * JSON is left out with a warning. Errors: PARE_ERR_NOMEM. */
pare_status pare_metadata_to_json(json_t **out, pare_runtime *rt, const pare_gguf *from,
                                  const char *arch, pare_error *err);

/* Sets the keys that a folder's config.json carries; those that are not carried are refused.
 * file_type: general.file_type too. Errors: PARE_ERR_INPUT, PARE_ERR_NOMEM. */
pare_status pare_metadata_to_gguf(pare_gguf_writer *w, const pare_json *config, const char *arch,
                                  bool file_type, pare_error *err);

#endif
