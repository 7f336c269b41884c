/* Spreading stored values to the columns whose bit is set, with AVX2: eight columns at a time, the
 * byte of mask picks a shuffle.
 *
 * Values are read up to 31 bytes past those that count. */
#ifndef PARE_SRC_KERNELS_SPARSE_AVX2_H
#define PARE_SRC_KERNELS_SPARSE_AVX2_H

#include "kernels/sparse_rows.h"

/* Column j of mask m: the number of values before it, or 0x80 (a zero) when it has none. */
#define PARE_AT(m, j)                                                                              \
    ((m) >> (j)&1 ? (uint8_t)__builtin_popcount((m) & ((1u << (j)) - 1)) : (uint8_t)0x80)
#define PARE_BYTES_8(m)                                                                            \
    {PARE_AT(m, 0), PARE_AT(m, 1), PARE_AT(m, 2), PARE_AT(m, 3),                                   \
     PARE_AT(m, 4), PARE_AT(m, 5), PARE_AT(m, 6), PARE_AT(m, 7)},
#define PARE_PAIR(m, j)                                                                            \
    (uint8_t)(PARE_AT(m, j) & 0x80 ? 0x80 : 2 * PARE_AT(m, j)),                                    \
        (uint8_t)(PARE_AT(m, j) & 0x80 ? 0x80 : 2 * PARE_AT(m, j) + 1)
#define PARE_WORDS_8(m)                                                                            \
    {PARE_PAIR(m, 0), PARE_PAIR(m, 1), PARE_PAIR(m, 2), PARE_PAIR(m, 3),                           \
     PARE_PAIR(m, 4), PARE_PAIR(m, 5), PARE_PAIR(m, 6), PARE_PAIR(m, 7)},
#define PARE_UPPER(m, j) 0x80, 0x80, PARE_PAIR(m, j)
#define PARE_DWORDS_8(m)                                                                           \
    {PARE_UPPER(m, 0), PARE_UPPER(m, 1), PARE_UPPER(m, 2), PARE_UPPER(m, 3),                       \
     PARE_UPPER(m, 4), PARE_UPPER(m, 5), PARE_UPPER(m, 6), PARE_UPPER(m, 7)},
#define PARE_X4(E, m) E(m) E(m + 1) E(m + 2) E(m + 3)
#define PARE_X16(E, m) PARE_X4(E, m) PARE_X4(E, m + 4) PARE_X4(E, m + 8) PARE_X4(E, m + 12)
#define PARE_X64(E, m) PARE_X16(E, m) PARE_X16(E, m + 16) PARE_X16(E, m + 32) PARE_X16(E, m + 48)
#define PARE_X256(E) PARE_X64(E, 0u) PARE_X64(E, 64u) PARE_X64(E, 128u) PARE_X64(E, 192u)

/* values of one byte */
static const uint8_t pare_spread_bytes[256][8] = {PARE_X256(PARE_BYTES_8)};
/* values of two bytes (bf16), to the upper halves of dwords: bf16 becomes f32 on the way */
static const uint8_t __attribute__((aligned(32)))
pare_spread_dwords[256][32] = {PARE_X256(PARE_DWORDS_8)};

/* ---- bf16 ---- */

/* The next values in the columns of byte j of the mask. */
INLINE __m256 spread_bf16(const uint8_t *values, uint64_t mask, int j, bool half) {
    size_t at = (j ? mask >> (8 * j - 5) : mask << 5) & 0x1fe0; /* times 32 */
    __m256i v = _mm256_broadcastsi128_si256(load_128(values + 2 * before(mask, j, half)));
    return _mm256_castsi256_ps(
        _mm256_shuffle_epi8(v, load_256((const uint8_t *)pare_spread_dwords + at)));
}

/* ---- integers ---- */

INLINE __m256i levels(__m256i nibbles) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(pare_sparse_levels)), nibbles);
}

/* Low nibbles in the low lane, high ones in the high lane, as numbers. */
INLINE __m256i codes_4(__m256i both) {
    __m256i v = _mm256_srlv_epi64(both, _mm256_set_epi64x(4, 4, 0, 0));
    return levels(_mm256_and_si256(v, _mm256_set1_epi8(15)));
}

INLINE __m128i two_8(const void *a, const void *b) {
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64(a)), (const __m64 *)b));
}
INLINE __m256i two_lanes(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* The weights of 32 columns, whose mask is at `mask`: read a byte at a time, which takes fewer
 * instructions than taking a word apart. */
INLINE __m256i spread(const uint8_t *values, const uint8_t *mask, format f) {
    size_t m[4];
    UNROLL for (int j = 0; j < 4; j++) m[j] = mask[j];
    __m256i control = two_lanes(two_8(pare_spread_bytes[m[0]], pare_spread_bytes[m[1]]),
                                two_8(pare_spread_bytes[m[2]], pare_spread_bytes[m[3]]));
    __m256i v;
    long long second = 0x0808080808080808; /* where in a lane the odd bytes' values begin */
    if (f.bitmap) {
        const uint8_t *at[4] = {values};
        UNROLL for (int j = 1; j < 4; j++) at[j] = at[j - 1] + __builtin_popcountll(m[j - 1]);
        v = two_lanes(two_8(at[0], at[1]), two_8(at[2], at[3]));
    } else {
        second >>= 1;
        if (f.bits == 8)
            v = _mm256_permute4x64_epi64(_mm256_castsi128_si256(load_128(values)), 0x50);
        else
            v = codes_4(_mm256_set1_epi64x((long long)load_u64(values)));
    }
    /* what is 0x80 stays above 0x7f */
    return _mm256_shuffle_epi8(v,
                               _mm256_add_epi8(control, _mm256_set_epi64x(second, 0, second, 0)));
}

/* Values of a bitmap from number `first` on as bytes; they begin at to[first % 2]. Reads and writes
 * up to 31 bytes more. */
INLINE void widen_4(uint8_t *to, const uint8_t *values, size_t first, size_t n) {
    values += first / 2;
    for (size_t i = 0; i < n + first % 2; i += 32, values += 16) {
        __m256i v = _mm256_cvtepu8_epi16(load_128(values));
        v = _mm256_and_si256(_mm256_or_si256(v, _mm256_slli_epi16(v, 4)), _mm256_set1_epi8(15));
        _mm256_storeu_si256((__m256i *)(to + i), levels(v));
    }
}

/* The values of 4 bits of a bitmap's next n columns as bytes, in `bytes`, which has room for n +
 * 64; p->at moves behind them. Bits of the mask's words past the columns are 0. */
INLINE const uint8_t *next_values(uint8_t *bytes, place *p, const uint8_t *mask, size_t n) {
    size_t count = 0, at = p->at;
    for (size_t k = 0; k < n; k += 64)
        count += (size_t)__builtin_popcountll(load_u64(mask + k / 8));
    p->at += count;
    widen_4(bytes, p->a.values, at, count);
    return bytes + at % 2;
}

#endif
