/* The AVX-512 intrinsics of sparse rows that SIMDe 0.7.4 lacks: expansions of bytes and words.
 * Included by emulate.h. */
#ifndef PARE_TESTS_SUPPORT_EMULATE_SPARSE_H
#define PARE_TESTS_SUPPORT_EMULATE_SPARSE_H

#define PARE_EMULATED_EXPAND(bits, mask_type)                                                      \
    static inline __m512i emulated_mm512_mask_expand_epi##bits(__m512i rest, mask_type mask,       \
                                                               __m512i v) {                        \
        uint##bits##_t from[512 / bits], to[512 / bits];                                           \
        _mm512_storeu_si512(from, v);                                                              \
        _mm512_storeu_si512(to, rest);                                                             \
        for (int i = 0, next = 0; i < 512 / bits; i++)                                             \
            if (mask >> i & 1) to[i] = from[next++];                                               \
        return _mm512_loadu_si512(to);                                                             \
    }
PARE_EMULATED_EXPAND(8, __mmask64)
PARE_EMULATED_EXPAND(16, __mmask32)
#define _mm512_mask_expand_epi8 emulated_mm512_mask_expand_epi8
#define _mm512_mask_expand_epi16 emulated_mm512_mask_expand_epi16

static inline void emulated_mm512_mask_storeu_epi8(void *p, __mmask64 mask, __m512i v) {
    uint8_t from[64];
    _mm512_storeu_si512(from, v);
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1) ((uint8_t *)p)[i] = from[i];
}
#define _mm512_mask_storeu_epi8 emulated_mm512_mask_storeu_epi8

#endif
