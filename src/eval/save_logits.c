/* A window runs in pieces of rows; each row becomes codes as soon as its logits are there. */
#include "eval/save_logits.h"

#include "base/memory.h"
#include "base/runtime.h"
#include "base/team.h"
#include "kernels/op_kernels.h"

enum { PIECE_BYTES = 16 << 20 };

pare_status pare_logits_saver_begin(pare_logits_saver *s, pare_runtime *rt, const pare_ppl_run *run,
                                    size_t vocab_size, const char *path, pare_error *err) {
    const pare_ppl_plan *plan = &run->plan;
    *s = (pare_logits_saver){.rt = rt,
                             .softmax = pare_op_kernels_get(pare_runtime_isa(rt))->softmax};
    if (run->options.protocol != PARE_PROTOCOL_LLAMA_CPP)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found protocol %s, expected llama.cpp, which base files are of", path,
                         pare_protocol_name(run->options.protocol));
    if (plan->ctx < 3)
        return pare_fail(err, PARE_ERR_ARG, "%s: found windows of %zu tokens, expected at least 3",
                         path, plan->ctx);
    PARE_TRY(pare_logits_writer_open(&s->out, path, run->ids.data, plan->ctx, vocab_size,
                                     plan->n_windows, err));
    size_t rows = PIECE_BYTES / sizeof *s->codes / s->out.row_codes;
    s->max_rows = rows ? rows : 1;
    s->codes = pare_malloc(s->max_rows * s->out.row_codes, sizeof *s->codes);
    if (s->codes) return PARE_OK;
    pare_writer_discard(&s->out.file);
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
}

static void encode_rows(void *arg, size_t begin, size_t end) {
    pare_logits_saver *s = arg;
    const size_t n = s->out.vocab_size;
    for (size_t i = begin; i < end; i++) {
        const float *logits = s->logits + i * n;
        const double lse = s->softmax->logsumexp(logits, n);
        const size_t at = s->first + i;
        s->logprob[at - s->out.ctx / 2] = (float)((double)logits[s->ids[at + 1]] - lse);
        pare_logits_file_encode(s->codes + i * s->out.row_codes, logits, n, lse);
    }
}

/* Rows from `from` on of what was computed; the window's last token predicts nothing. */
static int take_rows(void *arg, size_t from, size_t n_rows, const float *logits) {
    pare_logits_saver *s = arg;
    const size_t last = s->out.ctx - 1, first = from + s->skip,
                 end = first + n_rows < last ? first + n_rows : last;
    for (size_t at = first; at < end && s->st == PARE_OK; at += s->max_rows) {
        const size_t n = end - at < s->max_rows ? end - at : s->max_rows;
        s->first = at;
        s->logits = logits + (at - first) * s->out.vocab_size;
        pare_parallel_for(s->rt, n, 1, encode_rows, s);
        s->st = pare_writer_write(&s->out.file, s->codes, n * s->out.row_codes * sizeof *s->codes,
                                  s->err);
    }
    return s->st != PARE_OK;
}

pare_status pare_logits_saver_window(pare_logits_saver *s, pare_session *session,
                                     const int32_t *ids, size_t skip, float *logprob,
                                     pare_error *err) {
    s->ids = ids;
    s->skip = skip;
    s->logprob = logprob;
    pare_error own = {0}; /* the pass calls a stop by a sink an interrupt */
    s->err = &own;
    pare_status st = pare_session_eval_all(session, ids + skip, s->out.ctx - skip,
                                           s->out.ctx / 2 - skip, take_rows, s, err);
    if (s->st == PARE_OK) return st;
    if (err) *err = own;
    return s->st;
}

pare_status pare_logits_saver_end(pare_logits_saver *s, pare_status st, pare_error *err) {
    if (st == PARE_OK) st = pare_writer_commit(&s->out.file, err);
    pare_writer_discard(&s->out.file);
    pare_free(s->codes);
    s->codes = NULL;
    return st;
}
