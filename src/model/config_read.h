/* For the architectures' hooks (arch.h): what several of them read from config.json or GGUF keys.
 */
#ifndef PARE_SRC_MODEL_CONFIG_READ_H
#define PARE_SRC_MODEL_CONFIG_READ_H

#include "io/gguf.h"
#include "io/json.h"
#include "model/arch.h"

/* Least and greatest value accepted for scales, factors, caps and bases. */
#define PARE_CONFIG_TINY 1e-12
#define PARE_CONFIG_HUGE 1e12

/* As pare_json_double, into a float; absent leaves *out alone. */
pare_status pare_config_json_float(const pare_json *j, const char *key, double min, double max,
                                   float *out, pare_error *err);

/* sliding_window: null means none (0), absent leaves c->window alone. */
pare_status pare_config_hf_window(pare_model_config *c, const pare_json *j, pare_error *err);

/* Qwen: use_sliding_window, sliding_window, and the local layers from layer_types or
 * max_window_layers. */
pare_status pare_config_hf_qwen(pare_model_config *c, const pare_json *j, pare_error *err);

/* Gemma: query_pre_attn_scalar; sliding_window; the local layers from layer_types, or all but every
 * `pattern`-th (sliding_window_pattern goes before it); the caps (null = none, absent = as in *c).
 */
pare_status pare_config_hf_gemma(pare_model_config *c, const pare_json *j, size_t pattern,
                                 pare_error *err);

/* GGUF of Gemma: sliding_window; which layers are local: sliding_window_pattern (a number or one
 * truth value a layer), else all but every `pattern`-th; the caps. The scale of attention is not in
 * the file: 1 / sqrt(head_dim), except in the 27B models, told by their number of layers: there 1 /
 * sqrt(dim / n_heads). */
pare_status pare_config_gguf_gemma(pare_model_config *c, const pare_gguf *g, size_t pattern,
                                   size_t layers_27b, pare_error *err);

#endif
