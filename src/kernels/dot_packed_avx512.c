/* Packed panels times int8 activations with AVX-512 VNNI: a panel's 16 rows are one vector, and
 * vpdpbusd adds the products of 4 inputs of each to 32 bits, without saturation for any code. The
 * sums of integers are those of AVX2, and so are the results, bit by bit. */
#include "kernels/vec_avx512.h"

#include "kernels/packed_impl.h"

enum {
    MAX_M = 8, /* 8 integer and 8 f32 sums */
    /* Zen 4: lines that are asked for by hand make q4_0 and q8_0 20% slower at any distance, while
     * the processor's own requests reach 95 to 100% of the read rate */
    ASKS_AHEAD = 0
};
#define LEVEL avx512

INLINE vi broadcast_quad(const int8_t *p) { return vi_set32((int32_t)load_u32(p)); }

/* s + |w| * (x with w's sign); |w| is unsigned, so this holds for w = -128 too. */
INLINE vi add_signed(vi s, vi size, __mmask64 negative, vi x) {
    return _mm512_dpbusd_epi32(s, size,
                               _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x));
}

/* Sums begin with what `zero` adds: that costs no product, as an offset in f32 would. Signed codes
 * are moved by 128. */
INLINE void group_sums(vi s[][HALVES], pare_packed p, const bool wide, const uint8_t *codes,
                       act_rows x, const int j0, const int n, const int M) {
    (void)wide; /* q is the signed side, so -128 is as good as any */
    const int zero = is_signed(p) ? 128 : p.zero;
    UNROLL for (int i = 0; i < M; i++) s[i][0] =
        zero ? without_zero(x, i, zero) : _mm512_setzero_si512();
    UNROLL for (int j = j0; j < j0 + n; j++) {
        vi w = quad(p, codes, j, 0);
        if (is_signed(p)) w = _mm512_xor_si512(w, vi_set8(-128));
        UNROLL for (int i = 0; i < M; i++) s[i][0] =
            _mm512_dpbusd_epi32(s[i][0], w, broadcast_quad(x.q + (size_t)i * x.ldq + 4 * j));
    }
}

/* Of 8 inputs, broadcast, each row takes its 4. */
INLINE void two_four_sums(vi s[][HALVES], pare_packed p, const uint8_t *codes, act_rows x,
                          const int M) {
    UNROLL for (int i = 0; i < M; i++) s[i][0] = _mm512_setzero_si512();
    UNROLL for (int j = 0; j < 4; j++) {
        vi w = quad(p, codes, j, 0), size = _mm512_abs_epi8(w), at = places(p, codes, j, 0);
        __mmask64 negative = _mm512_movepi8_mask(w);
        UNROLL for (int i = 0; i < M; i++) {
            int64_t eight;
            memcpy(&eight, x.q + (size_t)i * x.ldq + 8 * j, 8);
            s[i][0] = add_signed(s[i][0], size, negative, vi_shuffle(vi_set64(eight), at));
        }
    }
}

#include "kernels/dot_packed_impl.h"
