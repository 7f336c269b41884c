/* Importance matrices, both forms: what loads holds mean squares that are found by name. */
#include "fuzz_folder.h"

#include "base/memory.h"
#include "base/os.h"
#include "io/imatrix.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_folder_begin();
    pare_imatrix m;
    pare_error err = {0};
    pare_status st = pare_imatrix_load(&m, fuzz_write("m", data, n), &err);
    FUZZ_CHECK((st == PARE_OK) == (m.n_entries > 0) && (st == PARE_OK || err.message[0]));
    FUZZ_CHECK(st == PARE_OK || st == PARE_ERR_INPUT || st == PARE_ERR_UNSUPPORTED);
    for (size_t i = 0; i < m.n_entries; i++) {
        const pare_imatrix_entry *e = &m.entries[i];
        FUZZ_CHECK(e->n > 0 && pare_imatrix_find(&m, e->name) == e);
        for (size_t k = 0; k < e->n; k++) FUZZ_CHECK(isfinite(e->squares[k]) && e->squares[k] >= 0);
    }
    pare_imatrix_free(&m);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    static const char *const names[] = {"seed.dat", "seed.gguf"};
    const float a[] = {1, 2, 4}, b[] = {0.5f};
    pare_imatrix_item items[] = {{"blk.0.a.weight", 3, a}, {"blk.1.b.weight", 1, b}};
    const pare_imatrix_origin origin = {"text", 2, 4};
    if (i >= 2) return 0;
    fuzz_folder_begin();
    char *seed;
    size_t n;
    const char *path = fuzz_write(names[i], "", 0);
    FUZZ_CHECK(pare_imatrix_write(path, items, 2, &origin, NULL) == PARE_OK);
    FUZZ_CHECK(pare_file_read_all(&seed, &n, path, 1 << 20, NULL) == PARE_OK);
    n = fuzz_copy(out, capacity, seed, n);
    pare_free(seed);
    return n;
}
