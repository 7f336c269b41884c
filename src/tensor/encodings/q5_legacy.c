/* Q5_0 and Q5_1: 5-bit codes, and a scale (Q5_1: and a minimum) per 32 values. */
#include "tensor/encodings/encode_common.h"

/* Codes of a row are found in pieces of so many blocks. */
enum { PIECE = 16 };

static uint32_t pack(uint8_t qs[16], const uint8_t codes[32]) {
    uint32_t high = 0;
    for (int i = 0; i < 32; i++) high |= (uint32_t)(codes[i] >> 4) << i;
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)((codes[i] & 15) | codes[16 + i] << 4);
    return high;
}

static void unpack(int8_t q[32], const uint8_t qs[16], uint32_t high, int zero) {
    pare_unpack_nibbles(q, qs, 16, 0);
    pare_add_fifth_bits(q, high);
    for (int i = 0; i < 32; i++) q[i] = (int8_t)(q[i] - zero);
}

/* ---- Q5_0: (q - 16) * d ---- */

static void q5_0_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q5_0 *b = PARE_BLOCK_AT(pare_q5_0, w, row, col, 32);
    (void)offset;
    for (size_t g = 0; g < n / 32; g++, b++) {
        scale[g] = pare_f16_to_f32(b->d);
        unpack(q + 32 * g, b->qs, b->qh, 16);
    }
}

PARE_DECODE_BY_CODES(q5_0, 32, false)

/* The value of largest magnitude becomes code -16, without search. */
static void q5_0_block(pare_q5_0 *b, const float *x) {
    float max = 0.0f, amax = 0.0f;
    uint8_t codes[32];
    for (int i = 0; i < 32; i++) {
        if (fabsf(x[i]) > amax) {
            amax = fabsf(x[i]);
            max = x[i];
        }
    }
    float d = max / -16.0f, inverse = pare_inverse(d);
    b->d = pare_f32_to_f16(d);
    for (int i = 0; i < 32; i++) {
        float v = x[i] * inverse + 16.5f; /* 0.5 .. 32.5 */
        codes[i] = (uint8_t)(v < 31.0f ? v : 31.0f);
    }
    b->qh = pack(b->qs, codes);
}

static void q5_0_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    pare_q5_0 *b = out;
    if (!importance) {
        for (size_t c = 0; c < cols; c += 32) q5_0_block(b++, x + c);
        return;
    }
    float sigma2 = pare_sum_squares(x, cols) / (float)cols, weights[32 * PIECE], scales[PIECE];
    uint8_t codes[32 * PIECE];
    for (size_t c = 0; c < cols; c += 32 * PIECE) {
        size_t blocks = (cols - c) / 32 < PIECE ? (cols - c) / 32 : PIECE;
        k->weigh(weights, x + c, importance + c, 32 * blocks, sigma2);
        k->symmetric(codes, scales, x + c, weights, blocks, 32, 16);
        for (size_t i = 0; i < blocks; i++, b++) {
            b->d = pare_f32_to_f16(scales[i]);
            b->qh = pack(b->qs, codes + 32 * i);
        }
    }
}

static pare_block_state q5_0_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_q5_0 *)block)->d);
}

const pare_encoding pare_enc_q5_0 = {
    .name = "q5_0",
    .summary = "5 bits, scale per 32",
    .ggml_type = 6,
    .block_len = 32,
    .block_bytes = sizeof(pare_q5_0),
    .max_abs = 65504.0f * 16,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q5_0_decode,
    .encode_row = q5_0_encode,
    .codes = q5_0_codes,
    .code_group = 32,
    .code_min = -16,
    .code_max = 15,
    .dot = PARE_DOT_q5_0,
    .block_state = q5_0_state,
};

/* ---- Q5_1: q * d + m ---- */

static void q5_1_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q5_1 *b = PARE_BLOCK_AT(pare_q5_1, w, row, col, 32);
    for (size_t g = 0; g < n / 32; g++, b++) {
        scale[g] = pare_f16_to_f32(b->d);
        offset[g] = pare_f16_to_f32(b->m);
        unpack(q + 32 * g, b->qs, b->qh, 0);
    }
}

PARE_DECODE_BY_CODES(q5_1, 32, true)

/* From the smallest to the largest value in 31 steps, without search. */
static void q5_1_block(pare_q5_1 *b, const float *x) {
    float low = x[0], high = x[0];
    uint8_t codes[32];
    for (int i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float d = (high - low) / 31.0f, inverse = pare_inverse(d);
    b->d = pare_f32_to_f16(d);
    b->m = pare_f32_to_f16(low);
    for (int i = 0; i < 32; i++) {
        float v = (x[i] - low) * inverse + 0.5f;
        codes[i] = (uint8_t)(v < 31.0f ? v : 31.0f);
    }
    b->qh = pack(b->qs, codes);
}

static void q5_1_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    static const pare_fit fit = {.nmax = 31, .rmin = -0.9f, .rdelta = 0.05f, .nstep = 36};
    pare_q5_1 *b = out;
    if (!importance) {
        for (size_t c = 0; c < cols; c += 32) q5_1_block(b++, x + c);
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
            b->qh = pack(b->qs, codes + 32 * i);
        }
    }
}

static pare_block_state q5_1_state(const void *block, size_t n) {
    const pare_q5_1 *b = block;
    (void)n;
    return pare_half_pair_state(b->d, b->m);
}

const pare_encoding pare_enc_q5_1 = {
    .name = "q5_1",
    .summary = "5 bits, scale and minimum per 32",
    .ggml_type = 7,
    .block_len = 32,
    .block_bytes = sizeof(pare_q5_1),
    .max_abs = 65504.0f,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q5_1_decode,
    .encode_row = q5_1_encode,
    .codes = q5_1_codes,
    .code_group = 32,
    .code_min = 0,
    .code_max = 31,
    .has_offset = true,
    .dot = PARE_DOT_q5_1,
    .block_state = q5_1_state,
};
