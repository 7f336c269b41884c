#include "tensor/grid.h"

#include "kernels/blocks.h"

/* As f16 stores it. Infinite when it is too large. */
static float stored(float scale) { return pare_f16_to_f32(pare_f32_to_f16(scale)); }

/* 1 / scale, 0 where that overflows. */
static float inverse_of(float scale) { return fabsf(scale) >= 0x1p-126f ? 1.0f / scale : 0.0f; }

/* The error of a grid: of squares weighted by h, or GPTQ's sum of |error|^2.4. */
static float error_of(const pare_grid *g, const pare_encode_kernels *k, float scale, uint8_t zero,
                      const float *w, const float *h, size_t n) {
    int max = (1 << g->bits) - 1;
    if (g->search == PARE_GRID_LEAST_SQUARES)
        return k->grid_error(w, h, n, inverse_of(scale), scale, (float)zero, (float)max);
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) {
        int code = pare_grid_code(w[i], scale, zero, max);
        sum += powf(fabsf(pare_grid_value(code, scale, zero) - w[i]), 2.4f);
    }
    return sum;
}

/* --- full: one number, the value of largest magnitude, says all --- */

static float full_scale(const pare_grid *g, const pare_encode_kernels *k, const float *w,
                        const float *h, size_t n) {
    float m = (float)(1 << (g->bits - 1)), largest = 0.0f;
    for (size_t i = 0; i < n; i++)
        if (fabsf(w[i]) > fabsf(largest)) largest = w[i];
    if (g->search == PARE_GRID_PLAIN || largest == 0.0f) return stored(largest / -m);
    int reach = g->bits == 2 ? 90 : 100;
    float step = g->bits == 2 ? 0.01f : 0.0075f * m, least = INFINITY, best = largest / -m;
    for (int i = -reach - 1; i <= reach; i++) {
        /* the plain scale first: it wins where errors are equal */
        float steps = m - step * (float)(i < -reach ? 0 : i), scale = largest / -steps;
        float error = error_of(g, k, scale, (uint8_t)m, w, h, n);
        if (!(error < least)) continue;
        least = error;
        best = scale;
    }
    return stored(best);
}

/* --- the others: a range --- */

typedef struct fitted {
    float scale;
    uint8_t zero;
} fitted;

static fitted fit_range(const pare_grid *g, float low, float high) {
    float max = (float)((1 << g->bits) - 1), a = fmaxf(fabsf(low), high);
    uint8_t middle = (uint8_t)(1 << (g->bits - 1));
    switch (g->kind) {
    case PARE_GRID_SYM_ABSMAX:
        return (fitted){stored(fmaxf(fmaxf(high, -low), 1e-5f) / (float)(middle - 1)), middle};
    case PARE_GRID_GPTQ_SYM: /* where no value is negative the range begins at 0 all the same */
        return (fitted){stored((a - (low < 0.0f ? -a : low)) / max), middle};
    case PARE_GRID_FULL:
    case PARE_GRID_ASYM_MINMAX:
    case PARE_GRID_GPTQ_ASYM:
        break;
    }
    float scale = (high - low) / max;
    if (g->kind == PARE_GRID_ASYM_MINMAX) scale = fmaxf(high - low, 1e-5f) / max;
    scale = stored(scale);
    float zero = nearbyintf(-low * inverse_of(scale));
    return (fitted){scale, (uint8_t)(zero > 0.0f ? fminf(zero, max) : 0.0f)};
}

static fitted fit_by_range(const pare_grid *g, const pare_encode_kernels *k, const float *w,
                           const float *h, size_t n) {
    float low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
    }
    if (g->kind == PARE_GRID_GPTQ_ASYM || g->kind == PARE_GRID_GPTQ_SYM) {
        low = fminf(low, 0.0f);
        high = fmaxf(high, 0.0f);
    }
    fitted best = fit_range(g, low, high);
    if (g->search == PARE_GRID_PLAIN) return best;
    float least = INFINITY;
    for (int i = 0; i < 80; i++) {
        float p = 1.0f - (float)i / 100.0f;
        fitted f = fit_range(g, p * low, p * high);
        float error = error_of(g, k, f.scale, f.zero, w, h, n);
        if (!(error < least)) continue;
        least = error;
        best = f;
    }
    return best;
}

void pare_grid_fit(float *scale, uint8_t *zero, const pare_grid *g, const pare_encode_kernels *k,
                   const float *w, const float *h, size_t n) {
    *scale = 0.0f;
    *zero = pare_grid_symmetric(g) ? (uint8_t)(1 << (g->bits - 1)) : 0;
    if (k->abs_max(w, n) == 0.0f) return;
    if (g->kind == PARE_GRID_FULL) {
        *scale = full_scale(g, k, w, h, n);
        return;
    }
    fitted f = fit_by_range(g, k, w, h, n);
    *scale = f.scale;
    *zero = f.zero;
}
