/* Sparse training of a toy, four tensors whose gradients draw them towards fixed places, and a list
 * of algorithms: what the tests of pruners share. */
#ifndef PARE_TESTS_SUPPORT_TOY_PRUNER_H
#define PARE_TESTS_SUPPORT_TOY_PRUNER_H

#include "methods/pruner.h"
#include "support/test.h"

enum { N = 4, W1 = 16 * 16, EMBD = 10 * 8, BIAS = 16, W2 = 16 * 16, ALL = W1 + EMBD + BIAS + W2 };
static const size_t sizes[N] = {W1, EMBD, BIAS, W2};

typedef struct toy {
    float w[ALL], forward[ALL], g[ALL];
    pare_trained t[N];
    float *gs[N];
    pare_optim *optim;
    pare_pruner *pruner;
    pare_stepper stepper;
    int step;
} toy;

static inline float draw(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*s >> 32) * 0x1p-31f;
}

static inline void lay_out(toy *x) {
    memset(x, 0, sizeof *x);
    uint64_t seed = 11;
    for (size_t i = 0; i < ALL; i++) x->w[i] = draw(&seed);
    x->t[0] = (pare_trained){.name = "b.w1", .dims = {16, 16}, .n_dims = 2};
    x->t[1] =
        (pare_trained){.name = "embd", .dims = {10, 8}, .n_dims = 2, .role = PARE_ROLE_EMBEDDING};
    x->t[2] = (pare_trained){.name = "bias", .dims = {16}, .n_dims = 1, .role = PARE_ROLE_OTHER};
    x->t[3] = (pare_trained){.name = "a.w2", .dims = {16, 16}, .n_dims = 2};
    for (size_t i = 0, at = 0; i < N; at += sizes[i++]) {
        x->t[i].w = x->w + at;
        x->t[i].w_forward = x->forward + at;
        x->gs[i] = x->g + at;
    }
}

static inline void begin(toy *x, pare_runtime *rt, const char *spec, const char *optim) {
    lay_out(x);
    assert_ok(pare_pruner_create(&x->pruner, rt, spec, x->t, N, 40, err));
    assert_ok(pare_optim_create(&x->optim, rt, optim, x->t, N, err));
    x->stepper = pare_optim_stepper(x->optim);
}

static inline void end(toy *x) {
    pare_pruner_free(x->pruner);
    pare_optim_free(x->optim);
}

static inline const float *weights_of_forward(const toy *x) {
    return pare_pruner_is_straight_through(x->pruner) ? x->forward : x->w;
}

/* The gradient of a square distance, with noise of the step. */
static inline void gradients(toy *x) {
    uint64_t place = 77, noise = (uint64_t)x->step * 1000 + 5;
    const float *w = weights_of_forward(x);
    for (size_t i = 0; i < ALL; i++) x->g[i] = 0.3f * (w[i] - draw(&place)) + 0.1f * draw(&noise);
}

static inline void forward(toy *x) { assert_ok(pare_pruner_pre_forward(x->pruner, err)); }

static inline void update(toy *x) {
    pare_optim_args a = pare_optim_args_default();
    a.g = x->gs;
    assert_ok(pare_pruner_update(x->pruner, &x->stepper, &a, err));
    x->step++;
}

static inline void train(toy *x, int until) {
    while (x->step < until) {
        forward(x);
        gradients(x);
        update(x);
    }
}

static inline size_t zeros(const float *w, size_t n) {
    size_t z = 0;
    for (size_t i = 0; i < n; i++) z += w[i] == 0.0f;
    return z;
}

static const char *const specs[] = {
    "no_prune",
    "magnitude:sparsity=0.7,every=5,from=5,until=30",
    "magnitude:sparsity=0.7,every=5,from=5,until=30,sparse_grads=true,skip_gradients=true",
    "magnitude:sparsity=2:4,every=10,from=10,until=20",
    "magnitude:sparsity=0.5,type=block_4x4,schedule=one_shot,from=3",
    "random:sparsity=0.7,every=5,from=5,until=30",
    "saliency:sparsity=0.7,every=5,from=5,until=30,dist=erk",
    "global_magnitude:sparsity=0.7,every=5,from=5,until=30",
    "global_saliency:sparsity=0.7,every=5,from=5,until=30,normalize=false",
    "magnitude_ste:sparsity=0.7,every=5,from=5,until=30",
    "magnitude_ste:sparsity=2:4,refresh=3,from=0,until=1",
    "random_ste:sparsity=0.7,every=5,from=0,until=30",
    "static_sparse:sparsity=0.7,embeddings=true",
    "keep_zeros",
    "set:sparsity=0.7,drop=0.3,every=5,until=30",
    "set:sparsity=0.5,type=block_4x4,drop=0.3,every=5,until=30",
    "rigl:sparsity=0.7,drop=0.3,every=5,until=30",
    "rigl:sparsity=0.5,type=channel_in,drop=0.3,every=5,until=30,decay=none",
    "acdc:sparsity=0.7,dense_until=3,sparse_from=30,sparse_steps=5,dense_steps=4",
    "adam_fisher:sparsity=0.7,every=5,from=5,until=30,reset_adam=true",
    "iterative_nm:sparsity=1:4,every=5,from=5,until=30",
};
enum { N_SPECS = sizeof specs / sizeof *specs };

#endif
