#include "kernels/kv_codec_levels.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static float f16_load(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7FFF);
    if (rest >= 0x7C00) return from_bits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    if (rest >= 0x400) return from_bits(sign | ((rest << 13) + 0x38000000));
    return from_bits(sign | bits_of((float)rest * 0x1p-24f));
}

static uint16_t f16_store(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (bits >> 13 & 0x3FF));
    if (bits >= 0x477FE000) return (uint16_t)(sign | 0x7BFF); /* 65504 and above: saturate */
    if (bits < 0x38800000) /* subnormal: the addition rounds to a multiple of 2^-24 */
        return (uint16_t)(sign | (bits_of(from_bits(bits) + 0.5f) - 0x3F000000));
    bits += 0xFFF + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}

static uint16_t bf16_store(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

void pare_kv_store_f32_ref(void *row, const float *x, size_t head_dim) {
    memcpy(row, x, head_dim * sizeof *x);
}

void pare_kv_load_f32_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                          size_t head_dim) {
    for (size_t i = 0; i < n; i++)
        memcpy(y + i * ldy, (const uint8_t *)rows + i * row_stride, head_dim * sizeof *y);
}

void pare_kv_store_f16_ref(void *row, const float *x, size_t head_dim) {
    uint16_t *out = row;
    for (size_t d = 0; d < head_dim; d++) out[d] = f16_store(x[d]);
}

void pare_kv_load_f16_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                          size_t head_dim) {
    for (size_t i = 0; i < n; i++) {
        const uint16_t *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t d = 0; d < head_dim; d++) y[i * ldy + d] = f16_load(row[d]);
    }
}

void pare_kv_store_bf16_ref(void *row, const float *x, size_t head_dim) {
    uint16_t *out = row;
    for (size_t d = 0; d < head_dim; d++) out[d] = bf16_store(x[d]);
}

void pare_kv_load_bf16_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                           size_t head_dim) {
    for (size_t i = 0; i < n; i++) {
        const uint16_t *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t d = 0; d < head_dim; d++) y[i * ldy + d] = from_bits((uint32_t)row[d] << 16);
    }
}

/* A block with a NaN gets scale NaN and codes 1, so that it loads as NaN. */
static void q8_store_block(uint8_t out[34], const float x[32]) {
    float top = 0.0f;
    bool has_nan = false;
    for (int i = 0; i < 32; i++) {
        if (fabsf(x[i]) > top) top = fabsf(x[i]);
        has_nan |= isnan(x[i]);
    }
    float d = has_nan ? NAN : top / 127.0f;
    uint16_t d16 = f16_store(d);
    memcpy(out, &d16, 2);
    int8_t *q = (int8_t *)out + 2;
    if (has_nan || d16 == 0) {
        memset(q, has_nan, 32);
        return;
    }
    float inverse = 1.0f / (d < 65504.0f ? d : 65504.0f);
    for (int i = 0; i < 32; i++) {
        float t = x[i] * inverse;
        t = t > 127.0f ? 127.0f : t < -127.0f ? -127.0f : t;
        q[i] = (int8_t)lrintf(t); /* to nearest even */
    }
}

void pare_kv_store_q8_0_ref(void *row, const float *x, size_t head_dim) {
    for (size_t b = 0; b < head_dim / 32; b++) q8_store_block((uint8_t *)row + b * 34, x + b * 32);
}

void pare_kv_load_q8_0_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                           size_t head_dim) {
    for (size_t i = 0; i < n; i++) {
        const uint8_t *block = (const uint8_t *)rows + i * row_stride;
        for (size_t b = 0; b < head_dim / 32; b++, block += 34) {
            uint16_t d16;
            memcpy(&d16, block, 2);
            float d = f16_load(d16);
            for (size_t j = 0; j < 32; j++)
                y[i * ldy + b * 32 + j] = d * (float)(int8_t)block[2 + j];
        }
    }
}
