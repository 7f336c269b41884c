/* The record of a training: what was asked for as text, what came of it, the curve from its log. */
#include "study/record_columns.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/runtime.h"
#include "io/common.h"
#include "io/json.h"

#include <math.h>
#include <string.h>

enum { MAX_LOG = 1 << 28 };

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "record: out of memory");
}

static const char *taken(pare_record *r, pare_buffer *b) {
    const char *text = b->failed ? NULL : pare_record_strndup(r, (const char *)b->data, b->n);
    pare_buffer_free(b);
    return text;
}

/* What made the model, in the place of a recipe. */
static const char *recipe_text(pare_record *r, const pare_train_options *o) {
    pare_buffer b = {0};
    pare_buffer_print(&b, "train: %s, %llu steps", o->optim, (unsigned long long)o->steps);
    if (o->lr_scale) pare_buffer_print(&b, ", lr_scale %s", o->lr_scale);
    if (o->adapter) pare_buffer_print(&b, ", %s", o->adapter);
    if (o->sparsity) pare_buffer_print(&b, ", %s", o->sparsity);
    if (o->act_sparsity) pare_buffer_print(&b, ", activations %s", o->act_sparsity);
    if (o->distill) pare_buffer_print(&b, ", distilled");
    if (o->ema > 0) pare_buffer_print(&b, ", ema %g", o->ema);
    if (o->keep_best) pare_buffer_print(&b, ", best");
    return taken(r, &b);
}

static const char *options_text(pare_record *r, const pare_train_options *o,
                                const pare_train_report *report) {
    const pare_train_shape *s = &o->shape;
    pare_buffer b = {0};
    pare_buffer_print(&b, "steps=%llu batch=%zu ctx=%zu schedule=%s", (unsigned long long)o->steps,
                      o->batch, o->ctx, o->schedule);
    if (o->micro_batch) pare_buffer_print(&b, " micro_batch=%zu", o->micro_batch);
    if (o->warmup != UINT64_MAX)
        pare_buffer_print(&b, " warmup=%llu", (unsigned long long)o->warmup);
    pare_buffer_print(&b, " min_lr=%g clip=%g", o->min_lr, o->clip);
    if (!o->val) pare_buffer_print(&b, " val_share=%g", o->val_share);
    pare_buffer_print(&b, " eval_windows=%zu eval_every=%llu", o->eval_windows,
                      (unsigned long long)o->eval_every);
    if (o->distill) pare_buffer_print(&b, " temperature=%g hard=%g", o->temperature, o->hard);
    if (!o->from && s->config) pare_buffer_print(&b, " config=%s", s->config);
    if (!o->from && !s->config)
        pare_buffer_print(&b, " arch=%s dim=%zu layers=%zu heads=%zu kv_heads=%zu ffn_dim=%zu%s",
                          s->arch, s->dim, s->n_layers, s->n_heads, s->n_kv_heads, s->ffn_dim,
                          s->untied ? " untied" : "");
    if (!o->from) pare_buffer_print(&b, " tokenizer=%s vocab=%zu", s->tokenizer, s->vocab_size);
    if (o->recompute) pare_buffer_print(&b, " recompute");
    if (report->n_skipped)
        pare_buffer_print(&b, "; %llu steps left out", (unsigned long long)report->n_skipped);
    return taken(r, &b);
}

static const char *data_text(pare_record *r, const pare_train_options *o) {
    pare_buffer b = {0};
    for (size_t i = 0; i < o->n_data; i++) pare_buffer_print(&b, "%s%s", i ? "\n" : "", o->data[i]);
    return taken(r, &b);
}

/* --- the curve --- */

static double number_of(const json_t *line, const char *key) {
    const json_t *v = json_object_get(line, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static bool read_line(pare_record_point *p, const char *text, size_t n) {
    json_t *line = json_loadb(text, n, 0, NULL);
    if (!json_is_object(line)) {
        json_decref(line);
        return false;
    }
    *p = (pare_record_point){.step = json_integer_value(json_object_get(line, "step")),
                             .loss = number_of(line, "loss"),
                             .val_loss = number_of(line, "val_loss"),
                             .lr = number_of(line, "lr"),
                             .grad_norm = number_of(line, "grad_norm"),
                             .sparsity = number_of(line, "sparsity")};
    json_decref(line);
    return true;
}

static pare_status read_curve(pare_record *r, const char *path, const char *text, size_t n,
                              pare_error *err) {
    size_t lines = 1, failures = pare_json_failures();
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    pare_record_point *points = pare_record_calloc(r, lines, sizeof *points);
    if (!points) return fail_memory(err);
    r->curve = points;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        if (len && !read_line(&points[r->n_curve], text + at, len)) {
            if (pare_json_failures() != failures) return fail_memory(err);
            return pare_fail(err, PARE_ERR_INPUT, "%s: line %zu: found no JSON object", path,
                             r->n_curve + 1);
        }
        r->n_curve += len > 0;
        at += len + 1;
    }
    return PARE_OK;
}

pare_status pare_record_set_training(pare_record *r, const pare_train_options *o,
                                     const pare_train_report *report, pare_error *err) {
    r->model = o->from;
    r->out = o->out;
    r->teacher = o->distill;
    r->text = o->val;
    r->format = o->adapter ? "peft" : "hf";
    r->recipe = recipe_text(r, o);
    r->options = options_text(r, o, report);
    r->data = data_text(r, o);
    if (!r->recipe || !r->options || !r->data) return fail_memory(err);
    r->compute = o->adapter || o->compute == PARE_COMPUTE_EXACT ? "exact" : "fast";
    r->ctx = (int64_t)o->ctx;
    r->steps = (int64_t)report->steps;
    r->train_tokens = (int64_t)report->tokens;
    r->train_loss = report->loss;
    r->val_loss = report->val_loss;
    r->val_ppl = report->val_ppl;
    r->val_step = (int64_t)report->val_step;
    r->first_val_loss = report->first_val_loss;
    r->sparsity = report->sparsity;
    r->train_tokens_per_s = report->tokens_per_s;
    r->seconds = report->seconds;
    r->peak_rss_bytes = (int64_t)report->peak_rss_bytes;
    char *path = pare_path_join(o->out, "train_log.jsonl"), *text = NULL;
    if (!path) return fail_memory(err);
    size_t n;
    pare_status st = pare_file_read_all(&text, &n, path, MAX_LOG, err);
    if (st == PARE_OK) st = read_curve(r, path, text, n, err);
    pare_free(text);
    pare_free(path);
    return st;
}
