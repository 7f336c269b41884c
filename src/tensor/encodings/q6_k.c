/* Q6_K: 6-bit codes, an 8-bit scale per 16 values, a half scale per 256: 6.56 bits per weight. And
 * q6_k_tail for rows that are a multiple of 64, see kernels/blocks.h: 6.58 bits per weight at a
 * width of 576, where ggml falls back to Q8_0 at 8.5. */
#include "tensor/encodings/encode_common.h"

/* 64 values of a short one. */
static void unpack_piece(int8_t *restrict q, const uint8_t *restrict ql,
                         const uint8_t *restrict qh) {
    for (int l = 0; l < 16; l++) {
        q[l] = (int8_t)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
        q[16 + l] = (int8_t)(((ql[16 + l] & 15) | (qh[l] & 12) << 2) - 32);
        q[32 + l] = (int8_t)((ql[l] >> 4 | (qh[l] & 48)) - 32);
        q[48 + l] = (int8_t)((ql[16 + l] >> 4 | (qh[l] >> 2 & 48)) - 32);
    }
}

static void tail_codes(int8_t *q, float *scale, const uint8_t *tail, size_t pieces) {
    uint16_t half;
    memcpy(&half, tail, 2);
    float d = pare_f16_to_f32(half);
    const pare_q6_k_piece *p = (const pare_q6_k_piece *)(tail + 2);
    for (; pieces; pieces--, p++, q += 64, scale += 4) {
        for (int j = 0; j < 4; j++) scale[j] = d * (float)p->scales[j];
        unpack_piece(q, p->ql, p->qh);
    }
}

/* 128 values of a full super-block. */
static void unpack_half(int8_t *restrict q, const uint8_t *restrict ql,
                        const uint8_t *restrict qh) {
    for (int l = 0; l < 32; l++) {
        q[l] = (int8_t)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
        q[32 + l] = (int8_t)(((ql[32 + l] & 15) | (qh[l] & 12) << 2) - 32);
        q[64 + l] = (int8_t)((ql[l] >> 4 | (qh[l] & 48)) - 32);
        q[96 + l] = (int8_t)((ql[32 + l] >> 4 | (qh[l] >> 2 & 48)) - 32);
    }
}

static void q6_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q6_k *b = PARE_BLOCK_AT(pare_q6_k, w, row, col, 256);
    (void)offset;
    for (; n >= 256; b++, q += 256, scale += 16, n -= 256) {
        float d = pare_f16_to_f32(b->d);
        for (int j = 0; j < 16; j++) scale[j] = d * (float)b->scales[j];
        unpack_half(q, b->ql, b->qh);
        unpack_half(q + 128, b->ql + 64, b->qh + 32);
    }
    if (n) tail_codes(q, scale, (const uint8_t *)b, n / 64);
}

PARE_DECODE_BY_CODES(q6_k, 16, false)

/* Codes (+ 32), scales and d of n values; false when all are (nearly) zero. */
static bool encode_super_block(const pare_encode_kernels *k, uint16_t *half, int8_t *scale_code,
                               uint8_t *codes, const float *x, const float *importance, size_t n) {
    float squares[256], scales[16], max = 0.0f, amax = 0.0f;
    if (!importance)
        for (size_t i = 0; i < n; i++) squares[i] = x[i] * x[i];
    k->symmetric(codes, scales, x, importance ? importance : squares, n / 16, 16, 32);
    for (size_t j = 0; j < n / 16; j++) {
        if (fabsf(scales[j]) > amax) {
            amax = fabsf(scales[j]);
            max = scales[j];
        }
    }
    if (amax < PARE_GROUP_EPS) return false;
    float inverse = -128.0f / max;
    *half = pare_f32_to_f16(1.0f / inverse);
    float d = pare_f16_to_f32(*half);
    for (size_t j = 0; j < n / 16; j++) {
        scale_code[j] = (int8_t)pare_round_clamp(inverse * scales[j], -128, 127);
        float stored = d * (float)scale_code[j];
        if (stored != 0.0f) k->round_codes(codes + 16 * j, x + 16 * j, 16, stored, 0.0f, -32, 31);
    }
    return true;
}

static void pack(pare_q6_k *b, const uint8_t codes[256]) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *c = codes + 128 * half;
        uint8_t *ql = b->ql + 64 * half, *qh = b->qh + 32 * half;
        for (int l = 0; l < 32; l++) {
            ql[l] = (uint8_t)((c[l] & 15) | c[64 + l] << 4);
            ql[32 + l] = (uint8_t)((c[32 + l] & 15) | c[96 + l] << 4);
            qh[l] = (uint8_t)(c[l] >> 4 | c[32 + l] >> 4 << 2 | c[64 + l] >> 4 << 4 |
                              c[96 + l] >> 4 << 6);
        }
    }
}

static void tail_pack(pare_q6_k_piece *p, const uint8_t *codes, const int8_t *scale_code,
                      size_t pieces) {
    for (; pieces; pieces--, p++, codes += 64, scale_code += 4) {
        memcpy(p->scales, scale_code, 4);
        memset(p->qh, 0, sizeof p->qh);
        for (int l = 0; l < 32; l++) p->ql[l] = (uint8_t)((codes[l] & 15) | codes[32 + l] << 4);
        for (int i = 0; i < 64; i++) p->qh[i % 16] |= (uint8_t)(codes[i] >> 4 << 2 * (i / 16));
    }
}

static size_t q6_k_tail_bytes(size_t n) { return 2 + n / 64 * sizeof(pare_q6_k_piece); }

static void q6_k_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    pare_q6_k *b = out;
    for (size_t c = 0; c < cols; c += 256, b++) {
        size_t n = cols - c < 256 ? cols - c : 256;
        uint8_t codes[256];
        int8_t scale_code[16];
        uint16_t d;
        bool some = encode_super_block(k, &d, scale_code, codes, x + c,
                                       importance ? importance + c : NULL, n);
        if (!some) {
            memset(b, 0, n == 256 ? sizeof *b : q6_k_tail_bytes(n));
        } else if (n == 256) {
            pack(b, codes);
            memcpy(b->scales, scale_code, 16);
            b->d = d;
        } else {
            memcpy(b, &d, 2);
            tail_pack((pare_q6_k_piece *)((uint8_t *)b + 2), codes, scale_code, n / 64);
        }
    }
}

static pare_block_state q6_k_state(const void *block, size_t n) {
    uint16_t d;
    memcpy(&d, (const uint8_t *)block + (n == 256 ? offsetof(pare_q6_k, d) : 0), 2);
    return pare_half_state(d);
}

const pare_encoding pare_enc_q6_k = {
    .name = "q6_k",
    .summary = "6 bits, 8-bit scale per 16 in blocks of 256",
    .ggml_type = 14,
    .block_len = 256,
    .block_bytes = sizeof(pare_q6_k),
    .max_abs = 65504.0f * 128 * 32,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q6_k_decode,
    .encode_row = q6_k_encode,
    .codes = q6_k_codes,
    .code_group = 16,
    .code_min = -32,
    .code_max = 31,
    .dot = PARE_DOT_q6_k,
    .block_state = q6_k_state,
};

const pare_encoding pare_enc_q6_k_tail = {
    .name = "q6_k_tail",
    .summary = "q6_k for widths that are a multiple of 64: the last block is short",
    .ggml_type = -1,
    .block_len = 64,
    .block_bytes = sizeof(pare_q6_k),
    .span = 256,
    .tail_bytes = q6_k_tail_bytes,
    .max_abs = 65504.0f * 128 * 32,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q6_k_decode,
    .encode_row = q6_k_encode,
    .codes = q6_k_codes,
    .code_group = 16,
    .code_min = -32,
    .code_max = 31,
    .dot = PARE_DOT_q6_k,
    .block_state = q6_k_state,
};
