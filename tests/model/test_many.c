/* Many sequences that decode together, in both modes: each gets the logits that it gets alone. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "pare/compress.h"
#include "pare/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 70, CTX = 128 };

/* RMS of the difference over the RMS of `want`. */
static double difference(const float *got, const float *want) {
    double d = 0, w = 0;
    for (size_t i = 0; i < TINY_VOCAB; i++) {
        d += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        w += (double)want[i] * want[i];
    }
    return sqrt(d / w);
}

/* n sequences of 1 to 40 tokens take 3 steps; the last one is compared. */
static double compare(pare_model *m, pare_compute compute, size_t n) {
    pare_session_options so = pare_session_options_default();
    so.n_ctx = CTX;
    so.n_batch = MOST;
    so.compute = compute;
    pare_session *s[MOST], *alone;
    int32_t ids[MOST][CTX];
    const int32_t *next[MOST];
    size_t one[MOST];
    float *got = pare_malloc(n * TINY_VOCAB, sizeof *got), want[TINY_VOCAB];
    assert_non_null(got);
    assert_ok(pare_session_create(&s[0], m, &so, err));
    for (size_t i = 1; i < n; i++) assert_ok(pare_session_fork(&s[i], s[0], err));
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < CTX; k++) ids[i][k] = (int32_t)((i * 31 + k * k * 7) % 256);
        assert_ok(pare_session_eval(s[i], ids[i], 1 + i * 7 % 40, NULL, err));
        one[i] = 1;
    }
    for (int step = 0; step < 3; step++) {
        for (size_t i = 0; i < n; i++) next[i] = ids[i] + pare_session_position(s[i]);
        assert_ok(pare_session_eval_many(s, n, next, one, got, err));
    }
    double worst = 0;
    assert_ok(pare_session_create(&alone, m, &so, err));
    for (size_t i = 0; i < n; i++) {
        const size_t before = pare_session_position(s[i]) - 3;
        pare_session_truncate(alone, 0);
        assert_ok(pare_session_eval(alone, ids[i], before, NULL, err));
        for (size_t k = 0; k < 3; k++)
            assert_ok(pare_session_eval(alone, ids[i] + before + k, 1, want, err));
        double d = difference(got + i * TINY_VOCAB, want);
        if (!(d <= worst)) worst = d;
    }
    pare_session_free(alone);
    for (size_t i = 0; i < n; i++) pare_session_free(s[i]);
    pare_free(got);
    return worst;
}

/* Up to the rows that are computed alike the bits are the same. Beyond, sums go in another order
 * (with AVX2 at most 5.2e-7 exact and 1.3e-5 fast, for bf16; packed codes keep their bits), and AMX
 * rounds the inputs of fast products to bf16. */
static void each_as_if_alone(void **state) {
    (void)state;
    static const char *const recipes[] = {"bf16", "q8_0", "q4_0"};
    static const size_t counts[] = {4, 9, 33, MOST};
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    char in[1024], out[1024];
    snprintf(in, sizeof in, "%s", tiny_model("tiny", NULL));
    for (size_t k = 0; k < sizeof recipes / sizeof *recipes; k++) {
        char name[32];
        snprintf(name, sizeof name, "many-%zu", k);
        snprintf(out, sizeof out, "%s", test_path(name));
        pare_compress_options o = {.model = in, .out = out, .recipe = recipes[k]};
        pare_compress_report *report;
        assert_ok(pare_compress(&report, rt, &o, err));
        pare_compress_report_free(report);
        pare_model *m;
        assert_ok(pare_model_load(&m, rt, out, err));
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            for (int fast = 0; fast < 2; fast++) {
                double d = compare(m, fast ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT, counts[i]);
                const double most = counts[i] <= 4 ? 0 : fast ? 2e-2 : 5e-6;
                if (!(d <= most))
                    fail_msg("%s, %s, %zu sequences: found %g, expected at most %g", recipes[k],
                             fast ? "fast" : "exact", counts[i], d, most);
            }
        pare_model_free(m);
    }
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_as_if_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
