/* Single kernels against the limits of the same run: options, clock, order. Of several samples the
 * best counts, as with the limits. */
#include "eval/kernel_bench.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "kernels/rope.h"
#include "pare/encoding.h"

#include <string.h>

#define SAMPLE_S 0.02
enum { MAX_DIM = 1 << 20, MAX_ROWS = 1 << 16, MAX_HEADS = 4096, MAX_CTX = 1 << 24 };

static const size_t default_rows[] = {1, 4, 8, 16, 64, 512};

static const char *const kernels[] = {
    "linear_exact", "linear_fast", "encode",  "decode",      "attention", "attention_fast",
    "kv_store",     "kv_load",     "rmsnorm", "add_rmsnorm", "layernorm", "rope",
    "softmax",      "logsumexp",   "argmax",  "silu_mul",    "gelu_mul",  "softcap",
    "quantize",     "mask_select", "adamw",
};
enum { N_KERNELS = sizeof kernels / sizeof *kernels };

const char *pare_bench_kernel_name(size_t i) { return i < N_KERNELS ? kernels[i] : NULL; }

pare_kernel_bench_options pare_kernel_bench_options_default(void) {
    return (pare_kernel_bench_options){.out_dim = 2048,
                                       .in_dim = 5632,
                                       .n_heads = 32,
                                       .n_kv_heads = 8,
                                       .head_dim = 128,
                                       .ctx = 4096,
                                       .reps = 3};
}

static bool is_kernel(const char *name) {
    for (size_t i = 0; i < N_KERNELS; i++)
        if (strcmp(name, kernels[i]) == 0) return true;
    return false;
}

static pare_status check_range(const char *what, size_t value, size_t max, pare_error *err) {
    if (value >= 1 && value <= max) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG, "bench: %s: found %zu, expected 1 to %zu", what, value,
                     max);
}

static pare_status check_options(const pare_kernel_bench_options *o, pare_error *err) {
    PARE_TRY(check_range("outputs", o->out_dim, MAX_DIM, err));
    PARE_TRY(check_range("inputs", o->in_dim, MAX_DIM, err));
    PARE_TRY(check_range("heads", o->n_heads, MAX_HEADS, err));
    PARE_TRY(check_range("key-value heads", o->n_kv_heads, o->n_heads, err));
    PARE_TRY(check_range("head width", o->head_dim, 2 * PARE_ROPE_MAX_HALF, err));
    PARE_TRY(check_range("context", o->ctx, MAX_CTX, err));
    PARE_TRY(check_range("repetitions", o->reps, 1000, err));
    for (size_t i = 0; i < o->n_rows; i++) PARE_TRY(check_range("rows", o->rows[i], MAX_ROWS, err));
    if (o->n_heads % o->n_kv_heads || o->head_dim % 2)
        return pare_fail(err, PARE_ERR_ARG,
                         "bench: found %zu heads, %zu key-value heads, width %zu, expected a "
                         "multiple of the key-value heads and an even width",
                         o->n_heads, o->n_kv_heads, o->head_dim);
    for (size_t i = 0; i < o->n_encodings; i++)
        if (!pare_encoding_find(o->encodings[i]))
            return pare_fail(err, PARE_ERR_ARG, "bench: found encoding '%s', expected a known one",
                             o->encodings[i]);
    for (size_t i = 0; i < o->n_kernels; i++)
        if (!is_kernel(o->kernels[i]))
            return pare_fail(err, PARE_ERR_ARG, "bench: found kernel '%s', expected a known one",
                             o->kernels[i]);
    return PARE_OK;
}

bool pare_kernel_wanted(const pare_kernel_bench *b, const char *kernel) {
    bool wanted = b->o->n_kernels == 0;
    for (size_t i = 0; i < b->o->n_kernels; i++) wanted |= strcmp(b->o->kernels[i], kernel) == 0;
    return wanted;
}

/* --- the clock --- */

pare_status pare_kernel_time(double *seconds, const pare_kernel_bench *b, pare_kernel_calls calls,
                             void *arg, pare_error *err) {
    double start = pare_now_s(), one;
    calls(b->rt, arg, 0, 1);
    size_t next = 1;
    if ((one = pare_now_s() - start) < SAMPLE_S) { /* the first may have waited for pages */
        start = pare_now_s();
        calls(b->rt, arg, next++, 1);
        one = pare_now_s() - start;
    }
    size_t n = (size_t)(SAMPLE_S / (one + 1e-7)) + 1;
    for (size_t i = 0; i < b->o->reps; i++, next += n) {
        PARE_TRY(pare_check_cancel(b->rt, err));
        start = pare_now_s();
        calls(b->rt, arg, next, n);
        double s = (pare_now_s() - start) / (double)n;
        if (i == 0 || s < *seconds) *seconds = s;
    }
    return PARE_OK;
}

typedef struct team_calls {
    pare_kernel_fn fn;
    void *arg;
    size_t first, n;
} team_calls;

static void run_on_worker(pare_worker *w, void *arg) {
    const team_calls *t = arg;
    for (size_t i = 0; i < t->n; i++) t->fn(w, t->arg, t->first + i);
}

static void run_on_team(pare_runtime *rt, void *arg, size_t first, size_t n) {
    team_calls *t = arg;
    t->first = first;
    t->n = n;
    pare_team_run(rt, run_on_worker, t);
}

pare_status pare_kernel_team_time(double *seconds, const pare_kernel_bench *b, pare_kernel_fn fn,
                                  void *arg, pare_error *err) {
    team_calls t = {.fn = fn, .arg = arg};
    return pare_kernel_time(seconds, b, run_on_team, &t, err);
}

/* --- data --- */

size_t pare_kernel_copies(const pare_kernel_bench *b, size_t bytes) {
    size_t n = b->o->cached ? 1 : pare_beyond_caches() / 2 / (bytes ? bytes : 1);
    return n ? n : 1;
}

pare_status pare_kernel_read_limit(double *rate, const pare_kernel_bench *b, size_t bytes,
                                   pare_error *err) {
    *rate = b->limits.dram_read_bytes_per_s;
    return b->o->cached ? pare_limits_read_rate(rate, b->rt, bytes, err) : PARE_OK;
}

typedef struct normals {
    float *values, scale;
    uint64_t seed, stream;
} normals;

static void fill_normals(void *arg, size_t begin, size_t end) {
    const normals *f = arg;
    for (size_t i = begin; i < end; i++)
        f->values[i] = f->scale * pare_rng_normal(f->seed, f->stream, i);
}

void pare_kernel_normals(const pare_kernel_bench *b, float *values, size_t n, float scale,
                         uint64_t stream) {
    normals f = {
        .values = values, .scale = scale, .seed = pare_runtime_seed(b->rt), .stream = stream};
    pare_parallel_for(b->rt, n, 4096, fill_normals, &f);
}

pare_fwd pare_kernel_fwd(pare_worker *w, pare_isa isa) {
    /* an arena without a base would only plan; this one has no room, and nothing takes any */
    return (pare_fwd){
        .w = w, .isa = isa, .k = pare_op_kernels_get(isa), .arena = {.base = (uint8_t *)w}};
}

/* --- all of them --- */

pare_status pare_bench_kernels(pare_limits *limits, pare_runtime *rt,
                               const pare_kernel_bench_options *options, pare_error *err) {
    pare_kernel_bench_options o = *options;
    if (!o.n_rows) {
        o.rows = default_rows;
        o.n_rows = sizeof default_rows / sizeof *default_rows;
    }
    PARE_TRY(check_options(&o, err));
    pare_kernel_bench b = {.rt = rt, .o = &o};
    for (size_t i = 0; i < o.n_rows; i++)
        if (o.rows[i] > b.max_rows) b.max_rows = o.rows[i];
    PARE_TRY(pare_limits_measure(&b.limits, rt, err));
    *limits = b.limits;
    PARE_TRY(pare_kernel_bench_linear(&b, err));
    PARE_TRY(pare_kernel_bench_attention(&b, err));
    PARE_TRY(pare_kernel_bench_operators(&b, err));
    return pare_kernel_bench_training(&b, err);
}
