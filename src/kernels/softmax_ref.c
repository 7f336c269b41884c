#include "kernels/softmax.h"

#include <math.h>

/* The largest value; NaN where the row holds one; -Inf for an empty row. */
static float row_max(const float *x, size_t n) {
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i])) return x[i];
        if (x[i] > max) max = x[i];
    }
    return max;
}

static double logsumexp(const float *x, size_t n) {
    float max = row_max(x, n);
    if (!isfinite(max)) return max;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return max + log(sum);
}

static size_t argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i])) return n;
        if (x[i] > x[best]) best = i;
    }
    return n ? best : 0;
}

static void softmax(float *y, const float *x, float scale, size_t n) {
    float max = row_max(x, n);
    if (max == -INFINITY) {
        for (size_t i = 0; i < n; i++) y[i] = 0.0f;
        return;
    }
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += exp((double)scale * ((double)x[i] - max));
    for (size_t i = 0; i < n; i++) y[i] = (float)(exp((double)scale * ((double)x[i] - max)) / sum);
}

static void subtract(float *y, const float *x, double shift, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)(x[i] - shift);
}

static double divergence(const float *base, double base_lse, const float *model, double lse,
                         size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        double p = exp(base[i] - base_lse);
        if (p != 0) sum += p * ((base[i] - base_lse) - (model[i] - lse));
    }
    return sum;
}

const pare_softmax_kernels pare_softmax_ref = {logsumexp, argmax, softmax, subtract, divergence};
