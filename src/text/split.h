/* Pre-tokenization: cutting a piece of text into the words that are merged apart. */
#ifndef PARE_SRC_TEXT_SPLIT_H
#define PARE_SRC_TEXT_SPLIT_H

#include "text/regex.h"
#include "text/vocab.h"

typedef struct pare_span_list {
    struct pare_text_span {
        uint32_t begin, end;
    } * data;
    size_t n, capacity;
} pare_span_list;

/* The compiled form of a vocabulary's pre steps. */
typedef struct pare_splitter {
    const pare_vocab *vocab;             /* borrowed */
    pare_regex *regexes[PARE_STEPS_MAX]; /* of PARE_PRE_REGEX steps, else NULL */
} pare_splitter;

pare_status pare_splitter_init(pare_splitter *splitter, const pare_vocab *vocab, pare_error *err);
void pare_splitter_free(pare_splitter *splitter);

/* Work space. Zero-initialise. */
typedef struct pare_split_scratch {
    pare_span_list spans, next;
    pare_text_buffer texts[2];
    pare_regex_scratch *regex;
    double budget_s; /* of all matches; 0 = no limit */
} pare_split_scratch;
void pare_split_scratch_free(pare_split_scratch *scratch);

/* Cuts s[0..n); first: s begins at the very start of the text. The words are the spans
 * scratch->spans of *text, which is s or a buffer of the scratch. An invalid byte is a word of its
 * own once a regular expression has cut. */
pare_status pare_split(const pare_splitter *splitter, pare_split_scratch *scratch, const char *s,
                       size_t n, bool first, const char **text, pare_error *err);

#endif
