/* pare records, and the records that compress and eval leave: through the program. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static json_int_t integer(json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}
static const char *string(json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

static int make_model(void **state) {
    (void)state;
    char text[8192];
    tiny_model("tiny", NULL);
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + (i * i + i / 7) % 26);
    test_write("text", text, sizeof text);
    return 0;
}

static void run_and_show(void **state) {
    (void)state;
    unlink(test_path("records.db"));
    json_t *o = program_json(NULL, "pare records");
    assert_int_equal(json_array_size(json_object_get(o, "records")), 0);
    json_decref(o);
    assert_int_not_equal(access(test_path("records.db"), F_OK), 0); /* a look makes no database */

    o = program_json(
        NULL,
        "pare compress tiny -o small -r 'magnitude:sparsity=0.6 + q8_0' --eval text --windows 1");
    assert_int_equal(integer(o, "record_id"), 1);
    json_decref(o);
    o = program_json(NULL,
                     "pare eval small --text text --ctx 64 --windows 2 --against tiny --seed 7");
    assert_int_equal(integer(o, "record_id"), 2);
    double kl = json_real_value(json_object_get(json_object_get(o, "against"), "kl_mean"));
    json_decref(o);

    o = program_json(NULL, "pare records show 1");
    json_t *r = json_array_get(json_object_get(o, "records"), 0);
    assert_string_equal(string(r, "verb"), "compress");
    assert_string_equal(string(r, "recipe"), "magnitude:sparsity=0.6 + q8_0");
    assert_string_equal(string(r, "arch"), "llama");
    assert_string_equal(string(r, "protocol"), "hf");
    assert_string_equal(string(r, "status"), "ok");
    assert_true(json_real_value(json_object_get(r, "sparsity")) > 0.3);
    assert_true(json_real_value(json_object_get(r, "base_ppl")) > 1);
    assert_true(json_array_size(json_object_get(r, "layers")) > 10);
    assert_true(integer(r, "peak_rss_bytes") > 0 && integer(r, "out_bytes") > 0);
    char *made = strdup(string(r, "out_sha256"));
    assert_int_equal(strlen(made), 64);
    json_decref(o);

    /* the evaluation's model is what the compression made */
    o = program_json(NULL, "pare records show 2");
    r = json_array_get(json_object_get(o, "records"), 0);
    assert_string_equal(string(r, "model_sha256"), made);
    assert_int_equal(strlen(string(r, "text_sha256")), 64);
    assert_int_equal(integer(r, "seed"), 7);
    assert_true(json_real_value(json_object_get(r, "kl_mean")) == kl);
    free(made);
    json_decref(o);

    o = program_json(NULL, "pare records --filter verb=eval --limit 5");
    assert_int_equal(json_array_size(json_object_get(o, "records")), 1);
    json_decref(o);
    program_result table = program_run(NULL, "pare records");
    assert_int_equal(program_lines(table.out), 3);
    assert_non_null(strstr(table.out, "magnitude:sparsity=0.6 + q8_0"));
    program_free(&table);
    table = program_run(NULL, "pare records show 1");
    assert_non_null(strstr(table.out, "blk.0.attn_q.weight"));
    program_free(&table);
}

static void verify(void **state) {
    (void)state;
    program_result r =
        program_run(NULL, "pare eval tiny --text text --ctx 64 --windows 1 --records v.db &&"
                          " pare records verify 1 --records v.db");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.err, "");
    program_free(&r);
    FILE *f = fopen(test_path("text"), "ab");
    fputc('x', f);
    fclose(f);
    r = program_run(NULL, "pare records verify 1 --records v.db --json");
    assert_int_equal(r.code, 3);
    assert_non_null(strstr(r.err, "the text has changed"));
    assert_non_null(strstr(r.out, "\"state\": \"changed\""));
    assert_non_null(strstr(r.out, "\"state\": \"same\""));
    program_free(&r);
    make_model(state);
    rename(test_path("text"), test_path("text2"));
    r = program_run(NULL, "pare records verify 1 --records v.db");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "missing"));
    program_free(&r);
    rename(test_path("text2"), test_path("text"));
    r = program_run(NULL, "pare records rm 1 --records v.db && pare records rm 1 --records v.db");
    assert_int_equal(r.code, 2);
    assert_non_null(strstr(r.err, "found no record 1"));
    program_free(&r);
}

/* No database, however bad, costs a run its result. */
static void bad_databases(void **state) {
    (void)state;
    test_write("text.db", "no database", 11);
    test_write("cut.db", "SQLite format 3\0\x10\0", 18);
    program_result r = program_run(NULL, "mkdir -p folder.db");
    program_free(&r);
    const char *const paths[] = {"text.db", "cut.db", "folder.db", "text.db/x.db",
                                 "/proc/none/x.db"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        r = program_runf(
            NULL, "pare eval tiny --text text --ctx 64 --windows 1 --json --records %s", paths[i]);
        if (r.code != 0 || program_lines(r.err) != 1 ||
            !strstr(r.err, "pare: warning: no record: ") || !strstr(r.out, "\"record_id\": null") ||
            !strstr(r.out, "\"nll_sum\""))
            fail_msg("%s: exit %d, %s", paths[i], r.code, r.err);
        program_free(&r);
        char command[200];
        snprintf(command, sizeof command, "pare records --records %s", paths[i]);
        program_refuses(command, paths[i]);
    }
    r = program_run(NULL, "pare eval tiny --text text --ctx 64 --windows 1 --json --records none");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.err, "");
    assert_non_null(strstr(r.out, "\"record_id\": null"));
    program_free(&r);
}

static void usage(void **state) {
    (void)state;
    program_refuses("pare records shwo 1", "did you mean 'show'?");
    program_refuses("pare records show", "found no id");
    program_refuses("pare records show x", "found id 'x'");
    program_refuses("pare records show 999999", "found no record 999999");
    program_refuses("pare records --filter nll=1", "filter: found key 'nll'");
    program_refuses("pare records --records none", "expected a database");
    program_refuses("pare records --records absent.db", "absent.db");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(run_and_show), cmocka_unit_test(verify),
                                       cmocka_unit_test(bad_databases), cmocka_unit_test(usage)};
    return cmocka_run_group_tests(tests, make_model, NULL);
}
