/* Weights of 16 and 32 bits with AVX-512: f32, f16, bf16, times x in f32.
 *
 * These loops wait for memory. A row at a time, 32 columns a step and nothing asked for by hand,
 * the processor's own requests follow the one stream at up to the read rate (Zen 4, over 200 MB;
 * four sums instead of two, or lines asked for ahead, 65%). That ends where x no longer lies in L1
 * beside the stream: then four rows share what is read of it, and the next four are asked for into
 * L2. */
#include "kernels/dot_impl.h"
#include "kernels/intrinsics.h"
#include "kernels/unroll.h"
#include "kernels/vec_avx512.h"

#include <string.h>

typedef enum kind { F32, F16, BF16 } kind;

enum {
    MAX_N = 4,    /* rows of x at a time */
    SHORT = 1024, /* columns below which AVX2 is faster */
    WIDE = 3072,  /* columns from which on x is too large for L1 */
    ROWS = 4      /* of w, then */
};

#define INLINE static inline __attribute__((always_inline))
#define UNROLL PARE_UNROLL

INLINE __m512 load_16(const uint8_t *p, kind k) {
    if (k == F32) return _mm512_loadu_ps((const float *)(const void *)p);
    __m256i half = _mm256_loadu_si256((const __m256i *)p);
    if (k == F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* n < 16 of them. */
INLINE __m512 load_some(const uint8_t *p, size_t n, kind k) {
    uint8_t there[64] = {0};
    memcpy(there, p, n * (k == F32 ? 4 : 2));
    return load_16(there, k);
}

/* y[N][ldy] of rows r .. r + R - 1. A sum does not depend on N or R. */
INLINE void rows_float(float *y, size_t ldy, const pare_view *w, size_t r, const float *x,
                       size_t ldx, const int N, const int R, const kind k) {
    const size_t size = k == F32 ? 4 : 2, cols = w->cols, ld = w->row_bytes;
    const uint8_t *row = pare_row(w, r);
    __m512 acc[MAX_N * ROWS][2];
    UNROLL for (int i = 0; i < N * R; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    size_t c = 0;
    for (; c + 32 <= cols; c += 32) {
        const uint8_t *at = row + c * size;
        UNROLL for (int a = 0; a < R && R > 1; a++)
            UNROLL for (size_t line = 0; line < size / 2; line++)
                __builtin_prefetch(at + ((size_t)(R + a)) * ld + 64 * line, 0, 2);
        UNROLL for (int j = 0; j < 2; j++) UNROLL for (int a = 0; a < R; a++) {
            __m512 v = load_16(at + (size_t)a * ld + 16 * (size_t)j * size, k);
            UNROLL for (int i = 0; i < N; i++) acc[a * N + i][j] = _mm512_fmadd_ps(
                v, _mm512_loadu_ps(x + (size_t)i * ldx + c + 16 * (size_t)j), acc[a * N + i][j]);
        }
    }
    for (; c < cols; c += 16) {
        size_t left = cols - c < 16 ? cols - c : 16;
        UNROLL for (int a = 0; a < R; a++) {
            const uint8_t *at = row + (size_t)a * ld + c * size;
            __m512 v = left < 16 ? load_some(at, left, k) : load_16(at, k);
            UNROLL for (int i = 0; i < N; i++) acc[a * N + i][0] =
                _mm512_fmadd_ps(v, vf_load_n(x + (size_t)i * ldx + c, left), acc[a * N + i][0]);
        }
    }
    UNROLL for (int a = 0; a < R; a++) UNROLL for (int i = 0; i < N; i++)
        y[(size_t)i * ldy + r + (size_t)a] =
            _mm512_reduce_add_ps(_mm512_add_ps(acc[a * N + i][0], acc[a * N + i][1]));
}

INLINE void dot_float(float *y, size_t ldy, const pare_view *w, size_t row_begin, size_t row_end,
                      const float *x, size_t ldx, size_t n, const kind k) {
    size_t r = row_begin;
    if (n == 1 && w->cols >= WIDE)
        for (; r + ROWS <= row_end; r += ROWS) rows_float(y, ldy, w, r, x, ldx, 1, ROWS, k);
    for (; r < row_end; r++) {
        size_t i = 0;
        for (; i + 4 <= n; i += 4) rows_float(y + i * ldy, ldy, w, r, x + i * ldx, ldx, 4, 1, k);
        if (n - i == 3) rows_float(y + i * ldy, ldy, w, r, x + i * ldx, ldx, 3, 1, k);
        if (n - i == 2) rows_float(y + i * ldy, ldy, w, r, x + i * ldx, ldx, 2, 1, k);
        if (n - i == 1) rows_float(y + i * ldy, ldy, w, r, x + i * ldx, ldx, 1, 1, k);
    }
}

#define DOTF(name, kind)                                                                           \
    void pare_dotf_##name##_avx512(float *y, size_t ldy, const pare_view *w, size_t row_begin,     \
                                   size_t row_end, const float *x, size_t ldx, size_t n) {         \
        if (w->cols < SHORT)                                                                       \
            pare_dotf_##name##_avx2(y, ldy, w, row_begin, row_end, x, ldx, n);                     \
        else                                                                                       \
            dot_float(y, ldy, w, row_begin, row_end, x, ldx, n, kind);                             \
    }
DOTF(f32, F32)
DOTF(f16, F16)
DOTF(bf16, BF16)
