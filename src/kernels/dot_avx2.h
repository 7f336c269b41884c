/* Helpers of the dot_*_avx2.c files.
 *
 * A kernel is one inlined function, row_NAME(y, ldy, w, r, x, n): one weight row times n rows of x,
 * with n = 1 a constant and any other n a variable. One row at a time: then W is read as one
 * stream, which the memory system likes best by far (four rows side by side read 60 where one reads
 * 90). */
#ifndef PARE_SRC_KERNELS_DOT_AVX2_H
#define PARE_SRC_KERNELS_DOT_AVX2_H

#include "kernels/dot_impl.h"
#include "kernels/intrinsics.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL /* gcc warns of the pragma where it peels a loop first */
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

/* 16 bytes at a and 16 bytes at b. Inserting a lane runs once a cycle on Zen 3, a blend four times.
 */
INLINE __m256i load_2x128(const void *a, const void *b) {
    return _mm256_blend_epi32(_mm256_castsi128_si256(load_128(a)),
                              _mm256_broadcastsi128_si256(load_128(b)), 0xf0);
}

INLINE uint16_t load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

INLINE uint32_t load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

INLINE __m256i ones_16(void) { return _mm256_set1_epi16(1); }

/* Adds neighbouring dwords of a and of b as words: in each lane [a a b b] of [a a a a] and
 * [b b b b]. */
INLINE __m256i merge_16(__m256i a, __m256i b) {
    __m256 even = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
    __m256 odd = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd);
    return _mm256_add_epi16(_mm256_castps_si256(even), _mm256_castps_si256(odd));
}

/* The same with sums of 32 bits. */
INLINE __m256i merge_32(__m256i a, __m256i b) {
    __m256 even = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
    __m256 odd = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd);
    return _mm256_add_epi32(_mm256_castps_si256(even), _mm256_castps_si256(odd));
}

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

/* Defines pare_dot_NAME_avx2 from row_NAME. */
#define DOT_AVX2(name)                                                                             \
    void pare_dot_##name##_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,        \
                                size_t row_end, const pare_act *x) {                               \
        if (x->n == 1)                                                                             \
            for (size_t r = row_begin; r < row_end; r++) row_##name(y, ldy, w, r, x, 1);           \
        else                                                                                       \
            for (size_t r = row_begin; r < row_end; r++) row_##name(y, ldy, w, r, x, x->n);        \
    }

#endif
