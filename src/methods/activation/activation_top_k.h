/* What the text of an activation sparsity holds. */
#ifndef PARE_SRC_METHODS_ACTIVATION_ACTIVATION_TOP_K_H
#define PARE_SRC_METHODS_ACTIVATION_ACTIVATION_TOP_K_H

#include "methods/method.h"

typedef struct pare_top_k_options {
    pare_sparsity sparsity;
    int score; /* pare_top_k_score */
} pare_top_k_options;

#endif
