/* Both containers are written into a temporary folder beside the output's name. There the result is
 * opened like any model and every tensor's bytes are compared with what was written; only then it
 * moves to its name. */
#include "pipeline/model_output.h"

#include "base/hash.h"
#include "base/memory.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/safetensors_writer.h"
#include "model/act.h"
#include "model/act_table.h"
#include "model/names.h"
#include "model/prefix.h"
#include "pipeline/export_config.h"
#include "pipeline/export_metadata.h"
#include "pipeline/export_tokenizer.h"
#include "pipeline/output_form.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One declared tensor: how it is called and laid out in the file, and what its bytes were. */
typedef struct written {
    char name[PARE_NAME_MAX * 2];
    const pare_encoding *from, *enc; /* as given, and as stored */
    pare_layout layout;              /* kind not NONE: stored in another program's parts */
    size_t n_dims, dims[4];          /* in the file's form */
    unsigned fix;                    /* file's form -> canonical: undone on writing */
    bool linear;
    bool has_act;          /* its inputs are quantized, */
    bool act_group;        /* as a group of the format says; static: two more tensors */
    const char *canonical; /* of these */
    pare_act_scheme act;
    pare_act_grid act_grid;
    bool has_way; /* this run has found its codes */
    pare_export_way way;
    size_t act_number[2];             /* of input_scale and input_zero_point */
    size_t number[PARE_LAYOUT_PARTS]; /* of the container's writer */
    uint32_t crc[PARE_MAX_PARTS];     /* of the parts; with a layout of the values as f32 */
    uint64_t bytes;
} written;

struct pare_output {
    pare_runtime *rt;
    const pare_source *source;
    const pare_arch *arch; /* whose names and layout the output has */
    pare_layout_kind kind;
    bool gguf, same_format, sparse;
    char *path, *folder;     /* final name; temporary folder */
    char *file;              /* in the folder */
    const char *prefix;      /* file of a cushion that goes along, or NULL */
    const pare_top_k *top_k; /* or NULL: the input's */
    uint64_t split;
    size_t json_failures; /* before the first document was built */
    written *items;
    size_t n_items, capacity, next;
    float
        *freqs; /* rope divisors that go into (gguf) or came from (hf) the input, [head_dim / 2] */
    pare_gguf_writer *gguf_writer;
    pare_st_writer *st_writer;
};

static pare_status fail_memory(const pare_output *o, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", o->path ? o->path : "output");
}

bool pare_output_absorbs(const pare_output_format *format, const char *canonical) {
    return strcmp(format->container, "hf") == 0 && strcmp(canonical, "rope_freqs.weight") == 0;
}

/* --- opening --- */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Divisors of RoPE that only one of the two containers stores as a tensor. */
static pare_status find_freqs(pare_output *o, pare_error *err) {
    const pare_model_config *c = pare_source_config(o->source);
    size_t n = c->head_dim / 2;
    const pare_source_tensor *t = pare_source_find(o->source, "rope_freqs.weight");
    bool make = o->gguf && !t && c->rope.scaling == PARE_ROPE_LLAMA3;
    if (o->same_format || (!make && !t)) return PARE_OK;
    if (!(o->freqs = pare_malloc(n, sizeof(float)))) return fail_memory(o, err);
    if (make) {
        pare_rope_llama3_divisors(o->freqs, &c->rope, c->head_dim);
        return PARE_OK;
    }
    pare_tensor values;
    PARE_TRY(pare_source_read(o->source, t, true, &values, err));
    pare_status st = PARE_OK;
    if (values.view.cols * values.view.rows == n)
        values.enc->decode(o->freqs, &values.view, 0, 0, n);
    else
        st = pare_fail(err, PARE_ERR_INPUT, "%s: rope_freqs.weight: found %zu values, expected %zu",
                       pare_source_path(o->source), values.view.cols, n);
    pare_tensor_free(&values);
    return st;
}

pare_status pare_output_check(const pare_source *source, const pare_output_format *format,
                              const char *path, pare_error *err) {
    if (pare_same_file(path, pare_source_path(source)))
        return pare_fail(err, PARE_ERR_ARG, "%s: found the input itself, expected another output",
                         path);
    bool gguf = strcmp(format->container, "gguf") == 0;
    if (gguf && !pare_source_gguf(source) && /* before hours of work, not at their end */
        pare_export_check_gguf(pare_source_config(source), err) != PARE_OK)
        return pare_fail_prefix(err, "%s", pare_source_path(source));
    if (!gguf) return pare_folder_check(path, err);
    if (pare_path_is_folder(path))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found a folder, expected a file name", path);
    return PARE_OK;
}

pare_status pare_output_open(pare_output **out, pare_runtime *rt, const pare_source *source,
                             const pare_output_format *format, const char *path,
                             uint64_t split_bytes, pare_error *err) {
    *out = NULL;
    PARE_TRY(pare_output_check(source, format, path, err));
    pare_output *o = pare_calloc(1, sizeof *o);
    if (!o) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    *out = o;
    o->rt = rt;
    o->source = source;
    o->kind = format->kind;
    o->gguf = strcmp(format->container, "gguf") == 0;
    o->same_format = strcmp(format->container, pare_source_format(source)) == 0;
    o->split = split_bytes;
    o->json_failures = pare_json_failures();
    o->path = pare_strdup(path);
    if (!o->path) return fail_memory(o, err);
    size_t n = strlen(o->path);
    while (n > 1 && o->path[n - 1] == '/') o->path[--n] = '\0';
    o->arch =
        o->gguf ? pare_export_gguf_arch(pare_source_config(source)) : pare_source_arch(source);
    char *work = o->gguf ? pare_asprintf("%s.parts", o->path) : pare_strdup(o->path);
    if (!work) return fail_memory(o, err);
    pare_status st = pare_folder_begin(&o->folder, work, err);
    pare_free(work);
    if (st != PARE_OK) return st;
    o->file = pare_path_join(o->folder, o->gguf ? base_name(o->path) : "model.safetensors");
    if (!o->file) return fail_memory(o, err);
    PARE_TRY(find_freqs(o, err));
    return o->gguf ? pare_gguf_writer_create(&o->gguf_writer, o->file, split_bytes, err)
                   : pare_st_writer_create(&o->st_writer, o->file, split_bytes, err);
}

void pare_output_set_prefix(pare_output *o, const char *path) { o->prefix = path; }

void pare_output_set_top_k(pare_output *o, const pare_top_k *k) { o->top_k = k; }

/* --- declaring --- */

pare_status pare_output_declare(pare_output *o, const pare_output_item *item, pare_error *err) {
    if (o->n_items == o->capacity) {
        size_t n = o->capacity ? 2 * o->capacity : 256;
        written *more = pare_realloc(o->items, n, sizeof *more);
        if (!more) return fail_memory(o, err);
        o->items = more;
        o->capacity = n;
    }
    written *w = &o->items[o->n_items];
    *w = (written){.from = item->enc, .enc = item->stored, .n_dims = item->n_dims};
    memcpy(w->dims, item->dims, sizeof w->dims);
    w->has_act = item->act != NULL;
    if (item->act) w->act = *item->act;
    w->canonical = item->canonical;
    w->act_grid = item->act_grid;
    w->has_way = item->way != NULL;
    if (item->way) w->way = *item->way;
    pare_name name;
    pare_name_form form = o->gguf ? PARE_NAMES_GGUF : PARE_NAMES_HF;
    if (!item->raw && pare_name_parse(&name, o->arch, PARE_NAMES_GGUF, item->name)) {
        char text[PARE_NAME_MAX];
        pare_name_print(text, &name, form);
        snprintf(w->name, sizeof w->name, "%s", text);
        w->fix = pare_name_fix(&name, form);
    } else {
        if (strlen(item->name) >= sizeof w->name)
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "%s: found a name of %zu bytes, expected at most %zu",
                             pare_source_path(o->source), strlen(item->name), sizeof w->name - 1);
        snprintf(w->name, sizeof w->name, "%s", item->name);
    }
    if ((w->fix & PARE_FIX_TRANSPOSE) && w->n_dims == 2) {
        w->dims[0] = item->dims[1];
        w->dims[1] = item->dims[0];
    }
    w->linear = item->n_dims == 2 && pare_name_parse(&name, o->arch, form, w->name) &&
                !strstr(name.spec->name, "_embd");
    if (o->kind && w->enc->grid)
        w->layout =
            (pare_layout){.kind = o->kind,
                          .bits = w->enc->grid->bits,
                          .asymmetric = w->enc->grid->asymmetric,
                          .rows = w->dims[0],
                          .cols = w->dims[1],
                          .g_idx = o->kind == PARE_LAYOUT_GPTQ || o->kind == PARE_LAYOUT_GPTQ_V2};
    if (w->enc->n_parts > 1 || w->enc->block_bytes == 0) o->sparse = true;
    o->n_items++;
    return PARE_OK;
}

/* Matrices of one form get groups of one length, so that one line of the configuration says them
 * all; programs that load them want it to divide the rows. */
static bool shares_group(const pare_output *o, const written *w, const pare_encoding *enc) {
    return w->layout.kind && (w->enc == enc || o->kind == PARE_LAYOUT_AWQ);
}

static pare_status settle_group(pare_output *o, const pare_encoding *enc, size_t *cols,
                                pare_error *err) {
    size_t n = 0, narrow = 0;
    for (size_t i = 0; i < o->n_items; i++)
        if (shares_group(o, &o->items[i], enc)) cols[n++] = o->items[i].layout.cols;
    size_t wanted = enc->grid->group, group = wanted ? pare_export_group(wanted, cols, n) : 0;
    if (wanted && !group)
        return pare_fail(err, PARE_ERR_INTERNAL, "%s: no group for %s", o->path, enc->name);
    for (size_t i = 0; i < n && !narrow; i++)
        if (wanted && cols[i] % wanted) narrow = cols[i];
    if (narrow)
        pare_warn(o->rt,
                  "%s: groups of %zu do not divide rows of %zu: stored as groups of %zu with the "
                  "same scales",
                  o->path, wanted, narrow, group);
    for (size_t i = 0; i < o->n_items; i++) {
        pare_layout *l = &o->items[i].layout;
        if (shares_group(o, &o->items[i], enc)) l->group = wanted ? group : l->cols;
    }
    return PARE_OK;
}

static pare_status settle_groups(pare_output *o, pare_error *err) {
    size_t *cols = pare_malloc(o->n_items, sizeof *cols);
    if (!cols) return fail_memory(o, err);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < o->n_items && st == PARE_OK; i++)
        if (o->items[i].layout.kind && !o->items[i].layout.group)
            st = settle_group(o, o->items[i].enc, cols, err);
    pare_free(cols);
    return st;
}

/* --- beginning: metadata --- */

static const char *plain_dtype(const pare_encoding *e) { return e->safetensors_dtype; }

/* {"quant_method": "pare", "version": 1, "tensors": {NAME: {"encoding": ...}}}; NULL when all are
 * plain. */
static json_t *quantization_json(const pare_output *o) {
    json_t *tensors = json_object();
    for (size_t i = 0; i < o->n_items; i++)
        if (!plain_dtype(o->items[i].enc))
            json_object_set_new(tensors, o->items[i].name,
                                json_pack("{s:s}", "encoding", o->items[i].enc->name));
    if (json_object_size(tensors) == 0) {
        json_decref(tensors);
        return NULL;
    }
    return json_pack("{s:s, s:i, s:o}", "quant_method", "pare", "version", 1, "tensors", tensors);
}

/* The same for other programs; NULL: out of memory. */
static json_t *packing_json(const pare_output *o) {
    pare_export_item *items = pare_calloc(o->n_items, sizeof *items);
    if (!items) return NULL;
    for (size_t i = 0; i < o->n_items; i++) {
        const written *w = &o->items[i];
        items[i] = (pare_export_item){w->name,
                                      w->layout.kind ? &w->layout : NULL,
                                      w->linear,
                                      w->act_group ? &w->act : NULL,
                                      w->has_act && !w->act_group,
                                      w->has_way ? &w->way : NULL};
    }
    json_t *j = pare_export_quantization(o->kind, items, o->n_items);
    pare_free(items);
    return j;
}

/* --- quantized inputs --- */

/* Groups of compressed-tensors say schemes of one formula, pare's key beside them which. */
static void settle_acts(pare_output *o) {
    const bool groups = o->kind == PARE_LAYOUT_PACK || o->kind == PARE_LAYOUT_INT;
    const pare_act_scheme *first = NULL;
    for (size_t i = 0; i < o->n_items && groups; i++) {
        written *w = &o->items[i];
        if (!w->has_act || !w->layout.kind || w->act.formula == PARE_ACT_PAPER_EQ4) continue;
        if (!first) first = &w->act;
        w->act_group = w->act.formula == first->formula;
    }
}

/* What they cannot say goes under pare's own key, and in other formats all. *out NULL: nothing. */
static pare_status inputs_json(json_t **out, const pare_output *o, pare_error *err) {
    *out = NULL;
    bool ok = true;
    for (size_t i = 0; i < o->n_items && ok; i++) {
        const written *w = &o->items[i];
        size_t layer;
        if (!w->has_act || !w->canonical) continue;
        const bool bmm = w->act.bmm && pare_act_site_of(w->canonical, &layer) == PARE_ACT_QKV;
        if (w->act_group && !bmm) continue;
        ok = *out || (*out = pare_act_table_new());
        ok = ok && pare_act_table_add(*out, w->canonical, &w->act, &w->act_grid);
    }
    if (ok) return PARE_OK;
    json_decref(*out);
    *out = NULL;
    return fail_memory(o, err);
}

static pare_status put_inputs_gguf(pare_output *o, pare_error *err) {
    json_t *table;
    PARE_TRY(inputs_json(&table, o, err));
    if (!table) return PARE_OK;
    char *text = json_dumps(table, JSON_COMPACT);
    pare_status st = text ? pare_gguf_set_str(o->gguf_writer, PARE_ACT_GGUF_KEY, text, err)
                          : fail_memory(o, err);
    free(text); /* jansson's */
    json_decref(table);
    return st;
}

/* The dtype that holds most values, in transformers' words. */
static const char *torch_dtype(const pare_output *o) {
    static const char *const names[][2] = {
        {"BF16", "bfloat16"}, {"F16", "float16"}, {"F32", "float32"}};
    double count[3] = {0};
    for (size_t i = 0; i < o->n_items; i++) {
        const char *dtype = plain_dtype(o->items[i].enc);
        double n = 1;
        for (size_t d = 0; d < o->items[i].n_dims; d++) n *= (double)o->items[i].dims[d];
        for (size_t k = 0; k < 3 && dtype; k++)
            if (strcmp(dtype, names[k][0]) == 0) count[k] += n;
    }
    size_t best = 0;
    for (size_t k = 1; k < 3; k++)
        if (count[k] > count[best]) best = k;
    return names[best][1];
}

static pare_status write_json(const pare_output *o, const char *name, const json_t *value,
                              pare_error *err) {
    char *path = pare_path_join(o->folder, name);
    if (!path) return fail_memory(o, err);
    pare_status st = pare_json_write(path, value, err);
    pare_free(path);
    return st;
}

/* What config.json says under pare's own name: the recipe, and the metadata of a GGUF file that the
 * model comes from. */
static pare_status put_pare(const pare_output *o, json_t *config, const char *recipe,
                            pare_error *err) {
    json_t *own = json_object_get(config, "pare");
    if (!json_is_object(own)) {
        if (!recipe && o->same_format) return PARE_OK;
        if (json_object_set_new(config, "pare", json_object()) != 0) return fail_memory(o, err);
        own = json_object_get(config, "pare");
    }
    json_t *metadata = json_object_get(own, "gguf");
    if (!o->same_format) {
        PARE_TRY(pare_metadata_to_json(&metadata, o->rt, pare_source_gguf(o->source),
                                       pare_source_arch(o->source)->gguf, err));
        if (metadata) json_object_set_new(own, "gguf", metadata);
    }
    if (recipe) {
        json_object_set_new(own, "version", json_string(PARE_VERSION));
        json_object_set_new(own, "recipe", json_string(recipe));
        json_object_del(metadata, "general.file_type"); /* a mix of the encodings there were */
    }
    if (json_object_size(own) == 0) json_object_del(config, "pare");
    return PARE_OK;
}

/* transformers makes biases of a llama only where config.json says so. */
static void put_biases(const pare_output *o, json_t *config) {
    if (!json_object_get(config, "attention_bias")) return;
    json_object_set_new(config, "attention_bias",
                        json_boolean(pare_source_find(o->source, "blk.0.attn_output.bias")));
    if (pare_source_find(o->source, "blk.0.ffn_down.bias"))
        json_object_set_new(config, "mlp_bias", json_true());
}

static pare_status write_config_json(pare_output *o, const char *recipe, pare_error *err) {
    json_t *config;
    if (o->same_format)
        config = json_deep_copy(pare_source_config_json(o->source)->root);
    else
        PARE_TRY(pare_export_config_json(&config, pare_source_config(o->source), o->freqs, err));
    if (!config) return fail_memory(o, err);
    if (!o->same_format) {
        json_object_set_new(config, "torch_dtype", json_string(torch_dtype(o)));
        put_biases(o, config);
    }
    if (o->top_k && pare_top_k_is_on(o->top_k))
        json_object_set_new(config, PARE_TOP_K_KEY, pare_export_top_k_json(o->top_k));
    else if (o->top_k) /* what the input had is over */
        json_object_del(config, PARE_TOP_K_KEY);
    json_t *quantization = o->kind ? packing_json(o) : quantization_json(o);
    pare_status st = o->kind && !quantization ? fail_memory(o, err) : PARE_OK;
    if (st == PARE_OK && (o->kind == PARE_LAYOUT_GPTQ || o->kind == PARE_LAYOUT_GPTQ_V2))
        st = write_json(o, "quantize_config.json", quantization, err); /* where AutoGPTQ looks */
    json_object_del(config, "compression_config");
    if (quantization)
        json_object_set_new(config, "quantization_config", quantization);
    else
        json_object_del(config, "quantization_config");
    json_t *inputs = NULL;
    if (st == PARE_OK) st = inputs_json(&inputs, o, err);
    json_object_del(config, PARE_ACT_KEY);
    if (inputs) json_object_set_new(quantization ? quantization : config, PARE_ACT_KEY, inputs);
    json_object_del(config, PARE_PREFIX_KEY);
    if (o->prefix)
        json_object_set_new(quantization ? quantization : config, PARE_PREFIX_KEY,
                            json_string(PARE_PREFIX_FILE));
    if (st == PARE_OK) st = put_pare(o, config, recipe, err);
    if (st == PARE_OK) st = write_json(o, "config.json", config, err);
    json_decref(config);
    return st;
}

/* What lies beside the weights goes along unchanged: tokenizer, generation config, template,
 * licence, model card; not what says how the input's weights were packed. */
static pare_status copy_companions(pare_output *o, pare_error *err) {
    static const char *const made[] = {"config.json", "quantize_config.json", "quant_config.json"};
    static const char *const weights[] = {".safetensors", ".safetensors.index.json",
                                          ".bin",         ".bin.index.json",
                                          ".gguf",        ".pt",
                                          ".pth",         ".h5",
                                          ".msgpack",     ".onnx"};
    char **names;
    size_t n;
    PARE_TRY(pare_folder_list(&names, &n, pare_source_path(o->source), err));
    pare_status st = PARE_OK;
    for (size_t i = 0; i < n; i++) {
        bool skip = st != PARE_OK;
        for (size_t k = 0; k < sizeof made / sizeof made[0]; k++)
            skip |= strcmp(names[i], made[k]) == 0;
        for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++)
            skip |= pare_ends_with(names[i], weights[k]);
        char *from = skip ? NULL : pare_path_join(pare_source_path(o->source), names[i]);
        char *to = skip ? NULL : pare_path_join(o->folder, names[i]);
        if (!skip) st = from && to ? pare_file_copy(to, from, err) : fail_memory(o, err);
        pare_free(from);
        pare_free(to);
        pare_free(names[i]);
    }
    pare_free(names);
    return st;
}

static pare_status copy_prefix(pare_output *o, pare_error *err) {
    const pare_model_config *c = pare_source_config(o->source);
    char *to = pare_path_join(o->folder, PARE_PREFIX_FILE), *record = NULL;
    pare_prefix *p = NULL;
    bool gguf = false;
    pare_status st = to ? pare_prefix_in_gguf(&gguf, o->prefix, err) : fail_memory(o, err);
    if (st == PARE_OK && !gguf) st = pare_file_copy(to, o->prefix, err);
    if (st == PARE_OK && gguf) st = pare_prefix_load(&p, c, o->prefix, err);
    if (st == PARE_OK && gguf) st = pare_prefix_record(&record, o->prefix, err);
    if (st == PARE_OK && gguf) st = pare_prefix_save(p, c, record, to, err);
    pare_prefix_free(p);
    pare_free(record);
    pare_free(to);
    return st;
}

/* The part's name in the file. */
static void part_name(char out[PARE_ST_MAX_NAME + 32], const written *w, const char *suffix) {
    const char *dot = strrchr(w->name, '.');
    snprintf(out, PARE_ST_MAX_NAME + 32, "%.*s.%s",
             (int)(dot ? (size_t)(dot - w->name) : strlen(w->name)), w->name, suffix);
}

static pare_status declare_layout(pare_output *o, written *w, pare_error *err) {
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) {
        pare_layout_part p = pare_layout_part_at(&w->layout, k);
        if (!p.suffix) continue;
        char name[PARE_ST_MAX_NAME + 32];
        part_name(name, w, p.suffix);
        PARE_TRY(
            pare_st_declare(o->st_writer, name, p.dtype, p.dims, p.n_dims, &w->number[k], err));
    }
    return PARE_OK;
}

/* --- static grids of inputs --- */

static bool has_grid(const written *w) {
    return w->act_group && w->act.granularity == PARE_ACT_PER_TENSOR_STATIC;
}

/* Behind all others, single bytes last: tensors begin where their dtype's may. */
static pare_status declare_grids(pare_output *o, pare_error *err) {
    static const char *const suffixes[] = {"input_scale", "input_zero_point"}, *const dtypes[] = {
                                                                                   "F32", "I8"};
    const size_t one = 1;
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < o->n_items; i++) {
            written *w = &o->items[i];
            char name[PARE_ST_MAX_NAME + 32];
            if (!has_grid(w) || (k && w->act.symmetric)) continue;
            part_name(name, w, suffixes[k]);
            PARE_TRY(
                pare_st_declare(o->st_writer, name, dtypes[k], &one, 1, &w->act_number[k], err));
        }
    return PARE_OK;
}

/* Codes of files are signed: the lowest is -2^(bits-1). */
static pare_status write_grid(pare_output *o, const written *w, pare_error *err) {
    int8_t zero = (int8_t)(-(1 << (w->act.bits - 1)) - (int)w->act_grid.low);
    PARE_TRY(
        pare_st_write(o->st_writer, w->act_number[0], &w->act_grid.s, sizeof w->act_grid.s, err));
    return w->act.symmetric ? PARE_OK
                            : pare_st_write(o->st_writer, w->act_number[1], &zero, 1, err);
}

static pare_status begin_hf(pare_output *o, const char *recipe, pare_error *err) {
    PARE_TRY(settle_groups(o, err));
    settle_acts(o);
    PARE_TRY(write_config_json(o, recipe, err));
    if (o->same_format)
        PARE_TRY(copy_companions(o, err));
    else
        PARE_TRY(pare_export_tokenizer_hf(o->rt, pare_source_gguf(o->source), o->folder, err));
    if (o->prefix) PARE_TRY(copy_prefix(o, err));
    PARE_TRY(pare_st_set_metadata(o->st_writer, "format", "pt", err));
    if (recipe) PARE_TRY(pare_st_set_metadata(o->st_writer, "pare.recipe", recipe, err));
    for (size_t i = 0; i < o->n_items; i++) {
        written *w = &o->items[i];
        if (w->layout.kind) {
            PARE_TRY(declare_layout(o, w, err));
        } else if (o->sparse) {
            for (size_t k = 0; k < w->enc->n_parts; k++) {
                char name[sizeof w->name + 32];
                snprintf(name, sizeof name, "%s%s", w->name, w->enc->parts[k].suffix);
                PARE_TRY(pare_st_expect(o->st_writer, name, err));
            }
        } else if (plain_dtype(w->enc)) {
            PARE_TRY(pare_st_declare(o->st_writer, w->name, plain_dtype(w->enc), w->dims, w->n_dims,
                                     &w->number[0], err));
        } else {
            size_t shape[2] = {w->dims[0], pare_encoding_row_bytes(w->enc, w->dims[w->n_dims - 1])};
            PARE_TRY(pare_st_declare(o->st_writer, w->name, w->enc->parts[0].dtype, shape, 2,
                                     &w->number[0], err));
        }
    }
    PARE_TRY(declare_grids(o, err));
    return pare_st_begin(o->st_writer, err);
}

static pare_status begin_gguf(pare_output *o, const pare_mix *mix, const char *recipe,
                              pare_error *err) {
    static const char *const replaced[] = {"general.file_type", "general.quantization_version",
                                           "pare.recipe",       "pare.version",
                                           "pare.act.*",        (PARE_PREFIX_GGUF "*")};
    pare_gguf_writer *w = o->gguf_writer;
    if (o->same_format) {
        PARE_TRY(pare_gguf_copy(w, pare_source_gguf(o->source), replaced,
                                sizeof replaced / sizeof replaced[0], err));
        uint32_t type = 0;
        bool known = pare_gguf_has(pare_source_gguf(o->source), "general.file_type");
        if (known)
            PARE_TRY(pare_gguf_u32(pare_source_gguf(o->source), "general.file_type", PARE_REQUIRED,
                                   0, 1000, &type, err));
        if (mix)
            PARE_TRY(pare_gguf_set_u32(w, "general.file_type", pare_mix_file_type(mix), err));
        else if (known && !recipe)
            PARE_TRY(pare_gguf_set_u32(w, "general.file_type", type, err));
    } else {
        const char *path = pare_source_path(o->source);
        PARE_TRY(pare_export_config_gguf(w, pare_source_config(o->source), base_name(path), err));
        PARE_TRY(pare_metadata_to_gguf(w, pare_source_config_json(o->source), o->arch->gguf,
                                       !recipe, err));
        if (mix) PARE_TRY(pare_gguf_set_u32(w, "general.file_type", pare_mix_file_type(mix), err));
        PARE_TRY(pare_export_tokenizer_gguf(o->rt, w, path,
                                            pare_source_config(o->source)->vocab_size, err));
    }
    PARE_TRY(pare_gguf_set_u32(w, "general.quantization_version", 2, err));
    if (recipe) {
        PARE_TRY(pare_gguf_set_str(w, "pare.version", PARE_VERSION, err));
        PARE_TRY(pare_gguf_set_str(w, "pare.recipe", recipe, err));
    }
    PARE_TRY(put_inputs_gguf(o, err));
    if (o->prefix)
        PARE_TRY(
            pare_prefix_put_gguf(w, o->prefix, pare_source_config(o->source), o->arch->name, err));
    for (size_t i = 0; i < o->n_items; i++) {
        o->items[i].number[0] = i;
        PARE_TRY(pare_gguf_declare(w, o->items[i].name, (uint32_t)o->items[i].enc->ggml_type,
                                   o->items[i].dims, o->items[i].n_dims, err));
    }
    size_t n_freqs = pare_source_config(o->source)->head_dim / 2;
    if (o->freqs) PARE_TRY(pare_gguf_declare(w, "rope_freqs.weight", 0, &n_freqs, 1, err));
    PARE_TRY(pare_gguf_begin(w, err));
    return o->freqs ? pare_gguf_write(w, o->n_items, o->freqs, n_freqs * sizeof(float), err)
                    : PARE_OK;
}

pare_status pare_output_begin(pare_output *o, const pare_mix *mix, const char *recipe,
                              pare_error *err) {
    return o->gguf ? begin_gguf(o, mix, recipe, err) : begin_hf(o, recipe, err);
}

/* --- writing --- */

static pare_status write_parts(pare_output *o, written *w, const pare_tensor *t, const void *part0,
                               pare_error *err) {
    for (size_t k = 0; k < t->enc->n_parts; k++) {
        const void *data = k == 0 && part0 ? part0 : t->view.part[k];
        size_t n = t->part_bytes[k];
        w->crc[k] = pare_crc32(0, data, n);
        w->bytes += n;
        if (o->gguf) {
            PARE_TRY(pare_gguf_write(o->gguf_writer, w->number[0], data, n, err));
            continue;
        }
        if (o->sparse) {
            size_t shape[4], n_dims = w->n_dims;
            char name[sizeof w->name + 32];
            snprintf(name, sizeof name, "%s%s", w->name, t->enc->parts[k].suffix);
            memcpy(shape, w->dims, sizeof shape);
            if (!plain_dtype(t->enc)) n_dims = (size_t)pare_tensor_part_shape(t, k, shape);
            const char *dtype = plain_dtype(t->enc) ? plain_dtype(t->enc) : t->enc->parts[k].dtype;
            PARE_TRY(pare_st_append(o->st_writer, name, dtype, shape, n_dims, &w->number[0], err));
        }
        PARE_TRY(pare_st_write(o->st_writer, w->number[0], data, n, err));
    }
    return PARE_OK;
}

/* CRC-32 of all values as f32: the same for every form that says the same numbers. */
static pare_status crc_of_values(uint32_t *crc, const pare_tensor *t, pare_error *err) {
    float *row = pare_malloc(t->view.cols, sizeof *row);
    if (!row) return pare_fail(err, PARE_ERR_NOMEM, "a row of %zu", t->view.cols);
    *crc = 0;
    for (size_t r = 0; r < t->view.rows; r++) {
        t->enc->decode(row, &t->view, r, 0, t->view.cols);
        *crc = pare_crc32(*crc, row, t->view.cols * sizeof *row);
    }
    pare_free(row);
    return PARE_OK;
}

static pare_status write_layout(pare_output *o, written *w, const pare_tensor *t, pare_error *err) {
    void *part[PARE_LAYOUT_PARTS] = {NULL};
    size_t bytes[PARE_LAYOUT_PARTS];
    pare_status st = crc_of_values(&w->crc[0], t, err);
    for (int k = 0; k < PARE_LAYOUT_PARTS && st == PARE_OK; k++) {
        bytes[k] = pare_layout_part_bytes(&w->layout, k);
        if (bytes[k] && !(part[k] = pare_big_alloc(bytes[k]))) st = fail_memory(o, err);
    }
    if (st == PARE_OK) {
        st = pare_layout_pack(part, &w->layout, t, err);
        if (st != PARE_OK) pare_fail_prefix(err, "%s", w->name);
    }
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) {
        if (!part[k]) continue;
        if (st == PARE_OK) st = pare_st_write(o->st_writer, w->number[k], part[k], bytes[k], err);
        w->bytes += bytes[k];
        pare_big_free(part[k], bytes[k]);
    }
    return st == PARE_OK && has_grid(w) ? write_grid(o, w, err) : st;
}

static pare_status write_stored(pare_output *o, written *w, const pare_tensor *t, pare_error *err) {
    if (!w->fix) return write_parts(o, w, t, NULL, err);
    uint8_t *moved = pare_big_alloc(t->part_bytes[0]);
    if (!moved) return fail_memory(o, err);
    pare_status st = pare_output_form(moved, t, w->fix, w->n_dims == 1,
                                      pare_source_config(o->source)->head_dim, w->name, err);
    if (st == PARE_OK) st = write_parts(o, w, t, moved, err);
    pare_big_free(moved, t->part_bytes[0]);
    return st;
}

pare_status pare_output_write(pare_output *o, const pare_tensor *t, pare_error *err) {
    if (o->next == o->n_items)
        return pare_fail(err, PARE_ERR_INTERNAL, "%s: one tensor too many", o->path);
    written *w = &o->items[o->next++];
    if (w->layout.kind) return write_layout(o, w, t, err);
    if (w->from == w->enc) return write_stored(o, w, t, err);
    pare_tensor blocks;
    PARE_TRY(pare_output_blocks(t, w->enc, &blocks, err));
    pare_status st = write_stored(o, w, &blocks, err);
    pare_tensor_free(&blocks);
    return st;
}

uint64_t pare_output_bytes(const pare_output *o, size_t i) { return o->items[i].bytes; }

/* --- reading back --- */

static pare_status compare_tensor(const pare_source *back, const pare_source_tensor *t,
                                  const written *w, pare_error *err) {
    pare_tensor stored;
    PARE_TRY(pare_source_read(back, t, false, &stored, err));
    pare_status st = PARE_OK;
    if (w->layout.kind) {
        uint32_t crc = 0;
        st = crc_of_values(&crc, &stored, err);
        if (st == PARE_OK && crc != w->crc[0])
            st = pare_fail(err, PARE_ERR_IO,
                           "%s: read back: found values of CRC %08x, expected %08x", w->name, crc,
                           w->crc[0]);
        pare_tensor_free(&stored);
        return st;
    }
    for (size_t k = 0; k < stored.enc->n_parts && st == PARE_OK; k++) {
        uint32_t crc = pare_crc32(0, stored.view.part[k], stored.part_bytes[k]);
        if (stored.enc != w->enc || crc != w->crc[k])
            st = pare_fail(err, PARE_ERR_IO,
                           "%s: read back: found CRC %08x of %s, expected %08x of %s", w->name, crc,
                           stored.enc->name, w->crc[k], w->enc->name);
    }
    pare_tensor_free(&stored);
    return st;
}

static pare_status compare_all(pare_output *o, const pare_source *back, pare_error *err) {
    pare_table by_name = {0};
    pare_status st = PARE_OK;
    for (size_t i = 0; i < pare_source_n_tensors(back); i++) {
        const char *name = pare_source_tensor_at(back, i)->name;
        if (pare_table_add(&by_name, name, strlen(name), (int64_t)i) < 0) st = fail_memory(o, err);
    }
    for (size_t i = 0; i < o->n_items && st == PARE_OK; i++) {
        int64_t at = pare_table_get(&by_name, o->items[i].name, strlen(o->items[i].name));
        if (at < 0)
            st = pare_fail(err, PARE_ERR_IO, "%s: read back: %s is not there", o->path,
                           o->items[i].name);
        else
            st = compare_tensor(back, pare_source_tensor_at(back, (size_t)at), &o->items[i], err);
        pare_progress(o->rt, "verify", (double)(i + 1), (double)o->n_items, "tensors");
        if (st == PARE_OK) st = pare_check_cancel(o->rt, err);
    }
    pare_table_free(&by_name);
    return st;
}

/* The first file of a split GGUF output has another name than the output. */
static pare_status verify(pare_output *o, pare_error *err) {
    char *file = o->gguf ? pare_gguf_writer_file(o->gguf_writer, 0) : pare_strdup(o->folder);
    if (!file) return fail_memory(o, err);
    pare_source *back;
    pare_status st = pare_source_open(&back, file, err);
    if (st == PARE_OK) {
        st = compare_all(o, back, err);
        pare_source_close(back);
    }
    pare_free(file);
    return st == PARE_OK || st == PARE_ERR_INTERRUPTED
               ? st
               : pare_fail_prefix(err, "%s: reading the output back", o->path);
}

/* Where a file of the folder goes; free with pare_free. */
static char *final_path(const pare_output *o, const char *name) {
    return pare_asprintf("%.*s%s", (int)(base_name(o->path) - o->path), o->path, name);
}

static pare_status move_one(const pare_output *o, const char *name, pare_error *err) {
    char *from = pare_path_join(o->folder, name), *to = final_path(o, name);
    pare_status st = from && to ? pare_file_move(to, from, err) : fail_memory(o, err);
    if (st != PARE_OK && to && from && !pare_path_exists(from)) pare_path_remove(to); /* unsynced */
    pare_free(from);
    pare_free(to);
    return st;
}

/* GGUF: the files of the folder move beside it, the first part last. When one cannot, those that
 * did are taken away. */
static pare_status move_files(pare_output *o, pare_error *err) {
    char **names;
    size_t n, done = 0;
    PARE_TRY(pare_folder_list(&names, &n, o->folder, err));
    pare_status st = PARE_OK;
    for (; done < n && st == PARE_OK; done += st == PARE_OK)
        st = move_one(o, names[n - 1 - done], err);
    for (size_t i = 0; st != PARE_OK && i < done; i++) {
        char *to = final_path(o, names[n - 1 - i]);
        if (to) pare_path_remove(to);
        pare_free(to);
    }
    for (size_t i = 0; i < n; i++) pare_free(names[i]);
    pare_free(names);
    return st;
}

const char *pare_output_folder(const pare_output *o) { return o->folder; }

pare_status pare_output_finish(pare_output *o, pare_error *err) {
    if (o->next != o->n_items)
        return pare_fail(err, PARE_ERR_INTERNAL, "%s: wrote %zu tensors, declared %zu", o->path,
                         o->next, o->n_items);
    if (pare_json_failures() != o->json_failures) return fail_memory(o, err);
    PARE_TRY(o->gguf ? pare_gguf_finish(o->gguf_writer, err) : pare_st_finish(o->st_writer, err));
    PARE_TRY(verify(o, err));
    PARE_TRY(pare_check_cancel(o->rt, err));
    if (o->gguf) return move_files(o, err);
    PARE_TRY(pare_folder_commit(o->folder, o->path, err));
    pare_free(o->folder);
    o->folder = NULL;
    return PARE_OK;
}

void pare_output_close(pare_output *o) {
    if (!o) return;
    pare_gguf_writer_free(o->gguf_writer);
    pare_st_writer_free(o->st_writer);
    if (o->folder) pare_folder_discard(o->folder);
    pare_free(o->folder);
    pare_free(o->file);
    pare_free(o->path);
    pare_free(o->items);
    pare_free(o->freqs);
    pare_free(o);
}
