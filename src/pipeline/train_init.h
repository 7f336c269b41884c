/* A new model with random weights, as a folder like any other: what training begins with. */
#ifndef PARE_SRC_PIPELINE_TRAIN_INIT_H
#define PARE_SRC_PIPELINE_TRAIN_INIT_H

#include "base/runtime.h"
#include "pare/train.h"

/* Names of a folder's files that a tokenizer is made of, and what stands beside; NULL ends. */
extern const char *const pare_train_tokenizer_files[];

/* Writes config.json, model.safetensors (f32) and the tokenizer into the new folder `path`.
 * Matrices are normal with deviation 0.02 (the configuration's initializer_range), those that write
 * to the residual stream (attn_output, ffn_down) with that / sqrt(2 n_layers) (GPT-2); norms are 1,
 * biases 0. The numbers follow from the runtime's seed. ctx: of training. Errors: PARE_ERR_ARG (a
 * shape that the architecture cannot have), PARE_ERR_UNSUPPORTED (a tokenizer that cannot be cut),
 * those of files. */
pare_status pare_train_init(pare_runtime *rt, const pare_train_shape *shape, size_t ctx,
                            const char *path, pare_error *err);

#endif
