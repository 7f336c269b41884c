/* Rows T1 to T11 of tokenizer files and texts, V4 to V6 and V8 of GGUF vocabularies: each guard at
 * its limit and one past it. */
#include "support/test.h"

#include "pare/tokenizer.h"
#include "support/gguf_build.h"
#include "support/tokenizer_build.h"
#include "text/vocab.h"

#include <math.h>

/* --- helpers --- */

static pare_tokenizer *load(const test_tokenizer *s) {
    pare_tokenizer *tok = NULL;
    assert_ok(pare_tokenizer_load(&tok, test_tokenizer_write(s, "tokenizer.json"), err));
    return tok;
}

static void accepted(const test_tokenizer *s) { pare_tokenizer_free(load(s)); }

/* Loading fails, the message names the file and has `part` in it. */
static void refused_as(const test_tokenizer *s, pare_status status, const char *part) {
    pare_tokenizer *tok = NULL;
    pare_error err = {0};
    pare_status st = pare_tokenizer_load(&tok, test_tokenizer_write(s, "tokenizer.json"), &err);
    if (st != status || !strstr(err.message, part) || !strstr(err.message, "tokenizer.json"))
        fail_msg("found %s \"%s\", expected %s with \"%s\"", pare_status_name(st), err.message,
                 pare_status_name(status), part);
    assert_null(tok);
}

static void refused(const test_tokenizer *s, const char *part) {
    refused_as(s, PARE_ERR_INPUT, part);
}

static void encodes(const pare_tokenizer *tok, unsigned flags, const char *text, size_t n,
                    const int32_t *expected, size_t n_expected) {
    pare_ids ids = {0};
    assert_ok(pare_tokenizer_encode(tok, &ids, text, n, flags, err));
    assert_int_equal(ids.n, n_expected);
    if (n_expected) assert_memory_equal(ids.data, expected, n_expected * sizeof *expected);
    pare_ids_free(&ids);
}
#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4

static void fails_to_encode(const pare_tokenizer *tok, const char *text, size_t n,
                            pare_status status, const char *part) {
    pare_ids ids = {0};
    pare_error err = {0};
    pare_status st = pare_tokenizer_encode(tok, &ids, text, n, 0, &err);
    if (st != status || !strstr(err.message, part))
        fail_msg("found %s \"%s\", expected %s with \"%s\"", pare_status_name(st), err.message,
                 pare_status_name(status), part);
    assert_int_equal(ids.n, 0);
    pare_ids_free(&ids);
}

/* --- tokenizer.json --- */

static void test_merges(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    pare_tokenizer *tok = load(&s);
    encodes(tok, 0, "abc ab", 6, IDS(257, ' ', 256));
    assert_string_equal(pare_tokenizer_warnings(tok), "");
    pare_tokenizer_free(tok);

    /* T1 */
    s.merges = "[\"a b\", \"a q\"]";
    refused(&s, "merges.1");
    s.merges = "[\"a xy\"]";
    refused(&s, "merges.0");
    /* T2: the first one counts */
    s.merges = "[\"a b\", \"ab c\", \"\xC4\xA0 a\", \"a b\"]";
    tok = load(&s);
    encodes(tok, 0, "abc", 3, IDS(257));
    encodes(tok, 0, " ab", 3, IDS(' ', 256));
    assert_non_null(strstr(pare_tokenizer_warnings(tok), "twice"));
    assert_non_null(strstr(pare_tokenizer_describe(tok), "warnings"));
    pare_tokenizer_free(tok);
    /* T3: empty parts, and what is no pair */
    static const char *const bad[] = {"[\" a\"]",     "[\"a \"]",  "[\"ab\"]",
                                      "[\"a b c\"]",  "[[\"a\"]]", "[[\"\", \"a\"]]",
                                      "[[\"a\", 1]]", "[17]",      "[[\"a\", \"b\", \"c\"]]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        s.merges = bad[i];
        refused(&s, "merges.0");
    }
    s.merges = "{}";
    refused(&s, "merges");
    s.merges = "[]";
    accepted(&s);
}

static void test_loops(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    s.vocab = "\"ab\": 256, \"abc\": 257, \"\": 258";
    refused(&s, "empty text");
    s = test_tokenizer_default();
    s.added = "{\"id\": 259, \"content\": \"\"}, {\"id\": 260, \"content\": \"x y\"}";
    refused(&s, "empty text");
    s = test_tokenizer_default();
    s.normalizer = "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"x\"}";
    refused(&s, "Replace");
    s.normalizer = "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"ba\"}";
    refused(&s, "Replace");

    /* growth: twenty times is accepted, more is not */
    static char text[1000];
    memset(text, 'a', sizeof text);
    s.normalizer = "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": "
                   "\"bbbbbbbbbbbbbbbbbbbb\"}";
    pare_tokenizer *tok = load(&s);
    pare_ids ids = {0};
    assert_ok(pare_tokenizer_encode(tok, &ids, text, sizeof text, 0, err));
    assert_int_equal(ids.n, 20000);
    pare_ids_free(&ids);
    pare_tokenizer_free(tok);
    s.normalizer = "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": "
                   "\"bbbbbbbbbbbbbbbbbbbbb\"}";
    tok = load(&s);
    fails_to_encode(tok, text, sizeof text, PARE_ERR_INPUT, "20 times");
    pare_tokenizer_free(tok);
}

static void test_ids(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    static const char *const bad[] = {"\"ab\": 256, \"abc\": 256, \"\xC4\xA0"
                                      "a\": 258",
                                      "\"ab\": 256, \"abc\": -1, \"\xC4\xA0"
                                      "a\": 258",
                                      "\"ab\": 256, \"abc\": 2147483648, \"\xC4\xA0"
                                      "a\": 258",
                                      "\"ab\": 256, \"abc\": 4294967553, \"\xC4\xA0"
                                      "a\": 258",
                                      "\"ab\": 256, \"abc\": 262, \"\xC4\xA0"
                                      "a\": 258",
                                      "\"ab\": 256, \"abc\": \"257\", \"\xC4\xA0"
                                      "a\": 258",
                                      "\"ab\": 256, \"abc\": 257.0, \"\xC4\xA0"
                                      "a\": 258"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        s.vocab = bad[i];
        refused(&s, "id");
    }
    /* an added token: a text of vocab with another id; an id of another text; twice */
    s = test_tokenizer_default();
    s.added = "{\"id\": 259, \"content\": \"ab\"}";
    refused(&s, "as in vocab");
    s.added = "{\"id\": 256, \"content\": \"<s>\"}";
    refused(&s, "id 256");
    s.added = "{\"id\": 259, \"content\": \"<s>\"}, {\"id\": 260, \"content\": \"<s>\"}";
    refused(&s, "second time");
    s.added = "{\"id\": 259, \"content\": \"<s>\"}, {\"id\": 259, \"content\": \"<s>\"}";
    refused(&s, "id 259");
    s.added = "{\"id\": 256, \"content\": \"ab\"}";
    accepted(&s);
    s.added = "{\"id\": 256, \"content\": \"ab\"}, {\"id\": 260, \"content\": \"<s>\"}";
    refused(&s, "no token with id 259");
    s.added = "{\"id\": 259}";
    refused(&s, "added_tokens.0");
    s.added = "{\"id\": 259, \"content\": \"<s>\", \"lstrip\": 1}";
    refused(&s, "lstrip");
}

/* T4: many added tokens cost no more than few; the length of one is limited. */
static void test_added(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    s.n_added = 100000;
    pare_tokenizer *tok = load(&s);
    static char text[300000];
    for (size_t i = 0; i + 6 <= sizeof text; i += 6) memcpy(text + i, "<x123>", 6);
    pare_ids ids = {0};
    assert_ok(pare_tokenizer_encode(tok, &ids, text, sizeof text, 0, err));
    assert_int_equal(ids.n, sizeof text / 6);
    assert_int_equal(ids.data[0], 261 + 123);
    pare_ids_free(&ids);
    encodes(tok, 0, "<x9999<x99999>", 14, IDS('<', 'x', '9', '9', '9', '9', 261 + 99999));
    pare_tokenizer_free(tok);

    static char added[PARE_ADDED_TEXT_MAX + 200];
    for (size_t n = PARE_ADDED_TEXT_MAX; n <= PARE_ADDED_TEXT_MAX + 1; n++) {
        s = test_tokenizer_default();
        int head = snprintf(added, sizeof added, "{\"id\": 259, \"content\": \"");
        memset(added + head, 'y', n);
        snprintf(added + head + n, sizeof added - (size_t)head - n, "\"}");
        s.added = added;
        if (n == PARE_ADDED_TEXT_MAX)
            accepted(&s);
        else
            refused(&s, "added token 259");
    }
}

static void test_fallback(void **state) {
    (void)state;
    test_bytes vocab = {0};
    tb_print(&vocab, "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"a\": 3, \"\xE2\x96\x81\": 4");
    for (unsigned b = 0; b < 256; b++) tb_print(&vocab, ", \"<0x%02X>\": %u", b, 5 + b);
    tb_add(&vocab, "", 1);
    test_tokenizer s = test_tokenizer_chars((char *)vocab.p, "[]");
    s.model = "\"type\": \"BPE\", \"byte_fallback\": true,";
    pare_tokenizer *tok = load(&s);
    encodes(tok, 0, "a\xC3\xA9", 3, IDS(4, 3, 5 + 0xC3, 5 + 0xA9));
    encodes(tok, 0, "\xFF\0", 2, IDS(4, 5 + 0xFF, 5));
    pare_tokenizer_free(tok);
    /* T5: one byte is missing */
    char *at = strstr((char *)vocab.p, "<0x41>");
    at[3] = '!';
    refused(&s, "<0x41>");
    tb_free(&vocab);

    static const char few[] =
        "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"a\": 3, \"\xE2\x96\x81\": 4";
    s = test_tokenizer_chars(few, "[]");
    tok = load(&s);
    encodes(tok, 0,
            "\xC3\xA9\xFF"
            "a",
            4, IDS(4, 0, 0, 3));
    pare_tokenizer_free(tok);
    s.model = "\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"fuse_unk\": true,";
    tok = load(&s);
    encodes(tok, 0,
            "\xC3\xA9\xFF"
            "ab",
            5, IDS(4, 0, 3, 0));
    pare_tokenizer_free(tok);
    s.model = "\"type\": \"BPE\", \"unk_token\": \"<none>\",";
    refused(&s, "unk_token");
    /* no token, no bytes, no unknown token: said, never dropped */
    s.model = "\"type\": \"BPE\", \"unk_token\": null,";
    tok = load(&s);
    encodes(tok, 0, "a a", 3, IDS(4, 3, 4, 3));
    fails_to_encode(tok, "ab", 2, PARE_ERR_INPUT, "no token");
    pare_tokenizer_free(tok);
}

static void test_models(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    s.model = "\"type\": \"Unigram\",";
    refused_as(&s, PARE_ERR_UNSUPPORTED, "Unigram");
    s.model = "\"type\": 3,";
    refused(&s, "model.type");
    s.model = "\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\",";
    refused_as(&s, PARE_ERR_UNSUPPORTED, "end_of_word_suffix");
    s.model = "\"type\": \"BPE\", \"byte_fallback\": \"yes\",";
    refused(&s, "byte_fallback");
    s = test_tokenizer_default();
    s.no_bytes = 1;
    s.vocab = "";
    s.added = "";
    refused(&s, "model.vocab");
    s = test_tokenizer_default();
    s.normalizer = "{\"type\": \"Lowercase\"}";
    refused_as(&s, PARE_ERR_UNSUPPORTED, "Lowercase");
    s.normalizer = "[]";
    refused(&s, "normalizer");
    s = test_tokenizer_default();
    s.pre = "{\"type\": \"BertPreTokenizer\"}";
    refused_as(&s, PARE_ERR_UNSUPPORTED, "BertPreTokenizer");
    s = test_tokenizer_default();
    s.decoder = "{\"type\": \"WordPiece\"}";
    refused_as(&s, PARE_ERR_UNSUPPORTED, "WordPiece");
    /* sequences in sequences */
    for (size_t depth = 16; depth <= 17; depth++) {
        char deep[1200];
        size_t n = 0;
        for (size_t i = 0; i < depth; i++)
            n += (size_t)snprintf(deep + n, sizeof deep - n,
                                  "{\"type\": \"Sequence\", \"normalizers\": [");
        n += (size_t)snprintf(deep + n, sizeof deep - n, "{\"type\": \"NFC\"}");
        for (size_t i = 0; i < depth; i++) n += (size_t)snprintf(deep + n, sizeof deep - n, "]}");
        s = test_tokenizer_default();
        s.normalizer = deep;
        if (depth == 16)
            accepted(&s);
        else
            refused(&s, "nested");
    }
}

/* --- T7: regular expressions --- */

static const char *split_by(const char *regex) {
    static char pre[800];
    snprintf(pre, sizeof pre,
             "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
             "{\"Regex\": "
             "\"%s\"}, \"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", "
             "\"add_prefix_space\": false, "
             "\"use_regex\": false}]}",
             regex);
    return pre;
}

static void test_regex(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    static const char *const invalid[] = {"(", "[a", "a{2,1}", "\\\\C", "(?<n", "*", "(?P>x)"};
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) {
        s.pre = split_by(invalid[i]);
        refused(&s, "regular expression");
    }
    /* nested beyond the limit */
    char nested[260] = "";
    for (size_t i = 0; i < 120; i++) nested[i] = '(', nested[120 + i] = ')';
    s.pre = split_by(nested);
    refused(&s, "regular expression");

    /* exponential: an error, not a hang */
    static const char *const slow[] = {"(a+)+$", "(a|aa)+$", "(?:a*)*b", "(a(?1)?b|a)*$"};
    char text[65];
    memset(text, 'a', 64);
    text[64] = '!';
    for (size_t i = 0; i < 2; i++) {
        s.pre = split_by(slow[i]);
        pare_tokenizer *tok = load(&s);
        fails_to_encode(tok, text, 65, PARE_ERR_INPUT, "limit");
        pare_tokenizer_free(tok);
    }
    for (size_t i = 2; i < 4; i++) { /* PCRE2 may see through it */
        s.pre = split_by(slow[i]);
        pare_tokenizer *tok = load(&s);
        pare_ids ids = {0};
        pare_tokenizer_encode(tok, &ids, text, 65, 0, NULL);
        pare_ids_free(&ids);
        pare_tokenizer_free(tok);
    }
    /* empty matches cut, and end */
    s.pre = split_by("(?=b)");
    pare_tokenizer *tok = load(&s);
    encodes(tok, 0, "abcab", 5, IDS('a', 'b', 'c', 'a', 'b'));
    pare_tokenizer_free(tok);
    s.pre = split_by("x*");
    tok = load(&s);
    encodes(tok, 0, "ab\xC3\xA9", 4, IDS('a', 'b', 0xC3, 0xA9));
    pare_tokenizer_free(tok);
    /* recursion in the expression and a match that ends before it begins */
    s.pre = split_by("\\\\((?:[^()]|(?R))*\\\\)");
    tok = load(&s);
    encodes(tok, 0, "((ab))", 6, IDS('(', '(', 256, ')', ')'));
    pare_tokenizer_free(tok);
}

static void test_long_regex(void **state) {
    (void)state;
    static char pre[PARE_PATTERN_MAX + 400];
    static const char head[] = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
                               "\"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"";
    static const char tail[] = "\"}}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}";
    for (size_t n = PARE_PATTERN_MAX - 1; n <= PARE_PATTERN_MAX + 1; n += 2) {
        test_tokenizer s = test_tokenizer_default();
        test_bytes b = {0};
        tb_add(&b, head, strlen(head));
        for (size_t i = 0; i < n; i++) tb_add(&b, i % 40 ? "a" : "|", 1);
        tb_add(&b, tail, sizeof tail);
        memcpy(pre, b.p, b.n);
        tb_free(&b);
        s.pre = pre;
        if (n < PARE_PATTERN_MAX) {
            pare_tokenizer *tok = NULL; /* our limit lets it pass; PCRE2's own may not */
            pare_error err = {0};
            pare_tokenizer_load(&tok, test_tokenizer_write(&s, "tokenizer.json"), &err);
            assert_null(strstr(err.message, "expected at most"));
            pare_tokenizer_free(tok);
        } else {
            refused(&s, "expected at most");
        }
    }
}

/* --- T9 to T11 --- */

static void test_invalid_utf8(void **state) {
    (void)state;
    static const struct {
        const char *s;
        size_t n;
    } texts[] = {{"\xC0\x80", 2},
                 {"\xE0\x80\xAF", 3},
                 {"\xED\xA0\x80", 3},
                 {"\x80", 1},
                 {"a\xE4\xB8", 3},
                 {"\xF4\x90\x80\x80", 4},
                 {"\0a\0", 3},
                 {"\xFF\xFE"
                  "ab",
                  4},
                 {"ab\xC3"
                  "abc\xA9",
                  7},
                 {"\xF0\x9F\x9A", 3}};
    test_tokenizer s = test_tokenizer_default();
    for (int nfc = 0; nfc < 2; nfc++) {
        if (nfc) s.normalizer = "{\"type\": \"NFC\"}";
        pare_tokenizer *tok = load(&s);
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            pare_ids ids = {0};
            char *back;
            size_t n;
            assert_ok(pare_tokenizer_encode(tok, &ids, texts[i].s, texts[i].n, 0, err));
            assert_ok(pare_tokenizer_decode(tok, &back, &n, ids.data, ids.n, 0, err));
            assert_int_equal(n, texts[i].n);
            assert_memory_equal(back, texts[i].s, n);
            pare_tokenizer_text_free(back);
            assert_ok(
                pare_tokenizer_decode(tok, &back, &n, ids.data, ids.n, PARE_TOK_VALID_UTF8, err));
            assert_int_equal(pare_utf8_prefix(back, n), n);
            pare_tokenizer_text_free(back);
            pare_ids_free(&ids);
        }
        /* an invalid byte is its own token, whatever stands round it */
        encodes(tok, 0,
                "ab\xC3"
                "abc",
                6, IDS(256, 0xC3, 257));
        pare_tokenizer_free(tok);
    }
}

static void test_sizes(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    pare_tokenizer *tok = load(&s);
    /* T10: refused before a byte is read */
    fails_to_encode(tok, "\n", PARE_TEXT_MAX + 1, PARE_ERR_ARG, "bytes");
    fails_to_encode(tok, "\n", (size_t)1 << 31, PARE_ERR_ARG, "bytes");
    fails_to_encode(tok, "\n", SIZE_MAX, PARE_ERR_ARG, "bytes");
    encodes(tok, 0, "", 0, NULL, 0);
    char *out;
    size_t n;
    pare_error err = {0};
    const int32_t bad[] = {261, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pare_tokenizer_decode(tok, &out, &n, bad + i, 1, 0, &err), PARE_ERR_ARG);
    assert_ok(pare_tokenizer_decode(tok, &out, &n, NULL, 0, 0, err));
    assert_string_equal(out, "");
    pare_tokenizer_text_free(out);
    assert_null(pare_tokenizer_token(tok, 261));
    assert_null(pare_tokenizer_token(tok, -1));
    assert_int_equal(pare_tokenizer_find(tok, "</s>"), 260);
    assert_int_equal(pare_tokenizer_find(tok, "nothing"), -1);
    assert_false(pare_tokenizer_is_end(tok, -1));
    assert_true(pare_tokenizer_is_end(tok, 260));
    pare_tokenizer_free(tok);
}

static void test_specials(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    s.post =
        "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}, "
        "{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"</s>\"}}], "
        "\"special_tokens\": {\"<s>\": {\"ids\": [259]}, \"</s>\": {\"ids\": [260]}}}";
    pare_tokenizer *tok = load(&s);
    assert_true(pare_tokenizer_adds_bos(tok));
    encodes(tok, 0, "<s>ab", 5, IDS('<', 's', '>', 256));
    encodes(tok, PARE_TOK_PARSE_SPECIAL, "<s>ab", 5, IDS(259, 256));
    encodes(tok, PARE_TOK_ADD_SPECIAL, "ab", 2, IDS(259, 256, 260));
    encodes(tok, PARE_TOK_ADD_SPECIAL, "", 0, IDS(259, 260));
    pare_tokenizer_free(tok);
    /* T11: the template names an absent token; an id past the vocabulary */
    s.post =
        "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<t>\"}}, "
        "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [259]}}}";
    refused(&s, "<t>");
    for (int id = 260; id <= 261; id++) {
        char post[300];
        snprintf(
            post, sizeof post,
            "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
            "\"<s>\"}}, "
            "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [%d]}}}",
            id);
        s.post = post;
        if (id == 260)
            accepted(&s);
        else
            refused(&s, "found id 261");
    }
    /* U+FDFA is 18 characters under NFKC, 33 bytes from 3: below the limit */
    s = test_tokenizer_default();
    s.normalizer = "{\"type\": \"NFKC\"}";
    tok = load(&s);
    pare_ids ids = {0};
    test_bytes text = {0};
    for (int i = 0; i < 10000; i++) tb_add(&text, "\xEF\xB7\xBA", 3);
    assert_ok(pare_tokenizer_encode(tok, &ids, (char *)text.p, text.n, 0, err));
    assert_int_equal(ids.n, 330000);
    tb_free(&text);
    pare_ids_free(&ids);
    pare_tokenizer_free(tok);
}

/* --- GGUF vocabularies --- */

typedef struct spm {
    size_t n; /* tokens "<unk>", "<s>", "</s>", "a", "b", "ab" */
    size_t n_scores, n_types;
    const char *byte_token; /* the last token's text, of type byte */
    float score;            /* of token 3 */
    int32_t type;           /* of token 3 */
    const char *id_key;
    uint32_t id;
} spm;

static pare_status load_spm(const spm *v, pare_tokenizer **tok, pare_error *err) {
    test_gguf g = test_gguf_default();
    static const char *const texts[] = {"<unk>", "<s>", "</s>", "a", "b", "ab"};
    gb_text(&g, "tokenizer.ggml.model", "llama");
    gb_array(&g, "tokenizer.ggml.tokens", 8, v->n);
    for (size_t i = 0; i < v->n; i++) {
        const char *s = v->byte_token && i == v->n - 1 ? v->byte_token : texts[i];
        gb_string(&g.pairs, s, strlen(s));
    }
    gb_array(&g, "tokenizer.ggml.scores", 6, v->n_scores);
    for (size_t i = 0; i < v->n_scores; i++) {
        float score = i == 3 ? v->score : -(float)i;
        tb_add(&g.pairs, &score, 4);
    }
    gb_array(&g, "tokenizer.ggml.token_type", 5, v->n_types);
    for (size_t i = 0; i < v->n_types; i++) {
        int32_t type = i == 0 ? 2 : i < 3 ? 3 : i == 3 ? v->type : 1;
        if (v->byte_token && i == v->n - 1) type = 6;
        tb_int(&g.pairs, (uint32_t)type, 4);
    }
    if (v->id_key) gb_int(&g, v->id_key, 4, v->id, 4);
    test_bytes b = test_gguf_build(&g);
    const char *path = test_write("vocab.gguf", b.p, b.n);
    tb_free(&b);
    return pare_tokenizer_load(tok, path, err);
}

static void spm_accepted(const spm *v, pare_tokenizer **out) {
    pare_tokenizer *tok = NULL;
    assert_ok(load_spm(v, &tok, err));
    if (out)
        *out = tok;
    else
        pare_tokenizer_free(tok);
}

static void spm_refused(const spm *v, const char *part) {
    pare_tokenizer *tok = NULL;
    pare_error err = {0};
    pare_status st = load_spm(v, &tok, &err);
    if (st != PARE_ERR_INPUT || !strstr(err.message, part))
        fail_msg("found %s \"%s\", expected a refusal with \"%s\"", pare_status_name(st),
                 err.message, part);
    assert_null(tok);
}

static void test_gguf_vocab(void **state) {
    (void)state;
    const spm good = {.n = 6, .n_scores = 6, .n_types = 6, .type = 1};
    spm_accepted(&good, NULL);

    /* V4 */
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.unknown_token_id",
                                       "tokenizer.ggml.padding_token_id",
                                       "tokenizer.ggml.eot_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        spm v = good;
        v.id_key = keys[i];
        v.id = 5;
        spm_accepted(&v, NULL);
        v.id = 6;
        spm_refused(&v, keys[i]);
        v.id = UINT32_MAX;
        spm_refused(&v, keys[i]);
    }
    /* default ids beyond a vocabulary of one token: none */
    pare_tokenizer *tok;
    const spm one = {.n = 1, .n_scores = 1, .n_types = 1, .type = 1};
    spm_accepted(&one, &tok);
    assert_int_equal(pare_tokenizer_bos(tok), -1);
    assert_int_equal(pare_tokenizer_eos(tok), -1);
    assert_false(pare_tokenizer_adds_bos(tok));
    encodes(tok, PARE_TOK_ADD_SPECIAL, "xy", 2,
            IDS(0, 0, 0)); /* the mark in front, x, y: all unknown */
    pare_tokenizer_free(tok);
    const spm none = {.n = 0};
    spm_refused(&none, "tokens");

    /* V5 */
    spm v = good;
    v.n_scores = 5;
    spm_refused(&v, "scores");
    v.n_scores = 7;
    spm_refused(&v, "scores");
    v = good;
    v.n_types = 5;
    spm_refused(&v, "token_type");
    v = good;
    v.type = 0;
    spm_refused(&v, "type");
    v.type = 7;
    spm_refused(&v, "type");
    /* T6 */
    v = good;
    v.score = NAN;
    spm_refused(&v, "score");
    v.score = INFINITY;
    spm_refused(&v, "score");
    v.score = 1e30f;
    spm_accepted(&v, NULL);
    /* V6; a good byte token alone lacks the other 255 */
    static const char *const bytes[] = {"<0x-1>", "<0xZZ>", "<0x1>",  "<0x 1>",
                                        "<0x+1>", "0x41",   "<0x410>"};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        v = good;
        v.byte_token = bytes[i];
        spm_refused(&v, "byte token");
    }
    v.byte_token = "<0x41>";
    spm_refused(&v, "256 byte tokens");
    v = good;
    v.byte_token = "b"; /* a second "b", as a byte token */
    spm_refused(&v, "byte token");
}

/* An unknown token that is the text "a": where it stands for an unknown character it merges with
 * nothing, in long texts (where pairs are remembered) as in short ones. */
static void test_unknown_with_text(void **state) {
    (void)state;
    enum { LONG = 8000 };
    const spm v = {.n = 6,
                   .n_scores = 6,
                   .n_types = 6,
                   .type = 1,
                   .id_key = "tokenizer.ggml.unknown_token_id",
                   .id = 3};
    pare_tokenizer *tok;
    spm_accepted(&v, &tok);
    encodes(tok, 0, "abxb", 4, IDS(3, 5, 3, 4));
    char text[LONG];
    for (size_t i = 0; i < LONG; i++) text[i] = "abxb"[i % 4];
    pare_ids ids = {0};
    assert_ok(pare_tokenizer_encode(tok, &ids, text, LONG, 0, err));
    assert_int_equal(ids.n, 1 + LONG / 4 * 3);
    for (size_t i = 1; i < ids.n; i++)
        assert_int_equal(ids.data[i], ((const int[]){4, 5, 3})[i % 3]);
    pare_ids_free(&ids);
    pare_tokenizer_free(tok);
}

static void test_gguf_bpe(void **state) {
    (void)state;
    static const char *const pres[] = {"gpt-2", "nothing-known", NULL};
    for (size_t i = 0; i < 3; i++) {
        test_gguf g = test_gguf_default();
        gb_text(&g, "tokenizer.ggml.model", "gpt2");
        if (pres[i]) gb_text(&g, "tokenizer.ggml.pre", pres[i]);
        gb_array(&g, "tokenizer.ggml.tokens", 8, 3);
        gb_string(&g.pairs, "a", 1);
        gb_string(&g.pairs, "", 0); /* as llama.cpp: a token that nothing gives */
        gb_string(&g.pairs, "aa", 2);
        gb_array(&g, "tokenizer.ggml.merges", 8, 1);
        gb_string(&g.pairs, "a a", 3);
        test_bytes b = test_gguf_build(&g);
        const char *path = test_write("bpe.gguf", b.p, b.n);
        tb_free(&b);
        pare_tokenizer *tok = NULL;
        pare_error err = {0};
        if (i == 1) {
            assert_int_equal(pare_tokenizer_load(&tok, path, &err), PARE_ERR_UNSUPPORTED);
            assert_non_null(strstr(err.message, "smollm")); /* names the known ones */
            assert_ok(pare_tokenizer_load_as(&tok, path, "qwen2", err));
        } else {
            assert_ok(pare_tokenizer_load(&tok, path, err));
        }
        encodes(tok, PARE_TOK_ADD_SPECIAL, "aaa", 3, IDS(2, 0));
        assert_int_equal(strstr(pare_tokenizer_warnings(tok), "pre") != NULL, i == 2);
        assert_int_equal(strstr(pare_tokenizer_describe(tok), "default (assumed)") != NULL, i == 2);
        assert_string_equal(pare_tokenizer_token(tok, 1), "[EMPTY_1]");
        fails_to_encode(tok, "b", 1, PARE_ERR_INPUT, "no token");
        pare_tokenizer_free(tok);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),       cmocka_unit_test(test_loops),
        cmocka_unit_test(test_ids),          cmocka_unit_test(test_added),
        cmocka_unit_test(test_fallback),     cmocka_unit_test(test_models),
        cmocka_unit_test(test_regex),        cmocka_unit_test(test_long_regex),
        cmocka_unit_test(test_invalid_utf8), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_specials),     cmocka_unit_test(test_gguf_vocab),
        cmocka_unit_test(test_gguf_bpe),     cmocka_unit_test(test_unknown_with_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
