/* Activations in int8, as the dot kernels of the `fast` mode want them: quantized once per input,
 * used by every linear layer that shares it.
 *
 * Per 32 inputs: d = max|x| / 127, q = round-half-even(x / d). Per 256 inputs (super-block
 * encodings): one d for 8 such groups. `sum16` holds the sum of q over each 16 inputs (offsets of
 * asymmetric encodings). A row whose length is not a multiple of 32 is padded with zeros. */
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
    size_t n, cols; /* cols padded up to a multiple of 32 */
    int8_t *q;      /* [n][cols] */
    float *d;       /* [n][cols / 32] or [n][cols / 256] */
    int16_t *sum16; /* [n][cols / 16] */
    size_t d_stride, sum_stride;
} pare_act;

#endif
