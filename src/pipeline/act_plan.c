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
    pare_layout_kind kind = c->format->kind;
    const char *found = NULL;
    if (a->bmm) found = "bmm=true";
    if (a->formula == PARE_ACT_PAPER_EQ4) found = "formula=paper_eq4";
    if (found)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "recipe: %s: found %s, which no file says; expected it with --act, on a "
                         "model in memory",
                         step->method->name, found);
    if (kind != PARE_LAYOUT_PACK && kind != PARE_LAYOUT_INT)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "recipe: %s: found format %s, expected int-quantized or "
                         "compressed-tensors: others cannot say how inputs are quantized",
                         step->method->name, c->format->name);
    for (const tensor_plan *q = c->plans; q != p; q++) {
        pare_act_scheme b;
        if (!compress_act_of(q, &b)) continue;
        if (share_input(q, p) && !pare_act_same_scheme(a, &b))
            return pare_fail(err, PARE_ERR_ARG,
                             "recipe: %s: found another grid for the input of %s than for that of "
                             "%s, which is the same",
                             step->method->name, p->t->canonical, q->t->canonical);
        if (b.formula == a->formula) continue;
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "recipe: %s: found another formula than that of the inputs of %s, "
                         "expected one, which a file can say",
                         step->method->name, q->t->canonical);
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
