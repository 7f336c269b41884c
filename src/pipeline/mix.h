/* Mixes: which encoding each tensor of a model gets under a name such as q4_k_m. The rules and the
 * fallbacks for narrow rows are those of llama.cpp's quantize, so that a file made here has the
 * same types. */
#ifndef PARE_SRC_PIPELINE_MIX_H
#define PARE_SRC_PIPELINE_MIX_H

#include "model/config.h"
#include "tensor/encoding.h"

typedef struct pare_mix pare_mix;

/* The mix of that name ("q4_k_m", "q8_0", "bf16", ...), or NULL. */
const pare_mix *pare_mix_find(const char *name);
const char *pare_mix_name(const pare_mix *m);
/* general.file_type of a GGUF file made with it. */
uint32_t pare_mix_file_type(const pare_mix *m);
/* The name for a general.file_type, or NULL. */
const char *pare_mix_name_of_file_type(uint32_t file_type);

/* True for the tensors that re-encoding touches at all: matrices whose name ends in "weight",
 * without norms, routers, position tables and convolutions. */
bool pare_mix_takes(const char *canonical, size_t n_dims);

/* The encoding of a taken tensor. has_output: output.weight is stored, the embedding is not the
 * output; pure: the mix's base for all; importance: errors are weighted by inputs. The rules count
 * layers by the numbers in the names. */
const pare_encoding *pare_mix_encoding(const pare_mix *m, const pare_model_config *config,
                                       bool has_output, const char *canonical, bool pure,
                                       bool importance);

/* What to do when rows of `cols` values do not fit an encoding's block. */
typedef enum pare_fallback {
    PARE_FALLBACK_GGML =
        0, /* llama.cpp's choice: a wider 32-value block type, so that it loads there */
    PARE_FALLBACK_TAIL, /* the same encoding with a short last super-block; only pare reads it */
    PARE_FALLBACK_REFUSE
} pare_fallback;

/* The encoding that rows of `cols` values can have; enc itself when it fits, NULL when refused. */
const pare_encoding *pare_mix_fit(const pare_encoding *enc, size_t cols, pare_fallback fallback);

#endif
