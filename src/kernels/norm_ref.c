#include "kernels/norm.h"

#include <math.h>

static void normalise(float *y, const float *x, const float *g, size_t dim, double sum, float eps) {
    double mean = dim ? sum / (double)dim + (double)eps : 0.0;
    float r = mean > 0.0 || isnan(mean) ? (float)(1.0 / sqrt(mean)) : 0.0f;
    for (size_t i = 0; i < dim; i++) y[i] = g[i] * (x[i] * r);
}

static void rmsnorm(float *y, const float *x, const float *g, size_t dim, float eps) {
    double sum = 0.0;
    for (size_t i = 0; i < dim; i++) sum += (double)x[i] * x[i];
    normalise(y, x, g, dim, sum, eps);
}

static void add_rmsnorm(float *y, float *x, const float *r, const float *g, size_t dim, float eps) {
    for (size_t i = 0; i < dim; i++) x[i] += r[i];
    rmsnorm(y, x, g, dim, eps);
}

static void layernorm(float *y, const float *x, const float *g, const float *b, size_t dim,
                      float eps) {
    double sum = 0.0, var = 0.0;
    for (size_t i = 0; i < dim; i++) sum += x[i];
    double mean = dim ? sum / (double)dim : 0.0;
    for (size_t i = 0; i < dim; i++) var += (x[i] - mean) * (x[i] - mean);
    var = dim ? var / (double)dim + (double)eps : 0.0;
    double r = var > 0.0 || isnan(var) ? 1.0 / sqrt(var) : 0.0;
    for (size_t i = 0; i < dim; i++) y[i] = (float)((x[i] - mean) * r) * g[i] + (b ? b[i] : 0.0f);
}

const pare_norm_kernels pare_norm_ref = {rmsnorm, add_rmsnorm, layernorm};
