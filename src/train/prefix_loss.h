/* The loss of quantization-aware prefix tuning (CushionCache, Son et al., arXiv:2406.12016, eq. 11)
 * of the keys and values of a model's prefix:
 *
 *     L = L_pred + lambda L_q        mean over the texts of a batch
 *
 * L_pred: mean negative log-likelihood of a text's tokens but the first, which nothing predicts.
 * L_q: the quantization error of the text's activations X, summed over blocks, where the scale and
 * the zero point of q are constants:
 *
 *     L_q = sum over blocks of || X - q(X) ||^2         dL_q / dX = 2 (X - q(X))
 *
 * (with `mean` divided by the number of elements that X has in a block). That is the gradient where
 * codes stay as they are. A straight-through estimator inside q would make it zero. */
#ifndef PARE_SRC_TRAIN_PREFIX_LOSS_H
#define PARE_SRC_TRAIN_PREFIX_LOSS_H

#include "tensor/act_quant.h"
#include "train/step.h"

typedef struct pare_prefix_loss_options {
    pare_act_scheme scheme; /* of q: one grid for a text's tokens, or one each */
    bool outputs, inputs;   /* X: what blocks put out; the inputs of their matrices, each group's
                               that share one */
    double lambda;
    bool mean;
    size_t n, n_texts; /* tokens of a text, all alike; texts of a batch, at most */
    pare_compute compute;
} pare_prefix_loss_options;

typedef struct pare_prefix_losses {
    double pred, error; /* L_pred, L_q */
} pare_prefix_losses;

typedef struct pare_prefix_loss pare_prefix_loss;

/* weights: of pare_train_weights_of_prefix; borrowed. Errors: PARE_ERR_ARG (a text of
 * less than two tokens), those of pare_step_create. */
pare_status pare_prefix_loss_create(pare_prefix_loss **out, pare_train_weights *weights,
                                    const pare_prefix_loss_options *o, pare_error *err);
void pare_prefix_loss_free(pare_prefix_loss *l);
size_t pare_prefix_loss_bytes(const pare_prefix_loss *l);

/* ids[n_texts][n]. With a gradient, that of L is added to the weights' arrays (overwritten where
 * fresh). Errors: those of pare_step_run. */
pare_status pare_prefix_loss_run(pare_prefix_loss *l, const int32_t *ids, size_t n_texts,
                                 bool gradient, pare_prefix_losses *out, pare_error *err);

#endif
