/* Writes safetensors files, whole or in shards with their index, in one pass.
 *
 * Sizes known before: everything has its place, pieces may come in any order, and the tensors lie
 * as the reference writer puts them (widest dtype first, then by name).
 *
 *     pare_st_writer *w;
 *     PARE_TRY(pare_st_writer_create(&w, "out/model.safetensors", 0, err));
 *     st = pare_st_declare(w, "a.weight", "BF16", dims, 2, NULL, err);   // tensor 0, 1, ...
 *     st = pare_st_begin(w, err);
 *     st = pare_st_write(w, 0, bytes, n, err);
 *     st = pare_st_finish(w, err);                                       // nothing stands there
 * before pare_st_writer_free(w);
 *
 * Sizes that show while writing (sparse tensors): room for the header is reserved, and tensors lie
 * in the order in which they come.
 *
 *     st = pare_st_expect(w, "a.weight.values", err);        // for every name that may come
 *     st = pare_st_begin(w, err);
 *     st = pare_st_append(w, "a.weight.values", "U8", &n, 1, &tensor, err);
 *     st = pare_st_write(w, tensor, bytes, n, err);
 *
 * `__metadata__` holds {"format": "pt"} and the caller's entries. */
#ifndef PARE_SRC_IO_SAFETENSORS_WRITER_H
#define PARE_SRC_IO_SAFETENSORS_WRITER_H

#include "io/safetensors.h"

typedef struct pare_st_writer pare_st_writer;

/* max_shard_bytes 0: one file. Otherwise shards of at most that many tensor bytes (but one tensor
 * at least) named PREFIX-00001-of-0000N.safetensors with PREFIX.safetensors.index.json, PREFIX
 * being `path` without ".safetensors"; what fits into one shard is written to `path` itself,
 * without an index. */
pare_status pare_st_writer_create(pare_st_writer **out, const char *path, uint64_t max_shard_bytes,
                                  pare_error *err);
/* Drops everything that was not finished. */
void pare_st_writer_free(pare_st_writer *w);

/* Before pare_st_begin: an entry of __metadata__; setting again replaces. */
pare_status pare_st_set_metadata(pare_st_writer *w, const char *key, const char *value,
                                 pare_error *err);

/* Before pare_st_begin: a tensor whose size is known. dims: slowest first. tensor: its number, may
 * be NULL. Errors: PARE_ERR_ARG (name, dtype, shape, a second tensor of that name), PARE_ERR_NOMEM.
 */
pare_status pare_st_declare(pare_st_writer *w, const char *name, const char *dtype,
                            const size_t *dims, size_t n_dims, size_t *tensor, pare_error *err);

/* Before pare_st_begin: reserves room in the header for a tensor of that name. Declaring and
 * expecting do not mix in one writer. */
pare_status pare_st_expect(pare_st_writer *w, const char *name, pare_error *err);

/* Opens the temporary file or files. */
pare_status pare_st_begin(pare_st_writer *w, pare_error *err);

/* After pare_st_begin of a writer with expected names: the next tensor; the one before must be
 * complete. Errors: as pare_st_declare; PARE_ERR_ARG when the room reserved for the header does not
 * suffice. */
pare_status pare_st_append(pare_st_writer *w, const char *name, const char *dtype,
                           const size_t *dims, size_t n_dims, size_t *tensor, pare_error *err);

/* The next n bytes of a tensor. PARE_ERR_ARG when they are more than dtype and shape tell. */
pare_status pare_st_write(pare_st_writer *w, size_t tensor, const void *data, size_t n,
                          pare_error *err);

/* Checks that all tensors are complete, writes the headers, syncs and renames, the index last. */
pare_status pare_st_finish(pare_st_writer *w, pare_error *err);

/* After pare_st_finish: bytes of all tensors. */
uint64_t pare_st_writer_bytes(const pare_st_writer *w);

#endif
