/* A cushion's file beside a tiny Llama: what is read is run. */
#include "fuzz_tiny_model.h"

#include "model/prefix.h"

static pare_model *load_base(void) {
    pare_error err = {0};
    pare_model *m;
    if (fuzz_folder_begin()) fuzz_write_tiny_llama();
    FUZZ_CHECK(pare_model_load(&m, fuzz_runtime(), fuzz_folder, &err) == PARE_OK);
    return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    pare_error err = {0};
    pare_model *m = load_base();
    const char *path = fuzz_write("cushion.safetensors", data, n);
    if (pare_model_set_prefix(m, path, &err) == PARE_OK) {
        FUZZ_CHECK(pare_model_prefix_length(m) > 0);
        fuzz_run_model(m);
    } else {
        FUZZ_CHECK(err.message[0] && pare_model_prefix_length(m) == 0);
    }
    pare_model_free(m);
    return 0;
}

/* As pare writes them, of tokens and of none. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    if (i > 3) return 0;
    pare_model *m = load_base();
    pare_prefix *p;
    const int32_t ids[] = {3, 1, 4, 2};
    const char *path = fuzz_write("cushion.safetensors", "", 0);
    FUZZ_CHECK(pare_prefix_from_ids(&p, m, ids, i + 1, NULL) == PARE_OK);
    if (i % 2) {
        pare_free(p->ids);
        p->ids = NULL;
    }
    FUZZ_CHECK(pare_prefix_save(p, &m->config, i ? "{}" : NULL, path, NULL) == PARE_OK);
    pare_prefix_free(p);
    pare_model_free(m);
    return fuzz_read_back(path, out, capacity);
}
