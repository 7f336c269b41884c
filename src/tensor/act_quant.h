/* Quantization of activations: which scale and zero point a tensor of them gets, and how far off
 * its values then are.
 *
 *     pare_act_scheme a = {.granularity = PARE_ACT_PER_TENSOR_DYNAMIC, .bits = 8};
 *     double lq = pare_act_error(&a, NULL, isa, x, ldx, n, in);
 *
 * Formulas, for values from min to max in N bits:
 *
 *   default    symmetric: s = max |x| / (2^(N-1) - 1), codes -2^(N-1) .. 2^(N-1) - 1;
 *              asymmetric: s = (max - min) / (2^N - 1), codes 0 .. 2^N - 1, whole zero point
 *              z = round(-min / s). min counts as at most 0 and max as at least 0, else z could
 *              not stand for them.
 *
 *   paper_eq4  CushionCache's eq. 3 and 4, arXiv:2406.12016, as printed:
 *              s = (max - min) / (2^(N-1) - 1), code 0 stands for min (symmetric: for 0), and
 *              nothing is clamped.
 *
 *   full       as compressed-tensors has it: asymmetric as the default; symmetric
 *              s = max |x| / ((2^N - 1) / 2) with the default's codes.
 *
 * Ranges below 1e-5 count as that. A range that is not finite gives NaN. */
#ifndef PARE_SRC_TENSOR_ACT_QUANT_H
#define PARE_SRC_TENSOR_ACT_QUANT_H

#include "kernels/act_grid.h"

typedef enum pare_act_granularity {
    PARE_ACT_PER_TENSOR_STATIC = 0, /* one grid from calibration */
    PARE_ACT_PER_TENSOR_DYNAMIC,    /* from all rows of the pass */
    PARE_ACT_PER_TOKEN              /* a grid for each row */
} pare_act_granularity;
#define PARE_ACT_GRANULARITY_CHOICES "per_tensor_static|per_tensor_dynamic|per_token"

typedef enum pare_act_formula {
    PARE_ACT_DEFAULT = 0,
    PARE_ACT_PAPER_EQ4,
    PARE_ACT_FULL
} pare_act_formula;
#define PARE_ACT_FORMULA_CHOICES "default|paper_eq4|full"

/* These words, by number; NULL behind the last. */
extern const char *const pare_act_granularities[], *const pare_act_formulas[];

typedef struct pare_act_scheme {
    pare_act_granularity granularity;
    pare_act_formula formula;
    int bits; /* 2 to 8 */
    bool symmetric;
    bool bmm; /* the products of attention too: what q, k and v are made as */
} pare_act_scheme;

/* Do both give the same inputs the same grids (bmm aside)? */
static inline bool pare_act_same_scheme(const pare_act_scheme *a, const pare_act_scheme *b) {
    return a->granularity == b->granularity && a->formula == b->formula && a->bits == b->bits &&
           a->symmetric == b->symmetric;
}

static const pare_act_range pare_act_range_none = {__builtin_inff(), -__builtin_inff()};

/* The smallest range that holds both. */
pare_act_range pare_act_range_join(pare_act_range a, pare_act_range b);

/* The narrowest range that a grid is made for. */
#define PARE_ACT_LEAST_RANGE 1e-5f

/* Does it say how large values get? That of nothing does not, nor that of values which are 0 or
 * next to it. */
static inline bool pare_act_range_tells(pare_act_range r) {
    return !(r.min > r.max) && !(r.min >= -PARE_ACT_LEAST_RANGE && r.max <= PARE_ACT_LEAST_RANGE);
}

/* The range of the rows x[n][ldx], `in` values each. */
pare_act_range pare_act_range_of(pare_isa isa, const float *x, size_t ldx, size_t n, size_t in);

pare_act_grid pare_act_grid_of(const pare_act_scheme *a, pare_act_range range);

/* How many of x[n][ldx]'s values lie where the grid's codes end: their codes are clamped. A NaN is
 * none. */
uint64_t pare_act_clamped(const pare_act_grid *grid, const float *x, size_t ldx, size_t n,
                          size_t in);

/* y[n][ldy] = the values of x[n][ldx] on one grid, or (grid NULL) each row's on its own. y may be
 * x. */
void pare_act_quantize_rows(const pare_act_scheme *a, const pare_act_grid *grid, pare_isa isa,
                            float *y, size_t ldy, const float *x, size_t ldx, size_t n, size_t in);

/* L_q of one tensor: the sum of (x - q(x))^2 over the rows x[n][ldx], in f64, rows in order. One
 * grid from `range`, or (NULL) as a->granularity has it: per token each row's own, else that of all
 * rows. */
double pare_act_error(const pare_act_scheme *a, const pare_act_range *range, pare_isa isa,
                      const float *x, size_t ldx, size_t n, size_t in);

#endif
