/* GGUF's keys from the canonical configuration, as llama.cpp's converter writes them. */
#include "pipeline/export_config.h"

#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct key_writer {
    pare_gguf_writer *w;
    const char *arch;
    pare_error *err;
    pare_status st; /* the first failure */
} key_writer;

static const char *key_of(const key_writer *k, const char *key, char out[128]) {
    snprintf(out, 128, "%s.%s", k->arch, key);
    return out;
}

static void put_u32(key_writer *k, const char *key, size_t v) {
    char name[128];
    if (k->st != PARE_OK) return;
    if (v > UINT32_MAX)
        k->st = pare_fail(k->err, PARE_ERR_UNSUPPORTED, "%s.%s: found %zu, expected 32 bits",
                          k->arch, key, v);
    else
        k->st = pare_gguf_set_u32(k->w, key_of(k, key, name), (uint32_t)v, k->err);
}

static void put_f32(key_writer *k, const char *key, float v) {
    char name[128];
    if (k->st == PARE_OK) k->st = pare_gguf_set_f32(k->w, key_of(k, key, name), v, k->err);
}

static void put_str(key_writer *k, const char *key, const char *v) {
    char name[128];
    if (k->st == PARE_OK) k->st = pare_gguf_set_str(k->w, key_of(k, key, name), v, k->err);
}

static void put_rope(key_writer *k, const pare_model_config *c) {
    const pare_rope_config *r = &c->rope;
    put_u32(k, "rope.dimension_count", c->head_dim);
    put_f32(k, "rope.freq_base", r->theta);
    if (r->scaling != PARE_ROPE_LINEAR && r->scaling != PARE_ROPE_YARN)
        return; /* llama3: a tensor */
    put_str(k, "rope.scaling.type", r->scaling == PARE_ROPE_YARN ? "yarn" : "linear");
    put_f32(k, "rope.scaling.factor", r->factor);
    if (r->scaling == PARE_ROPE_YARN)
        put_u32(k, "rope.scaling.original_context_length", r->original_ctx);
    if (r->attn_factor > 0) put_f32(k, "rope.scaling.attn_factor", r->attn_factor);
}

/* What the readers of an architecture fix and the file cannot say. */
static pare_status check_sayable(const pare_model_config *c, pare_error *err) {
    if (pare_top_k_is_on(&c->top_k))
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "activations: found a model whose feed-forward activations are sparse "
                         "(" PARE_TOP_K_KEY "), which GGUF files cannot say");
    bool gemma = strncmp(c->arch, "gemma", 5) == 0;
    float scale = c->attn_scale, expected = 1.0f / sqrtf((float)c->head_dim);
    if (gemma && c->n_layers == (strcmp(c->arch, "gemma2") == 0 ? 46 : 62))
        expected = 1.0f / sqrtf((float)c->dim / (float)c->n_heads);
    if (fabsf(scale - expected) > 1e-5f * expected)
        return pare_fail(
            err, PARE_ERR_UNSUPPORTED,
            "attention scale: found %g, expected %g: GGUF readers derive it from the shape",
            (double)scale, (double)expected);
    size_t pattern = strcmp(c->arch, "gemma2") == 0 ? 2 : 6;
    for (size_t i = 0; i < c->n_layers; i++)
        if (gemma ? c->local[i] != ((i + 1) % pattern != 0)
                  : c->local[i] && c->window && c->window < c->ctx_max)
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "layer %zu: found a %s layer, which GGUF files of arch %s cannot say",
                             i, c->local[i] ? "sliding-window" : "global", c->arch);
    return PARE_OK;
}

const pare_arch *pare_export_gguf_arch(const pare_model_config *c) {
    const pare_arch *arch = pare_arch_find(strcmp(c->arch, "mistral") == 0 ? "llama" : c->arch);
    return arch && arch->gguf ? arch : NULL;
}

pare_status pare_export_check_gguf(const pare_model_config *c, pare_error *err) {
    if (!pare_export_gguf_arch(c))
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "found architecture %s, expected one that GGUF files have", c->arch);
    return check_sayable(c, err);
}

pare_status pare_export_config_gguf(pare_gguf_writer *w, const pare_model_config *c,
                                    const char *name, pare_error *err) {
    PARE_TRY(pare_export_check_gguf(c, err));
    const pare_arch *arch = pare_export_gguf_arch(c);
    PARE_TRY(pare_gguf_set_str(w, "general.architecture", arch->gguf, err));
    PARE_TRY(pare_gguf_set_str(w, "general.type", "model", err));
    PARE_TRY(pare_gguf_set_str(w, "general.name", name, err));
    key_writer k = {w, arch->gguf, err, PARE_OK};
    put_u32(&k, "vocab_size", c->vocab_size);
    put_u32(&k, "context_length", c->ctx_max);
    put_u32(&k, "embedding_length", c->dim);
    put_u32(&k, "block_count", c->n_layers);
    put_u32(&k, "feed_forward_length", c->ffn_dim);
    put_u32(&k, "attention.head_count", c->n_heads);
    put_u32(&k, "attention.head_count_kv", c->n_kv_heads);
    if (c->rope.theta > 0) {
        put_f32(&k, "attention.layer_norm_rms_epsilon", c->norm_eps);
        put_u32(&k, "attention.key_length", c->head_dim);
        put_u32(&k, "attention.value_length", c->head_dim);
        put_rope(&k, c);
    } else {
        put_f32(&k, "attention.layer_norm_epsilon", c->norm_eps);
    }
    if (c->window && strncmp(c->arch, "gemma", 5) == 0)
        put_u32(&k, "attention.sliding_window", c->window);
    if (c->attn_softcap > 0) put_f32(&k, "attn_logit_softcapping", c->attn_softcap);
    if (c->final_softcap > 0) put_f32(&k, "final_logit_softcapping", c->final_softcap);
    return k.st;
}
