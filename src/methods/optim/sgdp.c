/* SGDP: Heo et al., arXiv:2006.08217: gradient descent with momentum whose step loses its part
 * along the weights where a tensor looks scale invariant (methods/projection.h). Weight decay is
 * decoupled, and divided by 1 - momentum so that it compares with L2.
 *
 * The paper's momentum keeps what is taken out of the step; the authors' code, without nesterov,
 * takes it out of the momentum too: project_momentum. */
#include "methods/projection.h"

typedef struct sgdp_options {
    pare_optim_options o;
    double momentum, dampening, eps, delta, wd_ratio;
    bool nesterov, project_momentum;
} sgdp_options;

static const pare_param sgdp_params[] = {
    PARE_OPTIM_LR(sgdp_options, 0.01),
    PARE_PARAM(sgdp_options, momentum, PARE_PARAM_FLOAT, 0.9, 0, 0.999999,
               "share of the last step's direction that stays"),
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

typedef struct sgdp_job {
    const pare_update *u;
    pare_sgd_rule rule;
    float keep;
    bool project_momentum, is_vector; /* a vector is gone through once */
    pare_projection p;
} sgdp_job;

static void advance(float *out, const pare_update *u, const void *rule, size_t begin, size_t end) {
    const sgdp_job *j = rule;
    u->k->sgd_direction(out, &u->a, &j->rule, true, begin, end);
}

static void apply_rows(void *arg, size_t begin, size_t end) {
    const sgdp_job *j = arg;
    const pare_update *u = j->u;
    float d[PARE_ROW_PIECE];
    for (size_t r = begin; r < end; r++) {
        float c = pare_projection_coefficient(&j->p, r);
        for (size_t i = r * u->cols, stop = i + u->cols, next; i < stop; i = next) {
            next = stop - i < PARE_ROW_PIECE ? stop : i + PARE_ROW_PIECE;
            u->k->sgd_direction(d, &u->a, &j->rule, j->is_vector, i, next);
            u->k->move(&u->a, d, j->keep, j->rule.lr, c, j->project_momentum, i, next);
        }
    }
}

static size_t sgdp_work(const void *options, const pare_update *u) {
    (void)options;
    return pare_projection_work(u);
}

static void sgdp_update(const pare_update *u, const void *options) {
    const sgdp_options *o = options;
    sgdp_job j = {.u = u,
                  .rule = {.lr = (float)u->lr,
                           .momentum = (float)o->momentum,
                           .undamped = (float)(1.0 - o->dampening),
                           .nesterov = o->nesterov},
                  .project_momentum = o->project_momentum && !o->nesterov,
                  .is_vector = u->is_vector};
    if (!u->is_vector) j.p = pare_project(u, advance, &j, o->delta, o->eps);
    double decay = u->decay * (j.p.fired ? o->wd_ratio : 1.0);
    j.keep = (float)(1.0 - u->lr * decay / (1.0 - o->momentum));
    pare_parallel_for(u->rt, u->rows, 1 + PARE_UPDATE_BLOCK / u->cols, apply_rows, &j);
}

static const pare_optim_fns sgdp = {.moments = {"m"}, .work = sgdp_work, .update = sgdp_update};

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
