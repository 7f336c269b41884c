#include "kernels/vec_avx2.h"

#include "kernels/rope.h"

static void rotate(float *x, const float *c, const float *s, size_t half) {
    float *hi = x + half;
    size_t i = 0;
    for (; i + VF <= half; i += VF) {
        vf a = vf_load(x + i), b = vf_load(hi + i), cv = vf_load(c + i), sv = vf_load(s + i);
        vf_store(x + i, vf_fnma(b, sv, vf_mul(a, cv)));
        vf_store(hi + i, vf_fma(a, sv, vf_mul(b, cv)));
    }
    for (; i < half; i++) {
        float a = x[i], b = hi[i];
        x[i] = a * c[i] - b * s[i];
        hi[i] = b * c[i] + a * s[i];
    }
}

const pare_rope_kernels pare_rope_avx2 = {rotate};
