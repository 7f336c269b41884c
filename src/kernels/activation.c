/* Activations in int8: layout in memory, and the plain quantizer. */
#include <math.h>
#include <string.h>

#include "kernels/dot_impl.h"

enum { GROUP = PARE_ACT_GROUP };

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t pare_act_place(pare_act *a, void *base, size_t n, size_t cols) {
    size_t room = round_up(cols, 256);
    /* rows begin on a cache line, and an odd number of lines apart: 8 rows of a power of two would
     * share one set of the first-level cache */
    *a = (pare_act){.n = n,
                    .cols = round_up(cols, GROUP),
                    .q_stride = (room / 64 | 1) * 64,
                    .d_stride = round_up(room / GROUP, 16),
                    .sum_stride = round_up(room / 16, 16)};
    size_t q_bytes = n * a->q_stride, d_bytes = n * a->d_stride * sizeof(float),
           sum_bytes = n * a->sum_stride * sizeof(float);
    if (base) {
        uint8_t *at = base;
        a->q = (int8_t *)at;
        a->d = (float *)(at + q_bytes);
        a->sum32 = (float *)(at + q_bytes + d_bytes);
        a->minus32 = (int32_t *)(at + q_bytes + 2 * d_bytes);
        a->sum16 = (float *)(at + q_bytes + 3 * d_bytes);
        a->minus16 = (int32_t *)(at + q_bytes + 3 * d_bytes + sum_bytes);
    }
    return q_bytes + 3 * d_bytes + 2 * sum_bytes;
}

pare_act pare_act_row(const pare_act *a, size_t row) {
    pare_act r = *a;
    r.q += row * r.q_stride;
    r.d += row * r.d_stride;
    r.sum32 += row * r.d_stride;
    r.sum16 += row * r.sum_stride;
    if (!a->minus32) return r;
    r.minus32 += row * r.d_stride;
    r.minus16 += row * r.sum_stride;
    return r;
}

/* q of one group of inputs, of which `n` exist; returns d. */
static float quantize_group(int8_t *q, const float *x, size_t n) {
    float max = 0.0f;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite &= isfinite(x[i]) != 0;
        max = fmaxf(max, fabsf(x[i]));
    }
    memset(q, 0, GROUP);
    if (!finite) return NAN;
    if (max < PARE_ACT_TINY) return 0.0f;
    float inverse = 127.0f / max;
    for (size_t i = 0; i < n; i++) q[i] = (int8_t)lrintf(x[i] * inverse);
    return max / 127.0f;
}

void pare_act_quantize_group_ref(pare_act *a, const float *x, size_t g, size_t n) {
    int8_t *q = a->q + g * GROUP;
    float d = a->d[g] = quantize_group(q, x, n);
    int sum[2] = {0, 0};
    for (size_t i = 0; i < GROUP; i++) sum[i / 16] += q[i];
    pare_act_keep_sums(a, g, d, sum[0], sum[1]);
}

void pare_act_zero_rest(pare_act *a) {
    size_t end = round_up(a->cols, 256), n = end - a->cols;
    memset(a->q + a->cols, 0, n);
    memset(a->d + a->cols / GROUP, 0, n / GROUP * sizeof *a->d);
    memset(a->sum32 + a->cols / GROUP, 0, n / GROUP * sizeof *a->sum32);
    memset(a->sum16 + a->cols / 16, 0, n / 16 * sizeof *a->sum16);
    if (!a->minus32) return;
    memset(a->minus32 + a->cols / GROUP, 0, n / GROUP * sizeof *a->minus32);
    memset(a->minus16 + a->cols / 16, 0, n / 16 * sizeof *a->minus16);
}

void pare_act_quantize_ref(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols) {
    a->n = n;
    for (size_t i = 0; i < n; i++) {
        pare_act row = pare_act_row(a, i);
        for (size_t c = 0; c < cols; c += GROUP)
            pare_act_quantize_group_ref(&row, x + i * ldx + c, c / GROUP,
                                        cols - c < GROUP ? cols - c : GROUP);
        pare_act_zero_rest(&row);
    }
}

void pare_act_quantize_grid(pare_act *a, const pare_act_grid_kernels *k, const pare_act_grid *grid,
                            size_t step, const float *x, size_t ldx, size_t n, size_t cols) {
    size_t padded = round_up(cols, GROUP);
    a->n = n;
    for (size_t i = 0; i < n; i++) {
        const pare_act_grid *g = grid + i * step;
        pare_act row = pare_act_row(a, i);
        bool numbers = k->codes(row.q, x + i * ldx, g, pare_act_grid_move(g), cols);
        float d = numbers ? g->s : NAN;
        memset(row.q + cols, 0, padded - cols);
        for (size_t group = 0; group < padded / GROUP; group++) row.d[group] = d;
        k->sums(&row, d, padded);
    }
}
