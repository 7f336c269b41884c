/* Qwen2 and Qwen2.5, arXiv:2407.10671: Llama with biases on q, k and v. Some configurations give a
 * sliding window to the layers from max_window_layers on; all released small models switch it off.
 */
#include "model/config_read.h"
#include "model/model.h"

static const pare_weight_spec weights[] = {
    PARE_GLOBAL_MATRIX(token_embd, "model.embed_tokens", VOCAB, DIM),
    PARE_LAYER_NORM(attn_norm, "model.layers.#.input_layernorm", DIM),
    PARE_LAYER_MATRIX(attn_q, "model.layers.#.self_attn.q_proj", Q, DIM,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_k, "model.layers.#.self_attn.k_proj", KV, DIM,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_v, "model.layers.#.self_attn.v_proj", KV, DIM,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_output, "model.layers.#.self_attn.o_proj", DIM, Q,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_NORM(ffn_norm, "model.layers.#.post_attention_layernorm", DIM),
    PARE_LAYER_MATRIX(ffn_gate, "model.layers.#.mlp.gate_proj", FFN, DIM),
    PARE_LAYER_MATRIX(ffn_up, "model.layers.#.mlp.up_proj", FFN, DIM),
    PARE_LAYER_MATRIX(ffn_down, "model.layers.#.mlp.down_proj", DIM, FFN),
    PARE_GLOBAL_NORM(output_norm, "model.norm", DIM),
    PARE_GLOBAL_MATRIX(output, "lm_head", VOCAB, DIM, .flags = PARE_WEIGHT_OPTIONAL),
    {0},
};

const pare_arch pare_arch_qwen2 = {
    .name = "qwen2",
    .gguf = "qwen2",
    .hf = "qwen2",
    .hf_class = "Qwen2ForCausalLM",
    .prefixes = {"model."},
    .activation_key = "hidden_act",
    .activations = {"silu", "swish"},
    .weights = weights,
    .ffn = PARE_FFN_SILU_GLU,
    .base = {.ctx_max = 32768, .norm_eps = 1e-6f},
    .read_hf = pare_config_hf_qwen,
    .embed = pare_embed_scaled,
    .layer = pare_block_llama,
    .finish = pare_finish_rmsnorm,
};
