/* The tokenizer of a model written for the other container. */
#ifndef PARE_SRC_PIPELINE_EXPORT_TOKENIZER_H
#define PARE_SRC_PIPELINE_EXPORT_TOKENIZER_H

#include "base/runtime.h"
#include "io/gguf_writer.h"

/* tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json into
 * `folder`, from the vocabulary of a GGUF file. A file without a vocabulary gives a warning and
 * nothing. */
pare_status pare_export_tokenizer_hf(pare_runtime *rt, const pare_gguf *header, const char *folder,
                                     pare_error *err);

/* tokenizer.* keys from the folder `model`; the vocabulary is filled up to vocab_size with unused
 * tokens. A folder without a tokenizer gives a warning and the vocabulary "no_vocab". */
pare_status pare_export_tokenizer_gguf(pare_runtime *rt, pare_gguf_writer *w, const char *model,
                                       size_t vocab_size, pare_error *err);

#endif
