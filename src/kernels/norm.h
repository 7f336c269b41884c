/* Normalisation of one row. Sums of squares run in f32 lanes (fast variants) or f64 (reference). A
 * row of zeros gives zeros, also with eps 0. */
#ifndef PARE_SRC_KERNELS_NORM_H
#define PARE_SRC_KERNELS_NORM_H

#include <stddef.h>

typedef struct pare_norm_kernels {
    /* y = g * x / sqrt(mean(x^2) + eps); x, y, g [dim]; y may be x */
    void (*rmsnorm)(float *y, const float *x, const float *g, size_t dim, float eps);
    /* x += r, then y = g * x / sqrt(mean(x^2) + eps); y may be r */
    void (*add_rmsnorm)(float *y, float *x, const float *r, const float *g, size_t dim, float eps);
    /* y = g * (x - mean) / sqrt(var + eps) + b, biased variance; b may be NULL; y may be x */
    void (*layernorm)(float *y, const float *x, const float *g, const float *b, size_t dim,
                      float eps);
} pare_norm_kernels;

extern const pare_norm_kernels pare_norm_ref, pare_norm_avx2, pare_norm_avx512;

#endif
