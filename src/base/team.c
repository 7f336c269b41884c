#include "base/team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

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

typedef struct member {
    _Alignas(64) _Atomic uint64_t share; /* loop << 32 | items of its share that are taken */
    pare_team *team;
    int id;
    pthread_t thread; /* of all but the first, which is the caller's */
} member;

/* The workers live as long as the team, and sleep between jobs. */
struct pare_team {
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint sense;
    atomic_uint n_asleep;
    _Alignas(64) atomic_size_t next;
    _Alignas(64) atomic_uint job; /* counts the jobs; what follows belongs to the newest one */
    atomic_uint n_idle;           /* workers that sleep until the next job */
    pare_team_fn fn;              /* NULL: the workers leave */
    void *arg;
    uint32_t n_loops; /* of all jobs before this one */
    int n;            /* with the calling thread */
    member members[]; /* [n] */
};

/* Spins, then sleeps, until *word is no longer `value`. */
static void await_change(atomic_uint *word, unsigned value, atomic_uint *n_asleep) {
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        cpu_relax();
    }
    atomic_fetch_add(n_asleep, 1);
    while (atomic_load(word) == value) sleep_while(word, value);
    atomic_fetch_sub(n_asleep, 1);
}

/* Ordered with the sleepers' count: either they see the new value or we see them. */
static void change(atomic_uint *word, unsigned value, atomic_uint *n_asleep) {
    atomic_store(word, value);
    if (atomic_load(n_asleep)) wake_all(word);
}

static pare_worker worker_of(pare_team *team, int id) {
    return (pare_worker){team, id, team->n, atomic_load(&team->sense), team->n_loops};
}

static void *work(void *arg) {
    const member *self = arg;
    pare_team *team = self->team;
    for (unsigned seen = 0;; seen++) {
        await_change(&team->job, seen, &team->n_idle);
        if (!team->fn) return NULL;
        /* all workers are here, so nobody passes a barrier: the sense stands still */
        pare_worker w = worker_of(team, self->id);
        team->fn(&w, team->arg);
        pare_barrier(&w);
    }
}

pare_status pare_team_create(pare_team **out, int n, pare_error *err) {
    pare_team *team = NULL;
    const size_t size = sizeof *team + (size_t)n * sizeof *team->members;
    *out = NULL;
    if (posix_memalign((void **)&team, 64, size) != 0)
        return pare_fail(err, PARE_ERR_NOMEM, "a team of %d threads: out of memory", n);
    memset(team, 0, size);
    for (team->n = 1; team->n < n; team->n++) {
        member *m = &team->members[team->n];
        m->team = team;
        m->id = team->n;
        int failed = pthread_create(&m->thread, NULL, work, m);
        if (!failed) continue;
        pare_fail(err, PARE_ERR_NOMEM, "threads: found room for %d, expected %d: %s", team->n, n,
                  strerror(failed));
        pare_team_free(team);
        return PARE_ERR_NOMEM;
    }
    *out = team;
    return PARE_OK;
}

void pare_team_free(pare_team *team) {
    if (!team) return;
    team->fn = NULL;
    change(&team->job, atomic_load(&team->job) + 1, &team->n_idle);
    for (int i = 1; i < team->n; i++) pthread_join(team->members[i].thread, NULL);
    free(team);
}

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
        change(&team->sense, w->sense, &team->n_asleep);
        return;
    }
    await_change(&team->sense, w->sense ^ 1, &team->n_asleep);
}

size_t pare_take(pare_worker *w, size_t chunk) {
    return atomic_fetch_add_explicit(&w->team->next, chunk, memory_order_relaxed);
}

/* The number of the next of `size` items of a share, or size. Who is in an earlier loop than its
 * owner finds nothing left: the owner went on when all was taken. */
static uint32_t take_of_share(_Atomic uint64_t *share, uint32_t loop, uint32_t size) {
    uint64_t seen = atomic_load_explicit(share, memory_order_relaxed);
    for (;;) {
        int32_t ahead = (int32_t)((uint32_t)(seen >> 32) - loop);
        uint32_t taken = ahead > 0 ? size : ahead < 0 ? 0 : (uint32_t)seen;
        if (taken >= size) return size;
        if (atomic_compare_exchange_weak_explicit(share, &seen, (uint64_t)loop << 32 | (taken + 1),
                                                  memory_order_relaxed, memory_order_relaxed))
            return taken;
    }
}

bool pare_take_near(pare_worker *w, pare_near *loop, size_t n, size_t *item) {
    if (!loop->begun) {
        loop->begun = true;
        loop->number = ++w->n_loops;
    }
    for (; loop->at < w->n; loop->at++) {
        const pare_worker owner = {.id = (w->id + loop->at) % w->n, .n = w->n};
        size_t begin, end;
        pare_share(&owner, n, 1, &begin, &end);
        size_t taken =
            take_of_share(&w->team->members[owner.id].share, loop->number, (uint32_t)(end - begin));
        if (taken == end - begin) continue;
        *item = begin + taken;
        return true;
    }
    return false;
}

void pare_team_run(pare_runtime *rt, pare_team_fn fn, void *arg) {
    pare_team *team = rt->team;
    pare_worker w = worker_of(team, 0);
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    if (team->n == 1) {
        fn(&w, arg);
        team->n_loops = w.n_loops;
        return;
    }
    team->fn = fn;
    team->arg = arg;
    change(&team->job, atomic_load(&team->job) + 1, &team->n_idle);
    fn(&w, arg);
    pare_barrier(&w);
    team->n_loops = w.n_loops;
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
