/* Optimal brain surgeon and the methods on it: the factor against a plain inverse, the identities
 * and hand cases of SparseGPT and GPTQ, and the order of errors that theory demands. */
#include "support/test.h"

#include "base/rng.h"
#include "methods/obs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pare_runtime *rt;

/* ---- inputs and layers ---- */

/* Statistics of T random tokens of n inputs, columns of different strength, correlated. */
typedef struct world {
    size_t n;
    double *h, *squares, *abs_sum;
    float *samples, *abs_max;
    pare_input_stats x;
} world;

static world make_world(size_t n, size_t tokens, uint64_t stream) {
    world w = {.n = n, .h = calloc(n * n, sizeof(double)), .squares = calloc(n, sizeof(double))};
    w.abs_sum = calloc(n, sizeof(double));
    w.abs_max = calloc(n, sizeof(float));
    w.samples = calloc(tokens * n, sizeof(float));
    double *x = calloc(n, sizeof *x);
    for (size_t t = 0; t < tokens; t++) {
        double common = pare_rng_normal(3, stream, t * (n + 1));
        for (size_t c = 0; c < n; c++)
            x[c] = (0.3 + (double)(c % 7)) *
                   ((double)pare_rng_normal(3, stream, t * (n + 1) + 1 + c) + 0.7 * common);
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < n; k++) w.h[i * n + k] += x[i] * x[k];
        for (size_t c = 0; c < n; c++) {
            float v = w.samples[t * n + c] = (float)x[c];
            w.abs_sum[c] += fabs((double)v);
            w.abs_max[c] = fmaxf(w.abs_max[c], fabsf(v));
        }
    }
    for (size_t c = 0; c < n; c++) w.squares[c] = w.h[c * n + c];
    free(x);
    w.x = (pare_input_stats){n,   tokens,    1,      w.squares, w.abs_max, w.abs_sum,
                             w.h, w.samples, tokens, NULL,      NULL,      NULL};
    return w;
}

static world world_of(size_t n, const double *h) {
    world w = {.n = n, .h = calloc(n * n, sizeof(double)), .squares = calloc(n, sizeof(double))};
    memcpy(w.h, h, n * n * sizeof *h);
    for (size_t c = 0; c < n; c++) w.squares[c] = h[c * n + c];
    w.x = (pare_input_stats){n, 1000, 1, w.squares, NULL, NULL, w.h, NULL, 0, NULL, NULL, NULL};
    return w;
}

static void free_world(world *w) {
    free(w->h);
    free(w->squares);
    free(w->abs_sum);
    free(w->abs_max);
    free(w->samples);
}

static float *random_weights(size_t n, uint64_t stream) {
    float *w = malloc(n * sizeof *w);
    for (size_t i = 0; i < n; i++) w[i] = pare_rng_normal(5, stream, i);
    return w;
}

/* d H d^T over all rows, in f64. */
static double output_error(const world *w, const float *a, const float *b, size_t rows) {
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < w->n; i++)
            for (size_t k = 0; k < w->n; k++)
                sum += (double)(a[r * w->n + i] - b[r * w->n + i]) * w->h[i * w->n + k] *
                       (double)(a[r * w->n + k] - b[r * w->n + k]);
    return sum;
}

/* Runs a method by name with options "a=1,b=2" on w; returns its number of notes. */
static int n_notes;
static void count_note(void *arg, const char *line) {
    (void)arg, (void)line;
    n_notes++;
}

static pare_status run_method(const char *name, const char *options, world *x, float *w,
                              size_t rows, bool keep_zeros, pare_error *err) {
    const pare_method *m = pare_method_find(name);
    void *o = calloc(1, m->options_size);
    pare_method_defaults(m, o);
    char text[200];
    snprintf(text, sizeof text, "%s", options);
    for (char *save, *pair = strtok_r(text, ",", &save); pair; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        *value++ = 0;
        for (const pare_param *p = m->params; p->name; p++)
            if (strcmp(p->name, pair) == 0) assert_ok(pare_param_set(p, o, value, err));
    }
    if (m->check) assert_ok(m->check(o, err));
    size_t groups = rows * (x->n / 32 + 1);
    pare_weight_job job = {.rt = rt,
                           .name = "blk.0.ffn_up.weight",
                           .stream = 7,
                           .w = w,
                           .rows = rows,
                           .cols = x->n,
                           .x = &x->x,
                           .keep_zeros = keep_zeros,
                           .enc = m->encoding ? m->encoding(o) : NULL,
                           .scale = calloc(groups, sizeof(float)),
                           .zero = calloc(groups, 1),
                           .note = count_note};
    n_notes = 0;
    pare_status st = m->run ? m->run(&job, o, err) : PARE_OK; /* NULL: scales only */
    free(job.scale);
    free(job.zero);
    free(o);
    return st;
}

static void must_run(const char *name, const char *options, world *x, float *w, size_t rows) {
    assert_ok(run_method(name, options, x, w, rows, false, err));
}

/* ---- the factor ---- */

static void factor_is_that_of_the_inverse(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 2, 5, 63, 64, 65, 130, 200};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s];
        world w = make_world(n, 3 * n + 5, s);
        const pare_weight_job job = {.rt = rt, .x = &w.x};
        uint32_t *perm = malloc(n * sizeof *perm);
        for (size_t i = 0; i < n; i++) perm[i] = (uint32_t)((i * 7 + 3) % n);
        bool valid = n % 7 != 0; /* then the line above permutes */
        for (int permuted = 0; permuted < (valid ? 2 : 1); permuted++) {
            pare_obs obs;
            bool factored;
            assert_ok(pare_obs_factor(&obs, &factored, &job, permuted ? perm : NULL, 0.01, err));
            assert_true(factored && obs.damp == 0.01 && obs.n_dead == 0);
            double mean = 0;
            for (size_t i = 0; i < n; i++) mean += w.h[i * n + i] / (double)n;
            /* U^T U times the damped H is the identity */
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j < n; j++) {
                    double sum = 0;
                    for (size_t k = 0; k < n; k++) {
                        double inverse = 0;
                        for (size_t t = 0; t <= (i < k ? i : k); t++)
                            inverse += (double)obs.u[t * obs.ld + i] * obs.u[t * obs.ld + k];
                        size_t a = permuted ? perm[k] : k, b = permuted ? perm[j] : j;
                        sum += inverse * (w.h[a * n + b] + (a == b ? 0.01 * mean : 0));
                    }
                    if (fabs(sum - (i == j)) > 2e-3)
                        fail_msg("n %zu, [%zu][%zu]: found %g", n, i, j, sum);
                }
            pare_obs_free(&obs);
        }
        free(perm);
        free_world(&w);
    }
}

/* Dead columns, a matrix that is not positive definite, NaN. */
static void odd_hessians(void **state) {
    (void)state;
    pare_obs obs;
    bool factored;
    world w = make_world(20, 100, 1);
    n_notes = 0;
    const pare_weight_job job = {.rt = rt, .name = "w", .x = &w.x, .note = count_note};
    for (size_t i = 0; i < 20; i++) w.h[3 * 20 + i] = w.h[i * 20 + 3] = 0;
    assert_ok(pare_obs_factor(&obs, &factored, &job, NULL, 0.01, err));
    assert_true(factored && obs.dead[3] && obs.n_dead == 1);
    pare_obs_free(&obs);

    w.h[5 * 20 + 6] = w.h[6 * 20 + 5] = 1.05 * sqrt(w.h[5 * 21] * w.h[6 * 21]); /* none has it */
    assert_ok(pare_obs_factor(&obs, &factored, &job, NULL, 0.01, err));
    assert_true(factored && obs.damp > 0.01 && n_notes == 1);
    pare_obs_free(&obs);

    for (size_t i = 0; i < 20; i++)
        for (size_t k = 0; k < 20; k++) w.h[i * 20 + k] = i == k ? 1 : -1e9;
    assert_ok(pare_obs_factor(&obs, &factored, &job, NULL, 0.01, err));
    assert_false(factored);
    pare_obs_free(&obs);

    w.h[5 * 20 + 5] = NAN;
    assert_fails(pare_obs_factor(&obs, &factored, &job, NULL, 0.01, err), PARE_ERR_INPUT,
                 "column 5");
    free_world(&w);
}

/* ---- the sweep ---- */

typedef struct fixed {
    const bool *keep; /* [rows][n] */
    size_t n;
} fixed;

static void settle_fixed(void *arg, size_t row, size_t n, size_t j, const float *w, float *q) {
    const fixed *f = arg;
    for (size_t i = 0; i < n; i++) q[i] = f->keep[(row + i) * f->n + j] ? w[i] : 0.0f;
}

/* With any mask D H D^T = sum e^2 for the damped H, and the result does not depend on the block. */
static void sweep_identity(void **state) {
    (void)state;
    enum { N = 150, R = 21 };
    world x = make_world(N, 500, 2);
    const pare_weight_job job = {.rt = rt, .x = &x.x};
    pare_obs obs;
    bool factored, keep[R * N];
    assert_ok(pare_obs_factor(&obs, &factored, &job, NULL, 0.01, err));
    float *w = random_weights(R * N, 1), *first = NULL;
    for (size_t i = 0; i < R * N; i++) keep[i] = pare_rng_uniform(9, 9, i) < 0.5f;
    fixed f = {keep, N};
    pare_obs_rule rule = {.arg = &f, .settle = settle_fixed};
    double mean = 0;
    for (size_t i = 0; i < N; i++) mean += x.h[i * N + i] / N;
    world damped = world_of(N, x.h);
    for (size_t i = 0; i < N; i++) damped.h[i * N + i] += 0.01 * mean;
    static const size_t blocks[] = {16, 48, 160};
    for (size_t b = 0; b < 3; b++) {
        float *q = calloc(R * obs.ld, sizeof *q), *flat = malloc(R * N * sizeof *flat);
        double loss;
        for (size_t r = 0; r < R; r++) memcpy(q + r * obs.ld, w + r * N, N * sizeof *w);
        assert_ok(pare_obs_sweep(q, R, &obs, &rule, blocks[b], rt, &loss, err));
        for (size_t r = 0; r < R; r++) memcpy(flat + r * N, q + r * obs.ld, N * sizeof *w);
        double error = output_error(&damped, w, flat, R);
        if (fabs(error - 2 * loss) > 1e-4 * error)
            fail_msg("block %zu: found D H D^T = %g, expected %g", blocks[b], error, 2 * loss);
        for (size_t i = 0; first && i < R * N; i++)
            if (fabsf(first[i] - flat[i]) > 2e-4f)
                fail_msg("block %zu, %zu: found %g, expected %g", blocks[b], i, (double)flat[i],
                         (double)first[i]);
        free(q);
        if (first)
            free(flat);
        else
            first = flat;
    }
    pare_obs_free(&obs);
    free(first);
    free(w);
    free_world(&x);
    free_world(&damped);
}

/* ---- SparseGPT ---- */

/* The two cases of the method's sheet, by hand. */
static void sparsegpt_by_hand(void **state) {
    (void)state;
    const double h2[] = {2, 1, 1, 2};
    world x = world_of(2, h2);
    float w[2] = {1, 1};
    must_run("sparsegpt", "sparsity=1:2,damp=0", &x, w, 1);
    assert_true(w[0] == 0.0f && fabsf(w[1] - 1.5f) < 1e-6f);
    free_world(&x);

    const double h4[] = {4, 1, 0, 1, 1, 3, 1, 0, 0, 1, 2, .5, 1, 0, .5, 1};
    x = world_of(4, h4);
    float v[4] = {1, -2, 3, .5f};
    must_run("sparsegpt", "sparsity=2:4,damp=0", &x, v, 1);
    const float expected[] = {0, -1.470588f, 2.411765f, 0};
    for (int i = 0; i < 4; i++) assert_true(fabsf(v[i] - expected[i]) < 1e-5f);
    free_world(&x);
}

static size_t zeros_of(const float *w, size_t n) {
    size_t zeros = 0;
    for (size_t i = 0; i < n; i++) zeros += w[i] == 0.0f;
    return zeros;
}

/* Exact least squares on the kept weights of a row: H_kk w_k = H_k: w. */
static void least_squares(const world *x, float *w, const float *original) {
    size_t n = x->n, m = 0, at[256];
    double a[128][129];
    for (size_t i = 0; i < n; i++)
        if (w[i] != 0.0f) at[m++] = i;
    assert_true(m <= 128);
    for (size_t i = 0; i < m; i++) {
        for (size_t k = 0; k < m; k++) a[i][k] = x->h[at[i] * n + at[k]];
        a[i][m] = 0;
        for (size_t k = 0; k < n; k++) a[i][m] += x->h[at[i] * n + k] * (double)original[k];
    }
    for (size_t p = 0; p < m; p++)
        for (size_t i = 0; i < m; i++) {
            double f = i == p ? 0 : a[i][p] / a[p][p];
            for (size_t k = p; i != p && k <= m; k++) a[i][k] -= f * a[p][k];
        }
    for (size_t i = 0; i < m; i++) w[at[i]] = (float)(a[i][m] / a[i][i]);
}

static void sparsegpt_lies_between_least_squares_and_the_mask(void **state) {
    (void)state;
    enum { N = 96, R = 24 };
    static const char *const patterns[] = {"sparsity=0.5", "sparsity=2:4", "sparsity=4:8"};
    world x = make_world(N, 400, 4);
    float *w = random_weights(R * N, 3);
    for (size_t k = 0; k < 3; k++) {
        float *q = malloc(R * N * sizeof *q), *mask = malloc(R * N * sizeof *q),
              *best = malloc(R * N * sizeof *q);
        memcpy(q, w, R * N * sizeof *q);
        must_run("sparsegpt", patterns[k], &x, q, R);
        assert_int_equal(zeros_of(q, R * N), R * N / 2);
        for (size_t i = 0; i < R * N; i++) best[i] = mask[i] = q[i] == 0.0f ? 0.0f : w[i];
        for (size_t r = 0; r < R; r++) least_squares(&x, best + r * N, w + r * N);
        double exact = output_error(&x, best, w, R), ours = output_error(&x, q, w, R),
               only = output_error(&x, mask, w, R);
        if (!(exact <= ours * 1.0001 && ours <= only))
            fail_msg("%s: found %g, %g, %g, expected them in order", patterns[k], exact, ours,
                     only);
        free(q);
        free(mask);
        free(best);
    }
    free(w);
    free_world(&x);
}

/* With a diagonal Hessian nothing is passed on, and N:M chooses as Wanda does. */
static void sparsegpt_with_a_diagonal_hessian_is_wanda(void **state) {
    (void)state;
    enum { N = 64, R = 9 };
    double h[N * N] = {0};
    for (size_t i = 0; i < N; i++) h[i * N + i] = 1 + (double)(i * 13 % 17);
    world x = world_of(N, h);
    float *a = random_weights(R * N, 8), *b = malloc(R * N * sizeof *b);
    memcpy(b, a, R * N * sizeof *b);
    must_run("sparsegpt", "sparsity=2:4,damp=0", &x, a, R);
    must_run("wanda", "sparsity=2:4", &x, b, R);
    assert_memory_equal(a, b, R * N * sizeof *a);
    free(a);
    free(b);
    free_world(&x);
}

static void sparsegpt_also_quantizes(void **state) {
    (void)state;
    enum { N = 64, R = 8 };
    world x = make_world(N, 300, 6);
    float *w = random_weights(R * N, 8), *both = malloc(R * N * sizeof *w),
          *after = malloc(R * N * sizeof *w);
    memcpy(both, w, R * N * sizeof *w);
    memcpy(after, w, R * N * sizeof *w);
    must_run("sparsegpt", "sparsity=0.5,bits=4", &x, both, R);
    must_run("sparsegpt", "sparsity=0.5", &x, after, R);
    assert_ok(
        run_method("rtn", "bits=4,group=0,grid=gptq_asym,search=none", &x, after, R, true, err));
    assert_true(zeros_of(both, R * N) >= R * N / 2);
    assert_true(output_error(&x, both, w, R) < output_error(&x, after, w, R));
    free(w);
    free(both);
    free(after);
    free_world(&x);
}

/* ---- Wanda ---- */

static void wanda_compares_within_rows(void **state) {
    (void)state;
    enum { N = 40, R = 7 };
    world x = make_world(N, 100, 3);
    float *w = random_weights(R * N, 2), *scaled = malloc(R * N * sizeof *w);
    for (size_t i = 0; i < R * N; i++) scaled[i] = w[i] * (float)(1 << i / N);
    must_run("wanda", "sparsity=0.33", &x, w, R);
    must_run("wanda", "sparsity=0.33", &x, scaled, R);
    for (size_t r = 0; r < R; r++) {
        assert_int_equal(zeros_of(w + r * N, N), 13); /* floor(13.2) */
        for (size_t c = 0; c < N; c++)
            assert_int_equal(w[r * N + c] == 0.0f, scaled[r * N + c] == 0.0f);
    }
    /* inputs of equal norm: magnitude within rows */
    for (size_t c = 0; c < N; c++) x.squares[c] = 4;
    float *a = random_weights(R * N, 12), *b = random_weights(R * N, 12);
    must_run("wanda", "sparsity=0.5", &x, a, R);
    must_run("magnitude", "sparsity=0.5,per=row", &x, b, R);
    assert_memory_equal(a, b, R * N * sizeof *a);
    free(a);
    free(b);
    free(w);
    free(scaled);
    free_world(&x);
}

/* Magnitude within a tensor is not: larger rows keep more. */
static void magnitude_compares_across_rows(void **state) {
    (void)state;
    enum { N = 40, R = 7 };
    world x = make_world(N, 100, 3);
    float *w = random_weights(R * N, 2);
    for (size_t i = 0; i < R * N; i++) w[i] *= (float)(1 << i / N);
    must_run("magnitude", "sparsity=0.5", &x, w, R);
    assert_int_equal(zeros_of(w, R * N), R * N / 2);
    assert_true(zeros_of(w, N) > zeros_of(w + (R - 1) * N, N) + N / 2);
    free(w);
    free_world(&x);
}

/* Every block of columns loses exactly floor(n s) of its weights, rows as it comes; a layer of one
 * input is pruned by magnitude over its rows. */
static void sparsegpt_counts_by_blocks_of_columns(void **state) {
    (void)state;
    enum { N = 150, R = 21, BLOCK = 32 };
    world x = make_world(N, 500, 2);
    float *w = random_weights(R * N, 1);
    must_run("sparsegpt", "sparsity=0.3,block=32", &x, w, R);
    bool uneven = false;
    for (size_t begin = 0; begin < N; begin += BLOCK) {
        size_t width = begin + BLOCK < N ? BLOCK : N - begin, zeros = 0;
        for (size_t r = 0; r < R; r++) zeros += zeros_of(w + r * N + begin, width);
        assert_int_equal(zeros, (size_t)floor(0.3 * (double)(R * width)));
    }
    for (size_t r = 1; r < R; r++) uneven |= zeros_of(w + r * N, N) != zeros_of(w, N);
    assert_true(uneven);
    free(w);
    free_world(&x);

    const double one[] = {3};
    x = world_of(1, one);
    float v[] = {0.5f, -2, 1, 0.25f, -0.75f, 3}, kept[] = {0, -2, 1, 0, 0, 3};
    must_run("sparsegpt", "sparsity=0.5", &x, v, 6);
    for (size_t i = 0; i < 6; i++) assert_true(v[i] == kept[i]);
    free_world(&x);
}

/* Exact counts; what was pruned stays so and counts; a tensor's own numbers, whatever the threads.
 */
static void random_keeps_zeros(void **state) {
    (void)state;
    enum { N = 64, R = 30 };
    static const char *const options[] = {"sparsity=0.5", "sparsity=2:4",
                                          "sparsity=0.5,type=block_4x4"};
    world x = make_world(N, 100, 3);
    for (size_t k = 0; k < 3; k++) {
        float *w = random_weights(R * N, 2), *first = random_weights(R * N, 2);
        must_run("random", "sparsity=0.25", &x, first, R);
        assert_int_equal(zeros_of(first, R * N), R * N / 4);
        memcpy(w, first, R * N * sizeof *w);
        assert_ok(run_method("random", options[k], &x, w, R, true, err));
        size_t gone = zeros_of(w, R * N);
        if (k == 0) assert_int_equal(gone, R * N / 2); /* those of before are the first to go */
        assert_true(gone >= R * N / 2);
        for (size_t i = 0; i < R * N; i++) assert_true(w[i] == 0 || w[i] == first[i]);
        free(w);
        free(first);
    }
    free_world(&x);
}

static void wanda_ties_and_the_variant(void **state) {
    (void)state;
    enum { N = 40, R = 50 };
    world x = make_world(N, 100, 3);
    float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (size_t c = 0; c < N; c++) x.squares[c] = 1;
    x.n = x.x.cols = 8;
    must_run("wanda", "sparsity=0.5", &x, ones, 1);
    const float expected[8] = {0, 0, 0, 0, 1, 1, 1, 1}; /* the lower column goes first */
    assert_memory_equal(ones, expected, sizeof ones);
    x.n = x.x.cols = N;
    float *w = random_weights(R * N, 20);
    must_run("wanda", "sparsity=0.5,variant=true", &x, w, R);
    double share = (double)zeros_of(w, R * N) / (R * N);
    assert_true(fabs(share - 0.5) < 0.02);
    free(w);
    free_world(&x);
}

/* ---- GPTQ ---- */

static const char plain[] = "bits=3,group=0,grid=gptq_asym,search=none,act_order=false";

static void gptq_reduces_to_rounding(void **state) {
    (void)state;
    enum { N = 64, R = 6 };
    double h[N * N] = {0};
    for (size_t i = 0; i < N; i++) h[i * N + i] = 1 + (double)(i * 13 % 17);
    world x = world_of(N, h);
    float *a = random_weights(R * N, 8), *b = malloc(R * N * sizeof *b);
    memcpy(b, a, R * N * sizeof *b);
    must_run("gptq", plain, &x, a, R);
    must_run("rtn", "bits=3,group=0,grid=gptq_asym,search=none", &x, b, R);
    for (size_t i = 0; i < R * N; i++) assert_true(fabsf(a[i] - b[i]) < 1e-6f);
    free(a);
    free(b);
    free_world(&x);
}

static void gptq_is_better_than_rounding(void **state) {
    (void)state;
    enum { N = 160, R = 16 };
    world x = make_world(N, 600, 14);
    float *w = random_weights(R * N, 8), *rtn = malloc(R * N * sizeof *w);
    static const char *const options[] = {"bits=3,group=32",
                                          "bits=3,group=32,act_order=false",
                                          "bits=3,group=32,act_order=false,fresh_groups=false",
                                          "bits=3,group=32,act_order=false,static_groups=true",
                                          "bits=4,group=64,grid=gptq_sym,search=mse",
                                          "bits=2,group=128,grid=asym_minmax",
                                          plain};
    static const char *const plains[] = {"bits=3,group=32",
                                         "bits=3,group=32",
                                         "bits=3,group=32",
                                         "bits=3,group=32",
                                         "bits=4,group=64,grid=gptq_sym,search=mse",
                                         "bits=2,group=128,grid=asym_minmax",
                                         "bits=3,group=0,grid=gptq_asym,search=none"};
    for (size_t k = 0; k < sizeof options / sizeof options[0]; k++) {
        float *q = malloc(R * N * sizeof *q);
        memcpy(q, w, R * N * sizeof *q);
        memcpy(rtn, w, R * N * sizeof *q);
        must_run("gptq", options[k], &x, q, R);
        assert_int_equal(n_notes, 0);
        must_run("rtn", plains[k], &x, rtn, R);
        double ours = output_error(&x, q, w, R), nearest = output_error(&x, rtn, w, R);
        if (!(ours < 0.8 * nearest))
            fail_msg("%s: found %g, expected less than 0.8 of %g", options[k], ours, nearest);
        free(q);
    }
    free(w);
    free(rtn);
    free_world(&x);
}

/* A search for scales with statistics of the inputs is better where inputs are large, without them
 * where all count alike. */
static void rounding_weighs_inputs(void **state) {
    (void)state;
    enum { N = 128, R = 24 };
    static const char *const specs[] = {"bits=3,group=32,search=least_squares",
                                        "bits=4,group=64,search=least_squares,grid=gptq_asym",
                                        "bits=2,group=0,search=least_squares"};
    world x = make_world(N, 300, 21);
    for (size_t i = 0; i < N; i++) x.squares[i] *= i % 5 == 0 ? 400 : 1;
    float *w = random_weights(R * N, 9);
    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
        double error[2][2] = {{0}}; /* [with statistics][weighted by them] */
        for (int with = 0; with < 2; with++) {
            world seen = x;
            if (!with) seen.x.squares = NULL;
            float *q = malloc(R * N * sizeof *q);
            memcpy(q, w, R * N * sizeof *q);
            must_run("rtn", specs[s], &seen, q, R);
            for (size_t i = 0; i < R * N; i++) {
                double off = (double)q[i] - (double)w[i];
                error[with][0] += off * off;
                error[with][1] += x.x.squares[i % N] * off * off;
            }
            free(q);
        }
        assert_true(error[1][1] < 0.95 * error[0][1]);
        assert_true(error[1][0] > error[0][0]);
    }
    free(w);
    free_world(&x);
}

static size_t n_different(const float *a, const float *b, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += fabsf(a[i] - b[i]) > 1e-5f;
    return count;
}

/* Much damping is rounding to nearest; the block of columns changes rounding errors only, which now
 * and then turn a code; act_order is the plain sweep on relabelled columns. */
static void gptq_limits_and_symmetries(void **state) {
    (void)state;
    enum { N = 96, R = 12 };
    static const char base[] = "bits=3,group=0,grid=gptq_asym,search=none";
    char options[200];
    world x = make_world(N, 400, 14), damped = world_of(N, x.h), other = world_of(N, x.h);
    for (size_t i = 0; i < N; i++) damped.h[i * N + i] += 1e9;
    float *w = random_weights(R * N, 8), *a = malloc(R * N * sizeof *a),
          *b = malloc(R * N * sizeof *b), *moved = malloc(R * N * sizeof *b);
    memcpy(a, w, R * N * sizeof *w);
    memcpy(b, w, R * N * sizeof *w);
    must_run("gptq", base, &damped, a, R);
    must_run("rtn", base, &x, b, R);
    assert_true(n_different(a, b, R * N) <= 1);

    memcpy(a, w, R * N * sizeof *w);
    memcpy(b, w, R * N * sizeof *w);
    must_run("gptq", base, &x, a, R);
    snprintf(options, sizeof options, "%s,block=16", base);
    must_run("gptq", options, &x, b, R);
    assert_true(n_different(a, b, R * N) <= R * N / 50);

    /* the columns in falling order of their mean squares */
    size_t order[N];
    for (size_t i = 0; i < N; i++) {
        size_t k = i;
        for (; k > 0 && x.squares[order[k - 1]] < x.squares[i]; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    for (size_t i = 0; i < N; i++) {
        other.squares[i] = x.squares[order[i]];
        for (size_t k = 0; k < N; k++) other.h[i * N + k] = x.h[order[i] * N + order[k]];
        for (size_t r = 0; r < R; r++) moved[r * N + i] = w[r * N + order[i]];
    }
    snprintf(options, sizeof options, "%s,act_order=false", base);
    must_run("gptq", options, &other, moved, R);
    for (size_t r = 0; r < R; r++)
        for (size_t i = 0; i < N; i++) b[r * N + order[i]] = moved[r * N + i];
    assert_int_equal(n_different(a, b, R * N), 0);
    free(w);
    free(a);
    free(b);
    free(moved);
    free_world(&x);
    free_world(&damped);
    free_world(&other);
}

static void gptq_keeps_what_was_pruned(void **state) {
    (void)state;
    enum { N = 64, R = 8 };
    world x = make_world(N, 300, 6);
    float *w = random_weights(R * N, 8), *pruned = malloc(R * N * sizeof *w);
    must_run("wanda", "sparsity=2:4", &x, w, R);
    memcpy(pruned, w, R * N * sizeof *w);
    assert_ok(run_method("gptq", "bits=4,group=32", &x, w, R, true, err));
    for (size_t i = 0; i < R * N; i++) assert_true(pruned[i] != 0.0f || w[i] == 0.0f);
    free(w);
    free(pruned);
    free_world(&x);
}

/* ---- every method of the registry: unusual weights, and threads ---- */

static void fill_odd(float *w, size_t rows, size_t n, int kind) {
    for (size_t i = 0; i < rows * n; i++) switch (kind) {
        case 0:
            w[i] = 0.0f;
            break;
        case 1:
            w[i] = 0.25f;
            break;
        case 2:
            w[i] = i % n == 3 ? 1000.0f : 1e-3f * (float)(i % 5);
            break;
        case 3:
            w[i] = 1e-42f * (float)(i % 9);
            break;
        default:
            w[i] = i % 2 ? 0.0f : -0.0f;
        }
}

static void odd_weights(void **state) {
    (void)state;
    world x = make_world(64, 200, 9);
    for (size_t m = 0; pare_step_method_at(m); m++)
        for (size_t rows = 1; rows <= 3; rows += 2)
            for (int kind = 0; kind < 5; kind++) {
                float w[3 * 64], before[3 * 64];
                fill_odd(w, rows, 64, kind);
                memcpy(before, w, sizeof before);
                must_run(pare_method_name(pare_step_method_at(m)), "", &x, w, rows);
                for (size_t i = 0; i < rows * 64; i++) {
                    if (!isfinite(w[i]) || (before[i] == 0.0f && kind == 0 && w[i] != 0.0f))
                        fail_msg("%s, kind %d, %zu: found %g of %g",
                                 pare_method_name(pare_step_method_at(m)), kind, i, (double)w[i],
                                 (double)before[i]);
                }
            }
    free_world(&x);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    enum { N = 192, R = 40 };
    world x = make_world(N, 500, 9);
    for (size_t m = 0; pare_step_method_at(m); m++) {
        float *first = NULL;
        for (int threads = 1; threads <= 7; threads += 2) {
            pare_runtime *own = rt;
            rt = test_runtime(threads, PARE_ISA_AMX);
            float *w = random_weights(R * N, 8);
            must_run(pare_method_name(pare_step_method_at(m)), "", &x, w, R);
            pare_runtime_free(rt);
            rt = own;
            if (first) assert_memory_equal(first, w, R * N * sizeof *w);
            if (first)
                free(w);
            else
                first = w;
        }
        free(first);
    }
    free_world(&x);
}

/* All and nothing. */
static void sparsity_0_and_1(void **state) {
    (void)state;
    enum { N = 64, R = 5 };
    world x = make_world(N, 200, 9);
    static const char *const pruners[] = {"wanda", "sparsegpt", "random", "magnitude"};
    for (size_t k = 0; k < 4; k++) {
        float *w = random_weights(R * N, 8), *same = random_weights(R * N, 8);
        must_run(pruners[k], "sparsity=0", &x, w, R);
        assert_memory_equal(w, same, R * N * sizeof *w);
        must_run(pruners[k], "sparsity=1", &x, w, R);
        assert_true(zeros_of(w, R * N) >= R * N - 1); /* JaxPruner's rule keeps one */
        const char *pattern = k == 1 ? "sparsity=3:7,block=112" : "sparsity=3:7";
        assert_fails(run_method(pruners[k], pattern, &x, w, R, false, err), PARE_ERR_ARG,
                     "multiple of 7");
        free(w);
        free(same);
    }
    free_world(&x);
}

/* A Hessian without a factor: nearest rounding, said. */
static void falls_back_and_says_so(void **state) {
    (void)state;
    enum { N = 32, R = 4 };
    double h[N * N];
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < N; k++) h[i * N + k] = i == k ? 1 : -1e9;
    world x = world_of(N, h);
    float *a = random_weights(R * N, 8), *b = random_weights(R * N, 8);
    must_run("gptq", "bits=4,group=32,search=none", &x, a, R);
    assert_int_equal(n_notes, 1);
    must_run("rtn", "bits=4,group=32,search=none", &x, b, R);
    assert_memory_equal(a, b, R * N * sizeof *a);
    must_run("sparsegpt", "sparsity=2:4", &x, a, R);
    assert_int_equal(n_notes, 1);
    free(a);
    free(b);
    free_world(&x);
}

/* Widths and numbers of rows that end within a panel and a block of rows. */
static void error_of_the_output(void **state) {
    (void)state;
    const size_t widths[] = {1, 16, 37, 96}, heights[] = {1, 5, 48, 50};
    for (size_t k = 0; k < 4; k++) {
        world x = make_world(widths[k], 200, 31 + k);
        float *zeros = calloc(50 * x.n, sizeof *zeros), *a = random_weights(50 * x.n, 32 + k),
              *b = random_weights(50 * x.n, 36 + k);
        for (size_t i = 0; i < 4; i++) {
            double want = output_error(&x, a, b, heights[i]);
            assert_float_equal(pare_output_error(rt, &x.x, a, b, heights[i]) / want, 1.0, 1e-5);
            want = output_error(&x, a, zeros, heights[i]);
            assert_float_equal(pare_output_error(rt, &x.x, a, NULL, heights[i]) / want, 1.0, 1e-5);
        }
        assert_true(pare_output_error(rt, &x.x, a, a, 50) == 0.0);
        float *half = malloc(pare_output_half_bytes(x.n));
        pare_output_half(rt, half, x.h, x.n);
        pare_input_stats kept = x.x;
        kept.half = half;
        assert_true(pare_output_error(rt, &kept, a, b, 50) ==
                    pare_output_error(rt, &x.x, a, b, 50));
        free(half);
        free(zeros);
        free(a);
        free(b);
        free_world(&x);
    }
}

int main(void) {
    rt = test_runtime(2, PARE_ISA_AMX);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factor_is_that_of_the_inverse),
        cmocka_unit_test(odd_hessians),
        cmocka_unit_test(sweep_identity),
        cmocka_unit_test(sparsegpt_by_hand),
        cmocka_unit_test(sparsegpt_lies_between_least_squares_and_the_mask),
        cmocka_unit_test(sparsegpt_with_a_diagonal_hessian_is_wanda),
        cmocka_unit_test(sparsegpt_also_quantizes),
        cmocka_unit_test(wanda_compares_within_rows),
        cmocka_unit_test(magnitude_compares_across_rows),
        cmocka_unit_test(sparsegpt_counts_by_blocks_of_columns),
        cmocka_unit_test(random_keeps_zeros),
        cmocka_unit_test(wanda_ties_and_the_variant),
        cmocka_unit_test(gptq_reduces_to_rounding),
        cmocka_unit_test(rounding_weighs_inputs),
        cmocka_unit_test(gptq_is_better_than_rounding),
        cmocka_unit_test(gptq_limits_and_symmetries),
        cmocka_unit_test(gptq_keeps_what_was_pruned),
        cmocka_unit_test(odd_weights),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(sparsity_0_and_1),
        cmocka_unit_test(falls_back_and_says_so),
        cmocka_unit_test(error_of_the_output),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
