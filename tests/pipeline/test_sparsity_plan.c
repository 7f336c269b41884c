/* Distributions in a run on a tiny model: what the plan says is what the tensors get, over all it
 * is the sparsity asked for, and a run that was cut off in the pass over the dense model ends with
 * the same bytes. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/os.h"
#include "pare/compress.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static const char *model, *text;

static pare_compress_options options_of(const char *recipe, const char *out) {
    return (pare_compress_options){.model = model,
                                   .out = out,
                                   .recipe = recipe,
                                   .calib = text,
                                   .calib_samples = 3,
                                   .calib_ctx = 32};
}

/* Block of a tensor of a linear layer, or -1. */
static int block_of(const char *name) {
    int block = -1;
    if (strstr(name, "norm") || sscanf(name, "blk.%d.", &block) != 1) return -1;
    return block;
}

/* Runs dry and for good, compares the planned sparsities with those found within 1 / cols (rows are
 * cut to whole numbers), and gives the shares of zeros of both blocks; *all: over both. */
static void run(const char *recipe, bool calibrated, double block[2], double *all,
                bool *dense_pass) {
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("planned.gguf"));
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_report *plan, *report;
    pare_compress_options o = options_of(recipe, out);
    if (!calibrated) o.calib = NULL;
    o.dry_run = true;
    assert_ok(pare_compress(&plan, rt, &o, err));
    o.dry_run = false;
    assert_ok(pare_compress(&report, rt, &o, err));
    const pare_compress_info *p = pare_compress_result(plan), *r = pare_compress_result(report);
    double zeros[2] = {0, 0}, values[2] = {0, 0};
    assert_int_equal(p->n_layers, r->n_layers);
    *dense_pass = p->dense_pass;
    for (size_t i = 0; i < r->n_layers; i++) {
        int b = block_of(r->layers[i].name);
        if (b < 0) continue;
        zeros[b] += r->layers[i].sparsity * (double)r->layers[i].n_params;
        values[b] += (double)r->layers[i].n_params;
        if (!p->dense_pass && fabs(p->layers[i].sparsity - r->layers[i].sparsity) > 1.0 / 64)
            fail_msg("%s: %s: planned %g, found %g", recipe, r->layers[i].name,
                     p->layers[i].sparsity, r->layers[i].sparsity);
    }
    for (int b = 0; b < 2; b++) block[b] = zeros[b] / values[b];
    *all = (zeros[0] + zeros[1]) / (values[0] + values[1]);
    pare_compress_report_free(plan);
    pare_compress_report_free(report);
    pare_runtime_free(rt);
    pare_path_remove(out);
}

static void tensors_get_what_is_planned(void **state) {
    (void)state;
    double block[2], all;
    bool dense;
    run("magnitude:dist=erk,sparsity=0.6", false, block, &all, &dense);
    assert_true(fabs(all - 0.6) < 1e-3 && !dense);
    run("wanda:dist=erk,sparsity=0.5", true, block, &all, &dense);
    assert_true(fabs(all - 0.5) < 0.02 && !dense); /* rows of 64 and 172 are cut to whole weights */
    run("magnitude:layers=0.25;75%", false, block, &all, &dense);
    assert_true(fabs(block[0] - 0.25) < 1e-3 && fabs(block[1] - 0.75) < 1e-3);
    run("magnitude:type=block_8x8,sparsity=0.5", false, block, &all, &dense);
    assert_true(fabs(all - 0.5) < 0.02);
    run("magnitude:sparsity=0.3 + magnitude@ffn:dist=erk,sparsity=0.6", false, block, &all, &dense);
    assert_true(all > 0.3 && all < 0.6);
}

/* The planned size of a sparse form is that of the share the recipe gives the tensor, or of the
 * zeros that the file has. */
static void sizes_follow_the_shares(void **state) {
    (void)state;
    static const char *const recipes[] = {
        "magnitude:sparsity=0.8 + bitmap_q8",
        "magnitude:layers=0.3;0.9 + bitmap_bf16",
        "magnitude:dist=erk,sparsity=0.6 + bitmap_q4",
        "magnitude@attn:sparsity=0.7 + bitmap_q8@attn + bitmap_q8@ffn",
        "magnitude:sparsity=2:4 + nm24_q8",
        "magnitude:sparsity=4:8 + nm48_q4",
        "magnitude:sparsity=2:4 + bitmap_q4",
        "bitmap_q4", /* of the sparse output of the first */
    };
    char pruned[1024];
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++) {
        char out[1024], name[32];
        snprintf(name, sizeof name, "sparse-%zu", i);
        snprintf(out, sizeof out, "%s", test_path(name));
        if (i == 0) snprintf(pruned, sizeof pruned, "%s", out);
        pare_compress_options o = {.model = model, .out = out, .recipe = recipes[i]};
        if (i + 1 == sizeof recipes / sizeof recipes[0]) o.model = pruned;
        pare_compress_report *plan, *report;
        o.dry_run = true;
        assert_ok(pare_compress(&plan, rt, &o, err));
        o.dry_run = false;
        assert_ok(pare_compress(&report, rt, &o, err));
        const pare_compress_info *p = pare_compress_result(plan), *r = pare_compress_result(report);
        assert_int_equal(p->n_layers, r->n_layers);
        for (size_t k = 0; k < r->n_layers; k++) {
            const pare_layer_report *a = &p->layers[k], *b = &r->layers[k];
            double cols = strstr(a->name, "down") ? 172 : 64, rows = (double)a->n_params / cols;
            /* a row's zeros are cut to whole weights: of 2 bytes; rows end with a whole byte;
             * 16 rows have 17 offsets */
            double allowed = strncmp(b->encoding, "bitmap", 6) == 0 ? 3.5 * rows + 16 : 0;
            if (fabs((double)a->out_bytes - (double)b->out_bytes) > allowed)
                fail_msg("%s: %s: planned %llu bytes, found %llu", recipes[i], a->name,
                         (unsigned long long)a->out_bytes, (unsigned long long)b->out_bytes);
        }
        pare_compress_report_free(plan);
        pare_compress_report_free(report);
    }
    pare_runtime_free(rt);
}

static void owl_keeps_the_mean(void **state) {
    (void)state;
    static const char *const recipes[] = {"wanda:dist=owl,sparsity=0.5,owl_m=2",
                                          "magnitude:dist=owl,sparsity=0.5,owl_m=2",
                                          "sparsegpt:dist=owl,sparsity=0.5,owl_m=2,owl_lambda=0.1"};
    for (size_t i = 0; i < 3; i++) {
        double block[2], all, lambda = i == 2 ? 0.1 : 0.08;
        bool dense;
        run(recipes[i], true, block, &all, &dense);
        assert_true(dense && fabs(all - 0.5) < 0.02);
        /* two blocks lie 2 lambda apart, whatever their outliers; rows are cut to whole weights */
        if (fabs(fabs(block[0] - block[1]) - 2 * lambda) > 0.02)
            fail_msg("%s: found %g and %g", recipes[i], block[0], block[1]);
    }
}

/* A mean that shares between 0 and 1 cannot keep is told. */
static void owl_tells_another_mean(void **state) {
    (void)state;
    static const char *const recipes[] = {"wanda:dist=owl,sparsity=0.5,owl_m=2",
                                          "wanda:dist=owl,sparsity=0.95,owl_m=2"};
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("cut.gguf"));
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    for (size_t i = 0; i < 2; i++) {
        pare_compress_report *r;
        pare_compress_options o = options_of(recipes[i], out);
        assert_ok(pare_compress(&r, rt, &o, err));
        const pare_compress_info *info = pare_compress_result(r);
        size_t n = 0;
        for (size_t k = 0; k < info->n_fallbacks; k++)
            n += strstr(info->fallbacks[k], "owl: shares end at 0 and 1") != NULL;
        assert_int_equal(n, i);
        pare_compress_report_free(r);
        pare_path_remove(out);
    }
    pare_runtime_free(rt);
}

static void hash_file(char out[65], const char *path) {
    char *data;
    size_t size;
    pare_sha256 h;
    assert_ok(pare_file_read_all(&data, &size, path, 1 << 28, err));
    pare_sha256_init(&h);
    pare_sha256_update(&h, data, size);
    pare_sha256_hex(&h, out);
    pare_free(data);
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

/* Whatever is cut off where, in the pass or behind it, and with other numbers of threads. */
static void interrupted_anywhere(void **state) {
    (void)state;
    static const char *const recipes[] = {"wanda:dist=owl,owl_m=2", "magnitude:dist=owl,owl_m=2"};
    char out[1024], expected[65], found[65];
    snprintf(out, sizeof out, "%s", test_path("cut.gguf"));
    for (size_t k = 0; k < 2; k++) {
        pare_compress_options o = options_of(recipes[k], out);
        pare_compress_report *report = NULL;
        int n_cut = 0;
        expected[0] = '\0';
        for (int after = -1; after < 12; after++) {
            interruption i = {.after = after};
            pare_options options = pare_options_default();
            options.n_threads = 1 + (after + 1) % 3;
            options.progress = interrupt;
            options.callback_arg = &i;
            options.cancel = &i.cancel;
            pare_runtime *rt;
            assert_ok(pare_runtime_create(&rt, &options, err));
            pare_error err = {0};
            pare_status st = pare_compress(&report, rt, &o, &err);
            if (st != PARE_OK) {
                assert_int_equal(st, PARE_ERR_INTERRUPTED);
                assert_false(pare_path_exists(out));
                i.cancel = 0;
                n_cut++;
                assert_ok(pare_compress(&report, rt, &o, err));
            }
            pare_compress_report_free(report);
            pare_runtime_free(rt);
            hash_file(found, out);
            if (!expected[0]) memcpy(expected, found, sizeof found);
            assert_string_equal(found, expected);
            pare_path_remove(out);
        }
        printf("%s: cut off %d times\n", recipes[k], n_cut);
    }
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *part;
        bool calibrated;
    } cases[] = {
        {"wanda:sparsity=2:4,dist=erk", "which every tensor gets", true},
        {"magnitude:dist=owl", "needs calibration text", false},
        {"magnitude@all:dist=owl", "expected tensors of blocks", true},
        {"magnitude@embd:layers=0.5;0.5", "expected tensors of blocks", false},
        {"magnitude:layers=0.5", "found 1 shares, expected 2", false},
        {"magnitude:layers=0.5;0.5,dist=erk", "expected one of them", false},
        {"wanda:type=block_4x4,variant=true", "variant", true},
        {"magnitude:type=channel_in,per=row", "per", false},
    };
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pare_compress_options o = options_of(cases[i].recipe, NULL);
        pare_compress_report *report = NULL;
        if (!cases[i].calibrated) o.calib = NULL;
        o.dry_run = true;
        assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, cases[i].part);
    }
    pare_runtime_free(rt);
}

static void compress(const char *from, const char *recipe, const char *out, const char *note,
                     double least, double most) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_report *report;
    pare_compress_options o = options_of(recipe, out);
    o.model = from;
    assert_ok(pare_compress(&report, rt, &o, err));
    const pare_compress_info *info = pare_compress_result(report);
    bool told = false;
    for (size_t i = 0; i < info->n_fallbacks; i++)
        told |= strstr(info->fallbacks[i], "not taken for pruned") != NULL;
    assert_true(told == (note != NULL));
    for (size_t i = 0; i < info->n_layers; i++) {
        const pare_layer_report *l = &info->layers[i];
        if (block_of(l->name) >= 0 && !(l->sparsity >= least && l->sparsity <= most))
            fail_msg("%s: %s: %g zeros", recipe, l->name, l->sparsity);
    }
    pare_compress_report_free(report);
    pare_runtime_free(rt);
}

/* Few codes have many zeros: a pattern tells that they were pruned, else a line that they count as
 * rounded. */
static void zeros_of_few_codes(void **state) {
    (void)state;
    char rounded[1024], pattern[1024], out[1024];
    snprintf(rounded, sizeof rounded, "%s", test_path("rounded"));
    snprintf(pattern, sizeof pattern, "%s", test_path("pattern"));
    snprintf(out, sizeof out, "%s", test_path("again"));
    compress(model, "rtn:bits=2,group=32", rounded, NULL, 0.25, 0.9);
    compress(rounded, "gptq:bits=8,group=32", out, "told", 0, 1);
    test_remove(out);
    compress(model, "magnitude:sparsity=2:4 + rtn:bits=4,group=32", pattern, NULL, 0.5, 0.8);
    compress(pattern, "gptq:bits=8,group=32", out, NULL, 0.5, 0.8);
    test_remove(out);
}

/* Groups in the order of a sweep: f32 whatever the input has, which is told unless it was asked
 * for.
 */
static void groups_without_an_encoding(void **state) {
    (void)state;
    static const char *const recipes[] = {
        "gptq:bits=4,group=32,form=published,act_order=true",
        "gptq:bits=4,group=32,form=published,act_order=true + f32"};
    char q8[1024], out[1024];
    snprintf(q8, sizeof q8, "%s", test_path("q8.gguf"));
    snprintf(out, sizeof out, "%s", test_path("loose"));
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_report *report;
    pare_compress_options o = {.model = model, .out = q8, .recipe = "q8_0"};
    assert_ok(pare_compress(&report, rt, &o, err));
    pare_compress_report_free(report);
    for (int asked = 0; asked < 2; asked++) {
        o = options_of(recipes[asked], out);
        o.model = q8;
        o.format = "hf";
        assert_ok(pare_compress(&report, rt, &o, err));
        const pare_compress_info *info = pare_compress_result(report);
        size_t n_told = 0;
        for (size_t i = 0; i < info->n_fallbacks; i++)
            n_told += strstr(info->fallbacks[i], "no encoding holds the groups") != NULL;
        for (size_t i = 0; i < info->n_layers; i++)
            if (block_of(info->layers[i].name) >= 0)
                assert_string_equal(info->layers[i].encoding, "f32");
        assert_int_equal(n_told, asked ? 0 : 7 * TINY_LAYERS);
        pare_compress_report_free(report);
        test_remove(out);
    }
    pare_runtime_free(rt);
}

int main(void) {
    static char model_path[1024], text_path[1024], words[8000];
    snprintf(model_path, sizeof model_path, "%s", tiny_model("tiny", NULL));
    for (size_t i = 0; i < sizeof words - 1; i++) words[i] = (char)('a' + (i * i / 7 + i / 3) % 26);
    snprintf(text_path, sizeof text_path, "%s", test_write("text", words, sizeof words - 1));
    model = model_path;
    text = text_path;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_get_what_is_planned), cmocka_unit_test(sizes_follow_the_shares),
        cmocka_unit_test(owl_keeps_the_mean),          cmocka_unit_test(owl_tells_another_mean),
        cmocka_unit_test(zeros_of_few_codes),          cmocka_unit_test(groups_without_an_encoding),
        cmocka_unit_test(interrupted_anywhere),        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
