/* The list of encodings, the public functions on them, and tensors on stored bytes. */
#include "tensor/encoding.h"

#include "tensor/encodings/encode_common.h"

#define PARE_ENCODING(name) &pare_enc_##name,
static const pare_encoding *const encodings[] = {
#include "tensor/encodings.def"
};
#undef PARE_ENCODING

enum { N_ENCODINGS = sizeof encodings / sizeof encodings[0] };

const pare_encoding *pare_encoding_at(size_t i) { return i < N_ENCODINGS ? encodings[i] : NULL; }

const pare_encoding *pare_encoding_find(const char *name) {
    for (size_t i = 0; i < N_ENCODINGS; i++)
        if (strcmp(encodings[i]->name, name) == 0) return encodings[i];
    return NULL;
}

const pare_encoding *pare_encoding_from_ggml(int type) {
    for (size_t i = 0; i < N_ENCODINGS; i++)
        if (encodings[i]->ggml_type >= 0 && encodings[i]->ggml_type == type) return encodings[i];
    return NULL;
}

const pare_encoding *pare_encoding_from_dtype(const char *dtype) {
    for (size_t i = 0; i < N_ENCODINGS; i++)
        if (encodings[i]->safetensors_dtype && strcmp(encodings[i]->safetensors_dtype, dtype) == 0)
            return encodings[i];
    return NULL;
}

const pare_encoding *pare_encoding_of_grid(int bits, bool asymmetric, size_t group) {
    for (size_t i = 0; i < N_ENCODINGS; i++) {
        const pare_grid_form *g = encodings[i]->grid;
        if (g && g->bits == bits && g->asymmetric == asymmetric && g->group == group)
            return encodings[i];
    }
    return NULL;
}

const char *pare_encoding_name(const pare_encoding *e) { return e->name; }
const char *pare_encoding_summary(const pare_encoding *e) { return e->summary; }
bool pare_encoding_is_grouped(const pare_encoding *e) { return e->grid != NULL; }
size_t pare_encoding_block_len(const pare_encoding *e) { return e->block_len; }

static size_t span_of(const pare_encoding *e) { return e->span ? e->span : e->block_len; }

double pare_encoding_bits_per_weight(const pare_encoding *e) {
    return 8.0 * e->block_bytes / (double)span_of(e);
}

size_t pare_encoding_row_bytes(const pare_encoding *e, size_t cols) {
    size_t span = span_of(e), bytes;
    if (cols % e->block_len || !pare_mul_size(&bytes, cols / span, e->block_bytes)) return 0;
    if (cols % span && !pare_add_size(&bytes, bytes, e->tail_bytes(cols % span))) return 0;
    return bytes;
}

/* ---- tensors on stored bytes ---- */

pare_tensor pare_tensor_wrap(const pare_encoding *enc, const void *data, size_t rows, size_t cols) {
    size_t row_bytes = pare_encoding_row_bytes(enc, cols);
    return (pare_tensor){
        .enc = enc,
        .view = {.rows = rows, .cols = cols, .row_bytes = row_bytes, .part = {data}},
        .part_bytes = {rows * row_bytes},
    };
}

/* Bytes of every part of a matrix, SIZE_MAX where they depend on its pattern. */
static bool part_sizes(size_t bytes[PARE_MAX_PARTS], const pare_encoding *enc, size_t rows,
                       size_t cols) {
    memset(bytes, 0, PARE_MAX_PARTS * sizeof *bytes);
    if (enc->part_sizes) return enc->part_sizes(bytes, rows, cols);
    size_t row_bytes = pare_encoding_row_bytes(enc, cols);
    return (row_bytes || !cols) && pare_mul_size(&bytes[0], rows, row_bytes);
}

static void set_view(pare_tensor *t, const pare_encoding *enc, size_t rows, size_t cols) {
    t->enc = enc;
    t->view.rows = rows;
    t->view.cols = cols;
    t->view.row_bytes = rows ? t->part_bytes[0] / rows : 0;
}

static pare_status check_sizes(const pare_encoding *enc, size_t rows, size_t cols,
                               const size_t bytes[], pare_error *err) {
    size_t expected[PARE_MAX_PARTS];
    if (cols % enc->block_len)
        return pare_fail(err, PARE_ERR_INPUT, "found %zu columns, expected a multiple of %u for %s",
                         cols, enc->block_len, enc->name);
    if (!part_sizes(expected, enc, rows, cols))
        return pare_fail(err, PARE_ERR_INPUT, "found %zu rows of %zu columns: too many", rows,
                         cols);
    for (size_t i = 0; i < enc->n_parts; i++)
        if (expected[i] != SIZE_MAX && bytes[i] != expected[i])
            return pare_fail(err, PARE_ERR_INPUT,
                             "part '%s': found %zu bytes, expected %zu for %zu rows of %zu columns",
                             enc->parts[i].suffix, bytes[i], expected[i], rows, cols);
    return PARE_OK;
}

pare_status pare_tensor_wrap_parts(pare_tensor *out, const pare_encoding *enc, size_t rows,
                                   size_t cols, const void *const part[], const size_t bytes[],
                                   pare_error *err) {
    *out = (pare_tensor){0};
    PARE_TRY(check_sizes(enc, rows, cols, bytes, err));
    for (size_t i = 0; i < enc->n_parts; i++) {
        out->view.part[i] = part[i];
        out->part_bytes[i] = bytes[i];
    }
    set_view(out, enc, rows, cols);
    return PARE_OK;
}

pare_status pare_tensor_alloc(pare_tensor *out, const pare_encoding *enc, size_t rows, size_t cols,
                              const size_t bytes[PARE_MAX_PARTS], pare_error *err) {
    size_t total = 64, padded, offset[PARE_MAX_PARTS]; /* readable 64 bytes past the end */
    *out = (pare_tensor){0};
    for (size_t i = 0; i < enc->n_parts; i++) {
        offset[i] = total - 64;
        if (!pare_align_size(&padded, bytes[i], 64) || !pare_add_size(&total, total, padded))
            return pare_fail(err, PARE_ERR_NOMEM, "%s: a matrix of %zu x %zu", enc->name, rows,
                             cols);
    }
    out->storage = pare_big_alloc(total);
    if (!out->storage)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %zu bytes for a matrix of %zu x %zu", enc->name,
                         total, rows, cols);
    out->storage_bytes = total;
    for (size_t i = 0; i < enc->n_parts; i++) {
        out->view.part[i] = (uint8_t *)out->storage + offset[i];
        out->part_bytes[i] = bytes[i];
    }
    set_view(out, enc, rows, cols);
    return PARE_OK;
}

static pare_status validate_blocks(const pare_tensor *t, pare_error *err) {
    const pare_view *w = &t->view;
    size_t span = span_of(t->enc);
    for (size_t r = 0; r < w->rows; r++) {
        const uint8_t *block = (const uint8_t *)w->part[0] + r * w->row_bytes;
        for (size_t c = 0; c < w->cols; c += span, block += t->enc->block_bytes) {
            size_t n = w->cols - c < span ? w->cols - c : span;
            if (t->enc->block_state(block, n) == PARE_BLOCK_BAD)
                return pare_fail(err, PARE_ERR_INPUT,
                                 "row %zu, column %zu: found a scale that is NaN or infinite, "
                                 "expected a finite number",
                                 r, c);
        }
    }
    return PARE_OK;
}

pare_status pare_tensor_validate(const pare_tensor *t, pare_error *err) {
    PARE_TRY(check_sizes(t->enc, t->view.rows, t->view.cols, t->part_bytes, err));
    return t->enc->validate ? t->enc->validate(t, err) : validate_blocks(t, err);
}

int pare_tensor_part_shape(const pare_tensor *t, size_t part, size_t shape[2]) {
    const pare_part_spec *spec = &t->enc->parts[part];
    size_t items = t->part_bytes[part] / spec->item_bytes;
    if (!spec->per_row) {
        shape[0] = items;
        return 1;
    }
    shape[0] = t->view.rows;
    shape[1] = t->view.rows ? items / t->view.rows : 0;
    return 2;
}

size_t pare_tensor_bytes(const pare_tensor *t) {
    size_t sum = 0;
    for (size_t i = 0; i < PARE_MAX_PARTS; i++) sum += t->part_bytes[i];
    return sum;
}

void pare_tensor_free(pare_tensor *t) {
    if (!t) return;
    if (t->storage) pare_big_free(t->storage, t->storage_bytes);
    *t = (pare_tensor){0};
}
