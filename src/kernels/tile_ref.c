/* The tile kernels as formulas: what every faster variant is tested against. */
#include "base/cpu.h"
#include "kernels/tile.h"

enum { NR = PARE_TILE_NR };

static void transpose_ref(uint32_t *out, const uint32_t *in, size_t ld, size_t k) {
    for (size_t i = 0; i < k; i++)
        for (size_t r = 0; r < NR; r++) out[i * NR + r] = in[r * ld + i];
}

static void place_ref(float *y, size_t ldy, const float *c, size_t c_panel, size_t m, size_t n,
                      const float *bias, bool add) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n * NR; j++) {
            float sum = c[j / NR * c_panel + i * NR + j % NR] + bias[j];
            y[i * ldy + j] = add ? y[i * ldy + j] + sum : sum;
        }
}

static void f32_ref(float *c, const float *a, size_t lda, const float *panel, size_t m, size_t k,
                    bool add) {
    for (size_t i = 0; i < m; i++) {
        float acc[NR] = {0};
        for (size_t j = 0; j < k; j++)
            for (size_t r = 0; r < NR; r++) acc[r] += a[i * lda + j] * panel[j * NR + r];
        for (size_t r = 0; r < NR; r++) c[i * NR + r] = acc[r] + (add ? c[i * NR + r] : 0.0f);
    }
}

static void f32_inputs_ref(float *c, const float *a, size_t lda, const float *panel,
                           const uint16_t *inputs, size_t m, size_t k, bool add) {
    for (size_t i = 0; i < m; i++) {
        float acc[NR] = {0};
        for (size_t j = 0; j < k; j++)
            for (size_t r = 0; r < NR; r++) acc[r] += a[i * lda + inputs[j]] * panel[j * NR + r];
        for (size_t r = 0; r < NR; r++) c[i * NR + r] = acc[r] + (add ? c[i * NR + r] : 0.0f);
    }
}

static void f32_rows_ref(float *c, const float *a, size_t lda, const uint16_t *rows,
                         const float *panel, size_t m, size_t k, bool add) {
    for (size_t i = 0; i < m; i++)
        f32_ref(c + (size_t)rows[i] * NR, a + rows[i] * lda, lda, panel, 1, k, add);
}

static size_t pick_ref(float *value, uint8_t *place, const float *w, size_t n, size_t first) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (w[i] != 0.0f) {
            value[count] = w[i];
            place[count++] = (uint8_t)(first + i);
        }
    return count;
}

static void weights_ref(float *to, const float *from, const float *plus, const float *xt,
                        const float *value, const uint8_t *place, const uint8_t *count,
                        size_t n_lists) {
    enum { T = PARE_TILE_PIECE };
    for (size_t l = 0; l < n_lists; value += count[l], place += count[l], l++)
        for (size_t t = 0; t < T; t++) {
            float acc = from ? from[l * T + t] : 0.0f;
            for (size_t j = 0; j < count[l]; j++)
                acc += value[j] * xt[(t / NR * T + place[j]) * NR + t % NR];
            to[l * T + t] = acc + (plus ? plus[l * T + t] : 0.0f);
        }
}

static void gram_ref(float *c, const float *a, const float *b, size_t k, bool add) {
    for (size_t i = 0; i < NR; i++)
        for (size_t j = 0; j < NR; j++) {
            double sum = add ? c[i * NR + j] : 0.0;
            for (size_t t = 0; t < k; t++) sum += (double)a[t * NR + i] * b[t * NR + j];
            c[i * NR + j] = (float)sum;
        }
}

static void gather_ref(double *to, size_t ld, const float *c) {
    for (size_t i = 0; i < NR; i++)
        for (size_t j = 0; j < NR; j++) to[i * ld + j] += (double)c[i * NR + j];
}

static void squares_ref(double *sums, const float *x, size_t ldx, size_t n) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < NR; j++) sums[j] += (double)x[i * ldx + j] * x[i * ldx + j];
}

/* c[r] += isum[r] * (scale[r] * d) + offset[r] * sum, group by group: the order that all levels
 * keep. */
static void group_add(float *c, const int32_t *isum, const pare_tile_panel *p, size_t g, float d,
                      float sum) {
    for (size_t r = 0; r < NR; r++) {
        c[r] += (float)isum[r] * (p->scale[g * NR + r] * d);
        if (p->offset) c[r] += p->offset[g * NR + r] * sum;
    }
}

static void int_ref(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m, bool add,
                    bool wide) {
    const uint8_t *u8 = p->q;
    const int16_t *s16 = p->q;
    for (size_t i = 0; i < m; i++) {
        float acc[NR];
        for (size_t r = 0; r < NR; r++) acc[r] = add ? c[i * NR + r] : 0.0f;
        for (size_t g = 0; g < p->k / p->group; g++) {
            int32_t isum[NR] = {0};
            for (size_t j = g * p->group; j < (g + 1) * p->group; j++)
                for (size_t r = 0; r < NR; r++)
                    isum[r] += wide
                                   ? s16[(j / 2 * NR + r) * 2 + j % 2] * a->q16[i * a->q_stride + j]
                                   : u8[(j / 4 * NR + r) * 4 + j % 4] * a->q[i * a->q_stride + j];
            group_add(acc, isum, p, g, a->d[i * a->d_stride + g * p->group / 32],
                      p->offset ? a->sum[i * a->sum_stride + g] : 0.0f);
        }
        for (size_t r = 0; r < NR; r++) c[i * NR + r] = acc[r];
    }
}

static void u8_ref(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m, bool add) {
    int_ref(c, a, p, m, add, false);
}

static void s16_ref(float *c, const pare_tile_act *a, const pare_tile_panel *p, size_t m,
                    bool add) {
    int_ref(c, a, p, m, add, true);
}

const pare_tile_kernels pare_tile_ref = {.transpose = transpose_ref,
                                         .place = place_ref,
                                         .f32 = f32_ref,
                                         .f32_inputs = f32_inputs_ref,
                                         .f32_rows = f32_rows_ref,
                                         .pick = pick_ref,
                                         .weights = weights_ref,
                                         .gram = gram_ref,
                                         .gather = gather_ref,
                                         .squares = squares_ref,
                                         .u8 = u8_ref,
                                         .s16 = s16_ref,
                                         .u8_max = 255};

const pare_tile_kernels *pare_tile_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AMX) return &pare_tile_amx;
    if (isa == PARE_ISA_AVX512)
        return pare_cpu_features() & PARE_CPU_AVX512_BF16 ? &pare_tile_avx512_bf16
                                                          : &pare_tile_avx512;
    if (isa == PARE_ISA_AVX2) return &pare_tile_avx2;
#endif
    (void)isa;
    return &pare_tile_ref;
}
