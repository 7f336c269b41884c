/* What the files of the kernel benchmark share: kernel_bench.c holds the options, the clock and the
 * order; the others each measure a kind of kernel. */
#ifndef PARE_SRC_EVAL_KERNEL_BENCH_H
#define PARE_SRC_EVAL_KERNEL_BENCH_H

#include "autograd/ops.h"
#include "pare/bench.h"

typedef struct pare_kernel_bench {
    pare_runtime *rt;
    const pare_kernel_bench_options *o; /* every list filled */
    pare_limits limits;
    size_t max_rows; /* largest of o->rows */
} pare_kernel_bench;

bool pare_kernel_wanted(const pare_kernel_bench *b, const char *kernel);

/* Runs calls [first, first + n), one after the other, on all threads. */
typedef void (*pare_kernel_calls)(pare_runtime *rt, void *arg, size_t first, size_t n);

/* Seconds of a call, the best of the samples; the first calls are not counted. Numbers of calls go
 * on from one sample to the next, so that data taken in turn by them come from memory. */
pare_status pare_kernel_time(double *seconds, const pare_kernel_bench *b, pare_kernel_calls calls,
                             void *arg, pare_error *err);

/* The same for a call by every thread of the team that ends with a barrier. */
typedef void (*pare_kernel_fn)(pare_worker *w, void *arg, size_t i);
pare_status pare_kernel_team_time(double *seconds, const pare_kernel_bench *b, pare_kernel_fn fn,
                                  void *arg, pare_error *err);

/* Bytes that no cache holds, and no burden on a small machine. */
size_t pare_beyond_caches(void);

/* What products with weights of an encoding could reach at most, and their kind. */
double pare_op_limit(const char **products, const pare_limits *limits, const pare_encoding *e,
                     pare_compute compute);

/* n copies of so many bytes that lie beyond the caches together; 1 with o->cached. */
size_t pare_kernel_copies(const pare_kernel_bench *b, size_t bytes);

/* The rate of reading n copies of so many bytes: that of memory, or with o->cached as measured. */
pare_status pare_kernel_read_limit(double *rate, const pare_kernel_bench *b, size_t bytes,
                                   pare_error *err);

/* values[i] = scale times a standard normal number; streams are independent of each other. */
void pare_kernel_normals(const pare_kernel_bench *b, float *values, size_t n, float scale,
                         uint64_t stream);

/* A context for operators that take no memory of their own. */
pare_fwd pare_kernel_fwd(pare_worker *w, pare_isa isa);

pare_status pare_kernel_bench_linear(const pare_kernel_bench *b, pare_error *err);
pare_status pare_kernel_bench_attention(const pare_kernel_bench *b, pare_error *err);
pare_status pare_kernel_bench_operators(const pare_kernel_bench *b, pare_error *err);
pare_status pare_kernel_bench_training(const pare_kernel_bench *b, pare_error *err);

#endif
