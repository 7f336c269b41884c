/* The names of weights: canonical (GGUF's, "blk.0.attn_q.weight") and in Hugging Face files
 * ("model.layers.0.self_attn.q_proj.weight"), both directions, from the architecture's table. */
#ifndef PARE_SRC_MODEL_NAMES_H
#define PARE_SRC_MODEL_NAMES_H

#include "model/arch.h"

/* Longest name that the tables can make, with the NUL. */
#define PARE_NAME_MAX 128

typedef enum pare_name_form { PARE_NAMES_GGUF, PARE_NAMES_HF } pare_name_form;

/* A name taken apart. */
typedef struct pare_name {
    const pare_weight_spec *spec;
    size_t layer;     /* SIZE_MAX: not of a layer */
    const char *leaf; /* "weight" or "bias"; points into the parsed name */
    bool is_bias;
} pare_name;

/* Recognises a name of a file of that form; false = not one that the architecture uses. HF names
 * may lack their usual prefix or carry that of a multimodal model. */
bool pare_name_parse(pare_name *out, const pare_arch *arch, pare_name_form form, const char *name);

/* Writes the name in a form. */
void pare_name_print(char out[PARE_NAME_MAX], const pare_name *name, pare_name_form form);

/* The PARE_FIX_* between that form and the canonical one. */
unsigned pare_name_fix(const pare_name *name, pare_name_form form);

/* Rows of heads between the pairwise order of GGUF's arch llama and half-split order: canonical row
 * r of a head stands at file row pare_rope_row(r, head_dim) of the same head. */
static inline size_t pare_rope_row(size_t r, size_t head_dim) {
    size_t half = head_dim / 2;
    return r < half ? 2 * r : 2 * (r - half) + 1;
}

#endif
