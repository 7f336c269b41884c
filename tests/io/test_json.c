/* The JSON loader's guards (robustness rows C3, C5, S3) and its getters, each on both sides of the
 * limit. */
#include "support/test.h"

#include "io/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static pare_status parse(pare_json *j, const char *text, pare_error *err) {
    return pare_json_parse(j, text, strlen(text), "x.json", 0, err);
}

static void accept(const char *text) {
    pare_json j;
    assert_ok(parse(&j, text, err));
    pare_json_free(&j);
}

static void refuse(const char *text, const char *message) {
    pare_json j;
    pare_error err = {0};
    assert_int_equal(parse(&j, text, &err), PARE_ERR_INPUT);
    assert_null(j.root);
    if (!strstr(err.message, message) || strncmp(err.message, "x.json: ", 8) != 0)
        fail_msg("\"%s\" does not tell \"%s\"", err.message, message);
    pare_json_free(&j);
}

static char *nested(size_t depth, char open, char close, size_t n_close) {
    char *text = calloc(depth + n_close + 1, 1);
    memset(text, open, depth);
    memset(text + depth, close, n_close);
    return text;
}

static void depth_is_limited(void **state) {
    (void)state;
    char *text = nested(64, '[', ']', 64);
    accept(text);
    free(text);
    text = nested(65, '[', ']', 65);
    refuse(text, "line 1, column 65: found level 65 of nesting, expected at most 64");
    free(text);
    text = nested(100000, '[', ']', 100000);
    refuse(text, "nesting");
    free(text);
    text = nested(5000000, '{', '}', 0);
    refuse(text, "nesting");
    free(text);
    /* what stands between the brackets does not hide them, and closed ones do not count */
    text = calloc(65 * 8 + 1, 1);
    for (int i = 0; i < 65; i++) memcpy(text + 8 * i, "{ \"a\" : ", 8);
    refuse(text, "line 1, column 513: found level 65 of nesting");
    for (int i = 0; i < 65; i++) memcpy(text + 8 * i, i ? "[{}], {}" : "[{},  {}", 8);
    memcpy(text + 64 * 8, "]", 2);
    refuse(text, "line 1"); /* too few commas: the syntax, not the depth */
    for (int i = 1; i < 64; i++) memcpy(text + 8 * i, ",[{},{}]", 8);
    accept(text);
    free(text);
    /* brackets inside strings do not count, and an escaped quote does not end one */
    accept("{\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[["
           "[[\": 1}");
}

static void syntax_is_strict(void **state) {
    (void)state;
    accept(" {\"a\": [1, -2.5e3, true, null, \"\\u00e9\"]}\n");
    refuse("", "line 1");
    refuse("   ", "line 1");
    refuse("3", "line 1");
    refuse("{\"a\": 1, \"b\": 2, \"a\": 3}", "duplicate object key");
    refuse("{\"a\": 1, \"\\u0061\": 3}", "duplicate object key");
    refuse("\xEF\xBB\xBF{}", "byte order mark");
    refuse("\xFF\xFE{", "UTF-16");
    refuse("{\n\"a\": NaN}", "line 2, column 6: found NaN");
    refuse("[1, Infinity]", "found Infinity");
    refuse("[-Infinity]", "found -Infinity");
    accept("[\"NaN\", \"Infinity\"]");
    refuse("[1] x", "line 1");
    refuse("[1,]", "line 1");
    refuse("[\"\xC3\x28\"]", "line 1");
    refuse("[\"\xED\xA0\x80\"]", "line 1");
    refuse("[1e999]", "real number overflow");
    refuse("[\"a", "line 1");
    refuse("[\"a\\", "line 1");
    refuse("[-]", "line 1");
    pare_json j;
    pare_error err = {0};
    assert_int_equal(pare_json_parse(&j, "[1]\0", 4, "x.json", 0, &err), PARE_ERR_INPUT);
}

static void nul_is_asked_for(void **state) {
    (void)state;
    refuse("[\"\\u0000\"]", "NUL");
    pare_json j;
    static const char text[] = "[\"a\\u0000b\"]";
    assert_ok(pare_json_parse(&j, text, strlen(text), "x.json", PARE_JSON_ALLOW_NUL, err));
    assert_int_equal(json_string_length(json_array_get(j.root, 0)), 3);
    const char *s = NULL;
    pare_error err = {0};
    assert_int_equal(pare_json_str(&j, "0", PARE_REQUIRED, &s, &err), PARE_ERR_INPUT);
    pare_json_free(&j);
}

static void size_is_limited(void **state) {
    (void)state;
    pare_json j;
    pare_error err = {0};
    const char *path = test_write("five.json", "[123]", 5);
    assert_ok(pare_json_load(&j, path, 5, 0, err));
    pare_json_free(&j);
    assert_int_equal(pare_json_load(&j, path, 4, 0, &err), PARE_ERR_INPUT);
    assert_non_null(strstr(err.message, "found 5 bytes, expected at most 4"));
    assert_int_equal(pare_json_load(&j, test_path("none.json"), 4, 0, &err), PARE_ERR_INPUT);
    assert_non_null(strstr(err.message, "none.json"));

    /* containers: "[[],[],...]" of 4 Mi in all, then one more */
    size_t n = PARE_JSON_CONTAINERS - 1;
    char *text = malloc(3 * (n + 1) + 2), *p = text;
    *p++ = '[';
    for (size_t i = 0; i < n; i++) p = memcpy(p, "[],", 3), p += 3;
    p[-1] = ']';
    *p = '\0';
    accept(text);
    memcpy(p - 1, ",[]]", 5);
    refuse(text, "one object or array too many");
    free(text);
}

/* tokenizer_config.json has "model_max_length": int(1e30) */
static void long_integers_become_reals(void **state) {
    (void)state;
    pare_json j;
    assert_ok(parse(&j,
                    "[1000000000000000019884624838656, -9223372036854775809, 9223372036854775807,"
                    " 9223372036854775808, -5, 123456789012345678901234567890.5, 7]",
                    err));
    assert_true(fabs(json_real_value(json_array_get(j.root, 0)) / 1e30 - 1) < 1e-15);
    assert_true(fabs(json_real_value(json_array_get(j.root, 1)) / -0x1p63 - 1) < 1e-15);
    assert_true(json_integer_value(json_array_get(j.root, 2)) == INT64_MAX);
    assert_true(json_is_real(json_array_get(j.root, 3)));
    assert_true(json_integer_value(json_array_get(j.root, 4)) == -5);
    assert_true(fabs(json_real_value(json_array_get(j.root, 5)) / 1.2345678901234568e29 - 1) <
                1e-15);
    assert_true(json_integer_value(json_array_get(j.root, 6)) == 7);
    size_t n = 0;
    pare_error err = {0};
    assert_int_equal(pare_json_size(&j, "0", PARE_REQUIRED, 0, SIZE_MAX, &n, &err), PARE_ERR_INPUT);
    pare_json_free(&j);
}

static const char config[] =
    "{\"n\": 12, \"neg\": -1, \"half\": 32.5, \"s\": \"text\", \"yes\": true, \"no\": false, "
    "\"zero\": 0, "
    "\"nothing\": null,"
    " \"rope\": {\"factor\": 8.0, \"deep\": {\"x\": 1}}, \"list\": [\"LlamaForCausalLM\", 3]}";

static void getters_check_type_and_range(void **state) {
    (void)state;
    pare_json j;
    assert_ok(parse(&j, config, err));
    size_t n = 0;
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    json_t *list = NULL;
    assert_ok(pare_json_size(&j, "n", PARE_REQUIRED, 12, 12, &n, err));
    assert_int_equal(n, 12);
    assert_fails(pare_json_size(&j, "n", PARE_REQUIRED, 13, 20, &n, err), PARE_ERR_INPUT,
                 "x.json: n: found 12, expected an integer 13 to 20");
    assert_fails(pare_json_size(&j, "n", PARE_REQUIRED, 1, 11, &n, err), PARE_ERR_INPUT,
                 "found 12");
    assert_fails(pare_json_size(&j, "neg", PARE_REQUIRED, 0, SIZE_MAX, &n, err), PARE_ERR_INPUT,
                 "found -1");
    assert_fails(pare_json_size(&j, "half", PARE_REQUIRED, 0, 100, &n, err), PARE_ERR_INPUT,
                 "found 32.5, expected");
    assert_fails(pare_json_size(&j, "s", PARE_REQUIRED, 0, 100, &n, err), PARE_ERR_INPUT,
                 "found \"text\", expected");
    assert_fails(pare_json_size(&j, "list", PARE_REQUIRED, 0, 100, &n, err), PARE_ERR_INPUT,
                 "found an array");
    assert_fails(pare_json_size(&j, "rope", PARE_REQUIRED, 0, 100, &n, err), PARE_ERR_INPUT,
                 "found an object");
    assert_fails(pare_json_size(&j, "yes", PARE_REQUIRED, 0, 100, &n, err), PARE_ERR_INPUT,
                 "found true");
    assert_ok(pare_json_int(&j, "neg", PARE_REQUIRED, -1, 5, &i, err));
    assert_int_equal(i, -1);
    assert_ok(pare_json_int(&j, "neg", PARE_REQUIRED, -5, -1, &i, err));
    assert_ok(pare_json_size(&j, "zero", PARE_REQUIRED, 0, 0, &n, err));
    assert_int_equal(n, 0);
    assert_fails(pare_json_int(&j, "neg", PARE_REQUIRED, 0, 5, &i, err), PARE_ERR_INPUT,
                 "expected an integer 0 to 5");
    assert_ok(pare_json_double(&j, "rope.factor", PARE_REQUIRED, 8, 8, &d, err));
    assert_ok(pare_json_double(&j, "n", PARE_REQUIRED, 0, 100, &d, err));
    assert_true(d == 12);
    assert_fails(pare_json_double(&j, "rope.factor", PARE_REQUIRED, 0, 7.9, &d, err),
                 PARE_ERR_INPUT, "rope.factor: found 8");
    assert_fails(pare_json_double(&j, "s", PARE_REQUIRED, 0, 1, &d, err), PARE_ERR_INPUT,
                 "expected a number 0 to 1");
    assert_ok(pare_json_bool(&j, "yes", PARE_REQUIRED, &b, err));
    assert_true(b);
    assert_fails(pare_json_bool(&j, "n", PARE_REQUIRED, &b, err), PARE_ERR_INPUT,
                 "expected true or false");
    assert_ok(pare_json_str(&j, "list.0", PARE_REQUIRED, &s, err));
    assert_string_equal(s, "LlamaForCausalLM");
    assert_fails(pare_json_str(&j, "list.1", PARE_REQUIRED, &s, err), PARE_ERR_INPUT,
                 "found 3, expected a string");
    assert_ok(pare_json_array(&j, "list", PARE_REQUIRED, &list, err));
    assert_int_equal(json_array_size(list), 2);
    assert_fails(pare_json_array(&j, "rope", PARE_REQUIRED, &list, err), PARE_ERR_INPUT,
                 "expected an array");
    pare_json_free(&j);
}

static void absent_values(void **state) {
    (void)state;
    pare_json j;
    assert_ok(parse(&j, config, err));
    static const char *const paths[] = {"none", "nothing", "rope.none", "s.x", "list.2", "list.x"};
    for (size_t k = 0; k < sizeof paths / sizeof paths[0]; k++) {
        size_t n = 77;
        assert_ok(pare_json_size(&j, paths[k], PARE_OPTIONAL, 0, 5, &n, err));
        assert_int_equal(n, 77);
        assert_fails(pare_json_size(&j, paths[k], PARE_REQUIRED, 0, 5, &n, err), PARE_ERR_INPUT,
                     "found none, expected an");
    }
    char longer[300];
    memset(longer, 'k', 299);
    longer[299] = '\0';
    for (int n = 254; n < 258; n++) {
        longer[n] = '\0';
        assert_null(pare_json_get(&j, longer));
        longer[n] = 'k';
    }
    pare_json part;
    assert_ok(pare_json_part(&part, &j, "rope.deep", PARE_REQUIRED, err));
    size_t n = 0;
    assert_fails(pare_json_size(&part, "x", PARE_REQUIRED, 2, 3, &n, err), PARE_ERR_INPUT,
                 "x.json: rope.deep: x: found 1");
    pare_json_free(&j); /* the part keeps what it needs */
    assert_ok(pare_json_size(&part, "x", PARE_REQUIRED, 1, 1, &n, err));
    pare_json empty;
    assert_ok(pare_json_part(&empty, &part, "none", PARE_OPTIONAL, err));
    assert_null(empty.root);
    assert_fails(pare_json_part(&empty, &part, "x", PARE_OPTIONAL, err), PARE_ERR_INPUT,
                 "expected an object");
    pare_json_free(&part);
    pare_json_free(NULL);
}

static void written_files_load(void **state) {
    (void)state;
    pare_json j, again;
    assert_ok(parse(&j, config, err));
    const char *path = test_path("out.json");
    assert_ok(pare_json_write(path, j.root, err));
    assert_ok(pare_json_load(&again, path, 4096, 0, err));
    assert_true(json_equal(j.root, again.root));
    pare_json_free(&j);
    pare_json_free(&again);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(syntax_is_strict),
        cmocka_unit_test(nul_is_asked_for),
        cmocka_unit_test(size_is_limited),
        cmocka_unit_test(long_integers_become_reals),
        cmocka_unit_test(getters_check_type_and_range),
        cmocka_unit_test(absent_values),
        cmocka_unit_test(written_files_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
