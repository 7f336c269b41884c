#include "base/team.h"

#include "base/memory.h"

#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define cpu_relax() _mm_pause()
#else
#define cpu_relax() ((void)0)
#endif

/* A barrier of a decode step takes well under a microsecond, so a thread spins first; but with more
 * runnable threads than cores a spinning thread keeps out the one that it waits for, so it sleeps
 * soon. */
enum { SPINS = 2000 };

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static void sleep_while(atomic_uint *word, unsigned value) {
    syscall(SYS_futex, (unsigned *)word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void wake_all(atomic_uint *word) {
    syscall(SYS_futex, (unsigned *)word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}
#else
static void sleep_while(atomic_uint *word, unsigned value) {
    (void)word;
    (void)value;
    sched_yield();
}
static void wake_all(atomic_uint *word) { (void)word; }
#endif

struct pare_team {
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint sense;
    atomic_uint n_asleep;
    _Alignas(64) atomic_size_t next;
};

static void team_reset(pare_team *team) {
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team->sense, 0, memory_order_relaxed);
    atomic_store_explicit(&team->n_asleep, 0, memory_order_relaxed);
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
}

pare_team *pare_team_create(void) {
    pare_team *team = NULL;
    if (posix_memalign((void **)&team, 64, sizeof *team) != 0) return NULL;
    team_reset(team);
    return team;
}

void pare_team_free(pare_team *team) { free(team); }

void pare_barrier(pare_worker *w) {
    if (w->n == 1) {
        atomic_store_explicit(&w->team->next, 0, memory_order_relaxed);
        return;
    }
    pare_team *team = w->team;
    w->sense ^= 1;
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 == (unsigned)w->n) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        /* ordered with the sleepers' count: either they see the new sense or we see them */
        atomic_store(&team->sense, w->sense);
        if (atomic_load(&team->n_asleep)) wake_all(&team->sense);
        return;
    }
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(&team->sense, memory_order_acquire) == w->sense) return;
        cpu_relax();
    }
    atomic_fetch_add(&team->n_asleep, 1);
    while (atomic_load(&team->sense) != w->sense) sleep_while(&team->sense, w->sense ^ 1);
    atomic_fetch_sub(&team->n_asleep, 1);
}

size_t pare_take(pare_worker *w, size_t chunk) {
    return atomic_fetch_add_explicit(&w->team->next, chunk, memory_order_relaxed);
}

void pare_team_run(pare_runtime *rt, pare_team_fn fn, void *arg) {
    pare_team *team = rt->team;
    team_reset(team);
    int n = rt->options.n_threads;
    if (n == 1) {
        pare_worker w = {team, 0, 1, 0};
        fn(&w, arg);
        return;
    }
    omp_set_dynamic(0);
#pragma omp parallel num_threads(n)
    {
        pare_worker w = {team, omp_get_thread_num(), omp_get_num_threads(), 0};
        fn(&w, arg);
    }
}

typedef struct for_job {
    void (*fn)(void *arg, size_t begin, size_t end);
    void *arg;
    size_t n, chunk;
} for_job;

static void run_for(pare_worker *w, void *arg) {
    const for_job *job = arg;
    for (size_t i; (i = pare_take(w, job->chunk)) < job->n;)
        job->fn(job->arg, i, i + job->chunk < job->n ? i + job->chunk : job->n);
}

void pare_parallel_for(pare_runtime *rt, size_t n, size_t chunk,
                       void (*fn)(void *arg, size_t begin, size_t end), void *arg) {
    if (n == 0) return;
    for_job job = {fn, arg, n, chunk ? chunk : 1};
    if (n <= job.chunk) {
        fn(arg, 0, n);
        return;
    }
    pare_team_run(rt, run_for, &job);
}
