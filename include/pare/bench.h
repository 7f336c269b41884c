/* Speed: the machine's limits, and how near a model comes to them.
 *
 *     pare_limits limits;
 *     pare_limits_measure(&limits, rt, &err);
 *     pare_bench_options bo = pare_bench_options_default();
 *     pare_bench_row row;
 *     pare_bench_decode(&row, rt, model, &bo, 128, 1, &err);   // 128 tokens, one a step
 *     double share = row.tokens_per_s * row.bytes_per_token / limits.dram_read_bytes_per_s;
 */
#ifndef PARE_BENCH_H
#define PARE_BENCH_H

#include "pare/base.h"
#include "pare/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What all threads of a runtime reach together, in loops that do nothing else. A multiply and an
 * add count as two operations. bf16 is the rate of f32 where the level has no bf16 products. int4
 * is the rate of int8 with codes of at most 4 bits: higher with AVX2, where their sums fit 16 bits
 * for a while, else the same. */
typedef struct pare_limits {
    double dram_read_bytes_per_s, f32_flop_per_s, bf16_flop_per_s, int8_op_per_s, int4_op_per_s;
} pare_limits;

/* Takes about two seconds. Errors: PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status pare_limits_measure(pare_limits *out, pare_runtime *rt, pare_error *err);

/* Rate of reading `bytes` again and again: the limit of a model of that size, which may lie in the
 * caches. Errors: as above. */
pare_status pare_limits_read_rate(double *bytes_per_s, pare_runtime *rt, size_t bytes,
                                  pare_error *err);

/* The kernel that the level `isa` uses for each operation: i from 0; false past the last. */
typedef struct pare_kernel_choice {
    const char *name; /* "q4_k", ...: one entry of `family` */
    const char *family;
    pare_isa isa; /* level of the variant that runs */
} pare_kernel_choice;
bool pare_kernel_at(pare_kernel_choice *out, size_t i, pare_isa isa);

typedef struct pare_bench_options {
    size_t reps;          /* timed repetitions after one that is not counted; default 3 */
    size_t depth;         /* tokens already in the context */
    const char *kv;       /* as in pare_session_options */
    pare_compute compute; /* default fast */
} pare_bench_options;
pare_bench_options pare_bench_options_default(void);

/* Means over the repetitions; stddev is that of the repetitions (n - 1), 0 for a single one. */
typedef struct pare_bench_row {
    const char *what;             /* "prefill" or "decode"; static */
    size_t n, batch, depth, reps; /* batch: tokens at once */
    double tokens_per_s, stddev;
    double
        bytes_per_token; /* decode: weights / batch + keys and values; prefill: weights / batch */
    double flop_per_s;   /* of the linear layers */
    pare_compute compute;
} pare_bench_row;

/* n tokens at once (in batches of `batch`, 0 = 512) after `depth` others. Errors: PARE_ERR_ARG (n
 * 0, n + depth over the model's maximum), those of pare_session_*. */
pare_status pare_bench_prefill(pare_bench_row *out, pare_runtime *rt, pare_model *m,
                               const pare_bench_options *options, size_t n, size_t batch,
                               pare_error *err);

/* n steps of `batch` sequences (1 to 4096), each of which gets a token a step: the weights are read
 * once for all of them. The sequences share the `depth` tokens before. */
pare_status pare_bench_decode(pare_bench_row *out, pare_runtime *rt, pare_model *m,
                              const pare_bench_options *options, size_t n, size_t batch,
                              pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
