/* Reductions over a row of logits; include a vec_*.h first. */
#include "kernels/softmax.h"
#include "kernels/vmath.h"

#include <math.h>
#include <stdbool.h>

enum { BLOCK = 1024 }; /* values whose exponentials are summed in f32 lanes */

/* As the reference's: NaN where the row holds one, -Inf for an empty row. */
static float row_max(const float *x, size_t n) {
    vf top = vf_set(-INFINITY), top2 = top;
    vmask bad = vf_unordered(top, top); /* all false */
    size_t i = 0;
    for (; i + 2 * VF <= n; i += 2 * VF) {
        vf a = vf_load(x + i), b = vf_load(x + i + VF);
        bad = vm_or(bad, vf_unordered(a, b));
        top = vf_max(top, a);
        top2 = vf_max(top2, b);
    }
    float max = vf_top(vf_max(top, top2));
    for (; i < n; i++) {
        if (isnan(x[i])) return NAN;
        if (x[i] > max) max = x[i];
    }
    return vm_bits(bad) ? NAN : max;
}

/* sum exp(scale * (x - max)), scale >= 0, and the terms to y unless it is NULL. */
static double sum_exp(float *y, const float *x, float scale, float max, size_t n) {
    const vf s = vf_set(scale), m = vf_set(max);
    double sum = 0.0;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t end = begin + BLOCK < n ? begin + BLOCK : n, i = begin;
        vf acc = vf_zero();
        for (; i + VF <= end; i += VF) {
            vf e = vf_exp_negative(vf_mul(s, vf_sub(vf_load(x + i), m)));
            if (y) vf_store(y + i, e);
            acc = vf_add(acc, e);
        }
        if (i < end) {
            size_t rest = end - i;
            vf e = vf_exp_negative(vf_mul(s, vf_sub(vf_load_n(x + i, rest), m)));
            if (y) vf_store_n(y + i, e, rest);
            acc = vf_add(acc, vf_select(vm_range(0, (int)rest), e, vf_zero()));
        }
        sum += (double)vf_sum(acc);
    }
    return sum;
}

static double logsumexp(const float *x, size_t n) {
    float max = row_max(x, n);
    if (!isfinite(max)) return max;
    return max + log(sum_exp(NULL, x, 1.0f, max, n));
}

static size_t argmax(const float *x, size_t n) {
    float max = row_max(x, n);
    if (n == 0 || isnan(max)) return n;
    const vf m = vf_set(max);
    size_t i = 0;
    for (; i + VF <= n; i += VF) {
        uint32_t bits = vm_bits(vf_eq(vf_load(x + i), m));
        if (bits) return i + (size_t)__builtin_ctz(bits);
    }
    while (x[i] != max) i++;
    return i;
}

static void softmax(float *y, const float *x, float scale, size_t n) {
    float max = row_max(x, n);
    if (max == -INFINITY) {
        for (size_t i = 0; i < n; i++) y[i] = 0.0f;
        return;
    }
    const vf r = vf_set((float)(1.0 / sum_exp(y, x, scale, max, n)));
    size_t i = 0;
    for (; i + VF <= n; i += VF) vf_store(y + i, vf_mul(vf_load(y + i), r));
    if (i < n) vf_store_n(y + i, vf_mul(vf_load_n(y + i, n - i), r), n - i);
}

/* The shift in two floats: (x - hi) - lo is within 1 ulp of the f64 difference. */
static void subtract(float *y, const float *x, double shift, size_t n) {
    float hi = (float)shift, lo = isfinite(shift) ? (float)(shift - hi) : 0.0f;
    const vf h = vf_set(hi), l = vf_set(lo);
    size_t i = 0;
    for (; i + VF <= n; i += VF) vf_store(y + i, vf_sub(vf_sub(vf_load(x + i), h), l));
    if (i < n) vf_store_n(y + i, vf_sub(vf_sub(vf_load_n(x + i, n - i), h), l), n - i);
}

/* p * d of VF values, 0 where p = 0. */
static vf divergence_terms(vf base, vf model, vf high, vf low, vf shift) {
    vf p = vf_exp_negative(vf_sub(vf_sub(base, high), low));
    vf term = vf_mul(p, vf_sub(vf_sub(base, model), shift));
    return vf_select(vf_eq(p, vf_zero()), vf_zero(), term);
}

static double divergence(const float *base, double base_lse, const float *model, double lse,
                         size_t n) {
    float hi = (float)base_lse, lo = isfinite(base_lse) ? (float)(base_lse - hi) : 0.0f;
    const vf h = vf_set(hi), l = vf_set(lo), shift = vf_set((float)(base_lse - lse));
    double sum = 0.0;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t end = begin + BLOCK < n ? begin + BLOCK : n, i = begin;
        vf acc = vf_zero();
        for (; i + VF <= end; i += VF)
            acc = vf_add(acc, divergence_terms(vf_load(base + i), vf_load(model + i), h, l, shift));
        if (i < end) {
            size_t rest = end - i;
            vf term = divergence_terms(vf_load_n(base + i, rest), vf_load_n(model + i, rest), h, l,
                                       shift);
            acc = vf_add(acc, vf_select(vm_range(0, (int)rest), term, vf_zero()));
        }
        sum += (double)vf_sum(acc);
    }
    return sum;
}
