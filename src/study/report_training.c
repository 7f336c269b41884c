/* Trainings in reports: curves of all runs that may be compared, and a table of what they ended
 * with.
 */
#include "study/escape.h"
#include "study/record_columns.h"
#include "study/report_plot.h"
#include "study/report_table.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double MIB = 1.0 / (1 << 20);

#define PRINT(...) pare_buffer_print(b, __VA_ARGS__)

void pare_training_text(const pare_training_group *g, char *text, size_t size) {
    const pare_record *r = g->runs[0];
    size_t n_files = 1;
    for (const char *p = r->data ? r->data : ""; *p; p++) n_files += *p == '\n';
    char files[200];
    if (n_files > 1)
        snprintf(files, sizeof files, "%zu files", n_files);
    else
        snprintf(files, sizeof files, "%s", pare_path_name(r->data));
    snprintf(text, size, "%s, held out: %s, windows of %lld tokens", files,
             r->text ? pare_path_name(r->text) : "a part of it", (long long)r->ctx);
}

/* --- the table --- */

typedef struct column {
    const char *title;
    int digits;
    double (*value)(const pare_record *r);
} column;

static double ppl(const pare_record *r) { return r->val_ppl; }
static double loss(const pare_record *r) { return r->val_loss; }
static double first_loss(const pare_record *r) { return r->first_val_loss; }
static double steps(const pare_record *r) { return r->steps ? (double)r->steps : (double)NAN; }
static double tokens(const pare_record *r) {
    return r->train_tokens ? 1e-6 * (double)r->train_tokens : (double)NAN;
}
static double zeros(const pare_record *r) { return 100 * r->sparsity; }
static double params(const pare_record *r) {
    return r->n_params ? 1e-6 * (double)r->n_params : (double)NAN;
}
static double speed(const pare_record *r) { return r->train_tokens_per_s; }
static double seconds(const pare_record *r) { return r->seconds; }
static double memory(const pare_record *r) {
    return r->peak_rss_bytes ? MIB * (double)r->peak_rss_bytes : (double)NAN;
}

static const column columns[] = {{"perplexity", 3, ppl},       {"held-out loss", 4, loss},
                                 {"before", 4, first_loss},    {"zeros, %", 1, zeros},
                                 {"parameters, M", 2, params}, {"steps", 0, steps},
                                 {"tokens, M", 2, tokens},     {"tokens/s", 0, speed},
                                 {"time, s", 1, seconds},      {"peak, MiB", 0, memory}};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

pare_status pare_report_trainings_make(pare_report_table *t, const pare_training_group *g,
                                       pare_error *err) {
    *t = (pare_report_table){.titles = {"#", "training"},
                             .is_text = {false, true},
                             .n_columns = 2 + N_COLUMNS,
                             .n_rows = g->n};
    t->cells = pare_calloc(g->n, t->n_columns * sizeof *t->cells);
    if (!t->cells) return pare_fail(err, PARE_ERR_NOMEM, "report: out of memory");
    for (size_t k = 0; k < N_COLUMNS; k++) t->titles[2 + k] = columns[k].title;
    for (size_t i = 0; i < g->n; i++) {
        const pare_record *r = g->runs[i];
        pare_table_cell *row = t->cells + i * t->n_columns;
        snprintf(row[0].number, sizeof row[0].number, "%zu", i + 1);
        row[1] = (pare_table_cell){.text = r->recipe ? r->recipe : "?", .record = r->id};
        for (size_t k = 0; k < N_COLUMNS; k++)
            row[2 + k] = pare_number_cell(columns[k].value(r), columns[k].digits, "", r->id);
    }
    return PARE_OK;
}

/* --- curves --- */

enum { MAX_POINTS = 400 /* of a line */ };

typedef enum field { VAL_LOSS, LOSS, SPARSITY, RATE, N_FIELDS } field;
static const struct {
    const char *caption, *note, *y_title;
} figures[N_FIELDS] = {
    [VAL_LOSS] = {"Loss of the text held out", "nats a token, before the first step and on.",
                  "loss"},
    [LOSS] = {"Loss of the steps", "nats a token, each of its own part of the text.", "loss"},
    [SPARSITY] = {"Zeros", "share of the weights that are pruned.", "%"},
    [RATE] = {"Learning rate", "as the schedule has it.", "rate"},
};

static double value_of(const pare_record_point *p, field f) {
    switch (f) {
    case VAL_LOSS:
        return p->val_loss;
    case LOSS:
        return p->loss;
    case SPARSITY:
        return 100 * p->sparsity;
    default:
        return p->lr;
    }
}

/* What is known of a field, thinned evenly; false where there are fewer than two points. */
static bool make_line(pare_plot_line *l, pare_record *pool, const pare_record *r, field f) {
    size_t known = 0, at = 0;
    for (size_t i = 0; i < r->n_curve; i++) known += isfinite(value_of(&r->curve[i], f));
    if (known < 2) return false;
    double *x = pare_record_calloc(pool, known, sizeof *x);
    double *y = pare_record_calloc(pool, known, sizeof *y);
    if (!x || !y) return false;
    size_t every = known / MAX_POINTS + 1;
    l->n = 0;
    for (size_t i = 0; i < r->n_curve; i++) {
        double v = value_of(&r->curve[i], f);
        if (!isfinite(v)) continue;
        bool take = at % every == 0 || at + 1 == known;
        at++;
        if (!take) continue;
        x[l->n] = (double)r->curve[i].step;
        y[l->n++] = v;
    }
    l->x = x;
    l->y = y;
    return true;
}

/* A field that is 0 all through has no figure. */
static bool is_seen(const pare_training_group *g, field f) {
    for (size_t i = 0; i < g->n; i++)
        for (size_t k = 0; k < g->runs[i]->n_curve; k++) {
            double v = value_of(&g->runs[i]->curve[k], f);
            if (isfinite(v) && v != 0) return true;
        }
    return false;
}

static void figure(pare_buffer *b, pare_record *pool, const pare_training_group *g, field f) {
    pare_plot_line lines[PARE_MAX_LINES];
    const pare_record *from[PARE_MAX_LINES];
    pare_lines l = {.x_title = "step",
                    .y_title = figures[f].y_title,
                    .lines = lines,
                    .description = figures[f].caption};
    size_t n_more = 0;
    for (size_t i = 0; i < g->n && is_seen(g, f); i++) {
        const pare_record *r = g->runs[i];
        pare_plot_line line = {.number = i + 1, .color = i, .title = r->recipe ? r->recipe : "?"};
        if (i >= PARE_MAX_LINES) {
            n_more++;
            continue;
        }
        if (!make_line(&line, pool, r, f)) continue;
        from[l.n] = r;
        lines[l.n++] = line;
    }
    if (!l.n) return;
    PRINT("<figure><figcaption>%s<small>%s", figures[f].caption, figures[f].note);
    if (n_more) PRINT(" %zu more runs are in the table.", n_more);
    PRINT("</small></figcaption>\n");
    pare_plot_lines(b, &l);
    pare_report_legend(b, lines, from, l.n);
    PRINT("</figure>\n");
}

void pare_report_training_html(pare_buffer *b, const pare_report_data *data) {
    if (!data->n_trainings) return;
    PRINT(
        "<section id=\"training\"><h2>Training</h2>\n<p class=\"soft\">Runs on the same text, with "
        "the same text held out and the same length of windows, stand together; perplexities of "
        "models with other tokenizers are other measures.</p>\n");
    for (size_t i = 0; i < data->n_trainings; i++) {
        const pare_training_group *g = &data->trainings[i];
        pare_report_table t;
        char text[400];
        pare_training_text(g, text, sizeof text);
        PRINT("<h3>");
        pare_html_text(b, text);
        PRINT("</h3>\n");
        if (pare_report_trainings_make(&t, g, NULL) != PARE_OK) b->failed = true;
        pare_report_table_html(b, &t);
        pare_report_table_free(&t);
        for (int f = 0; f < N_FIELDS; f++) figure(b, data->pool, g, (field)f);
    }
    PRINT("</section>\n");
}
