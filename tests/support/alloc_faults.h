/* The allocator of a test program, with faults: a chosen allocation fails, once or with all that
 * follow it. The header replaces malloc and its like for the whole program, so one source of a
 * program includes it. It works with glibc and without sanitizers; else FAULTS is 0. */
#ifndef PARE_TESTS_SUPPORT_ALLOC_FAULTS_H
#define PARE_TESTS_SUPPORT_ALLOC_FAULTS_H

#include "support/test.h"

#define FAULTS 0
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#undef FAULTS
#define FAULTS 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) ||                         \
    __has_feature(thread_sanitizer)
#undef FAULTS
#define FAULTS 0
#endif
#endif

#if FAULTS

#include <errno.h>
#include <execinfo.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

/* Counted while `armed`: allocation number fail_at (from 1) fails, with `persistent` all from it
 * on. live: blocks taken and not given back. */
static bool armed, persistent;
static long count, fail_at, live;

/* While `seen` is set: the numbers of the allocations that come from a chain of callers which no
 * allocation came from before. */
enum { SEEN = 1 << 14 };
static uint64_t *seen; /* [SEEN] hashes of chains */
static long *places;   /* [SEEN] */
static size_t n_places;

static inline void note_place(void) {
    void *frames[32];
    uint64_t hash = 0xcbf29ce484222325u;
    int n = backtrace(frames, 32);
    for (int i = 0; i < n; i++) hash = (hash ^ (uintptr_t)frames[i]) * 0x100000001b3u;
    size_t at = hash % SEEN;
    while (seen[at] && seen[at] != hash) at = (at + 1) % SEEN;
    if (seen[at] == hash || n_places == SEEN / 2) return;
    seen[at] = hash;
    places[n_places++] = count;
}

static inline bool fails(void) {
    if (!armed) return false;
    count++;
    if (seen) note_place();
    bool fail = persistent ? count >= fail_at : count == fail_at;
    if (fail) errno = ENOMEM;
    return fail;
}

static inline void *counted(void *p) {
    if (armed && p) live++;
    return p;
}

void *malloc(size_t n) { return fails() ? NULL : counted(__libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : counted(__libc_calloc(n, size)); }
void *realloc(void *p, size_t n) {
    if (fails()) return NULL;
    void *q = __libc_realloc(p, n);
    return p ? q : counted(q);
}
int posix_memalign(void **p, size_t align, size_t n) {
    if (fails()) return ENOMEM;
    return (*p = counted(__libc_memalign(align, n))) ? 0 : ENOMEM;
}
void free(void *p) {
    if (armed && p) live--;
    __libc_free(p);
}
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) {
    if (fails()) return MAP_FAILED;
    void *p = (void *)syscall(SYS_mmap, at, n, prot, flags, fd, offset);
    return p == MAP_FAILED ? p : counted(p);
}
int munmap(void *p, size_t n) {
    if (armed) live--;
    return (int)syscall(SYS_munmap, p, n);
}

/* ---- sweeps: an allocation of every chain of callers fails ---- */

typedef pare_status (*fault_run_fn)(const void *arg, pare_error *err);

/* Once, before the first sweep. */
static inline void fault_init(void) {
    void *frame[1];
    backtrace(frame, 1); /* allocates when first called */
    places = calloc(SEEN, sizeof *places);
    assert_non_null(places);
}

static uint64_t *fault_chains; /* `seen` while no run takes note */
static const char *fault_what; /* for messages */

/* Takes note of the places of a run without faults: those from the result to n_places are new. The
 * caller ran it once before: what the C library keeps from a first use is no leak. */
static inline size_t fault_places(fault_run_fn run, const void *arg, const char *what) {
    size_t first = n_places;
    pare_error err = {0};
    fault_what = what;
    if (!fault_chains) fault_chains = calloc(SEEN, sizeof *fault_chains);
    count = live = fail_at = 0;
    persistent = false;
    seen = fault_chains;
    armed = true;
    pare_status st = run(arg, &err);
    armed = false;
    seen = NULL;
    if (st != PARE_OK) fail_msg("%s: %s", what, err.message);
    assert_int_equal(live, 0);
    return first;
}

/* The run again with place number i failing: alone, or of odd numbers with all that follow. */
static inline pare_status fault_run(fault_run_fn run, const void *arg, size_t i, pare_error *err) {
    *err = (pare_error){0};
    count = live = 0;
    fail_at = places[i];
    persistent = i % 2;
    armed = true;
    pare_status st = run(arg, err);
    armed = false;
    if (live != 0) fail_msg("%s, allocation %ld: %ld blocks leak", fault_what, places[i], live);
    /* jansson now and then takes a failed allocation for a wrong character */
    if (st != PARE_OK &&
        ((st != PARE_ERR_NOMEM && st != PARE_ERR_INPUT) || err->status != st || !err->message[0]))
        fail_msg("%s, allocation %ld: found %s \"%s\"", fault_what, places[i], pare_status_name(st),
                 err->message);
    return st;
}

#endif
#endif
