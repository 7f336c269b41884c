#include "kernels/grad.h"

#include <math.h>

static void moments(float *mean, float *r, const float *x, size_t dim, float eps, int rms) {
    double m = 0.0, var = 0.0;
    for (size_t i = 0; i < dim && !rms; i++) m += (double)x[i];
    if (dim) m /= (double)dim;
    for (size_t i = 0; i < dim; i++) var += ((double)x[i] - m) * ((double)x[i] - m);
    var = dim ? var / (double)dim + (double)eps : 0.0;
    *mean = (float)m;
    *r = var > 0.0 || isnan(var) ? (float)(1.0 / sqrt(var)) : 0.0f;
}

static void norm(float *dx, float *dy, const float *x, const float *g, float mean, float r,
                 size_t dim, int centred) {
    double sum = 0.0, dot = 0.0;
    for (size_t i = 0; i < dim; i++) {
        double t = (double)g[i] * (double)dy[i];
        sum += t;
        dot += t * (double)(x[i] - mean) * (double)r;
    }
    sum = centred ? sum / (double)dim : 0.0;
    dot /= (double)dim;
    for (size_t i = 0; i < dim; i++) {
        double t = (double)g[i] * (double)dy[i], hat = (double)(x[i] - mean) * (double)r;
        dy[i] = 0.0f;
        dx[i] += (float)((double)r * (t - sum - hat * dot));
    }
}

static void norm_weights(float *dg, float *db, const float *dy, const float *x, float mean, float r,
                         size_t n) {
    for (size_t i = 0; i < n; i++) {
        dg[i] += dy[i] * ((x[i] - mean) * r);
        if (db) db[i] += dy[i];
    }
}

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static void silu_mul(float *da, float *db, float *dy, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double d = (double)dy[i], x = (double)a[i], s = sigmoid(x);
        dy[i] = 0.0f;
        da[i] += (float)(d * (double)b[i] * s * (1.0 + x * (1.0 - s)));
        db[i] += (float)(d * x * s);
    }
}

/* gelu(x) = x s, s = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3); its slope */
static double gelu_slope(double x, double *s) {
    const double root = 0.79788456080286535588;
    *s = sigmoid(2.0 * root * (x + 0.044715 * x * x * x));
    return *s + x * *s * (1.0 - *s) * 2.0 * root * (1.0 + 3.0 * 0.044715 * x * x);
}

static void gelu_mul(float *da, float *db, float *dy, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double d = (double)dy[i], s, slope = gelu_slope((double)a[i], &s);
        dy[i] = 0.0f;
        da[i] += (float)(d * (double)b[i] * slope);
        db[i] += (float)(d * (double)a[i] * s);
    }
}

static void gelu(float *dx, float *dy, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double d = (double)dy[i], s;
        dy[i] = 0.0f;
        dx[i] += (float)(d * gelu_slope((double)x[i], &s));
    }
}

static void relu(float *dx, float *dy, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float d = dy[i];
        dy[i] = 0.0f;
        dx[i] += x[i] > 0.0f ? d : 0.0f;
    }
}

static void scale(float *dx, float *dy, float s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float d = dy[i];
        dy[i] = 0.0f;
        dx[i] += d * s;
    }
}

static void softcap(float *d, const float *y, float c, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double t = (double)y[i] / (double)c;
        d[i] = (float)((double)d[i] * (1.0 - t * t));
    }
}

static void softmax(float *dp, const float *p, float s, size_t n) {
    double dot = 0.0;
    for (size_t i = 0; i < n; i++) dot += (double)p[i] * (double)dp[i];
    for (size_t i = 0; i < n; i++)
        dp[i] = (float)((double)s * (double)p[i] * ((double)dp[i] - dot));
}

static void axpy(float *y, const float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] += s * x[i];
}

const pare_grad_kernels pare_grad_ref = {moments, norm,  norm_weights, silu_mul, gelu_mul, gelu,
                                         relu,    scale, softcap,      softmax,  axpy};
