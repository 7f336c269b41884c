/* Cushions and the program: given or in a folder, behind tokens, carried along, in records. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "model/prefix.h"

static double ppl_of(const char *command) {
    json_t *o = program_json(NULL, command);
    double ppl = json_real_value(json_object_get(json_object_get(o, "perplexity"), "ppl"));
    assert_true(ppl > 0);
    json_decref(o);
    return ppl;
}

static json_int_t positions_of(const char *command) {
    json_t *o = program_json(NULL, command);
    json_int_t n = json_integer_value(json_object_get(o, "prefix_positions"));
    json_decref(o);
    return n;
}

static size_t kv_dim; /* of the model */

static json_int_t kv_bytes(json_t *info) {
    json_t *all = json_object_get(json_object_get(info, "memory"), "kv_bytes");
    return json_integer_value(json_object_get(all, "f16"));
}

#define EVAL " --text text --ctx 64 --windows 2 --records none"

/* A file says what the tokens say that it was computed from; the folder's own needs no option. */
static void evaluation(void **state) {
    (void)state;
    double plain = ppl_of("pare eval model" EVAL);
    double tokens = ppl_of("pare eval model --prefix-tokens '<|im_start|>a'" EVAL);
    assert_true(fabs(tokens - plain) > 1e-3);
    assert_true(ppl_of("pare eval model --prefix-tokens ids:257,97" EVAL) == tokens);
    assert_true(ppl_of("pare eval model --prefix cushion" EVAL) == tokens);
    assert_int_equal(positions_of("pare eval model --prefix cushion" EVAL), 2);
    assert_int_equal(positions_of("pare eval model" EVAL), 0);

    json_t *o = program_json(NULL, "pare eval model --prefix cushion --against model" EVAL);
    json_t *against = json_object_get(o, "against");
    assert_true(fabs(json_real_value(json_object_get(against, "base_ppl")) / plain - 1) < 1e-5);
    assert_true(fabs(json_real_value(json_object_get(against, "ppl_ratio")) - tokens / plain) <
                1e-5);
    json_decref(o);
}

static void generation_and_speed(void **state) {
    (void)state;
    program_result tokens =
        program_run(NULL, "pare run model -p abc -n 12 --temp 0 --compute exact "
                          "--prefix-tokens '<|im_start|>a'");
    program_result file =
        program_run(NULL, "pare run model -p abc -n 12 --temp 0 --compute exact --prefix cushion");
    assert_int_equal(tokens.code, 0);
    assert_int_equal(file.code, 0);
    assert_string_equal(tokens.out, file.out);
    assert_non_null(strstr(file.err, "behind a prefix of 2 positions"));
    program_free(&tokens);
    program_free(&file);
    json_t *o = program_json(NULL, "pare bench model --pp 8 --tg 4 --reps 1 --prefix cushion");
    assert_int_equal(json_array_size(json_object_get(o, "rows")), 2);
    json_decref(o);
}

/* Into every format of folders, from one folder to the next, and out again. */
static void folders(void **state) {
    (void)state;
    double plain = ppl_of("pare eval model" EVAL);
    double behind = ppl_of("pare eval model --prefix cushion" EVAL);
    json_decref(program_json(NULL, "pare convert model out1 --prefix cushion"));
    assert_string_equal(test_hash(test_path("out1/cushion.safetensors")),
                        test_hash(test_path("cushion")));
    assert_true(ppl_of("pare eval out1" EVAL) == behind);
    assert_true(ppl_of("pare eval out1 --prefix none" EVAL) == plain);
    json_t *info = program_json(NULL, "pare info out1 --memory --ctx 64");
    json_t *without = program_json(NULL, "pare info model --memory --ctx 64");
    assert_int_equal(json_integer_value(json_object_get(info, "prefix_length")), 2);
    assert_int_equal(kv_bytes(info),
                     kv_bytes(without) + 2 * 2 * TINY_LAYERS * kv_dim * sizeof(float));
    json_decref(info);
    json_decref(without);
    json_decref(program_json(NULL, "pare convert out1 out2"));
    assert_string_equal(test_hash(test_path("out2/cushion.safetensors")),
                        test_hash(test_path("cushion")));
    assert_true(ppl_of("pare eval out2" EVAL) == behind);
    json_decref(program_json(NULL, "pare convert out2 out3 --prefix none"));
    assert_false(pare_path_exists(test_path("out3/cushion.safetensors")));
    assert_true(ppl_of("pare eval out3" EVAL) == plain);

    /* quantization_config holds the key where there is one */
    static const char *const formats[] = {"hf", "compressed-tensors", "gptq"};
    for (size_t i = 0; i < 3; i++) {
        char command[300];
        snprintf(
            command, sizeof command,
            "pare compress out1 -o packed%zu -r rtn:bits=4,group=32 --format %s --records none", i,
            formats[i]);
        json_decref(program_json(NULL, command));
        snprintf(command, sizeof command, "grep -c quantization_config packed%zu/config.json", i);
        program_result r = program_run(NULL, command);
        assert_int_equal(r.code, 0);
        program_free(&r);
        snprintf(command, sizeof command, "pare eval packed%zu" EVAL, i);
        assert_int_equal(positions_of(command), 2);
    }
    /* a GGUF file holds it, from a folder and from a file, and gives it back */
    json_decref(program_json(NULL, "pare convert out1 out1.gguf"));
    assert_int_equal(positions_of("pare eval out1.gguf" EVAL), 2);
    assert_true(fabs(ppl_of("pare eval out1.gguf" EVAL) - behind) < 1e-3);
    assert_true(ppl_of("pare eval out1 --prefix out1.gguf" EVAL) == behind);
    json_decref(program_json(NULL, "pare convert out1.gguf out4"));
    assert_string_equal(test_hash(test_path("out4/cushion.safetensors")),
                        test_hash(test_path("out1/cushion.safetensors")));
    json_decref(program_json(NULL, "pare convert model.gguf out2.gguf --prefix cushion"));
    assert_int_equal(positions_of("pare eval out2.gguf" EVAL), 2);
    json_decref(program_json(NULL, "pare convert out2.gguf out3.gguf --prefix none"));
    assert_int_equal(positions_of("pare eval out3.gguf" EVAL), 0);
    json_decref(program_json(NULL, "pare convert out1 out.gguf --prefix none"));
    assert_true(fabs(ppl_of("pare eval out.gguf --prefix cushion" EVAL) - behind) < 1e-3);
}

/* What a file says of the inputs of its matrices, and of a cushion in it: told of both containers.
 */
static void described(void **state) {
    (void)state;
    static const char *const outs[] = {"told", "told.gguf"};
    json_decref(program_json(
        NULL, "pare compress model -o told -r 'w8a8@attn:act=per_token,bmm=true + "
              "w8a8@/ffn_(up|gate)/:act=per_tensor_static,sym=true' --prefix cushion --calib text "
              "--calib-samples 2 --calib-ctx 32 --records none"));
    json_decref(program_json(NULL, "pare convert told told.gguf"));
    for (int i = 0; i < 2; i++) {
        program_result r = program_runf(NULL, "pare info %s", outs[i]);
        assert_int_equal(r.code, 0);
        assert_non_null(strstr(r.out, ", behind a cushion of 2\n"));
        assert_non_null(strstr(r.out, "inputs     a8:act=per_token,bmm=true, 6 matrices: attn_"));
        assert_non_null(strstr(r.out, "inputs     a8:act=per_token, 2 matrices: attn_output\n"));
        assert_non_null(
            strstr(r.out, "inputs     a8:act=per_tensor_static,sym=true, 4 matrices: ffn_"));
        program_free(&r);
        char command[64];
        snprintf(command, sizeof command, "pare info %s --tensors", outs[i]);
        json_t *o = program_json(NULL, command), *t;
        const json_t *inputs = json_object_get(o, "inputs");
        size_t k, n[2] = {0};
        assert_int_equal(json_integer_value(json_object_get(o, "prefix_length")), 2);
        assert_int_equal(json_array_size(inputs), 3);
        for (k = 0; k < 3; k++) {
            const json_t *one = json_array_get(inputs, k);
            if (strstr(json_string_value(json_object_get(one, "scheme")), "static")) {
                assert_int_equal(json_integer_value(json_object_get(one, "tensors")), 4);
                assert_int_equal(json_array_size(json_object_get(one, "kinds")), 2);
            }
        }
        json_array_foreach(json_object_get(o, "tensors"), k, t)
            n[json_is_string(json_object_get(t, "input"))]++;
        assert_int_equal(n[1], 6 * TINY_LAYERS);
        assert_int_equal(n[0], 3 * TINY_LAYERS + 2); /* down, norms, embedding */
        json_decref(o);
    }
    program_result r = program_run(NULL, "pare info model");
    assert_null(strstr(r.out, "inputs  "));
    program_free(&r);
    json_t *o = program_json(NULL, "pare info model --tensors");
    assert_int_equal(json_array_size(json_object_get(o, "inputs")), 0);
    json_decref(o);
}

/* value of o.a.b */
static double number(const json_t *o, const char *a, const char *b) {
    return json_number_value(json_object_get(json_object_get(o, a), b));
}

/* Behind a prefix that holds it a BOS is not computed again: what follows gets what it gets behind
 * the tokenizer's. */
static void bos(void **state) {
    (void)state;
    tiny_model("begun", &(tiny_options){.bos = true});
    static const char *const ways[] = {"pare eval begun", "pare eval begun --prefix-tokens ids:256",
                                       "pare eval begun --prefix-tokens ids:97"};
    for (int hf = 0; hf < 2; hf++) {
        double ppl[3];
        for (int i = 0; i < 3; i++) {
            char command[300];
            snprintf(command, sizeof command,
                     "%s --protocol %s --against begun --windows 1 --text text --ctx 64 "
                     "--records none",
                     ways[i], hf ? "hf" : "llama.cpp");
            json_t *o = program_json(NULL, command);
            ppl[i] = number(o, "perplexity", "ppl");
            /* hf scores what follows the BOS, of which nothing is computed then */
            assert_true(number(o, "perplexity", "n_scored") == (hf ? 63 - (i == 1) : 31));
            assert_true(number(o, "perplexity", "n_tokens") > 64);
            const double ratio = number(o, "against", "ppl_ratio"),
                         kl = number(o, "against", "kl_mean");
            assert_true(i == 2 ? kl > 1e-4 : kl < 1e-6 && fabs(ratio - 1) < 1e-5);
            json_decref(o);
        }
        assert_true(fabs(ppl[2] / ppl[0] - 1) > 1e-4);
        if (!hf) assert_true(fabs(ppl[1] / ppl[0] - 1) < 1e-5);
    }
    /* without a distance the same tokens are scored */
    double alone = ppl_of("pare eval begun --protocol llama.cpp" EVAL);
    double behind = ppl_of("pare eval begun --protocol llama.cpp --prefix-tokens ids:256" EVAL);
    assert_true(fabs(behind / alone - 1) < 1e-5);
    json_t *o = program_json(NULL, "pare eval begun --prefix-tokens ids:256" EVAL);
    assert_true(number(o, "perplexity", "n_scored") == 125);
    json_decref(o);

    static const char *const prompts[] = {"-p abc", "--chat -p abc", "-p ''"};
    for (int i = 0; i < 3; i++) {
        json_t *made[2];
        for (int k = 0; k < 2; k++) {
            char command[300];
            snprintf(command, sizeof command,
                     "pare run begun %s -n 12 --temp 0 --compute exact%s --json", prompts[i],
                     k ? " --prefix-tokens ids:256 --draft begun" : "");
            made[k] = program_json(NULL, command);
        }
        const json_int_t n = json_integer_value(json_object_get(made[0], "prompt_tokens"));
        /* an empty prompt is the BOS alone, which stays */
        assert_int_equal(json_integer_value(json_object_get(made[1], "prompt_tokens")),
                         n - (i < 2));
        if (i < 2)
            assert_true(json_equal(json_object_get(made[0], "token_ids"),
                                   json_object_get(made[1], "token_ids")));
        json_decref(made[0]);
        json_decref(made[1]);
    }
}

#define COMPRESS                                                                                   \
    "pare compress model -r gptq:bits=4,group=32 --calib text --calib-samples 4 --calib-ctx 32 "   \
    "--records none "

/* The statistics are those behind the cushion; an interrupted run goes on with no other one. */
static void calibration(void **state) {
    (void)state;
    json_decref(program_json(NULL, COMPRESS "-o plain"));
    json_decref(program_json(NULL, COMPRESS "-o behind --prefix cushion"));
    json_decref(program_json(NULL, COMPRESS "-o again --prefix cushion"));
    assert_string_equal(test_hash(test_path("behind/model.safetensors")),
                        test_hash(test_path("again/model.safetensors")));
    assert_string_not_equal(test_hash(test_path("behind/model.safetensors")),
                            test_hash(test_path("plain/model.safetensors")));
    /* of a folder that has it, without the option */
    json_decref(program_json(NULL, "pare convert model own --prefix cushion"));
    json_decref(program_json(NULL, "pare compress own -o from-own -r gptq:bits=4,group=32 --calib "
                                   "text --calib-samples 4 --calib-ctx 32 --records none"));
    assert_string_equal(test_hash(test_path("behind/model.safetensors")),
                        test_hash(test_path("from-own/model.safetensors")));
    assert_int_equal(positions_of("pare eval behind" EVAL), 2);
    program_refuses(COMPRESS "-o more --calib-ctx 511 --prefix cushion", "expected 2 to 510");
}

/* The second baseline of a compression: the dense model behind the cushion that OUT gets. */
static void baselines(void **state) {
    (void)state;
    /* the cushion leaves 510 positions of 512: so long are the windows of all */
    double plain = ppl_of("pare eval model --text text --windows 1 --ctx 510 --records none");
    double behind =
        ppl_of("pare eval model --prefix cushion --text text --windows 1 --records none");
    static const char command[] =
        "pare compress model -o based -r w8a8:per_tensor_static --prefix cushion --calib text "
        "--calib-samples 4 --calib-ctx 32 --eval text --windows 1 --records b.db";
    json_t *o = program_json(NULL, command);
    assert_true(number(o, "before", "ppl") == plain);
    assert_true(number(o, "before_behind_prefix", "ppl") == behind);
    const double after = number(o, "after", "ppl");
    const json_t *k = json_object_get(o, "clamped");
    assert_int_equal(json_array_size(json_object_get(k, "sites")), 4 * TINY_LAYERS);
    const double share = json_real_value(json_object_get(k, "share")),
                 worst = number(k, "worst", "share");
    assert_true(share > 0 && share <= worst &&
                worst < 0.05); /* the text is longer than what calibrated */
    assert_true(after != behind && fabs(after / behind - 1) < 0.1);
    json_decref(o);
    o = program_json(NULL, "pare records show 1 --records b.db");
    const json_t *r = json_array_get(json_object_get(o, "records"), 0);
    assert_true(json_real_value(json_object_get(r, "base_ppl")) == plain);
    assert_true(json_real_value(json_object_get(r, "base_prefix_ppl")) == behind);
    assert_true(json_real_value(json_object_get(r, "clamped")) == share);
    json_decref(o);
    program_result card = program_run(NULL, "cat based/README.md");
    assert_non_null(strstr(card.out, "| perplexity, the base model behind the cushion too | "));
    program_free(&card);
    o = program_json(NULL, "pare eval based --text text --windows 1 --records none");
    assert_true(json_real_value(json_object_get(json_object_get(o, "clamped"), "share")) == share);
    json_decref(o);
    program_result line =
        program_run(NULL, "pare eval based --text text --windows 1 --records none");
    assert_non_null(strstr(line.out, "static grids clamp "));
    program_free(&line);
    o = program_json(NULL, "pare eval model --text text --windows 1 --records none");
    assert_true(json_is_null(json_object_get(o, "clamped")));
    json_decref(o);
    /* in words; a model that has the cushion already has one baseline, whose inputs are its own */
    program_result words = program_run(
        NULL, "pare compress based -o in-words -r w8a8:per_token --prefix cushion --eval "
              "text --windows 1 --records none");
    assert_int_equal(words.code, 0);
    assert_non_null(strstr(words.out, "before behind the cushion, "));
    program_free(&words);
    o = program_json(NULL, "pare compress based -o third -r w8a8:per_token --eval text --windows 1 "
                           "--records none");
    assert_null(json_object_get(o, "before_behind_prefix"));
    assert_true(number(o, "before", "ppl") == after);
    json_decref(o);
}

static void refusals(void **state) {
    (void)state;
    program_refuses("pare eval model --prefix cushion --prefix-tokens a" EVAL, "one of the two");
    program_refuses("pare eval model --prefix text" EVAL, "text");
    program_refuses("pare eval model --act none --calib text" EVAL, "other than none");
    program_refuses("pare eval model --save-logits ''" EVAL, "expected a file's name");
    program_refuses("pare eval model --prefix-tokens ids:1,x" EVAL, "expected 1 to");
    program_refuses("pare eval model --prefix-tokens ids:999" EVAL, "found id 999");
    program_refuses("pare eval model --prefix-tokens ''" EVAL, "found no tokens");
    program_refuses("pare compress model -o no -r q8_0 --prefix text", "text");
    program_refuses("pare bench --kernels --prefix cushion", "--prefix: found it with --kernels");
    assert_false(pare_path_exists(test_path("no")));
}

static void records(void **state) {
    (void)state;
    json_decref(program_json(NULL, "pare eval model --prefix cushion --text text --ctx 64 "
                                   "--windows 1 --records r.db"));
    json_decref(program_json(NULL, "pare eval model --prefix-tokens '<|im_start|>' --text text "
                                   "--ctx 64 --windows 1 --records r.db"));
    json_decref(
        program_json(NULL, "pare eval model --text text --ctx 64 --windows 1 --records r.db"));
    json_t *o = program_json(NULL, "pare records show 1 --records r.db");
    const json_t *r = json_array_get(json_object_get(o, "records"), 0);
    assert_non_null(strstr(json_string_value(json_object_get(r, "prefix")), "/cushion"));
    assert_string_equal(json_string_value(json_object_get(r, "prefix_sha256")),
                        test_hash(test_path("cushion")));
    json_decref(o);
    o = program_json(NULL, "pare records show 2 --records r.db");
    r = json_array_get(json_object_get(o, "records"), 0);
    assert_string_equal(json_string_value(json_object_get(r, "prefix_tokens")), "<|im_start|>");
    json_decref(o);
    program_result report =
        program_run(NULL, "pare report out.html --records r.db && cat out.html");
    assert_int_equal(report.code, 0);
    assert_non_null(strstr(report.out, "+ cushion"));
    assert_non_null(strstr(report.out, "+ prefix tokens"));
    program_free(&report);
}

static int set_up(void **state) {
    (void)state;
    char text[4000];
    const int32_t ids[] = {257, 97}; /* "<|im_start|>a" */
    pare_model *m;
    pare_prefix *p;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)("abc def ghi\n"[(i * i / 7 + i) % 12]);
    test_write("text", text, sizeof text);
    const char *folder = tiny_model("model", NULL);
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    assert_ok(pare_model_load(&m, rt, folder, err));
    assert_ok(pare_prefix_from_ids(&p, m, ids, 2, err));
    kv_dim = p->kv_dim;
    assert_ok(pare_prefix_save(p, &m->config, "{}", test_path("cushion"), err));
    pare_prefix_free(p);
    pare_model_free(m);
    pare_runtime_free(rt);
    json_decref(program_json(NULL, "pare convert model model.gguf"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evaluation),  cmocka_unit_test(generation_and_speed),
        cmocka_unit_test(folders),     cmocka_unit_test(described),
        cmocka_unit_test(calibration), cmocka_unit_test(refusals),
        cmocka_unit_test(records),     cmocka_unit_test(bos),
        cmocka_unit_test(baselines),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
