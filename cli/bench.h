/* What the two halves of `pare bench` share: verb_bench.c (the verb, models), bench_kernels.c. */
#ifndef PARE_CLI_BENCH_H
#define PARE_CLI_BENCH_H

#include "cli.h"
#include "pare/bench.h"

typedef struct bench_kernels_options {
    const char *only, *encodings; /* names with commas; NULL = all */
    const char *shape, *heads;    /* "2048x5632", "32/8/128" */
    cli_counts rows;
    int64_t ctx;
    bool cached;
} bench_kernels_options;

/* pare bench --kernels: measures and prints. */
pare_status bench_kernels(cli *c, const bench_kernels_options *o, size_t reps);

/* value / limit, at most 1: on a busy machine the limit may come out too low. */
double bench_share(double value, double limit);

json_t *bench_limits_json(const pare_limits *l);

#endif
