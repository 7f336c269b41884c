/* Byte pair encoding: the lowest-ranked adjacent pair of a word merges, leftmost first, until none
 * is left. One engine for both kinds of vocabulary: a table of pairs by rank (Sennrich et al.,
 * arXiv:1508.07909), and SentencePiece's scores, where any two symbols that together are a token
 * merge, the best score first. The pairs of the second kind are not listed: their joined text is
 * looked up when they meet (a list for Gemma's 262,144 tokens takes longer to make than reading
 * the model). */
#ifndef PARE_SRC_TEXT_BPE_H
#define PARE_SRC_TEXT_BPE_H

#include "base/memory.h"

#define PARE_BPE_NO_RANK UINT32_MAX

typedef struct pare_pair {
    uint64_t key;   /* left << 32 | right; UINT64_MAX = empty */
    uint32_t rank;  /* lower merges first */
    int32_t result; /* the symbol that they become */
} pare_pair;

/* Whether two neighbours whose texts together are s[0..n) merge: at which rank and into what. */
typedef bool (*pare_bpe_joined)(const void *arg, const char *s, size_t n, uint32_t *rank,
                                int32_t *result);

/* The pairs that merge: by open addressing, or (joined not NULL) by their text. Zero-initialise. */
typedef struct pare_bpe {
    pare_pair *slots;
    size_t mask, n;
    uint64_t seed;
    pare_bpe_joined joined;
    const void *arg; /* of joined; borrowed */
} pare_bpe;

/* A word to merge, changed in place. */
typedef struct pare_bpe_word {
    int32_t *ids;    /* [n] */
    uint32_t *begin; /* [n] where each symbol begins in the text; only for pairs by text, as are */
    const char *text;
    size_t n, n_bytes; /* n_bytes: of the text */
} pare_bpe_word;

/* Makes room for n pairs. False: out of memory. */
bool pare_bpe_init(pare_bpe *bpe, size_t n);
void pare_bpe_free(pare_bpe *bpe);
/* Adds a pair (symbols >= 0); false when it is there already (the first one stays). */
bool pare_bpe_add(pare_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t result);
/* The pair, or NULL. */
const pare_pair *pare_bpe_find(const pare_bpe *bpe, int32_t left, int32_t right);

/* Work space, reused from word to word. Zero-initialise. */
typedef struct pare_bpe_scratch {
    struct pare_bpe_symbol *symbols;
    uint64_t *heap;
    size_t symbols_capacity, heap_capacity;
    pare_pair *memo; /* of pairs by text, or NULL */
} pare_bpe_scratch;

/* Remembers pairs by text from word to word, for long texts. Only where a symbol always stands for
 * the same text. Without memory it remembers nothing. */
void pare_bpe_remember(pare_bpe_scratch *scratch);
void pare_bpe_scratch_free(pare_bpe_scratch *scratch);

/* Merges a word of n < 2^31 symbols; of its fields ids[0..n) and n are valid afterwards. Of pairs
 * by rank a symbol without a token (< 0) never merges. O(n log n) look-ups. False: out of memory.
 */
bool pare_bpe_merge(const pare_bpe *bpe, pare_bpe_scratch *scratch, pare_bpe_word *word);

#endif
