/* pare_describe: what a model's headers say, and the check of every byte behind them. */
#include "pare/model.h"

#include "base/runtime.h"
#include "io/gguf.h"
#include "io/json.h"
#include "model/act.h"
#include "model/kv_cache.h"
#include "model/prefix.h"
#include "model/source.h"
#include "text/vocab.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct pare_description {
    pare_source *source;
    pare_model_info info;
    pare_tensor_info *tensors;
    char **acts; /* [n_acts] texts of schemes, each once */
    size_t n_acts;
    char tokenizer[160];
    size_t prefix_bytes;
};

/* general.file_type in GGUF files: the mixes of llama.cpp's quantizer. */
static const char *file_type_name(uint32_t type) {
    static const char *const names[] = {
        [0] = "F32",      [1] = "F16",      [2] = "Q4_0",    [3] = "Q4_1",    [7] = "Q8_0",
        [8] = "Q5_0",     [9] = "Q5_1",     [10] = "Q2_K",   [11] = "Q3_K_S", [12] = "Q3_K_M",
        [13] = "Q3_K_L",  [14] = "Q4_K_S",  [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M",
        [18] = "Q6_K",    [19] = "IQ2_XXS", [20] = "IQ2_XS", [21] = "Q2_K_S", [22] = "IQ3_XS",
        [23] = "IQ3_XXS", [24] = "IQ1_S",   [25] = "IQ4_NL", [26] = "IQ3_S",  [27] = "IQ3_M",
        [28] = "IQ2_S",   [29] = "IQ2_M",   [30] = "IQ4_XS", [31] = "IQ1_M",  [32] = "BF16",
        [36] = "TQ1_0",   [37] = "TQ2_0"};
    type &= 1023; /* 1024 says "guessed" */
    return type < sizeof names / sizeof names[0] && names[type] ? names[type] : "";
}

static pare_status describe_gguf(pare_description *d, const pare_gguf *g, pare_error *err) {
    pare_model_info *info = &d->info;
    uint32_t type = UINT32_MAX;
    PARE_TRY(pare_gguf_str(g, "general.name", PARE_OPTIONAL, &info->name, err));
    PARE_TRY(pare_gguf_u32(g, "general.file_type", PARE_OPTIONAL, 0, UINT32_MAX, &type, err));
    if (type != UINT32_MAX) info->file_type = file_type_name(type);
    return PARE_OK;
}

static pare_status describe_hf(pare_description *d, pare_error *err) {
    d->info.file_type = pare_source_packing(d->source);
    return pare_json_str(pare_source_config_json(d->source), "_name_or_path", PARE_OPTIONAL,
                         &d->info.name, err);
}

/* A tokenizer that is broken is an error, one of a kind that pare does not know is told. */
static pare_status describe_tokenizer(pare_description *d, pare_error *err) {
    pare_tokenizer *tok;
    pare_error own = {0};
    pare_status st = pare_tokenizer_of_model(&tok, pare_source_gguf(d->source),
                                             pare_source_path(d->source), &own);
    if (st == PARE_ERR_UNSUPPORTED)
        snprintf(d->tokenizer, sizeof d->tokenizer, "unknown: %.*s",
                 pare_clip(own.message, strlen(own.message), 140), own.message);
    else if (st != PARE_OK)
        return pare_fail(err, st, "%s", own.message);
    else if (tok)
        snprintf(d->tokenizer, sizeof d->tokenizer, "%s", pare_tokenizer_describe(tok));
    pare_tokenizer_free(tok);
    return PARE_OK;
}

/* The folder's cushion, all of it: it is small. */
static pare_status describe_prefix(pare_description *d, pare_error *err) {
    char *path;
    pare_prefix *p = NULL;
    PARE_TRY(pare_prefix_path_of(&path, d->source, err));
    pare_status st =
        path ? pare_prefix_load(&p, pare_source_config(d->source), path, err) : PARE_OK;
    if (p) {
        d->info.prefix_length = p->attn.n;
        d->prefix_bytes = p->bytes;
    }
    pare_prefix_free(p);
    pare_free(path);
    return st;
}

/* The text of a scheme, of which a matrix before may have had the same. */
static pare_status describe_act(const char **out, pare_description *d, const pare_act_scheme *s,
                                pare_error *err) {
    char text[PARE_ACT_TEXT];
    *out = NULL;
    if (!s->bits) return PARE_OK;
    pare_act_scheme_text(text, s, s->bmm);
    for (size_t i = 0; i < d->n_acts && !*out; i++)
        if (strcmp(d->acts[i], text) == 0) *out = d->acts[i];
    if (*out) return PARE_OK;
    char **more = pare_realloc(d->acts, d->n_acts + 1, sizeof *more);
    if (more) d->acts = more;
    if (!more || !(d->acts[d->n_acts] = pare_strdup(text)))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: inputs", pare_source_path(d->source));
    *out = d->acts[d->n_acts++];
    return PARE_OK;
}

static pare_status describe(pare_description *d, pare_error *err) {
    const pare_source *s = d->source;
    const pare_model_config *c = pare_source_config(s);
    pare_model_info *info = &d->info;
    size_t n = pare_source_n_tensors(s);
    *info = (pare_model_info){.format = pare_source_format(s),
                              .arch = c->arch,
                              .name = "",
                              .tokenizer = d->tokenizer,
                              .file_type = "",
                              .n_layers = c->n_layers,
                              .dim = c->dim,
                              .ffn_dim = c->ffn_dim,
                              .n_heads = c->n_heads,
                              .n_kv_heads = c->n_kv_heads,
                              .head_dim = c->head_dim,
                              .vocab_size = c->vocab_size,
                              .ctx_max = c->ctx_max,
                              .sliding_window = c->window,
                              .tied_embeddings = c->tied,
                              .n_tensors = n};
    d->tensors = pare_calloc(n, sizeof *d->tensors);
    if (!d->tensors)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: list of tensors", pare_source_path(s));
    info->tensors = d->tensors;
    for (size_t i = 0; i < n; i++) {
        const pare_source_tensor *t = pare_source_tensor_at(s, i);
        d->tensors[i] = (pare_tensor_info){.name = t->name,
                                           .canonical = t->canonical,
                                           .encoding = t->type,
                                           .n_dims = t->n_dims,
                                           .n_bytes = t->n_bytes,
                                           .n_params = t->n_params};
        memcpy(d->tensors[i].dims, t->dims, sizeof t->dims);
        PARE_TRY(describe_act(&d->tensors[i].act, d, &t->act, err));
        if (!t->canonical) continue;
        info->n_params += t->n_params;
        info->tensor_bytes += t->n_bytes;
    }
    for (size_t i = 0; i < pare_source_n_files(s); i++)
        info->file_bytes += pare_source_file(s, i)->size;
    if (info->n_params)
        info->bits_per_weight = 8.0 * (double)info->tensor_bytes / (double)info->n_params;
    const pare_gguf *g = pare_source_gguf(s);
    PARE_TRY(g ? describe_gguf(d, g, err) : describe_hf(d, err));
    PARE_TRY(describe_prefix(d, err));
    return describe_tokenizer(d, err);
}

pare_status pare_describe(pare_description **out, const char *path, pare_error *err) {
    *out = NULL;
    pare_description *d = pare_calloc(1, sizeof *d);
    if (!d) return pare_fail(err, PARE_ERR_NOMEM, "%s: the description", path);
    pare_status st = pare_source_open(&d->source, path, err);
    if (st == PARE_OK) st = describe(d, err);
    if (st != PARE_OK) {
        pare_description_free(d);
        return st;
    }
    *out = d;
    return PARE_OK;
}

const pare_model_info *pare_description_info(const pare_description *d) { return &d->info; }

void pare_description_free(pare_description *d) {
    if (!d) return;
    pare_source_close(d->source);
    for (size_t i = 0; i < d->n_acts; i++) pare_free(d->acts[i]);
    pare_free(d->acts);
    pare_free(d->tensors);
    pare_free(d);
}

pare_status pare_description_kv_bytes(const pare_description *d, size_t n_ctx, const char *kv,
                                      uint64_t *bytes, pare_error *err) {
    pare_kv_spec spec;
    size_t n_batch = n_ctx < 512 ? n_ctx : 512, total; /* the session's default */
    PARE_TRY(pare_kv_spec_make(&spec, pare_source_config(d->source), kv, n_ctx, n_batch, err));
    PARE_TRY(pare_kv_cache_bytes(&total, &spec, err));
    *bytes = (uint64_t)total + d->prefix_bytes;
    return PARE_OK;
}

/* ---- verification ---- */

typedef struct finite_job {
    const pare_tensor *t;
    float *rows; /* [n_threads][cols] */
    size_t grain;
    _Atomic uint64_t n_bad, first; /* index of the first value that is no number */
} finite_job;

static void check_rows(pare_worker *w, void *arg) {
    finite_job *job = arg;
    const pare_view *v = &job->t->view;
    float *row = job->rows + (size_t)w->id * v->cols;
    for (size_t begin; (begin = pare_take(w, job->grain)) < v->rows;)
        for (size_t r = begin; r < v->rows && r < begin + job->grain; r++) {
            job->t->enc->decode(row, v, r, 0, v->cols);
            for (size_t i = 0; i < v->cols; i++) {
                if (isfinite(row[i])) continue;
                uint64_t at = (uint64_t)r * v->cols + i, first = atomic_load(&job->first);
                atomic_fetch_add(&job->n_bad, 1);
                while (at < first && !atomic_compare_exchange_weak(&job->first, &first, at)) {
                }
            }
        }
}

static pare_status verify_tensor(const pare_source *s, const pare_source_tensor *t,
                                 pare_runtime *rt, pare_error *err) {
    pare_tensor tensor;
    PARE_TRY(pare_source_read(s, t, false, &tensor, err));
    finite_job job = {.t = &tensor, .grain = 16, .first = UINT64_MAX};
    job.rows = pare_malloc((size_t)pare_runtime_threads(rt) * tensor.view.cols, sizeof(float));
    if (!job.rows) {
        pare_tensor_free(&tensor);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: rows of %zu values", t->name, tensor.view.cols);
    }
    pare_team_run(rt, check_rows, &job);
    pare_free(job.rows);
    pare_tensor_free(&tensor);
    if (!job.n_bad) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: %s: value %llu: found NaN or Inf, %llu in all, expected numbers",
                     pare_source_file(s, t->file[0])->path, t->name, (unsigned long long)job.first,
                     (unsigned long long)job.n_bad);
}

pare_status pare_description_verify(const pare_description *d, pare_runtime *rt, pare_error *err) {
    const pare_source *s = d->source;
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < d->info.n_tensors; i++) total += pare_source_tensor_at(s, i)->n_bytes;
    PARE_TRY(pare_source_check_complete(s, err));
    for (size_t i = 0; i < d->info.n_tensors; i++) {
        const pare_source_tensor *t = pare_source_tensor_at(s, i);
        PARE_TRY(pare_check_cancel(rt, err));
        /* a type without encoding: integers and masks that no model computes with */
        if (t->n_params && (t->enc || t->canonical)) PARE_TRY(verify_tensor(s, t, rt, err));
        done += t->n_bytes;
        pare_progress(rt, "verify", (double)done, (double)total, "bytes");
    }
    return PARE_OK;
}
