/* Steps of a recipe that quantize the inputs of matrices (w8a8): the model stores which grids, and
 * those that are static. */
#include "model/act.h"
#include "pipeline/compress_run.h"

#include <math.h>
#include <string.h>

bool compress_act_of(const tensor_plan *p, pare_act_scheme *scheme) {
    if (p->act) p->act->method->act(scheme, p->act->options);
    return p->act != NULL;
}

static bool share_input(const tensor_plan *p, const tensor_plan *q) {
    size_t layer[2], site = pare_act_site_of(p->t->canonical, &layer[0]);
    return site != PARE_ACT_SITES && site == pare_act_site_of(q->t->canonical, &layer[1]) &&
           layer[0] == layer[1];
}

static pare_status check(const compress_run *c, const tensor_plan *p, const pare_step *step,
                         const pare_act_scheme *a, pare_error *err) {
    if (a->bmm && a->granularity == PARE_ACT_PER_TENSOR_STATIC)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "recipe: %s: found bmm=true with static grids, expected per_token or "
                         "per_tensor_dynamic: calibration measures inputs of matrices only (--act "
                         "measures q, k and v, on a model in memory)",
                         step->method->name);
    for (const tensor_plan *q = c->plans; q != p; q++) {
        pare_act_scheme b;
        if (!compress_act_of(q, &b)) continue;
        if (share_input(q, p) && !pare_act_same_scheme(a, &b))
            return pare_fail(err, PARE_ERR_ARG,
                             "recipe: %s: found another grid for the input of %s than for that of "
                             "%s, which is the same",
                             step->method->name, p->t->canonical, q->t->canonical);
    }
    if (p->act)
        return pare_fail(err, PARE_ERR_ARG,
                         "recipe: found %s for %s, whose inputs %s quantizes already",
                         step->method->name, p->t->canonical, p->act->method->name);
    return PARE_OK;
}

pare_status compress_plan_act(compress_run *c, tensor_plan *p, const pare_step *step, bool *weights,
                              pare_error *err) {
    pare_act_scheme a;
    step->method->act(&a, step->options);
    PARE_TRY(check(c, p, step, &a, err));
    if (p->unit == pare_source_config(c->source)->n_layers)
        return pare_fail(err, PARE_ERR_ARG, "recipe: found %s for %s, expected matrices of blocks",
                         step->method->name, p->t->canonical);
    p->act = step;
    p->range = pare_act_range_none;
    if (a.granularity == PARE_ACT_PER_TENSOR_STATIC) p->needs |= PARE_NEED_RANGE;
    *weights = p->quantizer == NULL;
    return PARE_OK;
}

pare_status compress_check_bmm(const compress_run *c, pare_error *err) {
    for (const tensor_plan *p = c->plans; p != c->plans + c->n_plans; p++) {
        pare_act_scheme a, b;
        size_t layer;
        if (!compress_act_of(p, &a) || !a.bmm ||
            pare_act_site_of(p->t->canonical, &layer) != PARE_ACT_QKV)
            continue;
        for (const tensor_plan *q = c->plans; q != c->plans + c->n_plans; q++)
            if (q->t->canonical && share_input(p, q) && (!compress_act_of(q, &b) || !b.bmm))
                return pare_fail(err, PARE_ERR_ARG,
                                 "recipe: %s: found bmm=true for %s and not for %s, expected it "
                                 "for all of q, k and v of a block",
                                 p->act->method->name, p->t->canonical, q->t->canonical);
    }
    return PARE_OK;
}

bool compress_carries_act(const compress_run *c) { return c->recipe->n_steps == 0; }

pare_status compress_stored_act(const compress_run *c, const tensor_plan *p,
                                pare_act_scheme *scheme, pare_act_grid *grid, pare_error *err) {
    *scheme = (pare_act_scheme){0};
    *grid = (pare_act_grid){0};
    if (compress_act_of(p, scheme)) {
        *grid = pare_act_grid_of(scheme, p->range);
        return PARE_OK;
    }
    if (!compress_carries_act(c) || !p->t->act.bits) return PARE_OK;
    *scheme = p->t->act;
    return scheme->granularity == PARE_ACT_PER_TENSOR_STATIC
               ? pare_source_act_grid(grid, c->source, p->t, err)
               : PARE_OK;
}

/* int-quantized holds codes of 8 bits only. */
const char *compress_act_format(const compress_run *c) {
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_step *step = &c->recipe->steps[i];
        const pare_encoding *e =
            step->method && step->method->encoding ? step->method->encoding(step->options) : NULL;
        if (e && (!e->grid || e->grid->bits != 8)) return "compressed-tensors";
        if (e) break; /* the first one's codes stay */
    }
    return "int-quantized";
}

void compress_note_range(tensor_plan *p, const pare_input_stats *x) {
    if (!p->act || !x || !x->min) return;
    p->range = pare_act_range_none;
    for (size_t i = 0; i < x->cols; i++)
        p->range = pare_act_range_join(p->range, (pare_act_range){x->min[i], x->max[i]});
}

pare_status compress_check_range(const tensor_plan *p, pare_error *err) {
    pare_act_scheme a;
    if (!compress_act_of(p, &a) || a.granularity != PARE_ACT_PER_TENSOR_STATIC ||
        pare_act_range_tells(p->range))
        return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "calibration: %s: found %s, expected a text that shows its range: a static "
                     "grid would cut off what comes later (act=per_token needs no range)",
                     p->t->canonical,
                     p->range.min > p->range.max ? "no input" : "inputs of 0 or next to it only");
}
