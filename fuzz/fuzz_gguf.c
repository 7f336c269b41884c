/* The GGUF reader: headers from memory, then every key through every getter. */
#include "seeds.h"

#include "io/ggml_types.h"
#include "io/gguf.h"
#include "support/gguf_build.h"

#include <math.h>

static void check_text(const char *s, size_t n) {
    FUZZ_CHECK(s[n] == '\0' && strlen(s) == n);
    FUZZ_CHECK(pare_name_valid(s, n));
}

static void check_tensors(const pare_gguf *g, uint64_t size) {
    uint64_t end = 0;
    for (size_t i = 0; i < pare_gguf_n_tensors(g); i++) {
        const pare_gguf_tensor *t = pare_gguf_tensor_at(g, i);
        size_t n_dims, dims[4];
        pare_gguf_shape(t, &n_dims, dims);
        check_text(t->name, strlen(t->name));
        FUZZ_CHECK(pare_ggml_type_at(t->type));
        FUZZ_CHECK(pare_gguf_find(g, t->name) == t);
        FUZZ_CHECK(t->offset >= end && t->offset % pare_gguf_alignment(g) == 0);
        FUZZ_CHECK(t->offset <= size && t->n_bytes <= size - t->offset);
        end = t->offset + t->n_bytes;
    }
}

static volatile uint8_t sink; /* reads through it are not removed */

/* Touches every byte that a getter gives. */
static void touch(const void *data, size_t n) {
    for (size_t i = 0; i < n; i++) sink = ((const uint8_t *)data)[i];
}

/* Without messages: composing them would be most of the time. */
static void get_all(const pare_gguf *g, const char *key) {
    uint32_t u = 0, each[4], *us = NULL;
    int32_t i = 0, *is = NULL;
    float f = 0, *fs = NULL;
    bool b = false;
    const char *s = NULL;
    pare_span *spans = NULL;
    size_t n = 0;
    pare_gguf_u32(g, key, PARE_REQUIRED, 1, 1000, &u, NULL);
    pare_gguf_i32(g, key, PARE_REQUIRED, -5, 1000, &i, NULL);
    pare_gguf_f32(g, key, PARE_OPTIONAL, -INFINITY, INFINITY, &f, NULL);
    FUZZ_CHECK(u <= 1000 && i >= -5 && i <= 1000 && isfinite(f));
    pare_gguf_bool(g, key, PARE_REQUIRED, &b, NULL);
    if (pare_gguf_str(g, key, PARE_REQUIRED, &s, NULL) == PARE_OK) touch(s, strlen(s) + 1);
    pare_gguf_u32_each(g, key, PARE_REQUIRED, 0, UINT32_MAX, each, 4, NULL);
    if (pare_gguf_strings(g, key, PARE_REQUIRED, &spans, &n, NULL) == PARE_OK)
        for (size_t k = 0; k < n; k++) touch(spans[k].s, spans[k].n);
    pare_free(spans);
    if (pare_gguf_f32s(g, key, PARE_REQUIRED, &fs, &n, NULL) == PARE_OK) touch(fs, n * 4);
    pare_free(fs);
    if (pare_gguf_i32s(g, key, PARE_REQUIRED, &is, &n, NULL) == PARE_OK) touch(is, n * 4);
    pare_free(is);
    if (pare_gguf_u32s(g, key, PARE_REQUIRED, &us, &n, NULL) == PARE_OK) touch(us, n * 4);
    pare_free(us);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    pare_gguf *g;
    pare_error err = {0};
    pare_status st = pare_gguf_open_memory(&g, data, n, "x.gguf", &err);
    FUZZ_CHECK((st == PARE_OK) == (g != NULL) && (st == PARE_OK || err.message[0]));
    FUZZ_CHECK(st == PARE_OK || st == PARE_ERR_INPUT || st == PARE_ERR_UNSUPPORTED);
    if (!g) return 0;
    check_tensors(g, n);
    for (size_t i = 0; i < pare_gguf_n_kv(g); i++) {
        pare_gguf_kv kv = pare_gguf_kv_at(g, i);
        check_text(kv.key, strlen(kv.key));
        touch(kv.data, kv.n_bytes);
        get_all(g, kv.key);
    }
    get_all(g, "none");
    uint32_t u = 0;
    if (pare_gguf_u32(g, "llama.block_count", PARE_REQUIRED, 1, 512, &u, &err) != PARE_OK)
        FUZZ_CHECK(strstr(err.message, "llama.block_count"));
    pare_gguf_close(g);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    test_gguf s = test_gguf_default();
    if (i & 1) test_gguf_all_types(&s);
    if (i & 2) {
        s.alignment = 8;
        gb_int(&s, "general.alignment", 4, 8, 4);
    }
    if (i & 4) {
        s.version = 2;
        s.tensors[1] =
            (test_gguf_tensor){"d", TEST_GGUF_AUTO, 3, {2, 1, 3}, 30, 12, TEST_GGUF_AUTO};
    }
    if (i & 8) s.true_tensors = 0;
    test_bytes b = test_gguf_build(&s);
    size_t n = i < 16 ? fuzz_copy(out, capacity, b.p, b.n) : 0;
    tb_free(&b);
    return n;
}
