/* SET: Mocanu et al., arXiv:1707.04780, as in JaxPruner, arXiv:2304.14082: the smallest weights go,
 * as many others come at random (methods/drop_grow.c). */
#include "methods/pruner.h"

typedef struct set_options {
    pare_sparse_options s;
    pare_drop_options d;
} set_options;

static const pare_param set_params[] = {
    PARE_SPARSE_SPARSITY(set_options),
    PARE_SPARSE_SCHEDULE(set_options, PARE_SCHEDULE_PERIODIC, 1),
    PARE_DROP_PARAMS(set_options),
    PARE_SPARSE_STRUCTURE(set_options),
    PARE_SPARSE_DISTRIBUTION(set_options),
    PARE_SPARSE_SWITCHES(set_options, 1, 1),
    {0},
};

static pare_status set_update(pare_pruner *p, const pare_sparse_input *in, pare_error *err) {
    const set_options *o = p->spec.options;
    return pare_pruner_drop_grow(p, in, pare_score_random, pare_drop_share(&o->d, p), err);
}

static pare_status set_check(const void *options, pare_error *err) {
    const set_options *o = options;
    PARE_TRY(pare_drop_check(&o->s, err));
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns set = {
    .grow = pare_score_random,
    .init = pare_pruner_init_random,
    .update = set_update,
};

const pare_method pare_method_set = {
    .name = "set",
    .slot = "sparse_training",
    .paper = "arXiv:1707.04780",
    .summary = "the smallest weights go, others come at random",
    .help = "Begins with a random mask. On update steps a share of each tensor's kept "
            "weights, those of smallest absolute value, goes, and as many come at random; "
            "the density stays. New weights begin at 0, and so does the optimizer's state "
            "there; the optimizer makes no step on update steps. The share falls from "
            "`drop` to 0 at `until` by a cosine. N:M has no room for it.",
    .example = "set:sparsity=0.8,dist=erk,every=100,until=1500",
    .options_size = sizeof(set_options),
    .params = set_params,
    .check = set_check,
    .sparse = &set,
};
