/* nm24_*, nm48_*: at most 2 of 4 (4 of 8) neighbouring weights are not zero, half of them are
 * stored. Parts as drawn in kernels/blocks.h:
 *
 *   .mask     U8   [rows][cols / 8]          bit c % 8 of byte c / 8 = column c is stored; exactly
 *                                            half of each group's bits are set
 *   .values   BF16 or I8 [rows][cols / 2]    in column order: byte b's values are 4b .. 4b + 3
 *             U8 [rows][8 * ceil(cols / 32)]   q4: nibbles, 8 bytes for 32 columns
 *   .scales   BF16 [rows][ceil(cols / 32)]   q8: of 32 columns; q4: of 64, [rows][ceil(cols / 64)]
 *
 * Both patterns store four values for a byte of mask: 9, 5.5 and 3.25 bits per weight. Two 2-bit
 * indices for four columns would take the same space as the mask and be no faster to unpack; for
 * 4:8 they would take more. cols is a multiple of 8. */
#include "tensor/encodings/encode_common.h"

#include <stdatomic.h>

enum { MASK, VALUES, SCALES };

static size_t groups_of(size_t cols) { return cols / 32 + (cols % 32 != 0); }
/* Scales of a row; bits of a value. */
static size_t scales_of(size_t cols, int bits) {
    return bits == 8 ? groups_of(cols) : bits == 4 ? cols / 64 + (cols % 64 != 0) : 0;
}

static uint16_t load16(const void *base, size_t i) {
    uint16_t v;
    memcpy(&v, (const uint8_t *)base + 2 * i, 2);
    return v;
}
static void store16(void *base, size_t i, uint16_t v) { memcpy((uint8_t *)base + 2 * i, &v, 2); }

static bool sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols, int bits) {
    return pare_mul_size(&bytes[MASK], rows, cols / 8) &&
           pare_mul_size(&bytes[VALUES], rows, bits == 4 ? groups_of(cols) : cols / 8) &&
           pare_mul_size(&bytes[VALUES], bytes[VALUES],
                         bits == 16  ? 8
                         : bits == 8 ? 4
                                     : 8) &&
           pare_mul_size(&bytes[SCALES], rows, scales_of(cols, bits)) &&
           pare_mul_size(&bytes[SCALES], bytes[SCALES], 2);
}
static bool bf16_sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {
    return sizes(bytes, rows, cols, 16);
}
static bool q8_sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {
    return sizes(bytes, rows, cols, 8);
}
static bool q4_sizes(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols) {
    return sizes(bytes, rows, cols, 4);
}

/* ---- decoding ---- */

static void bf16_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    size_t byte = row * (w->cols / 8) + col / 8;
    const uint8_t *mask = (const uint8_t *)w->part[MASK] + byte;
    memset(y, 0, n * sizeof *y);
    for (size_t i = 0, at = 4 * byte; i < n / 8; i++)
        for (unsigned m = mask[i]; m; m &= m - 1)
            y[8 * i + (size_t)__builtin_ctz(m)] = pare_bf16_to_f32(load16(w->part[VALUES], at++));
}

static void q8_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                     size_t col, size_t n) {
    size_t byte = row * (w->cols / 8) + col / 8, group = row * groups_of(w->cols) + col / 32;
    const uint8_t *mask = (const uint8_t *)w->part[MASK] + byte;
    const int8_t *values = (const int8_t *)w->part[VALUES] + 4 * byte;
    (void)offset;
    memset(q, 0, n);
    for (size_t g = 0; g < groups_of(n); g++)
        scale[g] = pare_bf16_to_f32(load16(w->part[SCALES], group + g));
    for (size_t i = 0; i < n / 8; i++)
        for (unsigned m = mask[i]; m; m &= m - 1) q[8 * i + (size_t)__builtin_ctz(m)] = *values++;
}

static void q4_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                     size_t col, size_t n) {
    const uint8_t *mask = (const uint8_t *)w->part[MASK] + row * (w->cols / 8) + col / 8;
    const uint8_t *unit =
        (const uint8_t *)w->part[VALUES] + 8 * (row * groups_of(w->cols) + col / 32);
    size_t first = row * scales_of(w->cols, 4);
    (void)offset;
    memset(q, 0, n);
    for (size_t c = 0; c < n; c += 32, unit += 8) {
        scale[c / 32] = pare_bf16_to_f32(load16(w->part[SCALES], first + (col + c) / 64));
        for (size_t i = c, k = 0; i < c + 32 && i < n; i += 8)
            for (unsigned m = mask[i / 8]; m; m &= m - 1, k++)
                q[i + (size_t)__builtin_ctz(m)] =
                    pare_sparse_levels[unit[k % 8] >> 4 * (k / 8) & 15];
    }
}

PARE_SPARSE_DECODE(q8)
PARE_SPARSE_DECODE(q4)

/* ---- encoding ---- */

typedef struct encode_job {
    const pare_encode_kernels *k;
    const float *w;
    size_t cols;
    int m; /* group of the pattern: 4 or 8, half of it kept */
    void *mask, *values, *scales;
    int bits;
    _Atomic size_t bad_row; /* the lowest row that violates the pattern */
} encode_job;

/* Mask of m columns with exactly m / 2 bits: those of the non-zero values, then the lowest others.
 * 0 = too many values. */
static unsigned group_mask(const float *x, int m) {
    unsigned mask = 0;
    for (int i = 0; i < m; i++) mask |= (unsigned)(x[i] != 0.0f) << i;
    int missing = m / 2 - __builtin_popcount(mask);
    if (missing < 0) return 0;
    for (int i = 0; missing > 0; i++) {
        missing -= !(mask >> i & 1);
        mask |= 1u << i;
    }
    return mask;
}

static bool row_mask(uint8_t *mask, const float *x, size_t cols, int m) {
    for (size_t b = 0; b < cols / 8; b++, x += 8) {
        unsigned low = group_mask(x, m), high = m == 4 ? group_mask(x + 4, 4) : 1;
        if (!low || !high) return false;
        mask[b] = (uint8_t)(m == 4 ? low | high << 4 : low);
    }
    return true;
}

static void note_bad_row(encode_job *job, size_t row) {
    size_t seen = atomic_load(&job->bad_row);
    while (row < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, row)) continue;
}

/* The stored values of columns [col, end); returns their number. */
static size_t gather(float *kept, const float *x, const uint8_t *mask, size_t col, size_t end) {
    size_t n = 0;
    for (size_t i = col; i < end; i++)
        if (mask[i / 8] >> i % 8 & 1) kept[n++] = x[i];
    return n;
}

static void write_values(const encode_job *job, size_t r, const float *x, const uint8_t *mask) {
    size_t cols = job->cols, span = job->bits == 4 ? 64 : 32, at = r * (cols / 2);
    size_t scale = r * scales_of(cols, job->bits);
    uint8_t *unit = (uint8_t *)job->values + 8 * r * groups_of(cols);
    for (size_t c = 0; c < cols; c += span, scale++) {
        float kept[32];
        uint8_t q[32];
        size_t n = gather(kept, x, mask, c, cols - c < span ? cols : c + span);
        if (job->bits == 16) {
            for (size_t i = 0; i < n; i++) store16(job->values, at + i, pare_f32_to_bf16(kept[i]));
        } else if (job->bits == 8) {
            store16(job->scales, scale,
                    pare_sparse_codes(job->k, (int8_t *)job->values + at, kept, n));
        } else {
            store16(job->scales, scale, pare_sparse_nibbles(q, kept, n));
            for (size_t i = 0; i < n; i++) { /* zero before */
                uint8_t *byte = unit + c / 4 + i / 16 * 8 + i % 8;
                *byte = (uint8_t)(*byte | q[i] << 4 * (i / 8 % 2));
            }
        }
        at += n;
    }
}

static void encode_rows(void *arg, size_t begin, size_t end) {
    encode_job *job = arg;
    for (size_t r = begin; r < end; r++) {
        const float *x = job->w + r * job->cols;
        uint8_t *mask = (uint8_t *)job->mask + r * (job->cols / 8);
        if (!row_mask(mask, x, job->cols, job->m)) {
            note_bad_row(job, r);
            return;
        }
        write_values(job, r, x, mask);
    }
}

static pare_status fail_pattern(const encode_job *job, const char *name, pare_error *err) {
    size_t row = job->bad_row, m = (size_t)job->m;
    const float *x = job->w + row * job->cols;
    for (size_t c = 0; c < job->cols; c += m) {
        size_t n = 0;
        for (size_t i = 0; i < m; i++) n += x[c + i] != 0.0f;
        if (n > m / 2)
            return pare_fail(err, PARE_ERR_ARG,
                             "row %zu, columns %zu to %zu: found %zu values that are not zero, "
                             "expected at most %zu of %zu for %s",
                             row, c, c + m - 1, n, m / 2, m, name);
    }
    return pare_fail(err, PARE_ERR_INTERNAL, "row %zu: pattern of %s", row, name);
}

static pare_status encode(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc, int m,
                          int bits, const float *w, size_t rows, size_t cols, pare_error *err) {
    size_t bytes[PARE_MAX_PARTS] = {0};
    if (!enc->part_sizes(bytes, rows, cols))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: a matrix of %zu x %zu", enc->name, rows, cols);
    PARE_TRY(pare_tensor_alloc(out, enc, rows, cols, bytes, err));
    encode_job job = {.k = pare_encode_kernels_get(rt->options.isa),
                      .w = w,
                      .cols = cols,
                      .m = m,
                      .mask = (void *)out->view.part[MASK],
                      .values = (void *)out->view.part[VALUES],
                      .scales = (void *)out->view.part[SCALES],
                      .bits = bits,
                      .bad_row = SIZE_MAX};
    pare_parallel_for(rt, rows, 16, encode_rows, &job);
    if (job.bad_row == SIZE_MAX) return PARE_OK;
    pare_tensor_free(out);
    return fail_pattern(&job, enc->name, err);
}

/* ---- checking ---- */

static pare_status validate(const pare_tensor *t, int m, int bits, pare_error *err) {
    const pare_view *w = &t->view;
    const uint8_t *mask = w->part[MASK];
    size_t bytes = w->cols / 8, groups = scales_of(w->cols, bits);
    bool half_set[256];
    for (unsigned v = 0; v < 256; v++) {
        int low = __builtin_popcount(v & 15), high = __builtin_popcount(v >> 4);
        half_set[v] = m == 4 ? low == 2 && high == 2 : low + high == 4;
    }
    for (size_t i = 0; i < w->rows * bytes; i++) {
        if (!half_set[mask[i]])
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu, columns from %zu: found mask 0x%02x, expected %d bits of "
                             "each %d set",
                             i / bytes, i % bytes * 8, mask[i], m / 2, m);
    }
    for (size_t i = 0; i < w->rows * groups; i++)
        if (!pare_scale_fits(load16(w->part[SCALES], i)))
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu, columns from %zu: found a scale that is not finite or "
                             "overflows, expected a finite number",
                             i / groups, i % groups * (bits == 8 ? 32 : 64));
    for (size_t i = 0; bits == 16 && i < w->rows * bytes * 4; i++)
        if (!pare_bf16_finite(load16(w->part[VALUES], i)))
            return pare_fail(err, PARE_ERR_INPUT,
                             "row %zu, columns from %zu: found NaN or infinity, expected a finite "
                             "number",
                             i / 4 / bytes, i / 4 % bytes * 8);
    return PARE_OK;
}

/* ---- the six forms ---- */

#define NM_FUNCTIONS(name, m, bits)                                                                \
    static pare_status name##_encode(pare_runtime *rt, pare_tensor *out, const float *w,           \
                                     size_t rows, size_t cols, const float *importance,            \
                                     pare_error *err) {                                            \
        (void)importance;                                                                          \
        return encode(rt, out, &pare_enc_##name, m, bits, w, rows, cols, err);                     \
    }                                                                                              \
    static pare_status name##_validate(const pare_tensor *t, pare_error *err) {                    \
        return validate(t, m, bits, err);                                                          \
    }

#define NM_BF16(name_, m, text)                                                                    \
    NM_FUNCTIONS(name_, m, 16)                                                                     \
    const pare_encoding pare_enc_##name_ = {                                                       \
        .name = #name_,                                                                            \
        .summary = text,                                                                           \
        .ggml_type = -1,                                                                           \
        .block_len = 8,                                                                            \
        .max_abs = 0x1.fep127f,                                                                    \
        .n_parts = 2,                                                                              \
        .parts = {{".mask", "U8", 1, true}, {".values", "BF16", 2, true}},                         \
        .part_sizes = bf16_sizes,                                                                  \
        .decode = bf16_decode,                                                                     \
        .encode_matrix = name_##_encode,                                                           \
        .dotf = PARE_DOTF_nm_bf16,                                                                 \
        .validate = name_##_validate,                                                              \
    };

#define NM_INT(name_, m, bits_, dtype, min, max, limit, text)                                      \
    NM_FUNCTIONS(name_, m, bits_)                                                                  \
    const pare_encoding pare_enc_##name_ = {                                                       \
        .name = #name_,                                                                            \
        .summary = text,                                                                           \
        .ggml_type = -1,                                                                           \
        .block_len = 8,                                                                            \
        .max_abs = limit,                                                                          \
        .n_parts = 3,                                                                              \
        .parts = {{".mask", "U8", 1, true},                                                        \
                  {".values", dtype, 1, true},                                                     \
                  {".scales", "BF16", 2, true}},                                                   \
        .part_sizes = q##bits_##_sizes,                                                            \
        .decode = q##bits_##_decode,                                                               \
        .encode_matrix = name_##_encode,                                                           \
        .codes = q##bits_##_codes,                                                                 \
        .code_group = 32,                                                                          \
        .code_min = min,                                                                           \
        .code_max = max,                                                                           \
        .dot = PARE_DOT_##name_,                                                                   \
        .validate = name_##_validate,                                                              \
    };
/* -128: a file may hold it */
#define NM_Q8(name, m, text) NM_INT(name, m, 8, "I8", -128, 127, 0x1p127f, text)
#define NM_Q4(name, m, text) NM_INT(name, m, 4, "U8", -11, 9, 0x1p123f, text)

NM_BF16(nm24_bf16, 4, "sparse 2:4: mask and bf16 values")
NM_Q8(nm24_q8, 4, "sparse 2:4: mask and 8-bit values, scale per 32 columns")
NM_Q4(nm24_q4, 4, "sparse 2:4: mask and 4-bit values, scale per 64 columns")
NM_BF16(nm48_bf16, 8, "sparse 4:8: mask and bf16 values")
NM_Q8(nm48_q8, 8, "sparse 4:8: mask and 8-bit values, scale per 32 columns")
NM_Q4(nm48_q4, 8, "sparse 4:8: mask and 4-bit values, scale per 64 columns")
