/* Random pruning: what every other score has to beat. JaxPruner, arXiv:2304.14082. */
#include "methods/mask.h"

#include "base/memory.h"
#include "methods/score.h"

typedef struct random_options {
    pare_prune_options p;
} random_options;

static const pare_param random_params[] = {
    PARE_PRUNE_SPARSITY(random_options,
                        "share of weights set to zero, or N:M (keep N of every M inputs)"),
    PARE_PRUNE_STRUCTURE(random_options),
    PARE_PRUNE_DISTRIBUTION(random_options),
    {0},
};

static pare_status random_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const random_options *o = options;
    size_t n = job->rows * job->cols;
    float *score = pare_big_alloc(n * sizeof *score);
    if (!score) return pare_fail(err, PARE_ERR_NOMEM, "%s: random: %zu scores", job->name, n);
    const pare_score_job scores = {.w = job->w,
                                   .keep_zeros = job->keep_zeros, /* what went stays away */
                                   .seed = pare_runtime_seed(job->rt),
                                   .stream = job->stream};
    pare_score_all(job->rt, pare_score_random, score, &scores, n);
    pare_status st = pare_mask_matrix(job, "random", score, &o->p, err);
    pare_big_free(score, n * sizeof *score);
    return st;
}

static size_t random_work(const void *options, size_t rows, size_t cols) {
    return rows * cols * sizeof(float) + pare_mask_work_bytes(options, rows, cols);
}

static pare_status random_check(const void *options, pare_error *err) {
    return pare_prune_check(options, err);
}

const pare_method pare_method_random = {
    .name = "random",
    .slot = "pruner",
    .paper = "arXiv:2304.14082",
    .summary = "zeroes weights at random",
    .help = "Each weight's score is a uniform random number of the seed, the tensor and its place, "
            "so a run repeats. A floor for comparisons, not a way to prune.",
    .example = "random:sparsity=0.5 + bitmap_bf16",
    .options_size = sizeof(random_options),
    .params = random_params,
    .prunes = true,
    .check = random_check,
    .work_bytes = random_work,
    .run = random_run,
};
