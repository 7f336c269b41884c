/* A whole GGUF model: described, verified, loaded and run. */
#include "fuzz_tiny_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_folder_begin();
    fuzz_use_model(fuzz_write("model.gguf", data, n));
    return 0;
}

static void set(pare_gguf_writer *w, const pare_arch *arch, const char *name, uint32_t value) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch->gguf, name);
    FUZZ_CHECK(pare_gguf_set_u32(w, key, value, NULL) == PARE_OK);
}

/* pare's own keys: an input on a static grid, and a prefix of one position. */
static void set_own(pare_gguf_writer *w, const pare_arch *arch, const pare_model_config *c) {
    const struct {
        const char *key;
        size_t n;
    } facts[] = {{"n_layers", c->n_layers},     {"n_kv_heads", c->n_kv_heads},
                 {"head_dim", c->head_dim},     {"dim", c->dim},
                 {"vocab_size", c->vocab_size}, {"version", 1}};
    char key[96], text[32];
    FUZZ_CHECK(pare_gguf_set_str(w, "pare.act.inputs",
                                 "{\"version\":1,\"inputs\":{\"blk.0.ffn_down.weight\":{\"bits\":8,"
                                 "\"granularity\":\"per_tensor_static\",\"symmetric\":false,"
                                 "\"formula\":\"default\",\"scale\":0.1,\"zero\":7}}}",
                                 NULL) == PARE_OK);
    FUZZ_CHECK(pare_gguf_set_str(w, "pare.cushion.format", "pare-cushion", NULL) == PARE_OK);
    FUZZ_CHECK(pare_gguf_set_str(w, "pare.cushion.arch", arch->name, NULL) == PARE_OK);
    FUZZ_CHECK(pare_gguf_set_str(w, "pare.cushion.token_ids", "[1]", NULL) == PARE_OK);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        snprintf(key, sizeof key, "pare.cushion.%s", facts[i].key);
        snprintf(text, sizeof text, "%zu", facts[i].n);
        FUZZ_CHECK(pare_gguf_set_str(w, key, text, NULL) == PARE_OK);
    }
    FUZZ_CHECK(pare_gguf_set_f32s(w, "pare.cushion.values", tiny_values(),
                                  2 * c->n_layers * c->n_kv_heads * c->head_dim, NULL) == PARE_OK);
}

/* The architectures that GGUF files know. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    const pare_arch *arch = NULL;
    for (size_t a = 0; (arch = pare_arch_at(a)); a++)
        if (arch->gguf && i-- == 0) break;
    if (!arch) return 0;
    fuzz_folder_begin();
    const char *path = fuzz_write("seed.gguf", "", 0);
    pare_model_config c = tiny_config(arch);
    pare_gguf_writer *w;
    char name[PARE_NAME_MAX];
    size_t dims[2], n_dims;
    FUZZ_CHECK(pare_gguf_writer_create(&w, path, 0, NULL) == PARE_OK);
    FUZZ_CHECK(pare_gguf_set_str(w, "general.architecture", arch->gguf, NULL) == PARE_OK);
    set(w, arch, "block_count", (uint32_t)c.n_layers);
    set(w, arch, "embedding_length", (uint32_t)c.dim);
    set(w, arch, "context_length", (uint32_t)c.ctx_max);
    set(w, arch, "feed_forward_length", (uint32_t)c.ffn_dim);
    set(w, arch, "attention.head_count", (uint32_t)c.n_heads);
    set(w, arch, "attention.head_count_kv", (uint32_t)c.n_kv_heads);
    set(w, arch, "attention.key_length", (uint32_t)c.head_dim);
    if (!arch->no_rope) set(w, arch, "attention.sliding_window", 2);
    snprintf(name, sizeof name, "%s.attention.layer_norm%s_epsilon", arch->gguf,
             arch->layer_norm ? "" : "_rms");
    FUZZ_CHECK(pare_gguf_set_f32(w, name, 1e-5f, NULL) == PARE_OK);
    set_own(w, arch, &c);
    size_t n = 0;
    for (; tiny_weight(arch, &c, PARE_NAMES_GGUF, n, name, dims, &n_dims); n++)
        FUZZ_CHECK(pare_gguf_declare(w, name, PARE_GGML_F32, dims, n_dims, NULL) == PARE_OK);
    FUZZ_CHECK(pare_gguf_begin(w, NULL) == PARE_OK);
    for (size_t k = 0; k < n; k++) {
        tiny_weight(arch, &c, PARE_NAMES_GGUF, k, name, dims, &n_dims);
        size_t bytes = dims[0] * (n_dims == 2 ? dims[1] : 1) * sizeof(float);
        FUZZ_CHECK(pare_gguf_write(w, k, tiny_values(), bytes, NULL) == PARE_OK);
    }
    FUZZ_CHECK(pare_gguf_finish(w, NULL) == PARE_OK);
    pare_gguf_writer_free(w);
    return fuzz_read_back(path, out, capacity);
}
