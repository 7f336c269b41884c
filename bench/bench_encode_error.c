/* Error and size of the encodings: relative RMS error against bits per weight, on normal values and
 * on the matrices of a GGUF file (whose own encoding should be a fine one: F16, BF16, Q8_0).
 *
 *     bench_encode_error                    normal values, widths 576 and 640
 *     bench_encode_error MODEL.gguf TEXT    the matrices whose name holds TEXT, each by itself,
 *                                           summed up over all
 */
#include "base/memory.h"
#include "base/rng.h"
#include "io/gguf.h"
#include "tensor/encoding.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_ENCODINGS = 64 };

typedef struct total {
    double error, bits, weights;
    int n; /* matrices */
} total;

static double rms_error(const float *y, const float *x, size_t n) {
    double error = 0.0, power = 0.0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        power += (double)x[i] * x[i];
    }
    return power > 0.0 ? sqrt(error / power) : 0.0;
}

/* Adds one matrix to the totals of each dense encoding. */
static void measure(pare_runtime *rt, const float *x, size_t rows, size_t cols, total *totals) {
    float *y = pare_malloc(rows * cols, sizeof *y);
    for (size_t i = 0; y && pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        pare_tensor t;
        if (!e->encode_row || cols % e->block_len) continue;
        if (pare_tensor_encode(rt, &t, e, x, rows, cols, NULL, NULL) != PARE_OK) continue;
        pare_tensor_decode(rt, y, &t);
        totals[i].error += rms_error(y, x, rows * cols);
        totals[i].bits += 8.0 * (double)pare_tensor_bytes(&t);
        totals[i].weights += (double)rows * (double)cols;
        totals[i].n++;
        pare_tensor_free(&t);
    }
    pare_free(y);
}

static void print(const total *totals) {
    for (size_t i = 0; pare_encoding_at(i); i++)
        if (totals[i].n)
            printf("%-12s %7.3f bits per weight, relative RMS error %8.5f, %d matrices\n",
                   pare_encoding_name(pare_encoding_at(i)), totals[i].bits / totals[i].weights,
                   totals[i].error / totals[i].n, totals[i].n);
}

static void normal_values(pare_runtime *rt, size_t rows, size_t cols) {
    total totals[MAX_ENCODINGS] = {0};
    float *x = pare_malloc(rows * cols, sizeof *x);
    for (size_t i = 0; x && i < rows * cols; i++) x[i] = 0.02f * pare_rng_normal(1, 0, i);
    printf("# normal values, %zu x %zu\n", rows, cols);
    if (x) measure(rt, x, rows, cols, totals);
    print(totals);
    pare_free(x);
}

static pare_status matrix(pare_runtime *rt, pare_gguf *g, const pare_gguf_tensor *t, total *totals,
                          pare_error *err) {
    const pare_encoding *e = pare_encoding_from_ggml((int)t->type);
    size_t cols = t->ne[0], rows = t->ne[1] < 8192 ? t->ne[1] : 8192;
    if (!e || pare_encoding_bits_per_weight(e) < 8.0) return PARE_OK; /* coarse already */
    size_t bytes = rows * pare_encoding_row_bytes(e, cols);
    void *data = pare_big_alloc(bytes + 64);
    float *x = pare_malloc(rows * cols, sizeof *x);
    pare_status st = data && x ? PARE_OK : PARE_ERR_NOMEM;
    if (st == PARE_OK)
        st = pare_file_read_at(pare_gguf_file(g, t->file), data, bytes, t->offset, err);
    if (st == PARE_OK) {
        pare_tensor stored = pare_tensor_wrap(e, data, rows, cols);
        pare_tensor_decode(rt, x, &stored);
        measure(rt, x, rows, cols, totals);
        printf("# %s, %zu x %zu, stored as %s\n", t->name, rows, cols, pare_encoding_name(e));
    }
    pare_big_free(data, bytes + 64);
    pare_free(x);
    return st;
}

int main(int argc, char **argv) {
    pare_options o = pare_options_default();
    pare_runtime *rt = NULL;
    pare_gguf *g = NULL;
    pare_error err = {0};
    if (pare_runtime_create(&rt, &o, &err) != PARE_OK) return 1;
    if (argc < 3) {
        normal_values(rt, 1024, 576);
        normal_values(rt, 1024, 640);
        normal_values(rt, 1024, 768);
    } else if (pare_gguf_open(&g, argv[1], &err) == PARE_OK) {
        total totals[MAX_ENCODINGS] = {0};
        for (size_t i = 0; i < pare_gguf_n_tensors(g) && !err.status; i++) {
            const pare_gguf_tensor *t = pare_gguf_tensor_at(g, i);
            if (t->n_dims == 2 && strstr(t->name, argv[2])) matrix(rt, g, t, totals, &err);
        }
        print(totals);
    }
    if (err.status) fprintf(stderr, "%s\n", err.message);
    pare_gguf_close(g);
    pare_runtime_free(rt);
    return err.status ? 1 : 0;
}
