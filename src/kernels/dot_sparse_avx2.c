/* Sparse weights with AVX2: bitmap and N:M masks, values in bf16, 8 or 4 bits.
 *
 * Bitmap and 4:8: eight columns at a time, the byte of mask picks a shuffle that spreads the next
 * values to their columns. Where the values of byte j of a mask begin is counted from the mask's
 * start, not from byte j - 1, so that no step waits for the one before.
 *
 * Values are read up to 31 bytes past those that count. */
#include "kernels/dot_avx2.h"
#include "kernels/dot_sparse.h"

/* A row: mask bytes, values, scales of integers. */
typedef struct row {
    const uint8_t *mask, *values, *scales;
} row;

INLINE const uint8_t *part(const pare_view *w, int k) { return w->part[k]; }

INLINE uint64_t load_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* bits: of a value */
INLINE size_t scale_bytes(size_t cols, int bits) {
    return bits == 16 ? 0 : bits == 8 ? (cols + 31) / 32 * 2 : (cols + 63) / 64 * 2;
}

INLINE row bitmap_row(const pare_view *w, size_t r, int bits) {
    size_t first = (size_t)load_u64(part(w, 1) + 8 * r);
    return (row){.mask = pare_row(w, r),
                 .values = part(w, 2) + first * (size_t)bits / 8,
                 .scales = bits == 16 ? NULL : part(w, 3) + r * scale_bytes(w->cols, bits)};
}

INLINE row nm_row(const pare_view *w, size_t r, int bits) {
    size_t stored = bits == 4 ? (w->cols + 31) / 32 * 16 : w->cols / 2;
    return (row){.mask = pare_row(w, r),
                 .values = part(w, 1) + r * (stored * (size_t)bits / 8),
                 .scales = bits == 16 ? NULL : part(w, 2) + r * scale_bytes(w->cols, bits)};
}

/* The number of values before byte j of a mask of up to 8 bytes. */
INLINE size_t before(uint64_t mask, int j, bool half) {
    if (half) return 4 * (size_t)j;
    return j ? (size_t)__builtin_popcountll(mask << (64 - 8 * j)) : 0;
}

/* ---- bf16 ---- */

/* The next values in the columns of byte j of the mask. */
INLINE __m256 spread_bf16(const uint8_t *values, uint64_t mask, int j, bool half) {
    size_t at = (j ? mask >> (8 * j - 5) : mask << 5) & 0x1fe0; /* times 32 */
    __m256i v = _mm256_broadcastsi128_si256(load_128(values + 2 * before(mask, j, half)));
    return _mm256_castsi256_ps(
        _mm256_shuffle_epi8(v, load_256((const uint8_t *)pare_spread_dwords + at)));
}

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

enum { GROUPS = 8 };

/* What the formats differ in; constant after inlining. */
typedef struct format {
    int bits;    /* 8 or 4 */
    bool bitmap; /* else half of the values are stored */
} format;

INLINE __m256i levels(__m256i nibbles) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(pare_sparse_levels)), nibbles);
}

/* Low nibbles in the low lane, high ones in the high lane, as numbers. */
INLINE __m256i codes_4(__m256i both) {
    __m256i v = _mm256_srlv_epi64(both, _mm256_set_epi64x(4, 4, 0, 0));
    return levels(_mm256_and_si256(v, _mm256_set1_epi8(15)));
}

/* The scales of the groups, in a register. */
INLINE __m256 load_scales(const uint8_t *scales, format f) {
    if (f.bits == 8)
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(scales)), 16));
    __m128i four = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const void *)scales)), 16);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_castsi128_ps(four)),
                                    _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

INLINE __m128i two_8(const void *a, const void *b) {
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64(a)), (const __m64 *)b));
}
INLINE __m256i two_lanes(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* The weights of 32 columns, whose mask is `mask`. */
INLINE __m256i spread(const uint8_t *values, uint32_t mask, format f) {
#define CONTROL(j) pare_spread_bytes[mask >> 8 * (j)&255]
    __m256i control = two_lanes(two_8(CONTROL(0), CONTROL(1)), two_8(CONTROL(2), CONTROL(3)));
#undef CONTROL
    __m256i v;
    long long second = 0x0808080808080808; /* where in a lane the odd bytes' values begin */
    if (f.bitmap) {
        const uint8_t *at[4];
        UNROLL for (int j = 0; j < 4; j++) at[j] = values + before(mask, j, false);
        v = two_lanes(two_8(at[0], at[1]), two_8(at[2], at[3]));
    } else {
        second >>= 1;
        if (f.bits == 8)
            v = _mm256_permute4x64_epi64(_mm256_castsi128_si256(load_128(values)), 0x50);
        else
            v = codes_4(_mm256_set1_epi64x((long long)load_u64(values)));
    }
    /* what is 0x80 stays above 0x7f */
    return _mm256_shuffle_epi8(v,
                               _mm256_add_epi8(control, _mm256_set_epi64x(second, 0, second, 0)));
}

/* Group g of a block. */
INLINE void add_spread(__m256 *acc, const __m256 *d, int g, uint32_t mask, const uint8_t *values,
                       const int8_t *q, size_t q_stride, size_t n, format f) {
    __m256i w = spread(values, mask, f);
    for (size_t i = 0; i < n; i++, q += q_stride)
        acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot_q8(w, load_256(q))),
                                 _mm256_permutevar8x32_ps(d[i], _mm256_set1_epi32(g)), acc[i]);
}

/* Values of a bitmap from number `first` on as bytes; they begin at to[first % 2]. Reads and writes
 * up to 31 bytes more. */
INLINE void widen_4(uint8_t *to, const uint8_t *values, size_t first, size_t n) {
    values += first / 2;
    for (size_t i = 0; i < n + first % 2; i += 32, values += 16) {
        __m256i v = _mm256_cvtepu8_epi16(load_128(values));
        v = _mm256_and_si256(_mm256_or_si256(v, _mm256_slli_epi16(v, 4)), _mm256_set1_epi8(15));
        _mm256_storeu_si256((__m256i *)(to + i), levels(v));
    }
}

/* One row under way. */
typedef struct place {
    row a;
    size_t at; /* number of the next value; bitmap */
} place;

/* The block's groups, n_groups of them, whose mask is at `mask` and scales are d[i]. */
INLINE void add_block(__m256 *acc, const __m256 *d, place *p, const uint8_t *mask, int n_groups,
                      const pare_act *x, size_t col, size_t n, format f) {
    uint8_t bytes[32 * GROUPS + 64];
    const uint8_t *values = p->a.values;
    const int8_t *q = x->q + col;
    if (f.bitmap) {
        size_t count = 0;
        for (int k = 0; 2 * k < n_groups; k++)
            count += (size_t)__builtin_popcountll(load_u64(mask + 8 * k));
        values += p->at;
        if (f.bits == 4) {
            widen_4(bytes, p->a.values, p->at, count);
            values = bytes + p->at % 2;
        }
        p->at += count;
    } else {
        p->a.values += n_groups * 2 * f.bits;
    }
    UNROLL for (int g = 0; g < n_groups; g++) {
        uint32_t m = load_u32(mask + 4 * g);
        add_spread(acc, d, g, m, values, q + 32 * g, x->q_stride, n, f);
        values += f.bitmap ? __builtin_popcount(m) : 2 * f.bits;
    }
}

/* The columns behind the last whole block, completed by zeros. */
INLINE void last_block(__m256 *acc, place *p, const pare_act *x, size_t col, size_t cols, size_t n,
                       format f) {
    uint8_t mask[4 * GROUPS] = {0}, scales[2 * GROUPS] = {0};
    memcpy(mask, p->a.mask, (cols - col + 7) / 8);
    memcpy(scales, p->a.scales, scale_bytes(cols - col, f.bits));
    int n_groups = (int)((cols - col + 31) / 32);
    __m256 d[PARE_DOT_MAX_N];
    for (size_t i = 0; i < n; i++) {
        float xd[GROUPS] = {0};
        memcpy(xd, x->d + i * x->d_stride + col / 32, (size_t)n_groups * sizeof *xd);
        d[i] = _mm256_mul_ps(load_scales(scales, f), _mm256_loadu_ps(xd));
    }
    add_block(acc, d, p, mask, n_groups, x, col, n, f);
}

INLINE void dot_sparse(float *y, size_t ldy, row a, size_t cols, const pare_act *x, size_t n,
                       format f) {
    place p = {.a = a};
    __m256 acc[PARE_DOT_MAX_N], d[PARE_DOT_MAX_N];
    for (size_t i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    size_t col = 0;
    for (; col + 256 <= cols; col += 256) {
        prefetch_at(p.a.mask, 32, 1024);
        prefetch(p.a.values + p.at * (size_t)f.bits / 8, 16 * (size_t)f.bits);
        prefetch_at(p.a.scales, 2 * (size_t)f.bits, 512);
        __m256 scales = load_scales(p.a.scales, f);
        for (size_t i = 0; i < n; i++)
            d[i] = _mm256_mul_ps(scales, _mm256_loadu_ps(x->d + i * x->d_stride + col / 32));
        add_block(acc, d, &p, p.a.mask, GROUPS, x, col, n, f);
        p.a.mask += 32;
        p.a.scales += 2 * f.bits;
    }
    if (col < cols) last_block(acc, &p, x, col, cols, n, f);
    for (size_t i = 0; i < n; i++) y[i * ldy] = sum_8(acc[i]);
}

#define DOT(name, kind, ...)                                                                       \
    void pare_dot_##name##_avx2(float *y, size_t ldy, const pare_view *w, size_t row_begin,        \
                                size_t row_end, const pare_act *x) {                               \
        const format f = {__VA_ARGS__};                                                            \
        if (x->n == 1)                                                                             \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse(y + r, ldy, kind##_row(w, r, f.bits), w->cols, x, 1, f);                \
        else                                                                                       \
            for (size_t r = row_begin; r < row_end; r++)                                           \
                dot_sparse(y + r, ldy, kind##_row(w, r, f.bits), w->cols, x, x->n, f);             \
    }
DOT(bitmap_q8, bitmap, .bits = 8, .bitmap = true)
DOT(bitmap_q4, bitmap, .bits = 4, .bitmap = true)
DOT(nm48_q8, nm, .bits = 8)
DOT(nm48_q4, nm, .bits = 4)
