/* Tokenizers: text to ids and back.
 *
 *     pare_tokenizer *tok = NULL;
 *     pare_tokenizer_load(&tok, "model-folder-or.gguf", &err);
 *     pare_ids ids = {0};
 *     pare_tokenizer_encode(tok, &ids, text, strlen(text), PARE_TOK_ADD_SPECIAL, &err);
 *     ...
 *     pare_ids_free(&ids);
 *     pare_tokenizer_free(tok);
 */
#ifndef PARE_TOKENIZER_H
#define PARE_TOKENIZER_H

#include "pare/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_tokenizer pare_tokenizer;

typedef struct pare_ids {
    int32_t *data; /* owned; pare_ids_free */
    size_t n, capacity;
} pare_ids;
void pare_ids_free(pare_ids *ids);

/* CRC-32 of ids as little-endian int32: one number that tells whether two tokenizers agree on a
 * text. */
uint32_t pare_ids_crc32(const int32_t *ids, size_t n);

enum {
    /* encoding */
    PARE_TOK_ADD_SPECIAL = 1,   /* add BOS and the like, as the tokenizer does by itself */
    PARE_TOK_PARSE_SPECIAL = 2, /* text such as "<|im_end|>" becomes the special token; without it,
                                   plain text */
    /* decoding */
    PARE_TOK_SKIP_SPECIAL = 4, /* leave special tokens out */
    PARE_TOK_VALID_UTF8 = 8,   /* U+FFFD for what is no UTF-8; without it the exact bytes */
    PARE_TOK_CONTINUES = 16    /* the ids go on after earlier text: a SentencePiece model's leading
                                  space stays */
};

/* Reads tokenizer.json of a Hugging Face folder (or a path to the file itself;
 * tokenizer_config.json and its like are looked for beside it), or the vocabulary of a GGUF file. A
 * tokenizer is never changed afterwards: any number of threads may use one. Errors: PARE_ERR_INPUT,
 * PARE_ERR_UNSUPPORTED (the message names what is known), PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_tokenizer_load(pare_tokenizer **out, const char *path, pare_error *err);
/* The same; `pre` overrides the pre-tokenizer that a GGUF file names ("llama-bpe", "qwen2", ...),
 * NULL for none. */
pare_status pare_tokenizer_load_as(pare_tokenizer **out, const char *path, const char *pre,
                                   pare_error *err);
void pare_tokenizer_free(pare_tokenizer *tok);

/* Appends the ids of text[len], at most 256 MiB. Any bytes are legal, NUL and invalid UTF-8 too;
 * see docs/tokenizers.md for the rule. On failure *ids is as before. Errors: PARE_ERR_ARG (too
 * long), PARE_ERR_INPUT (a character without any token; a regular expression of the file that needs
 * too many steps), PARE_ERR_NOMEM. */
pare_status pare_tokenizer_encode(const pare_tokenizer *tok, pare_ids *ids, const char *text,
                                  size_t len, unsigned flags, pare_error *err);

/* The text of n ids; *out is NUL-terminated, *len its length; free with pare_tokenizer_text_free.
 * Without PARE_TOK_VALID_UTF8 a byte-level tokenizer gives back the very bytes that were encoded.
 * An id out of range is PARE_ERR_ARG. */
pare_status pare_tokenizer_decode(const pare_tokenizer *tok, char **out, size_t *len,
                                  const int32_t *ids, size_t n, unsigned flags, pare_error *err);
void pare_tokenizer_text_free(char *text);

/* Streaming: text of one more id, whole UTF-8 characters only; bytes of an incomplete one are held
 * back, broken ones become U+FFFD. The tokenizer must outlive it. */
typedef struct pare_detokenizer pare_detokenizer;
pare_status pare_detokenizer_create(pare_detokenizer **out, const pare_tokenizer *tok,
                                    unsigned flags, pare_error *err);
/* *text is owned by the detokenizer and valid until the next call; may be "". */
pare_status pare_detokenizer_push(pare_detokenizer *d, int32_t id, const char **text, size_t *len,
                                  pare_error *err);
/* What was held back, invalid bytes as U+FFFD. */
pare_status pare_detokenizer_flush(pare_detokenizer *d, const char **text, size_t *len,
                                   pare_error *err);
void pare_detokenizer_free(pare_detokenizer *d);

size_t pare_tokenizer_vocab_size(const pare_tokenizer *tok);
/* One line about it: "byte-level BPE, 49152 tokens, 17 added, pre smollm, no BOS". Owned by the
 * tokenizer. */
const char *pare_tokenizer_describe(const pare_tokenizer *tok);
/* What was odd but accepted, one line each, "" for nothing. Owned by the tokenizer. */
const char *pare_tokenizer_warnings(const pare_tokenizer *tok);
/* Ids, -1 where there is none. */
int32_t pare_tokenizer_bos(const pare_tokenizer *tok);
int32_t pare_tokenizer_eos(const pare_tokenizer *tok);
/* True when PARE_TOK_ADD_SPECIAL puts BOS in front. */
bool pare_tokenizer_adds_bos(const pare_tokenizer *tok);
/* That BOS; -1: it puts none. */
int32_t pare_tokenizer_added_bos(const pare_tokenizer *tok);
/* True for ids that end generation (eos, eot, eom and what generation_config lists). */
bool pare_tokenizer_is_end(const pare_tokenizer *tok, int32_t id);
/* True for control tokens such as BOS, which PARE_TOK_SKIP_SPECIAL leaves out. */
bool pare_tokenizer_is_special(const pare_tokenizer *tok, int32_t id);
/* The token's own text, or NULL. Owned by the tokenizer. */
const char *pare_tokenizer_token(const pare_tokenizer *tok, int32_t id);
/* The id of a token by its own text, or -1. */
int32_t pare_tokenizer_find(const pare_tokenizer *tok, const char *token);
/* The chat template's source (Jinja), or NULL. Owned by the tokenizer. */
const char *pare_tokenizer_chat_template(const pare_tokenizer *tok);

#ifdef __cplusplus
}
#endif
#endif
