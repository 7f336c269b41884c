/* Few-rows kernels: time of y = W x, and how near reading W comes to the machine's memory.
 *
 *     bench_dot [--isa LEVEL] [--threads 2] [--rows 2048] [--cols 2048] [--n 1] [--rounds 5]
 * [--cached-kb 192] [NAME...]
 *
 * Two sets of matrices for each format: one of 256 MiB, larger than the caches, whose bytes a
 * second are compared with a plain read loop over the same memory, matrix by matrix ("share"); and
 * one in the second-level cache, which shows the arithmetic ("cached", and "slack" = how many times
 * faster it is). Sparse formats are half zeros, at random places. Times are lower quartiles, since
 * other programs only ever add to them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/team.h"
#include "kernels/blocks.h"
#include "kernels/dot.h"
#include "tensor/encoding.h"

enum { SET_BYTES = 256 << 20 };

typedef struct format {
    const char *name;
    size_t len, bytes;       /* of a block */
    int n_halves, halves[2]; /* where f16 scales lie */
    int dot, dotf;
    int pattern; /* sparse: half of each so many columns are zero */
} format;

#define BLOCK(n, length, count, ...)                                                               \
    { #n, length, sizeof(pare_##n), count, {__VA_ARGS__ }, PARE_DOT_##n, 0, 0 }
#define PLAIN(n, size)                                                                             \
    { #n, 1, size, 0, {0 }, 0, PARE_DOTF_##n, 0 }
#define SPARSE(n, m)                                                                               \
    { #n, .pattern = m }
static const format formats[] = {
    BLOCK(q4_0, 32, 1, 0),
    BLOCK(q4_1, 32, 2, 0, 2),
    BLOCK(q4_k, 256, 2, 0, 2),
    BLOCK(q6_k, 256, 1, 208),
    BLOCK(q8_0, 32, 1, 0),
    BLOCK(q5_0, 32, 1, 0),
    PLAIN(bf16, 2),
    BLOCK(q5_k, 256, 2, 0, 2),
    BLOCK(q2_k, 256, 2, 80, 82),
    BLOCK(q3_k, 256, 1, 108),
    BLOCK(iq4_xs, 256, 1, 0),
    BLOCK(iq4_nl, 32, 1, 0),
    BLOCK(q5_1, 32, 2, 0, 2),
    PLAIN(f16, 2),
    PLAIN(f32, 4),
    SPARSE(bitmap_bf16, 64),
    SPARSE(nm24_bf16, 4),
    SPARSE(bitmap_q8, 64),
    SPARSE(nm24_q8, 4),
    SPARSE(nm48_q8, 8),
    SPARSE(bitmap_q4, 64),
    SPARSE(nm24_q4, 4),
    SPARSE(nm48_q4, 8),
};

enum { MAX_SAMPLES = 1 << 14 };

typedef struct job {
    const pare_dot_kernels *kernels;
    const format *f;
    int dot, dotf;
    pare_view w;         /* the first matrix of the set */
    size_t matrix_bytes; /* from one matrix to the next */
    size_t n_matrices, repeat;
    bool read_too; /* after each matrix, read as many bytes with a plain loop */
    const uint8_t *data;
    float *x, *y;
    pare_act act;
    size_t n, n_samples;
    double dot_s[MAX_SAMPLES], read_s[MAX_SAMPLES];
} job;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx2"))) static void read_share(const uint8_t *p, size_t n) {
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i + 128 <= n; i += 128) {
        s0 = _mm256_xor_si256(s0, _mm256_load_si256((const __m256i *)(p + i)));
        s1 = _mm256_xor_si256(s1, _mm256_load_si256((const __m256i *)(p + i + 32)));
        s2 = _mm256_xor_si256(s2, _mm256_load_si256((const __m256i *)(p + i + 64)));
        s3 = _mm256_xor_si256(s3, _mm256_load_si256((const __m256i *)(p + i + 96)));
    }
    s0 = _mm256_xor_si256(_mm256_xor_si256(s0, s1), _mm256_xor_si256(s2, s3));
    __asm__ volatile("" ::"x"(s0));
}
#else
static void read_share(const uint8_t *p, size_t n) {
    uint64_t s = 0, v;
    for (size_t i = 0; i + 8 <= n; i += 8) memcpy(&v, p + i, 8), s ^= v;
    __asm__ volatile("" ::"r"(s));
}
#endif

/* One pass over the set, a time for each matrix. Reading goes half the set ahead: what the caches
 * hold of it is long replaced. */
static void run_matrices(pare_worker *worker, void *arg) {
    job *j = arg;
    size_t begin, end, matrix = j->matrix_bytes;
    size_t row_bytes = matrix / j->w.rows;
    pare_share(worker, j->w.rows, 16, &begin, &end);
    pare_barrier(worker);
    for (size_t k = 0; k < j->n_matrices * j->repeat; k++) {
        double start = now_s();
        pare_view w = j->w;
        for (int p = 0; p < PARE_MAX_PARTS && w.part[p]; p++)
            w.part[p] = (const uint8_t *)w.part[p] + k % j->n_matrices * matrix;
        if (j->dot)
            j->kernels->dot[j->dot](j->y, w.rows, &w, begin, end, &j->act);
        else
            j->kernels->dotf[j->dotf](j->y, w.rows, &w, begin, end, j->x, w.cols, j->n);
        pare_barrier(worker);
        double middle = now_s();
        if (j->read_too) {
            const uint8_t *other = j->data + (k + j->n_matrices / 2) % j->n_matrices * matrix;
            read_share(other + begin * row_bytes, (end - begin) * row_bytes);
            pare_barrier(worker);
        }
        if (worker->id == 0 && j->n_samples < MAX_SAMPLES) {
            j->dot_s[j->n_samples] = middle - start;
            j->read_s[j->n_samples++] = now_s() - middle;
        }
        pare_barrier(worker);
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The fastest quarter begins here: other programs only ever add to a time. */
static double quartile(double *v, size_t n) {
    qsort(v, n, sizeof *v, by_value);
    return v[n / 4];
}

/* Random codes; scales of about 2^-7. */
static void fill(uint8_t *data, size_t bytes, const format *f) {
    uint64_t s = 88172645463325252u;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17;
        memcpy(data + i, &s, 8);
    }
    for (size_t b = 0; b + f->bytes <= bytes; b += f->bytes) {
        for (int k = 0; k < f->n_halves; k++) data[b + (size_t)f->halves[k] + 1] = 0x20;
        /* plain floats: exponents near 0 */
        if (f->dotf == PARE_DOTF_f16) data[b + 1] = (uint8_t)(0x20 | (data[b + 1] & 0x83));
        if (f->dotf == PARE_DOTF_bf16) data[b + 1] = (uint8_t)(0x3e | (data[b + 1] & 0x80));
        if (f->dotf == PARE_DOTF_f32) data[b + 3] = (uint8_t)(0x3e | (data[b + 3] & 0x80));
    }
}

/* A format whose rows are blocks of one size. */
static void place_blocks(job *j, uint8_t *data) {
    const format *f = j->f;
    size_t row_bytes = j->w.cols / f->len * f->bytes;
    j->w.row_bytes = row_bytes;
    j->w.part[0] = data;
    j->dot = f->dot;
    j->dotf = f->dotf;
    j->matrix_bytes = j->w.rows * row_bytes;
    fill(data, SET_BYTES, f);
}

static size_t round_up_64(size_t n) { return (n + 63) / 64 * 64; }

/* A sparse one, encoded once and copied through the set. */
static bool place_sparse(pare_runtime *rt, job *j, uint8_t *data) {
    size_t rows = j->w.rows, cols = j->w.cols, m = (size_t)j->f->pattern, at = 0;
    float *w = pare_big_alloc(rows * cols * sizeof *w);
    if (!w) return false;
    uint64_t s = 88172645463325252u;
    for (size_t g = 0; g < rows * cols; g += m)
        for (size_t kept = 0; kept < m / 2;) {
            s ^= s << 13, s ^= s >> 7, s ^= s << 17;
            float *v = w + g + (s >> 20) % m;
            if (*v != 0.0f) continue;
            *v = (float)((s >> 40) % 1000 + 1) * 1e-5f;
            kept++;
        }
    pare_tensor t;
    const pare_encoding *e = pare_encoding_find(j->f->name);
    if (pare_tensor_encode(rt, &t, e, w, rows, cols, NULL, NULL) != PARE_OK) return false;
    pare_big_free(w, rows * cols * sizeof *w);
    j->w = t.view;
    j->dot = (int)e->dot;
    j->dotf = (int)e->dotf;
    for (uint32_t p = 0; p < e->n_parts; p++) {
        memcpy(data + at, t.view.part[p], t.part_bytes[p]);
        j->w.part[p] = data + at;
        at += round_up_64(t.part_bytes[p]);
    }
    j->matrix_bytes = at;
    for (size_t k = 1; k < SET_BYTES / at; k++) memcpy(data + k * at, data, at);
    pare_tensor_free(&t);
    return true;
}

typedef struct options {
    size_t rows, cols, n, cached; /* cached: bytes a thread */
    int threads, rounds;
    pare_isa isa;
} options;

static void measure(pare_runtime *rt, const options *o, job *j) {
    size_t matrix = j->matrix_bytes, row_bytes = matrix / j->w.rows;
    j->n_matrices = SET_BYTES / matrix;
    j->repeat = 1;
    j->read_too = true;
    j->n_samples = 0;
    for (int round = 0; round < o->rounds; round++) pare_team_run(rt, run_matrices, j);
    double us = quartile(j->dot_s, j->n_samples) * 1e6,
           read_us = quartile(j->read_s, j->n_samples) * 1e6;

    size_t rows = j->w.rows, few = o->cached / row_bytes * (size_t)o->threads;
    if (few < rows) j->w.rows = few;
    j->n_matrices = 1;
    j->repeat = 200;
    j->read_too = false;
    j->n_samples = 0;
    for (int round = 0; round < o->rounds; round++) pare_team_run(rt, run_matrices, j);
    double cached_us = quartile(j->dot_s, j->n_samples) * 1e6,
           cached = (double)(j->w.rows * row_bytes) / cached_us;
    j->w.rows = rows;
    printf("%-11s %9.1f %8.2f %8.2f %7.1f%% %10.2f %9.2f\n", j->f->name, us,
           (double)matrix / us * 1e-3, (double)matrix / read_us * 1e-3, 100 * read_us / us,
           cached * 1e-3, us / (cached_us * (double)rows / (double)(few < rows ? few : rows)));
    fflush(stdout);
}

static int usage(void) {
    fprintf(stderr, "usage: bench_dot [--isa L] [--threads N] [--rows R] [--cols C] [--n N] "
                    "[--rounds K] [NAME...]\n");
    return 2;
}

int main(int argc, char **argv) {
    options o = {.rows = 2048,
                 .cols = 2048,
                 .n = 1,
                 .cached = 192 << 10,
                 .threads = 1,
                 .rounds = 5,
                 .isa = pare_isa_best()};
    int first = 1;
    for (; first + 1 < argc && strncmp(argv[first], "--", 2) == 0; first += 2) {
        const char *key = argv[first] + 2, *value = argv[first + 1];
        pare_error err = {0};
        if (strcmp(key, "isa") == 0) {
            if (pare_isa_parse(&o.isa, value, &err) != PARE_OK) return usage();
        } else if (strcmp(key, "threads") == 0)
            o.threads = atoi(value);
        else if (strcmp(key, "rows") == 0)
            o.rows = (size_t)atol(value);
        else if (strcmp(key, "cols") == 0)
            o.cols = (size_t)atol(value);
        else if (strcmp(key, "n") == 0)
            o.n = (size_t)atol(value);
        else if (strcmp(key, "cached-kb") == 0)
            o.cached = (size_t)atol(value) << 10;
        else if (strcmp(key, "rounds") == 0)
            o.rounds = atoi(value);
        else
            return usage();
    }
    if (o.rounds < 1 || o.rounds > 100 || o.n < 1 || o.n > PARE_DOT_MAX_N || o.cols % 256 ||
        o.cols == 0 || o.rows == 0 || o.threads < 1 || o.rows * o.cols * 4 > SET_BYTES)
        return usage();
    pare_options options = pare_options_default();
    options.n_threads = o.threads;
    options.isa = o.isa;
    pare_runtime *rt = NULL;
    pare_error err = {0};
    if (pare_runtime_create(&rt, &options, &err) != PARE_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    static job j;
    j.kernels = pare_dot_kernels_get(pare_runtime_isa(rt));
    j.n = o.n;
    uint8_t *data = pare_big_alloc(SET_BYTES + 64);
    j.data = data;
    j.x = pare_big_alloc(o.n * o.cols * sizeof *j.x);
    j.y = pare_big_alloc(o.n * o.rows * sizeof *j.y);
    void *act[PARE_ACT_KINDS];
    if (!data || !j.x || !j.y) return 1;
    for (size_t i = 0; i < o.n * o.cols; i++) j.x[i] = (float)(i * 7919 % 1000) * 0.001f - 0.5f;
    for (int k = 0; k < PARE_ACT_KINDS; k++)
        if (!(act[k] = pare_big_alloc(pare_act_place(&j.act, NULL, k, o.n, o.cols)))) return 1;
    printf("%s, %s, %d threads, W %zu x %zu, n = %zu\n", pare_cpu_name(),
           pare_isa_name(pare_runtime_isa(rt)), o.threads, o.rows, o.cols, o.n);
    printf("%-11s %9s %8s %8s %8s %10s %9s\n", "", "us", "GB/s", "read", "share", "cached",
           "slack");
    for (size_t k = 0; k < sizeof formats / sizeof *formats; k++) {
        j.f = formats + k;
        bool wanted = first == argc;
        for (int i = first; i < argc; i++) wanted |= strcmp(argv[i], j.f->name) == 0;
        if (!wanted) continue;
        j.w = (pare_view){.rows = o.rows, .cols = o.cols};
        if (!j.f->pattern)
            place_blocks(&j, data);
        else if (!place_sparse(rt, &j, data))
            return 1;
        pare_act_kind kind = j.kernels->act[j.dot];
        (void)pare_act_place(&j.act, act[kind], kind, o.n, o.cols);
        j.kernels->quantize[kind](&j.act, j.x, o.cols, o.n, o.cols);
        measure(rt, &o, &j);
    }
    pare_runtime_free(rt);
    return 0;
}
