/* Sparse weights with AVX2: bitmap and N:M masks, values in bf16 or int8. Eight columns at a time:
 * the byte of mask picks a shuffle that spreads the next values to their columns, and its
 * population count moves on in the values. Values are read up to 16 bytes past those that count. */
#include "kernels/dot_avx2.h"
#include "kernels/dot_sparse.h"

/* A row: mask bytes, values; scales (q8) per 32 columns. */
typedef struct row {
    const uint8_t *mask, *values, *scales;
    bool exact_half; /* N:M: every byte has four values */
} row;

INLINE const uint8_t *part(const pare_view *w, int k) { return w->part[k]; }

INLINE row bitmap_row(const pare_view *w, size_t r, size_t item_bytes) {
    uint64_t first;
    memcpy(&first, part(w, 1) + 8 * r, 8);
    return (row){.mask = pare_row(w, r),
                 .values = part(w, 2) + (size_t)first * item_bytes,
                 .scales = item_bytes == 1 ? part(w, 3) + r * ((w->cols + 31) / 32) * 2 : NULL};
}

INLINE row nm_row(const pare_view *w, size_t r, size_t item_bytes) {
    return (row){.mask = pare_row(w, r),
                 .values = part(w, 1) + r * (w->cols / 2) * item_bytes,
                 .scales = item_bytes == 1 ? part(w, 2) + r * ((w->cols + 31) / 32) * 2 : NULL,
                 .exact_half = true};
}

INLINE size_t count(uint8_t mask, bool exact_half) {
    return exact_half ? 4 : (size_t)__builtin_popcount(mask);
}

/* ---- bf16 ---- */

INLINE __m256 spread_bf16(const uint8_t *values, uint8_t mask) {
    __m128i v = _mm_shuffle_epi8(load_128(values), load_128(pare_spread_words[mask]));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

/* Byte k of the mask goes to accumulator k % 4. */
INLINE void dot_sparse_bf16(float *y, size_t ldy, row a, size_t cols, const float *x, size_t ldx,
                            size_t n) {
    __m256 acc[PARE_DOT_MAX_N][4];
    for (size_t i = 0; i < n; i++)
        UNROLL for (int j = 0; j < 4; j++) acc[i][j] = _mm256_setzero_ps();
    size_t c = 0;
    for (; c + 32 <= cols; c += 32, a.mask += 4) {
        if (c % 256 == 0) prefetch(a.mask, 32);
        prefetch(a.values, 64);
        UNROLL for (int j = 0; j < 4; j++) {
            __m256 v = spread_bf16(a.values, a.mask[j]);
            a.values += 2 * count(a.mask[j], a.exact_half);
            for (size_t i = 0; i < n; i++)
                acc[i][j] =
                    _mm256_fmadd_ps(v, _mm256_loadu_ps(x + i * ldx + c + 8 * (size_t)j), acc[i][j]);
        }
    }
    for (; c < cols; c += 8, a.mask++) {
        int left = cols - c < 8 ? (int)(cols - c) : 8;
        __m256i mask =
            _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        __m256 v = spread_bf16(a.values, *a.mask);
        a.values += 2 * count(*a.mask, a.exact_half);
        for (size_t i = 0; i < n; i++)
            acc[i][0] = _mm256_fmadd_ps(v, _mm256_maskload_ps(x + i * ldx + c, mask), acc[i][0]);
    }
    for (size_t i = 0; i < n; i++)
        y[i * ldy] = sum_8(_mm256_add_ps(_mm256_add_ps(acc[i][0], acc[i][1]),
                                         _mm256_add_ps(acc[i][2], acc[i][3])));
}

#define DOTF(name)                                                                                 \
    void pare_dotf_##name##_bf16_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,  \
                                      size_t row_end, const float *x, size_t ldx, size_t n) {      \
        if (n == 1)                                                                                \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse_bf16(y + r, ldy, name##_row(w, r, 2), w->cols, x, ldx, 1);              \
        else                                                                                       \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse_bf16(y + r, ldy, name##_row(w, r, 2), w->cols, x, ldx, n);              \
    }
DOTF(bitmap)
DOTF(nm)

/* ---- q8 ---- */

INLINE __m128i two_8(const uint8_t *a, const uint8_t *b) {
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)a),
                              _mm_loadl_epi64((const __m128i *)b));
}

/* 32 codes for four bytes of mask; moves on in the values */
INLINE __m256i spread_q8(const uint8_t **values, const uint8_t *m, bool exact_half) {
    const uint8_t *v0 = *values, *v1 = v0 + count(m[0], exact_half),
                  *v2 = v1 + count(m[1], exact_half), *v3 = v2 + count(m[2], exact_half);
    *values = v3 + count(m[3], exact_half);
    __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(two_8(v0, v1)), two_8(v2, v3), 1);
    __m256i index = _mm256_inserti128_si256(
        _mm256_castsi128_si256(two_8(pare_spread_bytes[m[0]], pare_spread_bytes[m[1]])),
        two_8(pare_spread_bytes[m[2]], pare_spread_bytes[m[3]]), 1);
    /* the second value of each lane begins at 8; what is 0x80 and above stays so */
    return _mm256_shuffle_epi8(
        v, _mm256_add_epi8(index, _mm256_set_epi64x(0x0808080808080808, 0, 0x0808080808080808, 0)));
}

INLINE void add_q8(__m256 *acc, row *a, const uint8_t *mask, size_t group, const pare_act *x,
                   size_t n) {
    __m256i w = spread_q8(&a->values, mask, a->exact_half);
    float d = pare_bf16_to_f32(load_u16(a->scales + 2 * group));
    for (size_t i = 0; i < n; i++) {
        __m256i dot = dot_q8(w, load_256(x->q + i * x->q_stride + 32 * group));
        acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot),
                                 _mm256_set1_ps(d * x->d[i * x->d_stride + group]), acc[i]);
    }
}

INLINE void dot_sparse_q8(float *y, size_t ldy, row a, size_t cols, const pare_act *x, size_t n) {
    __m256 acc[PARE_DOT_MAX_N];
    for (size_t i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    size_t group = 0;
    for (; 32 * group + 32 <= cols; group++) {
        if (group % 8 == 0) prefetch(a.mask + 4 * group, 32);
        prefetch(a.values, 32);
        add_q8(acc, &a, a.mask + 4 * group, group, x, n);
    }
    if (32 * group < cols) {
        uint8_t mask[4] = {0};
        memcpy(mask, a.mask + 4 * group, (cols - 32 * group + 7) / 8);
        a.exact_half = false;
        add_q8(acc, &a, mask, group, x, n);
    }
    for (size_t i = 0; i < n; i++) y[i * ldy] = sum_8(acc[i]);
}

#define DOT(name)                                                                                  \
    void pare_dot_##name##_q8_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,     \
                                   size_t row_end, const pare_act *x) {                            \
        if (x->n == 1)                                                                             \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse_q8(y + r, ldy, name##_row(w, r, 1), w->cols, x, 1);                     \
        else                                                                                       \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse_q8(y + r, ldy, name##_row(w, r, 1), w->cols, x, x->n);                  \
    }
DOT(bitmap)
DOT(nm)
