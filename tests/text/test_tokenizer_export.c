/* Tokenizers in the other file format give the same ids: GGUF -> tokenizer.json -> GGUF and
 * tokenizer.json -> GGUF, on WikiText-2's rows and on the fixtures' strings, with and without
 * special tokens in the text. (That Hugging Face's tokenizers and llama.cpp agree on the exported
 * files was checked by hand: docs/tokenizers.md.) */
#include "support/test.h"

#include "base/memory.h"
#include "base/os.h"
#include "text/tokenizer_export.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static pare_tokenizer *load(const char *path) {
    pare_tokenizer *tok = NULL;
    assert_ok(pare_tokenizer_load(&tok, path, err));
    return tok;
}

/* WikiText-2's first 200 kB and the fixtures' strings as one text. */
static char *sample(size_t *n) {
    const char *wiki = test_data("wikitext-2-raw/wiki.test.raw");
    const char *strings = test_data("vocab/ggml-vocab-gpt-2.gguf.inp");
    if (!wiki || !strings) return NULL;
    char *a, *b;
    size_t n_a, n_b;
    assert_ok(pare_file_read_all(&a, &n_a, wiki, (size_t)1 << 28, err));
    assert_ok(pare_file_read_all(&b, &n_b, strings, (size_t)1 << 28, err));
    n_a = n_a < 200000 ? n_a : 200000;
    static const char special[] =
        "<s>a</s><|endoftext|> <|im_start|>x<|end|>  y<bos>\n\n\n<h1>\t\t";
    *n = n_a + n_b + strlen(special);
    char *text = pare_malloc(*n + 1, 1);
    memcpy(text, a, n_a);
    memcpy(text + n_a, b, n_b);
    memcpy(text + n_a + n_b, special, sizeof special);
    pare_free(a);
    pare_free(b);
    return text;
}

static void same_ids(const pare_tokenizer *a, const pare_tokenizer *b, const char *text, size_t n) {
    for (unsigned flags = 0; flags < 4; flags++) {
        pare_ids x = {0}, y = {0};
        assert_ok(pare_tokenizer_encode(a, &x, text, n, flags, err));
        assert_ok(pare_tokenizer_encode(b, &y, text, n, flags, err));
        assert_int_equal(x.n, y.n);
        assert_memory_equal(x.data, y.data, x.n * sizeof *x.data);
        char *s, *t;
        size_t n_s, n_t;
        unsigned how = PARE_TOK_SKIP_SPECIAL;
        assert_ok(pare_tokenizer_decode(a, &s, &n_s, x.data, x.n, how, err));
        assert_ok(pare_tokenizer_decode(b, &t, &n_t, y.data, y.n, how, err));
        assert_int_equal(n_s, n_t);
        assert_memory_equal(s, t, n_s);
        pare_tokenizer_text_free(s);
        pare_tokenizer_text_free(t);
        pare_ids_free(&x);
        pare_ids_free(&y);
    }
    assert_int_equal(pare_tokenizer_bos(a), pare_tokenizer_bos(b));
    assert_int_equal(pare_tokenizer_eos(a), pare_tokenizer_eos(b));
    assert_int_equal(pare_tokenizer_adds_bos(a), pare_tokenizer_adds_bos(b));
    const char *p = pare_tokenizer_chat_template(a), *q = pare_tokenizer_chat_template(b);
    assert_string_equal(p ? p : "", q ? q : "");
}

static const char *to_gguf(const pare_tokenizer *tok, const char *name, size_t n_rows, bool exact) {
    const char *path = test_path(name);
    pare_gguf_vocab v;
    pare_gguf_writer *w;
    assert_ok(pare_tokenizer_to_gguf(&v, tok, n_rows, err));
    assert_int_equal(v.exact, exact);
    assert_ok(pare_gguf_writer_create(&w, path, 0, err));
    assert_ok(pare_gguf_set_str(w, "general.architecture", "llama", err));
    assert_ok(pare_gguf_vocab_write(&v, w, err));
    assert_ok(pare_gguf_begin(w, err));
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);
    pare_gguf_vocab_free(&v);
    return path;
}

static void there_and_back(const char *source, const char *text, size_t n) {
    static int count;
    char name[32];
    snprintf(name, sizeof name, "folder%d", ++count);
    const char *folder = test_path(name);
    assert_int_equal(mkdir(folder, 0777), 0);
    pare_tokenizer *first = load(source);
    assert_ok(pare_tokenizer_write_json(first, folder, err));
    pare_tokenizer *second = load(folder);
    same_ids(first, second, text, n);
    snprintf(name, sizeof name, "again%d.gguf", count);
    pare_tokenizer *third = load(to_gguf(second, name, 0, true));
    same_ids(first, third, text, n);
    pare_tokenizer_free(first);
    pare_tokenizer_free(second);
    pare_tokenizer_free(third);
}

static void test_from_gguf(void **state) {
    (void)state;
    size_t n;
    char *text = sample(&n);
    if (!text) return;
    static const char *const names[] = {"gpt-2", "starcoder", "llama-spm"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "vocab/ggml-vocab-%s.gguf", names[i]);
        const char *file = test_data(path);
        if (file) there_and_back(file, text, n);
    }
    static const char *const models[] = {"smollm2", "gemma3"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *file = test_model(models[i]);
        if (file) there_and_back(file, text, n);
    }
    pare_free(text);
}

static void test_from_json(void **state) {
    (void)state;
    size_t n;
    char *text = sample(&n);
    if (!text) return;
    const char *tiny = test_data("tokenizers/tinyllama.tokenizer.json");
    if (tiny) {
        pare_tokenizer *a = load(tiny), *b = load(to_gguf(a, "tiny.gguf", 0, true));
        same_ids(a, b, text, n);
        pare_tokenizer_free(a);
        pare_tokenizer_free(b);
    }
    const char *qwen = test_data("tokenizers/qwen3.tokenizer.json");
    if (qwen) {
        enum { ROWS = 151936 };
        pare_tokenizer *a = load(qwen), *b = load(to_gguf(a, "qwen.gguf", ROWS, true));
        same_ids(a, b, text, n);
        assert_int_equal(pare_tokenizer_vocab_size(b), ROWS);
        assert_string_equal(pare_tokenizer_token(b, ROWS - 1), "[PAD151935]");
        pare_gguf_vocab v;
        pare_error err = {0};
        assert_int_equal(pare_tokenizer_to_gguf(&v, a, 151668, &err), PARE_ERR_ARG);
        pare_tokenizer_free(a);
        pare_tokenizer_free(b);
    }
    pare_free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_from_gguf),
        cmocka_unit_test(test_from_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
