/* When sparse training pays: the three products of a linear layer (y = x w^T, dx = dy w, dw = dy^T
 * x) with a mask whose empty parts are left out (tensor/live.h), beside the same products of the
 * whole matrix. In turns, the best of some
 * rounds. `bench_sparse_linear [THREADS [TOKENS [OUTxIN...]]]` */
#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "pare/sparsity.h"
#include "tensor/linear.h"
#include "tensor/live.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 15, PRODUCTS = 3 };

typedef struct layer {
    pare_runtime *rt;
    size_t n, out, in;
    float *w, *x, *y, *dx, *dw;
    void *scratch;
    pare_live *live; /* NULL: dense */
    int product;
} layer;

static void run_product(pare_worker *w, void *arg) {
    const layer *l = arg;
    pare_isa isa = pare_runtime_isa(l->rt);
    const pare_encoding *f32 = pare_encoding_find("f32");
    pare_tensor wt = pare_tensor_wrap(f32, l->w, l->out, l->in),
                xt = pare_tensor_wrap(f32, l->x, l->n, l->in);
    wt.live = l->live;
    if (l->product == 0) {
        pare_linear_out o = {.w = &wt, .y = l->y, .ldy = l->out, .many = true};
        pare_linear_forward(w, isa, PARE_COMPUTE_EXACT, l->scratch, l->x, l->in, l->n, NULL, &o, 1);
    } else if (l->product == 1) {
        pare_linear_grad g = {&wt, l->y, l->out, 0, 0};
        pare_linear_backward_input(w, isa, PARE_COMPUTE_EXACT, l->scratch, l->dx, l->in, l->n, &g,
                                   1);
    } else {
        pare_linear_backward_weight(w, isa, PARE_COMPUTE_EXACT, l->scratch, l->dw, l->y, l->out,
                                    l->out, &xt, false, l->live, 0);
    }
}

static double seconds(layer *l) {
    double begin = pare_now_s();
    pare_team_run(l->rt, run_product, l);
    return pare_now_s() - begin;
}

/* A line: milliseconds of the whole matrix's three products, then how many times faster they are
 * with the mask, each and together. */
static void measure(layer *l, const char *structure, const pare_live *live) {
    double best[PRODUCTS][2], sum[2] = {0};
    for (int p = 0; p < PRODUCTS; p++)
        for (int i = 0; i < 2 * (ROUNDS + 1); i++) {
            l->product = p;
            l->live = i % 2 ? (pare_live *)live : NULL;
            double s = seconds(l);
            if (i < 2 || s < best[p][i % 2]) best[p][i % 2] = s;
        }
    for (int p = 0; p < PRODUCTS; p++)
        for (int i = 0; i < 2; i++) sum[i] += best[p][i];
    printf("%4zu x %-4zu %-22s %6.1f %6.1f %6.1f  %5.2f %5.2f %5.2f  %5.2f   %5.1f%% %5.1f%%\n",
           l->out, l->in, structure, 1e3 * best[0][0], 1e3 * best[1][0], 1e3 * best[2][0],
           best[0][0] / best[0][1], best[1][0] / best[1][1], best[2][0] / best[2][1],
           sum[0] / sum[1], 100 * live->y, 100 * live->dx);
    fflush(stdout);
}

static pare_status with_mask(layer *l, const char *structure, double sparsity, pare_error *err) {
    pare_trained t = {
        .name = "w", .dims = {l->out, l->in}, .n_dims = 2, .w = l->w, .role = PARE_ROLE_LINEAR};
    pare_pruner *p = NULL;
    pare_live *live = NULL;
    char spec[100];
    if (sparsity > 0)
        snprintf(spec, sizeof spec, "random:sparsity=%g,type=%s,schedule=none", sparsity,
                 structure);
    else
        snprintf(spec, sizeof spec, "random:sparsity=%s,schedule=none", structure);
    pare_status st = pare_pruner_create(&p, l->rt, spec, &t, 1, 1, err);
    for (size_t i = 0; i < l->out * l->in; i++) l->w[i] = 0.02f * pare_rng_normal(1, 0, i);
    if (st == PARE_OK) st = pare_pruner_instant_sparsify(p, NULL, err);
    if (st == PARE_OK) st = pare_live_create(&live, l->out, l->in, err);
    if (st == PARE_OK) {
        char name[60];
        pare_live_set(l->rt, live, pare_pruner_mask(p, 0), false);
        snprintf(name, sizeof name, sparsity > 0 ? "%s %g" : "%s", structure, sparsity);
        measure(l, name, live);
    }
    pare_live_free(live);
    pare_pruner_free(p);
    return st;
}

static pare_status shape(layer *l, size_t out, size_t in, pare_error *err) {
    static const char *const structures[] = {"block_16x16", "block_8x8", "block_4x4", "weight"};
    static const double sparsities[] = {0.5, 0.7, 0.8, 0.9, 0.95, 0.98};
    size_t floats = 2 * out * in + l->n * (2 * in + out) + 64,
           scratch =
               pare_linear_scratch_bytes(l->n, in > out ? in : out, pare_runtime_threads(l->rt),
                                         PARE_COMPUTE_EXACT) +
               pare_linear_backward_scratch_bytes(l->n, in > out ? in : out,
                                                  pare_runtime_threads(l->rt), PARE_COMPUTE_EXACT);
    l->out = out;
    l->in = in;
    l->w = pare_big_alloc(floats * sizeof *l->w);
    l->scratch = pare_big_alloc(scratch);
    if (!l->w || !l->scratch) return pare_fail(err, PARE_ERR_NOMEM, "out of memory");
    l->x = l->w + out * in + 16;
    l->y = l->x + l->n * in + 16;
    l->dx = l->y + l->n * out + 16;
    l->dw = l->dx + l->n * in + 16;
    for (size_t i = 0; i < l->n * in; i++) l->x[i] = pare_rng_normal(2, 0, i);
    for (size_t i = 0; i < l->n * out; i++) l->y[i] = pare_rng_normal(3, 0, i);
    pare_status st = PARE_OK;
    for (size_t s = 0; s < 4 && st == PARE_OK; s++)
        for (size_t k = 0; k < 6 && st == PARE_OK; k++)
            st = with_mask(l, structures[s], sparsities[k], err);
    if (st == PARE_OK) st = with_mask(l, "2:4", 0, err);
    pare_big_free(l->w, floats * sizeof *l->w);
    pare_big_free(l->scratch, scratch);
    return st;
}

int main(int argc, char **argv) {
    static const size_t shapes[][2] = {
        {256, 256}, {688, 256}, {256, 688}, {1536, 576}, {576, 1536}};
    pare_options options = pare_options_default();
    pare_error err = {0};
    layer l = {.n = argc > 2 ? strtoul(argv[2], NULL, 10) : 2048};
    options.n_threads = argc > 1 ? atoi(argv[1]) : 0;
    pare_status st = pare_runtime_create(&l.rt, &options, &err);
    if (st == PARE_OK)
        printf("%zu tokens, %d threads; out x in, mask; ms of y, dx, dw; times faster: y, dx, dw, "
               "all; share multiplied: y, dx and dw\n",
               l.n, pare_runtime_threads(l.rt));
    for (int i = 3; st == PARE_OK && i < argc; i++) {
        char *rest;
        size_t out = strtoul(argv[i], &rest, 10), in = *rest ? strtoul(rest + 1, NULL, 10) : 0;
        if (out && in) st = shape(&l, out, in, &err);
    }
    for (size_t i = 0; argc <= 3 && st == PARE_OK && i < sizeof shapes / sizeof *shapes; i++)
        st = shape(&l, shapes[i][0], shapes[i][1], &err);
    if (st != PARE_OK) fprintf(stderr, "bench_sparse_linear: %s\n", err.message);
    pare_runtime_free(l.rt);
    return st != PARE_OK;
}
