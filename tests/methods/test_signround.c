/* SignRound: the cases that can be followed by hand, rounding to nearest where nothing is learned,
 * gradients of the range by differences, and what it must never do. Built a second time with
 * PARE_EMULATE for levels that the machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include "base/rng.h"
#include "kernels/blocks.h"
#include "kernels/round_learn.h"
#include "methods/method.h"
#include "tensor/grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pare_runtime *rt;

/* One matrix [rows][cols] whose output x w^T on tokens x[n_tokens][cols] is compared. */
typedef struct world {
    size_t rows, cols, n_tokens;
    const float *x, *w;
    double first, least; /* losses of the first call and the least */
    size_t n_calls;
    double factor; /* of the loss; 0 is read as 1 */
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
    if (s->factor != 0) *loss *= s->factor;
    for (size_t i = 0; s->factor != 0 && i < s->rows * s->cols; i++) g[0][i] *= (float)s->factor;
    if (!s->n_calls++) s->first = s->least = *loss;
    s->least = fmin(s->least, *loss);
    return PARE_OK;
}

typedef struct result {
    float w[4096], scale[256];
    uint8_t zero[256];
} result;

typedef pare_status (*loss_fn)(void *arg, const size_t *sequences, size_t n, const float *const *w,
                               float *const *g, double *loss, pare_error *err);

static void tune_by(result *out, const char *params, world *s, bool keep_zeros, loss_fn loss) {
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
                       .loss = loss,
                       .arg = s};
    s->n_calls = 0;
    assert_ok(m->tune(&t, options, err));
    free(options);
}

static void tune(result *out, const char *params, world *s, bool keep_zeros) {
    tune_by(out, params, s, keep_zeros, loss_of);
}

static void the_closed_case(void **state) {
    (void)state;
    static result r;
    float w[32] = {0.4f, 0.3f, -8}, x[32] = {1, 1, 0};
    world s = {1, 32, 1, x, w, 0, 0, 0, 0};
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
    world s = {1, 64, 1, x, w, 0, 0, 0, 0};
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
            world s = {8, 96, 40, x, w, 0, 0, 0, 0};
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
    world s = {4, 64, 64, x, w, 0, 0, 0, 0};
    tune(&plain, "bits=3,group=32,iters=0", &s, false);
    tune(&learned, "bits=3,group=32,iters=40,minmax=false", &s, false);
    assert_true(s.least == s.first);
    assert_memory_equal(plain.w, learned.w, sizeof w);
}

/* A loss that is linear in w': x holds its gradient, one row of tokens for each call. */
static pare_status linear_loss(void *arg, const size_t *sequences, size_t n, const float *const *w,
                               float *const *g, double *loss, pare_error *err) {
    world *s = arg;
    size_t values = s->rows * s->cols;
    const float *gradient = s->x + s->n_calls % s->n_tokens * values;
    (void)sequences, (void)n, (void)err;
    *loss = 0;
    for (size_t i = 0; i < values; i++) *loss += (double)gradient[i] * (double)w[0][i];
    memcpy(g[0], gradient, values * sizeof(float));
    s->n_calls++;
    return PARE_OK;
}

/* One group's loss sum g w' as a function of alpha and beta around (a0, b0), the residuals of all
 * roundings held, in f64: what a straight-through gradient is the derivative of. */
typedef struct group_case {
    const float *w, *g;
    int n, bits;
    bool symmetric;
    double high, low, a0, b0;
} group_case;

static double scale_at(const group_case *c, double a, double b) {
    double m = 1 << (c->bits - 1), hi = a * c->high, lo = b * c->low;
    if (!c->symmetric) return (hi - lo) / (2 * m - 1);
    return (c->a0 * c->high < -c->b0 * c->low ? 1.0 : -1.0) * fmax(hi, -lo) / m;
}

static double held_loss(const group_case *c, double a, double b) {
    double s0 = scale_at(c, c->a0, c->b0), half = 1 << (c->bits - 1), max = 2 * half - 1, sum = 0;
    double f16 = (double)pare_f16_to_f32(pare_f32_to_f16((float)s0)); /* as it is stored */
    double s = scale_at(c, a, b) * f16 / s0, z0 = half, z = half;
    if (!c->symmetric) {
        z0 = fmin(fmax(nearbyint(-c->b0 * c->low / f16), 0), max);
        z = z0 - b * c->low / s + c->b0 * c->low / f16;
    }
    for (int i = 0; i < c->n; i++) { /* what is cut off at (a0, b0) stays so */
        double w = (double)c->w[i], r = nearbyint(w / f16);
        double q = r < -z0 ? -z : r > max - z0 ? max - z : r + w / s - w / f16;
        sum += (double)c->g[i] * s * q;
    }
    return sum;
}

/* Steps of the ranges go against the derivatives that differences give: from (1, 1), and from
 * inside, where weights are cut off. The scale that comes out tells where alpha and beta went. */
static void ranges_follow_differences(void **state) {
    (void)state;
    enum { GROUPS = 64, LEN = 32, VALUES = GROUPS * LEN };
    static float w[VALUES], g[2 * VALUES];
    static result r;
    const double lr[2] = {0.05, 0.05 * 2 / 3}, tiny = 1e-6;
    fill(w, VALUES, 21);
    fill(g, 2 * VALUES, 22);
    w[3 * LEN] = 4, w[3 * LEN + 1] = -4; /* a tie: both move */
    for (int bits = 2; bits <= 4; bits++)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            char params[120];
            size_t up = 0, down = 0, n_checked = 0;
            world s = {GROUPS, LEN, 2, g, w, 0, 0, 0, 0};
            snprintf(params, sizeof params,
                     "bits=%d,group=32,grid=%s,iters=3,lr=1e-9,minmax_lr=0.05,best=false", bits,
                     symmetric ? "full" : "gptq_asym");
            tune_by(&r, params, &s, false, linear_loss);
            for (int k = 0; k < GROUPS; k++) {
                group_case c = {w + k * LEN, g, LEN, bits, symmetric, 0, 0, 1, 1};
                bool sure = true;
                for (int i = 0; i < LEN; i++) {
                    c.high = fmax(c.high, (double)c.w[i]);
                    c.low = fmin(c.low, (double)c.w[i]);
                }
                for (int step = 0; step < 2; step++) {
                    double a = c.a0, b = c.b0;
                    c.g = g + step * VALUES + k * LEN;
                    double da = held_loss(&c, a + tiny, b) - held_loss(&c, a - tiny, b);
                    double db = held_loss(&c, a, b + tiny) - held_loss(&c, a, b - tiny);
                    /* 0 of the side that does not make the scale; not near 0 by chance */
                    sure &= fabs(da) > 1e-8 || (symmetric && fabs(da) < 1e-12);
                    sure &= fabs(db) > 1e-8 || (symmetric && fabs(db) < 1e-12);
                    if (fabs(da) > 1e-12) a -= da > 0 ? lr[step] : -lr[step];
                    if (fabs(db) > 1e-12) b -= db > 0 ? lr[step] : -lr[step];
                    if (step == 1) up += a > c.a0 || b > c.b0, down += a < c.a0 || b < c.b0;
                    c.a0 = fmin(a, 1);
                    c.b0 = fmin(b, 1);
                }
                double expected = scale_at(&c, c.a0, c.b0);
                n_checked += sure;
                if (sure && fabs((double)r.scale[k] - expected) > 1e-3 * fabs(expected))
                    fail_msg("%s: group %d: scale %g, expected %g (alpha %g, beta %g)", params, k,
                             (double)r.scale[k], expected, c.a0, c.b0);
            }
            assert_true(n_checked > GROUPS - 4 && up > 5 && down > 5);
        }
}

/* After a step each v is 1 / T off, against its gradient times the scale, or 0 where that is 0; in
 * a symmetric group the side that makes the scale has moved (up it stays at 1). */
static void the_first_step(void **state) {
    (void)state;
    enum { ROWS = 8, COLS = 32, VALUES = ROWS * COLS };
    static float w[VALUES], g[VALUES];
    static result plain, r;
    fill(w, VALUES, 23);
    fill(g, VALUES, 24);
    for (size_t i = 0; i < VALUES; i += 5) g[i] = 0;
    world s = {ROWS, COLS, 1, g, w, 0, 0, 0, 0};
    tune_by(&plain, "bits=4,group=32,iters=0", &s, false, linear_loss);
    tune_by(&r, "bits=4,group=32,iters=2,minmax=false,best=false", &s, false, linear_loss);
    size_t n_moved = 0;
    for (size_t i = 0; i < VALUES; i++) {
        float scale = plain.scale[i / COLS], code = w[i] / scale, d = g[i] * scale;
        bool inside = nearbyintf(code) >= -8 && nearbyintf(code) <= 7;
        float v = !inside || d == 0 ? 0.0f : d > 0 ? -0.5f : 0.5f;
        float expected = scale * fminf(fmaxf(nearbyintf(code + v), -8), 7);
        if (fabsf(fabsf(code + v - nearbyintf(code + v)) - 0.5f) < 1e-5f) continue; /* a tie */
        assert_true(r.w[i] == expected);
        n_moved += expected != plain.w[i];
    }
    assert_true(n_moved > VALUES / 4);
    tune_by(&r, "bits=4,group=32,iters=2,minmax_lr=0.01,best=false", &s, false, linear_loss);
    size_t lower = 0;
    for (size_t k = 0; k < ROWS; k++) {
        float rest = r.scale[k] / plain.scale[k];
        assert_true(rest == 1 || fabsf(rest - 0.99f) < 1e-3f);
        lower += rest < 1;
    }
    assert_true(lower > 0 && lower < ROWS);
}

/* Only signs count. */
static void a_loss_times_1000(void **state) {
    (void)state;
    static float w[8 * 64], x[20 * 64];
    static result one, thousand;
    fill(w, 8 * 64, 25);
    fill(x, 20 * 64, 26);
    for (size_t t = 0; t < 20; t++)
        for (size_t c = 1; c < 64; c++) x[t * 64 + c] += x[t * 64];
    for (int k = 0; k < 2; k++) {
        world s = {8, 64, 20, x, w, 0, 0, 0, k ? 1000 : 1};
        tune(k ? &thousand : &one, "bits=3,group=32,iters=50", &s, false);
        assert_true(s.least < 0.8 * s.first);
    }
    assert_memory_equal(&one, &thousand, sizeof one);
}

/* The first step is 1 / T, or 2 / T from 1000 steps on with at most 3 bits; and the sum of all but
 * the last, (T^2 + T - 2) / 2T^2 = 0.502475 of 200, is how far a weight can go. */
static void steps_and_their_sum(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"bits=3,iters=1000", "bits=3,iters=1000,lr=0.002"},
                                           {"bits=4,iters=1000", "bits=4,iters=1000,lr=0.001"},
                                           {"bits=3,iters=500", "bits=3,iters=500,lr=0.002"},
                                           {"bits=3,iters=800", "bits=3,iters=800,lr=0.00125"}};
    static float w[4 * 64], x[8 * 64];
    static result a, b;
    fill(w, 4 * 64, 27);
    fill(x, 8 * 64, 28);
    for (size_t t = 0; t < 8; t++)
        for (size_t c = 1; c < 64; c++) x[t * 64 + c] += x[t * 64];
    for (size_t k = 0; k < 4; k++) {
        char params[2][80];
        world s = {4, 64, 8, x, w, 0, 0, 0, 0};
        for (int j = 0; j < 2; j++)
            snprintf(params[j], sizeof params[j], "group=32,best=false,%s", pairs[k][j]);
        tune(&a, params[0], &s, false);
        tune(&b, params[1], &s, false);
        assert_memory_equal(&a, &b, sizeof a);
    }
    float v[32] = {1.0020f, 1.0029f, -8}, g[32] = {1, 1, 0}; /* the scale is 1 */
    world s = {1, 32, 1, g, v, 0, 0, 0, 0};
    tune_by(&a, "bits=4,group=32,iters=200,minmax=false,best=false", &s, false, linear_loss);
    assert_true(a.scale[0] == 1 && a.w[0] == 0 && a.w[1] == 1);
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
        world s = {4, 64, 20, x, w, 0, 0, 0, 0};
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
        for (int isa = FIRST_VECTOR_LEVEL; isa <= (int)TOP_LEVEL; isa++)
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
                                       cmocka_unit_test(ranges_follow_differences),
                                       cmocka_unit_test(the_first_step),
                                       cmocka_unit_test(a_loss_times_1000),
                                       cmocka_unit_test(steps_and_their_sum),
                                       cmocka_unit_test(zeros_of_a_pruner_stay),
                                       cmocka_unit_test(kernels_agree)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
