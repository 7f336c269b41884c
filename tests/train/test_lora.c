/* Low-rank adapters: PEFT's files (tests/fixtures/lora, made by scripts/fixtures/make_lora.py) give
 * its logits and PyTorch's gradients; trained ones go on with the same bytes, load again, merge
 * into models that compute the same, beside weights in f32 and in 8 and 4 bits; bad files are
 * refused. The operator itself: tests/autograd. */
#include "support/toy_training.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/os.h"
#include "io/json.h"
#include "pare/compress.h"
#include "pare/tokenizer.h"
#include "support/tiny_model.h"
#include "train/step.h"

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

enum { N = 47 };

typedef struct fixture {
    char model[1024], adapter[1024];
    int32_t ids[N + 1];
    pare_json reference;
} fixture;

static void open_fixture(fixture *x, const char *name) {
    const char *source = getenv("PARE_SOURCE");
    char path[1200];
    if (!source) source = ".";
    snprintf(x->model, sizeof x->model, "%s/tests/fixtures/models/%s", source, name);
    snprintf(x->adapter, sizeof x->adapter, "%s/tests/fixtures/lora/%s", source, name);
    snprintf(path, sizeof path, "%s/reference.json", x->adapter);
    assert_ok(pare_json_load(&x->reference, path, PARE_JSON_CONFIG_MAX, 0, err));
    for (int i = 0; i <= N; i++) {
        int64_t id;
        snprintf(path, sizeof path, "ids.%d", i);
        assert_ok(pare_json_int(&x->reference, path, PARE_REQUIRED, 0, 1 << 20, &id, err));
        x->ids[i] = (int32_t)id;
    }
}

/* The logits after ids[n]. */
static float *logits_of(pare_runtime *rt, const char *model, const char *adapter,
                        const int32_t *ids, size_t n, size_t *vocab) {
    pare_model *m;
    pare_session *s;
    pare_session_options so = pare_session_options_default();
    so.compute = PARE_COMPUTE_EXACT;
    assert_ok(pare_model_load(&m, rt, model, err));
    if (adapter) assert_ok(pare_model_add_lora(m, adapter, err));
    *vocab = pare_model_vocab_size(m);
    float *logits = pare_calloc(*vocab, sizeof *logits);
    assert_ok(pare_session_create(&s, m, &so, err));
    assert_ok(pare_session_eval(s, ids, n - 1, NULL, err)); /* many rows, then one */
    assert_ok(pare_session_eval(s, ids + n - 1, 1, logits, err));
    pare_session_free(s);
    pare_model_free(m);
    return logits;
}

static double distance(const float *a, const float *b, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    return worst;
}

/* "blk.0.attn_q.lora_a" -> PEFT's "base_model.model.X.lora_A.weight" */
static void peft_name(char out[400], const pare_train_weights *w, size_t i) {
    char hf[PARE_NAME_MAX];
    pare_name_print(hf, &w->model->lora->pairs[i / 2].name, PARE_NAMES_HF);
    *strrchr(hf, '.') = '\0';
    snprintf(out, 400, "base_model.model.%s.lora_%c.weight", hf, i % 2 ? 'B' : 'A');
}

static void merge(pare_runtime *rt, const char *model, const char *adapter, const char *out,
                  const char *recipe, bool keep_zeros) {
    pare_compress_report *report;
    const pare_compress_options o = {.model = model,
                                     .out = out,
                                     .recipe = recipe,
                                     .lora = adapter,
                                     .lora_keep_zeros = keep_zeros};
    test_remove(out);
    assert_ok(pare_compress(&report, rt, &o, err));
    pare_compress_report_free(report);
}

/* Measured: logits within 7e-6, merged models within 5e-6, gradients within 2e-6 of their norm. */
static void files_of_peft_compute_the_same(void **state) {
    (void)state;
    static const struct {
        const char *name;
        pare_lora_options o;
    } cases[] = {{"llama", {4, 8, PARE_LORA_ALL, false}},
                 {"gpt2", {3, 6, PARE_LORA_ALL, false}},
                 {"gemma2", {4, 4, PARE_LORA_QV, true}}};
    for (size_t k = 0; k < 3; k++) {
        fixture x;
        pare_runtime *rt = test_runtime(2, pare_isa_best());
        open_fixture(&x, cases[k].name);
        size_t vocab;
        float *logits = logits_of(rt, x.model, x.adapter, x.ids, N, &vocab);
        double off = 0;
        for (size_t i = 0; i < vocab; i++) {
            json_t *want = json_array_get(json_object_get(x.reference.root, "logits"), i);
            off = fmax(off, fabs(json_number_value(want) - (double)logits[i]));
        }
        if (!(off < 2e-5)) fail_msg("%s: logits are off by %g", cases[k].name, off);
        merge(rt, x.model, x.adapter, test_path("merged"), "", false);
        float *merged = logits_of(rt, test_path("merged"), NULL, x.ids, N, &vocab);
        double apart = distance(logits, merged, vocab);
        if (!(apart < 2e-5)) fail_msg("%s: merged, logits are off by %g", cases[k].name, apart);
        pare_free(logits);
        pare_free(merged);
        test_remove(test_path("merged"));

        pare_train_weights *w;
        pare_lora *given;
        assert_ok(pare_train_weights_open_lora(&w, rt, x.model, &cases[k].o, err));
        assert_ok(pare_lora_load(&given, w->model->source, x.adapter, err));
        assert_int_equal(given->n, w->model->lora->n);
        for (size_t i = 0; i < w->n; i++) {
            const pare_adapter *a = &given->pairs[i / 2].adapter;
            const pare_tensor *t = i % 2 ? &a->b : &a->a;
            memcpy(w->tensors[i].w, t->view.part[0], t->view.rows * t->view.cols * sizeof(float));
        }
        pare_lora_free(given);
        double worst = 0;
        for (int recompute = 0; recompute < 2; recompute++) {
            pare_step *s;
            const size_t lengths[1] = {N};
            pare_step_options o = {
                .n_tokens = N, .n_spans = 1, .compute = PARE_COMPUTE_EXACT, .recompute = recompute};
            assert_ok(pare_step_create(&s, w, &o, err));
            pare_batch b = {x.ids, x.ids + 1, lengths, N, 1};
            double nll, want;
            pare_train_weights_clear(w);
            assert_ok(pare_step_run(s, &b, true, 1.0f / N, &nll, err));
            assert_ok(pare_json_double(&x.reference, "loss", PARE_REQUIRED, 0, 1e9, &want, err));
            assert_float_equal(nll / N, want, 1e-5 * want);
            for (size_t i = 0; i < w->n; i++) {
                const pare_train_tensor *t = &w->tensors[i];
                char name[400];
                peft_name(name, w, i);
                json_t *entry =
                    json_object_get(json_object_get(x.reference.root, "gradients"), name);
                if (!entry) fail_msg("%s: PyTorch has no gradient", name);
                double norm = json_number_value(json_array_get(entry, 0)),
                       sum = json_number_value(json_array_get(entry, 1)), got = 0, squares = 0;
                for (size_t j = 0; j < t->rows * t->cols; j++) {
                    double g = (double)t->grad[j];
                    got += g * cos((double)j);
                    squares += g * g;
                }
                double far = fmax(fabs(sqrt(squares) - norm), fabs(got - sum)) / (norm + 1e-4);
                worst = fmax(worst, far);
                if (!(far < 1e-4)) fail_msg("%s: norm %g, expected %g", name, sqrt(squares), norm);
            }
            pare_step_free(s);
        }
        printf("  %-8s logits within %.1e, merged %.1e, gradients within %.1e\n", cases[k].name,
               off, apart, worst);
        pare_train_weights_free(w);
        pare_json_free(&x.reference);
        pare_runtime_free(rt);
    }
}

/* The tiny model in another encoding, as a folder or file. */
static const char *encoded(pare_runtime *rt, const char *recipe, const char *name) {
    pare_compress_report *report;
    const pare_compress_options o = {
        .model = toy.tokenizer, .out = test_path(name), .recipe = recipe};
    assert_ok(pare_compress(&report, rt, &o, err));
    pare_compress_report_free(report);
    return test_path(name);
}

static void trained_beside_every_encoding(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    static const char *const recipes[] = {"f32", "bf16", "q8_0", "q4_0", "q4_k_m", "int4_g32"};
    for (size_t k = 0; k < sizeof recipes / sizeof *recipes; k++) {
        char model[600], adapter[600], expected[65];
        snprintf(model, sizeof model, "%s", encoded(rt, recipes[k], "encoded"));
        pare_train_report r;
        pare_train_options o = toy_options_from(model);
        o.adapter = "lora:rank=4,alpha=8";
        o.optim = "adamw:lr=2e-2";
        o.steps = 16;
        toy_clean();
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        assert_string_equal(toy_warnings(), "");
        if (!(r.val_loss < r.first_val_loss - 0.3))
            fail_msg("%s: loss %g, %g before", recipes[k], r.val_loss, r.first_val_loss);
        snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
        /* the same bytes on more threads, and in two parts */
        toy_clean();
        o.stop_at = 7;
        assert_ok(toy_run(&r, &o, 3, NULL, err));
        o.stop_at = 0;
        o.resume = true;
        assert_ok(toy_run(&r, &o, 2, NULL, err));
        o.resume = false;
        assert_string_equal(test_hash(toy.out), expected);
        snprintf(adapter, sizeof adapter, "%s", toy_keep("adapter"));

        int32_t ids[40];
        for (int i = 0; i < 40; i++) ids[i] = 32 + i * 7 % 90;
        size_t vocab;
        float *base = logits_of(rt, model, NULL, ids, 40, &vocab),
              *beside = logits_of(rt, model, adapter, ids, 40, &vocab);
        merge(rt, model, adapter, test_path("merged"), "", false);
        float *merged = logits_of(rt, test_path("merged"), NULL, ids, 40, &vocab);
        merge(rt, model, adapter, test_path("merged.gguf"), "", false);
        float *gguf = logits_of(rt, test_path("merged.gguf"), NULL, ids, 40, &vocab);
        assert_true(distance(base, beside, vocab) > 0.1);
        double off = fmax(distance(beside, merged, vocab), distance(beside, gguf, vocab));
        if (!(off < 1e-4)) fail_msg("%s: merged, logits are off by %g", recipes[k], off);
        pare_free(base);
        pare_free(beside);
        pare_free(merged);
        pare_free(gguf);
        test_remove(model);
        test_remove(adapter);
    }
    pare_runtime_free(rt);
    toy_clean();
}

static size_t count_zeros(const char *folder, const char *name, size_t *n) {
    float *w = toy_tensor(folder, name, n);
    size_t zeros = 0;
    for (size_t i = 0; i < *n; i++) zeros += w[i] == 0.0f;
    pare_free(w);
    return zeros;
}

static void zeros_stay_on_demand(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    static const char name[] = "model.layers.0.mlp.up_proj.weight";
    char model[600];
    snprintf(model, sizeof model, "%s", encoded(rt, "magnitude:sparsity=0.5", "pruned"));
    pare_train_report r;
    pare_train_options o = toy_options_from(model);
    o.adapter = "lora:targets=ffn,rslora=true,rank=2";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    size_t n;
    merge(rt, model, toy.out, test_path("dense"), "", false);
    assert_true(count_zeros(test_path("dense"), name, &n) < 10);
    merge(rt, model, toy.out, test_path("sparse"), "", true);
    assert_int_equal(count_zeros(test_path("sparse"), name, &n), n / 2);
    /* stored in few bits at once */
    merge(rt, model, toy.out, test_path("small"), "bitmap_q8", true);
    assert_true(pare_path_exists(test_path("small")));
    pare_compress_report *report;
    const pare_compress_options both = {.model = model,
                                        .out = test_path("both"),
                                        .recipe = "magnitude:sparsity=0.6",
                                        .lora = toy.out};
    assert_fails(pare_compress(&report, rt, &both, err), PARE_ERR_UNSUPPORTED, "two runs");
    pare_runtime_free(rt);
    toy_clean();
}

static void averages_and_the_best(void **state) {
    (void)state;
    pare_train_report r;
    char expected[65];
    pare_train_options o = toy_options_from(toy.tokenizer);
    o.adapter = "lora:targets=attention";
    o.ema = 0.8;
    o.keep_best = true;
    o.recompute = true;
    o.distill = toy.tokenizer;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    o.stop_at = 5;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    o.stop_at = 0;
    assert_ok(toy_run(&r, &o, 2, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    toy_clean();
}

static void bad_options_are_told(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    toy_clean();
    o.adapter = "lora";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "new model");
    o = toy_options_from(toy.tokenizer);
    o.adapter = "lora:rank=8";
    o.sparsity = "rigl";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "found it with an adapter");
    o.sparsity = NULL;
    o.adapter = "lora:rank=65";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "at most the sides of");
    o.adapter = "lora:rank=0";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "rank");
    o.adapter = "dora";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "dora");
    o.adapter = "lora";
    o.stop_at = 3;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    o.stop_at = 0;
    o.adapter = "lora:alpha=4";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "adapter");
    toy_clean();
}

/* One field of an adapter's files bent at a time. */
static void bad_files_are_refused(void **state) {
    (void)state;
    fixture x;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    open_fixture(&x, "llama");
    pare_json_free(&x.reference);
    pare_source *source;
    assert_ok(pare_source_open(&source, x.model, err));
    static const struct {
        const char *key, *value; /* JSON */
        pare_status status;
        const char *told;
    } cases[] = {{"r", "5", PARE_ERR_INPUT, "expected [5, "},
                 {"r", "0", PARE_ERR_INPUT, "r: found 0"},
                 {"r", "null", PARE_ERR_INPUT, "adapter_config.json: r"},
                 {"lora_alpha", "\"x\"", PARE_ERR_INPUT, "lora_alpha"},
                 {"peft_type", "\"LOHA\"", PARE_ERR_UNSUPPORTED, "expected LORA"},
                 {"bias", "\"all\"", PARE_ERR_UNSUPPORTED, "bias"},
                 {"use_dora", "true", PARE_ERR_UNSUPPORTED, "use_dora"},
                 {"rank_pattern", "{\"q_proj\": 2}", PARE_ERR_UNSUPPORTED, "rank_pattern"},
                 {"modules_to_save", "[\"lm_head\"]", PARE_ERR_UNSUPPORTED, "modules_to_save"},
                 {"use_rslora", "1", PARE_ERR_INPUT, "use_rslora"}};
    char from[1300], to[1300], folder[600];
    snprintf(folder, sizeof folder, "%s", test_path("bent"));
    assert_ok(pare_folder_make(folder, err));
    snprintf(from, sizeof from, "%s/adapter_model.safetensors", x.adapter);
    snprintf(to, sizeof to, "%s/adapter_model.safetensors", folder);
    assert_ok(pare_file_copy(to, from, err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_json j;
        snprintf(from, sizeof from, "%s/adapter_config.json", x.adapter);
        snprintf(to, sizeof to, "%s/adapter_config.json", folder);
        assert_ok(pare_json_load(&j, from, PARE_JSON_CONFIG_MAX, 0, err));
        json_object_set_new(j.root, cases[i].key,
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        remove(to);
        assert_ok(pare_json_write(to, j.root, err));
        pare_json_free(&j);
        pare_lora *l;
        assert_fails(pare_lora_load(&l, source, folder, err), cases[i].status, cases[i].told);
    }
    pare_lora *l;
    assert_fails(pare_lora_load(&l, source, "/nowhere", err), PARE_ERR_INPUT, "nowhere");
    pare_source_close(source);
    /* beside another model */
    snprintf(from, sizeof from, "%s/../gpt2", x.model);
    assert_ok(pare_source_open(&source, from, err));
    assert_fails(pare_lora_load(&l, source, x.adapter, err), PARE_ERR_INPUT, "lora_A");
    pare_source_close(source);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, x.model, err));
    assert_ok(pare_model_add_lora(m, x.adapter, err));
    assert_fails(pare_model_add_lora(m, x.adapter, err), PARE_ERR_ARG, "second");
    pare_model_free(m);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files_of_peft_compute_the_same),
                                       cmocka_unit_test(trained_beside_every_encoding),
                                       cmocka_unit_test(zeros_stay_on_demand),
                                       cmocka_unit_test(averages_and_the_best),
                                       cmocka_unit_test(bad_options_are_told),
                                       cmocka_unit_test(bad_files_are_refused)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
