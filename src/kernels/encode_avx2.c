/* The searches of the block encoders, eight groups side by side: lane g of every vector belongs to
 * group g, so each group's sums run in the reference's order and all results are equal to its, bit
 * for bit. Branches of the reference become masks; a lane without work computes on and is
 * overwritten at the end. Values are transposed once into columns: column i holds value i of the
 * eight groups. */
#include "kernels/encode.h"

#include "kernels/blocks.h"

#include <immintrin.h>

typedef __m256 vec;

enum { LANES = 8, MAX_LEN = 32 };

static inline vec set(float v) { return _mm256_set1_ps(v); }
static inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec quot(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec greater(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static inline vec both(vec a, vec b) { return _mm256_and_ps(a, b); }
static inline vec pick(vec mask, vec yes, vec no) { return _mm256_blendv_ps(no, yes, mask); }
static inline vec absolute(vec v) { return _mm256_andnot_ps(set(-0.0f), v); }
static inline vec negate(vec v) { return _mm256_xor_ps(set(-0.0f), v); }

/* As the reference's: NaN goes to `low`, ties to even. */
static inline vec round_clamp(vec v, vec low, vec high) {
    v = _mm256_min_ps(_mm256_max_ps(v, low), high);
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline void transpose8(vec r[8]) {
    vec t[8], u[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
        u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* Columns of n <= 8 groups; the missing ones repeat the last. */
static void load_columns(vec *c, const float *x, size_t n, int len) {
    for (int i = 0; i < len; i += 8) {
        for (size_t g = 0; g < LANES; g++)
            c[i + (int)g] = _mm256_loadu_ps(x + (g < n ? g : n - 1) * (size_t)len + i);
        transpose8(c + i);
    }
}

/* Rows of codes 0..255 from columns of whole numbers. */
static void store_codes(uint8_t *q, vec *c, size_t n, int len) {
    for (int i = 0; i < len; i += 8) {
        transpose8(c + i);
        for (size_t g = 0; g < n; g++) {
            __m256i v = _mm256_cvtps_epi32(c[i + (int)g]);
            __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
            _mm_storel_epi64((__m128i *)(q + g * (size_t)len + i), _mm_packus_epi16(w, w));
        }
    }
}

static void store_lanes(float *out, vec v, size_t n) {
    float lanes[LANES];
    _mm256_storeu_ps(lanes, v);
    memcpy(out, lanes, n * sizeof *out);
}

/* ---- asymmetric ---- */

typedef struct fit_lanes {
    vec scale, min, error, iscale, from;
} fit_lanes;

static inline vec code_error(vec q, vec x, vec w, vec scale, vec min, bool is_absolute) {
    vec diff = sub(add(mul(scale, q), min), x);
    return mul(w, is_absolute ? absolute(diff) : mul(diff, diff));
}

static inline __attribute__((always_inline)) void fit_try(fit_lanes *best, const vec *x,
                                                          const vec *w, int len, vec sum_w,
                                                          vec sum_x, vec iscale, vec nmax,
                                                          bool is_absolute) {
    const vec zero = set(0.0f);
    vec codes[MAX_LEN], sum_l = zero, sum_l2 = zero, sum_xl = zero, from = best->min;
    for (int i = 0; i < len; i++) {
        vec q = codes[i] = round_clamp(mul(iscale, sub(x[i], from)), zero, nmax), wq = mul(w[i], q);
        sum_l = add(sum_l, wq);
        sum_l2 = add(sum_l2, mul(wq, q));
        sum_xl = add(sum_xl, mul(wq, x[i]));
    }
    vec det = sub(mul(sum_w, sum_l2), mul(sum_l, sum_l)), usable = greater(det, zero);
    vec scale = quot(sub(mul(sum_w, sum_xl), mul(sum_x, sum_l)), det);
    vec min = quot(sub(mul(sum_l2, sum_x), mul(sum_l, sum_xl)), det), above = greater(min, zero);
    min = pick(above, zero, min);
    scale = pick(above, quot(sum_xl, sum_l2), scale);
    vec error = zero;
    for (int i = 0; i < len; i++)
        error = add(error, code_error(codes[i], x[i], w[i], scale, min, is_absolute));
    vec better = both(usable, greater(best->error, error));
    best->scale = pick(better, scale, best->scale);
    best->min = pick(better, min, best->min);
    best->error = pick(better, error, best->error);
    best->iscale = pick(better, iscale, best->iscale);
    best->from = pick(better, from, best->from);
}

static inline __attribute__((always_inline)) void
fit_lanes_run(uint8_t *q, float *scale, float *min, const float *x_rows, const float *w_rows,
              size_t n, int len, const pare_fit *fit, bool is_absolute) {
    const vec zero = set(0.0f), nmax = set((float)fit->nmax);
    vec x[MAX_LEN], w[MAX_LEN];
    load_columns(x, x_rows, n, len);
    load_columns(w, w_rows, n, len);
    vec low = x[0], high = x[0], sum_w = w[0], sum_x = mul(w[0], x[0]);
    for (int i = 1; i < len; i++) {
        low = _mm256_min_ps(x[i], low);
        high = _mm256_max_ps(x[i], high);
        sum_w = add(sum_w, w[i]);
        sum_x = add(sum_x, mul(w[i], x[i]));
    }
    low = pick(greater(low, zero), zero, low);
    vec range = sub(high, low), constant = _mm256_cmp_ps(high, low, _CMP_LE_OQ);

    fit_lanes best = {.iscale = quot(nmax, range), .from = low, .min = low};
    best.scale = quot(set(1.0f), best.iscale);
    best.error = zero;
    for (int i = 0; i < len; i++) {
        vec code = round_clamp(mul(best.iscale, sub(x[i], low)), zero, nmax);
        best.error = add(best.error, code_error(code, x[i], w[i], best.scale, low, is_absolute));
    }
    for (int s = 0; s <= fit->nstep; s++) {
        vec steps = set(fit->rmin + fit->rdelta * (float)s + (float)fit->nmax);
        fit_try(&best, x, w, len, sum_w, sum_x, quot(steps, sub(high, best.min)), nmax,
                is_absolute);
    }
    for (int i = 0; i < len; i++) {
        vec code = round_clamp(mul(best.iscale, sub(x[i], best.from)), zero, nmax);
        x[i] = pick(constant, zero, code);
    }
    store_codes(q, x, n, len);
    store_lanes(scale, pick(constant, zero, best.scale), n);
    store_lanes(min, negate(pick(constant, low, best.min)), n);
}

static void fit_avx2(uint8_t *q, float *scale, float *min, const float *x, const float *w,
                     size_t groups, int len, const pare_fit *fit) {
    for (size_t g = 0; g < groups; g += LANES) {
        size_t n = groups - g < LANES ? groups - g : LANES, at = g * (size_t)len;
        if (fit->absolute)
            fit_lanes_run(q + at, scale + g, min + g, x + at, w + at, n, len, fit, true);
        else if (len == 32)
            fit_lanes_run(q + at, scale + g, min + g, x + at, w + at, n, 32, fit, false);
        else
            fit_lanes_run(q + at, scale + g, min + g, x + at, w + at, n, len, fit, false);
    }
}

/* ---- symmetric ---- */

/* 0 in lanes whose largest |x| is below PARE_GROUP_EPS. */
static inline vec signed_max(const vec *x, int len) {
    vec max = set(0.0f), amax = set(0.0f);
    for (int i = 0; i < len; i++) {
        vec a = absolute(x[i]), larger = greater(a, amax);
        amax = pick(larger, a, amax);
        max = pick(larger, x[i], max);
    }
    return _mm256_andnot_ps(greater(set(PARE_GROUP_EPS), amax), max);
}

static void symmetric_lanes(uint8_t *q, float *scale_out, const float *x_rows, const float *w_rows,
                            size_t n, int len, int nmax) {
    const vec zero = set(0.0f), low = set((float)-nmax), high = set((float)(nmax - 1));
    vec x[MAX_LEN], w[MAX_LEN];
    load_columns(x, x_rows, n, len);
    load_columns(w, w_rows, n, len);
    vec max = signed_max(x, len), empty = _mm256_cmp_ps(max, zero, _CMP_EQ_OQ);
    vec scale = zero, best = zero, best_iscale = zero;
    for (int k = 0; k < 19; k++) {
        int s = k == 0 ? 0 : k < 10 ? k - 10 : k - 9;
        vec iscale = quot(set(-((float)nmax + 0.1f * (float)s)), max), sum_xl = zero, sum_l2 = zero;
        for (int i = 0; i < len; i++) {
            vec l = round_clamp(mul(iscale, x[i]), low, high);
            sum_xl = add(sum_xl, mul(mul(w[i], x[i]), l));
            sum_l2 = add(sum_l2, mul(mul(w[i], l), l));
        }
        vec some = greater(sum_l2, zero);
        vec better = both(some, greater(mul(sum_xl, sum_xl), mul(best, sum_l2)));
        if (k == 0) better = _mm256_cmp_ps(zero, zero, _CMP_EQ_OQ);
        vec now = both(some, quot(sum_xl, sum_l2));
        scale = pick(better, now, scale);
        best = pick(better, mul(now, sum_xl), best);
        best_iscale = pick(better, iscale, best_iscale);
    }
    for (int i = 0; i < len; i++) {
        vec code = sub(round_clamp(mul(best_iscale, x[i]), low, high), low);
        x[i] = pick(empty, zero, code);
    }
    store_codes(q, x, n, len);
    store_lanes(scale_out, pick(empty, zero, scale), n);
}

static void symmetric_avx2(uint8_t *q, float *scale, const float *x, const float *w, size_t groups,
                           int len, int nmax) {
    for (size_t g = 0; g < groups; g += LANES) {
        size_t n = groups - g < LANES ? groups - g : LANES, at = g * (size_t)len;
        symmetric_lanes(q + at, scale + g, x + at, w + at, n, len, nmax);
    }
}

static void sweep_lanes(uint8_t *q, float *scale, const float *x_rows, size_t n, int len,
                        int nmax) {
    const vec zero = set(0.0f), low = set((float)-nmax), high = set((float)(nmax - 1));
    vec x[MAX_LEN], codes[MAX_LEN], sum_xl = zero, sum_l2 = zero;
    load_columns(x, x_rows, n, len);
    vec max = signed_max(x, len), empty = _mm256_cmp_ps(max, zero, _CMP_EQ_OQ);
    vec iscale = quot(low, max);
    for (int i = 0; i < len; i++) {
        vec w = mul(x[i], x[i]), l = codes[i] = round_clamp(mul(iscale, x[i]), low, high);
        sum_xl = add(sum_xl, mul(mul(w, x[i]), l));
        sum_l2 = add(sum_l2, mul(mul(w, l), l));
    }
    /* a lane that has come to rest stays so: it may sweep on with the others */
    for (int sweep = 0, changed = 1; sweep < 5 && changed; sweep++) {
        changed = 0;
        for (int i = 0; i < len; i++) {
            vec w = mul(x[i], x[i]), wx = mul(w, x[i]), l = codes[i];
            vec xl = sub(sum_xl, mul(wx, l)), l2 = sub(sum_l2, mul(mul(w, l), l));
            vec moved = greater(xl, zero);
            vec l_new = round_clamp(quot(mul(x[i], l2), xl), low, high);
            xl = add(xl, mul(wx, l_new));
            l2 = add(l2, mul(mul(w, l_new), l_new));
            moved = both(moved, _mm256_cmp_ps(l_new, l, _CMP_NEQ_UQ));
            moved = both(moved, greater(l2, zero));
            moved = both(moved, greater(mul(mul(xl, xl), sum_l2), mul(mul(sum_xl, sum_xl), l2)));
            codes[i] = pick(moved, l_new, l);
            sum_xl = pick(moved, xl, sum_xl);
            sum_l2 = pick(moved, l2, sum_l2);
            changed |= _mm256_movemask_ps(moved);
        }
    }
    for (int i = 0; i < len; i++) codes[i] = pick(empty, zero, sub(codes[i], low));
    store_codes(q, codes, n, len);
    vec result = both(greater(sum_l2, zero), quot(sum_xl, sum_l2));
    store_lanes(scale, pick(empty, zero, result), n);
}

static void symmetric_sweep_avx2(uint8_t *q, float *scale, const float *x, size_t groups, int len,
                                 int nmax) {
    for (size_t g = 0; g < groups; g += LANES) {
        size_t n = groups - g < LANES ? groups - g : LANES, at = g * (size_t)len;
        sweep_lanes(q + at, scale + g, x + at, n, len, nmax);
    }
}

/* ---- the levels of IQ4 ---- */

/* Steps of a binary search over the 15 midpoints between levels. `k` counts the midpoints found to
 * be <= x, negated, so that a comparison's mask (-1) is added; a table of 8 is indexed by -k & 7.
 */
typedef struct iq4_search {
    vec middle3, middle7, middle11; /* of the first two steps */
    vec third, fourth;              /* midpoints of the last two, by the result so far */
    vec levels_low, levels_high;    /* level 0..7, 8..15, in the order of -k & 7 */
} iq4_search;

static inline float iq4_middle(int k) { /* between levels k and k + 1 */
    return 0.5f * (float)(pare_iq4_values[k] + pare_iq4_values[k + 1]);
}

static iq4_search iq4_search_init(void) {
    float third[8], fourth[8], levels_low[8], levels_high[8];
    for (int k = 0; k < 8; k++) {
        int at = -k & 7; /* where the result k so far is looked up */
        third[at] = iq4_middle(4 * (k & 3) + 1);
        fourth[at] = iq4_middle(2 * k);
        levels_low[at] = pare_iq4_values[k];
        levels_high[at] = pare_iq4_values[8 + k];
    }
    return (iq4_search){.middle3 = set(iq4_middle(3)),
                        .middle7 = set(iq4_middle(7)),
                        .middle11 = set(iq4_middle(11)),
                        .third = _mm256_loadu_ps(third),
                        .fourth = _mm256_loadu_ps(fourth),
                        .levels_low = _mm256_loadu_ps(levels_low),
                        .levels_high = _mm256_loadu_ps(levels_high)};
}

static inline __m256i at_least(vec x, vec middle) {
    return _mm256_castps_si256(_mm256_cmp_ps(x, middle, _CMP_GE_OQ));
}

/* -(index of the nearest level); *upper = mask of the lanes in levels 8..15. */
static inline __m256i iq4_negative_index(const iq4_search *t, vec x, vec *upper) {
    __m256i k = at_least(x, t->middle7);
    *upper = _mm256_castsi256_ps(k);
    k = _mm256_add_epi32(_mm256_add_epi32(k, k),
                         at_least(x, pick(*upper, t->middle11, t->middle3)));
    k = _mm256_add_epi32(_mm256_add_epi32(k, k),
                         at_least(x, _mm256_permutevar8x32_ps(t->third, k)));
    return _mm256_add_epi32(_mm256_add_epi32(k, k),
                            at_least(x, _mm256_permutevar8x32_ps(t->fourth, k)));
}

static inline vec iq4_level(const iq4_search *t, vec x) {
    vec upper;
    __m256i k = iq4_negative_index(t, x, &upper);
    return pick(upper, _mm256_permutevar8x32_ps(t->levels_high, k),
                _mm256_permutevar8x32_ps(t->levels_low, k));
}

static void iq4_scale_lanes(float *scale_out, const float *x_rows, const float *w_rows, size_t n,
                            int len) {
    const iq4_search table = iq4_search_init();
    const vec zero = set(0.0f), level0 = set(pare_iq4_values[0]);
    vec x[MAX_LEN], w[MAX_LEN];
    load_columns(x, x_rows, n, len);
    load_columns(w, w_rows, n, len);
    vec max = signed_max(x, len), empty = _mm256_cmp_ps(max, zero, _CMP_EQ_OQ);
    vec scale = zero, best = zero;
    for (int k = -8; k <= 7; k++) {
        vec inverse = k < -7 ? quot(set(1.0f), quot(negate(max), level0))
                             : quot(add(set((float)k), level0), max);
        vec sum_xq = zero, sum_q2 = zero;
        for (int i = 0; i < len; i++) {
            vec q = iq4_level(&table, mul(inverse, x[i])), wq = mul(w[i], q);
            sum_xq = add(sum_xq, mul(wq, x[i]));
            sum_q2 = add(sum_q2, mul(wq, q));
        }
        vec some = greater(sum_q2, zero);
        vec better = both(some, greater(mul(sum_xq, sum_xq), mul(best, sum_q2)));
        if (k < -7) better = _mm256_cmp_ps(zero, zero, _CMP_EQ_OQ);
        vec now = both(some, quot(sum_xq, sum_q2));
        scale = pick(better, now, scale);
        best = pick(better, mul(now, sum_xq), best);
    }
    store_lanes(scale_out, pick(empty, zero, scale), n);
}

static void iq4_scale_avx2(float *scale, const float *x, const float *w, size_t groups, int len) {
    for (size_t g = 0; g < groups; g += LANES) {
        size_t n = groups - g < LANES ? groups - g : LANES, at = g * (size_t)len;
        iq4_scale_lanes(scale + g, x + at, w + at, n, len);
    }
}

/* Sixteen codes from two vectors of 32-bit numbers 0..255. */
static inline void store16(uint8_t *q, __m256i a, __m256i b) {
    __m256i w = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
    __m128i v = _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)q, v);
}

static void iq4_codes_avx2(uint8_t *q, const float *x, size_t n, float inv_scale) {
    const iq4_search table = iq4_search_init();
    const vec inverse = set(inv_scale);
    const __m256i zero = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 16) {
        vec unused;
        __m256i a = iq4_negative_index(&table, mul(inverse, _mm256_loadu_ps(x + i)), &unused);
        __m256i b = iq4_negative_index(&table, mul(inverse, _mm256_loadu_ps(x + i + 8)), &unused);
        store16(q + i, _mm256_sub_epi32(zero, a), _mm256_sub_epi32(zero, b));
    }
}

/* ---- single passes ---- */

static void round_codes_avx2(uint8_t *q, const float *x, size_t n, float scale, float min, int low,
                             int high) {
    const vec s = set(scale), m = set(min), l = set((float)low), h = set((float)high);
    for (size_t i = 0; i < n; i += 16) {
        vec a = round_clamp(quot(add(_mm256_loadu_ps(x + i), m), s), l, h);
        vec b = round_clamp(quot(add(_mm256_loadu_ps(x + i + 8), m), s), l, h);
        store16(q + i, _mm256_cvtps_epi32(sub(a, l)), _mm256_cvtps_epi32(sub(b, l)));
    }
}

static inline __m256i round_away8(const float *x, vec inverse) {
    vec v = mul(_mm256_loadu_ps(x), inverse), a = _mm256_min_ps(absolute(v), set(127.0f));
    vec whole = _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    vec up = _mm256_cmp_ps(sub(a, whole), set(0.5f), _CMP_GE_OQ);
    whole = add(whole, both(up, set(1.0f)));
    return _mm256_cvtps_epi32(_mm256_or_ps(whole, both(v, set(-0.0f))));
}

static void int8_codes_avx2(int8_t *q, const float *x, size_t n, float inv_scale) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const vec inverse = set(inv_scale);
    for (size_t i = 0; i < n; i += 32) {
        __m256i ab =
            _mm256_packs_epi32(round_away8(x + i, inverse), round_away8(x + i + 8, inverse));
        __m256i cd =
            _mm256_packs_epi32(round_away8(x + i + 16, inverse), round_away8(x + i + 24, inverse));
        __m256i v = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), order);
        _mm256_storeu_si256((__m256i *)(q + i), v);
    }
}

static float abs_max_avx2(const float *x, size_t n) {
    vec max = set(0.0f);
    float lanes[LANES], result = 0.0f;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) max = _mm256_max_ps(max, absolute(_mm256_loadu_ps(x + i)));
    _mm256_storeu_ps(lanes, max);
    for (int k = 0; k < LANES; k++) result = lanes[k] > result ? lanes[k] : result;
    for (; i < n; i++) {
        float a = x[i] < 0.0f ? -x[i] : x[i];
        result = a > result ? a : result;
    }
    return result;
}

static void weigh_avx2(float *w, const float *x, const float *importance, size_t n, float sigma2) {
    for (size_t i = 0; i < n; i += 8) {
        vec v = _mm256_loadu_ps(x + i);
        vec root = _mm256_sqrt_ps(add(set(sigma2), mul(v, v)));
        _mm256_storeu_ps(w + i, mul(_mm256_loadu_ps(importance + i), root));
    }
}

static void weigh_plain_avx2(float *w, const float *x, size_t groups, int len) {
    for (size_t g = 0; g < groups; g += LANES) {
        size_t n = groups - g < LANES ? groups - g : LANES, at = g * (size_t)len;
        vec columns[MAX_LEN], sum = set(0.0f);
        float mean[LANES];
        load_columns(columns, x + at, n, len);
        for (int i = 0; i < len; i++) sum = add(sum, mul(columns[i], columns[i]));
        _mm256_storeu_ps(mean, _mm256_sqrt_ps(quot(sum, set((float)len))));
        for (size_t k = 0; k < n; k++) {
            const float *from = x + at + k * (size_t)len;
            float *to = w + at + k * (size_t)len;
            for (int i = 0; i < len; i += 8)
                _mm256_storeu_ps(to + i, add(set(mean[k]), absolute(_mm256_loadu_ps(from + i))));
        }
    }
}

static void expand_avx2(float *y, const int8_t *q, const float *scale, const float *offset,
                        size_t n, size_t group) {
    for (size_t g = 0; g < n / group; g++) {
        const vec s = set(scale[g]), o = set(offset ? offset[g] : 0.0f);
        for (size_t i = g * group; i < (g + 1) * group; i += 8) {
            vec v =
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(q + i))));
            v = mul(s, v);
            _mm256_storeu_ps(y + i, offset ? add(v, o) : v);
        }
    }
}

static size_t first_nonfinite_avx2(const float *x, size_t n) {
    const __m256i exponent = _mm256_set1_epi32(0x7F800000);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i bits = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)), exponent);
        if (_mm256_movemask_epi8(_mm256_cmpeq_epi32(bits, exponent))) break;
    }
    while (i < n && (pare_f32_bits(x[i]) & 0x7F800000) != 0x7F800000) i++;
    return i;
}

static void f32_to_f16_avx2(uint16_t *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(y + i), h);
    }
    for (; i < n; i++) y[i] = pare_f32_to_f16(x[i]);
}

static void f16_to_f32_avx2(float *y, const uint16_t *x, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
    for (; i < n; i++) y[i] = pare_f16_to_f32(x[i]);
}

void pare_encode_kernels_avx2(pare_encode_kernels *k) {
    k->fit = fit_avx2;
    k->symmetric = symmetric_avx2;
    k->symmetric_sweep = symmetric_sweep_avx2;
    k->iq4_scale = iq4_scale_avx2;
    k->iq4_codes = iq4_codes_avx2;
    k->round_codes = round_codes_avx2;
    k->int8_codes = int8_codes_avx2;
    k->abs_max = abs_max_avx2;
    k->weigh = weigh_avx2;
    k->weigh_plain = weigh_plain_avx2;
    k->expand = expand_avx2;
    k->grid_errors = pare_grid_errors_avx2;
    k->first_nonfinite = first_nonfinite_avx2;
    k->f32_to_f16 = f32_to_f16_avx2;
    k->f16_to_f32 = f16_to_f32_avx2;
}
