/* Steps of optimizers on runs of values, in one pass over weights, gradient, moments and mask. The
 * same bits on every level: products and sums are rounded one by one. */
#ifndef PARE_SRC_KERNELS_UPDATE_H
#define PARE_SRC_KERNELS_UPDATE_H

#include "pare/base.h"

/* Arrays of a tensor, value i of one belonging to value i of the others. */
typedef struct pare_update_arrays {
    float *w;
    uint16_t *bf16; /* a copy of w; or NULL */
    const float *g;
    float *m, *v;         /* moments; m may be NULL for sgd */
    const uint64_t *mask; /* bits: w becomes +0 where 0; or NULL */
    bool mask_gradient;   /* g counts as 0 there */
    float g_scale;        /* g is multiplied by it */
} pare_update_arrays;

/* g += l2 w;  m = momentum m + undamped g, or g where first;  w -= lr (nesterov ? g + momentum m :
 * m). m NULL: w -= lr g. */
typedef struct pare_sgd_rule {
    float lr, l2, momentum, undamped;
    bool nesterov, first;
} pare_sgd_rule;

/* g += l2 w;  m = beta1 m + rest1 g;  v = beta2 v + rest2 g^2;
 * w = keep w - step m / (sqrt(v) / root_bias2 + eps) */
typedef struct pare_adam_rule {
    float beta1, rest1, beta2, rest2, root_bias2, eps, step, l2, keep;
} pare_adam_rule;

/* On values [begin, end); begin is a multiple of 64. */
typedef struct pare_update_kernels {
    void (*sgd)(const pare_update_arrays *a, const pare_sgd_rule *r, size_t begin, size_t end);
    void (*adam)(const pare_update_arrays *a, const pare_adam_rule *r, size_t begin, size_t end);
    /* out = w where the mask keeps it, else +0; out may be w or NULL; the bf16 copy is out's */
    void (*mask)(const pare_update_arrays *a, float *out, size_t begin, size_t end);
} pare_update_kernels;

extern const pare_update_kernels pare_update_ref, pare_update_avx2;
const pare_update_kernels *pare_update_kernels_get(pare_isa isa);

#endif
