/* A run over tasks: all files are read and all tokens made before a model computes anything, so
 * that what is wrong with a file is told at once. */
#include "eval/task.h"

#include "base/memory.h"
#include "base/os.h"

#include <string.h>

enum { MODELS = 2 }; /* the model, the base */

typedef struct task_run {
    pare_task_set set;
    pare_task_tokens tokens[MODELS];
    pare_task_grade grade[MODELS];
} task_run;

typedef struct tasks_run {
    pare_runtime *rt;
    pare_model *m[MODELS]; /* m[1] NULL = no base */
    const pare_tokenizer *tok[MODELS];
    pare_tasks_options o;
    task_run *tasks; /* [n] */
    size_t n;
} tasks_run;

pare_tasks_options pare_tasks_options_default(void) {
    return (pare_tasks_options){.compute = PARE_COMPUTE_EXACT};
}

static pare_status unknown_task(const char *name, pare_error *err) {
    char known[512];
    size_t n = 0;
    for (const pare_task *t = pare_tasks; t->name && n < sizeof known; t++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", t->name);
    return pare_fail(err, PARE_ERR_ARG, "task: found '%s', expected one of %s", name, known);
}

static pare_status prepare_task(tasks_run *run, size_t i, const char *name, pare_error *err) {
    task_run *t = &run->tasks[i];
    const pare_task *task = pare_task_find(name);
    if (!task) return unknown_task(name, err);
    PARE_TRY(pare_task_load(&t->set, task, run->o.data ? run->o.data : ".", run->o.limit, err));
    for (size_t k = 0; k < MODELS && run->m[k]; k++) {
        const int32_t bos = pare_tokenizer_bos(run->tok[k]);
        PARE_TRY(pare_task_encode(&t->tokens[k], &t->set, run->tok[k], run->o.bos,
                                  pare_model_ctx_max(run->m[k]), err));
        if (t->tokens[k].bos && pare_model_prefix_holds(run->m[k], bos))
            pare_task_leave_bos(&t->tokens[k], bos);
    }
    return PARE_OK;
}

static pare_status prepare(tasks_run *run, const char *const *names, pare_error *err) {
    run->tasks = pare_calloc(run->n, sizeof *run->tasks);
    if (!run->tasks) return pare_fail(err, PARE_ERR_NOMEM, "tasks: out of memory");
    for (size_t i = 0; i < run->n; i++) PARE_TRY(prepare_task(run, i, names[i], err));
    return PARE_OK;
}

static void free_tasks(tasks_run *run) {
    for (size_t i = 0; run->tasks && i < run->n; i++) {
        for (size_t k = 0; k < MODELS; k++) {
            pare_task_grade_free(&run->tasks[i].grade[k]);
            pare_task_tokens_free(&run->tasks[i].tokens[k]);
        }
        pare_task_set_free(&run->tasks[i].set);
    }
    pare_free(run->tasks);
}

/* --- a model's pass over all tasks --- */

typedef struct pass {
    tasks_run *run;
    size_t k; /* of the model */
    pare_task_work *work;
    pare_task_result *results;
    pare_task_pair *pairs; /* with a base, in the model's pass */
} pass;

static pare_status grade(void *arg, const pare_task_work *work, pare_error *err) {
    const pass *p = arg;
    size_t i = (size_t)(work - p->work);
    task_run *t = &p->run->tasks[i];
    pare_task_result *result = &p->results[i];
    const pare_task_tokens *tokens = &t->tokens[p->k];
    PARE_TRY(pare_task_grade_make(&t->grade[p->k], &t->set, work->scores, err));
    *result = (pare_task_result){.n_requests = t->set.n_requests,
                                 .n_tokens = tokens->n_context + tokens->n_scored,
                                 .n_scored = tokens->n_scored,
                                 .n_computed = work->n_computed,
                                 .n_cut = tokens->n_cut,
                                 .crc32 = tokens->crc32,
                                 .bos = tokens->bos,
                                 .compute = p->run->o.compute,
                                 .seconds = work->seconds};
    pare_task_grade_result(result, &t->grade[p->k]);
    if (p->k != 0) return PARE_OK; /* the base's: only for its pairs */
    pare_task_pair *pair = p->run->m[1] ? &p->pairs[i] : NULL;
    if (pair) pare_task_grade_pair(pair, &t->grade[0], &t->grade[1]);
    if (p->run->o.on_task) p->run->o.on_task(p->run->o.arg, result, pair);
    return PARE_OK;
}

static void on_documents(void *arg, const char *task, size_t done, size_t total) {
    const pass *p = arg;
    if (p->run->o.on_documents) p->run->o.on_documents(p->run->o.arg, task, done, total);
}

static pare_status run_pass(tasks_run *run, size_t k, pare_task_result *results,
                            pare_task_pair *pairs, pare_error *err) {
    pass p = {run, k, pare_calloc(run->n, sizeof *p.work), results, pairs};
    const pare_task_score_options so = {.compute = run->o.compute,
                                        .kv = run->o.kv,
                                        .stage = k ? "tasks of the base" : "tasks",
                                        .on_documents = on_documents,
                                        .on_scored = grade,
                                        .arg = &p};
    bool have = p.work != NULL;
    for (size_t i = 0; have && i < run->n; i++) {
        p.work[i].tokens = &run->tasks[i].tokens[k];
        p.work[i].scores = pare_calloc(run->tasks[i].set.n_requests, sizeof *p.work[i].scores);
        have = p.work[i].scores != NULL;
    }
    pare_status st = have ? pare_task_score_all(p.work, run->n, run->rt, run->m[k], &so, err)
                          : pare_fail(err, PARE_ERR_NOMEM, "tasks: out of memory");
    for (size_t i = 0; p.work && i < run->n; i++) pare_free(p.work[i].scores);
    pare_free(p.work);
    return st;
}

static pare_status run_passes(tasks_run *run, pare_task_result *results, pare_task_pair *pairs,
                              pare_error *err) {
    if (run->m[1]) {
        pare_task_result *base = pare_calloc(run->n, sizeof *base);
        pare_status st = base ? run_pass(run, 1, base, NULL, err)
                              : pare_fail(err, PARE_ERR_NOMEM, "tasks: out of memory");
        pare_free(base);
        PARE_TRY(st);
    }
    return run_pass(run, 0, results, pairs, err);
}

pare_status pare_tasks_check(const char *const *names, size_t n, const pare_tasks_options *options,
                             pare_error *err) {
    tasks_run run = {.o = options ? *options : pare_tasks_options_default(), .n = n};
    pare_status st = prepare(&run, names, err);
    free_tasks(&run);
    return st;
}

pare_status pare_eval_tasks(pare_task_result *results, pare_task_pair *pairs, pare_runtime *rt,
                            pare_model *m, const pare_tokenizer *tok, pare_model *base,
                            const pare_tokenizer *base_tok, const char *const *names, size_t n,
                            const pare_tasks_options *options, pare_error *err) {
    tasks_run run = {.rt = rt,
                     .m = {m, base},
                     .tok = {tok, base_tok},
                     .o = options ? *options : pare_tasks_options_default(),
                     .n = n};
    pare_status st = prepare(&run, names, err);
    if (st == PARE_OK) st = run_passes(&run, results, pairs, err);
    free_tasks(&run);
    return st;
}
