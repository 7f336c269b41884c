/* Q8_0: 8-bit codes and a scale per 32 values, 8.5 bits per weight. */
#include "tensor/encodings/encode_common.h"

static void q8_0_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q8_0 *b = PARE_BLOCK_AT(pare_q8_0, w, row, col, 32);
    (void)offset;
    for (size_t g = 0; g < n / 32; g++, b++) {
        scale[g] = pare_f16_to_f32(b->d);
        memcpy(q + 32 * g, b->q, 32);
    }
}

PARE_DECODE_BY_CODES(q8_0, 32, false)

static void q8_0_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    pare_q8_0 *b = out;
    (void)importance;
    for (size_t c = 0; c < cols; c += 32, b++) {
        float d = k->abs_max(x + c, 32) / 127.0f;
        b->d = pare_f32_to_f16(d);
        k->int8_codes(b->q, x + c, 32, pare_inverse(d));
    }
}

static pare_block_state q8_0_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_q8_0 *)block)->d);
}

const pare_encoding pare_enc_q8_0 = {
    .name = "q8_0",
    .summary = "8 bits, scale per 32",
    .ggml_type = 8,
    .block_len = 32,
    .block_bytes = sizeof(pare_q8_0),
    .max_abs = 65504.0f * 127,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q8_0_decode,
    .encode_row = q8_0_encode,
    .codes = q8_0_codes,
    .code_group = 32,
    .code_min = -128,
    .code_max = 127,
    .dot = PARE_DOT_q8_0,
    .block_state = q8_0_state,
};
