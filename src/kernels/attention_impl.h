/* Attention kernels on vectors; include a vec_*.h first. The including file defines GEMM_ROWS, the
 * rows of the largest register tile of one panel. */
#include "kernels/attention.h"
#include "kernels/unroll.h"
#include "kernels/vmath.h"

#include <math.h>

enum {
    NV = PARE_ATTN_NR / VF, /* vectors in a row of a panel */
    MAX_A = GEMM_ROWS,
    MAX_B = NV
};

/* c[rows][panels * 16] (+)= a * b, all in registers; rows and panels are constants. */
static inline __attribute__((always_inline)) void gemm_tile(float *c, size_t ldc, const float *a,
                                                            size_t lda, const float *b, size_t row,
                                                            size_t panel, size_t k, bool accumulate,
                                                            const int rows, const int panels) {
    vf acc[GEMM_ROWS * NV];
    PARE_UNROLL
    for (int i = 0; i < rows; i++) PARE_UNROLL
    for (int j = 0; j < panels * NV; j++)
        acc[i * panels * NV + j] =
            accumulate ? vf_load(c + (size_t)i * ldc + (size_t)(j * VF)) : vf_zero();
    for (size_t t = 0; t < k; t++) {
        vf bv[MAX_B], av[MAX_A]; /* the smaller side is kept in registers, the other streams */
        if (panels == 1) {
            PARE_UNROLL
            for (int j = 0; j < NV; j++) bv[j] = vf_load(b + t * row + (size_t)(j * VF));
        } else {
            PARE_UNROLL
            for (int i = 0; i < rows; i++) av[i] = vf_set(a[(size_t)i * lda + t]);
        }
        PARE_UNROLL
        for (int x = 0; x < rows * panels * NV; x++) {
            int i = panels == 1 ? x / NV : x % rows, j = panels == 1 ? x % NV : x / rows;
            vf a_i = panels == 1 ? vf_set(a[(size_t)i * lda + t]) : av[i];
            vf b_j = panels == 1
                         ? bv[j]
                         : vf_load(b + (size_t)(j / NV) * panel + t * row + (size_t)(j % NV * VF));
            acc[i * panels * NV + j] = vf_fma(a_i, b_j, acc[i * panels * NV + j]);
        }
    }
    PARE_UNROLL
    for (int i = 0; i < rows; i++) PARE_UNROLL
    for (int j = 0; j < panels * NV; j++)
        vf_store(c + (size_t)i * ldc + (size_t)(j * VF), acc[i * panels * NV + j]);
}

/* A few rows over all panels, several at a time so that enough additions are in flight. */
static inline __attribute__((always_inline)) void gemm_strip(float *c, size_t ldc, const float *a,
                                                             size_t lda, const pare_attn_panels *b,
                                                             size_t k, bool accumulate,
                                                             const int rows, const int panels) {
    size_t p = 0;
    for (; p + (size_t)panels <= b->n; p += (size_t)panels)
        gemm_tile(c + p * PARE_ATTN_NR, ldc, a, lda, b->b + p * b->panel, b->row, b->panel, k,
                  accumulate, rows, panels);
    for (; p < b->n; p++)
        gemm_tile(c + p * PARE_ATTN_NR, ldc, a, lda, b->b + p * b->panel, b->row, b->panel, k,
                  accumulate, rows, 1);
}

static void gemm(float *c, size_t ldc, const float *a, size_t lda, size_t m,
                 const pare_attn_panels *b, size_t k, bool accumulate) {
    size_t full = m / GEMM_ROWS * GEMM_ROWS;
    for (size_t p = 0; p < b->n; p++)
        for (size_t i = 0; i < full; i += GEMM_ROWS)
            gemm_tile(c + i * ldc + p * PARE_ATTN_NR, ldc, a + i * lda, lda, b->b + p * b->panel,
                      b->row, b->panel, k, accumulate, GEMM_ROWS, 1);
    c += full * ldc;
    a += full * lda;
    m -= full;
#if GEMM_ROWS > 6
    if (m >= 6) {
        gemm_strip(c, ldc, a, lda, b, k, accumulate, 6, GEMM_ROWS / 6);
        c += 6 * ldc;
        a += 6 * lda;
        m -= 6;
    }
#endif
    switch (m) {
    case 5:
        gemm_strip(c, ldc, a, lda, b, k, accumulate, 5, GEMM_ROWS / 5);
        break;
    case 4:
        gemm_strip(c, ldc, a, lda, b, k, accumulate, 4, GEMM_ROWS / 4);
        break;
    case 3:
        gemm_strip(c, ldc, a, lda, b, k, accumulate, 3, GEMM_ROWS / 3);
        break;
    case 2:
        gemm_strip(c, ldc, a, lda, b, k, accumulate, 2, 2);
        break;
    case 1:
        gemm_strip(c, ldc, a, lda, b, k, accumulate, 1, 4);
        break;
    }
}

/* The scores of a block: capped, masked to -Inf outside [lo, hi). Returns the largest with `top`.
 */
static inline float cap_and_mask(float *s, size_t lo, size_t hi, float softcap, float top) {
    vf max = vf_set(top);
    const vf minus_inf = vf_set(-INFINITY), c = vf_set(softcap),
             inverse = vf_set(softcap > 0.0f ? 1.0f / softcap : 0.0f);
    for (int j = 0; j < PARE_ATTN_KEYS; j += VF) {
        vf x = vf_load(s + j);
        if (softcap > 0.0f) x = vf_mul(c, vf_tanh(vf_mul(x, inverse)));
        if (j < (int)lo || j + VF > (int)hi)
            x = vf_select(vm_range((int)lo - j, (int)hi - j), x, minus_inf);
        vf_store(s + j, x);
        max = vf_max(x, max); /* NaN is skipped here and appears in the sum */
    }
    return vf_top(max);
}

static float softmax_step(float *s, size_t lo, size_t hi, float softcap, float *max, float *sum) {
    float top = cap_and_mask(s, lo, hi, softcap, *max);
    if (top == -INFINITY) { /* nothing yet, or scores of -Inf only: they weigh nothing */
        for (int j = 0; j < PARE_ATTN_KEYS; j += VF) /* (a NaN among them stays one) */
            vf_store(s + j, vf_exp(vf_load(s + j)));
        for (size_t j = lo; j < hi; j++) *sum += s[j];
        return 1.0f;
    }
    const vf shift = vf_set(top);
    vf acc = vf_zero();
    for (int j = 0; j < PARE_ATTN_KEYS; j += VF) {
        vf e = vf_exp_negative(vf_sub(vf_load(s + j), shift));
        vf_store(s + j, e);
        acc = vf_add(acc, e);
    }
    float factor = *max == top ? 1.0f : expf(*max - top);
    *sum = *sum * factor + vf_sum(acc);
    *max = top;
    return factor;
}

static void scale(float *x, float s, size_t n) {
    const vf f = vf_set(s);
    size_t i = 0;
    for (; i + VF <= n; i += VF) vf_store(x + i, vf_mul(vf_load(x + i), f));
    for (; i < n; i++) x[i] *= s;
}
