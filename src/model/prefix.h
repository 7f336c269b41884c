/* Keys and values of m positions that stand in front of every sequence of a model, shared by all of
 * them and never evicted or quantized: a cushion (CushionCache, Son et al., arXiv:2406.12016). What
 * was processed there takes the attention that nothing else wants, so that no token of the text has
 * to carry the huge activations that this costs.
 *
 * To a session of a model with a prefix, positions are the text's: 0 and on. Rotations and learned
 * rows count the prefix, and so do sliding windows, as of m tokens before the text. So a text
 * behind the prefix that was computed from tokens gets the logits that it gets behind these tokens.
 *
 * Its file (docs/cushion.md) is safetensors: layers.#.k and layers.#.v, [m][n_kv_heads][head_dim],
 * keys after their rotation. */
#ifndef PARE_SRC_MODEL_PREFIX_H
#define PARE_SRC_MODEL_PREFIX_H

#include "io/gguf_writer.h"
#include "model/model.h"

enum { PARE_PREFIX_MAX = 1024 /* positions */ };

/* A folder whose model has a prefix: the file, and the key of its name in config.json, in
 * quantization_config where there is one. */
#define PARE_PREFIX_FILE "cushion.safetensors"
#define PARE_PREFIX_KEY "cushion_file"
/* A GGUF file has it in its metadata, under keys that begin so. */
#define PARE_PREFIX_GGUF "pare.cushion."

typedef struct pare_prefix {
    pare_attn_prefix attn; /* for spans */
    pare_kv_layer *layers; /* [n_layers], f32 */
    size_t n_layers, kv_dim;
    int32_t *ids;  /* [attn.n] tokens that it was computed from, or NULL: from none */
    bool tuned;    /* keys and values are others by now */
    float *values; /* [n_layers][keys, values][attn.n][n_kv_heads][head_dim] */
    size_t bytes;  /* of values */
} pare_prefix;

/* n positions of zeros for a model of that configuration, ids NULL. Errors: PARE_ERR_ARG (n is 0 or
 * above PARE_PREFIX_MAX, or leaves no room below the model's maximum), PARE_ERR_NOMEM. */
pare_status pare_prefix_create(pare_prefix **out, const pare_model_config *c, size_t n,
                               pare_error *err);
/* What the model makes of tokens (copied) behind the prefix that it has: that prefix, then theirs.
 * All layers are loaded; computed exactly, without quantized activations. Errors: as for
 * pare_prefix_create; PARE_ERR_ARG (ids out of range). */
pare_status pare_prefix_from_ids(pare_prefix **out, pare_model *m, const int32_t *ids, size_t n,
                                 pare_error *err);
void pare_prefix_free(pare_prefix *p);

/* Keys [attn.n][kv_dim] of a layer, or values. They may be written between passes. */
float *pare_prefix_rows(const pare_prefix *p, size_t layer, bool value);

/* The model's sequences stand behind p from now on, which it takes over; what it had is freed. NULL
 * takes it off. */
void pare_model_attach_prefix(pare_model *m, pare_prefix *p);

/* Bytes of the model's prefix that the text's token at position pos attends to. */
uint64_t pare_prefix_read_bytes(const pare_model *m, size_t pos);

/* ---- files (prefix_file.c) ---- */

/* Reads a file, of its own or a GGUF file that has one. c: of the model that it is for. Errors:
 * PARE_ERR_INPUT (damaged, another model's by architecture or shapes, NaN or Inf),
 * PARE_ERR_UNSUPPORTED (a later version), PARE_ERR_IO, PARE_ERR_NOMEM; those of pare_prefix_create.
 */
pare_status pare_prefix_load(pare_prefix **out, const pare_model_config *c, const char *path,
                             pare_error *err);
/* Writes a file. record: JSON text about how it came to be, or NULL. Errors: PARE_ERR_IO,
 * PARE_ERR_NOMEM. */
pare_status pare_prefix_save(const pare_prefix *p, const pare_model_config *c, const char *record,
                             const char *path, pare_error *err);
/* Is it a GGUF file? Errors: those of opening and reading it. */
pare_status pare_prefix_in_gguf(bool *out, const char *path, pare_error *err);
/* The record of a file, to be freed; NULL: none. Errors: those of opening it, PARE_ERR_NOMEM. */
pare_status pare_prefix_record(char **out, const char *path, pare_error *err);
/* Puts a file's prefix into the metadata of a GGUF file of that architecture. Errors: those of
 * pare_prefix_load. */
pare_status pare_prefix_put_gguf(pare_gguf_writer *w, const char *path, const pare_model_config *c,
                                 const char *arch, pare_error *err);
/* The path of the file that belongs to a model, to be freed: a folder's, or the GGUF file itself
 * where it has one; NULL: there is none. Errors:
 * PARE_ERR_INPUT (the configuration names something that is no file name), PARE_ERR_NOMEM. */
pare_status pare_prefix_path_of(char **out, const pare_source *s, pare_error *err);
/* Attaches what the model's folder has, if it has one. */
pare_status pare_model_load_own_prefix(pare_model *m, pare_error *err);

#endif
