/* Philox 4x32-10 (base/rng.h) for eight indices at a time. */
#include "kernels/uniform.h"

#include "kernels/intrinsics.h"

/* Both halves of eight products of 32 bits. */
static inline __m256i multiply(__m256i *high, __m256i x, __m256i factor) {
    __m256i even = _mm256_mul_epu32(x, factor);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

/* The first of the four numbers of each index; those have their upper half in common. */
static inline __m256i philox(uint64_t seed, uint64_t stream, uint64_t index) {
    const __m256i factor0 = _mm256_set1_epi64x(0xD2511F53),
                  factor1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i c0 = _mm256_add_epi32(_mm256_set1_epi32((int)(uint32_t)index),
                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i c1 = _mm256_set1_epi32((int)(uint32_t)(index >> 32));
    __m256i c2 = _mm256_set1_epi32((int)(uint32_t)stream),
            c3 = _mm256_set1_epi32((int)(uint32_t)(stream >> 32));
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        __m256i high0, high1;
        __m256i low0 = multiply(&high0, c0, factor0), low1 = multiply(&high1, c2, factor1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), _mm256_set1_epi32((int)k0));
        c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), _mm256_set1_epi32((int)k1));
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

void pare_uniform_avx2(float *out, uint64_t seed, uint64_t stream, uint64_t index, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        if ((uint32_t)(index + i) > UINT32_MAX - 7) { /* a carry between the lanes */
            pare_uniform_ref(out + i, seed, stream, index + i, 8);
            continue;
        }
        __m256i bits = _mm256_srli_epi32(philox(seed, stream, index + i), 8);
        _mm256_storeu_ps(out + i,
                         _mm256_mul_ps(_mm256_cvtepi32_ps(bits), _mm256_set1_ps(0x1p-24f)));
    }
    pare_uniform_ref(out + i, seed, stream, index + i, n - i);
}
