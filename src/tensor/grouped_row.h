/* Rows of grouped integers taken apart and put together again without a change of value: what turns
 * them into the layouts of other programs and back (io/quant_layout.h), and into GGUF's blocks. */
#ifndef PARE_SRC_TENSOR_GROUPED_ROW_H
#define PARE_SRC_TENSOR_GROUPED_ROW_H

#include "tensor/encoding.h"

/* w = scale * (code - zero). */
typedef struct pare_grouped_row {
    uint8_t *codes;  /* [cols], below 2^bits */
    uint16_t *scale; /* [groups] f16, of either sign */
    uint8_t *zero;   /* [groups]; 2^(bits-1) where the form is symmetric */
} pare_grouped_row;

/* Memory for a row of that form; false: out of memory. */
bool pare_grouped_row_alloc(pare_grouped_row *row, const pare_grid_form *form, size_t cols);
void pare_grouped_row_free(pare_grouped_row *row);

/* The form of grouped integers, and of the blocks that are some: q4_0, q5_0, q8_0. False: neither.
 */
bool pare_grouped_form(pare_grid_form *form, const pare_encoding *enc);

/* Row r of a matrix in an encoding that has a form. */
void pare_grouped_get(pare_grouped_row *row, const pare_view *w, const pare_encoding *enc,
                      size_t r);

/* Writes a row of `form` as enc at `to` (pare_encoding_row_bytes). enc: grouped integers of the
 * same bits and kind whose groups divide those of `form`, or what pare_grouped_blocks says. */
void pare_grouped_put(void *to, const pare_encoding *enc, size_t cols, const pare_grouped_row *row,
                      const pare_grid_form *form);

/* The smallest block type of GGUF that holds the same numbers, code - zero in 4, 5 or 8 bits; NULL
 * for 8 bits with zero points, whose differences need nine. */
const pare_encoding *pare_grouped_blocks(const pare_grid_form *form);

#endif
