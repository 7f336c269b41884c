/* Tile kernels for AVX-512 with VNNI: 16 outputs are one register, and a panel's unit of 32 bits is
 * a lane.
 *
 * f32  24 rows x 16 outputs: 24 sums; the input is broadcast by the multiplication itself.
 * u8   vpdpbusd multiplies 64 pairs of bytes and adds groups of four to 32 bits, without saturation
 *      for any code: no s16 form. 12 rows: 12 integer and 12 f32 sums.
 * bf16 24 rows; twice the products of f32 in an instruction, half of those of u8. */
#include "kernels/bf16_avx512.h"
#include "kernels/intrinsics.h"
#include "kernels/tile_impl.h"

#include <string.h>

enum { NR = PARE_TILE_NR };

/* --- sums to their place --- */

TILE_INLINE void place_rows(float *y, size_t ldy, const float *c, size_t c_panel, size_t m,
                            size_t n, const float *bias, const bool add) {
    for (size_t i = 0; i < m; i++, y += ldy, c += NR)
        for (size_t p = 0; p < n; p++) {
            float *to = y + p * NR;
            if (i + PARE_TILE_AHEAD < m) __builtin_prefetch(to + PARE_TILE_AHEAD * ldy, 1);
            __m512 sum =
                _mm512_add_ps(_mm512_load_ps(c + p * c_panel), _mm512_load_ps(bias + p * NR));
            _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum) : sum);
        }
}

void pare_tile_place_avx512(float *y, size_t ldy, const float *c, size_t c_panel, size_t m,
                            size_t n, const float *bias, bool add) {
    if (add)
        place_rows(y, ldy, c, c_panel, m, n, bias, true);
    else
        place_rows(y, ldy, c, c_panel, m, n, bias, false);
}

/* --- f32 --- */

/* M rows; inputs: NULL for all. */
TILE_INLINE void f32_block(float *c, const float *a, size_t lda, const float *panel,
                           const uint16_t *inputs, size_t k, bool add, const int M) {
    __m512 s[24];
    TILE_UNROLL for (int i = 0; i < M; i++) s[i] = _mm512_setzero_ps();
    for (size_t j = 0; j < k; j++) {
        __m512 w = _mm512_load_ps(panel + j * NR);
        const float *at = a + (inputs ? inputs[j] : j);
        TILE_UNROLL for (int i = 0; i < M; i++) s[i] =
            _mm512_fmadd_ps(_mm512_set1_ps(at[(size_t)i * lda]), w, s[i]);
    }
    TILE_UNROLL for (int i = 0; i < M; i++) {
        float *to = c + i * NR;
        _mm512_store_ps(to, add ? _mm512_add_ps(_mm512_load_ps(to), s[i]) : s[i]);
    }
}

TILE_INLINE void f32_all(float *c, const float *a, size_t lda, const float *panel,
                         const uint16_t *inputs, size_t m, size_t k, bool add) {
    for (; m >= 24; m -= 24, c += 24 * NR, a += 24 * lda)
        f32_block(c, a, lda, panel, inputs, k, add, 24);
    for (; m >= 8; m -= 8, c += 8 * NR, a += 8 * lda)
        f32_block(c, a, lda, panel, inputs, k, add, 8);
    for (; m >= 4; m -= 4, c += 4 * NR, a += 4 * lda)
        f32_block(c, a, lda, panel, inputs, k, add, 4);
    for (; m > 0; m--, c += NR, a += lda) f32_block(c, a, lda, panel, inputs, k, add, 1);
}

void pare_tile_f32_avx512(float *c, const float *a, size_t lda, const float *panel, size_t m,
                          size_t k, bool add) {
    f32_all(c, a, lda, panel, NULL, m, k, add);
}

void pare_tile_f32_inputs_avx512(float *c, const float *a, size_t lda, const float *panel,
                                 const uint16_t *inputs, size_t m, size_t k, bool add) {
    f32_all(c, a, lda, panel, inputs, m, k, add);
}

/* M rows anywhere. */
TILE_INLINE void f32_picked(float *c, const float *a, size_t lda, const uint16_t *rows,
                            const float *panel, size_t k, bool add, const int M) {
    __m512 s[8];
    const float *x[8];
    TILE_UNROLL for (int i = 0; i < M; i++) {
        s[i] = _mm512_setzero_ps();
        x[i] = a + rows[i] * lda;
    }
    for (size_t j = 0; j < k; j++) {
        __m512 w = _mm512_load_ps(panel + j * NR);
        TILE_UNROLL for (int i = 0; i < M; i++) s[i] =
            _mm512_fmadd_ps(_mm512_set1_ps(x[i][j]), w, s[i]);
    }
    TILE_UNROLL for (int i = 0; i < M; i++) {
        float *to = c + (size_t)rows[i] * NR;
        _mm512_store_ps(to, add ? _mm512_add_ps(_mm512_load_ps(to), s[i]) : s[i]);
    }
}

void pare_tile_f32_rows_avx512(float *c, const float *a, size_t lda, const uint16_t *rows,
                               const float *panel, size_t m, size_t k, bool add) {
    for (; m >= 8; m -= 8, rows += 8) f32_picked(c, a, lda, rows, panel, k, add, 8);
    for (; m > 0; m--, rows++) f32_picked(c, a, lda, rows, panel, k, add, 1);
}

/* --- all columns of two panels --- */

void pare_tile_gram_avx512(float *c, const float *a, const float *b, size_t k, bool add) {
    __m512 s[NR];
    TILE_UNROLL for (int i = 0; i < NR; i++) s[i] =
        add ? _mm512_load_ps(c + i * NR) : _mm512_setzero_ps();
    for (size_t t = 0; t < k; t++, a += NR, b += NR) {
        __m512 v = _mm512_loadu_ps(b);
        TILE_UNROLL for (int i = 0; i < NR; i++) s[i] =
            _mm512_fmadd_ps(_mm512_set1_ps(a[i]), v, s[i]);
    }
    TILE_UNROLL for (int i = 0; i < NR; i++) _mm512_store_ps(c + i * NR, s[i]);
}

/* --- int8 --- */

/* M rows from number `row` on, groups of GROUP inputs. */
TILE_INLINE void u8_rows(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t row,
                         bool add, const int M, const int GROUP) {
    const int8_t *x = a->q + row * a->q_stride;
    const float *d = a->d + row * a->d_stride, *sum = a->sum + row * a->sum_stride;
    const size_t x_stride = a->q_stride, d_stride = a->d_stride, sum_stride = a->sum_stride;
    const uint8_t *w = p->q;
    const size_t n_groups = p->k / (size_t)GROUP;
    c += row * NR;
    __m512 total[12];
    TILE_UNROLL for (int i = 0; i < M; i++) total[i] =
        add ? _mm512_load_ps(c + i * NR) : _mm512_setzero_ps();
    for (size_t g = 0; g < n_groups; g++) {
        __m512i s[12];
        TILE_UNROLL for (int i = 0; i < M; i++) s[i] = _mm512_setzero_si512();
        TILE_UNROLL for (int u = 0; u < GROUP / 4; u++, w += 4 * NR, x += 4) {
            __m512i codes = _mm512_load_si512(w);
            TILE_UNROLL for (int i = 0; i < M; i++) {
                int32_t four;
                memcpy(&four, x + (size_t)i * x_stride, sizeof four);
                s[i] = _mm512_dpbusd_epi32(s[i], codes, _mm512_set1_epi32(four));
            }
        }
        __m512 scale = _mm512_load_ps(p->scale + g * NR);
        __m512 offset = _mm512_load_ps(p->offset + g * NR);
        TILE_UNROLL for (int i = 0; i < M; i++) {
            size_t r = (size_t)i;
            __m512 step =
                _mm512_mul_ps(scale, _mm512_set1_ps(d[r * d_stride + g * (size_t)GROUP / 32]));
            total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[i]), step, total[i]);
            total[i] = _mm512_fmadd_ps(offset, _mm512_set1_ps(sum[r * sum_stride + g]), total[i]);
        }
    }
    TILE_UNROLL for (int i = 0; i < M; i++) _mm512_store_ps(c + i * NR, total[i]);
}

TILE_INLINE void u8_all(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m,
                        bool add, const int GROUP) {
    size_t i = 0;
    for (; i + 12 <= m; i += 12) u8_rows(c, a, p, i, add, 12, GROUP);
    for (; i + 4 <= m; i += 4) u8_rows(c, a, p, i, add, 4, GROUP);
    for (; i < m; i++) u8_rows(c, a, p, i, add, 1, GROUP);
}

void pare_tile_u8_avx512(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m,
                         bool add) {
    if (p->group == 32)
        u8_all(c, a, p, m, add, 32);
    else
        u8_all(c, a, p, m, add, 16);
}

/* --- bf16 --- */

/* M rows: vdpbf16ps adds the products of a pair of inputs to the sums of 16 outputs. */
BF16 TILE_INLINE void bf16_products(__m512 *s, const uint16_t *a, size_t lda, const uint16_t *panel,
                                    size_t k, const int M) {
    const uint16_t *next = a + (size_t)M * lda; /* rows lie one behind the other: few streams */
    for (size_t j = 0; j < k; j += 2) {
        if (M == 24) {
            __builtin_prefetch(next + j * 24);
            __builtin_prefetch(next + j * 24 + 32);
        }
        __m512bh w = pairs(_mm512_load_si512(panel + j * NR));
        TILE_UNROLL for (int i = 0; i < M; i++) {
            int32_t two;
            memcpy(&two, a + (size_t)i * lda + j, sizeof two);
            s[i] = _mm512_dpbf16_ps(s[i], pairs(_mm512_set1_epi32(two)), w);
        }
    }
}

/* Rows a constant apart need one address for all. */
BF16 TILE_INLINE void bf16_sums(__m512 *s, const uint16_t *a, size_t lda, const uint16_t *panel,
                                size_t k, const int M) {
    if (M == 24 && lda == PARE_TILE_KC)
        bf16_products(s, a, PARE_TILE_KC, panel, k, M);
    else
        bf16_products(s, a, lda, panel, k, M);
}

BF16 TILE_INLINE void bf16_block(float *c, size_t ldc, const uint16_t *a, size_t lda,
                                 const uint16_t *panel, size_t k, bool add, const int M) {
    __m512 s[24];
    TILE_UNROLL for (int i = 0; i < M; i++) s[i] =
        add ? _mm512_loadu_ps(c + (size_t)i * ldc) : _mm512_setzero_ps();
    bf16_sums(s, a, lda, panel, k, M);
    TILE_UNROLL for (int i = 0; i < M; i++) _mm512_storeu_ps(c + (size_t)i * ldc, s[i]);
}

BF16 void pare_tile_gram_bf16_avx512(float *c, const uint32_t *a, const uint32_t *b, size_t k,
                                     bool add) {
    __m512 s[NR];
    TILE_UNROLL for (int i = 0; i < NR; i++) s[i] =
        add ? _mm512_load_ps(c + i * NR) : _mm512_setzero_ps();
    for (size_t t = 0; t < k; t += 2, a += NR, b += NR) {
        __m512bh v = pairs(_mm512_loadu_si512(b));
        TILE_UNROLL for (int i = 0; i < NR; i++) s[i] =
            _mm512_dpbf16_ps(s[i], pairs(_mm512_set1_epi32((int)a[i])), v);
    }
    TILE_UNROLL for (int i = 0; i < NR; i++) _mm512_store_ps(c + i * NR, s[i]);
}

BF16 static void bf16_avx512(float *c, size_t ldc, const uint16_t *a, size_t lda,
                             const uint16_t *panel, size_t m, size_t k, bool add) {
    for (; m >= 24; m -= 24, c += 24 * ldc, a += 24 * lda)
        bf16_block(c, ldc, a, lda, panel, k, add, 24);
    for (; m >= 8; m -= 8, c += 8 * ldc, a += 8 * lda) bf16_block(c, ldc, a, lda, panel, k, add, 8);
    for (; m >= 4; m -= 4, c += 4 * ldc, a += 4 * lda) bf16_block(c, ldc, a, lda, panel, k, add, 4);
    for (; m > 0; m--, c += ldc, a += lda) bf16_block(c, ldc, a, lda, panel, k, add, 1);
}

BF16 TILE_INLINE void bf16_pairs_block(float *c, const uint16_t *a, size_t lda,
                                       const uint16_t *panel, const uint16_t *at, size_t k,
                                       bool add, const int M) {
    __m512 s[24];
    TILE_UNROLL for (int i = 0; i < M; i++) s[i] =
        add ? _mm512_load_ps(c + i * NR) : _mm512_setzero_ps();
    for (size_t j = 0; j < k; j++) {
        __m512bh w = pairs(_mm512_load_si512(panel + j * 2 * NR));
        const uint16_t *x = a + 2 * (size_t)at[j];
        TILE_UNROLL for (int i = 0; i < M; i++) {
            int32_t two;
            memcpy(&two, x + (size_t)i * lda, sizeof two);
            s[i] = _mm512_dpbf16_ps(s[i], pairs(_mm512_set1_epi32(two)), w);
        }
    }
    TILE_UNROLL for (int i = 0; i < M; i++) _mm512_store_ps(c + i * NR, s[i]);
}

BF16 static void bf16_pairs_avx512(float *c, const uint16_t *a, size_t lda, const uint16_t *panel,
                                   const uint16_t *at, size_t m, size_t k, bool add) {
    for (; m >= 24; m -= 24, c += 24 * NR, a += 24 * lda)
        bf16_pairs_block(c, a, lda, panel, at, k, add, 24);
    for (; m >= 8; m -= 8, c += 8 * NR, a += 8 * lda)
        bf16_pairs_block(c, a, lda, panel, at, k, add, 8);
    for (; m > 0; m--, c += NR, a += lda) bf16_pairs_block(c, a, lda, panel, at, k, add, 1);
}

/* M rows anywhere. */
BF16 TILE_INLINE void bf16_picked(float *c, const uint16_t *a, size_t lda, const uint16_t *rows,
                                  const uint16_t *panel, size_t k, bool add, const int M) {
    __m512 s[8];
    const uint16_t *x[8];
    TILE_UNROLL for (int i = 0; i < M; i++) {
        s[i] = add ? _mm512_load_ps(c + (size_t)rows[i] * NR) : _mm512_setzero_ps();
        x[i] = a + rows[i] * lda;
    }
    for (size_t j = 0; j < k; j += 2) {
        __m512bh w = pairs(_mm512_load_si512(panel + j * NR));
        TILE_UNROLL for (int i = 0; i < M; i++) {
            int32_t two;
            memcpy(&two, x[i] + j, sizeof two);
            s[i] = _mm512_dpbf16_ps(s[i], pairs(_mm512_set1_epi32(two)), w);
        }
    }
    TILE_UNROLL for (int i = 0; i < M; i++) _mm512_store_ps(c + (size_t)rows[i] * NR, s[i]);
}

BF16 static void bf16_rows_avx512(float *c, const uint16_t *a, size_t lda, const uint16_t *rows,
                                  const uint16_t *panel, size_t m, size_t k, bool add) {
    for (; m >= 8; m -= 8, rows += 8) bf16_picked(c, a, lda, rows, panel, k, add, 8);
    for (; m > 0; m--, rows++) bf16_picked(c, a, lda, rows, panel, k, add, 1);
}

/* Rows of y, each in a page of its own perhaps, are fetched while the products are made. */
BF16 TILE_INLINE void bf16_place_block(float *y, size_t ldy, const float *c, const uint16_t *a,
                                       size_t lda, const uint16_t *panel, __m512 bias, size_t k,
                                       bool add, const int M) {
    __m512 s[24];
    TILE_UNROLL for (int i = 0; i < M; i++) {
        __builtin_prefetch(y + (size_t)i * ldy, 1);
        s[i] = c ? _mm512_load_ps(c + i * NR) : _mm512_setzero_ps();
    }
    bf16_sums(s, a, lda, panel, k, M);
    TILE_UNROLL for (int i = 0; i < M; i++) {
        float *to = y + (size_t)i * ldy;
        __m512 sum = _mm512_add_ps(s[i], bias);
        _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum) : sum);
    }
}

BF16 static void bf16_place_avx512(float *y, size_t ldy, const float *c, const uint16_t *a,
                                   size_t lda, const uint16_t *panel, const float *bias, size_t m,
                                   size_t k, bool add) {
    const __m512 b = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
    size_t i = 0;
#define ROWS(M)                                                                                    \
    for (; i + (M) <= m; i += (M))                                                                 \
        bf16_place_block(y + i * ldy, ldy, c ? c + i * NR : NULL, a + i * lda, lda, panel, b, k,   \
                         add, M);
    ROWS(24)
    ROWS(8)
    ROWS(4)
    ROWS(1)
#undef ROWS
}

#define KERNELS                                                                                    \
    .transpose = pare_tile_transpose_avx2, .place = pare_tile_place_avx512,                        \
    .f32 = pare_tile_f32_avx512, .f32_inputs = pare_tile_f32_inputs_avx512,                        \
    .f32_rows = pare_tile_f32_rows_avx512, .pick = pare_tile_pick_avx2,                            \
    .weights = pare_tile_weights_avx512, .gram = pare_tile_gram_avx512,                            \
    .gather = pare_tile_gather_avx2, .squares = pare_tile_squares_avx2, .u8 = pare_tile_u8_avx512, \
    .u8_max = 255
const pare_tile_kernels pare_tile_avx512 = {KERNELS};
const pare_tile_kernels pare_tile_avx512_bf16 = {KERNELS,
                                                 .bf16 = bf16_avx512,
                                                 .bf16_place = bf16_place_avx512,
                                                 .bf16_pairs = bf16_pairs_avx512,
                                                 .bf16_rows = bf16_rows_avx512,
                                                 .gram_bf16 = pare_tile_gram_bf16_avx512,
                                                 .split = pare_tile_split_avx512,
                                                 .pair_f32 = pare_tile_pair_f32_avx512,
                                                 .pair_bf16 = pare_tile_pair_bf16_avx512,
                                                 .pair_codes = pare_tile_pair_codes_avx512};
