/* The gradient of a step from its parts: the micro-batches of this rank, one after the other, and
 * the ranks.
 *
 * Micro-batch j of a step belongs to rank j % ranks. As a rule each rank adds up its own (the
 * backward pass does) and the sums are added over the ranks: a layer's as soon as the last backward
 * pass is through with it. In order, every micro-batch's gradient is added to a total, element by
 * element in the order of the micro-batches: then the bits do not depend on the number of ranks. A
 * rank adds up its share of the elements and gathers the others at the end, so as many bytes are
 * sent as by a sum. */
#ifndef PARE_SRC_TRAIN_GRADIENTS_H
#define PARE_SRC_TRAIN_GRADIENTS_H

#include "base/group.h"

typedef struct pare_gradient {
    float *g;
    size_t n;
    size_t layer; /* SIZE_MAX: in none */
    pare_group_request request;
    bool started;
} pare_gradient;

typedef struct pare_gradients {
    pare_gradient *of; /* [n], owned */
    size_t n;
    bool in_order;
    float *total;         /* [sum of n]: what is complete so far; NULL: one micro-batch a rank */
    float *parts;         /* what the ranks have of this one's share */
    size_t n_total, done; /* done: micro-batches of this rank */
} pare_gradients;

/* Room for n arrays, which the caller names in of[]. Errors: PARE_ERR_NOMEM. */
pare_status pare_gradients_create(pare_gradients *s, size_t n, pare_error *err);
/* When they are named. n_micro: micro-batches of a step on this rank. */
pare_status pare_gradients_plan(pare_gradients *s, bool in_order, size_t n_micro, pare_error *err);
void pare_gradients_free(pare_gradients *s);

/* A layer's gradients of this rank are complete (pare_step_on_layer): their sum begins. */
void pare_gradients_layer_done(void *gradients, size_t layer);
/* In order: the gradients of a micro-batch, fresh. */
void pare_gradients_add(pare_gradients *s);
/* After the last micro-batch: g[] are the step's, the same on all ranks. */
void pare_gradients_finish(pare_gradients *s);

#endif
