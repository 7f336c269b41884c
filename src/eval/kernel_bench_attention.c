/* Attention over a cache in every codec, and the codecs themselves. Keys and values of many layers
 * fill memory, so that each call reads those of another layer, as in a model. */
#include "eval/kernel_bench.h"

#include "base/memory.h"
#include "base/runtime.h"

#include <math.h>
#include <string.h>

typedef struct attention_bench {
    const pare_kernel_bench *b;
    const pare_kv_codec *codec;
    const pare_kv_functions *functions;
    pare_attn attn;
    size_t row_bytes, layer_bytes, n_layers, n_blocks;
    pare_kv_layer *layers; /* [n_layers] */
    uint8_t **blocks;      /* [n_blocks], each with all layers, in one piece */
    float *q, *out;        /* [max_rows][n_heads * head_dim] */
    float *tiles;          /* [threads][PARE_ATTN_KEYS][head_dim] */
    size_t n_q, n_tiles, scratch_bytes;
    void *scratch;
    double read_limit;
} attention_bench;

/* --- the cache --- */

/* Random rows, stored once and repeated. */
static void fill_rows(const attention_bench *a, uint8_t *rows, size_t n) {
    enum { DIFFERENT = 512 };
    size_t dim = a->b->o->head_dim;
    for (size_t r = 0; r < n && r < DIFFERENT; r++)
        a->functions->store(rows + r * a->row_bytes, a->q + r % a->b->o->n_heads * dim, dim);
    for (size_t r = DIFFERENT; r < n; r += DIFFERENT) {
        size_t count = n - r < DIFFERENT ? n - r : DIFFERENT;
        memcpy(rows + r * a->row_bytes, rows, count * a->row_bytes);
    }
}

static pare_status make_cache(attention_bench *a, pare_error *err) {
    const pare_kernel_bench_options *o = a->b->o;
    size_t keys = PARE_ATTN_KEYS * o->n_kv_heads * a->row_bytes; /* of a block and layer */
    a->n_blocks = (o->ctx + PARE_ATTN_KEYS - 1) / PARE_ATTN_KEYS;
    a->layer_bytes = 2 * keys * a->n_blocks;
    a->n_layers = pare_kernel_copies(a->b, a->layer_bytes);
    a->blocks = pare_calloc(a->n_blocks, sizeof *a->blocks);
    a->layers = pare_calloc(a->n_layers, sizeof *a->layers);
    uint8_t *rows = pare_big_alloc(a->n_layers * a->layer_bytes);
    if (!a->blocks || !a->layers || !rows) {
        pare_big_free(rows, a->n_layers * a->layer_bytes);
        return pare_fail(err, PARE_ERR_NOMEM, "bench: found no memory for %zu positions of %s",
                         o->ctx, a->codec->name);
    }
    fill_rows(a, rows, a->n_layers * a->layer_bytes / a->row_bytes);
    for (size_t i = 0; i < a->n_blocks; i++) a->blocks[i] = rows + i * 2 * keys * a->n_layers;
    for (size_t i = 0; i < a->n_layers; i++)
        a->layers[i] = (pare_kv_layer){.codec = a->codec,
                                       .blocks = a->blocks,
                                       .k_at = 2 * i * keys,
                                       .v_at = (2 * i + 1) * keys,
                                       .n_kv_heads = o->n_kv_heads,
                                       .head_dim = o->head_dim,
                                       .head_stride = PARE_ATTN_KEYS * a->row_bytes,
                                       .row_stride = a->row_bytes};
    return PARE_OK;
}

static void free_cache(attention_bench *a) {
    if (a->blocks && a->layers) pare_big_free(a->blocks[0], a->n_layers * a->layer_bytes);
    pare_free(a->blocks);
    pare_free(a->layers);
    a->blocks = NULL;
    a->layers = NULL;
}

/* --- calls --- */

typedef struct attention_call {
    const attention_bench *a;
    size_t rows;
    pare_attn attn;
} attention_call;

static void run_attention(pare_worker *w, void *arg, size_t i) {
    const attention_call *c = arg;
    const attention_bench *a = c->a;
    const pare_kernel_bench_options *o = a->b->o;
    pare_attn_span span = {.layers = a->layers, .n = c->rows, .pos0 = o->ctx - c->rows};
    size_t width = o->n_heads * o->head_dim;
    pare_attention(w, pare_runtime_isa(a->b->rt), a->scratch, a->out, width, a->q, width, &span, 1,
                   i % a->n_layers, &c->attn);
}

/* As `fast` computes few tokens with a codec of codes and scales. */
static void run_attention_fast(pare_worker *w, void *arg, size_t i) { run_attention(w, arg, i); }

/* The same head's values for all positions: what is measured is the way into memory. */
static void run_store(pare_worker *w, void *arg, size_t i) {
    const attention_call *c = arg;
    const attention_bench *a = c->a;
    pare_attn_span span = {.layers = a->layers, .n = c->rows};
    pare_fwd f = pare_kernel_fwd(w, pare_runtime_isa(a->b->rt));
    pare_op_kv_store(&f, &span, i % a->n_layers, a->q, 0, a->q, 0, c->rows);
}

static void run_load(pare_worker *w, void *arg, size_t i) {
    const attention_call *c = arg;
    const attention_bench *a = c->a;
    const pare_kernel_bench_options *o = a->b->o;
    const pare_kv_layer *layer = &a->layers[i % a->n_layers];
    float *tile = a->tiles + (size_t)w->id * PARE_ATTN_KEYS * o->head_dim;
    size_t begin, end;
    pare_share(w, a->n_blocks * o->n_kv_heads, 1, &begin, &end);
    for (size_t k = begin; k < end; k++) {
        size_t pos = k / o->n_kv_heads * PARE_ATTN_KEYS, g = k % o->n_kv_heads;
        size_t n = o->ctx - pos < PARE_ATTN_KEYS ? o->ctx - pos : PARE_ATTN_KEYS;
        for (int value = 0; value < 2; value++)
            a->functions->load(tile, o->head_dim, pare_kv_row(layer, value, g, pos), a->row_bytes,
                               n, o->head_dim);
    }
    pare_barrier(w);
}

/* --- all of it --- */

static pare_status measure(const attention_bench *a, const char *kernel, pare_kernel_fn fn,
                           pare_kernel_row row, pare_error *err) {
    const pare_kernel_bench *b = a->b;
    attention_call c = {.a = a, .rows = row.rows, .attn = a->attn};
    if (!pare_kernel_wanted(b, kernel)) return PARE_OK;
    c.attn.integers = c.attn.bf16 = fn == run_attention_fast;
    row.kernel = kernel;
    row.encoding = a->codec->name;
    row.rms_error = NAN;
    row.read_limit = a->read_limit;
    PARE_TRY(pare_kernel_team_time(&row.seconds, b, fn, &c, err));
    b->o->on_row(b->o->arg, &row);
    return PARE_OK;
}

static pare_status measure_codec(attention_bench *a, pare_error *err) {
    const pare_kernel_bench_options *o = a->b->o;
    bool pays = a->functions->key_codes && o->n_heads / o->n_kv_heads >= a->codec->integer_heads;
    double kept = 2.0 * (double)o->n_kv_heads * (double)a->row_bytes; /* bytes of a position */
    PARE_TRY(pare_kernel_read_limit(&a->read_limit, a->b, a->layer_bytes, err));
    for (size_t i = 0; i < o->n_rows; i++) {
        size_t n = o->rows[i];
        if (n > o->ctx) continue;
        double seen = (double)n * (double)(o->ctx - n) + (double)n * ((double)n + 1) / 2;
        pare_kernel_row row = {.rows = n,
                               .bytes = kept * (double)o->ctx,
                               .ops = 4 * seen * (double)(o->n_heads * o->head_dim),
                               .op_limit = a->b->limits.f32_flop_per_s,
                               .products = "f32"};
        PARE_TRY(measure(a, "attention", run_attention, row, err));
        if (n > PARE_ATTN_FEW || !pays) continue;
        row.op_limit = a->b->limits.int8_op_per_s;
        row.products = "int8";
        PARE_TRY(measure(a, "attention_fast", run_attention_fast, row, err));
    }
    pare_kernel_row all = {.rows = o->ctx, .bytes = kept * (double)o->ctx};
    PARE_TRY(measure(a, "kv_store", run_store, all, err));
    return measure(a, "kv_load", run_load, all, err);
}

static pare_status measure_codecs(attention_bench *a, pare_error *err) {
    const pare_kernel_bench *b = a->b;
    size_t n = 0;
    while (pare_kv_codec_at(n)) n++;
    for (size_t i = 0; i < n; i++) {
        pare_progress(b->rt, "attention", (double)i, (double)n, "codecs");
        a->codec = pare_kv_codec_at(i);
        a->functions = pare_kv_codec_functions(a->codec, pare_runtime_isa(b->rt));
        a->row_bytes = pare_kv_row_bytes(a->codec, b->o->head_dim);
        if (!a->row_bytes) {
            pare_warn(b->rt, "bench: %s: %zu values a head are no multiple of its blocks: left out",
                      a->codec->name, b->o->head_dim);
            continue;
        }
        pare_status st = make_cache(a, err);
        if (st == PARE_OK) st = measure_codec(a, err);
        free_cache(a);
        if (st != PARE_OK) return st;
    }
    pare_progress(b->rt, "attention", (double)n, (double)n, "codecs");
    return PARE_OK;
}

pare_status pare_kernel_bench_attention(const pare_kernel_bench *b, pare_error *err) {
    const pare_kernel_bench_options *o = b->o;
    if (!pare_kernel_wanted(b, "attention") && !pare_kernel_wanted(b, "attention_fast") &&
        !pare_kernel_wanted(b, "kv_store") && !pare_kernel_wanted(b, "kv_load"))
        return PARE_OK;
    size_t threads = (size_t)pare_runtime_threads(b->rt);
    attention_bench a = {.b = b};
    a.attn = (pare_attn){.n_heads = o->n_heads, .scale = 1 / sqrtf((float)o->head_dim)};
    a.n_q = b->max_rows * o->n_heads * o->head_dim;
    a.n_tiles = threads * PARE_ATTN_KEYS * o->head_dim;
    a.scratch_bytes = pare_attention_scratch_bytes(o->head_dim, o->n_kv_heads, &a.attn, b->max_rows,
                                                   (int)threads);
    a.q = pare_big_alloc(a.n_q * sizeof(float));
    a.out = pare_big_alloc(a.n_q * sizeof(float));
    a.tiles = pare_big_alloc(a.n_tiles * sizeof(float));
    a.scratch = pare_big_alloc(a.scratch_bytes);
    pare_status st = PARE_OK;
    if (!a.q || !a.out || !a.tiles || !a.scratch || !a.scratch_bytes)
        st = pare_fail(err, PARE_ERR_NOMEM, "bench: found no memory for attention of %zu rows",
                       b->max_rows);
    if (st == PARE_OK) pare_kernel_normals(b, a.q, a.n_q, 1, 0);
    if (st == PARE_OK) st = measure_codecs(&a, err);
    pare_big_free(a.q, a.n_q * sizeof(float));
    pare_big_free(a.out, a.n_q * sizeof(float));
    pare_big_free(a.tiles, a.n_tiles * sizeof(float));
    pare_big_free(a.scratch, a.scratch_bytes);
    return st;
}
