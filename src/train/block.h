/* One block of a model trained alone: what it makes of given inputs is compared with given outputs,
 * and the gradient goes to chosen weights. What is trained is the caller's business: rounding
 * offsets, scales, masks, low-rank parts make up the weights that the block is shown. */
#ifndef PARE_SRC_TRAIN_BLOCK_H
#define PARE_SRC_TRAIN_BLOCK_H

#include "autograd/tape.h"
#include "model/model.h"

typedef struct pare_block_trainer pare_block_trainer;

/* For passes of up to n_sequences of ctx tokens through a loaded layer of the model (borrowed; the
 * layer's weights may be replaced between passes, its prefix not). Errors: PARE_ERR_NOMEM. */
pare_status pare_block_trainer_create(pare_block_trainer **out, pare_model *m, size_t layer,
                                      size_t n_sequences, size_t ctx, pare_compute compute,
                                      pare_error *err);
void pare_block_trainer_free(pare_block_trainer *b);
/* Bytes of memory that it holds. */
size_t pare_block_trainer_bytes(const pare_block_trainer *b);

/* x, where the caller puts the inputs, and y, where it puts the wanted outputs:
 * [n_sequences * ctx][dim]. */
float *pare_block_trainer_x(pare_block_trainer *b);
float *pare_block_trainer_y(pare_block_trainer *b);

/* *loss = mean over all values of (output - y)^2, where the last token of each sequence counts as
 * no difference. leaves [n_leaves], in order of their keys: their gradients are added up (where
 * fresh, overwritten); n_leaves 0: the loss only. */
void pare_block_trainer_loss(pare_block_trainer *b, size_t n_sequences, const pare_leaf *leaves,
                             size_t n_leaves, double *loss);

#endif
