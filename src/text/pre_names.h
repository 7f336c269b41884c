/* GGUF files name a pre-tokenizer (`tokenizer.ggml.pre`); Hugging Face files spell it out. This is
 * the dictionary between the two. */
#ifndef PARE_SRC_TEXT_PRE_NAMES_H
#define PARE_SRC_TEXT_PRE_NAMES_H

#include "text/vocab.h"

#define PARE_PRE_REGEXES 6

typedef struct pare_pre_entry {
    const char *names[10]; /* the first is the one that is written; NULL ends */
    const char *
        regexes[PARE_PRE_REGEXES]; /* one after the other, each cuts the pieces of the one before */
    bool ignore_merges, add_bos;   /* implied by the name, unless the file says otherwise */
    bool nfc; /* text is brought into normal form C first: the tokenizer.json that
                 the name stands for does it (llama.cpp does not) */
} pare_pre_entry;

/* GPT-2's expression, which "ByteLevel" stands for in tokenizer.json. */
extern const char *const pare_regex_gpt2;

/* The entry of a name, or NULL. */
const pare_pre_entry *pare_pre_find(const char *name);

/* The known names, "gpt-2, llama-bpe, ..."; for messages. False: cut short. */
bool pare_pre_list(char *out, size_t size);

/* Appends the entry's steps. */
pare_status pare_pre_apply(pare_vocab *v, const pare_pre_entry *entry, pare_error *err);

/* The name that GGUF has for a vocabulary's steps and flags, or NULL. */
const char *pare_pre_recognize(const pare_vocab *v);

#endif
