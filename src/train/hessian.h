/* An estimate of the Hessian's diagonal, z (.) H z with a vector z of random signs over all
 * weights (Hutchinson): E[z (.) H z] = diag(H). With n_samples vectors it is the mean of theirs,
 * whose variance is the n_samples-th part.
 *
 * H z comes from two gradients of the same batch on both sides of the weights. One step for all
 * would be too long for small tensors and drown in rounding for large ones, so a tensor is moved by
 * r s, s the root mean square of its weights but zeros (at least 1e-3): with u = s z,
 *
 *     H u = (g(w + r u) - g(w - r u)) / 2r + O(r^2),     z_i (H u)_i / s_i
 *
 * whose expectation is H_ii too. r = 1e-3: in f32 the two errors, of the third derivative (r^2)
 * and of the gradients' rounding (1e-7 / r), meet about there; on the small Llama of tests/train
 * the estimate is within 6e-4 of PyTorch's double backward in f64 (norms over tensors; 5e-3 with r
 * = 3e-3). A step takes three gradients (n_samples 1) in place of the two that an exact product
 * would cost, and no rule of a second derivative for any operator.
 *
 *     pare_hessian_begin(h, seed, step, masks);
 *     for (int k = 0; k < n_samples; k++)
 *         for (int sign = 1; sign >= -1; sign -= 2) {
 *             pare_hessian_move(h, sign);
 *             ... gradient of the batch ...
 *             pare_hessian_take(h, sign);
 *         }
 *     pare_hessian_move(h, 0);         // the weights are what they were, bit for bit
 */
#ifndef PARE_SRC_TRAIN_HESSIAN_H
#define PARE_SRC_TRAIN_HESSIAN_H

#include "train/weights.h"

typedef struct pare_hessian pare_hessian;

/* For weights that no half precision stands between (borrowed): two more arrays of their size, with
 * n_samples > 1 (at most 64) three. Errors: PARE_ERR_NOMEM. */
pare_status pare_hessian_create(pare_hessian **out, const pare_train_weights *weights,
                                int n_samples, pare_error *err);
void pare_hessian_free(pare_hessian *h);

/* Bytes of memory that it holds. */
size_t pare_hessian_bytes(const pare_hessian *h);

/* Keeps the weights that the forward pass reads. Signs follow from (seed, step, name of the tensor,
 * place). masks: [tensors that are trained] bits, weights of bit 0 are not moved and have 0; NULL
 * (one or all): none. */
void pare_hessian_begin(pare_hessian *h, uint64_t seed, uint64_t step,
                        const uint64_t *const *masks);
/* The weights become w + sign r u; 0: what they were. */
void pare_hessian_move(pare_hessian *h, int sign);
/* Takes the gradients at sign 1, then at -1, of one sample after the other: after the last the
 * estimate is there. */
void pare_hessian_take(pare_hessian *h, int sign);

/* [tensors that are trained] the estimates, as the tensors; owned. */
const float *const *pare_hessian_values(const pare_hessian *h);

/* The sign of value i in the first sample: +1 or -1. */
float pare_hessian_sign(uint64_t seed, uint64_t step, const char *name, size_t i);

#endif
