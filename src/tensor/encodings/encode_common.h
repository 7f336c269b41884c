/* What the encodings share. */
#ifndef PARE_SRC_TENSOR_ENCODINGS_ENCODE_COMMON_H
#define PARE_SRC_TENSOR_ENCODINGS_ENCODE_COMMON_H

#include "kernels/blocks.h"
#include "kernels/unpack.h"
#include "tensor/encoding.h"

#include <float.h>
#include <math.h>

/* The descriptors, for the files that name their own before its definition. */
#define PARE_ENCODING(name) extern const pare_encoding pare_enc_##name;
#include "tensor/encodings.def"
#undef PARE_ENCODING

/* The block that holds value `col` of a row; for encodings whose rows are whole blocks. */
#define PARE_BLOCK_AT(type, view, row, col, len)                                                   \
    ((const type *)((const uint8_t *)(view)->part[0] + (row) * (view)->row_bytes) + (col) / (len))

/* Defines NAME_decode for a descriptor from NAME_codes: at most one rounding per value. */
#define PARE_DECODE_BY_CODES(name, group, with_offset)                                             \
    static void name##_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {    \
        pare_decode_by_codes(y, w, row, col, n, name##_codes, group, with_offset);                 \
    }

/* y = scale * q + offset in pieces of 256 values. */
void pare_decode_by_codes(float *y, const pare_view *w, size_t row, size_t col, size_t n,
                          pare_codes_fn codes, size_t group, bool has_offset);

/* The same for sparse forms, whose rows may end at any width. */
#define PARE_SPARSE_DECODE(name)                                                                   \
    static void name##_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {    \
        pare_sparse_decode(y, w, row, col, n, name##_codes);                                       \
    }

void pare_sparse_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n,
                        pare_codes_fn codes);

/* Whole-number codes (0..nmax) of n <= 16 scales or minima x >= 0 and their common scale, by the
 * least squared error under weights w. */
float pare_fit_scales(uint8_t *q, const float *x, const float *w, size_t n, int nmax);

/* Sparse forms: codes of the n <= 32 stored values of 32 columns; returns their bf16 scale, rounded
 * up so that no value is cut. */
uint16_t pare_sparse_codes(const pare_encode_kernels *k, int8_t *q, const float *values, size_t n);

/* The same for 64 columns, n <= 64, in nibbles that index pare_sparse_levels, by the least squared
 * error of a search over scales of both signs. */
uint16_t pare_sparse_nibbles(uint8_t *q, const float *values, size_t n);

/* Gives *out zeroed storage for parts of these sizes and sets enc and view (row_bytes: of part 0).
 * In encoding.c. */
pare_status pare_tensor_alloc(pare_tensor *out, const pare_encoding *enc, size_t rows, size_t cols,
                              const size_t bytes[PARE_MAX_PARTS], pare_error *err);

/* A bf16 scale of codes of up to 8 bits: finite, and so is 128 times it. */
static inline bool pare_scale_fits(uint16_t b) { return (b & 0x7FFF) <= 0x7BFF; }

static inline bool pare_bf16_finite(uint16_t b) { return (b & 0x7F80) != 0x7F80; }

static inline bool pare_half_finite(uint16_t h) { return (h & 0x7C00) != 0x7C00; }
static inline bool pare_half_zero(uint16_t h) { return (h & 0x7FFF) == 0; }

/* PARE_BLOCK_BAD, ZERO or FINE for a block with one scale. */
static inline pare_block_state pare_half_state(uint16_t d) {
    return !pare_half_finite(d) ? PARE_BLOCK_BAD
           : pare_half_zero(d)  ? PARE_BLOCK_ZERO
                                : PARE_BLOCK_FINE;
}

/* The same for a scale and a minimum: zero when both are. */
static inline pare_block_state pare_half_pair_state(uint16_t d, uint16_t m) {
    if (!pare_half_finite(d) || !pare_half_finite(m)) return PARE_BLOCK_BAD;
    return pare_half_zero(d) && pare_half_zero(m) ? PARE_BLOCK_ZERO : PARE_BLOCK_FINE;
}

/* 1 / d; 0 where d is zero or so small that the quotient could overflow. */
static inline float pare_inverse(float d) { return fabsf(d) >= 0x1p-126f ? 1.0f / d : 0.0f; }

/* ---- unpacking; constant n and restrict let the compiler use vectors ---- */

/* q[i] = low nibble of qs[i] - zero, q[n + i] = high nibble - zero. */
static inline void pare_unpack_nibbles(int8_t *restrict q, const uint8_t *restrict qs, int n,
                                       int zero) {
    for (int i = 0; i < n; i++) {
        q[i] = (int8_t)((qs[i] & 15) - zero);
        q[n + i] = (int8_t)((qs[i] >> 4) - zero);
    }
}

/* q[32 * g + l] = (qs[l] >> 2g & 3) - zero, g = 0..3. */
static inline void pare_unpack_pairs(int8_t *restrict q, const uint8_t *restrict qs, int zero) {
    for (int l = 0; l < 32; l++) {
        q[l] = (int8_t)((qs[l] & 3) - zero);
        q[32 + l] = (int8_t)((qs[l] >> 2 & 3) - zero);
        q[64 + l] = (int8_t)((qs[l] >> 4 & 3) - zero);
        q[96 + l] = (int8_t)((qs[l] >> 6) - zero);
    }
}

/* q[l] += value where bit `bit` of mask[l] is set, l < 32. */
static inline __attribute__((always_inline)) void
pare_add_plane(int8_t *restrict q, const uint8_t *restrict mask, int bit, int value) {
    for (int l = 0; l < 32; l++) q[l] = (int8_t)(q[l] + (mask[l] >> bit & 1) * value);
}

/* q[i] += 16 where bit i of bits is set, i < 32. The codes are 0..15. */
static inline void pare_add_fifth_bits(int8_t *q, uint32_t bits) {
    for (int i = 0; i < 4; i++, q += 8) {
        /* eight copies of the byte, bit k of copy k is left and becomes 0x10 */
        uint64_t v = (uint64_t)(bits >> 8 * i & 255) * 0x0101010101010101u & 0x8040201008040201u;
        v = ((v + 0x7F7F7F7F7F7F7F7Fu) >> 3) & 0x1010101010101010u;
        uint64_t codes;
        memcpy(&codes, q, 8);
        codes |= v;
        memcpy(q, &codes, 8);
    }
}

/* Sum of squares from the first to the last value, in f32 as the searches demand. */
static inline float pare_sum_squares(const float *x, size_t n) {
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

/* v rounded half to even as a whole number in [low, high]; NaN gives low. */
static inline int pare_round_clamp(float v, int low, int high) {
    v = v > (float)low ? v : (float)low;
    v = v < (float)high ? v : (float)high;
    return (int)((v + 12582912.0f) - 12582912.0f);
}

#endif
