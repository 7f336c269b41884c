/* GGUF: parsing the headers. The layout is drawn in gguf.h.
 *
 * The header is read front to back into one growing buffer and never past what the file holds:
 * every count and length is compared with the bytes left before anything is allocated or skipped,
 * so a short file can claim nothing large. What is found is recorded by position (the buffer moves
 * while it grows); when all is parsed a NUL is written behind each key, name and string, over a
 * byte that has already been read. Duplicates are looked for once, at the end, through a keyed
 * hash. */
#include "io/gguf_internal.h"

#include "io/ggml_types.h"

#include <stdarg.h>
#include <string.h>

/* What is being parsed, for messages: composed only when one is needed. */
typedef struct place {
    const char *kind; /* "header", "key", "tensor" */
    size_t index;     /* which key or tensor */
    uint32_t at, len; /* its name, once that is read */
} place;

typedef struct reader {
    pare_gguf *g;
    gguf_part *part;
    size_t have, pos; /* bytes of part->header that are read; the next one to parse */
    place place;
    pare_error *err;
} reader;

/* --- messages: FILE: PLACE: ... --- */

enum { PLACE_BYTES = 160 };

static const char *place_text(const reader *r, char text[PLACE_BYTES]) {
    const place *p = &r->place;
    const char *name = p->len ? (const char *)r->part->header + p->at : "";
    if (p->len)
        snprintf(text, PLACE_BYTES, "%s %.*s", p->kind, pare_clip(name, p->len, 100), name);
    else if (p->kind[0] == 'h')
        snprintf(text, PLACE_BYTES, "header");
    else
        snprintf(text, PLACE_BYTES, "%s number %zu", p->kind, p->index);
    return text;
}

#define BAD(r, format, ...)                                                                        \
    pare_fail((r)->err, PARE_ERR_INPUT, "%s: %s: " format, (r)->part->file.path,                   \
              place_text(r, (char[PLACE_BYTES]){0}), ##__VA_ARGS__)

static pare_status out_of_memory(const reader *r) {
    return pare_fail(r->err, PARE_ERR_NOMEM, "%s: out of memory", r->part->file.path);
}

__attribute__((format(printf, 3, 4))) static pare_status add_warning(pare_gguf *g, pare_error *err,
                                                                     const char *format, ...) {
    if (g->n_warnings == GGUF_MAX_WARNINGS) return PARE_OK;
    char line[1000];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    g->warnings[g->n_warnings] = pare_strdup(line);
    if (!g->warnings[g->n_warnings])
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", g->parts[0].file.path);
    g->n_warnings++;
    return PARE_OK;
}

/* --- bytes --- */

static uint64_t bytes_left(const reader *r) { return r->part->file.size - r->pos; }

/* Makes at least n bytes at r->pos available. The caller knows that the file holds them. */
static pare_status fetch(reader *r, size_t n) {
    size_t want = r->pos + n;
    if (want <= r->have) return PARE_OK;
    size_t goal = want > 65536 ? want + want / 2 : 65536;
    if (goal > r->part->file.size) goal = (size_t)r->part->file.size;
    uint8_t *more = pare_realloc(r->part->header, goal + 1, 1);
    if (!more) return out_of_memory(r);
    r->part->header = more;
    PARE_TRY(pare_file_read_at(&r->part->file, more + r->have, goal - r->have, r->have, r->err));
    r->have = goal;
    return PARE_OK;
}

/* Compares n with the bytes left and with the cap, then fetches. */
static pare_status demand(reader *r, uint64_t n) {
    if (n > bytes_left(r))
        return BAD(r, "found the end of the file at byte %llu, expected %llu more bytes",
                   (unsigned long long)r->part->file.size, (unsigned long long)n);
    if (n > GGUF_MAX_HEADER - r->pos)
        return BAD(r, "found more than %zu bytes of metadata, expected at most that",
                   GGUF_MAX_HEADER);
    return fetch(r, (size_t)n);
}

static uint32_t load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t load_u64(const uint8_t *p) {
    return (uint64_t)load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}
static uint32_t take_u32(reader *r) {
    r->pos += 4;
    return load_u32(r->part->header + r->pos - 4);
}
static uint64_t take_u64(reader *r) {
    r->pos += 8;
    return load_u64(r->part->header + r->pos - 8);
}

/* u64 length and bytes: position and length of the bytes. */
static pare_status take_string(reader *r, uint32_t *at, uint32_t *len) {
    PARE_TRY(demand(r, 8));
    uint64_t n = take_u64(r);
    if (n > bytes_left(r))
        return BAD(r, "found a string of %llu bytes, expected at most the %llu left in the file",
                   (unsigned long long)n, (unsigned long long)bytes_left(r));
    PARE_TRY(demand(r, n));
    *at = (uint32_t)r->pos;
    *len = (uint32_t)n;
    r->pos += (size_t)n;
    return PARE_OK;
}

/* The name of a key or tensor; from here on messages carry it. */
static pare_status take_name(reader *r, const char *kind, size_t index, uint32_t max, uint32_t *at,
                             uint32_t *len) {
    r->place = (place){.kind = kind, .index = index};
    PARE_TRY(take_string(r, at, len));
    if (*len == 0 || *len > max)
        return BAD(r, "found a name of %u bytes, expected 1 to %u", *len, max);
    if (!pare_name_valid((const char *)r->part->header + *at, *len))
        return BAD(r, "found control bytes or invalid UTF-8 in the name, expected text");
    r->place.at = *at;
    r->place.len = *len;
    return PARE_OK;
}

/* --- metadata --- */

static pare_status parse_array(reader *r, gguf_pair *pair) {
    PARE_TRY(demand(r, 12));
    uint32_t item = take_u32(r);
    uint64_t count = take_u64(r);
    if (item == PARE_GGUF_ARRAY)
        return BAD(r, "found an array of arrays, expected an array of plain values");
    if (item >= PARE_GGUF_N_TYPES)
        return BAD(r, "found the item type %u, expected 0 to %d", item, PARE_GGUF_N_TYPES - 1);
    size_t smallest = item == PARE_GGUF_STRING ? 8 : pare_gguf_type_bytes(item);
    uint64_t most = bytes_left(r) / smallest;
    if (count > most)
        return BAD(r, "found an array of %llu items, expected at most %llu in the bytes left",
                   (unsigned long long)count, (unsigned long long)most);
    PARE_TRY(demand(r, count * smallest));
    pair->item = (uint8_t)item;
    pair->count = (uint32_t)count;
    pair->value_at = (uint32_t)r->pos;
    if (item != PARE_GGUF_STRING) {
        r->pos += (size_t)count * smallest;
    } else {
        uint32_t at, len;
        for (uint64_t i = 0; i < count; i++) PARE_TRY(take_string(r, &at, &len));
    }
    pair->n_bytes = (uint32_t)(r->pos - pair->value_at);
    return PARE_OK;
}

static pare_status parse_value(reader *r, gguf_pair *pair) {
    PARE_TRY(demand(r, 4));
    uint32_t type = take_u32(r);
    if (type >= PARE_GGUF_N_TYPES)
        return BAD(r, "found the value type %u, expected 0 to %d", type, PARE_GGUF_N_TYPES - 1);
    pair->type = pair->item = (uint8_t)type;
    pair->count = 1;
    if (type == PARE_GGUF_ARRAY) {
        PARE_TRY(parse_array(r, pair));
    } else if (type == PARE_GGUF_STRING) {
        PARE_TRY(take_string(r, &pair->value_at, &pair->n_bytes));
    } else {
        pair->n_bytes = (uint32_t)pare_gguf_type_bytes(type);
        PARE_TRY(demand(r, pair->n_bytes));
        pair->value_at = (uint32_t)r->pos;
        r->pos += pair->n_bytes;
    }
    if (pair->item != PARE_GGUF_BOOL) return PARE_OK;
    const uint8_t *p = r->part->header + pair->value_at;
    for (uint32_t i = 0; i < pair->n_bytes; i++)
        if (p[i] > 1) return BAD(r, "found the boolean %u, expected 0 or 1", p[i]);
    return PARE_OK;
}

static pare_span key_of(const void *owner, size_t i) {
    const gguf_part *part = owner;
    return (pare_span){(const char *)part->header + part->pairs[i].key_at, part->pairs[i].key_len};
}

size_t gguf_key_find(const gguf_part *part, const char *key) {
    return pare_names_find(&part->keys, part, key_of, key, strlen(key));
}

static pare_status parse_pairs(reader *r, size_t n) {
    gguf_part *part = r->part;
    size_t capacity = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == capacity) {
            capacity = capacity ? capacity * 2 : 64;
            if (capacity > n) capacity = n;
            gguf_pair *more = pare_realloc(part->pairs, capacity, sizeof *more);
            if (!more) return out_of_memory(r);
            part->pairs = more;
        }
        gguf_pair *pair = &part->pairs[i];
        *pair = (gguf_pair){0};
        PARE_TRY(take_name(r, "key", i, GGUF_MAX_KEY, &pair->key_at, &pair->key_len));
        PARE_TRY(parse_value(r, pair));
        part->n_pairs = i + 1;
    }
    size_t twin;
    if (!pare_names_build(&part->keys, part, key_of, n, &twin)) return out_of_memory(r);
    if (twin == SIZE_MAX) return PARE_OK;
    const gguf_pair *pair = &part->pairs[twin];
    r->place = (place){"key", twin, pair->key_at, pair->key_len};
    return BAD(r, "found the key twice, expected once");
}

/* --- tensors --- */

static pare_status parse_shape(reader *r, pare_gguf_tensor *t) {
    PARE_TRY(demand(r, 4));
    t->n_dims = take_u32(r);
    if (t->n_dims > 4) return BAD(r, "found %u dimensions, expected at most 4", t->n_dims);
    PARE_TRY(demand(r, 8 * (uint64_t)t->n_dims + 12));
    for (uint32_t d = 0; d < 4; d++) {
        uint64_t n = d < t->n_dims ? take_u64(r) : 1;
        if (n > INT64_MAX)
            return BAD(r, "found the dimension %llu, expected 0 to 2^63-1", (unsigned long long)n);
        t->ne[d] = (size_t)n;
    }
    return PARE_OK;
}

static bool shape_sizes(pare_gguf_tensor *t, const pare_ggml_type *type) {
    /* with 1 for empty dimensions, so that the product of no subset can overflow later either */
    size_t full = 1, elements = 1, bytes;
    for (int d = 0; d < 4; d++) {
        if (!pare_mul_size(&full, full, t->ne[d] ? t->ne[d] : 1)) return false;
        elements *= t->ne[d]; /* at most `full` */
    }
    if (full > INT64_MAX || !pare_mul_size(&bytes, elements / type->block_len, type->block_bytes))
        return false;
    t->n_elements = elements;
    t->n_bytes = bytes;
    return true;
}

static pare_status parse_type(reader *r, pare_gguf_tensor *t) {
    t->type = take_u32(r);
    const pare_ggml_type *type = pare_ggml_type_at(t->type);
    if (!type) {
        BAD(r, "found the type %d (%s), expected a type of ggml", (int)t->type,
            pare_ggml_type_problem(t->type));
        if (r->err) r->err->status = PARE_ERR_UNSUPPORTED;
        return PARE_ERR_UNSUPPORTED;
    }
    if (t->ne[0] % type->block_len)
        return BAD(r, "found rows of %zu values, expected a multiple of %u (%s)", t->ne[0],
                   type->block_len, type->name);
    if (!shape_sizes(t, type))
        return BAD(r, "found the shape [%zu, %zu, %zu, %zu], expected one whose size fits 63 bits",
                   t->ne[0], t->ne[1], t->ne[2], t->ne[3]);
    return PARE_OK;
}

/* *expected: the offset from the start of the data at which this tensor must begin, then the next.
 */
static pare_status parse_tensor(reader *r, gguf_tensor *t, size_t index, size_t *expected) {
    PARE_TRY(take_name(r, "tensor", index, GGUF_MAX_NAME, &t->name_at, &t->name_len));
    PARE_TRY(parse_shape(r, &t->t));
    PARE_TRY(parse_type(r, &t->t));
    t->t.offset = take_u64(r);
    if (t->t.offset != *expected)
        return BAD(r, "found the data offset %llu, expected %zu (in file order, without holes)",
                   (unsigned long long)t->t.offset, *expected);
    if (!pare_add_size(expected, *expected, (size_t)t->t.n_bytes) ||
        !pare_align_size(expected, *expected, r->part->alignment))
        return BAD(r, "found %llu bytes, expected a sum of all sizes that fits 64 bits",
                   (unsigned long long)t->t.n_bytes);
    return PARE_OK;
}

static pare_status parse_tensors(reader *r, size_t n) {
    pare_gguf *g = r->g;
    size_t expected = 0;
    for (size_t i = 0; i < n; i++) {
        if (g->n_tensors == g->tensor_capacity) {
            size_t capacity = g->tensor_capacity ? g->tensor_capacity * 2 : 64;
            gguf_tensor *more = pare_realloc(g->tensors, capacity, sizeof *more);
            if (!more) return out_of_memory(r);
            g->tensors = more;
            g->tensor_capacity = capacity;
        }
        gguf_tensor *t = &g->tensors[g->n_tensors];
        *t = (gguf_tensor){.t.file = (size_t)(r->part - g->parts)};
        PARE_TRY(parse_tensor(r, t, i, &expected));
        g->n_tensors++;
    }
    return PARE_OK;
}

/* Turns offsets into absolute ones and compares the end of the last tensor with the file's. */
static pare_status place_data(reader *r, size_t first_tensor) {
    pare_gguf *g = r->g;
    const pare_file *file = &r->part->file;
    size_t start, end = r->pos, padded;
    if (!pare_align_size(&start, r->pos, r->part->alignment)) return PARE_ERR_INTERNAL;
    for (size_t i = first_tensor; i < g->n_tensors; i++) {
        pare_gguf_tensor *t = &g->tensors[i].t;
        size_t offset;
        r->place = (place){"tensor", i, g->tensors[i].name_at, g->tensors[i].name_len};
        if (!pare_add_size(&offset, (size_t)t->offset, start) ||
            !pare_add_size(&end, offset, (size_t)t->n_bytes) || end > file->size)
            return BAD(r, "found a file of %llu bytes, expected %llu bytes of data at byte %zu",
                       (unsigned long long)file->size, (unsigned long long)t->n_bytes, offset);
        t->offset = offset;
    }
    /* writers pad the last tensor (and a header without tensors), or do not */
    if (!pare_align_size(&padded, end, r->part->alignment) || padded >= file->size) return PARE_OK;
    return add_warning(g, r->err, "%s: found %llu bytes after the last tensor; they are ignored",
                       file->path, (unsigned long long)(file->size - padded));
}

/* Every byte that is overwritten here has been parsed already (and the buffer has one more). */
static void terminate_strings(reader *r, size_t first_tensor) {
    gguf_part *part = r->part;
    for (size_t i = 0; i < part->n_pairs; i++) {
        const gguf_pair *pair = &part->pairs[i];
        part->header[pair->key_at + pair->key_len] = 0;
        if (pair->type == PARE_GGUF_STRING) part->header[pair->value_at + pair->n_bytes] = 0;
    }
    for (size_t i = first_tensor; i < r->g->n_tensors; i++) {
        gguf_tensor *t = &r->g->tensors[i];
        part->header[t->name_at + t->name_len] = 0;
        t->t.name = (const char *)part->header + t->name_at;
    }
}

/* --- one file --- */

static pare_status parse_version(reader *r) {
    if (memcmp(r->part->header, "version https://", 16) == 0)
        return BAD(r,
                   "found a Git LFS pointer (the file itself was not downloaded), expected GGUF");
    if (memcmp(r->part->header, "GGUF", 4) != 0)
        return BAD(r, "found the bytes %02x %02x %02x %02x, expected \"GGUF\"", r->part->header[0],
                   r->part->header[1], r->part->header[2], r->part->header[3]);
    r->pos = 4;
    r->part->version = take_u32(r);
    if (r->part->version && (r->part->version & 0xFFFF) == 0)
        return BAD(r, "found a big-endian file (version 0x%08x), expected little-endian",
                   r->part->version);
    if (r->part->version != 2 && r->part->version != 3)
        return BAD(r, "found version %u, expected 2 or 3", r->part->version);
    return PARE_OK;
}

static pare_status find_alignment(reader *r) {
    gguf_part *part = r->part;
    part->alignment = 32;
    size_t i = gguf_key_find(part, "general.alignment");
    if (i == SIZE_MAX) return PARE_OK;
    const gguf_pair *pair = &part->pairs[i];
    r->place = (place){"key", i, pair->key_at, pair->key_len};
    if (pair->type != PARE_GGUF_U32)
        return BAD(r, "found a value of type %s, expected u32", pare_gguf_type_name(pair->type));
    uint32_t n = load_u32(part->header + pair->value_at);
    if (n == 0 || (n & (n - 1))) return BAD(r, "found %u, expected a power of two", n);
    part->alignment = n;
    return PARE_OK;
}

/* Parses g->parts[index], whose file is open; its tensors are appended. */
static pare_status parse_part(pare_gguf *g, size_t index, pare_error *err) {
    reader r = {.g = g, .part = &g->parts[index], .place.kind = "header", .err = err};
    if (r.part->file.fd < 0) r.have = (size_t)r.part->file.size;
    if (bytes_left(&r) < 24)
        return BAD(&r, "found %llu bytes, expected a GGUF file (24 at least)",
                   (unsigned long long)bytes_left(&r));
    PARE_TRY(fetch(&r, 24));
    PARE_TRY(parse_version(&r));
    uint64_t n_tensors = take_u64(&r), n_pairs = take_u64(&r), left = bytes_left(&r);
    /* the smallest pair: length, one letter, type, one byte; the smallest tensor: length, one
     * letter, n_dims, type, offset */
    if (n_pairs > left / 14)
        return BAD(&r, "found %llu keys, expected at most %llu in %llu bytes",
                   (unsigned long long)n_pairs, (unsigned long long)(left / 14),
                   (unsigned long long)left);
    if (n_tensors > left / 25)
        return BAD(&r, "found %llu tensors, expected at most %llu in %llu bytes",
                   (unsigned long long)n_tensors, (unsigned long long)(left / 25),
                   (unsigned long long)left);
    size_t first_tensor = g->n_tensors;
    PARE_TRY(parse_pairs(&r, (size_t)n_pairs));
    PARE_TRY(find_alignment(&r));
    PARE_TRY(parse_tensors(&r, (size_t)n_tensors));
    PARE_TRY(place_data(&r, first_tensor));
    uint8_t *exact = pare_realloc(r.part->header, r.pos + 1, 1);
    if (exact) r.part->header = exact;
    terminate_strings(&r, first_tensor);
    return PARE_OK;
}

/* --- split files --- */

/* *prefix_len: bytes of `path` before "-00001-of-0000n.gguf", when it ends so for part 0 of n. */
static bool split_prefix(const char *path, size_t n, size_t *prefix_len) {
    char suffix[64];
    int len = snprintf(suffix, sizeof suffix, "-%05d-of-%05zu.gguf", 1, n);
    size_t total = strlen(path);
    if (len < 0 || total < (size_t)len || strcmp(path + total - (size_t)len, suffix) != 0)
        return false;
    *prefix_len = total - (size_t)len;
    return true;
}

/* A part that carries the model's identity must carry the same one. */
static pare_status check_same_model(const pare_gguf *g, const gguf_part *part, pare_error *err) {
    static const char *const keys[] = {"general.architecture", "general.name"};
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        size_t a = gguf_key_find(&g->parts[0], keys[k]), b = gguf_key_find(part, keys[k]);
        if (a == SIZE_MAX || b == SIZE_MAX) continue;
        pare_gguf_kv x = gguf_kv_of(&g->parts[0], a), y = gguf_kv_of(part, b);
        if (x.type != y.type || x.n_bytes != y.n_bytes || memcmp(x.data, y.data, x.n_bytes) != 0)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: key %s: found a part of another model than %s", part->file.path,
                             keys[k], g->parts[0].file.path);
    }
    return PARE_OK;
}

static pare_status check_part(const pare_gguf *g, size_t i, size_t n, pare_error *err) {
    const gguf_part *part = &g->parts[i];
    uint64_t value;
    PARE_TRY(gguf_part_u64(part, "split.no", PARE_REQUIRED, i, i, &value, err));
    PARE_TRY(gguf_part_u64(part, "split.count", PARE_REQUIRED, n, n, &value, err));
    return check_same_model(g, part, err);
}

static pare_status open_parts(pare_gguf *g, pare_error *err) {
    const char *path = g->parts[0].file.path;
    uint64_t n = 1, value, total;
    PARE_TRY(gguf_part_u64(&g->parts[0], "split.count", PARE_OPTIONAL, 1, GGUF_MAX_PARTS, &n, err));
    if (n == 1) return PARE_OK;
    PARE_TRY(gguf_part_u64(&g->parts[0], "split.no", PARE_REQUIRED, 0, n - 1, &value, err));
    if (value != 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: key split.no: found part %llu of %llu, expected the first part", path,
                         (unsigned long long)value + 1, (unsigned long long)n);
    size_t prefix;
    if (!split_prefix(path, (size_t)n, &prefix))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found the first of %llu parts, expected the name NAME-00001-of-%05llu"
                         ".gguf with the others beside it",
                         path, (unsigned long long)n, (unsigned long long)n);
    for (size_t i = 1; i < n; i++) {
        char *name = pare_asprintf("%.*s-%05zu-of-%05zu.gguf", (int)prefix, path, i + 1, (size_t)n);
        gguf_part *more = name ? pare_realloc(g->parts, i + 1, sizeof *more) : NULL;
        if (!more) {
            pare_free(name);
            return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
        }
        g->parts = more;
        g->parts[i] = (gguf_part){.file.fd = -1};
        g->n_parts = i + 1;
        pare_status st = pare_file_open(&g->parts[i].file, name, err);
        pare_free(name);
        if (st == PARE_OK) st = parse_part(g, i, err);
        if (st == PARE_OK) st = check_part(g, i, (size_t)n, err);
        if (st != PARE_OK) return st;
        path = g->parts[0].file.path;
    }
    total = g->n_tensors;
    return gguf_part_u64(&g->parts[0], "split.tensors.count", PARE_OPTIONAL, total, total, &value,
                         err);
}

/* --- opening --- */

static pare_span name_of(const void *owner, size_t i) {
    const gguf_tensor *t = &((const pare_gguf *)owner)->tensors[i];
    return (pare_span){t->t.name, t->name_len};
}

static pare_status index_tensors(pare_gguf *g, pare_error *err) {
    size_t twin;
    if (!pare_names_build(&g->names, g, name_of, g->n_tensors, &twin))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", g->parts[0].file.path);
    if (twin == SIZE_MAX) return PARE_OK;
    const pare_gguf_tensor *t = &g->tensors[twin].t;
    return pare_fail(err, PARE_ERR_INPUT, "%s: tensor %s: found the name twice, expected once",
                     g->parts[t->file].file.path, t->name);
}

/* Takes over `first` (file, and header when it comes from memory). */
static pare_status open_first(pare_gguf **out, gguf_part first, pare_error *err) {
    pare_gguf *g = pare_calloc(1, sizeof *g);
    gguf_part *parts = pare_calloc(1, sizeof *parts);
    if (!g || !parts) {
        pare_free(g);
        pare_free(parts);
        pare_file_close(&first.file);
        pare_free(first.header);
        return pare_fail(err, PARE_ERR_NOMEM, "GGUF file: out of memory");
    }
    parts[0] = first;
    g->parts = parts;
    g->n_parts = 1;
    pare_status st = parse_part(g, 0, err);
    if (st == PARE_OK) st = open_parts(g, err);
    if (st == PARE_OK) st = index_tensors(g, err);
    if (st != PARE_OK) {
        pare_gguf_close(g);
        return st;
    }
    *out = g;
    return PARE_OK;
}

pare_status pare_gguf_open(pare_gguf **out, const char *path, pare_error *err) {
    *out = NULL;
    gguf_part first = {.file.fd = -1};
    PARE_TRY(pare_file_open(&first.file, path, err));
    return open_first(out, first, err);
}

pare_status pare_gguf_open_memory(pare_gguf **out, const void *data, size_t n, const char *name,
                                  pare_error *err) {
    *out = NULL;
    gguf_part first = {.file = {-1, n, pare_strdup(name)}, .header = pare_malloc(n + 1, 1)};
    if (!first.file.path || !first.header) {
        pare_free(first.file.path);
        pare_free(first.header);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    }
    if (n) memcpy(first.header, data, n);
    return open_first(out, first, err);
}

void pare_gguf_close(pare_gguf *g) {
    if (!g) return;
    for (size_t i = 0; i < g->n_parts; i++) {
        pare_file_close(&g->parts[i].file);
        pare_free(g->parts[i].header);
        pare_free(g->parts[i].pairs);
        pare_names_free(&g->parts[i].keys);
    }
    for (size_t i = 0; i < g->n_warnings; i++) pare_free(g->warnings[i]);
    pare_free(g->parts);
    pare_free(g->tensors);
    pare_names_free(&g->names);
    pare_free(g);
}

/* --- what was found --- */

const char *pare_gguf_path(const pare_gguf *g) { return g->parts[0].file.path; }
uint32_t pare_gguf_version(const pare_gguf *g) { return g->parts[0].version; }
size_t pare_gguf_alignment(const pare_gguf *g) { return g->parts[0].alignment; }
size_t pare_gguf_n_files(const pare_gguf *g) { return g->n_parts; }
const pare_file *pare_gguf_file(const pare_gguf *g, size_t i) { return &g->parts[i].file; }
size_t pare_gguf_n_warnings(const pare_gguf *g) { return g->n_warnings; }
const char *pare_gguf_warning(const pare_gguf *g, size_t i) { return g->warnings[i]; }
size_t pare_gguf_n_tensors(const pare_gguf *g) { return g->n_tensors; }
const pare_gguf_tensor *pare_gguf_tensor_at(const pare_gguf *g, size_t i) {
    return &g->tensors[i].t;
}

const pare_gguf_tensor *pare_gguf_find(const pare_gguf *g, const char *name) {
    size_t i = pare_names_find(&g->names, g, name_of, name, strlen(name));
    return i == SIZE_MAX ? NULL : &g->tensors[i].t;
}

void pare_gguf_shape(const pare_gguf_tensor *t, size_t *n_dims, size_t dims[4]) {
    *n_dims = t->n_dims;
    for (size_t d = 0; d < 4; d++) dims[d] = d < t->n_dims ? t->ne[t->n_dims - 1 - d] : 1;
}
