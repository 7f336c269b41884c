/* The safetensors reader: one file's header from memory. */
#include "seeds.h"

#include "io/safetensors.h"
#include "support/st_build.h"

static volatile char sink;

static void check(const pare_st *s, size_t n) {
    uint64_t end = 0;
    for (size_t i = 0; i < pare_st_n_tensors(s); i++) {
        const pare_st_tensor *t = pare_st_tensor_at(s, i);
        uint64_t n_bytes, n_elements;
        FUZZ_CHECK(strlen(t->name) >= 1 && pare_name_valid(t->name, strlen(t->name)));
        FUZZ_CHECK(pare_st_find(s, t->name) == t);
        FUZZ_CHECK(pare_st_size(&n_bytes, &n_elements, t->dtype, t->dims, t->n_dims));
        FUZZ_CHECK(n_bytes == t->n_bytes && n_elements == t->n_elements);
        FUZZ_CHECK(i == 0 || t->offset == end);
        end = t->offset + t->n_bytes;
    }
    FUZZ_CHECK(pare_st_n_tensors(s) == 0 || end == n);
    for (size_t i = 0; i < pare_st_n_metadata(s); i++) {
        pare_span key, value;
        pare_st_metadata_at(s, i, &key, &value);
        FUZZ_CHECK(key.s[key.n] == '\0' && value.s[value.n] == '\0');
        for (size_t k = 0; k < value.n; k++) sink = value.s[k];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    pare_st *s;
    pare_error err = {0};
    pare_status st = pare_st_open_memory(&s, data, n, "x.safetensors", &err);
    FUZZ_CHECK((st == PARE_OK) == (s != NULL) && (st == PARE_OK || err.message[0]));
    FUZZ_CHECK(st == PARE_OK || st == PARE_ERR_INPUT);
    if (s) check(s, n);
    pare_st_close(s);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    static const struct {
        const char *header;
        size_t n_data;
    } seeds[] = {
        {TEST_ST_HEADER, TEST_ST_DATA},
        {"{}", 0},
        {"{" TEST_ST_ENTRY("a", "F32", "[2]", "[0,8]") "}", 8},
        {"{" TEST_ST_ENTRY("b", "U8", "[3]", "[4,7]") "," TEST_ST_ENTRY(
             "\\u0061\\ud83d\\ude00", "F16", "[2,1]", "[0,4]") "}   ",
         7},
        {"{\"__metadata__\":{\"k\":\"\\\"v\\n\",\"\":\"\"}}", 0},
    };
    if (i >= sizeof seeds / sizeof seeds[0]) return 0;
    test_bytes b = test_st_build(seeds[i].header, strlen(seeds[i].header), seeds[i].n_data);
    size_t n = fuzz_copy(out, capacity, b.p, b.n);
    tb_free(&b);
    return n;
}
