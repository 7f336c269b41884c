#include "model/source_internal.h"

#include "base/file_digest.h"
#include "base/memory.h"
#include "io/ggml_types.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t pare_extent_length(pare_extent x, const pare_model_config *c) {
    size_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    switch (x) {
    case PARE_X_NONE:
        return 1;
    case PARE_X_DIM:
        return c->dim;
    case PARE_X_FFN:
        return c->ffn_dim;
    case PARE_X_Q:
        return q;
    case PARE_X_KV:
        return kv;
    case PARE_X_QKV:
        return q + 2 * kv;
    case PARE_X_HEAD:
        return c->head_dim;
    case PARE_X_HALF_HEAD:
        return c->head_dim / 2;
    case PARE_X_VOCAB:
        return c->vocab_size;
    case PARE_X_POS:
        return c->ctx_max + c->pos_offset;
    case PARE_X_EMBED:
        return c->embed_dim;
    }
    return 0;
}

static pare_name_form form_of(const pare_source *s) {
    return s->gguf ? PARE_NAMES_GGUF : PARE_NAMES_HF;
}

size_t pare_source_n_files(const pare_source *s) {
    return s->gguf ? pare_gguf_n_files(s->gguf) : pare_st_n_files(s->st);
}

const pare_file *pare_source_file(const pare_source *s, size_t i) {
    return s->gguf ? pare_gguf_file(s->gguf, i) : pare_st_file(s->st, i);
}

const char *source_file_path(const pare_source *s, const pare_source_tensor *t) {
    return pare_source_file(s, t->file[0])->path;
}

void source_expected_shape(const pare_source *s, const pare_name *name, unsigned fix,
                           size_t *n_dims, size_t dims[2]) {
    size_t out = pare_extent_length(name->spec->out, &s->config);
    size_t in = pare_extent_length(name->spec->in, &s->config);
    bool vector = name->spec->out == PARE_X_NONE;
    *n_dims = vector || name->is_bias ? 1 : 2;
    dims[0] = vector ? in : out;
    dims[1] = in;
    if (*n_dims == 2 && (fix & PARE_FIX_TRANSPOSE)) {
        dims[0] = in;
        dims[1] = out;
    }
}

pare_status source_reserve(pare_source *s, size_t n, pare_error *err) {
    s->tensors = pare_calloc(n, sizeof *s->tensors);
    s->owned = pare_calloc(n, sizeof *s->owned);
    s->capacity = n;
    if (!s->tensors || !s->owned)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: list of %zu tensors", s->path, n);
    return PARE_OK;
}

static void print_shape(char out[120], const size_t *dims, size_t n_dims) {
    size_t used = (size_t)snprintf(out, 120, "[");
    for (size_t i = 0; i < n_dims; i++)
        used += (size_t)snprintf(out + used, 120 - used, "%s%zu", i ? ", " : "", dims[i]);
    snprintf(out + used, 120 - used, "]");
}

static pare_status check_shape(const pare_source *s, const pare_source_tensor *t,
                               const pare_name *name, pare_error *err) {
    size_t n_dims, dims[2];
    source_expected_shape(s, name, t->fix, &n_dims, dims);
    if (t->n_dims == n_dims && t->dims[0] == dims[0] && (n_dims == 1 || t->dims[1] == dims[1]))
        return PARE_OK;
    char found[120], expected[120];
    print_shape(found, t->dims, t->n_dims);
    print_shape(expected, dims, n_dims);
    return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found shape %s, expected %s",
                     source_file_path(s, t), t->name, found, expected);
}

pare_status source_add(pare_source *s, const pare_source_tensor *tensor, bool canonical_form,
                       pare_error *err) {
    pare_source_tensor *t = &s->tensors[s->n_tensors];
    *t = *tensor;
    pare_name name;
    bool known = pare_name_parse(&name, s->arch, form_of(s), t->name);
    bool beyond = known && name.layer != SIZE_MAX && name.layer >= s->config.n_layers;
    s->n_beyond += beyond;
    if (known && !beyond) {
        if (!canonical_form) t->fix = pare_name_fix(&name, form_of(s));
        PARE_TRY(check_shape(s, t, &name, err));
        char canonical[PARE_NAME_MAX];
        pare_name_print(canonical, &name, PARE_NAMES_GGUF);
        t->canonical = s->owned[s->n_tensors] = pare_strdup(canonical);
        int added = t->canonical ? pare_table_add(&s->by_canonical, t->canonical, strlen(canonical),
                                                  (int64_t)s->n_tensors)
                                 : -1;
        if (added < 0) return pare_fail(err, PARE_ERR_NOMEM, "%s: names of tensors", s->path);
        if (added == 0)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: %s: found a second tensor for %s, expected one",
                             source_file_path(s, t), t->name, canonical);
    }
    s->n_tensors++;
    return PARE_OK;
}

static pare_status open_gguf(pare_source *s, pare_error *err) {
    PARE_TRY(pare_gguf_open(&s->gguf, s->path, err));
    PARE_TRY(pare_config_from_gguf(&s->config, &s->arch, s->gguf, err));
    size_t n = pare_gguf_n_tensors(s->gguf);
    PARE_TRY(source_reserve(s, n, err));
    for (size_t i = 0; i < n; i++) {
        const pare_gguf_tensor *g = pare_gguf_tensor_at(s->gguf, i);
        pare_source_tensor t = {.name = g->name,
                                .enc = pare_encoding_from_ggml((int)g->type),
                                .type = pare_ggml_type_at(g->type)->name,
                                .n_params = g->n_elements,
                                .n_bytes = g->n_bytes,
                                .n_parts = 1,
                                .file = {g->file},
                                .offset = {g->offset},
                                .bytes = {g->n_bytes}};
        pare_gguf_shape(g, &t.n_dims, t.dims);
        PARE_TRY(source_add(s, &t, false, err));
    }
    return PARE_OK;
}

static pare_status open_any(pare_source *s, pare_error *err) {
    if (pare_path_is_folder(s->path)) {
        PARE_TRY(source_open_hf(s, err));
    } else if (pare_ends_with(s->path, ".safetensors") || pare_ends_with(s->path, ".json")) {
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found one file of a Hugging Face model, expected its folder",
                         s->path);
    } else if (pare_ends_with(s->path, ".bin") || pare_ends_with(s->path, ".pt") ||
               pare_ends_with(s->path, ".pth")) {
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: found a pickle file, which can run code and is never read; expected "
                         "safetensors or GGUF",
                         s->path);
    } else {
        PARE_TRY(open_gguf(s, err));
    }
    PARE_TRY(source_act_open(s, err));
    s->config.tied = pare_source_find(s, "output.weight") == NULL;
    return PARE_OK;
}

pare_status pare_source_open(pare_source **out, const char *path, pare_error *err) {
    *out = NULL;
    pare_source *s = pare_calloc(1, sizeof *s);
    if (s) s->path = pare_strdup(path);
    if (!s || !s->path) {
        pare_source_close(s);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: the model's description", path);
    }
    pare_status st = open_any(s, err);
    if (st != PARE_OK) {
        pare_source_close(s);
        return st;
    }
    *out = s;
    return PARE_OK;
}

void pare_source_close(pare_source *s) {
    if (!s) return;
    for (size_t i = 0; s->owned && i < s->capacity; i++) pare_free(s->owned[i]);
    pare_free(s->owned);
    pare_free(s->tensors);
    for (size_t i = 0; i < s->n_made; i++) pare_free(s->made[i]);
    pare_free(s->made);
    for (size_t i = 0; i < s->n_notes; i++) pare_free(s->notes[i]);
    pare_table_free(&s->by_canonical);
    pare_gguf_close(s->gguf);
    pare_st_close(s->st);
    pare_json_free(&s->config_json);
    pare_free(s->path);
    pare_free(s);
}

static pare_status require(const pare_source *s, const pare_weight_spec *spec, size_t layer,
                           pare_error *err) {
    const pare_model_config *c = &s->config;
    /* OPT's oddities: modules that the configuration switches on and off */
    bool projection = spec->in == PARE_X_EMBED && spec->out == PARE_X_DIM;
    projection |= spec->in == PARE_X_DIM && spec->out == PARE_X_EMBED;
    bool optional = spec->flags & PARE_WEIGHT_OPTIONAL;
    if (projection) optional = c->embed_dim == c->dim;
    if (strcmp(spec->name, "output_norm") == 0) optional = !c->final_norm;

    pare_name name = {spec, layer, "weight", false};
    char text[PARE_NAME_MAX], shown[PARE_NAME_MAX];
    pare_name_print(text, &name, PARE_NAMES_GGUF);
    bool there = pare_source_find(s, text) != NULL;
    if (there || optional) {
        if (!there || !(spec->flags & PARE_BIAS_REQUIRED)) return PARE_OK;
        name.leaf = "bias";
        pare_name_print(text, &name, PARE_NAMES_GGUF);
        if (pare_source_find(s, text)) return PARE_OK;
    }
    pare_name_print(shown, &name, form_of(s));
    return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found no such tensor, expected one (%s)",
                     s->path, shown, c->arch);
}

pare_status pare_source_check_complete(const pare_source *s, pare_error *err) {
    for (const pare_weight_spec *spec = s->arch->weights; spec->name; spec++) {
        bool layered = strchr(spec->name, '#') != NULL;
        for (size_t l = 0; l < (layered ? s->config.n_layers : 1); l++)
            PARE_TRY(require(s, spec, layered ? l : SIZE_MAX, err));
    }
    return PARE_OK;
}

pare_status pare_source_sha256(char hex[65], const pare_source *s, pare_runtime *rt,
                               pare_error *err) {
    pare_sha256 h;
    pare_sha256_init(&h);
    for (size_t i = 0; i < pare_source_n_files(s); i++)
        PARE_TRY(pare_file_digest(pare_source_file(s, i), &h, NULL, rt, err));
    const json_t *config = s->config_json.root;
    char *text = config ? json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (config && !text) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", s->path);
    if (text) pare_sha256_update(&h, text, strlen(text));
    free(text); /* jansson's */
    pare_sha256_hex(&h, hex);
    return PARE_OK;
}

const char *pare_source_path(const pare_source *s) { return s->path; }
const char *pare_source_format(const pare_source *s) { return s->gguf ? "gguf" : "hf"; }
const pare_arch *pare_source_arch(const pare_source *s) { return s->arch; }
const pare_model_config *pare_source_config(const pare_source *s) { return &s->config; }
size_t pare_source_n_beyond(const pare_source *s) { return s->n_beyond; }
const char *pare_source_note(const pare_source *s, size_t i) {
    return i < s->n_notes ? s->notes[i] : NULL;
}
const char *pare_source_packing(const pare_source *s) { return s->packing ? s->packing : ""; }
size_t pare_source_n_tensors(const pare_source *s) { return s->n_tensors; }
const pare_gguf *pare_source_gguf(const pare_source *s) { return s->gguf; }
const pare_json *pare_source_config_json(const pare_source *s) { return &s->config_json; }

const pare_source_tensor *pare_source_tensor_at(const pare_source *s, size_t i) {
    return &s->tensors[i];
}

const pare_source_tensor *pare_source_find(const pare_source *s, const char *canonical) {
    int64_t i = pare_table_get(&s->by_canonical, canonical, strlen(canonical));
    return i < 0 ? NULL : &s->tensors[i];
}
