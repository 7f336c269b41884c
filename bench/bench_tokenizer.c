/* Tokenizers: MB of text per second, one thread.
 *
 *     bench_tokenizer TOKENIZER... [--text FILE]
 *
 * For each tokenizer: load time, a real text (--text, else a paragraph repeated), and a megabyte of
 * each text that makes tokenizers quadratic or overflows their stacks: one character over and over,
 * as one word. The target is 1 s for each of them. */
#include "base/memory.h"
#include "base/os.h"
#include "pare/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 5, MEGABYTE = 1000000 };

static const struct {
    const char *name, *unit;
} texts[] = {
    {"a", "a"},
    {"digits", "0"},
    {"spaces", " "},
    {"newlines", "\n"},
    {"^", "^"},
    {"accented", "\xC3\xA9"},
    {"CJK", "\xE4\xB8\xAD"},
    {"marks", "\xCC\x81"},
    {"two marks", "\xCC\x81\xCC\x96"},
    {"joiners", "\xE2\x80\x8D"},
    {"emoji", "\xF0\x9F\x9A\x80"},
    {"spaces, a", "                                                               a"},
    {"quotes", "'"},
    {"mixed", "a0 \n^\xC3\xA9\xE4\xB8\xAD\xCC\x81\xE2\x80\x8D'LL  \t<"},
    {"invalid", "\xFF"},
};

/* CPU time: one thread works, so other programs disturb less than by the wall clock. */
static double cpu_s(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* Best of a few rounds, in seconds; the number of ids in *n_ids. */
static double encode_s(const pare_tokenizer *tok, const char *text, size_t n, size_t *n_ids) {
    double best = 1e9;
    for (int r = 0; r < ROUNDS && best * r < 2; r++) {
        pare_ids ids = {0};
        pare_error err = {0};
        double begin = cpu_s();
        if (pare_tokenizer_encode(tok, &ids, text, n, 0, &err) != PARE_OK) {
            printf("  %s\n", err.message);
            return 0;
        }
        double took = cpu_s() - begin;
        if (took < best) best = took;
        *n_ids = ids.n;
        pare_ids_free(&ids);
    }
    return best;
}

static void report(const pare_tokenizer *tok, const char *name, const char *text, size_t n) {
    size_t n_ids = 0;
    double s = encode_s(tok, text, n, &n_ids);
    if (s > 0)
        printf("  %-12s %9zu bytes %9zu ids %8.3f s %8.1f MB/s%s\n", name, n, n_ids, s,
               (double)n / s / 1e6, s * MEGABYTE > (double)n ? "   above 1 s per MB" : "");
}

static void bench(const char *path, const char *text, size_t n) {
    pare_tokenizer *tok;
    pare_error err = {0};
    double begin = cpu_s();
    if (pare_tokenizer_load(&tok, path, &err) != PARE_OK) {
        printf("%s\n", err.message);
        return;
    }
    printf("%s\n  %s, loaded in %.3f s\n", path, pare_tokenizer_describe(tok), cpu_s() - begin);
    report(tok, "text", text, n);
    char *hard = pare_malloc(MEGABYTE + 64, 1);
    for (size_t i = 0; hard && i < sizeof texts / sizeof *texts; i++) {
        size_t len = strlen(texts[i].unit), size = 0;
        for (; size < MEGABYTE; size += len) memcpy(hard + size, texts[i].unit, len);
        report(tok, texts[i].name, hard, size);
    }
    pare_free(hard);
    pare_tokenizer_free(tok);
}

static const char paragraph[] =
    "The tokenizer cuts text into words, and words into the pieces that a model knows: 3,141 of "
    "them "
    "here, say, or 2\xC2\xBD times as many there. \"Don't,\" she said \xE2\x80\x94 and didn't.\n\n";

int main(int argc, char **argv) {
    char *text = NULL;
    size_t n = 0;
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--text") == 0)
            pare_file_read_all(&text, &n, argv[i + 1], (size_t)1 << 28, NULL);
    if (!text) {
        size_t len = strlen(paragraph);
        text = pare_malloc(MEGABYTE + len, 1);
        for (; text && n < MEGABYTE; n += len) memcpy(text + n, paragraph, len);
    }
    if (!text || argc < 2) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER... [--text FILE]\n");
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--text") == 0)
            i++;
        else
            bench(argv[i], text, n);
    }
    pare_free(text);
    return 0;
}
