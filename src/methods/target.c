#include "methods/target.h"

#include "base/error.h"

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
