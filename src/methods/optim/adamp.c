/* AdamP: Heo et al., arXiv:2006.08217: AdamW whose step loses its part along the weights where a
 * tensor looks scale invariant, so that the weights' norm does not grow by the momentum alone
 * (methods/projection.h). Weight decay is wd_ratio times as strong there. As the authors' code has
 * it: the test is on the raw gradient, and the moments keep what is taken out of the step. Vectors
 * follow AdamW. */
#include "methods/projection.h"

typedef struct adamp_options {
    pare_optim_options o;
    double beta1, beta2, eps, delta, wd_ratio;
    bool nesterov;
} adamp_options;

static const pare_param adamp_params[] = {
    PARE_OPTIM_LR(adamp_options, 0.001),
    PARE_PARAM(adamp_options, beta1, PARE_PARAM_FLOAT, 0.9, 0, 0.999999,
               "decay of the mean of gradients"),
    PARE_PARAM(adamp_options, beta2, PARE_PARAM_FLOAT, 0.999, 0, 0.999999,
               "decay of the mean of their squares"),
    PARE_PARAM(adamp_options, eps, PARE_PARAM_FLOAT, 1e-8, 0, 1, "added to the root of the second"),
    PARE_OPTIM_DECAY(adamp_options, 0, "share of the weights, times lr, that each step takes off"),
    PARE_PARAM(adamp_options, delta, PARE_PARAM_FLOAT, 0.1, 0, 1e12,
               "a cosine of gradient and weights below delta / sqrt(n) counts as orthogonal"),
    PARE_PARAM(adamp_options, wd_ratio, PARE_PARAM_FLOAT, 0.1, 0, 1,
               "factor of weight decay where the step was projected"),
    PARE_PARAM(adamp_options, nesterov, PARE_PARAM_BOOL, 0, 0, 1,
               "the step looks ahead along the mean gradient"),
    {0},
};

typedef struct adamp_rule {
    pare_adam_rule adam;
    bool nesterov;
} adamp_rule;

static void direction(float *out, const pare_update *u, const void *rule, bool advance,
                      size_t begin, size_t end) {
    const adamp_rule *r = rule;
    u->k->adam_direction(out, &u->a, &r->adam, r->nesterov, advance, begin, end);
}

static void adamp_update(const pare_update *u, const void *options) {
    const adamp_options *o = options;
    adamp_rule rule = {pare_adam_rule_of(u, o->beta1, o->beta2, o->eps, true), o->nesterov};
    pare_projected step = {.direction = direction,
                           .rule = &rule,
                           .delta = o->delta,
                           .eps = o->eps,
                           .size = rule.adam.step,
                           .keep = rule.adam.keep,
                           .keep_if_cut = (float)(1.0 - u->lr * u->decay * o->wd_ratio)};
    pare_projected_update(u, &step);
}

static const pare_optim_fns adamp = {
    .moments = {"m", "v"}, .work = pare_projected_work, .update = adamp_update};

const pare_method pare_method_adamp = {
    .name = "adamp",
    .slot = "optimizer",
    .paper = "arXiv:2006.08217",
    .summary = "AdamW without the growth of scale-invariant weights",
    .help =
        "Where the gradient is nearly orthogonal to the weights, of every row or of the whole "
        "tensor, as it is before a normalisation, the step loses its part along the weights and "
        "weight decay is wd_ratio times as strong; elsewhere it is adamw. Gains where weights "
        "are normalised.",
    .example = "adamp:lr=1e-3,weight_decay=0.01",
    .options_size = sizeof(adamp_options),
    .params = adamp_params,
    .optim = &adamp,
};
