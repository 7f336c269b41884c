#include "kernels/update.h"

#include "kernels/vec_avx2.h"

/* Eight lanes, all ones where the mask keeps a value; n values from i on are looked at, of any
 * place in the words of bits. */
static inline vmask kept_n(const pare_update_arrays *a, size_t i, size_t n) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    if (!a->mask) return _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    uint64_t word = a->mask[i / 64] >> i % 64;
    if (i % 64 + n > 64) word |= a->mask[i / 64 + 1] << (64 - i % 64);
    __m256i bits = _mm256_set1_epi32((int)(word & 255));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(bits, lane), lane));
}
static inline vmask kept(const pare_update_arrays *a, size_t i) { return kept_n(a, i, VF); }

/* The gradient as it counts, from its numbers. */
static inline vf scaled(const pare_update_arrays *a, vf g, vmask keep) {
    g = vf_mul(g, vf_set(a->g_scale));
    return a->mask_gradient ? _mm256_and_ps(g, keep) : g;
}
static inline vf gradient(const pare_update_arrays *a, size_t i, vmask keep, vf w, float l2) {
    vf g = scaled(a, vf_load(a->g + i), keep);
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

static void adam_direction(float *u, const pare_update_arrays *a, const pare_adam_rule *r,
                           bool nesterov, bool advance, size_t begin, size_t end) {
    const vf beta1 = vf_set(r->beta1), rest1 = vf_set(r->rest1), beta2 = vf_set(r->beta2),
             rest2 = vf_set(r->rest2), root = vf_set(r->root_bias2), eps = vf_set(r->eps);
    size_t i = begin;
    for (; i + VF <= end; i += VF) {
        vf g = scaled(a, vf_load(a->g + i), kept(a, i)), m = vf_load(a->m + i),
           v = vf_load(a->v + i);
        if (advance) {
            m = vf_add(vf_mul(beta1, m), vf_mul(rest1, g));
            v = vf_add(vf_mul(beta2, v), vf_mul(vf_mul(rest2, g), g));
            vf_store(a->m + i, m);
            vf_store(a->v + i, v);
        }
        if (nesterov) m = vf_add(vf_mul(beta1, m), vf_mul(rest1, g));
        vf_store(u + (i - begin), vf_div(m, vf_add(vf_div(_mm256_sqrt_ps(v), root), eps)));
    }
    pare_update_ref.adam_direction(u + (i - begin), a, r, nesterov, advance, i, end);
}

static void sgd_direction(float *u, const pare_update_arrays *a, const pare_sgd_rule *r,
                          bool advance, size_t begin, size_t end) {
    const vf momentum = vf_set(r->momentum), undamped = vf_set(r->undamped);
    size_t i = begin;
    for (; i + VF <= end; i += VF) {
        vf g = scaled(a, vf_load(a->g + i), kept(a, i)), m = vf_load(a->m + i);
        if (advance) {
            m = vf_add(vf_mul(momentum, m), vf_mul(undamped, g));
            vf_store(a->m + i, m);
        }
        vf_store(u + (i - begin), r->nesterov ? vf_add(g, vf_mul(momentum, m)) : m);
    }
    pare_update_ref.sgd_direction(u + (i - begin), a, r, advance, i, end);
}

static void factored(float *u, const pare_update_arrays *a, float row, const float *column,
                     float least, size_t begin, size_t end) {
    size_t i = begin;
    for (; i + VF <= end; i += VF) {
        vf g = scaled(a, vf_load(a->g + i), kept(a, i));
        vf v = vf_mul(vf_set(row), vf_load(column + (i - begin)));
        vf root = _mm256_sqrt_ps(vf_max(v, vf_set(least))); /* NaN becomes `least` */
        vf_store(u + (i - begin), vf_select(vf_lt(vf_zero(), root), vf_div(g, root), vf_zero()));
    }
    pare_update_ref.factored(u + (i - begin), a, row, column + (i - begin), least, i, end);
}

/* --- sums in eight lanes of f64 --- */

typedef struct wide {
    __m256d low, high;
} wide;

static inline wide wide_of(vf x) {
    return (wide){_mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                  _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
static inline void add_product(wide *sum, wide x, wide y) {
    sum->low = _mm256_add_pd(sum->low, _mm256_mul_pd(x.low, y.low));
    sum->high = _mm256_add_pd(sum->high, _mm256_mul_pd(x.high, y.high));
}
static inline double wide_sum(wide x) {
    double lane[8], sum = 0;
    _mm256_storeu_pd(lane, x.low);
    _mm256_storeu_pd(lane + 4, x.high);
    for (int i = 0; i < 8; i++) sum += lane[i];
    return sum;
}
static const wide no_sum; /* zeros */

/* n values from i on, at most VF; others count as 0. */
static inline vf load_up_to(const float *p, size_t n) {
    return n >= VF ? vf_load(p) : vf_load_n(p, n);
}

static void dots(double sums[4], const pare_update_arrays *a, const float *u, size_t begin,
                 size_t end) {
    wide gw = no_sum, gg = no_sum, ww = no_sum, uw = no_sum;
    for (size_t i = begin; i < end; i += VF) {
        size_t n = end - i < VF ? end - i : VF;
        vmask keep = kept_n(a, i, n);
        wide g = wide_of(_mm256_and_ps(scaled(a, load_up_to(a->g + i, n), keep), keep));
        wide w = wide_of(_mm256_and_ps(load_up_to(a->w + i, n), keep));
        wide d = wide_of(_mm256_and_ps(load_up_to(u + (i - begin), n), keep));
        add_product(&gw, g, w);
        add_product(&gg, g, g);
        add_product(&ww, w, w);
        add_product(&uw, d, w);
    }
    sums[0] += wide_sum(gw);
    sums[1] += wide_sum(gg);
    sums[2] += wide_sum(ww);
    sums[3] += wide_sum(uw);
}

static void norm(double *sum, const pare_update_arrays *a, const float *u, size_t begin,
                 size_t end) {
    wide uu = no_sum;
    for (size_t i = begin; i < end; i += VF) {
        size_t n = end - i < VF ? end - i : VF;
        wide d = wide_of(_mm256_and_ps(load_up_to(u + (i - begin), n), kept_n(a, i, n)));
        add_product(&uu, d, d);
    }
    *sum += wide_sum(uu);
}

static void squares(double sums[2], double *column, const pare_update_arrays *a, size_t begin,
                    size_t end) {
    wide gg = no_sum, ww = no_sum;
    for (size_t i = begin; i < end; i += VF) {
        size_t n = end - i < VF ? end - i : VF;
        vf scaled_g = scaled(a, load_up_to(a->g + i, n), kept_n(a, i, n));
        wide g = wide_of(scaled_g), w = wide_of(load_up_to(a->w + i, n));
        double *c = column + (i - begin);
        add_product(&gg, g, g);
        add_product(&ww, w, w);
        if (n == VF) {
            _mm256_storeu_pd(c, _mm256_add_pd(_mm256_loadu_pd(c), _mm256_mul_pd(g.low, g.low)));
            _mm256_storeu_pd(c + 4,
                             _mm256_add_pd(_mm256_loadu_pd(c + 4), _mm256_mul_pd(g.high, g.high)));
        } else {
            float rest[VF];
            vf_store(rest, scaled_g);
            for (size_t k = 0; k < n; k++) c[k] += (double)rest[k] * (double)rest[k];
        }
    }
    sums[0] += wide_sum(gg);
    sums[1] += wide_sum(ww);
}

static void move(const pare_update_arrays *a, const float *u, float keep, float step, float along,
                 bool project, size_t begin, size_t end) {
    const vf scale = vf_set(keep), rate = vf_set(step), c = vf_set(along);
    size_t i = begin;
    for (; i + VF <= end; i += VF) {
        vf w = vf_load(a->w + i), d = vf_sub(vf_load(u + (i - begin)), vf_mul(c, w));
        if (project) vf_store(a->m + i, d);
        put(a, i, kept(a, i), vf_sub(vf_mul(scale, w), vf_mul(rate, d)));
    }
    pare_update_ref.move(a, u + (i - begin), keep, step, along, project, i, end);
}

const pare_update_kernels pare_update_avx2 = {sgd,      adam, mask, adam_direction, sgd_direction,
                                              factored, dots, norm, squares,        move};
