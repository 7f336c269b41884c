/* Numbers to bf16, for the tile kernels of AVX512-BF16 and AMX. */
#include "kernels/bf16_avx512.h"
#include "kernels/tile_impl.h"

enum { NR = PARE_TILE_NR };

/* To nearest, ties to even, in the upper 16 bits of each lane; others hold what was left. What
 * would round up to infinity is cut off instead; a NaN keeps its upper bits and becomes quiet. */
static __m512i rounded(__m512 x) {
    const __m512i last = _mm512_set1_epi32(0x7F7F7FFF); /* that does not round up to infinity */
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    __mmask16 rare =
        _mm512_cmpgt_epi32_mask(_mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF)), last);
    if (!rare) return up;
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    bits = _mm512_mask_or_epi32(bits, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_mask_mov_epi32(up, rare, bits);
}

static __m512i round_bf16(__m512 x) {
    return _mm512_and_si512(rounded(x), _mm512_set1_epi32((int)0xFFFF0000u));
}

/* --- both of two vectors at once --- */

/* Is a magnitude of either outside of [from, to], as bits, 0 aside? */
static bool beyond(__m512 x, __m512 y, int32_t from, int32_t to) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF), least = _mm512_set1_epi32(from);
    __m512i a = _mm512_and_si512(_mm512_castps_si512(x), magnitude);
    __m512i b = _mm512_and_si512(_mm512_castps_si512(y), magnitude);
    __mmask16 above = _mm512_cmpgt_epi32_mask(_mm512_max_epi32(a, b), _mm512_set1_epi32(to));
    if (from == 0) return above != 0;
    __mmask16 below = _mm512_cmpgt_epi32_mask(least, a) & _mm512_test_epi32_mask(a, a);
    below |= _mm512_cmpgt_epi32_mask(least, b) & _mm512_test_epi32_mask(b, b);
    return (above | below) != 0;
}

/* As rounded: what the instruction makes of numbers that do not round up to infinity. */
BF16 static __m512i nearest(__m512 low, __m512 high) {
    __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    __m512i r;
    memcpy(&r, &both, sizeof r);
    return r;
}

static bool is_rare(__m512 x, __m512 y) { return beyond(x, y, 0, 0x7F7F7FFF); }

static __m512i pair_of(__m512i upper0, __m512i upper1) {
    return _mm512_or_si512(_mm512_srli_epi32(upper0, 16),
                           _mm512_and_si512(upper1, _mm512_set1_epi32((int)0xFFFF0000u)));
}

/* Lane i of both, side by side. */
static __m512i interleaved(__m512i halves) {
    static const uint16_t at[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(at), halves);
}

BF16 static __m512i pair_f32(__m512 x, __m512 y) {
    if (is_rare(x, y)) return pair_of(rounded(x), rounded(y));
    return interleaved(nearest(x, y));
}

/* --- rows --- */

BF16 static void to_one_part(uint16_t *to, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 32) {
        __m512 low = _mm512_loadu_ps(x + i), high = _mm512_loadu_ps(x + i + 16);
        if (is_rare(low, high)) {
            _mm256_storeu_si256((__m256i *)(to + i),
                                _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(low), 16)));
            _mm256_storeu_si256((__m256i *)(to + i + 16),
                                _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(high), 16)));
        } else {
            _mm512_storeu_si512(to + i, nearest(low, high));
        }
    }
}

void pare_tile_split_avx512(uint16_t *const *parts, int n_parts, const float *x, size_t n) {
    if (n_parts == 1) {
        to_one_part(parts[0], x, n);
        return;
    }
    for (size_t i = 0; i < n; i += 16) {
        __m512 rest = _mm512_loadu_ps(x + i);
        for (int p = 0; p < n_parts; p++) {
            __m512i part = round_bf16(rest);
            _mm256_storeu_si256((__m256i *)(parts[p] + i),
                                _mm512_cvtepi32_epi16(_mm512_srli_epi32(part, 16)));
            rest = _mm512_sub_ps(rest, _mm512_castsi512_ps(part));
        }
    }
}

/* --- panels of pairs --- */

BF16 void pare_tile_pair_f32_avx512(uint32_t *panel, const float *rows, size_t ld, size_t k) {
    size_t j = 0;
    for (; j + 2 <= k; j += 2, panel += NR, rows += 2 * ld)
        _mm512_storeu_si512(panel, pair_f32(_mm512_loadu_ps(rows), _mm512_loadu_ps(rows + ld)));
    if (j < k) _mm512_storeu_si512(panel, pair_f32(_mm512_loadu_ps(rows), _mm512_setzero_ps()));
}

static __m512i widened(const uint16_t *from) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
}

void pare_tile_pair_bf16_avx512(uint32_t *panel, const uint16_t *rows, size_t ld, size_t k) {
    size_t j = 0;
    for (; j + 2 <= k; j += 2, panel += NR, rows += 2 * ld)
        _mm512_storeu_si512(
            panel, _mm512_or_si512(widened(rows), _mm512_slli_epi32(widened(rows + ld), 16)));
    if (j < k) _mm512_storeu_si512(panel, widened(rows));
}

/* Weights of input `i` of the four in each lane. */
TILE_INLINE __m512 weights_of(__m512i codes, __m512 scale, __m512 offset, const int i,
                              const bool OFFSET) {
    __m512i code = _mm512_srai_epi32(i < 3 ? _mm512_slli_epi32(codes, 24 - 8 * i) : codes, 24);
    __m512 w = _mm512_mul_ps(_mm512_cvtepi32_ps(code), scale);
    return OFFSET ? _mm512_add_ps(w, offset) : w;
}

/* SAFE: no weight is denormal, or so large that it might round up to infinity. */
BF16 TILE_INLINE void pair_group(uint32_t *panel, const uint32_t *codes, __m512 scale,
                                 __m512 offset, size_t k, const bool OFFSET, const bool SAFE) {
    for (size_t j = 0; j < k; j += 4, codes += NR, panel += 2 * NR) {
        __m512i four = _mm512_loadu_si512(codes);
        TILE_UNROLL for (int i = 0; i < 4; i += 2) {
            __m512 x = weights_of(four, scale, offset, i, OFFSET);
            __m512 y = weights_of(four, scale, offset, i + 1, OFFSET);
            _mm512_storeu_si512(panel + i / 2 * NR,
                                SAFE ? interleaved(nearest(x, y)) : pair_f32(x, y));
        }
    }
}

BF16 TILE_INLINE void pair_codes(uint32_t *panel, const uint32_t *codes, const float *scale,
                                 const float *offset, uint32_t group, size_t k, const bool OFFSET) {
    enum {
        FROM = (127 - 90) << 23,
        TO = (127 + 100) << 23
    }; /* 2^-90, whose sums are multiples of
          2^-113, and 2^100 */
    for (size_t j = 0; j < k;
         j += group, scale += NR, codes += group / 4 * NR, panel += group / 2 * NR) {
        size_t n = k - j < group ? k - j : group;
        __m512 s = _mm512_loadu_ps(scale), o = _mm512_setzero_ps();
        if (OFFSET) o = _mm512_loadu_ps(offset + j / group * NR);
        if (beyond(s, o, FROM, TO))
            pair_group(panel, codes, s, o, n, OFFSET, false);
        else
            pair_group(panel, codes, s, o, n, OFFSET, true);
    }
}

BF16 void pare_tile_pair_codes_avx512(uint32_t *panel, const uint32_t *codes, const float *scale,
                                      const float *offset, uint32_t group, size_t k) {
    if (offset)
        pair_codes(panel, codes, scale, offset, group, k, true);
    else
        pair_codes(panel, codes, scale, offset, group, k, false);
}
