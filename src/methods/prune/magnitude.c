/* Magnitude pruning: the score of a weight is its absolute value.
 *
 * Han et al., "Learning both Weights and Connections", arXiv:1506.02626; counts, ties and
 * structures as in JaxPruner, arXiv:2304.14082 (see methods/mask.h). No calibration data. */
#include "methods/mask.h"

typedef struct magnitude_options {
    pare_sparsity sparsity;
    int per; /* 0 tensor, 1 row */
} magnitude_options;

static const pare_param magnitude_params[] = {
    PARE_PARAM(magnitude_options, sparsity, PARE_PARAM_SPARSITY, 0.5, 0, 1,
               "share of weights set to zero, or N:M (keep N of every M inputs)"),
    {.name = "per",
     .type = PARE_PARAM_CHOICE,
     .offset = offsetof(magnitude_options, per),
     .def = 0,
     .choices = "tensor|row",
     .help = "compare weights within the whole tensor or within each output row"},
    {0},
};

typedef struct prune_job {
    const pare_weight_job *weights;
    const magnitude_options *o;
} prune_job;

static void prune_rows(void *arg, size_t begin, size_t end) {
    const prune_job *job = arg;
    size_t cols = job->weights->cols;
    pare_sparsity s = job->o->sparsity;
    float *w = job->weights->w + begin * cols;
    if (s.m)
        pare_mask_n_m(w, NULL, end - begin, cols, s.n, s.m);
    else
        for (; begin < end; begin++, w += cols) pare_mask_share(w, NULL, cols, s.share);
}

static pare_status magnitude_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const magnitude_options *o = options;
    PARE_TRY(pare_mask_check_pattern(job, "magnitude", &o->sparsity, err));
    prune_job rows = {job, o};
    if (o->sparsity.m || o->per == 1)
        pare_parallel_for(job->rt, job->rows, 64, prune_rows, &rows);
    else
        pare_mask_share(job->w, NULL, job->rows * job->cols, o->sparsity.share);
    return PARE_OK;
}

const pare_method pare_method_magnitude = {
    .name = "magnitude",
    .slot = "pruner",
    .paper = "arXiv:1506.02626",
    .summary = "zeroes the weights of smallest absolute value",
    .help = "Each weight's score is its absolute value; the lowest scores are set to zero. With a "
            "share the weights of a tensor (per=tensor) or of an output row (per=row) compete; "
            "with N:M every M consecutive inputs keep their N largest. Needs no calibration data "
            "and is the baseline that every other pruner has to beat.",
    .example = "magnitude:sparsity=0.5 + bitmap_bf16",
    .options_size = sizeof(magnitude_options),
    .params = magnitude_params,
    .run = magnitude_run,
};
