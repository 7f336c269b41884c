#include "train/prefix_loss.h"

#include "base/memory.h"

#include <string.h>

struct pare_prefix_loss {
    pare_prefix_loss_options o;
    pare_step *step;
    size_t dim, width;     /* values of a token that X has in a block */
    int32_t *targets;      /* [n_texts][n] */
    size_t *lengths;       /* [n_texts] */
    size_t n_texts;        /* of the batch at work */
    pare_act_range *range; /* [n_texts * n] of a row */
    double *sums;          /* [n_texts * n] errors of a row */
    double error;          /* L_q of the batch, the mean over its texts */
};

/* --- the error of a tensor, and its gradient --- */

typedef struct error_record {
    pare_record record;
    float *dx;         /* shadow of x */
    const float *pull; /* [n][in] its gradient */
    size_t ldx, n, in;
} error_record;

static void error_backward(pare_fwd *f, pare_record *record) {
    const error_record *r = (const error_record *)record;
    size_t begin, end;
    pare_share(f->w, r->n, 1, &begin, &end);
    for (size_t i = begin; i < end && r->dx; i++)
        for (size_t j = 0; j < r->in; j++) r->dx[i * r->ldx + j] += r->pull[i * r->in + j];
    pare_barrier(f->w);
}

/* The grid of row i: of its text's rows, or its own. */
static pare_act_grid grid_of(const pare_prefix_loss *l, size_t i) {
    if (l->o.scheme.granularity == PARE_ACT_PER_TOKEN)
        return pare_act_grid_of(&l->o.scheme, l->range[i]);
    pare_act_range all = pare_act_range_none;
    for (size_t k = i / l->o.n * l->o.n, left = l->o.n; left > 0; left--)
        all = pare_act_range_join(all, l->range[k++]);
    return pare_act_grid_of(&l->o.scheme, all);
}

/* off[in] = x - q(x); the sum of its squares. */
static double error_of_row(const pare_prefix_loss *l, const pare_act_grid *grid, pare_isa isa,
                           float *off, const float *x, size_t in) {
    double sum = 0;
    pare_act_quantize_rows(&l->o.scheme, grid, isa, off, in, x, in, 1, in);
    for (size_t j = 0; j < in; j++) {
        off[j] = x[j] - off[j];
        sum += (double)off[j] * (double)off[j];
    }
    return sum;
}

/* Adds the error of x[n][ldx] to L_q, and what it does to x to the tape. */
static void add_error(pare_fwd *f, pare_prefix_loss *l, const float *x, size_t ldx, size_t n,
                      size_t in) {
    pare_fwd_marks mark = pare_fwd_mark(f);
    float *off =
        pare_fwd_alloc(f, n * in, sizeof *off); /* a plan is for passes without a tape too */
    error_record *r = f->tape ? pare_tape_push(f, sizeof *r, error_backward) : NULL;
    if (f->tape) off = pare_tape_save(f, n * in, sizeof *off);
    if (pare_fwd_planning(f)) {
        pare_fwd_release(f, mark);
        l->width += in;
        return;
    }
    const double part =
        1.0 / (double)l->n_texts / (l->o.mean ? (double)l->o.n * (double)l->width : 1.0);
    const float slope = (float)(2 * l->o.lambda * part);
    size_t begin, end;
    pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        l->range[i] = pare_act_range_of(f->isa, x + i * ldx, ldx, 1, in);
    pare_barrier(f->w);
    pare_act_grid grid = {0};
    for (size_t i = begin; i < end; i++) {
        float *row = off + i * in;
        if (i == begin || i % l->o.n == 0 || l->o.scheme.granularity == PARE_ACT_PER_TOKEN)
            grid = grid_of(l, i);
        l->sums[i] = error_of_row(l, &grid, f->isa, row, x + i * ldx, in);
        for (size_t j = 0; j < in && r; j++) row[j] *= slope;
    }
    pare_barrier(f->w);
    if (f->w->id == 0) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += l->sums[i];
        l->error += part * sum;
        if (r) {
            r->dx = pare_tape_shadow(f, x);
            r->pull = off;
            r->ldx = ldx;
            r->n = n;
            r->in = in;
        }
    }
    pare_fwd_release(f, mark);
    pare_barrier(f->w); /* ranges and sums are free again */
}

static void see_output(void *arg, pare_fwd *f, size_t layer, float *h, size_t n) {
    pare_prefix_loss *l = arg;
    (void)layer;
    add_error(f, l, h, l->dim, n, l->dim);
}

static bool see_input(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                      const float *x, size_t ldx, size_t n, size_t in) {
    (void)outs, (void)n_outs;
    add_error(f, arg, x, ldx, n, in);
    return true;
}

/* --- the loss --- */

static pare_status allocate(pare_prefix_loss *l, pare_train_weights *weights, pare_error *err) {
    const size_t rows = l->o.n * l->o.n_texts;
    l->dim = weights->model->config.dim;
    l->targets = pare_calloc(rows, sizeof *l->targets);
    l->lengths = pare_calloc(l->o.n_texts, sizeof *l->lengths);
    l->range = pare_calloc(rows, sizeof *l->range);
    l->sums = pare_calloc(rows, sizeof *l->sums);
    if (!l->targets || !l->lengths || !l->range || !l->sums)
        return pare_fail(err, PARE_ERR_NOMEM, "tuning: out of memory");
    for (size_t i = 0; i < l->o.n_texts; i++) l->lengths[i] = l->o.n;
    const pare_step_options so = {.n_tokens = rows,
                                  .n_spans = l->o.n_texts,
                                  .compute = l->o.compute,
                                  .on_output = l->o.outputs ? see_output : NULL,
                                  .on_output_arg = l,
                                  .probe = l->o.inputs ? see_input : NULL,
                                  .probe_arg = l};
    PARE_TRY(pare_step_create(&l->step, weights, &so, err));
    l->width /= weights->model->config.n_layers; /* all are alike */
    return PARE_OK;
}

pare_status pare_prefix_loss_create(pare_prefix_loss **out, pare_train_weights *weights,
                                    const pare_prefix_loss_options *o, pare_error *err) {
    *out = NULL;
    if (o->n < 2 || !o->n_texts)
        return pare_fail(err, PARE_ERR_ARG,
                         "tuning: found %zu texts of %zu tokens, expected texts of 2 and more",
                         o->n_texts, o->n);
    pare_prefix_loss *l = pare_calloc(1, sizeof *l);
    if (!l) return pare_fail(err, PARE_ERR_NOMEM, "tuning: out of memory");
    l->o = *o;
    pare_status st = allocate(l, weights, err);
    if (st == PARE_OK)
        *out = l;
    else
        pare_prefix_loss_free(l);
    return st;
}

void pare_prefix_loss_free(pare_prefix_loss *l) {
    if (!l) return;
    pare_step_free(l->step);
    pare_free(l->targets);
    pare_free(l->lengths);
    pare_free(l->range);
    pare_free(l->sums);
    pare_free(l);
}

size_t pare_prefix_loss_bytes(const pare_prefix_loss *l) { return pare_step_bytes(l->step); }

pare_status pare_prefix_loss_run(pare_prefix_loss *l, const int32_t *ids, size_t n_texts,
                                 bool gradient, pare_prefix_losses *out, pare_error *err) {
    const size_t n = l->o.n, counted = n_texts * (n - 1);
    if (!n_texts || n_texts > l->o.n_texts)
        return pare_fail(err, PARE_ERR_ARG, "tuning: found %zu texts, expected 1 to at most %zu",
                         n_texts, l->o.n_texts);
    for (size_t t = 0; t < n_texts; t++) {
        memcpy(l->targets + t * n, ids + t * n + 1, (n - 1) * sizeof *ids);
        l->targets[t * n + n - 1] = -1;
    }
    const pare_batch batch = {.ids = ids,
                              .targets = l->targets,
                              .lengths = l->lengths,
                              .n_tokens = n_texts * n,
                              .n_spans = n_texts};
    double nll;
    l->n_texts = n_texts;
    l->error = 0;
    PARE_TRY(pare_step_run(l->step, &batch, gradient, 1.0f / (float)counted, &nll, err));
    *out = (pare_prefix_losses){.pred = nll / (double)counted, .error = l->error};
    return PARE_OK;
}
