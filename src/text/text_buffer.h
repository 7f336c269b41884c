/* Growing byte buffers of the text layer. */
#ifndef PARE_SRC_TEXT_TEXT_BUFFER_H
#define PARE_SRC_TEXT_TEXT_BUFFER_H

#include "base/memory.h"

#include <string.h>

/* Texts of one call stay below this, so that positions and token counts fit 31 bits and work space
 * stays below some 40 times as much. */
#define PARE_TEXT_MAX ((size_t)1 << 28)

/* Zero-initialise; free with pare_text_buffer_free. */
typedef struct pare_text_buffer {
    char *data;
    size_t n, capacity;
} pare_text_buffer;

/* Makes room for `more` bytes after n. False: out of memory, or more than PARE_TEXT_MAX. */
bool pare_text_buffer_reserve(pare_text_buffer *b, size_t more);
void pare_text_buffer_free(pare_text_buffer *b);

/* Appends n bytes; false as above. */
static inline bool pare_text_buffer_add(pare_text_buffer *b, const char *s, size_t n) {
    if (b->capacity - b->n < n && !pare_text_buffer_reserve(b, n)) return false;
    if (n) memcpy(b->data + b->n, s, n);
    b->n += n;
    return true;
}

/* The error for a failed reserve or add. */
pare_status pare_text_buffer_fail(pare_error *err);

/* Makes room for at least `need` items of `size` bytes in a growing array: *p and *capacity change
 * together. False: out of memory; both are then unchanged. */
bool pare_grow(void *p, size_t *capacity, size_t need, size_t size);

#endif
