/* Gradual pruning by |w g| over all tensors at once. JaxPruner, arXiv:2304.14082. */
#include "methods/pruner.h"

typedef struct global_saliency_options {
    pare_sparse_options s;
    bool normalize;
    double eps;
} global_saliency_options;

static const pare_param global_saliency_params[] = {
    PARE_SPARSE_SPARSITY(global_saliency_options),
    PARE_SPARSE_SCHEDULE(global_saliency_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_PARAM(global_saliency_options, normalize, PARE_PARAM_BOOL, 1, 0, 1,
               "scores are divided by the norm of their tensor's"),
    PARE_PARAM(global_saliency_options, eps, PARE_PARAM_FLOAT, 1e-8, 0, 1, "added to that norm"),
    PARE_SPARSE_SWITCHES(global_saliency_options, 0, 0),
    {0},
};

static pare_status global_saliency_masks(pare_pruner *p, const pare_sparse_input *in,
                                         pare_error *err) {
    const global_saliency_options *o = p->spec.options;
    return pare_pruner_masks_global(p, in, o->normalize, o->eps, err);
}

static pare_status global_saliency_check(const void *options, pare_error *err) {
    const global_saliency_options *o = options;
    if (o->s.p.sparsity.m)
        return pare_fail(err, PARE_ERR_ARG,
                         "sparsity: found %d:%d, which every tensor gets; expected a share of all",
                         o->s.p.sparsity.n, o->s.p.sparsity.m);
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns global_saliency = {
    .score = pare_score_saliency,
    .needs_gradient = true,
    .init = pare_pruner_init_global,
    .masks = global_saliency_masks,
};

const pare_method pare_method_global_saliency = {
    .name = "global_saliency",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "prunes by |w g|, all tensors competing",
    .help = "Single weights only. Scores of a tensor are divided by their norm unless "
            "normalize=false; then one selection takes the lowest of all tensors. Of equal "
            "scores those of the tensor that comes first by name stay. Tensors with a "
            "sparsity of their own keep it and take no part.",
    .example = "global_saliency:sparsity=0.8",
    .options_size = sizeof(global_saliency_options),
    .params = global_saliency_params,
    .check = global_saliency_check,
    .sparse = &global_saliency,
};
