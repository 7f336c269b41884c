/* Reports as Markdown and CSV, and the entry to all three forms. */
#include "study/escape.h"
#include "study/record_columns.h"
#include "study/report_table.h"

#include "base/memory.h"
#include "base/os.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- Markdown --- */

static void markdown_table(pare_buffer *b, const pare_report_table *t) {
    if (!t->n_rows) return;
    for (size_t k = 0; k < t->n_columns; k++) {
        pare_buffer_print(b, "| ");
        pare_markdown_text(b, k ? t->titles[k] : "n");
        pare_buffer_print(b, " ");
    }
    pare_buffer_print(b, "| record |\n");
    for (size_t k = 0; k < t->n_columns; k++)
        pare_buffer_print(b, t->is_text[k] ? "|---" : "|---:");
    pare_buffer_print(b, "|---|\n");
    for (size_t i = 0; i < t->n_rows; i++) {
        const pare_table_cell *row = t->cells + i * t->n_columns;
        for (size_t k = 0; k < t->n_columns; k++) {
            pare_buffer_print(b, "| ");
            pare_markdown_text(b, row[k].text ? row[k].text : row[k].number);
            pare_buffer_print(b, " ");
        }
        pare_buffer_print(b, "| "); /* each record that a number of the row comes from */
        for (size_t k = 0, told = 0; k < t->n_columns; k++) {
            bool again = row[k].record == 0;
            for (size_t j = 0; j < k && !again; j++) again = row[j].record == row[k].record;
            if (!again)
                pare_buffer_print(b, "%s%lld", told++ ? ", " : "", (long long)row[k].record);
        }
        pare_buffer_print(b, " |\n");
    }
    pare_buffer_print(b, "\n");
}

static pare_status markdown_model(pare_buffer *b, const pare_report_model *m) {
    pare_report_table t;
    char text[400];
    pare_buffer_print(b, "## ");
    pare_markdown_text(b, pare_model_title(m->any));
    pare_buffer_print(b, "\n\n");
    for (size_t s = 0; s < m->n_settings; s++) {
        pare_setting_text(&m->settings[s], text, sizeof text);
        pare_buffer_print(b, "Perplexity: ");
        pare_markdown_text(b, text);
        pare_buffer_print(b, "\n\n");
        PARE_TRY(pare_report_table_make(&t, m, s, NULL));
        markdown_table(b, &t);
        pare_report_table_free(&t);
    }
    PARE_TRY(pare_report_table_make(&t, m, SIZE_MAX, NULL));
    if (t.n_rows) pare_buffer_print(b, "Without a perplexity\n\n");
    markdown_table(b, &t);
    pare_report_table_free(&t);
    PARE_TRY(pare_report_tasks_make(&t, m, NULL));
    if (t.n_rows) pare_buffer_print(b, "Accuracy, %% (normalized where the task has it)\n\n");
    markdown_table(b, &t);
    pare_report_table_free(&t);
    return PARE_OK;
}

void pare_report_markdown(pare_buffer *b, const pare_report_data *data,
                          const pare_record_list *records, const char *title) {
    pare_buffer_print(b, "# ");
    pare_markdown_text(b, title);
    pare_buffer_print(b, "\n\n");
    for (size_t i = 0; i < data->n; i++)
        if (markdown_model(b, &data->models[i]) != PARE_OK) b->failed = true;
    for (size_t i = 0; i < data->n_trainings; i++) {
        pare_report_table t;
        char text[400];
        pare_training_text(&data->trainings[i], text, sizeof text);
        pare_buffer_print(b, i ? "" : "## Training\n\n");
        pare_markdown_text(b, text);
        pare_buffer_print(b, "\n\n");
        if (pare_report_trainings_make(&t, &data->trainings[i], NULL) != PARE_OK) b->failed = true;
        markdown_table(b, &t);
        pare_report_table_free(&t);
    }
    size_t n_failed = 0;
    for (size_t i = 0; i < records->n; i++) {
        const pare_record *r = records->items[i];
        if (!r->status || strcmp(r->status, "failed") != 0) continue;
        if (!n_failed++)
            pare_buffer_print(b, "## Failed runs\n\n| record | recipe | why |\n|---|---|---|\n");
        pare_buffer_print(b, "| %lld | ", (long long)r->id);
        pare_markdown_text(b, r->recipe ? r->recipe : "");
        pare_buffer_print(b, " | ");
        pare_markdown_text(b, r->message ? r->message : "");
        pare_buffer_print(b, " |\n");
    }
}

/* --- CSV (RFC 4180) --- */

/* A text that a spreadsheet would compute gets an apostrophe in front. */
static void csv_text(pare_buffer *b, const char *text) {
    bool formula = *text && strchr("=+-@\t\r", *text);
    pare_buffer_print(b, "\"%s", formula ? "'" : "");
    for (; *text; text++) {
        if (*text == '"') pare_buffer_add(b, "\"", 1);
        pare_buffer_add(b, text, 1);
    }
    pare_buffer_add(b, "\"", 1);
}

static void csv_tasks(pare_buffer *b, const pare_record *r) {
    pare_buffer tasks = {0};
    for (size_t i = 0; i < r->n_tasks; i++) {
        const pare_record_task *t = &r->tasks[i];
        double acc = isfinite(t->acc_norm) ? t->acc_norm : t->acc;
        pare_buffer_print(&tasks, "%s%s=", i ? ";" : "", t->name ? t->name : "?");
        if (isfinite(acc)) pare_buffer_print(&tasks, "%.6g", acc);
    }
    pare_buffer_add(&tasks, "", 1);
    if (tasks.failed)
        b->failed = true;
    else if (r->n_tasks)
        csv_text(b, (const char *)tasks.data);
    pare_buffer_free(&tasks);
}

void pare_report_csv(pare_buffer *b, const pare_record_list *records) {
    for (const pare_column *c = pare_record_columns; c->name; c++)
        pare_buffer_print(b, "%s,", c->name);
    pare_buffer_print(b, "tasks\r\n");
    for (size_t i = 0; i < records->n; i++) {
        const pare_record *r = records->items[i];
        for (const pare_column *c = pare_record_columns; c->name; c++) {
            if (!pare_column_known(c, r))
                ;
            else if (c->type == PARE_COLUMN_TEXT)
                csv_text(b, pare_column_text(c, r));
            else if (c->type == PARE_COLUMN_REAL)
                pare_buffer_print(b, "%.15g", pare_column_real(c, r));
            else
                pare_buffer_print(b, "%lld", (long long)pare_column_int(c, r));
            pare_buffer_add(b, ",", 1);
        }
        csv_tasks(b, r);
        pare_buffer_print(b, "\r\n");
    }
}

/* --- all forms --- */

pare_status pare_report(char **text, size_t *n, const pare_record_list *records,
                        pare_report_format format, const char *title, pare_error *err) {
    *text = NULL;
    *n = 0;
    pare_report_data data;
    pare_buffer b = {0};
    if (!title) title = "pare report";
    PARE_TRY(pare_report_data_make(&data, records, err));
    if (format == PARE_REPORT_CSV)
        pare_report_csv(&b, records);
    else if (format == PARE_REPORT_MARKDOWN)
        pare_report_markdown(&b, &data, records, title);
    else
        pare_report_html(&b, &data, records, title);
    pare_report_data_free(&data);
    pare_buffer_add(&b, "", 1);
    if (b.failed) {
        pare_buffer_free(&b);
        return pare_fail(err, PARE_ERR_NOMEM, "report: out of memory");
    }
    *text = (char *)b.data; /* of pare_free, as pare_text_free expects */
    *n = b.n - 1;
    return PARE_OK;
}

pare_status pare_text_save(const char *path, const char *text, size_t n, pare_error *err) {
    pare_writer w;
    PARE_TRY(pare_writer_open(&w, path, err));
    pare_status st = pare_writer_write(&w, text, n, err);
    if (st == PARE_OK) st = pare_writer_commit(&w, err);
    pare_writer_discard(&w);
    return st;
}
