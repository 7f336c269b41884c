/* The guard before jansson, and typed access after it.
 *
 * jansson recurses up to 2,048 levels, stops at integers beyond 64 bits and reports NaN as a stray
 * letter. So one pass over the bytes, without recursion, comes first: it follows strings, counts
 * depth and containers, names those literals, and rewrites too long integers in place. */
#include "io/json.h"

#include "base/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- the pass before --- */

typedef struct scan {
    char *text;
    size_t n;
    const char *name;
    pare_error *err;
} scan;

static pare_status bad_at(const scan *s, size_t at, const char *found, const char *expected) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        if (s->text[i] == '\n') {
            line++;
            column = 1;
        } else if (((uint8_t)s->text[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return pare_fail(s->err, PARE_ERR_INPUT, "%s: line %zu, column %zu: found %s, expected %s",
                     s->name, line, column, found, expected);
}

static bool starts(const scan *s, size_t at, const char *word) {
    size_t n = strlen(word);
    return s->n - at >= n && memcmp(s->text + at, word, n) == 0;
}

/* The position behind the string that begins at `at`. */
static size_t skip_string(const scan *s, size_t at) {
    for (size_t i = at + 1; i < s->n; i++) {
        if (s->text[i] == '\\')
            i++;
        else if (s->text[i] == '"')
            return i + 1;
    }
    return s->n;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* The position behind the number that begins at `at`. An integer that does not fit 64 bits loses
 * its last three of 19 or more digits to "e+3": the same length, and the same double but for its
 * last bit.
 */
static size_t skip_number(scan *s, size_t at) {
    size_t first = at + (s->text[at] == '-'), i = first;
    while (i < s->n && is_digit(s->text[i])) i++;
    bool integer = i == s->n || !strchr(".eE+-", s->text[i]) || !s->text[i];
    if (integer && i - first >= 19) {
        static const char largest[] = "9223372036854775807";
        if (i - first > 19 || memcmp(s->text + first, largest, 19) > 0)
            memcpy(s->text + i - 3, "e+3", 3);
    }
    while (i < s->n && (is_digit(s->text[i]) || (s->text[i] && strchr(".eE+-", s->text[i])))) i++;
    return i > at ? i : at + 1;
}

static pare_status check_literal(const scan *s, size_t at) {
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t k = 0; k < sizeof words / sizeof words[0]; k++)
        if (starts(s, at, words[k]))
            return bad_at(s, at, words[k],
                          "a number (Python writes this literal; JSON does not have it)");
    return PARE_OK;
}

static pare_status scan_text(scan *s) {
    if (starts(s, 0, "\xEF\xBB\xBF")) return bad_at(s, 0, "a byte order mark", "JSON without one");
    if (starts(s, 0, "\xFF\xFE") || starts(s, 0, "\xFE\xFF"))
        return bad_at(s, 0, "UTF-16 (by its byte order mark)", "JSON in UTF-8");
    int depth = 0;
    size_t containers = 0;
    for (size_t i = 0; i < s->n;) {
        char c = s->text[i];
        if (c == '"') {
            i = skip_string(s, i);
            continue;
        }
        if (c == 'N' || c == 'I' || c == '-') PARE_TRY(check_literal(s, i));
        if (c == '-' || is_digit(c)) {
            i = skip_number(s, i);
            continue;
        }
        if (c == '{' || c == '[') {
            if (++depth > PARE_JSON_DEPTH) return bad_at(s, i, "level 65 of nesting", "at most 64");
            if (++containers > PARE_JSON_CONTAINERS)
                return bad_at(s, i, "one object or array too many", "at most 4,194,304");
        } else if (c == '}' || c == ']') {
            depth--;
        }
        i++;
    }
    return PARE_OK;
}

/* --- memory --- */

static json_malloc_t inner_malloc;
static _Thread_local size_t n_failures;

static void *watched_malloc(size_t n) {
    void *p = inner_malloc(n);
    n_failures += !p;
    return p;
}

__attribute__((constructor)) static void watch_jansson(void) {
    json_free_t inner_free;
    json_get_alloc_funcs(&inner_malloc, &inner_free);
    json_set_alloc_funcs(watched_malloc, inner_free);
}

size_t pare_json_failures(void) { return n_failures; }

json_t *pare_json_whole(json_t *j, size_t before) {
    if (n_failures == before) return j;
    json_decref(j);
    return NULL;
}

json_t *pare_json_number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

double pare_json_number_of(const json_t *j) {
    return json_is_number(j) ? json_number_value(j) : (double)NAN;
}

/* --- loading --- */

/* `text` is changed. */
static pare_status parse(pare_json *out, char *text, size_t n, const char *name, unsigned flags,
                         pare_error *err) {
    scan s = {text, n, name, err};
    PARE_TRY(scan_text(&s));
    json_error_t problem;
    size_t options = JSON_REJECT_DUPLICATES | (flags & PARE_JSON_ALLOW_NUL ? JSON_ALLOW_NUL : 0);
    size_t failures = n_failures;
    json_t *root = json_loadb(text, n, options, &problem);
    if (n_failures != failures) { /* whatever jansson made of it: a text may lack characters */
        json_decref(root);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    }
    if (!root)
        return pare_fail(err, PARE_ERR_INPUT, "%s: line %d, column %d: %s", name, problem.line,
                         problem.column, problem.text);
    char *place = pare_strdup(name);
    if (!place) {
        json_decref(root);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    }
    *out = (pare_json){root, place};
    return PARE_OK;
}

pare_status pare_json_load(pare_json *out, const char *path, size_t max_bytes, unsigned flags,
                           pare_error *err) {
    *out = (pare_json){0};
    char *text;
    size_t n;
    PARE_TRY(pare_file_read_all(&text, &n, path, max_bytes, err));
    pare_status st = parse(out, text, n, path, flags, err);
    pare_free(text);
    return st;
}

pare_status pare_json_parse(pare_json *out, const char *text, size_t n, const char *name,
                            unsigned flags, pare_error *err) {
    *out = (pare_json){0};
    char *copy = pare_strndup(text, n);
    if (!copy) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    pare_status st = parse(out, copy, n, name, flags, err);
    pare_free(copy);
    return st;
}

void pare_json_free(pare_json *j) {
    if (!j) return;
    json_decref(j->root);
    pare_free(j->place);
    *j = (pare_json){0};
}

/* --- access --- */

enum { KEY_BYTES = 256 };

static json_t *step(const json_t *value, const char *key) {
    if (json_is_object(value)) return json_object_get(value, key);
    if (!json_is_array(value) || !is_digit(key[0])) return NULL;
    return json_array_get(value, strtoull(key, NULL, 10));
}

json_t *pare_json_get(const pare_json *j, const char *path) {
    json_t *value = j->root;
    while (value && *path) {
        char key[KEY_BYTES];
        size_t n = strcspn(path, ".");
        if (n >= sizeof key) return NULL;
        memcpy(key, path, n);
        key[n] = '\0';
        value = step(value, key);
        path += n + (path[n] == '.');
    }
    return json_is_null(value) ? NULL : value;
}

static const char *describe(const json_t *value, char text[KEY_BYTES]) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING: {
        const char *s = json_string_value(value);
        snprintf(text, KEY_BYTES, "\"%.*s\"", pare_clip(s, strlen(s), 60), s);
        return text;
    }
    case JSON_INTEGER:
        snprintf(text, KEY_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return text;
    case JSON_REAL:
        snprintf(text, KEY_BYTES, "%.17g", json_real_value(value));
        return text;
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return "null";
    }
}

__attribute__((format(printf, 5, 6))) static pare_status
unexpected(const pare_json *j, const char *path, const json_t *value, pare_error *err,
           const char *expected, ...) {
    char text[KEY_BYTES], wanted[KEY_BYTES];
    va_list args;
    va_start(args, expected);
    vsnprintf(wanted, sizeof wanted, expected, args);
    va_end(args);
    return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %s, expected %s", j->place, path,
                     value ? describe(value, text) : "none", wanted);
}

/* The value, or NULL with a status that tells whether its absence is an error. */
static pare_status lookup(const pare_json *j, const char *path, pare_need need, const char *what,
                          json_t **value, pare_error *err) {
    *value = pare_json_get(j, path);
    if (*value || need == PARE_OPTIONAL) return PARE_OK;
    return unexpected(j, path, NULL, err, "%s", what);
}

pare_status pare_json_int(const pare_json *j, const char *path, pare_need need, int64_t min,
                          int64_t max, int64_t *out, pare_error *err) {
    json_t *value;
    PARE_TRY(lookup(j, path, need, "an integer", &value, err));
    if (!value) return PARE_OK;
    int64_t v = json_integer_value(value);
    if (!json_is_integer(value) || v < min || v > max)
        return unexpected(j, path, value, err, "an integer %lld to %lld", (long long)min,
                          (long long)max);
    *out = v;
    return PARE_OK;
}

pare_status pare_json_size(const pare_json *j, const char *path, pare_need need, size_t min,
                           size_t max, size_t *out, pare_error *err) {
    json_t *value;
    PARE_TRY(lookup(j, path, need, "an integer", &value, err));
    if (!value) return PARE_OK;
    json_int_t v = json_integer_value(value);
    if (!json_is_integer(value) || v < 0 || (size_t)v < min || (size_t)v > max)
        return unexpected(j, path, value, err, "an integer %zu to %zu", min, max);
    *out = (size_t)v;
    return PARE_OK;
}

pare_status pare_json_double(const pare_json *j, const char *path, pare_need need, double min,
                             double max, double *out, pare_error *err) {
    json_t *value;
    PARE_TRY(lookup(j, path, need, "a number", &value, err));
    if (!value) return PARE_OK;
    double v = json_number_value(value);
    if (!json_is_number(value) || !(v >= min && v <= max))
        return unexpected(j, path, value, err, "a number %g to %g", min, max);
    *out = v;
    return PARE_OK;
}

pare_status pare_json_bool(const pare_json *j, const char *path, pare_need need, bool *out,
                           pare_error *err) {
    json_t *value;
    PARE_TRY(lookup(j, path, need, "true or false", &value, err));
    if (!value) return PARE_OK;
    if (!json_is_boolean(value)) return unexpected(j, path, value, err, "true or false");
    *out = json_is_true(value);
    return PARE_OK;
}

pare_status pare_json_str(const pare_json *j, const char *path, pare_need need, const char **out,
                          pare_error *err) {
    json_t *value;
    PARE_TRY(lookup(j, path, need, "a string", &value, err));
    if (!value) return PARE_OK;
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
        return unexpected(j, path, value, err, "a string without NUL");
    *out = json_string_value(value);
    return PARE_OK;
}

pare_status pare_json_array(const pare_json *j, const char *path, pare_need need, json_t **out,
                            pare_error *err) {
    *out = NULL;
    json_t *value;
    PARE_TRY(lookup(j, path, need, "an array", &value, err));
    if (!value) return PARE_OK;
    if (!json_is_array(value)) return unexpected(j, path, value, err, "an array");
    *out = value;
    return PARE_OK;
}

pare_status pare_json_part(pare_json *out, const pare_json *j, const char *path, pare_need need,
                           pare_error *err) {
    *out = (pare_json){0};
    json_t *value;
    PARE_TRY(lookup(j, path, need, "an object", &value, err));
    if (!value) return PARE_OK;
    if (!json_is_object(value) && !json_is_array(value))
        return unexpected(j, path, value, err, "an object or an array");
    char *place = pare_asprintf("%s: %s", j->place, path);
    if (!place) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", j->place);
    *out = (pare_json){json_incref(value), place};
    return PARE_OK;
}

pare_status pare_json_write(const char *path, const json_t *value, pare_error *err) {
    size_t failures = n_failures;
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);
    if (!text || n_failures != failures) { /* it may lack characters */
        free(text);                        /* jansson's own */
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    }
    pare_writer w;
    pare_status st = pare_writer_open(&w, path, err);
    if (st == PARE_OK) st = pare_writer_write(&w, text, strlen(text), err);
    if (st == PARE_OK) st = pare_writer_write(&w, "\n", 1, err);
    if (st == PARE_OK) st = pare_writer_commit(&w, err);
    pare_writer_discard(&w);
    free(text); /* jansson's own */
    return st;
}
