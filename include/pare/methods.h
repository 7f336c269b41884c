/* Methods. A method describes itself: name, slot, parameters with types, defaults and ranges,
 * paper. The CLI's parsing, its help, `pare methods`, the recipe check and the documentation are
 * made from the descriptors.
 *
 *     for (size_t i = 0; pare_method_at(i); i++) {
 *         const pare_method *m = pare_method_at(i);
 *         printf("%s: %s (%s)\n", pare_method_name(m), pare_method_summary(m),
 * pare_method_paper(m));
 *     }
 */
#ifndef PARE_METHODS_H
#define PARE_METHODS_H

#include "pare/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_param_type {
    PARE_PARAM_FLOAT,
    PARE_PARAM_INT,
    PARE_PARAM_BOOL,
    PARE_PARAM_SPARSITY,  /* a share ("0.5", "50%") or a pattern "N:M"; stored as pare_sparsity */
    PARE_PARAM_CHOICE,    /* one of `choices` ("a|b|c"); stored as its index, an int */
    PARE_PARAM_STRUCTURE, /* "weight", "block_RxC", "channel_in", "channel_out"; pare_structure */
    PARE_PARAM_SHARES,    /* "0.4;0.5;60%" or "none"; stored as pare_shares */
    PARE_PARAM_TEXT /* what `choices` tells; stored as pare_text, at first as the first of them */
} pare_param_type;

/* Sparsity as a parameter: a share of zeros, or n kept of every m. */
typedef struct pare_sparsity {
    double share; /* [0, 1]; n:m gives 1 - n/m */
    int n, m;     /* 0 = unstructured */
} pare_sparsity;

/* What is pruned or kept together. */
typedef enum pare_structure_kind {
    PARE_STRUCTURE_WEIGHT, /* single weights */
    PARE_STRUCTURE_BLOCK,
    PARE_STRUCTURE_CHANNEL_IN, /* all weights of an input: a column of [outputs][inputs] */
    PARE_STRUCTURE_CHANNEL_OUT /* all weights of an output: a row */
} pare_structure_kind;

typedef struct pare_structure {
    pare_structure_kind kind;
    int rows, cols; /* of a block: outputs x inputs, 1 to 4096 each; else 0 */
} pare_structure;

/* A list of shares of zeros, in [0, 1]. */
enum { PARE_MAX_SHARES = 256 };
typedef struct pare_shares {
    int n;
    double share[PARE_MAX_SHARES];
} pare_shares;

/* A text that the method reads itself. Commas in it stand between slashes. */
enum { PARE_MAX_TEXT = 256 };
typedef struct pare_text {
    char s[PARE_MAX_TEXT];
} pare_text;

typedef struct pare_param {
    const char *name;
    pare_param_type type;
    size_t offset;        /* into the method's options struct */
    double def, min, max; /* of numbers; bool: def 0 or 1; choice: def = index */
    const char *choices;  /* "a|b|c" of a choice; of structures, shares and texts what may be
                             written */
    const char *help;     /* one line */
} pare_param;

#define PARE_PARAM(options, field, type_, def_, min_, max_, help_)                                 \
    {                                                                                              \
        .name = #field, .type = type_, .offset = offsetof(options, field), .def = def_,            \
        .min = min_, .max = max_, .help = help_                                                    \
    }

typedef struct pare_method pare_method;
/* All methods, in the registry's order: i from 0; NULL past the last. */
const pare_method *pare_method_at(size_t i);
/* Those that transform tensors as a step of a recipe, the same way; the others belong to training,
 * or are steps that look at the whole model (cushioncache). */
const pare_method *pare_step_method_at(size_t i);
/* The first of that name, or NULL. Names are unique within a slot; a pruner and the sparse training
 * by its score share one. */
const pare_method *pare_method_find(const char *name);
const char *pare_method_name(const pare_method *m);
const char *pare_method_slot(const pare_method *m);    /* "pruner", "weight", "optimizer", ... */
const char *pare_method_paper(const pare_method *m);   /* "arXiv:..." or a citation */
const char *pare_method_summary(const pare_method *m); /* one line */
const char *pare_method_help(const pare_method *m);    /* what it does, a paragraph */
const char *pare_method_example(const pare_method *m); /* a recipe or text of its own */
/* Parameters; ends with name NULL. */
const pare_param *pare_method_params(const pare_method *m);

#ifdef __cplusplus
}
#endif
#endif
