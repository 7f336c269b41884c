/* Element-wise functions on n values. Outputs may be one of the inputs. NaN stays NaN. */
#ifndef PARE_SRC_KERNELS_ACT_FN_H
#define PARE_SRC_KERNELS_ACT_FN_H

#include <stddef.h>

typedef struct pare_act_fn_kernels {
    /* y = a * b with a first through silu(a) = a / (1 + exp(-a)), or through the tanh form of GELU:
     * 0.5 a (1 + tanh(sqrt(2/pi) (a + 0.044715 a^3))) */
    void (*silu_mul)(float *y, const float *a, const float *b, size_t n);
    void (*gelu_mul)(float *y, const float *a, const float *b, size_t n);
    void (*gelu)(float *y, const float *x, size_t n);
    void (*relu)(float *y, const float *x, size_t n);
    void (*add)(float *y, const float *a, const float *b, size_t n);
    void (*scale)(float *y, const float *x, float s, size_t n);
    /* y = c * tanh(x / c), c > 0 */
    void (*softcap)(float *y, const float *x, float c, size_t n);
    /* fast variants: exp within 2 ulp, results below 2^-126 become 0; tanh within 2 ulp */
    void (*exp)(float *y, const float *x, size_t n);
    void (*tanh)(float *y, const float *x, size_t n);
} pare_act_fn_kernels;

extern const pare_act_fn_kernels pare_act_fn_ref, pare_act_fn_avx2, pare_act_fn_avx512;

#endif
