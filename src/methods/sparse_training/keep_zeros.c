/* The zeros that a model has stay zero, as fine-tuning after a pruning wants it: JaxPruner's static
 * masks (arXiv:2304.14082), taken from the weights in place of drawn. */
#include "methods/pruner.h"

typedef struct keep_zeros_options {
    pare_sparse_options s;
} keep_zeros_options;

static const pare_param keep_zeros_params[] = {
    PARE_SPARSE_FIELD(keep_zeros_options, sparse_grads, PARE_PARAM_BOOL, 1, 0, 1,
                      "the optimizer sees no gradient of pruned weights"),
    PARE_SPARSE_TENSORS(keep_zeros_options),
    {0},
};

static pare_status keep_zeros_check(const void *options, pare_error *err) {
    return pare_sparse_check(options, err);
}

static void mask_words(void *arg, size_t begin, size_t end) {
    const pare_pruned *t = arg;
    for (size_t word = begin; word < end; word++) {
        size_t first = 64 * word, last = first + 64 < t->n ? first + 64 : t->n;
        uint64_t bits = 0;
        for (size_t i = first; i < last; i++) bits |= (uint64_t)(t->t.w[i] != 0.0f) << (i - first);
        t->bits[word] = bits;
    }
}

static pare_status mask_zeros(pare_pruner *p, pare_error *err) {
    (void)err;
    for (size_t i = 0; i < p->n; i++) {
        pare_pruned *t = &p->tensors[i];
        if (!t->bits) continue;
        pare_parallel_for(p->rt, pare_bit_words(t->n), 256, mask_words, t);
        t->k = pare_mask_count(t->bits, t->n);
        t->target = 1 - (double)t->k / (double)t->n;
    }
    return PARE_OK;
}

static const pare_sparse_fns keep_zeros = {
    .init = mask_zeros,
};

const pare_method pare_method_keep_zeros = {
    .name = "keep_zeros",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "weights that are zero at the start stay zero",
    .help = "Masks are taken from the weights: for a model that was pruned before. Its patterns "
            "(N:M, tiles, channels) stay what they are.",
    .example = "keep_zeros",
    .options_size = sizeof(keep_zeros_options),
    .params = keep_zeros_params,
    .check = keep_zeros_check,
    .sparse = &keep_zeros,
};
