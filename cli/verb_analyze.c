/* pare analyze: looks into a model while it reads a text. */
#include "recording.h"

#include "pare/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct analyze_options {
    const char *text, *records, *prefix;
    int64_t ctx, windows, rows, tokens;
    int compute;
} analyze_options;

static const cli_option table[] = {
    CLI_OPTION(analyze_options, 0, "text", CLI_TEXT, text, "FILE", 0, 0,
               "the text that the model reads, - = standard input"),
    CLI_OPTION(analyze_options, 'c', "ctx", CLI_INT, ctx, "N", 0, 1 << 30,
               "tokens a window; 0 = 2048, at most the model's maximum"),
    CLI_OPTION(analyze_options, 0, "windows", CLI_INT, windows, "N", 1, 1 << 30,
               "only the first N windows of the text"),
    CLI_OPTION(analyze_options, 0, "rows", CLI_INT, rows, "N", 0, 1 << 30,
               "inputs in the table, those with the largest values; 0 = all"),
    CLI_OPTION(analyze_options, 0, "top", CLI_INT, tokens, "N", 1, PARE_MAX_LARGEST,
               "tokens named at each site (--json)"),
    CLI_OPTION(analyze_options, 0, "compute", CLI_CHOICE, compute, "exact|fast", 0, 0,
               "f32 results, or 8-bit activations where the weights allow"),
    CLI_OPTION(analyze_options, 0, "prefix", CLI_TEXT, prefix, "FILE", 0, 0,
               "a cushion that the windows stand behind; none = no cushion (default: what MODEL's "
               "folder has)"),
    CLI_OPTION(analyze_options, 0, "records", CLI_TEXT, records, "FILE", 0, 0, CLI_RECORDS_HELP),
    {0},
};
static const analyze_options defaults = {
    .windows = 10, .rows = 16, .tokens = 4, .compute = PARE_COMPUTE_EXACT};

/* --- output --- */

enum { SHOWN_BYTES = 20 };

/* A token as it may stand in a table: quoted, with escapes, cut between characters. */
static const char *shown(const pare_tokenizer *tok, int32_t id, char out[2 * SHOWN_BYTES + 8]) {
    char *text = NULL;
    size_t n = 0, at = 0;
    if (pare_tokenizer_decode(tok, &text, &n, &id, 1, PARE_TOK_VALID_UTF8, NULL) != PARE_OK)
        return "?";
    if (n > SHOWN_BYTES)
        for (n = SHOWN_BYTES; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80;) n--;
    out[at++] = '\'';
    for (size_t i = 0; i < n; i++) {
        char b = text[i], letter = b == '\n' ? 'n' : b == '\t' ? 't' : b == '\r' ? 'r' : 0;
        if (letter) out[at++] = '\\';
        out[at++] = letter ? letter : (unsigned char)b < 0x20 ? '?' : b;
    }
    out[at++] = '\'';
    out[at] = 0;
    pare_tokenizer_text_free(text);
    return out;
}

static json_t *token_json(const pare_tokenizer *tok, const pare_outlier_token *t) {
    char *text = NULL;
    size_t n = 0;
    json_t *o = json_object();
    json_object_set_new(o, "window", json_integer((json_int_t)t->window));
    json_object_set_new(o, "position", json_integer((json_int_t)t->position));
    json_object_set_new(o, "channel", json_integer((json_int_t)t->channel));
    json_object_set_new(o, "token_id", json_integer(t->id));
    if (pare_tokenizer_decode(tok, &text, &n, &t->id, 1, PARE_TOK_VALID_UTF8, NULL) == PARE_OK)
        json_object_set_new(o, "token", cli_json_text(text, n));
    else
        json_object_set_new(o, "token", json_null());
    json_object_set_new(o, "value", cli_json_real((double)t->value));
    pare_tokenizer_text_free(text);
    return o;
}

static json_t *site_json(const pare_tokenizer *tok, const pare_outlier_site *s) {
    json_t *o = json_object(), *tokens = json_array();
    json_object_set_new(o, "layer", json_integer((json_int_t)s->layer));
    json_object_set_new(o, "site", json_string(s->name));
    json_object_set_new(o, "width", json_integer((json_int_t)s->width));
    json_object_set_new(o, "top1", cli_json_real(s->top1));
    json_object_set_new(o, "top10", cli_json_real(s->top10));
    json_object_set_new(o, "top10_mean", cli_json_real(s->top10_mean));
    json_object_set_new(o, "median", cli_json_real(s->median));
    json_object_set_new(o, "largest", cli_json_real(s->largest));
    json_object_set_new(o, "largest_behind_first", cli_json_real(s->largest_behind));
    for (size_t i = 0; i < s->n_tokens; i++)
        json_array_append_new(tokens, token_json(tok, &s->tokens[i]));
    json_object_set_new(o, "tokens", tokens);
    return o;
}

static pare_status print_json(cli *c, const pare_tokenizer *tok, const pare_outliers *r,
                              int64_t record_id) {
    char crc[9];
    json_t *out = cli_json_begin(c), *sites = json_array(), *layers = json_array();
    snprintf(crc, sizeof crc, "%08x", (unsigned)r->crc32);
    json_object_set_new(out, "analysis", json_string("outliers"));
    json_object_set_new(out, "ctx", json_integer((json_int_t)r->ctx));
    json_object_set_new(out, "n_windows", json_integer((json_int_t)r->n_windows));
    json_object_set_new(out, "n_tokens", json_integer((json_int_t)r->n_text));
    json_object_set_new(out, "crc32", json_string(crc));
    json_object_set_new(out, "compute",
                        json_string(r->compute == PARE_COMPUTE_EXACT ? "exact" : "fast"));
    for (size_t i = 0; i < r->n_sites; i++)
        json_array_append_new(sites, site_json(tok, &r->sites[i]));
    json_object_set_new(out, "prefix_length", json_integer((json_int_t)r->prefix_length));
    json_object_set_new(out, "sites", sites);
    for (size_t i = 0; i < r->n_layers; i++) {
        json_t *layer = json_object();
        json_object_set_new(layer, "layer", json_integer((json_int_t)i));
        json_object_set_new(layer, "attention_first", cli_json_real(r->attention_first[i]));
        json_object_set_new(layer, "attention_prefix", cli_json_real(r->attention_prefix[i]));
        json_array_append_new(layers, layer);
    }
    json_object_set_new(out, "layers", layers);
    json_object_set_new(out, "seconds", cli_json_real(r->seconds));
    json_object_set_new(out, "record_id", cli_record_id(record_id));
    return cli_json_print(c, out, true);
}

static bool is_block(const pare_outlier_site *s) { return strcmp(s->name, "block_out") == 0; }

static int by_top1(const void *a, const void *b) {
    const pare_outlier_site *x = *(const pare_outlier_site *const *)a,
                            *y = *(const pare_outlier_site *const *)b;
    if (x->top1 != y->top1) return x->top1 > y->top1 ? -1 : 1;
    return x < y ? -1 : x > y; /* of one array */
}

/* Inputs of matrices. */
static pare_status print_sites(cli *c, const pare_tokenizer *tok, const pare_outliers *r,
                               size_t rows) {
    const pare_outlier_site **order = calloc(r->n_sites + 1, sizeof(const pare_outlier_site *));
    cli_table t;
    size_t n = 0;
    if (!order) return cli_fail(c, PARE_ERR_NOMEM, "analyze: out of memory");
    for (size_t i = 0; i < r->n_sites; i++)
        if (!is_block(&r->sites[i])) order[n++] = &r->sites[i];
    if (rows) qsort(order, n, sizeof(const pare_outlier_site *), by_top1);
    cli_table_begin(&t,
                    ">layer|input of|>top-1|>behind 1st|>top 10%|>median|>top-1:median|>channel|"
                    ">position|token");
    for (size_t i = 0; i < n && (!rows || i < rows); i++) {
        const pare_outlier_site *s = order[i];
        char text[2 * SHOWN_BYTES + 8];
        cli_cell(&t, "%zu", s->layer);
        cli_cell(&t, "%s", s->name);
        cli_cell(&t, "%.2f", s->top1);
        cli_cell(&t, "%.2f", s->largest_behind);
        cli_cell(&t, "%.3f", s->top10);
        cli_cell(&t, "%.4f", s->median);
        if (s->median > 0)
            cli_cell(&t, "%.0f", s->top1 / s->median);
        else
            cli_cell(&t, "-");
        cli_cell(&t, "%zu", s->tokens[0].channel);
        cli_cell(&t, "%zu", s->tokens[0].position);
        cli_cell(&t, "%s", shown(tok, s->tokens[0].id, text));
    }
    free(order);
    return cli_table_end(c, &t);
}

/* The blocks' outputs, and where attention goes. */
static pare_status print_layers(cli *c, const pare_outliers *r) {
    cli_table t;
    cli_table_begin(
        &t, ">layer|>output top-1|>top 10%|>median|>attention: first token (%)|>prefix (%)");
    for (size_t i = 0; i < r->n_sites; i++) {
        const pare_outlier_site *s = &r->sites[i];
        if (!is_block(s)) continue;
        cli_cell(&t, "%zu", s->layer);
        cli_cell(&t, "%.2f", s->top1);
        cli_cell(&t, "%.3f", s->top10);
        cli_cell(&t, "%.4f", s->median);
        cli_cell(&t, "%.1f", 100 * r->attention_first[s->layer]);
        if (r->prefix_length)
            cli_cell(&t, "%.1f", 100 * r->attention_prefix[s->layer]);
        else
            cli_cell(&t, "-");
    }
    return cli_table_end(c, &t);
}

static pare_status print_tables(cli *c, const analyze_options *o, const pare_tokenizer *tok,
                                const pare_outliers *r) {
    cli_printf(c,
               "|x| in %zu window%s of %zu tokens: means over windows; the token, position and "
               "channel of the largest.\n\n",
               r->n_windows, r->n_windows == 1 ? "" : "s", r->ctx);
    pare_status st = print_sites(c, tok, r, (size_t)o->rows);
    if (st == PARE_OK) st = cli_printf(c, "\n");
    return st == PARE_OK ? print_layers(c, r) : st;
}

/* --- work --- */

static int64_t record(cli *c, const char *model, const analyze_options *o,
                      const pare_outliers *found) {
    pare_error err = {0};
    pare_record *r = cli_record_begin(c);
    if (!r) return 0;
    if (pare_record_set_outliers(r, found, &err) != PARE_OK)
        cli_warn(c, "the record is incomplete: %s", err.message);
    r->model = model;
    r->text = o->text;
    return cli_record_end(c, r, o->records);
}

static pare_status outliers(cli *c, const analyze_options *o, const char *model) {
    char *text = NULL;
    size_t n = 0;
    pare_tokenizer *tok = NULL;
    pare_outliers *found = NULL;
    pare_outlier_options oo = pare_outlier_options_default();
    oo.ctx = (size_t)o->ctx;
    oo.n_windows = (size_t)o->windows;
    oo.n_largest = (size_t)o->tokens;
    oo.compute = (pare_compute)o->compute;
    oo.name = o->text;
    oo.prefix = o->prefix && strcmp(o->prefix, "none") == 0 ? "" : o->prefix;
    pare_status st = cli_read(c, &text, &n, o->text);
    if (st == PARE_OK) st = pare_tokenizer_load(&tok, model, &c->err);
    if (st == PARE_OK) st = pare_analyze_outliers(&found, c->rt, model, text, n, &oo, &c->err);
    cli_progress_end(c);
    if (st == PARE_OK) {
        int64_t id = record(c, model, o, found);
        st = c->common.json ? print_json(c, tok, found, id) : print_tables(c, o, tok, found);
    }
    pare_outliers_free(found);
    pare_tokenizer_free(tok);
    free(text);
    return st;
}

static pare_status run(cli *c, const void *options, char **args, size_t n_args) {
    const analyze_options *o = options;
    (void)n_args;
    if (strcmp(args[0], "outliers") != 0)
        return cli_fail(c, PARE_ERR_ARG, "analyze: found '%.60s', expected outliers", args[0]);
    if (!o->text) return cli_fail(c, PARE_ERR_ARG, "analyze: found no text, expected --text FILE");
    pare_status st = cli_runtime(c);
    return st == PARE_OK ? outliers(c, o, args[1]) : st;
}

const cli_verb cli_verb_analyze = {
    .name = "analyze",
    .arguments = "outliers MODEL",
    .summary = "which activations are far larger than the others, and who carries them",
    .notes =
        "At the input of each group of matrices that share one, and at each block's output: the "
        "largest |x| of a window, the least of the largest tenth, the median; the largest behind "
        "the window's first token; who carries the largest; the share of the attention that the "
        "first token gets. One value that is thousands of times the median ruins a scale that a "
        "whole tensor shares (pare methods cushioncache). docs/analyze.md.",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .min_args = 2,
    .max_args = 2,
    .examples = {"pare analyze outliers model.gguf --text wiki.test.raw --ctx 128 --windows 2",
                 "pare analyze outliers model.gguf --text wiki.test.raw --ctx 64 --top 2 --json",
                 "pare analyze outliers model.gguf --text wiki.test.raw --ctx 128 --rows 0"},
    .run = run,
};
