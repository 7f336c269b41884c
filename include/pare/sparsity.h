/* Sparse training: a pruner around an optimizer, pare's or the caller's, in any training loop.
 *
 *     pare_pruner *pruner = NULL;
 *     const char *spec = "rigl:sparsity=0.8,dist=erk,until=7500";
 *     if (pare_pruner_create(&pruner, rt, spec, tensors, n, 10000, &err) != PARE_OK) ...
 *     pare_stepper step = pare_optim_stepper(optim); // or functions of your own
 *     pare_optim_args args = pare_optim_args_default();
 *     for (int t = 0; t < 10000; t++) {
 *         if (pare_pruner_pre_forward(pruner, &err) != PARE_OK) ...
 *         args.g = gradients_of_the_loss();
 *         if (pare_pruner_update(pruner, &step, &args, &err) != PARE_OK) ...
 *     }
 *     pare_pruner_free(pruner);
 *
 * As in JaxPruner (arXiv:2304.14082) the weights stay dense arrays with zeros where they are
 * pruned; masks, the step counter and the tensors' sparsities are the pruner's state. Results do
 * not depend on the number of threads. `pare methods --slot sparse_training` lists the algorithms.
 */
#ifndef PARE_SPARSITY_H
#define PARE_SPARSITY_H

#include "pare/methods.h"
#include "pare/optim.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_pruner pare_pruner;

/* Makes a pruner; n_steps: length of the training, from which `from` and `until` have their
 * defaults (0: unknown, then both must be given). Linear layers of two dimensions or more are
 * pruned, embeddings with embeddings=true, and whatever has a sparsity of its own. Random numbers
 * are keyed by the runtime's seed. The array of tensors is copied, names and arrays are borrowed.
 * Weights do not change yet. Errors: PARE_ERR_ARG (unknown name or parameter, parameters or shapes
 * that do not fit, a straight-through pruner without a place for the forward pass's weights),
 * PARE_ERR_NOMEM. */
pare_status pare_pruner_create(pare_pruner **out, pare_runtime *rt, const char *spec,
                               const pare_trained *tensors, size_t n, int64_t n_steps,
                               pare_error *err);
void pare_pruner_free(pare_pruner *p);

/* Canonical text: name and parameters that differ from their defaults. Owned by the pruner. */
const char *pare_pruner_text(const pare_pruner *p);

/* A score of the caller's in place of the algorithm's, which must have one: what scores lowest is
 * pruned (magnitude, random, saliency, their global and straight-through forms, acdc, adam_fisher,
 * iterative_nm), what scores highest comes (set, rigl: in place of chance and of |g|). fn writes
 * score[n] of tensor number `tensor`; g is its gradient at this step or NULL; what else it wants,
 * such as an optimizer's moments (pare_optim_array_at), lies in `arg`. Called on the thread that
 * called the library. fn NULL: the algorithm's own again. Errors: PARE_ERR_ARG (an algorithm
 * without scores). */
typedef void (*pare_score_callback)(void *arg, size_t tensor, float *score, const float *w,
                                    const float *g, size_t n);
pare_status pare_pruner_set_score(pare_pruner *p, pare_score_callback fn, void *arg,
                                  pare_error *err);

/* A selection of the caller's in place of type and N:M: from scores[n] of a tensor and the sparsity
 * of this step, above 0, to its mask (bits as pare_pruner_mask has them, all 0 on entry). Called as
 * a score is. fn NULL: the pruner's own again. Errors: PARE_ERR_ARG (an algorithm that does not
 * select tensor by tensor: global, set, rigl, iterative_nm, masks of the start). */
typedef void (*pare_top_k_callback)(void *arg, size_t tensor, uint64_t *mask, const float *score,
                                    double sparsity, size_t n);
pare_status pare_pruner_set_top_k(pare_pruner *p, pare_top_k_callback fn, void *arg,
                                  pare_error *err);

/* --- in the loop --- */

/* Before every forward pass, evaluation too. At the start masks that exist already are applied to
 * the weights (mask_at_init=false leaves that to the first update, as JaxPruner does). A
 * straight-through pruner writes the masked weights to each tensor's w_forward and w_bf16, as far
 * as they are given, and leaves w dense. Errors: PARE_ERR_NOMEM. */
pare_status pare_pruner_pre_forward(pare_pruner *p, pare_error *err);
/* Does the forward pass use w_forward or w_bf16 in place of w? */
bool pare_pruner_is_straight_through(const pare_pruner *p);

/* The optimizer that a pruner is put around. */
typedef struct pare_stepper {
    void *arg;
    /* Changes the weights in place by args->g, args->g_scale, args->lr. Without takes_masks copies
     * in bf16 of tensors that are pruned are the pruner's to write, others its own. */
    pare_status (*step)(void *arg, const pare_optim_args *args, pare_error *err);
    /* Arrays of its state, as pare_optim_array_at: those with a value for each weight are zeroed
     * where weights are activated (set, rigl). NULL: it has none. */
    bool (*array_at)(void *arg, size_t i, pare_optim_array *out);
    /* `step` takes args->mask and mask_gradient into account; else the pruner masks gradients
     * before (it writes to them) and weights after. */
    bool takes_masks;
} pare_stepper;
pare_stepper pare_optim_stepper(pare_optim *o);

/* One step: on steps of the schedule new masks from the weights and gradients as they are before
 * the optimizer's step; then the optimizer (unless masks were updated and skip_gradients is set: it
 * stands still then); the counter; pruned weights become 0. args->mask and mask_gradient are the
 * pruner's to set. Scores that are NaN count as the lowest and are told by a warning. Errors:
 * PARE_ERR_ARG (an algorithm lacks gradients or a second moment), PARE_ERR_NOMEM, those of the
 * optimizer. */
pare_status pare_pruner_update(pare_pruner *p, const pare_stepper *s, const pare_optim_args *args,
                               pare_error *err);
/* Pruned weights become 0 (a straight-through pruner leaves all); pare_pruner_update ends with it.
 */
void pare_pruner_post_gradient(pare_pruner *p);

/* Will the next update change masks? */
bool pare_pruner_is_update_step(const pare_pruner *p);
/* Does the next update look at gradients of weights that are pruned? If not they may be left
 * uncomputed, as any finite numbers. */
bool pare_pruner_needs_dense_gradient(const pare_pruner *p);

/* Prunes at once to the full sparsity. g: gradients, of algorithms that need them, else NULL.
 * Errors: PARE_ERR_ARG (no gradients; an algorithm that cannot: static_sparse, set, rigl). */
pare_status pare_pruner_instant_sparsify(pare_pruner *p, float *const *g, pare_error *err);

/* --- state --- */

/* Updates done. */
int64_t pare_pruner_count(const pare_pruner *p);
/* The sparsity that tensor i is to have in the end; NAN: it is not pruned. */
double pare_pruner_target(const pare_pruner *p, size_t i);
/* Bits of tensor i: value k in bit k % 64 of word k / 64, 1 = kept; NULL: it is not pruned. Of a
 * straight-through pruner those of the last forward pass. Owned by the pruner. */
const uint64_t *pare_pruner_mask(const pare_pruner *p, size_t i);
/* The bits outside of which the weights of the next forward pass are 0, after
 * pare_pruner_pre_forward; NULL: not known to be (not pruned, or masks of the start that are not
 * applied yet). Owned by the pruner. */
const uint64_t *pare_pruner_forward_mask(const pare_pruner *p, size_t i);
/* pare_pruner_mask as numpy.packbits has it: the first value in the highest bit. out [(n + 7) / 8]
 * bytes; all ones where the tensor is not pruned. */
void pare_pruner_packed_mask(const pare_pruner *p, size_t i, uint8_t *out);

/* Everything that a training needs to go on with the same bits, besides weights and the optimizer's
 * state. out [pare_pruner_state_bytes()]. Loading checks all of it; errors: PARE_ERR_INPUT (not a
 * state, or one of other tensors), and then nothing has changed. */
size_t pare_pruner_state_bytes(const pare_pruner *p);
void pare_pruner_save(const pare_pruner *p, void *out);
pare_status pare_pruner_load(pare_pruner *p, const void *state, size_t n_bytes, pare_error *err);

/* --- without a pruner --- */

typedef struct pare_sparsity_stats {
    uint64_t n, n_nonzero;
    double sparsity; /* share of exact zeros */
} pare_sparsity_stats;
/* Of each tensor (each[n], or NULL) and of all together. */
void pare_sparsity_summary(pare_sparsity_stats *total, pare_sparsity_stats *each,
                           const pare_trained *tensors, size_t n);

/* Which share of a's ones are ones of b too; masks of n bits. 0 where a has none. */
double pare_mask_intersection(const uint64_t *a, const uint64_t *b, size_t n);

/* Activation sparsity: keeps the largest values (signed) of y[rows][cols] and zeroes the others in
 * place: N:M along rows, or a share of all values, tiles or channels of y. type NULL: single
 * values. mask: bits of what was kept, [(rows * cols + 63) / 64], or NULL. Errors: PARE_ERR_ARG,
 * PARE_ERR_NOMEM. */
pare_status pare_sparsify_activations(pare_runtime *rt, float *y, uint64_t *mask, size_t rows,
                                      size_t cols, const pare_sparsity *sparsity,
                                      const pare_structure *type, pare_error *err);

/* x[n] becomes +0 where a bit is 0: with the mask of activations and the gradient of what they
 * became, their backward pass, the selection counting as fixed. */
void pare_mask_values(pare_runtime *rt, float *x, const uint64_t *mask, size_t n);

#ifdef __cplusplus
}
#endif
#endif
