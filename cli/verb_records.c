/* pare records: lists, shows, verifies and removes the records of past runs. */
#include "recording.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct records_options {
    const char *records;
    cli_texts filter;
    int64_t limit;
} records_options;

static const cli_option options[] = {
    CLI_OPTION(records_options, 0, "records", CLI_TEXT, records, "FILE", 0, 0,
               "database of records (default $PARE_RECORDS, else "
               "~/.local/share/pare/records.db)"),
    CLI_OPTION(records_options, 'f', "filter", CLI_TEXTS, filter, "KEY=VALUE", 0, 0,
               "only records where that holds; also KEY!=VALUE, KEY~PART, KEY<N, KEY>N; may be "
               "given again"),
    CLI_OPTION(records_options, 'n', "limit", CLI_INT, limit, "N", 0, 1 << 30,
               "only the newest N; 0 = all"),
    {0},
};
static const records_options defaults = {0};

/* --- list --- */

static void real_cell(cli_table *t, double value, int digits) {
    if (isfinite(value))
        cli_cell(t, "%.*f", digits, value);
    else
        cli_cell(t, "-");
}

static pare_status print_list(cli *c, const pare_record_list *list) {
    cli_table t;
    cli_table_begin(&t, ">id|day|verb|model|recipe|>bits/w|>ppl|protocol|>s");
    for (size_t i = 0; i < list->n; i++) {
        const pare_record *r = list->items[i];
        bool failed = r->status && strcmp(r->status, "ok") != 0;
        cli_cell(&t, "%lld", (long long)r->id);
        cli_cell(&t, "%.10s", cli_date(r->time));
        cli_cell(&t, "%s%s", r->verb ? r->verb : "?", failed ? " (failed)" : "");
        cli_cell(&t, "%s", cli_base_name(r->model ? r->model : r->out));
        cli_cell(&t, "%s", r->recipe && *r->recipe ? r->recipe : "-");
        real_cell(&t, r->bits_per_weight, 3);
        real_cell(&t, isfinite(r->ppl) ? r->ppl : r->val_ppl, 4);
        if (isfinite(r->val_ppl))
            cli_cell(&t, "held out");
        else if (r->protocol)
            cli_cell(&t, "%s-%lld", r->protocol, (long long)r->ctx);
        else
            cli_cell(&t, "-");
        real_cell(&t, isfinite(r->seconds) ? r->seconds : r->eval_seconds, 1);
    }
    return cli_table_end(c, &t);
}

static pare_status print_json(cli *c, const pare_record_list *list, bool details) {
    json_t *o = cli_json_begin(c), *records = json_array();
    for (size_t i = 0; i < list->n; i++)
        json_array_append_new(records, cli_record_json(list->items[i], details));
    json_object_set_new(o, "records", records);
    return cli_json_print(c, o, true);
}

static pare_status list(cli *c, const records_options *o) {
    pare_records *db;
    pare_record_list found = {0};
    pare_record_query q = {o->filter.item, o->filter.n, (size_t)o->limit, false};
    pare_status st = cli_records_open(c, &db, o->records, false);
    if (st == PARE_OK && db) st = pare_records_list(&found, db, &q, &c->err);
    if (st == PARE_OK) st = c->common.json ? print_json(c, &found, false) : print_list(c, &found);
    pare_record_list_free(&found);
    pare_records_close(db);
    return st;
}

/* --- one record --- */

static pare_status find(cli *c, pare_records *db, pare_record_list *found, const char *id) {
    char filter[40], *end;
    errno = 0;
    long long number = strtoll(id, &end, 10);
    if (errno || end == id || *end || number < 1)
        return cli_fail(c, PARE_ERR_ARG, "records: found id '%.60s', expected a number from 1", id);
    snprintf(filter, sizeof filter, "id=%lld", number);
    const char *filters[] = {filter};
    pare_record_query q = {filters, 1, 1, true};
    pare_status st = db ? pare_records_list(found, db, &q, &c->err) : PARE_OK;
    if (st == PARE_OK && !found->n)
        return cli_fail(c, PARE_ERR_INPUT, "records: found no record %lld", number);
    return st;
}

static void short_cell(cli_table *t, double value) {
    if (isfinite(value))
        cli_cell(t, "%.3g", value);
    else
        cli_cell(t, "-");
}

/* Lines with a held-out loss, the first and the last, and so many of the others that it is a page.
 */
static pare_status print_curve(cli *c, const pare_record *r) {
    enum { PAGE = 40 };
    size_t every = r->n_curve / PAGE + 1;
    cli_table t;
    cli_printf(c, "\n");
    cli_table_begin(&t, ">step|>loss|>held out|>lr|>norm|>zero %");
    for (size_t i = 0; i < r->n_curve; i++) {
        const pare_record_point *p = &r->curve[i];
        if (i % every && i + 1 < r->n_curve && !(every < 8 && isfinite(p->val_loss))) continue;
        cli_cell(&t, "%lld", (long long)p->step);
        real_cell(&t, p->loss, 4);
        real_cell(&t, p->val_loss, 4);
        short_cell(&t, p->lr);
        short_cell(&t, p->grad_norm);
        real_cell(&t, 100 * p->sparsity, 2);
    }
    return cli_table_end(c, &t);
}

static pare_status print_sites(cli *c, const pare_record *r) {
    cli_table t;
    cli_printf(c, "\n");
    cli_table_begin(&t, ">layer|site|>top-1|>behind 1st|>top 10%|>median|>channel|>position");
    for (size_t i = 0; i < r->n_sites; i++) {
        const pare_record_site *s = &r->sites[i];
        cli_cell(&t, "%lld", (long long)s->layer);
        cli_cell(&t, "%s", s->site ? s->site : "?");
        real_cell(&t, s->top1, 2);
        real_cell(&t, s->largest_behind, 2);
        real_cell(&t, s->top10, 3);
        real_cell(&t, s->median, 4);
        cli_cell(&t, "%lld", (long long)s->channel);
        cli_cell(&t, "%lld", (long long)s->position);
    }
    return cli_table_end(c, &t);
}

/* Every field that is known, by its name; then the lists as tables. */
static pare_status print_record(cli *c, const pare_record *r) {
    json_t *o = cli_record_json(r, false), *value;
    const char *key;
    cli_table t;
    cli_table_begin(&t, "field|value");
    json_object_foreach(o, key, value) {
        if (json_is_null(value)) continue;
        cli_cell(&t, "%s", key);
        if (strcmp(key, "time") == 0)
            cli_cell(&t, "%s UTC", cli_date(r->time));
        else if (json_is_string(value))
            cli_cell(&t, "%s", json_string_value(value));
        else if (json_is_real(value))
            cli_cell(&t, "%.10g", json_real_value(value));
        else
            cli_cell(&t, "%lld", (long long)json_integer_value(value));
    }
    json_decref(o);
    pare_status st = cli_table_end(c, &t);
    if (st == PARE_OK && r->n_tasks) {
        cli_printf(c, "\n");
        cli_table_begin(&t, "task|>n|>acc|>+-|>acc_norm|>+-");
        for (size_t i = 0; i < r->n_tasks; i++) {
            cli_cell(&t, "%s", r->tasks[i].name ? r->tasks[i].name : "?");
            cli_cell(&t, "%lld", (long long)r->tasks[i].n);
            real_cell(&t, r->tasks[i].acc, 4);
            real_cell(&t, r->tasks[i].acc_stderr, 4);
            real_cell(&t, r->tasks[i].acc_norm, 4);
            real_cell(&t, r->tasks[i].acc_norm_stderr, 4);
        }
        st = cli_table_end(c, &t);
    }
    if (st == PARE_OK && r->n_curve) st = print_curve(c, r);
    if (st == PARE_OK && r->n_sites) st = print_sites(c, r);
    if (st == PARE_OK && r->n_layers) {
        cli_printf(c, "\n");
        cli_table_begin(&t, "tensor|from|to|>size|>bits/w|>zero %|>error|>s");
        for (size_t i = 0; i < r->n_layers; i++) {
            const pare_record_layer *l = &r->layers[i];
            cli_cell(&t, "%s", l->name ? l->name : "?");
            cli_cell(&t, "%s", l->from ? l->from : "?");
            cli_cell(&t, "%s", l->encoding ? l->encoding : "?");
            cli_cell(&t, "%s", cli_bytes((double)l->out_bytes));
            real_cell(&t, l->bits_per_weight, 3);
            real_cell(&t, 100 * l->sparsity, 2);
            real_cell(&t, l->error, 5);
            real_cell(&t, l->seconds, 2);
        }
        st = cli_table_end(c, &t);
    }
    for (size_t i = 0; st == PARE_OK && i < r->n_fallbacks; i++)
        st = cli_printf(c, "fallback: %s\n", r->fallbacks[i] ? r->fallbacks[i] : "?");
    return st;
}

static const char *state_name(pare_check_state state) {
    static const char *const names[] = {"same", "changed", "missing", "unknown"};
    return names[state];
}

static pare_status verify(cli *c, const pare_record *r) {
    pare_record_check checks[PARE_RECORD_FILES];
    size_t n = 0;
    pare_status st = cli_runtime(c);
    if (st == PARE_OK) st = pare_record_verify(checks, &n, r, c->rt, &c->err);
    cli_progress_end(c);
    if (st != PARE_OK) return st;
    cli_table t;
    cli_table_begin(&t, "file|state|path");
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        const pare_record_check *k = &checks[i];
        if (k->state == PARE_CHECK_CHANGED)
            cli_bound(c, "%s: the %s has changed: found SHA-256 %.12s..., the record has %.12s...",
                      k->path, k->role, k->found, k->recorded);
        cli_cell(&t, "%s", k->role);
        cli_cell(&t, "%s", state_name(k->state));
        cli_cell(&t, "%s", k->path);
        json_t *o = json_object();
        json_object_set_new(o, "role", json_string(k->role));
        json_object_set_new(o, "path", cli_json_string(k->path));
        json_object_set_new(o, "recorded", cli_json_string(k->recorded));
        json_object_set_new(o, "found", *k->found ? json_string(k->found) : json_null());
        json_object_set_new(o, "state", json_string(state_name(k->state)));
        json_array_append_new(list, o);
    }
    if (!c->common.json) {
        json_decref(list);
        return cli_table_end(c, &t);
    }
    json_t *out = cli_json_begin(c), *records = json_array();
    json_array_append_new(records, cli_record_json(r, false));
    json_object_set_new(out, "records", records);
    json_object_set_new(out, "files", list);
    for (size_t i = 0; i < t.n_cells; i++) free(t.cell[i]);
    free(t.cell);
    return cli_json_print(c, out, true);
}

static pare_status tell(cli *c, const char *what, const pare_record_list *found) {
    const pare_record *r = found->items[0];
    bool rm = strcmp(what, "rm") == 0;
    if (strcmp(what, "verify") == 0) return verify(c, r);
    if (c->common.json) return print_json(c, found, !rm);
    if (!rm) return print_record(c, r);
    cli_note(c, "removed record %lld; its files are still there", (long long)r->id);
    return PARE_OK;
}

static pare_status one(cli *c, const records_options *o, const char *what, const char *id) {
    pare_records *db;
    pare_record_list found = {0};
    bool rm = strcmp(what, "rm") == 0;
    pare_status st = cli_records_open(c, &db, o->records, rm);
    if (st == PARE_OK) st = find(c, db, &found, id);
    const pare_record *r = found.n ? found.items[0] : NULL;
    if (st == PARE_OK && r) {
        if (rm) st = pare_records_remove(db, r->id, &c->err);
        if (st == PARE_OK) st = tell(c, what, &found);
    }
    pare_record_list_free(&found);
    pare_records_close(db);
    return st;
}

static pare_status run(cli *c, const void *opts, char **args, size_t n_args) {
    const records_options *o = opts;
    static const char *const known[] = {"list", "show", "verify", "rm", NULL};
    if (n_args == 0 || (n_args == 1 && strcmp(args[0], "list") == 0)) return list(c, o);
    for (size_t i = 1; known[i]; i++) {
        if (strcmp(args[0], known[i]) != 0) continue;
        if (n_args == 2) return one(c, o, known[i], args[1]);
        return cli_fail(c, PARE_ERR_ARG, "records %s: found no id, expected the number of a record",
                        known[i]);
    }
    const char *near = cli_nearest(args[0], known);
    return cli_fail(c, PARE_ERR_ARG, "records: found '%.60s', expected show, verify or rm%s%s%s",
                    args[0], near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

const cli_verb cli_verb_records = {
    .name = "records",
    .arguments = "[show ID | verify ID | rm ID]",
    .summary = "lists, shows and verifies the records of past runs",
    .notes = "compress, eval, train and sweep add a record of what they did: recipe, seed, "
             "machine, SHA-256 "
             "of all files, sizes, quality, speed. show prints one in full. verify reads its files "
             "again and exits 3 when one has changed. rm removes a record, not its files.",
    .options = options,
    .defaults = &defaults,
    .options_size = sizeof(records_options),
    .max_args = 2,
    .examples = {"pare records", "pare records --filter verb=eval --filter 'ppl<30' --limit 10",
                 "pare records --filter recipe~q4_k --json"},
    .run = run,
};
