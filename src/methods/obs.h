/* Optimal brain surgeon, column by column: what SparseGPT and GPTQ share. Weights are settled (to
 * zero, or on a grid) from the first column to the last, and the error of each is passed on to the
 * columns not yet settled, so that the layer's output on the calibration inputs changes least.
 *
 * With H = sum x x^T + damping and H^-1 = U^T U, U upper: settling w_j to q leaves
 * e = (w_j - q) / U_jj, and w_k -= e U_jk for k > j. U_jj^2 is the first diagonal element of the
 * inverse of what is left of H, so one factor serves every row (arXiv:2301.00774, 2210.17323).
 * Columns pass in blocks of `block`; what a block passes on to the columns behind it is one matrix
 * product. */
#ifndef PARE_SRC_METHODS_OBS_H
#define PARE_SRC_METHODS_OBS_H

#include "kernels/column_sweep.h"
#include "methods/method.h"

typedef struct pare_obs {
    size_t n, ld; /* columns; the same up to a multiple of 16 */
    float *u;     /* [n][ld], upper, 0 elsewhere */
    bool *dead;   /* [n] no calibration token had anything here: H_jj was 0 */
    double damp;  /* share of the mean diagonal that was added */
    double floor; /* of the diagonal; 0: none was needed */
    size_t n_dead;
} pare_obs;

/* What takes the place of H_jj = 0: half the number of sequences, the 1 of the published codes,
 * whose H is 2 / n_sequences sum x x^T. */
double pare_obs_dead_square(const pare_input_stats *x);

/* Factors the Hessian of the job's inputs, columns in the order of perm[n] (NULL: as they are).
 * Dead columns get pare_obs_dead_square, which counts in the mean. Where the damped matrix is not
 * positive definite damping is doubled up to 1, then the diagonal gets a floor of 1e-6 of its
 * maximum, times ten up to six times, and the job notes it. *factored is false when nothing helped:
 * the caller rounds to nearest. Errors: PARE_ERR_NOMEM, PARE_ERR_INPUT (values that are not
 * finite), PARE_ERR_INTERRUPTED. */
pare_status pare_obs_factor(pare_obs *obs, bool *factored, const pare_weight_job *job,
                            const uint32_t *perm, double damp, pare_error *err);
void pare_obs_free(pare_obs *obs);
/* Bytes that factoring and sweeping take at most. */
size_t pare_obs_bytes(size_t rows, size_t cols);

/* How columns are settled. Rows are worked on by several threads: `begin_unit` and `settle` are
 * called for different rows at once. */
typedef struct pare_obs_rule {
    void *arg;
    size_t unit; /* columns that a row decides on together, divides `block`; 0 = none */
    /* Before the columns [begin, end) of all rows: w[rows][ld]. May be NULL. */
    pare_status (*block)(void *arg, const float *w, size_t ld, size_t begin, size_t end,
                         pare_error *err);
    /* Before columns [j, j + unit) of a row: w[ld] as it is now; `lazy`: as it was when the block
     * began. May be NULL. */
    void (*begin_unit)(void *arg, size_t row, size_t j, const float *w, const float *lazy);
    /* q[n]: the values that rows [row, row + n) get in column j, where they have w[n] by now.
     * n <= PARE_COLUMN_SWEEP_ROWS, both arrays have that many. */
    void (*settle)(void *arg, size_t row, size_t n, size_t j, const float *w, float *q);
} pare_obs_rule;

/* Settles all columns of w[rows][ld]. loss: 1/2 sum e^2, may be NULL. Errors: PARE_ERR_NOMEM, those
 * of rule->block. */
pare_status pare_obs_sweep(float *w, size_t rows, const pare_obs *obs, const pare_obs_rule *rule,
                           size_t block, pare_runtime *rt, double *loss, pare_error *err);

/* sum over rows of d H d^T, d = a - b, with the undamped Hessian of x: the squared error of the
 * layer's output. a, b [rows][cols]; b NULL: 0. Negative: out of memory. */
double pare_output_error(pare_runtime *rt, const pare_input_stats *x, const float *a,
                         const float *b, size_t rows);

/* What it multiplies by, made once for all calls with the same x: half a Hessian in panels. */
size_t pare_output_half_bytes(size_t cols);
void pare_output_half(pare_runtime *rt, float *half, const double *hessian, size_t cols);

#endif
