/* Packed panels times int8 activations with AVX2. A panel's 16 rows are two vectors of 8; the bytes
 * of 4 inputs of a row of x, broadcast, meet those of 8 weight rows in one maddubs. Codes below 64
 * stay unsigned, so that several products add up in 16 bits before they are widened, how many
 * depends on the largest code. Signed codes (8 bits, tables) are multiplied as |w| * (x with w's
 * sign) and widened at once. */
#include "kernels/vec_avx2.h"

#include "kernels/packed_impl.h"

/* Keeps a sum in its register: gcc would re-associate the additions of a group into a tree whose
 * leaves do not fit the registers. */
#define KEEP(v) __asm__("" : "+x"(v))

enum { MAX_M = 4, ASKS_AHEAD = 1 };
#define LEVEL avx2

INLINE __m256i broadcast_quad(const int8_t *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* ---- sums of a group ---- */

/* Codes below 64, less their zero. */
INLINE void unsigned_sums(vi s[][HALVES], pare_packed p, const uint8_t *codes, act_rows x,
                          const int j0, const int n, const int M) {
    const int most = p.bits == 5 ? 4 : p.bits == 6 ? 2 : 8, BATCH = n < most ? n : most;
    UNROLL for (int b = 0; b < n / BATCH; b++) {
        __m256i a[MAX_M][2];
        UNROLL for (int j = 0; j < BATCH; j++) {
            const int k = j0 + b * BATCH + j;
            __m256i w0 = quad(p, codes, k, 0), w1 = quad(p, codes, k, 1);
            UNROLL for (int i = 0; i < M; i++) {
                __m256i q = broadcast_quad(x.q + (size_t)i * x.ldq + 4 * k);
                __m256i p0 = _mm256_maddubs_epi16(w0, q), p1 = _mm256_maddubs_epi16(w1, q);
                a[i][0] = j ? _mm256_add_epi16(a[i][0], p0) : p0;
                a[i][1] = j ? _mm256_add_epi16(a[i][1], p1) : p1;
                KEEP(a[i][0]);
                KEEP(a[i][1]);
            }
        }
        UNROLL for (int i = 0; i < M; i++) UNROLL for (int h = 0; h < 2; h++) {
            __m256i wide = _mm256_madd_epi16(a[i][h], ones_16());
            if (!b && p.zero) s[i][h] = without_zero(x, i, p.zero);
            s[i][h] = b || p.zero ? _mm256_add_epi32(s[i][h], wide) : wide;
            KEEP(s[i][h]);
        }
    }
}

INLINE void signed_sums(vi s[][HALVES], pare_packed p, const uint8_t *codes, act_rows x,
                        const int j0, const int n, const int M) {
    UNROLL for (int j = 0; j < n; j++) UNROLL for (int h = 0; h < 2; h++) {
        __m256i w = quad(p, codes, j0 + j, h), size = _mm256_abs_epi8(w);
        UNROLL for (int i = 0; i < M; i++) {
            __m256i q = broadcast_quad(x.q + (size_t)i * x.ldq + 4 * (j0 + j));
            __m256i wide =
                _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(q, w)), ones_16());
            s[i][h] = j ? _mm256_add_epi32(s[i][h], wide) : wide;
            KEEP(s[i][h]);
        }
    }
}

/* The sign goes to w, of which none is -128. */
INLINE void wide_sums(vi s[][HALVES], pare_packed p, const uint8_t *codes, act_rows x, const int j0,
                      const int n, const int M) {
    UNROLL for (int j = 0; j < n; j++) {
        __m256i w0 = quad(p, codes, j0 + j, 0), w1 = quad(p, codes, j0 + j, 1);
        UNROLL for (int i = 0; i < M; i++) {
            __m256i q = broadcast_quad(x.q + (size_t)i * x.ldq + 4 * (j0 + j));
            __m256i size = _mm256_abs_epi8(q);
            __m256i p0 = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w0, q)),
                    p1 = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w1, q));
            p0 = _mm256_madd_epi16(p0, ones_16());
            p1 = _mm256_madd_epi16(p1, ones_16());
            s[i][0] = j ? _mm256_add_epi32(s[i][0], p0) : p0;
            s[i][1] = j ? _mm256_add_epi32(s[i][1], p1) : p1;
            KEEP(s[i][0]);
            KEEP(s[i][1]);
        }
    }
}

INLINE void group_sums(vi s[][HALVES], pare_packed p, const bool wide, const uint8_t *codes,
                       act_rows x, const int j0, const int n, const int M) {
    (wide ? wide_sums : is_signed(p) ? signed_sums : unsigned_sums)(s, p, codes, x, j0, n, M);
}

/* 2:4: of 8 inputs, broadcast, each row takes its 4. The products of small levels add up in 16
 * bits. */
INLINE void two_four_sums(vi s[][HALVES], pare_packed p, const uint8_t *codes, act_rows x,
                          const int M) {
    const bool small = p.table == PARE_TABLE_SPARSE;
    UNROLL for (int j = 0; j < 4; j++) UNROLL for (int h = 0; h < 2; h++) {
        __m256i w = quad(p, codes, j, h), size = _mm256_abs_epi8(w), at = places(p, codes, j, h);
        UNROLL for (int i = 0; i < M; i++) {
            long long eight;
            memcpy(&eight, x.q + (size_t)i * x.ldq + 8 * j, 8);
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

#include "kernels/dot_packed_impl.h"
