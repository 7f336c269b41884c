#include "kernels/gemm64.h"

void pare_gemm64_ref(double *c, size_t ldc, const double *a, size_t lda, const double *b,
                     size_t ldb, size_t m, size_t n, size_t k) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (size_t t = 0; t < k; t++) sum += a[i * lda + t] * b[j * ldb + t];
            c[i * ldc + j] -= sum;
        }
}

pare_gemm64_fn pare_gemm64_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX2) return pare_gemm64_avx2;
#endif
    (void)isa;
    return pare_gemm64_ref;
}
