#include "methods/obs.h"

#include "base/memory.h"
#include "kernels/gemm64.h"
#include "kernels/op_kernels.h"

#include <math.h>
#include <string.h>

enum { NB = 64 /* block of the factorization */, ROWS = PARE_COLUMN_SWEEP_ROWS };

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "work space of a Hessian: out of memory");
}

/* ---- the factor ---- */

/* H = R R^T with R upper is the Cholesky factorization of H with rows and columns in reverse, and
 * U = R^-1. So: A = reversed H = L L^T, then L^-1, and both reversed again. */
typedef struct factor {
    pare_runtime *rt;
    pare_gemm64_fn gemm;
    size_t n, ld; /* ld: rows apart in memory */
    double *a;    /* [n][ld]: A, then L in the lower triangle; above it grows the transpose of L^-1,
                   * which takes the blocks on the diagonal whole */
    double inverse[NB * NB]; /* of the block at hand: L^-1 */
    size_t begin, end;
} factor;

/* An odd number of cache lines: the rows of a block then fall into different sets of the caches. */
static size_t row_stride(size_t n) { return ((n + 7) / 8 | 1) * 8; }

/* Unblocked factorization of the diagonal block; false: not positive definite. */
static bool factor_diagonal(factor *f) {
    for (size_t j = f->begin; j < f->end; j++) {
        double *row = f->a + j * f->ld;
        double d = row[j];
        for (size_t k = f->begin; k < j; k++) d -= row[k] * row[k];
        if (!(d > 0.0) || !isfinite(d)) return false;
        row[j] = sqrt(d);
        for (size_t i = j + 1; i < f->end; i++) {
            double *other = f->a + i * f->ld, sum = other[j];
            for (size_t k = f->begin; k < j; k++) sum -= other[k] * row[k];
            other[j] = sum / row[j];
        }
    }
    return true;
}

/* The inverse of the diagonal block, lower. */
static void invert_diagonal(factor *f) {
    size_t m = f->end - f->begin;
    memset(f->inverse, 0, sizeof f->inverse);
    for (size_t i = 0; i < m; i++) {
        const double *row = f->a + (f->begin + i) * f->ld + f->begin;
        f->inverse[i * NB + i] = 1.0 / row[i];
        for (size_t j = 0; j < i; j++) {
            double sum = 0.0;
            for (size_t k = j; k < i; k++) sum += row[k] * f->inverse[k * NB + j];
            f->inverse[i * NB + j] = -sum / row[i];
        }
    }
}

/* Rows below the block: L_ik = A_ik L_kk^-T. */
static void solve_rows(void *arg, size_t begin, size_t end) {
    const factor *f = arg;
    size_t m = f->end - f->begin;
    double out[NB * NB];
    for (size_t i = begin, rows; i < end; i += rows) {
        double *block = f->a + (f->end + i) * f->ld + f->begin;
        rows = end - i < NB ? end - i : NB;
        memset(out, 0, sizeof out);
        f->gemm(out, NB, block, f->ld, f->inverse, NB, rows, m, m);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < m; j++) block[r * f->ld + j] = -out[r * NB + j];
    }
}

/* What is left: A_ij -= L_ik L_jk^T, the lower triangle in blocks of rows. */
static void update_rows(void *arg, size_t begin, size_t end) {
    const factor *f = arg;
    for (size_t b = begin; b < end; b++) {
        size_t i = f->end + b * NB, m = f->n - i < NB ? f->n - i : NB;
        for (size_t j = f->end; j <= i; j += NB) {
            size_t n = f->n - j < NB ? f->n - j : NB;
            f->gemm(f->a + i * f->ld + j, f->ld, f->a + i * f->ld + f->begin, f->ld,
                    f->a + j * f->ld + f->begin, f->ld, m, n, f->end - f->begin);
        }
    }
}

static bool cholesky(factor *f) {
    for (f->begin = 0; f->begin < f->n; f->begin = f->end) {
        f->end = f->n - f->begin < NB ? f->n : f->begin + NB;
        if (!factor_diagonal(f)) return false;
        invert_diagonal(f);
        size_t left = f->n - f->end;
        pare_parallel_for(f->rt, left, NB, solve_rows, f);
        pare_parallel_for(f->rt, (left + NB - 1) / NB, 1, update_rows, f);
    }
    return true;
}

/* Block column j of X = L^-1 above the block row: X_ij = -L_ii^-1 sum_k L_ik X_kj, transposed. */
static void invert_blocks(void *arg, size_t begin, size_t end) {
    const factor *f = arg;
    size_t m = f->end - f->begin, ld = f->ld;
    double sum[NB * NB], out[NB * NB];
    for (size_t b = begin; b < end; b++) {
        size_t j = b * NB; /* whole blocks: they lie before the last one */
        memset(sum, 0, sizeof sum);
        memset(out, 0, sizeof out);
        f->gemm(sum, NB, f->a + j * ld + j, ld, f->a + f->begin * ld + j, ld, NB, m, f->begin - j);
        f->gemm(out, NB, sum, NB, f->inverse, NB, NB, m, m);
        for (size_t r = 0; r < NB; r++)
            for (size_t c = 0; c < m; c++) f->a[(j + r) * ld + f->begin + c] = -out[r * NB + c];
    }
}

static void invert(factor *f) {
    for (f->begin = 0; f->begin < f->n; f->begin = f->end) {
        f->end = f->n - f->begin < NB ? f->n : f->begin + NB;
        invert_diagonal(f);
        size_t m = f->end - f->begin;
        for (size_t r = 0; r < m; r++)
            for (size_t c = 0; c < m; c++)
                f->a[(f->begin + c) * f->ld + f->begin + r] = f->inverse[r * NB + c];
        pare_parallel_for(f->rt, f->begin / NB, 1, invert_blocks, f);
    }
}

double pare_obs_dead_square(const pare_input_stats *x) {
    return x->n_sequences ? 0.5 * (double)x->n_sequences : 1.0;
}

/* A = H in the order of perm, reversed, with damping and a floor of the diagonal. */
typedef struct filling {
    const factor *f;
    const pare_input_stats *x;
    const uint32_t *perm;
    const bool *dead;
    double add, floor;
} filling;

static void fill_rows(void *arg, size_t begin, size_t end) {
    const filling *t = arg;
    const uint32_t *perm = t->perm;
    size_t n = t->f->n;
    for (size_t i = begin; i < end; i++) {
        const double *h = t->x->hessian + (perm ? perm[n - 1 - i] : n - 1 - i) * n;
        double *to = t->f->a + i * t->f->ld;
        for (size_t j = 0; j <= i; j++) to[j] = h[perm ? perm[n - 1 - j] : n - 1 - j];
        double d = t->dead[n - 1 - i] ? pare_obs_dead_square(t->x) : to[i];
        to[i] = fmax(d + t->add, t->floor);
    }
}

typedef struct storing {
    const pare_obs *obs;
    const factor *f;
} storing;

/* Rows [begin, end) of U are columns of A: in pieces of both that the caches hold. */
static void store_rows(void *arg, size_t begin, size_t end) {
    enum { PIECE = 16 };
    const storing *t = arg;
    size_t n = t->f->n, ld = t->obs->ld;
    float *u = t->obs->u;
    memset(u + begin * ld, 0, (end - begin) * ld * sizeof *u);
    for (size_t first = begin; first < n; first += PIECE)
        for (size_t j = begin; j < end; j++)
            for (size_t k = j > first ? j : first; k < n && k < first + PIECE; k++)
                u[j * ld + k] = (float)t->f->a[(n - 1 - k) * t->f->ld + n - 1 - j];
}

/* U in f32 must still be a factor. */
static bool usable(const pare_obs *obs) {
    for (size_t j = 0; j < obs->n; j++)
        if (!(obs->u[j * obs->ld + j] > 0.0f) || !isfinite(obs->u[j * obs->ld + j])) return false;
    return true;
}

static pare_status climb(pare_obs *obs, bool *factored, factor *f, const pare_input_stats *x,
                         const uint32_t *perm, double damp, pare_error *err) {
    size_t n = f->n;
    double mean = 0.0, max = 0.0;
    for (size_t j = 0; j < n; j++) {
        size_t from = perm ? perm[j] : j;
        double d = x->hessian[from * n + from];
        if (!isfinite(d))
            return pare_fail(err, PARE_ERR_INPUT,
                             "Hessian: column %zu: found %g, expected a finite number", from, d);
        obs->dead[j] = d == 0.0;
        obs->n_dead += obs->dead[j];
        mean += (obs->dead[j] ? pare_obs_dead_square(x) : d) / (double)n;
        if (d > max) max = d;
    }
    *factored = false;
    int floors = 0;
    for (obs->damp = damp; !*factored; obs->damp *= 2) {
        PARE_TRY(pare_check_cancel(f->rt, err));
        double floor = 0.0;
        if (obs->damp > 1.0) { /* the last rungs */
            obs->damp = 1.0;
            if (++floors > 6) return PARE_OK;
            floor = max * 1e-7 * pow(10.0, floors);
        }
        filling from = {f, x, perm, obs->dead, obs->damp * mean, floor};
        pare_parallel_for(f->rt, n, ROWS, fill_rows, &from);
        if (!cholesky(f)) {
            if (obs->damp == 0.0) obs->damp = 0.005;
            continue;
        }
        invert(f);
        pare_parallel_for(f->rt, n, ROWS, store_rows, &(storing){obs, f});
        *factored = usable(obs);
        obs->floor = floor;
        if (*factored) break;
    }
    return PARE_OK;
}

pare_status pare_obs_factor(pare_obs *obs, bool *factored, const pare_weight_job *job,
                            const uint32_t *perm, double damp, pare_error *err) {
    pare_runtime *rt = job->rt;
    size_t n = job->x->cols, ld = row_stride(n), bytes = n * ld * sizeof(double);
    *obs = (pare_obs){.n = n, .ld = (n + 15) & ~(size_t)15};
    factor *f = pare_malloc(1, sizeof *f);
    if (!f) return fail_memory(err);
    *f = (factor){.rt = rt, .gemm = pare_gemm64_get(pare_runtime_isa(rt)), .n = n, .ld = ld};
    f->a = pare_big_alloc(bytes);
    obs->u = pare_big_alloc(n * obs->ld * sizeof *obs->u);
    obs->dead = pare_calloc(n, sizeof *obs->dead);
    pare_status st = PARE_OK;
    if (f->a && obs->u && obs->dead)
        st = climb(obs, factored, f, job->x, perm, damp, err);
    else
        st = fail_memory(err);
    if (f->a) pare_big_free(f->a, bytes);
    pare_free(f);
    if (st == PARE_OK && *factored && obs->floor > 0)
        pare_job_note(job,
                      "Hessian not positive definite: damping raised to %g, its diagonal to at "
                      "least %g",
                      obs->damp, obs->floor);
    else if (st == PARE_OK && *factored && obs->damp > damp)
        pare_job_note(job, "Hessian not positive definite: damping raised to %g", obs->damp);
    if (st != PARE_OK) pare_obs_free(obs);
    return st;
}

void pare_obs_free(pare_obs *obs) {
    if (obs->u) pare_big_free(obs->u, obs->n * obs->ld * sizeof *obs->u);
    pare_free(obs->dead);
    *obs = (pare_obs){0};
}

size_t pare_obs_bytes(size_t rows, size_t cols) {
    return cols * row_stride(cols) * sizeof(double) + cols * cols * sizeof(float) +
           3 * rows * cols * sizeof(float);
}

/* ---- the sweep ---- */

typedef struct sweep {
    const pare_obs *obs;
    const pare_obs_rule *rule;
    const pare_attn_kernels *gemm;
    const pare_column_sweep_kernels *k;
    float *w;
    size_t rows;
    double *losses; /* [rows] sum of e^2 */
    size_t begin, end;
    float *space; /* [n_threads][per_thread] */
    size_t per_thread;
} sweep;

/* What a thread holds of ROWS rows. */
typedef struct held {
    float *minus;   /* [ROWS][block] the negated errors */
    float *columns; /* [block][ROWS] */
    float *lazy;    /* [ROWS][ld] the rows as they were when the block began, where a rule asks */
} held;

static size_t space_of(size_t block, size_t ld, bool lazy) {
    return 2 * ROWS * block + (lazy ? ROWS * ld : 0) + 16;
}

/* Columns [first, last) of m rows: into the rows. */
static void put_back(const sweep *s, const held *h, size_t row, size_t m, size_t first,
                     size_t last) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = first; j < last; j++)
            s->w[(row + i) * s->obs->ld + j] = h->columns[(j - s->begin) * ROWS + i];
}

static void begin_unit(const sweep *s, const held *h, size_t row, size_t m, size_t j) {
    const pare_obs_rule *rule = s->rule;
    size_t ld = s->obs->ld;
    put_back(s, h, row, m, j, j + rule->unit < s->end ? j + rule->unit : s->end);
    for (size_t i = 0; i < m; i++)
        rule->begin_unit(rule->arg, row + i, j, s->w + (row + i) * ld, h->lazy + i * ld);
}

/* m rows, columns [begin, end). */
static void settle_rows(const sweep *s, const held *h, size_t row, size_t m) {
    const pare_obs_rule *rule = s->rule;
    size_t ld = s->obs->ld, width = s->end - s->begin;
    const float *w = s->w + row * ld;
    if (m < ROWS) memset(h->columns, 0, width * ROWS * sizeof *w);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < width; j++) h->columns[j * ROWS + i] = w[i * ld + s->begin + j];
    if (rule->begin_unit) memcpy(h->lazy, w, m * ld * sizeof *w);
    double losses[ROWS] = {0};
    for (size_t j = s->begin; j < s->end; j++) {
        if (rule->begin_unit && rule->unit && j % rule->unit == 0) begin_unit(s, h, row, m, j);
        const float *u = s->obs->u + j * ld;
        float *column = h->columns + (j - s->begin) * ROWS, q[ROWS] = {0}, e[ROWS];
        rule->settle(rule->arg, row, m, j, column, q);
        for (size_t i = 0; i < ROWS; i++) e[i] = (column[i] - q[i]) / u[j];
        for (size_t i = 0; i < m; i++) h->minus[i * width + j - s->begin] = -e[i];
        for (size_t i = 0; i < m; i++) losses[i] += (double)e[i] * (double)e[i];
        memcpy(column, q, sizeof q);
        s->k->pass_on(column + ROWS, e, u + j + 1, s->end - j - 1);
    }
    put_back(s, h, row, m, s->begin, s->end);
    for (size_t i = 0; i < m; i++) s->losses[row + i] += losses[i];
}

static void sweep_rows(pare_worker *worker, void *arg) {
    const sweep *s = arg;
    size_t ld = s->obs->ld, width = s->end - s->begin;
    float *space = s->space + (size_t)worker->id * s->per_thread;
    const held h = {space, space + ROWS * width, space + 2 * ROWS * width};
    for (size_t r; (r = pare_take(worker, ROWS)) < s->rows;) {
        size_t m = s->rows - r < ROWS ? s->rows - r : ROWS;
        settle_rows(s, &h, r, m);
        size_t first = s->end & ~(size_t)15; /* the rows of U are 0 up to where they begin */
        if (first < ld && s->end < s->obs->n) {
            pare_attn_panels u = {s->obs->u + s->begin * ld + first, (ld - first) / PARE_ATTN_NR,
                                  ld, PARE_ATTN_NR};
            s->gemm->gemm(s->w + r * ld + first, ld, h.minus, width, m, &u, width, true);
        }
    }
}

pare_status pare_obs_sweep(float *w, size_t rows, const pare_obs *obs, const pare_obs_rule *rule,
                           size_t block, pare_runtime *rt, double *loss, pare_error *err) {
    block = (block + 15) & ~(size_t)15; /* products begin at whole panels */
    sweep s = {.obs = obs,
               .rule = rule,
               .gemm = pare_op_kernels_get(pare_runtime_isa(rt))->attn,
               .k = pare_column_sweep_kernels_get(pare_runtime_isa(rt)),
               .w = w,
               .rows = rows,
               .losses = pare_calloc(rows, sizeof(double)),
               .per_thread = space_of(block, obs->ld, rule->begin_unit != NULL)};
    s.space = pare_malloc((size_t)pare_runtime_threads(rt) * s.per_thread, sizeof *s.space);
    pare_status st = s.losses && s.space ? PARE_OK : fail_memory(err);
    for (s.begin = 0; st == PARE_OK && s.begin < obs->n; s.begin = s.end) {
        s.end = obs->n - s.begin < block ? obs->n : s.begin + block;
        if ((st = pare_check_cancel(rt, err)) != PARE_OK) break;
        if (rule->block) st = rule->block(rule->arg, w, obs->ld, s.begin, s.end, err);
        if (st == PARE_OK) pare_team_run(rt, sweep_rows, &s);
    }
    double total = 0.0;
    for (size_t r = 0; s.losses && r < rows; r++) total += s.losses[r];
    if (loss) *loss = 0.5 * total;
    pare_free(s.losses);
    pare_free(s.space);
    return st;
}

/* ---- the error of the output ---- */

/* d H d^T = 2 d T d^T, T the part of H above its diagonal and half of the diagonal. T is packed:
 * panel p has columns 16 p to 16 p + 15 and the rows to its last column. */
enum { ERROR_ROWS = 48 /* a panel is read once for them */, NR = PARE_ATTN_NR };

static size_t panels_of(size_t cols) { return (cols + NR - 1) / NR; }
static size_t panel_rows(size_t cols, size_t p) {
    return cols < (p + 1) * NR ? cols : (p + 1) * NR;
}
/* Floats before panel p; p may be the number of panels. */
static size_t panel_at(size_t p) { return p * (p + 1) / 2 * NR * NR; }

size_t pare_output_half_bytes(size_t cols) { return panel_at(panels_of(cols)) * sizeof(float); }

typedef struct packing {
    float *half;
    const double *hessian; /* [cols][cols] */
    size_t cols;
} packing;

static void pack_panels(void *arg, size_t begin, size_t end) {
    const packing *j = arg;
    for (size_t p = begin; p < end; p++) {
        float *to = j->half + panel_at(p);
        size_t first = p * NR, n = j->cols - first < NR ? j->cols - first : NR;
        memset(to, 0, panel_rows(j->cols, p) * NR * sizeof *to);
        for (size_t r = 0; r < first + n; r++)
            for (size_t c = r > first ? r - first : 0; c < n; c++) {
                double h = j->hessian[r * j->cols + first + c];
                to[r * NR + c] = (float)(r == first + c ? 0.5 * h : h);
            }
    }
}

void pare_output_half(pare_runtime *rt, float *half, const double *hessian, size_t cols) {
    pare_parallel_for(rt, panels_of(cols), 1, pack_panels, &(packing){half, hessian, cols});
}

typedef struct error_job {
    const pare_attn_kernels *gemm;
    const pare_column_sweep_kernels *k;
    const float *a, *b, *half;
    size_t rows, cols, ld;
    double *sums; /* [rows] */
    float *space; /* [n_threads][ERROR_ROWS][ld + NR] */
} error_job;

static void error_rows(pare_worker *w, void *arg) {
    const error_job *j = arg;
    float *d = j->space + (size_t)w->id * ERROR_ROWS * (j->ld + NR), *y = d + ERROR_ROWS * j->ld;
    for (size_t r; (r = pare_take(w, ERROR_ROWS)) < j->rows;) {
        size_t m = j->rows - r < ERROR_ROWS ? j->rows - r : ERROR_ROWS;
        for (size_t i = 0; i < m; i++) {
            const float *a = j->a + (r + i) * j->cols, *b = j->b ? j->b + (r + i) * j->cols : NULL;
            for (size_t k = 0; k < j->ld; k++)
                d[i * j->ld + k] = k < j->cols ? a[k] - (b ? b[k] : 0.0f) : 0.0f;
            j->sums[r + i] = 0.0;
        }
        for (size_t p = 0; p * NR < j->cols; p++) {
            pare_attn_panels t = {j->half + panel_at(p), 1, NR, 0};
            j->gemm->gemm(y, NR, d, j->ld, m, &t, panel_rows(j->cols, p), false);
            j->k->dots(j->sums + r, d + p * NR, j->ld, y, m);
        }
    }
}

double pare_output_error(pare_runtime *rt, const pare_input_stats *x, const float *a,
                         const float *b, size_t rows) {
    size_t cols = x->cols, ld = panels_of(cols) * NR, bytes = pare_output_half_bytes(cols);
    float *half = x->half ? NULL : pare_big_alloc(bytes);
    if (half) pare_output_half(rt, half, x->hessian, cols);
    error_job j = {.gemm = pare_op_kernels_get(pare_runtime_isa(rt))->attn,
                   .k = pare_column_sweep_kernels_get(pare_runtime_isa(rt)),
                   .a = a,
                   .b = b,
                   .half = x->half ? x->half : half,
                   .rows = rows,
                   .cols = cols,
                   .ld = ld,
                   .sums = pare_malloc(rows, sizeof(double)),
                   .space = pare_malloc(ERROR_ROWS * (ld + NR) * (size_t)pare_runtime_threads(rt),
                                        sizeof(float))};
    double total = -1.0;
    if (j.half && j.sums && j.space) {
        pare_team_run(rt, error_rows, &j);
        total = 0.0;
        for (size_t r = 0; r < rows; r++) total += 2.0 * j.sums[r];
    }
    if (half) pare_big_free(half, bytes);
    pare_free(j.sums);
    pare_free(j.space);
    return total > -1.0 && total < 0.0 ? 0.0 : total;
}
