/* A model's files: names, shapes and encodings of all tensors from the headers, then bytes on
 * request. Everything above this line sees one canonical form, whatever the container:
 *
 *   names     GGUF's ("blk.0.attn_q.weight", "token_embd.weight", "output_norm.weight", ...),
 * extended for OPT (names.h) matrices  [out][in] RoPE      half-split rows of q and k (GGUF files
 * of arch llama hold them pairwise: rows are moved back on reading, which works in any row-wise
 * encoding) norms     the stored value multiplies (Gemma in HF files: 1 is added on reading) gpt2
 * c_attn stays fused as attn_qkv; Conv1D is transposed
 *
 * Encodings that are no plain dtype are stored in safetensors files as pare's own form. config.json
 * then holds
 *
 *     "quantization_config": {"quant_method": "pare", "version": 1,
 *         "tensors": {"model.layers.0.mlp.up_proj.weight": {"encoding": "bitmap_bf16"}, ...}}
 *
 * and each part of an encoding (tensor/encoding.h) is the tensor NAME + suffix of the part's dtype;
 * a block format is NAME, U8 [rows][row_bytes]. Such tensors are [out][in] whatever the
 * architecture does with plain ones. The shape is the one that config.json implies.
 *
 * Matrices that other programs packed (GPTQ, AWQ, compressed-tensors) are read as grouped integers,
 * repacked on reading (io/quant_layout.h), or as f16 where no grouped form holds their groups. */
#ifndef PARE_SRC_MODEL_SOURCE_H
#define PARE_SRC_MODEL_SOURCE_H

#include "base/os.h"
#include "io/quant_layout.h"
#include "model/arch.h"
#include "model/config.h"
#include "tensor/act_quant.h"
#include "tensor/encoding.h"

enum { PARE_SOURCE_PARTS = PARE_LAYOUT_PARTS }; /* >= PARE_MAX_PARTS */

typedef struct pare_source_tensor {
    const char *name;         /* as in the file (of a sparse tensor: without the parts' suffixes) */
    const char *canonical;    /* NULL = not used by the model */
    const pare_encoding *enc; /* NULL = a type that pare cannot decode; see type */
    const char *type;         /* the encoding's name, or that of the file's type */
    size_t n_dims, dims[4];   /* slowest first, as in the file */
    unsigned fix;             /* PARE_FIX_* (arch.h) */
    uint64_t n_params, n_bytes;
    size_t n_parts;      /* of enc */
    pare_layout layout;  /* kind not NONE: stored by another program. The parts in the file are its,
                            bytes 0 = absent; name is MODULE.weight whatever they are called */
    pare_act_scheme act; /* how its inputs are quantized; bits 0: they are not */
    size_t file[PARE_SOURCE_PARTS];                               /* index for pare_source_file */
    uint64_t offset[PARE_SOURCE_PARTS], bytes[PARE_SOURCE_PARTS]; /* absolute offset there */
    bool own_act;           /* act is what pare's own key says (model/act_table.h), */
    pare_act_grid act_grid; /* and this its grid where it is static */
} pare_source_tensor;

typedef struct pare_source pare_source;

/* Opens a Hugging Face folder, a GGUF file or the first part of a split one. Headers only. The
 * shapes of all tensors that the model uses are checked against the configuration; that all are
 * there is for pare_source_check_complete. */
pare_status pare_source_open(pare_source **out, const char *path, pare_error *err);
void pare_source_close(pare_source *s);

/* PARE_ERR_INPUT names the first weight that the architecture needs and the files do not have. */
pare_status pare_source_check_complete(const pare_source *s, pare_error *err);

/* SHA-256 over all files, and over config.json. Errors: PARE_ERR_IO, PARE_ERR_NOMEM,
 * PARE_ERR_INTERRUPTED. */
pare_status pare_source_sha256(char hex[65], const pare_source *s, pare_runtime *rt,
                               pare_error *err);

const char *pare_source_path(const pare_source *s);
/* "gguf" or "hf". */
const char *pare_source_format(const pare_source *s);
const pare_arch *pare_source_arch(const pare_source *s);
const pare_model_config *pare_source_config(const pare_source *s);
/* Tensors of layers past the configuration's: they are not used. */
size_t pare_source_n_beyond(const pare_source *s);
/* What a reader should be told about how the files are read; NULL past the last. */
const char *pare_source_note(const pare_source *s, size_t i);
/* Who packed the matrices: "GPTQ", "AWQ", "compressed-tensors", ...; "" for nobody. */
const char *pare_source_packing(const pare_source *s);
/* How the inputs of the first of those matrices are quantized that have theirs quantized; NULL:
 * none has, or in a way that pare does not have, of which a note tells. */
const pare_act_scheme *pare_source_act(const pare_source *s);
/* The static grid of a matrix's input (t->act is static). Errors: PARE_ERR_INPUT (none, or numbers
 * that are no grid), PARE_ERR_IO. */
pare_status pare_source_act_grid(pare_act_grid *out, const pare_source *s,
                                 const pare_source_tensor *t, pare_error *err);
size_t pare_source_n_tensors(const pare_source *s);
const pare_source_tensor *pare_source_tensor_at(const pare_source *s, size_t i);
/* By canonical name; NULL = absent. */
const pare_source_tensor *pare_source_find(const pare_source *s, const char *canonical);
size_t pare_source_n_files(const pare_source *s);
const pare_file *pare_source_file(const pare_source *s, size_t i);

/* The shape in canonical form; a vector has rows 1. */
void pare_source_shape(const pare_source_tensor *t, size_t *rows, size_t *cols);

/* Bytes that pare_source_read_into needs; 0 on overflow. Parts begin at multiples of 64 and are
 * followed by 64 readable bytes. as_f32: the values as f32 instead of the stored encoding. */
size_t pare_source_read_bytes(const pare_source_tensor *t, bool as_f32);

/* Reads, validates and brings into canonical form: *out borrows `memory` (64-byte aligned,
 * pare_source_read_bytes). Adding one and transposing need a plain dtype. Thread-safe. Errors:
 * PARE_ERR_INPUT (broken blocks; NaN or Inf among as_f32 values), PARE_ERR_UNSUPPORTED (enc NULL),
 * PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_source_read_into(const pare_source *s, const pare_source_tensor *t, bool as_f32,
                                  void *memory, pare_tensor *out, pare_error *err);

/* The same with memory of its own. canonical false: the file's bytes as they are, validated. */
pare_status pare_source_read(const pare_source *s, const pare_source_tensor *t, bool canonical,
                             pare_tensor *out, pare_error *err);

/* For exporters: the GGUF header (NULL for hf) and the parsed config.json (root NULL for gguf);
 * borrowed. */
const struct pare_gguf *pare_source_gguf(const pare_source *s);
const struct pare_json *pare_source_config_json(const pare_source *s);

/* The length that an extent means for this model. */
size_t pare_extent_length(pare_extent x, const pare_model_config *c);

#endif
