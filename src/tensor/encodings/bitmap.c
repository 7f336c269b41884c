/* bitmap_bf16, bitmap_q8: one bit per weight says which are stored, the others are zero. Any
 * pattern, any width. Parts as drawn in kernels/blocks.h:
 *
 *   .bitmap   U64  [rows][ceil(cols / 64)]   least significant bit first, bits past cols are 0
 *   .offsets  U64  [rows + 1]                where each row's values begin
 *   .values   BF16 or I8                     in row order
 *   .scales   BF16 [rows][ceil(cols / 32)]   q8 only: value = scale of its 32 columns * code
 *
 * Bits per weight at a share k of stored weights: 1 + 16k, and 1.5 + 8k (+ 64 / cols each). */
#include "tensor/encodings/encode_common.h"

enum { BITMAP, OFFSETS, VALUES, SCALES };

static size_t words_of(size_t cols) { return cols / 64 + (cols % 64 != 0); }
static size_t groups_of(size_t cols) { return cols / 32 + (cols % 32 != 0); }

/* The parts may stand at any address. */
static uint64_t load64(const void *base, size_t i) {
    uint64_t v;
    memcpy(&v, (const uint8_t *)base + 8 * i, 8);
    return v;
}
static void store64(void *base, size_t i, uint64_t v) { memcpy((uint8_t *)base + 8 * i, &v, 8); }
static uint16_t load16(const void *base, size_t i) {
    uint16_t v;
    memcpy(&v, (const uint8_t *)base + 2 * i, 2);
    return v;
}
static void store16(void *base, size_t i, uint16_t v) { memcpy((uint8_t *)base + 2 * i, &v, 2); }

static const uint8_t *row_words(const pare_view *w, size_t row) {
    return (const uint8_t *)w->part[BITMAP] + row * words_of(w->cols) * 8;
}

/* Mask of the 32 columns from 32 * group on. */
static uint32_t group_mask(const uint8_t *words, size_t group) {
    return (uint32_t)(load64(words, group / 2) >> 32 * (group & 1));
}

/* Index of the first value at or after column col, a multiple of 32. */
static size_t value_index(const pare_view *w, size_t row, size_t col) {
    const uint8_t *words = row_words(w, row);
    size_t at = (size_t)load64(w->part[OFFSETS], row);
    for (size_t i = 0; i < col / 64; i++) at += (size_t)__builtin_popcountll(load64(words, i));
    if (col % 64) at += (size_t)__builtin_popcount(group_mask(words, col / 64 * 2));
    return at;
}

static bool sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {
    size_t offsets;
    bytes[VALUES] = SIZE_MAX;
    return pare_mul_size(&bytes[BITMAP], rows, words_of(cols)) &&
           pare_mul_size(&bytes[BITMAP], bytes[BITMAP], 8) && pare_add_size(&offsets, rows, 1) &&
           pare_mul_size(&bytes[OFFSETS], offsets, 8) &&
           pare_mul_size(&bytes[SCALES], rows, groups_of(cols)) &&
           pare_mul_size(&bytes[SCALES], bytes[SCALES], 2);
}

/* ---- decoding ---- */

static void bf16_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    const uint8_t *words = row_words(w, row);
    size_t at = value_index(w, row, col);
    memset(y, 0, n * sizeof *y);
    for (size_t c = 0; c < n; c += 32)
        for (uint32_t m = group_mask(words, (col + c) / 32); m; m &= m - 1)
            y[c + (size_t)__builtin_ctz(m)] = pare_bf16_to_f32(load16(w->part[VALUES], at++));
}

static void q8_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                     size_t col, size_t n) {
    const uint8_t *words = row_words(w, row);
    const int8_t *values = (const int8_t *)w->part[VALUES] + value_index(w, row, col);
    size_t first = row * groups_of(w->cols) + col / 32;
    (void)offset;
    memset(q, 0, n);
    for (size_t c = 0; c < n; c += 32) {
        scale[c / 32] = pare_bf16_to_f32(load16(w->part[SCALES], first + c / 32));
        for (uint32_t m = group_mask(words, (col + c) / 32); m; m &= m - 1)
            q[c + (size_t)__builtin_ctz(m)] = *values++;
    }
}

static void q8_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    const uint8_t *words = row_words(w, row);
    const int8_t *values = (const int8_t *)w->part[VALUES] + value_index(w, row, col);
    size_t first = row * groups_of(w->cols) + col / 32;
    memset(y, 0, n * sizeof *y);
    for (size_t c = 0; c < n; c += 32) {
        float scale = pare_bf16_to_f32(load16(w->part[SCALES], first + c / 32));
        for (uint32_t m = group_mask(words, (col + c) / 32); m; m &= m - 1)
            y[c + (size_t)__builtin_ctz(m)] = scale * (float)*values++;
    }
}

/* ---- encoding ---- */

typedef struct encode_job {
    const pare_encode_kernels *k;
    pare_tensor *out;
    const float *w;
    size_t cols;
    void *bitmap, *offsets, *values, *scales;
    bool is_q8;
} encode_job;

static void write_bits(void *arg, size_t begin, size_t end) {
    const encode_job *job = arg;
    for (size_t r = begin; r < end; r++) {
        uint64_t count = 0;
        for (size_t i = 0; i < words_of(job->cols); i++) {
            size_t n = job->cols - 64 * i < 64 ? job->cols - 64 * i : 64;
            const float *x = job->w + r * job->cols + 64 * i;
            uint64_t word = 0;
            for (size_t b = 0; b < n; b++) word |= (uint64_t)(x[b] != 0.0f) << b;
            store64(job->bitmap, r * words_of(job->cols) + i, word);
            count += (uint64_t)__builtin_popcountll(word);
        }
        store64(job->offsets, r + 1, count); /* summed up later */
    }
}

static void write_values(void *arg, size_t begin, size_t end) {
    const encode_job *job = arg;
    for (size_t r = begin; r < end; r++) {
        const float *x = job->w + r * job->cols;
        size_t at = (size_t)load64(job->offsets, r);
        for (size_t g = 0; g < groups_of(job->cols); g++, x += 32) {
            const uint8_t *words = (uint8_t *)job->bitmap + r * words_of(job->cols) * 8;
            float kept[32];
            size_t n = 0;
            for (uint32_t m = group_mask(words, g); m; m &= m - 1) kept[n++] = x[__builtin_ctz(m)];
            if (job->is_q8) {
                uint16_t scale = pare_sparse_codes(job->k, (int8_t *)job->values + at, kept, n);
                store16(job->scales, r * groups_of(job->cols) + g, scale);
            } else {
                for (size_t i = 0; i < n; i++)
                    store16(job->values, at + i, pare_f32_to_bf16(kept[i]));
            }
            at += n;
        }
    }
}

/* The pattern is written into a tensor without values first: it tells how many there are. */
static pare_status encode(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc, bool is_q8,
                          const float *w, size_t rows, size_t cols, pare_error *err) {
    size_t bytes[PARE_MAX_PARTS] = {0};
    pare_tensor pattern;
    if (!enc->part_sizes(bytes, rows, cols))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: a matrix of %zu x %zu", enc->name, rows, cols);
    bytes[VALUES] = 0;
    PARE_TRY(pare_tensor_alloc(&pattern, enc, rows, cols, bytes, err));
    encode_job job = {.k = pare_encode_kernels_get(rt->options.isa),
                      .w = w,
                      .cols = cols,
                      .bitmap = (void *)pattern.view.part[BITMAP],
                      .offsets = (void *)pattern.view.part[OFFSETS],
                      .is_q8 = is_q8};
    pare_parallel_for(rt, rows, 16, write_bits, &job);
    for (size_t r = 0; r < rows; r++)
        store64(job.offsets, r + 1, load64(job.offsets, r) + load64(job.offsets, r + 1));
    bytes[VALUES] = (size_t)load64(job.offsets, rows) * enc->parts[VALUES].item_bytes;
    pare_status st = pare_tensor_alloc(out, enc, rows, cols, bytes, err);
    if (st == PARE_OK) {
        memcpy((void *)out->view.part[BITMAP], job.bitmap, bytes[BITMAP]);
        memcpy((void *)out->view.part[OFFSETS], job.offsets, bytes[OFFSETS]);
        job.bitmap = (void *)out->view.part[BITMAP];
        job.offsets = (void *)out->view.part[OFFSETS];
        job.values = (void *)out->view.part[VALUES];
        job.scales = (void *)out->view.part[SCALES];
        pare_parallel_for(rt, rows, 16, write_values, &job);
    }
    pare_tensor_free(&pattern);
    return st;
}

static pare_status bf16_encode(pare_runtime *rt, pare_tensor *out, const float *w, size_t rows,
                               size_t cols, const float *importance, pare_error *err) {
    (void)importance;
    return encode(rt, out, &pare_enc_bitmap_bf16, false, w, rows, cols, err);
}

static pare_status q8_encode(pare_runtime *rt, pare_tensor *out, const float *w, size_t rows,
                             size_t cols, const float *importance, pare_error *err) {
    (void)importance;
    return encode(rt, out, &pare_enc_bitmap_q8, true, w, rows, cols, err);
}

/* ---- checking ---- */

static pare_status validate_pattern(const pare_tensor *t, size_t item_bytes, pare_error *err) {
    const pare_view *w = &t->view;
    const void *offsets = w->part[OFFSETS];
    uint64_t count = 0;
    if (load64(offsets, 0) != 0)
        return pare_fail(err, PARE_ERR_INPUT, "offsets: found first offset %llu, expected 0",
                         (unsigned long long)load64(offsets, 0));
    for (size_t r = 0; r < w->rows; r++) {
        const uint8_t *words = row_words(w, r);
        size_t n = words_of(w->cols);
        for (size_t i = 0; i < n; i++) count += (uint64_t)__builtin_popcountll(load64(words, i));
        if (load64(offsets, r + 1) != count)
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu: found end offset %llu, expected %llu by the bitmap", r,
                             (unsigned long long)load64(offsets, r + 1), (unsigned long long)count);
        if (w->cols % 64 && load64(words, n - 1) >> w->cols % 64)
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu: found bits set past the last column, expected %zu columns",
                             r, w->cols);
    }
    if (t->part_bytes[VALUES] / item_bytes != count || t->part_bytes[VALUES] % item_bytes)
        return pare_fail(err, PARE_ERR_INPUT,
                         "values: found %zu bytes, expected %llu values of %zu bytes",
                         t->part_bytes[VALUES], (unsigned long long)count, item_bytes);
    return PARE_OK;
}

static pare_status bf16_validate(const pare_tensor *t, pare_error *err) {
    PARE_TRY(validate_pattern(t, 2, err));
    for (size_t i = 0; i < t->part_bytes[VALUES] / 2; i++)
        if (!pare_bf16_finite(load16(t->view.part[VALUES], i)))
            return pare_fail(err, PARE_ERR_INPUT,
                             "value %zu: found NaN or infinity, expected a finite number", i);
    return PARE_OK;
}

static pare_status q8_validate(const pare_tensor *t, pare_error *err) {
    size_t groups = groups_of(t->view.cols);
    PARE_TRY(validate_pattern(t, 1, err));
    for (size_t i = 0; i < t->view.rows * groups; i++)
        if (!pare_scale_fits(load16(t->view.part[SCALES], i)))
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu, columns from %zu: found a scale that is not finite or "
                             "overflows, expected a finite number",
                             i / groups, i % groups * 32);
    return PARE_OK;
}

const pare_encoding pare_enc_bitmap_bf16 = {
    .name = "bitmap_bf16",
    .summary = "sparse, any pattern: bitmap and bf16 values",
    .ggml_type = -1,
    .block_len = 1,
    .max_abs = 0x1.fep127f,
    .n_parts = 3,
    .parts = {{".bitmap", "U64", 8, true},
              {".offsets", "U64", 8, false},
              {".values", "BF16", 2, false}},
    .part_sizes = sizes,
    .decode = bf16_decode,
    .encode_matrix = bf16_encode,
    .dotf = PARE_DOTF_bitmap_bf16,
    .validate = bf16_validate,
};

const pare_encoding pare_enc_bitmap_q8 = {
    .name = "bitmap_q8",
    .summary = "sparse, any pattern: bitmap and 8-bit values, scale per 32 columns",
    .ggml_type = -1,
    .block_len = 1,
    .max_abs = 0x1p127f,
    .n_parts = 4,
    .parts = {{".bitmap", "U64", 8, true},
              {".offsets", "U64", 8, false},
              {".values", "I8", 1, false},
              {".scales", "BF16", 2, true}},
    .part_sizes = sizes,
    .decode = q8_decode,
    .encode_matrix = q8_encode,
    .codes = q8_codes,
    .code_group = 32,
    .code_min = -128, /* a file may hold it */
    .code_max = 127,
    .dot = PARE_DOT_bitmap_q8,
    .validate = q8_validate,
};
