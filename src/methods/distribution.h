/* How a sparsity that is asked of a whole model is shared out among its tensors, before any work
 * begins: one-shot pruning and sparse training alike.
 *
 *   uniform  every tensor gets the sparsity
 *   erk      Erdos-Renyi kernel: density follows sum(dims) / prod(dims), so small tensors stay
 *            denser; the number of zeros over all is that of uniform. JaxPruner's algorithm,
 *            arXiv:2304.14082, floors included
 *   layers   a list: one share per block of the model
 *   owl      outlier-weighed layerwise sparsity, Yin et al., arXiv:2310.05175: a block whose scores
 *            |w| ||x|| have more outliers (more than M times the block's mean) stays denser */
#ifndef PARE_SRC_METHODS_DISTRIBUTION_H
#define PARE_SRC_METHODS_DISTRIBUTION_H

#include "methods/prune_options.h"

typedef struct pare_dist_tensor {
    const char *name; /* for messages */
    size_t dims[4], n_dims;
    size_t layer; /* number of its block; PARE_NO_LAYER: it is in none */
    double fixed; /* a sparsity of its own, which no sum counts; NAN: none */
} pare_dist_tensor;
#define PARE_NO_LAYER SIZE_MAX

/* The model's blocks, as far as a distribution needs them. */
typedef struct pare_dist_blocks {
    size_t n;
    const double *outliers; /* [n] owl: share of a block's weights that are outliers; NAN: a block
                               of which no tensor takes part */
} pare_dist_blocks;

/* share[n]: the sparsity of each tensor, in [0, 1]. o->sparsity is no N:M. Errors: PARE_ERR_ARG
 * (names what does not fit), PARE_ERR_NOMEM. */
pare_status pare_distribution(double *share, const pare_dist_tensor *t, size_t n,
                              const pare_prune_options *o, const pare_dist_blocks *blocks,
                              pare_error *err);

/* Erdos-Renyi: raw density (sum(dims) / prod(dims))^power of all dims, or (kernel false) of the
 * last two. Where the raw density scaled to the sparsity exceeds 1 the densest tensors become dense
 * and the rest is scaled anew. Errors: PARE_ERR_ARG (sparsity outside [0, 1], no tensors). */
pare_status pare_distribution_erk(double *share, const pare_dist_tensor *t, size_t n,
                                  double sparsity, double power, bool kernel, pare_error *err);

#endif
