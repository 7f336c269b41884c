/* Few rows of x times sparse weights with AVX2: bitmap and N:M masks, values in bf16, 8 or 4 bits.
 */
#include "kernels/sparse_avx2.h"

/* ---- bf16 ---- */

/* The columns from c on, eight or fewer at a time. */
INLINE void tail_bf16(__m256 *acc, row a, size_t c, size_t cols, const float *x, bool half) {
    for (; c < cols; c += 8, a.mask++) {
        int left = cols - c < 8 ? (int)(cols - c) : 8;
        __m256i mask =
            _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        *acc = _mm256_fmadd_ps(spread_bf16(a.values, *a.mask, 0, half),
                               _mm256_maskload_ps(x + c, mask), *acc);
        a.values += 2 * before(*a.mask, 1, half);
    }
}

/* Rows a[n_rows] times n rows of x; one of both numbers is 1. Byte k of the mask goes to
 * accumulator k % 4. */
INLINE void dot_sparse_bf16(float *y, size_t ldy, row *a, size_t n_rows, size_t cols,
                            const float *x, size_t ldx, size_t n, bool half) {
    __m256 acc[PARE_DOT_MAX_N][4];
    for (size_t i = 0; i < n * n_rows; i++)
        UNROLL for (int j = 0; j < 4; j++) acc[i][j] = _mm256_setzero_ps();
    size_t c = 0;
    for (; c + 64 <= cols; c += 64) UNROLL for (size_t r = 0; r < n_rows; r++) {
            if (c % 512 == 0) prefetch(a[r].mask, 64);
            prefetch(a[r].values, 64);
            uint64_t mask = load_u64(a[r].mask);
            UNROLL for (int j = 0; j < 8; j++) {
                __m256 v = spread_bf16(a[r].values, mask, j, half);
                for (size_t i = 0; i < n; i++)
                    acc[r + i][j % 4] = _mm256_fmadd_ps(
                        v, _mm256_loadu_ps(x + i * ldx + c + 8 * (size_t)j), acc[r + i][j % 4]);
            }
            a[r].mask += 8;
            a[r].values += 2 * (half ? 32 : (size_t)__builtin_popcountll(mask));
        }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n; i++) {
            __m256 *s = acc[r + i];
            tail_bf16(s, a[r], c, cols, x + i * ldx, half);
            y[r + i * ldy] =
                sum_8(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
        }
}

/* Two rows at once share the loads of x, and while one waits the other goes on. */
#define DOTF(name, half)                                                                           \
    void pare_dotf_##name##_bf16_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,  \
                                      size_t row_end, const float *x, size_t ldx, size_t n) {      \
        size_t r = row_begin;                                                                      \
        for (; n == 1 && r + 2 <= row_end; r += 2) {                                               \
            row a[2] = {name##_row(w, r, 16), name##_row(w, r + 1, 16)};                           \
            dot_sparse_bf16(y + r, ldy, a, 2, w->cols, x, ldx, 1, half);                           \
        }                                                                                          \
        for (; r < row_end; r++) {                                                                 \
            row a[1] = {name##_row(w, r, 16)};                                                     \
            dot_sparse_bf16(y + r, ldy, a, 1, w->cols, x, ldx, n, half);                           \
        }                                                                                          \
    }
DOTF(bitmap, false)
DOTF(nm, true)

/* ---- integers: blocks of 256 columns, 8 groups that share a scale of x ---- */

/* The scales of the groups, in a register. */
INLINE __m256 load_scales(const uint8_t *scales, format f) {
    if (f.bits == 8)
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(scales)), 16));
    __m128i four = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const void *)scales)), 16);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_castsi128_ps(four)),
                                    _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

/* Group g of a block. */
INLINE void add_spread(__m256 *acc, const float (*d)[GROUPS], int g, const uint8_t *mask,
                       const uint8_t *values, const int8_t *q, size_t q_stride, size_t n,
                       format f) {
    __m256i w = spread(values, mask, f);
    for (size_t i = 0; i < n; i++, q += q_stride)
        acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot_q8(w, load_256(q))),
                                 _mm256_broadcast_ss(&d[i][g]), acc[i]);
}

/* A row under way: `values` of integers are the next bytes, a bitmap's of 4 bits widened. */
INLINE void add_block(__m256 *acc, row *a, int n_groups, const pare_act *x, size_t col, size_t n,
                      format f) {
    float d[PARE_DOT_MAX_N][GROUPS];
    __m256 scales = load_scales(a->scales, f); /* of 8 groups: x has room */
    for (size_t i = 0; i < n; i++)
        _mm256_storeu_ps(d[i],
                         _mm256_mul_ps(scales, _mm256_loadu_ps(x->d + i * x->d_stride + col / 32)));
    const int8_t *q = x->q + col;
    UNROLL for (int g = 0; g < n_groups; g++) {
        const uint8_t *mask = a->mask + 4 * g;
        add_spread(acc, d, g, mask, a->values, q + 32 * g, x->q_stride, n, f);
        a->values += f.bitmap ? __builtin_popcount(load_u32(mask)) : 2 * f.bits;
    }
    a->mask += 32;
    a->scales += 2 * f.bits;
}

/* The columns behind the last whole block: a bitmap ends with a whole word, of another mask what is
 * not the row's must go. */
INLINE void last_block(__m256 *acc, row *a, const pare_act *x, size_t col, size_t cols, size_t n,
                       format f) {
    uint8_t mask[4 * GROUPS] = {0};
    if (!f.bitmap) a->mask = memcpy(mask, a->mask, (cols - col + 7) / 8);
    add_block(acc, a, (int)((cols - col + 31) / 32), x, col, n, f);
}

/* Columns at a time whose values of 4 bits are widened together: so early that they have left for
 * the cache when they are read, at any address. */
enum { CHUNK = 1024 };

INLINE void dot_sparse(float *y, size_t ldy, place p, size_t cols, const pare_act *x, size_t n,
                       format f) {
    const bool widens = f.bitmap && f.bits == 4;
    uint8_t bytes[CHUNK + 64];
    __m256 acc[PARE_DOT_MAX_N];
    for (size_t i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    row a = p.a;
    if (!widens) a.values += p.at;
    for (size_t c = 0; c < cols; c += CHUNK) {
        size_t end = cols - c < CHUNK ? cols : c + CHUNK, col = c;
        if (widens) {
            prefetch(p.a.values + p.at / 2, CHUNK / 4);
            a.values = next_values(bytes, &p, a.mask, end - c);
        }
        for (; col + 256 <= end; col += 256) {
            prefetch_at(a.mask, 32, 1024);
            prefetch_at(a.scales, 2 * (size_t)f.bits, 512);
            if (!widens) prefetch(a.values, 16 * (size_t)f.bits);
            add_block(acc, &a, GROUPS, x, col, n, f);
        }
        if (col < end) last_block(acc, &a, x, col, cols, n, f);
    }
    for (size_t i = 0; i < n; i++) y[i * ldy] = sum_8(acc[i]);
}

#define DOT(name, kind, ...)                                                                       \
    void pare_dot_##name##_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,        \
                                size_t row_end, const pare_act *x) {                               \
        const format f = {__VA_ARGS__};                                                            \
        if (x->n == 1)                                                                             \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse(y + r, ldy, kind##_at(w, r, 0, f.bits), w->cols, x, 1, f);              \
        else                                                                                       \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse(y + r, ldy, kind##_at(w, r, 0, f.bits), w->cols, x, x->n, f);           \
    }
DOT(bitmap_q8, bitmap, .bits = 8, .bitmap = true)
DOT(bitmap_q4, bitmap, .bits = 4, .bitmap = true)
DOT(nm48_q8, nm, .bits = 8)
DOT(nm48_q4, nm, .bits = 4)
