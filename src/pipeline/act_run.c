/* Quantized activations of a model in memory: what a recipe's step such as w8a8 would store,
 * without a file. */
#include "model/act.h"

#include "base/runtime.h"
#include "methods/spec.h"
#include "pare/compress.h"
#include "pipeline/calib_text.h"

#include <string.h>

static pare_status calibrate(pare_model *m, const pare_act_options *o, pare_error *err) {
    size_t ctx, tokens, n = o->calib_samples ? o->calib_samples : 128;
    int32_t *ids = NULL;
    if (!o->calib)
        return pare_fail(err, PARE_ERR_ARG,
                         "act: found static grids and no calibration text, expected --calib FILE");
    PARE_TRY(pare_calib_ctx(&ctx, o->calib_ctx, pare_model_ctx_max(m), err));
    PARE_TRY(pare_calib_text(&ids, &tokens, m, o->calib, n, ctx, err));
    pare_status st = pare_act_calibrate(m, ids, n, ctx, o->calib_compute, err);
    pare_free(ids);
    return st;
}

/* The method's own step on a matrix. */
typedef struct rounding {
    pare_runtime *rt;
    const pare_spec *spec;
} rounding;

static pare_status round_matrix(void *arg, const pare_encoding *enc, const char *name, float *w,
                                size_t rows, size_t cols, float *scale, pare_error *err) {
    const rounding *r = arg;
    const pare_weight_job job = {
        .rt = r->rt, .name = name, .w = w, .rows = rows, .cols = cols, .enc = enc, .scale = scale};
    return r->spec->method->run(&job, r->spec->options, err);
}

static pare_status attach(pare_model *m, const pare_spec *spec, const pare_act_options *o,
                          pare_error *err) {
    pare_act_scheme scheme;
    pare_act_sites *a;
    spec->method->act(&scheme, spec->options);
    bool is_static = scheme.granularity == PARE_ACT_PER_TENSOR_STATIC;
    if (o->calib && !is_static)
        pare_warn(m->rt, "%s: nothing in %s uses calibration text", o->calib, spec->text);
    PARE_TRY(pare_act_sites_create(&a, m, &scheme, err));
    rounding r = {m->rt, spec};
    pare_status st = pare_act_quantize_weights(a, m, spec->method->encoding(spec->options),
                                               round_matrix, &r, err);
    if (a->n_kept)
        pare_warn(
            m->rt,
            "act: %zu matrices are codes already and keep them: bits, group and weights of %s "
            "say nothing of those",
            a->n_kept, spec->text);
    if (!(a->text = pare_strdup(spec->text)) && st == PARE_OK)
        st = pare_fail(err, PARE_ERR_NOMEM, "act: out of memory");
    pare_model_attach_act(m, a); /* owns weights that the model has already */
    return st == PARE_OK && is_static ? calibrate(m, o, err) : st;
}

pare_status pare_model_quantize_act(pare_model *m, const pare_act_options *o, pare_error *err) {
    pare_spec spec;
    if (strcmp(o->spec, "none") == 0 && (!m->act || m->act->n_weights == 0)) {
        pare_model_detach_act(m);
        return PARE_OK;
    }
    if (m->act)
        return pare_fail(err, PARE_ERR_ARG,
                         "act: found a model whose activations are quantized already (%s)",
                         pare_model_act(m));
    PARE_TRY(pare_spec_parse(&spec, "activation", "act", o->spec, err));
    pare_status st = spec.method->act
                         ? attach(m, &spec, o, err)
                         : pare_fail(err, PARE_ERR_ARG,
                                     "act: found %s, expected a method that quantizes activations, "
                                     "such as w8a8",
                                     spec.method->name);
    pare_spec_free(&spec);
    return st;
}
