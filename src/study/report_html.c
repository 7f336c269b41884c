/* A report as one HTML page. Every number links to the record that it comes from. */
#include "study/escape.h"
#include "study/record_columns.h"
#include "study/report_plot.h"
#include "study/report_style.h"
#include "study/report_table.h"

#include "base/memory.h"
#include "base/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double MIB = 1.0 / (1 << 20);

#define PRINT(...) pare_buffer_print(b, __VA_ARGS__)

static void element(pare_buffer *b, const char *open, const char *text, const char *close) {
    PRINT("%s", open);
    pare_html_text(b, text);
    PRINT("%s", close);
}

/* --- tables --- */

static void table_cell(pare_buffer *b, const pare_report_table *t, size_t k,
                       const pare_table_cell *c) {
    PRINT("<td");
    if (t->is_text[k]) PRINT(" class=\"text mono\"");
    if (c->share > 0) PRINT(" class=\"bar\" style=\"--share:%.1f%%\"", 100 * c->share);
    element(b, " data-title=\"", t->titles[k], "\">");
    const char *text = c->text ? c->text : c->number;
    if (*text && c->record) PRINT("<a href=\"#r%lld\">", (long long)c->record);
    pare_html_text(b, text);
    PRINT(*text && c->record ? "</a></td>" : "</td>");
}

void pare_report_table_html(pare_buffer *b, const pare_report_table *t) {
    if (!t->n_rows) return;
    PRINT("<div class=\"scroll cards\"><table><thead><tr>");
    for (size_t k = 0; k < t->n_columns; k++)
        element(b, t->is_text[k] ? "<th class=\"text\">" : "<th>", t->titles[k], "</th>");
    PRINT("</tr></thead><tbody>\n");
    for (size_t i = 0; i < t->n_rows; i++) {
        PRINT("<tr>");
        for (size_t k = 0; k < t->n_columns; k++)
            table_cell(b, t, k, &t->cells[i * t->n_columns + k]);
        PRINT("</tr>\n");
    }
    PRINT("</tbody></table></div>\n");
}

/* --- plots of a model --- */

/* Texts of points live as long as the page is made: in a record's memory. */
static char *print_title(pare_record *pool, const pare_variant *v, double ppl, double x,
                         const char *unit) {
    const char *recipe = *v->recipe ? v->recipe : "dense";
    size_t size = strlen(recipe) + 120;
    char *text = pare_record_calloc(pool, size, 1);
    if (text) snprintf(text, size, "%s: perplexity %.4f, %.1f %s", recipe, ppl, x, unit);
    return text;
}

static bool same_machine(const pare_record *a, const pare_record *b) {
    return a->threads == b->threads && a->cpu && b->cpu && a->isa && b->isa &&
           strcmp(a->cpu, b->cpu) == 0 && strcmp(a->isa, b->isa) == 0;
}

/* What a variant's speed is taken from: decoding where it was measured, else the evaluation. */
static const pare_record *speed_record(const pare_variant *v, size_t setting, bool decode) {
    if (decode) return v->speed;
    const pare_report_cell *c = &v->cells[setting];
    return c->r && !c->before && isfinite(c->r->eval_tokens_per_s) ? c->r : NULL;
}

static size_t count_decode(const pare_report_model *m, size_t setting) {
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) n += m->variants[i].speed && m->variants[i].cells[setting].r;
    return n;
}

/* The machine with most speeds: only those of one machine may be compared. */
static const pare_record *main_machine(const pare_report_model *m, size_t setting, bool decode) {
    const pare_record *best = NULL;
    size_t most = 0;
    for (size_t i = 0; i < m->n; i++) {
        const pare_record *r = speed_record(&m->variants[i], setting, decode);
        size_t n = 0;
        for (size_t k = 0; r && k < m->n; k++) {
            const pare_record *other = speed_record(&m->variants[k], setting, decode);
            n += other && same_machine(r, other);
        }
        if (n > most) {
            most = n;
            best = r;
        }
    }
    return best;
}

typedef struct plot {
    pare_scatter s;
    pare_plot_point *points; /* of the pool */
    size_t n_elsewhere;      /* speeds of other machines */
    const pare_record *machine;
    bool decode;
} plot;

static bool begin_plot(plot *p, pare_record *pool, const pare_report_model *m) {
    *p = (plot){0};
    p->points = pare_record_calloc(pool, m->n, sizeof *p->points);
    p->s.points = p->points;
    p->s.y_title = "perplexity (lower is better)";
    return p->points != NULL;
}

static void add_point(plot *p, pare_record *pool, const pare_variant *v, size_t setting, double x,
                      const char *unit, const pare_record *from) {
    double ppl = pare_cell_ppl(&v->cells[setting]);
    if (!isfinite(ppl) || !(ppl > 0) || !isfinite(x) || !(x > 0)) return;
    const char *title = print_title(pool, v, ppl, x, unit);
    if (!title) return;
    p->points[p->s.n++] = (pare_plot_point){.x = x,
                                            .y = ppl,
                                            .label = *v->recipe ? v->recipe : "dense",
                                            .title = title,
                                            .number = v->number,
                                            .record = from->id,
                                            .dense = !*v->recipe};
}

static void size_plot(pare_buffer *b, pare_record *pool, const pare_report_model *m, size_t setting,
                      const char *setting_text) {
    plot p;
    if (!begin_plot(&p, pool, m)) {
        b->failed = true;
        return;
    }
    for (size_t i = 0; i < m->n; i++) {
        const pare_variant *v = &m->variants[i];
        add_point(&p, pool, v, setting, MIB * (double)pare_variant_bytes(v), "MiB", v->any);
    }
    if (p.s.n < 2) return;
    p.s.x_title = "size of the tensors, MiB";
    p.s.description = "Perplexity against size";
    PRINT("<figure><figcaption>Quality against size<small>");
    pare_html_text(b, setting_text);
    PRINT(". Filled points: nothing is both smaller and better. Dashed: the dense model."
          "</small></figcaption>\n");
    pare_plot_scatter(b, &p.s);
    PRINT("</figure>\n");
}

static void speed_plot(pare_buffer *b, pare_record *pool, const pare_report_model *m,
                       size_t setting) {
    plot p;
    if (!begin_plot(&p, pool, m)) {
        b->failed = true;
        return;
    }
    p.decode = count_decode(m, setting) >= 2;
    p.machine = main_machine(m, setting, p.decode);
    for (size_t i = 0; i < m->n; i++) {
        const pare_variant *v = &m->variants[i];
        const pare_record *r = speed_record(v, setting, p.decode);
        if (!r) continue;
        bool here = same_machine(r, p.machine);
        p.n_elsewhere += !here;
        double x = p.decode ? r->decode_tokens_per_s : r->eval_tokens_per_s;
        if (here) add_point(&p, pool, v, setting, x, "tokens/s", r);
    }
    if (p.s.n < 2) return;
    p.s.x_title =
        p.decode ? "decoding, tokens/s (more is better)" : "evaluation, tokens/s (more is better)";
    p.s.description = "Perplexity against speed";
    p.s.more_is_better = true;
    PRINT("<figure><figcaption>Quality against speed<small>%s on ",
          p.decode ? "Decoding" : "Evaluation");
    pare_html_text(b, p.machine->cpu);
    PRINT(", %s, %lld thread%s.", p.machine->isa, (long long)p.machine->threads,
          p.machine->threads == 1 ? "" : "s");
    if (p.n_elsewhere) PRINT(" Left out: %zu measured on other machines.", p.n_elsewhere);
    PRINT(" Filled points: nothing is both faster and better.</small></figcaption>\n");
    pare_plot_scatter(b, &p.s);
    PRINT("</figure>\n");
}

/* --- errors by block --- */

/* The block that a tensor belongs to ("blk.7.attn_q.weight": 7), or SIZE_MAX. */
static size_t block_of(const char *name) {
    if (!name || strncmp(name, "blk.", 4) != 0) return SIZE_MAX;
    char *end;
    unsigned long n = strtoul(name + 4, &end, 10);
    return end == name + 4 || *end != '.' || n >= 4096 ? SIZE_MAX : n;
}

static size_t count_blocks(const pare_record *r) {
    size_t n = 0;
    for (size_t i = 0; r && i < r->n_layers; i++) {
        size_t block = block_of(r->layers[i].name);
        if (block != SIZE_MAX && block >= n) n = block + 1;
    }
    return n;
}

static bool has_error(const pare_record_layer *l) { return isfinite(l->error) && l->error > 0; }

/* Root mean square of the relative errors of a block's changed tensors, weighted by their size. */
static bool block_errors(double *y, size_t n, const pare_record *r) {
    bool any = false;
    for (size_t k = 0; k < n; k++) {
        double sum = 0, weight = 0;
        for (size_t i = 0; i < r->n_layers; i++) {
            const pare_record_layer *l = &r->layers[i];
            if (block_of(l->name) != k || !has_error(l)) continue;
            sum += (double)l->n_params * l->error * l->error;
            weight += (double)l->n_params;
        }
        y[k] = weight > 0 ? sqrt(sum / weight) : (double)NAN;
        any |= weight > 0;
    }
    return any;
}

void pare_report_legend(pare_buffer *b, const pare_plot_line *lines, const pare_record *const *from,
                        size_t n) {
    PRINT("<ul class=\"legend\">");
    for (size_t i = 0; i < n; i++) {
        PRINT("<li><i style=\"background:var(--c%zu)\"></i>%zu <a class=\"mono\" href=\"#r%lld\">",
              lines[i].color, lines[i].number, (long long)from[i]->id);
        pare_html_text(b, lines[i].title);
        PRINT("</a></li>");
    }
    PRINT("</ul>");
}

static void error_plot(pare_buffer *b, pare_record *pool, const pare_report_model *m) {
    pare_plot_line lines[PARE_MAX_LINES];
    const pare_record *from[PARE_MAX_LINES];
    pare_lines l = {.x_title = "block",
                    .y_title = "relative error",
                    .lines = lines,
                    .whole = true,
                    .description = "Relative error of the weights by block"};
    size_t n_more = 0, n_blocks = 0;
    for (size_t i = 0; i < m->n; i++) {
        size_t n = count_blocks(m->variants[i].made);
        if (n > n_blocks) n_blocks = n;
    }
    double *x = pare_record_calloc(pool, n_blocks, sizeof *x);
    for (size_t k = 0; x && k < n_blocks; k++) x[k] = (double)k;
    l.last_x = n_blocks ? n_blocks - 1 : 0;
    for (size_t i = 0; i < m->n && x && n_blocks > 1; i++) {
        const pare_record *r = m->variants[i].made;
        double *y = r ? pare_record_calloc(pool, n_blocks, sizeof *y) : NULL;
        if (!y || !block_errors(y, n_blocks, r)) continue;
        if (l.n == PARE_MAX_LINES) {
            n_more++;
            continue;
        }
        from[l.n] = r;
        lines[l.n] =
            (pare_plot_line){x, y, n_blocks, m->variants[i].number, l.n, m->variants[i].recipe};
        l.n++;
    }
    if (!l.n) return;
    PRINT("<figure><figcaption>Error by block<small>||W' - W|| / ||W|| of the changed tensors of a "
          "block, root mean square weighted by size. It is of the weights, not of the outputs: a "
          "method that minimizes the latter may have more of it.");
    if (n_more) PRINT(" %zu more variants are in the records below.", n_more);
    PRINT("</small></figcaption>\n");
    pare_plot_lines(b, &l);
    pare_report_legend(b, lines, from, l.n);
    PRINT("</figure>\n");
}

/* --- a model --- */

static void tile(pare_buffer *b, const pare_report_model *m, const pare_variant *v,
                 const char *what) {
    const pare_variant *dense = pare_report_dense(m);
    if (!v) return;
    double bytes = (double)pare_variant_bytes(v), ppl = pare_cell_ppl(&v->cells[0]);
    PRINT("<div class=\"tile\"><span>%s</span><b>%.1f MiB</b><span>perplexity "
          "<a href=\"#r%lld\">%.4g</a>",
          what, MIB * bytes, (long long)v->cells[0].r->id, ppl);
    if (v != dense && pare_variant_bytes(dense) > 0)
        PRINT(", %.0f%% of the size", 100 * bytes / (double)pare_variant_bytes(dense));
    element(b, "</span><code>", *v->recipe ? v->recipe : "dense", "</code></div>\n");
}

static void tiles(pare_buffer *b, const pare_report_model *m) {
    const pare_variant *dense = pare_report_dense(m);
    if (!dense || !m->n_settings || !isfinite(pare_cell_ppl(&dense->cells[0])) ||
        pare_variant_bytes(dense) == 0)
        return;
    PRINT("<div class=\"tiles\">\n");
    tile(b, m, dense, "Dense model");
    static const struct {
        double loss;
        const char *title;
    } bounds[] = {{0.01, "Smallest within 1% of it"},
                  {0.05, "Smallest within 5%"},
                  {0.20, "Smallest within 20%"}};
    const pare_variant *last = NULL; /* told once, under the strictest bound that it meets */
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        const pare_variant *v = pare_report_smallest(m, bounds[i].loss);
        if (v != last) tile(b, m, v, bounds[i].title);
        last = v;
    }
    PRINT("</div>\n");
}

static void facts(pare_buffer *b, const pare_report_model *m) {
    const pare_record *r = m->any;
    PRINT("<p class=\"soft\">");
    pare_html_text(b, r->arch ? r->arch : "unknown architecture");
    if (r->n_params) PRINT(", %.0f M parameters", 1e-6 * (double)r->n_params);
    if (r->licence) element(b, ", licence ", r->licence, "");
    if (r->model_sha256) PRINT(", SHA-256 <span class=\"mono\">%.12s…</span>", m->key);
    PRINT("</p>\n");
}

static pare_status one_table(pare_buffer *b, const pare_report_model *m, size_t setting,
                             const char *title) {
    pare_report_table t;
    PARE_TRY(pare_report_table_make(&t, m, setting, NULL));
    if (t.n_rows) element(b, "<h3>", title, "</h3>\n");
    pare_report_table_html(b, &t);
    pare_report_table_free(&t);
    return PARE_OK;
}

static pare_status model(pare_buffer *b, pare_record *pool, const pare_report_model *m, size_t i) {
    PRINT("<section id=\"m%zu\">\n", i);
    element(b, "<h2>", pare_model_title(m->any), "</h2>\n");
    facts(b, m);
    tiles(b, m);
    for (size_t s = 0; s < m->n_settings; s++) {
        char text[400], title[440];
        pare_setting_text(&m->settings[s], text, sizeof text);
        snprintf(title, sizeof title, "Perplexity: %s", text);
        size_plot(b, pool, m, s, text);
        speed_plot(b, pool, m, s);
        PARE_TRY(one_table(b, m, s, title));
    }
    if (m->n_left_out)
        PRINT("<p class=\"soft\">%zu perplexities under still other settings are left out.</p>\n",
              m->n_left_out);
    PARE_TRY(one_table(b, m, SIZE_MAX, "Without a perplexity"));
    pare_report_table t;
    PARE_TRY(pare_report_tasks_make(&t, m, NULL));
    if (t.n_rows) PRINT("<h3>Accuracy, %% (normalized where the task has it)</h3>\n");
    pare_report_table_html(b, &t);
    pare_report_table_free(&t);
    error_plot(b, pool, m);
    PRINT("</section>\n");
    return PARE_OK;
}

/* --- records --- */

static void field(pare_buffer *b, const pare_column *c, const pare_record *r) {
    static const char *const elsewhere[] = {"id", "time", "verb", "status", "message"};
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (strcmp(c->name, elsewhere[i]) == 0) return;
    if (!pare_column_known(c, r)) return;
    PRINT("<dt>%s</dt><dd>", c->name);
    if (c->type == PARE_COLUMN_TEXT) {
        element(b, "<span class=\"mono\">", pare_column_text(c, r), "</span>");
    } else if (c->type == PARE_COLUMN_REAL) {
        PRINT("%.8g", pare_column_real(c, r));
    } else {
        int64_t v = pare_column_int(c, r);
        PRINT("%lld", (long long)v);
        if (pare_ends_with(c->name, "_bytes")) PRINT(" (%.1f MiB)", MIB * (double)v);
    }
    PRINT("</dd>");
}

/* What follows "blk.N." in a tensor's name. */
static const char *kind_of(const char *name) { return strchr(name + 4, '.') + 1; }

enum { MAX_KINDS = 32 };

/* A picture of all tensors: kinds down, blocks across, the darker the larger the error. */
static void heat_map(pare_buffer *b, const pare_record *r) {
    const char *kinds[MAX_KINDS];
    size_t n_kinds = 0, n_blocks = count_blocks(r);
    double most = 0;
    for (size_t i = 0; i < r->n_layers; i++) {
        const pare_record_layer *l = &r->layers[i];
        if (block_of(l->name) == SIZE_MAX || !has_error(l)) continue;
        most = fmax(most, l->error);
        size_t k = 0;
        while (k < n_kinds && strcmp(kinds[k], kind_of(l->name)) != 0) k++;
        if (k == n_kinds && n_kinds < MAX_KINDS) kinds[n_kinds++] = kind_of(l->name);
    }
    if (!n_kinds || n_blocks < 2) return;
    double left = 140, step = fmin(24, (720 - left) / (double)n_blocks), row = 17;
    PRINT("<svg class=\"heat\" viewBox=\"0 0 720 %g\" role=\"img\" aria-label=\"Error of each "
          "tensor: kinds down, blocks across\">\n",
          row * (double)n_kinds + 18);
    for (size_t k = 0; k < n_kinds; k++) {
        char shown[4 * 22 + 4];
        pare_text_shorten(shown, kinds[k], 22);
        PRINT("<text x=\"0\" y=\"%g\">", row * (double)k + 12);
        pare_html_text(b, shown);
        PRINT("</text>");
    }
    for (size_t i = 0; i < r->n_layers; i++) {
        const pare_record_layer *l = &r->layers[i];
        size_t block = block_of(l->name), k = 0;
        if (block == SIZE_MAX || !has_error(l)) continue;
        while (k < n_kinds && strcmp(kinds[k], kind_of(l->name)) != 0) k++;
        if (k == n_kinds) continue;
        PRINT("<rect x=\"%.1f\" y=\"%g\" width=\"%.1f\" height=\"%g\" opacity=\"%.2f\"><title>",
              left + step * (double)block, row * (double)k, step - 1, row - 1,
              0.08 + 0.92 * l->error / most);
        pare_html_text(b, l->name);
        PRINT(": %.5f</title></rect>\n", l->error);
    }
    PRINT("<text x=\"%g\" y=\"%g\">block 0 to %zu; darkest: error %.4f</text></svg>\n", left,
          row * (double)n_kinds + 13, n_blocks - 1, most);
}

static void layer_row(pare_buffer *b, const pare_record_layer *l) {
    element(b, "<tr><td></td><td class=\"text mono\">", l->name ? l->name : "?", "</td>");
    element(b, "<td>", l->from ? l->from : "?", "</td>");
    element(b, "<td>", l->encoding ? l->encoding : "?", "</td>");
    PRINT("<td>%lld</td><td>%.3f</td><td>%.2f</td><td>%.5f</td><td>%.2f</td><td>",
          (long long)l->out_bytes, l->bits_per_weight, 100 * l->sparsity, l->error, l->seconds);
    if (isfinite(l->output_error)) PRINT("%.5f", l->output_error);
    PRINT("</td></tr>\n");
}

static bool is_copied(const pare_record_layer *l) {
    return l->from && l->encoding && strcmp(l->from, l->encoding) == 0 && !has_error(l);
}

static void layers(pare_buffer *b, const pare_record *r) {
    size_t n_copied = 0;
    if (!r->n_layers) return;
    heat_map(b, r);
    PRINT("<details><summary>Table of tensors</summary><div class=\"scroll\"><table><thead><tr>"
          "<th></th><th class=\"text\">tensor</th><th>from</th><th>to</th><th>bytes</th>"
          "<th>bits/weight</th><th>zeros, %%</th><th>error</th><th>s</th><th>output "
          "error</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < r->n_layers; i++) {
        n_copied += is_copied(&r->layers[i]);
        if (!is_copied(&r->layers[i])) layer_row(b, &r->layers[i]);
    }
    PRINT("</tbody></table></div>");
    if (n_copied) PRINT("<p class=\"soft\">%zu tensors were copied as they are.</p>", n_copied);
    PRINT("</details>\n");
}

static void tasks(pare_buffer *b, const pare_record *r) {
    if (!r->n_tasks) return;
    PRINT("<div class=\"scroll\"><table><thead><tr><th></th><th class=\"text\">task</th><th>n</th>"
          "<th>acc</th><th>±</th><th>acc_norm</th><th>±</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < r->n_tasks; i++) {
        const pare_record_task *t = &r->tasks[i];
        const double values[] = {t->acc, t->acc_stderr, t->acc_norm, t->acc_norm_stderr};
        element(b, "<tr><td></td><td class=\"text\">", t->name ? t->name : "?", "</td>");
        PRINT("<td>%lld</td>", (long long)t->n);
        for (size_t k = 0; k < 4; k++)
            if (isfinite(values[k]))
                PRINT("<td>%.4f</td>", values[k]);
            else
                PRINT("<td></td>");
        PRINT("</tr>\n");
    }
    PRINT("</tbody></table></div>\n");
}

static void record(pare_buffer *b, const pare_record *r) {
    char date[32];
    bool ok = r->status && strcmp(r->status, "ok") == 0;
    pare_date_text(r->time, date);
    PRINT("<article class=\"record\" id=\"r%lld\"><h3>Record %lld: ", (long long)r->id,
          (long long)r->id);
    pare_html_text(b, r->verb ? r->verb : "?");
    PRINT("%s</h3><p class=\"soft\">%s UTC</p>", ok ? "" : " <span class=\"failed\">failed</span>",
          date);
    if (r->message) element(b, "<p class=\"failed\">", r->message, "</p>");
    PRINT("<dl>");
    for (const pare_column *c = pare_record_columns; c->name; c++) field(b, c, r);
    PRINT("</dl>\n");
    for (size_t i = 0; i < r->n_fallbacks; i++)
        element(b, "<p class=\"soft\">Fallback: ", r->fallbacks[i] ? r->fallbacks[i] : "?", "</p>");
    tasks(b, r);
    layers(b, r);
    PRINT("</article>\n");
}

/* --- the page --- */

static void head(pare_buffer *b, const pare_report_data *data, const pare_record_list *records,
                 const char *title) {
    char date[32];
    size_t n_failed = 0;
    for (size_t i = 0; i < records->n; i++)
        n_failed += records->items[i]->status && strcmp(records->items[i]->status, "failed") == 0;
    pare_date_text(pare_wall_s(), date);
    PRINT("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
    element(b, "<title>", title, "</title>\n<style>");
    pare_buffer_add(b, pare_report_style, strlen(pare_report_style));
    PRINT("</style>\n</head>\n<body>\n<main>\n");
    element(b, "<header><h1>", title, "</h1>\n");
    PRINT("<p class=\"soft\">%zu record%s, %zu model%s", records->n, records->n == 1 ? "" : "s",
          data->n, data->n == 1 ? "" : "s");
    if (n_failed) PRINT(", %zu failed run%s", n_failed, n_failed == 1 ? "" : "s");
    PRINT(". Made %s UTC by pare %s. Every number links to the record it comes from.</p>\n<nav>",
          date, PARE_VERSION);
    for (size_t i = 0; i < data->n; i++) {
        PRINT("<a href=\"#m%zu\">", i);
        pare_html_text(b, pare_model_title(data->models[i].any));
        PRINT("</a>");
    }
    if (data->n_trainings) PRINT("<a href=\"#training\">Training</a>");
    if (pare_report_has_outliers(records)) PRINT("<a href=\"#outliers\">Outliers</a>");
    PRINT("<a href=\"#records\">Records</a></nav></header>\n");
}

void pare_report_html(pare_buffer *b, const pare_report_data *data, const pare_record_list *records,
                      const char *title) {
    head(b, data, records, title);
    if (!records->n)
        PRINT("<p>There are no records yet: compress or evaluate a model, then make this "
              "again.</p>\n");
    for (size_t i = 0; i < data->n; i++)
        if (model(b, data->pool, &data->models[i], i) != PARE_OK) b->failed = true;
    pare_report_training_html(b, data);
    pare_report_outliers_html(b, data->pool, records);
    PRINT("<section id=\"records\"><h2>Records</h2>\n");
    for (size_t i = 0; i < records->n; i++) record(b, records->items[i]);
    PRINT("</section>\n</main>\n</body>\n</html>\n");
}
