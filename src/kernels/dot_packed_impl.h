/* Packed panels times int8 activations; the file that includes this defines before
 *
 *   MAX_M, LEVEL    rows of x at a time; the ending of the functions' names
 *   ASKS_AHEAD      whether cache lines are asked for before the processor does it by itself
 *   group_sums      s[M][HALVES] = sums of (code - zero) * q of quads [j0, j0 + n) for M rows of
 *                   x; wide: codes of 8 bits above -128, and q may be -128
 *   two_four_sums   the same for a whole block of 2:4
 *
 * Integers are exact, however a level has them add up. M rows of x at a time share the unpacking.
 * One group after the other is scaled and added, so a row's result depends neither on M nor on n,
 * and is the same at every level that is written on this. */
#include "kernels/packed_impl.h"

/* c[M][HALVES] = a panel times M rows of x from row i0 on. */
INLINE void panel_rows(vf c[][HALVES], pare_packed p, const uint8_t *panel, size_t blocks,
                       const pare_act *x, size_t i0, const bool wide, const int M) {
    const size_t lds = p.group == 16 ? x->sum_stride : x->d_stride;
    act_rows at = {.q = x->q + i0 * x->q_stride,
                   .minus = (p.group == 16 ? x->minus16 : x->minus32) + i0 * lds,
                   .ldq = x->q_stride,
                   .lds = lds};
    const float *d = x->d + i0 * x->d_stride;
    const float *sum = (p.group == 16 ? x->sum16 : x->sum32) + i0 * lds;
    const size_t ldd = x->d_stride;
    const int subs = 32 / p.group;
    const size_t block_bytes = pare_packed_block_bytes(p), head_bytes = pare_packed_head_bytes(p);
    const uint8_t *head = panel, *block = panel + head_bytes;
    UNROLL for (int i = 0; i < M; i++) UNROLL for (int h = 0; h < HALVES; h++) c[i][h] = vf_zero();
    for (size_t b = 0; b < blocks; b++, at.q += 32, d++, sum += subs) {
        if (head_bytes && b && b % 8 == 0) {
            head = block;
            block += head_bytes;
        }
        if (ASKS_AHEAD) prefetch(block, block_bytes);
        UNROLL for (int sub = 0; sub < subs; sub++) {
            vi s[MAX_M][HALVES];
            const uint8_t *codes = block + pare_packed_scale_bytes(p);
            if (p.two_four)
                two_four_sums(s, p, codes, at, M);
            else
                group_sums(s, p, wide, codes, at, sub * p.group / 4, p.group / 4, M);
            at.minus++;
            scales v = group_scales(p, head, block, sub);
            UNROLL for (int i = 0; i < M; i++) {
                vf dx = vf_set(d[(size_t)i * ldd]);
                UNROLL for (int h = 0; h < HALVES; h++) c[i][h] =
                    vf_fma(vf_number(s[i][h]), vf_mul(v.scale[h], dx), c[i][h]);
                if (!pare_packed_has_offset(p)) continue;
                vf sx = vf_set(sum[(size_t)i * lds + (size_t)sub]);
                UNROLL for (int h = 0; h < HALVES; h++) c[i][h] = vf_fma(v.offset[h], sx, c[i][h]);
            }
        }
        block += block_bytes;
    }
}

/* n of a panel's sums. */
INLINE void store(float *y, const vf c[HALVES], size_t n) {
    float all[NR], *to = n == NR ? y : all;
    UNROLL for (int h = 0; h < HALVES; h++) vf_store(to + VF * h, c[h]);
    if (n < NR) memcpy(y, all, n * sizeof *y);
}

/* Runs ROWS(M) for rows i .. i + M - 1 of x, until all n are done. */
#define ALL_ROWS(ROWS, n)                                                                          \
    do {                                                                                           \
        for (; i + MAX_M <= (n); i += MAX_M) ROWS(MAX_M);                                          \
        for (; MAX_M > 4 && i + 4 <= (n); i += 4) ROWS(4);                                         \
        if ((n)-i == 3) ROWS(3);                                                                   \
        if ((n)-i == 2) ROWS(2);                                                                   \
        if ((n)-i == 1) ROWS(1);                                                                   \
    } while (0)

#define PACKED_ROWS(M)                                                                             \
    do {                                                                                           \
        vf c[MAX_M][HALVES];                                                                       \
        panel_rows(c, p, panel, blocks, x, i, wide, M);                                            \
        UNROLL for (int k = 0; k < (M); k++) store(y + (i + (size_t)k) * ldy + r, c[k], n);        \
    } while (0)

INLINE void dot_packed(float *y, size_t ldy, const pare_view *w, size_t row_begin, size_t row_end,
                       const pare_act *x, pare_packed p, const bool wide) {
    const size_t blocks = w->cols / 32, panel_bytes = pare_packed_panel_bytes(p, w->cols);
    for (size_t r = row_begin; r < row_end; r += NR) {
        const uint8_t *panel = (const uint8_t *)w->part[0] + r / NR * panel_bytes;
        size_t n = row_end - r < NR ? row_end - r : NR, i = 0;
        ALL_ROWS(PACKED_ROWS, x->n);
    }
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define X(name, ...)                                                                               \
    void JOIN(pare_dot_##name##_, LEVEL)(float *y, size_t ldy, const pare_view *w,                 \
                                         size_t row_begin, size_t row_end, const pare_act *x) {    \
        const pare_packed p = {__VA_ARGS__};                                                       \
        if (p.bits == 8 && !p.two_four && x->wide)                                                 \
            dot_packed(y, ldy, w, row_begin, row_end, x, p, true);                                 \
        else                                                                                       \
            dot_packed(y, ldy, w, row_begin, row_end, x, p, false);                                \
    }
PARE_PACKED_LIST(X)
#undef X

/* ---- 2:4 in bf16 ---- */

/* c[M][HALVES] = a panel times M rows of x; a block is summed before it is added. */
INLINE void panel24_rows(vf c[][HALVES], const uint8_t *panel, size_t blocks, const float *x,
                         size_t ldx, const int M) {
    const size_t block_bytes = pare_packed_block_bytes(pare_packed_nm24_bf16);
    const vi upper = vi_set32((int32_t)0xffff0000);
    UNROLL for (int i = 0; i < M; i++) UNROLL for (int h = 0; h < HALVES; h++) c[i][h] = vf_zero();
    for (size_t b = 0; b < blocks; b++, panel += block_bytes, x += 32) {
        if (ASKS_AHEAD) prefetch(panel, block_bytes);
        UNROLL for (int h = 0; h < HALVES; h++) {
            vi at = vi_load(panel + 512 + 4 * VF * h);
            vf sum[MAX_M];
            UNROLL for (int g = 0; g < 8; g++) {
                vi v = vi_load(panel + (g * NR + VF * h) * 4);
                vf w0 = vf_bits(vi_sll32(v, 16)), w1 = vf_bits(vi_and(v, upper));
                vi at0 = vi_srl32(at, 4 * g), at1 = vi_srl32(at, 4 * g + 2);
                UNROLL for (int i = 0; i < M; i++) {
                    vf four = vf_load_4(x + (size_t)i * ldx + 4 * g), x0 = vf_shuffle_4(four, at0);
                    sum[i] = g ? vf_fma(w0, x0, sum[i]) : vf_mul(w0, x0);
                    sum[i] = vf_fma(w1, vf_shuffle_4(four, at1), sum[i]);
                }
            }
            UNROLL for (int i = 0; i < M; i++) c[i][h] = vf_add(c[i][h], sum[i]);
        }
    }
}

#define ROWS_24(M)                                                                                 \
    do {                                                                                           \
        vf c[MAX_M][HALVES];                                                                       \
        panel24_rows(c, panel, w->cols / 32, x + i * ldx, ldx, M);                                 \
        UNROLL for (int k = 0; k < (M); k++) store(y + (i + (size_t)k) * ldy + r, c[k], rows);     \
    } while (0)

void JOIN(pare_dotf_nm24_bf16_, LEVEL)(float *y, size_t ldy, const pare_view *w, size_t row_begin,
                                       size_t row_end, const float *x, size_t ldx, size_t n) {
    const size_t panel_bytes = pare_packed_panel_bytes(pare_packed_nm24_bf16, w->cols);
    for (size_t r = row_begin; r < row_end; r += NR) {
        const uint8_t *panel = (const uint8_t *)w->part[0] + r / NR * panel_bytes;
        size_t rows = row_end - r < NR ? row_end - r : NR, i = 0;
        ALL_ROWS(ROWS_24, n);
    }
}
