/* Learned rounding of the weights of one group (SignRound, arXiv:2309.05516): q = clamp(round(w / s
 * + v), low, high), w' = s q. Half rounds to even. A weight that is kept at zero has q = 0 and no
 * gradient. */
#ifndef PARE_SRC_KERNELS_ROUND_LEARN_H
#define PARE_SRC_KERNELS_ROUND_LEARN_H

#include "pare/base.h"

typedef struct pare_round_group {
    float s, low, high; /* s not 0 */
    bool keep_zeros;    /* w = 0 stays */
} pare_round_group;

typedef struct pare_round_kernels {
    /* y[n] = w' */
    void (*apply)(float *y, const float *w, const float *v, const pare_round_group *g, size_t n);
    /* From the gradient d[n] of the loss with respect to w': v -= lr sign(d s M), M = 1 where the
     * clamp left q alone. *ds = sum d (q - M w / s), *dz = sum d s (M - 1): of the scale, and of
     * the zero point that low and high follow. */
    void (*step)(float *v, float *ds, float *dz, const float *d, const float *w,
                 const pare_round_group *g, float lr, size_t n);
} pare_round_kernels;

extern const pare_round_kernels pare_round_ref, pare_round_avx2, pare_round_avx512;
const pare_round_kernels *pare_round_kernels_get(pare_isa isa);

#endif
