/* A method's descriptor: one file, one `const pare_method`, one line in methods.def. The core reads
 * its fields and never compares names. */
#ifndef PARE_SRC_METHODS_METHOD_H
#define PARE_SRC_METHODS_METHOD_H

#include "base/team.h"
#include "pare/methods.h"

/* What a method works on: one linear layer's weights. */
typedef struct pare_weight_job {
    pare_runtime *rt;
    const char *name; /* canonical tensor name, for messages */
    uint64_t stream;  /* random stream of this tensor: the same whatever the order of work */
    float *w;         /* [rows][cols] f32, transformed in place */
    size_t rows, cols;
} pare_weight_job;

struct pare_method {
    const char *name, *slot, *paper, *summary, *help, *example;
    size_t options_size;
    const pare_param *params; /* ends with name NULL */

    /* Checks what ranges cannot say (parameters that exclude each other); may be NULL. */
    pare_status (*check)(const void *options, pare_error *err);

    /* Transforms one weight matrix. Errors: PARE_ERR_ARG when the shape does not fit the
     * parameters; w may then be half transformed and is not used. */
    pare_status (*run)(const pare_weight_job *job, const void *options, pare_error *err);
};

/* Fills an options struct with the defaults of the descriptor. */
void pare_method_defaults(const pare_method *m, void *options);

/* Sets one parameter from text and checks its range. Errors name the parameter, what was found and
 * what was expected. */
pare_status pare_param_set(const pare_param *p, void *options, const char *text, pare_error *err);

/* The canonical text of a parameter's value ("0.5", "2:4", "true", a choice's name) into out. */
void pare_param_text(const pare_param *p, const void *options, char *out, size_t out_size);

/* True when the value is the default. */
bool pare_param_is_default(const pare_param *p, const void *options);

#endif
