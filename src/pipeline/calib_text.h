/* The sequences of calibration: pieces of a text. */
#ifndef PARE_SRC_PIPELINE_CALIB_TEXT_H
#define PARE_SRC_PIPELINE_CALIB_TEXT_H

#include "base/runtime.h"

/* *ids [n][ctx]: sequences of the text, its lines joined as for perplexity (protocol hf), begun at
 * random places that the runtime's seed chooses; where the tokenizer of the model at that path adds
 * a BOS each begins with it. *text_tokens: that there were to choose from. Free with pare_free.
 * Errors: PARE_ERR_INPUT (fewer tokens than one sequence, ids past the vocabulary), PARE_ERR_NOMEM,
 * those of files. */
pare_status pare_calib_text(int32_t **ids, size_t *text_tokens, const pare_runtime *rt,
                            const char *model, const char *text, size_t n, size_t ctx,
                            size_t vocab_size, pare_error *err);

/* A context length that was asked for, 0 = 512, at most ctx_max (0: any). Errors: PARE_ERR_ARG. */
pare_status pare_calib_ctx(size_t *ctx, size_t asked, size_t ctx_max, pare_error *err);

#endif
