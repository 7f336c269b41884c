#include "base/group.h"

#include "base/os.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#ifdef PARE_MPI
#include <mpi.h>
#endif

enum {
    PIECE = 1 << 28, /* values of one call: MPI counts in int */
    RANKS_MAX = 4096
};

#define PATIENCE_S 0.5 /* within which an error of all ranks reaches all of them */

/* Of the process, as MPI's world is. */
static struct {
    int rank, size, local_size;
    bool alone;
} group = {0, 1, 1, false};

int pare_group_rank(void) { return group.alone ? 0 : group.rank; }
int pare_group_size(void) { return group.alone ? 1 : group.size; }
int pare_group_local_size(void) { return group.local_size; }
void pare_group_alone(bool alone) { group.alone = alone; }

int pare_rank(void) { return group.rank; }
int pare_n_ranks(void) { return group.size; }

void pare_group_share(size_t n, size_t *begin, size_t *end) {
    size_t rank = (size_t)pare_group_rank(), size = (size_t)pare_group_size();
    *begin = n / size * rank + (rank < n % size ? rank : n % size);
    *end = *begin + n / size + (rank < n % size);
}

/* What launchers leave in the environment: Open MPI's mpirun, MPICH's, Slurm with PMIx. */
static bool is_started_by_launcher(void) {
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_SIZE");
}

#ifdef PARE_MPI

static MPI_Comm failures; /* for pare_ranks_all_failed, beside what a rank may be waiting in */

const char *pare_mpi_name(void) {
    static char name[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    if (!name[0] && MPI_Get_library_version(name, &length) == MPI_SUCCESS)
        name[strcspn(name, ",\n")] = '\0'; /* "Open MPI v4.1.4, package: ..." */
    return name;
}

pare_status pare_ranks_join(pare_error *err) {
    int level = 0, joined = 0;
    if (!is_started_by_launcher()) return PARE_OK;
    MPI_Initialized(&joined);
    if (!joined && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
        return pare_fail(err, PARE_ERR_IO, "mpi: %s cannot begin", pare_mpi_name());
    if (!joined && level < MPI_THREAD_FUNNELED)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "mpi: found %s without threads, expected MPI_THREAD_FUNNELED",
                         pare_mpi_name());
    MPI_Comm local;
    MPI_Comm_rank(MPI_COMM_WORLD, &group.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &group.size);
    if (group.size > RANKS_MAX)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "mpi: found %d processes, expected at most %d",
                         group.size, RANKS_MAX);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, group.rank, MPI_INFO_NULL, &local);
    MPI_Comm_size(local, &group.local_size);
    MPI_Comm_free(&local);
    MPI_Comm_dup(MPI_COMM_WORLD, &failures);
    return PARE_OK;
}

void pare_ranks_leave(void) {
    int joined = 0, left = 0;
    MPI_Initialized(&joined);
    if (joined) MPI_Finalized(&left);
    if (joined && !left) MPI_Finalize();
}

bool pare_ranks_all_failed(void) {
    MPI_Request here;
    int all = group.size == 1;
    if (all) return true;
    MPI_Ibarrier(failures, &here);
    for (double start = pare_now_s(); !all && pare_now_s() - start < PATIENCE_S;) {
        MPI_Test(&here, &all, MPI_STATUS_IGNORE);
        sched_yield();
    }
    return all;
}

void pare_ranks_abort(int exit_code) {
    if (group.size > 1) MPI_Abort(MPI_COMM_WORLD, exit_code);
}

void pare_group_barrier(void) {
    if (pare_group_size() > 1) MPI_Barrier(MPI_COMM_WORLD);
}

int pare_group_max(int value) {
    if (pare_group_size() > 1)
        MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    return value;
}

bool pare_group_same(uint32_t value) {
    uint32_t bounds[2] = {value, ~value}; /* largest, and smallest upside down */
    if (pare_group_size() > 1)
        MPI_Allreduce(MPI_IN_PLACE, bounds, 2, MPI_UINT32_T, MPI_MAX, MPI_COMM_WORLD);
    return bounds[0] == (uint32_t)~bounds[1];
}

void pare_group_broadcast(void *data, size_t bytes, int from) {
    for (size_t i = 0; pare_group_size() > 1 && i < bytes; i += PIECE)
        MPI_Bcast((char *)data + i, (int)(bytes - i < PIECE ? bytes - i : PIECE), MPI_BYTE, from,
                  MPI_COMM_WORLD);
}

void pare_group_collect_f32(float *parts, const float *x, size_t n) {
    if (pare_group_size() > 1)
        MPI_Gather(x, (int)n, MPI_FLOAT, parts, (int)n, MPI_FLOAT, 0, MPI_COMM_WORLD);
    else
        memcpy(parts, x, n * sizeof *x);
}

static void reduce(void *x, size_t n, size_t size, MPI_Datatype type, MPI_Op op) {
    for (size_t i = 0; pare_group_size() > 1 && i < n; i += PIECE)
        MPI_Allreduce(MPI_IN_PLACE, (char *)x + i * size, (int)(n - i < PIECE ? n - i : PIECE),
                      type, op, MPI_COMM_WORLD);
}
void pare_group_sum_f32(float *x, size_t n) { reduce(x, n, sizeof *x, MPI_FLOAT, MPI_SUM); }
void pare_group_sum_f64(double *x, size_t n) { reduce(x, n, sizeof *x, MPI_DOUBLE, MPI_SUM); }
void pare_group_max_f32(float *x, size_t n) { reduce(x, n, sizeof *x, MPI_FLOAT, MPI_MAX); }

/* MPI's numbers of requests: a handle itself is a pointer with Open MPI and an int with others. */
void pare_group_start_sum(pare_group_request *request, float *x, size_t n) {
    MPI_Request r = MPI_REQUEST_NULL;
    if (pare_group_size() > 1)
        MPI_Iallreduce(MPI_IN_PLACE, x, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &r);
    request->number = MPI_Request_c2f(r);
}

void pare_group_test(pare_group_request *requests, size_t n) {
    for (size_t i = 0; pare_group_size() > 1 && i < n; i++) {
        MPI_Request r = MPI_Request_f2c(requests[i].number);
        int done;
        if (r != MPI_REQUEST_NULL) MPI_Test(&r, &done, MPI_STATUS_IGNORE);
        requests[i].number = MPI_Request_c2f(r);
    }
}

void pare_group_wait(pare_group_request *requests, size_t n) {
    for (size_t i = 0; pare_group_size() > 1 && i < n; i++) {
        MPI_Request r = MPI_Request_f2c(requests[i].number);
        MPI_Wait(&r, MPI_STATUS_IGNORE);
        requests[i].number = MPI_Request_c2f(r);
    }
}

/* Counts and places of all ranks' shares. */
typedef struct shares {
    int count[RANKS_MAX], at[RANKS_MAX];
} shares;

static void shares_of(shares *s, size_t n) {
    size_t size = (size_t)pare_group_size();
    for (size_t r = 0, at = 0; r < size; r++) {
        s->count[r] = (int)(n / size + (r < n % size));
        s->at[r] = (int)at;
        at += (size_t)s->count[r];
    }
}

void pare_group_exchange(float *parts, const float *x, size_t n) {
    if (pare_group_size() == 1) {
        memcpy(parts, x, n * sizeof *x);
        return;
    }
    shares give, take;
    shares_of(&give, n);
    for (int r = 0, mine = give.count[pare_group_rank()]; r < pare_group_size(); r++) {
        take.count[r] = mine;
        take.at[r] = r * mine;
    }
    MPI_Alltoallv(x, give.count, give.at, MPI_FLOAT, parts, take.count, take.at, MPI_FLOAT,
                  MPI_COMM_WORLD);
}

void pare_group_gather(float *x, size_t n) {
    if (pare_group_size() == 1) return;
    shares s;
    shares_of(&s, n);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, s.count, s.at, MPI_FLOAT, MPI_COMM_WORLD);
}

#else

const char *pare_mpi_name(void) { return NULL; }

pare_status pare_ranks_join(pare_error *err) {
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    if (!size) size = getenv("PMI_SIZE");
    if (!is_started_by_launcher() || !size || atoi(size) < 2) return PARE_OK;
    return pare_fail(err, PARE_ERR_UNSUPPORTED,
                     "mpi: found %.20s processes started together, expected one: this pare was "
                     "built without MPI",
                     size);
}
void pare_ranks_leave(void) {}
bool pare_ranks_all_failed(void) { return true; }
void pare_ranks_abort(int exit_code) { (void)exit_code; }
void pare_group_barrier(void) {}
int pare_group_max(int value) { return value; }
bool pare_group_same(uint32_t value) { return (void)value, true; }
void pare_group_broadcast(void *data, size_t bytes, int from) {
    (void)data, (void)bytes, (void)from;
}
void pare_group_collect_f32(float *parts, const float *x, size_t n) {
    memcpy(parts, x, n * sizeof *x);
}
void pare_group_sum_f32(float *x, size_t n) { (void)x, (void)n; }
void pare_group_sum_f64(double *x, size_t n) { (void)x, (void)n; }
void pare_group_max_f32(float *x, size_t n) { (void)x, (void)n; }
void pare_group_start_sum(pare_group_request *request, float *x, size_t n) {
    (void)request, (void)x, (void)n;
}
void pare_group_test(pare_group_request *requests, size_t n) { (void)requests, (void)n; }
void pare_group_wait(pare_group_request *requests, size_t n) { (void)requests, (void)n; }
void pare_group_exchange(float *parts, const float *x, size_t n) {
    memcpy(parts, x, n * sizeof *x);
}
void pare_group_gather(float *x, size_t n) { (void)x, (void)n; }

#endif
