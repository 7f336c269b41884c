/* Reductions over one row of logits x[n], f32. Sums of exponentials run in f64 over blocks. */
#ifndef PARE_SRC_KERNELS_SOFTMAX_H
#define PARE_SRC_KERNELS_SOFTMAX_H

#include <stddef.h>

typedef struct pare_softmax_kernels {
    /* log(sum_i exp(x[i])); -Inf for n = 0 and for a row of -Inf, NaN where the row holds one */
    double (*logsumexp)(const float *x, size_t n);
    /* Index of the largest value, the lowest one of equals; n when n = 0 or the row holds a NaN */
    size_t (*argmax)(const float *x, size_t n);
    /* y[i] = exp(scale * (x[i] - max x)) / sum, scale >= 0 (1 / temperature); y may be x. A row of
     * -Inf gives zeros. */
    void (*softmax)(float *y, const float *x, float scale, size_t n);
    /* y[i] = x[i] - shift, shift in f64: log-softmax with shift = logsumexp(x); y may be x */
    void (*subtract)(float *y, const float *x, double shift, size_t n);
    /* KL(base || model) = sum_i p[i] * ((base[i] - base_lse) - (model[i] - lse)), p[i] =
     * exp(base[i]
     * - base_lse); lse: the rows' logsumexp. Terms with p[i] = 0 are none. Inf where the model
     * rules out what the base does not, NaN where a row holds one. */
    double (*divergence)(const float *base, double base_lse, const float *model, double lse,
                         size_t n);
} pare_softmax_kernels;

extern const pare_softmax_kernels pare_softmax_ref, pare_softmax_avx2, pare_softmax_avx512;

#endif
