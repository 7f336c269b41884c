/* pare tokenize: text to ids and back. */
#include "cli.h"
#include "pare/eval.h"
#include "pare/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct tokenize_options {
    bool decode, no_special, parse_special;
} tokenize_options;

static const cli_option table[] = {
    CLI_SWITCH(tokenize_options, 'd', "decode", decode,
               "ids (blanks, commas or brackets between them) to text"),
    CLI_SWITCH(tokenize_options, 0, "no-special", no_special,
               "add no special tokens; with --decode, leave them out"),
    CLI_SWITCH(tokenize_options, 0, "parse-special", parse_special,
               "text such as <|im_end|> becomes the special token"),
    {0},
};
static const tokenize_options defaults = {0};

/* Ids from "[1, 2, 3]" or "1 2 3". */
static pare_status parse_ids(cli *c, pare_ids *ids, const char *text, const char *name) {
    const char *p = text;
    for (;;) {
        p += strspn(p, " \t\r\n,[]");
        if (!*p) return PARE_OK;
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX || (*end && !strchr(" \t\r\n,[]", *end)))
            return cli_fail(c, PARE_ERR_INPUT, "%s: byte %zu: found '%.*s', expected a token id",
                            name, (size_t)(p - text), (int)strcspn(p, " \t\r\n,[]") % 40, p);
        if (ids->n == ids->capacity) {
            size_t capacity = ids->capacity ? 2 * ids->capacity : 256;
            int32_t *more = realloc(ids->data, capacity * sizeof *more);
            if (!more) return cli_fail(c, PARE_ERR_NOMEM, "%s: out of memory", name);
            ids->data = more;
            ids->capacity = capacity;
        }
        ids->data[ids->n++] = (int32_t)v;
        p = end;
    }
}

static pare_status print_json(cli *c, const pare_ids *ids, const char *text, size_t len) {
    char crc[9];
    json_t *out = cli_json_begin(c), *list = json_array();
    for (size_t i = 0; i < ids->n; i++) json_array_append_new(list, json_integer(ids->data[i]));
    json_object_set_new(out, "ids", list);
    json_object_set_new(out, "n_tokens", json_integer((json_int_t)ids->n));
    snprintf(crc, sizeof crc, "%08x", (unsigned)pare_ids_crc32(ids->data, ids->n));
    json_object_set_new(out, "crc32", json_string(crc));
    if (text) json_object_set_new(out, "text", cli_json_text(text, len));
    return cli_json_print(c, out, false);
}

static pare_status print_ids(cli *c, const pare_ids *ids) {
    for (size_t i = 0; i < ids->n; i++) printf(i ? " %d" : "%d", (int)ids->data[i]);
    if (ids->n) printf("\n");
    pare_status st = cli_flush(c);
    cli_note(c, "%zu tokens, crc32 %08x", ids->n, (unsigned)pare_ids_crc32(ids->data, ids->n));
    return st;
}

static pare_status decode(cli *c, const tokenize_options *o, const pare_tokenizer *tok,
                          const char *source, const char *name) {
    /* the ids are ours: grown with realloc, freed here */
    pare_ids ids = {0};
    char *text = NULL;
    size_t len = 0;
    pare_status st = parse_ids(c, &ids, source, name);
    if (st == PARE_OK)
        st = pare_tokenizer_decode(tok, &text, &len, ids.data, ids.n,
                                   o->no_special ? PARE_TOK_SKIP_SPECIAL : 0, &c->err);
    if (st == PARE_OK)
        st = c->common.json ? print_json(c, &ids, text, len) : cli_print(c, text, len);
    pare_tokenizer_text_free(text);
    free(ids.data);
    return st;
}

static pare_status encode(cli *c, const tokenize_options *o, const pare_tokenizer *tok,
                          const char *source, size_t n) {
    pare_ids ids = {0};
    unsigned flags = (o->no_special ? 0 : PARE_TOK_ADD_SPECIAL) |
                     (o->parse_special ? PARE_TOK_PARSE_SPECIAL : 0);
    pare_status st = pare_tokenizer_encode(tok, &ids, source, n, flags, &c->err);
    if (st == PARE_OK) st = c->common.json ? print_json(c, &ids, NULL, 0) : print_ids(c, &ids);
    pare_ids_free(&ids);
    return st;
}

static pare_status run(cli *c, const void *options, char **args, size_t n_args) {
    const tokenize_options *o = options;
    const char *path = n_args > 1 ? args[1] : "-";
    pare_tokenizer *tok = NULL;
    char *source = NULL;
    size_t n = 0;
    pare_status st = cli_runtime(c);
    if (st == PARE_OK) st = pare_tokenizer_load(&tok, args[0], &c->err);
    if (st == PARE_OK) st = cli_read(c, &source, &n, path);
    if (st == PARE_OK)
        st = o->decode ? decode(c, o, tok, source, strcmp(path, "-") ? path : "standard input")
                       : encode(c, o, tok, source, n);
    free(source);
    pare_tokenizer_free(tok);
    return st;
}

const cli_verb cli_verb_tokenize = {
    .name = "tokenize",
    .arguments = "MODEL [FILE|-]",
    .summary = "text to token ids, or back",
    .notes = "Without FILE the text comes from standard input. The CRC-32 is that of the ids as "
             "32-bit little-endian numbers: two programs that print the same one agree on all ids.",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .min_args = 1,
    .max_args = 2,
    .examples = {"pare tokenize model.gguf wiki.test.raw --json",
                 "echo 'Hello world' | pare tokenize model.gguf",
                 "echo '1 2 3' | pare tokenize model.gguf --decode"},
    .run = run,
};
