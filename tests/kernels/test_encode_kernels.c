/* The searches of the encoders: every level must return the bits of plain C, on ordinary and on
 * ugly values, for every number of groups that ends in the middle of a vector. Buffers have the
 * exact size, so that the address sanitizer sees a wrong read or write. */
#include "support/test.h"

#include "base/memory.h"
#include "base/rng.h"
#include "kernels/blocks.h"
#include "kernels/encode.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- values ---- */

enum { KINDS = 14, MAX_GROUPS = 19 };

static const char *const kind_names[KINDS] = {
    "normal",      "all zero",  "denormal", "constant", "negative constant",
    "one outlier", "float max", "tiny",     "positive", "negative",
    "two values",  "steps",     "huge",     "mixed"};

static float value(int kind, size_t i) {
    float r = pare_rng_normal(7, (uint64_t)kind, i);
    switch (kind) {
    case 0:
        return 0.02f * r;
    case 1:
        return i % 3 ? 0.0f : -0.0f;
    case 2:
        return 1e-40f * r;
    case 3:
        return 0.25f;
    case 4:
        return -3.5f;
    case 5:
        return i % 32 == 7 ? 1000.0f : 0.001f * r;
    case 6:
        return i % 2 ? FLT_MAX : -FLT_MAX;
    case 7:
        return 1e-16f * r;
    case 8:
        return fabsf(r);
    case 9:
        return -fabsf(r) - 1.0f;
    case 10:
        return i % 5 ? 1.0f : -1.0f;
    case 11:
        return (float)((int)(i * 7 % 31) - 15) * 0.5f; /* many exact ties */
    case 12:
        return 1e15f * r;
    default:
        return value((int)(i / 32 % 13), i); /* groups of every kind in one vector */
    }
}

typedef struct inputs {
    size_t groups;
    int len;
    float *x, *w; /* [groups * len], exact */
} inputs;

static inputs inputs_make(int kind, size_t groups, int len) {
    size_t n = groups * (size_t)len;
    inputs in = {groups, len, pare_malloc(n, sizeof(float)), pare_malloc(n, sizeof(float))};
    for (size_t i = 0; i < n; i++) {
        in.x[i] = value(kind, i);
        in.w[i] = kind % 2 ? in.x[i] * in.x[i] : 0.1f + pare_rng_uniform(8, 0, i);
        if (i % 97 < 32 && kind == 13) in.w[i] = 0.0f;
        if (!isfinite(in.w[i])) in.w[i] = FLT_MAX;
    }
    return in;
}

static void inputs_free(inputs *in) {
    pare_free(in->x);
    pare_free(in->w);
}

/* ---- results ---- */

typedef struct results {
    size_t n, groups;
    uint8_t *q;
    float *scale, *min;
} results;

static results results_make(const inputs *in) {
    results r = {in->groups * (size_t)in->len, in->groups, NULL, NULL, NULL};
    r.q = pare_calloc(r.n, 1);
    r.scale = pare_calloc(r.groups, sizeof(float));
    r.min = pare_calloc(r.groups, sizeof(float));
    return r;
}

static void results_free(results *r) {
    pare_free(r->q);
    pare_free(r->scale);
    pare_free(r->min);
}

/* Equal bits; NaN equals NaN (its sign and payload are the processor's business). */
static bool same(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, 4) && !(isnan(a[i]) && isnan(b[i])) && !(a[i] == 0 && b[i] == 0))
            return false;
    return true;
}

static void check(const results *a, const results *b, const char *what, pare_isa isa, int kind,
                  const inputs *in) {
    const char *part = memcmp(a->q, b->q, a->n)               ? "codes"
                       : !same(a->scale, b->scale, a->groups) ? "scales"
                       : !same(a->min, b->min, a->groups)     ? "minima"
                                                              : NULL;
    if (part)
        fail_msg("%s %s (%s, %s, %zu groups of %d): differs from plain C", what, part,
                 pare_isa_name(isa), kind_names[kind], in->groups, in->len);
}

static void run(const pare_encode_kernels *k, int what, const inputs *in, results *r) {
    static const pare_fit fits[] = {{15, -1.0f, 0.1f, 20, false},
                                    {31, -0.5f, 0.1f, 15, false},
                                    {15, -0.9f, 0.05f, 36, false},
                                    {3, -0.5f, 0.1f, 15, true},
                                    {3, -0.9f, 0.05f, 36, false}};
    static const int nmax[] = {4, 8, 16, 32};
    if (what < 5)
        k->fit(r->q, r->scale, r->min, in->x, in->w, in->groups, in->len, &fits[what]);
    else if (what < 9)
        k->symmetric(r->q, r->scale, in->x, in->w, in->groups, in->len, nmax[what - 5]);
    else if (what < 11)
        k->symmetric_sweep(r->q, r->scale, in->x, in->groups, in->len, what == 9 ? 4 : 16);
    else
        k->iq4_scale(r->scale, in->x, in->w, in->groups, in->len);
}

static void test_searches(void **state) {
    (void)state;
    static const size_t groups[] = {1, 2, 7, 8, 9, 16, MAX_GROUPS};
    const pare_encode_kernels *ref = pare_encode_kernels_get(PARE_ISA_REF);
    for (pare_isa isa = PARE_ISA_AVX2; isa <= pare_isa_best(); isa++) {
        const pare_encode_kernels *fast = pare_encode_kernels_get(isa);
        for (int kind = 0; kind < KINDS; kind++)
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
                for (int len = 16; len <= 32; len += 16) {
                    inputs in = inputs_make(kind, groups[g], len);
                    for (int what = 0; what < 12; what++) {
                        results a = results_make(&in), b = results_make(&in);
                        run(ref, what, &in, &a);
                        run(fast, what, &in, &b);
                        check(&a, &b,
                              what < 5    ? "fit"
                              : what < 9  ? "symmetric"
                              : what < 11 ? "sweep"
                                          : "iq4",
                              isa, kind, &in);
                        results_free(&a);
                        results_free(&b);
                    }
                    inputs_free(&in);
                }
    }
}

/* ---- single passes ---- */

static void check_passes(const pare_encode_kernels *ref, const pare_encode_kernels *fast, int kind,
                         size_t n) {
    inputs in = inputs_make(kind, n / 32, 32);
    uint8_t *qa = pare_malloc(n, 1), *qb = pare_malloc(n, 1);
    float *ya = pare_malloc(n, 4), *yb = pare_malloc(n, 4);
    static const float scales[] = {0.003f, -0.1f, 1e-30f, 7.0f, 1e30f};
    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
        ref->iq4_codes(qa, in.x, n, 1.0f / scales[s]);
        fast->iq4_codes(qb, in.x, n, 1.0f / scales[s]);
        assert_memory_equal(qa, qb, n);
        ref->round_codes(qa, in.x, n, scales[s], 0.01f, -4, 11);
        fast->round_codes(qb, in.x, n, scales[s], 0.01f, -4, 11);
        assert_memory_equal(qa, qb, n);
        ref->int8_codes((int8_t *)qa, in.x, n, 1.0f / scales[s]);
        fast->int8_codes((int8_t *)qb, in.x, n, 1.0f / scales[s]);
        assert_memory_equal(qa, qb, n);
        float groups[MAX_GROUPS * 2], offsets[MAX_GROUPS * 2];
        for (size_t g = 0; g < n / 16; g++) {
            groups[g] = scales[s] * (float)g;
            offsets[g] = in.x[g];
        }
        for (size_t group = 16; group <= 32; group += 16)
            for (int with = 0; with < 2; with++) {
                ref->expand(ya, (int8_t *)qa, groups, with ? offsets : NULL, n, group);
                fast->expand(yb, (int8_t *)qa, groups, with ? offsets : NULL, n, group);
                assert_memory_equal(ya, yb, n * 4);
            }
    }
    ref->weigh(ya, in.x, in.w, n, 0.5f);
    fast->weigh(yb, in.x, in.w, n, 0.5f);
    assert_true(same(ya, yb, n));
    ref->weigh_plain(ya, in.x, n / 32, 32);
    fast->weigh_plain(yb, in.x, n / 32, 32);
    assert_true(same(ya, yb, n));
    assert_true(ref->abs_max(in.x, n) == fast->abs_max(in.x, n));
    pare_free(qa);
    pare_free(qb);
    pare_free(ya);
    pare_free(yb);
    inputs_free(&in);
}

static void test_passes(void **state) {
    (void)state;
    for (pare_isa isa = PARE_ISA_AVX2; isa <= pare_isa_best(); isa++)
        for (int kind = 0; kind < KINDS; kind++)
            for (size_t groups = 1; groups <= MAX_GROUPS; groups += 3)
                check_passes(pare_encode_kernels_get(PARE_ISA_REF), pare_encode_kernels_get(isa),
                             kind, 32 * groups);
}

/* Any length: conversions and the search for NaN. */
static void test_lengths(void **state) {
    (void)state;
    static const size_t lengths[] = {0, 1, 7, 8, 9, 31, 32, 33, 1000};
    const pare_encode_kernels *ref = pare_encode_kernels_get(PARE_ISA_REF);
    for (pare_isa isa = PARE_ISA_AVX2; isa <= pare_isa_best(); isa++) {
        const pare_encode_kernels *fast = pare_encode_kernels_get(isa);
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            size_t n = lengths[l];
            float *x = pare_malloc(n, 4), *ya = pare_malloc(n, 4), *yb = pare_malloc(n, 4);
            uint16_t *ha = pare_malloc(n, 2), *hb = pare_malloc(n, 2);
            for (size_t i = 0; i < n; i++) x[i] = value((int)(i % 13), i);
            ref->f32_to_f16(ha, x, n);
            fast->f32_to_f16(hb, x, n);
            assert_memory_equal(ha, hb, 2 * n);
            ref->f16_to_f32(ya, ha, n);
            fast->f16_to_f32(yb, ha, n);
            assert_memory_equal(ya, yb, 4 * n);
            assert_true(ref->abs_max(x, n) == fast->abs_max(x, n));
            assert_int_equal(fast->first_nonfinite(x, n), n);
            for (size_t i = 0; i < n; i++) {
                float was = x[i];
                x[i] = i % 2 ? NAN : -INFINITY;
                assert_int_equal(ref->first_nonfinite(x, n), i);
                assert_int_equal(fast->first_nonfinite(x, n), i);
                x[i] = was;
            }
            pare_free(x);
            pare_free(ya);
            pare_free(yb);
            pare_free(ha);
            pare_free(hb);
        }
    }
}

/* ---- the plain C conversions, known values ---- */

static void test_halves(void **state) {
    (void)state;
    assert_true(pare_f16_to_f32(0x3C00) == 1.0f && pare_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(pare_f16_to_f32(0x7BFF) == 65504.0f && isinf(pare_f16_to_f32(0xFC00)));
    assert_true(isnan(pare_f16_to_f32(0x7C01)));
    assert_int_equal(pare_f32_to_f16(65519.996f), 0x7BFF);
    assert_int_equal(pare_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(pare_f32_to_f16(0x1p-25f), 0); /* a tie goes to even */
    assert_int_equal(pare_f32_to_f16(0x1.000002p-25f), 1);
    assert_int_equal(pare_f32_to_f16(1.0f + 0x1p-11f), 0x3C00);
    assert_int_equal(pare_f32_to_f16(1.0f + 0x1.8p-10f), 0x3C02);
    for (uint32_t h = 0; h < 0x7C00; h++) {
        assert_int_equal(pare_f32_to_f16(pare_f16_to_f32((uint16_t)h)), h);
        assert_int_equal(pare_f32_to_f16(-pare_f16_to_f32((uint16_t)h)), h | 0x8000);
    }
    assert_int_equal(pare_f32_to_bf16(1.0f + 0x1p-8f), 0x3F80);
    assert_int_equal(pare_f32_to_bf16(1.0f + 0x1.8p-7f), 0x3F82);
    assert_int_equal(pare_f32_to_bf16(FLT_MAX), 0x7F80);
    assert_int_equal(pare_f32_to_bf16(pare_f32_from_bits(0x7F800001)), 0x7FC0);
    assert_true(pare_e8m0_half(0) == 0x1p-128f && pare_e8m0_half(1) == 0x1p-127f);
    assert_true(pare_e8m0_half(128) == 1.0f && pare_e4m3_half(0x38) == 0.5f);
    assert_true(pare_e4m3_half(0x7E) == 224.0f && pare_e4m3_half(0x7F) == 0.0f);
    assert_true(pare_e4m3_half(1) == 0x1p-10f);
}

/* Nearest level: against a search over all 16 with the stated rule for ties. */
static void test_iq4_codes(void **state) {
    (void)state;
    const pare_encode_kernels *k = pare_encode_kernels_get(PARE_ISA_REF);
    float x[16];
    uint8_t q[16];
    for (int step = -600; step < 600; step += 16) {
        for (int i = 0; i < 16; i++) x[i] = 0.25f * (float)(step + i);
        k->iq4_codes(q, x, 16, 1.0f);
        for (int i = 0; i < 16; i++) {
            int best = 0;
            for (int j = 1; j < 16; j++)
                if (fabsf(x[i] - pare_iq4_values[j]) <= fabsf(x[i] - pare_iq4_values[best]))
                    best = j;
            assert_int_equal(q[i], best);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_searches),  cmocka_unit_test(test_passes),
        cmocka_unit_test(test_lengths),   cmocka_unit_test(test_halves),
        cmocka_unit_test(test_iq4_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
