/* Log-likelihoods of requests. The documents of all tasks are taken in batches that do not end
 * where a task does. Of each document, the beginning that all its requests have in common is
 * computed once, those of a batch together; then what each request has more, on forks, again
 * together. Predictions that fall into the common beginning are taken from there: a choice of one
 * token costs nothing but a row of logits.
 *
 * pare_session_score_many gives a token the same bits whatever is computed with it, and a request's
 * sum runs over its tokens in order: so neither batches nor sharing change a log-likelihood. Where
 * inputs have one grid for all rows of a pass, each request is a sequence of its own, computed
 * whole in one pass. */
#include "eval/task.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/runtime.h"
#include "model/act.h"

#include <string.h>

enum {
    BATCH_TOKENS = 4096,
    PASS_TOKENS = 512,
    KV_BLOCK = 64,        /* positions: what a sequence's last block takes */
    KV_BYTES = 512 << 20, /* of a batch, unless a single document needs more */
    MAX_SEQUENCES = 1024
};

/* A document, and what it adds to a batch. */
typedef struct document {
    pare_task_work *work;
    const pare_task_doc *doc;
    size_t common; /* tokens that the inputs of all its requests begin with */
    size_t tokens, sequences, positions;
} document;

/* A request's scored tokens run from row n_context - 1 of its input on, which is all but its last
 * token. */
typedef struct scorer {
    const pare_task_score_options *o;
    document *docs; /* of all tasks in order */
    size_t n_docs, n_tokens;
    pare_session *root; /* empty */
    size_t position_bytes;
    size_t done_tokens;
    /* of the batch being computed */
    pare_session **begin, **own; /* of documents, of requests with something of their own */
    size_t n_begin, n_own;
    const int32_t **ids;    /* [sequences] */
    size_t *n;              /* [sequences] */
    pare_score *wanted;     /* [n_wanted] */
    pare_task_score **into; /* [n_wanted] */
    size_t n_wanted, wanted_capacity, into_capacity;
} scorer;

static const int32_t *ids_of(const pare_task_tokens *t, size_t request) {
    return t->ids.data + t->items[request].at;
}

static size_t input_of(const pare_task_tokens *t, size_t request) {
    return t->items[request].n_context + t->items[request].n_scored - 1;
}

static size_t common_tokens(const pare_task_tokens *t, const pare_task_doc *doc, bool alone) {
    size_t n = input_of(t, doc->first);
    if (alone && doc->n > 1) return 0;
    for (size_t i = doc->first + 1; i < doc->first + doc->n; i++) {
        const int32_t *a = ids_of(t, doc->first), *b = ids_of(t, i);
        size_t same = 0, most = input_of(t, i) < n ? input_of(t, i) : n;
        while (same < most && a[same] == b[same]) same++;
        n = same;
    }
    return n;
}

/* --- batches --- */

static size_t blocks(size_t n) { return (n + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK; }

static document document_of(pare_task_work *work, const pare_task_doc *doc, bool alone) {
    size_t common = common_tokens(work->tokens, doc, alone);
    document d = {work, doc, common, common, 1, blocks(common)};
    for (size_t i = doc->first; i < doc->first + doc->n; i++) {
        size_t more = input_of(work->tokens, i) - common;
        if (!more) continue;
        d.tokens += more;
        d.sequences++;
        d.positions += blocks(more) + KV_BLOCK; /* the block that it shares until it writes */
    }
    return d;
}

/* Documents from `first` on that a batch takes: at least one. */
static size_t batch_size(const scorer *s, size_t first) {
    size_t most = s->o->batch_tokens ? s->o->batch_tokens : BATCH_TOKENS, count = 0;
    size_t tokens = 0, sequences = 0, positions = 0;
    for (; first + count < s->n_docs; count++) {
        const document *d = &s->docs[first + count];
        tokens += d->tokens;
        sequences += d->sequences;
        positions += d->positions;
        if (count && (tokens > most || sequences > MAX_SEQUENCES ||
                      positions > KV_BYTES / s->position_bytes))
            break;
    }
    return count;
}

/* --- a batch --- */

static pare_status want(scorer *s, pare_task_score *into, size_t sequence, size_t row,
                        int32_t target, pare_error *err) {
    if (!pare_grow(&s->wanted, &s->wanted_capacity, s->n_wanted + 1, sizeof *s->wanted) ||
        !pare_grow(&s->into, &s->into_capacity, s->n_wanted + 1, sizeof(void *)))
        return pare_fail(err, PARE_ERR_NOMEM, "scores: out of memory");
    s->wanted[s->n_wanted] = (pare_score){.sequence = sequence, .row = row, .target = target};
    s->into[s->n_wanted++] = into;
    return PARE_OK;
}

/* Rows [begin, end) of the inputs of requests first .. first + n that predict scored tokens; the
 * sequence begins with row `begin`. */
static pare_status want_rows(scorer *s, const pare_task_work *work, size_t first, size_t n,
                             size_t sequence, size_t begin, size_t end, pare_error *err) {
    const pare_task_tokens *t = work->tokens;
    for (size_t row = begin; row < end; row++)
        for (size_t i = first; i < first + n; i++)
            if (row + 1 >= t->items[i].n_context && row < input_of(t, i))
                PARE_TRY(
                    want(s, &work->scores[i], sequence, row - begin, ids_of(t, i)[row + 1], err));
    return PARE_OK;
}

static pare_status run_wanted(scorer *s, pare_session *const *sessions, size_t n_sessions,
                              pare_error *err) {
    PARE_TRY(
        pare_session_score_many(sessions, n_sessions, s->ids, s->n, s->wanted, s->n_wanted, err));
    for (size_t i = 0; i < s->n_wanted; i++) {
        s->into[i]->ll += (double)s->wanted[i].logprob;
        s->into[i]->greedy &= s->wanted[i].top == s->wanted[i].target;
    }
    s->n_wanted = 0;
    return PARE_OK;
}

static pare_status run_beginnings(scorer *s, const document *docs, size_t n, pare_error *err) {
    for (size_t i = 0; i < n; i++) {
        const document *d = &docs[i];
        s->ids[i] = ids_of(d->work->tokens, d->doc->first);
        s->n[i] = d->common;
        PARE_TRY(pare_session_fork(&s->begin[i], s->root, err));
        s->n_begin = i + 1;
        PARE_TRY(want_rows(s, d->work, d->doc->first, d->doc->n, i, 0, d->common, err));
    }
    return run_wanted(s, s->begin, n, err);
}

static pare_status run_own(scorer *s, const document *docs, size_t n, pare_error *err) {
    for (size_t k = 0; k < n; k++) {
        const document *d = &docs[k];
        const pare_task_tokens *t = d->work->tokens;
        for (size_t i = d->doc->first; i < d->doc->first + d->doc->n; i++) {
            size_t end = input_of(t, i), at = s->n_own;
            if (end == d->common) continue;
            s->ids[at] = ids_of(t, i) + d->common;
            s->n[at] = end - d->common;
            PARE_TRY(pare_session_fork(&s->own[at], s->begin[k], err));
            s->n_own = at + 1;
            PARE_TRY(want_rows(s, d->work, i, 1, at, d->common, end, err));
        }
    }
    return run_wanted(s, s->own, s->n_own, err);
}

static void drop_sessions(scorer *s) {
    while (s->n_own) pare_session_free(s->own[--s->n_own]);
    while (s->n_begin) pare_session_free(s->begin[--s->n_begin]);
}

/* --- all of them --- */

static pare_status list_documents(scorer *s, pare_task_work *work, size_t n_work, bool alone,
                                  pare_error *err) {
    for (size_t k = 0; k < n_work; k++) s->n_docs += work[k].tokens->set->n_docs;
    s->docs = pare_calloc(s->n_docs, sizeof *s->docs);
    if (!s->docs) return pare_fail(err, PARE_ERR_NOMEM, "scores: out of memory");
    size_t at = 0;
    for (size_t k = 0; k < n_work; k++) {
        const pare_task_set *set = work[k].tokens->set;
        for (size_t i = 0; i < set->n_docs; i++) {
            s->docs[at] = document_of(&work[k], &set->docs[i], alone);
            s->n_tokens += s->docs[at++].tokens;
        }
        for (size_t i = 0; i < set->n_requests; i++)
            work[k].scores[i] =
                (pare_task_score){.greedy = true, .n = work[k].tokens->items[i].n_scored};
        work[k].n_computed = 0;
        work[k].seconds = 0;
    }
    return PARE_OK;
}

/* The session that all others are forked from: long enough for every request. */
static pare_status open_root(scorer *s, pare_model *m, pare_error *err) {
    size_t longest = 1;
    for (size_t k = 0; k < s->n_docs; k++) {
        const document *d = &s->docs[k];
        for (size_t i = d->doc->first; i < d->doc->first + d->doc->n; i++)
            if (input_of(d->work->tokens, i) > longest) longest = input_of(d->work->tokens, i);
    }
    pare_session_options so = pare_session_options_default();
    so.n_ctx = longest;
    so.n_batch = pare_act_is_joint(m) && longest > PASS_TOKENS ? longest : PASS_TOKENS;
    so.compute = s->o->compute;
    so.kv = s->o->kv;
    PARE_TRY(pare_session_create(&s->root, m, &so, err));
    s->position_bytes = (size_t)pare_session_kv_bytes(s->root) / longest + 1;
    return PARE_OK;
}

static pare_status allocate(scorer *s, pare_error *err) {
    size_t most = MAX_SEQUENCES; /* or as many as the largest document needs */
    for (size_t i = 0; i < s->n_docs; i++)
        if (s->docs[i].doc->n > most) most = s->docs[i].doc->n;
    s->begin = pare_calloc(most, sizeof(pare_session *));
    s->own = pare_calloc(most, sizeof(pare_session *));
    s->ids = pare_calloc(most, sizeof *s->ids);
    s->n = pare_calloc(most, sizeof *s->n);
    if (s->begin && s->own && s->ids && s->n) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "scores: out of memory");
}

/* A batch is done: its tokens and time, and the tasks whose last document was in it. */
static pare_status end_batch(scorer *s, const document *docs, size_t n, double seconds,
                             pare_error *err) {
    size_t tokens = 0;
    for (size_t i = 0; i < n; i++) tokens += docs[i].tokens;
    for (size_t i = 0; i < n; i++) {
        pare_task_work *work = docs[i].work;
        const pare_task_set *set = work->tokens->set;
        work->n_computed += docs[i].tokens;
        if (tokens) work->seconds += seconds * (double)docs[i].tokens / (double)tokens;
        if (docs[i].doc == &set->docs[set->n_docs - 1] && s->o->on_scored)
            PARE_TRY(s->o->on_scored(s->o->arg, work, err));
    }
    s->done_tokens += tokens;
    return PARE_OK;
}

static pare_status run_batches(scorer *s, pare_runtime *rt, pare_error *err) {
    const char *stage = s->o->stage ? s->o->stage : "tasks";
    for (size_t done = 0, n; done < s->n_docs; done += n) {
        const document *docs = &s->docs[done];
        const pare_task_set *set = docs->work->tokens->set;
        if (s->o->on_documents)
            s->o->on_documents(s->o->arg, set->task->name, (size_t)(docs->doc - set->docs),
                               set->n_docs);
        pare_progress(rt, stage, (double)s->done_tokens, (double)s->n_tokens, "tokens");
        n = batch_size(s, done);
        double start = pare_now_s();
        pare_status st = run_beginnings(s, docs, n, err);
        if (st == PARE_OK) st = run_own(s, docs, n, err);
        drop_sessions(s);
        if (st == PARE_OK) st = end_batch(s, docs, n, pare_now_s() - start, err);
        PARE_TRY(st);
    }
    pare_progress(rt, stage, (double)s->n_tokens, (double)s->n_tokens, "tokens");
    return PARE_OK;
}

pare_status pare_task_score_all(pare_task_work *work, size_t n_work, pare_runtime *rt,
                                pare_model *m, const pare_task_score_options *options,
                                pare_error *err) {
    scorer s = {.o = options};
    bool alone = options->alone || pare_act_is_joint(m);
    pare_status st = list_documents(&s, work, n_work, alone, err);
    if (st == PARE_OK) st = open_root(&s, m, err);
    if (st == PARE_OK) st = allocate(&s, err);
    if (st == PARE_OK) st = run_batches(&s, rt, err);
    drop_sessions(&s);
    pare_session_free(s.root);
    pare_free(s.docs);
    pare_free(s.begin);
    pare_free(s.own);
    pare_free(s.ids);
    pare_free(s.n);
    pare_free(s.wanted);
    pare_free(s.into);
    return st;
}
