/* GGUF files, versions 2 and 3, whole or split: everything but the tensors' bytes.
 *
 *     pare_gguf *g;
 *     PARE_TRY(pare_gguf_open(&g, "model.gguf", err));
 *     uint32_t n_layers;
 *     st = pare_gguf_u32(g, "llama.block_count", PARE_REQUIRED, 1, 512, &n_layers, err);
 *     const pare_gguf_tensor *t = pare_gguf_find(g, "token_embd.weight");
 *     st = pare_file_read_at(pare_gguf_file(g, t->file), buffer, t->n_bytes, t->offset, err);
 *     pare_gguf_close(g);
 *
 * Layout, little-endian:
 *     "GGUF" u32 version, i64 n_tensors, i64 n_kv
 *     n_kv    x  string key, u32 type, value        (string = u64 length, bytes)
 *     n_tensors x string name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset
 *     zeros up to the alignment, then the tensors' bytes in the same order, each padded
 *
 * A file is untrusted. After a successful open all of this holds: keys and names are unique, valid
 * UTF-8 without control bytes; every tensor's bytes lie inside its file, without overlap; products
 * of dimensions do not overflow. Values of keys are checked by the getters, one family for all. The
 * time is linear in the header, and memory at most some 16 times its size (1 GiB at most). */
#ifndef PARE_SRC_IO_GGUF_H
#define PARE_SRC_IO_GGUF_H

#include "base/os.h"
#include "io/common.h"

typedef struct pare_gguf pare_gguf;

typedef enum pare_gguf_type {
    PARE_GGUF_U8 = 0,
    PARE_GGUF_I8,
    PARE_GGUF_U16,
    PARE_GGUF_I16,
    PARE_GGUF_U32,
    PARE_GGUF_I32,
    PARE_GGUF_F32,
    PARE_GGUF_BOOL,
    PARE_GGUF_STRING,
    PARE_GGUF_ARRAY,
    PARE_GGUF_U64,
    PARE_GGUF_I64,
    PARE_GGUF_F64,
    PARE_GGUF_N_TYPES
} pare_gguf_type;

/* "u8" ... "f64", "string", "array"; "?" otherwise. */
const char *pare_gguf_type_name(uint32_t type);
/* Bytes of one value; 0 for strings, arrays and unknown types. */
size_t pare_gguf_type_bytes(uint32_t type);

typedef struct pare_gguf_tensor {
    const char *name; /* NUL-terminated, 1 to 63 bytes; owned by the reader */
    uint32_t type;    /* ggml's id; known to pare_ggml_type_at */
    uint32_t n_dims;  /* 0 (a scalar) to 4 */
    size_t ne[4];     /* as in the file: ne[0] is the fastest; unused ones are 1 */
    size_t file;      /* index for pare_gguf_file */
    uint64_t offset;  /* absolute, in that file */
    uint64_t n_bytes, n_elements;
} pare_gguf_tensor;

/* Opens a file, or the first part of a split one together with all others
 * (PREFIX-0000i-of-0000n.gguf beside it). Errors: PARE_ERR_INPUT, PARE_ERR_UNSUPPORTED (a tensor
 * type), PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_gguf_open(pare_gguf **out, const char *path, pare_error *err);
/* The same from a copy of bytes in memory, one part only; `name` is for messages. For tests. */
pare_status pare_gguf_open_memory(pare_gguf **out, const void *data, size_t n, const char *name,
                                  pare_error *err);
void pare_gguf_close(pare_gguf *g);

const char *pare_gguf_path(const pare_gguf *g);
uint32_t pare_gguf_version(const pare_gguf *g);
/* Of the data in the first part. */
size_t pare_gguf_alignment(const pare_gguf *g);

/* Files that hold data, in order of parts: borrowed. */
size_t pare_gguf_n_files(const pare_gguf *g);
const pare_file *pare_gguf_file(const pare_gguf *g, size_t i);

/* What was odd but accepted, one line each, e.g. bytes after the last tensor. */
size_t pare_gguf_n_warnings(const pare_gguf *g);
const char *pare_gguf_warning(const pare_gguf *g, size_t i);

/* --- tensors, in file order --- */

size_t pare_gguf_n_tensors(const pare_gguf *g);
const pare_gguf_tensor *pare_gguf_tensor_at(const pare_gguf *g, size_t i);
const pare_gguf_tensor *pare_gguf_find(const pare_gguf *g, const char *name); /* NULL = absent */
/* The shape with the slowest dimension first ([out][in]); unused dims are 1. A scalar has n_dims 0.
 */
void pare_gguf_shape(const pare_gguf_tensor *t, size_t *n_dims, size_t dims[4]);

/* --- metadata (of a split file: that of the first part) ---
 *
 * All getters: `need` says whether an absent key is an error or leaves *out alone; wrong type,
 * wrong length and out of range are errors that name file, key, found and expected. Integer getters
 * accept every integer type whose value fits. */

bool pare_gguf_has(const pare_gguf *g, const char *key);

pare_status pare_gguf_u64(const pare_gguf *g, const char *key, pare_need need, uint64_t min,
                          uint64_t max, uint64_t *out, pare_error *err);
pare_status pare_gguf_u32(const pare_gguf *g, const char *key, pare_need need, uint32_t min,
                          uint32_t max, uint32_t *out, pare_error *err);
pare_status pare_gguf_i32(const pare_gguf *g, const char *key, pare_need need, int32_t min,
                          int32_t max, int32_t *out, pare_error *err);
pare_status pare_gguf_size(const pare_gguf *g, const char *key, pare_need need, size_t min,
                           size_t max, size_t *out, pare_error *err);
/* f32 or f64, finite. */
pare_status pare_gguf_f32(const pare_gguf *g, const char *key, pare_need need, float min, float max,
                          float *out, pare_error *err);
pare_status pare_gguf_bool(const pare_gguf *g, const char *key, pare_need need, bool *out,
                           pare_error *err);
/* NUL-terminated (a NUL inside is refused), borrowed from the reader. */
pare_status pare_gguf_str(const pare_gguf *g, const char *key, pare_need need, const char **out,
                          pare_error *err);

/* Arrays: *out [*n] is new (pare_free), also when empty; absent and OPTIONAL: *out = NULL, *n = 0.
 */
pare_status pare_gguf_strings(const pare_gguf *g, const char *key, pare_need need, pare_span **out,
                              size_t *n, pare_error *err); /* the bytes are borrowed, no NUL */
pare_status pare_gguf_f32s(const pare_gguf *g, const char *key, pare_need need, float **out,
                           size_t *n,
                           pare_error *err); /* NaN and Inf pass: the caller knows what they mean */
pare_status pare_gguf_i32s(const pare_gguf *g, const char *key, pare_need need, int32_t **out,
                           size_t *n, pare_error *err);
pare_status pare_gguf_u32s(const pare_gguf *g, const char *key, pare_need need, uint32_t **out,
                           size_t *n, pare_error *err);
/* out[n]: a number for all, or an array of exactly n (head counts, ffn widths). */
pare_status pare_gguf_u32_each(const pare_gguf *g, const char *key, pare_need need, uint32_t min,
                               uint32_t max, uint32_t *out, size_t n, pare_error *err);

/* One pair as it stands in the file; all pointers borrowed. */
typedef struct pare_gguf_kv {
    const char *key;     /* NUL-terminated */
    uint32_t type;       /* pare_gguf_type */
    uint32_t item;       /* of arrays the items' type, else == type */
    size_t count;        /* items of an array, else 1 */
    const uint8_t *data; /* little-endian, unaligned. A string: its bytes, followed by a NUL. An
                            array of strings: each u64 length and bytes */
    size_t n_bytes;
} pare_gguf_kv;
size_t pare_gguf_n_kv(const pare_gguf *g);
pare_gguf_kv pare_gguf_kv_at(const pare_gguf *g, size_t i);
/* False when absent. */
bool pare_gguf_kv_find(const pare_gguf *g, const char *key, pare_gguf_kv *out);

#endif
