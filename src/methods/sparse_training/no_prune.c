/* The dense training, for comparisons: no masks. */
#include "methods/pruner.h"

typedef struct no_prune_options {
    pare_sparse_options s;
} no_prune_options;

static const pare_param no_prune_params[] = {
    {0},
};

static pare_status no_prune_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns no_prune = {
    .never = true,
};

const pare_method pare_method_no_prune = {
    .name = "no_prune",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "dense training, for comparisons",
    .help = "No masks: the optimizer runs as it would alone.",
    .example = "no_prune",
    .options_size = sizeof(no_prune_options),
    .params = no_prune_params,
    .check = no_prune_check,
    .sparse = &no_prune,
};
