/* The tasks of pare eval: the list on the command line, the run, tables and JSON. */
#ifndef PARE_CLI_EVAL_TASKS_H
#define PARE_CLI_EVAL_TASKS_H

#include "cli.h"

#include "pare/eval.h"

enum { EVAL_MAX_TASKS = 32 };

/* Zero-initialise; free with eval_tasks_free. */
typedef struct eval_tasks {
    cli *c;
    char *list; /* owned; names point into it */
    const char *names[EVAL_MAX_TASKS];
    size_t n;
    pare_tasks_options options;
    char data[4096]; /* the folder that options name */
    pare_task_result results[EVAL_MAX_TASKS];
    pare_task_pair pairs[EVAL_MAX_TASKS];
    bool paired;
    size_t n_done; /* tasks */
    const char *running;
    size_t documents, of_documents; /* of the running one */
} eval_tasks;
void eval_tasks_free(eval_tasks *t);

/* Splits "piqa,arc_easy" ("all": the ten), settles the data folder (NULL: $PARE_DATA/tasks, else
 * ../shared/data/tasks) and reads all files once, so that what is wrong with them is told before
 * any work. limit and bos are taken from t->options. */
pare_status eval_tasks_begin(eval_tasks *t, cli *c, const char *list, const char *data);

pare_status eval_tasks_run(eval_tasks *t, pare_model *m, const pare_tokenizer *tok,
                           pare_model *base, const pare_tokenizer *base_tok);

/* Adds tasks and tasks_mean. */
void eval_tasks_json(const eval_tasks *t, json_t *out);
/* Adds flips and tasks to the object `against`. */
void eval_tasks_pairs_json(const eval_tasks *t, json_t *against);
pare_status eval_tasks_print(const eval_tasks *t);

#endif
