/* Makes a small valid tokenizer.json and lets one part of it be bent:
 *
 *     test_tokenizer s = test_tokenizer_default();
 *     s.merges = "[\"a b\", \"a b\"]";
 *     const char *path = test_tokenizer_write(&s, "twice.json");
 *
 * The default: bytes of GPT-2's alphabet are tokens 0 to 255 (in order of the byte), 256 "ab", 257
 * "abc", 258 " a" and the special tokens 259 "<s>", 260 "</s>"; GPT-2's pre-tokenizer. */
#ifndef PARE_TESTS_SUPPORT_TOKENIZER_BUILD_H
#define PARE_TESTS_SUPPORT_TOKENIZER_BUILD_H

#include "support/build.h"
#include "support/test.h"
#include "text/unicode.h"

typedef struct test_tokenizer {
    const char *added, *normalizer, *pre, *post, *decoder; /* JSON */
    const char *model;  /* members of "model" but vocab and merges, each followed by a comma */
    const char *vocab;  /* members of "vocab" after the bytes, or all of them with no_bytes */
    const char *merges; /* JSON */
    const char *extra;  /* members of the whole, each followed by a comma */
    int no_bytes;
    size_t n_added; /* further added tokens "<x0>", "<x1>", ... behind `added` */
} test_tokenizer;

static inline test_tokenizer test_tokenizer_default(void) {
    return (test_tokenizer){
        .added = "{\"id\": 259, \"content\": \"<s>\", \"special\": true},"
                 "{\"id\": 260, \"content\": \"</s>\", \"special\": true}",
        .normalizer = "null",
        .pre = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}",
        .post = "null",
        .decoder = "{\"type\": \"ByteLevel\"}",
        .model = "\"type\": \"BPE\",",
        .vocab = "\"ab\": 256, \"abc\": 257, \"\xC4\xA0"
                 "a\": 258",
        .merges = "[\"a b\", [\"ab\", \"c\"], \"\xC4\xA0 a\"]",
        .extra = "",
    };
}

/* SentencePiece style: <unk> 0, <s> 1, </s> 2, then `more`, e.g. "\"a\": 3". */
static inline test_tokenizer test_tokenizer_chars(const char *vocab, const char *merges) {
    test_tokenizer s = test_tokenizer_default();
    s.no_bytes = 1;
    s.added = "{\"id\": 0, \"content\": \"<unk>\", \"special\": true},"
              "{\"id\": 1, \"content\": \"<s>\", \"special\": true},"
              "{\"id\": 2, \"content\": \"</s>\", \"special\": true}";
    s.pre = "null";
    s.normalizer =
        "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": "
        "\"\xE2\x96\x81\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, "
        "\"content\": \"\xE2\x96\x81\"}]}";
    s.decoder =
        "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "
        "{\"String\": \"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, "
        "{\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, "
        "\"stop\": 0}]}";
    s.model = "\"type\": \"BPE\", \"unk_token\": \"<unk>\",";
    s.vocab = vocab;
    s.merges = merges;
    return s;
}

static inline test_bytes test_tokenizer_build(const test_tokenizer *s) {
    test_bytes b = {0};
    tb_print(&b, "{%s \"added_tokens\": [", s->extra);
    tb_add(&b, s->added, strlen(s->added));
    for (size_t i = 0; i < s->n_added; i++)
        tb_print(&b, "%s{\"id\": %zu, \"content\": \"<x%zu>\"}", i || *s->added ? "," : "", 261 + i,
                 i);
    tb_print(&b,
             "], \"normalizer\": %s, \"post_processor\": %s, \"pre_tokenizer\": ", s->normalizer,
             s->post);
    tb_add(&b, s->pre, strlen(s->pre));
    tb_print(&b, ", \"decoder\": %s, \"model\": {%s \"vocab\": {", s->decoder, s->model);
    for (unsigned byte = 0; byte < 256 && !s->no_bytes; byte++) {
        char letter[4];
        size_t n = pare_utf8_put(letter, pare_byte_to_alphabet((uint8_t)byte));
        bool escape = letter[0] == '"' || letter[0] == '\\';
        tb_print(&b, "\"%s%.*s\": %u%s", escape ? "\\" : "", (int)n, letter, byte,
                 byte < 255 || *s->vocab ? "," : "");
    }
    tb_add(&b, s->vocab, strlen(s->vocab));
    tb_add(&b, "}, \"merges\": ", 13);
    tb_add(&b, s->merges, strlen(s->merges));
    tb_add(&b, "}}", 2);
    return b;
}

static inline const char *test_tokenizer_write(const test_tokenizer *s, const char *name) {
    test_bytes b = test_tokenizer_build(s);
    const char *path = test_write(name, b.p, b.n);
    tb_free(&b);
    return path;
}

#endif
