/* The one entry point of every linear layer: y[n][out] = x[n][in] W^T (+ bias), any encoding, any
 * n, both modes.
 *
 * As they are: packed codes in `fast` for any n, other forms with a dot kernel for few rows:
 * weights are read once. Else in panels of PARE_TILE_NR weight rows, unpacked once per 512 rows of
 * x.
 *
 * `exact` sums products of f32; `fast` has x in int8 (8 bits per 32 inputs, or per 256) wherever
 * the encoding holds integer codes, and bf16 on AMX. Few and many rows differ in the order of their
 * sums (and `fast` in its steps); within a path a row's result does not depend on the other rows.
 *
 * A matrix that knows where it has weights (pare_tensor.live) is multiplied there alone, in f32 and
 * on the path of many rows; results have the same bits.
 *
 * Called by every thread of a team with the same arguments; ends with a barrier. Results do not
 * depend on the number of threads: work is cut by output rows. */
#ifndef PARE_SRC_TENSOR_LINEAR_H
#define PARE_SRC_TENSOR_LINEAR_H

#include "base/team.h"
#include "tensor/encoding.h"

enum { PARE_LINEAR_MAX_OUTS = 8 };

/* One of the matrices that share an input. */
typedef struct pare_linear_out {
    const pare_tensor *w; /* [out][in] */
    const float *bias;    /* [out] or NULL */
    float *y;             /* [n][ldy] */
    size_t ldy;
    size_t row0, rows; /* only rows [row0, row0 + rows) of w, y beginning with row0 (of packed forms
                          a multiple of 16); 0: all */
    bool many;         /* take the path of many rows for any n: a row's bits do not depend on n */
    bool transposed;   /* y = x w instead: `in` are w's rows (many rows only) */
    bool accumulate;   /* y += (many rows only) */
    const float *row_sums; /* [out] sums of w's rows, or NULL: see pare_linear_grids */
} pare_linear_out;

/* Grids that x is rounded to before it is multiplied (tensor/act_quant.h), without shift and of at
 * most 256 codes: products of integers with these codes in place of those that `fast` chooses by
 * itself. Where pare_act_grid_move is not 0, each matrix has row_sums. Only for matrices that
 * pare_linear_takes_grids says yes to. */
typedef struct pare_linear_grids {
    const pare_act_grid *grid;
    size_t step; /* 0: one grid for all rows; 1: one a row */
    bool wide;   /* codes may be -128; a matrix with codes of 8 bits has none then that is */
} pare_linear_grids;

/* Can x of n rows be multiplied with the matrix as codes of a grid? wide: as in the grids. */
bool pare_linear_takes_grids(pare_isa isa, const pare_linear_out *out, size_t n, bool wide);

/* Bytes of scratch that linear_forward needs for up to n rows of `in_max` inputs on n_threads
 * threads. */
size_t pare_linear_scratch_bytes(size_t n, size_t in_max, int n_threads, pare_compute compute);

/* x [n][ldx] f32; outs: n_outs <= PARE_LINEAR_MAX_OUTS matrices with the same `in` (q, k, v or
 * gate, up: the input is quantized once). grids: NULL, or with compute `fast`. scratch: shared by
 * all threads, 64-byte aligned, pare_linear_scratch_bytes. */
void pare_linear_forward(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                         const float *x, size_t ldx, size_t n, const pare_linear_grids *grids,
                         const pare_linear_out *outs, size_t n_outs);

/* The two products of a backward pass, for one of the matrices that share an input. The path of
 * many rows for any n: `exact` in f32, `fast` in bf16 where the level has such products, else f32.
 * Each output is one sum in the order of outputs, or of rows of x.
 *
 * dx[n][lddx] += dy[n][lddy] w for every matrix in turn; w's that hold codes are decoded. */
typedef struct pare_linear_grad {
    const pare_tensor *w; /* [out][in] */
    const float *dy;      /* [n][lddy] */
    size_t lddy;
    size_t row0, rows; /* only rows [row0, row0 + rows) of w (f32, f16, bf16), dy beginning with
                          row0; 0: all */
} pare_linear_grad;
void pare_linear_backward_input(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                                float *dx, size_t lddx, size_t n, const pare_linear_grad *grads,
                                size_t n_grads);

/* dw[out][in] = dy^T x, or += with add. x: [n][in], any encoding (f32 and bf16 are fast). live: of
 * the masked matrix whose rows [row0, row0 + out) these are, or NULL; where it has no weights whole
 * panels of dw may get (or be added) 0 instead. */
void pare_linear_backward_weight(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                                 float *dw, const float *dy, size_t lddy, size_t out,
                                 const pare_tensor *x, bool add, const struct pare_live *live,
                                 size_t row0);

/* Bytes of scratch for both: n rows of x, matrices of at most out_max x in_max. */
size_t pare_linear_backward_scratch_bytes(size_t n, size_t out_max, int n_threads,
                                          pare_compute compute);

/* Up to so many rows together each get the bits that they get alone, exact and fast. */
size_t pare_linear_alike_rows(const pare_encoding *enc);

#endif
