/* Real vocabularies: llama.cpp's fixtures, and the counts and checksums of WikiText-2's ids that
 * independent implementations gave. */
#include "support/test.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/os.h"
#include "pare/tokenizer.h"
#include "text/wikitext.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_file(const char *path, size_t *n) {
    char *text = NULL;
    assert_ok(pare_file_read_all(&text, n, path, (size_t)1 << 28, err));
    return text;
}

static pare_tokenizer *load(const char *path) {
    pare_tokenizer *tok = NULL;
    assert_ok(pare_tokenizer_load(&tok, path, err));
    return tok;
}

/* --- llama.cpp's fixtures: 47 strings and their ids; the last string is the empty one behind the
 * last separator, which has no line of ids --- */

#define SEPARATOR "\n__ggml_vocab_test__\n"

static size_t read_ids(const char *line, int32_t *ids, size_t capacity) {
    size_t n = 0;
    for (char *end; *line && *line != '\n' && n < capacity; line = end) {
        ids[n] = (int32_t)strtol(line, &end, 10);
        if (end == line) break;
        n++;
    }
    return n;
}

static void check_fixture(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "vocab/ggml-vocab-%s.gguf", name);
    const char *vocab = test_data(path);
    if (!vocab) return;
    pare_tokenizer *tok = load(vocab);
    char *input, *output;
    size_t n_input, n_output;
    snprintf(path, sizeof path, "vocab/ggml-vocab-%s.gguf.inp", name);
    input = read_file(test_data(path), &n_input);
    snprintf(path, sizeof path, "vocab/ggml-vocab-%s.gguf.out", name);
    output = read_file(test_data(path), &n_output);

    int n_strings = 0;
    const char *text = input, *line = output;
    for (const char *end; (end = strstr(text, SEPARATOR)) != NULL; text = end + strlen(SEPARATOR)) {
        int32_t expected[512];
        size_t n_expected = read_ids(line, expected, 512);
        pare_ids ids = {0};
        assert_ok(pare_tokenizer_encode(tok, &ids, text, (size_t)(end - text), 0, err));
        if (ids.n != n_expected ||
            (ids.n && memcmp(ids.data, expected, ids.n * sizeof *expected) != 0))
            fail_msg("%s: string %d: %zu ids, expected %zu", name, n_strings, ids.n, n_expected);
        pare_ids_free(&ids);
        line = strchr(line, '\n');
        assert_non_null(line);
        line++;
        n_strings++;
    }
    assert_int_equal(n_strings, 46);
    assert_string_equal(text, "");
    pare_free(input);
    pare_free(output);
    pare_tokenizer_free(tok);
}

static void test_fixtures(void **state) {
    (void)state;
    check_fixture("gpt-2");
    check_fixture("starcoder");
    check_fixture("llama-spm");
    check_fixture("phi-3");
}

/* --- WikiText-2 --- */

typedef struct expectation {
    const char *data, *model; /* a file of the data folder, or a real model */
    bool adds_bos;
    size_t hf_tokens, raw_tokens; /* with BOS where it is added */
    uint32_t hf_crc, raw_crc;     /* of all ids, or of those without BOS */
    bool crc_without_bos;
} expectation;

static const expectation expectations[] = {
    {"vocab/ggml-vocab-gpt-2.gguf", NULL, false, 287644, 286220, 0xdd2fa101, 0xdacf44f6, false},
    {"vocab/ggml-vocab-llama-spm.gguf", NULL, true, 341469, 335687, 0x494f3725, 0xf24f58cf, false},
    {"tokenizers/tinyllama.tokenizer.json", NULL, true, 341469, 335687, 0x494f3725, 0xf24f58cf,
     false}, /* Llama 2's vocabulary from the other kind of file */
    {"tokenizers/qwen3.tokenizer.json", NULL, false, 299078, 299079, 0x9557b487, 0xa321ac3b, false},
    {NULL, "gemma3", true, 292283, 295215, 0xfeb335cc, 0x2fac578f, true},
    /* transformers' GPT2TokenizerFast with SmolLM2's rules gives the same */
    {NULL, "smollm2", false, 304978, 303415, 0xc5eeb539, 0xdcd72c26, false},
};

static void check_text(const expectation *e, const pare_tokenizer *tok, const char *text, size_t n,
                       size_t n_expected, uint32_t crc) {
    pare_ids ids = {0};
    assert_ok(pare_tokenizer_encode(tok, &ids, text, n, PARE_TOK_ADD_SPECIAL, err));
    assert_int_equal(ids.n, n_expected);
    size_t skip = e->crc_without_bos;
    assert_int_equal(pare_ids_crc32(ids.data + skip, ids.n - skip), crc);

    char *back;
    size_t n_back;
    assert_ok(
        pare_tokenizer_decode(tok, &back, &n_back, ids.data, ids.n, PARE_TOK_SKIP_SPECIAL, err));
    assert_int_equal(n_back, n);
    assert_memory_equal(back, text, n);
    pare_tokenizer_text_free(back);
    pare_ids_free(&ids);
}

static void test_wikitext(void **state) {
    (void)state;
    const char *path = test_data("wikitext-2-raw/wiki.test.raw");
    if (!path) return;
    size_t n_raw, n_rows;
    char *raw = read_file(path, &n_raw), *rows;
    assert_ok(pare_text_hf_rows(&rows, &n_rows, raw, n_raw, err));
    n_raw -= raw[n_raw - 1] == '\n'; /* llama.cpp drops it */
    for (size_t i = 0; i < sizeof expectations / sizeof *expectations; i++) {
        const expectation *e = &expectations[i];
        const char *file = e->data ? test_data(e->data) : test_model(e->model);
        if (!file) continue;
        pare_tokenizer *tok = load(file);
        assert_int_equal(pare_tokenizer_adds_bos(tok), e->adds_bos);
        check_text(e, tok, rows, n_rows, e->hf_tokens, e->hf_crc);
        check_text(e, tok, raw, n_raw, e->raw_tokens, e->raw_crc);
        pare_tokenizer_free(tok);
    }
    pare_free(raw);
    pare_free(rows);
}

static void test_rows(void **state) {
    (void)state;
    char *rows;
    size_t n;
    static const char text[] = " \n = A = \n \xC2\xA0\n\nlast";
    assert_ok(pare_text_hf_rows(&rows, &n, text, strlen(text), err));
    assert_string_equal(rows, "\n\n = A = \n\n\n\n\n\n\nlast");
    pare_free(rows);
    assert_ok(pare_text_hf_rows(&rows, &n, "", 0, err));
    assert_int_equal(n, 0);
    pare_free(rows);

    const char *path = test_data("wikitext-2-raw/wiki.test.raw");
    if (!path) return;
    size_t n_raw;
    char *raw = read_file(path, &n_raw);
    assert_ok(pare_text_hf_rows(&rows, &n, raw, n_raw, err));
    assert_int_equal(n, 1296370);
    pare_sha256 h;
    uint8_t digest[32];
    pare_sha256_init(&h);
    pare_sha256_update(&h, rows, n);
    pare_sha256_final(&h, digest);
    static const uint8_t expected[4] = {0x69, 0x6c, 0xca, 0x6b};
    assert_memory_equal(digest, expected, 4);
    pare_free(raw);
    pare_free(rows);
}

/* T8: one character a million times, as one word for the merges. What is quadratic does not come
 * back, what recurses dies; the ids must give the text again. bench_tokenizer measures the time. */
static void test_hard_texts(void **state) {
    (void)state;
    static const char *const units[] = {"a",
                                        "0",
                                        " ",
                                        "\n",
                                        "^",
                                        "'",
                                        "\xC3\xA9",
                                        "\xE4\xB8\xAD",
                                        "\xCC\x81",
                                        "\xE2\x80\x8D",
                                        "\xCC\x81\xCC\x96",
                                        "\xFF",
                                        "a0 \n^\xC3\xA9\xE4\xB8\xAD\xCC\x81\xE2\x80\x8D'LL  \t<"};
    static const char *const vocabs[] = {"vocab/ggml-vocab-gpt-2.gguf",
                                         "vocab/ggml-vocab-llama-spm.gguf"};
    enum { COUNT = 1000000 };
    for (size_t k = 0; k < 2; k++) {
        const char *file = test_data(vocabs[k]);
        if (!file) continue;
        pare_tokenizer *tok = load(file);
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            size_t len = strlen(units[i]), n = 0, n_back;
            char *text = pare_malloc(COUNT + len, 1), *back;
            for (; n < COUNT; n += len) memcpy(text + n, units[i], len);
            pare_ids ids = {0};
            assert_ok(pare_tokenizer_encode(tok, &ids, text, n, 0, err));
            assert_ok(pare_tokenizer_decode(tok, &back, &n_back, ids.data, ids.n, 0, err));
            assert_int_equal(n_back, n);
            assert_memory_equal(back, text, n);
            pare_tokenizer_text_free(back);
            pare_ids_free(&ids);
            pare_free(text);
        }
        pare_tokenizer_free(tok);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_wikitext),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_hard_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
