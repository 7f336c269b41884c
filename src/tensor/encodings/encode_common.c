/* What the encodings share. */
#include "tensor/encodings/encode_common.h"

void pare_decode_by_codes(float *y, const pare_view *w, size_t row, size_t col, size_t n,
                          pare_codes_fn codes, size_t group, bool has_offset) {
    enum { PIECE = 256 };
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_isa_best());
    int8_t q[PIECE];
    float scale[PIECE / 16], offset[PIECE / 16];
    for (size_t at = 0; at < n; at += PIECE) {
        size_t piece = n - at < PIECE ? n - at : PIECE;
        codes(q, scale, offset, w, row, col + at, piece);
        k->expand(y + at, q, scale, has_offset ? offset : NULL, piece, group);
    }
}

void pare_sparse_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n,
                        pare_codes_fn codes) {
    enum { PIECE = 256 };
    int8_t q[PIECE];
    float scale[PIECE / 32];
    for (size_t at = 0; at < n; at += PIECE) {
        size_t piece = n - at < PIECE ? n - at : PIECE;
        codes(q, scale, NULL, w, row, col + at, piece);
        for (size_t i = 0; i < piece; i++) y[at + i] = scale[i / 32] * (float)q[i];
    }
}

/* Codes for 1/scale = iscale; returns the weighted squared error. */
static float scale_error(const float *x, const float *w, size_t n, int nmax, float iscale) {
    float scale = 1.0f / iscale, error = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float diff = x[i] - scale * (float)pare_round_clamp(iscale * x[i], 0, nmax);
        error += w[i] * diff * diff;
    }
    return error;
}

/* One sweep over the codes, each moves where that lowers the error. Returns whether any did. */
static bool sweep(uint8_t *q, const float *x, const float *w, size_t n, int nmax, float *sum_xl,
                  float *sum_l2) {
    bool changed = false;
    for (size_t i = 0; i < n; i++) {
        float l = q[i], xl = *sum_xl - w[i] * x[i] * l, l2 = *sum_l2 - w[i] * l * l;
        if (!(xl > 0.0f && l2 > 0.0f)) continue;
        int code = pare_round_clamp(x[i] * l2 / xl, 0, nmax);
        if (code == q[i]) continue;
        xl += w[i] * x[i] * (float)code;
        l2 += w[i] * (float)code * (float)code;
        if (!(xl * xl * *sum_l2 > *sum_xl * *sum_xl * l2)) continue;
        q[i] = (uint8_t)code;
        *sum_xl = xl;
        *sum_l2 = l2;
        changed = true;
    }
    return changed;
}

float pare_fit_scales(uint8_t *q, const float *x, const float *w, size_t n, int nmax) {
    float max = 0.0f;
    for (size_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    memset(q, 0, n);
    if (max < PARE_GROUP_EPS || max > 3.4028234e38f) return max < PARE_GROUP_EPS ? 0.0f : max;
    float iscale = (float)nmax / max, best = scale_error(x, w, n, nmax, iscale);
    for (int s = -4; s <= 4; s++) {
        if (s == 0) continue;
        float candidate = (0.1f * (float)s + (float)nmax) / max;
        float error = scale_error(x, w, n, nmax, candidate);
        if (error < best) {
            best = error;
            iscale = candidate;
        }
    }
    float sum_xl = 0.0f, sum_l2 = 0.0f;
    for (size_t i = 0; i < n; i++) {
        q[i] = (uint8_t)pare_round_clamp(iscale * x[i], 0, nmax);
        float l = q[i];
        sum_xl += w[i] * x[i] * l;
        sum_l2 += w[i] * l * l;
    }
    for (int i = 0; i < 5 && sweep(q, x, w, n, nmax, &sum_xl, &sum_l2); i++) continue;
    return sum_l2 > 0.0f ? sum_xl / sum_l2 : 0.0f;
}

uint16_t pare_sparse_codes(const pare_encode_kernels *k, int8_t *q, const float *values, size_t n) {
    float padded[32] = {0};
    int8_t codes[32];
    memcpy(padded, values, n * sizeof *values);
    uint32_t bits = pare_f32_bits(k->abs_max(values, n) / 127.0f);
    uint16_t scale = (uint16_t)((bits + 0xFFFF) >> 16);
    k->int8_codes(codes, padded, 32, pare_inverse(pare_bf16_to_f32(scale)));
    memcpy(q, codes, n);
    return scale;
}

/* The level nearest to v, in units of the scale. */
static uint8_t nearest_level(float v) {
    static const uint8_t positive[19] = {0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 7};
    static const uint8_t negative[22] = {0,  0,  8,  8,  8,  9,  9,  10, 10, 11, 11,
                                         12, 12, 13, 13, 13, 14, 14, 14, 14, 15, 15};
    /* the borders between levels are whole halves */
    float halves = fabsf(v) * 2.0f;
    if (v < 0.0f) return negative[halves < 21.0f ? (int)halves : 21];
    return positive[halves < 18.0f ? (int)halves : 18];
}

static float level_error(const float *x, size_t n, float scale) {
    float inverse = pare_inverse(scale), error = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float e = x[i] * inverse - (float)pare_sparse_levels[nearest_level(x[i] * inverse)];
        error += e * e;
    }
    return error * scale * scale;
}

uint16_t pare_sparse_nibbles(uint8_t *q, const float *values, size_t n) {
    float max = 0.0f, x[64], largest = 0.0f;
    for (size_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(values[i]));
    memset(q, 0, n);
    /* relative to a power of two near the largest: no square over- or underflows */
    int exponent;
    (void)frexpf(largest, &exponent);
    for (size_t i = 0; i < n; i++) {
        x[i] = ldexpf(values[i], -exponent);
        if (fabsf(x[i]) > fabsf(max)) max = x[i];
    }
    uint16_t best = 0;
    float least = INFINITY;
    /* the value of largest magnitude is given -12.5 .. -8.5 and 8.5 .. 12.5 */
    for (int s = 17; s <= 25 && max != 0.0f; s++)
        for (int sign = -1; sign <= 1; sign += 2) {
            uint16_t bits = pare_f32_to_bf16(max * 2.0f / (float)(sign * s));
            float error = level_error(x, n, pare_bf16_to_f32(bits));
            if (error < least) least = error, best = bits;
        }
    float scale = pare_bf16_to_f32(best), inverse = pare_inverse(scale);
    for (size_t i = 0; i < n; i++) q[i] = nearest_level(x[i] * inverse);
    return pare_f32_to_bf16(ldexpf(scale, exponent));
}
