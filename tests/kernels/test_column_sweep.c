/* Sweeps' kernels: the reference against the definitions, every level against the reference's
 * bits. */
#include "support/test.h"

#include "base/rng.h"
#include "kernels/column_sweep.h"
#include "tensor/grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = PARE_COLUMN_SWEEP_ROWS, ROUNDS = 200 };

static void each_level(void (*check)(const pare_column_sweep_kernels *k)) {
    for (int isa = PARE_ISA_REF; isa <= (int)pare_isa_best(); isa++)
        check(pare_column_sweep_kernels_get((pare_isa)isa));
}

/* Scales of both signs, 0 and far too small ones, zero points at both ends. */
static void check_nearest(const pare_column_sweep_kernels *k) {
    float w[ROWS], scale[ROWS], zero[ROWS], q[ROWS];
    for (size_t round = 0; round < ROUNDS; round++) {
        int max = round % 3 ? 15 : 255;
        for (size_t i = 0; i < ROWS; i++) {
            uint64_t at = round * ROWS + i;
            w[i] = at % 17 ? 2.0f * pare_rng_normal(1, 1, at) : 0.0f;
            scale[i] = at % 11 == 0 ? 0.0f : at % 13 == 0 ? 1e-40f : pare_rng_normal(1, 2, at);
            zero[i] = (float)(at % 5 == 0 ? 0 : at % 5 == 1 ? max : max / 2 + 1);
        }
        k->nearest(q, w, scale, zero, (float)max);
        for (size_t i = 0; i < ROWS; i++) {
            int code = pare_grid_code(w[i], scale[i], (int)zero[i], max);
            float want = pare_grid_value(code, scale[i], (int)zero[i]);
            if (q[i] != want || signbit(q[i]) != signbit(want))
                fail_msg("w %g scale %g zero %g: found %g, expected %g", (double)w[i],
                         (double)scale[i], (double)zero[i], (double)q[i], (double)want);
        }
    }
}

static void nearest(void **state) {
    (void)state;
    each_level(check_nearest);
}

static void check_pass_on(const pare_column_sweep_kernels *k) {
    float e[ROWS];
    for (size_t i = 0; i < ROWS; i++) e[i] = pare_rng_normal(2, 1, i);
    for (size_t n = 0; n < 40; n++) {
        /* exactly as long: what is read or written past the end shows under a sanitizer */
        float *w = malloc((n + !n) * ROWS * sizeof *w), *u = malloc((n + !n) * sizeof *u);
        for (size_t j = 0; j < n; j++) u[j] = pare_rng_normal(2, 2, j);
        for (size_t j = 0; j < n * ROWS; j++) w[j] = pare_rng_normal(2, 3, j);
        k->pass_on(w, e, u, n);
        for (size_t j = 0; j < n * ROWS; j++) {
            float product = u[j / ROWS] * e[j % ROWS];
            assert_true(w[j] == pare_rng_normal(2, 3, j) - product);
        }
        free(w);
        free(u);
    }
}

static void pass_on(void **state) {
    (void)state;
    each_level(check_pass_on);
}

static void check_dots(const pare_column_sweep_kernels *k) {
    enum { LD = 24, M = 7 };
    float d[M * LD], y[M * 16];
    double sums[M + 1], plain[M];
    for (size_t i = 0; i < M * LD; i++) d[i] = pare_rng_normal(3, 1, i);
    for (size_t i = 0; i < M * 16; i++) y[i] = pare_rng_normal(3, 2, i);
    for (size_t m = 0; m <= M; m++) {
        for (size_t i = 0; i <= M; i++) sums[i] = (double)i;
        memcpy(plain, sums, sizeof plain);
        k->dots(sums, d, LD, y, m);
        pare_column_sweep_ref.dots(plain, d, LD, y, m);
        assert_memory_equal(sums, plain, sizeof plain);
        for (size_t i = 0; i <= M; i++) {
            double want = (double)i;
            for (size_t c = 0; i < m && c < 16; c++) want += (double)d[i * LD + c] * y[i * 16 + c];
            assert_true(fabs(sums[i] - want) < 1e-13 * (1 + fabs(want)) * 16);
        }
    }
}

static void dots(void **state) {
    (void)state;
    each_level(check_dots);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nearest),
        cmocka_unit_test(pass_on),
        cmocka_unit_test(dots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
