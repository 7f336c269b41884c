/* Models: what a file holds, and running it.
 *
 *     pare_model *m = NULL;
 *     pare_model_load(&m, rt, "model.gguf", &err);
 *     pare_session *s = NULL;
 *     pare_session_options so = pare_session_options_default();
 *     so.n_ctx = 2048;
 *     pare_session_create(&s, m, &so, &err);
 *     pare_session_eval(s, ids, n, logits, &err);   // logits [vocab_size] of the last token
 */
#ifndef PARE_MODEL_H
#define PARE_MODEL_H

#include "pare/base.h"
#include "pare/encoding.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One stored tensor, as `pare info --tensors` lists it. Strings are owned by the description. */
typedef struct pare_tensor_info {
    const char *name;       /* as in the file */
    const char *canonical;  /* pare's own name ("blk.0.attn_q.weight"), or NULL for a tensor the
                               model does not use */
    const char *encoding;   /* "q4_k", ... */
    const char *act;        /* how its inputs are quantized ("a8:act=per_token"); NULL: not */
    size_t n_dims, dims[4]; /* [out, in]: slowest first */
    uint64_t n_bytes, n_params;
} pare_tensor_info;

/* What a model file or folder holds; only headers and the tokenizer are read. */
typedef struct pare_model_info {
    const char *format;    /* "gguf" or "hf" */
    const char *arch;      /* "llama", "gemma3", ... */
    const char *name;      /* general.name or "" */
    const char *tokenizer; /* one line, "" where there is none */
    const char *file_type; /* the mix's name where the file says one; who packed the matrices of a
                              folder ("GPTQ", "AWQ", "compressed-tensors"); else "" */
    uint64_t n_params, file_bytes, tensor_bytes;
    double bits_per_weight;
    size_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab_size, ctx_max;
    size_t sliding_window; /* 0 = none */
    size_t prefix_length;  /* positions of its own cushion (pare_model_set_prefix); 0 = none */
    bool tied_embeddings;
    size_t n_tensors;
    const pare_tensor_info *tensors;
} pare_model_info;

typedef struct pare_description pare_description;

/* Reads the headers of a GGUF file (or the first part of a split one) or of a Hugging Face folder,
 * and its tokenizer, which may be missing. */
pare_status pare_describe(pare_description **out, const char *path, pare_error *err);
const pare_model_info *pare_description_info(const pare_description *d);
/* Bytes of the KV cache for n_ctx positions with a codec ("f16", "bf16", "f32", "q8_0", "q4_0"),
 * and of the cushion. */
pare_status pare_description_kv_bytes(const pare_description *d, size_t n_ctx, const char *kv,
                                      uint64_t *bytes, pare_error *err);
/* Reads every byte and looks for NaN, Inf and broken blocks; the first one found is the error
 * (file, tensor, index, count). */
pare_status pare_description_verify(const pare_description *d, pare_runtime *rt, pare_error *err);
void pare_description_free(pare_description *d);

typedef struct pare_model pare_model;

/* Loads weights in their encodings. The runtime must outlive the model. Errors: PARE_ERR_INPUT,
 * PARE_ERR_UNSUPPORTED (the message names the known architectures), PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_model_load(pare_model **out, pare_runtime *rt, const char *path, pare_error *err);
void pare_model_free(pare_model *m);

/* The model computes with a low-rank adapter from now on: a folder that PEFT or pare train wrote
 * (adapter_config.json, adapter_model.safetensors). Before any session is made of it, and once.
 * Errors: PARE_ERR_INPUT (files, names or shapes that do not fit the model), PARE_ERR_UNSUPPORTED
 * (another kind of adapter), PARE_ERR_ARG (a second one), PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_model_add_lora(pare_model *m, const char *path, pare_error *err);

/* Every sequence of the model stands behind the prefix of a file from now on (a cushion: keys and
 * values of some positions, docs/cushion.md), in place of what it had: a model that holds one is
 * loaded with it. All functions count a sequence's own positions, from 0. path NULL: behind none.
 * Before any session is made of it. Errors: PARE_ERR_INPUT (damaged, or another model's),
 * PARE_ERR_UNSUPPORTED, PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_model_set_prefix(pare_model *m, const char *path, pare_error *err);
/* The same with what the model makes of n tokens. Errors: PARE_ERR_ARG (ids out of range, none, too
 * many), PARE_ERR_NOMEM. */
pare_status pare_model_set_prefix_ids(pare_model *m, const int32_t *ids, size_t n, pare_error *err);
/* Positions in front of every sequence; 0 = none. */
size_t pare_model_prefix_length(const pare_model *m);
/* True where the prefix was made of tokens, tuned since or not, and this is one of them. */
bool pare_model_prefix_holds(const pare_model *m, int32_t id);
/* How many of a sequence's n tokens to leave out in front: 1 where ids[0] is `bos`, which the
 * prefix holds already, and others follow; else 0. bos: what a tokenizer or a chat format has put
 * there by itself (pare_tokenizer_adds_bos, pare_chat_adds_bos); -1: nothing. */
size_t pare_model_prefix_has_bos(const pare_model *m, int32_t bos, const int32_t *ids, size_t n);
/* How the model's activations are quantized, as text ("w8a8:act=per_token"); "" where they are not.
 */
const char *pare_model_act(const pare_model *m);

/* An input on a static grid: how many values came, and how many of them the grid clamped. */
typedef struct pare_act_clamped_site {
    size_t layer;
    const char *site; /* the input of attn_qkv, attn_output, ffn_up (with gate), ffn_down; static */
    uint64_t n, clamped;
} pare_act_clamped_site;

/* Counts them from now on, from 0, in all sessions; not at the same time as one computes. Nothing
 * where the model has no static grids. Errors: PARE_ERR_NOMEM. */
pare_status pare_model_count_clamped(pare_model *m, pare_error *err);
/* Input number i of those that values have passed, in the order of layers; false past the last. */
bool pare_model_clamped_at(const pare_model *m, size_t i, pare_act_clamped_site *out);

size_t pare_model_vocab_size(const pare_model *m);
size_t pare_model_ctx_max(const pare_model *m); /* of text, behind the prefix */
const char *pare_model_arch(const pare_model *m);
/* Bytes of weights that one decoded token reads (embedding row counted once). */
uint64_t pare_model_bytes_per_token(const pare_model *m);
uint64_t pare_model_flops_per_token(const pare_model *m); /* 2 x weights used, without attention */
uint64_t pare_model_weight_bytes(const pare_model *m);

typedef struct pare_session_options {
    size_t n_ctx;   /* positions the KV cache holds; 0 = the model's maximum, at most 4096 */
    size_t n_batch; /* tokens computed at once, of all sequences; 0 = 512, at most n_ctx */
    const char *kv; /* "f16", "bf16", "f32", "q8_0", "q4_0"; NULL = f16 in fast mode, else f32 */
    pare_compute compute; /* default fast */
} pare_session_options;
pare_session_options pare_session_options_default(void);

/* A sequence being computed: KV cache and scratch. The model must outlive it. */
typedef struct pare_session pare_session;

/* Sessions that were forked from each other share memory: one thread at a time. */
pare_status pare_session_create(pare_session **out, pare_model *m,
                                const pare_session_options *options, pare_error *err);
void pare_session_free(pare_session *s);
/* *out = another sequence with the same tokens, of which nothing is computed or copied: keys and
 * values are shared until one of them goes on (copy-on-write). Sessions may be freed in any order.
 * Errors: PARE_ERR_NOMEM. */
pare_status pare_session_fork(pare_session **out, const pare_session *s, pare_error *err);

/* Appends n tokens (ids checked) and computes them. logits [vocab_size] f32 of the last one, or
 * NULL. Errors: PARE_ERR_ARG (id out of range, more than n_ctx positions), PARE_ERR_INTERRUPTED. */
pare_status pare_session_eval(pare_session *s, const int32_t *ids, size_t n, float *logits,
                              pare_error *err);

/* Several sequences at once, so that the weights are read once for all: appends n[i] tokens ids[i]
 * to sessions[i], and gives the logits [n_sessions][vocab_size] of each one's last, or NULL. What a
 * sequence gets does not depend on what the others hold; how many tokens are computed together may
 * change its last bits. The sessions are different ones and were forked from each other. Errors: as
 * for pare_session_eval; after one that is not PARE_ERR_ARG some tokens may have been appended. */
pare_status pare_session_eval_many(pare_session *const *sessions, size_t n_sessions,
                                   const int32_t *const *ids, const size_t *n, float *logits,
                                   pare_error *err);

/* A prediction that is wanted: of `target`, by token number `row` of those that sequence number
 * `sequence` gets. */
typedef struct pare_score {
    size_t sequence, row;
    int32_t target;
    int32_t top;   /* out: the id with the largest logit (the lowest of equals) */
    float logprob; /* out: log softmax(logits)[target], natural */
} pare_score;

/* Appends tokens as pare_session_eval_many does and computes the scores, which are in the order of
 * sequences and rows; a row may have several. What a token gives has the same bits whatever is
 * computed with it and however its sequence was cut into calls, if all its tokens came by this
 * function: so sequences with a common beginning may be forked from it. That costs speed where few
 * tokens are computed together. Errors: as for pare_session_eval_many; PARE_ERR_ARG for a score
 * that is out of order or out of range. */
pare_status pare_session_score_many(pare_session *const *sessions, size_t n_sessions,
                                    const int32_t *const *ids, const size_t *n, pare_score *scores,
                                    size_t n_scores, pare_error *err);

/* Appends n tokens and gives the logits of positions [from, n) piece by piece to `sink`, in order,
 * from the calling thread. logits [n_rows][vocab_size], valid during the call. A sink that returns
 * non-zero stops with PARE_ERR_INTERRUPTED. */
typedef int (*pare_logits_sink)(void *arg, size_t first, size_t n_rows, const float *logits);
pare_status pare_session_eval_all(pare_session *s, const int32_t *ids, size_t n, size_t from,
                                  pare_logits_sink sink, void *arg, pare_error *err);

/* Natural-log probabilities of targets: appends n tokens; for each position i in [from, n - 1):
 * logprob[i - from] = log softmax(logits_i)[ids[i + 1]]. Nothing of size n x vocab_size is kept. */
pare_status pare_session_logprobs(pare_session *s, const int32_t *ids, size_t n, size_t from,
                                  float *logprob, pare_error *err);

/* Forgets all positions >= n_keep. With a sliding window keys are gone that were too far back: the
 * last 128 tokens can be taken back, for more all positions may have to be forgotten. What is left
 * tells pare_session_position. */
void pare_session_truncate(pare_session *s, size_t n_keep);
size_t pare_session_position(const pare_session *s);
/* Positions it can hold, and the model that it runs. */
size_t pare_session_n_ctx(const pare_session *s);
const pare_model *pare_session_model(const pare_session *s);
uint64_t pare_session_kv_bytes(const pare_session *s); /* of a full cache, with what it keeps spare,
                                                          and of the prefix */
/* Memory of its own: a full cache, and what passes and logits take. */
uint64_t pare_session_bytes(const pare_session *s);
/* Bytes of keys and values that the token at position `pos` attends to: in layers with a window,
 * those in it. */
uint64_t pare_session_kv_read_bytes(const pare_session *s, size_t pos);

#ifdef __cplusplus
}
#endif
#endif
