/* The steps one by one: bytes and characters, normal forms, expressions, splits, added tokens,
 * merging short and long words, decoding whole and streamed. Where a reference is named, the
 * expected values were computed with it. */
#include "support/test.h"

#include "pare/tokenizer.h"
#include "support/tokenizer_build.h"
#include "text/bpe.h"
#include "text/regex.h"

static pare_tokenizer *load(const test_tokenizer *s) {
    pare_tokenizer *tok = NULL;
    assert_ok(pare_tokenizer_load(&tok, test_tokenizer_write(s, "tokenizer.json"), err));
    return tok;
}

/* --- characters --- */

static void test_utf8(void **state) {
    (void)state;
    char s[4];
    int32_t cp;
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        size_t n = pare_utf8_put(s, c);
        assert_int_equal(pare_utf8_next(s, n, &cp), n);
        assert_int_equal(cp, c);
        for (size_t k = 1; k < n; k++) { /* cut: pending, and invalid */
            if (pare_utf8_pending(s, k) != k) fail_msg("U+%04X: %zu bytes are not pending", c, k);
            pare_utf8_next(s, k, &cp);
            if (cp != -1) fail_msg("U+%04X: %zu bytes are valid", c, k);
        }
        if (pare_utf8_pending(s, n) != 0) fail_msg("U+%04X is pending", c);
    }
    static const char *const invalid[] = {
        "\xC0\x80",         "\xC1\xBF",         "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80",         "\xBF",         "\xFF"};
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) {
        assert_int_equal(pare_utf8_next(invalid[i], strlen(invalid[i]), &cp), 1);
        assert_int_equal(cp, -1);
        assert_int_equal(pare_utf8_prefix(invalid[i], strlen(invalid[i])), 0);
        if (strlen(invalid[i]) > 1) assert_int_equal(pare_utf8_pending(invalid[i], 2), 0);
    }
    /* GPT-2's alphabet is one to one */
    for (int b = 0; b < 256; b++)
        assert_int_equal(pare_alphabet_to_byte((int32_t)pare_byte_to_alphabet((uint8_t)b)), b);
    assert_int_equal(pare_byte_to_alphabet(' '), 0x120);
    assert_int_equal(pare_byte_to_alphabet('\n'), 0x10A);
    assert_int_equal(pare_byte_to_alphabet(0xAD), 0x143);
    assert_int_equal(pare_alphabet_to_byte(0x144), -1);
}

static void normal(const char *s, pare_normal_form form, const char *expected) {
    pare_text_buffer out = {0};
    assert_ok(pare_normalize(&out, s, strlen(s), form, err));
    pare_text_buffer_add(&out, "", 1);
    assert_string_equal(out.data, expected);
    pare_text_buffer_free(&out);
}

static void test_normal_forms(void **state) {
    (void)state;
    /* Python's unicodedata.normalize */
    normal("", PARE_NFC, "");
    normal("plain text", PARE_NFC, "plain text");
    normal("xe\xCC\x81y", PARE_NFC, "x\xC3\xA9y");
    normal("x\xC3\xA9y", PARE_NFD, "xe\xCC\x81y");
    normal("\xCC\x81\xFF"
           "e\xCC\x81",
           PARE_NFC, "\xCC\x81\xFF\xC3\xA9");
    normal("q\xCC\x87\xCC\xA3", PARE_NFC, "q\xCC\xA3\xCC\x87");
    normal("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", PARE_NFC, "\xEA\xB0\x81");
    normal("\xEA\xB0\x81", PARE_NFD, "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8");
    normal("\xEF\xAC\x81\xC2\xBD", PARE_NFKC,
           "fi1\xE2\x81\x84"
           "2");
    normal("\xE2\x84\xAB", PARE_NFC, "\xC3\x85");
    normal("\xC2\xA0", PARE_NFKD, " ");
    normal("e\xCC\x81 e\xCC\x81", PARE_NFC, "\xC3\xA9 \xC3\xA9");

    /* a long run of mixed marks is sorted, stably and fast: 200,000 of two classes */
    enum { N = 100000 };
    test_bytes text = {0};
    for (int i = 0; i < N; i++) tb_add(&text, "\xCC\x81\xCC\x96", 4);
    pare_text_buffer out = {0};
    assert_ok(pare_normalize(&out, (char *)text.p, text.n, PARE_NFD, err));
    assert_int_equal(out.n, text.n);
    for (int i = 0; i < N; i++) assert_memory_equal(out.data + 2 * i, "\xCC\x96", 2);
    for (int i = N; i < 2 * N; i++) assert_memory_equal(out.data + 2 * i, "\xCC\x81", 2);
    pare_text_buffer_free(&out);
    tb_free(&text);
}

/* --- expressions --- */

static bool matches(const char *pattern, const char *text) {
    pare_regex *regex;
    assert_ok(pare_regex_compile(&regex, pattern, strlen(pattern), err));
    pare_regex_scratch *scratch = pare_regex_scratch_new();
    bool found;
    size_t begin, end, n = strlen(text);
    assert_ok(pare_regex_next(regex, scratch, text, n, 0, &found, &begin, &end, err));
    pare_regex_scratch_free(scratch);
    pare_regex_free(regex);
    return found && begin == 0 && end == n;
}

static void test_expressions(void **state) {
    (void)state;
    static const char mvs[] = "\xE1\xA0\x8E"; /* U+180E: no white space since Unicode 6.3 */
    assert_false(matches("\\s", mvs));
    assert_true(matches("\\S", mvs));
    assert_true(matches("[\\S]", mvs));
    assert_true(matches("[^\\s]", mvs));
    assert_false(matches("[^\\S]", mvs));
    assert_false(matches("[a\\s]", mvs));
    static const char *const spaces[] = {" ",
                                         "\t",
                                         "\n",
                                         "\v",
                                         "\f",
                                         "\r",
                                         "\xC2\x85",
                                         "\xC2\xA0",
                                         "\xE1\x9A\x80",
                                         "\xE2\x80\x80",
                                         "\xE2\x80\x8A",
                                         "\xE2\x80\xA8",
                                         "\xE2\x80\xA9",
                                         "\xE2\x80\xAF",
                                         "\xE2\x81\x9F",
                                         "\xE3\x80\x80"};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        assert_true(matches("\\s", spaces[i]));
        assert_true(matches("[\\s\\p{L}]", spaces[i]));
        assert_false(matches("\\S", spaces[i]));
        assert_false(matches("[\\S]", spaces[i]));
    }
    assert_false(matches("\\s", "\xE2\x80\x8B"));
    assert_true(matches("\\w+", "a1_\xC3\xA9\xCC\x81\xD9\xA3"));
    assert_false(matches("\\w", "\xC2\xBD"));
    assert_true(matches("\\W", "\xC2\xBD"));
    /* what looks like an escape, and is none */
    assert_true(matches("\\\\s", "\\s"));
    assert_true(matches("[\\\\s]+", "\\s"));
    assert_true(matches("\\Q\\s\\E", "\\s"));
    assert_true(matches("[]\\s]+", "] "));
    assert_true(matches("[^]\\s]+", "ab"));
    assert_true(matches("[[:alpha:]\\s]+", "a b"));
    assert_true(matches("(?i:'LL)", "'ll"));
    assert_true(matches("^a$\\n^b$", "a\nb")); /* lines */
}

/* An expression that walks to the end of the text from every place in it runs out of time. */
static void test_time_limit(void **state) {
    (void)state;
    enum { N = 300000 };
    static char text[N];
    memset(text, 'a', N);
    static const char pattern[] = "a(?=.*b)|.";
    pare_regex *regex;
    assert_ok(pare_regex_compile(&regex, pattern, strlen(pattern), err));
    pare_regex_scratch *scratch = pare_regex_scratch_new();
    pare_regex_scratch_budget(scratch, 0.05);
    pare_status st = PARE_OK;
    pare_error err = {0};
    for (size_t at = 0, begin; at < N && st == PARE_OK;) {
        bool found;
        st = pare_regex_next(regex, scratch, text, N, at, &found, &begin, &at, &err);
    }
    assert_int_equal(st, PARE_ERR_INPUT);
    assert_non_null(strstr(err.message, "time limit"));
    pare_regex_scratch_free(scratch);
    pare_regex_free(regex);
}

/* --- splits: every behaviour, against tokenizers 0.23.3 --- */

/* Words joined by '|', of a tokenizer without merges between the letters used. */
static void splits(const char *behaviour, const char *invert, const char *expected) {
    test_tokenizer s = test_tokenizer_default();
    char pre[400];
    snprintf(pre, sizeof pre,
             "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
             "{\"Regex\": \"-\"}, "
             "\"behavior\": \"%s\", \"invert\": %s}, {\"type\": \"ByteLevel\", "
             "\"add_prefix_space\": false, "
             "\"use_regex\": false}]}",
             behaviour, invert);
    s.pre = pre;
    /* all merges that could be: what stays apart was cut */
    s.vocab = "\"--\": 256, \"-a\": 257, \"a-\": 258, \"aa\": 259";
    s.merges = "[\"- -\", \"- a\", \"a -\", \"a a\"]";
    s.added = "";
    pare_tokenizer *tok = load(&s);
    pare_ids ids = {0};
    assert_ok(pare_tokenizer_encode(tok, &ids, "aa--aa", 6, 0, err));
    char found[64] = "";
    for (size_t i = 0; i < ids.n; i++) {
        strcat(found, i ? "|" : "");
        strcat(found, pare_tokenizer_token(tok, ids.data[i]));
    }
    assert_string_equal(found, expected);
    pare_ids_free(&ids);
    pare_tokenizer_free(tok);
}

static void test_splits(void **state) {
    (void)state;
    splits("Isolated", "false", "aa|-|-|aa");
    splits("Isolated", "true", "aa|-|-|aa");
    splits("Removed", "false", "aa|aa");
    splits("Removed", "true", "-|-");
    splits("Contiguous", "false", "aa|--|aa");
    splits("MergedWithPrevious", "false", "a|a-|-|aa");
    splits("MergedWithNext", "false", "aa|-|-a|a");
    splits("MergedWithPrevious", "true", "aa|-|-a|a");
    splits("MergedWithNext", "true", "a|a-|-|aa");
}

/* --- added tokens, against tokenizers 0.23.3 --- */

static void expect(const pare_tokenizer *tok, unsigned flags, const char *text,
                   const char *expected) {
    pare_ids ids = {0};
    char found[256] = "", number[16];
    assert_ok(pare_tokenizer_encode(tok, &ids, text, strlen(text), flags, err));
    for (size_t i = 0; i < ids.n; i++) {
        snprintf(number, sizeof number, i ? " %d" : "%d", ids.data[i]);
        strcat(found, number);
    }
    assert_string_equal(found, expected);
    pare_ids_free(&ids);
}

static void test_added_flags(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    s.added = "{\"id\": 259, \"content\": \"<l>\", \"lstrip\": true},"
              "{\"id\": 260, \"content\": \"<r>\", \"rstrip\": true},"
              "{\"id\": 261, \"content\": \"wd\", \"single_word\": true},"
              "{\"id\": 262, \"content\": \"\\n\\n\"}, {\"id\": 263, \"content\": \"\\n\\n\\n\"},"
              "{\"id\": 264, \"content\": \"<sp>\", \"special\": true, \"lstrip\": true}";
    pare_tokenizer *tok = load(&s);
    expect(tok, 0, "b  <l> b", "98 259 32 98");
    expect(tok, 0, "b <r> \n b", "98 32 260 98");
    expect(tok, 0, "b\xE3\x80\x80<l>", "98 259"); /* U+3000 */
    expect(tok, 0, "wd", "261");
    expect(tok, 0, "(wd)", "40 261 41");
    expect(tok, 0, "bwd wd", "98 119 100 32 261");
    expect(tok, 0, "wd\xC3\xA9", "119 100 195 169");
    /* leftmost, then longest */
    expect(tok, 0, "\n", "10");
    expect(tok, 0, "\n\n", "262");
    expect(tok, 0, "\n\n\n\n\n", "263 262");
    /* special ones are text unless asked for */
    expect(tok, 0, "b <sp>", "98 32 60 115 112 62");
    expect(tok, PARE_TOK_PARSE_SPECIAL, "b <sp>", "98 264");
    pare_tokenizer_free(tok);
}

static void test_normalized_added(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    s.normalizer = "{\"type\": \"NFC\"}";
    s.added = "{\"id\": 259, \"content\": \"e\xCC\x81\", \"normalized\": true},"
              "{\"id\": 260, \"content\": \"o\xCC\x81\", \"normalized\": false}";
    pare_tokenizer *tok = load(&s);
    expect(tok, 0, "\xC3\xA9", "259");
    expect(tok, 0, "e\xCC\x81", "259");
    expect(tok, 0, "\xC3\xB3", "195 179");
    expect(tok, 0, "o\xCC\x81", "260");
    pare_tokenizer_free(tok);
}

/* --- SentencePiece style --- */

static const char letters[] =
    "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"\xE2\x96\x81\": 3, \"a\": 4, \"b\": 5, "
    "\"\xE2\x96\x81"
    "a\": 6, \"ab\": 7";
static const char letter_merges[] = "[\"\xE2\x96\x81 a\", \"a b\"]";

static void test_metaspace(void **state) {
    (void)state;
    static const struct {
        const char *scheme, *plain, *behind_special;
    } cases[] = {{"always", "6 6", "6 1 6"}, {"first", "6 6", "6 1 4"}, {"never", "4 6", "4 1 4"}};
    for (size_t i = 0; i < 3; i++) {
        char pre[200];
        test_tokenizer s = test_tokenizer_chars(letters, letter_merges);
        snprintf(pre, sizeof pre,
                 "{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": "
                 "\"%s\", "
                 "\"split\": false}",
                 cases[i].scheme);
        s.normalizer = "null";
        s.pre = pre;
        pare_tokenizer *tok = load(&s);
        expect(tok, 0, "a a", cases[i].plain);
        expect(tok, PARE_TOK_PARSE_SPECIAL, "a<s>a", cases[i].behind_special);
        expect(tok, 0, " a", "6"); /* what begins with a space gets no other */
        pare_tokenizer_free(tok);
    }
    test_tokenizer s = test_tokenizer_chars(letters, letter_merges); /* the older form */
    pare_tokenizer *tok = load(&s);
    expect(tok, 0, "a a", "6 6");
    expect(tok, 0, " a", "3 6");
    expect(tok, PARE_TOK_PARSE_SPECIAL, "a<s>a", "6 1 6");
    pare_tokenizer_free(tok);
}

/* --- merging: the heap gives what the definition gives --- */

/* One merge at a time, found by scanning. */
static size_t merge_plainly(const pare_bpe *bpe, int32_t *ids, size_t n) {
    for (;;) {
        const pare_pair *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const pare_pair *p = pare_bpe_find(bpe, ids[i], ids[i + 1]);
            if (p && (!best || p->rank < best->rank)) best = p, at = i;
        }
        if (!best) return n;
        ids[at] = best->result;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void test_merging(void **state) {
    (void)state;
    enum { SYMBOLS = 40, LENGTH = 400 };
    pare_bpe bpe = {0};
    pare_bpe_scratch scratch = {0};
    uint64_t random = 1;
    assert_true(pare_bpe_init(&bpe, 600));
    for (int i = 0; i < 600; i++) { /* few ranks: many ties */
        random = random * 6364136223846793005u + 1442695040888963407u;
        int32_t left = (int32_t)(random >> 33) % SYMBOLS, right = (int32_t)(random >> 43) % SYMBOLS;
        pare_bpe_add(&bpe, left, right, (uint32_t)(random >> 55) % 50,
                     (int32_t)(random >> 38) % SYMBOLS);
    }
    for (size_t n = 0; n <= LENGTH; n += n < 70 ? 1 : 33) {
        int32_t ids[LENGTH], expected[LENGTH];
        for (size_t i = 0; i < n; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            ids[i] = expected[i] =
                (int32_t)(random >> 40) % (SYMBOLS + 1) - (n % 2); /* -1: no token */
        }
        size_t kept = merge_plainly(&bpe, expected, n);
        pare_bpe_word word = {ids, NULL, NULL, n, 0};
        assert_true(pare_bpe_merge(&bpe, &scratch, &word));
        assert_int_equal(word.n, kept);
        if (kept) assert_memory_equal(ids, expected, kept * sizeof *ids);
    }
    pare_bpe_scratch_free(&scratch);
    pare_bpe_free(&bpe);
}

/* Pairs by their text: every text of up to eight of the letters a and b is a token, whose rank is
 * few bits of its value. */
static bool joined_letters(const void *arg, const char *s, size_t n, uint32_t *rank,
                           int32_t *result) {
    uint32_t value = 1;
    if (n > 8) return false;
    for (size_t i = 0; i < n; i++) value = 2 * value + (s[i] == 'b');
    if (value % 7 == *(const uint32_t *)arg) return false;
    *rank = value % 5;
    *result = (int32_t)value;
    return true;
}

static size_t merge_text_plainly(const pare_bpe *bpe, const char *text, int32_t *ids, size_t n) {
    uint32_t begin[401], rank;
    int32_t result;
    for (size_t i = 0; i <= n; i++) begin[i] = (uint32_t)i;
    for (;;) {
        size_t at = SIZE_MAX;
        uint32_t best = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (bpe->joined(bpe->arg, text + begin[i], begin[i + 2] - begin[i], &rank, &result) &&
                (at == SIZE_MAX || rank < best))
                best = rank, at = i;
        if (at == SIZE_MAX) return n;
        bpe->joined(bpe->arg, text + begin[at], begin[at + 2] - begin[at], &rank, &ids[at]);
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        memmove(begin + at + 1, begin + at + 2, (n - at - 1) * sizeof *begin);
        n--;
    }
}

static void test_merging_by_text(void **state) {
    (void)state;
    enum { LENGTH = 400 };
    uint32_t never = 3;
    pare_bpe bpe = {.joined = joined_letters, .arg = &never};
    pare_bpe_scratch scratch = {0};
    uint64_t random = 1;
    for (size_t n = 0; n <= LENGTH; n += n < 70 ? 1 : 33) {
        char text[LENGTH];
        int32_t ids[LENGTH], expected[LENGTH];
        uint32_t begin[LENGTH];
        for (size_t i = 0; i < n; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            text[i] = random >> 63 ? 'a' : 'b';
            ids[i] = expected[i] = 2 + (text[i] == 'b');
            begin[i] = (uint32_t)i;
        }
        size_t kept = merge_text_plainly(&bpe, text, expected, n);
        if (n == 40) pare_bpe_remember(&scratch);
        pare_bpe_word word = {ids, begin, text, n, n};
        assert_true(pare_bpe_merge(&bpe, &scratch, &word));
        assert_int_equal(word.n, kept);
        if (kept) assert_memory_equal(ids, expected, kept * sizeof *ids);
    }
    pare_bpe_scratch_free(&scratch);
}

/* --- decoding --- */

static void stream(const pare_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                   const char *expected) {
    pare_detokenizer *d;
    char found[128] = "";
    const char *text;
    size_t len;
    assert_ok(pare_detokenizer_create(&d, tok, flags, err));
    for (size_t i = 0; i <= n; i++) {
        if (i < n)
            assert_ok(pare_detokenizer_push(d, ids[i], &text, &len, err));
        else
            assert_ok(pare_detokenizer_flush(d, &text, &len, err));
        assert_int_equal(pare_utf8_prefix(text, len), len); /* never half a character */
        strncat(found, text, len);
        strcat(found, "|");
    }
    assert_string_equal(found, expected);
    pare_detokenizer_free(d);
}

static void test_streaming(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    pare_tokenizer *tok = load(&s);
    const int32_t rocket[] = {'a', 0xF0, 0x9F, 0x9A, 0x80, 'b'};
    stream(tok, rocket, 6, 0, "a||||\xF0\x9F\x9A\x80|b||");
    stream(tok, rocket, 4, 0, "a||||\xEF\xBF\xBD|"); /* cut off */
    const int32_t broken[] = {0xE4, 'a', 0xFF, 0xC3};
    stream(tok, broken, 4, 0,
           "|\xEF\xBF\xBD"
           "a|\xEF\xBF\xBD||\xEF\xBF\xBD|");
    const int32_t special[] = {259, 257, 260};
    stream(tok, special, 3, 0, "<s>|abc|</s>||");
    stream(tok, special, 3, PARE_TOK_SKIP_SPECIAL, "|abc|||");
    pare_detokenizer *d;
    const char *text;
    size_t len;
    pare_error err = {0};
    assert_ok(pare_detokenizer_create(&d, tok, 0, err));
    assert_int_equal(pare_detokenizer_push(d, 261, &text, &len, &err), PARE_ERR_ARG);
    assert_int_equal(pare_detokenizer_push(d, -1, &text, &len, &err), PARE_ERR_ARG);
    pare_detokenizer_free(d);
    pare_tokenizer_free(tok);

    s = test_tokenizer_chars(letters, letter_merges);
    tok = load(&s);
    const int32_t words[] = {1, 6, 6, 3, 5};
    stream(tok, words + 1, 4, 0, "a| a| |b||");
    stream(tok, words + 1, 4, PARE_TOK_CONTINUES, " a| a| |b||");
    stream(tok, words, 5, PARE_TOK_SKIP_SPECIAL, "|a| a| |b||");
    stream(tok, words, 5, 0, "<s>| a| a| |b||");
    pare_tokenizer_free(tok);
}

static void test_lossy(void **state) {
    (void)state;
    /* SentencePiece style: a run of byte tokens that is no text becomes U+FFFD for each byte */
    test_bytes vocab = {0};
    tb_print(&vocab, "%s", "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"a\": 3");
    for (unsigned b = 0; b < 256; b++) tb_print(&vocab, ", \"<0x%02X>\": %u", b, 4 + b);
    tb_add(&vocab, "", 1);
    test_tokenizer s = test_tokenizer_chars((char *)vocab.p, "[]");
    s.model = "\"type\": \"BPE\", \"byte_fallback\": true,";
    pare_tokenizer *tok = load(&s);
    const int32_t ids[] = {4 + 0xC3, 4 + 0xA9, 3, 4 + 0xC3, 4 + 0xA9, 4 + 0xFF, 3};
    char *text;
    size_t n;
    assert_ok(pare_tokenizer_decode(tok, &text, &n, ids, 7, PARE_TOK_VALID_UTF8, err));
    assert_string_equal(text, "\xC3\xA9"
                              "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                              "a");
    pare_tokenizer_text_free(text);
    assert_ok(pare_tokenizer_decode(tok, &text, &n, ids, 7, 0, err)); /* the very bytes */
    assert_string_equal(text, "\xC3\xA9"
                              "a\xC3\xA9\xFF"
                              "a");
    pare_tokenizer_text_free(text);
    pare_tokenizer_free(tok);
    tb_free(&vocab);

    /* byte-level: U+FFFD for each broken character (Rust's from_utf8_lossy) */
    s = test_tokenizer_default();
    tok = load(&s);
    const int32_t broken[] = {0xE4, 0xB8, 'a', 0xF0, 0x9F, 0x9A, 0xFF, 0xE0, 0x80};
    assert_ok(pare_tokenizer_decode(tok, &text, &n, broken, 9, PARE_TOK_VALID_UTF8, err));
    assert_string_equal(text, "\xEF\xBF\xBD"
                              "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    pare_tokenizer_text_free(text);
    pare_tokenizer_free(tok);
}

/* --- the files beside tokenizer.json --- */

static void test_neighbours(void **state) {
    (void)state;
    test_tokenizer s = test_tokenizer_default();
    test_tokenizer_write(&s, "tokenizer.json");
    static const char config[] =
        "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\", "
        "\"pad_token\": \"<pad>\", \"chat_template\": [{\"name\": \"tools\", "
        "\"template\": \"x\"}, {\"name\": \"default\", \"template\": \"{{ y }}\"}]}";
    static const char generation[] = "{\"eos_token_id\": [257, 260]}";
    test_write("tokenizer_config.json", config, strlen(config));
    test_write("generation_config.json", generation, strlen(generation));
    pare_tokenizer *tok = NULL;
    assert_ok(pare_tokenizer_load(&tok, test_folder(), err));
    assert_int_equal(pare_tokenizer_bos(tok), 259);
    assert_int_equal(pare_tokenizer_eos(tok), 260);
    assert_false(pare_tokenizer_adds_bos(tok));
    assert_true(pare_tokenizer_is_end(tok, 257));
    assert_true(pare_tokenizer_is_end(tok, 260));
    assert_false(pare_tokenizer_is_end(tok, 259));
    assert_true(pare_tokenizer_is_special(tok, 259));
    assert_false(pare_tokenizer_is_special(tok, 257));
    assert_string_equal(pare_tokenizer_chat_template(tok), "{{ y }}");
    assert_non_null(strstr(pare_tokenizer_warnings(tok), "pad_token"));
    pare_tokenizer_free(tok);
    test_write("tokenizer_config.json", "{", 1);
    pare_error err = {0};
    assert_int_equal(pare_tokenizer_load(&tok, test_folder(), &err), PARE_ERR_INPUT);
    assert_non_null(strstr(err.message, "tokenizer_config.json"));
    assert_null(tok);
    remove(test_path("tokenizer_config.json"));
    remove(test_path("generation_config.json"));
}

/* vocab.json and merges.txt, as OPT has them. */
static void test_pair(void **state) {
    (void)state;
    char vocab[4096], name[64];
    size_t n = (size_t)snprintf(vocab, sizeof vocab, "{\"<s>\": 0, \"<pad>\": 1, \"</s>\": 2");
    for (unsigned c = 'a'; c <= 'z'; c++)
        n += (size_t)snprintf(vocab + n, sizeof vocab - n, ", \"%c\": %u", (char)c, c - 'a' + 3);
    snprintf(vocab + n, sizeof vocab - n,
             ", \"\xC4\xA0\": 29, \"ab\": 30, \"\xC4\xA0"
             "a\": 31}");
    static const char merges[] = "#version: 0.2\na b\r\n\xC4\xA0 a\n";
    static const char config[] =
        "{\"bos_token\": {\"content\": \"</s>\"}, \"eos_token\": \"</s>\", "
        "\"pad_token\": \"<pad>\", \"add_bos_token\": true}";
    remove(test_path("tokenizer.json"));
    test_write("vocab.json", vocab, strlen(vocab));
    test_write("merges.txt", merges, strlen(merges));
    pare_tokenizer *tok = NULL;
    assert_ok(pare_tokenizer_load(&tok, test_folder(), err));
    expect(tok, PARE_TOK_ADD_SPECIAL, "ab a", "30 31");
    pare_tokenizer_free(tok);
    test_write("tokenizer_config.json", config, strlen(config));
    assert_ok(pare_tokenizer_load(&tok, test_folder(), err));
    assert_true(pare_tokenizer_adds_bos(tok));
    expect(tok, PARE_TOK_ADD_SPECIAL | PARE_TOK_PARSE_SPECIAL, "ab a<pad>", "2 30 31 1");
    assert_int_equal(pare_tokenizer_eos(tok), 2);
    pare_tokenizer_free(tok);
    test_write("merges.txt", "a b\na \xFF\n", 9);
    pare_error err = {0};
    assert_int_equal(pare_tokenizer_load(&tok, test_folder(), &err), PARE_ERR_INPUT);
    remove(test_path("merges.txt"));
    assert_int_not_equal(pare_tokenizer_load(&tok, test_folder(), &err), PARE_OK);
    static const char *const names[] = {"vocab.json", "tokenizer_config.json"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s", names[i]);
        remove(test_path(name));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_normal_forms),
        cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_time_limit),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_added_flags),
        cmocka_unit_test(test_normalized_added),
        cmocka_unit_test(test_metaspace),
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_merging_by_text),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_lossy),
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
