/* Quantized activations: the formulas by hand and by closed forms of their error, every level
 * against the reference. Built a second time with PARE_EMULATE for levels that the machine lacks.
 */
#include "support/test.h"

#include "base/rng.h"
#include "kernels/activation.h"
#include "tensor/act_quant.h"

#include <math.h>
#include <stdlib.h>

#ifdef PARE_EMULATE
#define TOP_LEVEL PARE_ISA_AVX512
#else
#define TOP_LEVEL pare_isa_best()
#endif

static const pare_act_scheme asymmetric8 = {.granularity = PARE_ACT_PER_TENSOR_DYNAMIC, .bits = 8},
                             symmetric8 = {.granularity = PARE_ACT_PER_TENSOR_DYNAMIC,
                                           .bits = 8,
                                           .symmetric = true};

static float uniform(uint64_t i) { return 2 * pare_rng_uniform(7, 1, i) - 1; }
static float normal(uint64_t i) {
    double u = 1.0 - (double)pare_rng_uniform(7, 2, i), v = (double)pare_rng_uniform(7, 3, i);
    return (float)(sqrt(-2 * log(u)) * cos(2 * 3.14159265358979 * v));
}

static float quantized(const pare_act_grid *g, float x) {
    float y;
    pare_act_grid_ref.apply(&y, &x, g, 1);
    return y;
}

/* -1 .. 3 in 4 bits: 15 steps of 4 / 15, z = round(3.75) = 4, which stands for 0. */
static void by_hand(void **state) {
    (void)state;
    pare_act_range r = {-1, 3};
    pare_act_scheme a = {.bits = 4};
    pare_act_grid g = pare_act_grid_of(&a, r);
    assert_true(g.s == 4.0f / 15 && g.low == -4 && g.high == 11 && g.shift == 0);
    assert_true(quantized(&g, 0) == 0);
    assert_true(quantized(&g, 100) == g.s * 11 && quantized(&g, -100) == g.s * -4);
    assert_true(quantized(&g, 1.5f * g.s) == 2 * g.s && quantized(&g, 2.5f * g.s) == 2 * g.s);
    a.symmetric = true;
    g = pare_act_grid_of(&a, r);
    assert_true(g.s == 3.0f / 7 && g.low == -8 && g.high == 7);
    assert_true(quantized(&g, 3) == 3 && quantized(&g, -100) == g.s * -8);
    a.formula = PARE_ACT_FULL;
    g = pare_act_grid_of(&a, r);
    assert_true(g.s == 3.0f / 7.5f && g.low == -8 && g.high == 7);
    a.formula = PARE_ACT_PAPER_EQ4;
    g = pare_act_grid_of(&a, r);
    assert_true(g.s == 4.0f / 7 && g.shift == 0 && quantized(&g, 100) > 99);
    a.symmetric = false;
    g = pare_act_grid_of(&a, r);
    assert_true(g.s == 4.0f / 7 && g.shift == -1 && quantized(&g, -1) == -1);
    assert_true(fabsf(quantized(&g, 3) - 3) < 1e-6f);
}

/* Ranges that do not hold 0, that hold nothing, that are too small, that are not finite. */
static void odd_ranges(void **state) {
    (void)state;
    pare_act_grid g = pare_act_grid_of(&asymmetric8, (pare_act_range){2, 3});
    assert_true(g.low == 0 && g.s == 3.0f / 255 && quantized(&g, 3) == 3);
    g = pare_act_grid_of(&asymmetric8, (pare_act_range){-3, -2});
    assert_true(g.high == 0 && quantized(&g, -3) == -3);
    for (int f = 0; f < 6; f++) {
        pare_act_scheme a = {.bits = 8, .formula = (pare_act_formula)(f / 2), .symmetric = f % 2};
        g = pare_act_grid_of(&a, pare_act_range_none);
        assert_true(g.s > 0 && quantized(&g, 0) == 0);
        g = pare_act_grid_of(&a, (pare_act_range){-1, INFINITY});
        assert_true(isnan(quantized(&g, 0.5f)));
        g = pare_act_grid_of(&a, (pare_act_range){NAN, NAN});
        assert_true(isnan(quantized(&g, 0.5f)));
        g = pare_act_grid_of(&a, (pare_act_range){-1, 1});
        assert_true(isnan(quantized(&g, NAN)));
        if (a.formula == PARE_ACT_PAPER_EQ4) continue;
        g = pare_act_grid_of(&a, (pare_act_range){-3e38f, 3e38f}); /* longer than f32 holds */
        assert_true(isfinite(g.s) && fabsf(quantized(&g, 3e38f) / 3e38f - 1) < 0.01f);
    }
    pare_act_range n = {NAN, NAN}, r = {-1, 2};
    assert_true(isnan(pare_act_range_join(n, r).min) && isnan(pare_act_range_join(r, n).max));
    r = pare_act_range_join(pare_act_range_join(pare_act_range_none, r), (pare_act_range){0, 5});
    assert_true(r.min == -1 && r.max == 5);
}

/* L_q: 0 on the grid; s^2 / 12 a value where values are uniform; with one huge value the sum of
 * squares of all others. */
static void closed_forms(void **state) {
    (void)state;
    enum { N = 64, IN = 500 };
    static float x[N][IN];
    float *flat = x[0];
    pare_isa best = pare_isa_best();
    for (size_t i = 0; i < (size_t)N * IN; i++) flat[i] = 0.25f * (float)((int)(i % 256) - 100);
    assert_true(pare_act_error(&asymmetric8, NULL, best, flat, IN, N, IN) == 0.0);
    for (size_t i = 0; i < (size_t)N * IN; i++) flat[i] = 0.25f * (float)((int)(i % 255) - 127);
    assert_true(pare_act_error(&symmetric8, NULL, best, flat, IN, N, IN) == 0.0);
    double squares = 0.0;
    for (size_t i = 0; i < (size_t)N * IN; i++) {
        flat[i] = uniform(i);
        squares += (double)flat[i] * (double)flat[i];
    }
    const pare_act_scheme *both[] = {&asymmetric8, &symmetric8};
    for (int i = 0; i < 2; i++) {
        pare_act_grid g = pare_act_grid_of(both[i], pare_act_range_of(best, flat, IN, N, IN));
        double want = (double)N * IN * (double)g.s * (double)g.s / 12;
        double found = pare_act_error(both[i], NULL, best, flat, IN, N, IN);
        assert_true(fabs(found / want - 1) < 0.02);
    }
    flat[77] = 1e4f;
    squares -= (double)uniform(77) * (double)uniform(77);
    double saturated = pare_act_error(&asymmetric8, NULL, best, flat, IN, N, IN);
    assert_true(fabs(saturated / squares - 1) < 1e-3); /* and what is left of 1e4 */
}

/* The two defects of the printed formula: 127 steps where there is room for 255, so (255/127)^2 of
 * the error; and a real zero point, which gives every small value the same error. */
static void printed_formula(void **state) {
    (void)state;
    enum { N = 20000 };
    static float x[N];
    pare_act_scheme paper = asymmetric8;
    paper.formula = PARE_ACT_PAPER_EQ4;
    for (size_t i = 0; i < N; i++) x[i] = uniform(i);
    double ratio = pare_act_error(&paper, NULL, PARE_ISA_REF, x, N, 1, N) /
                   pare_act_error(&asymmetric8, NULL, PARE_ISA_REF, x, N, 1, N);
    assert_true(fabs(ratio - 255.0 * 255 / (127.0 * 127)) < 0.1);
    for (size_t i = 0; i < N; i++) x[i] = 0.3f * normal(i);
    x[5] = 1000;
    ratio = pare_act_error(&paper, NULL, PARE_ISA_REF, x, N, 1, N) /
            pare_act_error(&asymmetric8, NULL, PARE_ISA_REF, x, N, 1, N);
    assert_true(ratio > 10);
}

/* Per token each row has its own grid; one row of a dynamic tensor is a token. */
/* What no calibration has shown: nothing, zeros, and what is next to them. */
static void ranges_that_tell(void **state) {
    (void)state;
    static const struct {
        pare_act_range r;
        bool tells;
    } cases[] = {{{INFINITY, -INFINITY}, false},
                 {{0, 0}, false},
                 {{-1e-6f, 1e-6f}, false},
                 {{0, 1e-5f}, false},
                 {{0, 2e-5f}, true},
                 {{-1, 0}, true},
                 {{-1e-30f, 1e-30f}, false},
                 {{-INFINITY, 1}, true},
                 {{NAN, NAN}, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(pare_act_range_tells(cases[i].r), cases[i].tells);
}

static void granularities(void **state) {
    (void)state;
    enum { N = 5, IN = 70, LD = 72 };
    static float x[N * LD], y[N * LD], z[IN];
    pare_isa best = pare_isa_best();
    for (size_t i = 0; i < (size_t)N * LD; i++) x[i] = normal(i) * (float)(1 + i / LD);
    for (int s = 0; s < 2; s++) {
        pare_act_scheme token = {.granularity = PARE_ACT_PER_TOKEN, .bits = 8, .symmetric = s == 1};
        pare_act_scheme tensor = token;
        tensor.granularity = PARE_ACT_PER_TENSOR_DYNAMIC;
        pare_act_quantize_rows(&token, NULL, best, y, LD, x, LD, N, IN);
        double sum = 0.0;
        for (size_t i = 0; i < N; i++) {
            pare_act_grid g =
                pare_act_grid_of(&tensor, pare_act_range_of(best, x + i * LD, LD, 1, IN));
            pare_act_quantize_rows(&tensor, &g, best, z, IN, x + i * LD, LD, 1, IN);
            assert_memory_equal(z, y + i * LD, sizeof z);
            sum += pare_act_error(&tensor, NULL, best, x + i * LD, LD, 1, IN);
        }
        assert_true(sum == pare_act_error(&token, NULL, best, x, LD, N, IN));
        assert_true(sum < pare_act_error(&tensor, NULL, best, x, LD, N, IN));
        pare_act_range wide = {-100, 100};
        assert_true(pare_act_error(&token, &wide, best, x, LD, N, IN) > 10 * sum);
    }
}

/* Every level has the reference's bits, and its sums. */
static void levels(void **state) {
    (void)state;
    enum { N = 150 };
    static float x[N], want[N], got[N];
    const float odd[] = {NAN, INFINITY, -INFINITY, 0.0f};
    for (int isa = PARE_ISA_AVX2; isa <= (int)TOP_LEVEL; isa++)
        for (size_t n = 0; n <= N; n++)
            for (int f = 0; f < 6; f++)
                for (int kind = 0; kind < 5; kind++) {
                    for (size_t i = 0; i < n; i++) x[i] = 20 * uniform(i + n);
                    if (n && kind < 4) x[n * 7 / 11] = odd[kind];
                    const pare_act_grid_kernels *k = pare_act_grid_kernels_get((pare_isa)isa);
                    pare_act_range a = {1, 2}, b = {1, 2};
                    pare_act_grid_ref.range(&a, x, n);
                    k->range(&b, x, n);
                    if (isnan(a.min))
                        assert_true(isnan(b.min) && isnan(b.max));
                    else
                        assert_true(a.min == b.min && a.max == b.max);
                    pare_act_scheme q = {
                        .bits = 6, .formula = (pare_act_formula)(f / 2), .symmetric = f % 2};
                    pare_act_grid g = pare_act_grid_of(&q, (pare_act_range){-17, 11});
                    pare_act_grid_ref.apply(want, x, &g, n);
                    k->apply(got, x, &g, n);
                    for (size_t i = 0; i < n; i++)
                        assert_true(want[i] == got[i] || (isnan(want[i]) && isnan(got[i])));
                    double e = pare_act_grid_ref.error(x, &g, n), found = k->error(x, &g, n);
                    /* squares of single numbers, 64 of them added in f32 */
                    if (isfinite(e)) assert_true(fabs(found - e) <= 66 * 0x1p-24 * e);
                    if (isnan(e)) assert_true(isnan(found));
                    if (f / 2 == PARE_ACT_PAPER_EQ4) continue;
                    int8_t codes[2][N + 32] = {{0}}, move = (int8_t)pare_act_grid_move(&g);
                    const bool all = pare_act_grid_ref.codes(codes[0], x, &g, move, n);
                    assert_int_equal(k->codes(codes[1], x, &g, move, n), all);
                    for (size_t i = 0; i < n; i++)
                        assert_true(codes[0][i] == codes[1][i] || isnan(x[i]));
                    assert_int_equal(codes[1][n], 0); /* no more than n */
                    for (size_t i = 0; i < n; i++)
                        if (i % 5 == 0) codes[0][i] = i % 2 ? -128 : 127;
                    float s16[2][N / 16 + 4], s32[2][N / 32 + 2];
                    int32_t m16[2][N / 16 + 4], m32[2][N / 32 + 2];
                    const size_t whole = (n + 31) / 32 * 32;
                    for (int i = 0; i < 2; i++) {
                        pare_act act = {.q = codes[0],
                                        .sum16 = s16[i],
                                        .sum32 = s32[i],
                                        .minus16 = m16[i],
                                        .minus32 = m32[i]};
                        (i ? k : &pare_act_grid_ref)->sums(&act, g.s, whole);
                        act.minus32 = NULL; /* not asked for */
                        (i ? k : &pare_act_grid_ref)->sums(&act, g.s, whole);
                    }
                    assert_memory_equal(s16[0], s16[1], whole / 16 * sizeof(float));
                    assert_memory_equal(s32[0], s32[1], whole / 32 * sizeof(float));
                    assert_memory_equal(m16[0], m16[1], whole / 16 * sizeof(int32_t));
                    assert_memory_equal(m32[0], m32[1], whole / 32 * sizeof(int32_t));
                }
}

/* Clamped is what rounds to another code than the ends allow, ties as in the kernels; every tail,
 * and values on the grid's halves. */
static void clamped(void **state) {
    (void)state;
    enum { N = 70, LD = 73, ROWS = 3 };
    static float x[ROWS * LD];
    size_t all = 0;
    for (int f = 0; f < 12; f++)
        for (size_t n = 0; n <= N; n++) {
            const pare_act_scheme q = {.bits = f / 4 * 2 + 4,
                                       .formula = f / 2 % 2 ? PARE_ACT_FULL : PARE_ACT_DEFAULT,
                                       .symmetric = f % 2};
            const pare_act_grid g = pare_act_grid_of(&q, (pare_act_range){-17, 11});
            size_t want = 0;
            for (size_t i = 0; i < ROWS * LD; i++)
                x[i] = i % 3 ? 30 * uniform(i + n) : g.s * 0.5f * rintf(600 * uniform(i + 2 * n));
            if (n) x[0] = NAN;
            if (n > 1) x[1] = INFINITY;
            for (size_t r = 0; r < ROWS; r++)
                for (size_t i = 0; i < n; i++) {
                    const float code = rintf(x[r * LD + i] / g.s);
                    want += code > g.high || code < g.low;
                }
            assert_int_equal(pare_act_clamped(&g, x, LD, ROWS, n), want);
            all += want;
        }
    assert_true(all > 1000);
    const pare_act_scheme printed = {.bits = 8, .formula = PARE_ACT_PAPER_EQ4};
    const pare_act_grid open = pare_act_grid_of(&printed, (pare_act_range){-1, 1});
    assert_int_equal(pare_act_clamped(&open, x, LD, ROWS, N), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),       cmocka_unit_test(odd_ranges),
        cmocka_unit_test(closed_forms),  cmocka_unit_test(printed_formula),
        cmocka_unit_test(granularities), cmocka_unit_test(levels),
        cmocka_unit_test(clamped),       cmocka_unit_test(ranges_that_tell)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
