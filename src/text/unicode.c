#include "text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

size_t pare_utf8_next(const char *s, size_t n, int32_t *cp) {
    const uint8_t *u = (const uint8_t *)s;
    uint8_t c = u[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    size_t len = c >= 0xC2 && c < 0xE0   ? 2
                 : c >= 0xE0 && c < 0xF0 ? 3
                 : c >= 0xF0 && c < 0xF5 ? 4
                                         : 0;
    *cp = -1;
    if (!len || n < len) return 1;
    /* the second byte's range excludes overlong forms, surrogates and what is above U+10FFFF */
    uint8_t lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    uint8_t hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (u[1] < lo || u[1] > hi) return 1;
    int32_t v = c & (0xFF >> (len + 1));
    v = v << 6 | (u[1] & 0x3F);
    for (size_t i = 2; i < len; i++) {
        if ((u[i] & 0xC0) != 0x80) return 1;
        v = v << 6 | (u[i] & 0x3F);
    }
    *cp = v;
    return len;
}

size_t pare_utf8_put(char out[4], uint32_t cp) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = len - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)(lead[len] | cp);
    return len;
}

size_t pare_utf8_prefix(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8) {
            memcpy(&eight, s + i, 8);
            if (!(eight & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        int32_t cp;
        size_t len = pare_utf8_next(s + i, n - i, &cp);
        if (cp < 0) break;
        i += len;
    }
    return i;
}

size_t pare_utf8_pending(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const uint8_t *u = (const uint8_t *)s + n - back;
        if ((u[0] & 0xC0) == 0x80) continue; /* a continuation byte: look further left */
        size_t len = u[0] >= 0xF0 && u[0] < 0xF5 ? 4 : u[0] >= 0xE0 ? 3 : u[0] >= 0xC2 ? 2 : 0;
        if (u[0] >= 0xF5 || back >= len) return 0;
        char whole[4] = {(char)u[0], (char)0x80, (char)0x80, (char)0x80};
        /* with the bytes at hand and the best continuation, is it well formed? */
        if (back == 1 && (u[0] == 0xE0 || u[0] == 0xF0)) return 1;
        memcpy(whole, u, back);
        int32_t cp;
        pare_utf8_next(whole, len, &cp);
        return cp < 0 ? 0 : back;
    }
    return 0;
}

bool pare_is_white_space(int32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool pare_is_word(int32_t cp) {
    if (cp < 0) return false;
    utf8proc_category_t c = utf8proc_category(cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC ||
           cp == 0x200C || cp == 0x200D;
}

static bool stands_for_itself(unsigned b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

/* The other bytes in order: 0x00..0x20 are numbers 0..32, 0x7F..0xA0 33..66, 0xAD 67. */
uint32_t pare_byte_to_alphabet(uint8_t b) {
    if (stands_for_itself(b)) return b;
    return 0x100 + (b <= 0x20 ? b : b <= 0xA0 ? b - 0x7Fu + 33 : 67u);
}

int pare_alphabet_to_byte(int32_t cp) {
    if (cp < 0) return -1;
    if (cp < 0x100) return stands_for_itself((unsigned)cp) ? cp : -1;
    int i = cp - 0x100;
    return i <= 32 ? i : i <= 66 ? i - 33 + 0x7F : i == 67 ? 0xAD : -1;
}

/* --- normal forms ---
 * Only stretches with characters that could change are decoded. A mark's combining class orders it
 * among its neighbours: utf8proc's own sort is quadratic on a long run of mixed marks, so the
 * sorting is done here, stable and linear. */

typedef struct code_points {
    utf8proc_int32_t *data;
    size_t n, capacity;
} code_points;

typedef struct mark {
    utf8proc_int32_t cp;
    uint32_t class_and_place; /* the place makes the order total, so qsort is stable */
} mark;

static int compare_marks(const void *a, const void *b) {
    uint32_t x = ((const mark *)a)->class_and_place, y = ((const mark *)b)->class_and_place;
    return (x > y) - (x < y);
}

static unsigned combining_class(utf8proc_int32_t cp) {
    return cp < 0x300 ? 0 : (unsigned)utf8proc_get_property(cp)->combining_class;
}

static bool sort_run(utf8proc_int32_t *cp, size_t n) {
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++)
        sorted = combining_class(cp[i - 1]) <= combining_class(cp[i]);
    if (sorted) return true;
    mark small[64], *marks = n <= 64 ? small : pare_malloc(n, sizeof *marks);
    if (!marks) return false;
    if (n <= 64) {
        for (size_t i = 0; i < n; i++)
            marks[i] = (mark){cp[i], combining_class(cp[i]) << 8 | (uint32_t)i};
        qsort(marks, n, sizeof *marks, compare_marks);
    } else { /* counting sort over the 256 classes */
        size_t start[257] = {0};
        for (size_t i = 0; i < n; i++) start[combining_class(cp[i]) + 1]++;
        for (size_t c = 0; c < 256; c++) start[c + 1] += start[c];
        for (size_t i = 0; i < n; i++) marks[start[combining_class(cp[i])]++].cp = cp[i];
    }
    for (size_t i = 0; i < n; i++) cp[i] = marks[i].cp;
    if (marks != small) pare_free(marks);
    return true;
}

static bool sort_marks(code_points *c) {
    for (size_t i = 0; i < c->n;) {
        size_t end = i;
        while (end < c->n && combining_class(c->data[end])) end++;
        if (end - i > 1 && !sort_run(c->data + i, end - i)) return false;
        i = end + 1;
    }
    return true;
}

static bool normalize_stretch(pare_text_buffer *out, code_points *c, const char *s, size_t n,
                              utf8proc_option_t options) {
    c->n = 0;
    if (!pare_grow(&c->data, &c->capacity, 32, sizeof *c->data)) return false;
    for (size_t i = 0; i < n;) {
        int32_t cp;
        i += pare_utf8_next(s + i, n - i, &cp);
        for (;;) {
            int last_class = 0; /* only grapheme breaks use it */
            utf8proc_ssize_t room = (utf8proc_ssize_t)(c->capacity - c->n);
            utf8proc_ssize_t k =
                utf8proc_decompose_char(cp, c->data + c->n, room, options, &last_class);
            if (k < 0) return false;
            if (k <= room) {
                c->n += (size_t)k;
                break;
            }
            if (!pare_grow(&c->data, &c->capacity, c->n + (size_t)k, sizeof *c->data)) return false;
        }
    }
    if (!sort_marks(c)) return false;
    if (options & UTF8PROC_COMPOSE) {
        utf8proc_ssize_t k = utf8proc_normalize_utf32(c->data, (utf8proc_ssize_t)c->n, options);
        if (k < 0) return false;
        c->n = (size_t)k;
    }
    for (size_t i = 0; i < c->n; i++) {
        char bytes[4];
        if (!pare_text_buffer_add(out, bytes, pare_utf8_put(bytes, (uint32_t)c->data[i])))
            return false;
    }
    return true;
}

pare_status pare_normalize(pare_text_buffer *out, const char *s, size_t n, pare_normal_form form,
                           pare_error *err) {
    /* below: neither changed nor composed with what stands before */
    static const int32_t stable_below[] = {0x300, 0xC0, 0xA0, 0xA0};
    static const utf8proc_option_t form_options[] = {
        UTF8PROC_STABLE | UTF8PROC_COMPOSE, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    code_points c = {0};
    bool ok = true;
    size_t done = 0, last = 0; /* bytes written; start of the last stable character */
    for (size_t i = 0; ok && i < n;) {
        int32_t cp;
        size_t len = pare_utf8_next(s + i, n - i, &cp);
        if (cp < stable_below[form]) { /* invalid bytes too */
            last = cp < 0 ? i + len : i;
            i += len;
            continue;
        }
        /* a stretch: from the stable character before it up to the next one */
        ok = pare_text_buffer_add(out, s + done, last - done);
        size_t end = i;
        while (end < n) {
            len = pare_utf8_next(s + end, n - end, &cp);
            if (cp < stable_below[form]) break;
            end += len;
        }
        ok = ok && normalize_stretch(out, &c, s + last, end - last, form_options[form]);
        done = last = i = end;
    }
    ok = ok && pare_text_buffer_add(out, s + done, n - done);
    pare_free(c.data);
    return ok ? PARE_OK : pare_text_buffer_fail(err);
}
