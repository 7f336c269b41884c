#include "tensor/act_quant.h"

#include <math.h>

const char *const pare_act_granularities[] = {"per_tensor_static", "per_tensor_dynamic",
                                              "per_token", NULL};
const char *const pare_act_formulas[] = {"default", "paper_eq4", "full", NULL};

/* NaN of either counts. */
static float smaller(float a, float b) { return a < b || isnan(a) ? a : b; }
static float larger(float a, float b) { return a > b || isnan(a) ? a : b; }

pare_act_range pare_act_range_join(pare_act_range a, pare_act_range b) {
    return (pare_act_range){smaller(a.min, b.min), larger(a.max, b.max)};
}

pare_act_range pare_act_range_of(pare_isa isa, const float *x, size_t ldx, size_t n, size_t in) {
    const pare_act_grid_kernels *k = pare_act_grid_kernels_get(isa);
    pare_act_range r = pare_act_range_none;
    for (size_t i = 0; i < n; i++) k->range(&r, x + i * ldx, in);
    return r;
}

static float step(float range, float n_steps) {
    return larger(range, PARE_ACT_LEAST_RANGE) / n_steps;
}

/* Of [low, high], whose length may be more than f32 holds. */
static float step_between(float low, float high, float n_steps) {
    return isfinite(high - low) ? step(high - low, n_steps) : high / n_steps - low / n_steps;
}

static pare_act_grid symmetric_grid(const pare_act_scheme *a, pare_act_range r) {
    float half = (float)(1 << (a->bits - 1));
    float steps = a->formula == PARE_ACT_FULL ? half - 0.5f : half - 1;
    return (pare_act_grid){
        .s = step(larger(-r.min, r.max), steps), .low = -half, .high = half - 1, .shift = 0};
}

static pare_act_grid asymmetric_grid(const pare_act_scheme *a, pare_act_range r) {
    float max = (float)((1 << a->bits) - 1), low = smaller(r.min, 0), high = larger(r.max, 0);
    float s = step_between(low, high, max), z = nearbyintf(-low / s);
    if (z > max) z = max; /* the rounding of s */
    return (pare_act_grid){.s = s, .low = -z, .high = max - z, .shift = 0};
}

static pare_act_grid paper_grid(const pare_act_scheme *a, pare_act_range r) {
    return (pare_act_grid){.s = step(r.max - r.min, (float)((1 << (a->bits - 1)) - 1)),
                           .low = -INFINITY,
                           .high = INFINITY,
                           .shift = a->symmetric ? 0 : r.min};
}

pare_act_grid pare_act_grid_of(const pare_act_scheme *a, pare_act_range range) {
    if (range.min > range.max) range = (pare_act_range){0, 0}; /* of nothing */
    if (!isfinite(range.min) || !isfinite(range.max))
        return (pare_act_grid){.s = NAN, .low = -INFINITY, .high = INFINITY, .shift = 0};
    if (a->formula == PARE_ACT_PAPER_EQ4) return paper_grid(a, range);
    return (a->symmetric ? symmetric_grid : asymmetric_grid)(a, range);
}

static pare_act_grid row_grid(const pare_act_scheme *a, const pare_act_grid_kernels *k,
                              const float *x, size_t in) {
    pare_act_range r = pare_act_range_none;
    k->range(&r, x, in);
    return pare_act_grid_of(a, r);
}

void pare_act_quantize_rows(const pare_act_scheme *a, const pare_act_grid *grid, pare_isa isa,
                            float *y, size_t ldy, const float *x, size_t ldx, size_t n, size_t in) {
    const pare_act_grid_kernels *k = pare_act_grid_kernels_get(isa);
    for (size_t i = 0; i < n; i++) {
        pare_act_grid own;
        if (!grid) own = row_grid(a, k, x + i * ldx, in);
        k->apply(y + i * ldy, x + i * ldx, grid ? grid : &own, in);
    }
}

/* The quotients from which on, outwards, the code past `end` is nearest: a tie goes to the even
 * one.
 */
static float edge(float end, float outwards) {
    if (!isfinite(end)) return end;
    const float tie = end + 0.5f * outwards;
    return fmodf(end, 2.0f) == 0.0f ? tie : nextafterf(tie, end);
}

uint64_t pare_act_clamped(const pare_act_grid *grid, const float *x, size_t ldx, size_t n,
                          size_t in) {
    const float s = grid->s, shift = grid->shift, low = edge(grid->low, -1),
                high = edge(grid->high, 1);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++, x += ldx) {
        unsigned of_row = 0;
        for (size_t c = 0; c < in; c++) {
            const float code = (x[c] - shift) / s;
            of_row += (unsigned)(code > high) + (unsigned)(code < low);
        }
        sum += of_row;
    }
    return sum;
}

double pare_act_error(const pare_act_scheme *a, const pare_act_range *range, pare_isa isa,
                      const float *x, size_t ldx, size_t n, size_t in) {
    const pare_act_grid_kernels *k = pare_act_grid_kernels_get(isa);
    bool own = !range && a->granularity == PARE_ACT_PER_TOKEN;
    pare_act_grid grid = {0};
    if (!own) grid = pare_act_grid_of(a, range ? *range : pare_act_range_of(isa, x, ldx, n, in));
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (own) grid = row_grid(a, k, x + i * ldx, in);
        sum += k->error(x + i * ldx, &grid, in);
    }
    return sum;
}
