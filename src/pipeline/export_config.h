/* A model's configuration written for the other container: config.json from the canonical config,
 * and the GGUF keys. */
#ifndef PARE_SRC_PIPELINE_EXPORT_CONFIG_H
#define PARE_SRC_PIPELINE_EXPORT_CONFIG_H

#include "io/gguf_writer.h"
#include "model/source.h"

#include <jansson.h>

/* A new config.json object for transformers (json_decref), dtype "bfloat16". freqs: divisors of
 * RoPE frequencies (rope_freqs.weight, [head_dim / 2]) or NULL; they are written as the llama3
 * scaling that makes them. Errors: PARE_ERR_UNSUPPORTED (no config.json can say it),
 * PARE_ERR_NOMEM. */
pare_status pare_export_config_json(json_t **out, const pare_model_config *c, const float *freqs,
                                    pare_error *err);

/* What config.json says of an activation sparsity (PARE_TOP_K_KEY); NULL: out of memory. */
json_t *pare_export_top_k_json(const pare_top_k *k);

/* The architecture whose name a GGUF file of this model carries (Mistral's is llama), or NULL. */
const struct pare_arch *pare_export_gguf_arch(const pare_model_config *c);

/* Can a GGUF file say this model? Errors: PARE_ERR_UNSUPPORTED. */
pare_status pare_export_check_gguf(const pare_model_config *c, pare_error *err);

/* general.architecture and ARCH.* keys. Errors: PARE_ERR_UNSUPPORTED (no GGUF architecture can say
 * it). */
pare_status pare_export_config_gguf(pare_gguf_writer *w, const pare_model_config *c,
                                    const char *name, pare_error *err);

/* The divisors of the llama3 scaling: out[head_dim / 2]. */
void pare_rope_llama3_divisors(float *out, const pare_rope_config *rope, size_t head_dim);

#endif
