/* Scales folded into a model's blocks (AWQ, SmoothQuant): every architecture computes what it
 * computed before, steps see weights in the order of the recipe, and scales of 1 are rounding. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/os.h"
#include "pare/compress.h"
#include "pare/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { N = 40 };

static char text[1024];
static pare_compute compute = PARE_COMPUTE_EXACT; /* of calibration */

/* ---- compressing and running ---- */

static pare_compress_report *compress_but(const char *model, const char *out, const char *recipe,
                                          const char *kept) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_options o = {.model = model,
                               .out = out,
                               .recipe = recipe,
                               .keep = kept,
                               .calib = text,
                               .calib_samples = 4,
                               .calib_ctx = 32,
                               .calib_compute = compute,
                               .restart = true};
    pare_compress_report *report;
    assert_ok(pare_compress(&report, rt, &o, err));
    pare_runtime_free(rt);
    return report;
}

static pare_compress_report *compress(const char *model, const char *out, const char *recipe) {
    return compress_but(model, out, recipe, NULL);
}

static const char *compressed(const char *model, const char *name, const char *recipe) {
    const char *out = test_path(name);
    pare_compress_report_free(compress(model, out, recipe));
    return out;
}

static int keep(void *arg, size_t first, size_t n_rows, const float *logits) {
    float **out = arg;
    (void)first;
    size_t n = n_rows * 256; /* of larger vocabularies the bytes */
    memcpy(*out, logits, n * sizeof(float));
    *out += n;
    return 0;
}

/* Logits [N][256] of the bytes 'a' .. of a model with 256 tokens; the caller frees. */
static float *logits_of(const char *model) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    float *out = calloc(N * 256, sizeof *out), *at = out;
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = 'a' + i * 7 % 26;
    pare_model *m;
    pare_session *s;
    assert_ok(pare_model_load(&m, rt, model, err));
    assert_int_equal(pare_model_vocab_size(m), 256);
    pare_session_options o = {.n_ctx = N, .compute = PARE_COMPUTE_EXACT};
    assert_ok(pare_session_create(&s, m, &o, err));
    assert_ok(pare_session_eval_all(s, ids, N, 0, keep, &at, err));
    pare_session_free(s);
    pare_model_free(m);
    pare_runtime_free(rt);
    return out;
}

/* The largest difference of the logits relative to their range. */
static double difference(const char *model_a, const char *model_b) {
    float *a = logits_of(model_a), *b = logits_of(model_b), low = a[0], high = a[0];
    double most = 0;
    for (size_t i = 0; i < N * 256; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        low = fminf(low, a[i]);
        high = fmaxf(high, a[i]);
    }
    free(a);
    free(b);
    return most / (double)(high - low);
}

static void copy(const char *from, const char *to, const char *name) {
    char *a = pare_path_join(from, name), *b = pare_path_join(to, name), *data;
    size_t n;
    assert_ok(pare_file_read_all(&data, &n, a, 1 << 26, err));
    FILE *f = fopen(b, "wb");
    assert_true(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
    pare_free(data);
    pare_free(a);
    pare_free(b);
}

/* A fixture of that architecture with a tokenizer; static. */
static const char *fixture(const char *arch) {
    static char folder[1024];
    char source[1024];
    const char *root = getenv("PARE_SOURCE");
    snprintf(source, sizeof source, "%s/tests/fixtures/models/%s", root ? root : ".", arch);
    snprintf(folder, sizeof folder, "%s", test_path(arch));
    mkdir(folder, 0755);
    copy(source, folder, "config.json");
    copy(source, folder, "model.safetensors");
    tiny_tokenizer(folder);
    return folder;
}

static const pare_layer_report *layer(const pare_compress_report *r, const char *name) {
    const pare_compress_info *info = pare_compress_result(r);
    for (size_t i = 0; i < info->n_layers; i++)
        if (strcmp(info->layers[i].name, name) == 0) return &info->layers[i];
    fail_msg("%s: not in the report", name);
    return NULL;
}

/* ---- the same function ---- */

/* What --keep leaves of an input's maker is not scaled: its layers are not either. */
static void a_kept_bias_keeps_its_input(void **state) {
    (void)state;
    static const char *const kept[] = {"ffn_up.bias", "attn_v.bias", "attn_norm.bias"};
    const char *model = fixture("opt");
    char plain[1024], scaled[1024];
    snprintf(plain, sizeof plain, "%s", compressed(model, "kept-plain", "f32"));
    for (size_t i = 0; i < 3; i++) {
        snprintf(scaled, sizeof scaled, "%s-%zu", test_path("kept"), i);
        pare_compress_report *report = compress_but(
            model, scaled, "awq:quantize=false,clip=false,bits=3,group=32 + f32", kept[i]);
        assert_true(pare_compress_result(report)->n_fallbacks > 0);
        pare_compress_report_free(report);
        assert_true(difference(plain, scaled) < 2e-5);
    }
}

static void every_architecture_computes_the_same(void **state) {
    (void)state;
    static const char *const archs[] = {"llama",  "llama-bias", "mistral", "qwen2", "qwen3",
                                        "gemma2", "gemma3",     "gpt2",    "opt"};
    static const char *const recipes[] = {"smoothquant:alpha=0.7 + f32",
                                          "awq:quantize=false,clip=false,bits=3,group=32 + f32",
                                          ("smoothquant + awq:quantize=false,clip=false,bits=3,"
                                           "group=32,duo=true + f32")};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        char plain[1024], scaled[1024], model[1024];
        snprintf(model, sizeof model, "%s", fixture(archs[a]));
        snprintf(plain, sizeof plain, "%s-plain", test_path(archs[a]));
        pare_compress_report_free(compress(model, plain, "f32"));
        for (size_t r = 0; r < 3; r++) {
            snprintf(scaled, sizeof scaled, "%s-%zu", test_path(archs[a]), r);
            pare_compress_report *report = compress(model, scaled, recipes[r]);
            assert_true(layer(report, "blk.0.attn_norm.weight")->changed);
            assert_true(layer(report, "blk.1.ffn_norm.weight")->changed);
            pare_compress_report_free(report);
            double d = difference(plain, scaled);
            if (!(d < 2e-5)) fail_msg("%s, %s: logits differ by %g", archs[a], recipes[r], d);
        }
    }
}

/* Candidates in 8 bits choose, what is folded is exact all the same. */
static void candidates_in_eight_bits(void **state) {
    (void)state;
    char plain[1024], scaled[1024], model[1024];
    snprintf(model, sizeof model, "%s", fixture("llama"));
    snprintf(plain, sizeof plain, "%s", compressed(model, "eight-plain", "f32"));
    compute = PARE_COMPUTE_FAST;
    snprintf(scaled, sizeof scaled, "%s", test_path("eight"));
    pare_compress_report *report =
        compress(model, scaled, "awq:quantize=false,clip=false,bits=3,group=32 + f32");
    compute = PARE_COMPUTE_EXACT;
    assert_true(layer(report, "blk.0.attn_norm.weight")->changed);
    pare_compress_report_free(report);
    assert_true(difference(plain, scaled) < 2e-5);
}

/* Norms after the attention and the feed-forward part make nobody's input. */
static void nothing_to_fold_into(void **state) {
    (void)state;
    char model[1024];
    snprintf(model, sizeof model, "%s", fixture("opt-post"));
    pare_compress_report *r = compress(model, test_path("post"), "smoothquant + f32");
    assert_false(layer(r, "blk.0.attn_norm.weight")->changed);
    pare_compress_report_free(r);
    r = compress(model, test_path("post-awq"),
                 "awq:quantize=false,bits=3,group=32,clip=false + f32");
    assert_true(layer(r, "blk.0.ffn_up.weight")->changed); /* down <- up */
    pare_compress_report_free(r);
}

/* ---- what is told ---- */

static size_t fallbacks_with(const pare_compress_report *r, const char *part) {
    const pare_compress_info *info = pare_compress_result(r);
    size_t n = 0;
    for (size_t i = 0; i < info->n_fallbacks; i++) n += strstr(info->fallbacks[i], part) != NULL;
    return n;
}

static void partial_groups_are_told(void **state) {
    (void)state;
    char model[1024];
    snprintf(model, sizeof model, "%s", tiny_model("tiny", NULL));
    pare_compress_report *r = compress(model, test_path("partial"), "awq@/attn_q|ffn/");
    assert_int_equal(fallbacks_with(r, "attn_q.weight: not scaled"), TINY_LAYERS);
    assert_int_equal(fallbacks_with(r, "not scaled"), TINY_LAYERS);
    pare_compress_report_free(r);
    r = compress(model, test_path("partial-down"), "awq@/ffn_down/");
    assert_int_equal(fallbacks_with(r, "ffn_down.weight: not scaled"), TINY_LAYERS);
    pare_compress_report_free(r);
}

/* ---- identities ---- */

static void assert_same_logits(const char *model_a, const char *model_b) {
    char *a = pare_path_join(model_a, "model.safetensors"),
         *b = pare_path_join(model_b, "model.safetensors"), *x, *y;
    size_t n, m;
    assert_ok(pare_file_read_all(&x, &n, a, 1 << 26, err));
    assert_ok(pare_file_read_all(&y, &m, b, 1 << 26, err));
    /* the headers name the recipes; what follows is the tensors */
    uint64_t head_x, head_y;
    memcpy(&head_x, x, 8);
    memcpy(&head_y, y, 8);
    assert_int_equal(n - head_x, m - head_y);
    assert_memory_equal(x + 8 + head_x, y + 8 + head_y, n - 8 - head_x);
    pare_free(x);
    pare_free(y);
    pare_free(a);
    pare_free(b);
}

static void scales_of_one_are_rounding(void **state) {
    (void)state;
    char model[1024];
    snprintf(model, sizeof model, "%s", tiny_model("tiny", NULL));
    char awq[1024], rtn[1024];
    snprintf(rtn, sizeof rtn, "%s", compressed(model, "rtn", "rtn:bits=4,grid=asym_minmax"));
    snprintf(awq, sizeof awq, "%s", compressed(model, "awq1", "awq:bits=4,points=1,clip=false"));
    assert_same_logits(rtn, awq);
}

/* Zeros of [rows][cols] values from an f32 folder's tensors, in the order of the file. */
static size_t zeros_in(const char *folder) {
    char *path = pare_path_join(folder, "model.safetensors"), *data;
    size_t n, zeros = 0;
    uint64_t head;
    assert_ok(pare_file_read_all(&data, &n, path, 1 << 26, err));
    memcpy(&head, data, 8);
    for (size_t i = 8 + head; i + 4 <= n; i += 4) {
        float v;
        memcpy(&v, data + i, 4);
        zeros += v == 0.0f;
    }
    pare_free(data);
    pare_free(path);
    return zeros;
}

/* Few zeros, which rounding to 8 bits hardly makes: they are a pruner's and stay, although the step
 * that scales stands between. */
static void zeros_stay_across_scales(void **state) {
    (void)state;
    char model[1024], pruned[1024], packed[1024], plain[1024];
    snprintf(model, sizeof model, "%s", tiny_model("tiny", NULL));
    snprintf(pruned, sizeof pruned, "%s", compressed(model, "z", "magnitude:sparsity=0.1 + f32"));
    snprintf(packed, sizeof packed, "%s",
             compressed(model, "zp", "magnitude:sparsity=0.1 + smoothquant + gptq:bits=8"));
    snprintf(plain, sizeof plain, "%s", compressed(packed, "zf", "f32@all"));
    assert_true(zeros_in(pruned) > 1000);
    assert_true(zeros_in(plain) >= zeros_in(pruned));
}

static void steps_in_order(void **state) {
    (void)state;
    char model[1024];
    snprintf(model, sizeof model, "%s", tiny_model("tiny", NULL));
    char a[1024], b[1024];
    /* magnitude's choice depends on the scales: it must not see those of a later step */
    snprintf(a, sizeof a, "%s", compressed(model, "m", "magnitude:sparsity=0.5 + f32"));
    snprintf(b, sizeof b, "%s",
             compressed(model, "ms", "magnitude:sparsity=0.5 + smoothquant + f32"));
    assert_int_equal(zeros_in(a), zeros_in(b));
    snprintf(b, sizeof b, "%s",
             compressed(model, "sm", "smoothquant + magnitude:sparsity=0.5 + f32"));
    assert_int_equal(zeros_in(a), zeros_in(b));
    /* wanda's does not: |w s| |x / s| */
    pare_compress_report *r = compress(model, test_path("wa"), "wanda:sparsity=0.5 + awq:bits=4");
    const pare_layer_report *up = layer(r, "blk.1.ffn_up.weight");
    assert_true(up->sparsity >= 0.5);
    pare_compress_report_free(r);
}

int main(void) {
    char letters[2000];
    for (size_t i = 0; i < sizeof letters; i++)
        letters[i] = (char)(i % 13 == 5 ? ' ' : 'a' + (i * i / 7 + i) % 26);
    snprintf(text, sizeof text, "%s", test_write("text.txt", letters, sizeof letters));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_computes_the_same),
        cmocka_unit_test(candidates_in_eight_bits),
        cmocka_unit_test(a_kept_bias_keeps_its_input),
        cmocka_unit_test(nothing_to_fold_into),
        cmocka_unit_test(partial_groups_are_told),
        cmocka_unit_test(scales_of_one_are_rounding),
        cmocka_unit_test(zeros_stay_across_scales),
        cmocka_unit_test(steps_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
