/* Standard output: JSON, tables, numbers for people. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* --- JSON --- */

/* Length of the UTF-8 character at s[n], 0 when it is not one (overlong forms, surrogates and
 * values past U+10FFFF are not). */
static size_t utf8_char(const unsigned char *s, size_t n) {
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || n < len) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0;
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0;
    return len;
}

json_t *cli_json_text(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    char *clean = malloc(3 * n + 1);
    if (!clean) return NULL;
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char(s + i, n - i);
        memcpy(clean + used, len ? text + i : "\xEF\xBF\xBD", len ? len : 3);
        used += len ? len : 3;
        i += len ? len : 1;
    }
    json_t *out = json_stringn_nocheck(clean, used);
    free(clean);
    return out;
}

json_t *cli_json_string(const char *text) {
    return text ? cli_json_text(text, strlen(text)) : json_null();
}

json_t *cli_json_real(double value) { return isfinite(value) ? json_real(value) : json_null(); }

json_t *cli_json_begin(cli *c) {
    (void)cli_runtime(c); /* what it would compute with */
    pare_isa isa = c->rt ? pare_runtime_isa(c->rt) : pare_isa_best();
    json_t *machine = json_object(), *object = json_object();
    json_object_set_new(machine, "cpu", cli_json_string(pare_cpu_name()));
    json_object_set_new(machine, "isa", json_string(pare_isa_name(isa)));
    json_object_set_new(machine, "threads", json_integer(c->rt ? pare_runtime_threads(c->rt) : 1));
    json_object_set_new(object, "pare", json_string(PARE_VERSION));
    json_object_set_new(object, "verb", cli_json_string(c->verb->name));
    json_object_set_new(object, "machine", machine);
    return object;
}

pare_status cli_json_print(cli *c, json_t *object, bool indent) {
    char *text =
        object
            ? json_dumps(object, (indent ? JSON_INDENT(2) : JSON_COMPACT) | JSON_REAL_PRECISION(15))
            : NULL;
    json_decref(object);
    if (!text) return cli_fail(c, PARE_ERR_NOMEM, "JSON: out of memory");
    cli_progress_clear(c);
    fputs(text, stdout);
    fputc('\n', stdout);
    free(text);
    return cli_flush(c);
}

/* --- text --- */

pare_status cli_flush(cli *c) {
    errno = 0;
    bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (!failed) return PARE_OK;
    if (errno == EPIPE || c->out_closed) {
        c->out_closed = true;
        return cli_fail(c, PARE_ERR_IO, "standard output: closed by its reader");
    }
    return cli_fail(c, PARE_ERR_IO, "standard output: %s",
                    errno ? strerror(errno) : "a write failed");
}

pare_status cli_print(cli *c, const char *text, size_t n) {
    cli_progress_clear(c);
    for (size_t i = 0, begin = 0; i <= n; i++) {
        unsigned char byte = i < n ? (unsigned char)text[i] : 0;
        bool control =
            c->out_tty && i < n && ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F);
        if (i < n && !control) continue;
        fwrite(text + begin, 1, i - begin, stdout);
        if (control) fputc('?', stdout);
        begin = i + 1;
    }
    return cli_flush(c);
}

pare_status cli_printf(cli *c, const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) return cli_fail(c, PARE_ERR_NOMEM, "output: out of memory");
    pare_status st = cli_print(c, text, (size_t)n);
    free(text);
    return st;
}

/* --- tables --- */

enum { TABLE_WIDTH = 100 };

/* Code points: near enough to columns for the names and numbers that stand in tables. */
static size_t text_width(const char *s) {
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void add_cell(cli_table *t, char *text) {
    if (text && t->n_cells == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 64;
        char **more = realloc(t->cell, capacity * sizeof *more);
        if (more) {
            t->cell = more;
            t->capacity = capacity;
        }
    }
    if (!text || t->n_cells == t->capacity) {
        free(text);
        t->failed = true;
        return;
    }
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F) *p = '?';
    t->cell[t->n_cells++] = text;
}

void cli_table_begin(cli_table *t, const char *titles) {
    *t = (cli_table){0};
    for (const char *p = titles;; p++) {
        size_t n = strcspn(p, "|"), mark = *p == '>' || *p == '<';
        t->prose[t->n_columns] = *p == '<';
        t->right[t->n_columns++] = *p == '>';
        add_cell(t, strndup(p + mark, n - mark));
        p += n;
        if (!*p) break;
    }
}

void cli_cell(cli_table *t, const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0) text = NULL;
    va_end(args);
    add_cell(t, text);
}

/* Column widths; the widest left-aligned column gives way until the table fits. */
static void measure(const cli_table *t, size_t *width) {
    size_t total = 0, widest = SIZE_MAX;
    for (size_t j = 0; j < t->n_columns; j++) {
        width[j] = 0;
        for (size_t i = j; i < t->n_cells; i += t->n_columns) {
            size_t n = text_width(t->cell[i]);
            if (n > width[j]) width[j] = n;
        }
        total += width[j] + (j ? 2 : 0);
        if (!t->right[j] && (widest == SIZE_MAX || width[j] > width[widest])) widest = j;
    }
    if (total > TABLE_WIDTH && widest != SIZE_MAX) {
        size_t over = total - TABLE_WIDTH;
        width[widest] = width[widest] > over + 8 ? width[widest] - over : 8;
    }
}

/* `n` characters further. */
static const char *skip_characters(const char *text, size_t n) {
    for (; n; n--) {
        text++;
        while (((unsigned char)*text & 0xC0) == 0x80) text++;
    }
    return text;
}

/* A name too long for its column keeps its end, where tensor names differ; prose its beginning. */
static void print_cell(const char *text, size_t width, bool right, bool prose, bool last) {
    size_t n = text_width(text), left = n > width ? width - 2 : n;
    if (right) printf("%*s", (int)(n > width ? 0 : width - n), "");
    if (n <= width)
        printf("%s", text);
    else if (prose)
        printf("%.*s..", (int)(skip_characters(text, left) - text), text);
    else
        printf("..%s", skip_characters(text, n - left));
    if (!right && !last && n < width) printf("%*s", (int)(width - n), "");
}

pare_status cli_table_end(cli *c, cli_table *t) {
    size_t width[12];
    bool failed = t->failed;
    cli_progress_clear(c);
    if (!failed) measure(t, width);
    for (size_t i = 0; !failed && i + t->n_columns <= t->n_cells; i += t->n_columns) {
        if (i == 0 && c->color) printf("\033[1m");
        for (size_t j = 0; j < t->n_columns; j++) {
            if (j) printf("  ");
            print_cell(t->cell[i + j], width[j], t->right[j], t->prose[j], j + 1 == t->n_columns);
        }
        printf(i == 0 && c->color ? "\033[0m\n" : "\n");
    }
    for (size_t i = 0; i < t->n_cells; i++) free(t->cell[i]);
    free(t->cell);
    *t = (cli_table){0};
    return failed ? cli_fail(c, PARE_ERR_NOMEM, "table: out of memory") : cli_flush(c);
}

/* --- numbers --- */

static char *next_buffer(void) {
    static char ring[16][32];
    static unsigned next;
    return ring[next++ % 16];
}

static const char *scaled(double n, double step, const char *const *units, size_t n_units) {
    char *out = next_buffer();
    size_t i = 0;
    while (i + 1 < n_units && fabs(n) >= step * 0.9995) {
        n /= step;
        i++;
    }
    if (i == 0 && n == floor(n))
        snprintf(out, 32, "%.0f%s", n, units[i]);
    else
        snprintf(out, 32,
                 fabs(n) >= 100  ? "%.0f%s"
                 : fabs(n) >= 10 ? "%.1f%s"
                                 : "%.2f%s",
                 n, units[i]);
    return out;
}

const char *cli_count(double n) {
    static const char *const units[] = {"", " k", " M", " G", " T", " P"};
    return scaled(n, 1000, units, 6);
}

const char *cli_bytes(double n) {
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
    return scaled(n, 1024, units, 5);
}

const char *cli_clock(double seconds) {
    char *out = next_buffer();
    if (!(seconds < 1e9)) seconds = 1e9;
    long s = (long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
    return out;
}
