/* bitmap_bf16, bitmap_q8, bitmap_q4: one bit per weight says which are stored, the others are zero.
 * Any pattern, any width. Parts as drawn in kernels/blocks.h:
 *
 *   .bitmap   U64  [rows][ceil(cols / 64)]   least significant bit first, bits past cols are 0
 *   .offsets  U64  [rows + 1]                where each row's values begin
 *   .values   BF16, I8 or U8 (two a byte)    in row order
 *   .scales   BF16 [rows][ceil(cols / 32)]   q8: of 32 columns; q4: of 64, [rows][ceil(cols / 64)]
 *
 * Bits per weight at a share k of stored weights: 1 + 16k, 1.5 + 8k, 1.25 + 4k (+ 64 / cols each).
 * At one half a scale of q4 serves 32 stored values, as many as in q4_0. */
#include "tensor/encodings/encode_common.h"

enum { BITMAP, OFFSETS, VALUES, SCALES };

static size_t words_of(size_t cols) { return cols / 64 + (cols % 64 != 0); }
static size_t groups_of(size_t cols) { return cols / 32 + (cols % 32 != 0); }
/* Scales of a row; bits of a value. */
static size_t scales_of(size_t cols, int bits) {
    return bits == 8 ? groups_of(cols) : bits == 4 ? words_of(cols) : 0;
}

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

static bool sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols, int bits) {
    size_t offsets;
    bytes[VALUES] = SIZE_MAX;
    return pare_mul_size(&bytes[BITMAP], rows, words_of(cols)) &&
           pare_mul_size(&bytes[BITMAP], bytes[BITMAP], 8) && pare_add_size(&offsets, rows, 1) &&
           pare_mul_size(&bytes[OFFSETS], offsets, 8) &&
           pare_mul_size(&bytes[SCALES], rows, scales_of(cols, bits)) &&
           pare_mul_size(&bytes[SCALES], bytes[SCALES], 2);
}
static bool q8_sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {
    return sizes(bytes, rows, cols, 8); /* bf16 has no fourth part */
}
static bool q4_sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {
    return sizes(bytes, rows, cols, 4);
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

PARE_SPARSE_DECODE(q8)

static void q4_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                     size_t col, size_t n) {
    const uint8_t *words = row_words(w, row), *values = w->part[VALUES];
    size_t at = value_index(w, row, col), first = row * words_of(w->cols);
    (void)offset;
    memset(q, 0, n);
    for (size_t c = 0; c < n; c += 32) {
        scale[c / 32] = pare_bf16_to_f32(load16(w->part[SCALES], first + (col + c) / 64));
        for (uint32_t m = group_mask(words, (col + c) / 32); m; m &= m - 1, at++)
            q[c + (size_t)__builtin_ctz(m)] =
                pare_sparse_levels[values[at / 2] >> 4 * (at % 2) & 15];
    }
}

PARE_SPARSE_DECODE(q4)

/* ---- encoding ---- */

typedef struct encode_job {
    const pare_encode_kernels *k;
    pare_tensor *out;
    const float *w;
    size_t cols;
    void *bitmap, *offsets, *values, *scales;
    int bits;
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
        if (job->bits == 4) count += count % 2;
        store64(job->offsets, r + 1, count); /* summed up later */
    }
}

/* The stored ones of the columns from `col` on, as many as `mask` has; returns their number. */
static size_t gather(float *kept, const float *x, uint64_t mask) {
    size_t n = 0;
    for (; mask; mask &= mask - 1) kept[n++] = x[__builtin_ctzll(mask)];
    return n;
}

static void write_row_bf16(const encode_job *job, size_t r, const uint8_t *words, size_t at) {
    float kept[64];
    for (size_t i = 0; i < words_of(job->cols); i++) {
        size_t n = gather(kept, job->w + r * job->cols + 64 * i, load64(words, i));
        for (size_t k = 0; k < n; k++) store16(job->values, at++, pare_f32_to_bf16(kept[k]));
    }
}

static void write_row_q8(const encode_job *job, size_t r, const uint8_t *words, size_t at) {
    float kept[32];
    for (size_t g = 0; g < groups_of(job->cols); g++) {
        size_t n = gather(kept, job->w + r * job->cols + 32 * g, group_mask(words, g));
        uint16_t scale = pare_sparse_codes(job->k, (int8_t *)job->values + at, kept, n);
        store16(job->scales, r * groups_of(job->cols) + g, scale);
        at += n;
    }
}

static void write_row_q4(const encode_job *job, size_t r, const uint8_t *words, size_t at) {
    float kept[64];
    uint8_t q[64], *values = job->values;
    for (size_t i = 0; i < words_of(job->cols); i++) {
        size_t n = gather(kept, job->w + r * job->cols + 64 * i, load64(words, i));
        store16(job->scales, r * words_of(job->cols) + i, pare_sparse_nibbles(q, kept, n));
        for (size_t k = 0; k < n; k++, at++)
            values[at / 2] = (uint8_t)(values[at / 2] | q[k] << 4 * (at % 2)); /* zero before */
    }
}

static void write_values(void *arg, size_t begin, size_t end) {
    const encode_job *job = arg;
    for (size_t r = begin; r < end; r++) {
        const uint8_t *words = (uint8_t *)job->bitmap + r * words_of(job->cols) * 8;
        size_t at = (size_t)load64(job->offsets, r);
        if (job->bits == 16)
            write_row_bf16(job, r, words, at);
        else if (job->bits == 8)
            write_row_q8(job, r, words, at);
        else
            write_row_q4(job, r, words, at);
    }
}

/* The pattern is written into a tensor without values first: it tells how many there are. */
static pare_status encode(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc, int bits,
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
                      .bits = bits};
    pare_parallel_for(rt, rows, 16, write_bits, &job);
    for (size_t r = 0; r < rows; r++)
        store64(job.offsets, r + 1, load64(job.offsets, r) + load64(job.offsets, r + 1));
    bytes[VALUES] = (size_t)load64(job.offsets, rows) * (size_t)bits / 8;
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
    return encode(rt, out, &pare_enc_bitmap_bf16, 16, w, rows, cols, err);
}

static pare_status q8_encode(pare_runtime *rt, pare_tensor *out, const float *w, size_t rows,
                             size_t cols, const float *importance, pare_error *err) {
    (void)importance;
    return encode(rt, out, &pare_enc_bitmap_q8, 8, w, rows, cols, err);
}

static pare_status q4_encode(pare_runtime *rt, pare_tensor *out, const float *w, size_t rows,
                             size_t cols, const float *importance, pare_error *err) {
    (void)importance;
    return encode(rt, out, &pare_enc_bitmap_q4, 4, w, rows, cols, err);
}

/* ---- checking ---- */

static pare_status validate_pattern(const pare_tensor *t, size_t bits, pare_error *err) {
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
        if (bits == 4) count += count % 2;
        if (load64(offsets, r + 1) != count)
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu: found end offset %llu, expected %llu by the bitmap", r,
                             (unsigned long long)load64(offsets, r + 1), (unsigned long long)count);
        if (w->cols % 64 && load64(words, n - 1) >> w->cols % 64)
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu: found bits set past the last column, expected %zu columns",
                             r, w->cols);
    }
    size_t expected = (size_t)count * bits / 8; /* at most 2 a column: the bitmap is in memory */
    if (t->part_bytes[VALUES] != expected)
        return pare_fail(err, PARE_ERR_INPUT,
                         "values: found %zu bytes, expected %zu: %llu values of %zu bits",
                         t->part_bytes[VALUES], expected, (unsigned long long)count, bits);
    return PARE_OK;
}

static pare_status bf16_validate(const pare_tensor *t, pare_error *err) {
    PARE_TRY(validate_pattern(t, 16, err));
    for (size_t i = 0; i < t->part_bytes[VALUES] / 2; i++)
        if (!pare_bf16_finite(load16(t->view.part[VALUES], i)))
            return pare_fail(err, PARE_ERR_INPUT,
                             "value %zu: found NaN or infinity, expected a finite number", i);
    return PARE_OK;
}

static pare_status int_validate(const pare_tensor *t, int bits, pare_error *err) {
    size_t groups = scales_of(t->view.cols, bits), span = bits == 8 ? 32 : 64;
    PARE_TRY(validate_pattern(t, (size_t)bits, err));
    for (size_t i = 0; i < t->view.rows * groups; i++)
        if (!pare_scale_fits(load16(t->view.part[SCALES], i)))
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu, columns from %zu: found a scale that is not finite or "
                             "overflows, expected a finite number",
                             i / groups, i % groups * span);
    return PARE_OK;
}
static pare_status q8_validate(const pare_tensor *t, pare_error *err) {
    return int_validate(t, 8, err);
}
static pare_status q4_validate(const pare_tensor *t, pare_error *err) {
    return int_validate(t, 4, err);
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
    .part_sizes = q8_sizes,
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
    .part_sizes = q8_sizes,
    .decode = q8_decode,
    .encode_matrix = q8_encode,
    .codes = q8_codes,
    .code_group = 32,
    .code_min = -128, /* a file may hold it */
    .code_max = 127,
    .dot = PARE_DOT_bitmap_q8,
    .validate = q8_validate,
};

const pare_encoding pare_enc_bitmap_q4 = {
    .name = "bitmap_q4",
    .summary = "sparse, any pattern: bitmap and 4-bit values, scale per 64 columns",
    .ggml_type = -1,
    .block_len = 1,
    .max_abs = 0x1p123f,
    .n_parts = 4,
    .parts = {{".bitmap", "U64", 8, true},
              {".offsets", "U64", 8, false},
              {".values", "U8", 1, false},
              {".scales", "BF16", 2, true}},
    .part_sizes = q4_sizes,
    .decode = q4_decode,
    .encode_matrix = q4_encode,
    .codes = q4_codes,
    .code_group = 32,
    .code_min = -11,
    .code_max = 9,
    .dot = PARE_DOT_bitmap_q4,
    .validate = q4_validate,
};
