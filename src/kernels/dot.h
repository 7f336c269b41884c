/* y[i][r] = sum_c w[r][c] * x[i][c] for weight rows r in [row_begin, row_end) and i < n.
 *
 * One kernel per storage format and instruction set. Weights with integer codes come in packed
 * panels (packed.h) and take x in int8 (activation.h), for any n; row_begin is a multiple of 16
 * there, and row_end too or the last row. The others are for few rows, n <= 16: a block is read
 * once and multiplied with all n. Sparse codes take x in int8, weights of 16 and 32 bits in f32.
 *
 * Integer sums are exact; the float additions per row run in a fixed order that depends on the
 * instruction set only, never on n, on the row range or on the number of threads. */
#ifndef PARE_SRC_KERNELS_DOT_H
#define PARE_SRC_KERNELS_DOT_H

#include "kernels/activation.h"
#include "kernels/view.h"
#include "pare/base.h"

#define PARE_DOT_MAX_N 16

/* The formats that have a kernel: packed ones (packed.h) and rows as they are stored. Encodings
 * name theirs. */
#define PARE_DOT_PACKED_LIST(X)                                                                    \
    X(q4_0)                                                                                        \
    X(q4_1)                                                                                        \
    X(q5_0)                                                                                        \
    X(q5_1)                                                                                        \
    X(q8_0)                                                                                        \
    X(iq4_nl)                                                                                      \
    X(q2_k)                                                                                        \
    X(q3_k)                                                                                        \
    X(q4_k)                                                                                        \
    X(q5_k)                                                                                        \
    X(q6_k)                                                                                        \
    X(iq4_xs)                                                                                      \
    X(nm24_q8)                                                                                     \
    X(nm24_q4)
#define PARE_DOT_ROWS_LIST(X) X(bitmap_q8) X(bitmap_q4) X(nm48_q8) X(nm48_q4)
#define PARE_DOT_LIST(X) PARE_DOT_PACKED_LIST(X) PARE_DOT_ROWS_LIST(X)
#define PARE_DOT_F32_PACKED_LIST(X) X(nm24_bf16)
#define PARE_DOT_F32_PLAIN_LIST(X) X(f32) X(f16) X(bf16)
#define PARE_DOT_F32_SPARSE_LIST(X) X(bitmap_bf16) X(nm_bf16)
#define PARE_DOT_F32_LIST(X)                                                                       \
    PARE_DOT_F32_PACKED_LIST(X) PARE_DOT_F32_PLAIN_LIST(X) PARE_DOT_F32_SPARSE_LIST(X)

typedef enum pare_dot_id {
    PARE_DOT_NONE = 0,
#define X(name) PARE_DOT_##name,
    PARE_DOT_LIST(X)
#undef X
        PARE_DOT_COUNT
} pare_dot_id;

typedef enum pare_dotf_id {
    PARE_DOTF_NONE = 0,
#define X(name) PARE_DOTF_##name,
    PARE_DOT_F32_LIST(X)
#undef X
        PARE_DOTF_COUNT
} pare_dotf_id;

/* y[i * ldy + r], r in [row_begin, row_end), i < x->n. */
typedef void (*pare_dot_fn)(float *y, size_t ldy, const pare_view *w, size_t row_begin,
                            size_t row_end, const pare_act *x);
/* the same with x[n][ldx] in f32. */
typedef void (*pare_dotf_fn)(float *y, size_t ldy, const pare_view *w, size_t row_begin,
                             size_t row_end, const float *x, size_t ldx, size_t n);

typedef struct pare_dot_kernels {
    pare_dot_fn dot[PARE_DOT_COUNT]; /* [PARE_DOT_NONE] is NULL */
    pare_dotf_fn dotf[PARE_DOTF_COUNT];
    /* Quantizes x[n][ldx] into the rows of a, which pare_act_place laid out for at least n rows of
     * `cols` values; sets a->n. Where cols is not a multiple of 32, zeros are put behind it. To
     * share the work among threads, give each its rows: pare_act_row. */
    void (*quantize)(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols);
    /* The kernels of packed formats take any n; above this tile kernels are faster. */
    size_t packed_max_n;
    /* The same for 2:4 with codes of a table: half the products, each with a shuffle. */
    size_t two_four_max_n;
} pare_dot_kernels;

/* The table for a level, of AVX-512 with its expansions (VBMI2) where this processor has them;
 * static storage. */
const pare_dot_kernels *pare_dot_kernels_get(pare_isa isa);

/* For the tests. */
extern const pare_dot_kernels pare_dot_avx512_vbmi2;

#endif
