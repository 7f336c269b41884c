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

/* Room of one thread for a row. */
typedef struct row_space {
    float *raw;  /* capped logits, with a cap */
    float *soft; /* the student's probabilities, with a teacher */
} row_space;

/* The teacher's logits t become (1 - hard) T scale (softmax(z / T) - P); returns its part of the
 * loss. */
static double soften(const pare_fwd *f, float *t, float *soft, const float *logits,
                     const pare_ce *ce) {
    const pare_teacher *teacher = ce->teacher;
    size_t vocab = ce->head->view.rows;
    float inverse = 1 / teacher->temperature, part = 1 - teacher->hard;
    if (teacher->softcap > 0) f->k->act->softcap(t, t, teacher->softcap, vocab);
    f->k->softmax->softmax(t, t, inverse, vocab);
    f->k->act->scale(soft, logits, inverse, vocab);
    double lse = f->k->softmax->logsumexp(soft, vocab), along = 0;
    for (size_t i = 0; i < vocab; i++) along += (double)t[i] * (double)soft[i];
    f->k->softmax->subtract(soft, soft, lse, vocab);
    f->k->act->exp(soft, soft, vocab);
    float factor = part * teacher->temperature * ce->scale;
    f->k->act->scale(t, t, -factor, vocab);
    f->k->grad->axpy(t, soft, factor, vocab);
    return (double)part * (double)teacher->temperature * (double)teacher->temperature *
           (lse - along);
}

/* Logits of one row become scale times the gradient of the loss, which is returned. t: the
 * teacher's logits, or NULL. */
static float row_loss(const pare_fwd *f, float *logits, float *t, const row_space *own,
                      const pare_ce *ce, int32_t target, bool gradient) {
    size_t vocab = ce->head->view.rows;
    float hard = t ? ce->teacher->hard : 1;
    if (target < 0) {
        memset(logits, 0, vocab * sizeof *logits);
        return 0;
    }
    if (own->raw) {
        f->k->act->softcap(logits, logits, ce->softcap, vocab);
        memcpy(own->raw, logits, vocab * sizeof *logits);
    }
    double soft = t && own->soft ? soften(f, t, own->soft, logits, ce) : 0;
    float right = logits[target];
    double lse = f->k->softmax->logsumexp(logits, vocab);
    if (gradient) {
        f->k->softmax->subtract(logits, logits, lse, vocab);
        f->k->act->exp(logits, logits, vocab);
        logits[target] -= 1;
        f->k->act->scale(logits, logits, hard * ce->scale, vocab);
        if (t) f->k->act->add(logits, logits, t, vocab);
        if (own->raw) f->k->grad->softcap(logits, own->raw, ce->softcap, vocab);
    }
    return (float)((double)hard * (lse - (double)right) + soft);
}

void pare_op_cross_entropy(pare_fwd *f, float *nll, const float *y, size_t n, size_t dim,
                           const pare_ce *ce) {
    size_t vocab = ce->head->view.rows, rows = rows_at_once(ce, n);
    pare_fwd_marks mark = pare_fwd_mark(f);
    float *logits = pare_fwd_alloc(f, rows * vocab, sizeof *logits);
    size_t threads = (size_t)f->w->n, mine = (size_t)f->w->id * vocab;
    const pare_teacher *teacher = ce->teacher;
    row_space own = {0};
    if (ce->softcap > 0) own.raw = pare_fwd_alloc(f, threads * vocab, sizeof(float));
    if (teacher) own.soft = pare_fwd_alloc(f, threads * vocab, sizeof(float));
    if (own.raw) own.raw += mine;
    if (own.soft) own.soft += mine;
    float *taught = teacher ? pare_fwd_alloc(f, rows * vocab, sizeof *taught) : NULL;
    if (f->tape) {
        size_t bytes = pare_linear_backward_scratch_bytes(rows, vocab, f->w->n, f->compute);
        if (bytes > f->linear_bytes) f->linear_bytes = bytes;
    }
    struct pare_tape *tape = f->tape;
    const pare_leaf *param = tape ? pare_tape_leaf(tape, ce->head->view.part[0]) : NULL;
    float *dy = tape && !pare_fwd_planning(f) ? pare_tape_shadow(f, y) : NULL;
    for (size_t first = 0; first < n; first += rows) {
        size_t m = n - first < rows ? n - first : rows;
        pare_op_out out = {.name = ce->name, .w = ce->head, .y = logits, .ldy = vocab};
        f->tape = NULL;
        pare_op_linear(f, pare_fwd_planning(f) ? NULL : y + first * dim, dim, m, dim, &out, 1);
        if (teacher) {
            const float *from = pare_fwd_planning(f) ? NULL : teacher->y + first * teacher->dim;
            pare_op_out out_t = {
                .name = teacher->name, .w = teacher->head, .y = taught, .ldy = vocab};
            pare_op_linear(f, from, teacher->dim, m, teacher->dim, &out_t, 1);
        }
        f->tape = tape;
        if (pare_fwd_planning(f)) continue;
        for (size_t i; (i = pare_take(f->w, 1)) < m;)
            nll[first + i] = row_loss(f, logits + i * vocab, taught ? taught + i * vocab : NULL,
                                      &own, ce, ce->targets[first + i], tape != NULL);
        pare_barrier(f->w);
        if (!tape) continue;
        if (param) {
            pare_tensor x = pare_tensor_wrap(pare_encoding_find("f32"), y + first * dim, m, dim);
            pare_linear_backward_weight(f->w, f->isa, f->compute, f->linear_scratch, param->grad,
                                        logits, vocab, vocab, &x, !*param->fresh, param->live, 0);
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
