/* Straight-through training at random: the forward pass sees pruned weights, the gradient goes to
 * the dense ones. JaxPruner, arXiv:2304.14082; Bengio et al., arXiv:1308.3432. */
#include "methods/pruner.h"

typedef struct random_ste_options {
    pare_sparse_options s;
    int refresh;
} random_ste_options;

static const pare_param random_ste_params[] = {
    PARE_SPARSE_SPARSITY(random_ste_options),
    PARE_SPARSE_SCHEDULE(random_ste_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_SPARSE_STRUCTURE(random_ste_options),
    PARE_SPARSE_DISTRIBUTION(random_ste_options),
    PARE_SPARSE_TENSORS(random_ste_options),
    PARE_SPARSE_OWN(random_ste_options),
    PARE_PARAM(random_ste_options, refresh, PARE_PARAM_INT, 1, 1, 1e6,
               "steps from one mask to the next; JaxPruner: 1"),
    {0},
};

static bool random_ste_is_update(const pare_pruner *p) {
    const random_ste_options *o = p->spec.options;
    return p->count % o->refresh == 0;
}

static pare_status random_ste_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns random_ste = {
    .score = pare_score_random,
    .straight_through = true,
    .is_update = random_ste_is_update,
    .masks = pare_pruner_masks,
};

const pare_method pare_method_random_ste = {
    .name = "random_ste",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "prunes in the forward pass only, at random",
    .help = "The forward pass uses w times a mask that is made anew every refresh steps "
            "from the dense weights, with the sparsity of the schedule; the gradient at the "
            "masked weights is applied to all, so that a pruned weight can come back.",
    .example = "random_ste:sparsity=0.8",
    .options_size = sizeof(random_ste_options),
    .params = random_ste_params,
    .check = random_ste_check,
    .sparse = &random_ste,
};
