/* Spreading stored values to the columns whose bit is set, with AVX-512: the mask is a k register,
 * vpexpandb and vpexpandw take 64 and 32 columns at a time.
 *
 * The expansions are an extension of their own (VBMI2; nibbles are taken apart with VBMI). Values
 * are read up to 64 bytes past those that count. */
#ifndef PARE_SRC_KERNELS_SPARSE_AVX512_H
#define PARE_SRC_KERNELS_SPARSE_AVX512_H

#include "kernels/sparse_rows.h"

#ifdef PARE_EMULATE
#define VBMI2
#define KEEP_512(v)
#else
#define VBMI2 __attribute__((target("avx512vbmi,avx512vbmi2")))
/* Hides where a register comes from. Of an expansion that is kept: its operand, which in memory
 * takes three times as long (Zen 4: 4.6 cycles, 1.6 from a register), and the zeros that it leaves
 * between values: the form that zeroes waits for what its target held before. */
#define KEEP_512(v) __asm__("" : "+v"(v))
#endif

INLINE __m512i load_512(const void *p) { return _mm512_loadu_si512(p); }

/* ---- bf16 ---- */

/* The next values in the 32 columns of a mask. */
VBMI2 INLINE __m512i spread_16(const uint8_t *values, uint32_t mask) {
    __m512i v = load_512(values), rest = _mm512_setzero_si512();
    KEEP_512(v);
    KEEP_512(rest);
    return _mm512_mask_expand_epi16(rest, mask, v);
}

/* ---- integers ---- */

/* pare_sparse_levels four times, with `plus` added: an index of 6 bits of which 4 count. */
#define PARE_LEVELS_16(plus)                                                                       \
    (plus), 2 + (plus), 3 + (plus), 4 + (plus), 5 + (plus), 6 + (plus), 7 + (plus), 9 + (plus),    \
        -2 + (plus), -3 + (plus), -4 + (plus), -5 + (plus), -6 + (plus), -7 + (plus), -9 + (plus), \
        -11 + (plus)
#define PARE_LEVELS_64(plus)                                                                       \
    { PARE_LEVELS_16(plus), PARE_LEVELS_16(plus), PARE_LEVELS_16(plus), PARE_LEVELS_16(plus) }
/* How far codes of 4 bits are moved up to be unsigned. */
enum { LOWEST_4 = 11 };
static const int8_t __attribute__((aligned(64)))
pare_levels_64[2][64] = {PARE_LEVELS_64(0), PARE_LEVELS_64(LOWEST_4)};

/* For each 8 nibbles the bytes that they lie in. */
#define PARE_BYTES_FROM(k) (k), (k) + 1, (k) + 2, (k) + 3, (k) + 4, (k) + 5, (k) + 6, (k) + 7
static const uint8_t __attribute__((aligned(64))) pare_nibble_bytes[64] = {
    PARE_BYTES_FROM(0),  PARE_BYTES_FROM(4),  PARE_BYTES_FROM(8),  PARE_BYTES_FROM(12),
    PARE_BYTES_FROM(16), PARE_BYTES_FROM(20), PARE_BYTES_FROM(24), PARE_BYTES_FROM(28)};

/* The next values as bytes in the 64 columns of a mask; of 4 bits moved up where `moved`. `values`
 * holds a bitmap's value number `at` in nibble at % 2 of its first byte. */
VBMI2 INLINE __m512i spread_64(const uint8_t *values, size_t at, uint64_t mask, format f,
                               const bool moved) {
    __m512i v;
    if (f.bits == 8) {
        v = load_512(values);
    } else if (f.bitmap) {
        const __m512i shifts = _mm512_set1_epi64(0x1c1814100c080400);
        __m512i odd = _mm512_set1_epi8((char)(at % 2 * 4));
        v = _mm512_permutexvar_epi8(load_512(pare_nibble_bytes), load_512(values));
        v = _mm512_multishift_epi64_epi8(_mm512_add_epi8(shifts, odd), v);
        v = _mm512_permutexvar_epi8(v, load_512(pare_levels_64[moved]));
    } else { /* 16 values: low nibbles of 8 bytes, then the high ones */
        const __m256i shifts = _mm256_set_epi64x(0x3c342c241c140c04, 0x3830282018100800,
                                                 0x3c342c241c140c04, 0x3830282018100800);
        __m256i q = _mm256_permute4x64_epi64(_mm256_castsi128_si256(load_128(values)), 0x50);
        q = _mm256_multishift_epi64_epi8(shifts, q);
        q = _mm256_permutexvar_epi8(q, load_256(pare_levels_64[moved]));
        v = _mm512_castsi256_si512(q);
    }
    __m512i rest = f.bits == 4 && moved ? _mm512_set1_epi8(LOWEST_4) : _mm512_setzero_si512();
    KEEP_512(v);
    KEEP_512(rest);
    return _mm512_mask_expand_epi8(rest, mask, v);
}

/* A row under way: where its next values lie. */
INLINE const uint8_t *next_64(const place *p, format f) {
    return f.bitmap ? p->a.values + (f.bits == 8 ? p->at : p->at / 2) : p->a.values;
}
INLINE void pass_64(place *p, uint64_t mask, format f) {
    if (f.bitmap)
        p->at += (size_t)__builtin_popcountll(mask);
    else
        p->a.values += 4 * f.bits;
    p->a.mask += 8;
}

/* The mask of the n <= 64 columns that are left. A bitmap has whole words, without bits past the
 * last column. */
INLINE uint64_t last_mask(const uint8_t *mask, size_t n, bool bitmap) {
    uint64_t m = 0;
    if (bitmap) return load_u64(mask);
    memcpy(&m, mask, (n + 7) / 8);
    return m;
}

#endif
