/* An adapter folder beside a tiny Llama: u16 length of adapter_config.json, adapter_config.json,
 * adapter_model.safetensors. */
#include "fuzz_tiny_model.h"

#include "model/lora.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    size_t config = data[0] | (size_t)data[1] << 8;
    if (config > n - 2) config = n - 2;
    if (fuzz_folder_begin()) fuzz_write_tiny_llama();
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
    if (fuzz_folder_begin()) fuzz_write_tiny_llama();
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
