/* Activations in int8: layout in memory, and the plain quantizer. */
#include <math.h>
#include <string.h>

#include "kernels/dot_impl.h"

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t pare_act_place(pare_act *a, void *base, pare_act_kind kind, size_t n, size_t cols) {
    cols = round_up(cols, pare_act_group(kind));
    size_t pairs_at = round_up(cols, 256);
    /* rows begin on a cache line, and an odd number of lines apart: 8 rows of a power of two would
     * share one set of the first-level cache */
    size_t q_stride = (2 * pairs_at / 64 | 1) * 64;
    size_t d_stride = round_up(pairs_at / pare_act_group(kind), 16),
           sum_stride = round_up(pairs_at / 16, 32);
    *a = (pare_act){.n = n,
                    .cols = cols,
                    .q_stride = q_stride,
                    .d_stride = d_stride,
                    .sum_stride = sum_stride,
                    .pairs_at = pairs_at};
    size_t q_bytes = n * q_stride, d_bytes = n * d_stride * sizeof(float),
           sum_bytes = n * sum_stride * sizeof(int16_t);
    if (base) {
        a->q = base;
        a->d = (float *)((uint8_t *)base + q_bytes);
        a->sum16 = (int16_t *)((uint8_t *)base + q_bytes + d_bytes);
    }
    return q_bytes + d_bytes + sum_bytes;
}

/* One group of `group` inputs, of which `n` exist. */
static float quantize_group(int8_t *q, int16_t *sum16, const float *x, size_t n, size_t group) {
    float max = 0.0f;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite &= isfinite(x[i]) != 0;
        max = fmaxf(max, fabsf(x[i]));
    }
    memset(q, 0, group);
    memset(sum16, 0, group / 16 * sizeof *sum16);
    if (!finite) return NAN;
    if (max < PARE_ACT_TINY) return 0.0f;
    float inverse = 127.0f / max;
    for (size_t i = 0; i < n; i++) {
        q[i] = (int8_t)lrintf(x[i] * inverse);
        sum16[i / 16] = (int16_t)(sum16[i / 16] + q[i]);
    }
    return max / 127.0f;
}

void pare_act_quantize_tail(pare_act *a, const float *x, size_t row, size_t cols, size_t group) {
    size_t begin = cols / group * group;
    if (begin < cols)
        a->d[row * a->d_stride + begin / group] = quantize_group(
            a->q + row * a->q_stride + begin, a->sum16 + row * a->sum_stride + begin / 16,
            x + begin, cols - begin, group);
}

void pare_act_zero_rest(pare_act *a, size_t row, size_t group) {
    size_t end = round_up(a->cols, 256), n = end - a->cols;
    memset(a->q + row * a->q_stride + a->cols, 0, n);
    memset(a->d + row * a->d_stride + a->cols / group, 0, n / group * sizeof *a->d);
    memset(a->sum16 + row * a->sum_stride + a->cols / 16, 0, n / 16 * sizeof *a->sum16);
}

static void write_pairs(int8_t *pairs, const int8_t *q) {
    for (int p = 0; p < 4; p++)
        for (int half = 0; half < 2; half++) {
            memcpy(pairs + 64 * p + 32 * half, q + 32 * p + 16 * half, 16);
            memcpy(pairs + 64 * p + 32 * half + 16, q + 32 * (p + 4) + 16 * half, 16);
        }
}

static void quantize(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols, size_t group) {
    a->n = n;
    for (size_t i = 0; i < n; i++) {
        int8_t *q = a->q + i * a->q_stride;
        for (size_t c = 0; c + group <= cols; c += group)
            a->d[i * a->d_stride + c / group] = quantize_group(
                q + c, a->sum16 + i * a->sum_stride + c / 16, x + i * ldx + c, group, group);
        pare_act_quantize_tail(a, x + i * ldx, i, cols, group);
        pare_act_zero_rest(a, i, group);
        if (a->pairs_at)
            for (size_t c = 0; c < a->cols; c += 256) write_pairs(q + a->pairs_at + c, q + c);
    }
}

void pare_act_quantize_q8_32_ref(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols) {
    quantize(a, x, ldx, n, cols, 32);
}

void pare_act_quantize_q8_256_ref(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols) {
    quantize(a, x, ldx, n, cols, 256);
}
