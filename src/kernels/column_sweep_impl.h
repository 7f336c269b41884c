/* Sweeps over columns, on vectors; include a vec_*.h first. The reference's operations one by one:
 * its bits. */
#include "kernels/column_sweep.h"
#include "kernels/unroll.h"

enum { VECTORS = PARE_COLUMN_SWEEP_ROWS / VF };

static void nearest(float *q, const float *w, const float *scale, const float *zero, float max) {
    PARE_UNROLL
    for (int v = 0; v < PARE_COLUMN_SWEEP_ROWS; v += VF) {
        const vf s = vf_load(scale + v), z = vf_load(zero + v);
        vf code = vf_add(vf_round(vf_div(vf_load(w + v), s)), z);
        code = vf_min(vf_max(code, vf_zero()), vf_set(max)); /* a NaN, of scale 0, becomes a code */
        vf value = vf_mul(s, vf_sub(code, z));
        vf_store(q + v, vf_select(vf_eq(s, vf_zero()), vf_zero(), value));
    }
}

static void pass_on(float *w, const float *e, const float *u, size_t n) {
    vf errors[VECTORS];
    PARE_UNROLL
    for (int v = 0; v < VECTORS; v++) errors[v] = vf_load(e + v * VF);
    for (size_t k = 0; k < n; k++, w += PARE_COLUMN_SWEEP_ROWS) {
        const vf factor = vf_set(u[k]);
        PARE_UNROLL
        for (int v = 0; v < VECTORS; v++)
            vf_store(w + v * VF, vf_sub(vf_load(w + v * VF), vf_mul(factor, errors[v])));
    }
}

/* Products of f32 numbers are exact in f64: a fused addition has the bits of two operations. */
static void dots(double *sums, const float *d, size_t ldd, const float *y, size_t m) {
    for (size_t i = 0; i < m; i++, d += ldd, y += 16) {
        __m256d p[2]; /* k and k + 8 */
        PARE_UNROLL
        for (int v = 0; v < 2; v++) {
            p[v] = _mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(d + 4 * v)),
                                 _mm256_cvtps_pd(_mm_loadu_ps(y + 4 * v)));
            p[v] = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(d + 8 + 4 * v)),
                                   _mm256_cvtps_pd(_mm_loadu_ps(y + 8 + 4 * v)), p[v]);
        }
        double s[4];
        _mm256_storeu_pd(s, _mm256_add_pd(p[0], p[1]));
        sums[i] += (s[0] + s[2]) + (s[1] + s[3]);
    }
}
