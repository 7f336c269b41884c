/* The encoding descriptor: one `const` per storage format, in the files of encodings/, one line in
 * encodings.def. Models, evaluation and the CLI read descriptor fields and never compare names. */
#ifndef PARE_SRC_TENSOR_ENCODING_H
#define PARE_SRC_TENSOR_ENCODING_H

#include "base/memory.h"
#include "base/team.h"
#include "kernels/dot.h"
#include "kernels/encode.h"
#include "kernels/view.h"
#include "pare/encoding.h"

/* A stored part of a matrix. Dense formats have one part with suffix "". In safetensors a part of
 * tensor NAME is the tensor NAME + suffix. */
typedef struct pare_part_spec {
    const char *suffix;  /* "", ".mask", ".values", ... */
    const char *dtype;   /* safetensors dtype: "F32", "U8", "BF16", "U64", ... */
    uint32_t item_bytes; /* of one number of that dtype */
    bool per_row;        /* shape [rows][bytes / rows / item_bytes], else [bytes / item_bytes] */
} pare_part_spec;

/* A matrix in memory. `storage` is set when this struct owns its bytes. */
typedef struct pare_tensor {
    const pare_encoding *enc;
    pare_view view;
    size_t part_bytes[PARE_MAX_PARTS];
    void *storage; /* pare_big_alloc'ed, storage_bytes; NULL = borrowed */
    size_t storage_bytes;
    const struct pare_live *live; /* borrowed: which parts are not all zeros (tensor/live.h), in
                                     plain f32; NULL: nothing is known */
    /* What pare_tensor_encode had to do; the caller counts it as a fallback. */
    size_t n_flushed; /* blocks (of sparse forms: groups of code_group columns) with non-zero
                         values that were stored as zeros: too small for the scale's type */
    size_t n_flat_importance; /* groups of 32 columns whose importance was unusable (all zero,
                                 negative, NaN, infinite) and replaced by the mean of the others */
} pare_tensor;

/* What the bytes of one block say. */
typedef enum pare_block_state {
    PARE_BLOCK_FINE = 0,
    PARE_BLOCK_ZERO, /* its scales make it decode to zeros whatever the codes */
    PARE_BLOCK_BAD   /* a scale is NaN or infinite, or decodes to such a value */
} pare_block_state;

/* Grouped integers (encodings/grouped_int.c): w = scale * (code - zero), one scale (and one zero
 * point) per `group` inputs of a row. */
typedef struct pare_grid_form {
    uint8_t bits;    /* 2 to 8 */
    bool asymmetric; /* a zero point per group is stored; else it is 2^(bits-1) */
    uint32_t group;  /* 0 = a whole row */
} pare_grid_form;

struct pare_encoding {
    const char *name, *summary;
    int ggml_type;                 /* id in GGUF files, -1 = none */
    const char *safetensors_dtype; /* of a plain dtype ("F32", "F16", "BF16"), else NULL */

    uint32_t block_len; /* cols is a multiple of it; 1 for plain dtypes and for sparse forms of any
                           width */
    uint32_t block_bytes; /* bytes per block; 0 = rows have no fixed size (the parts hold the
                             matrix) */
    /* The _tail forms: block_bytes are of a super-block of `span` values, a row ends in a short
     * one of tail_bytes(n) bytes, n = cols % span. Elsewhere span is 0 (= block_len). Use
     * pare_encoding_row_bytes. */
    uint32_t span;
    size_t (*tail_bytes)(size_t n);
    float max_abs; /* largest |w| that the stored scales can reach; larger ones are refused */
    uint32_t n_parts;
    pare_part_spec parts[PARE_MAX_PARTS];

    /* Sparse forms: bytes of each part, SIZE_MAX where that depends on the pattern; false when a
     * size overflows. */
    bool (*part_sizes)(size_t bytes[PARE_MAX_PARTS], size_t rows, size_t cols);

    /* y[n] = w[row][col .. col + n); col and n are multiples of block_len (sparse: col of 32, and n
     * too or it reaches the row's end; tail forms: col of span). */
    void (*decode)(float *y, const pare_view *w, size_t row, size_t col, size_t n);

    /* Fixed-size rows, NULL = this form can only be read: encodes one row of `cols` values.
     * importance [cols], finite and >= 0, or NULL. Never fails on finite input. */
    void (*encode_row)(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                       const float *importance);

    /* Grouped integers, else NULL: a row from values that lie on the grid of scale and zero [groups
     * of the row] (tensor/grid.h); without asymmetric, zero is not read. */
    const pare_grid_form *grid;
    void (*encode_grid_row)(void *out, const float *w, size_t cols, const float *scale,
                            const uint8_t *zero);

    /* Variable-size rows (block_bytes == 0): fills out (storage included) from w[rows][cols]. */
    pare_status (*encode_matrix)(pare_runtime *rt, pare_tensor *out, const float *w, size_t rows,
                                 size_t cols, const float *importance, pare_error *err);

    /* Integer form for the many-rows path, or NULL: q[n] codes in [code_min, code_max], and per
     * group of `code_group` inputs scale[] and offset[] with w = scale * q + offset, one rounding,
     * equal to decode bit for bit. offset is not written when has_offset is false (it may be NULL
     * then). A last group may be shorter (sparse forms). col and n as in decode. */
    void (*codes)(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                  size_t col, size_t n);
    uint32_t code_group; /* 16 or 32 */
    int code_min, code_max;
    bool has_offset;

    /* The form of packed panels that this encoding is (kernels/packed.h); NULL = rows. */
    const struct pare_packed *packed;

    /* The kernel that multiplies this form with int8 activations (`fast`), for dense codes once
     * they are packed (tensor/pack.h); PARE_DOT_NONE = none. */
    pare_dot_id dot;
    pare_dotf_id dotf; /* few rows, f32 activations; PARE_DOTF_NONE = decode, then dot */

    /* Dense forms: the state of one block of n values. */
    pare_block_state (*block_state)(const void *block, size_t n);

    /* Checks stored bytes from an untrusted file: scales finite, counts and offsets consistent with
     * bits, parts' sizes with rows and cols. NULL = block_state of every block. Call
     * pare_tensor_validate. */
    pare_status (*validate)(const pare_tensor *t, pare_error *err);
};

/* The encoding with this ggml type id, or NULL. */
const pare_encoding *pare_encoding_from_ggml(int type);
/* The plain encoding with this safetensors dtype, or NULL. */
const pare_encoding *pare_encoding_from_dtype(const char *dtype);

/* Encodes a matrix on all threads; *out owns its storage (and is zeroed on failure). importance
 * [cols] or NULL. Errors: PARE_ERR_ARG (cols does not fit the block; w holds NaN or infinity; a
 * value or a block's scale does not fit the stored type; the pattern of an N:M form is violated:
 * the message names row and column), PARE_ERR_UNSUPPORTED (a form that can only be read),
 * PARE_ERR_NOMEM. */
pare_status pare_tensor_encode(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc,
                               const float *w, size_t rows, size_t cols, const float *importance,
                               pare_error *err);

/* Groups of a row of grouped integers. */
static inline size_t pare_grid_groups(const pare_grid_form *g, size_t cols) {
    return g->group ? cols / g->group + (cols % g->group != 0) : 1;
}

/* A grouped-integer encoding, or NULL. group 0: a whole row. */
const pare_encoding *pare_encoding_of_grid(int bits, bool asymmetric, size_t group);

/* Encodes values that a method put on a grid: w[rows][cols], scale and zero [rows][groups]. The
 * stored numbers decode to w but for the sign of zeros. Errors: as pare_tensor_encode. */
pare_status pare_tensor_encode_grid(pare_runtime *rt, pare_tensor *out, const pare_encoding *enc,
                                    const float *w, size_t rows, size_t cols, const float *scale,
                                    const uint8_t *zero, pare_error *err);

/* Decodes the whole matrix on all threads: w[rows][cols]. */
void pare_tensor_decode(pare_runtime *rt, float *w, const pare_tensor *t);

/* A borrowed tensor of a dense format on bytes at `data` (pare_encoding_row_bytes * rows of them,
 * as pare_view demands). */
pare_tensor pare_tensor_wrap(const pare_encoding *enc, const void *data, size_t rows, size_t cols);

/* A borrowed tensor on n_parts parts of any format, bytes[] long; pare_view's rules hold for each.
 * Sizes are checked, contents are not: see pare_tensor_validate. Errors: PARE_ERR_INPUT. */
pare_status pare_tensor_wrap_parts(pare_tensor *out, const pare_encoding *enc, size_t rows,
                                   size_t cols, const void *const part[], const size_t bytes[],
                                   pare_error *err);

/* Checks sizes and contents of a tensor from an untrusted file, so that every later read stays
 * inside the parts and every decoded value is finite. The message names the place inside the
 * tensor, the caller prefixes file and tensor. Errors: PARE_ERR_INPUT. */
pare_status pare_tensor_validate(const pare_tensor *t, pare_error *err);

/* The shape of a part as a safetensors tensor; returns the number of dimensions, 1 or 2. */
int pare_tensor_part_shape(const pare_tensor *t, size_t part, size_t shape[2]);

/* Bytes of all parts. */
size_t pare_tensor_bytes(const pare_tensor *t);

void pare_tensor_free(pare_tensor *t);

#endif
