#include "kernels/blocks.h"
#include "kernels/update.h"

#include <math.h>

static bool kept(const pare_update_arrays *a, size_t i) {
    return !a->mask || (a->mask[i / 64] >> i % 64 & 1);
}

static float gradient(const pare_update_arrays *a, size_t i, float l2) {
    float g = a->mask_gradient && !kept(a, i) ? 0.0f : a->g[i] * a->g_scale;
    return l2 != 0.0f ? g + l2 * a->w[i] : g;
}

static void put(const pare_update_arrays *a, size_t i, float w) {
    a->w[i] = kept(a, i) ? w : 0.0f;
    if (a->bf16) a->bf16[i] = pare_f32_to_bf16(a->w[i]);
}

static void sgd(const pare_update_arrays *a, const pare_sgd_rule *r, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float g = gradient(a, i, r->l2), u = g;
        if (a->m) {
            u = r->first ? g : r->momentum * a->m[i] + r->undamped * g;
            a->m[i] = u;
            if (r->nesterov) u = g + r->momentum * u;
        }
        put(a, i, a->w[i] - r->lr * u);
    }
}

static void adam(const pare_update_arrays *a, const pare_adam_rule *r, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float g = gradient(a, i, r->l2);
        float m = r->beta1 * a->m[i] + r->rest1 * g;
        float v = r->beta2 * a->v[i] + r->rest2 * g * g;
        a->m[i] = m;
        a->v[i] = v;
        put(a, i, r->keep * a->w[i] - r->step * (m / (sqrtf(v) / r->root_bias2 + r->eps)));
    }
}

static void mask(const pare_update_arrays *a, float *out, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float w = kept(a, i) ? a->w[i] : 0.0f;
        if (out) out[i] = w;
        if (a->bf16) a->bf16[i] = pare_f32_to_bf16(w);
    }
}

static void adam_direction(float *u, const pare_update_arrays *a, const pare_adam_rule *r,
                           bool nesterov, bool advance, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float g = gradient(a, i, 0), m = a->m[i], v = a->v[i];
        if (advance) {
            a->m[i] = m = r->beta1 * m + r->rest1 * g;
            a->v[i] = v = r->beta2 * v + r->rest2 * g * g;
        }
        if (nesterov) m = r->beta1 * m + r->rest1 * g;
        u[i - begin] = m / (sqrtf(v) / r->root_bias2 + r->eps);
    }
}

static void sgd_direction(float *u, const pare_update_arrays *a, const pare_sgd_rule *r,
                          bool advance, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float g = gradient(a, i, 0);
        if (advance) a->m[i] = r->momentum * a->m[i] + r->undamped * g;
        u[i - begin] = r->nesterov ? g + r->momentum * a->m[i] : a->m[i];
    }
}

static void factored(float *u, const pare_update_arrays *a, float row, const float *column,
                     float least, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float v = row * column[i - begin], root = sqrtf(v > least ? v : least);
        u[i - begin] = root > 0.0f ? gradient(a, i, 0) / root : 0.0f;
    }
}

/* Sums run in eight lanes, value i - begin in lane (i - begin) % 8, which are added in order: what
 * a vector variant does. */
enum { LANES = 8 };
static double lanes_sum(const double lane[LANES]) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

static void dots(double sums[4], const pare_update_arrays *a, const float *u, size_t begin,
                 size_t end) {
    double lane[4][LANES] = {{0}};
    for (size_t i = begin; i < end; i++) {
        size_t k = (i - begin) % LANES;
        if (!kept(a, i)) continue;
        double g = (double)gradient(a, i, 0), w = (double)a->w[i];
        lane[0][k] += g * w;
        lane[1][k] += g * g;
        lane[2][k] += w * w;
        lane[3][k] += (double)u[i - begin] * w;
    }
    for (int k = 0; k < 4; k++) sums[k] += lanes_sum(lane[k]);
}

static void norm(double *sum, const pare_update_arrays *a, const float *u, size_t begin,
                 size_t end) {
    double lane[LANES] = {0};
    for (size_t i = begin; i < end; i++)
        if (kept(a, i)) lane[(i - begin) % LANES] += (double)u[i - begin] * (double)u[i - begin];
    *sum += lanes_sum(lane);
}

static void squares(double sums[2], double *column, const pare_update_arrays *a, size_t begin,
                    size_t end) {
    double lane[2][LANES] = {{0}};
    for (size_t i = begin; i < end; i++) {
        double g = (double)gradient(a, i, 0), w = (double)a->w[i];
        column[i - begin] += g * g;
        lane[0][(i - begin) % LANES] += g * g;
        lane[1][(i - begin) % LANES] += w * w;
    }
    for (int k = 0; k < 2; k++) sums[k] += lanes_sum(lane[k]);
}

static void move(const pare_update_arrays *a, const float *u, float keep, float step, float along,
                 bool project, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float w = a->w[i], d = u[i - begin] - along * w;
        if (project) a->m[i] = d;
        put(a, i, keep * w - step * d);
    }
}

const pare_update_kernels pare_update_ref = {sgd,      adam, mask, adam_direction, sgd_direction,
                                             factored, dots, norm, squares,        move};

const pare_update_kernels *pare_update_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX2) return &pare_update_avx2;
#endif
    (void)isa;
    return &pare_update_ref;
}
