/* Steps that tune all matrices of a block together against the block's output (SignRound): the
 * student runs on the states that the compressed blocks before it made, the targets are what the
 * dense blocks make of the dense states. */
#include "pipeline/compress_run.h"

#include "base/memory.h"
#include "base/os.h"
#include "train/block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tuning {
    compress_run *c;
    pare_calibration *cal;
    size_t unit, step;
    pare_block_trainer *trainer;
    pare_file from; /* hidden states before the block */
    const pare_spill *targets;
    size_t n;        /* matrices */
    size_t *members; /* [n] places in the block */
    pare_weight_job *jobs;
    pare_linear **linears;
    pare_tensor *before; /* what the linears held */
    pare_leaf *leaves;
    bool *fresh;
} tuning;

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "compress: out of memory for tuning");
}

static bool step_takes(const compress_run *c, size_t step, const tensor_plan *p) {
    return p->n_methods &&
           pare_step_takes(&c->recipe->steps[step], p->t->canonical, p->n_dims, c->tied);
}

/* Everything that a step may have changed stands in the model as the steps before this one left it.
 */
static pare_status hold_block(tuning *t, const size_t *plans, tensor_state *states, size_t n,
                              pare_error *err) {
    for (size_t k = 0; k < n; k++) {
        const tensor_plan *p = &t->c->plans[plans[k]];
        if (!p->n_methods && !p->feeds) continue;
        const pare_input_stats *x =
            p->feeds ? NULL : pare_calibration_inputs(t->cal, p->t->canonical);
        PARE_TRY(compress_hold(t->c, plans[k], &states[k], t->step, x, err));
        pare_tensor held =
            pare_tensor_wrap(pare_encoding_find("f32"), states[k].w, p->rows, p->cols);
        pare_calibration_replace(t->cal, t->unit, p->t->canonical, &held);
    }
    return PARE_OK;
}

static pare_status list_members(tuning *t, const size_t *plans, tensor_state *states, size_t n,
                                pare_error *err) {
    const pare_step *step = &t->c->recipe->steps[t->step];
    pare_model *m = pare_calibration_model(t->cal);
    for (size_t k = 0; k < n; k++) {
        const tensor_plan *p = &t->c->plans[plans[k]];
        pare_linear *linear =
            step_takes(t->c, t->step, p) ? pare_model_linear(m, t->unit, p->t->canonical) : NULL;
        if (!linear) continue;
        const pare_encoding *enc = step->method->encoding(step->options);
        size_t scales = p->rows * pare_grid_groups(enc->grid, p->cols);
        tensor_state *s = &states[k];
        s->scale = pare_calloc(scales, sizeof *s->scale);
        s->zero = pare_calloc(scales, 1);
        if (!s->scale || !s->zero) return fail_memory(err);
        s->n_scales = scales;
        t->members[t->n] = k;
        t->linears[t->n] = linear;
        t->before[t->n] = linear->w;
        t->jobs[t->n++] = (pare_weight_job){.rt = t->c->rt,
                                            .name = p->t->canonical,
                                            .stream = plans[k],
                                            .w = s->w,
                                            .rows = p->rows,
                                            .cols = p->cols,
                                            .keep_zeros = s->pruned,
                                            .enc = enc,
                                            .scale = s->scale,
                                            .zero = s->zero};
    }
    return PARE_OK;
}

static int by_key(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)((const pare_leaf *)a)->key,
              y = (uintptr_t)((const pare_leaf *)b)->key;
    return x < y ? -1 : x > y;
}

static pare_status block_loss(void *arg, const size_t *sequences, size_t n_sequences,
                              const float *const *w, float *const *g, double *loss,
                              pare_error *err) {
    tuning *t = arg;
    size_t values = pare_calibration_ctx(t->cal) * pare_calibration_model(t->cal)->config.dim;
    float *x = pare_block_trainer_x(t->trainer), *y = pare_block_trainer_y(t->trainer);
    PARE_TRY(pare_check_cancel(t->c->rt, err));
    for (size_t i = 0; i < n_sequences; i++) {
        PARE_TRY(pare_calibration_read(t->cal, &t->from, sequences[i], x + i * values, err));
        memcpy(y + i * values, t->targets->data + sequences[i] * values, values * sizeof *y);
        pare_spill_rest(t->targets, sequences[i] * values, values);
    }
    for (size_t i = 0; i < t->n; i++) {
        const pare_weight_job *j = &t->jobs[i];
        t->linears[i]->w = pare_tensor_wrap(pare_encoding_find("f32"), w[i], j->rows, j->cols);
        t->fresh[i] = true;
        if (g)
            t->leaves[i] = (pare_leaf){
                .key = w[i], .grad = g[i], .fresh = &t->fresh[i], .rows = j->rows, .cols = j->cols};
    }
    if (g) qsort(t->leaves, t->n, sizeof *t->leaves, by_key);
    pare_block_trainer_loss(t->trainer, n_sequences, t->leaves, g ? t->n : 0, loss);
    return PARE_OK;
}

static pare_status tune(tuning *t, const char *from, pare_error *err) {
    const pare_step *step = &t->c->recipe->steps[t->step];
    size_t n = pare_calibration_sequences(t->cal), batch = step->method->batch(step->options);
    char name[32];
    snprintf(name, sizeof name, "blk.%zu", t->unit);
    PARE_TRY(pare_file_open(&t->from, from, err));
    PARE_TRY(pare_block_trainer_create(&t->trainer, pare_calibration_model(t->cal), t->unit,
                                       batch < n ? batch : n, pare_calibration_ctx(t->cal),
                                       pare_calibration_compute(t->cal), err));
    pare_tune_job job = {.rt = t->c->rt,
                         .name = name,
                         .stream = t->unit,
                         .n = t->n,
                         .weights = t->jobs,
                         .n_sequences = n,
                         .loss = block_loss,
                         .arg = t};
    pare_status st = step->method->tune(&job, step->options, err);
    for (size_t i = 0; i < t->n; i++) t->linears[i]->w = t->before[i];
    return st;
}

pare_status compress_tune_block(compress_run *c, pare_calibration *cal, size_t unit, size_t step,
                                const char *from, const pare_spill *targets, const size_t *plans,
                                tensor_state *states, size_t n, pare_error *err) {
    tuning t = {.c = c,
                .cal = cal,
                .unit = unit,
                .step = step,
                .targets = targets,
                .from = {.fd = -1},
                .members = pare_calloc(n, sizeof *t.members),
                .jobs = pare_calloc(n, sizeof *t.jobs),
                .linears = pare_calloc(n, sizeof(void *)),
                .before = pare_calloc(n, sizeof(pare_tensor)),
                .leaves = pare_calloc(n, sizeof *t.leaves),
                .fresh = pare_calloc(n, sizeof *t.fresh)};
    bool whole = t.members && t.jobs && t.linears && t.before && t.leaves && t.fresh;
    pare_status st = whole ? hold_block(&t, plans, states, n, err) : fail_memory(err);
    if (st == PARE_OK) st = list_members(&t, plans, states, n, err);
    if (st == PARE_OK && t.n) st = tune(&t, from, err);
    for (size_t i = 0; i < t.n && st == PARE_OK; i++) states[t.members[i]].first_step = step + 1;
    pare_block_trainer_free(t.trainer);
    if (t.from.fd >= 0) pare_file_close(&t.from);
    pare_free(t.members);
    pare_free(t.jobs);
    pare_free(t.linears);
    pare_free(t.before);
    pare_free(t.leaves);
    pare_free(t.fresh);
    return st;
}

pare_status compress_tune_memory(const compress_run *c, pare_calibration *cal, size_t unit,
                                 uint64_t *bytes, pare_error *err) {
    uint64_t held = 0, work = 0, trainer = 0;
    size_t n = pare_calibration_sequences(cal), ctx = pare_calibration_ctx(cal);
    for (size_t s = 0; s < c->recipe->n_steps; s++) {
        const pare_step *step = &c->recipe->steps[s];
        if (!step->method || !step->method->tune) continue;
        size_t batch = step->method->batch(step->options);
        pare_block_trainer *b;
        PARE_TRY(pare_calibration_load(cal, unit, err));
        pare_status st =
            pare_block_trainer_create(&b, pare_calibration_model(cal), unit, batch < n ? batch : n,
                                      ctx, pare_calibration_compute(cal), err);
        if (st == PARE_OK && pare_block_trainer_bytes(b) > trainer)
            trainer = pare_block_trainer_bytes(b);
        pare_block_trainer_free(b);
        pare_calibration_drop(cal, unit);
        PARE_TRY(st);
        uint64_t own = 0;
        for (size_t i = 0; i < c->n_plans; i++) {
            const tensor_plan *p = &c->plans[i];
            if (p->unit != unit || !step_takes(c, s, p)) continue;
            if (step->method->work_bytes)
                own += step->method->work_bytes(step->options, p->rows, p->cols);
        }
        if (own > work) work = own;
    }
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].unit == unit && (c->plans[i].n_methods || c->plans[i].feeds))
            held += c->plans[i].t->n_params * sizeof(float);
    *bytes =
        held + work + trainer +
        (uint64_t)(c->spills ? 1 : n) * ctx * pare_source_config(c->source)->dim * sizeof(float);
    return PARE_OK;
}

pare_status compress_tune_seconds(pare_calibration *cal, double *seconds, pare_error *err) {
    enum { MOST = 16 };
    pare_model *m = pare_calibration_model(cal);
    pare_block_trainer *b = NULL;
    pare_leaf leaves[MOST];
    float *values[MOST] = {NULL};
    bool fresh = true;
    size_t n = 0;
    PARE_TRY(pare_calibration_load(cal, 0, err));
    pare_status st = pare_block_trainer_create(&b, m, 0, 1, pare_calibration_ctx(cal),
                                               pare_calibration_compute(cal), err);
    for (size_t i = 0; i < pare_source_n_tensors(m->source) && n < MOST && st == PARE_OK; i++) {
        const pare_source_tensor *t = pare_source_tensor_at(m->source, i);
        pare_linear *l =
            t->canonical && t->n_dims == 2 ? pare_model_linear(m, 0, t->canonical) : NULL;
        if (!l) continue;
        size_t rows = l->w.view.rows, cols = l->w.view.cols, count = rows * cols;
        values[n] = pare_big_alloc((2 * count + 32) * sizeof(float)); /* weights, gradient */
        if (!values[n]) {
            st = fail_memory(err);
            break;
        }
        pare_tensor_decode(m->rt, values[n], &l->w);
        l->w = pare_tensor_wrap(pare_encoding_find("f32"), values[n], rows, cols);
        leaves[n] = (pare_leaf){.key = values[n],
                                .grad = values[n] + count + 16,
                                .fresh = &fresh,
                                .rows = rows,
                                .cols = cols};
        n++;
    }
    if (st == PARE_OK) {
        double loss;
        qsort(leaves, n, sizeof *leaves, by_key);
        pare_block_trainer_loss(b, 1, leaves, n, &loss); /* the second one counts */
        double start = pare_now_s();
        pare_block_trainer_loss(b, 1, leaves, n, &loss);
        *seconds = pare_now_s() - start;
    }
    pare_block_trainer_free(b);
    pare_calibration_drop(cal, 0);
    for (size_t i = 0; i < n; i++) {
        size_t count = 0;
        for (size_t k = 0; k < n; k++)
            if (leaves[k].key == values[i]) count = leaves[k].rows * leaves[k].cols;
        pare_big_free(values[i], (2 * count + 32) * sizeof(float));
    }
    return st;
}
