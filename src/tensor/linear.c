/* The entry point, and the path that multiplies weights as they are stored: every weight is read
 * once, so the loop over weight rows is outermost and all n inputs ride along. */
#include "kernels/packed.h"
#include "tensor/linear_job.h"

#include <string.h>

/* --- weights to codes and to f32 --- */

void pare_linear_codes(const pare_linear_job *job, int8_t *q, float *scale, float *offset,
                       const pare_tensor *t, size_t row, size_t col, size_t n) {
    pare_codes_fn codes = t->enc->packed ? NULL : job->unpack->codes[t->enc->dot];
    (codes ? codes : t->enc->codes)(q, scale, offset, &t->view, row, col, n);
}

void pare_linear_decode(const pare_linear_job *job, float *w, const pare_tensor *t, size_t row,
                        size_t col, size_t n) {
    const pare_encoding *e = t->enc;
    if (!e->codes) {
        pare_decode_fn decode = job->unpack->decode[e->dotf];
        (decode ? decode : e->decode)(w, &t->view, row, col, n);
        return;
    }
    enum { PIECE = PARE_TILE_KC };
    int8_t q[PIECE];
    float scale[PIECE / 16], offset[PIECE / 16];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t k = n - i < PIECE ? n - i : PIECE;
        pare_linear_codes(job, q, scale, offset, t, row, col + i, k);
        job->unpack->expand(w + i, q, scale, e->has_offset ? offset : NULL, e->code_group, k);
    }
}

/* --- weights as they are --- */

enum { SLAB = 512 /* inputs at a time, at most */ };

/* One input is quantized by every thread for itself: that costs less than a barrier. More are
 * shared out. */
static bool own_act(size_t n) { return n == 1; }

static void few_plan(pare_arena *arena, pare_act *a, int id, size_t n, size_t in, int n_threads) {
    for (int t = 0; t < (own_act(n) ? n_threads : 1); t++) {
        pare_act act;
        void *base = pare_arena_alloc(arena, pare_act_place(&act, NULL, n, in), 1);
        if (base && (t == id || !own_act(n))) pare_act_place(a, base, n, in);
    }
}

size_t pare_linear_few_bytes(size_t n, size_t in, int n_threads) {
    size_t counts[2] = {1, n < SLAB ? n : SLAB}, bytes = 0; /* one row has a layout of its own */
    for (int i = 0; i < 2; i++) {
        pare_arena arena = {.capacity = SIZE_MAX};
        pare_act a;
        few_plan(&arena, &a, 0, counts[i], in, n_threads);
        if (arena.peak > bytes) bytes = arena.peak;
    }
    return bytes;
}

/* A kernel for this form with inputs in int8: dense codes have one when they are packed. */
static bool has_int8_kernel(const pare_encoding *e) {
    return e->dot != PARE_DOT_NONE && (e->packed || pare_packed_formats[e->dot].bits == 0);
}

static bool takes_int8(const pare_linear_job *job, const pare_linear_out *o) {
    return job->compute == PARE_COMPUTE_FAST && has_int8_kernel(o->w->enc);
}

static void few_quantize(pare_worker *w, const pare_linear_job *job, pare_act *a) {
    bool wanted = false;
    for (size_t o = 0; o < job->n_outs; o++) wanted |= takes_int8(job, &job->outs[o]);
    if (!wanted) return;
    size_t begin = 0, end = job->n;
    if (!own_act(job->n)) pare_share(w, job->n, 1, &begin, &end);
    pare_act rows = pare_act_row(a, begin);
    const float *x = job->x + begin * job->ldx;
    if (job->grids.grid && begin < end)
        pare_act_quantize_grid(&rows, job->act, job->grids.grid + begin * job->grids.step,
                               job->grids.step, x, job->ldx, end - begin, job->in);
    else if (begin < end)
        job->dots->quantize(&rows, x, job->ldx, end - begin, job->in);
    a->wide = job->grids.grid && job->grids.wide;
    a->n = job->n;
    if (!own_act(job->n)) pare_barrier(w);
}

/* What a thread takes at once: so many rows of the weights times so many of x, whose codes stay in
 * the first level of cache with `block` of them at a time. */
typedef struct few_items {
    size_t rows, n, block;
    size_t n_chunks, n_items; /* chunks of rows; items: groups of x times chunks */
} few_items;

enum {
    CHUNK_BYTES = 24576,     /* of weights, for few rows of x: enough to pay for taking it */
    RESIDENT_BYTES = 262144, /* of weights, for many: what stays in the second level meanwhile */
    BLOCK_BYTES = 12288,     /* of x */
    GROUP = 64,              /* rows of x */
    ITEMS = 8                /* a thread, to spread the work evenly */
};

static size_t clamp(size_t v, size_t low, size_t high) {
    return v < low ? low : v > high ? high : v;
}

/* Rows in multiples of 16: packed panels, and two threads rarely write to one cache line. */
static few_items plan_items(const pare_worker *w, const pare_linear_job *job,
                            const pare_linear_out *o, size_t rows) {
    const pare_tensor *t = o->w;
    size_t bytes = 0;
    for (size_t i = 0; i < PARE_MAX_PARTS; i++) bytes += t->part_bytes[i];
    size_t row_bytes = t->view.rows ? bytes / t->view.rows + 1 : 1;
    few_items s = {.rows = clamp(CHUNK_BYTES / row_bytes, 16, 256), .n = job->n, .block = job->n};
    if (job->n > PARE_DOT_MAX_N) {
        s.n = clamp(job->n, 1, GROUP);
        s.block = BLOCK_BYTES / (job->in * (takes_int8(job, o) ? 1 : sizeof(float))) / 8 * 8;
        s.block = clamp(s.block, 8, s.n);
        size_t groups = (job->n + s.n - 1) / s.n,
               chunks = (ITEMS * (size_t)w->n + groups - 1) / groups;
        s.rows = clamp(RESIDENT_BYTES / row_bytes, 16, clamp(rows / chunks, 16, SIZE_MAX));
    }
    s.rows = s.rows / 16 * 16;
    s.n_chunks = (rows + s.rows - 1) / s.rows;
    s.n_items = s.n_chunks * ((job->n + s.n - 1) / s.n);
    return s;
}

/* The rows that are asked for, of packed panels: their first is the first of a panel. */
static pare_view view_of(const pare_linear_out *o) {
    pare_view v = o->w->view;
    if (!o->rows) return v;
    size_t panels = o->row0 / PARE_PACKED_NR;
    v.part[0] =
        (const uint8_t *)v.part[0] + panels * pare_packed_panel_bytes(*o->w->enc->packed, v.cols);
    v.rows = o->rows;
    return v;
}

/* Rows [begin, end) of the weights times n rows of x from `first` on. */
static void few_block(const pare_linear_job *job, const pare_act *a, const pare_linear_out *o,
                      const pare_view *v, size_t begin, size_t end, size_t first, size_t n) {
    const pare_encoding *enc = o->w->enc;
    float *y = o->y + first * o->ldy;
    if (takes_int8(job, o)) {
        pare_act part;
        const pare_act *rows = a;
        if (n < job->n) {
            part = pare_act_row(a, first);
            part.n = n;
            rows = &part;
        }
        job->dots->dot[enc->dot](y, o->ldy, v, begin, end, rows);
    } else {
        job->dots->dotf[enc->dotf](y, o->ldy, v, begin, end, job->x + first * job->ldx, job->ldx,
                                   n);
    }
    for (size_t i = 0; o->bias && i < n; i++)
        for (size_t r = begin; r < end; r++) y[i * o->ldy + r] += o->bias[o->row0 + r];
    for (size_t i = 0; job->grids.grid && i < n; i++) {
        float by = pare_linear_moved(job, first + i);
        if (by == 0.0f) continue;
        for (size_t r = begin; r < end; r++) y[i * o->ldy + r] += by * o->row_sums[o->row0 + r];
    }
}

static void few_item(const pare_linear_job *job, const pare_act *a, const pare_linear_out *o,
                     const pare_view *v, const few_items *s, size_t item) {
    size_t begin = item % s->n_chunks * s->rows, first = item / s->n_chunks * s->n;
    size_t end = begin + clamp(v->rows - begin, 0, s->rows);
    size_t last = first + clamp(job->n - first, 0, s->n);
    for (; first < last; first += s->block)
        few_block(job, a, o, v, begin, end, first, clamp(last - first, 0, s->block));
}

static void few_slab(pare_worker *w, const pare_linear_job *job) {
    pare_act a;
    pare_arena arena = {.base = job->scratch, .capacity = SIZE_MAX};
    few_plan(&arena, &a, w->id, job->n, job->in, w->n);
    few_quantize(w, job, &a);
    for (size_t o = 0; o < job->n_outs; o++) {
        const pare_linear_out *out = &job->outs[o];
        pare_view v = view_of(out);
        few_items items = plan_items(w, job, out, v.rows);
        size_t item;
        for (pare_near loop = {0}; pare_take_near(w, &loop, items.n_items, &item);)
            few_item(job, &a, out, &v, &items, item);
    }
    pare_barrier(w);
}

void pare_linear_few(pare_worker *w, const pare_linear_job *job) {
    pare_linear_out outs[PARE_LINEAR_MAX_OUTS];
    pare_linear_job slab = *job;
    memcpy(outs, job->outs, job->n_outs * sizeof *outs);
    slab.outs = outs;
    for (size_t row = 0; row < job->n; row += slab.n) {
        slab.n = job->n - row < SLAB ? job->n - row : SLAB;
        slab.x = job->x + row * job->ldx;
        if (slab.grids.grid) slab.grids.grid = job->grids.grid + row * job->grids.step;
        for (size_t o = 0; o < job->n_outs; o++)
            outs[o].y = job->outs[o].y + row * job->outs[o].ldy;
        few_slab(w, &slab);
    }
}

/* --- the entry point --- */

/* Largest n for which multiplying the weights as they are is the faster way, measured on Zen 3 and,
 * with AVX-512, on Zen 4; packed_max_n and two_four_max_n: of the level. Without a kernel of its
 * own a matrix is better off as panels even for one row. */
static size_t few_rows(const pare_encoding *enc, bool int8, size_t packed_max_n,
                       size_t two_four_max_n) {
    if (!int8 && enc->dotf == PARE_DOTF_NONE) return 0;
    if (enc->packed && enc->packed->two_four && enc->packed->table) return two_four_max_n;
    if (enc->packed) return packed_max_n;
    if (int8) return PARE_DOT_MAX_N;
    bool plain =
        enc->dotf == PARE_DOTF_f32 || enc->dotf == PARE_DOTF_f16 || enc->dotf == PARE_DOTF_bf16;
    return plain ? 4 : 8;
}

size_t pare_linear_alike_rows(const pare_encoding *enc) {
    size_t exact = few_rows(enc, false, 0, PARE_DOT_MAX_N),
           fast = few_rows(enc, has_int8_kernel(enc), PARE_DOT_MAX_N, PARE_DOT_MAX_N);
    if (exact == 0) exact = PARE_DOT_MAX_N; /* panels for any n */
    if (fast == 0) fast = PARE_DOT_MAX_N;
    return exact < fast ? exact : fast;
}

enum { EXPANDING_PAYS = 128 };

static bool takes_few(const pare_linear_job *job, const pare_linear_out *o) {
    if (o->rows && !o->w->enc->packed) return false; /* the kernels write whole rows of y */
    size_t n = o->many && job->n <= PARE_DOT_MAX_N ? PARE_DOT_MAX_N + 1 : job->n;
    size_t packed_max_n = job->dots->packed_max_n;
    /* where there are enough to pay for expanding, products of bf16 outdo half of those in f32 */
    if (o->w->enc->dotf == PARE_DOTF_nm24_bf16 && job->compute == PARE_COMPUTE_FAST &&
        job->tiles->bf16 && packed_max_n > EXPANDING_PAYS)
        packed_max_n = EXPANDING_PAYS;
    return n <= few_rows(o->w->enc, takes_int8(job, o), packed_max_n, job->dots->two_four_max_n);
}

/* Matrices that go by lists of their single weights: masked ones in f32. */
static bool goes_by_weight(const pare_linear_job *job, const pare_linear_out *o,
                           const pare_live *l) {
    return l && (o->transposed ? l->dx_by_weight : l->y_by_weight) && job->tiles->weights &&
           !job->tiles->bf16_first && o->w->enc->dotf == PARE_DOTF_f32 &&
           pare_live_takes_rows(job->n);
}

/* Codes of grids: kernels that are exact for every code of w and all of x from -128 on. */
static bool is_safe(const pare_encoding *e, bool wide) {
    if (!e->packed || e->dot == PARE_DOT_NONE) return false;
    const pare_packed *p = e->packed;
    return !wide || (!p->two_four && p->table == PARE_TABLE_NONE);
}

bool pare_linear_takes_grids(pare_isa isa, const pare_linear_out *out, size_t n, bool wide) {
    const pare_act_grid none = {0};
    const pare_linear_job job = {.dots = pare_dot_kernels_get(isa),
                                 .tiles = pare_tile_kernels_get(isa),
                                 .compute = PARE_COMPUTE_FAST,
                                 .n = n,
                                 .grids = {&none, 0, wide}};
    if (!is_safe(out->w->enc, wide)) return false;
    return takes_few(&job, out) || pare_linear_takes_codes(&job, out);
}

size_t pare_linear_scratch_bytes(size_t n, size_t in_max, int n_threads, pare_compute compute) {
    size_t few = pare_linear_few_bytes(n, in_max, n_threads);
    size_t many = pare_linear_many_bytes(n, in_max, n_threads, compute);
    return few > many ? few : many;
}

void pare_linear_forward(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                         const float *x, size_t ldx, size_t n, const pare_linear_grids *grids,
                         const pare_linear_out *outs, size_t n_outs) {
    if (n == 0 || n_outs == 0) return;
    pare_linear_out list[PARE_LINEAR_MAX_OUTS];
    pare_linear_job job = {.dots = pare_dot_kernels_get(isa),
                           .tiles = pare_tile_kernels_get(isa),
                           .unpack = pare_unpack_kernels_get(isa),
                           .act = pare_act_grid_kernels_get(isa),
                           .compute = compute,
                           .scratch = scratch,
                           .x = x,
                           .ldx = ldx,
                           .n = n,
                           .in = outs[0].w->view.cols,
                           .outs = list};
    if (grids) job.grids = *grids;
    for (int way = 0; way < 3; way++) { /* few rows, single weights, panels */
        job.n_outs = 0;
        job.by_weight = way == 1;
        for (size_t o = 0; o < n_outs; o++) {
            bool few = takes_few(&job, &outs[o]),
                 by_weight = !few && goes_by_weight(&job, &outs[o], outs[o].w->live);
            if (way == (few ? 0 : by_weight ? 1 : 2)) list[job.n_outs++] = outs[o];
        }
        if (job.n_outs) (way == 0 ? pare_linear_few : pare_linear_many)(w, &job);
    }
}

/* --- backward --- */

static pare_linear_job many_job(pare_isa isa, pare_compute compute, void *scratch) {
    return (pare_linear_job){.dots = pare_dot_kernels_get(isa),
                             .tiles = pare_tile_kernels_get(isa),
                             .unpack = pare_unpack_kernels_get(isa),
                             .compute = compute,
                             .scratch = scratch,
                             .n_outs = 1};
}

size_t pare_linear_backward_scratch_bytes(size_t n, size_t out_max, int n_threads,
                                          pare_compute compute) {
    size_t input = pare_linear_many_bytes(n, out_max, n_threads, compute);
    size_t weight = pare_linear_many_bytes(out_max, n, n_threads, compute);
    return input > weight ? input : weight;
}

void pare_linear_backward_input(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                                float *dx, size_t lddx, size_t n, const pare_linear_grad *grads,
                                size_t n_grads) {
    for (size_t i = 0; i < n_grads && n; i++) {
        const pare_linear_grad *g = &grads[i];
        pare_tensor t = *g->w;
        if (g->rows) {
            t.view.part[0] = (const uint8_t *)t.view.part[0] + g->row0 * t.view.row_bytes;
            t.view.rows = g->rows;
        }
        pare_linear_out out = {
            .w = &t, .y = dx, .ldy = lddx, .transposed = true, .accumulate = true};
        pare_linear_job job = many_job(isa, compute, scratch);
        job.x = g->dy;
        job.ldx = g->lddy;
        job.n = n;
        job.in = t.view.rows;
        job.outs = &out;
        job.live = t.live;
        job.live_row0 = g->rows ? g->row0 : 0;
        job.by_weight = goes_by_weight(&job, &out, t.live);
        pare_linear_many(w, &job);
    }
}

void pare_linear_backward_weight(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                                 float *dw, const float *dy, size_t lddy, size_t out,
                                 const pare_tensor *x, bool add, const pare_live *live,
                                 size_t row0) {
    if (!x->view.rows && !add && w->id == 0) memset(dw, 0, out * x->view.cols * sizeof *dw);
    pare_linear_out to = {
        .w = x, .y = dw, .ldy = x->view.cols, .transposed = true, .accumulate = add};
    pare_linear_job job = many_job(isa, compute, scratch);
    job.x = dy;
    job.ldx = lddy;
    job.x_transposed = true;
    job.n = out;
    job.in = x->view.rows;
    job.outs = &to;
    job.live = live;
    job.live_row0 = row0;
    if (x->view.rows)
        pare_linear_many(w, &job);
    else
        pare_barrier(w);
}
