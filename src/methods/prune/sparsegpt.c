/* SparseGPT: weights are pruned column by column, chosen by w^2 / U_jj^2, and the error of each is
 * passed on to the columns behind it (methods/obs.h). Frantar, Alistarh, arXiv:2301.00774.
 *
 * Departures from the published code: a block loses exactly floor(n s) weights, where the code
 * takes one more; weights of dead inputs are not all zeroed (they cost nothing on the calibration
 * tokens, and something elsewhere). */
#include "methods/mask.h"
#include "methods/obs.h"
#include "tensor/grid.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

typedef struct sparsegpt_options {
    pare_prune_options p;
    double damp;
    int block, bits;
} sparsegpt_options;

static const pare_param sparsegpt_params[] = {
    PARE_PRUNE_SPARSITY(
        sparsegpt_options,
        "share of each block of columns set to zero, or N:M (keep N of every M inputs)"),
    PARE_PARAM(sparsegpt_options, damp, PARE_PARAM_FLOAT, 0.01, 0, 1,
               "added to the Hessian's diagonal, as a share of its mean"),
    PARE_PARAM(sparsegpt_options, block, PARE_PARAM_INT, 128, 16, 4096,
               "columns whose mask is chosen together"),
    PARE_PARAM(sparsegpt_options, bits, PARE_PARAM_INT, 0, 0, 8,
               "also quantize: 2 to 8 bits, one scale and zero point a row; 0 = no"),
    PARE_PRUNE_DISTRIBUTION(sparsegpt_options),
    {0},
};

typedef struct sparsegpt_job {
    const pare_weight_job *weights;
    const sparsegpt_options *o;
    const pare_obs *obs;
    bool *pruned; /* [rows][block]: of the block at hand */
    float *score, *mark;
    size_t begin, width;
} sparsegpt_job;

/* Pruned before: such a weight goes, whatever was passed on to it. */
static bool is_gone(const sparsegpt_job *j, size_t row, size_t col) {
    const pare_weight_job *job = j->weights;
    return job->keep_zeros && job->w[row * job->cols + col] == 0.0f;
}

/* Scores of a block, roots of the paper's (no square of a small u is 0), lowest ones marked: mark
 * is 0 where a weight goes. */
static pare_status choose_block(void *arg, const float *w, size_t ld, size_t begin, size_t end,
                                pare_error *err) {
    sparsegpt_job *j = arg;
    size_t rows = j->weights->rows, width = end - begin, n = rows * width;
    (void)err;
    j->begin = begin;
    j->width = width;
    if (j->o->p.sparsity.m) return PARE_OK;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < width; c++) {
            float u = j->obs->u[(begin + c) * j->obs->ld + begin + c], v = w[r * ld + begin + c];
            j->score[r * width + c] = is_gone(j, r, begin + c) ? -1.0f : fabsf(v) / u;
            j->mark[r * width + c] = 1.0f;
        }
    pare_mask_lowest(j->mark, j->score, n, (size_t)floor((double)n * j->o->p.sparsity.share));
    for (size_t i = 0; i < n; i++)
        j->pruned[i] = j->mark[i] == 0.0f || is_gone(j, i / width, begin + i % width);
    return PARE_OK;
}

/* N:M: the choice among M neighbours, with weights as they are by now. */
static void choose_group(void *arg, size_t row, size_t col, const float *w, const float *lazy) {
    sparsegpt_job *j = arg;
    size_t m = (size_t)j->o->p.sparsity.m;
    float mark[64], score[64] = {0};
    (void)lazy;
    for (size_t i = 0; i < m; i++) {
        float u = j->obs->u[(col + i) * j->obs->ld + col + i];
        mark[i] = 1.0f;
        score[i] = is_gone(j, row, col + i) ? -1.0f : fabsf(w[col + i]) / u;
    }
    pare_mask_n_m(mark, score, 1, m, j->o->p.sparsity.n, (int)m);
    for (size_t i = 0; i < m; i++)
        j->pruned[row * j->width + col - j->begin + i] =
            mark[i] == 0.0f || is_gone(j, row, col + i);
}

static void settle(void *arg, size_t row, size_t n, size_t col, const float *w, float *q) {
    const sparsegpt_job *j = arg;
    const pare_weight_job *job = j->weights;
    float scale[PARE_COLUMN_SWEEP_ROWS] = {0}, zero[PARE_COLUMN_SWEEP_ROWS] = {0};
    for (size_t i = 0; j->o->bits && i < n; i++) {
        scale[i] = job->scale[row + i];
        zero[i] = job->zero[row + i];
    }
    if (j->o->bits)
        pare_column_sweep_kernels_get(pare_runtime_isa(job->rt))
            ->nearest(q, w, scale, zero, (float)((1 << j->o->bits) - 1));
    else
        memcpy(q, w, n * sizeof *q);
    for (size_t i = 0; i < n; i++)
        if (j->pruned[(row + i) * j->width + col - j->begin]) q[i] = 0.0f;
}

static void fit_rows(void *arg, size_t begin, size_t end) {
    const sparsegpt_job *j = arg;
    const pare_weight_job *job = j->weights;
    const pare_grid grid = {PARE_GRID_GPTQ_ASYM, j->o->bits, PARE_GRID_PLAIN};
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_runtime_isa(job->rt));
    for (size_t r = begin; r < end; r++)
        pare_grid_fit(&job->scale[r], &job->zero[r], &grid, k, job->w + r * job->cols, NULL,
                      job->cols);
}

static void copy_rows(float *to, size_t ldt, const float *from, size_t ldf, size_t rows,
                      size_t cols) {
    for (size_t r = 0; r < rows; r++) memcpy(to + r * ldt, from + r * ldf, cols * sizeof *to);
}

static pare_status prune(sparsegpt_job *j, float *w, pare_error *err) {
    const pare_weight_job *job = j->weights;
    pare_obs_rule rule = {.arg = j,
                          .unit = (size_t)j->o->p.sparsity.m,
                          .block = choose_block,
                          .begin_unit = j->o->p.sparsity.m ? choose_group : NULL,
                          .settle = settle};
    size_t block = (size_t)j->o->block;
    copy_rows(w, j->obs->ld, job->w, job->cols, job->rows, job->cols);
    if (j->o->bits) pare_parallel_for(job->rt, job->rows, 16, fit_rows, j);
    PARE_TRY(pare_obs_sweep(w, job->rows, j->obs, &rule, block, job->rt, NULL, err));
    copy_rows(job->w, job->cols, w, j->obs->ld, job->rows, job->cols);
    return PARE_OK;
}

/* Without a factor: the same choice by w^2 H_jj, nothing passed on. */
static void factor_of_diagonal(pare_obs *obs, const pare_input_stats *x) {
    for (size_t c = 0; c < obs->n; c++) {
        double h = x->hessian[c * obs->n + c];
        memset(obs->u + c * obs->ld, 0, obs->ld * sizeof *obs->u);
        obs->u[c * obs->ld + c] = (float)(1.0 / sqrt(h > 0.0 ? h : 1.0));
    }
}

static pare_status sparsegpt_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const sparsegpt_options *o = options;
    PARE_TRY(pare_mask_check_pattern(job->name, "sparsegpt", &o->p, job->rows, job->cols, err));
    pare_obs obs;
    bool factored;
    PARE_TRY(pare_obs_factor(&obs, &factored, job, NULL, o->damp, err));
    if (!factored) {
        pare_job_note(job, "Hessian not positive definite: pruned without passing errors on");
        factor_of_diagonal(&obs, job->x);
    }
    size_t width = ((size_t)o->block + 15) & ~(size_t)15, n = job->rows * width,
           bytes = job->rows * obs.ld * sizeof(float);
    float *w = pare_big_alloc(bytes);
    sparsegpt_job j = {.weights = job,
                       .o = o,
                       .obs = &obs,
                       .pruned = pare_calloc(n, sizeof(bool)),
                       .score = pare_malloc(n, sizeof(float)),
                       .mark = pare_malloc(n, sizeof(float))};
    pare_status st = w && j.pruned && j.score && j.mark
                         ? prune(&j, w, err)
                         : pare_fail(err, PARE_ERR_NOMEM, "%s: sparsegpt: work space", job->name);
    if (w) pare_big_free(w, bytes);
    pare_free(j.pruned);
    pare_free(j.score);
    pare_free(j.mark);
    pare_obs_free(&obs);
    return st;
}

static const pare_encoding *sparsegpt_encoding(const void *options) {
    const sparsegpt_options *o = options;
    return o->bits ? pare_encoding_of_grid(o->bits, true, 0) : NULL;
}

static void sparsegpt_tell(pare_quant_told *told, const void *options) {
    *told = (pare_quant_told){.damp = ((const sparsegpt_options *)options)->damp,
                              .static_groups = true}; /* a row's */
}

static pare_status sparsegpt_check(const void *options, pare_error *err) {
    const sparsegpt_options *o = options;
    PARE_TRY(pare_prune_check(&o->p, err));
    if (o->bits && !pare_encoding_of_grid(o->bits, true, 0))
        return pare_fail(err, PARE_ERR_ARG, "bits: found %d, expected 0, 2, 3, 4, 5, 6 or 8",
                         o->bits);
    size_t block = ((size_t)o->block + 15) & ~(size_t)15;
    if (o->p.sparsity.m && block % (size_t)o->p.sparsity.m)
        return pare_fail(err, PARE_ERR_ARG, "block: found %d, expected a multiple of %d for %d:%d",
                         o->block, o->p.sparsity.m, o->p.sparsity.n, o->p.sparsity.m);
    return PARE_OK;
}

static size_t sparsegpt_work(const void *options, size_t rows, size_t cols) {
    const sparsegpt_options *o = options;
    return pare_obs_bytes(rows, cols) + 9 * rows * (size_t)o->block;
}

const pare_method pare_method_sparsegpt = {
    .name = "sparsegpt",
    .slot = "pruner",
    .paper = "arXiv:2301.00774",
    .summary = "zeroes weights by a second-order score and corrects those that are left",
    .help =
        "Columns are pruned from left to right; each weight's score is w^2 over the diagonal of "
        "the inverse of what is left of the Hessian of the layer's inputs, and the error of "
        "every pruned weight is passed on to the weights to its right, so that the layer's "
        "output changes least. The lowest scores of each block of columns go, over all rows "
        "together; with N:M those of each M inputs of a row. bits also rounds the kept "
        "weights, their errors passed on in the same sweep.",
    .example = "sparsegpt:sparsity=2:4 + nm24_bf16",
    .options_size = sizeof(sparsegpt_options),
    .params = sparsegpt_params,
    .needs = PARE_NEED_SQUARES | PARE_NEED_HESSIAN,
    .prunes = true,
    .check = sparsegpt_check,
    .encoding = sparsegpt_encoding,
    .tell = sparsegpt_tell,
    .work_bytes = sparsegpt_work,
    .run = sparsegpt_run,
};
