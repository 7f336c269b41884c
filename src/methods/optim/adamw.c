/* AdamW: Loshchilov, Hutter, arXiv:1711.05101. The weights shrink by 1 - lr * weight_decay before
 * the step of Adam (adam.c). */
#include "methods/optimizer.h"

typedef struct adamw_options {
    pare_optim_options o;
    double beta1, beta2, eps;
} adamw_options;

static const pare_param adamw_params[] = {
    PARE_OPTIM_LR(adamw_options, 0.001),
    PARE_PARAM(adamw_options, beta1, PARE_PARAM_FLOAT, 0.9, 0, 0.999999,
               "decay of the mean of gradients"),
    PARE_PARAM(adamw_options, beta2, PARE_PARAM_FLOAT, 0.999, 0, 0.999999,
               "decay of the mean of their squares"),
    PARE_PARAM(adamw_options, eps, PARE_PARAM_FLOAT, 1e-8, 0, 1, "added to the root of the second"),
    PARE_OPTIM_DECAY(adamw_options, 0.01,
                     "share of the weights, times lr, that each step takes off"),
    {0},
};

static void adamw_update(const pare_update *u, const void *options) {
    const adamw_options *o = options;
    pare_adam_rule r = pare_adam_rule_of(u, o->beta1, o->beta2, o->eps, true);
    pare_update_adam(u, &r);
}

static const pare_optim_fns adamw = {.moments = {"m", "v"}, .update = adamw_update};

const pare_method pare_method_adamw = {
    .name = "adamw",
    .slot = "optimizer",
    .paper = "arXiv:1711.05101",
    .summary = "Adam with weight decay apart from the gradient",
    .help =
        "As adam, but weight decay shrinks the weights by 1 - lr weight_decay and stays out of the "
        "gradient and its moments. What language models are trained with.",
    .example = "adamw:lr=1e-3,beta2=0.95,weight_decay=0.1",
    .options_size = sizeof(adamw_options),
    .params = adamw_params,
    .optim = &adamw,
};
