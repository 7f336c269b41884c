/* What a prefix's files have in common: text by keys (prefix_file.c says which), in the metadata of
 * a safetensors file, or of a GGUF file with PARE_PREFIX_GGUF in front of each key. There is also
 *
 *     pare.cushion.values   f32 [n_layers][keys, values][length][n_kv_heads][head_dim]
 *
 * as a key, because a program that does not know a tensor refuses the file, and leaves a key that
 * it does not know alone. */
#ifndef PARE_SRC_MODEL_PREFIX_INTERNAL_H
#define PARE_SRC_MODEL_PREFIX_INTERNAL_H

#include "io/gguf_writer.h"
#include "io/safetensors_writer.h"
#include "model/prefix.h"

typedef struct prefix_words {
    const char *(*get)(const void *file, const char *key); /* NULL: absent */
    const void *file;
    const char *path;
} prefix_words;

/* Is it of this model, and of a version that is known? */
pare_status prefix_check_facts(const prefix_words *words, const pare_model_config *c,
                               pare_error *err);
/* ids and tuned of p. */
pare_status prefix_read_ids(pare_prefix *p, const prefix_words *words, size_t vocab,
                            pare_error *err);
/* All keys; record may be NULL. */
pare_status prefix_put_words(pare_status (*set)(void *to, const char *key, const char *text,
                                                pare_error *err),
                             void *to, const pare_prefix *p, const pare_model_config *c,
                             const char *record, pare_error *err);

/* ---- prefix_gguf.c ---- */

const char *prefix_gguf_text(const void *gguf, const char *key);
pare_status prefix_load_gguf(pare_prefix **out, const pare_model_config *c, const char *path,
                             pare_error *err);

#endif
