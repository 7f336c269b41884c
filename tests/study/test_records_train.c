/* The records that pare train leaves, through the program. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>

static const char *string(json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    if (!s) fail_msg("found no text \"%s\"", key);
    return s ? s : "";
}

static int make_model(void **state) {
    (void)state;
    char text[8192];
    tiny_model("tiny", NULL);
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + (i * i + i / 7) % 26);
    test_write("one.txt", text, sizeof text);
    test_write("two.txt", text + 1, sizeof text - 1);
    return 0;
}

#define TRAIN                                                                                      \
    "pare train out --from tiny --data one.txt --data two.txt --steps 4 --batch 2 --ctx 16 "       \
    "--eval-every 2 --log-every 1 --save-every 1 --eval-windows 2 --optim adamw:lr=1e-3 "          \
    "--threads 1 --seed 7 --lr-scale embd=2 --records train.db"

static void run_and_show(void **state) {
    (void)state;
    /* one that is not finished leaves none; the finished one has the curve of both parts */
    program_result r = program_run(NULL, TRAIN " --stop-at 3");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "stopped: 3 steps, "));
    assert_non_null(strstr(r.out, ") after step 2, ")); /* the last evaluation */
    program_free(&r);
    r = program_run(NULL, TRAIN " --stop-at 3 --json"); /* as the checkpoint has it */
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "\"record_id\":null"));
    assert_non_null(strstr(r.out, "\"val_step\":2,"));
    program_free(&r);
    r = program_run(NULL, TRAIN " --json");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "\"record_id\":1"));
    assert_non_null(strstr(r.out, "\"val_step\":4,"));
    program_free(&r);

    json_t *o = program_json(NULL, "pare records show 1 --records train.db");
    json_t *t = json_array_get(json_object_get(o, "records"), 0);
    assert_string_equal(string(t, "verb"), "train");
    assert_string_equal(string(t, "recipe"), "train: adamw:lr=1e-3, 4 steps, lr_scale embd=2");
    assert_non_null(strstr(string(t, "options"), "steps=4 batch=2 ctx=16 schedule=cosine"));
    assert_non_null(strstr(string(t, "data"), "one.txt\n"));
    assert_int_equal(strlen(string(t, "data_sha256")), 64);
    assert_int_equal(strlen(string(t, "model_sha256")), 64);
    assert_int_equal(strlen(string(t, "out_sha256")), 64);
    assert_string_equal(string(t, "arch"), "llama");
    assert_int_equal(json_integer_value(json_object_get(t, "train_tokens")), 4 * 2 * 16);
    assert_int_equal(json_integer_value(json_object_get(t, "seed")), 7);
    assert_true(json_real_value(json_object_get(t, "val_ppl")) > 1);
    assert_int_equal(json_integer_value(json_object_get(t, "val_step")), 4);
    json_t *curve = json_object_get(t, "curve");
    assert_int_equal(json_array_size(curve), 5); /* steps 0 to 4 */
    for (size_t i = 0; i < 5; i++) {
        json_t *p = json_array_get(curve, i);
        assert_int_equal(json_integer_value(json_object_get(p, "step")), i);
        assert_int_equal(json_is_real(json_object_get(p, "loss")), i > 0);
        assert_int_equal(json_is_real(json_object_get(p, "val_loss")), i % 2 == 0);
    }
    json_decref(o);

    r = program_run(NULL, "pare records show 1 --records train.db");
    assert_non_null(strstr(r.out, "held out"));
    program_free(&r);
    r = program_run(NULL, "pare records --records train.db");
    assert_non_null(strstr(r.out, "lr_scale embd=2"));
    program_free(&r);
    r = program_run(NULL,
                    "pare report page.html --records train.db && cat page.html out/README.md");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "Loss of the text held out"));
    assert_non_null(strstr(r.out, "# tiny, trained"));
    assert_non_null(strstr(r.out, "several files"));
    program_free(&r);
}

static void verify(void **state) {
    (void)state;
    program_result r = program_run(NULL, "pare records verify 1 --records train.db");
    assert_int_equal(r.code, 0);
    program_free(&r);
    test_write("two.txt", "abc", 3);
    r = program_run(NULL, "pare records verify 1 --records train.db");
    assert_int_equal(r.code, 3);
    assert_non_null(strstr(r.err, "the data has changed"));
    program_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(run_and_show), cmocka_unit_test(verify)};
    return cmocka_run_group_tests(tests, make_model, NULL);
}
