/* Wanda: the score of a weight is |w_ij| * ||x_j||, compared within an output row; kept weights do
 * not change. Sun, Liu, Bair, Kolter, arXiv:2306.11695. */
#include "methods/mask.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct wanda_options {
    pare_prune_options p;
    bool variant;
} wanda_options;

static const pare_param wanda_params[] = {
    PARE_PRUNE_SPARSITY(wanda_options,
                        "share of each row set to zero, or N:M (keep N of every M inputs)"),
    PARE_PARAM(
        wanda_options, variant, PARE_PARAM_BOOL, 0, 0, 1,
        "rows lose the weights that hold the same share of their scores, not the same number"),
    PARE_PRUNE_STRUCTURE(wanda_options),
    PARE_PRUNE_DISTRIBUTION(wanda_options),
    {0},
};

typedef struct wanda_job {
    const pare_weight_job *weights;
    const wanda_options *o;
    const float *norm; /* [cols] */
    float *score;      /* [rows][cols] */
    double alpha;      /* variant: share of a row's score to prune */
    float *sorted;     /* variant: [rows][cols] scores in rising order */
    double *total;     /* variant: [rows] */
} wanda_job;

static void score_rows(void *arg, size_t begin, size_t end) {
    const wanda_job *j = arg;
    size_t cols = j->weights->cols;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < cols; c++)
            j->score[r * cols + c] = fabsf(j->weights->w[r * cols + c]) * j->norm[c];
}

static void prune_rows(void *arg, size_t begin, size_t end) {
    const wanda_job *j = arg;
    size_t cols = j->weights->cols;
    size_t n_prune = (size_t)floor((double)cols * j->o->p.sparsity.share);
    for (size_t r = begin; r < end; r++)
        pare_mask_lowest(j->weights->w + r * cols, j->score + r * cols, cols, n_prune);
}

/* ---- the variant: one alpha for the matrix, found by bisection ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void sort_rows(void *arg, size_t begin, size_t end) {
    wanda_job *j = arg;
    size_t cols = j->weights->cols;
    for (size_t r = begin; r < end; r++) {
        float *row = memcpy(j->sorted + r * cols, j->score + r * cols, cols * sizeof *row);
        qsort(row, cols, sizeof *row, by_value);
        j->total[r] = 0.0;
        for (size_t c = 0; c < cols; c++) j->total[r] += (double)row[c];
    }
}

/* The longest prefix of the sorted row whose sum is at most alpha times the row's. */
static size_t prefix(const wanda_job *j, size_t r, double alpha) {
    const float *row = j->sorted + r * j->weights->cols;
    double sum = 0.0;
    size_t n = 0;
    while (n < j->weights->cols && sum + (double)row[n] <= alpha * j->total[r])
        sum += (double)row[n++];
    return n;
}

static void find_alpha(wanda_job *j) {
    double low = 0.0, high = 0.8, target = j->o->p.sparsity.share;
    size_t rows = j->weights->rows, cols = j->weights->cols;
    j->alpha = 0.4;
    for (;;) {
        size_t pruned = 0;
        for (size_t r = 0; r < rows; r++) pruned += prefix(j, r, j->alpha);
        double share = (double)pruned / ((double)rows * (double)cols);
        if (fabs(share - target) <= 0.001 || high - low < 0.001) return;
        if (share > target)
            high = j->alpha;
        else
            low = j->alpha;
        j->alpha = (low + high) / 2;
    }
}

static void prune_prefixes(void *arg, size_t begin, size_t end) {
    const wanda_job *j = arg;
    size_t cols = j->weights->cols;
    for (size_t r = begin; r < end; r++)
        pare_mask_lowest(j->weights->w + r * cols, j->score + r * cols, cols,
                         prefix(j, r, j->alpha));
}

static pare_status prune_by_variant(wanda_job *j, pare_error *err) {
    size_t rows = j->weights->rows, cols = j->weights->cols;
    j->sorted = pare_big_alloc(rows * cols * sizeof(float));
    j->total = pare_malloc(rows, sizeof(double));
    pare_status st = PARE_OK;
    if (j->sorted && j->total) {
        pare_parallel_for(j->weights->rt, rows, 16, sort_rows, j);
        find_alpha(j);
        pare_parallel_for(j->weights->rt, rows, 16, prune_prefixes, j);
    } else {
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: wanda: sorted scores", j->weights->name);
    }
    if (j->sorted) pare_big_free(j->sorted, rows * cols * sizeof(float));
    pare_free(j->total);
    return st;
}

static pare_status wanda_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const wanda_options *o = options;
    size_t bytes = job->rows * job->cols * sizeof(float);
    float *norm = pare_malloc(job->cols, sizeof *norm);
    wanda_job j = {.weights = job, .o = o, .norm = norm, .score = pare_big_alloc(bytes)};
    pare_status st = PARE_OK;
    if (norm && j.score) {
        for (size_t c = 0; c < job->cols; c++) norm[c] = (float)sqrt(job->x->squares[c]);
        pare_parallel_for(job->rt, job->rows, 16, score_rows, &j);
        if (o->p.sparsity.m || o->p.type.kind != PARE_STRUCTURE_WEIGHT)
            st = pare_mask_matrix(job, "wanda", j.score, &o->p, err);
        else if (o->variant)
            st = prune_by_variant(&j, err);
        else
            pare_parallel_for(job->rt, job->rows, 16, prune_rows, &j);
    } else {
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: wanda: scores", job->name);
    }
    if (j.score) pare_big_free(j.score, bytes);
    pare_free(norm);
    return st;
}

static pare_status wanda_check(const void *options, pare_error *err) {
    const wanda_options *o = options;
    if (o->variant && (o->p.sparsity.m || o->p.type.kind != PARE_STRUCTURE_WEIGHT))
        return pare_fail(err, PARE_ERR_ARG,
                         "variant: found true with N:M, blocks or channels, expected a share of "
                         "single weights");
    return pare_prune_check(&o->p, err);
}

static size_t wanda_work(const void *options, size_t rows, size_t cols) {
    const wanda_options *o = options;
    return (o->variant ? 2 : 1) * rows * cols * sizeof(float) +
           pare_mask_work_bytes(&o->p, rows, cols);
}

const pare_method pare_method_wanda = {
    .name = "wanda",
    .slot = "pruner",
    .paper = "arXiv:2306.11695",
    .summary = "zeroes the weights of smallest |w| times the norm of their input",
    .help =
        "A weight's score is |w_ij| times the L2 norm of input j over the calibration tokens; "
        "within each output row the lowest scores are set to zero (with N:M within each M "
        "inputs). No kept weight changes. With variant=true every row loses the weights that "
        "hold the same share of its score, found by bisection so that the whole matrix "
        "reaches the sparsity. Blocks and channels (type), not of the paper, compete within the "
        "matrix.",
    .example = "wanda:sparsity=2:4 + nm24_q8",
    .options_size = sizeof(wanda_options),
    .params = wanda_params,
    .needs = PARE_NEED_SQUARES,
    .prunes = true,
    .check = wanda_check,
    .work_bytes = wanda_work,
    .run = wanda_run,
};
