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

/* 32 inputs: their q and the sums of the two halves. */
static inline void quantize_32(int8_t *q, int16_t *sum16, const float *x, __m256 inverse) {
    __m256i lo = _mm256_packs_epi32(round_8(x, inverse), round_8(x + 8, inverse));
    __m256i hi = _mm256_packs_epi32(round_8(x + 16, inverse), round_8(x + 24, inverse));
    __m256i v = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lo, hi),
                                            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, v);
    /* x + 128 in u8: sums of 8 by sad, each half of the register holds one sum of 16 */
    __m256i s =
        _mm256_sad_epu8(_mm256_xor_si256(v, _mm256_set1_epi8((char)0x80)), _mm256_setzero_si256());
    s = _mm256_add_epi64(s, _mm256_shuffle_epi32(s, 0x4e));
    sum16[0] = (int16_t)(_mm256_extract_epi32(s, 0) - 16 * 128);
    sum16[1] = (int16_t)(_mm256_extract_epi32(s, 4) - 16 * 128);
}

static inline float quantize_group(int8_t *q, int16_t *sum16, const float *x, size_t group) {
    union {
        uint32_t bits;
        float value;
    } max = {max_bits(x, (int)group / 8)};
    bool finite = max.bits < 0x7f800000, some = finite && max.value >= PARE_ACT_TINY;
    if (!some) { /* every q is 0, and a NaN times 0 must not reach the conversion */
        for (size_t i = 0; i < group; i += 32)
            _mm256_storeu_si256((__m256i *)(q + i), _mm256_setzero_si256());
        for (size_t i = 0; i < group / 16; i++) sum16[i] = 0;
        return finite ? 0.0f : NAN;
    }
    __m256 inverse = _mm256_set1_ps(127.0f / max.value);
    for (size_t i = 0; i < group; i += 32) quantize_32(q + i, sum16 + i / 16, x + i, inverse);
    return max.value / 127.0f;
}

static inline __m256i two_halves(const int8_t *a, const int8_t *b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)),
                                   _mm_loadu_si128((const __m128i *)b), 1);
}

static inline void write_pairs(int8_t *pairs, const int8_t *q) {
    for (int p = 0; p < 4; p++) {
        _mm256_storeu_si256((__m256i *)(pairs + 64 * p), two_halves(q + 32 * p, q + 32 * p + 128));
        _mm256_storeu_si256((__m256i *)(pairs + 64 * p + 32),
                            two_halves(q + 32 * p + 16, q + 32 * p + 144));
    }
}

static inline void quantize(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols,
                            size_t group) {
    a->n = n;
    for (size_t i = 0; i < n; i++) {
        int8_t *q = a->q + i * a->q_stride;
        for (size_t c = 0; c + group <= cols; c += group)
            a->d[i * a->d_stride + c / group] = quantize_group(
                q + c, a->sum16 + i * a->sum_stride + c / 16, x + i * ldx + c, group);
        pare_act_quantize_tail(a, x + i * ldx, i, cols, group);
        pare_act_zero_rest(a, i, group);
        if (a->pairs_at)
            for (size_t c = 0; c < a->cols; c += 256) write_pairs(q + a->pairs_at + c, q + c);
    }
}

void pare_act_quantize_q8_32_avx2(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols) {
    quantize(a, x, ldx, n, cols, 32);
}

void pare_act_quantize_q8_256_avx2(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols) {
    quantize(a, x, ldx, n, cols, 256);
}
