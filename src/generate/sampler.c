/* Sampling: the order of steps stands in pare/generate.h. Candidates are ordered by (logit, id), a
 * total order since NaN is refused first: qsort with an inconsistent comparison is undefined. */
#include "generate/sampler.h"

#include "base/memory.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keep the draws apart from other uses of the same seed, and from those of a draft. */
enum { SAMPLER_STREAM = 0x73616D70, DRAFT_STREAM = 0x64726674 };

struct pare_sampler {
    pare_sampler_options options;
    size_t vocab_size, n_candidates;
    pare_candidate *candidates; /* [vocab_size] */
    uint8_t *banned;            /* [vocab_size] */
    int32_t *recent;            /* [repeat_last_n], a ring */
    size_t n_recent;            /* tokens ever accepted */
    uint64_t stream, n_drawn;
};

pare_sampler_options pare_sampler_options_default(void) {
    return (pare_sampler_options){.temperature = 0.8,
                                  .top_k = 40,
                                  .top_p = 0.95,
                                  .min_p = 0.05,
                                  .repeat_penalty = 1,
                                  .repeat_last_n = 64};
}

static pare_status check_range(const char *name, double v, double min, double max,
                               pare_error *err) {
    if (v >= min && v <= max) return PARE_OK; /* false for NaN */
    return pare_fail(err, PARE_ERR_ARG, "%s: found %g, expected %g to %g", name, v, min, max);
}

static pare_status check_options(const pare_sampler_options *o, pare_error *err) {
    PARE_TRY(check_range("temperature", o->temperature, 0, 1e6, err));
    PARE_TRY(check_range("top_p", o->top_p, 0, 1, err));
    PARE_TRY(check_range("min_p", o->min_p, 0, 1, err));
    PARE_TRY(check_range("repeat_penalty", o->repeat_penalty, 1e-3, 1e3, err));
    return check_range("repeat_last_n", (double)o->repeat_last_n, 0, 1 << 24, err);
}

pare_status pare_sampler_create(pare_sampler **out, size_t vocab_size,
                                const pare_sampler_options *options, pare_error *err) {
    *out = NULL;
    pare_sampler_options o = options ? *options : pare_sampler_options_default();
    if (vocab_size == 0 || vocab_size > INT32_MAX)
        return pare_fail(err, PARE_ERR_ARG, "vocabulary: found %zu tokens, expected 1 to 2^31-1",
                         vocab_size);
    PARE_TRY(check_options(&o, err));
    pare_sampler *s = pare_calloc(1, sizeof *s);
    if (s) {
        s->options = o;
        s->vocab_size = vocab_size;
        s->stream = SAMPLER_STREAM;
        s->candidates = pare_malloc(vocab_size, sizeof *s->candidates);
        s->banned = pare_calloc(vocab_size, 1);
        s->recent = pare_malloc(o.repeat_last_n, sizeof *s->recent);
    }
    if (!s || !s->candidates || !s->banned || !s->recent) {
        pare_sampler_free(s);
        return pare_fail(err, PARE_ERR_NOMEM, "sampler for %zu tokens: out of memory", vocab_size);
    }
    *out = s;
    return PARE_OK;
}

void pare_sampler_start(pare_sampler *s, uint64_t draw) { s->n_drawn = draw; }

pare_status pare_sampler_fork(pare_sampler **out, const pare_sampler *s, pare_error *err) {
    PARE_TRY(pare_sampler_create(out, s->vocab_size, &s->options, err));
    memcpy((*out)->banned, s->banned, s->vocab_size);
    (*out)->stream = DRAFT_STREAM;
    (*out)->n_drawn = s->n_drawn;
    return PARE_OK;
}

void pare_sampler_follow(pare_sampler *s, const pare_sampler *from) {
    size_t last = from->options.repeat_last_n, n = from->n_recent < last ? from->n_recent : last;
    if (n) memcpy(s->recent, from->recent, n * sizeof *s->recent);
    s->n_recent = from->n_recent;
}

void pare_sampler_free(pare_sampler *s) {
    if (!s) return;
    pare_free(s->candidates);
    pare_free(s->banned);
    pare_free(s->recent);
    pare_free(s);
}

void pare_sampler_accept(pare_sampler *s, int32_t id) {
    if (id < 0 || (size_t)id >= s->vocab_size) return;
    if (s->options.repeat_last_n) s->recent[s->n_recent++ % s->options.repeat_last_n] = id;
}

void pare_sampler_ban(pare_sampler *s, int32_t id) {
    if (id >= 0 && (size_t)id < s->vocab_size) s->banned[id] = 1;
}

size_t pare_sampler_candidates(const pare_sampler *s, const pare_candidate **candidates) {
    *candidates = s->candidates;
    return s->n_candidates;
}

/* --- steps --- */

static pare_status check_logits(const pare_sampler *s, const float *logits, pare_error *err) {
    for (size_t i = 0; i < s->vocab_size; i++)
        if (!(logits[i] < INFINITY))
            return pare_fail(err, PARE_ERR_INPUT, "logits: token %zu: found %s, expected a number",
                             i, isnan(logits[i]) ? "NaN" : "+Inf");
    return PARE_OK;
}

/* Each token once, however often it occurs: p marks those still to be done. */
static void penalize(pare_sampler *s) {
    const pare_sampler_options *o = &s->options;
    if (o->repeat_penalty == 1) return;
    size_t n = s->n_recent < o->repeat_last_n ? s->n_recent : o->repeat_last_n;
    float penalty = (float)o->repeat_penalty;
    for (size_t i = 0; i < n; i++) s->candidates[s->recent[i]].p = 1;
    for (size_t i = 0; i < n; i++) {
        pare_candidate *c = &s->candidates[s->recent[i]];
        if (c->p == 1) c->logit = c->logit > 0 ? c->logit / penalty : c->logit * penalty;
        c->p = 0;
    }
}

/* Candidates by id, banned ones at -Inf, the penalty applied. */
static void fill(pare_sampler *s, const float *logits) {
    for (size_t i = 0; i < s->vocab_size; i++)
        s->candidates[i] = (pare_candidate){.logit = logits[i], .id = (int32_t)i};
    penalize(s);
    for (size_t i = 0; i < s->vocab_size; i++)
        if (s->banned[i]) s->candidates[i].logit = -INFINITY;
    s->n_candidates = s->vocab_size;
}

static bool before(const pare_candidate *a, const pare_candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static int compare(const void *a, const void *b) { return before(a, b) ? -1 : before(b, a); }

static void swap(pare_candidate *a, pare_candidate *b) {
    pare_candidate c = *a;
    *a = *b;
    *b = c;
}

/* Restores the heap whose root, the last in order, may have moved. */
static void sift_down(pare_candidate *heap, size_t n, size_t i) {
    for (;;) {
        size_t last = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++)
            if (before(&heap[last], &heap[child])) last = child;
        if (last == i) return;
        swap(&heap[i], &heap[last]);
        i = last;
    }
}

/* The k first in order to the front: a heap of k, O(n log k) and mostly O(n). */
static void keep_top_k(pare_sampler *s, size_t k) {
    pare_candidate *c = s->candidates;
    if (k == 0 || k >= s->n_candidates) return;
    for (size_t i = k / 2; i-- > 0;) sift_down(c, k, i);
    for (size_t i = k; i < s->n_candidates; i++)
        if (before(&c[i], &c[0])) {
            c[0] = c[i];
            sift_down(c, k, 0);
        }
    s->n_candidates = k;
}

static float largest_logit(const pare_sampler *s) {
    float max = -INFINITY;
    for (size_t i = 0; i < s->n_candidates; i++)
        if (s->candidates[i].logit > max) max = s->candidates[i].logit;
    return max;
}

/* p = exp((logit - max) / temperature): the largest is 1, so that min-p compares with min_p. */
static void weigh(pare_sampler *s) {
    double max = largest_logit(s);
    for (size_t i = 0; i < s->n_candidates; i++)
        s->candidates[i].p = exp(((double)s->candidates[i].logit - max) / s->options.temperature);
}

double pare_sampler_mass(const pare_sampler *s) {
    double sum = 0;
    for (size_t i = 0; i < s->n_candidates; i++) sum += s->candidates[i].p;
    return sum;
}

static void keep_top_p(pare_sampler *s) {
    if (s->options.top_p >= 1) return;
    double target = s->options.top_p * pare_sampler_mass(s), sum = 0;
    size_t n = 0;
    while (n < s->n_candidates && (n == 0 || sum < target)) sum += s->candidates[n++].p;
    s->n_candidates = n;
}

static void keep_min_p(pare_sampler *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n_candidates; i++)
        if (s->candidates[i].p >= s->options.min_p) s->candidates[n++] = s->candidates[i];
    s->n_candidates = n;
}

/* 53 random bits. */
double pare_sampler_uniform(pare_sampler *s) {
    uint32_t r[4];
    pare_philox(r, s->options.seed, s->stream, s->n_drawn++);
    return (double)(((uint64_t)r[0] << 32 | r[1]) >> 11) * 0x1p-53;
}

int32_t pare_sampler_draw(pare_sampler *s) {
    if (s->options.temperature == 0) return s->candidates[0].id;
    double left = pare_sampler_uniform(s) * pare_sampler_mass(s);
    int32_t id = s->candidates[0].id;
    for (size_t i = 0; i < s->n_candidates; i++) {
        if (s->candidates[i].p <= 0) continue;
        id = s->candidates[i].id; /* rounding may leave a rest: then the last possible one */
        left -= s->candidates[i].p;
        if (left < 0) break;
    }
    return id;
}

pare_status pare_sampler_weigh(pare_sampler *s, const float *logits, pare_error *err) {
    PARE_TRY(check_logits(s, logits, err));
    fill(s, logits);
    if (largest_logit(s) == -INFINITY)
        return pare_fail(err, PARE_ERR_INPUT,
                         "logits: found -Inf for all %zu tokens, expected a number", s->vocab_size);
    bool greedy = s->options.temperature == 0;
    keep_top_k(s, greedy ? 1 : s->options.top_k);
    if (greedy) {
        s->candidates[0].p = 1;
        return PARE_OK;
    }
    /* only top-p needs an order; without it a draw by falling probability is as good as by id */
    if (s->n_candidates < s->vocab_size || s->options.top_p < 1)
        qsort(s->candidates, s->n_candidates, sizeof *s->candidates, compare);
    weigh(s);
    keep_top_p(s);
    keep_min_p(s);
    return PARE_OK;
}

pare_status pare_sampler_pick(int32_t *id, pare_sampler *s, const float *logits, pare_error *err) {
    *id = -1;
    PARE_TRY(pare_sampler_weigh(s, logits, err));
    *id = pare_sampler_draw(s);
    return PARE_OK;
}
