/* A model under construction (model_output.h) from the inside. */
#ifndef PARE_SRC_PIPELINE_MODEL_OUTPUT_INTERNAL_H
#define PARE_SRC_PIPELINE_MODEL_OUTPUT_INTERNAL_H

#include "io/gguf_writer.h"
#include "io/safetensors_writer.h"
#include "model/names.h"
#include "pipeline/model_output.h"

#include <string.h>

/* One declared tensor: how it is called and laid out in the file, and what its bytes were. */
typedef struct written {
    char name[PARE_NAME_MAX * 2];
    const pare_encoding *from, *enc; /* as given, and as stored */
    pare_layout layout;              /* kind not NONE: stored in another program's parts */
    size_t n_dims, dims[4];          /* in the file's form */
    unsigned fix;                    /* file's form -> canonical: undone on writing */
    bool linear;
    bool has_act;          /* its inputs are quantized, */
    bool act_group;        /* as a group of the format says; static: two more tensors */
    const char *canonical; /* of these */
    pare_act_scheme act;
    pare_act_grid act_grid;
    bool has_way; /* this run has found its codes */
    pare_export_way way;
    size_t act_number[2];             /* of input_scale and input_zero_point */
    size_t number[PARE_LAYOUT_PARTS]; /* of the container's writer */
    uint32_t crc[PARE_MAX_PARTS];     /* of the parts; with a layout of the values as f32 */
    uint64_t bytes;
} written;

struct pare_output {
    pare_runtime *rt;
    const pare_source *source;
    const pare_arch *arch; /* whose names and layout the output has */
    pare_layout_kind kind;
    bool gguf, same_format, sparse;
    char *path, *folder;     /* final name; temporary folder */
    char *file;              /* in the folder */
    const char *prefix;      /* file of a cushion that goes along, or NULL */
    const pare_top_k *top_k; /* or NULL: the input's */
    uint64_t split;
    size_t json_failures; /* before the first document was built */
    written *items;
    size_t n_items, capacity, next;
    float
        *freqs; /* rope divisors that go into (gguf) or came from (hf) the input, [head_dim / 2] */
    pare_gguf_writer *gguf_writer;
    pare_st_writer *st_writer;
};

/* The error of memory that is out. */
pare_status output_fail_memory(const pare_output *o, pare_error *err);

/* The part behind the last slash. */
static inline const char *output_base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* NULL: not a plain type of safetensors. */
static inline const char *plain_dtype(const pare_encoding *e) { return e->safetensors_dtype; }

/* ---- output_metadata.c ---- */

/* config.json, the tokenizer, what lies beside it, and the cushion. The forms of all tensors are
 * settled. Errors: those of files and translations, PARE_ERR_NOMEM. */
pare_status output_metadata_hf(pare_output *o, const char *recipe, pare_error *err);
/* The same as keys of a GGUF file. */
pare_status output_metadata_gguf(pare_output *o, const pare_mix *mix, const char *recipe,
                                 pare_error *err);

/* ---- output_verify.c ---- */

/* CRC-32 of all values as f32: the same for every form that says the same numbers. */
pare_status output_crc_of_values(uint32_t *crc, const pare_tensor *t, pare_error *err);

#endif
