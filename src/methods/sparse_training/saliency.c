/* Gradual pruning by |w g|, the change of the loss to first order. JaxPruner, arXiv:2304.14082;
 * Mozer, Smolensky, NIPS 1988. */
#include "methods/pruner.h"

typedef struct saliency_options {
    pare_sparse_options s;
} saliency_options;

static const pare_param saliency_params[] = {
    PARE_SPARSE_SPARSITY(saliency_options),
    PARE_SPARSE_SCHEDULE(saliency_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_SPARSE_STRUCTURE(saliency_options),
    PARE_SPARSE_DISTRIBUTION(saliency_options),
    PARE_SPARSE_SWITCHES(saliency_options, 0, 0),
    {0},
};

static pare_status saliency_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns saliency = {
    .score = pare_score_saliency,
    .needs_gradient = true,
    .masks = pare_pruner_masks,
};

const pare_method pare_method_saliency = {
    .name = "saliency",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "prunes the weights whose loss changes the loss least, to first order",
    .help = "The score is |w g| with the gradient of the update step. Also prunes at once, "
            "with gradients given.",
    .example = "saliency:sparsity=0.8",
    .options_size = sizeof(saliency_options),
    .params = saliency_params,
    .check = saliency_check,
    .sparse = &saliency,
};
