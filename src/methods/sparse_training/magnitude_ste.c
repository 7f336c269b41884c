/* Straight-through training by |w|: the forward pass sees pruned weights, the gradient goes to the
 * dense ones. JaxPruner, arXiv:2304.14082; Bengio et al., arXiv:1308.3432. */
#include "methods/pruner.h"

typedef struct magnitude_ste_options {
    pare_sparse_options s;
    int refresh;
} magnitude_ste_options;

static const pare_param magnitude_ste_params[] = {
    PARE_SPARSE_SPARSITY(magnitude_ste_options),
    PARE_SPARSE_SCHEDULE(magnitude_ste_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_SPARSE_STRUCTURE(magnitude_ste_options),
    PARE_SPARSE_DISTRIBUTION(magnitude_ste_options),
    PARE_SPARSE_TENSORS(magnitude_ste_options),
    PARE_SPARSE_OWN(magnitude_ste_options),
    PARE_PARAM(magnitude_ste_options, refresh, PARE_PARAM_INT, 1, 1, 1e6,
               "steps from one mask to the next; JaxPruner: 1"),
    {0},
};

static bool magnitude_ste_is_update(const pare_pruner *p) {
    const magnitude_ste_options *o = p->spec.options;
    return p->count % o->refresh == 0;
}

static pare_status magnitude_ste_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns magnitude_ste = {
    .score = pare_score_magnitude,
    .straight_through = true,
    .is_update = magnitude_ste_is_update,
    .masks = pare_pruner_masks,
};

const pare_method pare_method_magnitude_ste = {
    .name = "magnitude_ste",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "prunes in the forward pass only, by |w|",
    .help = "The forward pass uses w times a mask that is made anew every refresh steps "
            "from the dense weights, with the sparsity of the schedule; the gradient at the "
            "masked weights is applied to all, so that a pruned weight can come back. Best "
            "of the algorithms on language models in JaxPruner.",
    .example = "magnitude_ste:sparsity=0.8",
    .options_size = sizeof(magnitude_ste_options),
    .params = magnitude_ste_params,
    .check = magnitude_ste_check,
    .sparse = &magnitude_ste,
};
