/* pare run: generates text, once or in conversation. */
#include "act_options.h"
#include "prefix_options.h"

#include "pare/chat.h"
#include "pare/generate.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct run_options {
    const char *prompt, *file, *system, *kv, *draft, *lora, *prefix, *prefix_tokens;
    cli_act act;
    bool interactive, chat, ignore_eos;
    int64_t n, ctx, top_k, repeat_last_n, draft_max;
    double temp, top_p, min_p, repeat_penalty;
    cli_texts stop;
    int compute, speculate;
} run_options;

enum { SPECULATE_OFF, SPECULATE_NGRAM };

static const cli_option table[] = {
    CLI_OPTION(run_options, 'p', "prompt", CLI_TEXT, prompt, "TEXT", 0, 0,
               "the text to go on from"),
    CLI_ACT_OPTIONS(run_options, act),
    CLI_OPTION(run_options, 0, "lora", CLI_TEXT, lora, "ADAPTER", 0, 0,
               "compute with a low-rank adapter (a folder of PEFT's or pare train's)"),
    CLI_PREFIX_OPTIONS(run_options),
    CLI_OPTION(run_options, 'f', "file", CLI_TEXT, file, "FILE", 0, 0,
               "the prompt from a file, - = standard input"),
    CLI_SWITCH(run_options, 'i', "interactive", interactive,
               "a conversation: a question a line, history is kept"),
    CLI_SWITCH(run_options, 0, "chat", chat,
               "the prompt is a question, in the model's chat format"),
    CLI_OPTION(run_options, 0, "system", CLI_TEXT, system, "TEXT", 0, 0,
               "system message of --chat and -i"),
    CLI_OPTION(run_options, 'n', "tokens", CLI_INT, n, "N", -1, 1 << 30,
               "tokens to generate at most; -1 = until an end token, a stop string or a full "
               "context"),
    CLI_OPTION(run_options, 'c', "ctx", CLI_INT, ctx, "N", 0, 1 << 30,
               "positions of the context; 0 = the model's maximum, at most 4096"),
    CLI_OPTION(run_options, 0, "temp", CLI_FLOAT, temp, "T", 0, 1000,
               "temperature; 0 = always the likeliest token"),
    CLI_OPTION(run_options, 0, "top-k", CLI_INT, top_k, "K", 0, 1 << 30,
               "choose among the K likeliest; 0 = all"),
    CLI_OPTION(run_options, 0, "top-p", CLI_FLOAT, top_p, "P", 0, 1,
               "of these, the fewest that together have probability P"),
    CLI_OPTION(run_options, 0, "min-p", CLI_FLOAT, min_p, "P", 0, 1,
               "of these, those with at least P times the largest probability"),
    CLI_OPTION(run_options, 0, "repeat-penalty", CLI_FLOAT, repeat_penalty, "X", 0.001, 1000,
               "weakens recent tokens; 1 = not at all"),
    CLI_OPTION(run_options, 0, "repeat-last-n", CLI_INT, repeat_last_n, "N", 0, 1 << 24,
               "how many tokens are recent"),
    CLI_OPTION(run_options, 0, "stop", CLI_TEXTS, stop, "TEXT", 0, 0,
               "ends before this text; may be given again"),
    CLI_SWITCH(run_options, 0, "ignore-eos", ignore_eos, "never choose an end token"),
    CLI_OPTION(run_options, 0, "compute", CLI_CHOICE, compute, "exact|fast", 0, 0,
               "f32 results, or 8-bit activations where the weights allow"),
    CLI_OPTION(
        run_options, 0, "kv", CLI_TEXT, kv, "CODEC", 0, 0,
        "how keys and values are kept: f32, f16, bf16, q8_0 or q4_0 (default f16, with exact f32)"),
    CLI_OPTION(run_options, 0, "speculate", CLI_CHOICE, speculate, "off|ngram", 0, 0,
               "guess tokens from earlier places of the text and compute them together: the same "
               "text, faster where it repeats itself"),
    CLI_OPTION(run_options, 0, "draft", CLI_TEXT, draft, "MODEL", 0, 0,
               "let a smaller model with the same vocabulary guess"),
    CLI_OPTION(run_options, 0, "draft-max", CLI_INT, draft_max, "N", 1, PARE_DRAFT_MAX,
               "guesses at a time, at most; fewer where they are often wrong (default 7)"),
    {0},
};
static const run_options defaults = {.n = -1,
                                     .top_k = 40,
                                     .repeat_last_n = 64,
                                     .temp = 0.8,
                                     .top_p = 0.95,
                                     .min_p = 0.05,
                                     .repeat_penalty = 1,
                                     .compute = PARE_COMPUTE_FAST};

typedef struct runner {
    cli *c;
    const run_options *o;
    pare_tokenizer *tok;
    pare_model *model;
    pare_session *session;
    pare_model *draft_model; /* NULL without --draft, as is draft */
    pare_session *draft;
    pare_chat *chat;
    pare_ids ids;     /* of the prompt or of the conversation so far */
    pare_ids history; /* what the session holds */
} runner;

static void runner_free(runner *r) {
    pare_ids_free(&r->ids);
    free(r->history.data); /* grown here, not by the library */
    pare_chat_free(r->chat);
    pare_session_free(r->draft);
    pare_model_free(r->draft_model);
    pare_session_free(r->session);
    pare_model_free(r->model);
    pare_tokenizer_free(r->tok);
}

static const char *token_text(const pare_tokenizer *tok, size_t id) {
    const char *text = pare_tokenizer_token(tok, (int32_t)id);
    return text ? text : "none";
}

/* A draft guesses tokens by number: they must be the same. */
static pare_status check_draft(runner *r, const char *path) {
    cli *c = r->c;
    pare_tokenizer *tok = NULL;
    size_t at;
    pare_status st = pare_tokenizer_load(&tok, r->o->draft, &c->err);
    if (st == PARE_OK && !pare_tokenizer_same_tokens(r->tok, tok, &at))
        st = cli_fail(c, PARE_ERR_ARG,
                      "%s: token %zu: found \"%.60s\", expected \"%.60s\" as in %s: a draft needs "
                      "the same vocabulary",
                      r->o->draft, at, token_text(tok, at), token_text(r->tok, at), path);
    pare_tokenizer_free(tok);
    return st;
}

/* That stands in front of prompts; -1: none. */
static int32_t bos_in_front(const runner *r) {
    const bool there = r->chat ? pare_chat_adds_bos(r->chat) : pare_tokenizer_adds_bos(r->tok);
    return there ? pare_tokenizer_bos(r->tok) : -1;
}

static pare_status load_draft(runner *r, pare_session_options so, const char *path) {
    cli *c = r->c;
    pare_status st = check_draft(r, path);
    if (st == PARE_OK) st = pare_model_load(&r->draft_model, c->rt, r->o->draft, &c->err);
    /* what the model's prefix stands for, a draft without one has to see too */
    const int32_t bos = bos_in_front(r);
    if (st == PARE_OK && pare_model_prefix_holds(r->model, bos) &&
        !pare_model_prefix_length(r->draft_model))
        st = pare_model_set_prefix_ids(r->draft_model, &bos, 1, &c->err);
    if (st != PARE_OK) return st;
    size_t vocab = pare_model_vocab_size(r->draft_model), most = pare_model_ctx_max(r->draft_model);
    if (vocab != pare_model_vocab_size(r->model))
        return cli_fail(c, PARE_ERR_ARG,
                        "%s: found %zu rows of the vocabulary, expected %zu as in %s", r->o->draft,
                        vocab, pare_model_vocab_size(r->model), path);
    /* beyond its positions it guesses no more */
    so.n_ctx = pare_session_n_ctx(r->session);
    if (so.n_ctx > most) so.n_ctx = most;
    return pare_session_create(&r->draft, r->draft_model, &so, &c->err);
}

static pare_status runner_load(runner *r, const char *path) {
    cli *c = r->c;
    pare_session_options so = pare_session_options_default();
    so.n_ctx = (size_t)r->o->ctx;
    so.compute = (pare_compute)r->o->compute;
    so.kv = r->o->kv;
    pare_status st = cli_runtime(c);
    if (st == PARE_OK) st = pare_tokenizer_load(&r->tok, path, &c->err);
    if (st == PARE_OK && (r->o->chat || r->o->interactive)) {
        st = pare_chat_create(&r->chat, r->tok, &c->err);
        if (st != PARE_OK) return cli_prefix(c, path);
    }
    if (st == PARE_OK) st = pare_model_load(&r->model, c->rt, path, &c->err);
    if (st == PARE_OK && r->o->lora) st = pare_model_add_lora(r->model, r->o->lora, &c->err);
    if (st == PARE_OK) st = cli_set_prefix(c, r->model, path, r->o->prefix, r->o->prefix_tokens);
    if (st == PARE_OK) st = cli_act_apply(c, &r->o->act, r->model);
    if (st == PARE_OK) st = pare_session_create(&r->session, r->model, &so, &c->err);
    if (st == PARE_OK && pare_session_n_ctx(r->session) > pare_model_ctx_max(r->model))
        cli_warn(c,
                 "--ctx %zu: the model was trained for %zu positions; beyond them expect nonsense",
                 pare_session_n_ctx(r->session), pare_model_ctx_max(r->model));
    if (st == PARE_OK && r->o->draft) st = load_draft(r, so, path);
    return st;
}

/* --- output --- */

static int on_text(void *arg, const char *text, size_t len) {
    cli *c = arg;
    return cli_print(c, text, len) != PARE_OK;
}

static pare_generate_options generate_options(const runner *r) {
    const run_options *o = r->o;
    pare_generate_options g = pare_generate_options_default();
    g.sampler = (pare_sampler_options){.temperature = o->temp,
                                       .top_k = (size_t)o->top_k,
                                       .top_p = o->top_p,
                                       .min_p = o->min_p,
                                       .repeat_penalty = o->repeat_penalty,
                                       .repeat_last_n = (size_t)o->repeat_last_n,
                                       .seed = (uint64_t)r->c->common.seed};
    g.max_tokens = o->n < 0 ? SIZE_MAX : (size_t)o->n;
    g.stop = o->stop.item;
    g.n_stop = o->stop.n;
    g.ignore_eos = o->ignore_eos;
    g.speculate =
        (pare_speculate_options){.lookup = o->speculate == SPECULATE_NGRAM,
                                 .draft = r->draft,
                                 .max = o->draft_max ? (size_t)o->draft_max : PARE_DRAFT_MAX};
    g.before = r->history.data;
    g.n_before = r->history.n;
    if (!r->c->common.json) {
        g.on_text = on_text;
        g.arg = r->c;
    }
    return g;
}

static double rate(double n, double seconds) { return seconds > 0 ? n / seconds : 0; }

static const char *mode(const runner *r) { return r->o->compute ? "fast" : "exact"; }

static pare_status print_json(cli *c, const runner *r, const pare_generation *g, bool indent) {
    json_t *out = cli_json_begin(c), *ids = json_array();
    for (size_t i = 0; i < g->ids.n; i++) json_array_append_new(ids, json_integer(g->ids.data[i]));
    json_object_set_new(out, "text", cli_json_text(g->text, g->text_len));
    json_object_set_new(out, "token_ids", ids);
    json_object_set_new(out, "prompt_tokens", json_integer((json_int_t)g->prompt_tokens));
    json_object_set_new(out, "generated_tokens", json_integer((json_int_t)g->ids.n));
    json_object_set_new(out, "prefill_tokens_per_s",
                        cli_json_real(rate((double)g->prompt_tokens, g->prefill_s)));
    json_object_set_new(out, "decode_tokens_per_s",
                        cli_json_real(rate((double)g->decoded, g->decode_s)));
    json_object_set_new(out, "drafted_tokens", json_integer((json_int_t)g->drafted));
    json_object_set_new(out, "accepted_tokens", json_integer((json_int_t)g->accepted));
    json_object_set_new(out, "first_token_s", cli_json_real(g->first_token_s));
    json_object_set_new(out, "peak_rss_bytes", json_integer((json_int_t)cli_peak_rss()));
    json_object_set_new(out, "stop_reason", json_string(pare_stop_reason_name(g->reason)));
    json_object_set_new(out, "compute", json_string(mode(r)));
    json_object_set_new(out, "ctx", json_integer((json_int_t)pare_session_n_ctx(r->session)));
    json_object_set_new(out, "kv_bytes",
                        json_integer((json_int_t)pare_session_kv_bytes(r->session)));
    return cli_json_print(c, out, indent);
}

static void print_speed(const runner *r, const pare_generation *g) {
    char guesses[64] = "";
    if (g->drafted)
        snprintf(guesses, sizeof guesses, ", %zu of %zu guesses right", g->accepted, g->drafted);
    cli_note(r->c,
             "prompt %zu tokens, %.1f tokens/s; generated %zu tokens, %.1f tokens/s%s; first token "
             "after %.2f s; %s; %s",
             g->prompt_tokens, rate((double)g->prompt_tokens, g->prefill_s), g->ids.n,
             rate((double)g->decoded, g->decode_s), guesses, g->first_token_s, mode(r),
             cli_bytes((double)cli_peak_rss()));
}

static void tell_full_context(const runner *r, const pare_generation *g) {
    if (g->reason == PARE_STOP_CONTEXT)
        cli_warn(r->c,
                 "the context of %zu positions is full: the answer ends here; --ctx gives more",
                 pare_session_n_ctx(r->session));
}

/* --- one shot --- */

static pare_status read_prompt(runner *r, char **text, size_t *n) {
    cli *c = r->c;
    const run_options *o = r->o;
    if (o->prompt && o->file)
        return cli_fail(c, PARE_ERR_ARG, "run: found both -p and -f, expected one of them");
    if (o->prompt) {
        *text = strdup(o->prompt);
        *n = strlen(o->prompt);
        return *text ? PARE_OK : cli_fail(c, PARE_ERR_NOMEM, "prompt: out of memory");
    }
    if (!o->file && isatty(STDIN_FILENO))
        return cli_fail(c, PARE_ERR_ARG, "run: found no prompt, expected -p TEXT, -f FILE or -i");
    return cli_read(c, text, n, o->file);
}

/* A BOS that the model's prefix holds is not computed again. */
static void leave_bos(runner *r) {
    size_t skip = pare_model_prefix_has_bos(r->model, bos_in_front(r), r->ids.data, r->ids.n);
    r->ids.n -= skip;
    if (skip) memmove(r->ids.data, r->ids.data + skip, r->ids.n * sizeof *r->ids.data);
}

static pare_status encode_prompt(runner *r, const char *text, size_t n) {
    cli *c = r->c;
    if (!r->chat)
        return pare_tokenizer_encode(r->tok, &r->ids, text, n, PARE_TOK_ADD_SPECIAL, &c->err);
    pare_message messages[2];
    size_t n_messages = 0;
    if (r->o->system) messages[n_messages++] = (pare_message){"system", r->o->system};
    messages[n_messages++] = (pare_message){"user", text};
    return pare_chat_encode(&r->ids, r->chat, messages, n_messages, &c->err);
}

static pare_status run_once(runner *r, const char *path) {
    cli *c = r->c;
    char *text = NULL;
    size_t n = 0;
    pare_generation g = {0};
    pare_status st = read_prompt(r, &text, &n);
    if (st == PARE_OK) st = runner_load(r, path);
    if (st == PARE_OK) st = encode_prompt(r, text, n);
    if (st == PARE_OK) leave_bos(r);
    pare_generate_options go = generate_options(r);
    if (st == PARE_OK)
        st = pare_generate(&g, r->session, r->tok, r->ids.data, r->ids.n, &go, &c->err);
    if (st == PARE_OK && !c->common.json && g.text_len && g.text[g.text_len - 1] != '\n')
        st = cli_print(c, "\n", 1);
    if (st == PARE_OK) tell_full_context(r, &g);
    if (st == PARE_OK && c->common.json) st = print_json(c, r, &g, true);
    if (st == PARE_OK && !c->common.json) print_speed(r, &g);
    if (st == PARE_ERR_INTERRUPTED && g.text_len && !c->common.json) cli_print(c, "\n", 1);
    if (st == PARE_ERR_INTERRUPTED)
        cli_fail(c, st, "after %zu generated tokens; the same command starts again", g.ids.n);
    pare_generation_free(&g);
    free(text);
    return st;
}

/* --- conversation --- */

typedef struct talk {
    pare_message *messages; /* contents owned */
    size_t n, capacity;
} talk;

static void talk_drop(talk *t, size_t n) {
    while (t->n > n) free((char *)t->messages[--t->n].content);
}

static pare_status talk_add(cli *c, talk *t, const char *role, const char *content) {
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 16;
        pare_message *more = realloc(t->messages, capacity * sizeof *more);
        if (!more) return cli_fail(c, PARE_ERR_NOMEM, "conversation: out of memory");
        t->messages = more;
        t->capacity = capacity;
    }
    char *copy = strdup(content);
    if (!copy) return cli_fail(c, PARE_ERR_NOMEM, "conversation: out of memory");
    t->messages[t->n++] = (pare_message){role, copy};
    return PARE_OK;
}

/* How many tokens of the conversation the session has computed already; at least one is left, for
 * its logits. */
static size_t common_prefix(const pare_ids *a, const pare_ids *b) {
    size_t n = 0;
    while (n < a->n && n < b->n && a->data[n] == b->data[n]) n++;
    return n && n == b->n ? n - 1 : n;
}

static pare_status remember(cli *c, pare_ids *history, const int32_t *ids, size_t n) {
    if (history->n + n > history->capacity) {
        size_t capacity = 2 * (history->n + n);
        int32_t *more = realloc(history->data, capacity * sizeof *more);
        if (!more) return cli_fail(c, PARE_ERR_NOMEM, "conversation: out of memory");
        history->data = more;
        history->capacity = capacity;
    }
    memcpy(history->data + history->n, ids, n * sizeof *ids);
    history->n += n;
    return PARE_OK;
}

/* Answers the last question. Only what the session does not hold yet is computed. */
static pare_status answer(runner *r, talk *t) {
    cli *c = r->c;
    pare_generation g = {0};
    r->ids.n = 0;
    pare_status st = pare_chat_encode(&r->ids, r->chat, t->messages, t->n, &c->err);
    if (st != PARE_OK) return st;
    leave_bos(r);
    size_t kept = common_prefix(&r->history, &r->ids);
    pare_session_truncate(r->session, kept);
    kept = pare_session_position(r->session); /* sliding windows may have to begin again */
    if (r->draft) pare_session_truncate(r->draft, kept);
    r->history.n = kept;
    pare_generate_options go = generate_options(r);
    st = pare_generate(&g, r->session, r->tok, r->ids.data + kept, r->ids.n - kept, &go, &c->err);
    if (st == PARE_OK || st == PARE_ERR_INTERRUPTED) {
        /* the session holds a part of this: what it lacks is the end */
        size_t position = pare_session_position(r->session);
        pare_status kept_st = remember(c, &r->history, r->ids.data + kept, r->ids.n - kept);
        if (kept_st == PARE_OK && g.ids.n) kept_st = remember(c, &r->history, g.ids.data, g.ids.n);
        if (r->history.n > position) r->history.n = position;
        if (kept_st == PARE_OK) kept_st = talk_add(c, t, "assistant", g.text ? g.text : "");
        if (kept_st != PARE_OK) st = kept_st;
    }
    if (st == PARE_OK) tell_full_context(r, &g);
    if (c->common.json && st == PARE_OK) st = print_json(c, r, &g, false);
    if (!c->common.json && !c->out_closed) cli_print(c, "\n", 1);
    if (st == PARE_OK && !c->common.json && !c->out_tty) print_speed(r, &g);
    pare_generation_free(&g);
    return st;
}

/* One question and its answer; *end at the end of input. An interrupt during an answer ends the
 * answer, at the prompt it ends the program. */
static pare_status turn(runner *r, talk *t, bool *end) {
    cli *c = r->c;
    char *line = NULL;
    size_t n = 0, before = t->n;
    if (!c->common.quiet && isatty(STDIN_FILENO)) {
        fprintf(stderr, "> ");
        fflush(stderr);
    }
    pare_status st = cli_read_line(c, &line, &n);
    *end = st == PARE_OK && (!line || strcmp(line, "/exit") == 0);
    if (st == PARE_OK && !*end && n) {
        st = talk_add(c, t, "user", line);
        if (st == PARE_OK) st = answer(r, t);
        if (st == PARE_ERR_INTERRUPTED && cli_signal() == 2 && isatty(STDIN_FILENO)) {
            cli_signal_clear();
            st = PARE_OK;
        } else if (st == PARE_ERR_ARG && t->n == before + 1) {
            /* no room for the question: it is taken back, the conversation goes on */
            cli_warn(c, "%s; the question was not added", c->err.message);
            talk_drop(t, before);
            st = PARE_OK;
        }
    }
    free(line);
    return st;
}

static pare_status run_talk(runner *r, const char *path) {
    cli *c = r->c;
    if (r->o->prompt || r->o->file)
        return cli_fail(c, PARE_ERR_ARG,
                        "run: found -i with -p or -f, expected questions line by "
                        "line on standard input");
    talk t = {0};
    pare_status st = runner_load(r, path);
    if (st == PARE_OK && r->o->system) st = talk_add(c, &t, "system", r->o->system);
    if (st == PARE_OK && isatty(STDIN_FILENO))
        cli_note(c, "%s format; /exit or Ctrl-D ends, Ctrl-C stops an answer",
                 pare_chat_format(r->chat));
    for (bool end = false; st == PARE_OK && !end;) st = turn(r, &t, &end);
    if (st == PARE_ERR_INTERRUPTED) cli_fail(c, st, "the conversation is not kept");
    talk_drop(&t, 0);
    free(t.messages);
    return st;
}

static pare_status run(cli *c, const void *options, char **args, size_t n_args) {
    (void)n_args;
    runner r = {.c = c, .o = options};
    if (r.o->system && !r.o->chat && !r.o->interactive)
        return cli_fail(c, PARE_ERR_ARG, "run: --system needs --chat or -i");
    if (r.o->draft && r.o->speculate == SPECULATE_NGRAM)
        return cli_fail(c, PARE_ERR_ARG,
                        "run: found both --draft and --speculate ngram, expected one of them");
    if (r.o->draft_max && !r.o->draft && r.o->speculate == SPECULATE_OFF)
        return cli_fail(c, PARE_ERR_ARG, "run: --draft-max needs --draft or --speculate");
    pare_status st = r.o->interactive ? run_talk(&r, args[0]) : run_once(&r, args[0]);
    runner_free(&r);
    return st;
}

const cli_verb cli_verb_run = {
    .name = "run",
    .arguments = "MODEL",
    .summary = "generates text",
    .notes =
        "The next token is chosen in this order: repeat penalty, temperature, top-k, top-p, min-p, "
        "one draw. The same --seed gives the same text, with --speculate too; with --draft and a "
        "temperature another one, of the same distribution. Text goes to standard output as it "
        "comes, "
        "speed to standard error. With -i and --json there is one object per answer.",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .min_args = 1,
    .max_args = 1,
    .examples = {"pare run model.gguf -p 'Once upon a time' -n 32",
                 "pare run model.gguf --chat -p 'Why is the sky blue?' --temp 0 -n 64",
                 "echo 'The capital of France is' | pare run model.gguf -n 8 --json"},
    .run = run,
};
