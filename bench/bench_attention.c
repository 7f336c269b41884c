/* Attention: decoding against the rate of reading memory, prefill against the rate of fused
 * multiply-adds, both measured in the same run.
 *
 *     bench_attention [THREADS]
 *
 * Decode steps go round over as many layers as fill MEMORY bytes, so that every step reads its keys
 * and values from memory, as in a model. A prefill's operations are 4 * head_dim per query, head
 * and visible key. Medians of ROUNDS. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "pare/bench.h"

enum { ROUNDS = 9, MEMORY = 192 << 20 };

typedef struct shape {
    const char *name;
    size_t n_heads, n_kv_heads, head_dim;
} shape;

static const shape shapes[] = {
    {"9/3 x 64", 9, 3, 64}, {"32/8 x 128", 32, 8, 128}, {"4/1 x 256", 4, 1, 256}};
static const char *const codecs[] = {"f32", "f16", "bf16", "q8_0"};

typedef struct job {
    pare_isa isa;
    pare_kv_layer *layers;
    size_t n_layers, steps, n, pos0;
    pare_attn a;
    float *q, *out;
    void *scratch;
} job;

static void run(pare_worker *w, void *arg) {
    const job *j = arg;
    size_t width = j->a.n_heads * j->layers[0].head_dim;
    for (size_t i = 0; i < j->steps; i++)
        pare_attention(w, j->isa, j->scratch, j->out, width, j->q, width,
                       &(pare_attn_span){j->layers, j->n, j->pos0}, 1, i % j->n_layers, &j->a);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of one call. */
static double measure(pare_runtime *rt, const job *j) {
    double s[ROUNDS];
    pare_team_run(rt, run, (void *)(uintptr_t)j);
    for (int i = 0; i < ROUNDS; i++) {
        double begin = pare_now_s();
        pare_team_run(rt, run, (void *)(uintptr_t)j);
        s[i] = (pare_now_s() - begin) / (double)j->steps;
    }
    qsort(s, ROUNDS, sizeof *s, by_value);
    return s[ROUNDS / 2];
}

/* Layers of `positions` stored random rows in blocks as of a cache, n_layers of them in one piece;
 * free_layers. */
static pare_kv_layer *make_layers(const shape *s, const char *codec_name, size_t positions,
                                  size_t n_layers) {
    const pare_kv_codec *codec = pare_kv_codec_find(codec_name);
    const pare_kv_functions *f = pare_kv_codec_functions(codec, pare_isa_best());
    size_t row = pare_kv_row_bytes(codec, s->head_dim), keys = PARE_ATTN_KEYS * s->n_kv_heads * row;
    size_t n_blocks = (positions + PARE_ATTN_KEYS - 1) / PARE_ATTN_KEYS;
    uint8_t *rows = pare_big_alloc(2 * keys * n_layers * n_blocks);
    uint8_t **blocks = calloc(n_blocks, sizeof *blocks);
    pare_kv_layer *layers = calloc(n_layers, sizeof *layers);
    float x[1024];
    for (size_t d = 0; d < 1024; d++) x[d] = pare_rng_normal(1, 1, d);
    for (size_t r = 0; r < 2 * keys / row * n_layers * n_blocks; r++)
        f->store(rows + r * row, x + r % 512, s->head_dim);
    for (size_t i = 0; i < n_blocks; i++) blocks[i] = rows + i * 2 * keys * n_layers;
    for (size_t i = 0; i < n_layers; i++)
        layers[i] = (pare_kv_layer){.codec = codec,
                                    .blocks = blocks,
                                    .k_at = 2 * i * keys,
                                    .v_at = (2 * i + 1) * keys,
                                    .n_kv_heads = s->n_kv_heads,
                                    .head_dim = s->head_dim,
                                    .head_stride = PARE_ATTN_KEYS * row,
                                    .row_stride = row};
    return layers;
}

static void free_layers(pare_kv_layer *layers, size_t n_layers, size_t positions) {
    size_t n_blocks = (positions + PARE_ATTN_KEYS - 1) / PARE_ATTN_KEYS;
    size_t keys = layers[0].head_stride * layers[0].n_kv_heads;
    pare_big_free(layers[0].blocks[0], 2 * keys * n_layers * n_blocks);
    free((void *)(uintptr_t)layers[0].blocks);
    free(layers);
}

static job make_job(pare_runtime *rt, const shape *s, size_t n, size_t pos0) {
    job j = {.isa = pare_runtime_isa(rt), .n = n, .pos0 = pos0};
    j.a = (pare_attn){.n_heads = s->n_heads, .scale = 0.1f};
    size_t count = n * s->n_heads * s->head_dim;
    j.q = aligned_alloc(64, count * sizeof *j.q);
    j.out = aligned_alloc(64, count * sizeof *j.out);
    for (size_t i = 0; i < count; i++) j.q[i] = pare_rng_normal(1, 2, i);
    return j;
}

static void finish(job *j) {
    free_layers(j->layers, j->n_layers, j->pos0 + j->n);
    free(j->q);
    free(j->out);
    free(j->scratch);
}

static void decode(pare_runtime *rt, const shape *s, const char *codec, size_t depth, size_t n,
                   double limit) {
    job j = make_job(rt, s, n, depth - n);
    size_t bytes =
        2 * depth * s->n_kv_heads * pare_kv_row_bytes(pare_kv_codec_find(codec), s->head_dim);
    j.n_layers = MEMORY / bytes ? MEMORY / bytes : 1;
    j.steps = j.n_layers < 512 ? j.n_layers : 512;
    j.layers = make_layers(s, codec, depth, j.n_layers);
    j.scratch = aligned_alloc(64, pare_attention_scratch_bytes(s->head_dim, s->n_kv_heads, &j.a, n,
                                                               pare_runtime_threads(rt)));
    double t = measure(rt, &j), rate = (double)bytes / t;
    printf("decode   %-11s %-5s n %zu  depth %6zu  %9.1f us  %6.2f GB/s  %3.0f %% of reading\n",
           s->name, codec, n, depth, t * 1e6, rate / 1e9, 100 * rate / limit);
    finish(&j);
}

static void prefill(pare_runtime *rt, const shape *s, const char *codec, size_t n, size_t pos0,
                    double limit) {
    job j = make_job(rt, s, n, pos0);
    j.n_layers = 1;
    j.steps = 1;
    j.layers = make_layers(s, codec, n + pos0, 1);
    j.scratch = aligned_alloc(64, pare_attention_scratch_bytes(s->head_dim, s->n_kv_heads, &j.a, n,
                                                               pare_runtime_threads(rt)));
    double keys = (double)n * (double)pos0 + (double)n * ((double)n + 1) / 2;
    double t = measure(rt, &j), rate = 4 * keys * (double)(s->n_heads * s->head_dim) / t;
    printf(
        "prefill  %-11s %-5s n %zu at %5zu  %9.1f us  %6.1f GFLOP/s  %3.0f %% of multiply-adds\n",
        s->name, codec, n, pos0, t * 1e6, rate / 1e9, 100 * rate / limit);
    finish(&j);
}

int main(int argc, char **argv) {
    pare_error err = {0};
    pare_options o = pare_options_default();
    if (argc > 1) o.n_threads = atoi(argv[1]);
    pare_runtime *rt = NULL;
    pare_limits limits;
    if (pare_runtime_create(&rt, &o, &err) != PARE_OK ||
        pare_limits_measure(&limits, rt, &err) != PARE_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("%s, %d threads, %s: reads %.1f GB/s, f32 %.1f GFLOP/s\n", pare_cpu_name(),
           pare_runtime_threads(rt), pare_isa_name(pare_runtime_isa(rt)),
           limits.dram_read_bytes_per_s / 1e9, limits.f32_flop_per_s / 1e9);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (size_t depth = 512; depth <= 32768; depth *= 4)
            decode(rt, &shapes[i], "f16", depth, 1, limits.dram_read_bytes_per_s);
        for (size_t c = 0; c < 4; c++)
            decode(rt, &shapes[i], codecs[c], 4096, 1, limits.dram_read_bytes_per_s);
        decode(rt, &shapes[i], "f16", 4096, 8, limits.dram_read_bytes_per_s);
        prefill(rt, &shapes[i], "f16", 512, 0, limits.f32_flop_per_s);
        prefill(rt, &shapes[i], "f16", 512, 3584, limits.f32_flop_per_s);
    }
    pare_runtime_free(rt);
    return 0;
}
