/* How fast a model runs: prefill and decode, timed repetition by repetition. */
#include "pare/bench.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "model/model.h"

#include <math.h>
#include <string.h>

enum { IDS_STREAM = 0x62656E63, MAX_REPS = 1000 };

pare_bench_options pare_bench_options_default(void) {
    return (pare_bench_options){.reps = 3, .compute = PARE_COMPUTE_FAST};
}

/* One measurement: a session with `depth` tokens in it. */
typedef struct bench {
    pare_session *session;
    int32_t *ids;              /* [depth + total] */
    float *logits;             /* [vocab_size] */
    double *rate;              /* [reps] tokens a second */
    size_t depth, total, step; /* total tokens a repetition, step of them at once */
} bench;

static void bench_end(bench *b) {
    pare_session_free(b->session);
    pare_free(b->ids);
    pare_free(b->logits);
    pare_free(b->rate);
}

static pare_status bench_begin(bench *b, pare_runtime *rt, pare_model *m,
                               const pare_bench_options *o, pare_error *err) {
    size_t positions, ctx_max = pare_model_ctx_max(m), vocab_size = pare_model_vocab_size(m);
    if (b->total == 0 || b->step == 0 || o->reps == 0 || o->reps > MAX_REPS)
        return pare_fail(
            err, PARE_ERR_ARG,
            "bench: found %zu tokens, %zu a step, %zu repetitions, expected at least 1 "
            "of each and at most %d repetitions",
            b->total, b->step, o->reps, MAX_REPS);
    if (!pare_add_size(&positions, b->depth, b->total) || (ctx_max && positions > ctx_max))
        return pare_fail(err, PARE_ERR_ARG,
                         "bench: found %zu tokens after %zu others, expected at most %zu together "
                         "(the model's maximum)",
                         b->total, b->depth, ctx_max);
    pare_session_options so = pare_session_options_default();
    so.n_ctx = positions;
    so.n_batch = b->step < 512 ? 512 : b->step;
    so.compute = o->compute;
    so.kv = o->kv;
    PARE_TRY(pare_session_create(&b->session, m, &so, err));
    b->ids = pare_malloc(positions, sizeof *b->ids);
    b->logits = pare_malloc(vocab_size, sizeof *b->logits);
    b->rate = pare_malloc(o->reps, sizeof *b->rate);
    if (!b->ids || !b->logits || !b->rate)
        return pare_fail(err, PARE_ERR_NOMEM, "bench: out of memory");
    for (size_t i = 0; i < positions; i++) {
        float u = pare_rng_uniform(pare_runtime_seed(rt), IDS_STREAM, i);
        b->ids[i] = (int32_t)(u * (float)vocab_size);
        if ((size_t)b->ids[i] >= vocab_size) b->ids[i] = 0;
    }
    if (b->depth) PARE_TRY(pare_session_eval(b->session, b->ids, b->depth, NULL, err));
    return PARE_OK;
}

static pare_status repetition(double *rate, bench *b, pare_error *err) {
    pare_session_truncate(b->session, b->depth);
    double start = pare_now_s();
    for (size_t i = 0; i < b->total; i += b->step) {
        size_t n = b->total - i < b->step ? b->total - i : b->step;
        PARE_TRY(pare_session_eval(b->session, b->ids + b->depth + i, n, b->logits, err));
    }
    *rate = (double)b->total / (pare_now_s() - start);
    return PARE_OK;
}

static void mean_and_deviation(pare_bench_row *out, const double *x, size_t n) {
    double sum = 0, sum2 = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    out->tokens_per_s = sum / (double)n;
    for (size_t i = 0; i < n; i++) sum2 += (x[i] - out->tokens_per_s) * (x[i] - out->tokens_per_s);
    out->stddev = n > 1 ? sqrt(sum2 / (double)(n - 1)) : 0;
}

/* The first repetition warms caches and pages and is not counted. */
static pare_status run_bench(pare_bench_row *out, bench *b, pare_runtime *rt, pare_model *m,
                             const pare_bench_options *o, pare_error *err) {
    PARE_TRY(bench_begin(b, rt, m, o, err));
    double warm;
    for (size_t i = 0; i <= o->reps; i++) {
        pare_progress(rt, out->what, (double)i, (double)(o->reps + 1), "repetitions");
        PARE_TRY(pare_check_cancel(rt, err));
        PARE_TRY(repetition(i ? &b->rate[i - 1] : &warm, b, err));
    }
    pare_progress(rt, out->what, (double)(o->reps + 1), (double)(o->reps + 1), "repetitions");
    mean_and_deviation(out, b->rate, o->reps);
    out->depth = b->depth;
    out->reps = o->reps;
    out->compute = o->compute;
    return PARE_OK;
}

/* Bytes of keys and values that a step reads: the cache up to the middle of the repetition. */
static double kv_bytes_per_step(const bench *b) {
    double positions = (double)(b->depth + b->total), middle = (double)b->depth + b->total / 2.0;
    return (double)pare_session_kv_bytes(b->session) * middle / positions;
}

/* Logits are wanted of a step's last token only: the head's work is shared by the whole step. */
static void finish_row(pare_bench_row *out, const bench *b, const pare_model *m) {
    const pare_view *w = &m->head->w.view;
    double head = 2.0 * (double)w->rows * (double)w->cols, step = (double)b->step;
    double all = (double)pare_model_flops_per_token(m);
    out->flop_per_s = out->tokens_per_s * (all - head + head / step);
    out->bytes_per_token = ((double)pare_model_bytes_per_token(m) + kv_bytes_per_step(b)) / step;
}

pare_status pare_bench_prefill(pare_bench_row *out, pare_runtime *rt, pare_model *m,
                               const pare_bench_options *options, size_t n, size_t batch,
                               pare_error *err) {
    pare_bench_options o = options ? *options : pare_bench_options_default();
    if (batch == 0) batch = 512;
    if (batch > n && n) batch = n;
    bench b = {.depth = o.depth, .total = n, .step = batch};
    *out = (pare_bench_row){.what = "prefill", .n = n, .batch = batch};
    pare_status st = run_bench(out, &b, rt, m, &o, err);
    if (st == PARE_OK) finish_row(out, &b, m);
    bench_end(&b);
    return st;
}

pare_status pare_bench_decode(pare_bench_row *out, pare_runtime *rt, pare_model *m,
                              const pare_bench_options *options, size_t n, size_t batch,
                              pare_error *err) {
    pare_bench_options o = options ? *options : pare_bench_options_default();
    bench b = {.depth = o.depth, .step = batch};
    *out = (pare_bench_row){.what = "decode", .n = n, .batch = batch};
    if (!pare_mul_size(&b.total, n, batch))
        return pare_fail(err, PARE_ERR_ARG, "bench: found %zu steps of %zu tokens, expected fewer",
                         n, batch);
    pare_status st = run_bench(out, &b, rt, m, &o, err);
    if (st == PARE_OK) finish_row(out, &b, m);
    bench_end(&b);
    return st;
}
