/* Gemma 2, arXiv:2408.00118: RMSNorm before and after each part, scaled embeddings, caps on
 * attention scores (50) and logits (30), local layers (window 4096) at 0, 2, 4, ...
 *
 * HF files store norm weights as offsets from 1; GGUF files store the factor. */
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
    c->window = 4096;
    c->attn_softcap = 50; /* of the class; null = none */
    c->final_softcap = 30;
    PARE_TRY(pare_config_hf_gemma(c, j, 2, err));
    c->rope_local = c->rope;
    return PARE_OK;
}

static pare_status read_gguf(pare_model_config *c, const pare_gguf *g, pare_error *err) {
    c->window = 4096;
    c->attn_softcap = 50;
    c->final_softcap = 30;
    c->rope_local = c->rope;
    return pare_config_gguf_gemma(c, g, 2, 46, err);
}

const pare_arch pare_arch_gemma2 = {
    .name = "gemma2",
    .gguf = "gemma2",
    .hf = "gemma2",
    .hf_class = "Gemma2ForCausalLM",
    .prefixes = {"model."},
    .activation_key = "hidden_activation",
    .activations = {"gelu_pytorch_tanh"},
    .weights = weights,
    .ffn = PARE_FFN_GELU_GLU,
    .scaled_embeddings = true,
    .base = {.vocab_size = 256000,
             .dim = 2304,
             .ffn_dim = 9216,
             .n_layers = 26,
             .n_heads = 8,
             .n_kv_heads = 4,
             .head_dim = 256,
             .ctx_max = 8192,
             .norm_eps = 1e-6f},
    .read_hf = read_hf,
    .read_gguf = read_gguf,
    .embed = pare_embed_scaled,
    .layer = pare_block_gemma,
    .finish = pare_finish_rmsnorm,
};
