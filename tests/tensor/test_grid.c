/* Grids against their definitions: the examples of the papers' sheets, a plain reading of each
 * rule, searches that may only gain, and the error kernel with the same bits at every level. */
#include "support/test.h"

#include "base/rng.h"
#include "kernels/blocks.h"
#include "tensor/grid.h"

#include <stdlib.h>

static const pare_encode_kernels *kernels(void) { return pare_encode_kernels_get(PARE_ISA_AMX); }

static void fit(pare_grid_kind kind, int bits, pare_grid_search search, const float *w,
                const float *h, size_t n, float *scale, uint8_t *zero) {
    const pare_grid g = {kind, bits, search};
    pare_grid_fit(scale, zero, &g, kernels(), w, h, n);
}

static float half(float x) { return pare_f16_to_f32(pare_f32_to_f16(x)); }

static float value_of(float w, float scale, int zero, int bits) {
    return pare_grid_value(pare_grid_code(w, scale, zero, (1 << bits) - 1), scale, zero);
}

/* AutoRound's example, and GPTQ's symmetric grid, whose extremes miss the grid by half a step. */
static void examples(void **state) {
    (void)state;
    const float w[4] = {0.8f, -0.3f, 0.049f,
                        -0.71f}; /* 0.05 is a tie before f16 rounds the scale */
    static const int codes[4] = {0, 11, 8, 15};
    float scale;
    uint8_t zero;
    fit(PARE_GRID_FULL, 4, PARE_GRID_PLAIN, w, NULL, 4, &scale, &zero);
    assert_true(scale == half(-0.1f) && zero == 8);
    for (int i = 0; i < 4; i++) assert_int_equal(pare_grid_code(w[i], scale, zero, 15), codes[i]);

    const float both[2] = {1.0f, -1.0f}, positive[2] = {1.0f, 0.25f};
    fit(PARE_GRID_GPTQ_SYM, 4, PARE_GRID_PLAIN, both, NULL, 2, &scale, &zero);
    assert_true(scale == half(2.0f / 15) && zero == 8);
    assert_true(fabsf(value_of(1, scale, zero, 4) - 0.9333f) < 1e-3f);
    assert_true(fabsf(value_of(-1, scale, zero, 4) + 1.0667f) < 1e-3f);
    fit(PARE_GRID_GPTQ_SYM, 4, PARE_GRID_PLAIN, positive, NULL, 2, &scale, &zero);
    assert_true(scale == half(1.0f / 15) && zero == 8); /* everything above 7/15 is cut */
    assert_true(fabsf(value_of(1, scale, zero, 4) - 7.0f / 15) < 1e-3f);
}

/* Scale and zero point as the rules say, read plainly. */
static void rules(void **state) {
    (void)state;
    static const int all_bits[] = {2, 3, 4, 5, 6, 8};
    for (uint64_t t = 0; t < 300; t++) {
        int bits = all_bits[t % 6], max = (1 << bits) - 1, m = 1 << (bits - 1);
        float w[64], low = INFINITY, high = -INFINITY, s;
        uint8_t z;
        for (size_t i = 0; i < 64; i++) {
            w[i] = pare_rng_normal(2, t, i) * 0.05f + (t % 3 == 1 ? 0.3f : t % 3 == 2 ? -0.3f : 0);
            low = fminf(low, w[i]);
            high = fmaxf(high, w[i]);
        }
        fit(PARE_GRID_SYM_ABSMAX, bits, PARE_GRID_PLAIN, w, NULL, 64, &s, &z);
        assert_true(s == half(fmaxf(high, -low) / (float)(m - 1)) && z == m);
        fit(PARE_GRID_FULL, bits, PARE_GRID_PLAIN, w, NULL, 64, &s, &z);
        float largest = high > -low ? high : low;
        assert_true(s == half(largest / -(float)m) && z == m);
        fit(PARE_GRID_ASYM_MINMAX, bits, PARE_GRID_PLAIN, w, NULL, 64, &s, &z);
        assert_true(s == half((high - low) / (float)max));
        assert_int_equal(z, (int)fminf(fmaxf(nearbyintf(-low / s), 0), (float)max));
        fit(PARE_GRID_GPTQ_ASYM, bits, PARE_GRID_PLAIN, w, NULL, 64, &s, &z);
        float lo = fminf(low, 0), hi = fmaxf(high, 0);
        assert_true(s == half((hi - lo) / (float)max));
        assert_int_equal(z, (int)nearbyintf(-lo / s));
        for (int kind = PARE_GRID_FULL; kind <= PARE_GRID_GPTQ_ASYM; kind++) {
            fit((pare_grid_kind)kind, bits, PARE_GRID_PLAIN, w, NULL, 64, &s, &z);
            assert_true(value_of(0, s, z, bits) == 0.0f || kind == PARE_GRID_ASYM_MINMAX);
        }
    }
}

static double squared(const float *w, const float *h, size_t n, float s, int z, int bits) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)value_of(w[i], s, z, bits) - (double)w[i];
        sum += (h ? (double)h[i] : 1) * e * e;
    }
    return sum;
}

/* A search gives no more error than the plain scale, but for the rounding of scales to f16. */
static void searches_gain(void **state) {
    (void)state;
    double plain_sum = 0, found_sum = 0;
    for (uint64_t t = 0; t < 100; t++)
        for (int kind = PARE_GRID_FULL; kind <= PARE_GRID_GPTQ_ASYM; kind++) {
            float w[64], h[64], s;
            uint8_t z;
            int bits = 2 + (int)(t % 3);
            for (size_t i = 0; i < 64; i++) {
                w[i] = pare_rng_normal(3, t, i) * (i == 7 ? 3.0f : 1.0f);
                h[i] = pare_rng_uniform(4, t, i);
            }
            fit((pare_grid_kind)kind, bits, PARE_GRID_PLAIN, w, NULL, 64, &s, &z);
            double plain = squared(w, h, 64, s, z, bits);
            fit((pare_grid_kind)kind, bits, PARE_GRID_LEAST_SQUARES, w, h, 64, &s, &z);
            double found = squared(w, h, 64, s, z, bits);
            assert_true(found <= plain * 1.002);
            plain_sum += plain;
            found_sum += found;
            fit((pare_grid_kind)kind, bits, PARE_GRID_MSE, w, NULL, 64, &s, &z);
            assert_true(isfinite(s) && s != 0.0f);
        }
    assert_true(found_sum < 0.8 * plain_sum);
}

/* Zeros, one value, denormals, the largest numbers. */
static void odd_groups(void **state) {
    (void)state;
    for (int kind = PARE_GRID_FULL; kind <= PARE_GRID_GPTQ_ASYM; kind++)
        for (int search = PARE_GRID_PLAIN; search <= PARE_GRID_MSE; search++) {
            float w[33] = {0}, s;
            uint8_t z;
            fit((pare_grid_kind)kind, 4, (pare_grid_search)search, w, NULL, 33, &s, &z);
            assert_true(s == 0.0f && value_of(0, s, z, 4) == 0.0f);
            for (size_t i = 0; i < 33; i++) w[i] = 1e-42f;
            fit((pare_grid_kind)kind, 4, (pare_grid_search)search, w, NULL, 33, &s, &z);
            assert_true(isfinite(s) && isfinite(value_of(w[0], s, z, 4)));
            for (size_t i = 0; i < 33; i++) w[i] = i % 2 ? 3e38f : -3e38f;
            fit((pare_grid_kind)kind, 4, (pare_grid_search)search, w, NULL, 33, &s, &z);
            assert_true(isinf(s)); /* seen by the encoder, which refuses it */
        }
}

/* Of 16 to 112 grids at a time, some of scale 0 or one whose reciprocal overflows. */
static void errors_have_the_same_bits(void **state) {
    (void)state;
    enum { GRIDS = 112 };
    float w[100], h[100], scale[GRIDS], zero[GRIDS], plain[GRIDS], fast[GRIDS];
    for (size_t i = 0; i < 100; i++) {
        w[i] = pare_rng_normal(5, 1, i);
        h[i] = pare_rng_uniform(5, 2, i);
    }
    for (size_t k = 0; k < GRIDS; k++) {
        scale[k] = k % 16 == 3 ? 0.0f : k % 16 == 7 ? -1e-40f : 0.4f * pare_rng_normal(5, 3, k);
        zero[k] = k % 3 ? 8.0f : (float)(k % 16);
    }
    for (size_t n = 0; n <= 100; n++)
        for (int weighted = 0; weighted < 2; weighted++) {
            /* copies of exactly n values: a read past the end shows under a sanitizer */
            float *x = malloc((n + 1) * 4), *g = malloc((n + 1) * 4);
            memcpy(x, w, n * 4);
            memcpy(g, h, n * 4);
            size_t grids = n % 7 * 16 + 16;
            pare_encode_kernels_get(PARE_ISA_REF)
                ->grid_errors(plain, x, weighted ? g : NULL, n, scale, zero, grids, 15);
            for (size_t k = 0; k < grids; k++) {
                double want = 0;
                float inverse = fabsf(scale[k]) > 1e-30f ? 1.0f / scale[k] : 0.0f;
                for (size_t i = 0; i < n; i++) {
                    float code = fminf(fmaxf(nearbyintf(inverse * x[i]), -zero[k]), 15 - zero[k]);
                    double e = (double)(scale[k] * code) - x[i];
                    want += (weighted ? (double)g[i] : 1) * e * e;
                }
                assert_true(fabs((double)plain[k] - want) < 1e-5 * want + 1e-12);
            }
            for (int isa = PARE_ISA_AVX2; isa <= (int)pare_isa_best(); isa++) {
                pare_encode_kernels_get((pare_isa)isa)
                    ->grid_errors(fast, x, weighted ? g : NULL, n, scale, zero, grids, 15);
                assert_memory_equal(fast, plain, grids * 4);
            }
            free(x);
            free(g);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples),
        cmocka_unit_test(rules),
        cmocka_unit_test(searches_gain),
        cmocka_unit_test(odd_groups),
        cmocka_unit_test(errors_have_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
