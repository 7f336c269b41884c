/* Sequences being computed: each one's KV cache, scratch that is planned before and that forks
 * share, and the loop over batches. A batch is one parallel region; nothing is allocated in it. */
#include "model/act.h"

#include "base/runtime.h"
#include "model/pass_room.h"
#include "model/prefix.h"

#include <string.h>

enum {
    N_BATCH = 512,   /* tokens computed at once, by default */
    N_CTX = 4096,    /* positions, at most, by default */
    LOGITS_ROWS = 32 /* rows of logits that exist at a time */
};

/* What sequences that were forked from each other share. */
typedef struct engine {
    size_t refs;   /* sessions */
    pare_model *m; /* borrowed */
    pare_compute compute;
    size_t n_batch;
    pare_pass_room room;
    float *hidden; /* [n_batch][embed_dim]: what the head multiplies */
    float *logits; /* [LOGITS_ROWS][vocab_size] */
    size_t hidden_bytes, logits_bytes;
} engine;

struct pare_session {
    engine *e;
    pare_kv_cache kv;
};

pare_session_options pare_session_options_default(void) {
    return (pare_session_options){.compute = PARE_COMPUTE_FAST};
}

/* ---- the parallel region ---- */

/* What one region does: a pass over tokens, and the head over some rows of its result. */
typedef struct region {
    engine *e;
    const int32_t *ids; /* NULL: no pass, the head only */
    size_t n;           /* tokens of all spans */
    const pare_attn_span *spans;
    size_t n_spans;
    bool last_rows; /* the pass leaves only the last row of each span, one after the other */
    size_t head_first, head_n; /* rows of hidden; at most LOGITS_ROWS for the engine's own logits */
    float *logits;             /* [head_n][vocab_size] */
    bool score;                /* log-probabilities instead of logits */
    float *logprob;            /* [head_n] of `targets` */
    const int32_t *targets;
    /* with `many`: a row's bits do not depend on what is computed with it */
    bool many;
    int32_t *top;         /* [head_n] ids of the largest logits, or NULL */
    const size_t *picked; /* [head_n] rows of hidden that are scored, or NULL: head_first on */
    float *picks;         /* [head_n][embed_dim] room for them */
} region;

/* The same row may be picked several times. */
static const float *pick_rows(pare_fwd *f, const region *r) {
    size_t width = r->e->m->config.embed_dim, begin, end;
    pare_share(f->w, r->head_n, 1, &begin, &end);
    const float *hidden = r->e->hidden; /* NULL in a plan */
    for (size_t i = begin; hidden && i < end; i++)
        memcpy(r->picks + i * width, hidden + r->picked[i] * width, width * sizeof(float));
    pare_barrier(f->w);
    return r->picks;
}

static void run_head(pare_fwd *f, const region *r) {
    const engine *e = r->e;
    const pare_model_config *c = &e->m->config;
    const float *y = e->hidden ? e->hidden + r->head_first * c->embed_dim : NULL;
    if (r->picked) y = pick_rows(f, r);
    if (!r->score) {
        pare_pass_logits(f, e->m, r->logits, y, r->head_n);
        return;
    }
    pare_pass_logprobs(f, e->m, r->logprob, r->top, y, r->head_n, r->targets, e->logits,
                       LOGITS_ROWS * c->vocab_size);
}

static void gather_last_rows(pare_fwd *f, const region *r) {
    size_t width = r->e->m->config.embed_dim;
    if (f->w->id == 0)
        for (size_t i = 0, end = 0; i < r->n_spans; i++) {
            end += r->spans[i].n;
            memmove(r->e->hidden + i * width, r->e->hidden + (end - 1) * width,
                    width * sizeof *r->e->hidden);
        }
    pare_barrier(f->w);
}

static void run_region(pare_fwd *f, const region *r) {
    if (r->ids || pare_fwd_planning(f)) {
        pare_pass pass = {.ids = r->ids, .n = r->n, .spans = r->spans, .n_spans = r->n_spans};
        pare_pass_run(f, r->e->m, &pass, r->e->hidden);
        if (r->last_rows && r->n > r->n_spans) gather_last_rows(f, r);
    }
    if (r->head_n) run_head(f, r);
}

static void region_thread(pare_worker *w, void *arg) {
    const region *r = arg;
    const engine *e = r->e;
    pare_fwd f = pare_pass_room_fwd(&e->room, w, e->m->rt, e->compute);
    f.many = r->many;
    run_region(&f, r);
}

/* ---- creation ---- */

static pare_status make_room(engine *e, pare_error *err) {
    pare_runtime *rt = e->m->rt;
    pare_worker worker;
    pare_fwd f = pare_fwd_plan(&worker, pare_runtime_threads(rt), pare_runtime_isa(rt), e->compute);
    /* decoding and long batches take different paths; both must fit */
    size_t few = e->n_batch < PARE_DOT_MAX_N ? e->n_batch : PARE_DOT_MAX_N;
    size_t lengths[] = {1, few, e->n_batch};
    for (size_t i = 0; i < 3; i++) {
        run_region(&f, &(region){.e = e, .n = lengths[i], .head_n = lengths[i]});
        run_region(&f, &(region){.e = e, .n = 1, .head_n = lengths[i], .score = true});
    }
    pare_status st = pare_pass_room_make(&e->room, &f, rt, err);
    return st == PARE_OK ? st : pare_fail_prefix(err, "batches of %zu tokens", e->n_batch);
}

static pare_status check_options(engine *e, const pare_session_options *o, size_t *n_ctx,
                                 pare_error *err) {
    size_t ctx_max = pare_model_ctx_max(e->m);
    *n_ctx = o->n_ctx ? o->n_ctx : ctx_max < N_CTX ? ctx_max : N_CTX;
    e->compute = o->compute;
    /* where all rows of a pass are quantized together a sequence is computed in one pass */
    bool whole = pare_act_is_joint(e->m);
    e->n_batch = o->n_batch ? o->n_batch : *n_ctx < N_BATCH || whole ? *n_ctx : N_BATCH;
    if (e->m->weights.position_embd.w.enc && *n_ctx > ctx_max)
        return pare_fail(err, PARE_ERR_ARG,
                         "n_ctx: found %zu, expected at most %zu as the model has positions",
                         *n_ctx, ctx_max);
    if (e->n_batch > (size_t)1 << 20)
        return pare_fail(err, PARE_ERR_ARG, "n_batch: found %zu, expected at most %d", e->n_batch,
                         1 << 20);
    return PARE_OK;
}

static pare_status create_cache(pare_session *s, const pare_session_options *o, size_t n_ctx,
                                pare_error *err) {
    const char *kv = o->kv ? o->kv : o->compute == PARE_COMPUTE_EXACT ? "f32" : "f16";
    pare_kv_spec spec;
    PARE_TRY(pare_kv_spec_make(&spec, &s->e->m->config, kv, n_ctx, s->e->n_batch, err));
    size_t bytes;
    PARE_TRY(pare_kv_cache_bytes(&bytes, &spec, err));
    if (!pare_has_memory((double)bytes))
        return pare_fail(err, PARE_ERR_NOMEM,
                         "KV cache of %zu positions: found %zu bytes of memory, expected %zu",
                         n_ctx, pare_available_bytes(), bytes);
    return pare_kv_cache_init(&s->kv, &spec, err);
}

static pare_status create_scratch(engine *e, pare_error *err) {
    const pare_model_config *c = &e->m->config;
    PARE_TRY(make_room(e, err));
    if (!pare_mul_size(&e->hidden_bytes, e->n_batch * sizeof(float), c->embed_dim) ||
        !pare_mul_size(&e->logits_bytes, LOGITS_ROWS * sizeof(float), c->vocab_size))
        return pare_fail(err, PARE_ERR_NOMEM, "logits of %zu rows", e->n_batch);
    e->hidden = pare_big_alloc(e->hidden_bytes);
    e->logits = pare_big_alloc(e->logits_bytes);
    if (e->hidden && e->logits) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "logits of %zu rows", e->n_batch);
}

pare_status pare_session_create(pare_session **out, pare_model *m,
                                const pare_session_options *options, pare_error *err) {
    pare_session_options o = options ? *options : pare_session_options_default();
    *out = NULL;
    pare_session *s = pare_calloc(1, sizeof *s);
    engine *e = pare_calloc(1, sizeof *e);
    if (!s || !e) {
        pare_free(s);
        pare_free(e);
        return pare_fail(err, PARE_ERR_NOMEM, "a session");
    }
    *e = (engine){.refs = 1, .m = m};
    s->e = e;
    size_t n_ctx;
    pare_status st = check_options(e, &o, &n_ctx, err);
    if (st == PARE_OK) st = create_cache(s, &o, n_ctx, err);
    if (st == PARE_OK) st = create_scratch(e, err);
    if (st != PARE_OK) {
        pare_session_free(s);
        return st;
    }
    *out = s;
    return PARE_OK;
}

pare_status pare_session_fork(pare_session **out, const pare_session *s, pare_error *err) {
    *out = NULL;
    pare_session *fork = pare_calloc(1, sizeof *fork);
    if (!fork) return pare_fail(err, PARE_ERR_NOMEM, "a session");
    fork->e = s->e;
    fork->e->refs++;
    pare_status st = pare_kv_cache_fork(&fork->kv, &s->kv, err);
    if (st != PARE_OK) {
        pare_session_free(fork);
        return st;
    }
    *out = fork;
    return PARE_OK;
}

void pare_session_free(pare_session *s) {
    if (!s) return;
    engine *e = s->e;
    pare_kv_cache_free(&s->kv);
    pare_free(s);
    if (--e->refs) return;
    pare_pass_room_free(&e->room);
    pare_big_free(e->hidden, e->hidden_bytes);
    pare_big_free(e->logits, e->logits_bytes);
    pare_free(e);
}

/* ---- evaluation ---- */

static pare_status check_tokens(const pare_session *s, const int32_t *ids, size_t n,
                                pare_error *err) {
    size_t vocab = s->e->m->config.vocab_size;
    if (n > s->kv.n_ctx - s->kv.n_pos)
        return pare_fail(err, PARE_ERR_ARG,
                         "context: found %zu tokens after %zu, expected at most %zu together", n,
                         s->kv.n_pos, s->kv.n_ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= vocab)
            return pare_fail(err, PARE_ERR_ARG, "token %zu: found id %d, expected 0 to %zu", i,
                             (int)ids[i], vocab - 1);
    return PARE_OK;
}

static void run(region *r) { pare_team_run(r->e->m->rt, region_thread, r); }

/* The sequence's next `count` tokens. */
static pare_attn_span span_of(const pare_session *s, size_t count) {
    return (pare_attn_span){.layers = s->kv.layers,
                            .n = count,
                            .pos0 = s->kv.n_pos,
                            .prefix = pare_model_prefix(s->e->m)};
}

/* The next batch of ids[n] from `done` on: tokens at the cache's position. */
static pare_status next_batch(pare_session *s, const int32_t *ids, size_t n, size_t done, region *r,
                              pare_attn_span *span, pare_error *err) {
    PARE_TRY(pare_check_cancel(s->e->m->rt, err));
    size_t count = n - done < s->e->n_batch ? n - done : s->e->n_batch;
    *span = span_of(s, count);
    *r = (region){.e = s->e, .ids = ids + done, .n = count, .spans = span, .n_spans = 1};
    return pare_kv_cache_reserve(&s->kv, count, err);
}

/* stage: what to report progress as, or NULL. */
static pare_status eval(pare_session *s, const int32_t *ids, size_t n, float *logits,
                        const char *stage, pare_error *err) {
    PARE_TRY(check_tokens(s, ids, n, err));
    if (n == 0 && logits) return pare_fail(err, PARE_ERR_ARG, "tokens: found 0, expected some");
    for (size_t done = 0; done < n;) {
        region r;
        pare_attn_span span;
        PARE_TRY(next_batch(s, ids, n, done, &r, &span, err));
        done += r.n;
        if (logits && done == n) {
            r.head_first = r.n - 1;
            r.head_n = 1;
            r.logits = logits;
        }
        run(&r);
        pare_kv_cache_advance(&s->kv, r.n);
        if (stage && n > s->e->n_batch)
            pare_progress(s->e->m->rt, stage, (double)done, (double)n, "tokens");
    }
    return PARE_OK;
}

pare_status pare_session_eval(pare_session *s, const int32_t *ids, size_t n, float *logits,
                              pare_error *err) {
    return eval(s, ids, n, logits, NULL, err);
}

pare_status pare_session_prefill(pare_session *s, const int32_t *ids, size_t n, float *logits,
                                 const char *stage, pare_error *err) {
    return eval(s, ids, n, logits, stage, err);
}

pare_status pare_session_eval_all(pare_session *s, const int32_t *ids, size_t n, size_t from,
                                  pare_logits_sink sink, void *arg, pare_error *err) {
    PARE_TRY(check_tokens(s, ids, n, err));
    for (size_t done = 0; done < n;) {
        region r;
        pare_attn_span span;
        PARE_TRY(next_batch(s, ids, n, done, &r, &span, err));
        run(&r);
        pare_kv_cache_advance(&s->kv, r.n);
        /* one region per piece of logits: the sink may run the team itself */
        for (size_t i = from > done ? from - done : 0; i < r.n; i += LOGITS_ROWS) {
            size_t rows = r.n - i < LOGITS_ROWS ? r.n - i : LOGITS_ROWS;
            run(&(region){.e = s->e, .head_first = i, .head_n = rows, .logits = s->e->logits});
            if (sink(arg, done + i, rows, s->e->logits) != 0)
                return pare_fail(err, PARE_ERR_INTERRUPTED, "stopped by the receiver of logits");
        }
        done += r.n;
    }
    return PARE_OK;
}

pare_status pare_session_logprobs(pare_session *s, const int32_t *ids, size_t n, size_t from,
                                  float *logprob, pare_error *err) {
    PARE_TRY(check_tokens(s, ids, n, err));
    for (size_t done = 0; done < n;) {
        region r;
        pare_attn_span span;
        PARE_TRY(next_batch(s, ids, n, done, &r, &span, err));
        size_t first = from > done ? from - done : 0;
        size_t last = done + r.n < n ? r.n : r.n - 1; /* the last token has no target */
        if (first < last) {
            r.head_first = first;
            r.head_n = last - first;
            r.score = true;
            r.logprob = logprob + (done + first - from);
            r.targets = ids + done + first + 1;
        }
        run(&r);
        pare_kv_cache_advance(&s->kv, r.n);
        done += r.n;
    }
    return PARE_OK;
}

/* ---- several sequences ---- */

/* A pass over the next tokens of those sequences that have some left. */
typedef struct many_pass {
    pare_attn_span *spans; /* [n_sessions] */
    size_t *owner, *done;  /* [n_sessions] session of a span; tokens of a session computed */
    int32_t *ids;          /* [n_batch] */
} many_pass;

static pare_status next_pass(const many_pass *p, pare_session *const *sessions, size_t n_sessions,
                             const int32_t *const *ids, const size_t *n, region *r,
                             pare_error *err) {
    engine *e = sessions[0]->e;
    size_t most = pare_act_is_joint(e->m) ? 1 : n_sessions; /* sequences that make a pass */
    PARE_TRY(pare_check_cancel(e->m->rt, err));
    *r = (region){.e = e, .ids = p->ids, .spans = p->spans};
    for (size_t i = 0; i < n_sessions && r->n < e->n_batch && r->n_spans < most; i++) {
        pare_session *s = sessions[i];
        size_t left = n[i] - p->done[i], room = e->n_batch - r->n;
        size_t count = left < room ? left : room;
        if (count == 0) continue;
        PARE_TRY(pare_kv_cache_reserve(&s->kv, count, err));
        memcpy(p->ids + r->n, ids[i] + p->done[i], count * sizeof *p->ids);
        p->owner[r->n_spans] = i;
        p->spans[r->n_spans++] = span_of(s, count);
        r->n += count;
    }
    return PARE_OK;
}

/* Logits of those sequences that the pass completed: neighbours together, however many, as the
 * head's weights are read once for each group. */
static void complete(const many_pass *p, const region *pass, const size_t *n, float *logits) {
    size_t vocab = pass->e->m->config.vocab_size;
    for (size_t i = 0; i < pass->n_spans;) {
        size_t first = p->owner[i], rows = 0;
        while (i + rows < pass->n_spans && p->owner[i + rows] == first + rows &&
               p->done[first + rows] == n[first + rows])
            rows++;
        if (rows)
            run(&(region){
                .e = pass->e, .head_first = i, .head_n = rows, .logits = logits + first * vocab});
        i += rows ? rows : 1;
    }
}

static void advance(const many_pass *p, pare_session *const *sessions, const region *r) {
    for (size_t i = 0; i < r->n_spans; i++) {
        pare_kv_cache_advance(&sessions[p->owner[i]]->kv, p->spans[i].n);
        p->done[p->owner[i]] += p->spans[i].n;
    }
}

static pare_status eval_many(const many_pass *p, pare_session *const *sessions, size_t n_sessions,
                             const int32_t *const *ids, const size_t *n, float *logits,
                             pare_error *err) {
    for (;;) {
        region r;
        PARE_TRY(next_pass(p, sessions, n_sessions, ids, n, &r, err));
        if (r.n == 0) return PARE_OK;
        r.last_rows = true;
        run(&r);
        advance(p, sessions, &r);
        if (logits) complete(p, &r, n, logits);
    }
}

static pare_status check_many(pare_session *const *sessions, size_t n_sessions,
                              const int32_t *const *ids, const size_t *n, pare_error *err) {
    for (size_t i = 0; i < n_sessions; i++) {
        PARE_TRY(check_tokens(sessions[i], ids[i], n[i], err));
        for (size_t j = 0; j < i; j++)
            if (sessions[i] == sessions[j] || sessions[i]->e != sessions[j]->e)
                return pare_fail(err, PARE_ERR_ARG,
                                 "sequences %zu and %zu: expected two forks of one session", j, i);
    }
    return PARE_OK;
}

static pare_status many_begin(many_pass *p, const engine *e, size_t n_sessions, pare_error *err) {
    *p = (many_pass){
        pare_calloc(n_sessions, sizeof *p->spans), pare_calloc(n_sessions, sizeof *p->owner),
        pare_calloc(n_sessions, sizeof *p->done), pare_calloc(e->n_batch, sizeof *p->ids)};
    if (p->spans && p->owner && p->done && p->ids) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "a pass of %zu sequences", n_sessions);
}

static void many_end(many_pass *p) {
    pare_free(p->spans);
    pare_free(p->owner);
    pare_free(p->done);
    pare_free(p->ids);
}

pare_status pare_session_eval_many(pare_session *const *sessions, size_t n_sessions,
                                   const int32_t *const *ids, const size_t *n, float *logits,
                                   pare_error *err) {
    PARE_TRY(check_many(sessions, n_sessions, ids, n, err));
    for (size_t i = 0; logits && i < n_sessions; i++)
        if (n[i] == 0)
            return pare_fail(err, PARE_ERR_ARG, "sequence %zu: found 0 tokens, expected some", i);
    if (n_sessions == 0) return PARE_OK;
    many_pass p;
    pare_status st = many_begin(&p, sessions[0]->e, n_sessions, err);
    if (st == PARE_OK) st = eval_many(&p, sessions, n_sessions, ids, n, logits, err);
    many_end(&p);
    return st;
}

/* ---- scores of several sequences ---- */

/* Scores that are computed together: at most n_batch. */
typedef struct score_batch {
    size_t *rows;     /* [n_batch] of hidden */
    int32_t *targets; /* [n_batch] */
    int32_t *top;     /* [n_batch] */
    float *logprob;   /* [n_batch] */
    float *picks;     /* [n_batch][embed_dim] */
} score_batch;

static pare_status check_scores(const pare_score *scores, size_t n_scores, const engine *e,
                                size_t n_sessions, const size_t *n, pare_error *err) {
    for (size_t i = 0; i < n_scores; i++) {
        const pare_score *s = &scores[i];
        bool ordered = i == 0 || s->sequence > s[-1].sequence ||
                       (s->sequence == s[-1].sequence && s->row >= s[-1].row);
        bool there = s->sequence < n_sessions && s->row < n[s->sequence] && s->target >= 0 &&
                     (size_t)s->target < e->m->config.vocab_size;
        if (!ordered || !there)
            return pare_fail(err, PARE_ERR_ARG,
                             "score %zu: found row %zu of sequence %zu with target %d, expected "
                             "rows that are there, in order, and a token",
                             i, s->row, s->sequence, (int)s->target);
    }
    return PARE_OK;
}

static pare_status score_begin(score_batch *b, const engine *e, pare_error *err) {
    size_t n = e->n_batch;
    *b = (score_batch){pare_calloc(n, sizeof *b->rows), pare_calloc(n, sizeof *b->targets),
                       pare_calloc(n, sizeof *b->top), pare_calloc(n, sizeof *b->logprob),
                       pare_calloc(n * e->m->config.embed_dim, sizeof *b->picks)};
    if (b->rows && b->targets && b->top && b->logprob && b->picks) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "scores of %zu tokens", n);
}

static void score_end(score_batch *b) {
    pare_free(b->rows);
    pare_free(b->targets);
    pare_free(b->top);
    pare_free(b->logprob);
    pare_free(b->picks);
}

/* Computes scores[n], n <= n_batch, whose rows of hidden are in b->rows. */
static void score_rows(const score_batch *b, engine *e, pare_score *scores, size_t n) {
    for (size_t i = 0; i < n; i++) b->targets[i] = scores[i].target;
    run(&(region){.e = e,
                  .many = true,
                  .head_n = n,
                  .score = true,
                  .logprob = b->logprob,
                  .targets = b->targets,
                  .top = b->top,
                  .picked = b->rows,
                  .picks = b->picks});
    for (size_t i = 0; i < n; i++) {
        scores[i].logprob = b->logprob[i];
        scores[i].top = b->top[i];
    }
}

/* The scores from *next on whose rows were in this pass, of tokens before p->done. */
static void score_pass(const many_pass *p, const score_batch *b, const region *pass,
                       pare_score *scores, size_t n_scores, size_t *next) {
    size_t first = *next, n = 0, row = 0; /* row: of hidden, the first of span i */
    for (size_t i = 0; i < pass->n_spans; row += p->spans[i++].n) {
        size_t owner = p->owner[i], from = p->done[owner] - p->spans[i].n;
        for (; *next < n_scores; ++*next) {
            const pare_score *s = &scores[*next];
            if (s->sequence != owner || s->row >= p->done[owner]) break;
            b->rows[n++] = row + s->row - from;
            if (n < pass->e->n_batch) continue;
            score_rows(b, pass->e, scores + first, n);
            first = *next + 1;
            n = 0;
        }
    }
    if (n) score_rows(b, pass->e, scores + first, n);
}

static pare_status score_many(const many_pass *p, const score_batch *b,
                              pare_session *const *sessions, size_t n_sessions,
                              const int32_t *const *ids, const size_t *n, pare_score *scores,
                              size_t n_scores, pare_error *err) {
    for (size_t next = 0;;) {
        region r;
        PARE_TRY(next_pass(p, sessions, n_sessions, ids, n, &r, err));
        if (r.n == 0) return PARE_OK;
        r.many = true;
        run(&r);
        advance(p, sessions, &r);
        score_pass(p, b, &r, scores, n_scores, &next);
    }
}

pare_status pare_session_score_many(pare_session *const *sessions, size_t n_sessions,
                                    const int32_t *const *ids, const size_t *n, pare_score *scores,
                                    size_t n_scores, pare_error *err) {
    PARE_TRY(check_many(sessions, n_sessions, ids, n, err));
    if (n_sessions == 0) return PARE_OK;
    engine *e = sessions[0]->e;
    PARE_TRY(check_scores(scores, n_scores, e, n_sessions, n, err));
    many_pass p;
    score_batch b = {0};
    pare_status st = many_begin(&p, e, n_sessions, err);
    if (st == PARE_OK) st = score_begin(&b, e, err);
    if (st == PARE_OK) st = score_many(&p, &b, sessions, n_sessions, ids, n, scores, n_scores, err);
    many_end(&p);
    score_end(&b);
    return st;
}

void pare_session_truncate(pare_session *s, size_t n_keep) {
    pare_kv_cache_truncate(&s->kv, n_keep);
}

size_t pare_session_position(const pare_session *s) { return s->kv.n_pos; }
size_t pare_session_n_ctx(const pare_session *s) { return s->kv.n_ctx; }
const pare_model *pare_session_model(const pare_session *s) { return s->e->m; }
const pare_kv_cache *pare_session_cache(const pare_session *s) { return &s->kv; }
uint64_t pare_session_kv_bytes(const pare_session *s) {
    const pare_prefix *p = s->e->m->prefix;
    return s->kv.full_bytes + (p ? p->bytes : 0);
}
uint64_t pare_session_bytes(const pare_session *s) {
    const engine *e = s->e;
    return pare_session_kv_bytes(s) + e->room.bytes + e->hidden_bytes + e->logits_bytes;
}
uint64_t pare_session_kv_read_bytes(const pare_session *s, size_t pos) {
    return pare_kv_cache_read_bytes(&s->kv, pos) + pare_prefix_read_bytes(s->e->m, pos);
}
