/* The quantization error L_q that candidates for the next token of a prefix leave in a text, block
 * by block (CushionCache, arXiv:2406.12016, eq. 6):
 *
 *     L_q(t | p, c) = sum over blocks, over the text's tokens i, of || X_i - q(X_i) ||^2
 *
 *     pare_cushion_eval_prefix(e, p, n_p, err);              // keys and values of p, shared by all
 *     pare_cushion_eval_begin(e, candidates, n, t, n_t, err);
 *     pare_cushion_eval_block(e, lq, err);                   // of block 0, for each candidate
 *     pare_cushion_eval_keep(e, which, n_which);             // the others are given up
 *     pare_cushion_eval_block(e, lq, err);                   // of block 1 ...
 *
 * A candidate is one span (c, t) behind the prefix. q's scale and zero point come from the text's
 * tokens only, and so does the sum. Several candidates are one pass, so that a block's weights are
 * read once for them; what one gets does not depend on the others, to the bit. */
#ifndef PARE_SRC_PIPELINE_CUSHION_EVAL_H
#define PARE_SRC_PIPELINE_CUSHION_EVAL_H

#include "model/prefix.h"
#include "tensor/act_quant.h"

/* Rows of one pass: weights are unpacked rarely, activations stay in caches. */
enum { PARE_CUSHION_PASS_ROWS = 1024 };

/* Which tensors X are. */
typedef enum pare_cushion_site {
    PARE_CUSHION_BLOCK_OUT = 0, /* the hidden state behind each block */
    PARE_CUSHION_LINEAR_IN,     /* the inputs of its linear layers, each group's that share one */
    PARE_CUSHION_BOTH
} pare_cushion_site;

typedef struct pare_cushion_eval_options {
    pare_act_scheme scheme; /* per tensor: one grid for a text's tokens; per token: one each */
    pare_cushion_site site;
    pare_compute compute;
    size_t max_prefix; /* tokens of a prefix */
    size_t max_text;   /* tokens of a text */
    size_t capacity;   /* candidates at once */
} pare_cushion_eval_options;

typedef struct pare_cushion_eval pare_cushion_eval;

/* m: all blocks loaded; borrowed. Errors: PARE_ERR_ARG (prefix and text are longer than the model's
 * context), PARE_ERR_NOMEM. */
pare_status pare_cushion_eval_open(pare_cushion_eval **out, pare_model *m,
                                   const pare_cushion_eval_options *o, pare_error *err);
void pare_cushion_eval_close(pare_cushion_eval *e);

/* Bytes that it takes. */
size_t pare_cushion_eval_bytes(const pare_cushion_eval *e);

/* Runs the n tokens of a prefix through the model, which has none of its own. n may be 0. Errors:
 * those of pare_prefix_from_ids. */
pare_status pare_cushion_eval_prefix(pare_cushion_eval *e, const int32_t *ids, size_t n,
                                     pare_error *err);

/* Everything stands behind p, borrowed; NULL: behind nothing. */
void pare_cushion_eval_behind(pare_cushion_eval *e, const pare_prefix *p);

/* Begins with n candidates in front of text[n_text]; candidates NULL: the text alone, n is 1. */
void pare_cushion_eval_begin(pare_cushion_eval *e, const int32_t *candidates, size_t n,
                             const int32_t *text, size_t n_text);

/* Runs all that are left through the next block: lq[i] of candidate i of those. Errors:
 * PARE_ERR_INTERRUPTED. */
pare_status pare_cushion_eval_block(pare_cushion_eval *e, double *lq, pare_error *err);

/* Only candidates which[n] (rising numbers of those that were left) stay. */
void pare_cushion_eval_keep(pare_cushion_eval *e, const size_t *which, size_t n);

#endif
