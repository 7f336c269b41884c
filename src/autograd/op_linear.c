/* The linear operator: hooks around tensor/linear.h. */
#include "autograd/ops.h"

#include "autograd/tape.h"

#include "tensor/linear.h"

/* y += scale b (a x): operators as any other, so that a tape sees them. Probes and quantizers are
 * about the matrix beside. */
static void add_adapter(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                        const pare_op_out *out) {
    const pare_adapter *p = out->adapter;
    size_t rank = p->a.view.rows;
    pare_fwd plain = *f;
    plain.probe = NULL;
    plain.act_quant = NULL;
    pare_fwd_marks mark = pare_fwd_mark(&plain);
    float *t = pare_fwd_alloc(&plain, n * rank, sizeof *t);
    pare_op_out down = {.name = out->name, .w = &p->a, .y = t, .ldy = rank};
    pare_op_out up = {.name = out->name,
                      .w = &p->b,
                      .y = out->y,
                      .ldy = out->ldy,
                      .row0 = out->row0,
                      .rows = out->rows,
                      .accumulate = true};
    pare_op_linear(&plain, x, ldx, n, in, &down, 1);
    pare_op_scale(&plain, t, t, p->scale, n, rank);
    pare_op_linear(&plain, t, rank, n, rank, &up, 1);
    pare_fwd_release(&plain, mark);
    f->arena = plain.arena; /* what a plan found */
    f->linear_bytes = plain.linear_bytes;
}

static void add_adapters(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                         const pare_op_out *outs, size_t n_outs) {
    for (size_t i = 0; i < n_outs; i++)
        if (outs[i].adapter) add_adapter(f, x, ldx, n, in, &outs[i]);
}

void pare_op_linear(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                    const pare_op_out *outs, size_t n_outs) {
    pare_fwd_marks mark = pare_fwd_mark(f);
    float *quantized = NULL;
    if (f->act_quant) quantized = pare_fwd_alloc(f, n * in, sizeof *quantized);
    if (f->tape) pare_tape_linear(f, x, ldx, n, in, outs, n_outs);
    if (pare_fwd_planning(f)) {
        size_t bytes = pare_linear_scratch_bytes(n, in, f->w->n, f->compute);
        if (bytes > f->linear_bytes) f->linear_bytes = bytes;
        pare_fwd_release(f, mark);
        add_adapters(f, NULL, ldx, n, in, outs, n_outs);
        return;
    }
    if (f->probe) {
        bool go_on = f->probe(f->w, f->probe_arg, outs, n_outs, x, ldx, n, in);
        pare_barrier(f->w); /* the probe may change what the quantizer uses */
        if (!go_on) {
            pare_fwd_release(f, mark);
            return;
        }
    }
    const float *given = x;
    size_t ld_given = ldx;
    if (f->act_quant) {
        size_t begin, end;
        pare_share(f->w, n, 1, &begin, &end);
        f->act_quant(f->act_quant_arg, outs[0].name, quantized, x, ldx, begin, end, in);
        pare_barrier(f->w);
        x = quantized;
        ldx = in;
    }
    pare_linear_out list[PARE_OP_MAX_OUTS];
    for (size_t i = 0; i < n_outs; i++)
        list[i] = (pare_linear_out){.w = outs[i].w,
                                    .bias = outs[i].bias,
                                    .y = outs[i].y,
                                    .ldy = outs[i].ldy,
                                    .row0 = outs[i].row0,
                                    .rows = outs[i].rows,
                                    .many = f->many || outs[i].accumulate,
                                    .accumulate = outs[i].accumulate};
    pare_linear_forward(f->w, f->isa, f->compute, f->linear_scratch, x, ldx, n, list, n_outs);
    pare_fwd_release(f, mark);
    add_adapters(f, given, ld_given, n, in, outs, n_outs);
}
