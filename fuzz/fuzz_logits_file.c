/* llama.cpp's base files: what opens has ids of its vocabulary, rows that read are
 * log-probabilities.
 */
#include "fuzz_folder.h"

#include "base/memory.h"
#include "io/logits_file.h"

#include <math.h>

static void use(const pare_logits_file *f) {
    pare_error err = {0};
    uint16_t *row = pare_malloc(f->row_codes, sizeof *row);
    float *logprob = pare_malloc(f->vocab_size, sizeof *logprob);
    FUZZ_CHECK(row && logprob);
    for (size_t i = 0; i < f->n_windows * f->ctx; i++)
        FUZZ_CHECK(f->ids[i] >= 0 && (size_t)f->ids[i] < f->vocab_size);
    for (size_t i = 0; i < f->n_windows * f->n_rows; i++) {
        pare_status st = pare_logits_file_read(row, f, i / f->n_rows, i % f->n_rows, 1, &err);
        FUZZ_CHECK(st == PARE_OK || (st == PARE_ERR_INPUT && err.message[0]));
        if (st != PARE_OK) continue;
        pare_logits_file_decode(logprob, f, row);
        for (size_t v = 0; v < f->vocab_size; v++)
            FUZZ_CHECK(isfinite(logprob[v]) && logprob[v] < 0.01f);
    }
    pare_free(row);
    pare_free(logprob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_folder_begin();
    pare_logits_file f;
    pare_error err = {0};
    const char *path = fuzz_write("base", data, n);
    pare_status st = pare_logits_file_open(&f, path, &err);
    FUZZ_CHECK(st == PARE_OK || (st == PARE_ERR_INPUT && err.message[0] && !f.ids));
    FUZZ_CHECK(st != PARE_OK || pare_logits_file_is(path));
    if (st == PARE_OK) use(&f);
    pare_logits_file_close(&f);
    return 0;
}

/* Vocabularies of 3 and 4, one window of 4 tokens and two of 5. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    uint8_t seed[256] = "_logits_";
    size_t n = 8;
    if (i > 1) return 0;
    const int32_t counts[] = {4 + (int)i, 3 + (int)i, 1 + (int)i};
    const float range[] = {1e-4f, -7};
    const uint16_t codes[] = {65535, 0, 30000, 3};
    memcpy(seed + n, counts, sizeof counts);
    n += sizeof counts;
    for (int32_t k = 0; k < counts[0] * counts[2]; k++, n += 4)
        memcpy(seed + n, &(int32_t){k % counts[1]}, 4);
    for (int32_t k = 0; k < counts[2] * (counts[0] - 1 - counts[0] / 2); k++) {
        memcpy(seed + n, range, sizeof range);
        memcpy(seed + n + sizeof range, codes, sizeof codes);
        n += sizeof range + sizeof codes;
    }
    return fuzz_copy(out, capacity, seed, n);
}
