/* The step of a recipe that searches a prefix and tunes it: what it writes, a run that was cut off,
 * steps behind it, what is refused. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "model/model.h"
#include "model/prefix.h"
#include "pare/compress.h"
#include "pipeline/calib_text.h"
#include "pipeline/cushion.h"
#include "pipeline/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *text_file(void) {
    static char text[6000];
    size_t n = 0;
    for (int i = 0; n + 60 < sizeof text; i++)
        n += (size_t)sprintf(text + n, " Line %d , of a text with words .\n", i * i);
    return test_write("search.txt", text, n);
}

enum { N_TEXT = 20 };

static const char recipe[] =
    "cushioncache:max_len=2,tau=1000000,n=12,texts=2,screen=2,pool=40,epochs=0";
static const char tuned[] = "cushioncache:max_len=2,tau=1000000,n=12,texts=2,screen=2,pool=8,"
                            "tune_texts=6,tune_n=20,lr=0.02,bits=4";

static void same_layers(const pare_model *m, const pare_model *n) {
    for (size_t l = 0; l < TINY_LAYERS; l++) {
        const pare_tensor *x = &m->weights.layers[l].ffn_down.w,
                          *y = &n->weights.layers[l].ffn_down.w;
        assert_ptr_equal(x->enc, y->enc);
        assert_memory_equal(x->view.part[0], y->view.part[0], x->part_bytes[0]);
    }
}

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
    same_layers(m, n);
    pare_model_free(m);
    pare_model_free(n);
    pare_runtime_free(rt);
}

/* --- a prefix that holds BOS --- */

/* Calibration's sequences begin with the tokenizer's BOS, and behind a prefix that holds it with
 * text: also where the same run has searched it. */
static void begun(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    const char *dense = tiny_model("begun", &(tiny_options){.bos = true}), *text = text_file();
    char found[500];
    snprintf(found, sizeof found, "%s", test_path("begun_found"));
    const char *recipes[] = {"cushioncache:start=bos,tau=0,n=12,texts=2,epochs=0",
                             "wanda:sparsity=0.5",
                             ("cushioncache:start=bos,tau=0,n=12,texts=2,epochs=0 + "
                              "wanda:sparsity=0.5")};
    const char *from[] = {dense, found, dense}, *to[] = {found, "begun_two", "begun_one"};
    pare_model *made[2];
    uint32_t crc[3];
    for (int i = 0; i < 3; i++) {
        pare_compress_report *report;
        pare_compress_options o = {.model = from[i],
                                   .out = i ? test_path(to[i]) : to[i],
                                   .recipe = recipes[i],
                                   .calib = text,
                                   .calib_samples = 2,
                                   .calib_ctx = 16};
        assert_ok(pare_compress(&report, rt, &o, err));
        crc[i] = pare_compress_result(report)->calib_crc32;
        pare_compress_report_free(report);
        if (i) assert_ok(pare_model_load(&made[i - 1], rt, o.out, err));
    }
    assert_int_equal(crc[1], crc[2]);
    same_layers(made[0], made[1]);
    pare_model_free(made[0]);
    pare_model_free(made[1]);
    for (int i = 0; i < 2; i++) {
        pare_model *m;
        int32_t *ids;
        size_t n_text;
        assert_ok(pare_model_load(&m, rt, i ? found : dense, err));
        assert_int_equal(pare_model_prefix_length(m), i);
        assert_ok(pare_calib_text(&ids, &n_text, m, text, 4, 16, err));
        for (int k = 0; k < 4 * 16; k++) assert_true((ids[k] == 256) == (!i && k % 16 == 0));
        pare_free(ids);
        pare_model_free(m);
    }
    pare_runtime_free(rt);
}

/* --- with quantized weights, inputs and caches --- */

static float off(const float *a, const float *b, size_t n) {
    float most = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(a[i] - b[i]));
        size = fmaxf(size, fabsf(b[i]));
    }
    return most / size;
}

static uint64_t logits_of(pare_model *m, const char *kv, float out[TINY_VOCAB]) {
    pare_session *s;
    int32_t ids[N_TEXT];
    for (int i = 0; i < N_TEXT; i++) ids[i] = 29 * i % 240;
    const pare_session_options so = {.n_ctx = 32, .compute = PARE_COMPUTE_EXACT, .kv = kv};
    assert_ok(pare_session_create(&s, m, &so, err));
    assert_ok(pare_session_eval(s, ids, N_TEXT, out, err));
    const uint64_t bytes = pare_session_kv_bytes(s);
    pare_session_free(s);
    return bytes;
}

/* Weights by GPTQ or AWQ, inputs of 8 bits on static grids, keys and values in bf16: the cushion
 * stays the f32 that the search made of the dense model, in the file and in sessions. */
static void combined(void **state) {
    (void)state;
    static const char *const quantizers[] = {"", "gptq:bits=8,group=0 + ",
                                             "gptq:bits=4,group=32 + ", "awq:bits=4,group=32 + "};
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    const char *dense = tiny_model("dense", NULL);
    pare_prefix *first = NULL;
    float plain[TINY_VOCAB];
    for (int i = 0; i < 4; i++) {
        char text[300], name[20];
        pare_compress_report *report;
        pare_model *m;
        snprintf(text, sizeof text, "%s + %sw8a8:per_tensor_static", recipe, quantizers[i]);
        snprintf(name, sizeof name, "combined%d", i);
        const pare_compress_options o = {.model = dense,
                                         .out = test_path(name),
                                         .recipe = text,
                                         .calib = text_file(),
                                         .calib_samples = 4,
                                         .calib_ctx = 32};
        assert_ok(pare_compress(&report, rt, &o, err));
        pare_compress_report_free(report);
        assert_ok(pare_model_load(&m, rt, o.out, err));
        assert_string_equal(pare_model_act(m), "a8:act=per_tensor_static");
        if (!first) {
            pare_model *d;
            assert_ok(pare_model_load(&d, rt, dense, err));
            assert_ok(pare_prefix_from_ids(&first, d, m->prefix->ids, 2, err));
            pare_model_attach_prefix(d, first);
            logits_of(d, "f32", plain);
            d->prefix = NULL; /* it is freed below */
            pare_model_free(d);
        }
        assert_int_equal(m->prefix->bytes, first->bytes);
        float found[2][TINY_VOCAB];
        logits_of(m, "f32", found[0]);
        const uint64_t behind = logits_of(m, "bf16", found[1]);
        assert_memory_equal(m->prefix->values, first->values, first->bytes);
        assert_true(off(plain, found[0], TINY_VOCAB) < (i < 2 ? 0.1f : 0.5f));
        const float rounded = off(found[0], found[1], TINY_VOCAB);
        assert_true(rounded > 0 && rounded < 0.1f);
        pare_model_attach_prefix(m, NULL);
        assert_int_equal(behind - logits_of(m, "bf16", found[1]), first->bytes);
        pare_model_free(m);
    }
    pare_prefix_free(first);
    pare_runtime_free(rt);
}

/* --- behind smoothquant --- */

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

/* --- tuning --- */

static pare_compress_options tuning_options(const char *out) {
    return (pare_compress_options){.model = tiny_model("dense", NULL),
                                   .out = test_path(out),
                                   .recipe = tuned,
                                   .calib = text_file(),
                                   .format = "hf"};
}

/* Hash of what a run writes. */
static const char *hash_of(pare_runtime *rt, const pare_compress_options *o) {
    pare_compress_report *report;
    char file[600];
    assert_ok(pare_compress(&report, rt, o, err));
    pare_compress_report_free(report);
    snprintf(file, sizeof file, "%s/" PARE_PREFIX_FILE, o->out);
    return test_hash(file);
}

static double held_out(const json_t *tuning, size_t epoch) {
    const json_t *h = json_array_get(json_object_get(tuning, "held_out"), epoch);
    return json_number_value(json_object_get(h, "loss")) +
           0.01 * json_number_value(json_object_get(h, "error"));
}

/* The loss of text held out falls, the best keys and values are those of no tokens, and the record
 * says how. */
static void tuning(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_options o = tuning_options("tuned");
    pare_compress_report *report;
    pare_prefix *p;
    char file[600];
    assert_ok(pare_compress(&report, rt, &o, err));
    json_t *found = json_loads(pare_compress_result(report)->prefix_search, 0, NULL);
    json_t *t = json_object_get(found, "tuning");
    program_has(t, "optimizer,schedule,clip_norm,n,batch,steps,skipped_steps,held_out_part,"
                   "held_out_texts,kept_epoch,held_out");
    assert_int_equal(json_array_size(json_object_get(found, "check_tuned")), 8);
    assert_int_equal(json_integer_value(json_object_get(t, "steps")), 12);
    assert_int_equal(json_array_size(json_object_get(t, "held_out")), 3);
    size_t kept = (size_t)json_integer_value(json_object_get(t, "kept_epoch"));
    assert_true(kept > 0 && held_out(t, kept) < held_out(t, 0));
    json_decref(found);
    pare_compress_report_free(report);
    snprintf(file, sizeof file, "%s/" PARE_PREFIX_FILE, o.out);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, o.out, err));
    assert_ok(pare_prefix_load(&p, &m->config, file, err));
    assert_true(p->ids && p->tuned); /* the tokens that it began as */
    assert_int_equal(p->attn.n, 2);
    pare_prefix_free(p);
    pare_model_free(m);

    /* a rate of 0 changes nothing: the prefix is the search's, with its tokens */
    o.recipe = "cushioncache:max_len=2,tau=1000000,n=12,texts=2,screen=2,pool=8,tune_texts=2,"
               "tune_n=20,lr=0";
    o.out = test_path("still");
    const char *still = hash_of(rt, &o);
    snprintf(file, sizeof file, "%s/" PARE_PREFIX_FILE, o.out);
    assert_ok(pare_model_load(&m, rt, o.out, err));
    assert_int_equal(pare_model_prefix_length(m), 2);
    pare_prefix *again;
    assert_ok(pare_prefix_load(&p, &m->config, file, err));
    assert_true(p->ids && !p->tuned);
    pare_model_attach_prefix(m, NULL);
    assert_ok(pare_prefix_from_ids(&again, m, p->ids, 2, err));
    assert_memory_equal(p->values, again->values, p->bytes);
    pare_prefix_free(again);
    pare_model_free(m);
    (void)still;

    /* a search goes on from a file's tokens; here there is none left to look for */
    o.recipe = "cushioncache:max_len=2,n=12,texts=2,screen=2,epochs=0";
    o.prefix = file;
    o.out = test_path("gone_on");
    assert_ok(pare_compress(&report, rt, &o, err));
    found = json_loads(pare_compress_result(report)->prefix_search, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(found, "steps")), 0);
    for (size_t i = 0; i < 2; i++) {
        const json_t *ids = json_object_get(found, "token_ids");
        assert_int_equal(json_integer_value(json_array_get(ids, i)), p->ids[i]);
        ids = json_object_get(found, "start_ids");
        assert_int_equal(json_integer_value(json_array_get(ids, i)), p->ids[i]);
    }
    json_decref(found);
    pare_compress_report_free(report);
    /* the input's own cushion is not what it begins with, and that is told */
    o.model = test_path("tuned");
    o.prefix = NULL;
    o.recipe = "cushioncache:max_len=1,tau=0,n=12,texts=2,screen=2,pool=4";
    o.out = test_path("told");
    assert_ok(pare_compress(&report, rt, &o, err));
    const pare_compress_info *info = pare_compress_result(report);
    bool told = false;
    for (size_t i = 0; i < info->n_fallbacks; i++)
        told |= strstr(info->fallbacks[i], "own cushion") != NULL;
    assert_true(told);
    pare_compress_report_free(report);
    o.model = tiny_model("dense", NULL);
    o.prefix = file;
    pare_prefix_free(p);
    o.out = test_path("not_begun");
    o.restart = true;
    o.recipe = "cushioncache:max_len=1,epochs=0";
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "at most 1 (max_len)");
    o.recipe = "cushioncache:start=bos,epochs=0";
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "found start and --prefix");
    snprintf(file, sizeof file, "%s/" PARE_PREFIX_FILE, test_path("tuned"));
    o.recipe = "cushioncache:epochs=0";
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "a prefix of no tokens");
    pare_runtime_free(rt);
}

/* Every way of the forward pass, and of the norm. */
static void ways_of_tuning(void **state) {
    (void)state;
    static const char *const ways[] = {
        "forward=per_tensor_static", "forward=per_tensor_dynamic",
        "forward=per_token",         "lq_norm=sum,lambda=1e-4",
        "site=linear_in,batch=4",    "site=both,granularity=per_token"};
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    char seen[8][65] = {{0}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char recipe_text[300];
        pare_compress_options o = tuning_options("way");
        char out[600];
        snprintf(out, sizeof out, "%s%zu", o.out, i);
        snprintf(recipe_text, sizeof recipe_text, "%s,%s", tuned, ways[i]);
        o.out = out;
        o.recipe = recipe_text;
        snprintf(seen[i], sizeof seen[i], "%s", hash_of(rt, &o));
        for (size_t j = 0; j < i; j++) assert_string_not_equal(seen[i], seen[j]);
    }
    pare_runtime_free(rt);
}

/* Progress is throttled: at the latest at the end. */
static void stop_in_tuning(void *arg, const char *stage, double done, double total,
                           const char *unit) {
    (void)arg, (void)unit;
    if (strcmp(stage, "cushion: tune") == 0 && done > total / 2) stop = 1;
}

/* A run that was cut off while it tuned goes on from the last checkpoint; one whose checkpoint is
 * damaged tunes anew: the same bytes. */
static void tuning_resumed(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX), *stopping_rt;
    pare_compress_options o = tuning_options("tuned_whole");
    pare_compress_report *report;
    char whole[65];
    snprintf(whole, sizeof whole, "%s", hash_of(rt, &o));
    for (int damaged = 0; damaged < 2; damaged++) {
        o.out = test_path(damaged ? "tuned_damaged" : "tuned_cut");
        pare_options options = pare_options_default();
        options.n_threads = 1;
        options.progress = stop_in_tuning;
        options.cancel = &stop;
        assert_ok(pare_runtime_create(&stopping_rt, &options, err));
        stop = 0;
        assert_fails(pare_compress(&report, stopping_rt, &o, err), PARE_ERR_INTERRUPTED, "goes on");
        pare_runtime_free(stopping_rt);
        char path[700];
        snprintf(path, sizeof path, "%s.work/manifest", o.out);
        json_t *there = json_load_file(path, 0, NULL);
        const json_t *kept = json_object_get(json_object_get(there, "kept"), "cushion_tuning");
        int step = (int)json_integer_value(json_object_get(kept, "step"));
        assert_true(step >= 6 && step <= 12);
        json_decref(there);
        snprintf(path, sizeof path, "%s.work/cushion-%d.safetensors", o.out, step);
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        if (damaged) {
            assert_int_equal(fseek(f, -5, SEEK_END), 0);
            int c = fgetc(f);
            assert_int_equal(fseek(f, -5, SEEK_END), 0);
            assert_true(fputc(c ^ 1, f) != EOF);
        }
        assert_int_equal(fclose(f), 0);
        assert_string_equal(hash_of(rt, &o), whole);
    }
    pare_runtime_free(rt);
}

/* Beginnings of texts: BOS of a tokenizer that adds one, tokens of the prefix now and then. */
static void beginnings(void **state) {
    (void)state;
    const int32_t from[3] = {7, 8, 9}, prefix[2] = {50, 51};
    pare_cushion_texts t = {.bos = -1};
    int32_t to[3];
    for (size_t i = 0; i < 32; i++) {
        for (int kind = 0; kind < 4; kind++) {
            t.bos = kind & 1 ? 99 : -1;
            t.prefix = prefix;
            t.n_prefix = kind & 2 ? 2 : 0;
            pare_cushion_text(&t, to, from, 3, i);
            int32_t want = kind & 1 && i % 2 == 0 ? 99 : 7;
            if (kind & 2 && i % 8 == 7) want = i % 16 == 7 ? 50 : 51;
            assert_int_equal(to[0], want);
            assert_memory_equal(to + 1, from + 1, 2 * sizeof *to);
        }
    }
}

/* By the plan as by the run, before there is a work folder. */
static void refused(pare_runtime *rt, pare_compress_options o, pare_status status,
                    const char *says) {
    pare_compress_report *report;
    for (int dry = 0; dry < 2; dry++) {
        o.dry_run = dry;
        assert_fails(pare_compress(&report, rt, &o, err), status, says);
        char work[600];
        snprintf(work, sizeof work, "%s.work", o.out);
        assert_false(pare_path_exists(work));
    }
}

static void refusals(void **state) {
    (void)state;
    pare_recipe *r;
    assert_fails(pare_recipe_parse(&r, "cushioncache:granularity=per_tensor_static", err),
                 PARE_ERR_ARG, "per_tensor_static");
    assert_fails(pare_recipe_parse(&r, "cushioncache:texts=1,repeats=2", err), PARE_ERR_ARG,
                 "repeats");
    assert_fails(pare_recipe_parse(&r, "cushioncache:n=4,screen=5", err), PARE_ERR_ARG, "screen");
    assert_fails(pare_recipe_parse(&r, "cushioncache:tune_n=1", err), PARE_ERR_ARG, "tune_n");
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_compress_report *report;
    char out[512], cushion[512];
    snprintf(out, sizeof out, "%s", test_path("refused"));
    snprintf(cushion, sizeof cushion, "%s", test_path("two"));
    pare_compress_options o = {
        .model = tiny_model("dense", NULL), .out = out, .recipe = "cushioncache", .format = "hf"};
    refused(rt, o, PARE_ERR_ARG, "expected --calib FILE");
    o.calib = text_file();
    o.max_memory = 1000;
    refused(rt, o, PARE_ERR_ARG, "max-memory");
    o.max_memory = 0;
    o.recipe = "cushioncache:prompt=abc,max_len=2";
    refused(rt, o, PARE_ERR_ARG, "at most 2 (max_len)");
    o.recipe = "rtn:bits=4 + cushioncache";
    refused(rt, o, PARE_ERR_ARG, "as the first step");
    o.recipe = "cushioncache:n=512";
    refused(rt, o, PARE_ERR_ARG, "the model's context");
    o.recipe = "cushioncache:max_len=1,tau=1000000,n=12,texts=2,screen=2,pool=4,tune_n=512";
    refused(rt, o, PARE_ERR_ARG, "tune_n: found 512");
    o.recipe = "cushioncache:max_len=1,tau=1000000,n=12,texts=2,screen=2,pool=4,tune_n=500";
    o.calib = test_write("short.txt", "a short text of so many bytes only", 34);
    refused(rt, o, PARE_ERR_INPUT, "expected at least 5000");
    o.calib = test_write("empty.txt", "", 0);
    refused(rt, o, PARE_ERR_INPUT, "found 0 tokens, expected at least 12 for a text of the search");
    o.calib = text_file();
    pare_model *m;
    pare_prefix *two;
    const int32_t ids[2] = {'a', 'b'};
    assert_ok(pare_model_load(&m, rt, o.model, err));
    assert_ok(pare_prefix_from_ids(&two, m, ids, 2, err));
    assert_ok(pare_prefix_save(two, &m->config, "{}", cushion, err));
    pare_prefix_free(two);
    pare_model_free(m);
    o.recipe = "cushioncache:start=bos";
    o.prefix = cushion;
    refused(rt, o, PARE_ERR_ARG, "found start and --prefix");
    o.recipe = "cushioncache:max_len=1";
    refused(rt, o, PARE_ERR_ARG, "found 2 tokens, expected at most 1 (max_len)");
    o.prefix = NULL;
    o.calib = text_file();
    o.recipe = "cushioncache:max_len=1,tau=1000000,n=12,texts=2,screen=2,pool=4,tune_n=20";
    o.restart = true;
    const tiny_options no_numbers = {.final_norm = 3e38f};
    o.model = tiny_model("no_numbers", &no_numbers);
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_INPUT, "expected finite numbers");
    const tiny_options overflow = {.last_norm = 3e38f};
    o.model = tiny_model("overflow", &overflow);
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_INPUT, "text 0: block 1");
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compressed),     cmocka_unit_test(begun),
        cmocka_unit_test(combined),       cmocka_unit_test(smoothed),
        cmocka_unit_test(resumed),        cmocka_unit_test(tuning),
        cmocka_unit_test(ways_of_tuning), cmocka_unit_test(tuning_resumed),
        cmocka_unit_test(beginnings),     cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
