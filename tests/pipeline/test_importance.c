/* imatrix files in a run on a tiny model: written by calibration and read again they give the bytes
 * of the calibrated run, also when that was cut off; what does not fit the model is refused. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/os.h"
#include "io/imatrix.h"
#include "pare/compress.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static const char *model, *text;
static char out[1024], file[1024];

static pare_compress_options options_of(const char *recipe, bool calibrated) {
    return (pare_compress_options){.model = model,
                                   .out = out,
                                   .recipe = recipe,
                                   .calib = calibrated ? text : NULL,
                                   .calib_samples = 3,
                                   .calib_ctx = 32};
}

/* The output's hash (static ring of test_hash); the output is removed. n_missing: tensors that are
 * told not to be in the file. */
static const char *run(const pare_compress_options *o, int threads, size_t *n_missing) {
    pare_runtime *rt = test_runtime(threads, PARE_ISA_AMX);
    pare_compress_report *report;
    assert_ok(pare_compress(&report, rt, o, err));
    const pare_compress_info *info = pare_compress_result(report);
    for (size_t i = 0; n_missing && i < info->n_fallbacks; i++)
        *n_missing += strstr(info->fallbacks[i], "not in the imatrix") != NULL;
    pare_compress_report_free(report);
    pare_runtime_free(rt);
    const char *hash = test_hash(out);
    test_remove(out);
    return hash;
}

static void file_gives_the_calibrated_bytes(void **state) {
    (void)state;
    static const char *const recipes[] = {"q4_0", "q5_1", "iq4_nl"};
    for (size_t i = 0; i < 3; i++) {
        pare_compress_options o = options_of(recipes[i], true);
        char calibrated[65], plain[65];
        o.write_imatrix = file;
        snprintf(calibrated, sizeof calibrated, "%s", run(&o, 2, NULL));
        o = options_of(recipes[i], false);
        snprintf(plain, sizeof plain, "%s", run(&o, 1, NULL));
        o.imatrix = file;
        size_t n_missing = 0;
        assert_string_equal(run(&o, 3, &n_missing), calibrated);
        assert_int_equal(n_missing, 0);
        assert_string_not_equal(plain, calibrated);
    }
}

/* All matrices of both blocks, with methods too; means that the legacy form tells alike. */
static void both_forms_say_the_same(void **state) {
    (void)state;
    char dat[1024];
    snprintf(dat, sizeof dat, "%s", test_path("m.dat"));
    pare_compress_options o = options_of("magnitude:sparsity=0.25 + q8_0", true);
    o.write_imatrix = file;
    run(&o, 1, NULL);
    o.write_imatrix = dat;
    run(&o, 2, NULL);
    pare_imatrix a, b;
    assert_ok(pare_imatrix_load(&a, file, err));
    assert_ok(pare_imatrix_load(&b, dat, err));
    assert_int_equal(a.n_entries, 2 * 7);
    assert_int_equal(b.n_entries, 2 * 7);
    for (size_t i = 0; i < a.n_entries; i++) {
        assert_string_equal(a.entries[i].name, b.entries[i].name);
        assert_int_equal(a.entries[i].n, b.entries[i].n);
        for (size_t k = 0; k < a.entries[i].n; k++) {
            float x = a.entries[i].squares[k], y = b.entries[i].squares[k];
            assert_true(x > 0 && y - x <= 2e-7f * x && x - y <= 2e-7f * x); /* 3 roundings */
        }
    }
    pare_imatrix_free(&a);
    pare_imatrix_free(&b);
}

/* Where a step scales inputs a file does not know them any more: calibration does. */
static void scaled_inputs_are_measured(void **state) {
    (void)state;
    pare_compress_options o = options_of("q4_0", true);
    o.write_imatrix = file;
    run(&o, 1, NULL);
    o = options_of("smoothquant@attn + q4_0@attn", true);
    char measured[65];
    snprintf(measured, sizeof measured, "%s", run(&o, 1, NULL));
    o.imatrix = file;
    size_t n_missing = 0;
    assert_string_equal(run(&o, 1, &n_missing), measured);
    assert_int_equal(n_missing, 0);
    o.write_imatrix = file;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_compress_report *report = NULL;
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "found smoothquant");
    pare_runtime_free(rt);
}

typedef struct interruption {
    volatile sig_atomic_t cancel;
    int after; /* calls */
} interruption;

static void interrupt(void *arg, const char *stage, double done, double total, const char *unit) {
    interruption *i = arg;
    (void)stage, (void)done, (void)total, (void)unit;
    if (i->after-- == 0) i->cancel = 1;
}

static void cut_off_and_gone_on(void **state) {
    (void)state;
    pare_compress_options o = options_of("wanda + q4_0", true);
    char expected[65], expected_file[65];
    o.write_imatrix = file;
    snprintf(expected, sizeof expected, "%s", run(&o, 1, NULL));
    snprintf(expected_file, sizeof expected_file, "%s", test_hash(file));
    for (int after = 0; after < 8; after++) {
        interruption i = {.after = after};
        pare_options options = pare_options_default();
        options.n_threads = 2;
        options.progress = interrupt;
        options.callback_arg = &i;
        options.cancel = &i.cancel;
        pare_runtime *rt;
        pare_compress_report *report = NULL;
        pare_path_remove(file);
        assert_ok(pare_runtime_create(&rt, &options, err));
        pare_error err = {0};
        pare_status st = pare_compress(&report, rt, &o, &err);
        pare_compress_report_free(report);
        pare_runtime_free(rt);
        if (st == PARE_OK) {
            assert_string_equal(test_hash(out), expected);
            test_remove(out);
        } else {
            assert_int_equal(st, PARE_ERR_INTERRUPTED);
            assert_string_equal(run(&o, 1, NULL), expected);
        }
        assert_string_equal(test_hash(file), expected_file);
    }
}

static void what_does_not_fit(void **state) {
    (void)state;
    const pare_imatrix_origin origin = {"text", 1, 4};
    const float ones[64] = {1};
    pare_compress_options o = options_of("q4_0", false);
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_compress_report *report = NULL;
    o.imatrix = file;
    pare_imatrix_item item = {"blk.0.attn_q.weight", 64, ones};
    assert_ok(pare_imatrix_write(file, &item, 1, &origin, err));
    size_t n_missing = 0;
    run(&o, 1, &n_missing);
    assert_int_equal(n_missing, 2 * 7 - 1); /* all others are told */
    item.n = 63;
    assert_ok(pare_imatrix_write(file, &item, 1, &origin, err));
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_INPUT,
                 "found 63 values, expected 64");
    item.name = "model.layers.0.q_proj";
    assert_ok(pare_imatrix_write(file, &item, 1, &origin, err));
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_INPUT, "no tensor of this model");
    o.imatrix = model; /* a folder */
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_INPUT, model);
    o = options_of("q4_0", false);
    o.write_imatrix = file;
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "expected --calib FILE");
    o = options_of("q4_0", true);
    const char *const taken[] = {text, model, out};
    for (size_t i = 0; i < 3; i++) {
        o.write_imatrix = taken[i];
        assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "expected another file");
    }
    o.write_imatrix = test_path("absent/matrix.gguf");
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "found no folder");
    pare_runtime_free(rt);
}

int main(void) {
    static char model_path[1024], text_path[1024], words[8000];
    snprintf(model_path, sizeof model_path, "%s", tiny_model("tiny", NULL));
    for (size_t i = 0; i < sizeof words - 1; i++) words[i] = (char)('a' + (i * i / 7 + i / 3) % 26);
    snprintf(text_path, sizeof text_path, "%s", test_write("text", words, sizeof words - 1));
    snprintf(out, sizeof out, "%s", test_path("out.gguf"));
    snprintf(file, sizeof file, "%s", test_path("m.gguf"));
    model = model_path;
    text = text_path;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_gives_the_calibrated_bytes),
        cmocka_unit_test(both_forms_say_the_same),
        cmocka_unit_test(scaled_inputs_are_measured),
        cmocka_unit_test(cut_off_and_gone_on),
        cmocka_unit_test(what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
