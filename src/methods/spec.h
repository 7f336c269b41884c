/* Methods as text: "NAME:param=value,param=value", the form of a recipe's steps, of an optimizer
 * and of a sparse training. */
#ifndef PARE_SRC_METHODS_SPEC_H
#define PARE_SRC_METHODS_SPEC_H

#include "methods/method.h"

/* A piece of text. */
typedef struct pare_piece {
    const char *p, *end;
} pare_piece;

/* Without white space on both sides. */
pare_piece pare_piece_trim(pare_piece s);

/* The known name that is nearest to a wanted one, for messages; begin with {wanted, NULL, limit}:
 * names that differ in `limit` places or more are not taken. */
typedef struct pare_nearest {
    const char *wanted, *name;
    size_t distance;
} pare_nearest;
void pare_nearest_consider(pare_nearest *n, const char *name);

/* Sets "param=value,..." in options that hold their defaults. Errors: PARE_ERR_ARG with a message
 * that begins "WHAT: NAME: ". */
pare_status pare_params_parse(const pare_param *params, void *options, pare_piece text,
                              const char *what, const char *name, pare_error *err);

/* ":param=value,..." of all parameters that differ from their defaults, or ""; NULL: out of
 * memory. Free with pare_free. */
char *pare_params_text(const pare_param *params, const void *options);

/* A method with its options. */
typedef struct pare_spec {
    const pare_method *method;
    void *options; /* owned: the method's struct */
    char *text;    /* owned: canonical */
} pare_spec;

/* Reads the text of a method of a slot; `what` begins the messages. Errors: PARE_ERR_ARG (unknown
 * name or parameter, values out of range, parameters that exclude each other), PARE_ERR_NOMEM. */
pare_status pare_spec_parse(pare_spec *out, const char *slot, const char *what, const char *text,
                            pare_error *err);
void pare_spec_free(pare_spec *s);

#endif
