/* What every fuzz target shares. A target is a file fuzz_NAME.c that includes this header and
 * defines
 *
 *     int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);        // always returns 0
 *     size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity);      // seed i; 0 = there is
 * none
 *
 * clang: libFuzzer drives it, starting from an empty corpus; the custom mutator below brings the
 * seeds in. gcc: plain_main.c drives it: `fuzz_NAME SECONDS`, `fuzz_NAME FILE...` to replay,
 * `fuzz_NAME --write-seeds FOLDER`. A finding is a crash, a sanitizer's report or a FUZZ_CHECK that
 * fails. */
#ifndef PARE_FUZZ_SEEDS_H
#define PARE_FUZZ_SEEDS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity);

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Copies a seed that was built elsewhere. */
static inline size_t fuzz_copy(uint8_t *out, size_t capacity, const void *data, size_t n) {
    if (n > capacity) return 0;
    memcpy(out, data, n);
    return n;
}

#ifdef __clang__
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t max, unsigned seed);

/* One time in 256, or from (almost) nothing: a seed. Otherwise libFuzzer's own mutations. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t max, unsigned seed) {
    if (n < 4 || seed % 256 == 0) {
        unsigned count = 0;
        while (count < 1000 && fuzz_seed(count, data, max)) count++;
        if (count) n = fuzz_seed(seed / 256 % count, data, max);
        if (seed % 512 == 0 && n) return n;
    }
    return LLVMFuzzerMutate(data, n, max);
}
#endif

#endif
