/* What sparse training does with each weight: the selection of a mask (by |w|, half of them) and
 * the step of an optimizer with a mask, on a tensor of out_dim x in_dim. Both are bound by memory:
 * what is counted is a single pass. */
#include "eval/kernel_bench.h"

#include "base/memory.h"
#include "kernels/select.h"
#include "kernels/update.h"

#include <math.h>

typedef struct training_bench {
    const pare_kernel_bench *b;
    size_t n;
    float *w, *g, *m, *v; /* [n] */
    uint64_t *mask;       /* [pare_bit_words(n)] */
} training_bench;

static void select_half(pare_runtime *rt, void *arg, size_t first, size_t n) {
    const training_bench *t = arg;
    const pare_scored s = {.w = t->w, .n = t->n, .bits = t->mask};
    (void)first;
    for (size_t i = 0; i < n; i++) pare_select(rt, &s, 1, t->n / 2, PARE_TIES_FIRST_STAYS);
}

static void adam_words(void *arg, size_t begin, size_t end) {
    const training_bench *t = arg;
    const pare_update_arrays a = {
        .w = t->w, .g = t->g, .m = t->m, .v = t->v, .mask = t->mask, .g_scale = 1};
    const pare_adam_rule r = {.beta1 = 0.9f,
                              .rest1 = 0.1f,
                              .beta2 = 0.95f,
                              .rest2 = 0.05f,
                              .root_bias2 = 1,
                              .eps = 1e-8f,
                              .step = 1e-6f,
                              .keep = 1};
    size_t last = end * 64 < t->n ? end * 64 : t->n;
    pare_update_kernels_get(pare_runtime_isa(t->b->rt))->adam(&a, &r, begin * 64, last);
}

static void step_all(pare_runtime *rt, void *arg, size_t first, size_t n) {
    const training_bench *t = arg;
    (void)first;
    for (size_t i = 0; i < n; i++)
        pare_parallel_for(rt, pare_bit_words(t->n), 256, adam_words, arg);
}

static pare_status measure(training_bench *t, const char *kernel, double bytes,
                           pare_kernel_calls calls, pare_error *err) {
    const pare_kernel_bench *b = t->b;
    pare_kernel_row row = {.kernel = kernel,
                           .encoding = "f32",
                           .rows = b->o->out_dim,
                           .bytes = bytes * (double)t->n,
                           .rms_error = NAN};
    if (!pare_kernel_wanted(b, kernel)) return PARE_OK;
    PARE_TRY(pare_limits_read_rate(&row.read_limit, b->rt, (size_t)row.bytes, err));
    PARE_TRY(pare_kernel_time(&row.seconds, b, calls, t, err));
    b->o->on_row(b->o->arg, &row);
    return PARE_OK;
}

pare_status pare_kernel_bench_training(const pare_kernel_bench *b, pare_error *err) {
    if (!pare_kernel_wanted(b, "mask_select") && !pare_kernel_wanted(b, "adamw")) return PARE_OK;
    training_bench t = {.b = b, .n = b->o->out_dim * b->o->in_dim};
    size_t bytes = 4 * t.n * sizeof(float) + pare_bit_words(t.n) * sizeof(uint64_t);
    t.mask = pare_big_alloc(bytes);
    if (!t.mask)
        return pare_fail(err, PARE_ERR_NOMEM, "bench: found no memory for %zu weights", t.n);
    t.w = (float *)(t.mask + pare_bit_words(t.n));
    t.g = t.w + t.n;
    t.m = t.g + t.n;
    t.v = t.m + t.n;
    pare_kernel_normals(b, t.w, t.n, 1, 0);
    pare_kernel_normals(b, t.g, t.n, 1, 1);
    pare_status st = measure(&t, "mask_select", 4 + 1.0 / 8, select_half, err);
    if (st == PARE_OK) st = measure(&t, "adamw", 28 + 1.0 / 8, step_all, err);
    pare_big_free(t.mask, bytes);
    return st;
}
