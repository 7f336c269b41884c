/* A random mask from the start, which never changes. JaxPruner, arXiv:2304.14082. */
#include "methods/pruner.h"

typedef struct static_sparse_options {
    pare_sparse_options s;
} static_sparse_options;

static const pare_param static_sparse_params[] = {
    PARE_SPARSE_SPARSITY(static_sparse_options),
    PARE_SPARSE_STRUCTURE(static_sparse_options),
    PARE_SPARSE_DISTRIBUTION(static_sparse_options),
    PARE_SPARSE_SWITCHES(static_sparse_options, 1, 0),
    {0},
};

static pare_status static_sparse_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns static_sparse = {
    .init = pare_pruner_init_random,
};

const pare_method pare_method_static_sparse = {
    .name = "static_sparse",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "a random mask from the start to the end",
    .help = "Masks are drawn once, with exact counts; the optimizer sees no gradient of "
            "pruned weights. What every dynamic sparse training has to beat.",
    .example = "static_sparse:sparsity=0.8,dist=erk",
    .options_size = sizeof(static_sparse_options),
    .params = static_sparse_params,
    .check = static_sparse_check,
    .sparse = &static_sparse,
};
