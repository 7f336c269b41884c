/* Products of f64 matrices of every level beside plain sums: all remainders of tiles, panels and
 * blocks, and nothing else written. */
#include "support/test.h"

#include "base/rng.h"
#include "kernels/gemm64.h"

#include <math.h>

enum { LD = 150, ROWS = 80 };

static double a[ROWS * LD], b[ROWS * LD], c[ROWS * LD], before[ROWS * LD];

static void fill(void) {
    for (size_t i = 0; i < ROWS * LD; i++) {
        a[i] = (double)pare_rng_normal(1, 1, i);
        b[i] = (double)pare_rng_normal(1, 2, i);
        before[i] = c[i] = (double)pare_rng_normal(1, 3, i);
    }
}

static void check(pare_gemm64_fn gemm, size_t m, size_t n, size_t k) {
    fill();
    gemm(c, LD, a, LD, b, LD, m, n, k);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t j = 0; j < LD; j++) {
            double want = before[i * LD + j];
            if (i < m && j < n)
                for (size_t t = 0; t < k; t++) want -= a[i * LD + t] * b[j * LD + t];
            if (!(fabs(c[i * LD + j] - want) <= 1e-12 * (1.0 + (double)k)))
                fail_msg("m %zu n %zu k %zu: element %zu, %zu: found %.17g, expected %.17g", m, n,
                         k, i, j, c[i * LD + j], want);
        }
}

static void check_level(pare_isa isa) {
    pare_gemm64_fn gemm = pare_gemm64_get(isa);
    for (size_t m = 0; m <= 13; m++)
        for (size_t n = 0; n <= 17; n++)
            for (size_t k = 0; k <= 9; k++) check(gemm, m, n, k);
    check(gemm, 64, 64, 64);
    check(gemm, 7, 67, 131);
    check(gemm, 80, 80, 150);
}

static void reference(void **state) {
    (void)state;
    check_level(PARE_ISA_REF);
}
static void best(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_isa isa = pare_runtime_isa(rt);
    pare_runtime_free(rt);
    if (isa == PARE_ISA_REF) skip();
    check_level(isa);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reference), cmocka_unit_test(best)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
