/* Encoders and decoders, one thread: millions of weights per second, for plain C and for the best
 * level. `bench_encode [NAME...]` restricts the list. Encoding is also given in MB of f16 input per
 * second, the unit in which llama-quantize is usually measured. */
#include "base/memory.h"
#include "base/rng.h"
#include "tensor/encoding.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 8, COLS = 4096, ROUNDS = 5 };

/* CPU time: one thread works, so other programs disturb less than by the wall clock. */
static double cpu_s(void) { return (double)clock() / CLOCKS_PER_SEC; }

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v) {
    qsort(v, ROUNDS, sizeof *v, compare);
    return v[ROUNDS / 2];
}

/* Weights per second of one encoder; 0 when it cannot. */
static double encode_rate(pare_runtime *rt, const pare_encoding *e, const float *x,
                          const float *importance) {
    double rates[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        int n = 0;
        double begin = cpu_s(), took;
        do {
            pare_tensor t;
            if (pare_tensor_encode(rt, &t, e, x, ROWS, COLS, importance, NULL) != PARE_OK) return 0;
            pare_tensor_free(&t);
            n++;
            took = cpu_s() - begin;
        } while (took < 0.03);
        rates[r] = (double)n * ROWS * COLS / took;
    }
    return median(rates);
}

static double decode_rate(const pare_tensor *t, float *y, bool codes) {
    static int8_t q[COLS];
    static float scale[COLS], offset[COLS];
    double rates[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        int n = 0;
        double begin = cpu_s(), took;
        do {
            for (size_t row = 0; row < ROWS; row++) {
                if (codes)
                    t->enc->codes(q, scale, offset, &t->view, row, 0, COLS);
                else
                    t->enc->decode(y, &t->view, row, 0, COLS);
            }
            n++;
            took = cpu_s() - begin;
        } while (took < 0.01);
        rates[r] = (double)n * ROWS * COLS / took;
    }
    return median(rates);
}

static void bench(const pare_encoding *e, pare_runtime *ref, pare_runtime *best, float *x,
                  const float *importance) {
    pare_tensor t;
    if (strncmp(e->name, "nm", 2) == 0)
        for (size_t i = 0; i < ROWS * COLS; i++)
            if (i % 4 < 2) x[i] = 0.0f;
    if (pare_tensor_encode(best, &t, e, x, ROWS, COLS, NULL, NULL) != PARE_OK) return;
    float *y = pare_malloc(COLS, sizeof *y);
    double plain = encode_rate(ref, e, x, NULL), fast = encode_rate(best, e, x, NULL);
    double informed = encode_rate(best, e, x, importance);
    printf("%-12s %6.3f %9.1f %9.1f %9.1f %9.0f %9.0f %9.0f\n", e->name,
           8.0 * (double)pare_tensor_bytes(&t) / (ROWS * COLS), plain / 1e6, fast / 1e6,
           informed / 1e6, 2.0 * fast / 1e6, decode_rate(&t, y, false) / 1e6,
           e->codes ? decode_rate(&t, y, true) / 1e6 : 0.0);
    pare_free(y);
    pare_tensor_free(&t);
}

int main(int argc, char **argv) {
    pare_options o = pare_options_default();
    pare_runtime *ref = NULL, *best = NULL;
    o.n_threads = 1;
    if (pare_runtime_create(&best, &o, NULL) != PARE_OK) return 1;
    o.isa = PARE_ISA_REF;
    if (pare_runtime_create(&ref, &o, NULL) != PARE_OK) return 1;
    float *x = pare_malloc(ROWS * COLS, sizeof *x), *importance = pare_malloc(COLS, sizeof *x);
    if (!x || !importance) return 1;
    for (size_t i = 0; i < COLS; i++) importance[i] = 0.5f + pare_rng_uniform(2, 0, i);
    printf("# %s, %s, one thread; millions of weights a second\n", pare_cpu_name(),
           pare_isa_name(pare_runtime_isa(best)));
    printf("%-12s %6s %9s %9s %9s %9s %9s %9s\n", "encoding", "bpw", "enc ref", "enc fast",
           "enc imp", "f16 MB/s", "decode", "codes");
    for (size_t i = 0; pare_encoding_at(i); i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted |= strcmp(argv[a], pare_encoding_name(pare_encoding_at(i))) == 0;
        for (size_t k = 0; k < ROWS * COLS; k++) x[k] = 0.02f * pare_rng_normal(1, 0, k);
        if (wanted) bench(pare_encoding_at(i), ref, best, x, importance);
    }
    pare_free(x);
    pare_free(importance);
    pare_runtime_free(ref);
    pare_runtime_free(best);
    return 0;
}
