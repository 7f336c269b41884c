/* A model under construction in either container. Tensors are declared in the order in which they
 * will be written, then written one by one, then everything is read back and compared before the
 * output appears under its name.
 *
 *     pare_output_open(&o, rt, source, format, path, split_bytes, err);
 *     for each tensor: pare_output_declare(o, &item, err);
 *     pare_output_begin(o, mix, recipe, err);
 *     for each tensor: pare_output_write(o, &tensor, err);
 *     pare_output_finish(o, err);
 *     pare_output_close(o);          // without finish: nothing is left behind
 *
 * Configuration, tokenizer, generation config and chat template travel along: copied where the
 * container stays the same, translated where it changes. */
#ifndef PARE_SRC_PIPELINE_MODEL_OUTPUT_H
#define PARE_SRC_PIPELINE_MODEL_OUTPUT_H

#include "model/source.h"
#include "pipeline/export_quant.h"
#include "pipeline/mix.h"
#include "tensor/act_quant.h"

typedef struct pare_output_item {
    const char *name;      /* raw: as stored in the input; else canonical. Borrowed until close */
    const char *canonical; /* what it is to the model, for act; borrowed until close */
    const pare_encoding *enc;
    const pare_encoding *stored; /* what the file says it as (pare_export_fits) */
    size_t n_dims, dims[4];      /* slowest first; of a raw item as stored, else canonical */
    const pare_act_scheme *act;  /* how its inputs are quantized, or NULL; not kept */
    pare_act_grid act_grid;      /* of a static one */
    const pare_export_way *way;  /* how the run has found its codes, or NULL; not kept */
    bool raw;                    /* the bytes are the input's, in its own form: no fix is applied */
} pare_output_item;

typedef struct pare_output pare_output;

/* True for a tensor that the container says in its configuration instead (rope_freqs.weight). */
bool pare_output_absorbs(const pare_output_format *format, const char *canonical);

/* Could the result stand at `path`? The output must not be the input, GGUF must know the
 * architecture, a folder must be new or empty. Touches nothing. */
pare_status pare_output_check(const pare_source *source, const pare_output_format *format,
                              const char *path, pare_error *err);

/* split_bytes: largest part, 0 = one file. The output must not be the input (PARE_ERR_ARG). */
pare_status pare_output_open(pare_output **out, pare_runtime *rt, const pare_source *source,
                             const pare_output_format *format, const char *path,
                             uint64_t split_bytes, pare_error *err);
pare_status pare_output_declare(pare_output *o, const pare_output_item *item, pare_error *err);
/* Before begin: the model's activations are sparse (borrowed until begin), in place of what the
 * input's configuration says. A GGUF output cannot say it. */
void pare_output_set_top_k(pare_output *o, const pare_top_k *k);
/* Before begin: the output's sequences stand behind the prefix of this file (borrowed until begin),
 * which goes along. The input's own goes along only so. */
void pare_output_set_prefix(pare_output *o, const char *path);
/* mix: the recipe's mix for general.file_type, or NULL; recipe: stored in the metadata, or NULL. */
pare_status pare_output_begin(pare_output *o, const pare_mix *mix, const char *recipe,
                              pare_error *err);
/* The next declared tensor, in the form that its item says. */
pare_status pare_output_write(pare_output *o, const pare_tensor *t, pare_error *err);
/* Bytes that tensor i took in the file, once it is written. */
uint64_t pare_output_bytes(const pare_output *o, size_t i);
/* The folder that becomes the output, from begin to finish: for files that go along. NULL: the
 * output is a file. Owned by the output. */
const char *pare_output_folder(const pare_output *o);
/* Reads everything back, compares, moves it to its name. */
pare_status pare_output_finish(pare_output *o, pare_error *err);
void pare_output_close(pare_output *o);

#endif
