/* Blocks of 32 values with AVX2: q4_0, q4_1, q5_0, q5_1, iq4_nl, q8_0.
 *
 * Eight blocks a step, so that their f16 scales are converted together. Formats in nibbles take the
 * blocks in pairs (p, p + 4): the low nibbles of both fill one register, the high ones another,
 *
 *     lanes  |  block p     |  block p + 4      times  | x of block p   | x of block p + 4
 *
 * Codes stay unsigned, so that the sums of several products fit 16 bits; what they lack, -8 or -16
 * times d or the block's m, multiplies the sums of x. The partial sums of the four pairs are merged
 * until block k's sum stands in dword k: one conversion and one multiply-add for the eight. */
#include "kernels/dot_avx2.h"

/* The first words of 8 blocks of `size` bytes: blocks 0 2 4 6 in *even, 1 3 5 7 in *odd, at the low
 * half of each, except that for sizes 18 and 22 those of *odd are at the high half.
 *
 * Inserting them one by one would take two operations each. But two blocks begin within 32 bytes,
 * so one load holds the words of both; started 4k bytes early for blocks 2k and 2k + 1, it has them
 * at dword k of the low lane and at dword k + size / 4 - 4 of the high lane, and blends collect
 * all. What falls outside has its own load. No load leaves the 8 blocks. */
INLINE void first_words(__m128i *even, __m128i *odd, const uint8_t *p, size_t size) {
#define TAKE(address, mask) v = _mm256_blend_epi32(v, load_256(address), mask)
    __m256i v = load_256(p);
    if (size == 18) {
        TAKE(p + 2 * size - 4, 0x22);
        TAKE(p + 4 * size - 8, 0x44);
        TAKE(p + 6 * size - 12, 0x88);
        *odd = _mm256_extracti128_si256(v, 1);
    } else if (size < 24) { /* high lane: 7 1 3 5 */
        TAKE(p + 2 * size - 4, 0x42);
        TAKE(p + 4 * size - 8, 0x84);
        TAKE(p + 6 * size - 12, 0x08);
        TAKE(p + 7 * size - 16 - size % 4, 0x10);
        *odd = _mm_shuffle_epi32(_mm256_extracti128_si256(v, 1), 0x39);
    } else { /* high lane: 5 7 1 3 */
        TAKE(p + 2 * size - 4, 0x82);
        TAKE(p + 4 * size - 8, 0x04);
        TAKE(p + 6 * size - 12, 0x08);
        TAKE(p + 5 * size - 16, 0x10);
        TAKE(p + 7 * size - 20, 0x20);
        *odd = _mm_shuffle_epi32(_mm256_extracti128_si256(v, 1), 0x4e);
    }
    *even = _mm256_castsi256_si128(v);
#undef TAKE
}

/* d of 8 blocks */
INLINE __m256 load_d(const uint8_t *p, size_t size) {
    __m128i even, odd;
    first_words(&even, &odd, p, size);
    return _mm256_cvtph_ps(_mm_blend_epi16(even, odd, 0xaa));
}

/* d and m, which lie side by side, of 8 blocks */
INLINE void load_d_m(__m256 *d, __m256 *m, const uint8_t *p, size_t size) {
    __m128i even, odd;
    first_words(&even, &odd, p, size);
    *d = _mm256_cvtph_ps(_mm_blend_epi16(even, _mm_slli_epi32(odd, 16), 0xaa));
    *m = _mm256_cvtph_ps(_mm_blend_epi16(_mm_srli_epi32(even, 16), odd, 0xaa));
}

/* What the formats differ in; constant after inlining. */
typedef struct format {
    size_t size, qs,
        qh;     /* bytes of a block; offsets of its codes and of the fifth bits, 0 = none */
    bool has_m; /* offset m, else 8 or 16 less than the code */
    bool table; /* codes index pare_iq4_values */
} format;

/* qh of 8 blocks: 0 1 2 3 in the low lane, 4 5 6 7 in the high one. Each load starts so early that
 * its word stands where it is wanted. */
INLINE __m256i load_qh(const uint8_t *p, size_t size) {
    __m256i v = load_256(p);
#define TAKE(k, early) v = _mm256_blend_epi32(v, load_256(p + (k)*size - (early)), 1 << (k))
    TAKE(1, 4), TAKE(2, 8), TAKE(3, 12), TAKE(4, 16), TAKE(5, 20), TAKE(6, 24), TAKE(7, 28);
#undef TAKE
    return v;
}

/* Fifth bits as 16 in the bytes of the codes: bits [16 * half, 16 * half + 16) of each lane's qh,
 * which is in dwords 0 and 1; dwords 2 and 3 hold qh << 4, so that every bit can be picked from the
 * upper half of a byte, where a minimum with 16 brings it to its place. */
INLINE __m256i fifth_bits(__m256i qh, int half) {
    const __m128i byte = _mm_setr_epi8(8, 8, 8, 8, 0, 0, 0, 0, 9, 9, 9, 9, 1, 1, 1, 1);
    __m256i index = _mm256_broadcastsi128_si256(half ? _mm_add_epi8(byte, _mm_set1_epi8(2)) : byte);
    __m256i v =
        _mm256_and_si256(_mm256_shuffle_epi8(qh, index), _mm256_set1_epi32((int)0x80402010));
    return _mm256_min_epu8(v, _mm256_set1_epi8(16));
}

/* Low and high codes of blocks a (low lane) and b (high lane); qh as for fifth_bits. */
INLINE void codes_2(__m256i *lo, __m256i *hi, const uint8_t *a, const uint8_t *b, __m256i qh,
                    format f) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i v = load_2x128(a + f.qs, b + f.qs);
    *lo = _mm256_and_si256(v, mask);
    *hi = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
    if (f.qh) {
        *lo = _mm256_or_si256(*lo, fifth_bits(qh, 0));
        *hi = _mm256_or_si256(*hi, fifth_bits(qh, 1));
    }
    if (f.table) {
        __m256i values = _mm256_broadcastsi128_si256(load_128(pare_iq4_values));
        *lo = _mm256_shuffle_epi8(values, *lo);
        *hi = _mm256_shuffle_epi8(values, *hi);
    }
}

/* The fifth bits of 8 blocks, for codes_pair */
typedef struct fifths {
    __m256 qh, up; /* as loaded, and shifted */
} fifths;

INLINE fifths load_fifths(const uint8_t *row, format f) {
    fifths v = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    if (!f.qh) return v;
    __m256i qh = load_qh(row + f.qh, f.size);
    v.qh = _mm256_castsi256_ps(qh);
    v.up = _mm256_castsi256_ps(_mm256_slli_epi32(qh, 4));
    return v;
}

/* Codes of pair p, a literal, of 8 blocks */
#define CODES_PAIR(lo, hi, row, p, fifth, f)                                                       \
    codes_2(lo, hi, (row) + (p) * (f).size, (row) + ((p) + 4) * (f).size,                          \
            _mm256_castps_si256(_mm256_shuffle_ps((fifth).qh, (fifth).up, (p)*0x55)), f)

/* The products of a pair of blocks: 8 words a block, 4 dwords for the table. */
INLINE __m256i dot_pair(__m256i lo, __m256i hi, __m256i x_lo, __m256i x_hi, format f) {
    if (!f.table)
        return _mm256_add_epi16(_mm256_maddubs_epi16(lo, x_lo), _mm256_maddubs_epi16(hi, x_hi));
    /* |x| * (code with x's sign): no code is -128 */
    lo = _mm256_maddubs_epi16(_mm256_abs_epi8(x_lo), _mm256_sign_epi8(lo, x_lo));
    hi = _mm256_maddubs_epi16(_mm256_abs_epi8(x_hi), _mm256_sign_epi8(hi, x_hi));
    return _mm256_add_epi32(_mm256_madd_epi16(lo, ones_16()), _mm256_madd_epi16(hi, ones_16()));
}

/* The sums of 8 blocks from those of the four pairs. Words hold 16 products of codes up to 15, and
 * 8 of codes up to 31: 16 * 15 * 127 and 8 * 31 * 127 are below 2^15. */
INLINE __m256i sum_blocks(const __m256i v[4], format f) {
    if (f.table) return merge_32(merge_32(v[0], v[1]), merge_32(v[2], v[3]));
    __m256i a = merge_16(v[0], v[1]), b = merge_16(v[2], v[3]);
    if (!f.qh) return _mm256_madd_epi16(merge_16(a, b), ones_16());
    return merge_32(_mm256_madd_epi16(a, ones_16()), _mm256_madd_epi16(b, ones_16()));
}

/* Adds 8 blocks of a row, whose scales are d and m, to acc. */
INLINE __m256 add_blocks(__m256 acc, const __m256i v[4], __m256 d, __m256 m, const pare_act *x,
                         size_t i, size_t block, format f) {
    const int16_t *sum16 = x->sum16 + i * x->sum_stride + 2 * block;
    __m256 xd = _mm256_loadu_ps(x->d + i * x->d_stride + block);
    __m256i dot = sum_blocks(v, f);
    if (f.has_m) {
        __m256 sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(load_256(sum16), ones_16()));
        acc = _mm256_fmadd_ps(m, _mm256_mul_ps(sums, xd), acc);
    } else if (!f.table) {
        __m256i middle = _mm256_set1_epi16(f.qh ? 16 : 8);
        dot = _mm256_sub_epi32(dot, _mm256_madd_epi16(load_256(sum16), middle));
    }
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(d, xd), acc);
}

/* Which of 8 blocks count: all, or at the end of a row only those that are left. Of the others any
 * bytes may be read, since x is zero there and so are their scales. */
typedef struct some_blocks {
    bool all;
    __m256 keep;
} some_blocks;

INLINE some_blocks first_blocks(size_t n) {
    __m256i k = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (some_blocks){n >= 8,
                         _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), k))};
}

/* The last blocks of row r, so that 8 can be read: in place where a row follows, else a copy. */
INLINE const uint8_t *last_blocks(uint8_t *copy, const uint8_t *row, size_t n, size_t size,
                                  const pare_view *w, size_t r) {
    if (r + 1 < w->rows && w->row_bytes >= 8 * size) return row;
    memset(copy, 0, 8 * size);
    return memcpy(copy, row, n * size);
}
enum { MAX_BLOCK_BYTES = 34 };

INLINE void load_scales(__m256 *d, __m256 *m, const uint8_t *row, some_blocks some, format f) {
    if (f.has_m)
        load_d_m(d, m, row, f.size);
    else
        *d = load_d(row, f.size), *m = _mm256_setzero_ps();
    if (some.all) return;
    *d = _mm256_and_ps(*d, some.keep);
    *m = _mm256_and_ps(*m, some.keep);
}

/* 8 blocks times one row of x: each pair at once, which takes few registers */
INLINE __m256 add_one(__m256 acc, const uint8_t *row, const pare_act *x, size_t block,
                      some_blocks some, format f) {
    const int8_t *pairs = x->q + x->pairs_at + 32 * block;
    fifths fifth = load_fifths(row, f);
    __m256i v[4], lo, hi;
#define PAIR(p)                                                                                    \
    CODES_PAIR(&lo, &hi, row, p, fifth, f);                                                        \
    v[p] = dot_pair(lo, hi, load_256(pairs + 64 * (p)), load_256(pairs + 64 * (p) + 32), f)
    PAIR(0);
    PAIR(1);
    PAIR(2);
    PAIR(3);
#undef PAIR
    __m256 d, m;
    load_scales(&d, &m, row, some, f);
    return add_blocks(acc, v, d, m, x, 0, block, f);
}

/* 8 blocks times n rows of x, which share the codes */
INLINE void add_many(__m256 *acc, const uint8_t *row, const pare_act *x, size_t block,
                     some_blocks some, size_t n, format f) {
    fifths fifth = load_fifths(row, f);
    __m256i v[4], lo[4], hi[4];
    CODES_PAIR(&lo[0], &hi[0], row, 0, fifth, f);
    CODES_PAIR(&lo[1], &hi[1], row, 1, fifth, f);
    CODES_PAIR(&lo[2], &hi[2], row, 2, fifth, f);
    CODES_PAIR(&lo[3], &hi[3], row, 3, fifth, f);
    __m256 d, m;
    load_scales(&d, &m, row, some, f);
    for (size_t i = 0; i < n; i++) {
        const int8_t *pairs = x->q + i * x->q_stride + x->pairs_at + 32 * block;
        UNROLL for (size_t p = 0; p < 4; p++) v[p] =
            dot_pair(lo[p], hi[p], load_256(pairs + 64 * p), load_256(pairs + 64 * p + 32), f);
        acc[i] = add_blocks(acc[i], v, d, m, x, i, block, f);
    }
}

INLINE void row_nibbles(float *y, size_t ldy, const pare_view *w, size_t r, const pare_act *x,
                        size_t n, format f) {
    const uint8_t *row = pare_row(w, r);
    __m256 acc[PARE_DOT_MAX_N];
    for (size_t i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    size_t block = 0, n_blocks = w->cols / 32;
    for (; block + 8 <= n_blocks; block += 8, row += 8 * f.size) {
        prefetch(row, 8 * f.size);
        if (n == 1)
            *acc = add_one(*acc, row, x, block, first_blocks(8), f);
        else
            add_many(acc, row, x, block, first_blocks(8), n, f);
    }
    if (block < n_blocks) {
        uint8_t copy[8 * MAX_BLOCK_BYTES];
        some_blocks some = first_blocks(n_blocks - block);
        prefetch(row, (n_blocks - block) * f.size);
        row = last_blocks(copy, row, n_blocks - block, f.size, w, r);
        if (n == 1)
            *acc = add_one(*acc, row, x, block, some, f);
        else
            add_many(acc, row, x, block, some, n, f);
    }
    for (size_t i = 0; i < n; i++) y[i * ldy + r] = sum_8(acc[i]);
}

#define NIBBLES(name, ...)                                                                         \
    static const format format_##name = {                                                          \
        .size = sizeof(pare_##name), .qs = offsetof(pare_##name, qs), __VA_ARGS__};                \
    INLINE void row_##name(float *y, size_t ldy, const pare_view *w, size_t r, const pare_act *x,  \
                           size_t n) {                                                             \
        row_nibbles(y, ldy, w, r, x, n, format_##name);                                            \
    }                                                                                              \
    DOT_AVX2(name)

NIBBLES(q4_0, .qh = 0)
NIBBLES(q4_1, .has_m = true)
NIBBLES(q5_0, .qh = offsetof(pare_q5_0, qh))
NIBBLES(q5_1, .qh = offsetof(pare_q5_1, qh), .has_m = true)
NIBBLES(iq4_nl, .table = true)

/* ---- q8_0 ---- */

/* d of 8 blocks; each load starts so early that its scale is at word k */
INLINE __m256 load_d_q8(const uint8_t *p) {
    const size_t size = sizeof(pare_q8_0);
    __m128i v = load_128(p);
#define TAKE(k) v = _mm_blend_epi16(v, load_128(p + (k) * (size - 2)), 1 << (k))
    TAKE(1), TAKE(2), TAKE(3), TAKE(4), TAKE(5), TAKE(6), TAKE(7);
#undef TAKE
    return _mm256_cvtph_ps(v);
}

/* d * xd of blocks 0..3 and of 4..7, in both lanes */
INLINE void spread_scales(__m256 s[2], __m256 d, const pare_act *x, size_t i, size_t block) {
    d = _mm256_mul_ps(d, _mm256_loadu_ps(x->d + i * x->d_stride + block));
    s[0] = _mm256_permute2f128_ps(d, d, 0x00);
    s[1] = _mm256_permute2f128_ps(d, d, 0x11);
}

/* One of 8 blocks; k is a literal. */
#define Q8_ADD(acc, v, q, s, k)                                                                    \
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot_q8(v, q)),                                        \
                          _mm256_permute_ps((s)[(k) / 4], (k) % 4 * 0x55), acc)
#define Q8_ALL(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

/* `count` blocks, at most 8, times n rows of x; the scales of 8 can be read. */
INLINE void add_q8(__m256 *acc, const uint8_t *row, const pare_act *x, size_t block, size_t count,
                   size_t n) {
    const size_t size = sizeof(pare_q8_0);
    __m256 d = load_d_q8(row);
    for (size_t i = 0; i < n; i++) {
        const int8_t *q = x->q + i * x->q_stride + 32 * block;
        __m256 s[2], sum = acc[i];
        spread_scales(s, d, x, i, block);
#define BLOCK(k)                                                                                   \
    if ((k) < count) Q8_ADD(sum, load_256(row + (k)*size + 2), load_256(q + 32 * (k)), s, k);
        Q8_ALL(BLOCK)
#undef BLOCK
        acc[i] = sum;
    }
}

INLINE void row_q8_0(float *y, size_t ldy, const pare_view *w, size_t r, const pare_act *x,
                     size_t n) {
    const size_t size = sizeof(pare_q8_0);
    const uint8_t *row = pare_row(w, r);
    __m256 acc[PARE_DOT_MAX_N];
    for (size_t i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    size_t block = 0, n_blocks = w->cols / 32;
    for (; block + 8 <= n_blocks; block += 8, row += 8 * size) {
        prefetch(row, 8 * size);
        add_q8(acc, row, x, block, 8, n);
    }
    if (block < n_blocks) {
        uint8_t copy[8 * MAX_BLOCK_BYTES];
        size_t count = n_blocks - block;
        prefetch(row, count * size);
        add_q8(acc, last_blocks(copy, row, count, size, w, r), x, block, count, n);
    }
    for (size_t i = 0; i < n; i++) y[i * ldy + r] = sum_8(acc[i]);
}
DOT_AVX2(q8_0)
