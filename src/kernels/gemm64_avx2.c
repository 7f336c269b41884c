/* b is copied, transposed, to panels of 8 columns. A tile of 6 x 8 results is 12 sums, 2 vectors of
 * b and one of a: 8 loads feed 12 products. */
#include "kernels/gemm64.h"

#include "kernels/unroll.h"

#include <immintrin.h>

enum { TILE_M = 6, NR = 8, MAX_N = 64, MAX_K = 64 };

static inline void transpose4(double *to, const double *b, size_t ldb) {
    __m256d r0 = _mm256_loadu_pd(b), r1 = _mm256_loadu_pd(b + ldb),
            r2 = _mm256_loadu_pd(b + 2 * ldb), r3 = _mm256_loadu_pd(b + 3 * ldb);
    __m256d a = _mm256_unpacklo_pd(r0, r1), c = _mm256_unpackhi_pd(r0, r1),
            d = _mm256_unpacklo_pd(r2, r3), e = _mm256_unpackhi_pd(r2, r3);
    _mm256_store_pd(to, _mm256_permute2f128_pd(a, d, 0x20));
    _mm256_store_pd(to + NR, _mm256_permute2f128_pd(c, e, 0x20));
    _mm256_store_pd(to + 2 * NR, _mm256_permute2f128_pd(a, d, 0x31));
    _mm256_store_pd(to + 3 * NR, _mm256_permute2f128_pd(c, e, 0x31));
}

/* n rows of b, k <= MAX_K columns, to panels[(n + 7) / 8][MAX_K][8], zeros where b has ended. */
static void pack(double *panels, const double *b, size_t ldb, size_t n, size_t k) {
    for (size_t j = 0; j < n; j += NR) {
        double *to = panels + j * MAX_K;
        size_t t = 0;
        if (n - j >= NR)
            for (; t + 4 <= k; t += 4) {
                transpose4(to + t * NR, b + j * ldb + t, ldb);
                transpose4(to + t * NR + 4, b + (j + 4) * ldb + t, ldb);
            }
        for (; t < k; t++)
            for (size_t c = 0; c < NR; c++) to[t * NR + c] = j + c < n ? b[(j + c) * ldb + t] : 0.0;
    }
}

/* rows is constant once it is inlined; n <= 8 columns of c are written. */
static inline __attribute__((always_inline)) void tile(double *c, size_t ldc, const double *a,
                                                       size_t lda, const double *panel, size_t n,
                                                       size_t k, const int rows) {
    __m256d sum[TILE_M][2];
    PARE_UNROLL
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = _mm256_setzero_pd();
    for (size_t t = 0; t < k; t++) {
        __m256d b0 = _mm256_load_pd(panel + t * NR), b1 = _mm256_load_pd(panel + t * NR + 4);
        PARE_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256d x = _mm256_broadcast_sd(a + (size_t)i * lda + t);
            sum[i][0] = _mm256_fmadd_pd(x, b0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_pd(x, b1, sum[i][1]);
        }
    }
    PARE_UNROLL
    for (int i = 0; i < rows; i++) {
        double *to = c + (size_t)i * ldc;
        if (n == NR) {
            _mm256_storeu_pd(to, _mm256_sub_pd(_mm256_loadu_pd(to), sum[i][0]));
            _mm256_storeu_pd(to + 4, _mm256_sub_pd(_mm256_loadu_pd(to + 4), sum[i][1]));
        } else {
            double row[NR] __attribute__((aligned(32)));
            _mm256_store_pd(row, sum[i][0]);
            _mm256_store_pd(row + 4, sum[i][1]);
            for (size_t j = 0; j < n; j++) to[j] -= row[j];
        }
    }
}

static void rows_of_panel(double *c, size_t ldc, const double *a, size_t lda, const double *panel,
                          size_t m, size_t n, size_t k) {
    size_t i = 0;
    for (; i + TILE_M <= m; i += TILE_M)
        tile(c + i * ldc, ldc, a + i * lda, lda, panel, n, k, TILE_M);
    c += i * ldc;
    a += i * lda;
    switch (m - i) {
    case 5:
        tile(c, ldc, a, lda, panel, n, k, 5);
        break;
    case 4:
        tile(c, ldc, a, lda, panel, n, k, 4);
        break;
    case 3:
        tile(c, ldc, a, lda, panel, n, k, 3);
        break;
    case 2:
        tile(c, ldc, a, lda, panel, n, k, 2);
        break;
    case 1:
        tile(c, ldc, a, lda, panel, n, k, 1);
        break;
    }
}

void pare_gemm64_avx2(double *c, size_t ldc, const double *a, size_t lda, const double *b,
                      size_t ldb, size_t m, size_t n, size_t k) {
    double panels[MAX_N * MAX_K] __attribute__((aligned(32)));
    for (size_t j = 0; j < n; j += MAX_N)
        for (size_t t = 0; t < k; t += MAX_K) {
            size_t width = n - j < MAX_N ? n - j : MAX_N, depth = k - t < MAX_K ? k - t : MAX_K;
            pack(panels, b + j * ldb + t, ldb, width, depth);
            for (size_t p = 0; p < width; p += NR)
                rows_of_panel(c + j + p, ldc, a + t, lda, panels + p * MAX_K, m,
                              width - p < NR ? width - p : NR, depth);
        }
}
