#include "methods/spec.h"

#include "base/memory.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

pare_piece pare_piece_trim(pare_piece s) {
    while (s.p < s.end && isspace((unsigned char)*s.p)) s.p++;
    while (s.p < s.end && isspace((unsigned char)s.end[-1])) s.end--;
    return s;
}

/* --- suggestions --- */

/* Edit distance of two short names. */
static size_t distance(const char *a, const char *b) {
    size_t row[65], n = strlen(b);
    if (n > 64 || strlen(a) > 64) return 64;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

void pare_nearest_consider(pare_nearest *n, const char *name) {
    size_t d = distance(n->wanted, name);
    if (d < n->distance) *n = (pare_nearest){n->wanted, name, d};
}

/* --- parameters --- */

/* Is the text one of the choices of the first parameter? */
static bool bare_value(const pare_param *params, const char *text) {
    if (!params->name || params->type != PARE_PARAM_CHOICE) return false;
    size_t n = strlen(text);
    for (const char *c = params->choices; c; c = (c = strchr(c, '|')) ? c + 1 : NULL)
        if (strcspn(c, "|") == n && strncmp(c, text, n) == 0) return true;
    return false;
}

/* *seen: one bit per parameter that was given already. */
static pare_status set_param(const pare_param *params, void *options, pare_piece pair,
                             uint64_t *seen, const char *what, const char *owner, pare_error *err) {
    const char *equals = memchr(pair.p, '=', (size_t)(pair.end - pair.p));
    pare_piece name = pare_piece_trim((pare_piece){pair.p, equals ? equals : pair.end}),
               value = pare_piece_trim((pare_piece){equals ? equals + 1 : pair.end, pair.end});
    char key[64], text[PARE_PARAM_TEXT_MAX];
    snprintf(key, sizeof key, "%.*s", (int)(name.end - name.p), name.p);
    snprintf(text, sizeof text, "%.*s", (int)(value.end - value.p), value.p);
    if (!equals && bare_value(params, key)) { /* a choice's value alone, as the first parameter */
        snprintf(text, sizeof text, "%s", key);
        snprintf(key, sizeof key, "%s", params->name);
        value = name;
        equals = name.end;
    }
    if (!equals || (size_t)(value.end - value.p) >= sizeof text)
        return pare_fail(err, PARE_ERR_ARG, "%s: %s: found '%s', expected param=value", what, owner,
                         key);
    pare_nearest n = {key, NULL, 64};
    for (const pare_param *p = params; p->name; p++) {
        pare_nearest_consider(&n, p->name);
        if (strcmp(p->name, key) != 0) continue;
        uint64_t bit = (uint64_t)1 << (p - params);
        if (*seen & bit)
            return pare_fail(err, PARE_ERR_ARG, "%s: %s: found %s twice, expected it once", what,
                             owner, key);
        *seen |= bit;
        if (pare_param_set(p, options, text, err) == PARE_OK) return PARE_OK;
        return pare_fail_prefix(err, "%s: %s", what, owner);
    }
    return pare_fail(err, PARE_ERR_ARG, "%s: %s: found parameter '%s', which is not known%s%s%s",
                     what, owner, key, n.name ? "; did you mean '" : "", n.name ? n.name : "",
                     n.name ? "'?" : "");
}

/* The comma that ends a parameter, or the end: none within /.../. */
static const char *end_of_param(pare_piece text) {
    bool regex = false;
    const char *p = text.p;
    for (; p < text.end && (regex || *p != ','); p++)
        if (*p == '/') regex = !regex;
    return p;
}

pare_status pare_params_parse(const pare_param *params, void *options, pare_piece text,
                              const char *what, const char *name, pare_error *err) {
    uint64_t seen = 0;
    while (text.p < text.end) {
        pare_piece pair = {text.p, end_of_param(text)};
        PARE_TRY(set_param(params, options, pair, &seen, what, name, err));
        text.p = pair.end + (pair.end < text.end);
    }
    return PARE_OK;
}

char *pare_params_text(const pare_param *params, const void *options) {
    char *text = pare_strdup("");
    for (const pare_param *p = params; text && p->name; p++) {
        if (pare_param_is_default(p, options)) continue;
        char value[PARE_PARAM_TEXT_MAX];
        pare_param_text(p, options, value, sizeof value);
        char *longer = pare_asprintf("%s%s%s=%s", text, *text ? "," : ":", p->name, value);
        pare_free(text);
        text = longer;
    }
    return text;
}

/* --- methods --- */

static const pare_method *find(const char *slot, pare_nearest *n) {
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        if (strcmp(m->slot, slot) != 0) continue;
        if (strcmp(m->name, n->wanted) == 0) return m;
        pare_nearest_consider(n, m->name);
    }
    return NULL;
}

static pare_status parse(pare_spec *out, const char *slot, const char *what, const char *text,
                         pare_error *err) {
    pare_piece all = pare_piece_trim((pare_piece){text, text + strlen(text)});
    const char *colon = memchr(all.p, ':', (size_t)(all.end - all.p));
    pare_piece name = pare_piece_trim((pare_piece){all.p, colon ? colon : all.end});
    char lower[64];
    snprintf(lower, sizeof lower, "%.*s", (int)(name.end - name.p), name.p);
    for (char *p = lower; *p; p++) *p = (char)tolower((unsigned char)*p);
    pare_nearest n = {lower, NULL, 4};
    out->method = find(slot, &n);
    if (!out->method)
        return pare_fail(err, PARE_ERR_ARG, "%s: found '%s', which is not known%s%s%s", what, lower,
                         n.name ? "; did you mean '" : " (pare methods)", n.name ? n.name : "",
                         n.name ? "'?" : "");
    out->options = pare_calloc(1, out->method->options_size);
    if (!out->options) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", what);
    pare_method_defaults(out->method, out->options);
    pare_piece params = {colon ? colon + 1 : all.end, all.end};
    PARE_TRY(pare_params_parse(out->method->params, out->options, params, what, lower, err));
    if (out->method->check && out->method->check(out->options, err) != PARE_OK)
        return pare_fail_prefix(err, "%s: %s", what, lower);
    char *rest = pare_params_text(out->method->params, out->options);
    out->text = rest ? pare_asprintf("%s%s", out->method->name, rest) : NULL;
    pare_free(rest);
    return out->text ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", what);
}

pare_status pare_spec_parse(pare_spec *out, const char *slot, const char *what, const char *text,
                            pare_error *err) {
    *out = (pare_spec){0};
    pare_status st = parse(out, slot, what, text, err);
    if (st != PARE_OK) pare_spec_free(out);
    return st;
}

void pare_spec_free(pare_spec *s) {
    pare_free(s->options);
    pare_free(s->text);
    *s = (pare_spec){0};
}
