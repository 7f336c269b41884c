/* Round to nearest: every weight to the closest point of a grid, whose scale (and zero point) is
 * fitted to its group. The grids are those in use elsewhere (tensor/grid.h).
 *
 * No calibration data is needed. With some, a search for the scale weighs squared errors by the
 * mean squares of the inputs: on the symmetric full-range grid AutoRound's opt-RTN
 * (arXiv:2309.05516, intel/auto-round), whose h these are. Departure: inputs that were always 0
 * weigh nothing there as elsewhere; AutoRound gives them the group's mean. */
#include "base/memory.h"
#include "methods/quant_options.h"

typedef struct rtn_options {
    pare_quant_options q;
} rtn_options;

static const pare_param rtn_params[] = {
    PARE_QUANT_PARAMS(rtn_options, PARE_GRID_FULL, PARE_GRID_PLAIN),
    {0},
};

static unsigned rtn_uses(const void *options) {
    const rtn_options *o = options;
    return o->q.search == PARE_GRID_LEAST_SQUARES ? PARE_NEED_SQUARES : 0;
}

static pare_status rtn_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const rtn_options *o = options;
    pare_grid grid = pare_quant_grid(&o->q);
    const bool weighs = rtn_uses(o) && job->x && job->x->squares;
    float *importance = weighs ? pare_quant_importance(job) : NULL;
    if (weighs && !importance) return pare_fail(err, PARE_ERR_NOMEM, "rtn: out of memory");
    pare_quant_round(job->rt, job->w, job->rows, job->cols, (size_t)o->q.group, &grid, importance,
                     job->scale, job->zero);
    pare_free(importance);
    return PARE_OK;
}

static const pare_encoding *rtn_encoding(const void *options) {
    return pare_quant_encoding(&((const rtn_options *)options)->q);
}

static void rtn_tell(pare_quant_told *told, const void *options) {
    *told = (pare_quant_told){
        .damp = -1, .searched = ((const rtn_options *)options)->q.search != PARE_GRID_PLAIN};
}

static pare_status rtn_check(const void *options, pare_error *err) {
    return pare_quant_check(&((const rtn_options *)options)->q, err);
}

const pare_method pare_method_rtn = {
    .name = "rtn",
    .slot = "weight",
    .paper = "arXiv:2306.00978",
    .summary = "rounds every weight to the nearest point of a grid",
    .help =
        "Each group of inputs of a row gets a scale (and, with an asymmetric grid, a zero "
        "point), and every weight the nearest code. With search=least_squares the scale is "
        "the one of least squared error: with calibration text weighted by the squares of the "
        "inputs (AutoRound's opt-RTN), without it clips large weights and is often worse. Needs "
        "no calibration data and is the baseline that "
        "every other quantizer has to beat.",
    .example = "rtn:bits=4,group=64",
    .options_size = sizeof(rtn_options),
    .params = rtn_params,
    .uses = rtn_uses,
    .check = rtn_check,
    .encoding = rtn_encoding,
    .tell = rtn_tell,
    .run = rtn_run,
};
