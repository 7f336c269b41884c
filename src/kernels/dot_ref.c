/* The dot kernels in plain C. A block of any format becomes codes with a scale and an offset per 16
 * values (w = scale * code + offset, formats of 2..8 bits), so that one loop serves them all:
 *
 *   y = sum over groups of d_x * (scale * sum(code * q) + offset * sum(q))
 *
 * The sums of integers are exact. */
#include <string.h>

#include "kernels/dot_impl.h"
#include "kernels/dot_tail.h"

/* A block, unpacked. */
typedef struct codes {
    int8_t q[256];
    float scale[16], offset[16]; /* per 16 values */
} codes;

/* Codes of a block of 32 in nibbles: low ones first. */
static void nibbles(int8_t q[32], const uint8_t qs[16]) {
    for (int j = 0; j < 16; j++) {
        q[j] = qs[j] & 15;
        q[j + 16] = (int8_t)(qs[j] >> 4);
    }
}

static void fifth_bits(int8_t q[32], uint32_t qh) {
    for (int j = 0; j < 32; j++) q[j] = (int8_t)(q[j] | (int)(qh >> j & 1) << 4);
}

static void scale_32(codes *c, uint16_t d, float offset) {
    c->scale[0] = c->scale[1] = pare_f16_to_f32(d);
    c->offset[0] = c->offset[1] = offset;
}

static void unpack_q4_0(codes *c, const pare_q4_0 *b) {
    nibbles(c->q, b->qs);
    scale_32(c, b->d, -8.0f * pare_f16_to_f32(b->d));
}

static void unpack_q4_1(codes *c, const pare_q4_1 *b) {
    nibbles(c->q, b->qs);
    scale_32(c, b->d, pare_f16_to_f32(b->m));
}

static void unpack_q5_0(codes *c, const pare_q5_0 *b) {
    nibbles(c->q, b->qs);
    fifth_bits(c->q, b->qh);
    scale_32(c, b->d, -16.0f * pare_f16_to_f32(b->d));
}

static void unpack_q5_1(codes *c, const pare_q5_1 *b) {
    nibbles(c->q, b->qs);
    fifth_bits(c->q, b->qh);
    scale_32(c, b->d, pare_f16_to_f32(b->m));
}

static void unpack_q8_0(codes *c, const pare_q8_0 *b) {
    memcpy(c->q, b->q, 32);
    scale_32(c, b->d, 0.0f);
}

static void unpack_iq4_nl(codes *c, const pare_iq4_nl *b) {
    nibbles(c->q, b->qs);
    for (int j = 0; j < 32; j++) c->q[j] = pare_iq4_values[c->q[j]];
    scale_32(c, b->d, 0.0f);
}

static void unpack_q2_k(codes *c, const pare_q2_k *b) {
    float d = pare_f16_to_f32(b->d), dmin = pare_f16_to_f32(b->dmin);
    for (int i = 0; i < 256; i++)
        c->q[i] = (int8_t)(b->qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3);
    for (int j = 0; j < 16; j++) {
        c->scale[j] = d * (float)(b->scales[j] & 15);
        c->offset[j] = -dmin * (float)(b->scales[j] >> 4);
    }
}

static void unpack_q3_k(codes *c, const pare_q3_k *b) {
    float d = pare_f16_to_f32(b->d);
    int8_t scales[16];
    pare_unpack_scales_q3_k(scales, b->scales);
    for (int i = 0; i < 256; i++) {
        int low = b->qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
        c->q[i] = (int8_t)(low - (b->hmask[i % 32] >> i / 32 & 1 ? 0 : 4));
    }
    for (int j = 0; j < 16; j++) {
        c->scale[j] = d * (float)scales[j];
        c->offset[j] = 0.0f;
    }
}

static void scales_k4(codes *c, uint16_t d, uint16_t dmin, const uint8_t packed[12]) {
    uint8_t sc[16]; /* 8 scales, 8 minima */
    pare_unpack_scales_k4(sc, packed);
    for (int j = 0; j < 16; j++) {
        c->scale[j] = pare_f16_to_f32(d) * (float)sc[j / 2];
        c->offset[j] = -pare_f16_to_f32(dmin) * (float)sc[8 + j / 2];
    }
}

static void unpack_q4_k(codes *c, const pare_q4_k *b) {
    for (int i = 0; i < 256; i++)
        c->q[i] = (int8_t)(b->qs[32 * (i / 64) + i % 32] >> 4 * (i / 32 & 1) & 15);
    scales_k4(c, b->d, b->dmin, b->scales);
}

static void unpack_q5_k(codes *c, const pare_q5_k *b) {
    for (int i = 0; i < 256; i++)
        c->q[i] = (int8_t)((b->qs[32 * (i / 64) + i % 32] >> 4 * (i / 32 & 1) & 15) |
                           (b->qh[i % 32] >> i / 32 & 1) << 4);
    scales_k4(c, b->d, b->dmin, b->scales);
}

static void unpack_q6_k(codes *c, const pare_q6_k *b) {
    for (int i = 0; i < 256; i++) {
        int n = i / 128, g = i % 128 / 32, l = i % 32;
        int low = b->ql[64 * n + 32 * (g & 1) + l] >> 4 * (g >> 1) & 15;
        c->q[i] = (int8_t)((low | (b->qh[32 * n + l] >> 2 * g & 3) << 4) - 32);
    }
    for (int j = 0; j < 16; j++) {
        c->scale[j] = pare_f16_to_f32(b->d) * (float)b->scales[j];
        c->offset[j] = 0.0f;
    }
}

static void unpack_iq4_xs(codes *c, const pare_iq4_xs *b) {
    int8_t scales[8];
    pare_unpack_scales_iq4_xs(scales, b);
    for (int j = 0; j < 8; j++) {
        nibbles(c->q + 32 * j, b->qs + 16 * j);
        c->scale[2 * j] = c->scale[2 * j + 1] = pare_f16_to_f32(b->d) * (float)scales[j];
        c->offset[2 * j] = c->offset[2 * j + 1] = 0.0f;
    }
    for (int i = 0; i < 256; i++) c->q[i] = pare_iq4_values[c->q[i]];
}

/* y of one block: columns [col, col + len) of activation row i; x has one d per `group`. */
static float dot_block(const codes *c, const pare_act *x, size_t i, size_t col, size_t len,
                       size_t group) {
    float y = 0.0f;
    for (size_t j = 0; j < len / 16; j++) {
        const int8_t *xq = x->q + i * x->q_stride + col + 16 * j;
        int32_t sum = 0;
        for (int t = 0; t < 16; t++) sum += c->q[16 * j + (size_t)t] * xq[t];
        float xsum = x->sum16[i * x->sum_stride + col / 16 + j];
        y += x->d[i * x->d_stride + (col + 16 * j) / group] *
             (c->scale[j] * (float)sum + c->offset[j] * xsum);
    }
    return y;
}

/* Blocks of `len` values, and as many of x have one d; TAIL handles a short last super-block. */
#define DOT_REF(name, len, TAIL)                                                                   \
    void pare_dot_##name##_ref(float *y, size_t ldy, const pare_view *w, size_t row_begin,         \
                               size_t row_end, const pare_act *x) {                                \
        codes c;                                                                                   \
        for (size_t r = row_begin; r < row_end; r++) {                                             \
            const pare_##name *b = pare_row(w, r);                                                 \
            for (size_t i = 0; i < x->n; i++) y[i * ldy + r] = 0.0f;                               \
            for (size_t k = 0; k < w->cols / (len); k++) {                                         \
                unpack_##name(&c, b + k);                                                          \
                for (size_t i = 0; i < x->n; i++)                                                  \
                    y[i * ldy + r] += dot_block(&c, x, i, (len)*k, len, len);                      \
            }                                                                                      \
            TAIL(name)                                                                             \
        }                                                                                          \
    }
#define NO_TAIL(name)
#define TAIL(name)                                                                                 \
    if (w->cols % 256) {                                                                           \
        size_t full = w->cols / 256;                                                               \
        pare_##name whole;                                                                         \
        pare_complete_##name(&whole, b + full, w->cols % 256 / 64);                                \
        unpack_##name(&c, &whole);                                                                 \
        for (size_t i = 0; i < x->n; i++)                                                          \
            y[i * ldy + r] += dot_block(&c, x, i, 256 * full, 256, 256);                           \
    }

DOT_REF(q4_0, 32, NO_TAIL)
DOT_REF(q4_1, 32, NO_TAIL)
DOT_REF(q5_0, 32, NO_TAIL)
DOT_REF(q5_1, 32, NO_TAIL)
DOT_REF(q8_0, 32, NO_TAIL)
DOT_REF(iq4_nl, 32, NO_TAIL)
DOT_REF(q2_k, 256, NO_TAIL)
DOT_REF(q3_k, 256, NO_TAIL)
DOT_REF(q4_k, 256, TAIL)
DOT_REF(q5_k, 256, TAIL)
DOT_REF(q6_k, 256, TAIL)
DOT_REF(iq4_xs, 256, NO_TAIL)
