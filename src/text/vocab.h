/* A tokenizer as data: what every file format says about one, in one form. Both loaders fill it,
 * pare_tokenizer_build makes the tables that encoding needs, the exporters write it again.
 *
 * Encoding a text goes through these fields in order: added tokens that are not normalized are cut
 * out of the raw text; normalizer steps rewrite each remaining piece; normalized added tokens are
 * cut out; pre steps split pieces into words; each word is merged; prefix and suffix ids go round
 * the whole. */
#ifndef PARE_SRC_TEXT_VOCAB_H
#define PARE_SRC_TEXT_VOCAB_H

#include "pare/tokenizer.h"
#include "text/text_buffer.h"
#include "text/unicode.h"

/* Limits of one vocabulary. */
#define PARE_VOCAB_MAX ((size_t)1 << 26) /* tokens */
#define PARE_ADDED_TEXT_MAX                                                                        \
    ((size_t)1 << 10) /* bytes of an added token: matching costs their product                     \
                         with the text's length at worst */
#define PARE_PATTERN_MAX ((size_t)1 << 16) /* bytes of a regular expression */
#define PARE_STEPS_MAX 32                  /* normalizer, pre-tokenizer or decoder steps */

/* GGUF's numbers. */
typedef enum pare_token_type {
    PARE_TOKEN_NORMAL = 1,
    PARE_TOKEN_UNKNOWN,
    PARE_TOKEN_CONTROL,
    PARE_TOKEN_USER_DEFINED, /* matched on raw text, always */
    PARE_TOKEN_UNUSED,
    PARE_TOKEN_BYTE /* "<0xHH>" */
} pare_token_type;

typedef struct pare_token {
    uint32_t offset, len; /* its own text in vocab->text, a NUL after it */
    float score;          /* of merging by scores; else 0 */
    uint8_t type;         /* pare_token_type */
    bool outside; /* an added token that is not in the model's own vocabulary (tokenizer.json):
                     merging never makes it */
} pare_token;

/* left and right become result. Merges are in order of rank. */
typedef struct pare_merge {
    int32_t left, right, result;
} pare_merge;

enum {
    PARE_ADDED_LSTRIP = 1,      /* swallows white space on its left */
    PARE_ADDED_RSTRIP = 2,      /* ... on its right */
    PARE_ADDED_SINGLE_WORD = 4, /* only between non-word characters */
    PARE_ADDED_NORMALIZED = 8,  /* matched on normalized text */
    PARE_ADDED_SPECIAL = 16     /* only with PARE_TOK_PARSE_SPECIAL; left out when decoding so */
};
typedef struct pare_added {
    int32_t id;
    uint8_t flags;
} pare_added;

typedef enum pare_norm_kind { PARE_NORM_FORM, PARE_NORM_PREPEND, PARE_NORM_REPLACE } pare_norm_kind;
typedef struct pare_norm_step {
    pare_norm_kind kind;
    pare_normal_form form;
    char *from, *to; /* owned; PREPEND has `to` only */
    size_t from_len, to_len;
} pare_norm_step;

/* What becomes of the matches of a split (Hugging Face's names). */
typedef enum pare_split_behaviour {
    PARE_SPLIT_ISOLATED,
    PARE_SPLIT_REMOVED,
    PARE_SPLIT_CONTIGUOUS,
    PARE_SPLIT_WITH_PREVIOUS,
    PARE_SPLIT_WITH_NEXT
} pare_split_behaviour;

typedef enum pare_pre_kind {
    PARE_PRE_REGEX,        /* text = Oniguruma-style expression */
    PARE_PRE_LITERAL,      /* text = string to split at */
    PARE_PRE_SPACE_PREFIX, /* a space before a piece that has none */
    PARE_PRE_METASPACE     /* ' ' becomes text, which is also put in front as `prepend` says */
} pare_pre_kind;
typedef enum pare_prepend {
    PARE_PREPEND_NEVER,
    PARE_PREPEND_FIRST,
    PARE_PREPEND_ALWAYS
} pare_prepend;

typedef struct pare_pre_step {
    pare_pre_kind kind;
    pare_split_behaviour behaviour;
    bool invert; /* what does not match is the match */
    pare_prepend prepend;
    char *text; /* owned */
    size_t len;
} pare_pre_step;

struct pare_gguf;

typedef struct pare_vocab {
    char *source; /* "gguf" file or path of tokenizer.json, for messages */
    bool from_gguf;
    char *pre;        /* GGUF's name of the pre-tokenizer, or NULL */
    bool pre_missing; /* a GGUF file without that key */

    pare_text_buffer text;
    pare_token *tokens; /* [n] */
    size_t n, tokens_capacity;

    bool byte_level; /* words are bytes in GPT-2's alphabet; else characters */
    bool by_score;   /* SentencePiece: any two that together are a token merge, best score first */
    bool byte_fallback; /* a character without token becomes <0xHH> tokens */
    bool fuse_unk;      /* neighbouring unknown characters become one unknown token */
    bool ignore_merges; /* a word that is a token is not merged */
    bool space_prefix;  /* GGUF's add_space_prefix; the normalizer has it as a step */
    pare_merge *merges;
    size_t n_merges, merges_capacity;

    pare_added *added;
    size_t n_added, added_capacity;
    pare_norm_step norm[PARE_STEPS_MAX];
    size_t n_norm;
    pare_pre_step pre_steps[PARE_STEPS_MAX];
    size_t n_pre;
    int32_t *prefix, *suffix; /* ids put round a text */
    size_t n_prefix, n_suffix;

    pare_norm_step decode[PARE_STEPS_MAX]; /* PARE_NORM_REPLACE in each token's text */
    size_t n_decode;
    size_t decode_strip; /* spaces taken from the front of the whole text */

    int32_t unk, bos, eos, eot, eom, pad; /* -1 = none */
    int32_t *ends;                        /* further ids that end generation */
    size_t n_ends, ends_capacity;
    char *chat_template;       /* or NULL */
    pare_text_buffer warnings; /* lines */
} pare_vocab;

/* An empty one; NULL when memory is out. */
pare_vocab *pare_vocab_new(const char *source);
void pare_vocab_free(pare_vocab *v);

/* Appends a token; its id is v->n before the call. Errors: PARE_ERR_INPUT (text not UTF-8, too
 * many), PARE_ERR_NOMEM. */
pare_status pare_vocab_add(pare_vocab *v, const char *text, size_t len, float score,
                           pare_token_type type, pare_error *err);
/* The own text of a token, NUL-terminated. */
static inline const char *pare_vocab_text(const pare_vocab *v, int32_t id) {
    return v->text.data + v->tokens[id].offset;
}

pare_status pare_vocab_add_merge(pare_vocab *v, pare_merge merge, pare_error *err);
pare_status pare_vocab_add_added(pare_vocab *v, int32_t id, unsigned flags, pare_error *err);
pare_status pare_vocab_add_end(pare_vocab *v, int32_t id, pare_error *err);
/* Copies from and to. NUL bytes are legal. Errors: PARE_ERR_INPUT (too many, or a rule that could
 * run away: an empty pattern, or one that its own output contains). */
pare_status pare_vocab_add_norm(pare_vocab *v, pare_norm_kind kind, pare_normal_form form,
                                const char *from, size_t from_len, const char *to, size_t to_len,
                                pare_error *err);
pare_status pare_vocab_add_decode(pare_vocab *v, const char *from, size_t from_len, const char *to,
                                  size_t to_len, pare_error *err);
/* Copies step->text. */
pare_status pare_vocab_add_pre(pare_vocab *v, pare_pre_step step, pare_error *err);
/* prefix (before = true) or suffix gets one more id. */
pare_status pare_vocab_add_affix(pare_vocab *v, bool before, int32_t id, pare_error *err);
/* One more warning line. */
__attribute__((format(printf, 2, 3))) void pare_vocab_warn(pare_vocab *v, const char *format, ...);

/* The byte of "<0xHH>", or -1. */
int pare_byte_token(const char *text, size_t len);

/* A tokenizer from a vocabulary, which it owns from now on (also on failure). Checks everything
 * that later indexes. */
pare_status pare_tokenizer_build(pare_tokenizer **out, pare_vocab *v, pare_error *err);
/* The vocabulary inside; borrowed. */
const pare_vocab *pare_tokenizer_vocab(const pare_tokenizer *tok);

/* The loaders behind pare_tokenizer_load. `pre` overrides what the file says, or is NULL. */
pare_status pare_tokenizer_load_json(pare_tokenizer **out, const char *path, pare_error *err);
pare_status pare_tokenizer_load_gguf(pare_tokenizer **out, const char *path, const char *pre,
                                     pare_error *err);
/* From a file that is open already. */
pare_status pare_tokenizer_from_gguf(pare_tokenizer **out, const struct pare_gguf *g,
                                     const char *pre, pare_error *err);

/* The tokenizer of an open model: of its GGUF header, or (g NULL) of the folder at `path`. *out =
 * NULL where the model has none: a folder without tokenizer.json and without the older pair, a
 * header without a vocabulary. */
pare_status pare_tokenizer_of_model(pare_tokenizer **out, const struct pare_gguf *g,
                                    const char *path, pare_error *err);

#endif
