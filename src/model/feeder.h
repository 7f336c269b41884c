/* What makes the input of a linear layer: the module whose output i reaches no channel of the input
 * but i and scales with it, so that a positive scale of a channel can be folded into the module (a
 * norm's weight; a matrix's row and bias) and out of the layer's column, and the model computes the
 * same:
 *
 *   q, k, v     <- the norm before attention     gate, up <- the norm before the feed-forward part
 *   output      <- v, where each query head has its own         down <- up, gated or with a relu
 *
 * A fused q, k, v feeds with its last rows. */
#ifndef PARE_SRC_MODEL_FEEDER_H
#define PARE_SRC_MODEL_FEEDER_H

#include "model/names.h"

/* out = the canonical name of the matrix's feeder without its leaf ("blk.3.attn_norm"); matrix: the
 * canonical name of its weight. false = it has none. */
bool pare_feeder(char out[PARE_NAME_MAX], const pare_arch *arch, const pare_model_config *c,
                 const char *matrix);

/* Is the tensor (canonical name) a weight or bias of a module that feeds a matrix? */
bool pare_feeds(const pare_arch *arch, const pare_model_config *c, const char *tensor);

#endif
