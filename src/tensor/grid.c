#include "tensor/grid.h"

#include "kernels/blocks.h"

/* As f16 stores it. Infinite when it is too large. */
static float stored(float scale) { return pare_f16_to_f32(pare_f32_to_f16(scale)); }

/* 1 / scale, 0 where that overflows. */
static float inverse_of(float scale) { return fabsf(scale) >= 0x1p-126f ? 1.0f / scale : 0.0f; }

typedef struct fitted {
    float scale;
    uint8_t zero;
} fitted;

/* The grids that a search looks at, in their order: of equal ones the first wins. The rest of the
 * arrays is 0. */
enum { MOST = 208 /* a multiple of 16 */ };
typedef struct candidates {
    float scale[MOST], zero[MOST];
    int n;
} candidates;

static void add_candidate(candidates *c, float scale, uint8_t zero) {
    c->scale[c->n] = scale;
    c->zero[c->n++] = (float)zero;
}

/* GPTQ's sum of |error|^2.4. */
static float sum_of_powers(float scale, int zero, int max, const float *w, size_t n) {
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) {
        int code = pare_grid_code(w[i], scale, zero, max);
        sum += powf(fabsf(pare_grid_value(code, scale, zero) - w[i]), 2.4f);
    }
    return sum;
}

/* The candidate of least error: of squares weighted by h, or what `mse` sums. */
static fitted best_of(const candidates *c, const pare_grid *g, const pare_encode_kernels *k,
                      const float *w, const float *h, size_t n) {
    int max = (1 << g->bits) - 1, best = 0;
    float errors[MOST], least = INFINITY;
    if (g->search == PARE_GRID_LEAST_SQUARES)
        k->grid_errors(errors, w, h, n, c->scale, c->zero, (size_t)(c->n + 15) / 16 * 16,
                       (float)max);
    else
        for (int i = 0; i < c->n; i++)
            errors[i] = sum_of_powers(c->scale[i], (int)c->zero[i], max, w, n);
    for (int i = 0; i < c->n; i++) {
        if (!(errors[i] < least)) continue;
        least = errors[i];
        best = i;
    }
    return (fitted){c->scale[best], (uint8_t)c->zero[best]};
}

/* --- full: one number, the value of largest magnitude, says all --- */

static float full_scale(const pare_grid *g, const pare_encode_kernels *k, const float *w,
                        const float *h, size_t n) {
    float m = (float)(1 << (g->bits - 1)), largest = 0.0f;
    for (size_t i = 0; i < n; i++)
        if (fabsf(w[i]) > fabsf(largest)) largest = w[i];
    if (g->search == PARE_GRID_PLAIN || largest == 0.0f) return stored(largest / -m);
    int reach = g->bits == 2 ? 90 : 100;
    float step = g->bits == 2 ? 0.01f : 0.0075f * m;
    candidates c = {0};
    add_candidate(&c, largest / -m, (uint8_t)m);
    for (int i = -reach; i <= reach; i++)
        add_candidate(&c, largest / -(m - step * (float)i), (uint8_t)m);
    return stored(best_of(&c, g, k, w, h, n).scale);
}

/* --- the others: a range --- */

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
    if (g->search == PARE_GRID_PLAIN) return fit_range(g, low, high);
    candidates c = {0};
    for (int i = 0; i < 80; i++) {
        float p = 1.0f - (float)i / 100.0f;
        fitted f = fit_range(g, p * low, p * high);
        add_candidate(&c, f.scale, f.zero);
    }
    return best_of(&c, g, k, w, h, n);
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
