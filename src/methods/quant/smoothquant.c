/* SmoothQuant: the outliers of a layer's input go into its weights, channel by channel, so that
 * both are easy to quantize:
 *
 *     s_j = max |x_j|^alpha / max_rows |w_j|^(1 - alpha)
 *
 * and the norm before it divides by s. Xiao, Lin, Seznec, Wu, Demouth, Han, arXiv:2211.10438. Only
 * inputs that a norm makes are smoothed. The model computes the same; quantization is another
 * step's. */
#include "methods/method.h"

#include <math.h>

typedef struct smoothquant_options {
    double alpha;
} smoothquant_options;

static const pare_param smoothquant_params[] = {
    PARE_PARAM(
        smoothquant_options, alpha, PARE_PARAM_FLOAT, 0.5, 0, 1,
        "how much of the outliers goes into the weights: 0 levels the weights, 1 the inputs; "
        "0.5 for OPT, 0.8 for Llama"),
    {0},
};

/* The largest |w| of column c over all layers. */
static float largest(const pare_scale_job *job, size_t c) {
    float most = 0.0f;
    for (size_t i = 0; i < job->n; i++)
        for (size_t r = 0; r < job->rows[i]; r++)
            most = fmaxf(most, fabsf(job->w[i][r * job->cols + c]));
    return most;
}

static pare_status smoothquant_scales(const pare_scale_job *job, const void *options, float *s,
                                      pare_error *err) {
    double alpha = ((const smoothquant_options *)options)->alpha;
    (void)err;
    for (size_t c = 0; c < job->cols && job->from_norm; c++) {
        double w = fmax((double)largest(job, c), 1e-5);
        s[c] = (float)fmax(pow((double)job->x->abs_max[c], alpha) / pow(w, 1 - alpha), 1e-5);
    }
    return PARE_OK;
}

const pare_method pare_method_smoothquant = {
    .name = "smoothquant",
    .slot = "weight",
    .paper = "arXiv:2211.10438",
    .summary = "moves outliers of the inputs into the weights, exactly",
    .help = "Each input channel of the layers that follow a norm gets a scale s = max|x|^alpha / "
            "max|w|^(1-alpha); the norm divides by it and the layers' columns are multiplied by "
            "it, so that the model computes what it computed before, with inputs that are easier "
            "to quantize.",
    .example = "smoothquant:alpha=0.8 + rtn:bits=8,group=0,grid=sym_absmax",
    .options_size = sizeof(smoothquant_options),
    .params = smoothquant_params,
    .needs = PARE_NEED_ABS,
    .dense_inputs = true,
    .scales = smoothquant_scales,
};
