#include "pipeline/output_form.h"

#include "base/memory.h"
#include "model/arch.h"
#include "model/names.h"
#include "tensor/grouped_row.h"

#include <string.h>

static pare_status undo_add_one(const pare_tensor *t, uint8_t *to, pare_error *err) {
    float *x = pare_malloc(t->view.cols, sizeof *x);
    if (!x) return pare_fail(err, PARE_ERR_NOMEM, "norm: out of memory");
    pare_status st = PARE_OK;
    for (size_t r = 0; r < t->view.rows && st == PARE_OK; r++) {
        t->enc->decode(x, &t->view, r, 0, t->view.cols);
        for (size_t i = 0; i < t->view.cols; i++) x[i] -= 1.0f;
        st = pare_encoding_encode_row(t->enc, to + r * t->view.row_bytes, x, t->view.cols, NULL,
                                      err);
    }
    pare_free(x);
    return st;
}

static void undo_transpose(const pare_tensor *t, uint8_t *to) {
    const uint8_t *from = t->view.part[0];
    size_t size = t->enc->block_bytes, rows = t->view.rows, cols = t->view.cols;
    for (size_t c = 0; c < cols; c++)
        for (size_t r = 0; r < rows; r++)
            memcpy(to + (c * rows + r) * size, from + (r * cols + c) * size, size);
}

static void undo_rope_rows(const pare_tensor *t, uint8_t *to, bool vector, size_t head_dim) {
    const uint8_t *from = t->view.part[0];
    size_t rows = vector ? t->view.cols : t->view.rows,
           bytes = vector ? t->enc->block_bytes : t->view.row_bytes;
    for (size_t r = 0; r < rows; r++) {
        size_t head = r / head_dim * head_dim;
        memcpy(to + (head + pare_rope_row(r - head, head_dim)) * bytes, from + r * bytes, bytes);
    }
}

bool pare_output_form_fits(const pare_encoding *enc, unsigned fix, bool vector) {
    const bool rows = !vector && (fix & (PARE_FIX_ROPE_ROWS_Q | PARE_FIX_ROPE_ROWS_K));
    return !fix || (enc->block_bytes > 0 && (enc->block_len == 1 || rows));
}

pare_status pare_output_form(uint8_t *to, const pare_tensor *t, unsigned fix, bool vector,
                             size_t head_dim, const char *name, pare_error *err) {
    if (!pare_output_form_fits(t->enc, fix, vector))
        return pare_fail(
            err, PARE_ERR_UNSUPPORTED,
            "%s: found %s, expected a plain type (its layout differs in this container)", name,
            t->enc->name);
    if (fix & PARE_FIX_ADD_ONE) return undo_add_one(t, to, err);
    if (fix & PARE_FIX_TRANSPOSE)
        undo_transpose(t, to);
    else
        undo_rope_rows(t, to, vector, head_dim);
    return PARE_OK;
}

pare_status pare_output_blocks(const pare_tensor *t, const pare_encoding *enc, pare_tensor *out,
                               pare_error *err) {
    pare_grid_form form;
    pare_grouped_row row;
    size_t row_bytes = pare_encoding_row_bytes(enc, t->view.cols), n = row_bytes * t->view.rows;
    if (!pare_grouped_form(&form, t->enc) || !pare_grouped_row_alloc(&row, &form, t->view.cols))
        return pare_fail(err, PARE_ERR_NOMEM, "a row of %zu", t->view.cols);
    uint8_t *to = pare_big_alloc(n);
    for (size_t r = 0; to && r < t->view.rows; r++) {
        pare_grouped_get(&row, &t->view, t->enc, r);
        pare_grouped_put(to + r * row_bytes, enc, t->view.cols, &row, &form);
    }
    pare_grouped_row_free(&row);
    if (!to) return pare_fail(err, PARE_ERR_NOMEM, "%zu bytes of %s", n, enc->name);
    *out = pare_tensor_wrap(enc, to, t->view.rows, t->view.cols);
    out->storage = to;
    out->storage_bytes = n;
    return PARE_OK;
}
