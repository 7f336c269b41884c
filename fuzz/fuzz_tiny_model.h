/* For the targets that load and run models: what is done with a model, and tiny valid ones of each
 * architecture as seeds. */
#ifndef PARE_FUZZ_TINY_MODEL_H
#define PARE_FUZZ_TINY_MODEL_H

#include "fuzz_folder.h"

#include "base/memory.h"
#include "base/os.h"
#include "io/ggml_types.h"
#include "io/gguf_writer.h"
#include "io/safetensors_writer.h"
#include "model/names.h"
#include "model/source.h"
#include "pare/model.h"

static pare_runtime *fuzz_runtime(void) {
    static pare_runtime *rt;
    if (!rt) {
        pare_options o = pare_options_default();
        o.n_threads = 1;
        if (pare_runtime_create(&rt, &o, NULL) != PARE_OK) abort();
    }
    return rt;
}

/* Runs three tokens, in both modes. */
static inline void fuzz_run_model(pare_model *m) {
    pare_error err = {0};
    for (int mode = 0; mode < 2; mode++) {
        pare_session_options o = {.n_ctx = 4,
                                  .compute = mode ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT};
        pare_session *s;
        if (pare_session_create(&s, m, &o, &err) != PARE_OK) continue;
        int32_t ids[3] = {0, (int32_t)pare_model_vocab_size(m) - 1, 0};
        float logprob[2];
        pare_status st = pare_session_logprobs(s, ids, 3, 0, logprob, &err);
        FUZZ_CHECK(st == PARE_OK || st == PARE_ERR_ARG);
        pare_session_free(s);
    }
}

/* Describes, verifies, loads and runs. */
static inline void fuzz_use_model(const char *path) {
    pare_error err = {0};
    pare_description *d;
    if (pare_describe(&d, path, &err) != PARE_OK) {
        FUZZ_CHECK(!d && err.message[0]);
        return;
    }
    uint64_t bytes;
    if (pare_description_kv_bytes(d, 8, "f16", &bytes, &err) == PARE_OK) FUZZ_CHECK(bytes);
    bool sound = pare_description_verify(d, fuzz_runtime(), &err) == PARE_OK;
    pare_description_free(d);

    pare_model *m;
    pare_status st = pare_model_load(&m, fuzz_runtime(), path, &err);
    FUZZ_CHECK((st == PARE_OK) == (m != NULL));
    FUZZ_CHECK(!sound || st == PARE_OK || st == PARE_ERR_INPUT); /* rope_freqs */
    if (!m) return;
    fuzz_run_model(m);
    pare_model_free(m);
}

/* ---- seeds ---- */

static pare_model_config tiny_config(const pare_arch *arch) {
    pare_model_config c;
    pare_config_init(&c, arch);
    c.n_layers = 1;
    c.dim = c.ffn_dim = c.embed_dim = 8;
    c.n_heads = 2;
    c.n_kv_heads = arch->layer_norm ? 2 : 1;
    c.head_dim = 4;
    c.vocab_size = 5;
    c.ctx_max = 6;
    c.pos_offset = strcmp(arch->name, "opt") == 0 ? 2 : 0;
    return c;
}

/* Weight number i of the architecture with its name and shape in that form; false past the last. */
static bool tiny_weight(const pare_arch *arch, const pare_model_config *c, pare_name_form form,
                        size_t i, char name[PARE_NAME_MAX], size_t dims[2], size_t *n_dims) {
    for (const pare_weight_spec *s = arch->weights; s->name; s++)
        for (int bias = 0; bias < 2; bias++) {
            if (bias ? !(s->flags & PARE_BIAS_REQUIRED)
                     : s->flags & PARE_WEIGHT_OPTIONAL && strcmp(s->name, "output_norm") != 0)
                continue;
            if (i--) continue;
            pare_name n = {s, strchr(s->name, '#') ? 0 : SIZE_MAX, bias ? "bias" : "weight", bias};
            size_t out = pare_extent_length((pare_extent)s->out, c);
            size_t in = pare_extent_length((pare_extent)s->in, c);
            bool transposed = pare_name_fix(&n, form) & PARE_FIX_TRANSPOSE;
            pare_name_print(name, &n, form);
            *n_dims = bias || s->out == PARE_X_NONE ? 1 : 2;
            dims[0] = s->out == PARE_X_NONE || transposed ? in : out;
            dims[1] = transposed ? out : in;
            return true;
        }
    return false;
}

static const float *tiny_values(void) {
    static float values[256];
    for (int i = 0; i < 256; i++) values[i] = (float)(i * 37 % 64 - 31) / 32;
    return values;
}

/* A folder with a tiny Llama, for what stands beside a model. */
static inline void fuzz_write_tiny_llama(void) {
    static const char *const config =
        "{\"model_type\":\"llama\",\"vocab_size\":5,\"hidden_size\":8,\"num_hidden_layers\":1,"
        "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,"
        "\"max_position_embeddings\":16,\"intermediate_size\":8}";
    const pare_arch *arch = pare_arch_find("llama");
    pare_model_config c = tiny_config(arch);
    char name[PARE_NAME_MAX];
    size_t dims[2], n_dims, number[64], n = 0;
    pare_st_writer *w;
    fuzz_write("config.json", config, strlen(config));
    FUZZ_CHECK(pare_st_writer_create(&w, fuzz_write("model.safetensors", "", 0), 0, NULL) ==
               PARE_OK);
    for (; tiny_weight(arch, &c, PARE_NAMES_HF, n, name, dims, &n_dims); n++)
        FUZZ_CHECK(pare_st_declare(w, name, "F32", dims, n_dims, &number[n], NULL) == PARE_OK);
    FUZZ_CHECK(pare_st_begin(w, NULL) == PARE_OK);
    for (size_t k = 0; k < n; k++) {
        tiny_weight(arch, &c, PARE_NAMES_HF, k, name, dims, &n_dims);
        size_t bytes = dims[0] * (n_dims == 2 ? dims[1] : 1) * sizeof(float);
        FUZZ_CHECK(pare_st_write(w, number[k], tiny_values(), bytes, NULL) == PARE_OK);
    }
    FUZZ_CHECK(pare_st_finish(w, NULL) == PARE_OK);
    pare_st_writer_free(w);
}

static size_t fuzz_read_back(const char *path, uint8_t *out, size_t capacity) {
    char *data;
    size_t n;
    FUZZ_CHECK(pare_file_read_all(&data, &n, path, 1 << 20, NULL) == PARE_OK);
    n = fuzz_copy(out, capacity, data, n);
    pare_free(data);
    return n;
}

#endif
