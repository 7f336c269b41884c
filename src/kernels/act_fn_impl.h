/* Element-wise functions on vectors; include a vec_*.h first. FOR_EACH runs `body` on vectors
 * loaded by LOAD and stores R, with a masked last one. */
#include "kernels/act_fn.h"
#include "kernels/vmath.h"

#define FOR_EACH(y, n, expression)                                                                 \
    do {                                                                                           \
        size_t i = 0;                                                                              \
        for (; i + VF <= n; i += VF) vf_store((y) + i, expression(vf_load));                       \
        if (i < n) vf_store_n((y) + i, expression(LOAD_TAIL), n - i);                              \
    } while (0)
#define LOAD_TAIL(p) vf_load_n(p, n - i)

static inline vf silu(vf x) {
    return vf_div(x, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), x))));
}

/* x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): does not cancel for negative x. */
static inline vf gelu(vf x) {
    const vf k = vf_set(-1.59576912f), k3 = vf_set(-1.59576912f * 0.044715f);
    vf u = vf_mul(x, vf_fma(k3, vf_mul(x, x), k));
    return vf_div(x, vf_add(vf_set(1.0f), vf_exp(u)));
}

static void silu_mul(float *y, const float *a, const float *b, size_t n) {
#define EXPR(load) vf_mul(silu(load(a + i)), load(b + i))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void gelu_mul(float *y, const float *a, const float *b, size_t n) {
#define EXPR(load) vf_mul(gelu(load(a + i)), load(b + i))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void gelu_row(float *y, const float *x, size_t n) {
#define EXPR(load) gelu(load(x + i))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void relu(float *y, const float *x, size_t n) {
#define EXPR(load) vf_max(vf_zero(), load(x + i))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void add(float *y, const float *a, const float *b, size_t n) {
#define EXPR(load) vf_add(load(a + i), load(b + i))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void scale(float *y, const float *x, float s, size_t n) {
#define EXPR(load) vf_mul(load(x + i), vf_set(s))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void softcap(float *y, const float *x, float c, size_t n) {
    const float inverse = 1.0f / c;
#define EXPR(load) vf_mul(vf_set(c), vf_tanh(vf_mul(load(x + i), vf_set(inverse))))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void exp_row(float *y, const float *x, size_t n) {
#define EXPR(load) vf_exp(load(x + i))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}

static void tanh_row(float *y, const float *x, size_t n) {
#define EXPR(load) vf_tanh(load(x + i))
    FOR_EACH(y, n, EXPR);
#undef EXPR
}
