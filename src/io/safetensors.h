/* safetensors: one file, or a Hugging Face folder with one file or many and their index. Headers
 * only.
 *
 *     pare_st *s;
 *     PARE_TRY(pare_st_open(&s, "model-folder", err));
 *     const pare_st_tensor *t = pare_st_find(s, "model.embed_tokens.weight");
 *     st = pare_file_read_at(pare_st_file(s, t->file), buffer, t->n_bytes, t->offset, err);
 *     pare_st_close(s);
 *
 * A file: u64 N, then N bytes of JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, ...,
 * "__metadata__": {text: text}}, then data, from which the offsets count.
 *
 * A file is untrusted. After a successful open all of this holds: names are unique, 1 to 4,096
 * bytes of valid UTF-8 without control bytes; the tensors of each file cover its data exactly,
 * without hole or overlap; sizes fit shapes; an index and its files agree. Data may lie at any
 * byte: no alignment is promised. Time is linear in the header but for one sort of integers; memory
 * at most 16 times the header, which is 100,000,000 bytes at most. */
#ifndef PARE_SRC_IO_SAFETENSORS_H
#define PARE_SRC_IO_SAFETENSORS_H

#include "base/os.h"
#include "io/common.h"

enum { PARE_ST_MAX_DIMS = 8, PARE_ST_MAX_HEADER = 100000000, PARE_ST_MAX_NAME = 4096 };

typedef struct pare_st_dtype {
    const char *name; /* "F32", "BF16", "F4", ... */
    unsigned bits;    /* of one element: 4, 6, 8, 16, 32, 64 */
} pare_st_dtype;

/* The dtype of that name (case matters), or NULL. */
const pare_st_dtype *pare_st_dtype_find(const char *name);

/* Its place in the order in which the reference writer stores tensors: widest first. */
size_t pare_st_dtype_rank(const pare_st_dtype *dtype);

/* Bytes of a tensor; false when that overflows, or ends inside a byte. */
bool pare_st_size(uint64_t *n_bytes, uint64_t *n_elements, const pare_st_dtype *dtype,
                  const size_t *dims, size_t n_dims);

typedef struct pare_st_tensor {
    const char *name; /* NUL-terminated, owned by the reader */
    const pare_st_dtype *dtype;
    size_t n_dims;                 /* 0 = a scalar */
    size_t dims[PARE_ST_MAX_DIMS]; /* slowest first; unused ones are 1 */
    size_t file;                   /* index for pare_st_file */
    uint64_t offset;               /* absolute, in that file */
    uint64_t n_bytes, n_elements;
} pare_st_tensor;

typedef struct pare_st pare_st;

/* Opens a .safetensors file or a folder: model.safetensors, else model.safetensors.index.json and
 * its parts, else the only .safetensors file there. Errors: PARE_ERR_INPUT, PARE_ERR_UNSUPPORTED
 * (only pickle files), PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_st_open(pare_st **out, const char *path, pare_error *err);
/* One file's bytes in memory; `name` is for messages. For tests. */
pare_status pare_st_open_memory(pare_st **out, const void *data, size_t n, const char *name,
                                pare_error *err);
void pare_st_close(pare_st *s);

size_t pare_st_n_files(const pare_st *s);
const pare_file *pare_st_file(const pare_st *s, size_t i);

/* File by file (in the order of their names), in the order of the data. */
size_t pare_st_n_tensors(const pare_st *s);
const pare_st_tensor *pare_st_tensor_at(const pare_st *s, size_t i);
const pare_st_tensor *pare_st_find(const pare_st *s, const char *name); /* NULL = absent */

/* __metadata__ of the first file: NUL-terminated (a NUL inside is possible), owned by the reader.
 */
size_t pare_st_n_metadata(const pare_st *s);
void pare_st_metadata_at(const pare_st *s, size_t i, pare_span *key, pare_span *value);
const char *pare_st_metadata(const pare_st *s, const char *key); /* NULL = absent */

/* What was odd but accepted, e.g. a wrong total_size in the index. */
size_t pare_st_n_warnings(const pare_st *s);
const char *pare_st_warning(const pare_st *s, size_t i);

#endif
