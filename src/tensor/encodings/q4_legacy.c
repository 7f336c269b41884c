/* Q4_0 and Q4_1: 4-bit codes, and a scale (Q4_1: and a minimum) per 32 values. */
#include "tensor/encodings/encode_common.h"

/* Codes of a row are found in pieces of so many blocks. */
enum { PIECE = 16 };

static void pack(uint8_t qs[16], const uint8_t codes[32]) {
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)(codes[i] | codes[16 + i] << 4);
}

/* ---- Q4_0: (n - 8) * d ---- */

static void q4_0_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q4_0 *b = PARE_BLOCK_AT(pare_q4_0, w, row, col, 32);
    (void)offset;
    for (size_t g = 0; g < n / 32; g++, b++, q += 32) {
        scale[g] = pare_f16_to_f32(b->d);
        pare_unpack_nibbles(q, b->qs, 16, 8);
    }
}

PARE_DECODE_BY_CODES(q4_0, 32, false)

/* The value of largest magnitude becomes code -8, without search. */
static void q4_0_block(pare_q4_0 *b, const float *x) {
    float max = 0.0f, amax = 0.0f;
    uint8_t codes[32];
    for (int i = 0; i < 32; i++) {
        if (fabsf(x[i]) > amax) {
            amax = fabsf(x[i]);
            max = x[i];
        }
    }
    float d = max / -8.0f, inverse = pare_inverse(d);
    b->d = pare_f32_to_f16(d);
    for (int i = 0; i < 32; i++) {
        float v = x[i] * inverse + 8.5f; /* 0.5 .. 16.5 */
        codes[i] = (uint8_t)(v < 15.0f ? v : 15.0f);
    }
    pack(b->qs, codes);
}

static void q4_0_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    pare_q4_0 *b = out;
    if (!importance) {
        for (size_t c = 0; c < cols; c += 32) q4_0_block(b++, x + c);
        return;
    }
    float sigma2 = pare_sum_squares(x, cols) / (float)cols, weights[32 * PIECE], scales[PIECE];
    uint8_t codes[32 * PIECE];
    for (size_t c = 0; c < cols; c += 32 * PIECE) {
        size_t blocks = (cols - c) / 32 < PIECE ? (cols - c) / 32 : PIECE;
        k->weigh(weights, x + c, importance + c, 32 * blocks, sigma2);
        k->symmetric(codes, scales, x + c, weights, blocks, 32, 8);
        for (size_t i = 0; i < blocks; i++, b++) {
            b->d = pare_f32_to_f16(scales[i]);
            pack(b->qs, codes + 32 * i);
        }
    }
}

static pare_block_state q4_0_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_q4_0 *)block)->d);
}

const pare_encoding pare_enc_q4_0 = {
    .name = "q4_0",
    .summary = "4 bits, scale per 32",
    .ggml_type = 2,
    .block_len = 32,
    .block_bytes = sizeof(pare_q4_0),
    .max_abs = 65504.0f * 8,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q4_0_decode,
    .encode_row = q4_0_encode,
    .codes = q4_0_codes,
    .code_group = 32,
    .code_min = -8,
    .code_max = 7,
    .dot = PARE_DOT_q4_0,
    .block_state = q4_0_state,
};

/* ---- Q4_1: n * d + m ---- */

static void q4_1_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q4_1 *b = PARE_BLOCK_AT(pare_q4_1, w, row, col, 32);
    for (size_t g = 0; g < n / 32; g++, b++, q += 32) {
        scale[g] = pare_f16_to_f32(b->d);
        offset[g] = pare_f16_to_f32(b->m);
        pare_unpack_nibbles(q, b->qs, 16, 0);
    }
}

PARE_DECODE_BY_CODES(q4_1, 32, true)

/* From the smallest to the largest value in 15 steps, without search. */
static void q4_1_block(pare_q4_1 *b, const float *x) {
    float low = x[0], high = x[0];
    uint8_t codes[32];
    for (int i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float d = (high - low) / 15.0f, inverse = pare_inverse(d);
    b->d = pare_f32_to_f16(d);
    b->m = pare_f32_to_f16(low);
    for (int i = 0; i < 32; i++) {
        float v = (x[i] - low) * inverse + 0.5f;
        codes[i] = (uint8_t)(v < 15.0f ? v : 15.0f);
    }
    pack(b->qs, codes);
}

static void q4_1_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    static const pare_fit fit = {.nmax = 15, .rmin = -0.9f, .rdelta = 0.05f, .nstep = 36};
    pare_q4_1 *b = out;
    if (!importance) {
        for (size_t c = 0; c < cols; c += 32) q4_1_block(b++, x + c);
        return;
    }
    float sigma2 = pare_sum_squares(x, cols) / (float)cols, weights[32 * PIECE];
    float scales[PIECE], mins[PIECE];
    uint8_t codes[32 * PIECE];
    for (size_t c = 0; c < cols; c += 32 * PIECE) {
        size_t blocks = (cols - c) / 32 < PIECE ? (cols - c) / 32 : PIECE;
        k->weigh(weights, x + c, importance + c, 32 * blocks, sigma2);
        k->fit(codes, scales, mins, x + c, weights, blocks, 32, &fit);
        for (size_t i = 0; i < blocks; i++, b++) {
            b->d = pare_f32_to_f16(scales[i]);
            b->m = pare_f32_to_f16(-mins[i]);
            pack(b->qs, codes + 32 * i);
        }
    }
}

static pare_block_state q4_1_state(const void *block, size_t n) {
    const pare_q4_1 *b = block;
    (void)n;
    return pare_half_pair_state(b->d, b->m);
}

const pare_encoding pare_enc_q4_1 = {
    .name = "q4_1",
    .summary = "4 bits, scale and minimum per 32",
    .ggml_type = 3,
    .block_len = 32,
    .block_bytes = sizeof(pare_q4_1),
    .max_abs = 65504.0f,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q4_1_decode,
    .encode_row = q4_1_encode,
    .codes = q4_1_codes,
    .code_group = 32,
    .code_min = 0,
    .code_max = 15,
    .has_offset = true,
    .dot = PARE_DOT_q4_1,
    .block_state = q4_1_state,
};
