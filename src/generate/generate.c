/* Generation: prompt, then passes over the newest token and guesses of what follows it (none,
 * unless asked for). The text runs through two gates before it is shown: the detokenizer keeps back
 * incomplete UTF-8, and the end of the text is kept back while it may still grow into a stop
 * string. */
#include "generate/speculate.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/runtime.h"
#include "model/model.h"

#include <string.h>

const char *pare_stop_reason_name(pare_stop_reason reason) {
    static const char *const names[] = {"end", "length", "stop", "context", "caller"};
    return (unsigned)reason < 5 ? names[reason] : "unknown";
}

pare_generate_options pare_generate_options_default(void) {
    return (pare_generate_options){.sampler = pare_sampler_options_default(),
                                   .max_tokens = SIZE_MAX,
                                   .speculate = {.max = PARE_DRAFT_MAX}};
}

bool pare_tokenizer_same_tokens(const pare_tokenizer *a, const pare_tokenizer *b, size_t *first) {
    size_t n = pare_tokenizer_vocab_size(a), m = pare_tokenizer_vocab_size(b);
    for (*first = 0; *first < n && *first < m; ++*first)
        if (strcmp(pare_tokenizer_token(a, (int32_t)*first),
                   pare_tokenizer_token(b, (int32_t)*first)) != 0)
            return false;
    return n == m;
}

void pare_generation_free(pare_generation *g) {
    pare_free(g->text);
    pare_free(g->ids.data);
    *g = (pare_generation){0};
}

/* The state of one call. */
typedef struct generator {
    pare_generation *out;
    const pare_generate_options *options;
    pare_session *session;
    const pare_tokenizer *tok;
    pare_sampler *sampler;
    pare_detokenizer *detok;
    pare_speculator *spec; /* NULL: no guesses */
    float *logits;         /* [vocab_size] */
    double start;
    size_t position; /* of the tokens that the session is to keep */
    size_t shown;    /* bytes of out->text given to on_text */
    size_t text_capacity;
    bool stopped; /* out->reason is set */
} generator;

static void stop(generator *g, pare_stop_reason reason) {
    if (!g->stopped) g->out->reason = reason;
    g->stopped = true;
}

static pare_status append_text(generator *g, const char *text, size_t len, pare_error *err) {
    pare_generation *out = g->out;
    if (out->text_len + len + 1 > g->text_capacity) {
        size_t capacity = 2 * (out->text_len + len) + 256;
        char *more = pare_realloc(out->text, capacity, 1);
        if (!more) return pare_fail(err, PARE_ERR_NOMEM, "generated text: out of memory");
        out->text = more;
        g->text_capacity = capacity;
    }
    memcpy(out->text + out->text_len, text, len);
    out->text_len += len;
    out->text[out->text_len] = '\0';
    return PARE_OK;
}

static pare_status append_id(pare_ids *ids, int32_t id, pare_error *err) {
    if (ids->n == ids->capacity) {
        size_t capacity = ids->capacity ? 2 * ids->capacity : 64;
        int32_t *more = pare_realloc(ids->data, capacity, sizeof *more);
        if (!more) return pare_fail(err, PARE_ERR_NOMEM, "generated tokens: out of memory");
        ids->data = more;
        ids->capacity = capacity;
    }
    ids->data[ids->n++] = id;
    return PARE_OK;
}

/* Where the first stop string begins in text[from, len), or SIZE_MAX. */
static size_t find_stop(const generator *g, size_t from) {
    const pare_generation *out = g->out;
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < g->options->n_stop; i++) {
        const char *stop = g->options->stop[i];
        if (!*stop) continue;
        const char *at = memmem(out->text + from, out->text_len - from, stop, strlen(stop));
        if (at && (size_t)(at - out->text) < first) first = (size_t)(at - out->text);
    }
    return first;
}

/* Length of the longest end of the unseen text that is a beginning of a stop string. */
static size_t held_back(const generator *g) {
    const pare_generation *out = g->out;
    size_t held = 0, unseen = out->text_len - g->shown;
    for (size_t i = 0; i < g->options->n_stop; i++) {
        const char *stop = g->options->stop[i];
        size_t n = strlen(stop);
        if (n == 0) continue;
        if (n - 1 < unseen)
            n = n - 1;
        else
            n = unseen;
        while (n > held && memcmp(out->text + out->text_len - n, stop, n) != 0) n--;
        if (n > held) held = n;
    }
    return held;
}

/* Takes new text: looks for stop strings and shows what has become certain. */
static pare_status take_text(generator *g, const char *text, size_t len, bool last,
                             pare_error *err) {
    pare_generation *out = g->out;
    PARE_TRY(append_text(g, text, len, err));
    size_t at = find_stop(g, g->shown); /* what is shown cannot be part of a stop string */
    if (at != SIZE_MAX) {
        out->text_len = at;
        out->text[at] = '\0';
        stop(g, PARE_STOP_STRING);
        last = true;
    }
    size_t end = out->text_len - (last ? 0 : held_back(g));
    if (end > g->shown && g->options->on_text &&
        g->options->on_text(g->options->arg, out->text + g->shown, end - g->shown) != 0)
        stop(g, PARE_STOP_CALLER);
    if (end > g->shown) g->shown = end;
    return PARE_OK;
}

static void ban_end_tokens(generator *g) {
    size_t n = pare_tokenizer_vocab_size(g->tok);
    for (size_t i = 0; i < n; i++)
        if (pare_tokenizer_is_end(g->tok, (int32_t)i)) pare_sampler_ban(g->sampler, (int32_t)i);
}

/* A chosen token joins the answer. */
static pare_status take_token(generator *g, int32_t id, pare_error *err) {
    pare_generation *out = g->out;
    if (out->first_token_s == 0) out->first_token_s = pare_now_s() - g->start;
    if (pare_tokenizer_is_end(g->tok, id)) {
        stop(g, PARE_STOP_END);
        return PARE_OK;
    }
    pare_sampler_accept(g->sampler, id);
    PARE_TRY(append_id(&out->ids, id, err));
    const size_t most = g->options->max_tokens;
    if (!g->options->on_text) /* else the text itself shows how far it is */
        pare_progress(pare_session_model(g->session)->rt, "answer", (double)out->ids.n,
                      most == SIZE_MAX ? 0 : (double)most, "tokens");
    if (g->spec) PARE_TRY(pare_speculator_accept(g->spec, id, err));
    const char *text;
    size_t len;
    /* a vocabulary may be padded: such ids have no text */
    if ((size_t)id < pare_tokenizer_vocab_size(g->tok)) {
        PARE_TRY(pare_detokenizer_push(g->detok, id, &text, &len, err));
        PARE_TRY(take_text(g, text, len, false, err));
    }
    if (out->ids.n >= g->options->max_tokens) stop(g, PARE_STOP_LENGTH);
    if (g->position >= pare_session_n_ctx(g->session)) stop(g, PARE_STOP_CONTEXT);
    return PARE_OK;
}

/* One pass: the newest token and guesses. */
typedef struct guessing {
    generator *g;
    const int32_t *guesses; /* [n] */
    size_t n, right;
    bool over; /* nothing more is taken from this pass */
    double taking_s;
    pare_status st;
    pare_error *err;
} guessing;

/* Row i of the logits stands after the newest token and i guesses. */
static pare_status take_row(guessing *p, size_t i, const float *logits) {
    generator *g = p->g;
    int32_t id;
    g->position++; /* the token before this row was right */
    g->out->decoded++;
    PARE_TRY(pare_speculator_choose(&id, g->spec, g->sampler, logits, i, p->err));
    bool right = i < p->n && id == p->guesses[i];
    PARE_TRY(take_token(g, id, p->err));
    p->right += right;
    p->over = !right || g->stopped;
    return PARE_OK;
}

static int take_rows(void *arg, size_t first, size_t n_rows, const float *logits) {
    guessing *p = arg;
    double begin = pare_now_s();
    size_t vocab_size = pare_model_vocab_size(pare_session_model(p->g->session));
    for (size_t i = 0; i < n_rows && !p->over && p->st == PARE_OK; i++)
        p->st = take_row(p, first + i, logits + i * vocab_size);
    p->taking_s += pare_now_s() - begin;
    return 0;
}

/* Room for guesses: each right one is a token more, and one more token follows the last. */
static size_t guesses_wanted(const generator *g) {
    size_t room = pare_session_n_ctx(g->session) - g->position - 1;
    size_t tokens = g->options->max_tokens - g->out->ids.n - 1;
    return room < tokens ? room : tokens;
}

static pare_status guess_and_compute(generator *g, int32_t newest, pare_error *err) {
    guessing p = {.g = g, .st = PARE_OK, .err = err};
    double begin = pare_now_s();
    PARE_TRY(pare_speculator_guess(g->spec, g->sampler, guesses_wanted(g), &p.guesses, &p.n, err));
    int32_t ids[1 + PARE_DRAFT_MAX] = {newest};
    if (p.n) memcpy(ids + 1, p.guesses, p.n * sizeof *ids);
    pare_status st;
    if (p.n) {
        st = pare_session_eval_all(g->session, ids, p.n + 1, 0, take_rows, &p, err);
    } else { /* one parallel region less */
        st = pare_session_eval(g->session, ids, 1, g->logits, err);
        if (st == PARE_OK) take_rows(&p, 0, 1, g->logits);
    }
    /* wrong guesses; of a pass that was interrupted between batches too */
    pare_session_truncate(g->session, g->position);
    PARE_TRY(st);
    g->out->drafted += p.n;
    g->out->accepted += p.right;
    g->out->decode_s += pare_now_s() - begin - p.taking_s;
    pare_speculator_learn(g->spec, p.right);
    return p.st;
}

static pare_status compute(generator *g, int32_t newest, pare_error *err) {
    double begin = pare_now_s();
    PARE_TRY(pare_session_eval(g->session, &newest, 1, g->logits, err));
    g->out->decode_s += pare_now_s() - begin;
    g->out->decoded++;
    g->position++;
    return PARE_OK;
}

static pare_status pick(generator *g, pare_error *err) {
    int32_t id;
    PARE_TRY(pare_sampler_pick(&id, g->sampler, g->logits, err));
    return take_token(g, id, err);
}

/* From the newest token of the answer to the next ones. */
static pare_status step(generator *g, pare_error *err) {
    int32_t newest = g->out->ids.data[g->out->ids.n - 1];
    if (g->spec) return guess_and_compute(g, newest, err);
    PARE_TRY(compute(g, newest, err));
    return pick(g, err);
}

/* The prompt, then steps until something ends it. */
static pare_status run(generator *g, const int32_t *prompt, size_t n, pare_error *err) {
    pare_generation *out = g->out;
    g->start = pare_now_s();
    PARE_TRY(pare_session_prefill(g->session, prompt, n, g->logits, "prompt", err));
    out->prefill_s = pare_now_s() - g->start;
    out->prompt_tokens = n;
    g->position = pare_session_position(g->session);
    if (g->options->max_tokens == 0) stop(g, PARE_STOP_LENGTH);
    pare_status st = g->stopped ? PARE_OK : pick(g, err);
    while (!g->stopped && st == PARE_OK) st = step(g, err);
    if (g->stopped && (out->reason == PARE_STOP_STRING || out->reason == PARE_STOP_CALLER))
        return st;
    /* an end of the text that was kept back belongs to it, after a failure too */
    const char *text;
    size_t len;
    pare_status flushed = pare_detokenizer_flush(g->detok, &text, &len, st == PARE_OK ? err : NULL);
    if (flushed == PARE_OK) flushed = take_text(g, text, len, true, st == PARE_OK ? err : NULL);
    return st == PARE_OK ? flushed : st;
}

/* The sampler learns what stands before the answer. Ids outside the vocabulary are refused by
 * pare_session_eval. */
static void tell_sampler(generator *g, const int32_t *prompt, size_t n) {
    const pare_generate_options *o = g->options;
    if (o->ignore_eos) ban_end_tokens(g);
    for (size_t i = 0; i < o->n_before; i++) pare_sampler_accept(g->sampler, o->before[i]);
    for (size_t i = 0; i < n; i++) pare_sampler_accept(g->sampler, prompt[i]);
    pare_sampler_start(g->sampler, (uint64_t)pare_session_position(g->session) << 32);
}

static pare_status check_prompt(const generator *g, size_t n, pare_error *err) {
    size_t held = pare_session_position(g->session), room = pare_session_n_ctx(g->session) - held;
    if (g->options->n_before && g->options->n_before != held)
        return pare_fail(err, PARE_ERR_ARG,
                         "before: found %zu tokens, expected the %zu in the session",
                         g->options->n_before, held);
    if (n == 0) return pare_fail(err, PARE_ERR_ARG, "prompt: found 0 tokens, expected at least 1");
    if (n > room)
        return pare_fail(err, PARE_ERR_ARG,
                         "prompt: found %zu tokens, expected at most %zu (the context has %zu "
                         "positions)",
                         n, room, pare_session_n_ctx(g->session));
    return PARE_OK;
}

pare_status pare_generate(pare_generation *out, pare_session *session, const pare_tokenizer *tok,
                          const int32_t *prompt, size_t n, const pare_generate_options *options,
                          pare_error *err) {
    *out = (pare_generation){0};
    pare_generate_options o = options ? *options : pare_generate_options_default();
    generator g = {.out = out, .options = &o, .session = session, .tok = tok};
    size_t vocab_size = pare_model_vocab_size(pare_session_model(session));
    PARE_TRY(check_prompt(&g, n, err));
    pare_status st = pare_sampler_create(&g.sampler, vocab_size, &o.sampler, err);
    if (st == PARE_OK)
        st =
            pare_detokenizer_create(&g.detok, tok, PARE_TOK_SKIP_SPECIAL | PARE_TOK_CONTINUES, err);
    if (st == PARE_OK) st = append_text(&g, "", 0, err);
    if (st == PARE_OK && !(g.logits = pare_malloc(vocab_size, sizeof *g.logits)))
        st = pare_fail(err, PARE_ERR_NOMEM, "logits of %zu tokens: out of memory", vocab_size);
    if (st == PARE_OK) {
        tell_sampler(&g, prompt, n);
        if (o.speculate.lookup || o.speculate.draft)
            st = pare_speculator_create(&g.spec, &o, session, g.sampler, prompt, n, err);
    }
    if (st == PARE_OK) st = run(&g, prompt, n, err);
    pare_speculator_free(g.spec);
    pare_free(g.logits);
    pare_detokenizer_free(g.detok);
    pare_sampler_free(g.sampler);
    return st;
}
