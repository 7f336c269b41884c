/* SignRound: the cases that can be followed by hand, rounding to nearest where nothing is learned,
 * gradients of the range by differences, and what it must never do. Built a second time with
 * PARE_EMULATE for levels that the machine lacks. */
#include "support/test.h"

#include "base/rng.h"
#include "kernels/round_learn.h"
#include "methods/method.h"
#include "tensor/grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PARE_EMULATE
#define TOP_LEVEL PARE_ISA_AMX
#else
#define TOP_LEVEL pare_isa_best()
#endif

static pare_runtime *rt;

/* One matrix [rows][cols] whose output x w^T on tokens x[n_tokens][cols] is compared. */
typedef struct world {
    size_t rows, cols, n_tokens;
    const float *x, *w;
    double first, least; /* losses of the first call and the least */
    size_t n_calls;
} world;

static pare_status loss_of(void *arg, const size_t *sequences, size_t n, const float *const *w,
                           float *const *g, double *loss, pare_error *err) {
    world *s = arg;
    (void)sequences, (void)n, (void)err;
    *loss = 0;
    memset(g[0], 0, s->rows * s->cols * sizeof(float));
    for (size_t t = 0; t < s->n_tokens; t++)
        for (size_t r = 0; r < s->rows; r++) {
            double off = 0;
            for (size_t c = 0; c < s->cols; c++)
                off += (double)s->x[t * s->cols + c] *
                       ((double)w[0][r * s->cols + c] - (double)s->w[r * s->cols + c]);
            *loss += off * off;
            for (size_t c = 0; c < s->cols; c++)
                g[0][r * s->cols + c] += (float)(2 * off * (double)s->x[t * s->cols + c]);
        }
    if (!s->n_calls++) s->first = s->least = *loss;
    s->least = fmin(s->least, *loss);
    return PARE_OK;
}

typedef struct result {
    float w[4096], scale[256];
    uint8_t zero[256];
} result;

static void tune(result *out, const char *params, world *s, bool keep_zeros) {
    const pare_method *m = pare_method_find("signround");
    void *options = calloc(1, m->options_size);
    pare_method_defaults(m, options);
    char text[200];
    snprintf(text, sizeof text, "%s", params);
    for (char *save, *p = strtok_r(text, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
        char *value = strchr(p, '=');
        *value++ = '\0';
        for (const pare_param *q = m->params; q->name; q++)
            if (strcmp(q->name, p) == 0) assert_ok(pare_param_set(q, options, value, err));
    }
    assert_ok(m->check(options, err));
    memcpy(out->w, s->w, s->rows * s->cols * sizeof(float));
    pare_weight_job job = {.rt = rt,
                           .name = "w",
                           .w = out->w,
                           .rows = s->rows,
                           .cols = s->cols,
                           .keep_zeros = keep_zeros,
                           .enc = m->encoding(options),
                           .scale = out->scale,
                           .zero = out->zero};
    pare_tune_job t = {.rt = rt,
                       .name = "blk.0",
                       .n = 1,
                       .weights = &job,
                       .n_sequences = 1,
                       .loss = loss_of,
                       .arg = s};
    s->n_calls = 0;
    assert_ok(m->tune(&t, options, err));
    free(options);
}

static void the_closed_case(void **state) {
    (void)state;
    static result r;
    float w[32] = {0.4f, 0.3f, -8}, x[32] = {1, 1, 0};
    world s = {1, 32, 1, x, w, 0, 0, 0};
    tune(&r, "bits=4,group=32,iters=20,minmax=false", &s, false);
    assert_float_equal(s.first, 0.49, 1e-6);
    assert_float_equal(s.least, 0.09, 1e-6);
    assert_float_equal(r.scale[0], 1, 0);
    assert_float_equal(r.w[0], 1, 0);
    assert_float_equal(r.w[1], 0, 0);
    assert_float_equal(r.w[2], -8, 0);
    w[1] = 0.4f; /* equal gradients: both flip together, and rounding stays best */
    tune(&r, "bits=4,group=32,iters=20,minmax=false", &s, false);
    assert_float_equal(s.first, 0.64, 1e-6);
    assert_float_equal(s.least, 0.64, 1e-6);
    assert_float_equal(r.w[0], 0, 0);
}

/* (0.8, -0.3, 0.04, -0.71) with 4 bits: the largest on code -8, its scale negative. */
static void the_grid(void **state) {
    (void)state;
    static result r;
    float w[64] = {0.8f, -0.3f, 0.04f, -0.71f}, x[64] = {0};
    w[32] = 0.5f; /* a tie: the scale is negative; the third group is all zeros */
    w[33] = -0.5f;
    world s = {1, 64, 1, x, w, 0, 0, 0};
    tune(&r, "bits=4,group=32,iters=0", &s, false);
    assert_float_equal(r.scale[0], -0.1, 1e-4);
    assert_float_equal(r.w[0], 0.8, 1e-3);
    assert_float_equal(r.w[1], -0.3, 1e-3);
    assert_float_equal(r.w[2], 0, 0);
    assert_float_equal(r.w[3], -0.7, 1e-3);
    assert_true(r.scale[1] < 0);
    memset(w, 0, sizeof w);
    tune(&r, "bits=4,group=32,iters=0", &s, false);
    assert_float_equal(r.scale[0], 1e-5, 1e-9);
    assert_int_equal(r.zero[0], 8);
    for (int i = 0; i < 64; i++) assert_true(r.w[i] == 0);
}

static void fill(float *x, size_t n, uint64_t stream) {
    for (size_t i = 0; i < n; i++) x[i] = pare_rng_normal(11, stream, i);
}

/* Nothing learned is rounding to nearest, and what is learned is no worse on the data it saw. */
static void rounding_is_where_it_begins(void **state) {
    (void)state;
    static const char *const grids[] = {"full", "gptq_asym"};
    static float w[8 * 96], x[40 * 96];
    static result plain, learned;
    fill(w, 8 * 96, 1);
    fill(x, 40 * 96, 2);
    for (size_t t = 0; t < 40; t++) /* correlated: else rounding is best already */
        for (size_t c = 1; c < 96; c++) x[t * 96 + c] = 0.3f * x[t * 96 + c] + 0.9f * x[t * 96];
    for (int bits = 2; bits <= 4; bits++)
        for (int g = 0; g < 2; g++) {
            char params[100];
            world s = {8, 96, 40, x, w, 0, 0, 0};
            snprintf(params, sizeof params, "bits=%d,group=64,grid=%s,iters=0", bits, grids[g]);
            tune(&plain, params, &s, false);
            const pare_grid grid = {g ? PARE_GRID_GPTQ_ASYM : PARE_GRID_FULL, bits,
                                    PARE_GRID_PLAIN};
            const pare_encode_kernels *k = pare_encode_kernels_get(PARE_ISA_REF);
            for (size_t r = 0; r < 8; r++)
                for (size_t b = 0; b < 2; b++) { /* 64 inputs, then 32 */
                    float scale;
                    uint8_t zero;
                    size_t at = r * 96 + b * 64, n = b ? 32 : 64;
                    pare_grid_fit(&scale, &zero, &grid, k, w + at, NULL, n);
                    assert_true(plain.scale[r * 2 + b] == scale);
                    assert_int_equal(plain.zero[r * 2 + b], zero);
                    for (size_t c = 0; c < n; c++)
                        assert_true(
                            plain.w[at + c] ==
                            pare_grid_value(pare_grid_code(w[at + c], scale, zero, (1 << bits) - 1),
                                            scale, zero));
                }
            /* |v| stays below about half a code: with the same scale a code moves by one at most */
            snprintf(params, sizeof params, "bits=%d,group=64,grid=%s,iters=60,minmax=false", bits,
                     grids[g]);
            tune(&learned, params, &s, false);
            size_t n_moved = 0;
            for (size_t i = 0; i < 8 * 96; i++) {
                float step = fabsf(plain.scale[i / 96 * 2 + i % 96 / 64]);
                float off = fabsf(learned.w[i] - plain.w[i]);
                n_moved += off > 0;
                if (!(off <= 1.001f * step)) fail_msg("%s: w[%zu] moved by %g", params, i, off);
            }
            assert_true(n_moved > 0);
            snprintf(params, sizeof params, "bits=%d,group=64,grid=%s,iters=100", bits, grids[g]);
            tune(&learned, params, &s, false);
            if (!(s.least < 0.6 * s.first))
                fail_msg("%s: loss %g at first, %g at best", params, s.first, s.least);
            /* the result is the one with the least loss */
            const float *shown[1] = {learned.w};
            static float gradient[8 * 96];
            float *gs[1] = {gradient};
            double loss, least = s.least;
            assert_ok(loss_of(&s, NULL, 1, shown, gs, &loss, err));
            assert_float_equal(loss, least, 1e-4 * least);
        }
}

/* Inputs without correlation: nearest is best, so the first step stays the best. */
static void nearest_is_best_without_correlation(void **state) {
    (void)state;
    static float w[4 * 64], x[64 * 64];
    static result plain, learned;
    fill(w, 4 * 64, 3);
    for (size_t c = 0; c < 64; c++) x[c * 64 + c] = 2;
    world s = {4, 64, 64, x, w, 0, 0, 0};
    tune(&plain, "bits=3,group=32,iters=0", &s, false);
    tune(&learned, "bits=3,group=32,iters=40,minmax=false", &s, false);
    assert_true(s.least == s.first);
    assert_memory_equal(plain.w, learned.w, sizeof w);
}

static void zeros_of_a_pruner_stay(void **state) {
    (void)state;
    static float w[4 * 64], x[20 * 64];
    static result r;
    fill(w, 4 * 64, 4);
    fill(x, 20 * 64, 5);
    for (size_t i = 0; i < 4 * 64; i += 2) w[i] = 0;
    for (size_t t = 0; t < 20; t++)
        for (size_t c = 1; c < 64; c++) x[t * 64 + c] += x[t * 64];
    for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
        world s = {4, 64, 20, x, w, 0, 0, 0};
        tune(&r,
             asymmetric ? "bits=2,group=32,iters=60,grid=gptq_asym" : "bits=2,group=32,iters=60",
             &s, true);
        for (size_t i = 0; i < 4 * 64; i += 2) assert_true(r.w[i] == 0);
        assert_true(s.least < s.first);
    }
}

/* Each level gives the reference's results, and the sums are the derivatives that the head of
 * signround.c is built on: by s with the roundings held, for a step of the clamped ones too. */
static void kernels_agree(void **state) {
    (void)state;
    enum { N = 75 };
    static float w[N], d[N], v[N], want[N], got[N], vs[N];
    fill(w, N, 6);
    fill(d, N, 7);
    for (size_t i = 0; i < N; i++) v[i] = 0.4f * sinf((float)i);
    for (size_t i = 0; i < N; i += 9) w[i] = 0;
    for (int keep = 0; keep < 2; keep++)
        for (int isa = PARE_ISA_AVX2; isa <= (int)TOP_LEVEL; isa++)
            for (size_t n = 0; n <= N; n++) {
                pare_round_group g = {-0.21f, -4, 3, keep};
                float s1, z1, s2, z2;
                pare_round_ref.apply(want, w, v, &g, n);
                const pare_round_kernels *k = pare_round_kernels_get((pare_isa)isa);
                k->apply(got, w, v, &g, n);
                assert_memory_equal(want, got, n * sizeof *got);
                memcpy(vs, v, sizeof vs);
                pare_round_ref.step(v, &s1, &z1, d, w, &g, 0.03f, n);
                memcpy(got, v, sizeof got);
                memcpy(v, vs, sizeof v);
                k->step(v, &s2, &z2, d, w, &g, 0.03f, n);
                assert_memory_equal(got, v, sizeof v);
                memcpy(v, vs, sizeof v);
                assert_float_equal(s1, s2, 1e-4);
                assert_float_equal(z1, z2, 1e-4);
                double ds = 0, dz = 0;
                for (size_t i = 0; i < n; i++) {
                    double r = nearbyint((double)(w[i] / g.s + v[i]));
                    double q = fmin(fmax(r, (double)g.low), (double)g.high);
                    if (keep && w[i] == 0) continue;
                    /* d(s q)/ds, q following -w / s^2 inside the clamp; the clamp's end moves with
                     * z */
                    ds += (double)d[i] *
                          (q + (q == r ? (double)g.s * -(double)w[i] / ((double)g.s * (double)g.s)
                                       : 0));
                    dz += (double)d[i] * (double)g.s * (q == r ? 0 : -1);
                }
                assert_float_equal(s1, ds, 1e-4);
                assert_float_equal(z1, dz, 1e-4);
            }
}

int main(void) {
    rt = test_runtime(2, pare_isa_best());
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_closed_case),
                                       cmocka_unit_test(the_grid),
                                       cmocka_unit_test(rounding_is_where_it_begins),
                                       cmocka_unit_test(nearest_is_best_without_correlation),
                                       cmocka_unit_test(zeros_of_a_pruner_stay),
                                       cmocka_unit_test(kernels_agree)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
