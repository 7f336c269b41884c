/* What makes two calls of pare_train the same run: options and contents of files, not their times.
 * The number of steps is left to the checkpoints: a longer run is the same one for a while. */
#include "pipeline/train_run.h"

#include "base/file_digest.h"
#include "base/group.h"
#include "base/memory.h"
#include "base/os.h"
#include "io/json.h"
#include "model/source.h"

#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "training: out of memory");
}

/* The micro-batch as far as the result is bound to it: one that nobody asked for follows from the
 * number of ranks, which may be another when the run goes on. */
static size_t micro_of_result(const pare_train_run *r) {
    return r->o->micro_batch || pare_runtime_deterministic(r->rt) ? r->micro : 0;
}

static pare_status hash_text(pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    r->data_sha256 = pare_calloc(o->n_data, sizeof *r->data_sha256);
    if (!r->data_sha256) return fail_memory(err);
    for (size_t i = 0; i < o->n_data; i++)
        PARE_TRY(pare_file_sha256(r->data_sha256[i], o->data[i], r->rt, err));
    return o->val ? pare_file_sha256(r->val_sha256, o->val, r->rt, err) : PARE_OK;
}

/* path NULL: none. */
static pare_status add_model(json_t *f, const char *key, const char *path, pare_runtime *rt,
                             pare_error *err) {
    char sha[65];
    pare_source *s;
    if (!path) return PARE_OK;
    PARE_TRY(pare_source_open(&s, path, err));
    pare_status st = pare_source_sha256(sha, s, rt, err);
    pare_source_close(s);
    if (st == PARE_OK) json_object_set_new(f, key, json_string(sha));
    return st;
}

static json_t *shape_json(const pare_train_shape *s) {
    return json_pack("{s:s?, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I}", "arch", s->arch, "dim",
                     (json_int_t)s->dim, "layers", (json_int_t)s->n_layers, "heads",
                     (json_int_t)s->n_heads, "kv_heads", (json_int_t)s->n_kv_heads, "head_dim",
                     (json_int_t)s->head_dim, "ffn_dim", (json_int_t)s->ffn_dim, "untied",
                     s->untied, "vocab", (json_int_t)s->vocab_size);
}

/* Of a file, or of a folder's files of a tokenizer. */
static pare_status add_tokenizer(json_t *f, const char *path, pare_runtime *rt, pare_error *err) {
    char sha[65];
    if (!pare_path_is_folder(path)) {
        PARE_TRY(pare_file_sha256(sha, path, rt, err));
        json_object_set_new(f, "tokenizer", json_string(sha));
        return PARE_OK;
    }
    json_t *all = json_object();
    pare_status st = PARE_OK;
    for (size_t i = 0; pare_train_tokenizer_files[i] && st == PARE_OK; i++) {
        char *file = pare_path_join(path, pare_train_tokenizer_files[i]);
        if (!file) st = fail_memory(err);
        if (file && pare_path_exists(file)) {
            st = pare_file_sha256(sha, file, rt, err);
            json_object_set_new(all, pare_train_tokenizer_files[i], json_string(sha));
        }
        pare_free(file);
    }
    json_object_set_new(f, "tokenizer", all);
    return st;
}

static pare_status add_files(json_t *f, pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    PARE_TRY(hash_text(r, err));
    json_t *data = json_array();
    for (size_t i = 0; i < o->n_data; i++)
        json_array_append_new(data, json_string(r->data_sha256[i]));
    json_object_set_new(f, "data", data);
    if (o->val) json_object_set_new(f, "val", json_string(r->val_sha256));
    PARE_TRY(add_model(f, "from", o->from, r->rt, err));
    PARE_TRY(add_model(f, "distill", o->distill, r->rt, err));
    PARE_TRY(add_tokenizer(f, o->from ? o->from : o->shape.tokenizer, r->rt, err));
    if (o->from) return PARE_OK;
    json_object_set_new(f, "shape", shape_json(&o->shape));
    if (!o->shape.config) return PARE_OK;
    char sha[65];
    PARE_TRY(pare_file_sha256(sha, o->shape.config, r->rt, err));
    json_object_set_new(f, "config", json_string(sha));
    return PARE_OK;
}

pare_status pare_train_fingerprint(json_t **out, pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    size_t failures = pare_json_failures();
    json_t *f = json_pack("{s:s, s:I, s:I, s:I, s:s, s:I, s:f, s:f, s:f, s:s, s:s, s:s?, s:I, s:s}",
                          "version", PARE_VERSION, "batch", (json_int_t)o->batch, "micro_batch",
                          (json_int_t)micro_of_result(r), "ctx", (json_int_t)o->ctx, "schedule",
                          o->schedule, "warmup", (json_int_t)pare_train_warmup(o), "min_lr",
                          o->min_lr, "clip", o->clip, "val_share", o->val_share, "optim", o->optim,
                          "compute", r->compute == PARE_COMPUTE_FAST ? "fast" : "exact", "sparsity",
                          o->sparsity, "seed", (json_int_t)pare_runtime_seed(r->rt), "isa",
                          pare_isa_name(pare_runtime_isa(r->rt)));
    *out = f;
    if (!f) return fail_memory(err);
    PARE_TRY(add_files(f, r, err));
    json_object_set_new(f, "eval_every", json_integer((json_int_t)o->eval_every));
    json_object_set_new(f, "eval_windows", json_integer((json_int_t)o->eval_windows));
    json_object_set_new(f, "log_every", json_integer((json_int_t)o->log_every));
    json_object_set_new(f, "deterministic", json_boolean(pare_runtime_deterministic(r->rt)));
    json_object_set_new(f, "ema", json_real(o->ema));
    json_object_set_new(f, "keep_best", json_boolean(o->keep_best));
    if (o->lr_scale) json_object_set_new(f, "lr_scale", json_string(o->lr_scale));
    if (r->top_k.text) json_object_set_new(f, "act_sparsity", json_string(r->top_k.text));
    if (r->adapter.text) json_object_set_new(f, "adapter", json_string(r->adapter.text));
    if (o->distill) {
        json_object_set_new(f, "temperature", json_real(o->temperature));
        json_object_set_new(f, "hard", json_real(o->hard));
    }
    return pare_json_failures() == failures ? PARE_OK : fail_memory(err);
}

/* Only the warm-up differs, which nobody gave: what was changed is the number of steps. */
static pare_status check_default_warmup(const pare_train_run *r, const pare_work *earlier,
                                        json_t *fingerprint, pare_error *err) {
    json_t *then = json_object_get(pare_work_fingerprint(earlier), "warmup"),
           *now = json_object_get(fingerprint, "warmup");
    if (r->o->warmup != UINT64_MAX || !then || json_equal(then, now)) return PARE_OK;
    json_t *alike = json_copy(fingerprint);
    pare_error other;
    bool alone = alike && json_object_set(alike, "warmup", then) == 0 &&
                 pare_work_compare(earlier, alike, &other) == PARE_OK;
    json_decref(alike);
    if (!alone) return PARE_OK; /* the fields are named as ever */
    if (pare_train_trunk(r->o) == 0 && pare_work_kept(earlier, "checkpoint"))
        return pare_train_fail_steps(r, earlier, err);
    return pare_fail(err, PARE_ERR_ARG,
                     "%s: steps: found %llu, of which the warm-up is %lld where none is given, "
                     "expected the %lld steps of warm-up that the unfinished run in it has: give "
                     "them as its warm-up (or --restart, which drops it)",
                     pare_work_path(earlier), (unsigned long long)r->o->steps,
                     (long long)json_integer_value(now), (long long)json_integer_value(then));
}

pare_status pare_train_check_earlier(const pare_train_run *r, json_t *fingerprint,
                                     pare_error *err) {
    const pare_train_options *o = r->planned ? r->planned : r->o;
    pare_work *earlier;
    if (o->restart || pare_group_rank() > 0) return PARE_OK;
    PARE_TRY(pare_work_look(&earlier, r->rt, o->out, err));
    if (!earlier) return PARE_OK;
    pare_status st = check_default_warmup(r, earlier, fingerprint, err);
    if (st == PARE_OK && r->planned) st = pare_work_compare(earlier, fingerprint, err);
    pare_work_close(earlier);
    return st;
}
