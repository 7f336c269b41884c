#include "base/memory.h"

#include <stdarg.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
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

enum {
    CHECKED_BYTES = 64 << 20 /* from here on a look at what is left costs nothing beside them */
};

/* A page past the end stays readable: vector kernels may read up to 64 bytes beyond a buffer. */
static size_t big_mapping_bytes(size_t size) {
    size_t n;
    if (!pare_add_size(&n, size, 64) || !pare_align_size(&n, n, 4096)) return 0;
    return n;
}

void *pare_big_alloc(size_t size) {
    size_t n = big_mapping_bytes(size);
    if (!n || (n >= CHECKED_BYTES && !pare_has_memory((double)n))) return NULL;
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    /* 2 MiB pages read memory some 15% faster; a refusal costs nothing but that */
    if (n >= (size_t)2 << 20) (void)madvise(p, n, MADV_HUGEPAGE);
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

/* N of a line "KEY   N" of a file; SIZE_MAX: the file or the line is not there, or not with a
 * number. */
static size_t number_behind(const char *path, const char *key) {
    FILE *f = fopen(path, "r");
    if (!f) return SIZE_MAX;
    char line[256], *end = NULL;
    size_t n = strlen(key), found = SIZE_MAX;
    while (!end && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n) != 0) continue;
        unsigned long long number = strtoull(line + n, &end, 10);
        if (end != line + n) found = (size_t)number;
    }
    fclose(f);
    return found;
}

/* A line "KEY   N kB" of a file under /proc, in bytes; 0 = not there. */
static size_t proc_bytes(const char *path, const char *key) {
    size_t kib = number_behind(path, key);
    return kib == SIZE_MAX ? 0 : kib * 1024;
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

size_t pare_rss_bytes(void) { return proc_bytes("/proc/self/status", "VmRSS:"); }

void pare_give_back(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

void pare_peak_rss_reset(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

/* The process's group under /sys/fs/cgroup: the line "0::/PATH" of its list. */
static bool own_group(char *path, size_t size) {
    FILE *f = fopen("/proc/self/cgroup", "r");
    if (!f) return false;
    char line[4096];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        found = strncmp(line, "0::/", 4) == 0 &&
                snprintf(path, size, "/sys/fs/cgroup%s", line + 3) < (int)size;
    }
    fclose(f);
    return found;
}

static size_t number_of(const char *group, const char *file, const char *key) {
    char path[4400];
    snprintf(path, sizeof path, "%s/%s", group, file);
    return number_behind(path, key);
}

/* What a group can still get; SIZE_MAX: as much as there is. */
static size_t left_in_group(const char *group) {
    size_t most = number_of(group, "memory.max", ""), used = number_of(group, "memory.current", "");
    if (most == SIZE_MAX || used == SIZE_MAX) return SIZE_MAX;
    static const char *const files[] = {"inactive_file ", "active_file "};
    for (size_t i = 0; i < 2; i++) { /* goes when memory is wanted */
        size_t kept = number_of(group, "memory.stat", files[i]);
        if (kept != SIZE_MAX) used = used > kept ? used - kept : 0;
    }
    return most > used ? most - used : 0;
}

/* A group's limit holds for the groups in it. */
static size_t left_in_groups(void) {
    char path[4200];
    size_t left = SIZE_MAX, top = strlen("/sys/fs/cgroup");
    if (!own_group(path, sizeof path)) return left;
    for (char *end = path + strlen(path); end; end = strrchr(path, '/')) {
        *end = '\0';
        if (strlen(path) < top) break;
        size_t here = left_in_group(path);
        if (here < left) left = here;
    }
    return left;
}

size_t pare_available_bytes(void) {
    size_t machine = proc_bytes("/proc/meminfo", "MemAvailable:"), groups = left_in_groups();
    if (groups == SIZE_MAX) return machine;
    if (machine && machine < groups) return machine;
    return groups ? groups : 1; /* none, which is known */
}

bool pare_has_memory(double bytes) {
    size_t available = pare_available_bytes();
    return available == 0 || bytes <= (double)available;
}
