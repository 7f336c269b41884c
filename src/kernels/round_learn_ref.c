#include "kernels/round_learn.h"

#include <math.h>

static float code(float w, float v, const pare_round_group *g, float *inside) {
    float r = nearbyintf(w / g->s + v), q = r < g->low ? g->low : r > g->high ? g->high : r;
    *inside = q == r ? 1.0f : 0.0f;
    if (g->keep_zeros && w == 0.0f) q = *inside = 0.0f;
    return q;
}

static void apply(float *y, const float *w, const float *v, const pare_round_group *g, size_t n) {
    float inside;
    for (size_t i = 0; i < n; i++) y[i] = g->s * code(w[i], v[i], g, &inside);
}

static void step(float *v, float *ds, float *dz, const float *d, const float *w,
                 const pare_round_group *g, float lr, size_t n) {
    double s = 0.0, z = 0.0;
    for (size_t i = 0; i < n; i++) {
        float m, q = code(w[i], v[i], g, &m);
        if (g->keep_zeros && w[i] == 0.0f) continue;
        float along = d[i] * g->s * m;
        s += (double)d[i] * ((double)q - (double)m * (double)(w[i] / g->s));
        z += (double)d[i] * (double)g->s * ((double)m - 1.0);
        if (along > 0.0f) v[i] -= lr;
        if (along < 0.0f) v[i] += lr;
    }
    *ds = (float)s;
    *dz = (float)z;
}

const pare_round_kernels pare_round_ref = {apply, step};

const pare_round_kernels *pare_round_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX512) return &pare_round_avx512;
    if (isa >= PARE_ISA_AVX2) return &pare_round_avx2;
#endif
    (void)isa;
    return &pare_round_ref;
}
