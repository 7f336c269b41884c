/* Q4_K and Q5_K: 4- or 5-bit codes, a 6-bit scale and minimum per 32 values, two half scales per
 * 256: 4.5 and 5.5 bits per weight. And their _tail forms for rows that are no multiple of 256
 * (but of 64): the last super-block is short, see kernels/blocks.h. A width of 576 then costs 4.67
 * bits per weight, where ggml falls back to Q5_0 at 5.5. */
#include "tensor/encodings/encode_common.h"

/* ---- encoding, common to both ---- */

static void pack_scales(uint8_t s[12], const uint8_t *scale, const uint8_t *min, size_t n) {
    memset(s, 0, 12);
    for (size_t j = 0; j < n; j++) {
        if (j < 4) {
            s[j] |= scale[j];
            s[j + 4] |= min[j];
        } else {
            s[j + 4] = (uint8_t)((scale[j] & 15) | (min[j] & 15) << 4);
            s[j - 4] |= (uint8_t)(scale[j] >> 4 << 6);
            s[j] |= (uint8_t)(min[j] >> 4 << 6);
        }
    }
}

/* Codes 0..63 of n scales or minima and their common scale: the largest becomes 63. */
static float scale_codes(uint8_t *codes, const float *values, size_t n) {
    float max = 0.0f;
    for (size_t j = 0; j < n; j++) max = values[j] > max ? values[j] : max;
    float inverse = max > 0.0f ? 63.0f / max : 0.0f;
    for (size_t j = 0; j < n; j++) codes[j] = (uint8_t)pare_round_clamp(inverse * values[j], 0, 63);
    return max / 63.0f;
}

/* Header and codes of one super-block of n values (256, or 64, 128, 192 at a row's end). */
static void encode_super_block(const pare_encode_kernels *k, pare_k_head *head, uint8_t codes[256],
                               const float *x, const float *importance, size_t n,
                               const pare_fit *plain) {
    float w[256], scales[8], mins[8], d, dmin;
    uint8_t scale_code[8], min_code[8];
    size_t blocks = n / 32;
    if (importance) {
        const pare_fit informed = {plain->nmax, -0.9f, 0.05f, 36, false};
        float sums[8] = {0};
        k->weigh(w, x, importance, n, 2.0f * pare_sum_squares(x, n) / (float)n);
        for (size_t i = 0; i < n; i++) sums[i / 32] += w[i];
        k->fit(codes, scales, mins, x, w, blocks, 32, &informed);
        d = pare_fit_scales(scale_code, scales, sums, blocks, 63);
        dmin = pare_fit_scales(min_code, mins, sums, blocks, 63);
    } else {
        k->weigh_plain(w, x, blocks, 32);
        k->fit(codes, scales, mins, x, w, blocks, 32, plain);
        d = scale_codes(scale_code, scales, blocks);
        dmin = scale_codes(min_code, mins, blocks);
    }
    head->d = pare_f32_to_f16(d);
    head->dmin = pare_f32_to_f16(dmin);
    pack_scales(head->scales, scale_code, min_code, blocks);
    d = pare_f16_to_f32(head->d);
    dmin = pare_f16_to_f32(head->dmin);
    for (size_t j = 0; j < blocks; j++) { /* again, with the scales as they are stored */
        float stored = d * (float)scale_code[j];
        if (stored != 0.0f)
            k->round_codes(codes + 32 * j, x + 32 * j, 32, stored, dmin * (float)min_code[j], 0,
                           plain->nmax);
    }
}

/* scale and offset of `blocks` sub-blocks. */
static void read_head(float *scale, float *offset, const pare_k_head *head, size_t blocks) {
    float d = pare_f16_to_f32(head->d), dmin = pare_f16_to_f32(head->dmin);
    uint8_t codes[16];
    pare_unpack_scales_k4(codes, head->scales);
    for (size_t j = 0; j < blocks; j++) {
        scale[j] = d * (float)codes[j];
        offset[j] = -(dmin * (float)codes[8 + j]);
    }
}

static pare_block_state head_state(const void *block, size_t n) {
    const pare_k_head *head = block;
    (void)n;
    return pare_half_pair_state(head->d, head->dmin);
}

/* ---- Q4_K ---- */

/* Serves both forms: a short super-block is the beginning of a full one. */
static void q4_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q4_k *b = PARE_BLOCK_AT(pare_q4_k, w, row, col, 256);
    for (; n; b++, scale += 8, offset += 8) {
        size_t len = n < 256 ? n : 256;
        read_head(scale, offset, (const pare_k_head *)b, len / 32);
        for (size_t i = 0; i < len / 64; i++, q += 64)
            pare_unpack_nibbles(q, b->qs + 32 * i, 32, 0);
        n -= len;
    }
}

PARE_DECODE_BY_CODES(q4_k, 32, true)

static void q4_k_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    static const pare_fit fit = {15, -1.0f, 0.1f, 20, false};
    pare_q4_k *b = out;
    uint8_t codes[256];
    for (size_t c = 0; c < cols; c += 256, b++) {
        size_t n = cols - c < 256 ? cols - c : 256;
        encode_super_block(k, (pare_k_head *)b, codes, x + c, importance ? importance + c : NULL, n,
                           &fit);
        for (size_t i = 0; i < n / 64; i++)
            for (size_t l = 0; l < 32; l++)
                b->qs[32 * i + l] = (uint8_t)(codes[64 * i + l] | codes[64 * i + 32 + l] << 4);
    }
}

static size_t q4_k_tail_bytes(size_t n) {
    return sizeof(pare_k_head) + n / 64 * sizeof(pare_q4_k_piece);
}

const pare_encoding pare_enc_q4_k = {
    .name = "q4_k",
    .summary = "4 bits, 6-bit scale and minimum per 32 in blocks of 256",
    .ggml_type = 12,
    .block_len = 256,
    .block_bytes = sizeof(pare_q4_k),
    .max_abs = 65504.0f * 63 * 15,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q4_k_decode,
    .encode_row = q4_k_encode,
    .codes = q4_k_codes,
    .code_group = 32,
    .code_min = 0,
    .code_max = 15,
    .has_offset = true,
    .dot = PARE_DOT_q4_k,
    .block_state = head_state,
};

const pare_encoding pare_enc_q4_k_tail = {
    .name = "q4_k_tail",
    .summary = "q4_k for widths that are a multiple of 64: the last block is short",
    .ggml_type = -1,
    .block_len = 64,
    .block_bytes = sizeof(pare_q4_k),
    .span = 256,
    .tail_bytes = q4_k_tail_bytes,
    .max_abs = 65504.0f * 63 * 15,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q4_k_decode,
    .encode_row = q4_k_encode,
    .codes = q4_k_codes,
    .code_group = 32,
    .code_min = 0,
    .code_max = 15,
    .has_offset = true,
    .dot = PARE_DOT_q4_k,
    .block_state = head_state,
};

/* ---- Q5_K ---- */

/* The short super-block: a header, then pieces of 64 values. */
static void q5_k_tail_codes(int8_t *q, const pare_q5_k_piece *p, size_t pieces) {
    for (; pieces; pieces--, p++, q += 64) {
        pare_unpack_nibbles(q, p->qs, 32, 0);
        pare_add_fifth_bits(q, p->qh[0]);
        pare_add_fifth_bits(q + 32, p->qh[1]);
    }
}

static void q5_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q5_k *b = PARE_BLOCK_AT(pare_q5_k, w, row, col, 256);
    for (; n >= 256; b++, scale += 8, offset += 8, n -= 256) {
        read_head(scale, offset, (const pare_k_head *)b, 8);
        for (int i = 0; i < 4; i++) pare_unpack_nibbles(q + 64 * i, b->qs + 32 * i, 32, 0);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) pare_add_plane(q + 32 * j, b->qh, j, 16);
        q += 256;
    }
    if (n == 0) return;
    const pare_k_head *head = (const pare_k_head *)b;
    read_head(scale, offset, head, n / 32);
    q5_k_tail_codes(q, (const pare_q5_k_piece *)(head + 1), n / 64);
}

PARE_DECODE_BY_CODES(q5_k, 32, true)

static void q5_k_pack(pare_q5_k *b, const uint8_t codes[256]) {
    memset(b->qh, 0, sizeof b->qh);
    for (int j = 0; j < 8; j++)
        for (int l = 0; l < 32; l++) b->qh[l] |= (uint8_t)(codes[32 * j + l] >> 4 << j);
    for (int i = 0; i < 4; i++)
        for (int l = 0; l < 32; l++)
            b->qs[32 * i + l] = (uint8_t)((codes[64 * i + l] & 15) | codes[64 * i + 32 + l] << 4);
}

static void q5_k_tail_pack(pare_q5_k_piece *p, const uint8_t *codes, size_t pieces) {
    for (; pieces; pieces--, p++, codes += 64) {
        memset(p, 0, sizeof *p);
        for (int l = 0; l < 32; l++) {
            p->qh[0] |= (uint32_t)(codes[l] >> 4) << l;
            p->qh[1] |= (uint32_t)(codes[32 + l] >> 4) << l;
            p->qs[l] = (uint8_t)((codes[l] & 15) | codes[32 + l] << 4);
        }
    }
}

static void q5_k_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    static const pare_fit fit = {31, -0.5f, 0.1f, 15, false};
    pare_q5_k *b = out;
    uint8_t codes[256];
    for (size_t c = 0; c < cols; c += 256, b++) {
        size_t n = cols - c < 256 ? cols - c : 256;
        pare_k_head *head = (pare_k_head *)b;
        encode_super_block(k, head, codes, x + c, importance ? importance + c : NULL, n, &fit);
        if (n == 256)
            q5_k_pack(b, codes);
        else
            q5_k_tail_pack((pare_q5_k_piece *)(head + 1), codes, n / 64);
    }
}

static size_t q5_k_tail_bytes(size_t n) {
    return sizeof(pare_k_head) + n / 64 * sizeof(pare_q5_k_piece);
}

const pare_encoding pare_enc_q5_k = {
    .name = "q5_k",
    .summary = "5 bits, 6-bit scale and minimum per 32 in blocks of 256",
    .ggml_type = 13,
    .block_len = 256,
    .block_bytes = sizeof(pare_q5_k),
    .max_abs = 65504.0f * 63 * 31,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q5_k_decode,
    .encode_row = q5_k_encode,
    .codes = q5_k_codes,
    .code_group = 32,
    .code_min = 0,
    .code_max = 31,
    .has_offset = true,
    .dot = PARE_DOT_q5_k,
    .block_state = head_state,
};

const pare_encoding pare_enc_q5_k_tail = {
    .name = "q5_k_tail",
    .summary = "q5_k for widths that are a multiple of 64: the last block is short",
    .ggml_type = -1,
    .block_len = 64,
    .block_bytes = sizeof(pare_q5_k),
    .span = 256,
    .tail_bytes = q5_k_tail_bytes,
    .max_abs = 65504.0f * 63 * 31,
    .n_parts = 1,
    .parts = {{"", "U8", 1, true}},
    .decode = q5_k_decode,
    .encode_row = q5_k_encode,
    .codes = q5_k_codes,
    .code_group = 32,
    .code_min = 0,
    .code_max = 31,
    .has_offset = true,
    .dot = PARE_DOT_q5_k,
    .block_state = head_state,
};
