/* Writing GGUF: all sizes are known when the header is written, so every tensor has its place and
 * may come in any order. */
#include "io/gguf_writer.h"

#include "base/hash.h"
#include "io/ggml_types.h"
#include "io/gguf_internal.h"

#include <string.h>

enum { ALIGNMENT = 32 };

typedef struct out_pair {
    char *key; /* owned */
    uint32_t type;
    pare_buffer value; /* as in the file */
} out_pair;

typedef struct out_tensor {
    char *name; /* owned */
    uint32_t type, n_dims;
    size_t ne[4];
    uint64_t n_bytes, filled;
    size_t part;
    uint64_t offset; /* from the start of the data, then absolute */
} out_tensor;

struct pare_gguf_writer {
    char *path;
    uint64_t max_part_bytes;
    out_pair *pairs;
    size_t n_pairs, pair_capacity;
    pare_table keys;
    out_tensor *tensors;
    size_t n_tensors, tensor_capacity;
    pare_table names;
    pare_writer *files; /* [n_files] */
    char **paths;       /* [n_files] their names: also for removing them when memory is out */
    size_t n_files;
    bool begun, finished;
};

static pare_status out_of_memory(const pare_gguf_writer *w, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", w->path);
}

static void put(pare_buffer *b, uint64_t v, size_t n) {
    uint8_t bytes[8];
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)(v >> 8 * i);
    pare_buffer_add(b, bytes, n);
}

static void put_string(pare_buffer *b, const void *s, size_t n) {
    put(b, n, 8);
    pare_buffer_add(b, s, n);
}

pare_status pare_gguf_writer_create(pare_gguf_writer **out, const char *path,
                                    uint64_t max_part_bytes, pare_error *err) {
    *out = NULL;
    pare_gguf_writer *w = pare_calloc(1, sizeof *w);
    char *copy = pare_strdup(path);
    if (!w || !copy) {
        pare_free(w);
        pare_free(copy);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    }
    *w = (pare_gguf_writer){.path = copy, .max_part_bytes = max_part_bytes};
    *out = w;
    return PARE_OK;
}

void pare_gguf_writer_free(pare_gguf_writer *w) {
    if (!w) return;
    for (size_t i = 0; i < w->n_files; i++) {
        pare_writer_discard(&w->files[i]);
        pare_free(w->paths[i]);
    }
    for (size_t i = 0; i < w->n_pairs; i++) {
        pare_free(w->pairs[i].key);
        pare_buffer_free(&w->pairs[i].value);
    }
    for (size_t i = 0; i < w->n_tensors; i++) pare_free(w->tensors[i].name);
    pare_free(w->files);
    pare_free(w->paths);
    pare_free(w->pairs);
    pare_free(w->tensors);
    pare_table_free(&w->keys);
    pare_table_free(&w->names);
    pare_free(w->path);
    pare_free(w);
}

/* --- keys --- */

static bool is_reserved(const char *key) {
    return strcmp(key, "general.alignment") == 0 || strncmp(key, "split.", 6) == 0;
}

static pare_status check_key(const pare_gguf_writer *w, const char *key, pare_error *err) {
    size_t n = strlen(key);
    if (w->begun) return pare_fail(err, PARE_ERR_ARG, "%s: key %s: set after begin", w->path, key);
    if (n == 0 || n > GGUF_MAX_KEY || !pare_name_valid(key, n))
        return pare_fail(err, PARE_ERR_ARG, "%s: key %.*s: found no valid key, expected text",
                         w->path, pare_clip(key, n, 100), key);
    if (is_reserved(key))
        return pare_fail(err, PARE_ERR_ARG, "%s: key %s: set by the writer itself", w->path, key);
    return PARE_OK;
}

/* The pair of that key, new or to be replaced; NULL when memory is out. */
static out_pair *pair_for(pare_gguf_writer *w, const char *key) {
    int64_t at = pare_table_get(&w->keys, key, strlen(key));
    if (at >= 0) {
        pare_buffer_free(&w->pairs[at].value);
        return &w->pairs[at];
    }
    if (w->n_pairs == w->pair_capacity) {
        size_t capacity = w->pair_capacity ? w->pair_capacity * 2 : 64;
        out_pair *more = pare_realloc(w->pairs, capacity, sizeof *more);
        if (!more) return NULL;
        w->pairs = more;
        w->pair_capacity = capacity;
    }
    char *copy = pare_strdup(key);
    if (!copy || pare_table_add(&w->keys, copy, strlen(copy), (int64_t)w->n_pairs) < 0) {
        pare_free(copy);
        return NULL;
    }
    w->pairs[w->n_pairs] = (out_pair){.key = copy};
    return &w->pairs[w->n_pairs++];
}

/* item == type: a scalar of n_bytes; a string's bytes; else an array of `count` items. */
static pare_status set(pare_gguf_writer *w, const char *key, uint32_t type, uint32_t item,
                       size_t count, const void *data, size_t n_bytes, pare_error *err) {
    PARE_TRY(check_key(w, key, err));
    out_pair *pair = pair_for(w, key);
    if (!pair) return out_of_memory(w, err);
    pair->type = type;
    if (type == PARE_GGUF_ARRAY) {
        put(&pair->value, item, 4);
        put(&pair->value, count, 8);
    } else if (type == PARE_GGUF_STRING) {
        put(&pair->value, n_bytes, 8);
    }
    pare_buffer_add(&pair->value, data, n_bytes);
    return pair->value.failed ? out_of_memory(w, err) : PARE_OK;
}

static pare_status set_number(pare_gguf_writer *w, const char *key, uint32_t type, uint64_t bits,
                              pare_error *err) {
    pare_buffer b = {0};
    put(&b, bits, pare_gguf_type_bytes(type));
    pare_status st =
        b.failed ? out_of_memory(w, err) : set(w, key, type, type, 1, b.data, b.n, err);
    pare_buffer_free(&b);
    return st;
}

static uint32_t float_bits(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

pare_status pare_gguf_set_u16(pare_gguf_writer *w, const char *key, uint16_t v, pare_error *err) {
    return set_number(w, key, PARE_GGUF_U16, v, err);
}
pare_status pare_gguf_set_u32(pare_gguf_writer *w, const char *key, uint32_t v, pare_error *err) {
    return set_number(w, key, PARE_GGUF_U32, v, err);
}
pare_status pare_gguf_set_i32(pare_gguf_writer *w, const char *key, int32_t v, pare_error *err) {
    return set_number(w, key, PARE_GGUF_I32, (uint32_t)v, err);
}
pare_status pare_gguf_set_u64(pare_gguf_writer *w, const char *key, uint64_t v, pare_error *err) {
    return set_number(w, key, PARE_GGUF_U64, v, err);
}
pare_status pare_gguf_set_f32(pare_gguf_writer *w, const char *key, float v, pare_error *err) {
    return set_number(w, key, PARE_GGUF_F32, float_bits(v), err);
}
pare_status pare_gguf_set_bool(pare_gguf_writer *w, const char *key, bool v, pare_error *err) {
    return set_number(w, key, PARE_GGUF_BOOL, v, err);
}
pare_status pare_gguf_set_str(pare_gguf_writer *w, const char *key, const char *v,
                              pare_error *err) {
    return set(w, key, PARE_GGUF_STRING, PARE_GGUF_STRING, 1, v, strlen(v), err);
}

pare_status pare_gguf_set_strings(pare_gguf_writer *w, const char *key, const pare_span *v,
                                  size_t n, pare_error *err) {
    pare_buffer b = {0};
    for (size_t i = 0; i < n; i++) put_string(&b, v[i].s, v[i].n);
    pare_status st = b.failed ? out_of_memory(w, err)
                              : set(w, key, PARE_GGUF_ARRAY, PARE_GGUF_STRING, n, b.data, b.n, err);
    pare_buffer_free(&b);
    return st;
}

/* Arrays of 32-bit items. */
static pare_status set_words(pare_gguf_writer *w, const char *key, uint32_t item, const void *v,
                             size_t n, pare_error *err) {
    pare_buffer b = {0};
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)v + 4 * i, 4);
        put(&b, word, 4);
    }
    pare_status st =
        b.failed ? out_of_memory(w, err) : set(w, key, PARE_GGUF_ARRAY, item, n, b.data, b.n, err);
    pare_buffer_free(&b);
    return st;
}

pare_status pare_gguf_set_f32s(pare_gguf_writer *w, const char *key, const float *v, size_t n,
                               pare_error *err) {
    return set_words(w, key, PARE_GGUF_F32, v, n, err);
}
pare_status pare_gguf_set_i32s(pare_gguf_writer *w, const char *key, const int32_t *v, size_t n,
                               pare_error *err) {
    return set_words(w, key, PARE_GGUF_I32, v, n, err);
}
pare_status pare_gguf_set_u32s(pare_gguf_writer *w, const char *key, const uint32_t *v, size_t n,
                               pare_error *err) {
    return set_words(w, key, PARE_GGUF_U32, v, n, err);
}

pare_status pare_gguf_set_kv(pare_gguf_writer *w, const pare_gguf_kv *kv, pare_error *err) {
    return set(w, kv->key, kv->type, kv->item, kv->count, kv->data, kv->n_bytes, err);
}

static bool is_excepted(const char *key, const char *const *except, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(except[i]);
        if (len && except[i][len - 1] == '*' ? strncmp(key, except[i], len - 1) == 0
                                             : strcmp(key, except[i]) == 0)
            return true;
    }
    return is_reserved(key);
}

pare_status pare_gguf_copy(pare_gguf_writer *w, const pare_gguf *from, const char *const *except,
                           size_t n_except, pare_error *err) {
    for (size_t i = 0; i < pare_gguf_n_kv(from); i++) {
        pare_gguf_kv kv = pare_gguf_kv_at(from, i);
        if (!is_excepted(kv.key, except, n_except)) PARE_TRY(pare_gguf_set_kv(w, &kv, err));
    }
    return PARE_OK;
}

/* --- tensors --- */

/* Bytes of a shape in a type, or an error. */
static pare_status tensor_bytes(const pare_gguf_writer *w, out_tensor *t, pare_error *err) {
    const pare_ggml_type *type = pare_ggml_type_at(t->type);
    if (!type)
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: found the type %u (%s)", w->path,
                         t->name, t->type, pare_ggml_type_problem(t->type));
    if (t->ne[0] % type->block_len)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: tensor %s: found rows of %zu values, expected a multiple of %u (%s)",
                         w->path, t->name, t->ne[0], type->block_len, type->name);
    size_t n = 1, bytes;
    bool fits = true;
    for (int d = 0; d < 4; d++) fits = fits && pare_mul_size(&n, n, t->ne[d]);
    if (!fits || n > INT64_MAX || !pare_mul_size(&bytes, n / type->block_len, type->block_bytes))
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: found a size that overflows", w->path,
                         t->name);
    t->n_bytes = bytes;
    return PARE_OK;
}

pare_status pare_gguf_declare(pare_gguf_writer *w, const char *name, uint32_t type,
                              const size_t *dims, size_t n_dims, pare_error *err) {
    size_t n = strlen(name);
    if (w->begun || n == 0 || n > GGUF_MAX_NAME || n_dims > 4 || !pare_name_valid(name, n))
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: tensor %.*s: found %zu dimensions and a name of %zu bytes, expected "
                         "at most 4 and 1 to %d, before begin",
                         w->path, pare_clip(name, n, 100), name, n_dims, n, GGUF_MAX_NAME);
    if (w->n_tensors == w->tensor_capacity) {
        size_t capacity = w->tensor_capacity ? w->tensor_capacity * 2 : 64;
        out_tensor *more = pare_realloc(w->tensors, capacity, sizeof *more);
        if (!more) return out_of_memory(w, err);
        w->tensors = more;
        w->tensor_capacity = capacity;
    }
    out_tensor t = {
        .name = pare_strdup(name), .type = type, .n_dims = (uint32_t)n_dims, .ne = {1, 1, 1, 1}};
    if (!t.name) return out_of_memory(w, err);
    for (size_t d = 0; d < n_dims; d++) t.ne[d] = dims[n_dims - 1 - d];
    pare_status st = tensor_bytes(w, &t, err);
    int added = st == PARE_OK ? pare_table_add(&w->names, t.name, n, (int64_t)w->n_tensors) : 1;
    if (added == 0)
        st = pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: declared twice", w->path, name);
    else if (added < 0)
        st = out_of_memory(w, err);
    if (st != PARE_OK) {
        pare_free(t.name);
        return st;
    }
    w->tensors[w->n_tensors++] = t;
    return PARE_OK;
}

uint64_t pare_gguf_declared_bytes(const pare_gguf_writer *w) {
    uint64_t total = 0;
    for (size_t i = 0; i < w->n_tensors; i++) total += w->tensors[i].n_bytes;
    return total;
}

/* --- the header --- */

/* Gives every tensor its part and its offset in the part's data. */
static pare_status plan(pare_gguf_writer *w, pare_error *err) {
    size_t part = 0, used = 0;
    for (size_t i = 0; i < w->n_tensors; i++) {
        out_tensor *t = &w->tensors[i];
        size_t padded;
        if (!pare_align_size(&padded, (size_t)t->n_bytes, ALIGNMENT) ||
            !pare_add_size(&padded, used, padded))
            return pare_fail(err, PARE_ERR_ARG, "%s: found a total size that overflows", w->path);
        bool full = w->max_part_bytes && used && used + t->n_bytes > w->max_part_bytes;
        if (full) {
            part++;
            padded -= used;
            used = 0;
        }
        t->part = part;
        t->offset = used;
        used = padded;
    }
    w->n_files = part + 1;
    if (w->n_files > GGUF_MAX_PARTS)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found %zu parts of %llu bytes, expected at most %d (larger parts)",
                         w->path, w->n_files, (unsigned long long)w->max_part_bytes,
                         GGUF_MAX_PARTS);
    return PARE_OK;
}

static void put_small(pare_buffer *b, const char *key, uint32_t type, uint64_t v) {
    put_string(b, key, strlen(key));
    put(b, type, 4);
    put(b, v, pare_gguf_type_bytes(type));
}

static void put_pairs(const pare_gguf_writer *w, pare_buffer *b, size_t part) {
    if (w->n_files > 1) {
        put_small(b, "split.no", PARE_GGUF_U16, part);
        put_small(b, "split.count", PARE_GGUF_U16, w->n_files);
        put_small(b, "split.tensors.count", PARE_GGUF_I32, w->n_tensors);
    }
    if (part) return; /* the first part holds the model's */
    for (size_t i = 0; i < w->n_pairs; i++) {
        put_string(b, w->pairs[i].key, strlen(w->pairs[i].key));
        put(b, w->pairs[i].type, 4);
        pare_buffer_add(b, w->pairs[i].value.data, w->pairs[i].value.n);
    }
}

static void put_tensors(const pare_gguf_writer *w, pare_buffer *b, size_t part) {
    for (size_t i = 0; i < w->n_tensors; i++) {
        const out_tensor *t = &w->tensors[i];
        if (t->part != part) continue;
        put_string(b, t->name, strlen(t->name));
        put(b, t->n_dims, 4);
        for (uint32_t d = 0; d < t->n_dims; d++) put(b, t->ne[d], 8);
        put(b, t->type, 4);
        put(b, t->offset, 8);
    }
}

/* New. */
static char *part_path(const pare_gguf_writer *w, size_t part) {
    if (w->n_files == 1) return pare_strdup(w->path);
    size_t n = strlen(w->path);
    if (n > 5 && strcmp(w->path + n - 5, ".gguf") == 0) n -= 5;
    return pare_asprintf("%.*s-%05zu-of-%05zu.gguf", (int)n, w->path, part + 1, w->n_files);
}

static pare_status begin_part(pare_gguf_writer *w, size_t part, pare_error *err) {
    size_t n_tensors = 0, padded;
    for (size_t i = 0; i < w->n_tensors; i++) n_tensors += w->tensors[i].part == part;
    size_t n_pairs = (w->n_files > 1 ? 3 : 0) + (part == 0 ? w->n_pairs : 0);
    pare_buffer b = {0};
    pare_buffer_add(&b, "GGUF\3\0\0", 8);
    put(&b, n_tensors, 8);
    put(&b, n_pairs, 8);
    put_pairs(w, &b, part);
    put_tensors(w, &b, part);
    w->paths[part] = part_path(w, part);
    pare_status st = PARE_OK;
    if (b.failed || !w->paths[part] || !pare_align_size(&padded, b.n, ALIGNMENT)) {
        st = out_of_memory(w, err);
    } else {
        st = pare_writer_open(&w->files[part], w->paths[part], err);
        if (st == PARE_OK) st = pare_writer_write(&w->files[part], b.data, b.n, err);
        if (st == PARE_OK) st = pare_writer_pad(&w->files[part], padded - b.n, err);
        for (size_t i = 0; i < w->n_tensors; i++)
            if (w->tensors[i].part == part) w->tensors[i].offset += padded;
    }
    pare_buffer_free(&b);
    return st;
}

pare_status pare_gguf_begin(pare_gguf_writer *w, pare_error *err) {
    if (w->begun) return pare_fail(err, PARE_ERR_ARG, "%s: begun twice", w->path);
    w->begun = true;
    pare_status st = plan(w, err);
    if (st == PARE_OK) {
        w->files = pare_calloc(w->n_files, sizeof *w->files);
        w->paths = pare_calloc(w->n_files, sizeof *w->paths);
        if (!w->files || !w->paths) st = out_of_memory(w, err);
    }
    if (st != PARE_OK) {
        w->n_files = 0;
        return st;
    }
    for (size_t i = 0; i < w->n_files; i++) w->files[i].fd = -1;
    for (size_t i = 0; i < w->n_files; i++) PARE_TRY(begin_part(w, i, err));
    return PARE_OK;
}

/* --- the data --- */

pare_status pare_gguf_write(pare_gguf_writer *w, size_t tensor, const void *data, size_t n,
                            pare_error *err) {
    if (!w->n_files || w->finished || tensor >= w->n_tensors)
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor number %zu: not open for writing", w->path,
                         tensor);
    out_tensor *t = &w->tensors[tensor];
    if (n > t->n_bytes - t->filled)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: tensor %s: found %zu bytes more, expected at most %llu", w->path,
                         t->name, n, (unsigned long long)(t->n_bytes - t->filled));
    PARE_TRY(pare_writer_write_at(&w->files[t->part], data, n, t->offset + t->filled, err));
    t->filled += n;
    return PARE_OK;
}

/* What lies between tensors was never written and reads as zeros; the end has to be made. */
static pare_status pad_end(pare_gguf_writer *w, size_t part, pare_error *err) {
    static const uint8_t zeros[ALIGNMENT];
    uint64_t end = 0;
    for (size_t i = 0; i < w->n_tensors; i++) {
        const out_tensor *t = &w->tensors[i];
        if (t->part == part && t->offset + t->n_bytes > end) end = t->offset + t->n_bytes;
    }
    size_t pad = (size_t)(-end % ALIGNMENT);
    return pad ? pare_writer_write_at(&w->files[part], zeros, pad, end, err) : PARE_OK;
}

/* The first part last: what a reader opens is there when all others are. */
static pare_status commit_all(pare_gguf_writer *w, pare_error *err) {
    size_t i = w->n_files;
    pare_status st = PARE_OK;
    while (i-- > 0 && st == PARE_OK) st = pare_writer_commit(&w->files[i], err);
    if (st == PARE_OK) return PARE_OK;
    for (size_t done = i + 2; done < w->n_files; done++) pare_path_remove(w->paths[done]);
    return st;
}

pare_status pare_gguf_finish(pare_gguf_writer *w, pare_error *err) {
    if (!w->n_files || w->finished)
        return pare_fail(err, PARE_ERR_ARG, "%s: finished without begin", w->path);
    for (size_t i = 0; i < w->n_tensors; i++) {
        const out_tensor *t = &w->tensors[i];
        if (t->filled != t->n_bytes)
            return pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: found %llu bytes, expected %llu",
                             w->path, t->name, (unsigned long long)t->filled,
                             (unsigned long long)t->n_bytes);
    }
    for (size_t i = 0; i < w->n_files; i++) PARE_TRY(pad_end(w, i, err));
    w->finished = true;
    return commit_all(w, err);
}

size_t pare_gguf_writer_n_files(const pare_gguf_writer *w) { return w->n_files; }
char *pare_gguf_writer_file(const pare_gguf_writer *w, size_t i) {
    return pare_strdup(w->paths[i]);
}
