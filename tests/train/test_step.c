/* Whole models: loss and gradients of every weight against those of PyTorch (gradients.json beside
 * the models, made by scripts/fixtures/make_models.py), recomputed and kept, on one thread and on
 * three, sequences together and apart. */
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "io/json.h"
#include "model/prefix.h"
#include "train/step.h"

enum { N = 47 };

static const char *const fixtures[] = {"llama", "llama-bias", "mistral", "qwen2",
                                       "qwen3", "gemma2",     "gemma3",  "gemma3-old",
                                       "gpt2",  "opt",        "opt-post"};
enum { N_FIXTURES = sizeof fixtures / sizeof fixtures[0] };

typedef struct fixture {
    char folder[1024];
    int32_t ids[N + 1];
    pare_json gradients;
} fixture;

static void open_fixture(fixture *x, const char *name) {
    const char *source = getenv("PARE_SOURCE");
    char path[1200];
    pare_json j;
    snprintf(x->folder, sizeof x->folder, "%s/tests/fixtures/models/%s", source ? source : ".",
             name);
    snprintf(path, sizeof path, "%s/reference.json", x->folder);
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    for (int i = 0; i <= N; i++) {
        int64_t id;
        snprintf(path, sizeof path, "ids.%d", i);
        assert_ok(pare_json_int(&j, path, PARE_REQUIRED, 0, 1 << 20, &id, err));
        x->ids[i] = (int32_t)id;
    }
    pare_json_free(&j);
    snprintf(path, sizeof path, "%s/gradients.json", x->folder);
    assert_ok(pare_json_load(&x->gradients, path, PARE_JSON_CONFIG_MAX, 0, err));
}

/* Loss of all ids and the gradient of its mean. */
static double run_step(pare_train_weights *w, const fixture *x, bool recompute,
                       const size_t *lengths, size_t n_spans) {
    pare_step *s;
    pare_step_options o = {
        .n_tokens = N, .n_spans = n_spans, .compute = PARE_COMPUTE_EXACT, .recompute = recompute};
    assert_ok(pare_step_create(&s, w, &o, err));
    pare_batch b = {x->ids, x->ids + 1, lengths, N, n_spans};
    double nll, only_loss;
    pare_train_weights_clear(w);
    assert_ok(pare_step_run(s, &b, false, 0, &only_loss, err));
    assert_ok(pare_step_run(s, &b, true, 1.0f / N, &nll, err));
    assert_true(nll == only_loss);
    pare_step_free(s);
    return nll / N;
}

static void gradients_agree_with_pytorch(void **state) {
    (void)state;
    const size_t whole[1] = {N};
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t k = 0; k < N_FIXTURES; k++) {
        fixture x;
        pare_train_weights *w;
        open_fixture(&x, fixtures[k]);
        assert_ok(pare_train_weights_open(&w, rt, x.folder, false, err));
        for (int recompute = 0; recompute < 2; recompute++) {
            double loss = run_step(w, &x, recompute, whole, 1), want;
            assert_ok(pare_json_double(&x.gradients, "loss", PARE_REQUIRED, 0, 1e9, &want, err));
            if (!(fabs(loss - want) < 1e-5 * want))
                fail_msg("%s: loss: found %.8g, expected %.8g", fixtures[k], loss, want);
            size_t n_seen = 0;
            double worst = 0, largest = 0;
            const char *key;
            json_t *each;
            json_object_foreach(json_object_get(x.gradients.root, "gradients"), key, each) largest =
                fmax(largest, json_number_value(json_array_get(each, 0)));
            for (size_t i = 0; i < w->n; i++) {
                const pare_train_tensor *t = &w->tensors[i];
                const char *name = pare_source_find(w->model->source, t->name)->name;
                json_t *entry =
                    json_object_get(json_object_get(x.gradients.root, "gradients"), name);
                if (!entry) fail_msg("%s: %s: PyTorch has no gradient", fixtures[k], name);
                n_seen++;
                double norm = json_number_value(json_array_get(entry, 0)),
                       sum = json_number_value(json_array_get(entry, 1)), got = 0, squares = 0;
                for (size_t j = 0; j < t->rows * t->cols; j++) {
                    double g = t->fresh ? 0 : (double)t->grad[j];
                    got += g * cos((double)j);
                    squares += g * g;
                }
                /* a bias of k moves all scores of a row alike: its gradient is zero but for noise
                 */
                double off =
                    fmax(fabs(sqrt(squares) - norm), fabs(got - sum)) / (norm + 1e-2 * largest);
                worst = fmax(worst, off);
                if (!(off < 1e-4))
                    fail_msg("%s: %s: norm %.7g and sum %.7g, expected %.7g and %.7g", fixtures[k],
                             name, sqrt(squares), got, norm, sum);
            }
            assert_int_equal(n_seen,
                             json_object_size(json_object_get(x.gradients.root, "gradients")));
            if (!recompute)
                printf("  %-10s %3zu gradients within %.1e of their norm\n", fixtures[k], n_seen,
                       worst);
        }
        pare_train_weights_free(w);
        pare_json_free(&x.gradients);
    }
    pare_runtime_free(rt);
}

/* All gradients one after the other; the caller frees. */
static float *collect(const pare_train_weights *w, size_t *n) {
    *n = 0;
    for (size_t i = 0; i < w->n; i++) *n += w->tensors[i].rows * w->tensors[i].cols;
    float *all = pare_calloc(*n, sizeof *all), *to = all;
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        if (!t->fresh) memcpy(to, t->grad, t->rows * t->cols * sizeof *to);
        to += t->rows * t->cols;
    }
    return all;
}

/* The number of threads and recomputing change no bit; sequences together are as apart. */
static void results_do_not_depend_on_the_way(void **state) {
    (void)state;
    const size_t whole[1] = {N}, parts[3] = {20, 1, 26};
    for (size_t k = 0; k < N_FIXTURES; k++) {
        fixture x;
        open_fixture(&x, fixtures[k]);
        float *first = NULL;
        size_t n;
        for (int way = 0; way < 3; way++) {
            pare_runtime *rt = test_runtime(way == 1 ? 3 : 1, pare_isa_best());
            pare_train_weights *w;
            assert_ok(pare_train_weights_open(&w, rt, x.folder, false, err));
            run_step(w, &x, way == 2, whole, 1);
            float *all = collect(w, &n);
            if (!first)
                first = all;
            else {
                assert_memory_equal(first, all, n * sizeof *all);
                pare_free(all);
            }
            if (way == 0) { /* three sequences in one pass, and one by one */
                double together = run_step(w, &x, false, parts, 3), apart = 0;
                float *sum = collect(w, &n);
                pare_step *s;
                pare_step_options o = {.n_tokens = N, .n_spans = 1, .compute = PARE_COMPUTE_EXACT};
                assert_ok(pare_step_create(&s, w, &o, err));
                pare_train_weights_clear(w);
                for (size_t i = 0, at = 0; i < 3; at += parts[i++]) {
                    pare_batch b = {x.ids + at, x.ids + at + 1, &parts[i], parts[i], 1};
                    double nll;
                    assert_ok(pare_step_run(s, &b, true, 1.0f / N, &nll, err));
                    apart += nll / N;
                }
                float *added = collect(w, &n);
                assert_float_equal(together, apart, 1e-5);
                double worst = 0, size = 0;
                for (size_t i = 0; i < n; i++) {
                    worst = fmax(worst, fabs((double)sum[i] - (double)added[i]));
                    size = fmax(size, fabs((double)sum[i]));
                }
                assert_true(worst < 1e-5 * size);
                pare_step_free(s);
                pare_free(added);
                pare_free(sum);
            }
            pare_train_weights_free(w);
            pare_runtime_free(rt);
        }
        pare_free(first);
        pare_json_free(&x.gradients);
    }
}

/* Distillation: with itself as the teacher the loss is the entropy and the gradient vanishes; all
 * hard is the loss of the text; else the loss's change along a direction is what the gradient says.
 */
static void a_teacher_is_followed(void **state) {
    (void)state;
    const size_t whole[1] = {N};
    static const char *const taught[] = {"llama", "gemma2"};
    for (size_t k = 0; k < 2; k++) {
        fixture x;
        pare_runtime *rt = test_runtime(2, pare_isa_best());
        pare_train_weights *w;
        pare_model *own, *other;
        open_fixture(&x, taught[k]);
        assert_ok(pare_train_weights_open(&w, rt, x.folder, false, err));
        assert_ok(pare_model_load(&own, rt, x.folder, err));
        char path[1100];
        snprintf(path, sizeof path, "%s", x.folder);
        snprintf(strrchr(path, '/'), 20, "/qwen3");
        assert_ok(pare_model_load(&other, rt, path, err));
        pare_batch b = {x.ids, x.ids + 1, whole, N, 1};
        pare_step_options o = {.n_tokens = N,
                               .n_spans = 1,
                               .compute = PARE_COMPUTE_EXACT,
                               .teacher = own,
                               .temperature = 2};
        double nll, soft, hard, norm[3];
        for (int way = 0; way < 3; way++) { /* itself; another; another, all hard */
            pare_step *s;
            o.teacher = way ? other : own;
            o.hard = way == 2 ? 1 : 0;
            assert_ok(pare_step_create(&s, w, &o, err));
            pare_train_weights_clear(w);
            assert_ok(pare_step_run(s, &b, true, 1.0f / N, way == 2 ? &hard : &soft, err));
            assert_ok(pare_step_run(s, &b, false, 0, &nll, err));
            norm[way] = pare_train_grad_norm(w);
            if (way == 1) { /* along the gradient the loss grows by its norm */
                const float h = 1e-3f;
                size_t n;
                float *direction = collect(w, &n);
                double at[2];
                for (int side = 0; side < 2; side++) {
                    const float *d = direction;
                    for (size_t i = 0; i < w->n; i++)
                        for (size_t j = 0; j < w->tensors[i].rows * w->tensors[i].cols; j++)
                            w->tensors[i].w[j] += (side ? 2 : -1) * h * *d++ / (float)norm[1];
                    pare_train_weights_clear(w);
                    assert_ok(pare_step_run(s, &b, true, 1.0f / N, &at[side], err));
                }
                pare_free(direction);
                double slope = (at[1] - at[0]) / N / (2 * (double)h);
                if (!(fabs(slope - norm[1]) < 0.02 * norm[1]))
                    fail_msg("%s: slope %g, expected %g", taught[k], slope, norm[1]);
            }
            pare_step_free(s);
        }
        assert_true(norm[0] < 1e-3 * norm[1]);
        assert_float_equal(hard, nll, 1e-4 * nll);
        pare_model_free(own);
        pare_model_free(other);
        pare_train_weights_free(w);
        pare_json_free(&x.gradients);
        pare_runtime_free(rt);
    }
}

/* A term of the outputs of layer 0 beside the loss: `weight` times their sum. */
typedef struct output_term {
    float weight;
    size_t dim, calls;
    double sum;
} output_term;

typedef struct term_record {
    pare_record head;
    float *dh, weight;
    size_t count;
} term_record;

static void term_backward(pare_fwd *f, pare_record *record) {
    const term_record *r = (const term_record *)record;
    for (size_t i = 0; i < r->count && f->w->id == 0; i++) r->dh[i] += r->weight;
    pare_barrier(f->w);
}

static void add_term(void *arg, pare_fwd *f, size_t layer, float *h, size_t n) {
    output_term *t = arg;
    const size_t count = n * t->dim;
    if (layer) return;
    if (f->w->id == 0 && h) {
        t->sum = 0;
        for (size_t i = 0; i < count; i++) t->sum += (double)h[i];
        t->calls++;
    }
    if (!f->tape) return;
    term_record *r = pare_tape_push(f, sizeof *r, term_backward);
    if (!r || f->w->id) return;
    pare_record head = r->head;
    *r = (term_record){head, pare_tape_shadow(f, h), t->weight, count};
}

/* Keys and values of a prefix alone: the loss is that of a session behind it, and grows along the
 * gradient by its norm; the way that it is computed changes no bit. */
static void prefixes_have_gradients(void **state) {
    (void)state;
    enum { M = 5, L = N - M };
    const size_t parts[2] = {20, L - 20};
    for (size_t k = 0; k < N_FIXTURES; k++) {
        fixture x;
        open_fixture(&x, fixtures[k]);
        float *first = NULL;
        size_t n;
        for (int way = 0; way < 3; way++) { /* one thread, three, recomputed */
            pare_runtime *rt = test_runtime(way == 1 ? 3 : 1, pare_isa_best());
            pare_model *m;
            pare_session *session;
            pare_train_weights *w;
            pare_step *s;
            float logprobs[L];
            double want = 0, nll, at[2];
            assert_ok(pare_model_load(&m, rt, x.folder, err));
            assert_fails(pare_train_weights_of_prefix(&w, m, err), PARE_ERR_ARG, "no prefix");
            assert_ok(pare_model_set_prefix_ids(m, x.ids, M, err));
            pare_session_options so = {.n_ctx = L, .compute = PARE_COMPUTE_EXACT};
            for (size_t i = 0, from = 0; i < 2; from += parts[i++]) {
                assert_ok(pare_session_create(&session, m, &so, err));
                assert_ok(
                    pare_session_logprobs(session, x.ids + M + from, parts[i], 0, logprobs, err));
                for (size_t j = 0; j + 1 < parts[i]; j++) want -= (double)logprobs[j];
                pare_session_free(session);
            }
            assert_ok(pare_train_weights_of_prefix(&w, m, err));
            assert_int_equal(w->n, 2 * m->config.n_layers);
            output_term term = {.weight = way == 1 ? 0 : 1e-3f, .dim = m->config.dim};
            pare_step_options o = {.n_tokens = L,
                                   .n_spans = 2,
                                   .compute = PARE_COMPUTE_EXACT,
                                   .recompute = way == 2,
                                   .on_output = way == 1 ? NULL : add_term,
                                   .on_output_arg = &term};
            assert_ok(pare_step_create(&s, w, &o, err));
            int32_t targets[L];
            memcpy(targets, x.ids + M + 1, sizeof targets);
            targets[19] = targets[L - 1] = -1; /* as a session: nothing follows a sequence */
            pare_batch b = {x.ids + M, targets, parts, L, 2};
            assert_ok(pare_step_run(s, &b, true, 1.0f / L, &nll, err));
            assert_float_equal(nll, want, 1e-5 * want);
            float *all = collect(w, &n);
            if (way == 0) first = all;
            if (way == 2) assert_memory_equal(first, all, n * sizeof *all);
            if (way) pare_free(all);
            if (way != 1) assert_int_equal(term.calls, 1);

            double norm = pare_train_grad_norm(w);
            const float h = (float)(3e-3 / norm), *d = way ? NULL : first;
            for (int side = 0; side < 2 && d; side++, d = first) {
                for (size_t i = 0; i < w->n; i++)
                    for (size_t j = 0; j < w->tensors[i].rows * w->tensors[i].cols; j++)
                        w->tensors[i].w[j] += (side ? 2 : -1) * h * *d++ / (float)norm;
                assert_ok(pare_step_run(s, &b, false, 0, &nll, err));
                at[side] = nll / L + (double)term.weight * term.sum;
            }
            if (d) {
                double slope = (at[1] - at[0]) / (2 * (double)h);
                if (!(fabs(slope - norm) < 0.02 * norm))
                    fail_msg("%s: slope %g, expected %g", fixtures[k], slope, norm);
                assert_ok(
                    pare_model_set_prefix_ids(m, x.ids, M + 1, err)); /* longer than planned */
                assert_fails(pare_step_run(s, &b, false, 0, &nll, err), PARE_ERR_ARG, "at most 5");
            }
            pare_step_free(s);
            pare_train_weights_free(w);
            pare_runtime_free(rt);
        }
        pare_free(first);
        pare_json_free(&x.gradients);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(gradients_agree_with_pytorch),
                                       cmocka_unit_test(results_do_not_depend_on_the_way),
                                       cmocka_unit_test(a_teacher_is_followed),
                                       cmocka_unit_test(prefixes_have_gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
