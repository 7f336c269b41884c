/* The tables of a report, before they become HTML or Markdown. */
#ifndef PARE_SRC_STUDY_REPORT_TABLE_H
#define PARE_SRC_STUDY_REPORT_TABLE_H

#include "study/report_data.h"

#include "io/common.h"

enum { PARE_CELL_CHARS = 40 };

typedef struct pare_table_cell {
    const char *text; /* borrowed, or `number`; NULL = nothing known */
    char number[PARE_CELL_CHARS];
    int64_t record; /* where it comes from; 0 = none */
    double share;   /* of the largest in its column, for a bar; 0 = no bar */
} pare_table_cell;

typedef struct pare_report_table {
    const char *titles[16]; /* of columns that have a value somewhere */
    bool is_text[16];
    size_t n_columns, n_rows;
    pare_table_cell *cells; /* [n_rows][n_columns], owned */
} pare_report_table;

/* Variants under one setting; setting SIZE_MAX: those that were not evaluated under any. Rows are
 * in the model's order. n_rows may be 0. Errors: PARE_ERR_NOMEM. Free with
 * pare_report_table_free. */
pare_status pare_report_table_make(pare_report_table *t, const pare_report_model *m, size_t setting,
                                   pare_error *err);
/* Accuracies: a row per variant, a column per task. */
pare_status pare_report_tasks_make(pare_report_table *t, const pare_report_model *m,
                                   pare_error *err);
/* Trainings that may be compared: a row for each. */
pare_status pare_report_trainings_make(pare_report_table *t, const pare_training_group *g,
                                       pare_error *err);
void pare_report_table_free(pare_report_table *t);
/* A cell of a number; empty where it is not known. */
pare_table_cell pare_number_cell(double v, int digits, const char *sign, int64_t record);

/* The smallest variant, smaller than the dense model, whose perplexity under the first setting is
 * at most (1 + loss) times the dense one's; NULL when there is none, or no dense one. */
const pare_variant *pare_report_smallest(const pare_report_model *m, double loss);

/* The whole reports. */
void pare_report_html(pare_buffer *out, const pare_report_data *data,
                      const pare_record_list *records, const char *title);
void pare_report_markdown(pare_buffer *out, const pare_report_data *data,
                          const pare_record_list *records, const char *title);
void pare_report_csv(pare_buffer *out, const pare_record_list *records);

/* Parts of pages. */
void pare_report_table_html(pare_buffer *out, const pare_report_table *t);
struct pare_plot_line;
/* Colours, numbers and records of the lines of a plot. */
void pare_report_legend(pare_buffer *out, const struct pare_plot_line *lines,
                        const pare_record *const *from, size_t n);
/* The section of trainings: curves and a table for each group; nothing where there are none. */
void pare_report_training_html(pare_buffer *out, const pare_report_data *data);
/* The section of analyses of outliers; nothing where there are none. pool: owns what is drawn. */
bool pare_report_has_outliers(const pare_record_list *records);
void pare_report_outliers_html(pare_buffer *out, pare_record *pool,
                               const pare_record_list *records);
/* "16 KiB of text.txt, held out: its end, windows of 256 tokens". */
void pare_training_text(const pare_training_group *g, char *text, size_t size);

/* "2026-01-31 08:05" UTC. */
void pare_date_text(int64_t time, char text[32]);

#endif
