/* pare_train: the loop over steps, checkpoints, and the model at the end.
 *
 * Everything that a step does follows from the options and its number, so a checkpoint holds the
 * weights, the optimizer's and the pruner's arrays and a few numbers, and a run that goes on ends
 * with the same bytes. */
#include "pipeline/train_run.h"

#include "base/group.h"
#include "base/memory.h"
#include "methods/optimizer.h"

#include <math.h>
#include <string.h>

enum {
    NOT_FINITE_MAX = 10, /* steps in a row whose gradient is not finite: then the run ends */
    SAVE_SECONDS = 300   /* between checkpoints, at most: so much work can be lost */
};

/* ---- a step ---- */

static double norm_of(const pare_train_run *r) { return pare_train_grad_norm(r->weights); }

/* Loss and gradient of micro-batch j of the step. */
static pare_status micro_gradient(pare_train_run *r, size_t j, pare_error *err) {
    const pare_train_options *o = r->o;
    size_t first = j * r->micro, n = o->batch - first < r->micro ? o->batch - first : r->micro;
    for (size_t i = 0; i < n; i++) {
        PARE_TRY(
            pare_batches_train(&r->batches, r->state.step * o->batch + first + i, r->window, err));
        memcpy(r->ids + i * o->ctx, r->window, o->ctx * sizeof *r->ids);
        memcpy(r->targets + i * o->ctx, r->window + 1, o->ctx * sizeof *r->ids);
    }
    pare_batch b = {r->ids, r->targets, r->lengths, n * o->ctx, n};
    return pare_step_run(r->step, &b, true, 1.0f / (float)(o->batch * o->ctx), &r->nll[j], err);
}

/* Loss and gradient of a step's sequences. */
static pare_status gradient_of(pare_train_run *r, double *loss, pare_error *err) {
    const pare_train_options *o = r->o;
    size_t ranks = (size_t)pare_group_size();
    double sum = 0;
    memset(r->nll, 0, r->n_micro * sizeof *r->nll);
    for (size_t j = (size_t)pare_group_rank(); j < r->n_micro; j += ranks) {
        bool first = j < ranks, last = j + ranks >= r->n_micro;
        if (first || r->sums.in_order) pare_train_weights_clear(r->weights);
        bool overlap = last && ranks > 1 && !r->sums.in_order;
        pare_step_on_layer(r->step, overlap ? pare_gradients_layer_done : NULL, &r->sums);
        PARE_TRY(micro_gradient(r, j, err));
        if (r->sums.in_order) pare_gradients_add(&r->sums);
    }
    pare_gradients_finish(&r->sums);
    pare_group_sum_f64(r->nll, r->n_micro); /* of each, one rank has what is not 0 */
    for (size_t j = 0; j < r->n_micro; j++) sum += r->nll[j];
    *loss = sum / (double)(o->batch * o->ctx);
    r->done_flop += (1 - r->left_out) * r->flop_per_token / r->passes * (double)(o->batch * o->ctx);
    return PARE_OK;
}

/* The estimate of the Hessian's diagonal at the step's weights and sequences. *finite: whether all
 * gradients were; if not, a tensor's still stands there. */
static pare_status curvature_of(pare_train_run *r, bool *finite, double *loss, pare_error *err) {
    for (size_t i = 0; i < r->n_trained; i++)
        r->masks[i] = r->pruner ? pare_pruner_mask(r->pruner, i) : NULL;
    pare_hessian_begin(r->hessian, pare_runtime_seed(r->rt), r->state.step, r->masks);
    pare_status st = PARE_OK;
    *finite = true;
    for (int k = 1; k < r->passes && st == PARE_OK && *finite; k++) {
        int sign = k % 2 ? 1 : -1; /* on both sides, sample after sample */
        pare_hessian_move(r->hessian, sign);
        st = gradient_of(r, loss, err);
        *finite = isfinite(*loss) && isfinite(norm_of(r));
        pare_hessian_take(r->hessian, sign);
    }
    pare_hessian_move(r->hessian, 0);
    return st;
}

/* The first tensor whose gradient is not finite. */
static const char *bad_gradient(const pare_train_run *r) {
    for (size_t i = 0; i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        for (size_t j = 0; t->grad && !t->fresh && j < t->rows * t->cols; j++)
            if (!isfinite(t->grad[j])) return t->name;
    }
    return "the loss";
}

static pare_status skip_step(pare_train_run *r, double loss, pare_error *err) {
    pare_train_state *s = &r->state;
    const char *where = bad_gradient(r);
    s->n_skipped++;
    s->skipped_in_a_row++;
    if (s->skipped_in_a_row >= NOT_FINITE_MAX)
        return pare_fail(err, PARE_ERR_INPUT,
                         "training: step %llu: %s: found a gradient that is not finite %d times in "
                         "a row (loss %g): a lower learning rate may help; the last checkpoint is "
                         "kept",
                         (unsigned long long)s->step + 1, where, NOT_FINITE_MAX, loss);
    pare_warn(r->rt, "step %llu is left out: %s: found a gradient that is not finite",
              (unsigned long long)s->step + 1, where);
    s->step++;
    return PARE_OK;
}

pare_status pare_train_step(pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    pare_train_state *s = &r->state;
    double loss = NAN;
    bool finite = true;
    if (r->pruner) PARE_TRY(pare_pruner_pre_forward(r->pruner, err));
    PARE_TRY(pare_train_leave_out(r, err));
    r->left_out = r->passes * pare_train_weights_left_out(r->weights) / r->flop_per_token;
    bool curved = r->hessian && pare_optim_needs_hessian(r->optim); /* in this step */
    if (curved) PARE_TRY(curvature_of(r, &finite, &loss, err));
    if (finite) PARE_TRY(gradient_of(r, &loss, err));
    double norm = norm_of(r);
    s->loss = loss;
    s->grad_norm = norm;
    s->lr = pare_optim_lr(r->optim) * pare_train_rate(o, s->step);
    if (!isfinite(loss) || !isfinite(norm)) return skip_step(r, loss, err);
    s->skipped_in_a_row = 0;
    pare_optim_args args = pare_optim_args_default();
    args.g = r->grads;
    if (curved) args.hessian = pare_hessian_values(r->hessian);
    args.lr = s->lr;
    if (o->clip > 0 && norm > o->clip) args.g_scale = o->clip / (norm + 1e-6);
    pare_stepper stepper = pare_optim_stepper(r->optim);
    PARE_TRY(r->pruner ? pare_pruner_update(r->pruner, &stepper, &args, err)
                       : pare_optim_step(r->optim, &args, err));
    if (r->ema) pare_train_average(r);
    s->step++;
    return PARE_OK;
}

/* ---- the loop ---- */

static bool is_due(uint64_t step, uint64_t every) { return every && step % every == 0; }

/* What the lines' rates are counted from; evaluations and checkpoints are left out. */
typedef struct clock_state {
    double seconds, flop;
    uint64_t steps;
    double saved_s; /* when the last checkpoint was written */
} clock_state;

/* stored: a line that an unbroken run has too. */
static pare_status log_line(pare_train_run *r, clock_state *c, double val_loss, bool stored,
                            pare_error *err) {
    const pare_train_options *o = r->o;
    pare_train_state *s = &r->state;
    bool first = s->step == 0;
    s->sparsity = pare_train_sparsity(r);
    pare_train_line line = {.step = s->step,
                            .loss = first ? NAN : s->loss,
                            .lr = first ? NAN : s->lr,
                            .grad_norm = first ? NAN : s->grad_norm,
                            .sparsity = s->sparsity,
                            .left_out = r->left_out,
                            .val_loss = val_loss};
    if (c->seconds > 0) {
        line.tokens_per_s = (double)(c->steps * o->batch * o->ctx) / c->seconds;
        line.flop_per_s = c->flop / c->seconds;
    }
    if (stored) PARE_TRY(pare_train_log_add(r, &line, err));
    if (o->on_line) o->on_line(o->arg, &line);
    c->seconds = c->flop = 0;
    c->steps = 0;
    return PARE_OK;
}

/* What the model is worth as it is: a line of the log like any other. */
static pare_status before_the_first(pare_train_run *r, clock_state *c, pare_error *err) {
    double val_loss;
    PARE_TRY(pare_train_evaluate(r, &val_loss, err));
    return isfinite(val_loss) ? log_line(r, c, val_loss, true, err) : PARE_OK;
}

static pare_status timed_step(pare_train_run *r, clock_state *c, pare_error *err) {
    double start = pare_now_s(), flop = r->done_flop;
    PARE_TRY(pare_train_step(r, err));
    c->seconds += pare_now_s() - start;
    c->flop += r->done_flop - flop;
    c->steps++;
    r->state.to_tell = true;
    return PARE_OK;
}

/* Evaluates where that is due, and tells the step's line. Interrupted, it is done when the run goes
 * on. */
static pare_status tell_step(pare_train_run *r, clock_state *c, uint64_t end, pare_error *err) {
    const pare_train_options *o = r->o;
    uint64_t step = r->state.step;
    double val_loss = NAN;
    bool last = step == end, evaluates = is_due(step, o->eval_every) || step == o->steps;
    if (evaluates) PARE_TRY(pare_train_evaluate(r, &val_loss, err));
    bool stored = is_due(step, o->log_every) || step == o->steps || isfinite(val_loss);
    r->state.to_tell = false;
    return stored || last ? log_line(r, c, val_loss, stored, err) : PARE_OK;
}

static pare_status save(pare_train_run *r, clock_state *c, pare_error *err) {
    c->saved_s = pare_now_s();
    return pare_train_save(r, err);
}

/* An interrupt saves what is done. */
static pare_status interrupted(pare_train_run *r, pare_error *err) {
    PARE_TRY(pare_train_save(r, err));
    return pare_fail(err, PARE_ERR_INTERRUPTED,
                     "after step %llu: the same command goes on from there",
                     (unsigned long long)r->state.step);
}

/* The same on all ranks. */
static void ask_ranks(const pare_train_run *r, const clock_state *c, bool *stop, bool *late) {
    enum { LATE = 1, STOP };
    int wish = pare_check_cancel(r->rt, NULL) != PARE_OK   ? STOP
               : pare_now_s() - c->saved_s >= SAVE_SECONDS ? LATE
                                                           : 0;
    wish = pare_group_max(wish);
    *stop = wish == STOP;
    *late = wish == LATE;
}

static pare_status run_steps(pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    uint64_t end = o->stop_at && o->stop_at < o->steps ? o->stop_at : o->steps;
    clock_state clock = {.saved_s = pare_now_s()};
    while (r->state.step < end || r->state.to_tell) {
        bool stop, late;
        ask_ranks(r, &clock, &stop, &late);
        if (stop) return interrupted(r, err);
        if (r->state.step == 0) PARE_TRY(before_the_first(r, &clock, err));
        if (!r->state.to_tell) PARE_TRY(timed_step(r, &clock, err));
        uint64_t step = r->state.step;
        pare_progress(r->rt, "train", (double)step, (double)o->steps, "steps");
        /* before the last evaluation, which a longer run does not have */
        if (step == o->steps && !r->state.skipped_in_a_row) PARE_TRY(save(r, &clock, err));
        pare_status st = tell_step(r, &clock, end, err);
        if (st == PARE_ERR_INTERRUPTED) return interrupted(r, err);
        PARE_TRY(st);
        bool trunk = o->keep_work && step == pare_train_trunk(o);
        if ((is_due(step, o->save_every) || late || trunk || step == end) &&
            !r->state.skipped_in_a_row)
            PARE_TRY(save(r, &clock, err));
    }
    return PARE_OK;
}

/* A model that nobody can have wanted is not written (N26). */
static pare_status check_end(const pare_train_run *r, pare_error *err) {
    const pare_train_state *s = &r->state;
    const char *bad = pare_train_weights_not_finite(r->weights);
    if (bad)
        return pare_fail(err, PARE_ERR_INPUT,
                         "training: %s: found NaN or infinity at the end, expected finite weights",
                         bad);
    bool best = r->best && isfinite(s->best_val_loss);
    if (!isfinite(s->first_val_loss) || isfinite(s->val_loss) || best) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "training: held out: found a loss of %g at the end, %.4f before the first "
                     "step: the model is not written",
                     s->val_loss, s->first_val_loss);
}

static void fill_report(pare_train_report *out, const pare_train_run *r, double started,
                        uint64_t first_step) {
    const pare_train_options *o = r->o;
    const pare_train_state *s = &r->state;
    double seconds = pare_now_s() - started;
    uint64_t per_step = (uint64_t)o->batch * o->ctx;
    bool best = o->keep_best && s->step >= o->steps;
    double written = best ? s->best_val_loss : s->val_loss; /* of the weights that are written */
    *out = (pare_train_report){.steps = s->step,
                               .tokens = s->step * per_step,
                               .loss = s->loss,
                               .val_loss = written,
                               .val_ppl = exp(written),
                               .val_step = best ? s->best_step : s->val_step,
                               .best_val_loss = s->best_val_loss,
                               .first_val_loss = s->first_val_loss,
                               .sparsity = best ? s->best_sparsity : s->sparsity,
                               .seconds = seconds,
                               .finished = s->step >= o->steps,
                               .n_skipped = s->n_skipped,
                               .peak_rss_bytes = pare_peak_rss_bytes()};
    double all = (double)((s->step - first_step) * per_step);
    if (seconds > 0) {
        out->tokens_per_s = all / seconds;
        out->flop_per_s = r->done_flop / seconds;
    }
    if (all > 0) out->left_out = 1 - r->done_flop / (all * r->flop_per_token);
    for (size_t i = 0; i < r->weights->n; i++)
        out->n_params += (uint64_t)r->weights->tensors[i].rows * r->weights->tensors[i].cols;
}

pare_status pare_train(pare_train_report *out, pare_runtime *rt, const pare_train_options *o,
                       pare_error *err) {
    *out = (pare_train_report){0};
    PARE_TRY(pare_train_check_options(o, err));
    pare_train_run *r = pare_calloc(1, sizeof *r);
    if (!r) return pare_fail(err, PARE_ERR_NOMEM, "training: out of memory");
    r->rt = rt;
    r->o = o;
    r->tokens.file.fd = r->val_tokens.file.fd = -1;
    pare_status st = pare_train_open(r, err);
    /* refused before anything was computed: nothing stands in the way of a corrected command */
    bool nothing = st != PARE_OK && st != PARE_ERR_INTERRUPTED && r->work &&
                   !pare_work_kept(r->work, "checkpoint");
    double started = pare_now_s();
    uint64_t first_step = r->state.step;
    if (st == PARE_OK) st = run_steps(r, err);
    if (st == PARE_OK && r->state.step >= o->steps) st = check_end(r, err);
    if (st == PARE_OK) {
        fill_report(out, r, started, first_step);
        if (out->finished) out->missed_sparsity = pare_train_tell_end(r);
        if (out->finished && pare_group_rank() == 0) st = pare_train_write_model(r, err);
    }
    pare_train_close(r, nothing || (st == PARE_OK && out->finished && !o->keep_work));
    pare_free(r);
    return st;
}
