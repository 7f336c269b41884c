#include "kernels/rope.h"

#include <math.h>

void pare_rope_angles(float *cos_out, float *sin_out, const pare_rope *rope, size_t pos) {
    for (size_t i = 0; i < rope->half; i++) {
        double angle = (double)pos * rope->inv_freq[i];
        cos_out[i] = (float)(rope->scale * cos(angle));
        sin_out[i] = (float)(rope->scale * sin(angle));
    }
}

static void rotate(float *x, const float *c, const float *s, size_t half) {
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * c[i] - b * s[i];
        x[i + half] = b * c[i] + a * s[i];
    }
}

const pare_rope_kernels pare_rope_ref = {rotate};
