/* The backward halves of norm.h, act_fn.h and softmax.h, on rows. "takes dy": dy is read and set to
 * zero, because the value that it belongs to was just made (autograd/tape.h); the gradients of the
 * inputs are added to, and may lie where dy lies. */
#ifndef PARE_SRC_KERNELS_GRAD_H
#define PARE_SRC_KERNELS_GRAD_H

#include <stddef.h>

typedef struct pare_grad_kernels {
    /* *mean = 0 (rms) or the mean, *r = 1 / sqrt(mean((x - mean)^2) + eps); 0 for a row of zeros */
    void (*moments)(float *mean, float *r, const float *x, size_t dim, float eps, int rms);
    /* y = g (x - mean) r (+ b), mean 0 for RMSNorm: takes dy,
     *     dx += r (g dy - [mean(g dy)] - xhat mean(g dy xhat)),  xhat = (x - mean) r;
     * the part in brackets is LayerNorm's only (centred) */
    void (*norm)(float *dx, float *dy, const float *x, const float *g, float mean, float r,
                 size_t dim, int centred);
    /* dg[n] += dy[n] * (x[n] - mean) * r; db[n] += dy[n], may be NULL */
    void (*norm_weights)(float *dg, float *db, const float *dy, const float *x, float mean, float r,
                         size_t n);

    /* y = silu(a) * b, gelu(a) * b: takes dy, da += dy b silu'(a), db += dy silu(a) */
    void (*silu_mul)(float *da, float *db, float *dy, const float *a, const float *b, size_t n);
    void (*gelu_mul)(float *da, float *db, float *dy, const float *a, const float *b, size_t n);
    /* takes dy; relu's slope at 0 is 0 */
    void (*gelu)(float *dx, float *dy, const float *x, size_t n);
    void (*relu)(float *dx, float *dy, const float *x, size_t n);
    /* y = x s: takes dy */
    void (*scale)(float *dx, float *dy, float s, size_t n);
    /* y = c tanh(x / c) is given: d = d * (1 - (y / c)^2), in place */
    void (*softcap)(float *d, const float *y, float c, size_t n);
    /* p = softmax(s): dp = scale p (dp - sum_j p_j dp_j), in place */
    void (*softmax)(float *dp, const float *p, float scale, size_t n);
    /* dx[n] += s * x[n] */
    void (*axpy)(float *y, const float *x, float s, size_t n);
} pare_grad_kernels;

extern const pare_grad_kernels pare_grad_ref, pare_grad_avx2, pare_grad_avx512;

#endif
