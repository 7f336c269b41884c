/* config.json from the canonical configuration: the keys of formats.md, as transformers writes
 * them. */
#include "pipeline/export_config.h"

#include "model/arch.h"

#include <math.h>
#include <string.h>

static int put(json_t *o, const char *key, json_t *value) {
    return json_object_set_new(o, key, value);
}

static json_t *size_json(size_t v) { return json_integer((json_int_t)v); }

/* f32 values such as 1e-05f are written with the digits that a person would: the shortest that read
 * back. */
static json_t *float_json(float v) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    return json_real(strtod(text, NULL));
}

void pare_rope_llama3_divisors(float *out, const pare_rope_config *rope, size_t head_dim) {
    for (size_t i = 0; i < head_dim / 2; i++) {
        double f = pow((double)rope->theta, -2.0 * (double)i / (double)head_dim);
        double wavelength = 2.0 * 3.14159265358979323846 / f, old = (double)rope->original_ctx;
        double low = rope->low_freq_factor, high = rope->high_freq_factor, factor = rope->factor,
               scaled = f;
        if (wavelength > old / low)
            scaled = f / factor;
        else if (wavelength >= old / high) {
            double s = (old / wavelength - low) / (high - low);
            scaled = (1.0 - s) * f / factor + s * f;
        }
        out[i] = (float)(f / scaled);
    }
}

/* Do these settings make the divisors? */
static bool makes(const pare_rope_config *rope, const float *freqs, size_t head_dim) {
    float made[PARE_MAX_HEAD_DIM / 2];
    pare_rope_llama3_divisors(made, rope, head_dim);
    float worst = 0;
    for (size_t i = 0; i < head_dim / 2; i++) worst = fmaxf(worst, fabsf(made[i] / freqs[i] - 1));
    return worst < 1e-4f;
}

/* The settings behind the divisors: the factor is the largest of them; between the two bounds, s =
 * (1/d - 1/factor) / (1 - 1/factor) is linear in 1/wavelength, and low_freq_factor is 1 without
 * loss (a common factor of the three cancels). Where fewer than two frequencies lie between the
 * bounds, those of the released models are tried. */
static pare_status recognise_llama3(pare_rope_config *rope, const float *freqs, size_t head_dim,
                                    pare_error *err) {
    pare_rope_config r = *rope;
    r.scaling = PARE_ROPE_LLAMA3;
    r.factor = 1;
    for (size_t i = 0; i < head_dim / 2; i++) r.factor = fmaxf(r.factor, freqs[i]);
    double x[2] = {0}, y[2] = {0};
    size_t n = 0;
    for (size_t i = 0; i < head_dim / 2; i++) {
        double s =
            (1.0 / (double)freqs[i] - 1.0 / (double)r.factor) / (1.0 - 1.0 / (double)r.factor);
        if (!(s > 1e-3 && s < 1 - 1e-3)) continue;
        size_t k = n++ == 0 ? 0 : 1; /* the first and the last */
        x[k] = pow((double)r.theta, -2.0 * (double)i / (double)head_dim) / 6.283185307179586;
        y[k] = s;
    }
    r.low_freq_factor = 1;
    r.high_freq_factor = 4;
    r.original_ctx = 8192;
    if (n >= 2) {
        double slope = (y[1] - y[0]) / (x[1] - x[0]),
               at_0 = y[0] - slope * x[0]; /* = -low / (high - low) */
        r.high_freq_factor = (float)(1.0 - 1.0 / at_0);
        r.high_freq_factor = nearbyintf(r.high_freq_factor * 1024) / 1024;
        r.original_ctx = (size_t)nearbyint(slope * ((double)r.high_freq_factor - 1.0));
    }
    if (!makes(&r, freqs, head_dim))
        return pare_fail(
            err, PARE_ERR_UNSUPPORTED,
            "rope_freqs.weight: found divisors that no llama3 rope_scaling makes, expected one for "
            "config.json");
    *rope = r;
    return PARE_OK;
}

static json_t *rope_scaling_json(const pare_rope_config *r) {
    static const char *const names[] = {
        [PARE_ROPE_LINEAR] = "linear", [PARE_ROPE_LLAMA3] = "llama3", [PARE_ROPE_YARN] = "yarn"};
    if (r->scaling == PARE_ROPE_NONE) return json_null();
    json_t *o = json_object();
    put(o, "rope_type", json_string(names[r->scaling]));
    put(o, "factor", float_json(r->factor));
    if (r->scaling == PARE_ROPE_LINEAR) return o;
    put(o, "original_max_position_embeddings", size_json(r->original_ctx));
    if (r->scaling == PARE_ROPE_LLAMA3) {
        put(o, "low_freq_factor", float_json(r->low_freq_factor));
        put(o, "high_freq_factor", float_json(r->high_freq_factor));
    } else {
        put(o, "beta_fast", float_json(r->beta_fast));
        put(o, "beta_slow", float_json(r->beta_slow));
        if (r->attn_factor > 0) put(o, "attention_factor", float_json(r->attn_factor));
    }
    return o;
}

static json_t *eos_json(const pare_model_config *c) {
    if (c->n_eos == 0) return json_null();
    if (c->n_eos == 1) return json_integer(c->eos[0]);
    json_t *list = json_array();
    for (size_t i = 0; i < c->n_eos; i++) json_array_append_new(list, json_integer(c->eos[i]));
    return list;
}

static void put_gpt2(json_t *o, const pare_model_config *c) {
    put(o, "n_embd", size_json(c->dim));
    put(o, "n_head", size_json(c->n_heads));
    put(o, "n_layer", size_json(c->n_layers));
    put(o, "n_inner", size_json(c->ffn_dim));
    put(o, "n_positions", size_json(c->ctx_max));
    put(o, "n_ctx", size_json(c->ctx_max));
    put(o, "layer_norm_epsilon", float_json(c->norm_eps));
    put(o, "activation_function", json_string("gelu_new"));
}

static void put_opt(json_t *o, const pare_model_config *c, const pare_arch *arch) {
    put(o, "hidden_size", size_json(c->dim));
    put(o, "ffn_dim", size_json(c->ffn_dim));
    put(o, "num_hidden_layers", size_json(c->n_layers));
    put(o, "num_attention_heads", size_json(c->n_heads));
    put(o, "max_position_embeddings", size_json(c->ctx_max));
    put(o, "word_embed_proj_dim", size_json(c->embed_dim));
    put(o, "do_layer_norm_before", json_boolean(c->norm_before));
    put(o, "_remove_final_layer_norm", json_boolean(c->norm_before && !c->final_norm));
    put(o, arch->activation_key, json_string(arch->activations[0]));
}

static void put_common(json_t *o, const pare_model_config *c, const pare_arch *arch) {
    put(o, "hidden_size", size_json(c->dim));
    put(o, "intermediate_size", size_json(c->ffn_dim));
    put(o, "num_hidden_layers", size_json(c->n_layers));
    put(o, "num_attention_heads", size_json(c->n_heads));
    put(o, "num_key_value_heads", size_json(c->n_kv_heads));
    put(o, "head_dim", size_json(c->head_dim));
    put(o, "max_position_embeddings", size_json(c->ctx_max));
    put(o, "rms_norm_eps", float_json(c->norm_eps));
    put(o, arch->activation_key, json_string(arch->activations[0]));
    put(o, "attention_bias", json_false());
    put(o, "attention_dropout", json_real(0.0));
    put(o, "rope_theta", float_json(c->rope.theta));
    put(o, "rope_scaling", rope_scaling_json(&c->rope));
}

static void put_windows(json_t *o, const pare_model_config *c, bool gemma) {
    if (c->window == 0) return;
    put(o, "sliding_window", size_json(c->window));
    size_t n_local = 0;
    for (size_t i = 0; i < c->n_layers; i++) n_local += c->local[i];
    if (!gemma && n_local == c->n_layers) return; /* mistral: every layer */
    if (!gemma) put(o, "use_sliding_window", json_true());
    json_t *types = json_array();
    for (size_t i = 0; i < c->n_layers; i++)
        json_array_append_new(types,
                              json_string(c->local[i] ? "sliding_attention" : "full_attention"));
    put(o, "layer_types", types);
}

static void put_gemma(json_t *o, const pare_model_config *c) {
    float scalar = 1.0f / (c->attn_scale * c->attn_scale), whole = nearbyintf(scalar);
    put(o, "query_pre_attn_scalar",
        fabsf(scalar - whole) < 1e-3f * whole ? size_json((size_t)whole) : float_json(scalar));
    put(o, "attn_logit_softcapping",
        c->attn_softcap > 0 ? float_json(c->attn_softcap) : json_null());
    put(o, "final_logit_softcapping",
        c->final_softcap > 0 ? float_json(c->final_softcap) : json_null());
    if (c->rope_local.theta > 0) put(o, "rope_local_base_freq", float_json(c->rope_local.theta));
}

json_t *pare_export_top_k_json(const pare_top_k *k) {
    const char *score = k->score == PARE_TOP_K_VALUE ? "value" : "magnitude";
    if (k->m)
        return json_pack("{s:I, s:I, s:s}", "n", (json_int_t)k->n, "m", (json_int_t)k->m, "score",
                         score);
    return json_pack("{s:f, s:s}", "sparsity", k->share, "score", score);
}

pare_status pare_export_config_json(json_t **out, const pare_model_config *c, const float *freqs,
                                    pare_error *err) {
    *out = NULL;
    const pare_arch *arch = pare_arch_find(c->arch);
    if (!arch) return pare_fail(err, PARE_ERR_INTERNAL, "config.json: architecture %s", c->arch);
    pare_model_config config = *c;
    if (freqs) PARE_TRY(recognise_llama3(&config.rope, freqs, c->head_dim, err));
    json_t *o = json_object(), *classes = json_array();
    if (!o || !classes) {
        json_decref(o);
        json_decref(classes);
        return pare_fail(err, PARE_ERR_NOMEM, "config.json: out of memory");
    }
    json_array_append_new(classes, json_string(arch->hf_class));
    put(o, "architectures", classes);
    put(o, "model_type", json_string(arch->hf));
    put(o, "vocab_size", size_json(config.vocab_size));
    bool gemma = strncmp(config.arch, "gemma", 5) == 0;
    if (strcmp(config.arch, "gpt2") == 0)
        put_gpt2(o, &config);
    else if (strcmp(config.arch, "opt") == 0)
        put_opt(o, &config, arch);
    else
        put_common(o, &config, arch);
    put_windows(o, &config, gemma);
    if (gemma) put_gemma(o, &config);
    put(o, "tie_word_embeddings", json_boolean(config.tied));
    put(o, "bos_token_id", config.bos >= 0 ? json_integer(config.bos) : json_null());
    put(o, "eos_token_id", eos_json(&config));
    put(o, "torch_dtype", json_string("bfloat16"));
    if (pare_top_k_is_on(&config.top_k))
        put(o, PARE_TOP_K_KEY, pare_export_top_k_json(&config.top_k));
    *out = o;
    return PARE_OK;
}
