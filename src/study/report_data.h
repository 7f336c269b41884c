/* Records brought together for a report: by base model, by variant (what a recipe made of it), by
 * setting (what its perplexities stand for).
 *
 * Contents join them, not names: an evaluation belongs to the compression whose output has the hash
 * of its model; a compression of an output belongs to the model that stands at the start. */
#ifndef PARE_SRC_STUDY_REPORT_DATA_H
#define PARE_SRC_STUDY_REPORT_DATA_H

#include "pare/study.h"

enum { PARE_MAX_SETTINGS = 64 }; /* of one model; what is measured under more is left out */

/* A perplexity: of the record's own model, or the one "before" that a compression measured. */
typedef struct pare_report_cell {
    const pare_record *r; /* NULL = none */
    bool before;
} pare_report_cell;

typedef struct pare_variant {
    const char *key;          /* of its content */
    const char *recipe;       /* all steps from the base model; "" = dense */
    size_t number;            /* of its row, from 1 by size; 0 = dense */
    const pare_record *made;  /* its compression; NULL for the dense model */
    const pare_record *any;   /* a record of it: the compression, else its newest evaluation */
    const pare_record *speed; /* the newest one that measured decoding; or NULL */
    const pare_record *tasks; /* the newest one with tasks; or NULL */
    pare_report_cell *cells;  /* [PARE_MAX_SETTINGS] the newest one under each setting */
} pare_variant;

typedef struct pare_setting {
    const pare_record *example; /* a record with that protocol, ctx, windows, mode and text */
    size_t n;                   /* variants with a perplexity under it */
} pare_setting;

typedef struct pare_report_model {
    const char *key;
    const pare_record *any; /* a record that tells its name, preferably one of the dense model */
    pare_variant *variants; /* the dense model first where it was evaluated, then by size */
    size_t n;
    pare_setting settings[PARE_MAX_SETTINGS]; /* the one with most variants first */
    size_t n_settings, n_left_out;
} pare_report_model;

/* Trainings that may be compared: of the same text, with the same text held out, in windows of the
 * same length. */
typedef struct pare_training_group {
    const pare_record **runs; /* the least held-out loss first */
    size_t n;
} pare_training_group;

typedef struct pare_report_data {
    pare_report_model *models; /* the one with the newest record first */
    size_t n;
    pare_training_group *trainings; /* the one with the newest record first */
    size_t n_trainings;
    pare_record *pool; /* owns all of it */
} pare_report_data;

/* Borrows the records. Errors: PARE_ERR_NOMEM. Free with pare_report_data_free. */
pare_status pare_report_data_make(pare_report_data *out, const pare_record_list *records,
                                  pare_error *err);
void pare_report_data_free(pare_report_data *data);

/* What a cell says; NaN when there is none. */
double pare_cell_ppl(const pare_report_cell *cell);
/* Bytes and bits per weight of a variant's tensors; 0 and NaN when unknown. */
int64_t pare_variant_bytes(const pare_variant *v);
double pare_variant_bits(const pare_variant *v);
/* The dense model's row; NULL when it was not evaluated. */
const pare_variant *pare_report_dense(const pare_report_model *m);
/* "hf-2048, 10 windows of wiki.test.raw, exact". */
void pare_setting_text(const pare_setting *s, char *text, size_t size);
/* What a model is called: general.name, else the last part of its path. Never NULL. */
const char *pare_model_title(const pare_record *r);
const char *pare_path_name(const char *path);

#endif
