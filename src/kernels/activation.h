/* Activations in int8, as the kernels of the `fast` mode want them: quantized once per input, used
 * by every linear layer that shares it.
 *
 * Per group of 32 inputs: d = max|x| / 127 and q = round-half-even(x * (127 / max|x|)), so q lies
 * in [-127, 127]. `sum16` and `sum32` hold d * (sum of q) over each 16 and 32 inputs: what the
 * offsets of an encoding are multiplied with; `minus16` and `minus32` hold minus the sum of q
 * itself: what codes that are stored from 0 on begin with. A group below 2^-100 counts as zero (d =
 * 0, q = 0); a group that holds a NaN or an infinity gets d = NaN and q = 0, so that every product
 * with it is NaN. All instruction sets give the same bits. */
#ifndef PARE_SRC_KERNELS_ACTIVATION_H
#define PARE_SRC_KERNELS_ACTIVATION_H

#include "kernels/act_grid.h"

#include <stddef.h>
#include <stdint.h>

/* n rows of quantized activations; strides in elements of each array. */
typedef struct pare_act {
    size_t n, cols; /* cols padded up to a multiple of 32 */
    int8_t *q;      /* [n][q_stride] */
    float *d;       /* [n][d_stride]: cols / 32 used */
    float *sum16;   /* [n][sum_stride]: cols / 16 used */
    float *sum32;   /* [n][d_stride] */
    /* Laid out like the sums; both NULL where the kernels that follow do not ask for them. */
    int32_t *minus16, *minus32;
    /* Rows have room for cols rounded up to a multiple of 256, and are zero there. */
    size_t q_stride, d_stride, sum_stride;
    bool wide; /* q may be -128: kernels of codes of 8 bits want to know */
} pare_act;

/* Inputs that share one d. */
enum { PARE_ACT_GROUP = 32 };

/* Lays out the arrays of an activation of n rows of `cols` values in memory at `base` (64-byte
 * aligned) and returns the bytes it takes, a multiple of 64. With base NULL it only plans. n and
 * cols are those of a forward pass: their product is far from overflow. */
size_t pare_act_place(pare_act *a, void *base, size_t n, size_t cols);

/* Fills n rows of a with the codes of x[n][ldx] on grids without shift and of at most 256 codes,
 * moved by pare_act_grid_move: x ~ d (q - move). Row i is on grid[i * step]. A row with a NaN gets
 * d = NaN. */
void pare_act_quantize_grid(pare_act *a, const pare_act_grid_kernels *k, const pare_act_grid *grid,
                            size_t step, const float *x, size_t ldx, size_t n, size_t cols);

/* Of group g of a's first row, whose halves have these sums of q. */
static inline void pare_act_keep_sums(pare_act *a, size_t g, float d, int first, int second) {
    a->sum16[2 * g] = d * (float)first;
    a->sum16[2 * g + 1] = d * (float)second;
    a->sum32[g] = d * (float)(first + second);
    if (!a->minus32) return;
    a->minus16[2 * g] = -first;
    a->minus16[2 * g + 1] = -second;
    a->minus32[g] = -(first + second);
}

/* The rows from `row` on; n stays as it is. */
pare_act pare_act_row(const pare_act *a, size_t row);

#endif
