/* Memory: checked sizes, the only allocation calls of the library, and arenas planned before a run.
 */
#ifndef PARE_SRC_BASE_MEMORY_H
#define PARE_SRC_BASE_MEMORY_H

#include "base/error.h"

/* *out = a + b, a * b; false when the result does not fit (then *out is unspecified). */
static inline bool pare_add_size(size_t *out, size_t a, size_t b) {
    return !__builtin_add_overflow(a, b, out);
}
static inline bool pare_mul_size(size_t *out, size_t a, size_t b) {
    return !__builtin_mul_overflow(a, b, out);
}

/* *out = n rounded up to a multiple of align (a power of two); false on overflow. */
static inline bool pare_align_size(size_t *out, size_t n, size_t align) {
    if (!pare_add_size(out, n, align - 1)) return false;
    *out &= ~(align - 1);
    return true;
}

/* count * size bytes, zeroed (a product that overflows fails). count 0 gives a valid pointer. NULL
 * on failure. Free with pare_free. */
void *pare_calloc(size_t count, size_t size);

/* As pare_calloc, but not zeroed. */
void *pare_malloc(size_t count, size_t size);

/* Resizes to count * size bytes; on failure NULL, the old block stays. */
void *pare_realloc(void *p, size_t count, size_t size);

char *pare_strdup(const char *s);
char *pare_strndup(const char *s, size_t n);

/* printf into a new string; NULL when memory is out. */
__attribute__((format(printf, 1, 2))) char *pare_asprintf(const char *format, ...);
void pare_free(void *p);

/* Whether the last part of s is `end`; "" always is. */
bool pare_ends_with(const char *s, const char *end);

/* Large blocks: zeroed, aligned to 64 bytes at least, in huge pages where the system gives them;
 * NULL also where so much is certainly not there (pare_has_memory).
 * size 0 is legal. */
void *pare_big_alloc(size_t size);
void pare_big_free(void *p, size_t size);

/* A bump allocator on one block. Sizes are planned first: run the same sequence of calls on an
 * arena without memory (base NULL, capacity SIZE_MAX), read `peak`, allocate, run again. Every
 * allocation is 64-byte aligned. */
typedef struct pare_arena {
    uint8_t *base;
    size_t capacity, used, peak; /* bytes */
} pare_arena;

/* count * size bytes, not zeroed. NULL when the arena is full, and also (by design) when base is
 * NULL. */
void *pare_arena_alloc(pare_arena *arena, size_t count, size_t size);

/* Peak resident memory of this process in bytes, since it began or since the last reset. */
size_t pare_peak_rss_bytes(void);

/* What is resident now; 0 = unknown. */
size_t pare_rss_bytes(void);

/* Gives the system what was freed, as far as it can be told to (glibc keeps small blocks). */
void pare_give_back(void);

/* Begins a new peak where the system can (Linux). */
void pare_peak_rss_reset(void);

/* Memory that the machine, and each control group (version 2) that the process is in, can still
 * give, in bytes; 0 = unknown. What only keeps copies of files counts as free. */
size_t pare_available_bytes(void);

/* Whether so many bytes may be there. The system maps more than there is, and ends the process when
 * it is used. */
bool pare_has_memory(double bytes);

#endif
