/* Recipes with steps that quantize inputs: what the output says, that it runs by itself as the same
 * scheme does in memory, other quantizers before it, what is refused, damaged grids. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/os.h"
#include "methods/method.h"
#include "model/act.h"
#include "model/prefix.h"
#include "pare/compress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 48, CTX = 64 };

static pare_runtime *rt;
static char model[1024], text[1024];

static const char *fresh(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "act-%d", n++);
    return test_path(name);
}

static pare_status compress(const char *out, const char *recipe, const char *format,
                            const char *calib, pare_error *err) {
    pare_compress_report *r = NULL;
    pare_compress_options o = {.model = model,
                               .out = out,
                               .recipe = recipe,
                               .format = format,
                               .calib = calib,
                               .calib_samples = 4,
                               .calib_ctx = CTX};
    pare_status st = pare_compress(&r, rt, &o, err);
    pare_compress_report_free(r);
    return st;
}

static pare_model *load(const char *path) {
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    return m;
}

static pare_model *made(const char *recipe) {
    char out[1024];
    snprintf(out, sizeof out, "%s", fresh());
    assert_ok(compress(out, recipe, NULL, text, err));
    return load(out);
}

/* An output computes what the scheme does in memory: bit by bit where grids do not come from
 * calibration, whose blocks have their weights before in one case and after in the other: then
 * codes fall on other sides of halves (found at most 0.24, with 6 bits). */
static void as_in_memory(void **state) {
    (void)state;
    static const char *const specs[] = {"w8a8:act=per_token",
                                        "w8a8:act=per_tensor_dynamic",
                                        "w8a8:act=per_token,sym=true,group=32",
                                        "w8a8:act=per_token,sym=true,formula=full",
                                        "w4a4:act=per_token",
                                        "w6a6:act=per_tensor_static",
                                        "w8a8:act=per_tensor_static",
                                        "w8a8:act=per_tensor_static,sym=true"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        pare_model *a = made(specs[i]), *b = load(model);
        pare_act_options o = {
            .spec = specs[i], .calib = text, .calib_samples = 4, .calib_ctx = CTX};
        assert_ok(pare_model_quantize_act(b, &o, err));
        const pare_act_scheme *x = a->act->schemes, *y = b->act->schemes;
        bool is_static = strstr(specs[i], "static") != NULL;
        assert_true(x->granularity == y->granularity && x->bits == y->bits &&
                    x->symmetric == y->symmetric);
        if (!is_static) assert_true(x->formula == y->formula);
        for (int c = 0; c < 2; c++) {
            float p[TINY_VOCAB], q[TINY_VOCAB];
            tiny_logits(p, a, (pare_compute)c, N);
            tiny_logits(q, b, (pare_compute)c, N);
            float off = tiny_off_by(p, q);
            if (!(off <= (is_static ? 0.5f : 0.0f)))
                fail_msg("%s, compute %d: off by %g", specs[i], c, (double)off);
        }
        for (size_t k = 0; is_static && k < PARE_ACT_INPUTS; k++) {
            const pare_act_grid *g = &a->act->sites[k].grid, *h = &b->act->sites[k].grid;
            assert_true(fabsf(g->s / h->s - 1) < 0.1f && fabsf(g->low - h->low) <= 8);
            if (k == 0) assert_true(g->s == h->s && g->low == h->low && g->high == h->high);
        }
        pare_model_free(a);
        pare_model_free(b);
    }
}

/* The largest |value| of the static grid of q, k and v of layer 0. */
static float reach(const pare_model *m) {
    const pare_act_grid *g = &m->act->sites[PARE_ACT_QKV].grid;
    return g->s * g->high;
}

/* The same weights, inputs quantized as `like` has them at the sites that `wanted` names. */
static pare_model *with_sites(const char *folder, const pare_model *like,
                              bool (*wanted)(size_t layer, size_t site)) {
    pare_model *m = load(folder);
    pare_act_sites *a;
    assert_ok(pare_model_quantize_act(m, &(pare_act_options){.spec = "none"}, err));
    assert_ok(pare_act_sites_create(&a, m, NULL, err));
    for (size_t i = 0; i < a->n_layers * PARE_ACT_SITES; i++) {
        if (!wanted(i / PARE_ACT_SITES, i % PARE_ACT_SITES)) continue;
        a->schemes[i] = like->act->schemes[i];
        a->sites[i].grid = like->act->sites[i].grid;
    }
    pare_model_attach_act(m, a);
    return m;
}

static bool down_of_1(size_t layer, size_t site) { return layer == 1 && site == PARE_ACT_DOWN; }
static bool all_inputs(size_t layer, size_t site) {
    (void)layer;
    return site < PARE_ACT_INPUTS;
}
static bool feed_forward(size_t layer, size_t site) {
    (void)layer;
    return site == PARE_ACT_FFN || site == PARE_ACT_DOWN;
}

/* A scheme of some matrices is theirs alone, and each has its own. */
static void of_some_matrices(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *says;
        bool (*wanted)(size_t layer, size_t site);
    } cases[] = {
        {"w8a8@/blk[.]1[.]ffn_down/:act=per_token,act_bits=4", "a4:act=per_token", down_of_1},
        {"w8a8@ffn:act=per_tensor_static", "a8:act=per_tensor_static", feed_forward},
        {"w8a8@attn:act=per_token + w8a8@ffn:act=per_tensor_static",
         "a8:act=per_token + a8:act=per_tensor_static", all_inputs},
        {"rtn@attn:bits=8,group=0,grid=sym_absmax + w8a8@ffn:act=per_tensor_dynamic",
         "a8:act=per_tensor_dynamic", feed_forward},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[1024];
        snprintf(out, sizeof out, "%s", fresh());
        assert_ok(compress(out, cases[i].recipe, NULL, text, err));
        pare_model *m = load(out), *by_hand = with_sites(out, m, cases[i].wanted);
        assert_string_equal(pare_model_act(m), cases[i].says);
        for (size_t k = 0; k < m->act->n_layers * PARE_ACT_SITES; k++)
            assert_true((m->act->schemes[k].bits > 0) ==
                        cases[i].wanted(k / PARE_ACT_SITES, k % PARE_ACT_SITES));
        for (int c = 0; c < 2; c++) {
            float p[TINY_VOCAB], q[TINY_VOCAB];
            tiny_logits(p, m, (pare_compute)c, N);
            tiny_logits(q, by_hand, (pare_compute)c, N);
            assert_memory_equal(p, q, sizeof p);
        }
        pare_model_free(m);
        pare_model_free(by_hand);
    }
}

/* `from` in a small text file becomes `to`. */
static void edit(const char *folder, const char *name, const char *from, const char *to) {
    char path[1100];
    static char before[1 << 16];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(before, 1, sizeof before - 1, f);
    before[n] = '\0';
    fclose(f);
    const char *at = strstr(before, from);
    assert_non_null(at);
    f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "%.*s%s%s", (int)(at - before), before, to, at + strlen(from));
    fclose(f);
}

/* Groups name modules, give expressions for them, or their class. Of matrices that share an input
 * one may be left as it is. */
static void by_targets(void **state) {
    (void)state;
    char out[1024];
    snprintf(out, sizeof out, "%s", fresh());
    assert_ok(compress(out, "w8a8:act=per_token,act_bits=4", NULL, text, err));
    pare_model *all = load(out);
    edit(out, "config.json", "\"Linear\"",
         "\"re:.*self_attn[.][qv]_proj$\", \"model.layers.1.mlp.up_proj\", \"re:q_proj\"");
    pare_model *some = load(out);
    for (size_t l = 0; l < some->act->n_layers; l++) {
        const pare_layer *layer = &some->weights.layers[l];
        assert_true(layer->attn_q.act && layer->attn_v.act && !layer->attn_k.act);
        assert_true(!layer->attn_output.act && !layer->ffn_gate.act && !layer->ffn_down.act);
        assert_true((layer->ffn_up.act != NULL) == (l == 1));
    }
    float p[TINY_VOCAB], q[TINY_VOCAB], r[TINY_VOCAB];
    tiny_logits(p, all, PARE_COMPUTE_EXACT, N);
    tiny_logits(q, some, PARE_COMPUTE_EXACT, N);
    assert_ok(pare_model_quantize_act(some, &(pare_act_options){.spec = "none"}, err));
    tiny_logits(r, some, PARE_COMPUTE_EXACT, N);
    assert_true(tiny_off_by(q, r) > 0 && tiny_off_by(q, r) < tiny_off_by(p, r));
    pare_model_free(all);
    pare_model_free(some);
}

static void after_others(void **state) {
    (void)state;
    pare_model *plain = made("gptq:bits=4,group=32"),
               *both = made("gptq:bits=4,group=32 + w8a8:per_token");
    const pare_tensor *a = &plain->weights.layers[1].ffn_up.w,
                      *b = &both->weights.layers[1].ffn_up.w;
    assert_ptr_equal(a->enc, b->enc);
    assert_memory_equal(a->view.part[0], b->view.part[0], a->part_bytes[0]);
    assert_string_equal(pare_model_act(plain), "");
    assert_string_equal(pare_model_act(both), "a8:act=per_token");
    float p[TINY_VOCAB], q[TINY_VOCAB];
    assert_ok(pare_model_quantize_act(both, &(pare_act_options){.spec = "none"}, err));
    assert_string_equal(pare_model_act(both), "");
    tiny_logits(p, plain, PARE_COMPUTE_EXACT, N);
    tiny_logits(q, both, PARE_COMPUTE_EXACT, N);
    assert_memory_equal(p, q, sizeof p);
    pare_model_free(plain);
    pare_model_free(both);
    /* inputs that smoothquant divided have other ranges, and what is computed stays near */
    pare_model *rough = made("w8a8:per_tensor_static,sym=true"),
               *smooth = made("smoothquant:alpha=0.5 + w8a8:per_tensor_static,sym=true");
    float x[TINY_VOCAB], y[TINY_VOCAB];
    assert_true(fabsf(reach(smooth) / reach(rough) - 1) > 0.01f);
    tiny_logits(x, rough, PARE_COMPUTE_EXACT, N);
    tiny_logits(y, smooth, PARE_COMPUTE_EXACT, N);
    assert_true(tiny_off_by(x, y) < 0.3f);
    pare_model_free(rough);
    pare_model_free(smooth);
}

static void refused(void **state) {
    (void)state;
    const struct {
        const char *recipe, *format, *calib, *says;
        pare_status status;
    } cases[] = {
        {"w8a8 + w6a6", NULL, text, "already", PARE_ERR_ARG},
        {"w8a8@/attn_q/:act=per_token + w8a8@/attn_k/:act=per_tensor_dynamic", NULL, text,
         "blk.0.attn_k.weight than for that of blk.0.attn_q.weight", PARE_ERR_ARG},
        {"w4a4", "int-quantized", text, "found 4 bits", PARE_ERR_UNSUPPORTED},
        {"w8a8:per_tensor_static", NULL, NULL, "calib", PARE_ERR_ARG},
        {"w8a8@embd", NULL, text, "matrices of blocks", PARE_ERR_ARG},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_error e = {0};
        pare_status st = compress(fresh(), cases[i].recipe, cases[i].format, cases[i].calib, &e);
        if (st != cases[i].status || !strstr(e.message, cases[i].says))
            fail_msg("%s: found %s \"%s\", expected \"%s\"", cases[i].recipe, pare_status_name(st),
                     e.message, cases[i].says);
    }
}

/* What calibration never saw, or as 0 only, gets no static grid (N13): for every method that has
 * such grids. A grid of each token needs no range, and no more does a matrix that has none. */
static void never_seen(void **state) {
    (void)state;
    static const char *const dynamic[] = {"%s:act=per_token", "%s:act=per_tensor_dynamic",
                                          "%s@ffn:act=per_tensor_static"};
    char silent[1024], recipe[100];
    snprintf(silent, sizeof silent, "%s",
             tiny_model("silent", &(tiny_options){.no_values = TINY_LAYERS}));
    char *before = strdup(model);
    size_t n = 0;
    for (size_t i = 0; pare_step_method_at(i); i++) {
        const pare_method *m = pare_step_method_at(i);
        if (!m->act) continue;
        n++;
        snprintf(model, sizeof model, "%s", silent);
        snprintf(recipe, sizeof recipe, "%s:act=per_tensor_static", m->name);
        char out[1024];
        snprintf(out, sizeof out, "%s", fresh());
        assert_fails(
            compress(out, recipe, NULL, text, err), PARE_ERR_INPUT,
            "blk.0.attn_output.weight: found inputs of 0 or next to it only, expected a text");
        assert_false(pare_path_exists(out));
        pare_model *in_memory = load(silent);
        pare_act_options o = {.spec = recipe, .calib = text, .calib_samples = 2, .calib_ctx = CTX};
        assert_fails(pare_model_quantize_act(in_memory, &o, err), PARE_ERR_INPUT,
                     "block 0, the input of attn_output: found values of 0 or next to it only");
        pare_model_free(in_memory);
        for (size_t k = 0; k < sizeof dynamic / sizeof *dynamic; k++) {
            snprintf(recipe, sizeof recipe, dynamic[k], m->name);
            assert_ok(compress(fresh(), recipe, NULL, text, err));
        }
    }
    assert_true(n >= 3);
    snprintf(model, sizeof model, "%s", before);
    free(before);
}

/* A recipe without such a step leaves the scheme of its input behind, which is told. */
static void left_behind(void **state) {
    (void)state;
    char source[1024], out[1024];
    snprintf(source, sizeof source, "%s", fresh());
    snprintf(out, sizeof out, "%s", fresh());
    assert_ok(compress(source, "w8a8:per_token", NULL, NULL, err));
    pare_compress_report *r = NULL;
    pare_compress_options o = {.model = source, .out = out, .recipe = "bf16"};
    assert_ok(pare_compress(&r, rt, &o, err));
    const pare_compress_info *info = pare_compress_result(r);
    bool told = false;
    for (size_t i = 0; i < info->n_fallbacks; i++)
        told |= strstr(info->fallbacks[i], "quantizes the inputs") != NULL;
    assert_true(told);
    pare_compress_report_free(r);
    pare_model *m = load(out);
    assert_string_equal(pare_model_act(m), "");
    pare_model_free(m);
}

/* A prefix is made of values as they are: static grids know nothing of what stands before a text.
 */
static void prefixes(void **state) {
    (void)state;
    const int32_t ids[] = {7, 200, 31};
    char out[1024];
    snprintf(out, sizeof out, "%s", fresh());
    assert_ok(compress(out, "w8a8:per_tensor_static", NULL, text, err));
    pare_model *quantized = load(out), *plain = load(out);
    pare_prefix *a, *b;
    assert_ok(pare_model_quantize_act(plain, &(pare_act_options){.spec = "none"}, err));
    assert_ok(pare_prefix_from_ids(&a, quantized, ids, 3, err));
    assert_ok(pare_prefix_from_ids(&b, plain, ids, 3, err));
    assert_memory_equal(a->values, b->values, a->bytes);
    float x[TINY_VOCAB], y[TINY_VOCAB]; /* and the text is quantized again */
    tiny_logits(x, quantized, PARE_COMPUTE_EXACT, N);
    tiny_logits(y, plain, PARE_COMPUTE_EXACT, N);
    assert_true(tiny_off_by(x, y) > 0);
    pare_prefix_free(a);
    pare_prefix_free(b);
    pare_model_free(quantized);
    pare_model_free(plain);
}

/* A scale in the file becomes what is given; the file is small, and the scale found by its value.
 */
static void damage(const char *folder, float from, float to) {
    char path[1100];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    static uint8_t all[4 << 20];
    size_t n = fread(all, 1, sizeof all, f), at = 0;
    for (size_t i = 0; i + 4 <= n; i++)
        if (memcmp(all + i, &from, 4) == 0) at = i;
    assert_true(at > 0);
    fseek(f, (long)at, SEEK_SET);
    fwrite(&to, 4, 1, f);
    fclose(f);
}

static void damaged(void **state) {
    (void)state;
    char out[1024];
    snprintf(out, sizeof out, "%s", fresh());
    assert_ok(compress(out, "w8a8:per_tensor_static", NULL, text, err));
    pare_model *m = load(out);
    float s = m->act->sites[PARE_ACT_DOWN].grid.s, next = s;
    pare_model_free(m);
    const float bad[] = {NAN, INFINITY, 0.0f, -1.0f};
    for (int i = 0; i < 4; i++) {
        damage(out, next, bad[i]);
        next = bad[i];
        assert_fails(pare_model_load(&m, rt, out, err), PARE_ERR_INPUT, "above 0");
    }
}

int main(void) {
    rt = test_runtime(2, pare_isa_best());
    static char words[6000];
    for (size_t i = 0; i < sizeof words; i++) words[i] = (char)('a' + i * i % 23);
    snprintf(model, sizeof model, "%s", tiny_model("act", NULL));
    snprintf(text, sizeof text, "%s", test_write("calib.txt", words, sizeof words));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_in_memory), cmocka_unit_test(of_some_matrices),
        cmocka_unit_test(by_targets),   cmocka_unit_test(after_others),
        cmocka_unit_test(refused),      cmocka_unit_test(never_seen),
        cmocka_unit_test(left_behind),  cmocka_unit_test(prefixes),
        cmocka_unit_test(damaged)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
