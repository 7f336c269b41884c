/* The sequences of calibration: pieces of a text. */
#ifndef PARE_SRC_PIPELINE_CALIB_TEXT_H
#define PARE_SRC_PIPELINE_CALIB_TEXT_H

#include "model/model.h"

/* *ids [n][ctx]: sequences of the text for a model, its lines joined as for perplexity (protocol
 * hf), begun at random places that the runtime's seed chooses; where the model's tokenizer adds a
 * BOS each begins with it, unless the model's prefix holds it. *text_tokens: that there were to
 * choose from. Free with pare_free.
 * Errors: PARE_ERR_INPUT (fewer tokens than one sequence, ids past the vocabulary), PARE_ERR_NOMEM,
 * those of files. */
pare_status pare_calib_text(int32_t **ids, size_t *text_tokens, const pare_model *m,
                            const char *text, size_t n, size_t ctx, pare_error *err);

/* A context length that was asked for, 0 = 512, at most ctx_max (0: any). Errors: PARE_ERR_ARG. */
pare_status pare_calib_ctx(size_t *ctx, size_t asked, size_t ctx_max, pare_error *err);

#endif
