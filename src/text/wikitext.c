#include "text/wikitext.h"

#include "text/unicode.h"

/* As Python's str.strip sees it: Unicode white space and the four separators 0x1C to 0x1F. */
static bool is_blank(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        int32_t cp;
        i += pare_utf8_next(s + i, n - i, &cp);
        if (!pare_is_white_space(cp) && !(cp >= 0x1C && cp <= 0x1F)) return false;
    }
    return true;
}

pare_status pare_text_hf_rows(char **out, size_t *len, const char *text, size_t n,
                              pare_error *err) {
    size_t lines = 0, size;
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    *out = NULL;
    *len = 0;
    char *to = NULL;
    if (pare_mul_size(&size, lines + 1, 2) && pare_add_size(&size, size, n) && size < SIZE_MAX)
        to = pare_malloc(size + 1, 1);
    if (!to) return pare_fail(err, PARE_ERR_NOMEM, "text: out of memory for %zu bytes", n);
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        const char *newline = memchr(text + i, '\n', n - i);
        size_t row = newline ? (size_t)(newline - text) + 1 - i : n - i;
        if (i) {
            memcpy(to + used, "\n\n", 2);
            used += 2;
        }
        if (!is_blank(text + i, row)) {
            memcpy(to + used, text + i, row);
            used += row;
        }
        i += row;
    }
    to[used] = 0;
    *out = to;
    *len = used;
    return PARE_OK;
}
