/* The loss of prefix tuning on the fixtures of all architectures: L_q beside the search's, its
 * gradient beside differences of the error with codes held (CushionCache's sheet, check 5), the
 * trap of the straight-through estimator, threads, batches. */
#include "support/model_files.h"
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/act.h"
#include "model/prefix.h"
#include "pipeline/cushion_eval.h"
#include "train/prefix_loss.h"

enum { M = 3, N = 20, TEXTS = 2 };

static const char *const fixtures[] = {"llama", "qwen3", "gemma3", "gpt2", "opt"};
enum { N_FIXTURES = sizeof fixtures / sizeof fixtures[0] };

static pare_train_weights *behind_prefix(pare_runtime *rt, const char *folder, const int32_t *ids) {
    pare_model *m;
    pare_train_weights *w;
    assert_ok(pare_model_load(&m, rt, folder, err));
    assert_ok(pare_model_set_prefix_ids(m, ids, M, err));
    assert_ok(pare_train_weights_of_prefix(&w, m, err));
    return w;
}

static pare_prefix_loss_options options_of(int site, bool per_token, bool mean) {
    return (pare_prefix_loss_options){
        .scheme = {.granularity = per_token ? PARE_ACT_PER_TOKEN : PARE_ACT_PER_TENSOR_DYNAMIC,
                   .bits = 4},
        .outputs = site != 1,
        .inputs = site != 0,
        .lambda = 1,
        .mean = mean,
        .n = N,
        .n_texts = TEXTS,
        .compute = PARE_COMPUTE_EXACT};
}

/* What the search finds for the same prefix, text and tensors. */
static void error_of_the_search(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t k = 0; k < N_FIXTURES; k++) {
        const char *folder = fixture_path(fixtures[k]);
        int32_t ids[M + TEXTS * N];
        fixture_ids(ids, M + TEXTS * N, fixtures[k]);
        pare_train_weights *w = behind_prefix(rt, folder, ids);
        pare_model *m;
        assert_ok(pare_model_load(&m, rt, folder, err));
        for (int way = 0; way < 6; way++) {
            const pare_prefix_loss_options o = options_of(way % 3, way >= 3, false);
            const pare_cushion_eval_options eo = {.scheme = o.scheme,
                                                  .site = (pare_cushion_site)(way % 3),
                                                  .compute = PARE_COMPUTE_EXACT,
                                                  .max_prefix = M,
                                                  .max_text = N,
                                                  .capacity = 1};
            pare_cushion_eval *e;
            pare_prefix_loss *l;
            pare_prefix_losses got, with;
            double want = 0, lq;
            assert_ok(pare_cushion_eval_open(&e, m, &eo, err));
            assert_ok(pare_cushion_eval_prefix(e, ids, M, err));
            for (int t = 0; t < TEXTS; t++) {
                pare_cushion_eval_begin(e, NULL, 1, ids + M + t * N, N);
                for (size_t b = 0; b < m->config.n_layers; b++) {
                    assert_ok(pare_cushion_eval_block(e, &lq, err));
                    want += lq / TEXTS;
                }
            }
            assert_ok(pare_prefix_loss_create(&l, w, &o, err));
            assert_ok(pare_prefix_loss_run(l, ids + M, TEXTS, false, &got, err));
            if (!(fabs(got.error - want) <= 1e-3 * want)) /* a value may fall on another code */
                fail_msg("%s, way %d: found %g, expected %g", fixtures[k], way, got.error, want);
            pare_train_weights_clear(w);
            assert_ok(pare_prefix_loss_run(l, ids + M, TEXTS, true, &with, err));
            assert_true(with.error == got.error && with.pred == got.pred);
            pare_prefix_loss_free(l);
            pare_cushion_eval_close(e);
        }
        pare_model_free(m);
        pare_train_weights_free(w);
    }
    pare_runtime_free(rt);
}

/* --- the gradient --- */

/* A pass that keeps every X, and compares it with codes that were kept before. */
typedef struct codes {
    pare_prefix_loss_options o;
    float *held;                /* q(X) of all X, one after the other */
    size_t at, capacity, width; /* width: values of a token in a block */
    bool keep;
    double sum; /* of (X - held)^2, weighted as the loss does */
} codes;

static void meet(codes *c, const float *x, size_t ldx, size_t n, size_t in) {
    float row[4096];
    assert_true(in <= 4096 && c->at + n * in <= c->capacity);
    for (size_t t = 0; t < n / N; t++) {
        pare_act_range all = pare_act_range_of(PARE_ISA_REF, x + t * N * ldx, ldx, N, in);
        pare_act_grid grid = pare_act_grid_of(&c->o.scheme, all);
        for (size_t i = t * N; i < (t + 1) * N; i++) {
            float *held = c->held + c->at + i * in;
            const float *from = x + i * ldx;
            bool own = c->o.scheme.granularity == PARE_ACT_PER_TOKEN;
            pare_act_quantize_rows(&c->o.scheme, own ? NULL : &grid, PARE_ISA_REF, row, in, from,
                                   in, 1, in);
            if (c->keep) memcpy(held, row, in * sizeof *row);
            double sum = 0;
            for (size_t j = 0; j < in; j++)
                sum += ((double)from[j] - (double)held[j]) * ((double)from[j] - (double)held[j]);
            c->sum += sum / (double)(n / N) / (c->o.mean ? (double)(N * c->width) : 1.0);
        }
    }
    c->at += n * in;
}

static void meet_output(void *arg, pare_fwd *f, size_t layer, float *h, size_t n) {
    codes *c = arg;
    (void)layer;
    if (f->w->id == 0 && !pare_fwd_planning(f)) meet(c, h, c->o.n_texts, n, c->o.n_texts);
}

static bool meet_input(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                       const float *x, size_t ldx, size_t n, size_t in) {
    (void)outs, (void)n_outs;
    if (f->w->id == 0 && !pare_fwd_planning(f)) meet(arg, x, ldx, n, in);
    return true;
}

static double error_at(codes *c, pare_step *s, const pare_batch *b, bool keep) {
    double nll;
    c->at = 0;
    c->sum = 0;
    c->keep = keep;
    assert_ok(pare_step_run(s, b, false, 0, &nll, err));
    return c->sum;
}

static float *gradient_of(pare_train_weights *w, const pare_prefix_loss_options *o,
                          const int32_t *ids, size_t n_values) {
    pare_prefix_loss *l;
    pare_prefix_losses losses;
    float *all = pare_calloc(n_values, sizeof *all), *to = all;
    assert_ok(pare_prefix_loss_create(&l, w, o, err));
    pare_train_weights_clear(w);
    assert_ok(pare_prefix_loss_run(l, ids, TEXTS, true, &losses, err));
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        assert_false(t->fresh);
        memcpy(to, t->grad, t->rows * t->cols * sizeof *to);
        to += t->rows * t->cols;
    }
    pare_prefix_loss_free(l);
    return all;
}

static void move(pare_train_weights *w, const float *along, double step) {
    for (size_t i = 0; i < w->n; i++)
        for (size_t j = 0; j < w->tensors[i].rows * w->tensors[i].cols; j++)
            w->tensors[i].w[j] += (float)(step * (double)*along++);
}

/* Along its own gradient the error with codes held changes by the gradient's norm. */
static void gradient_of_held_codes(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t k = 0; k < N_FIXTURES; k++) {
        const char *folder = fixture_path(fixtures[k]);
        int32_t ids[M + TEXTS * N], targets[TEXTS * N];
        const size_t lengths[TEXTS] = {N, N};
        fixture_ids(ids, M + TEXTS * N, fixtures[k]);
        for (size_t i = 0; i < TEXTS * N; i++) targets[i] = -1;
        targets[0] = 0;
        const pare_batch b = {ids + M, targets, lengths, TEXTS * N, TEXTS};
        pare_train_weights *w = behind_prefix(rt, folder, ids);
        const size_t dim = w->model->config.dim;
        size_t n_values = 0;
        for (size_t i = 0; i < w->n; i++) n_values += w->tensors[i].rows * w->tensors[i].cols;
        for (int way = 0; way < 6; way++) {
            pare_prefix_loss_options o = options_of(way % 3, way >= 3, way % 2);
            o.lambda = 0;
            float *plain = gradient_of(w, &o, ids + M, n_values);
            o.lambda = way % 2 ? 100 : 1;
            float *both = gradient_of(w, &o, ids + M, n_values);
            double norm = 0;
            for (size_t i = 0; i < n_values; i++) {
                both[i] = (both[i] - plain[i]) / (float)o.lambda;
                norm += (double)both[i] * (double)both[i];
            }
            norm = sqrt(norm);
            assert_true(norm > 0); /* the trap: with a straight-through estimator it is 0 */

            codes c = {.o = o, .capacity = 1 << 22};
            c.o.n_texts = dim; /* for meet_output */
            c.held = pare_calloc(c.capacity, sizeof *c.held);
            pare_step *s;
            const pare_step_options so = {.n_tokens = TEXTS * N,
                                          .n_spans = TEXTS,
                                          .compute = PARE_COMPUTE_EXACT,
                                          .on_output = o.outputs ? meet_output : NULL,
                                          .on_output_arg = &c,
                                          .probe = o.inputs ? meet_input : NULL,
                                          .probe_arg = &c};
            assert_ok(pare_step_create(&s, w, &so, err));
            c.width = 1;
            error_at(&c, s, &b, true);
            c.width = c.at / (TEXTS * N) / w->model->config.n_layers;
            const double at = error_at(&c, s, &b, true), h = 2e-3;
            assert_true(at > 0);
            double side[2];
            move(w, both, h / norm);
            side[0] = error_at(&c, s, &b, false);
            move(w, both, -2 * h / norm);
            side[1] = error_at(&c, s, &b, false);
            move(w, both, h / norm);
            double slope = (side[0] - side[1]) / (2 * h);
            if (!(fabs(slope - norm) < 0.02 * norm))
                fail_msg("%s, way %d: slope %g, expected %g", fixtures[k], way, slope, norm);
            pare_step_free(s);
            pare_free(c.held);
            pare_free(plain);
            pare_free(both);
        }
        pare_train_weights_free(w);
    }
    pare_runtime_free(rt);
}

/* The same bits with one thread and three; a batch is the mean of its texts. */
static void threads_and_batches(void **state) {
    (void)state;
    const char *folder = fixture_path("llama");
    int32_t ids[M + TEXTS * N];
    pare_prefix_losses first = {0}, got, one;
    float *kept = NULL;
    size_t n = 0;
    fixture_ids(ids, M + TEXTS * N, "llama");
    for (int threads = 1; threads <= 3; threads += 2) {
        pare_runtime *rt = test_runtime(threads, pare_isa_best());
        pare_train_weights *w = behind_prefix(rt, folder, ids);
        pare_prefix_loss_options o = options_of(2, false, true);
        pare_prefix_loss *l;
        n = 2 * M * w->model->config.n_kv_heads * w->model->config.head_dim *
            w->model->config.n_layers;
        float *g = gradient_of(w, &o, ids + M, n);
        assert_ok(pare_prefix_loss_create(&l, w, &o, err));
        assert_ok(pare_prefix_loss_run(l, ids + M, TEXTS, false, &got, err));
        double pred = 0, error = 0;
        for (int t = 0; t < TEXTS; t++) {
            assert_ok(pare_prefix_loss_run(l, ids + M + t * N, 1, false, &one, err));
            pred += one.pred / TEXTS;
            error += one.error / TEXTS;
        }
        assert_float_equal(got.pred, pred, 1e-6 * pred);
        assert_float_equal(got.error, error, 1e-6 * error);
        assert_fails(pare_prefix_loss_run(l, ids, TEXTS + 1, false, &one, err), PARE_ERR_ARG,
                     "at most");
        pare_prefix_loss_free(l);
        if (threads == 1) {
            first = got;
            kept = g;
        } else {
            assert_true(first.pred == got.pred && first.error == got.error);
            assert_memory_equal(kept, g, n * sizeof *g);
            pare_free(g);
        }
        pare_train_weights_free(w);
        pare_runtime_free(rt);
    }
    pare_free(kept);
}

/* Quantized activations in the forward pass: the loss is that of a session of the quantized model,
 * and gradients pass through them. */
static void behind_quantized_activations(void **state) {
    (void)state;
    const char *folder = fixture_path("llama");
    int32_t ids[M + N];
    float logprobs[N];
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    fixture_ids(ids, M + N, "llama");
    for (int g = 0; g < 3; g++) {
        const pare_act_scheme scheme = {.granularity = (pare_act_granularity)g, .bits = 5};
        pare_train_weights *w = behind_prefix(rt, folder, ids);
        pare_prefix_loss_options o = options_of(0, false, true);
        pare_prefix_loss *l;
        pare_prefix_losses plain, got;
        pare_act_sites *a;
        pare_session *session;
        double want = 0, norm;
        assert_ok(pare_prefix_loss_create(&l, w, &o, err));
        assert_ok(pare_prefix_loss_run(l, ids + M, 1, false, &plain, err));
        pare_prefix_loss_free(l);
        assert_ok(pare_act_sites_create(&a, w->model, &scheme, err));
        pare_model_attach_act(w->model, a);
        if (g == PARE_ACT_PER_TENSOR_STATIC)
            assert_ok(pare_act_calibrate(w->model, ids + M, 1, N, PARE_COMPUTE_EXACT, err));
        const pare_session_options so = {.n_ctx = N, .compute = PARE_COMPUTE_EXACT};
        assert_ok(pare_session_create(&session, w->model, &so, err));
        assert_ok(pare_session_logprobs(session, ids + M, N, 0, logprobs, err));
        for (int i = 0; i + 1 < N; i++) want -= (double)logprobs[i] / (N - 1);
        pare_session_free(session);
        assert_ok(pare_prefix_loss_create(&l, w, &o, err));
        pare_train_weights_clear(w);
        assert_ok(pare_prefix_loss_run(l, ids + M, 1, true, &got, err));
        assert_true(got.pred != plain.pred);
        assert_float_equal(got.pred, want, 1e-3 * want);
        norm = pare_train_grad_norm(w);
        assert_true(norm > 0 && isfinite(norm));
        pare_prefix_loss_free(l);
        pare_train_weights_free(w);
    }
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_of_the_search), cmocka_unit_test(gradient_of_held_codes),
        cmocka_unit_test(threads_and_batches), cmocka_unit_test(behind_quantized_activations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
