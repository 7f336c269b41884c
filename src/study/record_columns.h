/* The fields of records as tables: what the database, JSON, CSV and filters are made from, so that
 * a new field is one line. */
#ifndef PARE_SRC_STUDY_RECORD_COLUMNS_H
#define PARE_SRC_STUDY_RECORD_COLUMNS_H

#include "pare/study.h"

typedef enum pare_column_type {
    PARE_COLUMN_TEXT,  /* const char *; NULL = unknown */
    PARE_COLUMN_INT,   /* int64_t */
    PARE_COLUMN_COUNT, /* int64_t; 0 = unknown */
    PARE_COLUMN_REAL   /* double; NaN = unknown */
} pare_column_type;

typedef struct pare_column {
    const char *name; /* NULL ends a table */
    pare_column_type type;
    size_t offset;
} pare_column;

extern const pare_column pare_record_columns[]; /* id first */
extern const pare_column pare_layer_columns[];
extern const pare_column pare_task_columns[];
extern const pare_column pare_point_columns[];
extern const pare_column pare_site_columns[];

const pare_column *pare_column_find(const pare_column *table, const char *name, size_t len);
/* Of a struct of the table. */
const char *pare_column_text(const pare_column *c, const void *item);
int64_t pare_column_int(const pare_column *c, const void *item);
double pare_column_real(const pare_column *c, const void *item);
/* Whether there is a value. */
bool pare_column_known(const pare_column *c, const void *item);
/* Sets all fields of a table to unknown. */
void pare_columns_clear(const pare_column *table, void *item);

/* --- memory of records --- */

/* A copy that lives as long as the record; NULL when memory is out. */
char *pare_record_strndup(pare_record *r, const char *text, size_t n);
/* Zeroed memory that lives as long as the record; NULL when memory is out. */
void *pare_record_calloc(pare_record *r, size_t count, size_t size);
/* An empty record, without program and machine. */
pare_status pare_record_blank(pare_record **out, pare_error *err);

#endif
