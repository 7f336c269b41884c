/* Round to nearest: every weight to the closest point of a grid, whose scale (and zero point) is
 * fitted to its group. No calibration data. The grids are those in use elsewhere (tensor/grid.h).
 */
#include "methods/quant_options.h"

typedef struct rtn_options {
    pare_quant_options q;
} rtn_options;

static const pare_param rtn_params[] = {
    PARE_QUANT_PARAMS(rtn_options, PARE_GRID_FULL, PARE_GRID_PLAIN),
    {0},
};

static pare_status rtn_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const rtn_options *o = options;
    pare_grid grid = pare_quant_grid(&o->q);
    (void)err;
    pare_quant_round(job->rt, job->w, job->rows, job->cols, (size_t)o->q.group, &grid, NULL,
                     job->scale, job->zero);
    return PARE_OK;
}

static const pare_encoding *rtn_encoding(const void *options) {
    return pare_quant_encoding(&((const rtn_options *)options)->q);
}

static pare_status rtn_check(const void *options, pare_error *err) {
    return pare_quant_check(&((const rtn_options *)options)->q, err);
}

const pare_method pare_method_rtn = {
    .name = "rtn",
    .slot = "weight",
    .paper = "arXiv:2306.00978",
    .summary = "rounds every weight to the nearest point of a grid",
    .help = "Each group of inputs of a row gets a scale (and, with an asymmetric grid, a zero "
            "point), and every weight the nearest code. With search=least_squares the scale is "
            "the one of least squared error, which clips large weights and is often worse. Needs "
            "no calibration data and is the baseline that "
            "every other quantizer has to beat.",
    .example = "rtn:bits=4,group=64",
    .options_size = sizeof(rtn_options),
    .params = rtn_params,
    .check = rtn_check,
    .encoding = rtn_encoding,
    .run = rtn_run,
};
