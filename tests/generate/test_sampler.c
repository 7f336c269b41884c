/* Sampling: what stays after each step on known logits, draws by a chi-square test with a fixed
 * seed, ties, bans, and logits that are not numbers. */
#include "support/test.h"

#include "pare/generate.h"

#include <math.h>
#include <string.h>

static pare_sampler_options plain(void) {
    pare_sampler_options o = pare_sampler_options_default();
    o.temperature = 1;
    o.top_k = 0;
    o.top_p = 1;
    o.min_p = 0;
    return o;
}

static pare_sampler *make(size_t n, const pare_sampler_options *o) {
    pare_sampler *s = NULL;
    assert_ok(pare_sampler_create(&s, n, o, err));
    return s;
}

/* The ids that one pick drew from, as a bit set. */
static unsigned kept(const float *logits, size_t n, const pare_sampler_options *o) {
    pare_sampler *s = make(n, o);
    int32_t id;
    const pare_candidate *c;
    unsigned set = 0;
    assert_ok(pare_sampler_pick(&id, s, logits, err));
    size_t n_kept = pare_sampler_candidates(s, &c);
    for (size_t i = 0; i < n_kept; i++) set |= 1u << c[i].id;
    assert_true(set & 1u << id);
    pare_sampler_free(s);
    return set;
}

/* Probabilities 0.3 0.1 0.4 0.2. */
static const float four[4] = {-1.20397280433f, -2.30258509299f, -0.91629073187f, -1.60943791243f};

static void top_k(void **state) {
    (void)state;
    pare_sampler_options o = plain();
    const unsigned expected[] = {0xF, 0x4, 0x5, 0xD, 0xF, 0xF};
    for (size_t k = 0; k < 6; k++) {
        o.top_k = k;
        assert_int_equal(kept(four, 4, &o), expected[k]);
    }
    const float ties[5] = {1, 2, 2, 1, 2};
    o.top_k = 2;
    assert_int_equal(kept(ties, 5, &o), 1u << 1 | 1u << 2);
}

static void top_p(void **state) {
    (void)state;
    pare_sampler_options o = plain();
    const struct {
        double p;
        unsigned set;
    } cases[] = {{0, 0x4},    {0.39, 0x4}, {0.41, 0x5}, {0.69, 0x5},
                 {0.71, 0xD}, {0.91, 0xF}, {1, 0xF}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        o.top_p = cases[i].p;
        assert_int_equal(kept(four, 4, &o), cases[i].set);
    }
    /* of what top-k left: 0.4 and 0.3 of 0.7, so that 0.55 (< 4/7) needs the first only */
    o.top_k = 2;
    o.top_p = 0.55;
    assert_int_equal(kept(four, 4, &o), 0x4);
    /* temperature comes first: at 100 the four are nearly equal */
    o = plain();
    o.temperature = 100;
    o.top_p = 0.7;
    assert_int_equal(kept(four, 4, &o), 0xD);
}

static void min_p(void **state) {
    (void)state;
    pare_sampler_options o = plain();
    const struct {
        double p;
        unsigned set;
    } cases[] = {{0.24, 0xF}, {0.26, 0xD}, {0.51, 0x5}, {0.76, 0x4}, {1, 0x4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        o.min_p = cases[i].p;
        assert_int_equal(kept(four, 4, &o), cases[i].set);
    }
}

static int32_t pick(pare_sampler *s, const float *logits) {
    int32_t id;
    assert_ok(pare_sampler_pick(&id, s, logits, err));
    return id;
}

static void repeat_penalty(void **state) {
    (void)state;
    pare_sampler_options o = plain();
    o.temperature = 0;
    o.repeat_penalty = 2;
    o.repeat_last_n = 3;
    const float logits[4] = {3, 4, -1, 2.5f};
    pare_sampler *s = make(4, &o);
    assert_int_equal(pick(s, logits), 1);
    pare_sampler_accept(s, 1); /* 4 / 2 = 2 < 3 */
    assert_int_equal(pick(s, logits), 0);
    pare_sampler_accept(s, 1); /* twice in the window counts once: still 2, above 1.9 */
    const float near[4] = {1.9f, 4, -1, 1.5f};
    assert_int_equal(pick(s, near), 1);
    pare_sampler_accept(s, 0);
    assert_int_equal(pick(s, logits), 3);
    /* a negative logit moves away from zero: -1 becomes -2 */
    pare_sampler_accept(s, 2);
    const float negative[4] = {-9, -9, -1, -1.5f};
    assert_int_equal(pick(s, negative), 3);
    /* the ring forgets: 1 left the last three */
    pare_sampler_accept(s, 2);
    assert_int_equal(pick(s, logits), 1);
    pare_sampler_accept(s, -1);
    pare_sampler_accept(s, 4);
    pare_sampler_free(s);
}

static void greedy(void **state) {
    (void)state;
    pare_sampler_options o = plain();
    o.temperature = 0;
    o.top_p = 0;
    const float ties[5] = {1, 2, 2, -INFINITY, 2};
    pare_sampler *s = make(5, &o);
    assert_int_equal(pick(s, ties), 1);
    pare_sampler_ban(s, 1);
    assert_int_equal(pick(s, ties), 2);
    pare_sampler_free(s);
}

static void not_numbers(void **state) {
    (void)state;
    const float inf = INFINITY,
                bad[4][3] = {{0, NAN, 1}, {NAN, NAN, NAN}, {0, inf, 1}, {-inf, -inf, -inf}};
    const char *told[4] = {"token 1: found NaN", "token 0: found NaN", "token 1: found +Inf",
                           "-Inf for all 3"};
    for (int hot = 0; hot < 2; hot++) {
        pare_sampler_options o = plain();
        o.temperature = hot;
        pare_sampler *s = make(3, &o);
        int32_t id;
        pare_error err = {0};
        for (int i = 0; i < 4; i++) {
            assert_int_equal(pare_sampler_pick(&id, s, bad[i], &err), PARE_ERR_INPUT);
            assert_non_null(strstr(err.message, told[i]));
            assert_int_equal(id, -1);
        }
        const float good[3] = {-inf, 0, -inf}; /* usable after a failure */
        assert_int_equal(pick(s, good), 1);
        pare_sampler_free(s);
    }
}

static void bad_options(void **state) {
    (void)state;
    pare_sampler *s = NULL;
    const struct {
        double temperature, top_p, min_p, penalty;
    } bad[] = {{-1, 1, 0, 1},  {NAN, 1, 0, 1},  {INFINITY, 1, 0, 1}, {1, 1.1, 0, 1},
               {1, NAN, 0, 1}, {1, 1, -0.1, 1}, {1, 1, 0, 0},        {1, 1, 0, NAN}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pare_sampler_options o = plain();
        o.temperature = bad[i].temperature;
        o.top_p = bad[i].top_p;
        o.min_p = bad[i].min_p;
        o.repeat_penalty = bad[i].penalty;
        assert_int_equal(pare_sampler_create(&s, 4, &o, NULL), PARE_ERR_ARG);
        assert_null(s);
    }
    assert_int_equal(pare_sampler_create(&s, 0, NULL, NULL), PARE_ERR_ARG);
}

/* 20,000 draws against the probabilities. The bounds are the 99.9% points of chi-square: 16.27 for
 * 3 degrees of freedom, 10.83 for 1; the seeds are fixed, so nothing fails by chance. */
static double chi_square(const pare_sampler_options *o, const double *p) {
    enum { DRAWS = 20000 };
    size_t count[4] = {0};
    pare_sampler *s = make(4, o);
    for (int i = 0; i < DRAWS; i++) count[pick(s, four)]++;
    pare_sampler_free(s);
    double x2 = 0;
    for (size_t i = 0; i < 4; i++) {
        double expected = p[i] * DRAWS, d = (double)count[i] - expected;
        if (p[i] == 0)
            assert_int_equal(count[i], 0);
        else
            x2 += d * d / expected;
    }
    return x2;
}

static void distribution(void **state) {
    (void)state;
    pare_sampler_options o = plain();
    const double all[4] = {0.3, 0.1, 0.4, 0.2};
    assert_true(chi_square(&o, all) < 16.27);
    o.seed = 77;
    assert_true(chi_square(&o, all) < 16.27);
    o.top_k = 2;
    const double two[4] = {3.0 / 7, 0, 4.0 / 7, 0};
    assert_true(chi_square(&o, two) < 10.83);
    /* temperature 0.5 squares the probabilities */
    o = plain();
    o.temperature = 0.5;
    const double squared[4] = {0.09 / 0.3, 0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3};
    assert_true(chi_square(&o, squared) < 16.27);
    /* the test can tell: temperature 0.5 is not 1 */
    assert_true(chi_square(&o, all) > 16.27);
}

static void seeds(void **state) {
    (void)state;
    enum { N = 64 };
    float logits[100];
    for (int i = 0; i < 100; i++) logits[i] = (float)(i % 7) * 0.1f;
    int32_t ids[3][N];
    for (int run = 0; run < 3; run++) {
        pare_sampler_options o = plain();
        o.seed = run == 2 ? 6 : 5;
        pare_sampler *s = make(100, &o);
        for (int i = 0; i < N; i++) ids[run][i] = pick(s, logits);
        pare_sampler_free(s);
    }
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_not_equal(ids[0], ids[2], sizeof ids[0]);
}

/* A tiny temperature must not overflow, a huge spread must not draw an impossible token. */
static void extremes(void **state) {
    (void)state;
    pare_sampler_options o = plain();
    o.temperature = 1e-300;
    const float logits[4] = {3e38f, -3e38f, 2.9e38f, -INFINITY};
    pare_sampler *s = make(4, &o);
    for (int i = 0; i < 100; i++) assert_int_equal(pick(s, logits), 0);
    pare_sampler_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_k),       cmocka_unit_test(top_p),
        cmocka_unit_test(min_p),       cmocka_unit_test(repeat_penalty),
        cmocka_unit_test(greedy),      cmocka_unit_test(not_numbers),
        cmocka_unit_test(bad_options), cmocka_unit_test(distribution),
        cmocka_unit_test(seeds),       cmocka_unit_test(extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
