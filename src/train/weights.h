/* A model whose weights are trained: f32 masters and gradients of all tensors, and the model built
 * on them (or on copies in bf16, where the processor multiplies those).
 *
 * The model's file may hold any encoding: what is read is decoded. A layer is read and decoded at a
 * time. */
#ifndef PARE_SRC_TRAIN_WEIGHTS_H
#define PARE_SRC_TRAIN_WEIGHTS_H

#include "autograd/tape.h"
#include "model/lora.h"
#include "model/model.h"
#include "tensor/live.h"

typedef struct pare_train_tensor {
    const char *name;  /* canonical, "blk.0.attn_q.weight" (owned by the model's source); of an
                          adapter "blk.0.attn_q.lora_a" (owned by these weights) */
    size_t rows, cols; /* a vector has rows 1 */
    bool matrix;       /* else a norm or a bias */
    bool linear;       /* a matrix that tokens are multiplied with and not looked up in */
    bool frozen;       /* no gradient */
    bool fresh;        /* grad holds nothing yet: counts as zero */
    float *w, *grad;   /* [rows][cols]; grad NULL: frozen */
    uint16_t *half;    /* bf16 copy that the model multiplies, or NULL */
    float *forward;    /* f32 copy that it multiplies (pare_train_weights_split), or NULL */
    pare_live *live; /* what a mask leaves of it (pare_train_weights_mask); owned; NULL: none yet */
    const uint64_t *kept; /* bits of the gradient that counts, or NULL: all of it */
} pare_train_tensor;

typedef struct pare_train_weights {
    pare_model *model;          /* owned */
    pare_train_tensor *tensors; /* [n], in the order of the file */
    size_t n;
    pare_leaf *leaves; /* [n_leaves], for tapes */
    size_t n_leaves;
    char *names;               /* of adapters */
    uint8_t *memory, *forward; /* forward: of all copies */
    size_t bytes, forward_bytes;
} pare_train_weights;

/* Opens a model for training. fast: products in bf16 where the level has them. Errors: those of
 * pare_model_open, PARE_ERR_NOMEM. */
pare_status pare_train_weights_open(pare_train_weights **out, pare_runtime *rt, const char *path,
                                    bool fast, pare_error *err);
/* The same where only a low-rank adapter is trained (model/lora.h): the tensors are its matrices,
 * and the model stays in its encodings. Errors: those of pare_model_load and pare_lora_create. */
pare_status pare_train_weights_open_lora(pare_train_weights **out, pare_runtime *rt,
                                         const char *path, const pare_lora_options *lora,
                                         pare_error *err);
/* The same where only the keys and values of the model's prefix are trained (model/prefix.h): the
 * tensors are layers.#.k and layers.#.v, [positions][kv_dim], in place. m: loaded, with a prefix;
 * taken over when it succeeds. Errors: PARE_ERR_ARG (no prefix), PARE_ERR_NOMEM. */
pare_status pare_train_weights_of_prefix(pare_train_weights **out, pare_model *m, pare_error *err);
void pare_train_weights_free(pare_train_weights *w);

/* The name of the first tensor with a value that is not finite; NULL: there is none. */
const char *pare_train_weights_not_finite(const pare_train_weights *w);

/* Passes multiply f32 copies of these matrices from now on (where they have none in bf16), so that
 * a straight-through pruner can show the forward pass other weights than the masters. wanted [n],
 * or NULL: those of linear layers. */
pare_status pare_train_weights_split(pare_train_weights *w, const bool *wanted, pare_error *err);

/* Gradients count as zero from now on. */
void pare_train_weights_clear(pare_train_weights *w);
/* The bf16 copies from the masters. */
void pare_train_weights_round(pare_train_weights *w);

/* What passes may leave out of tensor i from now on, until this is called again. mask: bits, 0
 * where the weights that the model multiplies are 0, or NULL; kept: 0 where no gradient is wanted:
 * it may be left out, and does not count, or NULL. Both borrowed, and together at least as sparse
 * as each. Parts of linear layers that are empty are then not multiplied, where products are in f32
 * (tensor/live.h): losses and gradients that count have the same bits. Errors: PARE_ERR_NOMEM. */
pare_status pare_train_weights_mask(pare_train_weights *w, size_t i, const uint64_t *mask,
                                    const uint64_t *kept, pare_error *err);
/* Operations (two for a product and its sum) a token that forward and backward passes leave out. */
double pare_train_weights_left_out(const pare_train_weights *w);

/* sqrt(sum of squares of all gradients that count); sums in f64 over fixed blocks. NaN or Inf where
 * one is. */
double pare_train_grad_norm(const pare_train_weights *w);

#endif
