/* A block's modules on the samples that calibration kept: what methods compare outputs by. */
#include "pipeline/calibrate_internal.h"

#include "base/os.h"
#include "base/rng.h"
#include "tensor/pack.h"

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "calibration: out of memory");
}

static module module_of(const pare_layer *l, const pare_linear *matrix) {
    if (matrix == &l->attn_q || matrix == &l->attn_k || matrix == &l->attn_v ||
        matrix == &l->attn_qkv)
        return ATTENTION;
    return matrix == &l->ffn_gate || matrix == &l->ffn_up ? FEED_FORWARD : MATRIX;
}

static pare_status run_samples(pare_calibration *cal, region r, const shared_input *input,
                               const pare_spill *y, pare_error *err) {
    size_t values = cal->ctx * cal->m->config.dim;
    for (size_t k = 0; k < cal->n_samples; k++) {
        PARE_TRY(pare_check_cancel(cal->rt, err));
        r.x = input->result->samples + k * cal->ctx * input->in;
        r.y = y->data + k * values;
        pare_team_run(cal->rt, calibration_region, &r);
        if (input->statistics) pare_statistics_rest(input->statistics, k * cal->ctx, cal->ctx);
        pare_spill_rest(y, k * values, values);
    }
    return PARE_OK;
}

/* Weights to be tried: f32, or in 8 bits where products are fast with them. t: freed by the caller,
 * borrows w otherwise. */
static pare_status wrap_candidate(const pare_calibration *cal, pare_tensor *t, const float *w,
                                  size_t rows, size_t cols, pare_error *err) {
    const pare_encoding *q8 = pare_encoding_find("q8_0");
    if (cal->compute == PARE_COMPUTE_EXACT || cols % q8->block_len) {
        *t = pare_tensor_wrap(pare_encoding_find("f32"), w, rows, cols);
        return PARE_OK;
    }
    PARE_TRY(pare_tensor_encode(cal->rt, t, q8, w, rows, cols, NULL, err));
    return pare_tensor_repack(t, pare_runtime_isa(cal->rt), err);
}

pare_status pare_calibration_module(pare_calibration *cal, size_t layer, size_t i,
                                    const float *const *w, const pare_spill *y, pare_error *err) {
    const shared_input *input = &cal->inputs[i];
    pare_tensor before[PARE_OP_MAX_OUTS], tried[PARE_OP_MAX_OUTS] = {0};
    pare_linear *linears[PARE_OP_MAX_OUTS] = {NULL};
    const size_t n = input->n_names;
    pare_status st = PARE_OK;
    for (size_t k = 0; k < n; k++) {
        linears[k] = pare_model_linear(cal->m, layer, input->names[k]);
        before[k] = linears[k]->w;
        if (st == PARE_OK && w)
            st =
                wrap_candidate(cal, &tried[k], w[k], before[k].view.rows, before[k].view.cols, err);
        if (st == PARE_OK && w) linears[k]->w = tried[k];
    }
    region r = {.cal = cal,
                .layer = layer,
                .module = module_of(&cal->m->weights.layers[layer], linears[0]),
                .matrix = linears[0],
                .n = cal->ctx};
    if (st == PARE_OK) st = run_samples(cal, r, input, y, err);
    for (size_t k = 0; k < n; k++) {
        linears[k]->w = before[k];
        pare_tensor_free(&tried[k]);
    }
    return st;
}

/* Values as activations and weights have them: neither zeros nor a softmax that overflows. */
static float *made_up(size_t n, float scale) {
    enum { PERIOD = 4093 };
    float *x = pare_big_alloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++)
        x[i] = i < PERIOD ? scale * pare_rng_normal(1, 0x5CA1E, i) : x[i - PERIOD];
    return x;
}

/* x[n_samples * ctx][in]; the second call counts. */
static pare_status time_module(pare_calibration *cal, size_t layer, size_t i, const float *x,
                               const float *const *w, const pare_spill *y, double *seconds,
                               pare_error *err) {
    const pare_input_stats samples = {.samples = x};
    shared_input *input = &cal->inputs[i];
    const pare_input_stats *before = input->result;
    pare_status st = PARE_OK;
    input->result = &samples;
    for (int k = 0; k < 2 && st == PARE_OK; k++) {
        double start = pare_now_s();
        st = pare_calibration_module(cal, layer, i, w, y, err);
        *seconds = pare_now_s() - start;
    }
    input->result = before;
    return st;
}

pare_status pare_calibration_module_seconds(pare_calibration *cal, size_t layer, size_t i,
                                            double *seconds, pare_error *err) {
    const shared_input *input = &cal->inputs[i];
    const float *w[PARE_OP_MAX_OUTS] = {NULL};
    size_t n_w = 0, n = cal->n_samples * cal->ctx, dim = cal->m->config.dim;
    for (size_t k = 0; k < input->n_names; k++) {
        const pare_linear *linear = pare_model_linear(cal->m, layer, input->names[k]);
        if (linear->w.view.rows > n_w) n_w = linear->w.view.rows;
    }
    n_w *= input->in;
    pare_spill y = {0};
    PARE_TRY(pare_spill_make(&y, n * dim, NULL, err));
    float *x = made_up(n * input->in, 1.0f), *weights = made_up(n_w, 0.02f);
    for (size_t k = 0; k < input->n_names; k++) w[k] = weights; /* one for all */
    pare_status st =
        x && weights ? time_module(cal, layer, i, x, w, &y, seconds, err) : fail_memory(err);
    if (x) pare_big_free(x, n * input->in * sizeof *x);
    pare_spill_free(&y);
    if (weights) pare_big_free(weights, n_w * sizeof *weights);
    return st;
}
