/* gptq in its published form beside a plain reading of the authors' code in f64, for all its
 * parameters; what it does otherwise than ours; parameters that exclude each other. */
#include "support/test.h"

#include "base/rng.h"
#include "kernels/blocks.h"
#include "methods/method.h"
#include "tensor/grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 200, R = 6, TOKENS = 260, SEQUENCES = 5 };

static pare_runtime *rt;

/* ---- inputs: correlated, some that are always 0, some almost ---- */

static double hessian[N * N], squares[N];
static float original[R * N];
static const size_t dead[] = {0, 3, 70, 71, 199};

static bool is_dead(size_t col) {
    for (size_t i = 0; i < sizeof dead / sizeof *dead; i++)
        if (dead[i] == col) return true;
    return false;
}

static void make_world(void) {
    for (size_t t = 0; t < TOKENS; t++) {
        double x[N], common = pare_rng_normal(3, 1, t * (N + 1));
        for (size_t c = 0; c < N; c++) {
            /* sums of squares below that which stands for a dead input, and above */
            double size = is_dead(c) ? 0 : c % 10 == 1 ? 0.02 : 0.3 + (double)(c * 5 % 7);
            x[c] = size * ((double)pare_rng_normal(3, 1, t * (N + 1) + 1 + c) + 0.7 * common);
        }
        for (size_t i = 0; i < N; i++)
            for (size_t k = 0; k < N; k++) hessian[i * N + k] += x[i] * x[k];
    }
    for (size_t c = 0; c < N; c++) squares[c] = hessian[c * N + c];
    for (size_t i = 0; i < R * N; i++) original[i] = pare_rng_normal(5, 8, i);
}

static double output_error(const float *a) {
    double sum = 0;
    for (size_t r = 0; r < R; r++)
        for (size_t i = 0; i < N; i++)
            for (size_t k = 0; k < N; k++)
                sum += ((double)a[r * N + i] - (double)original[r * N + i]) * hessian[i * N + k] *
                       ((double)a[r * N + k] - (double)original[r * N + k]);
    return sum;
}

/* ---- the published code ---- */

typedef struct setting {
    int bits, group;  /* group 0: a row */
    const char *grid; /* the published ones by name; others by pare_grid_fit */
    bool mse, order, static_groups;
    int block;
    double damp;
} setting;

typedef struct params {
    double scale, zero;
} params;

static double f16(double x) { return (double)pare_f16_to_f32(pare_f32_to_f16((float)x)); }

static double quantize(const setting *s, double w, params p) {
    double top = (1 << s->bits) - 1;
    if (p.scale == 0) return 0;
    return p.scale * (fmin(fmax(nearbyint(w / p.scale) + p.zero, 0), top) - p.zero);
}

static params range_params(const setting *s, bool symmetric, double low, double high) {
    params p = {f16((high - low) / ((1 << s->bits) - 1)), 1 << (s->bits - 1)};
    if (!symmetric) p.zero = nearbyint(-low / p.scale);
    return p;
}

static params other_grid(const setting *s, const double *w, size_t n) {
    static const char *const names[] = {"full", "sym_absmax", "", "asym_minmax"};
    pare_grid g = {PARE_GRID_FULL, s->bits, PARE_GRID_PLAIN};
    float values[N], scale;
    uint8_t zero;
    for (int i = 0; i < 4; i++)
        if (strcmp(names[i], s->grid) == 0) g.kind = (pare_grid_kind)i;
    for (size_t i = 0; i < n; i++) values[i] = (float)w[i];
    pare_grid_fit(&scale, &zero, &g, pare_encode_kernels_get(PARE_ISA_REF), values, NULL, n);
    return (params){(double)scale, zero};
}

/* Of w[0], w[step], .. */
static params find_params(const setting *s, const double *w, size_t n) {
    const bool symmetric = strcmp(s->grid, "gptq_sym") == 0;
    if (!symmetric && strcmp(s->grid, "gptq_asym") != 0) return other_grid(s, w, n);
    double low = 0, high = 0, least = INFINITY;
    for (size_t i = 0; i < n; i++) {
        low = fmin(low, w[i]);
        high = fmax(high, w[i]);
    }
    if (low == 0 && high == 0) return (params){0, 0};
    if (symmetric) {
        high = fmax(-low, high);
        if (low < 0) low = -high;
    }
    params best = range_params(s, symmetric, low, high);
    for (int i = 0; s->mse && i < 80; i++) {
        double p = 1 - i / 100.0, error = 0;
        params f = range_params(s, symmetric, p * low, p * high);
        for (size_t k = 0; k < n; k++) error += pow(fabs(quantize(s, w[k], f) - w[k]), 2.4);
        if (error < least) {
            least = error;
            best = f;
        }
    }
    return best;
}

/* u upper, h^-1 = u^T u; h is lost. */
static void factor(double *u, double *h) {
    static double inverse[N * N];
    memset(inverse, 0, sizeof inverse);
    for (size_t i = 0; i < N; i++) inverse[i * N + i] = 1;
    for (size_t p = 0; p < N; p++) { /* positive definite: no pivoting */
        double d = 1 / h[p * N + p];
        for (size_t k = 0; k < N; k++) h[p * N + k] *= d, inverse[p * N + k] *= d;
        for (size_t i = 0; i < N; i++) {
            double f = h[i * N + p];
            for (size_t k = 0; i != p && k < N; k++) {
                h[i * N + k] -= f * h[p * N + k];
                inverse[i * N + k] -= f * inverse[p * N + k];
            }
        }
    }
    memset(u, 0, N * N * sizeof *u);
    for (size_t i = 0; i < N; i++)
        for (size_t k = i; k < N; k++) {
            double sum = inverse[i * N + k];
            for (size_t m = 0; m < i; m++) sum -= u[m * N + i] * u[m * N + k];
            u[i * N + k] = k == i ? sqrt(sum) : sum / u[i * N + i];
        }
}

static void published(float *out, const setting *s) {
    static double h[N * N], u[N * N];
    double square[N], mean = 0;
    size_t perm[N];
    for (size_t c = 0; c < N; c++) {
        square[c] = is_dead(c) ? 1 : 2.0 / SEQUENCES * squares[c];
        mean += square[c] / N;
        size_t at = c;
        for (; s->order && at > 0 && square[perm[at - 1]] < square[c]; at--)
            perm[at] = perm[at - 1];
        perm[at] = c;
    }
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < N; k++)
            h[i * N + k] = i == k ? square[perm[i]] + s->damp * mean
                                  : 2.0 / SEQUENCES * hessian[perm[i] * N + perm[k]];
    factor(u, h);
    for (size_t r = 0; r < R; r++) {
        double row[N], w[N]; /* as it is; in the order of the sweep */
        params groups[N], now = {0, 0};
        for (size_t c = 0; c < N; c++) row[c] = (double)original[r * N + c];
        if (!s->group) now = find_params(s, row, N);
        for (size_t c = 0; c < N; c++) row[c] = is_dead(c) ? 0 : row[c];
        size_t g = (size_t)s->group;
        for (size_t c = 0; g && c < N; c += g)
            groups[c / g] = find_params(s, row + c, N - c < g ? N - c : g);
        for (size_t c = 0; c < N; c++) w[c] = row[perm[c]];
        for (size_t b = 0, e; b < N; b = e) {
            double part[N], errors[N];
            e = b + (size_t)s->block < N ? b + (size_t)s->block : N;
            memcpy(part, w, sizeof w);
            for (size_t i = b; i < e; i++) {
                if (g && s->static_groups)
                    now = groups[perm[i] / g];
                else if (g && i % g == 0)
                    now = find_params(s, w + i, N - i < g ? N - i : g);
                double q = quantize(s, part[i], now);
                errors[i] = (part[i] - q) / u[i * N + i];
                for (size_t k = i + 1; k < e; k++) part[k] -= errors[i] * u[i * N + k];
                out[r * N + perm[i]] = (float)q;
            }
            for (size_t k = e; k < N; k++)
                for (size_t i = b; i < e; i++) w[k] -= errors[i] * u[i * N + k];
        }
    }
}

/* ---- pare's ---- */

static int n_notes;
static void count_note(void *arg, const char *line) {
    (void)arg, (void)line;
    n_notes++;
}

/* "a=1,b=2" into options of the method; its check. */
static pare_status parse(void *o, const char *options, pare_error *err) {
    const pare_method *m = pare_method_find("gptq");
    char text[200];
    pare_method_defaults(m, o);
    snprintf(text, sizeof text, "%s", options);
    for (char *save, *pair = strtok_r(text, ",", &save); pair; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        *value++ = 0;
        for (const pare_param *p = m->params; p->name; p++)
            if (strcmp(p->name, pair) == 0) assert_ok(pare_param_set(p, o, value, err));
    }
    return m->check(o, err);
}

static void run(float *w, const char *options, bool loose) {
    static float scale[R * N];
    static uint8_t zero[R * N];
    const pare_method *m = pare_method_find("gptq");
    void *o = calloc(1, m->options_size);
    assert_ok(parse(o, options, err));
    const pare_input_stats x = {.cols = N,
                                .n_tokens = TOKENS,
                                .n_sequences = SEQUENCES,
                                .squares = squares,
                                .hessian = hessian};
    pare_weight_job job = {.rt = rt,
                           .name = "w",
                           .w = w,
                           .rows = R,
                           .cols = N,
                           .x = &x,
                           .enc = m->encoding(o),
                           .scale = scale,
                           .zero = zero,
                           .note = count_note};
    assert_int_equal(job.enc == NULL, loose);
    if (loose) job.scale = NULL, job.zero = NULL;
    memcpy(w, original, sizeof original);
    n_notes = 0;
    assert_ok(m->run(&job, o, err));
    free(o);
}

/* f64 beside f32: a code that all but ties may turn, and what follows it (none does on AVX2). */
static void beside(const setting *s) {
    float ours[R * N], want[R * N];
    char options[200];
    snprintf(options, sizeof options,
             "form=published,bits=%d,group=%d,grid=%s,search=%s,act_order=%s,static_groups=%s,"
             "block=%d,damp=%g",
             s->bits, s->group, s->grid, s->mse ? "mse" : "none", s->order ? "true" : "false",
             s->group ? s->static_groups ? "true" : "false" : "auto", s->block, s->damp);
    run(ours, options, s->order && s->group && !s->static_groups);
    assert_int_equal(n_notes, 0);
    published(want, s);
    size_t other = 0;
    for (size_t i = 0; i < R * N; i++) other += fabsf(ours[i] - want[i]) > 1e-4f;
    double a = output_error(ours), b = output_error(want);
    if (other > R * N / 200 || !(fabs(a - b) <= 0.01 * b))
        fail_msg("%s: found %zu other weights, error %g for %g", options, other, a, b);
}

static void as_published(void **state) {
    (void)state;
    static const char *const grids[] = {"gptq_asym", "gptq_sym"};
    static const int groups[] = {0, 32, 64, 128}, bits[] = {2, 3, 4, 8};
    for (int i = 0; i < 2 * 2 * 4 * 4 * 4; i++) {
        setting s = {.grid = grids[i % 2],
                     .mse = i / 2 % 2,
                     .order = i / 4 % 2,
                     .static_groups = i / 8 % 2,
                     .group = groups[i / 16 % 4],
                     .bits = bits[i / 64 % 4],
                     .block = 128,
                     .damp = 0.01};
        if (s.group || !s.static_groups) beside(&s);
    }
}

static void other_parameters(void **state) {
    (void)state;
    static const char *const others[] = {"full", "sym_absmax", "asym_minmax"};
    for (int i = 0; i < 3 * 4; i++)
        beside(&(setting){.grid = others[i % 3],
                          .bits = 3,
                          .group = i / 3 % 2 ? 64 : 0,
                          .order = i / 6,
                          .block = 128,
                          .damp = 0.01});
    static const int blocks[] = {32, 64, 256};
    for (int i = 0; i < 3 * 2; i++)
        beside(&(setting){.grid = "gptq_asym",
                          .bits = 4,
                          .group = 64,
                          .order = i / 3,
                          .block = blocks[i % 3],
                          .damp = i % 2 ? 0.5 : 0.02});
}

/* ---- the forms ---- */

static void forms_differ(void **state) {
    (void)state;
    float a[R * N], b[R * N];
    run(a, "form=published", false);
    run(b, "form=published,act_order=false,static_groups=false,fresh_groups=false", false);
    assert_memory_equal(a, b, sizeof a); /* auto */
    for (size_t i = 0; i < R * N; i++) assert_true(!is_dead(i % N) || a[i] == 0.0f);
    size_t kept = 0;
    run(b, "act_order=false,fresh_groups=false", false);
    for (size_t i = 0; i < R * N; i++) kept += is_dead(i % N) && b[i] != 0.0f;
    assert_true(kept > 0);
    run(a, "", false);
    run(b, "form=pare,act_order=true,static_groups=true", false);
    assert_memory_equal(a, b, sizeof a);
    assert_int_equal(n_notes, 0);
}

/* Errors that are passed on to weights at the end of their range do harm: ours is then rounding to
 * nearest, and says so; the published code keeps what it has. */
static void rounding_is_better(void **state) {
    (void)state;
    static const char options[] = "bits=2,group=64,grid=gptq_sym,search=none,static_groups=true,"
                                  "act_order=false,damp=0.0001";
    float own[R * N], a[R * N], b[R * N];
    char more[200];
    memcpy(own, original, sizeof own);
    for (size_t i = 0; i < R * N; i++) original[i] = i % 2 ? 1.0f : 0.49f;
    run(a, options, false);
    assert_int_equal(n_notes, 1);
    snprintf(more, sizeof more, "%s,form=published", options);
    run(b, more, false);
    assert_int_equal(n_notes, 0);
    assert_true(output_error(b) > 1.02 * output_error(a));
    memcpy(original, own, sizeof own);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    static const char options[] = "form=published,act_order=true,group=32";
    float a[R * N], b[R * N];
    run(a, options, true);
    pare_runtime *own = rt;
    rt = test_runtime(5, PARE_ISA_AMX);
    run(b, options, true);
    pare_runtime_free(rt);
    rt = own;
    assert_memory_equal(a, b, sizeof a);
}

static void excluded(void **state) {
    (void)state;
    static const struct {
        const char *options, *told; /* NULL: accepted */
    } cases[] = {
        {"fresh_groups=false", "fresh_groups: found false with static groups"},
        {"fresh_groups=true", "fresh_groups: found true with static groups"},
        {"act_order=false,fresh_groups=false", NULL},
        {"act_order=false,static_groups=true,fresh_groups=false", "fresh_groups: found false"},
        {"act_order=false,group=0,fresh_groups=false", "fresh_groups: found false"},
        {"static_groups=false", "static_groups: found false with act_order"},
        {"act_order=false,static_groups=false", NULL},
        {"group=0,static_groups=false", "static_groups: found false with group=0"},
        {"group=0,static_groups=true", NULL},
        {"form=published,fresh_groups=true", "fresh_groups: found true with form=published"},
        {"form=published,fresh_groups=false", NULL},
        {"form=published,act_order=true,static_groups=true,fresh_groups=false", "static groups"},
        {"form=published,act_order=true,fresh_groups=false", NULL},
        {"form=published,group=0,fresh_groups=false", "fresh_groups: found false"},
        {"block=48", "block: found 48, expected a multiple of the group 64"},
    };
    void *o = calloc(1, pare_method_find("gptq")->options_size);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].told)
            assert_fails(parse(o, cases[i].options, err), PARE_ERR_ARG, cases[i].told);
        else
            assert_ok(parse(o, cases[i].options, err));
    }
    free(o);
}

int main(void) {
    rt = test_runtime(2, PARE_ISA_AMX);
    make_world();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_published),          cmocka_unit_test(other_parameters),
        cmocka_unit_test(forms_differ),          cmocka_unit_test(rounding_is_better),
        cmocka_unit_test(threads_do_not_matter), cmocka_unit_test(excluded),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
