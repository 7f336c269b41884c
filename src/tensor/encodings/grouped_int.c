/* intB_G and uintB_G: whole numbers of B = 2, 3, 4, 5, 6, 8 bits, w = scale * (code - zero), with a
 * scale per G inputs of a row (g32, g64, g128) or one for the row. int: zero = 2^(B-1); uint: a
 * zero point is stored. The grids that pruners and quantizers of the GPTQ family write
 * (tensor/grid.h), and what compressed-tensors and GPTQ files hold.
 *
 * A row is its groups, one after the other, the last one as short as the row demands:
 *
 *   f16   scale, may be negative
 *   u8    zero (uint only)
 *   bits  code k of the group at bits k B .. k B + B - 1, the lowest bit of a byte first
 *
 * cols is a multiple of 8, so that groups end at bytes. */
#include "tensor/encodings/encode_common.h"
#include "tensor/grid.h"

enum { ROW = 1 << 30 /* the group of *_row: no row is longer */ };

typedef struct form {
    unsigned bits;
    bool asymmetric;
    size_t group;
} form;

static inline size_t header_bytes(form f) { return f.asymmetric ? 3 : 2; }
static inline size_t group_bytes(form f, size_t n) { return header_bytes(f) + n * f.bits / 8; }

static const uint8_t *group_at(const pare_view *w, form f, size_t row, size_t col) {
    return (const uint8_t *)w->part[0] + row * w->row_bytes +
           col / f.group * group_bytes(f, f.group);
}

static inline float scale_of(const uint8_t *group) {
    uint16_t h;
    memcpy(&h, group, 2);
    return pare_f16_to_f32(h);
}
static inline int zero_of(form f, const uint8_t *group) {
    return f.asymmetric ? group[2] : 1 << (f.bits - 1);
}

/* Eight codes are `bits` bytes. */
static inline __attribute__((always_inline)) uint64_t load_eight(const uint8_t *p, unsigned bits) {
    uint64_t v = 0;
    memcpy(&v, p, bits);
    return v;
}

/* Codes minus what fits the int8 of the kernels: the zero point, or 128 where codes have 8 bits and
 * zero points vary; the rest is then the offset, exact in f32. */
static inline __attribute__((always_inline)) void unpack(int8_t *q, float *scale, float *offset,
                                                         const pare_view *w, size_t row, size_t col,
                                                         size_t n, form f) {
    bool wide = f.asymmetric && f.bits == 8;
    for (size_t c = 0; c < n; c += 32) {
        const uint8_t *group = group_at(w, f, row, col + c);
        const uint8_t *p = group + header_bytes(f) + (col + c) % f.group * f.bits / 8;
        size_t len = n - c < 32 ? n - c : 32;
        int zero = zero_of(f, group), minus = wide ? 128 : zero;
        scale[c / 32] = scale_of(group);
        if (wide) offset[c / 32] = scale[c / 32] * (float)(128 - zero);
        for (size_t i = 0; i < len; i += 8, p += f.bits) {
            uint64_t v = load_eight(p, f.bits);
            for (unsigned k = 0; k < 8; k++)
                q[c + i + k] = (int8_t)((int)(v >> k * f.bits & ((1u << f.bits) - 1)) - minus);
        }
    }
}

static inline __attribute__((always_inline)) void decode(float *y, const pare_view *w, size_t row,
                                                         size_t col, size_t n, form f) {
    for (size_t c = 0; c < n; c += 8) {
        const uint8_t *group = group_at(w, f, row, col + c);
        const uint8_t *p = group + header_bytes(f) + (col + c) % f.group * f.bits / 8;
        float scale = scale_of(group);
        int zero = zero_of(f, group);
        uint64_t v = load_eight(p, f.bits);
        for (unsigned k = 0; k < 8; k++)
            y[c + k] = scale * (float)((int)(v >> k * f.bits & ((1u << f.bits) - 1)) - zero);
    }
}

/* ---- encoding ---- */

static void encode_group(uint8_t *out, const float *x, size_t n, form f, float scale, int zero) {
    uint16_t h = pare_f32_to_f16(scale);
    int max = (1 << f.bits) - 1;
    memcpy(out, &h, 2);
    if (f.asymmetric) out[2] = (uint8_t)zero;
    out += header_bytes(f);
    for (size_t i = 0; i < n; i += 8, out += f.bits) {
        uint64_t v = 0;
        for (unsigned k = 0; k < 8; k++)
            v |= (uint64_t)pare_grid_code(x[i + k], scale, zero, max) << k * f.bits;
        memcpy(out, &v, f.bits);
    }
}

static void encode_grid(uint8_t *out, const float *x, size_t cols, form f, const float *scale,
                        const uint8_t *zero) {
    for (size_t c = 0; c < cols; c += f.group, scale++) {
        size_t n = cols - c < f.group ? cols - c : f.group;
        encode_group(out, x + c, n, f, *scale, f.asymmetric ? *zero++ : 1 << (f.bits - 1));
        out += group_bytes(f, n);
    }
}

/* Without a method: the full grid, or the one from minimum to maximum with a zero point; with
 * importance that of least squared error. */
static void encode_row(const pare_encode_kernels *k, uint8_t *out, const float *x, size_t cols,
                       const float *importance, form f) {
    const pare_grid grid = {f.asymmetric ? PARE_GRID_GPTQ_ASYM : PARE_GRID_FULL, (int)f.bits,
                            importance ? PARE_GRID_LEAST_SQUARES : PARE_GRID_PLAIN};
    for (size_t c = 0; c < cols; c += f.group) {
        size_t n = cols - c < f.group ? cols - c : f.group;
        float scale;
        uint8_t zero;
        pare_grid_fit(&scale, &zero, &grid, k, x + c, importance ? importance + c : NULL, n);
        encode_group(out, x + c, n, f, scale, zero);
        out += group_bytes(f, n);
    }
}

/* A zero point must be a code. */
static pare_block_state group_state(const uint8_t *group, form f) {
    uint16_t h;
    memcpy(&h, group, 2);
    return f.asymmetric && group[2] >> f.bits ? PARE_BLOCK_BAD : pare_half_state(h);
}

/* ---- the forms ---- */

#define FORM(kind, b, g) ((form){b, sizeof #kind == sizeof "uint", g})

#define GROUPED(kind, b, suffix, g, text)                                                          \
    static size_t kind##b##_##suffix##_tail(size_t n) { return group_bytes(FORM(kind, b, g), n); } \
    static void kind##b##_##suffix##_codes(int8_t *q, float *scale, float *offset,                 \
                                           const pare_view *w, size_t row, size_t col, size_t n) { \
        unpack(q, scale, offset, w, row, col, n, FORM(kind, b, g));                                \
    }                                                                                              \
    static void kind##b##_##suffix##_decode(float *y, const pare_view *w, size_t row, size_t col,  \
                                            size_t n) {                                            \
        decode(y, w, row, col, n, FORM(kind, b, g));                                               \
    }                                                                                              \
    static void kind##b##_##suffix##_encode(const pare_encode_kernels *k, void *out,               \
                                            const float *x, size_t cols,                           \
                                            const float *importance) {                             \
        encode_row(k, out, x, cols, importance, FORM(kind, b, g));                                 \
    }                                                                                              \
    static void kind##b##_##suffix##_encode_grid(void *out, const float *x, size_t cols,           \
                                                 const float *scale, const uint8_t *zero) {        \
        encode_grid(out, x, cols, FORM(kind, b, g), scale, zero);                                  \
    }                                                                                              \
    static pare_block_state kind##b##_##suffix##_state(const void *block, size_t n) {              \
        (void)n;                                                                                   \
        return group_state(block, FORM(kind, b, g));                                               \
    }                                                                                              \
    static const pare_grid_form kind##b##_##suffix##_form = {b, sizeof #kind == sizeof "uint",     \
                                                             (g) == ROW ? 0 : (g)};                \
    const pare_encoding pare_enc_##kind##b##_##suffix = {                                          \
        .name = #kind #b "_" #suffix,                                                              \
        .summary = text,                                                                           \
        .ggml_type = -1,                                                                           \
        .block_len = 8,                                                                            \
        .block_bytes = (sizeof #kind == sizeof "uint" ? 3 : 2) + (g) / 8 * (b),                    \
        .span = g,                                                                                 \
        .tail_bytes = kind##b##_##suffix##_tail,                                                   \
        .max_abs = 65504.0f,                                                                       \
        .n_parts = 1,                                                                              \
        .parts = {{"", "U8", 1, true}},                                                            \
        .decode = kind##b##_##suffix##_decode,                                                     \
        .encode_row = kind##b##_##suffix##_encode,                                                 \
        .grid = &kind##b##_##suffix##_form,                                                        \
        .encode_grid_row = kind##b##_##suffix##_encode_grid,                                       \
        .codes = kind##b##_##suffix##_codes,                                                       \
        .code_group = 32,                                                                          \
        .code_min = (b) == 8                        ? -128                                         \
                    : sizeof #kind == sizeof "uint" ? 1 - (1 << (b))                               \
                                                    : -(1 << ((b)-1)),                             \
        .code_max = (b) == 8                        ? 127                                          \
                    : sizeof #kind == sizeof "uint" ? (1 << (b)) - 1                               \
                                                    : (1 << ((b)-1)) - 1,                          \
        .has_offset = (b) == 8 && sizeof #kind == sizeof "uint",                                   \
        .block_state = kind##b##_##suffix##_state,                                                 \
    };

#define GROUPS(kind, b, text)                                                                      \
    GROUPED(kind, b, row, ROW, text " per row")                                                    \
    GROUPED(kind, b, g128, 128, text " per 128")                                                   \
    GROUPED(kind, b, g64, 64, text " per 64")                                                      \
    GROUPED(kind, b, g32, 32, text " per 32")
#define BITS(b)                                                                                    \
    GROUPS(int, b, #b "-bit integers, scale")                                                      \
    GROUPS(uint, b, #b "-bit integers, scale and zero point")

BITS(8)
BITS(6)
BITS(5)
BITS(4)
BITS(3)
BITS(2)
