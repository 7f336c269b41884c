#include "kernels/select.h"

#include "kernels/vec_avx2.h"

/* Eight keys as in select_ref.c. */
static inline __m256i keys_of(__m256 score) {
    const __m256i sign = _mm256_set1_epi32((int)0x80000000u);
    __m256i u = _mm256_castps_si256(score);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(score, score, _CMP_UNORD_Q));
    u = _mm256_andnot_si256(_mm256_cmpeq_epi32(u, sign), u); /* -0 equals +0 */
    __m256i negative = _mm256_srai_epi32(u, 31);
    __m256i key = _mm256_xor_si256(u, _mm256_or_si256(negative, sign));
    return _mm256_blendv_epi8(key, _mm256_set1_epi32(1), nan);
}

static void keys(uint32_t *key, const pare_scored *s, size_t at, size_t n) {
    const float *x = (s->score ? s->score : s->w) + at;
    const __m256 sign = _mm256_set1_ps(s->score ? 0.0f : -0.0f);
    const __m256 divisor = _mm256_set1_ps(s->divisor);
    size_t i = 0;
    if (s->divisor > 0.0f)
        for (; i + 8 <= n; i += 8) {
            __m256 v = _mm256_div_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), divisor);
            _mm256_storeu_si256((__m256i *)(key + i), keys_of(v));
        }
    else
        for (; i + 8 <= n; i += 8) {
            __m256 v = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
            _mm256_storeu_si256((__m256i *)(key + i), keys_of(v));
        }
    if (i < n) pare_select_ref.keys(key + i, s, at + i, n - i);
}

static void compare(uint64_t *above, uint64_t *equal, const uint32_t key[64], uint32_t threshold) {
    const __m256i sign = _mm256_set1_epi32((int)0x80000000u); /* compare as signed numbers */
    const __m256i t = _mm256_set1_epi32((int)threshold), ts = _mm256_xor_si256(t, sign);
    *above = *equal = 0;
    for (int i = 0; i < 64; i += 8) {
        __m256i k = _mm256_loadu_si256((const __m256i *)(key + i));
        __m256i a = _mm256_cmpgt_epi32(_mm256_xor_si256(k, sign), ts);
        __m256i e = _mm256_cmpeq_epi32(k, t);
        *above |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(a)) << i;
        *equal |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(e)) << i;
    }
}

/* Eight lanes, all ones where the bit is set. */
static inline __m256i lanes_of(uint64_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)(bits & 255)), lane), lane);
}

static void bend(uint32_t key[64], uint64_t low, uint64_t high) {
    for (int i = 0; i < 64; i += 8) {
        __m256i k = _mm256_loadu_si256((const __m256i *)(key + i));
        k = _mm256_or_si256(_mm256_andnot_si256(lanes_of(low >> i), k), lanes_of(high >> i));
        _mm256_storeu_si256((__m256i *)(key + i), k);
    }
}

static uint64_t match(const uint32_t key[64], uint32_t prefix, uint32_t mask) {
    const __m256i p = _mm256_set1_epi32((int)prefix), m = _mm256_set1_epi32((int)mask);
    uint64_t bits = 0;
    for (int i = 0; i < 64; i += 8) {
        __m256i k = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(key + i)), m);
        __m256i e = _mm256_cmpeq_epi32(k, p);
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(e)) << i;
    }
    return bits;
}

/* -1 where the number that stands `turn` places on in each four comes before: it is higher, or
 * equal and (later) behind. */
#define COMES_FIRST(k, turn, later)                                                                \
    _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_shuffle_epi32(k, turn), k),                          \
                    _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_shuffle_epi32(k, turn), k), later))

static uint64_t quads(const uint32_t key[64], int n) {
    const __m256i sign = _mm256_set1_epi32((int)0x80000000u); /* compare as signed numbers */
    const __m256i later1 = _mm256_setr_epi32(-1, -1, -1, 0, -1, -1, -1, 0),
                  later2 = _mm256_setr_epi32(-1, -1, 0, 0, -1, -1, 0, 0),
                  later3 = _mm256_setr_epi32(-1, 0, 0, 0, -1, 0, 0, 0),
                  most = _mm256_set1_epi32(-n);
    uint64_t bits = 0;
    for (int i = 0; i < 64; i += 8) {
        __m256i k = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(key + i)), sign);
        __m256i higher = _mm256_add_epi32(
            COMES_FIRST(k, 0x39, later1),
            _mm256_add_epi32(COMES_FIRST(k, 0x4E, later2), COMES_FIRST(k, 0x93, later3)));
        __m256i stay = _mm256_cmpgt_epi32(higher, most); /* fewer than n come first */
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(stay)) << i;
    }
    return bits;
}

const pare_select_kernels pare_select_avx2 = {keys, compare, bend, match, quads};
