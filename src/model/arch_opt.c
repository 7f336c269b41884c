/* OPT, arXiv:2205.01068: learned positions (the table has two rows more, position p uses row p +
 * 2), LayerNorm before each part, ReLU, biases everywhere, tied head.
 *
 * OPT-350m differs: the norms stand after the residual additions, there is no final norm, and the
 * embeddings are narrower than the model, with a projection in and one out. No GGUF architecture
 * exists. */
#include "model/config_read.h"
#include "model/model.h"

static const pare_weight_spec weights[] = {
    PARE_GLOBAL_MATRIX(token_embd, "model.decoder.embed_tokens", VOCAB, EMBED),
    PARE_GLOBAL_MATRIX(position_embd, "model.decoder.embed_positions", POS, DIM),
    PARE_GLOBAL_MATRIX(proj_in, "model.decoder.project_in", DIM, EMBED,
                       .flags = PARE_WEIGHT_OPTIONAL),
    PARE_GLOBAL_MATRIX(proj_out, "model.decoder.project_out", EMBED, DIM,
                       .flags = PARE_WEIGHT_OPTIONAL),
    PARE_LAYER_NORM(attn_norm, "model.decoder.layers.#.self_attn_layer_norm", DIM,
                    .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_q, "model.decoder.layers.#.self_attn.q_proj", Q, DIM,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_k, "model.decoder.layers.#.self_attn.k_proj", KV, DIM,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_v, "model.decoder.layers.#.self_attn.v_proj", KV, DIM,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(attn_output, "model.decoder.layers.#.self_attn.out_proj", DIM, Q,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_NORM(ffn_norm, "model.decoder.layers.#.final_layer_norm", DIM,
                    .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(ffn_up, "model.decoder.layers.#.fc1", FFN, DIM, .flags = PARE_BIAS_REQUIRED),
    PARE_LAYER_MATRIX(ffn_down, "model.decoder.layers.#.fc2", DIM, FFN,
                      .flags = PARE_BIAS_REQUIRED),
    PARE_GLOBAL_NORM(output_norm, "model.decoder.final_layer_norm", DIM,
                     .flags = PARE_WEIGHT_OPTIONAL | PARE_BIAS_REQUIRED),
    PARE_GLOBAL_MATRIX(output, "lm_head", VOCAB, EMBED, .flags = PARE_WEIGHT_OPTIONAL),
    {0},
};

static pare_status read_hf(pare_model_config *c, const pare_json *j, pare_error *err) {
    bool removed = false, biases = true, affine = true;
    PARE_TRY(pare_json_bool(j, "do_layer_norm_before", PARE_OPTIONAL, &c->norm_before, err));
    PARE_TRY(pare_json_bool(j, "_remove_final_layer_norm", PARE_OPTIONAL, &removed, err));
    PARE_TRY(pare_json_bool(j, "enable_bias", PARE_OPTIONAL, &biases, err));
    PARE_TRY(pare_json_bool(j, "layer_norm_elementwise_affine", PARE_OPTIONAL, &affine, err));
    if (!biases || !affine)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found false, pare knows true only",
                         j->place, biases ? "layer_norm_elementwise_affine" : "enable_bias");
    PARE_TRY(pare_json_size(j, "word_embed_proj_dim", PARE_OPTIONAL, 1, PARE_MAX_DIM, &c->embed_dim,
                            err));
    c->final_norm = c->norm_before && !removed;
    c->pos_offset = 2;
    return PARE_OK;
}

/* h = (project_in) embed_tokens[ids] + embed_positions[pos + 2] */
static void embed(pare_fwd *f, const pare_model *m, const pare_pass *p, float *h) {
    const pare_model_config *c = &m->config;
    const pare_weights *w = &m->weights;
    if (w->proj_in.w.enc) {
        pare_fwd_marks mark = pare_fwd_mark(f);
        float *narrow = pare_fwd_alloc_rows(f, p->n, c->embed_dim, sizeof *narrow);
        float *wide = pare_fwd_owns(f, p->n) ? pare_fwd_alloc(f, c->dim, sizeof *wide) : h;
        pare_op_embed(f, narrow, &w->token_embd.w, p->ids, p->n, c->embed_dim, 1);
        pare_op_out in = {.name = w->proj_in.name, .w = &w->proj_in.w, .y = wide, .ldy = c->dim};
        pare_op_linear(f, narrow, c->embed_dim, p->n, c->embed_dim, &in, 1);
        if (wide != h) pare_op_scale(f, h, wide, 1, p->n, c->dim);
        pare_fwd_release(f, mark);
    } else {
        pare_op_embed(f, h, &w->token_embd.w, p->ids, p->n, c->dim, 1);
    }
    pare_op_add_positions(f, h, &w->position_embd.w, p->spans, c->pos_offset, p->n, c->dim);
}

/* Norm before:  h += out(attention(norm h));  h += fc2(relu(fc1(norm h)))
 * Norm after:   h = norm(h + out(attention(h)));  h = norm(h + fc2(relu(fc1(h)))) */
static void layer(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t i, float *h) {
    const pare_layer *l = &m->weights.layers[i];
    const pare_model_config *c = &m->config;
    const pare_norm *norms[2] = {&l->attn_norm, &l->ffn_norm};
    float *x = pare_fwd_alloc_rows(f, p->n, c->dim, sizeof *x);
    float *out = pare_fwd_alloc(f, p->n * c->dim, sizeof *out);

    for (int part = 0; part < 2; part++) {
        const pare_norm *norm = norms[part];
        if (c->norm_before)
            pare_op_layernorm(f, x, h, norm->w, norm->bias, p->n, c->dim, c->norm_eps);
        const float *in = c->norm_before ? x : h;
        if (part == 0)
            pare_block_attention(f, m, p, i, out, in);
        else
            pare_block_ffn(f, m, p, i, out, in);
        pare_op_add(f, h, h, out, p->n, c->dim);
        if (!c->norm_before)
            pare_op_layernorm(f, h, h, norm->w, norm->bias, p->n, c->dim, c->norm_eps);
    }
}

static void finish(pare_fwd *f, const pare_model *m, float *y, const float *h, size_t n) {
    const pare_model_config *c = &m->config;
    const pare_weights *w = &m->weights;
    float *normed = w->proj_out.w.enc ? pare_fwd_alloc_rows(f, n, c->dim, sizeof *normed) : y;
    if (c->final_norm)
        pare_op_layernorm(f, normed, h, w->output_norm.w, w->output_norm.bias, n, c->dim,
                          c->norm_eps);
    else
        pare_op_scale(f, normed, h, 1, n, c->dim);
    if (!w->proj_out.w.enc) return;
    pare_op_out out = {.name = w->proj_out.name, .w = &w->proj_out.w, .y = y, .ldy = c->embed_dim};
    pare_op_linear(f, normed, c->dim, n, c->dim, &out, 1);
}

const pare_arch pare_arch_opt = {
    .name = "opt",
    .hf = "opt",
    .hf_class = "OPTForCausalLM",
    .prefixes = {"model.decoder.", "decoder."},
    .activation_key = "activation_function",
    .activations = {"relu"},
    .weights = weights,
    .ffn = PARE_FFN_RELU,
    .no_rope = true,
    .layer_norm = true,
    .base = {.vocab_size = 50272,
             .dim = 768,
             .ffn_dim = 3072,
             .n_layers = 12,
             .n_heads = 12,
             .ctx_max = 2048,
             .norm_eps = 1e-5f},
    .read_hf = read_hf,
    .embed = embed,
    .layer = layer,
    .finish = finish,
};
