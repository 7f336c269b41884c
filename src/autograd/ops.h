/* The operators that architectures are written on. A forward pass is one parallel region: every
 * thread runs the same code with its own copy of the context and calls every operator with the same
 * arguments; an operator does its share of the rows and ends with a barrier (but see
 * pare_fwd_alloc_rows).
 *
 *     float *a = pare_fwd_alloc(f, n * dim, sizeof *a);
 *     pare_op_rmsnorm(f, a, h, norm, n, dim, eps);
 *     pare_op_linear(f, a, dim, n, dim, (pare_op_out[]){{"blk.0.attn_q.weight", wq, bq, q, q_dim}},
 * 1); pare_op_rope(f, q, q_dim, n, n_heads, head_dim, angles);
 *
 * Operators are functions of explicit buffers: row-major, [n][dim] without gaps where no leading
 * dimension is given. Results do not depend on the number of threads.
 *
 * Planning. A context whose arena has no memory (base NULL) plans: the same calls only count bytes,
 * touch no buffer (all may be NULL), wait for nobody and may run on one thread. Afterwards
 * arena.peak, own.peak (a thread) and linear_bytes say what to allocate. A plan for n tokens covers
 * all smaller n.
 */
#ifndef PARE_SRC_AUTOGRAD_OPS_H
#define PARE_SRC_AUTOGRAD_OPS_H

#include "base/memory.h"
#include "kernels/op_kernels.h"
#include "tensor/act_quant.h"
#include "tensor/encoding.h"

struct pare_op_out;
struct pare_fwd;

/* Sees the input x[n][ldx] of the matrices that share it, `in` values a row, before it is
 * quantized. Called by every thread, which all leave together; also in a plan (x NULL) that one was
 * set for. What it puts on the tape runs before the matrices' backward half, and may add to the
 * shadow of x. false, of all threads: nobody needs the product, which is left out. */
typedef bool (*pare_probe_fn)(struct pare_fwd *f, void *arg, const struct pare_op_out *outs,
                              size_t n_outs, const float *x, size_t ldx, size_t n, size_t in);

/* Sees the rotated queries q[n][ldq] of a layer, whose keys and values are in layer `at` of the
 * spans. Called by every thread before the attention operator and with what that one gets, so that
 * its scratch is free; not in a plan. */
typedef void (*pare_attn_probe_fn)(struct pare_fwd *f, void *arg, const float *q, size_t ldq,
                                   const pare_attn_span *spans, size_t n_spans, size_t at,
                                   const pare_attn *a, size_t n);

typedef struct pare_fwd {
    pare_worker *w; /* in a plan: n is set, team is not needed */
    pare_isa isa;
    pare_compute compute;
    bool many; /* the paths of many rows for any number: a row's bits do not depend on the others */
    const pare_op_kernels *k;
    pare_arena arena; /* shared memory; every thread moves its own copy through the same steps */
    pare_arena own;   /* of this thread alone; capacity 0: there is none */
    void *linear_scratch;   /* shared, linear_bytes */
    size_t linear_bytes;    /* a plan raises it to the largest need */
    struct pare_tape *tape; /* NULL: nothing is recorded */
    pare_probe_fn probe;    /* may be NULL */
    void *probe_arg;
    pare_attn_probe_fn attn_probe; /* may be NULL */
    void *attn_probe_arg;
} pare_fwd;

/* A context without memory for n_threads threads: a plan. worker is filled and borrowed. */
pare_fwd pare_fwd_plan(pare_worker *worker, int n_threads, pare_isa isa, pare_compute compute);

static inline bool pare_fwd_planning(const pare_fwd *f) { return f->arena.base == NULL; }

/* count * size bytes that live until released; NULL in a plan. */
static inline void *pare_fwd_alloc(pare_fwd *f, size_t count, size_t size) {
    return pare_arena_alloc(&f->arena, count, size);
}

/* Whether n rows are few enough that every thread computes them for itself: one row, as when a
 * token is decoded. That costs less than to wait for each other. */
static inline bool pare_fwd_owns(const pare_fwd *f, size_t n) {
    return n == 1 && f->own.capacity > 0;
}

/* n rows that row-wise operators write: shared, or each thread's own. An operator whose output is a
 * thread's own computes all of it on every thread and waits for nobody, so that its inputs are
 * either own or shared and not written before the next barrier. Linear layers and attention write
 * shared memory only. */
static inline void *pare_fwd_alloc_rows(pare_fwd *f, size_t n, size_t width, size_t size) {
    if (!pare_fwd_owns(f, n)) return pare_fwd_alloc(f, n * width, size);
    if (pare_fwd_planning(f)) pare_fwd_alloc(f, n * width, size); /* for a run without own memory */
    return pare_arena_alloc(&f->own, width, size);
}

/* mark = pare_fwd_mark(f); ... pare_fwd_release(f, mark) gives back what was allocated between. */
typedef struct pare_fwd_marks {
    size_t shared, own;
} pare_fwd_marks;
static inline pare_fwd_marks pare_fwd_mark(const pare_fwd *f) {
    return (pare_fwd_marks){f->arena.used, f->own.used};
}
static inline void pare_fwd_release(pare_fwd *f, pare_fwd_marks mark) {
    f->arena.used = mark.shared;
    f->own.used = mark.own;
}

/* ---- embeddings ---- */

/* y[n][dim] = scale * table[ids[i]]; any encoding; ids were checked. */
void pare_op_embed(pare_fwd *f, float *y, const pare_tensor *table, const int32_t *ids, size_t n,
                   size_t dim, float scale);

/* x[n][dim] += table[position + offset]: learned positions (OPT: offset 2) of the spans' tokens. */
void pare_op_add_positions(pare_fwd *f, float *x, const pare_tensor *table,
                           const pare_attn_span *spans, size_t offset, size_t n, size_t dim);

/* ---- linear layers ---- */

#define PARE_OP_MAX_OUTS 8

/* A low-rank part beside a matrix: w x + scale b (a x) (LoRA, arXiv:2106.09685). */
typedef struct pare_adapter {
    pare_tensor a, b; /* [rank][in], [out][rank] */
    float scale;
} pare_adapter;

/* Values that passed a static grid, and of them those that it clamped. */
typedef struct pare_act_count {
    uint64_t n, clamped;
} pare_act_count;

/* A tensor of activations that is quantized (tensor/act_quant.h), of one place in the model. */
typedef struct pare_act_site {
    const pare_act_scheme *scheme;
    pare_act_grid grid;     /* per_tensor_static */
    pare_act_range *seen;   /* [threads] widened by what passes, which stays as it is: calibration;
                               NULL: quantize */
    pare_act_count *counts; /* [threads] of what is quantized on `grid`, or NULL: not counted */
} pare_act_site;

/* One of the matrices that share an input. */
typedef struct pare_op_out {
    const char *name;     /* canonical, "blk.0.attn_q.weight": for probes */
    const pare_tensor *w; /* [out][in] */
    const float *bias;    /* [out] or NULL */
    float *y;             /* [n][ldy] */
    size_t ldy;
    size_t row0, rows; /* only rows [row0, row0 + rows) of w, y beginning with row0; 0: all */
    const pare_adapter *adapter; /* or NULL */
    bool accumulate;             /* y += (the path of many rows) */
    const pare_act_site *act;    /* of the input, or NULL */
    bool codes;                  /* products of integers may have x in codes from -128 on */
    const float *row_sums;       /* [out] sums of w's rows: with `codes` */
} pare_op_out;

/* y = x W^T (+ bias, + the adapter's part) for n_outs <= PARE_OP_MAX_OUTS matrices; x [n][ldx],
 * `in` values a row. */
void pare_op_linear(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                    const pare_op_out *outs, size_t n_outs);

/* Quantizes x[n][ldx] in place: what the products of attention take. */
void pare_op_act_quantize(pare_fwd *f, const pare_act_site *site, float *x, size_t ldx, size_t n,
                          size_t width);

/* ---- normalisation: x, y [n][dim]; y may be x ---- */

/* y = g * x / rms(x) */
void pare_op_rmsnorm(pare_fwd *f, float *y, const float *x, const float *g, size_t n, size_t dim,
                     float eps);
/* x += r, then y = g * x / rms(x); y may be r */
void pare_op_add_rmsnorm(pare_fwd *f, float *y, float *x, const float *r, const float *g, size_t n,
                         size_t dim, float eps);
/* b may be NULL */
void pare_op_layernorm(pare_fwd *f, float *y, const float *x, const float *g, const float *b,
                       size_t n, size_t dim, float eps);
/* RMSNorm of each head of x[n][ldx] (n_heads heads side by side) with one g[head_dim]; y [n][ldy]
 */
void pare_op_head_rmsnorm(pare_fwd *f, float *y, size_t ldy, const float *x, size_t ldx,
                          const float *g, size_t n, size_t n_heads, size_t head_dim, float eps);

/* ---- element-wise on [n][dim]; y may be an input ---- */

void pare_op_silu_mul(pare_fwd *f, float *y, const float *gate, const float *up, size_t n,
                      size_t dim);
void pare_op_gelu_mul(pare_fwd *f, float *y, const float *gate, const float *up, size_t n,
                      size_t dim);                                              /* tanh form */
void pare_op_gelu(pare_fwd *f, float *y, const float *x, size_t n, size_t dim); /* tanh form */
void pare_op_relu(pare_fwd *f, float *y, const float *x, size_t n, size_t dim);
void pare_op_add(pare_fwd *f, float *y, const float *a, const float *b, size_t n, size_t dim);
void pare_op_scale(pare_fwd *f, float *y, const float *x, float s, size_t n, size_t dim);
/* y = c * tanh(x / c); c <= 0 copies */
void pare_op_softcap(pare_fwd *f, float *y, const float *x, float c, size_t n, size_t dim);

/* ---- attention ---- */

/* Floats of the angles of n positions. */
static inline size_t pare_op_angles_len(const pare_rope *rope, size_t n) {
    return n * 2 * rope->half;
}
/* angles [n][2][half]: cosines, then sines, of the positions of the spans' n tokens. Once per pass
 * and kind of layer. */
void pare_op_rope_angles(pare_fwd *f, float *angles, const pare_rope *rope,
                         const pare_attn_span *spans, size_t n);

/* Rotates n_heads heads of x[n][ldx] in place (head_dim = 2 * half). half 0: nothing. */
void pare_op_rope(pare_fwd *f, float *x, size_t ldx, size_t n, size_t n_heads,
                  const pare_rope *rope, const float *angles);

/* Stores k[n][ldk] and v[n][ldv] (n_kv_heads heads side by side) of the spans' n tokens in their
 * caches' layer. */
void pare_op_kv_store(pare_fwd *f, const pare_attn_span *spans, size_t layer, const float *k,
                      size_t ldk, const float *v, size_t ldv, size_t n);

/* out[n][ldo] = attention of q[n][ldq] over the positions of each token's sequence up to its own
 * (already stored). The same as kernels/attention.h, with scratch from the arena. With a tape the
 * spans have one prefix or none; a plan's spans are NULL, or the first has it. */
void pare_op_attention(pare_fwd *f, float *out, size_t ldo, const float *q, size_t ldq,
                       const pare_attn_span *spans, size_t n_spans, size_t layer,
                       const pare_attn *a, size_t n_kv_heads, size_t head_dim, size_t n);

/* A layer view of plain activations k[..][ld], v[..][ld] from position 0 on: attention without a
 * cache (training). The view is only read. */
pare_kv_layer pare_kv_layer_of(const float *k, const float *v, size_t ld, size_t n_kv_heads,
                               size_t head_dim);

/* ---- output ---- */

/* Log-probabilities of targets from logits that come block by block, so that they never stand in
 * memory as a whole. */
typedef struct pare_logprob {
    double *lse;            /* [n] log of the sum of exp over the blocks so far */
    float *target;          /* [n] logit of the target, once its block was seen */
    const int32_t *targets; /* [n] */
    float *largest;         /* [n] largest logit so far, and its id (the lowest of equals; -1: no */
    int32_t *top;           /* number is above -Inf); both may be NULL */
} pare_logprob;

/* Takes the logits [n][ld] of entries [first, first + count) of the vocabulary; first = 0 begins
 * anew. */
void pare_op_logprob_block(pare_fwd *f, const pare_logprob *p, const float *logits, size_t ld,
                           size_t n, size_t first, size_t count);
/* logprob[i] = log softmax(logits_i)[targets[i]] */
void pare_op_logprob_finish(pare_fwd *f, const pare_logprob *p, float *logprob, size_t n);

#endif
