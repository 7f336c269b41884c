/* Model cards: through the program, with hostile names, and their hash instructions. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "pare/study.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char *card_of(const char *folder) {
    program_result r = program_runf(NULL, "cat '%s/README.md'", folder);
    assert_int_equal(r.code, 0);
    char *text = strdup(r.out);
    program_free(&r);
    return text;
}

static void has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("'%s' is missing in:\n%s", part, text);
}

static int make_model(void **state) {
    (void)state;
    char text[6000];
    tiny_model("tiny", NULL);
    const char licence[] = "---\nlicense: mit\n---\n";
    test_write("tiny/README.md", licence, sizeof licence - 1);
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + (i * i + i / 7) % 26);
    test_write("text", text, sizeof text);
    return 0;
}

static void of_compress(void **state) {
    (void)state;
    json_t *o = program_json(
        NULL,
        "pare compress tiny -o out -r 'magnitude:sparsity=0.6 + q8_0' --eval text --windows 1");
    assert_int_equal(json_integer_value(json_object_get(o, "record_id")), 1);
    json_decref(o);
    char *card = card_of("out");
    assert_int_equal(strncmp(card, "---\nlicense: \"mit\"\nbase_model: \"tiny\"\n", 38), 0);
    has(card, "```\nmagnitude:sparsity=0.6 + q8_0\n```");
    has(card, "| perplexity | ");
    has(card, "hf-512, 1 window of text, exact");
    has(card, "| q8\\_0 | ");
    has(card, "- this folder: SHA-256 ");
    free(card);

    /* the card's own instruction gives the hash that it names, and that of the record */
    program_result r = program_run(
        NULL,
        "cd out && sha256sum -- $(ls | grep -v '\\.md$' | LC_ALL=C sort) | sha256sum | cut -c1-64 "
        "> ../sum && grep -c \"this folder: SHA-256 $(cat ../sum)\" README.md && cd .. && "
        "pare records show 1 | grep -c \"out_sha256 *$(cat sum)\" && pare records verify 1 && "
        "pare eval out --text text --windows 1");
    assert_int_equal(r.code, 0);
    assert_int_equal(strncmp(r.out, "1\n1\n", 4), 0);
    program_free(&r);
}

/* No database, no record; the card is there all the same. A file has none. */
static void without_records(void **state) {
    (void)state;
    program_result r =
        program_run(NULL, "pare compress tiny -o bare -r q8_0 --records none -q && "
                          "pare compress tiny -o bare.gguf -r q8_0 --records none -q");
    assert_int_equal(r.code, 0);
    program_free(&r);
    char *card = card_of("bare");
    has(card, "- this folder: SHA-256 ");
    assert_null(strstr(card, "| perplexity"));
    free(card);
}

/* A matrix that the run replaces: the record has the hash of what was read. */
static void names_the_imatrix(void **state) {
    (void)state;
    program_result r = program_run(
        NULL,
        "{ pare compress tiny -o made -r q4_0 --calib text --calib-samples 2 --calib-ctx 16 "
        "--write-imatrix m.gguf --records none && cp m.gguf kept && "
        "pare compress tiny -o weighed -r q4_0 --imatrix m.gguf --calib text --calib-samples 1 "
        "--calib-ctx 16 --write-imatrix m.gguf; } > /dev/null && ! cmp -s m.gguf kept && "
        "sha256sum < kept");
    if (r.code) fail_msg("%s", r.err);
    char expected[200], *card = card_of("weighed");
    snprintf(expected, sizeof expected, "- importance matrix: m.gguf, SHA-256 %.64s", r.out);
    has(card, expected);
    free(card);
    card = card_of("made");
    assert_null(strstr(card, "importance matrix"));
    free(card);
    snprintf(expected, sizeof expected, "%.64s", r.out);
    program_free(&r);
    json_t *o = program_json(NULL, "pare records --limit 1");
    json_t *record = json_array_get(json_object_get(o, "records"), 0);
    assert_string_equal(json_string_value(json_object_get(record, "imatrix_sha256")), expected);
    assert_string_equal(json_string_value(json_object_get(record, "imatrix")), test_path("m.gguf"));
    r = program_runf(NULL,
                     "cp kept m.gguf && pare records verify %lld && "
                     "pare compress tiny -o plain -r q4_0 --imatrix kept -q --json",
                     (long long)json_integer_value(json_object_get(record, "id")));
    json_decref(o);
    if (r.code) fail_msg("%s", r.err);
    assert_non_null(strstr(r.out, expected));
    program_free(&r);
}

static void of_sweep(void **state) {
    (void)state;
    test_write("recipes", "q8_0", 4);
    program_result r =
        program_run(NULL, "pare sweep recipes -m tiny -o swept --keep all --eval 'text "
                          "windows=1 against=yes' --speed decode=2 --no-dense -q && "
                          "mv swept/tiny-q8_0-* swept/one");
    assert_int_equal(r.code, 0);
    program_free(&r);
    char *card = card_of("swept/one");
    has(card, "| KL divergence to the base model |  | ");
    free(card);
}

static void hostile(void **state) {
    (void)state;
    static const pare_record_layer layers[] = {{"a", "b", "x|<y>\n", 1, 2, 3, 4, 0, 0, 0, NAN}};
    static const char *const fallbacks[] = {"line\nbreak <b>"};
    pare_record *r;
    assert_ok(pare_record_new(&r, "compress", NULL, err));
    r->name = "a \"b\"\n---\nlicense: evil";
    r->licence = "x\"\nbase_model: \"evil";
    r->recipe = "```` <script>";
    r->model = "/m/<script>.gguf";
    r->layers = layers;
    r->n_layers = 1;
    r->fallbacks = fallbacks;
    r->n_fallbacks = 1;
    mkdir(test_path("hostile"), 0755);
    assert_ok(pare_model_card_write(test_path("hostile"), r, err));
    assert_fails(pare_model_card_write(test_path("absent"), r, err), PARE_ERR_INPUT, "no folder");
    char *card = card_of("hostile");
    has(card,
        "license: \"x\\\" base_model: \\\"evil\"\nbase_model: \"a \\\"b\\\" --- license: evil\"\n");
    has(card, "`````\n```` <script>\n`````");
    has(card, "| x\\|&lt;y\\>  | 1 |");
    assert_null(strstr(card, "\nlicense: evil"));
    char *fence = strstr(card, "`````");
    assert_non_null(fence);
    memset(fence, ' ', 5 + 1 + strlen("```` <script>"));
    assert_null(strstr(card, "<script>"));
    free(card);
    pare_record_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_compress), cmocka_unit_test(without_records),
        cmocka_unit_test(of_sweep), cmocka_unit_test(hostile), cmocka_unit_test(names_the_imatrix)};
    return cmocka_run_group_tests(tests, make_model, NULL);
}
