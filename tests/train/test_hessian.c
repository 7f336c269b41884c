/* The estimate of the Hessian's diagonal: exact on quadratics, right in the mean, beside PyTorch's
 * double backward in f64 on a small Llama (hessian.json, made by scripts/fixtures/make_models.py),
 * whose H is symmetric; beside the closed form of softmax regression; trainings with adahessian. */
#include "support/toy_training.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "io/json.h"
#include "train/hessian.h"
#include "train/step.h"

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

enum { N = 47, DIM = 12, SIDE = 150 };

/* ---- quadratics: g = A w ---- */

typedef struct quadratic {
    float a[SIDE][SIDE], w[SIDE], grad[SIDE];
    pare_train_tensor t[2]; /* the first DIM weights, of another size, and the rest */
    pare_model model;
    pare_train_weights weights;
} quadratic;

static float draw(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*s >> 32) * 0x1p-31f;
}

static void make_quadratic(quadratic *q, pare_runtime *rt, float beside) {
    uint64_t seed = 3;
    memset(q, 0, sizeof *q);
    for (size_t i = 0; i < SIDE; i++)
        for (size_t j = 0; j <= i; j++)
            q->a[i][j] = q->a[j][i] = (i == j ? 4 : beside) * draw(&seed);
    for (size_t i = 0; i < SIDE; i++) q->w[i] = (i < DIM ? 10 : 0.1f) * draw(&seed);
    q->t[0] = (pare_train_tensor){.name = "a", .rows = 1, .cols = DIM, .w = q->w, .grad = q->grad};
    q->t[1] = (pare_train_tensor){
        .name = "b", .rows = 1, .cols = SIDE - DIM, .w = q->w + DIM, .grad = q->grad + DIM};
    q->model.rt = rt;
    q->weights = (pare_train_weights){.model = &q->model, .tensors = q->t, .n = 2};
}

static void estimate_of(quadratic *q, pare_hessian *h, uint64_t step, int n_samples,
                        const uint64_t *const *masks) {
    pare_hessian_begin(h, 7, step, masks);
    for (int k = 0; k < 2 * n_samples; k++) {
        int sign = k % 2 ? -1 : 1;
        pare_hessian_move(h, sign);
        for (size_t i = 0; i < SIDE; i++) {
            double sum = 0;
            for (size_t j = 0; j < SIDE; j++) sum += (double)q->a[i][j] * (double)q->w[j];
            q->grad[i] = (float)sum;
        }
        pare_hessian_take(h, sign);
    }
    pare_hessian_move(h, 0);
}

static void estimate(quadratic *q, pare_hessian *h, uint64_t step, const uint64_t *const *masks) {
    estimate_of(q, h, step, 1, masks);
}

static float value_of(const pare_hessian *h, size_t i) {
    return i < DIM ? pare_hessian_values(h)[0][i] : pare_hessian_values(h)[1][i - DIM];
}

static void quadratics(void **state) {
    (void)state;
    quadratic *q = malloc(sizeof *q);
    float before[SIDE], first[SIDE];
    for (int threads = 1; threads <= 3; threads += 2) {
        pare_runtime *rt = test_runtime(threads, pare_isa_best());
        pare_hessian *h;
        make_quadratic(q, rt, 0); /* a diagonal: one draw says all of it */
        memcpy(before, q->w, sizeof before);
        assert_ok(pare_hessian_create(&h, &q->weights, 1, err));
        estimate(q, h, 1, NULL);
        assert_memory_equal(q->w, before, sizeof before);
        for (size_t i = 0; i < SIDE; i++) { /* gradients are rounded to f32 and 1e-3 of w apart */
            assert_float_equal(value_of(h, i), q->a[i][i], 2e-3);
            if (threads == 1) first[i] = value_of(h, i);
            assert_true(value_of(h, i) == first[i]);
        }
        const uint64_t mask[3] = {0x5555555555555555u, 0, ~(uint64_t)0};
        const uint64_t *const masks[2] = {NULL, mask};
        estimate(q, h, 1, masks);
        for (size_t i = DIM; i < SIDE; i++) {
            bool kept = mask[(i - DIM) / 64] >> (i - DIM) % 64 & 1;
            assert_float_equal(value_of(h, i), kept ? q->a[i][i] : 0, 2e-3);
        }
        pare_hessian_free(h);
        pare_runtime_free(rt);
    }
    /* any matrix: the mean of many draws; s_j / s_i weighs what stands beside */
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    pare_hessian *h;
    enum { DRAWS = 4000 };
    double mean[SIDE] = {0};
    make_quadratic(q, rt, 0.2f);
    assert_ok(pare_hessian_create(&h, &q->weights, 1, err));
    for (uint64_t k = 0; k < DRAWS; k++) {
        estimate(q, h, k, NULL);
        for (size_t i = 0; i < SIDE; i++) mean[i] += (double)value_of(h, i) / DRAWS;
    }
    double s[2] = {0};
    for (size_t i = 0; i < SIDE; i++) s[i >= DIM] += (double)q->w[i] * (double)q->w[i];
    s[0] = sqrt(s[0] / DIM);
    s[1] = sqrt(s[1] / (SIDE - DIM));
    for (size_t i = 0; i < SIDE; i++) {
        double variance = 0;
        for (size_t j = 0; j < SIDE; j++) {
            double beside = (double)q->a[i][j] * s[j >= DIM] / s[i >= DIM];
            if (j != i) variance += beside * beside;
        }
        assert_float_equal(mean[i], (double)q->a[i][i], 5 * sqrt(variance / DRAWS) + 2e-3);
    }
    pare_hessian_free(h);
    pare_runtime_free(rt);
    free(q);
}

/* Of the exact diagonal: the mean square of what an estimate is off by, over weights and steps, is
 * the n_samples-th part, and its first sample is that of an estimate of one. */
static void samples_are_averaged(void **state) {
    (void)state;
    enum { STEPS = 60 };
    static const int n_samples[] = {1, 4, 16};
    quadratic *q = malloc(sizeof *q);
    double off[3] = {0}, expected = 0;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    make_quadratic(q, rt, 0.2f);
    for (size_t i = DIM; i < SIDE; i++) q->w[i] *= 50; /* of about one size: nothing weighs more */
    for (size_t k = 0; k < 3; k++) {
        pare_hessian *h;
        assert_ok(pare_hessian_create(&h, &q->weights, n_samples[k], err));
        for (uint64_t step = 0; step < STEPS; step++) {
            estimate_of(q, h, step, n_samples[k], NULL);
            for (size_t i = 0; i < SIDE; i++)
                off[k] += pow((double)value_of(h, i) - (double)q->a[i][i], 2) / STEPS;
        }
        pare_hessian_free(h);
    }
    double s[2] = {0};
    for (size_t i = 0; i < SIDE; i++) s[i >= DIM] += (double)q->w[i] * (double)q->w[i];
    s[0] = sqrt(s[0] / DIM);
    s[1] = sqrt(s[1] / (SIDE - DIM));
    for (size_t i = 0; i < SIDE; i++)
        for (size_t j = 0; j < SIDE; j++)
            if (j != i) expected += pow((double)q->a[i][j] * s[j >= DIM] / s[i >= DIM], 2);
    for (size_t k = 0; k < 3; k++) { /* 60 times 150 values: their mean square is within a tenth */
        double ratio = off[k] * n_samples[k] / expected;
        if (!(ratio > 0.85 && ratio < 1.15))
            fail_msg("%d samples: found %g of the variance of one draw, expected 1 / %d",
                     n_samples[k], off[k] / expected, n_samples[k]);
    }
    pare_runtime_free(rt);
    free(q);
}

/* ---- softmax regression ---- */

enum { CLASSES = 4, FEATURES = 6, SAMPLES = 9 };

/* p[CLASSES] of a sample under w[CLASSES][FEATURES]. */
static void probabilities(double *p, const float *w, const double *x) {
    double sum = 0;
    for (size_t c = 0; c < CLASSES; c++) {
        p[c] = 0;
        for (size_t f = 0; f < FEATURES; f++) p[c] += (double)w[c * FEATURES + f] * x[f];
        sum += p[c] = exp(p[c]);
    }
    for (size_t c = 0; c < CLASSES; c++) p[c] /= sum;
}

/* H = mean over samples of (diag(p) - p p^T) (x) x x^T: one draw beside z (.) H z, as the scale of
 * the only tensor cancels. */
static void softmax_regression(void **state) {
    (void)state;
    enum { W = CLASSES * FEATURES };
    float w[W], grad[W];
    double x[SAMPLES][FEATURES], p[CLASSES], h[W][W] = {{0}};
    uint64_t seed = 11;
    for (size_t i = 0; i < W; i++) w[i] = draw(&seed);
    for (size_t i = 0; i < SAMPLES; i++)
        for (size_t f = 0; f < FEATURES; f++) x[i][f] = (double)draw(&seed);
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    pare_train_tensor t = {.name = "w", .rows = CLASSES, .cols = FEATURES, .w = w, .grad = grad};
    pare_model model = {.rt = rt};
    pare_train_weights weights = {.model = &model, .tensors = &t, .n = 1};
    pare_hessian *estimated;
    assert_ok(pare_hessian_create(&estimated, &weights, 1, err));
    for (size_t k = 0; k < SAMPLES; k++) {
        probabilities(p, w, x[k]);
        for (size_t i = 0; i < W; i++)
            for (size_t j = 0; j < W; j++) {
                size_t c = i / FEATURES, d = j / FEATURES;
                h[i][j] +=
                    p[c] * ((c == d) - p[d]) * x[k][i % FEATURES] * x[k][j % FEATURES] / SAMPLES;
            }
    }
    for (uint64_t step = 0; step < 5; step++) {
        pare_hessian_begin(estimated, 7, step, NULL);
        for (int sign = 1; sign >= -1; sign -= 2) {
            pare_hessian_move(estimated, sign);
            double g[W] = {0};
            for (size_t k = 0; k < SAMPLES; k++) { /* of class k % CLASSES */
                probabilities(p, w, x[k]);
                for (size_t i = 0; i < W; i++)
                    g[i] += (p[i / FEATURES] - (i / FEATURES == k % CLASSES)) * x[k][i % FEATURES] /
                            SAMPLES;
            }
            for (size_t i = 0; i < W; i++) grad[i] = (float)g[i];
            pare_hessian_take(estimated, sign);
        }
        pare_hessian_move(estimated, 0);
        for (size_t i = 0; i < W; i++) {
            double want = 0;
            for (size_t j = 0; j < W; j++)
                want += h[i][j] * (double)pare_hessian_sign(7, step, "w", j);
            want *= (double)pare_hessian_sign(7, step, "w", i);
            assert_float_equal(pare_hessian_values(estimated)[0][i], want, 3e-4);
        }
    }
    pare_hessian_free(estimated);
    pare_runtime_free(rt);
}

/* ---- a model ---- */

static char folder[1024];
static int32_t ids[N + 1];

static void open_fixture(pare_json *reference) {
    const char *source = getenv("PARE_SOURCE");
    char path[1200];
    pare_json j;
    snprintf(folder, sizeof folder, "%s/tests/fixtures/models/llama", source ? source : ".");
    snprintf(path, sizeof path, "%s/reference.json", folder);
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    for (int i = 0; i <= N; i++) {
        int64_t id;
        snprintf(path, sizeof path, "ids.%d", i);
        assert_ok(pare_json_int(&j, path, PARE_REQUIRED, 0, 1 << 20, &id, err));
        ids[i] = (int32_t)id;
    }
    pare_json_free(&j);
    snprintf(path, sizeof path, "%s/hessian.json", folder);
    assert_ok(pare_json_load(reference, path, PARE_JSON_CONFIG_MAX, 0, err));
}

static void gradient(pare_train_weights *w, pare_step *s) {
    const size_t lengths[1] = {N};
    pare_batch b = {ids, ids + 1, lengths, N, 1};
    double nll;
    pare_train_weights_clear(w);
    assert_ok(pare_step_run(s, &b, true, 1.0f / N, &nll, err));
}

/* The estimate of one draw. */
static void draw_at(pare_train_weights *w, pare_hessian *h, pare_step *s, uint64_t step,
                    const uint64_t *const *masks) {
    pare_hessian_begin(h, 5, step, masks);
    for (int sign = 1; sign >= -1; sign -= 2) {
        pare_hessian_move(h, sign);
        gradient(w, s);
        pare_hessian_take(h, sign);
    }
    pare_hessian_move(h, 0);
}

/* Measured: every tensor within 5.2e-4 of its norm. */
static void a_model_as_pytorch_has_it(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_json reference;
    pare_train_weights *w;
    pare_hessian *h;
    pare_step *s;
    open_fixture(&reference);
    assert_ok(pare_train_weights_open(&w, rt, folder, false, err));
    assert_ok(pare_hessian_create(&h, w, 1, err));
    pare_step_options o = {.n_tokens = N, .n_spans = 1, .compute = PARE_COMPUTE_EXACT};
    assert_ok(pare_step_create(&s, w, &o, err));
    draw_at(w, h, s, 3, NULL);
    double worst = 0;
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        json_t *entry = json_object_get(json_object_get(reference.root, "diagonal"), t->name);
        if (!entry) fail_msg("%s: PyTorch has none", t->name);
        double norm = json_number_value(json_array_get(entry, 0)),
               sum = json_number_value(json_array_get(entry, 1)), got = 0, squares = 0;
        for (size_t j = 0; j < t->rows * t->cols; j++) {
            double d = (double)pare_hessian_values(h)[i][j];
            got += d * cos((double)j);
            squares += d * d;
        }
        double off = fmax(fabs(sqrt(squares) - norm), fabs(got - sum)) / norm;
        worst = fmax(worst, off);
        if (!(off < 2e-3))
            fail_msg("%s: norm %g and sum %g, expected %g and %g", t->name, sqrt(squares), got,
                     norm, sum);
    }
    printf("  %zu tensors within %.1e of PyTorch's\n", w->n, worst);

    /* u (H v) = v (H u), u = s z: both are sums of s^2 z z' times an estimate */
    double sums[2], size = 0;
    for (int k = 0; k < 2; k++) {
        sums[k] = 0;
        draw_at(w, h, s, 3 + (uint64_t)k, NULL);
        for (size_t i = 0; i < w->n; i++) {
            const pare_train_tensor *t = &w->tensors[i];
            double squares = 0;
            for (size_t j = 0; j < t->rows * t->cols; j++)
                squares += (double)t->w[j] * (double)t->w[j] / (double)(t->rows * t->cols);
            for (size_t j = 0; j < t->rows * t->cols; j++) {
                double both = (double)pare_hessian_sign(5, 3, t->name, j) *
                              (double)pare_hessian_sign(5, 4, t->name, j);
                double term = fmax(squares, 1e-6) * (double)pare_hessian_values(h)[i][j];
                sums[k] += both * term;
                size += term * term / 2;
            }
        }
    }
    printf("  u (H v) and v (H u) differ by %.1e\n", fabs(sums[0] - sums[1]) / sqrt(size));
    if (!(fabs(sums[0] - sums[1]) <
          1e-3 * sqrt(size))) /* the rounding of f32 gradients: see above */
        fail_msg("u (H v) = %g, v (H u) = %g", sums[0], sums[1]);
    pare_step_free(s);
    pare_hessian_free(h);
    pare_train_weights_free(w);
    pare_json_free(&reference);
    pare_runtime_free(rt);
}

/* H is linear: where two draws u and v agree, the mean of H u and H v is H of what they have in
 * common, which is a draw with the other places masked. Measured: every tensor within 2.7e-4. */
static void it_is_linear(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_json reference;
    pare_train_weights *w;
    pare_hessian *h;
    pare_step *s;
    open_fixture(&reference);
    assert_ok(pare_train_weights_open(&w, rt, folder, false, err));
    assert_ok(pare_hessian_create(&h, w, 1, err));
    pare_step_options o = {.n_tokens = N, .n_spans = 1, .compute = PARE_COMPUTE_EXACT};
    assert_ok(pare_step_create(&s, w, &o, err));
    uint64_t **common = calloc(w->n, sizeof *common);
    float **mean = calloc(w->n, sizeof *mean);
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        common[i] = calloc(t->rows * t->cols / 64 + 1, sizeof **common);
        mean[i] = calloc(t->rows * t->cols, sizeof **mean);
        for (size_t j = 0; j < t->rows * t->cols; j++)
            if (pare_hessian_sign(5, 3, t->name, j) == pare_hessian_sign(5, 4, t->name, j))
                common[i][j / 64] |= (uint64_t)1 << j % 64;
    }
    for (uint64_t k = 3; k <= 4; k++) {
        draw_at(w, h, s, k, NULL);
        for (size_t i = 0; i < w->n; i++)
            for (size_t j = 0; j < w->tensors[i].rows * w->tensors[i].cols; j++)
                mean[i][j] += 0.5f * pare_hessian_values(h)[i][j];
    }
    draw_at(w, h, s, 3, (const uint64_t *const *)common);
    double worst = 0;
    for (size_t i = 0; i < w->n; i++) {
        double off = 0, size = 0;
        for (size_t j = 0; j < w->tensors[i].rows * w->tensors[i].cols; j++) {
            double d = (double)pare_hessian_values(h)[i][j];
            if (!(common[i][j / 64] >> j % 64 & 1)) {
                assert_true(d == 0);
                continue;
            }
            off += pow(d - (double)mean[i][j], 2);
            size += d * d;
        }
        worst = fmax(worst, sqrt(off / size));
        if (!(off < 1e-6 * size)) fail_msg("%s: off by %g", w->tensors[i].name, sqrt(off / size));
        free(common[i]);
        free(mean[i]);
    }
    printf("  %zu tensors linear within %.1e\n", w->n, worst);
    free(common);
    free(mean);
    pare_step_free(s);
    pare_hessian_free(h);
    pare_train_weights_free(w);
    pare_json_free(&reference);
    pare_runtime_free(rt);
}

/* ---- trainings ---- */

static void it_learns_and_goes_on(void **state) {
    (void)state;
    static const char *const sparse[] = {NULL, "rigl:sparsity=0.5,every=4",
                                         "magnitude_ste:sparsity=0.5"};
    pare_train_report r;
    char expected[65];
    for (size_t k = 0; k < 3; k++) {
        pare_train_options o = toy_options();
        o.optim = "adahessian:lr=0.1,eps=1e-3";
        o.steps = 40;
        o.sparsity = sparse[k];
        o.compute = PARE_COMPUTE_FAST; /* it is exact all the same */
        toy_clean();
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        if (!(r.val_loss < 4.5))
            fail_msg("%s: loss %g", o.sparsity ? o.sparsity : "dense", r.val_loss);
        snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
        toy_clean();
        o.stop_at = 13;
        assert_ok(toy_run(&r, &o, 3, NULL, err));
        o.stop_at = 0;
        o.micro_batch = 0;
        assert_ok(toy_run(&r, &o, 2, NULL, err));
        assert_string_equal(test_hash(toy.out), expected);
    }
    /* several samples: another run, which goes on as well */
    pare_train_options o = toy_options();
    o.optim = "adahessian:lr=0.1,eps=1e-3,n_samples=3,update_each=2";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    o.stop_at = 5;
    assert_ok(toy_run(&r, &o, 3, NULL, err));
    o.stop_at = 0;
    assert_ok(toy_run(&r, &o, 2, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    o = toy_options_from(toy.tokenizer); /* and of an adapter */
    o.adapter = "lora:rank=4";
    o.optim = "adahessian:lr=0.1,eps=1e-3";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_true(r.val_loss < r.first_val_loss);
    toy_clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quadratics),         cmocka_unit_test(samples_are_averaged),
        cmocka_unit_test(softmax_regression), cmocka_unit_test(a_model_as_pytorch_has_it),
        cmocka_unit_test(it_is_linear),       cmocka_unit_test(it_learns_and_goes_on)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
