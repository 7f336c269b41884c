/* The selection against sorting, on every level and number of threads; groups; the keys' order. */
#include "support/test.h"

#include "base/rng.h"
#include "kernels/select.h"
#include "kernels/uniform.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_PARTS = 3, MAX_N = 40000 };

typedef struct value {
    size_t index; /* over all parts */
    int rank;     /* 0: outside `within`, 1: NaN, 2: a number, 3: forced */
    float score;
} value;

static pare_ties sort_ties;

static int by_rank(const void *a, const void *b) {
    const value *x = a, *y = b;
    if (x->rank != y->rank) return y->rank - x->rank;
    if (x->rank == 2 && x->score != y->score) return x->score > y->score ? -1 : 1;
    int first = x->index < y->index ? -1 : 1;
    return sort_ties == PARE_TIES_FIRST_STAYS ? first : -first;
}

static bool bit_of(const uint64_t *bits, size_t i) { return bits[i / 64] >> i % 64 & 1; }

static value value_of(const pare_scored *s, size_t i, size_t index) {
    float score = s->score ? s->score[i] : fabsf(s->w[i]);
    if (s->divisor > 0) score /= s->divisor;
    int rank = isnan(score) ? 1 : 2;
    if (s->within && !bit_of(s->within, i)) rank = 0;
    if (s->forced && bit_of(s->forced, i)) rank = 3;
    return (value){index, rank, score};
}

static uint64_t next(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

/* Kinds: 0 numbers, 1 few values and zeros of both signs, 2 with NaN and infinities, 3 denormals.
 */
static void fill(float *x, size_t n, int kind, uint64_t *seed) {
    for (size_t i = 0; i < n; i++) {
        float u = (float)next(seed) * 0x1p-30f - 1.0f;
        uint64_t odd = next(seed) % 8;
        x[i] = u;
        if (kind == 1) x[i] = odd == 0 ? -0.0f : (float)(int)(u * 3) * 0.5f;
        if (kind == 2 && odd == 0) x[i] = NAN;
        if (kind == 2 && odd == 1) x[i] = u > 0 ? INFINITY : -INFINITY;
        if (kind == 3) x[i] = u * 1e-40f;
    }
}

typedef struct world {
    float w[MAX_PARTS][MAX_N], score[MAX_PARTS][MAX_N], zero[MAX_PARTS][MAX_N];
    uint64_t within[MAX_PARTS][MAX_N / 64 + 1], forced[MAX_PARTS][MAX_N / 64 + 1];
    uint64_t bits[MAX_PARTS][MAX_N / 64 + 1];
    bool expected[MAX_PARTS * MAX_N];
    value sorted[MAX_PARTS * MAX_N];
} world;

static void check(world *x, pare_runtime *rt, pare_scored *parts, size_t n_parts, size_t keep,
                  pare_ties ties) {
    size_t n = 0;
    for (size_t p = 0; p < n_parts; p++)
        for (size_t i = 0; i < parts[p].n; i++, n++) x->sorted[n] = value_of(&parts[p], i, n);
    sort_ties = ties;
    qsort(x->sorted, n, sizeof *x->sorted, by_rank);
    for (size_t i = 0; i < n; i++) x->expected[x->sorted[i].index] = i < keep;
    for (size_t p = 0; p < n_parts; p++) {
        memset(x->bits[p], 0xAA, sizeof x->bits[p]);
        for (size_t i = 0; i < parts[p].n; i++) x->zero[p][i] = 7;
        parts[p].bits = x->bits[p];
        parts[p].zero = x->zero[p];
    }
    pare_select(rt, parts, n_parts, keep, ties);
    for (size_t p = 0, at = 0; p < n_parts; at += parts[p++].n) {
        for (size_t i = 0; i < parts[p].n; i++) {
            bool stays = bit_of(x->bits[p], i);
            if (stays != x->expected[at + i] || (x->zero[p][i] != 0) != stays)
                fail_msg("part %zu, value %zu: found %d, expected %d", p, i, stays,
                         x->expected[at + i]);
        }
        if (parts[p].n % 64) assert_int_equal(x->bits[p][parts[p].n / 64] >> parts[p].n % 64, 0);
    }
}

static void agrees_with_sorting(void **state) {
    (void)state;
    static const size_t sizes[][MAX_PARTS] = {{1, 0, 0},    {63, 0, 0},      {64, 0, 0},
                                              {65, 1, 200}, {1025, 64, 999}, {20000, 13, 30001}};
    world *x = malloc(sizeof *x);
    uint64_t seed = 7;
    assert_non_null(x);
    for (int threads = 0; threads <= 3; threads++) {
        pare_runtime *rt =
            threads ? test_runtime(threads, threads == 2 ? PARE_ISA_REF : PARE_ISA_AMX) : NULL;
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (int kind = 0; kind < 4; kind++) {
                pare_scored parts[MAX_PARTS] = {0};
                size_t n_parts = sizes[k][1] ? 3 : 1, n = 0;
                for (size_t p = 0; p < n_parts; p++) {
                    n += sizes[k][p];
                    fill(x->w[p], sizes[k][p], kind, &seed);
                    fill(x->score[p], sizes[k][p], kind, &seed);
                    for (size_t i = 0; i <= MAX_N / 64; i++) {
                        x->within[p][i] = next(&seed) << 32 | next(&seed) << 8;
                        x->forced[p][i] = next(&seed) & next(&seed) & next(&seed);
                    }
                    parts[p] = (pare_scored){.w = x->w[p],
                                             .score = (k + p) % 2 ? x->score[p] : NULL,
                                             .n = sizes[k][p],
                                             .divisor = p == 1 ? 0.7f : 0,
                                             .within = kind == 1 ? x->within[p] : NULL,
                                             .forced = kind != 3 && p != 1 ? x->forced[p] : NULL};
                }
                const size_t keeps[] = {0, 1, n / 3, n - n / 7, n};
                for (size_t i = 0; i < 5; i++)
                    check(x, rt, parts, n_parts, keeps[i],
                          (i + k) % 2 ? PARE_TIES_FIRST_GOES : PARE_TIES_FIRST_STAYS);
            }
        pare_runtime_free(rt);
    }
    free(x);
}

/* A mask may be made from itself: what is in it competes for fewer places. */
static void in_place(void **state) {
    (void)state;
    float w[] = {5, 4, 3, 2, 1, 6};
    uint64_t bits = 0x1E; /* 4, 3, 2, 1 */
    const pare_scored s = {.w = w, .n = 6, .within = &bits, .bits = &bits, .zero = w};
    pare_select(NULL, &s, 1, 2, PARE_TIES_FIRST_STAYS);
    assert_int_equal(bits, 6);
    const float expected[] = {0, 4, 3, 0, 0, 0};
    assert_memory_equal(w, expected, sizeof w);
}

/* Of equal scores the higher index stays; NaN goes first. */
static void groups(void **state) {
    (void)state;
    const float w[] = {1, -1, 1, NAN}, score[] = {3, -2, 9, 9};
    assert_int_equal(pare_select_group(w, NULL, 2, 4), 6);
    assert_int_equal(pare_select_group(w, NULL, 3, 4), 7);
    assert_int_equal(pare_select_group(w, NULL, 0, 4), 0);
    assert_int_equal(pare_select_group(w, score, 1, 4), 8);
    for (int level = 0; level < 2; level++) /* fours, as one by one */
        for (int k = 0; k <= 4; k++) {
            float x[1084];
            uint64_t out[17], seed = 9;
            fill(x, 1084, 1, &seed);
            const pare_scored s = {.w = x, .n = 1084, .bits = out};
            pare_select_quads(level ? PARE_ISA_REF : pare_isa_best(), &s, 0, 1084, k);
            for (size_t i = 0; i < 1084; i += 4)
                assert_int_equal(out[i / 64] >> i % 64 & 15, pare_select_group(x + i, NULL, k, 4));
        }
    float many[64];
    for (int i = 0; i < 64; i++) many[i] = (float)(i * 37 % 64);
    uint64_t bits = pare_select_group(many, NULL, 16, 64);
    for (int i = 0; i < 64; i++) assert_int_equal(bits >> i & 1, many[i] >= 48);
}

/* Random numbers of a stream, eight at a time, also where the index carries. */
static void uniform_numbers(void **state) {
    (void)state;
    static const uint64_t from[] = {0, 5, UINT32_MAX - 20, 0x123456789ABC};
    float x[67];
    for (size_t k = 0; k < 4; k++)
        for (size_t n = 0; n <= 67; n += 1 + n / 4) {
            x[n < 67 ? n : 0] = 2;
            pare_uniform_get(pare_isa_best())(x, 0xDEADBEEF12345678, 77 + (k << 40), from[k], n);
            for (size_t i = 0; i < n; i++)
                assert_true(x[i] ==
                            pare_rng_uniform(0xDEADBEEF12345678, 77 + (k << 40), from[k] + i));
            if (n < 67) assert_true(x[n] == 2);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_sorting),
                                       cmocka_unit_test(in_place), cmocka_unit_test(groups),
                                       cmocka_unit_test(uniform_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
