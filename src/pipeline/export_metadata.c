#include "pipeline/export_metadata.h"

#include <math.h>
#include <string.h>

enum {
    MAX_BYTES = 1 << 16,                /* of one value */
    MAX_TEXT = PARE_JSON_CONFIG_MAX / 4 /* of all entries as JSON: config.json stays readable */
};

static bool begins_with(const char *s, const char *start) {
    return strncmp(s, start, strlen(start)) == 0;
}

static bool is_carried(const char *key, const char *arch) {
    static const char *const own[] = {"general.architecture", "general.alignment",
                                      "general.quantization_version"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcmp(key, own[i]) == 0) return false;
    size_t n = strlen(arch);
    if (strncmp(key, arch, n) == 0 && key[n] == '.') return false;
    return !begins_with(key, "tokenizer.") && !begins_with(key, "split.") &&
           !begins_with(key, "pare.");
}

/* --- GGUF -> JSON --- */

static uint64_t load(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

/* One number, or NULL. */
static json_t *number_json(uint32_t type, const uint8_t *p) {
    size_t n = pare_gguf_type_bytes(type);
    uint64_t bits = load(p, n);
    if (type == PARE_GGUF_BOOL) return json_boolean(bits);
    if (type == PARE_GGUF_F32) {
        uint32_t word = (uint32_t)bits;
        float f;
        memcpy(&f, &word, sizeof f);
        return json_real((double)f); /* NULL for NaN and Inf */
    }
    if (type == PARE_GGUF_F64) {
        double d;
        memcpy(&d, &bits, sizeof d);
        return json_real(d);
    }
    bool is_signed = type == PARE_GGUF_I8 || type == PARE_GGUF_I16 || type == PARE_GGUF_I32 ||
                     type == PARE_GGUF_I64;
    if (is_signed && n > 0 && n < 8 && bits >> (8 * n - 1)) bits |= UINT64_MAX << 8 * n;
    /* what our reader of JSON takes for an integer */
    if (is_signed ? (int64_t)bits == INT64_MIN : bits > INT64_MAX) return NULL;
    return json_integer((json_int_t)bits);
}

static json_t *text_json(const uint8_t *s, size_t n) {
    return memchr(s, 0, n) ? NULL : json_stringn((const char *)s, n); /* NULL unless UTF-8 */
}

/* The next item at *p. */
static json_t *item_json(const pare_gguf_kv *kv, const uint8_t **p) {
    size_t n = pare_gguf_type_bytes(kv->item);
    if (kv->item != PARE_GGUF_STRING) return number_json(kv->item, (*p += n) - n);
    n = (size_t)load(*p, 8);
    *p += 8 + n;
    return text_json(*p - n, n);
}

static json_t *value_json(const pare_gguf_kv *kv) {
    const uint8_t *p = kv->data;
    if (kv->n_bytes > MAX_BYTES) return NULL;
    if (kv->type == PARE_GGUF_STRING) return text_json(p, kv->n_bytes);
    if (kv->type != PARE_GGUF_ARRAY) return number_json(kv->type, p);
    json_t *list = json_array();
    for (size_t i = 0; i < kv->count; i++)
        if (json_array_append_new(list, item_json(kv, &p)) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

pare_status pare_metadata_to_json(json_t **out, pare_runtime *rt, const pare_gguf *from,
                                  const char *arch, pare_error *err) {
    json_t *all = *out = json_object();
    size_t text = 0;
    if (!all) return pare_fail(err, PARE_ERR_NOMEM, "config.json: out of memory");
    for (size_t i = 0; i < pare_gguf_n_kv(from); i++) {
        pare_gguf_kv kv = pare_gguf_kv_at(from, i);
        if (!is_carried(kv.key, arch)) continue;
        json_t *value = value_json(&kv);
        if (!value) {
            pare_warn(rt, "%s: key %s: config.json cannot hold its value; it is left out",
                      pare_gguf_path(from), kv.key);
            continue;
        }
        json_t *entry = json_object();
        bool ok =
            json_object_set_new(entry, "type", json_string(pare_gguf_type_name(kv.item))) == 0;
        ok = json_object_set_new(entry, "value", value) == 0 && ok;
        size_t bytes = strlen(kv.key) + json_dumpb(entry, NULL, 0, JSON_INDENT(2));
        if (ok && bytes > MAX_TEXT - text) {
            pare_warn(rt, "%s: key %s: config.json has no room for its value; it is left out",
                      pare_gguf_path(from), kv.key);
            json_decref(entry);
            continue;
        }
        text += bytes;
        if (json_object_set_new(all, kv.key, entry) != 0 || !ok) {
            json_decref(all);
            *out = NULL;
            return pare_fail(err, PARE_ERR_NOMEM, "config.json: out of memory");
        }
    }
    if (json_object_size(all) == 0) {
        json_decref(all);
        *out = NULL;
    }
    return PARE_OK;
}

/* --- JSON -> GGUF --- */

static bool add_integer(pare_buffer *to, uint32_t type, const json_t *item) {
    size_t bits = 8 * pare_gguf_type_bytes(type);
    if (!json_is_integer(item)) return false;
    int64_t v = json_integer_value(item), min, max;
    if (type == PARE_GGUF_I8 || type == PARE_GGUF_I16 || type == PARE_GGUF_I32 ||
        type == PARE_GGUF_I64) {
        max = INT64_MAX >> (64 - bits);
        min = -max - 1;
    } else {
        max = bits == 64 ? INT64_MAX : (int64_t)((uint64_t)1 << bits) - 1;
        min = 0;
    }
    if (v < min || v > max) return false;
    for (size_t i = 0; i < bits; i += 8) pare_buffer_add(to, &(uint8_t){(uint8_t)(v >> i)}, 1);
    return true;
}

/* Little-endian, as GGUF has them; false when the item is not of the type. */
static bool add_item(pare_buffer *to, uint32_t type, const json_t *item, bool in_array) {
    if (type == PARE_GGUF_STRING) {
        if (!json_is_string(item)) return false;
        uint64_t n = json_string_length(item);
        for (size_t i = 0; in_array && i < 64; i += 8)
            pare_buffer_add(to, &(uint8_t){(uint8_t)(n >> i)}, 1);
        pare_buffer_add(to, json_string_value(item), (size_t)n);
        return true;
    }
    if (type == PARE_GGUF_BOOL) {
        pare_buffer_add(to, &(uint8_t){json_is_true(item)}, 1);
        return json_is_boolean(item);
    }
    if (type != PARE_GGUF_F32 && type != PARE_GGUF_F64) return add_integer(to, type, item);
    double d = json_number_value(item);
    float f = (float)d;
    uint64_t bits = 0;
    if (!json_is_number(item) || (type == PARE_GGUF_F32 && !isfinite(f))) return false;
    memcpy(&bits, type == PARE_GGUF_F32 ? (void *)&f : (void *)&d, pare_gguf_type_bytes(type));
    for (size_t i = 0; i < pare_gguf_type_bytes(type); i++)
        pare_buffer_add(to, &(uint8_t){(uint8_t)(bits >> 8 * i)}, 1);
    return true;
}

/* The number of a type's name; PARE_GGUF_N_TYPES = no item has it. */
static uint32_t find_type(const char *name) {
    for (uint32_t t = 0; name && t < PARE_GGUF_N_TYPES; t++)
        if (t != PARE_GGUF_ARRAY && strcmp(name, pare_gguf_type_name(t)) == 0) return t;
    return PARE_GGUF_N_TYPES;
}

static pare_status set_entry(pare_gguf_writer *w, const char *key, const json_t *entry,
                             const char *place, pare_error *err) {
    const json_t *value = json_object_get(entry, "value");
    uint32_t type = find_type(json_string_value(json_object_get(entry, "type")));
    pare_buffer bytes = {0};
    bool ok = type < PARE_GGUF_N_TYPES && value, array = json_is_array(value);
    for (size_t i = 0; ok && array && i < json_array_size(value); i++)
        ok = add_item(&bytes, type, json_array_get(value, i), true);
    if (ok && !array) ok = add_item(&bytes, type, value, false);
    pare_status st = PARE_OK;
    if (!ok)
        st = pare_fail(err, PARE_ERR_INPUT,
                       "%s: pare.gguf: %.80s: found a type of GGUF without a value of it, expected "
                       "{\"type\": TYPE, \"value\": VALUE}",
                       place, key);
    else if (bytes.failed)
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: pare.gguf: out of memory", place);
    else
        st = pare_gguf_set_kv(w,
                              &(pare_gguf_kv){.key = key,
                                              .type = array ? PARE_GGUF_ARRAY : type,
                                              .item = type,
                                              .count = array ? json_array_size(value) : 1,
                                              .data = bytes.data,
                                              .n_bytes = bytes.n},
                              err);
    pare_buffer_free(&bytes);
    return st;
}

pare_status pare_metadata_to_gguf(pare_gguf_writer *w, const pare_json *config, const char *arch,
                                  bool file_type, pare_error *err) {
    json_t *all = json_object_get(json_object_get(config->root, "pare"), "gguf"), *entry;
    if (!all) return PARE_OK;
    if (!json_is_object(all))
        return pare_fail(err, PARE_ERR_INPUT, "%s: pare.gguf: found no object, expected one",
                         config->place);
    const char *key;
    json_object_foreach(all, key, entry) {
        if (!is_carried(key, arch) || !*key || !pare_name_valid(key, strlen(key)))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: pare.gguf: found the key \"%.*s\", expected one that the model's "
                             "configuration and vocabulary do not say",
                             config->place, pare_clip(key, strlen(key), 80), key);
        if (!file_type && strcmp(key, "general.file_type") == 0) continue;
        PARE_TRY(set_entry(w, key, entry, config->place, err));
    }
    return PARE_OK;
}
