#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

void *pare_calloc(size_t count, size_t size) {
    size_t n;
    if (!pare_mul_size(&n, count, size)) return NULL;
    return calloc(1, n ? n : 1);
}

void *pare_malloc(size_t count, size_t size) {
    size_t n;
    if (!pare_mul_size(&n, count, size)) return NULL;
    return malloc(n ? n : 1);
}

void *pare_realloc(void *p, size_t count, size_t size) {
    size_t n;
    if (!pare_mul_size(&n, count, size)) return NULL;
    return realloc(p, n ? n : 1);
}

char *pare_strndup(const char *s, size_t n) {
    size_t size;
    if (!pare_add_size(&size, n, 1)) return NULL;
    char *copy = pare_malloc(size, 1);
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

char *pare_strdup(const char *s) { return pare_strndup(s, strlen(s)); }

char *pare_asprintf(const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : pare_malloc((size_t)n + 1, 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

bool pare_ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

void pare_free(void *p) { free(p); }

/* A page past the end stays readable: vector kernels may read up to 64 bytes beyond a buffer. */
static size_t big_mapping_bytes(size_t size) {
    size_t n;
    if (!pare_add_size(&n, size, 64) || !pare_align_size(&n, n, 4096)) return 0;
    return n;
}

void *pare_big_alloc(size_t size) {
    size_t n = big_mapping_bytes(size);
    if (!n) return NULL;
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    /* 2 MiB pages read memory some 15% faster; a refusal costs nothing but that */
    if (n >= (size_t)4 << 20) (void)madvise(p, n, MADV_HUGEPAGE);
#endif
    return p;
}

void pare_big_free(void *p, size_t size) {
    if (p) munmap(p, big_mapping_bytes(size));
}

void *pare_arena_alloc(pare_arena *arena, size_t count, size_t size) {
    size_t n, begin = arena->used, end;
    if (!pare_mul_size(&n, count, size) || !pare_align_size(&n, n, 64) ||
        !pare_add_size(&end, begin, n) || end > arena->capacity)
        return NULL;
    arena->used = end;
    if (end > arena->peak) arena->peak = end;
    return arena->base ? arena->base + begin : NULL;
}

/* A line "KEY   N kB" of a file under /proc, in bytes; 0 = not there. */
static size_t proc_bytes(const char *path, const char *key) {
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    char line[256];
    size_t n = strlen(key);
    unsigned long long kib = 0;
    while (!kib && fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0) kib = strtoull(line + n, NULL, 10);
    fclose(f);
    return (size_t)kib * 1024;
}

size_t pare_peak_rss_bytes(void) {
    size_t peak = proc_bytes("/proc/self/status", "VmHWM:"); /* unlike getrusage's, can be reset */
    struct rusage usage;
    if (peak || getrusage(RUSAGE_SELF, &usage) != 0) return peak;
#ifdef __APPLE__
    return (size_t)usage.ru_maxrss;
#else
    return (size_t)usage.ru_maxrss * 1024;
#endif
}

void pare_peak_rss_reset(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

size_t pare_available_bytes(void) { return proc_bytes("/proc/meminfo", "MemAvailable:"); }
