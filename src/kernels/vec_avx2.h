/* The vectors that *_impl.h are written on, for AVX2: eight lanes of f32 (vf), or the same bits as
 * integers (vi). Include once per file, before vmath.h and the *_impl.h. Where an operand of min
 * and max is NaN the second one is the result. */
#ifndef PARE_SRC_KERNELS_VEC_AVX2_H
#define PARE_SRC_KERNELS_VEC_AVX2_H

#include "kernels/intrinsics.h"

#include <stddef.h>
#include <stdint.h>

#define VF 8 /* lanes */
typedef __m256 vf;
typedef __m256 vmask;

static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_set(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
/* a * b + c, c - a * b */
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
static inline vf vf_round(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
/* |x| with the sign bit of y */
static inline vf vf_copysign(vf x, vf y) {
    const vf sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(sign, x), _mm256_and_ps(sign, y));
}
/* x * 2^n for whole n by adding to the exponent; the result must be a normal number */
#define VF_LDEXP_ANY 0 /* n: of numbers that are neither denormal nor too large */
static inline vf vf_ldexp(vf x, vf n) {
    __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), e));
}

/* Comparisons are false for NaN, except that unordered is true for it. */
static inline vmask vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vmask vf_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline vmask vf_unordered(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
static inline vmask vm_or(vmask a, vmask b) { return _mm256_or_ps(a, b); }
/* one bit per lane */
static inline uint32_t vm_bits(vmask m) { return (uint32_t)_mm256_movemask_ps(m); }
/* m ? a : b */
static inline vf vf_select(vmask m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }
/* lanes i with lo <= i < hi */
static inline vmask vm_range(int lo, int hi) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(lo), lane);
    return _mm256_castsi256_ps(
        _mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), lane)));
}

/* the first n < VF lanes; others load as 0 and are not stored */
static inline vf vf_load_n(const float *p, size_t n) {
    return _mm256_maskload_ps(p, _mm256_castps_si256(vm_range(0, (int)n)));
}
static inline void vf_store_n(float *p, vf x, size_t n) {
    _mm256_maskstore_ps(p, _mm256_castps_si256(vm_range(0, (int)n)), x);
}

static inline float vf_sum(vf x) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
static inline float vf_top(vf x) { /* of numbers */
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* --- integers --- */

typedef __m256i vi;

static inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vi vi_set8(int x) { return _mm256_set1_epi8((char)x); }
static inline vi vi_set32(int32_t x) { return _mm256_set1_epi32(x); }
static inline vi vi_set64(int64_t x) { return _mm256_set1_epi64x(x); }
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
/* shifts of lanes of 16 and 32 bits */
static inline vi vi_srl16(vi v, int n) { return _mm256_srli_epi16(v, n); }
static inline vi vi_sll16(vi v, int n) { return _mm256_slli_epi16(v, n); }
static inline vi vi_srl32(vi v, int n) { return _mm256_srli_epi32(v, n); }
static inline vi vi_sll32(vi v, int n) { return _mm256_slli_epi32(v, n); }
/* bytes of v's 16, chosen by `at` of the same 16 */
static inline vi vi_shuffle(vi v, vi at) { return _mm256_shuffle_epi8(v, at); }
static inline vi vi_load_16(const void *p) { /* 16 bytes, over and over */
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}
static inline vi vi_from_u8(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
static inline vi vi_from_s8(const uint8_t *p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

static inline vf vf_number(vi v) { return _mm256_cvtepi32_ps(v); }
static inline vf vf_bits(vi v) { return _mm256_castsi256_ps(v); }
static inline vf vf_neg(vf x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }
static inline vf vf_from_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf vf_from_bf16(const uint8_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline vf vf_load_4(const float *p) { /* four, over and over */
    return _mm256_broadcast_ps((const __m128 *)p);
}
/* of each four, that of number `at` & 3 */
static inline vf vf_shuffle_4(vf v, vi at) { return _mm256_permutevar_ps(v, at); }

#endif
