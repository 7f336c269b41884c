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

/* Spins before giving the core away: a barrier of a decode step takes well under a microsecond, but
 * with more threads than cores a spinning thread would keep out the one it waits for. */
enum { SPINS = 4000 };

struct pare_team {
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint sense;
    _Alignas(64) atomic_size_t next;
};

static void team_reset(pare_team *team) {
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team->sense, 0, memory_order_relaxed);
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
        atomic_store_explicit(&team->sense, w->sense, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->sense, memory_order_acquire) != w->sense;) {
        if (spins < SPINS) {
            spins++;
            cpu_relax();
        } else {
            sched_yield();
        }
    }
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
