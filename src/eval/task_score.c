/* Log-likelihoods of requests. Documents are taken in batches. Of each, the beginning that all its
 * requests have in common is computed once, those of a batch together; then what each request has
 * more, on forks, again together. Predictions that fall into the common beginning are taken from
 * there: a choice of one token costs nothing but a row of logits.
 *
 * pare_session_score_many gives a token the same bits whatever is computed with it, and a request's
 * sum runs over its tokens in order: so neither batches nor sharing change a log-likelihood. */
#include "eval/task.h"

#include "base/memory.h"
#include "base/runtime.h"

#include <string.h>

enum {
    BATCH_TOKENS = 4096,
    PASS_TOKENS = 512,
    KV_BLOCK = 64,        /* positions: what a sequence's last block takes */
    KV_BYTES = 512 << 20, /* of a batch, unless a single document needs more */
    MAX_SEQUENCES = 1024
};

/* A request's scored tokens run from row n_context - 1 of its input on, which is all but its last
 * token. */
typedef struct scorer {
    const pare_task_tokens *t;
    const pare_task_score_options *o;
    pare_task_score *scores;
    pare_session *root; /* empty */
    size_t position_bytes;
    size_t n_computed;
    /* of the batch being computed */
    pare_session **begin, **own; /* of documents, of requests with something of their own */
    size_t n_begin, n_own;
    size_t *common;      /* [n_begin] tokens */
    const int32_t **ids; /* [sequences] */
    size_t *n;           /* [sequences] */
    pare_score *wanted;  /* [n_wanted] */
    size_t *request_of;  /* [n_wanted] */
    size_t n_wanted, wanted_capacity, request_of_capacity;
} scorer;

static const int32_t *ids_of(const scorer *s, size_t request) {
    return s->t->ids.data + s->t->items[request].at;
}

static size_t input_of(const scorer *s, size_t request) {
    return s->t->items[request].n_context + s->t->items[request].n_scored - 1;
}

/* Tokens that the inputs of all requests of a document begin with. */
static size_t common_tokens(const scorer *s, const pare_task_doc *doc) {
    size_t n = input_of(s, doc->first);
    if (s->o->alone && doc->n > 1) return 0;
    for (size_t i = doc->first + 1; i < doc->first + doc->n; i++) {
        const int32_t *a = ids_of(s, doc->first), *b = ids_of(s, i);
        size_t same = 0, most = input_of(s, i) < n ? input_of(s, i) : n;
        while (same < most && a[same] == b[same]) same++;
        n = same;
    }
    return n;
}

/* --- batches --- */

/* What a document adds to a batch. */
typedef struct load {
    size_t tokens, sequences, positions;
} load;

static size_t blocks(size_t n) { return (n + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK; }

static load load_of(const scorer *s, const pare_task_doc *doc) {
    size_t common = common_tokens(s, doc);
    load l = {common, 1, blocks(common)};
    for (size_t i = doc->first; i < doc->first + doc->n; i++) {
        size_t more = input_of(s, i) - common;
        if (!more) continue;
        l.tokens += more;
        l.sequences++;
        l.positions += blocks(more) + KV_BLOCK; /* the block that it shares until it writes */
    }
    return l;
}

/* Documents from `first` on that a batch takes: at least one. */
static size_t batch_size(const scorer *s, size_t first) {
    const pare_task_set *set = s->t->set;
    size_t most = s->o->batch_tokens ? s->o->batch_tokens : BATCH_TOKENS, count = 0;
    load sum = {0};
    for (size_t i = first; i < set->n_docs; i++, count++) {
        load l = load_of(s, &set->docs[i]);
        sum.tokens += l.tokens;
        sum.sequences += l.sequences;
        sum.positions += l.positions;
        if (count && (sum.tokens > most || sum.sequences > MAX_SEQUENCES ||
                      sum.positions > KV_BYTES / s->position_bytes))
            break;
    }
    return count;
}

/* --- a batch --- */

static pare_status want(scorer *s, size_t request, size_t sequence, size_t row, int32_t target,
                        pare_error *err) {
    if (!pare_grow(&s->wanted, &s->wanted_capacity, s->n_wanted + 1, sizeof *s->wanted) ||
        !pare_grow(&s->request_of, &s->request_of_capacity, s->n_wanted + 1, sizeof *s->request_of))
        return pare_fail(err, PARE_ERR_NOMEM, "scores: out of memory");
    s->wanted[s->n_wanted] = (pare_score){.sequence = sequence, .row = row, .target = target};
    s->request_of[s->n_wanted++] = request;
    return PARE_OK;
}

/* Rows [begin, end) of the requests' inputs that predict scored tokens; the sequence begins with
 * row `begin`. */
static pare_status want_rows(scorer *s, size_t first, size_t n, size_t sequence, size_t begin,
                             size_t end, pare_error *err) {
    for (size_t row = begin; row < end; row++)
        for (size_t i = first; i < first + n; i++)
            if (row + 1 >= s->t->items[i].n_context && row < input_of(s, i))
                PARE_TRY(want(s, i, sequence, row - begin, ids_of(s, i)[row + 1], err));
    return PARE_OK;
}

static pare_status run_wanted(scorer *s, pare_session *const *sessions, size_t n_sessions,
                              pare_error *err) {
    PARE_TRY(
        pare_session_score_many(sessions, n_sessions, s->ids, s->n, s->wanted, s->n_wanted, err));
    for (size_t i = 0; i < s->n_wanted; i++) {
        pare_task_score *score = &s->scores[s->request_of[i]];
        score->ll += (double)s->wanted[i].logprob;
        score->greedy &= s->wanted[i].top == s->wanted[i].target;
    }
    for (size_t i = 0; i < n_sessions; i++) s->n_computed += s->n[i];
    s->n_wanted = 0;
    return PARE_OK;
}

static pare_status run_beginnings(scorer *s, const pare_task_doc *docs, size_t n, pare_error *err) {
    for (size_t i = 0; i < n; i++) {
        s->common[i] = common_tokens(s, &docs[i]);
        s->ids[i] = ids_of(s, docs[i].first);
        s->n[i] = s->common[i];
        PARE_TRY(pare_session_fork(&s->begin[i], s->root, err));
        s->n_begin = i + 1;
        PARE_TRY(want_rows(s, docs[i].first, docs[i].n, i, 0, s->common[i], err));
    }
    return run_wanted(s, s->begin, n, err);
}

static pare_status run_own(scorer *s, const pare_task_doc *docs, size_t n, pare_error *err) {
    for (size_t d = 0; d < n; d++)
        for (size_t i = docs[d].first; i < docs[d].first + docs[d].n; i++) {
            size_t common = s->common[d], end = input_of(s, i), at = s->n_own;
            if (end == common) continue;
            s->ids[at] = ids_of(s, i) + common;
            s->n[at] = end - common;
            PARE_TRY(pare_session_fork(&s->own[at], s->begin[d], err));
            s->n_own = at + 1;
            PARE_TRY(want_rows(s, i, 1, at, common, end, err));
        }
    return run_wanted(s, s->own, s->n_own, err);
}

static void drop_sessions(scorer *s) {
    while (s->n_own) pare_session_free(s->own[--s->n_own]);
    while (s->n_begin) pare_session_free(s->begin[--s->n_begin]);
}

/* --- all of them --- */

/* The session that all others are forked from: long enough for every request. */
static pare_status open_root(scorer *s, pare_model *m, pare_error *err) {
    size_t longest = 1;
    for (size_t i = 0; i < s->t->set->n_requests; i++)
        if (input_of(s, i) > longest) longest = input_of(s, i);
    pare_session_options so = pare_session_options_default();
    so.n_ctx = longest;
    so.n_batch = PASS_TOKENS;
    so.compute = s->o->compute;
    so.kv = s->o->kv;
    PARE_TRY(pare_session_create(&s->root, m, &so, err));
    s->position_bytes = (size_t)pare_session_kv_bytes(s->root) / longest + 1;
    return PARE_OK;
}

static pare_status allocate(scorer *s, pare_error *err) {
    size_t most = MAX_SEQUENCES; /* or as many as the largest document needs */
    for (size_t i = 0; i < s->t->set->n_docs; i++)
        if (s->t->set->docs[i].n > most) most = s->t->set->docs[i].n;
    s->begin = pare_calloc(most, sizeof(pare_session *));
    s->own = pare_calloc(most, sizeof(pare_session *));
    s->common = pare_calloc(most, sizeof *s->common);
    s->ids = pare_calloc(most, sizeof *s->ids);
    s->n = pare_calloc(most, sizeof *s->n);
    if (s->begin && s->own && s->common && s->ids && s->n) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "scores: out of memory");
}

static pare_status run_batches(scorer *s, pare_runtime *rt, pare_error *err) {
    const pare_task_set *set = s->t->set;
    for (size_t i = 0; i < set->n_requests; i++)
        s->scores[i] = (pare_task_score){.greedy = true, .n = s->t->items[i].n_scored};
    for (size_t done = 0, n; done < set->n_docs; done += n) {
        pare_progress(rt, set->task->name, (double)done, (double)set->n_docs, "documents");
        if (s->o->on_documents) s->o->on_documents(s->o->arg, set->task->name, done, set->n_docs);
        n = batch_size(s, done);
        pare_status st = run_beginnings(s, set->docs + done, n, err);
        if (st == PARE_OK) st = run_own(s, set->docs + done, n, err);
        drop_sessions(s);
        PARE_TRY(st);
    }
    pare_progress(rt, set->task->name, (double)set->n_docs, (double)set->n_docs, "documents");
    return PARE_OK;
}

pare_status pare_task_score_all(pare_task_score *scores, size_t *n_computed,
                                const pare_task_tokens *tokens, pare_runtime *rt, pare_model *m,
                                const pare_task_score_options *options, pare_error *err) {
    scorer s = {.t = tokens, .o = options, .scores = scores};
    pare_status st = open_root(&s, m, err);
    if (st == PARE_OK) st = allocate(&s, err);
    if (st == PARE_OK) st = run_batches(&s, rt, err);
    *n_computed = s.n_computed;
    drop_sessions(&s);
    pare_session_free(s.root);
    pare_free(s.begin);
    pare_free(s.own);
    pare_free(s.common);
    pare_free(s.ids);
    pare_free(s.n);
    pare_free(s.wanted);
    pare_free(s.request_of);
    return st;
}
