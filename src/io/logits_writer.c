#include "io/logits_file.h"

#include "base/memory.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { ROW_HEADER = 4 /* codes */ };

/* What is further below a row's largest value stands there. */
#define RANGE 16.0f

/* The file's size, and whether it fits on the disk. */
static pare_status check_room(const pare_logits_writer *w, const char *path, pare_error *err) {
    size_t row, all;
    uint64_t room;
    bool fits = pare_mul_size(&row, w->row_codes, sizeof(uint16_t)) &&
                pare_mul_size(&all, row, w->n_rows) &&
                pare_add_size(&all, all, w->ctx * sizeof(int32_t)) &&
                pare_mul_size(&all, all, w->n_windows);
    if (!fits || w->ctx > INT32_MAX || w->vocab_size > INT32_MAX || w->n_windows > INT32_MAX)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found %zu windows of %zu tokens and a vocabulary of %zu, expected "
                         "what fits in a base file",
                         path, w->n_windows, w->ctx, w->vocab_size);
    PARE_TRY(pare_disk_free(&room, path, err));
    if (room >= all) return PARE_OK;
    return pare_fail(err, PARE_ERR_IO,
                     "%s: found %llu MiB free on its disk, expected the %zu MiB of %zu windows",
                     path, (unsigned long long)(room >> 20), all >> 20, w->n_windows);
}

static pare_status write_begin(pare_logits_writer *w, const int32_t *ids, pare_error *err) {
    const int32_t counts[] = {(int32_t)w->ctx, (int32_t)w->vocab_size, (int32_t)w->n_windows};
    PARE_TRY(pare_writer_write(&w->file, "_logits_", 8, err));
    PARE_TRY(pare_writer_write(&w->file, counts, sizeof counts, err));
    return pare_writer_write(&w->file, ids, w->n_windows * w->ctx * sizeof *ids, err);
}

pare_status pare_logits_writer_open(pare_logits_writer *w, const char *path, const int32_t *ids,
                                    size_t ctx, size_t vocab_size, size_t n_windows,
                                    pare_error *err) {
    *w = (pare_logits_writer){.ctx = ctx,
                              .vocab_size = vocab_size,
                              .n_windows = n_windows,
                              .n_rows = ctx - 1 - ctx / 2,
                              .row_codes = (vocab_size + 1) / 2 * 2 + ROW_HEADER};
    if (pare_path_exists(path) && !pare_logits_file_is(path))
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found something else than a base file, which is not replaced", path);
    PARE_TRY(check_room(w, path, err));
    PARE_TRY(pare_writer_open(&w->file, path, err));
    pare_status st = write_begin(w, ids, err);
    if (st != PARE_OK) pare_writer_discard(&w->file);
    return st;
}

void pare_logits_file_encode(uint16_t *row, const float *logits, size_t n, double lse) {
    float most = -INFINITY, least = INFINITY;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, logits[i]);
        least = fminf(least, logits[i]);
    }
    least = fmaxf(least, most - RANGE);
    const float range[] = {(most - least) / UINT16_MAX, (float)((double)least - lse)};
    uint16_t *code = row + ROW_HEADER;
    memcpy(row, range, sizeof range);
    for (size_t i = 0; i < n; i++) {
        float steps = range[0] > 0 ? fmaxf(logits[i] - least, 0) / range[0] : 0;
        code[i] = (uint16_t)lrintf(fminf(steps, UINT16_MAX));
    }
    if (n % 2) code[n] = 0;
}
