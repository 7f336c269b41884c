#define PCRE2_CODE_UNIT_WIDTH 8

#include "text/regex.h"

#include "base/os.h"

#include <pcre2.h>

#define JIT_STACK_BYTES ((size_t)1 << 20)
#define HEAP_LIMIT_KIB 65536
#define NEST_LIMIT 100
/* Steps of one match: a run of white space is walked once per alternative, so the limit grows with
 * the text; what needs more is exponential. */
#define MATCH_LIMIT_MIN 1000000
#define MATCH_LIMIT_PER_BYTE 8
#define MATCH_LIMIT_MAX 50000000
#define CLOCK_EVERY 16 /* matches between two looks at the clock */

struct pare_regex {
    pcre2_code *code;
    bool jit;
};

struct pare_regex_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    double deadline_s; /* 0 = none */
    unsigned n_matches;
};

/* Unicode's white space: PCRE2's \s has U+180E too, which lost that property in Unicode 6.3. */
#define SPACES                                                                                     \
    "\\t-\\r \\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define WORDS "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}"
#define EDGE "(?:(?<=[" WORDS "])(?![" WORDS "])|(?<![" WORDS "])(?=[" WORDS "]))"
#define NO_EDGE "(?:(?<=[" WORDS "])(?=[" WORDS "])|(?<![" WORDS "])(?![" WORDS "]))"

static bool add(pare_text_buffer *out, const char *s) {
    return pare_text_buffer_add(out, s, strlen(s));
}

/* One escape \c; inside a class the surrounding brackets are there already. */
static bool translate_escape(pare_text_buffer *out, char c, bool in_class) {
    switch (c) {
    case 's':
        return add(out, in_class ? SPACES : "[" SPACES "]");
    case 'S': /* U+180E is no space, though PCRE2's \S lacks it */
        return add(out, in_class ? "\\S\\x{180E}" : "[^" SPACES "]");
    case 'w':
        return add(out, in_class ? WORDS : "[" WORDS "]");
    case 'W':
        return add(out, in_class ? "\\W" : "[^" WORDS "]");
    case 'b': /* in a class: backspace */
        return add(out, in_class ? "\\b" : EDGE);
    case 'B':
        return add(out, in_class ? "\\B" : NO_EDGE);
    default:
        return pare_text_buffer_add(out, "\\", 1) && pare_text_buffer_add(out, &c, 1);
    }
}

bool pare_regex_translate(pare_text_buffer *out, const char *p, size_t len) {
    bool in_class = false;
    for (size_t i = 0; i < len; i++) {
        if (p[i] == '\\' && i + 1 < len) {
            if (p[i + 1] == 'Q') { /* quoted up to \E */
                const char *end = memmem(p + i, len - i, "\\E", 2);
                size_t n = end ? (size_t)(end - p) + 2 - i : len - i;
                if (!pare_text_buffer_add(out, p + i, n)) return false;
                i += n - 1;
            } else if (!translate_escape(out, p[++i], in_class)) {
                return false;
            }
            continue;
        }
        if (!pare_text_buffer_add(out, p + i, 1)) return false;
        if (!in_class && p[i] == '[') {
            in_class = true;
            /* a ] that comes first is an ordinary character */
            if (i + 1 < len && p[i + 1] == '^' && !pare_text_buffer_add(out, p + ++i, 1))
                return false;
            if (i + 1 < len && p[i + 1] == ']' && !pare_text_buffer_add(out, p + ++i, 1))
                return false;
        } else if (in_class && p[i] == '[' && i + 1 < len && p[i + 1] == ':') { /* [:alpha:] */
            const char *end = memmem(p + i, len - i, ":]", 2);
            if (!end) continue;
            size_t n = (size_t)(end - p) + 2 - (i + 1);
            if (!pare_text_buffer_add(out, p + i + 1, n)) return false;
            i += n;
        } else if (in_class && p[i] == ']') {
            in_class = false;
        }
    }
    return true;
}

static pare_status compile(pcre2_code **out, pcre2_compile_context *context, const char *pattern,
                           size_t len, pare_error *err) {
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
    pcre2_set_parens_nest_limit(context, NEST_LIMIT);
    int code = 0;
    PCRE2_SIZE place = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    *out = pcre2_compile((PCRE2_SPTR)pattern, len, options, &code, &place, context);
    if (*out) return PARE_OK;
    PCRE2_UCHAR text[160] = "";
    pcre2_get_error_message(code, text, sizeof text);
    return pare_fail(err, PARE_ERR_INPUT,
                     "regular expression: byte %zu: found %s, expected a valid expression",
                     (size_t)place, (const char *)text);
}

pare_status pare_regex_compile(pare_regex **out, const char *pattern, size_t len, pare_error *err) {
    *out = NULL;
    pare_status st = PARE_OK;
    pare_text_buffer translated = {0};
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    pare_regex *regex = pare_calloc(1, sizeof *regex);
    if (!context || !regex || !pare_regex_translate(&translated, pattern, len)) {
        st = pare_fail(err, PARE_ERR_NOMEM, "regular expression: out of memory");
        goto done;
    }
    if ((st = compile(&regex->code, context, translated.data ? translated.data : "", translated.n,
                      err)) != PARE_OK)
        goto done;
    /* without JIT (a hardened system) the interpreter does it, slower */
    regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    *out = regex;
    regex = NULL;
done:
    pare_regex_free(regex);
    pare_text_buffer_free(&translated);
    pcre2_compile_context_free(context);
    return st;
}

void pare_regex_free(pare_regex *regex) {
    if (!regex) return;
    pcre2_code_free(regex->code);
    pare_free(regex);
}

pare_regex_scratch *pare_regex_scratch_new(void) {
    pare_regex_scratch *s = pare_calloc(1, sizeof *s);
    if (!s) return NULL;
    s->data = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_BYTES, NULL);
    if (!s->data || !s->context) {
        pare_regex_scratch_free(s);
        return NULL;
    }
    pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    /* a NULL stack (no JIT support) leaves the default */
    if (s->stack) pcre2_jit_stack_assign(s->context, NULL, s->stack);
    return s;
}

void pare_regex_scratch_budget(pare_regex_scratch *s, double seconds) {
    s->deadline_s = pare_now_s() + seconds;
}

void pare_regex_scratch_free(pare_regex_scratch *s) {
    if (!s) return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    pare_free(s);
}

pare_status pare_regex_next(const pare_regex *regex, pare_regex_scratch *scratch, const char *s,
                            size_t n, size_t from, bool *found, size_t *begin, size_t *end,
                            pare_error *err) {
    if (scratch->deadline_s > 0 && ++scratch->n_matches % CLOCK_EVERY == 0 &&
        pare_now_s() > scratch->deadline_s)
        return pare_fail(
            err, PARE_ERR_INPUT,
            "regular expression: byte %zu of the text: found no end within the time limit, "
            "expected an expression whose matches look at little text",
            from);
    size_t limit = MATCH_LIMIT_MIN + MATCH_LIMIT_PER_BYTE * (n - from);
    pcre2_set_match_limit(scratch->context,
                          (uint32_t)(limit < MATCH_LIMIT_MAX ? limit : MATCH_LIMIT_MAX));
    /* the caller has checked the UTF-8: a check per match would make the whole quadratic */
    int code = regex->jit ? pcre2_jit_match(regex->code, (PCRE2_SPTR)s, n, from, 0, scratch->data,
                                            scratch->context)
                          : pcre2_match(regex->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK,
                                        scratch->data, scratch->context);
    *found = code >= 0;
    if (code >= 0) {
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(scratch->data);
        *begin = at[0];
        *end = at[1];
        /* \K in a lookahead can put the start behind the end, or before `from` */
        if (*begin >= from && *begin <= *end) return PARE_OK;
        return pare_fail(err, PARE_ERR_INPUT,
                         "regular expression: found a match that ends before it "
                         "begins, expected none of \\K");
    }
    if (code == PCRE2_ERROR_NOMATCH) return PARE_OK;
    if (code == PCRE2_ERROR_NOMEMORY)
        return pare_fail(err, PARE_ERR_NOMEM, "regular expression: out of memory");
    PCRE2_UCHAR text[160] = "";
    pcre2_get_error_message(code, text, sizeof text);
    return pare_fail(err, PARE_ERR_INPUT,
                     "regular expression: byte %zu of the text: found %s, expected an expression "
                     "that needs no more steps than the limit",
                     from, (const char *)text);
}
