/* Intrinsics above AVX2 in plain C, so that kernels for AVX-512 and AMX are tested on any machine:
 * SIMDe under the native names, and here what it lacks. */
#ifndef PARE_TESTS_SUPPORT_EMULATE_H
#define PARE_TESTS_SUPPORT_EMULATE_H

#include <stdint.h>

/* Vectors of 64 bytes are passed in memory here, by functions that nothing else calls. */
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop
#include "support/emulate_amx.h"

/* What SIMDe 0.7.4 lacks. */

static inline __m512 emulated_mm512_cvtepi32_ps(__m512i v) {
    int32_t from[16];
    float to[16];
    _mm512_storeu_si512(from, v);
    for (int i = 0; i < 16; i++) to[i] = (float)from[i];
    return _mm512_loadu_ps(to);
}
#define _mm512_cvtepi32_ps emulated_mm512_cvtepi32_ps

static inline __m256i emulated_mm512_cvtepi32_epi16(__m512i v) {
    int32_t from[16];
    int16_t to[16];
    _mm512_storeu_si512(from, v);
    for (int i = 0; i < 16; i++) to[i] = (int16_t)from[i];
    return _mm256_loadu_si256((const __m256i *)to);
}
#define _mm512_cvtepi32_epi16 emulated_mm512_cvtepi32_epi16

#include "support/emulate_sparse.h"
#include "support/emulate_vec.h"

#endif
