/* Base files of llama.cpp (`llama-perplexity --kl-divergence-base FILE`): the tokens of a text and,
 * for each that is scored, a model's distribution in 16 bits a vocabulary entry. Little-endian:
 *
 *     "_logits_"  i32 ctx  i32 vocab_size  i32 n_windows
 *     i32 ids[n_windows][ctx]             as the text gives them: no BOS in place of a first token
 *     u16 rows[n_windows][n_rows][row_codes]
 *
 * n_rows = ctx - 1 - ctx / 2: row i of a window is what follows its token ctx / 2 + i. Of a row,
 * row_codes = vocab_size rounded up to even, + 4, the first four codes are f32 scale and f32
 * smallest, then log p = scale * code + smallest for each id; the odd one is padding. The writer
 * takes logits more than 16 below the largest for 16 below: log p is off by up to scale / 2 <=
 * 16 / 65535 / 2 elsewhere, and no row sums to 1 exactly.
 *
 * Files are untrusted, and large: rows are read where they are wanted. */
#ifndef PARE_SRC_IO_LOGITS_FILE_H
#define PARE_SRC_IO_LOGITS_FILE_H

#include "base/os.h"

typedef struct pare_logits_file {
    pare_file file;
    size_t ctx, vocab_size, n_windows; /* ctx >= 3, the others >= 1 */
    size_t n_rows;                     /* of a window */
    size_t row_codes;                  /* u16 from row to row */
    int32_t *ids;                      /* [n_windows * ctx], each below vocab_size; owned */
} pare_logits_file;

/* True when a regular file begins with the format's eight bytes. */
bool pare_logits_file_is(const char *path);

/* Reads and checks all but the rows. Errors: PARE_ERR_INPUT (names the file and the field; its size
 * must be exactly that of its counts), PARE_ERR_IO, PARE_ERR_NOMEM. *f is empty after a failure. */
pare_status pare_logits_file_open(pare_logits_file *f, const char *path, pare_error *err);
void pare_logits_file_close(pare_logits_file *f);

/* Rows [first, first + n) of a window into rows[n][row_codes]. Errors: PARE_ERR_INPUT (a scale or a
 * smallest value with which codes are no log-probabilities), PARE_ERR_IO. */
pare_status pare_logits_file_read(uint16_t *rows, const pare_logits_file *f, size_t window,
                                  size_t first, size_t n, pare_error *err);

/* The log p [vocab_size] of a row that was read. */
void pare_logits_file_decode(float *logprob, const pare_logits_file *f, const uint16_t *row);

/* A base file that is being written: it appears under its name when it is complete. */
typedef struct pare_logits_writer {
    pare_writer file; /* rows follow by pare_writer_write, in order; then commit or discard */
    size_t ctx, vocab_size, n_windows, n_rows, row_codes; /* as in pare_logits_file */
} pare_logits_writer;

/* Writes all but the rows. ids [n_windows * ctx]; ctx >= 3, the others >= 1. Errors: PARE_ERR_ARG
 * (something else than a base file stands under the name; counts that the format cannot hold),
 * PARE_ERR_IO (no room for all of it, or no folder); *w then needs no discard. */
pare_status pare_logits_writer_open(pare_logits_writer *w, const char *path, const int32_t *ids,
                                    size_t ctx, size_t vocab_size, size_t n_windows,
                                    pare_error *err);

/* A row [row_codes] of logits [n], finite or -INFINITY but for one at least. lse: log of the sum of
 * exp(logits). */
void pare_logits_file_encode(uint16_t *row, const float *logits, size_t n, double lse);

#endif
