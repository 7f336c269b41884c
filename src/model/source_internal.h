/* The source's inside, shared by source.c (opening), source_hf.c (folders) and source_read.c. */
#ifndef PARE_SRC_MODEL_SOURCE_INTERNAL_H
#define PARE_SRC_MODEL_SOURCE_INTERNAL_H

#include "base/hash.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/names.h"
#include "model/source.h"

struct pare_source {
    char *path;
    pare_gguf *gguf; /* one of gguf and st */
    pare_st *st;
    pare_json config_json;
    const pare_arch *arch;
    pare_model_config config;
    pare_source_tensor *tensors;
    size_t n_tensors, capacity;
    size_t n_beyond; /* tensors of layers that the configuration does not count */
    char **owned;    /* [capacity] canonical names, NULL where there is none */
    pare_table by_canonical;
    char **made; /* [n_made] names of packed matrices, at most n_tensors of the files */
    size_t n_made;
    char *notes[4];
    size_t n_notes;
    const char *packing;
    pare_act_scheme act; /* of the first matrix that has one; bits 0: none */
};

/* Fills the tensor list and the configuration. */
pare_status source_open_hf(pare_source *s, pare_error *err);

/* Room for n tensors. */
pare_status source_reserve(pare_source *s, size_t n, pare_error *err);

/* Appends a tensor whose name, encoding, dims, file, offset and bytes are set: finds its canonical
 * name, its fixes (none for `canonical_form`), and checks its shape. */
pare_status source_add(pare_source *s, const pare_source_tensor *t, bool canonical_form,
                       pare_error *err);

/* Matrices that other programs packed (source_quant.c): what config.json says of them, and all that
 * are there. */
typedef struct source_quant source_quant;
/* *out NULL: nobody packed anything. Errors: PARE_ERR_UNSUPPORTED (a form that
 * pare does not read), PARE_ERR_INPUT. */
pare_status source_quant_open(source_quant **out, pare_source *s, pare_error *err);
void source_quant_close(source_quant *q);
/* Adds the matrices and the names of their tensors to `parts`. */
pare_status source_quant_add(pare_source *s, const source_quant *q, pare_table *parts,
                             pare_error *err);

/* What pare's own key says of the inputs of matrices (model/act_table.h), over what their groups
 * say. Errors: PARE_ERR_UNSUPPORTED (words of a later version), PARE_ERR_INPUT. */
pare_status source_act_open(pare_source *s, pare_error *err);

/* The file that holds part 0, for messages. */
const char *source_file_path(const pare_source *s, const pare_source_tensor *t);

/* The shape that the configuration implies, in the file's order. */
void source_expected_shape(const pare_source *s, const pare_name *name, unsigned fix,
                           size_t *n_dims, size_t dims[2]);

#endif
