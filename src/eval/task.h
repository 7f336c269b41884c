/* Zero-shot tasks: one descriptor a task, the documents of its file as requests, their tokens,
 * their log-likelihoods, the metrics. Each step stands on its own and is tested on its own:
 *
 *     pare_task_load(&set, pare_task_find("piqa"), "data/tasks", 0, err);   texts
 *     pare_task_encode(&tokens, &set, tok, PARE_BOS_AUTO, 0, err);          ids
 *     pare_task_work work = {.tokens = &tokens, .scores = scores};
 *     pare_task_score_all(&work, 1, rt, m, &options, err);                  log-likelihoods
 *     pare_task_grade_make(&grade, &set, scores, err);                      right or wrong
 *
 * The protocol is that of EleutherAI's lm-evaluation-harness (causal models, no examples in the
 * prompt, no chat template). A document gives requests of a context and a continuation; only the
 * continuation is scored. llama.cpp's own tasks score a mean over other tokens (pare_task_scoring).
 * Nothing but a task's own function knows what its file looks like. */
#ifndef PARE_SRC_EVAL_TASK_H
#define PARE_SRC_EVAL_TASK_H

#include "io/json.h"
#include "pare/eval.h"
#include "text/text_buffer.h"

/* A piece of a set's text. */
typedef struct pare_task_text {
    size_t at, n; /* bytes */
} pare_task_text;

typedef struct pare_task_request {
    pare_task_text context, continuation;
    size_t n_chars; /* code points of the choice: what its log-likelihood is divided by for acc_norm
                       (the space before it is not counted) */
} pare_task_request;

typedef struct pare_task_doc {
    size_t first, n; /* its requests */
    size_t gold;     /* number of the right one among them */
    size_t line;     /* of the file, from 1 */
} pare_task_doc;

typedef struct pare_task pare_task;

/* The documents of a task. Zero-initialise; free with pare_task_set_free. */
typedef struct pare_task_set {
    const pare_task *task;
    char *file;            /* where they come from; owned */
    pare_text_buffer text; /* of all requests; a context that requests share stands once */
    pare_task_request *requests;
    size_t n_requests, requests_capacity;
    pare_task_doc *docs;
    size_t n_docs, docs_capacity;
} pare_task_set;
void pare_task_set_free(pare_task_set *set);

/* --- descriptors (task_list.c) --- */

/* A row of the file on its way to a document. */
typedef struct pare_task_row {
    pare_json json;
    int64_t label; /* this row's in the file of labels; -1 where the task has none */
    pare_task_set *set;
    pare_task_text context; /* of the requests to come */
    size_t gold;            /* to be set by the task */
} pare_task_row;

/* What a task reports; a bit mask. */
enum {
    PARE_TASK_ACC = 1,      /* share of documents whose gold request has the largest ll */
    PARE_TASK_ACC_NORM = 2, /* the same of ll / n_chars */
    PARE_TASK_WORD = 4      /* one request a document: acc = the share of those that the model would
                               have chosen itself, token by token; perplexity of a continuation */
};

/* Which tokens are scored, and what requests are compared by. */
typedef enum pare_task_scoring {
    PARE_SCORE_SUM = 0, /* the continuation's, their sum (and divided by n_chars) */
    /* llama.cpp's: context and continuation are encoded as one, and the mean is taken over
     * the tokens behind those that all requests of the document begin with, or, */
    PARE_SCORE_MEAN,
    /* where more than 3 of them are left to each request, over those behind the context; without
     * the very last one where there are two. Of equals the last request wins */
    PARE_SCORE_REST
} pare_task_scoring;

struct pare_task {
    const char *name, *split, *summary;
    const char *const *files; /* in the data folder: the first that exists; NULL ends */
    const char *labels;       /* the right answers, a number a line; NULL = in the rows */
    unsigned metrics;         /* PARE_TASK_ bits */
    bool quoted_norm;         /* the metric most often quoted is acc_norm */
    bool variant;             /* of another task */
    /* Makes a row's requests: sets the context, adds choices, sets gold. NULL: the file has no JSON
     * lines. */
    pare_status (*read)(pare_task_row *row, pare_error *err);
    pare_task_scoring scoring;
    /* Adds up to `limit` documents (0 = all) of a file in another form; with `read` one that does
     * not begin with '{'. */
    pare_status (*parse)(pare_task_set *set, pare_span text, size_t limit, pare_error *err);
};

extern const pare_task pare_tasks[]; /* ends with an empty one */
/* By name, or NULL. */
const pare_task *pare_task_find(const char *name);

/* --- what descriptors build with (task_set.c) --- */

/* The context of the requests that are added next: the pieces one after the other; s NULL ends. */
pare_status pare_task_context(pare_task_row *row, const pare_span *pieces, pare_error *err);
/* A request whose continuation is before + choice. */
pare_status pare_task_choice(pare_task_row *row, const char *before, pare_span choice,
                             pare_error *err);

/* The requests that were added since there were `first` are a document, with the row's gold; line:
 * its place in the file. */
pare_status pare_task_add(pare_task_row *row, size_t first, size_t line, pare_error *err);

/* Files of llama.cpp (task_llama.c), see docs/tasks.md: six lines a task; CSV; binary. */
pare_status pare_task_parse_lines(pare_task_set *set, pare_span text, size_t limit,
                                  pare_error *err);
pare_status pare_task_parse_csv(pare_task_set *set, pare_span text, size_t limit, pare_error *err);
pare_status pare_task_parse_binary(pare_task_set *set, pare_span text, size_t limit,
                                   pare_error *err);
/* Requests of a sentence with "_" and two options; the blank's rest is the continuation. */
pare_status pare_task_options(pare_task_row *row, pare_span sentence, const pare_span option[2],
                              const char *place, pare_error *err);

/* --- texts (task_set.c) --- */

/* The documents of the text of a task's file; `name` is for messages. labels: the text of its file
 * of labels, or NULL. limit: only the first so many; 0 = all. Errors: PARE_ERR_INPUT (file and line
 * are named), PARE_ERR_NOMEM; *set is then empty. */
pare_status pare_task_parse(pare_task_set *set, const pare_task *task, const char *name,
                            pare_span text, const pare_span *labels, size_t limit, pare_error *err);
/* The same from a data folder. Errors: also PARE_ERR_IO; a missing file is PARE_ERR_INPUT and named
 * with the folder. */
pare_status pare_task_load(pare_task_set *set, const pare_task *task, const char *folder,
                           size_t limit, pare_error *err);

static inline pare_span pare_task_span(const pare_task_set *set, pare_task_text t) {
    return (pare_span){set->text.data + t.at, t.n};
}

/* SHA-256 over each request's context, a byte 0, its continuation, a byte 0. */
void pare_task_sha256(uint8_t digest[32], const pare_task_set *set);

/* --- tokens (task_tokens.c) --- */

typedef struct pare_task_item {
    size_t at;                  /* of its first token in ids */
    size_t n_context, n_scored; /* tokens: first the context's, then the continuation's */
} pare_task_item;

/* The tokens of all requests. Zero-initialise; free with pare_task_tokens_free. */
typedef struct pare_task_tokens {
    const pare_task_set *set; /* borrowed */
    pare_ids ids;
    pare_task_item *items;      /* [set->n_requests] */
    size_t n_context, n_scored; /* before anything was cut */
    uint32_t crc32;             /* of all ids, context then continuation, before anything was cut */
    size_t n_cut;               /* requests that were too long: their first tokens are left out */
    bool bos;                   /* the encodings begin with a BOS */
} pare_task_tokens;
void pare_task_tokens_free(pare_task_tokens *tokens);

/* ctx_max: positions of the model, 0 = no bound. A request keeps its last ctx_max + 1 tokens (the
 * last of them is only predicted). Errors: PARE_ERR_INPUT with file and line: a continuation
 * without tokens or longer than ctx_max; PARE_ERR_ARG: PARE_BOS_ALWAYS without a BOS;
 * PARE_ERR_NOMEM. */
pare_status pare_task_encode(pare_task_tokens *tokens, const pare_task_set *set,
                             const pare_tokenizer *tok, pare_bos bos, size_t ctx_max,
                             pare_error *err);

/* Contexts begin behind `bos` where that is their first token and not the only one: what the
 * model's prefix holds. Counts and sums stay those of the encodings. */
void pare_task_leave_bos(pare_task_tokens *tokens, int32_t bos);

/* --- log-likelihoods (task_score.c) --- */

typedef struct pare_task_score {
    double ll;   /* natural log-likelihood of the scored tokens */
    bool greedy; /* each of its tokens has the largest logit (the lowest id on ties) */
    size_t n;    /* scored tokens */
} pare_task_score;

/* A task's share of a run. */
typedef struct pare_task_work {
    const pare_task_tokens *tokens; /* of at least one document */
    pare_task_score *scores;        /* out [tokens->set->n_requests] */
    size_t n_computed;              /* out: tokens that passed through the model */
    double seconds;                 /* out: of its batches, by its share of their tokens */
} pare_task_work;

typedef struct pare_task_score_options {
    pare_compute compute;
    const char *kv;    /* as in pare_session_options */
    const char *stage; /* of progress, in tokens; NULL = "tasks" */
    /* Neither changes a bit of the result: */
    size_t batch_tokens; /* tokens that a batch of documents has, about; 0 = 4096 */
    bool alone;          /* every request from its first token on, nothing shared */
    /* Before each batch, as in pare_tasks_options. May be NULL. */
    void (*on_documents)(void *arg, const char *task, size_t done, size_t total);
    /* When all scores of a task are there; an error ends the run. May be NULL. */
    pare_status (*on_scored)(void *arg, const pare_task_work *work, pare_error *err);
    void *arg;
} pare_task_score_options;

/* Scores all requests of n_work tasks in one pass: batches go on across tasks. Errors: those of
 * sessions; PARE_ERR_INTERRUPTED. */
pare_status pare_task_score_all(pare_task_work *work, size_t n_work, pare_runtime *rt,
                                pare_model *m, const pare_task_score_options *options,
                                pare_error *err);

/* --- metrics (task_grade.c) --- */

/* Right or wrong, document by document. Zero-initialise; free with pare_task_grade_free. */
typedef struct pare_task_grade {
    const pare_task_set *set; /* borrowed */
    bool *right, *right_norm; /* [n_docs]; right_norm NULL where the task has no acc_norm */
    double ll_mean, ll_sd;    /* of the gold requests */
} pare_task_grade;
void pare_task_grade_free(pare_task_grade *grade);

/* scores [set->n_requests]. Errors: PARE_ERR_INPUT where a score is not a number (file and line),
 * PARE_ERR_NOMEM. */
pare_status pare_task_grade_make(pare_task_grade *grade, const pare_task_set *set,
                                 const pare_task_score *scores, pare_error *err);
/* Fills n, acc, acc_norm, ppl and their errors; the rest is left alone. */
void pare_task_grade_result(pare_task_result *out, const pare_task_grade *grade);
/* Documents right in one of two models only. */
void pare_task_grade_pair(pare_task_pair *out, const pare_task_grade *model,
                          const pare_task_grade *base);

#endif
