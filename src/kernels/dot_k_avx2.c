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
 * (two words of eight products each: 8 * code * 127 < 2^15 for codes up to 31). */
INLINE __m256i sums_4(const __m256i q[4], const int8_t *x) {
    __m256i a = merge_16(_mm256_maddubs_epi16(q[0], load_256(x)),
                         _mm256_maddubs_epi16(q[1], load_256(x + 32)));
    __m256i b = merge_16(_mm256_maddubs_epi16(q[2], load_256(x + 64)),
                         _mm256_maddubs_epi16(q[3], load_256(x + 96)));
    return merge_16(a, b);
}

/* The codes of half a block, 128 values. */
typedef void (*codes_fn)(__m256i q[4], const void *block, int half);

/* All of them, for several rows of x; for one row sums_halves is easier on the registers. */
INLINE void codes_8(__m256i q[8], codes_fn codes, const void *block) {
    codes(q, block, 0);
    codes(q + 4, block, 1);
}

/* A block times a row of x: the halves with the scales of their sub-blocks as words. */
INLINE __m256i sums_8(const __m256i q[8], const int8_t *x, __m256i scale_lo, __m256i scale_hi) {
    return _mm256_add_epi32(_mm256_madd_epi16(sums_4(q, x), scale_lo),
                            _mm256_madd_epi16(sums_4(q + 4, x + 128), scale_hi));
}

INLINE __m256i sums_halves(codes_fn codes, const void *block, const int8_t *x, __m256i scale_lo,
                           __m256i scale_hi) {
    __m256i q[4], lo;
    codes(q, block, 0);
    lo = _mm256_madd_epi16(sums_4(q, x), scale_lo);
    codes(q, block, 1);
    return _mm256_add_epi32(lo, _mm256_madd_epi16(sums_4(q, x + 128), scale_hi));
}

/* sum over 16 inputs times a word for each */
INLINE __m256i sums_x(const pare_act *x, size_t i, size_t block, __m256i words) {
    return _mm256_madd_epi16(load_256(x->sum16 + i * x->sum_stride + 16 * block), words);
}

INLINE const int8_t *x_row(const pare_act *x, size_t i, size_t block) {
    return x->q + i * x->q_stride + 256 * block;
}
INLINE const float *x_d(const pare_act *x, size_t i, size_t block) {
    return x->d + i * x->d_stride + block;
}

/* acc + d * *xd * dot */
INLINE __m256 add_scaled(__m256 acc, __m256i dot, float d, const float *xd) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(d * *xd), acc);
}

/* acc + d[0] * *xd * dot - d[1] * *xd * minima */
INLINE __m256 add_with_minima(__m256 acc, __m256i dot, __m256i minima, __m128 d, const float *xd) {
    d = _mm_mul_ps(d, _mm_broadcast_ss(xd));
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_broadcastss_ps(d), acc);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima), _mm256_broadcastss_ps(_mm_movehdup_ps(d)),
                            acc);
}

/* ---- q4_k, q5_k ---- */

/* 6-bit scales and minima of a head (d dmin, a, b, c: four dwords) as bytes in both lanes: 8 scales
 * a & 63, (c & 15) | (a >> 6) << 4, 8 minima b & 63, (c >> 4) | (b >> 6) << 4, each of four bytes.
 */
INLINE __m256i scales_k4(__m256i head) {
    __m256i low = _mm256_srlv_epi32(_mm256_shuffle_epi32(head, 0xed), /* a c b c */
                                    _mm256_set_epi32(4, 0, 0, 0, 4, 0, 0, 0));
    __m256i top = _mm256_srli_epi32(_mm256_shuffle_epi32(head, 0xa5), 2); /* a a b b */
    low = _mm256_and_si256(low, _mm256_set1_epi64x(0x0f0f0f0f3f3f3f3f));
    top = _mm256_and_si256(top, _mm256_set1_epi64x(0x3030303000000000));
    return _mm256_or_si256(low, top);
}

INLINE void codes_q4_k(__m256i q[4], const void *block, int half) {
    const pare_q4_k *b = block;
    UNROLL for (int k = 0; k < 2; k++) {
        __m256i v = load_256(b->qs + 64 * half + 32 * k);
        q[2 * k] = and_8(v, 15);
        q[2 * k + 1] = and_8(_mm256_srli_epi16(v, 4), 15);
    }
}

INLINE void codes_q5_k(__m256i q[4], const void *block, int half) {
    const pare_q5_k *b = block;
    __m256i h = load_256(b->qh), a = load_256(b->qs + 64 * half),
            c = load_256(b->qs + 64 * half + 32);
    __m256i up[4]; /* bits 4 * half + 0..3 of h at 4 */
    up[0] = half ? h : _mm256_slli_epi16(h, 4);
    up[1] = half ? _mm256_srli_epi16(h, 1) : _mm256_slli_epi16(h, 3);
    up[2] = half ? _mm256_srli_epi16(h, 2) : _mm256_slli_epi16(h, 2);
    up[3] = half ? _mm256_srli_epi16(h, 3) : _mm256_slli_epi16(h, 1);
    q[0] = _mm256_or_si256(and_8(a, 15), and_8(up[0], 16));
    q[1] = _mm256_or_si256(and_8(_mm256_srli_epi16(a, 4), 15), and_8(up[1], 16));
    q[2] = _mm256_or_si256(and_8(c, 15), and_8(up[2], 16));
    q[3] = _mm256_or_si256(and_8(_mm256_srli_epi16(c, 4), 15), and_8(up[3], 16));
}

/* Adds a block of either, which begins with d, dmin and the scales. */
INLINE void add_k4(__m256 *acc, codes_fn codes, const void *block, const pare_act *x, size_t k,
                   size_t n) {
    __m256i h = both_lanes(load_128(block)), s = scales_k4(h);
    __m128 d = _mm_cvtph_ps(_mm256_castsi256_si128(h)); /* d, dmin, ... */
    __m256i lo = SHUFFLE(s, BYTES(0, 1, 2, 3), BYTES(0, 1, 2, 3));
    __m256i hi = SHUFFLE(s, BYTES(4, 5, 6, 7), BYTES(4, 5, 6, 7));
    __m256i minima = SHUFFLE(s, BYTES(8, 9, 10, 11), BYTES(12, 13, 14, 15));
    if (n == 1) {
        __m256i dot = sums_halves(codes, block, x_row(x, 0, k), lo, hi);
        *acc = add_with_minima(*acc, dot, sums_x(x, 0, k, minima), d, x_d(x, 0, k));
        return;
    }
    __m256i q[8];
    codes_8(q, codes, block);
    for (size_t i = 0; i < n; i++)
        acc[i] = add_with_minima(acc[i], sums_8(q, x_row(x, i, k), lo, hi), sums_x(x, i, k, minima),
                                 d, x_d(x, i, k));
}

INLINE void add_q4_k(__m256 *acc, const pare_q4_k *b, const pare_act *x, size_t k, size_t n) {
    add_k4(acc, codes_q4_k, b, x, k, n);
}

INLINE void add_q5_k(__m256 *acc, const pare_q5_k *b, const pare_act *x, size_t k, size_t n) {
    add_k4(acc, codes_q5_k, b, x, k, n);
}

/* ---- q2_k, q3_k, q6_k: a scale per 16 values, so the lanes of a register have their own ---- */

/* Four two-bit fields of a byte; fields 1 and 3 stay where they are and count four times. */
INLINE void fields_2(__m256i q[4], const uint8_t *p) {
    __m256i v = load_256(p), high = _mm256_srli_epi16(v, 4);
    q[0] = and_8(v, 3);
    q[1] = and_8(v, 12);
    q[2] = and_8(high, 3);
    q[3] = and_8(high, 12);
}
/* So the scales of the others are taken four times, as words of the dwords of sums_4, */
INLINE __m256i level_scales(__m256i words) {
    return _mm256_mullo_epi16(words, _mm256_set1_epi64x(0x0001000100040004));
}
/* and what comes out is four times too large. */
#define QUARTER 0.25f

INLINE void codes_q2_k(__m256i q[4], const void *block, int half) {
    fields_2(q, ((const pare_q2_k *)block)->qs + 32 * half);
}

INLINE void add_q2_k(__m256 *acc, const pare_q2_k *b, const pare_act *x, size_t k, size_t n) {
    __m128i packed = load_128(b->scales), low = _mm_set1_epi8(15);
    __m256i s = both_lanes(_mm_and_si128(packed, low));
    __m256i lo = level_scales(SHUFFLE(s, BYTES(0, 2, 4, 6), BYTES(1, 3, 5, 7)));
    __m256i hi = level_scales(SHUFFLE(s, BYTES(8, 10, 12, 14), BYTES(9, 11, 13, 15)));
    __m256i minima = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(packed, 4), low));
    __m128 d = _mm_cvtph_ps(_mm_cvtsi32_si128((int)load_u32(&b->d))); /* d, dmin */
    d = _mm_mul_ps(d, _mm_setr_ps(QUARTER, 1.0f, 0.0f, 0.0f));
    if (n == 1) {
        __m256i dot = sums_halves(codes_q2_k, b, x_row(x, 0, k), lo, hi);
        *acc = add_with_minima(*acc, dot, sums_x(x, 0, k, minima), d, x_d(x, 0, k));
        return;
    }
    __m256i q[8];
    codes_8(q, codes_q2_k, b);
    for (size_t i = 0; i < n; i++)
        acc[i] = add_with_minima(acc[i], sums_8(q, x_row(x, i, k), lo, hi), sums_x(x, i, k, minima),
                                 d, x_d(x, i, k));
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

/* codes q + 4 from the two bits and the bit of hmask, which is set where 4 is not taken away;
 * fields 1 and 3 four times that (up to 28) */
INLINE void codes_q3_k(__m256i q[4], const void *block, int half) {
    const pare_q3_k *b = block;
    __m256i h = load_256(b->hmask), up[4]; /* bits 4 * half + 0..3 of h at 2 4 2 4 */
    up[0] = half ? _mm256_srli_epi16(h, 2) : _mm256_slli_epi16(h, 2);
    up[1] = half ? _mm256_srli_epi16(h, 1) : _mm256_slli_epi16(h, 3);
    up[2] = half ? _mm256_srli_epi16(h, 4) : h;
    up[3] = half ? _mm256_srli_epi16(h, 3) : _mm256_slli_epi16(h, 1);
    fields_2(q, b->qs + 32 * half);
    q[0] = _mm256_or_si256(q[0], and_8(up[0], 4));
    q[1] = _mm256_or_si256(q[1], and_8(up[1], 16));
    q[2] = _mm256_or_si256(q[2], and_8(up[2], 4));
    q[3] = _mm256_or_si256(q[3], and_8(up[3], 16));
}

INLINE __m256 finish_q3_k(__m256 acc, __m256i dot, __m256i s, float d, const pare_act *x, size_t i,
                          size_t k) {
    dot = _mm256_sub_epi32(dot, _mm256_slli_epi32(sums_x(x, i, k, s), 4));
    return add_scaled(acc, dot, d, x_d(x, i, k));
}

INLINE void add_q3_k(__m256 *acc, const pare_q3_k *b, const pare_act *x, size_t k, size_t n) {
    __m256i s = scales_q3_k(b->scales);
    __m256i lo = _mm256_permute2x128_si256(s, s, 0x00), hi = _mm256_permute2x128_si256(s, s, 0x11);
    lo = level_scales(SHUFFLE(lo, WORDS(0, 2, 4, 6), WORDS(1, 3, 5, 7)));
    hi = level_scales(SHUFFLE(hi, WORDS(0, 2, 4, 6), WORDS(1, 3, 5, 7)));
    float d = QUARTER * pare_f16_to_f32(b->d);
    if (n == 1) {
        *acc = finish_q3_k(*acc, sums_halves(codes_q3_k, b, x_row(x, 0, k), lo, hi), s, d, x, 0, k);
        return;
    }
    __m256i q[8];
    codes_8(q, codes_q3_k, b);
    for (size_t i = 0; i < n; i++)
        acc[i] = finish_q3_k(acc[i], sums_8(q, x_row(x, i, k), lo, hi), s, d, x, i, k);
}

/* Two registers of codes up to 63 (words of four products: 4 * 63 * 127 < 2^15). */
INLINE __m256i sums_2(const __m256i q[2], const int8_t *x, __m256i scales) {
    return _mm256_madd_epi16(merge_16(_mm256_maddubs_epi16(q[0], load_256(x)),
                                      _mm256_maddubs_epi16(q[1], load_256(x + 32))),
                             scales);
}

/* codes q + 32 */
INLINE void codes_q6_k(__m256i q[4], const void *block, int half) {
    const pare_q6_k *b = block;
    __m256i lo = load_256(b->ql + 64 * half), hi = load_256(b->ql + 64 * half + 32);
    __m256i h = load_256(b->qh + 32 * half);
    q[0] = _mm256_or_si256(and_8(lo, 15), and_8(_mm256_slli_epi16(h, 4), 0x30));
    q[1] = _mm256_or_si256(and_8(hi, 15), and_8(_mm256_slli_epi16(h, 2), 0x30));
    q[2] = _mm256_or_si256(and_8(_mm256_srli_epi16(lo, 4), 15), and_8(h, 0x30));
    q[3] =
        _mm256_or_si256(and_8(_mm256_srli_epi16(hi, 4), 15), and_8(_mm256_srli_epi16(h, 2), 0x30));
}

INLINE __m256i sums_4_q6_k(const __m256i q[4], const int8_t *x, const __m256i s[2]) {
    return _mm256_add_epi32(sums_2(q, x, s[0]), sums_2(q + 2, x + 64, s[1]));
}

INLINE __m256 finish_q6_k(__m256 acc, __m256i dot, __m256i s, float d, const pare_act *x, size_t i,
                          size_t k) {
    dot = _mm256_sub_epi32(dot, _mm256_slli_epi32(sums_x(x, i, k, s), 5));
    return add_scaled(acc, dot, d, x_d(x, i, k));
}

INLINE void add_q6_k(__m256 *acc, const pare_q6_k *b, const pare_act *x, size_t k, size_t n) {
    __m256i s = _mm256_cvtepi8_epi16(load_128(b->scales)), s2[4], q[8];
    __m256i lo = _mm256_permute2x128_si256(s, s, 0x00), hi = _mm256_permute2x128_si256(s, s, 0x11);
    s2[0] = SHUFFLE(lo, WORDS(0, 0, 2, 2), WORDS(1, 1, 3, 3));
    s2[1] = SHUFFLE(lo, WORDS(4, 4, 6, 6), WORDS(5, 5, 7, 7));
    s2[2] = SHUFFLE(hi, WORDS(0, 0, 2, 2), WORDS(1, 1, 3, 3));
    s2[3] = SHUFFLE(hi, WORDS(4, 4, 6, 6), WORDS(5, 5, 7, 7));
    float d = pare_f16_to_f32(b->d);
    if (n == 1) {
        const int8_t *xq = x_row(x, 0, k);
        codes_q6_k(q, b, 0);
        __m256i dot = sums_4_q6_k(q, xq, s2);
        codes_q6_k(q, b, 1);
        dot = _mm256_add_epi32(dot, sums_4_q6_k(q, xq + 128, s2 + 2));
        *acc = finish_q6_k(*acc, dot, s, d, x, 0, k);
        return;
    }
    codes_8(q, codes_q6_k, b);
    for (size_t i = 0; i < n; i++) {
        const int8_t *xq = x_row(x, i, k);
        __m256i dot =
            _mm256_add_epi32(sums_4_q6_k(q, xq, s2), sums_4_q6_k(q + 4, xq + 128, s2 + 2));
        acc[i] = finish_q6_k(acc[i], dot, s, d, x, i, k);
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
        const int8_t *pairs = x_row(x, i, block) + x->pairs_at;
        __m256i dot = _mm256_setzero_si256();
        UNROLL for (int p = 0; p < 4; p++) {
            dot = _mm256_add_epi32(dot, dot_signed(lo[p], load_256(pairs + 64 * p), scale[p]));
            dot = _mm256_add_epi32(dot, dot_signed(hi[p], load_256(pairs + 64 * p + 32), scale[p]));
        }
        acc[i] = add_scaled(acc[i], dot, d, x_d(x, i, block));
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
