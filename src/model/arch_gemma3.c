/* Gemma 3 (text), arXiv:2503.19786: Gemma 2 without caps, with an RMSNorm on each head of q and k
 * before RoPE; every sixth layer global with theta 1e6 (positions divided by 8 from 4B on), the
 * others local with theta 1e4 and a window of 512 or 1024.
 *
 * Multimodal checkpoints hold the same model under text_config and "language_model."; the vision
 * tower is not read. */
#include "model/config_read.h"
#include "model/model.h"

static const pare_weight_spec weights[] = {
    PARE_GLOBAL_MATRIX(token_embd, "model.embed_tokens", VOCAB, DIM),
    PARE_LAYER_NORM(attn_norm, "model.layers.#.input_layernorm", DIM, .fix_hf = PARE_FIX_ADD_ONE),
    PARE_LAYER_MATRIX(attn_q, "model.layers.#.self_attn.q_proj", Q, DIM,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_MATRIX(attn_k, "model.layers.#.self_attn.k_proj", KV, DIM,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_MATRIX(attn_v, "model.layers.#.self_attn.v_proj", KV, DIM,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_MATRIX(attn_output, "model.layers.#.self_attn.o_proj", DIM, Q,
                      .flags = PARE_BIAS_OPTIONAL),
    PARE_LAYER_NORM(attn_q_norm, "model.layers.#.self_attn.q_norm", HEAD,
                    .fix_hf = PARE_FIX_ADD_ONE),
    PARE_LAYER_NORM(attn_k_norm, "model.layers.#.self_attn.k_norm", HEAD,
                    .fix_hf = PARE_FIX_ADD_ONE),
    PARE_LAYER_NORM(post_attention_norm, "model.layers.#.post_attention_layernorm", DIM,
                    .fix_hf = PARE_FIX_ADD_ONE),
    PARE_LAYER_NORM(ffn_norm, "model.layers.#.pre_feedforward_layernorm", DIM,
                    .fix_hf = PARE_FIX_ADD_ONE),
    PARE_LAYER_MATRIX(ffn_gate, "model.layers.#.mlp.gate_proj", FFN, DIM),
    PARE_LAYER_MATRIX(ffn_up, "model.layers.#.mlp.up_proj", FFN, DIM),
    PARE_LAYER_MATRIX(ffn_down, "model.layers.#.mlp.down_proj", DIM, FFN),
    PARE_LAYER_NORM(post_ffw_norm, "model.layers.#.post_feedforward_layernorm", DIM,
                    .fix_hf = PARE_FIX_ADD_ONE),
    PARE_GLOBAL_NORM(output_norm, "model.norm", DIM, .fix_hf = PARE_FIX_ADD_ONE),
    PARE_GLOBAL_MATRIX(output, "lm_head", VOCAB, DIM, .flags = PARE_WEIGHT_OPTIONAL),
    {0},
};

static pare_status read_hf(pare_model_config *c, const pare_json *j, pare_error *err) {
    bool bidirectional = false;
    PARE_TRY(pare_json_bool(j, "use_bidirectional_attention", PARE_OPTIONAL, &bidirectional, err));
    if (bidirectional)
        return pare_fail(
            err, PARE_ERR_UNSUPPORTED,
            "%s: use_bidirectional_attention: found true, pare runs causal models only", j->place);
    c->window = 4096;
    return pare_config_hf_gemma(c, j, 6, err);
}

static pare_status read_gguf(pare_model_config *c, const pare_gguf *g, pare_error *err) {
    c->rope_local = (pare_rope_config){.theta = 10000};
    PARE_TRY(pare_gguf_f32(g, "gemma3.rope.freq_base_swa", PARE_OPTIONAL, 1, PARE_CONFIG_HUGE,
                           &c->rope_local.theta, err));
    return pare_config_gguf_gemma(c, g, 6, 62, err);
}

const pare_arch pare_arch_gemma3 = {
    .name = "gemma3",
    .gguf = "gemma3",
    .hf = "gemma3_text",
    .hf_text = "gemma3",
    .hf_class = "Gemma3ForCausalLM",
    .prefixes = {"model.language_model.", "language_model.model.", "language_model.", "model."},
    .activation_key = "hidden_activation",
    .activations = {"gelu_pytorch_tanh"},
    .weights = weights,
    .ffn = PARE_FFN_GELU_GLU,
    .scaled_embeddings = true,
    .base = {.vocab_size = 262208,
             .dim = 2304,
             .ffn_dim = 9216,
             .n_layers = 26,
             .n_heads = 8,
             .n_kv_heads = 4,
             .head_dim = 256,
             .ctx_max = 131072,
             .norm_eps = 1e-6f,
             .rope = {.theta = 1000000},
             .rope_local = {.theta = 10000},
             .bos = 2},
    .read_hf = read_hf,
    .read_gguf = read_gguf,
    .embed = pare_embed_scaled,
    .layer = pare_block_gemma,
    .finish = pare_finish_rmsnorm,
};
