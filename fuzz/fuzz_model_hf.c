/* A Hugging Face folder: u16 length of config.json, config.json, model.safetensors. */
#include "fuzz_tiny_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    size_t config = data[0] | (size_t)data[1] << 8;
    if (config > n - 2) config = n - 2;
    fuzz_folder_begin();
    fuzz_write("config.json", data + 2, config);
    fuzz_write("model.safetensors", data + 2 + config, n - 2 - config);
    fuzz_use_model(fuzz_folder);
    return 0;
}

static size_t tiny_json(char *out, size_t capacity, const pare_arch *arch,
                        const pare_model_config *c) {
    return (size_t)snprintf(
        out, capacity,
        "{\"model_type\":\"%s\",\"vocab_size\":%zu,\"hidden_size\":%zu,\"num_hidden_layers\":%zu,"
        "\"num_attention_heads\":%zu,\"num_key_value_heads\":%zu,\"head_dim\":%zu,"
        "\"max_position_embeddings\":%zu,\"%s\":%zu,\"word_embed_proj_dim\":8,"
        "\"sliding_window\":2,\"use_sliding_window\":true,\"max_window_layers\":0,"
        "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
        "\"original_max_position_embeddings\":4},\"eos_token_id\":[1,2]}",
        arch->hf, c->vocab_size, c->dim, c->n_layers, c->n_heads, c->n_kv_heads, c->head_dim,
        c->ctx_max, strcmp(arch->name, "opt") == 0 ? "ffn_dim" : "intermediate_size", c->ffn_dim);
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    const pare_arch *arch = pare_arch_at(i);
    if (!arch || capacity < 4096) return 0;
    fuzz_folder_begin();
    const char *path = fuzz_write("seed.safetensors", "", 0);
    pare_model_config c = tiny_config(arch);
    size_t config = tiny_json((char *)out + 2, 2048, arch, &c);
    out[0] = (uint8_t)config;
    out[1] = (uint8_t)(config >> 8);

    pare_st_writer *w;
    char name[PARE_NAME_MAX];
    size_t dims[2], n_dims, n = 0, number[64];
    FUZZ_CHECK(pare_st_writer_create(&w, path, 0, NULL) == PARE_OK);
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
    size_t rest = fuzz_read_back(path, out + 2 + config, capacity - 2 - config);
    return rest ? 2 + config + rest : 0;
}
