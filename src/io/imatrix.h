/* Importance matrices: files of llama.cpp that say, for each weight matrix, the mean square of each
 * of its inputs over calibration text. Two forms, told apart by their first bytes:
 *
 *   GGUF     general.type "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size; per
 *            matrix NAME the tensors NAME.in_sum2 [n_mat][cols] and NAME.counts [n_mat][1], f32
 *   legacy   i32 n_entries; each i32 length, name, i32 n_calls, i32 n_values, f32 [n_values] = mean
 *            square times n_calls; then i32 n_chunks, i32 length, path of the data set, or nothing
 *
 * Files are untrusted. */
#ifndef PARE_SRC_IO_IMATRIX_H
#define PARE_SRC_IO_IMATRIX_H

#include "io/common.h"

typedef struct pare_imatrix_entry {
    char *name;     /* the weight matrix, as GGUF files call it */
    size_t n;       /* values: inputs, of several matrices one after the other */
    float *squares; /* [n] mean squares, finite and >= 0 */
} pare_imatrix_entry;

typedef struct pare_imatrix {
    pare_imatrix_entry *entries; /* by name */
    size_t n_entries, capacity;
} pare_imatrix;

/* Errors: PARE_ERR_INPUT (names the entry), PARE_ERR_IO, PARE_ERR_NOMEM. *out is empty after a
 * failure. */
pare_status pare_imatrix_load(pare_imatrix *out, const char *path, pare_error *err);
void pare_imatrix_free(pare_imatrix *m);

/* NULL = no such entry. */
const pare_imatrix_entry *pare_imatrix_find(const pare_imatrix *m, const char *name);

/* What a file is made from. */
typedef struct pare_imatrix_item {
    const char *name;
    size_t n;
    const float *sums; /* [n] sums of squares over n_chunks * chunk_size tokens */
} pare_imatrix_item;
typedef struct pare_imatrix_origin {
    const char *dataset;         /* file of the text */
    size_t n_chunks, chunk_size; /* sequences, tokens of each */
} pare_imatrix_origin;

/* The legacy form where the path ends in ".dat", else GGUF. Items are sorted by name in place. */
pare_status pare_imatrix_write(const char *path, pare_imatrix_item *items, size_t n,
                               const pare_imatrix_origin *origin, pare_error *err);

#endif
