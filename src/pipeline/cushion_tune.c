/* Stage 2 of CushionCache (arXiv:2406.12016, section 4.2): keys and values of a prefix are trained
 * on L_pred + lambda L_q (train/prefix_loss.h) with AdamW. The last tenth of the text is held out:
 * the loss there, before and after each epoch, says which keys and values are kept. */
#include "pipeline/cushion.h"

#include "base/group.h"
#include "base/os.h"
#include "base/rng.h"
#include "io/json.h"
#include "model/act.h"
#include "pare/optim.h"
#include "pipeline/checkpoint.h"
#include "pipeline/cushion_eval.h"
#include "train/prefix_loss.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    STREAM_TEXT = 0xC0600, /* of random numbers */
    STREAM_ORDER,
    HELD_TEXTS = 8,
    N_DEFAULT = 512,
    N_SAVES = 8, /* checkpoints of a run, at least */
    RANGE_TEXTS = 16,
    MAX_SKIPPED = 10 /* in a row */
};

static const double clip_norm = 1, save_every_s = 120;

typedef struct tuning {
    pare_runtime *rt;
    const pare_cushion_input *in;
    const pare_cushion_options *o;
    const pare_cushion_texts *file;
    size_t n, batch; /* tokens of a text, texts of a step */
    pare_train_weights *weights;
    pare_prefix_loss *loss;
    pare_optim *optim;
    float **grads;   /* [weights->n] */
    int32_t *texts;  /* [batch or HELD_TEXTS or RANGE_TEXTS][n] */
    uint32_t *order; /* [tune_texts] of an epoch */
    float *best;     /* [n_values] */
    size_t n_values;
    size_t step, n_steps, n_skipped, n_in_a_row; /* skipped: no finite gradient */
    bool stale;                                  /* the checkpoint that is noted is damaged */
    double saved_s;
    pare_prefix_losses held[PARE_CUSHION_MAX_EPOCHS + 1]; /* after so many epochs */
    size_t n_held, kept;
} tuning;

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "cushion: out of memory");
}

/* --- texts --- */

static size_t n_held_out(const tuning *t) { return t->file->n_ids / PARE_CUSHION_HELD_PART; }

static uint64_t draw(const tuning *t, uint64_t stream, uint64_t i) {
    uint32_t r[4];
    pare_philox(r, pare_runtime_seed(t->rt), stream, i);
    return (uint64_t)r[0] << 32 | r[1];
}

static void text(const tuning *t, int32_t *to, size_t i) {
    const size_t room = t->file->n_ids - n_held_out(t) - t->n;
    pare_cushion_text(t->file, to, t->file->ids + draw(t, STREAM_TEXT, i) % (room + 1), t->n, i);
}

/* Spread over the part that is held out. */
static void held_text(const tuning *t, int32_t *to, size_t i) {
    const size_t room = n_held_out(t) - t->n, first = t->file->n_ids - n_held_out(t);
    pare_cushion_text(t->file, to, t->file->ids + first + room * i / (HELD_TEXTS - 1), t->n, i);
}

/* A random order of the texts, another one for each epoch. */
static void shuffle(tuning *t, size_t epoch) {
    const size_t n = (size_t)t->o->tune_texts;
    for (size_t i = 0; i < n; i++) t->order[i] = (uint32_t)i;
    for (size_t i = n; i-- > 1;) {
        size_t k = draw(t, STREAM_ORDER + epoch, i) % (i + 1);
        uint32_t x = t->order[i];
        t->order[i] = t->order[k];
        t->order[k] = x;
    }
}

pare_status pare_cushion_tune_length(size_t *out, const pare_cushion_input *in,
                                     const pare_model_config *c, size_t n_ids, pare_error *err) {
    const pare_cushion_options *o = in->options;
    const size_t held = n_ids / PARE_CUSHION_HELD_PART, front = (size_t)o->max_len,
                 ctx = !c->ctx_max          ? SIZE_MAX
                       : c->ctx_max > front ? c->ctx_max - front
                                            : 0;
    size_t n = o->tune_n ? (size_t)o->tune_n : N_DEFAULT;
    if (!o->tune_n && n > ctx) n = ctx;
    if (!o->tune_n && n > held) n = held;
    *out = n;
    if (n > ctx)
        return pare_fail(err, PARE_ERR_ARG,
                         "cushion: tune_n: found %zu, expected at most %zu, the model's context "
                         "behind a prefix of %zu",
                         n, ctx, front);
    if (n >= 2 && n <= held) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: found %zu tokens, expected at least %zu to tune a cushion, a tenth of "
                     "which is held out (epochs=0 leaves it as it was found)",
                     in->text, n_ids, PARE_CUSHION_HELD_PART * (n > 2 ? n : 2));
}

/* --- the model --- */

/* L_pred of quantized activations: gradients pass through q as if it were not there. */
static pare_status quantize_forward(tuning *t, pare_model *m, pare_error *err) {
    static const pare_act_granularity granularities[] = {
        [PARE_CUSHION_FORWARD_STATIC] = PARE_ACT_PER_TENSOR_STATIC,
        [PARE_CUSHION_FORWARD_DYNAMIC] = PARE_ACT_PER_TENSOR_DYNAMIC,
        [PARE_CUSHION_FORWARD_PER_TOKEN] = PARE_ACT_PER_TOKEN};
    pare_act_sites *a;
    if (t->o->forward == PARE_CUSHION_FORWARD_PLAIN) return PARE_OK;
    const pare_act_scheme scheme = {.granularity = granularities[t->o->forward],
                                    .formula = (pare_act_formula)t->o->formula,
                                    .bits = t->o->bits,
                                    .symmetric = t->o->symmetric};
    PARE_TRY(pare_act_sites_create(&a, m, &scheme, err));
    pare_model_attach_act(m, a);
    if (scheme.granularity != PARE_ACT_PER_TENSOR_STATIC) return PARE_OK;
    const size_t all = (size_t)t->o->tune_texts, n = all < RANGE_TEXTS ? all : RANGE_TEXTS;
    for (size_t i = 0; i < n; i++) text(t, t->texts + i * t->n, i);
    return pare_act_calibrate(m, t->texts, n, t->n, PARE_COMPUTE_EXACT, err);
}

static pare_status make_optimizer(tuning *t, pare_error *err) {
    const size_t n = t->weights->n;
    char spec[96];
    pare_trained *trained = pare_calloc(n, sizeof *trained);
    if (!trained) return fail_memory(err);
    for (size_t i = 0; i < n; i++) {
        const pare_train_tensor *w = &t->weights->tensors[i];
        trained[i] = (pare_trained){.name = w->name,
                                    .dims = {w->rows, w->cols},
                                    .n_dims = 2,
                                    .w = w->w,
                                    .role = PARE_ROLE_OTHER};
        t->grads[i] = w->grad;
    }
    snprintf(spec, sizeof spec, "adamw:lr=%.9g,weight_decay=0", t->o->lr);
    pare_status st = pare_optim_create(&t->optim, t->rt, spec, trained, n, err);
    pare_free(trained);
    return st;
}

static pare_status set_up(tuning *t, pare_error *err) {
    const size_t all = (size_t)t->o->tune_texts, batch = (size_t)t->o->batch;
    t->batch = batch < all ? batch : all;
    const size_t texts = t->batch > RANGE_TEXTS ? t->batch : RANGE_TEXTS;
    pare_model *m = t->weights->model;
    for (size_t i = 0; i < t->weights->n; i++)
        t->n_values += t->weights->tensors[i].rows * t->weights->tensors[i].cols;
    t->grads = pare_calloc(t->weights->n, sizeof *t->grads);
    t->texts = pare_calloc(texts * t->n, sizeof *t->texts);
    t->order = pare_calloc((size_t)t->o->tune_texts, sizeof *t->order);
    t->best = pare_calloc(t->n_values, sizeof *t->best);
    if (!t->grads || !t->texts || !t->order || !t->best) return fail_memory(err);
    t->n_steps = (size_t)t->o->epochs * ((all + t->batch - 1) / t->batch);
    PARE_TRY(quantize_forward(t, m, err));
    PARE_TRY(make_optimizer(t, err));
    const pare_prefix_loss_options lo = {
        .scheme = {.granularity = (pare_act_granularity)t->o->granularity,
                   .formula = (pare_act_formula)t->o->formula,
                   .bits = t->o->bits,
                   .symmetric = t->o->symmetric},
        .outputs = t->o->site != PARE_CUSHION_LINEAR_IN,
        .inputs = t->o->site != PARE_CUSHION_BLOCK_OUT,
        .lambda = t->o->lambda,
        .mean = t->o->lq_norm == 0,
        .n = t->n,
        .n_texts = t->batch,
        .compute = t->in->compute};
    return pare_prefix_loss_create(&t->loss, t->weights, &lo, err);
}

/* --- a run that was cut off --- */

static bool array_at(void *arg, size_t i, pare_saved *out) {
    tuning *t = arg;
    const pare_train_weights *w = t->weights;
    pare_optim_array a;
    *out = (pare_saved){.dtype = "F32"};
    if (i < w->n) {
        snprintf(out->name, sizeof out->name, "w/%s", w->tensors[i].name);
        out->data = w->tensors[i].w;
        out->n_bytes = w->tensors[i].rows * w->tensors[i].cols * sizeof(float);
    } else if (i == w->n) {
        snprintf(out->name, sizeof out->name, "b");
        out->data = t->best;
        out->n_bytes = t->n_values * sizeof *t->best;
    } else if (pare_optim_array_at(t->optim, i - w->n - 1, &a)) {
        snprintf(out->name, sizeof out->name, "o/%s", a.name);
        out->data = a.data;
        out->n_bytes = a.n * sizeof *a.data;
    } else {
        return false;
    }
    return true;
}

static char *path_of(const tuning *t, size_t step) {
    return pare_checkpoint_path(pare_work_path(t->in->work), "cushion", step, "safetensors");
}

static json_t *held_json(const tuning *t) {
    json_t *list = json_array();
    for (size_t i = 0; i < t->n_held; i++)
        json_array_append_new(list,
                              json_pack("{s:o, s:o}", "loss", pare_json_number(t->held[i].pred),
                                        "error", pare_json_number(t->held[i].error)));
    return list;
}

static json_t *state_json(tuning *t) {
    const size_t failures = pare_json_failures();
    return pare_json_whole(
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "step", (json_int_t)t->step, "count",
                  (json_int_t)pare_optim_count(t->optim), "skipped", (json_int_t)t->n_skipped,
                  "in_a_row", (json_int_t)t->n_in_a_row, "kept", (json_int_t)t->kept, "crc32",
                  (json_int_t)pare_checkpoint_crc32(array_at, t), "held_out", held_json(t)),
        failures);
}

static pare_status save(tuning *t, pare_error *err) {
    if (!t->in->work) return PARE_OK;
    const json_t *before = pare_work_kept(t->in->work, "cushion_tuning");
    size_t old = (size_t)json_integer_value(json_object_get(before, "step"));
    bool had = before != NULL, writes = pare_group_rank() == 0;
    if (had && old == t->step && !t->stale) return PARE_OK;
    char *path = path_of(t, t->step), *old_path = path_of(t, old);
    pare_status st = path && old_path ? PARE_OK : fail_memory(err);
    if (st == PARE_OK && writes) st = pare_checkpoint_write(path, array_at, t, err);
    if (st == PARE_OK) st = pare_work_keep(t->in->work, "cushion_tuning", state_json(t), err);
    if (st == PARE_OK && had && old != t->step && writes) pare_path_remove(old_path);
    if (st == PARE_OK) t->stale = false;
    t->saved_s = pare_now_s();
    pare_free(path);
    pare_free(old_path);
    return st;
}

static void copy_values(const tuning *t, float *values, bool back) {
    for (size_t i = 0; i < t->weights->n; i++) {
        const pare_train_tensor *w = &t->weights->tensors[i];
        const size_t n = w->rows * w->cols;
        if (back)
            memcpy(w->w, values, n * sizeof *values);
        else
            memcpy(values, w->w, n * sizeof *values);
        values += n;
    }
}

/* As before the first step. first: the values then. */
static void begin_anew(tuning *t, float *first) {
    pare_optim_array a;
    copy_values(t, first, true);
    for (size_t i = 0; pare_optim_array_at(t->optim, i, &a); i++)
        memset(a.data, 0, a.n * sizeof *a.data);
}

static pare_status read_state(tuning *t, const json_t *j, float *first, pare_error *err) {
    const json_t *held = json_object_get(j, "held_out");
    const size_t step = (size_t)json_integer_value(json_object_get(j, "step")),
                 kept = (size_t)json_integer_value(json_object_get(j, "kept"));
    const size_t n_held = json_array_size(held);
    pare_error own = {0};
    char *path = path_of(t, step);
    if (!path) return fail_memory(err);
    pare_status st =
        step <= t->n_steps && kept < n_held && n_held <= PARE_CUSHION_MAX_EPOCHS + 1
            ? pare_checkpoint_read(path, (uint32_t)json_integer_value(json_object_get(j, "crc32")),
                                   array_at, t, &own)
            : pare_fail(&own, PARE_ERR_INPUT, "the checkpoint is not one of this tuning");
    pare_free(path);
    if (st == PARE_ERR_NOMEM) return fail_memory(err);
    if (st != PARE_OK) { /* missing or damaged */
        pare_warn(t->rt, "cushion: the tuning begins anew: %s", own.message);
        begin_anew(t, first);
        t->stale = true;
        return PARE_OK;
    }
    t->step = step;
    t->kept = kept;
    for (; t->n_held < n_held; t->n_held++) {
        const json_t *h = json_array_get(held, t->n_held);
        t->held[t->n_held] =
            (pare_prefix_losses){.pred = pare_json_number_of(json_object_get(h, "loss")),
                                 .error = pare_json_number_of(json_object_get(h, "error"))};
    }
    t->n_skipped = (size_t)json_integer_value(json_object_get(j, "skipped"));
    t->n_in_a_row = (size_t)json_integer_value(json_object_get(j, "in_a_row"));
    pare_optim_set_count(t->optim, json_integer_value(json_object_get(j, "count")));
    return PARE_OK;
}

static pare_status resume(tuning *t, pare_error *err) {
    const json_t *j = t->in->work ? pare_work_kept(t->in->work, "cushion_tuning") : NULL;
    if (!j) return PARE_OK;
    float *first = pare_malloc(t->n_values, sizeof *first);
    if (!first) return fail_memory(err);
    copy_values(t, first, false);
    pare_status st = read_state(t, j, first, err);
    pare_free(first);
    return st;
}

/* --- epochs --- */

static double total(const tuning *t, size_t epoch) {
    return t->held[epoch].pred + t->o->lambda * t->held[epoch].error;
}

/* The losses of what is held out; the best keys and values so far are kept. */
static pare_status look(tuning *t, pare_error *err) {
    pare_prefix_losses *sum = &t->held[t->n_held], one;
    *sum = (pare_prefix_losses){0};
    for (size_t i = 0; i < HELD_TEXTS; i++) {
        PARE_TRY(pare_check_cancel(t->rt, err));
        held_text(t, t->texts, i);
        PARE_TRY(pare_prefix_loss_run(t->loss, t->texts, 1, false, &one, err));
        sum->pred += one.pred / HELD_TEXTS;
        sum->error += one.error / HELD_TEXTS;
    }
    if (t->n_held == 0 && !isfinite(total(t, 0)))
        return pare_fail(err, PARE_ERR_INPUT,
                         "cushion: tuning: found a loss of %g and an error of %g on text held out, "
                         "expected finite numbers",
                         sum->pred, sum->error);
    if (t->n_held == 0 || total(t, t->n_held) < total(t, t->kept)) {
        t->kept = t->n_held;
        copy_values(t, t->best, false);
    }
    t->n_held++;
    return PARE_OK;
}

static pare_status train_step(tuning *t, size_t first, pare_error *err) {
    const size_t left = (size_t)t->o->tune_texts - first, n = left < t->batch ? left : t->batch;
    pare_prefix_losses losses;
    for (size_t i = 0; i < n; i++) text(t, t->texts + i * t->n, t->order[first + i]);
    pare_train_weights_clear(t->weights);
    PARE_TRY(pare_prefix_loss_run(t->loss, t->texts, n, true, &losses, err));
    double norm = pare_train_grad_norm(t->weights);
    t->step++;
    if (!isfinite(losses.pred + losses.error + norm)) {
        t->n_skipped++;
        t->n_in_a_row++;
        return PARE_OK;
    }
    t->n_in_a_row = 0;
    pare_optim_args args = pare_optim_args_default();
    args.g = t->grads;
    args.g_scale = norm > clip_norm ? clip_norm / norm : 1;
    args.lr = t->o->lr * (double)(t->n_steps - t->step + 1) / (double)t->n_steps;
    return pare_optim_step(t->optim, &args, err);
}

static pare_status run(tuning *t, pare_error *err) {
    const size_t of_epoch = t->n_steps / (size_t)t->o->epochs,
                 every = t->n_steps / N_SAVES ? t->n_steps / N_SAVES : 1;
    if (t->n_held == 0) PARE_TRY(look(t, err));
    shuffle(t, t->step / of_epoch);
    t->saved_s = pare_now_s();
    while (t->step < t->n_steps && t->n_in_a_row < MAX_SKIPPED) {
        const size_t at = t->step % of_epoch;
        pare_progress(t->rt, "cushion: tune", (double)t->step, (double)t->n_steps, "steps");
        pare_status st = pare_check_cancel(t->rt, err);
        if (st != PARE_OK) {
            pare_error own; /* at worst the one before is good */
            if (save(t, &own) != PARE_OK) pare_warn(t->rt, "%s", own.message);
            return st;
        }
        if (at == 0) shuffle(t, t->step / of_epoch);
        PARE_TRY(train_step(t, at * t->batch, err));
        if (t->step % of_epoch == 0) PARE_TRY(look(t, err));
        bool late = pare_now_s() - t->saved_s > save_every_s;
        if (t->step % every == 0 || t->step == t->n_steps || late) PARE_TRY(save(t, err));
    }
    pare_progress(t->rt, "cushion: tune", (double)t->n_steps, (double)t->n_steps, "steps");
    return PARE_OK;
}

/* --- all of it --- */

static json_t *tuning_json(const tuning *t) {
    const size_t failures = pare_json_failures();
    return pare_json_whole(json_pack("{s:s, s:s, s:f, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:o}",
                                     "optimizer", pare_optim_text(t->optim), "schedule",
                                     "linear to 0", "clip_norm", clip_norm, "n", (json_int_t)t->n,
                                     "batch", (json_int_t)t->batch, "steps", (json_int_t)t->step,
                                     "skipped_steps", (json_int_t)t->n_skipped, "held_out_part",
                                     "the last tenth", "held_out_texts", (json_int_t)HELD_TEXTS,
                                     "kept_epoch", (json_int_t)t->kept, "held_out", held_json(t)),
                           failures);
}

static pare_status tell_skipped(const tuning *t, pare_error *err) {
    char line[120];
    if (!t->n_skipped || !t->in->fallback) return PARE_OK;
    snprintf(line, sizeof line,
             "cushion: tuning left out %zu of %zu steps, whose gradient was no number",
             t->n_skipped, t->step);
    return t->in->fallback(t->in->fallback_arg, line, err);
}

/* What was best, as a prefix of its own. */
static pare_status take(const tuning *t, pare_prefix **out, pare_error *err) {
    const pare_prefix *tuned = t->weights->model->prefix;
    PARE_TRY(pare_prefix_create(out, &t->weights->model->config, tuned->attn.n, err));
    const float *from = t->best;
    for (size_t i = 0; i < t->weights->n; i++) {
        const size_t n = tuned->attn.n * tuned->kv_dim;
        memcpy(pare_prefix_rows(*out, i / 2, i % 2), from, n * sizeof *from);
        from += n;
    }
    (*out)->tuned = t->kept > 0;
    (*out)->ids = pare_calloc(tuned->attn.n, sizeof *(*out)->ids);
    if (!(*out)->ids) return fail_memory(err);
    memcpy((*out)->ids, tuned->ids, tuned->attn.n * sizeof *tuned->ids);
    return PARE_OK;
}

/* The model stays its owner's. */
static void free_all(tuning *t) {
    pare_prefix_loss_free(t->loss);
    pare_optim_free(t->optim);
    if (t->weights) t->weights->model = NULL;
    pare_train_weights_free(t->weights);
    pare_free(t->grads);
    pare_free(t->texts);
    pare_free(t->order);
    pare_free(t->best);
    pare_free(t);
}

pare_status pare_cushion_tune(pare_prefix **out, json_t **record, pare_model *m,
                              const pare_cushion_input *in, const pare_cushion_texts *texts,
                              pare_error *err) {
    tuning *t = pare_calloc(1, sizeof *t);
    *out = NULL;
    *record = NULL;
    if (!t) return fail_memory(err);
    t->rt = m->rt;
    t->in = in;
    t->o = in->options;
    t->file = texts;
    pare_status st = pare_cushion_tune_length(&t->n, in, &m->config, texts->n_ids, err);
    if (st == PARE_OK) st = pare_train_weights_of_prefix(&t->weights, m, err);
    if (st == PARE_OK) st = set_up(t, err);
    if (st == PARE_OK) st = resume(t, err);
    if (st == PARE_OK) st = run(t, err);
    if (st == PARE_OK) st = tell_skipped(t, err);
    if (st == PARE_OK) st = take(t, out, err);
    if (st == PARE_OK && !(*record = tuning_json(t))) st = fail_memory(err);
    if (st != PARE_OK) {
        pare_prefix_free(*out);
        *out = NULL;
    }
    free_all(t);
    pare_model_attach_prefix(m, NULL);
    pare_model_detach_act(m);
    return st;
}
