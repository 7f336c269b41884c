/* Statistics of inputs against plain sums in f64: any width, rows that come in any pieces, padded
 * rows, levels and threads. */
#include "support/test.h"

#include "base/rng.h"
#include "methods/obs.h"
#include "pipeline/statistics.h"

#include <math.h>
#include <stdlib.h>

typedef struct feed {
    pare_statistics *s;
    const float *x;
    size_t ldx;
    const size_t *pieces;
    size_t n_pieces;
} feed;

static void feed_thread(pare_worker *w, void *arg) {
    const feed *f = arg;
    const float *x = f->x;
    for (size_t i = 0; i < f->n_pieces; x += f->pieces[i++] * f->ldx)
        pare_statistics_add(w, f->s, x, f->ldx, f->pieces[i]);
}

/* The half that is kept is that of the Hessian. */
static void check_half(pare_runtime *rt, const pare_input_stats *r) {
    float *half = calloc(1, pare_output_half_bytes(r->cols)); /* what is left out stays 0 */
    pare_output_half(rt, half, r->hessian, r->cols);
    assert_memory_equal(r->half, half, pare_output_half_bytes(r->cols));
    free(half);
}

/* The Hessian of one run, to be freed; everything is compared with sums in f64. */
static double *check(size_t cols, pare_isa isa, pare_compute compute, int threads) {
    static const size_t pieces[] = {1,    700, 3,
                                    1024, 500, 2049}; /* more than a block, and its end */
    size_t n = 0, ldx = cols + 3, n_pieces = sizeof pieces / sizeof *pieces;
    for (size_t i = 0; i < n_pieces; i++) n += pieces[i];
    float *x = malloc(n * ldx * sizeof *x);
    for (size_t i = 0; i < n * ldx; i++)
        x[i] = i % ldx < cols ? pare_rng_normal(1, cols, i) + 0.2f * (float)(i % ldx % 5) : NAN;
    pare_runtime *rt = test_runtime(threads, isa);
    feed f = {.x = x, .ldx = ldx, .pieces = pieces, .n_pieces = n_pieces};
    const unsigned needs = PARE_NEED_ABS | PARE_NEED_RANGE | PARE_NEED_HESSIAN;
    /* chains of 1024 additions in f32; `fast`: of 2048 of numbers rounded to bf16 */
    const double bound = 1024 * 6e-8 + (compute == PARE_COMPUTE_FAST ? 2.1 / 256 : 0);
    assert_ok(pare_statistics_create(&f.s, rt, compute, cols, needs, 0, NULL, err));
    pare_team_run(rt, feed_thread, &f);
    assert_true(pare_statistics_finite(f.s));
    const pare_input_stats *r = pare_statistics_result(f.s, 6);
    assert_true(r->cols == cols && r->n_tokens == n && r->n_sequences == 6);
    double *h = malloc(cols * cols * sizeof *h);
    memcpy(h, r->hessian, cols * cols * sizeof *h);
    for (size_t i = 0; i < cols; i++) {
        double squares = 0, sum = 0;
        float max = 0, low = INFINITY, high = -INFINITY;
        for (size_t t = 0; t < n; t++) {
            low = fminf(low, x[t * ldx + i]);
            high = fmaxf(high, x[t * ldx + i]);
            squares += (double)x[t * ldx + i] * x[t * ldx + i];
            sum += fabs((double)x[t * ldx + i]);
            max = fmaxf(max, fabsf(x[t * ldx + i]));
        }
        assert_true(fabs(r->squares[i] - squares) < 1e-12 * squares);
        assert_true(fabs(r->abs_sum[i] - sum) < 1e-12 * sum && r->abs_max[i] == max);
        assert_true(r->min[i] == low && r->max[i] == high);
        for (size_t k = 0; k < cols; k++) {
            double want = 0, mag = 0;
            for (size_t t = 0; t < n; t++) {
                double term = (double)x[t * ldx + i] * x[t * ldx + k];
                want += term;
                mag += fabs(term);
            }
            if (fabs(h[i * cols + k] - want) > bound * mag)
                fail_msg("%zu columns, [%zu][%zu]: found %g, expected %g", cols, i, k,
                         h[i * cols + k], want);
            assert_true(h[i * cols + k] == h[k * cols + i]);
        }
    }
    check_half(rt, r);
    float *scale = malloc(cols * sizeof *scale);
    for (size_t i = 0; i < cols; i++) scale[i] = 0.5f + (float)(i % 7);
    pare_statistics_divide(f.s, scale);
    for (size_t i = 0; i < cols * cols; i++)
        assert_true(r->hessian[i] == h[i] / ((double)scale[i / cols] * (double)scale[i % cols]));
    check_half(rt, r);
    free(scale);
    pare_statistics_free(f.s);
    pare_runtime_free(rt);
    free(x);
    return h;
}

static void sums(void **state) {
    (void)state;
    static const size_t widths[] = {1, 15, 16, 17, 48, 50, 100};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        for (pare_compute compute = PARE_COMPUTE_EXACT; compute <= PARE_COMPUTE_FAST; compute++) {
            double *plain = check(widths[i], PARE_ISA_REF, compute, 1),
                   *one = check(widths[i], PARE_ISA_AMX, compute, 1),
                   *three = check(widths[i], PARE_ISA_AMX, compute, 3);
            assert_memory_equal(one, three, widths[i] * widths[i] * sizeof *one);
            free(plain);
            free(one);
            free(three);
        }
    }
}

/* NaN and infinity show in the sums. */
static void not_finite(void **state) {
    (void)state;
    static const size_t piece = 2;
    for (int k = 0; k < 2; k++) {
        float x[8] = {1, 2, 3, 4, 5, k ? NAN : INFINITY, 7, 8};
        pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
        feed f = {.x = x, .ldx = 4, .pieces = &piece, .n_pieces = 1};
        assert_ok(pare_statistics_create(&f.s, rt, PARE_COMPUTE_FAST, 4, PARE_NEED_SQUARES, 0, NULL,
                                         err));
        pare_team_run(rt, feed_thread, &f);
        assert_false(pare_statistics_finite(f.s));
        pare_statistics_free(f.s);
        pare_runtime_free(rt);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums), cmocka_unit_test(not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
