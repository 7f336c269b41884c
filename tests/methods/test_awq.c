/* AWQ and SmoothQuant on one group of layers: the chosen scales against trying all of them,
 * clipping against not clipping, the ends of alpha, inputs that carry nothing. */
#include "support/test.h"

#include "base/rng.h"
#include "methods/method.h"
#include "tensor/encoding.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLS = 96, TOKENS = 64, N = 2 };
static const size_t n_rows[N] = {24, 40};
static pare_runtime *rt;

/* ---- two layers that share an input ---- */

typedef struct world {
    float *x, *w[N];
    double abs_sum[COLS];
    float abs_max[COLS];
    pare_input_stats stats;
    pare_scale_job job;
    size_t n_calls;
    bool broken; /* losses are NaN */
} world;

/* Mean square of what the layers' outputs change by. */
static pare_status loss_of(void *arg, const float *const *w, double *loss, pare_error *err) {
    world *a = arg;
    double sum = 0;
    (void)err;
    for (size_t i = 0; i < N; i++)
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t r = 0; r < n_rows[i]; r++) {
                double y = 0;
                for (size_t c = 0; c < COLS; c++)
                    y += ((double)w[i][r * COLS + c] - (double)a->w[i][r * COLS + c]) *
                         (double)a->x[t * COLS + c];
                sum += y * y;
            }
    a->n_calls++;
    *loss = a->broken ? NAN : sum;
    return PARE_OK;
}

static void make_world(world *a, bool dead) {
    *a = (world){.x = calloc(TOKENS * COLS, sizeof(float))};
    for (size_t i = 0; i < TOKENS * COLS; i++) {
        size_t c = i % COLS;
        float strength = c % 17 == 3 ? 30 : 0.2f + 0.05f * (float)(c % 5);
        a->x[i] = dead && c % 8 == 1 ? 0 : strength * pare_rng_normal(11, 0, i);
        a->abs_sum[c] += fabs((double)a->x[i]);
        a->abs_max[c] = fmaxf(a->abs_max[c], fabsf(a->x[i]));
    }
    for (size_t i = 0; i < N; i++) {
        a->w[i] = calloc(n_rows[i] * COLS, sizeof(float));
        for (size_t k = 0; k < n_rows[i] * COLS; k++)
            a->w[i][k] = 0.05f * pare_rng_normal(12, i, k) * (k % 31 == 7 ? 4 : 1);
    }
    a->stats = (pare_input_stats){.cols = COLS,
                                  .n_tokens = TOKENS,
                                  .n_sequences = 1,
                                  .abs_max = a->abs_max,
                                  .abs_sum = a->abs_sum,
                                  .samples = a->x,
                                  .n_samples = TOKENS};
    a->job = (pare_scale_job){.rt = rt,
                              .name = "blk.0.ffn_gate.weight",
                              .n = N,
                              .cols = COLS,
                              .w = (const float *const *)a->w,
                              .rows = n_rows,
                              .x = &a->stats,
                              .from_norm = true,
                              .loss = loss_of,
                              .arg = a};
}

static void free_world(world *a) {
    free(a->x);
    for (size_t i = 0; i < N; i++) free(a->w[i]);
}

/* ---- methods with options from text ---- */

typedef struct method {
    const pare_method *m;
    void *options;
} method;

static method method_of(const char *const *settings) {
    method x = {pare_method_find(*settings++), NULL};
    x.options = calloc(1, x.m->options_size);
    pare_method_defaults(x.m, x.options);
    for (; *settings; settings += 2)
        for (const pare_param *p = x.m->params; p->name; p++)
            if (strcmp(p->name, settings[0]) == 0)
                assert_ok(pare_param_set(p, x.options, settings[1], err));
    return x;
}
/* Further arguments: names and values. */
#define METHOD(...) method_of((const char *const[]){__VA_ARGS__, NULL})

static void choose(const world *a, method x, float *s) {
    for (size_t c = 0; c < COLS; c++) s[c] = 1;
    assert_ok(x.m->scales(&a->job, x.options, s, err));
    for (size_t c = 0; c < COLS; c++) assert_true(isfinite(s[c]) && s[c] > 0);
}

/* Rounds all layers with the scales by way of the method rtn; the loss of it. */
static double loss_with(world *a, const float *s) {
    method rtn = METHOD("rtn", "bits", "3", "group", "32", "grid", "asym_minmax");
    float *w[N];
    double loss;
    for (size_t i = 0; i < N; i++) {
        size_t n = n_rows[i] * COLS;
        w[i] = malloc(n * sizeof(float));
        for (size_t k = 0; k < n; k++) w[i][k] = a->w[i][k] * s[k % COLS];
        pare_weight_job job = {.rt = rt,
                               .name = "w",
                               .w = w[i],
                               .rows = n_rows[i],
                               .cols = COLS,
                               .enc = rtn.m->encoding(rtn.options),
                               .scale = calloc(n, sizeof(float)),
                               .zero = calloc(n, 1)};
        assert_ok(rtn.m->run(&job, rtn.options, err));
        for (size_t k = 0; k < n; k++) w[i][k] /= s[k % COLS];
        free(job.scale);
        free(job.zero);
    }
    assert_ok(loss_of(a, (const float *const *)w, &loss, err));
    for (size_t i = 0; i < N; i++) free(w[i]);
    free(rtn.options);
    return loss;
}

/* ---- AWQ's scales ---- */

/* The published rule, one r after the other. */
static void scales_are_the_best_of_all(void **state) {
    (void)state;
    world a;
    float s[COLS], expected[COLS] = {0};
    double best = INFINITY, plain = 0;
    make_world(&a, false);
    method awq = METHOD("awq", "bits", "3", "group", "32");
    choose(&a, awq, s);
    assert_int_equal(a.n_calls, 20);
    for (int i = 0; i < 20; i++) {
        float try[COLS], low = INFINITY, high = 0;
        for (size_t c = 0; c < COLS; c++) {
            try[c] = (float)fmax(pow(a.abs_sum[c] / TOKENS, i / 20.0), 1e-4);
            low = fminf(low, try[c]);
            high = fmaxf(high, try[c]);
        }
        for (size_t c = 0; c < COLS; c++) try[c] /= sqrtf(low * high);
        double loss = loss_with(&a, try);
        if (i == 0) plain = loss;
        if (!(loss < best)) continue;
        best = loss;
        memcpy(expected, try, sizeof try);
    }
    for (size_t c = 0; c < COLS; c++) assert_true(fabsf(s[c] - expected[c]) <= 1e-5f * expected[c]);
    assert_true(best < 0.9 * plain); /* outliers are protected */
    free(awq.options);
    free_world(&a);
}

static void first_power_is_no_scale(void **state) {
    (void)state;
    world a;
    float s[COLS];
    make_world(&a, false);
    method awq = METHOD("awq", "points", "1");
    choose(&a, awq, s);
    for (size_t c = 0; c < COLS; c++) assert_true(s[c] == 1.0f);
    free(awq.options);
    free_world(&a);
}

static void duo_is_never_worse_than_none(void **state) {
    (void)state;
    world a;
    float s[COLS], ones[COLS];
    make_world(&a, false);
    method awq = METHOD("awq", "bits", "3", "group", "32", "duo", "true");
    choose(&a, awq, s);
    assert_int_equal(a.n_calls, 21);
    for (size_t c = 0; c < COLS; c++) ones[c] = 1;
    assert_true(loss_with(&a, s) <= loss_with(&a, ones) * (1 + 1e-6));
    free(awq.options);
    free_world(&a);
}

static void keep_line(void *arg, const char *line) { snprintf(arg, 200, "%s", line); }

/* robustness: N3, N12 */
static void nothing_to_go_by(void **state) {
    (void)state;
    world a;
    float s[COLS];
    char line[200] = "";
    make_world(&a, true);
    method awq = METHOD("awq", "bits", "3", "group", "32"), smooth = METHOD("smoothquant");
    choose(&a, awq, s); /* inputs of zero */
    choose(&a, smooth, s);
    memset(a.w[0], 0, n_rows[0] * COLS * sizeof(float));
    memset(a.w[1], 0, n_rows[1] * COLS * sizeof(float));
    choose(&a, smooth, s); /* weights of zero */
    a.broken = true;
    a.job.note = keep_line;
    a.job.note_arg = line;
    choose(&a, awq, s);
    for (size_t c = 0; c < COLS; c++) assert_true(s[c] == 1.0f);
    assert_string_equal(line, "blk.0.ffn_gate.weight: no scale with a finite loss: not scaled");
    free(awq.options);
    free(smooth.options);
    free_world(&a);
}

/* ---- clipping ---- */

/* A part of a row's output: the error of group g of row r over all tokens. */
static double group_error(const world *a, const float *w, size_t r, size_t g) {
    double sum = 0;
    for (size_t t = 0; t < TOKENS; t++) {
        double y = 0;
        for (size_t c = 32 * g; c < 32 * (g + 1); c++)
            y += ((double)w[r * COLS + c] - (double)a->w[0][r * COLS + c]) *
                 (double)a->x[t * COLS + c];
        sum += y * y;
    }
    return sum;
}

static float *awq_weights(const world *a, const char *name, const char *clip) {
    method awq = METHOD("awq", "bits", "3", "group", "32", "clip", clip);
    size_t n = n_rows[0] * COLS;
    float *w = malloc(n * sizeof *w);
    memcpy(w, a->w[0], n * sizeof *w);
    pare_weight_job job = {.rt = rt,
                           .name = name,
                           .w = w,
                           .rows = n_rows[0],
                           .cols = COLS,
                           .x = &a->stats,
                           .enc = awq.m->encoding(awq.options),
                           .scale = calloc(n, sizeof(float)),
                           .zero = calloc(n, 1)};
    assert_ok(awq.m->run(&job, awq.options, err));
    free(job.scale);
    free(job.zero);
    free(awq.options);
    return w;
}

static void clipping_lessens_each_groups_error(void **state) {
    (void)state;
    world a;
    make_world(&a, false);
    float *plain = awq_weights(&a, "blk.0.ffn_gate.weight", "false"),
          *clipped = awq_weights(&a, "blk.0.ffn_gate.weight", "true"),
          *query = awq_weights(&a, "blk.0.attn_q.weight", "true");
    size_t n_better = 0;
    for (size_t r = 0; r < n_rows[0]; r++)
        for (size_t g = 0; g < COLS / 32; g++) {
            double before = group_error(&a, plain, r, g), after = group_error(&a, clipped, r, g);
            assert_true(after <= before * 1.0001 + 1e-9);
            n_better += after < before;
        }
    assert_true(n_better > n_rows[0]);
    assert_memory_equal(plain, query, n_rows[0] * COLS * sizeof(float));
    free(plain);
    free(clipped);
    free(query);
    free_world(&a);
}

/* ---- SmoothQuant ---- */

static void ends_of_alpha(void **state) {
    (void)state;
    world a;
    float s[COLS];
    make_world(&a, false);
    method weights = METHOD("smoothquant", "alpha", "0"),
           inputs = METHOD("smoothquant", "alpha", "1");
    choose(&a, weights, s);
    for (size_t c = 0; c < COLS; c++) {
        float most = 0;
        for (size_t i = 0; i < N; i++)
            for (size_t r = 0; r < n_rows[i]; r++)
                most = fmaxf(most, fabsf(a.w[i][r * COLS + c] * s[c]));
        assert_true(fabsf(most - 1) < 1e-5f);
    }
    choose(&a, inputs, s);
    for (size_t c = 0; c < COLS; c++) assert_true(fabsf(a.abs_max[c] / s[c] - 1) < 1e-5f);
    a.job.from_norm = false; /* inputs that no norm makes */
    choose(&a, inputs, s);
    for (size_t c = 0; c < COLS; c++) assert_true(s[c] == 1.0f);
    free(weights.options);
    free(inputs.options);
    free_world(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_are_the_best_of_all),
        cmocka_unit_test(first_power_is_no_scale),
        cmocka_unit_test(duo_is_never_worse_than_none),
        cmocka_unit_test(nothing_to_go_by),
        cmocka_unit_test(clipping_lessens_each_groups_error),
        cmocka_unit_test(ends_of_alpha),
    };
    rt = test_runtime(2, PARE_ISA_AMX);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
