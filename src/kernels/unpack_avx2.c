/* Codes of the block formats with AVX2, 32 at a time. Formulas and drawings: kernels/blocks.h. */
#include "kernels/blocks.h"
#include "kernels/intrinsics.h"
#include "kernels/tile_impl.h"
#include "kernels/unpack.h"

#include <string.h>

#define INLINE TILE_INLINE

enum { NR = PARE_TILE_NR };

INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256(p); }
INLINE void store_256(void *p, __m256i v) { _mm256_storeu_si256(p, v); }
INLINE __m256i low_bits(int mask) { return _mm256_set1_epi8((char)mask); }

/* (v >> n) & mask in each byte; no bit of a neighbour is left in the mask. */
INLINE __m256i bits(__m256i v, const int n, int mask) {
    return _mm256_and_si256(_mm256_srli_epi16(v, n), low_bits(mask));
}

/* The 32 nibbles of 16 bytes, the low ones first. */
INLINE __m256i nibbles(const uint8_t qs[16]) {
    __m128i v = _mm_loadu_si128((const void *)qs);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
    return _mm256_and_si256(both, low_bits(15));
}

/* 16 in each byte whose bit of the 32 is set. */
INLINE __m256i fifth_bits(uint32_t qh) {
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2,
                                             2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit_of = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)qh), byte_of);
    v = _mm256_cmpeq_epi8(_mm256_and_si256(v, bit_of), bit_of);
    return _mm256_and_si256(v, low_bits(16));
}

INLINE __m256i iq4_levels(__m256i codes) {
    __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)pare_iq4_values));
    return _mm256_shuffle_epi8(table, codes);
}

INLINE const char *row_of(const pare_view *w, size_t row) {
    return (const char *)w->part[0] + row * w->row_bytes;
}

/* --- blocks of 32 --- */

/* Defines NAME: for each block b of the row's part, codes CODES, scale d and, with OFFSET, m. */
#define BLOCKS_OF_32(NAME, TYPE, CODES, OFFSET)                                                    \
    static void NAME(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,       \
                     size_t col, size_t n) {                                                       \
        const TYPE *b = (const TYPE *)row_of(w, row) + col / 32;                                   \
        (void)offset;                                                                              \
        for (size_t g = 0; g < n / 32; g++, b++) {                                                 \
            scale[g] = pare_f16_to_f32(b->d);                                                      \
            OFFSET;                                                                                \
            store_256(q + 32 * g, CODES);                                                          \
        }                                                                                          \
    }
BLOCKS_OF_32(q4_0_codes, pare_q4_0, _mm256_sub_epi8(nibbles(b->qs), low_bits(8)), )
BLOCKS_OF_32(q4_1_codes, pare_q4_1, nibbles(b->qs), offset[g] = pare_f16_to_f32(b->m))
BLOCKS_OF_32(q5_0_codes, pare_q5_0,
             _mm256_sub_epi8(_mm256_or_si256(nibbles(b->qs), fifth_bits(b->qh)), low_bits(16)), )
BLOCKS_OF_32(q5_1_codes, pare_q5_1, _mm256_or_si256(nibbles(b->qs), fifth_bits(b->qh)),
             offset[g] = pare_f16_to_f32(b->m))
BLOCKS_OF_32(q8_0_codes, pare_q8_0, load_256(b->q), )
BLOCKS_OF_32(iq4_nl_codes, pare_iq4_nl, iq4_levels(nibbles(b->qs)), )

/* --- super-blocks of 256 --- */

/* out[8] = d * (signed or unsigned bytes). */
INLINE void scale_8(float *out, float d, __m256i values) {
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(values)));
}

INLINE void scale_16_signed(float *out, float d, const int8_t values[16]) {
    __m128i v = _mm_loadu_si128((const void *)values);
    scale_8(out, d, _mm256_cvtepi8_epi32(v));
    scale_8(out + 8, d, _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
}

INLINE void scale_16_unsigned(float *out, float d, __m128i v) {
    scale_8(out, d, _mm256_cvtepu8_epi32(v));
    scale_8(out + 8, d, _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}

/* Scales and offsets of Q4_K and Q5_K. */
INLINE void k4_scales(float *scale, float *offset, uint16_t d, uint16_t dmin, const uint8_t s[12]) {
    uint8_t codes[16];
    pare_unpack_scales_k4(codes, s);
    __m128i v = _mm_loadu_si128((const void *)codes);
    scale_8(scale, pare_f16_to_f32(d), _mm256_cvtepu8_epi32(v));
    scale_8(offset, -pare_f16_to_f32(dmin), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}

/* The K types here serve the _tail forms too, whose rows may end in a short super-block. */

/* A short super-block is the beginning of a full one. */
static void q4_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q4_k *b = (const pare_q4_k *)row_of(w, row) + col / 256;
    for (size_t s = 0; s < n; s += 256, b++, scale += 8, offset += 8) {
        float scales[8], offsets[8];
        size_t pieces = n - s < 256 ? (n - s) / 64 : 4;
        k4_scales(scales, offsets, b->d, b->dmin, b->scales);
        memcpy(scale, scales, pieces * 2 * sizeof *scale);
        memcpy(offset, offsets, pieces * 2 * sizeof *offset);
        for (size_t i = 0; i < pieces; i++, q += 64) {
            __m256i v = load_256(b->qs + 32 * i);
            store_256(q, bits(v, 0, 15));
            store_256(q + 32, bits(v, 4, 15));
        }
    }
}

static void q5_k_tail(int8_t *q, float *scale, float *offset, const pare_k_head *head,
                      size_t pieces) {
    float scales[8], offsets[8];
    k4_scales(scales, offsets, head->d, head->dmin, head->scales);
    memcpy(scale, scales, pieces * 2 * sizeof *scale);
    memcpy(offset, offsets, pieces * 2 * sizeof *offset);
    const pare_q5_k_piece *p = (const pare_q5_k_piece *)(head + 1);
    for (size_t i = 0; i < pieces; i++, p++, q += 64) {
        __m256i v = load_256(p->qs);
        store_256(q, _mm256_or_si256(bits(v, 0, 15), fifth_bits(p->qh[0])));
        store_256(q + 32, _mm256_or_si256(bits(v, 4, 15), fifth_bits(p->qh[1])));
    }
}

static void q5_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q5_k *b = (const pare_q5_k *)row_of(w, row) + col / 256;
    for (; n >= 256; n -= 256, b++, scale += 8, offset += 8) {
        k4_scales(scale, offset, b->d, b->dmin, b->scales);
        __m256i high = load_256(b->qh); /* bit j32 of each byte; two are used up in a round */
        for (int i = 0; i < 4; i++, q += 64, high = _mm256_srli_epi16(high, 2)) {
            __m256i v = load_256(b->qs + 32 * i);
            __m256i even = _mm256_and_si256(_mm256_slli_epi16(high, 4), low_bits(16));
            __m256i odd = _mm256_and_si256(_mm256_slli_epi16(high, 3), low_bits(16));
            store_256(q, _mm256_or_si256(bits(v, 0, 15), even));
            store_256(q + 32, _mm256_or_si256(bits(v, 4, 15), odd));
        }
    }
    if (n) q5_k_tail(q, scale, offset, (const pare_k_head *)b, n / 64);
}

/* 4-bit low and 2-bit high parts to codes from -32 to 31. */
INLINE void store_q6(int8_t *q, __m256i low, __m256i high) {
    __m256i code = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
    store_256(q, _mm256_sub_epi8(code, low_bits(32)));
}

static void q6_k_tail(int8_t *q, float *scale, const char *tail, size_t pieces) {
    uint16_t half;
    memcpy(&half, tail, sizeof half);
    const float d = pare_f16_to_f32(half);
    const pare_q6_k_piece *p = (const pare_q6_k_piece *)(tail + sizeof half);
    for (size_t i = 0; i < pieces; i++, p++, q += 64, scale += 4) {
        for (int j = 0; j < 4; j++) scale[j] = d * (float)p->scales[j];
        __m256i low = load_256(p->ql);
        __m128i h = _mm_loadu_si128((const void *)p->qh); /* 2 bits for each of 4 times 16 values */
        __m256i first = _mm256_inserti128_si256(_mm256_castsi128_si256(h), _mm_srli_epi16(h, 2), 1);
        store_q6(q, bits(low, 0, 15), bits(first, 0, 3));
        store_q6(q + 32, bits(low, 4, 15), bits(first, 4, 3));
    }
}

static void q6_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q6_k *b = (const pare_q6_k *)row_of(w, row) + col / 256;
    (void)offset;
    for (; n >= 256; n -= 256, b++, scale += 16) {
        scale_16_signed(scale, pare_f16_to_f32(b->d), b->scales);
        for (int half = 0; half < 2; half++, q += 128) {
            __m256i low0 = load_256(b->ql + 64 * half), low1 = load_256(b->ql + 64 * half + 32);
            __m256i high = load_256(b->qh + 32 * half);
            store_q6(q, bits(low0, 0, 15), bits(high, 0, 3));
            store_q6(q + 32, bits(low1, 0, 15), bits(high, 2, 3));
            store_q6(q + 64, bits(low0, 4, 15), bits(high, 4, 3));
            store_q6(q + 96, bits(low1, 4, 15), bits(high, 6, 3));
        }
    }
    if (n) q6_k_tail(q, scale, (const char *)b, n / 64);
}

/* Two bits of each of 32 bytes, 2 * g up. */
INLINE __m256i two_bits(__m256i v, int g) {
    return _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128(2 * g)), low_bits(3));
}

static void q2_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q2_k *b = (const pare_q2_k *)row_of(w, row) + col / 256;
    for (size_t s = 0; s < n / 256; s++, b++, scale += 16, offset += 16) {
        __m128i both = _mm_loadu_si128((const void *)b->scales), mask = _mm_set1_epi8(15);
        scale_16_unsigned(scale, pare_f16_to_f32(b->d), _mm_and_si128(both, mask));
        scale_16_unsigned(offset, -pare_f16_to_f32(b->dmin),
                          _mm_and_si128(_mm_srli_epi16(both, 4), mask));
        for (int half = 0; half < 2; half++)
            for (int g = 0; g < 4; g++, q += 32)
                store_256(q, two_bits(load_256(b->qs + 32 * half), g));
    }
}

static void q3_k_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                       size_t col, size_t n) {
    const pare_q3_k *b = (const pare_q3_k *)row_of(w, row) + col / 256;
    (void)offset;
    for (size_t s = 0; s < n / 256; s++, b++, scale += 16) {
        int8_t scales[16];
        pare_unpack_scales_q3_k(scales, b->scales);
        scale_16_signed(scale, pare_f16_to_f32(b->d), scales);
        __m256i high = load_256(b->hmask);
        for (int j = 0; j < 8; j++, q += 32, high = _mm256_srli_epi16(high, 1)) {
            __m256i low = two_bits(load_256(b->qs + 32 * (j / 4)), j & 3);
            __m256i four = _mm256_slli_epi16(_mm256_and_si256(high, low_bits(1)), 2);
            store_256(q, _mm256_sub_epi8(_mm256_or_si256(low, four), low_bits(4)));
        }
    }
}

INLINE __m256i iq4_xs_scales(const pare_iq4_xs *b) {
    int32_t four;
    memcpy(&four, b->scales_l, sizeof four);
    __m128i pairs = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(four));
    __m128i low = _mm_and_si128(_mm_or_si128(pairs, _mm_slli_epi16(pairs, 4)), _mm_set1_epi8(15));
    __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(b->scales_h),
                                     _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    high = _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4);
    return _mm256_sub_epi32(_mm256_or_si256(_mm256_cvtepu8_epi32(low), high),
                            _mm256_set1_epi32(32));
}

static void iq4_xs_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                         size_t col, size_t n) {
    const pare_iq4_xs *b = (const pare_iq4_xs *)row_of(w, row) + col / 256;
    (void)offset;
    for (size_t s = 0; s < n / 256; s++, b++, scale += 8) {
        scale_8(scale, pare_f16_to_f32(b->d), iq4_xs_scales(b));
        for (int g = 0; g < 8; g++, q += 32) store_256(q, iq4_levels(nibbles(b->qs + 16 * g)));
    }
}

/* --- codes to other forms --- */

static void expand_avx2(float *w, const int8_t *q, const float *scale, const float *offset,
                        uint32_t group, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i v = _mm_loadu_si128((const void *)(q + i));
        __m256 s = _mm256_broadcast_ss(scale + i / group);
        __m256 lo = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v));
        __m256 hi = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
        lo = _mm256_mul_ps(lo, s); /* exact */
        hi = _mm256_mul_ps(hi, s);
        if (offset) {
            __m256 o = _mm256_broadcast_ss(offset + i / group);
            lo = _mm256_add_ps(lo, o);
            hi = _mm256_add_ps(hi, o);
        }
        _mm256_storeu_ps(w + i, lo);
        _mm256_storeu_ps(w + i + 8, hi);
    }
    for (; i < n; i++) {
        w[i] = scale[i / group] * (float)q[i];
        if (offset) w[i] += offset[i / group];
    }
}

static void shift_avx2(uint8_t *out, const int8_t *q, int min, size_t n) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        store_256(out + i, _mm256_sub_epi8(load_256(q + i), low_bits(min)));
    for (; i < n; i++) out[i] = (uint8_t)(q[i] - min);
}

static void widen_avx2(int16_t *out, const int8_t *q, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        store_256(out + i, _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(q + i))));
    for (; i < n; i++) out[i] = q[i];
}

/* Eight outputs: byte j of each code word, as f32. */
INLINE __m256 code_of(__m256i words, const int j) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24 - 8 * j), 24));
}

INLINE void expand_panel(float *w, const uint32_t *codes, const float *scale, const float *offset,
                         uint32_t group, size_t k, const bool OFFSET) {
    for (size_t j = 0; j < k; j += 4)
        for (size_t r = 0; r < NR; r += 8) {
            size_t g = j / group * NR + r;
            __m256i words = load_256(codes + j / 4 * NR + r);
            __m256 s = _mm256_loadu_ps(scale + g);
            __m256 o = OFFSET ? _mm256_loadu_ps(offset + g) : _mm256_setzero_ps();
            TILE_UNROLL for (int i = 0; i < 4; i++) {
                __m256 v = _mm256_mul_ps(code_of(words, i), s); /* exact */
                _mm256_storeu_ps(w + (j + (size_t)i) * NR + r, OFFSET ? _mm256_add_ps(v, o) : v);
            }
        }
}

static void expand_panel_avx2(float *w, const uint32_t *codes, const float *scale,
                              const float *offset, uint32_t group, size_t k) {
    if (offset)
        expand_panel(w, codes, scale, offset, group, k, true);
    else
        expand_panel(w, codes, scale, offset, group, k, false);
}

static void f16_panel_avx2(float *w, const uint32_t *pairs, size_t k) {
    const __m256i low = _mm256_set1_epi32(0xFFFF);
    for (size_t j = 0; j < k; j += 2)
        for (size_t r = 0; r < NR; r += 8) {
            __m256i v = load_256(pairs + j / 2 * NR + r);
            __m256i both = _mm256_packus_epi32(_mm256_and_si256(v, low), _mm256_srli_epi32(v, 16));
            both = _mm256_permute4x64_epi64(both, 0xD8);
            _mm256_storeu_ps(w + j * NR + r, _mm256_cvtph_ps(_mm256_castsi256_si128(both)));
            _mm256_storeu_ps(w + (j + 1) * NR + r,
                             _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1)));
        }
}

static void bf16_panel_avx2(float *w, const uint32_t *pairs, size_t k) {
    const __m256i high = _mm256_set1_epi32((int)0xFFFF0000u);
    for (size_t j = 0; j < k; j += 2)
        for (size_t r = 0; r < NR; r += 8) {
            __m256i v = load_256(pairs + j / 2 * NR + r);
            store_256(w + j * NR + r, _mm256_slli_epi32(v, 16));
            store_256(w + (j + 1) * NR + r, _mm256_and_si256(v, high));
        }
}

static void pair_panel_avx2(uint32_t *pairs, const uint16_t *w, size_t k) {
    for (size_t j = 0; j < k; j += 2, w += 2 * NR, pairs += NR) {
        __m256i a = load_256(w), b = load_256(w + NR);
        __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
        store_256(pairs, _mm256_permute2x128_si256(low, high, 0x20));
        store_256(pairs + 8, _mm256_permute2x128_si256(low, high, 0x31));
    }
}

#define CODES(name) [PARE_DOT_##name] = name##_codes
#define PACKED(name, ...) [PARE_DOT_##name] = pare_unpack_##name##_avx2,
#define SPARSE_avx2(name) [PARE_DOT_##name] = pare_codes_##name##_avx2,
#define SPARSE_avx512(name) [PARE_DOT_##name] = pare_codes_##name##_avx512,
#define DECODE_avx2(name) [PARE_DOTF_##name] = pare_decode_##name##_avx2,
#define DECODE_avx512(name) [PARE_DOTF_##name] = pare_decode_##name##_avx512,
/* The level of sparse rows. */
#define KERNELS(sparse)                                                                            \
    {                                                                                              \
        .codes = {CODES(q4_0),                                                                     \
                  CODES(q4_1),                                                                     \
                  CODES(q5_0),                                                                     \
                  CODES(q5_1),                                                                     \
                  CODES(q8_0),                                                                     \
                  CODES(iq4_nl),                                                                   \
                  CODES(q2_k),                                                                     \
                  CODES(q3_k),                                                                     \
                  CODES(q4_k),                                                                     \
                  CODES(q5_k),                                                                     \
                  CODES(q6_k),                                                                     \
                  CODES(iq4_xs),                                                                   \
                  PARE_DOT_ROWS_LIST(SPARSE_##sparse)},                                            \
        .decode = {PARE_DOT_F32_SPARSE_LIST(DECODE_##sparse)},                                     \
        .packed = {PARE_PACKED_LIST(PACKED)}, .expand = expand_avx2, .shift = shift_avx2,          \
        .widen = widen_avx2, .expand_panel = expand_panel_avx2, .f16_panel = f16_panel_avx2,       \
        .bf16_panel = bf16_panel_avx2, .pair_panel = pair_panel_avx2                               \
    }
const pare_unpack_kernels pare_unpack_avx2 = KERNELS(avx2);
const pare_unpack_kernels pare_unpack_avx512_vbmi2 = KERNELS(avx512);
