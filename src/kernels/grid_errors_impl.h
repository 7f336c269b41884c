/* The errors of many grids at a time, one grid a lane; include a vec_*.h first. Values have the
 * reference's bits, as its operations are done one by one. */
#include "kernels/encode.h"
#include "kernels/unroll.h"

typedef struct grids {
    vf scale, inverse, low, high, sum; /* codes less zero are low .. high */
} grids;

static inline __attribute__((always_inline)) void errors_of(float *errors, const float *x,
                                                            const float *h, size_t n,
                                                            const float *scale, const float *zero,
                                                            float max, const int vectors) {
    grids g[4];
    PARE_UNROLL
    for (int v = 0; v < vectors; v++) {
        vf s = vf_load(scale + v * VF), z = vf_load(zero + v * VF);
        g[v] = (grids){.scale = s,
                       .inverse = vf_select(vf_lt(vf_abs(s), vf_set(0x1p-126f)), vf_zero(),
                                            vf_div(vf_set(1.0f), s)),
                       .low = vf_sub(vf_zero(), z),
                       .high = vf_sub(vf_set(max), z),
                       .sum = vf_zero()};
    }
    for (size_t i = 0; i < n; i++) {
        const vf value = vf_set(x[i]), weight = vf_set(h ? h[i] : 1.0f);
        PARE_UNROLL
        for (int v = 0; v < vectors; v++) {
            vf code = vf_max(vf_round(vf_mul(g[v].inverse, value)), g[v].low);
            vf e = vf_sub(vf_mul(g[v].scale, vf_min(code, g[v].high)), value);
            g[v].sum = vf_add(g[v].sum, vf_mul(vf_mul(weight, e), e));
        }
    }
    PARE_UNROLL
    for (int v = 0; v < vectors; v++) vf_store(errors + v * VF, g[v].sum);
}

static inline void grid_errors(float *errors, const float *x, const float *h, size_t n,
                               const float *scale, const float *zero, size_t n_grids, float max) {
    size_t k = 0;
    for (; k + GRID_VECTORS * VF <= n_grids; k += GRID_VECTORS * VF)
        errors_of(errors + k, x, h, n, scale + k, zero + k, max, GRID_VECTORS);
    for (; k < n_grids; k += VF) errors_of(errors + k, x, h, n, scale + k, zero + k, max, 1);
}
