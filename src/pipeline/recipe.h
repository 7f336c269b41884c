/* Recipes as parsed: a list of steps, each a method, an encoding or a mix, and the tensors that it
 * is for. */
#ifndef PARE_SRC_PIPELINE_RECIPE_H
#define PARE_SRC_PIPELINE_RECIPE_H

#include "methods/method.h"
#include "methods/target.h"
#include "pare/compress.h"
#include "pipeline/mix.h"

/* Parameters of an encoding step. */
typedef struct pare_encode_options {
    bool pure;    /* the mix's base everywhere */
    int fallback; /* pare_fallback */
} pare_encode_options;

/* Exactly one of method, enc, mix is set. */
typedef struct pare_step {
    const pare_method *method;
    const pare_encoding *enc;
    const pare_mix *mix;
    void *options;       /* owned: the method's struct, or pare_encode_options */
    char *target;        /* owned; NULL = the step's default */
    pare_target tensors; /* what it says; owned */
} pare_step;

struct pare_recipe {
    pare_step *steps;
    size_t n_steps;
    char *text; /* canonical */
};

/* Does the step apply to a tensor? By its target; without one, methods and sparse encodings take
 * the linear layers of the blocks, other encodings every tensor of pare_mix_takes. tied: the
 * embedding is the output. */
bool pare_step_takes(const pare_step *step, const char *canonical, size_t n_dims, bool tied);

#endif
