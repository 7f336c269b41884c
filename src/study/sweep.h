/* A sweep from inside: what its file says, and the runs that follow from it. */
#ifndef PARE_SRC_STUDY_SWEEP_H
#define PARE_SRC_STUDY_SWEEP_H

#include "pare/study.h"

enum { PARE_SWEEP_MAX_LINES = 1000, PARE_SWEEP_MAX_RUNS = 100000 };

typedef struct pare_sweep_texts {
    const char *item[PARE_SWEEP_MAX_LINES];
    size_t n;
} pare_sweep_texts;

typedef enum pare_eval_kind { PARE_EVAL_TEXT = 0, PARE_EVAL_SPEED, PARE_EVAL_TASKS } pare_eval_kind;

/* One evaluation. */
typedef struct pare_sweep_eval {
    pare_eval_kind kind;
    const char *path; /* of the text */
    pare_protocol protocol;
    pare_compute compute;
    int64_t ctx, windows;     /* 0 = the protocol's, all */
    bool against;             /* also the distance to the dense model */
    int64_t decode, prefill;  /* tokens of the speed */
    const char *const *tasks; /* [n_tasks] names */
    size_t n_tasks;
    int64_t limit; /* documents of a task; 0 = all */
    char label[200];
} pare_sweep_eval;

/* A recipe on a model: one compression, then all evaluations of its output. */
typedef struct pare_sweep_unit {
    const char *model, *recipe; /* "" = dense */
    const char *out;            /* NULL = dense */
    size_t first;               /* of its runs; one per evaluation */
} pare_sweep_unit;

struct pare_sweep {
    pare_record *pool; /* owns all strings and lists */
    pare_sweep_texts models, recipes;
    pare_sweep_eval *evals;
    size_t n_evals;
    const char *calib; /* NULL = none */
    int64_t calib_samples, calib_ctx;
    const char *imatrix; /* an importance matrix; NULL = none */
    const char *out, *format;
    const char *data; /* folder of the tasks' files; NULL = none named */
    pare_keep keep;
    bool dense;
    pare_sweep_unit *units;
    size_t n_units;
    pare_sweep_run *runs;
    size_t n_runs;
};

/* ---- sweep_ranks.c ---- */

/* Is this rank's to run? Units go round the ranks. */
bool pare_sweep_is_mine(size_t unit);
/* Of all ranks: every run as the rank that had it left it; with keep = best, of each model's
 * outputs the best of all ranks stays. st: what this rank's runs ended with. Errors: what stopped
 * another. */
pare_status pare_sweep_gather(pare_sweep *s, pare_status st, pare_error *err);

/* Removes a unit's output. */
void pare_sweep_remove_output(const char *out);

#endif
