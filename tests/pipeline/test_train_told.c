/* What pare_train says of its result: the average of the weights, zeros that would go, losses that
 * rose, text that is none. */
#include "support/toy_training.h"

#include "base/memory.h"
#include "base/os.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

static const char matrix[] = "model.layers.1.mlp.down_proj.weight";

/* The mean of the weights after each step, older ones counting less; the start has no part. */
static void averages_begin_with_the_first_step(void **state) {
    (void)state;
    const double d = 0.9;
    float *w[4], *mean[4];
    size_t n = 0;
    pare_train_report r;
    pare_train_options o = toy_options();
    o.schedule = "constant";
    o.warmup = 0;
    for (uint64_t k = 1; k <= 3; k++) {
        o.steps = k;
        o.ema = 0;
        toy_clean();
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        w[k] = toy_tensor(toy.out, matrix, &n);
        o.ema = d;
        toy_clean();
        assert_ok(toy_run(&r, &o, 2, NULL, err));
        mean[k] = toy_tensor(toy.out, matrix, &n);
    }
    assert_true(n > 1000);
    assert_memory_equal(mean[1], w[1], n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        double two = (d * (double)w[1][i] + (double)w[2][i]) / (d + 1);
        double three =
            (d * d * (double)w[1][i] + d * (double)w[2][i] + (double)w[3][i]) / (d * d + d + 1);
        assert_float_equal(mean[2][i], two, 2e-8); /* weights are about 0.05 */
        assert_float_equal(mean[3][i], three, 2e-8);
    }
    for (size_t k = 1; k <= 3; k++) {
        pare_free(w[k]);
        pare_free(mean[k]);
    }
    toy_clean();
}

static size_t zeros_of(const char *folder) {
    size_t n, zeros = 0;
    float *w = toy_tensor(folder, matrix, &n);
    for (size_t i = 0; i < n; i++) zeros += w[i] == 0.0f;
    pare_free(w);
    return zeros;
}

static void zeros_that_go_are_told(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    o.sparsity = "static_sparse:sparsity=0.5";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(toy_warnings(), "");
    char pruned[600];
    snprintf(pruned, sizeof pruned, "%s", toy_keep("pruned"));
    size_t zeros = zeros_of(pruned);
    assert_true(zeros > 1000);

    o = toy_options_from(pruned);
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "50.0% of the weights of linear layers are zero"));
    assert_true(zeros_of(toy.out) < 10);

    o.sparsity = "keep_zeros";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(toy_warnings(), "");
    assert_float_equal(r.sparsity, 0.5, 1e-3);
    assert_int_equal(zeros_of(toy.out), zeros);
    char expected[65];
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    o.stop_at = 7;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    o.stop_at = 0;
    assert_ok(toy_run(&r, &o, 2, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);

    o.sparsity = "keep_zeros:only=ffn"; /* attention's go */
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "of these are not now"));

    o.sparsity = "static_sparse:sparsity=0.5,type=block_16x16"; /* as many, others */
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "of these are not now"));

    o.sparsity = "static_sparse:sparsity=0.3"; /* another mask */
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "50.0% of the weights of linear layers were zero"));
    toy_clean();
}

static void a_rising_loss_is_told(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    o.steps = 40;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(toy_warnings(), "");
    assert_true(r.first_val_loss > 5 && r.val_loss < r.first_val_loss); /* log 259 = 5.56 */
    double before = r.val_loss;
    char model[600];
    snprintf(model, sizeof model, "%s", toy_keep("good"));

    o = toy_options_from(model);
    o.optim = "adamw:lr=0.3";
    o.stop_at = 6;
    o.eval_every = 0; /* still before the first step and after the last */
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(toy_warnings(), "");
    assert_int_equal(r.steps, 6);
    assert_int_equal(r.val_step, 0);
    o.stop_at = 0;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "made it worse"));
    assert_int_equal(r.val_step, o.steps);
    assert_float_equal(r.first_val_loss, before, 1e-4);
    assert_true(r.val_loss > before);

    o.keep_best = true; /* then it is the model as it was */
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(toy_warnings(), "");
    assert_float_equal(r.val_loss, before, 1e-4);
    assert_int_equal(r.val_step, 0);
    size_t n;
    float *was = toy_tensor(model, matrix, &n), *is = toy_tensor(toy.out, matrix, &n);
    assert_memory_equal(is, was, n * sizeof(float));
    pare_free(was);
    pare_free(is);

    o = toy_options_from(model); /* sparser: it may cost something */
    o.sparsity = "magnitude:sparsity=0.95,schedule=one_shot,from=9";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_true(r.val_loss > r.first_val_loss);
    assert_string_equal(toy_warnings(), "");
    toy_clean();
}

static void bytes_that_are_no_text_are_told(void **state) {
    (void)state;
    pare_train_report r;
    char text[2000];
    memset(text, 'a', sizeof text);
    memcpy(text + 100, "caf\xE9 cr\xE8me", 10); /* Latin-1 */
    const char *files[] = {test_write("latin.txt", text, sizeof text)};
    pare_train_options o = toy_options();
    o.data = files;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    const char *line = strstr(toy_warnings(), "latin.txt: byte 103: found no UTF-8");
    assert_non_null(line);
    assert_non_null(line ? strstr(line, "2 such bytes of 2000") : NULL);
    toy_clean();
}

/* Keys of a configuration that a training makes no use of. */
static void keys_without_effect_are_told(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    o.steps = 1;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    char path[1200], config[1200];
    snprintf(path, sizeof path, "%s/config.json", toy.out);
    json_t *j = json_load_file(path, 0, NULL);
    assert_non_null(j);
    o.shape = (pare_train_shape){.config = config, .tokenizer = toy.tokenizer};
    for (int changed = 0; changed < 2; changed++) {
        if (changed) {
            json_object_set_new(j, "attention_dropout", json_real(0.1));
            json_object_set_new(j, "vocab_size", json_integer(1000));
        }
        char *text = json_dumps(j, 0);
        snprintf(config, sizeof config, "%s", test_write("config.json", text, strlen(text)));
        free(text);
        toy_clean();
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        const char *told = toy_warnings();
        assert_int_equal(strstr(told, "attention_dropout: found 0.1, which has no effect") != NULL,
                         changed);
        assert_int_equal(strstr(told, "vocab_size: found 1000, the model gets the tokenizer's") !=
                             NULL,
                         changed);
    }
    json_decref(j);
    toy_clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(averages_begin_with_the_first_step),
                                       cmocka_unit_test(zeros_that_go_are_told),
                                       cmocka_unit_test(a_rising_loss_is_told),
                                       cmocka_unit_test(bytes_that_are_no_text_are_told),
                                       cmocka_unit_test(keys_without_effect_are_told)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
