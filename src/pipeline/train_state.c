/* Checkpoints, the log, and the model that a run ends with.
 *
 * checkpoint-N.safetensors holds the weights ("w/NAME"), their average ("e") and the best ones
 * ("b"), the optimizer's arrays ("o/NAME.MOMENT"), the pruner's state ("pruner"); the manifest of
 * the work folder names it with its CRC-32 once it is complete. log-N.jsonl beside it has
 * the lines so far. */
#include "base/group.h"
#include "base/hash.h"
#include "base/memory.h"
#include "io/json.h"
#include "methods/pruner.h"
#include "pipeline/checkpoint.h"
#include "pipeline/model_output.h"
#include "pipeline/train_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a checkpoint holds. pruner: its state as bytes, or NULL. */
typedef struct checkpoint {
    const pare_train_run *r;
    void *pruner;
} checkpoint;

static bool array_at(void *arg, size_t i, pare_saved *out) {
    const checkpoint *c = arg;
    const pare_train_run *r = c->r;
    const pare_train_weights *w = r->weights;
    *out = (pare_saved){.dtype = "F32"};
    if (i < w->n) {
        const pare_train_tensor *t = &w->tensors[i];
        snprintf(out->name, sizeof out->name, "w/%s", t->name);
        out->data = t->w;
        out->n_bytes = t->rows * t->cols * sizeof *t->w;
        return true;
    }
    float *const more[] = {r->ema, r->best};
    static const char *const names[] = {"e", "b"};
    i -= w->n;
    for (size_t k = 0; k < 2; k++) {
        if (!more[k]) continue;
        if (i-- > 0) continue;
        snprintf(out->name, sizeof out->name, "%s", names[k]);
        out->data = more[k];
        out->n_bytes = r->n_values * sizeof(float);
        return true;
    }
    pare_optim_array a;
    if (pare_optim_array_at(r->optim, i, &a)) {
        snprintf(out->name, sizeof out->name, "o/%s", a.name);
        out->data = a.data;
        out->n_bytes = a.n * sizeof *a.data;
        return true;
    }
    bool next = i == 0 || pare_optim_array_at(r->optim, i - 1, &a);
    if (!c->pruner || !next) return false;
    *out = (pare_saved){.name = "pruner",
                        .dtype = "U8",
                        .data = c->pruner,
                        .n_bytes = pare_pruner_state_bytes(r->pruner)};
    return true;
}

static uint32_t checksum(const pare_train_run *r, void *pruner) {
    return pare_checkpoint_crc32(array_at, &(checkpoint){r, pruner});
}

static char *checkpoint_path(const pare_train_run *r, uint64_t step) {
    return pare_checkpoint_path(pare_work_path(r->work), "checkpoint", step, "safetensors");
}
static char *log_path(const pare_train_run *r, uint64_t step) {
    return pare_checkpoint_path(pare_work_path(r->work), "log", step, "jsonl");
}

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "training: out of memory");
}

uint64_t pare_train_disk(const pare_train_run *r, uint64_t *checkpoint_bytes,
                         uint64_t *model_bytes) {
    const checkpoint c = {r, r->pruner};
    pare_saved a;
    uint64_t bytes = 0, whole = 0, trunk = pare_train_trunk(r->o);
    for (size_t i = 0; array_at((void *)&c, i, &a); i++) bytes += a.n_bytes;
    for (size_t i = 0; i < r->weights->n; i++)
        whole +=
            (uint64_t)r->weights->tensors[i].rows * r->weights->tensors[i].cols * sizeof(float);
    *checkpoint_bytes = bytes;
    *model_bytes = whole;
    uint64_t wanted = 2 * bytes > bytes + whole ? 2 * bytes : bytes + whole;
    return r->o->keep_work && trunk > 0 && trunk < r->o->steps ? wanted + bytes : wanted;
}

pare_status pare_train_check_disk(const pare_train_run *r, pare_error *err) {
    uint64_t room, one, model, wanted = pare_train_disk(r, &one, &model);
    PARE_TRY(pare_disk_free(&room, r->o->out, err));
    if (room >= wanted) return PARE_OK;
    return pare_fail(err, PARE_ERR_IO,
                     "%s: found %llu bytes free, expected %llu for two checkpoints, or one and the "
                     "model",
                     r->o->out, (unsigned long long)room, (unsigned long long)wanted);
}

static json_t *state_json(const pare_train_run *r, void *pruner) {
    const pare_train_state *s = &r->state;
    size_t failures = pare_json_failures();
    json_t *j =
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "step", (json_int_t)s->step, "steps",
                  (json_int_t)r->o->steps, "skipped", (json_int_t)s->n_skipped, "count",
                  (json_int_t)pare_optim_count(r->optim), "crc32", (json_int_t)checksum(r, pruner));
    if (!j) return NULL;
    json_object_set_new(j, "log_crc32",
                        json_integer((json_int_t)pare_crc32(0, r->log.data, r->log.n)));
    json_object_set_new(j, "averaged", json_integer((json_int_t)s->n_averaged));
    json_object_set_new(j, "to_tell", json_boolean(s->to_tell));
    json_object_set_new(j, "lr", pare_json_number(s->lr));
    json_object_set_new(j, "grad_norm", pare_json_number(s->grad_norm));
    json_object_set_new(j, "left_out", pare_json_number(r->left_out));
    json_object_set_new(j, "loss", pare_json_number(s->loss));
    json_object_set_new(j, "val_loss", pare_json_number(s->val_loss));
    json_object_set_new(j, "best_val_loss", pare_json_number(s->best_val_loss));
    json_object_set_new(j, "val_step", json_integer((json_int_t)s->val_step));
    json_object_set_new(j, "best_step", json_integer((json_int_t)s->best_step));
    json_object_set_new(j, "sparsity", pare_json_number(s->sparsity));
    json_object_set_new(j, "best_sparsity", pare_json_number(s->best_sparsity));
    json_object_set_new(j, "first_val_loss", pare_json_number(s->first_val_loss));
    json_object_set_new(j, "first_sparsity", pare_json_number(s->first_sparsity));
    if (r->pruner) {
        const pare_schedule *m = &r->pruner->schedule;
        json_object_set_new(j, "masks",
                            json_pack("[I, I, I]", (json_int_t)m->every, (json_int_t)m->from,
                                      (json_int_t)m->until));
    }
    return pare_json_whole(j, failures);
}

static pare_status write_log(const pare_train_run *r, const char *path, pare_error *err) {
    pare_writer w = {.fd = -1};
    PARE_TRY(pare_writer_open(&w, path, err));
    pare_status st = pare_writer_write(&w, r->log.data, r->log.n, err);
    if (st == PARE_OK) st = pare_writer_commit(&w, err);
    pare_writer_discard(&w);
    return st;
}

static uint64_t step_of(const json_t *state) {
    return (uint64_t)json_integer_value(json_object_get(state, "step"));
}

/* The files of a checkpoint that the manifest does not name, or is about to forget. */
static pare_status remove_checkpoint(const pare_train_run *r, const json_t *state,
                                     pare_error *err) {
    if (pare_group_rank() > 0) return PARE_OK;
    char *arrays = checkpoint_path(r, step_of(state)), *log = log_path(r, step_of(state));
    pare_status st = arrays && log ? PARE_OK : fail_memory(err);
    if (st == PARE_OK) {
        pare_path_remove(arrays);
        pare_path_remove(log);
    }
    pare_free(arrays);
    pare_free(log);
    return st;
}

/* Two checkpoints stand, so that a damaged one, and a damaged manifest, have one before them; a
 * third begins when the first is gone. */
static pare_status remove_the_one_before(const pare_train_run *r, pare_error *err) {
    const json_t *state = json_object_get(pare_work_kept(r->work, "checkpoint"), "before"),
                 *trunk = pare_work_kept(r->work, "trunk");
    if (!json_is_object(state) || (trunk && step_of(trunk) == step_of(state))) return PARE_OK;
    return remove_checkpoint(r, state, err);
}

/* The end of the trunk in the place of a shorter run's. */
static pare_status note_trunk(pare_train_run *r, void *pruner, pare_error *err) {
    const json_t *old = pare_work_kept(r->work, "trunk"),
                 *last = pare_work_kept(r->work, "checkpoint");
    if (!r->o->keep_work || r->state.step != pare_train_trunk(r->o)) return PARE_OK;
    bool stands = old && last && step_of(old) == step_of(last);
    if (old && !stands && step_of(old) != r->state.step) PARE_TRY(remove_checkpoint(r, old, err));
    json_t *now = state_json(r, pruner);
    return now ? pare_work_keep(r->work, "trunk", now, err) : fail_memory(err);
}

/* The manifest's entry holds that of the checkpoint before it. */
static pare_status note_checkpoint(pare_train_run *r, void *pruner, pare_error *err) {
    size_t failures = pare_json_failures();
    const json_t *last = pare_work_kept(r->work, "checkpoint");
    json_t *now = state_json(r, pruner), *before = last ? json_deep_copy(last) : NULL;
    if (before) json_object_del(before, "before");
    if (now && before)
        json_object_set_new(now, "before", before);
    else
        json_decref(before);
    now = pare_json_whole(now, failures);
    return now ? pare_work_keep(r->work, "checkpoint", now, err) : fail_memory(err);
}

pare_status pare_train_save(pare_train_run *r, pare_error *err) {
    const json_t *before = pare_work_kept(r->work, "checkpoint");
    if (before && step_of(before) == r->state.step &&
        json_integer_value(json_object_get(before, "steps")) == (json_int_t)r->o->steps)
        return PARE_OK;
    const char *bad = pare_train_weights_not_finite(r->weights);
    if (bad)
        return pare_fail(err, PARE_ERR_INPUT,
                         "training: step %llu: %s: found NaN or infinity, expected finite weights: "
                         "a lower learning rate may help; the last checkpoint is kept",
                         (unsigned long long)r->state.step, bad);
    char *arrays = checkpoint_path(r, r->state.step), *log = log_path(r, r->state.step);
    void *pruner = r->pruner ? pare_malloc(pare_pruner_state_bytes(r->pruner), 1) : NULL;
    bool whole = arrays && log && (pruner || !r->pruner);
    pare_status st = whole ? PARE_OK : fail_memory(err);
    if (st == PARE_OK && pruner) pare_pruner_save(r->pruner, pruner);
    if (st == PARE_OK && pare_group_size() > 1 && !pare_group_same(checksum(r, pruner)))
        st = pare_fail(err, PARE_ERR_INTERNAL,
                       "training: step %llu: found weights that differ between ranks, expected the "
                       "same: no checkpoint is written, the last one is kept",
                       (unsigned long long)r->state.step);
    bool writes = pare_group_rank() == 0;
    if (st == PARE_OK && writes) st = remove_the_one_before(r, err);
    if (st == PARE_OK && writes) st = write_log(r, log, err);
    if (st == PARE_OK && writes)
        st = pare_checkpoint_write(arrays, array_at, &(checkpoint){r, pruner}, err);
    if (st == PARE_OK) st = note_trunk(r, pruner, err);
    if (st == PARE_OK) st = note_checkpoint(r, pruner, err);
    pare_free(pruner);
    pare_free(arrays);
    pare_free(log);
    return st;
}

/* ---- going back ---- */

static pare_status read_log(pare_train_run *r, uint64_t step, uint32_t crc32, pare_error *err) {
    char *path = log_path(r, step), *text;
    size_t n;
    if (!path) return fail_memory(err);
    pare_status st = pare_file_read_all(&text, &n, path, (size_t)1 << 30, err);
    if (st == PARE_OK && pare_crc32(0, text, n) != crc32) {
        st = pare_fail(err, PARE_ERR_INPUT, "%s: found another checksum than was written: damaged",
                       path);
        pare_free(text);
    }
    pare_free(path);
    PARE_TRY(st);
    r->log.n = 0;
    size_t failures = pare_json_failures();
    for (size_t at = 0; at < n;) { /* lines past the checkpoint are of steps that come again */
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        json_t *line = json_loadb(text + at, len, 0, NULL);
        uint64_t number = (uint64_t)json_integer_value(json_object_get(line, "step"));
        json_decref(line);
        if (number > step) break;
        at += len + 1;
        r->log.n = at < n ? at : n;
    }
    pare_free(r->log.data);
    r->log.data = text;
    r->log.capacity = n;
    return pare_json_failures() == failures ? PARE_OK : fail_memory(err);
}

/* From a state that the manifest keeps. */
static pare_status restore(pare_train_run *r, const json_t *j, pare_error *err) {
    uint64_t step = step_of(j);
    char *path = checkpoint_path(r, step);
    if (!path) return fail_memory(err);
    void *pruner = r->pruner ? pare_malloc(pare_pruner_state_bytes(r->pruner), 1) : NULL;
    pare_status st =
        r->pruner && !pruner
            ? fail_memory(err)
            : pare_checkpoint_read(path, (uint32_t)json_integer_value(json_object_get(j, "crc32")),
                                   array_at, &(checkpoint){r, pruner}, err);
    if (st == PARE_OK && pruner)
        st = pare_pruner_load(r->pruner, pruner, pare_pruner_state_bytes(r->pruner), err);
    pare_free(pruner);
    pare_free(path);
    PARE_TRY(st);
    r->state = (pare_train_state){
        .step = step,
        .n_skipped = (uint64_t)json_integer_value(json_object_get(j, "skipped")),
        .n_averaged = (uint64_t)json_integer_value(json_object_get(j, "averaged")),
        .to_tell = json_is_true(json_object_get(j, "to_tell")),
        .lr = pare_json_number_of(json_object_get(j, "lr")),
        .grad_norm = pare_json_number_of(json_object_get(j, "grad_norm")),
        .loss = pare_json_number_of(json_object_get(j, "loss")),
        .val_loss = pare_json_number_of(json_object_get(j, "val_loss")),
        .best_val_loss = pare_json_number_of(json_object_get(j, "best_val_loss")),
        .val_step = (uint64_t)json_integer_value(json_object_get(j, "val_step")),
        .best_step = (uint64_t)json_integer_value(json_object_get(j, "best_step")),
        .sparsity = pare_json_number_of(json_object_get(j, "sparsity")),
        .best_sparsity = pare_json_number_of(json_object_get(j, "best_sparsity")),
        .first_val_loss = pare_json_number_of(json_object_get(j, "first_val_loss")),
        .first_sparsity = pare_json_number_of(json_object_get(j, "first_sparsity"))};
    r->left_out = pare_json_number_of(json_object_get(j, "left_out"));
    pare_optim_set_count(r->optim, json_integer_value(json_object_get(j, "count")));
    pare_train_weights_round(r->weights);
    return read_log(r, step, (uint32_t)json_integer_value(json_object_get(j, "log_crc32")), err);
}

/* Would a run of these options have come to that checkpoint too? */
static bool is_of_run(const pare_train_run *r, const json_t *state) {
    pare_train_options other = *r->o;
    other.steps = (uint64_t)json_integer_value(json_object_get(state, "steps"));
    if (other.steps == r->o->steps) return true;
    uint64_t a = pare_train_trunk(r->o), b = pare_train_trunk(&other);
    if (step_of(state) > (a < b ? a : b)) return false;
    const json_t *masks = json_object_get(state, "masks");
    if (!r->pruner) return true;
    const pare_schedule *m = &r->pruner->schedule;
    const int64_t now[] = {m->every, m->from, m->until};
    bool same = json_array_size(masks) == 3;
    for (size_t i = 0; i < 3 && same; i++)
        same = json_integer_value(json_array_get(masks, i)) == (json_int_t)now[i];
    return same;
}

/* The run goes on from that one: later ones are forgotten, and then removed. */
static pare_status go_back_to(pare_train_run *r, const json_t *state, const json_t *last,
                              pare_error *err) {
    json_t *kept = json_deep_copy(state), *gone = json_deep_copy(last);
    if (kept) json_object_del(kept, "before");
    pare_status st =
        kept && gone ? pare_work_keep(r->work, "checkpoint", kept, err) : fail_memory(err);
    const json_t *both[] = {gone, json_object_get(gone, "before")};
    const uint64_t trunk = step_of(pare_work_kept(r->work, "trunk"));
    for (size_t i = 0; i < 2 && st == PARE_OK; i++)
        if (json_is_object(both[i]) && step_of(both[i]) != r->state.step &&
            step_of(both[i]) != trunk)
            st = remove_checkpoint(r, both[i], err);
    json_decref(gone);
    return st;
}

pare_status pare_train_restore(pare_train_run *r, pare_error *err) {
    const json_t *last = pare_work_kept(r->work, "checkpoint");
    const json_t *all[] = {last, json_object_get(last, "before"), pare_work_kept(r->work, "trunk")};
    pare_error own = {0};
    pare_status st = PARE_OK;
    if (!last) return PARE_OK;
    for (size_t i = 0; i < 3; i++) {
        if (!json_is_object(all[i]) || !is_of_run(r, all[i])) continue;
        if (st != PARE_OK)
            pare_warn(r->rt, "%s: going on from the checkpoint before it, of step %llu",
                      own.message, (unsigned long long)step_of(all[i]));
        st = restore(r, all[i], &own);
        if (st == PARE_OK) return i ? go_back_to(r, all[i], last, err) : PARE_OK;
        if (st != PARE_ERR_INPUT) break;
    }
    if (st != PARE_OK) return pare_fail(err, st, "%s", own.message);
    return pare_train_fail_steps(r, r->work, err);
}

pare_status pare_train_check_steps(const pare_train_run *r, pare_error *err) {
    pare_work *earlier;
    if (!r->planned || r->planned->restart) return PARE_OK;
    PARE_TRY(pare_work_look(&earlier, r->rt, r->planned->out, err));
    if (!earlier && !r->planned->resume) return PARE_OK;
    const json_t *last = earlier ? pare_work_kept(earlier, "checkpoint") : NULL;
    const json_t *all[] = {last, json_object_get(last, "before"),
                           earlier ? pare_work_kept(earlier, "trunk") : NULL};
    bool found = !last;
    for (size_t i = 0; i < 3; i++) found |= json_is_object(all[i]) && is_of_run(r, all[i]);
    pare_status st = PARE_OK;
    if (!found)
        st = pare_train_fail_steps(r, earlier, err);
    else if (!last && r->planned->resume)
        st = pare_fail(err, PARE_ERR_ARG, "%s.work: found no checkpoint to go on from",
                       r->planned->out);
    pare_work_close(earlier);
    return st;
}

pare_status pare_train_fail_steps(const pare_train_run *r, const pare_work *work, pare_error *err) {
    const json_t *last = pare_work_kept(work, "checkpoint");
    return pare_fail(err, PARE_ERR_ARG,
                     "%s: steps: found %llu, expected %llu as the run in it has: no checkpoint in "
                     "it lies on the way of the longer one too (schedule wsd with keep-work keeps "
                     "one before its rate falls, constant ends with one; masks must have the same "
                     "every, from and until)",
                     pare_work_path(work), (unsigned long long)r->o->steps,
                     (unsigned long long)json_integer_value(json_object_get(last, "steps")));
}

/* ---- log ---- */

pare_status pare_train_log_add(pare_train_run *r, const pare_train_line *l, pare_error *err) {
    size_t failures = pare_json_failures();
    json_t *j = json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "step", (json_int_t)l->step, "loss",
                          pare_json_number(l->loss), "lr", pare_json_number(l->lr), "grad_norm",
                          pare_json_number(l->grad_norm), "sparsity", pare_json_number(l->sparsity),
                          "left_out", pare_json_number(l->left_out));
    if (j && isfinite(l->val_loss)) json_object_set_new(j, "val_loss", json_real(l->val_loss));
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(j);
    if (text && pare_json_failures() != failures) { /* it lacks something */
        free(text);
        text = NULL;
    }
    if (!text) return fail_memory(err);
    size_t len = strlen(text);
    pare_status st = PARE_OK;
    if (r->log.n + len + 1 > r->log.capacity) {
        size_t capacity = 2 * (r->log.n + len + 1);
        char *more = pare_realloc(r->log.data, capacity, 1);
        if (more) {
            r->log.data = more;
            r->log.capacity = capacity;
        } else {
            st = fail_memory(err);
        }
    }
    if (st == PARE_OK) {
        memcpy(r->log.data + r->log.n, text, len);
        r->log.data[r->log.n + len] = '\n';
        r->log.n += len + 1;
    }
    free(text); /* jansson's */
    return st;
}

/* ---- the end ---- */

static pare_output_item item_of(const pare_train_tensor *t) {
    const pare_encoding *f32 = pare_encoding_find("f32");
    return (pare_output_item){.name = t->name,
                              .enc = f32,
                              .stored = f32,
                              .n_dims = t->matrix ? 2 : 1,
                              .dims = {t->matrix ? t->rows : t->cols, t->matrix ? t->cols : 0}};
}

/* The weights that are written: the best, the average, or the last; pruned ones are 0 (a
 * straight-through pruner leaves the masters dense: the model is what its forward pass saw, by the
 * mask of these values). */
static pare_status choose_weights(pare_train_run *r, pare_error *err) {
    const float *from = r->best && isfinite(r->state.best_val_loss) ? r->best : r->ema;
    for (size_t i = 0; from && i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        memcpy(t->w, from, t->rows * t->cols * sizeof *t->w);
        from += t->rows * t->cols;
    }
    if (r->best && isfinite(r->state.best_val_loss)) return PARE_OK; /* masked as it was kept */
    if (r->pruner) PARE_TRY(pare_pruner_pre_forward(r->pruner, err));
    for (size_t i = 0; i < r->n_trained; i++) pare_train_mask(r, i, r->trained[i].w);
    return PARE_OK;
}

/* Before the folder appears: it is there whole or not at all. */
static pare_status write_log_into(const pare_train_run *r, const char *folder, pare_error *err) {
    char *path = pare_path_join(folder, "train_log.jsonl");
    pare_status st = path ? write_log(r, path, err) : fail_memory(err);
    pare_free(path);
    return st;
}

/* The adapter's folder. */
static pare_status write_adapter(pare_train_run *r, pare_error *err) {
    const pare_model *m = r->weights->model;
    char *folder;
    PARE_TRY(pare_folder_begin(&folder, r->o->out, err));
    pare_status st = pare_lora_save(m->lora, m->source, folder, r->o->from, err);
    if (st == PARE_OK) st = write_log_into(r, folder, err);
    if (st == PARE_OK)
        st = pare_folder_commit(folder, r->o->out, err);
    else
        pare_folder_discard(folder);
    pare_free(folder);
    return st;
}

pare_status pare_train_write_model(pare_train_run *r, pare_error *err) {
    const pare_train_weights *w = r->weights;
    PARE_TRY(choose_weights(r, err));
    if (r->adapter.method) return write_adapter(r, err);
    pare_output_format format = {.container = "hf"};
    pare_output *o = NULL;
    pare_status st = pare_output_open(&o, r->rt, w->model->source, &format, r->o->out, 0, err);
    for (size_t i = 0; i < w->n && st == PARE_OK; i++) {
        if (pare_output_absorbs(&format, w->tensors[i].name)) continue;
        pare_output_item item = item_of(&w->tensors[i]);
        st = pare_output_declare(o, &item, err);
    }
    if (st == PARE_OK && r->top_k.method) pare_output_set_top_k(o, &w->model->config.top_k);
    if (st == PARE_OK) st = pare_output_begin(o, NULL, NULL, err);
    for (size_t i = 0; i < w->n && st == PARE_OK; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        if (pare_output_absorbs(&format, t->name)) continue;
        pare_tensor values = pare_tensor_wrap(pare_encoding_find("f32"), t->w, t->rows, t->cols);
        st = pare_output_write(o, &values, err);
    }
    if (st == PARE_OK) st = write_log_into(r, pare_output_folder(o), err);
    if (st == PARE_OK) st = pare_output_finish(o, err);
    pare_output_close(o);
    return st;
}
