#include "kernels/kv_codec_levels.h"

#include "kernels/blocks.h"

#include <math.h>
#include <string.h>

/* NaN stays NaN. */
static uint16_t f16_saturated(float x) {
    if (x > 65504.0f) x = 65504.0f;
    if (x < -65504.0f) x = -65504.0f;
    return pare_f32_to_f16(x);
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
    for (size_t d = 0; d < head_dim; d++) out[d] = f16_saturated(x[d]);
}

void pare_kv_load_f16_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                          size_t head_dim) {
    for (size_t i = 0; i < n; i++) {
        const uint16_t *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t d = 0; d < head_dim; d++) y[i * ldy + d] = pare_f16_to_f32(row[d]);
    }
}

void pare_kv_store_bf16_ref(void *row, const float *x, size_t head_dim) {
    uint16_t *out = row;
    for (size_t d = 0; d < head_dim; d++) out[d] = pare_f32_to_bf16(x[d]);
}

void pare_kv_load_bf16_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                           size_t head_dim) {
    for (size_t i = 0; i < n; i++) {
        const uint16_t *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t d = 0; d < head_dim; d++) y[i * ldy + d] = pare_bf16_to_f32(row[d]);
    }
}

/* A block with a NaN gets scale NaN and codes 1, so that it loads as NaN. */
static void q8_store_block(pare_q8_0 *out, const float x[32]) {
    float top = 0.0f;
    bool has_nan = false;
    for (int i = 0; i < 32; i++) {
        if (fabsf(x[i]) > top) top = fabsf(x[i]);
        has_nan |= isnan(x[i]);
    }
    float d = has_nan ? NAN : top / 127.0f;
    out->d = f16_saturated(d);
    if (has_nan || out->d == 0) {
        memset(out->q, has_nan, 32);
        return;
    }
    float inverse = 1.0f / (d < 65504.0f ? d : 65504.0f);
    for (int i = 0; i < 32; i++) {
        float t = x[i] * inverse;
        t = t > 127.0f ? 127.0f : t < -127.0f ? -127.0f : t;
        out->q[i] = (int8_t)lrintf(t); /* to nearest even */
    }
}

void pare_kv_store_q8_0_ref(void *row, const float *x, size_t head_dim) {
    for (size_t b = 0; b < head_dim / 32; b++) q8_store_block((pare_q8_0 *)row + b, x + b * 32);
}

void pare_kv_load_q8_0_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                           size_t head_dim) {
    for (size_t i = 0; i < n; i++) {
        const pare_q8_0 *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t b = 0; b < head_dim / 32; b++) {
            float d = pare_f16_to_f32(row[b].d);
            for (size_t j = 0; j < 32; j++) y[i * ldy + b * 32 + j] = d * (float)row[b].q[j];
        }
    }
}

/* As for weights: the value of largest magnitude, the first of equals, is code 0 exactly. A block
 * with a NaN gets scale NaN. */
static void q4_store_block(pare_q4_0 *out, const float x[32]) {
    float top = 0.0f, high = 0.0f;
    bool has_nan = false;
    for (int i = 0; i < 32; i++) {
        if (fabsf(x[i]) > top) {
            top = fabsf(x[i]);
            high = x[i];
        }
        has_nan |= isnan(x[i]);
    }
    float d = high / -8.0f;
    d = d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d;
    out->d = has_nan ? 0x7E00 : pare_f32_to_f16(d);
    float inverse = has_nan || (out->d & 0x7FFF) == 0 ? 0.0f : 1.0f / d;
    for (int j = 0; j < 16; j++) {
        int code[2];
        for (int half = 0; half < 2; half++) {
            float t = has_nan ? 0.0f : x[j + 16 * half] * inverse;
            t = t > 7.0f ? 7.0f : t < -8.0f ? -8.0f : t;
            code[half] = (int)lrintf(t) + 8; /* to nearest even */
        }
        out->qs[j] = (uint8_t)(code[0] | code[1] << 4);
    }
}

void pare_kv_store_q4_0_ref(void *row, const float *x, size_t head_dim) {
    for (size_t b = 0; b < head_dim / 32; b++) q4_store_block((pare_q4_0 *)row + b, x + b * 32);
}

void pare_kv_load_q4_0_ref(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                           size_t head_dim) {
    for (size_t i = 0; i < n; i++) {
        const pare_q4_0 *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t b = 0; b < head_dim / 32; b++) {
            float d = pare_f16_to_f32(row[b].d), *out = y + i * ldy + b * 32;
            for (size_t j = 0; j < 16; j++) {
                out[j] = d * (float)((row[b].qs[j] & 15) - 8);
                out[j + 16] = d * (float)((row[b].qs[j] >> 4) - 8);
            }
        }
    }
}
