/* Many rows (prefill, perplexity, calibration): c[m][NR] (+)= a[m][k] * panel[k][NR], bound by
 * arithmetic.
 *
 * The driver (tensor/linear.c) unpacks a panel of PARE_TILE_NR weight rows x PARE_TILE_KC inputs in
 * the form that a kernel wants and runs all activation rows over it while it sits in L1. Forms:
 *
 *   f32   panel f32 [k][NR]                      exact; 16- and 32-bit weights where bf16 is slow
 *   bf16  panel bf16 [k/2][NR][2]                AMX: one product in `fast`, six of three parts of
 *                                                each number in `exact`; AVX512-BF16: `fast`, where
 *                                                weights are no codes, and backward
 *   u8    panel u8 [k/4][NR][4] + group scales   codes of up to `u8_max`, x in int8
 *   s16   panel s16 [k/2][NR][2] + group scales  wider codes where bytes would overflow, x in int8
 *
 * f32_inputs, bf16_pairs, f32_rows and bf16_rows multiply a part of the inputs or of the rows,
 * weights those of a row that are not 0: sparse training.
 *
 * Every form is [..][NR] units of 32 bits, so one transposition serves them all.
 *
 * Each element of c is summed over k in an order that depends on the kernel alone: not on m, not on
 * where its row lies in a block. */
#ifndef PARE_SRC_KERNELS_TILE_H
#define PARE_SRC_KERNELS_TILE_H

#include "kernels/activation.h"
#include "pare/base.h"

#define PARE_TILE_NR 16  /* outputs of a panel */
#define PARE_TILE_KC 256 /* inputs of a panel: every encoding's block length divides it */
#define PARE_TILE_AHEAD                                                                            \
    8                      /* rows of y that are fetched ahead: each may lie in a page of its own  \
                            */
#define PARE_TILE_PIECE 64 /* of single weights: inputs, and rows of x, that lie in L1 together */

/* m rows of int8 activations, one scale per 32 inputs; k a multiple of 32. Strides in elements. */
typedef struct pare_tile_act {
    const int8_t *q;    /* [m][q_stride], u8 form */
    const int16_t *q16; /* [m][q_stride], the same numbers, s16 form */
    const float *d;     /* [m][d_stride], per 32 */
    const float *sum;   /* [m][sum_stride], d * (sum of q over a group), per group of the panel */
    size_t q_stride, d_stride, sum_stride;
} pare_tile_act;

/* Codes of NR outputs: w = scale * code + offset, per group of 16 or 32 inputs. */
typedef struct pare_tile_panel {
    const void *q;       /* u8 or s16, 64-byte aligned */
    const float *scale;  /* [k / group][NR], 64-byte aligned */
    const float *offset; /* [k / group][NR]; s16 form: NULL for none */
    size_t k;            /* a multiple of 32, at most PARE_TILE_KC */
    uint32_t group;      /* 16 or 32 */
    int code_max;        /* no u8 code is larger: how many products fit 16 bits before widening */
} pare_tile_panel;

/* c[m][NR], 64-byte aligned; add = false overwrites it. Any m and any k. */
typedef void (*pare_tile_f32_fn)(float *c, const float *a, size_t lda, const float *panel, size_t m,
                                 size_t k, bool add);
/* c[i] (+)= sum over j < k of a[i][inputs[j]] * panel[j], in the order of j: with ascending inputs
 * the bits of f32 over all inputs where those left out have zeros in the panel (and finite a). */
typedef void (*pare_tile_f32_inputs_fn)(float *c, const float *a, size_t lda, const float *panel,
                                        const uint16_t *inputs, size_t m, size_t k, bool add);
/* f32 for m rows alone: c[rows[i]] from a[rows[i]], with the bits that f32 gives them. */
typedef void (*pare_tile_f32_rows_fn)(float *c, const float *a, size_t lda, const uint16_t *rows,
                                      const float *panel, size_t m, size_t k, bool add);
/* Of w[n] those that are not 0, in their order: value[], and place[] = first + index; returns their
 * number. first + n <= 256. Writes no more than n elements, rounded up to 8. */
typedef size_t (*pare_tile_pick_fn)(float *value, uint8_t *place, const float *w, size_t n,
                                    size_t first);
/* Rows of the matrix as such lists, one behind the other, count[l] <= PARE_TILE_PIECE long:
 * to[l][T] = plus[l] + (from[l] + sum of value * x[T][place], in the order of the list), T =
 * PARE_TILE_PIECE rows of x. from, plus: NULL for 0; they may be `to`. xt [T / NR][PIECE inputs]
 * [NR], 64-byte aligned. The bits of f32 over all inputs, with from and plus as its sums so far
 * within a block of inputs and before it. */
typedef void (*pare_tile_weights_fn)(float *to, const float *from, const float *plus,
                                     const float *xt, const float *value, const uint8_t *place,
                                     const uint8_t *count, size_t n_lists);
/* c[m][ldc]; k is a multiple of 32 (pad both sides with zeros); lda in elements. */
typedef void (*pare_tile_bf16_fn)(float *c, size_t ldc, const uint16_t *a, size_t lda,
                                  const uint16_t *panel, size_t m, size_t k, bool add);
/* Rows of x times panels that lie one behind the other, summed over runs of inputs (blocks of KC,
 * in `exact` the products of parts too) in their order. With y the sums go to their place, without
 * they stay in c. Numbers of bf16, whose sums are f32, y[m][n_panels * NR] (+)= sums + bias; or of
 * s8 with sums in s32, which must not overflow, y (+)= sums * d * scale + bias + moved * row_sums.
 */
typedef struct pare_tile_run {
    const void *a;      /* [m][lda] */
    const void *panels; /* each [k / 2][NR][2] of bf16, [k / 4][NR][4] of s8; panel_stride apart */
    size_t bytes;       /* of a row of a: a multiple of 64; where it is padded a panel has zeros */
} pare_tile_run;
typedef struct pare_tile_block {
    const pare_tile_run *runs;
    size_t n_runs;
    size_t laced; /* of bf16: so many runs, of as many inputs, go side by side, and what a run has
                     in common with the one before is read once; 0, 1: one after the other */
    size_t lda, panel_stride; /* both in bytes */
    size_t n_panels, m;
    void *c; /* [n_panels][c_stride], of each [m][NR], 64-byte aligned; NULL: y without more */
    size_t c_stride;
    bool more; /* the sums begin with c */
    float *y;  /* [m][ldy] or NULL */
    size_t ldy;
    const float *bias; /* [n_panels][NR], with y */
    bool add;          /* to y */
    /* of s8, with y: d of row i at i * d_stride; moved [m], or NULL = 0, row_sums [n_panels * NR]
     */
    const float *d, *moved;
    size_t d_stride;
    const float *scale; /* [n_panels][NR] */
    const float *row_sums;
} pare_tile_block;
typedef void (*pare_tile_block_fn)(const pare_tile_block *b);
/* f32_inputs and f32_rows in bf16, c[m][NR]: panel holds k pairs of inputs, of which number j is
 * 2 pairs[j] and 2 pairs[j] + 1. */
typedef void (*pare_tile_bf16_pairs_fn)(float *c, const uint16_t *a, size_t lda,
                                        const uint16_t *panel, const uint16_t *pairs, size_t m,
                                        size_t k, bool add);
typedef void (*pare_tile_bf16_rows_fn)(float *c, const uint16_t *a, size_t lda,
                                       const uint16_t *rows, const uint16_t *panel, size_t m,
                                       size_t k, bool add);
/* bf16 with the last of the inputs, and the sums to their place: y[m][NR] (+)= (c + a * panel)
 * + bias; c [m][NR] or NULL for 0, bias [NR] or NULL. */
typedef void (*pare_tile_bf16_place_fn)(float *y, size_t ldy, const float *c, const uint16_t *a,
                                        size_t lda, const uint16_t *panel, const float *bias,
                                        size_t m, size_t k, bool add);
/* c[NR][NR], 64-byte aligned, (+)= a^T b: products of all columns of two panels of k rows, which
 * may be one. Each element is one chain over k that goes on from c (reference: in f64). */
typedef void (*pare_tile_gram_fn)(float *c, const float *a, const float *b, size_t k, bool add);
/* The same of panels of pairs in bf16, [k / 2][NR][2]. */
typedef void (*pare_tile_gram_bf16_fn)(float *c, const uint32_t *a, const uint32_t *b, size_t k,
                                       bool add);
/* to[NR][ld] += c[NR][NR], 64-byte aligned. */
typedef void (*pare_tile_gather_fn)(double *to, size_t ld, const float *c);
/* sums[NR] += the squares of x[n][NR], in the order of rows. */
typedef void (*pare_tile_squares_fn)(double *sums, const float *x, size_t ldx, size_t n);
typedef void (*pare_tile_int_fn)(float *c, const pare_tile_act *a, const pare_tile_panel *panel,
                                 size_t m, bool add);

/* Sums to their place: y[m][n * NR] (+)= c + bias, of n panels side by side. Panel i is c + i *
 * c_panel, [m][NR], 64-byte aligned; bias [n][NR], aligned too. */
typedef void (*pare_tile_place_fn)(float *y, size_t ldy, const float *c, size_t c_panel, size_t m,
                                   size_t n, const float *bias, bool add);

typedef struct pare_tile_kernels {
    /* out[k][NR] = in[NR][ld], units of 32 bits. */
    void (*transpose)(uint32_t *out, const uint32_t *in, size_t ld, size_t k);
    pare_tile_place_fn place;
    pare_tile_f32_fn f32;
    pare_tile_f32_inputs_fn f32_inputs;
    pare_tile_f32_rows_fn f32_rows;
    pare_tile_pick_fn pick; /* this and the next: NULL where they have not been measured */
    pare_tile_weights_fn weights;
    pare_tile_gram_fn gram;
    pare_tile_gather_fn gather;
    pare_tile_squares_fn squares;
    pare_tile_int_fn u8, s16;           /* s16 NULL: u8 takes all codes */
    int u8_max;                         /* largest code of the u8 form; beyond it s16 */
    pare_tile_bf16_fn bf16;             /* NULL: the level has no bf16 products */
    pare_tile_block_fn bf16_block;      /* or NULL: bf16, panel by panel */
    pare_tile_block_fn s8_block;        /* or NULL: u8 */
    pare_tile_bf16_place_fn bf16_place; /* or NULL: bf16, then place */
    pare_tile_bf16_pairs_fn bf16_pairs; /* this and the next: or NULL, all or nothing */
    pare_tile_bf16_rows_fn bf16_rows;
    pare_tile_gram_bf16_fn gram_bf16; /* or NULL */
    bool bf16_first;                  /* they beat those of codes, and of f32 even in parts */
    /* parts[0..n_parts) [n] bf16, each the rest of x[n] rounded to nearest: three add up to x while
     * the last is not denormal. One alone may be 0 where x is denormal, as in the products. n a
     * multiple of 32. An input that is not finite gives parts that are not. NULL without bf16. */
    void (*split)(uint16_t *const *parts, int n_parts, const float *x, size_t n);
    /* panel [k/2][NR][2] bf16 = rows [k][ld], NR of each: f32 rounded as by split, or bf16. An odd
     * last row is paired with zeros. NULL without bf16. */
    void (*pair_f32)(uint32_t *panel, const float *rows, size_t ld, size_t k);
    void (*pair_bf16)(uint32_t *panel, const uint16_t *rows, size_t ld, size_t k);
    /* panel [k/2][NR][2] bf16 of w = scale * code + offset, in f32, rounded as by split: codes
     * [k/4][NR][4], scale and offset [k / group][NR], offset NULL = none; k a multiple of 4. NULL
     * without bf16. */
    void (*pair_codes)(uint32_t *panel, const uint32_t *codes, const float *scale,
                       const float *offset, uint32_t group, size_t k);
} pare_tile_kernels;

/* The table for a level, of AVX-512 with its bf16 products where this processor has them; static
 * storage. */
const pare_tile_kernels *pare_tile_kernels_get(pare_isa isa);

/* One per level, for pare_tile_kernels_get and the tests. */
extern const pare_tile_kernels pare_tile_ref, pare_tile_avx2, pare_tile_avx512,
    pare_tile_avx512_bf16, pare_tile_amx;

#endif
