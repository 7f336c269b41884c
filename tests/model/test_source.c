/* Sources: names in both forms, the same weights through GGUF and Hugging Face files, pare's own
 * encodings in safetensors, and what is refused. */
#include "support/model_files.h"

#include "base/memory.h"
#include "io/safetensors_writer.h"
#include "model/model.h"
#include "model/names.h"
#include "pare/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- names ---- */

static void names_go_both_ways(void **state) {
    (void)state;
    size_t n_seen = 0;
    for (size_t a = 0; pare_arch_at(a); a++)
        for (const pare_weight_spec *s = pare_arch_at(a)->weights; s->name; s++)
            for (int bias = 0; bias < 2; bias++) {
                if (bias && !(s->flags & (PARE_BIAS_OPTIONAL | PARE_BIAS_REQUIRED))) continue;
                pare_name n = {s, strchr(s->name, '#') ? 17 : SIZE_MAX, bias ? "bias" : "weight",
                               bias};
                for (int form = PARE_NAMES_GGUF; form <= PARE_NAMES_HF; form++) {
                    char text[PARE_NAME_MAX];
                    pare_name back;
                    pare_name_print(text, &n, (pare_name_form)form);
                    assert_true(
                        pare_name_parse(&back, pare_arch_at(a), (pare_name_form)form, text));
                    assert_ptr_equal(back.spec, s);
                    assert_int_equal(back.layer, n.layer);
                    assert_int_equal(back.is_bias, bias);
                    n_seen++;
                }
            }
    assert_true(n_seen > 200);
}

static void names_of_files(void **state) {
    (void)state;
    static const struct {
        const char *arch, *hf, *canonical;
    } known[] = {
        {"llama", "model.layers.11.self_attn.q_proj.weight", "blk.11.attn_q.weight"},
        {"llama", "layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"},
        {"llama", "lm_head.weight", "output.weight"},
        {"gemma2", "model.layers.0.post_attention_layernorm.weight",
         "blk.0.post_attention_norm.weight"},
        {"gemma3", "language_model.model.layers.3.mlp.up_proj.weight", "blk.3.ffn_up.weight"},
        {"gemma3", "model.language_model.norm.weight", "output_norm.weight"},
        {"gemma3", "language_model.lm_head.weight", "output.weight"},
        {"gpt2", "h.5.attn.c_attn.bias", "blk.5.attn_qkv.bias"},
        {"gpt2", "transformer.wpe.weight", "position_embd.weight"},
        {"opt", "decoder.layers.2.final_layer_norm.bias", "blk.2.ffn_norm.bias"},
        {"opt", "model.decoder.final_layer_norm.bias", "output_norm.bias"},
        {"llama", "model.layers.511.mlp.down_proj.weight", "blk.511.ffn_down.weight"},
        /* not of the model */
        {"gpt2", "h.5.attn.bias", NULL},
        {"gpt2", "h.5.attn.masked_bias", NULL},
        {"llama", "model.layers.0.self_attn.rotary_emb.inv_freq", NULL},
        {"llama", "model.layers.512.mlp.down_proj.weight", NULL},
        {"llama", "model.layers.01.mlp.down_proj.weight", NULL},
        {"llama", "model.layers.-1.mlp.down_proj.weight", NULL},
        {"llama", "model.layers..mlp.down_proj.weight", NULL},
        {"llama", "model.layers.99999999999999999999999.mlp.down_proj.weight", NULL},
        {"llama", "model.layers.0.mlp.down_proj.weights", NULL},
        {"llama", "model.layers.0.mlp.down_proj", NULL},
        {"gemma2", "model.layers.0.input_layernorm.bias", NULL},
        {"gemma3", "vision_tower.norm.weight", NULL},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        pare_name n;
        char text[PARE_NAME_MAX];
        bool found = pare_name_parse(&n, pare_arch_find(known[i].arch), PARE_NAMES_HF, known[i].hf);
        if (found != (known[i].canonical != NULL)) fail_msg("%s", known[i].hf);
        if (!found) continue;
        pare_name_print(text, &n, PARE_NAMES_GGUF);
        assert_string_equal(text, known[i].canonical);
    }
}

/* ---- the same weights, two containers ---- */

enum { N = 48 };

static void eval_logits(float *out, pare_runtime *rt, const char *path, const int32_t *ids,
                        size_t n) {
    pare_model *m;
    pare_session *s;
    assert_ok(pare_model_load(&m, rt, path, err));
    pare_session_options o = {.n_ctx = N, .compute = PARE_COMPUTE_EXACT};
    assert_ok(pare_session_create(&s, m, &o, err));
    assert_ok(pare_session_eval(s, ids, n, out, err));
    pare_session_free(s);
    pare_model_free(m);
}

/* GGUF files cannot say everything: the scale of Gemma's attention is derived, embeddings are
 * scaled in f32, local layers alternate, YaRN's window of Qwen2 is unknown. */
static void sayable_in_gguf(json_t *config, void *arg) {
    (void)arg;
    const char *type = json_string_value(json_object_get(config, "model_type"));
    json_object_set_new(config, "dtype", json_string("float32"));
    if (strncmp(type, "gemma", 5) == 0)
        json_object_set_new(config, "query_pre_attn_scalar", json_integer(24));
    if (strcmp(type, "qwen2") == 0) json_object_set_new(config, "use_sliding_window", json_false());
}

static void same_logits_through_gguf(void **state) {
    (void)state;
    static const char *const fixtures[] = {"llama",  "llama-bias", "mistral",    "qwen2", "qwen3",
                                           "gemma2", "gemma3",     "gemma3-old", "gpt2"};
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = 4 + i * 37 % 251;
    for (size_t f = 0; f < sizeof fixtures / sizeof fixtures[0]; f++) {
        copy_edit edit = {.config = sayable_in_gguf};
        const char *folder = copy_fixture(fixtures[f], fixtures[f], &edit);
        pare_source *s;
        assert_ok(pare_source_open(&s, folder, err));
        pare_model_config c = *pare_source_config(s);
        pare_source_close(s);
        char file[64];
        snprintf(file, sizeof file, "%s.gguf", fixtures[f]);
        const char *gguf = write_as_gguf(folder, file, &c);

        float *a = pare_malloc(c.vocab_size, sizeof *a), *b = pare_malloc(c.vocab_size, sizeof *b);
        eval_logits(a, rt, folder, ids, N);
        eval_logits(b, rt, gguf, ids, N);
        double most = 0, range = 0;
        for (size_t i = 0; i < c.vocab_size; i++) {
            most = fmax(most, fabs((double)a[i] - (double)b[i]));
            range = fmax(range, fabs((double)a[i]));
        }
        if (!(most <= 2e-6 * range)) fail_msg("%s: off by %g of %g", fixtures[f], most, range);
        pare_free(a);
        pare_free(b);
    }
    pare_runtime_free(rt);
}

/* ---- reading ---- */

static void raw_and_canonical_bytes(void **state) {
    (void)state;
    pare_source *s;
    pare_tensor raw, canonical;
    assert_ok(pare_source_open(&s, fixture_path("gpt2"), err));
    const pare_source_tensor *t = pare_source_find(s, "blk.1.attn_qkv.weight");
    assert_ok(pare_source_read(s, t, false, &raw, err));
    assert_ok(pare_source_read(s, t, true, &canonical, err));
    assert_int_equal(raw.view.rows, 60);
    assert_int_equal(raw.view.cols, 180);
    assert_int_equal(canonical.view.rows, 180);
    assert_int_equal(canonical.view.cols, 60);
    const uint16_t *a = raw.view.part[0], *b = canonical.view.part[0];
    for (size_t r = 0; r < 60; r++)
        for (size_t c = 0; c < 180; c++) assert_int_equal(a[r * 180 + c], b[c * 60 + r]);
    pare_tensor_free(&raw);
    pare_tensor_free(&canonical);
    pare_source_close(s);

    /* adding one must not round: the canonical form is f32 */
    assert_ok(pare_source_open(&s, fixture_path("gemma3"), err));
    t = pare_source_find(s, "blk.0.attn_q_norm.weight");
    assert_ok(pare_source_read(s, t, false, &raw, err));
    assert_ok(pare_source_read(s, t, true, &canonical, err));
    assert_string_equal(canonical.enc->name, "f32");
    float values[24];
    raw.enc->decode(values, &raw.view, 0, 0, 24);
    const float *one = canonical.view.part[0];
    for (size_t i = 0; i < 24; i++) assert_true(one[i] == values[i] + 1);
    pare_tensor_free(&raw);
    pare_tensor_free(&canonical);
    pare_source_close(s);
}

/* ---- pare's own encodings ---- */

/* Rewrites the fixture `llama` with one matrix in an encoding; what is left out or changed makes
 * the bad cases. */
typedef struct encoded_copy {
    const char *encoding; /* in the file */
    const char *claimed;  /* in config.json */
    const char *drop;     /* suffix of a part that is left out */
    size_t cut;           /* bytes that each row of part 0 is shorter */
    int version;
    const char *method;
    int part; /* written with another shape: 1 + its number */
} encoded_copy;

static const char coded[] = "model.layers.1.mlp.up_proj.weight";

static void drop_coded(copied_tensor *t, void *arg) {
    (void)arg;
    if (strcmp(t->name, coded) == 0) t->name = NULL;
}

static void claim(json_t *config, void *arg) {
    const encoded_copy *e = arg;
    json_object_set_new(config, "quantization_config",
                        json_pack("{s:s, s:i, s:{s:{s:s}}}", "quant_method", e->method, "version",
                                  e->version, "tensors", coded, "encoding", e->claimed));
}

/* A copy whose matrix lies in a second file: a folder with an index. */
static const char *write_encoded(const encoded_copy *e, pare_runtime *rt) {
    static char folder[1024];
    copy_edit edit = {claim, drop_coded, (void *)e};
    snprintf(folder, sizeof folder, "%s", copy_fixture("llama", "coded", &edit));
    char path[1200], to[1200];
    pare_source *s;
    pare_tensor plain, t;
    assert_ok(pare_source_open(&s, fixture_path("llama"), err));
    assert_ok(pare_source_read(s, pare_source_find(s, "blk.1.ffn_up.weight"), true, &plain, err));
    float *w = pare_malloc(plain.view.rows * plain.view.cols, sizeof *w);
    pare_tensor_decode(rt, w, &plain);
    assert_ok(pare_tensor_encode(rt, &t, pare_encoding_find(e->encoding), w, plain.view.rows,
                                 plain.view.cols, NULL, err));
    pare_free(w);
    pare_tensor_free(&plain);
    pare_source_close(s);

    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(to, sizeof to, "%s/model-00001-of-00002.safetensors", folder);
    assert_int_equal(rename(path, to), 0);
    json_t *map = json_object();
    pare_st *st;
    assert_ok(pare_st_open(&st, to, err));
    for (size_t i = 0; i < pare_st_n_tensors(st); i++)
        json_object_set_new(map, pare_st_tensor_at(st, i)->name,
                            json_string("model-00001-of-00002.safetensors"));
    pare_st_close(st);

    pare_st_writer *writer;
    snprintf(to, sizeof to, "%s/model-00002-of-00002.safetensors", folder);
    assert_ok(pare_st_writer_create(&writer, to, 0, err));
    size_t number[PARE_MAX_PARTS], bytes[PARE_MAX_PARTS];
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < t.enc->n_parts; i++) {
            size_t shape[2], n_dims = (size_t)pare_tensor_part_shape(&t, i, shape);
            if (e->drop && strcmp(e->drop, t.enc->parts[i].suffix) == 0) continue;
            bytes[i] = t.part_bytes[i];
            if (i == 0 && e->cut) {
                bytes[i] -= e->cut * shape[0];
                shape[1] -= e->cut / t.enc->parts[i].item_bytes;
            }
            if (e->part == (int)i + 1) {
                if (n_dims == 1) shape[1] = 1;
                size_t other[2] = {shape[1], shape[0]};
                memcpy(shape, other, sizeof shape);
                n_dims = 2;
            }
            if (pass == 0) {
                snprintf(path, sizeof path, "%s%s", coded, t.enc->parts[i].suffix);
                assert_ok(pare_st_declare(writer, path, t.enc->parts[i].dtype, shape, n_dims,
                                          &number[i], err));
                json_object_set_new(map, path, json_string("model-00002-of-00002.safetensors"));
            } else {
                assert_ok(pare_st_write(writer, number[i], t.view.part[i], bytes[i], err));
            }
        }
        if (pass == 0) assert_ok(pare_st_begin(writer, err));
    }
    assert_ok(pare_st_finish(writer, err));
    pare_st_writer_free(writer);
    pare_tensor_free(&t);
    json_t *index = json_pack("{s:{}, s:o}", "metadata", "weight_map", map);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    assert_ok(pare_json_write(path, index, err));
    json_decref(index);
    return folder;
}

static void own_encodings_are_read(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    int32_t ids[N];
    float dense[256], got[256];
    for (int i = 0; i < N; i++) ids[i] = 4 + i * 37 % 251;
    eval_logits(dense, rt, fixture_path("llama"), ids, N);
    /* bitmap_bf16 holds bf16 weights as they are */
    static const struct {
        const char *name;
        double most;
    } encodings[] = {{"bitmap_bf16", 1e-5}, {"q8_0", 0.3}, {"q4_1", 2.0}};
    for (size_t k = 0; k < 3; k++) {
        encoded_copy e = {encodings[k].name, encodings[k].name, NULL, 0, 1, "pare", 0};
        eval_logits(got, rt, write_encoded(&e, rt), ids, N);
        double most = 0;
        for (size_t i = 0; i < 256; i++) most = fmax(most, fabs((double)got[i] - (double)dense[i]));
        if (!(most <= encodings[k].most)) fail_msg("%s: off by %g", encodings[k].name, most);
        if (k) assert_true(most > 0);
    }
    pare_runtime_free(rt);
}

static void open_fails(const char *path, pare_status status, const char *piece) {
    pare_source *s;
    pare_error e = {0};
    pare_status st = pare_source_open(&s, path, &e);
    if (st == PARE_OK) {
        st = pare_source_check_complete(s, &e);
        pare_source_close(s);
    }
    if (st != status || !strstr(e.message, piece))
        fail_msg("%s: found %s: %s; expected \"%s\"", path, pare_status_name(st), e.message, piece);
}

static void bad_encodings_are_refused(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    const pare_status in = PARE_ERR_INPUT, no = PARE_ERR_UNSUPPORTED;
    encoded_copy e = {"q8_0", "q9_9", NULL, 0, 1, "pare", 0};
    open_fails(write_encoded(&e, rt), no, "q9_9");
    e = (encoded_copy){"q8_0", "q4_0", NULL, 0, 1, "pare", 0}; /* other row length */
    open_fails(write_encoded(&e, rt), in, "q4_0");
    e = (encoded_copy){"q8_0", "bf16", NULL, 0, 1, "pare", 0};
    open_fails(write_encoded(&e, rt), in, "dtype U8");
    e = (encoded_copy){"q8_0", "q8_0", NULL, 34, 1, "pare", 0};
    open_fails(write_encoded(&e, rt), in, "bytes");
    e = (encoded_copy){"bitmap_bf16", "bitmap_bf16", ".offsets", 0, 1, "pare", 0};
    open_fails(write_encoded(&e, rt), in, ".offsets");
    for (int part = 1; part <= 4; part++) { /* as many bytes, another shape */
        e = (encoded_copy){"bitmap_q8", "bitmap_q8", NULL, 0, 1, "pare", part};
        open_fails(write_encoded(&e, rt), in, "dimensions");
    }
    e = (encoded_copy){"q8_0", "q8_0", NULL, 0, 1, "pare", 1};
    open_fails(write_encoded(&e, rt), in, "dimensions");
    e = (encoded_copy){"q8_0", "q8_0", NULL, 0, 2, "pare", 0};
    open_fails(write_encoded(&e, rt), in, "version");
    e = (encoded_copy){"q8_0", "q8_0", NULL, 0, 1, "exl2", 0};
    open_fails(write_encoded(&e, rt), no, "exl2");
    e = (encoded_copy){"q8_0", "q8_0", NULL, 0, 1, "awq", 0}; /* its version is a word */
    open_fails(write_encoded(&e, rt), in, "version: found 1");

    /* a part of a sparse form that is too short shows when it is read */
    e = (encoded_copy){"bitmap_bf16", "bitmap_bf16", NULL, 8, 1, "pare", 0};
    const char *folder = write_encoded(&e, rt);
    pare_model *m;
    pare_error err = {0};
    assert_int_equal(pare_model_load(&m, rt, folder, &err), in);
    assert_non_null(strstr(err.message, coded));
    pare_runtime_free(rt);
}

/* ---- what is refused ---- */

typedef struct tensor_change {
    const char *name;
    int what; /* 0 leave out, 1 one row less, 2 NaN in the middle, 3 another name, 4 as a vector */
    const char *to;
} tensor_change;

static void change_tensor(copied_tensor *t, void *arg) {
    const tensor_change *c = arg;
    if (strcmp(t->name, c->name) != 0) return;
    switch (c->what) {
    case 0:
        t->name = NULL;
        break;
    case 1:
        t->n_bytes -= t->n_bytes / t->dims[0];
        t->dims[0]--;
        break;
    case 2:
        memset(t->data + t->n_bytes / 2, 0xFF, 2);
        break;
    case 3:
        t->name = c->to;
        break;
    case 4:
        t->dims[0] *= t->dims[1];
        t->n_dims = 1;
        break;
    }
}

static const char *changed(const char *fixture, const char *tensor, int what, const char *to) {
    tensor_change c = {tensor, what, to};
    copy_edit edit = {.tensor = change_tensor, .arg = &c};
    return copy_fixture(fixture, "changed", &edit);
}

static void vocab_101(json_t *config, void *arg) {
    (void)arg;
    json_object_set_new(config, "vocab_size", json_integer(101));
}
static void four_layers(json_t *config, void *arg) {
    (void)arg;
    json_object_set_new(config, "num_hidden_layers", json_integer(4));
}
static void one_layer(json_t *config, void *arg) {
    (void)arg;
    json_object_set_new(config, "num_hidden_layers", json_integer(1));
}

/* The end of a warning, where the path is past. */
static void keep_line(void *arg, const char *line) {
    size_t n = strlen(line), from = n > 120 ? n - 120 : 0;
    memcpy(arg, line + from, n - from + 1);
}

static void bad_files_are_refused(void **state) {
    (void)state;
    const pare_status in = PARE_ERR_INPUT;
    const char *up = "model.layers.1.mlp.up_proj.weight";
    open_fails(changed("llama", up, 0, NULL), in, up);
    open_fails(changed("llama", up, 1, NULL), in, "found shape [95, 64], expected [96, 64]");
    open_fails(changed("llama", up, 4, NULL), in, "found shape [6144], expected [96, 64]");
    open_fails(changed("llama", up, 3, "layers.1.mlp.gate_proj.weight"), in, "second");
    open_fails(changed("llama", "model.norm.weight", 1, NULL), in, "[63], expected [64]");
    open_fails(changed("qwen2", "model.layers.2.self_attn.k_proj.bias", 0, NULL), in,
               "k_proj.bias");
    open_fails(changed("opt-post", "model.decoder.project_in.weight", 0, NULL), in, "project_in");
    open_fails(changed("opt", "model.decoder.final_layer_norm.weight", 0, NULL), in,
               "final_layer_norm");
    open_fails(changed("gpt2", "transformer.wpe.weight", 1, NULL), in,
               "[63, 60], expected [64, 60]");
    /* an untied head that is missing is the embedding: accepted, as peers do */
    pare_source *s;
    assert_ok(pare_source_open(&s, changed("llama", "lm_head.weight", 0, NULL), err));
    assert_true(pare_source_config(s)->tied);
    pare_source_close(s);

    copy_edit edit = {.config = vocab_101};
    open_fails(copy_fixture("llama", "changed", &edit), in, "expected [101, 64]");
    edit.config = four_layers;
    open_fails(copy_fixture("llama", "changed", &edit), in, "model.layers.2.");
    edit.config = one_layer; /* the rest is not used */
    assert_ok(pare_source_open(&s, copy_fixture("llama", "changed", &edit), err));
    assert_null(pare_source_find(s, "blk.1.attn_q.weight"));
    pare_source_close(s);
    char said[256] = "";
    pare_options options = pare_options_default();
    options.warn = keep_line;
    options.callback_arg = said;
    pare_runtime *rt;
    pare_model *m;
    assert_ok(pare_runtime_create(&rt, &options, err));
    assert_ok(pare_model_load(&m, rt, copy_fixture("llama", "changed", &edit), err));
    assert_non_null(strstr(said, "tensors of layers from 1 on"));
    pare_model_free(m);
    pare_runtime_free(rt);

    /* paths */
    char path[1100];
    snprintf(path, sizeof path, "%s/model.safetensors", fixture_path("llama"));
    open_fails(path, PARE_ERR_ARG, "folder");
    open_fails(test_write("model.bin", "x", 1), PARE_ERR_UNSUPPORTED, "pickle");
    open_fails(test_write("empty.gguf", "", 0), in, "empty.gguf");
    /* a folder with pickled weights only */
    edit.config = NULL;
    snprintf(path, sizeof path, "%s", copy_fixture("llama", "pickled", &edit));
    char from[1200], to[1200];
    snprintf(from, sizeof from, "%s/model.safetensors", path);
    snprintf(to, sizeof to, "%s/pytorch_model.bin", path);
    assert_int_equal(rename(from, to), 0);
    open_fails(path, PARE_ERR_UNSUPPORTED, "pickle");
    mkdir(test_path("nothing"), 0777);
    pare_error e = {0};
    assert_int_not_equal(pare_source_open(&s, test_path("nothing"), &e), PARE_OK);
    assert_non_null(strstr(e.message, "config.json"));
    assert_null(s);
    assert_int_equal(pare_source_open(&s, test_path("absent"), &e), in);
}

static void not_numbers_are_found(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    static const char *const names[] = {"model.layers.1.input_layernorm.weight",
                                        "model.layers.0.mlp.up_proj.weight"};
    for (size_t i = 0; i < 2; i++) {
        const char *folder = changed("llama", names[i], 2, NULL);
        pare_model *m;
        pare_error e = {0};
        assert_int_equal(pare_model_load(&m, rt, folder, &e), PARE_ERR_INPUT);
        assert_null(m);
        if (!strstr(e.message, names[i])) fail_msg("%s", e.message);
        pare_description *d;
        assert_ok(pare_describe(&d, folder, err));
        assert_int_equal(pare_description_verify(d, rt, &e), PARE_ERR_INPUT);
        if (!strstr(e.message, names[i])) fail_msg("%s", e.message);
        pare_description_free(d);
    }
    pare_runtime_free(rt);
}

static void descriptions(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_description *d;
    assert_ok(pare_describe(&d, fixture_path("qwen3"), err));
    const pare_model_info *info = pare_description_info(d);
    assert_string_equal(info->format, "hf");
    assert_string_equal(info->arch, "qwen3");
    /* 2 x (q, o: 128 x 64, k, v: 64 x 64, 3 x 96 x 64, norms) + 2 x 256 x 64 + 64 */
    assert_int_equal(info->n_params, 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 96 * 64 + 2 * 32 + 128) +
                                         2 * 256 * 64 + 64);
    assert_int_equal(info->tensor_bytes, 2 * info->n_params);
    assert_true(info->bits_per_weight == 16.0);
    assert_false(info->tied_embeddings);
    assert_int_equal(info->n_tensors, 2 * 11 + 3);
    assert_true(info->file_bytes > info->tensor_bytes);
    uint64_t bytes;
    /* keys and values, 2 layers, 2 heads of 32, 128 positions of 2 bytes; 64 bytes a block of 64 */
    assert_ok(pare_description_kv_bytes(d, 128, "f16", &bytes, err));
    assert_int_equal(bytes, 2 * 2 * 2 * 32 * 128 * 2 + 2 * 64);
    pare_error e = {0};
    assert_int_equal(pare_description_kv_bytes(d, 128, "f13", &bytes, &e), PARE_ERR_ARG);
    assert_int_equal(pare_description_kv_bytes(d, SIZE_MAX / 4, "f16", &bytes, &e), PARE_ERR_ARG);
    assert_ok(pare_description_verify(d, rt, err));
    pare_description_free(d);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_go_both_ways),
        cmocka_unit_test(names_of_files),
        cmocka_unit_test(same_logits_through_gguf),
        cmocka_unit_test(raw_and_canonical_bytes),
        cmocka_unit_test(own_encodings_are_read),
        cmocka_unit_test(bad_encodings_are_refused),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(not_numbers_are_found),
        cmocka_unit_test(descriptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
