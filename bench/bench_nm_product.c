/* Does a product of f32 with 2:4 weights gain on AVX2? y = x w^T for shapes of training: the dense
 * kernel beside one that holds the two weights of every four and their places. Vectors run along 64
 * tokens, so that no input is gathered: a weight is broadcast and multiplies the 64 tokens' values
 * of its input, which lie together (x is transposed by pieces of 64 inputs, 16 KiB, and y back). In
 * turns, the best of some rounds. `bench_nm_product [THREADS [TOKENS]]` */
#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "kernels/unroll.h"
#include "tensor/linear.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROUNDS = 100, CHUNK = 64, PIECE = 64, KEPT = PIECE / 2 };

typedef struct product {
    pare_runtime *rt;
    size_t n, out, in;
    float *w, *x, *y, *y_sparse; /* [out][in], [n][in], [n][out] */
    float *value;                /* [in / PIECE][out][KEPT] */
    uint8_t *place;              /* the same: inputs of the piece */
    float *room;                 /* [threads][out + PIECE][CHUNK] */
    void *scratch;
} product;

static void dense(pare_worker *w, void *arg) {
    const product *p = arg;
    pare_tensor t = pare_tensor_wrap(pare_encoding_find("f32"), p->w, p->out, p->in);
    pare_linear_out o = {.w = &t, .y = p->y, .ldy = p->out, .many = true};
    pare_linear_forward(w, pare_runtime_isa(p->rt), PARE_COMPUTE_EXACT, p->scratch, p->x, p->in,
                        p->n, NULL, &o, 1);
}

/* yt[out][CHUNK] += the piece's part: xt [PIECE][CHUNK]. */
__attribute__((target("avx2,fma"))) static void
piece(float *yt, const float *xt, const float *value, const uint8_t *place, size_t out) {
    for (size_t o = 0; o < out; o++, yt += CHUNK, value += KEPT, place += KEPT) {
        __m256 a[8];
        PARE_UNROLL
        for (int v = 0; v < 8; v++) a[v] = _mm256_loadu_ps(yt + 8 * v);
        for (int k = 0; k < KEPT; k++) {
            const float *row = xt + (size_t)place[k] * CHUNK;
            __m256 w = _mm256_broadcast_ss(value + k);
            PARE_UNROLL
            for (int v = 0; v < 8; v++)
                a[v] = _mm256_fmadd_ps(w, _mm256_loadu_ps(row + 8 * v), a[v]);
        }
        PARE_UNROLL
        for (int v = 0; v < 8; v++) _mm256_storeu_ps(yt + 8 * v, a[v]);
    }
}

/* to[cols][ld_to] = from[rows][ld_from] */
static void transpose(float *to, size_t ld_to, const float *from, size_t ld_from, size_t rows,
                      size_t cols) {
    for (size_t r = 0; r < rows; r += 8)
        for (size_t c = 0; c < cols; c++)
            for (size_t i = r; i < r + 8; i++) to[c * ld_to + i] = from[i * ld_from + c];
}

static void sparse(pare_worker *w, void *arg) {
    const product *p = arg;
    float *yt = p->room + (size_t)w->id * (p->out + PIECE) * CHUNK, *xt = yt + p->out * CHUNK;
    size_t begin, end;
    pare_share(w, p->n / CHUNK, 1, &begin, &end);
    for (size_t c = begin; c < end; c++) {
        memset(yt, 0, p->out * CHUNK * sizeof *yt);
        for (size_t k = 0; k < p->in; k += PIECE) {
            size_t at = k / PIECE * p->out * KEPT;
            transpose(xt, CHUNK, p->x + c * CHUNK * p->in + k, p->in, CHUNK, PIECE);
            piece(yt, xt, p->value + at, p->place + at, p->out);
        }
        transpose(p->y_sparse + c * CHUNK * p->out, p->out, yt, CHUNK, p->out, CHUNK);
    }
}

static void fill(product *p) {
    for (size_t i = 0; i < p->n * p->in; i++) p->x[i] = pare_rng_normal(2, 0, i);
    memset(p->w, 0, p->out * p->in * sizeof *p->w);
    for (size_t o = 0; o < p->out; o++)
        for (size_t g = 0; g < p->in; g += 4) { /* any two of four */
            static const uint8_t pairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
            size_t i = o * p->in + g;
            const uint8_t *pair = pairs[(size_t)(6 * fabsf(pare_rng_normal(1, 1, i))) % 6];
            for (size_t k = 0; k < 2; k++) {
                float v = 0.02f * pare_rng_normal(1, 0, i + k);
                size_t at = (g / PIECE * p->out + o) * KEPT + g % PIECE / 2 + k;
                p->w[i + pair[k]] = p->value[at] = v;
                p->place[at] = (uint8_t)(g % PIECE + pair[k]);
            }
        }
}

static double seconds(product *p, void (*fn)(pare_worker *, void *)) {
    double begin = pare_now_s();
    pare_team_run(p->rt, fn, p);
    return pare_now_s() - begin;
}

static pare_status shape(product *p, size_t out, size_t in, pare_error *err) {
    size_t threads = (size_t)pare_runtime_threads(p->rt);
    size_t floats = out * in * 2 + p->n * (in + 2 * out) + threads * (out + PIECE) * CHUNK,
           bytes = pare_linear_scratch_bytes(p->n, in, (int)threads, PARE_COMPUTE_EXACT);
    p->out = out;
    p->in = in;
    p->w = pare_big_alloc(floats * sizeof *p->w);
    p->place = pare_big_alloc(out * in / 2);
    p->scratch = pare_big_alloc(bytes);
    if (!p->w || !p->place || !p->scratch) return pare_fail(err, PARE_ERR_NOMEM, "out of memory");
    p->value = p->w + out * in;
    p->x = p->value + out * in;
    p->y = p->x + p->n * in;
    p->y_sparse = p->y + p->n * out;
    p->room = p->y_sparse + p->n * out;
    fill(p);
    double best[2] = {INFINITY, INFINITY}, off = 0, flop = 2e-9 * (double)(p->n * out * in);
    for (int i = 0; i < ROUNDS; i++) {
        best[0] = fmin(best[0], seconds(p, dense));
        best[1] = fmin(best[1], seconds(p, sparse));
    }
    for (size_t i = 0; i < p->n * out; i++)
        off = fmax(off, fabs((double)p->y[i] - (double)p->y_sparse[i]));
    printf("%4zu x %-4zu  dense %7.2f ms %6.1f GFLOP/s   2:4 %7.2f ms (%6.1f)  %5.2f times   off "
           "by %.1e\n",
           out, in, 1e3 * best[0], flop / best[0], 1e3 * best[1], flop / 2 / best[1],
           best[0] / best[1], off);
    fflush(stdout);
    pare_big_free(p->w, floats * sizeof *p->w);
    pare_big_free(p->place, out * in / 2);
    pare_big_free(p->scratch, bytes);
    return PARE_OK;
}

int main(int argc, char **argv) {
    static const size_t shapes[][2] = {
        {256, 256}, {704, 256}, {256, 704}, {1536, 576}, {576, 1536}};
    pare_options options = pare_options_default();
    pare_error err = {0};
    product p = {.n = argc > 2 ? strtoul(argv[2], NULL, 10) / CHUNK * CHUNK : 2048};
    options.n_threads = argc > 1 ? atoi(argv[1]) : 0;
    pare_status st = pare_runtime_create(&p.rt, &options, &err);
    if (st == PARE_OK && pare_runtime_isa(p.rt) < PARE_ISA_AVX2)
        st = pare_fail(&err, PARE_ERR_UNSUPPORTED, "found no AVX2");
    if (st == PARE_OK)
        printf("%zu tokens, %d threads, y = x w^T, f32\n", p.n, pare_runtime_threads(p.rt));
    for (size_t i = 0; st == PARE_OK && i < sizeof shapes / sizeof *shapes; i++)
        st = shape(&p, shapes[i][0], shapes[i][1], &err);
    if (st != PARE_OK) fprintf(stderr, "bench_nm_product: %s\n", err.message);
    pare_runtime_free(p.rt);
    return st == PARE_OK ? 0 : 1;
}
#else
int main(void) {
    printf("bench_nm_product: for x86-64 only\n");
    return 0;
}
#endif
