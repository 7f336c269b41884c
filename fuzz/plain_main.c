/* A driver for fuzz targets where libFuzzer is not: mutates seeds for some seconds, without
 * feedback. What it lacks in guidance it has in speed and in structure: half of its mutations
 * overwrite an aligned or unaligned integer with a value at which arithmetic breaks. */
#include "seeds.h"

#include <time.h>

enum { CAPACITY = 1 << 20, MAX_SEEDS = 256 };

static uint64_t random_state;

static uint64_t random_next(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(size_t n) { return n ? (size_t)(random_next() % n) : 0; }

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void put_integer(uint8_t *p, size_t n) {
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      7,
                                      8,
                                      31,
                                      32,
                                      255,
                                      0x7FFF,
                                      0xFFFF,
                                      0x7FFFFFFF,
                                      0x80000000,
                                      0xFFFFFFFF,
                                      0x100000000,
                                      (uint64_t)1 << 61,
                                      (uint64_t)1 << 62,
                                      INT64_MAX,
                                      (uint64_t)1 << 63,
                                      UINT64_MAX - 31,
                                      UINT64_MAX};
    size_t width = (size_t)1 << below(4), at = below(n);
    if (random_next() & 1) at &= ~(width - 1);
    if (width > n - at) width = n - at;
    uint64_t v = values[below(sizeof values / sizeof values[0])];
    if (below(4) == 0) {
        uint64_t old = 0;
        memcpy(&old, p + at, width);
        v = old + (below(2) ? 1 : (uint64_t)-1);
    }
    memcpy(p + at, &v, width); /* little-endian machines first */
}

/* Copies a piece of `from` over, or into, p at a random place; returns the new size. */
static size_t splice(uint8_t *p, size_t n, const uint8_t *from, size_t n_from) {
    size_t start = below(n_from), len = 1 + below(n_from - start < 64 ? n_from - start : 64);
    size_t at = below(n + 1);
    if (len > n_from - start) len = n_from - start;
    if (below(2)) { /* insert */
        if (n + len > CAPACITY) return n;
        memmove(p + at + len, p + at, n - at);
        n += len;
    } else if (len > n - at) {
        len = n - at;
    }
    memmove(p + at, from + start, len);
    return n;
}

static size_t mutate(uint8_t *p, size_t n, const uint8_t *other, size_t n_other) {
    switch (below(10)) {
    case 0:
        if (n) p[below(n)] ^= (uint8_t)(1u << below(8));
        return n;
    case 1:
        if (n) p[below(n)] = (uint8_t)random_next();
        return n;
    case 2: { /* remove a piece */
        size_t at = below(n), len = 1 + below(16);
        if (len > n - at) len = n - at;
        memmove(p + at, p + at + len, n - at - len);
        return n - len;
    }
    case 3: /* cut */
        return below(20) ? n : below(n + 1);
    case 4:
        return n_other ? splice(p, n, other, n_other) : n;
    default:
        if (n) put_integer(p, n);
        return n;
    }
}

static int replay(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    uint8_t *data = malloc(CAPACITY);
    size_t n = data ? fread(data, 1, CAPACITY, f) : 0;
    fclose(f);
    if (!data) return 1;
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    return 0;
}

static int write_seeds(const char *folder, uint8_t *const *seeds, const size_t *sizes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/seed-%03zu", folder, i);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(seeds[i], 1, sizes[i], f) != sizes[i] || fclose(f) != 0) {
            perror(path);
            return 1;
        }
    }
    return 0;
}

/* The random seed is printed, so that a finding can be had again. */
static void run(double seconds, uint8_t *const *seeds, const size_t *sizes, size_t n_seeds) {
    uint8_t *data = malloc(CAPACITY);
    if (!data || !n_seeds) exit(1);
    double start = now_s();
    unsigned long long count = 0;
    for (; count % 64 || now_s() - start < seconds; count++) {
        size_t which = below(n_seeds), other = below(n_seeds), n = sizes[which];
        memcpy(data, seeds[which], n);
        for (size_t k = below(6); k-- > 0;) n = mutate(data, n, seeds[other], sizes[other]);
        uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past the end */
        if (!exact) exit(1);
        memcpy(exact, data, n);
        LLVMFuzzerTestOneInput(exact, n);
        free(exact);
    }
    printf("%llu inputs, %.0f a second\n", count, (double)count / (now_s() - start));
    free(data);
}

int main(int argc, char **argv) {
    uint8_t *buffer = malloc(CAPACITY), *seeds[MAX_SEEDS];
    size_t sizes[MAX_SEEDS], n_seeds = 0;
    while (buffer && n_seeds < MAX_SEEDS) {
        size_t n = fuzz_seed((unsigned)n_seeds, buffer, CAPACITY);
        if (!n) break;
        seeds[n_seeds] = malloc(n);
        if (!seeds[n_seeds]) return 1;
        memcpy(seeds[n_seeds], buffer, n);
        sizes[n_seeds++] = n;
    }
    int status = 0;
    char *end = NULL;
    double seconds = argc > 1 ? strtod(argv[1], &end) : 0;
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        status = write_seeds(argv[2], seeds, sizes, n_seeds);
    } else if (argc > 1 && (end == argv[1] || *end)) {
        for (int i = 1; i < argc; i++) status |= replay(argv[i]);
    } else if (argc > 1) {
        random_state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
        printf("random seed %llu\n", (unsigned long long)random_state);
        fflush(stdout);
        run(seconds, seeds, sizes, n_seeds);
    } else {
        fprintf(stderr, "usage: %s SECONDS [RANDOM_SEED] | FILE... | --write-seeds FOLDER\n",
                argv[0]);
        status = 2;
    }
    for (size_t i = 0; i < n_seeds; i++) free(seeds[i]);
    free(buffer);
    return status;
}
