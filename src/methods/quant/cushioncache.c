/* CushionCache: a short prefix whose keys and values take the attention that nothing else wants, so
 * that no token of the text carries the huge activations that ruin a shared scale. Son, Park, Han,
 * Kim, Lee, arXiv:2406.12016. Stage 1, its algorithm 1:
 *
 *     p = start
 *     while |p| < max_len:
 *         draw texts;  p* = argmin over tokens c of L_q(text | p, c)
 *         if L_q(text | p, p*) > tau L_q(text | p): stop
 *         append p*
 *
 * The argmin is that of brute force, for less work where candidates differ early. L_q is a sum over
 * texts and blocks of terms that are not negative, so that a candidate whose sum so far is above
 * the best whole one is given up. Sums are made in the same order for all, and adding what is not
 * negative never makes a floating sum smaller, so that this holds to the bit. What is likely to be
 * good comes first: in the order of L_q over the first `screen` tokens of a text, which costs
 * screen / (texts * n) of brute force. Of equals the lowest token wins.
 *
 * Departures: several texts instead of one; `repeats` of them begin with the last tokens of the
 * prefix so far, because one token is no sink for a text that begins with that very token: a second
 * one mends that, and is found worth it only where such a text is among those that count.
 * candidates > 0 is no exact argmin: only so many, the best ones on the screen, are computed.
 *
 * Stage 2 (train/prefix_loss.h, pipeline/cushion_tune.c) trains the keys and values of what was
 * found with the model's own loss and L_q. The paper names lambda and the epochs; what else it
 * takes is a choice: AdamW without decay, a rate that falls linearly to 0, gradients clipped at a
 * norm of 1, one text a step, L_q a mean over elements. */
#include "methods/cushion_search.h"

#include "base/memory.h"
#include "base/runtime.h"
#include "tensor/act_quant.h"

#include <math.h>
#include <stdlib.h>

#define CHOICE(field_, def_, choices_, help_)                                                      \
    {                                                                                              \
        .name = #field_, .type = PARE_PARAM_CHOICE,                                                \
        .offset = offsetof(pare_cushion_options, field_), .def = def_, .choices = choices_,        \
        .help = help_                                                                              \
    }

static const pare_param cushioncache_params[] = {
    PARE_PARAM(pare_cushion_options, max_len, PARE_PARAM_INT, 8, 1, PARE_CUSHION_MAX_LEN,
               "tokens of the prefix, at most"),
    PARE_PARAM(pare_cushion_options, tau, PARE_PARAM_FLOAT, 0.5, 0, 1e6,
               "a token is kept when it leaves at most tau of the error; 0 = none is looked for"),
    PARE_PARAM(pare_cushion_options, n, PARE_PARAM_INT, 128, 2, 1 << 20,
               "tokens of a text that is searched on (paper: 512)"),
    PARE_PARAM(pare_cushion_options, texts, PARE_PARAM_INT, 4, 1, 64,
               "texts whose errors are summed, others for each token (paper: 1)"),
    PARE_PARAM(pare_cushion_options, repeats, PARE_PARAM_INT, 1, 0, 64,
               "of them such that begin with tokens of the prefix so far (paper: 0)"),
    PARE_PARAM(pare_cushion_options, pool, PARE_PARAM_INT, 0, 0, 1 << 28,
               "only so many tokens of the vocabulary, drawn at random; 0 = all"),
    PARE_PARAM(pare_cushion_options, candidates, PARE_PARAM_INT, 0, 0, 1 << 28,
               "only so many of them, the best on the screen, are computed; 0 = all, exactly"),
    PARE_PARAM(pare_cushion_options, screen, PARE_PARAM_INT, 4, 1, 1 << 20,
               "tokens of one text by which candidates are put in order"),
    CHOICE(start, 0, "none|bos|outliers",
           "what the prefix begins with; outliers: tokens that often carry them, then BOS"),
    {.name = "prompt",
     .type = PARE_PARAM_TEXT,
     .offset = offsetof(pare_cushion_options, prompt),
     .choices = "none|TEXT",
     .help = "text that the prefix begins with, special tokens by name (<|im_start|>), instead of "
             "start"},
    CHOICE(site, 0, "block_out|linear_in|both", "the tensors whose error counts"),
    PARE_PARAM(pare_cushion_options, bits, PARE_PARAM_INT, 8, 2, 8, "of the activations"),
    PARE_PARAM(pare_cushion_options, symmetric, PARE_PARAM_BOOL, 0, 0, 1,
               "the activations' grid is symmetric"),
    CHOICE(formula, PARE_ACT_DEFAULT, PARE_ACT_FORMULA_CHOICES, "of the grid"),
    CHOICE(granularity, PARE_ACT_PER_TENSOR_DYNAMIC, PARE_ACT_GRANULARITY_CHOICES,
           "of the grid: of a text's tokens together, or of each"),
    PARE_PARAM(pare_cushion_options, epochs, PARE_PARAM_INT, 2, 0, PARE_CUSHION_MAX_EPOCHS,
               "of tuning the keys and values of what was found; 0 = none"),
    PARE_PARAM(pare_cushion_options, lr, PARE_PARAM_FLOAT, 1e-3, 0, 10,
               "learning rate of the tuning, falling to 0"),
    PARE_PARAM(pare_cushion_options, lambda, PARE_PARAM_FLOAT, 0.01, 0, 1e9,
               "weight of the quantization error beside the model's loss"),
    CHOICE(lq_norm, 0, "mean|sum",
           "of the error in the tuning: mean over each block's elements, or their sum"),
    PARE_PARAM(pare_cushion_options, tune_texts, PARE_PARAM_INT, 128, 1, 1 << 20,
               "texts of an epoch"),
    PARE_PARAM(pare_cushion_options, tune_n, PARE_PARAM_INT, 0, 0, 1 << 20,
               "tokens of each; 0 = 512, or less where context or text are short"),
    PARE_PARAM(pare_cushion_options, batch, PARE_PARAM_INT, 1, 1, 1 << 16, "texts of a step"),
    CHOICE(forward, PARE_CUSHION_FORWARD_PLAIN,
           "plain|per_tensor_static|per_tensor_dynamic|per_token",
           "the model's loss is of plain activations, or of quantized ones"),
    {0},
};

static pare_status cushioncache_check(const void *options, pare_error *err) {
    const pare_cushion_options *o = options;
    if (o->granularity == PARE_ACT_PER_TENSOR_STATIC)
        return pare_fail(err, PARE_ERR_ARG,
                         "granularity: found per_tensor_static, expected per_tensor_dynamic or "
                         "per_token: the search takes its ranges from each text");
    if (o->repeats > o->texts)
        return pare_fail(err, PARE_ERR_ARG, "repeats: found %d, expected at most %d, the texts",
                         o->repeats, o->texts);
    if (o->screen > o->n)
        return pare_fail(err, PARE_ERR_ARG,
                         "screen: found %d, expected at most %d, a text's tokens", o->screen, o->n);
    if (o->tune_n == 1)
        return pare_fail(err, PARE_ERR_ARG, "tune_n: found 1, expected 0 or at least 2");
    return PARE_OK;
}

/* --- the search for one token --- */

typedef struct candidate {
    int32_t id;
    double lq; /* of the screen, or of what was computed so far */
} candidate;

typedef struct search {
    const pare_cushion_job *job;
    const pare_cushion_options *o;
    candidate *list; /* [n] in the order of the screen */
    size_t n;
    int32_t *ids;  /* [capacity] of a group: those that are left */
    size_t *which; /* [capacity] */
    double *lq;    /* [capacity] of a block */
    candidate *group;
    candidate best; /* of those that are finished; id -1: none */
    pare_cushion_step step;
    size_t number;              /* of the step */
    size_t first, count;        /* of the group at work */
    pare_cushion_within within; /* before that group */
} search;

static int by_error(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->lq != y->lq) return x->lq < y->lq ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Can a candidate with this sum still win? */
static bool may_win(const search *s, const candidate *c) {
    if (!(c->lq < (double)INFINITY)) return false;
    return s->best.id < 0 || c->lq < s->best.lq || (c->lq == s->best.lq && c->id < s->best.id);
}

static pare_status error_without(search *s, double *lq, pare_error *err) {
    const pare_cushion_job *job = s->job;
    *lq = 0;
    for (size_t t = 0; t < (size_t)s->o->texts; t++) {
        job->begin(job->arg, NULL, 1, t, (size_t)s->o->n);
        for (size_t b = 0; b < job->n_blocks; b++) {
            double of_block;
            PARE_TRY(job->block(job->arg, &of_block, err));
            if (!isfinite(of_block))
                return pare_fail(err, PARE_ERR_INPUT,
                                 "cushion: text %zu: block %zu: found activations whose error is "
                                 "no finite number, expected a model that computes",
                                 t, b);
            *lq += of_block;
        }
    }
    return PARE_OK;
}

/* The total is that of as many searches as there may be. */
static void tell(const search *s, const char *stage, double done, size_t of) {
    double searches = (double)s->o->max_len, n = (double)of;
    pare_progress(s->job->rt, stage, (double)s->number * n + done, searches * n, "candidates");
}

/* A group is done: from here a run goes on that is cut off in the next one. */
static pare_status note_group(search *s, size_t n_screened, size_t n_tried, pare_error *err) {
    pare_cushion_within *w = &s->within;
    w->n_screened = n_screened;
    w->n_tried = n_tried;
    w->n_finished = s->step.n_finished;
    w->best = s->best.id;
    w->best_lq = s->best.lq;
    w->work = s->step.work;
    return s->job->within ? s->job->within(s->job->arg, w, false, err) : PARE_OK;
}

static pare_status screen_group(search *s, size_t first, size_t n, pare_error *err) {
    const pare_cushion_job *job = s->job;
    const size_t rows = (size_t)s->o->screen + 1;
    double *sums = s->within.screen + first;
    for (size_t i = 0; i < n; i++) sums[i] = 0;
    job->begin(job->arg, job->candidates + first, n, 0, rows - 1);
    for (size_t b = 0; b < job->n_blocks; b++) {
        PARE_TRY(job->block(job->arg, s->lq, err));
        for (size_t i = 0; i < n; i++) sums[i] += s->lq[i];
        s->step.work += (double)(n * rows);
    }
    return PARE_OK;
}

/* Puts all candidates in order. */
static pare_status screen(search *s, pare_error *err) {
    const pare_cushion_job *job = s->job;
    for (size_t first = s->within.n_screened, n; first < s->n; first += n) {
        n = s->n - first < job->capacity ? s->n - first : job->capacity;
        tell(s, "cushion: screen", (double)first, s->n);
        PARE_TRY(screen_group(s, first, n, err));
        PARE_TRY(note_group(s, first + n, 0, err));
    }
    tell(s, "cushion: screen", (double)s->n, s->n);
    for (size_t i = 0; i < s->n; i++)
        s->list[i] = (candidate){job->candidates[i], s->within.screen[i]};
    qsort(s->list, s->n, sizeof *s->list, by_error);
    return PARE_OK;
}

/* A group through one text: those that cannot win any more leave. *n: how many are left. */
static pare_status run_text(search *s, size_t text, size_t *n, pare_error *err) {
    const pare_cushion_job *job = s->job;
    for (size_t i = 0; i < *n; i++) s->ids[i] = s->group[i].id;
    job->begin(job->arg, s->ids, *n, text, (size_t)s->o->n);
    for (size_t b = 0; b < job->n_blocks && *n; b++) {
        size_t left = 0, blocks = text * job->n_blocks + b;
        double share = (double)blocks / ((double)s->o->texts * (double)job->n_blocks);
        tell(s, "cushion: search", (double)s->first + share * (double)s->count, s->n);
        PARE_TRY(job->block(job->arg, s->lq, err));
        s->step.work += (double)*n * (double)(s->o->n + 1);
        for (size_t i = 0; i < *n; i++) {
            s->group[i].lq += s->lq[i];
            if (!may_win(s, &s->group[i])) continue;
            s->which[left] = i;
            s->group[left++] = s->group[i];
        }
        if (left < *n) job->keep(job->arg, s->which, left);
        *n = left;
    }
    return PARE_OK;
}

/* Groups in order; the first is small, so that there is something to compare with soon. */
static pare_status find_best(search *s, pare_error *err) {
    const size_t small = s->job->capacity / 8 ? s->job->capacity / 8 : 1;
    for (size_t first = s->within.n_tried, count; first < s->n; first += count) {
        count = first ? s->job->capacity : small;
        if (count > s->n - first) count = s->n - first;
        s->first = first;
        s->count = count;
        for (size_t i = 0; i < count; i++) s->group[i] = (candidate){s->list[first + i].id, 0};
        size_t n = count;
        for (size_t t = 0; t < (size_t)s->o->texts && n; t++) PARE_TRY(run_text(s, t, &n, err));
        s->step.n_finished += n;
        for (size_t i = 0; i < n; i++)
            if (may_win(s, &s->group[i])) s->best = s->group[i];
        PARE_TRY(note_group(s, s->within.n_screened, first + count, err));
    }
    tell(s, "cushion: search", (double)s->n, s->n);
    return PARE_OK;
}

/* The state of this step that a run which was cut off had noted, or that of one which begins. */
static pare_status begin_token(search *s, pare_error *err) {
    const pare_cushion_job *job = s->job;
    const double rows = (double)(s->o->n + 1) * (double)s->o->texts;
    pare_cushion_within *w = &s->within;
    *w = (pare_cushion_within){
        .number = s->number, .screen = w->screen, .best = -1, .best_lq = (double)INFINITY};
    s->n = job->n_candidates;
    if (job->again) PARE_TRY(job->again(job->arg, w, err));
    s->best = (candidate){w->best, w->best_lq};
    s->step = (pare_cushion_step){.token = -1,
                                  .before = w->before,
                                  .work = w->work,
                                  .whole = (double)s->n * rows * (double)job->n_blocks,
                                  .n_finished = w->n_finished};
    if (w->n_screened) return PARE_OK;
    PARE_TRY(error_without(s, &s->step.before, err));
    w->before = s->step.before;
    return PARE_OK;
}

static pare_status find_token(search *s, const pare_cushion_result *r, pare_error *err) {
    const pare_cushion_job *job = s->job;
    PARE_TRY(job->draw(job->arg, s->number, r->ids, r->n, err));
    PARE_TRY(begin_token(s, err));
    pare_status st = screen(s, err);
    if (s->o->candidates && (size_t)s->o->candidates < s->n) s->n = (size_t)s->o->candidates;
    if (st == PARE_OK) st = find_best(s, err);
    if (st == PARE_ERR_INTERRUPTED && job->within && s->within.n_screened) {
        pare_error own = {0}; /* at worst what was noted before is good */
        if (job->within(job->arg, &s->within, true, &own) != PARE_OK)
            pare_warn(job->rt, "%s", own.message);
    }
    if (st != PARE_OK) return st;
    s->step.token = s->best.id;
    s->step.after = s->best.lq;
    s->step.kept = s->best.id >= 0 && s->best.lq <= s->o->tau * s->step.before;
    return PARE_OK;
}

pare_status pare_cushion_search(const pare_cushion_job *job, const pare_cushion_options *o,
                                pare_cushion_result *r, pare_error *err) {
    search s = {.job = job,
                .o = o,
                .list = pare_calloc(job->n_candidates, sizeof *s.list),
                .ids = pare_calloc(job->capacity, sizeof *s.ids),
                .which = pare_calloc(job->capacity, sizeof *s.which),
                .lq = pare_calloc(job->capacity, sizeof *s.lq),
                .within.screen = pare_calloc(job->n_candidates, sizeof *s.within.screen),
                .group = pare_calloc(job->capacity, sizeof *s.group)};
    pare_status st = PARE_OK;
    if (!s.list || !s.ids || !s.which || !s.lq || !s.group || !s.within.screen)
        st = pare_fail(err, PARE_ERR_NOMEM, "cushion: out of memory");
    bool over = o->tau <= 0 || (r->n_steps && !r->steps[r->n_steps - 1].kept);
    while (st == PARE_OK && !over && r->n < (size_t)o->max_len) {
        s.number = r->n_steps;
        st = job->prefix(job->arg, r->ids, r->n, err);
        if (st == PARE_OK) st = find_token(&s, r, err);
        if (st != PARE_OK) break;
        r->steps[r->n_steps++] = s.step;
        over = !s.step.kept;
        if (!over) r->ids[r->n++] = s.step.token;
        st = job->noted(job->arg, &s.step, err);
    }
    pare_free(s.list);
    pare_free(s.ids);
    pare_free(s.which);
    pare_free(s.lq);
    pare_free(s.group);
    pare_free(s.within.screen);
    return st;
}

const pare_method pare_method_cushioncache = {
    .name = "cushioncache",
    .slot = "activation",
    .paper = "arXiv:2406.12016",
    .summary = "a short prefix in the KV cache that takes the activations' outliers",
    .help = "Searches, token by token, the prefix behind which a text's activations lose least by "
            "quantization, and puts its keys and values in front of every sequence: what comes "
            "later in the recipe, and who runs the model, sees it. Weights are unchanged. The "
            "texts come from the calibration text. The result is the best of all tokens (with "
            "candidates=N of the N best on a first look); those that cannot win any more are given "
            "up early. pool=N and candidates=N make it a matter of minutes. Then keys and values "
            "are trained for some epochs, and those kept that did best on text held out. --prefix "
            "FILE: the search goes on from that file's tokens.",
    .example = "cushioncache:max_len=4,candidates=64,lambda=0.1",
    .options_size = sizeof(pare_cushion_options),
    .params = cushioncache_params,
    .prefix = true,
    .check = cushioncache_check,
};
