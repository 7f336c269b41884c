#include "model/lora.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "io/json.h"
#include "io/safetensors_writer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char weights_file[] = "adapter_model.safetensors",
                  config_file[] = "adapter_config.json";
static const char prefix[] = "base_model.model."; /* of PEFT's names */

/* ---- which matrices ---- */

/* What stands behind "blk.#." in the canonical name of a matrix of a layer; NULL: none is. */
static const char *field_of(const pare_weight_spec *s) {
    static const char blk[] = "blk.#.";
    bool matrix = s->out != PARE_X_NONE && strncmp(s->name, blk, sizeof blk - 1) == 0;
    return matrix ? s->name + sizeof blk - 1 : NULL;
}

static bool is_target(const char *field, int targets) {
    switch (targets) {
    case PARE_LORA_QV:
        return strcmp(field, "attn_q") == 0 || strcmp(field, "attn_v") == 0 ||
               strcmp(field, "attn_qkv") == 0;
    case PARE_LORA_ATTENTION:
        return strncmp(field, "attn_", 5) == 0;
    case PARE_LORA_FFN:
        return strncmp(field, "ffn_", 4) == 0;
    default:
        return true;
    }
}

/* ---- memory ---- */

static pare_status fail_memory(const pare_source *s, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: adapters", pare_source_path(s));
}

/* Places a and b of all pairs; bytes without memory. */
static size_t place(pare_lora *l) {
    pare_arena arena = {.base = l->memory, .capacity = l->memory ? l->bytes : SIZE_MAX};
    const pare_encoding *f32 = pare_encoding_find("f32");
    size_t rank = (size_t)l->o.rank;
    double scale = l->o.alpha / (l->o.rslora ? sqrt((double)rank) : (double)rank);
    for (size_t i = 0; i < l->n; i++) {
        pare_lora_pair *p = &l->pairs[i];
        void *a = pare_arena_alloc(&arena, rank * p->in + 16, sizeof(float));
        void *b = pare_arena_alloc(&arena, rank * p->out + 16, sizeof(float));
        if (!a || !b) continue;
        p->adapter = (pare_adapter){pare_tensor_wrap(f32, a, rank, p->in),
                                    pare_tensor_wrap(f32, b, p->out, rank), (float)scale};
    }
    return arena.peak;
}

static bool allocate(pare_lora *l) {
    l->bytes = place(l);
    l->memory = pare_big_alloc(l->bytes);
    if (l->memory) place(l);
    return l->memory != NULL;
}

static float *values(const pare_tensor *t) { return (float *)(uintptr_t)t->view.part[0]; }

/* Room for pairs of every matrix of every layer. */
static pare_status begin(pare_lora **out, const pare_source *s, pare_error *err) {
    size_t most = 0;
    for (const pare_weight_spec *spec = pare_source_arch(s)->weights; spec->name; spec++)
        most += field_of(spec) != NULL;
    *out = pare_calloc(1, sizeof **out);
    if (*out)
        (*out)->pairs = pare_calloc(most * pare_source_config(s)->n_layers, sizeof *(*out)->pairs);
    if (*out && (*out)->pairs) return PARE_OK;
    pare_lora_free(*out);
    *out = NULL;
    return fail_memory(s, err);
}

/* The next pair, where the model has the matrix. */
static pare_lora_pair *add(pare_lora *l, const pare_source *s, const pare_weight_spec *spec,
                           size_t layer) {
    pare_lora_pair *p = &l->pairs[l->n];
    p->name = (pare_name){spec, layer, "weight", false};
    pare_name_print(p->base, &p->name, PARE_NAMES_GGUF);
    const pare_source_tensor *t = pare_source_find(s, p->base);
    if (!t) return NULL;
    pare_source_shape(t, &p->out, &p->in);
    l->n++;
    return p;
}

void pare_lora_free(pare_lora *l) {
    if (!l) return;
    if (l->memory) pare_big_free(l->memory, l->bytes);
    pare_free(l->pairs);
    pare_free(l);
}

const pare_lora_pair *pare_lora_find(const pare_lora *l, const char *canonical) {
    for (size_t i = 0; canonical && i < l->n; i++)
        if (strcmp(l->pairs[i].base, canonical) == 0) return &l->pairs[i];
    return NULL;
}

void pare_model_attach_lora(pare_model *m, pare_lora *l) {
    m->lora = l;
    for (size_t i = 0; i < l->n; i++) {
        pare_linear *to = pare_model_linear(m, l->pairs[i].name.layer, l->pairs[i].base);
        if (to) to->adapter = &l->pairs[i].adapter;
    }
}

/* ---- new ones ---- */

pare_status pare_lora_create(pare_lora **out, const pare_source *source, const pare_lora_options *o,
                             uint64_t seed, pare_error *err) {
    pare_lora *l;
    *out = NULL;
    PARE_TRY(begin(&l, source, err));
    l->o = *o;
    pare_status st = PARE_OK;
    for (size_t layer = 0; layer < pare_source_config(source)->n_layers; layer++)
        for (const pare_weight_spec *s = pare_source_arch(source)->weights; s->name; s++) {
            const char *field = field_of(s);
            if (!field || !is_target(field, o->targets)) continue;
            const pare_lora_pair *p = add(l, source, s, layer);
            if (p && st == PARE_OK && ((size_t)o->rank > p->in || (size_t)o->rank > p->out))
                st = pare_fail(err, PARE_ERR_ARG,
                               "lora: rank: found %d, expected at most the sides of %s, %zu x %zu",
                               o->rank, p->base, p->out, p->in);
        }
    if (st == PARE_OK && !allocate(l)) st = fail_memory(source, err);
    for (size_t i = 0; st == PARE_OK && i < l->n; i++) {
        const pare_lora_pair *p = &l->pairs[i];
        float *a = values(&p->adapter.a), most = (float)(1 / sqrt((double)p->in));
        uint64_t stream = (uint64_t)0x6c6f7261 << 32 | i; /* "lora" */
        for (size_t k = 0; k < (size_t)o->rank * p->in; k++)
            a[k] = (2 * pare_rng_uniform(seed, stream, k) - 1) * most;
    }
    if (st == PARE_OK)
        *out = l;
    else
        pare_lora_free(l);
    return st;
}

/* ---- files: reading ---- */

typedef struct lora_files {
    const pare_source *source;
    const char *path; /* of the folder */
    pare_st *st;
} lora_files;

/* "base_model.model.X.lora_A.weight" -> X.weight taken apart; false: not such a name. */
static bool parse_name(pare_name *name, char text[PARE_NAME_MAX], const pare_arch *arch,
                       const char *key, bool *is_a) {
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight"};
    if (strncmp(key, prefix, sizeof prefix - 1) == 0) key += sizeof prefix - 1;
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(key), end = strlen(ends[i]);
        if (!pare_ends_with(key, ends[i]) || n - end + sizeof ".weight" > PARE_NAME_MAX) continue;
        snprintf(text, PARE_NAME_MAX, "%.*s.weight", (int)(n - end), key);
        *is_a = i == 0;
        return pare_name_parse(name, arch, PARE_NAMES_HF, text) && field_of(name->spec);
    }
    return false;
}

/* rows x cols values into to. */
static pare_status read_matrix(const lora_files *f, const pare_st_tensor *t, float *to, size_t rows,
                               size_t cols, pare_error *err) {
    const pare_encoding *enc = pare_encoding_from_dtype(t->dtype->name);
    if (!enc)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s/%s: %s: found dtype %s, expected F32, F16 or BF16", f->path,
                         weights_file, t->name, t->dtype->name);
    if (t->n_dims != 2 || t->dims[0] != rows || t->dims[1] != cols)
        return pare_fail(err, PARE_ERR_INPUT, "%s/%s: %s: found [%zu, %zu], expected [%zu, %zu]",
                         f->path, weights_file, t->name, t->dims[0], t->dims[1], rows, cols);
    uint8_t *raw = pare_big_alloc((size_t)t->n_bytes + 64);
    if (!raw) return fail_memory(f->source, err);
    pare_status st =
        pare_file_read_at(pare_st_file(f->st, t->file), raw, (size_t)t->n_bytes, t->offset, err);
    pare_tensor stored = pare_tensor_wrap(enc, raw, rows, cols);
    for (size_t r = 0; st == PARE_OK && r < rows; r++)
        enc->decode(to + r * cols, &stored.view, r, 0, cols);
    for (size_t i = 0; st == PARE_OK && i < rows * cols; i++)
        if (!isfinite(to[i]))
            st = pare_fail(err, PARE_ERR_INPUT, "%s/%s: %s: value %zu: found %s, expected a number",
                           f->path, weights_file, t->name, i, isnan(to[i]) ? "NaN" : "Inf");
    pare_big_free(raw, (size_t)t->n_bytes + 64);
    return st;
}

/* What is in the configuration and would be computed otherwise is refused. */
static pare_status check_config(const pare_json *j, pare_error *err) {
    static const char *const tables[] = {"rank_pattern",
                                         "alpha_pattern",
                                         "modules_to_save",
                                         "layer_replication",
                                         "lora_bias",
                                         "use_dora",
                                         "use_qalora",
                                         "use_bdlora",
                                         "arrow_config",
                                         "alora_invocation_tokens",
                                         "trainable_token_indices",
                                         "target_parameters"};
    const char *type = "LORA", *bias = "none";
    PARE_TRY(pare_json_str(j, "peft_type", PARE_REQUIRED, &type, err));
    PARE_TRY(pare_json_str(j, "bias", PARE_OPTIONAL, &bias, err));
    if (strcmp(type, "LORA") != 0)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: peft_type: found %s, expected LORA",
                         j->place, type);
    if (strcmp(bias, "none") != 0)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: bias: found %s, expected none", j->place,
                         bias);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const json_t *v = pare_json_get(j, tables[i]);
        if (v && !json_is_false(v) &&
            json_object_size(v) + json_array_size(v) +
                    (size_t)(!json_is_object(v) && !json_is_array(v)) >
                0)
            return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found one, expected none",
                             j->place, tables[i]);
    }
    return PARE_OK;
}

static pare_status read_config(pare_lora_options *o, const lora_files *f, pare_error *err) {
    char *path = pare_path_join(f->path, config_file);
    pare_json j = {0};
    int64_t rank = 0;
    if (!path) return fail_memory(f->source, err);
    pare_status st = pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err);
    if (st == PARE_OK) st = check_config(&j, err);
    if (st == PARE_OK) st = pare_json_int(&j, "r", PARE_REQUIRED, 1, 1 << 16, &rank, err);
    if (st == PARE_OK)
        st = pare_json_double(&j, "lora_alpha", PARE_REQUIRED, 1e-6, 1e6, &o->alpha, err);
    if (st == PARE_OK) st = pare_json_bool(&j, "use_rslora", PARE_OPTIONAL, &o->rslora, err);
    o->rank = (int)rank;
    pare_json_free(&j);
    pare_free(path);
    return st;
}

static const pare_st_tensor *find_half(const lora_files *f, const pare_lora_pair *p, bool is_a) {
    for (size_t i = 0; i < pare_st_n_tensors(f->st); i++) {
        const pare_st_tensor *t = pare_st_tensor_at(f->st, i);
        pare_name name;
        char text[PARE_NAME_MAX];
        bool a;
        if (parse_name(&name, text, pare_source_arch(f->source), t->name, &a) && a == is_a &&
            name.spec == p->name.spec && name.layer == p->name.layer)
            return t;
    }
    return NULL;
}

/* The pairs that the file has, by layer. */
static pare_status list_pairs(pare_lora *l, const lora_files *f, pare_error *err) {
    const pare_arch *arch = pare_source_arch(f->source);
    size_t n_layers = pare_source_config(f->source)->n_layers;
    for (size_t i = 0; i < pare_st_n_tensors(f->st); i++) {
        const char *key = pare_st_tensor_at(f->st, i)->name;
        pare_name name;
        char text[PARE_NAME_MAX];
        bool a;
        if (!parse_name(&name, text, arch, key, &a) || name.layer >= n_layers)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s/%s: found %s, expected lora_A and lora_B of matrices in the %zu "
                             "layers of the model",
                             f->path, weights_file, key, n_layers);
    }
    for (size_t layer = 0; layer < n_layers; layer++)
        for (const pare_weight_spec *s = arch->weights; s->name; s++) {
            const pare_lora_pair wanted = {.name = {s, layer, "weight", false}};
            if (!field_of(s)) continue;
            bool has_a = find_half(f, &wanted, true) != NULL,
                 has_b = find_half(f, &wanted, false) != NULL;
            if (!has_a && !has_b) continue;
            const pare_lora_pair *p = add(l, f->source, s, layer);
            if (!p || has_a != has_b)
                return pare_fail(err, PARE_ERR_INPUT, "%s/%s: %s: found %s, expected %s", f->path,
                                 weights_file, s->hf, has_a ? "lora_A alone" : "lora_B alone",
                                 p ? "both" : "a matrix of the model");
        }
    return l->n ? PARE_OK
                : pare_fail(err, PARE_ERR_INPUT, "%s/%s: found no adapters, expected some", f->path,
                            weights_file);
}

static pare_status read_all(pare_lora *l, lora_files *f, pare_error *err) {
    char *path = pare_path_join(f->path, weights_file);
    if (!path) return fail_memory(f->source, err);
    pare_status st = pare_st_open(&f->st, path, err);
    pare_free(path);
    PARE_TRY(st);
    PARE_TRY(list_pairs(l, f, err));
    if (!allocate(l)) return fail_memory(f->source, err);
    size_t rank = (size_t)l->o.rank;
    for (size_t i = 0; i < l->n; i++) {
        const pare_lora_pair *p = &l->pairs[i];
        PARE_TRY(read_matrix(f, find_half(f, p, true), values(&p->adapter.a), rank, p->in, err));
        PARE_TRY(read_matrix(f, find_half(f, p, false), values(&p->adapter.b), p->out, rank, err));
    }
    return PARE_OK;
}

pare_status pare_lora_load(pare_lora **out, const pare_source *source, const char *path,
                           pare_error *err) {
    lora_files f = {.source = source, .path = path};
    pare_lora *l;
    *out = NULL;
    PARE_TRY(begin(&l, source, err));
    pare_status st = read_config(&l->o, &f, err);
    if (st == PARE_OK) st = read_all(l, &f, err);
    pare_st_close(f.st);
    if (st == PARE_OK)
        *out = l;
    else
        pare_lora_free(l);
    return st;
}

/* ---- files: writing ---- */

static void print_key(char key[PARE_NAME_MAX + 64], const pare_lora_pair *p, char half) {
    char hf[PARE_NAME_MAX];
    pare_name_print(hf, &p->name, PARE_NAMES_HF);
    snprintf(key, PARE_NAME_MAX + 64, "%s%.*s.lora_%c.weight", prefix,
             (int)(strlen(hf) - sizeof ".weight" + 1), hf, half);
}

static pare_status write_weights(const pare_lora *l, const char *path, pare_error *err) {
    pare_st_writer *w;
    char key[PARE_NAME_MAX + 64];
    PARE_TRY(pare_st_writer_create(&w, path, 0, err));
    pare_status st = PARE_OK;
    for (size_t i = 0; i < 2 * l->n && st == PARE_OK; i++) {
        const pare_adapter *a = &l->pairs[i / 2].adapter;
        const pare_view *v = i % 2 ? &a->b.view : &a->a.view;
        print_key(key, &l->pairs[i / 2], i % 2 ? 'B' : 'A');
        st = pare_st_declare(w, key, "F32", (size_t[]){v->rows, v->cols}, 2, NULL, err);
    }
    if (st == PARE_OK) st = pare_st_begin(w, err);
    for (size_t i = 0; i < 2 * l->n && st == PARE_OK; i++) {
        const pare_adapter *a = &l->pairs[i / 2].adapter;
        const pare_view *v = i % 2 ? &a->b.view : &a->a.view;
        st = pare_st_write(w, i, v->part[0], v->rows * v->cols * sizeof(float), err);
    }
    if (st == PARE_OK) st = pare_st_finish(w, err);
    pare_st_writer_free(w);
    return st;
}

/* The last part of a module's name, or the last two where that is another matrix's too (GPT-2's
 * c_proj). */
static const char *module_of(const pare_arch *arch, const pare_weight_spec *s) {
    const char *last = strrchr(s->hf, '.') + 1, *before = last - 1;
    for (const pare_weight_spec *other = arch->weights; other->name; other++)
        if (other != s && pare_ends_with(other->hf, before)) {
            const char *at = before - 1;
            while (at > s->hf && at[-1] != '.') at--;
            return at;
        }
    return last;
}

static json_t *modules_json(const pare_lora *l, const pare_arch *arch) {
    json_t *list = json_array();
    for (const pare_weight_spec *s = arch->weights; s->name; s++) {
        bool used = false;
        for (size_t i = 0; i < l->n; i++) used |= l->pairs[i].name.spec == s;
        if (used) json_array_append_new(list, json_string(module_of(arch, s)));
    }
    return list;
}

static bool is_conv1d(const pare_lora *l) {
    return l->n && l->pairs[0].name.spec->fix_hf & PARE_FIX_TRANSPOSE;
}

static pare_status write_config(const pare_lora *l, const pare_source *s, const char *path,
                                const char *base, pare_error *err) {
    size_t failures = pare_json_failures();
    json_t *j = json_pack("{s:s, s:s, s:s?, s:o, s:i, s:f, s:f, s:s, s:b, s:b, s:b, s:b, s:n}",
                          "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path",
                          base, "target_modules", modules_json(l, pare_source_arch(s)), "r",
                          l->o.rank, "lora_alpha", l->o.alpha, "lora_dropout", 0.0, "bias", "none",
                          "fan_in_fan_out", is_conv1d(l), "use_rslora", l->o.rslora,
                          "init_lora_weights", 1, "inference_mode", 1, "modules_to_save");
    pare_status st =
        j && pare_json_failures() == failures ? pare_json_write(path, j, err) : fail_memory(s, err);
    json_decref(j);
    return st;
}

pare_status pare_lora_save(const pare_lora *l, const pare_source *source, const char *folder,
                           const char *base, pare_error *err) {
    char *config = pare_path_join(folder, config_file),
         *weights = pare_path_join(folder, weights_file);
    pare_status st =
        config && weights ? write_config(l, source, config, base, err) : fail_memory(source, err);
    if (st == PARE_OK) st = write_weights(l, weights, err);
    pare_free(config);
    pare_free(weights);
    return st;
}

/* ---- the public call ---- */

pare_status pare_model_add_lora(pare_model *m, const char *path, pare_error *err) {
    pare_lora *l;
    if (m->lora)
        return pare_fail(err, PARE_ERR_ARG, "%s: found a second adapter, expected one", path);
    PARE_TRY(pare_lora_load(&l, m->source, path, err));
    pare_model_attach_lora(m, l);
    return PARE_OK;
}
