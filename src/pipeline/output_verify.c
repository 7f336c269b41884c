/* The end of an output: it is opened like any model and every tensor's bytes are compared with what
 * was written; only then it moves to its name. */
#include "pipeline/model_output_internal.h"

#include "base/hash.h"
#include "base/memory.h"
#include "io/json.h"

#include <string.h>

pare_status output_crc_of_values(uint32_t *crc, const pare_tensor *t, pare_error *err) {
    float *row = pare_malloc(t->view.cols, sizeof *row);
    if (!row) return pare_fail(err, PARE_ERR_NOMEM, "a row of %zu", t->view.cols);
    *crc = 0;
    for (size_t r = 0; r < t->view.rows; r++) {
        t->enc->decode(row, &t->view, r, 0, t->view.cols);
        *crc = pare_crc32(*crc, row, t->view.cols * sizeof *row);
    }
    pare_free(row);
    return PARE_OK;
}

static pare_status compare_tensor(const pare_source *back, const pare_source_tensor *t,
                                  const written *w, pare_error *err) {
    pare_tensor stored;
    PARE_TRY(pare_source_read(back, t, false, &stored, err));
    pare_status st = PARE_OK;
    if (w->layout.kind) {
        uint32_t crc = 0;
        st = output_crc_of_values(&crc, &stored, err);
        if (st == PARE_OK && crc != w->crc[0])
            st = pare_fail(err, PARE_ERR_IO,
                           "%s: read back: found values of CRC %08x, expected %08x", w->name, crc,
                           w->crc[0]);
        pare_tensor_free(&stored);
        return st;
    }
    for (size_t k = 0; k < stored.enc->n_parts && st == PARE_OK; k++) {
        uint32_t crc = pare_crc32(0, stored.view.part[k], stored.part_bytes[k]);
        if (stored.enc != w->enc || crc != w->crc[k])
            st = pare_fail(err, PARE_ERR_IO,
                           "%s: read back: found CRC %08x of %s, expected %08x of %s", w->name, crc,
                           stored.enc->name, w->crc[k], w->enc->name);
    }
    pare_tensor_free(&stored);
    return st;
}

static pare_status compare_all(pare_output *o, const pare_source *back, pare_error *err) {
    pare_table by_name = {0};
    pare_status st = PARE_OK;
    for (size_t i = 0; i < pare_source_n_tensors(back); i++) {
        const char *name = pare_source_tensor_at(back, i)->name;
        if (pare_table_add(&by_name, name, strlen(name), (int64_t)i) < 0)
            st = output_fail_memory(o, err);
    }
    for (size_t i = 0; i < o->n_items && st == PARE_OK; i++) {
        int64_t at = pare_table_get(&by_name, o->items[i].name, strlen(o->items[i].name));
        if (at < 0)
            st = pare_fail(err, PARE_ERR_IO, "%s: read back: %s is not there", o->path,
                           o->items[i].name);
        else
            st = compare_tensor(back, pare_source_tensor_at(back, (size_t)at), &o->items[i], err);
        pare_progress(o->rt, "verify", (double)(i + 1), (double)o->n_items, "tensors");
        if (st == PARE_OK) st = pare_check_cancel(o->rt, err);
    }
    pare_table_free(&by_name);
    return st;
}

/* The first file of a split GGUF output has another name than the output. */
static pare_status verify(pare_output *o, pare_error *err) {
    char *file = o->gguf ? pare_gguf_writer_file(o->gguf_writer, 0) : pare_strdup(o->folder);
    if (!file) return output_fail_memory(o, err);
    pare_source *back;
    pare_status st = pare_source_open(&back, file, err);
    if (st == PARE_OK) {
        st = compare_all(o, back, err);
        pare_source_close(back);
    }
    pare_free(file);
    return st == PARE_OK || st == PARE_ERR_INTERRUPTED
               ? st
               : pare_fail_prefix(err, "%s: reading the output back", o->path);
}

/* Where a file of the folder goes; free with pare_free. */
static char *final_path(const pare_output *o, const char *name) {
    return pare_asprintf("%.*s%s", (int)(output_base_name(o->path) - o->path), o->path, name);
}

static pare_status move_one(const pare_output *o, const char *name, pare_error *err) {
    char *from = pare_path_join(o->folder, name), *to = final_path(o, name);
    pare_status st = from && to ? pare_file_move(to, from, err) : output_fail_memory(o, err);
    if (st != PARE_OK && to && from && !pare_path_exists(from)) pare_path_remove(to); /* unsynced */
    pare_free(from);
    pare_free(to);
    return st;
}

/* GGUF: the files of the folder move beside it, the first part last. When one cannot, those that
 * did are taken away. */
static pare_status move_files(pare_output *o, pare_error *err) {
    char **names;
    size_t n, done = 0;
    PARE_TRY(pare_folder_list(&names, &n, o->folder, err));
    pare_status st = PARE_OK;
    for (; done < n && st == PARE_OK; done += st == PARE_OK)
        st = move_one(o, names[n - 1 - done], err);
    for (size_t i = 0; st != PARE_OK && i < done; i++) {
        char *to = final_path(o, names[n - 1 - i]);
        if (to) pare_path_remove(to);
        pare_free(to);
    }
    for (size_t i = 0; i < n; i++) pare_free(names[i]);
    pare_free(names);
    return st;
}

pare_status pare_output_finish(pare_output *o, pare_error *err) {
    if (o->next != o->n_items)
        return pare_fail(err, PARE_ERR_INTERNAL, "%s: wrote %zu tensors, declared %zu", o->path,
                         o->next, o->n_items);
    if (pare_json_failures() != o->json_failures) return output_fail_memory(o, err);
    PARE_TRY(o->gguf ? pare_gguf_finish(o->gguf_writer, err) : pare_st_finish(o->st_writer, err));
    PARE_TRY(verify(o, err));
    PARE_TRY(pare_check_cancel(o->rt, err));
    if (o->gguf) return move_files(o, err);
    PARE_TRY(pare_folder_commit(o->folder, o->path, err));
    pare_free(o->folder);
    o->folder = NULL;
    return PARE_OK;
}
