/* What sparse training costs or saves in a whole step of `pare train` (forward, backward, norm,
 * masks, adamw): seconds of a step that keeps its masks and of one that updates them, beside the
 * dense step. All in turns on one model, the best of some rounds.
 * `bench_sparse_step MODEL [THREADS [SEQUENCES [TOKENS [SPEC...]]]]`: the model's weights are
 * random or trained, that does not matter; TOKENS of a sequence. */
#include "base/memory.h"
#include "base/os.h"
#include "base/runtime.h"
#include "pare/sparsity.h"
#include "train/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 4, MAX_SPECS = 24 };

typedef struct training {
    pare_pruner *pruner;
    pare_optim *optim;
    double update, keep; /* seconds of a step */
    double left_out;     /* operations a token */
} training;

typedef struct bench {
    pare_runtime *rt;
    pare_train_weights *w;
    pare_step *step;
    pare_trained *trained; /* [n] */
    size_t *tensor, n;     /* of the weights */
    float **grads, **first;
    int32_t *ids;
    size_t *lengths, n_spans, n_tokens;
} bench;

static pare_status one_step(const bench *b, training *t, double *took, pare_error *err) {
    const pare_batch batch = {b->ids, b->ids + 1, b->lengths, b->n_tokens, b->n_spans};
    double nll, begin;
    for (size_t k = 0; k < b->n; k++) { /* every training finds the same weights */
        const pare_train_tensor *x = &b->w->tensors[b->tensor[k]];
        memcpy(x->w, b->first[k], x->rows * x->cols * sizeof *x->w);
    }
    begin = pare_now_s();
    PARE_TRY(pare_pruner_pre_forward(t->pruner, err));
    bool sparse = !pare_pruner_needs_dense_gradient(t->pruner);
    for (size_t k = 0; k < b->n; k++)
        PARE_TRY(pare_train_weights_mask(b->w, b->tensor[k], pare_pruner_forward_mask(t->pruner, k),
                                         sparse ? pare_pruner_mask(t->pruner, k) : NULL, err));
    t->left_out = pare_train_weights_left_out(b->w);
    pare_train_weights_clear(b->w);
    PARE_TRY(pare_step_run(b->step, &batch, true, 1.0f / (float)b->n_tokens, &nll, err));
    pare_optim_args a = pare_optim_args_default();
    double norm = pare_train_grad_norm(b->w);
    if (norm > 1) a.g_scale = 1 / norm;
    a.g = b->grads;
    const pare_stepper s = pare_optim_stepper(t->optim);
    PARE_TRY(pare_pruner_update(t->pruner, &s, &a, err));
    *took = pare_now_s() - begin;
    return PARE_OK;
}

static pare_status open_model(bench *b, const char *path, pare_error *err) {
    PARE_TRY(pare_train_weights_open(&b->w, b->rt, path, true, err));
    PARE_TRY(pare_train_weights_split(b->w, NULL, err));
    b->trained = pare_calloc(b->w->n, sizeof *b->trained);
    b->tensor = pare_calloc(b->w->n, sizeof *b->tensor);
    b->grads = pare_calloc(b->w->n, sizeof *b->grads);
    b->first = pare_calloc(b->w->n, sizeof *b->first);
    b->ids = pare_calloc(b->n_tokens + 1, sizeof *b->ids);
    b->lengths = pare_calloc(b->n_spans, sizeof *b->lengths);
    if (!b->trained || !b->tensor || !b->grads || !b->first || !b->ids || !b->lengths)
        return pare_fail(err, PARE_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < b->w->n; i++) {
        const pare_train_tensor *x = &b->w->tensors[i];
        size_t bytes = x->rows * x->cols * sizeof *x->w;
        if (!x->grad) continue;
        b->trained[b->n] = (pare_trained){.name = x->name,
                                          .dims = {x->matrix ? x->rows : x->cols, x->cols},
                                          .n_dims = x->matrix ? 2 : 1,
                                          .w = x->w,
                                          .w_bf16 = x->half,
                                          .w_forward = x->forward,
                                          .role = x->linear   ? PARE_ROLE_LINEAR
                                                  : x->matrix ? PARE_ROLE_EMBEDDING
                                                              : PARE_ROLE_OTHER};
        b->grads[b->n] = x->grad;
        b->first[b->n] = pare_malloc(bytes, 1);
        if (!b->first[b->n]) return pare_fail(err, PARE_ERR_NOMEM, "out of memory");
        memcpy(b->first[b->n], x->w, bytes);
        b->tensor[b->n++] = i;
    }
    size_t vocab = b->w->model->config.vocab_size;
    for (size_t i = 0; i <= b->n_tokens; i++) b->ids[i] = (int32_t)(i * 7919 % vocab);
    for (size_t i = 0; i < b->n_spans; i++) b->lengths[i] = b->n_tokens / b->n_spans;
    pare_step_options o = {
        .n_tokens = b->n_tokens, .n_spans = b->n_spans, .compute = PARE_COMPUTE_FAST};
    return pare_step_create(&b->step, b->w, &o, err);
}

static void close_model(bench *b) {
    for (size_t k = 0; k < b->n; k++) pare_free(b->first[k]);
    pare_step_free(b->step);
    pare_free(b->trained);
    pare_free(b->tensor);
    pare_free(b->grads);
    pare_free(b->first);
    pare_free(b->ids);
    pare_free(b->lengths);
    pare_train_weights_free(b->w);
}

static pare_status run(bench *b, const char *const *specs, size_t n, pare_error *err) {
    training t[MAX_SPECS] = {0};
    pare_status st = PARE_OK;
    for (size_t i = 0; i < n && st == PARE_OK; i++) {
        t[i].update = t[i].keep = HUGE_VAL;
        st = pare_pruner_create(&t[i].pruner, b->rt, specs[i], b->trained, b->n, 1 << 20, err);
        if (st == PARE_OK)
            st = pare_optim_create(&t[i].optim, b->rt, "adamw:lr=1e-6", b->trained, b->n, err);
    }
    for (int round = 0; round <= ROUNDS && st == PARE_OK; round++)
        for (size_t i = 0; i < n && st == PARE_OK; i++) {
            bool updates = pare_pruner_is_update_step(t[i].pruner);
            double took = 0, *best = updates ? &t[i].update : &t[i].keep;
            st = one_step(b, &t[i], &took, err);
            if ((updates || round > 0) && took < *best) *best = took;
        }
    double flop = 3 * (double)pare_model_flops_per_token(b->w->model);
    for (size_t i = 0; i < n && st == PARE_OK; i++) {
        double update = isfinite(t[i].update) ? t[i].update : t[i].keep;
        printf("%-58s %7.3f %7.3f  %6.3f  %5.1f%%\n", specs[i], t[i].keep, update,
               t[i].keep / t[0].keep, 100 * t[i].left_out / flop);
    }
    for (size_t i = 0; i < n; i++) {
        pare_pruner_free(t[i].pruner);
        pare_optim_free(t[i].optim);
    }
    return st;
}

int main(int argc, char **argv) {
    static const char *const usual[] = {"no_prune",
                                        "magnitude:schedule=periodic,from=0,until=999999",
                                        "global_magnitude:schedule=periodic,from=0,until=999999",
                                        "set:from=0,until=999999",
                                        "rigl:from=0,until=999999",
                                        "magnitude_ste:schedule=none",
                                        "magnitude_ste:schedule=none,type=block_16x16,sparsity=0.9",
                                        "static_sparse:type=block_16x16,sparsity=0.5",
                                        "static_sparse:type=block_16x16,sparsity=0.8",
                                        "static_sparse:type=block_16x16,sparsity=0.9",
                                        "static_sparse:type=block_16x16,sparsity=0.95",
                                        "rigl:type=block_16x16,sparsity=0.9,from=0,until=999999",
                                        "static_sparse:type=block_4x4,sparsity=0.9",
                                        "static_sparse:sparsity=0.98"};
    pare_options options = pare_options_default();
    pare_error err = {0};
    bench b = {.n_spans = argc > 3 ? strtoul(argv[3], NULL, 10) : 16};
    b.n_tokens = b.n_spans * (argc > 4 ? strtoul(argv[4], NULL, 10) : 256);
    if (argc < 2 || argc > 5 + MAX_SPECS) {
        fprintf(stderr, "bench_sparse_step MODEL [THREADS [SEQUENCES [TOKENS [SPEC...]]]]\n");
        return 2;
    }
    options.n_threads = argc > 2 ? atoi(argv[2]) : 0;
    pare_status st = pare_runtime_create(&b.rt, &options, &err);
    if (st == PARE_OK) st = open_model(&b, argv[1], &err);
    if (st == PARE_OK) {
        printf("%zu sequences of %zu tokens, %d threads; seconds of a step, of one that updates "
               "masks; times the first row's; share of the products of matrices left out\n",
               b.n_spans, b.n_tokens / b.n_spans, pare_runtime_threads(b.rt));
        st = argc > 5 ? run(&b, (const char *const *)argv + 5, (size_t)argc - 5, &err)
                      : run(&b, usual, sizeof usual / sizeof *usual, &err);
    }
    if (st != PARE_OK) fprintf(stderr, "bench_sparse_step: %s\n", err.message);
    if (b.w) close_model(&b);
    pare_runtime_free(b.rt);
    return st != PARE_OK;
}
