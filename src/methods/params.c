/* Parameters from text, by the descriptor's table. Numbers are read without the locale. */
#include "methods/method.h"

#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *field(const pare_param *p, void *options) { return (char *)options + p->offset; }

static const void *const_field(const pare_param *p, const void *options) {
    return (const char *)options + p->offset;
}

static void tell(pare_note_fn note, void *arg, const char *name, const char *format, va_list args) {
    if (!note) return;
    char text[300], line[400];
    vsnprintf(text, sizeof text, format, args);
    snprintf(line, sizeof line, "%s: %s", name, text);
    note(arg, line);
}

void pare_job_note(const pare_weight_job *job, const char *format, ...) {
    va_list args;
    va_start(args, format);
    tell(job->note, job->note_arg, job->name, format, args);
    va_end(args);
}

void pare_scale_note(const pare_scale_job *job, const char *format, ...) {
    va_list args;
    va_start(args, format);
    tell(job->note, job->note_arg, job->name, format, args);
    va_end(args);
}

/* A decimal number and nothing else; a point whatever LC_NUMERIC says. */
static bool parse_number(double *out, const char *text) {
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c) return false;
    char *end;
    double v = strtod_l(text, &end, c);
    freelocale(c);
    if (end == text || *end != '\0' || !isfinite(v)) return false;
    *out = v;
    return true;
}

/* Which of "a|b|c" the text is, or -1. */
static int find_choice(const char *choices, const char *text) {
    size_t len = strlen(text);
    int i = 0;
    for (const char *p = choices;; i++) {
        size_t n = strcspn(p, "|");
        if (n == len && memcmp(p, text, n) == 0) return i;
        if (p[n] == '\0') return -1;
        p += n + 1;
    }
}

static void choice_name(const char *choices, int index, char *out, size_t out_size) {
    const char *p = choices;
    for (; index > 0; index--) p += strcspn(p, "|") + 1;
    snprintf(out, out_size, "%.*s", (int)strcspn(p, "|"), p);
}

static pare_status fail_range(const pare_param *p, const char *text, pare_error *err) {
    return pare_fail(err, PARE_ERR_ARG, "%s: found %s, expected %g to %g", p->name, text, p->min,
                     p->max);
}

static pare_status set_pattern(const pare_param *p, pare_sparsity *s, const char *text,
                               pare_error *err) {
    const char *colon = strchr(text, ':');
    char *end;
    long n = strtol(text, &end, 10);
    bool good = end == colon && colon != text;
    long m = good ? strtol(colon + 1, &end, 10) : 0;
    if (!good || end == colon + 1 || *end != '\0' || n < 0 || m < 1 || m > 64 || n > m)
        return pare_fail(err, PARE_ERR_ARG, "%s: found '%s', expected N:M with 0 <= N <= M <= 64",
                         p->name, text);
    *s = (pare_sparsity){1.0 - (double)n / (double)m, (int)n, (int)m};
    return PARE_OK;
}

bool pare_parse_share(double *out, const char *text, size_t len) {
    char number[64];
    bool percent = len > 1 && text[len - 1] == '%';
    if (len >= sizeof number) return false;
    snprintf(number, sizeof number, "%.*s", (int)(percent ? len - 1 : len), text);
    if (!parse_number(out, number)) return false;
    if (percent) *out /= 100.0;
    return true;
}

static pare_status set_sparsity(const pare_param *p, pare_sparsity *s, const char *text,
                                pare_error *err) {
    double v;
    if (strchr(text, ':')) return set_pattern(p, s, text, err);
    if (!pare_parse_share(&v, text, strlen(text)))
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found '%s', expected a share such as 0.5 or 50%%, or N:M", p->name,
                         text);
    if (v < p->min || v > p->max) return fail_range(p, text, err);
    *s = (pare_sparsity){v, 0, 0};
    return PARE_OK;
}

/* 1 to 4096, digits only; *end: behind it. */
static bool parse_side(int *out, const char *text, const char **end) {
    int v = 0;
    const char *t = text;
    for (; *t >= '0' && *t <= '9' && v <= 4096; t++) v = 10 * v + (*t - '0');
    *out = v;
    *end = t;
    return t > text && v >= 1 && v <= 4096;
}

static pare_status set_structure(const pare_param *p, pare_structure *s, const char *text,
                                 pare_error *err) {
    static const char *const names[] = {[PARE_STRUCTURE_WEIGHT] = "weight",
                                        [PARE_STRUCTURE_CHANNEL_IN] = "channel_in",
                                        [PARE_STRUCTURE_CHANNEL_OUT] = "channel_out"};
    for (int i = 0; i < 4; i++)
        if (names[i] && strcmp(text, names[i]) == 0) {
            *s = (pare_structure){(pare_structure_kind)i, 0, 0};
            return PARE_OK;
        }
    pare_structure block = {.kind = PARE_STRUCTURE_BLOCK};
    const char *end = text + 6;
    if (strncmp(text, "block_", 6) != 0 || !parse_side(&block.rows, end, &end) || *end != 'x' ||
        !parse_side(&block.cols, end + 1, &end) || *end != '\0')
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found '%s', expected weight, channel_in, channel_out, or block_RxC "
                         "with 1 to 4096 outputs and inputs, such as block_16x16",
                         p->name, text);
    *s = block;
    return PARE_OK;
}

static pare_status set_shares(const pare_param *p, pare_shares *s, const char *text,
                              pare_error *err) {
    s->n = 0;
    if (strcmp(text, "none") == 0) return PARE_OK;
    for (const char *t = text;; t++) {
        size_t len = strcspn(t, ";");
        double v;
        if (!pare_parse_share(&v, t, len) || v < 0 || v > 1)
            return pare_fail(err, PARE_ERR_ARG,
                             "%s: found '%.*s' (number %d), expected shares from 0 to 1 such as "
                             "0.4;0.5;60%%",
                             p->name, (int)(len < 64 ? len : 64), t, s->n + 1);
        if (s->n == PARE_MAX_SHARES)
            return pare_fail(err, PARE_ERR_ARG, "%s: found more than %d shares", p->name,
                             PARE_MAX_SHARES);
        s->share[s->n++] = v;
        t += len;
        if (*t == '\0') return PARE_OK;
    }
}

static pare_status set_text(const pare_param *p, pare_text *t, const char *text, pare_error *err) {
    if (*text == '\0' || strlen(text) >= sizeof t->s)
        return pare_fail(err, PARE_ERR_ARG, "%s: found %zu bytes, expected 1 to %zu", p->name,
                         strlen(text), sizeof t->s - 1);
    memcpy(t->s, text, strlen(text) + 1);
    return PARE_OK;
}

static pare_status set_number(const pare_param *p, void *options, const char *text,
                              pare_error *err) {
    double v;
    bool whole = p->type == PARE_PARAM_INT;
    if (!parse_number(&v, text) || (whole && v != floor(v)))
        return pare_fail(err, PARE_ERR_ARG, "%s: found '%s', expected %s", p->name, text,
                         whole ? "a whole number" : "a number");
    if (v < p->min || v > p->max) return fail_range(p, text, err);
    if (whole)
        *(int *)field(p, options) = (int)v;
    else
        *(double *)field(p, options) = v;
    return PARE_OK;
}

static pare_status set_choice(const pare_param *p, void *options, const char *text,
                              pare_error *err) {
    bool boolean = p->type == PARE_PARAM_BOOL;
    int v = find_choice(boolean ? "false|true|0|1|no|yes|off|on" : p->choices, text);
    if (v < 0)
        return pare_fail(err, PARE_ERR_ARG, "%s: found '%s', expected %s", p->name, text,
                         boolean ? "true or false" : p->choices);
    if (boolean)
        *(bool *)field(p, options) = v & 1;
    else
        *(int *)field(p, options) = v;
    return PARE_OK;
}

pare_status pare_param_set(const pare_param *p, void *options, const char *text, pare_error *err) {
    switch (p->type) {
    case PARE_PARAM_FLOAT:
    case PARE_PARAM_INT:
        return set_number(p, options, text, err);
    case PARE_PARAM_SPARSITY:
        return set_sparsity(p, field(p, options), text, err);
    case PARE_PARAM_BOOL:
    case PARE_PARAM_CHOICE:
        return set_choice(p, options, text, err);
    case PARE_PARAM_STRUCTURE:
        return set_structure(p, field(p, options), text, err);
    case PARE_PARAM_SHARES:
        return set_shares(p, field(p, options), text, err);
    case PARE_PARAM_TEXT:
        return set_text(p, field(p, options), text, err);
    }
    return pare_fail(err, PARE_ERR_INTERNAL, "%s: a parameter of unknown type", p->name);
}

static void set_default(const pare_param *p, void *options) {
    void *f = field(p, options);
    switch (p->type) {
    case PARE_PARAM_FLOAT:
        *(double *)f = p->def;
        break;
    case PARE_PARAM_INT:
    case PARE_PARAM_CHOICE:
        *(int *)f = (int)p->def;
        break;
    case PARE_PARAM_BOOL:
        *(bool *)f = p->def != 0.0;
        break;
    case PARE_PARAM_SPARSITY:
        *(pare_sparsity *)f = (pare_sparsity){p->def, 0, 0};
        break;
    case PARE_PARAM_STRUCTURE:
        *(pare_structure *)f = (pare_structure){PARE_STRUCTURE_WEIGHT, 0, 0};
        break;
    case PARE_PARAM_SHARES:
        ((pare_shares *)f)->n = 0;
        break;
    case PARE_PARAM_TEXT:
        choice_name(p->choices, 0, ((pare_text *)f)->s, PARE_MAX_TEXT);
        break;
    }
}

void pare_method_defaults(const pare_method *m, void *options) {
    memset(options, 0, m->options_size);
    for (const pare_param *p = m->params; p->name; p++) set_default(p, options);
}

static void structure_text(const pare_structure *s, char *out, size_t out_size) {
    if (s->kind == PARE_STRUCTURE_BLOCK)
        snprintf(out, out_size, "block_%dx%d", s->rows, s->cols);
    else
        snprintf(out, out_size, "%s",
                 s->kind == PARE_STRUCTURE_WEIGHT       ? "weight"
                 : s->kind == PARE_STRUCTURE_CHANNEL_IN ? "channel_in"
                                                        : "channel_out");
}

static void shares_text(const pare_shares *s, char *out, size_t out_size) {
    size_t at = 0;
    snprintf(out, out_size, "none");
    for (int i = 0; i < s->n && at < out_size; i++)
        at += (size_t)snprintf(out + at, out_size - at, "%s%.9g", i ? ";" : "", s->share[i]);
}

void pare_param_text(const pare_param *p, const void *options, char *out, size_t out_size) {
    const void *f = const_field(p, options);
    switch (p->type) {
    case PARE_PARAM_FLOAT:
        snprintf(out, out_size, "%.9g", *(const double *)f);
        break;
    case PARE_PARAM_INT:
        snprintf(out, out_size, "%d", *(const int *)f);
        break;
    case PARE_PARAM_BOOL:
        snprintf(out, out_size, "%s", *(const bool *)f ? "true" : "false");
        break;
    case PARE_PARAM_CHOICE:
        choice_name(p->choices, *(const int *)f, out, out_size);
        break;
    case PARE_PARAM_SPARSITY: {
        const pare_sparsity *s = f;
        if (s->m)
            snprintf(out, out_size, "%d:%d", s->n, s->m);
        else
            snprintf(out, out_size, "%.9g", s->share);
        break;
    }
    case PARE_PARAM_STRUCTURE:
        structure_text(f, out, out_size);
        break;
    case PARE_PARAM_SHARES:
        shares_text(f, out, out_size);
        break;
    case PARE_PARAM_TEXT:
        snprintf(out, out_size, "%s", ((const pare_text *)f)->s);
        break;
    }
}

bool pare_param_is_default(const pare_param *p, const void *options) {
    const void *f = const_field(p, options);
    switch (p->type) {
    case PARE_PARAM_FLOAT:
        return *(const double *)f == p->def;
    case PARE_PARAM_INT:
    case PARE_PARAM_CHOICE:
        return *(const int *)f == (int)p->def;
    case PARE_PARAM_BOOL:
        return *(const bool *)f == (p->def != 0.0);
    case PARE_PARAM_SPARSITY:
        return ((const pare_sparsity *)f)->m == 0 && ((const pare_sparsity *)f)->share == p->def;
    case PARE_PARAM_STRUCTURE:
        return ((const pare_structure *)f)->kind == PARE_STRUCTURE_WEIGHT;
    case PARE_PARAM_SHARES:
        return ((const pare_shares *)f)->n == 0;
    case PARE_PARAM_TEXT:
        return find_choice(p->choices, ((const pare_text *)f)->s) == 0;
    }
    return false;
}
