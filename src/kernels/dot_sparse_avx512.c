/* Few rows of x times sparse weights with AVX-512 and VBMI2: bitmap and N:M masks, values in bf16,
 * 8 or 4 bits. A word of mask is a k register and puts the values of 64 columns to their place in
 * one instruction (bf16: two). */
#include "kernels/sparse_avx512.h"

INLINE float sum_16(__m512 v) {
    __m256 low = _mm512_castps512_ps256(v),
           high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
    return sum_8(_mm256_add_ps(low, high));
}

/* ---- bf16 ---- */

/* 32 inputs: those of even columns and those of odd ones, as bf16 values lie in dwords. */
INLINE void part_inputs(__m512 to[2], __m512 first, __m512 second) {
    const __m512i even =
                      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                  odd =
                      _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    to[0] = _mm512_permutex2var_ps(first, even, second);
    to[1] = _mm512_permutex2var_ps(first, odd, second);
}

/* Adds 32 columns of a row to acc[2]. */
INLINE void add_32(__m512 acc[2], __m512i w, const __m512 x[2]) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
           odd = _mm512_castsi512_ps(_mm512_and_si512(w, upper));
    acc[0] = _mm512_fmadd_ps(even, x[0], acc[0]);
    acc[1] = _mm512_fmadd_ps(odd, x[1], acc[1]);
}

/* The last n < 64 columns. */
VBMI2 INLINE void tail_bf16(__m512 acc[4], row a, const float *x, size_t n, bool half) {
    uint64_t mask = last_mask(a.mask, n, !half), live = ((uint64_t)1 << n) - 1;
    UNROLL for (int h = 0; h < 2; h++) {
        __m512 in[2];
        part_inputs(in, _mm512_maskz_loadu_ps((__mmask16)(live >> 32 * h), x + 32 * h),
                    _mm512_maskz_loadu_ps((__mmask16)(live >> (32 * h + 16)), x + 32 * h + 16));
        add_32(acc + 2 * h, spread_16(a.values, (uint32_t)(mask >> 32 * h)), in);
        a.values += 2 * (size_t)__builtin_popcount((uint32_t)mask);
    }
}

/* Rows a[n_rows] times n rows of x; one of both numbers is 1. Of several rows values are
 * asked for `ahead` bytes before they are read. */
VBMI2 INLINE void dot_sparse_bf16(float *y, size_t ldy, row *a, size_t n_rows, size_t cols,
                                  const float *x, size_t ldx, size_t n, size_t ahead, bool half) {
    __m512 acc[PARE_DOT_MAX_N][4];
    for (size_t i = 0; i < n * n_rows; i++)
        UNROLL for (int j = 0; j < 4; j++) acc[i][j] = _mm512_setzero_ps();
    size_t c = 0;
    for (; c + 64 <= cols; c += 64) UNROLL for (size_t r = 0; r < n_rows; r++) {
            uint64_t mask = load_u64(a[r].mask);
            size_t first = half ? 16 : (size_t)__builtin_popcount((uint32_t)mask);
            if (c % 512 == 0) prefetch(a[r].mask, 64);
            if (n_rows == 1)
                prefetch(a[r].values, 64);
            else /* into level 2: level 1 is full of inputs */
                _mm_prefetch((const char *)((uintptr_t)a[r].values + ahead), _MM_HINT_T1);
            UNROLL for (int h = 0; h < 2; h++) {
                __m512i w =
                    spread_16(a[r].values + (h ? 2 * first : 0), (uint32_t)(mask >> 32 * h));
                for (size_t i = 0; i < n; i++) {
                    const float *at = x + i * ldx + c + 32 * (size_t)h;
                    __m512 in[2];
                    part_inputs(in, _mm512_loadu_ps(at), _mm512_loadu_ps(at + 16));
                    add_32(acc[r + i] + 2 * h, w, in);
                }
            }
            a[r].mask += 8;
            a[r].values += 2 * (half ? 32 : (size_t)__builtin_popcountll(mask));
        }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n; i++) {
            __m512 *s = acc[r + i];
            if (c < cols) tail_bf16(s, a[r], x + i * ldx + c, cols - c, half);
            y[r + i * ldy] =
                sum_16(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
        }
}

/* Four rows at once share the inputs, of which a long row fills level 1. Each asks for what lies at
 * its place in the next four. */
#define DOTF(name, half)                                                                           \
    VBMI2 void pare_dotf_##name##_bf16_avx512(float *y, size_t ldy, const pare_view *w,            \
                                              size_t row_begin, size_t row_end, const float *x,    \
                                              size_t ldx, size_t n) {                              \
        size_t r = row_begin;                                                                      \
        for (; n == 1 && r + 4 <= row_end; r += 4) {                                               \
            row a[4];                                                                              \
            UNROLL for (size_t k = 0; k < 4; k++) a[k] = name##_row(w, r + k, 16);                 \
            size_t ahead = (size_t)(a[3].values - a[0].values) / 3 * 4;                            \
            dot_sparse_bf16(y + r, ldy, a, 4, w->cols, x, ldx, 1, ahead, half);                    \
        }                                                                                          \
        for (; r < row_end; r++) {                                                                 \
            row a[1] = {name##_row(w, r, 16)};                                                     \
            dot_sparse_bf16(y + r, ldy, a, 1, w->cols, x, ldx, n, 0, half);                        \
        }                                                                                          \
    }
DOTF(bitmap, false)
DOTF(nm, true)

/* ---- integers: blocks of 256 columns, 8 groups that share a scale of x ---- */

/* What a row of x has got so far: codes times scales, and what codes that were moved up are too
 * much. */
typedef struct sums {
    __m512 s[2];
    __m256 moved;
} sums;

/* The scales of a block of n groups, zeros behind them. */
INLINE __m256 load_scales(const uint8_t *scales, size_t n, format f) {
    uint16_t all[GROUPS] = {0};
    if (n < GROUPS) scales = memcpy(all, scales, f.bits == 8 ? 2 * n : (n + 1) / 2 * 2);
    if (f.bits == 8)
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(scales)), 16));
    __m128i four = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const void *)scales)), 16);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_castsi128_ps(four)),
                                    _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

/* |w| * (x with w's sign): exact for w = -128 too. Codes that were moved up are unsigned. */
INLINE __m512i dot_64(__m512i w, __m512i x, format f) {
    const __m512i zero = _mm512_setzero_si512();
    if (f.bits == 4) return _mm512_dpbusd_epi32(zero, w, x);
    return _mm512_dpbusd_epi32(zero, _mm512_abs_epi8(w),
                               _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), zero, x));
}

/* The columns from `col` on: a whole block, or the `left` ones of the last. */
VBMI2 INLINE void add_block(sums *acc, place *p, const pare_act *x, size_t col, size_t left,
                            size_t n, format f) {
    const size_t groups = left < 256 ? (left + 31) / 32 : GROUPS;
    __m256 d[PARE_DOT_MAX_N], scales = load_scales(p->a.scales, groups, f);
    for (size_t i = 0; i < n; i++) {
        d[i] = _mm256_mul_ps(scales, _mm256_loadu_ps(x->d + i * x->d_stride + col / 32));
        if (f.bits == 4)
            acc[i].moved = _mm256_fmadd_ps(
                scales, _mm256_loadu_ps(x->sum32 + i * x->d_stride + col / 32), acc[i].moved);
    }
    const int8_t *q = x->q + col;
    UNROLL for (int k = 0; k < 4; k++, q += 64) {
        const __m512i two =
            _mm512_set_epi64(0x0000000100000001 * (2 * k + 1), 0x0000000100000001 * (2 * k + 1),
                             0x0000000100000001 * (2 * k + 1), 0x0000000100000001 * (2 * k + 1),
                             0x0000000100000001 * (2 * k), 0x0000000100000001 * (2 * k),
                             0x0000000100000001 * (2 * k), 0x0000000100000001 * (2 * k));
        if (64 * (size_t)k >= left) break;
        size_t here = left - 64 * (size_t)k;
        uint64_t mask = here < 64 ? last_mask(p->a.mask, here, f.bitmap) : load_u64(p->a.mask);
        __m512i w = spread_64(next_64(p, f), p->at, mask, f, true);
        for (size_t i = 0; i < n; i++) {
            __m512 sum = _mm512_cvtepi32_ps(dot_64(w, load_512(q + i * x->q_stride), f));
            __m512 scale = _mm512_permutexvar_ps(two, _mm512_castps256_ps512(d[i]));
            acc[i].s[k % 2] = _mm512_fmadd_ps(sum, scale, acc[i].s[k % 2]);
        }
        pass_64(p, mask, f);
    }
    p->a.scales += 2 * f.bits;
}

VBMI2 INLINE void dot_sparse(float *y, size_t ldy, place p, size_t cols, const pare_act *x,
                             size_t n, format f) {
    sums acc[PARE_DOT_MAX_N];
    for (size_t i = 0; i < n; i++)
        acc[i] = (sums){{_mm512_setzero_ps(), _mm512_setzero_ps()}, _mm256_setzero_ps()};
    size_t c = 0;
    for (; c + 256 <= cols; c += 256) {
        prefetch_at(p.a.mask, 32, 1024);
        prefetch_at(p.a.scales, 2 * (size_t)f.bits, 512);
        prefetch(next_64(&p, f), 16 * (size_t)f.bits);
        add_block(acc, &p, x, c, 256, n, f);
    }
    if (c < cols) add_block(acc, &p, x, c, cols - c, n, f);
    for (size_t i = 0; i < n; i++) {
        float s = sum_16(_mm512_add_ps(acc[i].s[0], acc[i].s[1]));
        y[i * ldy] = f.bits == 4 ? s - LOWEST_4 * sum_8(acc[i].moved) : s;
    }
}

#define DOT(name, kind, ...)                                                                       \
    VBMI2 void pare_dot_##name##_avx512(float *y, size_t ldy, const pare_view *w,                  \
                                        size_t row_begin, size_t row_end, const pare_act *x) {     \
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
