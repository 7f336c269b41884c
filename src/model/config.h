/* A model's shape and the facts that distinguish architectures, read from GGUF keys or config.json.
 * Every number is checked (positive, in range, consistent) before it is used for a size. */
#ifndef PARE_SRC_MODEL_CONFIG_H
#define PARE_SRC_MODEL_CONFIG_H

#include "autograd/top_k.h"
#include "base/error.h"

/* Bounds of what a file may claim; above them no released model is known, below them no product of
 * two overflows. */
#define PARE_MAX_LAYERS 512
#define PARE_MAX_DIM ((size_t)1 << 20)
#define PARE_MAX_HEADS 4096
#define PARE_MAX_HEAD_DIM 1024
#define PARE_MAX_VOCAB ((size_t)1 << 28)
#define PARE_MAX_CTX ((size_t)1 << 42)
#define PARE_MAX_EOS 16

typedef enum pare_rope_scaling {
    PARE_ROPE_NONE = 0,
    PARE_ROPE_LINEAR,
    PARE_ROPE_LLAMA3,
    PARE_ROPE_YARN,
    PARE_ROPE_FACTORS /* explicit divisors (GGUF rope_freqs.weight) */
} pare_rope_scaling;

typedef struct pare_rope_config {
    float theta; /* 0 = no RoPE */
    pare_rope_scaling scaling;
    float factor;                            /* linear, llama3, yarn */
    float low_freq_factor, high_freq_factor; /* llama3 */
    float beta_fast, beta_slow;              /* yarn; 0 = 32 and 1 */
    bool no_truncate;    /* yarn: the ends of the ramp are not rounded to whole dimensions */
    float attn_factor;   /* yarn: multiplies cos and sin; 0 = 0.1 ln(factor) + 1 */
    size_t original_ctx; /* llama3, yarn */
} pare_rope_config;

typedef struct pare_model_config {
    char arch[32]; /* "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "opt" */
    size_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab_size, ctx_max;
    float norm_eps;
    float attn_scale;                  /* scores are multiplied by it */
    float embed_scale;                 /* 1 = none */
    float attn_softcap, final_softcap; /* 0 = none */
    size_t window;                     /* of local layers; 0 = all layers are global */
    uint8_t local[PARE_MAX_LAYERS];    /* 1 = layer i is local (sliding window) */
    pare_rope_config rope, rope_local; /* of global and of local layers; theta 0 = no RoPE */
    bool tied;                         /* output = token_embd */
    size_t pos_offset;                 /* added to positions of a learned table (OPT: 2) */
    size_t embed_dim;                  /* OPT-350m: word_embed_proj_dim; else dim */
    bool norm_before;                  /* OPT: do_layer_norm_before; else true */
    bool final_norm;                   /* OPT-350m has none; else true */
    pare_top_k top_k;                  /* of what ffn_down multiplies; 0: all of it */
    int32_t bos;                       /* -1 = none */
    int32_t eos[PARE_MAX_EOS];
    size_t n_eos;
} pare_model_config;

/* The key of top_k in a config.json: an object with "sparsity" or "n" and "m", and "score". Of
 * pare's own: other programs compute without. */
#define PARE_TOP_K_KEY "pare_activation_sparsity"

struct pare_arch;
struct pare_gguf;
struct pare_json;

/* Fills *c from a GGUF header, or from a config.json (`json`: the whole document). Errors:
 * PARE_ERR_INPUT; PARE_ERR_UNSUPPORTED (the message names what is known). */
pare_status pare_config_from_gguf(pare_model_config *c, const struct pare_arch **arch,
                                  const struct pare_gguf *g, pare_error *err);
pare_status pare_config_from_hf(pare_model_config *c, const struct pare_arch **arch,
                                const struct pare_json *json, pare_error *err);

/* Defaults before a reader fills in what the file says. */
void pare_config_init(pare_model_config *c, const struct pare_arch *arch);

/* After reading: what follows from other numbers, and what must hold between them. */
pare_status pare_config_finish(pare_model_config *c, const struct pare_arch *arch, const char *file,
                               pare_error *err);

/* "FILE: PLACE: found "NAME", pare knows llama, ..." */
pare_status pare_arch_unknown(const char *file, const char *place, const char *name, bool gguf,
                              pare_error *err);

#endif
