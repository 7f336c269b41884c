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

/* The same with the matrices of layers packed by another program. */
static size_t packed_json(char *out, size_t n, pare_layout_kind kind) {
    return n - 1 +
           (size_t)sprintf(out + n - 1,
                           ",\"quantization_config\":{\"quant_method\":"
                           "\"compressed-tensors\",\"format\":\"%s\",\"config_groups\":"
                           "{\"a\":{\"weights\":{\"num_bits\":%d}}}}}",
                           kind == PARE_LAYOUT_INT ? "int-quantized" : "pack-quantized",
                           kind == PARE_LAYOUT_INT ? 8 : 4);
}

/* Declares or writes the parts of a matrix; false: it is not packed. */
static bool packed_parts(pare_st_writer *w, pare_layout_kind kind, const char *weight,
                         const size_t dims[2], size_t number[PARE_LAYOUT_PARTS], bool write) {
    if (kind == PARE_LAYOUT_NONE || !strstr(weight, "_proj.weight")) return false;
    pare_layout l = {.kind = kind,
                     .bits = kind == PARE_LAYOUT_INT ? 8 : 4,
                     .asymmetric = true,
                     .rows = dims[0],
                     .cols = dims[1],
                     .group = dims[1],
                     .scale = PARE_SCALE_F32};
    const int64_t shape[2] = {(int64_t)dims[0], (int64_t)dims[1]};
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) {
        pare_layout_part p = pare_layout_part_at(&l, k);
        if (!p.suffix) continue;
        char name[PARE_NAME_MAX + 32];
        snprintf(name, sizeof name, "%.*s%s", (int)(strlen(weight) - strlen("weight")), weight,
                 p.suffix);
        const void *data = k == PARE_LAYOUT_SHAPE ? (const void *)shape : tiny_values();
        FUZZ_CHECK((write ? pare_st_write(w, number[k], data, pare_layout_part_bytes(&l, k), NULL)
                          : pare_st_declare(w, name, p.dtype, p.dims, p.n_dims, &number[k],
                                            NULL)) == PARE_OK);
    }
    return true;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    unsigned n_archs = 0;
    while (pare_arch_at(n_archs)) n_archs++;
    pare_layout_kind kind = i < n_archs    ? PARE_LAYOUT_NONE
                            : i == n_archs ? PARE_LAYOUT_PACK
                                           : PARE_LAYOUT_INT;
    const pare_arch *arch = kind ? pare_arch_find("llama") : pare_arch_at(i);
    if (i > n_archs + 1 || capacity < 4096) return 0;
    fuzz_folder_begin();
    const char *path = fuzz_write("seed.safetensors", "", 0);
    pare_model_config c = tiny_config(arch);
    size_t config = tiny_json((char *)out + 2, 2048, arch, &c);
    if (kind) config = packed_json((char *)out + 2, config, kind);
    out[0] = (uint8_t)config;
    out[1] = (uint8_t)(config >> 8);

    pare_st_writer *w;
    char name[PARE_NAME_MAX];
    size_t dims[2], n_dims, n = 0, number[64][PARE_LAYOUT_PARTS];
    FUZZ_CHECK(pare_st_writer_create(&w, path, 0, NULL) == PARE_OK);
    for (; tiny_weight(arch, &c, PARE_NAMES_HF, n, name, dims, &n_dims); n++)
        if (!packed_parts(w, kind, name, dims, number[n], false))
            FUZZ_CHECK(pare_st_declare(w, name, "F32", dims, n_dims, number[n], NULL) == PARE_OK);
    FUZZ_CHECK(pare_st_begin(w, NULL) == PARE_OK);
    for (size_t k = 0; k < n; k++) {
        tiny_weight(arch, &c, PARE_NAMES_HF, k, name, dims, &n_dims);
        size_t bytes = dims[0] * (n_dims == 2 ? dims[1] : 1) * sizeof(float);
        if (packed_parts(w, kind, name, dims, number[k], true)) continue;
        FUZZ_CHECK(pare_st_write(w, number[k][0], tiny_values(), bytes, NULL) == PARE_OK);
    }
    FUZZ_CHECK(pare_st_finish(w, NULL) == PARE_OK);
    pare_st_writer_free(w);
    size_t rest = fuzz_read_back(path, out + 2 + config, capacity - 2 - config);
    return rest ? 2 + config + rest : 0;
}
