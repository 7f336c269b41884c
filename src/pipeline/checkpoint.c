#include "pipeline/checkpoint.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/os.h"
#include "io/safetensors_writer.h"

#include <stdio.h>
#include <string.h>

static size_t size_of(const pare_saved *a) { return strcmp(a->dtype, "U8") == 0 ? 1 : 4; }

uint32_t pare_checkpoint_crc32(pare_saved_at at, void *arg) {
    uint32_t crc = 0;
    pare_saved a;
    for (size_t i = 0; at(arg, i, &a); i++) crc = pare_crc32(crc, a.data, a.n_bytes);
    return crc;
}

pare_status pare_checkpoint_write(const char *path, pare_saved_at at, void *arg, pare_error *err) {
    pare_st_writer *w;
    pare_saved a;
    PARE_TRY(pare_st_writer_create(&w, path, 0, err));
    pare_status st = PARE_OK;
    for (size_t i = 0; st == PARE_OK && at(arg, i, &a); i++) {
        size_t n = a.n_bytes / size_of(&a);
        st = pare_st_declare(w, a.name, a.dtype, &n, 1, NULL, err);
    }
    if (st == PARE_OK) st = pare_st_begin(w, err);
    for (size_t i = 0; st == PARE_OK && at(arg, i, &a); i++)
        st = pare_st_write(w, i, a.data, a.n_bytes, err);
    if (st == PARE_OK) st = pare_st_finish(w, err);
    pare_st_writer_free(w);
    return st;
}

static pare_status read_one(const pare_st *file, const char *path, const pare_saved *a,
                            pare_error *err) {
    const pare_st_tensor *t = pare_st_find(file, a->name);
    if (!t || t->n_bytes != a->n_bytes)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %llu bytes, expected %zu", path,
                         a->name, t ? (unsigned long long)t->n_bytes : 0ull, a->n_bytes);
    return pare_file_read_at(pare_st_file(file, t->file), a->data, a->n_bytes, t->offset, err);
}

pare_status pare_checkpoint_read(const char *path, uint32_t crc32, pare_saved_at at, void *arg,
                                 pare_error *err) {
    pare_st *file;
    pare_saved a;
    PARE_TRY(pare_st_open(&file, path, err));
    pare_status st = PARE_OK;
    for (size_t i = 0; st == PARE_OK && at(arg, i, &a); i++) st = read_one(file, path, &a, err);
    pare_st_close(file);
    if (st == PARE_OK && pare_checkpoint_crc32(at, arg) != crc32)
        st = pare_fail(
            err, PARE_ERR_INPUT,
            "%s: found another checksum than was written: damaged; --restart begins anew", path);
    return st;
}

char *pare_checkpoint_path(const char *folder, const char *kind, uint64_t number, const char *end) {
    char name[64];
    snprintf(name, sizeof name, "%s-%llu.%s", kind, (unsigned long long)number, end);
    return pare_path_join(folder, name);
}
