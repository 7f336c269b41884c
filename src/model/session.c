/* A sequence being computed: the KV cache, scratch that is planned before, and the loop over
 * batches. A batch is one parallel region; nothing is allocated in it. */
#include "model/model.h"

#include "base/runtime.h"

#include <string.h>

enum {
    N_BATCH = 512,   /* tokens computed at once, by default */
    N_CTX = 4096,    /* positions, at most, by default */
    LOGITS_ROWS = 32 /* rows of logits that exist at a time */
};

struct pare_session {
    pare_model *m; /* borrowed */
    pare_compute compute;
    size_t n_batch;
    pare_kv_cache kv;
    uint8_t *arena; /* scratch of a pass; that of the linear layers; each thread's own */
    size_t arena_bytes, linear_bytes, own_bytes, scratch_bytes;
    float *hidden; /* [n_batch][embed_dim]: what the head multiplies */
    float *logits; /* [LOGITS_ROWS][vocab_size] */
    size_t hidden_bytes, logits_bytes;
};

pare_session_options pare_session_options_default(void) {
    return (pare_session_options){.compute = PARE_COMPUTE_FAST};
}

/* ---- the parallel region ---- */

/* What one region does: a pass over tokens, and the head over some rows of its result. */
typedef struct region {
    pare_session *s;
    const int32_t *ids; /* NULL: no pass, the head only */
    size_t n, pos0;
    size_t head_first,
        head_n;     /* rows of hidden; any number when they are scored, else LOGITS_ROWS */
    float *logits;  /* [head_n][vocab_size] */
    bool score;     /* log-probabilities instead of logits */
    float *logprob; /* [head_n] of `targets` */
    const int32_t *targets;
} region;

static void run_head(pare_fwd *f, const region *r) {
    const pare_model_config *c = &r->s->m->config;
    const float *y = r->s->hidden ? r->s->hidden + r->head_first * c->embed_dim : NULL;
    if (!r->score) {
        pare_pass_logits(f, r->s->m, r->logits, y, r->head_n);
        return;
    }
    pare_pass_logprobs(f, r->s->m, r->logprob, y, r->head_n, r->targets, r->s->logits,
                       LOGITS_ROWS * c->vocab_size);
}

static void run_region(pare_fwd *f, const region *r) {
    if (r->ids || pare_fwd_planning(f)) {
        pare_pass pass = {.ids = r->ids, .n = r->n, .pos0 = r->pos0, .kv = &r->s->kv};
        pare_pass_run(f, r->s->m, &pass, r->s->hidden);
    }
    if (r->head_n) run_head(f, r);
}

static void region_thread(pare_worker *w, void *arg) {
    const region *r = arg;
    const pare_session *s = r->s;
    pare_fwd f = {
        .w = w,
        .isa = pare_runtime_isa(s->m->rt),
        .compute = s->compute,
        .k = pare_op_kernels_get(pare_runtime_isa(s->m->rt)),
        .arena = {.base = s->arena, .capacity = s->arena_bytes},
        .own = {.base = s->arena + s->arena_bytes + s->linear_bytes + (size_t)w->id * s->own_bytes,
                .capacity = s->own_bytes},
        .linear_scratch = s->arena + s->arena_bytes,
        .linear_bytes = s->linear_bytes};
    run_region(&f, r);
}

/* ---- creation ---- */

/* Takes the sizes of scratch from a pass that computes nothing. */
static pare_status plan(pare_session *s, pare_error *err) {
    pare_runtime *rt = s->m->rt;
    pare_worker worker;
    pare_fwd f = pare_fwd_plan(&worker, pare_runtime_threads(rt), pare_runtime_isa(rt), s->compute);
    /* decoding and long batches take different paths; both must fit */
    size_t lengths[] = {1, s->n_batch < 8 ? s->n_batch : 8, s->n_batch};
    for (size_t i = 0; i < 3; i++) {
        run_region(&f, &(region){.s = s, .n = lengths[i], .head_n = i ? LOGITS_ROWS : 1});
        run_region(&f, &(region){.s = s, .n = 1, .head_n = lengths[i], .score = true});
    }
    size_t own;
    if (!pare_align_size(&s->arena_bytes, f.arena.peak + 64, 64) ||
        !pare_align_size(&s->linear_bytes, f.linear_bytes, 64) ||
        !pare_align_size(&s->own_bytes, f.own.peak + 64, 64) ||
        !pare_mul_size(&own, s->own_bytes, (size_t)pare_runtime_threads(rt)) ||
        !pare_add_size(&s->scratch_bytes, s->arena_bytes, s->linear_bytes) ||
        !pare_add_size(&s->scratch_bytes, s->scratch_bytes, own))
        return pare_fail(err, PARE_ERR_NOMEM, "scratch for batches of %zu tokens", s->n_batch);
    return PARE_OK;
}

static pare_status check_options(pare_session *s, const pare_session_options *o, size_t *n_ctx,
                                 pare_error *err) {
    const pare_model_config *c = &s->m->config;
    *n_ctx = o->n_ctx ? o->n_ctx : c->ctx_max < N_CTX ? c->ctx_max : N_CTX;
    s->compute = o->compute;
    s->n_batch = o->n_batch ? o->n_batch : N_BATCH;
    if (s->n_batch > *n_ctx) s->n_batch = *n_ctx;
    if (s->m->weights.position_embd.w.enc && *n_ctx > c->ctx_max)
        return pare_fail(err, PARE_ERR_ARG,
                         "n_ctx: found %zu, expected at most %zu as the model has positions",
                         *n_ctx, c->ctx_max);
    if (s->n_batch > (size_t)1 << 20)
        return pare_fail(err, PARE_ERR_ARG, "n_batch: found %zu, expected at most %d", s->n_batch,
                         1 << 20);
    return PARE_OK;
}

static pare_status create_cache(pare_session *s, const pare_session_options *o, size_t n_ctx,
                                pare_error *err) {
    const char *kv = o->kv ? o->kv : o->compute == PARE_COMPUTE_EXACT ? "f32" : "f16";
    pare_kv_spec spec;
    PARE_TRY(pare_kv_spec_make(&spec, &s->m->config, kv, n_ctx, s->n_batch, err));
    size_t bytes, available = pare_available_bytes();
    PARE_TRY(pare_kv_cache_bytes(&bytes, &spec, err));
    if (available && bytes > available)
        return pare_fail(err, PARE_ERR_NOMEM,
                         "KV cache of %zu positions: found %zu bytes of memory, expected %zu",
                         n_ctx, available, bytes);
    return pare_kv_cache_init(&s->kv, &spec, err);
}

static pare_status create_scratch(pare_session *s, pare_error *err) {
    const pare_model_config *c = &s->m->config;
    PARE_TRY(plan(s, err));
    if (!pare_mul_size(&s->hidden_bytes, s->n_batch * sizeof(float), c->embed_dim) ||
        !pare_mul_size(&s->logits_bytes, LOGITS_ROWS * sizeof(float), c->vocab_size))
        return pare_fail(err, PARE_ERR_NOMEM, "logits of %zu rows", s->n_batch);
    s->arena = pare_big_alloc(s->scratch_bytes);
    s->hidden = pare_big_alloc(s->hidden_bytes);
    s->logits = pare_big_alloc(s->logits_bytes);
    if (!s->arena || !s->hidden || !s->logits)
        return pare_fail(err, PARE_ERR_NOMEM, "scratch of %zu bytes for batches of %zu tokens",
                         s->scratch_bytes, s->n_batch);
    return PARE_OK;
}

pare_status pare_session_create(pare_session **out, pare_model *m,
                                const pare_session_options *options, pare_error *err) {
    pare_session_options o = options ? *options : pare_session_options_default();
    *out = NULL;
    pare_session *s = pare_calloc(1, sizeof *s);
    if (!s) return pare_fail(err, PARE_ERR_NOMEM, "a session");
    s->m = m;
    size_t n_ctx;
    pare_status st = check_options(s, &o, &n_ctx, err);
    if (st == PARE_OK) st = create_cache(s, &o, n_ctx, err);
    if (st == PARE_OK) st = create_scratch(s, err);
    if (st != PARE_OK) {
        pare_session_free(s);
        return st;
    }
    *out = s;
    return PARE_OK;
}

void pare_session_free(pare_session *s) {
    if (!s) return;
    pare_kv_cache_free(&s->kv);
    pare_big_free(s->arena, s->scratch_bytes);
    pare_big_free(s->hidden, s->hidden_bytes);
    pare_big_free(s->logits, s->logits_bytes);
    pare_free(s);
}

/* ---- evaluation ---- */

static pare_status check_tokens(const pare_session *s, const int32_t *ids, size_t n,
                                pare_error *err) {
    size_t vocab = s->m->config.vocab_size;
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

static void run(pare_session *s, region *r) { pare_team_run(s->m->rt, region_thread, r); }

/* The next batch of ids[n] from `done` on: n tokens at the cache's position. */
static pare_status next_batch(pare_session *s, const int32_t *ids, size_t n, size_t done, region *r,
                              pare_error *err) {
    PARE_TRY(pare_check_cancel(s->m->rt, err));
    *r = (region){.s = s, .ids = ids + done, .pos0 = s->kv.n_pos};
    r->n = n - done < s->n_batch ? n - done : s->n_batch;
    return pare_kv_cache_reserve(&s->kv, r->n, err);
}

pare_status pare_session_eval(pare_session *s, const int32_t *ids, size_t n, float *logits,
                              pare_error *err) {
    PARE_TRY(check_tokens(s, ids, n, err));
    if (n == 0 && logits) return pare_fail(err, PARE_ERR_ARG, "tokens: found 0, expected some");
    for (size_t done = 0; done < n;) {
        region r;
        PARE_TRY(next_batch(s, ids, n, done, &r, err));
        done += r.n;
        if (logits && done == n) {
            r.head_first = r.n - 1;
            r.head_n = 1;
            r.logits = logits;
        }
        run(s, &r);
        pare_kv_cache_advance(&s->kv, r.n);
    }
    return PARE_OK;
}

pare_status pare_session_eval_all(pare_session *s, const int32_t *ids, size_t n, size_t from,
                                  pare_logits_sink sink, void *arg, pare_error *err) {
    PARE_TRY(check_tokens(s, ids, n, err));
    for (size_t done = 0; done < n;) {
        region r;
        PARE_TRY(next_batch(s, ids, n, done, &r, err));
        run(s, &r);
        pare_kv_cache_advance(&s->kv, r.n);
        /* one region per piece of logits: the sink may run the team itself */
        for (size_t i = from > done ? from - done : 0; i < r.n; i += LOGITS_ROWS) {
            size_t rows = r.n - i < LOGITS_ROWS ? r.n - i : LOGITS_ROWS;
            run(s, &(region){.s = s, .head_first = i, .head_n = rows, .logits = s->logits});
            if (sink(arg, done + i, rows, s->logits) != 0)
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
        PARE_TRY(next_batch(s, ids, n, done, &r, err));
        size_t first = from > done ? from - done : 0;
        size_t last = done + r.n < n ? r.n : r.n - 1; /* the last token has no target */
        if (first < last) {
            r.head_first = first;
            r.head_n = last - first;
            r.score = true;
            r.logprob = logprob + (done + first - from);
            r.targets = ids + done + first + 1;
        }
        run(s, &r);
        pare_kv_cache_advance(&s->kv, r.n);
        done += r.n;
    }
    return PARE_OK;
}

void pare_session_truncate(pare_session *s, size_t n_keep) {
    pare_kv_cache_truncate(&s->kv, n_keep);
}

size_t pare_session_position(const pare_session *s) { return s->kv.n_pos; }
size_t pare_session_n_ctx(const pare_session *s) { return s->kv.n_ctx; }
const pare_model *pare_session_model(const pare_session *s) { return s->m; }
uint64_t pare_session_kv_bytes(const pare_session *s) { return s->kv.storage_bytes; }
