/* The distributions of a perplexity's scored tokens into one of llama.cpp's base files. */
#ifndef PARE_SRC_EVAL_SAVE_LOGITS_H
#define PARE_SRC_EVAL_SAVE_LOGITS_H

#include "eval/perplexity.h"

struct pare_softmax_kernels;

typedef struct pare_logits_saver {
    pare_logits_writer out;
    pare_runtime *rt;
    const struct pare_softmax_kernels *softmax;
    uint16_t *codes; /* [max_rows][out.row_codes] */
    size_t max_rows;
    /* of the window at hand */
    const int32_t *ids;
    size_t skip;         /* of them not computed */
    const float *logits; /* of a piece */
    float *logprob;
    size_t first; /* the position of the piece's first row */
    pare_status st;
    pare_error *err;
} pare_logits_saver;

/* Opens the file for the run's windows. Errors: as for pare_logits_writer_open; PARE_ERR_ARG for
 * another protocol than llama.cpp's or windows of less than 3 tokens. Nothing needs to be freed
 * after a failure. */
pare_status pare_logits_saver_begin(pare_logits_saver *s, pare_runtime *rt, const pare_ppl_run *run,
                                    size_t vocab_size, const char *path, pare_error *err);

/* As pare_session_logprobs of the run's window from ctx / 2 on; the rows are written. skip: 1 where
 * the first id is not computed (pare_ppl_skip), else 0. */
pare_status pare_logits_saver_window(pare_logits_saver *s, pare_session *session,
                                     const int32_t *ids, size_t skip, float *logprob,
                                     pare_error *err);

/* The file gets its name when the run has ended well (st), else it is dropped. */
pare_status pare_logits_saver_end(pare_logits_saver *s, pare_status st, pare_error *err);

#endif
