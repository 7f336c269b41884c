#include "kernels/vec_avx2.h"

#define GEMM_ROWS 6
#include "kernels/attention_impl.h"
#include "kernels/attention_levels.h"

#include <string.h>

/* dst[d][16] for eight columns d from eight rows. */
static inline void transpose8(float *dst, const float *rows, size_t ld) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(rows + (size_t)i * ld);
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * PARE_ATTN_NR, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * PARE_ATTN_NR,
                         _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

void pare_attn_pack_k_avx2(float *dst, const float *rows, size_t ld, size_t head_dim) {
    for (size_t j = 0; j < PARE_ATTN_KEYS; j += 8) {
        float *panel = dst + j / PARE_ATTN_NR * head_dim * PARE_ATTN_NR + j % PARE_ATTN_NR;
        size_t d = 0;
        for (; d + 8 <= head_dim; d += 8)
            transpose8(panel + d * PARE_ATTN_NR, rows + j * ld + d, ld);
        for (; d < head_dim; d++)
            for (size_t i = 0; i < 8; i++) panel[d * PARE_ATTN_NR + i] = rows[(j + i) * ld + d];
    }
}

void pare_attn_pack_v_avx2(float *dst, const float *rows, size_t ld, size_t n_panels) {
    for (size_t p = 0; p < n_panels; p++)
        for (size_t j = 0; j < PARE_ATTN_KEYS; j++, dst += PARE_ATTN_NR) {
            const float *row = rows + j * ld + p * PARE_ATTN_NR;
            _mm256_storeu_ps(dst, _mm256_loadu_ps(row));
            _mm256_storeu_ps(dst + 8, _mm256_loadu_ps(row + 8));
        }
}

/* The sums of four vectors, one per lane. */
static inline __m128 sum4(const __m256 a[4]) {
    __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    return _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
}

/* s[rows][4] = q[rows] . k[4]; each dot product's order of additions depends on head_dim only. */
static inline __attribute__((always_inline)) void dot_tile(float *s, size_t lds, const float *q,
                                                           size_t ldq, const float *k, size_t ldk,
                                                           size_t head_dim, const int rows) {
    __m256 acc[12];
    PARE_UNROLL
    for (int i = 0; i < rows * 4; i++) acc[i] = _mm256_setzero_ps();
    size_t d = 0;
    for (; d + 8 <= head_dim; d += 8) {
        PARE_UNROLL
        for (int j = 0; j < 4; j++) {
            __m256 kv = _mm256_loadu_ps(k + (size_t)j * ldk + d);
            PARE_UNROLL
            for (int i = 0; i < rows; i++)
                acc[i * 4 + j] =
                    _mm256_fmadd_ps(kv, _mm256_loadu_ps(q + (size_t)i * ldq + d), acc[i * 4 + j]);
        }
    }
    if (d < head_dim) {
        size_t n = head_dim - d;
        PARE_UNROLL
        for (int j = 0; j < 4; j++) PARE_UNROLL
        for (int i = 0; i < rows; i++)
            acc[i * 4 + j] = vf_fma(vf_load_n(k + (size_t)j * ldk + d, n),
                                    vf_load_n(q + (size_t)i * ldq + d, n), acc[i * 4 + j]);
    }
    PARE_UNROLL
    for (int i = 0; i < rows; i++) _mm_storeu_ps(s + (size_t)i * lds, sum4(acc + i * 4));
}

void pare_attn_dots_avx2(float *s, size_t lds, const float *q, size_t ldq, size_t m, const float *k,
                         size_t ldk, size_t n_keys, size_t head_dim) {
    for (size_t j = 0; j < n_keys; j += 4) {
        const float *key = k + j * ldk;
        size_t i = 0;
        for (; i + 3 <= m; i += 3)
            dot_tile(s + i * lds + j, lds, q + i * ldq, ldq, key, ldk, head_dim, 3);
        if (m - i == 2) dot_tile(s + i * lds + j, lds, q + i * ldq, ldq, key, ldk, head_dim, 2);
        if (m - i == 1) dot_tile(s + i * lds + j, lds, q + i * ldq, ldq, key, ldk, head_dim, 1);
    }
}

/* ---- integers ---- */

static inline __m256 times(const float *x, const float *factor, size_t i) {
    __m256 t = _mm256_loadu_ps(x + i);
    return factor ? _mm256_mul_ps(t, _mm256_loadu_ps(factor + i)) : t;
}

float pare_attn_quantize_avx2(int16_t *q, const float *x, const float *factor, size_t n) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 8) /* as integers NaN and infinity are the largest */
        m = _mm256_max_epi32(m,
                             _mm256_and_si256(magnitude, _mm256_castps_si256(times(x, factor, i))));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    float max = _mm_cvtss_f32(_mm_castsi128_ps(h));
    if (!(max >= PARE_ATTN_TINY && max < INFINITY)) return pare_attn_quantize_ref(q, x, factor, n);
    const __m256 inverse = _mm256_set1_ps(PARE_ATTN_INT_MAX / max);
    for (size_t i = 0; i < n; i += 16) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(times(x, factor, i), inverse));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(times(x, factor, i + 8), inverse));
        __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), _MM_SHUFFLE(3, 1, 2, 0));
        v = _mm256_shufflelo_epi16(v, _MM_SHUFFLE(3, 1, 2, 0));
        v = _mm256_shufflehi_epi16(v, _MM_SHUFFLE(3, 1, 2, 0));
        _mm256_storeu_si256((__m256i *)(void *)(q + i), v);
    }
    return max / PARE_ATTN_INT_MAX;
}

/* Keeps a sum in its register: gcc would do all products first, for which there are not enough. */
#define KEEP(v) __asm__("" : "+x"(v))

enum { INT_ROWS = 4 };

static inline __attribute__((always_inline)) void
integer_tile(float *y, size_t ldy, const int16_t *q, size_t ldq, const int16_t *codes,
             size_t n_pairs, const float *row, vf c0, vf c1, const int m) {
    __m256i sum[INT_ROWS][2];
    PARE_UNROLL
    for (int i = 0; i < m; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    for (size_t t = 0; t < n_pairs; t++) {
        __m256i k0 = vi_load(codes + t * 32), k1 = vi_load(codes + t * 32 + 16);
        PARE_UNROLL
        for (int i = 0; i < m; i++) {
            int32_t pair;
            memcpy(&pair, q + (size_t)i * ldq + 2 * t, sizeof pair);
            __m256i both = _mm256_set1_epi32(pair);
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(k0, both));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(k1, both));
            KEEP(sum[i][0]);
            KEEP(sum[i][1]);
        }
    }
    PARE_UNROLL
    for (int i = 0; i < m; i++) {
        vf d = vf_set(row[i]);
        float *out = y + (size_t)i * ldy;
        vf_store(out, vf_fma(vf_number(sum[i][0]), vf_mul(d, c0), vf_load(out)));
        vf_store(out + 8, vf_fma(vf_number(sum[i][1]), vf_mul(d, c1), vf_load(out + 8)));
    }
}

static void integer_dots(float *y, size_t ldy, const int16_t *q, size_t ldq, size_t m,
                         const int16_t *codes, size_t n_pairs, const float *row,
                         const float *column) {
    vf c0 = vf_load(column), c1 = vf_load(column + 8);
    size_t i = 0;
    for (; i + INT_ROWS <= m; i += INT_ROWS)
        integer_tile(y + i * ldy, ldy, q + i * ldq, ldq, codes, n_pairs, row + i, c0, c1, INT_ROWS);
    y += i * ldy;
    q += i * ldq;
    row += i;
    if (m - i == 3) integer_tile(y, ldy, q, ldq, codes, n_pairs, row, c0, c1, 3);
    if (m - i == 2) integer_tile(y, ldy, q, ldq, codes, n_pairs, row, c0, c1, 2);
    if (m - i == 1) integer_tile(y, ldy, q, ldq, codes, n_pairs, row, c0, c1, 1);
}

const pare_attn_kernels pare_attn_avx2 = {
    gemm,  pare_attn_pack_k_avx2,   pare_attn_pack_v_avx2, pare_attn_dots_avx2, softmax_step,
    scale, pare_attn_quantize_avx2, integer_dots};
