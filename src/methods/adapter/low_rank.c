/* LoRA: Hu et al., arXiv:2106.09685: w stays as it is, and what is learned is s b a beside it, with
 * a [rank][in] random and b [out][rank] zero at the start; s = alpha / rank, or alpha / sqrt(rank)
 * (rank-stabilized: Kalajdzievski, arXiv:2312.03732). Trained by `pare train --adapter`; the
 * operator is autograd's, the files are PEFT's (model/lora.h). */
#include "methods/method.h"
#include "model/lora.h"

static const pare_param lora_params[] = {
    PARE_PARAM(pare_lora_options, rank, PARE_PARAM_INT, 8, 1, 65536, "columns of b, rows of a"),
    PARE_PARAM(pare_lora_options, alpha, PARE_PARAM_FLOAT, 16, 1e-6, 1e6,
               "of the scale alpha / rank"),
    {.name = "targets",
     .type = PARE_PARAM_CHOICE,
     .offset = offsetof(pare_lora_options, targets),
     .choices = "all|qv|attention|ffn",
     .help = "matrices of each layer: all, queries and values (the paper's), attention's, the "
             "feed-forward part's"},
    PARE_PARAM(pare_lora_options, rslora, PARE_PARAM_BOOL, 0, 0, 1,
               "scale alpha / sqrt(rank): the rate need not fall with the rank"),
    {0},
};

const pare_method pare_method_low_rank = {
    .name = "lora",
    .slot = "adapter",
    .paper = "arXiv:2106.09685",
    .summary = "trains low-rank matrices beside the weights, which stay as they are stored",
    .help = "Each chosen matrix w gets y = w x + alpha / rank b (a x); only a and b are trained. "
            "The model stays in its encoding (GGUF's 4 and 8 bits too), gradients and moments "
            "exist for a and b alone. The result is an adapter as PEFT has it: pare run, eval and "
            "convert take it with --lora.",
    .example = "lora:rank=8,alpha=16,targets=qv",
    .options_size = sizeof(pare_lora_options),
    .params = lora_params,
};
