#include "io/imatrix.h"

#include "base/memory.h"
#include "base/os.h"
#include "io/ggml_types.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30, MAX_NAME = 4096 };

static pare_status fail_memory(const char *path, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
}

static int by_name(const void *a, const void *b) {
    const pare_imatrix_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

const pare_imatrix_entry *pare_imatrix_find(const pare_imatrix *m, const char *name) {
    const pare_imatrix_entry key = {.name = (char *)(uintptr_t)name};
    return m->n_entries ? bsearch(&key, m->entries, m->n_entries, sizeof key, by_name) : NULL;
}

void pare_imatrix_free(pare_imatrix *m) {
    for (size_t i = 0; i < m->n_entries; i++) {
        pare_free(m->entries[i].name);
        pare_free(m->entries[i].squares);
    }
    pare_free(m->entries);
    *m = (pare_imatrix){0};
}

/* A new entry of n values, to be filled in. */
static pare_status add_entry(pare_imatrix *m, pare_imatrix_entry **out, const char *name,
                             size_t len, size_t n, const char *path, pare_error *err) {
    if (m->n_entries == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 64;
        pare_imatrix_entry *more = pare_realloc(m->entries, capacity, sizeof *more);
        if (!more) return fail_memory(path, err);
        m->entries = more;
        m->capacity = capacity;
    }
    pare_imatrix_entry e = {pare_strndup(name, len), n, pare_malloc(n, sizeof *e.squares)};
    if (!e.name || !e.squares) {
        pare_free(e.name);
        pare_free(e.squares);
        return fail_memory(path, err);
    }
    *out = &m->entries[m->n_entries++];
    **out = e;
    return PARE_OK;
}

/* Sorts, and checks what both forms have in common. */
static pare_status settle(pare_imatrix *m, const char *path, pare_error *err) {
    if (m->n_entries == 0)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found no entries, expected an importance matrix",
                         path);
    qsort(m->entries, m->n_entries, sizeof *m->entries, by_name);
    for (size_t i = 0; i < m->n_entries; i++) {
        const pare_imatrix_entry *e = &m->entries[i];
        if (i > 0 && strcmp(e->name, e[-1].name) == 0)
            return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found it twice", path, e->name);
        for (size_t k = 0; k < e->n; k++)
            if (!isfinite(e->squares[k]) || e->squares[k] < 0)
                return pare_fail(err, PARE_ERR_INPUT,
                                 "%s: %s: value %zu: found %g, expected a mean square", path,
                                 e->name, k, (double)e->squares[k]);
    }
    return PARE_OK;
}

/* --- the legacy form --- */

typedef struct cursor {
    const char *path, *p;
    size_t left;
} cursor;

static bool take(cursor *c, void *out, size_t n) {
    if (c->left < n) return false;
    memcpy(out, c->p, n);
    c->p += n;
    c->left -= n;
    return true;
}

static pare_status read_legacy_entry(pare_imatrix *m, cursor *c, int32_t i, pare_error *err) {
    int32_t len, n_calls, n;
    const char *name = c->p + 4;
    if (!take(c, &len, 4) || len < 1 || len > MAX_NAME || (size_t)len > c->left ||
        memchr(name, 0, (size_t)len))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: entry %d: found no name, expected one of a tensor", c->path, i);
    c->p += len;
    c->left -= (size_t)len;
    if (!take(c, &n_calls, 4) || !take(c, &n, 4) || n < 1 || c->left / sizeof(float) < (size_t)n)
        return pare_fail(err, PARE_ERR_INPUT, "%s: entry %d (%.*s): found the end of the file",
                         c->path, i, len, name);
    pare_imatrix_entry *e;
    PARE_TRY(add_entry(m, &e, name, (size_t)len, (size_t)n, c->path, err));
    take(c, e->squares, (size_t)n * sizeof(float));
    for (int32_t k = 0; k < n && n_calls > 0; k++) e->squares[k] /= (float)n_calls;
    return PARE_OK;
}

/* Behind the entries: nothing, or chunks and the path of the data set, and then the end. */
static pare_status read_legacy_end(cursor *c, size_t size, pare_error *err) {
    int32_t n_chunks, len;
    const size_t at = size - c->left, found = c->left;
    if (found == 0 ||
        (take(c, &n_chunks, 4) && take(c, &len, 4) && len >= 0 && (size_t)len == c->left))
        return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: byte %zu, behind the last entry: found %zu bytes, expected the end of "
                     "the file, or a count of chunks and the path of a data set up to it",
                     c->path, at, found);
}

static pare_status load_legacy(pare_imatrix *m, const char *path, pare_error *err) {
    char *data;
    size_t size;
    PARE_TRY(pare_file_read_all(&data, &size, path, MAX_FILE, err));
    cursor c = {path, data, size};
    int32_t n = 0;
    pare_status st = PARE_OK;
    /* every entry takes 17 bytes at least */
    if (!take(&c, &n, 4) || n < 1 || (size_t)n > c.left / 17)
        st = pare_fail(err, PARE_ERR_INPUT,
                       "%s: found no importance matrix, expected a GGUF file or the legacy form",
                       path);
    for (int32_t i = 0; i < n && st == PARE_OK; i++) st = read_legacy_entry(m, &c, i, err);
    if (st == PARE_OK) st = read_legacy_end(&c, size, err);
    pare_free(data);
    return st;
}

/* --- GGUF --- */

static bool stem(const char *name, const char *end, size_t *len) {
    size_t n = strlen(name), m = strlen(end);
    *len = n - m;
    return n > m && strcmp(name + n - m, end) == 0;
}

static pare_status read_values(float *out, const pare_gguf *g, const pare_gguf_tensor *t,
                               pare_error *err) {
    return pare_file_read_at(pare_gguf_file(g, t->file), out, (size_t)t->n_bytes, t->offset, err);
}

static pare_status read_gguf_entry(pare_imatrix *m, const pare_gguf *g, const pare_gguf_tensor *t,
                                   size_t len, pare_error *err) {
    const char *path = pare_gguf_path(g);
    char counts_name[128];
    snprintf(counts_name, sizeof counts_name, "%.*s.counts", (int)len, t->name);
    const pare_gguf_tensor *c = pare_gguf_find(g, counts_name);
    size_t n_mat = t->ne[1] * t->ne[2] * t->ne[3];
    if (!c || c->type != PARE_GGML_F32 || t->type != PARE_GGML_F32 || t->n_elements == 0 ||
        (c->n_elements != 1 && c->n_elements != n_mat))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: %s: expected f32 values and as many f32 counts (%s) as matrices",
                         path, t->name, counts_name);
    pare_imatrix_entry *e;
    float *counts = pare_malloc(c->n_elements, sizeof *counts);
    pare_status st =
        counts ? add_entry(m, &e, t->name, len, t->n_elements, path, err) : fail_memory(path, err);
    if (st == PARE_OK) st = read_values(e->squares, g, t, err);
    if (st == PARE_OK) st = read_values(counts, g, c, err);
    for (size_t i = 0; st == PARE_OK && i < t->n_elements; i++) {
        /* a matrix of experts that saw nothing counts evenly */
        float count = roundf(counts[i / (t->n_elements / c->n_elements)]);
        e->squares[i] = count > 0 ? e->squares[i] / count : 1.0f;
    }
    pare_free(counts);
    return st;
}

static pare_status load_gguf(pare_imatrix *m, const char *path, pare_error *err) {
    pare_gguf *g;
    const char *type = NULL;
    PARE_TRY(pare_gguf_open(&g, path, err));
    pare_status st = pare_gguf_str(g, "general.type", PARE_OPTIONAL, &type, err);
    if (st == PARE_OK && type && strcmp(type, "imatrix") != 0)
        st = pare_fail(err, PARE_ERR_INPUT, "%s: general.type: found '%s', expected imatrix", path,
                       type);
    for (size_t i = 0; i < pare_gguf_n_tensors(g) && st == PARE_OK; i++) {
        const pare_gguf_tensor *t = pare_gguf_tensor_at(g, i);
        size_t len;
        if (stem(t->name, ".in_sum2", &len)) st = read_gguf_entry(m, g, t, len, err);
    }
    pare_gguf_close(g);
    return st;
}

pare_status pare_imatrix_load(pare_imatrix *out, const char *path, pare_error *err) {
    pare_file f;
    char magic[4] = "";
    *out = (pare_imatrix){0};
    PARE_TRY(pare_file_open(&f, path, err));
    pare_status st = f.size >= 4 ? pare_file_read_at(&f, magic, 4, 0, err) : PARE_OK;
    pare_file_close(&f);
    if (st == PARE_OK)
        st =
            memcmp(magic, "GGUF", 4) == 0 ? load_gguf(out, path, err) : load_legacy(out, path, err);
    if (st == PARE_OK) st = settle(out, path, err);
    if (st != PARE_OK) pare_imatrix_free(out);
    return st;
}

/* --- writing --- */

static int items_by_name(const void *a, const void *b) {
    const pare_imatrix_item *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static pare_status write_legacy(pare_writer *w, const pare_imatrix_item *items, size_t n,
                                const pare_imatrix_origin *o, pare_error *err) {
    int32_t head[2] = {(int32_t)n}, calls = (int32_t)o->n_chunks;
    float tokens = (float)(o->n_chunks * o->chunk_size);
    PARE_TRY(pare_writer_write(w, head, 4, err));
    for (size_t i = 0; i < n; i++) {
        int32_t len = (int32_t)strlen(items[i].name);
        head[0] = calls;
        head[1] = (int32_t)items[i].n;
        PARE_TRY(pare_writer_write(w, &len, 4, err));
        PARE_TRY(pare_writer_write(w, items[i].name, (size_t)len, err));
        PARE_TRY(pare_writer_write(w, head, 8, err));
        for (size_t k = 0; k < items[i].n; k++) {
            float v = items[i].sums[k] / tokens * (float)calls;
            PARE_TRY(pare_writer_write(w, &v, 4, err));
        }
    }
    head[0] = calls;
    head[1] = (int32_t)strlen(o->dataset);
    PARE_TRY(pare_writer_write(w, head, 8, err));
    return pare_writer_write(w, o->dataset, strlen(o->dataset), err);
}

static pare_status write_gguf(pare_gguf_writer *w, const pare_imatrix_item *items, size_t n,
                              const pare_imatrix_origin *o, pare_error *err) {
    const pare_span dataset = {o->dataset, strlen(o->dataset)};
    float tokens = (float)(o->n_chunks * o->chunk_size);
    PARE_TRY(pare_gguf_set_str(w, "general.type", "imatrix", err));
    PARE_TRY(pare_gguf_set_strings(w, "imatrix.datasets", &dataset, 1, err));
    PARE_TRY(pare_gguf_set_u32(w, "imatrix.chunk_count", (uint32_t)o->n_chunks, err));
    PARE_TRY(pare_gguf_set_u32(w, "imatrix.chunk_size", (uint32_t)o->chunk_size, err));
    for (size_t i = 0; i < n; i++) {
        char name[MAX_NAME];
        const size_t dims[2] = {1, items[i].n}, one[2] = {1, 1};
        snprintf(name, sizeof name, "%s.in_sum2", items[i].name);
        PARE_TRY(pare_gguf_declare(w, name, PARE_GGML_F32, dims, 2, err));
        snprintf(name, sizeof name, "%s.counts", items[i].name);
        PARE_TRY(pare_gguf_declare(w, name, PARE_GGML_F32, one, 2, err));
    }
    PARE_TRY(pare_gguf_begin(w, err));
    for (size_t i = 0; i < n; i++) {
        PARE_TRY(pare_gguf_write(w, 2 * i, items[i].sums, items[i].n * sizeof(float), err));
        PARE_TRY(pare_gguf_write(w, 2 * i + 1, &tokens, sizeof tokens, err));
    }
    return pare_gguf_finish(w, err);
}

pare_status pare_imatrix_write(const char *path, pare_imatrix_item *items, size_t n,
                               const pare_imatrix_origin *origin, pare_error *err) {
    size_t len = strlen(path);
    qsort(items, n, sizeof *items, items_by_name);
    if (len > 4 && strcmp(path + len - 4, ".dat") == 0) {
        pare_writer w;
        PARE_TRY(pare_writer_open(&w, path, err));
        pare_status st = write_legacy(&w, items, n, origin, err);
        if (st == PARE_OK) st = pare_writer_commit(&w, err);
        pare_writer_discard(&w);
        return st;
    }
    pare_gguf_writer *w = NULL;
    pare_status st = pare_gguf_writer_create(&w, path, 0, err);
    if (st == PARE_OK) st = write_gguf(w, items, n, origin, err);
    pare_gguf_writer_free(w);
    return st;
}
