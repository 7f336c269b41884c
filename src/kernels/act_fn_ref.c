#include "kernels/act_fn.h"

#include <math.h>

static float silu(float x) { return (float)(x / (1.0 + exp(-(double)x))); }

/* 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), which does not cancel for negative u. */
static float gelu(float x) {
    const double sqrt_2_over_pi = 0.79788456080286535588;
    double u = sqrt_2_over_pi * (x + 0.044715 * (double)x * x * x);
    return (float)(x / (1.0 + exp(-2.0 * u)));
}

static void silu_mul(float *y, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = silu(a[i]) * b[i];
}

static void gelu_mul(float *y, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = gelu(a[i]) * b[i];
}

static void gelu_row(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = gelu(x[i]);
}

static void relu(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = x[i] < 0.0f ? 0.0f : x[i]; /* NaN passes */
}

static void add(float *y, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void scale(float *y, const float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = x[i] * s;
}

static void softcap(float *y, const float *x, float c, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)(c * tanh((double)x[i] / c));
}

static void exp_row(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)exp((double)x[i]);
}

static void tanh_row(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)tanh((double)x[i]);
}

const pare_act_fn_kernels pare_act_fn_ref = {silu_mul, gelu_mul, gelu_row, relu,    add,
                                             scale,    softcap,  exp_row,  tanh_row};
