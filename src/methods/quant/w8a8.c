/* Weights and activations in few bits: the inputs of the layers' matrices are rounded to a grid
 * while the model runs, so that products are those of integers. Weights are symmetric, one scale a
 * row (or group, or matrix), as SmoothQuant has them (arXiv:2211.10438) and CushionCache
 * (arXiv:2406.12016), whose formulas for activations tensor/act_quant.h has.
 *
 * The step says what the model does; ranges of static grids are the smallest and largest values
 * over the calibration text. Weights that a step before it has quantized keep their codes. */
#include "methods/quant_options.h"

typedef struct w8a8_options {
    int act, act_bits, bits, group, weights, formula;
    bool sym, bmm;
} w8a8_options;

#define W8A8_PARAMS(bits_)                                                                         \
    {                                                                                              \
        {.name = "act",                                                                            \
         .type = PARE_PARAM_CHOICE,                                                                \
         .offset = offsetof(w8a8_options, act),                                                    \
         .def = PARE_ACT_PER_TOKEN,                                                                \
         .choices = PARE_ACT_GRANULARITY_CHOICES,                                                  \
         .help = "one grid for an input from calibration text, one from all tokens of a pass, or " \
                 "one a token; the value alone will do: w8a8:per_tensor_static"},                  \
            PARE_PARAM(w8a8_options, act_bits, PARE_PARAM_INT, bits_, 4, 8,                        \
                       "bits of an activation's code: 4, 6 or 8"),                                 \
            PARE_PARAM(w8a8_options, bits, PARE_PARAM_INT, bits_, 4, 8,                            \
                       "bits of a weight's code: 4, 6 or 8"),                                      \
            PARE_PARAM(w8a8_options, group, PARE_PARAM_INT, 0, 0, 128,                             \
                       "weights that share a scale: 32, 64, 128, or 0 for a whole row"),           \
            {.name = "weights",                                                                    \
             .type = PARE_PARAM_CHOICE,                                                            \
             .offset = offsetof(w8a8_options, weights),                                            \
             .choices = "row|tensor",                                                              \
             .help = "with group=0: a scale of weights a row, or one for a matrix"},               \
            PARE_PARAM(w8a8_options, sym, PARE_PARAM_BOOL, 0, 0, 1,                                \
                       "the activations' grid is symmetric; else it has a zero point"),            \
            {.name = "formula",                                                                    \
             .type = PARE_PARAM_CHOICE,                                                            \
             .offset = offsetof(w8a8_options, formula),                                            \
             .choices = PARE_ACT_FORMULA_CHOICES,                                                  \
             .help = "which scale: the usual one, CushionCache's as printed (no clamp, products "  \
                     "in f32), or compressed-tensors'"},                                           \
            PARE_PARAM(w8a8_options, bmm, PARE_PARAM_BOOL, 0, 0, 1,                                \
                       "also quantize the queries, keys and values that attention multiplies "     \
                       "(static grids: --act only)"),                                              \
            {0},                                                                                   \
    }
static const pare_param w8a8_params[] = W8A8_PARAMS(8), w6a6_params[] = W8A8_PARAMS(6),
                        w4a4_params[] = W8A8_PARAMS(4);

static pare_quant_options weights_of(const w8a8_options *o) {
    return (pare_quant_options){.bits = o->bits, .group = o->group, .grid = PARE_GRID_SYM_ABSMAX};
}

static pare_status w8a8_check(const void *options, pare_error *err) {
    const w8a8_options *o = options;
    const pare_quant_options weights = weights_of(o);
    if (o->act_bits % 2 != 0)
        return pare_fail(err, PARE_ERR_ARG, "act_bits: found %d, expected 4, 6 or 8", o->act_bits);
    if (o->bits % 2 != 0)
        return pare_fail(err, PARE_ERR_ARG, "bits: found %d, expected 4, 6 or 8", o->bits);
    if (o->weights && o->group)
        return pare_fail(err, PARE_ERR_ARG, "weights: found tensor and group=%d, expected group=0",
                         o->group);
    return pare_quant_check(&weights, err);
}

static const pare_encoding *w8a8_encoding(const void *options) {
    const pare_quant_options weights = weights_of(options);
    return pare_quant_encoding(&weights);
}

static void w8a8_act(pare_act_scheme *scheme, const void *options) {
    const w8a8_options *o = options;
    *scheme = (pare_act_scheme){.granularity = (pare_act_granularity)o->act,
                                .formula = (pare_act_formula)o->formula,
                                .bits = o->act_bits,
                                .symmetric = o->sym,
                                .bmm = o->bmm};
}

static pare_status w8a8_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const w8a8_options *o = options;
    const pare_quant_options weights = weights_of(o);
    const pare_grid grid = pare_quant_grid(&weights);
    const bool whole = o->weights != 0; /* the matrix is one row, whose scale is that of all */
    (void)err;
    pare_quant_round(job->rt, job->w, whole ? 1 : job->rows,
                     whole ? job->rows * job->cols : job->cols, (size_t)weights.group, &grid, NULL,
                     job->scale, job->zero);
    for (size_t r = 1; whole && r < job->rows; r++) {
        job->scale[r] = job->scale[0];
        if (job->zero) job->zero[r] = job->zero[0];
    }
    return PARE_OK;
}

#define W8A8_METHOD(name_, bits_)                                                                  \
    {                                                                                              \
        .name = #name_, .slot = "activation", .paper = "arXiv:2406.12016",                         \
        .summary = "weights and activations in " bits_ " bits",                                    \
        .help = "The model computes with the inputs of its layers rounded to a grid of " bits_     \
                " bits, and weights with one scale a row. Embedding, head, norms, softmax and "    \
                "residual sums stay as they are. One grid from calibration text for each input "   \
                "(per_tensor_static) is the fastest and the hardest: a few huge values of a "      \
                "model's first tokens then cost all others their precision. A quantizer before "   \
                "it keeps its codes; smoothquant before it makes inputs easier.",                  \
        .example = "smoothquant:alpha=0.8 + " #name_ ":act=per_tensor_static",                     \
        .options_size = sizeof(w8a8_options), .params = name_##_params, .check = w8a8_check,       \
        .encoding = w8a8_encoding, .act = w8a8_act, .run = w8a8_run,                               \
    }
const pare_method pare_method_w8a8 = W8A8_METHOD(w8a8, "8");
const pare_method pare_method_w6a6 = W8A8_METHOD(w6a6, "6");
const pare_method pare_method_w4a4 = W8A8_METHOD(w4a4, "4");
