/* Uniform grids of whole-number codes: w ~ scale * (code - zero), codes 0 .. 2^bits - 1. Several
 * incompatible ones are in use; a result depends on which, so each has its name.
 *
 *   full          symmetric, zero = 2^(bits-1), a signed scale that puts the value of largest
 *                 magnitude on code 0, so that all codes are used (AutoRound's int_sym)
 *   sym_absmax    symmetric, scale = max |w| / (2^(bits-1) - 1) (SmoothQuant)
 *   gptq_sym      symmetric, scale = 2 max |w| / (2^bits - 1): both extremes lie half a step off
 *   asym_minmax   from the smallest to the largest value; 0 may lie outside (llm-awq)
 *   gptq_asym     the same with 0 inside the range (GPTQ)
 *
 * Zero points of all of them are codes, so an exact zero can be stored but with asym_minmax where
 * all values have one sign. Scales are numbers of f16: what is stored is what was fitted. */
#ifndef PARE_SRC_TENSOR_GRID_H
#define PARE_SRC_TENSOR_GRID_H

#include "kernels/encode.h"

#include <math.h>

typedef enum pare_grid_kind {
    PARE_GRID_FULL = 0,
    PARE_GRID_SYM_ABSMAX,
    PARE_GRID_GPTQ_SYM,
    PARE_GRID_ASYM_MINMAX,
    PARE_GRID_GPTQ_ASYM
} pare_grid_kind;
#define PARE_GRID_CHOICES "full|sym_absmax|gptq_sym|asym_minmax|gptq_asym"

typedef enum pare_grid_search {
    PARE_GRID_PLAIN = 0, /* the scale as the kind says */
    /* The scale of least squared error, weighted by h. full: 201 scales around the plain one
     * (AutoRound's opt-RTN; 181 for 2 bits), the sign stays; others: the range times 1, 0.99 ..
     * 0.21 */
    PARE_GRID_LEAST_SQUARES,
    PARE_GRID_MSE /* the same scales, the least sum of |error|^2.4, h aside: GPTQ's `mse` */
} pare_grid_search;
#define PARE_GRID_SEARCH_CHOICES "none|least_squares|mse"

typedef struct pare_grid {
    pare_grid_kind kind;
    int bits; /* 2 to 8 */
    pare_grid_search search;
} pare_grid;

static inline bool pare_grid_symmetric(const pare_grid *g) { return g->kind <= PARE_GRID_GPTQ_SYM; }

/* Scale and zero point for the group w[n]; h[n]: weights of the squared error, >= 0, or NULL. All
 * zeros give scale 0. A scale may come out as 0 (too small for f16) or infinite (too large): the
 * caller sees and says so. w is finite. */
void pare_grid_fit(float *scale, uint8_t *zero, const pare_grid *g, const pare_encode_kernels *k,
                   const float *w, const float *h, size_t n);

/* The code nearest to w (half to even), 0 .. max; with scale 0 the zero point. */
static inline int pare_grid_code(float w, float scale, int zero, int max) {
    if (scale == 0.0f) return zero;
    float c = nearbyintf(w / scale) + (float)zero;
    if (!(c > 0.0f)) return 0;
    return c < (float)max ? (int)c : max;
}

static inline float pare_grid_value(int code, float scale, int zero) {
    return scale * (float)(code - zero);
}

#endif
