/* GPTQ: weights are rounded column by column, and the error of each is passed on to the columns
 * behind it (methods/obs.h). Frantar, Ashkboos, Hoefler, Alistarh, arXiv:2210.17323.
 *
 * Departures from the published code: the default grid is the full one with a search for its scale,
 * groups take their scales from the weights as they are by then (fresh_groups), and a dead input's
 * weights are rounded where the code makes them zero. Where the result is worse than rounding to
 * nearest on the calibration tokens, that is used instead, and said. */
#include "methods/obs.h"
#include "methods/quant_options.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

typedef struct gptq_options {
    pare_quant_options q;
    double damp;
    int block;
    bool act_order, static_groups, fresh_groups;
} gptq_options;

static const pare_param gptq_params[] = {
    PARE_QUANT_PARAMS(gptq_options, PARE_GRID_FULL, PARE_GRID_LEAST_SQUARES),
    PARE_PARAM(gptq_options, damp, PARE_PARAM_FLOAT, 0.01, 0, 1,
               "added to the Hessian's diagonal, as a share of its mean"),
    PARE_PARAM(gptq_options, block, PARE_PARAM_INT, 128, 16, 4096,
               "columns between two updates of all those behind"),
    PARE_PARAM(gptq_options, act_order, PARE_PARAM_BOOL, 1, 0, 1,
               "columns in order of falling mean square of their input; implies static groups"),
    PARE_PARAM(gptq_options, static_groups, PARE_PARAM_BOOL, 0, 0, 1,
               "scales of all groups from the original weights"),
    PARE_PARAM(gptq_options, fresh_groups, PARE_PARAM_BOOL, 1, 0, 1,
               "scales of a group from weights that have all errors so far, not those before the "
               "block of columns only"),
    {0},
};

typedef struct gptq_job {
    const pare_weight_job *weights;
    const gptq_options *o;
    pare_grid grid;
    const pare_encode_kernels *k;
    const float *importance; /* [cols] in the original order, or NULL */
    const uint32_t *perm;    /* [cols]: the column at each place, or NULL */
    bool stat;               /* groups are fitted before the sweep */
    size_t group;
    const uint8_t *kept; /* [rows][cols]: 0 = pruned; or NULL */
} gptq_job;

static size_t column_at(const gptq_job *j, size_t place) {
    return j->perm ? j->perm[place] : place;
}

/* Fits the group of row r that begins at column c to w[n]. */
static void fit(const gptq_job *j, size_t r, size_t c, const float *w, size_t n) {
    size_t at = pare_quant_group_at(j->weights, r, c);
    pare_grid_fit(&j->weights->scale[at], &j->weights->zero[at], &j->grid, j->k, w,
                  j->importance ? j->importance + c : NULL, n);
}

static void begin_group(void *arg, size_t row, size_t col, const float *w, const float *lazy) {
    const gptq_job *j = arg;
    size_t n = j->weights->cols - col < j->group ? j->weights->cols - col : j->group;
    fit(j, row, col, (j->o->fresh_groups ? w : lazy) + col, n);
}

static float settle(void *arg, size_t row, size_t place, float w) {
    const gptq_job *j = arg;
    const pare_weight_job *job = j->weights;
    size_t col = column_at(j, place), at = pare_quant_group_at(job, row, col);
    if (j->kept && !j->kept[row * job->cols + col]) return 0.0f;
    int code = pare_grid_code(w, job->scale[at], job->zero[at], (1 << j->grid.bits) - 1);
    return pare_grid_value(code, job->scale[at], job->zero[at]);
}

typedef struct column {
    double squares;
    uint32_t place;
} column;

static int by_squares(const void *a, const void *b) {
    const column *x = a, *y = b;
    if (x->squares != y->squares) return x->squares < y->squares ? 1 : -1;
    return x->place < y->place ? -1 : 1;
}

/* The columns, those with the largest mean square of their input first. */
static uint32_t *order_of(const pare_input_stats *x) {
    uint32_t *perm = pare_malloc(x->cols, sizeof *perm);
    column *columns = pare_malloc(x->cols, sizeof *columns);
    if (perm && columns) {
        for (size_t i = 0; i < x->cols; i++) columns[i] = (column){x->squares[i], (uint32_t)i};
        qsort(columns, x->cols, sizeof *columns, by_squares);
        for (size_t i = 0; i < x->cols; i++) perm[i] = columns[i].place;
    } else {
        pare_free(perm);
        perm = NULL;
    }
    pare_free(columns);
    return perm;
}

/* w[rows][ld] in the order of the sweep, or back. */
static void gather(const gptq_job *j, float *w, size_t ld) {
    const pare_weight_job *job = j->weights;
    for (size_t r = 0; r < job->rows; r++)
        for (size_t c = 0; c < job->cols; c++)
            w[r * ld + c] = job->w[r * job->cols + column_at(j, c)];
}
static void scatter(const gptq_job *j, const float *w, size_t ld) {
    const pare_weight_job *job = j->weights;
    for (size_t r = 0; r < job->rows; r++)
        for (size_t c = 0; c < job->cols; c++)
            job->w[r * job->cols + column_at(j, c)] = w[r * ld + c];
}

static void round_to_nearest(gptq_job *j) {
    const pare_weight_job *job = j->weights;
    pare_quant_round(job->rt, job->w, job->rows, job->cols, j->group, &j->grid, j->importance,
                     job->scale, job->zero);
}

/* Static groups have been fitted to the original weights. */
static pare_status sweep(gptq_job *j, const pare_obs *obs, pare_error *err) {
    const pare_weight_job *job = j->weights;
    size_t bytes = job->rows * obs->ld * sizeof(float);
    float *w = pare_big_alloc(bytes);
    if (!w) return pare_fail(err, PARE_ERR_NOMEM, "%s: gptq: work space", job->name);
    gather(j, w, obs->ld);
    pare_obs_rule rule = {.arg = j,
                          .unit = j->stat ? 0 : j->group,
                          .begin_unit = j->stat ? NULL : begin_group,
                          .settle = settle};
    pare_status st =
        pare_obs_sweep(w, job->rows, obs, &rule, (size_t)j->o->block, job->rt, NULL, err);
    if (st == PARE_OK) scatter(j, w, obs->ld);
    pare_big_free(w, bytes);
    return st;
}

/* The sweep's result, or that of rounding to nearest where it is no better. */
static pare_status quantize(gptq_job *j, const pare_obs *obs, pare_error *err) {
    const pare_weight_job *job = j->weights;
    size_t n = job->rows * job->cols;
    float *original = pare_big_alloc(n * sizeof *original);
    if (!original) return pare_fail(err, PARE_ERR_NOMEM, "%s: gptq: work space", job->name);
    memcpy(original, job->w, n * sizeof *original);
    round_to_nearest(j);
    double nearest = pare_output_error(job->rt, job->x, job->w, original, job->rows);
    memcpy(job->w, original, n * sizeof *original);
    pare_status st = sweep(j, obs, err);
    double error = pare_output_error(job->rt, job->x, job->w, original, job->rows);
    if (st == PARE_OK && (nearest < 0.0 || error < 0.0))
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: gptq: work space", job->name);
    if (st == PARE_OK && !(error <= nearest)) {
        memcpy(job->w, original, n * sizeof *original);
        round_to_nearest(j);
        pare_job_note(job,
                      "gptq's error on the calibration tokens is %.3g times that of rounding to "
                      "nearest, which is used instead",
                      error / nearest);
    }
    pare_big_free(original, n * sizeof *original);
    return st;
}

static pare_status mark_kept(const pare_weight_job *job, uint8_t **kept, pare_error *err) {
    size_t n = job->rows * job->cols;
    *kept = NULL;
    if (!job->keep_zeros) return PARE_OK;
    *kept = pare_malloc(n, 1);
    if (!*kept) return pare_fail(err, PARE_ERR_NOMEM, "%s: gptq: mask", job->name);
    for (size_t i = 0; i < n; i++) (*kept)[i] = job->w[i] != 0.0f;
    return PARE_OK;
}

static pare_status gptq_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const gptq_options *o = options;
    uint8_t *kept;
    PARE_TRY(mark_kept(job, &kept, err));
    uint32_t *perm = o->act_order ? order_of(job->x) : NULL;
    float *importance = pare_quant_importance(job);
    gptq_job j = {.weights = job,
                  .o = o,
                  .grid = pare_quant_grid(&o->q),
                  .k = pare_encode_kernels_get(pare_runtime_isa(job->rt)),
                  .importance = importance,
                  .perm = perm,
                  .group = o->q.group ? (size_t)o->q.group : job->cols,
                  .kept = kept};
    j.stat = o->static_groups || o->act_order || o->q.group == 0;
    pare_obs obs = {0};
    bool factored = false;
    pare_status st = importance && (perm || !o->act_order)
                         ? pare_obs_factor(&obs, &factored, job, perm, o->damp, err)
                         : pare_fail(err, PARE_ERR_NOMEM, "%s: gptq: out of memory", job->name);
    if (st == PARE_OK && !factored) {
        round_to_nearest(&j);
        pare_job_note(job, "Hessian not positive definite: rounded to nearest");
    } else if (st == PARE_OK) {
        st = quantize(&j, &obs, err);
    }
    pare_obs_free(&obs);
    pare_free(importance);
    pare_free(perm);
    pare_free(kept);
    return st;
}

static const pare_encoding *gptq_encoding(const void *options) {
    return pare_quant_encoding(&((const gptq_options *)options)->q);
}

static pare_status gptq_check(const void *options, pare_error *err) {
    const gptq_options *o = options;
    PARE_TRY(pare_quant_check(&o->q, err));
    int block = (o->block + 15) & ~15;
    if (o->q.group && block % o->q.group && o->q.group % block)
        return pare_fail(err, PARE_ERR_ARG, "block: found %d, expected a multiple of the group %d",
                         o->block, o->q.group);
    return PARE_OK;
}

static size_t gptq_work(const void *options, size_t rows, size_t cols) {
    (void)options;
    return pare_obs_bytes(rows, cols) + 2 * rows * cols * sizeof(float);
}

const pare_method pare_method_gptq = {
    .name = "gptq",
    .slot = "weight",
    .paper = "arXiv:2210.17323",
    .summary = "rounds weights one column after the other and passes the errors on",
    .help = "Columns are rounded to a grid in turn, and the error of each is passed on to the "
            "columns not yet rounded with the inverse Hessian of the layer's inputs, so that the "
            "layer's output on the calibration tokens changes least. The published form is "
            "grid=gptq_asym or gptq_sym, search=none, act_order=false, fresh_groups=false.",
    .example = "gptq:bits=4,group=64",
    .options_size = sizeof(gptq_options),
    .params = gptq_params,
    .needs = PARE_NEED_SQUARES | PARE_NEED_HESSIAN,
    .check = gptq_check,
    .encoding = gptq_encoding,
    .work_bytes = gptq_work,
    .run = gptq_run,
};
