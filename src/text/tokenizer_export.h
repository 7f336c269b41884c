/* A tokenizer in the other file format: what converting and compressing need. */
#ifndef PARE_SRC_TEXT_TOKENIZER_EXPORT_H
#define PARE_SRC_TEXT_TOKENIZER_EXPORT_H

#include "io/gguf_writer.h"
#include "pare/tokenizer.h"

/* Writes tokenizer.json and tokenizer_config.json into a folder, for a tokenizer of a GGUF file;
 * what they load to gives the same ids here and in Hugging Face's tokenizers. (A tokenizer that
 * came from such files is copied, not written: nothing can be lost then.) By scores, merges are
 * every way in which two tokens make a third, in order of its score. Filling tokens ("[PAD7]") at
 * the end are left out. folder NULL: all but the writing, to know whether it can be done. Errors:
 * PARE_ERR_ARG (it came from tokenizer.json), PARE_ERR_UNSUPPORTED, PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_tokenizer_write_json(const pare_tokenizer *tok, const char *folder,
                                      pare_error *err);

/* What the keys tokenizer.ggml.* of a GGUF file say. Free with pare_gguf_vocab_free. */
typedef struct pare_gguf_vocab {
    const char *model, *pre; /* "gpt2" or "llama"; "smollm", ..., "default" */
    size_t n;                /* tokens */
    pare_span *tokens;       /* [n] */
    float *scores;           /* [n], or NULL ("gpt2") */
    int32_t *types;          /* [n] */
    size_t n_merges;
    pare_span *merges;                    /* [n_merges] "a b", or NULL ("llama") */
    int32_t bos, eos, eot, eom, unk, pad; /* -1 = no key */
    bool add_bos, add_eos, add_space_prefix;
    const char *chat_template; /* or NULL */
    /* False when the format cannot say everything: merges by scores differ from those by rank
     * somewhere, or added tokens have flags that it lacks. Ids may then differ on rare texts.
     * (Texts with a literal U+2581 may differ even so: no GGUF vocabulary tells it from a space.)
     */
    bool exact;
    char *pool; /* owned: texts that the tokenizer does not hold */
} pare_gguf_vocab;

/* The content for a tokenizer, which must outlive *out. n_rows: rows of the embedding; a shorter
 * vocabulary is filled with unused "[PADi]" tokens; 0 = as many as tokens. Merges by rank of
 * character models become scores: the score of a token is minus the number of its first merge.
 * Errors: PARE_ERR_ARG (fewer rows than tokens), PARE_ERR_UNSUPPORTED (a normalizer, pre-tokenizer
 * or post-processor that GGUF has no name for), PARE_ERR_NOMEM. */
pare_status pare_tokenizer_to_gguf(pare_gguf_vocab *out, const pare_tokenizer *tok, size_t n_rows,
                                   pare_error *err);
void pare_gguf_vocab_free(pare_gguf_vocab *v);

/* Sets all its keys on a writer. */
pare_status pare_gguf_vocab_write(const pare_gguf_vocab *v, pare_gguf_writer *w, pare_error *err);

#endif
