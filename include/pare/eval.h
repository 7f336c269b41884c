/* Perplexity under a named protocol, the distance of a model to another one, zero-shot tasks.
 *
 *     pare_eval_options eo = pare_eval_options_default();
 *     eo.protocol = PARE_PROTOCOL_LLAMA_CPP;
 *     pare_perplexity ppl;
 *     pare_eval_perplexity(&ppl, rt, model, tok, text, text_len, &eo, &err);
 *     printf("%s-%zu %.4f +- %.4f over %zu tokens\n", pare_protocol_name(ppl.protocol), ppl.ctx,
 *            ppl.ppl, ppl.ppl_stderr, ppl.n_scored);
 */
#ifndef PARE_EVAL_H
#define PARE_EVAL_H

#include "pare/base.h"
#include "pare/model.h"
#include "pare/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What stands behind a perplexity: the two give different numbers for the same model and text.
 *   hf          the lines of the file as rows (blank ones empty, others with their line end) joined
 *               by two line ends, tokenized once with the special tokens that the tokenizer adds;
 *               windows of ctx tokens from position 0, all but the first token of each scored
 *               (GPTQ, SparseGPT, Wanda, AWQ). Default ctx 2048
 *   llama.cpp   the raw text without its last line end; BOS in front and as the first token of each
 *               window where the tokenizer adds it; the second half of each window scored. Needs
 *               two windows. Default ctx 512
 * Behind a prefix that holds it that BOS is not computed (docs/cushion.md). */
typedef enum pare_protocol { PARE_PROTOCOL_HF = 0, PARE_PROTOCOL_LLAMA_CPP } pare_protocol;
/* "hf", "llama.cpp". */
const char *pare_protocol_name(pare_protocol protocol);

typedef struct pare_eval_options {
    pare_protocol protocol;
    size_t ctx;           /* tokens a window; 0 = the protocol's, at most the model's maximum */
    size_t max_windows;   /* 0 = all */
    pare_compute compute; /* default exact: the method is judged, not the kernel */
    const char *kv;       /* as in pare_session_options */
    const char *name;     /* of the text, for messages; NULL = "text" */
    /* After each window: the perplexity so far. May be NULL. */
    void (*on_window)(void *arg, size_t done, size_t total, double ppl);
    void *arg;
} pare_eval_options;
pare_eval_options pare_eval_options_default(void);

typedef struct pare_perplexity {
    pare_protocol protocol;
    pare_compute compute;
    size_t ctx;
    double ppl;        /* exp(nll_sum / n_scored) */
    double ppl_stderr; /* ppl * sqrt((mean(nll^2) - mean(nll)^2) / (n_scored - 1)) */
    double nll_sum;    /* natural logarithm */
    size_t n_scored;   /* tokens that entered the sum */
    size_t n_tokens;   /* of the whole text, BOS counted */
    size_t n_windows;  /* that were computed */
    uint32_t crc32;    /* of the n_tokens ids (pare_ids_crc32) */
    double seconds;    /* without loading and tokenizing */
    double tokens_per_s;
} pare_perplexity;

/* Errors: PARE_ERR_INPUT with counts (text too short for a window, a token of probability 0, a
 * probability that is not a number), PARE_ERR_ARG (ctx below 2 or over the model's maximum),
 * PARE_ERR_INTERRUPTED. */
pare_status pare_eval_perplexity(pare_perplexity *out, pare_runtime *rt, pare_model *m,
                                 const pare_tokenizer *tok, const char *text, size_t len,
                                 const pare_eval_options *options, pare_error *err);

/* Memory that this takes beside the program, a tokenizer and the text itself: the weights of a
 * model (a path; they are not loaded), and what else it is, for a text of len bytes. Errors: those
 * of loading, PARE_ERR_ARG (ctx over the model's maximum), PARE_ERR_NOMEM. */
pare_status pare_eval_perplexity_memory(uint64_t *weights, uint64_t *others, pare_runtime *rt,
                                        const char *model, size_t len,
                                        const pare_eval_options *options, pare_error *err);

/* pare_eval_perplexity, and the distributions of all scored tokens go into a base file of
 * llama.cpp's (`llama-perplexity --kl-divergence-base` writes such files), for --kl-divergence
 * there and pare_eval_against_logits here: two bytes a vocabulary entry, so 25 MB a window of
 * 512 tokens with 49,152 entries. What is more than 16 below a row's largest logit is stored at
 * 16 below. The file appears under its name when it is complete; one that stands there is
 * replaced if it is a base file. options: protocol llama.cpp. Errors: as above; PARE_ERR_ARG
 * (another protocol, a context below 3, another file under the name), PARE_ERR_IO (no room for
 * the file, before any work). */
pare_status pare_eval_save_logits(pare_perplexity *out, pare_runtime *rt, pare_model *m,
                                  const pare_tokenizer *tok, const char *text, size_t len,
                                  const char *path, const pare_eval_options *options,
                                  pare_error *err);

enum { PARE_N_KL_SHARES = 7, PARE_N_DP_SHARES = 11 };

/* How far the distributions of a model lie from those of a base model, over the scored tokens; as
 * llama.cpp's --kl-divergence reports it. */
typedef struct pare_distance {
    double kl_mean;        /* of KL(base || model), natural logarithm, full vocabulary */
    double kl_mean_stderr; /* of the mean */
    double kl_p99;         /* its 99th percentile */
    double kl_min, kl_max, kl_median;
    double kl_percentile[PARE_N_KL_SHARES]; /* at the shares of pare_kl_shares */
    double same_top; /* share of tokens where both put the same id first (the lower on ties) */
    double same_top_stderr;
    /* of p(x) - p_base(x) of the text's own tokens x */
    double dp_mean, dp_mean_stderr, dp_rms, dp_rms_stderr;
    double dp_percentile[PARE_N_DP_SHARES]; /* at the shares of pare_dp_shares */
    double ppl_ratio;                       /* perplexity of the model over that of the base */
    double ln_ratio, ln_ratio_stderr; /* its logarithm; the error knows that both saw one text */
    double correlation;               /* of the two models' log-likelihoods of tokens */
    double base_ppl;
    size_t n_scored;
} pare_distance;

/* 0.999, 0.99, 0.95, 0.9, 0.1, 0.05, 0.01 */
extern const double pare_kl_shares[PARE_N_KL_SHARES];
/* 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001 */
extern const double pare_dp_shares[PARE_N_DP_SHARES];

/* Perplexity of `m` and its distance to `base`, side by side in pieces of a window: neither logits
 * nor files are kept. Both models must give the text the same ids. Errors: as above; PARE_ERR_INPUT
 * when the vocabularies differ. */
pare_status pare_eval_against(pare_perplexity *out, pare_distance *distance, pare_runtime *rt,
                              pare_model *m, const pare_tokenizer *tok, pare_model *base,
                              const pare_tokenizer *base_tok, const char *text, size_t len,
                              const pare_eval_options *options, pare_error *err);

/* True when a file is one of llama.cpp's base files (it begins with "_logits_"). */
bool pare_is_logits_file(const char *path);

/* The same beside the distributions that such a file holds (written by `llama-perplexity
 * --kl-divergence-base FILE`) instead of a base model: protocol llama.cpp, windows and tokens those
 * of the file, BOS in place of each window's first one where the tokenizer adds it. The file is
 * read piece by piece. text NULL: none is needed; else its ids must be the file's, which may end
 * earlier.
 *
 * Values are those that llama.cpp's --kl-divergence gives, up to rounding: log p_base = scale *
 * code
 * + smallest in f32 as the codes have it (16 bits of a range of at most 16: off by up to 1.2e-4,
 * what was further below the largest stands at 16 below), also for base_ppl and dp; a term counts
 * in a KL where log p_base > -16. Since such a row does not sum to 1, a KL may be below 0. Side by
 * side none of this is lost.
 *
 * options: protocol is not used; ctx 0 or the file's. Errors: PARE_ERR_INPUT (a file that is cut
 * off or longer than its counts, counts or ids out of range, a scale that is no number, another
 * vocabulary or text than the model's), PARE_ERR_ARG (another ctx), as above. */
pare_status pare_eval_against_logits(pare_perplexity *out, pare_distance *distance,
                                     pare_runtime *rt, pare_model *m, const pare_tokenizer *tok,
                                     const char *path, const char *text, size_t len,
                                     const pare_eval_options *options, pare_error *err);

/* The ids of a text as a protocol takes them. Free with pare_ids_free. */
pare_status pare_eval_tokens(pare_ids *ids, const pare_tokenizer *tok, const char *text, size_t len,
                             pare_protocol protocol, pare_error *err);

/* --- zero-shot tasks, as lm-evaluation-harness asks them of a causal model without examples --- */

/* Whether a BOS token stands in front of every request. */
typedef enum pare_bos {
    PARE_BOS_AUTO = 0, /* as the tokenizer does by itself */
    PARE_BOS_ALWAYS,
    PARE_BOS_NEVER
} pare_bos;

/* A task that pare knows; all strings are static. */
typedef struct pare_task_info {
    const char *name, *split, *summary;
    bool has_acc_norm, has_ppl;
    bool quoted_norm; /* the literature mostly quotes acc_norm */
    bool variant;     /* of another one: another split or an older form */
} pare_task_info;
/* Task number i, from 0; false past the last one. */
bool pare_task_at(pare_task_info *info, size_t i);

typedef struct pare_task_result {
    const char *name;  /* static */
    size_t n;          /* documents */
    double acc;        /* share of them whose right answer has the largest log-likelihood (ties: the
                          first); has_ppl: of those that the model would have written itself */
    double acc_stderr; /* sqrt(acc (1 - acc) / (n - 1)) */
    double acc_norm;   /* the same of log-likelihood / code points; NaN where the task has none */
    double acc_norm_stderr;
    double ppl;        /* exp(-mean log-likelihood of an answer), per word; NaN as above */
    double ppl_stderr; /* ppl * sd / sqrt(n) */
    size_t n_requests, n_tokens; /* tokens of all requests, context and answer */
    size_t n_scored;             /* of them answers' */
    size_t n_computed; /* that passed through the model: what requests share counts once */
    size_t n_cut;      /* requests longer than the model's maximum, cut in front */
    uint32_t crc32;    /* of the n_tokens ids */
    bool bos;          /* each request begins with a BOS */
    pare_compute compute;
    double seconds; /* without loading and tokenizing; of batches that tasks share, by tokens */
} pare_task_result;

/* Two models on the same documents. d_i = right_i(model) - right_i(base). */
typedef struct pare_task_pair {
    double base_acc, base_acc_norm, base_ppl;
    double diff, diff_stderr;           /* mean of d_i, sd(d_i) / sqrt(n) */
    double diff_norm, diff_norm_stderr; /* NaN where the task has no acc_norm */
    size_t gained, lost;                /* right in one of the two only, by acc: the flips */
    size_t gained_norm, lost_norm;
} pare_task_pair;

typedef struct pare_tasks_options {
    const char *data; /* the folder of the tasks' files (docs/tasks.md) */
    size_t limit;     /* only the first so many documents of a task; 0 = all */
    pare_bos bos;
    pare_compute compute; /* default exact */
    const char *kv;       /* as in pare_session_options */
    /* After each task; pair NULL without a base model, which goes first. May be NULL. */
    void (*on_task)(void *arg, const pare_task_result *result, const pare_task_pair *pair);
    /* Before each batch of documents: the task that it begins with, and its documents done so far.
     * May be NULL. */
    void (*on_documents)(void *arg, const char *task, size_t done, size_t total);
    void *arg;
} pare_tasks_options;
pare_tasks_options pare_tasks_options_default(void);

/* A mean over tasks, and its standard error sqrt(sum of squares) / number of tasks. */
typedef struct pare_task_mean {
    size_t n; /* tasks */
    double acc, acc_stderr;
    double quoted, quoted_stderr; /* acc_norm where it is the one that the literature quotes */
} pare_task_mean;
pare_task_mean pare_task_mean_of(const pare_task_result *results, size_t n);

/* Reads all files that the tasks need and tells what is wrong with them. Errors: as below. */
pare_status pare_tasks_check(const char *const *names, size_t n, const pare_tasks_options *options,
                             pare_error *err);

/* Runs tasks names[0 .. n) in one pass of batches that do not end where a task does: results [n].
 * With a base model (else NULL) that one before, pairs [n]. A log-likelihood has the same bits
 * whatever is computed together with it. Errors: PARE_ERR_ARG (unknown task), PARE_ERR_INPUT (a
 * file is missing or a row is not as expected: file and line are named), PARE_ERR_INTERRUPTED. All
 * files are read before any work. */
pare_status pare_eval_tasks(pare_task_result *results, pare_task_pair *pairs, pare_runtime *rt,
                            pare_model *m, const pare_tokenizer *tok, pare_model *base,
                            const pare_tokenizer *base_tok, const char *const *names, size_t n,
                            const pare_tasks_options *options, pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
