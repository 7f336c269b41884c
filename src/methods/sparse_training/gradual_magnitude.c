/* Gradual magnitude pruning: Zhu, Gupta, arXiv:1710.01878, as in JaxPruner, arXiv:2304.14082. The
 * score is that of the pruner (methods/score.h). */
#include "methods/pruner.h"

typedef struct gradual_magnitude_options {
    pare_sparse_options s;
} gradual_magnitude_options;

static const pare_param gradual_magnitude_params[] = {
    PARE_SPARSE_SPARSITY(gradual_magnitude_options),
    PARE_SPARSE_SCHEDULE(gradual_magnitude_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_SPARSE_STRUCTURE(gradual_magnitude_options),
    PARE_SPARSE_DISTRIBUTION(gradual_magnitude_options),
    PARE_SPARSE_SWITCHES(gradual_magnitude_options, 0, 0),
    {0},
};

static pare_status gradual_magnitude_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns gradual_magnitude = {
    .score = pare_score_magnitude,
    .masks = pare_pruner_masks,
};

const pare_method pare_method_gradual_magnitude = {
    .name = "magnitude",
    .slot = "sparse_training",
    .paper = "arXiv:1710.01878",
    .summary = "prunes the smallest weights, more and more of them",
    .help = "On update steps the weights of smallest absolute value go, so many that the "
            "sparsity follows the schedule. What is pruned is 0 when it is scored again, so "
            "it stays away.",
    .example = "magnitude:sparsity=0.8,dist=erk,every=100",
    .options_size = sizeof(gradual_magnitude_options),
    .params = gradual_magnitude_params,
    .check = gradual_magnitude_check,
    .sparse = &gradual_magnitude,
};
