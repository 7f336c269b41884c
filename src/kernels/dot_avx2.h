/* Helpers of the AVX2 and AVX-512 files that read weights. A kernel takes one row (or one packed
 * panel) at a time: then W is read as one stream, which the memory system likes best by far (four
 * rows side by side read 60 where one reads 90). */
#ifndef PARE_SRC_KERNELS_DOT_AVX2_H
#define PARE_SRC_KERNELS_DOT_AVX2_H

#include "kernels/dot_impl.h"
#include "kernels/intrinsics.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(PARE_EMULATE)
#define UNROLL /* gcc warns of the pragma where it peels a loop first; emulated code is long       \
                  enough */
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* Asks for the cache lines that begin in [p, p + n) + ahead. Rows follow each other in memory, so
 * this reaches into the next ones. Measured on Zen 3: shares of the read rate for q4_0, q8_0, q6_k
 * are 64..69% without, 84, 90, 91% at 1, 2, 4 KiB, less beyond. */
enum { PREFETCH_BYTES = 4096 };

INLINE void prefetch_at(const void *p, size_t n, size_t ahead) {
    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)((uintptr_t)p + ahead + i), _MM_HINT_T0);
}
INLINE void prefetch(const void *p, size_t n) { prefetch_at(p, n, PREFETCH_BYTES); }

INLINE __m128i load_128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

INLINE uint32_t load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

INLINE __m256i ones_16(void) { return _mm256_set1_epi16(1); }

/* |w| * (x with w's sign): exact for w = -128 too, as |w| is unsigned and x is above -128. */
INLINE __m256i dot_q8(__m256i w, __m256i x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
                             ones_16());
}

INLINE float sum_8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#endif
