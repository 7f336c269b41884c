/* safetensors: a Hugging Face folder, with one file or with an index and its parts.
 *
 * model.safetensors.index.json = {"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}.
 * Its file names are untrusted: they may not leave the folder, neither by their text nor by a link.
 * One place outside is known: the hub's cache keeps snapshots/REVISION/FILE as links to blobs/HASH
 * beside snapshots. */
#include "base/memory.h"
#include "io/json.h"
#include "io/safetensors_internal.h"

#include <stdlib.h>
#include <string.h>

static const char index_name[] = "model.safetensors.index.json";
enum { INDEX_MAX_BYTES = 256 << 20 };

static pare_status out_of_memory(const char *path, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
}

/* --- names and links --- */

static bool name_is_plain(const char *file) {
    return file[0] && !strchr(file, '/') && !strchr(file, '\\') && !strstr(file, "..") &&
           pare_name_valid(file, strlen(file)) && pare_ends_with(file, ".safetensors");
}

static bool is_below(const char *folder, const char *path) {
    size_t n = strlen(folder);
    return strncmp(folder, path, n) == 0 && path[n] == '/';
}

/* Whether the resolved path lies in the resolved folder, or in the hub cache's ../../blobs. */
static bool link_is_allowed(const char *folder, const char *path) {
    if (is_below(folder, path)) return true;
    char *blobs = pare_asprintf("%s/../../blobs", folder);
    char *resolved = blobs ? pare_path_resolve(blobs) : NULL;
    bool allowed = resolved && is_below(resolved, path);
    pare_free(blobs);
    pare_free(resolved);
    return allowed;
}

static pare_status check_link(const char *folder, const char *path, pare_error *err) {
    char *root = pare_path_resolve(folder), *target = pare_path_resolve(path);
    /* what does not resolve fails when it is opened, with the system's reason */
    bool allowed = !root || !target || link_is_allowed(root, target);
    pare_status st = PARE_OK;
    if (!allowed)
        st = pare_fail(err, PARE_ERR_INPUT, "%s: found a link to %s, expected a file in the folder",
                       path, target);
    pare_free(root);
    pare_free(target);
    return st;
}

/* --- the index --- */

typedef struct st_index {
    pare_json json;
    json_t *map;        /* borrowed from json */
    const char **files; /* [n_files] borrowed, sorted, each once */
    size_t n_files;
    char *path; /* owned */
} st_index;

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static pare_status list_files(st_index *x, pare_error *err) {
    size_t n = json_object_size(x->map), kept = 0;
    if (n == 0)
        return pare_fail(err, PARE_ERR_INPUT, "%s: weight_map: found no tensors, expected some",
                         x->path);
    x->files = pare_malloc(n, sizeof *x->files);
    if (!x->files) return out_of_memory(x->path, err);
    const char *name;
    json_t *value;
    json_object_foreach(x->map, name, value) {
        const char *file = json_string_value(value);
        if (!file || strlen(file) != json_string_length(value) || !name_is_plain(file))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: weight_map: %.*s: found %s%.*s, expected the name of a "
                             ".safetensors file in the folder",
                             x->path, pare_clip(name, strlen(name), 100), name,
                             file ? "" : "no string", file ? pare_clip(file, strlen(file), 200) : 0,
                             file ? file : "");
        x->files[x->n_files++] = file;
    }
    qsort(x->files, n, sizeof *x->files, compare_texts);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(x->files[i], x->files[kept - 1]) != 0) x->files[kept++] = x->files[i];
    x->n_files = kept;
    if (kept > ST_MAX_FILES)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: weight_map: found %zu files, expected at most %d", x->path, kept,
                         ST_MAX_FILES);
    return PARE_OK;
}

static pare_status open_files(pare_st *s, const st_index *x, const char *folder, pare_error *err) {
    for (size_t i = 0; i < x->n_files; i++) {
        char *path = pare_path_join(folder, x->files[i]);
        if (!path) return out_of_memory(folder, err);
        pare_file file;
        pare_status st = check_link(folder, path, err);
        if (st == PARE_OK) st = pare_file_open(&file, path, err);
        if (st == PARE_OK) st = st_add_part(s, file, NULL, err);
        pare_free(path);
        if (st != PARE_OK) return st;
    }
    return PARE_OK;
}

/* Every tensor stands in the file that the map names ... */
static pare_status check_tensors(const pare_st *s, const st_index *x, pare_error *err) {
    for (size_t i = 0; i < s->n_tensors; i++) {
        const pare_st_tensor *t = &s->tensors[i].t;
        const char *listed = json_string_value(json_object_get(x->map, t->name));
        if (!listed || strcmp(listed, x->files[t->file]) != 0)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: weight_map: %.*s: found %s, expected %s, where the tensor is",
                             x->path, pare_clip(t->name, strlen(t->name), 100), t->name,
                             listed ? listed : "nothing", x->files[t->file]);
    }
    return PARE_OK;
}

/* ... and the map names no other. */
static pare_status check_map(const pare_st *s, const st_index *x, pare_error *err) {
    const char *name;
    json_t *value;
    json_object_foreach(x->map, name, value) {
        if (!pare_st_find(s, name))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: weight_map: %.*s: found no such tensor in %s, expected one",
                             x->path, pare_clip(name, strlen(name), 100), name,
                             json_string_value(value));
    }
    return PARE_OK;
}

/* Some writers get total_size wrong or leave it out: a warning. */
static pare_status check_total(pare_st *s, const st_index *x, pare_error *err) {
    uint64_t total = 0;
    for (size_t i = 0; i < s->n_tensors; i++) total += s->tensors[i].t.n_bytes;
    json_t *value = pare_json_get(&x->json, "metadata.total_size");
    if (json_is_integer(value) && json_integer_value(value) >= 0 &&
        (uint64_t)json_integer_value(value) == total)
        return PARE_OK;
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    char *line =
        pare_asprintf("%s: metadata.total_size: found %.100s, expected %llu; it is ignored",
                      x->path, text ? text : "none", (unsigned long long)total);
    free(text);
    if (!line) return out_of_memory(x->path, err);
    s->warnings[s->n_warnings++] = line;
    return PARE_OK;
}

static pare_status open_index(pare_st *s, st_index *x, const char *folder, pare_error *err) {
    pare_json part;
    PARE_TRY(pare_json_load(&x->json, x->path, INDEX_MAX_BYTES, 0, err));
    PARE_TRY(pare_json_part(&part, &x->json, "weight_map", PARE_REQUIRED, err));
    x->map = json_is_object(part.root) ? part.root : NULL;
    pare_json_free(&part); /* x->json keeps it alive */
    if (!x->map)
        return pare_fail(err, PARE_ERR_INPUT, "%s: weight_map: found an array, expected an object",
                         x->path);
    PARE_TRY(list_files(x, err));
    PARE_TRY(open_files(s, x, folder, err));
    PARE_TRY(check_tensors(s, x, err));
    PARE_TRY(st_index_names(s, err));
    PARE_TRY(check_map(s, x, err));
    return check_total(s, x, err);
}

/* --- the folder --- */

static pare_status open_one(pare_st *s, const char *path, pare_error *err) {
    pare_file file;
    PARE_TRY(pare_file_open(&file, path, err));
    PARE_TRY(st_add_part(s, file, NULL, err));
    return st_index_names(s, err);
}

/* The only .safetensors file of a folder, by a name of its own. */
static pare_status open_only(pare_st *s, const char *folder, pare_error *err) {
    char **names;
    size_t n, count = 0;
    const char *found = NULL, *pickle = NULL;
    PARE_TRY(pare_folder_list(&names, &n, folder, err));
    for (size_t i = 0; i < n; i++) {
        if (pare_ends_with(names[i], ".safetensors")) {
            count++;
            found = names[i];
        } else if (pare_ends_with(names[i], ".bin") || pare_ends_with(names[i], ".pt") ||
                   pare_ends_with(names[i], ".pth")) {
            pickle = names[i];
        }
    }
    pare_status st;
    char *path = count == 1 ? pare_path_join(folder, found) : NULL;
    if (path)
        st = open_one(s, path, err);
    else if (count == 1)
        st = out_of_memory(folder, err);
    else if (count == 0 && pickle)
        st = pare_fail(err, PARE_ERR_UNSUPPORTED,
                       "%s: found pickle files (%s), which can run code and are never read, "
                       "expected safetensors",
                       folder, pickle);
    else
        st = pare_fail(err, PARE_ERR_INPUT,
                       "%s: found %zu .safetensors files, expected model.safetensors or %s", folder,
                       count, index_name);
    pare_free(path);
    for (size_t i = 0; i < n; i++) pare_free(names[i]);
    pare_free(names);
    return st;
}

pare_status st_open_folder(pare_st *s, const char *folder, pare_error *err) {
    st_index x = {.path = pare_path_join(folder, index_name)};
    char *single = pare_path_join(folder, "model.safetensors");
    pare_status st;
    if (!x.path || !single)
        st = out_of_memory(folder, err);
    else if (pare_path_exists(single))
        st = open_one(s, single, err);
    else if (pare_path_exists(x.path))
        st = open_index(s, &x, folder, err);
    else
        st = open_only(s, folder, err);
    pare_json_free(&x.json);
    pare_free(x.files);
    pare_free(x.path);
    pare_free(single);
    return st;
}
