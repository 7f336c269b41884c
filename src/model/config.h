/* A model's shape and the facts that distinguish architectures, read from GGUF keys or config.json.
 * Every number is checked (positive, in range, consistent) before it is used for a size. */
#ifndef PARE_SRC_MODEL_CONFIG_H
#define PARE_SRC_MODEL_CONFIG_H

#include "base/error.h"

#define PARE_MAX_LAYERS 512

typedef enum pare_rope_scaling {
    PARE_ROPE_NONE = 0,
    PARE_ROPE_LINEAR,
    PARE_ROPE_LLAMA3,
    PARE_ROPE_YARN,
    PARE_ROPE_FACTORS /* explicit divisors (GGUF rope_freqs.weight) */
} pare_rope_scaling;

typedef struct pare_rope_config {
    float theta, factor, low_freq_factor, high_freq_factor, attn_factor;
    size_t original_ctx;
    pare_rope_scaling scaling;
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
    int pos_offset;                    /* added to positions of a learned table (OPT: 2) */
    size_t embed_dim;                  /* OPT-350m: word_embed_proj_dim; else dim */
    bool norm_before;                  /* OPT: do_layer_norm_before */
    int32_t bos, eos;                  /* -1 = none */
} pare_model_config;

#endif
