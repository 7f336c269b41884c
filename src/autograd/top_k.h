/* Activation sparsity: of each row of an activation the highest values stay, the others become 0.
 * JaxPruner (arXiv:2304.14082) has it around an activation function; there a share is one of the
 * whole tensor, the tokens of a batch together. Here it is one of each row, so that what a token
 * becomes does not depend on what is computed with it, and a model decodes as it was trained. N:M
 * is along a row in both. */
#ifndef PARE_SRC_AUTOGRAD_TOP_K_H
#define PARE_SRC_AUTOGRAD_TOP_K_H

#include <stdbool.h>
#include <stddef.h>

typedef enum pare_top_k_score { PARE_TOP_K_MAGNITUDE, PARE_TOP_K_VALUE } pare_top_k_score;

typedef struct pare_top_k {
    double share;           /* of a row that becomes 0, [0, 1] */
    size_t n, m;            /* or N:M, 1 <= n <= m <= 64; m 0: a share */
    pare_top_k_score score; /* |y|, or y with its sign as JaxPruner's */
} pare_top_k;

struct pare_fwd;

static inline bool pare_top_k_is_on(const pare_top_k *k) { return k->m > 0 || k->share > 0; }

/* y[n][width] in place. A share keeps round(width (1 - share)) values of a row, at least one, of
 * equal ones the lower index; N:M (width a multiple of M) keeps N of every M, of equal ones the
 * higher. Its backward half takes the selection as fixed: gradients of what went are 0. */
void pare_op_top_k(struct pare_fwd *f, float *y, size_t n, size_t width, const pare_top_k *k);

#endif
