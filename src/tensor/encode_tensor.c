/* Whole matrices to and from their encoding, on all threads, with the checks that no encoder makes
 * itself: finite input, scales that fit the stored type, usable importance. */
#include "tensor/encodings/encode_common.h"

#include <stdatomic.h>

enum { CHUNK = 8 /* rows taken at once */ };

/* ---- importance ---- */

/* Copies importance[cols], unusable groups of 32 replaced by the mean of the usable values (1 where
 * there is none), and counts them. */
static size_t clean_importance(float *out, const float *importance, size_t cols) {
    double sum = 0.0;
    size_t n = 0, replaced = 0;
    for (int pass = 0; pass < 2; pass++) { /* first the mean, then the copy */
        for (size_t c = 0; c < cols; c += 32) {
            size_t len = cols - c < 32 ? cols - c : 32;
            bool usable = true, some = false;
            for (size_t i = c; i < c + len; i++) {
                usable &= isfinite(importance[i]) && importance[i] >= 0.0f;
                some |= importance[i] > 0.0f;
            }
            usable &= some;
            if (pass == 0) {
                for (size_t i = c; usable && i < c + len; i++) sum += importance[i];
                n += usable ? len : 0;
                continue;
            }
            float mean = n ? (float)(sum / (double)n) : 1.0f;
            for (size_t i = c; i < c + len; i++) out[i] = usable ? importance[i] : mean;
            replaced += !usable;
        }
    }
    return replaced;
}

/* ---- checks of one row ---- */

static pare_status check_input(const pare_encode_kernels *k, const pare_encoding *enc,
                               const float *x, size_t row, size_t cols, pare_error *err) {
    size_t c = k->first_nonfinite(x, cols);
    if (c < cols)
        return pare_fail(err, PARE_ERR_ARG,
                         "row %zu, column %zu: found %g, expected a finite number", row, c,
                         (double)x[c]);
    if (k->abs_max(x, cols) <= enc->max_abs) return PARE_OK;
    for (c = 0; fabsf(x[c]) <= enc->max_abs; c++) continue;
    return pare_fail(err, PARE_ERR_ARG, "row %zu, column %zu: found %g, expected at most %g for %s",
                     row, c, (double)x[c], (double)enc->max_abs, enc->name);
}

/* Looks at the scales that were stored; adds the blocks that became zero to *n_flushed. */
static pare_status check_output(const pare_encoding *enc, const void *bytes, const float *x,
                                size_t row, size_t cols, size_t *n_flushed, pare_error *err) {
    size_t span = enc->span ? enc->span : enc->block_len;
    const uint8_t *block = bytes;
    if (!enc->block_state) return PARE_OK; /* a plain type: max_abs said all */
    for (size_t c = 0; c < cols; c += span, block += enc->block_bytes) {
        size_t n = cols - c < span ? cols - c : span;
        pare_block_state state = enc->block_state(block, n);
        if (state == PARE_BLOCK_FINE) continue;
        if (state == PARE_BLOCK_BAD)
            return pare_fail(err, PARE_ERR_ARG,
                             "row %zu, column %zu: found a scale that %s cannot store, expected "
                             "smaller values",
                             row, c, enc->name);
        bool zero = true;
        for (size_t i = c; i < c + n; i++) zero &= x[i] == 0.0f;
        *n_flushed += !zero;
    }
    return PARE_OK;
}

static pare_status encode_one_row(const pare_encode_kernels *k, const pare_encoding *enc, void *out,
                                  const float *x, size_t row, size_t cols, const float *importance,
                                  size_t *n_flushed, pare_error *err) {
    PARE_TRY(check_input(k, enc, x, row, cols, err));
    enc->encode_row(k, out, x, cols, importance);
    return check_output(enc, out, x, row, cols, n_flushed, err);
}

/* ---- matrices ---- */

typedef struct encode_job {
    const pare_encode_kernels *k;
    const pare_encoding *enc;
    uint8_t *out;
    size_t row_bytes, cols;
    const float *w, *importance;
    _Atomic size_t n_flushed, bad_row; /* the lowest row that failed */
    bool only_check;                   /* input only: a form without rows */
} encode_job;

static void note_bad_row(encode_job *job, size_t row) {
    size_t seen = atomic_load(&job->bad_row);
    while (row < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, row)) continue;
}

static pare_status run_row(encode_job *job, size_t r, size_t *n_flushed, pare_error *err) {
    const float *x = job->w + r * job->cols;
    if (job->only_check) return check_input(job->k, job->enc, x, r, job->cols, err);
    return encode_one_row(job->k, job->enc, job->out + r * job->row_bytes, x, r, job->cols,
                          job->importance, n_flushed, err);
}

static void run_rows(void *arg, size_t begin, size_t end) {
    encode_job *job = arg;
    size_t n_flushed = 0;
    for (size_t r = begin; r < end; r++)
        if (run_row(job, r, &n_flushed, NULL) != PARE_OK) {
            note_bad_row(job, r);
            break;
        }
    atomic_fetch_add(&job->n_flushed, n_flushed);
}

/* All rows; the message of the first that failed. */
static pare_status run_job(pare_runtime *rt, encode_job *job, size_t rows, pare_error *err) {
    size_t unused = 0;
    job->bad_row = SIZE_MAX;
    pare_parallel_for(rt, rows, CHUNK, run_rows, job);
    return job->bad_row == SIZE_MAX ? PARE_OK : run_row(job, job->bad_row, &unused, err);
}

static pare_status encode_rows(pare_runtime *rt, pare_tensor *out, encode_job *job, size_t rows,
                               pare_error *err) {
    size_t bytes[PARE_MAX_PARTS] = {0};
    job->row_bytes = pare_encoding_row_bytes(job->enc, job->cols);
    if ((!job->row_bytes && job->cols) || !pare_mul_size(&bytes[0], rows, job->row_bytes))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: a matrix of %zu x %zu", job->enc->name, rows,
                         job->cols);
    PARE_TRY(pare_tensor_alloc(out, job->enc, rows, job->cols, bytes, err));
    job->out = out->storage;
    pare_status st = run_job(rt, job, rows, err);
    out->n_flushed = job->n_flushed;
    if (st != PARE_OK) pare_tensor_free(out);
    return st;
}

/* ---- forms without rows ---- */

typedef struct flushed_job {
    const pare_tensor *t;
    const float *w;
    _Atomic size_t n_flushed;
} flushed_job;

static bool all_zero(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0.0f) return false;
    return true;
}

static void count_flushed(void *arg, size_t begin, size_t end) {
    enum { PIECE = 1024 };
    flushed_job *job = arg;
    const pare_encoding *enc = job->t->enc;
    size_t cols = job->t->view.cols, group = enc->code_group, n_flushed = 0;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < cols; c += PIECE) {
            const float *x = job->w + r * cols + c;
            float y[PIECE];
            size_t n = cols - c < PIECE ? cols - c : PIECE;
            enc->decode(y, &job->t->view, r, c, n);
            for (size_t g = 0; g < n; g += group) {
                size_t k = n - g < group ? n - g : group;
                n_flushed += all_zero(y + g, k) && !all_zero(x + g, k);
            }
        }
    atomic_fetch_add(&job->n_flushed, n_flushed);
}

static pare_status encode_matrix(pare_runtime *rt, pare_tensor *out, encode_job *job, size_t rows,
                                 pare_error *err) {
    job->only_check = true;
    PARE_TRY(run_job(rt, job, rows, err));
    PARE_TRY(job->enc->encode_matrix(rt, out, job->w, rows, job->cols, job->importance, err));
    if (!job->enc->codes) return PARE_OK; /* plain values: max_abs said all */
    flushed_job count = {.t = out, .w = job->w};
    pare_parallel_for(rt, rows, CHUNK, count_flushed, &count);
    out->n_flushed = count.n_flushed;
    return PARE_OK;
}

static pare_status check_form(const pare_encoding *enc, size_t cols, pare_error *err) {
    if (!enc->encode_row && !enc->encode_matrix)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s can only be read, not written", enc->name);
    if (cols % enc->block_len)
        return pare_fail(err, PARE_ERR_ARG, "found %zu columns, expected a multiple of %u for %s",
                         cols, enc->block_len, enc->name);
    return PARE_OK;
}

pare_status pare_tensor_encode(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc,
                               const float *w, size_t rows, size_t cols, const float *importance,
                               pare_error *err) {
    encode_job job = {
        .k = pare_encode_kernels_get(rt->options.isa), .enc = enc, .w = w, .cols = cols};
    float *clean = NULL;
    size_t n_flat = 0;
    *out = (pare_tensor){0};
    PARE_TRY(check_form(enc, cols, err));
    if (importance) {
        clean = pare_malloc(cols, sizeof *clean);
        if (!clean) return pare_fail(err, PARE_ERR_NOMEM, "importance of %zu columns", cols);
        n_flat = clean_importance(clean, importance, cols);
        job.importance = clean;
    }
    pare_status st = (enc->encode_matrix ? encode_matrix : encode_rows)(rt, out, &job, rows, err);
    if (st == PARE_OK) out->n_flat_importance = n_flat;
    pare_free(clean);
    return st;
}

/* ---- values on a grid ---- */

typedef struct grid_job {
    const pare_encoding *enc;
    uint8_t *out;
    const float *w, *scale;
    const uint8_t *zero;
    size_t row_bytes, cols, groups;
    _Atomic size_t n_flushed, bad_row;
} grid_job;

static pare_status grid_row(const grid_job *job, size_t r, size_t *n_flushed, pare_error *err) {
    uint8_t *bytes = job->out + r * job->row_bytes;
    const float *w = job->w + r * job->cols;
    job->enc->encode_grid_row(bytes, w, job->cols, job->scale + r * job->groups,
                              job->zero ? job->zero + r * job->groups : NULL);
    return check_output(job->enc, bytes, w, r, job->cols, n_flushed, err);
}

static void grid_rows(void *arg, size_t begin, size_t end) {
    grid_job *job = arg;
    size_t n_flushed = 0;
    for (size_t r = begin; r < end; r++)
        if (grid_row(job, r, &n_flushed, NULL) != PARE_OK) {
            size_t seen = atomic_load(&job->bad_row);
            while (r < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, r)) continue;
            break;
        }
    atomic_fetch_add(&job->n_flushed, n_flushed);
}

pare_status pare_tensor_encode_grid(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc,
                                    const float *w, size_t rows, size_t cols, const float *scale,
                                    const uint8_t *zero, pare_error *err) {
    grid_job job = {.enc = enc,
                    .w = w,
                    .scale = scale,
                    .zero = enc->grid->asymmetric ? zero : NULL,
                    .row_bytes = pare_encoding_row_bytes(enc, cols),
                    .cols = cols,
                    .groups = pare_grid_groups(enc->grid, cols),
                    .bad_row = SIZE_MAX};
    size_t bytes[PARE_MAX_PARTS] = {0}, unused = 0;
    *out = (pare_tensor){0};
    PARE_TRY(check_form(enc, cols, err));
    if (!pare_mul_size(&bytes[0], rows, job.row_bytes))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: a matrix of %zu x %zu", enc->name, rows, cols);
    PARE_TRY(pare_tensor_alloc(out, enc, rows, cols, bytes, err));
    job.out = out->storage;
    pare_parallel_for(rt, rows, CHUNK, grid_rows, &job);
    out->n_flushed = job.n_flushed;
    if (job.bad_row == SIZE_MAX) return PARE_OK;
    pare_status st = grid_row(&job, job.bad_row, &unused, err);
    pare_tensor_free(out);
    return st;
}

typedef struct decode_job {
    float *w;
    const pare_tensor *t;
} decode_job;

static void decode_rows(void *arg, size_t begin, size_t end) {
    const decode_job *job = arg;
    size_t cols = job->t->view.cols;
    for (size_t r = begin; r < end; r++)
        job->t->enc->decode(job->w + r * cols, &job->t->view, r, 0, cols);
}

void pare_tensor_decode(pare_runtime *rt, float *w, const pare_tensor *t) {
    decode_job job = {.w = w, .t = t};
    pare_parallel_for(rt, t->view.rows, CHUNK, decode_rows, &job);
}

/* ---- single rows, public ---- */

pare_status pare_encoding_encode_row(const pare_encoding *e, void *out, const float *x, size_t cols,
                                     const float *importance, pare_error *err) {
    PARE_TRY(check_form(e, cols, err));
    if (!e->encode_row)
        return pare_fail(err, PARE_ERR_ARG, "%s has no rows of fixed size", e->name);
    for (size_t c = 0; importance && c < cols; c++)
        if (!isfinite(importance[c]) || importance[c] < 0.0f)
            return pare_fail(err, PARE_ERR_ARG,
                             "importance of column %zu: found %g, expected a number >= 0", c,
                             (double)importance[c]);
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_isa_best());
    size_t n_flushed = 0;
    return encode_one_row(k, e, out, x, 0, cols, importance, &n_flushed, err);
}

pare_status pare_encoding_decode_row(const pare_encoding *e, float *y, const void *row, size_t cols,
                                     pare_error *err) {
    if (!e->block_bytes)
        return pare_fail(err, PARE_ERR_ARG, "%s has no rows of fixed size", e->name);
    if (cols % e->block_len)
        return pare_fail(err, PARE_ERR_ARG, "found %zu columns, expected a multiple of %u for %s",
                         cols, e->block_len, e->name);
    pare_tensor t = pare_tensor_wrap(e, row, 1, cols);
    e->decode(y, &t.view, 0, 0, cols);
    return PARE_OK;
}
