/* The one entry point of every linear layer: y[n][out] = x[n][in] W^T (+ bias), any encoding, any
 * n, both modes.
 *
 *   n <= PARE_DOT_MAX_N     few rows: the encoding's dot kernel
 *   otherwise               many rows: panels of PARE_TILE_NR weight rows, unpacked once per call
 *
 * Called by every thread of a team with the same arguments; ends with a barrier. Results do not
 * depend on the number of threads: work is cut by output rows. */
#ifndef PARE_SRC_TENSOR_LINEAR_H
#define PARE_SRC_TENSOR_LINEAR_H

#include "base/team.h"
#include "tensor/encoding.h"

/* One of the matrices that share an input. */
typedef struct pare_linear_out {
    const pare_tensor *w; /* [out][in] */
    const float *bias;    /* [out] or NULL */
    float *y;             /* [n][ldy] */
    size_t ldy;
} pare_linear_out;

/* Bytes of scratch that linear_forward needs for up to n rows of `in_max` inputs on n_threads
 * threads. */
size_t pare_linear_scratch_bytes(size_t n, size_t in_max, int n_threads, pare_compute compute);

/* x [n][ldx] f32; outs: n_outs matrices with the same `in` (q, k, v or gate, up: the input is
 * quantized once). scratch: shared by all threads, 64-byte aligned, pare_linear_scratch_bytes. */
void pare_linear_forward(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                         const float *x, size_t ldx, size_t n, const pare_linear_out *outs,
                         size_t n_outs);

#endif
