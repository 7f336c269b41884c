/* The forms for models that were trained with few values per weight: TQ1_0 and TQ2_0 (-d, 0, d per
 * 256), Q1_0 (-d, d per 128), Q2_0 (-d, 0, d, 2d per 64). ggml's layouts. */
#include "tensor/encodings/encode_common.h"

/* Rounds half away from zero; |v| <= 1 but for rounding. */
static int ternary(float v) { return v >= 0.5f ? 1 : v <= -0.5f ? -1 : 0; }

/* ---- TQ2_0 ---- */

static void tq2_0_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                        size_t col, size_t n) {
    const pare_tq2_0 *b = PARE_BLOCK_AT(pare_tq2_0, w, row, col, 256);
    (void)offset;
    for (size_t s = 0; s < n / 256; s++, b++, q += 256, scale += 8) {
        for (int g = 0; g < 8; g++) scale[g] = pare_f16_to_f32(b->d);
        pare_unpack_pairs(q, b->qs, 1);
        pare_unpack_pairs(q + 128, b->qs + 32, 1);
    }
}

PARE_DECODE_BY_CODES(tq2_0, 32, false)

static void tq2_0_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                         const float *importance) {
    pare_tq2_0 *b = out;
    (void)importance;
    for (size_t c = 0; c < cols; c += 256, b++) {
        float d = k->abs_max(x + c, 256), inverse = pare_inverse(d);
        memset(b->qs, 0, sizeof b->qs);
        b->d = pare_f32_to_f16(d);
        for (size_t i = 0; i < 256; i++) {
            int code = ternary(x[c + i] * inverse) + 1;
            b->qs[32 * (i / 128) + i % 32] |= (uint8_t)(code << 2 * (i / 32 % 4));
        }
    }
}

static pare_block_state tq2_0_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_tq2_0 *)block)->d);
}

const pare_encoding pare_enc_tq2_0 = {
    .name = "tq2_0",
    .summary = "ternary in 2 bits, scale per 256",
    .ggml_type = 35,
    .block_len = 256,
    .block_bytes = sizeof(pare_tq2_0),
    .max_abs = 65504.0f,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = tq2_0_decode,
    .encode_row = tq2_0_encode,
    .codes = tq2_0_codes,
    .code_group = 32,
    .code_min = -1,
    .code_max = 2, /* a file may hold code 3 */
    .block_state = tq2_0_state,
};

/* ---- TQ1_0 ---- */

/* A row of trits of the block: `bytes` bytes from `first` on, value k * bytes + m is trit k of byte
 * m. */
typedef struct trit_run {
    int first, bytes, trits;
} trit_run;
static const trit_run trit_runs[3] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};

static inline void unpack_trits(int8_t *restrict q, const uint8_t *restrict bytes, int n,
                                uint8_t power) {
    for (int m = 0; m < n; m++) {
        uint8_t p = (uint8_t)(bytes[m] * power);
        q[m] = (int8_t)((p * 3 >> 8) - 1);
    }
}

static void tq1_0_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                        size_t col, size_t n) {
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    const pare_tq1_0 *b = PARE_BLOCK_AT(pare_tq1_0, w, row, col, 256);
    (void)offset;
    for (size_t s = 0; s < n / 256; s++, b++, q += 256) {
        const uint8_t *bytes = (const uint8_t *)b; /* qs, then qh */
        for (int g = 0; g < 8; g++) *scale++ = pare_f16_to_f32(b->d);
        for (int k = 0; k < 5; k++) unpack_trits(q + 32 * k, bytes, 32, power[k]);
        for (int k = 0; k < 5; k++) unpack_trits(q + 160 + 16 * k, bytes + 32, 16, power[k]);
        for (int k = 0; k < 4; k++) unpack_trits(q + 240 + 4 * k, bytes + 48, 4, power[k]);
    }
}

PARE_DECODE_BY_CODES(tq1_0, 32, false)

static void tq1_0_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                         const float *importance) {
    pare_tq1_0 *b = out;
    (void)importance;
    for (size_t c = 0; c < cols; c += 256, b++) {
        float d = k->abs_max(x + c, 256), inverse = pare_inverse(d);
        const float *from = x + c;
        uint8_t *bytes = (uint8_t *)b;
        for (int r = 0; r < 3; r++) {
            const trit_run *run = &trit_runs[r];
            for (int m = 0; m < run->bytes; m++) {
                unsigned number = 0; /* five trits, the first is the highest; a missing one is 0 */
                for (int j = 0; j < 5; j++) {
                    unsigned trit =
                        j < run->trits ? (unsigned)(ternary(from[j * run->bytes + m] * inverse) + 1)
                                       : 0;
                    number = 3 * number + trit;
                }
                bytes[run->first + m] = (uint8_t)((number * 256 + 242) / 243);
            }
            from += run->bytes * run->trits;
        }
        b->d = pare_f32_to_f16(d);
    }
}

static pare_block_state tq1_0_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_tq1_0 *)block)->d);
}

const pare_encoding pare_enc_tq1_0 = {
    .name = "tq1_0",
    .summary = "ternary, five in a byte, scale per 256",
    .ggml_type = 34,
    .block_len = 256,
    .block_bytes = sizeof(pare_tq1_0),
    .max_abs = 65504.0f,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = tq1_0_decode,
    .encode_row = tq1_0_encode,
    .codes = tq1_0_codes,
    .code_group = 32,
    .code_min = -1,
    .code_max = 1,
    .block_state = tq1_0_state,
};

/* ---- Q1_0 ---- */

static void q1_0_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q1_0 *b = PARE_BLOCK_AT(pare_q1_0, w, row, col, 128);
    (void)offset;
    for (size_t s = 0; s < n / 128; s++, b++, q += 128) {
        for (int g = 0; g < 4; g++) *scale++ = pare_f16_to_f32(b->d);
        for (int i = 0; i < 128; i++) q[i] = b->bits[i / 8] >> i % 8 & 1 ? 1 : -1;
    }
}

PARE_DECODE_BY_CODES(q1_0, 32, false)

/* d = mean |x|: the least squared error with signs as codes. */
static void q1_0_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    pare_q1_0 *b = out;
    (void)k, (void)importance;
    for (size_t c = 0; c < cols; c += 128, b++) {
        float sum = 0.0f;
        memset(b->bits, 0, sizeof b->bits);
        for (size_t i = 0; i < 128; i++) {
            sum += fabsf(x[c + i]);
            b->bits[i / 8] |= (uint8_t)((x[c + i] >= 0.0f) << i % 8);
        }
        b->d = pare_f32_to_f16(sum / 128.0f);
    }
}

static pare_block_state q1_0_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_q1_0 *)block)->d);
}

const pare_encoding pare_enc_q1_0 = {
    .name = "q1_0",
    .summary = "1 bit (sign), scale per 128",
    .ggml_type = 41,
    .block_len = 128,
    .block_bytes = sizeof(pare_q1_0),
    .max_abs = 65504.0f,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q1_0_decode,
    .encode_row = q1_0_encode,
    .codes = q1_0_codes,
    .code_group = 32,
    .code_min = -1,
    .code_max = 1,
    .block_state = q1_0_state,
};

/* ---- Q2_0: read only ---- */

static void q2_0_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q2_0 *b = PARE_BLOCK_AT(pare_q2_0, w, row, col, 64);
    (void)offset;
    for (size_t s = 0; s < n / 64; s++, b++, q += 64) {
        for (int g = 0; g < 2; g++) *scale++ = pare_f16_to_f32(b->d);
        for (int i = 0; i < 64; i++) q[i] = (int8_t)((b->qs[i / 4] >> 2 * (i % 4) & 3) - 1);
    }
}

PARE_DECODE_BY_CODES(q2_0, 32, false)

static pare_block_state q2_0_state(const void *block, size_t n) {
    (void)n;
    return pare_half_state(((const pare_q2_0 *)block)->d);
}

const pare_encoding pare_enc_q2_0 = {
    .name = "q2_0",
    .summary = "2 bits, scale per 64 (read only)",
    .ggml_type = 42,
    .block_len = 64,
    .block_bytes = sizeof(pare_q2_0),
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q2_0_decode,
    .codes = q2_0_codes,
    .code_group = 32,
    .code_min = -1,
    .code_max = 2,
    .block_state = q2_0_state,
};
