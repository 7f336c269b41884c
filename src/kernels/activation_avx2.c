/* Activations in int8 with AVX2: the bits of activation.c. */
#include <math.h>

#include "kernels/dot_impl.h"
#include "kernels/intrinsics.h"

/* The largest |x| of 8 * n_vectors values as the bits of an f32. Ordered as integers, NaN and
 * infinity come last. */
static inline uint32_t max_bits(const float *x, int n_vectors) {
    const __m256i sign = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_setzero_si256();
    for (int i = 0; i < n_vectors; i++)
        m = _mm256_max_epi32(
            m, _mm256_and_si256(sign, _mm256_loadu_si256((const __m256i *)(x + 8 * i))));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(h);
}

static inline __m256i round_8(const float *x, __m256 inverse) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
}

/* One whole group. */
static inline void quantize_group(pare_act *a, const float *x, size_t g) {
    union {
        uint32_t bits;
        float value;
    } max = {max_bits(x, PARE_ACT_GROUP / 8)};
    if (max.bits >= 0x7f800000 || max.value < PARE_ACT_TINY) {
        pare_act_quantize_group_ref(a, x, g, PARE_ACT_GROUP);
        return;
    }
    __m256 inverse = _mm256_set1_ps(127.0f / max.value);
    __m256i lo = _mm256_packs_epi32(round_8(x, inverse), round_8(x + 8, inverse));
    __m256i hi = _mm256_packs_epi32(round_8(x + 16, inverse), round_8(x + 24, inverse));
    __m256i v = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lo, hi),
                                            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(a->q + g * PARE_ACT_GROUP), v);
    /* x + 128 in u8: sums of 8 by sad, each half of the register holds one sum of 16 */
    __m256i s =
        _mm256_sad_epu8(_mm256_xor_si256(v, _mm256_set1_epi8((char)0x80)), _mm256_setzero_si256());
    s = _mm256_add_epi64(s, _mm256_shuffle_epi32(s, 0x4e));
    int first = _mm256_extract_epi32(s, 0) - 16 * 128,
        second = _mm256_extract_epi32(s, 4) - 16 * 128;
    float d = a->d[g] = max.value / 127.0f;
    pare_act_keep_sums(a, g, d, first, second);
}

void pare_act_quantize_avx2(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols) {
    a->n = n;
    for (size_t i = 0; i < n; i++, x += ldx) {
        pare_act row = pare_act_row(a, i);
        size_t groups = cols / PARE_ACT_GROUP, rest = cols % PARE_ACT_GROUP;
        for (size_t g = 0; g < groups; g++) quantize_group(&row, x + g * PARE_ACT_GROUP, g);
        if (rest) pare_act_quantize_group_ref(&row, x + groups * PARE_ACT_GROUP, groups, rest);
        pare_act_zero_rest(&row);
    }
}
