/* How inputs are quantized, in files of every kind: written, read, converted from one into the
 * others, what other programs see of it, what is refused. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/os.h"
#include "model/act.h"
#include "pare/compress.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 48, CTX = 64 };

static pare_runtime *rt;
static char model[1024], text[1024];

static const char *fresh(bool gguf) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "file-%d%s", n++, gguf ? ".gguf" : "");
    return test_path(name);
}

/* recipe NULL: converted. Nothing may be left behind then. */
static pare_status make(const char *from, const char *out, const char *recipe, const char *format,
                        pare_error *err) {
    pare_compress_report *r = NULL;
    const pare_compress_options o = {.model = from,
                                     .out = out,
                                     .recipe = recipe,
                                     .format = format,
                                     .calib = recipe ? text : NULL,
                                     .calib_samples = 4,
                                     .calib_ctx = CTX};
    pare_status st = pare_compress(&r, rt, &o, err);
    if (st == PARE_OK && !recipe) assert_int_equal(pare_compress_result(r)->n_fallbacks, 0);
    pare_compress_report_free(r);
    return st;
}

static pare_model *load(const char *path) {
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    return m;
}

/* The same schemes and grids at every site. */
static void same_sites(const char *what, const pare_model *a, const pare_model *b, bool grids) {
    assert_string_equal(pare_model_act(a), pare_model_act(b));
    for (size_t i = 0; i < a->act->n_layers * PARE_ACT_SITES; i++) {
        const pare_act_scheme *x = &a->act->schemes[i], *y = &b->act->schemes[i];
        const pare_act_grid *g = &a->act->sites[i].grid, *h = &b->act->sites[i].grid;
        if (x->bits != y->bits || (x->bits && !pare_act_same_scheme(x, y)))
            fail_msg("%s: site %zu has another scheme", what, i);
        if (grids && x->bits && x->granularity == PARE_ACT_PER_TENSOR_STATIC &&
            (g->s != h->s || g->low != h->low || g->high != h->high || g->shift != h->shift))
            fail_msg("%s: site %zu has another grid", what, i);
    }
}

/* Weights are the same numbers in all, so what is computed is the same up to the rounding of sums,
 * and to inputs that it moves across a half. */
static void same_results(const char *what, pare_model *a, pare_model *b) {
    for (int c = 0; c < 2; c++) {
        float x[TINY_VOCAB], y[TINY_VOCAB];
        tiny_logits(x, a, (pare_compute)c, N);
        tiny_logits(y, b, (pare_compute)c, N);
        const float off = tiny_off_by(x, y);
        if (!(off < 0.5f)) fail_msg("%s: compute %d: off by %g", what, c, (double)off);
    }
}

static const char *const specs[] = {
    "w8a8:act=per_token",
    "w8a8:act=per_tensor_dynamic,sym=true,formula=full",
    "w8a8:act=per_tensor_static",
    "w8a8:act=per_tensor_static,sym=true",
    "w8a8:act=per_tensor_static,formula=paper_eq4",
    "w8a8:act=per_tensor_static,sym=true,formula=paper_eq4",
    "w8a8:act=per_token,bmm=true",
    "w8a8:act=per_tensor_dynamic,formula=paper_eq4,bmm=true",
    "w8a8@attn:act=per_token + w8a8@ffn:act=per_tensor_static,formula=paper_eq4",
    "w8a8@attn:act=per_token,sym=true + w8a8@ffn:act=per_token,sym=true,formula=full",
};
enum { N_SPECS = sizeof specs / sizeof *specs };

static const char *const formats[] = {"int-quantized", "compressed-tensors", "gguf", "hf",
                                      "gptq-v2"};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static bool is_gguf(const char *format) { return strcmp(format, "gguf") == 0; }

static void in_every_format(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SPECS; i++) {
        pare_model *first = NULL, *in_memory = load(model);
        for (size_t k = 0; k < N_FORMATS; k++) {
            char out[1024];
            snprintf(out, sizeof out, "%s", fresh(is_gguf(formats[k])));
            assert_ok(make(model, out, specs[i], formats[k], err));
            pare_model *m = load(out);
            if (first) {
                same_sites(specs[i], m, first, true);
                same_results(specs[i], m, first);
                pare_model_free(m);
            } else {
                first = m;
            }
        }
        if (!strchr(specs[i], '@')) {
            const pare_act_options o = {
                .spec = specs[i], .calib = text, .calib_samples = 4, .calib_ctx = CTX};
            assert_ok(pare_model_quantize_act(in_memory, &o, err));
            /* the name of what was read says all of it: "a8:act=..." of "w8a8:act=..." */
            assert_string_equal(pare_model_act(first) + 1, specs[i] + 3);
            for (size_t s = 0; s < first->act->n_layers * PARE_ACT_SITES; s++) {
                const pare_act_scheme *x = &first->act->schemes[s],
                                      *y = &in_memory->act->schemes[s];
                assert_true(x->bits == y->bits && (!x->bits || pare_act_same_scheme(x, y)));
            }
            same_results(specs[i], first, in_memory);
        }
        pare_model_free(in_memory);
        pare_model_free(first);
    }
}

/* From one kind into the next and back: schemes and grids go along, to the bit. */
static void converted(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SPECS; i++) {
        static const char *const chain[] = {"gguf", "hf", "gguf", "compressed-tensors",
                                            "int-quantized"};
        char from[1024], out[1024];
        snprintf(from, sizeof from, "%s", fresh(false));
        assert_ok(make(model, from, specs[i], "int-quantized", err));
        pare_model *first = load(from);
        for (size_t k = 0; k < sizeof chain / sizeof *chain; k++) {
            snprintf(out, sizeof out, "%s", fresh(is_gguf(chain[k])));
            assert_ok(make(from, out, NULL, chain[k], err));
            pare_model *m = load(out);
            same_sites(specs[i], m, first, true);
            same_results(specs[i], m, first);
            pare_model_free(m);
            snprintf(from, sizeof from, "%s", out);
        }
        /* a recipe that changes weights and says nothing of inputs leaves the scheme behind */
        snprintf(out, sizeof out, "%s", fresh(true));
        assert_ok(make(from, out, "bf16", "gguf", err));
        pare_model *m = load(out);
        assert_string_equal(pare_model_act(m), "");
        pare_model_free(m);
        pare_model_free(first);
    }
}

/* --- what other programs see --- */

static json_t *quantization_of(const char *recipe, const char *format) {
    char out[1024], path[1100];
    snprintf(out, sizeof out, "%s", fresh(false));
    assert_ok(make(model, out, recipe, format, err));
    snprintf(path, sizeof path, "%s/config.json", out);
    json_t *config = json_load_file(path, 0, NULL),
           *q = json_object_get(config, "quantization_config");
    assert_non_null(q);
    json_incref(q);
    json_decref(config);
    return q;
}

static const json_t *inputs_of(const json_t *q, const char *group) {
    return json_object_get(json_object_get(json_object_get(q, "config_groups"), group),
                           "input_activations");
}

static void seen_by_others(void **state) {
    (void)state;
    /* all of it: no key of pare's is needed */
    json_t *q = quantization_of("w8a8:act=per_token", "int-quantized");
    assert_null(json_object_get(q, "pare_act"));
    json_decref(q);
    /* the inputs, and beside them what attention multiplies, of q, k and v alone */
    q = quantization_of("w8a8:act=per_token,bmm=true", "int-quantized");
    assert_string_equal(json_string_value(json_object_get(inputs_of(q, "group_0"), "strategy")),
                        "token");
    const json_t *table = json_object_get(q, "pare_act");
    assert_int_equal(json_integer_value(json_object_get(table, "version")), 1);
    assert_int_equal(json_object_size(json_object_get(table, "inputs")), 3 * TINY_LAYERS);
    json_decref(q);
    /* none: inputs in others' own precision */
    q = quantization_of("w8a8:act=per_token,formula=paper_eq4", "int-quantized");
    assert_true(json_is_null(inputs_of(q, "group_0")));
    assert_int_equal(json_object_size(json_object_get(json_object_get(q, "pare_act"), "inputs")),
                     7 * TINY_LAYERS);
    json_decref(q);
}

/* --- in config.json at two places --- */

static void two_tables(void **state) {
    (void)state;
    static const char place[] = "quantization_config";
    char out[1024], path[1100];
    snprintf(out, sizeof out, "%s", fresh(false));
    assert_ok(make(model, out, "w8a8:act=per_token,formula=paper_eq4", "int-quantized", err));
    snprintf(path, sizeof path, "%s/config.json", out);
    for (int differs = 0; differs < 2; differs++) {
        json_t *config = json_load_file(path, 0, NULL),
               *own = json_object_get(json_object_get(config, place), "pare_act"),
               *copy = json_deep_copy(own);
        if (differs) json_object_del(json_object_get(copy, "inputs"), "blk.0.attn_q.weight");
        json_object_set_new(config, "pare_act", copy);
        assert_int_equal(json_dump_file(config, path, 0), 0);
        json_decref(config);
        pare_model *m;
        if (differs) {
            assert_fails(pare_model_load(&m, rt, out, err), PARE_ERR_INPUT,
                         "found one pare_act in quantization_config and another beside it");
        } else {
            m = load(out);
            assert_string_equal(pare_model_act(m), "a8:act=per_token,formula=paper_eq4");
            pare_model_free(m);
        }
    }
}

/* --- refused --- */

static void refused(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *from, *to, *says;
        pare_status status;
    } cases[] = {
        {"w8a8:per_token", "per_token", "per_tokem", "granularity: found \"per_tokem\"",
         PARE_ERR_UNSUPPORTED},
        {"w8a8:per_token", "\"default\"", "\"defaulx\"", "formula: found \"defaulx\"",
         PARE_ERR_UNSUPPORTED},
        {"w8a8:per_token", "\"bits\":8", "\"bits\":5", "bits: found 5, expected 4, 6 or 8",
         PARE_ERR_UNSUPPORTED},
        {"w8a8:per_token", "\"bits\":8", "\"bitz\":8", "bits", PARE_ERR_INPUT},
        {"w8a8:per_token", "\"version\":1", "\"version\":2", "version: found 2, expected 1",
         PARE_ERR_UNSUPPORTED},
        {"w8a8:per_token", "\"inputs\"", "\"imputs\"", "inputs: found no object", PARE_ERR_INPUT},
        {"w8a8:per_token", "blk.1.attn_v.weight\":", "blk.7.attn_v.weight\":",
         "found no such matrix", PARE_ERR_INPUT},
        {"w8a8:per_token", "\"symmetric\":false", "\"symmetric\":12345", "symmetric",
         PARE_ERR_INPUT},
        {"w8a8:per_token", "{\"version\"", "[\"version\"", "pare.act.inputs", PARE_ERR_INPUT},
        {"w8a8:per_token,bmm=true", "\"bmm\":true", "\"bmn\":true", "bmm of some of q, k and v",
         PARE_ERR_INPUT},
        {"w8a8:per_tensor_static", "\"scale\":", "\"skale\":", "scale", PARE_ERR_INPUT},
        {"w8a8:per_tensor_static", "\"scale\":0", "\"scale\":-", "pare.act.inputs", PARE_ERR_INPUT},
        {"w8a8:per_tensor_static", "\"zero\":1", "\"zero\":.", "pare.act.inputs", PARE_ERR_INPUT},
        {"w8a8:per_tensor_static", "\"zero\":1", "\"zero\":9", "expected a code", PARE_ERR_INPUT},
        {"w8a8:per_tensor_static", "\"symmetric\":false", "\"symmetric\":true ",
         "expected 0 of a symmetric grid", PARE_ERR_INPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[1024];
        pare_model *m;
        pare_error e = {0};
        snprintf(out, sizeof out, "%s", fresh(true));
        assert_ok(make(model, out, cases[i].recipe, "gguf", err));
        assert_int_equal(strlen(cases[i].from), strlen(cases[i].to));
        test_edit_file(out, cases[i].from, cases[i].to, strlen(cases[i].to));
        pare_status st = pare_model_load(&m, rt, out, &e);
        if (st != cases[i].status || !strstr(e.message, cases[i].says))
            fail_msg("%s: found %s \"%s\", expected \"%s\"", cases[i].to, pare_status_name(st),
                     e.message, cases[i].says);
    }
    /* bmm by a recipe: all of q, k and v, and no ranges of them */
    assert_fails(make(model, fresh(true), "w8a8@/attn_q/:act=per_token,bmm=true", "gguf", err),
                 PARE_ERR_ARG, "and not for blk.0.attn_k.weight");
    assert_fails(make(model, fresh(true), "w8a8:act=per_tensor_static,bmm=true", "gguf", err),
                 PARE_ERR_UNSUPPORTED, "bmm=true with static grids");
}

int main(void) {
    rt = test_runtime(2, pare_isa_best());
    static char words[6000];
    for (size_t i = 0; i < sizeof words; i++) words[i] = (char)('a' + i * i % 23);
    snprintf(model, sizeof model, "%s", tiny_model("act", NULL));
    snprintf(text, sizeof text, "%s", test_write("calib.txt", words, sizeof words));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_every_format), cmocka_unit_test(converted),
        cmocka_unit_test(seen_by_others), cmocka_unit_test(two_tables), cmocka_unit_test(refused)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
