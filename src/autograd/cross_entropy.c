/* The head and the loss together: logits of some rows, their probabilities and gradient in place of
 * them, and both products of the backward pass, before the next rows. So the logits of a whole
 * batch, the largest activation of a language model by far, never exist. */
#include "autograd/tape.h"
#include "tensor/linear.h"

#include <string.h>

enum { ROWS_MIN = 32, ROWS_MAX = 512 };

static size_t rows_at_once(const pare_ce *ce, size_t n) {
    size_t rows = ce->room / ce->head->view.rows;
    if (rows > ROWS_MAX) rows = ROWS_MAX;
    if (rows > ROWS_MIN) rows = rows / ROWS_MIN * ROWS_MIN;
    if (rows < 1) rows = 1;
    return rows < n ? rows : n;
}

/* Logits of one row become scale * (softmax - one-hot); returns the loss. raw: room for a row. */
static float row_loss(const pare_fwd *f, float *logits, float *raw, const pare_ce *ce,
                      int32_t target, bool gradient) {
    size_t vocab = ce->head->view.rows;
    if (target < 0) {
        memset(logits, 0, vocab * sizeof *logits);
        return 0;
    }
    if (ce->softcap > 0) f->k->act->softcap(logits, logits, ce->softcap, vocab);
    float own = logits[target];
    double lse = f->k->softmax->logsumexp(logits, vocab);
    if (gradient) {
        if (ce->softcap > 0) memcpy(raw, logits, vocab * sizeof *raw);
        f->k->softmax->subtract(logits, logits, lse, vocab);
        f->k->act->exp(logits, logits, vocab);
        logits[target] -= 1;
        f->k->act->scale(logits, logits, ce->scale, vocab);
        if (ce->softcap > 0) f->k->grad->softcap(logits, raw, ce->softcap, vocab);
    }
    return (float)(lse - (double)own);
}

void pare_op_cross_entropy(pare_fwd *f, float *nll, const float *y, size_t n, size_t dim,
                           const pare_ce *ce) {
    size_t vocab = ce->head->view.rows, rows = rows_at_once(ce, n);
    pare_fwd_marks mark = pare_fwd_mark(f);
    float *logits = pare_fwd_alloc(f, rows * vocab, sizeof *logits);
    float *raw = ce->softcap > 0 ? pare_fwd_alloc(f, (size_t)f->w->n * vocab, sizeof *raw) : NULL;
    if (raw) raw += (size_t)f->w->id * vocab;
    if (f->tape) {
        size_t bytes = pare_linear_backward_scratch_bytes(rows, vocab, f->w->n, f->compute);
        if (bytes > f->linear_bytes) f->linear_bytes = bytes;
    }
    struct pare_tape *tape = f->tape;
    const pare_leaf *param = tape ? pare_tape_leaf(tape, ce->head->view.part[0]) : NULL;
    float *dy = tape && !pare_fwd_planning(f) ? pare_tape_shadow(f, y) : NULL;
    for (size_t first = 0; first < n; first += rows) {
        size_t m = n - first < rows ? n - first : rows;
        pare_op_out out = {ce->name, ce->head, NULL, logits, vocab, 0, 0};
        f->tape = NULL;
        pare_op_linear(f, pare_fwd_planning(f) ? NULL : y + first * dim, dim, m, dim, &out, 1);
        f->tape = tape;
        if (pare_fwd_planning(f)) continue;
        for (size_t i; (i = pare_take(f->w, 1)) < m;)
            nll[first + i] =
                row_loss(f, logits + i * vocab, raw, ce, ce->targets[first + i], tape != NULL);
        pare_barrier(f->w);
        if (!tape) continue;
        if (param) {
            pare_tensor x = pare_tensor_wrap(pare_encoding_find("f32"), y + first * dim, m, dim);
            pare_linear_backward_weight(f->w, f->isa, f->compute, f->linear_scratch, param->grad,
                                        logits, vocab, vocab, &x, !*param->fresh);
            if (f->w->id == 0) *param->fresh = false;
            pare_barrier(f->w);
        }
        pare_linear_grad in = {ce->head, logits, vocab, 0, 0};
        if (dy)
            pare_linear_backward_input(f->w, f->isa, f->compute, f->linear_scratch,
                                       dy + first * dim, dim, m, &in, 1);
    }
    pare_fwd_release(f, mark);
}
