/* Rows of activations on an integer grid, x ~ s c + shift:
 *
 *     c = clamp(round((x - shift) / s), low, high)
 *
 * with half to even. What the numbers of a grid are is tensor/act_quant.h's. A NaN stays NaN; an
 * infinity is clamped where low and high are finite. */
#ifndef PARE_SRC_KERNELS_ACT_GRID_H
#define PARE_SRC_KERNELS_ACT_GRID_H

#include "pare/base.h"

#include <stdint.h>

typedef struct pare_act_grid {
    float s;         /* > 0, or NaN: all is NaN */
    float low, high; /* of codes; infinite: no clamp */
    float shift;     /* what code 0 stands for */
} pare_act_grid;

typedef struct pare_act_range {
    float min, max; /* of nothing: +infinity, -infinity */
} pare_act_range;

struct pare_act; /* activation.h */

typedef struct pare_act_grid_kernels {
    /* Widens r by x[n]; a NaN among them makes both ends NaN, and they stay it. */
    void (*range)(pare_act_range *r, const float *x, size_t n);
    /* y[n] = s c + shift; y may be x */
    void (*apply)(float *y, const float *x, const pare_act_grid *g, size_t n);
    /* sum of (x - (s c + shift))^2 over x[n], in f64 */
    double (*error)(const float *x, const pare_act_grid *g, size_t n);
    /* q[n] = c + move, which fits; false: some x is NaN, and its q is any */
    bool (*codes)(int8_t *q, const float *x, const pare_act_grid *g, int move, size_t n);
    /* The sums of the first n codes of the first row, whose d is given; n is a multiple of 32. */
    void (*sums)(struct pare_act *a, float d, size_t n);
} pare_act_grid_kernels;

/* What moves the codes of a grid of at most 256 into -128 .. 127: 0 where they lie there. Value 0
 * has the code `move` then (of a grid without shift). */
static inline int pare_act_grid_move(const pare_act_grid *g) {
    if (!(g->low > -256.0f && g->high < 256.0f)) return 0; /* a grid of NaN */
    return g->low >= -128.0f && g->high <= 127.0f ? 0 : -128 - (int)g->low;
}

bool pare_act_codes_avx2(int8_t *q, const float *x, const pare_act_grid *g, int move, size_t n);
void pare_act_sums_avx2(struct pare_act *a, float d, size_t n);
extern const pare_act_grid_kernels pare_act_grid_ref, pare_act_grid_avx2, pare_act_grid_avx512;
const pare_act_grid_kernels *pare_act_grid_kernels_get(pare_isa isa);

#endif
