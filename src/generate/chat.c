/* Chat formats. A template's Jinja source is searched for the marks of the known formats and for
 * the few things in which templates of a format differ (a default system message, trimming, blanks
 * round [INST]); it is never run, so that nothing in a model file can loop, grow or reach the host.
 * A source with a mark that changes what simple conversations look like is refused. */
#include "pare/chat.h"

#include "text/text_buffer.h"

#include <ctype.h>
#include <stdio.h>

typedef struct writer {
    const pare_chat *chat;
    pare_text_buffer text;
    size_t (*content)[2]; /* [n_content] begin and end of the messages' own text */
    size_t n_content;
    bool failed;
} writer;

typedef struct chat_format {
    const char *name;
    const char *need[4];   /* the source holds all of these ... */
    const char *refuse[8]; /* ... and none of these */
    void (*set_up)(pare_chat *chat, const char *source);
    void (*write)(writer *w, const pare_message *messages, size_t n);
} chat_format;

struct pare_chat {
    const pare_tokenizer *tok; /* borrowed, may be NULL */
    const chat_format *format;
    bool puts_bos;            /* the template writes it */
    bool trims;               /* white space round messages */
    bool trims_answers;       /* round the assistant's */
    bool no_system;           /* the template refuses system messages */
    bool drops_thought;       /* of earlier answers: what stands before </think> */
    bool system_last;         /* Mistral: in front of the last question instead of the first */
    bool system_block;        /* Mistral: between marks of its own */
    bool dated;               /* Llama 3.1: two lines with dates */
    bool answer_space;        /* Mistral: a blank in front of answers */
    char *system;             /* default system message, owned; NULL = none */
    char open[32], close[32]; /* Mistral: round a question, e.g. "[INST] ", " [/INST]" */
    char system_open[32], system_close[32];
};

/* --- writing --- */

static void put(writer *w, const char *text) {
    if (!pare_text_buffer_add(&w->text, text, strlen(text))) w->failed = true;
}

static void put_bytes(writer *w, const char *text, size_t n) {
    size_t begin = w->text.n;
    if (!pare_text_buffer_add(&w->text, text, n)) {
        w->failed = true;
        return;
    }
    w->content[w->n_content][0] = begin;
    w->content[w->n_content++][1] = w->text.n;
}

/* A message's own text. */
static void put_content(writer *w, const char *text, bool trim) {
    size_t n = strlen(text);
    if (trim) {
        while (n && isspace((unsigned char)text[n - 1])) n--;
        while (n && isspace((unsigned char)*text)) text++, n--;
    }
    put_bytes(w, text, n);
}

static bool is_role(const pare_message *m, const char *role) { return strcmp(m->role, role) == 0; }

static void put_token(writer *w, int32_t id, const char *otherwise) {
    const char *text = w->chat->tok && id >= 0 ? pare_tokenizer_token(w->chat->tok, id) : NULL;
    put(w, text ? text : otherwise);
}
static void put_bos(writer *w) {
    put_token(w, w->chat->tok ? pare_tokenizer_bos(w->chat->tok) : -1, "<s>");
}
static void put_eos(writer *w) {
    put_token(w, w->chat->tok ? pare_tokenizer_eos(w->chat->tok) : -1, "</s>");
}

/* <|im_start|>role\ncontent<|im_end|>\n */
static void write_chatml(writer *w, const pare_message *messages, size_t n) {
    const pare_chat *chat = w->chat;
    if (chat->system && !is_role(&messages[0], "system")) {
        put(w, "<|im_start|>system\n");
        put(w, chat->system);
        put(w, "<|im_end|>\n");
    }
    for (size_t i = 0; i < n; i++) {
        const char *content = messages[i].content;
        const char *thought = chat->drops_thought && is_role(&messages[i], "assistant")
                                  ? strstr(content, "</think>")
                                  : NULL;
        while (thought) {
            content = thought + strlen("</think>");
            thought = strstr(content, "</think>");
        }
        if (content != messages[i].content) content += strspn(content, "\n");
        put(w, "<|im_start|>");
        put(w, messages[i].role);
        put(w, "\n");
        put_content(w, content, chat->trims);
        put(w, "<|im_end|>\n");
    }
    put(w, "<|im_start|>assistant\n");
}

/* <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|> */
static void write_llama3(writer *w, const pare_message *messages, size_t n) {
    bool system = is_role(&messages[0], "system");
    size_t i = 0;
    if (w->chat->dated) {
        /* the template's own fixed date, so that a prompt does not change from day to day */
        put(w, "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
               "2023\nToday Date: 26 Jul 2024\n\n");
        if (system) put_content(w, messages[i++].content, true);
        put(w, "<|eot_id|>");
    }
    for (; i < n; i++) {
        put(w, "<|start_header_id|>");
        put(w, messages[i].role);
        put(w, "<|end_header_id|>\n\n");
        put_content(w, messages[i].content, true);
        put(w, "<|eot_id|>");
    }
    put(w, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

/* <start_of_turn>role\ncontent<end_of_turn>\n; a system message opens the first question. */
static void write_gemma(writer *w, const pare_message *messages, size_t n) {
    const char *system = is_role(&messages[0], "system") ? messages[0].content : NULL;
    for (size_t i = system ? 1 : 0; i < n; i++) {
        bool answer = is_role(&messages[i], "assistant");
        put(w, answer ? "<start_of_turn>model\n" : "<start_of_turn>user\n");
        if (system) {
            put_content(w, system, false);
            put(w, "\n\n");
            system = NULL;
        }
        put_content(w, messages[i].content, true);
        put(w, "<end_of_turn>\n");
    }
    put(w, "<start_of_turn>model\n");
}

/* <s>[INST] <<SYS>>\nsystem\n<</SYS>>\n\nquestion [/INST] answer </s> */
static void write_llama2(writer *w, const pare_message *messages, size_t n) {
    size_t first = is_role(&messages[0], "system") ? 1 : 0;
    const char *system = first ? messages[0].content : NULL;
    for (size_t i = first; i < n; i++) {
        if (is_role(&messages[i], "assistant")) {
            put(w, " ");
            put_content(w, messages[i].content, true);
            put(w, " ");
            put_eos(w);
            continue;
        }
        if (w->text.n) put_bos(w); /* the first one is added with the ids */
        put(w, "[INST] ");
        if (system) {
            put(w, "<<SYS>>\n");
            put_content(w, system, false);
            put(w, "\n<</SYS>>\n\n");
        }
        /* the template strips system and question together: of the question only its end */
        const char *text = messages[i].content;
        if (!system) text += strspn(text, " \t\r\n\f\v");
        size_t len = strlen(text);
        while (len && isspace((unsigned char)text[len - 1])) len--;
        put_bytes(w, text, len);
        put(w, " [/INST]");
        system = NULL;
    }
}

/* [INST] question [/INST] answer</s> with the blanks of the template. */
static void write_mistral(writer *w, const pare_message *messages, size_t n) {
    const pare_chat *chat = w->chat;
    const char *system = is_role(&messages[0], "system") ? messages[0].content : NULL;
    size_t first = system ? 1 : 0;
    if (system && chat->system_block) {
        put(w, chat->system_open);
        put_content(w, system, false);
        put(w, chat->system_close);
        system = NULL;
    }
    for (size_t i = first; i < n; i++) {
        if (is_role(&messages[i], "assistant")) {
            if (chat->answer_space) put(w, " ");
            put_content(w, messages[i].content, chat->trims_answers);
            put_eos(w);
            continue;
        }
        put(w, chat->open);
        if (system && (chat->system_last ? i + 1 == n : i == first)) {
            put_content(w, system, false);
            put(w, "\n\n");
        }
        put_content(w, messages[i].content, chat->trims);
        put(w, chat->close);
    }
}

/* --- reading a template's marks --- */

/* Copies a string literal's inside with \n undone; false where it does not fit. */
static bool unescape(char *out, size_t size, const char *text, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '\\' && i + 1 < n) {
            c = text[++i];
            if (c == 'n') c = '\n';
        }
        if (k + 1 >= size) return false;
        out[k++] = c;
    }
    out[k] = '\0';
    return true;
}

/* The string literal round the first `mark`. */
static bool find_literal(char *out, size_t size, const char *source, const char *mark) {
    const char *at = strstr(source, mark), *begin = at, *end;
    if (!at) return false;
    while (begin > source && begin[-1] != '\'' && begin[-1] != '"' && at - begin < 16) begin--;
    if (begin == source || (begin[-1] != '\'' && begin[-1] != '"')) return false;
    end = strchr(at, begin[-1]);
    return end && unescape(out, size, begin, (size_t)(end - begin));
}

/* The text of "<|im_start|>system\nTEXT<|im_end|>" where it stands in one literal. */
static void find_default_system(pare_chat *chat, const char *source) {
    static const char mark[] = "<|im_start|>system", end_mark[] = "<|im_end|>";
    for (const char *p = source; (p = strstr(p, mark));) {
        p += strlen(mark);
        const char *end = strstr(p, end_mark);
        if (!end) return;
        size_t n = (size_t)(end - p), lead = strncmp(p, "\\n", 2) == 0 ? 2 : 1;
        if (n > lead && n < 4096 && (lead == 2 || *p == '\n') && !memchr(p, '\'', n) &&
            !memchr(p, '"', n) && !memchr(p, '{', n)) {
            chat->system = pare_malloc(n + 1, 1);
            if (chat->system) unescape(chat->system, n + 1, p + lead, n - lead);
            return;
        }
    }
}

static bool has(const char *source, const char *mark) { return strstr(source, mark) != NULL; }

static void set_up_chatml(pare_chat *chat, const char *source) {
    find_default_system(chat, source);
    chat->drops_thought = has(source, "</think>");
}

static void set_up_llama3(pare_chat *chat, const char *source) {
    chat->dated = has(source, "Cutting Knowledge Date: December 2023");
}

static void set_up_gemma(pare_chat *chat, const char *source) {
    chat->no_system = has(source, "System role not supported");
}

static void set_up_mistral(pare_chat *chat, const char *source) {
    if (!find_literal(chat->open, sizeof chat->open, source, "[INST]"))
        strcpy(chat->open, "[INST] ");
    if (!find_literal(chat->close, sizeof chat->close, source, "[/INST]"))
        strcpy(chat->close, " [/INST]");
    chat->system_block =
        find_literal(chat->system_open, sizeof chat->system_open, source, "[SYSTEM_PROMPT]") &&
        find_literal(chat->system_close, sizeof chat->system_close, source, "[/SYSTEM_PROMPT]");
    chat->system_last = has(source, "loop.last and system_message is defined");
    chat->no_system = !chat->system_block && !has(source, "system_message");
    const char *answer = strstr(source, "== 'assistant'");
    if (!answer) answer = strstr(source, "== \"assistant\"");
    const char *expression = answer ? strstr(answer, "{{") : NULL;
    const char *end = expression ? strstr(expression, "}}") : NULL;
    if (!end) return;
    expression += 2;
    expression += strspn(expression, "- ");
    chat->answer_space = strncmp(expression, "' '", 3) == 0 || strncmp(expression, "\" \"", 3) == 0;
    for (const char *p = expression; p < end; p++)
        if (strncmp(p, "trim", 4) == 0 || strncmp(p, "strip()", 7) == 0) chat->trims_answers = true;
}

static void set_up_llama2(pare_chat *chat, const char *source) {
    (void)chat;
    (void)source;
}

static const chat_format formats[] = {
    {"ChatML",
     {"<|im_start|>", "<|im_end|>"},
     {"<|im_sep|>", "<end_of_utterance>", "## Metadata", "assistant\\n<think>",
      "{{- '<think>\\n' }}", "keep_past_thinking", "You are a function calling AI model"},
     set_up_chatml,
     write_chatml},
    {"Llama 3",
     {"<|start_header_id|>", "<|eot_id|>"},
     {"functools", "example_function_name", "recipient"},
     set_up_llama3,
     write_llama3},
    {"Gemma", {"<start_of_turn>", "<end_of_turn>"}, {NULL}, set_up_gemma, write_gemma},
    {"Llama 2", {"[INST]", "<<SYS>>"}, {NULL}, set_up_llama2, write_llama2},
    {"Mistral",
     {"[INST]", "[/INST]"},
     {"<<SYS>>", "default_system_message", "[THINK]"},
     set_up_mistral,
     write_mistral},
};

static bool recognises(const chat_format *f, const char *source) {
    for (size_t i = 0; i < 4 && f->need[i]; i++)
        if (!has(source, f->need[i])) return false;
    for (size_t i = 0; i < 8 && f->refuse[i]; i++)
        if (has(source, f->refuse[i])) return false;
    return true;
}

/* --- the public face --- */

pare_status pare_chat_create_from(pare_chat **out, const char *source, const pare_tokenizer *tok,
                                  pare_error *err) {
    *out = NULL;
    if (!source || !*source)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "chat template: found none, expected one in the model's files");
    const chat_format *f = NULL;
    for (size_t i = 0; i < sizeof formats / sizeof *formats && !f; i++)
        if (recognises(&formats[i], source)) f = &formats[i];
    if (!f)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "chat template: found an unknown format (it begins '%.40s'), expected "
                         "ChatML, Llama 2, Llama 3, Gemma or Mistral",
                         source);
    pare_chat *chat = pare_calloc(1, sizeof *chat);
    if (!chat) return pare_fail(err, PARE_ERR_NOMEM, "chat template: out of memory");
    chat->tok = tok;
    chat->format = f;
    chat->puts_bos = has(source, "bos_token");
    f->set_up(chat, source);
    *out = chat;
    return PARE_OK;
}

pare_status pare_chat_create(pare_chat **out, const pare_tokenizer *tok, pare_error *err) {
    return pare_chat_create_from(out, pare_tokenizer_chat_template(tok), tok, err);
}

void pare_chat_free(pare_chat *chat) {
    if (!chat) return;
    pare_free(chat->system);
    pare_free(chat);
}

const char *pare_chat_format(const pare_chat *chat) { return chat->format->name; }

static pare_status check_roles(const pare_chat *chat, const pare_message *messages, size_t n,
                               pare_error *err) {
    size_t first = n && is_role(&messages[0], "system") ? 1 : 0;
    if (first && chat->no_system)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "chat template: found a system message, expected none (this %s template "
                         "has no place for it)",
                         chat->format->name);
    for (size_t i = first; i < n; i++) {
        const char *expected = (i - first) % 2 ? "assistant" : "user";
        if (!is_role(&messages[i], expected))
            return pare_fail(err, PARE_ERR_ARG, "message %zu: found role '%.20s', expected '%s'",
                             i + 1, messages[i].role, expected);
    }
    if ((n - first) % 2 == 0)
        return pare_fail(err, PARE_ERR_ARG, "messages: found %zu, expected a user's at the end", n);
    return PARE_OK;
}

static void writer_free(writer *w) {
    pare_text_buffer_free(&w->text);
    pare_free(w->content);
}

static pare_status write_messages(writer *w, const pare_chat *chat, const pare_message *messages,
                                  size_t n, pare_error *err) {
    *w = (writer){.chat = chat};
    PARE_TRY(check_roles(chat, messages, n, err));
    w->content = pare_malloc(n + 1, sizeof *w->content);
    if (!w->content) return pare_fail(err, PARE_ERR_NOMEM, "chat: out of memory");
    chat->format->write(w, messages, n);
    if (!pare_text_buffer_add(&w->text, "", 1)) w->failed = true; /* the NUL */
    return w->failed ? pare_text_buffer_fail(err) : PARE_OK;
}

pare_status pare_chat_render(char **out, size_t *len, const pare_chat *chat,
                             const pare_message *messages, size_t n, pare_error *err) {
    writer w;
    *out = NULL;
    *len = 0;
    pare_status st = write_messages(&w, chat, messages, n, err);
    if (st == PARE_OK) {
        *out = w.text.data;
        *len = w.text.n - 1;
        w.text = (pare_text_buffer){0};
    }
    writer_free(&w);
    return st;
}

/* True when no message's own text holds the name of a special token: then the whole may be encoded
 * at once, with the merges across its seams that the model was trained with. */
static pare_status content_is_plain(bool *plain, const writer *w, pare_error *err) {
    pare_ids ids[2] = {{0}};
    pare_status st = PARE_OK;
    *plain = true;
    for (size_t i = 0; i < w->n_content && st == PARE_OK && *plain; i++) {
        const char *text = w->text.data + w->content[i][0];
        size_t n = w->content[i][1] - w->content[i][0];
        ids[0].n = ids[1].n = 0;
        st = pare_tokenizer_encode(w->chat->tok, &ids[0], text, n, 0, err);
        if (st == PARE_OK)
            st = pare_tokenizer_encode(w->chat->tok, &ids[1], text, n, PARE_TOK_PARSE_SPECIAL, err);
        *plain = ids[0].n == ids[1].n && (ids[0].n == 0 || memcmp(ids[0].data, ids[1].data,
                                                                  ids[0].n * sizeof(int32_t)) == 0);
    }
    pare_ids_free(&ids[0]);
    pare_ids_free(&ids[1]);
    return st;
}

/* Piece by piece: special tokens in the template's parts only. */
static pare_status encode_pieces(pare_ids *ids, const writer *w, pare_error *err) {
    const pare_tokenizer *tok = w->chat->tok;
    size_t at = 0;
    for (size_t i = 0; i <= w->n_content; i++) {
        size_t begin = i < w->n_content ? w->content[i][0] : w->text.n - 1;
        PARE_TRY(pare_tokenizer_encode(tok, ids, w->text.data + at, begin - at,
                                       PARE_TOK_PARSE_SPECIAL, err));
        if (i == w->n_content) break;
        at = w->content[i][1];
        PARE_TRY(pare_tokenizer_encode(tok, ids, w->text.data + begin, at - begin, 0, err));
    }
    return PARE_OK;
}

bool pare_chat_adds_bos(const pare_chat *chat) {
    return chat->tok && (chat->puts_bos || pare_tokenizer_adds_bos(chat->tok)) &&
           pare_tokenizer_bos(chat->tok) >= 0;
}

pare_status pare_chat_encode(pare_ids *ids, const pare_chat *chat, const pare_message *messages,
                             size_t n, pare_error *err) {
    if (!chat->tok) return pare_fail(err, PARE_ERR_ARG, "chat: found no tokenizer, expected one");
    writer w;
    bool plain = true;
    pare_status st = write_messages(&w, chat, messages, n, err);
    if (st == PARE_OK) st = content_is_plain(&plain, &w, err);
    if (st == PARE_OK && pare_chat_adds_bos(chat)) {
        if (pare_grow(&ids->data, &ids->capacity, ids->n + 1, sizeof *ids->data))
            ids->data[ids->n++] = pare_tokenizer_bos(chat->tok);
        else
            st = pare_fail(err, PARE_ERR_NOMEM, "chat: out of memory");
    }
    if (st == PARE_OK)
        st = plain ? pare_tokenizer_encode(chat->tok, ids, w.text.data, w.text.n - 1,
                                           PARE_TOK_PARSE_SPECIAL, err)
                   : encode_pieces(ids, &w, err);
    writer_free(&w);
    return st;
}
