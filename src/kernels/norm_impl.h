/* Normalisation on vectors; include a vec_*.h first. Sums run in four vectors. */
#include "kernels/norm.h"

#include <math.h>

/* 1 / sqrt(v), 0 for 0, NaN for NaN. */
static inline float inverse_root(float v) { return v == 0.0f ? 0.0f : 1.0f / sqrtf(v); }

/* sum (x - mean)^2 */
static float sum_squares(const float *x, size_t dim, float mean) {
    vf s0 = vf_zero(), s1 = s0, s2 = s0, s3 = s0, m = vf_set(mean);
    size_t i = 0;
    for (; i + 4 * VF <= dim; i += 4 * VF) {
        vf a = vf_sub(vf_load(x + i), m), b = vf_sub(vf_load(x + i + VF), m);
        vf c = vf_sub(vf_load(x + i + 2 * VF), m), d = vf_sub(vf_load(x + i + 3 * VF), m);
        s0 = vf_fma(a, a, s0);
        s1 = vf_fma(b, b, s1);
        s2 = vf_fma(c, c, s2);
        s3 = vf_fma(d, d, s3);
    }
    for (; i + VF <= dim; i += VF) {
        vf a = vf_sub(vf_load(x + i), m);
        s0 = vf_fma(a, a, s0);
    }
    if (i < dim) {
        vf a =
            vf_select(vm_range(0, (int)(dim - i)), vf_sub(vf_load_n(x + i, dim - i), m), vf_zero());
        s1 = vf_fma(a, a, s1);
    }
    return vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3)));
}

static float sum_values(const float *x, size_t dim) {
    vf s0 = vf_zero(), s1 = s0;
    size_t i = 0;
    for (; i + 2 * VF <= dim; i += 2 * VF) {
        s0 = vf_add(s0, vf_load(x + i));
        s1 = vf_add(s1, vf_load(x + i + VF));
    }
    for (; i + VF <= dim; i += VF) s0 = vf_add(s0, vf_load(x + i));
    if (i < dim) s1 = vf_add(s1, vf_load_n(x + i, dim - i));
    return vf_sum(vf_add(s0, s1));
}

static void rmsnorm(float *y, const float *x, const float *g, size_t dim, float eps) {
    float r = dim ? inverse_root(sum_squares(x, dim, 0.0f) / (float)dim + eps) : 0.0f;
    vf rv = vf_set(r);
    size_t i = 0;
    for (; i + VF <= dim; i += VF)
        vf_store(y + i, vf_mul(vf_load(g + i), vf_mul(vf_load(x + i), rv)));
    if (i < dim) {
        size_t n = dim - i;
        vf_store_n(y + i, vf_mul(vf_load_n(g + i, n), vf_mul(vf_load_n(x + i, n), rv)), n);
    }
}

static void add_rmsnorm(float *y, float *x, const float *r, const float *g, size_t dim, float eps) {
    size_t i = 0;
    for (; i + VF <= dim; i += VF) vf_store(x + i, vf_add(vf_load(x + i), vf_load(r + i)));
    if (i < dim)
        vf_store_n(x + i, vf_add(vf_load_n(x + i, dim - i), vf_load_n(r + i, dim - i)), dim - i);
    rmsnorm(y, x, g, dim, eps);
}

static void layernorm(float *y, const float *x, const float *g, const float *b, size_t dim,
                      float eps) {
    float mean = dim ? sum_values(x, dim) / (float)dim : 0.0f;
    float r = dim ? inverse_root(sum_squares(x, dim, mean) / (float)dim + eps) : 0.0f;
    vf rv = vf_set(r), m = vf_set(mean);
    size_t i = 0;
    for (; i + VF <= dim; i += VF) {
        vf t = vf_mul(vf_sub(vf_load(x + i), m), rv);
        vf_store(y + i, vf_fma(t, vf_load(g + i), b ? vf_load(b + i) : vf_zero()));
    }
    if (i < dim) {
        size_t n = dim - i;
        vf t = vf_mul(vf_sub(vf_load_n(x + i, n), m), rv);
        vf_store_n(y + i, vf_fma(t, vf_load_n(g + i, n), b ? vf_load_n(b + i, n) : vf_zero()), n);
    }
}
