#include "methods/mask.h"

#include "base/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

size_t pare_mask_n_keep(size_t n, double share) {
    if (share <= 0.0) return n;
    /* The reference counts in f32, so that at halves shares such as 0.9 round as they do there;
     * from 3e6 on f32 has too few bits for its counts to be right. */
    double wanted =
        n < 3000000 ? (double)((float)n * (1.0f - (float)share)) : (double)n * (1.0 - share);
    double keep = nearbyint(wanted); /* to nearest, ties to even */
    if (keep < 1.0) keep = 1.0;
    return keep > (double)n ? n : (size_t)keep;
}

pare_status pare_mask_check_pattern(const char *name, const char *method,
                                    const pare_prune_options *o, size_t rows, size_t cols,
                                    pare_error *err) {
    const pare_sparsity *s = &o->sparsity;
    bool out = o->nm_axis == PARE_NM_OUT;
    size_t n = out ? rows : cols;
    if (!s->m || n % (size_t)s->m == 0) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "%s: %s: found %s of %zu, expected a multiple of %d for %d:%d", name, method,
                     out ? "columns" : "rows", n, s->m, s->n, s->m);
}

/* --- bits --- */

typedef struct apply_job {
    float *w;
    const uint64_t *bits;
    size_t n;
} apply_job;

static size_t at_most(size_t a, size_t b) { return a < b ? a : b; }

static void apply_words(void *arg, size_t begin, size_t end) {
    const apply_job *j = arg;
    for (size_t i = begin; i < end; i++)
        pare_zero_word(j->w + i * 64, j->bits[i], at_most(j->n - i * 64, 64));
}

void pare_mask_apply(pare_runtime *rt, float *w, const uint64_t *bits, size_t n) {
    apply_job j = {w, bits, n};
    pare_parallel_for(rt, pare_bit_words(n), 256, apply_words, &j);
}

size_t pare_mask_count(const uint64_t *bits, size_t n) {
    size_t ones = 0;
    for (size_t i = 0; i < pare_bit_words(n); i++) ones += (size_t)__builtin_popcountll(bits[i]);
    return ones;
}

/* Where a mask goes: bits, all 0 before, or zeros in place. */
typedef struct mask_sink {
    uint64_t *bits;
    float *zero;
} mask_sink;

/* The outcome for n <= 64 values from `at` on. */
static void put(const mask_sink *s, size_t at, uint64_t bits, size_t n) {
    if (s->zero) {
        pare_zero_word(s->zero + at, bits, n);
        return;
    }
    if (n < 64) bits &= ((uint64_t)1 << n) - 1;
    size_t shift = at % 64;
    s->bits[at / 64] |= bits << shift;
    if (shift + n > 64) s->bits[at / 64 + 1] |= bits >> (64 - shift);
}

/* --- on one thread --- */

void pare_mask_share(float *w, const float *score, size_t n, double share) {
    size_t keep = pare_mask_n_keep(n, share);
    const pare_scored s = {.w = w, .score = score, .n = n, .zero = w};
    if (keep < n) pare_select(NULL, &s, 1, keep, PARE_TIES_FIRST_STAYS);
}

void pare_mask_lowest(float *w, const float *score, size_t n, size_t n_prune) {
    const pare_scored s = {.w = w, .score = score, .n = n, .zero = w};
    if (n_prune > 0) pare_select(NULL, &s, 1, n - n_prune, PARE_TIES_FIRST_GOES);
}

static void mask_groups(const mask_sink *sink, const float *w, const float *score, size_t begin,
                        size_t end, int n, int m) {
    for (size_t at = begin; at < end; at += (size_t)m)
        put(sink, at, pare_select_group(w + at, score ? score + at : NULL, n, m), (size_t)m);
}

void pare_mask_n_m(float *w, const float *score, size_t rows, size_t cols, int n, int m) {
    const mask_sink sink = {.zero = w};
    mask_groups(&sink, w, score, 0, rows * cols, n, m);
}

/* --- tiles and channels --- */

pare_tiling pare_tiling_of(const pare_prune_options *o, size_t rows, size_t cols, size_t inner) {
    inner = inner ? inner : 1;
    pare_tiling t = {.rows = rows,
                     .cols = cols,
                     .height = (size_t)o->type.rows,
                     .width = (size_t)o->type.cols * inner,
                     .max = o->type.kind == PARE_STRUCTURE_BLOCK && o->pool == PARE_POOL_MAX};
    if (o->type.kind == PARE_STRUCTURE_CHANNEL_IN) t.height = rows, t.width = inner;
    if (o->type.kind == PARE_STRUCTURE_CHANNEL_OUT) t.height = 1, t.width = cols;
    t.down = (rows + t.height - 1) / t.height;
    t.across = (cols + t.width - 1) / t.width;
    t.partial = rows % t.height || cols % t.width;
    return t;
}

typedef struct tile_job {
    const pare_tiling *t;
    const float *w, *value; /* [rows][cols] */
    double *pooled;         /* [down][across] */
    float *score;           /* [down][across] */
    const uint64_t *tiles;
    const mask_sink *sink;
} tile_job;

/* A sum of large scores may be none that f32 holds; NaN stays. */
static float to_score(double s) {
    return s > (double)FLT_MAX ? FLT_MAX : s < -(double)FLT_MAX ? -FLT_MAX : (float)s;
}

/* Scores of the tiles in rows of tiles [begin, end). */
static void pool_tiles(void *arg, size_t begin, size_t end) {
    const tile_job *j = arg;
    const pare_tiling *t = j->t;
    for (size_t tile_row = begin; tile_row < end; tile_row++) {
        size_t first = tile_row * t->height, last = at_most(first + t->height, t->rows);
        double *pooled = j->pooled + tile_row * t->across;
        for (size_t k = 0; k < t->across; k++) pooled[k] = t->max ? -HUGE_VAL : 0.0;
        for (size_t r = first; r < last; r++)
            for (size_t k = 0, c = 0; k < t->across; k++)
                for (size_t stop = at_most(c + t->width, t->cols); c < stop; c++) {
                    size_t i = r * t->cols + c;
                    double s = (double)(j->value ? j->value[i] : fabsf(j->w[i]));
                    pooled[k] = t->max ? fmax(pooled[k], s) : pooled[k] + s; /* fmax skips NaN */
                }
        for (size_t k = 0; k < t->across; k++) {
            size_t width = at_most(t->width, t->cols - k * t->width);
            double count = t->max || !t->partial ? 1.0 : (double)(width * (last - first));
            j->score[tile_row * t->across + k] = to_score(pooled[k] / count);
        }
    }
}

void pare_tiling_pool(pare_runtime *rt, const pare_tiling *t, const float *w, const float *value,
                      float *score, double *work) {
    tile_job j = {.t = t, .w = w, .value = value, .pooled = work, .score = score};
    pare_parallel_for(rt, t->down, 1 + 16 / t->height, pool_tiles, &j);
}

static void spread_rows(void *arg, size_t begin, size_t end) {
    const tile_job *j = arg;
    const pare_tiling *t = j->t;
    for (size_t r = begin; r < end; r++)
        for (size_t k = 0, c = 0; k < t->across; k++) {
            uint64_t bits = pare_bit(j->tiles, r / t->height * t->across + k) ? ~(uint64_t)0 : 0;
            size_t stop = at_most(c + t->width, t->cols), n;
            for (; c < stop; c += n) {
                n = at_most(stop - c, 64);
                put(j->sink, r * t->cols + c, bits, n);
            }
        }
}

/* Pieces of 64 rows: no two threads write to a word. */
static void spread(pare_runtime *rt, const pare_tiling *t, const uint64_t *tiles,
                   const mask_sink *sink) {
    tile_job j = {.t = t, .tiles = tiles, .sink = sink};
    pare_parallel_for(rt, t->rows, 64, spread_rows, &j);
}

void pare_tiling_expand(pare_runtime *rt, const pare_tiling *t, const uint64_t *tiles,
                        uint64_t *bits) {
    const mask_sink sink = {.bits = bits};
    memset(bits, 0, pare_bit_words(t->rows * t->cols) * sizeof *bits);
    spread(rt, t, tiles, &sink);
}

void pare_tiling_contract(const pare_tiling *t, const uint64_t *bits, uint64_t *tiles) {
    memset(tiles, 0, pare_bit_words(t->down * t->across) * sizeof *tiles);
    for (size_t i = 0; i < t->down * t->across; i++) {
        size_t first = i / t->across * t->height * t->cols + i % t->across * t->width;
        tiles[i / 64] |= (uint64_t)pare_bit(bits, first) << i % 64;
    }
}

/* Of a tile: its sum, its score, its bit and what fills up a word of bits. */
static size_t tile_bytes(size_t n) {
    return n * (sizeof(double) + sizeof(float)) + (pare_bit_words(n) + 1) * sizeof(uint64_t);
}

static pare_status mask_tiles(const mask_sink *sink, const pare_mask_job *job,
                              const pare_prune_options *o, pare_error *err) {
    const pare_tiling t = pare_tiling_of(o, job->rows, job->cols, job->inner);
    size_t n = t.down * t.across, bytes = tile_bytes(n);
    double *work = pare_big_alloc(bytes);
    if (!work)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: scores of %zu tiles", job->name, job->method,
                         n);
    uint64_t *tiles = (uint64_t *)(work + n);
    float *score = (float *)(tiles + pare_bit_words(n));
    pare_tiling_pool(job->rt, &t, job->w, job->score, score, work);
    const pare_scored s = {.score = score, .n = n, .bits = tiles};
    pare_select(job->rt, &s, 1, pare_mask_n_keep(n, o->sparsity.share), PARE_TIES_FIRST_STAYS);
    spread(job->rt, &t, tiles, sink);
    pare_big_free(work, bytes);
    return PARE_OK;
}

size_t pare_mask_work_bytes(const pare_prune_options *o, size_t rows, size_t cols) {
    if (o->type.kind == PARE_STRUCTURE_WEIGHT) return 0;
    pare_tiling t = pare_tiling_of(o, rows, cols, 1);
    return tile_bytes(t.down * t.across);
}

/* --- all types --- */

typedef struct n_m_job {
    const mask_sink *sink;
    const pare_mask_job *job;
    pare_sparsity s;
} n_m_job;

/* Pieces of 64 groups: no two threads write to a word. */
static void n_m_groups(void *arg, size_t begin, size_t end) {
    const n_m_job *j = arg;
    size_t m = (size_t)j->s.m;
    if (m == 4) {
        const pare_scored s = {
            .w = j->job->w, .score = j->job->score, .bits = j->sink->bits, .zero = j->sink->zero};
        pare_select_quads(pare_runtime_isa(j->job->rt), &s, begin * m, end * m, j->s.n);
        return;
    }
    mask_groups(j->sink, j->job->w, j->job->score, begin * m, end * m, j->s.n, j->s.m);
}

/* M consecutive outputs of an input. Pieces of 64 groups again. */
static void n_m_columns(void *arg, size_t begin, size_t end) {
    const n_m_job *j = arg;
    size_t m = (size_t)j->s.m, cols = j->job->cols;
    float w[64] = {0}, score[64];
    for (size_t r = begin * m; r < end * m; r += m)
        for (size_t c = 0; c < cols; c++) {
            for (size_t k = 0; k < m; k++) {
                size_t i = (r + k) * cols + c;
                score[k] = j->job->score ? j->job->score[i] : fabsf(j->job->w[i]);
            }
            uint64_t bits = pare_select_group(w, score, j->s.n, j->s.m);
            for (size_t k = 0; k < m; k++) put(j->sink, (r + k) * cols + c, bits >> k & 1, 1);
        }
}

static pare_status mask_to(const mask_sink *sink, const pare_mask_job *job,
                           const pare_prune_options *o, pare_error *err) {
    const pare_sparsity *s = &o->sparsity;
    size_t n = job->rows * job->cols;
    PARE_TRY(pare_mask_check_pattern(job->name, job->method, o, job->rows, job->cols, err));
    if (o->type.kind != PARE_STRUCTURE_WEIGHT) return mask_tiles(sink, job, o, err);
    if (s->m) {
        n_m_job groups = {sink, job, *s};
        if (o->nm_axis == PARE_NM_OUT) {
            pare_parallel_for(job->rt, job->rows / (size_t)s->m, 64, n_m_columns, &groups);
            return PARE_OK;
        }
        pare_parallel_for(job->rt, n / (size_t)s->m, 64 * 16, n_m_groups, &groups);
        return PARE_OK;
    }
    const pare_scored all = {
        .w = job->w, .score = job->score, .n = n, .bits = sink->bits, .zero = sink->zero};
    pare_select(job->rt, &all, 1, pare_mask_n_keep(n, s->share), PARE_TIES_FIRST_STAYS);
    return PARE_OK;
}

pare_status pare_mask_bits(uint64_t *bits, const pare_mask_job *job, const pare_prune_options *o,
                           pare_error *err) {
    const mask_sink sink = {.bits = bits};
    memset(bits, 0, pare_bit_words(job->rows * job->cols) * sizeof *bits);
    return mask_to(&sink, job, o, err);
}

pare_status pare_mask_matrix(const pare_weight_job *job, const char *method, const float *score,
                             const pare_prune_options *o, pare_error *err) {
    const mask_sink sink = {.zero = job->w};
    const pare_mask_job mask = {.rt = job->rt,
                                .name = job->name,
                                .method = method,
                                .w = job->w,
                                .score = score,
                                .rows = job->rows,
                                .cols = job->cols};
    return mask_to(&sink, &mask, o, err);
}

pare_status pare_prune_check(const pare_prune_options *p, pare_error *err) {
    const pare_sparsity *s = &p->sparsity;
    if (s->m && p->type.kind != PARE_STRUCTURE_WEIGHT)
        return pare_fail(err, PARE_ERR_ARG,
                         "type: found blocks or channels with sparsity=%d:%d, expected a share",
                         s->n, s->m);
    if (s->m && (p->dist != PARE_DIST_UNIFORM || p->layers.n))
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found a distribution with sparsity=%d:%d, which every tensor gets; "
                         "expected a share",
                         p->layers.n ? "layers" : "dist", s->n, s->m);
    if (p->layers.n && p->dist != PARE_DIST_UNIFORM)
        return pare_fail(err, PARE_ERR_ARG,
                         "layers: found a share for each block and another distribution too, "
                         "expected one of them");
    if (p->pool != PARE_POOL_AVG && p->type.kind != PARE_STRUCTURE_BLOCK)
        return pare_fail(err, PARE_ERR_ARG, "pool: found max, expected type=block_RxC with it");
    return PARE_OK;
}
