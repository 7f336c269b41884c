/* One tensor of a compression run: read, transformed by the methods that take it, encoded,
 * measured. */
#include "pipeline/compress_run.h"

#include "base/memory.h"
#include "base/os.h"
#include "kernels/encode.h"
#include "methods/obs.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "compress: out of memory");
}

typedef struct rows_job {
    const pare_tensor *t;
    float *w; /* [..][cols] of rows first_row.. */
    size_t first_row;
} rows_job;

static void decode_rows(void *arg, size_t begin, size_t end) {
    const rows_job *j = arg;
    size_t cols = j->t->view.cols;
    for (size_t r = begin; r < end; r++)
        j->t->enc->decode(j->w + r * cols, &j->t->view, j->first_row + r, 0, cols);
}

typedef struct compare_job {
    const pare_tensor *before, *after;
    double *sums; /* [rows][3]: (after - before)^2, before^2, zeros after */
    float *rows;  /* [n_threads][2][cols] */
    size_t n_bad; /* rows with values that are not finite */
} compare_job;

static void compare_rows(pare_worker *w, void *arg) {
    compare_job *j = arg;
    size_t cols = j->before->view.cols;
    float *a = j->rows + (size_t)w->id * 2 * cols, *b = a + cols;
    for (size_t r; (r = pare_take(w, 1)) < j->before->view.rows;) {
        j->before->enc->decode(a, &j->before->view, r, 0, cols);
        if (j->after == j->before)
            memcpy(b, a, cols * sizeof *b);
        else
            j->after->enc->decode(b, &j->after->view, r, 0, cols);
        double e = 0, s = 0;
        size_t zeros = 0;
        for (size_t i = 0; i < cols; i++) {
            double d = (double)b[i] - (double)a[i];
            e += d * d;
            s += (double)a[i] * (double)a[i];
            zeros += b[i] == 0.0f;
        }
        j->sums[3 * r] = e;
        j->sums[3 * r + 1] = s;
        j->sums[3 * r + 2] = (double)zeros;
    }
}

/* Relative error and sparsity, rows summed in order: the same for any number of threads. A copied
 * tensor (after == before) has no error, whatever values it holds. */
static pare_status measure(compress_run *c, const pare_tensor *before, const pare_tensor *after,
                           pare_layer_report *layer, pare_error *err) {
    size_t rows = before->view.rows, cols = before->view.cols;
    compare_job job = {before, after, pare_malloc(3 * rows, sizeof(double)),
                       pare_malloc(2 * cols * (size_t)c->rt->options.n_threads, sizeof(float)), 0};
    pare_status st = PARE_OK;
    if (job.sums && job.rows) {
        pare_team_run(c->rt, compare_rows, &job);
        double e = 0, s = 0, zeros = 0;
        for (size_t r = 0; r < rows; r++) {
            e += job.sums[3 * r];
            s += job.sums[3 * r + 1];
            zeros += job.sums[3 * r + 2];
        }
        layer->error = after != before && s > 0 ? sqrt(e / s) : 0;
        layer->sparsity = rows && cols ? zeros / ((double)rows * (double)cols) : 0;
    } else {
        st = fail_memory(err);
    }
    pare_free(job.sums);
    pare_free(job.rows);
    return st;
}

static pare_status check_finite(const compress_run *c, const float *w, size_t n, size_t first,
                                const char *name, pare_error *err) {
    size_t bad = 0, at = 0;
    for (size_t i = n; i-- > 0;)
        if (!isfinite(w[i])) {
            bad++;
            at = i;
        }
    if (!bad) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: %s: value %zu: found %s (%zu such values), expected finite weights",
                     pare_source_path(c->source), name, first + at,
                     isnan(w[at]) ? "NaN" : "infinity", bad);
}

/* --- all values at once: what methods and sparse forms need --- */

/* Scales and zero points that a quantizer leaves. */
typedef struct grid_space {
    float *scale;
    uint8_t *zero;
} grid_space;

static void keep_note(void *arg, const char *line) {
    compress_run *c = arg;
    pare_error err; /* out of memory for a note is not worth the run */
    (void)compress_add_fallback(c, &err, "%s", line);
}

/* In each whole four of the inputs at least two are zeros. */
static bool is_two_of_four(const float *w, size_t rows, size_t cols) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i + 4 <= cols; i += 4) {
            const float *x = w + r * cols + i;
            if ((x[0] == 0) + (x[1] == 0) + (x[2] == 0) + (x[3] == 0) < 2) return false;
        }
    return cols >= 4;
}

/* Are the file's zeros an earlier pruner's? In a quarter of all weights they do not arise by
 * rounding, but to fewer than 32 codes: there a pattern tells. */
static bool was_pruned(const tensor_plan *p, const pare_weight_job *job, bool tells) {
    enum { FEW_CODES = 32 };
    size_t zeros = 0, n = job->rows * job->cols;
    for (size_t i = 0; i < n; i++) zeros += job->w[i] == 0.0f;
    if (4 * zeros < n) return false;
    const pare_encoding *from = p->t->enc;
    bool few =
        from && from->codes && !from->part_sizes && from->code_max - from->code_min < FEW_CODES;
    if (!few || is_two_of_four(job->w, job->rows, job->cols)) return true;
    if (tells)
        pare_job_note(
            job,
            "%.0f%% of its values are zeros, which rounding to %s leaves too: they are not "
            "taken for pruned ones",
            100.0 * (double)zeros / (double)n, from->name);
    return false;
}

/* Steps [first, last) on the job. *pruned: a step before them pruned, and then one of them did. */
static pare_status run_methods(compress_run *c, const tensor_plan *p, pare_weight_job *job,
                               size_t first, size_t last, bool *pruned, pare_error *err) {
    if (first == 0) *pruned |= was_pruned(p, job, last > first); /* later ones are known */
    bool to_end = last == c->recipe->n_steps;
    if (to_end && job->x && job->x->n_tokens < 32) /* less than the smallest group of a quantizer */
        pare_job_note(job, "saw %llu calibration tokens only",
                      (unsigned long long)job->x->n_tokens);
    for (size_t i = first; i < last; i++) {
        const pare_step *step = &c->recipe->steps[i];
        if (!step->method || !step->method->run ||
            (step->method->act && p->quantizer != step->method) ||
            !pare_step_takes(step, p->t->canonical, p->n_dims, c->tied))
            continue;
        job->keep_zeros = *pruned;
        job->enc = step->method->encoding ? step->method->encoding(step->options) : NULL;
        void *options = pare_malloc(1, step->method->options_size);
        if (!options) return fail_memory(err);
        compress_step_options(c, i, (size_t)(p - c->plans), options);
        pare_status st = step->method->run(job, options, err);
        pare_free(options);
        if (st != PARE_OK) return st;
        /* a grid's values are looked at where they are encoded */
        if (!job->enc &&
            check_finite(c, job->w, job->rows * job->cols, 0, p->t->canonical, err) != PARE_OK)
            return pare_fail_prefix(err, "after %s", step->method->name);
        *pruned |= !job->enc && !step->method->scales;
    }
    return PARE_OK;
}

/* The squared error of the layer's output relative to the output's own, where a Hessian is there to
 * tell; before is overwritten. */
static pare_status measure_output(compress_run *c, const tensor_plan *p, const pare_input_stats *x,
                                  const float *before, const pare_tensor *after, float *w,
                                  pare_layer_report *layer, pare_error *err) {
    if (!x || !x->hessian) return PARE_OK;
    pare_tensor_decode(c->rt, w, after);
    double norm = pare_output_error(c->rt, x, before, NULL, p->rows),
           error = pare_output_error(c->rt, x, w, before, p->rows);
    if (norm < 0 || error < 0) return fail_memory(err);
    layer->output_error = norm > 0 ? sqrt(error / norm) : 0;
    return PARE_OK;
}

static pare_weight_job job_of(compress_run *c, size_t i, const pare_input_stats *x, float *w) {
    const tensor_plan *p = &c->plans[i];
    return (pare_weight_job){.rt = c->rt,
                             .name = p->t->canonical,
                             .stream = i,
                             .w = w,
                             .rows = p->rows,
                             .cols = p->cols,
                             .x = x,
                             .note = keep_note,
                             .note_arg = c};
}

static pare_status recode(compress_run *c, size_t index, const tensor_state *s,
                          const pare_input_stats *x, const float *before, float *w, grid_space grid,
                          pare_tensor *out, pare_error *err) {
    const tensor_plan *p = &c->plans[index];
    pare_weight_job job = job_of(c, index, x, w);
    job.scale = grid.scale;
    job.zero = grid.zero;
    bool pruned = s && s->pruned;
    if (s && s->scale && grid.scale) { /* a later quantizer overwrites it */
        memcpy(grid.scale, s->scale, s->n_scales * sizeof *s->scale);
        memcpy(grid.zero, s->zero, s->n_scales);
    }
    PARE_TRY(run_methods(c, p, &job, s ? s->first_step : 0, c->recipe->n_steps, &pruned, err));
    pare_status st;
    if (p->quantizer) {
        st = pare_tensor_encode_grid(c->rt, out, p->enc, w, p->rows, p->cols, grid.scale, grid.zero,
                                     err);
    } else {
        float *own;
        const float *importance;
        PARE_TRY(compress_importance(c, p, x, &own, &importance, err));
        st = pare_tensor_encode(c->rt, out, p->enc, w, p->rows, p->cols, importance, err);
        pare_free(own);
    }
    if (st != PARE_OK)
        return pare_fail_prefix(err, "%s: %s", pare_source_path(c->source), p->t->canonical);
    return before ? measure_output(c, p, x, before, out, w, &c->report->layers[index], err)
                  : PARE_OK;
}

/* All values of `in`, which must be finite. */
static pare_status decode_all(compress_run *c, const tensor_plan *p, const pare_tensor *in,
                              float *w, pare_error *err) {
    rows_job job = {in, w, 0};
    pare_parallel_for(c->rt, p->rows, 16, decode_rows, &job);
    return check_finite(c, w, p->rows * p->cols, 0, p->t->canonical, err);
}

/* s: NULL, or what has been done with `in`, which is as its scales make it. */
static pare_status recode_whole(compress_run *c, size_t index, const tensor_state *s,
                                const pare_input_stats *x, const pare_tensor *in, pare_tensor *out,
                                pare_error *err) {
    const tensor_plan *p = &c->plans[index];
    size_t n = p->rows * p->cols, groups = p->rows * (p->cols / 32 + 1);
    bool keep = x && x->hessian; /* the output's error is measured against the values before */
    float *w = pare_big_alloc(n * sizeof *w), *before = keep ? pare_big_alloc(n * sizeof *w) : NULL;
    grid_space grid = {0};
    if (p->quantizer) {
        grid.scale = pare_calloc(groups, sizeof *grid.scale);
        grid.zero = pare_calloc(groups, 1);
    }
    pare_status st =
        w && (before || !keep) && (grid.zero || !p->quantizer) && (grid.scale || !p->quantizer)
            ? PARE_OK
            : fail_memory(err);
    if (st == PARE_OK) st = decode_all(c, p, in, w, err);
    if (st == PARE_OK && keep) memcpy(before, w, n * sizeof *w);
    if (st == PARE_OK && s && s->w) memcpy(w, s->w, n * sizeof *w);
    if (st == PARE_OK) st = recode(c, index, s, x, before, w, grid, out, err);
    if (w) pare_big_free(w, n * sizeof *w);
    if (before) pare_big_free(before, n * sizeof *w);
    pare_free(grid.scale);
    pare_free(grid.zero);
    return st;
}

pare_status compress_sample(compress_run *c, size_t i, const pare_tensor *in,
                            const pare_input_stats *x, pare_error *err) {
    tensor_plan *p = &c->plans[i], plan = *p;
    const pare_layer_report layer = c->report->layers[i];
    size_t n_fallbacks = c->report->info.n_fallbacks;
    pare_tensor out = {0};
    p->rows = in->view.rows;
    p->cols = in->view.cols;
    pare_status st = recode_whole(c, i, NULL, x, in, &out, err);
    if (st == PARE_OK) st = measure(c, in, &out, &c->report->layers[i], err);
    pare_tensor_free(&out);
    *p = plan;
    c->report->layers[i] = layer;
    while (c->report->info.n_fallbacks > n_fallbacks)
        pare_free(c->report->fallbacks[--c->report->info.n_fallbacks]);
    return st;
}

/* Rows are independent: piece by piece into one block of bytes. */
static pare_status recode_pieces(compress_run *c, const tensor_plan *p, const pare_tensor *in,
                                 pare_tensor *out, pare_error *err) {
    float *own; /* stays NULL: there are no statistics */
    const float *importance;
    PARE_TRY(compress_importance(c, p, NULL, &own, &importance, err));
    size_t row_bytes = pare_encoding_row_bytes(p->enc, p->cols), bytes = row_bytes * p->rows;
    size_t step = PARE_CHUNK_VALUES / (p->cols ? p->cols : 1);
    if (step < 1) step = 1;
    if (step > p->rows) step = p->rows;
    uint8_t *data = pare_big_alloc(bytes);
    float *w = pare_malloc(step * p->cols, sizeof *w);
    size_t n_flushed = 0;
    if (!data || !w) {
        pare_free(w);
        pare_big_free(data, bytes);
        return fail_memory(err);
    }
    pare_status st = PARE_OK;
    for (size_t r = 0; r < p->rows && st == PARE_OK; r += step) {
        size_t n = p->rows - r < step ? p->rows - r : step;
        rows_job job = {in, w, r};
        pare_parallel_for(c->rt, n, 16, decode_rows, &job);
        st = check_finite(c, w, n * p->cols, r * p->cols, p->t->canonical, err);
        pare_tensor piece = {0};
        if (st == PARE_OK) {
            st = pare_tensor_encode(c->rt, &piece, p->enc, w, n, p->cols, importance, err);
            if (st != PARE_OK)
                pare_fail_prefix(err, "%s: %s: from row %zu", pare_source_path(c->source),
                                 p->t->canonical, r);
        }
        if (st == PARE_OK) memcpy(data + r * row_bytes, piece.view.part[0], n * row_bytes);
        n_flushed += piece.n_flushed;
        pare_tensor_free(&piece);
        if (st == PARE_OK) st = pare_check_cancel(c->rt, err);
    }
    pare_free(w);
    if (st != PARE_OK) {
        pare_big_free(data, bytes);
        return st;
    }
    *out = pare_tensor_wrap(p->enc, data, p->rows, p->cols);
    out->storage = data;
    out->storage_bytes = bytes;
    out->n_flushed = n_flushed;
    return PARE_OK;
}

/* Blocks of tiny values that the encoding's scales cannot hold: told, or refused. */
static pare_status check_flushed(compress_run *c, const tensor_plan *p, const pare_tensor *out,
                                 pare_error *err) {
    if (out->n_flat_importance)
        PARE_TRY(compress_add_fallback(c, err,
                                       "%s: %zu groups of 32 inputs saw nothing in calibration: "
                                       "their errors count as the mean",
                                       p->t->canonical, out->n_flat_importance));
    if (!out->n_flushed) return PARE_OK;
    if (c->o->no_fallback)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: %s: found %zu blocks of values too small for the scales of %s, "
                         "expected an encoding that holds them",
                         pare_source_path(c->source), p->t->canonical, out->n_flushed,
                         p->enc->name);
    return compress_add_fallback(c, err,
                                 "%s: %zu blocks too small for the scales of %s stored as zeros",
                                 p->t->canonical, out->n_flushed, p->enc->name);
}

/* --- steps that need a whole block --- */

void compress_state_free(tensor_state *s, const tensor_plan *p) {
    if (s->w) pare_big_free(s->w, p->rows * p->cols * sizeof *s->w);
    pare_free(s->row);
    pare_free(s->col);
    pare_free(s->scale);
    pare_free(s->zero);
    *s = (tensor_state){0};
}

pare_status compress_hold(compress_run *c, size_t i, tensor_state *s, size_t upto,
                          const pare_input_stats *x, pare_error *err) {
    const tensor_plan *p = &c->plans[i];
    if (!s->w) {
        pare_tensor in = {0};
        PARE_TRY(pare_source_read(c->source, p->t, true, &in, err));
        s->w = pare_big_alloc(p->rows * p->cols * sizeof *s->w);
        pare_status st = s->w ? decode_all(c, p, &in, s->w, err) : fail_memory(err);
        pare_tensor_free(&in);
        PARE_TRY(st);
    }
    pare_weight_job job = job_of(c, i, x, s->w);
    PARE_TRY(run_methods(c, p, &job, s->first_step, upto, &s->pruned, err));
    s->first_step = upto;
    return PARE_OK;
}

/* all[n_all], made when it is not there, its last n times scale. */
static pare_status multiply_scale(float **all, size_t n_all, const float *scale, size_t n,
                                  pare_error *err) {
    if (!*all) {
        if (!(*all = pare_malloc(n_all, sizeof **all))) return fail_memory(err);
        for (size_t i = 0; i < n_all; i++) (*all)[i] = 1.0f;
    }
    for (size_t i = 0; i < n; i++) (*all)[n_all - n + i] *= scale[i];
    return PARE_OK;
}

pare_status compress_multiply_rows(const compress_run *c, size_t i, tensor_state *s,
                                   const float *scale, size_t n, pare_error *err) {
    const tensor_plan *p = &c->plans[i];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < p->cols; k++) s->w[(p->rows - n + r) * p->cols + k] *= scale[r];
    return multiply_scale(&s->row, p->rows, scale, n, err);
}

pare_status compress_multiply_cols(const compress_run *c, size_t i, tensor_state *s,
                                   const float *scale, size_t n, pare_error *err) {
    const tensor_plan *p = &c->plans[i];
    for (size_t r = 0; r < p->rows; r++)
        for (size_t k = 0; k < n; k++) s->w[r * p->cols + p->cols - n + k] *= scale[k];
    return multiply_scale(&s->col, p->cols, scale, n, err);
}

/* Replaces the tensor by one in f32 with the scales in it: what the model computes with when all
 * other scales are in place too, and what errors are measured against. */
static pare_status put_scales(compress_run *c, const tensor_plan *p, const tensor_state *s,
                              pare_tensor *t, pare_error *err) {
    size_t bytes = p->rows * p->cols * sizeof(float);
    float *w = pare_big_alloc(bytes);
    if (!w) return fail_memory(err);
    pare_status st = decode_all(c, p, t, w, err);
    for (size_t r = 0; r < p->rows && st == PARE_OK; r++)
        for (size_t k = 0; k < p->cols; k++)
            w[r * p->cols + k] *= (s->row ? s->row[r] : 1.0f) * (s->col ? s->col[k] : 1.0f);
    if (st == PARE_OK) st = check_finite(c, w, p->rows * p->cols, 0, p->t->canonical, err);
    if (st != PARE_OK) {
        pare_big_free(w, bytes);
        return st;
    }
    pare_tensor_free(t);
    *t = pare_tensor_wrap(pare_encoding_find("f32"), w, p->rows, p->cols);
    t->storage = w;
    t->storage_bytes = bytes;
    return PARE_OK;
}

/* ---- before work ---- */

typedef struct finite_job {
    const pare_tensor *t;
    const pare_encode_kernels *k;
    float *rows;       /* [n_threads][cols] */
    atomic_size_t bad; /* the first row with a value that is not finite, SIZE_MAX: none */
} finite_job;

static void find_nonfinite(pare_worker *w, void *arg) {
    finite_job *j = arg;
    size_t cols = j->t->view.cols;
    float *row = j->rows + (size_t)w->id * cols;
    for (size_t r; (r = pare_take(w, 1)) < j->t->view.rows;) {
        j->t->enc->decode(row, &j->t->view, r, 0, cols);
        size_t first = atomic_load(&j->bad);
        if (j->k->first_nonfinite(row, cols) < cols)
            while (r < first && !atomic_compare_exchange_weak(&j->bad, &first, r)) continue;
    }
}

static pare_status check_tensor(compress_run *c, const pare_source_tensor *t, pare_error *err) {
    pare_tensor in;
    PARE_TRY(pare_source_read(c->source, t, true, &in, err));
    size_t cols = in.view.cols;
    finite_job j = {.t = &in,
                    .k = pare_encode_kernels_get(pare_runtime_isa(c->rt)),
                    .rows = pare_malloc(cols * (size_t)pare_runtime_threads(c->rt), sizeof(float)),
                    .bad = SIZE_MAX};
    pare_status st = j.rows ? PARE_OK : fail_memory(err);
    if (j.rows) pare_team_run(c->rt, find_nonfinite, &j);
    if (j.rows && j.bad != SIZE_MAX) {
        in.enc->decode(j.rows, &in.view, j.bad, 0, cols);
        size_t col = j.k->first_nonfinite(j.rows, cols);
        st = pare_fail(err, PARE_ERR_INPUT,
                       "%s: row %zu, column %zu: found %g, expected a finite number", t->name,
                       (size_t)j.bad, col, (double)j.rows[col]);
    }
    pare_free(j.rows);
    pare_tensor_free(&in);
    return st;
}

pare_status compress_check_weights(compress_run *c, pare_error *err) {
    for (size_t i = 0; i < c->n_plans; i++) {
        PARE_TRY(pare_check_cancel(c->rt, err));
        if (!c->plans[i].raw) PARE_TRY(check_tensor(c, c->plans[i].t, err));
    }
    return PARE_OK;
}

pare_status compress_tensor(compress_run *c, size_t i, tensor_state *s, const pare_input_stats *x,
                            pare_tensor *out, pare_error *err) {
    const tensor_plan *p = &c->plans[i];
    pare_layer_report *layer = &c->report->layers[i];
    double start = pare_now_s();
    pare_tensor in = {0};
    *out = (pare_tensor){0};
    PARE_TRY(pare_source_read(c->source, p->t, !p->raw, &in, err));
    pare_status st = p->adapter                ? compress_merge(c, p, &in, err)
                     : s && (s->row || s->col) ? put_scales(c, p, s, &in, err)
                                               : PARE_OK;
    if (st == PARE_OK && p->recode) {
        st = plan_is_whole(p) ? recode_whole(c, i, s, x, &in, out, err)
                              : recode_pieces(c, p, &in, out, err);
        if (st == PARE_OK) st = check_flushed(c, p, out, err);
    }
    pare_tensor *result = p->recode ? out : &in;
    if (st == PARE_OK) st = measure(c, &in, result, layer, err);
    if (p->recode)
        layer->changed = layer->error > 0 || (s && (s->row || s->col)) || p->adapter != NULL;
    if (st == PARE_OK) {
        layer->out_bytes = pare_tensor_bytes(result);
        if (layer->n_params)
            layer->bits_per_weight = 8.0 * (double)layer->out_bytes / (double)layer->n_params;
    }
    layer->seconds = pare_now_s() - start;
    if (st == PARE_OK && !p->recode) {
        *out = in;
        return PARE_OK;
    }
    pare_tensor_free(&in);
    if (st != PARE_OK) pare_tensor_free(out);
    return st;
}
