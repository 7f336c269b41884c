/* CushionCache from the inside (methods/quant/cushioncache.c): its options, and what its search
 * asks of who can run the model. */
#ifndef PARE_SRC_METHODS_CUSHION_SEARCH_H
#define PARE_SRC_METHODS_CUSHION_SEARCH_H

#include "methods/method.h"

enum { PARE_CUSHION_MAX_LEN = 64, PARE_CUSHION_MAX_EPOCHS = 100 };

typedef enum pare_cushion_start {
    PARE_CUSHION_START_NONE = 0,
    PARE_CUSHION_START_BOS,     /* the tokenizer's BOS */
    PARE_CUSHION_START_OUTLIERS /* the tokens that most often carry outliers, then BOS */
} pare_cushion_start;

typedef enum pare_cushion_forward {
    PARE_CUSHION_FORWARD_PLAIN = 0,
    PARE_CUSHION_FORWARD_STATIC,
    PARE_CUSHION_FORWARD_DYNAMIC,
    PARE_CUSHION_FORWARD_PER_TOKEN
} pare_cushion_forward;

typedef struct pare_cushion_options {
    /* the search */
    int max_len;
    double tau;
    int n;              /* tokens of a text */
    int texts, repeats; /* texts; those of them that begin with the prefix's tokens */
    int pool, candidates, screen;
    int start, site;
    pare_text prompt; /* what the prefix begins with, in words; "none" */
    int bits, formula, granularity;
    bool symmetric;
    /* the tuning of what it found */
    int epochs, tune_texts, tune_n, batch;
    double lr, lambda;
    int lq_norm, forward; /* lq_norm: 0 mean, 1 sum; pare_cushion_forward */
} pare_cushion_options;

/* A token that was looked for. */
typedef struct pare_cushion_step {
    int32_t token;        /* the best one; -1: none has a finite error */
    double before, after; /* L_q without and with it, summed over the texts */
    bool kept;            /* after <= tau before */
    double work, whole;   /* rows through blocks: computed, and what brute force takes */
    size_t n_finished;    /* candidates that were computed to the end */
} pare_cushion_step;

/* How far the search for a token is, between two groups of candidates. */
typedef struct pare_cushion_within {
    size_t number;        /* of the step */
    double before;        /* L_q without the token */
    double *screen;       /* [n_candidates] errors on the screen; the search's own array */
    size_t n_screened;    /* so many of them are known */
    size_t n_tried;       /* in the order of the screen: finished, or given up */
    size_t n_finished;    /* of those */
    int32_t best;         /* of those; -1: none */
    double best_lq, work; /* of the best one; rows through blocks so far */
} pare_cushion_within;

typedef struct pare_cushion_job {
    pare_runtime *rt;
    size_t n_blocks;
    size_t capacity;           /* candidates that `begin` takes at once */
    const int32_t *candidates; /* [n_candidates] rising */
    size_t n_candidates;
    void *arg;

    /* The texts of one search: others for each number, the same for the same one; the last
     * `repeats` of them begin with the last of the n_prefix tokens so far, where there are any. */
    pare_status (*draw)(void *arg, size_t number, const int32_t *prefix, size_t n_prefix,
                        pare_error *err);
    /* What everything stands behind from now on. */
    pare_status (*prefix)(void *arg, const int32_t *ids, size_t n, pare_error *err);
    /* Begins n <= capacity candidates in front of the first n_tokens of text number `text`;
     * candidates NULL: the text alone, n is 1. */
    void (*begin)(void *arg, const int32_t *candidates, size_t n, size_t text, size_t n_tokens);
    /* lq[i] >= 0 of the next block, for each candidate that is left. Errors:
     * PARE_ERR_INTERRUPTED. */
    pare_status (*block)(void *arg, double *lq, pare_error *err);
    /* Gives up all but candidates which[n] (rising) of those that are left. */
    void (*keep)(void *arg, const size_t *which, size_t n);
    /* After each step, kept or not: a place to note it. */
    pare_status (*noted)(void *arg, const pare_cushion_step *step, pare_error *err);
    /* The same between groups; last: the run ends here. `again` fills in what a run that was cut
     * off had noted last of step w->number, and leaves *w alone where there is nothing. Both may be
     * NULL. */
    pare_status (*within)(void *arg, const pare_cushion_within *w, bool last, pare_error *err);
    pare_status (*again)(void *arg, pare_cushion_within *w, pare_error *err);
} pare_cushion_job;

typedef struct pare_cushion_result {
    int32_t ids[PARE_CUSHION_MAX_LEN]; /* the start, then the tokens that were kept */
    size_t n, n_start;
    pare_cushion_step steps[PARE_CUSHION_MAX_LEN]; /* the last one may not have been kept */
    size_t n_steps;
} pare_cushion_result;

/* Appends tokens to r's until max_len are there or one is not worth it (CushionCache, algorithm 1).
 * On entry r holds the start and the steps of a run that was interrupted, if there was one. Errors:
 * PARE_ERR_NOMEM, those of the job. */
pare_status pare_cushion_search(const pare_cushion_job *job, const pare_cushion_options *o,
                                pare_cushion_result *r, pare_error *err);

#endif
