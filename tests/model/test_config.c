/* Configurations: what each form of config.json and of GGUF keys means, and what is refused. */
#include "support/test.h"

#include "base/memory.h"
#include "io/ggml_types.h"
#include "io/gguf_writer.h"
#include "model/config_read.h"
#include "model/rope_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LLAMA                                                                                      \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":"  \
    "3,"                                                                                           \
    "\"num_attention_heads\":4,\"vocab_size\":100"
#define GEMMA3                                                                                     \
    "\"model_type\":\"gemma3_text\",\"hidden_size\":64,\"num_hidden_layers\":7,\"vocab_size\":"    \
    "100,"                                                                                         \
    "\"num_attention_heads\":4,\"num_key_value_heads\":1"

static pare_status parse(pare_model_config *c, const char *text, pare_error *err) {
    pare_json j;
    const pare_arch *arch;
    PARE_TRY(pare_json_parse(&j, text, strlen(text), "config.json", 0, err));
    pare_status st = pare_config_from_hf(c, &arch, &j, err);
    pare_json_free(&j);
    return st;
}

static pare_model_config good(const char *text) {
    pare_model_config c;
    pare_error err = {0};
    if (parse(&c, text, &err) != PARE_OK) fail_msg("%s\n%s", text, err.message);
    return c;
}

/* Refused with that status and a message that holds all of the pieces (split at '|'). */
static void bad(const char *text, pare_status status, const char *pieces) {
    pare_model_config c;
    pare_error err = {0};
    pare_status st = parse(&c, text, &err);
    if (st != status) fail_msg("%s\nfound %s (%s)", text, pare_status_name(st), err.message);
    char copy[256];
    snprintf(copy, sizeof copy, "%s", pieces);
    for (char *piece = strtok(copy, "|"); piece; piece = strtok(NULL, "|"))
        if (!strstr(err.message, piece)) fail_msg("no \"%s\" in: %s", piece, err.message);
}

static void llama_defaults(void **state) {
    (void)state;
    pare_model_config c = good("{" LLAMA "}");
    assert_string_equal(c.arch, "llama");
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.ctx_max, 2048);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.window, 0);
    assert_int_equal(c.embed_dim, 64);
    assert_true(c.rope.theta == 10000.0f && c.rope.scaling == PARE_ROPE_NONE);
    assert_true(c.attn_scale == 0.25f && c.embed_scale == 1.0f && c.norm_eps == 1e-6f);

    c = good("{" LLAMA ",\"eos_token_id\":[1,99],\"bos_token_id\":null,\"head_dim\":null,"
             "\"rope_scaling\":null,\"num_key_value_heads\":2}");
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 99);
    assert_int_equal(c.n_kv_heads, 2);
    c = good("{" LLAMA ",\"head_dim\":24,\"eos_token_id\":-1}");
    assert_int_equal(c.head_dim, 24);
    assert_int_equal(c.n_eos, 0);
}

static void rope_forms(void **state) {
    (void)state;
    const char *values = "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                         "\"original_max_position_embeddings\":32";
    char old[600], new[600];
    snprintf(old, sizeof old,
             "{" LLAMA ",\"rope_theta\":500.0,\"rope_scaling\":{\"rope_type\":\"llama3\",%s}}",
             values);
    snprintf(new, sizeof new,
             "{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500.0,%s}}",
             values);
    pare_model_config a = good(old), b = good(new);
    assert_memory_equal(&a.rope, &b.rope, sizeof a.rope);
    assert_true(a.rope.scaling == PARE_ROPE_LLAMA3 && a.rope.theta == 500.0f);
    assert_int_equal(a.rope.original_ctx, 32);
    assert_memory_equal(&a.rope, &a.rope_local, sizeof a.rope);

    a = good("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}");
    assert_true(a.rope.scaling == PARE_ROPE_LINEAR && a.rope.factor == 4.0f);
    a = good("{" LLAMA ",\"max_position_embeddings\":400,\"rope_scaling\":{\"type\":\"yarn\","
             "\"factor\":4,\"original_max_position_embeddings\":100,\"truncate\":false}}");
    assert_true(a.rope.scaling == PARE_ROPE_YARN && a.rope.no_truncate);
    assert_true(fabsf(a.rope.attn_factor - (0.1f * logf(4) + 1)) < 1e-6f);
    a = good("{" LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"mscale\":2.0,"
             "\"mscale_all_dim\":1.0,\"beta_fast\":16}}");
    assert_true(fabsf(a.rope.attn_factor - (0.2f * logf(4) + 1) / (0.1f * logf(4) + 1)) < 1e-6f);
    assert_true(a.rope.beta_fast == 16.0f);
    assert_int_equal(a.rope.original_ctx, 2048);
}

static void windows(void **state) {
    (void)state;
    pare_model_config c = good("{" LLAMA ",\"sliding_window\":9}");
    assert_int_equal(c.window, 0); /* Llama has no window */
    char text[700];
    snprintf(text, sizeof text, "%s", "{" LLAMA "}");
    memcpy(strstr(text, "\"llama\""), "\"qwen2\"", 7);
    c = good(text);
    assert_int_equal(c.window, 0);
    const char *qwen = "{\"model_type\":\"qwen2\",\"hidden_size\":64,\"intermediate_size\":96,"
                       "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"vocab_size\":100";
    snprintf(text, sizeof text,
             "%s,\"use_sliding_window\":true,\"sliding_window\":9,"
             "\"max_window_layers\":2}",
             qwen);
    c = good(text);
    assert_int_equal(c.window, 9);
    assert_true(!c.local[0] && !c.local[1] && c.local[2]);
    snprintf(text, sizeof text,
             "%s,\"use_sliding_window\":false,\"sliding_window\":9,"
             "\"max_window_layers\":2}",
             qwen);
    assert_int_equal(good(text).window, 0);
    snprintf(text, sizeof text,
             "%s,\"use_sliding_window\":true,\"sliding_window\":null,"
             "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"]}",
             qwen);
    bad(text, PARE_ERR_INPUT, "sliding_window");

    const char *mistral = "{\"model_type\":\"mistral\",\"hidden_size\":64,\"intermediate_size\":96,"
                          "\"num_hidden_layers\":3,\"num_attention_heads\":8,\"vocab_size\":100";
    snprintf(text, sizeof text, "%s}", mistral);
    c = good(text);
    assert_int_equal(c.window, 4096);
    assert_int_equal(c.n_kv_heads, 8);
    assert_true(c.local[0] && c.local[2]);
    snprintf(text, sizeof text, "%s,\"sliding_window\":null}", mistral);
    assert_int_equal(good(text).window, 0);
}

static void gemma_forms(void **state) {
    (void)state;
    pare_model_config c = good("{" GEMMA3 ",\"dtype\":\"bfloat16\"}");
    assert_string_equal(c.arch, "gemma3");
    assert_int_equal(c.head_dim, 256); /* of the class */
    assert_int_equal(c.window, 4096);
    for (size_t i = 0; i < 7; i++) assert_int_equal(c.local[i], i != 5);
    assert_true(c.rope.theta == 1e6f && c.rope_local.theta == 1e4f);
    assert_true(c.attn_scale == 1.0f / 16 && c.embed_scale == 8.0f && c.final_softcap == 0.0f);
    assert_int_equal(c.bos, 2);

    c = good(
        "{" GEMMA3 ",\"sliding_window_pattern\":2,\"rope_theta\":1000,"
        "\"rope_local_base_freq\":100,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}");
    for (size_t i = 0; i < 7; i++) assert_int_equal(c.local[i], i % 2 == 0);
    assert_true(c.rope.factor == 8.0f && c.rope.theta == 1000.0f);
    assert_true(c.rope_local.factor == 0.0f && c.rope_local.theta == 100.0f);
    pare_model_config d =
        good("{" GEMMA3 ",\"_sliding_window_pattern\":2,\"rope_parameters\":{\"full_attention\":"
             "{\"rope_type\":\"linear\",\"factor\":8,\"rope_theta\":1000},\"sliding_attention\":"
             "{\"rope_type\":\"default\",\"rope_theta\":100}}}");
    d.rope.original_ctx = c.rope.original_ctx;
    assert_memory_equal(&c.rope, &d.rope, sizeof c.rope);
    assert_memory_equal(&c.rope_local, &d.rope_local, sizeof c.rope);
    assert_memory_equal(c.local, d.local, 7);

    /* sqrt(72) in bfloat16 and in f32; the text part of a multimodal model */
    c = good("{\"model_type\":\"gemma3\",\"torch_dtype\":\"bfloat16\",\"text_config\":{" GEMMA3
             "},\"vision_config\":{}}");
    assert_int_equal(c.dim, 64);
    c = good("{\"model_type\":\"gemma2\",\"hidden_size\":72,\"vocab_size\":100,"
             "\"torch_dtype\":\"bfloat16\",\"num_hidden_layers\":3,\"query_pre_attn_scalar\":144}");
    assert_true(c.embed_scale == 8.5f && c.attn_scale == 1.0f / 12);
    assert_true(c.attn_softcap == 50.0f && c.final_softcap == 30.0f);
    assert_true(c.local[0] && !c.local[1] && c.local[2]);
    assert_memory_equal(&c.rope, &c.rope_local, sizeof c.rope);
    c = good("{\"model_type\":\"gemma2\",\"hidden_size\":72,\"vocab_size\":100,"
             "\"attn_logit_softcapping\":null,\"final_logit_softcapping\":7}");
    assert_true(c.embed_scale == sqrtf(72.0f));
    assert_true(c.attn_softcap == 0.0f && c.final_softcap == 7.0f);
}

static void gpt2_and_opt(void **state) {
    (void)state;
    pare_model_config c = good("{\"model_type\":\"gpt2\",\"n_embd\":60,\"n_head\":4,\"n_layer\":2,"
                               "\"n_positions\":64,\"n_inner\":null,\"vocab_size\":100}");
    assert_int_equal(c.ffn_dim, 240);
    assert_int_equal(c.head_dim, 15);
    assert_true(c.rope.theta == 0.0f && c.norm_eps == 1e-5f);
    c = good("{\"model_type\":\"opt\",\"hidden_size\":64,\"ffn_dim\":96,\"num_attention_heads\":4,"
             "\"word_embed_proj_dim\":32,\"do_layer_norm_before\":false,\"vocab_size\":100}");
    assert_int_equal(c.ffn_dim, 96);
    assert_int_equal(c.embed_dim, 32);
    assert_int_equal(c.pos_offset, 2);
    assert_true(!c.norm_before && !c.final_norm);
}

static void refused_json(void **state) {
    (void)state;
    const pare_status in = PARE_ERR_INPUT, no = PARE_ERR_UNSUPPORTED;
    bad("{}", in, "model_type");
    bad("{\"model_type\":\"mamba\"}", no, "mamba|llama, mistral, qwen2|gemma3_text|opt");
    bad("{\"model_type\":\"mine\",\"auto_map\":{\"AutoModel\":\"x.y\"}}", no, "never run");
    bad("{\"model_type\":7}", in, "model_type");
    bad("{\"model_type\":\"llama\"}", in, "num_hidden_layers");

    /* the last of two equal keys would win, but duplicates are refused; so each case is a whole
     * text */
    static const char *const shape[] = {"hidden_size", "intermediate_size", "num_hidden_layers",
                                        "num_attention_heads", "vocab_size"};
    static const char *const values[] = {
        "0",   "-1", "\"32\"", "32.5", "1e3", "[4]", "true", "4294967296", "18446744073709551615",
        "null"};
    for (size_t k = 0; k < 5; k++)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            char text[512] = "{\"model_type\":\"llama\"";
            for (size_t i = 0; i < 5; i++)
                snprintf(text + strlen(text), sizeof text - strlen(text), ",\"%s\":%s", shape[i],
                         i == k ? values[v] : "4");
            snprintf(text + strlen(text), sizeof text - strlen(text), "}");
            bad(text, in, shape[k]);
        }
    /* at the limit and one past it */
    good("{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":4,"
         "\"num_hidden_layers\":512,\"num_attention_heads\":2,\"vocab_size\":1}");
    bad("{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":4,"
        "\"num_hidden_layers\":513,\"num_attention_heads\":2,\"vocab_size\":1}",
        in, "num_hidden_layers|513|512");

    bad("{" LLAMA ",\"num_key_value_heads\":3}", in, "multiple");
    bad("{" LLAMA ",\"num_key_value_heads\":0}", in, "num_key_value_heads");
    bad("{" LLAMA ",\"num_key_value_heads\":8}", in, "multiple");
    bad("{" LLAMA ",\"head_dim\":15}", in, "even");
    bad("{" LLAMA ",\"head_dim\":1048576}", in, "head_dim");
    good("{" LLAMA ",\"head_dim\":1024}");
    bad("{" LLAMA ",\"head_dim\":1026}", in, "head_dim");
    bad("{\"model_type\":\"llama\",\"hidden_size\":66,\"intermediate_size\":4,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"vocab_size\":9}",
        in, "divisor");
    bad("{" LLAMA ",\"rms_norm_eps\":0}", in, "rms_norm_eps");
    bad("{" LLAMA ",\"rms_norm_eps\":-1e-5}", in, "rms_norm_eps");
    bad("{" LLAMA ",\"rms_norm_eps\":1}", in, "rms_norm_eps");
    bad("{" LLAMA ",\"rms_norm_eps\":NaN}", in, "NaN");
    bad("{" LLAMA ",\"rope_theta\":Infinity}", in, "Infinity");
    bad("{" LLAMA ",\"rope_theta\":0}", in, "rope_theta");
    bad("{" LLAMA ",\"rope_theta\":-5}", in, "rope_theta");
    bad("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", in, "factor");
    bad("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", in, "factor");
    bad("{" LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"factor\":2}}", no, "longrope|yarn");
    bad("{" LLAMA ",\"rope_scaling\":7}", in, "rope_scaling");
    bad("{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
        "\"high_freq_factor\":4}}",
        in, "high_freq_factor");
    bad("{" LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", no, "partial_rotary");
    bad("{" LLAMA ",\"max_position_embeddings\":0}", in, "max_position_embeddings");
    good("{" LLAMA ",\"max_position_embeddings\":1099511627776}");
    bad("{" LLAMA ",\"hidden_act\":\"relu\"}", no, "relu|silu");
    bad("{" LLAMA ",\"eos_token_id\":100}", in, "eos_token_id");
    good("{" LLAMA ",\"eos_token_id\":99}");
    bad("{" LLAMA ",\"eos_token_id\":[1,4294967295]}", in, "eos_token_id.1");
    bad("{" LLAMA ",\"eos_token_id\":\"2\"}", in, "eos_token_id");
    bad("{" LLAMA ",\"bos_token_id\":100}", in, "bos_token_id");
    bad("{" LLAMA ",\"bos_token_id\":[1,2]}", in, "bos_token_id");
    bad("{" LLAMA ",\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", in,
        "at most 16");

    bad("{" GEMMA3 ",\"layer_types\":[\"full_attention\"]}", in, "layer_types|7");
    bad("{" GEMMA3 ",\"layer_types\":7}", in, "layer_types");
    bad("{" GEMMA3 ",\"layer_types\":[\"full_attention\",\"x\",\"x\",\"x\",\"x\",\"x\",\"x\"]}", no,
        "layer_types.1");
    bad("{" GEMMA3 ",\"sliding_window\":0}", in, "sliding_window");
    bad("{" GEMMA3 ",\"final_logit_softcapping\":0}", in, "final_logit_softcapping");
    bad("{" GEMMA3 ",\"query_pre_attn_scalar\":0}", in, "query_pre_attn_scalar");
    bad("{" GEMMA3 ",\"use_bidirectional_attention\":true}", no, "bidirectional");
    bad("{" GEMMA3 ",\"sliding_window_pattern\":0}", in, "sliding_window_pattern");
    bad("{\"model_type\":\"gemma3\"}", in, "text_config");
    bad("{\"model_type\":\"gpt2\",\"scale_attn_by_inverse_layer_idx\":true}", no, "inverse_layer");
    bad("{\"model_type\":\"opt\",\"enable_bias\":false}", no, "enable_bias");
    bad("{\"model_type\":\"gemma2\",\"hidden_size\":72,\"vocab_size\":1}", PARE_OK, "");
}

/* ---- GGUF ---- */

/* One key of a header. type: 'u' u32, 'f' f32, 's' string, 'b' bool, 'U' array of u32; NULL name
 * ends. */
typedef struct key {
    const char *name;
    char type;
    double value;
    const char *text;
    size_t count;
} key;

static const key llama_keys[] = {
    {"general.architecture", 's', 0, "llama", 0},
    {"llama.block_count", 'u', 3, NULL, 0},
    {"llama.embedding_length", 'u', 64, NULL, 0},
    {"llama.context_length", 'u', 128, NULL, 0},
    {"llama.feed_forward_length", 'u', 96, NULL, 0},
    {"llama.attention.head_count", 'u', 4, NULL, 0},
    {"llama.attention.layer_norm_rms_epsilon", 'f', 1e-5, NULL, 0},
    {NULL, 0, 0, NULL, 0},
};

static void set(pare_gguf_writer *w, const key *k) {
    uint32_t values[600];
    pare_span strings[8];
    for (size_t i = 0; i < k->count && i < 600; i++) values[i] = (uint32_t)k->value;
    for (size_t i = 0; i < 8; i++) strings[i] = (pare_span){"x", 1};
    switch (k->type) {
    case 'u':
        assert_ok(pare_gguf_set_u32(w, k->name, (uint32_t)k->value, err));
        break;
    case 'i':
        assert_ok(pare_gguf_set_i32(w, k->name, (int32_t)k->value, err));
        break;
    case 'f':
        assert_ok(pare_gguf_set_f32(w, k->name, (float)k->value, err));
        break;
    case 'b':
        assert_ok(pare_gguf_set_bool(w, k->name, k->value != 0, err));
        break;
    case 's':
        assert_ok(pare_gguf_set_str(w, k->name, k->text, err));
        break;
    case 'U':
        assert_ok(pare_gguf_set_u32s(w, k->name, values, k->count, err));
        break;
    case 'S':
        assert_ok(pare_gguf_set_strings(w, k->name, strings, k->count, err));
        break;
    }
}

/* The base with the changes of `more` (same names replace; type 0 leaves a key out). */
static pare_status read_gguf(pare_model_config *c, const key *base, const key *more, size_t rows,
                             pare_error *e) {
    pare_gguf_writer *w;
    const char *path = test_path("keys.gguf");
    remove(path);
    assert_ok(pare_gguf_writer_create(&w, path, 0, err));
    for (const key *k = base; k->name; k++) {
        bool replaced = false;
        for (const key *m = more; m->name; m++) replaced |= strcmp(m->name, k->name) == 0;
        if (!replaced) set(w, k);
    }
    for (const key *m = more; m->name; m++) set(w, m);
    size_t dims[2] = {rows, 64};
    assert_ok(pare_gguf_declare(w, "token_embd.weight", PARE_GGML_F32, dims, 2, err));
    assert_ok(pare_gguf_begin(w, err));
    float *zeros = pare_calloc(rows * 64, sizeof *zeros);
    assert_ok(pare_gguf_write(w, 0, zeros, rows * 64 * sizeof *zeros, err));
    assert_ok(pare_gguf_finish(w, err));
    pare_free(zeros);
    pare_gguf_writer_free(w);
    pare_gguf *g;
    const pare_arch *arch;
    assert_ok(pare_gguf_open(&g, path, err));
    pare_status st = pare_config_from_gguf(c, &arch, g, e);
    pare_gguf_close(g);
    return st;
}

static pare_model_config good_keys(const key *base, const key *more) {
    pare_model_config c;
    pare_error err = {0};
    if (read_gguf(&c, base, more, 100, &err) != PARE_OK) fail_msg("%s", err.message);
    return c;
}

static void bad_keys(pare_status status, const char *piece, key change) {
    pare_model_config c;
    pare_error err = {0};
    key more[2] = {change, {0}};
    pare_status st = read_gguf(&c, llama_keys, more, 100, &err);
    if (st != status || (piece && !strstr(err.message, piece)))
        fail_msg("%s: found %s: %s", change.name, pare_status_name(st), err.message);
}

static void gguf_keys(void **state) {
    (void)state;
    pare_model_config c = good_keys(llama_keys, (key[]){{0}});
    assert_string_equal(c.arch, "llama");
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.vocab_size, 100);
    assert_int_equal(c.bos, -1);
    assert_true(c.tied && c.rope.theta == 10000.0f && c.attn_scale == 0.25f);
    c = good_keys(llama_keys, (key[]){{"llama.rope.scaling.type", 's', 0, "yarn", 0},
                                      {"llama.rope.scaling.factor", 'f', 4, NULL, 0},
                                      {"llama.attention.head_count_kv", 'U', 2, NULL, 3},
                                      {"tokenizer.ggml.bos_token_id", 'u', 99, NULL, 0},
                                      {"tokenizer.ggml.eos_token_id", 'u', 0, NULL, 0},
                                      {0}});
    assert_true(c.rope.scaling == PARE_ROPE_YARN);
    assert_int_equal(c.rope.original_ctx, 128);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.bos, 99);
    assert_int_equal(c.n_eos, 1);
    c = good_keys(llama_keys, (key[]){{"llama.rope.scaling.factor", 'f', 4, NULL, 0}, {0}});
    assert_true(c.rope.scaling == PARE_ROPE_LINEAR && c.rope.factor == 4.0f);
    c = good_keys(llama_keys, (key[]){{"llama.attention.sliding_window", 'u', 16, NULL, 0}, {0}});
    assert_true(c.window == 16 && c.local[0] && c.local[2]);

    static const key gemma3_keys[] = {
        {"general.architecture", 's', 0, "gemma3", 0},
        {"gemma3.block_count", 'u', 62, NULL, 0},
        {"gemma3.embedding_length", 'u', 64, NULL, 0},
        {"gemma3.context_length", 'u', 128, NULL, 0},
        {"gemma3.feed_forward_length", 'u', 96, NULL, 0},
        {"gemma3.attention.head_count", 'u', 4, NULL, 0},
        {"gemma3.attention.key_length", 'u', 64, NULL, 0},
        {"gemma3.attention.value_length", 'u', 64, NULL, 0},
        {"gemma3.attention.sliding_window", 'u', 9, NULL, 0},
        {"gemma3.rope.freq_base", 'f', 1e6, NULL, 0},
        {"gemma3.rope.scaling.type", 's', 0, "linear", 0},
        {"gemma3.rope.scaling.factor", 'f', 8, NULL, 0},
        {"gemma3.attention.layer_norm_rms_epsilon", 'f', 1e-6, NULL, 0},
        {NULL, 0, 0, NULL, 0},
    };
    c = good_keys(gemma3_keys, (key[]){{0}}); /* as many layers as the 27B model */
    assert_true(c.attn_scale == 0.25f && c.embed_scale == 8.0f);
    assert_true(c.rope.factor == 8.0f && c.rope_local.factor == 0.0f);
    assert_true(c.rope_local.theta == 1e4f && c.local[0] && !c.local[5] && c.local[6]);
    c = good_keys(gemma3_keys, (key[]){{"gemma3.block_count", 'u', 18, NULL, 0},
                                       {"gemma3.attention.sliding_window_pattern", 'u', 2, NULL, 0},
                                       {"gemma3.rope.freq_base_swa", 'f', 500, NULL, 0},
                                       {0}});
    assert_true(c.attn_scale == 0.125f && !c.local[1] && c.local[2]);
    assert_true(c.rope_local.theta == 500.0f);
    /* more heads than channels, as far as the widths of the heads are given */
    c = good_keys(gemma3_keys, (key[]){{"gemma3.attention.head_count", 'u', 128, NULL, 0}, {0}});
    assert_true(c.attn_scale == 0.125f);
    pare_error e = {0};
    const key no_width[] = {{"gemma3.block_count", 'u', 18, NULL, 0},
                            {"gemma3.attention.head_count", 'u', 5, NULL, 0},
                            {"gemma3.attention.key_length", 0, 0, NULL, 0},
                            {"gemma3.attention.value_length", 0, 0, NULL, 0},
                            {0}};
    assert_int_equal(read_gguf(&c, gemma3_keys, no_width, 100, &e), PARE_ERR_INPUT);
    assert_non_null(strstr(e.message, "divisor"));
    /* without a window there are no local layers */
    c = good_keys(gemma3_keys, (key[]){{"gemma3.attention.sliding_window", 0, 0, NULL, 0}, {0}});
    assert_int_equal(c.window, 0);
}

static void refused_keys(void **state) {
    (void)state;
    const pare_status in = PARE_ERR_INPUT, no = PARE_ERR_UNSUPPORTED;
    bad_keys(no, "mamba", (key){"general.architecture", 's', 0, "mamba", 0});
    bad_keys(no, "llama, qwen2", (key){"general.architecture", 's', 0, "mamba", 0});
    bad_keys(in, NULL, (key){"general.architecture", 0, 0, NULL, 0});
    bad_keys(no, "adapter", (key){"general.type", 's', 0, "adapter", 0});
    static const char *const sizes[] = {
        "llama.block_count",          "llama.embedding_length",     "llama.context_length",
        "llama.feed_forward_length",  "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.attention.key_length", "llama.rope.dimension_count"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        bad_keys(in, sizes[i], (key){sizes[i], 'u', 0, NULL, 0});
        if (i != 2) bad_keys(in, sizes[i], (key){sizes[i], 'u', 4294967295.0, NULL, 0});
        bad_keys(in, sizes[i], (key){sizes[i], 's', 0, "4", 0});
        bad_keys(in, sizes[i], (key){sizes[i], 'f', 4, NULL, 0});
        if (i < 5) bad_keys(in, sizes[i], (key){sizes[i], 0, 0, NULL, 0});
    }
    key many[] = {{"llama.block_count", 'u', 512, NULL, 0}, {0}};
    good_keys(llama_keys, many);
    bad_keys(in, "513", (key){"llama.block_count", 'u', 513, NULL, 0});
    bad_keys(in, "head_count", (key){"llama.attention.head_count", 'U', 0, NULL, 3});
    bad_keys(in, "head_count", (key){"llama.attention.head_count", 'U', 4, NULL, 2});
    bad_keys(in, "head_count_kv", (key){"llama.attention.head_count_kv", 'U', 4, NULL, 4});
    bad_keys(in, "multiple", (key){"llama.attention.head_count_kv", 'u', 3, NULL, 0});
    bad_keys(in, "divisor", (key){"llama.attention.head_count", 'u', 5, NULL, 0});
    bad_keys(no, "value_length", (key){"llama.attention.value_length", 'u', 8, NULL, 0});
    bad_keys(no, "dimension_count", (key){"llama.rope.dimension_count", 'u', 8, NULL, 0});
    bad_keys(no, "expert_count", (key){"llama.expert_count", 'u', 8, NULL, 0});
    bad_keys(in, "epsilon", (key){"llama.attention.layer_norm_rms_epsilon", 'f', 0, NULL, 0});
    bad_keys(in, "epsilon", (key){"llama.attention.layer_norm_rms_epsilon", 'f', 1, NULL, 0});
    bad_keys(in, "epsilon", (key){"llama.attention.layer_norm_rms_epsilon", 'f', NAN, NULL, 0});
    bad_keys(in, "freq_base", (key){"llama.rope.freq_base", 'f', 0, NULL, 0});
    bad_keys(in, "scaling.factor", (key){"llama.rope.scaling.factor", 'f', -1, NULL, 0});
    bad_keys(in, "vocab_size", (key){"llama.vocab_size", 'u', 101, NULL, 0});
    bad_keys(in, "bos_token_id", (key){"tokenizer.ggml.bos_token_id", 'u', 100, NULL, 0});
    bad_keys(in, "eos_token_id", (key){"tokenizer.ggml.eos_token_id", 'u', 4294967295.0, NULL, 0});
    /* more tokens than rows; the default id of a vocabulary of one is no error */
    pare_model_config c;
    pare_error e = {0};
    key tokens[] = {{"tokenizer.ggml.tokens", 'S', 0, NULL, 2}, {0}};
    assert_int_equal(read_gguf(&c, llama_keys, tokens, 1, &e), PARE_ERR_INPUT);
    tokens[0].count = 1;
    assert_int_equal(read_gguf(&c, llama_keys, tokens, 1, &e), PARE_OK);
    assert_int_equal(c.bos, -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_defaults), cmocka_unit_test(rope_forms),
        cmocka_unit_test(windows),        cmocka_unit_test(gemma_forms),
        cmocka_unit_test(gpt2_and_opt),   cmocka_unit_test(refused_json),
        cmocka_unit_test(gguf_keys),      cmocka_unit_test(refused_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
