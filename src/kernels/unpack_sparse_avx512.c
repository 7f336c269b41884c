/* Codes and weights of sparse rows with AVX-512 and VBMI2: every column, zeros where nothing is
 * stored. */
#include "kernels/sparse_avx512.h"
#include "kernels/unpack.h"

INLINE uint64_t first_bits(size_t n) { return n < 64 ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0; }

/* The mask of the next 64 columns of n: a row may end, or the call, within them. */
INLINE uint64_t mask_of(const uint8_t *mask, size_t n) {
    return n < 64 ? last_mask(mask, n, false) : load_u64(mask);
}

/* n columns from `col` on, where p stands. */
VBMI2 INLINE void codes(int8_t *q, float *scale, place p, size_t col, size_t n, format f) {
    for (size_t c = 0; c < n; c += 32) {
        uint16_t s;
        memcpy(&s, p.a.scales + (col + c) / (f.bits == 8 ? 32 : 64) * 2, 2);
        *scale++ = pare_bf16_to_f32(s);
    }
    for (size_t c = 0; c < n; c += 64) {
        uint64_t mask = mask_of(p.a.mask, n - c);
        _mm512_mask_storeu_epi8(q + c, first_bits(n - c),
                                spread_64(next_64(&p, f), p.at, mask, f, false));
        pass_64(&p, mask, f);
    }
}

#define CODES(name, kind, ...)                                                                     \
    VBMI2 void pare_codes_##name##_avx512(int8_t *q, float *scale, float *offset,                  \
                                          const pare_view *w, size_t row, size_t col, size_t n) {  \
        const format f = {__VA_ARGS__};                                                            \
        (void)offset;                                                                              \
        codes(q, scale, kind##_at(w, row, col, f.bits), col, n, f);                                \
    }
CODES(bitmap_q8, bitmap, .bits = 8, .bitmap = true)
CODES(bitmap_q4, bitmap, .bits = 4, .bitmap = true)
CODES(nm48_q8, nm, .bits = 8)
CODES(nm48_q4, nm, .bits = 4)

/* 16 columns, of which n exist. */
INLINE void store_16(float *y, __m256i w, size_t n) {
    __m512 v = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(w), 16));
    _mm512_mask_storeu_ps(y, (__mmask16)first_bits(n), v);
}

VBMI2 INLINE void decode_bf16(float *y, place p, size_t n) {
    const uint8_t *values = p.a.values + 2 * p.at, *mask = p.a.mask;
    for (size_t c = 0; c < n; c += 32, mask += 4) {
        uint32_t m = n - c < 32 ? (uint32_t)last_mask(mask, n - c, false) : load_u32(mask);
        __m512i w = spread_16(values, m);
        store_16(y + c, _mm512_castsi512_si256(w), n - c);
        if (n - c > 16) store_16(y + c + 16, _mm512_extracti64x4_epi64(w, 1), n - c - 16);
        values += 2 * (size_t)__builtin_popcount(m);
    }
}

VBMI2 void pare_decode_bitmap_bf16_avx512(float *y, const pare_view *w, size_t row, size_t col,
                                          size_t n) {
    decode_bf16(y, bitmap_at(w, row, col, 16), n);
}
VBMI2 void pare_decode_nm_bf16_avx512(float *y, const pare_view *w, size_t row, size_t col,
                                      size_t n) {
    decode_bf16(y, nm_at(w, row, col, 16), n);
}
