/* A split GGUF file: the input is the second of two parts, beside a good first one. */
#include "fuzz_folder.h"

#include "io/gguf.h"
#include "support/gguf_build.h"

static test_bytes part(unsigned no, const char *tensor) {
    test_gguf s = test_gguf_default();
    s.true_tensors = 1;
    s.tensors[0].name = tensor;
    gb_int(&s, "split.no", 2, no, 2);
    gb_int(&s, "split.count", 2, 2, 2);
    gb_int(&s, "split.tensors.count", 5, 2, 4);
    return test_gguf_build(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static char first[300];
    if (fuzz_folder_begin()) {
        test_bytes b = part(0, "a.weight");
        snprintf(first, sizeof first, "%s", fuzz_write("x-00001-of-00002.gguf", b.p, b.n));
        tb_free(&b);
    }
    fuzz_write("x-00002-of-00002.gguf", data, n);
    pare_gguf *g;
    pare_error err = {0};
    pare_status st = pare_gguf_open(&g, first, &err);
    FUZZ_CHECK((st == PARE_OK) == (g != NULL) && (st == PARE_OK || err.message[0]));
    FUZZ_CHECK(st == PARE_OK || st == PARE_ERR_INPUT || st == PARE_ERR_UNSUPPORTED);
    FUZZ_CHECK(!g || (pare_gguf_n_files(g) == 2 && pare_gguf_n_tensors(g) == 2));
    pare_gguf_close(g);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    if (i > 1) return 0;
    test_bytes b = part(1, i ? "a.weight" : "b.weight");
    size_t n = fuzz_copy(out, capacity, b.p, b.n);
    tb_free(&b);
    return n;
}
