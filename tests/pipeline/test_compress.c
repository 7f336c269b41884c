/* Compression and conversion of whole models: what is written is what was meant, and nothing stands
 * there after a failure. Works on the tiny models of tests/fixtures. */
#include "support/model_files.h"
#include "support/toy_training.h"

#include "base/memory.h"
#include "io/gguf_writer.h"
#include "model/source.h"
#include "pare/compress.h"
#include "pare/model.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pare_status compress(const char *model, const char *out, const char *recipe,
                            pare_compress_report **report, pare_error *err) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_options o = {.model = model, .out = out, .recipe = recipe};
    pare_status st = pare_compress(report, rt, &o, err);
    pare_runtime_free(rt);
    return st;
}

static pare_compress_report *must(const char *model, const char *out, const char *recipe) {
    pare_compress_report *r = NULL;
    pare_error err = {0};
    if (compress(model, out, recipe, &r, &err) != PARE_OK) fail_msg("%s", err.message);
    return r;
}

/* Logits of a fixed sequence in exact mode; free() the result. */
static float *logits_of(const char *path, size_t *n) {
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    pare_session_options so = pare_session_options_default();
    so.compute = PARE_COMPUTE_EXACT;
    so.n_ctx = 32;
    pare_session *s;
    assert_ok(pare_session_create(&s, m, &so, err));
    int32_t ids[24];
    for (int i = 0; i < 24; i++) ids[i] = (i * 37 + 11) % 200;
    *n = pare_model_vocab_size(m);
    float *logits = malloc(*n * sizeof *logits);
    assert_ok(pare_session_eval(s, ids, 24, logits, err));
    pare_session_free(s);
    pare_model_free(m);
    pare_runtime_free(rt);
    return logits;
}

static double distance(const char *a, const char *b) {
    size_t n, m;
    float *x = logits_of(a, &n), *y = logits_of(b, &m);
    assert_int_equal(n, m);
    double e = 0, range = 0;
    for (size_t i = 0; i < n; i++) {
        e = fmax(e, fabs((double)x[i] - (double)y[i]));
        range = fmax(range, fabs((double)x[i]));
    }
    free(x);
    free(y);
    return e / range;
}

/* Without these transformers leaves biases out. */
static void says_biases(const char *folder) {
    char path[1200];
    pare_json j;
    bool biases = false;
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    assert_ok(pare_json_bool(&j, "attention_bias", PARE_REQUIRED, &biases, err));
    assert_true(biases);
    assert_ok(pare_json_bool(&j, "mlp_bias", PARE_REQUIRED, &biases, err));
    assert_true(biases);
    pare_json_free(&j);
}

/* hf -> gguf -> hf -> gguf: the numbers stay, and the second GGUF file has the bytes of the first.
 */
static void containers_hold_the_same_numbers(void **state) {
    (void)state;
    size_t n_done = 0;
    static const char *const archs[] = {"llama", "qwen2",      "qwen3",      "gemma2", "gemma3",
                                        "gpt2",  "llama-bias", "gemma3-old", "mistral"};
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        if (!pare_path_exists(fixture_path(archs[i]))) {
            printf("skipped: no fixture %s\n", archs[i]);
            continue;
        }
        const char *input = fixture_path(archs[i]);
        char a[1024], b[1024], c[1024], name[64];
        snprintf(name, sizeof name, "%s-a.gguf", archs[i]);
        snprintf(a, sizeof a, "%s", test_path(name));
        snprintf(name, sizeof name, "%s-b", archs[i]);
        snprintf(b, sizeof b, "%s", test_path(name));
        snprintf(name, sizeof name, "%s-c.gguf", archs[i]);
        snprintf(c, sizeof c, "%s", test_path(name));
        pare_compress_report *r = NULL;
        pare_error err = {0};
        pare_status st = compress(input, a, "", &r, &err);
        if (st == PARE_ERR_UNSUPPORTED) { /* GGUF has no key for it */
            printf("refused: %s\n", err.message);
            continue;
        }
        if (st != PARE_OK) fail_msg("%s: %s", archs[i], err.message);
        pare_compress_report_free(r);
        n_done++;
        pare_compress_report_free(must(a, b, ""));
        pare_compress_report_free(must(b, c, ""));
        assert_true(distance(input, a) < 1e-6);
        assert_true(distance(input, b) < 1e-6);
        if (strcmp(archs[i], "llama-bias") == 0) says_biases(b);
        pare_source *x, *y;
        assert_int_equal(pare_source_open(&x, a, &err), PARE_OK);
        assert_int_equal(pare_source_open(&y, c, &err), PARE_OK);
        for (size_t k = 0; k < pare_source_n_tensors(x); k++) {
            const pare_source_tensor *t = pare_source_tensor_at(x, k),
                                     *u = pare_source_find(y, t->canonical);
            pare_tensor p, q;
            assert_non_null(u);
            assert_int_equal(pare_source_read(x, t, false, &p, &err), PARE_OK);
            assert_int_equal(pare_source_read(y, u, false, &q, &err), PARE_OK);
            assert_int_equal(p.part_bytes[0], q.part_bytes[0]);
            assert_memory_equal(p.view.part[0], q.view.part[0], p.part_bytes[0]);
            pare_tensor_free(&p);
            pare_tensor_free(&q);
        }
        pare_source_close(x);
        pare_source_close(y);
    }
    assert_true(n_done >= 3);
}

static void every_mix_gives_a_model_that_loads(void **state) {
    (void)state;
    for (size_t i = 0; pare_mix_name_at(i); i++) {
        char out[1024];
        snprintf(out, sizeof out, "%s-%s.gguf", test_path("mix"), pare_mix_name_at(i));
        pare_compress_report *r = must(fixture_path("llama"), out, pare_mix_name_at(i));
        const pare_compress_info *info = pare_compress_result(r);
        for (size_t k = 0; k < info->n_layers; k++) /* random weights: 2 bits lose about half */
            assert_true(isfinite(info->layers[k].error) && info->layers[k].error < 0.6);
        double d = distance(fixture_path("llama"), out);
        assert_true(isfinite(d));
        pare_compress_report_free(r);
    }
}

static void pruned_models_hold_the_zeros_that_were_asked_for(void **state) {
    (void)state;
    static const struct {
        const char *recipe;
        double sparsity;
    } cases[] = {{"magnitude:sparsity=0.5 + bitmap_bf16", 0.5},
                 {"magnitude:sparsity=0.75,per=row + bitmap_q8", 0.75},
                 {"magnitude:sparsity=2:4 + nm24_bf16", 0.5},
                 {"magnitude:sparsity=4:8 + nm48_q8", 0.5},
                 {"magnitude:sparsity=0.5", 0.5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[32], out[1024];
        snprintf(name, sizeof name, "sparse-%zu", i);
        snprintf(out, sizeof out, "%s", test_path(name));
        pare_compress_report *r = must(fixture_path("llama"), out, cases[i].recipe);
        const pare_compress_info *info = pare_compress_result(r);
        size_t n_pruned = 0;
        for (size_t k = 0; k < info->n_layers; k++) {
            const pare_layer_report *l = &info->layers[k];
            if (strncmp(l->name, "blk.", 4) != 0 || strstr(l->name, "norm")) continue;
            n_pruned++;
            /* q8 values may round small ones to zero as well */
            assert_true(l->sparsity >= cases[i].sparsity - 0.01 &&
                        l->sparsity < cases[i].sparsity + 0.05);
        }
        assert_true(n_pruned >= 14);
        assert_true(isfinite(distance(fixture_path("llama"), out)));
        /* zeros that are only copied count as well */
        snprintf(name, sizeof name, "copied-%zu", i);
        pare_compress_report *copied = must(out, test_path(name), "");
        const pare_compress_info *same = pare_compress_result(copied);
        assert_true(same->lossless && info->sparsity > 0);
        assert_true(fabs(same->sparsity - info->sparsity) < 1e-12);
        pare_compress_report_free(copied);
        pare_compress_report_free(r);
    }
}

static void threads_do_not_change_the_bytes(void **state) {
    (void)state;
    char first[1024];
    snprintf(first, sizeof first, "%s", test_path("t1.gguf"));
    for (int threads = 1; threads <= 3; threads += 2) {
        pare_runtime *rt = test_runtime(threads, PARE_ISA_AMX);
        pare_compress_options o = {.model = fixture_path("llama"),
                                   .out = threads == 1 ? first : test_path("t3.gguf"),
                                   .recipe = "magnitude:sparsity=0.3 + q4_0"};
        pare_compress_report *r;
        assert_ok(pare_compress(&r, rt, &o, err));
        pare_compress_report_free(r);
        pare_runtime_free(rt);
    }
    char *a, *b;
    size_t n, m;
    assert_ok(pare_file_read_all(&a, &n, first, 1 << 30, err));
    assert_ok(pare_file_read_all(&b, &m, test_path("t3.gguf"), 1 << 30, err));
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    pare_free(a);
    pare_free(b);
}

/* A run that was cut off after OUT appeared, before its caller was done with it: the same call says
 * the same once more and does not touch OUT; another recipe is another run. */
static void check_cut_off(const char *recipe, const char *other_recipe) {
    char model[1024], out[1024], file[1100];
    snprintf(model, sizeof model, "%s", fixture_path("llama"));
    snprintf(out, sizeof out, "%s", test_path("behind"));
    snprintf(file, sizeof file, "%s/model.safetensors", out);
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_options o = {.model = model, .out = out, .recipe = recipe, .keep_work = true};
    pare_compress_report *first, *again, *other;
    struct stat before, after;
    assert_ok(pare_compress(&first, rt, &o, err));
    assert_true(pare_path_exists(test_path("behind.work")));
    assert_int_equal(stat(file, &before), 0);
    assert_ok(pare_compress(&again, rt, &o, err));
    assert_int_equal(stat(file, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    const pare_compress_info *a = pare_compress_result(first), *b = pare_compress_result(again);
    assert_true(a->out_bytes == b->out_bytes && a->bits_per_weight == b->bits_per_weight);
    assert_true(a->sparsity == b->sparsity);
    for (size_t i = 0; i < a->n_layers; i++)
        assert_true(a->layers[i].error == b->layers[i].error &&
                    a->layers[i].out_bytes == b->layers[i].out_bytes);
    o.recipe = other_recipe;
    assert_fails(pare_compress(&other, rt, &o, err), PARE_ERR_ARG, "recipe");
    o.recipe = recipe;
    pare_compress_settle(again);
    assert_false(pare_path_exists(test_path("behind.work")));
    assert_fails(pare_compress(&other, rt, &o, err), PARE_ERR_INPUT, "new or empty");
    pare_compress_report_free(first);
    pare_compress_report_free(again);
    pare_runtime_free(rt);
    test_remove(out);
}

static void cut_off_behind_the_output(void **state) {
    (void)state;
    check_cut_off("rtn:bits=4,group=32", "rtn:bits=3,group=32");
    check_cut_off("q8_0", "q4_0");
}

static void failures_leave_nothing(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *out, *message;
    } cases[] = {
        {"magnitude:sparsity=0.5 + bitmap_bf16", "x.gguf", "gguf"},
        {"q8_0 + magnitude", "x", "before encodings"},
        {"q9_0", "x", "did you mean"},
        {"nvfp4", "x", "only read"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[1024];
        snprintf(out, sizeof out, "%s", test_path(cases[i].out));
        pare_error err = {0};
        pare_compress_report *r = NULL;
        pare_status st = compress(fixture_path("llama"), out, cases[i].recipe, &r, &err);
        assert_int_equal(pare_status_exit_code(st), 2);
        assert_null(r);
        if (!strstr(err.message, cases[i].message)) fail_msg("%s", err.message);
        assert_false(pare_path_exists(out));
    }
    { /* a weight of the last block that is not a number: found before work begins */
        char model[1024], file[1100], out[1024];
        snprintf(model, sizeof model, "%s", test_path("with-nan"));
        snprintf(out, sizeof out, "%s", test_path("of-nan"));
        pare_compress_report_free(must(fixture_path("llama"), model, "f32"));
        snprintf(file, sizeof file, "%s/model.safetensors", model);
        FILE *f = fopen(file, "r+b");
        uint64_t head;
        char json[65536] = "";
        assert_int_equal(fread(&head, sizeof head, 1, f), 1);
        assert_true(head < sizeof json && fread(json, 1, head, f) == head);
        const char *at = strstr(json, "model.layers.1.mlp.down_proj.weight");
        assert_non_null(at);
        at = strstr(at, "data_offsets");
        uint64_t begin = strtoull(strchr(at, '[') + 1, NULL, 10);
        const float nan_value = NAN;
        fseek(f, (long)(8 + head + begin + 4 * 3), SEEK_SET);
        assert_int_equal(fwrite(&nan_value, sizeof nan_value, 1, f), 1);
        assert_int_equal(fclose(f), 0);
        pare_error err = {0};
        pare_compress_report *r = NULL;
        assert_int_equal(compress(model, out, "rtn:bits=4,group=32", &r, &err), PARE_ERR_INPUT);
        if (!strstr(err.message, "down_proj.weight: row 0, column 3: found nan"))
            fail_msg("%s", err.message);
        assert_false(pare_path_exists(out) || pare_path_exists(test_path("of-nan.work")));
    }
    /* the input is never the output */
    pare_error err = {0};
    pare_compress_report *r = NULL;
    assert_int_equal(compress(fixture_path("llama"), fixture_path("llama"), "q8_0", &r, &err),
                     PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "the input itself"));
    assert_int_equal(compress(fixture_path("llama"), "", "q8_0", &r, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "expected a file or folder name"));
}

static void a_step_without_tensors_is_told(void **state) {
    (void)state;
    pare_compress_report *r =
        must(fixture_path("llama"), test_path("idle"), "q8_0@attn + q4_0@/no_such/ + q5_0@ffn");
    const pare_compress_info *info = pare_compress_result(r);
    assert_int_equal(info->n_fallbacks, 1);
    assert_string_equal(info->fallbacks[0],
                        "recipe: step 2, @/no_such/ takes no tensor of this model");
    pare_compress_report_free(r);
}

/* The llama fixture with one more tensor of 8 bytes (`extra`: NAME":{"dtype":...), and its first
 * weight's dtype replaced where `dtype` is not NULL (six bytes with the quotes). */
static const char *bent_llama(const char *folder, const char *extra, const char *dtype) {
    char path[1200], *data, entry[256] = "";
    size_t n;
    const char *out = test_path(folder);
    mkdir(out, 0777);
    snprintf(path, sizeof path, "%s/config.json", fixture_path("llama"));
    assert_ok(pare_file_read_all(&data, &n, path, 1 << 20, err));
    snprintf(path, sizeof path, "%s/config.json", folder);
    test_write(path, data, n);
    pare_free(data);
    snprintf(path, sizeof path, "%s/model.safetensors", fixture_path("llama"));
    assert_ok(pare_file_read_all(&data, &n, path, 1 << 30, err));
    uint64_t n_header, n_longer;
    memcpy(&n_header, data, 8);
    size_t n_data = n - 8 - (size_t)n_header;
    char *at = dtype ? strstr(data + 8, "\"BF16\"") : NULL; /* the data hold no such text before */
    if (at) memcpy(at, dtype, 6);
    if (extra)
        snprintf(entry, sizeof entry, "\"%s,\"shape\":[1],\"data_offsets\":[%zu,%zu]},", extra,
                 n_data, n_data + 8);
    n_longer = n_header + strlen(entry);
    char *file = calloc(1, 16 + (size_t)n_longer + n_data);
    memcpy(file, &n_longer, 8);
    sprintf(file + 8, "{%s", entry);
    memcpy(file + 9 + strlen(entry), data + 9, n - 9);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    test_write(path, file, 8 + (size_t)n_longer + n_data + (extra ? 8 : 0));
    free(file);
    pare_free(data);
    return out;
}

/* Buffers of integers, which some checkpoints carry along, are left out and named; a weight of such
 * a type is refused. */
static void tensors_that_cannot_be_decoded(void **state) {
    (void)state;
    const char *model = bent_llama("ids", "model.ids\":{\"dtype\":\"I64\"", NULL);
    static const char *const outs[] = {"ids-hf", "ids.gguf"};
    for (size_t i = 0; i < 2; i++) {
        pare_compress_report *r = must(model, test_path(outs[i]), "q8_0");
        const pare_compress_info *info = pare_compress_result(r);
        assert_true(info->n_fallbacks >= 1);
        assert_non_null(strstr(info->fallbacks[0], "model.ids: not used by the model"));
        pare_compress_report_free(r);
    }
    model = bent_llama("ints", NULL, " \"U16\"");
    for (size_t i = 0; i < 2; i++) {
        pare_error err = {0};
        pare_compress_report *r = NULL;
        pare_status st = compress(model, test_path("ints-out"), i ? "q8_0" : "", &r, &err);
        assert_int_equal(pare_status_exit_code(st), 2);
        assert_non_null(strstr(err.message, "found type U16"));
        assert_null(r);
        assert_false(pare_path_exists(test_path("ints-out")));
    }
}

static void an_interrupt_leaves_nothing(void **state) {
    (void)state;
    volatile sig_atomic_t stop = 1;
    pare_options options = pare_options_default();
    options.cancel = &stop;
    pare_runtime *rt;
    assert_ok(pare_runtime_create(&rt, &options, err));
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("stopped"));
    pare_compress_options o = {.model = fixture_path("llama"), .out = out, .recipe = "q8_0"};
    pare_compress_report *r = NULL;
    pare_error err = {0};
    assert_int_equal(pare_compress(&r, rt, &o, &err), PARE_ERR_INTERRUPTED);
    assert_false(pare_path_exists(out));
    pare_runtime_free(rt);
}

static void a_dry_run_plans_and_writes_nothing(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_compress_options o = {.model = fixture_path("llama"), .recipe = "q4_k_m", .dry_run = true};
    pare_compress_report *plan, *done;
    assert_ok(pare_compress(&plan, rt, &o, err));
    o.dry_run = false;
    o.out = test_path("planned");
    assert_ok(pare_compress(&done, rt, &o, err));
    const pare_compress_info *a = pare_compress_result(plan), *b = pare_compress_result(done);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->out_bytes, b->out_bytes);
    assert_int_equal(a->n_fallbacks, b->n_fallbacks);
    assert_true(a->work_bytes > 0);
    /* 64 columns do not fit blocks of 256: with no_fallback the first such tensor is named */
    o.no_fallback = true;
    o.out = test_path("refused");
    pare_compress_report *r = NULL;
    pare_error err = {0};
    assert_int_equal(pare_compress(&r, rt, &o, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "multiple of 256"));
    pare_compress_report_free(plan);
    pare_compress_report_free(done);
    pare_runtime_free(rt);
}

/* Values below what half scales hold: told as a fallback, refused with no_fallback. */
static void values_too_small_for_their_scales_are_told(void **state) {
    (void)state;
    char small[1024];
    snprintf(small, sizeof small, "%s", test_path("small.gguf"));
    pare_compress_report_free(must(fixture_path("llama"), small, "f32"));
    pare_gguf *g;
    assert_ok(pare_gguf_open(&g, small, err));
    long at = (long)pare_gguf_find(g, "blk.0.ffn_up.weight")->offset;
    pare_gguf_close(g);
    float tiny[64];
    for (int i = 0; i < 64; i++) tiny[i] = i % 2 ? 1e-7f : -1e-7f;
    FILE *f = fopen(small, "r+b");
    assert_true(f && fseek(f, at, SEEK_SET) == 0 && fwrite(tiny, sizeof tiny, 1, f) == 1);
    fclose(f);

    pare_compress_report *r = must(small, test_path("told.gguf"), "q8_0");
    const pare_compress_info *info = pare_compress_result(r);
    assert_int_equal(info->n_fallbacks, 1);
    assert_non_null(strstr(info->fallbacks[0], "blk.0.ffn_up.weight: 2 blocks"));
    pare_compress_report_free(r);

    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    const char *out = test_path("refused.gguf");
    pare_compress_options o = {.model = small, .out = out, .recipe = "q8_0", .no_fallback = true};
    pare_error err = {0};
    assert_int_equal(pare_compress(&r, rt, &o, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "blk.0.ffn_up.weight"));
    assert_false(pare_path_exists(out));
    pare_runtime_free(rt);
}

/* --- a model that GGUF files cannot say --- */

static void other_scale(json_t *config, void *arg) {
    (void)arg;
    json_object_set_new(config, "query_pre_attn_scalar", json_integer(999));
}

/* Refused by the plan, not when the output is begun. */
static void what_a_container_cannot_hold_is_refused_by_the_plan(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    char in[1024];
    snprintf(in, sizeof in, "%s",
             copy_fixture("gemma3", "scale", &(copy_edit){.config = other_scale}));
    pare_compress_options o = {.model = in, .recipe = "q8_0", .format = "gguf", .dry_run = true};
    pare_compress_report *r = NULL;
    pare_error err = {0};
    o.out = test_path("scale.gguf");
    assert_int_equal(pare_compress(&r, rt, &o, &err), PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "attention scale"));
    /* folders have GPT-2's matrices transposed */
    pare_train_report trained;
    toy_set_up(NULL);
    pare_train_options t = toy_options();
    t.shape.arch = "gpt2";
    t.shape.dim = 64;
    t.steps = 1;
    if (toy_run(&trained, &t, 1, NULL, &err) != PARE_OK) fail_msg("%s", err.message);
    char gguf[1024], out[1024], work[1100];
    snprintf(gguf, sizeof gguf, "%s", test_path("gpt2.gguf"));
    snprintf(out, sizeof out, "%s", test_path("layout"));
    snprintf(work, sizeof work, "%s.work", out);
    pare_compress_report_free(must(toy.out, gguf, "q8_0"));
    const char *const models[] = {toy.out, gguf, gguf}, *const recipes[] = {"rtn:bits=8,group=0",
                                                                            "magnitude + bitmap_q8",
                                                                            ""};
    o = (pare_compress_options){.format = "hf", .out = out};
    for (int i = 0; i < 6; i++) {
        o.model = models[i / 2];
        o.recipe = recipes[i / 2];
        o.dry_run = i % 2 == 0;
        pare_status st = pare_compress(&r, rt, &o, &err);
        if (st != PARE_ERR_UNSUPPORTED || !strstr(err.message, "blk.0.") ||
            !strstr(err.message, "has it in another layout"))
            fail_msg("%s", err.message);
        assert_false(pare_path_exists(work));
    }
    o.recipe = "rtn@embd:bits=8,group=0"; /* which they have as it is */
    o.model = models[0];
    if (pare_compress(&r, rt, &o, &err) != PARE_OK) fail_msg("%s", err.message);
    pare_compress_report_free(r);
    pare_runtime_free(rt);
}

/* --- a model that lacks a weight --- */

static void drop_up(copied_tensor *t, void *arg) {
    (void)arg;
    if (strcmp(t->name, "model.layers.1.mlp.up_proj.weight") == 0) t->name = NULL;
}

/* Refused before anything is written: the copy would lack it too, and nobody could run it. */
static void a_missing_weight_is_refused(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    char in[1024], out[1024];
    snprintf(in, sizeof in, "%s", copy_fixture("llama", "lacks", &(copy_edit){.tensor = drop_up}));
    snprintf(out, sizeof out, "%s", test_path("lacks-out"));
    static const char *const recipes[] = {"", "q8_0"};
    for (size_t i = 0; i < 2; i++) {
        pare_compress_options o = {.model = in, .out = out, .recipe = recipes[i]};
        pare_compress_report *r;
        assert_fails(pare_compress(&r, rt, &o, err), PARE_ERR_INPUT,
                     "model.layers.1.mlp.up_proj.weight: found no such tensor");
        assert_int_equal(access(out, F_OK), -1);
    }
    pare_runtime_free(rt);
}

/* --- metadata of a GGUF file in a folder --- */

#define ENTRY(key, type, value) "\"" key "\": {\"type\": \"" type "\", \"value\": " value "}"

/* config["pare"]["gguf"] = the text in arg. */
static void set_metadata(json_t *config, void *arg) {
    json_t *gguf = json_loads(arg, JSON_DECODE_ANY, NULL);
    assert_non_null(gguf);
    json_object_set_new(config, "pare", json_pack("{s:o}", "gguf", gguf));
}

static const char *folder_with(const char *name, const char *metadata) {
    return copy_fixture("llama", name,
                        &(copy_edit){.config = set_metadata, .arg = (void *)metadata});
}

static json_t *metadata_of(const char *folder) {
    char path[1200];
    snprintf(path, sizeof path, "%s/config.json", folder);
    pare_json j;
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    json_t *gguf = json_incref(pare_json_get(&j, "pare.gguf"));
    pare_json_free(&j);
    return gguf;
}

static void a_folder_carries_the_metadata_of_a_gguf_file(void **state) {
    (void)state;
    static const char metadata[] = "{" ENTRY("general.name", "string", "\"A n\\u00e4me\"") "," ENTRY(
        "general.tags", "string",
        "[\"a\", \"\", \"b c\"]") "," ENTRY("general.languages", "string",
                                            "[]") "," ENTRY("general.file_type",
                                                            "u32", "7") "," ENTRY("x.u8",
                                                                                  "u8", "255") "," ENTRY("x.i8", "i8", "-128") "," ENTRY("x.u16", "u16", "[0, 65535]") "," ENTRY("x.i16", "i16", "-32768") "," ENTRY("x.i32", "i32", "[-2147483648, 2147483647]") "," ENTRY("x.u64", "u64", "9223372036854775807") "," ENTRY("x.i64", "i64", "-9223372036854775807") "," ENTRY("x.f32",
                                                                                                                                                                                                                                                                                                                                                                               "f32", "0.5") "," ENTRY("x.f64",
                                                                                                                                                                                                                                                                                                                                                                                                       "f64", "[0.1, -1e300]") "," ENTRY("x.bool",
                                                                                                                                                                                                                                                                                                                                                                                                                                         "bool",
                                                                                                                                                                                                                                                                                                                                                                                                                                         "[true, false]") "}";
    char a[1024], b[1024], c[1024], d[1024];
    snprintf(a, sizeof a, "%s", test_path("meta-a.gguf"));
    snprintf(b, sizeof b, "%s", test_path("meta-b"));
    snprintf(c, sizeof c, "%s", test_path("meta-c"));
    snprintf(d, sizeof d, "%s", test_path("meta-d.gguf"));
    pare_compress_report_free(must(folder_with("meta", metadata), a, ""));
    pare_gguf *g;
    assert_ok(pare_gguf_open(&g, a, err));
    const char *name;
    assert_ok(pare_gguf_str(g, "general.name", PARE_REQUIRED, &name, err));
    assert_string_equal(name, "A n\u00e4me");
    pare_span *tags;
    size_t n_tags;
    assert_ok(pare_gguf_strings(g, "general.tags", PARE_REQUIRED, &tags, &n_tags, err));
    assert_int_equal(n_tags, 3);
    assert_memory_equal(tags[2].s, "b c", 3);
    pare_free(tags);
    pare_gguf_kv kv;
    assert_true(pare_gguf_kv_find(g, "x.u16", &kv));
    assert_int_equal(kv.item, PARE_GGUF_U16);
    assert_int_equal(kv.count, 2);
    assert_memory_equal(kv.data, "\0\0\xFF\xFF", 4);
    pare_gguf_close(g);

    /* to a folder, to another folder, and back: nothing is lost */
    pare_compress_report_free(must(a, b, ""));
    pare_compress_report_free(must(b, c, ""));
    pare_compress_report_free(must(c, d, ""));
    json_t *expected = json_loads(metadata, 0, NULL), *found = metadata_of(c);
    json_object_set_new(expected, "general.type",
                        json_pack("{s:s,s:s}", "type", "string", "value", "model"));
    assert_true(json_equal(expected, found));
    json_decref(expected);
    json_decref(found);
    pare_gguf *h;
    assert_ok(pare_gguf_open(&g, a, err));
    assert_ok(pare_gguf_open(&h, d, err));
    assert_int_equal(pare_gguf_n_kv(g), pare_gguf_n_kv(h));
    for (size_t i = 0; i < pare_gguf_n_kv(g); i++) {
        pare_gguf_kv x = pare_gguf_kv_at(g, i), y;
        assert_true(pare_gguf_kv_find(h, x.key, &y));
        assert_int_equal(x.type, y.type);
        assert_int_equal(x.n_bytes, y.n_bytes);
        assert_memory_equal(x.data, y.data, x.n_bytes);
    }
    pare_gguf_close(g);
    pare_gguf_close(h);

    /* other encodings than the file's: its type is no longer true, all else is */
    static const char *const outs[] = {"meta-e", "meta-e.gguf"};
    pare_compress_report_free(must(b, test_path(outs[0]), "q8_0@ffn"));
    found = metadata_of(test_path(outs[0]));
    assert_null(json_object_get(found, "general.file_type"));
    assert_non_null(json_object_get(found, "general.tags"));
    json_decref(found);
    pare_compress_report_free(must(b, test_path(outs[1]), "q8_0@ffn"));
    assert_ok(pare_gguf_open(&g, test_path(outs[1]), err));
    assert_false(pare_gguf_has(g, "general.file_type"));
    assert_true(pare_gguf_has(g, "general.tags"));
    pare_gguf_close(g);
}

/* A copy of a GGUF file with more keys. */
static void add_keys(const char *to, const char *from, const pare_gguf_kv *keys, size_t n_keys) {
    pare_gguf *g;
    pare_gguf_writer *w;
    assert_ok(pare_gguf_open(&g, from, err));
    assert_ok(pare_gguf_writer_create(&w, to, 0, err));
    assert_ok(pare_gguf_copy(w, g, NULL, 0, err));
    for (size_t i = 0; i < n_keys; i++) assert_ok(pare_gguf_set_kv(w, &keys[i], err));
    for (size_t i = 0; i < pare_gguf_n_tensors(g); i++) {
        const pare_gguf_tensor *t = pare_gguf_tensor_at(g, i);
        size_t n_dims, dims[4];
        pare_gguf_shape(t, &n_dims, dims);
        assert_ok(pare_gguf_declare(w, t->name, t->type, dims, n_dims, err));
    }
    assert_ok(pare_gguf_begin(w, err));
    for (size_t i = 0; i < pare_gguf_n_tensors(g); i++) {
        const pare_gguf_tensor *t = pare_gguf_tensor_at(g, i);
        void *data = malloc((size_t)t->n_bytes);
        assert_ok(pare_file_read_at(pare_gguf_file(g, t->file), data, (size_t)t->n_bytes, t->offset,
                                    err));
        assert_ok(pare_gguf_write(w, i, data, (size_t)t->n_bytes, err));
        free(data);
    }
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);
    pare_gguf_close(g);
}

static void values_that_json_cannot_hold_are_left_out(void **state) {
    (void)state;
    enum { LONG = 1 << 16 };
    uint8_t *text = malloc(LONG + 1);
    memset(text, 'a', LONG + 1);
#define KEY(name, t, n, bytes)                                                                     \
    { .key = name, .type = t, .item = t, .count = 1, .data = (const void *)(bytes), .n_bytes = n }
    const pare_gguf_kv keys[] = {
        KEY("x.fits", PARE_GGUF_STRING, LONG, text),
        KEY("x.empty", PARE_GGUF_STRING, 0, ""),
        KEY("x.long", PARE_GGUF_STRING, LONG + 1, text),
        KEY("x.nul", PARE_GGUF_STRING, 3, "a\0b"),
        KEY("x.latin", PARE_GGUF_STRING, 2, "\xE4z"),
        KEY("x.nan", PARE_GGUF_F32, 4, "\0\0\xC0\x7F"),
        KEY("x.inf", PARE_GGUF_F64, 8, "\0\0\0\0\0\0\xF0\x7F"),
        KEY("x.u64", PARE_GGUF_U64, 8, "\0\0\0\0\0\0\0\x80"),
        KEY("x.i64", PARE_GGUF_I64, 8, "\0\0\0\0\0\0\0\x80"),
    };
#undef KEY
    char a[1024], b[1024], c[1024];
    snprintf(a, sizeof a, "%s", test_path("odd-a.gguf"));
    snprintf(b, sizeof b, "%s", test_path("odd-b.gguf"));
    snprintf(c, sizeof c, "%s", test_path("odd-c"));
    pare_compress_report_free(must(fixture_path("llama"), a, ""));
    add_keys(b, a, keys, sizeof keys / sizeof keys[0]);
    pare_compress_report_free(must(b, c, ""));
    json_t *found = metadata_of(c);
    size_t n_found = 0;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        n_found += json_object_get(found, keys[i].key) != NULL;
    assert_int_equal(n_found, 2);
    assert_non_null(json_object_get(found, "x.fits"));
    assert_non_null(json_object_get(found, "x.empty"));
    json_decref(found);
    pare_compress_report_free(must(c, test_path("odd-d.gguf"), ""));
    free(text);
}

/* More than config.json may be long: what it has room for is kept, and the folder can be read. */
static void too_much_metadata_is_left_out(void **state) {
    (void)state;
    enum { N = 320, LONG = 1 << 16 };
    uint8_t *text = malloc(LONG);
    memset(text, 'a', LONG);
    static char names[N][8];
    pare_gguf_kv keys[N];
    for (size_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "x.%03zu", i);
        keys[i] = (pare_gguf_kv){names[i], PARE_GGUF_STRING, PARE_GGUF_STRING, 1, text, LONG};
    }
    char a[1024], b[1024], c[1024];
    snprintf(a, sizeof a, "%s", test_path("much-a.gguf"));
    snprintf(b, sizeof b, "%s", test_path("much-b.gguf"));
    snprintf(c, sizeof c, "%s", test_path("much-c"));
    pare_compress_report_free(must(fixture_path("llama"), a, ""));
    add_keys(b, a, keys, N);
    pare_compress_report_free(must(b, c, ""));
    json_t *found = metadata_of(c);
    for (size_t i = 0; i < N; i++) /* 4 MiB of text and what stands around it */
        assert_true((json_object_get(found, names[i]) != NULL) == (i < 63));
    json_decref(found);
    pare_compress_report_free(must(c, test_path("much-d.gguf"), ""));
    free(text);
}

static void metadata_that_cannot_be_carried_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *metadata, *message;
    } cases[] = {
        {"[]", "found no object"},
        {"{" ENTRY("llama.block_count", "u32", "9") "}", "llama.block_count"},
        {"{" ENTRY("general.architecture", "string", "\"gpt2\"") "}", "general.architecture"},
        {"{" ENTRY("general.alignment", "u32", "64") "}", "general.alignment"},
        {"{" ENTRY("tokenizer.ggml.model", "string", "\"x\"") "}", "tokenizer.ggml.model"},
        {"{" ENTRY("split.count", "u16", "2") "}", "split.count"},
        {"{" ENTRY("", "u16", "2") "}", "the key \"\""},
        {"{\"x.y\": 1}", "x.y"},
        {"{\"x.y\": {\"type\": \"u8\"}}", "x.y"},
        {"{\"x.y\": {\"value\": 1}}", "x.y"},
        {"{" ENTRY("x.y", "array", "[]") "}", "x.y"},
        {"{" ENTRY("x.y", "u7", "1") "}", "x.y"},
        {"{" ENTRY("x.y", "u8", "256") "}", "x.y"},
        {"{" ENTRY("x.y", "u8", "-1") "}", "x.y"},
        {"{" ENTRY("x.y", "i8", "128") "}", "x.y"},
        {"{" ENTRY("x.y", "i8", "-129") "}", "x.y"},
        {"{" ENTRY("x.y", "u64", "-1") "}", "x.y"},
        {"{" ENTRY("x.y", "u8", "1.0") "}", "x.y"},
        {"{" ENTRY("x.y", "f32", "1e39") "}", "x.y"},
        {"{" ENTRY("x.y", "f64", "\"1\"") "}", "x.y"},
        {"{" ENTRY("x.y", "bool", "1") "}", "x.y"},
        {"{" ENTRY("x.y", "string", "null") "}", "x.y"},
        {"{" ENTRY("x.y", "string", "[\"a\", [\"b\"]]") "}", "x.y"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "bad-meta-%zu", i);
        const char *folder = folder_with(name, cases[i].metadata);
        pare_error err = {0};
        pare_compress_report *r = NULL;
        pare_status st = compress(folder, test_path("bad-meta.gguf"), "", &r, &err);
        if (st != PARE_ERR_INPUT || !strstr(err.message, cases[i].message) ||
            !strstr(err.message, "config.json: pare.gguf: "))
            fail_msg("case %zu: %s", i, err.message);
        assert_false(pare_path_exists(test_path("bad-meta.gguf")));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(containers_hold_the_same_numbers),
        cmocka_unit_test(every_mix_gives_a_model_that_loads),
        cmocka_unit_test(pruned_models_hold_the_zeros_that_were_asked_for),
        cmocka_unit_test(threads_do_not_change_the_bytes),
        cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(cut_off_behind_the_output),
        cmocka_unit_test(tensors_that_cannot_be_decoded),
        cmocka_unit_test(a_step_without_tensors_is_told),
        cmocka_unit_test(an_interrupt_leaves_nothing),
        cmocka_unit_test(a_dry_run_plans_and_writes_nothing),
        cmocka_unit_test(values_too_small_for_their_scales_are_told),
        cmocka_unit_test(what_a_container_cannot_hold_is_refused_by_the_plan),
        cmocka_unit_test(a_missing_weight_is_refused),
        cmocka_unit_test(a_folder_carries_the_metadata_of_a_gguf_file),
        cmocka_unit_test(values_that_json_cannot_hold_are_left_out),
        cmocka_unit_test(too_much_metadata_is_left_out),
        cmocka_unit_test(metadata_that_cannot_be_carried_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
