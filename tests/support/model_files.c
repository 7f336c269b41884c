#include "support/model_files.h"

#include "base/memory.h"
#include "io/ggml_types.h"
#include "io/gguf_writer.h"
#include "io/safetensors_writer.h"
#include "tensor/encoding.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- fixtures and copies ---- */

const char *fixture_path(const char *name) {
    if (name[0] == '/') return name;
    static char ring[4][1024];
    static int next;
    const char *source = getenv("PARE_SOURCE");
    char *path = ring[next++ % 4];
    snprintf(path, sizeof ring[0], "%s/tests/fixtures/models/%s", source ? source : ".", name);
    return path;
}

void fixture_ids(int32_t *ids, size_t n, const char *fixture) {
    char path[1200];
    pare_json j;
    snprintf(path, sizeof path, "%s/reference.json", fixture_path(fixture));
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        snprintf(path, sizeof path, "ids.%zu", i);
        assert_ok(pare_json_int(&j, path, PARE_REQUIRED, 0, 1 << 20, &id, err));
        ids[i] = (int32_t)id;
    }
    pare_json_free(&j);
}

static copied_tensor read_tensor(const pare_st *st, size_t i) {
    const pare_st_tensor *s = pare_st_tensor_at(st, i);
    copied_tensor t = {.name = s->name, .dtype = s->dtype->name, .n_dims = s->n_dims};
    memcpy(t.dims, s->dims, sizeof t.dims);
    t.n_bytes = (size_t)s->n_bytes;
    t.data = pare_malloc(t.n_bytes, 1);
    assert_ok(pare_file_read_at(pare_st_file(st, s->file), t.data, t.n_bytes, s->offset, err));
    return t;
}

const char *copy_fixture(const char *fixture, const char *name, const copy_edit *edit) {
    static char folder[1024];
    char path[1200];
    pare_json j;
    snprintf(folder, sizeof folder, "%s", test_path(name));
    mkdir(folder, 0777);
    snprintf(path, sizeof path, "%s/config.json", fixture_path(fixture));
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    if (edit && edit->config) edit->config(j.root, edit->arg);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(pare_json_write(path, j.root, err));
    pare_json_free(&j);

    pare_st *st;
    pare_st_writer *w;
    assert_ok(pare_st_open(&st, fixture_path(fixture), err));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(pare_st_writer_create(&w, path, 0, err));
    size_t n = pare_st_n_tensors(st);
    copied_tensor *list = pare_calloc(n, sizeof *list);
    size_t *number = pare_calloc(n, sizeof *number);
    for (size_t i = 0; i < n; i++) {
        list[i] = read_tensor(st, i);
        if (edit && edit->tensor) edit->tensor(&list[i], edit->arg);
        if (list[i].name)
            assert_ok(pare_st_declare(w, list[i].name, list[i].dtype, list[i].dims, list[i].n_dims,
                                      &number[i], err));
    }
    assert_ok(pare_st_begin(w, err));
    for (size_t i = 0; i < n; i++) {
        if (list[i].name)
            assert_ok(pare_st_write(w, number[i], list[i].data, list[i].n_bytes, err));
        pare_free(list[i].data);
    }
    assert_ok(pare_st_finish(w, err));
    pare_st_writer_free(w);
    pare_st_close(st);
    pare_free(list);
    pare_free(number);
    return folder;
}

float *tensor_values(const copied_tensor *t, size_t *n) {
    const pare_encoding *enc = pare_encoding_from_dtype(t->dtype);
    *n = t->n_bytes / enc->block_bytes;
    float *values = pare_malloc(*n, sizeof *values);
    pare_view view = {.rows = 1, .cols = *n, .row_bytes = t->n_bytes, .part = {t->data}};
    enc->decode(values, &view, 0, 0, *n);
    return values;
}

/* ---- the same weights as a GGUF file ---- */

static const char *const gguf_names[][2] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"ln_1", "attn_norm"},
    {"ln_2", "ffn_norm"},
    {"attn.c_attn", "attn_qkv"},
    {"attn.c_proj", "attn_output"},
    {"mlp.c_fc", "ffn_up"},
    {"mlp.c_proj", "ffn_down"},
};

/* "model.layers.1.mlp.up_proj.weight" -> "blk.1.ffn_up.weight" */
static void gguf_name(char out[64], const char *hf, bool gemma) {
    const char *leaf = strrchr(hf, '.') + 1;
    size_t layer;
    int used = 0;
    if (sscanf(hf, "model.layers.%zu.%n", &layer, &used) == 1 ||
        sscanf(hf, "transformer.h.%zu.%n", &layer, &used) == 1) {
        char module[64];
        snprintf(module, sizeof module, "%.*s", (int)(leaf - 1 - (hf + used)), hf + used);
        const char *to = NULL;
        if (strcmp(module, "post_attention_layernorm") == 0)
            to = gemma ? "post_attention_norm" : "ffn_norm";
        for (size_t i = 0; i < sizeof gguf_names / sizeof gguf_names[0]; i++)
            if (strcmp(module, gguf_names[i][0]) == 0) to = gguf_names[i][1];
        assert_non_null(to);
        snprintf(out, 64, "blk.%zu.%s.%s", layer, to, leaf);
        return;
    }
    const char *to = strstr(hf, "embed_tokens") || strstr(hf, "wte") ? "token_embd"
                     : strstr(hf, "wpe")                             ? "position_embd"
                     : strstr(hf, "lm_head")                         ? "output"
                                                                     : "output_norm";
    snprintf(out, 64, "%s.%s", to, leaf);
}

/* Rows of q and k of arch llama: per head, row 2j + a of the file is row a * D/2 + j of the model.
 */
static void pair_rows(float *v, size_t rows, size_t cols, size_t head_dim) {
    float *copy = pare_malloc(rows * cols, sizeof *copy);
    memcpy(copy, v, rows * cols * sizeof *copy);
    for (size_t h = 0; h < rows; h += head_dim)
        for (size_t j = 0; j < head_dim / 2; j++)
            for (size_t a = 0; a < 2; a++)
                memcpy(v + (h + 2 * j + a) * cols, copy + (h + a * head_dim / 2 + j) * cols,
                       cols * sizeof *v);
    pare_free(copy);
}

static void transpose_values(float *v, size_t rows, size_t cols) {
    float *copy = pare_malloc(rows * cols, sizeof *copy);
    memcpy(copy, v, rows * cols * sizeof *copy);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) v[c * rows + r] = copy[r * cols + c];
    pare_free(copy);
}

static void set_keys(pare_gguf_writer *w, const pare_model_config *c) {
    const char *arch = strcmp(c->arch, "mistral") == 0 ? "llama" : c->arch;
    char key[96];
#define KEY(name) (snprintf(key, sizeof key, "%s." name, arch), key)
    assert_ok(pare_gguf_set_str(w, "general.architecture", arch, err));
    assert_ok(pare_gguf_set_u32(w, KEY("block_count"), (uint32_t)c->n_layers, err));
    assert_ok(pare_gguf_set_u32(w, KEY("embedding_length"), (uint32_t)c->dim, err));
    assert_ok(pare_gguf_set_u32(w, KEY("context_length"), (uint32_t)c->ctx_max, err));
    assert_ok(pare_gguf_set_u32(w, KEY("feed_forward_length"), (uint32_t)c->ffn_dim, err));
    assert_ok(pare_gguf_set_u32(w, KEY("attention.head_count"), (uint32_t)c->n_heads, err));
    assert_ok(pare_gguf_set_u32(w, KEY("attention.head_count_kv"), (uint32_t)c->n_kv_heads, err));
    assert_ok(pare_gguf_set_u32(w, KEY("attention.key_length"), (uint32_t)c->head_dim, err));
    assert_ok(pare_gguf_set_u32(w, KEY("attention.value_length"), (uint32_t)c->head_dim, err));
    if (strcmp(arch, "gpt2") == 0) {
        assert_ok(pare_gguf_set_f32(w, KEY("attention.layer_norm_epsilon"), c->norm_eps, err));
        return;
    }
    assert_ok(pare_gguf_set_f32(w, KEY("attention.layer_norm_rms_epsilon"), c->norm_eps, err));
    assert_ok(pare_gguf_set_f32(w, KEY("rope.freq_base"), c->rope.theta, err));
    if (c->rope.scaling == PARE_ROPE_LINEAR || c->rope.scaling == PARE_ROPE_YARN) {
        bool yarn = c->rope.scaling == PARE_ROPE_YARN;
        assert_ok(pare_gguf_set_str(w, KEY("rope.scaling.type"), yarn ? "yarn" : "linear", err));
        assert_ok(pare_gguf_set_f32(w, KEY("rope.scaling.factor"), c->rope.factor, err));
        assert_ok(pare_gguf_set_u32(w, KEY("rope.scaling.original_context_length"),
                                    (uint32_t)c->rope.original_ctx, err));
    }
    if (c->window && strcmp(arch, "qwen2") != 0)
        assert_ok(pare_gguf_set_u32(w, KEY("attention.sliding_window"), (uint32_t)c->window, err));
    if (strncmp(arch, "gemma", 5) != 0) return;
    assert_ok(pare_gguf_set_u32(w, KEY("attention.sliding_window_pattern"), 2, err));
    if (c->attn_softcap > 0)
        assert_ok(pare_gguf_set_f32(w, KEY("attn_logit_softcapping"), c->attn_softcap, err));
    if (c->final_softcap > 0)
        assert_ok(pare_gguf_set_f32(w, KEY("final_logit_softcapping"), c->final_softcap, err));
    if (strcmp(arch, "gemma3") == 0)
        assert_ok(pare_gguf_set_f32(w, KEY("rope.freq_base_swa"), c->rope_local.theta, err));
#undef KEY
}

/* Llama 3's divisors, by the published code. */
static size_t llama3_divisors(float *out, const pare_model_config *c) {
    const pare_rope_config *r = &c->rope;
    for (size_t i = 0; i < c->head_dim / 2; i++) {
        double f = pow((double)r->theta, -2.0 * (double)i / (double)c->head_dim);
        double wave = 2 * M_PI / f, old = (double)r->original_ctx, factor = (double)r->factor;
        double lo = (double)r->low_freq_factor, hi = (double)r->high_freq_factor;
        double s = (old / wave - lo) / (hi - lo);
        double divisor = wave < old / hi   ? 1
                         : wave > old / lo ? factor
                                           : 1 / ((1 - s) / factor + s);
        out[i] = (float)divisor;
    }
    return c->head_dim / 2;
}

const char *write_as_gguf(const char *folder, const char *file_name, const pare_model_config *c) {
    const char *path = test_path(file_name);
    bool gemma = strncmp(c->arch, "gemma", 5) == 0, gpt2 = strcmp(c->arch, "gpt2") == 0;
    bool llama = strcmp(c->arch, "llama") == 0 || strcmp(c->arch, "mistral") == 0;
    pare_gguf_writer *w;
    pare_st *st;
    assert_ok(pare_st_open(&st, folder, err));
    assert_ok(pare_gguf_writer_create(&w, path, 0, err));
    set_keys(w, c);
    size_t n = pare_st_n_tensors(st), count;
    float divisors[512];
    for (size_t i = 0; i < n; i++) {
        char name[64];
        const pare_st_tensor *t = pare_st_tensor_at(st, i);
        size_t dims[2] = {t->dims[0], t->dims[1]};
        gguf_name(name, t->name, gemma);
        if (gpt2 && t->n_dims == 2 && strstr(t->name, "c_")) {
            dims[0] = t->dims[1];
            dims[1] = t->dims[0];
        }
        assert_ok(pare_gguf_declare(w, name, PARE_GGML_F32, dims, t->n_dims, err));
    }
    if (c->rope.scaling == PARE_ROPE_LLAMA3) {
        count = llama3_divisors(divisors, c);
        assert_ok(pare_gguf_declare(w, "rope_freqs.weight", PARE_GGML_F32, &count, 1, err));
    }
    assert_ok(pare_gguf_begin(w, err));
    for (size_t i = 0; i < n; i++) {
        copied_tensor t = read_tensor(st, i);
        float *v = tensor_values(&t, &count);
        if (llama && (strstr(t.name, "q_proj") || strstr(t.name, "k_proj")))
            pair_rows(v, t.dims[0], t.n_dims == 2 ? t.dims[1] : 1, c->head_dim);
        if (gpt2 && t.n_dims == 2 && strstr(t.name, "c_"))
            transpose_values(v, t.dims[0], t.dims[1]);
        if (gemma && strstr(t.name, "norm"))
            for (size_t k = 0; k < count; k++) v[k] += 1;
        assert_ok(pare_gguf_write(w, i, v, count * sizeof *v, err));
        pare_free(v);
        pare_free(t.data);
    }
    if (c->rope.scaling == PARE_ROPE_LLAMA3)
        assert_ok(pare_gguf_write(w, n, divisors, c->head_dim / 2 * sizeof(float), err));
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);
    pare_st_close(st);
    return path;
}
