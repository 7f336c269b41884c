/* Kernels of norms, activations, RoPE and softmax: each level against the reference over all tails
 * on buffers of exact size, closed forms and properties; then the operators around them. Built a
 * second time with PARE_EMULATE for levels that the machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/ops.h"
#include "base/rng.h"

#define EPS ((double)FLT_EPSILON)

static const size_t lengths[] = {0,  1,  2,  7,  8,  9,   15,  16,   17,   24,   31,
                                 32, 33, 47, 63, 64, 100, 576, 1000, 1023, 1025, 3001};
enum { N_LENGTHS = sizeof lengths / sizeof lengths[0] };

/* n floats, exactly: a read or write past the end is seen by the address sanitizer. */
static float *floats(size_t n) { return malloc(n ? n * sizeof(float) : 1); }

static float *normal(size_t n, uint64_t stream, float scale) {
    float *x = floats(n);
    for (size_t i = 0; i < n; i++) x[i] = scale * pare_rng_normal(5, stream, i);
    return x;
}

static void close_to(const char *what, pare_isa isa, size_t n, size_t i, double got, double want,
                     double tol) {
    if (isnan(want) ? isnan(got) : got == want || fabs(got - want) <= tol) return;
    fail_msg("%s, %s, n %zu, [%zu]: found %.9g, expected %.9g +- %.3g", what, pare_isa_name(isa), n,
             i, got, want, tol);
}

/* ---- exp and tanh over all exponents ---- */

static double ulps(float got, double want) {
    int e;
    frexp(want, &e);
    double ulp = ldexp(1.0, (e > -125 ? e : -125) - 24);
    return fabs((double)got - want) / ulp;
}

static void exp_and_tanh_are_accurate(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    float *x = floats(N), *y = floats(N);
    for (int isa = FIRST_VECTOR_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
        const pare_act_fn_kernels *k = pare_op_kernels_get((pare_isa)isa)->act;
        double worst_exp = 0, worst_tanh = 0;
        for (int round = 0; round < 16; round++) {
            for (int i = 0; i < N; i++) {
                uint32_t t = (uint32_t)(round * N + i);
                x[i] = -87.3f + (float)t * (87.3f + 88.7f) / (16.0f * N);
            }
            k->exp(y, x, N);
            for (int i = 0; i < N; i++) worst_exp = fmax(worst_exp, ulps(y[i], exp((double)x[i])));
            for (int i = 0; i < N; i++) { /* 2^-30 .. 2^5, both signs */
                double u = (double)(round * N + i) / (16.0 * N);
                x[i] = (float)(exp2(-30 + 35 * u) * (i & 1 ? -1 : 1));
            }
            k->tanh(y, x, N);
            for (int i = 0; i < N; i++) {
                worst_tanh = fmax(worst_tanh, ulps(y[i], tanh((double)x[i])));
                assert_true(fabsf(y[i]) <= 1.0f);
            }
        }
        printf("%s: exp %.2f ulp, tanh %.2f ulp\n", pare_isa_name((pare_isa)isa), worst_exp,
               worst_tanh);
        assert_true(worst_exp <= 2.0 && worst_tanh <= 2.0);
        float odd[9] = {0.0f, -0.0f, 1000, -1000, INFINITY, -INFINITY, NAN, 88.8f, -87.4f}, out[9];
        float exp_odd[9] = {1, 1, INFINITY, 0, INFINITY, 0, NAN, INFINITY, 0};
        float tanh_odd[9] = {0.0f, -0.0f, 1, -1, 1, -1, NAN, 1, -1};
        k->exp(out, odd, 9);
        for (size_t i = 0; i < 9; i++) close_to("exp", (pare_isa)isa, 9, i, out[i], exp_odd[i], 0);
        k->tanh(out, odd, 9);
        for (size_t i = 0; i < 9; i++)
            close_to("tanh", (pare_isa)isa, 9, i, out[i], tanh_odd[i], 0);
    }
    free(x);
    free(y);
}

/* ---- each level against the reference ---- */

static void norms_match(void **state) {
    (void)state;
    const pare_norm_kernels *ref = pare_op_kernels_get(PARE_ISA_REF)->norm;
    for (int isa = FIRST_VECTOR_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (size_t l = 0; l < N_LENGTHS; l++) {
            size_t n = lengths[l];
            const pare_norm_kernels *k = pare_op_kernels_get((pare_isa)isa)->norm;
            float *x = normal(n, 1, 3), *r = normal(n, 2, 1), *g = normal(n, 3, 1);
            float *b = normal(n, 4, 1), *want = floats(n), *got = floats(n);
            /* the sum of squares, n positive terms: at most n eps / 2 off, halved by the root; in
             * layernorm the mean's error of n eps |x| comes to each value */
            double tol = ((double)n / 4 + 8) * EPS;
            ref->rmsnorm(want, x, g, n, 1e-5f);
            k->rmsnorm(got, x, g, n, 1e-5f);
            for (size_t i = 0; i < n; i++)
                close_to("rmsnorm", (pare_isa)isa, n, i, got[i], want[i], tol * fabs(want[i]));
            float *x2 = floats(n);
            if (n) memcpy(x2, x, n * sizeof *x);
            ref->add_rmsnorm(want, x, r, g, n, 1e-5f);
            k->add_rmsnorm(got, x2, r, g, n, 1e-5f);
            for (size_t i = 0; i < n; i++) {
                assert_true(x[i] == x2[i]);
                close_to("add_rmsnorm", (pare_isa)isa, n, i, got[i], want[i], tol * fabs(want[i]));
            }
            for (int bias = 0; bias < 2 && n > 1; bias++) { /* n = 1: 0 / sqrt(eps) of roundings */
                ref->layernorm(want, x, g, bias ? b : NULL, n, 1e-5f);
                k->layernorm(got, x, g, bias ? b : NULL, n, 1e-5f);
                for (size_t i = 0; i < n; i++)
                    close_to("layernorm", (pare_isa)isa, n, i, got[i], want[i],
                             4 * tol * (fabs(g[i]) * 6 + 2));
            }
            free(x);
            free(x2);
            free(r);
            free(g);
            free(b);
            free(want);
            free(got);
        }
}

/* Inputs of activations: normal numbers of several sizes and the odd ones. */
static float *activation_inputs(size_t n) {
    float *x = normal(n, 6, 2);
    for (size_t i = 0; i < n; i++)
        if (i % 5 == 3) x[i] *= 20;
    const float odd[] = {0.0f, -0.0f, NAN, 1e-40f, 300, -300, 3e38f};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0] && i * 9 + 4 < n; i++) x[i * 9 + 4] = odd[i];
    return x;
}

static void activations_match(void **state) {
    (void)state;
    const pare_act_fn_kernels *ref = pare_op_kernels_get(PARE_ISA_REF)->act;
    for (int level = FIRST_VECTOR_LEVEL; level <= (int)TOP_LEVEL; level++)
        for (size_t l = 0; l < N_LENGTHS; l++) {
            pare_isa isa = (pare_isa)level;
            const pare_act_fn_kernels *k = pare_op_kernels_get(isa)->act;
            size_t n = lengths[l];
            float *x = activation_inputs(n), *b = normal(n, 7, 1);
            float *want = floats(n), *got = floats(n);
/* silu, gelu: the exponent's argument u carries an error of some eps, so exp(u) one of |u| eps;
 * |u| <= 88 where the result is above 1e-37. */
#define COMPARE(call, bound)                                                                       \
    do {                                                                                           \
        ref->call(want, X_, n);                                                                    \
        k->call(got, X_, n);                                                                       \
        for (size_t i = 0; i < n; i++) close_to(#call, isa, n, i, got[i], want[i], bound);         \
    } while (0)
#define X_ x, b
            COMPARE(silu_mul, 8 * EPS * fabs(want[i]) + 1e-36);
            COMPARE(gelu_mul, 400 * EPS * fabs(want[i]) + 1e-35);
            COMPARE(add, 0);
#undef X_
#define X_ x
            COMPARE(gelu, 400 * EPS * fabs(want[i]) + 1e-35);
            COMPARE(relu, 0);
#undef X_
#define X_ x, 0.37f
            COMPARE(scale, 0);
#undef X_
#define X_ x, 30.0f
            COMPARE(softcap,
                    4 * EPS * fabs(want[i]) + 30 * 0x1p-149); /* denormals: x / c is rounded */
#undef X_
            if (n) memcpy(got, x, n * sizeof *x); /* in place: the same bits */
            k->silu_mul(want, x, b, n);
            k->silu_mul(got, got, b, n);
            for (size_t i = 0; i < n; i++) close_to("in place", isa, n, i, got[i], want[i], 0);
            free(x);
            free(b);
            free(want);
            free(got);
        }
}

static void rope_matches(void **state) {
    (void)state;
    for (int isa = FIRST_VECTOR_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (size_t half = 1; half < 70; half += half < 20 ? 1 : 12) {
            pare_rope rope = {.half = half, .scale = 1};
            for (size_t i = 0; i < half; i++)
                rope.inv_freq[i] = pow(1e4, -(double)i / (double)half);
            float *c = floats(half), *s = floats(half);
            pare_rope_angles(c, s, &rope, 123456);
            float *want = normal(2 * half, 8, 1), *got = normal(2 * half, 8, 1);
            pare_op_kernels_get(PARE_ISA_REF)->rope->rotate(want, c, s, half);
            pare_op_kernels_get((pare_isa)isa)->rope->rotate(got, c, s, half);
            for (size_t i = 0; i < 2 * half; i++)
                close_to("rope", (pare_isa)isa, half, i, got[i], want[i], 8 * EPS);
            free(c);
            free(s);
            free(want);
            free(got);
        }
}

static void softmax_rows_match(void **state) {
    (void)state;
    const pare_softmax_kernels *ref = pare_op_kernels_get(PARE_ISA_REF)->softmax;
    for (int level = FIRST_VECTOR_LEVEL; level <= (int)TOP_LEVEL; level++)
        for (size_t l = 0; l < N_LENGTHS; l++) {
            pare_isa isa = (pare_isa)level;
            const pare_softmax_kernels *k = pare_op_kernels_get(isa)->softmax;
            size_t n = lengths[l];
            float *x = normal(n, 9, 4), *want = floats(n), *got = floats(n);
            if (n > 20) x[n / 2] = -INFINITY;
            double lse = ref->logsumexp(x, n);
            /* terms within 2 ulp and their argument's rounding; sums of up to 1024 in 8 lanes */
            close_to("logsumexp", isa, n, 0, k->logsumexp(x, n), lse, (16 + 128) * EPS);
            assert_int_equal(k->argmax(x, n), ref->argmax(x, n));
            ref->softmax(want, x, 0.8f, n);
            k->softmax(got, x, 0.8f, n);
            double sum = 0;
            for (size_t i = 0; i < n; i++) {
                close_to("softmax", isa, n, i, got[i], want[i], 150 * EPS * want[i] + 1e-37);
                sum += got[i];
            }
            if (n) assert_true(fabs(sum - 1) < 1e-5);
            ref->subtract(want, x, lse, n);
            k->subtract(got, x, lse, n);
            for (size_t i = 0; i < n; i++)
                close_to("subtract", isa, n, i, got[i], want[i], 2 * EPS * fabs(want[i]));
            float *model = normal(n, 10, 4);
            double model_lse = ref->logsumexp(model, n);
            double kl = ref->divergence(x, lse, model, model_lse, n), terms = 0;
            for (size_t i = 0; i < n; i++) {
                double p = exp(x[i] - lse), d = (x[i] - lse) - (model[i] - model_lse);
                if (p != 0) terms += p * fabs(d) + p * (fabs(x[i]) + fabs(model[i]) + 1);
            }
            close_to("divergence", isa, n, 0, k->divergence(x, lse, model, model_lse, n), kl,
                     150 * EPS * terms + 1e-37);
            assert_true(k->divergence(x, lse, x, lse, n) == 0);
            if (n > 1) { /* -Inf in the model counts where the base has a probability only */
                size_t most = ref->argmax(x, n);
                float old = model[most];
                model[most] = -INFINITY;
                assert_true(k->divergence(x, lse, model, model_lse, n) == INFINITY);
                model[most] = NAN;
                assert_true(isnan(k->divergence(x, lse, model, model_lse, n)));
                model[most] = old;
                if (n > 20) model[n / 2] = -INFINITY;
                assert_true(isfinite(k->divergence(x, lse, model, model_lse, n)));
            }
            free(model);
            if (n > 1) { /* ties take the lowest index, a NaN anywhere is reported */
                size_t at = n / 3;
                x[at] = x[n - 1] = 1000;
                assert_int_equal(k->argmax(x, n), at);
                for (size_t i = 0; i < n; i += n / 7 + 1) {
                    float old = x[i];
                    x[i] = NAN;
                    assert_int_equal(k->argmax(x, n), n);
                    assert_true(isnan(k->logsumexp(x, n)));
                    x[i] = old;
                }
            }
            for (size_t i = 0; i < n; i++) x[i] = -INFINITY;
            assert_true(k->logsumexp(x, n) == -INFINITY);
            k->softmax(got, x, 1, n);
            for (size_t i = 0; i < n; i++) assert_true(got[i] == 0.0f);
            assert_int_equal(k->argmax(x, n), 0); /* of no numbers too: n is 0 there */
            free(x);
            free(want);
            free(got);
        }
}

/* ---- properties, every level ---- */

static void norm_properties(void **state) {
    (void)state;
    enum { N = 640 };
    float *x = normal(N, 10, 1), *y = floats(N), *z = floats(N), *one = floats(N);
    for (int i = 0; i < N; i++) one[i] = 1;
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
        const pare_norm_kernels *k = pare_op_kernels_get((pare_isa)isa)->norm;
        k->rmsnorm(y, x, one, N, 0);
        double ms = 0, mean = 0, var = 0;
        for (int i = 0; i < N; i++) ms += (double)y[i] * y[i] / N;
        assert_true(fabs(ms - 1) < 1e-5); /* unit RMS */
        float *ax = floats(N);
        for (int i = 0; i < N; i++) ax[i] = 8 * x[i]; /* exact, so the bits are equal */
        k->rmsnorm(z, ax, one, N, 0);
        assert_memory_equal(y, z, N * sizeof *y);
        k->layernorm(y, x, one, NULL, N, 0);
        for (int i = 0; i < N; i++) mean += (double)y[i] / N;
        for (int i = 0; i < N; i++) var += (double)y[i] * y[i] / N;
        assert_true(fabs(mean) < 1e-5 && fabs(var - 1) < 1e-5);
        memset(ax, 0, N * sizeof *ax);
        for (int e = 0; e < 2; e++) { /* a zero row gives zeros, with eps 0 too */
            k->rmsnorm(z, ax, one, N, e ? 1e-6f : 0);
            for (int i = 0; i < N; i++) assert_true(z[i] == 0);
            k->layernorm(z, ax, one, x, N, e ? 1e-6f : 0);
            assert_memory_equal(z, x, N * sizeof *x);
        }
        free(ax);
    }
    free(x);
    free(y);
    free(z);
    free(one);
}

static double dot(const float *a, const float *b, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)a[i] * b[i];
    return s;
}

/* Position 0 is the identity; q_i . k_j depends on i - j only, also far out; the pairwise rotation
 * of permuted rows is the same. */
static void rope_properties(void **state) {
    (void)state;
    enum { HALF = 32, DIM = 64 };
    pare_rope rope = {.half = HALF, .scale = 1};
    for (int i = 0; i < HALF; i++) rope.inv_freq[i] = pow(1e4, -(double)i / HALF);
    float c[HALF], s[HALF], q[DIM], k[DIM], q0[DIM], k0[DIM];
    for (int i = 0; i < DIM; i++) q0[i] = pare_rng_normal(5, 11, (uint64_t)i);
    for (int i = 0; i < DIM; i++) k0[i] = pare_rng_normal(5, 12, (uint64_t)i);
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
        const pare_rope_kernels *r = pare_op_kernels_get((pare_isa)isa)->rope;
        memcpy(q, q0, sizeof q);
        pare_rope_angles(c, s, &rope, 0);
        r->rotate(q, c, s, HALF);
        assert_memory_equal(q, q0, sizeof q);
        double want = 0;
        for (size_t base = 0; base <= 1000000; base = base ? base * 10 : 1) {
            memcpy(q, q0, sizeof q);
            memcpy(k, k0, sizeof k);
            pare_rope_angles(c, s, &rope, base + 7);
            r->rotate(q, c, s, HALF);
            pare_rope_angles(c, s, &rope, base);
            r->rotate(k, c, s, HALF);
            if (base == 0) want = dot(q, k, DIM);
            assert_true(fabs(dot(q, k, DIM) - want) < 64 * 8 * EPS);
        }
        float pairs[DIM]; /* x[i], x[i + half] -> 2i, 2i + 1 */
        for (int i = 0; i < HALF; i++) pairs[2 * i] = q0[i], pairs[2 * i + 1] = q0[i + HALF];
        memcpy(q, q0, sizeof q);
        pare_rope_angles(c, s, &rope, 777);
        r->rotate(q, c, s, HALF);
        for (int i = 0; i < HALF; i++) {
            double a = pairs[2 * i], b = pairs[2 * i + 1];
            assert_true(fabs(q[i] - (a * c[i] - b * s[i])) < 4 * EPS * (fabs(a) + fabs(b)));
            assert_true(fabs(q[i + HALF] - (b * c[i] + a * s[i])) < 4 * EPS * (fabs(a) + fabs(b)));
        }
    }
}

static void caps(void **state) {
    (void)state;
    enum { N = 1000 };
    float *x = normal(N, 13, 40), *y = floats(N);
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
        const pare_act_fn_kernels *k = pare_op_kernels_get((pare_isa)isa)->act;
        k->softcap(y, x, 30, N);
        for (int i = 0; i < N; i++) assert_true(fabsf(y[i]) <= 30 && y[i] * x[i] >= 0);
        k->softcap(y, x, 1e9f, N); /* cap to infinity: the identity */
        for (int i = 0; i < N; i++) assert_true(fabs(y[i] - x[i]) <= 4 * EPS * fabs(x[i]));
        for (int i = 0; i < N; i++) x[i] = (float)i * 1e-3f; /* second order: x - x^3 / 3c^2 */
        k->softcap(y, x, 30, N);
        for (int i = 0; i < N; i++)
            assert_true(fabs(y[i] - x[i]) <= pow(x[i], 3) / 2700 * 1.01 + 4 * EPS * x[i]);
        for (int i = 0; i < N; i++) x[i] = 40 * pare_rng_normal(5, 13, (uint64_t)i);
    }
    free(x);
    free(y);
}

/* ---- the operators ---- */

enum { ROWS = 5, DIM = 96, HEADS = 3, VOCAB = 301 };

typedef struct pass {
    float *buffer[8]; /* [ROWS][DIM] each */
    float *angles, *logprob, *logits, target[ROWS];
    double lse[ROWS];
    pare_arena arena;
    int probes;
} pass;

static void decode_table(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    memcpy(y, (const float *)w->part[0] + row * w->cols + col, n * sizeof *y);
}
static const pare_encoding plain = {
    .name = "test", .block_len = 1, .block_bytes = 4, .n_parts = 1, .decode = decode_table};

/* Every operator once, on the same buffers in a fixed order. */
static void all_operators(pare_worker *w, void *arg) {
    pass *p = arg;
    pare_fwd f = {.w = w,
                  .isa = PARE_ISA_AVX2 < pare_isa_best() ? PARE_ISA_AVX2 : pare_isa_best(),
                  .arena = p->arena};
    f.k = pare_op_kernels_get(f.isa);
    float **b = p->buffer;
    pare_tensor table = {.enc = &plain, .view = {.rows = 4, .cols = DIM, .part = {b[0]}}};
    static const int32_t ids[ROWS] = {3, 0, 2, 2, 1}, targets[ROWS] = {0, 300, 17, 5, 5};
    pare_op_embed(&f, b[1], &table, ids, ROWS, DIM, 9.5f);
    pare_op_add_positions(&f, b[1], &table, &(pare_attn_span){.n = ROWS}, 0, ROWS, DIM);
    pare_op_rmsnorm(&f, b[2], b[1], b[0], ROWS, DIM, 1e-6f);
    pare_op_add_rmsnorm(&f, b[3], b[1], b[2], b[0], ROWS, DIM, 1e-6f);
    pare_op_layernorm(&f, b[4], b[3], b[0], b[0] + DIM, ROWS, DIM, 1e-5f);
    pare_op_head_rmsnorm(&f, b[5], DIM, b[4], DIM, b[0], ROWS, HEADS, DIM / HEADS, 1e-6f);
    pare_rope rope = {.half = DIM / HEADS / 2, .scale = 1};
    for (size_t i = 0; i < rope.half; i++) rope.inv_freq[i] = 1.0 / (double)(i + 1);
    pare_op_rope_angles(&f, p->angles, &rope, &(pare_attn_span){.n = ROWS, .pos0 = 1000}, ROWS);
    pare_op_rope(&f, b[5], DIM, ROWS, HEADS, &rope, p->angles);
    pare_op_silu_mul(&f, b[6], b[5], b[4], ROWS, DIM);
    pare_op_gelu_mul(&f, b[6], b[6], b[4], ROWS, DIM);
    pare_op_gelu(&f, b[7], b[6], ROWS, DIM);
    pare_op_add(&f, b[7], b[7], b[5], ROWS, DIM);
    pare_op_scale(&f, b[7], b[7], 3.0f, ROWS, DIM);
    pare_op_softcap(&f, b[7], b[7], 2.0f, ROWS, DIM);
    pare_op_softcap(&f, b[2], b[7], 0.0f, ROWS, DIM);
    pare_op_relu(&f, b[2], b[2], ROWS, DIM);
    pare_logprob scores = {.lse = p->lse, .target = p->target, .targets = targets};
    pare_op_logprob_block(&f, &scores, p->logits, VOCAB, ROWS, 0, 200);
    pare_op_logprob_block(&f, &scores, p->logits + 200, VOCAB, ROWS, 200, VOCAB - 200);
    pare_op_logprob_finish(&f, &scores, p->logprob, ROWS);
}

static pass run_pass(int n_threads) {
    pass p = {.arena = {.base = aligned_alloc(64, 1 << 16), .capacity = 1 << 16}};
    for (uint64_t i = 0; i < 8; i++) p.buffer[i] = normal(ROWS * DIM, 20 + i, 1);
    p.angles = floats(ROWS * DIM / HEADS);
    p.logprob = floats(ROWS);
    p.logits = normal((size_t)ROWS * VOCAB, 30, 3);
    pare_runtime *rt = test_runtime(n_threads, PARE_ISA_AMX);
    pare_team_run(rt, all_operators, &p);
    pare_runtime_free(rt);
    return p;
}

static void free_pass(pass *p) {
    for (int i = 0; i < 8; i++) free(p->buffer[i]);
    free(p->angles);
    free(p->logprob);
    free(p->logits);
    free(p->arena.base);
}

static void operators_do_not_depend_on_threads(void **state) {
    (void)state;
    pass one = run_pass(1);
    static const int counts[] = {2, 3, 7};
    for (int t = 0; t < 3; t++) {
        pass p = run_pass(counts[t]);
        for (int i = 0; i < 8; i++)
            assert_memory_equal(p.buffer[i], one.buffer[i], ROWS * DIM * sizeof(float));
        assert_memory_equal(p.logprob, one.logprob, ROWS * sizeof(float));
        free_pass(&p);
    }
    /* the last values by hand: an embedding row, a log-probability, softcap then relu */
    float *table = normal(ROWS * DIM, 20, 1);
    for (int i = 0; i < ROWS * DIM; i++) {
        assert_true(fabsf(one.buffer[7][i]) <= 2.0f);
        assert_true(one.buffer[2][i] == (one.buffer[7][i] > 0 ? one.buffer[7][i] : 0));
    }
    double lse = 0;
    for (int i = 0; i < VOCAB; i++) lse += exp((double)one.logits[VOCAB + i]);
    assert_true(fabs(one.logprob[1] - (one.logits[VOCAB + 300] - log(lse))) < 1e-5); /* 2nd block */
    lse = 0;
    for (int i = 0; i < VOCAB; i++) lse += exp((double)one.logits[2 * VOCAB + i]);
    assert_true(fabs(one.logprob[2] - (one.logits[2 * VOCAB + 17] - log(lse))) < 1e-5);
    free(table);
    free_pass(&one);
}

/* A part without weight counts for nothing; a NaN in any part reaches the result. */
static void logprob_parts(void **state) {
    (void)state;
    enum { HALF = 8 };
    float logits[4][2 * HALF] = {{0}}, target[4], logprob[4], largest[4];
    double lse[4];
    int32_t top[4];
    static const int32_t targets[4] = {HALF, HALF, HALF, 0};
    for (int i = 0; i < HALF; i++) logits[0][i] = logits[3][HALF + i] = -INFINITY;
    logits[1][3] = logits[2][HALF + 3] = NAN;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_worker w = {.team = rt->team, .n = 1};
    uint8_t memory[64];
    pare_isa isa = pare_runtime_isa(rt);
    pare_fwd f = {.w = &w,
                  .isa = isa,
                  .k = pare_op_kernels_get(isa),
                  .arena = {.base = memory, .capacity = sizeof memory}};
    pare_logprob p = {lse, target, targets, largest, top};
    pare_op_logprob_block(&f, &p, logits[0], 2 * HALF, 4, 0, HALF);
    pare_op_logprob_block(&f, &p, logits[0] + HALF, 2 * HALF, 4, HALF, HALF);
    pare_op_logprob_finish(&f, &p, logprob, 4);
    assert_true(fabs(logprob[0] + log(HALF)) < 1e-6 && fabs(logprob[3] + log(HALF)) < 1e-6);
    assert_true(isnan(logprob[1]) && isnan(logprob[2]));
    assert_true(top[0] == HALF && top[3] == 0); /* the first of equals; -Inf never is */
    pare_runtime_free(rt);
}

/* ---- linear layers: hooks ---- */

typedef struct linear_test {
    pare_fwd f;
    float *x, *y[2], *bias;
    pare_tensor w[2];
    char names[64];
    double seen; /* sum of the input that the probe saw */
} linear_test;

static bool probe(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs, const float *x,
                  size_t ldx, size_t n, size_t in) {
    linear_test *t = arg;
    if (f->w->id != 0) return true;
    for (size_t i = 0; i < n_outs; i++) strcat(strcat(t->names, outs[i].name), " ");
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < in; j++) t->seen += (double)x[i * ldx + j];
    return true;
}

static bool not_needed(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                       const float *x, size_t ldx, size_t n, size_t in) {
    (void)f, (void)arg, (void)outs, (void)n_outs, (void)x, (void)ldx, (void)n, (void)in;
    return false;
}

/* Codes 0 and +-1 of 0.5: what the products use is known without the quantizer. */
static const pare_act_scheme coarse_scheme = {.granularity = PARE_ACT_PER_TENSOR_STATIC, .bits = 2};
static const pare_act_site coarse = {.scheme = &coarse_scheme,
                                     .grid = {.s = 0.5f, .low = -1, .high = 1}};
static double coarsely(float x) { return fmin(fmax(nearbyint((double)x / 0.5), -1), 1) * 0.5; }

static void linear_pass(pare_worker *w, void *arg) {
    linear_test *t = arg;
    pare_fwd f = t->f;
    f.w = w;
    pare_op_out outs[2] = {
        {.name = "a", .w = &t->w[0], .y = t->y[0], .ldy = DIM, .act = &coarse},
        {.name = "b", .w = &t->w[1], .bias = t->bias, .y = t->y[1], .ldy = DIM, .act = &coarse}};
    pare_op_linear(&f, t->x, DIM, ROWS, 64, outs, 2);
}

/* The probe sees the plain input of both matrices once, the products use the quantizer's output. */
static void linear_hooks(void **state) {
    (void)state;
    linear_test t = {.x = normal(ROWS * DIM, 40, 1), .bias = normal(DIM, 41, 1)};
    float *weights = normal(DIM * 64, 42, 1);
    for (int i = 0; i < 2; i++) {
        t.y[i] = floats(ROWS * DIM);
        t.w[i] = (pare_tensor){.enc = &plain, .view = {.rows = DIM, .cols = 64, .part = {weights}}};
    }
    pare_worker worker;
    t.f = pare_fwd_plan(&worker, 3, PARE_ISA_REF, PARE_COMPUTE_EXACT);
    pare_op_linear(&t.f, NULL, 0, ROWS, 64, &(pare_op_out){.act = &coarse}, 1);
    assert_true(t.f.arena.peak >= ROWS * 64 * sizeof(float));
    assert_true(t.f.linear_bytes > 0);
    t.f.arena = (pare_arena){.base = aligned_alloc(64, t.f.arena.peak), .capacity = t.f.arena.peak};
    t.f.linear_scratch = pare_big_alloc(t.f.linear_bytes);
    t.f.probe = probe;
    t.f.probe_arg = &t;
    pare_runtime *rt = test_runtime(3, PARE_ISA_REF);
    pare_team_run(rt, linear_pass, &t);
    float first = t.y[0][0];
    t.f.probe = not_needed; /* then nothing is computed */
    t.y[0][0] = 1e30f;
    pare_team_run(rt, linear_pass, &t);
    assert_true(t.y[0][0] == 1e30f);
    t.y[0][0] = first;
    pare_runtime_free(rt);
    assert_string_equal(t.names, "a b ");
    double seen = 0;
    for (size_t i = 0; i < ROWS; i++) {
        for (size_t j = 0; j < 64; j++) seen += (double)t.x[i * DIM + j];
        for (size_t r = 0; r < DIM; r++) {
            double want = 0, mag = 1;
            for (size_t j = 0; j < 64; j++) {
                double term = coarsely(t.x[i * DIM + j]) * (double)weights[r * 64 + j];
                want += term;
                mag += fabs(term);
            }
            close_to("linear", PARE_ISA_REF, r, i, t.y[0][i * DIM + r], want, 64 * EPS * mag);
            close_to("linear", PARE_ISA_REF, r, i, t.y[1][i * DIM + r], want + t.bias[r],
                     64 * EPS * (mag + 4));
        }
    }
    assert_true(fabs(seen - t.seen) < 1e-9);
    free(t.x);
    free(t.y[0]);
    free(t.y[1]);
    free(t.bias);
    free(weights);
    free(t.f.arena.base);
    pare_big_free(t.f.linear_scratch, t.f.linear_bytes);
}

/* A plan touches nothing, waits for nobody and counts the scratch of the operators. */
static void planning(void **state) {
    (void)state;
    pare_worker worker;
    pare_fwd f = pare_fwd_plan(&worker, 7, PARE_ISA_AVX2, PARE_COMPUTE_FAST);
    assert_null(pare_fwd_alloc(&f, 100, 4));
    size_t mark = pare_fwd_mark(&f).shared;
    pare_op_rmsnorm(&f, NULL, NULL, NULL, 9, 64, 0);
    pare_op_silu_mul(&f, NULL, NULL, NULL, 9, 64);
    pare_op_embed(&f, NULL, NULL, NULL, 9, 64, 1);
    pare_op_rope_angles(&f, NULL, NULL, NULL, 9);
    assert_int_equal(f.arena.peak, 448);
    pare_op_add_positions(&f, NULL, NULL, NULL, 0, 9, 64);
    assert_int_equal(f.arena.peak, 448 + 7 * 64 * 4);
    assert_int_equal(pare_fwd_mark(&f).shared, mark);
    pare_attn a = {.n_heads = 4};
    size_t last = 0;
    for (size_t n = 1; n < 600; n = n * 3) { /* a plan for n covers all smaller n */
        size_t bytes = pare_attention_scratch_bytes(64, 2, &a, n, 7);
        assert_true(bytes > 0 && bytes >= last);
        last = bytes;
    }
    a.n_heads = SIZE_MAX / 8;
    assert_int_equal(pare_attention_scratch_bytes(64, 2, &a, 8, 7), 0); /* overflow is seen */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_and_tanh_are_accurate),
        cmocka_unit_test(norms_match),
        cmocka_unit_test(activations_match),
        cmocka_unit_test(rope_matches),
        cmocka_unit_test(softmax_rows_match),
        cmocka_unit_test(norm_properties),
        cmocka_unit_test(rope_properties),
        cmocka_unit_test(caps),
        cmocka_unit_test(operators_do_not_depend_on_threads),
        cmocka_unit_test(logprob_parts),
        cmocka_unit_test(linear_hooks),
        cmocka_unit_test(planning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
