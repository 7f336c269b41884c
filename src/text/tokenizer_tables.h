/* The inside of a tokenizer: a vocabulary and the tables that encoding and decoding run on. */
#ifndef PARE_SRC_TEXT_TOKENIZER_TABLES_H
#define PARE_SRC_TEXT_TOKENIZER_TABLES_H

#include "io/common.h"
#include "text/bpe.h"
#include "text/split.h"
#include "text/trie.h"
#include "text/vocab.h"

/* Symbols of character models by code point: 256 to a page. A character that has no token, but is
 * part of one, is a symbol with a number from vocab->n on. */
#define PARE_CHAR_PAGES 0x1100
typedef struct pare_char_map {
    int32_t *pages[PARE_CHAR_PAGES]; /* each [256], -1 = none; NULL = nothing there */
    int32_t *virtual_chars;          /* [n_virtual] code points of the symbols past the tokens */
    size_t n_virtual, virtual_capacity;
} pare_char_map;

struct pare_tokenizer {
    pare_vocab *vocab;
    pare_names by_text;
    pare_bpe bpe;
    pare_trie raw, normalized; /* values: index into vocab->added */
    pare_splitter splitter;
    pare_char_map chars;
    int32_t byte_token[256]; /* of the byte's letter (byte level) or of "<0xHH>"; -1 = none */
    char mark[4];            /* U+2581, as SentencePiece writes a space */
    bool cut_at_marks;       /* character models: words are cut in front of marks ... */
    bool glued[256];         /* ... but not behind these bytes, which a token has before a mark */
    bool symbols_are_texts;  /* merges by score: a symbol always stands for its own text */
    size_t longest;          /* bytes of the longest token text */
    pare_text_buffer pieces; /* what each token decodes to */
    uint32_t *piece_end;     /* [n] */
    uint8_t *special, *end;  /* [n] flags */
    char *description;
};

/* The symbol of a character, or -1. */
static inline int32_t pare_char_symbol(const pare_char_map *map, int32_t cp) {
    const int32_t *page = cp < 0 ? NULL : map->pages[cp >> 8];
    return page ? page[cp & 255] : -1;
}

/* By scores: control, unknown, byte and unused tokens never come out of a merge (their text is
 * plain text). */
static inline bool pare_token_mergeable(const pare_token *t) {
    return t->type == PARE_TOKEN_NORMAL || t->type == PARE_TOKEN_USER_DEFINED;
}

/* The token with that text, or -1. */
int32_t pare_tokenizer_lookup(const pare_tokenizer *tok, const char *text, size_t len);

/* What a token decodes to. */
static inline pare_span pare_tokenizer_piece(const pare_tokenizer *tok, int32_t id) {
    uint32_t begin = id ? tok->piece_end[id - 1] : 0;
    return (pare_span){tok->pieces.data + begin, tok->piece_end[id] - begin};
}

/* The merges that scores imply: every way in which two symbols make a mergeable token, best score
 * first, then by the token's id, then by those of the parts. Needs by_text and chars. *out by
 * pare_free. Symbols without a token (>= vocab->n) occur. */
pare_status pare_score_merges(pare_merge **out, size_t *n, const pare_tokenizer *tok,
                              pare_error *err);

/* Applies one Replace. `limit`: bytes that out may reach; false: beyond it, or out of memory. */
bool pare_text_replace(pare_text_buffer *out, const pare_norm_step *step, const char *s, size_t n,
                       size_t limit);

/* Runs the normalizer on *s [*n], which then points into one of the two buffers (or where it did,
 * if there are no steps). Errors: PARE_ERR_INPUT when the text grows to more than 20 times its
 * length. */
pare_status pare_vocab_normalize(const pare_vocab *v, pare_text_buffer work[2], const char **s,
                                 size_t *n, pare_error *err);

#endif
