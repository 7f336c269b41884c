/* The forward pass: what all architectures do the same way. Each architecture's own steps are in
 * arch_NAME.c. */
#include "model/model.h"

void pare_pass_begin(pare_fwd *f, const pare_model *m, pare_pass *p) {
    p->angles = p->angles_local = NULL;
    if (!m->rope.half) return;
    p->angles = pare_fwd_alloc_rows(f, p->n, pare_op_angles_len(&m->rope, 1), sizeof(float));
    pare_op_rope_angles(f, p->angles, &m->rope, p->spans, p->n);
    if (!m->config.window) return;
    p->angles_local =
        pare_fwd_alloc_rows(f, p->n, pare_op_angles_len(&m->rope_local, 1), sizeof(float));
    pare_op_rope_angles(f, p->angles_local, &m->rope_local, p->spans, p->n);
}

void pare_pass_embed(pare_fwd *f, const pare_model *m, const pare_pass *p, float *h) {
    m->arch->embed(f, m, p, h);
}

void pare_pass_layer(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer, float *h) {
    pare_fwd_marks mark = pare_fwd_mark(f);
    m->arch->layer(f, m, p, layer, h);
    pare_fwd_release(f, mark);
}

void pare_pass_finish(pare_fwd *f, const pare_model *m, float *y, const float *h, size_t n) {
    pare_fwd_marks mark = pare_fwd_mark(f);
    m->arch->finish(f, m, y, h, n);
    pare_fwd_release(f, mark);
}

/* Entries [first, first + count) of the vocabulary; count 0: all. */
static void logits_of(pare_fwd *f, const pare_model *m, float *logits, const float *y, size_t n,
                      size_t first, size_t count) {
    const pare_model_config *c = &m->config;
    size_t width = count ? count : c->vocab_size;
    pare_op_out head = {.name = m->head->name,
                        .w = &m->head->w,
                        .y = logits,
                        .ldy = width,
                        .row0 = first,
                        .rows = count};
    pare_op_linear(f, y, c->embed_dim, n, c->embed_dim, &head, 1);
    if (c->final_softcap > 0) pare_op_softcap(f, logits, logits, c->final_softcap, n, width);
}

void pare_pass_logits(pare_fwd *f, const pare_model *m, float *logits, const float *y, size_t n) {
    logits_of(f, m, logits, y, n, 0, 0);
}

/* Many rows at a time, that the head's weights are unpacked rarely; then only a part of the
 * vocabulary has room. */
void pare_pass_logprobs(pare_fwd *f, const pare_model *m, float *logprob, int32_t *top,
                        const float *y, size_t n, const int32_t *targets, float *logits,
                        size_t room) {
    enum { ROWS = 512, GRAIN = 64 };
    size_t vocab = m->config.vocab_size, rows = n < ROWS ? n : ROWS;
    pare_fwd_marks mark = pare_fwd_mark(f);
    size_t count = vocab, most = f->many ? ROWS : rows; /* the cut changes the last bits */
    if (room / most < vocab) count = room / most / GRAIN * GRAIN;
    if (!count && vocab) { /* a vocabulary too small to be cut */
        rows = room / vocab;
        count = vocab;
    }
    pare_logprob p = {.lse = pare_fwd_alloc(f, rows, sizeof(double)),
                      .target = pare_fwd_alloc(f, rows, sizeof(float)),
                      .largest = pare_fwd_alloc(f, rows, sizeof(float))};
    for (size_t some; n; n -= some) {
        some = n < rows ? n : rows;
        p.targets = targets;
        p.top = top;
        for (size_t first = 0; first < vocab; first += count) {
            size_t width = vocab - first < count ? vocab - first : count;
            logits_of(f, m, logits, y, some, first, width == vocab ? 0 : width);
            pare_op_logprob_block(f, &p, logits, width, some, first, width);
        }
        pare_op_logprob_finish(f, &p, logprob, some);
        if (pare_fwd_planning(f)) break; /* the pointers are NULL */
        y += some * m->config.embed_dim;
        targets += some;
        logprob += some;
        if (top) top += some;
    }
    pare_fwd_release(f, mark);
}

void pare_pass_run(pare_fwd *f, const pare_model *m, pare_pass *p, float *y) {
    pare_fwd_marks mark = pare_fwd_mark(f);
    pare_pass_begin(f, m, p);
    float *h = pare_fwd_alloc_rows(f, p->n, m->config.dim, sizeof *h);
    pare_pass_embed(f, m, p, h);
    for (size_t l = 0; l < m->config.n_layers; l++) pare_pass_layer(f, m, p, l, h);
    pare_pass_finish(f, m, y, h, p->n);
    pare_fwd_release(f, mark);
}

static pare_op_out out_of(const pare_linear *l, float *y, size_t ldy) {
    return (pare_op_out){.name = l->name,
                         .w = &l->w,
                         .bias = l->bias,
                         .y = y,
                         .ldy = ldy,
                         .adapter = l->adapter,
                         .act = l->act,
                         .codes = l->act_codes,
                         .row_sums = l->row_sums};
}

/* The pass's spans over its own keys and values, which lie in the order of the tokens: each as
 * layer 0, of its prefix too. */
static const pare_attn_span *plain_spans(pare_fwd *f, const pare_pass *p, size_t layer,
                                         const float *k, const float *v, size_t ld,
                                         const pare_model_config *c) {
    size_t count = p->n_spans ? p->n_spans : 1;
    pare_attn_span *spans = pare_fwd_alloc(f, count, sizeof *spans);
    pare_kv_layer *layers = pare_fwd_alloc(f, count, sizeof *layers);
    pare_attn_prefix *fronts = pare_fwd_alloc(f, count, sizeof *fronts);
    if (pare_fwd_planning(f)) return p->spans;
    if (f->w->id == 0)
        for (size_t i = 0, row = 0; i < count; row += spans[i++].n) {
            layers[i] =
                pare_kv_layer_of(k + row * ld, v + row * ld, ld, c->n_kv_heads, c->head_dim);
            const pare_attn_prefix *front = p->spans ? p->spans[i].prefix : NULL;
            if (front) fronts[i] = (pare_attn_prefix){front->layers + layer, front->n};
            spans[i] = (pare_attn_span){.layers = &layers[i],
                                        .n = p->spans ? p->spans[i].n : p->n,
                                        .prefix = front ? &fronts[i] : NULL};
        }
    pare_barrier(f->w);
    return spans;
}

void pare_block_attention(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer,
                          float *out, const float *a) {
    const pare_model_config *c = &m->config;
    const pare_layer *l = &m->weights.layers[layer];
    bool local = c->window && c->local[layer];
    pare_fwd_marks mark = pare_fwd_mark(f);
    size_t n = p->n, q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;

    /* q, k, v lie side by side in one buffer, which a fused matrix fills at once */
    size_t ld = q_dim + 2 * kv_dim;
    float *q = pare_fwd_alloc(f, n * ld, sizeof *q);
    float *k = q ? q + q_dim : NULL, *v = q ? k + kv_dim : NULL;
    if (l->attn_qkv.w.enc) {
        pare_op_out qkv = out_of(&l->attn_qkv, q, ld);
        pare_op_linear(f, a, c->dim, n, c->dim, &qkv, 1);
    } else {
        pare_op_out outs[3] = {out_of(&l->attn_q, q, ld), out_of(&l->attn_k, k, ld),
                               out_of(&l->attn_v, v, ld)};
        pare_op_linear(f, a, c->dim, n, c->dim, outs, 3);
    }
    if (l->act_qkv) {
        pare_op_act_quantize(f, &l->act_qkv[0], q, ld, n, q_dim);
        pare_op_act_quantize(f, &l->act_qkv[1], k, ld, n, kv_dim);
        pare_op_act_quantize(f, &l->act_qkv[2], v, ld, n, kv_dim);
    }
    if (pare_fwd_owns(f, n)) {
        float *own = pare_fwd_alloc_rows(f, n, q_dim + kv_dim, sizeof *own);
        pare_op_scale(f, own, q, 1, n, q_dim + kv_dim);
        q = own;
        k = own ? own + q_dim : NULL;
    }
    if (l->attn_q_norm.w)
        pare_op_head_rmsnorm(f, q, ld, q, ld, l->attn_q_norm.w, n, c->n_heads, c->head_dim,
                             c->norm_eps);
    if (l->attn_k_norm.w)
        pare_op_head_rmsnorm(f, k, ld, k, ld, l->attn_k_norm.w, n, c->n_kv_heads, c->head_dim,
                             c->norm_eps);
    /* q and k are neighbours: rotated as one row of heads */
    pare_op_rope(f, q, ld, n, c->n_heads + c->n_kv_heads, local ? &m->rope_local : &m->rope,
                 local ? p->angles_local : p->angles);

    const pare_attn_span *spans = p->spans;
    size_t at = layer;
    if (!spans || !spans->layers) {
        spans = plain_spans(f, p, layer, k, v, ld, c);
        at = 0;
    } else {
        pare_op_kv_store(f, spans, at, k, ld, v, ld, n);
    }
    pare_attn attn = {.n_heads = c->n_heads,
                      .window = local ? c->window : 0,
                      .scale = c->attn_scale,
                      .softcap = c->attn_softcap,
                      .many = f->many,
                      .integers = f->compute == PARE_COMPUTE_FAST,
                      .bf16 = f->compute == PARE_COMPUTE_FAST};
    if (f->attn_probe && !pare_fwd_planning(f))
        f->attn_probe(f, f->attn_probe_arg, q, ld, spans, p->n_spans, at, &attn, n);
    float *o = pare_fwd_alloc(f, n * q_dim, sizeof *o);
    pare_op_attention(f, o, q_dim, q, ld, spans, p->n_spans, at, &attn, c->n_kv_heads, c->head_dim,
                      n);

    pare_op_out output = out_of(&l->attn_output, out, c->dim);
    pare_op_linear(f, o, q_dim, n, q_dim, &output, 1);
    pare_fwd_release(f, mark);
}

void pare_block_ffn(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer, float *out,
                    const float *x) {
    const pare_model_config *c = &m->config;
    const pare_ffn kind = m->arch->ffn;
    const pare_layer *l = &m->weights.layers[layer];
    pare_fwd_marks mark = pare_fwd_mark(f);
    size_t n = p->n, ffn = c->ffn_dim;

    float *up = pare_fwd_alloc(f, n * ffn, sizeof *up);
    float *y = pare_fwd_owns(f, n) ? pare_fwd_alloc_rows(f, n, ffn, sizeof *y) : up;
    if (kind == PARE_FFN_SILU_GLU || kind == PARE_FFN_GELU_GLU) {
        float *gate = pare_fwd_alloc(f, n * ffn, sizeof *gate);
        pare_op_out outs[2] = {out_of(&l->ffn_gate, gate, ffn), out_of(&l->ffn_up, up, ffn)};
        pare_op_linear(f, x, c->dim, n, c->dim, outs, 2);
        if (kind == PARE_FFN_SILU_GLU)
            pare_op_silu_mul(f, y, gate, up, n, ffn);
        else
            pare_op_gelu_mul(f, y, gate, up, n, ffn);
    } else {
        pare_op_out outs = out_of(&l->ffn_up, up, ffn);
        pare_op_linear(f, x, c->dim, n, c->dim, &outs, 1);
        if (kind == PARE_FFN_GELU)
            pare_op_gelu(f, y, up, n, ffn);
        else
            pare_op_relu(f, y, up, n, ffn);
    }
    pare_op_top_k(f, y, n, ffn, &c->top_k);
    pare_op_out down = out_of(&l->ffn_down, out, c->dim);
    pare_op_linear(f, y, ffn, n, ffn, &down, 1);
    pare_fwd_release(f, mark);
}

void pare_block_llama(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer,
                      float *h) {
    const pare_layer *l = &m->weights.layers[layer];
    size_t n = p->n, dim = m->config.dim;
    float eps = m->config.norm_eps;

    float *x = pare_fwd_alloc_rows(f, n, dim, sizeof *x);
    float *part = pare_fwd_alloc(f, n * dim, sizeof *part);
    pare_op_rmsnorm(f, x, h, l->attn_norm.w, n, dim, eps);
    pare_block_attention(f, m, p, layer, part, x);
    pare_op_add_rmsnorm(f, x, h, part, l->ffn_norm.w, n, dim, eps);
    pare_block_ffn(f, m, p, layer, part, x);
    pare_op_add(f, h, h, part, n, dim);
}

void pare_block_gemma(pare_fwd *f, const pare_model *m, const pare_pass *p, size_t layer,
                      float *h) {
    const pare_layer *l = &m->weights.layers[layer];
    size_t n = p->n, dim = m->config.dim;
    float eps = m->config.norm_eps;

    float *x = pare_fwd_alloc_rows(f, n, dim, sizeof *x);
    float *part = pare_fwd_alloc(f, n * dim, sizeof *part);
    float *normed = pare_fwd_owns(f, n) ? pare_fwd_alloc_rows(f, n, dim, sizeof *normed) : part;
    pare_op_rmsnorm(f, x, h, l->attn_norm.w, n, dim, eps);
    pare_block_attention(f, m, p, layer, part, x);
    pare_op_rmsnorm(f, normed, part, l->post_attention_norm.w, n, dim, eps);
    pare_op_add_rmsnorm(f, x, h, normed, l->ffn_norm.w, n, dim, eps);
    pare_block_ffn(f, m, p, layer, part, x);
    pare_op_rmsnorm(f, normed, part, l->post_ffw_norm.w, n, dim, eps);
    pare_op_add(f, h, h, normed, n, dim);
}

void pare_embed_scaled(pare_fwd *f, const pare_model *m, const pare_pass *p, float *h) {
    pare_op_embed(f, h, &m->weights.token_embd.w, p->ids, p->n, m->config.dim,
                  m->config.embed_scale);
}

void pare_finish_rmsnorm(pare_fwd *f, const pare_model *m, float *y, const float *h, size_t n) {
    pare_op_rmsnorm(f, y, h, m->weights.output_norm.w, n, m->config.dim, m->config.norm_eps);
}
