#include "pipeline/work_folder.h"

#include "base/file_digest.h"
#include "base/group.h"
#include "io/json.h"
#include "io/safetensors_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MANIFEST = 256 << 20 };

struct pare_work {
    pare_runtime *rt;
    char *path;
    pare_lock lock;
    json_t *manifest; /* {"fingerprint", "kept": {..}, "states": {"0": {..}}, "units": [..]} */
    size_t n_done, n_units;
    bool follows; /* a rank behind the first: notes what happens, and writes nothing */
};

static pare_status fail_memory(const pare_work *w, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", w->path ? w->path : "work folder");
}

const char *pare_work_path(const pare_work *w) { return w->path; }
size_t pare_work_n_done(const pare_work *w) { return w->n_done; }

bool pare_work_has_states(const pare_work *w) {
    return json_object_size(json_object_get(w->manifest, "states")) > 0;
}

static char *file_of(const pare_work *w, const char *kind, size_t unit) {
    return pare_asprintf("%s/%s-%zu", w->path, kind, unit);
}

char *pare_work_states_path(const pare_work *w, size_t unit) { return file_of(w, "states", unit); }
char *pare_work_spare_path(const pare_work *w) { return pare_path_join(w->path, "spare"); }

/* --- checksums --- */

/* CRC-32 and SHA-256 of a file; either may be NULL. */
static pare_status digest(const char *path, uint64_t *size, uint32_t *crc, char sha[65],
                          pare_error *err) {
    pare_file file;
    pare_sha256 h;
    PARE_TRY(pare_file_open(&file, path, err));
    pare_sha256_init(&h);
    *size = file.size;
    if (crc) *crc = 0;
    pare_status st = pare_file_digest(&file, sha ? &h : NULL, crc, NULL, err);
    if (sha) pare_sha256_hex(&h, sha);
    pare_file_close(&file);
    return st;
}

static json_t *states_of(const pare_work *w, size_t unit) {
    char key[32];
    snprintf(key, sizeof key, "%zu", unit);
    return json_object_get(json_object_get(w->manifest, "states"), key);
}

/* Whether a file is what its entry of the manifest says, by size and SHA-256 (units) or CRC-32
 * (states). One that cannot be read is not; only memory that is out is an error: it says nothing
 * about the file. */
static pare_status file_good(bool *good, const pare_work *w, const json_t *entry, const char *kind,
                             size_t unit, pare_error *err) {
    const char *sha = json_string_value(json_object_get(entry, "sha256"));
    const json_t *crc = json_object_get(entry, "crc32");
    *good = false;
    if (!sha && !crc) return PARE_OK;
    char *path = file_of(w, kind, unit), found_sha[65];
    uint64_t size = 0;
    uint32_t found_crc = 0;
    pare_error own = {0};
    if (!path) return fail_memory(w, err);
    pare_status st = digest(path, &size, crc ? &found_crc : NULL, sha ? found_sha : NULL, &own);
    pare_free(path);
    if (st == PARE_ERR_NOMEM) return pare_fail(err, st, "%s", own.message);
    *good = st == PARE_OK &&
            (json_int_t)size == json_integer_value(json_object_get(entry, "bytes")) &&
            (!crc || (json_int_t)found_crc == json_integer_value(crc)) &&
            (!sha || strcmp(sha, found_sha) == 0);
    return PARE_OK;
}

static pare_status states_good(bool *good, const pare_work *w, size_t unit, pare_error *err) {
    return file_good(good, w, states_of(w, unit), "states", unit, err);
}

static pare_status unit_good(bool *good, const pare_work *w, size_t unit, pare_error *err) {
    const json_t *units = json_object_get(w->manifest, "units");
    return file_good(good, w, json_array_get(units, unit), "unit", unit, err);
}

/* --- the manifest --- */

/* SHA-256 of the manifest's text without the sum itself. */
static bool sum_of(const json_t *manifest, char sha[65]) {
    size_t failures = pare_json_failures();
    json_t *copy = json_copy((json_t *)manifest);
    json_object_del(copy, "sha256");
    char *text = copy ? json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(copy);
    if (!text || pare_json_failures() != failures) {
        free(text);
        return false;
    }
    pare_sha256 h;
    pare_sha256_init(&h);
    pare_sha256_update(&h, text, strlen(text));
    pare_sha256_hex(&h, sha);
    free(text);
    return true;
}

static pare_status publish(pare_work *w, pare_error *err) {
    if (w->follows) return PARE_OK;
    char sum[65], *path = pare_path_join(w->path, "manifest"),
                  *old = pare_path_join(w->path, "manifest.old");
    pare_status st = PARE_OK;
    if (!path || !old || !sum_of(w->manifest, sum) ||
        json_object_set_new(w->manifest, "sha256", json_string(sum)) != 0)
        st = fail_memory(w, err);
    if (st == PARE_OK && pare_path_exists(path)) st = pare_file_move(old, path, err);
    if (st == PARE_OK) st = pare_json_write(path, w->manifest, err);
    pare_free(path);
    pare_free(old);
    return st;
}

static bool has_shape(const json_t *m) {
    const json_t *units = json_object_get(m, "units");
    return json_is_object(json_object_get(m, "fingerprint")) &&
           json_is_object(json_object_get(m, "kept")) &&
           json_is_object(json_object_get(m, "states")) && json_is_array(units);
}

/* The manifest of that name into w, or NULL when it is not there or damaged. */
static pare_status load_manifest(pare_work *w, const char *name, pare_error *err) {
    char *path = pare_path_join(w->path, name), sum[65];
    if (!path) return fail_memory(w, err);
    pare_json j = {0};
    pare_error own = {0};
    pare_status st = pare_json_load(&j, path, MAX_MANIFEST, 0, &own);
    pare_free(path);
    if (st == PARE_ERR_NOMEM) return pare_fail(err, st, "%s", own.message);
    if (st != PARE_OK) return PARE_OK;
    const char *said = json_string_value(json_object_get(j.root, "sha256"));
    if (!sum_of(j.root, sum))
        st = fail_memory(w, err);
    else if (said && strcmp(sum, said) == 0 && has_shape(j.root))
        w->manifest = json_incref(j.root);
    pare_json_free(&j);
    return st;
}

/* --- opening --- */

static void add_field(char *fields, size_t size, const char *key) {
    size_t n = strlen(fields);
    snprintf(fields + n, size - n, "%s%s", n ? ", " : "", key);
}

const json_t *pare_work_fingerprint(const pare_work *w) {
    return json_object_get(w->manifest, "fingerprint");
}

/* Fields that differ, and those that only one of the two has. */
pare_status pare_work_compare(const pare_work *w, const json_t *now, pare_error *err) {
    const json_t *then = pare_work_fingerprint(w);
    char fields[400] = "";
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)now, key, value) {
        if (!json_equal(value, json_object_get(then, key))) add_field(fields, sizeof fields, key);
    }
    json_object_foreach((json_t *)then, key, value) {
        if (!json_object_get(now, key)) add_field(fields, sizeof fields, key);
    }
    if (!fields[0]) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "%s: found an unfinished run with another %s, expected the same (or "
                     "--restart, which drops it)",
                     w->path, fields);
}

/* Units from the first bad one on are forgotten, and so are those behind which no hidden states
 * are. */
static pare_status settle_n_done(pare_work *w, pare_error *err) {
    json_t *units = json_object_get(w->manifest, "units");
    size_t listed = json_array_size(units), n = 0;
    bool whole = true, states = json_object_size(json_object_get(w->manifest, "states")) > 0;
    for (; n < listed; n++) {
        PARE_TRY(unit_good(&whole, w, n, err));
        if (!whole) break;
    }
    size_t good = n;
    if (states && good < w->n_units) {
        PARE_TRY(states_good(&whole, w, good, err));
        while (!whole && good > 0) PARE_TRY(states_good(&whole, w, --good, err));
        if (!whole) json_object_clear(json_object_get(w->manifest, "states"));
    }
    if (good < listed)
        pare_warn(w->rt, "%s: found damaged files; going on from block %zu of %zu finished ones",
                  w->path, good, listed);
    while (json_array_size(units) > good) json_array_remove(units, json_array_size(units) - 1);
    w->n_done = good;
    return PARE_OK;
}

static pare_status start_anew(pare_work *w, const json_t *fingerprint, pare_error *err) {
    json_decref(w->manifest);
    w->manifest = json_pack("{s:O, s:{}, s:{}, s:[]}", "fingerprint", (json_t *)fingerprint, "kept",
                            "states", "units");
    return w->manifest ? publish(w, err) : fail_memory(w, err);
}

/* A rank behind the first: what that one has just settled. */
static pare_status follow(pare_work *w, const json_t *fingerprint, pare_error *err) {
    PARE_TRY(load_manifest(w, "manifest", err));
    if (!w->manifest)
        return pare_fail(err, PARE_ERR_IO,
                         "%s: found no manifest on rank %d of %d, expected a folder that all ranks "
                         "see",
                         w->path, pare_group_rank(), pare_group_size());
    PARE_TRY(pare_work_compare(w, fingerprint, err));
    return settle_n_done(w, err);
}

static pare_status enter(pare_work *w, const json_t *fingerprint, bool restart, pare_error *err) {
    PARE_TRY(pare_folder_make(w->path, err));
    char *path = pare_path_join(w->path, "lock");
    pare_status st = path ? pare_lock_take(&w->lock, path, err) : fail_memory(w, err);
    pare_free(path);
    if (st != PARE_OK) return st;
    if (!restart) PARE_TRY(load_manifest(w, "manifest", err));
    if (!restart && !w->manifest) {
        PARE_TRY(load_manifest(w, "manifest.old", err));
        if (w->manifest)
            pare_warn(w->rt, "%s: the manifest is damaged or missing; the one before is used",
                      w->path);
    }
    if (!w->manifest) return start_anew(w, fingerprint, err);
    PARE_TRY(pare_work_compare(w, fingerprint, err));
    return settle_n_done(w, err);
}

/* NULL: out of memory. */
static pare_work *work_of(pare_runtime *rt, const char *output) {
    pare_work *w = pare_calloc(1, sizeof *w);
    size_t n = strlen(output);
    if (!w) return NULL;
    while (n > 1 && output[n - 1] == '/') n--;
    w->rt = rt;
    w->lock.fd = -1;
    w->path = pare_asprintf("%.*s.work", (int)n, output);
    if (w->path) return w;
    pare_free(w);
    return NULL;
}

pare_status pare_work_look(pare_work **out, pare_runtime *rt, const char *output, pare_error *err) {
    pare_work *w = *out = work_of(rt, output);
    if (!w) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", output);
    pare_status st = load_manifest(w, "manifest", err);
    if (st == PARE_OK && !w->manifest) st = load_manifest(w, "manifest.old", err);
    if (st == PARE_OK && w->manifest) return PARE_OK;
    pare_work_close(w);
    *out = NULL;
    return st;
}

pare_status pare_work_open(pare_work **out, pare_runtime *rt, const char *output,
                           const json_t *fingerprint, size_t n_units, bool restart,
                           pare_error *err) {
    pare_work *w = work_of(rt, output);
    *out = NULL;
    if (!w) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", output);
    w->n_units = n_units;
    w->follows = pare_group_rank() > 0;
    if (w->follows) pare_group_barrier(); /* the first rank is through */
    pare_status st = w->follows ? follow(w, fingerprint, err) : enter(w, fingerprint, restart, err);
    if (st != PARE_OK) {
        pare_work_close(w);
        return st;
    }
    if (!w->follows) pare_group_barrier();
    pare_group_barrier(); /* all have read it */
    *out = w;
    return PARE_OK;
}

void pare_work_close(pare_work *w) {
    if (!w) return;
    pare_lock_release(&w->lock);
    json_decref(w->manifest);
    pare_free(w->path);
    pare_free(w);
}

void pare_work_remove_folder(const char *folder) {
    /* the manifest first: a kill between leaves a folder that begins anew */
    static const char *const first[] = {"manifest", "manifest.old"};
    for (size_t i = 0; i < 2; i++) {
        char *path = pare_path_join(folder, first[i]);
        if (path) pare_path_remove(path);
        pare_free(path);
    }
    pare_folder_discard(folder);
}

void pare_work_remove(pare_work *w) {
    if (w->follows) return;
    pare_work_remove_folder(w->path);
    if (pare_path_exists(w->path))
        pare_warn(w->rt, "%s: cannot be removed; it is no longer needed", w->path);
}

/* --- units --- */

const json_t *pare_work_report(const pare_work *w, size_t unit) {
    return json_object_get(json_array_get(json_object_get(w->manifest, "units"), unit), "report");
}

const json_t *pare_work_kept(const pare_work *w, const char *name) {
    return json_object_get(json_object_get(w->manifest, "kept"), name);
}

pare_status pare_work_keep(pare_work *w, const char *name, json_t *value, pare_error *err) {
    if (json_object_set_new(json_object_get(w->manifest, "kept"), name, value) != 0)
        return fail_memory(w, err);
    return publish(w, err);
}

static pare_status note_states(pare_work *w, size_t unit, uint32_t crc, pare_error *err) {
    char key[32], *path = pare_work_states_path(w, unit);
    snprintf(key, sizeof key, "%zu", unit);
    pare_file file;
    pare_status st = path ? pare_file_open(&file, path, err) : fail_memory(w, err);
    if (st == PARE_OK) {
        json_t *entry =
            json_pack("{s:I, s:I}", "bytes", (json_int_t)file.size, "crc32", (json_int_t)crc);
        pare_file_close(&file);
        if (json_object_set_new(json_object_get(w->manifest, "states"), key, entry) != 0)
            st = fail_memory(w, err);
    }
    pare_free(path);
    return st;
}

pare_status pare_work_begin(pare_work *w, uint32_t crc, pare_error *err) {
    PARE_TRY(note_states(w, 0, crc, err));
    return publish(w, err);
}

static void part_name(char out[PARE_ST_MAX_NAME], const char *name, size_t part) {
    snprintf(out, PARE_ST_MAX_NAME, "%s#%zu", name, part);
}

static pare_status write_parts(pare_st_writer *s, const char *const *names,
                               const pare_tensor *tensors, size_t n, pare_error *err) {
    char name[PARE_ST_MAX_NAME];
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < tensors[i].enc->n_parts; k++) {
            part_name(name, names[i], k);
            PARE_TRY(pare_st_declare(s, name, "U8", &tensors[i].part_bytes[k], 1, NULL, err));
        }
    PARE_TRY(pare_st_begin(s, err));
    size_t number = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < tensors[i].enc->n_parts; k++)
            PARE_TRY(
                pare_st_write(s, number++, tensors[i].view.part[k], tensors[i].part_bytes[k], err));
    return pare_st_finish(s, err);
}

pare_status pare_work_write_unit(pare_work *w, size_t unit, const char *const *names,
                                 const pare_tensor *tensors, size_t n, pare_error *err) {
    if (w->follows) return PARE_OK;
    char *path = file_of(w, "unit", unit);
    if (!path) return fail_memory(w, err);
    pare_st_writer *s = NULL;
    pare_status st = pare_st_writer_create(&s, path, 0, err);
    if (st == PARE_OK) st = write_parts(s, names, tensors, n, err);
    pare_st_writer_free(s);
    pare_free(path);
    return st;
}

static void drop_states(pare_work *w, size_t unit) {
    char key[32], *path = pare_work_states_path(w, unit), *spare = pare_work_spare_path(w);
    snprintf(key, sizeof key, "%zu", unit);
    if (path && !w->follows && (!spare || !pare_path_rename(path, spare))) pare_path_remove(path);
    json_object_del(json_object_get(w->manifest, "states"), key);
    pare_free(path);
    pare_free(spare);
}

pare_status pare_work_finish_unit(pare_work *w, size_t unit, json_t *report,
                                  const uint32_t *states_crc, pare_error *err) {
    char *path = file_of(w, "unit", unit), sha[65] = "";
    uint64_t size = 0;
    pare_status st = !path ? fail_memory(w, err) : PARE_OK;
    if (st == PARE_OK && !w->follows) st = digest(path, &size, NULL, sha, err);
    pare_free(path);
    if (st != PARE_OK) return st;
    if (states_crc) PARE_TRY(note_states(w, unit + 1, *states_crc, err));
    json_t *entry =
        json_pack("{s:I, s:s, s:O}", "bytes", (json_int_t)size, "sha256", sha, "report", report);
    if (json_array_append_new(json_object_get(w->manifest, "units"), entry) != 0)
        return fail_memory(w, err);
    PARE_TRY(publish(w, err));
    w->n_done = unit + 1;
    if (states_crc && unit > 0) drop_states(w, unit - 1);
    return PARE_OK;
}

static pare_status read_parts(const pare_st *s, const char *name, const pare_encoding *enc,
                              size_t rows, size_t cols, pare_tensor *out, pare_error *err) {
    size_t offset[PARE_MAX_PARTS], bytes[PARE_MAX_PARTS] = {0}, total = 0, padded;
    const pare_st_tensor *part[PARE_MAX_PARTS];
    char text[PARE_ST_MAX_NAME];
    for (size_t k = 0; k < enc->n_parts; k++) {
        part_name(text, name, k);
        part[k] = pare_st_find(s, text);
        if (!part[k]) return pare_fail(err, PARE_ERR_INPUT, "%s: found no such tensor", text);
        bytes[k] = (size_t)part[k]->n_bytes;
        offset[k] = total;
        if (!pare_align_size(&padded, bytes[k], 64) || !pare_add_size(&total, total, padded + 64))
            return pare_fail(err, PARE_ERR_INPUT, "%s: found a size that does not fit", text);
    }
    uint8_t *memory = pare_big_alloc(total);
    if (!memory) return pare_fail(err, PARE_ERR_NOMEM, "%s: %zu bytes", name, total);
    const void *at[PARE_MAX_PARTS] = {0};
    pare_status st = PARE_OK;
    for (size_t k = 0; k < enc->n_parts && st == PARE_OK; k++) {
        at[k] = memory + offset[k];
        st = pare_file_read_at(pare_st_file(s, part[k]->file), memory + offset[k], bytes[k],
                               part[k]->offset, err);
    }
    if (st == PARE_OK) st = pare_tensor_wrap_parts(out, enc, rows, cols, at, bytes, err);
    if (st != PARE_OK) {
        pare_big_free(memory, total);
        return st;
    }
    out->storage = memory;
    out->storage_bytes = total;
    return PARE_OK;
}

pare_status pare_work_read(const pare_work *w, size_t unit, const char *name,
                           const pare_encoding *enc, size_t rows, size_t cols, pare_tensor *out,
                           pare_error *err) {
    char *path = file_of(w, "unit", unit);
    pare_st *s = NULL;
    *out = (pare_tensor){0};
    pare_status st = path ? pare_st_open(&s, path, err) : fail_memory(w, err);
    if (st == PARE_OK) st = read_parts(s, name, enc, rows, cols, out, err);
    if (st != PARE_OK && path) pare_fail_prefix(err, "%s", path);
    pare_st_close(s);
    pare_free(path);
    return st;
}
