/* Perplexity: windows and sums by hand, refusals with counts, and the token counts that are known
 * for WikiText-2 under both protocols. */
#include "support/test.h"

#include "eval/perplexity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static pare_ppl_plan plan_for(pare_protocol protocol, size_t ctx, size_t n_tokens, size_t windows,
                              int32_t bos) {
    pare_eval_options o = pare_eval_options_default();
    pare_ppl_plan plan = {0};
    o.protocol = protocol;
    o.ctx = ctx;
    o.max_windows = windows;
    assert_ok(pare_ppl_plan_make(&plan, &o, n_tokens, 4096, bos, err));
    return plan;
}

static void windows(void **state) {
    (void)state;
    /* GPT-2's counts of WikiText-2 and what the literature says of them */
    assert_int_equal(plan_for(PARE_PROTOCOL_HF, 0, 287644, 0, -1).n_windows, 140);
    assert_int_equal(plan_for(PARE_PROTOCOL_HF, 1024, 287644, 0, -1).n_windows, 280);
    assert_int_equal(plan_for(PARE_PROTOCOL_LLAMA_CPP, 0, 286220, 0, -1).n_windows, 559);
    /* Llama 2 */
    assert_int_equal(plan_for(PARE_PROTOCOL_HF, 0, 341469, 0, 1).n_windows, 166);
    assert_int_equal(plan_for(PARE_PROTOCOL_HF, 4096, 341469, 0, 1).n_windows, 83);
    assert_int_equal(plan_for(PARE_PROTOCOL_LLAMA_CPP, 0, 335687, 0, 1).n_windows, 655);
    assert_int_equal(plan_for(PARE_PROTOCOL_LLAMA_CPP, 0, 335687, 7, 1).n_windows, 7);

    /* 255 of 512 scored, the first of them at position 257 */
    pare_ppl_plan p = plan_for(PARE_PROTOCOL_LLAMA_CPP, 512, 2000, 0, 1);
    assert_int_equal(p.from, 256);
    assert_int_equal(p.ctx - 1 - p.from, 255);
    assert_int_equal(plan_for(PARE_PROTOCOL_HF, 64, 64, 0, 1).from, 0);
}

static void window_tokens(void **state) {
    (void)state;
    const int32_t ids[9] = {1, 10, 11, 12, 13, 14, 15, 16, 17};
    int32_t out[4];
    pare_ppl_plan p = plan_for(PARE_PROTOCOL_LLAMA_CPP, 4, 9, 0, 1);
    pare_ppl_window(out, &p, ids, 1);
    assert_memory_equal(out, ((int32_t[]){1, 14, 15, 16}), sizeof out); /* BOS replaced 13 */
    p = plan_for(PARE_PROTOCOL_LLAMA_CPP, 4, 9, 0, -1);
    pare_ppl_window(out, &p, ids, 1);
    assert_memory_equal(out, ((int32_t[]){13, 14, 15, 16}), sizeof out);
    p = plan_for(PARE_PROTOCOL_HF, 4, 9, 0, 1); /* no BOS in front of later windows */
    pare_ppl_window(out, &p, ids, 1);
    assert_memory_equal(out, ((int32_t[]){13, 14, 15, 16}), sizeof out);
}

static void refused(pare_protocol protocol, size_t ctx, size_t n_tokens, pare_status expected,
                    const char *told) {
    pare_eval_options o = pare_eval_options_default();
    pare_ppl_plan plan;
    pare_error err = {0};
    o.protocol = protocol;
    o.ctx = ctx;
    o.name = "a.txt";
    assert_int_equal(pare_ppl_plan_make(&plan, &o, n_tokens, 4096, 1, &err), expected);
    if (!strstr(err.message, told)) fail_msg("%s", err.message);
}

/* N22, each at its limit and one past it. */
static void refusals(void **state) {
    (void)state;
    const pare_protocol hf = PARE_PROTOCOL_HF, llama = PARE_PROTOCOL_LLAMA_CPP;
    refused(hf, 0, 0, PARE_ERR_INPUT, "a.txt: found 0 tokens, expected at least 2048 (one window");
    refused(hf, 100, 99, PARE_ERR_INPUT, "found 99 tokens, expected at least 100");
    plan_for(hf, 100, 100, 0, 1);
    refused(llama, 100, 199, PARE_ERR_INPUT, "expected at least 200 (two windows of 100)");
    plan_for(llama, 100, 200, 0, 1);
    refused(hf, 1, 100, PARE_ERR_ARG, "found 1 tokens, expected 2 to 4096");
    plan_for(hf, 2, 100, 0, 1);
    refused(hf, 4097, 9999, PARE_ERR_ARG, "found 4097 tokens, expected 2 to 4096");
    plan_for(hf, 4096, 9999, 0, 1);
}

/* p = 1/2, 1/4, 1/8 and 1/2 again: nll = (1 + 2 + 3 + 1) ln 2 over 4 tokens. */
static void sums(void **state) {
    (void)state;
    const float ln2 = 0.69314718056f, logprob[4] = {-ln2, -2 * ln2, -3 * ln2, -ln2};
    pare_ppl_sum sum = {0};
    assert_ok(pare_ppl_add(&sum, logprob, 3, 0, 1, err));
    assert_ok(pare_ppl_add(&sum, logprob + 3, 1, 1, 1, err));
    assert_int_equal(sum.n, 4);
    assert_true(fabs(pare_ppl_value(&sum) - pow(2, 7.0 / 4)) < 1e-6);
    /* mean 1.75, mean of squares (1 + 4 + 9 + 1) / 4 = 3.75, variance 0.6875, in units of ln 2 */
    double expected = pow(2, 1.75) * 0.69314718056 * sqrt(0.6875 / 3);
    assert_true(fabs(pare_ppl_stderr(&sum) - expected) < 1e-6);
}

static void not_probabilities(void **state) {
    (void)state;
    const float bad[] = {-INFINITY, NAN, INFINITY, 0.1f};
    for (size_t i = 0; i < 4; i++) {
        pare_ppl_sum sum = {0};
        pare_error err = {0};
        const float logprob[2] = {-1, bad[i]};
        assert_int_equal(pare_ppl_add(&sum, logprob, 2, 3, 17, &err), PARE_ERR_INPUT);
        assert_non_null(strstr(err.message, "window 3, token 18"));
        assert_non_null(strstr(err.message, "after 1 scored"));
    }
    pare_ppl_sum sum = {0};
    const float rounded = 1e-6f; /* a certain token in f32 */
    assert_ok(pare_ppl_add(&sum, &rounded, 1, 0, 0, err));
}

/* Counts and CRCs of WikiText-2's test text that are known from independent implementations. */
static void known_counts(void **state) {
    (void)state;
    const char *path = test_data("wikitext-2-raw/wiki.test.raw");
    if (!path) skip();
    static char text[1300000];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t len = fread(text, 1, sizeof text, f);
    fclose(f);
    assert_int_equal(len, 1290590);
    const struct {
        const char *vocab;
        size_t n[2];
        uint32_t crc[2];
    } known[] = {
        {"vocab/ggml-vocab-gpt-2.gguf", {287644, 286220}, {0xdd2fa101, 0xdacf44f6}},
        {"vocab/ggml-vocab-llama-spm.gguf", {341469, 335687}, {0x494f3725, 0xf24f58cf}},
        {"tokenizers/qwen3.tokenizer.json", {299078, 299079}, {0x9557b487, 0xa321ac3b}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *vocab = test_data(known[i].vocab);
        if (!vocab) continue;
        pare_tokenizer *tok = NULL;
        assert_ok(pare_tokenizer_load(&tok, vocab, err));
        for (int protocol = 0; protocol < 2; protocol++) {
            pare_ids ids = {0};
            assert_ok(pare_eval_tokens(&ids, tok, text, len, (pare_protocol)protocol, err));
            assert_int_equal(ids.n, known[i].n[protocol]);
            assert_int_equal(pare_ids_crc32(ids.data, ids.n), known[i].crc[protocol]);
            pare_ids_free(&ids);
        }
        pare_tokenizer_free(tok);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows),           cmocka_unit_test(window_tokens),
        cmocka_unit_test(refusals),          cmocka_unit_test(sums),
        cmocka_unit_test(not_probabilities), cmocka_unit_test(known_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
