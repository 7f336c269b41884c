/* The AVX-512 intrinsics of kernels/vec_avx512.h that SIMDe 0.7.4 lacks. Masked loads and stores
 * touch the named lanes only, as the instructions do. Included by emulate.h. */
#ifndef PARE_TESTS_SUPPORT_EMULATE_VEC_H
#define PARE_TESTS_SUPPORT_EMULATE_VEC_H

static inline __m512i emulated_mm512_cvtps_epi32(__m512 v) {
    float from[16];
    __m256i half[2];
    int32_t to[16];
    _mm512_storeu_ps(from, v);
    for (int i = 0; i < 2; i++) half[i] = _mm256_cvtps_epi32(_mm256_loadu_ps(from + 8 * i));
    for (int i = 0; i < 2; i++) _mm256_storeu_si256((__m256i *)(to + 8 * i), half[i]);
    return _mm512_loadu_si512(to);
}
#define _mm512_cvtps_epi32 emulated_mm512_cvtps_epi32

static inline __m512 emulated_mm512_maskz_loadu_ps(__mmask16 mask, const float *p) {
    float x[16];
    for (int i = 0; i < 16; i++) x[i] = mask >> i & 1 ? p[i] : 0.0f;
    return _mm512_loadu_ps(x);
}
#define _mm512_maskz_loadu_ps emulated_mm512_maskz_loadu_ps

static inline void emulated_mm512_mask_storeu_ps(float *p, __mmask16 mask, __m512 v) {
    float x[16];
    _mm512_storeu_ps(x, v);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) p[i] = x[i];
}
#define _mm512_mask_storeu_ps emulated_mm512_mask_storeu_ps

static inline float emulated_mm512_reduce_add_ps(__m512 v) {
    float x[16];
    _mm512_storeu_ps(x, v);
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; i++) x[i] += x[i + step];
    return x[0];
}
#define _mm512_reduce_add_ps emulated_mm512_reduce_add_ps

static inline float emulated_mm512_reduce_max_ps(__m512 v) {
    float x[16];
    _mm512_storeu_ps(x, v);
    for (int i = 1; i < 16; i++)
        if (x[i] > x[0]) x[0] = x[i];
    return x[0];
}
#define _mm512_reduce_max_ps emulated_mm512_reduce_max_ps

/* Two vectors of 32 bytes as one. */
static inline __m512i emulated_join(__m256i low, __m256i high) {
    uint8_t all[64];
    _mm256_storeu_si256((__m256i *)all, low);
    _mm256_storeu_si256((__m256i *)(all + 32), high);
    return _mm512_loadu_si512(all);
}

static inline __m512i emulated_mm512_cvtepu8_epi32(__m128i v) {
    return emulated_join(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}
#define _mm512_cvtepu8_epi32 emulated_mm512_cvtepu8_epi32

static inline __m512i emulated_mm512_cvtepi8_epi32(__m128i v) {
    return emulated_join(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
}
#define _mm512_cvtepi8_epi32 emulated_mm512_cvtepi8_epi32

static inline __m512i emulated_mm512_cvtepu16_epi32(__m256i v) {
    return emulated_join(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)),
                         _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1)));
}
#define _mm512_cvtepu16_epi32 emulated_mm512_cvtepu16_epi32

static inline __m512 emulated_mm512_cvtph_ps(__m256i v) {
    float to[16];
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm256_castsi256_si128(v)));
    _mm256_storeu_ps(to + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)));
    return _mm512_loadu_ps(to);
}
#define _mm512_cvtph_ps emulated_mm512_cvtph_ps

static inline __m512 emulated_mm512_permutevar_ps(__m512 v, __m512i at) {
    float from[16], to[16];
    int32_t index[16];
    _mm512_storeu_ps(from, v);
    _mm512_storeu_si512(index, at);
    for (int i = 0; i < 16; i++) to[i] = from[i / 4 * 4 + (index[i] & 3)];
    return _mm512_loadu_ps(to);
}
#define _mm512_permutevar_ps emulated_mm512_permutevar_ps

static inline __m512i emulated_mm512_srai_epi32(__m512i v, unsigned n) {
    int32_t x[16];
    _mm512_storeu_si512(x, v);
    for (int i = 0; i < 16; i++) x[i] = x[i] >> n;
    return _mm512_loadu_si512(x);
}
#define _mm512_srai_epi32 emulated_mm512_srai_epi32

/* SIMDe's overflows where only 2^n does. */
static inline __m512 emulated_mm512_scalef_ps(__m512 v, __m512 w) {
    float x[16], n[16];
    _mm512_storeu_ps(x, v);
    _mm512_storeu_ps(n, w);
    for (int i = 0; i < 16; i++)
        x[i] = n[i] != n[i] ? n[i] : ldexpf(x[i], (int)fmaxf(-1000, fminf(1000, floorf(n[i]))));
    return _mm512_loadu_ps(x);
}
#undef _mm512_scalef_ps
#define _mm512_scalef_ps emulated_mm512_scalef_ps

/* Denormals become zeros, as with the instruction. */
static inline uint16_t emulated_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (uint16_t)(bits >> 16 | 0x40);
    if ((bits >> 23 & 0xFF) == 0) return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
static inline __m512bh emulated_mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
    float from[32];
    uint16_t to[32];
    __m512bh r;
    _mm512_storeu_ps(from, low);
    _mm512_storeu_ps(from + 16, high);
    for (int i = 0; i < 32; i++) to[i] = emulated_to_bf16(from[i]);
    memcpy(&r, to, sizeof r);
    return r;
}
#define _mm512_cvtne2ps_pbh emulated_mm512_cvtne2ps_pbh

#endif
