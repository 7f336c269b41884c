/* GPT-2: learned positions, pre-norm LayerNorm with biases, fused q|k|v, GELU (tanh form), tied
 * head. HF files store linear layers as Conv1D, [in][out]; GGUF files are transposed already. */
#include "model/config_read.h"
#include "model/model.h"

#include <math.h>

static const pare_weight_spec weights[] = {
    PARE_GLOBAL_MATRIX(token_embd, "transformer.wte", VOCAB, DIM),
    PARE_GLOBAL_MATRIX(position_embd, "transformer.wpe", POS, DIM),
    PARE_LAYER_NORM(attn_norm, "transformer.h.#.ln_1", DIM, .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_qkv, "transformer.h.#.attn.c_attn", QKV, DIM,
                      .flags = PARE_BIAS_REQUIRED, .fix_hf = PARE_FIX_TRANSPOSE),
    PARE_LAYER_MATRIX(attn_output, "transformer.h.#.attn.c_proj", DIM, Q,
                      .flags = PARE_BIAS_REQUIRED, .fix_hf = PARE_FIX_TRANSPOSE),
    PARE_LAYER_NORM(ffn_norm, "transformer.h.#.ln_2", DIM, .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(ffn_up, "transformer.h.#.mlp.c_fc", FFN, DIM, .flags = PARE_BIAS_REQUIRED,
                      .fix_hf = PARE_FIX_TRANSPOSE),
    PARE_LAYER_MATRIX(ffn_down, "transformer.h.#.mlp.c_proj", DIM, FFN, .flags = PARE_BIAS_REQUIRED,
                      .fix_hf = PARE_FIX_TRANSPOSE),
    PARE_GLOBAL_NORM(output_norm, "transformer.ln_f", DIM, .flags = PARE_BIAS_REQUIRED),
    PARE_GLOBAL_MATRIX(output, "lm_head", VOCAB, DIM, .flags = PARE_WEIGHT_OPTIONAL),
    {0},
};

static pare_status read_hf(pare_model_config *c, const pare_json *j, pare_error *err) {
    bool scaled = true, by_layer = false;
    PARE_TRY(pare_json_bool(j, "scale_attn_weights", PARE_OPTIONAL, &scaled, err));
    PARE_TRY(pare_json_bool(j, "scale_attn_by_inverse_layer_idx", PARE_OPTIONAL, &by_layer, err));
    if (by_layer)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: scale_attn_by_inverse_layer_idx: found true, pare knows false only",
                         j->place);
    if (!scaled) c->attn_scale = 1;
    return PARE_OK;
}

/* h = wte[ids] + wpe[pos] */
static void embed(pare_fwd *f, const pare_model *m, const pare_pass *p, float *h) {
    pare_op_embed(f, h, &m->weights.token_embd.w, p->ids, p->n, m->config.dim, 1);
    pare_op_add_positions(f, h, &m->weights.position_embd.w, p->spans, 0, p->n, m->config.dim);
}

/* h += proj(attention(ln_1 h));  h += proj(gelu(fc(ln_2 h))) */
static void layer(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t i, float *h) {
    const pare_layer *l = &m->weights.layers[i];
    size_t n = p->n, dim = m->config.dim;
    float eps = m->config.norm_eps;

    float *x = pare_fwd_alloc_rows(f, n, dim, sizeof *x);
    float *part = pare_fwd_alloc(f, n * dim, sizeof *part);
    pare_op_layernorm(f, x, h, l->attn_norm.w, l->attn_norm.bias, n, dim, eps);
    pare_block_attention(f, m, p, i, part, x);
    pare_op_add(f, h, h, part, n, dim);
    pare_op_layernorm(f, x, h, l->ffn_norm.w, l->ffn_norm.bias, n, dim, eps);
    pare_block_ffn(f, m, p, i, part, x);
    pare_op_add(f, h, h, part, n, dim);
}

static void finish(pare_fwd *f, const pare_model *m, float *y, const float *h, size_t n) {
    const pare_norm *norm = &m->weights.output_norm;
    pare_op_layernorm(f, y, h, norm->w, norm->bias, n, m->config.dim, m->config.norm_eps);
}

const pare_arch pare_arch_gpt2 = {
    .name = "gpt2",
    .gguf = "gpt2",
    .hf = "gpt2",
    .hf_class = "GPT2LMHeadModel",
    .prefixes = {"transformer."},
    .activation_key = "activation_function",
    .activations = {"gelu_new", "gelu_pytorch_tanh"},
    .weights = weights,
    .ffn = PARE_FFN_GELU,
    .no_rope = true,
    .layer_norm = true,
    .base = {.vocab_size = 50257,
             .dim = 768,
             .n_layers = 12,
             .n_heads = 12,
             .ctx_max = 1024,
             .norm_eps = 1e-5f},
    .read_hf = read_hf,
    .embed = embed,
    .layer = layer,
    .finish = finish,
};
