/* Optimizers, for training loops of pare's and of anyone's: what is trained are the caller's
 * arrays.
 *
 *     pare_trained t = {.name = "w", .dims = {10, 784}, .n_dims = 2, .w = w};
 *     pare_optim *optim = NULL;
 *     if (pare_optim_create(&optim, rt, "adamw:lr=1e-3,beta2=0.95", &t, 1, &err) != PARE_OK) ...
 *     for (int step = 0; step < 1000; step++) {
 *         float *g = gradient_of_the_loss(w);
 *         pare_optim_args args = pare_optim_args_default();
 *         args.g = &g;
 *         if (pare_optim_step(optim, &args, &err) != PARE_OK) ...
 *     }
 *     pare_optim_free(optim);
 *
 * A step is one pass over a tensor's weights, gradient, state and mask. Sums run over blocks of
 * fixed size: the bits do not depend on the number of threads. `pare methods --slot optimizer`
 * lists the names; parameters as in a recipe. */
#ifndef PARE_OPTIM_H
#define PARE_OPTIM_H

#include "pare/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a tensor is to a model. */
typedef enum pare_role {
    PARE_ROLE_LINEAR = 0, /* a matrix that inputs are multiplied with: sparse training prunes it */
    PARE_ROLE_EMBEDDING,  /* a table of rows; tied to the output it is still one tensor */
    PARE_ROLE_OTHER       /* norms, biases: never pruned */
} pare_role;

/* A tensor that is trained. Arrays are the caller's, row-major, outputs first; they are borrowed as
 * long as what was made with them lives, and do not overlap. */
enum { PARE_TRAINED_MAX_DIMS = 4 };
typedef struct pare_trained {
    const char *name;                           /* unique; for messages and the names of states */
    size_t dims[PARE_TRAINED_MAX_DIMS], n_dims; /* 1 to 4 dimensions, none 0; n = their product */
    float *w;                                   /* [n] */
    uint16_t *w_bf16; /* [n] a copy in bf16, rounded to nearest even, written whenever w changes;
                         or NULL */
    float *w_forward; /* [n] where a straight-through sparse training puts the weights of the
                         forward pass (pare/sparsity.h); or NULL */
    pare_role role;
    double lr_factor;  /* of the learning rate; 0 is read as 1 */
    bool no_decay;     /* no weight decay */
    bool has_sparsity; /* sparse training: `sparsity` is the tensor's own, in place of its share */
    double sparsity;   /* [0, 1] */
} pare_trained;

typedef struct pare_optim pare_optim;

/* Makes an optimizer for n tensors; its state begins with zeros. The array of tensors is copied,
 * names and arrays are borrowed. Errors: PARE_ERR_ARG (unknown name or parameter, a tensor that
 * does not fit), PARE_ERR_NOMEM. */
pare_status pare_optim_create(pare_optim **out, pare_runtime *rt, const char *spec,
                              const pare_trained *tensors, size_t n, pare_error *err);
void pare_optim_free(pare_optim *o);

/* Canonical text: name and parameters that differ from their defaults. Owned by the optimizer. */
const char *pare_optim_text(const pare_optim *o);
/* The learning rate of its parameters. */
double pare_optim_lr(const pare_optim *o);
/* Does the next step need an estimate of the Hessian's diagonal? The first does of all optimizers
 * that ever do. */
bool pare_optim_needs_hessian(const pare_optim *o);

/* How many estimates, each with signs of its own, its parameters want the mean of. */
int pare_optim_hessian_samples(const pare_optim *o);

/* What a step is made of; begin with pare_optim_args_default(). */
typedef struct pare_optim_args {
    float *const *g; /* [n tensors] gradients [n]; NULL: that tensor takes no step (its mask counts
                        all the same). Not changed, except by sparse training around an optimizer
                        of the caller's */
    const float *const *hessian; /* [n tensors] as g, of optimizers that need it: z (.) H z with z
                                    of random signs, or the mean of several; the sign does
                                    not matter. Else NULL */
    const uint64_t *const *mask; /* [n tensors] bits, value i in bit i % 64 of word i / 64: weights
                                    of bit 0 are +0 after the step; NULL (one or all): dense */
    bool mask_gradient;          /* gradients of weights of bit 0 count as 0 */
    double g_scale;              /* all gradients are multiplied by it (clipping, averaging); 1 */
    double lr;                   /* learning rate of this step; NAN: that of the parameters */
} pare_optim_args;
pare_optim_args pare_optim_args_default(void);

/* One step; the step counter advances. Errors: PARE_ERR_ARG (no gradients, no Hessian, numbers that
 * are not finite), and then nothing has changed. */
pare_status pare_optim_step(pare_optim *o, const pare_optim_args *args, pare_error *err);

/* Steps done: corrections of bias follow it. A training that goes on sets it. */
int64_t pare_optim_count(const pare_optim *o);
void pare_optim_set_count(pare_optim *o, int64_t count);

/* How often a tensor's step lost its part along the weights (adamp, sgdp), since the optimizer was
 * made: in n_rows of its n_steps row by row, in n_whole as a whole. A single row does so by chance
 * in about one of twelve steps. Zeros of vectors and of other optimizers. */
typedef struct pare_optim_cuts {
    uint64_t n_steps, n_rows, n_whole;
} pare_optim_cuts;
pare_optim_cuts pare_optim_cut_steps(const pare_optim *o, size_t tensor);

/* The arrays of its state, by number: false past the last. Reading and writing them is legal
 * between steps; for a checkpoint save all of them and the count. */
typedef struct pare_optim_array {
    const char *name; /* "TENSOR.MOMENT", such as "blk.0.attn_q.weight.m"; owned by the optimizer */
    const char *moment; /* "m", "v", ... */
    size_t tensor;      /* number of its tensor */
    float *data;        /* [n] */
    size_t n;           /* as many as weights: one each, in the same order; else sums over rows or
                           columns */
} pare_optim_array;
bool pare_optim_array_at(const pare_optim *o, size_t i, pare_optim_array *out);

#ifdef __cplusplus
}
#endif
#endif
