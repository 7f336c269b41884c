/* What stands behind a record's paths: hashes of files, folders and split files, and what a model's
 * headers say. */
#include "study/record_columns.h"
#include "study/records.h"
#include "study/report_data.h"

#include "base/file_digest.h"
#include "base/memory.h"
#include "base/runtime.h"
#include "io/common.h"
#include "io/gguf.h"
#include "io/json.h"
#include "model/source.h"
#include "pare/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* a file changed within the clock's step after it was read looks as if it had not */
    SETTLED_NS = 2000000000,
    MAX_CARD = 1 << 20
};

static pare_status fail_memory(pare_error *err, const char *path) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
}

/* --- one file --- */

static bool same_stamp(const pare_file_stamp *a, const pare_file_stamp *b) {
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
           a->modified_ns == b->modified_ns && a->changed_ns == b->changed_ns;
}

static pare_status hash_file(pare_content *out, pare_runtime *rt, pare_records *cache,
                             const char *path, pare_error *err) {
    pare_file_stamp before, after;
    pare_file f;
    PARE_TRY(pare_file_open(&f, path, err));
    out->bytes = f.size;
    out->n_files = 1;
    pare_status st = pare_path_stamp(&before, path, err);
    if (st == PARE_OK && !pare_records_find_hash(cache, &before, out->sha256)) {
        pare_sha256 h;
        pare_sha256_init(&h);
        st = pare_file_digest(&f, &h, NULL, rt, err);
        pare_sha256_hex(&h, out->sha256);
        bool settled = pare_wall_s() * 1000000000 - before.changed_ns > SETTLED_NS;
        if (st == PARE_OK && settled && pare_path_stamp(&after, path, NULL) == PARE_OK &&
            same_stamp(&before, &after))
            pare_records_keep_hash(cache, &before, out->sha256);
    }
    pare_file_close(&f);
    return st;
}

/* --- several files as one --- */

typedef struct file_set {
    pare_sha256 lines;
    pare_content total;
} file_set;

static pare_status add_file(file_set *set, pare_runtime *rt, pare_records *cache, const char *path,
                            const char *name, pare_error *err) {
    pare_content one = {0};
    PARE_TRY(hash_file(&one, rt, cache, path, err));
    pare_sha256_update(&set->lines, one.sha256, 64);
    pare_sha256_update(&set->lines, "  ", 2);
    pare_sha256_update(&set->lines, name, strlen(name));
    pare_sha256_update(&set->lines, "\n", 1);
    set->total.bytes += one.bytes;
    set->total.n_files++;
    return PARE_OK;
}

static bool counts(const char *name) {
    size_t n = strlen(name);
    return *name != '.' && !(n > 3 && strcmp(name + n - 3, ".md") == 0);
}

static pare_status hash_folder(file_set *set, pare_runtime *rt, pare_records *cache,
                               const char *path, pare_error *err) {
    char **names;
    size_t n;
    PARE_TRY(pare_folder_list(&names, &n, path, err));
    pare_status st = PARE_OK;
    for (size_t i = 0; i < n; i++) {
        char *file = st == PARE_OK && counts(names[i]) ? pare_path_join(path, names[i]) : NULL;
        if (st == PARE_OK && counts(names[i]))
            st = file ? add_file(set, rt, cache, file, names[i], err) : fail_memory(err, path);
        pare_free(file);
        pare_free(names[i]);
    }
    pare_free(names);
    if (st == PARE_OK && !set->total.n_files)
        st = pare_fail(err, PARE_ERR_INPUT, "%s: found a folder without files", path);
    return st;
}

/* The number of parts of "...-00001-of-0000N.gguf", else 1. *stem: bytes before that. */
static size_t count_parts(const char *path, size_t *stem) {
    static const char first[] = "-00001-of-";
    size_t n = strlen(path), tail = sizeof first - 1 + 5 + 5;
    if (n < tail || strncmp(path + n - tail, first, sizeof first - 1) != 0 ||
        strcmp(path + n - 5, ".gguf") != 0)
        return 1;
    char *end;
    unsigned long parts = strtoul(path + n - 10, &end, 10);
    *stem = n - tail;
    return end == path + n - 5 && parts > 1 ? parts : 1;
}

static pare_status hash_parts(file_set *set, pare_runtime *rt, pare_records *cache,
                              const char *path, size_t stem, size_t n, pare_error *err) {
    for (size_t i = 1; i <= n; i++) {
        char *part = pare_asprintf("%.*s-%05zu-of-%05zu.gguf", (int)stem, path, i, n);
        if (!part) return fail_memory(err, path);
        const char *slash = strrchr(part, '/');
        pare_status st = add_file(set, rt, cache, part, slash ? slash + 1 : part, err);
        pare_free(part);
        PARE_TRY(st);
    }
    return PARE_OK;
}

pare_status pare_content_hash(pare_content *out, pare_runtime *rt, pare_records *cache,
                              const char *path, pare_error *err) {
    *out = (pare_content){0};
    size_t stem = 0, parts = count_parts(path, &stem);
    bool folder = pare_path_is_folder(path);
    if (!folder && parts == 1) return hash_file(out, rt, cache, path, err);
    file_set set = {0};
    pare_sha256_init(&set.lines);
    PARE_TRY(folder ? hash_folder(&set, rt, cache, path, err)
                    : hash_parts(&set, rt, cache, path, stem, parts, err));
    pare_sha256_hex(&set.lines, set.total.sha256);
    *out = set.total;
    return PARE_OK;
}

/* Several files as lines: as a folder of them, by their paths. */
static pare_status hash_lines(pare_content *out, pare_runtime *rt, pare_records *cache,
                              const char *paths, pare_error *err) {
    if (!strchr(paths, '\n')) return pare_content_hash(out, rt, cache, paths, err);
    file_set set = {0};
    pare_sha256_init(&set.lines);
    for (const char *at = paths; *at;) {
        size_t n = strcspn(at, "\n");
        char *path = pare_strndup(at, n);
        if (!path) return fail_memory(err, "record");
        pare_status st = add_file(&set, rt, cache, path, pare_path_name(path), err);
        pare_free(path);
        PARE_TRY(st);
        at += n + (at[n] == '\n');
    }
    pare_sha256_hex(&set.lines, set.total.sha256);
    *out = set.total;
    return PARE_OK;
}

/* The same lines with absolute paths; pare_free. */
static char *resolve_lines(const char *paths) {
    pare_buffer b = {0};
    for (const char *at = paths; *at;) {
        size_t n = strcspn(at, "\n");
        char *path = pare_strndup(at, n), *full = path ? pare_path_resolve(path) : NULL;
        if (full)
            pare_buffer_print(&b, "%s%s", b.n ? "\n" : "", full);
        else
            b.failed = true;
        pare_free(path);
        pare_free(full);
        at += n + (at[n] == '\n');
    }
    char *text = b.failed ? NULL : pare_strndup((const char *)b.data, b.n);
    pare_buffer_free(&b);
    return text;
}

/* --- the files of a record --- */

typedef struct record_file {
    const char *role;
    size_t path, sha256; /* offsets of fields */
    bool several;        /* a path a line */
} record_file;
#define FILE_OF(role_)                                                                             \
    {                                                                                              \
        .role = #role_, .path = offsetof(pare_record, role_),                                      \
        .sha256 = offsetof(pare_record, role_##_sha256)                                            \
    }
static const record_file record_files[PARE_RECORD_FILES] = {
    FILE_OF(model),
    FILE_OF(out),
    FILE_OF(calib),
    FILE_OF(imatrix),
    FILE_OF(text),
    FILE_OF(against),
    FILE_OF(teacher),
    FILE_OF(lora),
    FILE_OF(prefix),
    {"data", offsetof(pare_record, data), offsetof(pare_record, data_sha256), true}};

static pare_status hash_of(pare_content *out, const record_file *f, pare_runtime *rt,
                           pare_records *cache, const char *path, pare_error *err) {
    return (f->several ? hash_lines : pare_content_hash)(out, rt, cache, path, err);
}

static const char **string_at(pare_record *r, size_t offset) {
    return (const char **)(void *)((char *)r + offset);
}

static bool is_file(const char *path) { return path && strcmp(path, "-") != 0; }

static pare_status complete_file(pare_record *r, const record_file *f, pare_runtime *rt,
                                 pare_records *db, pare_error *err) {
    const char **path = string_at(r, f->path), **sha256 = string_at(r, f->sha256);
    if (!is_file(*path)) return PARE_OK;
    char *full = f->several ? resolve_lines(*path) : pare_path_resolve(*path);
    if (full) *path = pare_record_strndup(r, full, strlen(full));
    pare_free(full);
    if (!*path) return fail_memory(err, "record");
    if (*sha256) return PARE_OK;
    pare_content content;
    PARE_TRY(hash_of(&content, f, rt, db, *path, err));
    *sha256 = pare_record_strndup(r, content.sha256, 64);
    return *sha256 ? PARE_OK : fail_memory(err, *path);
}

pare_status pare_record_verify(pare_record_check checks[PARE_RECORD_FILES], size_t *n,
                               const pare_record *r, pare_runtime *rt, pare_error *err) {
    *n = 0;
    for (size_t i = 0; i < PARE_RECORD_FILES; i++) {
        const char *const *path = (const void *)((const char *)r + record_files[i].path);
        const char *const *sha256 = (const void *)((const char *)r + record_files[i].sha256);
        if (!*path) continue;
        pare_record_check c = {record_files[i].role, *path, *sha256, PARE_CHECK_UNKNOWN, ""};
        if (*sha256 && is_file(*path)) {
            pare_content content;
            pare_error own = {0};
            pare_status st = hash_of(&content, &record_files[i], rt, NULL, *path, &own);
            if (st == PARE_ERR_INTERRUPTED || st == PARE_ERR_NOMEM)
                return pare_fail(err, st, "%s", own.message);
            if (st == PARE_OK) snprintf(c.found, sizeof c.found, "%s", content.sha256);
            c.state = st != PARE_OK                          ? PARE_CHECK_MISSING
                      : strcmp(content.sha256, *sha256) == 0 ? PARE_CHECK_SAME
                                                             : PARE_CHECK_CHANGED;
        }
        checks[(*n)++] = c;
    }
    return PARE_OK;
}

/* --- what a model says about itself --- */

/* "license: NAME" in the block between "---" lines at the top of a folder's README.md. */
static const char *card_licence(pare_record *r, const char *folder) {
    char *path = pare_path_join(folder, "README.md"), *text = NULL;
    const char *found = NULL;
    size_t n;
    if (path && pare_path_exists(path) &&
        pare_file_read_all(&text, &n, path, MAX_CARD, NULL) == PARE_OK &&
        strncmp(text, "---\n", 4) == 0) {
        static const char key[] = "\nlicense:";
        char *end = strstr(text + 3, "\n---"), *at = strstr(text, key);
        if (end && at && at < end) {
            at += sizeof key - 1;
            at += strspn(at, " \"'");
            size_t len = strcspn(at, "\n\r\"'");
            if (len && len < 80 && pare_name_valid(at, len))
                found = pare_record_strndup(r, at, len);
        }
    }
    pare_free(text);
    pare_free(path);
    return found;
}

static const char *licence_of(pare_record *r, const char *path) {
    pare_source *s = NULL;
    const char *name = NULL;
    if (pare_source_open(&s, path, NULL) != PARE_OK) return NULL;
    if (pare_source_gguf(s)) {
        (void)pare_gguf_str(pare_source_gguf(s), "general.license", PARE_OPTIONAL, &name, NULL);
    } else {
        /* "pare": {"gguf": {"general.license": {"value": ...}}}: what a folder carries of a GGUF
         * file. The key holds a dot, so no path of the getters reaches it. */
        json_t *carried = pare_json_get(pare_source_config_json(s), "pare.gguf");
        name = json_string_value(
            json_object_get(json_object_get(carried, "general.license"), "value"));
        if (!name)
            (void)pare_json_str(pare_source_config_json(s), "license", PARE_OPTIONAL, &name, NULL);
        if (!name) name = card_licence(r, path);
    }
    if (name && *name) name = pare_record_strndup(r, name, strlen(name));
    pare_source_close(s);
    return name && *name ? name : NULL;
}

static pare_status describe(pare_record *r, pare_error *err) {
    char *config = r->out ? pare_path_join(r->out, "adapter_config.json") : NULL;
    bool adapter = config && pare_path_exists(config); /* it is the model that is described */
    pare_free(config);
    const char *path = r->out && pare_path_exists(r->out) && !adapter ? r->out : r->model;
    pare_description *d;
    PARE_TRY(pare_describe(&d, path, err));
    const pare_model_info *info = pare_description_info(d);
    r->arch = pare_record_strndup(r, info->arch, strlen(info->arch));
    if (!r->name && *info->name) r->name = pare_record_strndup(r, info->name, strlen(info->name));
    if (!r->n_params) r->n_params = (int64_t)info->n_params;
    if (!r->out_bytes) r->out_bytes = (int64_t)info->tensor_bytes;
    if (!(r->bits_per_weight > 0)) r->bits_per_weight = info->bits_per_weight;
    pare_description_free(d);
    if (!r->licence && r->model) r->licence = licence_of(r, r->model);
    return PARE_OK;
}

pare_status pare_record_complete(pare_record *r, pare_runtime *rt, pare_records *db,
                                 pare_error *err) {
    for (size_t i = 0; i < PARE_RECORD_FILES; i++)
        PARE_TRY(complete_file(r, &record_files[i], rt, db, err));
    return r->model || r->out ? describe(r, err) : PARE_OK;
}
