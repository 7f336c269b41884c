/* What readers and writers share: text with a length, UTF-8, growing
 * bytes, and an index of names. */
#ifndef PARE_SRC_IO_COMMON_H
#define PARE_SRC_IO_COMMON_H

#include "base/memory.h"

/* Text with a length, not NUL-terminated unless its owner says so. */
typedef struct pare_span {
    const char *s;
    size_t n;
} pare_span;

/* For getters: an absent OPTIONAL value leaves *out as the caller set it (the default) and
 * succeeds; an absent REQUIRED value is an error. */
typedef enum pare_need { PARE_OPTIONAL = 0, PARE_REQUIRED } pare_need;

/* Whether the bytes are well-formed UTF-8 (no overlong forms, no surrogates, at most U+10FFFF). */
bool pare_utf8_valid(const char *s, size_t n);

/* Whether a name is fit for use: valid UTF-8 without control bytes. "" is. */
bool pare_name_valid(const char *s, size_t n);

/* The length of a prefix of at most `max` bytes that cuts no character: for "%.*s" in messages. */
int pare_clip(const char *s, size_t n, int max);

/* Bytes that grow. Zero-initialise; after a failed allocation `failed` stays set and adding does
 * nothing, so that one test at the end is enough. Free with pare_buffer_free. */
typedef struct pare_buffer {
    uint8_t *data;
    size_t n, capacity;
    bool failed;
} pare_buffer;

void pare_buffer_add(pare_buffer *b, const void *data, size_t n);
__attribute__((format(printf, 2, 3))) void pare_buffer_print(pare_buffer *b, const char *format,
                                                             ...);
void pare_buffer_free(pare_buffer *b);

/* An index of n names that live elsewhere: built once, 16 to 32 bytes a name, expected linear time
 * also for names chosen by an enemy (the hash is keyed). Zero-initialise; free with
 * pare_names_free. */
typedef struct pare_names {
    struct pare_name_slot *slots;
    size_t mask;
    uint64_t key;
} pare_names;

/* Name number i of `owner`. */
typedef pare_span (*pare_name_at)(const void *owner, size_t i);

/* Indexes names 0..n-1 (n < 2^31). *twin = SIZE_MAX, or the number of the first name that equals an
 * earlier one (the index is then of no use). False when memory is out. */
bool pare_names_build(pare_names *names, const void *owner, pare_name_at at, size_t n,
                      size_t *twin);

/* The number of a name, or SIZE_MAX. */
size_t pare_names_find(const pare_names *names, const void *owner, pare_name_at at, const char *s,
                       size_t n);
void pare_names_free(pare_names *names);

#endif
