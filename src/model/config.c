#include "model/config.h"

#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PARE_ARCH(name) extern const pare_arch pare_arch_##name;
#include "model/archs.def"
#undef PARE_ARCH

static const pare_arch *const archs[] = {
#define PARE_ARCH(name) &pare_arch_##name,
#include "model/archs.def"
#undef PARE_ARCH
};

const pare_arch *pare_arch_at(size_t i) {
    return i < sizeof archs / sizeof archs[0] ? archs[i] : NULL;
}

static bool same(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

const pare_arch *pare_arch_from_gguf(const char *name) {
    for (size_t i = 0; pare_arch_at(i); i++)
        if (same(archs[i]->gguf, name)) return archs[i];
    return NULL;
}

const pare_arch *pare_arch_from_hf(const char *model_type) {
    for (size_t i = 0; pare_arch_at(i); i++)
        if (same(archs[i]->hf, model_type) || same(archs[i]->hf_text, model_type)) return archs[i];
    return NULL;
}

const pare_arch *pare_arch_find(const char *name) {
    for (size_t i = 0; pare_arch_at(i); i++)
        if (same(archs[i]->name, name)) return archs[i];
    return NULL;
}

pare_status pare_arch_unknown(const char *file, const char *place, const char *name, bool gguf,
                              pare_error *err) {
    char known[256] = "";
    for (size_t i = 0; pare_arch_at(i); i++) {
        const char *next = gguf ? archs[i]->gguf : archs[i]->hf;
        size_t used = strlen(known);
        if (next) snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", next);
    }
    return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found \"%.60s\", pare knows %s", file,
                     place, name, known);
}

void pare_config_init(pare_model_config *c, const pare_arch *arch) {
    *c = arch->base;
    for (size_t i = 0; arch->name[i] && i + 1 < sizeof c->arch; i++) c->arch[i] = arch->name[i];
    if (!c->bos) c->bos = -1;
    c->embed_scale = 1;
    c->norm_before = c->final_norm = true;
}

pare_status pare_config_finish(pare_model_config *c, const pare_arch *arch, const char *file,
                               pare_error *err) {
    if (c->n_heads % c->n_kv_heads != 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: heads: found %zu for queries and %zu for keys, expected a multiple",
                         file, c->n_heads, c->n_kv_heads);
    if (!c->head_dim) {
        if (c->dim % c->n_heads != 0)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: heads: found %zu with width %zu and no head width, expected a "
                             "divisor of the width",
                             file, c->n_heads, c->dim);
        c->head_dim = c->dim / c->n_heads;
    }
    if (c->head_dim > PARE_MAX_HEAD_DIM)
        return pare_fail(err, PARE_ERR_INPUT, "%s: head width: found %zu, expected at most %d",
                         file, c->head_dim, PARE_MAX_HEAD_DIM);
    if (arch->no_rope)
        c->rope.theta = c->rope_local.theta = 0;
    else if (c->head_dim % 2 != 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: head width: found %zu, expected an even number (RoPE turns pairs)",
                         file, c->head_dim);
    if (c->n_heads * c->head_dim > PARE_MAX_DIM)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: heads: found %zu of width %zu, expected at most %zu values together",
                         file, c->n_heads, c->head_dim, PARE_MAX_DIM);

    if (c->top_k.m && c->ffn_dim % c->top_k.m != 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: " PARE_TOP_K_KEY ": found a pattern of %zu in rows of %zu, expected "
                         "a divisor",
                         file, c->top_k.m, c->ffn_dim);

    if (!c->embed_dim) c->embed_dim = c->dim;
    if (c->attn_scale == 0) c->attn_scale = 1 / sqrtf((float)c->head_dim);
    if (arch->scaled_embeddings && c->embed_scale == 1) c->embed_scale = sqrtf((float)c->dim);

    bool any_local = false;
    for (size_t i = 0; i < c->n_layers; i++) any_local |= c->local[i];
    if (any_local && !c->window)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: sliding_window: found none, expected one for the local layers", file);
    if (!any_local) c->window = 0;

    if (c->bos >= 0 && (size_t)c->bos >= c->vocab_size) c->bos = -1; /* a class default only */
    return PARE_OK;
}
