/* SGDP: Heo et al., arXiv:2006.08217: gradient descent with momentum whose step loses its part
 * along the weights where a tensor looks scale invariant (methods/projection.h). Weight decay is
 * decoupled, and divided by 1 - momentum so that it compares with L2.
 *
 * The paper's momentum keeps what is taken out of the step; the authors' code, without nesterov,
 * takes it out of the momentum too: project_momentum. Their default momentum is 0, with which
 * norms hardly grow; ours is the one that the method is meant for. */
#include "methods/projection.h"

typedef struct sgdp_options {
    pare_optim_options o;
    double momentum, dampening, eps, delta, wd_ratio;
    bool nesterov, project_momentum;
} sgdp_options;

static const pare_param sgdp_params[] = {
    PARE_OPTIM_LR(sgdp_options, 0.01),
    PARE_PARAM(sgdp_options, momentum, PARE_PARAM_FLOAT, 0.9, 0, 0.999999,
               "share of the last step's direction that stays; the authors' code: 0"),
    PARE_PARAM(sgdp_options, dampening, PARE_PARAM_FLOAT, 0, 0, 1,
               "share of the gradient that does not join the momentum"),
    PARE_PARAM(sgdp_options, nesterov, PARE_PARAM_BOOL, 0, 0, 1,
               "the step looks ahead along the momentum"),
    PARE_PARAM(sgdp_options, eps, PARE_PARAM_FLOAT, 1e-8, 0, 1, "least norm"),
    PARE_OPTIM_DECAY(sgdp_options, 0, "share of the weights, times lr / (1 - momentum), taken off"),
    PARE_PARAM(sgdp_options, delta, PARE_PARAM_FLOAT, 0.1, 0, 1e12,
               "a cosine of gradient and weights below delta / sqrt(n) counts as orthogonal"),
    PARE_PARAM(sgdp_options, wd_ratio, PARE_PARAM_FLOAT, 0.1, 0, 1,
               "factor of weight decay where the step was projected"),
    PARE_PARAM(sgdp_options, project_momentum, PARE_PARAM_BOOL, 0, 0, 1,
               "as the authors' code: the momentum too is projected, without nesterov"),
    {0},
};

static void direction(float *out, const pare_update *u, const void *rule, bool advance,
                      size_t begin, size_t end) {
    u->k->sgd_direction(out, &u->a, rule, advance, begin, end);
}

static void sgdp_update(const pare_update *u, const void *options) {
    const sgdp_options *o = options;
    pare_sgd_rule rule = {.lr = (float)u->lr,
                          .momentum = (float)o->momentum,
                          .undamped = (float)(1.0 - o->dampening),
                          .nesterov = o->nesterov};
    double decay = u->lr * u->decay / (1.0 - o->momentum);
    pare_projected step = {.direction = direction,
                           .rule = &rule,
                           .delta = o->delta,
                           .eps = o->eps,
                           .size = rule.lr,
                           .keep = (float)(1.0 - decay),
                           .keep_if_cut = (float)(1.0 - decay * o->wd_ratio),
                           .cut_momentum = o->project_momentum && !o->nesterov};
    pare_projected_update(u, &step);
}

static const pare_optim_fns sgdp = {
    .moments = {"m"}, .work = pare_projected_work, .update = sgdp_update};

const pare_method pare_method_sgdp = {
    .name = "sgdp",
    .slot = "optimizer",
    .paper = "arXiv:2006.08217",
    .summary = "gradient descent with momentum, without the growth of scale-invariant weights",
    .help = "Where the gradient is nearly orthogonal to the weights, of every row or of the whole "
            "tensor, the step loses its part along the weights and weight decay is wd_ratio times "
            "as strong. Decay is decoupled and divided by 1 - momentum.",
    .example = "sgdp:lr=0.1,momentum=0.9",
    .options_size = sizeof(sgdp_options),
    .params = sgdp_params,
    .optim = &sgdp,
};
