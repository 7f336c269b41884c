/* What a run is worth: held-out losses, the average of the weights, the best ones, and what is told
 * of the result. */
#include "pipeline/train_run.h"

#include "base/group.h"
#include "base/memory.h"
#include "methods/mask.h"

#include <math.h>
#include <string.h>

/* Held-out windows first .. first + n of count, evenly over all there are. */
static pare_status held_out_nll(pare_train_run *r, uint64_t first, size_t n, uint64_t count,
                                uint64_t all, double *nll, pare_error *err) {
    const pare_train_options *o = r->o;
    for (size_t i = 0; i < n; i++) {
        uint64_t at = (first + i) * all / count;
        int32_t *ids = r->window;
        if (o->val)
            PARE_TRY(pare_token_file_read(&r->val_tokens, at * o->ctx, o->ctx + 1, ids, err));
        else
            PARE_TRY(pare_batches_held_out(&r->batches, at, ids, err));
        memcpy(r->ids + i * o->ctx, ids, o->ctx * sizeof *ids);
        memcpy(r->targets + i * o->ctx, ids + 1, o->ctx * sizeof *ids);
    }
    pare_batch b = {r->ids, r->targets, r->lengths, n * o->ctx, n};
    /* ranks wait for each other: they stop together, after a step */
    if (pare_group_size() == 1) PARE_TRY(pare_check_cancel(r->rt, err));
    return pare_step_run(r->step, &b, false, 0, nll, err);
}

/* Of at most eval_windows; each rank computes some, and the sums are added in order. */
static pare_status evaluate(pare_train_run *r, double *loss, pare_error *err) {
    const pare_train_options *o = r->o;
    uint64_t all = o->val ? (r->val_tokens.n - 1) / o->ctx : r->batches.n_held_out;
    uint64_t count = all < o->eval_windows ? all : o->eval_windows;
    size_t parts = (size_t)((count + r->micro - 1) / r->micro), ranks = (size_t)pare_group_size();
    double sum = 0;
    *loss = NAN;
    if (r->pruner) PARE_TRY(pare_pruner_pre_forward(r->pruner, err));
    PARE_TRY(pare_train_leave_out(r, err));
    if (!count) return PARE_OK;
    double *nll = pare_calloc(parts, sizeof *nll);
    if (!nll) return pare_fail(err, PARE_ERR_NOMEM, "training: %zu held-out losses", parts);
    pare_status st = PARE_OK;
    for (size_t k = (size_t)pare_group_rank(); k < parts && st == PARE_OK; k += ranks) {
        uint64_t first = k * r->micro;
        size_t n = count - first < r->micro ? (size_t)(count - first) : r->micro;
        st = held_out_nll(r, first, n, count, all, &nll[k], err);
    }
    if (st == PARE_OK) pare_group_sum_f64(nll, parts);
    for (size_t k = 0; k < parts; k++) sum += nll[k];
    pare_free(nll);
    if (st == PARE_OK) *loss = sum / (double)(count * o->ctx);
    return st;
}

static size_t size_of(const pare_trained *t) {
    return t->dims[0] * (t->n_dims == 2 ? t->dims[1] : 1);
}

void pare_train_mask(const pare_train_run *r, size_t i, float *w) {
    const uint64_t *mask = r->pruner ? pare_pruner_mask(r->pruner, i) : NULL;
    if (mask) pare_mask_apply(r->rt, w, mask, size_of(&r->trained[i]));
}

/* The weights and their average change places. */
static void swap_average(pare_train_run *r) {
    float *e = r->ema;
    for (size_t i = 0; i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        for (size_t k = 0; k < t->rows * t->cols; k++, e++) {
            float w = t->w[k];
            t->w[k] = *e;
            *e = w;
        }
    }
    pare_train_weights_round(r->weights);
}

void pare_train_average(pare_train_run *r) {
    double t = (double)++r->state.n_averaged, d = r->o->ema;
    float *e = r->ema, part = (float)((1 - d) / (1 - pow(d, t))), rest = 1 - part;
    bool masked = r->pruner && !pare_pruner_is_straight_through(r->pruner);
    for (size_t i = 0, j = 0; i < r->weights->n; i++) {
        const pare_train_tensor *x = &r->weights->tensors[i];
        size_t n = x->rows * x->cols;
        for (size_t k = 0; k < n; k++) e[k] = rest * e[k] + part * x->w[k];
        if (x->grad && masked) pare_train_mask(r, j++, e);
        e += n;
    }
}

/* What is evaluated just now becomes the best. */
static void keep_best(pare_train_run *r) {
    float *to = r->best;
    for (size_t i = 0, k = 0; i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        memcpy(to, t->w, t->rows * t->cols * sizeof *to);
        if (t->grad) pare_train_mask(r, k++, to);
        to += t->rows * t->cols;
    }
}

pare_status pare_train_evaluate(pare_train_run *r, double *loss, pare_error *err) {
    pare_train_state *s = &r->state;
    if (r->ema) swap_average(r);
    pare_status st = evaluate(r, loss, err);
    if (st == PARE_OK) {
        s->val_loss = *loss;
        s->val_step = s->step;
    }
    if (st == PARE_OK && isfinite(*loss)) {
        double sparsity = pare_train_sparsity(r);
        bool sparser = sparsity > s->best_sparsity + 1e-6; /* what came before was another model */
        if (s->step == 0) {
            s->first_val_loss = *loss;
            s->first_sparsity = sparsity;
        }
        if (sparser || (!(s->best_val_loss <= *loss) && sparsity >= s->best_sparsity - 1e-6)) {
            s->best_sparsity = sparsity;
            s->best_val_loss = *loss;
            s->best_step = s->step;
            if (r->best) keep_best(r);
        }
    }
    if (r->ema) swap_average(r);
    return st;
}

pare_status pare_train_begin_copies(pare_train_run *r, pare_error *err) {
    for (size_t i = 0; i < r->weights->n; i++)
        r->n_values += r->weights->tensors[i].rows * r->weights->tensors[i].cols;
    if (r->o->ema > 0) r->ema = pare_big_alloc(r->n_values * sizeof *r->ema);
    if (r->o->keep_best) r->best = pare_big_alloc(r->n_values * sizeof *r->best);
    if ((r->o->ema > 0 && !r->ema) || (r->o->keep_best && !r->best))
        return pare_fail(err, PARE_ERR_NOMEM, "training: copies of %zu weights", r->n_values);
    float *e = r->ema;
    for (size_t i = 0; e && i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        memcpy(e, t->w, t->rows * t->cols * sizeof *e);
        e += t->rows * t->cols;
    }
    return PARE_OK;
}

/* ---- sparsity ---- */

double pare_train_sparsity(const pare_train_run *r) {
    size_t all = 0, kept = 0;
    for (size_t i = 0; r->pruner && i < r->n_trained; i++) {
        const uint64_t *mask = pare_pruner_mask(r->pruner, i);
        size_t n = size_of(&r->trained[i]);
        if (!mask) continue;
        all += n;
        kept += pare_mask_count(mask, n);
    }
    return all ? 1 - (double)kept / (double)all : 0;
}

pare_status pare_train_leave_out(pare_train_run *r, pare_error *err) {
    const pare_pruner *p = r->pruner;
    if (!p) return PARE_OK;
    bool sparse_gradient = !pare_pruner_needs_dense_gradient(p);
    for (size_t i = 0, k = 0; i < r->weights->n; i++) {
        if (!r->weights->tensors[i].grad) continue;
        PARE_TRY(pare_train_weights_mask(r->weights, i, pare_pruner_forward_mask(p, k),
                                         sparse_gradient ? pare_pruner_mask(p, k) : NULL, err));
        k++;
    }
    return PARE_OK;
}

typedef struct zero_job {
    const float *w;
    size_t n;
} zero_job;

static void count_zeros(void *arg, size_t begin, size_t end) {
    zero_job *j = arg;
    size_t n = 0;
    for (size_t i = begin; i < end; i++) n += j->w[i] == 0.0f;
    if (n) __atomic_fetch_add(&j->n, n, __ATOMIC_RELAXED);
}

/* Share of exact zeros among the weights of linear layers. */
static double zeros_of(const pare_train_run *r) {
    double all = 0, zeros = 0;
    for (size_t i = 0; i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        if (!t->linear) continue;
        zero_job j = {t->w, 0};
        pare_parallel_for(r->rt, t->rows * t->cols, 1 << 14, count_zeros, &j);
        zeros += (double)j.n;
        all += (double)t->rows * (double)t->cols;
    }
    return all > 0 ? zeros / all : 0;
}

/* ---- what is told ---- */

enum {
    PRUNED_PERCENT = 25 /* zeros that no rounding leaves: forms of 3 bits and more have less */
};

/* Bits of the linear layers' weights, one after the other: is it zero? Memory that is short costs
 * the warning, not the run. */
static void note_zeros(pare_train_run *r) {
    size_t words = 0;
    for (size_t i = 0; i < r->weights->n; i++)
        if (r->weights->tensors[i].linear)
            words += pare_bit_words(r->weights->tensors[i].rows * r->weights->tensors[i].cols);
    uint64_t *bits = r->was_zero = pare_calloc(words, sizeof *bits);
    for (size_t i = 0; bits && i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        size_t n = t->rows * t->cols;
        if (!t->linear) continue;
        for (size_t k = 0; k < n; k++) bits[k / 64] |= (uint64_t)(t->w[k] == 0.0f) << k % 64;
        bits += pare_bit_words(n);
    }
}

void pare_train_tell_begin(pare_train_run *r) {
    if (!r->o->from || r->o->adapter) return;
    r->zeros_before = zeros_of(r);
    if (r->o->sparsity && 100 * r->zeros_before >= PRUNED_PERCENT) note_zeros(r);
    if (!r->o->sparsity && 100 * r->zeros_before >= PRUNED_PERCENT)
        pare_warn(r->rt,
                  "%s: %.1f%% of the weights of linear layers are zero and will not stay so: "
                  "sparsity keep_zeros keeps them",
                  r->o->from, 100 * r->zeros_before);
}

/* Share of the zeros there were that are none in the model that is written. */
static double lost_zeros(const pare_train_run *r) {
    const uint64_t *bits = r->was_zero;
    size_t zeros = 0, lost = 0;
    for (size_t i = 0, k = 0; bits && i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        const uint64_t *mask = t->grad && r->pruner ? pare_pruner_mask(r->pruner, k) : NULL;
        size_t n = t->rows * t->cols;
        k += t->grad != NULL;
        if (!t->linear) continue;
        for (size_t j = 0; j < n; j++) {
            bool was = bits[j / 64] >> j % 64 & 1, kept = !mask || (mask[j / 64] >> j % 64 & 1);
            zeros += was;
            lost += was && kept && t->w[j] != 0.0f;
        }
        bits += pare_bit_words(n);
    }
    return zeros ? (double)lost / (double)zeros : 0;
}

/* Told at the end where there is a pruner: which zeros it keeps shows in the weights only. */
static void tell_lost_zeros(const pare_train_run *r) {
    double lost = r->pruner ? lost_zeros(r) : 0;
    if (lost > 0.01)
        pare_warn(r->rt,
                  "%s: %.1f%% of the weights of linear layers were zero, %.1f%% of these are not "
                  "now: sparsity keep_zeros keeps them",
                  r->o->from, 100 * r->zeros_before, 100 * lost);
}

/* A schedule that ends after the training, or with its last step. */
static bool tell_missed_sparsity(const pare_train_run *r) {
    double wanted = 0, all = 0, has = pare_train_sparsity(r);
    for (size_t i = 0; r->pruner && i < r->n_trained; i++) {
        const pare_trained *t = &r->trained[i];
        double n = (double)size_of(t);
        double target = pare_pruner_target(r->pruner, i);
        if (isnan(target)) continue;
        wanted += n * target;
        all += n;
    }
    bool missed = all > 0 && has < wanted / all - 0.005;
    if (missed)
        pare_warn(r->rt, "sparsity: found %.4f at the end, expected %.4f", has, wanted / all);
    return missed;
}

bool pare_train_tell_end(const pare_train_run *r) {
    const pare_train_state *s = &r->state;
    bool missed = tell_missed_sparsity(r);
    tell_lost_zeros(r);
    bool sparser = s->sparsity > s->first_sparsity + 1e-6; /* it pays for that */
    if (s->val_loss > s->first_val_loss && !sparser && !r->best)
        pare_warn(r->rt,
                  "held out: found a loss of %.4f at the end, %.4f before the first step: the "
                  "training made it worse",
                  s->val_loss, s->first_val_loss);
    return missed;
}
