/* Weights of 16 and 32 bits with AVX2: f32, f16, bf16, times x in f32.
 *
 * 32 columns a step into four accumulators (the latency of a multiply-add is four steps of the
 * loads); up to three rows of x share the converted weights, which is what 16 registers hold. These
 * loops wait for memory nearly all the time; then requests far ahead displace those that are due
 * (bf16 at 1 KiB: 87% of the read rate, at 4 KiB 65%; f32 without any 94%, at 1 KiB 81%). */
#include "kernels/dot_avx2.h"

typedef enum kind { F32, F16, BF16 } kind;

INLINE __m256 load_8(const uint8_t *p, kind k) {
    if (k == F32) return _mm256_loadu_ps((const float *)p);
    if (k == F16) return _mm256_cvtph_ps(load_128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
}

/* y[i] of row r for i < N */
INLINE void row_float(float *y, size_t ldy, const pare_view *w, size_t r, const float *x,
                      size_t ldx, int N, kind k) {
    const size_t size = k == F32 ? 4 : 2;
    const uint8_t *row = pare_row(w, r);
    __m256 acc[3][4];
    UNROLL for (int i = 0; i < N; i++) UNROLL for (int j = 0; j < 4; j++) acc[i][j] =
        _mm256_setzero_ps();
    size_t c = 0;
    for (; c + 32 <= w->cols; c += 32) {
        if (k != F32) prefetch_at(row + c * size, 32 * size, 1024);
        UNROLL for (int j = 0; j < 4; j++) {
            __m256 v = load_8(row + (c + 8 * (size_t)j) * size, k);
            UNROLL for (int i = 0; i < N; i++) acc[i][j] = _mm256_fmadd_ps(
                v, _mm256_loadu_ps(x + (size_t)i * ldx + c + 8 * (size_t)j), acc[i][j]);
        }
    }
    for (; c < w->cols; c += 8) { /* absent columns are masked: their bytes may be a NaN */
        int left = w->cols - c < 8 ? (int)(w->cols - c) : 8;
        __m256i mask =
            _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        __m256 v = _mm256_and_ps(load_8(row + c * size, k), _mm256_castsi256_ps(mask));
        UNROLL for (int i = 0; i < N; i++) acc[i][0] =
            _mm256_fmadd_ps(v, _mm256_maskload_ps(x + (size_t)i * ldx + c, mask), acc[i][0]);
    }
    UNROLL for (int i = 0; i < N; i++) y[(size_t)i * ldy + r] = sum_8(
        _mm256_add_ps(_mm256_add_ps(acc[i][0], acc[i][1]), _mm256_add_ps(acc[i][2], acc[i][3])));
}

/* All of a row, three rows of x at a time; only the first pass reads it from memory. */
INLINE void dot_float(float *y, size_t ldy, const pare_view *w, size_t row_begin, size_t row_end,
                      const float *x, size_t ldx, size_t n, kind k) {
    for (size_t r = row_begin; r < row_end; r++) {
        size_t i = 0;
        for (; i + 3 <= n; i += 3) row_float(y + i * ldy, ldy, w, r, x + i * ldx, ldx, 3, k);
        if (n - i == 2) row_float(y + i * ldy, ldy, w, r, x + i * ldx, ldx, 2, k);
        if (n - i == 1) row_float(y + i * ldy, ldy, w, r, x + i * ldx, ldx, 1, k);
    }
}

#define DOTF(name, kind)                                                                           \
    void pare_dotf_##name##_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,       \
                                 size_t row_end, const float *x, size_t ldx, size_t n) {           \
        dot_float(y, ldy, w, row_begin, row_end, x, ldx, n, kind);                                 \
    }
DOTF(f32, F32)
DOTF(f16, F16)
DOTF(bf16, BF16)
