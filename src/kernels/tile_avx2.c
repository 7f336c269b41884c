/* Tile kernels for AVX2 and FMA: 16 outputs are two registers.
 *
 * f32  6 rows x 16 outputs: 12 sums, 2 weights, 1 broadcast input.
 * u8   maddubs multiplies 32 pairs of bytes and adds neighbours into 16 bits. How many of those
 * sums fit 16 bits depends on the largest code: 8 up to code 15, 4 to 31, 2 to 63, 1 to 127; only
 *      then are they widened to 32 bits. A group of 32 inputs of a 4-bit encoding needs one
 * widening. s16  madd multiplies 16 pairs of 16 bits and adds neighbours into 32 bits. */
#include "kernels/intrinsics.h"
#include "kernels/tile_impl.h"

#include <string.h>

/* Keeps an integer sum in its register. Without it gcc re-associates the additions of a group into
 * a tree, whose leaves no longer fit the registers: the u8 kernel then runs at half its speed. */
#define KEEP(v) __asm__("" : "+x"(v))

enum { NR = PARE_TILE_NR };

/* --- transposition --- */

/* out[i * NR + j] = in[j * ld + i], 8 x 8. */
TILE_INLINE void transpose_8x8(float *out, const float *in, size_t ld) {
    __m256 a[8], b[8];
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(in + (size_t)i * ld)),
                                    _mm_loadu_ps(in + (size_t)(i + 4) * ld), 1);
        a[i + 4] =
            _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(in + (size_t)i * ld + 4)),
                                 _mm_loadu_ps(in + (size_t)(i + 4) * ld + 4), 1);
    }
    TILE_UNROLL for (int h = 0; h < 8; h += 4) {
        b[h] = _mm256_unpacklo_ps(a[h], a[h + 1]);
        b[h + 1] = _mm256_unpackhi_ps(a[h], a[h + 1]);
        b[h + 2] = _mm256_unpacklo_ps(a[h + 2], a[h + 3]);
        b[h + 3] = _mm256_unpackhi_ps(a[h + 2], a[h + 3]);
        _mm256_store_ps(out + (h + 0) * NR, _mm256_shuffle_ps(b[h], b[h + 2], 0x44));
        _mm256_store_ps(out + (h + 1) * NR, _mm256_shuffle_ps(b[h], b[h + 2], 0xEE));
        _mm256_store_ps(out + (h + 2) * NR, _mm256_shuffle_ps(b[h + 1], b[h + 3], 0x44));
        _mm256_store_ps(out + (h + 3) * NR, _mm256_shuffle_ps(b[h + 1], b[h + 3], 0xEE));
    }
}

void pare_tile_transpose_avx2(uint32_t *out, const uint32_t *in, size_t ld, size_t k) {
    size_t i = 0;
    for (; i + 8 <= k; i += 8)
        for (size_t r = 0; r < NR; r += 8)
            transpose_8x8((float *)out + i * NR + r, (const float *)in + r * ld + i, ld);
    for (; i < k; i++)
        for (size_t r = 0; r < NR; r++) out[i * NR + r] = in[r * ld + i];
}

/* --- sums to their place --- */

TILE_INLINE void place_rows(float *y, size_t ldy, const float *c, size_t c_panel, size_t m,
                            size_t n, const float *bias, const bool add) {
    for (size_t i = 0; i < m; i++, y += ldy, c += NR)
        for (size_t p = 0; p < n; p++) {
            float *to = y + p * NR;
            if (i + PARE_TILE_AHEAD < m) __builtin_prefetch(to + PARE_TILE_AHEAD * ldy, 1);
            TILE_UNROLL for (int h = 0; h < NR; h += 8) {
                __m256 sum = _mm256_add_ps(_mm256_load_ps(c + p * c_panel + h),
                                           _mm256_load_ps(bias + p * NR + h));
                _mm256_storeu_ps(to + h, add ? _mm256_add_ps(_mm256_loadu_ps(to + h), sum) : sum);
            }
        }
}

void pare_tile_place_avx2(float *y, size_t ldy, const float *c, size_t c_panel, size_t m, size_t n,
                          const float *bias, bool add) {
    if (add)
        place_rows(y, ldy, c, c_panel, m, n, bias, true);
    else
        place_rows(y, ldy, c, c_panel, m, n, bias, false);
}

/* --- f32 --- */

TILE_INLINE void f32_store(float *c, __m256 s[2], bool add) {
    TILE_UNROLL for (int h = 0; h < 2; h++)
        _mm256_store_ps(c + h * 8, add ? _mm256_add_ps(_mm256_load_ps(c + h * 8), s[h]) : s[h]);
}

/* M rows; inputs: NULL for all. */
TILE_INLINE void f32_block(float *c, const float *a, size_t lda, const float *panel,
                           const uint16_t *inputs, size_t k, bool add, const int M) {
    __m256 s[6][2];
    TILE_UNROLL for (int i = 0; i < M; i++) s[i][0] = s[i][1] = _mm256_setzero_ps();
    for (size_t j = 0; j < k; j++) {
        __m256 w0 = _mm256_load_ps(panel + j * NR), w1 = _mm256_load_ps(panel + j * NR + 8);
        const float *at = a + (inputs ? inputs[j] : j);
        TILE_UNROLL for (int i = 0; i < M; i++) {
            __m256 x = _mm256_broadcast_ss(at + (size_t)i * lda);
            s[i][0] = _mm256_fmadd_ps(x, w0, s[i][0]);
            s[i][1] = _mm256_fmadd_ps(x, w1, s[i][1]);
        }
    }
    TILE_UNROLL for (int i = 0; i < M; i++) f32_store(c + i * NR, s[i], add);
}

TILE_INLINE void f32_all(float *c, const float *a, size_t lda, const float *panel,
                         const uint16_t *inputs, size_t m, size_t k, bool add) {
    for (; m >= 6; m -= 6, c += 6 * NR, a += 6 * lda)
        f32_block(c, a, lda, panel, inputs, k, add, 6);
    switch (m) {
    case 5:
        f32_block(c, a, lda, panel, inputs, k, add, 5);
        break;
    case 4:
        f32_block(c, a, lda, panel, inputs, k, add, 4);
        break;
    case 3:
        f32_block(c, a, lda, panel, inputs, k, add, 3);
        break;
    case 2:
        f32_block(c, a, lda, panel, inputs, k, add, 2);
        break;
    case 1:
        f32_block(c, a, lda, panel, inputs, k, add, 1);
        break;
    default:
        break;
    }
}

static void f32_avx2(float *c, const float *a, size_t lda, const float *panel, size_t m, size_t k,
                     bool add) {
    f32_all(c, a, lda, panel, NULL, m, k, add);
}

static void f32_inputs_avx2(float *c, const float *a, size_t lda, const float *panel,
                            const uint16_t *inputs, size_t m, size_t k, bool add) {
    f32_all(c, a, lda, panel, inputs, m, k, add);
}

/* M rows anywhere. */
TILE_INLINE void f32_picked(float *c, const float *a, size_t lda, const uint16_t *rows,
                            const float *panel, size_t k, bool add, const int M) {
    __m256 s[6][2];
    const float *x[6];
    TILE_UNROLL for (int i = 0; i < M; i++) {
        s[i][0] = s[i][1] = _mm256_setzero_ps();
        x[i] = a + rows[i] * lda;
    }
    for (size_t j = 0; j < k; j++) {
        __m256 w0 = _mm256_load_ps(panel + j * NR), w1 = _mm256_load_ps(panel + j * NR + 8);
        TILE_UNROLL for (int i = 0; i < M; i++) {
            __m256 v = _mm256_broadcast_ss(x[i] + j);
            s[i][0] = _mm256_fmadd_ps(v, w0, s[i][0]);
            s[i][1] = _mm256_fmadd_ps(v, w1, s[i][1]);
        }
    }
    TILE_UNROLL for (int i = 0; i < M; i++) f32_store(c + (size_t)rows[i] * NR, s[i], add);
}

static void f32_rows_avx2(float *c, const float *a, size_t lda, const uint16_t *rows,
                          const float *panel, size_t m, size_t k, bool add) {
    for (; m >= 6; m -= 6, rows += 6) f32_picked(c, a, lda, rows, panel, k, add, 6);
    for (; m >= 2; m -= 2, rows += 2) f32_picked(c, a, lda, rows, panel, k, add, 2);
    if (m) f32_picked(c, a, lda, rows, panel, k, add, 1);
}

/* --- all columns of two panels --- */

/* M columns of a from number i on. */
TILE_INLINE void gram_rows(float *c, const float *a, const float *b, size_t k, bool add, int i,
                           const int M) {
    __m256 s[6][2];
    c += i * NR;
    TILE_UNROLL for (int r = 0; r < M; r++) TILE_UNROLL for (int h = 0; h < 2; h++) s[r][h] =
        add ? _mm256_load_ps(c + r * NR + 8 * h) : _mm256_setzero_ps();
    for (size_t t = 0; t < k; t++) {
        __m256 b0 = _mm256_loadu_ps(b + t * NR), b1 = _mm256_loadu_ps(b + t * NR + 8);
        TILE_UNROLL for (int r = 0; r < M; r++) {
            __m256 x = _mm256_set1_ps(a[t * NR + (size_t)(i + r)]);
            s[r][0] = _mm256_fmadd_ps(x, b0, s[r][0]);
            s[r][1] = _mm256_fmadd_ps(x, b1, s[r][1]);
        }
    }
    TILE_UNROLL for (int r = 0; r < M; r++) TILE_UNROLL for (int h = 0; h < 2; h++)
        _mm256_store_ps(c + r * NR + 8 * h, s[r][h]);
}

static void gram_avx2(float *c, const float *a, const float *b, size_t k, bool add) {
    gram_rows(c, a, b, k, add, 0, 6);
    gram_rows(c, a, b, k, add, 6, 6);
    gram_rows(c, a, b, k, add, 12, 4);
}

void pare_tile_gather_avx2(double *to, size_t ld, const float *c) {
    for (size_t i = 0; i < NR; i++, to += ld, c += NR)
        TILE_UNROLL for (int j = 0; j < NR; j += 4) _mm256_storeu_pd(
            to + j, _mm256_add_pd(_mm256_loadu_pd(to + j), _mm256_cvtps_pd(_mm_load_ps(c + j))));
}

/* A square of an f32 number is exact in f64: added by one instruction or two, the bits are the
 * same. */
void pare_tile_squares_avx2(double *sums, const float *x, size_t ldx, size_t n) {
    __m256d sum[NR / 4];
    TILE_UNROLL for (int j = 0; j < NR / 4; j++) sum[j] = _mm256_loadu_pd(sums + 4 * j);
    for (size_t i = 0; i < n; i++, x += ldx) TILE_UNROLL for (int j = 0; j < NR / 4; j++) {
            __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + 4 * j));
            sum[j] = _mm256_fmadd_pd(v, v, sum[j]);
        }
    TILE_UNROLL for (int j = 0; j < NR / 4; j++) _mm256_storeu_pd(sums + 4 * j, sum[j]);
}

/* --- int8 --- */

TILE_INLINE __m256i broadcast_32(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* c[2] += isum * (scale * d) + offset * sum for one row and group. */
TILE_INLINE void scale_add(__m256 c[2], __m256i s0, __m256i s1, const float *scale,
                           const float *offset, const float *d, const float *sum, bool has_offset) {
    __m256 dv = _mm256_broadcast_ss(d);
    c[0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s0), _mm256_mul_ps(_mm256_load_ps(scale), dv), c[0]);
    c[1] =
        _mm256_fmadd_ps(_mm256_cvtepi32_ps(s1), _mm256_mul_ps(_mm256_load_ps(scale + 8), dv), c[1]);
    if (!has_offset) return;
    __m256 sv = _mm256_broadcast_ss(sum);
    c[0] = _mm256_fmadd_ps(_mm256_load_ps(offset), sv, c[0]);
    c[1] = _mm256_fmadd_ps(_mm256_load_ps(offset + 8), sv, c[1]);
}

/* One call's operands as the row kernels want them: in locals, beginning at the block's first row.
 */
typedef struct block {
    float *c;
    const void *w, *x; /* x: int8 or int16 */
    const float *d, *sum, *scale, *offset;
    size_t x_stride, d_stride, sum_stride, n_groups;
    bool add;
} block;

TILE_INLINE block block_at(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t row,
                           bool add, const bool wide) {
    size_t at = row * a->q_stride;
    return (block){.c = c + row * NR,
                   .w = p->q,
                   .x = wide ? (const void *)(a->q16 + at) : (const void *)(a->q + at),
                   .d = a->d + row * a->d_stride,
                   .sum = a->sum + row * a->sum_stride,
                   .scale = p->scale,
                   .offset = p->offset,
                   .x_stride = a->q_stride,
                   .d_stride = a->d_stride,
                   .sum_stride = a->sum_stride,
                   .n_groups = p->k / p->group,
                   .add = add};
}

TILE_INLINE void load_c(__m256 sum[][2], const block *b, const int M) {
    TILE_UNROLL for (int i = 0; i < M; i++) TILE_UNROLL for (int h = 0; h < 2; h++) sum[i][h] =
        b->add ? _mm256_load_ps(b->c + i * NR + h * 8) : _mm256_setzero_ps();
}

TILE_INLINE void store_c(const block *b, __m256 sum[][2], const int M) {
    TILE_UNROLL for (int i = 0; i < M; i++) TILE_UNROLL for (int h = 0; h < 2; h++)
        _mm256_store_ps(b->c + i * NR + h * 8, sum[i][h]);
}

/* The sums of one group of M rows, scaled and added. */
TILE_INLINE void add_group(__m256 sum[][2], __m256i s[][2], const block *b, size_t g, const int M,
                           const int GROUP, const bool OFFSET) {
    TILE_UNROLL for (int i = 0; i < M; i++)
        scale_add(sum[i], s[i][0], s[i][1], b->scale + g * NR, b->offset + g * NR,
                  b->d + (size_t)i * b->d_stride + g * GROUP / 32,
                  b->sum + (size_t)i * b->sum_stride + g, OFFSET);
}

/* M rows; of the GROUP / 4 products of a group, BATCH are added in 16 bits. */
TILE_INLINE void u8_rows(block b, const int M, const int GROUP, const int BATCH) {
    const __m256i one = _mm256_set1_epi16(1);
    const int8_t *x = b.x;
    const uint8_t *w = b.w;
    __m256 sum[4][2];
    load_c(sum, &b, M);
    for (size_t g = 0; g < b.n_groups; g++) {
        __m256i s32[4][2];
        TILE_UNROLL for (int u0 = 0; u0 < GROUP / 4; u0 += BATCH) {
            __m256i s16[4][2];
            TILE_UNROLL for (int u = 0; u < BATCH; u++, w += 4 * NR, x += 4) {
                __m256i w0 = _mm256_load_si256((const void *)w);
                __m256i w1 = _mm256_load_si256((const void *)(w + 2 * NR));
                TILE_UNROLL for (int i = 0; i < M; i++) {
                    __m256i v = broadcast_32(x + (size_t)i * b.x_stride);
                    __m256i p0 = _mm256_maddubs_epi16(w0, v), p1 = _mm256_maddubs_epi16(w1, v);
                    s16[i][0] = u ? _mm256_add_epi16(s16[i][0], p0) : p0;
                    s16[i][1] = u ? _mm256_add_epi16(s16[i][1], p1) : p1;
                    KEEP(s16[i][0]);
                    KEEP(s16[i][1]);
                }
            }
            TILE_UNROLL for (int i = 0; i < M; i++) TILE_UNROLL for (int h = 0; h < 2; h++) {
                __m256i wide = _mm256_madd_epi16(s16[i][h], one);
                s32[i][h] = u0 ? _mm256_add_epi32(s32[i][h], wide) : wide;
                KEEP(s32[i][h]);
            }
        }
        add_group(sum, s32, &b, g, M, GROUP, true);
    }
    store_c(&b, sum, M);
}

TILE_INLINE void s16_rows(block b, const int M, const int GROUP, const bool OFFSET) {
    const int16_t *x = b.x, *w = b.w;
    __m256 sum[4][2];
    load_c(sum, &b, M);
    for (size_t g = 0; g < b.n_groups; g++) {
        __m256i s[4][2];
        TILE_UNROLL for (int u = 0; u < GROUP / 2; u++, w += 2 * NR, x += 2) {
            __m256i w0 = _mm256_load_si256((const void *)w);
            __m256i w1 = _mm256_load_si256((const void *)(w + NR));
            TILE_UNROLL for (int i = 0; i < M; i++) {
                __m256i v = broadcast_32(x + (size_t)i * b.x_stride);
                __m256i p0 = _mm256_madd_epi16(w0, v), p1 = _mm256_madd_epi16(w1, v);
                s[i][0] = u ? _mm256_add_epi32(s[i][0], p0) : p0;
                s[i][1] = u ? _mm256_add_epi32(s[i][1], p1) : p1;
                KEEP(s[i][0]);
                KEEP(s[i][1]);
            }
        }
        add_group(sum, s, &b, g, M, GROUP, OFFSET);
    }
    store_c(&b, sum, M);
}

/* All m rows: M at a time, the rest one by one. */
#define U8_KERNEL(M, GROUP, BATCH)                                                                 \
    static void u8_g##GROUP##_b##BATCH(float *c, const pare_tile_act *a, const pare_tile_panel *p, \
                                       size_t m, bool add) {                                       \
        size_t i = 0;                                                                              \
        for (; i + M <= m; i += M) u8_rows(block_at(c, a, p, i, add, false), M, GROUP, BATCH);     \
        for (; i < m; i++) u8_rows(block_at(c, a, p, i, add, false), 1, GROUP, BATCH);             \
    }
U8_KERNEL(4, 32, 8)
U8_KERNEL(4, 32, 4)
U8_KERNEL(4, 32, 2)
U8_KERNEL(3, 32, 1)
U8_KERNEL(4, 16, 4)
U8_KERNEL(4, 16, 2)
U8_KERNEL(3, 16, 1)

static void u8_avx2(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m,
                    bool add) {
    bool g32 = p->group == 32;
    if (p->code_max <= 15 && g32)
        u8_g32_b8(c, a, p, m, add);
    else if (p->code_max <= 31)
        (g32 ? u8_g32_b4 : u8_g16_b4)(c, a, p, m, add);
    else if (p->code_max <= 63)
        (g32 ? u8_g32_b2 : u8_g16_b2)(c, a, p, m, add);
    else
        (g32 ? u8_g32_b1 : u8_g16_b1)(c, a, p, m, add);
}

#define S16_KERNEL(NAME, GROUP, OFFSET)                                                            \
    static void NAME(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m,         \
                     bool add) {                                                                   \
        size_t i = 0;                                                                              \
        for (; i + 3 <= m; i += 3) s16_rows(block_at(c, a, p, i, add, true), 3, GROUP, OFFSET);    \
        for (; i < m; i++) s16_rows(block_at(c, a, p, i, add, true), 1, GROUP, OFFSET);            \
    }
S16_KERNEL(s16_g32, 32, false)
S16_KERNEL(s16_g32_offset, 32, true)
S16_KERNEL(s16_g16, 16, false)
S16_KERNEL(s16_g16_offset, 16, true)

static void s16_avx2(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m,
                     bool add) {
    if (p->group == 32)
        (p->offset ? s16_g32_offset : s16_g32)(c, a, p, m, add);
    else
        (p->offset ? s16_g16_offset : s16_g16)(c, a, p, m, add);
}

const pare_tile_kernels pare_tile_avx2 = {.transpose = pare_tile_transpose_avx2,
                                          .place = pare_tile_place_avx2,
                                          .f32 = f32_avx2,
                                          .f32_inputs = f32_inputs_avx2,
                                          .f32_rows = f32_rows_avx2,
                                          .pick = pare_tile_pick_avx2,
                                          .weights = pare_tile_weights_avx2,
                                          .gram = gram_avx2,
                                          .gather = pare_tile_gather_avx2,
                                          .squares = pare_tile_squares_avx2,
                                          .u8 = u8_avx2,
                                          .s16 = s16_avx2,
                                          .u8_max = 127};
