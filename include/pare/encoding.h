/* Encodings: how a tensor's numbers are stored.
 *
 *     const pare_encoding *e = pare_encoding_find("q4_k");
 *     size_t n = pare_encoding_row_bytes(e, 4096);
 *     pare_encoding_encode_row(e, bytes, x, 4096, NULL, &err);
 *     pare_encoding_decode_row(e, y, bytes, 4096);
 */
#ifndef PARE_ENCODING_H
#define PARE_ENCODING_H

#include "pare/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_encoding pare_encoding;

/* The encoding of that name (lower case, e.g. "f32", "bf16", "q4_k", "bitmap_q8"), or NULL. */
const pare_encoding *pare_encoding_find(const char *name);

/* All encodings in a fixed order: i from 0; NULL past the last. */
const pare_encoding *pare_encoding_at(size_t i);

const char *pare_encoding_name(const pare_encoding *e);
const char *pare_encoding_summary(const pare_encoding *e);

/* Whole numbers of some bits with a scale (and a zero point) per group of inputs: one of the many
 * forms that methods such as gptq write ("int4_g64"). */
bool pare_encoding_is_grouped(const pare_encoding *e);

/* Bits per weight of a dense format (of long rows, for forms whose last block is short: see
 * pare_encoding_row_bytes); 0 where it depends on the matrix (sparse encodings). */
double pare_encoding_bits_per_weight(const pare_encoding *e);

/* Length that a row must be a multiple of. */
size_t pare_encoding_block_len(const pare_encoding *e);

/* Bytes of a row of `cols` values; 0 when cols is not a multiple of the block or rows have no fixed
 * size. */
size_t pare_encoding_row_bytes(const pare_encoding *e, size_t cols);

/* Encodes one row on the calling thread. importance [cols] f32 >= 0, one for each input column, or
 * NULL. Errors: PARE_ERR_ARG (cols does not fit; the encoding has no rows of fixed size; x holds
 * NaN, infinity or a value beyond what the encoding can store; importance holds NaN or a negative
 * value: the message names the column), PARE_ERR_UNSUPPORTED (the encoding can only be read). */
pare_status pare_encoding_encode_row(const pare_encoding *e, void *out, const float *x, size_t cols,
                                     const float *importance, pare_error *err);

/* Decodes one row into y[cols] f32. The bytes are taken as they are: NaN scales give NaN. Errors:
 * PARE_ERR_ARG (as above). */
pare_status pare_encoding_decode_row(const pare_encoding *e, float *y, const void *row, size_t cols,
                                     pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
