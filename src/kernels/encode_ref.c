/* The searches of the block encoders in plain C, one group after the other. */
#include "kernels/encode.h"

#include "kernels/blocks.h"

#include <math.h>

/* v rounded half to even, clamped to the whole numbers low..high (NaN to low), as a float. */
static inline float round_clamp(float v, float low, float high) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: the addition drops the fraction */
    v = v > low ? v : low;
    v = v < high ? v : high;
    return (v + magic) - magic;
}

/* ---- asymmetric ---- */

typedef struct fit_state {
    float scale, min, error; /* the best so far */
    float iscale, from;      /* what its codes came from: q = round(iscale * (x - from)) */
} fit_state;

static float fit_error(const float *x, const float *w, int len, const fit_state *codes, float scale,
                       float min, const pare_fit *fit) {
    float error = 0.0f;
    for (int i = 0; i < len; i++) {
        float q = round_clamp(codes->iscale * (x[i] - codes->from), 0.0f, (float)fit->nmax);
        float diff = scale * q + min - x[i];
        diff = fit->absolute ? fabsf(diff) : diff * diff;
        error += w[i] * diff;
    }
    return error;
}

/* Tries the codes of one candidate; `min` of the best so far takes part, so the order matters. */
static void fit_try(fit_state *best, const float *x, const float *w, int len, float sum_w,
                    float sum_x, float iscale, const pare_fit *fit) {
    fit_state now = {.iscale = iscale, .from = best->min};
    float sum_l = 0.0f, sum_l2 = 0.0f, sum_xl = 0.0f;
    for (int i = 0; i < len; i++) {
        float q = round_clamp(iscale * (x[i] - now.from), 0.0f, (float)fit->nmax);
        sum_l += w[i] * q;
        sum_l2 += w[i] * q * q;
        sum_xl += w[i] * q * x[i];
    }
    float det = sum_w * sum_l2 - sum_l * sum_l;
    if (!(det > 0.0f)) return;
    now.scale = (sum_w * sum_xl - sum_x * sum_l) / det;
    now.min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
    if (now.min > 0.0f) {
        now.min = 0.0f;
        now.scale = sum_xl / sum_l2;
    }
    now.error = fit_error(x, w, len, &now, now.scale, now.min, fit);
    if (now.error < best->error) *best = now;
}

static void fit_group(uint8_t *q, float *scale, float *min, const float *x, const float *w, int len,
                      const pare_fit *fit) {
    float low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < len; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    low = low > 0.0f ? 0.0f : low;
    *min = -low;
    if (high <= low) {
        memset(q, 0, (size_t)len);
        *scale = 0.0f;
        return;
    }
    float range = high - low, nmax = (float)fit->nmax;
    fit_state best = {.iscale = nmax / range, .from = low, .min = low};
    best.scale = best.iscale > 0.0f ? 1.0f / best.iscale : INFINITY; /* 0: the range overflowed */
    best.error = fit_error(x, w, len, &best, best.scale, low, fit);
    for (int s = 0; s <= fit->nstep; s++) {
        /* the range stays max - min of the best so far */
        float iscale = (fit->rmin + fit->rdelta * (float)s + nmax) / (high - best.min);
        fit_try(&best, x, w, len, sum_w, sum_x, iscale, fit);
    }
    for (int i = 0; i < len; i++)
        q[i] = (uint8_t)round_clamp(best.iscale * (x[i] - best.from), 0.0f, nmax);
    *scale = best.scale;
    *min = -best.min;
}

static void fit_ref(uint8_t *q, float *scale, float *min, const float *x, const float *w,
                    size_t groups, int len, const pare_fit *fit) {
    for (size_t g = 0; g < groups; g++) {
        size_t at = g * (size_t)len;
        fit_group(q + at, scale + g, min + g, x + at, w + at, len, fit);
    }
}

/* ---- symmetric ---- */

/* The value of largest magnitude, the first one on ties, with its sign; 0 below PARE_GROUP_EPS. */
static float signed_max(const float *x, int len) {
    float max = 0.0f, amax = 0.0f;
    for (int i = 0; i < len; i++) {
        float a = fabsf(x[i]);
        if (a > amax) {
            amax = a;
            max = x[i];
        }
    }
    return amax < PARE_GROUP_EPS ? 0.0f : max;
}

static void symmetric_group(uint8_t *q, float *scale, const float *x, const float *w, int len,
                            int nmax) {
    float max = signed_max(x, len), low = (float)-nmax, high = (float)(nmax - 1);
    memset(q, 0, (size_t)len);
    *scale = 0.0f;
    if (max == 0.0f) return;
    float best = 0.0f, best_iscale = 0.0f;
    for (int k = 0; k < 19; k++) {
        int s = k == 0 ? 0 : k < 10 ? k - 10 : k - 9; /* 0, -9..-1, 1..9 */
        float iscale = -((float)nmax + 0.1f * (float)s) / max, sum_xl = 0.0f, sum_l2 = 0.0f;
        for (int i = 0; i < len; i++) {
            float l = round_clamp(iscale * x[i], low, high);
            sum_xl += w[i] * x[i] * l;
            sum_l2 += w[i] * l * l;
        }
        if (k == 0 || (sum_l2 > 0.0f && sum_xl * sum_xl > best * sum_l2)) {
            *scale = sum_l2 > 0.0f ? sum_xl / sum_l2 : 0.0f;
            best = *scale * sum_xl;
            best_iscale = iscale;
        }
    }
    for (int i = 0; i < len; i++)
        q[i] = (uint8_t)(round_clamp(best_iscale * x[i], low, high) - low);
}

static void symmetric_ref(uint8_t *q, float *scale, const float *x, const float *w, size_t groups,
                          int len, int nmax) {
    for (size_t g = 0; g < groups; g++) {
        size_t at = g * (size_t)len;
        symmetric_group(q + at, scale + g, x + at, w + at, len, nmax);
    }
}

static void sweep_group(uint8_t *q, float *scale, const float *x, int len, int nmax) {
    float max = signed_max(x, len), low = (float)-nmax, high = (float)(nmax - 1);
    float codes[32], sum_xl = 0.0f, sum_l2 = 0.0f;
    memset(q, 0, (size_t)len);
    *scale = 0.0f;
    if (max == 0.0f) return;
    float iscale = low / max;
    for (int i = 0; i < len; i++) {
        float w = x[i] * x[i], l = codes[i] = round_clamp(iscale * x[i], low, high);
        sum_xl += w * x[i] * l;
        sum_l2 += w * l * l;
    }
    for (int sweep = 0, changed = 1; sweep < 5 && changed; sweep++) {
        changed = 0;
        for (int i = 0; i < len; i++) {
            float w = x[i] * x[i], l = codes[i];
            float xl = sum_xl - w * x[i] * l, l2 = sum_l2 - w * l * l; /* without value i */
            if (!(xl > 0.0f)) continue;
            float l_new = round_clamp(x[i] * l2 / xl, low, high);
            xl += w * x[i] * l_new;
            l2 += w * l_new * l_new;
            if (l_new == l || !(l2 > 0.0f) || !(xl * xl * sum_l2 > sum_xl * sum_xl * l2)) continue;
            codes[i] = l_new;
            sum_xl = xl;
            sum_l2 = l2;
            changed = 1;
        }
    }
    for (int i = 0; i < len; i++) q[i] = (uint8_t)(codes[i] - low);
    *scale = sum_l2 > 0.0f ? sum_xl / sum_l2 : 0.0f;
}

static void symmetric_sweep_ref(uint8_t *q, float *scale, const float *x, size_t groups, int len,
                                int nmax) {
    for (size_t g = 0; g < groups; g++)
        sweep_group(q + g * (size_t)len, scale + g, x + g * (size_t)len, len, nmax);
}

/* ---- the levels of IQ4 ---- */

/* Index of the nearest level, halfway up: the number of midpoints <= x. */
static int iq4_index(float x) {
    int low = 0, high = 15; /* the answer */
    while (low < high) {
        int k = (low + high + 1) / 2;
        float middle = 0.5f * (float)(pare_iq4_values[k - 1] + pare_iq4_values[k]);
        if (x >= middle)
            low = k;
        else
            high = k - 1;
    }
    return low;
}

static void iq4_scale_ref(float *scale, const float *x, const float *w, size_t groups, int len) {
    const float level0 = pare_iq4_values[0];
    for (size_t g = 0; g < groups; g++, x += len, w += len) {
        float max = signed_max(x, len), best = 0.0f;
        scale[g] = 0.0f;
        if (max == 0.0f) continue;
        for (int k = -8; k <= 7; k++) { /* -8: the start, where max becomes -level 0 */
            float inverse = k < -7 ? 1.0f / (-max / level0) : ((float)k + level0) / max;
            float sum_xq = 0.0f, sum_q2 = 0.0f;
            for (int i = 0; i < len; i++) {
                float q = pare_iq4_values[iq4_index(inverse * x[i])];
                sum_xq += w[i] * q * x[i];
                sum_q2 += w[i] * q * q;
            }
            if (k < -7 || (sum_q2 > 0.0f && sum_xq * sum_xq > best * sum_q2)) {
                scale[g] = sum_q2 > 0.0f ? sum_xq / sum_q2 : 0.0f;
                best = scale[g] * sum_xq;
            }
        }
    }
}

static void iq4_codes_ref(uint8_t *q, const float *x, size_t n, float inv_scale) {
    for (size_t i = 0; i < n; i++) q[i] = (uint8_t)iq4_index(inv_scale * x[i]);
}

/* ---- single passes ---- */

static void round_codes_ref(uint8_t *q, const float *x, size_t n, float scale, float min, int low,
                            int high) {
    for (size_t i = 0; i < n; i++) {
        float code = round_clamp((x[i] + min) / scale, (float)low, (float)high);
        q[i] = (uint8_t)((int)code - low);
    }
}

static void int8_codes_ref(int8_t *q, const float *x, size_t n, float inv_scale) {
    for (size_t i = 0; i < n; i++) {
        float v = x[i] * inv_scale, a = fabsf(v);
        a = a < 127.0f ? a : 127.0f;
        int code = (int)a; /* a + 0.5 would round 0.5 - 2^-25 up */
        code += a - (float)code >= 0.5f;
        q[i] = (int8_t)(v < 0.0f ? -code : code);
    }
}

static float abs_max_ref(const float *x, size_t n) {
    float max = 0.0f;
    for (size_t i = 0; i < n; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    return max;
}

static void weigh_ref(float *w, const float *x, const float *importance, size_t n, float sigma2) {
    for (size_t i = 0; i < n; i++) w[i] = importance[i] * sqrtf(sigma2 + x[i] * x[i]);
}

static void weigh_plain_ref(float *w, const float *x, size_t groups, int len) {
    for (size_t g = 0; g < groups; g++, x += len, w += len) {
        float sum = 0.0f;
        for (int i = 0; i < len; i++) sum += x[i] * x[i];
        float mean = sqrtf(sum / (float)len);
        for (int i = 0; i < len; i++) w[i] = mean + fabsf(x[i]);
    }
}

static void expand_ref(float *y, const int8_t *q, const float *scale, const float *offset, size_t n,
                       size_t group) {
    for (size_t g = 0; g < n / group; g++, y += group, q += group) {
        if (offset)
            for (size_t i = 0; i < group; i++) y[i] = scale[g] * (float)q[i] + offset[g];
        else
            for (size_t i = 0; i < group; i++) y[i] = scale[g] * (float)q[i];
    }
}

static size_t first_nonfinite_ref(const float *x, size_t n) {
    size_t i = 0;
    while (i < n && isfinite(x[i])) i++;
    return i;
}

static void grid_errors_ref(float *errors, const float *x, const float *h, size_t n,
                            const float *scale, const float *zero, size_t n_grids, float max) {
    for (size_t k = 0; k < n_grids; k++) {
        float inverse = fabsf(scale[k]) >= 0x1p-126f ? 1.0f / scale[k] : 0.0f, sum = 0.0f;
        for (size_t i = 0; i < n; i++) {
            float code = nearbyintf(inverse * x[i]) + zero[k];
            code = code > 0.0f ? code : 0.0f;
            code = code < max ? code : max;
            float e = scale[k] * (code - zero[k]) - x[i];
            sum += h ? h[i] * e * e : e * e;
        }
        errors[k] = sum;
    }
}

static void f32_to_f16_ref(uint16_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = pare_f32_to_f16(x[i]);
}

static void f16_to_f32_ref(float *y, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = pare_f16_to_f32(x[i]);
}

void pare_encode_kernels_ref(pare_encode_kernels *k) {
    *k = (pare_encode_kernels){
        .fit = fit_ref,
        .symmetric = symmetric_ref,
        .symmetric_sweep = symmetric_sweep_ref,
        .iq4_scale = iq4_scale_ref,
        .iq4_codes = iq4_codes_ref,
        .round_codes = round_codes_ref,
        .int8_codes = int8_codes_ref,
        .abs_max = abs_max_ref,
        .weigh = weigh_ref,
        .weigh_plain = weigh_plain_ref,
        .expand = expand_ref,
        .grid_errors = grid_errors_ref,
        .first_nonfinite = first_nonfinite_ref,
        .f32_to_f16 = f32_to_f16_ref,
        .f16_to_f32 = f16_to_f32_ref,
    };
}
