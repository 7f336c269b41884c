/* Super-blocks of 256 values with AVX2: q2_k, q3_k, q4_k, q5_k, q6_k, iq4_xs.
 *
 * A block becomes eight registers of 32 unsigned codes. Their products with x are summed in words
 * and merged (dot_avx2.h) until one dword stands for a sub-block; one multiply-add of words then
 * applies the sub-blocks' integer scales and widens the sums. Minima and the codes' offsets
 * multiply the sums of x over 16 inputs. All of a block's sum is an integer: two conversions a
 * block at most. */
#include "kernels/dot_avx2.h"
#include "kernels/dot_tail.h"

/* Words of a register from words of 8 in each lane: index of the word for each dword of two. */
#define WORDS(a, b, c, d)                                                                          \
    0x0101 * (2 * (a)) + 0x0100, 0x0101 * (2 * (a)) + 0x0100, 0x0101 * (2 * (b)) + 0x0100,         \
        0x0101 * (2 * (b)) + 0x0100, 0x0101 * (2 * (c)) + 0x0100, 0x0101 * (2 * (c)) + 0x0100,     \
        0x0101 * (2 * (d)) + 0x0100, 0x0101 * (2 * (d)) + 0x0100
/* The same from unsigned bytes, which become words. */
#define BYTES(a, b, c, d)                                                                          \
    (short)(0x8000 | (a)), (short)(0x8000 | (a)), (short)(0x8000 | (b)), (short)(0x8000 | (b)),    \
        (short)(0x8000 | (c)), (short)(0x8000 | (c)), (short)(0x8000 | (d)), (short)(0x8000 | (d))
#define SHUFFLE(v, ...) _mm256_shuffle_epi8(v, _mm256_setr_epi16(__VA_ARGS__))

INLINE __m256i both_lanes(__m128i v) { return _mm256_broadcastsi128_si256(v); }

INLINE __m256i and_8(__m256i v, int mask) {
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* Sums of products of four registers of codes with 128 x: in each lane, dword k is register k's
 * (two words of four products each: 8 * code * 127 < 2^15 for codes up to 31). */
INLINE __m256i sums_4(const __m256i q[4], const int8_t *x) {
    __m256i a = merge_16(_mm256_maddubs_epi16(q[0], load_256(x)),
                         _mm256_maddubs_epi16(q[1], load_256(x + 32)));
    __m256i b = merge_16(_mm256_maddubs_epi16(q[2], load_256(x + 64)),
                         _mm256_maddubs_epi16(q[3], load_256(x + 96)));
    return merge_16(a, b);
}

/* What a block's two halves sum to, with the scales of their sub-blocks as words. */
INLINE __m256i sums_8(const __m256i q[8], const int8_t *x, __m256i scale_lo, __m256i scale_hi) {
    return _mm256_add_epi32(_mm256_madd_epi16(sums_4(q, x), scale_lo),
                            _mm256_madd_epi16(sums_4(q + 4, x + 128), scale_hi));
}

/* sum over 16 inputs times a word for each */
INLINE __m256i sums_x(const pare_act *x, size_t i, size_t block, __m256i words) {
    return _mm256_madd_epi16(load_256(x->sum16 + i * x->sum_stride + 16 * block), words);
}

/* acc + d * dot */
INLINE __m256 add_scaled(__m256 acc, __m256i dot, float d) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(d), acc);
}

/* d and -dmin, which lie side by side */
INLINE void load_d_min(float *d, float *minus_dmin, const void *p) {
    __m128 v = _mm_cvtph_ps(_mm_cvtsi32_si128((int)load_u32(p)));
    *d = _mm_cvtss_f32(v);
    *minus_dmin = -_mm_cvtss_f32(_mm_movehdup_ps(v));
}

/* ---- q4_k, q5_k ---- */

/* 6-bit scales and minima as bytes: 8 scales, 8 minima, in both lanes */
INLINE __m256i scales_k4(const uint8_t s[12]) {
    uint32_t a = load_u32(s), b = load_u32(s + 4), c = load_u32(s + 8);
    uint64_t scales = (uint64_t)((c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)) << 32 | (a & 0x3f3f3f3f);
    uint64_t minima =
        (uint64_t)((c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)) << 32 | (b & 0x3f3f3f3f);
    return both_lanes(_mm_unpacklo_epi64(_mm_cvtsi64_si128((long long)scales),
                                         _mm_cvtsi64_si128((long long)minima)));
}

/* Adds a block of either: its codes, and d, dmin, scales of its head. */
INLINE void add_k4(__m256 *acc, const __m256i q[8], const void *head, const pare_act *x,
                   size_t block, size_t n) {
    float d, minus_dmin;
    load_d_min(&d, &minus_dmin, head);
    __m256i s = scales_k4((const uint8_t *)head + 4);
    __m256i lo = SHUFFLE(s, BYTES(0, 1, 2, 3), BYTES(0, 1, 2, 3));
    __m256i hi = SHUFFLE(s, BYTES(4, 5, 6, 7), BYTES(4, 5, 6, 7));
    __m256i minima = SHUFFLE(s, BYTES(8, 9, 10, 11), BYTES(12, 13, 14, 15));
    for (size_t i = 0; i < n; i++) {
        float xd = x->d[i * x->d_stride + block];
        __m256i dot = sums_8(q, x->q + i * x->q_stride + 256 * block, lo, hi);
        acc[i] = add_scaled(acc[i], dot, d * xd);
        acc[i] = add_scaled(acc[i], sums_x(x, i, block, minima), minus_dmin * xd);
    }
}

INLINE void add_q4_k(__m256 *acc, const pare_q4_k *b, const pare_act *x, size_t block, size_t n) {
    __m256i q[8];
    UNROLL for (int k = 0; k < 4; k++) {
        __m256i v = load_256(b->qs + 32 * k);
        q[2 * k] = and_8(v, 15);
        q[2 * k + 1] = and_8(_mm256_srli_epi16(v, 4), 15);
    }
    add_k4(acc, q, b, x, block, n);
}

INLINE void add_q5_k(__m256 *acc, const pare_q5_k *b, const pare_act *x, size_t block, size_t n) {
    __m256i q[8], h = load_256(b->qh);
    UNROLL for (int k = 0; k < 4; k++) {
        __m256i v = load_256(b->qs + 32 * k);
        __m256i even = k < 2 ? _mm256_slli_epi16(h, 4 - 2 * k) : _mm256_srli_epi16(h, 2 * k - 4);
        __m256i odd = k < 2 ? _mm256_slli_epi16(h, 3 - 2 * k) : _mm256_srli_epi16(h, 2 * k - 3);
        q[2 * k] = _mm256_or_si256(and_8(v, 15), and_8(even, 16));
        q[2 * k + 1] = _mm256_or_si256(and_8(_mm256_srli_epi16(v, 4), 15), and_8(odd, 16));
    }
    add_k4(acc, q, b, x, block, n);
}

/* ---- q2_k, q3_k, q6_k: a scale per 16 values, so the lanes of a register have their own ---- */

/* Four two-bit fields of a byte */
INLINE void fields_2(__m256i q[4], const uint8_t *p) {
    __m256i v = load_256(p);
    q[0] = and_8(v, 3);
    q[1] = and_8(_mm256_srli_epi16(v, 2), 3);
    q[2] = and_8(_mm256_srli_epi16(v, 4), 3);
    q[3] = and_8(_mm256_srli_epi16(v, 6), 3);
}

INLINE void add_q2_k(__m256 *acc, const pare_q2_k *b, const pare_act *x, size_t block, size_t n) {
    __m256i q[8];
    fields_2(q, b->qs);
    fields_2(q + 4, b->qs + 32);
    float d, minus_dmin;
    load_d_min(&d, &minus_dmin, &b->d);
    __m128i packed = load_128(b->scales), low = _mm_set1_epi8(15);
    __m256i s = both_lanes(_mm_and_si128(packed, low));
    __m256i lo = SHUFFLE(s, BYTES(0, 2, 4, 6), BYTES(1, 3, 5, 7));
    __m256i hi = SHUFFLE(s, BYTES(8, 10, 12, 14), BYTES(9, 11, 13, 15));
    __m256i minima = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(packed, 4), low));
    for (size_t i = 0; i < n; i++) {
        float xd = x->d[i * x->d_stride + block];
        __m256i dot = sums_8(q, x->q + i * x->q_stride + 256 * block, lo, hi);
        acc[i] = add_scaled(acc[i], dot, d * xd);
        acc[i] = add_scaled(acc[i], sums_x(x, i, block, minima), minus_dmin * xd);
    }
}

/* The 16 scales as words */
INLINE __m256i scales_q3_k(const uint8_t s[12]) {
    uint32_t a = load_u32(s), b = load_u32(s + 4), c = load_u32(s + 8);
    const uint32_t low = 0x0f0f0f0f, two = 0x03030303;
    __m128i v = _mm_setr_epi32(
        (int)((a & low) | (c & two) << 4), (int)((b & low) | (c >> 2 & two) << 4),
        (int)((a >> 4 & low) | (c >> 4 & two) << 4), (int)((b >> 4 & low) | (c >> 6 & two) << 4));
    return _mm256_sub_epi16(_mm256_cvtepu8_epi16(v), _mm256_set1_epi16(32));
}

/* codes q + 4 from the two bits and the bit of hmask, which is set where 4 is not taken away */
INLINE void codes_q3_k(__m256i q[8], const pare_q3_k *b) {
    __m256i h = load_256(b->hmask);
    fields_2(q, b->qs);
    fields_2(q + 4, b->qs + 32);
    q[0] = _mm256_or_si256(q[0], and_8(_mm256_slli_epi16(h, 2), 4));
    q[1] = _mm256_or_si256(q[1], and_8(_mm256_slli_epi16(h, 1), 4));
    q[2] = _mm256_or_si256(q[2], and_8(h, 4));
    UNROLL for (int k = 3; k < 8; k++) q[k] =
        _mm256_or_si256(q[k], and_8(_mm256_srli_epi16(h, k - 2), 4));
}

INLINE void add_q3_k(__m256 *acc, const pare_q3_k *b, const pare_act *x, size_t block, size_t n) {
    __m256i q[8], s = scales_q3_k(b->scales);
    codes_q3_k(q, b);
    float d = pare_f16_to_f32(b->d);
    __m256i lo = _mm256_permute2x128_si256(s, s, 0x00), hi = _mm256_permute2x128_si256(s, s, 0x11);
    lo = SHUFFLE(lo, WORDS(0, 2, 4, 6), WORDS(1, 3, 5, 7));
    hi = SHUFFLE(hi, WORDS(0, 2, 4, 6), WORDS(1, 3, 5, 7));
    for (size_t i = 0; i < n; i++) {
        __m256i dot = sums_8(q, x->q + i * x->q_stride + 256 * block, lo, hi);
        dot = _mm256_sub_epi32(dot, _mm256_slli_epi32(sums_x(x, i, block, s), 2));
        acc[i] = add_scaled(acc[i], dot, d * x->d[i * x->d_stride + block]);
    }
}

/* Two registers of codes up to 63 (two products of each merged: 4 * 63 * 127 < 2^15). */
INLINE __m256i sums_2(const __m256i q[2], const int8_t *x, __m256i scales) {
    return _mm256_madd_epi16(merge_16(_mm256_maddubs_epi16(q[0], load_256(x)),
                                      _mm256_maddubs_epi16(q[1], load_256(x + 32))),
                             scales);
}

/* codes q + 32 of 128 values */
INLINE void codes_q6_k(__m256i q[4], const uint8_t *ql, const uint8_t *qh) {
    __m256i a = load_256(ql), b = load_256(ql + 32), h = load_256(qh);
    q[0] = _mm256_or_si256(and_8(a, 15), and_8(_mm256_slli_epi16(h, 4), 0x30));
    q[1] = _mm256_or_si256(and_8(b, 15), and_8(_mm256_slli_epi16(h, 2), 0x30));
    q[2] = _mm256_or_si256(and_8(_mm256_srli_epi16(a, 4), 15), and_8(h, 0x30));
    q[3] =
        _mm256_or_si256(and_8(_mm256_srli_epi16(b, 4), 15), and_8(_mm256_srli_epi16(h, 2), 0x30));
}

INLINE void add_q6_k(__m256 *acc, const pare_q6_k *b, const pare_act *x, size_t block, size_t n) {
    __m256i q[8], s = _mm256_cvtepi8_epi16(load_128(b->scales)), s2[4];
    codes_q6_k(q, b->ql, b->qh);
    codes_q6_k(q + 4, b->ql + 64, b->qh + 32);
    __m256i lo = _mm256_permute2x128_si256(s, s, 0x00), hi = _mm256_permute2x128_si256(s, s, 0x11);
    s2[0] = SHUFFLE(lo, WORDS(0, 0, 2, 2), WORDS(1, 1, 3, 3));
    s2[1] = SHUFFLE(lo, WORDS(4, 4, 6, 6), WORDS(5, 5, 7, 7));
    s2[2] = SHUFFLE(hi, WORDS(0, 0, 2, 2), WORDS(1, 1, 3, 3));
    s2[3] = SHUFFLE(hi, WORDS(4, 4, 6, 6), WORDS(5, 5, 7, 7));
    float d = pare_f16_to_f32(b->d);
    for (size_t i = 0; i < n; i++) {
        const int8_t *xq = x->q + i * x->q_stride + 256 * block;
        __m256i dot = _mm256_slli_epi32(sums_x(x, i, block, s), 5);
        dot = _mm256_sub_epi32(sums_2(q, xq, s2[0]), dot);
        UNROLL for (int k = 1; k < 4; k++) dot =
            _mm256_add_epi32(dot, sums_2(q + 2 * k, xq + 64 * k, s2[k]));
        acc[i] = add_scaled(acc[i], dot, d * x->d[i * x->d_stride + block]);
    }
}

/* ---- iq4_xs: signed values from a table, in pairs of sub-blocks as x has them ---- */

/* Scales as words: 0..3 in the low lane, 4..7 in the high one. */
INLINE __m256i scales_iq4_xs(const pare_iq4_xs *b) {
    uint32_t l = load_u32(b->scales_l), h = b->scales_h;
    __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)l),
                                    _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    __m256i high =
        _mm256_srlv_epi32(_mm256_set1_epi32((int)h), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    high = _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4);
    return _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32)); /* low words */
}

INLINE __m256i dot_signed(__m256i w, __m256i x, __m256i scale) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x)),
                             scale);
}

INLINE void add_iq4_xs(__m256 *acc, const pare_iq4_xs *b, const pare_act *x, size_t block,
                       size_t n) {
    __m256i values = both_lanes(load_128(pare_iq4_values)), s = scales_iq4_xs(b);
    __m256i lo[4], hi[4], scale[4];
    UNROLL for (int p = 0; p < 4; p++) {
        __m256i v = load_2x128(b->qs + 16 * p, b->qs + 16 * p + 64);
        lo[p] = _mm256_shuffle_epi8(values, and_8(v, 15));
        hi[p] = _mm256_shuffle_epi8(values, and_8(_mm256_srli_epi16(v, 4), 15));
    }
    scale[0] = SHUFFLE(s, WORDS(0, 0, 0, 0), WORDS(0, 0, 0, 0));
    scale[1] = SHUFFLE(s, WORDS(2, 2, 2, 2), WORDS(2, 2, 2, 2));
    scale[2] = SHUFFLE(s, WORDS(4, 4, 4, 4), WORDS(4, 4, 4, 4));
    scale[3] = SHUFFLE(s, WORDS(6, 6, 6, 6), WORDS(6, 6, 6, 6));
    float d = pare_f16_to_f32(b->d);
    for (size_t i = 0; i < n; i++) {
        const int8_t *pairs = x->q + i * x->q_stride + x->pairs_at + 256 * block;
        __m256i dot = _mm256_setzero_si256();
        UNROLL for (int p = 0; p < 4; p++) {
            dot = _mm256_add_epi32(dot, dot_signed(lo[p], load_256(pairs + 64 * p), scale[p]));
            dot = _mm256_add_epi32(dot, dot_signed(hi[p], load_256(pairs + 64 * p + 32), scale[p]));
        }
        acc[i] = add_scaled(acc[i], dot, d * x->d[i * x->d_stride + block]);
    }
}

/* ---- rows ---- */

#define NO_TAIL(name)
#define TAIL(name)                                                                                 \
    if (w->cols % 256) {                                                                           \
        pare_##name whole;                                                                         \
        pare_complete_##name(&whole, b + n_blocks, w->cols % 256 / 64);                            \
        add_##name(acc, &whole, x, n_blocks, n);                                                   \
    }
#define SUPER_BLOCKS(name, TAIL)                                                                   \
    INLINE void row_##name(float *y, size_t ldy, const pare_view *w, size_t r, const pare_act *x,  \
                           size_t n) {                                                             \
        const pare_##name *b = pare_row(w, r);                                                     \
        size_t n_blocks = w->cols / 256;                                                           \
        __m256 acc[PARE_DOT_MAX_N];                                                                \
        for (size_t i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();                               \
        for (size_t k = 0; k < n_blocks; k++) {                                                    \
            prefetch(b + k, sizeof *b);                                                            \
            add_##name(acc, b + k, x, k, n);                                                       \
        }                                                                                          \
        TAIL(name)                                                                                 \
        for (size_t i = 0; i < n; i++) y[i * ldy + r] = sum_8(acc[i]);                             \
    }                                                                                              \
    DOT_AVX2(name)

SUPER_BLOCKS(q2_k, NO_TAIL)
SUPER_BLOCKS(q3_k, NO_TAIL)
SUPER_BLOCKS(q4_k, TAIL)
SUPER_BLOCKS(q5_k, TAIL)
SUPER_BLOCKS(q6_k, TAIL)
SUPER_BLOCKS(iq4_xs, NO_TAIL)
