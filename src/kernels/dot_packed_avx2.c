/* Packed panels times int8 activations with AVX2. A panel's 16 rows are two vectors of 8; the bytes
 * of 4 inputs of a row of x, broadcast, meet those of 8 weight rows in one maddubs. Codes below 64
 * stay unsigned, so that several products add up in 16 bits before they are widened, how many
 * depends on the largest code; what they lack, `zero`, is an offset like any other. Signed codes
 * (8 bits, tables) are multiplied as |w| * (x with w's sign) and widened at once.
 *
 * M rows of x at a time share the unpacking. One group after the other is scaled and added, so a
 * row's result depends neither on M nor on n. */
#include "kernels/packed_avx2.h"

/* Keeps a sum in its register: gcc would re-associate the additions of a group into a tree whose
 * leaves do not fit the registers. */
#define KEEP(v) __asm__("" : "+x"(v))

enum { MAX_M = 4 };

INLINE __m256i broadcast_quad(const int8_t *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* ---- sums of a group: s[i][h] = sum of code * q over quads [j0, j0 + n) for M rows of x ---- */

INLINE void unsigned_sums(__m256i s[][2], pare_packed p, const uint8_t *codes, const int8_t *x,
                          size_t ldx, const int j0, const int n, const int M) {
    const int most = p.bits == 5 ? 4 : p.bits == 6 ? 2 : 8, BATCH = n < most ? n : most;
    UNROLL for (int b = 0; b < n / BATCH; b++) {
        __m256i a[MAX_M][2];
        UNROLL for (int j = 0; j < BATCH; j++) {
            const int k = j0 + b * BATCH + j;
            __m256i w0 = quad(p, codes, k, 0), w1 = quad(p, codes, k, 1);
            UNROLL for (int i = 0; i < M; i++) {
                __m256i q = broadcast_quad(x + (size_t)i * ldx + 4 * k);
                __m256i p0 = _mm256_maddubs_epi16(w0, q), p1 = _mm256_maddubs_epi16(w1, q);
                a[i][0] = j ? _mm256_add_epi16(a[i][0], p0) : p0;
                a[i][1] = j ? _mm256_add_epi16(a[i][1], p1) : p1;
                KEEP(a[i][0]);
                KEEP(a[i][1]);
            }
        }
        UNROLL for (int i = 0; i < M; i++) UNROLL for (int h = 0; h < 2; h++) {
            __m256i wide = _mm256_madd_epi16(a[i][h], ones_16());
            s[i][h] = b ? _mm256_add_epi32(s[i][h], wide) : wide;
            KEEP(s[i][h]);
        }
    }
}

INLINE void signed_sums(__m256i s[][2], pare_packed p, const uint8_t *codes, const int8_t *x,
                        size_t ldx, const int j0, const int n, const int M) {
    UNROLL for (int j = 0; j < n; j++) UNROLL for (int h = 0; h < 2; h++) {
        __m256i w = quad(p, codes, j0 + j, h), size = _mm256_abs_epi8(w);
        UNROLL for (int i = 0; i < M; i++) {
            __m256i q = broadcast_quad(x + (size_t)i * ldx + 4 * (j0 + j));
            __m256i wide =
                _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(q, w)), ones_16());
            s[i][h] = j ? _mm256_add_epi32(s[i][h], wide) : wide;
            KEEP(s[i][h]);
        }
    }
}

/* 2:4: of 8 inputs, broadcast, each row takes its 4. The products of small levels add up in 16
 * bits. */
INLINE void two_four_sums(__m256i s[][2], pare_packed p, const uint8_t *codes, const int8_t *x,
                          size_t ldx, const int M) {
    const bool small = p.table == PARE_TABLE_SPARSE;
    UNROLL for (int j = 0; j < 4; j++) UNROLL for (int h = 0; h < 2; h++) {
        __m256i w = quad(p, codes, j, h), size = _mm256_abs_epi8(w), at = places(p, codes, j, h);
        UNROLL for (int i = 0; i < M; i++) {
            long long eight;
            memcpy(&eight, x + (size_t)i * ldx + 8 * j, 8);
            __m256i q = _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), at);
            __m256i sum = _mm256_maddubs_epi16(size, _mm256_sign_epi8(q, w));
            if (small) {
                sum = j ? _mm256_add_epi16(s[i][h], sum) : sum;
                if (j == 3) sum = _mm256_madd_epi16(sum, ones_16());
            } else {
                sum = _mm256_madd_epi16(sum, ones_16());
                if (j) sum = _mm256_add_epi32(s[i][h], sum);
            }
            s[i][h] = sum;
            KEEP(s[i][h]);
        }
    }
}

/* ---- a panel ---- */

/* c[M][2] = a panel times M rows of x from row i0 on. */
INLINE void panel_rows(__m256 c[][2], pare_packed p, const uint8_t *panel, size_t blocks,
                       const pare_act *x, size_t i0, const int M) {
    const int8_t *q = x->q + i0 * x->q_stride;
    const float *d = x->d + i0 * x->d_stride;
    const float *sum = p.group == 16 ? x->sum16 + i0 * x->sum_stride : x->sum32 + i0 * x->d_stride;
    const size_t ldq = x->q_stride, ldd = x->d_stride;
    const size_t lds = p.group == 16 ? x->sum_stride : x->d_stride;
    const int subs = 32 / p.group;
    const size_t block_bytes = pare_packed_block_bytes(p), head_bytes = pare_packed_head_bytes(p);
    const uint8_t *head = panel, *block = panel + head_bytes;
    UNROLL for (int i = 0; i < M; i++) c[i][0] = c[i][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b++, q += 32, d++, sum += subs) {
        if (head_bytes && b && b % 8 == 0) {
            head = block;
            block += head_bytes;
        }
        prefetch(block, block_bytes);
        UNROLL for (int sub = 0; sub < subs; sub++) {
            __m256i s[MAX_M][2];
            const uint8_t *codes = block + pare_packed_scale_bytes(p);
            if (p.two_four)
                two_four_sums(s, p, codes, q, ldq, M);
            else
                (is_signed(p) ? signed_sums : unsigned_sums)(s, p, codes, q, ldq, sub * p.group / 4,
                                                             p.group / 4, M);
            scales v = group_scales(p, head, block, sub);
            UNROLL for (int i = 0; i < M; i++) {
                __m256 dx = _mm256_broadcast_ss(d + (size_t)i * ldd);
                UNROLL for (int h = 0; h < 2; h++) c[i][h] = _mm256_fmadd_ps(
                    _mm256_cvtepi32_ps(s[i][h]), _mm256_mul_ps(v.scale[h], dx), c[i][h]);
                if (!adds_offset(p)) continue;
                __m256 sx = _mm256_broadcast_ss(sum + (size_t)i * lds + sub);
                UNROLL for (int h = 0; h < 2; h++) c[i][h] =
                    _mm256_fmadd_ps(v.offset[h], sx, c[i][h]);
            }
        }
        block += block_bytes;
    }
}

/* n of a panel's sums. */
INLINE void store(float *y, const __m256 c[2], size_t n) {
    if (n == NR) {
        _mm256_storeu_ps(y, c[0]);
        _mm256_storeu_ps(y + 8, c[1]);
        return;
    }
    float all[NR];
    _mm256_storeu_ps(all, c[0]);
    _mm256_storeu_ps(all + 8, c[1]);
    memcpy(y, all, n * sizeof *y);
}

#define ROWS(M)                                                                                    \
    do {                                                                                           \
        __m256 c[MAX_M][2];                                                                        \
        panel_rows(c, p, panel, blocks, x, i, M);                                                  \
        UNROLL for (int k = 0; k < (M); k++) store(y + (i + (size_t)k) * ldy + r, c[k], n);        \
    } while (0)

INLINE void dot_packed(float *y, size_t ldy, const pare_view *w, size_t row_begin, size_t row_end,
                       const pare_act *x, pare_packed p) {
    const int M = MAX_M;
    const size_t blocks = w->cols / 32, panel_bytes = pare_packed_panel_bytes(p, w->cols);
    for (size_t r = row_begin; r < row_end; r += NR) {
        const uint8_t *panel = (const uint8_t *)w->part[0] + r / NR * panel_bytes;
        size_t n = row_end - r < NR ? row_end - r : NR, i = 0;
        for (; i + (size_t)M <= x->n; i += (size_t)M) ROWS(M);
        if (x->n - i == 3) ROWS(3);
        if (x->n - i == 2) ROWS(2);
        if (x->n - i == 1) ROWS(1);
    }
}

#define X(name, ...)                                                                               \
    void pare_dot_##name##_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,        \
                                size_t row_end, const pare_act *x) {                               \
        const pare_packed p = {__VA_ARGS__};                                                       \
        dot_packed(y, ldy, w, row_begin, row_end, x, p);                                           \
    }
PARE_PACKED_LIST(X)
#undef X

/* ---- 2:4 in bf16 ---- */

/* c[M][2] = a panel times M rows of x; a block is summed before it is added. */
INLINE void panel24_rows(__m256 c[][2], const uint8_t *panel, size_t blocks, const float *x,
                         size_t ldx, const int M) {
    const size_t block_bytes = pare_packed_block_bytes(pare_packed_nm24_bf16);
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    UNROLL for (int i = 0; i < M; i++) c[i][0] = c[i][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b++, panel += block_bytes, x += 32) {
        prefetch(panel, block_bytes);
        UNROLL for (int h = 0; h < 2; h++) {
            __m256i at = load_256(panel + 512 + 32 * h);
            __m256 sum[MAX_M];
            UNROLL for (int g = 0; g < 8; g++) {
                __m256i v = load_256(panel + (g * NR + 8 * h) * 4);
                __m256 w0 = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
                __m256 w1 = _mm256_castsi256_ps(_mm256_and_si256(v, upper));
                /* a permutation looks at the lowest two bits */
                __m256i at0 = _mm256_srli_epi32(at, 4 * g), at1 = _mm256_srli_epi32(at, 4 * g + 2);
                UNROLL for (int i = 0; i < M; i++) {
                    __m256 four =
                        _mm256_broadcast_ps((const __m128 *)(x + (size_t)i * ldx + 4 * g));
                    __m256 x0 = _mm256_permutevar_ps(four, at0);
                    sum[i] = g ? _mm256_fmadd_ps(w0, x0, sum[i]) : _mm256_mul_ps(w0, x0);
                    sum[i] = _mm256_fmadd_ps(w1, _mm256_permutevar_ps(four, at1), sum[i]);
                }
            }
            UNROLL for (int i = 0; i < M; i++) c[i][h] = _mm256_add_ps(c[i][h], sum[i]);
        }
    }
}

#define ROWS24(M)                                                                                  \
    do {                                                                                           \
        __m256 c[MAX_M][2];                                                                        \
        panel24_rows(c, panel, w->cols / 32, x + i * ldx, ldx, M);                                 \
        UNROLL for (int k = 0; k < (M); k++) store(y + (i + (size_t)k) * ldy + r, c[k], rows);     \
    } while (0)

void pare_dotf_nm24_bf16_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,
                              size_t row_end, const float *x, size_t ldx, size_t n) {
    const size_t panel_bytes = pare_packed_panel_bytes(pare_packed_nm24_bf16, w->cols);
    for (size_t r = row_begin; r < row_end; r += NR) {
        const uint8_t *panel = (const uint8_t *)w->part[0] + r / NR * panel_bytes;
        size_t rows = row_end - r < NR ? row_end - r : NR, i = 0;
        for (; i + MAX_M <= n; i += MAX_M) ROWS24(MAX_M);
        if (n - i == 3) ROWS24(3);
        if (n - i == 2) ROWS24(2);
        if (n - i == 1) ROWS24(1);
    }
}
