/* The kernels of everything in a forward pass that is not a linear layer, by instruction set. */
#ifndef PARE_SRC_KERNELS_OP_KERNELS_H
#define PARE_SRC_KERNELS_OP_KERNELS_H

#include "kernels/act_fn.h"
#include "kernels/attention.h"
#include "kernels/grad.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/softmax.h"

typedef struct pare_op_kernels {
    const pare_norm_kernels *norm;
    const pare_act_fn_kernels *act;
    const pare_rope_kernels *rope;
    const pare_softmax_kernels *softmax;
    const pare_attn_kernels *attn;
    const pare_grad_kernels *grad;
} pare_op_kernels;

/* The tables for a level; static storage. */
const pare_op_kernels *pare_op_kernels_get(pare_isa isa);

#endif
