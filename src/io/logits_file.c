#include "io/logits_file.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

enum { MAGIC = 8, HEADER = MAGIC + 3 * 4, ROW_HEADER = 4 /* codes */ };

/* The largest log p of a row may end a little above 0. */
#define ROUNDING 1e-3

static const char magic[MAGIC + 1] = "_logits_";

static bool begins_so(const pare_file *file) {
    char found[MAGIC];
    return file->size >= MAGIC && pare_file_read_at(file, found, MAGIC, 0, NULL) == PARE_OK &&
           memcmp(found, magic, MAGIC) == 0;
}

bool pare_logits_file_is(const char *path) {
    pare_file file;
    if (pare_file_open(&file, path, NULL) != PARE_OK) return false;
    bool is = begins_so(&file);
    pare_file_close(&file);
    return is;
}

static pare_status read_header(pare_logits_file *f, pare_error *err) {
    const char *path = f->file.path;
    static const char *const names[] = {"n_ctx", "n_vocab", "n_chunk"};
    static const int32_t least[] = {3, 1, 1}; /* tokens of which one is scored */
    size_t *const fields[] = {&f->ctx, &f->vocab_size, &f->n_windows};
    int32_t counts[3];
    if (!begins_so(&f->file))
        return pare_fail(err, PARE_ERR_INPUT, "%s: byte 0: found no '%s', expected a base file",
                         path, magic);
    if (f->file.size < HEADER)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found %llu bytes, expected a header of %d at least", path,
                         (unsigned long long)f->file.size, HEADER);
    PARE_TRY(pare_file_read_at(&f->file, counts, sizeof counts, MAGIC, err));
    for (int i = 0; i < 3; i++) {
        if (counts[i] < least[i])
            return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %d, expected at least %d", path,
                             names[i], counts[i], least[i]);
        *fields[i] = (size_t)counts[i];
    }
    f->n_rows = f->ctx - 1 - f->ctx / 2;
    f->row_codes = (f->vocab_size + 1) / 2 * 2 + ROW_HEADER;
    return PARE_OK;
}

/* Windows are ids and rows; the file must end with the last one. */
static pare_status check_size(const pare_logits_file *f, pare_error *err) {
    size_t ids, rows, window, all;
    bool fits = pare_mul_size(&ids, f->ctx, sizeof *f->ids) &&
                pare_mul_size(&rows, f->row_codes, sizeof(uint16_t)) &&
                pare_mul_size(&rows, rows, f->n_rows) && pare_add_size(&window, ids, rows) &&
                pare_mul_size(&all, window, f->n_windows) && pare_add_size(&all, all, HEADER);
    if (fits && all == f->file.size) return PARE_OK;
    if (!fits) all = SIZE_MAX;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: found %llu bytes, expected %s%zu (n_chunk %zu, n_ctx %zu, n_vocab %zu)",
                     f->file.path, (unsigned long long)f->file.size, fits ? "" : "more than ", all,
                     f->n_windows, f->ctx, f->vocab_size);
}

static pare_status read_ids(pare_logits_file *f, pare_error *err) {
    size_t n = f->n_windows * f->ctx; /* as many are in the file */
    f->ids = pare_malloc(n, sizeof *f->ids);
    if (!f->ids) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", f->file.path);
    PARE_TRY(pare_file_read_at(&f->file, f->ids, n * sizeof *f->ids, HEADER, err));
    for (size_t i = 0; i < n; i++)
        if (f->ids[i] < 0 || (size_t)f->ids[i] >= f->vocab_size)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: chunk %zu: token %zu: found id %d, expected 0 to %zu",
                             f->file.path, i / f->ctx, i % f->ctx, f->ids[i], f->vocab_size - 1);
    return PARE_OK;
}

pare_status pare_logits_file_open(pare_logits_file *f, const char *path, pare_error *err) {
    *f = (pare_logits_file){.file.fd = -1};
    PARE_TRY(pare_file_open(&f->file, path, err));
    pare_status st = read_header(f, err);
    if (st == PARE_OK) st = check_size(f, err);
    if (st == PARE_OK) st = read_ids(f, err);
    if (st != PARE_OK) pare_logits_file_close(f);
    return st;
}

void pare_logits_file_close(pare_logits_file *f) {
    pare_free(f->ids);
    pare_file_close(&f->file);
    *f = (pare_logits_file){.file.fd = -1};
}

typedef struct row_range {
    float scale, smallest;
} row_range;

static row_range range_of(const uint16_t *row) {
    row_range r;
    memcpy(&r, row, sizeof r);
    return r;
}

pare_status pare_logits_file_read(uint16_t *rows, const pare_logits_file *f, size_t window,
                                  size_t first, size_t n, pare_error *err) {
    size_t bytes = f->row_codes * sizeof *rows;
    uint64_t at = HEADER + (uint64_t)f->n_windows * f->ctx * sizeof *f->ids +
                  ((uint64_t)window * f->n_rows + first) * bytes;
    PARE_TRY(pare_file_read_at(&f->file, rows, n * bytes, at, err));
    for (size_t i = 0; i < n; i++) {
        row_range r = range_of(rows + i * f->row_codes);
        double top = (double)r.scale * UINT16_MAX + (double)r.smallest;
        /* with scale 0 all entries are alike */
        bool even = fabs((double)r.smallest + log((double)f->vocab_size)) <= ROUNDING;
        if (!(isfinite(r.smallest) && top <= ROUNDING && (r.scale > 0 || (r.scale == 0 && even))))
            return pare_fail(
                err, PARE_ERR_INPUT,
                "%s: chunk %zu: row %zu: found scale %g and smallest log p %g, "
                "expected a range of log p up to 0 at most, or scale 0 and -log(n_vocab)",
                f->file.path, window, first + i, (double)r.scale, (double)r.smallest);
    }
    return PARE_OK;
}

void pare_logits_file_decode(float *logprob, const pare_logits_file *f, const uint16_t *row) {
    const row_range r = range_of(row);
    const uint16_t *code = row + ROW_HEADER;
    for (size_t i = 0; i < f->vocab_size; i++) logprob[i] = r.scale * (float)code[i] + r.smallest;
}
