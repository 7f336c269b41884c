/* The step of a recipe that searches a prefix: what it writes, a run that was cut off, steps behind
 * it, starts, what is refused. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "methods/cushion_search.h"
#include "model/model.h"
#include "model/prefix.h"
#include "pare/compress.h"
#include "pipeline/cushion.h"
#include "pipeline/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void defaults(pare_cushion_options *o) {
    pare_method_defaults(pare_method_find("cushioncache"), o);
}

static const char *text_file(void) {
    static char text[6000];
    size_t n = 0;
    for (int i = 0; n + 60 < sizeof text; i++)
        n += (size_t)sprintf(text + n, " Line %d , of a text with words .\n", i * i);
    return test_write("search.txt", text, n);
}

enum { N_TEXT = 20 };

static const char recipe[] = "cushioncache:max_len=2,tau=1000000,n=12,texts=2,screen=2,pool=40";

static void compressed(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    char out[2][512];
    const char *hashes[2];
    const char *model = tiny_model("dense", NULL), *text = text_file();
    for (int i = 0; i < 2; i++) {
        pare_compress_report *report;
        snprintf(out[i], sizeof out[i], "%s%d", test_path("cushioned"), i);
        const pare_compress_options o = {
            .model = model, .out = out[i], .recipe = recipe, .calib = text, .format = "hf"};
        assert_ok(pare_compress(&report, rt, &o, err));
        const pare_compress_info *info = pare_compress_result(report);
        assert_true(info->lossless);
        assert_non_null(info->prefix_search);
        json_t *found = json_loads(info->prefix_search, 0, NULL);
        program_has(found, "method,seed,compute,text_tokens,text_crc32,n_candidates,start_ids,"
                           "token_ids,tokens,steps,check_before,check_after");
        assert_int_equal(json_array_size(json_object_get(found, "token_ids")), 2);
        assert_int_equal(json_integer_value(json_object_get(found, "n_candidates")), 40);
        json_decref(found);
        pare_compress_report_free(report);
        char file[600];
        snprintf(file, sizeof file, "%s/" PARE_PREFIX_FILE, out[i]);
        hashes[i] = test_hash(file);
    }
    assert_string_equal(hashes[0], hashes[1]);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, out[0], err));
    assert_int_equal(pare_model_prefix_length(m), 2);
    pare_model_free(m);

    /* a recipe that goes on from there keeps the prefix, and calibrates behind it */
    pare_compress_report *report;
    const pare_compress_options more = {.model = out[0],
                                        .out = test_path("more"),
                                        .recipe = "wanda:sparsity=0.5",
                                        .calib = text,
                                        .calib_samples = 2,
                                        .calib_ctx = 16};
    assert_ok(pare_compress(&report, rt, &more, err));
    pare_compress_report_free(report);
    assert_ok(pare_model_load(&m, rt, more.out, err));
    assert_int_equal(pare_model_prefix_length(m), 2);
    pare_model_free(m);
    /* the same in one run, to the byte */
    char both[200];
    snprintf(both, sizeof both, "%s + wanda:sparsity=0.5", recipe);
    const pare_compress_options one = {.model = model,
                                       .out = test_path("one"),
                                       .recipe = both,
                                       .calib = text,
                                       .calib_samples = 2,
                                       .calib_ctx = 16};
    assert_ok(pare_compress(&report, rt, &one, err));
    pare_compress_report_free(report);
    char b[600];
    snprintf(b, sizeof b, "%s/" PARE_PREFIX_FILE, one.out);
    assert_string_equal(test_hash(b), hashes[0]);
    pare_model *n;
    assert_ok(pare_model_load(&m, rt, one.out, err));
    assert_ok(pare_model_load(&n, rt, more.out, err));
    assert_int_equal(pare_model_prefix_length(m), 2);
    for (size_t l = 0; l < TINY_LAYERS; l++) {
        const pare_tensor *x = &m->weights.layers[l].ffn_down.w,
                          *y = &n->weights.layers[l].ffn_down.w;
        assert_ptr_equal(x->enc, y->enc);
        assert_memory_equal(x->view.part[0], y->view.part[0], x->part_bytes[0]);
    }
    pare_model_free(m);
    pare_model_free(n);
    pare_runtime_free(rt);
}

/* --- behind smoothquant --- */

static float off(const float *a, const float *b, size_t n) {
    float most = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(a[i] - b[i]));
        size = fmaxf(size, fabsf(b[i]));
    }
    return most / size;
}

/* Smoothing changes neither what the model computes behind the prefix nor the prefix. */
static void smoothed(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_model *m[2];
    float logits[2][TINY_VOCAB];
    int32_t ids[N_TEXT];
    for (int i = 0; i < N_TEXT; i++) ids[i] = 29 * i % 240;
    for (int i = 0; i < 2; i++) {
        char both[200];
        pare_compress_report *report;
        pare_session *s;
        snprintf(both, sizeof both, "%s%s", recipe,
                 i ? " + smoothquant:alpha=0.8 + f32@attn + f32@ffn" : "");
        const pare_compress_options o = {.model = tiny_model("dense", NULL),
                                         .out = test_path(i ? "smooth" : "rough"),
                                         .recipe = both,
                                         .calib = text_file(),
                                         .calib_samples = 2,
                                         .calib_ctx = 16};
        assert_ok(pare_compress(&report, rt, &o, err));
        pare_compress_report_free(report);
        assert_ok(pare_model_load(&m[i], rt, o.out, err));
        const pare_session_options so = {.n_ctx = N_TEXT, .compute = PARE_COMPUTE_EXACT};
        assert_ok(pare_session_create(&s, m[i], &so, err));
        assert_ok(pare_session_eval(s, ids, N_TEXT, logits[i], err));
        pare_session_free(s);
    }
    assert_int_not_equal(memcmp(m[0]->weights.layers[0].attn_q.w.view.part[0],
                                m[1]->weights.layers[0].attn_q.w.view.part[0], 64),
                         0);
    assert_true(off(logits[1], logits[0], TINY_VOCAB) < 1e-4f);
    pare_prefix *again;
    const pare_prefix *p = m[0]->prefix;
    assert_memory_equal(m[1]->prefix->values, p->values, p->bytes); /* the same file */
    memcpy(ids, p->ids, p->attn.n * sizeof *ids);
    pare_model_attach_prefix(m[1], NULL);
    assert_ok(pare_prefix_from_ids(&again, m[1], ids, 2, err));
    assert_true(off(again->values, p->values, p->bytes / sizeof(float)) < 1e-4f);
    pare_prefix_free(again);
    for (int i = 0; i < 2; i++) pare_model_free(m[i]);
    pare_runtime_free(rt);
}

static volatile sig_atomic_t stop;

static void stop_at_second(void *arg, const char *stage, double done, double total,
                           const char *unit) {
    (void)arg, (void)unit;
    if (strcmp(stage, "cushion: screen") == 0 && done > total / 2) stop = 1;
}

/* A run that was cut off while it looked for the second token goes on from the first, and ends with
 * the same bytes. */
static void resumed(void **state) {
    (void)state;
    pare_compress_report *report;
    pare_compress_options o = {.model = tiny_model("dense", NULL),
                               .out = test_path("whole"),
                               .recipe = recipe,
                               .calib = text_file(),
                               .format = "hf"};
    char whole[600], cut[600], manifest[600];
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX), *stopping_rt;
    assert_ok(pare_compress(&report, rt, &o, err));
    pare_compress_report_free(report);
    snprintf(whole, sizeof whole, "%s/" PARE_PREFIX_FILE, o.out);

    o.out = test_path("cut");
    snprintf(cut, sizeof cut, "%s/" PARE_PREFIX_FILE, o.out);
    pare_options options = pare_options_default();
    options.n_threads = 1;
    options.progress = stop_at_second;
    options.cancel = &stop;
    assert_ok(pare_runtime_create(&stopping_rt, &options, err));
    stop = 0;
    assert_fails(pare_compress(&report, stopping_rt, &o, err), PARE_ERR_INTERRUPTED, "goes on");
    pare_runtime_free(stopping_rt);
    snprintf(manifest, sizeof manifest, "%s.work/manifest", o.out);
    json_t *there = json_load_file(manifest, 0, NULL);
    const json_t *kept = json_object_get(json_object_get(there, "kept"), "cushion");
    assert_int_equal(json_array_size(kept), 1);
    json_decref(there);
    assert_ok(pare_compress(&report, rt, &o, err));
    pare_compress_report_free(report);
    assert_string_equal(test_hash(cut), test_hash(whole));
    pare_runtime_free(rt);
}

static void starts(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_cushion_options o;
    pare_prefix *p;
    char *record;
    defaults(&o);
    o.n = 12;
    o.texts = 1;
    o.pool = 8;
    o.tau = 0; /* nothing is added */
    o.start = PARE_CUSHION_START_OUTLIERS;
    const pare_cushion_input in = {
        .model = tiny_model("dense", NULL), .text = text_file(), .options = &o};
    assert_ok(pare_cushion_make(&p, &record, rt, &in, err));
    if (p) assert_true(p->attn.n >= 1);
    pare_prefix_free(p);
    pare_free(record);
    pare_runtime_free(rt);
}

static void refusals(void **state) {
    (void)state;
    pare_recipe *r;
    assert_fails(pare_recipe_parse(&r, "cushioncache:granularity=per_tensor_static", err),
                 PARE_ERR_ARG, "per_tensor_static");
    assert_fails(pare_recipe_parse(&r, "cushioncache:texts=1,repeats=2", err), PARE_ERR_ARG,
                 "repeats");
    assert_fails(pare_recipe_parse(&r, "cushioncache:n=4,screen=5", err), PARE_ERR_ARG, "screen");
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_compress_report *report;
    pare_compress_options o = {.model = tiny_model("dense", NULL),
                               .out = test_path("refused"),
                               .recipe = "cushioncache",
                               .format = "hf"};
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "expected --calib FILE");
    o.calib = text_file();
    o.max_memory = 1000;
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "max-memory");
    o.max_memory = 0;
    o.recipe = "rtn:bits=4 + cushioncache";
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "as the first step");
    o.recipe = "cushioncache:n=512";
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "the model's context");
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(compressed), cmocka_unit_test(smoothed),
                                       cmocka_unit_test(resumed), cmocka_unit_test(starts),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
