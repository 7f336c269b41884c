/* Ranks: the processes that mpirun started together (pare/base.h, pare_ranks_join), and what they
 * tell each other. MPI's world is the process's, so this is a module and no object. A process that
 * is alone (no mpirun, no MPI in the build, pare_group_alone) does nothing here.
 *
 * Called by the thread that joined only, by all ranks in the same order. Sums have the same bits on
 * all ranks. A call that fails ends all ranks (MPI's own error handler): there is no way on. */
#ifndef PARE_SRC_BASE_GROUP_H
#define PARE_SRC_BASE_GROUP_H

#include "base/error.h"

int pare_group_rank(void);
int pare_group_size(void);

/* Until the next call with false this process counts as the only one: work that no other shares. */
void pare_group_alone(bool alone);

/* Ranks on this machine, with this one; for the share of the cores. */
int pare_group_local_size(void);

void pare_group_barrier(void);
/* The largest of all ranks' values. */
int pare_group_max(int value);
/* Have all ranks the same value? */
bool pare_group_same(uint32_t value);
/* The bytes that rank `from` has. */
void pare_group_broadcast(void *data, size_t bytes, int from);

/* Rank 0: parts[size][n] = what each rank has in x[n]; the others' parts are not touched. */
void pare_group_collect_f32(float *parts, const float *x, size_t n);

/* x[n] = sum over ranks, in an order that is MPI's. */
void pare_group_sum_f32(float *x, size_t n);
void pare_group_sum_f64(double *x, size_t n);
/* x[n] = largest over ranks. */
void pare_group_max_f32(float *x, size_t n);

/* A sum that goes on while the caller computes. */
typedef struct pare_group_request {
    int number;
} pare_group_request;
/* x stays untouched until the wait; n < 2^31. */
void pare_group_start_sum(pare_group_request *request, float *x, size_t n);
/* Lets what was started go on (MPI does so inside of calls only). */
void pare_group_test(pare_group_request *requests, size_t n);
void pare_group_wait(pare_group_request *requests, size_t n);

/* This rank's share [*begin, *end) of n items. */
void pare_group_share(size_t n, size_t *begin, size_t *end);
/* parts[size][share]: what each rank has in this rank's share of x[n]; n < 2^31. */
void pare_group_exchange(float *parts, const float *x, size_t n);
/* x[n]: of every rank its share. n < 2^31. */
void pare_group_gather(float *x, size_t n);

#endif
