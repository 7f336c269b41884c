/* Two models over the same windows, side by side, or a model beside the distributions that a file
 * holds. A window runs in pieces small enough that the logits of both fit in memory; what is kept
 * of a piece is four numbers a token.
 *
 *     KL(base || model) = sum_v p_base(v) * (log p_base(v) - log p(v))
 *
 * over the full vocabulary; with a file as llama.cpp takes it (pare/eval.h). */
#include "eval/perplexity.h"

#include "base/memory.h"
#include "base/runtime.h"
#include "base/team.h"
#include "io/logits_file.h"
#include "kernels/op_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 64 << 20, MIN_ROWS = 16, MAX_ROWS = 512 };
enum { BASE, MODEL };

/* What a file gives no more than this is not part of its KL. */
#define FILE_FLOOR (-16.0f)

typedef struct row_result {
    double kl;
    float base_logprob, logprob; /* of the token that follows */
    bool same_top, bad;
} row_result;

typedef struct comparison {
    const pare_softmax_kernels *softmax;
    const pare_logits_file *file; /* holds the base's distributions; NULL: a model gives them */
    uint16_t *codes;              /* [max_rows][file->row_codes] */
    size_t vocab_size, max_rows;
    float *base, *model;   /* [max_rows][vocab_size]; base: with a file log p */
    const int32_t *target; /* [rows] of the piece */
    row_result *rows;      /* [max_rows] */
    pare_ppl_sum sum, base_sum;
    double *kl, *dp; /* [n_windows * scored], owned: for percentiles; dp = p - p_base of the text */
    double nll2, base_nll2, product; /* sums of squares of -log p, and of both's products */
    size_t n_same;
} comparison;

const double pare_kl_shares[PARE_N_KL_SHARES] = {0.999, 0.99, 0.95, 0.9, 0.1, 0.05, 0.01};
const double pare_dp_shares[PARE_N_DP_SHARES] = {0.999, 0.99, 0.95, 0.9,  0.75, 0.5,
                                                 0.25,  0.1,  0.05, 0.01, 0.001};

typedef struct copy_job {
    float *out;
    size_t vocab_size, skip, n; /* rows before the first kept one; rows kept at most */
} copy_job;

static int copy_rows(void *arg, size_t first, size_t n_rows, const float *logits) {
    copy_job *job = arg;
    for (size_t i = 0; i < n_rows; i++) {
        size_t row = first + i;
        if (row < job->skip || row - job->skip >= job->n) continue;
        memcpy(job->out + (row - job->skip) * job->vocab_size, logits + i * job->vocab_size,
               job->vocab_size * sizeof *logits);
    }
    return 0;
}

static row_result compare_row(const comparison *c, float *base, const float *model,
                              int32_t target) {
    const pare_softmax_kernels *k = c->softmax;
    const size_t n = c->vocab_size;
    double base_lse = c->file ? 0 : k->logsumexp(base, n), lse = k->logsumexp(model, n);
    row_result r = {.base_logprob = (float)((double)base[target] - base_lse),
                    .logprob = (float)((double)model[target] - lse),
                    .same_top = k->argmax(base, n) == k->argmax(model, n)};
    for (size_t v = 0; c->file && v < n; v++)
        if (base[v] <= FILE_FLOOR) base[v] = -INFINITY;
    r.kl = k->divergence(base, base_lse, model, lse, n);
    r.bad = !isfinite(r.kl);
    /* rounding may end below the zero it stands for; a file's row does not sum to 1 */
    if (!c->file && r.kl < 0) r.kl = 0;
    return r;
}

static void compare_rows(void *arg, size_t begin, size_t end) {
    comparison *c = arg;
    for (size_t i = begin; i < end; i++) {
        float *base = c->base + i * c->vocab_size;
        if (c->file) pare_logits_file_decode(base, c->file, c->codes + i * c->file->row_codes);
        c->rows[i] = compare_row(c, base, c->model + i * c->vocab_size, c->target[i]);
    }
}

/* Adds the rows of a piece in their order. */
static pare_status add_rows(comparison *c, size_t n, size_t window, size_t first, pare_error *err) {
    for (size_t i = 0; i < n; i++) {
        const row_result *r = &c->rows[i];
        if (r->bad)
            return pare_fail(err, PARE_ERR_INPUT,
                             "distance: window %zu, token %zu: found an infinite or undefined "
                             "distance after %zu tokens, expected a number",
                             window, first + i, c->sum.n);
        PARE_TRY(pare_ppl_add(&c->base_sum, &r->base_logprob, 1, window, first + i, err));
        const double base = (double)r->base_logprob, own = (double)r->logprob;
        c->kl[c->sum.n] = r->kl;
        c->dp[c->sum.n] = exp(own) - exp(base);
        c->base_nll2 += base * base;
        c->nll2 += own * own;
        c->product += own * base;
        c->n_same += r->same_top;
        PARE_TRY(pare_ppl_add(&c->sum, &r->logprob, 1, window, first + i, err));
    }
    return PARE_OK;
}

/* Appends tokens [begin, end) of the window to the sessions, but those that a model's prefix stands
 * for, and compares what is scored. */
static pare_status run_piece(comparison *c, pare_runtime *rt, pare_session *const session[2],
                             const pare_ppl_run *run, size_t window, size_t begin, size_t end,
                             pare_error *err) {
    const pare_ppl_plan *plan = &run->plan;
    size_t from = begin > plan->from ? begin : plan->from, skip[2] = {0};
    for (int i = c->file ? MODEL : BASE; i <= MODEL && begin == 0; i++) {
        skip[i] = pare_ppl_skip(run, pare_session_model(session[i]));
        if (from < skip[i]) from = skip[i];
    }
    size_t to = end < plan->ctx - 1 ? end : plan->ctx - 1; /* the last token predicts nothing */
    float *out[2] = {c->base, c->model};
    for (int i = c->file ? MODEL : BASE; i <= MODEL; i++) {
        const size_t first = begin + skip[i];
        copy_job job = {out[i], c->vocab_size, from - first, to - from};
        if (from >= to) /* nothing to score yet */
            PARE_TRY(pare_session_eval(session[i], run->window + first, end - first, NULL, err));
        else
            PARE_TRY(pare_session_eval_all(session[i], run->window + first, end - first,
                                           from - first, copy_rows, &job, err));
    }
    if (from >= to) return PARE_OK;
    if (c->file)
        PARE_TRY(
            pare_logits_file_read(c->codes, c->file, window, from - plan->from, to - from, err));
    c->target = run->window + from + 1;
    pare_parallel_for(rt, to - from, 1, compare_rows, c);
    return add_rows(c, to - from, window, from + 1, err);
}

/* file: as in comparison. */
static pare_status comparison_begin(comparison *c, pare_runtime *rt, const pare_ppl_run *run,
                                    size_t vocab_size, const pare_logits_file *file,
                                    pare_error *err) {
    size_t rows = PIECE_BYTES / sizeof(float) / vocab_size, n_scored;
    rows = rows < MIN_ROWS ? MIN_ROWS : rows > MAX_ROWS ? MAX_ROWS : rows;
    if (rows > run->plan.ctx) rows = run->plan.ctx;
    c->softmax = pare_op_kernels_get(pare_runtime_isa(rt))->softmax;
    c->file = file;
    c->vocab_size = vocab_size;
    c->max_rows = rows;
    if (file) c->codes = pare_malloc(rows * file->row_codes, sizeof *c->codes);
    c->base = pare_malloc(rows * vocab_size, sizeof *c->base);
    c->model = pare_malloc(rows * vocab_size, sizeof *c->model);
    c->rows = pare_malloc(rows, sizeof *c->rows);
    if (pare_mul_size(&n_scored, run->plan.n_windows, run->plan.ctx)) {
        c->kl = pare_malloc(n_scored, sizeof *c->kl);
        c->dp = pare_malloc(n_scored, sizeof *c->dp);
    }
    if (!c->base || !c->model || !c->rows || !c->kl || !c->dp || (file && !c->codes))
        return pare_fail(err, PARE_ERR_NOMEM, "distance: out of memory");
    return PARE_OK;
}

static void comparison_end(comparison *c) {
    pare_free(c->codes);
    pare_free(c->base);
    pare_free(c->model);
    pare_free(c->rows);
    pare_free(c->kl);
    pare_free(c->dp);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Between the two nearest order statistics, as llama.cpp does. */
static double percentile(const double *sorted, size_t n, double share) {
    double at = share * (double)(n - 1);
    size_t i = (size_t)at;
    if (i + 1 >= n) return sorted[n - 1];
    return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

/* Mean of x[n]^power, and its error. */
static double mean_of(const double *x, size_t n, int power, double *stderr_) {
    double sum = 0, sum2 = 0;
    for (size_t i = 0; i < n; i++) sum += power == 2 ? x[i] * x[i] : x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        double d = (power == 2 ? x[i] * x[i] : x[i]) - mean;
        sum2 += d * d;
    }
    *stderr_ = n > 1 ? sqrt(sum2 / (double)(n - 1) / (double)n) : 0;
    return mean;
}

/* Of the log-likelihoods: both models saw the same tokens, so most of their spread cancels. */
static void summarise_ratio(pare_distance *out, const comparison *c) {
    const double n = (double)c->sum.n, own = c->sum.nll / n, base = c->base_sum.nll / n;
    const double left = n > 1 ? n - 1 : 1, var = (c->nll2 / n - own * own) / left,
                 base_var = (c->base_nll2 / n - base * base) / left,
                 cov = (c->product / n - own * base) / left;
    out->ln_ratio = own - base;
    out->ln_ratio_stderr = sqrt(fmax(var + base_var - 2 * cov, 0));
    out->ppl_ratio = exp(out->ln_ratio);
    out->correlation = var > 0 && base_var > 0 ? cov / sqrt(var * base_var) : (double)NAN;
}

/* Sorts c->kl and c->dp. */
static void summarise(pare_distance *out, comparison *c) {
    size_t n = c->sum.n;
    double error;
    *out = (pare_distance){.base_ppl = pare_ppl_value(&c->base_sum), .n_scored = n};
    out->kl_mean = mean_of(c->kl, n, 1, &out->kl_mean_stderr);
    out->dp_mean = mean_of(c->dp, n, 1, &out->dp_mean_stderr);
    out->dp_rms = sqrt(mean_of(c->dp, n, 2, &error));
    out->dp_rms_stderr = out->dp_rms > 0 ? 0.5 / out->dp_rms * error : 0;
    qsort(c->kl, n, sizeof *c->kl, compare_doubles); /* finite: add_rows refuses others */
    qsort(c->dp, n, sizeof *c->dp, compare_doubles);
    for (size_t i = 0; i < PARE_N_KL_SHARES; i++)
        out->kl_percentile[i] = percentile(c->kl, n, pare_kl_shares[i]);
    for (size_t i = 0; i < PARE_N_DP_SHARES; i++)
        out->dp_percentile[i] = percentile(c->dp, n, pare_dp_shares[i]);
    out->kl_p99 = percentile(c->kl, n, 0.99);
    out->kl_median = percentile(c->kl, n, 0.5);
    out->kl_min = c->kl[0];
    out->kl_max = c->kl[n - 1];
    out->same_top = (double)c->n_same / (double)n;
    out->same_top_stderr = n > 1 ? sqrt(out->same_top * (1 - out->same_top) / (double)(n - 1)) : 0;
    summarise_ratio(out, c);
}

/* The same text must mean the same tokens to both. */
static pare_status check_same(const pare_ppl_run *run, const pare_model *m, const pare_model *base,
                              const pare_tokenizer *base_tok, const char *text, size_t len,
                              pare_error *err) {
    if (pare_model_vocab_size(m) != pare_model_vocab_size(base))
        return pare_fail(
            err, PARE_ERR_INPUT,
            "distance: found a vocabulary of %zu tokens, expected the base model's %zu",
            pare_model_vocab_size(m), pare_model_vocab_size(base));
    if (run->plan.ctx > pare_model_ctx_max(base))
        return pare_fail(err, PARE_ERR_ARG,
                         "context: found %zu tokens, expected at most %zu (the base model's "
                         "maximum)",
                         run->plan.ctx, pare_model_ctx_max(base));
    pare_ids ids = {0};
    pare_status st = pare_eval_tokens(&ids, base_tok, text, len, run->options.protocol, err);
    if (st == PARE_OK &&
        (ids.n != run->ids.n || memcmp(ids.data, run->ids.data, ids.n * sizeof *ids.data) != 0))
        st = pare_fail(err, PARE_ERR_INPUT,
                       "distance: found %zu tokens with CRC %08x, expected the base model's %zu "
                       "with CRC %08x",
                       run->ids.n, (unsigned)pare_ids_crc32(run->ids.data, run->ids.n), ids.n,
                       (unsigned)pare_ids_crc32(ids.data, ids.n));
    pare_ids_free(&ids);
    return st;
}

static pare_status run_windows(comparison *c, pare_runtime *rt, pare_session *const session[2],
                               pare_ppl_run *run, pare_error *err) {
    const pare_ppl_plan *plan = &run->plan;
    for (size_t k = 0; k < plan->n_windows; k++) {
        pare_progress(rt, "comparing", (double)k, (double)plan->n_windows, "windows");
        pare_ppl_window(run->window, plan, run->ids.data, k);
        for (int i = c->file ? MODEL : BASE; i <= MODEL; i++) pare_session_truncate(session[i], 0);
        for (size_t begin = 0; begin < plan->ctx; begin += c->max_rows) {
            PARE_TRY(pare_check_cancel(rt, err));
            size_t end = begin + c->max_rows < plan->ctx ? begin + c->max_rows : plan->ctx;
            PARE_TRY(run_piece(c, rt, session, run, k, begin, end, err));
        }
        if (run->options.on_window)
            run->options.on_window(run->options.arg, k + 1, plan->n_windows,
                                   pare_ppl_value(&c->sum));
    }
    pare_progress(rt, "comparing", (double)plan->n_windows, (double)plan->n_windows, "windows");
    return PARE_OK;
}

/* Runs the windows and sums up. base: NULL where a file holds its distributions. */
static pare_status compare(pare_perplexity *out, pare_distance *distance, pare_runtime *rt,
                           pare_ppl_run *run, pare_model *m, pare_model *base,
                           const pare_logits_file *file, pare_error *err) {
    comparison c = {0};
    pare_session *session[2] = {NULL, NULL};
    pare_status st = comparison_begin(&c, rt, run, pare_model_vocab_size(m), file, err);
    if (st == PARE_OK && base) st = pare_ppl_session(&session[BASE], run, base, err);
    if (st == PARE_OK) st = pare_ppl_session(&session[MODEL], run, m, err);
    if (st == PARE_OK) st = run_windows(&c, rt, session, run, err);
    if (st == PARE_OK) {
        pare_ppl_finish(out, run, &c.sum);
        summarise(distance, &c);
    }
    pare_session_free(session[BASE]);
    pare_session_free(session[MODEL]);
    comparison_end(&c);
    return st;
}

pare_status pare_eval_against(pare_perplexity *out, pare_distance *distance, pare_runtime *rt,
                              pare_model *m, const pare_tokenizer *tok, pare_model *base,
                              const pare_tokenizer *base_tok, const char *text, size_t len,
                              const pare_eval_options *options, pare_error *err) {
    *out = (pare_perplexity){0};
    *distance = (pare_distance){0};
    pare_ppl_run run;
    pare_status st = pare_ppl_begin(&run, m, tok, text, len, options, err);
    if (st == PARE_OK) st = check_same(&run, m, base, base_tok, text, len, err);
    if (st == PARE_OK) st = compare(out, distance, rt, &run, m, base, NULL, err);
    pare_ppl_end(&run);
    return st;
}

/* --- a file instead of the base model --- */

bool pare_is_logits_file(const char *path) { return pare_logits_file_is(path); }

static pare_status check_file(const pare_logits_file *f, const pare_model *m,
                              const pare_eval_options *o, pare_error *err) {
    const char *path = f->file.path;
    if (f->vocab_size != pare_model_vocab_size(m))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: n_vocab: found %zu, expected the model's vocabulary of %zu tokens",
                         path, f->vocab_size, pare_model_vocab_size(m));
    if (pare_model_ctx_max(m) && f->ctx > pare_model_ctx_max(m))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: n_ctx: found %zu tokens, expected at most %zu (the model's maximum)",
                         path, f->ctx, pare_model_ctx_max(m));
    if (o->ctx && o->ctx != f->ctx)
        return pare_fail(err, PARE_ERR_ARG, "context: found %zu tokens, expected the %zu of %s",
                         o->ctx, f->ctx, path);
    return PARE_OK;
}

/* A file holds the text's ids up to the end of its last window. */
static pare_status check_text(const pare_logits_file *f, const pare_tokenizer *tok,
                              const char *text, size_t len, const char *name, pare_error *err) {
    const size_t n = f->n_windows * f->ctx;
    pare_ids ids = {0};
    pare_status st = pare_eval_tokens(&ids, tok, text, len, PARE_PROTOCOL_LLAMA_CPP, err);
    size_t same = 0;
    while (st == PARE_OK && same < n && same < ids.n && ids.data[same] == f->ids[same]) same++;
    if (st == PARE_OK && same < n && same < ids.n)
        st = pare_fail(err, PARE_ERR_INPUT, "%s: token %zu: found id %d, expected %d as in %s",
                       f->file.path, same, f->ids[same], ids.data[same], name ? name : "text");
    else if (st == PARE_OK && same < n)
        st = pare_fail(err, PARE_ERR_INPUT, "%s: found %zu tokens, expected at most the %zu of %s",
                       f->file.path, n, ids.n, name ? name : "text");
    pare_ids_free(&ids);
    return st;
}

pare_status pare_eval_against_logits(pare_perplexity *out, pare_distance *distance,
                                     pare_runtime *rt, pare_model *m, const pare_tokenizer *tok,
                                     const char *path, const char *text, size_t len,
                                     const pare_eval_options *options, pare_error *err) {
    *out = (pare_perplexity){0};
    *distance = (pare_distance){0};
    pare_ppl_run run = {.options = options ? *options : pare_eval_options_default()};
    pare_logits_file f;
    PARE_TRY(pare_logits_file_open(&f, path, err));
    pare_status st = check_file(&f, m, &run.options, err);
    if (st == PARE_OK && text) st = check_text(&f, tok, text, len, run.options.name, err);
    if (st == PARE_OK) st = pare_ppl_begin_logits(&run, &f, tok, err);
    if (st == PARE_OK) st = compare(out, distance, rt, &run, m, NULL, &f, err);
    pare_ppl_end(&run);
    pare_logits_file_close(&f);
    return st;
}
