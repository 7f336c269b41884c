/* The JSON loader: parse, get, print, parse again. */
#include "seeds.h"

#include "io/json.h"

static void get_all(const pare_json *j, const char *path) {
    pare_error err = {0};
    size_t n = 5;
    int64_t i = 5;
    double d = 5;
    bool b = false;
    const char *s = NULL;
    json_t *list = NULL;
    pare_json part;
    pare_json_size(j, path, PARE_OPTIONAL, 1, 100, &n, &err);
    pare_json_int(j, path, PARE_REQUIRED, -7, 7, &i, &err);
    pare_json_double(j, path, PARE_REQUIRED, -1, 9, &d, &err);
    FUZZ_CHECK(n >= 1 && n <= 100 && i >= -7 && i <= 7 && d >= -1 && d <= 9);
    pare_json_bool(j, path, PARE_OPTIONAL, &b, &err);
    if (pare_json_str(j, path, PARE_REQUIRED, &s, &err) == PARE_OK) FUZZ_CHECK(strlen(s) < 1 << 24);
    pare_json_array(j, path, PARE_REQUIRED, &list, &err);
    if (pare_json_part(&part, j, path, PARE_REQUIRED, &err) == PARE_OK) pare_json_free(&part);
}

/* What jansson prints of a document is a document. */
static void print_and_parse(const pare_json *j) {
    char *text = json_dumps(j->root, JSON_COMPACT);
    if (!text) return; /* a string that is no text: possible with "\u0000" only */
    pare_json again;
    pare_error err = {0};
    FUZZ_CHECK(pare_json_parse(&again, text, strlen(text), "again", PARE_JSON_ALLOW_NUL, &err) ==
               PARE_OK);
    pare_json_free(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const paths[] = {"a",           "a.b", "0", "0.a", "list.1",
                                        "rope.deep.x", "",    ".", "9"};
    pare_json j;
    pare_error err = {0};
    unsigned flags = n && data[n - 1] == ' ' ? PARE_JSON_ALLOW_NUL : 0;
    pare_status st = pare_json_parse(&j, (const char *)data, n, "x.json", flags, &err);
    FUZZ_CHECK((st == PARE_OK) == (j.root != NULL) && (st == PARE_OK || err.message[0]));
    FUZZ_CHECK(st == PARE_OK || st == PARE_ERR_INPUT);
    if (!j.root) return 0;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) get_all(&j, paths[i]);
    print_and_parse(&j);
    pare_json_free(&j);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    static const char *const seeds[] = {
        "{\"a\": 12, \"b\": -1.5e3, \"list\": [1, \"x\", null, true, false], \"s\": \"\\u00e9\"}",
        "{\"rope\": {\"deep\": {\"x\": 1}, \"factor\": 8.0}, \"a\": {\"b\": [[[]]]}}",
        "[1000000000000000019884624838656, -9223372036854775808, 0, 0.1]",
        "[{\"a\": \"\\ud83d\\ude00\\\"\\\\\"}, [], {}, \"\"]",
        "[\"\\u0000\"] ",
        "[NaN, Infinity, -Infinity]",
        "{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\"}}",
    };
    if (i >= sizeof seeds / sizeof seeds[0]) return 0;
    return fuzz_copy(out, capacity, seeds[i], strlen(seeds[i]));
}
