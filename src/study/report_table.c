#include "study/report_table.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const double MIB = 1.0 / (1 << 20);

/* One row: a variant under a setting. */
typedef struct row {
    const pare_report_model *m;
    const pare_variant *v;
    pare_report_cell cell; /* r NULL = not evaluated */
    double dense_ppl;      /* NaN = unknown */
} row;

typedef struct value {
    double number;
    const pare_record *from;
} value;

/* Of the evaluation when it is of the variant itself. */
static value of_eval(const row *r, double number) {
    bool own = r->cell.r && !r->cell.before;
    return (value){own ? number : (double)NAN, r->cell.r};
}

static value bits(const row *r) { return (value){pare_variant_bits(r->v), r->v->any}; }
static value size(const row *r) {
    return (value){MIB * (double)pare_variant_bytes(r->v), r->v->any};
}
static value zeros(const row *r) {
    return (value){r->v->made ? 100 * r->v->made->sparsity : (double)NAN, r->v->made};
}
static value ppl(const row *r) { return (value){pare_cell_ppl(&r->cell), r->cell.r}; }
static value ppl_error(const row *r) { return of_eval(r, r->cell.r ? r->cell.r->ppl_stderr : 0); }
static value loss(const row *r) {
    bool dense = !*r->v->recipe;
    return (value){dense ? (double)NAN : 100 * (pare_cell_ppl(&r->cell) / r->dense_ppl - 1),
                   r->cell.r};
}
static value kl(const row *r) { return of_eval(r, r->cell.r ? r->cell.r->kl_mean : 0); }
static value same_top(const row *r) {
    return of_eval(r, r->cell.r ? 100 * r->cell.r->same_top : 0);
}
static value decode(const row *r) {
    return (value){r->v->speed ? r->v->speed->decode_tokens_per_s : (double)NAN, r->v->speed};
}
static value eval_speed(const row *r) {
    return of_eval(r, r->cell.r ? r->cell.r->eval_tokens_per_s : 0);
}
static value seconds(const row *r) {
    return (value){r->v->made ? r->v->made->seconds : (double)NAN, r->v->made};
}
static value memory(const row *r) {
    int64_t bytes = r->v->made ? r->v->made->peak_rss_bytes : 0;
    return (value){bytes ? MIB * (double)bytes : (double)NAN, r->v->made};
}

typedef struct column {
    const char *title;
    int digits;
    bool bar;
    const char *sign; /* in front of positive numbers */
    value (*value)(const row *r);
    value (*error)(const row *r); /* NULL = none */
} column;
static const column columns[] = {
    {"bits/weight", 3, false, "", bits, NULL},
    {"size, MiB", 1, true, "", size, NULL},
    {"zeros, %", 1, false, "", zeros, NULL},
    {"perplexity", 4, false, "", ppl, ppl_error},
    {"vs dense, %", 2, false, "+", loss, NULL},
    {"KL to dense", 5, false, "", kl, NULL},
    {"same top, %", 2, false, "", same_top, NULL},
    {"decode, tokens/s", 1, false, "", decode, NULL},
    {"eval, tok/s", 0, false, "", eval_speed, NULL},
    {"compress, s", 1, false, "", seconds, NULL},
    {"peak, MiB", 0, false, "", memory, NULL},
};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

pare_table_cell pare_number_cell(double v, int digits, const char *sign, int64_t record) {
    pare_table_cell c = {0};
    if (!isfinite(v)) return c;
    /* a large number needs no fraction: a broken model's perplexity of 10^6 */
    if (fabs(v) >= 1e5 && digits > 0) digits = 0;
    if (fabs(v) >= 1e9)
        snprintf(c.number, sizeof c.number, "%.3g", v);
    else
        snprintf(c.number, sizeof c.number, "%s%.*f", v > 0 ? sign : "", digits, v);
    c.record = record;
    return c;
}

static void add_error(pare_table_cell *c, double error) {
    size_t n = strlen(c->number);
    if (!n || !isfinite(error)) return;
    /* two digits, never as 1.9e+02 */
    snprintf(c->number + n, sizeof c->number - n, error < 10 ? " ± %.2g" : " ± %.0f", error);
}

static const char *recipe_text(const pare_variant *v) { return *v->recipe ? v->recipe : "dense"; }

/* The columns beside number and recipe that have a value in any row. */
static size_t choose(const column **chosen, const row *rows, size_t n) {
    size_t n_chosen = 0;
    for (size_t k = 0; k < N_COLUMNS; k++)
        for (size_t i = 0; i < n; i++)
            if (isfinite(columns[k].value(&rows[i]).number)) {
                chosen[n_chosen++] = &columns[k];
                break;
            }
    return n_chosen;
}

static pare_status begin(pare_report_table *t, size_t n_columns, size_t n_rows, pare_error *err) {
    t->n_columns = n_columns;
    t->n_rows = n_rows;
    t->titles[0] = "#";
    t->titles[1] = "recipe";
    t->is_text[1] = true;
    t->cells = pare_calloc(n_rows * n_columns, sizeof *t->cells);
    return t->cells ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "report: out of memory");
}

static void begin_row(pare_report_table *t, size_t i, const pare_variant *v) {
    pare_table_cell *c = t->cells + i * t->n_columns;
    if (v->number) snprintf(c[0].number, sizeof c[0].number, "%zu", v->number);
    c[1].text = recipe_text(v);
    c[1].record = v->any->id;
}

static size_t collect(row *rows, const pare_report_model *m, size_t setting) {
    const pare_variant *dense = pare_report_dense(m);
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) {
        row r = {.m = m, .v = &m->variants[i], .dense_ppl = (double)NAN};
        bool any = false;
        for (size_t s = 0; s < m->n_settings; s++) any |= r.v->cells[s].r != NULL;
        if (setting == SIZE_MAX ? any : !r.v->cells[setting].r) continue;
        if (setting != SIZE_MAX) r.cell = r.v->cells[setting];
        if (setting != SIZE_MAX && dense) r.dense_ppl = pare_cell_ppl(&dense->cells[setting]);
        rows[n++] = r;
    }
    return n;
}

pare_status pare_report_table_make(pare_report_table *t, const pare_report_model *m, size_t setting,
                                   pare_error *err) {
    const column *chosen[N_COLUMNS];
    *t = (pare_report_table){0};
    row *rows = pare_calloc(m->n, sizeof *rows);
    if (!rows) return pare_fail(err, PARE_ERR_NOMEM, "report: out of memory");
    size_t n = collect(rows, m, setting), n_chosen = choose(chosen, rows, n);
    pare_status st = begin(t, 2 + n_chosen, n, err);
    for (size_t i = 0; st == PARE_OK && i < n; i++) begin_row(t, i, rows[i].v);
    for (size_t k = 0; st == PARE_OK && k < n_chosen; k++) {
        double most = 0;
        t->titles[2 + k] = chosen[k]->title;
        for (size_t i = 0; i < n; i++) most = fmax(most, chosen[k]->value(&rows[i]).number);
        for (size_t i = 0; i < n; i++) {
            value v = chosen[k]->value(&rows[i]);
            pare_table_cell *c = &t->cells[i * t->n_columns + 2 + k];
            *c = pare_number_cell(v.number, chosen[k]->digits, chosen[k]->sign,
                                  v.from ? v.from->id : 0);
            if (chosen[k]->error) add_error(c, chosen[k]->error(&rows[i]).number);
            if (chosen[k]->bar && c->number[0] && most > 0) c->share = v.number / most;
        }
    }
    pare_free(rows);
    return st;
}

/* --- tasks --- */

static size_t find_task(const pare_report_table *t, const char *name) {
    size_t k = 2;
    while (k < t->n_columns && strcmp(t->titles[k], name) != 0) k++;
    return k;
}

static void task_cell(pare_table_cell *c, const pare_record_task *task, int64_t record) {
    bool norm = isfinite(task->acc_norm);
    double acc = norm ? task->acc_norm : task->acc;
    double error = norm ? task->acc_norm_stderr : task->acc_stderr;
    if (!isfinite(acc)) return;
    if (isfinite(error))
        snprintf(c->number, sizeof c->number, "%.2f ± %.2f", 100 * acc, 100 * error);
    else
        snprintf(c->number, sizeof c->number, "%.2f", 100 * acc);
    c->record = record;
}

pare_status pare_report_tasks_make(pare_report_table *t, const pare_report_model *m,
                                   pare_error *err) {
    enum { MAX_COLUMNS = sizeof t->titles / sizeof *t->titles };
    *t = (pare_report_table){.n_columns = 2};
    size_t n_rows = 0;
    for (size_t i = 0; i < m->n; i++) {
        const pare_record *r = m->variants[i].tasks;
        n_rows += r != NULL;
        for (size_t k = 0; r && k < r->n_tasks && t->n_columns < MAX_COLUMNS; k++) {
            const char *name = r->tasks[k].name ? r->tasks[k].name : "?";
            if (find_task(t, name) == t->n_columns) t->titles[t->n_columns++] = name;
        }
    }
    PARE_TRY(begin(t, t->n_columns, n_rows, err));
    for (size_t i = 0, at = 0; i < m->n; i++) {
        const pare_record *r = m->variants[i].tasks;
        if (!r) continue;
        begin_row(t, at, &m->variants[i]);
        for (size_t k = 0; k < r->n_tasks; k++) {
            size_t column = find_task(t, r->tasks[k].name ? r->tasks[k].name : "?");
            if (column < t->n_columns)
                task_cell(&t->cells[at * t->n_columns + column], &r->tasks[k], r->id);
        }
        at++;
    }
    return PARE_OK;
}

void pare_report_table_free(pare_report_table *t) {
    if (!t) return;
    pare_free(t->cells);
    *t = (pare_report_table){0};
}

/* --- findings --- */

const pare_variant *pare_report_smallest(const pare_report_model *m, double max_loss) {
    const pare_variant *dense = pare_report_dense(m), *best = NULL;
    double dense_ppl = dense && m->n_settings ? pare_cell_ppl(&dense->cells[0]) : (double)NAN;
    for (size_t i = 0; i < m->n; i++) {
        const pare_variant *v = &m->variants[i];
        bool good = *v->recipe && pare_cell_ppl(&v->cells[0]) <= (1 + max_loss) * dense_ppl;
        if (good && pare_variant_bytes(v) > 0 &&
            pare_variant_bytes(v) < pare_variant_bytes(dense) &&
            (!best || pare_variant_bytes(v) < pare_variant_bytes(best)))
            best = v;
    }
    return best;
}

void pare_date_text(int64_t when, char text[32]) {
    struct tm parts;
    time_t t = (time_t)when;
    if (!gmtime_r(&t, &parts) || !strftime(text, 32, "%Y-%m-%d %H:%M", &parts))
        snprintf(text, 32, "?");
}
