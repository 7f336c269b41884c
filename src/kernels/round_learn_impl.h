/* Learned rounding on vectors; include a vec_*.h first. */
#include "kernels/round_learn.h"

/* q of a vector, and where the clamp left it alone (1 or 0). */
static inline vf codes(vf w, vf v, const pare_round_group *g, vf *ratio, vf *inside) {
    const vf low = vf_set(g->low), high = vf_set(g->high);
    *ratio = vf_div(w, vf_set(g->s));
    vf r = vf_round(vf_add(*ratio, v)), q = vf_min(high, vf_max(low, r));
    *inside = vf_select(vf_eq(q, r), vf_set(1.0f), vf_zero());
    if (!g->keep_zeros) return q;
    vmask zero = vf_eq(w, vf_zero());
    *inside = vf_select(zero, vf_zero(), *inside);
    return vf_select(zero, vf_zero(), q);
}

static void apply(float *y, const float *w, const float *v, const pare_round_group *g, size_t n) {
    const vf s = vf_set(g->s);
    size_t i = 0;
    vf ratio, inside;
    for (; i + VF <= n; i += VF)
        vf_store(y + i, vf_mul(s, codes(vf_load(w + i), vf_load(v + i), g, &ratio, &inside)));
    if (i < n)
        vf_store_n(
            y + i,
            vf_mul(s, codes(vf_load_n(w + i, n - i), vf_load_n(v + i, n - i), g, &ratio, &inside)),
            n - i);
}

static inline vf step_part(vf v, vf d, vf w, const pare_round_group *g, vf lr, vf *ds, vf *dz) {
    vf ratio, m, q = codes(w, v, g, &ratio, &m);
    if (g->keep_zeros) d = vf_select(vf_eq(w, vf_zero()), vf_zero(), d);
    vf along = vf_mul(vf_mul(d, vf_set(g->s)), m);
    *ds = vf_fma(d, vf_sub(q, vf_mul(m, ratio)), *ds);
    *dz = vf_fma(vf_mul(d, vf_set(g->s)), vf_sub(m, vf_set(1.0f)), *dz);
    vf down = vf_select(vf_lt(vf_zero(), along), lr, vf_zero());
    vf up = vf_select(vf_lt(along, vf_zero()), lr, vf_zero());
    return vf_add(vf_sub(v, down), up);
}

static void step(float *v, float *ds, float *dz, const float *d, const float *w,
                 const pare_round_group *g, float lr, size_t n) {
    const vf rate = vf_set(lr);
    vf s = vf_zero(), z = vf_zero();
    size_t i = 0;
    for (; i + VF <= n; i += VF)
        vf_store(v + i, step_part(vf_load(v + i), vf_load(d + i), vf_load(w + i), g, rate, &s, &z));
    if (i < n) { /* d is 0 in lanes that are none */
        size_t k = n - i;
        vf_store_n(v + i,
                   step_part(vf_load_n(v + i, k), vf_load_n(d + i, k), vf_load_n(w + i, k), g, rate,
                             &s, &z),
                   k);
    }
    *ds = vf_sum(s);
    *dz = vf_sum(z);
}
