/* From stored bytes to codes and to f32: what every path does with weights whose encoding it does
 * not read itself. The same bits at every level, and as the encoding's own codes() and decode(). */
#ifndef PARE_SRC_KERNELS_UNPACK_H
#define PARE_SRC_KERNELS_UNPACK_H

#include "kernels/packed.h"
#include "kernels/tile.h"

/* As pare_encoding.codes: q[n], and scale and offset per group, of row `row` from `col` on. */
typedef void (*pare_codes_fn)(int8_t *q, float *scale, float *offset, const pare_view *w,
                              size_t row, size_t col, size_t n);
/* As pare_encoding.decode: y[n] of row `row` from `col` on. */
typedef void (*pare_decode_fn)(float *y, const pare_view *w, size_t row, size_t col, size_t n);

typedef struct pare_unpack_kernels {
    pare_codes_fn codes[PARE_DOT_COUNT];    /* of rows; NULL: the encoding's own */
    pare_decode_fn decode[PARE_DOTF_COUNT]; /* of rows without codes; NULL: the encoding's own */
    pare_packed_unpack_fn packed[PARE_DOT_COUNT];
    /* w[n] = scale * q + offset, a scale per `group` (16 or 32) inputs; offset NULL = none. */
    void (*expand)(float *w, const int8_t *q, const float *scale, const float *offset,
                   uint32_t group, size_t n);
    /* out[n] = q[n] - min, which fits 8 bits; the same in 16 bits without min. */
    void (*shift)(uint8_t *out, const int8_t *q, int min, size_t n);
    void (*widen)(int16_t *out, const int8_t *q, size_t n);
    /* The same for a panel: w[k][NR] from codes [k / 4][NR][4] and scale and offset
     * [k / group][NR]. k is a multiple of 4. */
    void (*expand_panel)(float *w, const uint32_t *codes, const float *scale, const float *offset,
                         uint32_t group, size_t k);
    /* w[k][NR] from f16 or bf16 [k / 2][NR][2]; k is even. */
    void (*f16_panel)(float *w, const uint32_t *pairs, size_t k);
    void (*bf16_panel)(float *w, const uint32_t *pairs, size_t k);
    /* pairs[k / 2][NR][2] of 16 bits from w[k][NR]; k is even. */
    void (*pair_panel)(uint32_t *pairs, const uint16_t *w, size_t k);
} pare_unpack_kernels;

/* The table for a level, of AVX-512 with its expansions (VBMI2) where this processor has them;
 * static storage. */
const pare_unpack_kernels *pare_unpack_kernels_get(pare_isa isa);

extern const pare_unpack_kernels pare_unpack_ref, pare_unpack_avx2, pare_unpack_avx512_vbmi2;

/* Sparse rows (unpack_sparse_avx2.c, unpack_sparse_avx512.c). */
#define X(name)                                                                                    \
    void pare_codes_##name##_avx2(int8_t *q, float *scale, float *offset, const pare_view *w,      \
                                  size_t row, size_t col, size_t n);                               \
    void pare_codes_##name##_avx512(int8_t *q, float *scale, float *offset, const pare_view *w,    \
                                    size_t row, size_t col, size_t n);
PARE_DOT_ROWS_LIST(X)
#undef X
#define X(name)                                                                                    \
    void pare_decode_##name##_avx2(float *y, const pare_view *w, size_t row, size_t col,           \
                                   size_t n);                                                      \
    void pare_decode_##name##_avx512(float *y, const pare_view *w, size_t row, size_t col,         \
                                     size_t n);
PARE_DOT_F32_SPARSE_LIST(X)
#undef X

#endif
