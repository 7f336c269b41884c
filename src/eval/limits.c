/* The machine's limits as all threads reach them together: reading memory, multiplying. The best of
 * several samples counts: whatever disturbs a sample only makes it slower. */
#include "pare/bench.h"

#include "base/cpu.h"
#include "base/memory.h"
#include "base/os.h"
#include "base/team.h"
#include "eval/kernel_bench.h"
#include "eval/peak.h"

/* Long against starting the threads (some 10 us), short for the user. */
#define SAMPLE_S 0.06
enum { SAMPLES = 5 };

/* What one thread does between two looks at the clock: some 100 us. */
typedef struct job {
    const pare_peak_loop *loop; /* NULL = read */
    size_t rounds;              /* of the loop */
    float (*read)(const uint8_t *data, size_t n);
    const uint8_t *data; /* of a read: [n_bytes] */
    size_t n_bytes;
    double *rate; /* [threads] operations or bytes per second */
    float *sink;  /* [threads] keeps the compiler from dropping the work */
} job;

enum { LINE = PARE_PEAK_LINE, PIECE = 1 << 20 };

/* Reads PIECE bytes from *at on, round and round in [begin, end). */
static float read_piece(const job *j, size_t begin, size_t end, size_t *at) {
    float sum = 0;
    for (size_t left = PIECE, n; left; left -= n) {
        n = end - *at < left ? end - *at : left;
        sum += j->read(j->data + *at, n);
        *at = *at + n < end ? *at + n : begin;
    }
    return sum;
}

/* Every thread counts what it does in its own time: one that starts late or is held up for a while
 * then does not spoil what the others reach. */
static void sample(pare_worker *w, void *arg) {
    job *j = arg;
    size_t begin = 0, end = 0, at;
    if (!j->loop) pare_share(w, j->n_bytes, LINE, &begin, &end);
    at = begin;
    double done = 0, elapsed, start = pare_now_s();
    do {
        if (j->loop) {
            j->sink[w->id] += j->loop->run(j->rounds);
            done += (double)j->rounds * j->loop->ops_per_round;
        } else {
            j->sink[w->id] += read_piece(j, begin, end, &at);
            done += PIECE;
        }
        elapsed = pare_now_s() - start;
    } while (elapsed < SAMPLE_S);
    j->rate[w->id] = done / elapsed;
}

/* Rounds of a loop that take some 100 us on one thread. */
static size_t calibrate(const pare_peak_loop *loop, float *sink) {
    size_t rounds = 64;
    for (; rounds < (size_t)1 << 40; rounds *= 2) {
        double start = pare_now_s();
        *sink += loop->run(rounds);
        if (pare_now_s() - start > 1e-4) break;
    }
    return rounds;
}

/* All threads together, the best sample. */
static pare_status best_rate(double *rate, pare_runtime *rt, job *j, pare_error *err) {
    size_t n_threads = (size_t)pare_runtime_threads(rt);
    pare_status st = PARE_OK;
    *rate = 0;
    j->rate = pare_calloc(n_threads, sizeof *j->rate);
    j->sink = pare_calloc(n_threads, sizeof *j->sink);
    if (!j->rate || !j->sink)
        st = pare_fail(err, PARE_ERR_NOMEM, "measuring the machine: out of memory");
    if (st == PARE_OK && j->loop) j->rounds = calibrate(j->loop, j->sink);
    for (int i = 0; i < SAMPLES && st == PARE_OK; i++) {
        if ((st = pare_check_cancel(rt, err)) != PARE_OK) break;
        pare_team_run(rt, sample, j);
        double sum = 0;
        for (size_t t = 0; t < n_threads; t++) sum += j->rate[t];
        if (sum > *rate) *rate = sum;
    }
    pare_free(j->rate);
    pare_free(j->sink);
    return st;
}

static pare_status measure_loop(double *out, pare_runtime *rt, const pare_peak_loop *loop,
                                pare_error *err) {
    job j = {.loop = loop};
    return best_rate(out, rt, &j, err);
}

static pare_peak_loops choose_loops(pare_isa isa) {
    pare_peak_loops loops;
    pare_peak_loops_ref(&loops);
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX2) pare_peak_loops_avx2(&loops);
    if (isa >= PARE_ISA_AVX512) pare_peak_loops_avx512(&loops);
    if (isa >= PARE_ISA_AVX512 && pare_cpu_features() & PARE_CPU_AVX512_BF16)
        pare_peak_loops_avx512_bf16(&loops);
    if (isa >= PARE_ISA_AMX) pare_peak_loops_amx(&loops);
#else
    (void)isa;
#endif
    return loops;
}

pare_status pare_limits_read_rate(double *bytes_per_s, pare_runtime *rt, size_t bytes,
                                  pare_error *err) {
    size_t least = (size_t)pare_runtime_threads(rt) * LINE;
    *bytes_per_s = 0;
    bytes = bytes < least ? least : bytes & ~(size_t)(LINE - 1);
    uint8_t *data = pare_big_alloc(bytes);
    if (!data)
        return pare_fail(err, PARE_ERR_NOMEM,
                         "measuring reads: found no memory for a buffer of %zu bytes", bytes);
    /* untouched pages may all be the one zero page, which the caches hold */
    for (size_t i = 0; i < bytes; i += 512) data[i] = (uint8_t)(i >> 9);
    job j = {.read = choose_loops(pare_runtime_isa(rt)).read, .data = data, .n_bytes = bytes};
    pare_status st = best_rate(bytes_per_s, rt, &j, err);
    pare_big_free(data, bytes);
    return st;
}

size_t pare_beyond_caches(void) {
    size_t bytes = (size_t)512 << 20, available = pare_available_bytes();
    return available && bytes > available / 4 ? available / 4 : bytes;
}

pare_status pare_limits_measure(pare_limits *out, pare_runtime *rt, pare_error *err) {
    *out = (pare_limits){0};
    PARE_TRY(pare_limits_read_rate(&out->dram_read_bytes_per_s, rt, pare_beyond_caches(), err));

    pare_peak_loops loops = choose_loops(pare_runtime_isa(rt));
    PARE_TRY(measure_loop(&out->f32_flop_per_s, rt, &loops.f32, err));
    PARE_TRY(measure_loop(&out->int8_op_per_s, rt, &loops.int8, err));
    out->bf16_flop_per_s = out->f32_flop_per_s;
    out->int4_op_per_s = out->int8_op_per_s;
    if (loops.bf16.run != loops.f32.run)
        PARE_TRY(measure_loop(&out->bf16_flop_per_s, rt, &loops.bf16, err));
    if (loops.int4.run != loops.int8.run)
        PARE_TRY(measure_loop(&out->int4_op_per_s, rt, &loops.int4, err));
    return PARE_OK;
}

pare_status pare_limits_peak(double *flop_per_s, pare_runtime *rt, pare_compute compute,
                             pare_error *err) {
    pare_peak_loops loops = choose_loops(pare_runtime_isa(rt));
    return measure_loop(flop_per_s, rt, compute == PARE_COMPUTE_FAST ? &loops.bf16 : &loops.f32,
                        err);
}

double pare_op_limit(const char **products, const pare_limits *limits, const pare_encoding *e,
                     pare_compute compute) {
    double best = limits->f32_flop_per_s;
    *products = "f32";
    if (compute == PARE_COMPUTE_EXACT) {
        if (limits->bf16_flop_per_s / 6 <= best) return best;
        *products = "bf16 x 6";
        return limits->bf16_flop_per_s / 6;
    }
    if (limits->bf16_flop_per_s > best) {
        best = limits->bf16_flop_per_s;
        *products = "bf16";
    }
    bool narrow = e->code_max - e->code_min < 64; /* 16-bit sums of several products */
    double whole = narrow ? limits->int4_op_per_s : limits->int8_op_per_s;
    if (!e->codes || whole < best) return best;
    *products = narrow ? "int4" : "int8";
    return whole;
}
