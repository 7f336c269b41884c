/* Stochastic gradient descent with momentum, as PyTorch has it: weight decay joins the gradient,
 * the first momentum is the gradient itself. Nesterov's look-ahead: Sutskever et al., ICML 2013. */
#include "methods/optimizer.h"

typedef struct sgd_options {
    pare_optim_options o;
    double momentum, dampening;
    bool nesterov;
} sgd_options;

static const pare_param sgd_params[] = {
    PARE_OPTIM_LR(sgd_options, 0.01),
    PARE_PARAM(sgd_options, momentum, PARE_PARAM_FLOAT, 0, 0, 1,
               "share of the last step's direction that stays"),
    PARE_PARAM(sgd_options, dampening, PARE_PARAM_FLOAT, 0, 0, 1,
               "share of the gradient that does not join the momentum"),
    PARE_PARAM(sgd_options, nesterov, PARE_PARAM_BOOL, 0, 0, 1,
               "the step looks ahead along the momentum"),
    PARE_OPTIM_DECAY(sgd_options, 0, "L2: joins the gradient"),
    {0},
};

static size_t sgd_moment(const void *options, const pare_update *u, size_t k) {
    const sgd_options *o = options;
    (void)k;
    return o->momentum > 0 ? u->n : 0;
}

static void sgd_update(const pare_update *u, const void *options) {
    const sgd_options *o = options;
    const pare_sgd_rule r = {.lr = (float)u->lr,
                             .l2 = (float)u->decay,
                             .momentum = (float)o->momentum,
                             .undamped = (float)(1.0 - o->dampening),
                             .nesterov = o->nesterov,
                             .first = u->step == 1};
    pare_update_sgd(u, &r);
}

static pare_status sgd_check(const void *options, pare_error *err) {
    const sgd_options *o = options;
    if (o->nesterov && (o->momentum == 0 || o->dampening != 0))
        return pare_fail(err, PARE_ERR_ARG,
                         "nesterov: found momentum %g and dampening %g, expected momentum above 0 "
                         "and dampening 0",
                         o->momentum, o->dampening);
    return PARE_OK;
}

static const pare_optim_fns sgd = {
    .moments = {"m"}, .moment_size = sgd_moment, .update = sgd_update};

const pare_method pare_method_sgd = {
    .name = "sgd",
    .slot = "optimizer",
    .paper = "Robbins, Monro, 1951",
    .summary = "gradient descent, with momentum on request",
    .help = "w -= lr m with m = momentum m + (1 - dampening) g; nesterov steps by g + momentum m. "
            "Weight decay joins the gradient. Without momentum it keeps no state.",
    .example = "sgd:lr=0.1,momentum=0.9",
    .options_size = sizeof(sgd_options),
    .params = sgd_params,
    .check = sgd_check,
    .optim = &sgd,
};
