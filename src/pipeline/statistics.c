/* The Hessian is gathered in blocks of TOKENS tokens: their products are summed in f32, the blocks
 * in f64. Only tiles on and above the diagonal are computed. */
#include "pipeline/statistics.h"

#include "base/group.h"
#include "base/memory.h"
#include "base/spill.h"
#include "kernels/op_kernels.h"

#include <math.h>
#include <string.h>

enum {
    TOKENS = PARE_STATISTICS_TOKENS,
    TILE = 48,         /* rows of the Hessian that a thread computes at a time */
    NR = PARE_ATTN_NR, /* columns of a panel */
};

struct pare_statistics {
    pare_runtime *rt;
    unsigned needs;
    size_t cols, padded; /* padded: to whole panels */
    pare_input_stats result;
    double *squares, *abs_sum, *hessian;
    float *abs_max, *min, *max;
    pare_spill samples; /* [n_samples][cols] */
    size_t n_samples;
    float *across; /* [cols][TOKENS]: the tokens at hand, transposed */
    float *panels; /* [padded / NR][TOKENS][NR] */
    float *tiles;  /* [n_threads][TILE][padded] */
    size_t n_held; /* tokens at hand */
    uint64_t n_tokens;
    size_t row; /* number of the next one among samples */
};

static size_t padded_to_panels(size_t cols) { return (cols + NR - 1) / NR * NR; }

size_t pare_statistics_bytes(size_t cols, unsigned needs, size_t n_samples, int n_threads) {
    size_t bytes = cols * (2 * sizeof(double) + sizeof(float));
    if (needs & PARE_NEED_RANGE) bytes += 2 * cols * sizeof(float);
    if (needs & PARE_NEED_SAMPLES) bytes += n_samples * cols * sizeof(float);
    if (needs & PARE_NEED_HESSIAN)
        bytes += cols * cols * sizeof(double) +
                 (cols + padded_to_panels(cols)) * TOKENS * sizeof(float) +
                 (size_t)n_threads * TILE * padded_to_panels(cols) * sizeof(float);
    return bytes;
}

pare_status pare_statistics_create(pare_statistics **out, pare_runtime *rt, size_t cols,
                                   unsigned needs, size_t n_samples, const char *spill,
                                   pare_error *err) {
    pare_statistics *s = pare_calloc(1, sizeof *s);
    *out = s;
    if (!s) return pare_fail(err, PARE_ERR_NOMEM, "statistics: out of memory");
    s->rt = rt;
    s->needs = needs;
    s->cols = cols;
    s->padded = padded_to_panels(cols);
    bool hessian = needs & PARE_NEED_HESSIAN, good = true;
    good &= (s->squares = pare_calloc(cols, sizeof *s->squares)) != NULL;
    if (needs & PARE_NEED_ABS) {
        good &= (s->abs_sum = pare_calloc(cols, sizeof *s->abs_sum)) != NULL;
        good &= (s->abs_max = pare_calloc(cols, sizeof *s->abs_max)) != NULL;
    }
    if (needs & PARE_NEED_RANGE) {
        good &= (s->min = pare_malloc(cols, sizeof *s->min)) != NULL;
        good &= (s->max = pare_malloc(cols, sizeof *s->max)) != NULL;
        for (size_t c = 0; good && c < cols; c++) {
            s->min[c] = INFINITY;
            s->max[c] = -INFINITY;
        }
    }
    if (hessian) {
        size_t tiles = (size_t)pare_runtime_threads(rt) * TILE * s->padded;
        good &= (s->hessian = pare_big_alloc(cols * cols * sizeof *s->hessian)) != NULL;
        good &= (s->across = pare_big_alloc(cols * TOKENS * sizeof *s->across)) != NULL;
        good &= (s->panels = pare_big_alloc(s->padded * TOKENS * sizeof *s->panels)) != NULL;
        good &= (s->tiles = pare_big_alloc(tiles * sizeof *s->tiles)) != NULL;
    }
    pare_status st = PARE_OK;
    if (needs & PARE_NEED_SAMPLES) {
        s->n_samples = n_samples;
        st = pare_spill_make(&s->samples, n_samples * cols, spill, err);
    }
    if (good && st == PARE_OK) return PARE_OK;
    pare_statistics_free(s);
    *out = NULL;
    if (st != PARE_OK) return st;
    return pare_fail(err, PARE_ERR_NOMEM, "statistics of %zu inputs: %zu bytes", cols,
                     pare_statistics_bytes(cols, needs, n_samples, pare_runtime_threads(rt)));
}

void pare_statistics_free(pare_statistics *s) {
    if (!s) return;
    pare_free(s->squares);
    pare_free(s->abs_sum);
    pare_free(s->abs_max);
    pare_free(s->min);
    pare_free(s->max);
    if (s->hessian) pare_big_free(s->hessian, s->cols * s->cols * sizeof *s->hessian);
    pare_spill_free(&s->samples);
    if (s->across) pare_big_free(s->across, s->cols * TOKENS * sizeof *s->across);
    if (s->panels) pare_big_free(s->panels, s->padded * TOKENS * sizeof *s->panels);
    if (s->tiles)
        pare_big_free(s->tiles,
                      (size_t)pare_runtime_threads(s->rt) * TILE * s->padded * sizeof *s->tiles);
    pare_free(s);
}

/* --- sums of columns [begin, end) --- */

static void add_columns(pare_statistics *s, const float *x, size_t ldx, size_t n, size_t begin,
                        size_t end) {
    for (size_t i = 0; i < n; i++)
        for (size_t c = begin; c < end; c++) {
            double v = x[i * ldx + c];
            s->squares[c] += v * v;
        }
    for (size_t i = 0; s->abs_max && i < n; i++)
        for (size_t c = begin; c < end; c++) {
            float a = fabsf(x[i * ldx + c]);
            s->abs_sum[c] += (double)a;
            s->abs_max[c] = a > s->abs_max[c] ? a : s->abs_max[c];
        }
    for (size_t i = 0; s->min && i < n; i++)
        for (size_t c = begin; c < end; c++) {
            float v = x[i * ldx + c];
            s->min[c] = v < s->min[c] ? v : s->min[c];
            s->max[c] = v > s->max[c] ? v : s->max[c];
        }
}

static void keep_samples(pare_statistics *s, const float *x, size_t ldx, size_t n, size_t begin,
                         size_t end) {
    for (size_t i = 0; i < n && s->row + i < s->n_samples; i++)
        for (size_t c = begin; c < end; c++)
            s->samples.data[(s->row + i) * s->cols + c] = x[i * ldx + c];
}

/* --- the Hessian --- */

static void hold_columns(pare_statistics *s, const float *x, size_t ldx, size_t n, size_t begin,
                         size_t end) {
    for (size_t i = 0; i < n; i++)
        for (size_t c = begin; c < end; c++)
            s->panels[(c / NR * TOKENS + s->n_held + i) * NR + c % NR] = x[i * ldx + c];
    for (size_t c = begin; c < end; c++)
        for (size_t i = 0; i < n; i++) s->across[c * TOKENS + s->n_held + i] = x[i * ldx + c];
}

static void multiply_held(pare_worker *w, pare_statistics *s) {
    const pare_attn_kernels *k = pare_op_kernels_get(pare_runtime_isa(s->rt))->attn;
    float *tile = s->tiles + (size_t)w->id * TILE * s->padded;
    for (size_t i; (i = pare_take(w, TILE)) < s->cols;) {
        size_t m = s->cols - i < TILE ? s->cols - i : TILE, panel = i / NR, first = panel * NR,
               width = s->padded - first;
        pare_attn_panels b = {s->panels + panel * TOKENS * NR, width / NR, NR, TOKENS * NR};
        k->gemm(tile, width, s->across + i * TOKENS, TOKENS, m, &b, s->n_held, false);
        for (size_t r = 0; r < m; r++) {
            double *to = s->hessian + (i + r) * s->cols;
            for (size_t c = first; c < s->cols; c++) to[c] += (double)tile[r * width + c - first];
        }
    }
    pare_barrier(w);
    if (w->id == 0) s->n_held = 0;
    pare_barrier(w);
}

void pare_statistics_add(pare_worker *w, pare_statistics *s, const float *x, size_t ldx, size_t n) {
    size_t begin, end;
    pare_share(w, s->cols, NR, &begin, &end);
    add_columns(s, x, ldx, n, begin, end);
    if (s->samples.data) keep_samples(s, x, ldx, n, begin, end);
    for (size_t i = 0, some; s->hessian && i < n; i += some) {
        some = n - i < TOKENS - s->n_held ? n - i : TOKENS - s->n_held;
        hold_columns(s, x + i * ldx, ldx, some, begin, end);
        pare_barrier(w);
        if (w->id == 0) s->n_held += some;
        pare_barrier(w);
        if (s->n_held == TOKENS) multiply_held(w, s);
    }
    pare_barrier(w);
    if (w->id == 0) {
        pare_statistics_rest(s, s->row, n);
        s->n_tokens += n;
        s->row += n;
    }
    pare_barrier(w);
}

void pare_statistics_at(pare_statistics *s, size_t first) { s->row = first; }

void pare_statistics_rest(const pare_statistics *s, size_t first, size_t n) {
    if (first >= s->n_samples) return;
    if (n > s->n_samples - first) n = s->n_samples - first;
    pare_spill_rest(&s->samples, first * s->cols, n * s->cols);
}

/* --- the result --- */

bool pare_statistics_finite(const pare_statistics *s) {
    bool finite = true;
    for (size_t c = 0; c < s->cols; c++) finite &= (bool)isfinite(s->squares[c]);
    return finite;
}

static void flush_thread(pare_worker *w, void *arg) {
    pare_statistics *s = arg;
    multiply_held(w, s);
}

void pare_statistics_sum_ranks(pare_statistics *s) {
    double tokens = (double)s->n_tokens;
    if (s->hessian && s->n_held) pare_team_run(s->rt, flush_thread, s);
    pare_group_sum_f64(&tokens, 1);
    s->n_tokens = (uint64_t)tokens;
    pare_group_sum_f64(s->squares, s->cols);
    if (s->abs_sum) pare_group_sum_f64(s->abs_sum, s->cols);
    if (s->abs_max) pare_group_max_f32(s->abs_max, s->cols);
    if (s->max) {
        pare_group_max_f32(s->max, s->cols);
        for (size_t c = 0; c < s->cols; c++) s->min[c] = -s->min[c];
        pare_group_max_f32(s->min, s->cols);
        for (size_t c = 0; c < s->cols; c++) s->min[c] = -s->min[c];
    }
    if (s->hessian) pare_group_sum_f64(s->hessian, s->cols * s->cols);
    for (size_t i = 0, n; i < s->n_samples; i += n) { /* one has each row */
        n = s->n_samples - i < TOKENS ? s->n_samples - i : TOKENS;
        pare_group_sum_f32(s->samples.data + i * s->cols, n * s->cols);
        pare_statistics_rest(s, i, n);
    }
}

const pare_input_stats *pare_statistics_result(pare_statistics *s, size_t n_sequences) {
    if (s->hessian) {
        if (s->n_held) pare_team_run(s->rt, flush_thread, s);
        for (size_t i = 0; i < s->cols; i++)
            for (size_t c = 0; c < i; c++)
                s->hessian[i * s->cols + c] = s->hessian[c * s->cols + i];
    }
    s->result =
        (pare_input_stats){.cols = s->cols,
                           .n_tokens = s->n_tokens,
                           .n_sequences = n_sequences,
                           .squares = s->squares,
                           .abs_max = s->abs_max,
                           .abs_sum = s->abs_sum,
                           .min = s->min,
                           .max = s->max,
                           .hessian = s->hessian,
                           .samples = s->samples.data,
                           .n_samples = s->n_tokens < s->n_samples ? s->n_tokens : s->n_samples};
    return &s->result;
}

void pare_statistics_divide(pare_statistics *s, const float *scale) {
    for (size_t c = 0; c < s->cols; c++) {
        double d = scale[c];
        s->squares[c] /= d * d;
        if (s->abs_sum) s->abs_sum[c] /= d;
        if (s->abs_max) s->abs_max[c] /= scale[c];
        if (s->min) { /* scales are > 0 */
            s->min[c] /= scale[c];
            s->max[c] /= scale[c];
        }
    }
    for (size_t r = 0; s->hessian && r < s->cols; r++)
        for (size_t c = 0; c < s->cols; c++)
            s->hessian[r * s->cols + c] /= (double)scale[r] * (double)scale[c];
    for (size_t i = 0; i < s->result.n_samples; i++) {
        for (size_t c = 0; c < s->cols; c++) s->samples.data[i * s->cols + c] /= scale[c];
        if ((i + 1) % TOKENS == 0) pare_statistics_rest(s, i + 1 - TOKENS, TOKENS);
    }
    pare_statistics_rest(s, 0, s->n_samples);
}
