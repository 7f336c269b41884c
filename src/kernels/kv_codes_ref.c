/* The codes of q8_0 and q4_0 rows as 16-bit integers, laid out for products of integers. */
#include "kernels/kv_codec_levels.h"

#include "kernels/attention.h"
#include "kernels/blocks.h"

enum { CHUNK = PARE_KV_CHUNK, ROWS = PARE_KV_ROWS, NR = PARE_ATTN_NR };
_Static_assert((int)PARE_KV_ROWS == (int)PARE_ATTN_KEYS, "codes of a block of positions");

/* Value d of a row as its code, and its scale. */
typedef struct value {
    int code;
    uint16_t scale;
} value;
typedef value (*value_at)(const void *row, size_t d);

static value q8_0_at(const void *row, size_t d) {
    const pare_q8_0 *block = (const pare_q8_0 *)row + d / CHUNK;
    return (value){block->q[d % CHUNK], block->d};
}

static value q4_0_at(const void *row, size_t d) {
    const pare_q4_0 *block = (const pare_q4_0 *)row + d / CHUNK;
    uint8_t two = block->qs[d % 16];
    return (value){(d % CHUNK < 16 ? two & 15 : two >> 4) - 8, block->d};
}

/* Where number t of those that are summed over goes, in column j of a panel. */
static size_t place(size_t t, size_t j) {
    static const size_t order[4] = {0, 2, 1, 3};
    size_t at = t / 4 * 4 + order[t % 4];
    return (at / 2 * NR + j) * 2 + at % 2;
}

static size_t round_up(size_t n) { return (n + NR - 1) / NR * NR; }

/* Rows from n on repeat the last one, with scale 0. */
static void lay_out_keys(value_at at, int16_t *codes, float *scales, const uint8_t *rows,
                         size_t row_stride, size_t n, size_t head_dim) {
    for (size_t j = 0; j < NR; j++)
        for (size_t d = 0; d < head_dim; d++) {
            value v = at(rows + (j < n ? j : n - 1) * row_stride, d);
            codes[place(d, j)] = (int16_t)v.code;
            scales[d / CHUNK * NR + j] = j < n ? pare_f16_to_f32(v.scale) : 0.0f;
        }
}

static void lay_out_values(value_at at, int16_t *codes, float *scales, const uint8_t *rows,
                           size_t row_stride, size_t n) {
    for (size_t j = 0; j < round_up(n); j++)
        for (size_t d = 0; d < CHUNK; d++) {
            value v = at(rows + (j < n ? j : n - 1) * row_stride, d);
            codes[d / NR * ROWS * NR + place(j, d % NR)] = (int16_t)v.code;
            scales[j] = j < n ? pare_f16_to_f32(v.scale) : 0.0f;
        }
}

#define DEFINE(name)                                                                               \
    void pare_kv_key_codes_##name##_ref(int16_t *codes, float *scales, const void *rows,           \
                                        size_t row_stride, size_t n, size_t head_dim) {            \
        lay_out_keys(name##_at, codes, scales, rows, row_stride, n, head_dim);                     \
    }                                                                                              \
    void pare_kv_value_codes_##name##_ref(int16_t *codes, float *scales, const void *rows,         \
                                          size_t row_stride, size_t n) {                           \
        lay_out_values(name##_at, codes, scales, rows, row_stride, n);                             \
    }

DEFINE(q8_0)
DEFINE(q4_0)
