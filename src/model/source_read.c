/* Bytes of tensors: read, validated, brought into canonical form. */
#include "model/source_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN = 64, SLACK = 64 }; /* of each part in memory: kernels read past the end */

static void file_shape(const pare_source_tensor *t, size_t *rows, size_t *cols) {
    *rows = 1;
    *cols = t->n_dims ? t->dims[t->n_dims - 1] : 1;
    for (size_t i = 0; i + 1 < t->n_dims; i++) *rows *= t->dims[i];
}

void pare_source_shape(const pare_source_tensor *t, size_t *rows, size_t *cols) {
    file_shape(t, rows, cols);
    if (t->n_dims != 2 || !(t->fix & PARE_FIX_TRANSPOSE)) return;
    *rows = t->dims[1];
    *cols = t->dims[0];
}

/* The stored form changes: to add to a value it must be f32. */
static bool needs_f32(const pare_source_tensor *t) { return t->fix & PARE_FIX_ADD_ONE; }

static bool add_part(size_t *total, size_t bytes) {
    return pare_add_size(total, *total, bytes) && pare_add_size(total, *total, SLACK) &&
           pare_align_size(total, *total, ALIGN);
}

/* As stored; of another program's matrix: as its encoding. */
static size_t raw_bytes(const pare_source_tensor *t) {
    size_t total = 0;
    if (t->layout.kind) {
        size_t bytes, row = pare_encoding_row_bytes(t->enc, t->layout.cols);
        return pare_mul_size(&bytes, row, t->layout.rows) && add_part(&total, bytes) ? total : 0;
    }
    for (size_t i = 0; i < t->n_parts; i++)
        if (t->bytes[i] > SIZE_MAX / 2 || !add_part(&total, (size_t)t->bytes[i])) return 0;
    return total;
}

size_t pare_source_read_bytes(const pare_source_tensor *t, bool as_f32) {
    if (!as_f32 && !needs_f32(t)) return raw_bytes(t);
    size_t total = 0, bytes;
    if (t->n_params > SIZE_MAX / 8 || !pare_mul_size(&bytes, (size_t)t->n_params, sizeof(float)))
        return 0;
    return add_part(&total, bytes) ? total : 0;
}

/* Another program's parts -> rows of the tensor's encoding. */
static pare_status read_layout(const pare_source *s, const pare_source_tensor *t, uint8_t *memory,
                               pare_error *err) {
    const void *part[PARE_LAYOUT_PARTS] = {NULL};
    size_t at = 0, total = 0;
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++)
        if (t->bytes[k] > SIZE_MAX / 8 || !add_part(&total, (size_t)t->bytes[k]))
            return pare_fail(err, PARE_ERR_INTERNAL, "%s: size", t->name);
    uint8_t *raw = pare_big_alloc(total);
    if (!raw)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: %zu bytes to read into",
                         source_file_path(s, t), t->name, total);
    pare_status st = PARE_OK;
    for (int k = 0; k < PARE_LAYOUT_PARTS && st == PARE_OK; k++) {
        if (!t->bytes[k]) continue;
        part[k] = raw + at;
        st = pare_file_read_at(pare_source_file(s, t->file[k]), raw + at, (size_t)t->bytes[k],
                               t->offset[k], err);
        add_part(&at, (size_t)t->bytes[k]);
    }
    if (st == PARE_OK) {
        st = pare_layout_unpack(memory, t->enc, &t->layout, part, err);
        if (st != PARE_OK) pare_fail_prefix(err, "%s: %s", source_file_path(s, t), t->name);
    }
    pare_big_free(raw, total);
    return st;
}

static pare_status read_raw(const pare_source *s, const pare_source_tensor *t, uint8_t *memory,
                            pare_tensor *out, pare_error *err) {
    const void *part[PARE_MAX_PARTS];
    size_t bytes[PARE_MAX_PARTS], at = 0, rows, cols;
    if (t->layout.kind) {
        PARE_TRY(read_layout(s, t, memory, err));
        *out = pare_tensor_wrap(t->enc, memory, t->layout.rows, t->layout.cols);
        return PARE_OK;
    }
    for (size_t i = 0; i < t->n_parts; i++) {
        part[i] = memory + at;
        bytes[i] = (size_t)t->bytes[i];
        PARE_TRY(pare_file_read_at(pare_source_file(s, t->file[i]), memory + at, bytes[i],
                                   t->offset[i], err));
        if (!add_part(&at, bytes[i])) return pare_fail(err, PARE_ERR_INTERNAL, "%s: size", t->name);
    }
    file_shape(t, &rows, &cols);
    pare_status st = pare_tensor_wrap_parts(out, t->enc, rows, cols, part, bytes, err);
    if (st == PARE_OK) st = pare_tensor_validate(out, err);
    return st == PARE_OK ? st : pare_fail_prefix(err, "%s: %s", source_file_path(s, t), t->name);
}

/* dst row r of each head = src row pare_rope_row(r). A vector's rows are its values. */
static void fix_rope_rows(uint8_t *dst, const uint8_t *src, size_t rows, size_t row_bytes,
                          size_t head_dim) {
    for (size_t r = 0; r < rows; r++) {
        size_t head = r / head_dim * head_dim;
        memcpy(dst + r * row_bytes, src + (head + pare_rope_row(r - head, head_dim)) * row_bytes,
               row_bytes);
    }
}

/* dst[cols][rows] = src[rows][cols], in squares that stay in the cache. */
static void transpose(uint8_t *dst, const uint8_t *src, size_t rows, size_t cols, size_t size) {
    enum { TILE = 32 };
    for (size_t r0 = 0; r0 < rows; r0 += TILE)
        for (size_t c0 = 0; c0 < cols; c0 += TILE)
            for (size_t r = r0; r < rows && r < r0 + TILE; r++)
                for (size_t c = c0; c < cols && c < c0 + TILE; c++)
                    memcpy(dst + (c * rows + r) * size, src + (r * cols + c) * size, size);
}

/* raw (the file's form) -> *out at memory, same encoding. */
static pare_status reorder(const pare_source *s, const pare_source_tensor *t,
                           const pare_tensor *raw, uint8_t *memory, pare_tensor *out,
                           pare_error *err) {
    const pare_encoding *enc = t->enc;
    bool vector = t->n_dims == 1;
    if (!enc->block_bytes || (enc->block_len != 1 && (vector || (t->fix & PARE_FIX_TRANSPOSE))))
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found %s, expected a plain type (rows must be moved)",
                         source_file_path(s, t), t->name, enc->name);
    *out = *raw;
    out->view.part[0] = memory;
    if (t->fix & PARE_FIX_TRANSPOSE) {
        transpose(memory, raw->view.part[0], raw->view.rows, raw->view.cols, enc->block_bytes);
        out->view.rows = raw->view.cols;
        out->view.cols = raw->view.rows;
        out->view.row_bytes = pare_encoding_row_bytes(enc, out->view.cols);
    } else {
        size_t rows = vector ? raw->view.cols : raw->view.rows;
        size_t row_bytes = vector ? enc->block_bytes : raw->view.row_bytes;
        fix_rope_rows(memory, raw->view.part[0], rows, row_bytes, s->config.head_dim);
    }
    return PARE_OK;
}

/* raw -> f32 values at memory, 1 added where the fix says so. */
static pare_status to_f32(const pare_source *s, const pare_source_tensor *t, const pare_tensor *raw,
                          float *memory, pare_tensor *out, pare_error *err) {
    const pare_view *v = &raw->view;
    float add = t->fix & PARE_FIX_ADD_ONE ? 1.0f : 0.0f;
    for (size_t r = 0; r < v->rows; r++) {
        float *row = memory + r * v->cols;
        t->enc->decode(row, v, r, 0, v->cols);
        for (size_t i = 0; i < v->cols; i++) {
            if (!isfinite(row[i]))
                return pare_fail(err, PARE_ERR_INPUT,
                                 "%s: %s: value %zu: found %s, expected a number",
                                 source_file_path(s, t), t->name, r * v->cols + i,
                                 isnan(row[i]) ? "NaN" : "Inf");
            row[i] += add;
        }
    }
    *out = pare_tensor_wrap(pare_encoding_from_dtype("F32"), memory, v->rows, v->cols);
    return PARE_OK;
}

pare_status pare_source_read_into(const pare_source *s, const pare_source_tensor *t, bool as_f32,
                                  void *memory, pare_tensor *out, pare_error *err) {
    if (!t->enc)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found type %s, which pare cannot decode", source_file_path(s, t),
                         t->name, t->type);
    as_f32 |= needs_f32(t);
    unsigned moves = t->fix & (PARE_FIX_ROPE_ROWS_Q | PARE_FIX_ROPE_ROWS_K | PARE_FIX_TRANSPOSE);
    if (!as_f32 && !moves) return read_raw(s, t, memory, out, err);

    size_t n = raw_bytes(t);
    uint8_t *work = pare_big_alloc(moves && as_f32 ? 2 * n : n);
    if (!work)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: %zu bytes to read into",
                         source_file_path(s, t), t->name, n);
    pare_tensor raw, moved;
    pare_status st = read_raw(s, t, work, &raw, err);
    if (st == PARE_OK && moves) {
        st = reorder(s, t, &raw, as_f32 ? work + n : memory, &moved, err);
        raw = moved;
    }
    if (st == PARE_OK && as_f32)
        st = to_f32(s, t, &raw, memory, out, err);
    else if (st == PARE_OK)
        *out = moved;
    pare_big_free(work, moves && as_f32 ? 2 * n : n);
    return st;
}

pare_status pare_source_read(const pare_source *s, const pare_source_tensor *t, bool canonical,
                             pare_tensor *out, pare_error *err) {
    pare_source_tensor as_stored = *t;
    if (!canonical) as_stored.fix = 0;
    size_t n = pare_source_read_bytes(&as_stored, false);
    void *memory = pare_big_alloc(n);
    *out = (pare_tensor){0};
    if (!memory)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %s: %zu bytes", source_file_path(s, t), t->name,
                         n);
    pare_status st = pare_source_read_into(s, &as_stored, false, memory, out, err);
    if (st != PARE_OK) {
        pare_big_free(memory, n);
        *out = (pare_tensor){0};
        return st;
    }
    out->storage = memory;
    out->storage_bytes = n;
    return PARE_OK;
}
