/* The backward half of linear layers:  dx += dy W,  dW += dy^T x,  db += sum of the rows of dy. */
#include "autograd/tape.h"
#include "tensor/linear.h"

#include <string.h>

typedef struct linear_grad {
    const pare_leaf *w_param, *bias_param;
    pare_tensor w;
    float *dy;
    size_t ldy, width, row0, rows;
    bool keep; /* dy stays: the product was added to what was there */
} linear_grad;

typedef struct linear_record {
    pare_record head;
    pare_tensor x; /* saved input */
    float *dx;     /* NULL: not wanted */
    size_t ldx, n, n_outs;
    linear_grad outs[PARE_OP_MAX_OUTS];
} linear_record;

static const pare_encoding *saved_form(const pare_tape *t) {
    return pare_encoding_find(t->half ? "bf16" : "f32");
}

/* Threads share columns: a sum runs over the rows in order. */
static void bias_backward(pare_fwd *f, const linear_grad *g, size_t n) {
    const pare_leaf *p = g->bias_param;
    size_t begin, end;
    pare_share(f->w, g->width, 16, &begin, &end);
    float *db = p->grad + g->row0;
    if (*p->fresh) memset(db + begin, 0, (end - begin) * sizeof *db);
    for (size_t i = 0; i < n && begin < end; i++)
        f->k->act->add(db + begin, db + begin, g->dy + i * g->ldy + begin, end - begin);
    pare_barrier(f->w);
}

/* What is said once the gradients of a call are complete. */
static void not_fresh(const pare_fwd *f, const pare_leaf *p) {
    if (p && f->w->id == 0) *p->fresh = false;
}

static void linear_backward(pare_fwd *f, pare_record *record) {
    const linear_record *r = (linear_record *)record;
    for (size_t o = 0; o < r->n_outs; o++) {
        const linear_grad *g = &r->outs[o];
        if (g->bias_param) bias_backward(f, g, r->n);
        if (g->w_param)
            pare_linear_backward_weight(f->w, f->isa, f->compute, f->linear_scratch,
                                        g->w_param->grad + g->row0 * g->w_param->cols, g->dy,
                                        g->ldy, g->width, &r->x, !*g->w_param->fresh,
                                        g->w_param->live, g->row0);
        pare_linear_grad in = {&g->w, g->dy, g->ldy, g->row0, g->rows};
        if (r->dx)
            pare_linear_backward_input(f->w, f->isa, f->compute, f->linear_scratch, r->dx, r->ldx,
                                       r->n, &in, 1);
    }
    size_t begin, end;
    pare_share(f->w, r->n, 1, &begin, &end);
    for (size_t o = 0; o < r->n_outs; o++) {
        const linear_grad *g = &r->outs[o];
        for (size_t i = begin; i < end && !g->keep; i++)
            memset(g->dy + i * g->ldy, 0, g->width * sizeof *g->dy);
        not_fresh(f, g->w_param);
        not_fresh(f, g->bias_param);
    }
    pare_barrier(f->w);
}

/* The input is needed for gradients of matrices only. A plan that knows no leaves is for any. */
static bool wants_input(const pare_tape *t, const pare_op_out *outs, size_t n_outs) {
    for (size_t o = 0; t->leaves && o < n_outs; o++)
        if (pare_tape_leaf(t, outs[o].w->view.part[0])) return true;
    return !t->leaves;
}

void pare_tape_linear(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                      const pare_op_out *outs, size_t n_outs) {
    linear_record *r = pare_tape_push(f, sizeof *r, linear_backward);
    const pare_encoding *form = saved_form(f->tape);
    size_t row_bytes = pare_encoding_row_bytes(form, in);
    uint8_t *saved = NULL;
    if (wants_input(f->tape, outs, n_outs)) saved = pare_tape_save(f, n * row_bytes + 64, 1);
    size_t width_max = 0;
    for (size_t o = 0; o < n_outs; o++) {
        size_t width = outs[o].rows ? outs[o].rows : outs[o].w->view.rows;
        if (width > width_max) width_max = width;
    }
    size_t bytes = pare_linear_backward_scratch_bytes(n, width_max, f->w->n, f->compute);
    if (bytes > f->linear_bytes) f->linear_bytes = bytes;
    if (!r) return;
    size_t begin, end;
    pare_share(f->w, n, 1, &begin, &end);
    const pare_encode_kernels *k = pare_encode_kernels_get(f->isa);
    for (size_t i = begin; saved && i < end; i++)
        form->encode_row(k, saved + i * row_bytes, x + i * ldx, in, NULL);
    if (f->w->id != 0) return;
    r->x = pare_tensor_wrap(form, saved, n, in);
    r->dx = pare_tape_shadow(f, x);
    r->ldx = ldx;
    r->n = n;
    r->n_outs = n_outs;
    for (size_t o = 0; o < n_outs; o++) {
        const pare_op_out *out = &outs[o];
        r->outs[o] =
            (linear_grad){.w_param = pare_tape_leaf(f->tape, out->w->view.part[0]),
                          .bias_param = out->bias ? pare_tape_leaf(f->tape, out->bias) : NULL,
                          .w = *out->w,
                          .dy = pare_tape_shadow(f, out->y),
                          .ldy = out->ldy,
                          .width = out->rows ? out->rows : out->w->view.rows,
                          .row0 = out->row0,
                          .rows = out->rows,
                          .keep = out->accumulate};
    }
}
