/* WikiText-2 as the papers read it. */
#ifndef PARE_SRC_TEXT_WIKITEXT_H
#define PARE_SRC_TEXT_WIKITEXT_H

#include "base/error.h"

/* The text of protocol "hf": one row per line of the file, a row that is only white space becomes
 * "", any other keeps its text and its final newline; rows are joined by "\n\n". (The Hugging Face
 * data set keeps each line's newline, so runs of three to five newlines arise.) *out is
 * NUL-terminated; free with pare_free. Errors: PARE_ERR_NOMEM. */
pare_status pare_text_hf_rows(char **out, size_t *len, const char *text, size_t n, pare_error *err);

#endif
