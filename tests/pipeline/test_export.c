/* Formats of other programs: whole models written, read back, converted, run; what a format cannot
 * hold; files that are not what they should be. */
#include "support/model_files.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "model/source.h"
#include "pare/compress.h"
#include "pare/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pare_status convert(const char *model, const char *out, const char *recipe,
                           const char *format, pare_compress_report **report, pare_error *err) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_options o = {.model = model, .out = out, .recipe = recipe, .format = format};
    pare_status st = pare_compress(report, rt, &o, err);
    pare_runtime_free(rt);
    return st;
}

static pare_compress_report *must(const char *model, const char *out, const char *recipe,
                                  const char *format) {
    pare_compress_report *r = NULL;
    pare_error err = {0};
    if (convert(model, out, recipe, format, &r, &err) != PARE_OK)
        fail_msg("%s as %s: %s", recipe, format, err.message);
    return r;
}

static void make(const char *model, const char *out, const char *recipe, const char *format) {
    pare_compress_report_free(must(model, out, recipe, format));
}

/* A name that no other test uses. */
static const char *fresh(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "out-%d", n++);
    return test_path(name);
}

static const char *tiny(void) {
    static char path[1024];
    if (!path[0]) snprintf(path, sizeof path, "%s", tiny_model("tiny", NULL));
    return path;
}

/* All weights have the same values in both models. */
static void same_values(const char *a, const char *b) {
    pare_source *x, *y;
    assert_ok(pare_source_open(&x, a, err));
    assert_ok(pare_source_open(&y, b, err));
    for (size_t i = 0; i < pare_source_n_tensors(x); i++) {
        const pare_source_tensor *t = pare_source_tensor_at(x, i), *u;
        if (!t->canonical) continue;
        assert_non_null(u = pare_source_find(y, t->canonical));
        pare_tensor p, q;
        assert_ok(pare_source_read(x, t, true, &p, err));
        assert_ok(pare_source_read(y, u, true, &q, err));
        size_t cols = p.view.cols;
        float *v = malloc(cols * sizeof *v), *w = malloc(cols * sizeof *w);
        for (size_t r = 0; r < p.view.rows; r++) {
            p.enc->decode(v, &p.view, r, 0, cols);
            q.enc->decode(w, &q.view, r, 0, cols);
            for (size_t c = 0; c < cols; c++)
                if (v[c] != w[c])
                    fail_msg("%s: [%zu, %zu] is %g in %s (%s), %g in %s (%s)", t->canonical, r, c,
                             (double)v[c], a, p.enc->name, (double)w[c], b, q.enc->name);
        }
        free(v);
        free(w);
        pare_tensor_free(&p);
        pare_tensor_free(&q);
    }
    pare_source_close(x);
    pare_source_close(y);
}

static void encoding_is(const char *model, const char *canonical, const char *encoding) {
    pare_source *s;
    assert_ok(pare_source_open(&s, model, err));
    assert_string_equal(pare_source_find(s, canonical)->enc->name, encoding);
    pare_source_close(s);
}

static void logits(const char *path, float out[TINY_VOCAB]) {
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_model *m;
    pare_session *s;
    int32_t ids[24];
    for (int i = 0; i < 24; i++) ids[i] = (i * 37 + 11) % 200;
    assert_ok(pare_model_load(&m, rt, path, err));
    pare_session_options o = {.n_ctx = 32, .compute = PARE_COMPUTE_EXACT};
    assert_ok(pare_session_create(&s, m, &o, err));
    assert_ok(pare_session_eval(s, ids, 24, out, err));
    pare_session_free(s);
    pare_model_free(m);
    pare_runtime_free(rt);
}

/* ---- every format; groups of 64 do not divide rows of 96 and are stored as groups of 32 ---- */

static const struct {
    const char *recipe, *format, *read_as, *in_gguf;
} cases[] = {
    {"rtn:bits=4,group=32", "compressed-tensors", "int4_g32", "q4_0"},
    {"rtn:bits=4,group=64,grid=gptq_asym", "compressed-tensors", "uint4_g32", "q5_0"},
    {"rtn:bits=3,group=0", "compressed-tensors", "int3_row", "q4_0"},
    {"rtn:bits=8,group=32", "compressed-tensors", "int8_g32", "q8_0"},
    {"rtn:bits=6,group=64,grid=gptq_asym", "compressed-tensors", "uint6_g32", "q8_0"},
    {"rtn:bits=8,group=0", "int-quantized", "int8_row", "q8_0"},
    {"rtn:bits=8,group=32", "int-quantized", "int8_g32", "q8_0"},
    {"rtn:bits=4,group=32", "gptq", "int4_g32", "q4_0"},
    {"rtn:bits=3,group=32", "gptq", "int3_g32", "q4_0"},
    {"rtn:bits=2,group=32,grid=gptq_asym", "gptq-v2", "uint2_g32", "q4_0"},
    {"rtn:bits=8,group=0", "gptq-v2", "int8_row", "q8_0"},
    {"rtn:bits=4,group=32", "awq", "uint4_g32", "q5_0"},
    {"rtn:bits=4,group=64,grid=gptq_asym", "awq", "uint4_g32", "q5_0"},
};

static void every_format(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char own[1024], packed[1024], back[1024], gguf[1024];
        snprintf(own, sizeof own, "%s", fresh());
        snprintf(packed, sizeof packed, "%s", fresh());
        snprintf(back, sizeof back, "%s", fresh());
        snprintf(gguf, sizeof gguf, "%s.gguf", fresh());
        make(tiny(), own, cases[i].recipe, "hf");
        make(tiny(), packed, cases[i].recipe, cases[i].format);
        same_values(own, packed);
        encoding_is(packed, "blk.1.ffn_up.weight", cases[i].read_as);
        /* what is packed is an input like any */
        pare_compress_report *r = must(packed, back, "", "hf");
        assert_true(pare_compress_result(r)->lossless);
        pare_compress_report_free(r);
        same_values(own, back);
        r = must(packed, gguf, "", "gguf");
        assert_true(pare_compress_result(r)->lossless);
        pare_compress_report_free(r);
        same_values(own, gguf);
        encoding_is(gguf, "blk.1.attn_q.weight", cases[i].in_gguf);
        float a[TINY_VOCAB], b[TINY_VOCAB];
        logits(own, a);
        logits(packed, b);
        /* int-quantized asks for inputs in 8 bits, too (found at most 0.03) */
        float most = strcmp(cases[i].format, "int-quantized") == 0 ? 0.1f : 2e-5f, off = 0;
        for (int k = 0; k < TINY_VOCAB; k++) off = fmaxf(off, fabsf(a[k] - b[k]));
        if (!(off < most)) fail_msg("%s: logits are off by %g", cases[i].format, (double)off);
    }
}

/* From one format into each other, without a change of value. */
static void between_formats(void **state) {
    (void)state;
    static const char *const chain[] = {"gptq-v2", "awq", "compressed-tensors", "gptq-v2", "hf"};
    char from[1024], to[1024], first[1024];
    snprintf(first, sizeof first, "%s", fresh());
    make(tiny(), first, "rtn:bits=4,group=32,grid=gptq_asym", "awq");
    snprintf(from, sizeof from, "%s", first);
    for (size_t i = 0; i < sizeof chain / sizeof chain[0]; i++) {
        snprintf(to, sizeof to, "%s", fresh());
        make(from, to, "", chain[i]);
        same_values(first, to);
        memcpy(from, to, sizeof from);
    }
    /* blocks of a GGUF file are grouped integers too */
    snprintf(from, sizeof from, "%s.gguf", fresh());
    snprintf(to, sizeof to, "%s", fresh());
    make(tiny(), from, "rtn:bits=4,group=32", "gguf");
    make(from, to, "", "gptq");
    same_values(from, to);
    encoding_is(to, "blk.0.attn_q.weight", "int4_g32");
    encoding_is(from, "blk.0.attn_q.weight", "q4_0");
}

static pare_json config_of(const char *folder) {
    char path[1200];
    pare_json j;
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    return j;
}

static const char *text_at(const pare_json *j, const char *path) {
    const char *s = "";
    assert_ok(pare_json_str(j, path, PARE_REQUIRED, &s, err));
    return s;
}

static int64_t number_at(const pare_json *j, const char *path) {
    int64_t v = 0;
    assert_ok(pare_json_int(j, path, PARE_REQUIRED, -1, 1000, &v, err));
    return v;
}

static void configurations(void **state) {
    (void)state;
    const char *out = fresh();
    make(tiny(), out, "rtn@ffn:bits=4,group=128 + rtn@attn:bits=8,group=64", "compressed-tensors");
    pare_json j = config_of(out);
    assert_string_equal(text_at(&j, "quantization_config.format"), "pack-quantized");
    assert_int_equal(json_object_size(pare_json_get(&j, "quantization_config.config_groups")), 2);
    assert_string_equal(text_at(&j, "quantization_config.config_groups.group_1.targets.0"),
                        "model.layers.0.mlp.gate_proj");
    /* rows of 64 and 96: one length for both */
    assert_int_equal(number_at(&j, "quantization_config.config_groups.group_1.weights.group_size"),
                     32);
    pare_json_free(&j);

    out = fresh();
    make(tiny(), out, "rtn@ffn:bits=4,group=32", "compressed-tensors");
    j = config_of(out);
    assert_string_equal(text_at(&j, "quantization_config.config_groups.group_0.targets.0"),
                        "Linear");
    assert_string_equal(text_at(&j, "quantization_config.ignore.0"), "lm_head");
    assert_int_equal(json_array_size(pare_json_get(&j, "quantization_config.ignore")),
                     1 + 4 * TINY_LAYERS);
    pare_json_free(&j);

    out = fresh();
    make(tiny(), out, "rtn@/ffn_up/:bits=8,group=0 + rtn@attn:bits=4,group=32", "gptq");
    j = config_of(out);
    assert_int_equal(number_at(&j, "quantization_config.bits"), 4);
    const json_t *dynamic = pare_json_get(&j, "quantization_config.dynamic");
    const json_t *up = json_object_get(dynamic, "+:^model\\.layers\\.0\\.mlp\\.up_proj$");
    assert_int_equal(json_integer_value(json_object_get(up, "bits")), 8);
    assert_int_equal(json_integer_value(json_object_get(up, "group_size")), -1);
    assert_non_null(json_object_get(dynamic, "-:^model\\.layers\\.1\\.mlp\\.down_proj$"));
    assert_int_equal(json_object_size(dynamic), 3 * TINY_LAYERS);
    pare_json_free(&j);
    char path[1200];
    snprintf(path, sizeof path, "%s/quantize_config.json", out);
    assert_true(pare_path_exists(path));
    /* such a folder says zero points: matrices may differ */
    encoding_is(out, "blk.0.ffn_up.weight", "uint8_row");
    encoding_is(out, "blk.0.attn_v.weight", "uint4_g32");

    const char *awq = fresh();
    make(tiny(), awq, "rtn@attn:bits=4,group=32", "awq");
    j = config_of(awq);
    assert_string_equal(text_at(&j, "quantization_config.modules_to_not_convert.0"),
                        "model.layers.0.mlp.gate_proj");
    pare_json_free(&j);
}

/* What a file tells of how its codes were found is what the recipe did; a conversion tells nothing.
 */
static void ways(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *format, *expected;
        bool true_sequential;
    } runs[] = {
        {"gptq:bits=4,group=32,damp=0.05", "gptq-v2",
         "true_sequential true damp_percent 0.05 "
         "static_groups true desc_act false",
         true},
        {"gptq:bits=4,group=32,act_order=false", "gptq-v2",
         "true_sequential false damp_percent 0.01 static_groups false desc_act false", false},
        {"rtn:bits=4,group=32", "gptq-v2", "true_sequential false desc_act false", false},
        {"gptq:bits=4,group=32,search=none", "compressed-tensors",
         "actorder \"weight\" observer "
         "\"minmax\"",
         false},
        {"gptq:bits=4,group=0", "compressed-tensors", "actorder null observer \"mse\"", false},
        {"rtn:bits=4,group=32,search=mse", "compressed-tensors", "actorder null observer \"mse\"",
         false},
    };
    static const char *const keys[] = {"true_sequential", "damp_percent", "static_groups",
                                       "desc_act",        "actorder",     "observer"};
    static char words[4000];
    for (size_t i = 0; i < sizeof words; i++) words[i] = (char)('a' + i * i * 31 % 26);
    char calib[1024];
    snprintf(calib, sizeof calib, "%s", test_write("calib.txt", words, sizeof words));
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const char *out = fresh();
        pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
        pare_compress_report *report;
        const pare_compress_options o = {.model = tiny(),
                                         .out = out,
                                         .recipe = runs[i].recipe,
                                         .format = runs[i].format,
                                         .calib = calib,
                                         .calib_samples = 4,
                                         .calib_ctx = 32,
                                         .true_sequential = runs[i].true_sequential};
        assert_ok(pare_compress(&report, rt, &o, err));
        pare_compress_report_free(report);
        pare_runtime_free(rt);
        pare_json j = config_of(out);
        const json_t *config = pare_json_get(&j, "quantization_config");
        const json_t *groups = json_object_get(config, "config_groups");
        if (groups) config = json_object_get(json_object_get(groups, "group_0"), "weights");
        char found[400] = "";
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            const json_t *value = json_object_get(config, keys[k]);
            char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(3)) : NULL;
            size_t n = strlen(found);
            if (text) snprintf(found + n, sizeof found - n, "%s%s %s", n ? " " : "", keys[k], text);
            free(text);
        }
        assert_string_equal(found, runs[i].expected);
        pare_json_free(&j);
        if (i) continue;
        const char *again = fresh();
        make(out, again, "", "gptq-v2");
        j = config_of(again);
        assert_null(pare_json_get(&j, "quantization_config.damp_percent"));
        assert_null(pare_json_get(&j, "quantization_config.true_sequential"));
        pare_json_free(&j);
    }
}

/* ---- what a format cannot hold ---- */

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *format;
        pare_status status;
        const char *says;
    } bad[] = {
        {"rtn:bits=3,group=32", "awq", PARE_ERR_UNSUPPORTED, "found 3 bits, expected 4"},
        {"rtn:bits=4,group=32", "int-quantized", PARE_ERR_UNSUPPORTED, "found 4 bits, expected 8"},
        {"rtn:bits=5,group=32", "gptq", PARE_ERR_UNSUPPORTED, "found 5 bits"},
        {"rtn:bits=4,group=32,grid=gptq_asym", "gptq", PARE_ERR_UNSUPPORTED, "zero point of 0"},
        {"rtn:bits=8,group=32,grid=gptq_asym", "gguf", PARE_ERR_UNSUPPORTED, "uint8_g32"},
        {"rtn@embd:bits=4,group=32", "gptq", PARE_ERR_UNSUPPORTED, "only linear layers"},
        {"q4_1@ffn", "gptq", PARE_ERR_UNSUPPORTED, "found q4_1, expected grouped integers"},
        {"magnitude:sparsity=0.5", "gptq", PARE_ERR_ARG, "expected a recipe with a quantizer"},
        {"", "compressed-tensors", PARE_ERR_ARG, "expected a recipe with a quantizer"},
        {"rtn@attn:bits=4,group=32 + rtn@ffn:bits=4,group=64", "awq", PARE_ERR_UNSUPPORTED,
         "one group size"},
        {"rtn", "exl2", PARE_ERR_ARG, "found 'exl2', expected hf, gguf, compressed-tensors"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *out = fresh();
        pare_compress_report *r = NULL;
        assert_fails(convert(tiny(), out, bad[i].recipe, bad[i].format, &r, err), bad[i].status,
                     bad[i].says);
        assert_false(pare_path_exists(out));
    }
    /* rows of another width; Conv1D */
    pare_compress_report *r = NULL;
    assert_fails(convert(fixture_path("gpt2"), fresh(), "rtn:bits=8,group=0", "gptq", &r, err),
                 PARE_ERR_ARG, "expected a multiple of 8");

    /* what the recipe leaves alone becomes plain, and that is told */
    char gguf[1024];
    snprintf(gguf, sizeof gguf, "%s.gguf", fresh());
    make(tiny(), gguf, "q8_0@embd", "gguf");
    const char *out = fresh();
    r = must(gguf, out, "rtn:bits=4,group=32", "gptq");
    assert_int_equal(pare_compress_result(r)->n_fallbacks, 1);
    assert_non_null(strstr(pare_compress_result(r)->fallbacks[0], "token_embd.weight"));
    pare_compress_report_free(r);
    encoding_is(out, "token_embd.weight", "f16");
}

/* ---- files that are not what they should be ---- */

typedef struct damage {
    const char *key, *value; /* of quantization_config, JSON */
    const char *tensor;      /* suffix of tensors that are changed */
    const char *rename;      /* NULL: kept */
    int change;              /* of the data: which */
} damage;

static void damage_config(json_t *config, void *arg) {
    const damage *d = arg;
    json_t *q = json_object_get(config, "quantization_config");
    if (!d->key) return;
    if (!*d->key)
        json_object_del(config, "quantization_config");
    else
        json_object_set_new(q, d->key, json_loads(d->value, JSON_DECODE_ANY, NULL));
}

static void damage_tensor(copied_tensor *t, void *arg) {
    static char name[200];
    const damage *d = arg;
    if (!d->tensor || !strstr(t->name, d->tensor)) return;
    if (d->change == 1) t->name = NULL;
    if (d->change == 2) memset(t->data, 0xff, t->n_bytes);
    if (d->change == 3) { /* transposed shape */
        size_t n = t->dims[0];
        t->dims[0] = t->dims[1];
        t->dims[1] = n;
    }
    if (d->change == 4) t->data[4] = 1; /* g_idx: the second input in the second group */
    if (d->rename) {
        snprintf(name, sizeof name, "%s", d->rename);
        t->name = name;
    }
}

/* Opens, reads all. */
static pare_status use(const char *path, pare_error *err) {
    pare_source *s;
    PARE_TRY(pare_source_open(&s, path, err));
    pare_status st = pare_source_check_complete(s, err);
    for (size_t i = 0; i < pare_source_n_tensors(s) && st == PARE_OK; i++) {
        pare_tensor t;
        st = pare_source_read(s, pare_source_tensor_at(s, i), true, &t, err);
        if (st == PARE_OK) pare_tensor_free(&t);
    }
    pare_source_close(s);
    return st;
}

static void bad_files(void **state) {
    (void)state;
    char gptq[1024], ct[1024], awq[1024], ints[1024];
    snprintf(gptq, sizeof gptq, "%s", fresh());
    snprintf(ct, sizeof ct, "%s", fresh());
    snprintf(awq, sizeof awq, "%s", fresh());
    snprintf(ints, sizeof ints, "%s", fresh());
    make(tiny(), gptq, "rtn:bits=4,group=32", "gptq");
    make(tiny(), ct, "rtn:bits=4,group=32", "compressed-tensors");
    make(tiny(), awq, "rtn:bits=4,group=32", "awq");
    make(tiny(), ints, "rtn:bits=8,group=0", "int-quantized");
    const pare_status in = PARE_ERR_INPUT, no = PARE_ERR_UNSUPPORTED;
    const struct {
        const char *folder;
        damage d;
        pare_status status;
        const char *says;
    } bad[] = {
        {gptq, {"bits", "3", NULL, NULL, 0}, in, "in the bits of the configuration"},
        {gptq, {"bits", "5", NULL, NULL, 0}, no, "layout pare does not know"},
        {gptq, {"bits", "\"4\"", NULL, NULL, 0}, in, "bits: found \"4\""},
        {gptq, {"bits", "7", NULL, NULL, 0}, no, "found 7 bits"},
        {gptq, {"quant_method", "\"hqq\"", NULL, NULL, 0}, no, "found \"hqq\""},
        {gptq, {"quant_method", "3", NULL, NULL, 0}, in, "quant_method"},
        {gptq, {"checkpoint_format", "\"marlin\"", NULL, NULL, 0}, no, "marlin"},
        {gptq, {"checkpoint_format", "\"gptq_v2\"", NULL, NULL, 0}, in, "found 7, expected 8"},
        {gptq, {"pack_dtype", "\"int16\"", NULL, NULL, 0}, no, "int16"},
        {gptq, {NULL, NULL, "up_proj.scales", NULL, 1}, in, "expected scales"},
        {gptq, {NULL, NULL, "up_proj.qzeros", NULL, 1}, in, "qzeros: found no such tensor"},
        {gptq, {NULL, NULL, "up_proj.qweight", NULL, 3}, in, "up_proj.qweight: found I32"},
        {gptq, {NULL, NULL, "up_proj.scales", NULL, 3}, in, "up_proj.scales: found F16"},
        {gptq, {NULL, NULL, "up_proj.scales", NULL, 2}, in, "scale of row 0"},
        {gptq, {NULL, NULL, "up_proj.g_idx", NULL, 2}, in, "found group -1"},
        {gptq, {NULL, NULL, "up_proj.qzeros", NULL, 2}, in, "symmetric"},
        {awq, {"version", "\"gemv_fast\"", NULL, NULL, 0}, no, "gemv_fast"},
        {awq, {"bits", "8", NULL, NULL, 0}, no, "found 8, expected 4"},
        {awq, {"group_size", "64", NULL, NULL, 0}, in, "scales: found F16"},
        {gptq, {"group_size", "7", NULL, NULL, 0}, in, "scales: found F16"},
        {gptq, {"desc_act", "true", "up_proj.g_idx", NULL, 1}, in, "g_idx: found no such tensor"},
        {ct,
         {"transform_config", "{\"config_groups\": {\"u\": {}}}", NULL, NULL, 0},
         no,
         "rotations"},
        {ct,
         {"config_groups",
          "{\"a\": {\"weights\": {\"num_bits\": 4, \"group_size\": 32, \"symmetric\": false}}}",
          NULL, NULL, 0},
         in,
         "weight_zero_point: found no such tensor"},
        {ct,
         {"config_groups",
          "{\"a\": {\"weights\": {\"num_bits\": 4, \"group_size\": 32, \"actorder\": \"group\"}}}",
          NULL, NULL, 0},
         in,
         "weight_g_idx: found no such tensor"},
        {ct, {"format", "\"marlin-24\"", NULL, NULL, 0}, no, "marlin-24"},
        {ct,
         {"config_groups", "{\"a\": {\"weights\": {\"num_bits\": 8, \"type\": \"float\"}}}", NULL,
          NULL, 0},
         no,
         "found \"float\""},
        {ct,
         {"config_groups", "{\"a\": {\"weights\": {\"num_bits\": 4, \"strategy\": \"block\"}}}",
          NULL, NULL, 0},
         no,
         "block"},
        {ct, {"config_groups", "[]", NULL, NULL, 0}, in, "bits of the configuration"},
        {ct, {NULL, NULL, "up_proj.weight_shape", NULL, 2}, in, "weight_shape: found [-1, -1]"},
        {ct, {NULL, NULL, "up_proj.weight_scale", NULL, 1}, in, "weight_scale: found no such"},
        {ints, {NULL, NULL, "up_proj.weight_scale", NULL, 3}, in, "weight_scale"},
        {ints, {"", NULL, NULL, NULL, 0}, no, "I8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char name[32];
        damage d = bad[i].d;
        copy_edit edit = {damage_config, damage_tensor, &d};
        snprintf(name, sizeof name, "bad-%zu", i);
        const char *path = copy_fixture(bad[i].folder, name, &edit);
        pare_error e = {0};
        pare_status st = use(path, &e);
        if (st != bad[i].status || !strstr(e.message, bad[i].says))
            fail_msg("case %zu: found %s: %s; expected \"%s\"", i, pare_status_name(st), e.message,
                     bad[i].says);
    }
}

/* Unusual files that are all right. */
static void tolerated(void **state) {
    (void)state;
    char gptq[1024], path[1200];
    snprintf(gptq, sizeof gptq, "%s", fresh());
    make(tiny(), gptq, "rtn:bits=4,group=32", "gptq");
    /* without g_idx; as AutoRound writes it */
    damage d = {"quant_method", "\"auto-round\"", ".g_idx", NULL, 1};
    copy_edit edit = {damage_config, damage_tensor, &d};
    same_values(gptq, copy_fixture(gptq, "auto-round", &edit));
    /* the configuration beside config.json only */
    d = (damage){"", NULL, NULL, NULL, 0};
    char beside[1024], from[1200];
    snprintf(beside, sizeof beside, "%s", copy_fixture(gptq, "beside", &edit));
    snprintf(path, sizeof path, "%s/quantize_config.json", beside);
    snprintf(from, sizeof from, "%s/quantize_config.json", gptq);
    assert_ok(pare_file_copy(path, from, err));
    same_values(gptq, beside);
    /* act_order: f16, and told */
    d = (damage){"desc_act", "true", "up_proj.g_idx", NULL, 4};
    const char *order = copy_fixture(gptq, "act-order", &edit);
    encoding_is(order, "blk.1.ffn_up.weight", "f16");
    encoding_is(order, "blk.1.ffn_down.weight", "int4_g32");
    pare_source *s;
    assert_ok(pare_source_open(&s, order, err));
    assert_non_null(strstr(pare_source_note(s, 0), "2 matrices have groups that are not in order"));
    assert_null(pare_source_note(s, 1));
    assert_string_equal(pare_source_packing(s), "GPTQ");
    pare_source_close(s);
    float y[TINY_VOCAB];
    logits(order, y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format),   cmocka_unit_test(between_formats),
        cmocka_unit_test(configurations), cmocka_unit_test(ways),
        cmocka_unit_test(refusals),       cmocka_unit_test(bad_files),
        cmocka_unit_test(tolerated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
