/* Low-rank adapters beside the matrices of a model's layers (LoRA, Hu et al., arXiv:2106.09685):
 * y = w x + s b (a x), with a [rank][in], b [out][rank] and s = alpha / rank, or alpha / sqrt(rank)
 * (rank-stabilized, arXiv:2312.03732). Their files are PEFT's: a folder with adapter_config.json
 * and adapter_model.safetensors. */
#ifndef PARE_SRC_MODEL_LORA_H
#define PARE_SRC_MODEL_LORA_H

#include "model/model.h"
#include "model/names.h"

/* Which matrices of a layer get one. */
typedef enum pare_lora_targets {
    PARE_LORA_ALL,       /* all of attention and feed-forward part */
    PARE_LORA_QV,        /* queries and values, as the paper has it (GPT-2: the fused matrix) */
    PARE_LORA_ATTENTION, /* queries, keys, values, output */
    PARE_LORA_FFN
} pare_lora_targets;

typedef struct pare_lora_options {
    int rank;     /* >= 1 */
    double alpha; /* > 0 */
    int targets;  /* pare_lora_targets */
    bool rslora;
} pare_lora_options;

/* One matrix's. */
typedef struct pare_lora_pair {
    char base[PARE_NAME_MAX]; /* canonical: "blk.0.attn_q.weight" */
    pare_name name;           /* the same taken apart */
    size_t in, out;
    pare_adapter adapter; /* a and b: f32, each followed by 64 readable bytes */
} pare_lora_pair;

typedef struct pare_lora {
    pare_lora_options o;
    pare_lora_pair *pairs; /* [n] by layer, in the order of the architecture's table */
    size_t n;
    uint8_t *memory;
    size_t bytes;
} pare_lora;

/* New ones: a uniform within 1 / sqrt(in) (as PEFT's), b zero, so that the model is what it was.
 * Numbers follow from the seed, a pair's from its place. Errors: PARE_ERR_ARG (a rank above a
 * matrix's sides), PARE_ERR_NOMEM. */
pare_status pare_lora_create(pare_lora **out, const pare_source *source, const pare_lora_options *o,
                             uint64_t seed, pare_error *err);

/* From a folder. Errors: PARE_ERR_INPUT (files that are not there or damaged, names or shapes that
 * the model does not have, a matrix without its other half, NaN), PARE_ERR_UNSUPPORTED (another
 * kind of adapter, trained biases, whole modules, DoRA, ranks of their own). */
pare_status pare_lora_load(pare_lora **out, const pare_source *source, const char *path,
                           pare_error *err);

/* Writes both files into a folder. base: what the configuration says as base model, may be NULL.
 * Errors: PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_lora_save(const pare_lora *l, const pare_source *source, const char *folder,
                           const char *base, pare_error *err);
void pare_lora_free(pare_lora *l);

/* The pair of a matrix of that canonical name, or NULL. */
const pare_lora_pair *pare_lora_find(const pare_lora *l, const char *canonical);

/* The model's loaded layers use it from now on; it takes it over. */
void pare_model_attach_lora(pare_model *m, pare_lora *l);

#endif
