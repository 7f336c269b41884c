/* Optimizers: PyTorch's numbers, plain readings of the papers in f64, the sheets' identities,
 * masks, copies in bf16, states, levels and threads. */
#include "support/test.h"

#include "fixtures/optim_vectors.h"
#include "pare/methods.h"
#include "pare/optim.h"

#include <math.h>
#include <stdlib.h>

static const char *const all_specs[] = {
    "sgd:lr=0.1,weight_decay=0.01",
    "sgd:lr=0.1,momentum=0.9,nesterov=true",
    "adam:weight_decay=0.1",
    "adamw:weight_decay=0.1",
    "adafactor:weight_decay=0.1",
    "adamp:weight_decay=0.1",
    "adamp:weight_decay=0.1,nesterov=true,delta=1e9",
    "sgdp:momentum=0.9,weight_decay=0.1,delta=1e9",
    "adahessian:weight_decay=0.1,block=8",
    "adahessian:clip=0.1,update_each=2,power=0.5",
};
enum { N_SPECS = sizeof all_specs / sizeof *all_specs };

/* Uniform in [-1, 1). */
static float draw(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*s >> 32) * 0x1p-31f;
}

static float *random_array(size_t n, uint64_t seed) {
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = draw(&seed);
    return x;
}

static pare_trained matrix(float *w, size_t rows, size_t cols) {
    return (pare_trained){.name = "w", .dims = {rows, cols}, .n_dims = 2, .w = w};
}
static pare_trained vector(float *w, size_t n) {
    return (pare_trained){.name = "b", .dims = {n}, .n_dims = 1, .w = w};
}

static pare_optim *make(pare_runtime *rt, const char *spec, const pare_trained *t, size_t n) {
    pare_optim *o = NULL;
    assert_ok(pare_optim_create(&o, rt, spec, t, n, err));
    return o;
}

/* One step with a gradient (and a Hessian's diagonal, which others do not look at). */
static void step(pare_optim *o, float *g, const float *h) {
    pare_optim_args a = pare_optim_args_default();
    a.g = &g;
    a.hessian = &h;
    assert_ok(pare_optim_step(o, &a, err));
}

/* ---- PyTorch ---- */

static void assert_vector(const char *spec, const float *w, const float *expected) {
    for (size_t i = 0; i < VECTOR_N; i++) /* a few roundings; measured: 1.2e-7 at most */
        if (fabsf(w[i] - expected[i]) > 6e-7f)
            fail_msg("%s: weight %zu: found %.9g, expected %.9g", spec, i, (double)w[i],
                     (double)expected[i]);
}

static void as_pytorch(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++) {
        float w[VECTOR_N], grads[VECTOR_N];
        memcpy(w, vector_start, sizeof w);
        const pare_trained t[] = {matrix(w, 3, 4), vector(w + 12, 4)};
        pare_optim *o = make(rt, vectors[k].spec, t, 2);
        for (size_t s = 0; s < VECTOR_STEPS; s++) {
            memcpy(grads, vector_grads[s], sizeof grads);
            float *g[] = {grads, grads + 12};
            pare_optim_args a = pare_optim_args_default();
            a.g = g;
            assert_ok(pare_optim_step(o, &a, err));
            if (s == 0) assert_vector(vectors[k].spec, w, vectors[k].first);
        }
        assert_vector(vectors[k].spec, w, vectors[k].last);
        assert_int_equal(pare_optim_count(o), VECTOR_STEPS);
        pare_optim_free(o);
    }
    pare_runtime_free(rt);
}

/* ---- the papers in f64 ---- */

enum { ROWS = 6, COLS = 24, SIZE = ROWS * COLS, STEPS = 12 };

/* Of pruned weights w and g are 0 on entry. */
typedef struct reading {
    double w[SIZE], m[SIZE], v[SIZE], r[ROWS], c[COLS];
    bool kept[SIZE];
} reading;

static double n_kept(const reading *x, int begin, int end) {
    double n = 0;
    for (int i = begin; i < end; i++) n += x->kept[i];
    return n;
}

/* Takes the part of a step along the weights out where the gradient is orthogonal; true then. */
static bool project(double *u, const reading *x, const float *g, double delta, double eps) {
    const double *w = x->w;
    double all[4] = {0};
    bool rows = true;
    for (int r = 0; r < ROWS; r++) {
        double gw = 0, gg = 0, ww = 0;
        for (int i = r * COLS; i < (r + 1) * COLS; i++) {
            gw += (double)g[i] * w[i];
            gg += (double)g[i] * (double)g[i];
            ww += w[i] * w[i];
        }
        rows &= fabs(gw) / fmax(sqrt(gg) * sqrt(ww), eps) <
                delta / sqrt(fmax(n_kept(x, r * COLS, (r + 1) * COLS), 1));
        all[0] += gw;
        all[1] += gg;
        all[2] += ww;
    }
    double cosine = fabs(all[0]) / fmax(sqrt(all[1]) * sqrt(all[2]), eps);
    if (!rows && !(cosine < delta / sqrt(n_kept(x, 0, SIZE)))) return false;
    int height = rows ? 1 : ROWS;
    for (int r = 0; r < ROWS; r += height) {
        double ww = 0, uw = 0;
        for (int i = r * COLS; i < (r + height) * COLS; i++) ww += w[i] * w[i];
        for (int i = r * COLS; i < (r + height) * COLS; i++) uw += w[i] / (sqrt(ww) + eps) * u[i];
        for (int i = r * COLS; i < (r + height) * COLS; i++) u[i] -= w[i] / (sqrt(ww) + eps) * uw;
    }
    return true;
}

static void adamp_of(reading *x, const float *g, int t, bool nesterov) {
    const double lr = 0.01, decay = 0.1, eps = 1e-8;
    double u[SIZE];
    for (int i = 0; i < SIZE; i++) {
        x->m[i] = 0.9 * x->m[i] + 0.1 * (double)g[i];
        x->v[i] = 0.999 * x->v[i] + 0.001 * (double)g[i] * (double)g[i];
        double m = nesterov ? 0.9 * x->m[i] + 0.1 * (double)g[i] : x->m[i];
        u[i] = m / (sqrt(x->v[i]) / sqrt(1 - pow(0.999, t)) + eps);
    }
    double ratio = project(u, x, g, 2, eps) ? 0.1 : 1;
    for (int i = 0; i < SIZE; i++)
        x->w[i] = x->w[i] * (1 - lr * decay * ratio) - lr / (1 - pow(0.9, t)) * u[i];
}

static void read_adamp(reading *x, const float *g, const float *h, int t) {
    (void)h;
    adamp_of(x, g, t, false);
}
static void read_adamp_nesterov(reading *x, const float *g, const float *h, int t) {
    (void)h;
    adamp_of(x, g, t, true);
}

/* cut: the momentum is projected too. */
static void sgdp_of(reading *x, const float *g, bool cut, bool nesterov) {
    const double lr = 0.05, momentum = 0.8, decay = 0.01;
    double u[SIZE];
    for (int i = 0; i < SIZE; i++) {
        x->m[i] = momentum * x->m[i] + (1 - 0.2) * (double)g[i];
        u[i] = nesterov ? (double)g[i] + momentum * x->m[i] : x->m[i];
    }
    double ratio = project(u, x, g, 2, 1e-8) ? 0.1 : 1;
    for (int i = 0; i < SIZE; i++) {
        if (cut) x->m[i] = u[i];
        x->w[i] = x->w[i] * (1 - lr * decay * ratio / (1 - momentum)) - lr * u[i];
    }
}
static void read_sgdp(reading *x, const float *g, const float *h, int t) {
    (void)h;
    (void)t;
    sgdp_of(x, g, false, false);
}
static void read_sgdp_nesterov(reading *x, const float *g, const float *h, int t) {
    (void)h;
    (void)t;
    sgdp_of(x, g, false, true);
}
static void read_sgdp_code(reading *x, const float *g, const float *h, int t) {
    (void)h;
    (void)t;
    sgdp_of(x, g, true, false);
}

/* clip: the largest root mean square of m over its divisor; every: steps between estimates. */
static void adahessian_of(reading *x, const float *g, const float *h, int t, double clip,
                          int every) {
    const double lr = 0.02, decay = 0.1;
    double u[SIZE], u2 = 0;
    for (int b = 0; b < SIZE; b += 8) {
        double mean = 0, n = fmax(n_kept(x, b, b + 8), 1);
        for (int i = b; i < b + 8; i++) mean += fabs((double)h[i]) * x->kept[i] / n;
        for (int i = b; i < b + 8; i++) {
            x->m[i] = 0.9 * x->m[i] + 0.1 * (double)g[i];
            if ((t - 1) % every == 0) x->v[i] = 0.98 * x->v[i] + 0.02 * mean * mean;
            double d = pow(sqrt(x->v[i]) / sqrt(1 - pow(0.98, (t - 1) / every + 1)), 0.5) + 1e-3;
            u[i] = x->m[i] / (1 - pow(0.9, t)) / d;
            u2 += u[i] * u[i] * x->kept[i];
        }
    }
    double cut = fmax(1, sqrt(u2 / n_kept(x, 0, SIZE)) / clip);
    for (int i = 0; i < SIZE; i++) x->w[i] -= lr * (u[i] / cut + decay * x->w[i]);
}
static void read_adahessian(reading *x, const float *g, const float *h, int t) {
    adahessian_of(x, g, h, t, HUGE_VAL, 1);
}
static void read_adahessian_clipped(reading *x, const float *g, const float *h, int t) {
    adahessian_of(x, g, h, t, 0.25, 3);
}

static void read_adafactor(reading *x, const float *g, const float *h, int t) {
    const double lr = 0.3, fresh = pow(t, -0.8), eps1 = 1.1920929e-7;
    double w2 = 0, mean = 0, u[SIZE], u2 = 0;
    (void)h;
    for (int i = 0; i < SIZE; i++) w2 += x->w[i] * x->w[i];
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int c = 0; c < COLS; c++) sum += (double)g[r * COLS + c] * (double)g[r * COLS + c];
        x->r[r] += fresh * (sum / COLS - x->r[r]);
        mean += x->r[r] / ROWS;
    }
    for (int c = 0; c < COLS; c++) {
        double sum = 0;
        for (int r = 0; r < ROWS; r++) sum += (double)g[r * COLS + c] * (double)g[r * COLS + c];
        x->c[c] += fresh * (sum / ROWS - x->c[c]);
    }
    for (int i = 0; i < SIZE; i++) {
        double v = x->r[i / COLS] * x->c[i % COLS] / fmax(mean, eps1);
        u[i] = (double)g[i] / sqrt(fmax(v, eps1 * eps1));
        u2 += u[i] * u[i];
    }
    double n = n_kept(x, 0, SIZE), rate = fmax(1e-3, sqrt(w2 / n)) * fmin(lr, 1 / sqrt(t));
    for (int i = 0; i < SIZE; i++) x->w[i] -= rate / fmax(1, sqrt(u2 / n)) * u[i];
}

static void read_adamw(reading *x, const float *g, const float *h, int t) {
    (void)h;
    for (int i = 0; i < SIZE; i++) {
        x->m[i] = 0.9 * x->m[i] + 0.1 * (double)g[i];
        x->v[i] = 0.999 * x->v[i] + 0.001 * (double)g[i] * (double)g[i];
        x->w[i] = x->w[i] * (1 - 0.01 * 0.1) - 0.01 * (x->m[i] / (1 - pow(0.9, t))) /
                                                   (sqrt(x->v[i] / (1 - pow(0.999, t))) + 1e-8);
    }
}

static void read_adam(reading *x, const float *g, const float *h, int t) {
    (void)h;
    for (int i = 0; i < SIZE; i++) {
        double d = (double)g[i] + 0.1 * x->w[i];
        x->m[i] = 0.9 * x->m[i] + 0.1 * d;
        x->v[i] = 0.999 * x->v[i] + 0.001 * d * d;
        x->w[i] -=
            0.01 * (x->m[i] / (1 - pow(0.9, t))) / (sqrt(x->v[i] / (1 - pow(0.999, t))) + 1e-8);
    }
}

static void read_sgd(reading *x, const float *g, const float *h, int t) {
    (void)h;
    for (int i = 0; i < SIZE; i++) {
        double d = (double)g[i] + 0.01 * x->w[i];
        x->m[i] = t == 1 ? d : 0.9 * x->m[i] + d;
        x->w[i] -= 0.1 * (d + 0.9 * x->m[i]);
    }
}

static const struct {
    const char *spec;
    void (*read)(reading *x, const float *g, const float *h, int t);
} readings[] = {
    {"sgd:lr=0.1,momentum=0.9,nesterov=true,weight_decay=0.01", read_sgd},
    {"adam:lr=0.01,weight_decay=0.1", read_adam},
    {"adamw:lr=0.01,weight_decay=0.1", read_adamw},
    {"adafactor:lr=0.3", read_adafactor},
    {"adamp:lr=0.01,weight_decay=0.1,delta=2", read_adamp},
    {"adamp:lr=0.01,weight_decay=0.1,delta=2,nesterov=true", read_adamp_nesterov},
    {"sgdp:lr=0.05,momentum=0.8,dampening=0.2,weight_decay=0.01,delta=2", read_sgdp},
    {"sgdp:lr=0.05,momentum=0.8,dampening=0.2,weight_decay=0.01,delta=2,nesterov=true",
     read_sgdp_nesterov},
    {"sgdp:lr=0.05,momentum=0.8,dampening=0.2,weight_decay=0.01,delta=2,project_momentum=true",
     read_sgdp_code},
    {"adahessian:lr=0.02,beta2=0.98,eps=1e-3,power=0.5,block=16,weight_decay=0.1,clip=0",
     read_adahessian}, /* 24 inputs: blocks of 8 */
    {"adahessian:lr=0.02,beta2=0.98,eps=1e-3,power=0.5,block=8,weight_decay=0.1,clip=0.25,"
     "update_each=3",
     read_adahessian_clipped},
};

/* mask: bits; NULL: dense. */
static void compare_readings(const uint64_t *mask) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    for (size_t k = 0; k < sizeof readings / sizeof *readings; k++) {
        float *w = random_array(SIZE, 5);
        reading *x = calloc(1, sizeof *x);
        for (int i = 0; i < SIZE; i++) {
            x->kept[i] = !mask || (mask[i / 64] >> i % 64 & 1);
            if (!x->kept[i]) w[i] = 0;
            x->w[i] = (double)w[i];
        }
        pare_trained t = matrix(w, ROWS, COLS);
        pare_optim *o = make(rt, readings[k].spec, &t, 1);
        for (int s = 1; s <= STEPS; s++) {
            float *g = random_array(SIZE, (uint64_t)s), *h = random_array(SIZE, (uint64_t)s + 99);
            pare_optim_args a = pare_optim_args_default();
            a.g = &g;
            a.hessian = (const float *const *)&h;
            a.mask = mask ? &mask : NULL;
            a.mask_gradient = true;
            assert_ok(pare_optim_step(o, &a, err));
            for (int i = 0; i < SIZE; i++) g[i] = x->kept[i] ? g[i] : 0;
            readings[k].read(x, g, h, s);
            free(g);
            free(h);
        }
        for (int i = 0; i < SIZE; i++) /* f32 over 12 steps; measured: 6e-7 at most */
            if (fabs((double)w[i] - x->w[i]) > 2e-6)
                fail_msg("%s%s: weight %d: found %.9g, expected %.9g", readings[k].spec,
                         mask ? " (masked)" : "", i, (double)w[i], x->w[i]);
        pare_optim_free(o);
        free(w);
        free(x);
    }
    pare_runtime_free(rt);
}

static void as_the_papers(void **state) {
    (void)state;
    compare_readings(NULL);
}

/* Root mean squares, the n of a cosine's threshold and means of curvature are those of the weights
 * that are kept: a third of them, one row with none. */
static void masked_as_the_papers(void **state) {
    (void)state;
    uint64_t mask[SIZE / 64 + 1] = {0}, seed = 12;
    for (size_t i = 0; i < SIZE; i++)
        if (draw(&seed) < -0.3f && i / COLS != 2) mask[i / 64] |= (uint64_t)1 << i % 64;
    compare_readings(mask);
}

/* ---- AdamP and SGDP ---- */

static void assert_same_steps(pare_runtime *rt, const char *a, const char *b, bool is_vector) {
    float *w[2];
    pare_optim *o[2];
    for (int k = 0; k < 2; k++) {
        w[k] = random_array(SIZE, 2);
        pare_trained t = is_vector ? vector(w[k], SIZE) : matrix(w[k], ROWS, COLS);
        o[k] = make(rt, k ? b : a, &t, 1);
    }
    for (int s = 0; s < 5; s++) {
        float *g = random_array(SIZE, (uint64_t)s + 3);
        for (int k = 0; k < 2; k++) step(o[k], g, g);
        free(g);
        assert_memory_equal(w[0], w[1], SIZE * sizeof(float));
    }
    for (int k = 0; k < 2; k++) {
        pare_optim_free(o[k]);
        free(w[k]);
    }
}

static void adamp_is_adamw_unless_it_fires(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    assert_same_steps(rt, "adamp:weight_decay=0.1,delta=0", "adamw:weight_decay=0.1", false);
    assert_same_steps(rt, "adamp:weight_decay=0.1,delta=1e9", "adamw:weight_decay=0.1", true);
    assert_same_steps(rt, "sgdp:lr=0.1,momentum=0.9,delta=1e9", "sgdp:lr=0.1,momentum=0.9", true);
    pare_runtime_free(rt);
}

/* What is left of a projected step is orthogonal to every row. */
static void projected_steps_are_orthogonal(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float *w = random_array(SIZE, 8), *g = random_array(SIZE, 9), before[SIZE];
    pare_trained t = matrix(w, ROWS, COLS);
    pare_optim *o = make(rt, "adamp:lr=0.1,delta=1e9", &t, 1);
    memcpy(before, w, sizeof before);
    step(o, g, g);
    for (int r = 0; r < ROWS; r++) {
        double uw = 0, uu = 0, ww = 0;
        for (int i = r * COLS; i < (r + 1) * COLS; i++) {
            double u = (double)w[i] - (double)before[i];
            uw += u * (double)before[i];
            uu += u * u;
            ww += (double)before[i] * (double)before[i];
        }
        assert_true(fabs(uw) < 1e-5 * sqrt(uu * ww) && uu > 0.01);
    }
    pare_optim_free(o);
    free(w);
    free(g);
    pare_runtime_free(rt);
}

/* The step takes the weights' part out: w stays where the gradient lies along it. */
static bool fires(pare_runtime *rt, float *w, float *g, size_t rows, size_t cols) {
    float before[8];
    memcpy(before, w, rows * cols * sizeof *w);
    pare_trained t = matrix(w, rows, cols);
    pare_optim *o = make(rt, "sgdp:lr=1,momentum=0,delta=0.1,weight_decay=0.5,wd_ratio=0", &t, 1);
    step(o, g, g);
    pare_optim_free(o);
    /* decay is left out where it fires: w = before - g projected, else before / 2 - g */
    bool decayed = true;
    for (size_t i = 0; i < rows * cols; i++)
        decayed &= fabsf(w[i] - (0.5f * before[i] - g[i])) < 1e-6f;
    return !decayed;
}

static void one_row_vetoes(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float orthogonal[] = {1, 0, 0, 1}, g1[] = {0, 1, 1, 0};
    assert_true(fires(rt, orthogonal, g1, 2, 2));
    float veto[] = {1, 0, 0, 1}, g2[] = {0, 1, 0, 1}; /* the second row's gradient is along it */
    assert_false(fires(rt, veto, g2, 2, 2));
    float whole[] = {1, 0, 0, 1}, g3[] = {1, 0, 0, -1}; /* rows are not, the whole is */
    assert_true(fires(rt, whole, g3, 2, 2));
    float sign[] = {1, 0, 0, 1}, g4[] = {-1, 0, 0, -1}; /* the cosine's sign does not matter */
    assert_false(fires(rt, sign, g4, 2, 2));
    pare_runtime_free(rt);
}

/* Where the step is orthogonal already, with wd_ratio 1, taking its part along the weights out
 * changes nothing. */
static void orthogonal_steps_stay(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    static const char *const pairs[][2] = {
        {"sgdp:lr=0.25,momentum=0,weight_decay=0.5,wd_ratio=1,delta=0",
         "sgdp:lr=0.25,momentum=0,weight_decay=0.5,wd_ratio=1,delta=1e9"},
        {"adamp:lr=0.25,weight_decay=0.5,wd_ratio=1,delta=0",
         "adamp:lr=0.25,weight_decay=0.5,wd_ratio=1,delta=1e9"}};
    for (int k = 0; k < 2; k++) {
        float w[2][6] = {{1, -1, 1, 1, -1, 1}, {1, -1, 1, 1, -1, 1}}, g[6];
        pare_optim *o[2];
        for (int j = 0; j < 2; j++) {
            pare_trained t = matrix(w[j], 3, 2);
            o[j] = make(rt, pairs[k][j], &t, 1);
        }
        for (int s = 0; s < (k ? 1 : 4); s++) { /* adamp: |u| is even in the first step only */
            for (int i = 0; i < 6; i++) g[i] = i % 2 ? -w[0][i - 1] : w[0][i + 1];
            for (int j = 0; j < 2; j++) step(o[j], g, g);
            assert_memory_equal(w[0], w[1], sizeof w[0]);
        }
        assert_int_equal(pare_optim_cut_steps(o[0], 0).n_rows, 0);
        assert_int_equal(pare_optim_cut_steps(o[1], 0).n_rows, k ? 1 : 4);
        for (int j = 0; j < 2; j++) pare_optim_free(o[j]);
    }
    pare_runtime_free(rt);
}

/* f = -sum over outputs of a.w / |w|: rows are scale invariant, and fire in nearly every step; the
 * same function of the transposed array does not fire by rows (as a whole it is invariant too). */
static pare_optim_cuts cuts_of(pare_runtime *rt, bool transposed) {
    enum { OUT = 4, IN = 32 };
    float *w = random_array(OUT * IN, 31), *a = random_array(OUT * IN, 32), g[OUT * IN];
    pare_trained t = transposed ? matrix(w, IN, OUT) : matrix(w, OUT, IN);
    pare_optim *o = make(rt, "adamp:lr=0.01", &t, 1);
    for (int s = 0; s < 100; s++) {
        for (int r = 0; r < OUT; r++) {
            double ww = 0, aw = 0;
            for (int c = 0; c < IN; c++) {
                int i = transposed ? c * OUT + r : r * IN + c;
                ww += (double)w[i] * (double)w[i];
                aw += (double)a[i] * (double)w[i];
            }
            for (int c = 0; c < IN; c++) {
                int i = transposed ? c * OUT + r : r * IN + c;
                g[i] = (float)(-(double)a[i] / sqrt(ww) + aw * (double)w[i] / (ww * sqrt(ww)));
            }
        }
        step(o, g, g);
    }
    pare_optim_cuts cuts = pare_optim_cut_steps(o, 0);
    pare_optim_free(o);
    free(w);
    free(a);
    return cuts;
}

static void rows_before_a_norm_fire(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_optim_cuts right = cuts_of(rt, false), turned = cuts_of(rt, true);
    assert_true(right.n_steps == 100 && right.n_rows >= 98 && right.n_whole <= 2);
    assert_true(turned.n_steps == 100 && turned.n_rows == 0 && turned.n_whole == 100);
    pare_runtime_free(rt);
}

/* A plane, w at 2 rad from a, 500 steps of 0.1: the norms of the authors' toy, and the identity
 * |w'|^2 = |w|^2 + lr^2 |p|^2 + 2 lr^2 sum_k beta^(t-k) |p_k|^2 (p: momenta, k < t) without
 * projection. */
static double norm_in_a_plane(pare_runtime *rt, const char *spec, double beta) {
    float w[2] = {1, 0}, g[2];
    const double a[2] = {cos(2), sin(2)};
    pare_trained t = matrix(w, 1, 2);
    pare_optim *o = make(rt, spec, &t, 1);
    double expected = 1, older = 0, ww = 1;
    for (int s = 0; s < 500; s++) {
        double norm = sqrt(ww), aw = a[0] * (double)w[0] + a[1] * (double)w[1], pp = 0;
        for (int i = 0; i < 2; i++) g[i] = (float)(-a[i] / norm + aw * (double)w[i] / (ww * norm));
        step(o, g, g);
        pare_optim_array m;
        assert_true(pare_optim_array_at(o, 0, &m));
        for (int i = 0; i < 2; i++) pp += (double)m.data[i] * (double)m.data[i];
        expected += 0.01 * (pp + 2 * older);
        older = beta * (older + pp);
        ww = (double)w[0] * (double)w[0] + (double)w[1] * (double)w[1];
    }
    pare_optim_free(o);
    if (strstr(spec, "delta=0")) assert_true(fabs(ww - expected) < 1e-5 * ww);
    return sqrt(ww);
}

static void norms_of_the_toy(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    static const struct {
        const char *spec;
        double beta, norm, within; /* as printed by the sheet's author */
    } cases[] = {{"sgdp:lr=0.1,momentum=0.9,delta=0", 0.9, 5.30, 0.005},
                 {"sgdp:lr=0.1,momentum=0.99,delta=0", 0.99, 52.8, 0.05},
                 {"sgdp:lr=0.1,momentum=0.9", 0.9, 1.26, 0.005},
                 {"sgdp:lr=0.1,momentum=0.99", 0.99, 1.29, 0.005}};
    for (size_t k = 0; k < 4; k++) {
        double norm = norm_in_a_plane(rt, cases[k].spec, cases[k].beta);
        if (fabs(norm - cases[k].norm) > cases[k].within)
            fail_msg("%s: found |w| = %g, expected %g", cases[k].spec, norm, cases[k].norm);
    }
    pare_runtime_free(rt);
}

/* f(w) = -a.w / |w| in three dimensions: ||w||^2 grows by lr^2 ||step||^2 alone where the step is
 * projected, and by more where it is not. */
static double norm_after(pare_runtime *rt, const char *spec, double *sum_of_steps) {
    float w[3] = {0.2f, 0.9f, -0.3f}, g[3];
    const double a[3] = {-0.4, 0.1, 0.9};
    pare_trained t = matrix(w, 1, 3);
    pare_optim *o = make(rt, spec, &t, 1);
    *sum_of_steps = 0;
    for (int s = 0; s < 200; s++) {
        double ww = 0, aw = 0, steps = 0;
        float before[3];
        for (int i = 0; i < 3; i++) ww += (double)w[i] * (double)w[i], aw += a[i] * (double)w[i];
        for (int i = 0; i < 3; i++)
            g[i] = (float)(-a[i] / sqrt(ww) + aw * (double)w[i] / (ww * sqrt(ww)));
        memcpy(before, w, sizeof w);
        step(o, g, g);
        for (int i = 0; i < 3; i++) steps += pow((double)w[i] - (double)before[i], 2);
        *sum_of_steps += steps;
    }
    pare_optim_free(o);
    double ww = 0;
    for (int i = 0; i < 3; i++) ww += (double)w[i] * (double)w[i];
    return ww;
}

static void norms_grow_by_the_steps_alone(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    double steps, begin = 0.2 * 0.2 + 0.9 * 0.9 + 0.3 * 0.3;
    double projected = norm_after(rt, "sgdp:lr=0.1,momentum=0.9", &steps);
    assert_true(fabs(projected - begin - steps) < 1e-5 * projected);
    double plain = norm_after(rt, "sgdp:lr=0.1,momentum=0.9,delta=0", &steps);
    assert_true(plain > begin + 5 * steps && plain > 2 * projected);
    pare_runtime_free(rt);
}

/* ---- AdaHessian ---- */

static void newton_steps_land(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[4] = {1, -2, 3, 0.5f}, g[4];
    const float a[4] = {2, 0.5f, 7, 100}, at[4] = {0.25f, 1, -1, 2}; /* a (w - at)^2 / 2 */
    pare_trained t = matrix(w, 2, 2);
    pare_optim *o = make(rt, "adahessian:lr=1,beta1=0,eps=0,block=1,clip=0", &t, 1);
    for (int i = 0; i < 4; i++) g[i] = a[i] * (w[i] - at[i]);
    step(o, g, a);
    for (int i = 0; i < 4; i++) assert_true(fabsf(w[i] - at[i]) < 1e-6f);
    pare_optim_free(o);
    /* a negative curvature counts by its size; power 0 is gradient descent */
    float v[2] = {1, 1}, gv[2] = {3, -3}, h[2] = {-3, 6};
    pare_trained u = vector(v, 2);
    o = make(rt, "adahessian:lr=1,beta1=0,eps=0,clip=0", &u, 1);
    step(o, gv, h);
    assert_true(fabsf(v[0]) < 1e-6f && fabsf(v[1] - 1.5f) < 1e-6f);
    pare_optim_free(o);
    float x[2] = {1, 1};
    u.w = x;
    o = make(rt, "adahessian:lr=0.1,beta1=0,eps=0,power=0,clip=0", &u, 1);
    step(o, gv, h);
    assert_true(fabsf(x[0] - 0.7f) < 1e-6f && fabsf(x[1] - 1.3f) < 1e-6f);
    pare_optim_free(o);
    pare_runtime_free(rt);
}

/* L -> c L changes nothing with eps 0; averaging does nothing to equal entries. */
static void scales_and_blocks(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[3][SIZE], g[SIZE], h[SIZE], even[SIZE];
    pare_optim *o[3];
    uint64_t seed = 4;
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < SIZE; i++) w[k][i] = (float)(i % 7) - 3;
        pare_trained t = matrix(w[k], ROWS, COLS);
        o[k] = make(rt, k < 2 ? "adahessian:eps=0" : "adahessian:eps=0,block=1", &t, 1);
    }
    for (int s = 0; s < 5; s++) {
        for (int i = 0; i < SIZE; i++) {
            even[i] = i % 2 ? -0.5f : 0.5f;
            g[i] = draw(&seed);
        }
        step(o[0], g, even);
        step(o[2], g, even);
        for (int i = 0; i < SIZE; i++) {
            g[i] *= 8;
            h[i] = 8 * even[i];
        }
        step(o[1], g, h);
    }
    assert_memory_equal(w[0], w[1], sizeof w[0]); /* by a power of two: exact */
    assert_memory_equal(w[0], w[2], sizeof w[0]);
    for (int k = 0; k < 3; k++) pare_optim_free(o[k]);
    pare_runtime_free(rt);
}

/* Near a saddle point steps are cut; between estimates none is asked for. */
static void long_steps_are_cut(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[4] = {0}, g[4] = {3, 4, 0, 0}, *gs = g;
    const float h[4] = {0};
    pare_trained t = matrix(w, 1, 4);
    pare_optim *o = make(rt, "adahessian:lr=0.5,update_each=2", &t, 1);
    assert_true(pare_optim_needs_hessian(o));
    step(o, g, h); /* g / eps, of root mean square 25000, becomes one of 1 */
    const float expected[4] = {-0.6f, -0.8f, 0, 0};
    for (int i = 0; i < 4; i++) assert_true(fabsf(w[i] - expected[i]) < 1e-6f);
    assert_false(pare_optim_needs_hessian(o));
    pare_optim_args a = pare_optim_args_default();
    a.g = &gs;
    assert_ok(pare_optim_step(o, &a, err));
    assert_true(pare_optim_needs_hessian(o));
    assert_fails(pare_optim_step(o, &a, err), PARE_ERR_ARG, "Hessian");
    pare_optim_free(o);
    pare_runtime_free(rt);
}

/* ---- what all have in common ---- */

enum { BIG_ROWS = 37, BIG_COLS = 1021, BIG = BIG_ROWS * BIG_COLS };

typedef struct outcome {
    float w[BIG];
    uint16_t bf16[BIG];
} outcome;

static float bf16_value(uint16_t b) {
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static void run_big(outcome *x, pare_runtime *rt, const char *spec, const uint64_t *mask,
                    bool mask_gradient) {
    uint64_t seed = 21;
    float *g = malloc(BIG * sizeof *g), *h = malloc(BIG * sizeof *h);
    for (size_t i = 0; i < BIG; i++) x->w[i] = draw(&seed);
    pare_trained t = matrix(x->w, BIG_ROWS, BIG_COLS);
    t.w_bf16 = x->bf16;
    pare_optim *o = make(rt, spec, &t, 1);
    for (int s = 0; s < 3; s++) {
        for (size_t i = 0; i < BIG; i++) g[i] = draw(&seed), h[i] = draw(&seed);
        pare_optim_args a = pare_optim_args_default();
        a.g = &g;
        a.hessian = (const float *const *)&h;
        a.mask = mask ? &mask : NULL;
        a.mask_gradient = mask_gradient;
        assert_ok(pare_optim_step(o, &a, err));
    }
    pare_optim_free(o);
    free(g);
    free(h);
}

/* Bits depend neither on the level nor on threads; masks zero; the copy is the nearest bf16. */
static void levels_threads_and_masks(void **state) {
    (void)state;
    outcome *first = malloc(sizeof *first), *x = malloc(sizeof *x);
    uint64_t *mask = calloc(BIG / 64 + 1, sizeof *mask);
    for (size_t i = 0; i < BIG; i += 1 + i % 3) mask[i / 64] |= (uint64_t)1 << i % 64;
    for (size_t k = 0; k < N_SPECS; k++)
        for (int masked = 0; masked < 3; masked++)
            for (int run = 0; run < 4; run++) {
                pare_runtime *rt =
                    test_runtime(1 + run % 3, run == 3 ? PARE_ISA_REF : PARE_ISA_AMX);
                run_big(run ? x : first, rt, all_specs[k], masked ? mask : NULL, masked == 2);
                pare_runtime_free(rt);
                if (run && memcmp(first, x, sizeof *x) != 0)
                    fail_msg("%s: other bits with mask %d in run %d", all_specs[k], masked, run);
                for (size_t i = 0; !run && i < BIG; i++) {
                    bool kept = !masked || (mask[i / 64] >> i % 64 & 1);
                    float w = first->w[i], error = fabsf(bf16_value(first->bf16[i]) - w);
                    assert_true(isfinite(w) && error <= fabsf(w) * 0x1p-8f);
                    if (!kept) assert_true(w == 0 && !signbit(w) && first->bf16[i] == 0);
                }
            }
    free(first);
    free(x);
    free(mask);
}

static void arguments_count(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    for (size_t k = 0; k < 2; k++) {
        const char *spec = k ? "adamw:lr=0.5,weight_decay=0.25" : "sgd:lr=0.5,weight_decay=0.25";
        float w[6] = {1, 2, 3, 4, 5, 6}, same[6] = {1, 2, 3, 4, 5, 6}, g[6], half[6];
        for (int i = 0; i < 6; i++) g[i] = (float)i - 2, half[i] = 2 * g[i];
        pare_trained a[] = {vector(w, 3), vector(w + 3, 3)},
                     b[] = {vector(same, 3), vector(same + 3, 3)};
        a[1].name = b[1].name = "c";
        b[1].no_decay = a[1].no_decay = true;
        a[0].lr_factor = 0.5;
        pare_optim *o = make(rt, spec, a, 2), *p = make(rt, spec, b, 2);
        float *ga[] = {g, NULL}, *gb[] = {half, NULL};
        pare_optim_args x = pare_optim_args_default(), y = x;
        x.g = ga;
        y.g = gb;
        y.g_scale = 0.5;
        y.lr = 0.25;
        assert_ok(pare_optim_step(o, &x, err));
        assert_ok(pare_optim_step(p, &y, err));
        assert_memory_equal(w, same, sizeof w);
        assert_true(w[3] == 4 && w[5] == 6); /* no gradient */
        ga[0] = NULL;
        ga[1] = (float[]){0, 0, 0};
        assert_ok(pare_optim_step(o, &x, err));
        assert_true(w[3] == 4 && w[5] == 6); /* no decay */
        pare_optim_free(o);
        pare_optim_free(p);
    }
    pare_runtime_free(rt);
}

/* Weights and state go into another optimizer in the middle: the same bits at the end. */
static void states_resume(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    for (size_t k = 0; k < N_SPECS; k++) {
        float *w = random_array(SIZE, 1), copy[SIZE];
        pare_trained t = matrix(w, ROWS, COLS), u = matrix(copy, ROWS, COLS);
        pare_optim *o = make(rt, all_specs[k], &t, 1), *p = make(rt, all_specs[k], &u, 1);
        for (int s = 0; s < 6; s++) {
            float *g = random_array(SIZE, (uint64_t)s + 7);
            if (s == 3) {
                memcpy(copy, w, sizeof copy);
                pare_optim_array from, to;
                size_t i = 0;
                for (; pare_optim_array_at(o, i, &from); i++) {
                    assert_true(pare_optim_array_at(p, i, &to) && to.n == from.n);
                    assert_string_equal(to.name, from.name);
                    assert_true(strncmp(to.name, "w.", 2) == 0 &&
                                strcmp(to.name + 2, to.moment) == 0 && to.tensor == 0);
                    memcpy(to.data, from.data, from.n * sizeof(float));
                }
                assert_false(pare_optim_array_at(p, i, &to));
                pare_optim_set_count(p, pare_optim_count(o));
            }
            step(o, g, g);
            if (s >= 3) step(p, g, g);
            free(g);
        }
        if (memcmp(copy, w, sizeof copy) != 0) fail_msg("%s: other bits", all_specs[k]);
        pare_optim_free(o);
        pare_optim_free(p);
        free(w);
    }
    pare_runtime_free(rt);
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    float w[4] = {1, 2, 3, 4}, g[4] = {1, 1, 1, 1}, *gs = g;
    pare_trained t = matrix(w, 2, 2), bad;
    pare_optim *o = NULL;
    static const char *const specs[][2] = {
        {"adamW2", "did you mean 'adamw'?"},   {"", "is not known"},
        {"adamw:lr=-1", "lr: found -1"},       {"adamw:lr=", "lr: found ''"},
        {"adamw:lr=1,lr=2", "found lr twice"}, {"adamw:bta2=1", "did you mean 'beta2'?"},
        {"adamw:beta2=1", "beta2: found 1"},   {"sgd:nesterov=true", "momentum above 0"},
        {"magnitude", "is not known"},         {"adamw:lr", "expected param=value"},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        assert_fails(pare_optim_create(&o, rt, specs[i][0], &t, 1, err), PARE_ERR_ARG, specs[i][1]);
        assert_null(o);
    }
    bad = t;
    bad.dims[1] = 0;
    assert_fails(pare_optim_create(&o, rt, "sgd", &bad, 1, err), PARE_ERR_ARG, "dimension 1 of 0");
    bad.dims[1] = SIZE_MAX;
    assert_fails(pare_optim_create(&o, rt, "sgd", &bad, 1, err), PARE_ERR_ARG, "w: found");
    bad = t;
    bad.w = NULL;
    assert_fails(pare_optim_create(&o, rt, "sgd", &bad, 1, err), PARE_ERR_ARG, "no weights");
    bad = t;
    bad.lr_factor = -1;
    assert_fails(pare_optim_create(&o, rt, "sgd", &bad, 1, err), PARE_ERR_ARG, "lr_factor -1");

    o = make(rt, " AdaHessian : lr=0.15 , block=8 ", &t, 1);
    assert_string_equal(pare_optim_text(o), "adahessian:block=8");
    assert_true(pare_optim_needs_hessian(o) && pare_optim_lr(o) == 0.15);
    pare_optim_args a = pare_optim_args_default();
    assert_fails(pare_optim_step(o, &a, err), PARE_ERR_ARG, "no gradients");
    a.g = &gs;
    assert_fails(pare_optim_step(o, &a, err), PARE_ERR_ARG, "Hessian");
    const float *h = g;
    a.hessian = &h;
    a.g_scale = NAN;
    assert_fails(pare_optim_step(o, &a, err), PARE_ERR_ARG, "g_scale");
    a.g_scale = 1;
    a.lr = -1;
    assert_fails(pare_optim_step(o, &a, err), PARE_ERR_ARG, "lr -1");
    assert_true(pare_optim_count(o) == 0 && w[0] == 1);
    pare_optim_free(o);
    pare_optim_free(NULL);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_pytorch),
        cmocka_unit_test(as_the_papers),
        cmocka_unit_test(masked_as_the_papers),
        cmocka_unit_test(adamp_is_adamw_unless_it_fires),
        cmocka_unit_test(projected_steps_are_orthogonal),
        cmocka_unit_test(one_row_vetoes),
        cmocka_unit_test(orthogonal_steps_stay),
        cmocka_unit_test(rows_before_a_norm_fire),
        cmocka_unit_test(norms_of_the_toy),
        cmocka_unit_test(norms_grow_by_the_steps_alone),
        cmocka_unit_test(newton_steps_land),
        cmocka_unit_test(scales_and_blocks),
        cmocka_unit_test(long_steps_are_cut),
        cmocka_unit_test(levels_threads_and_masks),
        cmocka_unit_test(arguments_count),
        cmocka_unit_test(states_resume),
        cmocka_unit_test(wrong_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
