/* Reading packed panels with AVX2: rows 8 h .. 8 h + 7 of a panel fill a vector. `p` is a constant
 * after inlining. */
#ifndef PARE_SRC_KERNELS_PACKED_AVX2_H
#define PARE_SRC_KERNELS_PACKED_AVX2_H

#include "kernels/dot_avx2.h"
#include "kernels/packed.h"

enum { NR = PARE_PACKED_NR };

/* ---- codes ---- */

/* Field j of a plane for rows 8 h .. 8 h + 7, moved up by `up` bits. */
INLINE __m256i field(const uint8_t *plane, const int bits, const int j, const int h, const int up) {
    const int fields = 8 / bits, shift = j % fields * bits - up;
    __m256i v = load_256(plane + (j / fields * NR + 8 * h) * 4);
    if (shift > 0) v = _mm256_srli_epi16(v, shift);
    if (shift < 0) v = _mm256_slli_epi16(v, -shift);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(((1 << bits) - 1) << up)));
}

INLINE bool is_signed(pare_packed p) { return p.bits == 8 || p.table != PARE_TABLE_NONE; }

/* Quad j of a block. */
INLINE __m256i quad(pare_packed p, const uint8_t *codes, const int j, const int h) {
    if (p.bits == 8) return load_256(codes + (j * NR + 8 * h) * 4);
    const int low = p.bits < 4 ? 2 : 4, high = p.bits - low;
    __m256i v = field(codes, low, j, h, 0);
    if (high) v = _mm256_or_si256(v, field(codes + 4 * NR * low, high, j, h, low));
    if (p.table == PARE_TABLE_NONE) return v;
    const int8_t *table = p.table == PARE_TABLE_IQ4 ? pare_iq4_values : pare_sparse_levels;
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(table)), v);
}

/* 2:4: where the values of stored quad j stand among 8 inputs, for a shuffle of those. */
INLINE __m256i places(pare_packed p, const uint8_t *codes, const int j, const int h) {
    __m256i v = field(codes + pare_packed_code_bytes(p), 2, j, h, 0);
    return _mm256_or_si256(v, _mm256_set1_epi32(0x04040000));
}

/* ---- scales ---- */

typedef struct scales {
    __m256 scale[2], offset[2];
} scales;

INLINE __m256 bytes_ps(const uint8_t *p, const bool is_signed) {
    __m128i v = _mm_loadl_epi64((const __m128i *)p);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(v) : _mm256_cvtepu8_epi32(v));
}

INLINE __m256 halves_ps(const uint8_t *p) { return _mm256_cvtph_ps(load_128(p)); }

/* Of group `sub` of a block. */
INLINE scales group_scales(pare_packed p, const uint8_t *head, const uint8_t *block,
                           const int sub) {
    scales v;
    const int subs = 32 / p.group, zero = p.zero;
    UNROLL for (int h = 0; h < 2; h++) {
        const uint8_t *s = block + sub * NR + 8 * h;
        switch (p.kind) {
        case PARE_PACKED_NONE:
            break;
        case PARE_PACKED_B:
            v.scale[h] = _mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(block + 16 * h)), 16));
            break;
        case PARE_PACKED_D:
        case PARE_PACKED_DM:
            v.scale[h] = halves_ps(block + 16 * h);
            break;
        case PARE_PACKED_K:
        case PARE_PACKED_KM:
            v.scale[h] =
                _mm256_mul_ps(halves_ps(head + 16 * h), bytes_ps(s, p.kind == PARE_PACKED_K));
            break;
        case PARE_PACKED_KM4: {
            __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)s));
            __m256i low = _mm256_and_si256(both, _mm256_set1_epi32(15));
            v.scale[h] = _mm256_mul_ps(halves_ps(head + 16 * h), _mm256_cvtepi32_ps(low));
            v.offset[h] = _mm256_cvtepi32_ps(_mm256_srli_epi32(both, 4));
            break;
        }
        }
        if (p.kind == PARE_PACKED_DM) v.offset[h] = halves_ps(block + 32 + 16 * h);
        if (p.kind == PARE_PACKED_KM) v.offset[h] = bytes_ps(s + subs * NR, false);
        if (p.kind == PARE_PACKED_KM ||
            p.kind == PARE_PACKED_KM4) /* what is added is minus the minimum */
            v.offset[h] = _mm256_xor_ps(_mm256_mul_ps(halves_ps(head + 32 + 16 * h), v.offset[h]),
                                        _mm256_set1_ps(-0.0f));
        if (zero) v.offset[h] = _mm256_mul_ps(v.scale[h], _mm256_set1_ps((float)-zero));
    }
    return v;
}

/* An offset, its own or that of `zero`. */
INLINE bool adds_offset(pare_packed p) { return p.zero || pare_packed_has_offset(p); }

#endif
