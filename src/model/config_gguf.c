/* The configuration in a GGUF header. */
#include "model/config_read.h"
#include "model/names.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A key of the architecture: "llama.block_count". */
typedef struct key_name {
    char s[96];
} key_name;

static key_name key_of(const pare_arch *arch, const char *name) {
    key_name k;
    snprintf(k.s, sizeof k.s, "%s.%s", arch->gguf, name);
    return k;
}
#define KEY(name) key_of(arch, name).s

/* A count that may be given per layer; only equal ones are known. */
static pare_status same_for_all(const pare_gguf *g, const char *key, pare_need need, size_t max,
                                size_t n_layers, size_t *out, pare_error *err) {
    uint32_t each[PARE_MAX_LAYERS];
    if (!pare_gguf_has(g, key) && need == PARE_OPTIONAL) return PARE_OK;
    PARE_TRY(pare_gguf_u32_each(g, key, need, 1, (uint32_t)max, each, n_layers, err));
    for (size_t i = 1; i < n_layers; i++)
        if (each[i] != each[0])
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "%s: %s: found %u in layer %zu and %u in layer 0, pare knows models "
                             "with equal layers",
                             pare_gguf_path(g), key, each[i], i, each[0]);
    *out = each[0];
    return PARE_OK;
}

static pare_status read_shape(pare_model_config *c, const pare_arch *arch, const pare_gguf *g,
                              pare_error *err) {
    const char *file = pare_gguf_path(g);
    PARE_TRY(pare_gguf_size(g, KEY("block_count"), PARE_REQUIRED, 1, PARE_MAX_LAYERS, &c->n_layers,
                            err));
    PARE_TRY(
        pare_gguf_size(g, KEY("embedding_length"), PARE_REQUIRED, 1, PARE_MAX_DIM, &c->dim, err));
    PARE_TRY(
        pare_gguf_size(g, KEY("context_length"), PARE_REQUIRED, 1, PARE_MAX_CTX, &c->ctx_max, err));
    PARE_TRY(same_for_all(g, KEY("feed_forward_length"), PARE_REQUIRED, PARE_MAX_DIM, c->n_layers,
                          &c->ffn_dim, err));
    PARE_TRY(same_for_all(g, KEY("attention.head_count"), PARE_REQUIRED, PARE_MAX_HEADS,
                          c->n_layers, &c->n_heads, err));
    c->n_kv_heads = c->n_heads;
    PARE_TRY(same_for_all(g, KEY("attention.head_count_kv"), PARE_OPTIONAL, PARE_MAX_HEADS,
                          c->n_layers, &c->n_kv_heads, err));
    PARE_TRY(pare_gguf_size(g, KEY("attention.key_length"), PARE_OPTIONAL, 1, PARE_MAX_HEAD_DIM,
                            &c->head_dim, err));
    if (!c->head_dim && c->dim % c->n_heads == 0) c->head_dim = c->dim / c->n_heads;

    size_t other = c->head_dim;
    PARE_TRY(pare_gguf_size(g, KEY("attention.value_length"), PARE_OPTIONAL, 1, PARE_MAX_HEAD_DIM,
                            &other, err));
    if (other != c->head_dim)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found %zu, pare knows values as long as keys (%zu)", file,
                         KEY("attention.value_length"), other, c->head_dim);
    if (!arch->no_rope) {
        PARE_TRY(pare_gguf_size(g, KEY("rope.dimension_count"), PARE_OPTIONAL, 1, PARE_MAX_HEAD_DIM,
                                &other, err));
        if (other != c->head_dim)
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "%s: %s: found %zu, pare turns whole heads only (%zu)", file,
                             KEY("rope.dimension_count"), other, c->head_dim);
    }
    size_t experts = 0;
    PARE_TRY(pare_gguf_size(g, KEY("expert_count"), PARE_OPTIONAL, 0, 65536, &experts, err));
    if (experts)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found %zu, pare knows models without experts", file,
                         KEY("expert_count"), experts);
    return pare_gguf_f32(g,
                         arch->layer_norm ? KEY("attention.layer_norm_epsilon")
                                          : KEY("attention.layer_norm_rms_epsilon"),
                         PARE_REQUIRED, (float)PARE_CONFIG_TINY, 0.99f, &c->norm_eps, err);
}

/* The vocabulary is as large as the embedding has rows; what else speaks of it must agree. */
static pare_status read_vocab(pare_model_config *c, const pare_arch *arch, const pare_gguf *g,
                              pare_error *err) {
    const char *file = pare_gguf_path(g);
    const pare_gguf_tensor *embd = pare_gguf_find(g, "token_embd.weight");
    if (!embd || embd->n_dims != 2 || embd->ne[1] < 1 || embd->ne[1] > PARE_MAX_VOCAB)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: token_embd.weight: found %s, expected a matrix of 1 to %zu rows",
                         file, embd ? "another shape" : "nothing", PARE_MAX_VOCAB);
    c->vocab_size = embd->ne[1];
    size_t claimed = c->vocab_size;
    PARE_TRY(pare_gguf_size(g, KEY("vocab_size"), PARE_OPTIONAL, 1, PARE_MAX_VOCAB, &claimed, err));
    if (claimed != c->vocab_size)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: %s: found %zu, expected %zu as token_embd has rows", file,
                         KEY("vocab_size"), claimed, c->vocab_size);
    pare_gguf_kv tokens;
    if (pare_gguf_kv_find(g, "tokenizer.ggml.tokens", &tokens) && tokens.count > c->vocab_size)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: tokenizer.ggml.tokens: found %zu, expected at most %zu as token_embd "
                         "has rows",
                         file, tokens.count, c->vocab_size);

    uint32_t last = (uint32_t)c->vocab_size - 1, id;
    c->bos = -1;
    if (pare_gguf_has(g, "tokenizer.ggml.bos_token_id")) {
        PARE_TRY(pare_gguf_u32(g, "tokenizer.ggml.bos_token_id", PARE_REQUIRED, 0, last, &id, err));
        c->bos = (int32_t)id;
    }
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (!pare_gguf_has(g, ends[i])) continue;
        PARE_TRY(pare_gguf_u32(g, ends[i], PARE_REQUIRED, 0, last, &id, err));
        c->eos[c->n_eos++] = (int32_t)id;
    }
    return PARE_OK;
}

static pare_status read_rope(pare_model_config *c, const pare_arch *arch, const pare_gguf *g,
                             pare_error *err) {
    pare_rope_config *r = &c->rope;
    const float tiny = (float)PARE_CONFIG_TINY, huge = (float)PARE_CONFIG_HUGE;
    r->theta = 10000;
    PARE_TRY(pare_gguf_f32(g, KEY("rope.freq_base"), PARE_OPTIONAL, 1, huge, &r->theta, err));
    PARE_TRY(
        pare_gguf_f32(g, KEY("rope.scale_linear"), PARE_OPTIONAL, tiny, huge, &r->factor, err));
    PARE_TRY(
        pare_gguf_f32(g, KEY("rope.scaling.factor"), PARE_OPTIONAL, tiny, huge, &r->factor, err));
    const char *type = r->factor > 0 ? "linear" : "none";
    PARE_TRY(pare_gguf_str(g, KEY("rope.scaling.type"), PARE_OPTIONAL, &type, err));
    if (pare_gguf_find(g, "rope_freqs.weight")) {
        pare_name name;
        r->scaling = PARE_ROPE_FACTORS;
        if (pare_name_parse(&name, arch, PARE_NAMES_GGUF, "rope_freqs.weight")) return PARE_OK;
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: rope_freqs.weight: found it, expected none with architecture %s",
                         pare_gguf_path(g), arch->gguf);
    }
    if (strcmp(type, "none") == 0 || r->factor == 0) return PARE_OK;
    if (strcmp(type, "linear") == 0) {
        r->scaling = PARE_ROPE_LINEAR;
        return PARE_OK;
    }
    if (strcmp(type, "yarn") != 0)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found \"%.40s\", pare knows none, linear, yarn",
                         pare_gguf_path(g), KEY("rope.scaling.type"), type);
    r->scaling = PARE_ROPE_YARN;
    r->original_ctx = c->ctx_max;
    PARE_TRY(pare_gguf_size(g, KEY("rope.scaling.original_context_length"), PARE_OPTIONAL, 1,
                            PARE_MAX_CTX, &r->original_ctx, err));
    PARE_TRY(pare_gguf_f32(g, KEY("rope.scaling.yarn_beta_fast"), PARE_OPTIONAL, tiny, huge,
                           &r->beta_fast, err));
    PARE_TRY(pare_gguf_f32(g, KEY("rope.scaling.yarn_beta_slow"), PARE_OPTIONAL, tiny, huge,
                           &r->beta_slow, err));
    float extra = 1; /* beside YaRN's own */
    PARE_TRY(
        pare_gguf_f32(g, KEY("rope.scaling.attn_factor"), PARE_OPTIONAL, tiny, huge, &extra, err));
    r->attn_factor = extra * (r->factor > 1 ? 0.1f * logf(r->factor) + 1 : 1);
    return PARE_OK;
}

pare_status pare_config_gguf_gemma(pare_model_config *c, const pare_gguf *g, size_t pattern,
                                   size_t layers_27b, pare_error *err) {
    const pare_arch *arch = pare_arch_find(c->arch);
    PARE_TRY(pare_gguf_size(g, KEY("attention.sliding_window"), PARE_OPTIONAL, 0, PARE_MAX_CTX,
                            &c->window, err));
    pare_gguf_kv kv;
    if (pare_gguf_kv_find(g, KEY("attention.sliding_window_pattern"), &kv) &&
        kv.type == PARE_GGUF_ARRAY) {
        if (kv.count != c->n_layers ||
            (kv.item != PARE_GGUF_BOOL && kv.item != PARE_GGUF_U8 && kv.item != PARE_GGUF_I8))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: %s: found %zu values of type %s, expected %zu truth values",
                             pare_gguf_path(g), kv.key, kv.count, pare_gguf_type_name(kv.item),
                             c->n_layers);
        for (size_t i = 0; i < c->n_layers; i++) c->local[i] = c->window && kv.data[i] != 0;
    } else {
        PARE_TRY(pare_gguf_size(g, KEY("attention.sliding_window_pattern"), PARE_OPTIONAL, 0,
                                PARE_MAX_LAYERS, &pattern, err));
        for (size_t i = 0; i < c->n_layers; i++)
            c->local[i] = c->window && (pattern == 0 || (i + 1) % pattern != 0);
    }
    const float tiny = (float)PARE_CONFIG_TINY, huge = (float)PARE_CONFIG_HUGE;
    PARE_TRY(pare_gguf_f32(g, KEY("attn_logit_softcapping"), PARE_OPTIONAL, tiny, huge,
                           &c->attn_softcap, err));
    PARE_TRY(pare_gguf_f32(g, KEY("final_logit_softcapping"), PARE_OPTIONAL, tiny, huge,
                           &c->final_softcap, err));
    size_t width = c->n_layers == layers_27b ? c->dim / c->n_heads : c->head_dim;
    /* without a head width pare_config_finish refuses the shape */
    if (width) c->attn_scale = 1 / sqrtf((float)width);
    return PARE_OK;
}

pare_status pare_config_from_gguf(pare_model_config *c, const pare_arch **out, const pare_gguf *g,
                                  pare_error *err) {
    const char *file = pare_gguf_path(g), *name = NULL, *kind = "model";
    PARE_TRY(pare_gguf_str(g, "general.type", PARE_OPTIONAL, &kind, err));
    if (strcmp(kind, "model") != 0)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: general.type: found \"%.40s\", expected \"model\"", file, kind);
    PARE_TRY(pare_gguf_str(g, "general.architecture", PARE_REQUIRED, &name, err));
    const pare_arch *arch = pare_arch_from_gguf(name);
    if (!arch) return pare_arch_unknown(file, "general.architecture", name, true, err);
    pare_config_init(c, arch);
    /* the defaults in `base` are config.json's: here only those of the format hold */
    c->head_dim = 0;
    PARE_TRY(read_shape(c, arch, g, err));
    PARE_TRY(read_vocab(c, arch, g, err));
    if (!arch->no_rope) PARE_TRY(read_rope(c, arch, g, err));
    c->rope_local = c->rope;
    c->attn_softcap = c->final_softcap = 0;
    if (arch->read_gguf) PARE_TRY(arch->read_gguf(c, g, err));
    c->tied = pare_gguf_find(g, "output.weight") == NULL;
    *out = arch;
    return pare_config_finish(c, arch, file, err);
}
