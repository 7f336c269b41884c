#include "kernels/vec_avx512.h"

#define GEMM_ROWS 12
#include "kernels/attention_impl.h"
#include "kernels/attention_levels.h"

#include <string.h>

/* ---- integers: two products and their addition to 32 bits are one instruction ---- */

enum { INT_ROWS = 8 };

static inline __attribute__((always_inline)) void
integer_tile(float *y, size_t ldy, const int16_t *q, size_t ldq, const int16_t *codes,
             size_t n_pairs, const float *row, vf column, const int m) {
    vi sum[INT_ROWS];
    PARE_UNROLL
    for (int i = 0; i < m; i++) sum[i] = _mm512_setzero_si512();
    for (size_t t = 0; t < n_pairs; t++) {
        vi k = vi_load(codes + t * 32);
        PARE_UNROLL
        for (int i = 0; i < m; i++) {
            int32_t pair;
            memcpy(&pair, q + (size_t)i * ldq + 2 * t, sizeof pair);
            sum[i] = _mm512_dpwssd_epi32(sum[i], k, vi_set32(pair));
        }
    }
    PARE_UNROLL
    for (int i = 0; i < m; i++) {
        float *out = y + (size_t)i * ldy;
        vf d = vf_mul(vf_set(row[i]), column);
        vf_store(out, vf_fma(vf_number(sum[i]), d, vf_load(out)));
    }
}

static void integer_dots(float *y, size_t ldy, const int16_t *q, size_t ldq, size_t m,
                         const int16_t *codes, size_t n_pairs, const float *row,
                         const float *column) {
    vf c = vf_load(column);
    size_t i = 0;
    for (; i + 8 <= m; i += 8)
        integer_tile(y + i * ldy, ldy, q + i * ldq, ldq, codes, n_pairs, row + i, c, 8);
    for (; i + 4 <= m; i += 4)
        integer_tile(y + i * ldy, ldy, q + i * ldq, ldq, codes, n_pairs, row + i, c, 4);
    for (; i + 2 <= m; i += 2)
        integer_tile(y + i * ldy, ldy, q + i * ldq, ldq, codes, n_pairs, row + i, c, 2);
    if (i < m) integer_tile(y + i * ldy, ldy, q + i * ldq, ldq, codes, n_pairs, row + i, c, 1);
}

const pare_attn_kernels pare_attn_avx512 = {
    gemm,  pare_attn_pack_k_avx2,   pare_attn_pack_v_avx2, pare_attn_dots_avx2, softmax_step,
    scale, pare_attn_quantize_avx2, integer_dots};
