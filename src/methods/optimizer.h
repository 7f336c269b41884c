/* What an optimizer's file gives, and what it gets: one tensor's step at a time. The driver
 * (optimizer.c) holds state, counters and checks. */
#ifndef PARE_SRC_METHODS_OPTIMIZER_H
#define PARE_SRC_METHODS_OPTIMIZER_H

#include "kernels/update.h"
#include "methods/method.h"
#include "pare/optim.h"

enum { PARE_MAX_MOMENTS = 3 };

/* An optimizer's options begin with these. */
typedef struct pare_optim_options {
    double lr, weight_decay;
} pare_optim_options;

/* Lines of its table; `options` begins with pare_optim_options as member `o`. */
#define PARE_OPTIM_LR(options, def_)                                                               \
    {                                                                                              \
        .name = "lr", .type = PARE_PARAM_FLOAT, .offset = offsetof(options, o.lr), .def = def_,    \
        .min = 0, .max = 1000, .help = "learning rate"                                             \
    }
#define PARE_OPTIM_DECAY(options, def_, help_)                                                     \
    {                                                                                              \
        .name = "weight_decay", .type = PARE_PARAM_FLOAT,                                          \
        .offset = offsetof(options, o.weight_decay), .def = def_, .min = 0, .max = 100,            \
        .help = help_                                                                              \
    }

/* One tensor's step. */
typedef struct pare_update {
    pare_runtime *rt;
    const pare_update_kernels *k;
    pare_update_arrays a; /* m, v: the first two moments */
    float *moment[PARE_MAX_MOMENTS];
    const float *hessian; /* [n]; NULL unless the optimizer needs it in this step */
    size_t n, rows, cols; /* n = rows * cols; of one dimension: one row */
    bool is_vector;       /* one dimension */
    double lr, decay;     /* of this tensor at this step */
    int64_t step;         /* from 1 */
    double *work;         /* as much as `work` asked for, in doubles */
    pare_optim_cuts *cuts;
} pare_update;

struct pare_optim_fns {
    /* Names of the state's arrays, n values each unless moment_size says otherwise; 0: none. */
    const char *moments[PARE_MAX_MOMENTS];
    size_t (*moment_size)(const void *options, const pare_update *u, size_t k);
    /* Doubles of work space; NULL: none. */
    size_t (*work)(const void *options, const pare_update *u);
    void (*update)(const pare_update *u, const void *options);
    bool needs_hessian;
    /* Steps from one estimate of it to the next; NULL: 1. `hessian` is NULL in the steps between.
     */
    int (*hessian_every)(const void *options);
    /* Estimates whose mean it is; NULL: 1. */
    int (*hessian_samples)(const void *options);
};

/* Values that a thread takes at once, and over which sums are made before they are added up in
 * order. A multiple of 64. */
enum { PARE_UPDATE_BLOCK = 1 << 14 };

/* Calls fn for blocks of PARE_UPDATE_BLOCK values on all threads. */
void pare_update_blocks(const pare_update *u, void (*fn)(void *arg, size_t begin, size_t end),
                        void *arg);

/* Element-wise rules on all of a tensor. */
void pare_update_sgd(const pare_update *u, const pare_sgd_rule *r);
void pare_update_adam(const pare_update *u, const pare_adam_rule *r);

/* The rule of Adam at a step; decoupled: decay shrinks the weights, else it joins the gradient. */
pare_adam_rule pare_adam_rule_of(const pare_update *u, double beta1, double beta2, double eps,
                                 bool decoupled);

/* 1 - beta^t, the correction of a moment's bias. */
double pare_bias_correction(double beta, int64_t t);

/* Of files that go over the values themselves: gradient as it counts, and the new weight stored. */
static inline bool pare_update_kept(const pare_update_arrays *a, size_t i) {
    return !a->mask || (a->mask[i / 64] >> i % 64 & 1);
}
static inline float pare_update_gradient(const pare_update_arrays *a, size_t i) {
    return a->mask_gradient && !pare_update_kept(a, i) ? 0.0f : a->g[i] * a->g_scale;
}
void pare_update_put(const pare_update_arrays *a, size_t i, float w);

/* Ones of a mask among values [begin, end); NULL: all. */
size_t pare_update_n_kept(const uint64_t *mask, size_t begin, size_t end);

/* Sum of parts[n] in order. */
double pare_update_sum(const double *parts, size_t n);

#endif
