/* RigL: Evci et al., arXiv:1911.11134, as in JaxPruner, arXiv:2304.14082: the smallest weights go,
 * as many others come where the gradient is largest (methods/drop_grow.c). */
#include "methods/pruner.h"

typedef struct rigl_options {
    pare_sparse_options s;
    pare_drop_options d;
} rigl_options;

static const pare_param rigl_params[] = {
    PARE_SPARSE_SPARSITY(rigl_options),
    PARE_SPARSE_SCHEDULE(rigl_options, PARE_SCHEDULE_PERIODIC, 1),
    PARE_DROP_PARAMS(rigl_options),
    PARE_SPARSE_STRUCTURE(rigl_options),
    PARE_SPARSE_DISTRIBUTION(rigl_options),
    PARE_SPARSE_SWITCHES(rigl_options, 1, 1),
    {0},
};

static pare_status rigl_update(pare_pruner *p, const pare_sparse_input *in, pare_error *err) {
    const rigl_options *o = p->spec.options;
    return pare_pruner_drop_grow(p, in, pare_score_gradient, pare_drop_share(&o->d, p), err);
}

static pare_status rigl_check(const void *options, pare_error *err) {
    const rigl_options *o = options;
    PARE_TRY(pare_drop_check(&o->s, err));
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns rigl = {
    .needs_gradient = true,
    .grow = pare_score_gradient,
    .init = pare_pruner_init_random,
    .update = rigl_update,
};

const pare_method pare_method_rigl = {
    .name = "rigl",
    .slot = "sparse_training",
    .paper = "arXiv:1911.11134",
    .summary = "the smallest weights go, others come where the gradient is largest",
    .help = "Begins with a random mask. On update steps a share of each tensor's kept "
            "weights, those of smallest absolute value, goes, and as many come where the "
            "gradient is largest; the density stays. The gradient is that of all weights, "
            "of the update step. New weights begin at 0, and so does the optimizer's state "
            "there; the optimizer makes no step on update steps. The share falls from "
            "`drop` to 0 at `until` by a cosine. N:M has no room for it.",
    .example = "rigl:sparsity=0.8,dist=erk,every=100,until=1500",
    .options_size = sizeof(rigl_options),
    .params = rigl_params,
    .check = rigl_check,
    .sparse = &rigl,
};
