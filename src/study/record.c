/* One record: its memory, what calls have returned, JSON. */
#include "study/record_columns.h"

#include "base/memory.h"
#include "io/common.h"
#include "io/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Blocks in a list: records are small, and all of one goes at once. */
struct pare_record_memory {
    struct pare_record_memory *next;
    _Alignas(16) char bytes[];
};

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "record: out of memory");
}

void *pare_record_calloc(pare_record *r, size_t count, size_t size) {
    size_t n;
    if (!pare_mul_size(&n, count, size) || !pare_add_size(&n, n, sizeof *r->memory)) return NULL;
    struct pare_record_memory *block = pare_calloc(n, 1);
    if (!block) return NULL;
    block->next = r->memory;
    r->memory = block;
    return block->bytes;
}

char *pare_record_strndup(pare_record *r, const char *text, size_t n) {
    char *copy = n < SIZE_MAX ? pare_record_calloc(r, n + 1, 1) : NULL;
    if (copy) memcpy(copy, text, n);
    return copy;
}

pare_status pare_record_blank(pare_record **out, pare_error *err) {
    *out = pare_calloc(1, sizeof **out);
    if (!*out) return fail_memory(err);
    pare_columns_clear(pare_record_columns, *out);
    return PARE_OK;
}

pare_status pare_record_new(pare_record **out, const char *verb, const pare_runtime *rt,
                            pare_error *err) {
    PARE_TRY(pare_record_blank(out, err));
    pare_record *r = *out;
    r->verb = verb;
    r->version = PARE_VERSION;
    r->status = "ok";
    r->cpu = pare_cpu_name();
    r->isa = pare_isa_name(rt ? pare_runtime_isa(rt) : pare_isa_best());
    if (!rt) return PARE_OK;
    r->threads = pare_runtime_threads(rt);
    r->seed = (int64_t)pare_runtime_seed(rt);
    r->deterministic = pare_runtime_deterministic(rt);
    return PARE_OK;
}

void pare_record_free(pare_record *r) {
    if (!r) return;
    for (struct pare_record_memory *next; r->memory; r->memory = next) {
        next = r->memory->next;
        pare_free(r->memory);
    }
    pare_free(r);
}

/* --- what calls have returned --- */

pare_status pare_record_set_compression(pare_record *r, const pare_compress_info *info,
                                        pare_error *err) {
    pare_record_layer *layers = pare_record_calloc(r, info->n_layers, sizeof *layers);
    if (!layers) return fail_memory(err);
    for (size_t i = 0; i < info->n_layers; i++) {
        const pare_layer_report *l = &info->layers[i];
        layers[i] =
            (pare_record_layer){.name = l->name,
                                .from = l->from,
                                .encoding = l->encoding,
                                .n_params = (int64_t)l->n_params,
                                .in_bytes = (int64_t)l->in_bytes,
                                .out_bytes = (int64_t)l->out_bytes,
                                .bits_per_weight = l->bits_per_weight,
                                .sparsity = l->sparsity,
                                .error = l->error,
                                .output_error = l->output_error < 0 ? (double)NAN : l->output_error,
                                .seconds = l->seconds};
        r->n_params += (int64_t)l->n_params;
    }
    r->layers = layers;
    r->n_layers = info->n_layers;
    r->fallbacks = info->fallbacks;
    r->n_fallbacks = info->n_fallbacks;
    r->recipe = info->recipe;
    r->format = info->format;
    r->in_bytes = (int64_t)info->in_bytes;
    r->out_bytes = (int64_t)info->out_bytes;
    r->bits_per_weight = info->bits_per_weight;
    r->sparsity = info->sparsity;
    r->calib_samples = (int64_t)info->calib_samples;
    r->calib_ctx = (int64_t)info->calib_ctx;
    r->keep = info->keep;
    r->true_sequential = info->true_sequential;
    if (info->calib_samples || info->prefix_search)
        r->calib_compute = info->calib_compute == PARE_COMPUTE_EXACT ? "exact" : "fast";
    if (info->calib_samples) {
        char crc[9];
        snprintf(crc, sizeof crc, "%08x", (unsigned)info->calib_crc32);
        r->calib_crc32 = pare_record_strndup(r, crc, 8);
        if (!r->calib_crc32) return fail_memory(err);
    }
    r->imatrix_sha256 = info->imatrix_sha256;
    r->seconds = info->seconds;
    r->options = info->prefix_search;
    return PARE_OK;
}

pare_status pare_record_set_perplexity(pare_record *r, const pare_perplexity *p, pare_error *err) {
    char crc[9];
    snprintf(crc, sizeof crc, "%08x", (unsigned)p->crc32);
    r->crc32 = pare_record_strndup(r, crc, 8);
    if (!r->crc32) return fail_memory(err);
    r->protocol = pare_protocol_name(p->protocol);
    r->compute = p->compute == PARE_COMPUTE_EXACT ? "exact" : "fast";
    r->ctx = (int64_t)p->ctx;
    r->n_windows = (int64_t)p->n_windows;
    r->n_scored = (int64_t)p->n_scored;
    r->n_tokens = (int64_t)p->n_tokens;
    r->ppl = p->ppl;
    r->ppl_stderr = p->ppl_stderr;
    r->nll_sum = p->nll_sum;
    r->eval_seconds = p->seconds;
    r->eval_tokens_per_s = p->tokens_per_s;
    return PARE_OK;
}

pare_status pare_record_set_tasks(pare_record *r, const pare_task_result *results,
                                  const pare_task_pair *pairs, size_t n, pare_error *err) {
    pare_record_task *tasks = pare_record_calloc(r, n, sizeof *tasks);
    if (!tasks) return fail_memory(err);
    for (size_t i = 0; i < n; i++) {
        const pare_task_result *t = &results[i];
        const pare_task_pair *p = pairs ? &pairs[i] : NULL;
        char crc[9];
        snprintf(crc, sizeof crc, "%08x", (unsigned)t->crc32);
        tasks[i] = (pare_record_task){.name = t->name,
                                      .n = (int64_t)t->n,
                                      .acc = t->acc,
                                      .acc_stderr = t->acc_stderr,
                                      .acc_norm = t->acc_norm,
                                      .acc_norm_stderr = t->acc_norm_stderr,
                                      .ppl = t->ppl,
                                      .ppl_stderr = t->ppl_stderr,
                                      .crc32 = pare_record_strndup(r, crc, 8),
                                      .bos = t->bos,
                                      .diff = p ? p->diff : (double)NAN,
                                      .diff_stderr = p ? p->diff_stderr : (double)NAN,
                                      .diff_norm = p ? p->diff_norm : (double)NAN,
                                      .diff_norm_stderr = p ? p->diff_norm_stderr : (double)NAN,
                                      .gained = p ? (int64_t)p->gained : 0,
                                      .lost = p ? (int64_t)p->lost : 0};
        if (!tasks[i].crc32) return fail_memory(err);
    }
    r->tasks = tasks;
    r->n_tasks = n;
    if (n) r->compute = results[0].compute == PARE_COMPUTE_EXACT ? "exact" : "fast";
    return PARE_OK;
}

void pare_record_set_distance(pare_record *r, const pare_distance *d) {
    r->kl_mean = d->kl_mean;
    r->kl_mean_stderr = d->kl_mean_stderr;
    r->kl_p99 = d->kl_p99;
    r->kl_max = d->kl_max;
    r->same_top = d->same_top;
    r->ppl_ratio = d->ppl_ratio;
    r->base_ppl = d->base_ppl;
}

pare_status pare_record_set_outliers(pare_record *r, const pare_outliers *o, pare_error *err) {
    char crc[9];
    snprintf(crc, sizeof crc, "%08x", (unsigned)o->crc32);
    r->crc32 = pare_record_strndup(r, crc, 8);
    pare_record_site *sites = pare_record_calloc(r, o->n_sites, sizeof *sites);
    if (!r->crc32 || !sites) return fail_memory(err);
    for (size_t i = 0; i < o->n_sites; i++) {
        const pare_outlier_site *s = &o->sites[i];
        sites[i] = (pare_record_site){.layer = (int64_t)s->layer,
                                      .site = s->name,
                                      .top1 = s->top1,
                                      .top10 = s->top10,
                                      .top10_mean = s->top10_mean,
                                      .median = s->median,
                                      .largest = s->largest,
                                      .largest_behind = s->largest_behind,
                                      .position = (int64_t)s->tokens[0].position,
                                      .channel = (int64_t)s->tokens[0].channel,
                                      .token_id = s->tokens[0].id,
                                      .attention_first = o->attention_first[s->layer],
                                      .attention_prefix = o->attention_prefix[s->layer]};
    }
    r->sites = sites;
    r->n_sites = o->n_sites;
    r->protocol = pare_protocol_name(PARE_PROTOCOL_HF);
    r->compute = o->compute == PARE_COMPUTE_EXACT ? "exact" : "fast";
    r->ctx = (int64_t)o->ctx;
    r->n_windows = (int64_t)o->n_windows;
    r->n_tokens = (int64_t)o->n_text;
    r->seconds = o->seconds;
    return PARE_OK;
}

/* --- JSON --- */

static json_t *text_json(const char *text) {
    size_t n = strlen(text);
    if (pare_utf8_valid(text, n)) return json_stringn_nocheck(text, n);
    pare_buffer b = {0};
    for (size_t i = 0; i < n;) {
        size_t len = 1;
        while (len < 4 && i + len < n && !pare_utf8_valid(text + i, len)) len++;
        bool valid = pare_utf8_valid(text + i, len);
        pare_buffer_add(&b, valid ? text + i : "\xEF\xBF\xBD", valid ? len : 3);
        i += valid ? len : 1;
    }
    json_t *out = b.failed ? NULL : json_stringn_nocheck((const char *)b.data, b.n);
    pare_buffer_free(&b);
    return out;
}

static json_t *item_json(const pare_column *table, const void *item) {
    json_t *o = json_object();
    for (const pare_column *c = table; o && c->name; c++) {
        json_t *v = !pare_column_known(c, item)   ? json_null()
                    : c->type == PARE_COLUMN_TEXT ? text_json(pare_column_text(c, item))
                    : c->type == PARE_COLUMN_REAL ? json_real(pare_column_real(c, item))
                                                  : json_integer(pare_column_int(c, item));
        if (json_object_set_new(o, c->name, v) == 0) continue;
        json_decref(o);
        o = NULL;
    }
    return o;
}

static json_t *list_json(const pare_column *table, const void *items, size_t n, size_t size) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) {
        if (json_array_append_new(list, item_json(table, (const char *)items + i * size)) == 0)
            continue;
        json_decref(list);
        list = NULL;
    }
    return list;
}

static json_t *lines_json(const char *const *lines, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, text_json(lines[i]));
    return list;
}

pare_status pare_record_json(char **text, const pare_record *r, bool details, pare_error *err) {
    size_t failures = pare_json_failures();
    json_t *o = item_json(pare_record_columns, r);
    if (o && details) {
        json_object_set_new(
            o, "layers", list_json(pare_layer_columns, r->layers, r->n_layers, sizeof *r->layers));
        json_object_set_new(o, "tasks",
                            list_json(pare_task_columns, r->tasks, r->n_tasks, sizeof *r->tasks));
        json_object_set_new(o, "curve",
                            list_json(pare_point_columns, r->curve, r->n_curve, sizeof *r->curve));
        json_object_set_new(o, "sites",
                            list_json(pare_site_columns, r->sites, r->n_sites, sizeof *r->sites));
        json_object_set_new(o, "fallbacks", lines_json(r->fallbacks, r->n_fallbacks));
    }
    char *dumped = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(o);
    *text = dumped && pare_json_failures() == failures ? pare_strdup(dumped) : NULL;
    free(dumped);
    return *text ? PARE_OK : fail_memory(err);
}

void pare_text_free(char *text) { pare_free(text); }
