/* Texts from anyone, through tokenizers of each kind. Byte-level ones must give the same bytes
 * back, whole and in a stream what is valid UTF-8; every id must be in range. The first byte of the
 * input chooses the tokenizer and the flags. */
#include "pare/tokenizer.h"
#include "support/tokenizer_build.h"

#include <unistd.h>

enum { KINDS = 4 };

static pare_tokenizer *make(test_tokenizer s) {
    char path[] = "/tmp/fuzz-tokenizer-XXXXXX";
    int fd = mkstemp(path);
    test_bytes b = test_tokenizer_build(&s);
    pare_tokenizer *tok = NULL;
    if (fd >= 0 && write(fd, b.p, b.n) == (ssize_t)b.n) pare_tokenizer_load(&tok, path, NULL);
    if (fd >= 0) close(fd);
    unlink(path);
    tb_free(&b);
    if (!tok) abort();
    return tok;
}

static const pare_tokenizer *tokenizer(unsigned kind) {
    static pare_tokenizer *all[KINDS];
    static const char chars[] =
        "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"\xE2\x96\x81\": 3, \"a\": 4, \"b\": 5, "
        "\"\xE2\x96\x81"
        "a\": 6, \"ab\": 7, \"a\xE2\x96\x81\": 8";
    if (all[kind]) return all[kind];
    test_tokenizer s = test_tokenizer_default();
    s.added = "{\"id\": 259, \"content\": \"<s>\", \"special\": true}, {\"id\": 260, \"content\": "
              "\"\\n\\n\"}";
    if (kind == 1) s.normalizer = "{\"type\": \"NFKC\"}";
    if (kind >= 2)
        s = test_tokenizer_chars(chars, "[\"\xE2\x96\x81 a\", \"a b\", \"a \xE2\x96\x81\"]");
    if (kind == 3) s.pre = "{\"type\": \"WhitespaceSplit\"}";
    return all[kind] = make(s);
}

static void check(bool ok) {
    if (!ok) abort();
}

static void check_stream(const pare_tokenizer *tok, const pare_ids *ids) {
    pare_detokenizer *d;
    const char *text;
    size_t n;
    if (pare_detokenizer_create(&d, tok, 0, NULL) != PARE_OK) return;
    for (size_t i = 0; i < ids->n; i++) {
        check(pare_detokenizer_push(d, ids->data[i], &text, &n, NULL) == PARE_OK);
        check(pare_utf8_prefix(text, n) == n);
    }
    check(pare_detokenizer_flush(d, &text, &n, NULL) == PARE_OK);
    check(pare_utf8_prefix(text, n) == n);
    pare_detokenizer_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    unsigned kind = data[0] % KINDS, flags = data[0] / KINDS & 3;
    const char *text = (const char *)data + 1;
    const pare_tokenizer *tok = tokenizer(kind);
    pare_ids ids = {0};
    check(pare_tokenizer_encode(tok, &ids, text, size - 1, flags, NULL) == PARE_OK);
    for (size_t i = 0; i < ids.n; i++)
        check(ids.data[i] >= 0 && (size_t)ids.data[i] < pare_tokenizer_vocab_size(tok));
    char *back;
    size_t n;
    check(pare_tokenizer_decode(tok, &back, &n, ids.data, ids.n, 0, NULL) == PARE_OK);
    if (kind == 0 && !(flags & PARE_TOK_ADD_SPECIAL))
        check(n == size - 1 && memcmp(back, text, n) == 0);
    pare_tokenizer_text_free(back);
    check_stream(tok, &ids);
    pare_ids_free(&ids);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t cap) {
    static const char text[] =
        "?<s>ab abc\n\n\n a<s>\xF0\x9F\x9A\x80 e\xCC\x81\xCC\x96 \xEF\xB7\xBA \xFF\xE4\xB8 12'LL\t";
    if (i >= 4 * KINDS || cap < sizeof text) return 0;
    memcpy(out, text, sizeof text - 1);
    out[0] = (uint8_t)i;
    return sizeof text - 1;
}
