/* Reverse-mode differentiation of a forward pass as it stands. A pass is an imperative program over
 * an arena: buffers are written, overwritten, given back, used again. Its gradient is the adjoint
 * of that program: every float of the arena has a shadow, the gradient of the loss with respect to
 * the value that lies there now. Walking backwards, an operator that wrote y from x
 *
 *     takes the shadow of y and sets it to zero (the value before was overwritten),
 *     adds to the shadow of x what it contributed.
 *
 * So in-place operators and buffers that are used twice need no care, and the shadow is as large as
 * the arena of a forward pass, whatever the number of layers. What the backward half needs of the
 * values is copied onto a stack when the operator runs; the backward walk pops it.
 *
 *     f.tape = &tape;
 *     pare_tape_mark begin = pare_tape_here(&tape);
 *     ... operators ...                     record themselves
 *     pare_tape_shadow(&tape, y) = dL/dy    (or pare_op_cross_entropy, which does that)
 *     pare_tape_backward(&f, begin);        gradients of the weights are added to their arrays
 *
 * To compute a layer again instead of keeping its values: run it without a tape, keep its input,
 * and before its turn in the backward walk run it once more with the tape.
 *
 * Every thread has its own copy of the struct and moves it alike; records are written by thread 0.
 * A plan (autograd/ops.h) finds saves.peak and work.peak too. */
#ifndef PARE_SRC_AUTOGRAD_TAPE_H
#define PARE_SRC_AUTOGRAD_TAPE_H

#include "autograd/ops.h"

/* A weight that a gradient is wanted of. */
typedef struct pare_leaf {
    const void *key; /* where operators read it: the first part of a matrix, a vector */
    float *grad;     /* as the weight: [rows][cols] or [cols] */
    bool *fresh;     /* true: grad holds nothing yet and is overwritten; shared by all threads */
    size_t rows, cols;
    /* NULL, or of a masked matrix whose gradient is wanted where it has weights: elsewhere it may
     * be left out and count as 0 (tensor/live.h) */
    const struct pare_live *live;
} pare_leaf;

typedef struct pare_record pare_record;
struct pare_record {
    /* Called by every thread; ends with a barrier. */
    void (*backward)(pare_fwd *f, pare_record *r);
    pare_record *prev;
};

typedef struct pare_tape {
    pare_arena saves;        /* the stack of records and saved values; shared memory */
    pare_arena work;         /* scratch of the backward halves; shared */
    uint8_t *shadow;         /* of the forward arena's base; as large, zero between passes */
    const pare_leaf *leaves; /* [n_leaves], in order of their keys; in a plan NULL: any */
    size_t n_leaves;
    pare_record *last;
    bool half; /* inputs of linear layers are saved as bf16 */
} pare_tape;

/* The shadow of p, a place in the context's arena; NULL for other memory, of which no gradient is
 * wanted. */
float *pare_tape_shadow(const pare_fwd *f, const void *p);

/* The parameter that is read at key, or NULL: frozen. */
const pare_leaf *pare_tape_leaf(const pare_tape *t, const void *key);

/* A place in the recording. */
typedef struct pare_tape_mark {
    pare_record *last;
    size_t used;
} pare_tape_mark;
static inline pare_tape_mark pare_tape_here(const pare_tape *t) {
    return (pare_tape_mark){t->last, t->saves.used};
}

/* Backward through everything recorded after the mark, the latest first; the stack is popped. */
void pare_tape_backward(pare_fwd *f, pare_tape_mark until);

/* Notes a place: when the backward walk comes past it, all gradients of what was recorded behind it
 * are complete, and thread 0 calls fn(arg, number). */
void pare_tape_note(pare_fwd *f, void (*fn)(void *arg, size_t number), void *arg, size_t number);

/* A teacher of the same vocabulary: its distributions take the place of the targets, all or in part
 * (knowledge distillation, Gemma 2, arXiv:2408.00118). */
typedef struct pare_teacher {
    const char *name;
    const pare_tensor *head; /* [vocab][dim] */
    const float *y;          /* [n][dim]: what its head multiplies */
    size_t dim;
    float softcap;     /* of its logits; 0 = none */
    float temperature; /* T > 0 of both distributions; the soft part is multiplied by T^2 */
    float hard;        /* share of the targets in the loss, [0, 1] */
} pare_teacher;

/* Mean negative log-likelihood of targets and its gradient at once, so that logits exist for a few
 * rows at a time. */
typedef struct pare_ce {
    const char *name;
    const pare_tensor *head;     /* [vocab][dim] */
    const int32_t *targets;      /* [n]; -1: the row does not count */
    float scale;                 /* of the gradient: 1 / (rows that count, of the whole step) */
    float softcap;               /* of the logits; 0 = none */
    size_t room;                 /* logits that may exist at a time, at least vocab */
    const pare_teacher *teacher; /* or NULL */
} pare_ce;
/* nll[i] = -log softmax(head y_i)[targets[i]], 0 where it does not count; with a teacher
 *     hard nll[i] + (1 - hard) T^2 sum_x -P(x) log softmax(head y_i / T)[x],  P = softmax(its
 * logits / T). With a tape the shadow of y and the head's gradient get scale times the gradient of
 * the sum at once; nothing is recorded. Without one only nll is computed. */
void pare_op_cross_entropy(pare_fwd *f, float *nll, const float *y, size_t n, size_t dim,
                           const pare_ce *ce);

/* ---- for operators: what they do under a tape before they compute ---- */

/* A record of `bytes` with the backward half; NULL in a plan. */
void *pare_tape_push(pare_fwd *f, size_t bytes, void (*backward)(pare_fwd *, pare_record *));
/* Room on the stack, 64-byte aligned; NULL in a plan. */
void *pare_tape_save(pare_fwd *f, size_t count, size_t size);

void pare_tape_embed(pare_fwd *f, const float *y, const pare_tensor *table, const int32_t *ids,
                     size_t n, size_t dim, float scale);
void pare_tape_positions(pare_fwd *f, const float *x, const pare_tensor *table,
                         const pare_attn_span *spans, size_t offset, size_t n, size_t dim);
void pare_tape_linear(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                      const pare_op_out *outs, size_t n_outs);
/* y = norm(x) of n rows of n_heads parts of `dim`; r: what was added to x before, or NULL */
void pare_tape_norm(pare_fwd *f, const float *y, size_t ldy, const float *x, size_t ldx,
                    const float *r, const float *g, const float *b, size_t n, size_t n_heads,
                    size_t dim, float eps, bool rms);
typedef enum pare_tape_act {
    PARE_TAPE_SILU_MUL,
    PARE_TAPE_GELU_MUL,
    PARE_TAPE_GELU,
    PARE_TAPE_RELU
} pare_tape_act;
void pare_tape_activation(pare_fwd *f, pare_tape_act kind, const float *y, const float *a,
                          const float *b, size_t count);
void pare_tape_sum(pare_fwd *f, const float *y, const float *a, const float *b, size_t count);
void pare_tape_scale(pare_fwd *f, const float *y, const float *x, float s, size_t count);
void pare_tape_rope(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t n_heads, size_t half,
                    const float *angles);
void pare_tape_attention(pare_fwd *f, const float *out, size_t ldo, const float *q, size_t ldq,
                         const pare_attn_span *spans, size_t n_spans, size_t layer,
                         const pare_attn *a, size_t n_kv_heads, size_t head_dim, size_t n);

#endif
