/* Single weights for AVX-512: 64 rows of x are four registers, each of which a weight is broadcast
 * to. A product is a load and a multiplication, one of each a cycle: two lists side by side keep
 * eight sums, as many as their latency wants. */
#include "kernels/intrinsics.h"
#include "kernels/tile_impl.h"

#include <string.h>

enum { NR = PARE_TILE_NR, T = PARE_TILE_PIECE, V = T / 16 };

TILE_INLINE void begin(__m512 a[V], const float *from) {
    TILE_UNROLL for (int v = 0; v < V; v++) a[v] =
        from ? _mm512_loadu_ps(from + 16 * v) : _mm512_setzero_ps();
}

TILE_INLINE void add(__m512 a[V], const float *value, const uint8_t *place, const float *xt) {
    const float *x = xt + (size_t)*place * NR;
    __m512 w = _mm512_set1_ps(*value);
    TILE_UNROLL for (int v = 0; v < V; v++) a[v] =
        _mm512_fmadd_ps(w, _mm512_load_ps(x + v * T * NR), a[v]);
}

TILE_INLINE void end(float *to, const float *plus, __m512 a[V]) {
    TILE_UNROLL for (int v = 0; v < V; v++) {
        if (plus) a[v] = _mm512_add_ps(a[v], _mm512_loadu_ps(plus + 16 * v));
        _mm512_storeu_ps(to + 16 * v, a[v]);
    }
}

/* One or two lists, the second behind the first. */
TILE_INLINE void lists(float *to, const float *from, const float *plus, const float *xt,
                       const float *value, const uint8_t *place, const uint8_t *count,
                       const int N) {
    const size_t n0 = count[0], n1 = N > 1 ? count[1] : 0, both = n0 < n1 ? n0 : n1;
    __m512 a[2][V];
    TILE_UNROLL for (int i = 0; i < N; i++) begin(a[i], from ? from + i * T : NULL);
    for (size_t j = 0; j < both; j++) {
        add(a[0], value + j, place + j, xt);
        add(a[1], value + n0 + j, place + n0 + j, xt);
    }
    for (size_t j = both; j < n0; j++) add(a[0], value + j, place + j, xt);
    for (size_t j = both; j < n1; j++) add(a[1], value + n0 + j, place + n0 + j, xt);
    TILE_UNROLL for (int i = 0; i < N; i++) end(to + i * T, plus ? plus + i * T : NULL, a[i]);
}

void pare_tile_weights_avx512(float *to, const float *from, const float *plus, const float *xt,
                              const float *value, const uint8_t *place, const uint8_t *count,
                              size_t n_lists) {
    for (; n_lists > 0; to += 2 * T, count += 2) {
        if (n_lists == 1) {
            lists(to, from, plus, xt, value, place, count, 1);
            return;
        }
        lists(to, from, plus, xt, value, place, count, 2);
        value += count[0] + count[1];
        place += count[0] + count[1];
        if (from) from += 2 * T;
        if (plus) plus += 2 * T;
        n_lists -= 2;
    }
}
