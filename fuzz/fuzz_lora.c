/* An adapter folder beside a tiny Llama: u16 length of adapter_config.json, adapter_config.json,
 * adapter_model.safetensors. */
#include "fuzz_tiny_model.h"

#include "model/lora.h"

static const char *const base_config =
    "{\"model_type\":\"llama\",\"vocab_size\":5,\"hidden_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,"
    "\"max_position_embeddings\":6,\"intermediate_size\":8}";

static void write_base(void) {
    const pare_arch *arch = pare_arch_find("llama");
    pare_model_config c = tiny_config(arch);
    char name[PARE_NAME_MAX];
    size_t dims[2], n_dims, number[64], n = 0;
    pare_st_writer *w;
    fuzz_write("config.json", base_config, strlen(base_config));
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    size_t config = data[0] | (size_t)data[1] << 8;
    if (config > n - 2) config = n - 2;
    if (fuzz_folder_begin()) write_base();
    fuzz_write("adapter_config.json", data + 2, config);
    fuzz_write("adapter_model.safetensors", data + 2 + config, n - 2 - config);
    pare_error err = {0};
    pare_model *m;
    FUZZ_CHECK(pare_model_load(&m, fuzz_runtime(), fuzz_folder, &err) == PARE_OK);
    if (pare_model_add_lora(m, fuzz_folder, &err) == PARE_OK)
        fuzz_run_model(m);
    else
        FUZZ_CHECK(err.message[0]);
    pare_model_free(m);
    return 0;
}

/* Adapters as pare writes them, of every choice of matrices. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    if (i > PARE_LORA_FFN || capacity < 4096) return 0;
    if (fuzz_folder_begin()) write_base();
    pare_source *source;
    pare_lora *lora;
    const pare_lora_options o = {.rank = 2, .alpha = 4, .targets = (int)i, .rslora = i % 2};
    FUZZ_CHECK(pare_source_open(&source, fuzz_folder, NULL) == PARE_OK);
    FUZZ_CHECK(pare_lora_create(&lora, source, &o, i, NULL) == PARE_OK);
    fuzz_write("adapter_config.json", "", 0); /* known, so that they are removed at the end */
    const char *weights = fuzz_write("adapter_model.safetensors", "", 0);
    char config[sizeof fuzz_folder + 32], copy[sizeof fuzz_folder + 32];
    snprintf(config, sizeof config, "%s/adapter_config.json", fuzz_folder);
    snprintf(copy, sizeof copy, "%s", weights);
    FUZZ_CHECK(pare_lora_save(lora, source, fuzz_folder, "base", NULL) == PARE_OK);
    pare_lora_free(lora);
    pare_source_close(source);
    size_t n = fuzz_read_back(config, out + 2, capacity - 2);
    out[0] = (uint8_t)n;
    out[1] = (uint8_t)(n >> 8);
    size_t rest = fuzz_read_back(copy, out + 2 + n, capacity - 2 - n);
    return n && rest ? 2 + n + rest : 0;
}
