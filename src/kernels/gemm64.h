/* Products of f64 matrices, for factoring Hessians. */
#ifndef PARE_SRC_KERNELS_GEMM64_H
#define PARE_SRC_KERNELS_GEMM64_H

#include "pare/base.h"

/* c[m][ldc] -= a[m][lda] b[n][ldb]^T over k. Any m, n, k; c may be none of a and b. The order of an
 * element's sum depends on k and the level only. */
typedef void (*pare_gemm64_fn)(double *c, size_t ldc, const double *a, size_t lda, const double *b,
                               size_t ldb, size_t m, size_t n, size_t k);

/* The kernel of a level. */
pare_gemm64_fn pare_gemm64_get(pare_isa isa);

void pare_gemm64_ref(double *c, size_t ldc, const double *a, size_t lda, const double *b,
                     size_t ldb, size_t m, size_t n, size_t k);
void pare_gemm64_avx2(double *c, size_t ldc, const double *a, size_t lda, const double *b,
                      size_t ldb, size_t m, size_t n, size_t k);

#endif
