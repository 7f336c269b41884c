#include "prefix_options.h"

#include <stdlib.h>
#include <string.h>

static bool is_none(const char *prefix) { return strcmp(prefix, "none") == 0; }

const char *cli_prefix_file(const char *prefix) {
    return prefix && !is_none(prefix) ? prefix : NULL;
}

const char *cli_prefix_option(const char *prefix) {
    return prefix && is_none(prefix) ? "" : prefix;
}

/* "1,2,3" */
static pare_status parse_ids(cli *c, int32_t ids[CLI_MAX_ITEMS], size_t *n, const char *text) {
    for (*n = 0; *n < CLI_MAX_ITEMS;) {
        char *end;
        long long id = strtoll(text, &end, 10);
        if (end == text || id < 0 || id > INT32_MAX) break;
        ids[(*n)++] = (int32_t)id;
        if (!*end) return PARE_OK;
        if (*end != ',') break;
        text = end + 1;
    }
    return cli_fail(c, PARE_ERR_ARG,
                    "--prefix-tokens: ids: found \"%.40s\", expected 1 to %d numbers with commas "
                    "between",
                    text, CLI_MAX_ITEMS);
}

static pare_status set_tokens(cli *c, pare_model *m, const char *path, const char *text) {
    static const char by_number[] = "ids:";
    if (strncmp(text, by_number, sizeof by_number - 1) == 0) {
        int32_t list[CLI_MAX_ITEMS];
        size_t n;
        pare_status st = parse_ids(c, list, &n, text + sizeof by_number - 1);
        return st == PARE_OK ? pare_model_set_prefix_ids(m, list, n, &c->err) : st;
    }
    pare_tokenizer *tok = NULL;
    pare_ids ids = {0};
    pare_status st = pare_tokenizer_load(&tok, path, &c->err);
    if (st == PARE_OK)
        st = pare_tokenizer_encode(tok, &ids, text, strlen(text), PARE_TOK_PARSE_SPECIAL, &c->err);
    if (st == PARE_OK && ids.n == 0)
        st = cli_fail(c, PARE_ERR_ARG, "--prefix-tokens: found no tokens, expected some");
    if (st == PARE_OK) st = pare_model_set_prefix_ids(m, ids.data, ids.n, &c->err);
    pare_ids_free(&ids);
    pare_tokenizer_free(tok);
    return st;
}

pare_status cli_set_prefix(cli *c, pare_model *m, const char *path, const char *prefix,
                           const char *tokens) {
    if (prefix && tokens)
        return cli_fail(c, PARE_ERR_ARG,
                        "found --prefix and --prefix-tokens, expected one of the two");
    pare_status st = PARE_OK;
    if (prefix) st = pare_model_set_prefix(m, cli_prefix_file(prefix), &c->err);
    if (tokens) st = set_tokens(c, m, path, tokens);
    size_t n = st == PARE_OK ? pare_model_prefix_length(m) : 0;
    if (n) cli_note(c, "sequences stand behind a prefix of %zu position%s", n, n == 1 ? "" : "s");
    return st;
}
