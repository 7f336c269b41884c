/* A model in memory: weights in their encodings and in canonical form (source.h), and the forward
 * pass over them.
 *
 * Weights are read by pread into huge pages: a file that shrinks gives an error instead of SIGBUS,
 * and huge pages are read faster than a mapped file. Norms and biases are f32. */
#ifndef PARE_SRC_MODEL_MODEL_H
#define PARE_SRC_MODEL_MODEL_H

#include "autograd/ops.h"
#include "model/arch.h"
#include "model/kv_cache.h"
#include "model/rope_config.h"
#include "model/source.h"
#include "pare/model.h"

/* y = x w^T + bias */
typedef struct pare_linear {
    pare_tensor w;               /* [out][in]; enc NULL = absent */
    const float *bias;           /* [out] or NULL */
    const char *name;            /* "blk.0.attn_q.weight"; owned by the source */
    const pare_adapter *adapter; /* of model->lora, or NULL */
    const pare_act_site *act;    /* of its input: of model->act, or NULL */
    bool act_codes;              /* as in pare_op_out, with row_sums */
    const float *row_sums;
} pare_linear;

typedef struct pare_norm {
    const float *w, *bias; /* [dim]; NULL = absent */
} pare_norm;

/* Field names are the canonical ones; an architecture fills those in its table. */
typedef struct pare_layer {
    pare_norm attn_norm, attn_q_norm, attn_k_norm, post_attention_norm, ffn_norm, post_ffw_norm;
    pare_linear attn_q, attn_k, attn_v, attn_qkv, attn_output, ffn_gate, ffn_up, ffn_down;
    const pare_act_site *act_qkv;    /* [3] of what attention multiplies: of model->act, or NULL */
    struct pare_weight_block *block; /* holds all of it; NULL = the layer is not loaded */
} pare_layer;

typedef struct pare_weights {
    pare_linear token_embd, position_embd, proj_in, proj_out, output;
    pare_norm output_norm;
    pare_norm rope_freqs;            /* [head_dim / 2] divisors, or absent */
    pare_layer *layers;              /* [n_layers] */
    struct pare_weight_block *block; /* of what is not in layers */
} pare_weights;

struct pare_model {
    pare_runtime *rt;    /* borrowed */
    pare_source *source; /* owned */
    const pare_arch *arch;
    pare_model_config config;
    pare_weights weights;
    const pare_linear *head;    /* output, or token_embd when tied */
    pare_rope rope, rope_local; /* half 0 = no RoPE */
    struct pare_lora *lora;     /* owned, or NULL (model/lora.h) */
    struct pare_prefix *prefix; /* owned, or NULL (model/prefix.h) */
    struct pare_act_sites *act; /* owned, or NULL (model/act.h) */
};

/* A model without layers: embeddings, final norm and head only. Takes the source over (also when it
 * fails). */
pare_status pare_model_open(pare_model **out, pare_runtime *rt, pare_source *source,
                            pare_error *err);
/* Loads layers [begin, end) on all threads. A layer that is loaded already is an error. */
pare_status pare_model_load_layers(pare_model *m, size_t begin, size_t end, pare_error *err);
/* Frees the weights of a layer; it may be loaded again. */
void pare_model_drop_layer(pare_model *m, size_t layer);
/* Frees what is in no layer, for a caller that puts its own there. */
void pare_model_drop_globals(pare_model *m);

/* A matrix that tokens are multiplied with: any but the tables they are looked up in. */
bool pare_model_is_multiplied(const pare_model *m, const pare_source_tensor *t);
/* The matrix of that canonical name in a loaded layer, or NULL. */
pare_linear *pare_model_linear(pare_model *m, size_t layer, const char *name);
/* Where a loaded layer holds the norm or bias of that canonical name, or NULL. */
const float **pare_model_vector(pare_model *m, size_t layer, const char *name);

/* What stands in front of the model's sequences, for spans; NULL: nothing. */
const pare_attn_prefix *pare_model_prefix(const pare_model *m);
/* The keys and values of a session's text. */
const pare_kv_cache *pare_session_cache(const pare_session *s);

/* As pare_session_eval; what takes more than one batch is reported as progress under that name. */
pare_status pare_session_prefill(pare_session *s, const int32_t *ids, size_t n, float *logits,
                                 const char *stage, pare_error *err);

/* ---- the forward pass, called by every thread with its own context (autograd/ops.h) ---- */

/* A batch of tokens on its way through the model. */
typedef struct pare_pass {
    const int32_t *ids;          /* [n], checked; NULL in a plan */
    size_t n;                    /* tokens of all spans */
    const pare_attn_span *spans; /* [n_spans] sequences, at least one; may be NULL in a plan, or
                                    tell the first one's prefix. With layers NULL and pos0 0:
                                    attention over the prefix and the pass's own tokens */
    size_t n_spans;
    float *angles, *angles_local; /* of RoPE; made by pare_pass_begin */
} pare_pass;

/* Allocates and computes what all layers share: the angles. */
void pare_pass_begin(pare_fwd *f, const pare_model *m, pare_pass *p);

/* h[n][dim] = the embeddings. */
void pare_pass_embed(pare_fwd *f, const pare_model *m, const pare_pass *p, float *h);

/* One layer in place: h[n][dim]. Scratch is given back. */
void pare_pass_layer(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer, float *h);

/* y[n][embed_dim] = what the head multiplies (the final norm); y may be h where embed_dim == dim.
 */
void pare_pass_finish(pare_fwd *f, const pare_model *m, float *y, const float *h, size_t n);

/* logits[n][vocab_size] of y. */
void pare_pass_logits(pare_fwd *f, const pare_model *m, float *logits, const float *y, size_t n);
/* logprob[i] of targets[i] after y[i], with no more than `room` logits (>= vocab_size) at a time.
 * top[i] = the id with the largest logit (the lowest of equals); may be NULL. */
void pare_pass_logprobs(pare_fwd *f, const pare_model *m, float *logprob, int32_t *top,
                        const float *y, size_t n, const int32_t *targets, float *logits,
                        size_t room);

/* All of it but the logits: y[n][embed_dim]. */
void pare_pass_run(pare_fwd *f, const pare_model *m, pare_pass *p, float *y);

/* ---- pieces that architectures share (forward.c) ---- */

/* out[n][dim] = attention of the layer on a[n][dim], output projection included, residual not. The
 * architectures' differences are in the weights that are there: fused or single q, k, v; norms on
 * heads; biases. */
void pare_block_attention(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer,
                          float *out, const float *a);

/* out[n][dim] = the feed-forward part on x[n][dim], of the architecture's kind. */
void pare_block_ffn(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer, float *out,
                    const float *x);

/* A layer of the Llama family, in place on h[n][dim]:
 *     h += attention(rmsnorm(h));  h += down(silu(gate x) * (up x)), x = rmsnorm(h) */
void pare_block_llama(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer, float *h);

/* A layer of the Gemma 2 and 3 family, norms before and after each part:
 *     h += norm(attention(norm(h)));  h += norm(down(gelu(gate x) * (up x))), x = norm(h) */
void pare_block_gemma(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer, float *h);

/* h = token_embd[ids] * embed_scale, and the final RMSNorm: of all but GPT-2 and OPT. */
void pare_embed_scaled(pare_fwd *f, const pare_model *m, const pare_pass *p, float *h);
void pare_finish_rmsnorm(pare_fwd *f, const pare_model *m, float *y, const float *h, size_t n);

/* ---- rows of an architecture's weight table ---- */

/* A matrix or a norm of a layer; the field's name is the canonical one. */
#define PARE_LAYER_MATRIX(field, hf_name, out_, in_, ...)                                          \
    {                                                                                              \
        .name = "blk.#." #field, .hf = hf_name, .out = PARE_X_##out_, .in = PARE_X_##in_,          \
        .offset = offsetof(pare_layer, field), __VA_ARGS__                                         \
    }
#define PARE_LAYER_NORM(field, hf_name, in_, ...)                                                  \
    {                                                                                              \
        .name = "blk.#." #field, .hf = hf_name, .in = PARE_X_##in_,                                \
        .offset = offsetof(pare_layer, field), __VA_ARGS__                                         \
    }
/* The same outside the layers. */
#define PARE_GLOBAL_MATRIX(field, hf_name, out_, in_, ...)                                         \
    {                                                                                              \
        .name = #field, .hf = hf_name, .out = PARE_X_##out_, .in = PARE_X_##in_,                   \
        .offset = offsetof(pare_weights, field), __VA_ARGS__                                       \
    }
#define PARE_GLOBAL_NORM(field, hf_name, in_, ...)                                                 \
    {                                                                                              \
        .name = #field, .hf = hf_name, .in = PARE_X_##in_,                                         \
        .offset = offsetof(pare_weights, field), __VA_ARGS__                                       \
    }

/* Up to so many tokens of a sequence from position pos on, at least one, give in one pass the bits
 * that they give one by one. */
size_t pare_model_alike_rows(const pare_model *m, size_t pos);

#endif
