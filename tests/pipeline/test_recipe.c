/* Recipes: parsing, canonical form, targets, errors; and the mixes' rules against llama.cpp's. */
#include "support/test.h"

#include "pipeline/recipe.h"

#include <stdio.h>
#include <string.h>

static void canonical(const char *text, const char *expected) {
    pare_recipe *r;
    assert_ok(pare_recipe_parse(&r, text, err));
    assert_string_equal(pare_recipe_text(r), expected);
    pare_recipe *again;
    assert_ok(pare_recipe_parse(&again, pare_recipe_text(r), err));
    assert_string_equal(pare_recipe_text(again), expected);
    pare_recipe_free(again);
    pare_recipe_free(r);
}

static void texts_have_one_canonical_form(void **state) {
    (void)state;
    canonical("", "");
    canonical("q4_k_m", "q4_k_m");
    canonical("Q4_K_M + Magnitude@ffn", "q4_k_m + magnitude@ffn");
    canonical("  magnitude :  sparsity = 50% ,per=row\n# a comment\n+ bitmap_bf16 # more\n\n",
              "magnitude:per=row + bitmap_bf16");
    canonical("magnitude:sparsity=2:4+nm24_bf16", "magnitude:sparsity=2:4 + nm24_bf16");
    canonical("magnitude@ffn:sparsity=0.25", "magnitude@ffn:sparsity=0.25");
    canonical("q8_0@/attn_(v|k)+/:pure=yes\nq4_0", "q8_0@/attn_(v|k)+/:pure=true + q4_0");
    canonical("q4_k_m:fallback=refuse", "q4_k_m:fallback=refuse");
}

static void slips_are_named(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"magnitud", "did you mean 'magnitude'"},
        {"q4_km", "did you mean 'q4_k"},
        {"zzzzzzzz", "pare methods"},
        {"magnitude:sparsty=0.5", "did you mean 'sparsity'"},
        {"magnitude:sparsity", "expected param=value"},
        {"magnitude:sparsity=2", "expected 0 to 1"},
        {"magnitude:per=col", "tensor|row"},
        {"magnitude + + q8_0", "empty step"},
        {"magnitude +", "empty step"},
        {"magnitude@heads", "expected attn, ffn"},
        {"magnitude@/(/", "regex"},
        {"q8_0:pure=maybe", "true or false"},
        {"magnitude:sparsity=0.5,sparsity=0.6", "found sparsity twice"},
        {"nvfp4", "only read"},
        {"q2_0@ffn", "only read"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pare_recipe *r;
        pare_error err = {0};
        if (pare_status_exit_code(pare_recipe_parse(&r, cases[i][0], &err)) != 2 || r ||
            !strstr(err.message, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], err.message);
    }
}

static bool takes(const char *recipe, const char *name, size_t n_dims, bool tied) {
    pare_recipe *r;
    assert_ok(pare_recipe_parse(&r, recipe, err));
    bool result = pare_step_takes(&r->steps[0], name, n_dims, tied);
    pare_recipe_free(r);
    return result;
}

static void steps_take_their_tensors(void **state) {
    (void)state;
    assert_true(takes("magnitude", "blk.0.attn_q.weight", 2, true));
    assert_false(takes("magnitude", "token_embd.weight", 2, true));
    assert_false(takes("magnitude", "blk.0.attn_norm.weight", 1, true));
    assert_false(takes("magnitude", "blk.0.attn_q.bias", 1, true));
    assert_true(takes("magnitude@all", "token_embd.weight", 2, true));
    assert_true(takes("q4_k_m", "token_embd.weight", 2, true));
    assert_false(takes("q4_k_m", "position_embd.weight", 2, true));
    assert_false(takes("bitmap_bf16", "token_embd.weight", 2, true));
    assert_true(takes("q8_0@output", "token_embd.weight", 2, true));
    assert_false(takes("q8_0@output", "token_embd.weight", 2, false));
    assert_true(takes("q8_0@output", "output.weight", 2, false));
    assert_true(takes("q8_0@ffn", "blk.3.ffn_up.weight", 2, false));
    assert_false(takes("q8_0@ffn", "blk.3.attn_k.weight", 2, false));
    assert_true(takes("q8_0@/attn_k/", "blk.3.attn_k.weight", 2, false));
}

/* n layers, heads, kv heads -> the encodings of attn_v of each layer as a string of digits. */
static void mix_of(const char *mix, const char *leaf, size_t n_layers, size_t heads, size_t kv,
                   bool has_output, char out[64][16]) {
    static pare_model_config config;
    config.n_layers = n_layers;
    config.n_heads = heads;
    config.n_kv_heads = kv;
    for (size_t i = 0; i < n_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%zu.%s.weight", i, leaf);
        snprintf(
            out[i], 16, "%s",
            pare_mix_encoding(pare_mix_find(mix), &config, has_output, name, false, false)->name);
    }
}

static void mixes_follow_the_table(void **state) {
    (void)state;
    char e[64][16];
    mix_of("q4_k_m", "ffn_down", 32, 32, 32, true, e);
    const char more[] = "11110010010010010010010010011111"; /* i<4, i>=28, (i-4)%3==2 */
    for (size_t i = 0; i < 32; i++) assert_string_equal(e[i], more[i] == '1' ? "q6_k" : "q4_k");
    mix_of("q3_k_m", "attn_v", 4, 8, 8, true, e);
    assert_string_equal(e[1], "q5_k");
    assert_string_equal(e[2], "q4_k");
    mix_of("q4_k_s", "attn_v", 6, 8, 8, true, e);
    assert_string_equal(e[3], "q5_k");
    assert_string_equal(e[4], "q4_k");
    mix_of("q2_k", "attn_v", 1, 8, 2, true, e);
    assert_string_equal(e[0], "q4_k");
    mix_of("q2_k", "attn_v", 1, 8, 4, true, e);
    assert_string_equal(e[0], "q3_k");

    static pare_model_config config = {.n_layers = 1, .n_heads = 1, .n_kv_heads = 1};
    const pare_mix *m = pare_mix_find("q4_0");
    assert_string_equal(
        pare_mix_encoding(m, &config, false, "token_embd.weight", false, false)->name, "q6_k");
    assert_string_equal(
        pare_mix_encoding(m, &config, true, "token_embd.weight", false, false)->name, "q4_0");
    assert_string_equal(pare_mix_encoding(m, &config, true, "output.weight", false, false)->name,
                        "q6_k");
    assert_string_equal(pare_mix_encoding(m, &config, true, "output.weight", true, false)->name,
                        "q4_0");
}

/* What llama.cpp's quantize does otherwise when it has an imatrix: ffn_down of the first eighth. */
static void mixes_know_importance(void **state) {
    (void)state;
    static pare_model_config config = {.n_layers = 16, .n_heads = 8, .n_kv_heads = 4};
    static const char *const cases[][3] = {{"q4_0", "q4_0", "q4_1"},
                                           {"q5_0", "q5_0", "q5_1"},
                                           {"iq4_xs", "q5_k", "iq4_xs"},
                                           {"iq4_nl", "q5_k", "iq4_nl"},
                                           {"q4_k_s", "q5_k", "q5_k"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int known = 0; known < 2; known++) {
            const pare_mix *m = pare_mix_find(cases[i][0]);
            assert_string_equal(
                pare_mix_encoding(m, &config, true, "blk.1.ffn_down.weight", false, known)->name,
                cases[i][1 + known]);
            const char *base =
                pare_mix_encoding(m, &config, true, "blk.2.ffn_down.weight", false, known)->name;
            assert_string_equal(base, i == 4 ? "q4_k" : cases[i][0]);
        }
}

static void narrow_rows_fall_back(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"q2_k", "q4_0"}, {"q3_k", "q4_0"}, {"q4_k", "q5_0"},     {"q5_k", "q5_1"},
        {"q6_k", "q8_0"}, {"q8_0", "q8_0"}, {"iq4_xs", "iq4_nl"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const pare_encoding *e = pare_encoding_find(cases[i][0]);
        assert_string_equal(pare_mix_fit(e, 576, PARE_FALLBACK_GGML)->name, cases[i][1]);
        assert_ptr_equal(pare_mix_fit(e, 512, PARE_FALLBACK_REFUSE), e);
        assert_string_equal(pare_mix_fit(e, 100, PARE_FALLBACK_GGML)->name, "f16");
    }
    assert_null(pare_mix_fit(pare_encoding_find("q4_k"), 576, PARE_FALLBACK_REFUSE));
}

static void every_mix_is_made_of_known_encodings(void **state) {
    (void)state;
    static pare_model_config config = {.n_layers = 24, .n_heads = 8, .n_kv_heads = 2};
    static const char *const leaves[] = {"attn_q", "attn_v", "attn_output", "ffn_down", "ffn_up"};
    for (size_t i = 0; pare_mix_name_at(i); i++) {
        const pare_mix *m = pare_mix_find(pare_mix_name_at(i));
        assert_string_equal(pare_mix_name_of_file_type(pare_mix_file_type(m)), pare_mix_name(m));
        assert_non_null(pare_mix_encoding(m, &config, true, "output.weight", false, false));
        for (size_t layer = 0; layer < 24; layer++)
            for (size_t k = 0; k < 5; k++) {
                char name[64];
                snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, leaves[k]);
                assert_non_null(pare_mix_encoding(m, &config, true, name, false, false));
            }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_have_one_canonical_form),
        cmocka_unit_test(slips_are_named),
        cmocka_unit_test(steps_take_their_tensors),
        cmocka_unit_test(mixes_follow_the_table),
        cmocka_unit_test(mixes_know_importance),
        cmocka_unit_test(narrow_rows_fall_back),
        cmocka_unit_test(every_mix_is_made_of_known_encodings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
