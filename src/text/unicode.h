/* UTF-8, white space, GPT-2's byte alphabet and Unicode normal forms.
 *
 * Text is any bytes. A byte that is no part of well-formed UTF-8 (overlong forms, surrogates, above
 * U+10FFFF, lone or missing continuation bytes) is a unit of its own, everywhere in this layer. */
#ifndef PARE_SRC_TEXT_UNICODE_H
#define PARE_SRC_TEXT_UNICODE_H

#include "text/text_buffer.h"

/* Length of the first character of s[0..n), n >= 1, and its code point; an invalid byte has length
 * 1 and code point -1. */
size_t pare_utf8_next(const char *s, size_t n, int32_t *cp);

/* Writes cp (a valid code point) and returns its length, 1 to 4. */
size_t pare_utf8_put(char out[4], uint32_t cp);

/* Length of the longest well-formed prefix. */
size_t pare_utf8_prefix(const char *s, size_t n);

/* The number of bytes at the end of s[0..n) that begin a character and could still become valid. */
size_t pare_utf8_pending(const char *s, size_t n);

/* Unicode's White_Space property. */
bool pare_is_white_space(int32_t cp);

/* A word character: letter, mark, digit, letter number, connector punctuation, joiner. */
bool pare_is_word(int32_t cp);

/* GPT-2's byte alphabet: every byte has a printable code point (0x21..0x7E, 0xA1..0xAC, 0xAE..0xFF
 * stand for themselves, the others, in order, for U+0100, U+0101, ...). */
uint32_t pare_byte_to_alphabet(uint8_t byte);
/* The byte, or -1. */
int pare_alphabet_to_byte(int32_t cp);

typedef enum pare_normal_form { PARE_NFC, PARE_NFD, PARE_NFKC, PARE_NFKD } pare_normal_form;

/* Appends the normal form of s[0..n) to *out; invalid bytes pass unchanged. Linear time,
 * whatever the text. */
pare_status pare_normalize(pare_text_buffer *out, const char *s, size_t n, pare_normal_form form,
                           pare_error *err);

#endif
