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
    for (size_t k = 0; k < MODELS && run->m[k]; k++)
        PARE_TRY(pare_task_encode(&t->tokens[k], &t->set, run->tok[k], run->o.bos,
                                  pare_model_ctx_max(run->m[k]), err));
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
        for (size_t k = 0; k < MODELS; k++) pare_task_tokens_free(&run->tasks[i].tokens[k]);
        pare_task_set_free(&run->tasks[i].set);
    }
    pare_free(run->tasks);
}

/* Grade of model k on a task. */
static pare_status grade_model(pare_task_grade *grade, pare_task_result *result,
                               const tasks_run *run, const task_run *t, size_t k, pare_error *err) {
    const pare_task_score_options so = {.compute = run->o.compute,
                                        .kv = run->o.kv,
                                        .on_documents = run->o.on_documents,
                                        .arg = run->o.arg};
    const pare_task_tokens *tokens = &t->tokens[k];
    pare_task_score *scores = pare_calloc(t->set.n_requests, sizeof *scores);
    if (!scores) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", t->set.task->name);
    double start = pare_now_s();
    pare_status st =
        pare_task_score_all(scores, &result->n_computed, tokens, run->rt, run->m[k], &so, err);
    result->seconds = pare_now_s() - start;
    if (st == PARE_OK) st = pare_task_grade_make(grade, &t->set, scores, err);
    pare_free(scores);
    if (st != PARE_OK) return st;
    pare_task_grade_result(result, grade);
    result->n_requests = t->set.n_requests;
    result->n_tokens = tokens->n_context + tokens->n_scored;
    result->n_scored = tokens->n_scored;
    result->n_cut = tokens->n_cut;
    result->crc32 = tokens->crc32;
    result->bos = tokens->bos;
    result->compute = run->o.compute;
    return PARE_OK;
}

static pare_status run_task(pare_task_result *result, pare_task_pair *pair, const tasks_run *run,
                            const task_run *t, pare_error *err) {
    pare_task_grade grade = {0}, base = {0};
    pare_task_result base_result = {0};
    pare_status st = grade_model(&grade, result, run, t, 0, err);
    if (st == PARE_OK && run->m[1]) {
        st = grade_model(&base, &base_result, run, t, 1, err);
        if (st == PARE_OK) pare_task_grade_pair(pair, &grade, &base);
    }
    pare_task_grade_free(&grade);
    pare_task_grade_free(&base);
    return st;
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
    for (size_t i = 0; st == PARE_OK && i < n; i++) {
        pare_task_pair *pair = base ? &pairs[i] : NULL;
        results[i] = (pare_task_result){0};
        st = run_task(&results[i], pair, &run, &run.tasks[i], err);
        if (st == PARE_OK && run.o.on_task) run.o.on_task(run.o.arg, &results[i], pair);
    }
    free_tasks(&run);
    return st;
}
