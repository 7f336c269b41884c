/* The index of a sharded safetensors folder: the input is model.safetensors.index.json beside two
 * good parts. */
#include "fuzz_folder.h"

#include "io/safetensors.h"
#include "support/st_build.h"

#define PART_1 "model-00001-of-00002.safetensors"
#define PART_2 "model-00002-of-00002.safetensors"

static void write_part(const char *name, const char *header, size_t n_data) {
    test_bytes b = test_st_build(header, strlen(header), n_data);
    fuzz_write(name, b.p, b.n);
    tb_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (fuzz_folder_begin()) {
        write_part(PART_1, "{" TEST_ST_ENTRY("a", "U8", "[2]", "[0,2]") "}", 2);
        write_part(PART_2, "{" TEST_ST_ENTRY("b", "U8", "[3]", "[0,3]") "}", 3);
    }
    fuzz_write("model.safetensors.index.json", data, n);
    pare_st *s;
    pare_error err = {0};
    pare_status st = pare_st_open(&s, fuzz_folder, &err);
    FUZZ_CHECK((st == PARE_OK) == (s != NULL) && (st == PARE_OK || err.message[0]));
    FUZZ_CHECK(st == PARE_OK || st == PARE_ERR_INPUT);
    FUZZ_CHECK(!s || (pare_st_n_files(s) <= 2 && pare_st_n_tensors(s) <= 2));
    pare_st_close(s);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    static const char *const seeds[] = {
        "{\"metadata\":{\"total_size\":5},\"weight_map\":{\"a\":\"" PART_1 "\",\"b\":\"" PART_2
        "\"}}",
        "{\"weight_map\":{\"a\":\"" PART_1 "\"}}",
        "{\"metadata\":{\"total_size\":2},\"weight_map\":{\"b\":\"../" PART_2 "\"}}",
    };
    if (i >= sizeof seeds / sizeof seeds[0]) return 0;
    return fuzz_copy(out, capacity, seeds[i], strlen(seeds[i]));
}
