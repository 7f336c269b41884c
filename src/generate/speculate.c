#include "generate/speculate.h"

#include "base/memory.h"
#include "model/model.h"

#include <string.h>

/* A pass of the newest token and k guesses beside one of a token alone (docs/benchmarks.md,
 * "Guessing ahead"). One token waits for the weights, so that a second row is nearly free; from the
 * fourth on arithmetic decides. A table, not a clock: counts of guesses, on which a draft's text
 * depends, are the same in every run. */
static const double pass_cost[1 + PARE_DRAFT_MAX] = {1, 1.05, 1.4, 1.75, 2.1, 2.4, 2.65, 2.95};

enum { MATCH_MIN = 2, MATCH_MAX = 16, PAUSE_MAX = 64 };

/* --- how many guesses --- */

void pare_guess_gauge_init(pare_guess_gauge *g, double cost) {
    /* looked-up guesses by the length of the match: 2, 3 to 4, 5 to 8, more */
    *g = (pare_guess_gauge){.accept = {0.4, 0.6, 0.75, 0.9}, .pause = {1, 1, 1, 1}, .cost = cost};
}

size_t pare_guess_count(pare_guess_gauge *g, size_t kind, size_t max) {
    double right = 1, tokens = 1, best = 1;
    size_t count = 0;
    for (size_t k = 1; k <= max; k++) {
        right *= g->accept[kind];
        tokens += right;
        double rate = tokens / (pass_cost[k] + g->cost * (double)k);
        if (rate <= best) continue;
        best = rate;
        count = k;
    }
    if (count || max == 0) return count;
    if (g->wait[kind] == 0) return 1;
    g->wait[kind]--;
    return 0;
}

void pare_guess_learn(pare_guess_gauge *g, size_t kind, size_t tried, size_t right) {
    enum { MEMORY = 8 }; /* guesses that the share looks back on */
    double *accept = &g->accept[kind];
    for (size_t i = 0; i < right; i++) *accept += (1 - *accept) / MEMORY;
    if (right) g->pause[kind] = 1;
    if (right == tried) return;
    *accept -= *accept / MEMORY;
    if (right) return;
    g->pause[kind] = 2 * g->pause[kind] < PAUSE_MAX ? 2 * g->pause[kind] : PAUSE_MAX;
    g->wait[kind] = g->pause[kind];
}

/* --- looking up --- */

static size_t match_length(const int32_t *ids, size_t n, size_t end) {
    size_t k = 0;
    while (k < MATCH_MAX && k < end && ids[end - 1 - k] == ids[n - 1 - k]) k++;
    return k;
}

size_t pare_lookup_find(const int32_t *ids, size_t n, size_t *match) {
    size_t found = SIZE_MAX;
    *match = MATCH_MIN - 1;
    for (size_t end = n ? n - 1 : 0; end > *match && *match < MATCH_MAX; end--) {
        if (ids[end - 1] != ids[n - 1]) continue;
        size_t k = match_length(ids, n, end);
        if (k <= *match) continue;
        *match = k;
        found = end;
    }
    return found;
}

/* --- the speculator --- */

/* The distribution that a guess was drawn from. */
typedef struct distribution {
    pare_candidate *items;
    size_t n, capacity;
    double mass;
} distribution;

struct pare_speculator {
    const pare_session *session; /* borrowed */
    pare_session *draft;         /* borrowed; NULL = look up */
    pare_sampler *sampler;       /* of the draft */
    float *logits;               /* [vocab_size] of the draft */
    double *q;                   /* [vocab_size], 0 but during one choice */
    pare_guess_gauge gauge;
    size_t max, kind;
    pare_ids ids; /* all tokens: before, prompt, answer */
    int32_t guesses[PARE_DRAFT_MAX];
    distribution from[PARE_DRAFT_MAX];
    size_t n_guesses;
};

static pare_status no_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "speculation: out of memory");
}

static pare_status add_ids(pare_speculator *s, const int32_t *ids, size_t n, pare_error *err) {
    pare_ids *all = &s->ids;
    if (all->n + n > all->capacity) {
        size_t capacity = 2 * (all->n + n) + 64;
        int32_t *more = pare_realloc(all->data, capacity, sizeof *more);
        if (!more) return no_memory(err);
        all->data = more;
        all->capacity = capacity;
    }
    if (n) memcpy(all->data + all->n, ids, n * sizeof *ids);
    all->n += n;
    return PARE_OK;
}

static pare_status create_draft(pare_speculator *s, const pare_session *session,
                                const pare_sampler *sampler, pare_error *err) {
    const pare_model *m = pare_session_model(session), *d = pare_session_model(s->draft);
    size_t n = pare_model_vocab_size(m);
    if (pare_model_vocab_size(d) != n)
        return pare_fail(err, PARE_ERR_ARG,
                         "draft: found a vocabulary of %zu tokens, expected the model's %zu",
                         pare_model_vocab_size(d), n);
    s->gauge.cost += (double)pare_model_bytes_per_token(d) / (double)pare_model_bytes_per_token(m);
    s->logits = pare_malloc(n, sizeof *s->logits);
    s->q = pare_calloc(n, sizeof *s->q);
    if (!s->logits || !s->q) return no_memory(err);
    return pare_sampler_fork(&s->sampler, sampler, err);
}

pare_status pare_speculator_create(pare_speculator **out, const pare_generate_options *options,
                                   const pare_session *session, const pare_sampler *sampler,
                                   const int32_t *prompt, size_t n, pare_error *err) {
    const pare_speculate_options *o = &options->speculate;
    *out = NULL;
    if (o->max == 0 || o->max > PARE_DRAFT_MAX)
        return pare_fail(err, PARE_ERR_ARG, "speculate.max: found %zu, expected 1 to %d", o->max,
                         PARE_DRAFT_MAX);
    size_t held = pare_session_position(session);
    if (pare_model_alike_rows(pare_session_model(session), 0) < 2)
        return pare_fail(err, PARE_ERR_ARG,
                         "speculate: found activations quantized as %s, expected a scheme that "
                         "treats each token alone: no two tokens computed together keep their bits",
                         pare_model_act(pare_session_model(session)));
    if (o->draft && options->n_before != held)
        return pare_fail(err, PARE_ERR_ARG,
                         "before: found %zu tokens, expected the %zu in the session: a draft needs "
                         "them",
                         options->n_before, held);
    if (o->draft == session)
        return pare_fail(err, PARE_ERR_ARG,
                         "speculate.draft: found the session itself, expected another (a fork of "
                         "it at least)");
    if (o->draft && pare_session_position(o->draft) > held)
        return pare_fail(err, PARE_ERR_ARG,
                         "speculate.draft: found %zu tokens, expected at most the session's %zu",
                         pare_session_position(o->draft), held);
    pare_speculator *s = pare_calloc(1, sizeof *s);
    if (!s) return no_memory(err);
    s->session = session;
    s->draft = o->draft;
    s->max = o->max;
    pare_guess_gauge_init(&s->gauge, 0);
    pare_status st = add_ids(s, options->before, options->n_before, err);
    if (st == PARE_OK) st = add_ids(s, prompt, n, err);
    if (st == PARE_OK && s->draft) st = create_draft(s, session, sampler, err);
    if (st == PARE_OK)
        *out = s;
    else
        pare_speculator_free(s);
    return st;
}

void pare_speculator_free(pare_speculator *s) {
    if (!s) return;
    for (size_t i = 0; i < PARE_DRAFT_MAX; i++) pare_free(s->from[i].items);
    pare_free(s->ids.data);
    pare_free(s->logits);
    pare_free(s->q);
    pare_sampler_free(s->sampler);
    pare_free(s);
}

pare_status pare_speculator_accept(pare_speculator *s, int32_t id, pare_error *err) {
    return add_ids(s, &id, 1, err);
}

/* --- guessing --- */

/* Past the end of the text what was guessed goes on: a period repeats. */
static void look_up(pare_speculator *s, size_t max) {
    size_t n = s->ids.n, match, at = pare_lookup_find(s->ids.data, n, &match);
    if (at == SIZE_MAX) return;
    s->kind = match == 2 ? 0 : match <= 4 ? 1 : match <= 8 ? 2 : 3;
    s->n_guesses = pare_guess_count(&s->gauge, s->kind, max);
    for (size_t i = 0; i < s->n_guesses; i++)
        s->guesses[i] = at + i < n ? s->ids.data[at + i] : s->guesses[at + i - n];
}

static bool keep_distribution(distribution *d, const pare_sampler *s) {
    const pare_candidate *c;
    d->n = pare_sampler_candidates(s, &c);
    if (d->n > d->capacity) {
        pare_free(d->items);
        d->items = pare_malloc(d->n, sizeof *d->items);
        d->capacity = d->items ? d->n : 0;
        if (!d->items) return false;
    }
    memcpy(d->items, c, d->n * sizeof *c);
    d->mass = pare_sampler_mass(s);
    return true;
}

/* The draft computes what it lacks, then its own guesses, one by one. */
static pare_status draw_guesses(pare_speculator *s, const pare_sampler *sampler, size_t max,
                                pare_error *err) {
    size_t room = pare_session_n_ctx(s->draft), position = pare_session_position(s->draft);
    if (position >= s->ids.n) pare_session_truncate(s->draft, s->ids.n - 1);
    position = pare_session_position(s->draft);
    room = room > s->ids.n ? room - s->ids.n + 1 : 0; /* the last guess is not computed */
    s->kind = 2;
    size_t count = pare_guess_count(&s->gauge, s->kind, max < room ? max : room);
    if (count == 0) return PARE_OK;
    pare_sampler_follow(s->sampler, sampler);
    PARE_TRY(
        pare_session_eval(s->draft, s->ids.data + position, s->ids.n - position, s->logits, err));
    for (size_t i = 0; i < count; i++) {
        if (i) PARE_TRY(pare_session_eval(s->draft, &s->guesses[i - 1], 1, s->logits, err));
        PARE_TRY(pare_sampler_weigh(s->sampler, s->logits, err));
        if (!keep_distribution(&s->from[i], s->sampler)) return no_memory(err);
        s->guesses[i] = pare_sampler_draw(s->sampler);
        pare_sampler_accept(s->sampler, s->guesses[i]);
        s->n_guesses = i + 1;
    }
    return PARE_OK;
}

pare_status pare_speculator_guess(pare_speculator *s, const pare_sampler *sampler, size_t max,
                                  const int32_t **guesses, size_t *n, pare_error *err) {
    size_t position = pare_session_position(s->session);
    size_t alike = pare_model_alike_rows(pare_session_model(s->session), position);
    if (max > s->max) max = s->max;
    if (max > alike - 1) max = alike - 1; /* a guess more would change the bits */
    s->n_guesses = 0;
    if (s->draft)
        PARE_TRY(draw_guesses(s, sampler, max, err));
    else
        look_up(s, max);
    *guesses = s->guesses;
    *n = s->n_guesses;
    return PARE_OK;
}

/* --- choosing --- */

static double probability(const pare_candidate *c, size_t n, int32_t id) {
    for (size_t i = 0; i < n; i++)
        if (c[i].id == id) return c[i].p;
    return 0;
}

/* Turns the sampler's candidates from p into max(0, p - q); their sum. */
static double subtract(pare_speculator *s, pare_sampler *sampler, const distribution *from) {
    const pare_candidate *candidates;
    size_t n = pare_sampler_candidates(sampler, &candidates);
    pare_candidate *p = (pare_candidate *)candidates; /* the sampler's own, until its next pick */
    double mass = pare_sampler_mass(sampler), sum = 0;
    for (size_t i = 0; i < from->n; i++) s->q[from->items[i].id] = from->items[i].p / from->mass;
    for (size_t i = 0; i < n; i++) {
        double rest = p[i].p / mass - s->q[p[i].id];
        p[i].p = rest > 0 ? rest : 0;
        sum += p[i].p;
    }
    for (size_t i = 0; i < from->n; i++) s->q[from->items[i].id] = 0;
    return sum;
}

pare_status pare_speculator_choose(int32_t *id, pare_speculator *s, pare_sampler *sampler,
                                   const float *logits, size_t i, pare_error *err) {
    PARE_TRY(pare_sampler_weigh(sampler, logits, err));
    if (!s->draft || i == s->n_guesses) {
        *id = pare_sampler_draw(sampler);
        return PARE_OK;
    }
    const distribution *from = &s->from[i];
    const pare_candidate *c;
    size_t n = pare_sampler_candidates(sampler, &c);
    double p = probability(c, n, s->guesses[i]) / pare_sampler_mass(sampler);
    double q = probability(from->items, from->n, s->guesses[i]) / from->mass;
    *id = s->guesses[i];
    if (pare_sampler_uniform(sampler) * q < p) return PARE_OK;
    /* where p and q are equal but for rounding nothing is left: the guess is as good as a draw */
    if (subtract(s, sampler, from) > 0) *id = pare_sampler_draw(sampler);
    return PARE_OK;
}

void pare_speculator_learn(pare_speculator *s, size_t right) {
    if (s->n_guesses) pare_guess_learn(&s->gauge, s->kind, s->n_guesses, right);
    /* what the draft computed for wrong guesses: ids has the right ones and the token after them */
    if (s->draft && pare_session_position(s->draft) >= s->ids.n)
        pare_session_truncate(s->draft, s->ids.n - 1);
}
