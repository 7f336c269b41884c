/* Regular expressions of tokenizer files, on PCRE2. They were written for Oniguruma (and Rust):
 * `\s`, `\S`, `\w`, `\W`, `\b`, `\B` are translated to what those mean by them, ^ and $ are those
 * of lines.
 *
 * An expression is untrusted: its length, its nesting, the steps of one match, its heap and its
 * machine stack (1 MiB) have limits, and running into one is an error, never a hang or a crash. */
#ifndef PARE_SRC_TEXT_REGEX_H
#define PARE_SRC_TEXT_REGEX_H

#include "text/text_buffer.h"

typedef struct pare_regex pare_regex;

/* Errors: PARE_ERR_INPUT (with PCRE2's message and the place), PARE_ERR_NOMEM. */
pare_status pare_regex_compile(pare_regex **out, const char *pattern, size_t len, pare_error *err);
void pare_regex_free(pare_regex *regex);

/* What one thread needs in order to match; made once per call, shared by all expressions. */
typedef struct pare_regex_scratch pare_regex_scratch;
pare_regex_scratch *pare_regex_scratch_new(void);
/* From now on all matches together may take that long; without it there is no such limit. The steps
 * of one match are bounded, but an expression can walk the whole text from every place in it. */
void pare_regex_scratch_budget(pare_regex_scratch *scratch, double seconds);
void pare_regex_scratch_free(pare_regex_scratch *scratch);

/* The first match in s[0..n) (valid UTF-8) at or after `from`: *found, [*begin, *end). */
pare_status pare_regex_next(const pare_regex *regex, pare_regex_scratch *scratch, const char *s,
                            size_t n, size_t from, bool *found, size_t *begin, size_t *end,
                            pare_error *err);

/* The expression as PCRE2 gets it; false: out of memory. For tests. */
bool pare_regex_translate(pare_text_buffer *out, const char *pattern, size_t len);

#endif
