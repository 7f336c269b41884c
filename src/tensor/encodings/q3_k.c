/* Q3_K: 3-bit codes, a 6-bit scale per 16 values, a half scale per 256. */
#include "tensor/encodings/encode_common.h"

static void q3_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q3_k *b = PARE_BLOCK_AT(pare_q3_k, w, row, col, 256);
    (void)offset;
    for (size_t s = 0; s < n / 256; s++, b++, q += 256, scale += 16) {
        float d = pare_f16_to_f32(b->d);
        int8_t scales[16];
        pare_unpack_scales_q3_k(scales, b->scales);
        for (int j = 0; j < 16; j++) scale[j] = d * (float)scales[j];
        pare_unpack_pairs(q, b->qs, 4);
        pare_unpack_pairs(q + 128, b->qs + 32, 4);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) pare_add_plane(q + 32 * j, b->hmask, j, 4);
    }
}

PARE_DECODE_BY_CODES(q3_k, 16, false)

/* Codes 0..63 (scale code + 32) of the 16 scales and their common scale. */
static float scale_codes(uint8_t codes[16], const float scales[16]) {
    float max = 0.0f, amax = 0.0f;
    for (int j = 0; j < 16; j++) {
        if (fabsf(scales[j]) > amax) {
            amax = fabsf(scales[j]);
            max = scales[j];
        }
    }
    memset(codes, 0, 16);
    if (max == 0.0f || !isfinite(max)) return max;
    float inverse = -32.0f / max;
    for (int j = 0; j < 16; j++)
        codes[j] = (uint8_t)(pare_round_clamp(inverse * scales[j], -32, 31) + 32);
    return 1.0f / inverse;
}

static void pack(pare_q3_k *b, const uint8_t codes[256], const uint8_t scale_code[16]) {
    memset(b->scales, 0, sizeof b->scales);
    memset(b->hmask, 0, sizeof b->hmask);
    for (int j = 0; j < 16; j++) {
        b->scales[j % 8] |= (uint8_t)((scale_code[j] & 15) << 4 * (j / 8));
        b->scales[8 + j % 4] |= (uint8_t)(scale_code[j] >> 4 << 2 * (j / 4));
    }
    for (int j = 0; j < 8; j++)
        for (int l = 0; l < 32; l++) b->hmask[l] |= (uint8_t)(codes[32 * j + l] >> 2 << j);
    for (int half = 0; half < 2; half++) {
        const uint8_t *c = codes + 128 * half;
        for (int l = 0; l < 32; l++)
            b->qs[32 * half + l] = (uint8_t)((c[l] & 3) | (c[32 + l] & 3) << 2 |
                                             (c[64 + l] & 3) << 4 | (c[96 + l] & 3) << 6);
    }
}

static void q3_k_block(const pare_encode_kernels *k, pare_q3_k *b, const float *x,
                       const float *importance) {
    float w[256], scales[16], d;
    uint8_t codes[256], scale_code[16];
    if (importance) {
        float sums[16] = {0};
        k->weigh(w, x, importance, 256, 2.0f * pare_sum_squares(x, 256) / 256.0f);
        for (int i = 0; i < 256; i++) sums[i / 16] += w[i];
        k->symmetric(codes, scales, x, w, 16, 16, 4);
        k->symmetric(scale_code, &d, scales, sums, 1, 16, 32);
    } else {
        k->symmetric_sweep(codes, scales, x, 16, 16, 4);
        d = scale_codes(scale_code, scales);
    }
    b->d = pare_f32_to_f16(d);
    d = pare_f16_to_f32(b->d);
    for (int j = 0; j < 16; j++) {
        float stored = d * (float)(scale_code[j] - 32);
        if (stored != 0.0f) k->round_codes(codes + 16 * j, x + 16 * j, 16, stored, 0.0f, -4, 3);
    }
    pack(b, codes, scale_code);
}

static void q3_k_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    pare_q3_k *b = out;
    for (size_t c = 0; c < cols; c += 256)
        q3_k_block(k, b++, x + c, importance ? importance + c : NULL);
}

static pare_block_state q3_k_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_q3_k *)block)->d);
}

const pare_encoding pare_enc_q3_k = {
    .name = "q3_k",
    .summary = "3 bits, 6-bit scale per 16 in blocks of 256",
    .ggml_type = 11,
    .block_len = 256,
    .block_bytes = sizeof(pare_q3_k),
    .max_abs = 65504.0f * 32 * 4,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q3_k_decode,
    .encode_row = q3_k_encode,
    .codes = q3_k_codes,
    .code_group = 16,
    .code_min = -4,
    .code_max = 3,
    .dot = PARE_DOT_q3_k,
    .block_state = q3_k_state,
};
