/* GPTQ: weights are rounded column by column, and the error of each is passed on to the columns
 * behind it (methods/obs.h). Frantar, Ashkboos, Hoefler, Alistarh, arXiv:2210.17323.
 *
 * form=published is the algorithm of the authors' code (IST-DASLab/gptq), for comparisons. What has
 * a parameter of its own stays with it: grid=gptq_asym or gptq_sym and search=none or mse are the
 * published ones, damp and block have the published defaults. It differs from ours in this:
 *
 *   dead inputs   weights of inputs that were 0 on all tokens become 0 before groups are fitted (a
 *                 whole row's scale is fitted before that); ours are rounded as the others
 *   fresh_groups  a group takes its scale from weights without the errors of the block of columns
 *                 that it begins in, though its codes have them; ours have all errors so far
 *   act_order     is off. Where it is on, dead inputs rank as if their sum of squares were that of
 *                 pare_obs_dead_square, ours are last; and without static_groups, which ours
 *                 implies, a group is what follows in the sweep, not neighbours in the matrix: no
 *                 encoding here holds that, the weights are stored as f32
 *   the result    stays where rounding to nearest is better on the calibration tokens; ours is then
 *                 that, which is told
 *
 * In both Hessians and factors are in f64, scales are rounded to f16 before codes are chosen, a
 * group of zeros stays zero, and damping rises, which is told, where the Hessian has no factor (the
 * published code stops with an error). */
#include "methods/obs.h"
#include "methods/quant_options.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

typedef struct gptq_options {
    pare_quant_options q;
    double damp;
    int block, form;
    int act_order, static_groups, fresh_groups; /* choice */
} gptq_options;

enum { FORM_PARE, FORM_PUBLISHED };
typedef enum choice { AUTO, NO, YES } choice;
#define CHOICES "auto|false|true"

#define GPTQ_CHOICE(field, values, text)                                                           \
    {                                                                                              \
        .name = #field, .type = PARE_PARAM_CHOICE, .offset = offsetof(gptq_options, field),        \
        .choices = values, .help = text                                                            \
    }

static const pare_param gptq_params[] = {
    PARE_QUANT_PARAMS(gptq_options, PARE_GRID_FULL, PARE_GRID_LEAST_SQUARES),
    PARE_PARAM(gptq_options, damp, PARE_PARAM_FLOAT, 0.01, 0, 1,
               "added to the Hessian's diagonal, as a share of its mean"),
    PARE_PARAM(gptq_options, block, PARE_PARAM_INT, 128, 16, 4096,
               "columns between two updates of all those behind"),
    GPTQ_CHOICE(form, "pare|published", "ours, or what the authors' code does"),
    GPTQ_CHOICE(act_order, CHOICES,
                "columns in order of falling mean square of their input; auto: true, in the "
                "published form false"),
    GPTQ_CHOICE(static_groups, CHOICES,
                "scales of all groups from the original weights; auto: with our act_order, which "
                "implies it, and with group=0"),
    GPTQ_CHOICE(fresh_groups, CHOICES,
                "scales of a group from weights that have all errors so far, not those before the "
                "block of columns only; auto: true, in the published form false; not for groups "
                "that are static"),
    {0},
};

/* What the options come to. */
typedef struct gptq_way {
    bool published, order;
    bool stat;  /* groups are fitted before the sweep */
    bool fresh; /* else: from weights without the errors of the block */
    bool loose; /* groups follow the order of the sweep, which no encoding holds */
} gptq_way;

static bool chosen(int value, bool otherwise) { return value == AUTO ? otherwise : value == YES; }

static gptq_way way_of(const gptq_options *o) {
    gptq_way way = {.published = o->form == FORM_PUBLISHED};
    way.order = chosen(o->act_order, !way.published);
    way.stat = o->q.group == 0 || chosen(o->static_groups, way.order && !way.published);
    way.fresh = chosen(o->fresh_groups, !way.published);
    way.loose = way.order && !way.stat;
    return way;
}

static void gptq_tell(pare_quant_told *told, const void *options) {
    const gptq_options *o = options;
    const gptq_way way = way_of(o);
    *told = (pare_quant_told){.damp = o->damp,
                              .act_order = way.order && way.stat,
                              .static_groups = way.stat,
                              .searched = o->q.search != PARE_GRID_PLAIN};
}

typedef struct gptq_job {
    const pare_weight_job *weights;
    const gptq_options *o;
    gptq_way way;
    pare_grid grid;
    const pare_encode_kernels *k;
    const pare_column_sweep_kernels *sweep;
    const float *importance; /* [cols] in the original order */
    const float *swept;      /* the same in the order of the sweep */
    const uint32_t *perm;    /* [cols]: the column at each place, or NULL */
    size_t group;
    float *scale;  /* [rows][groups], or [rows]: of the group at hand, where groups are loose */
    uint8_t *zero; /* the same */
    const uint8_t *kept; /* [rows][cols]: 0 = pruned; or NULL */
} gptq_job;

static size_t column_at(const gptq_job *j, size_t place) {
    return j->perm ? j->perm[place] : place;
}

static size_t group_at(const gptq_job *j, size_t r, size_t col) {
    return j->way.loose ? r : pare_quant_group_at(j->weights, r, col);
}

/* Fits the group of row r that begins at column c to w[n]; h [n]: importance. */
static void fit(const gptq_job *j, size_t r, size_t c, const float *w, const float *h, size_t n) {
    size_t at = group_at(j, r, c);
    pare_grid_fit(&j->scale[at], &j->zero[at], &j->grid, j->k, w, h, n);
}

static size_t group_length(const gptq_job *j, size_t begin) {
    size_t left = j->weights->cols - begin;
    return left < j->group ? left : j->group;
}

/* Groups that are not static: those of the sweep, which is in the original order unless they are
 * loose. */
static void begin_group(void *arg, size_t row, size_t place, const float *w, const float *lazy) {
    const gptq_job *j = arg;
    fit(j, row, place, (j->way.fresh ? w : lazy) + place, j->swept + place, group_length(j, place));
}

static void fit_rows(void *arg, size_t begin, size_t end) {
    const gptq_job *j = arg;
    const size_t cols = j->weights->cols;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < cols; c += j->group)
            fit(j, r, c, j->weights->w + r * cols + c, j->importance + c, group_length(j, c));
}

static void settle(void *arg, size_t row, size_t n, size_t place, const float *w, float *q) {
    const gptq_job *j = arg;
    const size_t col = column_at(j, place), cols = j->weights->cols;
    float scale[PARE_COLUMN_SWEEP_ROWS] = {0}, zero[PARE_COLUMN_SWEEP_ROWS] = {0};
    for (size_t i = 0; i < n; i++) {
        size_t at = group_at(j, row + i, col);
        scale[i] = j->scale[at];
        zero[i] = j->zero[at];
    }
    j->sweep->nearest(q, w, scale, zero, (float)((1 << j->grid.bits) - 1));
    for (size_t i = 0; j->kept && i < n; i++)
        if (!j->kept[(row + i) * cols + col]) q[i] = 0.0f;
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

/* The columns, those with the largest mean square of their input first; dead: what stands for the
 * sum of squares of inputs that had none. */
static uint32_t *order_of(const pare_input_stats *x, double dead) {
    uint32_t *perm = pare_malloc(x->cols, sizeof *perm);
    column *columns = pare_malloc(x->cols, sizeof *columns);
    if (perm && columns) {
        for (size_t i = 0; i < x->cols; i++)
            columns[i] = (column){x->squares[i] > 0 ? x->squares[i] : dead, (uint32_t)i};
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
typedef struct order {
    const gptq_job *j;
    float *w;
    size_t ld;
} order;

static void gather_rows(void *arg, size_t begin, size_t end) {
    const order *o = arg;
    const pare_weight_job *job = o->j->weights;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < job->cols; c++)
            o->w[r * o->ld + c] = job->w[r * job->cols + column_at(o->j, c)];
}

static void scatter_rows(void *arg, size_t begin, size_t end) {
    const order *o = arg;
    const pare_weight_job *job = o->j->weights;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < job->cols; c++)
            job->w[r * job->cols + column_at(o->j, c)] = o->w[r * o->ld + c];
}

static void round_to_nearest(gptq_job *j) {
    const pare_weight_job *job = j->weights;
    pare_quant_round(job->rt, job->w, job->rows, job->cols, j->group, &j->grid, j->importance,
                     j->way.loose ? NULL : j->scale, j->way.loose ? NULL : j->zero);
}

/* Static groups have been fitted to the original weights. */
static pare_status sweep(gptq_job *j, const pare_obs *obs, pare_error *err) {
    const pare_weight_job *job = j->weights;
    size_t bytes = job->rows * obs->ld * sizeof(float);
    float *w = pare_big_alloc(bytes);
    if (!w) return pare_fail(err, PARE_ERR_NOMEM, "%s: gptq: work space", job->name);
    order o = {j, w, obs->ld};
    pare_parallel_for(job->rt, job->rows, 16, gather_rows, &o);
    pare_obs_rule rule = {.arg = j,
                          .unit = j->way.stat ? 0 : j->group,
                          .begin_unit = j->way.stat ? NULL : begin_group,
                          .settle = settle};
    pare_status st =
        pare_obs_sweep(w, job->rows, obs, &rule, (size_t)j->o->block, job->rt, NULL, err);
    if (st == PARE_OK) pare_parallel_for(job->rt, job->rows, 16, scatter_rows, &o);
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

static void zero_dead(const gptq_job *j, const pare_obs *obs) {
    const pare_weight_job *job = j->weights;
    for (size_t place = 0; place < job->cols; place++)
        for (size_t r = 0; obs->dead[place] && r < job->rows; r++)
            job->w[r * job->cols + column_at(j, place)] = 0.0f;
}

/* The steps of the published code. */
static pare_status quantize_as_published(gptq_job *j, const pare_obs *obs, pare_error *err) {
    const size_t rows = j->weights->rows;
    const bool whole = j->o->q.group == 0;
    if (whole) pare_parallel_for(j->weights->rt, rows, 1, fit_rows, j);
    zero_dead(j, obs);
    if (j->way.stat && !whole) pare_parallel_for(j->weights->rt, rows, 1, fit_rows, j);
    return sweep(j, obs, err);
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

/* The sweep's order, what stands beside it in that order, and the scales' place. */
static bool prepare(gptq_job *j, uint32_t **perm, float **importance, float **swept) {
    const pare_weight_job *job = j->weights;
    *importance = pare_quant_importance(job);
    *swept = pare_malloc(job->cols, sizeof **swept);
    if (j->way.order)
        j->perm = *perm = order_of(job->x, j->way.published ? pare_obs_dead_square(job->x) : 0.0);
    if (j->way.loose) {
        j->scale = pare_calloc(job->rows, sizeof *j->scale);
        j->zero = pare_calloc(job->rows, 1);
    }
    if (!*importance || !*swept || (j->way.order && !*perm) || !j->scale || !j->zero) return false;
    for (size_t c = 0; c < job->cols; c++) (*swept)[c] = (*importance)[column_at(j, c)];
    j->importance = *importance;
    j->swept = *swept;
    return true;
}

static pare_status gptq_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const gptq_options *o = options;
    uint8_t *kept;
    uint32_t *perm = NULL;
    float *importance, *swept;
    PARE_TRY(mark_kept(job, &kept, err));
    gptq_job j = {.weights = job,
                  .o = o,
                  .way = way_of(o),
                  .grid = pare_quant_grid(&o->q),
                  .k = pare_encode_kernels_get(pare_runtime_isa(job->rt)),
                  .sweep = pare_column_sweep_kernels_get(pare_runtime_isa(job->rt)),
                  .group = o->q.group ? (size_t)o->q.group : job->cols,
                  .scale = job->scale,
                  .zero = job->zero,
                  .kept = kept};
    pare_obs obs = {0};
    bool factored = false;
    pare_status st = prepare(&j, &perm, &importance, &swept)
                         ? pare_obs_factor(&obs, &factored, job, perm, o->damp, err)
                         : pare_fail(err, PARE_ERR_NOMEM, "%s: gptq: out of memory", job->name);
    if (st == PARE_OK && !factored) {
        round_to_nearest(&j);
        pare_job_note(job, "Hessian not positive definite: rounded to nearest");
    } else if (st == PARE_OK) {
        st = j.way.published ? quantize_as_published(&j, &obs, err) : quantize(&j, &obs, err);
    }
    pare_obs_free(&obs);
    if (j.way.loose) {
        pare_free(j.scale);
        pare_free(j.zero);
    }
    pare_free(importance);
    pare_free(swept);
    pare_free(perm);
    pare_free(kept);
    return st;
}

static const pare_encoding *gptq_encoding(const void *options) {
    const gptq_options *o = options;
    return way_of(o).loose ? NULL : pare_quant_encoding(&o->q);
}

static pare_status gptq_check(const void *options, pare_error *err) {
    const gptq_options *o = options;
    const gptq_way way = way_of(o);
    PARE_TRY(pare_quant_check(&o->q, err));
    int block = (o->block + 15) & ~15;
    if (o->q.group && block % o->q.group && o->q.group % block)
        return pare_fail(err, PARE_ERR_ARG, "block: found %d, expected a multiple of the group %d",
                         o->block, o->q.group);
    if (o->static_groups == NO && o->q.group == 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "static_groups: found false with group=0, expected auto: a row's scale is "
                         "of its original weights");
    if (o->static_groups == NO && way.loose && !way.published)
        return pare_fail(err, PARE_ERR_ARG,
                         "static_groups: found false with act_order, expected auto or "
                         "act_order=false (form=published has such groups)");
    if (o->fresh_groups != AUTO && way.stat)
        return pare_fail(err, PARE_ERR_ARG,
                         "fresh_groups: found %s with static groups (act_order, static_groups or "
                         "group=0), expected auto: no group is fitted during the sweep",
                         o->fresh_groups == YES ? "true" : "false");
    if (o->fresh_groups == YES && way.published)
        return pare_fail(err, PARE_ERR_ARG,
                         "fresh_groups: found true with form=published, expected false or auto");
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
            "layer's output on the calibration tokens changes least. form=published does what the "
            "authors' code does, with grid=gptq_asym or gptq_sym and search=none or mse, which are "
            "its: weights of inputs that are always 0 become 0, groups take their scales from "
            "weights without the errors of the block of columns at hand, act_order (off, as there) "
            "without static_groups makes groups of what follows in the sweep, which no encoding "
            "holds (the weights are stored as f32), and no matrix is rounded to nearest "
            "where that is better.",
    .example = "gptq:bits=4,group=64",
    .options_size = sizeof(gptq_options),
    .params = gptq_params,
    .needs = PARE_NEED_SQUARES | PARE_NEED_HESSIAN,
    .check = gptq_check,
    .encoding = gptq_encoding,
    .tell = gptq_tell,
    .work_bytes = gptq_work,
    .run = gptq_run,
};
