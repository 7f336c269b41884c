/* pare report: tables and plots from the records. */
#include "recording.h"

#include <stdlib.h>
#include <string.h>

typedef struct report_options {
    const char *records, *title;
    cli_texts filter;
    int64_t limit;
    bool markdown, csv;
} report_options;

static const cli_option options[] = {
    CLI_SWITCH(report_options, 0, "markdown", markdown, "tables as Markdown"),
    CLI_SWITCH(report_options, 0, "csv", csv, "a row per record"),
    CLI_OPTION(report_options, 0, "title", CLI_TEXT, title, "TEXT", 0, 0, "of the page"),
    CLI_OPTION(report_options, 'f', "filter", CLI_TEXTS, filter, "KEY=VALUE", 0, 0,
               "only records where that holds; also KEY!=VALUE, KEY~PART, KEY<N, KEY>N; may be "
               "given again"),
    CLI_OPTION(report_options, 'n', "limit", CLI_INT, limit, "N", 0, 1 << 30,
               "only the newest N records; 0 = all"),
    CLI_OPTION(report_options, 0, "records", CLI_TEXT, records, "FILE", 0, 0,
               "database of records (default $PARE_RECORDS, else "
               "~/.local/share/pare/records.db)"),
    {0},
};
static const report_options defaults = {0};

static pare_status print_json(cli *c, const pare_record_list *list, const char *out) {
    json_t *o = cli_json_begin(c), *records = json_array();
    json_object_set_new(o, "out", out ? cli_json_string(out) : json_null());
    for (size_t i = 0; i < list->n; i++)
        json_array_append_new(records, cli_record_json(list->items[i], true));
    json_object_set_new(o, "records", records);
    return cli_json_print(c, o, true);
}

/* A report to OUT, or to standard output unless JSON goes there. */
static pare_status make(cli *c, const report_options *o, const pare_record_list *list,
                        const char *out) {
    pare_report_format format = o->csv        ? PARE_REPORT_CSV
                                : o->markdown ? PARE_REPORT_MARKDOWN
                                              : PARE_REPORT_HTML;
    char *text;
    size_t n;
    if (!out && c->common.json) return PARE_OK;
    pare_status st = pare_report(&text, &n, list, format, o->title, &c->err);
    if (st == PARE_OK) st = out ? pare_text_save(out, text, n, &c->err) : cli_print(c, text, n);
    if (st == PARE_OK && out)
        cli_note(c, "%s: %zu record%s, %s", out, list->n, list->n == 1 ? "" : "s",
                 cli_bytes((double)n));
    pare_text_free(text);
    return st;
}

static pare_status run(cli *c, const void *opts, char **args, size_t n_args) {
    const report_options *o = opts;
    const char *out = n_args ? args[0] : NULL;
    if (o->markdown && o->csv)
        return cli_fail(c, PARE_ERR_ARG,
                        "report: found --markdown and --csv, expected one of them");
    if (!out && !o->markdown && !o->csv && c->out_tty && !c->common.json)
        return cli_fail(c, PARE_ERR_ARG,
                        "report: found no name for the page, expected OUT.html (or --markdown)");
    pare_records *db;
    pare_record_list list = {0};
    pare_record_query q = {o->filter.item, o->filter.n, (size_t)o->limit, true};
    pare_status st = cli_records_open(c, &db, o->records, false);
    if (st == PARE_OK && db) st = pare_records_list(&list, db, &q, &c->err);
    if (st == PARE_OK) st = make(c, o, &list, out);
    if (st == PARE_OK && c->common.json) st = print_json(c, &list, out);
    pare_record_list_free(&list);
    pare_records_close(db);
    return st;
}

const cli_verb cli_verb_report = {
    .name = "report",
    .arguments = "[OUT.html]",
    .summary = "tables and plots from the records",
    .notes = "One page that needs nothing else: quality against size and against speed, errors by "
             "block, and every number linked to its record. Models, variants and evaluations are "
             "joined by the hashes of their contents, so the names of files do not matter.",
    .options = options,
    .defaults = &defaults,
    .options_size = sizeof(report_options),
    .max_args = 1,
    .examples = {"pare report > report.html; wc -c report.html",
                 "pare report --markdown --filter verb=compress", "pare report --csv --limit 100"},
    .run = run,
};
