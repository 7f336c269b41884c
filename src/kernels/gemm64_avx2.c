/* Tiles of 3 x 4 results: 12 sums, 3 vectors of a and one of b fill the 16 registers, and 7 loads
 * feed 12 products. */
#include "kernels/gemm64.h"

#include <immintrin.h>

enum { TILE_M = 3, TILE_N = 4 };

static inline double sum4(__m256d v) {
    __m128d half = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

/* m <= TILE_M rows of a, n <= TILE_N of b; constants once it is inlined. */
static inline __attribute__((always_inline)) void tile(double *c, size_t ldc, const double *a,
                                                       size_t lda, const double *b, size_t ldb,
                                                       size_t m, size_t n, size_t k) {
    __m256d sum[TILE_M][TILE_N];
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) sum[i][j] = _mm256_setzero_pd();
    size_t t = 0;
    for (; t + 4 <= k; t += 4) {
        __m256d x[TILE_M];
        for (size_t i = 0; i < m; i++) x[i] = _mm256_loadu_pd(a + i * lda + t);
        for (size_t j = 0; j < n; j++) {
            __m256d y = _mm256_loadu_pd(b + j * ldb + t);
            for (size_t i = 0; i < m; i++) sum[i][j] = _mm256_fmadd_pd(x[i], y, sum[i][j]);
        }
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double rest = sum4(sum[i][j]);
            for (size_t r = t; r < k; r++) rest += a[i * lda + r] * b[j * ldb + r];
            c[i * ldc + j] -= rest;
        }
}

void pare_gemm64_avx2(double *c, size_t ldc, const double *a, size_t lda, const double *b,
                      size_t ldb, size_t m, size_t n, size_t k) {
    size_t i = 0;
    for (; i + TILE_M <= m; i += TILE_M) {
        size_t j = 0;
        for (; j + TILE_N <= n; j += TILE_N)
            tile(c + i * ldc + j, ldc, a + i * lda, lda, b + j * ldb, ldb, TILE_M, TILE_N, k);
        for (; j < n; j++)
            tile(c + i * ldc + j, ldc, a + i * lda, lda, b + j * ldb, ldb, TILE_M, 1, k);
    }
    for (; i < m; i++)
        for (size_t j = 0; j < n; j++)
            tile(c + i * ldc + j, ldc, a + i * lda, lda, b + j * ldb, ldb, 1, 1, k);
}
