#include "kernels/update.h"

#include "kernels/vec_avx2.h"

/* Eight lanes, all ones where the mask keeps a value. */
static inline vmask kept(const pare_update_arrays *a, size_t i) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    if (!a->mask) return _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    __m256i bits = _mm256_set1_epi32((int)(a->mask[i / 64] >> i % 64 & 255));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(bits, lane), lane));
}

static inline vf gradient(const pare_update_arrays *a, size_t i, vmask keep, vf w, float l2) {
    vf g = vf_mul(vf_load(a->g + i), vf_set(a->g_scale));
    if (a->mask_gradient) g = _mm256_and_ps(g, keep);
    return l2 != 0.0f ? vf_add(g, vf_mul(vf_set(l2), w)) : g;
}

/* Rounds to nearest even; NaN stays NaN (quiet). */
static inline __m128i to_bf16(vf x) {
    __m256i u = _mm256_castps_si256(x), half = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(half, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i quiet = _mm256_or_si256(half, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(vf_unordered(x, x));
    __m256i r = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

static inline void put(const pare_update_arrays *a, size_t i, vmask keep, vf w) {
    w = _mm256_and_ps(w, keep);
    vf_store(a->w + i, w);
    if (a->bf16) _mm_storeu_si128((__m128i *)(a->bf16 + i), to_bf16(w));
}

static void sgd(const pare_update_arrays *a, const pare_sgd_rule *r, size_t begin, size_t end) {
    const vf lr = vf_set(r->lr), momentum = vf_set(r->momentum), undamped = vf_set(r->undamped);
    size_t i = begin;
    for (; i + VF <= end; i += VF) {
        vmask keep = kept(a, i);
        vf w = vf_load(a->w + i), g = gradient(a, i, keep, w, r->l2), u = g;
        if (a->m) {
            if (!r->first) u = vf_add(vf_mul(momentum, vf_load(a->m + i)), vf_mul(undamped, g));
            vf_store(a->m + i, u);
            if (r->nesterov) u = vf_add(g, vf_mul(momentum, u));
        }
        put(a, i, keep, vf_sub(w, vf_mul(lr, u)));
    }
    pare_update_ref.sgd(a, r, i, end);
}

static void adam(const pare_update_arrays *a, const pare_adam_rule *r, size_t begin, size_t end) {
    const vf beta1 = vf_set(r->beta1), rest1 = vf_set(r->rest1), beta2 = vf_set(r->beta2),
             rest2 = vf_set(r->rest2), root = vf_set(r->root_bias2), eps = vf_set(r->eps),
             step = vf_set(r->step), scale = vf_set(r->keep);
    size_t i = begin;
    for (; i + VF <= end; i += VF) {
        vmask keep = kept(a, i);
        vf w = vf_load(a->w + i), g = gradient(a, i, keep, w, r->l2);
        vf m = vf_add(vf_mul(beta1, vf_load(a->m + i)), vf_mul(rest1, g));
        vf v = vf_add(vf_mul(beta2, vf_load(a->v + i)), vf_mul(vf_mul(rest2, g), g));
        vf_store(a->m + i, m);
        vf_store(a->v + i, v);
        vf denominator = vf_add(vf_div(_mm256_sqrt_ps(v), root), eps);
        put(a, i, keep, vf_sub(vf_mul(scale, w), vf_mul(step, vf_div(m, denominator))));
    }
    pare_update_ref.adam(a, r, i, end);
}

static void mask(const pare_update_arrays *a, float *out, size_t begin, size_t end) {
    size_t i = begin;
    for (; i + VF <= end; i += VF) {
        vf w = _mm256_and_ps(vf_load(a->w + i), kept(a, i));
        if (out) vf_store(out + i, w);
        if (a->bf16) _mm_storeu_si128((__m128i *)(a->bf16 + i), to_bf16(w));
    }
    pare_update_ref.mask(a, out, i, end);
}

const pare_update_kernels pare_update_avx2 = {sgd, adam, mask};
