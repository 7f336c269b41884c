/* A Hugging Face folder: config.json, safetensors, and pare's own quantization_config. */
#include "model/source_internal.h"

#include <stdio.h>
#include <string.h>

/* The encodings that pare's own quantization_config names: root NULL = none. */
static pare_status read_quantization(pare_json *tensors, const pare_source *s, pare_error *err) {
    const pare_json *j = &s->config_json;
    const char *method = NULL;
    *tensors = (pare_json){0};
    if (pare_json_get(j, "compression_config")) return PARE_OK;
    PARE_TRY(pare_json_str(j, "quantization_config.quant_method", PARE_OPTIONAL, &method, err));
    if (!method || strcmp(method, "pare") != 0) return PARE_OK;
    int64_t version;
    PARE_TRY(pare_json_int(j, "quantization_config.version", PARE_REQUIRED, 1, 1, &version, err));
    return pare_json_part(tensors, j, "quantization_config.tensors", PARE_REQUIRED, err);
}

/* One stored part: its tensor, whose dtype must be the part's and whose shape must fit; how long
 * the rows are tells the number of bytes. */
static pare_status find_part(const pare_source *s, const char *base, const pare_part_spec *part,
                             size_t rows, const pare_st_tensor **out, pare_error *err) {
    char name[PARE_ST_MAX_NAME + 64];
    snprintf(name, sizeof name, "%s%s", base, part->suffix);
    *out = pare_st_find(s->st, name);
    if (!*out)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found no such tensor, expected one of %s",
                         s->path, name, part->dtype);
    if (strcmp((*out)->dtype->name, part->dtype) != 0)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found dtype %s, expected %s",
                         pare_st_file(s->st, (*out)->file)->path, name, (*out)->dtype->name,
                         part->dtype);
    size_t n_dims = (*out)->n_dims, first = n_dims ? (*out)->dims[0] : 0;
    if (part->per_row && (n_dims != 2 || first != rows))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: %s: found %zu dimensions, the first %zu, expected 2, the first %zu",
                         pare_st_file(s->st, (*out)->file)->path, name, n_dims, first, rows);
    if (!part->per_row && n_dims != 1)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %zu dimensions, expected 1",
                         pare_st_file(s->st, (*out)->file)->path, name, n_dims);
    return PARE_OK;
}

/* A tensor in an encoding of pare's. */
static pare_status add_encoded(pare_source *s, const char *base, const pare_encoding *enc,
                               pare_table *parts, pare_error *err) {
    const char *place = s->config_json.place;
    pare_name name;
    if (!pare_name_parse(&name, s->arch, PARE_NAMES_HF, base) || name.is_bias ||
        name.spec->out == PARE_X_NONE ||
        (name.layer != SIZE_MAX && name.layer >= s->config.n_layers))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: quantization_config.tensors: found %.200s, expected a matrix of %s",
                         place, base, s->config.arch);
    pare_source_tensor t = {.enc = enc, .type = enc->name, .n_parts = enc->n_parts};
    source_expected_shape(s, &name, 0, &t.n_dims, t.dims);
    t.n_params = (uint64_t)t.dims[0] * t.dims[1];
    for (size_t i = 0; i < enc->n_parts; i++) {
        const pare_st_tensor *part;
        PARE_TRY(find_part(s, base, &enc->parts[i], t.dims[0], &part, err));
        if (pare_table_add(parts, part->name, strlen(part->name), 0) < 0)
            return pare_fail(err, PARE_ERR_NOMEM, "%s: names of tensors", s->path);
        if (i == 0) t.name = base;
        t.file[i] = part->file;
        t.offset[i] = part->offset;
        t.bytes[i] = part->n_bytes;
        t.n_bytes += part->n_bytes;
    }
    size_t row_bytes = pare_encoding_row_bytes(enc, t.dims[1]);
    if (enc->block_bytes && (!row_bytes || t.n_bytes != (uint64_t)row_bytes * t.dims[0]))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: %s: found %llu bytes, expected %zu rows of %zu values as %s",
                         source_file_path(s, &t), base, (unsigned long long)t.n_bytes, t.dims[0],
                         t.dims[1], enc->name);
    return source_add(s, &t, true, err);
}

static pare_status add_all_encoded(pare_source *s, const pare_json *list, pare_table *parts,
                                   pare_error *err) {
    const char *base;
    json_t *entry;
    json_object_foreach(list->root, base, entry) {
        const json_t *value = json_object_get(entry, "encoding");
        const char *name = json_string_value(value);
        const pare_encoding *enc = name ? pare_encoding_find(name) : NULL;
        if (!enc)
            return pare_fail(err, name ? PARE_ERR_UNSUPPORTED : PARE_ERR_INPUT,
                             "%s: %.200s: found encoding %.40s, expected one that pare knows",
                             list->place, base, name ? name : "missing");
        PARE_TRY(add_encoded(s, base, enc, parts, err));
    }
    return PARE_OK;
}

static pare_status add_plain(pare_source *s, const pare_st_tensor *st, pare_error *err) {
    pare_source_tensor t = {.name = st->name,
                            .enc = pare_encoding_from_dtype(st->dtype->name),
                            .type = st->dtype->name,
                            .n_dims = st->n_dims,
                            .n_params = st->n_elements,
                            .n_bytes = st->n_bytes,
                            .n_parts = 1,
                            .file = {st->file},
                            .offset = {st->offset},
                            .bytes = {st->n_bytes}};
    if (t.enc) t.type = t.enc->name;
    /* more than four dims occur in vision towers only: the last ones are folded */
    if (t.n_dims > 4) t.n_dims = 4;
    for (size_t i = 0; i < 4; i++) t.dims[i] = i < t.n_dims ? st->dims[i] : 1;
    for (size_t i = 4; i < st->n_dims; i++) t.dims[3] *= st->dims[i];
    return source_add(s, &t, false, err);
}

static pare_status add_tensors(pare_source *s, const pare_json *encoded, const source_quant *quant,
                               pare_table *parts, pare_error *err) {
    size_t n = pare_st_n_tensors(s->st);
    PARE_TRY(source_reserve(s, n, err));
    if (encoded->root) PARE_TRY(add_all_encoded(s, encoded, parts, err));
    if (quant) PARE_TRY(source_quant_add(s, quant, parts, err));
    for (size_t i = 0; i < n; i++) {
        const pare_st_tensor *t = pare_st_tensor_at(s->st, i);
        if (pare_table_get(parts, t->name, strlen(t->name)) < 0) PARE_TRY(add_plain(s, t, err));
    }
    return PARE_OK;
}

pare_status source_open_hf(pare_source *s, pare_error *err) {
    char *path = pare_path_join(s->path, "config.json");
    if (!path) return pare_fail(err, PARE_ERR_NOMEM, "%s: a path", s->path);
    pare_status st = pare_json_load(&s->config_json, path, PARE_JSON_CONFIG_MAX, 0, err);
    pare_free(path);
    if (st != PARE_OK) return st;
    PARE_TRY(pare_config_from_hf(&s->config, &s->arch, &s->config_json, err));

    pare_json encoded;
    PARE_TRY(read_quantization(&encoded, s, err));
    pare_table parts = {0};
    source_quant *quant = NULL;
    st = source_quant_open(&quant, s, err);
    if (st == PARE_OK) st = pare_st_open(&s->st, s->path, err);
    if (st == PARE_OK) st = add_tensors(s, &encoded, quant, &parts, err);
    pare_table_free(&parts);
    pare_json_free(&encoded);
    source_quant_close(quant);
    return st;
}
