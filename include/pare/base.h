/* Status, errors and the runtime: what every other header of libpare stands on.
 *
 *     pare_error err = {0};
 *     pare_runtime *rt = NULL;
 *     pare_options opts = pare_options_default();
 *     opts.n_threads = 2;
 *     if (pare_runtime_create(&rt, &opts, &err) != PARE_OK) {
 *         fprintf(stderr, "%s\n", err.message);
 *         return 1;
 *     }
 *     ...
 *     pare_runtime_free(rt);
 *
 * Conventions of the whole library: what can fail returns pare_status and leaves its result through
 * its first pointer; the first failure writes one line into the caller's pare_error (which may be
 * NULL). Who allocates frees; every pare_x_free accepts NULL. The library never prints, exits or
 * aborts. */
#ifndef PARE_BASE_H
#define PARE_BASE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PARE_VERSION "0.1.0"

typedef enum pare_status {
    PARE_OK = 0,
    PARE_ERR_ARG,         /* a wrong argument, option or recipe: the caller's mistake */
    PARE_ERR_INPUT,       /* a file's content is not what its format demands */
    PARE_ERR_UNSUPPORTED, /* valid, but of a kind that pare does not know */
    PARE_ERR_IO,          /* the operating system refused a read, write, sync or rename */
    PARE_ERR_NOMEM,       /* memory could not be had */
    PARE_ERR_INTERRUPTED, /* the caller's cancel flag was set; what was finished is safe */
    PARE_ERR_INTERNAL     /* a check of our own failed: a bug in pare */
} pare_status;

typedef struct pare_error {
    pare_status status;
    char message[1000]; /* one line, UTF-8, NUL-terminated: "FILE: PLACE: found X, expected Y" */
} pare_error;

/* A name for messages: "PARE_ERR_INPUT" and so on. */
const char *pare_status_name(pare_status status);

/* The exit code of the command line for a status: 0, 1 (I/O, memory, internal), 2 (input, usage),
 * 130. */
int pare_status_exit_code(pare_status status);

/* Instruction-set levels, each includes those before it. A binary holds all that its compiler could
 * build and chooses at run time among those that the processor and the operating system offer. */
typedef enum pare_isa {
    PARE_ISA_REF = 0, /* plain C */
    PARE_ISA_AVX2,    /* AVX2, FMA, F16C */
    PARE_ISA_AVX512,  /* AVX-512 F BW DQ VL VNNI */
    PARE_ISA_AMX,     /* AMX tile, int8, bf16; AVX-512 BF16 */
    PARE_ISA_COUNT
} pare_isa;

/* "ref", "avx2", "avx512", "amx". */
const char *pare_isa_name(pare_isa isa);

/* Parses a level's name; PARE_ERR_ARG names the known ones. */
pare_status pare_isa_parse(pare_isa *isa, const char *name, pare_error *err);

/* The highest level of this processor and operating system, found once. */
pare_isa pare_isa_best(void);

/* The processor's name as it reports it; static storage. */
const char *pare_cpu_name(void);

/* How linear layers are computed: `exact` gives f32 results, `fast` multiplies 8-bit activations
 * where the weights' encoding allows; of other weights many rows at once are products of bf16, to
 * which both are rounded, where the processor has them. A result always names its mode. */
typedef enum pare_compute { PARE_COMPUTE_EXACT = 0, PARE_COMPUTE_FAST } pare_compute;

/* Progress of long work. Called from the thread that called the library, at most some 20 times a
 * second. stage   what is being done ("encode", "perplexity"); borrowed for the call done, total in
 * `unit`s; total 0 = unknown */
typedef void (*pare_progress_fn)(void *arg, const char *stage, double done, double total,
                                 const char *unit);

/* A warning: one line, borrowed for the call. Called from the thread that called the library. */
typedef void (*pare_warn_fn)(void *arg, const char *line);

typedef struct pare_options {
    int n_threads;             /* 0 = the cores this process may use */
    pare_isa isa;              /* highest level to use; capped by the processor's */
    uint64_t seed;             /* of everything random */
    bool deterministic;        /* results do not depend on n_threads */
    pare_progress_fn progress; /* may be NULL */
    pare_warn_fn warn;         /* may be NULL */
    void *callback_arg;        /* handed to progress and warn */
    const volatile sig_atomic_t
        *cancel; /* may be NULL; non-zero stops long work with PARE_ERR_INTERRUPTED */
} pare_options;

/* All cores, the best level (or $PARE_ISA), seed 0, no callbacks. */
pare_options pare_options_default(void);

/* Threads, kernels, callbacks. One runtime serves one calling thread at a time. */
typedef struct pare_runtime pare_runtime;

/* Creates a runtime. Errors: PARE_ERR_ARG (n_threads outside 0..1024, $PARE_ISA unknown),
 * PARE_ERR_NOMEM. */
pare_status pare_runtime_create(pare_runtime **out, const pare_options *options, pare_error *err);
void pare_runtime_free(pare_runtime *rt);

/* What the runtime settled on. */
int pare_runtime_threads(const pare_runtime *rt);
pare_isa pare_runtime_isa(const pare_runtime *rt);
uint64_t pare_runtime_seed(const pare_runtime *rt);
bool pare_runtime_deterministic(const pare_runtime *rt);

/* Ranks: processes that mpirun started together share the work of pare_train, of the calibration of
 * pare_compress and of pare_sweep_run. Each makes the same calls with the same arguments; inputs,
 * outputs and work folders are files that all of them see, and rank 0 writes them.
 *
 *     if (pare_ranks_join(&err) != PARE_OK) ...          before the first runtime
 *     st = pare_train(&report, rt, &options, &err);
 *     if (st != PARE_OK && !pare_ranks_all_failed()) pare_ranks_abort(1);
 *     pare_ranks_leave();                                after the last runtime */

/* The MPI that the library was built with, "Open MPI v4.1.4"; NULL: without. Static storage. */
const char *pare_mpi_name(void);
/* Begins MPI in a process that mpirun (or another launcher) started; does nothing in others. The
 * calling thread is the one that calls the library. Errors: PARE_ERR_UNSUPPORTED (built without
 * MPI, and several processes were started together), PARE_ERR_IO. */
pare_status pare_ranks_join(pare_error *err);
/* This process's number from 0, and how many there are; 0 and 1 alone. */
int pare_rank(void);
int pare_n_ranks(void);
/* Waits for all ranks and ends MPI; does nothing alone. */
void pare_ranks_leave(void);
/* Called by a rank that failed: true when within half a second all have called it, as where a file
 * is missing or an option is wrong; one of them tells the error then. false: the others go on and
 * will wait for this rank, so it should end them. true alone. */
bool pare_ranks_all_failed(void);
/* Ends the processes of all ranks at once with this exit code; does nothing alone. */
void pare_ranks_abort(int exit_code);

#ifdef __cplusplus
}
#endif
#endif
