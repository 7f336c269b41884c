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

    /* --- of rules that go over rows twice: begin is any value; u[end - begin] --- */

    /* The step's direction: m / (sqrt(v) / root_bias2 + eps), or m; nesterov looks ahead. advance:
     * the moments take the gradient up before. sgd: m begins with 0 (first is not looked at). */
    void (*adam_direction)(float *u, const pare_update_arrays *a, const pare_adam_rule *r,
                           bool nesterov, bool advance, size_t begin, size_t end);
    void (*sgd_direction)(float *u, const pare_update_arrays *a, const pare_sgd_rule *r,
                          bool advance, size_t begin, size_t end);
    /* u = g / sqrt(max(row column, least)), column[end - begin]; 0 where that is 0 */
    void (*factored)(float *u, const pare_update_arrays *a, float row, const float *column,
                     float least, size_t begin, size_t end);
    /* Adds, over kept values, products in f64: g w, g g, w w, u w. */
    void (*dots)(double sums[4], const pare_update_arrays *a, const float *u, size_t begin,
                 size_t end);
    /* Adds u u over kept values. */
    void (*norm)(double *sum, const pare_update_arrays *a, const float *u, size_t begin,
                 size_t end);
    /* Adds g g and w w over all, and g g to column[end - begin]. */
    void (*squares)(double sums[2], double *column, const pare_update_arrays *a, size_t begin,
                    size_t end);
    /* w = keep w - step (u - along w); project: m = u - along w */
    void (*move)(const pare_update_arrays *a, const float *u, float keep, float step, float along,
                 bool project, size_t begin, size_t end);
} pare_update_kernels;

extern const pare_update_kernels pare_update_ref, pare_update_avx2;
const pare_update_kernels *pare_update_kernels_get(pare_isa isa);

#endif
