/* Chat: messages as the text that a model was trained on.
 *
 *     pare_chat *chat = NULL;
 *     pare_chat_create(&chat, tok, &err);
 *     const pare_message talk[] = {{"user", "Why is the sky blue?"}};
 *     pare_ids ids = {0};
 *     pare_chat_encode(&ids, chat, talk, 1, &err);
 *     ...
 *     pare_ids_free(&ids);
 *     pare_chat_free(chat);
 *
 * Model files carry their format as a Jinja program. It is never run: the format is recognised from
 * marks in its source and written by C code. What is not recognised is refused, not guessed. */
#ifndef PARE_CHAT_H
#define PARE_CHAT_H

#include "pare/base.h"
#include "pare/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_message {
    const char *role; /* "system" (the first only), then "user" and "assistant" in turns */
    const char *content;
} pare_message;

typedef struct pare_chat pare_chat;

/* For the tokenizer's own template; tok must outlive it. Errors: PARE_ERR_UNSUPPORTED (there is no
 * template, or none of the known formats: ChatML, Llama 2, Llama 3, Gemma, Mistral). */
pare_status pare_chat_create(pare_chat **out, const pare_tokenizer *tok, pare_error *err);
/* For a template's source; tok may be NULL where only text is wanted. */
pare_status pare_chat_create_from(pare_chat **out, const char *source, const pare_tokenizer *tok,
                                  pare_error *err);
void pare_chat_free(pare_chat *chat);

/* "ChatML", "Llama 3", ... */
const char *pare_chat_format(const pare_chat *chat);

/* Does pare_chat_encode put BOS in front? */
bool pare_chat_adds_bos(const pare_chat *chat);

/* The conversation up to where the assistant's next words begin; without BOS. *out is
 * NUL-terminated, free with pare_tokenizer_text_free. Errors: PARE_ERR_ARG (roles out of order),
 * PARE_ERR_UNSUPPORTED (a system message where the format has none). */
pare_status pare_chat_render(char **out, size_t *len, const pare_chat *chat,
                             const pare_message *messages, size_t n, pare_error *err);

/* The ids of that text, BOS in front where the template or the tokenizer puts it. Special tokens
 * that stand in the messages' own text stay plain text. */
pare_status pare_chat_encode(pare_ids *ids, const pare_chat *chat, const pare_message *messages,
                             size_t n, pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
