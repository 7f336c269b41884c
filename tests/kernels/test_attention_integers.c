/* Attention's products of integers: every level gives the bits of the reference, over all tails;
 * the reference is what its contract says. Built a second time with PARE_EMULATE for levels that
 * the machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/op_kernels.h"

enum { NR = PARE_ATTN_NR, CHUNK = PARE_KV_CHUNK, ROWS = PARE_KV_ROWS, MAX_DIM = 256 };

static const pare_attn_kernels *kernels(int isa) {
    return pare_op_kernels_get((pare_isa)isa)->attn;
}

static void normals(float *x, size_t n, uint64_t stream) {
    for (size_t i = 0; i < n; i++) x[i] = pare_rng_normal(5, stream, i);
}

/* ---- rounding ---- */

static void check_rounding(const float *x, const float *factor, size_t n) {
    int16_t want[MAX_DIM], got[MAX_DIM];
    float d = kernels(PARE_ISA_REF)->quantize(want, x, factor, n);
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
        memset(got, 0x55, sizeof got);
        float other = kernels(isa)->quantize(got, x, factor, n);
        assert_true(memcmp(&d, &other, sizeof d) == 0 || (isnan(d) && isnan(other)));
        assert_memory_equal(want, got, n * sizeof *got);
        for (size_t i = n; i < MAX_DIM; i++) assert_int_equal(got[i], 0x5555);
    }
    static const size_t order[] = {0, 2, 1, 3};
    for (size_t i = 0; i < n && isfinite(d); i++) {
        size_t at = i / 4 * 4 + order[i % 4];
        double value = (double)x[at] * (factor ? factor[at] : 1);
        assert_true(abs(want[i]) <= 32767);
        /* half a step, and the roundings of the product, the quotient and d; or nearly zero */
        double bound = 0.5001 * (double)d + 3e-7 * fabs(value);
        assert_true(fabs(value - (double)d * want[i]) <= (d == 0 ? 0x1p-100 : bound));
    }
}

static void rounds(void **state) {
    (void)state;
    float x[MAX_DIM], factor[MAX_DIM];
    normals(x, MAX_DIM, 1);
    normals(factor, MAX_DIM, 2);
    for (size_t n = NR; n <= MAX_DIM; n += NR) {
        check_rounding(x, NULL, n);
        check_rounding(x, factor, n);
    }
    for (size_t i = 0; i < 64; i++) x[i] = i == 17 ? -32767.0f : (float)i - 31.5f; /* ties */
    check_rounding(x, NULL, 64);
    static const float odd[] = {0.0f, -0.0f, 1e-44f, 1e-31f, 3e38f, INFINITY, -INFINITY, NAN};
    for (size_t k = 0; k < sizeof odd / sizeof *odd; k++) {
        float y[64] = {0};
        y[k * 7] = odd[k];
        y[k * 7 + 1] = -1e-40f;
        check_rounding(y, NULL, 64);
        int16_t q[64];
        float d = kernels(PARE_ISA_REF)->quantize(q, y, NULL, 64);
        assert_true(isfinite(odd[k]) ? (d == 0) == (fabsf(odd[k]) < 0x1p-100f) : isnan(d));
    }
}

/* ---- products ---- */

/* The largest integers there are: a sum of 64 of them fits. */
static int16_t integer(uint64_t stream, size_t i, int most) {
    float r = pare_rng_uniform(7, stream, i);
    return (int16_t)(r < 0.1f ? most : r < 0.2f ? -most : (int)((2 * r - 1) * (float)most));
}

static void multiplies(void **state) {
    (void)state;
    enum { M = 19, PAIRS = ROWS / 2, LD = 2 * PAIRS + 6, LDY = NR + 3 };
    static int16_t q[M * LD], codes[PAIRS * NR * 2];
    float row[M], column[NR], y[M * LDY], want[M * LDY], got[M * LDY];
    for (size_t i = 0; i < M * LD; i++) q[i] = integer(1, i, 32767);
    for (size_t i = 0; i < PAIRS * NR * 2; i++) codes[i] = integer(2, i, 127);
    normals(row, M, 3);
    normals(column, NR, 4);
    normals(y, M * LDY, 5);
    for (size_t m = 1; m <= M; m++)
        for (size_t n_pairs = 1; n_pairs <= PAIRS; n_pairs += n_pairs < 3 ? 1 : 5) {
            memcpy(want, y, sizeof y);
            kernels(PARE_ISA_REF)->integer_dots(want, LDY, q, LD, m, codes, n_pairs, row, column);
            for (int isa = FIRST_VECTOR_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
                memcpy(got, y, sizeof y);
                kernels(isa)->integer_dots(got, LDY, q, LD, m, codes, n_pairs, row, column);
                assert_memory_equal(want, got, sizeof got);
            }
            for (size_t i = 0; i < M; i++)
                for (size_t j = 0; j < LDY; j++) {
                    int64_t sum = 0;
                    for (size_t t = 0; t < 2 * n_pairs && j < NR; t++)
                        sum += q[i * LD + t] * codes[(t / 2 * NR + j) * 2 + t % 2];
                    float factor = j < NR ? row[i] * column[j] : 0, old = y[i * LDY + j];
                    float expected = i < m && j < NR ? fmaf((float)sum, factor, old) : old;
                    assert_true(want[i * LDY + j] == expected);
                }
        }
}

/* ---- codes ---- */

typedef struct cache {
    const pare_kv_codec *codec;
    uint8_t *rows; /* exactly [n][stride] */
    size_t n, dim, stride;
} cache;

static cache make_cache(const char *name, size_t n, size_t dim) {
    cache c = {pare_kv_codec_find(name), NULL, n, dim, 0};
    c.stride = pare_kv_row_bytes(c.codec, dim);
    c.rows = malloc(n * c.stride);
    float x[MAX_DIM];
    for (size_t j = 0; j < n; j++) {
        normals(x, dim, 100 + j);
        pare_kv_codec_functions(c.codec, PARE_ISA_REF)->store(c.rows + j * c.stride, x, dim);
    }
    return c;
}

/* Number t of those that are summed over, column j of 16, by its definition. */
static int16_t code_at(const int16_t *codes, size_t t, size_t j) {
    static const size_t order[] = {0, 2, 1, 3};
    size_t at = t / 4 * 4 + order[t % 4];
    return codes[at / 2 * NR * 2 + j * 2 + at % 2];
}

static void check_keys(const cache *c) {
    static int16_t want[MAX_DIM * NR], got[MAX_DIM * NR];
    float want_d[MAX_DIM / CHUNK * NR], got_d[MAX_DIM / CHUNK * NR], x[MAX_DIM];
    size_t code_bytes = c->dim * NR * sizeof *got, d_bytes = c->dim / CHUNK * NR * sizeof *got_d;
    const pare_kv_functions *ref = pare_kv_codec_functions(c->codec, PARE_ISA_REF);
    ref->key_codes(want, want_d, c->rows, c->stride, c->n, c->dim);
    for (int isa = FIRST_VECTOR_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
        pare_kv_codec_functions(c->codec, (pare_isa)isa)
            ->key_codes(got, got_d, c->rows, c->stride, c->n, c->dim);
        assert_memory_equal(want, got, code_bytes);
        assert_memory_equal(want_d, got_d, d_bytes);
    }
    for (size_t j = 0; j < NR; j++) {
        if (j < c->n) ref->load(x, c->dim, c->rows + j * c->stride, c->stride, 1, c->dim);
        for (size_t d = 0; d < c->dim; d++) {
            float scale = want_d[d / CHUNK * NR + j];
            assert_true(scale * code_at(want, d, j) == (j < c->n ? x[d] : 0.0f));
        }
    }
}

static void check_values(const cache *c) {
    static int16_t want[ROWS * CHUNK], got[ROWS * CHUNK];
    float want_d[ROWS], got_d[ROWS], x[MAX_DIM];
    size_t end = (c->n + NR - 1) / NR * NR;
    const pare_kv_functions *ref = pare_kv_codec_functions(c->codec, PARE_ISA_REF);
    for (size_t b = 0; b < c->dim / CHUNK; b++) {
        const uint8_t *rows = c->rows + b * c->codec->block_bytes;
        ref->value_codes(want, want_d, rows, c->stride, c->n);
        for (int isa = FIRST_VECTOR_LEVEL; isa <= (int)TOP_LEVEL; isa++) {
            pare_kv_codec_functions(c->codec, (pare_isa)isa)
                ->value_codes(got, got_d, rows, c->stride, c->n);
            assert_memory_equal(want_d, got_d, end * sizeof *got_d);
            for (size_t p = 0; p < CHUNK / NR; p++)
                assert_memory_equal(want + p * ROWS * NR, got + p * ROWS * NR,
                                    end * NR * sizeof *got);
        }
        for (size_t j = 0; j < end; j++) {
            if (j < c->n) ref->load(x, c->dim, c->rows + j * c->stride, c->stride, 1, c->dim);
            for (size_t d = 0; d < CHUNK; d++) {
                int16_t code = code_at(want + d / NR * ROWS * NR, j, d % NR);
                assert_true(want_d[j] * code == (j < c->n ? x[b * CHUNK + d] : 0.0f));
            }
        }
    }
}

static void codes(void **state) {
    (void)state;
    static const char *const names[] = {"q8_0", "q4_0"};
    static const size_t dims[] = {32, 64, 96, 128, 160, 256};
    for (size_t i = 0; i < 2; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            for (size_t n = 1; n <= ROWS; n++) {
                cache c = make_cache(names[i], n, dims[d]);
                if (n <= NR) check_keys(&c);
                check_values(&c);
                free(c.rows);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rounds), cmocka_unit_test(multiplies),
                                       cmocka_unit_test(codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
