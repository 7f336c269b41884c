/* Activations in int8, as the dot kernels of the `fast` mode want them: quantized once per input,
 * used by every linear layer that shares it.
 *
 * Per group of 32 inputs (256 for super-block encodings): d = max|x| / 127 and
 * q = round-half-even(x * (127 / max|x|)), so q lies in [-127, 127]. `sum16` holds the sum of q
 * over each 16 inputs (offsets of asymmetric encodings). A group below 2^-100 counts as zero (d =
 * 0, q = 0); a group that holds a NaN or an infinity gets d = NaN and q = 0, so that every product
 * with it is NaN. All instruction sets give the same bits. */
#ifndef PARE_SRC_KERNELS_ACTIVATION_H
#define PARE_SRC_KERNELS_ACTIVATION_H

#include <stddef.h>
#include <stdint.h>

typedef enum pare_act_kind {
    PARE_ACT_Q8_32,  /* one d per 32 inputs */
    PARE_ACT_Q8_256, /* one d per 256 inputs; cols must be a multiple of 256 */
    PARE_ACT_KINDS
} pare_act_kind;

/* n rows of quantized activations; strides in elements of each array. */
typedef struct pare_act {
    size_t n, cols; /* cols padded up to a multiple of 32 (256) */
    int8_t *q;      /* [n][q_stride] */
    float *d;       /* [n][d_stride]: cols / 32 or cols / 256 used */
    int16_t *sum16; /* [n][sum_stride]: cols / 16 used */
    /* Rows have room for cols rounded up to a multiple of 256, and are zero there. */
    size_t q_stride, d_stride, sum_stride;
    /* Where in each row of q a second copy begins, with the blocks of 32 of every 256 in pairs as
     * vector kernels multiply them: for p = 0..3 the first 16 of block p and of block p + 4, then
     * the last 16 of both. 0 = there is none (the plain kernels do not need it). */
    size_t pairs_at;
} pare_act;

/* Inputs that share one d: 32 or 256. */
static inline size_t pare_act_group(pare_act_kind kind) {
    return kind == PARE_ACT_Q8_32 ? 32 : 256;
}

/* Lays out the arrays of an activation of n rows of `cols` values in memory at `base` (64-byte
 * aligned) and returns the bytes it takes, a multiple of 64. With base NULL it only plans. n and
 * cols are those of a forward pass: their product is far from overflow. */
size_t pare_act_place(pare_act *a, void *base, pare_act_kind kind, size_t n, size_t cols);

#endif
