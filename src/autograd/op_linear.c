/* The linear operator: hooks and quantized inputs around tensor/linear.h. */
#include "autograd/ops.h"

#include "autograd/tape.h"

#include "tensor/linear.h"

/* y += scale b (a x): operators as any other, so that a tape sees them. Probes are about the matrix
 * beside, and so is a quantized input. */
static void add_adapter(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                        const pare_op_out *out) {
    const pare_adapter *p = out->adapter;
    size_t rank = p->a.view.rows;
    pare_fwd plain = *f;
    plain.probe = NULL;
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

/* --- quantized inputs --- */

/* What a pass of quantized inputs takes: x on its grid, and the grids. */
typedef struct act_space {
    float *x;              /* [n][in] */
    pare_act_grid *grids;  /* [n] */
    pare_act_range *range; /* [threads] */
} act_space;

static act_space act_alloc(pare_fwd *f, const pare_act_site *site, size_t n, size_t in) {
    act_space s = {0};
    if (!site) return s;
    s.x = pare_fwd_alloc(f, n * in, sizeof *s.x);
    s.grids = pare_fwd_alloc_rows(f, n, 1, sizeof *s.grids);
    s.range = pare_fwd_alloc(f, (size_t)f->w->n, sizeof *s.range);
    return s;
}

/* Calibration: every thread widens its own range. */
static void act_observe(pare_fwd *f, const pare_act_site *site, const float *x, size_t ldx,
                        size_t n, size_t in) {
    size_t begin, end;
    pare_share(f->w, n, 1, &begin, &end);
    pare_act_range *r = &site->seen[f->w->id];
    *r = pare_act_range_join(*r, pare_act_range_of(f->isa, x + begin * ldx, ldx, end - begin, in));
}

/* The grids of x. One row is looked at by every thread for itself: that costs less than a barrier.
 */
static pare_linear_grids act_grids(pare_fwd *f, const pare_act_site *site, const act_space *s,
                                   const float *x, size_t ldx, size_t n, size_t in) {
    const pare_act_scheme *a = site->scheme;
    bool wide = a->bits == 8;
    if (a->granularity == PARE_ACT_PER_TENSOR_STATIC)
        return (pare_linear_grids){&site->grid, 0, wide};
    bool per_token = a->granularity == PARE_ACT_PER_TOKEN, own = pare_fwd_owns(f, n);
    size_t begin = 0, end = n;
    if (!own) pare_share(f->w, n, 1, &begin, &end);
    pare_act_range all = pare_act_range_none;
    for (size_t i = begin; i < end; i++) {
        pare_act_range r = pare_act_range_of(f->isa, x + i * ldx, ldx, 1, in);
        if (per_token) s->grids[i] = pare_act_grid_of(a, r);
        all = pare_act_range_join(all, r);
    }
    if (per_token) {
        if (!own) pare_barrier(f->w);
        return (pare_linear_grids){s->grids, 1, wide};
    }
    if (!own) {
        s->range[f->w->id] = all;
        pare_barrier(f->w);
        for (int t = 0; t < f->w->n; t++) all = pare_act_range_join(all, s->range[t]);
    }
    if (own || f->w->id == 0) s->grids[0] = pare_act_grid_of(a, all);
    if (!own) pare_barrier(f->w);
    return (pare_linear_grids){s->grids, 0, wide};
}

/* y[n][ldy] = x on the grids; y may be x. */
static void act_apply(pare_fwd *f, const pare_act_site *site, pare_linear_grids g, float *y,
                      size_t ldy, const float *x, size_t ldx, size_t n, size_t in) {
    size_t begin, end;
    pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        pare_act_quantize_rows(site->scheme, g.grid + i * g.step, f->isa, y + i * ldy, ldy,
                               x + i * ldx, ldx, 1, in);
    pare_barrier(f->w);
}

/* Every thread counts in the rows that act_apply would give it. */
static void act_count(pare_fwd *f, const pare_act_site *site, const float *x, size_t ldx, size_t n,
                      size_t in) {
    if (!site->counts || site->scheme->granularity != PARE_ACT_PER_TENSOR_STATIC) return;
    size_t begin, end;
    pare_share(f->w, n, 1, &begin, &end);
    pare_act_count *count = &site->counts[f->w->id];
    count->n += (end - begin) * in;
    count->clamped += pare_act_clamped(&site->grid, x + begin * ldx, ldx, end - begin, in);
}

/* Do all the matrices take x as codes of its grid, multiplied as integers? */
static bool act_as_codes(const pare_fwd *f, const pare_act_site *site, const pare_op_out *outs,
                         const pare_linear_out *list, size_t n_outs, size_t n, bool wide) {
    bool all = site->scheme->formula != PARE_ACT_PAPER_EQ4;
    for (size_t i = 0; i < n_outs && all; i++)
        all = (!wide || outs[i].codes) && pare_linear_takes_grids(f->isa, &list[i], n, wide);
    return all && f->compute == PARE_COMPUTE_FAST;
}

void pare_op_act_quantize(pare_fwd *f, const pare_act_site *site, float *x, size_t ldx, size_t n,
                          size_t width) {
    if (!site) return;
    pare_fwd_marks mark = pare_fwd_mark(f);
    act_space s = act_alloc(f, site, n, 0);
    if (pare_fwd_planning(f)) {
    } else if (site->seen) {
        act_observe(f, site, x, ldx, n, width);
    } else {
        pare_linear_grids g = act_grids(f, site, &s, x, ldx, n, width);
        act_count(f, site, x, ldx, n, width);
        if (pare_fwd_owns(f, n)) pare_barrier(f->w); /* all have looked before it changes */
        act_apply(f, site, g, x, ldx, x, ldx, n, width);
    }
    pare_fwd_release(f, mark);
}

/* --- the operator --- */

static void plan(pare_fwd *f, const pare_act_site *site, size_t n, size_t in) {
    for (int c = 0; c < 2; c++) { /* a quantized input may be multiplied in f32 */
        pare_compute compute = c ? PARE_COMPUTE_EXACT : f->compute;
        if (c && !site) break;
        size_t bytes = pare_linear_scratch_bytes(n, in, f->w->n, compute);
        if (bytes > f->linear_bytes) f->linear_bytes = bytes;
    }
}

void pare_op_linear(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t in,
                    const pare_op_out *outs, size_t n_outs) {
    size_t alike = 1; /* that take x the same way: a file may leave some of them unquantized */
    while (alike < n_outs && outs[alike].act == outs[0].act) alike++;
    if (alike < n_outs) {
        pare_op_linear(f, x, ldx, n, in, outs, alike);
        pare_op_linear(f, x, ldx, n, in, outs + alike, n_outs - alike);
        return;
    }
    pare_fwd_marks mark = pare_fwd_mark(f);
    const pare_act_site *site = n_outs ? outs[0].act : NULL;
    act_space s = act_alloc(f, site, n, in);
    if (f->tape) pare_tape_linear(f, x, ldx, n, in, outs, n_outs);
    if (pare_fwd_planning(f)) {
        if (f->probe) f->probe(f, f->probe_arg, outs, n_outs, NULL, ldx, n, in);
        plan(f, site, n, in);
        pare_fwd_release(f, mark);
        add_adapters(f, NULL, ldx, n, in, outs, n_outs);
        return;
    }
    if (f->probe) {
        bool go_on = f->probe(f, f->probe_arg, outs, n_outs, x, ldx, n, in);
        pare_barrier(f->w);
        if (!go_on) {
            pare_fwd_release(f, mark);
            return;
        }
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
                                    .accumulate = outs[i].accumulate,
                                    .row_sums = outs[i].row_sums};
    const float *product_x = x;
    size_t product_ld = ldx;
    pare_linear_grids grids = {0};
    pare_compute compute = f->compute;
    if (site && site->seen) {
        act_observe(f, site, x, ldx, n, in);
    } else if (site) {
        grids = act_grids(f, site, &s, x, ldx, n, in);
        act_count(f, site, x, ldx, n, in);
        if (!act_as_codes(f, site, outs, list, n_outs, n, grids.wide)) {
            act_apply(f, site, grids, s.x, in, x, ldx, n, in);
            product_x = s.x;
            product_ld = in;
            grids.grid = NULL;
            compute = PARE_COMPUTE_EXACT; /* `fast` would round x again, in its own steps */
        }
    }
    pare_linear_forward(f->w, f->isa, compute, f->linear_scratch, product_x, product_ld, n,
                        grids.grid ? &grids : NULL, list, n_outs);
    pare_fwd_release(f, mark);
    add_adapters(f, x, ldx, n, in, outs, n_outs);
}
