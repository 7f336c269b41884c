/* Random pruning: what every other score has to beat. JaxPruner, arXiv:2304.14082. */
#include "methods/mask.h"

#include "base/memory.h"
#include "base/rng.h"

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

typedef struct score_job {
    const pare_weight_job *weights;
    float *score;
} score_job;

static void score_values(void *arg, size_t begin, size_t end) {
    const score_job *job = arg;
    uint64_t seed = pare_runtime_seed(job->weights->rt);
    /* what an earlier pruner removed stays removed */
    for (size_t i = begin; i < end; i++)
        job->score[i] = job->weights->keep_zeros && job->weights->w[i] == 0.0f
                            ? -1.0f
                            : pare_rng_uniform(seed, job->weights->stream, i);
}

static pare_status random_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const random_options *o = options;
    size_t n = job->rows * job->cols;
    score_job scores = {job, pare_big_alloc(n * sizeof(float))};
    if (!scores.score)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: random: %zu scores", job->name, n);
    pare_parallel_for(job->rt, n, 1 << 14, score_values, &scores);
    pare_status st = pare_mask_matrix(job, "random", scores.score, &o->p, err);
    pare_big_free(scores.score, n * sizeof(float));
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
