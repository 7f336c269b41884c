#include "kernels/column_sweep.h"

#include <math.h>

enum { ROWS = PARE_COLUMN_SWEEP_ROWS };

static void nearest(float *q, const float *w, const float *scale, const float *zero, float max) {
    for (size_t i = 0; i < ROWS; i++) {
        q[i] = 0.0f;
        if (scale[i] == 0.0f) continue;
        float code = nearbyintf(w[i] / scale[i]) + zero[i];
        code = code > 0.0f ? code : 0.0f;
        code = code < max ? code : max;
        q[i] = scale[i] * (code - zero[i]);
    }
}

static void pass_on(float *w, const float *e, const float *u, size_t n) {
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < ROWS; i++) w[k * ROWS + i] -= u[k] * e[i];
}

static void dots(double *sums, const float *d, size_t ldd, const float *y, size_t m) {
    for (size_t i = 0; i < m; i++, d += ldd, y += 16) {
        double p[8];
        for (size_t k = 0; k < 8; k++) p[k] = (double)d[k] * y[k] + (double)d[k + 8] * y[k + 8];
        sums[i] += ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
    }
}

const pare_column_sweep_kernels pare_column_sweep_ref = {nearest, pass_on, dots};

const pare_column_sweep_kernels *pare_column_sweep_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX512) return &pare_column_sweep_avx512;
    if (isa >= PARE_ISA_AVX2) return &pare_column_sweep_avx2;
#endif
    (void)isa;
    return &pare_column_sweep_ref;
}
