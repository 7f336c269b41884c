#include "kernels/activation.h"

#include <math.h>

static void range(pare_act_range *r, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i])) r->min = r->max = x[i];
        if (x[i] < r->min) r->min = x[i];
        if (x[i] > r->max) r->max = x[i];
    }
}

static float code(float x, const pare_act_grid *g) {
    float c = nearbyintf((x - g->shift) / g->s);
    return c < g->low ? g->low : c > g->high ? g->high : c;
}

static float value(float x, const pare_act_grid *g) { return g->s * code(x, g) + g->shift; }

static void apply(float *y, const float *x, const pare_act_grid *g, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = value(x[i], g);
}

static double error(const float *x, const pare_act_grid *g, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)x[i] - (double)value(x[i], g);
        sum += e * e;
    }
    return sum;
}

static bool codes(int8_t *q, const float *x, const pare_act_grid *g, int move, size_t n) {
    bool numbers = true;
    for (size_t i = 0; i < n; i++) {
        float c = code(x[i], g);
        numbers &= !isnan(c);
        q[i] = isnan(c) ? 0 : (int8_t)((int)c + move);
    }
    return numbers;
}

static void sums(pare_act *a, float d, size_t n) {
    for (size_t i = 0; i < n; i += 32) {
        int first = 0, second = 0;
        for (size_t c = 0; c < 16; c++) {
            first += a->q[i + c];
            second += a->q[i + 16 + c];
        }
        pare_act_keep_sums(a, i / 32, d, first, second);
    }
}

const pare_act_grid_kernels pare_act_grid_ref = {range, apply, error, codes, sums};

const pare_act_grid_kernels *pare_act_grid_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX512) return &pare_act_grid_avx512;
    if (isa >= PARE_ISA_AVX2) return &pare_act_grid_avx2;
#endif
    (void)isa;
    return &pare_act_grid_ref;
}
