#include "study/escape.h"

#include <string.h>

/* Length of the UTF-8 character at s, 0 when it is none; *cp is its code point. */
static size_t next_char(const char *s, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    for (size_t i = 1; i < n; i++)
        if (!p[i]) return 0; /* the text ends within it */
    if (!pare_utf8_valid(s, n)) return 0;
    static const unsigned char mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    *cp = p[0] & mask[n];
    for (size_t i = 1; i < n; i++) *cp = *cp << 6 | (p[i] & 0x3F);
    return n;
}

static bool is_harmful(uint32_t cp) {
    return cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || cp == 0x200E || cp == 0x200F ||
           (cp >= 0x2028 && cp <= 0x202E) || (cp >= 0x2066 && cp <= 0x2069) || cp == 0xFFFE ||
           cp == 0xFFFF;
}

void pare_html_text(pare_buffer *out, const char *text) {
    while (*text) {
        uint32_t cp = 0;
        size_t n = next_char(text, &cp);
        const char *shown = NULL;
        if (n == 0 || is_harmful(cp)) shown = "\xEF\xBF\xBD";
        if (*text == '\n' || *text == '\t') shown = " ";
        if (*text == '&') shown = "&amp;";
        if (*text == '<') shown = "&lt;";
        if (*text == '>') shown = "&gt;";
        if (*text == '"') shown = "&quot;";
        if (*text == '\'') shown = "&#39;";
        if (shown)
            pare_buffer_add(out, shown, strlen(shown));
        else
            pare_buffer_add(out, text, n);
        text += n ? n : 1;
    }
}

static size_t count_chars(const char *text) {
    size_t n = 0;
    uint32_t cp;
    for (size_t len; *text; text += len ? len : 1, n++) len = next_char(text, &cp);
    return n;
}

size_t pare_text_shorten(char *out, const char *text, size_t max_chars) {
    size_t n = count_chars(text), used = 0;
    bool cut = n > max_chars;
    size_t head = cut ? (max_chars - 1 + 1) / 2 : n, tail = cut ? max_chars - 1 - head : 0;
    uint32_t cp;
    for (size_t i = 0, len; *text; text += len ? len : 1, i++) {
        len = next_char(text, &cp);
        if (cut && i == head) {
            memcpy(out + used, "\xE2\x80\xA6", 3);
            used += 3;
        }
        if (cut && i >= head && i < n - tail) continue;
        memcpy(out + used, text, len ? len : 1);
        used += len ? len : 1;
    }
    out[used] = '\0';
    return cut ? max_chars : n;
}

void pare_markdown_text(pare_buffer *b, const char *text) {
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte < 0x20 || byte == 0x7F)
            pare_buffer_add(b, " ", 1);
        else if (byte == '<')
            pare_buffer_print(b, "&lt;");
        else if (byte == '&')
            pare_buffer_print(b, "&amp;");
        else if (strchr("\\|*_`[]#~!>", byte))
            pare_buffer_print(b, "\\%c", byte);
        else
            pare_buffer_add(b, text, 1);
    }
}
