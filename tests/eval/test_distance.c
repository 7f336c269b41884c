/* The distance between two models beside a plain reference: logits token by token, softmax in f64,
 * percentiles by sorting. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "pare/eval.h"
#include "pare/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CTX = 64, WINDOWS = 3, N = WINDOWS * (CTX - 1) };

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_share(const double *sorted, double share) {
    double at = share * (N - 1), below = floor(at);
    size_t i = (size_t)below, next = i + 1 < N ? i + 1 : i;
    return sorted[i] * (1 - (at - below)) + sorted[next] * (at - below);
}

static void softmax(double *p, const float *logits) {
    double most = -INFINITY, sum = 0;
    for (int v = 0; v < TINY_VOCAB; v++) most = fmax(most, (double)logits[v]);
    for (int v = 0; v < TINY_VOCAB; v++) sum += p[v] = exp((double)logits[v] - most);
    for (int v = 0; v < TINY_VOCAB; v++) p[v] /= sum;
}

static size_t top(const double *p) {
    size_t best = 0;
    for (size_t v = 1; v < TINY_VOCAB; v++)
        if (p[v] > p[best]) best = v;
    return best;
}

typedef struct plain {
    double kl[N], dp[N], own[N], base[N];
    size_t same;
} plain;

static void look(plain *x, pare_model *m, pare_model *base, const int32_t *ids) {
    const pare_session_options so = {.n_ctx = CTX, .compute = PARE_COMPUTE_EXACT};
    double p[TINY_VOCAB], q[TINY_VOCAB];
    float logits[2][TINY_VOCAB];
    size_t n = 0;
    for (int w = 0; w < WINDOWS; w++) {
        pare_session *s[2];
        assert_ok(pare_session_create(&s[0], m, &so, err));
        assert_ok(pare_session_create(&s[1], base, &so, err));
        for (int i = 0; i + 1 < CTX; i++, n++) {
            for (int k = 0; k < 2; k++)
                assert_ok(pare_session_eval(s[k], ids + w * CTX + i, 1, logits[k], err));
            softmax(q, logits[0]);
            softmax(p, logits[1]);
            int32_t next = ids[w * CTX + i + 1];
            x->kl[n] = 0;
            for (int v = 0; v < TINY_VOCAB; v++) x->kl[n] += p[v] * log(p[v] / q[v]);
            x->dp[n] = q[next] - p[next];
            x->own[n] = -log(q[next]);
            x->base[n] = -log(p[next]);
            x->same += top(p) == top(q);
        }
        pare_session_free(s[0]);
        pare_session_free(s[1]);
    }
    assert_int_equal(n, N);
}

static double mean(const double *x) {
    double sum = 0;
    for (int i = 0; i < N; i++) sum += x[i];
    return sum / N;
}

/* Of the means. */
static double covariance(const double *x, const double *y) {
    double sum = 0, mx = mean(x), my = mean(y);
    for (int i = 0; i < N; i++) sum += (x[i] - mx) * (y[i] - my);
    return sum / N / (N - 1);
}

#define NEAR(a, b, scale) assert_true(fabs((a) - (b)) <= 1e-4 * (scale))

static void beside_plain(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    char text[CTX * WINDOWS + 40];
    static plain x;
    pare_model *m, *base;
    pare_tokenizer *tok;
    pare_ids ids = {0};
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + (i * i + i / 5) % 23);
    assert_ok(pare_model_load(&base, rt, tiny_model("base", NULL), err));
    assert_ok(pare_tokenizer_load(&tok, test_path("base"), err));
    assert_ok(pare_model_load(&m, rt, tiny_model("other", &(tiny_options){.seed = 5}), err));
    assert_ok(pare_eval_tokens(&ids, tok, text, sizeof text, PARE_PROTOCOL_HF, err));
    look(&x, m, base, ids.data);

    pare_eval_options o = pare_eval_options_default();
    o.ctx = CTX;
    o.max_windows = WINDOWS;
    o.compute = PARE_COMPUTE_EXACT;
    pare_perplexity ppl;
    pare_distance d;
    assert_ok(pare_eval_against(&ppl, &d, rt, m, tok, base, tok, text, sizeof text, &o, err));
    assert_int_equal(d.n_scored, N);
    const double kl = mean(x.kl), kl_error = sqrt(covariance(x.kl, x.kl));
    NEAR(d.kl_mean, kl, kl);
    NEAR(d.kl_mean_stderr, kl_error, kl_error);
    const double same = (double)x.same / N;
    assert_true(same > 0 && same < 1);
    NEAR(d.same_top, same, 1e-6);
    NEAR(d.same_top_stderr, sqrt(same * (1 - same) / (N - 1)), 1);
    double squares[N];
    for (int i = 0; i < N; i++) squares[i] = x.dp[i] * x.dp[i];
    const double rms = sqrt(mean(squares));
    NEAR(d.dp_mean, mean(x.dp), rms);
    NEAR(d.dp_mean_stderr, sqrt(covariance(x.dp, x.dp)), rms);
    NEAR(d.dp_rms, rms, rms);
    NEAR(d.dp_rms_stderr, 0.5 / rms * sqrt(covariance(squares, squares)), rms);
    const double ratio = mean(x.own) - mean(x.base), own = covariance(x.own, x.own),
                 other = covariance(x.base, x.base), both = covariance(x.own, x.base);
    NEAR(d.ln_ratio, ratio, 1);
    NEAR(d.ppl_ratio, exp(ratio), 1);
    NEAR(d.ln_ratio_stderr, sqrt(own + other - 2 * both), 1);
    NEAR(d.correlation, both / sqrt(own * other), 1);
    qsort(x.kl, N, sizeof *x.kl, rising);
    qsort(x.dp, N, sizeof *x.dp, rising);
    for (int i = 0; i < PARE_N_KL_SHARES; i++)
        NEAR(d.kl_percentile[i], at_share(x.kl, pare_kl_shares[i]), kl);
    for (int i = 0; i < PARE_N_DP_SHARES; i++)
        NEAR(d.dp_percentile[i], at_share(x.dp, pare_dp_shares[i]), rms);
    NEAR(d.kl_median, at_share(x.kl, 0.5), kl);
    NEAR(d.kl_p99, at_share(x.kl, 0.99), kl);
    NEAR(d.kl_min, x.kl[0], kl);
    NEAR(d.kl_max, x.kl[N - 1], kl);

    /* a model beside itself */
    assert_ok(pare_eval_against(&ppl, &d, rt, m, tok, m, tok, text, sizeof text, &o, err));
    assert_true(d.kl_max == 0 && d.same_top == 1 && d.same_top_stderr == 0 && d.dp_rms == 0);
    assert_true(d.ln_ratio == 0 && d.ppl_ratio == 1);
    NEAR(d.ln_ratio_stderr, 0, 1e-3);
    NEAR(d.correlation, 1, 1e-3);
    pare_ids_free(&ids);
    pare_tokenizer_free(tok);
    pare_model_free(m);
    pare_model_free(base);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(beside_plain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
