/* Activations on an integer grid, on vectors; include a vec_*.h first. Values have the reference's
 * bits, as its operations are done one by one. */
#include "kernels/act_grid.h"

#include <math.h>

/* A grid in registers: what is written may be the grid, for all that the compiler knows. */
typedef struct lanes {
    vf s, low, high, shift;
} lanes;

static inline lanes lanes_of(const pare_act_grid *g) {
    return (lanes){vf_set(g->s), vf_set(g->low), vf_set(g->high), vf_set(g->shift)};
}

/* A code that is still to be rounded. The ends are whole, so what is clamped first rounds to the
 * same. A NaN stays: it is the second one. */
static inline vf unrounded(vf x, const lanes *g) {
    return vf_min(g->high, vf_max(g->low, vf_div(vf_sub(x, g->shift), g->s)));
}

static inline vf value(vf x, const lanes *g) {
    return vf_add(vf_mul(g->s, vf_round(unrounded(x, g))), g->shift);
}

static void range(pare_act_range *r, const float *x, size_t n) {
    vf min = vf_set(r->min), max = vf_set(r->max), odd = vf_zero();
    size_t i = 0;
    for (; i + VF <= n; i += VF) {
        vf v = vf_load(x + i);
        min = vf_min(v, min); /* what is known stays where v is NaN */
        max = vf_max(v, max);
        odd = vf_select(vf_unordered(v, v), vf_set(1.0f), odd);
    }
    float least = -vf_top(vf_sub(vf_zero(), min)), most = vf_top(max);
    bool nan = isnan(r->min) || vf_top(odd) > 0.0f;
    for (; i < n; i++) {
        nan |= isnan(x[i]) != 0;
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    *r = nan ? (pare_act_range){NAN, NAN} : (pare_act_range){least, most};
}

static void apply(float *y, const float *x, const pare_act_grid *grid, size_t n) {
    const lanes g = lanes_of(grid);
    size_t i = 0;
    for (; i + VF <= n; i += VF) vf_store(y + i, value(vf_load(x + i), &g));
    if (i < n) vf_store_n(y + i, value(vf_load_n(x + i, n - i), &g), n - i);
}

static double error(const float *x, const pare_act_grid *grid, size_t n) {
    const lanes g = lanes_of(grid);
    enum { PIECE = 64 }; /* so few squares are added in f32: 2^-20 of the sum */
    double sum = 0.0;
    for (size_t i = 0; i < n; i += PIECE) {
        vf squares = vf_zero();
        for (size_t j = i; j < n && j < i + PIECE; j += VF) {
            vf v = n - j < VF ? vf_load_n(x + j, n - j) : vf_load(x + j),
               e = vf_sub(v, value(v, &g));
            if (n - j < VF) { /* lanes that are none */
                float rest[VF];
                vf_store(rest, e);
                for (size_t k = n - j; k < VF; k++) rest[k] = 0.0f;
                e = vf_load(rest);
            }
            squares = vf_fma(e, e, squares);
        }
        sum += (double)vf_sum(squares);
    }
    return sum;
}
