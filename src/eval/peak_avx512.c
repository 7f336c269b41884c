/* AVX-512: FMA on 16 floats, VNNI's dpbusd on 64 bytes, dpbf16ps on 32 pairs of bf16 where the
 * processor has it. */
#include "eval/peak.h"

#include <immintrin.h>
#include <string.h>

enum { CHAINS = 16 };
#define OPAQUE(x) __asm__ volatile("" : "+v"(x))

static float run_f32(size_t rounds) {
    __m512 sum[CHAINS], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_setzero_ps();
    for (size_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
    }
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}

static float run_int8(size_t rounds) {
    __m512i sum[CHAINS], a = _mm512_set1_epi8(1), b = a;
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_setzero_si512();
    for (size_t r = 0; r < rounds; r++) {
        OPAQUE(a);
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
    }
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
    return (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(sum[0]));
}

__attribute__((target("avx512bf16"))) static float run_bf16(size_t rounds) {
    __m512 sum[CHAINS];
    __m512i half = _mm512_set1_epi16(0x3F00); /* 0.5 */
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_setzero_ps();
    for (size_t r = 0; r < rounds; r++) {
        OPAQUE(half);
        __m512bh a, b;
        memcpy(&a, &half, sizeof a);
        b = a;
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
    }
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}

void pare_peak_loops_avx512_bf16(pare_peak_loops *loops) {
    loops->bf16 = (pare_peak_loop){run_bf16, 2.0 * 32 * CHAINS};
}

void pare_peak_loops_avx512(pare_peak_loops *loops) {
    loops->f32 = loops->bf16 = (pare_peak_loop){run_f32, 2.0 * 16 * CHAINS};
    loops->int8 = loops->int4 = (pare_peak_loop){run_int8, 2.0 * 64 * CHAINS};
}
