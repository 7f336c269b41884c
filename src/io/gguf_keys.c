/* GGUF metadata: the one family of getters, which checks type, length and range. */
#include "io/gguf_internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} kinds[PARE_GGUF_N_TYPES] = {
    [PARE_GGUF_U8] = {"u8", 1},         [PARE_GGUF_I8] = {"i8", 1},
    [PARE_GGUF_U16] = {"u16", 2},       [PARE_GGUF_I16] = {"i16", 2},
    [PARE_GGUF_U32] = {"u32", 4},       [PARE_GGUF_I32] = {"i32", 4},
    [PARE_GGUF_F32] = {"f32", 4},       [PARE_GGUF_BOOL] = {"bool", 1},
    [PARE_GGUF_STRING] = {"string", 0}, [PARE_GGUF_ARRAY] = {"array", 0},
    [PARE_GGUF_U64] = {"u64", 8},       [PARE_GGUF_I64] = {"i64", 8},
    [PARE_GGUF_F64] = {"f64", 8},
};

const char *pare_gguf_type_name(uint32_t type) {
    return type < PARE_GGUF_N_TYPES ? kinds[type].name : "?";
}

size_t pare_gguf_type_bytes(uint32_t type) {
    return type < PARE_GGUF_N_TYPES ? kinds[type].bytes : 0;
}

pare_gguf_kv gguf_kv_of(const gguf_part *part, size_t i) {
    const gguf_pair *pair = &part->pairs[i];
    return (pare_gguf_kv){.key = (const char *)part->header + pair->key_at,
                          .type = pair->type,
                          .item = pair->item,
                          .count = pair->count,
                          .data = part->header + pair->value_at,
                          .n_bytes = pair->n_bytes};
}

size_t pare_gguf_n_kv(const pare_gguf *g) { return g->parts[0].n_pairs; }
pare_gguf_kv pare_gguf_kv_at(const pare_gguf *g, size_t i) { return gguf_kv_of(&g->parts[0], i); }
bool pare_gguf_has(const pare_gguf *g, const char *key) {
    return gguf_key_find(&g->parts[0], key) != SIZE_MAX;
}

bool pare_gguf_kv_find(const pare_gguf *g, const char *key, pare_gguf_kv *out) {
    size_t i = gguf_key_find(&g->parts[0], key);
    if (i == SIZE_MAX) return false;
    *out = gguf_kv_of(&g->parts[0], i);
    return true;
}

/* --- one value --- */

/* An integer of any type: |value| and its sign. */
typedef struct number {
    bool negative;
    uint64_t magnitude;
} number;

static uint64_t load_bits(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

/* False when `type` is no integer type. */
static bool load_integer(number *out, uint32_t type, const uint8_t *p) {
    size_t n = pare_gguf_type_bytes(type);
    if (n == 0) return false;
    bool has_sign = false;
    switch (type) {
    case PARE_GGUF_I8:
    case PARE_GGUF_I16:
    case PARE_GGUF_I32:
    case PARE_GGUF_I64:
        has_sign = true;
        break;
    case PARE_GGUF_U8:
    case PARE_GGUF_U16:
    case PARE_GGUF_U32:
    case PARE_GGUF_U64:
        break;
    default:
        return false;
    }
    uint64_t v = load_bits(p, n);
    out->negative = has_sign && v >> (8 * n - 1);
    if (out->negative && n < 8) v |= ~(uint64_t)0 << 8 * n;
    out->magnitude = out->negative ? 0 - v : v;
    return true;
}

static bool load_real(double *out, uint32_t type, const uint8_t *p) {
    if (type == PARE_GGUF_F32) {
        uint32_t bits = (uint32_t)load_bits(p, 4);
        float v;
        memcpy(&v, &bits, 4);
        *out = (double)v;
        return true;
    }
    if (type != PARE_GGUF_F64) return false;
    uint64_t bits = load_bits(p, 8);
    memcpy(out, &bits, 8);
    return true;
}

/* --- lookup and messages --- */

/* Finds a key: PARE_OK with *there, or absent and allowed, or an error. */
static pare_status find(const gguf_part *part, const char *key, pare_need need, const char *what,
                        bool *there, pare_gguf_kv *kv, pare_error *err) {
    size_t i = gguf_key_find(part, key);
    *there = i != SIZE_MAX;
    *kv = *there ? gguf_kv_of(part, i) : (pare_gguf_kv){0};
    if (!*there && need == PARE_REQUIRED)
        return pare_fail(err, PARE_ERR_INPUT, "%s: key %s: found none, expected %s",
                         part->file.path, key, what);
    return PARE_OK;
}

static pare_status bad_type(const gguf_part *part, const pare_gguf_kv *kv, const char *what,
                            pare_error *err) {
    bool array = kv->type == PARE_GGUF_ARRAY;
    return pare_fail(err, PARE_ERR_INPUT, "%s: key %s: found %s%s, expected %s", part->file.path,
                     kv->key, array ? "an array of " : "a value of type ",
                     pare_gguf_type_name(kv->item), what);
}

static bool in_range(number v, number min, number max) {
    bool above = v.negative ? min.negative && v.magnitude <= min.magnitude
                            : min.negative || v.magnitude >= min.magnitude;
    bool below = v.negative ? !max.negative || v.magnitude >= max.magnitude
                            : !max.negative && v.magnitude <= max.magnitude;
    return above && below;
}

static pare_status bad_number(const gguf_part *part, const char *key, number v, number min,
                              number max, pare_error *err) {
    if (min.negative == max.negative && min.magnitude == max.magnitude)
        return pare_fail(err, PARE_ERR_INPUT, "%s: key %s: found %s%llu, expected %s%llu",
                         part->file.path, key, v.negative ? "-" : "",
                         (unsigned long long)v.magnitude, min.negative ? "-" : "",
                         (unsigned long long)min.magnitude);
    return pare_fail(err, PARE_ERR_INPUT, "%s: key %s: found %s%llu, expected %s%llu to %s%llu",
                     part->file.path, key, v.negative ? "-" : "", (unsigned long long)v.magnitude,
                     min.negative ? "-" : "", (unsigned long long)min.magnitude,
                     max.negative ? "-" : "", (unsigned long long)max.magnitude);
}

/* *there tells whether *out was written. */
static pare_status get_integer(const gguf_part *part, const char *key, pare_need need, number min,
                               number max, number *out, bool *there, pare_error *err) {
    pare_gguf_kv kv;
    PARE_TRY(find(part, key, need, "an integer", there, &kv, err));
    if (!*there) return PARE_OK;
    if (!load_integer(out, kv.type, kv.data)) return bad_type(part, &kv, "an integer", err);
    return in_range(*out, min, max) ? PARE_OK : bad_number(part, key, *out, min, max, err);
}

pare_status gguf_part_u64(const gguf_part *part, const char *key, pare_need need, uint64_t min,
                          uint64_t max, uint64_t *out, pare_error *err) {
    number v;
    bool there;
    PARE_TRY(
        get_integer(part, key, need, (number){false, min}, (number){false, max}, &v, &there, err));
    if (there) *out = v.magnitude;
    return PARE_OK;
}

/* --- scalars --- */

pare_status pare_gguf_u64(const pare_gguf *g, const char *key, pare_need need, uint64_t min,
                          uint64_t max, uint64_t *out, pare_error *err) {
    return gguf_part_u64(&g->parts[0], key, need, min, max, out, err);
}

pare_status pare_gguf_u32(const pare_gguf *g, const char *key, pare_need need, uint32_t min,
                          uint32_t max, uint32_t *out, pare_error *err) {
    uint64_t v = *out;
    PARE_TRY(gguf_part_u64(&g->parts[0], key, need, min, max, &v, err));
    *out = (uint32_t)v;
    return PARE_OK;
}

pare_status pare_gguf_size(const pare_gguf *g, const char *key, pare_need need, size_t min,
                           size_t max, size_t *out, pare_error *err) {
    uint64_t v = *out;
    PARE_TRY(gguf_part_u64(&g->parts[0], key, need, min, max, &v, err));
    *out = (size_t)v;
    return PARE_OK;
}

static number number_of(int32_t v) {
    return (number){v < 0, v < 0 ? (uint64_t) - (int64_t)v : (uint64_t)v};
}

static int32_t i32_of(number v) {
    return v.negative ? (int32_t) - (int64_t)v.magnitude : (int32_t)v.magnitude;
}

pare_status pare_gguf_i32(const pare_gguf *g, const char *key, pare_need need, int32_t min,
                          int32_t max, int32_t *out, pare_error *err) {
    number v;
    bool there;
    PARE_TRY(get_integer(&g->parts[0], key, need, number_of(min), number_of(max), &v, &there, err));
    if (there) *out = i32_of(v);
    return PARE_OK;
}

pare_status pare_gguf_f32(const pare_gguf *g, const char *key, pare_need need, float min, float max,
                          float *out, pare_error *err) {
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    bool there;
    double v;
    PARE_TRY(find(part, key, need, "a number (f32)", &there, &kv, err));
    if (!there) return PARE_OK;
    if (!load_real(&v, kv.type, kv.data)) return bad_type(part, &kv, "a number (f32)", err);
    /* written so that NaN fails */
    if (!(v >= (double)min && v <= (double)max && fabs(v) <= (double)FLT_MAX))
        return pare_fail(err, PARE_ERR_INPUT, "%s: key %s: found %g, expected %g to %g",
                         part->file.path, key, v, (double)min, (double)max);
    *out = (float)v;
    return PARE_OK;
}

pare_status pare_gguf_bool(const pare_gguf *g, const char *key, pare_need need, bool *out,
                           pare_error *err) {
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    bool there;
    PARE_TRY(find(part, key, need, "a bool", &there, &kv, err));
    if (!there) return PARE_OK;
    if (kv.type != PARE_GGUF_BOOL) return bad_type(part, &kv, "a bool", err);
    *out = kv.data[0] != 0;
    return PARE_OK;
}

pare_status pare_gguf_str(const pare_gguf *g, const char *key, pare_need need, const char **out,
                          pare_error *err) {
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    bool there;
    PARE_TRY(find(part, key, need, "a string", &there, &kv, err));
    if (!there) return PARE_OK;
    if (kv.type != PARE_GGUF_STRING) return bad_type(part, &kv, "a string", err);
    if (memchr(kv.data, 0, kv.n_bytes))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: key %s: found a string with a NUL inside, expected text",
                         part->file.path, key);
    *out = (const char *)kv.data;
    return PARE_OK;
}

/* --- arrays --- */

/* An array that is there, with a new block of count * size bytes for its items. */
static pare_status begin_array(const gguf_part *part, const char *key, pare_need need,
                               const char *what, size_t size, void **items, size_t *n,
                               pare_gguf_kv *kv, pare_error *err) {
    bool there;
    *items = NULL;
    *n = 0;
    PARE_TRY(find(part, key, need, what, &there, kv, err));
    if (!there) return PARE_OK;
    if (kv->type != PARE_GGUF_ARRAY) return bad_type(part, kv, what, err);
    *items = pare_malloc(kv->count, size);
    if (!*items)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: key %s: out of memory", part->file.path, key);
    *n = kv->count;
    return PARE_OK;
}

static pare_status drop_array(void **items, size_t *n, pare_status st) {
    pare_free(*items);
    *items = NULL;
    *n = 0;
    return st;
}

pare_status pare_gguf_strings(const pare_gguf *g, const char *key, pare_need need, pare_span **out,
                              size_t *n, pare_error *err) {
    static const char what[] = "an array of strings";
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    void *items;
    *out = NULL;
    PARE_TRY(begin_array(part, key, need, what, sizeof **out, &items, n, &kv, err));
    if (!items) return PARE_OK;
    if (kv.item != PARE_GGUF_STRING) return drop_array(&items, n, bad_type(part, &kv, what, err));
    *out = items;
    const uint8_t *p = kv.data; /* lengths were checked when the file was parsed */
    for (size_t i = 0; i < *n; i++) {
        size_t len = (size_t)load_bits(p, 8);
        (*out)[i] = (pare_span){(const char *)p + 8, len};
        p += 8 + len;
    }
    return PARE_OK;
}

pare_status pare_gguf_f32s(const pare_gguf *g, const char *key, pare_need need, float **out,
                           size_t *n, pare_error *err) {
    static const char what[] = "an array of f32";
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    void *items;
    *out = NULL;
    PARE_TRY(begin_array(part, key, need, what, sizeof **out, &items, n, &kv, err));
    if (!items) return PARE_OK;
    if (kv.item != PARE_GGUF_F32) return drop_array(&items, n, bad_type(part, &kv, what, err));
    if (kv.n_bytes) memcpy(items, kv.data, kv.n_bytes);
    *out = items;
    return PARE_OK;
}

/* Item i of an integer array, in range. */
static pare_status load_item(const gguf_part *part, const pare_gguf_kv *kv, size_t i, number min,
                             number max, number *out, pare_error *err) {
    if (!load_integer(out, kv->item, kv->data + i * pare_gguf_type_bytes(kv->item)))
        return bad_type(part, kv, "an array of integers", err);
    if (in_range(*out, min, max)) return PARE_OK;
    char place[300];
    snprintf(place, sizeof place, "%.*s, item %zu", pare_clip(kv->key, strlen(kv->key), 200),
             kv->key, i);
    return bad_number(part, place, *out, min, max, err);
}

pare_status pare_gguf_i32s(const pare_gguf *g, const char *key, pare_need need, int32_t **out,
                           size_t *n, pare_error *err) {
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    void *items;
    *out = NULL;
    PARE_TRY(
        begin_array(part, key, need, "an array of integers", sizeof **out, &items, n, &kv, err));
    for (size_t i = 0; i < *n; i++) {
        number v;
        pare_status st =
            load_item(part, &kv, i, number_of(INT32_MIN), number_of(INT32_MAX), &v, err);
        if (st != PARE_OK) return drop_array(&items, n, st);
        ((int32_t *)items)[i] = i32_of(v);
    }
    *out = items;
    return PARE_OK;
}

pare_status pare_gguf_u32s(const pare_gguf *g, const char *key, pare_need need, uint32_t **out,
                           size_t *n, pare_error *err) {
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    void *items;
    *out = NULL;
    PARE_TRY(
        begin_array(part, key, need, "an array of integers", sizeof **out, &items, n, &kv, err));
    for (size_t i = 0; i < *n; i++) {
        number v;
        pare_status st =
            load_item(part, &kv, i, (number){false, 0}, (number){false, UINT32_MAX}, &v, err);
        if (st != PARE_OK) return drop_array(&items, n, st);
        ((uint32_t *)items)[i] = (uint32_t)v.magnitude;
    }
    *out = items;
    return PARE_OK;
}

pare_status pare_gguf_u32_each(const pare_gguf *g, const char *key, pare_need need, uint32_t min,
                               uint32_t max, uint32_t *out, size_t n, pare_error *err) {
    const gguf_part *part = &g->parts[0];
    pare_gguf_kv kv;
    bool there;
    PARE_TRY(find(part, key, need, "an integer, or one per layer", &there, &kv, err));
    if (!there) return PARE_OK;
    number low = {false, min}, high = {false, max}, v = {0};
    if (kv.type != PARE_GGUF_ARRAY) {
        PARE_TRY(get_integer(part, key, need, low, high, &v, &there, err));
        for (size_t i = 0; i < n; i++) out[i] = (uint32_t)v.magnitude;
        return PARE_OK;
    }
    if (kv.count != n)
        return pare_fail(err, PARE_ERR_INPUT, "%s: key %s: found %zu items, expected %zu",
                         part->file.path, key, kv.count, n);
    for (size_t i = 0; i < n; i++) {
        PARE_TRY(load_item(part, &kv, i, low, high, &v, err));
        out[i] = (uint32_t)v.magnitude;
    }
    return PARE_OK;
}
