/* AdaHessian: Yao et al., arXiv:2006.00719: Adam whose second moment is that of the Hessian's
 * diagonal, estimated by the caller as D = z (.) H z with one vector z of random signs.
 *
 * As the authors' code has it, |D| is taken before the mean over neighbours, which so is biased
 * upward; the power comes before eps; decay is decoupled and taken at the old weights. Blocks of
 * neighbours lie within a row: the largest common divisor of `block` and the row. Vectors are not
 * averaged. */
#include "methods/optimizer.h"

#include <math.h>

typedef struct adahessian_options {
    pare_optim_options o;
    double beta1, beta2, eps, power;
    int block;
} adahessian_options;

static const pare_param adahessian_params[] = {
    PARE_OPTIM_LR(adahessian_options, 0.15),
    PARE_PARAM(adahessian_options, beta1, PARE_PARAM_FLOAT, 0.9, 0, 0.999999,
               "decay of the mean of gradients"),
    PARE_PARAM(adahessian_options, beta2, PARE_PARAM_FLOAT, 0.999, 0, 0.999999,
               "decay of the mean of the diagonal's squares"),
    PARE_PARAM(adahessian_options, eps, PARE_PARAM_FLOAT, 1e-4, 0, 1,
               "added to the power of the root; of a mean loss"),
    PARE_PARAM(adahessian_options, power, PARE_PARAM_FLOAT, 1, 0, 1,
               "0: gradient descent with momentum, 1: a diagonal Newton step"),
    PARE_PARAM(adahessian_options, block, PARE_PARAM_INT, 32, 1, 4096,
               "neighbours in a row whose |D| is averaged"),
    PARE_OPTIM_DECAY(adahessian_options, 0,
                     "share of the weights, times lr, that a step takes off"),
    {0},
};

typedef struct adahessian_job {
    const pare_update *u;
    const adahessian_options *o;
    size_t block;
    float rate, decay; /* lr over the correction of m; lr * weight_decay */
    float root2;       /* of the correction of the second moment */
} adahessian_job;

static size_t common_divisor(size_t a, size_t b) {
    while (b) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static float curvature(const pare_update *u, size_t i) {
    return u->a.mask_gradient && !pare_update_kept(&u->a, i) ? 0.0f : fabsf(u->hessian[i]);
}

static void update_blocks(void *arg, size_t begin, size_t end) {
    const adahessian_job *j = arg;
    const adahessian_options *o = j->o;
    const pare_update *u = j->u;
    const float beta1 = (float)o->beta1, rest1 = (float)(1.0 - o->beta1), beta2 = (float)o->beta2,
                rest2 = (float)(1.0 - o->beta2), eps = (float)o->eps, power = (float)o->power;
    for (size_t b = begin; b < end; b++) {
        size_t first = b * j->block;
        float mean = 0;
        for (size_t i = first; i < first + j->block; i++) mean += curvature(u, i);
        mean /= (float)j->block;
        for (size_t i = first; i < first + j->block; i++) {
            float m = beta1 * u->a.m[i] + rest1 * pare_update_gradient(&u->a, i);
            float v = beta2 * u->a.v[i] + rest2 * mean * mean;
            u->a.m[i] = m;
            u->a.v[i] = v;
            float root = sqrtf(v) / j->root2, divisor = power == 1.0f ? root : powf(root, power);
            float w = u->a.w[i] - j->decay * u->a.w[i], d = divisor + eps;
            pare_update_put(&u->a, i, d > 0.0f ? w - j->rate * (m / d) : w);
        }
    }
}

static void adahessian_update(const pare_update *u, const void *options) {
    const adahessian_options *o = options;
    adahessian_job j = {
        .u = u,
        .o = o,
        .block = u->is_vector ? 1 : common_divisor((size_t)o->block, u->cols),
        .rate = (float)(u->lr / pare_bias_correction(o->beta1, u->step)),
        .decay = (float)(u->lr * u->decay),
        .root2 = (float)sqrt(pare_bias_correction(o->beta2, u->step)),
    };
    size_t n_blocks = u->n / j.block;
    pare_parallel_for(u->rt, n_blocks, 1 + PARE_UPDATE_BLOCK / j.block, update_blocks, &j);
}

static const pare_optim_fns adahessian = {
    .moments = {"m", "v"}, .update = adahessian_update, .needs_hessian = true};

const pare_method pare_method_adahessian = {
    .name = "adahessian",
    .slot = "optimizer",
    .paper = "arXiv:2006.00719",
    .summary = "Adam with the Hessian's diagonal in place of the gradient's squares",
    .help = "m is the running mean of gradients, h that of the squares of the Hessian's diagonal, "
            "estimated in each step by a second pass with a vector of random signs and averaged "
            "over neighbours: w -= lr (m / (sqrt(h)^power + eps) + weight_decay w). A step costs "
            "about two gradients; lr is 5 to 300 times that of adam.",
    .example = "adahessian:lr=0.15,block=32",
    .options_size = sizeof(adahessian_options),
    .params = adahessian_params,
    .optim = &adahessian,
};
