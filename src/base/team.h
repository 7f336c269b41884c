/* One team of threads. A forward pass is one parallel region: every thread runs the same code
 * (SPMD), each operator does its share of the rows and ends with a barrier. */
#ifndef PARE_SRC_BASE_TEAM_H
#define PARE_SRC_BASE_TEAM_H

#include "base/runtime.h"

typedef struct pare_team pare_team;

/* One thread's place in the team; lives on that thread's stack during pare_team_run. */
typedef struct pare_worker {
    pare_team *team;
    int id, n;        /* 0-based number of this thread, number of threads */
    uint32_t sense;   /* private to the barrier */
    uint32_t n_loops; /* that it ran with pare_take_near, since the team was made */
} pare_worker;

/* A team of n threads with the caller; the others start now and sleep between jobs. Errors:
 * PARE_ERR_NOMEM, also where the system has fewer threads to give. Used by the runtime only. */
pare_status pare_team_create(pare_team **out, int n, pare_error *err);
void pare_team_free(pare_team *team);

typedef void (*pare_team_fn)(pare_worker *w, void *arg);

/* Runs fn once on every thread of the runtime and returns when all have returned. The calling
 * thread is worker 0; one job at a time. */
void pare_team_run(pare_runtime *rt, pare_team_fn fn, void *arg);

/* Waits until all workers of the team are here. What each wrote before is visible to all after. */
void pare_barrier(pare_worker *w);

/* Dynamic sharing of n items between two barriers: returns the first index of the next `chunk`
 * items; the loop ends when it is >= n. At most one such loop between two barriers. */
size_t pare_take(pare_worker *w, size_t chunk);

/* Dynamic sharing of items [0, n) that are neighbours in memory: a worker takes those of its own
 * share in their order, so that it reads on where it was, and then what others have left of theirs.
 * False when nothing is left. `loop` is the caller's, zero before the first call of a loop; all
 * workers run the same loops in the same order. Unlike pare_take any number of loops may stand
 * between two barriers. */
typedef struct pare_near {
    bool begun;
    int at;          /* whose share is taken from, counted from the worker's own on */
    uint32_t number; /* of this loop among those of its worker */
} pare_near;
bool pare_take_near(pare_worker *w, pare_near *loop, size_t n, size_t *item);

/* This worker's static share [*begin, *end) of n items, cut at multiples of `grain`. */
static inline void pare_share(const pare_worker *w, size_t n, size_t grain, size_t *begin,
                              size_t *end) {
    size_t n_grains = (n + grain - 1) / grain, per = n_grains / (size_t)w->n,
           extra = n_grains % (size_t)w->n;
    size_t id = (size_t)w->id, first = id * per + (id < extra ? id : extra);
    size_t last = first + per + (id < extra ? 1 : 0);
    *begin = first * grain < n ? first * grain : n;
    *end = last * grain < n ? last * grain : n;
}

/* for all i in [0, n): fn(arg, begin, end) on pieces of `chunk` items, taken dynamically by all
 * threads. */
void pare_parallel_for(pare_runtime *rt, size_t n, size_t chunk,
                       void (*fn)(void *arg, size_t begin, size_t end), void *arg);

#endif
