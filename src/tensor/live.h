/* Which parts of a masked matrix w[out][in] hold weights at all, as the panels of its three
 * products ask: y = x w^T takes panels of 16 outputs and sums over inputs, dx = dy w panels of 16
 * inputs and sums over outputs, dw = dy^T x panels of 16 inputs with a row for each output. What is
 * zero over a whole panel is neither unpacked nor multiplied. Where little is left but spread over
 * all panels (N:M, single weights), y and dx go by lists of the weights themselves
 * (tensor/linear_weights.c).
 *
 * The sums that are left keep their order, so results have the bits of the dense product with zeros
 * in the matrix (as long as what zeros are multiplied with is finite). Products in bf16 take pairs
 * of inputs and no lists of weights; with AMX, whose tiles take 32 inputs, they stay dense.
 *
 *     pare_live *live = NULL;
 *     PARE_TRY(pare_live_create(&live, out, in, err));
 *     pare_live_set(rt, live, mask, false);
 *     tensor.live = live; */
#ifndef PARE_SRC_TENSOR_LIVE_H
#define PARE_SRC_TENSOR_LIVE_H

#include "pare/base.h"

/* Bit i % 64 of word i / 64 of a panel's words: one of its 16 lines has a weight at place i. */
typedef struct pare_live {
    size_t rows, cols;   /* of the matrix: outputs, inputs */
    uint64_t *by_output; /* [rows / 16, up][pare_bit_words(cols)]; owned, with by_input */
    uint64_t *by_input;  /* [cols / 16, up][pare_bit_words(rows)] */
    double kept;         /* share of the weights */
    double y, dx, dw;    /* shares of the products that are computed, for many rows of x */
    bool y_by_weight, dx_by_weight; /* faster as lists of single weights, for many rows of x */
} pare_live;

/* Holds all weights. Errors: PARE_ERR_NOMEM. */
pare_status pare_live_create(pare_live **out, size_t rows, size_t cols, pare_error *err);
void pare_live_free(pare_live *l);

/* mask: bit k % 64 of word k / 64 is weight k's, 1 = kept; NULL: all are. bf16: so are the
 * products. On all threads. */
void pare_live_set(pare_runtime *rt, pare_live *l, const uint64_t *mask, bool bf16);

/* list: the places in [begin, begin + n) that a panel has weights at, less begin, ascending;
 * returns their number. bits: a panel's words. n <= 65536. */
size_t pare_live_list(uint16_t *list, const uint64_t *bits, size_t begin, size_t n);

/* The same of pairs: place i of the list is begin + 2i and the one behind it. */
size_t pare_live_pairs(uint16_t *list, const uint64_t *bits, size_t begin, size_t n);

/* Can a product of n rows of x go by single weights? They are taken by 64: not a few, nor such that
 * fill little of the last 64. */
bool pare_live_takes_rows(size_t n);

/* Is it faster to multiply `live` of n places by a list than all of them? */
bool pare_live_pays(size_t live, size_t n);

#endif
