/* Options from tables: parsing, range checks, help, and the nearest name for a misspelt one. */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const cli_option common_table[] = {
    CLI_OPTION(cli_common, 't', "threads", CLI_INT, threads, "N", 0, 1024,
               "threads; 0 = the cores that the process may use"),
    CLI_OPTION(cli_common, 's', "seed", CLI_INT, seed, "N", 0, 9e18, "seed of everything random"),
    CLI_OPTION(cli_common, 0, "isa", CLI_CHOICE, isa, "auto|ref|avx2|avx512|amx", 0, 0,
               "highest instruction set to use; $PARE_ISA does the same"),
    CLI_SWITCH(cli_common, 0, "deterministic", deterministic,
               "results do not depend on the number of threads"),
    CLI_SWITCH(cli_common, 'q', "quiet", quiet, "no progress, no warnings"),
    CLI_SWITCH(cli_common, 0, "strict", strict,
               "exit 3 when something was done otherwise than asked"),
    CLI_SWITCH(cli_common, 0, "json", json, "one JSON object on standard output"),
    CLI_SWITCH(cli_common, 'h', "help", help, "this text"),
    {0},
};

/* --- nearest name --- */

static size_t min3(size_t a, size_t b, size_t c) {
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, delete, replace, swap of neighbours) from a to b; names are short. */
static size_t edit_distance(const char *word, const char *b) {
    enum { MAX = 48 };
    size_t n = strlen(word), m = strlen(b), d[3][MAX + 1];
    char a[MAX + 1];
    if (n > MAX || m > MAX) return MAX;
    for (size_t i = 0; i <= n; i++) a[i] = (char)tolower((unsigned char)word[i]);
    for (size_t j = 0; j <= m; j++) d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *row = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            row[j] = min3(up[j] + 1, row[j - 1] + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                up2[j - 2] + 1 < row[j])
                row[j] = up2[j - 2] + 1;
        }
    }
    return d[n % 3][m];
}

const char *cli_nearest(const char *word, const char *const *names) {
    const char *best = NULL;
    size_t best_distance = SIZE_MAX, n = strlen(word);
    for (; *names; names++) {
        size_t distance = edit_distance(word, *names);
        /* an abbreviation is nearer than any misspelling */
        if (n >= 2 && strncmp(word, *names, n) == 0) distance = 1;
        if (distance < best_distance) {
            best_distance = distance;
            best = *names;
        }
    }
    return best_distance <= 1 + n / 3 ? best : NULL;
}

static pare_status unknown_option(cli *c, const cli_verb *verb, const char *shown,
                                  const char *word) {
    const char *names[64];
    size_t n = 0;
    for (const cli_option *o = verb->options; o && o->name && n < 48; o++) names[n++] = o->name;
    for (const cli_option *o = common_table; o->name && n < 63; o++) names[n++] = o->name;
    names[n] = NULL;
    const char *near = cli_nearest(word, names);
    if (near)
        return cli_fail(c, PARE_ERR_ARG, "%s: unknown option '%s', did you mean '--%s'?",
                        verb->name, shown, near);
    return cli_fail(c, PARE_ERR_ARG, "%s: unknown option '%s'; 'pare help %s' lists them",
                    verb->name, shown, verb->name);
}

/* --- values --- */

static bool parse_number(double *out, const char *text, char **end) {
    if (!isdigit((unsigned char)text[*text == '-' || *text == '+']) &&
        !(text[*text == '-'] == '.' && isdigit((unsigned char)text[(*text == '-') + 1])))
        return false; /* no leading blanks, "nan", "inf" */
    if (strncasecmp(text + (*text == '-'), "0x", 2) == 0) return false;
    errno = 0;
    *out = strtod(text, end);
    return errno == 0 && isfinite(*out);
}

static bool parse_int(int64_t *out, const char *text) {
    char *end;
    if (!isdigit((unsigned char)text[*text == '-'])) return false;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    *out = v;
    return errno == 0 && *end == '\0';
}

/* K, M, G, T alone and KiB.. are powers of 1024; KB.. powers of 1000. */
static bool parse_size(uint64_t *out, const char *text) {
    char *end;
    double number;
    if (!parse_number(&number, text, &end) || number < 0) return false;
    while (*end == ' ') end++;
    static const char units[] = "KMGT";
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    double scale = 1;
    if (unit) {
        bool decimal = strcasecmp(end + 1, "B") == 0;
        if (!decimal && end[1] && strcasecmp(end + 1, "iB") != 0) return false;
        for (const char *u = units; u <= unit; u++) scale *= decimal ? 1000 : 1024;
    } else if (*end && strcasecmp(end, "B") != 0) {
        return false;
    }
    double bytes = number * scale;
    if (!(bytes < 0x1p63)) return false;
    *out = (uint64_t)bytes;
    return true;
}

static bool parse_share(double *out, const char *text) {
    char *end;
    double v;
    if (!parse_number(&v, text, &end)) return false;
    if (*end == '%') {
        v /= 100;
        end++;
    }
    *out = v;
    return *end == '\0' && v >= 0 && v <= 1;
}

static bool parse_counts(cli_counts *out, const char *text, double min, double max) {
    out->n = 0;
    for (const char *p = text; out->n < CLI_MAX_ITEMS;) {
        size_t n = strcspn(p, ",");
        char item[24];
        int64_t v;
        if (n >= sizeof item) return false;
        memcpy(item, p, n);
        item[n] = '\0';
        if (!parse_int(&v, item) || (double)v < min || (double)v > max) return false;
        out->item[out->n++] = (size_t)v;
        if (!p[n]) return true;
        p += n + 1;
    }
    return false;
}

/* The index of `word` in "a|b|c", or -1. */
static int find_choice(const char *choices, const char *word) {
    size_t n = strlen(word);
    int i = 0;
    for (const char *p = choices;; i++) {
        size_t len = strcspn(p, "|");
        if (n == len && memcmp(p, word, n) == 0) return i;
        if (!p[len]) return -1;
        p += len + 1;
    }
}

static pare_status wrong_choice(cli *c, const cli_verb *verb, const cli_option *o,
                                const char *text) {
    char copy[256];
    const char *names[32];
    size_t n = 0;
    snprintf(copy, sizeof copy, "%s", o->value);
    for (char *p = copy, *save; n < 31 && (p = strtok_r(p, "|", &save)); p = NULL) names[n++] = p;
    names[n] = NULL;
    const char *near = cli_nearest(text, names);
    return cli_fail(c, PARE_ERR_ARG, "%s: --%s: found '%s', expected %s%s%s%s", verb->name, o->name,
                    text, o->value, near ? "; did you mean '" : "", near ? near : "",
                    near ? "'?" : "");
}

static pare_status wrong_value(cli *c, const cli_verb *verb, const cli_option *o,
                               const char *text) {
    char range[96];
    const char *what = o->type == CLI_INT      ? "a whole number"
                       : o->type == CLI_COUNTS ? "whole numbers with commas"
                                               : "a number";
    if (o->max > 1e15)
        snprintf(range, sizeof range, "%s from %.15g", what, o->min);
    else
        snprintf(range, sizeof range, "%s from %.15g to %.15g", what, o->min, o->max);
    return cli_fail(c, PARE_ERR_ARG, "%s: --%s: found '%s', expected %s", verb->name, o->name, text,
                    range);
}

static pare_status set_value(cli *c, const cli_verb *verb, const cli_option *o, void *field,
                             const char *text) {
    char *end;
    double number;
    int64_t whole;
    switch (o->type) {
    case CLI_FLAG:
        *(bool *)field = true;
        return PARE_OK;
    case CLI_TEXT:
        *(const char **)field = text;
        return PARE_OK;
    case CLI_TEXTS: {
        cli_texts *list = field;
        if (list->n == CLI_MAX_ITEMS)
            return cli_fail(c, PARE_ERR_ARG, "%s: --%s: found more than %d, expected at most %d",
                            verb->name, o->name, CLI_MAX_ITEMS, CLI_MAX_ITEMS);
        if (!*text)
            return cli_fail(c, PARE_ERR_ARG, "%s: --%s: found nothing, expected some text",
                            verb->name, o->name);
        list->item[list->n++] = text;
        return PARE_OK;
    }
    case CLI_INT:
        if (!parse_int(&whole, text) || (double)whole < o->min || (double)whole > o->max)
            return wrong_value(c, verb, o, text);
        *(int64_t *)field = whole;
        return PARE_OK;
    case CLI_FLOAT:
        if (!parse_number(&number, text, &end) || *end || number < o->min || number > o->max)
            return wrong_value(c, verb, o, text);
        *(double *)field = number;
        return PARE_OK;
    case CLI_COUNTS:
        if (!parse_counts(field, text, o->min, o->max)) return wrong_value(c, verb, o, text);
        return PARE_OK;
    case CLI_SIZE:
        if (!parse_size(field, text))
            return cli_fail(c, PARE_ERR_ARG, "%s: --%s: found '%s', expected a size such as 4GiB",
                            verb->name, o->name, text);
        return PARE_OK;
    case CLI_SHARE:
        if (!parse_share(field, text))
            return cli_fail(c, PARE_ERR_ARG,
                            "%s: --%s: found '%s', expected a share such as 0.5 or 50%%",
                            verb->name, o->name, text);
        return PARE_OK;
    case CLI_CHOICE:
        if ((*(int *)field = find_choice(o->value, text)) < 0)
            return wrong_choice(c, verb, o, text);
        return PARE_OK;
    }
    return PARE_ERR_INTERNAL;
}

/* --- splitting the command line --- */

static const cli_option *find_long(const cli_option *table, const char *name, size_t n) {
    for (; table && table->name; table++)
        if (strlen(table->name) == n && memcmp(table->name, name, n) == 0) return table;
    return NULL;
}

static const cli_option *find_letter(const cli_option *table, char letter) {
    for (; table && table->name; table++)
        if (table->letter == letter) return table;
    return NULL;
}

/* Takes the option at argv[*i] and, where it needs one, its value. */
static pare_status take_option(cli *c, const cli_verb *verb, void *options, int *i, int argc,
                               char **argv) {
    const char *word = argv[*i], *value = NULL;
    bool is_long = word[1] == '-';
    const char *name = word + 1 + is_long;
    size_t n = is_long ? strcspn(name, "=") : 1;
    char *base = options;
    const cli_option *o =
        is_long ? find_long(verb->options, name, n) : find_letter(verb->options, name[0]);
    if (!o) {
        o = is_long ? find_long(common_table, name, n) : find_letter(common_table, name[0]);
        base = (char *)&c->common;
    }
    if (!o) {
        char shown[64], bare[64];
        snprintf(bare, sizeof bare, "%.*s", is_long ? (int)(n < 60 ? n : 60) : 60, name);
        snprintf(shown, sizeof shown, "%.*s", (int)(is_long ? n + 2 : 60), word);
        return unknown_option(c, verb, shown, bare);
    }
    if (is_long ? name[n] == '=' : name[1] != '\0') value = name + n + (is_long ? 1 : 0);
    if (o->type == CLI_FLAG) {
        if (value)
            return cli_fail(c, PARE_ERR_ARG, "%s: --%s: found '%s', expected no value", verb->name,
                            o->name, value);
    } else if (!value) {
        if (*i + 1 >= argc)
            return cli_fail(c, PARE_ERR_ARG, "%s: --%s: found nothing, expected %s", verb->name,
                            o->name, o->value);
        value = argv[++*i];
    }
    return set_value(c, verb, o, base + o->offset, value);
}

pare_status cli_parse(cli *c, const cli_verb *verb, void *options, char **args, size_t *n_args,
                      int argc, char **argv) {
    if (verb->defaults) memcpy(options, verb->defaults, verb->options_size);
    *n_args = 0;
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (only_args || word[0] != '-' || !word[1]) {
            args[(*n_args)++] = argv[i];
        } else if (strcmp(word, "--") == 0) {
            only_args = true;
        } else {
            pare_status st = take_option(c, verb, options, &i, argc, argv);
            if (st != PARE_OK) return st;
        }
    }
    if (c->common.help) return PARE_OK;
    if (*n_args < verb->min_args || *n_args > verb->max_args)
        return cli_fail(c, PARE_ERR_ARG,
                        "%s: found %zu argument%s, expected %s; see 'pare help %s'", verb->name,
                        *n_args, *n_args == 1 ? "" : "s",
                        *verb->arguments ? verb->arguments : "none", verb->name);
    return PARE_OK;
}

/* --- help --- */

enum { HELP_COLUMN = 28, HELP_WIDTH = 98 };

void cli_print_wrapped(const char *text, size_t column, size_t indent) {
    while (*text) {
        size_t room = HELP_WIDTH > column ? HELP_WIDTH - column : 1, n = strcspn(text, "\n");
        bool hard = n <= room && text[n] == '\n';
        if (n > room) {
            n = room;
            while (n > 0 && text[n] != ' ') n--;
            if (n == 0) n = strcspn(text, " \n");
        }
        printf("%.*s\n", (int)n, text);
        text += n;
        text += hard ? 1 : strspn(text, " ");
        if (*text && *text != '\n') printf("%*s", (int)indent, "");
        column = indent;
    }
}

/* 0 and no text are what an option's help says of them. */
static void append_default(char *help, size_t size, const cli_option *o, const void *defaults) {
    if (!defaults) return;
    const char *field = (const char *)defaults + o->offset;
    size_t n = strlen(help);
    if (o->type == CLI_INT && *(const int64_t *)field != 0)
        snprintf(help + n, size - n, " (default %lld)", (long long)*(const int64_t *)field);
    const bool real = o->type == CLI_FLOAT || o->type == CLI_SHARE;
    if (real && *(const double *)field != 0)
        snprintf(help + n, size - n, " (default %g)", *(const double *)field);
    if (o->type == CLI_TEXT && *(const char *const *)(const void *)field)
        snprintf(help + n, size - n, " (default %s)", *(const char *const *)(const void *)field);
    if (o->type == CLI_CHOICE && o->value) {
        const char *p = o->value;
        for (int i = *(const int *)field; i > 0; i--) p += strcspn(p, "|") + 1;
        snprintf(help + n, size - n, " (default %.*s)", (int)strcspn(p, "|"), p);
    }
    if (o->type == CLI_COUNTS) {
        const cli_counts *list = (const cli_counts *)(const void *)field;
        for (size_t i = 0; i < list->n && n < size; i++, n = strlen(help))
            snprintf(help + n, size - n, "%s%zu", i ? "," : " (default ", list->item[i]);
        if (list->n) snprintf(help + n, size - n, ")");
    }
}

static void print_options(const cli_option *table, const void *defaults) {
    for (const cli_option *o = table; o && o->name; o++) {
        char left[128], help[400];
        if (o->letter)
            snprintf(left, sizeof left, "  -%c, --%s %s", o->letter, o->name,
                     o->value ? o->value : "");
        else
            snprintf(left, sizeof left, "      --%s %s", o->name, o->value ? o->value : "");
        snprintf(help, sizeof help, "%s", o->help);
        append_default(help, sizeof help, o, defaults);
        int n = printf("%s", left);
        if (n >= HELP_COLUMN) {
            printf("\n");
            n = 0;
        }
        printf("%*s", HELP_COLUMN - n, "");
        cli_print_wrapped(help, HELP_COLUMN, HELP_COLUMN);
    }
}

void cli_print_help(const cli_verb *verb) {
    printf("pare %s: %s\n\nUsage: pare %s%s%s [options]\n", verb->name, verb->summary, verb->name,
           *verb->arguments ? " " : "", verb->arguments);
    if (verb->notes) {
        printf("\n");
        cli_print_wrapped(verb->notes, 0, 0);
    }
    if (verb->options && verb->options->name) {
        printf("\nOptions:\n");
        print_options(verb->options, verb->defaults);
    }
    printf("\nOptions of every verb:\n");
    print_options(common_table, NULL);
    printf("\nExamples:\n");
    for (size_t i = 0; verb->examples[i]; i++) printf("  %s\n", verb->examples[i]);
    printf(
        "\nA MODEL is a Hugging Face folder, a GGUF file, or the first part of a split GGUF file.\n"
        "Exit: 0 done, 1 failed, 2 bad input or usage, 3 a bound or --strict failed, "
        "130/143 interrupted.\n");
}

void cli_print_overview(void) {
    printf("pare %s: makes language models small and fast, and measures what that costs\n\n"
           "Usage: pare VERB [arguments] [options]\n\nVerbs:\n",
           PARE_VERSION);
    for (const cli_verb *const *v = cli_verbs; *v; v++)
        printf("  %-10s %s\n", (*v)->name, (*v)->summary);
    printf("\n'pare help VERB' tells all about one. 'pare --version' prints the version.\n");
}
