/* The codes of q8_0 and q4_0 rows as 16-bit integers: keys by transposing fours of codes of eight
 * rows, values by interleaving two rows. */
#include "kernels/kv_codec_levels.h"

#include "kernels/attention.h"
#include "kernels/blocks.h"
#include "kernels/intrinsics.h"
#include "kernels/unroll.h"

#define INLINE static inline __attribute__((always_inline))

enum { CHUNK = PARE_KV_CHUNK, ROWS = PARE_KV_ROWS, NR = PARE_ATTN_NR, TOGETHER = 8 };

/* Eight rows from number j on; those from n on are the last one. */
typedef struct row_group {
    const uint8_t *row[TOGETHER];
    size_t held; /* rows before n */
} row_group;

INLINE row_group rows_at(const void *rows, size_t row_stride, size_t n, size_t j) {
    row_group g = {.held = j < n ? n - j : 0};
    PARE_UNROLL
    for (size_t i = 0; i < TOGETHER; i++)
        g.row[i] = (const uint8_t *)rows + (j + i < n ? j + i : n - 1) * row_stride;
    return g;
}

/* The scales of blocks at offset `at` of the rows; 0 for those that are not there. */
INLINE void store_scales(float *scales, const row_group *g, size_t at) {
    uint16_t d[TOGETHER];
    PARE_UNROLL
    for (size_t i = 0; i < TOGETHER; i++) memcpy(&d[i], g->row[i] + at, sizeof *d);
    __m128i all = _mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], (short)d[4],
                                 (short)d[5], (short)d[6], (short)d[7]);
    if (g->held < TOGETHER) {
        const __m128i number = _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7);
        all = _mm_and_si128(all, _mm_cmpgt_epi16(_mm_set1_epi16((short)g->held), number));
    }
    _mm256_storeu_ps(scales, _mm256_cvtph_ps(all));
}

INLINE void store(int16_t *to, __m256i v) { _mm256_storeu_si256((__m256i *)(void *)to, v); }

INLINE __m128i load16(const uint8_t *p) { return _mm_loadu_si128((const void *)p); }

/* fours[i]: bytes 4 i .. 4 i + 3 of 16 at offset `at` of each of eight rows. */
INLINE void transpose(__m256i fours[4], const row_group *g, size_t at) {
    __m256i r[4], t[4];
    PARE_UNROLL
    for (int i = 0; i < 4; i++)
        r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(g->row[i] + at)),
                                       load16(g->row[i + 4] + at), 1);
    PARE_UNROLL
    for (int i = 0; i < 2; i++) {
        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    fours[0] = _mm256_unpacklo_epi64(t[0], t[2]);
    fours[1] = _mm256_unpackhi_epi64(t[0], t[2]);
    fours[2] = _mm256_unpacklo_epi64(t[1], t[3]);
    fours[3] = _mm256_unpackhi_epi64(t[1], t[3]);
}

/* Nibble `number` (from the lowest) of each 16 bits, its highest bit a sign. */
INLINE __m256i nibble(__m256i v, const int number) {
    return _mm256_srai_epi16(_mm256_slli_epi16(v, 12 - 4 * number), 12);
}

/* Code n with 8 added, as a nibble with a sign. */
INLINE __m256i signed_nibbles(__m256i v) { return _mm256_xor_si256(v, _mm256_set1_epi8(-0x78)); }

/* ---- keys: to[pair * 16 * 2], the 16 pairs of a block for eight rows ---- */

INLINE void q8_0_keys(int16_t *to, const row_group *g, size_t at) {
    PARE_UNROLL
    for (size_t half = 0; half < 2; half++) {
        __m256i fours[4];
        transpose(fours, g, at + offsetof(pare_q8_0, q) + 16 * half);
        PARE_UNROLL
        for (size_t i = 0; i < 4; i++, to += 4 * NR) {
            store(to, _mm256_srai_epi16(_mm256_slli_epi16(fours[i], 8), 8));
            store(to + 2 * NR, _mm256_srai_epi16(fours[i], 8));
        }
    }
}

INLINE void q4_0_keys(int16_t *to, const row_group *g, size_t at) {
    __m256i fours[4];
    transpose(fours, g, at + offsetof(pare_q4_0, qs));
    PARE_UNROLL
    for (size_t i = 0; i < 4; i++, to += 4 * NR) {
        __m256i v = signed_nibbles(fours[i]);
        store(to, nibble(v, 0));
        store(to + 2 * NR, nibble(v, 2));
        store(to + 16 * NR, nibble(v, 1)); /* values 16 and on */
        store(to + 18 * NR, nibble(v, 3));
    }
}

/* ---- values: two rows of a block as one pair; to[panel * ROWS * 16], two panels ---- */

INLINE void q8_0_values(int16_t *to, const uint8_t *first, const uint8_t *second) {
    first += offsetof(pare_q8_0, q);
    second += offsetof(pare_q8_0, q);
    PARE_UNROLL
    for (size_t half = 0; half < 2; half++, to += ROWS * NR) {
        __m128i a = load16(first + 16 * half), b = load16(second + 16 * half);
        store(to, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)));
        store(to + NR, _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b)));
    }
}

INLINE void q4_0_values(int16_t *to, const uint8_t *first, const uint8_t *second) {
    __m128i a = load16(first + offsetof(pare_q4_0, qs)),
            b = load16(second + offsetof(pare_q4_0, qs));
    PARE_UNROLL
    for (size_t half = 0; half < 2; half++, to += NR) {
        __m128i both = half ? _mm_unpackhi_epi8(a, b) : _mm_unpacklo_epi8(a, b);
        __m256i v = signed_nibbles(_mm256_cvtepi8_epi16(both));
        store(to, nibble(v, 0));
        store(to + ROWS * NR, nibble(v, 1));
    }
}

/* ---- for each codec ---- */

#define DEFINE(name)                                                                               \
    void pare_kv_key_codes_##name##_avx2(int16_t *codes, float *scales, const void *rows,          \
                                         size_t row_stride, size_t n, size_t head_dim) {           \
        for (size_t j = 0; j < NR; j += TOGETHER) {                                                \
            row_group g = rows_at(rows, row_stride, n, j);                                         \
            for (size_t b = 0; b < head_dim / CHUNK; b++) {                                        \
                size_t at = b * sizeof(pare_##name);                                               \
                name##_keys(codes + b * CHUNK * NR + 2 * j, &g, at);                               \
                store_scales(scales + b * NR + j, &g, at);                                         \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    void pare_kv_value_codes_##name##_avx2(int16_t *codes, float *scales, const void *rows,        \
                                           size_t row_stride, size_t n) {                          \
        static const size_t first[] = {0, 1, 4, 5}; /* each with the one after the next */         \
        for (size_t j = 0; j < n || j % NR; j += TOGETHER) {                                       \
            row_group g = rows_at(rows, row_stride, n, j);                                         \
            PARE_UNROLL                                                                            \
            for (size_t i = 0; i < 4; i++)                                                         \
                name##_values(codes + (j + 2 * i) * NR, g.row[first[i]], g.row[first[i] + 2]);     \
            store_scales(scales + j, &g, 0);                                                       \
        }                                                                                          \
    }

DEFINE(q8_0)
DEFINE(q4_0)
