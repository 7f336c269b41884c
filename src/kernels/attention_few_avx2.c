/* Few rows of queries on keys and values in place, for each KV codec: every row of the cache is
 * read and converted in registers, once per three or four query rows. Written once, with the codec
 * as a constant of inlined functions. */
#include "kernels/kv_codec_levels.h"

#include "kernels/blocks.h"
#include "kernels/intrinsics.h"
#include "kernels/unroll.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum codec { F32, F16, BF16, Q8_0, Q4_0 };
enum { CHUNK = 32, STEPS = CHUNK / 8 }; /* values between two scales of q8_0 and q4_0 */
#define SCALED(codec) ((codec) == Q8_0 || (codec) == Q4_0)

/* Values d .. d + 7 of a row; of q8_0 and q4_0 without their scale. */
INLINE __m256 load8(const enum codec codec, const uint8_t *row, size_t d) {
    switch (codec) {
    case F32:
        return _mm256_loadu_ps((const float *)(const void *)row + d);
    case F16:
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + 2 * d)));
    case BF16: {
        __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(row + 2 * d)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
    }
    case Q4_0: {
        const pare_q4_0 *block = (const pare_q4_0 *)(const void *)row + d / CHUNK;
        __m128i q = _mm_loadl_epi64((const void *)(block->qs + d % 16));
        if (d % CHUNK >= 16) q = _mm_srli_epi16(q, 4);
        q = _mm_sub_epi8(_mm_and_si128(q, _mm_set1_epi8(15)), _mm_set1_epi8(8));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
    }
    default: {
        const pare_q8_0 *block = (const pare_q8_0 *)(const void *)row + d / CHUNK;
        __m128i q = _mm_loadl_epi64((const void *)(block->q + d % CHUNK));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
    }
    }
}

/* The scale of values d .. d + 31, in all lanes. */
INLINE __m256 scale_at(const enum codec codec, const uint8_t *row, size_t d) {
    if (!SCALED(codec)) return _mm256_set1_ps(1.0f);
    /* both blocks begin with their scale */
    const uint8_t *block =
        row + d / CHUNK * (codec == Q4_0 ? sizeof(pare_q4_0) : sizeof(pare_q8_0));
    uint16_t scale;
    memcpy(&scale, block, sizeof scale);
    return _mm256_set1_ps(pare_f16_to_f32(scale));
}

/* Fetches the bytes of values d .. d + 31 of a row that is needed a block later: keys and values
 * alternate every PARE_ATTN_KEYS rows, too often for the processor's own guess. NULL is harmless.
 */
INLINE void fetch(const enum codec codec, const uint8_t *row, size_t d) {
    const size_t bytes = codec == F32    ? 128
                         : codec == Q8_0 ? sizeof(pare_q8_0)
                         : codec == Q4_0 ? sizeof(pare_q4_0)
                                         : 64;
    const char *p = (const char *)((uintptr_t)row + d / CHUNK * bytes);
    _mm_prefetch(p, _MM_HINT_T0);
    if (codec == F32) _mm_prefetch(p + 64, _MM_HINT_T0);
}

/* ---- scores ---- */

/* s[m][keys] = q[m] . rows; m and keys are constants, m * keys <= 12. */
INLINE void dots_tile(const enum codec codec, float *s, size_t lds, const float *q, size_t ldq,
                      const uint8_t *rows, const uint8_t *ahead, size_t row_stride, size_t head_dim,
                      const int m, const int keys) {
    __m256 acc[16]; /* [m][4], of which `keys` are used */
    PARE_UNROLL
    for (int i = 0; i < 16; i++) acc[i] = _mm256_setzero_ps();
    for (size_t d = 0; d < head_dim; d += CHUNK) {
        __m256 scale = _mm256_setzero_ps();
        PARE_UNROLL
        for (int j = 0; j < keys; j++) fetch(codec, ahead + (size_t)j * row_stride, d);
        PARE_UNROLL
        for (int x = 0; x < keys * STEPS; x++) {
            /* with scales: key by key, so that one is live; else step by step, so that q is read
             * once for all keys */
            int j = SCALED(codec) ? x / STEPS : x % keys, u = SCALED(codec) ? x % STEPS : x / keys;
            const uint8_t *row = rows + (size_t)j * row_stride;
            __m256 k = load8(codec, row, d + (size_t)u * 8);
            if (SCALED(codec)) {
                if (u == 0) scale = scale_at(codec, row, d);
                k = _mm256_mul_ps(scale, k);
            }
            PARE_UNROLL
            for (int i = 0; i < m; i++) {
                __m256 qv = _mm256_loadu_ps(q + (size_t)i * ldq + d + (size_t)u * 8);
                acc[i * 4 + j] = _mm256_fmadd_ps(k, qv, acc[i * 4 + j]);
            }
        }
    }
    PARE_UNROLL
    for (int i = 0; i < m; i++) {
        const __m256 *a = acc + i * 4;
        __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
        __m128 sums = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
        float *out = s + (size_t)i * lds;
        if (keys == 4)
            _mm_storeu_ps(out, sums);
        else if (keys == 2)
            _mm_storel_pi((void *)out, sums);
        else
            *out = _mm_cvtss_f32(sums);
    }
}

/* All keys for m rows of queries. Each key adds in the same order in a tile of any size. */
INLINE void dots_rows(const enum codec codec, float *s, size_t lds, const float *q, size_t ldq,
                      const uint8_t *rows, const uint8_t *ahead, size_t row_stride, size_t n,
                      size_t head_dim, const int m) {
    const int keys = m == 4 ? 2 : 4;
    size_t j = 0, at = 0;
    for (; j + (size_t)keys <= n; j += (size_t)keys, at = j * row_stride)
        dots_tile(codec, s + j, lds, q, ldq, rows + at, ahead + at, row_stride, head_dim, m, keys);
    for (; j < n; j++, at += row_stride)
        dots_tile(codec, s + j, lds, q, ldq, rows + at, ahead + at, row_stride, head_dim, m, 1);
}

/* ---- weighted sums ---- */

/* o[m][8 * steps] += p[m] * values from d on of n rows, all within one chunk; m * steps <= 12. */
INLINE void weighted_tile(const enum codec codec, float *o, size_t ldo, const float *p, size_t ldp,
                          const uint8_t *rows, const uint8_t *ahead, size_t row_stride, size_t n,
                          size_t d, const int m, const int steps) {
    __m256 acc[12];
    PARE_UNROLL
    for (int x = 0; x < m * steps; x++)
        acc[x] = _mm256_loadu_ps(o + (size_t)(x / steps) * ldo + d + (size_t)(x % steps * 8));
    for (size_t j = 0; j < n; j++) {
        const uint8_t *row = rows + j * row_stride;
        fetch(codec, ahead + j * row_stride, d);
        __m256 weight[4], scale = scale_at(codec, row, d);
        PARE_UNROLL
        for (int i = 0; i < m; i++) weight[i] = _mm256_broadcast_ss(p + (size_t)i * ldp + j);
        PARE_UNROLL
        for (int u = 0; u < steps; u++) {
            __m256 v = load8(codec, row, d + (size_t)u * 8);
            if (SCALED(codec)) v = _mm256_mul_ps(scale, v); /* as in a decoded tile */
            PARE_UNROLL
            for (int i = 0; i < m; i++)
                acc[i * steps + u] = _mm256_fmadd_ps(weight[i], v, acc[i * steps + u]);
        }
    }
    PARE_UNROLL
    for (int x = 0; x < m * steps; x++)
        _mm256_storeu_ps(o + (size_t)(x / steps) * ldo + d + (size_t)(x % steps * 8), acc[x]);
}

INLINE void weighted_rows(const enum codec codec, float *o, size_t ldo, const float *p, size_t ldp,
                          const uint8_t *rows, const uint8_t *ahead, size_t row_stride, size_t n,
                          size_t head_dim, const int m) {
    const int steps = m == 4 ? STEPS / 2 : STEPS;
    for (size_t d = 0; d < head_dim; d += (size_t)steps * 8)
        weighted_tile(codec, o, ldo, p, ldp, rows, ahead, row_stride, n, d, m, steps);
}

/* ---- for each codec: query rows in threes; at the end four of them at once where converting costs
 * more than multiplying, else as two and two ---- */

#define FOUR_AS(codec) (SCALED(codec) ? 4 : 2)

#define BY_ROWS(function, codec, out, ldout, in, ldin)                                             \
    for (size_t i = 0, count; i < m; i += count) {                                                 \
        float *y = out + i * ldout;                                                                \
        const float *x = in + i * ldin;                                                            \
        count = m - i == 4 ? FOUR_AS(codec) : m - i < 3 ? m - i : 3;                               \
        if (count == 4)                                                                            \
            function(codec, y, ldout, x, ldin, rows, ahead, row_stride, n, head_dim, 4);           \
        else if (count == 3)                                                                       \
            function(codec, y, ldout, x, ldin, rows, ahead, row_stride, n, head_dim, 3);           \
        else if (count == 2)                                                                       \
            function(codec, y, ldout, x, ldin, rows, ahead, row_stride, n, head_dim, 2);           \
        else                                                                                       \
            function(codec, y, ldout, x, ldin, rows, ahead, row_stride, n, head_dim, 1);           \
    }

#define DEFINE(name, codec)                                                                        \
    void pare_kv_dots_##name##_avx2(float *s, size_t lds, const float *q, size_t ldq, size_t m,    \
                                    const void *rows, const void *ahead, size_t row_stride,        \
                                    size_t n, size_t head_dim) {                                   \
        BY_ROWS(dots_rows, codec, s, lds, q, ldq)                                                  \
    }                                                                                              \
    void pare_kv_weighted_##name##_avx2(float *o, size_t ldo, const float *p, size_t ldp,          \
                                        size_t m, const void *rows, const void *ahead,             \
                                        size_t row_stride, size_t n, size_t head_dim) {            \
        BY_ROWS(weighted_rows, codec, o, ldo, p, ldp)                                              \
    }

DEFINE(f32, F32)
DEFINE(f16, F16)
DEFINE(bf16, BF16)
DEFINE(q8_0, Q8_0)
DEFINE(q4_0, Q4_0)
