/* The tokens of requests. A context and context + continuation are encoded each on its own; what
 * the second has more is the continuation. The model reads the context's own tokens, which the
 * joint encoding need not begin with. llama.cpp's tasks read the joint encoding alone. */
#include "eval/task.h"

#include "text/unicode.h"

#include <string.h>

void pare_task_tokens_free(pare_task_tokens *tokens) {
    pare_ids_free(&tokens->ids);
    pare_free(tokens->items);
    *tokens = (pare_task_tokens){0};
}

typedef struct encoder {
    const pare_tokenizer *tok;
    unsigned flags;
    int32_t bos;           /* put in front of both encodings; -1 = no */
    int32_t empty;         /* stands for an empty context; -1 = there is none */
    size_t ctx_max;        /* 0 = no bound */
    pare_text_buffer text; /* a request's whole text */
    pare_ids context, whole;
    pare_task_text encoded; /* what `context` holds the tokens of */
    bool have_context;
} encoder;

static pare_status encoder_begin(encoder *e, const pare_tokenizer *tok, pare_bos bos,
                                 size_t ctx_max, pare_error *err) {
    bool own = pare_tokenizer_adds_bos(tok);
    int32_t id = pare_tokenizer_bos(tok);
    *e = (encoder){.tok = tok, .bos = -1, .ctx_max = ctx_max};
    e->empty = id >= 0 ? id : pare_tokenizer_eos(tok);
    if (bos != PARE_BOS_NEVER && (bos == PARE_BOS_AUTO || own)) e->flags = PARE_TOK_ADD_SPECIAL;
    if (bos != PARE_BOS_ALWAYS || own) return PARE_OK;
    if (id < 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "bos: found a tokenizer without a BOS token, expected one for 'always'");
    e->bos = id;
    return PARE_OK;
}

static void encoder_end(encoder *e) {
    pare_text_buffer_free(&e->text);
    pare_ids_free(&e->context);
    pare_ids_free(&e->whole);
}

static pare_status add_id(pare_ids *ids, int32_t id, pare_error *err) {
    if (!pare_grow(&ids->data, &ids->capacity, ids->n + 1, sizeof *ids->data))
        return pare_text_buffer_fail(err);
    ids->data[ids->n++] = id;
    return PARE_OK;
}

static pare_status encode(const encoder *e, pare_ids *ids, pare_span text, unsigned flags,
                          pare_error *err) {
    ids->n = 0;
    if (e->bos >= 0 && flags == e->flags) PARE_TRY(add_id(ids, e->bos, err));
    return pare_tokenizer_encode(e->tok, ids, text.s, text.n, flags, err);
}

/* Bytes of the context without white space at its end. */
static size_t trimmed(pare_span t) {
    int32_t cp;
    size_t end = 0;
    for (size_t i = 0; i < t.n;) {
        i += pare_utf8_next(t.s + i, t.n - i, &cp);
        if (!pare_is_white_space(cp)) end = i;
    }
    return end;
}

/* context + continuation into e->text. */
static pare_status join(encoder *e, pare_span context, pare_span continuation, pare_error *err) {
    e->text.n = 0;
    if (!pare_text_buffer_add(&e->text, context.s, context.n) ||
        !pare_text_buffer_add(&e->text, continuation.s, continuation.n))
        return pare_text_buffer_fail(err);
    return PARE_OK;
}

/* Leaves the context's tokens in e->context and those of the continuation after *skip in e->whole.
 */
static pare_status encode_request(encoder *e, const pare_task_set *set, const pare_task_request *r,
                                  size_t *skip, pare_error *err) {
    pare_span context = pare_task_span(set, r->context);
    pare_span continuation = pare_task_span(set, r->continuation);
    size_t n = trimmed(context); /* what is cut off belongs to the continuation */
    bool same = e->have_context && e->encoded.at == r->context.at && e->encoded.n == r->context.n;
    e->encoded = r->context;
    e->have_context = true;
    PARE_TRY(join(e, context, continuation, err));
    pare_span whole = {e->text.data, e->text.n};
    if (n) {
        if (!same) PARE_TRY(encode(e, &e->context, (pare_span){context.s, n}, e->flags, err));
        PARE_TRY(encode(e, &e->whole, whole, e->flags, err));
        *skip = e->context.n;
        return PARE_OK;
    }
    e->context.n = *skip = 0;
    if (e->empty >= 0) PARE_TRY(add_id(&e->context, e->empty, err));
    e->have_context = false;
    return pare_tokenizer_encode(e->tok, (e->whole.n = 0, &e->whole), whole.s, whole.n, 0, err);
}

static pare_status check_lengths(const encoder *e, size_t n_context, size_t n_scored,
                                 pare_error *err) {
    if (!n_scored || !n_context)
        return pare_fail(err, PARE_ERR_INPUT,
                         "found %zu tokens of context and %zu of a "
                         "continuation, expected some of both",
                         n_context, n_scored);
    if (e->ctx_max && n_scored > e->ctx_max)
        return pare_fail(err, PARE_ERR_INPUT,
                         "found a continuation of %zu tokens, expected at most %zu (the model's "
                         "maximum)",
                         n_scored, e->ctx_max);
    return PARE_OK;
}

static pare_status add_item(pare_task_tokens *t, encoder *e, size_t request, size_t skip,
                            pare_error *err) {
    pare_ids *ids = &t->ids;
    size_t n_scored = e->whole.n > skip ? e->whole.n - skip : 0, n = e->context.n + n_scored;
    PARE_TRY(check_lengths(e, e->context.n, n_scored, err));
    if (!pare_grow(&ids->data, &ids->capacity, ids->n + n, sizeof *ids->data))
        return pare_text_buffer_fail(err);
    t->items[request] = (pare_task_item){ids->n, e->context.n, n_scored};
    memcpy(ids->data + ids->n, e->context.data, e->context.n * sizeof *ids->data);
    memcpy(ids->data + ids->n + e->context.n, e->whole.data + skip, n_scored * sizeof *ids->data);
    ids->n += n;
    t->n_context += e->context.n;
    t->n_scored += n_scored;
    return PARE_OK;
}

/* The joint encoding of a request, all of it for now the continuation's; of some tasks *n_base
 * tokens of its context. */
static pare_status add_whole(pare_task_tokens *t, encoder *e, size_t request, size_t *n_base,
                             pare_error *err) {
    const pare_task_request *r = &t->set->requests[request];
    pare_span context = pare_task_span(t->set, r->context);
    pare_ids *ids = &t->ids;
    PARE_TRY(join(e, context, pare_task_span(t->set, r->continuation), err));
    PARE_TRY(encode(e, &e->whole, (pare_span){e->text.data, e->text.n}, e->flags, err));
    if (t->set->task->scoring == PARE_SCORE_REST) {
        PARE_TRY(encode(e, &e->context, context, e->flags, err));
        *n_base = e->context.n;
    }
    if (!pare_grow(&ids->data, &ids->capacity, ids->n + e->whole.n + 1, sizeof *ids->data))
        return pare_text_buffer_fail(err);
    if (e->whole.n) memcpy(ids->data + ids->n, e->whole.data, e->whole.n * sizeof *ids->data);
    t->items[request] = (pare_task_item){ids->n, 0, e->whole.n};
    ids->n += e->whole.n;
    return PARE_OK;
}

/* Tokens that all requests of a document begin with; each has one more at least. */
static size_t shared_tokens(const pare_task_tokens *t, const pare_task_doc *doc) {
    const pare_task_item *a = &t->items[doc->first];
    size_t n = a->n_scored ? a->n_scored - 1 : 0;
    for (size_t i = doc->first + 1; i < doc->first + doc->n; i++) {
        const pare_task_item *b = &t->items[i];
        size_t same = 0, most = b->n_scored ? b->n_scored - 1 : 0;
        if (most > n) most = n;
        while (same < most && t->ids.data[a->at + same] == t->ids.data[b->at + same]) same++;
        n = same;
    }
    return n;
}

enum {
    MAX_REQUESTS = 100, /* of a document in llama.cpp's forms */
    MIN_REST = 3
};

/* Behind the context where each request has enough of its own, else behind what they share; the
 * first token of all is never predicted. */
static void set_scored(pare_task_tokens *t, const pare_task_doc *doc, const size_t *n_base) {
    size_t shared = shared_tokens(t, doc);
    bool rest = t->set->task->scoring == PARE_SCORE_REST, skip = rest;
    for (size_t i = 0; i < doc->n; i++)
        skip &= t->items[doc->first + i].n_scored > shared + MIN_REST;
    for (size_t i = 0; i < doc->n; i++) {
        pare_task_item *item = &t->items[doc->first + i];
        size_t n = item->n_scored, begin = skip ? n_base[i] : shared;
        if (begin >= n) begin = n ? n - 1 : 0;
        if (begin == 0 && n > 1) begin = 1;
        item->n_context = begin;
        item->n_scored = n - begin - (rest && n - begin > 1);
        t->n_context += item->n_context;
        t->n_scored += item->n_scored;
    }
}

static pare_status encode_whole_doc(pare_task_tokens *t, encoder *e, const pare_task_doc *doc,
                                    pare_error *err) {
    size_t n_base[MAX_REQUESTS] = {0};
    pare_status st = PARE_OK;
    if (doc->n > MAX_REQUESTS)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: line %zu: found %zu requests, expected at most %d", t->set->file,
                         doc->line, doc->n, (int)MAX_REQUESTS);
    for (size_t i = 0; i < doc->n && st == PARE_OK; i++)
        st = add_whole(t, e, doc->first + i, &n_base[i], err);
    if (st == PARE_OK) set_scored(t, doc, n_base);
    for (size_t i = 0; i < doc->n && st == PARE_OK; i++) {
        const pare_task_item *item = &t->items[doc->first + i];
        st = check_lengths(e, item->n_context, item->n_scored, err);
    }
    return st == PARE_OK ? st : pare_fail_prefix(err, "%s: line %zu", t->set->file, doc->line);
}

/* The last ctx_max + 1 tokens stay. */
static void cut_item(pare_task_tokens *t, pare_task_item *item, size_t ctx_max) {
    size_t n = item->n_context + item->n_scored;
    if (!ctx_max || n <= ctx_max + 1) return;
    item->at += n - ctx_max - 1;
    item->n_context -= n - ctx_max - 1;
    t->n_cut++;
}

static pare_status encode_doc(pare_task_tokens *t, encoder *e, const pare_task_doc *doc,
                              pare_error *err) {
    for (size_t i = doc->first; i < doc->first + doc->n; i++) {
        size_t skip = 0;
        pare_status st = encode_request(e, t->set, &t->set->requests[i], &skip, err);
        if (st == PARE_OK) st = add_item(t, e, i, skip, err);
        if (st != PARE_OK)
            return pare_fail_prefix(err, "%s: line %zu, request %zu", t->set->file, doc->line,
                                    i - doc->first);
    }
    return PARE_OK;
}

pare_status pare_task_encode(pare_task_tokens *tokens, const pare_task_set *set,
                             const pare_tokenizer *tok, pare_bos bos, size_t ctx_max,
                             pare_error *err) {
    *tokens = (pare_task_tokens){.set = set};
    encoder e;
    PARE_TRY(encoder_begin(&e, tok, bos, ctx_max, err));
    tokens->items = pare_calloc(set->n_requests, sizeof *tokens->items);
    pare_status st = PARE_OK;
    if (!tokens->items) st = pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", set->file);
    for (size_t i = 0; st == PARE_OK && i < set->n_docs; i++)
        st = (set->task->scoring == PARE_SCORE_SUM ? encode_doc : encode_whole_doc)(
            tokens, &e, &set->docs[i], err);
    encoder_end(&e);
    if (st != PARE_OK) {
        pare_task_tokens_free(tokens);
        return st;
    }
    tokens->bos = e.bos >= 0 || (e.flags && pare_tokenizer_adds_bos(tok));
    tokens->crc32 = pare_ids_crc32(tokens->ids.data, tokens->ids.n);
    for (size_t i = 0; i < set->n_requests; i++) cut_item(tokens, &tokens->items[i], ctx_max);
    return PARE_OK;
}

void pare_task_leave_bos(pare_task_tokens *tokens, int32_t bos) {
    for (size_t i = 0; i < tokens->set->n_requests; i++) {
        pare_task_item *item = &tokens->items[i];
        if (item->n_context < 2 || tokens->ids.data[item->at] != bos) continue;
        item->at++;
        item->n_context--;
    }
}
