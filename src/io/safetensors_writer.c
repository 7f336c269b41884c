/* Writing safetensors. A shard is one pare_writer: its header's place is left free (of exact size
 * when the sizes were declared, of a bound when they were expected, then filled up with spaces) and
 * written when its tensors are known. Names of shards carry their number, which is known at the end
 * only: until then a shard has a provisional name. */
#include "io/safetensors_writer.h"

#include "base/hash.h"
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

typedef struct out_tensor {
    char *name; /* owned */
    const pare_st_dtype *dtype;
    size_t n_dims, dims[PARE_ST_MAX_DIMS];
    uint64_t n_bytes, filled;
    size_t shard;
    uint64_t offset; /* from the start of the shard's data */
} out_tensor;

typedef struct shard {
    pare_writer file;
    char *name; /* its final one; set before the first is committed */
    uint64_t data_start, n_data;
} shard;

struct pare_st_writer {
    char *path;
    uint64_t max_shard_bytes;
    char **metadata; /* [2 * n_metadata] key, value */
    size_t n_metadata;
    out_tensor *tensors;
    size_t n_tensors, tensor_capacity;
    pare_table names;
    shard *shards;
    size_t n_shards;
    uint64_t reserved; /* bytes of header that the expected names need at most */
    bool expects, begun, finished;
};

static pare_status out_of_memory(const pare_st_writer *w, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", w->path);
}

pare_status pare_st_writer_create(pare_st_writer **out, const char *path, uint64_t max_shard_bytes,
                                  pare_error *err) {
    *out = NULL;
    pare_st_writer *w = pare_calloc(1, sizeof *w);
    char *copy = pare_strdup(path);
    if (!w || !copy) {
        pare_free(w);
        pare_free(copy);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    }
    *w = (pare_st_writer){.path = copy, .max_shard_bytes = max_shard_bytes};
    pare_status st = pare_st_set_metadata(w, "format", "pt", err);
    if (st != PARE_OK) {
        pare_st_writer_free(w);
        return st;
    }
    *out = w;
    return PARE_OK;
}

void pare_st_writer_free(pare_st_writer *w) {
    if (!w) return;
    for (size_t i = 0; i < w->n_shards; i++) {
        pare_writer_discard(&w->shards[i].file);
        pare_free(w->shards[i].name);
    }
    for (size_t i = 0; i < 2 * w->n_metadata; i++) pare_free(w->metadata[i]);
    for (size_t i = 0; i < w->n_tensors; i++) pare_free(w->tensors[i].name);
    pare_free(w->shards);
    pare_free(w->metadata);
    pare_free(w->tensors);
    pare_table_free(&w->names);
    pare_free(w->path);
    pare_free(w);
}

pare_status pare_st_set_metadata(pare_st_writer *w, const char *key, const char *value,
                                 pare_error *err) {
    if (w->begun || !pare_utf8_valid(key, strlen(key)) || !pare_utf8_valid(value, strlen(value)))
        return pare_fail(err, PARE_ERR_ARG, "%s: __metadata__: expected UTF-8, before begin",
                         w->path);
    char *copy = pare_strdup(value);
    if (!copy) return out_of_memory(w, err);
    for (size_t i = 0; i < w->n_metadata; i++) {
        if (strcmp(w->metadata[2 * i], key) != 0) continue;
        pare_free(w->metadata[2 * i + 1]);
        w->metadata[2 * i + 1] = copy;
        return PARE_OK;
    }
    char *name = pare_strdup(key);
    char **more = name ? pare_realloc(w->metadata, 2 * (w->n_metadata + 1), sizeof *more) : NULL;
    if (!more) {
        pare_free(name);
        pare_free(copy);
        return out_of_memory(w, err);
    }
    w->metadata = more;
    more[2 * w->n_metadata] = name;
    more[2 * w->n_metadata + 1] = copy;
    w->n_metadata++;
    return PARE_OK;
}

/* --- tensors --- */

static pare_status check_name(const pare_st_writer *w, const char *name, pare_error *err) {
    size_t n = strlen(name);
    if (n == 0 || n > PARE_ST_MAX_NAME || !pare_name_valid(name, n) ||
        strcmp(name, "__metadata__") == 0)
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor \"%.*s\": found no valid name", w->path,
                         pare_clip(name, n, 100), name);
    return PARE_OK;
}

/* Adds a tensor without a place. */
static pare_status add(pare_st_writer *w, const char *name, const char *dtype, const size_t *dims,
                       size_t n_dims, pare_error *err) {
    PARE_TRY(check_name(w, name, err));
    out_tensor t = {.dtype = pare_st_dtype_find(dtype), .n_dims = n_dims};
    uint64_t n_elements;
    if (!t.dtype || n_dims > PARE_ST_MAX_DIMS ||
        !pare_st_size(&t.n_bytes, &n_elements, t.dtype, dims, n_dims))
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: tensor %s: found dtype %s and %zu dimensions, expected a dtype of "
                         "safetensors and whole bytes that fit 64 bits",
                         w->path, name, dtype, n_dims);
    for (size_t d = 0; d < n_dims; d++) t.dims[d] = dims[d];
    if (w->n_tensors == w->tensor_capacity) {
        size_t capacity = w->tensor_capacity ? w->tensor_capacity * 2 : 64;
        out_tensor *more = pare_realloc(w->tensors, capacity, sizeof *more);
        if (!more) return out_of_memory(w, err);
        w->tensors = more;
        w->tensor_capacity = capacity;
    }
    t.name = pare_strdup(name);
    int added =
        t.name ? pare_table_add(&w->names, t.name, strlen(name), (int64_t)w->n_tensors) : -1;
    if (added <= 0) {
        pare_free(t.name);
        return added < 0
                   ? out_of_memory(w, err)
                   : pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: added twice", w->path, name);
    }
    w->tensors[w->n_tensors++] = t;
    return PARE_OK;
}

pare_status pare_st_declare(pare_st_writer *w, const char *name, const char *dtype,
                            const size_t *dims, size_t n_dims, size_t *tensor, pare_error *err) {
    if (w->begun || w->expects)
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: declared after begin or expect",
                         w->path, name);
    PARE_TRY(add(w, name, dtype, dims, n_dims, err));
    if (tensor) *tensor = w->n_tensors - 1;
    return PARE_OK;
}

/* --- the header --- */

static void put_text(pare_buffer *b, const char *s) {
    pare_buffer_add(b, "\"", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            pare_buffer_print(b, "\\%c", c);
        else if (c < 0x20)
            pare_buffer_print(b, "\\u%04x", c);
        else
            pare_buffer_add(b, s, 1);
    }
    pare_buffer_add(b, "\"", 1);
}

static void put_metadata(const pare_st_writer *w, pare_buffer *b) {
    pare_buffer_print(b, "{\"__metadata__\":{");
    for (size_t i = 0; i < w->n_metadata; i++) {
        if (i) pare_buffer_add(b, ",", 1);
        put_text(b, w->metadata[2 * i]);
        pare_buffer_add(b, ":", 1);
        put_text(b, w->metadata[2 * i + 1]);
    }
    pare_buffer_add(b, "}", 1);
}

static void put_entry(pare_buffer *b, const out_tensor *t) {
    pare_buffer_add(b, ",", 1);
    put_text(b, t->name);
    pare_buffer_print(b, ":{\"dtype\":\"%s\",\"shape\":[", t->dtype->name);
    for (size_t d = 0; d < t->n_dims; d++) pare_buffer_print(b, d ? ",%zu" : "%zu", t->dims[d]);
    pare_buffer_print(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->offset,
                      (unsigned long long)(t->offset + t->n_bytes));
}

/* By shard, then place: the order of entries in the headers. */
static int compare_places(const void *a, const void *b) {
    const out_tensor *x = *(const out_tensor *const *)a, *y = *(const out_tensor *const *)b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes; /* empty ones first */
}

/* By shard, then as the reference writer does. */
static int compare_reference(const void *a, const void *b) {
    const out_tensor *x = *(const out_tensor *const *)a, *y = *(const out_tensor *const *)b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    size_t rx = pare_st_dtype_rank(x->dtype), ry = pare_st_dtype_rank(y->dtype);
    if (rx != ry) return rx < ry ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* All tensors in an order; NULL when memory is out. Free with pare_free. */
static out_tensor **sorted(const pare_st_writer *w, int (*compare)(const void *, const void *)) {
    out_tensor **order = pare_malloc(w->n_tensors, sizeof(out_tensor *));
    if (!order) return NULL;
    for (size_t i = 0; i < w->n_tensors; i++) order[i] = &w->tensors[i];
    qsort(order, w->n_tensors, sizeof(out_tensor *), compare);
    return order;
}

/* The header of one shard, with its length in front and padded to a multiple of 8. */
static void put_header(const pare_st_writer *w, pare_buffer *b, out_tensor *const *order,
                       size_t index) {
    pare_buffer_add(b, "\0\0\0\0\0\0\0", 8);
    put_metadata(w, b);
    for (size_t i = 0; i < w->n_tensors; i++)
        if (order[i]->shard == index) put_entry(b, order[i]);
    pare_buffer_add(b, "}", 1);
    while (b->n % 8 && !b->failed) pare_buffer_add(b, " ", 1);
}

static void set_length(pare_buffer *b) {
    for (size_t i = 0; i < 8 && b->n > 8; i++) b->data[i] = (uint8_t)((b->n - 8) >> 8 * i);
}

/* --- shards --- */

/* PREFIX of the names. */
static int prefix_len(const pare_st_writer *w) {
    size_t n = strlen(w->path), m = strlen(".safetensors");
    return (int)(n > m && strcmp(w->path + n - m, ".safetensors") == 0 ? n - m : n);
}

/* New. Before the number of shards is known, n_shards 0: a provisional name. */
static char *shard_path(const pare_st_writer *w, size_t i, size_t n_shards) {
    if (n_shards == 1) return pare_strdup(w->path);
    return pare_asprintf("%.*s-%05zu-of-%05zu.safetensors", prefix_len(w), w->path, i + 1,
                         n_shards);
}

static pare_status open_shard(pare_st_writer *w, uint64_t data_start, pare_error *err) {
    shard *more = pare_realloc(w->shards, w->n_shards + 1, sizeof *more);
    char *path = shard_path(w, w->n_shards, w->max_shard_bytes ? 0 : 1);
    if (more) w->shards = more;
    if (!more || !path) {
        pare_free(path);
        return out_of_memory(w, err);
    }
    shard *s = &w->shards[w->n_shards];
    *s = (shard){.data_start = data_start};
    pare_status st = pare_writer_open(&s->file, path, err);
    pare_free(path);
    if (st == PARE_OK) w->n_shards++;
    return st;
}

static bool shard_is_full(const pare_st_writer *w, uint64_t used, uint64_t n_bytes) {
    return w->max_shard_bytes && used &&
           n_bytes > w->max_shard_bytes - (used < w->max_shard_bytes ? used : w->max_shard_bytes);
}

/* Declared sizes: shards in order of declaration, places within them as the reference writer's. */
static pare_status place_declared(pare_st_writer *w, size_t *n_shards, pare_error *err) {
    size_t index = 0;
    uint64_t used = 0;
    for (size_t i = 0; i < w->n_tensors; i++) {
        out_tensor *t = &w->tensors[i];
        if (shard_is_full(w, used, t->n_bytes)) {
            index++;
            used = 0;
        }
        t->shard = index;
        if (__builtin_add_overflow(used, t->n_bytes, &used) || used > INT64_MAX)
            return pare_fail(err, PARE_ERR_ARG, "%s: found a total size that overflows", w->path);
    }
    *n_shards = index + 1;
    out_tensor **order = sorted(w, compare_reference);
    if (!order) return out_of_memory(w, err);
    for (size_t i = 0; i < w->n_tensors; i++)
        order[i]->offset = i && order[i - 1]->shard == order[i]->shard
                               ? order[i - 1]->offset + order[i - 1]->n_bytes
                               : 0;
    pare_free(order);
    return PARE_OK;
}

static pare_status begin_declared(pare_st_writer *w, pare_error *err) {
    size_t n_shards = 0;
    PARE_TRY(place_declared(w, &n_shards, err));
    out_tensor **order = sorted(w, compare_places);
    if (!order) return out_of_memory(w, err);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < n_shards && st == PARE_OK; i++) {
        pare_buffer b = {0};
        put_header(w, &b, order, i);
        st = b.failed ? out_of_memory(w, err) : open_shard(w, b.n, err);
        pare_buffer_free(&b);
    }
    pare_free(order);
    return st;
}

pare_status pare_st_expect(pare_st_writer *w, const char *name, pare_error *err) {
    PARE_TRY(check_name(w, name, err));
    if (w->begun || w->n_tensors)
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: expected after begin or declare",
                         w->path, name);
    w->expects = true;
    /* the longest entry: all digits of all dimensions and of both offsets */
    out_tensor longest = {.name = (char *)(uintptr_t)name,
                          .dtype = pare_st_dtype_find("F8_E4M3FNUZ"),
                          .n_dims = PARE_ST_MAX_DIMS,
                          .offset = UINT64_MAX};
    for (size_t d = 0; d < PARE_ST_MAX_DIMS; d++) longest.dims[d] = SIZE_MAX;
    pare_buffer b = {0};
    put_entry(&b, &longest);
    pare_status st = b.failed ? out_of_memory(w, err) : PARE_OK;
    w->reserved += b.n;
    pare_buffer_free(&b);
    return st;
}

static pare_status begin_expected(pare_st_writer *w, pare_error *err) {
    pare_buffer b = {0};
    put_metadata(w, &b);
    size_t reserved = 0;
    bool fits = !b.failed && pare_align_size(&reserved, b.n + 1 + w->reserved, 8);
    pare_buffer_free(&b);
    if (!fits) return out_of_memory(w, err);
    if (reserved > PARE_ST_MAX_HEADER)
        return pare_fail(err, PARE_ERR_ARG, "%s: found a header of %zu bytes, expected at most %d",
                         w->path, reserved, PARE_ST_MAX_HEADER);
    w->reserved = reserved;
    return open_shard(w, 8 + reserved, err);
}

pare_status pare_st_begin(pare_st_writer *w, pare_error *err) {
    if (w->begun) return pare_fail(err, PARE_ERR_ARG, "%s: begun twice", w->path);
    w->begun = true;
    return w->expects ? begin_expected(w, err) : begin_declared(w, err);
}

/* --- the data --- */

static pare_status check_complete(const pare_st_writer *w, const out_tensor *t, pare_error *err) {
    if (t->filled == t->n_bytes) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: found %llu bytes, expected %llu", w->path,
                     t->name, (unsigned long long)t->filled, (unsigned long long)t->n_bytes);
}

pare_status pare_st_append(pare_st_writer *w, const char *name, const char *dtype,
                           const size_t *dims, size_t n_dims, size_t *tensor, pare_error *err) {
    if (!w->expects || !w->n_shards || w->finished)
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor %s: not open for appending", w->path, name);
    if (w->n_tensors) PARE_TRY(check_complete(w, &w->tensors[w->n_tensors - 1], err));
    PARE_TRY(add(w, name, dtype, dims, n_dims, err));
    out_tensor *t = &w->tensors[w->n_tensors - 1];
    if (shard_is_full(w, w->shards[w->n_shards - 1].n_data, t->n_bytes))
        PARE_TRY(open_shard(w, 8 + w->reserved, err));
    shard *s = &w->shards[w->n_shards - 1];
    t->shard = w->n_shards - 1;
    t->offset = s->n_data;
    s->n_data += t->n_bytes; /* what is there was written, and one tensor has 2^61 at most */
    if (tensor) *tensor = w->n_tensors - 1;
    return PARE_OK;
}

pare_status pare_st_write(pare_st_writer *w, size_t tensor, const void *data, size_t n,
                          pare_error *err) {
    if (!w->begun || w->finished || tensor >= w->n_tensors ||
        w->tensors[tensor].shard >= w->n_shards)
        return pare_fail(err, PARE_ERR_ARG, "%s: tensor number %zu: not open for writing", w->path,
                         tensor);
    out_tensor *t = &w->tensors[tensor];
    if (n > t->n_bytes - t->filled)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: tensor %s: found %zu bytes more, expected at most %llu", w->path,
                         t->name, n, (unsigned long long)(t->n_bytes - t->filled));
    shard *s = &w->shards[t->shard];
    PARE_TRY(pare_writer_write_at(&s->file, data, n, s->data_start + t->offset + t->filled, err));
    t->filled += n;
    return PARE_OK;
}

/* --- the end --- */

static pare_status write_headers(pare_st_writer *w, pare_error *err) {
    out_tensor **order = sorted(w, compare_places);
    if (!order) return out_of_memory(w, err);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < w->n_shards && st == PARE_OK; i++) {
        shard *s = &w->shards[i];
        pare_buffer b = {0};
        put_header(w, &b, order, i);
        if (!b.failed && b.n > s->data_start)
            st = pare_fail(err, PARE_ERR_ARG,
                           "%s: found a header of %zu bytes, expected at most the %llu reserved",
                           w->path, b.n, (unsigned long long)s->data_start);
        while (st == PARE_OK && b.n < s->data_start && !b.failed)
            pare_buffer_add(&b, "                ",
                            s->data_start - b.n < 16 ? (size_t)(s->data_start - b.n) : 16);
        set_length(&b);
        if (b.failed) st = out_of_memory(w, err);
        if (st == PARE_OK) st = pare_writer_write_at(&s->file, b.data, b.n, 0, err);
        pare_buffer_free(&b);
    }
    pare_free(order);
    return st;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static pare_status write_index(const pare_st_writer *w, pare_error *err) {
    json_t *map = json_object();
    bool ok = map != NULL;
    for (size_t i = 0; i < w->n_tensors && ok; i++) {
        const char *name = w->shards[w->tensors[i].shard].name;
        ok = json_object_set_new(map, w->tensors[i].name, json_string(base_name(name))) == 0;
    }
    json_t *root = ok ? json_pack("{s:{s:I},s:O}", "metadata", "total_size",
                                  (json_int_t)pare_st_writer_bytes(w), "weight_map", map)
                      : NULL;
    json_decref(map);
    char *path = pare_asprintf("%.*s.safetensors.index.json", prefix_len(w), w->path);
    pare_status st = root && path ? pare_json_write(path, root, err) : out_of_memory(w, err);
    json_decref(root);
    pare_free(path);
    return st;
}

/* Gives the writers their final names; nothing that happens after the first commit needs memory to
 * be undone. */
static pare_status name_shards(pare_st_writer *w, pare_error *err) {
    for (size_t i = 0; i < w->n_shards; i++) {
        shard *s = &w->shards[i];
        s->name = shard_path(w, i, w->n_shards);
        char *copy = s->name ? pare_strdup(s->name) : NULL;
        if (!copy) return out_of_memory(w, err);
        pare_free(s->file.path);
        s->file.path = copy;
    }
    return PARE_OK;
}

/* The index last: what a reader opens is there when all shards are. */
static pare_status commit_all(pare_st_writer *w, pare_error *err) {
    pare_status st = PARE_OK;
    size_t done = 0;
    while (done < w->n_shards) {
        st = pare_writer_commit(&w->shards[done].file, err);
        if (st != PARE_OK) break;
        done++;
    }
    if (st == PARE_OK && w->n_shards > 1) st = write_index(w, err);
    for (size_t i = 0; st != PARE_OK && i < done; i++) pare_path_remove(w->shards[i].name);
    return st;
}

pare_status pare_st_finish(pare_st_writer *w, pare_error *err) {
    if (!w->n_shards || w->finished)
        return pare_fail(err, PARE_ERR_ARG, "%s: finished without begin", w->path);
    for (size_t i = 0; i < w->n_tensors; i++) PARE_TRY(check_complete(w, &w->tensors[i], err));
    PARE_TRY(write_headers(w, err));
    w->finished = true;
    PARE_TRY(name_shards(w, err));
    return commit_all(w, err);
}

uint64_t pare_st_writer_bytes(const pare_st_writer *w) {
    uint64_t total = 0;
    for (size_t i = 0; i < w->n_tensors; i++) total += w->tensors[i].n_bytes;
    return total;
}
