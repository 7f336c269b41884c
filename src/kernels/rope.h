/* Rotary position embedding, half-split layout: the pair (x[i], x[i + half]) is rotated by the
 * angle pos * inv_freq[i]. Angles, cosines and sines are computed in f64, so that positions of 10^6
 * keep their precision. */
#ifndef PARE_SRC_KERNELS_ROPE_H
#define PARE_SRC_KERNELS_ROPE_H

#include <stddef.h>

#define PARE_ROPE_MAX_HALF 512

/* The frequencies of one kind of layer (model/rope_config.h makes them). */
typedef struct pare_rope {
    size_t half;  /* head_dim / 2; 0 = no RoPE */
    double scale; /* cosines and sines are multiplied by it (YaRN's attention factor); else 1 */
    double inv_freq[PARE_ROPE_MAX_HALF];
} pare_rope;

/* cos[half], sin[half] of one position. */
void pare_rope_angles(float *cos_out, float *sin_out, const pare_rope *rope, size_t pos);

typedef struct pare_rope_kernels {
    /* y[i] = x[i] c[i] - x[i + half] s[i];  y[i + half] = x[i + half] c[i] + x[i] s[i], in place */
    void (*rotate)(float *x, const float *c, const float *s, size_t half);
} pare_rope_kernels;

extern const pare_rope_kernels pare_rope_ref, pare_rope_avx2;

#endif
