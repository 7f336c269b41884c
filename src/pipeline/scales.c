/* Steps that choose scales of the inputs of a block's linear layers (AWQ, SmoothQuant): a channel's
 * scale is divided out of what makes the input and multiplied into the layers' columns, and the
 * block computes the same as before. All inputs choose before any scale is applied. */
#include "pipeline/compress_run.h"

#include "base/memory.h"
#include "base/os.h"
#include "model/feeder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_INPUTS = 16 };

/* The tensors of a block and the step at work on them. */
typedef struct scaling {
    compress_run *c;
    pare_calibration *cal;
    size_t unit, step;
    const size_t *plans;
    tensor_state *states;
    size_t n;
    pare_spill before, after; /* outputs of a module on the samples; none: data NULL */
} scaling;

/* An input at work. */
typedef struct scaled_input {
    const scaling *s;
    size_t number, n, members[PARE_OP_MAX_OUTS]; /* places of the matrices in the block */
    const float *w[PARE_OP_MAX_OUTS];
    size_t rows[PARE_OP_MAX_OUTS], cols;
    char feeder[PARE_NAME_MAX];
    bool from_norm;
    float *scale; /* [cols]; NULL: none was chosen */
} scaled_input;

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "compress: out of memory for scales");
}

static const tensor_plan *plan_at(const scaling *s, size_t k) { return &s->c->plans[s->plans[k]]; }

static size_t find(const scaling *s, const char *name) {
    for (size_t k = 0; k < s->n; k++)
        if (plan_at(s, k)->t->canonical && strcmp(plan_at(s, k)->t->canonical, name) == 0) return k;
    return SIZE_MAX;
}

static bool takes(const scaling *s, size_t k) {
    const tensor_plan *p = plan_at(s, k);
    return p->n_methods &&
           pare_step_takes(&s->c->recipe->steps[s->step], p->t->canonical, p->n_dims, s->c->tied);
}

static size_t find_leaf(const scaling *s, const char *module, const char *leaf) {
    char name[PARE_NAME_MAX + 8];
    snprintf(name, sizeof name, "%s.%s", module, leaf);
    return find(s, name);
}

/* --- what is there to scale --- */

/* Everything that the step may change is held, as the steps before it left it. */
static pare_status hold_all(scaling *s, pare_error *err) {
    for (size_t k = 0; k < s->n; k++) {
        const tensor_plan *p = plan_at(s, k);
        if (!takes(s, k) && !p->feeds) continue;
        const pare_input_stats *x =
            p->feeds ? NULL : pare_calibration_inputs(s->cal, p->t->canonical);
        PARE_TRY(compress_hold(s->c, s->plans[k], &s->states[k], s->step, x, err));
        if (!s->step) continue;
        pare_tensor t =
            pare_tensor_wrap(pare_encoding_find("f32"), s->states[k].w, p->rows, p->cols);
        pare_calibration_replace(s->cal, s->unit, p->t->canonical, &t);
    }
    return PARE_OK;
}

/* Is the tensor held, so that a scale can be divided out of it? */
static bool is_scalable(const scaling *s, size_t at) {
    return at != SIZE_MAX && (plan_at(s, at)->feeds || takes(s, at));
}

/* Fills in the matrices of an input and its feeder. false: nothing to scale, told when a user would
 * expect it. */
static pare_status describe(scaled_input *in, bool *found, const char *const *names, size_t n,
                            pare_error *err) {
    const scaling *s = in->s;
    *found = false;
    if (!pare_feeder(in->feeder, pare_source_arch(s->c->source), pare_source_config(s->c->source),
                     names[0]))
        return PARE_OK;
    size_t n_taken = 0, at = find_leaf(s, in->feeder, "weight"),
           bias = find_leaf(s, in->feeder, "bias"); /* may be absent, or kept (--keep) */
    for (size_t k = 0; k < n; k++) {
        size_t member = find(s, names[k]);
        in->members[k] = member;
        n_taken += member != SIZE_MAX && takes(s, member);
    }
    if (!n_taken) return PARE_OK;
    if (n_taken < n || !is_scalable(s, at) || (bias != SIZE_MAX && !is_scalable(s, bias)))
        return compress_add_fallback(s->c, err,
                                     "%s: not scaled: the step does not take all of the layers "
                                     "with its input and what makes it (%s)",
                                     names[0], in->feeder);
    for (size_t k = 0; k < n; k++) {
        in->w[k] = s->states[in->members[k]].w;
        in->rows[k] = plan_at(s, in->members[k])->rows;
    }
    in->n = n;
    in->cols = plan_at(s, in->members[0])->cols;
    in->from_norm = plan_at(s, at)->n_dims == 1;
    *found = true;
    return PARE_OK;
}

/* --- the choice --- */

static pare_status module_loss(void *arg, const float *const *w, double *loss, pare_error *err) {
    const scaled_input *in = arg;
    const scaling *s = in->s;
    enum { PIECE = 1 << 18 };
    PARE_TRY(pare_calibration_module(s->cal, s->unit, in->number, w, &s->after, err));
    double sum = 0;
    for (size_t first = 0; first < s->before.n; first += PIECE) {
        size_t n = s->before.n - first < PIECE ? s->before.n - first : PIECE;
        for (size_t i = first; i < first + n; i++) {
            double d = (double)s->after.data[i] - (double)s->before.data[i];
            sum += d * d;
        }
        pare_spill_rest(&s->before, first, n);
        pare_spill_rest(&s->after, first, n);
    }
    *loss = sum / (double)s->before.n;
    return PARE_OK;
}

static void keep_note(void *arg, const char *line) {
    compress_run *c = arg;
    pare_error err; /* out of memory for a note is not worth the run */
    (void)compress_add_fallback(c, &err, "%s", line);
}

static pare_status check_scale(const scaled_input *in, const char *name, pare_error *err) {
    for (size_t i = 0; i < in->cols; i++)
        if (!isfinite(in->scale[i]) || !(in->scale[i] > 0))
            return pare_fail(err, PARE_ERR_INTERNAL,
                             "%s: input %zu: found scale %g, expected a positive number", name, i,
                             (double)in->scale[i]);
    return PARE_OK;
}

static pare_status choose(scaling *s, scaled_input *in, pare_error *err) {
    const pare_step *step = &s->c->recipe->steps[s->step];
    const char *name = plan_at(s, in->members[0])->t->canonical;
    pare_scale_job job = {.rt = s->c->rt,
                          .name = name,
                          .n = in->n,
                          .cols = in->cols,
                          .w = in->w,
                          .rows = in->rows,
                          .x = pare_calibration_inputs(s->cal, name),
                          .from_norm = in->from_norm,
                          .loss = module_loss,
                          .arg = in,
                          .note = keep_note,
                          .note_arg = s->c};
    if (!(in->scale = pare_malloc(in->cols, sizeof *in->scale))) return fail_memory(err);
    for (size_t i = 0; i < in->cols; i++) in->scale[i] = 1.0f;
    if (s->before.data)
        PARE_TRY(pare_calibration_module(s->cal, s->unit, in->number, in->w, &s->before, err));
    PARE_TRY(step->method->scales(&job, step->options, in->scale, err));
    return check_scale(in, name, err);
}

/* --- folding --- */

static pare_status apply(scaling *s, const scaled_input *in, pare_error *err) {
    float *inverse = pare_malloc(in->cols, sizeof *inverse);
    if (!inverse) return fail_memory(err);
    for (size_t i = 0; i < in->cols; i++) inverse[i] = 1.0f / in->scale[i];
    pare_status st = PARE_OK;
    for (size_t k = 0; k < in->n && st == PARE_OK; k++) {
        size_t at = in->members[k];
        st = compress_multiply_cols(s->c, s->plans[at], &s->states[at], in->scale, in->cols, err);
    }
    const char *const leaves[] = {"weight", "bias"};
    for (size_t k = 0; k < 2 && st == PARE_OK; k++) {
        size_t at = find_leaf(s, in->feeder, leaves[k]);
        if (at == SIZE_MAX) continue;
        bool vector = plan_at(s, at)->n_dims == 1;
        st = (vector ? compress_multiply_cols : compress_multiply_rows)(
            s->c, s->plans[at], &s->states[at], inverse, in->cols, err);
    }
    pare_free(inverse);
    if (st == PARE_OK) pare_calibration_divide(s->cal, in->number, in->scale);
    return st;
}

static pare_status scale_inputs(scaling *s, scaled_input *inputs, size_t *n, pare_error *err) {
    const char *const *names;
    size_t n_names;
    for (size_t i = 0; i < MAX_INPUTS && (names = pare_calibration_sharing(s->cal, i, &n_names));
         i++) {
        scaled_input *in = &inputs[*n];
        bool found;
        *in = (scaled_input){.s = s, .number = i};
        PARE_TRY(describe(in, &found, names, n_names, err));
        if (!found) continue;
        ++*n;
        PARE_TRY(choose(s, in, err));
    }
    for (size_t i = 0; i < *n; i++) PARE_TRY(apply(s, &inputs[i], err));
    return PARE_OK;
}

pare_status compress_scale_block(compress_run *c, pare_calibration *cal, size_t unit, size_t step,
                                 const size_t *plans, tensor_state *states, size_t n,
                                 pare_error *err) {
    scaling s = {
        .c = c, .cal = cal, .unit = unit, .step = step, .plans = plans, .states = states, .n = n};
    scaled_input inputs[MAX_INPUTS];
    size_t n_inputs = 0, dim = pare_source_config(c->source)->dim;
    PARE_TRY(hold_all(&s, err));
    size_t n_outputs = pare_calibration_samples(cal) * pare_calibration_ctx(cal) * dim;
    pare_status st = PARE_OK;
    if (c->recipe->steps[step].method->needs & PARE_NEED_SAMPLES) {
        st = pare_spill_make(&s.before, n_outputs, c->spill, err);
        if (st == PARE_OK) st = pare_spill_make(&s.after, n_outputs, c->spill, err);
    }
    if (st == PARE_OK) st = scale_inputs(&s, inputs, &n_inputs, err);
    for (size_t i = 0; i < n_inputs; i++) pare_free(inputs[i].scale);
    pare_spill_free(&s.before);
    pare_spill_free(&s.after);
    return st;
}

uint64_t compress_scale_memory(const compress_run *c, const pare_calibration *cal, size_t unit) {
    uint64_t values = 0, dim = pare_source_config(c->source)->dim;
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].unit == unit && (c->plans[i].n_methods || c->plans[i].feeds))
            values += c->plans[i].t->n_params;
    uint64_t outputs =
        cal ? 2 * (c->spills ? 1 : pare_calibration_samples(cal)) * pare_calibration_ctx(cal) * dim
            : 0;
    return (2 * values + outputs) * sizeof(float); /* held, and a method's candidates */
}
