/* The vectors that *_impl.h are written on, for AVX-512: sixteen lanes; see vec_avx2.h. */
#ifndef PARE_SRC_KERNELS_VEC_AVX512_H
#define PARE_SRC_KERNELS_VEC_AVX512_H

#include "kernels/intrinsics.h"

#include <stddef.h>
#include <stdint.h>

#define VF 16 /* lanes */
typedef __m512 vf;
typedef __mmask16 vmask;

static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
static inline vf vf_round(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_abs(vf x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
static inline vf vf_copysign(vf x, vf y) {
    const vf sign = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(sign, x), _mm512_and_ps(sign, y));
}
/* of any n, too small or too large ones as well */
#define VF_LDEXP_ANY 1
static inline vf vf_ldexp(vf x, vf n) { return _mm512_scalef_ps(x, n); }

static inline vmask vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vmask vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline vmask vf_unordered(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
static inline vmask vm_or(vmask a, vmask b) { return (vmask)(a | b); }
static inline uint32_t vm_bits(vmask m) { return m; }
static inline vf vf_select(vmask m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
static inline uint32_t vm_below(int n) { /* lanes i < n */
    return n <= 0 ? 0 : n >= VF ? 0xFFFFu : (1u << n) - 1;
}
static inline vmask vm_range(int lo, int hi) { return (vmask)(vm_below(hi) & ~vm_below(lo)); }

static inline vf vf_load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps((vmask)vm_below((int)n), p);
}
static inline void vf_store_n(float *p, vf x, size_t n) {
    _mm512_mask_storeu_ps(p, (vmask)vm_below((int)n), x);
}

static inline float vf_sum(vf x) { return _mm512_reduce_add_ps(x); }
static inline float vf_top(vf x) { return _mm512_reduce_max_ps(x); }

/* --- integers --- */

typedef __m512i vi;

static inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static inline vi vi_set8(int x) { return _mm512_set1_epi8((char)x); }
static inline vi vi_set32(int32_t x) { return _mm512_set1_epi32(x); }
static inline vi vi_set64(int64_t x) { return _mm512_set1_epi64(x); }
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
/* counts in a register: an immediate would have to be one without optimization too */
static inline vi vi_srl16(vi v, int n) { return _mm512_srl_epi16(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_sll16(vi v, int n) { return _mm512_sll_epi16(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_srl32(vi v, int n) { return _mm512_srl_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_sll32(vi v, int n) { return _mm512_sll_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_shuffle(vi v, vi at) { return _mm512_shuffle_epi8(v, at); }
static inline vi vi_load_16(const void *p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}
static inline vi vi_from_u8(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
static inline vi vi_from_s8(const uint8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}

static inline vf vf_number(vi v) { return _mm512_cvtepi32_ps(v); }
static inline vf vf_bits(vi v) { return _mm512_castsi512_ps(v); }
static inline vf vf_neg(vf x) { return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f)); }
static inline vf vf_from_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf vf_from_bf16(const uint8_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline vf vf_load_4(const float *p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
static inline vf vf_shuffle_4(vf v, vi at) { return _mm512_permutevar_ps(v, at); }

#endif
