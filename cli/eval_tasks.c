#include "eval_tasks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void eval_tasks_free(eval_tasks *t) {
    free(t->list);
    t->list = NULL;
}

/* --- what to run --- */

static pare_status unknown_task(cli *c, const char *word) {
    const char *names[EVAL_MAX_TASKS + 1] = {"all"};
    char known[600] = "all";
    pare_task_info info;
    size_t n = 1, at = 3;
    for (size_t i = 0; n < EVAL_MAX_TASKS && pare_task_at(&info, i); i++) {
        names[n++] = info.name;
        if (at < sizeof known)
            at += (size_t)snprintf(known + at, sizeof known - at, ", %s", info.name);
    }
    const char *near = cli_nearest(word, names);
    if (near)
        return cli_fail(c, PARE_ERR_ARG, "--tasks: found '%s', did you mean '%s'?", word, near);
    return cli_fail(c, PARE_ERR_ARG, "--tasks: found '%s', expected some of %s", word, known);
}

static pare_status add_task(eval_tasks *t, const char *word, bool all) {
    pare_task_info info;
    bool found = false;
    for (size_t i = 0; pare_task_at(&info, i); i++) {
        if (all ? info.variant : strcmp(info.name, word) != 0) continue;
        for (size_t k = 0; k < t->n; k++)
            if (strcmp(t->names[k], info.name) == 0)
                return cli_fail(t->c, PARE_ERR_ARG, "--tasks: found '%s' twice, expected it once",
                                info.name);
        if (t->n < EVAL_MAX_TASKS) t->names[t->n++] = info.name;
        found = true;
    }
    return found ? PARE_OK : unknown_task(t->c, word);
}

static pare_status split_list(eval_tasks *t, const char *list) {
    if (!(t->list = strdup(list))) return cli_fail(t->c, PARE_ERR_NOMEM, "--tasks: out of memory");
    char *rest = NULL;
    for (char *word = strtok_r(t->list, ", ", &rest); word; word = strtok_r(NULL, ", ", &rest)) {
        pare_status st = add_task(t, word, strcmp(word, "all") == 0);
        if (st != PARE_OK) return st;
    }
    if (!t->n) return cli_fail(t->c, PARE_ERR_ARG, "--tasks: found none, expected some");
    return PARE_OK;
}

static void on_task(void *arg, const pare_task_result *result, const pare_task_pair *pair) {
    eval_tasks *t = arg;
    (void)pair;
    t->n_done++;
    t->running = NULL;
    cli_progress_note(t->c, "%s acc %.4f", result->name, result->acc);
}

static void on_documents(void *arg, const char *task, size_t done, size_t total) {
    eval_tasks *t = arg;
    t->running = task;
    t->documents = done;
    t->of_documents = total;
}

pare_status eval_tasks_begin(eval_tasks *t, cli *c, const char *list, const char *data) {
    const char *folder = getenv("PARE_DATA");
    t->c = c;
    pare_status st = split_list(t, list);
    if (st != PARE_OK) return st;
    if (data)
        snprintf(t->data, sizeof t->data, "%s", data);
    else if (folder && *folder)
        snprintf(t->data, sizeof t->data, "%s/tasks", folder);
    else
        snprintf(t->data, sizeof t->data, "../shared/data/tasks");
    t->options.data = t->data;
    t->options.on_task = on_task;
    t->options.on_documents = on_documents;
    t->options.arg = t;
    return pare_tasks_check(t->names, t->n, &t->options, &c->err);
}

/* --- the run --- */

/* What is done of an interrupted run, in one line. */
static void tell_done(eval_tasks *t) {
    char line[800];
    size_t at = (size_t)snprintf(line, sizeof line, "after %zu of %zu tasks", t->n_done, t->n);
    for (size_t i = 0; i < t->n_done && at < sizeof line; i++)
        at += (size_t)snprintf(line + at, sizeof line - at, "%s %s %.4f", i ? "," : ":",
                               t->results[i].name, t->results[i].acc);
    if (t->running && at < sizeof line)
        snprintf(line + at, sizeof line - at, "%s %zu of %zu documents of %s",
                 t->n_done ? " and" : ":", t->documents, t->of_documents, t->running);
    cli_fail(t->c, PARE_ERR_INTERRUPTED, "%s; the same command starts again", line);
}

pare_status eval_tasks_run(eval_tasks *t, pare_model *m, const pare_tokenizer *tok,
                           pare_model *base, const pare_tokenizer *base_tok) {
    t->paired = base != NULL;
    pare_status st = pare_eval_tasks(t->results, t->pairs, t->c->rt, m, tok, base, base_tok,
                                     t->names, t->n, &t->options, &t->c->err);
    if (st == PARE_ERR_INTERRUPTED) tell_done(t);
    cli_progress_end(t->c);
    return st;
}

/* --- JSON --- */

static void set_real(json_t *o, const char *key, double value) {
    json_object_set_new(o, key, cli_json_real(value));
}

static void set_count(json_t *o, const char *key, size_t value) {
    json_object_set_new(o, key, json_integer((json_int_t)value));
}

static json_t *result_json(const pare_task_result *r) {
    char crc[9];
    snprintf(crc, sizeof crc, "%08x", (unsigned)r->crc32);
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(r->name));
    set_count(o, "n", r->n);
    set_real(o, "acc", r->acc);
    set_real(o, "acc_stderr", r->acc_stderr);
    set_real(o, "acc_norm", r->acc_norm);
    set_real(o, "acc_norm_stderr", r->acc_norm_stderr);
    set_real(o, "ppl", r->ppl);
    set_real(o, "ppl_stderr", r->ppl_stderr);
    set_count(o, "n_requests", r->n_requests);
    set_count(o, "n_tokens", r->n_tokens);
    set_count(o, "n_scored", r->n_scored);
    set_count(o, "n_computed", r->n_computed);
    set_count(o, "n_cut", r->n_cut);
    json_object_set_new(o, "crc32", json_string(crc));
    json_object_set_new(o, "bos", json_boolean(r->bos));
    json_object_set_new(o, "compute",
                        json_string(r->compute == PARE_COMPUTE_EXACT ? "exact" : "fast"));
    set_real(o, "seconds", r->seconds);
    set_real(o, "requests_per_s", r->seconds > 0 ? (double)r->n_requests / r->seconds : NAN);
    set_real(o, "tokens_per_s", r->seconds > 0 ? (double)r->n_computed / r->seconds : NAN);
    return o;
}

void eval_tasks_json(const eval_tasks *t, json_t *out) {
    json_t *list = json_array(), *mean = json_object();
    for (size_t i = 0; i < t->n; i++) json_array_append_new(list, result_json(&t->results[i]));
    json_object_set_new(out, "tasks", list);
    pare_task_mean m = pare_task_mean_of(t->results, t->n);
    set_count(mean, "n", m.n);
    set_real(mean, "acc", m.acc);
    set_real(mean, "acc_stderr", m.acc_stderr);
    set_real(mean, "quoted", m.quoted);
    set_real(mean, "quoted_stderr", m.quoted_stderr);
    json_object_set_new(out, "tasks_mean", mean);
}

static json_t *pair_json(const char *name, const pare_task_pair *p) {
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(name));
    set_real(o, "base_acc", p->base_acc);
    set_real(o, "diff", p->diff);
    set_real(o, "diff_stderr", p->diff_stderr);
    set_count(o, "gained", p->gained);
    set_count(o, "lost", p->lost);
    set_real(o, "base_acc_norm", p->base_acc_norm);
    set_real(o, "diff_norm", p->diff_norm);
    set_real(o, "diff_norm_stderr", p->diff_norm_stderr);
    set_count(o, "gained_norm", p->gained_norm);
    set_count(o, "lost_norm", p->lost_norm);
    set_real(o, "base_ppl", p->base_ppl);
    return o;
}

void eval_tasks_pairs_json(const eval_tasks *t, json_t *against) {
    json_t *list = json_array();
    size_t flips = 0;
    for (size_t i = 0; i < t->n; i++) {
        json_array_append_new(list, pair_json(t->results[i].name, &t->pairs[i]));
        flips += t->pairs[i].gained + t->pairs[i].lost;
    }
    set_count(against, "flips", flips);
    json_object_set_new(against, "tasks", list);
}

/* --- tables --- */

/* A number and its error; empty cells where there is none. */
static void pair_cells(cli_table *table, double value, double error, int digits) {
    if (isnan(value)) {
        cli_cell(table, "%s", "");
        cli_cell(table, "%s", "");
        return;
    }
    cli_cell(table, "%.*f", digits, value);
    cli_cell(table, "%.*f", digits, error);
}

static pare_status print_results(const eval_tasks *t) {
    cli_table table;
    cli_table_begin(&table, "task|>n|>acc|>+-|>acc_norm|>+-|>ppl|>+-|>requests/s|>time");
    for (size_t i = 0; i < t->n; i++) {
        const pare_task_result *r = &t->results[i];
        cli_cell(&table, "%s", r->name);
        cli_cell(&table, "%zu", r->n);
        pair_cells(&table, r->acc, r->acc_stderr, 4);
        pair_cells(&table, r->acc_norm, r->acc_norm_stderr, 4);
        pair_cells(&table, r->ppl, r->ppl_stderr, 3);
        cli_cell(&table, "%.1f", r->seconds > 0 ? (double)r->n_requests / r->seconds : 0);
        cli_cell(&table, "%s", cli_clock(r->seconds));
    }
    pare_status st = cli_table_end(t->c, &table);
    if (st != PARE_OK) return st;
    pare_task_mean m = pare_task_mean_of(t->results, t->n);
    const pare_task_result *first = &t->results[0];
    return cli_printf(t->c,
                      "mean acc %.4f +- %.4f; with acc_norm where it is the one usually quoted "
                      "%.4f +- %.4f\n%s, %s\n",
                      m.acc, m.acc_stderr, m.quoted, m.quoted_stderr,
                      first->compute == PARE_COMPUTE_EXACT ? "exact" : "fast",
                      first->bos ? "a BOS before each request" : "no BOS");
}

static pare_status print_pairs(const eval_tasks *t) {
    cli_table table;
    cli_table_begin(&table, "task|>acc of the other|>difference|>+-|>gained|>lost|>norm of the "
                            "other|>difference|>+-");
    for (size_t i = 0; i < t->n; i++) {
        const pare_task_pair *p = &t->pairs[i];
        cli_cell(&table, "%s", t->results[i].name);
        cli_cell(&table, "%.4f", p->base_acc);
        pair_cells(&table, p->diff, p->diff_stderr, 4);
        cli_cell(&table, "%zu", p->gained);
        cli_cell(&table, "%zu", p->lost);
        if (isnan(p->base_acc_norm))
            cli_cell(&table, "%s", "");
        else
            cli_cell(&table, "%.4f", p->base_acc_norm);
        pair_cells(&table, p->diff_norm, p->diff_norm_stderr, 4);
    }
    return cli_table_end(t->c, &table);
}

pare_status eval_tasks_print(const eval_tasks *t) {
    pare_status st = print_results(t);
    if (st == PARE_OK && t->paired) st = cli_printf(t->c, "\n");
    return st == PARE_OK && t->paired ? print_pairs(t) : st;
}
