/* Analyses of outliers in reports: the largest and the median |x| by block, a figure for each site,
 * runs of the same text and shape in one: a model before and after something was done about it. */
#include "study/escape.h"
#include "study/record_columns.h"
#include "study/report_plot.h"
#include "study/report_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_RUNS = PARE_MAX_LINES / 2 /* each has two lines */, MAX_KINDS = 16 };

#define PRINT(...) pare_buffer_print(b, __VA_ARGS__)

static bool same(const char *a, const char *b) { return a && b && strcmp(a, b) == 0; }

static bool is_analysis(const pare_record *r) { return r->n_sites > 0 && same(r->status, "ok"); }

/* Blocks of the same kind that read the same text. */
static bool comparable(const pare_record *a, const pare_record *b) {
    if (!same(a->arch, b->arch) || !same(a->text_sha256, b->text_sha256) || a->ctx != b->ctx ||
        a->n_sites != b->n_sites)
        return false;
    for (size_t i = 0; i < a->n_sites; i++)
        if (a->sites[i].layer != b->sites[i].layer || !same(a->sites[i].site, b->sites[i].site))
            return false;
    return true;
}

/* The site's value in each block. */
static bool make_line(pare_plot_line *l, pare_record *pool, const pare_record *r, const char *kind,
                      bool median) {
    double *x = pare_record_calloc(pool, r->n_sites, sizeof *x);
    double *y = pare_record_calloc(pool, r->n_sites, sizeof *y);
    size_t size = 240;
    char *title = pare_record_calloc(pool, size, 1);
    if (!x || !y || !title) return false;
    l->n = 0;
    for (size_t i = 0; i < r->n_sites; i++) {
        const pare_record_site *s = &r->sites[i];
        if (!same(s->site, kind)) continue;
        double v = median ? s->median : s->top1;
        x[l->n] = (double)s->layer;
        y[l->n++] = v > 0 ? v : (double)NAN; /* the scale is logarithmic */
    }
    snprintf(title, size, "%s, %s", pare_model_title(r), median ? "median" : "top-1");
    l->x = x;
    l->y = y;
    l->title = title;
    return true;
}

static void figure(pare_buffer *b, pare_record *pool, const pare_record *const *runs, size_t n,
                   const char *kind) {
    pare_plot_line lines[PARE_MAX_LINES];
    const pare_record *from[PARE_MAX_LINES];
    pare_lines l = {.x_title = "block",
                    .y_title = "|x|",
                    .lines = lines,
                    .whole = true,
                    .description = "Largest and median activation by block"};
    for (size_t i = 0; i < 2 * n; i++) {
        lines[i] = (pare_plot_line){.number = i / 2 + 1, .color = i};
        if (!make_line(&lines[i], pool, runs[i / 2], kind, i % 2)) {
            b->failed = true;
            return;
        }
        from[i] = runs[i / 2];
        for (size_t k = 0; k < lines[i].n; k++)
            if (lines[i].x[k] > (double)l.last_x) l.last_x = (size_t)lines[i].x[k];
        l.n++;
    }
    if (!lines[0].n) return;
    PRINT("<figure><figcaption>");
    pare_html_text(b, strcmp(kind, "block_out") == 0 ? "Output of the block" : "Input of ");
    if (strcmp(kind, "block_out") != 0) pare_html_text(b, kind);
    PRINT("<small>The largest |x| of a window and the median, mean over the windows.</small>"
          "</figcaption>\n");
    pare_plot_lines(b, &l);
    pare_report_legend(b, lines, from, l.n);
    PRINT("</figure>\n");
}

static void group(pare_buffer *b, pare_record *pool, const pare_record *const *runs, size_t n) {
    const char *kinds[MAX_KINDS];
    const pare_record *r = runs[0];
    size_t n_kinds = 0;
    PRINT("<h3>");
    pare_html_text(b, pare_model_title(r));
    PRINT(": %lld windows of %lld tokens of ", (long long)r->n_windows, (long long)r->ctx);
    pare_html_text(b, r->text ? pare_path_name(r->text) : "?");
    PRINT("</h3>\n");
    for (size_t i = 0; i < r->n_sites; i++) {
        size_t k = 0;
        if (!r->sites[i].site) continue;
        while (k < n_kinds && strcmp(kinds[k], r->sites[i].site) != 0) k++;
        if (k == n_kinds && n_kinds < MAX_KINDS) kinds[n_kinds++] = r->sites[i].site;
    }
    for (size_t k = 0; k < n_kinds; k++) figure(b, pool, runs, n, kinds[k]);
}

bool pare_report_has_outliers(const pare_record_list *records) {
    for (size_t i = 0; i < records->n; i++)
        if (is_analysis(records->items[i])) return true;
    return false;
}

void pare_report_outliers_html(pare_buffer *b, pare_record *pool, const pare_record_list *records) {
    if (!pare_report_has_outliers(records)) return;
    PRINT("<section id=\"outliers\"><h2>Outliers</h2>\n<p class=\"soft\">How large activations "
          "become beside their median. Runs on the same text stand together, the newest %d of "
          "them.</p>\n",
          MAX_RUNS);
    for (size_t i = 0; i < records->n; i++) {
        const pare_record *runs[MAX_RUNS];
        size_t n = 0;
        bool told = !is_analysis(records->items[i]);
        for (size_t k = 0; k < i && !told; k++)
            told =
                is_analysis(records->items[k]) && comparable(records->items[k], records->items[i]);
        for (size_t k = i; k < records->n && !told && n < MAX_RUNS; k++)
            if (is_analysis(records->items[k]) && comparable(records->items[k], records->items[i]))
                runs[n++] = records->items[k];
        if (n) group(b, pool, runs, n);
    }
    PRINT("</section>\n");
}
