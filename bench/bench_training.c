/* What optimizers and sparse trainings cost beside a training's products: ns a weight and thread,
 * of an optimizer's step and of a step that updates masks (forward hook included), on the shapes of
 * a language model of 8.4M weights. Best of some rounds. `bench_training [THREADS [NAME...]]` */
#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "pare/methods.h"
#include "pare/sparsity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 8, DIM = 256, FFN = 688, VOCAB = 8192, MAX_TENSORS = 7 * LAYERS + 1, ROUNDS = 7 };

typedef struct model {
    pare_runtime *rt;
    pare_trained t[MAX_TENSORS];
    float *g[MAX_TENSORS], *memory;
    char names[MAX_TENSORS][16];
    size_t n_tensors, n, bytes;
} model;

static void add(model *m, size_t rows, size_t cols, pare_role role) {
    size_t i = m->n_tensors++;
    snprintf(m->names[i], sizeof m->names[i], "t%zu", i);
    m->t[i] = (pare_trained){.name = m->names[i], .dims = {rows, cols}, .n_dims = 2, .role = role};
    m->n += rows * cols;
}

static bool make(model *m) {
    add(m, VOCAB, DIM, PARE_ROLE_EMBEDDING);
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < 4; i++) add(m, DIM, DIM, PARE_ROLE_LINEAR);
        for (int i = 0; i < 3; i++) add(m, i < 2 ? FFN : DIM, i < 2 ? DIM : FFN, PARE_ROLE_LINEAR);
    }
    m->bytes = m->n * (2 * sizeof(float) + sizeof(uint16_t));
    m->memory = pare_big_alloc(m->bytes);
    if (!m->memory) return false;
    float *w = m->memory, *g = w + m->n;
    uint16_t *half = (uint16_t *)(g + m->n);
    for (size_t i = 0; i < m->n_tensors; i++) {
        size_t n = m->t[i].dims[0] * m->t[i].dims[1];
        m->t[i].w = w;
        m->t[i].w_bf16 = half;
        m->g[i] = g;
        for (size_t k = 0; k < n; k++) {
            w[k] = 0.02f * pare_rng_normal(1, i, k);
            g[k] = 1e-3f * pare_rng_normal(2, i, k);
        }
        w += n, g += n, half += n;
    }
    return true;
}

/* ns a weight and thread of the steps, the best of ROUNDS; NAN: it cannot. */
static double measure(model *m, const char *sparsity, const char *optimizer) {
    pare_error err = {0};
    pare_pruner *p = NULL;
    pare_optim *o = NULL;
    double best = HUGE_VAL;
    pare_status st = pare_pruner_create(&p, m->rt, sparsity, m->t, m->n_tensors, ROUNDS + 1, &err);
    if (st == PARE_OK) st = pare_optim_create(&o, m->rt, optimizer, m->t, m->n_tensors, &err);
    const pare_stepper s = pare_optim_stepper(o);
    for (int i = 0; st == PARE_OK && i <= ROUNDS; i++) {
        pare_optim_args a = pare_optim_args_default();
        a.g = m->g;
        a.hessian = (const float *const *)m->g;
        a.lr = 1e-6;
        double begin = pare_now_s();
        st = pare_pruner_pre_forward(p, &err);
        if (st == PARE_OK) st = pare_pruner_update(p, &s, &a, &err);
        double took = pare_now_s() - begin;
        if (i > 0 && took < best) best = took; /* the first touches new memory */
    }
    pare_pruner_free(p);
    pare_optim_free(o);
    if (st != PARE_OK) fprintf(stderr, "%s: %s\n", sparsity, err.message);
    return st == PARE_OK ? best * 1e9 / (double)m->n * pare_runtime_threads(m->rt) : (double)NAN;
}

static char **wanted; /* names, or none for all */

static void report(model *m, const char *spec, const char *sparsity, const char *optimizer) {
    bool all = !wanted || !*wanted;
    for (char **name = wanted; !all && *name; name++) {
        size_t n = strlen(*name);
        if (strncmp(spec, *name, n) == 0 && strchr(":", spec[n])) break;
        if (!name[1]) return;
    }
    printf("%-52s %6.2f\n", spec, measure(m, sparsity, optimizer));
}

static bool has_param(const pare_method *m, const char *name) {
    for (const pare_param *p = pare_method_params(m); p->name; p++)
        if (strcmp(p->name, name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    pare_options options = pare_options_default();
    pare_error err = {0};
    static model m;
    options.n_threads = argc > 1 ? atoi(argv[1]) : 0;
    wanted = argc > 2 ? argv + 2 : NULL;
    if (pare_runtime_create(&m.rt, &options, &err) != PARE_OK || !make(&m)) {
        fprintf(stderr, "bench_training: %s\n", err.message);
        return 1;
    }
    printf("%zu weights, %d threads; ns a weight and thread\n", m.n, pare_runtime_threads(m.rt));
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *method = pare_method_at(i);
        const char *slot = pare_method_slot(method), *name = pare_method_name(method);
        char spec[200];
        if (strcmp(slot, "optimizer") == 0) report(&m, name, "no_prune", name);
        if (strcmp(slot, "sparse_training") != 0) continue;
        bool pattern = strcmp(name, "iterative_nm") == 0;
        snprintf(spec, sizeof spec, "%s%s%s", name, pattern ? ":sparsity=2:4" : "",
                 !has_param(method, "every") ? ""
                 : pattern                   ? ",every=1,from=0,until=9"
                                             : ":every=1,from=0,until=9");
        report(&m, spec, spec, "adamw");
    }
    static const char *const more[] = {"magnitude_ste:sparsity=2:4,every=1,from=0,until=9",
                                       "magnitude:type=block_16x16,every=1,from=0,until=9",
                                       "rigl:type=block_16x16,every=1,from=0,until=9"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) report(&m, more[i], more[i], "adamw");
    pare_big_free(m.memory, m.bytes);
    pare_runtime_free(m.rt);
    return 0;
}
