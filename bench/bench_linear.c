/* Speed and error of linear_forward.
 *
 *     bench_linear [--shapes ROWSxCOLS,...] [--n N,...] [--threads N,...] [--rounds N]
 * [ENCODING...]
 *
 * For each encoding, shape, mode and number of threads: G op/s at each n (a multiply and an add are
 * two), in brackets the share of the level's peak that was measured in the same run (f32 for exact,
 * int8 for fast), and the RMS error against f64 relative to the RMS of the result. The best of a
 * few rounds counts; the matrix may stay in the caches from one call to the next. The int8 peak on
 * AVX2 is that of 8-bit codes: it widens each product, which narrower codes need not. --cpu-time
 * counts the process's time and not the clock's: for comparisons on a busy machine, one thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/team.h"
#include "pare/bench.h"
#include "tensor/linear.h"

enum { MAX_LIST = 32, CHECKED_ROWS = 64 };

typedef struct settings {
    size_t rows[MAX_LIST], cols[MAX_LIST], n_shapes;
    size_t n[MAX_LIST], n_n;
    size_t threads[MAX_LIST], n_threads;
    size_t rounds;
    bool cpu_time;
    const char *encodings[MAX_LIST];
    size_t n_encodings;
} settings;

typedef struct call {
    pare_isa isa;
    pare_compute compute;
    void *scratch;
    const float *x;
    size_t n, cols, reps;
    pare_linear_out out;
} call;

static double now(bool cpu_time) {
    struct timespec t;
    clock_gettime(cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void forward(pare_worker *w, void *arg) {
    const call *c = arg;
    for (size_t i = 0; i < c->reps; i++)
        pare_linear_forward(w, c->isa, c->compute, c->scratch, c->x, c->cols, c->n, &c->out, 1);
}

/* Seconds of one call. */
static double time_call(pare_runtime *rt, call *c, size_t rounds, bool cpu) {
    c->reps = 1;
    pare_team_run(rt, forward, c);
    double t = now(cpu);
    pare_team_run(rt, forward, c);
    t = now(cpu) - t;
    c->reps = (size_t)(0.005 / (t + 1e-7)) + 1;
    double best = INFINITY;
    for (size_t i = 0; i < rounds; i++) {
        t = now(cpu);
        pare_team_run(rt, forward, c);
        t = (now(cpu) - t) / (double)c->reps;
        if (t < best) best = t;
    }
    return best;
}

/* A standard normal number. */
static float normal(void) {
    double u = ((double)rand() + 1) / ((double)RAND_MAX + 2), v = (double)rand() / RAND_MAX;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

/* Weights; half of them zero in the pattern of a sparse encoding. */
static float *make_weights(const pare_encoding *e, size_t rows, size_t cols) {
    float *w = malloc(rows * cols * sizeof *w);
    bool sparse = e->block_bytes == 0;
    for (size_t i = 0; w && i < rows * cols; i++) {
        w[i] = normal() / sqrtf((float)cols);
        if (sparse && i % cols % 4 >= 2) w[i] = 0.0f;
    }
    return w;
}

static double rms_error(const call *c, const pare_tensor *t) {
    size_t rows = t->view.rows < CHECKED_ROWS ? t->view.rows : CHECKED_ROWS;
    size_t n = c->n < 16 ? c->n : 16;
    double error = 0.0, power = 0.0;
    float *w = malloc(c->cols * sizeof *w);
    for (size_t r = 0; w && r < rows; r++) {
        t->enc->decode(w, &t->view, r, 0, c->cols);
        for (size_t i = 0; i < n; i++) {
            double want = 0.0;
            for (size_t j = 0; j < c->cols; j++) want += (double)w[j] * c->x[i * c->cols + j];
            double d = c->out.y[i * c->out.ldy + r] - want;
            error += d * d;
            power += want * want;
        }
    }
    free(w);
    return sqrt(error / power);
}

static void bench_shape(const settings *s, pare_runtime *rt, const pare_limits *limits,
                        const pare_encoding *e, size_t rows, size_t cols) {
    pare_error err = {0};
    pare_tensor t = {0};
    float *w = make_weights(e, rows, cols);
    if (!w || pare_tensor_encode(rt, &t, e, w, rows, cols, NULL, &err) != PARE_OK) {
        free(w);
        return; /* a width that does not fit, a form that can only be read */
    }
    free(w);
    size_t n_max = 0;
    for (size_t i = 0; i < s->n_n; i++) n_max = s->n[i] > n_max ? s->n[i] : n_max;
    float *x = malloc(n_max * cols * sizeof *x), *y = malloc(n_max * rows * sizeof *y);
    for (size_t i = 0; x && i < n_max * cols; i++) x[i] = normal();
    int threads = pare_runtime_threads(rt);
    for (int compute = 0; x && y && compute < 2; compute++) {
        size_t bytes = pare_linear_scratch_bytes(n_max, cols, threads, (pare_compute)compute);
        void *scratch = pare_big_alloc(bytes);
        if (!scratch) break;
        printf("%-11s %5zux%-5zu %-5s %d", e->name, rows, cols, compute ? "fast" : "exact",
               threads);
        double peak = compute ? limits->int8_op_per_s : limits->f32_flop_per_s, error = 0.0;
        for (size_t i = 0; i < s->n_n; i++) {
            call c = {.isa = pare_runtime_isa(rt),
                      .compute = (pare_compute)compute,
                      .scratch = scratch,
                      .x = x,
                      .n = s->n[i],
                      .cols = cols,
                      .out = {.w = &t, .y = y, .ldy = rows}};
            double rate =
                2.0 * (double)(c.n * rows * cols) / time_call(rt, &c, s->rounds, s->cpu_time);
            printf(" %7.1f (%3.0f%%)", rate * 1e-9, 100.0 * rate / peak);
            error = rms_error(&c, &t);
        }
        printf("  %.1e\n", error);
        fflush(stdout);
        pare_big_free(scratch, bytes);
    }
    free(x);
    free(y);
    pare_tensor_free(&t);
}

static int bench_threads(const settings *s, int n_threads) {
    pare_error err = {0};
    pare_options options = pare_options_default();
    options.n_threads = n_threads;
    pare_runtime *rt = NULL;
    pare_limits limits;
    if (pare_runtime_create(&rt, &options, &err) != PARE_OK ||
        pare_limits_measure(&limits, rt, &err) != PARE_OK) {
        fprintf(stderr, "bench_linear: %s\n", err.message);
        pare_runtime_free(rt);
        return 1;
    }
    printf("\n%s, %s, %d threads: peaks f32 %.1f, bf16 %.1f, int8 %.1f G op/s\n", pare_cpu_name(),
           pare_isa_name(pare_runtime_isa(rt)), n_threads, limits.f32_flop_per_s * 1e-9,
           limits.bf16_flop_per_s * 1e-9, limits.int8_op_per_s * 1e-9);
    printf("%-11s %-11s %-5s %s", "encoding", "shape", "mode", "t");
    for (size_t i = 0; i < s->n_n; i++) printf("       n %-5zu", s->n[i]);
    printf("  error\n");
    const pare_encoding *e;
    for (size_t i = 0; (e = pare_encoding_at(i)); i++) {
        bool wanted = s->n_encodings == 0;
        for (size_t k = 0; k < s->n_encodings; k++) wanted |= !strcmp(s->encodings[k], e->name);
        for (size_t k = 0; wanted && k < s->n_shapes; k++)
            bench_shape(s, rt, &limits, e, s->rows[k], s->cols[k]);
    }
    pare_runtime_free(rt);
    return 0;
}

/* "1,2,3" into list; the number of entries, 0 when it is no such list. */
static size_t parse_list(size_t *list, const char *text) {
    size_t n = 0;
    for (char *end; n < MAX_LIST; text = end + 1) {
        list[n++] = strtoul(text, &end, 10);
        if (end == text || list[n - 1] == 0) return 0;
        if (*end == '\0') return n;
        if (*end != ',') return 0;
    }
    return 0;
}

static size_t parse_shapes(settings *s, const char *text) {
    size_t n = 0;
    for (int used = 0; n < MAX_LIST; text += used + 1) {
        if (sscanf(text, "%zux%zu%n", &s->rows[n], &s->cols[n], &used) != 2) return 0;
        if (s->rows[n] == 0 || s->cols[n] == 0) return 0;
        n++;
        if (text[used] == '\0') return n;
        if (text[used] != ',') return 0;
    }
    return 0;
}

static bool parse(settings *s, int argc, char **argv) {
    s->n_shapes = parse_shapes(s, "576x576,576x1536,1536x576,2048x5632,640x2048,2048x2048");
    s->n_n = parse_list(s->n, "1,4,8,16,64,512");
    s->n_threads = parse_list(s->threads, "1,2");
    s->rounds = 5;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--cpu-time")) {
            s->cpu_time = true;
            continue;
        }
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        size_t *count = NULL;
        if (argv[i][0] != '-') {
            if (s->n_encodings == MAX_LIST || !pare_encoding_find(argv[i])) return false;
            s->encodings[s->n_encodings++] = argv[i];
            continue;
        }
        if (!strcmp(argv[i], "--shapes")) *(count = &s->n_shapes) = parse_shapes(s, value);
        if (!strcmp(argv[i], "--n")) *(count = &s->n_n) = parse_list(s->n, value);
        if (!strcmp(argv[i], "--threads")) *(count = &s->n_threads) = parse_list(s->threads, value);
        if (!strcmp(argv[i], "--rounds"))
            s->rounds = *(count = &(size_t){strtoul(value, NULL, 10)});
        if (!count || *count == 0) return false;
        i++;
    }
    return true;
}

int main(int argc, char **argv) {
    static settings s;
    if (!parse(&s, argc, argv)) {
        fprintf(stderr,
                "usage: bench_linear [--shapes ROWSxCOLS,...] [--n N,...] [--threads N,...] "
                "[--rounds N] [--cpu-time] [ENCODING...]\n");
        return 2;
    }
    for (size_t i = 0; i < s.n_threads; i++)
        if (bench_threads(&s, (int)s.threads[i]) != 0) return 1;
    return 0;
}
