/* From scores and a sparsity to a mask of bits (1 = kept): the part that every pruner shares, in
 * training and in one shot. A pruner gives only its scores; what the mask removes becomes +0.0f.
 * Rules of JaxPruner (arXiv:2304.14082), followed exactly so that counts and ties agree:
 * - share s: of n values max(1, round-half-even(n * (1 - s))) are kept, the highest scores; of
 *   equal scores the LOWER index is kept; s = 0 keeps all
 * - N:M: of each m consecutive inputs (or outputs) the n highest scores are kept; of equal scores
 * the HIGHER index is kept
 * - block: scores are pooled over tiles, and tiles are kept by the rule of shares. avg: the sum,
 *   divided by the number of weights where tiles at an edge are partial; max: the largest
 * - channel: the sum of the scores of an input or an output; kept by the rule of shares
 *
 * JaxPruner counts a block's axes as the array has them; here blocks are outputs x inputs, and
 * channels are named by meaning. A NaN score counts as the lowest. Bits as in kernels/select.h. */
#ifndef PARE_SRC_METHODS_MASK_H
#define PARE_SRC_METHODS_MASK_H

#include "kernels/select.h"
#include "methods/prune_options.h"

/* Number of values kept by a share (the rule above; in f32 as the reference for n < 3e6). */
size_t pare_mask_n_keep(size_t n, double share);

/* Does N:M divide the rows (or columns: nm_axis)? Errors: PARE_ERR_ARG, naming the method. */
pare_status pare_mask_check_pattern(const char *name, const char *method,
                                    const pare_prune_options *o, size_t rows, size_t cols,
                                    pare_error *err);

/* --- zeroes at once, on the calling thread alone --- */

/* Zeroes the weights with the lowest scores among n values: w[n], score[n], both f32; score may be
 * NULL: |w|. Cost O(n), no memory beyond the stack. */
void pare_mask_share(float *w, const float *score, size_t n, double share);

/* Zeroes the n_prune lowest of n scores; of equal scores the LOWER index goes first (Wanda's stable
 * sort). score as above. */
void pare_mask_lowest(float *w, const float *score, size_t n, size_t n_prune);

/* As pare_mask_share within each m consecutive values of each row; cols is a multiple of m, m
 * <= 64. */
void pare_mask_n_m(float *w, const float *score, size_t rows, size_t cols, int n, int m);

/* --- matrices, on all threads; the result does not depend on their number --- */

/* A matrix whose weights compete. */
typedef struct pare_mask_job {
    pare_runtime *rt;
    const char *name, *method; /* for messages */
    const float *w, *score;    /* [rows][cols]; score NULL: |w| */
    size_t rows, cols;
    size_t inner; /* consecutive values of a row that belong to one input (a convolution's kernel);
                     0: 1 */
} pare_mask_job;

/* All that a pruner's options ask of a whole matrix, everything in it competing: N:M, single
 * weights, tiles, channels. bits [pare_bit_words(rows * cols)]. Errors: PARE_ERR_ARG (m does not
 * divide the rows), PARE_ERR_NOMEM. */
pare_status pare_mask_bits(uint64_t *bits, const pare_mask_job *job, const pare_prune_options *o,
                           pare_error *err);

/* The same as zeros in job->w. score [rows][cols]; NULL: |w|. */
pare_status pare_mask_matrix(const pare_weight_job *job, const char *method, const float *score,
                             const pare_prune_options *o, pare_error *err);
/* Bytes of work space of that. */
size_t pare_mask_work_bytes(const pare_prune_options *o, size_t rows, size_t cols);

/* w[n]: +0.0f where a bit is 0. On all threads. */
void pare_mask_apply(pare_runtime *rt, float *w, const uint64_t *bits, size_t n);
/* Ones among n bits. */
size_t pare_mask_count(const uint64_t *bits, size_t n);

/* --- tiles: what goes or stays together --- */

typedef struct pare_tiling {
    size_t rows, cols, height, width, down, across; /* of the matrix, of a tile; tiles */
    bool max, partial;                              /* partial: tiles at an edge are smaller */
} pare_tiling;

/* The tiles of a structure that is not PARE_STRUCTURE_WEIGHT. */
pare_tiling pare_tiling_of(const pare_prune_options *o, size_t rows, size_t cols, size_t inner);
/* score[down * across]: the tiles' scores; work: as many doubles. value NULL: |w|. */
void pare_tiling_pool(pare_runtime *rt, const pare_tiling *t, const float *w, const float *value,
                      float *score, double *work);
/* bits of weights from bits of tiles, and back (a tile has the bit of its first weight). */
void pare_tiling_expand(pare_runtime *rt, const pare_tiling *t, const uint64_t *tiles,
                        uint64_t *bits);
void pare_tiling_contract(const pare_tiling *t, const uint64_t *bits, uint64_t *tiles);

#endif
