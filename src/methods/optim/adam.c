/* Adam: Kingma, Ba, arXiv:1412.6980; weight decay as L2, which joins the gradient. eps is outside
 * the root and after the correction of bias. */
#include "methods/optimizer.h"

typedef struct adam_options {
    pare_optim_options o;
    double beta1, beta2, eps;
} adam_options;

static const pare_param adam_params[] = {
    PARE_OPTIM_LR(adam_options, 0.001),
    PARE_PARAM(adam_options, beta1, PARE_PARAM_FLOAT, 0.9, 0, 0.999999,
               "decay of the mean of gradients"),
    PARE_PARAM(adam_options, beta2, PARE_PARAM_FLOAT, 0.999, 0, 0.999999,
               "decay of the mean of their squares"),
    PARE_PARAM(adam_options, eps, PARE_PARAM_FLOAT, 1e-8, 0, 1, "added to the root of the second"),
    PARE_OPTIM_DECAY(adam_options, 0, "L2: joins the gradient"),
    {0},
};

static void adam_update(const pare_update *u, const void *options) {
    const adam_options *o = options;
    pare_adam_rule r = pare_adam_rule_of(u, o->beta1, o->beta2, o->eps, false);
    pare_update_adam(u, &r);
}

static const pare_optim_fns adam = {.moments = {"m", "v"}, .update = adam_update};

const pare_method pare_method_adam = {
    .name = "adam",
    .slot = "optimizer",
    .paper = "arXiv:1412.6980",
    .summary = "steps by the mean gradient over the root of its mean square",
    .help = "m and v are running means of the gradient and of its square, both corrected for their "
            "start at 0; w -= lr m / (sqrt(v) + eps). Weight decay joins the gradient; see adamw.",
    .example = "adam:lr=1e-3",
    .options_size = sizeof(adam_options),
    .params = adam_params,
    .optim = &adam,
};
