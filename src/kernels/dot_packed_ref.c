/* Packed panels times int8 activations in plain C:
 *
 *     y = sum over groups of (scale * d_x) * sum(code * q) + offset * (d_x * sum(q))
 *
 * The sums of integers are exact. */
#include <string.h>

#include "kernels/dot_impl.h"
#include "kernels/packed.h"

enum { NR = PARE_PACKED_NR };

/* One block of a panel, unpacked. */
typedef struct block {
    int8_t codes[32 * NR];
    float scale[2 * NR], offset[2 * NR];
} block;

/* sums[NR] += block number `b` of a panel times row i of x. */
static void add_block(float sums[NR], const block *w, pare_packed p, size_t b, const pare_act *x,
                      size_t i) {
    const int8_t *q = x->q + i * x->q_stride + 32 * b;
    float d = x->d[i * x->d_stride + b];
    for (size_t sub = 0; sub < 32u / p.group; sub++)
        for (size_t r = 0; r < NR; r++) {
            int32_t product = 0, sum = 0;
            for (size_t k = sub * p.group; k < (sub + 1) * p.group; k++) {
                product += w->codes[(k / 4 * NR + r) * 4 + k % 4] * q[k];
                sum += q[k];
            }
            size_t g = sub * NR + r;
            sums[r] += (float)product * (w->scale[g] * d) + w->offset[g] * (d * (float)sum);
        }
}

/* n <= ROWS rows of x from row i0 on. */
enum { ROWS = 16 };
static void panel_rows(float sums[ROWS][NR], pare_packed p, const void *panel, size_t blocks,
                       const pare_act *x, size_t i0, size_t n) {
    block w = {.offset = {0}};
    memset(sums, 0, ROWS * sizeof *sums);
    for (size_t b = 0; b < blocks; b++) {
        pare_packed_unpack(w.codes, w.scale, w.offset, p, panel, 32 * b, 32);
        for (size_t i = 0; i < n; i++) add_block(sums[i], &w, p, b, x, i0 + i);
    }
}

static void dot_packed(float *y, size_t ldy, const pare_view *w, size_t row_begin, size_t row_end,
                       const pare_act *x, pare_packed p) {
    size_t panel_bytes = pare_packed_panel_bytes(p, w->cols);
    for (size_t r0 = row_begin; r0 < row_end; r0 += NR) {
        const uint8_t *panel = (const uint8_t *)w->part[0] + r0 / NR * panel_bytes;
        size_t n_rows = row_end - r0 < NR ? row_end - r0 : NR;
        for (size_t i0 = 0; i0 < x->n; i0 += ROWS) {
            float sums[ROWS][NR];
            size_t n = x->n - i0 < ROWS ? x->n - i0 : ROWS;
            panel_rows(sums, p, panel, w->cols / 32, x, i0, n);
            for (size_t i = 0; i < n; i++)
                memcpy(y + (i0 + i) * ldy + r0, sums[i], n_rows * sizeof *y);
        }
    }
}

#define X(name, ...)                                                                               \
    void pare_dot_##name##_ref(float *y, size_t ldy, const pare_view *w, size_t row_begin,         \
                               size_t row_end, const pare_act *x) {                                \
        dot_packed(y, ldy, w, row_begin, row_end, x, pare_packed_formats[PARE_DOT_##name]);        \
    }
PARE_PACKED_LIST(X)
#undef X

void pare_dotf_nm24_bf16_ref(float *y, size_t ldy, const pare_view *w, size_t row_begin,
                             size_t row_end, const float *x, size_t ldx, size_t n) {
    size_t panel_bytes = pare_packed_panel_bytes(pare_packed_nm24_bf16, w->cols);
    for (size_t r = row_begin; r < row_end; r++) {
        const uint8_t *panel = (const uint8_t *)w->part[0] + r / NR * panel_bytes;
        for (size_t i = 0; i < n; i++) {
            float sum = 0.0f, v[32];
            for (size_t c = 0; c < w->cols; c += 32) {
                pare_packed24_row(v, panel, r % NR, c, 32);
                for (size_t k = 0; k < 32; k++) sum += v[k] * x[i * ldx + c + k];
            }
            y[i * ldy + r] = sum;
        }
    }
}
