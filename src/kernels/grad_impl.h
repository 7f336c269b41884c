/* Backward halves on vectors; include a vec_*.h first. Sums run in four vectors, as in norm_impl.h.
 * A row's tail is a masked vector, whose other lanes are zero. */
#include "kernels/grad.h"
#include "kernels/vmath.h"

#include <math.h>

/* body(i, n) on every vector of a row: n lanes, VF but for the last. */
#define VECTORS(count, body)                                                                       \
    do {                                                                                           \
        size_t i_ = 0;                                                                             \
        for (; i_ + VF <= (count); i_ += VF) body(i_, VF);                                         \
        if (i_ < (count)) body(i_, (count)-i_);                                                    \
    } while (0)

/* n is a constant VF in the loop: the branch goes away. */
static inline vf load(const float *p, size_t n) { return n == VF ? vf_load(p) : vf_load_n(p, n); }
static inline void store(float *p, vf x, size_t n) {
    if (n == VF)
        vf_store(p, x);
    else
        vf_store_n(p, x, n);
}
static inline vf take(float *p, size_t n) {
    vf x = load(p, n);
    store(p, vf_zero(), n);
    return x;
}
static inline void add_to(float *p, vf x, size_t n) { store(p, vf_add(load(p, n), x), n); }
static inline vf lanes(vf x, size_t n) {
    return n == VF ? x : vf_select(vm_range(0, (int)n), x, vf_zero());
}

static void moments(float *mean, float *r, const float *x, size_t dim, float eps, int rms) {
    vf sum = vf_zero(), squares = vf_zero();
    float m = 0.0f;
#define BODY(i, n) sum = vf_add(sum, load(x + (i), n))
    if (!rms) {
        VECTORS(dim, BODY);
        m = dim ? vf_sum(sum) / (float)dim : 0.0f;
    }
#undef BODY
    const vf mv = vf_set(m);
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf t = lanes(vf_sub(load(x + (i), n), mv), n);                                             \
        squares = vf_fma(t, t, squares);                                                           \
    } while (0)
    VECTORS(dim, BODY);
#undef BODY
    float v = dim ? vf_sum(squares) / (float)dim + eps : 0.0f;
    *mean = m;
    *r = v == 0.0f ? 0.0f : 1.0f / sqrtf(v);
}

static void norm(float *dx, float *dy, const float *x, const float *g, float mean, float r,
                 size_t dim, int centred) {
    const vf m = vf_set(mean), rv = vf_set(r);
    vf sum = vf_zero(), dot = vf_zero();
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf t = vf_mul(load(g + (i), n), load(dy + (i), n));                                        \
        sum = vf_add(sum, t);                                                                      \
        dot = vf_fma(t, vf_mul(vf_sub(load(x + (i), n), m), rv), dot);                             \
    } while (0)
    VECTORS(dim, BODY);
#undef BODY
    const vf shift = vf_set(centred ? vf_sum(sum) / (float)dim : 0.0f),
             along = vf_set(dim ? vf_sum(dot) / (float)dim : 0.0f);
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf t = vf_sub(vf_mul(load(g + (i), n), take(dy + (i), n)), shift);                         \
        vf hat = vf_mul(vf_sub(load(x + (i), n), m), rv);                                          \
        add_to(dx + (i), vf_mul(rv, vf_fnma(hat, along, t)), n);                                   \
    } while (0)
    VECTORS(dim, BODY);
#undef BODY
}

static void norm_weights(float *dg, float *db, const float *dy, const float *x, float mean, float r,
                         size_t count) {
    const vf m = vf_set(mean), rv = vf_set(r);
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf d = load(dy + (i), n), hat = vf_mul(vf_sub(load(x + (i), n), m), rv);                   \
        store(dg + (i), vf_fma(d, hat, load(dg + (i), n)), n);                                     \
        if (db) add_to(db + (i), d, n);                                                            \
    } while (0)
    VECTORS(count, BODY);
#undef BODY
}

static inline vf sigmoid(vf x) {
    return vf_div(vf_set(1.0f), vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), x))));
}

static inline vf silu_slope(vf x, vf *s) {
    *s = sigmoid(x);
    return vf_mul(*s, vf_fma(x, vf_sub(vf_set(1.0f), *s), vf_set(1.0f)));
}

/* gelu(x) = x s, s = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
static inline vf gelu_slope(vf x, vf *s) {
    const vf k = vf_set(1.59576912f), k3 = vf_set(1.59576912f * 0.044715f),
             k9 = vf_set(3 * 1.59576912f * 0.044715f);
    vf xx = vf_mul(x, x);
    *s = sigmoid(vf_mul(x, vf_fma(k3, xx, k)));
    vf inner = vf_mul(vf_mul(x, *s), vf_fma(k9, xx, k));
    return vf_fma(inner, vf_sub(vf_set(1.0f), *s), *s);
}

#define GATE(name, slope_of)                                                                       \
    static inline void name##_part(float *da, float *db, float *dy, const float *a,                \
                                   const float *b, size_t n) {                                     \
        vf d = take(dy, n), x = load(a, n), s, slope = slope_of(x, &s);                            \
        vf up = vf_mul(vf_mul(d, load(b, n)), slope);                                              \
        add_to(db, vf_mul(vf_mul(d, x), s), n);                                                    \
        add_to(da, up, n);                                                                         \
    }                                                                                              \
    static void name(float *da, float *db, float *dy, const float *a, const float *b,              \
                     size_t count) {                                                               \
        size_t i = 0;                                                                              \
        for (; i + VF <= count; i += VF) name##_part(da + i, db + i, dy + i, a + i, b + i, VF);    \
        if (i < count) name##_part(da + i, db + i, dy + i, a + i, b + i, count - i);               \
    }
GATE(silu_mul, silu_slope)
GATE(gelu_mul, gelu_slope)

static void gelu(float *dx, float *dy, const float *x, size_t count) {
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf d = take(dy + (i), n), s;                                                               \
        add_to(dx + (i), vf_mul(d, gelu_slope(load(x + (i), n), &s)), n);                          \
    } while (0)
    VECTORS(count, BODY);
#undef BODY
}

static void relu(float *dx, float *dy, const float *x, size_t count) {
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf d = take(dy + (i), n);                                                                  \
        add_to(dx + (i), vf_select(vf_lt(vf_zero(), load(x + (i), n)), d, vf_zero()), n);          \
    } while (0)
    VECTORS(count, BODY);
#undef BODY
}

static void scale(float *dx, float *dy, float s, size_t count) {
    const vf sv = vf_set(s);
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf d = take(dy + (i), n);                                                                  \
        store(dx + (i), vf_fma(d, sv, load(dx + (i), n)), n);                                      \
    } while (0)
    VECTORS(count, BODY);
#undef BODY
}

static void softcap(float *d, const float *y, float c, size_t count) {
    const vf inverse = vf_set(1.0f / c), one = vf_set(1.0f);
#define BODY(i, n)                                                                                 \
    do {                                                                                           \
        vf t = vf_mul(load(y + (i), n), inverse);                                                  \
        store(d + (i), vf_mul(load(d + (i), n), vf_fnma(t, t, one)), n);                           \
    } while (0)
    VECTORS(count, BODY);
#undef BODY
}

static void softmax(float *dp, const float *p, float s, size_t count) {
    vf dot = vf_zero();
#define BODY(i, n) dot = vf_fma(load(p + (i), n), load(dp + (i), n), dot)
    VECTORS(count, BODY);
#undef BODY
    const vf all = vf_set(vf_sum(dot)), sv = vf_set(s);
#define BODY(i, n)                                                                                 \
    store(dp + (i), vf_mul(vf_mul(sv, load(p + (i), n)), vf_sub(load(dp + (i), n), all)), n)
    VECTORS(count, BODY);
#undef BODY
}

static void axpy(float *y, const float *x, float s, size_t count) {
    const vf sv = vf_set(s);
#define BODY(i, n) store(y + (i), vf_fma(sv, load(x + (i), n), load(y + (i), n)), n)
    VECTORS(count, BODY);
#undef BODY
}
