/* A classifier with a training loop of its own, pruned through the library.
 *
 * The network (2 inputs, 32 hidden units, 3 classes) and its gradients are plain C; libpare sees
 * only the arrays. Points of three spirals are learned once dense and once with RigL at 80%:
 *
 *     build/examples/sparse_mlp [SPARSE_TRAINING [OPTIMIZER]]
 *     build/examples/sparse_mlp 'magnitude:sparsity=0.9,every=20' 'sgd:lr=0.3,momentum=0.9' */
#include "pare/optim.h"
#include "pare/sparsity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { IN = 2, HIDDEN = 32, CLASSES = 3, POINTS = 300, STEPS = 600 };

/* Two hidden layers. */
typedef struct mlp {
    float w1[HIDDEN * IN], b1[HIDDEN], w2[HIDDEN * HIDDEN], b2[HIDDEN], w3[CLASSES * HIDDEN],
        b3[CLASSES];
} mlp;

static float uniform(void) {
    static unsigned long long state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) * 0x1p-24f;
}

/* y[out] = W x + b */
static void linear(float *y, const float *w, const float *b, const float *x, int out, int in) {
    for (int o = 0; o < out; o++) {
        y[o] = b[o];
        for (int i = 0; i < in; i++) y[o] += w[o * in + i] * x[i];
    }
}

/* The gradients of y = W x + b; dx may be NULL. */
static void linear_back(float *dw, float *db, float *dx, const float *dy, const float *w,
                        const float *x, int out, int in) {
    for (int i = 0; dx && i < in; i++) dx[i] = 0;
    for (int o = 0; o < out; o++) {
        db[o] += dy[o];
        for (int i = 0; i < in; i++) {
            dw[o * in + i] += dy[o] * x[i];
            if (dx) dx[i] += dy[o] * w[o * in + i];
        }
    }
}

/* The loss of a point, -log p(label), and whether it is right; adds to the gradients in *d. */
static float point(const mlp *m, mlp *d, const float x[IN], int label, int *right) {
    float a1[HIDDEN], a2[HIDDEN], s[CLASSES], d2[HIDDEN], d1[HIDDEN], sum = 0, best = -1e30f;
    linear(a1, m->w1, m->b1, x, HIDDEN, IN);
    for (int i = 0; i < HIDDEN; i++) a1[i] = tanhf(a1[i]);
    linear(a2, m->w2, m->b2, a1, HIDDEN, HIDDEN);
    for (int i = 0; i < HIDDEN; i++) a2[i] = tanhf(a2[i]);
    linear(s, m->w3, m->b3, a2, CLASSES, HIDDEN);
    int guess = 0;
    for (int c = 0; c < CLASSES; c++)
        if (s[c] > best) best = s[c], guess = c;
    *right += guess == label;
    for (int c = 0; c < CLASSES; c++) sum += expf(s[c] - best);
    float loss = logf(sum) + best - s[label];
    for (int c = 0; c < CLASSES; c++)
        s[c] = (expf(s[c] - best) / sum - (float)(c == label)) / (float)POINTS;
    linear_back(d->w3, d->b3, d2, s, m->w3, a2, CLASSES, HIDDEN);
    for (int i = 0; i < HIDDEN; i++) d2[i] *= 1 - a2[i] * a2[i];
    linear_back(d->w2, d->b2, d1, d2, m->w2, a1, HIDDEN, HIDDEN);
    for (int i = 0; i < HIDDEN; i++) d1[i] *= 1 - a1[i] * a1[i];
    linear_back(d->w1, d->b1, NULL, d1, m->w1, x, HIDDEN, IN);
    return loss;
}

typedef struct problem {
    float x[POINTS][IN];
    int label[POINTS];
} problem;

static void spirals(problem *p) {
    for (int i = 0; i < POINTS; i++) {
        float r = (float)(i / CLASSES) / (float)(POINTS / CLASSES);
        float angle = 4 * r + 2.0944f * (float)(i % CLASSES) + 0.1f * (uniform() - 0.5f);
        p->label[i] = i % CLASSES;
        p->x[i][0] = r * cosf(angle);
        p->x[i][1] = r * sinf(angle);
    }
}

static void initialize(mlp *m) {
    *m = (mlp){0};
    for (int i = 0; i < HIDDEN * IN; i++) m->w1[i] = 2 * uniform() - 1;
    for (int i = 0; i < HIDDEN * HIDDEN; i++) m->w2[i] = 0.4f * (2 * uniform() - 1);
    for (int i = 0; i < CLASSES * HIDDEN; i++) m->w3[i] = 0.4f * (2 * uniform() - 1);
}

enum { TENSORS = 6 };

/* The first layer has two inputs and the last decides: both stay dense. */
static void describe(pare_trained t[TENSORS], float *g[TENSORS], mlp *m, mlp *d, mlp *f) {
    const pare_trained all[TENSORS] = {
        {.name = "w1", .dims = {HIDDEN, IN}, .n_dims = 2, .w = m->w1, .role = PARE_ROLE_OTHER},
        {.name = "b1", .dims = {HIDDEN}, .n_dims = 1, .w = m->b1, .role = PARE_ROLE_OTHER},
        {.name = "w2", .dims = {HIDDEN, HIDDEN}, .n_dims = 2, .w = m->w2},
        {.name = "b2", .dims = {HIDDEN}, .n_dims = 1, .w = m->b2, .role = PARE_ROLE_OTHER},
        {.name = "w3", .dims = {CLASSES, HIDDEN}, .n_dims = 2, .w = m->w3, .role = PARE_ROLE_OTHER},
        {.name = "b3", .dims = {CLASSES}, .n_dims = 1, .w = m->b3, .role = PARE_ROLE_OTHER},
    };
    float *const gradients[TENSORS] = {d->w1, d->b1, d->w2, d->b2, d->w3, d->b3};
    float *const forward[TENSORS] = {f->w1, f->b1, f->w2, f->b2, f->w3, f->b3};
    for (int i = 0; i < TENSORS; i++) {
        t[i] = all[i];
        t[i].w_forward = forward[i]; /* of straight-through trainings */
        g[i] = gradients[i];
    }
}

/* Trains and tells; *accuracy of the last step's forward pass. */
static pare_status train(float *accuracy, pare_runtime *rt, const problem *data,
                         const char *sparsity, const char *optimizer, pare_error *err) {
    mlp model, gradient, masked;
    pare_trained t[TENSORS];
    float *g[TENSORS], loss = 0;
    pare_pruner *pruner = NULL;
    pare_optim *optim = NULL;
    initialize(&model);
    describe(t, g, &model, &gradient, &masked);
    pare_status st = pare_pruner_create(&pruner, rt, sparsity, t, TENSORS, STEPS, err);
    if (st == PARE_OK) st = pare_optim_create(&optim, rt, optimizer, t, TENSORS, err);
    const mlp *forward =
        st == PARE_OK && pare_pruner_is_straight_through(pruner) ? &masked : &model;
    for (int step = 0; st == PARE_OK && step < STEPS; step++) {
        const pare_stepper stepper = pare_optim_stepper(optim);
        pare_optim_args args = pare_optim_args_default();
        int right = 0;
        args.g = g;
        st = pare_pruner_pre_forward(pruner, err);
        if (st != PARE_OK) break;
        gradient = (mlp){0};
        loss = 0;
        for (int i = 0; i < POINTS; i++)
            loss += point(forward, &gradient, data->x[i], data->label[i], &right) / (float)POINTS;
        *accuracy = (float)right / (float)POINTS;
        st = pare_pruner_update(pruner, &stepper, &args, err);
    }
    if (st == PARE_OK) {
        pare_sparsity_stats total, each[TENSORS];
        if (forward == &masked) model = masked; /* what was trained to be used */
        pare_sparsity_summary(&total, each, t, TENSORS);
        printf("%-40s loss %.4f, accuracy %.3f, w2 %.1f%% zeros\n", pare_pruner_text(pruner),
               (double)loss, (double)*accuracy, 100 * each[2].sparsity);
    }
    pare_pruner_free(pruner);
    pare_optim_free(optim);
    return st;
}

int main(int argc, char **argv) {
    const char *sparsity = argc > 1 ? argv[1] : "rigl:sparsity=0.8,drop=0.3,every=50";
    const char *optimizer = argc > 2 ? argv[2] : "adamw:lr=0.02,weight_decay=0";
    pare_options options = pare_options_default();
    pare_runtime *rt = NULL;
    pare_error err = {0};
    problem data;
    float dense = 0, sparse = 0;
    options.n_threads = 1; /* these tensors are tiny */
    spirals(&data);
    pare_status st = pare_runtime_create(&rt, &options, &err);
    if (st == PARE_OK) st = train(&dense, rt, &data, "no_prune", optimizer, &err);
    if (st == PARE_OK) st = train(&sparse, rt, &data, sparsity, optimizer, &err);
    pare_runtime_free(rt);
    if (st != PARE_OK) {
        fprintf(stderr, "sparse_mlp: %s\n", err.message);
        return pare_status_exit_code(st);
    }
    return dense > 0.9f && (argc > 1 || sparse > 0.9f) ? 0 : 1; /* `make check` runs it */
}
