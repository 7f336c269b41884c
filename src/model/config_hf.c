/* The configuration in a config.json of transformers, old forms and new. */
#include "model/config_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

pare_status pare_config_json_float(const pare_json *j, const char *key, double min, double max,
                                   float *out, pare_error *err) {
    double value = *out;
    PARE_TRY(pare_json_double(j, key, PARE_OPTIONAL, min, max, &value, err));
    *out = (float)value;
    return PARE_OK;
}

static bool has(const pare_json *j, const char *key) { return pare_json_get(j, key) != NULL; }
/* Present as null, which means "none" where a default exists. */
static bool is_null(const pare_json *j, const char *key) {
    return json_is_null(json_object_get(j->root, key));
}

/* A size under one of two names; required unless *out holds a default. */
static pare_status size_of(const pare_json *j, const char *key, const char *other, size_t max,
                           size_t *out, pare_error *err) {
    if (other && has(j, other)) key = other;
    return pare_json_size(j, key, *out ? PARE_OPTIONAL : PARE_REQUIRED, 1, max, out, err);
}

static pare_status read_shape(pare_model_config *c, const pare_json *j, pare_error *err) {
    PARE_TRY(size_of(j, "num_hidden_layers", "n_layer", PARE_MAX_LAYERS, &c->n_layers, err));
    PARE_TRY(size_of(j, "hidden_size", "n_embd", PARE_MAX_DIM, &c->dim, err));
    PARE_TRY(size_of(j, "num_attention_heads", "n_head", PARE_MAX_HEADS, &c->n_heads, err));
    PARE_TRY(size_of(j, "vocab_size", NULL, PARE_MAX_VOCAB, &c->vocab_size, err));
    PARE_TRY(size_of(j, "max_position_embeddings", "n_positions", PARE_MAX_CTX, &c->ctx_max, err));
    if (is_null(j, "num_key_value_heads") || !c->n_kv_heads) c->n_kv_heads = c->n_heads;
    PARE_TRY(size_of(j, "num_key_value_heads", NULL, PARE_MAX_HEADS, &c->n_kv_heads, err));
    if (is_null(j, "head_dim")) c->head_dim = 0;
    PARE_TRY(pare_json_size(j, "head_dim", PARE_OPTIONAL, 1, PARE_MAX_HEAD_DIM, &c->head_dim, err));
    return PARE_OK;
}

/* GPT-2 and OPT have names of their own; GPT-2's is usually null: four times the width. */
static pare_status read_ffn(pare_model_config *c, const pare_arch *arch, const pare_json *j,
                            pare_error *err) {
    const char *other = has(j, "n_inner") ? "n_inner" : "ffn_dim";
    if (arch->layer_norm && !c->ffn_dim) c->ffn_dim = 4 * c->dim;
    return size_of(j, "intermediate_size", other, PARE_MAX_DIM, &c->ffn_dim, err);
}

static pare_status read_activation(const pare_arch *arch, const pare_json *j, pare_error *err) {
    const char *found = arch->activations[0];
    PARE_TRY(pare_json_str(j, arch->activation_key, PARE_OPTIONAL, &found, err));
    for (size_t i = 0; i < 4 && arch->activations[i]; i++)
        if (strcmp(found, arch->activations[i]) == 0) return PARE_OK;
    return pare_fail(err, PARE_ERR_UNSUPPORTED,
                     "%s: %s: found \"%.40s\", pare knows \"%s\" for model_type \"%s\"", j->place,
                     arch->activation_key, found, arch->activations[0], arch->hf);
}

/* One id, a list, null, or -1 for none; out of range is an error. */
static pare_status read_ids(const pare_json *j, const char *key, size_t vocab, int32_t *ids,
                            size_t max, size_t *n, pare_error *err) {
    const json_t *value = pare_json_get(j, key);
    if (is_null(j, key)) *n = 0;
    if (!value) return PARE_OK;
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > max)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %zu ids, expected at most %zu",
                         j->place, key, count, max);
    *n = 0;
    for (size_t i = 0; i < count; i++) {
        char path[64];
        if (json_is_array(value))
            snprintf(path, sizeof path, "%s.%zu", key, i);
        else
            snprintf(path, sizeof path, "%s", key);
        int64_t id = -1;
        PARE_TRY(pare_json_int(j, path, PARE_REQUIRED, -1, (int64_t)vocab - 1, &id, err));
        if (id >= 0) ids[(*n)++] = (int32_t)id;
    }
    return PARE_OK;
}

/* ---- RoPE ---- */

static pare_status read_yarn(pare_rope_config *r, const pare_json *j, size_t ctx_max,
                             pare_error *err) {
    const double tiny = PARE_CONFIG_TINY, huge = PARE_CONFIG_HUGE;
    float mscale = 0, mscale_all = 0;
    bool truncate = true;
    if (!r->factor) r->factor = (float)ctx_max / (float)r->original_ctx;
    PARE_TRY(pare_config_json_float(j, "beta_fast", tiny, huge, &r->beta_fast, err));
    PARE_TRY(pare_config_json_float(j, "beta_slow", tiny, huge, &r->beta_slow, err));
    PARE_TRY(pare_json_bool(j, "truncate", PARE_OPTIONAL, &truncate, err));
    r->no_truncate = !truncate;
    PARE_TRY(pare_config_json_float(j, "mscale", 0, huge, &mscale, err));
    PARE_TRY(pare_config_json_float(j, "mscale_all_dim", 0, huge, &mscale_all, err));
    float log_factor = r->factor > 1 ? 0.1f * logf(r->factor) : 0;
    r->attn_factor = mscale > 0 && mscale_all > 0
                         ? (mscale * log_factor + 1) / (mscale_all * log_factor + 1)
                         : log_factor + 1;
    return pare_config_json_float(j, "attention_factor", tiny, huge, &r->attn_factor, err);
}

/* One object of RoPE parameters; r->theta holds the default. root NULL: nothing but the default. */
static pare_status read_rope_object(pare_rope_config *r, const pare_json *j, size_t ctx_max,
                                    pare_error *err) {
    if (!j->root) return PARE_OK;
    const double tiny = PARE_CONFIG_TINY, huge = PARE_CONFIG_HUGE;
    const char *key = has(j, "rope_type") ? "rope_type" : "type", *type = "default";
    float partial = 1;
    PARE_TRY(pare_json_str(j, key, PARE_OPTIONAL, &type, err));
    PARE_TRY(pare_config_json_float(j, "rope_theta", 1, huge, &r->theta, err));
    PARE_TRY(pare_config_json_float(j, "factor", tiny, huge, &r->factor, err));
    PARE_TRY(pare_config_json_float(j, "partial_rotary_factor", 0, 1, &partial, err));
    if (partial != 1)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: partial_rotary_factor: found %g, pare turns whole heads only",
                         j->place, (double)partial);
    if (strcmp(type, "default") == 0) return PARE_OK;
    r->original_ctx = ctx_max;
    PARE_TRY(pare_json_size(j, "original_max_position_embeddings", PARE_OPTIONAL, 1, PARE_MAX_CTX,
                            &r->original_ctx, err));
    if (strcmp(type, "yarn") == 0) {
        r->scaling = PARE_ROPE_YARN;
        return read_yarn(r, j, ctx_max, err);
    }
    bool llama3 = strcmp(type, "llama3") == 0;
    if (!llama3 && strcmp(type, "linear") != 0)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found \"%.40s\", pare knows default, linear, llama3, yarn",
                         j->place, key, type);
    r->scaling = llama3 ? PARE_ROPE_LLAMA3 : PARE_ROPE_LINEAR;
    double factor;
    PARE_TRY(pare_json_double(j, "factor", PARE_REQUIRED, tiny, huge, &factor, err));
    if (!llama3) return PARE_OK;
    r->low_freq_factor = 1;
    r->high_freq_factor = 4;
    PARE_TRY(pare_config_json_float(j, "low_freq_factor", tiny, huge, &r->low_freq_factor, err));
    PARE_TRY(pare_config_json_float(j, "high_freq_factor", tiny, huge, &r->high_freq_factor, err));
    if (r->high_freq_factor <= r->low_freq_factor)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: high_freq_factor: found %g, expected more than low_freq_factor (%g)",
                         j->place, (double)r->high_freq_factor, (double)r->low_freq_factor);
    return PARE_OK;
}

/* Old: rope_theta, rope_local_base_freq, rope_scaling. New: rope_parameters, one object or one for
 * each kind of layer. */
static pare_status read_rope(pare_model_config *c, const pare_json *j, pare_error *err) {
    const double huge = PARE_CONFIG_HUGE;
    bool own_local = c->rope_local.theta > 0;
    if (!c->rope.theta) c->rope.theta = 10000;
    PARE_TRY(pare_config_json_float(j, "rope_theta", 1, huge, &c->rope.theta, err));
    PARE_TRY(pare_config_json_float(j, "rope_local_base_freq", 1, huge, &c->rope_local.theta, err));

    const char *key = has(j, "rope_scaling") ? "rope_scaling" : "rope_parameters";
    if (!has(j, key)) {
        if (!own_local) c->rope_local = c->rope;
        return PARE_OK;
    }
    char full[64], sliding[64];
    snprintf(full, sizeof full, "%s.full_attention", key);
    snprintf(sliding, sizeof sliding, "%s.sliding_attention", key);
    bool nested = has(j, full) || has(j, sliding);
    pare_json part = {0};
    PARE_TRY(pare_json_part(&part, j, nested ? full : key, PARE_OPTIONAL, err));
    pare_status st = read_rope_object(&c->rope, &part, c->ctx_max, err);
    pare_json_free(&part);
    if (st != PARE_OK || (!nested && own_local)) return st;
    if (!nested) {
        c->rope_local = c->rope;
        return PARE_OK;
    }
    if (!own_local) c->rope_local = (pare_rope_config){.theta = 10000};
    PARE_TRY(pare_json_part(&part, j, sliding, PARE_OPTIONAL, err));
    st = read_rope_object(&c->rope_local, &part, c->ctx_max, err);
    pare_json_free(&part);
    return st;
}

/* ---- windows ---- */

pare_status pare_config_hf_window(pare_model_config *c, const pare_json *j, pare_error *err) {
    if (is_null(j, "sliding_window")) c->window = 0;
    return pare_json_size(j, "sliding_window", PARE_OPTIONAL, 1, PARE_MAX_CTX, &c->window, err);
}

/* layer_types, where given. */
static pare_status read_layer_types(pare_model_config *c, const pare_json *j, bool *given,
                                    pare_error *err) {
    json_t *list = NULL;
    PARE_TRY(pare_json_array(j, "layer_types", PARE_OPTIONAL, &list, err));
    *given = list != NULL;
    if (!list) return PARE_OK;
    if (json_array_size(list) != c->n_layers)
        return pare_fail(err, PARE_ERR_INPUT, "%s: layer_types: found %zu, expected %zu as layers",
                         j->place, json_array_size(list), c->n_layers);
    for (size_t i = 0; i < c->n_layers; i++) {
        char path[48];
        const char *type;
        snprintf(path, sizeof path, "layer_types.%zu", i);
        PARE_TRY(pare_json_str(j, path, PARE_REQUIRED, &type, err));
        c->local[i] = strcmp(type, "sliding_attention") == 0;
        if (!c->local[i] && strcmp(type, "full_attention") != 0)
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "%s: %s: found \"%.40s\", pare knows full_attention, "
                             "sliding_attention",
                             j->place, path, type);
    }
    return PARE_OK;
}

pare_status pare_config_hf_qwen(pare_model_config *c, const pare_json *j, pare_error *err) {
    bool use = false, given;
    size_t first = 28;
    c->window = 4096;
    PARE_TRY(pare_json_bool(j, "use_sliding_window", PARE_OPTIONAL, &use, err));
    PARE_TRY(pare_config_hf_window(c, j, err));
    PARE_TRY(pare_json_size(j, "max_window_layers", PARE_OPTIONAL, 0, SIZE_MAX, &first, err));
    if (!use) c->window = 0;
    PARE_TRY(read_layer_types(c, j, &given, err));
    if (!given)
        for (size_t i = 0; i < c->n_layers; i++) c->local[i] = c->window && i >= first;
    return PARE_OK;
}

pare_status pare_config_hf_gemma(pare_model_config *c, const pare_json *j, size_t pattern,
                                 pare_error *err) {
    const double tiny = PARE_CONFIG_TINY, huge = PARE_CONFIG_HUGE;
    float scalar = 256;
    bool given;
    PARE_TRY(pare_config_json_float(j, "query_pre_attn_scalar", tiny, huge, &scalar, err));
    c->attn_scale = 1 / sqrtf(scalar);
    PARE_TRY(pare_config_hf_window(c, j, err));
    PARE_TRY(read_layer_types(c, j, &given, err));
    if (!given) {
        const char *key =
            has(j, "sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern";
        PARE_TRY(pare_json_size(j, key, PARE_OPTIONAL, 1, PARE_MAX_LAYERS, &pattern, err));
        for (size_t i = 0; i < c->n_layers; i++) c->local[i] = c->window && (i + 1) % pattern != 0;
    }
    if (is_null(j, "attn_logit_softcapping")) c->attn_softcap = 0;
    if (is_null(j, "final_logit_softcapping")) c->final_softcap = 0;
    PARE_TRY(
        pare_config_json_float(j, "attn_logit_softcapping", tiny, huge, &c->attn_softcap, err));
    return pare_config_json_float(j, "final_logit_softcapping", tiny, huge, &c->final_softcap, err);
}

/* ---- activation sparsity ---- */

static pare_status read_top_k(pare_top_k *k, const pare_json *j, pare_error *err) {
    const char *score = "magnitude";
    if (!j->root) return PARE_OK;
    PARE_TRY(pare_json_double(j, "sparsity", PARE_OPTIONAL, 0, 1, &k->share, err));
    if (!has(j, "sparsity")) {
        PARE_TRY(pare_json_size(j, "m", PARE_REQUIRED, 1, 64, &k->m, err));
        PARE_TRY(pare_json_size(j, "n", PARE_REQUIRED, 1, k->m, &k->n, err));
    }
    PARE_TRY(pare_json_str(j, "score", PARE_OPTIONAL, &score, err));
    if (strcmp(score, "value") == 0) k->score = PARE_TOP_K_VALUE;
    if (k->score == PARE_TOP_K_VALUE || strcmp(score, "magnitude") == 0) return PARE_OK;
    return pare_fail(err, PARE_ERR_UNSUPPORTED,
                     "%s: score: found \"%.40s\", pare knows magnitude, value", j->place, score);
}

/* ---- the whole ---- */

static float round_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* transformers multiplies embeddings by sqrt(dim) rounded to the checkpoint's dtype. In f16 the
 * rounding is left out: no released Gemma is stored so. */
static pare_status read_embed_scale(pare_model_config *c, const pare_json *whole,
                                    const pare_json *j, pare_error *err) {
    const char *dtype = "";
    static const char *const keys[] = {"torch_dtype", "dtype"};
    for (size_t i = 0; i < 2; i++) {
        PARE_TRY(pare_json_str(whole, keys[i], PARE_OPTIONAL, &dtype, err));
        PARE_TRY(pare_json_str(j, keys[i], PARE_OPTIONAL, &dtype, err));
    }
    c->embed_scale = sqrtf((float)c->dim);
    if (strcmp(dtype, "bfloat16") == 0) c->embed_scale = round_to_bf16(c->embed_scale);
    return PARE_OK;
}

static pare_status read_model(pare_model_config *c, const pare_arch *arch, const pare_json *whole,
                              const pare_json *j, pare_error *err) {
    pare_config_init(c, arch);
    PARE_TRY(read_shape(c, j, err));
    PARE_TRY(read_ffn(c, arch, j, err));
    PARE_TRY(read_activation(arch, j, err));
    /* OPT's epsilon is torch's default and has no key */
    const char *eps = has(j, "layer_norm_epsilon") ? "layer_norm_epsilon" : "rms_norm_eps";
    PARE_TRY(pare_config_json_float(j, eps, PARE_CONFIG_TINY, 0.99, &c->norm_eps, err));
    if (!arch->no_rope) PARE_TRY(read_rope(c, j, err));

    size_t n_bos = c->bos >= 0;
    PARE_TRY(read_ids(j, "bos_token_id", c->vocab_size, &c->bos, 1, &n_bos, err));
    if (!n_bos) c->bos = -1;
    PARE_TRY(read_ids(j, "eos_token_id", c->vocab_size, c->eos, PARE_MAX_EOS, &c->n_eos, err));
    if (arch->scaled_embeddings) PARE_TRY(read_embed_scale(c, whole, j, err));
    if (arch->read_hf) PARE_TRY(arch->read_hf(c, j, err));
    pare_json part = {0};
    PARE_TRY(pare_json_part(&part, whole, PARE_TOP_K_KEY, PARE_OPTIONAL, err));
    pare_status st = read_top_k(&c->top_k, &part, err);
    pare_json_free(&part);
    PARE_TRY(st);
    return pare_config_finish(c, arch, whole->place, err);
}

pare_status pare_config_from_hf(pare_model_config *c, const pare_arch **out, const pare_json *json,
                                pare_error *err) {
    const char *type = NULL;
    PARE_TRY(pare_json_str(json, "model_type", PARE_REQUIRED, &type, err));
    const pare_arch *arch = pare_arch_from_hf(type);
    if (!arch) {
        pare_status st = pare_arch_unknown(json->place, "model_type", type, false, err);
        if (err && has(json, "auto_map")) {
            size_t used = strlen(err->message);
            snprintf(err->message + used, sizeof err->message - used,
                     " (code that comes with a model is never run)");
        }
        return st;
    }
    *out = arch;
    if (!arch->hf_text || strcmp(type, arch->hf_text) != 0)
        return read_model(c, arch, json, json, err);
    /* a multimodal model: its text part */
    pare_json text = {0};
    PARE_TRY(pare_json_part(&text, json, "text_config", PARE_REQUIRED, err));
    pare_status st = read_model(c, arch, json, &text, err);
    pare_json_free(&text);
    return st;
}
