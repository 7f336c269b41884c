#include "kernels/attention_levels.h"

#include <math.h>
#include <string.h>

static void gemm(float *c, size_t ldc, const float *a, size_t lda, size_t m,
                 const pare_attn_panels *b, size_t k, bool accumulate) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < b->n * PARE_ATTN_NR; j++) {
            const float *column = b->b + j / PARE_ATTN_NR * b->panel + j % PARE_ATTN_NR;
            double sum = accumulate ? c[i * ldc + j] : 0.0;
            for (size_t t = 0; t < k; t++) sum += (double)a[i * lda + t] * column[t * b->row];
            c[i * ldc + j] = (float)sum;
        }
}

static void pack_k(float *dst, const float *rows, size_t ld, size_t head_dim) {
    for (size_t j = 0; j < PARE_ATTN_KEYS; j++)
        for (size_t d = 0; d < head_dim; d++)
            dst[(j / PARE_ATTN_NR * head_dim + d) * PARE_ATTN_NR + j % PARE_ATTN_NR] =
                rows[j * ld + d];
}

static void pack_v(float *dst, const float *rows, size_t ld, size_t n_panels) {
    for (size_t p = 0; p < n_panels; p++)
        for (size_t j = 0; j < PARE_ATTN_KEYS; j++, dst += PARE_ATTN_NR)
            memcpy(dst, rows + j * ld + p * PARE_ATTN_NR, PARE_ATTN_NR * sizeof *dst);
}

static void dots(float *s, size_t lds, const float *q, size_t ldq, size_t m, const float *k,
                 size_t ldk, size_t n_keys, size_t head_dim) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n_keys; j++) {
            double sum = 0.0;
            for (size_t d = 0; d < head_dim; d++) sum += (double)q[i * ldq + d] * k[j * ldk + d];
            s[i * lds + j] = (float)sum;
        }
}

static float softmax_step(float *s, size_t lo, size_t hi, float softcap, float *max, float *sum) {
    float top = *max;
    for (size_t j = lo; j < hi; j++) {
        if (softcap > 0.0f) s[j] = (float)(softcap * tanh((double)s[j] / softcap));
        if (s[j] > top) top = s[j];
    }
    for (size_t j = 0; j < PARE_ATTN_KEYS; j++)
        if (j < lo || j >= hi) s[j] = 0.0f;
    /* Nothing seen yet but keys of score -Inf: they weigh nothing, as if masked. */
    float shift = top == -INFINITY ? 0.0f : top;
    double add = 0.0;
    for (size_t j = lo; j < hi; j++) {
        s[j] = (float)exp((double)s[j] - shift);
        add += s[j];
    }
    float factor = *max == -INFINITY ? 0.0f : (float)exp((double)*max - shift);
    *sum = (float)(*sum * (double)factor + add);
    *max = top;
    return factor;
}

static void scale(float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] *= s;
}

float pare_attn_quantize_ref(int16_t *q, const float *x, const float *factor, size_t n) {
    float max = 0.0f;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        float t = factor ? x[i] * factor[i] : x[i];
        finite &= isfinite(t) != 0;
        max = fmaxf(max, fabsf(t));
    }
    memset(q, 0, n * sizeof *q);
    if (!finite) return NAN;
    if (max < PARE_ATTN_TINY) return 0.0f;
    float inverse = PARE_ATTN_INT_MAX / max;
    static const size_t order[4] = {0, 2, 1, 3};
    for (size_t i = 0; i < n; i++) {
        size_t from = i / 4 * 4 + order[i % 4];
        float t = factor ? x[from] * factor[from] : x[from];
        q[i] = (int16_t)lrintf(t * inverse);
    }
    return max / PARE_ATTN_INT_MAX;
}

static void integer_dots(float *y, size_t ldy, const int16_t *q, size_t ldq, size_t m,
                         const int16_t *codes, size_t n_pairs, const float *row,
                         const float *column) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < PARE_ATTN_NR; j++) {
            int32_t sum = 0;
            for (size_t t = 0; t < 2 * n_pairs; t++)
                sum += q[i * ldq + t] * codes[(t / 2 * PARE_ATTN_NR + j) * 2 + t % 2];
            y[i * ldy + j] = fmaf((float)sum, row[i] * column[j], y[i * ldy + j]);
        }
}

const pare_attn_kernels pare_attn_ref = {
    gemm, pack_k, pack_v, dots, softmax_step, scale, pare_attn_quantize_ref, integer_dots};
