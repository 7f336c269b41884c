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

/* Only the rate of f32 products, or in `fast` of bf16 ones where the level has them. Takes some
 * hundredths of a second. Errors: as above. */
pare_status pare_limits_peak(double *flop_per_s, pare_runtime *rt, pare_compute compute,
                             pare_error *err);

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
    size_t reps;               /* timed repetitions after one that is not counted; default 3 */
    size_t depth;              /* tokens already in the context */
    const char *kv;            /* as in pare_session_options */
    pare_compute compute;      /* default fast */
    const pare_limits *limits; /* for op_limit of the rows; borrowed; NULL = not wanted */
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
    double op_limit; /* what flop_per_s could be at most, every weight multiplied as its encoding
                        allows: f32, bf16, int8 or int4; 0 without limits in the options */
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

/* --- single kernels --- */

/* One kernel on one encoding and number of rows. What a call has to do at least is given beside the
 * limits of this run, so that a share is (bytes / seconds) / read_limit or (ops / seconds) /
 * op_limit; the larger of the two tells what binds the kernel. */
typedef struct pare_kernel_row {
    const char *kernel;   /* as pare_bench_kernel_name gives it; static */
    const char *encoding; /* of the weights, of keys and values, of activations; static */
    size_t rows;          /* that a call treats at once */
    double seconds;       /* of one call of all threads, the best of the samples */
    double bytes;         /* that it reads of W or of the cache; operators: reads and writes */
    double ops;           /* a multiply and an add are two, those with zeros of a sparse W left out;
                             0 = not counted */
    double read_limit;    /* bytes a second, of memory or of the caches where the data lie */
    double op_limit;      /* operations a second */
    const char *products; /* of op_limit: "f32", "bf16", "bf16 x 6" (exact in three parts), "int8",
                             "int4"; NULL where ops is 0; static */
    double rms_error; /* linear layers: RMS of the difference to f64 over the RMS of the result, for
                         64 outputs of up to 16 rows; else NaN */
} pare_kernel_row;

/* Lists are borrowed for the call. */
typedef struct pare_kernel_bench_options {
    size_t out_dim, in_dim; /* of W; operators treat rows of in_dim; default 2048 x 5632, at most
                               2^20 */
    const size_t *rows;     /* [n_rows] 1 to 65536; n_rows 0: 1, 4, 8, 16, 64, 512 */
    size_t n_rows;
    const char *const *encodings; /* [n_encodings]; 0: all that can be written and fit in_dim */
    size_t n_encodings;
    const char *const *kernels; /* [n_kernels]; 0: all */
    size_t n_kernels;
    /* Of attention; default 32, 8, 128. head_dim is even, at most 1024; a codec or number of rows
     * that does not fit is left out. */
    size_t n_heads, n_kv_heads, head_dim;
    size_t ctx;  /* positions that the last row sees; default 4096 */
    size_t reps; /* samples of 20 ms or one call; default 3 */
    bool cached; /* one W, one layer of keys and values, which may stay in the caches; else as many
                    as fill memory beyond them, in turn, as in a model */
    void (*on_row)(void *arg, const pare_kernel_row *row); /* each as it is measured */
    void *arg;
} pare_kernel_bench_options;
pare_kernel_bench_options pare_kernel_bench_options_default(void);

/* The kernels that are measured: i from 0; NULL past the last. "linear_exact", "linear_fast": a
 * whole linear layer; "encode", "decode": W to and from its encoding; "attention": `rows` tokens of
 * one sequence, the last at ctx (1: decoding); "attention_fast": the same as `fast` computes up to
 * 8 tokens in products of integers, for codecs and heads for which it does; "kv_store", "kv_load":
 * keys and values of ctx positions into a codec and back to f32; "quantize": activations to int8;
 * "mask_select", "adamw": a mask for W and a step of an optimizer with one; the others as in a
 * forward pass or a sampler. */
const char *pare_bench_kernel_name(size_t i);

/* Measures the limits, then the kernels. Errors: PARE_ERR_ARG (a size out of its range, a name that
 * is not known, an encoding named that does not fit in_dim), PARE_ERR_UNSUPPORTED (one named that
 * can only be read), PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status pare_bench_kernels(pare_limits *limits, pare_runtime *rt,
                               const pare_kernel_bench_options *options, pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
