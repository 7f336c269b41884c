/* Perplexity under the two protocols of pare/eval.h. Sums run in double over the windows in their
 * order, so that the number does not depend on threads. */
#include "eval/perplexity.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/runtime.h"
#include "eval/save_logits.h"
#include "model/model.h"
#include "model/prefix.h"
#include "text/wikitext.h"

#include <math.h>
#include <string.h>

/* Logarithms computed in f32 may end a little above 0. */
#define ROUNDING 1e-3

const char *pare_protocol_name(pare_protocol protocol) {
    return protocol == PARE_PROTOCOL_LLAMA_CPP ? "llama.cpp" : "hf";
}

pare_eval_options pare_eval_options_default(void) {
    return (pare_eval_options){.compute = PARE_COMPUTE_EXACT};
}

pare_status pare_eval_tokens(pare_ids *ids, const pare_tokenizer *tok, const char *text, size_t len,
                             pare_protocol protocol, pare_error *err) {
    if (protocol == PARE_PROTOCOL_LLAMA_CPP) {
        if (len && text[len - 1] == '\n') len--;
        return pare_tokenizer_encode(tok, ids, text, len, PARE_TOK_ADD_SPECIAL, err);
    }
    char *joined;
    size_t n;
    PARE_TRY(pare_text_hf_rows(&joined, &n, text, len, err));
    pare_status st = pare_tokenizer_encode(tok, ids, joined, n, PARE_TOK_ADD_SPECIAL, err);
    pare_free(joined);
    return st;
}

/* --- memory --- */

/* The session is that of the evaluation; what nobody touches takes no memory. */
static pare_status session_memory(uint64_t *bytes, pare_model *m, const pare_eval_options *options,
                                  pare_error *err) {
    const size_t most = SIZE_MAX / 4; /* tokens: the text is not looked at */
    pare_ppl_run run = {.options = *options};
    pare_session *s;
    PARE_TRY(pare_ppl_plan_make(&run.plan, options, most, pare_model_ctx_max(m), -1, err));
    PARE_TRY(pare_ppl_session(&s, &run, m, err));
    *bytes = pare_session_bytes(s);
    pare_session_free(s);
    return PARE_OK;
}

pare_status pare_eval_perplexity_memory(uint64_t *weights, uint64_t *others, pare_runtime *rt,
                                        const char *model, size_t len,
                                        const pare_eval_options *options, pare_error *err) {
    const pare_eval_options o = options ? *options : pare_eval_options_default();
    pare_source *source;
    pare_model *m;
    PARE_TRY(pare_source_open(&source, model, err));
    PARE_TRY(pare_model_open(&m, rt, source, err));
    pare_status st = pare_model_load_own_prefix(m, err);
    *weights = pare_model_weight_bytes(m);
    if (st == PARE_OK) st = session_memory(others, m, &o, err);
    /* the rows joined, and ids of four bytes for at least two characters each */
    if (st == PARE_OK) *others += 3 * (uint64_t)len;
    pare_model_free(m);
    return st;
}

/* --- windows --- */

pare_status pare_ppl_plan_make(pare_ppl_plan *plan, const pare_eval_options *options,
                               size_t n_tokens, size_t ctx_max, int32_t bos, pare_error *err) {
    bool llama = options->protocol == PARE_PROTOCOL_LLAMA_CPP;
    const char *name = options->name ? options->name : "text";
    size_t ctx = options->ctx ? options->ctx : llama ? 512 : 2048;
    if (!options->ctx && ctx_max && ctx > ctx_max) ctx = ctx_max;
    if (ctx < 2 || (ctx_max && ctx > ctx_max))
        return pare_fail(err, PARE_ERR_ARG,
                         "context: found %zu tokens, expected 2 to %zu (the model's maximum)", ctx,
                         ctx_max);
    size_t least = llama ? 2 * ctx : ctx;
    if (n_tokens < least)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found %zu tokens, expected at least %zu (%s of %zu)", name, n_tokens,
                         least, llama ? "two windows" : "one window", ctx);
    *plan = (pare_ppl_plan){.ctx = ctx,
                            .n_windows = n_tokens / ctx,
                            .from = llama ? ctx / 2 : 0,
                            .bos = llama ? bos : -1};
    if (plan->from + 1 >= ctx) plan->from = ctx - 2; /* ctx 2: the one token that can be scored */
    if (options->max_windows && plan->n_windows > options->max_windows)
        plan->n_windows = options->max_windows;
    return PARE_OK;
}

void pare_ppl_window(int32_t *out, const pare_ppl_plan *plan, const int32_t *ids, size_t k) {
    memcpy(out, ids + k * plan->ctx, plan->ctx * sizeof *out);
    if (plan->bos >= 0) out[0] = plan->bos;
}

/* --- sums --- */

pare_status pare_ppl_add(pare_ppl_sum *sum, const float *logprob, size_t n, size_t window,
                         size_t first, pare_error *err) {
    for (size_t i = 0; i < n; i++) {
        double nll = -(double)logprob[i];
        if (!(nll >= -ROUNDING && nll < INFINITY))
            return pare_fail(err, PARE_ERR_INPUT,
                             "perplexity: window %zu, token %zu: found log p = %g after %zu scored "
                             "tokens, expected a finite number of at most 0",
                             window, first + i, (double)logprob[i], sum->n);
        sum->nll += nll;
        sum->nll2 += nll * nll;
        sum->n++;
    }
    return PARE_OK;
}

double pare_ppl_value(const pare_ppl_sum *sum) { return exp(sum->nll / (double)sum->n); }

double pare_ppl_stderr(const pare_ppl_sum *sum) {
    if (sum->n < 2) return 0;
    double mean = sum->nll / (double)sum->n, var = sum->nll2 / (double)sum->n - mean * mean;
    return var > 0 ? pare_ppl_value(sum) * sqrt(var / (double)(sum->n - 1)) : 0;
}

/* --- a run --- */

/* Ids and plan are there. */
static pare_status start(pare_ppl_run *run, const pare_tokenizer *tok, pare_error *err) {
    run->bos = pare_tokenizer_added_bos(tok);
    run->window = pare_malloc(run->plan.ctx, sizeof *run->window);
    if (!run->window) return pare_fail(err, PARE_ERR_NOMEM, "perplexity: out of memory");
    run->start_s = pare_now_s();
    return PARE_OK;
}

pare_status pare_ppl_begin(pare_ppl_run *run, const pare_model *m, const pare_tokenizer *tok,
                           const char *text, size_t len, const pare_eval_options *options,
                           pare_error *err) {
    *run = (pare_ppl_run){.options = options ? *options : pare_eval_options_default()};
    PARE_TRY(pare_eval_tokens(&run->ids, tok, text, len, run->options.protocol, err));
    PARE_TRY(pare_ppl_plan_make(&run->plan, &run->options, run->ids.n, pare_model_ctx_max(m),
                                pare_tokenizer_added_bos(tok), err));
    return start(run, tok, err);
}

pare_status pare_ppl_begin_logits(pare_ppl_run *run, pare_logits_file *f, const pare_tokenizer *tok,
                                  pare_error *err) {
    size_t n = f->n_windows * f->ctx, most = run->options.max_windows;
    run->options.protocol = PARE_PROTOCOL_LLAMA_CPP;
    run->ids = (pare_ids){f->ids, n, n};
    f->ids = NULL;
    run->plan = (pare_ppl_plan){.ctx = f->ctx,
                                .n_windows = most && most < f->n_windows ? most : f->n_windows,
                                .from = f->ctx / 2,
                                .bos = pare_tokenizer_added_bos(tok)};
    return start(run, tok, err);
}

size_t pare_ppl_skip(const pare_ppl_run *run, const pare_model *m) {
    const size_t ctx = run->plan.ctx;
    return ctx > 2 ? pare_model_prefix_has_bos(m, run->bos, run->window, ctx) : 0;
}

pare_status pare_ppl_session(pare_session **out, const pare_ppl_run *run, pare_model *m,
                             pare_error *err) {
    pare_session_options so = pare_session_options_default();
    so.n_ctx = run->plan.ctx;
    so.compute = run->options.compute;
    so.kv = run->options.kv;
    return pare_session_create(out, m, &so, err);
}

void pare_ppl_finish(pare_perplexity *out, const pare_ppl_run *run, const pare_ppl_sum *sum) {
    double seconds = pare_now_s() - run->start_s;
    *out = (pare_perplexity){.protocol = run->options.protocol,
                             .compute = run->options.compute,
                             .ctx = run->plan.ctx,
                             .ppl = pare_ppl_value(sum),
                             .ppl_stderr = pare_ppl_stderr(sum),
                             .nll_sum = sum->nll,
                             .n_scored = sum->n,
                             .n_tokens = run->ids.n,
                             .n_windows = run->plan.n_windows,
                             .crc32 = pare_ids_crc32(run->ids.data, run->ids.n),
                             .seconds = seconds};
    double computed = (double)run->plan.n_windows * (double)run->plan.ctx;
    out->tokens_per_s = seconds > 0 ? computed / seconds : 0;
}

void pare_ppl_end(pare_ppl_run *run) {
    pare_ids_free(&run->ids);
    pare_free(run->window);
    run->window = NULL;
}

/* saver: where the distributions go; NULL: nowhere. */
static pare_status run_windows(pare_ppl_sum *sum, pare_runtime *rt, pare_session *session,
                               const pare_model *m, const pare_ppl_run *run,
                               pare_logits_saver *saver, float *logprob, pare_error *err) {
    const pare_ppl_plan *plan = &run->plan;
    for (size_t k = 0; k < plan->n_windows; k++) {
        pare_progress(rt, "perplexity", (double)k, (double)plan->n_windows, "windows");
        PARE_TRY(pare_check_cancel(rt, err));
        pare_ppl_window(run->window, plan, run->ids.data, k);
        pare_session_truncate(session, 0);
        size_t skip = pare_ppl_skip(run, m), from = skip > plan->from ? skip : plan->from;
        if (saver)
            PARE_TRY(pare_logits_saver_window(saver, session, run->window, skip, logprob, err));
        else
            PARE_TRY(pare_session_logprobs(session, run->window + skip, plan->ctx - skip,
                                           from - skip, logprob, err));
        PARE_TRY(pare_ppl_add(sum, logprob, plan->ctx - 1 - from, k, from + 1, err));
        if (run->options.on_window)
            run->options.on_window(run->options.arg, k + 1, plan->n_windows, pare_ppl_value(sum));
    }
    pare_progress(rt, "perplexity", (double)plan->n_windows, (double)plan->n_windows, "windows");
    return PARE_OK;
}

/* path: of the base file to write, or NULL. */
static pare_status run_text(pare_perplexity *out, pare_runtime *rt, pare_model *m,
                            const pare_ppl_run *run, const char *path, pare_error *err) {
    pare_ppl_sum sum = {0};
    pare_session *session = NULL;
    pare_logits_saver saver = {0};
    if (path)
        PARE_TRY(pare_logits_saver_begin(&saver, rt, run, pare_model_vocab_size(m), path, err));
    float *logprob = pare_malloc(run->plan.ctx, sizeof *logprob);
    pare_status st = logprob ? pare_ppl_session(&session, run, m, err)
                             : pare_fail(err, PARE_ERR_NOMEM, "perplexity: out of memory");
    if (st == PARE_OK)
        st = run_windows(&sum, rt, session, m, run, path ? &saver : NULL, logprob, err);
    if (st == PARE_OK) pare_ppl_finish(out, run, &sum);
    if (path) st = pare_logits_saver_end(&saver, st, err);
    pare_free(logprob);
    pare_session_free(session);
    return st;
}

static pare_status perplexity(pare_perplexity *out, pare_runtime *rt, pare_model *m,
                              const pare_tokenizer *tok, const char *text, size_t len,
                              const char *path, const pare_eval_options *options, pare_error *err) {
    *out = (pare_perplexity){0};
    pare_ppl_run run;
    pare_status st = pare_ppl_begin(&run, m, tok, text, len, options, err);
    if (st == PARE_OK) st = run_text(out, rt, m, &run, path, err);
    pare_ppl_end(&run);
    return st;
}

pare_status pare_eval_perplexity(pare_perplexity *out, pare_runtime *rt, pare_model *m,
                                 const pare_tokenizer *tok, const char *text, size_t len,
                                 const pare_eval_options *options, pare_error *err) {
    return perplexity(out, rt, m, tok, text, len, NULL, options, err);
}

pare_status pare_eval_save_logits(pare_perplexity *out, pare_runtime *rt, pare_model *m,
                                  const pare_tokenizer *tok, const char *text, size_t len,
                                  const char *path, const pare_eval_options *options,
                                  pare_error *err) {
    return perplexity(out, rt, m, tok, text, len, path, options, err);
}
