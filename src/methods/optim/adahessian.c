/* AdaHessian: Yao et al., arXiv:2006.00719: Adam whose second moment is that of the Hessian's
 * diagonal, estimated by the caller as D = z (.) H z with a vector z of random signs, or the mean
 * of n_samples of them (before |D| is taken).
 *
 * As the authors' code has it, |D| is taken before the mean over neighbours, which so is biased
 * upward; the power comes before eps; decay is decoupled and taken at the old weights. Blocks of
 * neighbours lie within a row: the largest common divisor of `block` and the row. Vectors are not
 * averaged. Of masked tensors the means are those of the weights that are kept: the others have no
 * curvature, and would make steps longer.
 *
 * Ours: near saddle points curvature is small and steps are large, so a tensor's step is scaled
 * down to a root mean square of `clip`; and with update_each the moment takes an estimate up only
 * where there is a new one, as in Sophia (arXiv:2305.14342), in place of keeping the last. */
#include "methods/optimizer.h"

#include <math.h>

typedef struct adahessian_options {
    pare_optim_options o;
    double beta1, beta2, eps, power, clip;
    int block, update_each, n_samples;
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
    PARE_PARAM(adahessian_options, clip, PARE_PARAM_FLOAT, 1, 0, 1e6,
               "largest root mean square of a tensor's step, times lr; 0: any"),
    PARE_PARAM(adahessian_options, update_each, PARE_PARAM_INT, 1, 1, 1000,
               "steps from one estimate of the diagonal to the next"),
    PARE_PARAM(adahessian_options, n_samples, PARE_PARAM_INT, 1, 1, 64,
               "vectors of signs of an estimate, whose mean it is: two gradients each"),
    PARE_OPTIM_DECAY(adahessian_options, 0,
                     "share of the weights, times lr, that a step takes off"),
    {0},
};

typedef struct adahessian_job {
    const pare_update *u;
    const adahessian_options *o;
    size_t block, per_chunk;
    float rate, decay; /* lr over the correction of m; lr * weight_decay */
    float root2;       /* of the correction of the second moment */
    double *sums;      /* [chunks] of the squares of m over its divisor */
} adahessian_job;

static size_t common_divisor(size_t a, size_t b) {
    while (b) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The mean |D| of the weights [begin, end) that are kept. */
static float curvature(const pare_update *u, size_t begin, size_t end) {
    float sum = 0;
    size_t n = pare_update_n_kept(u->a.mask, begin, end);
    for (size_t i = begin; i < end; i++)
        if (pare_update_kept(&u->a, i)) sum += fabsf(u->hessian[i]);
    return n ? sum / (float)n : 0.0f;
}

/* Numbers of a step that every weight needs. */
typedef struct divisor {
    float root2, power, eps;
} divisor;

static float direction(float m, float v, divisor by) {
    float root = sqrtf(v) / by.root2;
    float d = (by.power == 1.0f ? root : powf(root, by.power)) + by.eps;
    return d > 0.0f ? m / d : 0.0f;
}

static divisor divisor_of(const adahessian_job *j) {
    return (divisor){j->root2, (float)j->o->power, (float)j->o->eps};
}

/* Moments of a block; its sum of squares. */
static double advance_block(const adahessian_job *j, size_t begin, size_t end) {
    const adahessian_options *o = j->o;
    const pare_update *u = j->u;
    const float beta1 = (float)o->beta1, rest1 = (float)(1.0 - o->beta1), beta2 = (float)o->beta2,
                rest2 = (float)(1.0 - o->beta2);
    const pare_update_arrays a = u->a;
    const divisor by = divisor_of(j);
    const bool fresh = u->hessian != NULL;
    float mean = fresh ? curvature(u, begin, end) : 0.0f;
    double sum = 0;
    for (size_t i = begin; i < end; i++) {
        float m = beta1 * a.m[i] + rest1 * pare_update_gradient(&a, i), v = a.v[i];
        if (fresh) v = beta2 * v + rest2 * mean * mean;
        a.m[i] = m;
        a.v[i] = v;
        double d = (double)direction(m, v, by);
        if (pare_update_kept(&a, i)) sum += d * d;
    }
    return sum;
}

static void advance_chunks(void *arg, size_t begin, size_t end) {
    const adahessian_job *j = arg;
    size_t n_blocks = j->u->n / j->block;
    for (size_t c = begin; c < end; c++) {
        size_t first = c * j->per_chunk, last = first + j->per_chunk;
        j->sums[c] = 0;
        for (size_t b = first; b < last && b < n_blocks; b++)
            j->sums[c] += advance_block(j, b * j->block, (b + 1) * j->block);
    }
}

static void move_block(void *arg, size_t begin, size_t end) {
    const adahessian_job *j = arg;
    const pare_update_arrays a = j->u->a;
    const divisor by = divisor_of(j);
    const float decay = j->decay, rate = j->rate;
    for (size_t i = begin; i < end; i++)
        pare_update_put(&a, i, a.w[i] - decay * a.w[i] - rate * direction(a.m[i], a.v[i], by));
}

static size_t block_of(const adahessian_options *o, const pare_update *u) {
    return u->is_vector ? 1 : common_divisor((size_t)o->block, u->cols);
}

static size_t n_chunks(size_t block, const pare_update *u, size_t *per_chunk) {
    *per_chunk = 1 + (PARE_UPDATE_BLOCK - 1) / block;
    return (u->n / block + *per_chunk - 1) / *per_chunk;
}

static size_t adahessian_work(const void *options, const pare_update *u) {
    size_t per_chunk;
    return n_chunks(block_of(options, u), u, &per_chunk);
}

static void adahessian_update(const pare_update *u, const void *options) {
    const adahessian_options *o = options;
    int64_t estimates = (u->step - 1) / o->update_each + 1;
    double bias1 = pare_bias_correction(o->beta1, u->step);
    adahessian_job j = {
        .u = u,
        .o = o,
        .block = block_of(o, u),
        .decay = (float)(u->lr * u->decay),
        .root2 = (float)sqrt(pare_bias_correction(o->beta2, estimates)),
        .sums = u->work,
    };
    size_t chunks = n_chunks(j.block, u, &j.per_chunk);
    pare_parallel_for(u->rt, chunks, 1, advance_chunks, &j);
    double kept = (double)pare_update_n_kept(u->a.mask, 0, u->n), shorter = 1;
    double size = sqrt(pare_update_sum(j.sums, chunks) / fmax(kept, 1)) / bias1;
    if (o->clip > 0) shorter = fmax(1, size / o->clip); /* of NaN 1 */
    j.rate = (float)(u->lr / bias1 / shorter);
    pare_update_blocks(u, move_block, &j);
}

static int adahessian_every(const void *options) {
    return ((const adahessian_options *)options)->update_each;
}

static int adahessian_samples(const void *options) {
    return ((const adahessian_options *)options)->n_samples;
}

static const pare_optim_fns adahessian = {.moments = {"m", "v"},
                                          .work = adahessian_work,
                                          .update = adahessian_update,
                                          .needs_hessian = true,
                                          .hessian_every = adahessian_every,
                                          .hessian_samples = adahessian_samples};

const pare_method pare_method_adahessian = {
    .name = "adahessian",
    .slot = "optimizer",
    .paper = "arXiv:2006.00719",
    .summary = "Adam with the Hessian's diagonal in place of the gradient's squares",
    .help = "m is the running mean of gradients, h that of the squares of the Hessian's diagonal, "
            "estimated with a vector of random signs and averaged over neighbours: w -= lr (m / "
            "(sqrt(h)^power + eps) + weight_decay w), a tensor's step cut to a root mean square of "
            "`clip`. An estimate costs two gradients more than the step's own; update_each=5 to 10 "
            "makes it rarer, n_samples=4 takes four of them and halves its spread. lr is 5 to 300 "
            "times that of adam.",
    .example = "adahessian:lr=0.15,block=32",
    .options_size = sizeof(adahessian_options),
    .params = adahessian_params,
    .optim = &adahessian,
};
