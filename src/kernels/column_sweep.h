/* Sweeps over the columns of a matrix that pass the error of each on to those behind it
 * (methods/obs.h), sixteen rows at a time, one a lane; and the error of what comes out. Every level
 * has the same bits. */
#ifndef PARE_SRC_KERNELS_COLUMN_SWEEP_H
#define PARE_SRC_KERNELS_COLUMN_SWEEP_H

#include "pare/base.h"

#include <stddef.h>

#define PARE_COLUMN_SWEEP_ROWS 16

typedef struct pare_column_sweep_kernels {
    /* q = scale * (code - zero), code = w / scale rounded half to even, + zero, clamped to 0 ..
     * max; 0 where scale is 0. All of sixteen rows. */
    void (*nearest)(float *q, const float *w, const float *scale, const float *zero, float max);
    /* w[n][16] -= u[n] * e[16] */
    void (*pass_on)(float *w, const float *e, const float *u, size_t n);
    /* sums[m] += sum over k < 16 of d[m][ldd] * y[m][16], of exact products: those of k and k + 8
     * first, then pairwise. */
    void (*dots)(double *sums, const float *d, size_t ldd, const float *y, size_t m);
} pare_column_sweep_kernels;

/* The table for a level; static storage. */
const pare_column_sweep_kernels *pare_column_sweep_kernels_get(pare_isa isa);

extern const pare_column_sweep_kernels pare_column_sweep_ref, pare_column_sweep_avx2,
    pare_column_sweep_avx512;

#endif
