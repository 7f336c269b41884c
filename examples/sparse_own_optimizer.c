/* A pruner around an optimizer that the library does not know: Lion (Chen et al.,
 * arXiv:2302.06675), written here, which steps by the sign of a mix of gradient and momentum.
 *
 * The pruner masks gradients before it and weights after it, zeroes its momentum where SET or RigL
 * activate weights, and leaves its step out on update steps. The problem: the coefficients of a
 * sparse linear map from noisy examples; how many of its true places does the mask find?
 *
 *     build/examples/sparse_own_optimizer [SPARSE_TRAINING] */
#include "pare/sparsity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { OUT = 8, IN = 64, N = OUT * IN, TRUE_PER_ROW = 6, EXAMPLES = 256, STEPS = 1200 };

/* --- an optimizer --- */

typedef struct lion {
    float *w; /* [N] borrowed */
    float m[N];
    float lr;
} lion;

static pare_status lion_step(void *arg, const pare_optim_args *args, pare_error *err) {
    lion *o = arg;
    const float *g = args->g[0];
    (void)err;
    for (int i = 0; i < N; i++) {
        float mix = 0.9f * o->m[i] + 0.1f * g[i];
        o->w[i] -= o->lr * (float)((mix > 0) - (mix < 0));
        o->m[i] = 0.99f * o->m[i] + 0.01f * g[i];
    }
    return PARE_OK;
}

static bool lion_array_at(void *arg, size_t i, pare_optim_array *out) {
    lion *o = arg;
    *out = (pare_optim_array){.name = "w.m", .moment = "m", .tensor = 0, .data = o->m, .n = N};
    return i == 0;
}

/* --- a problem --- */

static float normal(void) { /* near enough: a sum of uniform numbers */
    static unsigned long long state = 7;
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(state >> 40) * 0x1p-24f;
    }
    return sum - 6;
}

typedef struct problem {
    float truth[N], x[EXAMPLES][IN], y[EXAMPLES][OUT];
} problem;

static void make_problem(problem *p) {
    memset(p, 0, sizeof *p);
    for (int o = 0; o < OUT; o++)
        for (int k = 0; k < TRUE_PER_ROW; k++)
            p->truth[o * IN + (o * 5 + k * 11) % IN] = k % 2 ? 1.0f : -1.0f;
    for (int e = 0; e < EXAMPLES; e++) {
        for (int i = 0; i < IN; i++) p->x[e][i] = normal();
        for (int o = 0; o < OUT; o++) {
            p->y[e][o] = 0.1f * normal();
            for (int i = 0; i < IN; i++) p->y[e][o] += p->truth[o * IN + i] * p->x[e][i];
        }
    }
}

/* The mean square error and its gradient. */
static float loss_and_gradient(float *g, const float *w, const problem *p) {
    float loss = 0;
    memset(g, 0, N * sizeof *g);
    for (int e = 0; e < EXAMPLES; e++)
        for (int o = 0; o < OUT; o++) {
            float d = -p->y[e][o];
            for (int i = 0; i < IN; i++) d += w[o * IN + i] * p->x[e][i];
            loss += d * d / EXAMPLES;
            for (int i = 0; i < IN; i++) g[o * IN + i] += 2 * d * p->x[e][i] / EXAMPLES;
        }
    return loss;
}

int main(int argc, char **argv) {
    /* 90% of the weights go; 9.4% are not 0 in truth */
    const char *spec = argc > 1 ? argv[1] : "rigl:sparsity=0.9,drop=0.3,every=20";
    static problem p;
    static float w[N], gradient[N];
    static lion optimizer = {.w = w, .lr = 0.01f};
    const pare_trained tensor = {.name = "w", .dims = {OUT, IN}, .n_dims = 2, .w = w};
    const pare_stepper stepper = {.arg = &optimizer, .step = lion_step, .array_at = lion_array_at};
    pare_options options = pare_options_default();
    pare_runtime *rt = NULL;
    pare_pruner *pruner = NULL;
    pare_error err = {0};
    float loss = 0, *g = gradient;
    options.n_threads = 1;
    make_problem(&p);
    for (int i = 0; i < N; i++) w[i] = 0.1f * normal();
    pare_status st = pare_runtime_create(&rt, &options, &err);
    if (st == PARE_OK) st = pare_pruner_create(&pruner, rt, spec, &tensor, 1, STEPS, &err);
    for (int step = 0; st == PARE_OK && step < STEPS; step++) {
        pare_optim_args args = pare_optim_args_default();
        args.g = &g;
        optimizer.lr = 0.01f * (1 - (float)step / STEPS);
        st = pare_pruner_pre_forward(pruner, &err);
        if (st != PARE_OK) break;
        loss = loss_and_gradient(gradient, w, &p);
        st = pare_pruner_update(pruner, &stepper, &args, &err);
    }
    if (st != PARE_OK) {
        fprintf(stderr, "sparse_own_optimizer: %s\n", err.message);
    } else {
        int found = 0, kept = 0;
        for (int i = 0; i < N; i++) {
            found += w[i] != 0 && p.truth[i] != 0;
            kept += w[i] != 0;
        }
        printf("%s: loss %.4f, %d of %d true places found with %d weights\n",
               pare_pruner_text(pruner), (double)loss, found, OUT * TRUE_PER_ROW, kept);
        if (argc == 1 && found < OUT * TRUE_PER_ROW) st = PARE_ERR_INTERNAL; /* `make check` */
    }
    pare_pruner_free(pruner);
    pare_runtime_free(rt);
    return pare_status_exit_code(st);
}
