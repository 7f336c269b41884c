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

/* A compiled regular expression over tensor names; match and free. */
pare_status pare_name_regex_compile(void **out, const char *pattern, size_t len, pare_error *err);
bool pare_name_regex_match(const void *regex, const char *name);
void pare_name_regex_free(void *regex);

#endif
