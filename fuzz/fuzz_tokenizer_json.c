/* tokenizer.json from anyone: load it and, where that works, encode and decode. The seeds reach
 * every step of the pipeline. */
#include "pare/tokenizer.h"
#include "support/tokenizer_build.h"

#include <unistd.h>

static const char sample[] =
    "<s>ab abc  <l> x\n\n12'LL \xC3\xA9 e\xCC\x81 \xE4\xB8\xAD \xFF\xE2\x96\x81 a";

/* The loader reads files: one in memory, made once. */
static const char *store(const uint8_t *data, size_t n) {
    static char path[64];
    static int fd = -1;
    if (fd < 0) {
        char name[] = "/tmp/fuzz-tokenizer-XXXXXX";
        fd = mkstemp(name);
        if (fd < 0) return NULL;
        unlink(name);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, n, 0) != (ssize_t)n) return NULL;
    return path;
}

static void use(const pare_tokenizer *tok) {
    for (unsigned flags = 0; flags < 32; flags += 5) {
        pare_ids ids = {0};
        char *text;
        size_t n;
        if (pare_tokenizer_encode(tok, &ids, sample, sizeof sample - 1, flags, NULL) == PARE_OK &&
            pare_tokenizer_decode(tok, &text, &n, ids.data, ids.n, flags, NULL) == PARE_OK)
            pare_tokenizer_text_free(text);
        pare_ids_free(&ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = store(data, size);
    pare_tokenizer *tok;
    if (path && pare_tokenizer_load(&tok, path, NULL) == PARE_OK) {
        use(tok);
        pare_tokenizer_free(tok);
    }
    return 0;
}

static test_tokenizer seed(unsigned i) {
    static const char chars[] =
        "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"\xE2\x96\x81\": 3, \"a\": 4, \"b\": 5, "
        "\"\xE2\x96\x81"
        "a\": 6, \"ab\": 7";
    static const char *const pres[] = {
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", "
        "\"individual_digits\": true}, "
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}]}",
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
        "{\"Regex\": "
        "\"\\\\p{N}{1,3}|\\\\s+\"}, \"behavior\": \"MergedWithNext\", \"invert\": true}, "
        "{\"type\": \"ByteLevel\", "
        "\"use_regex\": false}]}",
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Whitespace\"}, {\"type\": "
        "\"Punctuation\", "
        "\"behavior\": \"Contiguous\"}, {\"type\": \"ByteLevel\"}]}"};
    test_tokenizer s = test_tokenizer_default();
    if (i < 3) {
        s.pre = pres[i];
        s.normalizer = i == 0 ? "{\"type\": \"NFC\"}" : "{\"type\": \"NFKD\"}";
        s.model = "\"type\": \"BPE\", \"ignore_merges\": true,";
        s.post =
            "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
            "\"<s>\"}}, "
            "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [259]}}}";
        s.added =
            "{\"id\": 259, \"content\": \"<s>\", \"special\": true}, {\"id\": 260, \"content\": "
            "\"<l>\", "
            "\"lstrip\": true, \"rstrip\": true, \"single_word\": true, \"normalized\": true}";
    } else {
        s = test_tokenizer_chars(chars, "[\"\xE2\x96\x81 a\", [\"a\", \"b\"]]");
        if (i == 4) {
            s.normalizer = "null";
            s.pre = "{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", "
                    "\"prepend_scheme\": \"first\"}";
        }
    }
    return s;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t cap) {
    if (i > 4) return 0;
    test_tokenizer s = seed(i);
    test_bytes b = test_tokenizer_build(&s);
    size_t n = b.n <= cap ? b.n : 0;
    memcpy(out, b.p, n);
    tb_free(&b);
    return n;
}
