/* What pruners have in common: how much goes, what goes together, and how a sparsity asked of the
 * whole model is shared out among its tensors. A pruner's options begin with this struct
 * (pare_method.prunes says so); before it runs the pipeline puts the tensor's own share into
 * `sparsity`, so that a pruner never knows of distributions. */
#ifndef PARE_SRC_METHODS_PRUNE_OPTIONS_H
#define PARE_SRC_METHODS_PRUNE_OPTIONS_H

#include "methods/method.h"

enum { PARE_POOL_AVG, PARE_POOL_MAX };
enum { PARE_NM_IN, PARE_NM_OUT };
enum { PARE_DIST_UNIFORM, PARE_DIST_ERK, PARE_DIST_OWL };

typedef struct pare_prune_options {
    pare_sparsity sparsity;
    pare_structure type;
    int pool;    /* PARE_POOL_*: of a block's scores */
    int dist;    /* PARE_DIST_* */
    int nm_axis; /* PARE_NM_*: what M of N:M counts */
    double erk_power;
    bool erk_kernel; /* of tensors of more than two dimensions */
    double owl_m, owl_lambda;
    pare_shares layers; /* n > 0: one share per block of the model, in place of sparsity */
} pare_prune_options;

/* Lines of a method's table; `options` begins with pare_prune_options as member `p`. */
#define PARE_PRUNE_SPARSITY(options, help_)                                                        \
    {                                                                                              \
        .name = "sparsity", .type = PARE_PARAM_SPARSITY, .offset = offsetof(options, p.sparsity),  \
        .def = 0.5, .max = 1, .help = help_                                                        \
    }

#define PARE_PRUNE_STRUCTURE(options)                                                              \
    {.name = "type",                                                                               \
     .type = PARE_PARAM_STRUCTURE,                                                                 \
     .offset = offsetof(options, p.type),                                                          \
     .choices = "weight|block_RxC|channel_in|channel_out",                                         \
     .help = "what goes together: single weights, tiles of outputs x inputs, inputs or outputs"},  \
    {                                                                                              \
        .name = "pool", .type = PARE_PARAM_CHOICE, .offset = offsetof(options, p.pool),            \
        .choices = "avg|max", .help = "a tile's score: the mean of its weights' or the largest"    \
    }

/* member: that of pare_prune_options */
#define PARE_PRUNE_ERK_POWER(options, member)                                                      \
    {                                                                                              \
        .name = "erk_power", .type = PARE_PARAM_FLOAT,                                             \
        .offset = offsetof(options, member.erk_power), .def = 1, .min = 0, .max = 10,              \
        .help = "erk: densities follow this power of sum(dims) / prod(dims); 0: uniform"           \
    }

#define PARE_PRUNE_DISTRIBUTION(options)                                                           \
    {.name = "dist",                                                                               \
     .type = PARE_PARAM_CHOICE,                                                                    \
     .offset = offsetof(options, p.dist),                                                          \
     .choices = "uniform|erk|owl",                                                                 \
     .help = "how the sparsity is shared out among the tensors: docs/compress.md"},                \
        PARE_PRUNE_ERK_POWER(options, p),                                                          \
        {.name = "layers",                                                                         \
         .type = PARE_PARAM_SHARES,                                                                \
         .offset = offsetof(options, p.layers),                                                    \
         .choices = "none|S;S;...",                                                                \
         .help = "a share for each block of the model, in place of sparsity"},                     \
        {.name = "owl_m",                                                                          \
         .type = PARE_PARAM_FLOAT,                                                                 \
         .offset = offsetof(options, p.owl_m),                                                     \
         .def = 5,                                                                                 \
         .min = 1,                                                                                 \
         .max = 100,                                                                               \
         .help = "owl: an outlier's score is more than this many times the block's mean"},         \
    {                                                                                              \
        .name = "owl_lambda", .type = PARE_PARAM_FLOAT, .offset = offsetof(options, p.owl_lambda), \
        .def = 0.08, .min = 0, .max = 0.5,                                                         \
        .help = "owl: half the distance between the lowest and the highest share"                  \
    }

/* Refuses what excludes each other. */
pare_status pare_prune_check(const pare_prune_options *p, pare_error *err);

#endif
