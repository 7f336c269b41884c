/* Which tensors a step of a recipe or a sparse training is for, by their names: attn, ffn, embd,
 * output, all or /REGEX/. */
#ifndef PARE_SRC_METHODS_TARGET_H
#define PARE_SRC_METHODS_TARGET_H

#include "pare/base.h"

typedef struct pare_target {
    const char *group; /* static; NULL: a regular expression */
    void *regex;       /* owned, or NULL */
} pare_target;

/* Errors: PARE_ERR_ARG (no target; what a regular expression lacks), PARE_ERR_NOMEM. */
pare_status pare_target_parse(pare_target *out, const char *text, size_t len, pare_error *err);
void pare_target_free(pare_target *t);

/* By the canonical name; tied: the embedding is the output. A regular expression that needs too
 * many steps takes nothing. */
bool pare_target_takes(const pare_target *t, const char *name, bool tied);

/* TARGET=VALUE;TARGET=VALUE;... (commas do too): numbers for tensors, as numbers or in percent. */
enum { PARE_TARGET_VALUES_MAX = 16 };
typedef struct pare_target_value {
    pare_target target;
    double value;
    bool used; /* some tensor was taken */
} pare_target_value;
typedef struct pare_target_values {
    pare_target_value of[PARE_TARGET_VALUES_MAX];
    size_t n;
} pare_target_values;

/* Messages begin with `what`. in_range: does the value do? expected: what does, for the message.
 * Errors: PARE_ERR_ARG, and then there is nothing to free. */
pare_status pare_target_values_parse(pare_target_values *out, const char *what, const char *text,
                                     bool (*in_range)(double), const char *expected,
                                     pare_error *err);
void pare_target_values_free(pare_target_values *v);
/* *value of the first target that takes a tensor; false: none does. vector: the tensor is no
 * matrix, only regular expressions take it. That target alone counts as used. */
bool pare_target_values_find(pare_target_values *v, const char *name, bool vector, bool tied,
                             double *value);
/* Errors: PARE_ERR_ARG: a target that took no tensor; `text` is what was parsed. */
pare_status pare_target_values_check_used(const pare_target_values *v, const char *what,
                                          const char *text, pare_error *err);

/* A compiled regular expression over tensor names; match and free. */
pare_status pare_name_regex_compile(void **out, const char *pattern, size_t len, pare_error *err);
bool pare_name_regex_match(const void *regex, const char *name);
void pare_name_regex_free(void *regex);

#endif
