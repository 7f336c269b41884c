/* The searches behind the block encoders: which scale, which minimum, which codes lose least.
 *
 * Each function treats `groups` groups of `len` (16 or 32) values that lie one after the other in
 * x, each with its own result. The searches are ggml's, so that our files are equal to its files
 * byte for byte: within a group all sums run from the first to the last value in f32, with
 * separate multiply and add. The fast variants therefore compute several groups side by side and
 * never split a sum: every variant returns the same bits as the reference.
 *
 * x is finite. w [groups][len] are the weights of the squared error, finite and >= 0. Codes are
 * unsigned (a signed code c of range [-nmax, nmax) is stored as c + nmax). A group whose largest
 * |x| is below PARE_GROUP_EPS gets scale 0 and codes 0, unless said otherwise. Out-of-range and
 * NaN quotients are clamped before the conversion to an integer (NaN to the lowest code). */
#ifndef PARE_SRC_KERNELS_ENCODE_H
#define PARE_SRC_KERNELS_ENCODE_H

#include "pare/base.h"

#define PARE_GROUP_EPS 1e-15f

/* Candidates of `fit`: scales (max - min) / (nmax + rmin + rdelta * s), s = 0..nstep. */
typedef struct pare_fit {
    int nmax; /* codes 0..nmax */
    float rmin, rdelta;
    int nstep;
    bool absolute; /* the error is sum w |e|, not sum w e^2 */
} pare_fit;

typedef struct pare_encode_kernels {
    /* Asymmetric: x ~ scale * q - min with min >= 0. From each candidate scale the codes, from the
     * codes the weighted least-squares (scale, min), of all these the one with the smallest
     * error. A constant group gets scale 0 and min = -min(x, 0). */
    void (*fit)(uint8_t *q, float *scale, float *min, const float *x, const float *w, size_t groups,
                int len, const pare_fit *fit);

    /* Symmetric: x ~ scale * (q - nmax). The largest |x| is given code -nmax at first (so its sign
     * is the scale's, turned round), then the scale (nmax + s / 10), s = -9..9, with the smallest
     * weighted error. */
    void (*symmetric)(uint8_t *q, float *scale, const float *x, const float *w, size_t groups,
                      int len, int nmax);

    /* Symmetric, weights x^2: start as in `symmetric`, then up to five sweeps in which each code
     * may move if that lowers the error. */
    void (*symmetric_sweep)(uint8_t *q, float *scale, const float *x, size_t groups, int len,
                            int nmax);

    /* The scale for the 16 uneven levels of IQ4: x ~ scale * pare_iq4_values[q]; codes by
     * iq4_codes. */
    void (*iq4_scale)(float *scale, const float *x, const float *w, size_t groups, int len);

    /* q[n] = index of the level nearest to inv_scale * x; halfway goes up. n is a multiple of 16.
     */
    void (*iq4_codes)(uint8_t *q, const float *x, size_t n, float inv_scale);

    /* q[n] = clamp(round_half_even((x + min) / scale), low, high) - low. n is a multiple of 16. */
    void (*round_codes)(uint8_t *q, const float *x, size_t n, float scale, float min, int low,
                        int high);

    /* q[n] = inv_scale * x rounded half away from zero, clamped to -127..127; n is a multiple
     * of 32.
     */
    void (*int8_codes)(int8_t *q, const float *x, size_t n, float inv_scale);

    /* Largest |x| of n values, any n; 0 for none. */
    float (*abs_max)(const float *x, size_t n);

    /* w = importance * sqrt(sigma2 + x^2); n is a multiple of 16. */
    void (*weigh)(float *w, const float *x, const float *importance, size_t n, float sigma2);

    /* w = sqrt(mean of x^2 over the group) + |x| */
    void (*weigh_plain)(float *w, const float *x, size_t groups, int len);

    /* y = scale[i / group] * q[i] (+ offset[i / group] unless NULL): decoding. n is a multiple of
     * group = 16 or 32. */
    void (*expand)(float *y, const int8_t *q, const float *scale, const float *offset, size_t n,
                   size_t group);

    /* errors[n_grids] of grids with codes 0 .. max: the sum over i of
     * h[i] * (scale * (code - zero) - x[i])^2, code = x[i] / scale (times the reciprocal, 0 where
     * that overflows) rounded half to even, + zero, clamped. h NULL: all 1. Each sum is taken in
     * the order of i. Any n; n_grids is a multiple of 16; finite x with |x / scale| < 2^22. */
    void (*grid_errors)(float *errors, const float *x, const float *h, size_t n, const float *scale,
                        const float *zero, size_t n_grids, float max);

    /* Index of the first value that is NaN or infinite; n = none. */
    size_t (*first_nonfinite)(const float *x, size_t n);

    /* Plain conversions, any n. */
    void (*f32_to_f16)(uint16_t *y, const float *x, size_t n);
    void (*f16_to_f32)(float *y, const uint16_t *x, size_t n);
} pare_encode_kernels;

/* The table for a level; static storage. */
const pare_encode_kernels *pare_encode_kernels_get(pare_isa isa);

/* The reference fills a table, each level overrides what it speeds up. */
void pare_encode_kernels_ref(pare_encode_kernels *k);
void pare_encode_kernels_avx2(pare_encode_kernels *k);

void pare_grid_errors_avx2(float *errors, const float *x, const float *h, size_t n,
                           const float *scale, const float *zero, size_t n_grids, float max);
void pare_grid_errors_avx512(float *errors, const float *x, const float *h, size_t n,
                             const float *scale, const float *zero, size_t n_grids, float max);

#endif
