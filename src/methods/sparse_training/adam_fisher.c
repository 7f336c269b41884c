/* Gradual pruning by w^2 v, Adam's second moment v (uncorrected) in place of the Fisher matrix's
 * diagonal. An extension of JaxPruner, arXiv:2304.14082. */
#include "methods/pruner.h"
#include <string.h>

typedef struct adam_fisher_options {
    pare_sparse_options s;
    bool reset_adam;
} adam_fisher_options;

static const pare_param adam_fisher_params[] = {
    PARE_SPARSE_SPARSITY(adam_fisher_options),
    PARE_SPARSE_SCHEDULE(adam_fisher_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_SPARSE_STRUCTURE(adam_fisher_options),
    PARE_SPARSE_DISTRIBUTION(adam_fisher_options),
    PARE_PARAM(adam_fisher_options, reset_adam, PARE_PARAM_BOOL, 0, 0, 1,
               "both moments begin anew after each update of masks"),
    PARE_SPARSE_SWITCHES(adam_fisher_options, 0, 0),
    {0},
};

static pare_status adam_fisher_update(pare_pruner *p, const pare_sparse_input *in,
                                      pare_error *err) {
    const adam_fisher_options *o = p->spec.options;
    pare_optim_array a;
    PARE_TRY(pare_pruner_masks(p, in, err));
    for (size_t k = 0; o->reset_adam && in->s->array_at(in->s->arg, k, &a); k++)
        if (a.tensor < p->n && p->tensors[a.tensor].bits) memset(a.data, 0, a.n * sizeof *a.data);
    return PARE_OK;
}

static pare_status adam_fisher_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns adam_fisher = {
    .score = pare_score_fisher,
    .masks = pare_pruner_masks,
    .update = adam_fisher_update,
};

const pare_method pare_method_adam_fisher = {
    .name = "adam_fisher",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "prunes by w^2 times Adam's second moment",
    .help = "The score estimates what the loss gains to second order when a weight goes, "
            "with the running mean of squared gradients as curvature; it needs an optimizer "
            "of Adam's kind. reset_adam zeroes both moments of pruned tensors after each "
            "update of masks.",
    .example = "adam_fisher:sparsity=0.8",
    .options_size = sizeof(adam_fisher_options),
    .params = adam_fisher_params,
    .check = adam_fisher_check,
    .sparse = &adam_fisher,
};
