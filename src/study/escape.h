/* Text of users and files on its way into pages. */
#ifndef PARE_SRC_STUDY_ESCAPE_H
#define PARE_SRC_STUDY_ESCAPE_H

#include "io/common.h"

/* Text for HTML, also in attributes: markup is escaped, and what is no UTF-8, control characters
 * and those that turn the writing direction become U+FFFD; line ends and tabs a blank. */
void pare_html_text(pare_buffer *out, const char *text);
/* At most max_chars characters of a text, which loses its middle. Returns the number of characters.
 * out has room for 4 * max_chars + 4 bytes. */
size_t pare_text_shorten(char *out, const char *text, size_t max_chars);
/* Text for Markdown, also in cells of tables: what it or HTML would take for markup is escaped;
 * line ends and control bytes become blanks. */
void pare_markdown_text(pare_buffer *out, const char *text);

#endif
