/* The dot kernels of plain and sparse floats, and of sparse integers, in plain C. */
#include "kernels/dot_impl.h"

/* The parts of a matrix may stand at any address. */
static float load_f32(const uint8_t *p) {
    uint32_t bits;
    memcpy(&bits, p, 4);
    return pare_f32_from_bits(bits);
}
static uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static float load_f16(const uint8_t *p) { return pare_f16_to_f32(load_u16(p)); }
static float load_bf16(const uint8_t *p) { return pare_bf16_to_f32(load_u16(p)); }

#define DOTF_REF(name, size)                                                                       \
    void pare_dotf_##name##_ref(float *y, size_t ldy, const pare_view *w, size_t row_begin,        \
                                size_t row_end, const float *x, size_t ldx, size_t n) {            \
        for (size_t r = row_begin; r < row_end; r++) {                                             \
            const uint8_t *row = pare_row(w, r);                                                   \
            for (size_t i = 0; i < n; i++) {                                                       \
                float sum = 0.0f;                                                                  \
                for (size_t c = 0; c < w->cols; c++)                                               \
                    sum += load_##name(row + c * (size)) * x[i * ldx + c];                         \
                y[i * ldy + r] = sum;                                                              \
            }                                                                                      \
        }                                                                                          \
    }

DOTF_REF(f32, 4)
DOTF_REF(f16, 2)
DOTF_REF(bf16, 2)

/* ---- sparse: columns whose bit is set have a value, in order ---- */

/* sum of v[k] * x[c] over the columns c < cols with a set bit; k counts them. bits: LSB first. */
static float dot_sparse_bf16(const uint8_t *bits, const uint8_t *v, const float *x, size_t cols) {
    float sum = 0.0f;
    for (size_t c = 0, k = 0; c < cols; c++)
        if (bits[c / 8] >> c % 8 & 1) sum += load_bf16(v + 2 * k++) * x[c];
    return sum;
}

/* Where the integers of a row lie, and their scales. */
typedef struct codes {
    const uint8_t *values, *scales;
    bool four, units; /* 4 bits; N:M: in units of 16 */
} codes;

static int code_at(codes w, size_t k) {
    if (!w.four) return (int8_t)w.values[k];
    uint8_t both = w.units ? w.values[k / 16 * 8 + k % 8] : w.values[k / 2];
    bool high = w.units ? k % 16 >= 8 : k % 2;
    return pare_sparse_levels[high ? both >> 4 : both & 15];
}

/* The same for integers; x has a scale per 32 columns, the weights per 32 or (4 bits) 64. */
static float dot_sparse_int(const uint8_t *bits, codes w, const pare_act *x, size_t i,
                            size_t cols) {
    const int8_t *q = x->q + i * x->q_stride;
    float y = 0.0f;
    for (size_t begin = 0, k = 0; begin < cols; begin += 32) {
        int32_t sum = 0;
        for (size_t c = begin; c < begin + 32 && c < cols; c++)
            if (bits[c / 8] >> c % 8 & 1) sum += code_at(w, k++) * q[c];
        float scale = load_bf16(w.scales + 2 * (begin / (w.four ? 64 : 32)));
        y += x->d[i * x->d_stride + begin / 32] * scale * (float)sum;
    }
    return y;
}

/* where row r of a sparse matrix has its values */
static size_t bitmap_first(const pare_view *w, size_t r) {
    uint64_t first;
    memcpy(&first, (const uint8_t *)w->part[1] + 8 * r, 8);
    return (size_t)first;
}

void pare_dotf_bitmap_bf16_ref(float *y, size_t ldy, const pare_view *w, size_t row_begin,
                               size_t row_end, const float *x, size_t ldx, size_t n) {
    for (size_t r = row_begin; r < row_end; r++)
        for (size_t i = 0; i < n; i++)
            y[i * ldy + r] = dot_sparse_bf16(pare_row(w, r),
                                             (const uint8_t *)w->part[2] + 2 * bitmap_first(w, r),
                                             x + i * ldx, w->cols);
}

void pare_dotf_nm_bf16_ref(float *y, size_t ldy, const pare_view *w, size_t row_begin,
                           size_t row_end, const float *x, size_t ldx, size_t n) {
    for (size_t r = row_begin; r < row_end; r++)
        for (size_t i = 0; i < n; i++)
            y[i * ldy + r] = dot_sparse_bf16(
                pare_row(w, r), (const uint8_t *)w->part[1] + r * w->cols, x + i * ldx, w->cols);
}

/* bits: of a value */
static codes bitmap_codes(const pare_view *w, size_t r, size_t bits) {
    size_t span = bits == 4 ? 64 : 32, scales = (w->cols + span - 1) / span;
    return (codes){.values = (const uint8_t *)w->part[2] + bitmap_first(w, r) * bits / 8,
                   .scales = (const uint8_t *)w->part[3] + 2 * r * scales,
                   .four = bits == 4};
}

static codes nm_codes(const pare_view *w, size_t r, size_t bits) {
    size_t span = bits == 4 ? 64 : 32, scales = (w->cols + span - 1) / span;
    size_t row_bytes = bits == 4 ? (w->cols + 31) / 32 * 8 : w->cols / 2;
    return (codes){.values = (const uint8_t *)w->part[1] + r * row_bytes,
                   .scales = (const uint8_t *)w->part[2] + 2 * r * scales,
                   .four = bits == 4,
                   .units = true};
}

#define DOT_REF(name, kind, bits)                                                                  \
    void pare_dot_##name##_ref(float *y, size_t ldy, const pare_view *w, size_t row_begin,         \
                               size_t row_end, const pare_act *x) {                                \
        for (size_t r = row_begin; r < row_end; r++)                                               \
            for (size_t i = 0; i < x->n; i++)                                                      \
                y[i * ldy + r] =                                                                   \
                    dot_sparse_int(pare_row(w, r), kind##_codes(w, r, bits), x, i, w->cols);       \
    }
DOT_REF(bitmap_q8, bitmap, 8)
DOT_REF(bitmap_q4, bitmap, 4)
DOT_REF(nm48_q8, nm, 8)
DOT_REF(nm48_q4, nm, 4)
