/* One forward and backward pass over a batch of token sequences: the loss, and its gradient added
 * to the arrays of the weights. All memory is planned before the first. */
#ifndef PARE_SRC_TRAIN_STEP_H
#define PARE_SRC_TRAIN_STEP_H

#include "train/weights.h"

typedef struct pare_step_options {
    size_t n_tokens, n_spans; /* most tokens and sequences of a pass */
    pare_compute compute;     /* exact: f32; fast: bf16 where the level multiplies it, and inputs of
                                 linear layers kept in bf16 */
    bool recompute;           /* keep the input of each layer only and compute the layer again */
    const pare_model *teacher; /* borrowed, or NULL: its distributions are the targets of gradients
                                  (autograd/tape.h, pare_teacher); computed in `fast` */
    float temperature, hard;
    /* Called behind each layer by every thread, all together (also in a plan, see autograd/ops.h):
     * h[n][dim] is its output. What it puts on the tape (f->tape, NULL without a gradient) runs
     * before the layer's backward half, and may add to the shadow of h. NULL: none. */
    void (*on_output)(void *arg, pare_fwd *f, size_t layer, float *h, size_t n);
    void *on_output_arg;
    pare_probe_fn probe; /* of the inputs of the student's layers' matrices, also in a plan; NULL:
                            none */
    void *probe_arg;
} pare_step_options;

typedef struct pare_step pare_step;

/* weights: borrowed; sequences stand behind their model's prefix, if it has one, of which the
 * gradient is found where its keys and values are weights. Errors: PARE_ERR_NOMEM, PARE_ERR_ARG
 * (nothing to compute; a teacher of another vocabulary). */
pare_status pare_step_create(pare_step **out, pare_train_weights *weights,
                             const pare_step_options *o, pare_error *err);
void pare_step_free(pare_step *s);
/* From now on fn(arg, layer) is called when the backward pass is through with a layer, the last
 * layer first: the gradients of its weights are complete. By the thread that calls pare_step_run.
 * fn NULL: no more. */
void pare_step_on_layer(pare_step *s, void (*fn)(void *arg, size_t layer), void *arg);
/* Bytes of memory that it holds, weights not counted. */
size_t pare_step_bytes(const pare_step *s);

/* A batch: sequences one after the other, each attends to itself only. */
typedef struct pare_batch {
    const int32_t *ids, *targets; /* [n_tokens], checked; target -1: does not count */
    const size_t *lengths;        /* [n_spans] tokens of each sequence, all > 0 */
    size_t n_tokens, n_spans;
} pare_batch;

/* *nll = sum of -log p(target) over the targets that count; with a gradient and a teacher the sum
 * of that loss. With a gradient, scale times its gradient is added to the weights' (overwritten
 * where fresh). Errors: PARE_ERR_ARG (more than was planned, or a longer prefix). */
pare_status pare_step_run(pare_step *s, const pare_batch *b, bool gradient, float scale,
                          double *nll, pare_error *err);

#endif
