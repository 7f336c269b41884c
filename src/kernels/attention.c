#include "kernels/attention.h"

#include "base/memory.h"
#include "kernels/op_kernels.h"
#include "kernels/tile.h"
#include "kernels/unpack.h"

#include <math.h>
#include <string.h>

enum {
    KEYS = PARE_ATTN_KEYS,
    NR = PARE_ATTN_NR,
    MAX_RANGES = 32,   /* most pieces that a context is cut into for few tokens */
    RANGE_MIN = 256,   /* fewest positions of a piece */
    IN_PLACE_ROWS = 8, /* most rows (tokens x heads) that read the cache without a decoded tile */
    CHUNK = PARE_KV_CHUNK
};

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static size_t divide_up(size_t n, size_t by) { return (n + by - 1) / by; }

/* Most rows (queries x heads) of a tile: many, to decode and pack a block rarely, but such that a
 * tile's floats stay in a level-2 cache of 512 KiB. */
static size_t tile_rows(size_t head_dim) { return head_dim <= 128 ? 192 : 96; }

/* The constants of a call, the same on every thread. */
typedef struct attn_job {
    const pare_attn_kernels *k;
    const pare_kv_functions *codec;
    const pare_kv_layer *kv;
    const pare_attn *a;
    const float *q;
    float *out;
    size_t ldq, ldo, n, pos0;
    size_t group;  /* query heads per kv head */
    size_t dim_up; /* head_dim rounded up to a panel */
    size_t tile_rows;
    bool integers;                     /* block_in_integers for few tokens */
    const pare_tile_kernels *bf16;     /* products of bf16 for many tokens; NULL = f32 */
    const pare_unpack_kernels *unpack; /* with bf16 */
    pare_isa isa;
    const pare_attn_prefix *prefix; /* of n > 0 keys, or NULL */
    size_t layer;
} attn_job;

/* The same queries, to whom the prefix's keys are positions 0 and on. */
static attn_job job_on_prefix(const attn_job *job) {
    attn_job front = *job;
    front.kv = &job->prefix->layers[job->layer];
    front.codec = pare_kv_codec_functions(front.kv->codec, job->isa);
    front.pos0 += job->prefix->n;
    front.integers = false;
    return front;
}

/* One thread's buffers. */
typedef struct attn_space {
    float *q;         /* [tile_rows][head_dim], scaled */
    float *o;         /* [tile_rows][dim_up] */
    float *s;         /* [tile_rows][KEYS] */
    float *max, *sum; /* [tile_rows] */
    float *tile;      /* [KEYS][dim_up] decoded rows */
    float *k, *v;     /* packed: [KEYS / NR][head_dim][NR], [dim_up / NR][KEYS][NR] */
    /* products of integers: queries and weights of the softmax, rounded, and their scales; codes
     * and scales of a block's keys or values */
    int16_t *q_int, *p_int;   /* [tile_rows][head_dim], [tile_rows][KEYS]; or the same as bf16 */
    float *q_scale, *p_scale; /* [tile_rows] */
    int16_t *codes;           /* of 16 keys [16][dim_up], or 32 columns of values [KEYS][CHUNK] */
    float *scales;            /* [head_dim / CHUNK][16] or [KEYS] */
} attn_space;

static size_t code_floats(size_t dim_up) {
    size_t keys = NR * dim_up, values = KEYS * CHUNK;
    return (keys > values ? keys : values) / 2;
}

/* Floats of one thread's buffers; every part is a multiple of 16 floats. */
static size_t space_floats(size_t head_dim) {
    size_t up = round_up(head_dim, NR);
    return tile_rows(head_dim) * (2 * up + KEYS + 2) + 3 * KEYS * up +
           tile_rows(head_dim) * (up / 2 + KEYS / 2 + 2) + code_floats(up) + KEYS +
           divide_up(head_dim, CHUNK) * NR;
}

static attn_space space_at(float *p, size_t head_dim) {
    size_t up = round_up(head_dim, NR), rows = tile_rows(head_dim);
    attn_space s;
    s.q = p, p += rows * up;
    s.o = p, p += rows * up;
    s.s = p, p += rows * KEYS;
    s.max = p, p += rows;
    s.sum = p, p += rows;
    s.tile = p, p += KEYS * up;
    s.k = p, p += KEYS * up;
    s.v = p, p += KEYS * up;
    s.q_int = (void *)p, p += rows * up / 2;
    s.p_int = (void *)p, p += rows * KEYS / 2;
    s.q_scale = p, p += rows;
    s.p_scale = p, p += rows;
    s.codes = (void *)p, p += code_floats(up);
    s.scales = p;
    return s;
}

/* Floats of one partial result: o[dim_up], then max and sum (padded to a cache line). */
static size_t partial_floats(size_t head_dim) { return round_up(head_dim, NR) + NR; }

/* Most rows of a part of a span of few tokens. */
static size_t own_rows(size_t group, size_t head_dim) {
    size_t most = tile_rows(head_dim);
    return group < most / PARE_ATTN_FEW ? group * PARE_ATTN_FEW : most;
}

/* Floats of the partial results of `rows` rows. */
static bool partials_floats(size_t *floats, size_t rows, size_t head_dim) {
    return pare_mul_size(floats, rows, MAX_RANGES * partial_floats(head_dim));
}

size_t pare_attention_scratch_bytes(size_t head_dim, size_t n_kv_heads, const pare_attn *a,
                                    size_t n, int n_threads) {
    /* head_dim is bounded by the callers (a cache row exists); heads and threads come from files
     * and users. */
    size_t few = n < PARE_ATTN_FEW ? n : PARE_ATTN_FEW, threads = (size_t)n_threads;
    size_t rows, own, partials, spaces, total;
    if (!pare_mul_size(&rows, few, a->n_heads) ||
        !pare_mul_size(&own, own_rows(a->n_heads / n_kv_heads, head_dim), threads) ||
        !partials_floats(&partials, rows > own ? rows : own, head_dim) ||
        !pare_mul_size(&spaces, threads, space_floats(head_dim)) ||
        !pare_add_size(&total, partials, spaces) || !pare_mul_size(&total, total, sizeof(float)))
        return 0;
    return total;
}

/* The first key that a query at position pos sees. */
static size_t first_key(const attn_job *job, size_t pos) {
    size_t w = job->a->window;
    return w && pos + 1 > w ? pos + 1 - w : 0;
}

/* Decodes keys (or values) [lo, hi) of the block at `block` into tile[KEYS][dim_up]. Other rows
 * become zero, so that a masked weight of 0 meets a finite number; columns past head_dim are zero
 * from the start. */
static void load_block(const attn_job *job, bool value, size_t g, size_t block, size_t lo,
                       size_t hi, float *tile) {
    const pare_kv_layer *kv = job->kv;
    const uint8_t *rows = pare_kv_row(kv, value, g, lo);
    size_t skip = lo - block, n = hi - lo, up = job->dim_up;
    if (skip) memset(tile, 0, skip * up * sizeof *tile);
    job->codec->load(tile + skip * up, up, rows, kv->row_stride, n, kv->head_dim);
    if (skip + n < KEYS) memset(tile + (skip + n) * up, 0, (KEYS - skip - n) * up * sizeof *tile);
}

/* Copies the rows of queries [q0, q0 + n_q) and heads [h0, h0 + n_h), times the scale. Row r is
 * query r / n_h, head r % n_h. */
static void gather_queries(const attn_job *job, attn_space *s, size_t q0, size_t n_q, size_t h0,
                           size_t n_h) {
    size_t dim = job->kv->head_dim;
    for (size_t r = 0; r < n_q * n_h; r++) {
        const float *q = job->q + (q0 + r / n_h) * job->ldq + (h0 + r % n_h) * dim;
        memcpy(s->q + r * dim, q, dim * sizeof *q);
        job->k->scale(s->q + r * dim, job->a->scale, dim);
        memset(s->o + r * job->dim_up, 0, job->dim_up * sizeof *s->o);
        s->max[r] = -INFINITY;
        s->sum[r] = 0.0f;
    }
}

/* The rows [*begin, *end) of queries [q0, q0 + n_q) that see any key of [lo, hi): the others come
 * before it, or are past their window. */
static void rows_that_see(const attn_job *job, size_t q0, size_t n_q, size_t n_h, size_t lo,
                          size_t hi, size_t *begin, size_t *end) {
    size_t pos = job->pos0 + q0, w = job->a->window;
    *begin = (lo > pos ? lo - pos : 0) * n_h;
    *end = n_q * n_h;
    if (w && hi - 1 < SIZE_MAX - w && hi - 1 + w < pos + n_q) *end = (hi - 1 + w - pos) * n_h;
}

/* Softmax steps of rows [begin, end) over the block of keys [lo, hi), scores in s->s. */
static void step_rows(const attn_job *job, attn_space *s, size_t q0, size_t n_h, size_t begin,
                      size_t end, size_t block, size_t lo, size_t hi) {
    for (size_t r = begin; r < end; r++) {
        size_t pos = job->pos0 + q0 + r / n_h, from = first_key(job, pos), to = pos + 1;
        from = from > lo ? from : lo;
        to = to < hi ? to : hi;
        float *row = s->s + r * KEYS;
        float factor = job->k->softmax_step(row, from - block, to - block, job->a->softcap,
                                            &s->max[r], &s->sum[r]);
        if (factor != 1.0f) job->k->scale(s->o + r * job->dim_up, factor, job->dim_up);
    }
}

static void write_row(const attn_job *job, float *out, const float *o, float sum) {
    memcpy(out, o, job->kv->head_dim * sizeof *out);
    if (sum != 0.0f) /* 0: every key had score -Inf; the result is 0 */
        job->k->scale(out, 1.0f / sum, job->kv->head_dim);
}

static bool is_many(const attn_job *job, size_t n) { return n > PARE_ATTN_FEW || job->a->many; }

/* ---- many tokens: tiles of queries ---- */

static void round_to_bf16(const attn_job *job, void *to, const float *x, size_t n) {
    uint16_t *part = to;
    job->bf16->split(&part, 1, x, n);
}

/* Scores of rows [begin, end) with the keys in s->tile, by panels of 16 keys: [dim / 2][16][2]. */
static void scores_in_bf16(const attn_job *job, attn_space *s, size_t begin, size_t end) {
    size_t dim = job->kv->head_dim; /* no padding: a multiple of 32 */
    const uint16_t *q = (const uint16_t *)s->q_int + begin * dim;
    round_to_bf16(job, s->v, s->tile, KEYS * dim);
    for (size_t j = 0; j < KEYS; j += NR) {
        uint32_t *panel = (uint32_t *)s->k + j * dim / 2;
        job->bf16->transpose(panel, (const uint32_t *)s->v + j * dim / 2, dim / 2, dim / 2);
        job->bf16->bf16(s->s + begin * KEYS + j, KEYS, q, dim, (const uint16_t *)panel, end - begin,
                        dim, false);
    }
}

/* Their weights times the values, which are packed in s->v, added up. */
static void values_in_bf16(const attn_job *job, attn_space *s, size_t begin, size_t end) {
    size_t dim = job->kv->head_dim;
    round_to_bf16(job, s->p_int, s->s + begin * KEYS, (end - begin) * KEYS);
    round_to_bf16(job, s->k, s->v, KEYS * dim);
    for (size_t d = 0; d < dim; d += NR) {
        uint32_t *pairs = (uint32_t *)s->tile; /* [KEYS / 2][16][2] */
        job->unpack->pair_panel(pairs, (const uint16_t *)s->k + d * KEYS, KEYS);
        job->bf16->bf16(s->o + begin * dim + d, dim, (const uint16_t *)s->p_int, KEYS,
                        (const uint16_t *)pairs, end - begin, KEYS, true);
    }
}

/* Queries [q0, q0 + n_q) x n_h heads of kv head g over the keys before end_key. */
static void tile_over_keys(const attn_job *job, attn_space *s, size_t g, size_t q0, size_t n_q,
                           size_t n_h, size_t end_key) {
    size_t dim = job->kv->head_dim, up = job->dim_up;
    const pare_attn_panels keys = {s->k, KEYS / NR, NR, dim * NR};
    const pare_attn_panels values = {s->v, up / NR, NR, KEYS * NR};
    size_t first = first_key(job, job->pos0 + q0);
    if (first >= end_key) return; /* a prefix past the window */
    for (size_t block = first / KEYS * KEYS; block < end_key; block += KEYS) {
        size_t lo = block > first ? block : first;
        size_t hi = block + KEYS < end_key ? block + KEYS : end_key;
        size_t begin, end;
        rows_that_see(job, q0, n_q, n_h, lo, hi, &begin, &end);
        float *q = s->q + begin * dim, *scores = s->s + begin * KEYS, *o = s->o + begin * up;
        load_block(job, false, g, block, lo, hi, s->tile);
        if (job->bf16) {
            scores_in_bf16(job, s, begin, end);
        } else {
            job->k->pack_k(s->k, s->tile, up, dim);
            job->k->gemm(scores, KEYS, q, dim, end - begin, &keys, dim, false);
        }
        step_rows(job, s, q0, n_h, begin, end, block, lo, hi);
        load_block(job, true, g, block, lo, hi, s->tile);
        job->k->pack_v(s->v, s->tile, up, up / NR);
        if (job->bf16)
            values_in_bf16(job, s, begin, end);
        else
            job->k->gemm(o, up, scores, KEYS, end - begin, &values, KEYS, true);
    }
}

/* Queries [q0, q0 + n_q) x heads [h0, h0 + n_h) of kv head g. */
static void run_tile(const attn_job *job, attn_space *s, size_t g, size_t q0, size_t n_q, size_t h0,
                     size_t n_h) {
    size_t dim = job->kv->head_dim, m = n_q * n_h;
    gather_queries(job, s, q0, n_q, h0, n_h);
    if (job->bf16) round_to_bf16(job, s->q_int, s->q, m * dim);
    if (job->prefix) {
        attn_job front = job_on_prefix(job);
        tile_over_keys(&front, s, g, q0, n_q, n_h, job->prefix->n);
    }
    tile_over_keys(job, s, g, q0, n_q, n_h, job->pos0 + q0 + n_q);
    for (size_t r = 0; r < m; r++)
        write_row(job, job->out + (q0 + r / n_h) * job->ldo + (h0 + r % n_h) * dim,
                  s->o + r * job->dim_up, s->sum[r]);
}

static void run_many(pare_worker *w, const attn_job *job, attn_space *s) {
    size_t n_kv = job->kv->n_kv_heads;
    size_t n_h = job->group < job->tile_rows ? job->group : job->tile_rows;
    size_t n_sub = divide_up(job->group, n_h); /* tiles that a group's heads need */
    size_t n_q = job->tile_rows / n_h;
    while (n_q > 8 && divide_up(job->n, n_q) * n_kv * n_sub < 4 * (size_t)w->n)
        n_q = divide_up(n_q, 2); /* more tiles, to keep all threads busy; changes no result */
    size_t n_blocks = divide_up(job->n, n_q), n_tiles = n_blocks * n_kv * n_sub;
    for (size_t t; (t = pare_take(w, 1)) < n_tiles;) {
        size_t g = t % n_kv, sub = t / n_kv % n_sub;
        size_t q0 = (n_blocks - 1 - t / n_kv / n_sub) * n_q; /* the longest rows first */
        size_t h0 = sub * n_h, h_count = job->group - h0 < n_h ? job->group - h0 : n_h;
        size_t q_count = job->n - q0 < n_q ? job->n - q0 : n_q;
        run_tile(job, s, g, q0, q_count, g * job->group + h0, h_count);
    }
    pare_barrier(w);
}

/* ---- few tokens: ranges of positions ---- */

/* The cut of positions [first, end): ranges of `len` positions from a multiple of it on. */
typedef struct attn_cut {
    size_t first, end, begin, len, n;
} attn_cut;

/* Positions of a range of a query at position pos. Ranges begin at multiples of it, so that a row's
 * result does not depend on the tokens beside it; up to PARE_ATTN_FEW of them need no more than
 * MAX_RANGES. */
static size_t range_len(size_t pos, size_t window) {
    size_t seen = window && window <= pos ? window : pos + 1, len = RANGE_MIN;
    while (divide_up(seen + PARE_ATTN_FEW, len) >= MAX_RANGES) len *= 2;
    return len;
}

size_t pare_attention_alike(size_t pos, size_t window) {
    size_t n = PARE_ATTN_FEW;
    while (range_len(pos + n - 1, window) != range_len(pos, window)) n--;
    return n;
}

static attn_cut cut_positions(const attn_job *job) {
    attn_cut c = {.first = first_key(job, job->pos0), .end = job->pos0 + job->n};
    c.len = range_len(c.end - 1, job->a->window);
    c.begin = c.first / c.len * c.len;
    c.n = divide_up(c.end - c.begin, c.len);
    return c;
}

/* Scores, softmax and sums of rows [first, last) over the block of keys [lo, hi), on f32. ahead:
 * the block that is needed next. */
static void block_in_floats(const attn_job *job, attn_space *s, size_t g, size_t n_h, size_t block,
                            size_t lo, size_t hi, size_t first, size_t last, const uint8_t *ahead) {
    const pare_kv_layer *kv = job->kv;
    size_t dim = kv->head_dim, up = job->dim_up, rows = last - first;
    float *q = s->q + first * dim, *scores = s->s + first * KEYS, *o = s->o + first * up;
    /* with many rows a tile pays: a value is converted once for all of them */
    if (job->codec->dots && dim % CHUNK == 0 && job->n * n_h <= IN_PLACE_ROWS) {
        const uint8_t *k = pare_kv_row(kv, false, g, lo), *v = pare_kv_row(kv, true, g, lo);
        size_t count = hi - lo, step = kv->row_stride;
        scores += lo - block;
        job->codec->dots(scores, KEYS, q, dim, rows, k, v, step, count, dim);
        step_rows(job, s, 0, n_h, first, last, block, lo, hi);
        job->codec->weighted(o, up, scores, KEYS, rows, v, ahead, step, count, dim);
    } else {
        const pare_attn_panels values = {s->tile, up / NR, up, NR};
        load_block(job, false, g, block, lo, hi, s->tile);
        job->k->dots(scores, KEYS, q, dim, rows, s->tile, up, round_up(hi - block, 8), dim);
        step_rows(job, s, 0, n_h, first, last, block, lo, hi);
        load_block(job, true, g, block, lo, hi, s->tile);
        job->k->gemm(o, up, scores, KEYS, rows, &values, hi - block, true);
    }
}

/* Fetches what is needed soon: keys and values alternate every KEYS rows, too often for the
 * processor's own guess. A little before each product, so that the requests never wait for each
 * other. */
static void fetch(const uint8_t *p, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at);
}

/* The same on integers. Keys that no row sees have scores, which are masked, and weights of 0. */
static void block_in_integers(const attn_job *job, attn_space *s, size_t g, size_t n_h,
                              size_t block, size_t lo, size_t hi, size_t first, size_t last,
                              const uint8_t *ahead) {
    static const float ones[NR] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const pare_kv_layer *kv = job->kv;
    size_t dim = kv->head_dim, up = job->dim_up, rows = last - first;
    size_t skip = (lo - block) / NR * NR, n = hi - block - skip, n_up = round_up(n, NR);
    size_t bytes = kv->codec->block_bytes; /* of CHUNK values of a row */
    const uint8_t *k = pare_kv_row(kv, false, g, block + skip);
    const uint8_t *v = pare_kv_row(kv, true, g, block + skip);
    float *scores = s->s + first * KEYS + skip;

    for (size_t i = 0; i < rows; i++) memset(scores + i * KEYS, 0, n_up * sizeof *scores);
    for (size_t j = 0; j < n; j += NR) {
        size_t at = j * kv->row_stride, count = n - j < NR ? n - j : NR;
        job->codec->key_codes(s->codes, s->scales, k + at, kv->row_stride, count, dim);
        for (size_t d = 0; d < dim; d += CHUNK) {
            fetch(v + at + d / CHUNK * NR * bytes, NR * bytes);
            job->k->integer_dots(scores + j, KEYS, s->q_int + first * dim + d, dim, rows,
                                 s->codes + d * NR, CHUNK / 2, s->q_scale + first,
                                 s->scales + d / CHUNK * NR);
        }
    }
    step_rows(job, s, 0, n_h, first, last, block, lo, hi);

    for (size_t d = 0; d < dim; d += CHUNK) {
        job->codec->value_codes(s->codes, s->scales, v + d / CHUNK * bytes, kv->row_stride, n);
        memset(s->scales, 0, (lo - block - skip) * sizeof *s->scales);
        for (size_t i = 0; i < rows; i++)
            s->p_scale[i] =
                job->k->quantize(s->p_int + i * KEYS, scores + i * KEYS, s->scales, n_up);
        for (size_t c = 0; c < CHUNK; c += NR, ahead += KEYS / 2 * bytes) {
            fetch(ahead, KEYS / 2 * bytes);
            job->k->integer_dots(s->o + first * up + d + c, up, s->p_int, KEYS, rows,
                                 s->codes + c * KEYS, n_up / 2, s->p_scale, ones);
        }
    }
}

/* All rows over the prefix. */
static void few_over_prefix(const attn_job *job, attn_space *s, size_t g, size_t n_h) {
    attn_job front = job_on_prefix(job);
    size_t from = first_key(&front, front.pos0), n = job->prefix->n;
    if (from >= n) return; /* past the window */
    for (size_t block = from / KEYS * KEYS; block < n; block += KEYS) {
        size_t lo = block > from ? block : from, hi = block + KEYS < n ? block + KEYS : n;
        size_t first, last;
        rows_that_see(&front, 0, job->n, n_h, lo, hi, &first, &last);
        block_in_floats(&front, s, g, n_h, block, lo, hi, first, last,
                        pare_kv_row(front.kv, true, g, lo));
    }
}

/* Range `range` of heads [h0, h0 + n_h) of kv head g: into partials[range][token * n_h + head], or
 * where there is only one, to its place. */
static void run_range(const attn_job *job, attn_space *s, const attn_cut *cut, size_t range,
                      size_t g, size_t h0, size_t n_h, float *partials) {
    const pare_kv_layer *kv = job->kv;
    size_t dim = kv->head_dim, up = job->dim_up, m = job->n * n_h;
    gather_queries(job, s, 0, job->n, h0, n_h);
    if (job->integers)
        for (size_t r = 0; r < m; r++)
            s->q_scale[r] = job->k->quantize(s->q_int + r * dim, s->q + r * dim, NULL, dim);
    size_t begin = cut->begin + range * cut->len, end = begin + cut->len;
    size_t held = cut->first / KEYS * KEYS; /* no block before it need be there */
    /* a row that sees a prefix sees position 0 */
    if (job->prefix && begin == 0) few_over_prefix(job, s, g, n_h);
    for (size_t block = begin > held ? begin : held; block < end && block < cut->end;
         block += KEYS) {
        size_t lo = block > cut->first ? block : cut->first;
        size_t hi = block + KEYS < cut->end ? block + KEYS : cut->end;
        size_t first, last;
        rows_that_see(job, 0, job->n, n_h, lo, hi, &first, &last);
        size_t next = block + KEYS < cut->end ? block + KEYS : lo;
        (job->integers ? block_in_integers : block_in_floats)(
            job, s, g, n_h, block, lo, hi, first, last, pare_kv_row(kv, false, g, next));
    }
    for (size_t r = 0; r < m && cut->n == 1; r++) /* nothing to merge */
        write_row(job, job->out + r / n_h * job->ldo + (h0 + r % n_h) * dim, s->o + r * up,
                  s->sum[r]);
    for (size_t r = 0; r < m && cut->n > 1; r++) {
        float *p = partials + (range * m + r) * (up + NR);
        memcpy(p, s->o + r * up, up * sizeof *p);
        p[up] = s->max[r];
        p[up + 1] = s->sum[r];
    }
}

/* Row r of heads [h0, h0 + n_h) = the ranges' partial results, in order. */
static void merge_row(const attn_job *job, float *o, const float *partials, size_t n_ranges,
                      size_t h0, size_t n_h, size_t r) {
    size_t up = job->dim_up, step = job->n * n_h * (up + NR), dim = job->kv->head_dim;
    const float *p = partials + r * (up + NR);
    float max = -INFINITY, sum = 0.0f;
    for (size_t i = 0; i < n_ranges; i++)
        if (!(p[i * step + up] <= max)) max = p[i * step + up];
    memset(o, 0, up * sizeof *o);
    for (size_t i = 0; i < n_ranges; i++) {
        const float *part = p + i * step;
        if (part[up + 1] == 0.0f) continue; /* a range outside the row's window */
        float factor = expf(part[up] - max);
        sum += factor * part[up + 1];
        for (size_t d = 0; d < up; d++) o[d] += factor * part[d];
    }
    write_row(job, job->out + r / n_h * job->ldo + (h0 + r % n_h) * dim, o, sum);
}

/* Heads that one task takes: a part of the group of a kv head. */
typedef struct head_part {
    size_t g, h0, n_h;
} head_part;

static size_t part_heads(const attn_job *job) {
    size_t most = job->tile_rows / (job->n ? job->n : 1);
    return job->group < most ? job->group : most;
}
static size_t parts_of_group(const attn_job *job) { return divide_up(job->group, part_heads(job)); }
static head_part part_at(const attn_job *job, size_t i) {
    size_t n_h = part_heads(job), n_sub = divide_up(job->group, n_h), h0 = i % n_sub * n_h;
    size_t left = job->group - h0;
    return (head_part){i / n_sub, i / n_sub * job->group + h0, left < n_h ? left : n_h};
}

/* Partial results of a part, after those of the heads before it. */
static float *partials_of(const attn_job *job, const attn_cut *cut, const head_part *part,
                          float *partials) {
    return partials + part->h0 * job->n * cut->n * (job->dim_up + NR);
}

/* One span: all threads share its ranges. */
static void run_few(pare_worker *w, const attn_job *job, attn_space *s, float *partials) {
    size_t n_parts = job->kv->n_kv_heads * parts_of_group(job);
    attn_cut cut = cut_positions(job);
    for (size_t t; (t = pare_take(w, 1)) < cut.n * n_parts;) {
        head_part p = part_at(job, t % n_parts);
        run_range(job, s, &cut, t / n_parts, p.g, p.h0, p.n_h,
                  partials_of(job, &cut, &p, partials));
    }
    pare_barrier(w);
    if (cut.n == 1) return;
    size_t begin, end;
    pare_share(w, job->n * job->a->n_heads, 1, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        size_t token = row / job->a->n_heads, head = row % job->a->n_heads, in = head % job->group;
        head_part p = part_at(job, head / job->group * parts_of_group(job) + in / part_heads(job));
        merge_row(job, s->o, partials_of(job, &cut, &p, partials), cut.n, p.h0, p.n_h,
                  token * p.n_h + head - p.h0);
    }
    pare_barrier(w);
}

/* Part i of one span among several, by one thread; partials are its own. */
static void run_alone(const attn_job *job, attn_space *s, size_t i, float *partials) {
    head_part p = part_at(job, i);
    attn_cut cut = cut_positions(job);
    for (size_t range = 0; range < cut.n; range++)
        run_range(job, s, &cut, range, p.g, p.h0, p.n_h, partials);
    for (size_t r = 0; r < job->n * p.n_h && cut.n > 1; r++)
        merge_row(job, s->o, partials, cut.n, p.h0, p.n_h, r);
}

/* The call's constants for one span, whose rows begin at row `first`. */
static attn_job job_of(const attn_job *all, const pare_attn_span *span, size_t layer,
                       size_t first) {
    attn_job job = *all;
    job.kv = &span->layers[layer];
    job.q += first * job.ldq;
    job.out += first * job.ldo;
    job.n = span->n;
    job.pos0 = span->pos0;
    job.prefix = pare_attn_span_front(span) ? span->prefix : NULL;
    return job;
}

/* Several spans of few tokens: threads take parts of spans. */
static void run_spans(pare_worker *w, const attn_job *all, attn_space *s,
                      const pare_attn_span *spans, size_t n_spans, size_t layer, float *partials) {
    size_t i = 0, first = 0, begin = 0; /* of the span: number, row, task */
    for (size_t t = pare_take(w, 1); i < n_spans;) {
        attn_job job = job_of(all, &spans[i], layer, first);
        size_t n_tasks = job.kv->n_kv_heads * parts_of_group(&job);
        if (spans[i].n == 0 || is_many(all, spans[i].n)) n_tasks = 0;
        if (t - begin < n_tasks) {
            run_alone(&job, s, t - begin, partials);
            t = pare_take(w, 1);
            continue;
        }
        begin += n_tasks;
        first += spans[i++].n;
    }
    pare_barrier(w);
}

void pare_attention(pare_worker *w, pare_isa isa, void *scratch, float *out, size_t ldo,
                    const float *q, size_t ldq, const pare_attn_span *spans, size_t n_spans,
                    size_t layer, const pare_attn *a) {
    const pare_kv_layer *kv = &spans->layers[layer]; /* all alike but for their rows' places */
    size_t dim = kv->head_dim;
    attn_job all = {.k = pare_op_kernels_get(isa)->attn,
                    .codec = pare_kv_codec_functions(kv->codec, isa),
                    .a = a,
                    .q = q,
                    .out = out,
                    .ldq = ldq,
                    .ldo = ldo,
                    .group = a->n_heads / kv->n_kv_heads,
                    .dim_up = round_up(dim, NR),
                    .tile_rows = tile_rows(dim),
                    .isa = isa,
                    .layer = layer};
    /* by what all rows share, so that their bits do not depend on how many there are */
    all.integers = a->integers && all.codec->key_codes && all.group >= kv->codec->integer_heads;
    if (a->bf16 && pare_tile_kernels_get(isa)->bf16 && dim % 32 == 0) {
        all.bf16 = pare_tile_kernels_get(isa);
        all.unpack = pare_unpack_kernels_get(isa);
    }
    float *base = scratch;
    attn_space space = space_at(base + (size_t)w->id * space_floats(dim), dim);
    float *partials = base + (size_t)w->n * space_floats(dim);
    if (all.dim_up != dim) memset(space.tile, 0, KEYS * all.dim_up * sizeof(float));
    size_t n_few = 0;
    for (size_t i = 0, first = 0; i < n_spans; first += spans[i++].n) {
        attn_job job = job_of(&all, &spans[i], layer, first);
        if (is_many(&job, job.n))
            run_many(w, &job, &space);
        else if (n_spans == 1)
            run_few(w, &job, &space, partials);
        else
            n_few++;
    }
    if (n_few == 0) return;
    size_t own = own_rows(all.group, dim) * MAX_RANGES * partial_floats(dim);
    run_spans(w, &all, &space, spans, n_spans, layer, partials + (size_t)w->id * own);
}
