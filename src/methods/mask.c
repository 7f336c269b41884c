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

pare_status pare_mask_check_pattern(const pare_weight_job *job, const char *method,
                                    const pare_sparsity *s, pare_error *err) {
    if (!s->m || job->cols % (size_t)s->m == 0) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "%s: %s: found rows of %zu, expected a multiple of %d for %d:%d", job->name,
                     method, job->cols, s->m, s->n, s->m);
}

/* Order-preserving map of a score to an unsigned number; NaN is the lowest. */
static uint32_t score_key(float s) {
    if (isnan(s)) return 0;
    uint32_t u;
    memcpy(&u, &s, 4);
    if (u == 0x80000000u) u = 0; /* -0 equals +0 */
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static uint32_t key_at(const float *w, const float *score, size_t i) {
    return score_key(score ? score[i] : fabsf(w[i]));
}

/* The k-th highest key (k from 1) by counting: 3 passes of 11, 11 and 10 bits. *n_equal becomes how
 * many values of exactly that key belong to the k highest. */
static uint32_t kth_key(const float *w, const float *score, size_t n, size_t k, size_t *n_equal) {
    static const int shifts[3] = {21, 10, 0}, widths[3] = {11, 11, 10};
    uint32_t prefix = 0, mask = 0;
    for (int pass = 0; pass < 3; pass++) {
        uint64_t count[2048] = {0};
        for (size_t i = 0; i < n; i++) {
            uint32_t key = key_at(w, score, i);
            if ((key & mask) == prefix) count[(key >> shifts[pass]) & ((1u << widths[pass]) - 1)]++;
        }
        uint32_t digit = (1u << widths[pass]) - 1;
        while (count[digit] < k) k -= count[digit--];
        prefix |= digit << shifts[pass];
        mask |= ((1u << widths[pass]) - 1) << shifts[pass];
    }
    *n_equal = k;
    return prefix;
}

/* Keeps the `keep` highest of n scores, 0 < keep < n. Of equal ones at the border the first stay,
 * or (first_go) the first go. */
static void keep_highest(float *w, const float *score, size_t n, size_t keep, bool first_go) {
    size_t stay, go = 0; /* equal ones that stay, behind those that go */
    uint32_t threshold = kth_key(w, score, n, keep, &stay);
    if (first_go) {
        for (size_t i = 0; i < n; i++) go += key_at(w, score, i) == threshold;
        go -= stay;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t key = key_at(w, score, i);
        if (key > threshold) continue;
        if (key == threshold && go > 0) {
            go--;
        } else if (key == threshold && stay > 0) {
            stay--;
            continue;
        }
        w[i] = 0.0f;
    }
}

void pare_mask_share(float *w, const float *score, size_t n, double share) {
    size_t keep = pare_mask_n_keep(n, share);
    if (keep < n) keep_highest(w, score, n, keep, false);
}

void pare_mask_lowest(float *w, const float *score, size_t n, size_t n_prune) {
    if (n_prune == n)
        memset(w, 0, n * sizeof *w);
    else if (n_prune > 0)
        keep_highest(w, score, n, n - n_prune, true);
}

void pare_mask_n_m(float *w, const float *score, size_t rows, size_t cols, int n, int m) {
    for (size_t group = 0; group < rows * cols; group += (size_t)m) {
        uint32_t key[64];
        for (int i = 0; i < m; i++) key[i] = key_at(w, score, group + (size_t)i);
        for (int i = 0; i < m; i++) {
            int higher = 0;
            for (int j = 0; j < m; j++) higher += key[j] > key[i] || (key[j] == key[i] && j > i);
            if (higher >= n) w[group + (size_t)i] = 0.0f;
        }
    }
}

/* --- tiles and channels --- */

typedef struct tiling {
    const pare_weight_job *job;
    const float *score;                 /* [rows][cols]; NULL: |w| */
    size_t height, width, down, across; /* of a tile; tiles */
    bool max, partial;                  /* partial: tiles at an edge are smaller */
    double *pooled;                     /* [down][across] */
    float *tile_score, *mark;           /* [down][across]; mark 0: the tile goes */
} tiling;

static size_t at_most(size_t a, size_t b) { return a < b ? a : b; }

static tiling tiles_of(const pare_prune_options *o, size_t rows, size_t cols) {
    tiling t = {.height = (size_t)o->type.rows,
                .width = (size_t)o->type.cols,
                .max = o->type.kind == PARE_STRUCTURE_BLOCK && o->pool == PARE_POOL_MAX};
    if (o->type.kind == PARE_STRUCTURE_CHANNEL_IN) t.height = rows, t.width = 1;
    if (o->type.kind == PARE_STRUCTURE_CHANNEL_OUT) t.height = 1, t.width = cols;
    t.down = (rows + t.height - 1) / t.height;
    t.across = (cols + t.width - 1) / t.width;
    t.partial = rows % t.height || cols % t.width;
    return t;
}

/* A sum of large scores may be none that f32 holds; NaN stays. */
static float to_score(double s) {
    return s > (double)FLT_MAX ? FLT_MAX : s < -(double)FLT_MAX ? -FLT_MAX : (float)s;
}

/* Scores of the tiles in rows of tiles [begin, end). */
static void pool_tiles(void *arg, size_t begin, size_t end) {
    const tiling *t = arg;
    size_t rows = t->job->rows, cols = t->job->cols;
    for (size_t tile_row = begin; tile_row < end; tile_row++) {
        size_t first = tile_row * t->height, last = at_most(first + t->height, rows);
        double *pooled = t->pooled + tile_row * t->across;
        for (size_t k = 0; k < t->across; k++) pooled[k] = t->max ? -HUGE_VAL : 0.0;
        for (size_t r = first; r < last; r++)
            for (size_t k = 0, c = 0; k < t->across; k++)
                for (size_t stop = at_most(c + t->width, cols); c < stop; c++) {
                    size_t i = r * cols + c;
                    double s = (double)(t->score ? t->score[i] : fabsf(t->job->w[i]));
                    pooled[k] = t->max ? fmax(pooled[k], s) : pooled[k] + s; /* fmax skips NaN */
                }
        for (size_t k = 0; k < t->across; k++) {
            size_t width = at_most(t->width, cols - k * t->width);
            double count = t->max || !t->partial ? 1.0 : (double)(width * (last - first));
            t->tile_score[tile_row * t->across + k] = to_score(pooled[k] / count);
            t->mark[tile_row * t->across + k] = 1.0f;
        }
    }
}

static void drop_tiles(void *arg, size_t begin, size_t end) {
    const tiling *t = arg;
    size_t cols = t->job->cols;
    for (size_t r = begin; r < end; r++)
        for (size_t k = 0; k < t->across; k++)
            if (t->mark[r / t->height * t->across + k] == 0.0f)
                memset(t->job->w + r * cols + k * t->width, 0,
                       at_most(t->width, cols - k * t->width) * sizeof(float));
}

size_t pare_mask_work_bytes(const pare_prune_options *o, size_t rows, size_t cols) {
    if (o->type.kind == PARE_STRUCTURE_WEIGHT) return 0;
    tiling t = tiles_of(o, rows, cols);
    return t.down * t.across * (sizeof *t.pooled + 2 * sizeof(float));
}

static pare_status mask_tiles(const pare_weight_job *job, const char *method, const float *score,
                              const pare_prune_options *o, pare_error *err) {
    tiling t = tiles_of(o, job->rows, job->cols);
    size_t n = t.down * t.across, bytes = n * (sizeof *t.pooled + 2 * sizeof(float));
    t.job = job;
    t.score = score;
    t.pooled = pare_big_alloc(bytes);
    if (!t.pooled)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: scores of %zu tiles", job->name, method, n);
    t.tile_score = (float *)(t.pooled + n);
    t.mark = t.tile_score + n;
    pare_parallel_for(job->rt, t.down, 1 + 16 / t.height, pool_tiles, &t);
    pare_mask_share(t.mark, t.tile_score, n, o->sparsity.share);
    pare_parallel_for(job->rt, job->rows, 16, drop_tiles, &t);
    pare_big_free(t.pooled, bytes);
    return PARE_OK;
}

/* --- all types --- */

typedef struct n_m_job {
    const pare_weight_job *job;
    const float *score;
    pare_sparsity s;
} n_m_job;

static void n_m_rows(void *arg, size_t begin, size_t end) {
    const n_m_job *j = arg;
    size_t at = begin * j->job->cols;
    pare_mask_n_m(j->job->w + at, j->score ? j->score + at : NULL, end - begin, j->job->cols,
                  j->s.n, j->s.m);
}

pare_status pare_mask_matrix(const pare_weight_job *job, const char *method, const float *score,
                             const pare_prune_options *o, pare_error *err) {
    PARE_TRY(pare_mask_check_pattern(job, method, &o->sparsity, err));
    if (o->type.kind != PARE_STRUCTURE_WEIGHT) return mask_tiles(job, method, score, o, err);
    n_m_job rows = {job, score, o->sparsity};
    if (o->sparsity.m)
        pare_parallel_for(job->rt, job->rows, 16, n_m_rows, &rows);
    else
        pare_mask_share(job->w, score, job->rows * job->cols, o->sparsity.share);
    return PARE_OK;
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
