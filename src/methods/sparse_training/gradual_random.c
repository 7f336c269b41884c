/* Gradual pruning at random: a floor for comparisons. JaxPruner, arXiv:2304.14082. */
#include "methods/pruner.h"

typedef struct gradual_random_options {
    pare_sparse_options s;
} gradual_random_options;

static const pare_param gradual_random_params[] = {
    PARE_SPARSE_SPARSITY(gradual_random_options),
    PARE_SPARSE_SCHEDULE(gradual_random_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_SPARSE_STRUCTURE(gradual_random_options),
    PARE_SPARSE_DISTRIBUTION(gradual_random_options),
    PARE_SPARSE_SWITCHES(gradual_random_options, 0, 0),
    {0},
};

static pare_status gradual_random_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns gradual_random = {
    .score = pare_score_random,
    .masks = pare_pruner_masks,
};

const pare_method pare_method_gradual_random = {
    .name = "random",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "prunes weights at random, more and more of them",
    .help = "Scores are uniform random numbers of the seed, the step, the tensor and the "
            "place; what is pruned stays pruned.",
    .example = "random:sparsity=0.8",
    .options_size = sizeof(gradual_random_options),
    .params = gradual_random_params,
    .check = gradual_random_check,
    .sparse = &gradual_random,
};
