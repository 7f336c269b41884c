/* Byte pair encoding: the lowest-ranked adjacent pair of a word merges, leftmost first, until none
 * is left. One engine for both kinds of vocabulary: merges by rank (Sennrich et al.,
 * arXiv:1508.07909), and SentencePiece's scores, where any two symbols that together are a token
 * merge and the rank is the order of the scores, equal scores sharing one. */
#ifndef PARE_SRC_TEXT_BPE_H
#define PARE_SRC_TEXT_BPE_H

#include "base/memory.h"

#define PARE_BPE_NO_RANK UINT32_MAX

typedef struct pare_pair {
    uint64_t key;   /* left << 32 | right; UINT64_MAX = empty */
    uint32_t rank;  /* lower merges first */
    int32_t result; /* the symbol that they become */
} pare_pair;

/* The pairs that merge, by open addressing. Zero-initialise. */
typedef struct pare_bpe {
    pare_pair *slots;
    size_t mask, n;
    uint64_t seed;
} pare_bpe;

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
} pare_bpe_scratch;
void pare_bpe_scratch_free(pare_bpe_scratch *scratch);

/* Merges the word ids[n] in place and returns its new length; n < 2^31. A symbol without a token (<
 * 0) never merges. O(n log n). SIZE_MAX: out of memory. */
size_t pare_bpe_merge(const pare_bpe *bpe, pare_bpe_scratch *scratch, int32_t *ids, size_t n);

#endif
