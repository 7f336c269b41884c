/* Activations in int8: every level against the plain quantizer bit for bit, and that against the
 * definition. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/dot.h"
#include "support/test.h"

typedef struct quantized {
    pare_act act;
    uint8_t *memory;
    size_t bytes;
} quantized;

/* The bytes between and behind the rows are 0x5a before. */
static quantized quantize(pare_isa isa, const float *x, size_t ldx, size_t n, size_t cols) {
    quantized r;
    r.bytes = pare_act_place(&r.act, NULL, n, cols);
    assert_int_equal(r.bytes % 64, 0);
    r.memory = aligned_alloc(64, r.bytes + 64);
    memset(r.memory, 0x5a, r.bytes + 64);
    assert_int_equal(pare_act_place(&r.act, r.memory, n, cols), r.bytes);
    r.act.n = 0;
    pare_dot_kernels_get(isa)->quantize(&r.act, x, ldx, n, cols);
    assert_int_equal(r.act.n, n);
    for (size_t i = 0; i < 64; i++) assert_int_equal(r.memory[r.bytes + i], 0x5a);
    return r;
}

static float *random_rows(size_t n, unsigned seed) {
    float *x = malloc(n * sizeof *x);
    srand(seed);
    for (size_t i = 0; i < n; i++) {
        float u = (float)rand() / (float)RAND_MAX - 0.5f;
        x[i] = u * ldexpf(1.0f, rand() % 5 + (int)(i / 64 % 40) - 20);
    }
    return x;
}

static void check_definition(const quantized *r, const float *x, size_t ldx, size_t n,
                             size_t cols) {
    size_t group = PARE_ACT_GROUP, padded = (cols + group - 1) / group * group;
    assert_int_equal(r->act.cols, padded);
    for (size_t i = 0; i < n; i++)
        for (size_t g = 0; g < padded / group; g++) {
            float max = 0.0f, d = r->act.d[i * r->act.d_stride + g];
            for (size_t c = g * group; c < (g + 1) * group && c < cols; c++)
                max = fmaxf(max, fabsf(x[i * ldx + c]));
            assert_true(d == max / 127.0f);
            int sum = 0, all = 0;
            for (size_t c = g * group; c < (g + 1) * group; c++) {
                int q = r->act.q[i * r->act.q_stride + c];
                float value = c < cols ? x[i * ldx + c] : 0.0f;
                assert_in_range(q + 127, 0, 254);
                /* half a step, and the rounding of 127 / max and of its product */
                assert_true(fabs((double)value - (double)d * q) <=
                            0.5 * (double)d * (1 + 1e-4) + 127 * (double)d * 2.4e-7);
                sum += q;
                if (c % 16 < 15) continue;
                assert_true(r->act.sum16[i * r->act.sum_stride + c / 16] == d * (float)sum);
                assert_int_equal(r->act.minus16[i * r->act.sum_stride + c / 16], -sum);
                all += sum;
                sum = 0;
            }
            assert_true(r->act.sum32[i * r->act.d_stride + g] == d * (float)all);
            assert_int_equal(r->act.minus32[i * r->act.d_stride + g], -all);
        }
    size_t width = (padded + 255) / 256 * 256;
    for (size_t i = 0; i < n; i++)
        for (size_t c = padded; c < width; c++) { /* zeros that may be read */
            assert_int_equal(r->act.q[i * r->act.q_stride + c], 0);
            assert_true(r->act.d[i * r->act.d_stride + c / group] == 0);
            assert_true(r->act.sum32[i * r->act.d_stride + c / group] == 0);
            assert_true(r->act.sum16[i * r->act.sum_stride + c / 16] == 0);
            assert_int_equal(r->act.minus32[i * r->act.d_stride + c / group], 0);
            assert_int_equal(r->act.minus16[i * r->act.sum_stride + c / 16], 0);
        }
}

static void every_level_gives_the_definition(void **state) {
    (void)state;
    const size_t cols[] = {1, 7, 31, 32, 33, 64, 250, 256, 257, 320, 511, 512, 768, 1000, 2048};
    for (size_t t = 0; t < sizeof cols / sizeof *cols; t++)
        for (size_t n = 1; n <= 8; n += 7) {
            size_t ldx = cols[t] + 3;
            float *x = random_rows(n * ldx, (unsigned)cols[t]);
            quantized ref = quantize(PARE_ISA_REF, x, ldx, n, cols[t]);
            check_definition(&ref, x, ldx, n, cols[t]);
            for (pare_isa isa = PARE_ISA_AVX2; isa <= pare_isa_best(); isa++) {
                quantized fast = quantize(isa, x, ldx, n, cols[t]);
                assert_memory_equal(fast.memory, ref.memory, ref.bytes);
                free(fast.memory);
            }
            free(ref.memory);
            free(x);
        }
}

static void special_values(void **state) {
    (void)state;
    const struct {
        float value;
        bool nan, zero;
    } cases[] = {{NAN, true, false},       {-NAN, true, false},        {INFINITY, true, false},
                 {-INFINITY, true, false}, {0.0f, false, true},        {-0.0f, false, true},
                 {0x1p-149f, false, true}, {0x1.8p-101f, false, true}, {0x1p-100f, false, false},
                 {3.4e38f, false, false}};
    for (pare_isa isa = PARE_ISA_REF; isa <= pare_isa_best(); isa++)
        for (size_t t = 0; t < sizeof cases / sizeof *cases; t++)
            for (size_t at = 0; at < 512; at += 37) {
                float x[512] = {0};
                x[at] = cases[t].value;
                x[511 - at] = 0x1p-120f;
                quantized r = quantize(isa, x, 512, 1, 512);
                size_t g = at / PARE_ACT_GROUP;
                float d = r.act.d[g];
                if (cases[t].nan) assert_true(isnan(d));
                if (cases[t].zero) assert_true(d == 0.0f && !signbit(d));
                if (!cases[t].nan && !cases[t].zero) {
                    assert_true(d == fabsf(cases[t].value) / 127.0f);
                    assert_int_equal(r.act.q[at], 127);
                } else {
                    for (size_t c = 0; c < 512; c++) assert_int_equal(r.act.q[c], 0);
                }
                assert_true(r.act.d[g ? 0 : 256 / PARE_ACT_GROUP] == 0.0f);
                free(r.memory);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_gives_the_definition),
        cmocka_unit_test(special_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
