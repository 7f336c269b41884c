/* Inside of linear_forward: one call's arguments, and the two paths behind it. */
#ifndef PARE_SRC_TENSOR_LINEAR_JOB_H
#define PARE_SRC_TENSOR_LINEAR_JOB_H

#include "kernels/tile.h"
#include "kernels/unpack.h"
#include "tensor/linear.h"
#include "tensor/live.h"

/* Read-only and the same on every thread. */
typedef struct pare_linear_job {
    const pare_dot_kernels *dots;
    const pare_tile_kernels *tiles;
    const pare_unpack_kernels *unpack;
    const pare_act_grid_kernels *act;
    pare_compute compute;
    void *scratch;
    const float *x; /* [n][ldx]; x_transposed: [in][ldx], paths of many rows only */
    size_t ldx, n, in;
    bool x_transposed;
    pare_linear_grids grids; /* grid NULL: none */
    const pare_linear_out *outs;
    size_t n_outs;
    bool by_weight; /* masked matrices as lists of their single weights */
    /* backward products of a masked matrix: its panels; the row of it that is the first input (of
     * dx) or output row (of dw) */
    const pare_live *live;
    size_t live_row0;
} pare_linear_job;

/* pare_encoding.codes and decode by the level's kernels. n <= PARE_TILE_KC in codes. */
void pare_linear_codes(const pare_linear_job *job, int8_t *q, float *scale, float *offset,
                       const pare_tensor *t, size_t row, size_t col, size_t n);
void pare_linear_decode(const pare_linear_job *job, float *w, const pare_tensor *t, size_t row,
                        size_t col, size_t n);

/* Row `row` of x as moved codes lacks so many of w's row sums; 0 where nothing was moved. */
static inline float pare_linear_moved(const pare_linear_job *job, size_t row) {
    if (!job->grids.grid) return 0.0f;
    const pare_act_grid *g = job->grids.grid + row * job->grids.step;
    int move = pare_act_grid_move(g);
    return move ? -g->s * (float)move : 0.0f;
}

/* Every matrix has a kernel for the mode and this n. */
void pare_linear_few(pare_worker *w, const pare_linear_job *job);
size_t pare_linear_few_bytes(size_t n, size_t in, int n_threads);

/* Any n. */
void pare_linear_many(pare_worker *w, const pare_linear_job *job);
size_t pare_linear_many_bytes(size_t n, size_t in, int n_threads, pare_compute compute);
/* Does that path multiply codes of x? */
bool pare_linear_takes_codes(const pare_linear_job *job, const pare_linear_out *out);

#endif
