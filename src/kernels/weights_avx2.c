/* Single weights for AVX2 and FMA. Vectors run along 64 rows of x, so that no input is gathered: a
 * weight is broadcast and multiplies its input of all of them, which lie together in L1. Eight sums
 * in registers and 9 loads for 8 products: at best 8/9 of the rate of dense products, of the
 * weights that are left. */
#include "kernels/intrinsics.h"
#include "kernels/tile_impl.h"

#include <string.h>

enum { NR = PARE_TILE_NR, T = PARE_TILE_PIECE };

/* Byte k of entry m: the place of bit k of those that are set in m. */
#define BIT(m, b)                                                                                  \
    ((uint64_t)((m) >> (b)&1) * (b) << 8 * __builtin_popcount((m) & ((1u << (b)) - 1)))
#define PLACES(m)                                                                                  \
    BIT(m, 1) | BIT(m, 2) | BIT(m, 3) | BIT(m, 4) | BIT(m, 5) | BIT(m, 6) | BIT((m), 7)
#define PLACES_4(m) PLACES(m), PLACES((m) + 1), PLACES((m) + 2), PLACES((m) + 3)
#define PLACES_16(m) PLACES_4(m), PLACES_4((m) + 4), PLACES_4((m) + 8), PLACES_4((m) + 12)
#define PLACES_64(m) PLACES_16(m), PLACES_16((m) + 16), PLACES_16((m) + 32), PLACES_16((m) + 48)
static const uint64_t places[256] = {PLACES_64(0u), PLACES_64(64u), PLACES_64(128u),
                                     PLACES_64(192u)};

/* Eight weights. */
TILE_INLINE size_t pick_8(float *value, uint8_t *place, __m256 w, size_t first) {
    unsigned kept =
        (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(w, _mm256_setzero_ps(), _CMP_NEQ_UQ));
    uint64_t at = places[kept];
    __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)at));
    _mm256_storeu_ps(value, _mm256_permutevar8x32_ps(w, lanes));
    at += first * 0x0101010101010101u;
    memcpy(place, &at, sizeof at);
    return (size_t)__builtin_popcount(kept);
}

size_t pare_tile_pick_avx2(float *value, uint8_t *place, const float *w, size_t n, size_t first) {
    size_t count = 0, i = 0;
    for (; i + 8 <= n; i += 8)
        count += pick_8(value + count, place + count, _mm256_loadu_ps(w + i), first + i);
    if (i < n) {
        float tail[8] = {0};
        memcpy(tail, w + i, (n - i) * sizeof *tail);
        count += pick_8(value + count, place + count, _mm256_loadu_ps(tail), first + i);
    }
    return count;
}

void pare_tile_weights_avx2(float *to, const float *from, const float *plus, const float *xt,
                            const float *value, const uint8_t *place, const uint8_t *count,
                            size_t n_lists) {
    for (size_t l = 0; l < n_lists; l++) {
        __m256 a[T / 8];
        TILE_UNROLL for (int v = 0; v < T / 8; v++) a[v] =
            from ? _mm256_loadu_ps(from + l * T + 8 * v) : _mm256_setzero_ps();
        for (size_t j = 0; j < count[l]; j++) {
            const float *x = xt + (size_t)place[j] * NR;
            __m256 w = _mm256_broadcast_ss(value + j);
            TILE_UNROLL for (int v = 0; v < T / 8; v++) a[v] =
                _mm256_fmadd_ps(w, _mm256_load_ps(x + v / 2 * T * NR + v % 2 * 8), a[v]);
        }
        if (plus)
            TILE_UNROLL for (int v = 0; v < T / 8; v++) a[v] =
                _mm256_add_ps(a[v], _mm256_loadu_ps(plus + l * T + 8 * v));
        TILE_UNROLL for (int v = 0; v < T / 8; v++) _mm256_storeu_ps(to + l * T + 8 * v, a[v]);
        value += count[l];
        place += count[l];
    }
}
