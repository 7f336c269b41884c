/* Writes GGUF files, version 3, whole or split, in one pass.
 *
 *     pare_gguf_writer *w;
 *     PARE_TRY(pare_gguf_writer_create(&w, "out.gguf", 0, err));
 *     st = pare_gguf_copy(w, source, except, n_except, err);      // keys of another file
 *     st = pare_gguf_set_u32(w, "general.file_type", 15, err);
 *     st = pare_gguf_declare(w, "output.weight", PARE_GGML_Q4_K, dims, 2, err);  // tensor 0, 1,
 * ... st = pare_gguf_begin(w, err); st = pare_gguf_write(w, 0, bytes, n, err);                  //
 * pieces, any tensor at any time st = pare_gguf_finish(w, err);                              //
 * nothing stands there before pare_gguf_writer_free(w);
 *
 * Tensors lie in the order of their declaration, each padded with zeros to 32 bytes, the last too.
 */
#ifndef PARE_SRC_IO_GGUF_WRITER_H
#define PARE_SRC_IO_GGUF_WRITER_H

#include "io/gguf.h"

typedef struct pare_gguf_writer pare_gguf_writer;

/* max_part_bytes 0: one file. Otherwise parts of at most that many tensor bytes (but one tensor at
 * least) named PREFIX-00001-of-0000N.gguf, PREFIX being `path` without ".gguf"; what fits into one
 * part is written to `path` itself. */
pare_status pare_gguf_writer_create(pare_gguf_writer **out, const char *path,
                                    uint64_t max_part_bytes, pare_error *err);
/* Drops everything that was not finished. */
void pare_gguf_writer_free(pare_gguf_writer *w);

/* Before pare_gguf_begin: keys, in order of their first setting; setting again replaces. Errors:
 * PARE_ERR_ARG (a key that readers would refuse, general.alignment, split.*), PARE_ERR_NOMEM. */
pare_status pare_gguf_set_u16(pare_gguf_writer *w, const char *key, uint16_t v, pare_error *err);
pare_status pare_gguf_set_u32(pare_gguf_writer *w, const char *key, uint32_t v, pare_error *err);
pare_status pare_gguf_set_i32(pare_gguf_writer *w, const char *key, int32_t v, pare_error *err);
pare_status pare_gguf_set_u64(pare_gguf_writer *w, const char *key, uint64_t v, pare_error *err);
pare_status pare_gguf_set_f32(pare_gguf_writer *w, const char *key, float v, pare_error *err);
pare_status pare_gguf_set_bool(pare_gguf_writer *w, const char *key, bool v, pare_error *err);
pare_status pare_gguf_set_str(pare_gguf_writer *w, const char *key, const char *v, pare_error *err);
pare_status pare_gguf_set_strings(pare_gguf_writer *w, const char *key, const pare_span *v,
                                  size_t n, pare_error *err);
pare_status pare_gguf_set_f32s(pare_gguf_writer *w, const char *key, const float *v, size_t n,
                               pare_error *err);
pare_status pare_gguf_set_i32s(pare_gguf_writer *w, const char *key, const int32_t *v, size_t n,
                               pare_error *err);
pare_status pare_gguf_set_u32s(pare_gguf_writer *w, const char *key, const uint32_t *v, size_t n,
                               pare_error *err);
/* A pair of a reader, as it is. */
pare_status pare_gguf_set_kv(pare_gguf_writer *w, const pare_gguf_kv *kv, pare_error *err);
/* All pairs of a reader but general.alignment, split.* and the n_except named ones ("split.*": all
 * keys that begin so). */
pare_status pare_gguf_copy(pare_gguf_writer *w, const pare_gguf *from, const char *const *except,
                           size_t n_except, pare_error *err);

/* Before pare_gguf_begin: the next tensor. dims: slowest first, 0 to 4 of them. Errors:
 * PARE_ERR_ARG (name, type, shape or a second tensor of that name), PARE_ERR_NOMEM. */
pare_status pare_gguf_declare(pare_gguf_writer *w, const char *name, uint32_t type,
                              const size_t *dims, size_t n_dims, pare_error *err);
/* The declared tensors' bytes, without padding. */
uint64_t pare_gguf_declared_bytes(const pare_gguf_writer *w);

/* Opens the temporary files and writes the headers. */
pare_status pare_gguf_begin(pare_gguf_writer *w, pare_error *err);

/* The next n bytes of a tensor (its number in order of declaration). Tensors may be written in any
 * order and interleaved. PARE_ERR_ARG when they are more than its type and shape tell. */
pare_status pare_gguf_write(pare_gguf_writer *w, size_t tensor, const void *data, size_t n,
                            pare_error *err);

/* Checks that all tensors are complete, syncs and renames. */
pare_status pare_gguf_finish(pare_gguf_writer *w, pare_error *err);

/* After pare_gguf_begin: the number of files that will stand there, and the name of one (new,
 * pare_free; NULL when memory is out). */
size_t pare_gguf_writer_n_files(const pare_gguf_writer *w);
char *pare_gguf_writer_file(const pare_gguf_writer *w, size_t i);

#endif
