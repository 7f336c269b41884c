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

typedef struct rtn_job {
    const pare_weight_job *weights;
    pare_grid grid;
} rtn_job;

static void round_rows(void *arg, size_t begin, size_t end) {
    const rtn_job *j = arg;
    const pare_weight_job *job = j->weights;
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_runtime_isa(job->rt));
    size_t step = job->enc->grid->group ? job->enc->grid->group : job->cols;
    int max = (1 << j->grid.bits) - 1;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < job->cols; c += step) {
            size_t n = job->cols - c < step ? job->cols - c : step,
                   at = pare_quant_group_at(job, r, c);
            float *w = job->w + r * job->cols + c, *scale = job->scale + at;
            uint8_t *zero = job->zero + at;
            pare_grid_fit(scale, zero, &j->grid, k, w, NULL, n);
            for (size_t i = 0; i < n; i++)
                w[i] = pare_grid_value(pare_grid_code(w[i], *scale, *zero, max), *scale, *zero);
        }
}

static pare_status rtn_run(const pare_weight_job *job, const void *options, pare_error *err) {
    rtn_job j = {job, pare_quant_grid(&((const rtn_options *)options)->q)};
    (void)err;
    pare_parallel_for(job->rt, job->rows, 8, round_rows, &j);
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
