/* Finding added tokens in a text: leftmost, then longest. A byte trie, since a vocabulary can have
 * thousands of them (Gemma 3: 6,415). */
#ifndef PARE_SRC_TEXT_TRIE_H
#define PARE_SRC_TEXT_TRIE_H

#include "base/memory.h"

/* Zero-initialise. */
typedef struct pare_trie {
    struct pare_trie_node *nodes;
    size_t n, capacity;
    uint32_t root[256]; /* first node by first byte; 0 = none */
} pare_trie;

/* Adds a text (len >= 1) with a value >= 0. False: out of memory. *twin is set when the text is
 * there already (its first value stays). */
bool pare_trie_add(pare_trie *trie, const char *text, size_t len, int32_t value, bool *twin);
void pare_trie_free(pare_trie *trie);

/* Whether a value counts in this search. */
typedef bool (*pare_trie_accept)(const void *arg, int32_t value);

/* The longest accepted text that s[0..n) begins with: its value and length, or -1. */
int32_t pare_trie_match(const pare_trie *trie, const char *s, size_t n, pare_trie_accept accept,
                        const void *arg, size_t *len);

#endif
