#include "pipeline/train_init.h"

#include "base/memory.h"
#include "base/rng.h"
#include "io/json.h"
#include "io/safetensors_writer.h"
#include "model/names.h"
#include "pipeline/export_config.h"
#include "pipeline/export_tokenizer.h"
#include "text/vocab.h"

#include <math.h>
#include <string.h>

static const double DEVIATION = 0.02; /* of new matrices, where nothing else is said */

/* ---- configuration ---- */

static size_t or_else(size_t v, size_t other) { return v ? v : other; }

static pare_status check_shape(const pare_train_shape *s, pare_error *err) {
    const struct {
        const char *name;
        size_t value, most;
    } sizes[] = {{"dim", s->dim, PARE_MAX_DIM},
                 {"layers", s->n_layers, PARE_MAX_LAYERS},
                 {"heads", s->n_heads, PARE_MAX_DIM},
                 {"kv-heads", or_else(s->n_kv_heads, 1), PARE_MAX_DIM},
                 {"head-dim", or_else(s->head_dim, 1), PARE_MAX_HEAD_DIM},
                 {"ffn-dim", or_else(s->ffn_dim, 1), PARE_MAX_DIM}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return pare_fail(err, PARE_ERR_ARG, "%s: found %zu, expected 1 to %zu", sizes[i].name,
                             sizes[i].value, sizes[i].most);
    return PARE_OK;
}

/* What the file says and a training here does not do. */
static pare_status tell_without_effect(pare_runtime *rt, const pare_json *j,
                                       const pare_train_shape *s, size_t vocab_size,
                                       pare_error *err) {
    static const char *const dropouts[] = {"attention_dropout",  "hidden_dropout", "dropout",
                                           "attn_pdrop",         "embd_pdrop",     "resid_pdrop",
                                           "activation_dropout", "layerdrop"};
    for (size_t i = 0; i < sizeof dropouts / sizeof *dropouts; i++) {
        double share = 0;
        PARE_TRY(pare_json_double(j, dropouts[i], PARE_OPTIONAL, 0, 1, &share, err));
        if (share > 0)
            pare_warn(rt, "%s: %s: found %g, which has no effect: there is no dropout", s->config,
                      dropouts[i], share);
    }
    if (vocab_size != s->vocab_size)
        pare_warn(rt, "%s: vocab_size: found %zu, the model gets the tokenizer's %zu", s->config,
                  vocab_size, s->vocab_size);
    return PARE_OK;
}

/* *deviation: of new matrices, where the file says it. */
static pare_status read_config(pare_model_config *c, const pare_arch **arch, pare_runtime *rt,
                               const pare_train_shape *s, double *deviation, pare_error *err) {
    pare_json j;
    bool biases = false;
    PARE_TRY(pare_json_load(&j, s->config, PARE_JSON_CONFIG_MAX, 0, err));
    pare_status st = pare_config_from_hf(c, arch, &j, err);
    if (st == PARE_OK) st = pare_json_bool(&j, "attention_bias", PARE_OPTIONAL, &biases, err);
    if (st == PARE_OK && !biases) st = pare_json_bool(&j, "mlp_bias", PARE_OPTIONAL, &biases, err);
    if (st == PARE_OK && biases)
        st = pare_fail(
            err, PARE_ERR_UNSUPPORTED,
            "%s: attention_bias or mlp_bias: found true, expected false: a new model has no biases "
            "but those that its architecture always has",
            s->config);
    if (st == PARE_OK)
        st = pare_json_double(&j, "initializer_range", PARE_OPTIONAL, 1e-6, 1, deviation, err);
    if (st == PARE_OK) { /* absent: the class's default */
        c->tied = (*arch)->no_rope || (*arch)->scaled_embeddings;
        st = pare_json_bool(&j, "tie_word_embeddings", PARE_OPTIONAL, &c->tied, err);
    }
    if (st == PARE_OK) st = tell_without_effect(rt, &j, s, c->vocab_size, err);
    pare_json_free(&j);
    c->vocab_size = s->vocab_size;
    return st;
}

static pare_status make_config(pare_model_config *c, const pare_arch **arch, pare_runtime *rt,
                               const pare_train_shape *s, size_t ctx, double *deviation,
                               pare_error *err) {
    if (s->config) return read_config(c, arch, rt, s, deviation, err);
    *arch = pare_arch_find(s->arch);
    if (!*arch) return pare_arch_unknown("training", "arch", s->arch, false, err);
    PARE_TRY(check_shape(s, err));
    pare_config_init(c, *arch);
    bool gated = (*arch)->ffn == PARE_FFN_SILU_GLU || (*arch)->ffn == PARE_FFN_GELU_GLU;
    size_t ffn = gated ? (8 * s->dim / 3 + 31) / 32 * 32 : 4 * s->dim;
    c->dim = c->embed_dim = s->dim;
    c->n_layers = s->n_layers;
    c->n_heads = s->n_heads;
    c->n_kv_heads = or_else(s->n_kv_heads, s->n_heads);
    c->head_dim = s->head_dim;
    c->ffn_dim = or_else(s->ffn_dim, ffn);
    c->ctx_max = or_else(s->ctx_max, ctx);
    c->vocab_size = s->vocab_size;
    c->tied = !s->untied;
    if ((*arch)->no_rope)
        c->pos_offset = strcmp((*arch)->name, "opt") == 0 ? 2 : 0;
    else if (c->rope.theta == 0)
        c->rope.theta = 10000;
    /* Gemma's pattern of local layers; a window as long as the context would change nothing */
    size_t global = strcmp(s->arch, "gemma2") == 0 ? 2 : strcmp(s->arch, "gemma3") == 0 ? 6 : 0;
    size_t window = global ? 512 : c->window;
    c->window = 0;
    for (size_t i = 0; global && window < c->ctx_max && i < c->n_layers; i++) {
        c->window = window;
        c->local[i] = (i + 1) % global != 0;
    }
    if ((*arch)->no_rope && (c->n_kv_heads != c->n_heads || s->head_dim)) /* one matrix for all */
        return pare_fail(err, PARE_ERR_ARG,
                         "kv-heads, head-dim: found them for %s, which has neither: expected those "
                         "that follow from dim and heads",
                         s->arch);
    if (strcmp(s->arch, "gemma2") == 0) {
        c->attn_softcap = 50;
        c->final_softcap = 30;
    }
    return pare_config_finish(c, *arch, "training", err);
}

/* ---- weights ---- */

typedef struct init_tensor {
    char name[PARE_NAME_MAX];
    pare_name parsed;
    size_t dims[2], n_dims, number;
} init_tensor;

typedef struct fill_job {
    float *w;
    float scale;
    uint64_t seed, stream;
} fill_job;

static void fill_values(void *arg, size_t begin, size_t end) {
    const fill_job *j = arg;
    for (size_t i = begin; i < end; i++)
        j->w[i] = j->scale * pare_rng_normal(j->seed, j->stream, i);
}

/* Every weight that the architecture must have, biases where it requires them. */
static size_t list_tensors(init_tensor *list, const pare_arch *arch, const pare_model_config *c) {
    size_t n = 0;
    for (const pare_weight_spec *spec = arch->weights; spec->name; spec++) {
        bool layered = strchr(spec->name, '#') != NULL;
        bool head = strcmp(spec->name, "output") == 0;
        bool norm = strcmp(spec->name, "output_norm") == 0;
        if ((spec->flags & PARE_WEIGHT_OPTIONAL) && !(head && !c->tied) && !norm) continue;
        for (size_t l = 0; l < (layered ? c->n_layers : 1); l++)
            for (int bias = 0; bias <= ((spec->flags & PARE_BIAS_REQUIRED) != 0); bias++, n++) {
                if (!list) continue;
                init_tensor *t = &list[n];
                t->parsed =
                    (pare_name){spec, layered ? l : SIZE_MAX, bias ? "bias" : "weight", bias};
                pare_name_print(t->name, &t->parsed, PARE_NAMES_HF);
                size_t out = spec->out == PARE_X_NONE ? 1 : pare_extent_length(spec->out, c);
                size_t in = pare_extent_length(spec->in, c);
                bool matrix = spec->out != PARE_X_NONE && !bias;
                t->n_dims = matrix ? 2 : 1;
                t->dims[0] = matrix ? out : bias && spec->out != PARE_X_NONE ? out : in;
                t->dims[1] = in;
                if (matrix && (spec->fix_hf & PARE_FIX_TRANSPOSE)) {
                    t->dims[0] = in;
                    t->dims[1] = out;
                }
            }
    }
    return n;
}

/* Values in the file's form: a Gemma norm is stored less one. */
static void fill_tensor(pare_runtime *rt, float *w, size_t n, const init_tensor *t, size_t number,
                        float deviation, const pare_model_config *c) {
    if (t->n_dims == 1) {
        bool norm = t->parsed.spec->out == PARE_X_NONE && !t->parsed.is_bias;
        float value = norm && !(t->parsed.spec->fix_hf & PARE_FIX_ADD_ONE) ? 1 : 0;
        for (size_t i = 0; i < n; i++) w[i] = value;
        return;
    }
    const char *name = t->parsed.spec->name;
    bool residual = strstr(name, "attn_output") || strstr(name, "ffn_down");
    fill_job job = {w, residual ? deviation / sqrtf(2.0f * (float)c->n_layers) : deviation,
                    pare_runtime_seed(rt), ((uint64_t)0x1217 << 32) + number};
    pare_parallel_for(rt, n, 1 << 14, fill_values, &job);
}

static pare_status write_tensors(pare_runtime *rt, pare_st_writer *w, init_tensor *list, size_t n,
                                 float deviation, const pare_model_config *c, pare_error *err) {
    PARE_TRY(pare_st_set_metadata(w, "format", "pt", err));
    size_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        init_tensor *t = &list[i];
        size_t count = t->dims[0] * (t->n_dims == 2 ? t->dims[1] : 1);
        if (count > largest) largest = count;
        PARE_TRY(pare_st_declare(w, t->name, "F32", t->dims, t->n_dims, &t->number, err));
    }
    PARE_TRY(pare_st_begin(w, err));
    float *values = pare_big_alloc(largest * sizeof *values);
    if (!values) return pare_fail(err, PARE_ERR_NOMEM, "training: %zu new weights", largest);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < n && st == PARE_OK; i++) {
        size_t count = list[i].dims[0] * (list[i].n_dims == 2 ? list[i].dims[1] : 1);
        fill_tensor(rt, values, count, &list[i], i, deviation, c);
        st = pare_st_write(w, list[i].number, values, count * sizeof *values, err);
    }
    pare_big_free(values, largest * sizeof *values);
    return st == PARE_OK ? pare_st_finish(w, err) : st;
}

static pare_status write_weights(pare_runtime *rt, const char *folder, const pare_arch *arch,
                                 float deviation, const pare_model_config *c, pare_error *err) {
    size_t n = list_tensors(NULL, arch, c);
    init_tensor *list = pare_calloc(n, sizeof *list);
    char *path = pare_path_join(folder, "model.safetensors");
    pare_st_writer *w = NULL;
    pare_status st = list && path ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "training: weights");
    if (st == PARE_OK) st = pare_st_writer_create(&w, path, 0, err);
    if (st == PARE_OK) {
        list_tensors(list, arch, c);
        st = write_tensors(rt, w, list, n, deviation, c, err);
    }
    pare_st_writer_free(w);
    pare_free(path);
    pare_free(list);
    return st;
}

/* ---- tokenizer ---- */

/* The least size that has all tokens of one character, by which byte-level vocabularies write the
 * 256 bytes. */
static size_t size_with_bytes(json_t *vocab) {
    const char *token;
    json_t *value;
    size_t least = 0;
    json_object_foreach(vocab, token, value) {
        size_t n = strlen(token), id = (size_t)json_integer_value(value);
        bool single = n == 1 || (n == 2 && ((uint8_t)token[0] & 0xE0) == 0xC0);
        if (single && id + 1 > least) least = id + 1;
    }
    return least;
}

/* Cuts a byte-level BPE to its first tokens: merges are in the order in which they were learned, so
 * the first ones are the tokenizer that a smaller vocabulary would have given. */
static pare_status cut_vocabulary(const char *folder, size_t size, pare_error *err) {
    char *path = pare_path_join(folder, "tokenizer.json");
    pare_json j = {0};
    size_t failures = pare_json_failures();
    if (!path) return pare_fail(err, PARE_ERR_NOMEM, "training: tokenizer");
    pare_status st = pare_json_load(&j, path, (size_t)256 << 20, 0, err);
    json_t *model = st == PARE_OK ? json_object_get(j.root, "model") : NULL;
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (st == PARE_OK &&
        (!json_is_object(vocab) || !json_is_array(merges) || !type || strcmp(type, "BPE") != 0 ||
         json_is_true(json_object_get(model, "byte_fallback"))))
        st = pare_fail(err, PARE_ERR_UNSUPPORTED,
                       "%s: a vocabulary of %zu: found %s, expected a byte-level BPE", path, size,
                       type ? type : "no model");
    const char *token;
    json_t *value;
    size_t i;
    size_t least = st == PARE_OK ? size_with_bytes(vocab) : 0;
    if (st == PARE_OK && size < least)
        st = pare_fail(err, PARE_ERR_ARG,
                       "vocab: found %zu, expected at least %zu, which has a token for every byte",
                       size, least);
    json_array_foreach(st == PARE_OK ? json_object_get(j.root, "added_tokens") : NULL, i, value) {
        json_int_t id = json_integer_value(json_object_get(value, "id"));
        if (id >= (json_int_t)size && st == PARE_OK)
            st = pare_fail(err, PARE_ERR_UNSUPPORTED,
                           "%s: a vocabulary of %zu: found an added token with id %lld, expected "
                           "them in front",
                           path, size, (long long)id);
    }
    if (st == PARE_OK) {
        void *next;
        json_object_foreach_safe(vocab, next, token,
                                 value) if (json_integer_value(value) >= (json_int_t)size)
            json_object_del(vocab, token);
        json_t *kept = json_array();
        json_array_foreach(merges, i, value) {
            char pair[1024];
            const char *text = json_string_value(value);
            if (json_is_array(value))
                snprintf(pair, sizeof pair, "%s%s", json_string_value(json_array_get(value, 0)),
                         json_string_value(json_array_get(value, 1)));
            else if (text && strchr(text, ' '))
                snprintf(pair, sizeof pair, "%.*s%s", (int)(strchr(text, ' ') - text), text,
                         strchr(text, ' ') + 1);
            else
                continue;
            if (json_object_get(vocab, pair)) json_array_append(kept, value);
        }
        json_object_set_new(model, "merges", kept);
        st = pare_json_failures() == failures
                 ? pare_json_write(path, j.root, err)
                 : pare_fail(err, PARE_ERR_NOMEM, "training: tokenizer");
    }
    pare_json_free(&j);
    pare_free(path);
    return st;
}

const char *const pare_train_tokenizer_files[] = {"tokenizer.json",
                                                  "tokenizer_config.json",
                                                  "special_tokens_map.json",
                                                  "generation_config.json",
                                                  "chat_template.jinja",
                                                  "tokenizer.model",
                                                  "vocab.json",
                                                  "merges.txt",
                                                  "added_tokens.json",
                                                  NULL};

static pare_status copy_tokenizer(const char *folder, const char *from, pare_error *err) {
    pare_status st = PARE_OK;
    for (size_t i = 0; pare_train_tokenizer_files[i] && st == PARE_OK; i++) {
        const char *name = pare_train_tokenizer_files[i];
        char *a = pare_path_join(from, name), *b = pare_path_join(folder, name);
        if (!a || !b)
            st = pare_fail(err, PARE_ERR_NOMEM, "training: tokenizer");
        else if (pare_path_exists(a))
            st = pare_file_copy(b, a, err);
        pare_free(a);
        pare_free(b);
    }
    return st;
}

static pare_status write_tokenizer(pare_runtime *rt, const pare_train_shape *s, const char *folder,
                                   pare_error *err) {
    if (pare_path_is_folder(s->tokenizer)) {
        PARE_TRY(copy_tokenizer(folder, s->tokenizer, err));
    } else if (pare_ends_with(s->tokenizer, ".json")) { /* with what stands beside it */
        const char *slash = strrchr(s->tokenizer, '/');
        char *to = pare_path_join(folder, "tokenizer.json"),
             *from = slash ? pare_strndup(s->tokenizer, (size_t)(slash - s->tokenizer) + 1)
                           : pare_strdup(".");
        pare_status st =
            to && from ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "training: tokenizer");
        if (st == PARE_OK) st = copy_tokenizer(folder, from, err);
        if (st == PARE_OK) st = pare_file_copy(to, s->tokenizer, err);
        pare_free(to);
        pare_free(from);
        PARE_TRY(st);
    } else {
        pare_gguf *g;
        PARE_TRY(pare_gguf_open(&g, s->tokenizer, err));
        pare_status st = pare_export_tokenizer_hf(rt, g, folder, err);
        pare_gguf_close(g);
        PARE_TRY(st);
    }
    return s->vocab_size ? cut_vocabulary(folder, s->vocab_size, err) : PARE_OK;
}

/* ---- the folder ---- */

static pare_status write_config(const char *folder, const pare_model_config *c, pare_error *err) {
    json_t *config;
    size_t failures = pare_json_failures();
    PARE_TRY(pare_export_config_json(&config, c, NULL, err));
    json_object_set_new(config, "torch_dtype", json_string("float32"));
    char *path = pare_path_join(folder, "config.json");
    pare_status st = path && pare_json_failures() == failures
                         ? pare_json_write(path, config, err)
                         : pare_fail(err, PARE_ERR_NOMEM, "training: config.json");
    pare_free(path);
    json_decref(config);
    return st;
}

static pare_status fill_folder(pare_runtime *rt, const pare_train_shape *shape, size_t ctx,
                               const char *folder, pare_error *err) {
    pare_train_shape s = *shape;
    pare_model_config *c = pare_calloc(1, sizeof *c);
    const pare_arch *arch;
    pare_tokenizer *tok = NULL;
    double deviation = DEVIATION;
    if (!c) return pare_fail(err, PARE_ERR_NOMEM, "training: configuration");
    pare_status st = write_tokenizer(rt, &s, folder, err);
    if (st == PARE_OK) st = pare_tokenizer_load(&tok, folder, err);
    if (st == PARE_OK) {
        if (s.vocab_size > pare_tokenizer_vocab_size(tok))
            st = pare_fail(err, PARE_ERR_ARG,
                           "vocab: found %zu, expected at most the tokenizer's %zu", s.vocab_size,
                           pare_tokenizer_vocab_size(tok));
        s.vocab_size = pare_tokenizer_vocab_size(tok);
    }
    if (st == PARE_OK) {
        st = make_config(c, &arch, rt, &s, ctx, &deviation, err);
    }
    if (st == PARE_OK) {
        c->bos = pare_tokenizer_bos(tok);
        c->n_eos = pare_tokenizer_eos(tok) >= 0;
        c->eos[0] = pare_tokenizer_eos(tok);
        st = write_config(folder, c, err);
    }
    if (st == PARE_OK) st = write_weights(rt, folder, arch, (float)deviation, c, err);
    pare_tokenizer_free(tok);
    pare_free(c);
    return st;
}

pare_status pare_train_init(pare_runtime *rt, const pare_train_shape *shape, size_t ctx,
                            const char *path, pare_error *err) {
    char *folder;
    PARE_TRY(pare_folder_begin(&folder, path, err));
    pare_status st = fill_folder(rt, shape, ctx, folder, err);
    if (st == PARE_OK)
        st = pare_folder_commit(folder, path, err);
    else
        pare_folder_discard(folder);
    pare_free(folder);
    return st;
}
