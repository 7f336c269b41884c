/* IQ4_NL and IQ4_XS: 4-bit codes that choose among 16 uneven levels, denser near zero. IQ4_NL has a
 * half scale per 32 values, IQ4_XS a 6-bit scale per 32 and a half scale per 256. */
#include "tensor/encodings/encode_common.h"

static void unpack(int8_t q[32], const uint8_t qs[16]) {
    for (int i = 0; i < 16; i++) {
        q[i] = pare_iq4_values[qs[i] & 15];
        q[16 + i] = pare_iq4_values[qs[i] >> 4];
    }
}

static void pack(uint8_t qs[16], const uint8_t codes[32]) {
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)(codes[i] | codes[16 + i] << 4);
}

/* Weights of the errors of n values (one block or super-block). */
static void weigh(const pare_encode_kernels *k, float *w, const float *x, const float *importance,
                  size_t n) {
    if (importance)
        k->weigh(w, x, importance, n, pare_sum_squares(x, n) * (2.0f / (float)n));
    else
        for (size_t i = 0; i < n; i++) w[i] = x[i] * x[i];
}

/* ---- IQ4_NL ---- */

static void iq4_nl_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                         size_t col, size_t n) {
    const pare_iq4_nl *b = PARE_BLOCK_AT(pare_iq4_nl, w, row, col, 32);
    (void)offset;
    for (size_t g = 0; g < n / 32; g++, b++) {
        scale[g] = pare_f16_to_f32(b->d);
        unpack(q + 32 * g, b->qs);
    }
}

PARE_DECODE_BY_CODES(iq4_nl, 32, false)

static void iq4_nl_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                          const float *importance) {
    enum { PIECE = 8 };
    pare_iq4_nl *b = out;
    float w[32 * PIECE], scales[PIECE];
    uint8_t codes[32];
    for (size_t c = 0; c < cols; c += 32 * PIECE) {
        size_t blocks = (cols - c) / 32 < PIECE ? (cols - c) / 32 : PIECE;
        for (size_t i = 0; i < blocks; i++) {
            size_t at = c + 32 * i;
            weigh(k, w + 32 * i, x + at, importance ? importance + at : NULL, 32);
        }
        k->iq4_scale(scales, x + c, w, blocks, 32);
        for (size_t i = 0; i < blocks; i++, b++) {
            b->d = pare_f32_to_f16(scales[i]);
            k->iq4_codes(codes, x + c + 32 * i, 32, pare_inverse(scales[i]));
            pack(b->qs, codes);
        }
    }
}

static pare_block_state iq4_nl_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_iq4_nl *)block)->d);
}

const pare_encoding pare_enc_iq4_nl = {
    .name = "iq4_nl",
    .summary = "4 bits, 16 uneven levels, scale per 32",
    .ggml_type = 20,
    .block_len = 32,
    .block_bytes = sizeof(pare_iq4_nl),
    .max_abs = 65504.0f * 113,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = iq4_nl_decode,
    .encode_row = iq4_nl_encode,
    .codes = iq4_nl_codes,
    .code_group = 32,
    .code_min = -127,
    .code_max = 113,
    .dot = PARE_DOT_iq4_nl,
    .block_state = iq4_nl_state,
};

/* ---- IQ4_XS ---- */

static void iq4_xs_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                         size_t col, size_t n) {
    const pare_iq4_xs *b = PARE_BLOCK_AT(pare_iq4_xs, w, row, col, 256);
    (void)offset;
    for (size_t s = 0; s < n / 256; s++, b++, q += 256, scale += 8) {
        float d = pare_f16_to_f32(b->d);
        int8_t scales[8];
        pare_unpack_scales_iq4_xs(scales, b);
        for (int g = 0; g < 8; g++) {
            scale[g] = d * (float)scales[g];
            unpack(q + 32 * g, b->qs + 16 * g);
        }
    }
}

PARE_DECODE_BY_CODES(iq4_xs, 32, false)

static void iq4_xs_block(const pare_encode_kernels *k, pare_iq4_xs *b, const float *x,
                         const float *importance) {
    float w[256], scales[8], max = 0.0f, amax = 0.0f;
    uint8_t codes[32];
    weigh(k, w, x, importance, 256);
    k->iq4_scale(scales, x, w, 8, 32);
    for (int g = 0; g < 8; g++) {
        if (fabsf(scales[g]) > amax) {
            amax = fabsf(scales[g]);
            max = scales[g];
        }
    }
    float d = -max / 32.0f, inverse = pare_inverse(d);
    memset(b, 0, sizeof *b);
    b->d = pare_f32_to_f16(d);
    for (int g = 0; g < 8; g++) {
        int ls = pare_round_clamp(inverse * scales[g], -32, 31);
        k->iq4_codes(codes, x + 32 * g, 32, pare_inverse(d * (float)ls));
        pack(b->qs + 16 * g, codes);
        ls += 32;
        b->scales_l[g / 2] |= (uint8_t)((ls & 15) << 4 * (g & 1));
        b->scales_h = (uint16_t)(b->scales_h | (ls >> 4) << 2 * g);
    }
}

static void iq4_xs_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                          const float *importance) {
    pare_iq4_xs *b = out;
    for (size_t c = 0; c < cols; c += 256)
        iq4_xs_block(k, b++, x + c, importance ? importance + c : NULL);
}

static pare_block_state iq4_xs_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_iq4_xs *)block)->d);
}

const pare_encoding pare_enc_iq4_xs = {
    .name = "iq4_xs",
    .summary = "4 bits, 16 uneven levels, 6-bit scale per 32 in blocks of 256",
    .ggml_type = 23,
    .block_len = 256,
    .block_bytes = sizeof(pare_iq4_xs),
    .max_abs = 65504.0f * 32 * 113,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = iq4_xs_decode,
    .encode_row = iq4_xs_encode,
    .codes = iq4_xs_codes,
    .code_group = 32,
    .code_min = -127,
    .code_max = 113,
    .dot = PARE_DOT_iq4_xs,
    .block_state = iq4_xs_state,
};
