/* RoPE frequencies from a model's configuration: theta and the scalings none, linear, llama3, yarn,
 * explicit divisors. */
#ifndef PARE_SRC_MODEL_ROPE_CONFIG_H
#define PARE_SRC_MODEL_ROPE_CONFIG_H

#include "kernels/rope.h"
#include "model/config.h"

/* Fills *rope for heads of head_dim. theta 0 gives rope->half = 0 (no RoPE). divisors
 * [head_dim / 2]: GGUF's rope_freqs.weight, needed by PARE_ROPE_FACTORS, else NULL. An attn_factor
 * of 0 means YaRN's own, 0.1 ln(factor) + 1.
 * Errors: PARE_ERR_INPUT (odd or too large head_dim; theta, factor or a divisor not positive and
 * finite; original_ctx 0 or frequency factors out of order where they are needed). */
pare_status pare_rope_init(pare_rope *rope, const pare_rope_config *config, size_t head_dim,
                           const float *divisors, pare_error *err);

#endif
