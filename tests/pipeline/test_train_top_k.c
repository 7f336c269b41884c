/* pare_train with sparse activations: the folder says so, and whoever computes the model does it.
 */
#include "support/toy_training.h"

#include "base/memory.h"
#include "base/os.h"
#include "model/model.h"
#include "pare/compress.h"
#include "support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

enum { N = 16 };

static const int32_t *some_ids(void) {
    static int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = (7 * i + 3) % 200;
    return ids;
}

/* The last token's logits, of all tokens at once or of one after the other. */
static void logits_of(float *logits, const char *folder, bool one_by_one) {
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    pare_model *m;
    pare_session *s;
    assert_ok(pare_model_load(&m, rt, folder, err));
    pare_session_options so = {.n_ctx = N, .n_batch = N, .compute = PARE_COMPUTE_EXACT};
    assert_ok(pare_session_create(&s, m, &so, err));
    for (size_t i = 0; i < N; i += one_by_one ? 1 : N)
        assert_ok(pare_session_eval(s, some_ids() + i, one_by_one ? 1 : N, logits, err));
    pare_session_free(s);
    pare_model_free(m);
    pare_runtime_free(rt);
}

static char *config_of(const char *folder) {
    char *path = pare_path_join(folder, "config.json"), *text;
    size_t n;
    assert_ok(pare_file_read_all(&text, &n, path, 1 << 20, err));
    pare_free(path);
    return text;
}

static void write_config(const char *folder, const char *text) {
    char *path = pare_path_join(folder, "config.json");
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    pare_free(path);
}

static void the_model_computes_as_it_was_trained(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"top_k:sparsity=0.75", "\"sparsity\": 0.75"},
                                           {"top_k:sparsity=2:8,score=value", "\"value\""}};
    static const char *const archs[] = {"llama", "gpt2", "gemma3"};
    pare_train_report r;
    float at_once[512], in_turn[512];
    for (size_t k = 0; k < 6; k++) {
        pare_train_options o = toy_options();
        o.shape.arch = archs[k / 2];
        o.act_sparsity = cases[k % 2][0];
        toy_clean();
        assert_ok(toy_run(&r, &o, 2, NULL, err));
        assert_true(r.val_loss < r.first_val_loss);
        char *config = config_of(toy.out);
        if (!strstr(config, "pare_activation_sparsity") || !strstr(config, cases[k % 2][1]))
            fail_msg("%s: found %s", cases[k % 2][0], config);
        logits_of(at_once, toy.out, false);
        logits_of(in_turn, toy.out, true);
        for (size_t i = 0; i < 259; i++) assert_float_equal(at_once[i], in_turn[i], 1e-4);
        /* without the key it is another model */
        memcpy(strstr(config, "pare_activation"), "some", 4);
        write_config(toy.out, config);
        logits_of(in_turn, toy.out, false);
        double most = 0;
        for (size_t i = 0; i < 259; i++)
            most = fmax(most, fabs((double)at_once[i] - (double)in_turn[i]));
        assert_true(most > 1e-2);
        pare_free(config);
    }
    toy_clean();
}

/* On with it, through another format and from the trained model, whose configuration holds. */
static void it_travels(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    char expected[65], from[600];
    o.act_sparsity = "top_k:sparsity=0.5";
    o.sparsity = "magnitude_ste:sparsity=0.5";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    o.stop_at = 5;
    assert_ok(toy_run(&r, &o, 2, NULL, err));
    o.stop_at = 0;
    o.act_sparsity = "top_k:sparsity=0.6";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "another act_sparsity");
    o.act_sparsity = "top_k"; /* the same, its default */
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    double end = r.val_loss;

    snprintf(from, sizeof from, "%s", toy_keep("sparse"));
    o = toy_options_from(from);
    o.steps = 1;
    o.optim = "sgd:lr=0";
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_float_equal(r.first_val_loss, end, 1e-5);
    char *config = config_of(toy.out);
    assert_non_null(strstr(config, "pare_activation_sparsity"));
    pare_free(config);
    toy_clean();
    o.act_sparsity = "top_k:sparsity=0"; /* dense again, which the output says, too */
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    config = config_of(toy.out);
    assert_null(strstr(config, "pare_activation_sparsity"));
    pare_free(config);
    toy_clean();

    pare_runtime *rt = test_runtime(1, pare_isa_best());
    char gguf[600];
    snprintf(gguf, sizeof gguf, "%s", test_path("sparse.gguf"));
    pare_compress_options co = {.model = from, .out = gguf, .recipe = "bf16", .format = "gguf"};
    pare_compress_report *report;
    assert_fails(pare_compress(&report, rt, &co, err), PARE_ERR_UNSUPPORTED,
                 "GGUF files cannot say");
    pare_runtime_free(rt);
}

static void bad_ones_are_told(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o;
#define BAD(change, status, part)                                                                  \
    do {                                                                                           \
        o = toy_options();                                                                         \
        change;                                                                                    \
        toy_clean();                                                                               \
        assert_fails(toy_run(&r, &o, 1, NULL, err), status, part);                                 \
    } while (0)
    BAD(o.act_sparsity = "topk", PARE_ERR_ARG, "act-sparsity");
    BAD(o.act_sparsity = "top_k:sparsity=1.5", PARE_ERR_ARG, "sparsity");
    BAD(o.act_sparsity = "top_k:sparsity=0:4", PARE_ERR_ARG, "found 0:4");
    BAD(o.act_sparsity = "top_k:sparsity=2:7", PARE_ERR_ARG, "a pattern of 7 in rows of 96");
    BAD((o.shape = (pare_train_shape){0}, o.from = toy.tokenizer, o.adapter = "lora",
         o.act_sparsity = "top_k"),
        PARE_ERR_ARG, "with an adapter");
#undef BAD
    /* configurations */
    static const char *const configs[][2] = {
        {"{\"sparsity\": 2}", "sparsity"},
        {"{\"n\": 3, \"m\": 2}", "n: found 3"},
        {"{\"score\": \"value\"}", "m"},
        {"{\"sparsity\": 0.5, \"score\": \"rank\"}", "\"rank\""},
        {"{\"n\": 2, \"m\": 7}", "a pattern of 7"},
        {"[]", "pare_activation_sparsity"}};
    o = toy_options();
    o.steps = 1;
    o.act_sparsity = "top_k:sparsity=0.5";
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    char changed[4096], *text = config_of(toy.out);
    const char *at = strstr(text, "\"pare_activation_sparsity\"");
    assert_non_null(at);
    const char *open = strchr(at, '{'), *close = strchr(at, '}');
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        pare_runtime *rt = test_runtime(1, pare_isa_best());
        pare_model *m = NULL;
        snprintf(changed, sizeof changed, "%.*s%s%s", (int)(open - text), text, configs[i][0],
                 close + 1);
        write_config(toy.out, changed);
        pare_error e = {0};
        pare_status st = pare_model_load(&m, rt, toy.out, &e);
        if (st == PARE_OK || !strstr(e.message, configs[i][1]))
            fail_msg("%s: found status %d, \"%s\"", configs[i][0], (int)st, e.message);
        pare_runtime_free(rt);
    }
    pare_free(text);
    toy_clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_model_computes_as_it_was_trained),
                                       cmocka_unit_test(it_travels),
                                       cmocka_unit_test(bad_ones_are_told)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
