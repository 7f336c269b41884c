/* Bytes put together by tests and fuzz targets. Memory is never short here: a failure ends the
 * program. */
#ifndef PARE_TESTS_SUPPORT_BUILD_H
#define PARE_TESTS_SUPPORT_BUILD_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct test_bytes {
    uint8_t *p;
    size_t n, capacity;
} test_bytes;

static inline void tb_add(test_bytes *b, const void *data, size_t n) {
    if (b->n + n > b->capacity) {
        b->capacity = (b->n + n) * 2 + 64;
        b->p = realloc(b->p, b->capacity);
        if (!b->p) exit(1);
    }
    if (n) memcpy(b->p + b->n, data, n);
    b->n += n;
}

/* Little-endian, `size` bytes. */
static inline void tb_int(test_bytes *b, uint64_t v, size_t size) {
    for (size_t i = 0; i < size; i++) tb_add(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

static inline void tb_zeros(test_bytes *b, size_t n) {
    static const uint8_t zeros[256];
    for (; n; n -= n < sizeof zeros ? n : sizeof zeros)
        tb_add(b, zeros, n < sizeof zeros ? n : sizeof zeros);
}

__attribute__((format(printf, 2, 3))) static inline void tb_print(test_bytes *b, const char *format,
                                                                  ...) {
    char text[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) exit(1);
    tb_add(b, text, (size_t)n);
}

static inline void tb_free(test_bytes *b) {
    free(b->p);
    *b = (test_bytes){0};
}

#endif
