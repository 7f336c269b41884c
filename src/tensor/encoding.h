/* The encoding descriptor: one `static const` per storage format, one file each in encodings/, one
 * line in encodings.def. Models, evaluation and the CLI read descriptor fields and never compare
 * names. */
#ifndef PARE_SRC_TENSOR_ENCODING_H
#define PARE_SRC_TENSOR_ENCODING_H

#include "base/memory.h"
#include "base/team.h"
#include "kernels/dot.h"
#include "kernels/view.h"
#include "pare/encoding.h"

/* A stored part of a matrix. Block formats have one part with suffix "". In safetensors a part of
 * tensor NAME is the tensor NAME + suffix. */
typedef struct pare_part_spec {
    const char *suffix; /* "", ".bitmap", ".values", ... */
    const char *dtype;  /* safetensors dtype: "F32", "U8", "BF16", "I64", ... */
} pare_part_spec;

/* A matrix in memory. `storage` is set when this struct owns its bytes. */
typedef struct pare_tensor {
    const pare_encoding *enc;
    pare_view view;
    size_t part_bytes[PARE_MAX_PARTS];
    void *storage; /* pare_big_alloc'ed, storage_bytes; NULL = borrowed */
    size_t storage_bytes;
} pare_tensor;

struct pare_encoding {
    const char *name, *summary;
    int ggml_type;                 /* id in GGUF files, -1 = none */
    const char *safetensors_dtype; /* of a plain dtype ("F32", "F16", "BF16"), else NULL */
    uint32_t
        block_len; /* values per block; 1 for plain dtypes and for sparse forms without blocks */
    uint32_t block_bytes; /* bytes per block; 0 = rows have no fixed size (the `parts` hold the
                             matrix) */
    uint32_t n_parts;
    pare_part_spec parts[PARE_MAX_PARTS];

    /* y[n] = w[row][col .. col + n); col and n are multiples of block_len (sparse: of 32, or n
     * reaches the row's end) */
    void (*decode)(float *y, const pare_view *w, size_t row, size_t col, size_t n);

    /* Fixed-size rows: encodes one row of `cols` values. importance [cols] or NULL. Never fails on
     * finite input. */
    void (*encode_row)(void *out, const float *x, size_t cols, const float *importance);

    /* Variable-size rows (block_bytes == 0): fills out (storage included) from w[rows][cols]. */
    pare_status (*encode_matrix)(pare_tensor *out, const float *w, size_t rows, size_t cols,
                                 const float *importance, pare_error *err);

    /* Integer form for the many-rows path, or NULL: q[n] codes in [code_min, code_max], and per
     * group of `code_group` inputs scale[] and offset[] with w = scale * q + offset. offset is not
     * written when has_offset is false. col and n as in decode. */
    void (*codes)(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                  size_t col, size_t n);
    uint32_t code_group; /* 16 or 32 */
    int code_min, code_max;
    bool has_offset;

    pare_dot_id dot;   /* few rows, int8 activations (`fast`); PARE_DOT_NONE = none */
    pare_dotf_id dotf; /* few rows, f32 activations; PARE_DOTF_NONE = decode, then dot */

    /* Checks stored bytes from an untrusted file: scales finite, indices in range, parts' sizes
     * consistent with rows and cols. The message names the place inside the tensor; the caller
     * prefixes file and tensor. */
    pare_status (*validate)(const pare_tensor *t, pare_error *err);
};

/* The encoding with this ggml type id, or NULL. */
const pare_encoding *pare_encoding_from_ggml(int type);
/* The plain encoding with this safetensors dtype, or NULL. */
const pare_encoding *pare_encoding_from_dtype(const char *dtype);

/* Encodes a matrix on all threads; *out owns its storage. Errors: PARE_ERR_ARG (cols does not fit
 * the block), PARE_ERR_NOMEM. */
pare_status pare_tensor_encode(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc,
                               const float *w, size_t rows, size_t cols, const float *importance,
                               pare_error *err);

/* Decodes the whole matrix on all threads: w[rows][cols]. */
void pare_tensor_decode(pare_runtime *rt, float *w, const pare_tensor *t);

/* A borrowed tensor of a block format on bytes at `data`. */
pare_tensor pare_tensor_wrap(const pare_encoding *enc, const void *data, size_t rows, size_t cols);

/* Bytes of all parts. */
size_t pare_tensor_bytes(const pare_tensor *t);

void pare_tensor_free(pare_tensor *t);

#endif
