/* The parts of a perplexity that need no model: windows, sums, what they refuse. */
#ifndef PARE_SRC_EVAL_PERPLEXITY_H
#define PARE_SRC_EVAL_PERPLEXITY_H

#include "io/logits_file.h"
#include "pare/eval.h"

/* Which tokens a protocol puts into a window and which of them it scores. */
typedef struct pare_ppl_plan {
    size_t ctx, n_windows;
    size_t from; /* the token at `from` + 1 is the first that is scored */
    int32_t bos; /* takes the place of each window's first token; -1 = no */
} pare_ppl_plan;

/* For a text of n_tokens. ctx 0 = the protocol's; ctx_max: the model's maximum; bos: the token that
 * the tokenizer adds, -1 = none. name: of the text, for messages. */
pare_status pare_ppl_plan_make(pare_ppl_plan *plan, const pare_eval_options *options,
                               size_t n_tokens, size_t ctx_max, int32_t bos, pare_error *err);

/* Tokens of window k into out[ctx]. */
void pare_ppl_window(int32_t *out, const pare_ppl_plan *plan, const int32_t *ids, size_t k);

typedef struct pare_ppl_sum {
    double nll, nll2; /* sums of -log p and of its square */
    size_t n;
} pare_ppl_sum;

/* Adds n natural-log probabilities. window and first say where the first one stands, for the
 * message about a value that is not a probability: -Inf, NaN, or above 0 by more than rounding. */
pare_status pare_ppl_add(pare_ppl_sum *sum, const float *logprob, size_t n, size_t window,
                         size_t first, pare_error *err);

double pare_ppl_value(const pare_ppl_sum *sum);
double pare_ppl_stderr(const pare_ppl_sum *sum);

/* Options with ctx 0 and the like settled, the ids, the plan, an empty session. */
typedef struct pare_ppl_run {
    pare_eval_options options;
    pare_ids ids;
    pare_ppl_plan plan;
    int32_t *window; /* [ctx] */
    int32_t bos;     /* that the tokenizer adds; -1 = none */
    double start_s;
} pare_ppl_run;

/* Free with pare_ppl_end also after a failure. */
pare_status pare_ppl_begin(pare_ppl_run *run, const pare_model *m, const pare_tokenizer *tok,
                           const char *text, size_t len, const pare_eval_options *options,
                           pare_error *err);
/* The windows of a file, whose ids it takes; *run holds the options and nothing else. */
pare_status pare_ppl_begin_logits(pare_ppl_run *run, pare_logits_file *f, const pare_tokenizer *tok,
                                  pare_error *err);
/* How many tokens of the window the model's prefix stands for (pare_model_prefix_has_bos): they are
 * not computed, and what follows them is not scored. 0 where nothing would be left to score. */
size_t pare_ppl_skip(const pare_ppl_run *run, const pare_model *m);
pare_status pare_ppl_session(pare_session **out, const pare_ppl_run *run, pare_model *m,
                             pare_error *err);
/* The result's fields from the run and the sums. */
void pare_ppl_finish(pare_perplexity *out, const pare_ppl_run *run, const pare_ppl_sum *sum);
void pare_ppl_end(pare_ppl_run *run);

#endif
