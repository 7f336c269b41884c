/* pare sweep: recipes x models x evaluations, each run a record. */
#include "recording.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct sweep_options {
    const char *records, *calib, *imatrix, *out, *format, *keep, *speed, *tasks, *data;
    cli_texts model, eval;
    int64_t jobs;
    bool dry_run, no_dense;
} sweep_options;

static const cli_option options[] = {
    CLI_OPTION(sweep_options, 'm', "model", CLI_TEXTS, model, "MODEL", 0, 0,
               "a model; may be given again"),
    CLI_OPTION(sweep_options, 0, "eval", CLI_TEXTS, eval, "'FILE ctx=N ...'", 0, 0,
               "a text to score, with protocol=, ctx=, windows=, compute=, against=yes behind it; "
               "may be given again"),
    CLI_OPTION(sweep_options, 0, "speed", CLI_TEXT, speed, "'decode=N ...'", 0, 0,
               "measure decoding and prefill (prefill=N)"),
    CLI_OPTION(sweep_options, 0, "tasks", CLI_TEXT, tasks, "'LIST limit=N'", 0, 0,
               "zero-shot tasks, \"piqa,arc_easy\""),
    CLI_OPTION(sweep_options, 0, "data", CLI_TEXT, data, "DIR", 0, 0, "folder of the tasks' files"),
    CLI_OPTION(sweep_options, 0, "calib", CLI_TEXT, calib, "'FILE samples=N ...'", 0, 0,
               "calibration text, with samples= and ctx= behind it"),
    CLI_OPTION(sweep_options, 0, "imatrix", CLI_TEXT, imatrix, "FILE", 0, 0,
               "llama.cpp's importance matrix, for block types"),
    CLI_OPTION(sweep_options, 'o', "out", CLI_TEXT, out, "FOLDER", 0, 0, "where outputs go"),
    CLI_OPTION(sweep_options, 0, "format", CLI_TEXT, format, "hf|gguf", 0, 0,
               "container of the outputs (default hf)"),
    CLI_OPTION(sweep_options, 0, "keep", CLI_TEXT, keep, "none|best|all", 0, 0,
               "which outputs stay (default none): best = of each model the least perplexity"),
    CLI_SWITCH(sweep_options, 0, "no-dense", no_dense, "do not evaluate the dense models"),
    CLI_OPTION(sweep_options, 'j', "jobs", CLI_INT, jobs, "N", 1, 64,
               "compressions at the same time; they share the threads"),
    CLI_SWITCH(sweep_options, 0, "dry-run", dry_run, "list the runs and their sizes only"),
    CLI_OPTION(sweep_options, 0, "records", CLI_TEXT, records, "FILE", 0, 0, CLI_RECORDS_HELP),
    {0},
};
static const sweep_options defaults = {.jobs = 1};

/* --- options as lines of the file --- */

typedef struct lines {
    char *item[2 * CLI_MAX_ITEMS + 8];
    size_t n;
    bool failed;
} lines;

static void add_line(lines *l, const char *key, const char *value) {
    if (!value) return;
    if (asprintf(&l->item[l->n], "%s = %s", key, value) < 0)
        l->failed = true;
    else
        l->n++;
}

static lines option_lines(const sweep_options *o) {
    lines l = {0};
    for (size_t i = 0; i < o->model.n; i++) add_line(&l, "model", o->model.item[i]);
    for (size_t i = 0; i < o->eval.n; i++) add_line(&l, "eval", o->eval.item[i]);
    add_line(&l, "speed", o->speed);
    add_line(&l, "tasks", o->tasks);
    add_line(&l, "data", o->data);
    add_line(&l, "calib", o->calib);
    add_line(&l, "imatrix", o->imatrix);
    add_line(&l, "out", o->out);
    add_line(&l, "format", o->format);
    add_line(&l, "keep", o->keep);
    if (o->no_dense) add_line(&l, "dense", "no");
    return l;
}

static pare_status parse(cli *c, pare_sweep **s, const sweep_options *o, const char *path) {
    char *text;
    size_t n;
    pare_status st = cli_read(c, &text, &n, path);
    lines l = option_lines(o);
    if (st == PARE_OK && l.failed) st = cli_fail(c, PARE_ERR_NOMEM, "sweep: out of memory");
    if (st == PARE_OK)
        st = pare_sweep_parse(s, text, n, path, (const char *const *)l.item, l.n, &c->err);
    for (size_t i = 0; i < l.n; i++) free(l.item[i]);
    free(text);
    return st;
}

/* --- output --- */

static const char *const state_names[] = {"waiting", "there", "done", "failed"};

static void on_run(void *arg, const pare_sweep_run *run, size_t n_done, size_t n_runs) {
    cli *c = arg;
    char result[64] = "";
    if (isfinite(run->ppl)) snprintf(result, sizeof result, ", ppl %.4f", run->ppl);
    cli_progress_end(c);
    cli_note(c, "[%zu/%zu] %s %s, %s: %s%s%s", n_done, n_runs, cli_base_name(run->model),
             *run->recipe ? run->recipe : "dense", run->eval, state_names[run->state],
             run->state == PARE_RUN_THERE ? " already" : "", result);
    if (run->state == PARE_RUN_FAILED)
        cli_warn(c, "%s: %s", *run->recipe ? run->recipe : "dense",
                 run->message ? run->message : "failed");
}

static json_t *run_json(const pare_sweep_run *r) {
    json_t *o = json_object();
    json_object_set_new(o, "model", cli_json_string(r->model));
    json_object_set_new(o, "recipe", cli_json_string(r->recipe));
    json_object_set_new(o, "eval", cli_json_string(r->eval));
    json_object_set_new(o, "out", r->out ? cli_json_string(r->out) : json_null());
    json_object_set_new(o, "state", json_string(state_names[r->state]));
    json_object_set_new(o, "record_id", cli_record_id(r->record));
    json_object_set_new(o, "in_bytes", json_integer((json_int_t)r->in_bytes));
    json_object_set_new(o, "out_bytes", json_integer((json_int_t)r->out_bytes));
    json_object_set_new(o, "bits_per_weight", cli_json_real(r->bits_per_weight));
    json_object_set_new(o, "ppl", cli_json_real(r->ppl));
    json_object_set_new(o, "message", r->message ? cli_json_string(r->message) : json_null());
    return o;
}

static pare_status print_json(cli *c, const pare_sweep *s, const sweep_options *o) {
    json_t *out = cli_json_begin(c), *runs = json_array();
    for (size_t i = 0; i < pare_sweep_n_runs(s); i++)
        json_array_append_new(runs, run_json(pare_sweep_run_at(s, i)));
    json_object_set_new(out, "dry_run", json_boolean(o->dry_run));
    json_object_set_new(out, "runs", runs);
    return cli_json_print(c, out, true);
}

static pare_status print_table(cli *c, const pare_sweep *s) {
    cli_table t;
    cli_table_begin(&t, "model|recipe|evaluation|>size|>bits/w|>ppl|state|>record");
    for (size_t i = 0; i < pare_sweep_n_runs(s); i++) {
        const pare_sweep_run *r = pare_sweep_run_at(s, i);
        cli_cell(&t, "%s", cli_base_name(r->model));
        cli_cell(&t, "%s", *r->recipe ? r->recipe : "dense");
        cli_cell(&t, "%s", r->eval);
        cli_cell(&t, "%s", r->out_bytes ? cli_bytes((double)r->out_bytes) : "-");
        if (isfinite(r->bits_per_weight))
            cli_cell(&t, "%.3f", r->bits_per_weight);
        else
            cli_cell(&t, "-");
        if (isfinite(r->ppl))
            cli_cell(&t, "%.4f", r->ppl);
        else
            cli_cell(&t, "-");
        cli_cell(&t, "%s", state_names[r->state]);
        if (r->record)
            cli_cell(&t, "%lld", (long long)r->record);
        else
            cli_cell(&t, "-");
    }
    return cli_table_end(c, &t);
}

/* --- work --- */

/* Where its records are; a database that cannot be used costs the sweep its records and its resume,
 * not its results. */
static pare_records *open_records(cli *c, const sweep_options *o) {
    pare_records *db = NULL;
    if (o->records && strcmp(o->records, "none") == 0) return NULL;
    char path[4096];
    pare_error err = {0};
    pare_status st = PARE_OK;
    if (o->records)
        snprintf(path, sizeof path, "%s", o->records);
    else
        st = pare_records_default_path(path, sizeof path, &err);
    if (st == PARE_OK && strcmp(path, "none") != 0) st = pare_records_open(&db, path, true, &err);
    if (st != PARE_OK) cli_warn(c, "no records, so nothing is skipped: %s", err.message);
    return db;
}

static pare_status run_all(cli *c, pare_sweep *s, const sweep_options *o) {
    pare_sweep_options so = {.runtime = cli_runtime_options(c),
                             .records = open_records(c, o),
                             .jobs = (int)o->jobs,
                             .dry_run = o->dry_run,
                             .on_run = o->dry_run ? NULL : on_run,
                             .arg = c};
    pare_status st = pare_sweep_run_all(s, &so, &c->err);
    cli_progress_end(c);
    pare_records_close(so.records);
    return st;
}

static pare_status run(cli *c, const void *opts, char **args, size_t n_args) {
    const sweep_options *o = opts;
    (void)n_args;
    pare_sweep *s = NULL;
    pare_status st = parse(c, &s, o, args[0]);
    if (st == PARE_OK) st = run_all(c, s, o);
    size_t n_failed = 0, n_done = 0, n = s ? pare_sweep_n_runs(s) : 0;
    for (size_t i = 0; i < n; i++) {
        pare_run_state state = pare_sweep_run_at(s, i)->state;
        n_failed += state == PARE_RUN_FAILED;
        n_done += state == PARE_RUN_DONE || state == PARE_RUN_THERE;
    }
    if (st == PARE_OK) st = c->common.json ? print_json(c, s, o) : print_table(c, s);
    if (st == PARE_ERR_INTERRUPTED)
        cli_fail(c, st, "%zu of %zu runs have their records; the same command goes on", n_done, n);
    if (st == PARE_OK && n_failed)
        st = cli_fail(c, PARE_ERR_IO, "sweep: %zu of %zu runs failed", n_failed, n);
    pare_sweep_free(s);
    return st;
}

const cli_verb cli_verb_sweep = {
    .name = "sweep",
    .arguments = "FILE",
    .summary = "recipes x models x evaluations, each run a record",
    .notes =
        "FILE holds lines 'key = value' with the keys model, recipe, eval, speed, tasks, data, "
        "calib, imatrix, out, format, keep, dense; a line without a key is a recipe; '#' starts a "
        "comment. Options "
        "are further such lines. A run whose record is there is skipped, a failed one does not "
        "stop the others (exit 1 at the end): the same command goes on.",
    .options = options,
    .defaults = &defaults,
    .options_size = sizeof(sweep_options),
    .min_args = 1,
    .max_args = 1,
    .examples = {"echo q4_k_m > recipes.txt; pare sweep recipes.txt -m model.gguf -o outs --eval "
                 "'wiki.test.raw ctx=128 windows=2'",
                 "pare sweep recipes.txt -m model.gguf -o outs --eval 'wiki.test.raw ctx=128 "
                 "windows=2' --dry-run --json"},
    .ranks = true,
    .run = run,
};
