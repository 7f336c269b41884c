/* From scores and a sparsity to zeros: the part that every pruner shares. A pruner gives only its
 * scores. Rules of JaxPruner (arXiv:2304.14082), followed exactly so that counts and ties agree:
 * - share s: of n values max(1, round-half-even(n * (1 - s))) are kept, the highest scores; of
 *   equal scores the LOWER index is kept; s = 0 keeps all
 * - N:M: of each m consecutive inputs the n highest scores are kept; of equal scores the HIGHER
 *   index is kept
 * - block: scores are pooled over tiles, and tiles are kept by the rule of shares. avg: the sum,
 *   divided by the number of weights where tiles at an edge are partial; max: the largest
 * - channel: the sum of the scores of an input or an output; kept by the rule of shares
 *
 * JaxPruner counts a block's axes as the array has them; here blocks are outputs x inputs, and
 * channels are named by meaning. A NaN score counts as the lowest. */
#ifndef PARE_SRC_METHODS_MASK_H
#define PARE_SRC_METHODS_MASK_H

#include "methods/prune_options.h"

/* Zeroes (+0.0f) the weights with the lowest scores among n values: w[n], score[n], both f32; score
 * may be NULL: |w|. Cost O(n), no memory beyond 16 KiB of stack. */
void pare_mask_share(float *w, const float *score, size_t n, double share);

/* Zeroes the n_prune lowest of n scores; of equal scores the LOWER index goes first (Wanda's stable
 * sort). score as above. */
void pare_mask_lowest(float *w, const float *score, size_t n, size_t n_prune);

/* As pare_mask_share within each m consecutive values of each row; cols is a multiple of m, m
 * <= 64. */
void pare_mask_n_m(float *w, const float *score, size_t rows, size_t cols, int n, int m);

/* Does N:M divide the rows? Errors: PARE_ERR_ARG, naming the method. */
pare_status pare_mask_check_pattern(const pare_weight_job *job, const char *method,
                                    const pare_sparsity *s, pare_error *err);

/* All that a pruner's options ask of a whole matrix, everything in it competing: N:M, single
 * weights, tiles, channels. score [rows][cols]; NULL: |w|. Errors: PARE_ERR_ARG (m does not divide
 * the rows), PARE_ERR_NOMEM. The result does not depend on the number of threads. */
pare_status pare_mask_matrix(const pare_weight_job *job, const char *method, const float *score,
                             const pare_prune_options *o, pare_error *err);
/* Bytes of work space of that. */
size_t pare_mask_work_bytes(const pare_prune_options *o, size_t rows, size_t cols);

/* Number of values kept by a share (the rule above; in f32 as the reference for n < 3e6). */
size_t pare_mask_n_keep(size_t n, double share);

#endif
