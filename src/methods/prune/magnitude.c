/* Magnitude pruning: the score of a weight is its absolute value.
 *
 * Han et al., "Learning both Weights and Connections", arXiv:1506.02626; counts, ties and
 * structures as in JaxPruner, arXiv:2304.14082 (see methods/mask.h). No calibration data. */
#include "methods/mask.h"

typedef struct magnitude_options {
    pare_prune_options p;
    int per; /* 0 tensor, 1 row */
} magnitude_options;

static const pare_param magnitude_params[] = {
    PARE_PRUNE_SPARSITY(magnitude_options,
                        "share of weights set to zero, or N:M (keep N of every M inputs)"),
    {.name = "per",
     .type = PARE_PARAM_CHOICE,
     .offset = offsetof(magnitude_options, per),
     .def = 0,
     .choices = "tensor|row",
     .help = "compare weights within the whole tensor or within each output row"},
    PARE_PRUNE_STRUCTURE(magnitude_options),
    PARE_PRUNE_DISTRIBUTION(magnitude_options),
    {0},
};

typedef struct prune_job {
    const pare_weight_job *weights;
    double share;
} prune_job;

static void prune_rows(void *arg, size_t begin, size_t end) {
    const prune_job *job = arg;
    size_t cols = job->weights->cols;
    for (size_t r = begin; r < end; r++)
        pare_mask_share(job->weights->w + r * cols, NULL, cols, job->share);
}

static pare_status magnitude_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const magnitude_options *o = options;
    if (o->p.sparsity.m || o->per == 0) return pare_mask_matrix(job, "magnitude", NULL, &o->p, err);
    prune_job rows = {job, o->p.sparsity.share};
    pare_parallel_for(job->rt, job->rows, 64, prune_rows, &rows);
    return PARE_OK;
}

static pare_status magnitude_check(const void *options, pare_error *err) {
    const magnitude_options *o = options;
    if (o->per == 1 && o->p.type.kind != PARE_STRUCTURE_WEIGHT)
        return pare_fail(err, PARE_ERR_ARG,
                         "per: found row with blocks or channels, which compete within a tensor; "
                         "expected tensor");
    return pare_prune_check(&o->p, err);
}

static size_t magnitude_work(const void *options, size_t rows, size_t cols) {
    return pare_mask_work_bytes(options, rows, cols);
}

const pare_method pare_method_magnitude = {
    .name = "magnitude",
    .slot = "pruner",
    .paper = "arXiv:1506.02626",
    .summary = "zeroes the weights of smallest absolute value",
    .help = "Each weight's score is its absolute value; the lowest scores are set to zero. With a "
            "share the weights of a tensor (per=tensor) or of an output row (per=row) compete; "
            "with N:M every M consecutive inputs keep their N largest; type=block_RxC or "
            "channel_in prunes tiles or channels by their mean or sum. Needs no calibration data "
            "and is the baseline that every other pruner has to beat.",
    .example = "magnitude:sparsity=0.5 + bitmap_bf16",
    .options_size = sizeof(magnitude_options),
    .params = magnitude_params,
    .prunes = true,
    .check = magnitude_check,
    .work_bytes = magnitude_work,
    .run = magnitude_run,
};
