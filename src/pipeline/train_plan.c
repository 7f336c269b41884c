/* pare_train_estimate: what a run takes. Everything is opened as a run opens it, in a work folder
 * of its own, so that sizes are those of the arrays themselves: large ones have no pages before
 * they are written to (base/memory.h), so this much needs little more than the weights. Two steps
 * and an evaluation are then measured, where the machine has the memory. */
#include "pipeline/train_run.h"

#include "base/memory.h"
#include "base/os.h"
#include "methods/pruner.h"

#include <math.h>
#include <string.h>

static uint64_t n_of(const pare_train_tensor *t) { return (uint64_t)t->rows * t->cols; }

static void add_weights(pare_train_plan *p, const pare_train_run *r) {
    const pare_train_weights *w = r->weights;
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        p->n_params += n_of(t);
        p->weights_bytes += n_of(t) * sizeof(float);
        if (t->grad) p->gradients_bytes += n_of(t) * sizeof(float);
        if (t->half) p->copies_bytes += n_of(t) * sizeof *t->half;
    }
    if (r->adapter.method) p->weights_bytes += pare_model_weight_bytes(w->model);
    p->copies_bytes += w->forward_bytes;
    p->copies_bytes += ((r->ema != NULL) + (r->best != NULL)) * r->n_values * sizeof(float);
    if (r->sums.total) p->gradients_bytes += r->sums.n_total * sizeof(float);
}

static void add_optimizer(pare_train_plan *p, const pare_train_run *r) {
    pare_optim_array a;
    for (size_t i = 0; pare_optim_array_at(r->optim, i, &a); i++)
        p->optimizer_bytes += a.n * sizeof *a.data;
    if (r->hessian) p->optimizer_bytes += pare_hessian_bytes(r->hessian);
    uint64_t most = 0; /* scores of a tensor */
    for (size_t i = 0; r->pruner && i < r->n_trained; i++) {
        const pare_pruned *t = &r->pruner->tensors[i];
        if (t->bits && t->n * sizeof(float) > most) most = t->n * sizeof(float);
    }
    if (r->pruner) p->masks_bytes = pare_pruner_state_bytes(r->pruner) + most;
}

static void add_disk(pare_train_plan *p, const pare_train_run *r) {
    uint64_t wanted = pare_train_disk(r, &p->checkpoint_bytes, &p->model_bytes);
    p->tokens_bytes = r->tokens.file.size + (r->o->val ? r->val_tokens.file.size : 0);
    p->disk_bytes = wanted + p->tokens_bytes + (r->o->from ? 0 : p->model_bytes);
}

static void fill_plan(pare_train_plan *p, const pare_train_run *r) {
    const pare_train_options *o = r->o;
    add_weights(p, r);
    add_optimizer(p, r);
    p->passes_bytes = pare_step_bytes(r->step);
    p->tokenizer_bytes = r->tokenizer_bytes;
    if (r->teacher) p->teacher_bytes = pare_model_weight_bytes(r->teacher);
    p->memory_bytes = p->weights_bytes + p->gradients_bytes + p->optimizer_bytes + p->masks_bytes +
                      p->copies_bytes + p->passes_bytes + p->teacher_bytes + p->tokenizer_bytes;
    add_disk(p, r);
    p->tokens_per_step = (uint64_t)o->batch * o->ctx;
    p->text_tokens = r->batches.n_train * o->ctx;
    p->flop_per_step = r->flop_per_token * (double)p->tokens_per_step;
}

/* The first step warms up. */
static pare_status measure(pare_train_plan *p, pare_train_run *r, pare_error *err) {
    enum { STEPS = 3 };
    const pare_train_options *o = r->o;
    double loss, start = pare_now_s(), all = 0;
    PARE_TRY(pare_train_evaluate(r, &loss, err));
    p->eval_seconds = isnan(loss) ? 0 : pare_now_s() - start;
    for (int i = 0; i < STEPS; i++) {
        PARE_TRY(pare_check_cancel(r->rt, err));
        start = pare_now_s();
        PARE_TRY(pare_train_step(r, err));
        if (i > 0) all += pare_now_s() - start;
    }
    p->step_seconds = all / (STEPS - 1);
    double evaluations = 2 + (o->eval_every ? (double)((o->steps - 1) / o->eval_every) : 0);
    p->planned_seconds = (double)o->steps * p->step_seconds + evaluations * p->eval_seconds;
    return PARE_OK;
}

pare_status pare_train_estimate(pare_train_plan *out, pare_runtime *rt, const pare_train_options *o,
                                pare_error *err) {
    *out = (pare_train_plan){.step_seconds = NAN, .eval_seconds = NAN, .planned_seconds = NAN};
    PARE_TRY(pare_train_check_options(o, err));
    PARE_TRY(pare_folder_check(o->out, err));
    pare_train_options own = *o;
    pare_train_run *r = pare_calloc(1, sizeof *r);
    size_t n = strlen(o->out);
    while (n > 1 && o->out[n - 1] == '/') n--;
    char *name = pare_asprintf("%.*s.plan", (int)n, o->out); /* a run's own folder stays as it is */
    if (!r || !name) {
        pare_free(r);
        pare_free(name);
        return pare_fail(err, PARE_ERR_NOMEM, "training: out of memory");
    }
    own.out = name;
    own.restart = true;
    own.resume = false;
    r->rt = rt;
    r->o = &own;
    r->planned = o;
    r->tokens.file.fd = r->val_tokens.file.fd = -1;
    pare_status st = pare_train_open(r, err);
    if (st == PARE_OK) {
        fill_plan(out, r);
        size_t there = pare_available_bytes();
        if (!there || out->memory_bytes <= there) st = measure(out, r, err);
    }
    pare_train_close(r, true);
    pare_free(r);
    pare_free(name);
    return st;
}
