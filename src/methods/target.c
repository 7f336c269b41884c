#include "methods/target.h"

#include "base/error.h"
#include "methods/method.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdio.h>
#include <string.h>

pare_status pare_name_regex_compile(void **out, const char *pattern, size_t len, pare_error *err) {
    int code;
    PCRE2_SIZE at;
    *out = NULL;
    if (len > 4096)
        return pare_fail(err, PARE_ERR_ARG, "regex: found %zu bytes, expected at most 4096", len);
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, len, 0, &code, &at, NULL);
    if (!re) {
        char reason[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return pare_fail(err, PARE_ERR_ARG, "regex '%.*s': place %zu: %s", (int)len, pattern,
                         (size_t)at, reason);
    }
    *out = re;
    return PARE_OK;
}

bool pare_name_regex_match(const void *regex, const char *name) {
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    bool found = false;
    if (match && limits) {
        pcre2_set_match_limit(
            limits, 100000); /* names are short: a pattern that needs more never matches */
        found =
            pcre2_match(regex, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, 0, match, limits) >= 0;
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(match);
    return found;
}

void pare_name_regex_free(void *regex) { pcre2_code_free(regex); }

/* --- groups --- */

static const char *const groups[] = {"attn", "ffn", "embd", "output", "all"};

static bool in_group(const char *group, const char *name, bool tied) {
    if (strcmp(group, "all") == 0) return true;
    if (strcmp(group, "embd") == 0) return strcmp(name, "token_embd.weight") == 0;
    if (strcmp(group, "output") == 0)
        return strcmp(name, tied ? "token_embd.weight" : "output.weight") == 0;
    char part[16];
    snprintf(part, sizeof part, ".%s_", group);
    return strstr(name, part) != NULL;
}

pare_status pare_target_parse(pare_target *out, const char *text, size_t len, pare_error *err) {
    *out = (pare_target){0};
    if (len >= 2 && text[0] == '/' && text[len - 1] == '/')
        return pare_name_regex_compile(&out->regex, text + 1, len - 2, err);
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
        if (strlen(groups[i]) == len && memcmp(groups[i], text, len) == 0) {
            out->group = groups[i];
            return PARE_OK;
        }
    return pare_fail(err, PARE_ERR_ARG,
                     "found '%.*s', expected attn, ffn, embd, output, all or /REGEX/",
                     (int)(len < 64 ? len : 64), text);
}

void pare_target_free(pare_target *t) {
    pare_name_regex_free(t->regex);
    *t = (pare_target){0};
}

bool pare_target_takes(const pare_target *t, const char *name, bool tied) {
    return t->regex ? pare_name_regex_match(t->regex, name) : in_group(t->group, name, tied);
}

/* --- numbers for targets --- */

/* One of them, len bytes. */
static pare_status parse_value(pare_target_values *v, const char *what, const char *text,
                               size_t len, bool (*in_range)(double), const char *expected,
                               pare_error *err) {
    size_t equals = len;
    while (equals > 0 && text[equals - 1] != '=') equals--;
    if (v->n == PARE_TARGET_VALUES_MAX)
        return pare_fail(err, PARE_ERR_ARG, "%s: found more than %d targets", what,
                         PARE_TARGET_VALUES_MAX);
    pare_target_value *one = &v->of[v->n];
    if (equals < 2 || !pare_parse_share(&one->value, text + equals, len - equals) ||
        !in_range(one->value))
        return pare_fail(err, PARE_ERR_ARG, "%s: found '%.*s', expected %s", what,
                         (int)(len < 64 ? len : 64), text, expected);
    if (pare_target_parse(&one->target, text, equals - 1, err) != PARE_OK)
        return pare_fail_prefix(err, "%s", what);
    v->n++;
    return PARE_OK;
}

pare_status pare_target_values_parse(pare_target_values *out, const char *what, const char *text,
                                     bool (*in_range)(double), const char *expected,
                                     pare_error *err) {
    *out = (pare_target_values){0};
    bool regex = false;
    for (const char *begin = text, *p = begin;; p++) {
        if (*p == '/') regex = !regex;
        if (*p && (regex || (*p != ';' && *p != ','))) continue;
        pare_status st =
            parse_value(out, what, begin, (size_t)(p - begin), in_range, expected, err);
        if (st != PARE_OK) pare_target_values_free(out);
        if (st != PARE_OK || !*p) return st;
        begin = p + 1;
    }
}

void pare_target_values_free(pare_target_values *v) {
    for (size_t i = 0; i < v->n; i++) pare_target_free(&v->of[i].target);
    *v = (pare_target_values){0};
}

bool pare_target_values_find(pare_target_values *v, const char *name, bool vector, bool tied,
                             double *value) {
    bool found = false;
    for (size_t i = 0; i < v->n; i++) {
        pare_target_value *one = &v->of[i];
        if (vector && !one->target.regex) continue;
        if (!pare_target_takes(&one->target, name, tied)) continue;
        if (found) continue;
        *value = one->value;
        found = one->used = true;
    }
    return found;
}

pare_status pare_target_values_check_used(const pare_target_values *v, const char *what,
                                          const char *text, pare_error *err) {
    for (size_t i = 0; i < v->n; i++)
        if (!v->of[i].used)
            return pare_fail(err, PARE_ERR_ARG, "%s: found no tensor for target %zu of '%s'", what,
                             i + 1, text);
    return PARE_OK;
}
