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

const pare_update_kernels pare_update_ref = {sgd, adam, mask};

const pare_update_kernels *pare_update_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX2) return &pare_update_avx2;
#endif
    (void)isa;
    return &pare_update_ref;
}
