/* Two models over the same windows, side by side. A window runs in pieces small enough that the
 * logits of both fit in memory; what is kept of a piece is four numbers a token.
 *
 *     KL(base || model) = sum_v p_base(v) * (log p_base(v) - log p(v))
 *
 * over the full vocabulary. (llama.cpp's files hold log p in 16 bits, clamped 16 below the largest:
 * its figures differ from these by what that loses.) */
#include "eval/perplexity.h"

#include "base/memory.h"
#include "base/runtime.h"
#include "base/team.h"
#include "kernels/op_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 64 << 20, MIN_ROWS = 16, MAX_ROWS = 512 };

typedef struct row_result {
    double kl;
    float base_logprob, logprob; /* of the token that follows */
    bool same_top, bad;
} row_result;

typedef struct comparison {
    const pare_softmax_kernels *softmax;
    size_t vocab_size, max_rows;
    float *base, *model;   /* [max_rows][vocab_size] */
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

static row_result compare_row(const pare_softmax_kernels *k, const float *base, const float *model,
                              size_t n, int32_t target) {
    double base_lse = k->logsumexp(base, n), lse = k->logsumexp(model, n);
    double kl = k->divergence(base, base_lse, model, lse, n);
    return (row_result){.kl = kl > 0 ? kl : 0, /* rounding may end below the zero it stands for */
                        .base_logprob = (float)((double)base[target] - base_lse),
                        .logprob = (float)((double)model[target] - lse),
                        .same_top = k->argmax(base, n) == k->argmax(model, n),
                        .bad = !isfinite(kl)};
}

static void compare_rows(void *arg, size_t begin, size_t end) {
    comparison *c = arg;
    for (size_t i = begin; i < end; i++)
        c->rows[i] = compare_row(c->softmax, c->base + i * c->vocab_size,
                                 c->model + i * c->vocab_size, c->vocab_size, c->target[i]);
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

/* Appends tokens [begin, end) of the window to both sessions and compares what is scored. */
static pare_status run_piece(comparison *c, pare_runtime *rt, pare_session *const session[2],
                             const pare_ppl_run *run, size_t window, size_t begin, size_t end,
                             pare_error *err) {
    const pare_ppl_plan *plan = &run->plan;
    size_t from = begin > plan->from ? begin : plan->from;
    size_t to = end < plan->ctx - 1 ? end : plan->ctx - 1; /* the last token predicts nothing */
    if (from >= to) {                                      /* nothing to score yet */
        for (int i = 0; i < 2; i++)
            PARE_TRY(pare_session_eval(session[i], run->window + begin, end - begin, NULL, err));
        return PARE_OK;
    }
    float *out[2] = {c->base, c->model};
    for (int i = 0; i < 2; i++) {
        copy_job job = {out[i], c->vocab_size, from - begin, to - from};
        PARE_TRY(pare_session_eval_all(session[i], run->window + begin, end - begin, from - begin,
                                       copy_rows, &job, err));
    }
    c->target = run->window + from + 1;
    pare_parallel_for(rt, to - from, 1, compare_rows, c);
    return add_rows(c, to - from, window, from + 1, err);
}

static pare_status comparison_begin(comparison *c, pare_runtime *rt, const pare_ppl_run *run,
                                    size_t vocab_size, pare_error *err) {
    size_t rows = PIECE_BYTES / sizeof(float) / vocab_size, n_scored;
    rows = rows < MIN_ROWS ? MIN_ROWS : rows > MAX_ROWS ? MAX_ROWS : rows;
    if (rows > run->plan.ctx) rows = run->plan.ctx;
    c->softmax = pare_op_kernels_get(pare_runtime_isa(rt))->softmax;
    c->vocab_size = vocab_size;
    c->max_rows = rows;
    c->base = pare_malloc(rows * vocab_size, sizeof *c->base);
    c->model = pare_malloc(rows * vocab_size, sizeof *c->model);
    c->rows = pare_malloc(rows, sizeof *c->rows);
    if (pare_mul_size(&n_scored, run->plan.n_windows, run->plan.ctx)) {
        c->kl = pare_malloc(n_scored, sizeof *c->kl);
        c->dp = pare_malloc(n_scored, sizeof *c->dp);
    }
    if (!c->base || !c->model || !c->rows || !c->kl || !c->dp)
        return pare_fail(err, PARE_ERR_NOMEM, "distance: out of memory");
    return PARE_OK;
}

static void comparison_end(comparison *c) {
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
        pare_session_truncate(session[0], 0);
        pare_session_truncate(session[1], 0);
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

pare_status pare_eval_against(pare_perplexity *out, pare_distance *distance, pare_runtime *rt,
                              pare_model *m, const pare_tokenizer *tok, pare_model *base,
                              const pare_tokenizer *base_tok, const char *text, size_t len,
                              const pare_eval_options *options, pare_error *err) {
    *out = (pare_perplexity){0};
    *distance = (pare_distance){0};
    pare_ppl_run run;
    comparison c = {0};
    pare_session *session[2] = {NULL, NULL}; /* base, model */
    pare_status st = pare_ppl_begin(&run, m, tok, text, len, options, err);
    if (st == PARE_OK) st = check_same(&run, m, base, base_tok, text, len, err);
    if (st == PARE_OK) st = comparison_begin(&c, rt, &run, pare_model_vocab_size(m), err);
    if (st == PARE_OK) st = pare_ppl_session(&session[0], &run, base, err);
    if (st == PARE_OK) st = pare_ppl_session(&session[1], &run, m, err);
    if (st == PARE_OK) st = run_windows(&c, rt, session, &run, err);
    if (st == PARE_OK) {
        pare_ppl_finish(out, &run, &c.sum);
        summarise(distance, &c);
    }
    pare_session_free(session[0]);
    pare_session_free(session[1]);
    comparison_end(&c);
    pare_ppl_end(&run);
    return st;
}
