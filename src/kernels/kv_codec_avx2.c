#include "kernels/kv_codec_levels.h"

#include "kernels/blocks.h"
#include "kernels/intrinsics.h"
#include "kernels/unroll.h"

/* Rows shorter than a vector end in a copy through a buffer of eight. */
#define TAIL(type, p, n)                                                                           \
    type tail[8] = {0};                                                                            \
    memcpy(tail, p, (n) * sizeof(type))

/* Clamped with x second, so that NaN stays NaN. */
static inline __m128i to_f16(__m256 x) {
    x = _mm256_min_ps(_mm256_set1_ps(65504.0f), _mm256_max_ps(_mm256_set1_ps(-65504.0f), x));
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

void pare_kv_store_f16_avx2(void *row, const float *x, size_t head_dim) {
    uint16_t *out = row;
    size_t d = 0;
    for (; d + 8 <= head_dim; d += 8)
        _mm_storeu_si128((void *)(out + d), to_f16(_mm256_loadu_ps(x + d)));
    if (d < head_dim) {
        TAIL(float, x + d, head_dim - d);
        __m128i h = to_f16(_mm256_loadu_ps(tail));
        memcpy(out + d, &h, (head_dim - d) * sizeof *out);
    }
}

void pare_kv_load_f16_avx2(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                           size_t head_dim) {
    for (size_t i = 0; i < n; i++, y += ldy) {
        const uint16_t *row = (const void *)((const uint8_t *)rows + i * row_stride);
        size_t d = 0;
        for (; d + 16 <= head_dim; d += 16) {
            _mm256_storeu_ps(y + d, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + d))));
            _mm256_storeu_ps(y + d + 8,
                             _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + d + 8))));
        }
        if (d + 8 <= head_dim) {
            _mm256_storeu_ps(y + d, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + d))));
            d += 8;
        }
        for (; d < head_dim; d++) y[d] = pare_f16_to_f32(row[d]);
    }
}

static inline __m128i to_bf16(__m256 x) {
    __m256i bits = _mm256_castps_si256(x), odd = _mm256_srli_epi32(bits, 16);
    __m256i round =
        _mm256_add_epi32(_mm256_set1_epi32(0x7FFF), _mm256_and_si256(odd, _mm256_set1_epi32(1)));
    __m256i y = _mm256_srli_epi32(_mm256_add_epi32(bits, round), 16);
    __m256i quiet = _mm256_or_si256(odd, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    y = _mm256_blendv_epi8(y, quiet, is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
}

void pare_kv_store_bf16_avx2(void *row, const float *x, size_t head_dim) {
    uint16_t *out = row;
    size_t d = 0;
    for (; d + 8 <= head_dim; d += 8)
        _mm_storeu_si128((void *)(out + d), to_bf16(_mm256_loadu_ps(x + d)));
    for (; d < head_dim; d++) out[d] = pare_f32_to_bf16(x[d]);
}

void pare_kv_load_bf16_avx2(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                            size_t head_dim) {
    for (size_t i = 0; i < n; i++, y += ldy) {
        const uint16_t *row = (const void *)((const uint8_t *)rows + i * row_stride);
        size_t d = 0;
        for (; d + 8 <= head_dim; d += 8) {
            __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(row + d)));
            _mm256_storeu_ps(y + d, _mm256_castsi256_ps(_mm256_slli_epi32(h, 16)));
        }
        for (; d < head_dim; d++) y[d] = pare_bf16_to_f32(row[d]);
    }
}

static inline float max8(__m256 x) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* The largest |x| of 32; of no use when there is a NaN. */
static float magnitude(const float *x, bool *has_nan) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 top = _mm256_setzero_ps(), bad = top;
    for (int i = 0; i < 4; i++) {
        __m256 v = _mm256_loadu_ps(x + 8 * i);
        bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        top = _mm256_max_ps(top, _mm256_andnot_ps(sign, v));
    }
    *has_nan = _mm256_movemask_ps(bad) != 0;
    return max8(top);
}

static void q8_store_block(pare_q8_0 *out, const float *x) {
    const __m256 sign = _mm256_set1_ps(-0.0f), limit = _mm256_set1_ps(127.0f);
    bool has_nan;
    float d = magnitude(x, &has_nan) / 127.0f;
    out->d = has_nan ? 0x7E00 : pare_f32_to_f16(d < 65504.0f ? d : 65504.0f);
    if (has_nan || out->d == 0) {
        memset(out->q, has_nan, 32);
        return;
    }
    const __m256 inverse = _mm256_set1_ps(1.0f / (d < 65504.0f ? d : 65504.0f));
    for (int i = 0; i < 4; i++) {
        __m256 t = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse);
        t = _mm256_max_ps(_mm256_min_ps(t, limit), _mm256_xor_ps(limit, sign));
        __m256i q = _mm256_cvtps_epi32(t); /* to nearest even */
        __m128i q16 = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        _mm_storel_epi64((void *)(out->q + 8 * i), _mm_packs_epi16(q16, q16));
    }
}

void pare_kv_store_q8_0_avx2(void *row, const float *x, size_t head_dim) {
    for (size_t b = 0; b < head_dim / 32; b++) q8_store_block((pare_q8_0 *)row + b, x + b * 32);
}

void pare_kv_load_q8_0_avx2(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                            size_t head_dim) {
    for (size_t i = 0; i < n; i++, y += ldy) {
        const pare_q8_0 *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t b = 0; b < head_dim / 32; b++) {
            __m256 d = _mm256_set1_ps(pare_f16_to_f32(row[b].d));
            PARE_UNROLL
            for (int i8 = 0; i8 < 4; i8++) {
                __m128i q = _mm_loadl_epi64((const void *)(row[b].q + 8 * i8));
                _mm256_storeu_ps(y + b * 32 + 8 * i8,
                                 _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
            }
        }
    }
}

/* The value of magnitude `top`, the first of equals. */
static float signed_top(const float *x, float top) {
    const __m256 sign = _mm256_set1_ps(-0.0f), high = _mm256_set1_ps(top);
    if (top == 0.0f) return 0.0f; /* of any sign */
    for (int i = 0; i < 4; i++) {
        __m256 size = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + 8 * i));
        int equal = _mm256_movemask_ps(_mm256_cmp_ps(size, high, _CMP_EQ_OQ));
        if (equal) return x[8 * i + __builtin_ctz((unsigned)equal)];
    }
    return 0.0f;
}

static void q4_store_block(pare_q4_0 *out, const float *x) {
    bool has_nan;
    float top = magnitude(x, &has_nan), d = has_nan ? 0.0f : signed_top(x, top) / -8.0f;
    d = d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d;
    out->d = has_nan ? 0x7E00 : pare_f32_to_f16(d);
    if (has_nan || (out->d & 0x7FFF) == 0) {
        memset(out->qs, 0x88, sizeof out->qs);
        return;
    }
    const __m256 inverse = _mm256_set1_ps(1.0f / d);
    __m128i code[2];
    for (int half = 0; half < 2; half++) {
        __m128i q16[2];
        for (int i = 0; i < 2; i++) {
            __m256 t = _mm256_mul_ps(_mm256_loadu_ps(x + 16 * half + 8 * i), inverse);
            t = _mm256_max_ps(_mm256_min_ps(t, _mm256_set1_ps(7.0f)), _mm256_set1_ps(-8.0f));
            __m256i q = _mm256_cvtps_epi32(t); /* to nearest even */
            q16[i] = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        }
        code[half] = _mm_add_epi8(_mm_packs_epi16(q16[0], q16[1]), _mm_set1_epi8(8));
    }
    _mm_storeu_si128((void *)out->qs, _mm_or_si128(code[0], _mm_slli_epi16(code[1], 4)));
}

void pare_kv_store_q4_0_avx2(void *row, const float *x, size_t head_dim) {
    for (size_t b = 0; b < head_dim / 32; b++) q4_store_block((pare_q4_0 *)row + b, x + b * 32);
}

void pare_kv_load_q4_0_avx2(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                            size_t head_dim) {
    const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    for (size_t i = 0; i < n; i++, y += ldy) {
        const pare_q4_0 *row = (const void *)((const uint8_t *)rows + i * row_stride);
        for (size_t b = 0; b < head_dim / 32; b++) {
            __m256 d = _mm256_set1_ps(pare_f16_to_f32(row[b].d));
            __m128i both = _mm_loadu_si128((const void *)row[b].qs);
            PARE_UNROLL
            for (int v = 0; v < 4; v++) {
                __m128i q = v < 2 ? both : _mm_srli_epi16(both, 4);
                q = _mm_sub_epi8(_mm_and_si128(q, low), eight);
                if (v % 2) q = _mm_srli_si128(q, 8);
                _mm256_storeu_ps(y + b * 32 + 8 * v,
                                 _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
            }
        }
    }
}
