/* Activation sparsity, as JaxPruner has it (arXiv:2304.14082): of what an activation function gives
 * the highest values go on, the others are 0, in training and whenever the model computes. The
 * operator is autograd's (autograd/top_k.h), where the rows' own selection, a departure, is
 * explained; the model's configuration keeps it (model/config.h). */
#include "methods/activation/activation_top_k.h"

static const pare_param top_k_params[] = {
    {.name = "sparsity",
     .type = PARE_PARAM_SPARSITY,
     .offset = offsetof(pare_top_k_options, sparsity),
     .def = 0.5,
     .max = 1,
     .help = "share of a token's values that become 0, or N:M (keep N of every M)"},
    {.name = "score",
     .type = PARE_PARAM_CHOICE,
     .offset = offsetof(pare_top_k_options, score),
     .choices = "magnitude|value",
     .help = "what stays: the largest |y|, or the largest y (JaxPruner's; behind a ReLU both are "
             "the same)"},
    {0},
};

const pare_method pare_method_activation_top_k = {
    .name = "top_k",
    .slot = "activation_sparsity",
    .paper = "arXiv:2304.14082",
    .summary = "keeps the highest of a token's feed-forward activations, the others become 0",
    .help = "Of what ffn_down multiplies (gate times up, GELU or ReLU of up) each token keeps its "
            "highest values, in the forward pass and in the backward pass, which takes the "
            "selection as fixed. The model's config.json keeps it (pare_activation_sparsity), and "
            "run, eval and compress compute with it; other programs and GGUF files cannot. "
            "JaxPruner selects over all tokens of a batch, pare for each token alone, so that a "
            "token does not depend on what is computed with it. Nothing is computed faster for it.",
    .example = "top_k:sparsity=0.5",
    .options_size = sizeof(pare_top_k_options),
    .params = top_k_params,
};
