/* Sparse training that leaves out what masks remove, beside the same training that multiplies
 * everything: the same losses and the same weights, to the bit, for masks that stay, that move and
 * that come back; and the norm of a gradient counts what is wanted of it. */
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "io/json.h"
#include "kernels/tile.h"
#include "pare/sparsity.h"
#include "train/step.h"

enum { IDS = 47, N = 111, STEPS = 9 };

typedef struct training {
    pare_train_weights *w;
    pare_trained *trained; /* [n] */
    size_t *tensor;        /* of the weights */
    float **grads;
    size_t n;
    pare_step *step;
    pare_pruner *pruner;
    pare_optim *optim;
    int32_t ids[N + 1];
} training;

static void begin(training *t, pare_runtime *rt, const char *spec) {
    const char *source = getenv("PARE_SOURCE");
    char path[1200];
    pare_json j;
    *t = (training){0};
    snprintf(path, sizeof path, "%s/tests/fixtures/models/llama", source ? source : ".");
    assert_ok(pare_train_weights_open(&t->w, rt, path, true, err));
    snprintf(path + strlen(path), 20, "/reference.json");
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    for (int i = 0; i <= N; i++) {
        int64_t id;
        snprintf(path, sizeof path, "ids.%d", i % IDS);
        assert_ok(pare_json_int(&j, path, PARE_REQUIRED, 0, 1 << 20, &id, err));
        t->ids[i] = (int32_t)id;
    }
    pare_json_free(&j);
    if (strstr(spec, "_ste:")) assert_ok(pare_train_weights_split(t->w, NULL, err));
    t->trained = pare_calloc(t->w->n, sizeof *t->trained);
    t->tensor = pare_calloc(t->w->n, sizeof *t->tensor);
    t->grads = pare_calloc(t->w->n, sizeof *t->grads);
    for (size_t i = 0; i < t->w->n; i++) {
        const pare_train_tensor *x = &t->w->tensors[i];
        if (!x->grad) continue;
        t->trained[t->n] = (pare_trained){.name = x->name,
                                          .dims = {x->matrix ? x->rows : x->cols, x->cols},
                                          .n_dims = x->matrix ? 2 : 1,
                                          .w = x->w,
                                          .w_bf16 = x->half,
                                          .w_forward = x->forward,
                                          .role = x->linear ? PARE_ROLE_LINEAR : PARE_ROLE_OTHER};
        t->grads[t->n] = x->grad;
        t->tensor[t->n++] = i;
    }
    pare_step_options o = {.n_tokens = N, .n_spans = 1, .compute = PARE_COMPUTE_FAST};
    assert_ok(pare_step_create(&t->step, t->w, &o, err));
    assert_ok(pare_pruner_create(&t->pruner, rt, spec, t->trained, t->n, STEPS, err));
    assert_ok(pare_optim_create(&t->optim, rt, "adamw:lr=1e-2", t->trained, t->n, err));
}

static void end(training *t) {
    pare_optim_free(t->optim);
    pare_pruner_free(t->pruner);
    pare_step_free(t->step);
    pare_free(t->grads);
    pare_free(t->tensor);
    pare_free(t->trained);
    pare_train_weights_free(t->w);
}

/* The norm of what counts, as its definition has it. */
static double norm_of(const training *t) {
    double sum = 0;
    for (size_t i = 0; i < t->w->n; i++) {
        const pare_train_tensor *x = &t->w->tensors[i];
        for (size_t k = 0; x->grad && !x->fresh && k < x->rows * x->cols; k++)
            if (!x->kept || x->kept[k / 64] >> k % 64 & 1)
                sum += (double)x->grad[k] * (double)x->grad[k];
    }
    return sqrt(sum);
}

/* A step in two halves that are added up; *left_out: operations that were. */
static double run_step(training *t, bool leave_out, double *left_out) {
    const size_t lengths[2] = {64, 47};
    double loss = 0, nll;
    assert_ok(pare_pruner_pre_forward(t->pruner, err));
    bool sparse = leave_out && !pare_pruner_needs_dense_gradient(t->pruner);
    for (size_t k = 0; k < t->n; k++)
        assert_ok(pare_train_weights_mask(t->w, t->tensor[k],
                                          leave_out ? pare_pruner_forward_mask(t->pruner, k) : NULL,
                                          sparse ? pare_pruner_mask(t->pruner, k) : NULL, err));
    *left_out = pare_train_weights_left_out(t->w);
    pare_train_weights_clear(t->w);
    for (size_t i = 0, at = 0; i < 2; at += lengths[i++]) {
        pare_batch b = {t->ids + at, t->ids + at + 1, &lengths[i], lengths[i], 1};
        assert_ok(pare_step_run(t->step, &b, true, 1.0f / N, &nll, err));
        loss += nll;
    }
    double norm = norm_of(t);
    assert_float_equal(pare_train_grad_norm(t->w), norm, 1e-12 * norm);
    pare_optim_args a = pare_optim_args_default();
    pare_stepper s = pare_optim_stepper(t->optim);
    a.g = t->grads;
    assert_ok(pare_pruner_update(t->pruner, &s, &a, err));
    return loss;
}

static const struct {
    const char *spec;
    bool gradient; /* of pruned weights is left out */
} cases[] = {
    {"static_sparse:sparsity=0.8,type=block_16x16", true},
    {"static_sparse:sparsity=0.98", true},
    {"static_sparse:sparsity=0.9,type=channel_out", true},
    {"static_sparse:sparsity=0.9,type=block_4x4,mask_at_init=false", true},
    {"set:sparsity=0.8,type=block_8x8,every=2,from=1,until=8", true},
    {"rigl:sparsity=0.8,type=block_16x16,every=3,from=1,until=8,drop=0.5", true},
    {"magnitude:sparsity=0.9,type=block_8x8,every=1,from=0,until=6", false},
    {"magnitude:sparsity=0.9,type=block_8x8,every=1,from=0,until=6,sparse_grads=true", true},
    {"acdc:sparsity=0.8,type=block_8x8,dense_until=1,sparse_from=8,sparse_steps=2,dense_steps=2",
     false},
    {"magnitude_ste:sparsity=0.9,type=block_8x8,schedule=none", false},
    {"magnitude_ste:sparsity=2:4,schedule=none", false},
    {"static_sparse:sparsity=2:4", true},
    {"rigl:sparsity=0.8,every=3,from=1,until=8,drop=0.5", true}};

static void the_same_training(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        training dense, sparse;
        pare_runtime *rt[2] = {test_runtime(1, pare_isa_best()), test_runtime(3, pare_isa_best())};
        begin(&dense, rt[0], cases[c].spec);
        begin(&sparse, rt[1], cases[c].spec);
        double most = 0, least = HUGE_VAL, nothing;
        for (int i = 0; i < STEPS; i++) {
            double left_out, want = run_step(&dense, false, &nothing),
                             got = run_step(&sparse, true, &left_out);
            if (got != want)
                fail_msg("%s: step %d: loss %.17g, expected %.17g", cases[c].spec, i, got, want);
            assert_true(nothing == 0);
            most = fmax(most, left_out);
            least = fmin(least, left_out);
        }
        const pare_tile_kernels *tiles = pare_tile_kernels_get(pare_isa_best());
        bool spread = strstr(cases[c].spec, "2:4") ||
                      strncmp(cases[c].spec, "rigl:sparsity=0.8,every", 23) == 0;
        if (!tiles->bf16 || (tiles->bf16_pairs && !spread)) assert_true(most > 0);
        if (strncmp(cases[c].spec, "acdc", 4) == 0) assert_true(least == 0);
        for (size_t k = 0; k < dense.n; k++) {
            const pare_train_tensor *a = &dense.w->tensors[dense.tensor[k]],
                                    *b = &sparse.w->tensors[sparse.tensor[k]];
            if (memcmp(a->w, b->w, a->rows * a->cols * sizeof *a->w) != 0)
                fail_msg("%s: %s: other weights", cases[c].spec, a->name);
            if (!cases[c].gradient) assert_null(b->kept);
        }
        end(&dense);
        end(&sparse);
        pare_runtime_free(rt[0]);
        pare_runtime_free(rt[1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
