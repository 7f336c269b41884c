/* MXFP4 and NVFP4: 4-bit floats (E2M1) with a power of two per 32 values, or an E4M3 scale per 16.
 * OCP Microscaling Formats 1.0; ggml's layouts. */
#include "tensor/encodings/encode_common.h"

/* ---- MXFP4 ---- */

static void mxfp4_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                        size_t col, size_t n) {
    const pare_mxfp4 *b = PARE_BLOCK_AT(pare_mxfp4, w, row, col, 32);
    (void)offset;
    for (size_t g = 0; g < n / 32; g++, b++, q += 32) {
        scale[g] = pare_e8m0_half(b->e);
        for (int i = 0; i < 16; i++) {
            q[i] = pare_e2m1_values[b->qs[i] & 15];
            q[16 + i] = pare_e2m1_values[b->qs[i] >> 4];
        }
    }
}

PARE_DECODE_BY_CODES(mxfp4, 32, false)

/* Code of the nearest of 0 1 2 3 4 6 8 12 times d; halfway goes to zero, zero has no sign. */
static uint8_t e2m1_code(float x, float d) {
    static const float middle[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f};
    uint8_t code = 0;
    for (int i = 0; i < 7; i++) code = (uint8_t)(code + (fabsf(x) > middle[i] * d));
    return (uint8_t)(code && x < 0.0f ? code + 8 : code);
}

/* The standard's rule: the power of two that puts the largest value's exponent at E2M1's highest
 * (values from 7/8 of the next power upwards are cut to 6 times the scale). */
static void mxfp4_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                         const float *importance) {
    pare_mxfp4 *b = out;
    (void)importance;
    for (size_t c = 0; c < cols; c += 32, b++) {
        float amax = k->abs_max(x + c, 32);
        int exponent = 0; /* amax in [2^(exponent - 1), 2^exponent) */
        frexpf(amax, &exponent);
        int e = amax > 0.0f ? exponent - 1 - 2 + 127 : 0;
        b->e = (uint8_t)(e > 0 ? e : 0);
        float d = pare_e8m0_half(b->e);
        for (size_t i = 0; i < 16; i++)
            b->qs[i] = (uint8_t)(e2m1_code(x[c + i], d) | e2m1_code(x[c + 16 + i], d) << 4);
    }
}

static pare_block_state mxfp4_state(const void *block, size_t n) {
    (void)n; /* 255 is NaN; above 252 the largest code overflows an f32 */
    return ((const pare_mxfp4 *)block)->e > 252 ? PARE_BLOCK_BAD : PARE_BLOCK_FINE;
}

const pare_encoding pare_enc_mxfp4 = {
    .name = "mxfp4",
    .summary = "4-bit floats (E2M1), power-of-two scale per 32",
    .ggml_type = 39,
    .block_len = 32,
    .block_bytes = sizeof(pare_mxfp4),
    .max_abs = FLT_MAX,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = mxfp4_decode,
    .encode_row = mxfp4_encode,
    .codes = mxfp4_codes,
    .code_group = 32,
    .code_min = -12,
    .code_max = 12,
    .block_state = mxfp4_state,
};

/* ---- NVFP4: read only. Without the per-tensor scale that its makers add, E4M3 scales are too
 * coarse for weights of usual size (below 6 * 2^-6 they are subnormal), so we do not write it. ----
 */

static void nvfp4_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                        size_t col, size_t n) {
    const pare_nvfp4 *b = PARE_BLOCK_AT(pare_nvfp4, w, row, col, 64);
    (void)offset;
    for (size_t s = 0; s < n / 64; s++, b++, scale += 4) {
        for (int j = 0; j < 4; j++, q += 16) {
            scale[j] = pare_e4m3_half(b->d[j]);
            for (int i = 0; i < 8; i++) {
                q[i] = pare_e2m1_values[b->qs[8 * j + i] & 15];
                q[8 + i] = pare_e2m1_values[b->qs[8 * j + i] >> 4];
            }
        }
    }
}

PARE_DECODE_BY_CODES(nvfp4, 16, false)

static pare_block_state nvfp4_state(const void *block, size_t n) {
    (void)block, (void)n;
    return PARE_BLOCK_FINE; /* every byte is a finite scale */
}

const pare_encoding pare_enc_nvfp4 = {
    .name = "nvfp4",
    .summary = "4-bit floats (E2M1), E4M3 scale per 16 (read only)",
    .ggml_type = 40,
    .block_len = 64,
    .block_bytes = sizeof(pare_nvfp4),
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = nvfp4_decode,
    .codes = nvfp4_codes,
    .code_group = 16,
    .code_min = -12,
    .code_max = 12,
    .block_state = nvfp4_state,
};
