/* Q2_K: 2-bit codes, a 4-bit scale and minimum per 16 values, two half scales per 256. */
#include "tensor/encodings/encode_common.h"

static void q2_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q2_k *b = PARE_BLOCK_AT(pare_q2_k, w, row, col, 256);
    for (size_t s = 0; s < n / 256; s++, b++, q += 256, scale += 16, offset += 16) {
        float d = pare_f16_to_f32(b->d), dmin = pare_f16_to_f32(b->dmin);
        for (int j = 0; j < 16; j++) {
            scale[j] = d * (float)(b->scales[j] & 15);
            offset[j] = -(dmin * (float)(b->scales[j] >> 4));
        }
        pare_unpack_pairs(q, b->qs, 0);
        pare_unpack_pairs(q + 128, b->qs + 32, 0);
    }
}

PARE_DECODE_BY_CODES(q2_k, 16, true)

/* Codes 0..15 of 16 scales or minima and their common scale: the largest becomes 15. */
static float scale_codes(uint8_t codes[16], const float values[16]) {
    float max = 0.0f;
    for (int j = 0; j < 16; j++) max = values[j] > max ? values[j] : max;
    float inverse = max > 0.0f ? 15.0f / max : 0.0f;
    for (int j = 0; j < 16; j++) codes[j] = (uint8_t)pare_round_clamp(inverse * values[j], 0, 15);
    return max / 15.0f;
}

static void q2_k_block(const pare_encode_kernels *k, pare_q2_k *b, const float *x,
                       const float *importance) {
    static const pare_fit plain = {3, -0.5f, 0.1f, 15, true},
                          informed = {3, -0.9f, 0.05f, 36, false};
    float w[256], scales[16], mins[16], d, dmin;
    uint8_t codes[256], scale_code[16], min_code[16];
    if (importance) {
        float sums[16] = {0};
        k->weigh(w, x, importance, 256, pare_sum_squares(x, 256) / 256.0f);
        for (int i = 0; i < 256; i++) sums[i / 16] += w[i];
        k->fit(codes, scales, mins, x, w, 16, 16, &informed);
        d = pare_fit_scales(scale_code, scales, sums, 16, 15);
        dmin = pare_fit_scales(min_code, mins, sums, 16, 15);
    } else {
        for (int i = 0; i < 256; i++) w[i] = fabsf(x[i]);
        k->fit(codes, scales, mins, x, w, 16, 16, &plain);
        d = scale_codes(scale_code, scales);
        dmin = scale_codes(min_code, mins);
    }
    b->d = pare_f32_to_f16(d);
    b->dmin = pare_f32_to_f16(dmin);
    d = pare_f16_to_f32(b->d);
    dmin = pare_f16_to_f32(b->dmin);
    for (int j = 0; j < 16; j++) {
        b->scales[j] = (uint8_t)(scale_code[j] | min_code[j] << 4);
        float stored = d * (float)scale_code[j];
        if (stored == 0.0f) continue;
        k->round_codes(codes + 16 * j, x + 16 * j, 16, stored, dmin * (float)min_code[j], 0, 3);
    }
    for (int half = 0; half < 2; half++) {
        const uint8_t *c = codes + 128 * half;
        for (int l = 0; l < 32; l++)
            b->qs[32 * half + l] =
                (uint8_t)(c[l] | c[32 + l] << 2 | c[64 + l] << 4 | c[96 + l] << 6);
    }
}

static void q2_k_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    pare_q2_k *b = out;
    for (size_t c = 0; c < cols; c += 256)
        q2_k_block(k, b++, x + c, importance ? importance + c : NULL);
}

static pare_block_state q2_k_state(const void *block, size_t n) {
    const pare_q2_k *b = block;
    (void)n;
    return pare_half_pair_state(b->d, b->dmin);
}

const pare_encoding pare_enc_q2_k = {
    .name = "q2_k",
    .summary = "2 bits, 4-bit scale and minimum per 16 in blocks of 256",
    .ggml_type = 10,
    .block_len = 256,
    .block_bytes = sizeof(pare_q2_k),
    .max_abs = 65504.0f * 15 * 3,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q2_k_decode,
    .encode_row = q2_k_encode,
    .codes = q2_k_codes,
    .code_group = 16,
    .code_min = 0,
    .code_max = 3,
    .has_offset = true,
    .dot = PARE_DOT_q2_k,
    .block_state = q2_k_state,
};
