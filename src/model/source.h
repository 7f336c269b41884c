/* A model's files: names, shapes and encodings of all tensors from the headers, then bytes on
 * request. Everything above this line sees one canonical form, whatever the container:
 *
 *   names      GGUF's ("blk.0.attn_q.weight", "token_embd.weight", "output_norm.weight", ...),
 * extended for OPT matrices   [out][in] RoPE       half-split rows of q and k (GGUF files of arch
 * llama hold them pairwise: rows are moved back on reading, which works in any row-wise encoding)
 *   norms      the stored value multiplies (Gemma in HF files: 1 is added on reading)
 *   gpt2       c_attn stays fused as attn_qkv; Conv1D transposed
 */
#ifndef PARE_SRC_MODEL_SOURCE_H
#define PARE_SRC_MODEL_SOURCE_H

#include "model/config.h"
#include "tensor/encoding.h"

/* What has to happen between the file's form and the canonical one. */
enum {
    PARE_FIX_ROPE_ROWS_Q = 1, /* pairwise -> half-split, n_heads heads */
    PARE_FIX_ROPE_ROWS_K = 2, /* the same, n_kv_heads heads */
    PARE_FIX_ADD_ONE = 4,     /* w + 1 */
    PARE_FIX_TRANSPOSE = 8    /* [in][out] -> [out][in] */
};

typedef struct pare_source_tensor {
    const char *name;      /* as in the file (of a sparse tensor: without the parts' suffixes) */
    const char *canonical; /* NULL = not used by the model (kept by compress when the format stays
                              the same) */
    const pare_encoding *enc;
    size_t n_dims, dims[4]; /* slowest first, as in the file */
    unsigned fix;           /* PARE_FIX_* */
    uint64_t n_params, n_bytes;
    size_t file[PARE_MAX_PARTS];                            /* index into the source's files */
    uint64_t offset[PARE_MAX_PARTS], bytes[PARE_MAX_PARTS]; /* absolute offset in that file */
} pare_source_tensor;

typedef struct pare_source pare_source;

/* Opens a Hugging Face folder, a GGUF file or the first part of a split one. Headers only. */
pare_status pare_source_open(pare_source **out, const char *path, pare_error *err);
void pare_source_close(pare_source *s);

const char *pare_source_path(const pare_source *s);
/* "gguf" or "hf". */
const char *pare_source_format(const pare_source *s);
const pare_model_config *pare_source_config(const pare_source *s);
size_t pare_source_n_tensors(const pare_source *s);
const pare_source_tensor *pare_source_tensor_at(const pare_source *s, size_t i);
/* By canonical name; NULL = absent. */
const pare_source_tensor *pare_source_find(const pare_source *s, const char *canonical);

/* Reads and validates a tensor; *out owns its storage. canonical false: the file's bytes as they
 * are; true: the canonical form. A vector (1-D) has rows 1. Transposing and adding one need a plain
 * dtype. Thread-safe. */
pare_status pare_source_read(const pare_source *s, const pare_source_tensor *t, bool canonical,
                             pare_tensor *out, pare_error *err);

/* For exporters: the GGUF header (NULL for hf) and the parsed config.json (json_t *, NULL for
 * gguf); borrowed. */
const struct pare_gguf *pare_source_gguf(const pare_source *s);
const void *pare_source_config_json(const pare_source *s);

#endif
