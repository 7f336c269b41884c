/* The entry point, and the path for few rows: every weight is read once, so the loop over weight
 * rows is outermost and all n inputs ride along. */
#include "tensor/linear_job.h"

#include <string.h>

/* --- weights to codes and to f32 --- */

void pare_linear_codes(const pare_linear_job *job, int8_t *q, float *scale, float *offset,
                       const pare_tensor *t, size_t row, size_t col, size_t n) {
    pare_codes_fn codes = job->unpack->codes[t->enc->dot];
    (codes ? codes : t->enc->codes)(q, scale, offset, &t->view, row, col, n);
}

void pare_linear_decode(const pare_linear_job *job, float *w, const pare_tensor *t, size_t row,
                        size_t col, size_t n) {
    const pare_encoding *e = t->enc;
    if (!e->codes) {
        e->decode(w, &t->view, row, col, n);
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

/* --- few rows --- */

/* The inputs in int8, of each kind; shared, or this thread's own. */
typedef struct few_space {
    pare_act act[PARE_ACT_KINDS];
} few_space;

/* One input is quantized by every thread for itself: that costs less than a barrier. More are
 * shared out. */
static bool own_act(size_t n) { return n == 1; }

static void few_plan(pare_arena *arena, few_space *s, int id, size_t n, size_t in, int n_threads) {
    for (int t = 0; t < (own_act(n) ? n_threads : 1); t++)
        for (int kind = 0; kind < PARE_ACT_KINDS; kind++) {
            pare_act act;
            size_t bytes = pare_act_place(&act, NULL, (pare_act_kind)kind, n, in);
            void *base = pare_arena_alloc(arena, bytes, 1);
            if (base && (t == id || !own_act(n)))
                pare_act_place(&s->act[kind], base, (pare_act_kind)kind, n, in);
        }
}

size_t pare_linear_few_bytes(size_t n, size_t in, int n_threads) {
    size_t counts[2] = {1, n}, bytes = 0; /* one row has a layout of its own */
    for (int i = 0; i < 2; i++) {
        pare_arena arena = {.capacity = SIZE_MAX};
        few_space s;
        few_plan(&arena, &s, 0, counts[i], in, n_threads);
        if (arena.peak > bytes) bytes = arena.peak;
    }
    return bytes;
}

static bool takes_int8(const pare_linear_job *job, const pare_linear_out *o) {
    return job->compute == PARE_COMPUTE_FAST && o->w->enc->dot != PARE_DOT_NONE;
}

/* Quantizes the inputs once for each kind that an encoding asks for. */
static void few_quantize(pare_worker *w, const pare_linear_job *job, few_space *s) {
    bool shared = false;
    for (int kind = 0; kind < PARE_ACT_KINDS; kind++) {
        bool wanted = false;
        for (size_t o = 0; o < job->n_outs; o++)
            wanted |= takes_int8(job, &job->outs[o]) &&
                      (int)job->dots->act[job->outs[o].w->enc->dot] == kind;
        if (!wanted) continue;
        size_t begin = 0, end = job->n;
        if (!own_act(job->n)) {
            pare_share(w, job->n, 1, &begin, &end);
            shared = true;
        }
        pare_act rows = s->act[kind];
        rows.q += begin * rows.q_stride;
        rows.d += begin * rows.d_stride;
        rows.sum16 += begin * rows.sum_stride;
        if (begin < end)
            job->dots->quantize[kind](&rows, job->x + begin * job->ldx, job->ldx, end - begin,
                                      job->in);
        s->act[kind].n = job->n;
    }
    if (shared) pare_barrier(w);
}

/* Rows of a chunk: enough bytes to pay for taking it, few enough to spread a small matrix. A
 * multiple of 16, so that two threads rarely write to one cache line. */
static size_t chunk_rows(const pare_tensor *t) {
    size_t bytes = 0;
    for (size_t i = 0; i < PARE_MAX_PARTS; i++) bytes += t->part_bytes[i];
    size_t rows = t->view.rows ? 24576 / (bytes / t->view.rows + 1) : 0;
    return rows < 16 ? 16 : rows > 256 ? 256 : rows / 16 * 16;
}

static void few_chunk(const pare_linear_job *job, const few_space *s, const pare_linear_out *o,
                      size_t begin, size_t end) {
    const pare_encoding *enc = o->w->enc;
    if (takes_int8(job, o))
        job->dots->dot[enc->dot](o->y, o->ldy, &o->w->view, begin, end,
                                 &s->act[job->dots->act[enc->dot]]);
    else
        job->dots->dotf[enc->dotf](o->y, o->ldy, &o->w->view, begin, end, job->x, job->ldx, job->n);
    if (!o->bias) return;
    for (size_t i = 0; i < job->n; i++)
        for (size_t r = begin; r < end; r++) o->y[i * o->ldy + r] += o->bias[r];
}

void pare_linear_few(pare_worker *w, const pare_linear_job *job) {
    few_space s;
    pare_arena arena = {.base = job->scratch, .capacity = SIZE_MAX};
    few_plan(&arena, &s, w->id, job->n, job->in, w->n);
    few_quantize(w, job, &s);
    size_t first = 0; /* number of the first chunk of matrix o */
    size_t o = 0, next = pare_take(w, 1);
    while (o < job->n_outs) {
        const pare_linear_out *out = &job->outs[o];
        size_t rows = out->w->view.rows, chunk = chunk_rows(out->w);
        size_t n_chunks = (rows + chunk - 1) / chunk;
        if (next >= first + n_chunks) {
            first += n_chunks;
            o++;
            continue;
        }
        size_t begin = (next - first) * chunk;
        few_chunk(job, &s, out, begin, rows - begin < chunk ? rows : begin + chunk);
        next = pare_take(w, 1);
    }
    pare_barrier(w);
}

/* --- the entry point --- */

/* Largest n for which reading each weight with a dot kernel is the faster way, measured on Zen 3.
 * Without a kernel of its own a matrix is better off as panels even for one row. */
static size_t few_rows(const pare_encoding *enc, bool int8) {
    if (int8) return PARE_DOT_MAX_N;
    if (enc->dotf == PARE_DOTF_NONE) return 0;
    bool plain =
        enc->dotf == PARE_DOTF_f32 || enc->dotf == PARE_DOTF_f16 || enc->dotf == PARE_DOTF_bf16;
    return plain ? 4 : 8;
}

size_t pare_linear_alike_rows(const pare_encoding *enc) {
    size_t exact = few_rows(enc, false), fast = few_rows(enc, enc->dot != PARE_DOT_NONE);
    if (exact == 0) exact = PARE_DOT_MAX_N; /* panels for any n */
    if (fast == 0) fast = PARE_DOT_MAX_N;
    return exact < fast ? exact : fast;
}

static size_t few_limit(const pare_linear_job *job) {
    size_t limit = PARE_DOT_MAX_N;
    for (size_t o = 0; o < job->n_outs; o++) {
        if (job->outs[o].rows) return 0; /* the kernels write whole rows of y */
        size_t most = few_rows(job->outs[o].w->enc, takes_int8(job, &job->outs[o]));
        if (most < limit) limit = most;
    }
    return limit;
}

size_t pare_linear_scratch_bytes(size_t n, size_t in_max, int n_threads, pare_compute compute) {
    size_t few = pare_linear_few_bytes(n < PARE_DOT_MAX_N ? n : PARE_DOT_MAX_N, in_max, n_threads);
    size_t many = pare_linear_many_bytes(n, in_max, n_threads, compute);
    return few > many ? few : many;
}

void pare_linear_forward(pare_worker *w, pare_isa isa, pare_compute compute, void *scratch,
                         const float *x, size_t ldx, size_t n, const pare_linear_out *outs,
                         size_t n_outs) {
    if (n == 0 || n_outs == 0) return;
    pare_linear_job job = {.dots = pare_dot_kernels_get(isa),
                           .tiles = pare_tile_kernels_get(isa),
                           .unpack = pare_unpack_kernels_get(isa),
                           .compute = compute,
                           .scratch = scratch,
                           .x = x,
                           .ldx = ldx,
                           .n = n,
                           .in = outs[0].w->view.cols,
                           .outs = outs,
                           .n_outs = n_outs};
    if (n <= few_limit(&job))
        pare_linear_few(w, &job);
    else
        pare_linear_many(w, &job);
}
