/* How fast a model runs: prefill and decode, timed repetition by repetition. */
#include "pare/bench.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "eval/kernel_bench.h"
#include "model/model.h"

#include <math.h>
#include <string.h>

enum { IDS_STREAM = 0x62656E63, MAX_REPS = 1000, MAX_SEQUENCES = 4096 };

pare_bench_options pare_bench_options_default(void) {
    return (pare_bench_options){.reps = 3, .compute = PARE_COMPUTE_FAST};
}

/* One measurement: sequences that go on from `depth` tokens. */
typedef struct bench {
    pare_session *base;      /* holds these tokens */
    pare_session **sessions; /* [n_sequences] its forks, new ones for each repetition */
    int32_t *ids;            /* [depth + total] of every sequence */
    const int32_t **next;    /* [n_sequences] what a step appends to each, and how much */
    size_t *count;
    float *logits;             /* [n_sequences][vocab_size] */
    double *rate;              /* [reps] tokens a second */
    size_t depth, total, step; /* total tokens of a sequence and repetition, step of them at once */
    size_t n_sequences;
} bench;

static void free_forks(bench *b) {
    for (size_t i = 0; b->sessions && i < b->n_sequences; i++) {
        pare_session_free(b->sessions[i]);
        b->sessions[i] = NULL;
    }
}

static void bench_end(bench *b) {
    free_forks(b);
    pare_session_free(b->base);
    pare_free(b->sessions);
    pare_free(b->next);
    pare_free(b->count);
    pare_free(b->ids);
    pare_free(b->logits);
    pare_free(b->rate);
}

/* The sequences' logits and the blocks that each gets of its own, before any is taken. */
static pare_status check_memory(const bench *b, size_t vocab_size, pare_error *err) {
    enum { KEYS = PARE_ATTN_KEYS };
    size_t blocks = (b->depth + b->total + KEYS - 1) / KEYS, own = blocks - b->depth / KEYS;
    double kv = (double)pare_session_kv_bytes(b->base) * (double)own / (double)blocks;
    double bytes = (double)b->n_sequences * (kv + (double)vocab_size * sizeof(float));
    if (pare_has_memory(bytes)) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM,
                     "bench: %zu sequences of %zu tokens: found %zu bytes of memory, expected %.0f",
                     b->n_sequences, b->total, pare_available_bytes(), bytes);
}

static pare_status bench_begin(bench *b, pare_runtime *rt, pare_model *m,
                               const pare_bench_options *o, pare_error *err) {
    size_t positions, ctx_max = pare_model_ctx_max(m), vocab_size = pare_model_vocab_size(m);
    if (b->total == 0 || b->step == 0 || b->n_sequences == 0 || b->n_sequences > MAX_SEQUENCES ||
        o->reps == 0 || o->reps > MAX_REPS)
        return pare_fail(err, PARE_ERR_ARG,
                         "bench: found %zu tokens, %zu a step, %zu sequences, %zu repetitions, "
                         "expected at least 1 of each, at most %d sequences, %d repetitions",
                         b->total, b->step, b->n_sequences, o->reps, MAX_SEQUENCES, MAX_REPS);
    if (!pare_add_size(&positions, b->depth, b->total) || (ctx_max && positions > ctx_max))
        return pare_fail(err, PARE_ERR_ARG,
                         "bench: found %zu tokens after %zu others, expected at most %zu together "
                         "(the model's maximum)",
                         b->total, b->depth, ctx_max);
    pare_session_options so = pare_session_options_default();
    so.n_ctx = positions;
    so.n_batch = b->step < 512 ? 512 : b->step;
    if (so.n_batch < b->n_sequences) so.n_batch = b->n_sequences;
    so.compute = o->compute;
    so.kv = o->kv;
    b->sessions = pare_calloc(b->n_sequences, sizeof(pare_session *));
    b->next = pare_calloc(b->n_sequences, sizeof *b->next);
    b->count = pare_calloc(b->n_sequences, sizeof *b->count);
    b->ids = pare_malloc(positions, sizeof *b->ids);
    b->rate = pare_malloc(o->reps, sizeof *b->rate);
    PARE_TRY(pare_session_create(&b->base, m, &so, err));
    PARE_TRY(check_memory(b, vocab_size, err));
    b->logits = pare_malloc(b->n_sequences * vocab_size, sizeof *b->logits);
    if (!b->sessions || !b->next || !b->count || !b->ids || !b->logits || !b->rate)
        return pare_fail(err, PARE_ERR_NOMEM, "bench: out of memory");
    for (size_t i = 0; i < positions; i++) {
        float u = pare_rng_uniform(pare_runtime_seed(rt), IDS_STREAM, i);
        b->ids[i] = (int32_t)(u * (float)vocab_size);
        if ((size_t)b->ids[i] >= vocab_size) b->ids[i] = 0;
    }
    return pare_session_prefill(b->base, b->ids, b->depth, NULL, "filling the context", err);
}

/* Forks, as a sliding window may not reach back to `depth` when a repetition is over. */
static pare_status repetition(double *rate, bench *b, pare_error *err) {
    free_forks(b);
    for (size_t s = 0; s < b->n_sequences; s++)
        PARE_TRY(pare_session_fork(&b->sessions[s], b->base, err));
    double start = pare_now_s();
    for (size_t i = 0; i < b->total; i += b->step) {
        for (size_t s = 0; s < b->n_sequences; s++) {
            b->next[s] = b->ids + b->depth + i;
            b->count[s] = b->total - i < b->step ? b->total - i : b->step;
        }
        PARE_TRY(
            pare_session_eval_many(b->sessions, b->n_sequences, b->next, b->count, b->logits, err));
    }
    *rate = (double)(b->total * b->n_sequences) / (pare_now_s() - start);
    if (pare_session_position(b->sessions[0]) != b->depth + b->total)
        return pare_fail(err, PARE_ERR_INTERNAL, "bench: %zu tokens computed, expected %zu",
                         pare_session_position(b->sessions[0]), b->depth + b->total);
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

/* Each weight at the rate of its encoding's products; the head's work is a step's, not a token's.
 */
static double op_limit(const pare_limits *limits, const bench *b, const pare_model *m,
                       pare_compute compute) {
    double ops = 0, seconds = 0;
    for (size_t i = 0; i < pare_source_n_tensors(m->source); i++) {
        const pare_source_tensor *t = pare_source_tensor_at(m->source, i);
        if (!pare_model_is_multiplied(m, t)) continue;
        double n = 2.0 * (double)t->n_params;
        const char *products;
        if (strcmp(t->canonical, m->head->name) == 0) n /= (double)b->step;
        ops += n;
        seconds += n / pare_op_limit(&products, limits, t->enc, compute);
    }
    return ops / seconds;
}

/* Logits are wanted of a step's last token only. */
static void finish_row(pare_bench_row *out, const bench *b, const pare_model *m,
                       const pare_limits *limits) {
    const pare_view *w = &m->head->w.view;
    double head = 2.0 * (double)w->rows * (double)w->cols, step = (double)b->step;
    double all = (double)pare_model_flops_per_token(m), n = (double)b->n_sequences;
    out->flop_per_s = out->tokens_per_s * (all - head + head / step);
    uint64_t kv = pare_session_kv_read_bytes(b->base, b->depth + b->total / 2);
    out->bytes_per_token = ((double)pare_model_bytes_per_token(m) / n + (double)kv) / step;
    if (limits) out->op_limit = op_limit(limits, b, m, out->compute);
}

pare_status pare_bench_prefill(pare_bench_row *out, pare_runtime *rt, pare_model *m,
                               const pare_bench_options *options, size_t n, size_t batch,
                               pare_error *err) {
    pare_bench_options o = options ? *options : pare_bench_options_default();
    if (batch == 0) batch = 512;
    if (batch > n && n) batch = n;
    bench b = {.depth = o.depth, .total = n, .step = batch, .n_sequences = 1};
    *out = (pare_bench_row){.what = "prefill", .n = n, .batch = batch};
    pare_status st = run_bench(out, &b, rt, m, &o, err);
    if (st == PARE_OK) finish_row(out, &b, m, o.limits);
    bench_end(&b);
    return st;
}

pare_status pare_bench_decode(pare_bench_row *out, pare_runtime *rt, pare_model *m,
                              const pare_bench_options *options, size_t n, size_t batch,
                              pare_error *err) {
    pare_bench_options o = options ? *options : pare_bench_options_default();
    bench b = {.depth = o.depth, .total = n, .step = 1, .n_sequences = batch};
    *out = (pare_bench_row){.what = "decode", .n = n, .batch = batch};
    pare_status st = run_bench(out, &b, rt, m, &o, err);
    if (st == PARE_OK) finish_row(out, &b, m, o.limits);
    bench_end(&b);
    return st;
}
