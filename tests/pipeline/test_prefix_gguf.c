/* A prefix in a GGUF file: to the bit what the folder has, with quantized inputs beside it, in
 * front of another model; what is refused. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "model/prefix.h"
#include "pare/compress.h"

#include <math.h>
#include <stdio.h>

static pare_runtime *rt;
static char model[1024], cushion[1024], file[1024];

static const char record[] = "{\"found\": \"by hand\", \"at\": [1, 2.5]}";

static void convert(const char *from, const char *to, const char *recipe, const char *prefix) {
    pare_compress_report *r;
    const pare_compress_options o = {.model = from, .out = to, .recipe = recipe, .prefix = prefix};
    assert_ok(pare_compress(&r, rt, &o, err));
    pare_compress_report_free(r);
}

static void same_prefix(const pare_prefix *a, const pare_prefix *b) {
    assert_int_equal(a->attn.n, b->attn.n);
    assert_int_equal(a->tuned, b->tuned);
    assert_memory_equal(a->values, b->values, a->bytes);
    assert_memory_equal(a->ids, b->ids, a->attn.n * sizeof *a->ids);
}

/* Folder, file, file, folder: the same file of a cushion in the end. */
static void goes_along(void **state) {
    (void)state;
    static const char *const names[] = {"one", "two.gguf", "three.gguf", "four"};
    char from[1024], to[1024], own[1100];
    pare_model *m;
    pare_prefix *p;
    char *text;
    snprintf(from, sizeof from, "%s", model);
    for (size_t i = 0; i < 4; i++) {
        snprintf(to, sizeof to, "%s", test_path(names[i]));
        convert(from, to, i == 2 ? "w8a8:per_token" : NULL, i ? NULL : cushion);
        assert_ok(pare_model_load(&m, rt, to, err));
        assert_ok(pare_prefix_load(&p, &m->config, cushion, err));
        same_prefix(m->prefix, p);
        assert_true((*pare_model_act(m) != '\0') == (i >= 2));
        pare_prefix_free(p);
        pare_model_free(m);
        snprintf(from, sizeof from, "%s", to);
    }
    snprintf(own, sizeof own, "%s/" PARE_PREFIX_FILE, to);
    assert_string_equal(test_hash(own), test_hash(cushion));
    assert_ok(pare_prefix_record(&text, test_path("three.gguf"), err));
    assert_string_equal(text, record);
    pare_free(text);
    /* the file as one that holds a prefix, for the model that has none */
    assert_ok(pare_model_load(&m, rt, model, err));
    assert_ok(pare_model_set_prefix(m, test_path("three.gguf"), err));
    assert_int_equal(pare_model_prefix_length(m), 2);
    pare_model_free(m);
    /* and without it */
    snprintf(to, sizeof to, "%s", test_path("none.gguf"));
    convert(test_path("three.gguf"), to, NULL, "");
    assert_ok(pare_model_load(&m, rt, to, err));
    assert_int_equal(pare_model_prefix_length(m), 0);
    pare_model_free(m);
    bool gguf;
    assert_ok(pare_prefix_in_gguf(&gguf, cushion, err));
    assert_false(gguf);
    assert_ok(pare_prefix_in_gguf(&gguf, model, err));
    assert_false(gguf);
    assert_fails(pare_prefix_in_gguf(&gguf, test_path("nothing"), err), PARE_ERR_INPUT, "nothing");
    assert_ok(pare_prefix_in_gguf(&gguf, to, err));
    assert_true(gguf);
}

static void refused(void **state) {
    (void)state;
    pare_model *m;
    pare_prefix *p;
    float first, nan = NAN;
    snprintf(file, sizeof file, "%s", test_path("damaged.gguf"));
    convert(model, file, NULL, cushion);
    assert_ok(pare_model_load(&m, rt, file, err));
    pare_model_config c = m->config;
    memcpy(&first, m->prefix->values + 5, sizeof first);
    pare_model_free(m);
    c.n_kv_heads++;
    assert_fails(pare_prefix_load(&p, &c, file, err), PARE_ERR_INPUT, "n_kv_heads: found 2");
    c.n_kv_heads--;
    test_edit_file(file, &first, &nan, sizeof first);
    assert_fails(pare_model_load(&m, rt, file, err), PARE_ERR_INPUT, "value 5: found NaN");
    test_edit_file(file, &nan, &first, sizeof first);
    test_edit_file(file, "[257, 97]", "[257, 9x]", 9);
    assert_fails(pare_model_load(&m, rt, file, err), PARE_ERR_INPUT, "damaged.gguf");
    test_edit_file(file, "[257, 9x]", "[257,997]", 9);
    assert_fails(pare_model_load(&m, rt, file, err), PARE_ERR_INPUT, "997");
    test_edit_file(file, "[257,997]", "[257, 97]", 9);
    test_edit_file(file, "pare.cushion.values", "pare.cushion.valuez", 19);
    assert_fails(pare_model_load(&m, rt, file, err), PARE_ERR_INPUT, "pare.cushion.values");
    test_edit_file(file, "pare.cushion.valuez", "pare.cushion.values", 19);
    test_edit_file(file, "pare-cushion", "pare-kushion", 12);
    assert_fails(pare_model_load(&m, rt, file, err), PARE_ERR_INPUT, "found pare-kushion");
    test_edit_file(file, "pare-kushion", "pare-cushion", 12);
    test_edit_file(file, "pare.cushion.format", "pare.cushion.formaz", 19);
    assert_fails(pare_model_load(&m, rt, file, err), PARE_ERR_INPUT, "format");
    test_edit_file(file, "pare.cushion.formaz", "pare.cushion.format", 19);
    assert_ok(pare_model_load(&m, rt, file, err));
    pare_model_free(m);
}

int main(void) {
    static const int32_t ids[] = {257, 97};
    pare_model *m;
    rt = test_runtime(2, pare_isa_best());
    snprintf(model, sizeof model, "%s", tiny_model("plain", NULL));
    snprintf(cushion, sizeof cushion, "%s", test_path("cushion"));
    if (pare_model_load(&m, rt, model, NULL) != PARE_OK ||
        pare_model_set_prefix_ids(m, ids, 2, NULL) != PARE_OK ||
        pare_prefix_save(m->prefix, &m->config, record, cushion, NULL) != PARE_OK)
        return 1;
    pare_model_free(m);
    const struct CMUnitTest tests[] = {cmocka_unit_test(goes_along), cmocka_unit_test(refused)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
