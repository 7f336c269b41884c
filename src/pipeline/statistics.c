/* The Hessian is gathered in blocks of tokens: their products are summed in f32, the blocks in f64.
 * In `fast`, where a processor multiplies bf16, the inputs are rounded to it: less than what
 * products of bytes take from them; twice as many lie in the same memory. Only tiles on and above
 * the diagonal are computed. */
#include "pipeline/statistics.h"

#include "base/group.h"
#include "base/memory.h"
#include "base/spill.h"
#include "kernels/tile.h"
#include "methods/obs.h"

#include <math.h>
#include <string.h>

enum {
    TOKENS = 1024,     /* of a block, in f32 */
    NR = PARE_TILE_NR, /* columns of a panel */
    STRIP = 3,         /* panels whose rows of the Hessian a thread computes at a time */
    CHUNK = 256,       /* tokens of a panel that lie in L1 */
    /* where the level multiplies blocks of bf16: */
    BLOCK = 4,        /* panels of columns, and of rows, that one product has */
    LD = TOKENS + 32, /* between columns: such that are TOKENS apart share a set of L1 */
};

struct pare_statistics {
    pare_runtime *rt;
    unsigned needs;
    size_t cols;
    const pare_tile_kernels *tiles;
    bool halves; /* panels are pairs of bf16 */
    bool blocks; /* and multiplied by blocks */
    pare_input_stats result;
    double *squares, *abs_sum, *hessian;
    float *half; /* of the Hessian, as pare_output_error takes it */
    float *abs_max, *min, *max;
    pare_spill samples; /* [n_samples][cols] */
    size_t n_samples;
    /* the tokens at hand: f32 [panels][tokens][NR], or bf16 [panels][tokens / 2][NR][2], behind
     * which for blocks come the columns [panels][NR][LD] */
    void *panels;
    size_t n_held;
    uint64_t n_tokens;
    size_t row; /* number of the next one among samples */
};

static size_t panels_of(size_t cols) { return (cols + NR - 1) / NR; }

static bool takes_halves(const pare_tile_kernels *tiles, pare_compute compute) {
    return compute == PARE_COMPUTE_FAST && tiles->gram_bf16;
}

/* Room for a panel: in f32, of twice as many tokens in bf16, or of both forms of blocks. */
static const size_t room_bytes = (size_t)NR * (TOKENS + LD) * sizeof(uint16_t);

/* bf16 takes half the bytes; blocks have it in two forms. */
static size_t tokens_of(bool halves, bool blocks) {
    return halves && !blocks ? 2 * TOKENS : TOKENS;
}

size_t pare_statistics_tokens(const pare_runtime *rt, pare_compute compute) {
    const pare_tile_kernels *tiles = pare_tile_kernels_get(pare_runtime_isa(rt));
    return tokens_of(takes_halves(tiles, compute), tiles->bf16_block);
}

static size_t panel_bytes(const pare_statistics *s) {
    return tokens_of(s->halves, s->blocks) * NR * (s->halves ? sizeof(uint16_t) : sizeof(float));
}

size_t pare_statistics_bytes(size_t cols, unsigned needs, size_t n_samples) {
    size_t bytes = cols * (2 * sizeof(double) + sizeof(float));
    if (needs & PARE_NEED_RANGE) bytes += 2 * cols * sizeof(float);
    if (needs & PARE_NEED_SAMPLES) bytes += n_samples * cols * sizeof(float);
    if (needs & PARE_NEED_HESSIAN)
        bytes += cols * cols * sizeof(double) + pare_output_half_bytes(cols) +
                 panels_of(cols) * room_bytes;
    return bytes;
}

pare_status pare_statistics_create(pare_statistics **out, pare_runtime *rt, pare_compute compute,
                                   size_t cols, unsigned needs, size_t n_samples, const char *spill,
                                   pare_error *err) {
    pare_statistics *s = pare_calloc(1, sizeof *s);
    *out = s;
    if (!s) return pare_fail(err, PARE_ERR_NOMEM, "statistics: out of memory");
    s->rt = rt;
    s->needs = needs;
    s->cols = cols;
    s->tiles = pare_tile_kernels_get(pare_runtime_isa(rt));
    s->halves = takes_halves(s->tiles, compute);
    s->blocks = s->halves && s->tiles->bf16_block;
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
        good &= (s->hessian = pare_big_alloc(cols * cols * sizeof *s->hessian)) != NULL;
        good &= (s->half = pare_big_alloc(pare_output_half_bytes(cols))) != NULL;
        good &= (s->panels = pare_big_alloc(panels_of(cols) * room_bytes)) != NULL;
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
                     pare_statistics_bytes(cols, needs, n_samples));
}

void pare_statistics_free(pare_statistics *s) {
    if (!s) return;
    pare_free(s->squares);
    pare_free(s->abs_sum);
    pare_free(s->abs_max);
    pare_free(s->min);
    pare_free(s->max);
    if (s->hessian) pare_big_free(s->hessian, s->cols * s->cols * sizeof *s->hessian);
    if (s->half) pare_big_free(s->half, pare_output_half_bytes(s->cols));
    pare_spill_free(&s->samples);
    if (s->panels) pare_big_free(s->panels, panels_of(s->cols) * room_bytes);
    pare_free(s);
}

/* --- sums of columns [begin, end) --- */

/* In blocks of a constant width, which compilers turn into vectors. */
#define EACH_COLUMN(...)                                                                           \
    for (size_t i = 0; i < n; i++, x += ldx) {                                                     \
        size_t c = begin;                                                                          \
        for (; c + NR <= end; c += NR)                                                             \
            for (size_t k = c; k < c + NR; k++) __VA_ARGS__                                        \
        for (size_t k = c; k < end; k++) __VA_ARGS__                                               \
    }

static void add_squares(const pare_statistics *s, const float *x, size_t ldx, size_t n,
                        size_t begin, size_t end) {
    size_t c = begin;
    for (; c + NR <= end; c += NR) s->tiles->squares(s->squares + c, x + c, ldx, n);
    for (; c < end; c++)
        for (size_t i = 0; i < n; i++) s->squares[c] += (double)x[i * ldx + c] * x[i * ldx + c];
}

static void add_abs(double *restrict sum, float *restrict max, const float *restrict x, size_t ldx,
                    size_t n, size_t begin, size_t end) {
    EACH_COLUMN({
        float a = fabsf(x[k]);
        sum[k] += (double)a;
        max[k] = a > max[k] ? a : max[k];
    })
}

static void add_range(float *restrict min, float *restrict max, const float *restrict x, size_t ldx,
                      size_t n, size_t begin, size_t end) {
    EACH_COLUMN({
        min[k] = x[k] < min[k] ? x[k] : min[k];
        max[k] = x[k] > max[k] ? x[k] : max[k];
    })
}

static void add_columns(pare_statistics *s, const float *x, size_t ldx, size_t n, size_t begin,
                        size_t end) {
    add_squares(s, x, ldx, n, begin, end);
    if (s->abs_max) add_abs(s->abs_sum, s->abs_max, x, ldx, n, begin, end);
    if (s->min) add_range(s->min, s->max, x, ldx, n, begin, end);
}

static void keep_samples(pare_statistics *s, const float *x, size_t ldx, size_t n, size_t begin,
                         size_t end) {
    for (size_t i = 0; i < n && s->row + i < s->n_samples; i++)
        for (size_t c = begin; c < end; c++)
            s->samples.data[(s->row + i) * s->cols + c] = x[i * ldx + c];
}

/* --- the Hessian --- */

/* Rows to tokens [at, at + n) of a panel. An odd last one is paired with zeros. */
static void hold_panel(const pare_statistics *s, size_t panel, size_t at, const float *x,
                       size_t ldx, size_t n) {
    char *to = (char *)s->panels + panel * panel_bytes(s);
    if (s->halves)
        s->tiles->pair_f32((uint32_t *)(void *)to + at / 2 * NR, x, ldx, n);
    else
        for (size_t i = 0; i < n; i++)
            memcpy((float *)(void *)to + (at + i) * NR, x + i * ldx, NR * sizeof *x);
}

/* Columns [begin, end) of n rows; those of a last panel that are not there count as zero. */
static void hold_columns(pare_statistics *s, const float *x, size_t ldx, size_t n, size_t begin,
                         size_t end) {
    size_t c = begin;
    for (; c + NR <= end; c += NR) hold_panel(s, c / NR, s->n_held, x + c, ldx, n);
    for (size_t i = 0; c < end && i < n; i += 2) {
        float two[2][NR] = {{0}};
        size_t some = n - i < 2 ? n - i : 2;
        for (size_t k = 0; k < some; k++)
            memcpy(two[k], x + (i + k) * ldx + c, (end - c) * sizeof **two);
        hold_panel(s, c / NR, s->n_held + i, two[0], NR, some);
    }
}

/* Tokens [t, t + n) of panels i and j. */
static void multiply_chunk(const pare_statistics *s, float *tile, size_t i, size_t j, size_t t,
                           size_t n) {
    const char *a = (const char *)s->panels + i * panel_bytes(s),
               *b = (const char *)s->panels + j * panel_bytes(s);
    size_t at = t * NR;
    if (s->halves)
        s->tiles->gram_bf16(tile, (const uint32_t *)(const void *)a + at / 2,
                            (const uint32_t *)(const void *)b + at / 2, n, t > 0);
    else
        s->tiles->gram(tile, (const float *)(const void *)a + at,
                       (const float *)(const void *)b + at, n, t > 0);
}

/* The products of panels i and j to their place. */
static void add_tile(pare_statistics *s, const float *tile, size_t i, size_t j) {
    size_t rows = s->cols - i * NR < NR ? s->cols - i * NR : NR;
    size_t cols = s->cols - j * NR < NR ? s->cols - j * NR : NR;
    double *to = s->hessian + i * NR * s->cols + j * NR;
    if (rows == NR && cols == NR)
        s->tiles->gather(to, s->cols, tile);
    else
        for (size_t r = 0; r < rows; r++, to += s->cols, tile += NR)
            for (size_t c = 0; c < cols; c++) to[c] += (double)tile[c];
}

/* Panels [begin, end) as columns too, tokens up to a multiple of 32: zeros behind the last. */
static void make_columns(const pare_statistics *s, uint32_t *pairs, uint16_t *columns, size_t begin,
                         size_t end, size_t n) {
    uint32_t block[NR * NR] __attribute__((aligned(64)));
    for (size_t p = begin; p < end; p++) {
        uint32_t *panel = pairs + p * TOKENS / 2 * NR;
        memset(panel + s->n_held / 2 * NR, 0, (n - s->n_held) / 2 * NR * sizeof *panel);
        for (size_t t = 0; t < n; t += 2 * NR) {
            s->tiles->transpose(block, panel + t / 2 * NR, NR, NR);
            for (size_t r = 0; r < NR; r++)
                memcpy(columns + (p * NR + r) * LD + t, block + r * NR, NR * sizeof *block);
        }
    }
}

/* Rows of BLOCK panels of the Hessian at a time. */
static void multiply_blocks(pare_worker *w, pare_statistics *s) {
    enum { STRIDE = BLOCK * NR * NR };
    float tiles[BLOCK][STRIDE] __attribute__((aligned(64)));
    const size_t panels = panels_of(s->cols), n = (s->n_held + 31) / 32 * 32;
    uint32_t *pairs = s->panels;
    uint16_t *columns = (uint16_t *)(pairs + panels * TOKENS / 2 * NR);
    size_t begin, end;
    pare_share(w, panels, 1, &begin, &end);
    make_columns(s, pairs, columns, begin, end, n);
    pare_barrier(w);
    for (size_t first; (first = pare_take(w, BLOCK)) < panels;) {
        size_t rows = panels - first < BLOCK ? panels - first : BLOCK;
        for (size_t j = first; j < panels; j += BLOCK) {
            size_t some = panels - j < BLOCK ? panels - j : BLOCK;
            const pare_tile_run run = {columns + first * NR * LD, pairs + j * TOKENS / 2 * NR,
                                       n * sizeof *columns};
            const pare_tile_block block = {.runs = &run,
                                           .n_runs = 1,
                                           .lda = LD * sizeof *columns,
                                           .panel_stride = (size_t)TOKENS * NR * sizeof *columns,
                                           .n_panels = some,
                                           .m = rows * NR,
                                           .c = tiles[0],
                                           .c_stride = STRIDE};
            s->tiles->bf16_block(&block);
            for (size_t k = 0; k < some; k++)
                for (size_t i = 0; i < rows && first + i <= j + k; i++)
                    add_tile(s, tiles[k] + i * NR * NR, first + i, j + k);
        }
    }
}

static void multiply_panels(pare_worker *w, pare_statistics *s) {
    const size_t panels = panels_of(s->cols);
    float tiles[STRIP][NR * NR] __attribute__((aligned(64))) = {{0}};
    for (size_t first; (first = pare_take(w, STRIP)) < panels;)
        for (size_t j = first; j < panels; j++) {
            size_t last = first + STRIP < j + 1 ? first + STRIP : j + 1;
            for (size_t t = 0; t < s->n_held; t += CHUNK)
                for (size_t i = first; i < last; i++)
                    multiply_chunk(s, tiles[i - first], i, j, t,
                                   s->n_held - t < CHUNK ? s->n_held - t : CHUNK);
            for (size_t i = first; i < last; i++) add_tile(s, tiles[i - first], i, j);
        }
}

static void multiply_held(pare_worker *w, pare_statistics *s) {
    (s->blocks ? multiply_blocks : multiply_panels)(w, s);
    pare_barrier(w);
    if (w->id == 0) s->n_held = 0;
    pare_barrier(w);
}

void pare_statistics_add(pare_worker *w, pare_statistics *s, const float *x, size_t ldx, size_t n) {
    size_t begin, end, tokens = tokens_of(s->halves, s->blocks);
    pare_share(w, s->cols, NR, &begin, &end);
    add_columns(s, x, ldx, n, begin, end);
    if (s->samples.data) keep_samples(s, x, ldx, n, begin, end);
    for (size_t i = 0, some; s->hessian && i < n; i += some) {
        some = n - i < tokens - s->n_held ? n - i : tokens - s->n_held;
        hold_columns(s, x + i * ldx, ldx, some, begin, end);
        pare_barrier(w);
        if (w->id == 0) s->n_held += s->halves ? (some + 1) / 2 * 2 : some;
        pare_barrier(w);
        if (s->n_held == tokens) multiply_held(w, s);
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

/* What is below the diagonal, in pieces that the caches hold. */
static void mirror_rows(void *arg, size_t begin, size_t end) {
    const pare_statistics *s = arg;
    for (size_t first = 0; first < end; first += NR)
        for (size_t i = begin; i < end; i++)
            for (size_t c = first; c < i && c < first + NR; c++)
                s->hessian[i * s->cols + c] = s->hessian[c * s->cols + i];
}

const pare_input_stats *pare_statistics_result(pare_statistics *s, size_t n_sequences) {
    if (s->hessian) {
        if (s->n_held) pare_team_run(s->rt, flush_thread, s);
        pare_parallel_for(s->rt, s->cols, NR, mirror_rows, s);
        pare_output_half(s->rt, s->half, s->hessian, s->cols);
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
                           .half = s->half,
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
    if (s->hessian) pare_output_half(s->rt, s->half, s->hessian, s->cols);
    for (size_t i = 0; i < s->result.n_samples; i++) {
        for (size_t c = 0; c < s->cols; c++) s->samples.data[i * s->cols + c] /= scale[c];
        if ((i + 1) % TOKENS == 0) pare_statistics_rest(s, i + 1 - TOKENS, TOKENS);
    }
    pare_statistics_rest(s, 0, s->n_samples);
}
