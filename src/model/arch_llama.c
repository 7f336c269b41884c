/* Llama (1 to 3.2, SmolLM, TinyLlama) and Mistral, arXiv:2302.13971, 2310.06825: pre-norm RMSNorm,
 * rotary positions, grouped-query attention, SiLU-gated feed-forward. Mistral is Llama with a
 * sliding window on every layer (v0.1) or none (later); its GGUF files carry the architecture
 * "llama".
 *
 * GGUF files of this architecture (and of no other) hold the rows of q and k pairwise: their RoPE
 * rotates (2i, 2i + 1). */
#include "model/config_read.h"
#include "model/model.h"

#include <string.h>

static const pare_weight_spec weights[] = {
    PARE_GLOBAL_MATRIX(token_embd, "model.embed_tokens", VOCAB, DIM),
    PARE_LAYER_NORM(attn_norm, "model.layers.#.input_layernorm", DIM),
    PARE_LAYER_MATRIX(attn_q, "model.layers.#.self_attn.q_proj", Q, DIM,
                      .flags = PARE_BIAS_OPTIONAL, .fix_gguf = PARE_FIX_ROPE_ROWS_Q),
    PARE_LAYER_MATRIX(attn_k, "model.layers.#.self_attn.k_proj", KV, DIM,
                      .flags = PARE_BIAS_OPTIONAL, .fix_gguf = PARE_FIX_ROPE_ROWS_K),
    PARE_LAYER_MATRIX(attn_v, "model.layers.#.self_attn.v_proj", KV, DIM,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_MATRIX(attn_output, "model.layers.#.self_attn.o_proj", DIM, Q,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_NORM(ffn_norm, "model.layers.#.post_attention_layernorm", DIM),
    PARE_LAYER_MATRIX(ffn_gate, "model.layers.#.mlp.gate_proj", FFN, DIM,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_MATRIX(ffn_up, "model.layers.#.mlp.up_proj", FFN, DIM, .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_MATRIX(ffn_down, "model.layers.#.mlp.down_proj", DIM, FFN,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_GLOBAL_NORM(output_norm, "model.norm", DIM),
    PARE_GLOBAL_MATRIX(output, "lm_head", VOCAB, DIM, .flags = PARE_WEIGHT_OPTIONAL),
    /* Llama 3's scaling in GGUF files; HF files compute it from config.json */
    PARE_GLOBAL_NORM(rope_freqs, "rope_freqs", HALF_HEAD, .flags = PARE_WEIGHT_OPTIONAL),
    {0},
};

static pare_status mistral_read_hf(pare_model_config *c, const pare_json *j, pare_error *err) {
    c->window = 4096; /* of the class, where the key is absent; null = none */
    PARE_TRY(pare_config_hf_window(c, j, err));
    memset(c->local, c->window != 0, c->n_layers);
    return PARE_OK;
}

/* No converter of llama.cpp writes this key for Llama; pare does, for windowed Mistral models. */
static pare_status llama_read_gguf(pare_model_config *c, const pare_gguf *g, pare_error *err) {
    PARE_TRY(pare_gguf_size(g, "llama.attention.sliding_window", PARE_OPTIONAL, 0, PARE_MAX_CTX,
                            &c->window, err));
    memset(c->local, c->window != 0, c->n_layers);
    return PARE_OK;
}

const pare_arch pare_arch_llama = {
    .name = "llama",
    .gguf = "llama",
    .hf = "llama",
    .hf_class = "LlamaForCausalLM",
    .prefixes = {"model."},
    .activation_key = "hidden_act",
    .activations = {"silu", "swish"},
    .weights = weights,
    .ffn = PARE_FFN_SILU_GLU,
    .base = {.ctx_max = 2048, .norm_eps = 1e-6f},
    .read_gguf = llama_read_gguf,
    .embed = pare_embed_scaled,
    .layer = pare_block_llama,
    .finish = pare_finish_rmsnorm,
};

const pare_arch pare_arch_mistral = {
    .name = "mistral",
    .hf = "mistral",
    .hf_class = "MistralForCausalLM",
    .prefixes = {"model."},
    .activation_key = "hidden_act",
    .activations = {"silu", "swish"},
    .weights = weights,
    .ffn = PARE_FFN_SILU_GLU,
    .base = {.n_kv_heads = 8, .ctx_max = 131072, .norm_eps = 1e-6f},
    .read_hf = mistral_read_hf,
    .embed = pare_embed_scaled,
    .layer = pare_block_llama,
    .finish = pare_finish_rmsnorm,
};
