/* AVX2: 12 chains of FMA hide its latency of 4 or 5 cycles at two a cycle. int8 products go by
 * maddubs, madd, add: three instructions for 32 products. With codes of 4 bits sums of eight fit 16
 * bits (8 * 2 * 127 * 15 < 2^15), so that widening them is rare. */
#include "eval/peak_read.h"

#include <immintrin.h>

enum { CHAINS = 12, SUMS_16 = 8 };
/* the compiler may neither hoist nor merge what uses x */
#define OPAQUE(x) __asm__ volatile("" : "+x"(x))

static float run_f32(size_t rounds) {
    __m256 sum[CHAINS], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_setzero_ps();
    for (size_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
    }
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    return _mm256_cvtss_f32(sum[0]);
}

static float run_int8(size_t rounds) {
    __m256i sum[CHAINS], a = _mm256_set1_epi8(1), b = a, ones = _mm256_set1_epi16(1);
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_setzero_si256();
    for (size_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            OPAQUE(a);
            __m256i p = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
            sum[i] = _mm256_add_epi32(sum[i], p);
        }
    }
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm256_xor_si256(sum[0], sum[i]);
    return (float)_mm256_extract_epi32(sum[0], 0);
}

static float run_int4(size_t rounds) {
    __m256i sum[CHAINS], a = _mm256_set1_epi8(1), b = a, ones = _mm256_set1_epi16(1);
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_setzero_si256();
    for (size_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            __m256i sum16 = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int k = 0; k < SUMS_16; k++) {
                OPAQUE(a);
                sum16 = _mm256_add_epi16(sum16, _mm256_maddubs_epi16(a, b));
            }
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(sum16, ones));
        }
    }
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm256_xor_si256(sum[0], sum[i]);
    return (float)_mm256_extract_epi32(sum[0], 0);
}

static float read_lines(const uint8_t *data, size_t n) { return pare_peak_read(data, n); }

void pare_peak_loops_avx2(pare_peak_loops *loops) {
    loops->read = read_lines;
    loops->f32 = loops->bf16 = (pare_peak_loop){run_f32, 2.0 * 8 * CHAINS};
    loops->int8 = (pare_peak_loop){run_int8, 2.0 * 32 * CHAINS};
    loops->int4 = (pare_peak_loop){run_int4, 2.0 * 32 * CHAINS * SUMS_16};
}
