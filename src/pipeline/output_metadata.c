/* What an output says of itself: config.json with its quantization_config, or the keys of a GGUF
 * file; tokenizer, cushion and what else travels along. */
#include "pipeline/model_output_internal.h"

#include "base/memory.h"
#include "io/json.h"
#include "model/act.h"
#include "model/act_table.h"
#include "model/prefix.h"
#include "pipeline/export_config.h"
#include "pipeline/export_metadata.h"
#include "pipeline/export_tokenizer.h"

#include <stdlib.h>
#include <string.h>

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

/* What groups of compressed-tensors cannot say goes under pare's own key, and in other formats all.
 * *out NULL: nothing. */
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
    return output_fail_memory(o, err);
}

static pare_status put_inputs_gguf(pare_output *o, pare_error *err) {
    json_t *table;
    PARE_TRY(inputs_json(&table, o, err));
    if (!table) return PARE_OK;
    char *text = json_dumps(table, JSON_COMPACT);
    pare_status st = text ? pare_gguf_set_str(o->gguf_writer, PARE_ACT_GGUF_KEY, text, err)
                          : output_fail_memory(o, err);
    free(text); /* jansson's */
    json_decref(table);
    return st;
}

/* --- config.json --- */

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
    if (!path) return output_fail_memory(o, err);
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
        if (json_object_set_new(config, "pare", json_object()) != 0)
            return output_fail_memory(o, err);
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
    if (!config) return output_fail_memory(o, err);
    if (!o->same_format) {
        json_object_set_new(config, "torch_dtype", json_string(torch_dtype(o)));
        put_biases(o, config);
    }
    if (o->top_k && pare_top_k_is_on(o->top_k))
        json_object_set_new(config, PARE_TOP_K_KEY, pare_export_top_k_json(o->top_k));
    else if (o->top_k) /* what the input had is over */
        json_object_del(config, PARE_TOP_K_KEY);
    json_t *quantization = o->kind ? packing_json(o) : quantization_json(o);
    pare_status st = o->kind && !quantization ? output_fail_memory(o, err) : PARE_OK;
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
        if (!skip) st = from && to ? pare_file_copy(to, from, err) : output_fail_memory(o, err);
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
    pare_status st = to ? pare_prefix_in_gguf(&gguf, o->prefix, err) : output_fail_memory(o, err);
    if (st == PARE_OK && !gguf) st = pare_file_copy(to, o->prefix, err);
    if (st == PARE_OK && gguf) st = pare_prefix_load(&p, c, o->prefix, err);
    if (st == PARE_OK && gguf) st = pare_prefix_record(&record, o->prefix, err);
    if (st == PARE_OK && gguf) st = pare_prefix_save(p, c, record, to, err);
    pare_prefix_free(p);
    pare_free(record);
    pare_free(to);
    return st;
}

pare_status output_metadata_hf(pare_output *o, const char *recipe, pare_error *err) {
    PARE_TRY(write_config_json(o, recipe, err));
    if (o->same_format)
        PARE_TRY(copy_companions(o, err));
    else
        PARE_TRY(pare_export_tokenizer_hf(o->rt, pare_source_gguf(o->source), o->folder, err));
    return o->prefix ? copy_prefix(o, err) : PARE_OK;
}

/* --- keys of GGUF --- */

pare_status output_metadata_gguf(pare_output *o, const pare_mix *mix, const char *recipe,
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
        PARE_TRY(
            pare_export_config_gguf(w, pare_source_config(o->source), output_base_name(path), err));
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
    if (!o->prefix) return PARE_OK;
    return pare_prefix_put_gguf(w, o->prefix, pare_source_config(o->source), o->arch->name, err);
}
