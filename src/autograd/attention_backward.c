/* The backward half of attention, a tile of queries at a time, so that nothing of size tokens x
 * tokens exists. Of one head, with s = scale q K^T (capped, masked) and p = softmax(s):
 *
 *   dP = dO V^T      dS = p (dP - sum_j p_j dP_j) scale (and the cap's slope)
 *   dQ = dS K        dK += dS^T Q        dV += p^T dO
 *
 * p is computed again from the saved q and k. A task is one key/value head of one sequence, with
 * all query heads that read it: its sums have one order. */
#include "autograd/tape.h"
#include "kernels/tile.h"

#include <string.h>

enum { TILE = 64 /* queries */, KEYS = PARE_ATTN_KEYS, NR = PARE_ATTN_NR };

typedef struct attention_span {
    float *dk, *dv;
    size_t n, ldkv;
} attention_span;

typedef struct attention_record {
    pare_record head;
    pare_attn a;
    size_t n_kv_heads, head_dim, n_spans, n;
    float *dout, *dq;
    size_t ldo, ldq;
    const float *q, *k, *v; /* saved: [n][heads][head_dim] */
    attention_span *spans;
} attention_record;

/* One thread's memory; widths are padded to whole panels, keys to whole blocks. */
typedef struct attention_space {
    size_t keys, dim;
    float *k, *v;               /* [keys][dim] */
    float *k_packed, *v_packed; /* as rows of panels: [keys / 16][dim][16] */
    float *dk, *dv;             /* [keys][dim] */
    float *q, *dout, *dq;       /* [TILE][dim] */
    float *p, *ds, *capped;     /* [TILE][keys] */
    float *turned;              /* [keys][TILE] */
} attention_space;

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static attention_space space_of(pare_arena *arena, int id, int n_threads, size_t longest,
                                size_t head_dim, bool capped) {
    attention_space mine = {0};
    for (int t = 0; t < n_threads; t++) {
        attention_space s = {.keys = round_up(longest, KEYS), .dim = round_up(head_dim, NR)};
        float **matrices[] = {&s.k, &s.v, &s.k_packed, &s.v_packed, &s.dk, &s.dv};
        for (size_t i = 0; i < 6; i++)
            *matrices[i] = pare_arena_alloc(arena, s.keys * s.dim, sizeof(float));
        float **rows[] = {&s.q, &s.dout, &s.dq};
        for (size_t i = 0; i < 3; i++)
            *rows[i] = pare_arena_alloc(arena, TILE * s.dim, sizeof(float));
        float **scores[] = {&s.p, &s.ds, &s.turned, &s.capped};
        for (size_t i = 0; i < (capped ? 4 : 3); i++)
            *scores[i] = pare_arena_alloc(arena, TILE * s.keys, sizeof(float));
        if (t == id) mine = s;
    }
    return mine;
}

/* to[rows][dim] from head columns of from[n][ld], zeros around. */
static void gather(float *to, size_t rows, size_t dim, const float *from, size_t ld, size_t n,
                   size_t head_dim) {
    memset(to, 0, rows * dim * sizeof *to);
    for (size_t i = 0; i < n; i++) memcpy(to + i * dim, from + i * ld, head_dim * sizeof *to);
}

/* to[n][TILE] = from[TILE][ld]^T, n a multiple of 16. */
static void turn(const pare_tile_kernels *k, float *to, const float *from, size_t ld, size_t n) {
    float block[NR * NR] __attribute__((aligned(64)));
    for (size_t r = 0; r < TILE; r += NR)
        for (size_t c = 0; c < n; c += NR) {
            k->transpose((uint32_t *)block, (const uint32_t *)(from + r * ld + c), ld, NR);
            for (size_t i = 0; i < NR; i++)
                memcpy(to + (c + i) * TILE + r, block + i * NR, NR * sizeof *to);
        }
}

static pare_attn_panels packed(const float *b, size_t n, size_t dim) {
    return (pare_attn_panels){b, n / NR, NR, dim * NR};
}
static pare_attn_panels in_place(const float *b, size_t dim) {
    return (pare_attn_panels){b, dim / NR, dim, NR};
}

/* Probabilities of query i from its scores of keys lo.. on, `n` of them held; others get 0. */
static void probabilities(const pare_fwd *f, const pare_attn *a, float *s, float *capped, size_t lo,
                          size_t n, size_t i) {
    size_t first = a->window && i + 1 > a->window ? i + 1 - a->window : 0, last = i + 1;
    size_t from = first > lo ? first - lo : 0, to = last - lo;
    memset(s, 0, from * sizeof *s);
    memset(s + to, 0, (n - to) * sizeof *s);
    float scale = a->scale;
    if (capped) {
        f->k->act->scale(s + from, s + from, scale, to - from);
        f->k->act->softcap(s + from, s + from, a->softcap, to - from);
        memset(capped, 0, n * sizeof *capped);
        memcpy(capped + from, s + from, (to - from) * sizeof *s);
        scale = 1;
    }
    f->k->softmax->softmax(s + from, s + from, scale, to - from);
}

/* Queries [i0, i0 + m) of head h of one sequence. */
static void tile_backward(const pare_fwd *f, const attention_record *r, const attention_space *s,
                          const attention_span *span, size_t row0, size_t h, size_t i0) {
    const pare_attn_kernels *k = f->k->attn;
    const pare_attn *a = &r->a;
    size_t m = span->n - i0 < TILE ? span->n - i0 : TILE, hd = r->head_dim;
    size_t lo = a->window && i0 + 1 > a->window ? (i0 + 1 - a->window) / KEYS * KEYS : 0;
    size_t n = round_up(i0 + m, KEYS) - lo;
    float *dout = r->dout + (row0 + i0) * r->ldo + h * hd;
    gather(s->q, TILE, s->dim, r->q + ((row0 + i0) * a->n_heads + h) * hd, a->n_heads * hd, m, hd);
    gather(s->dout, TILE, s->dim, dout, r->ldo, m, hd);

    pare_attn_panels keys = packed(s->k_packed + lo * s->dim, n, s->dim);
    pare_attn_panels values = packed(s->v_packed + lo * s->dim, n, s->dim);
    k->gemm(s->p, n, s->q, s->dim, m, &keys, s->dim, false);
    k->gemm(s->ds, n, s->dout, s->dim, m, &values, s->dim, false);
    for (size_t i = 0; i < m; i++) {
        float *ds = s->ds + i * n, *capped = s->capped ? s->capped + i * n : NULL;
        probabilities(f, a, s->p + i * n, capped, lo, n, i0 + i);
        f->k->grad->softmax(ds, s->p + i * n, a->scale, n);
        if (capped) f->k->grad->softcap(ds, capped, a->softcap, n);
    }
    memset(s->p + m * n, 0, (TILE - m) * n * sizeof *s->p);
    memset(s->ds + m * n, 0, (TILE - m) * n * sizeof *s->ds);

    pare_attn_panels k_rows = in_place(s->k + lo * s->dim, s->dim);
    k->gemm(s->dq, s->dim, s->ds, n, m, &k_rows, n, false);
    for (size_t i = 0; i < m; i++) {
        float *dq = r->dq + (row0 + i0 + i) * r->ldq + h * hd;
        f->k->act->add(dq, dq, s->dq + i * s->dim, hd);
        memset(dout + i * r->ldo, 0, hd * sizeof *dout);
    }
    const pare_tile_kernels *tiles = pare_tile_kernels_get(f->isa);
    pare_attn_panels q_rows = in_place(s->q, s->dim), do_rows = in_place(s->dout, s->dim);
    turn(tiles, s->turned, s->ds, n, n);
    k->gemm(s->dk + lo * s->dim, s->dim, s->turned, TILE, n, &q_rows, TILE, true);
    turn(tiles, s->turned, s->p, n, n);
    k->gemm(s->dv + lo * s->dim, s->dim, s->turned, TILE, n, &do_rows, TILE, true);
}

/* Key/value head g of one sequence, whose rows begin at row0. */
static void head_backward(const pare_fwd *f, const attention_record *r, const attention_space *s,
                          const attention_span *span, size_t row0, size_t g) {
    size_t hd = r->head_dim, ld = r->n_kv_heads * hd, group = r->a.n_heads / r->n_kv_heads;
    size_t keys = round_up(span->n, KEYS);
    const float *from[2] = {r->k + row0 * ld + g * hd, r->v + row0 * ld + g * hd};
    float *rows[2] = {s->k, s->v}, *panels[2] = {s->k_packed, s->v_packed};
    for (int i = 0; i < 2; i++) {
        gather(rows[i], keys, s->dim, from[i], ld, span->n, hd);
        for (size_t block = 0; block < keys; block += KEYS)
            f->k->attn->pack_k(panels[i] + block * s->dim, rows[i] + block * s->dim, s->dim,
                               s->dim);
    }
    memset(s->dk, 0, keys * s->dim * sizeof *s->dk);
    memset(s->dv, 0, keys * s->dim * sizeof *s->dv);
    for (size_t h = g * group; h < (g + 1) * group; h++)
        for (size_t i0 = 0; i0 < span->n; i0 += TILE) tile_backward(f, r, s, span, row0, h, i0);
    for (size_t i = 0; i < span->n; i++) {
        float *dk = span->dk + i * span->ldkv + g * hd, *dv = span->dv + i * span->ldkv + g * hd;
        f->k->act->add(dk, dk, s->dk + i * s->dim, hd);
        f->k->act->add(dv, dv, s->dv + i * s->dim, hd);
    }
}

static size_t longest_span(const attention_record *r) {
    size_t longest = 0;
    for (size_t i = 0; i < r->n_spans; i++)
        if (r->spans[i].n > longest) longest = r->spans[i].n;
    return longest;
}

static void attention_backward(pare_fwd *f, pare_record *record) {
    const attention_record *r = (attention_record *)record;
    pare_arena work = f->tape->work;
    attention_space s =
        space_of(&work, f->w->id, f->w->n, longest_span(r), r->head_dim, r->a.softcap > 0);
    for (size_t task; (task = pare_take(f->w, 1)) < r->n_spans * r->n_kv_heads;) {
        size_t row0 = 0, span = task / r->n_kv_heads;
        for (size_t i = 0; i < span; i++) row0 += r->spans[i].n;
        head_backward(f, r, &s, &r->spans[span], row0, task % r->n_kv_heads);
    }
    pare_barrier(f->w);
}

/* saved[n][width] = rows of width values. */
static float *save_rows(pare_fwd *f, const float *x, size_t ld, size_t n, size_t width) {
    float *saved = pare_tape_save(f, n * width, sizeof *saved);
    size_t begin, end;
    pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; saved && x && i < end; i++)
        memcpy(saved + i * width, x + i * ld, width * sizeof *saved);
    return saved;
}

void pare_tape_attention(pare_fwd *f, const float *out, size_t ldo, const float *q, size_t ldq,
                         const pare_attn_span *spans, size_t n_spans, size_t layer,
                         const pare_attn *a, size_t n_kv_heads, size_t head_dim, size_t n) {
    attention_record *r = pare_tape_push(f, sizeof *r, attention_backward);
    size_t q_dim = a->n_heads * head_dim, kv_dim = n_kv_heads * head_dim;
    /* keys and values of all spans lie in one buffer: forward.c; a plan has neither */
    const pare_kv_layer *first = r ? &spans[0].layers[layer] : NULL;
    size_t ldkv = r ? first->row_stride / sizeof(float) : 0;
    const float *k = r ? (const float *)(uintptr_t)first->k : NULL,
                *v = r ? (const float *)(uintptr_t)first->v : NULL;
    const float *saved_q = save_rows(f, q, ldq, n, q_dim),
                *saved_k = save_rows(f, k, ldkv, n, kv_dim),
                *saved_v = save_rows(f, v, ldkv, n, kv_dim);
    attention_span *list = pare_tape_save(f, n_spans ? n_spans : n, sizeof *list);
    pare_arena work = f->tape->work;
    space_of(&work, 0, f->w->n, n, head_dim, a->softcap > 0);
    if (work.peak > f->tape->work.peak) f->tape->work.peak = work.peak;
    if (!r || f->w->id != 0) return;
    for (size_t i = 0; i < n_spans; i++) {
        const pare_kv_layer *kv = &spans[i].layers[layer];
        list[i] = (attention_span){pare_tape_shadow(f, kv->k), pare_tape_shadow(f, kv->v),
                                   spans[i].n, ldkv};
    }
    pare_record head = r->head;
    *r = (attention_record){head,
                            *a,
                            n_kv_heads,
                            head_dim,
                            n_spans,
                            n,
                            pare_tape_shadow(f, out),
                            pare_tape_shadow(f, q),
                            ldo,
                            ldq,
                            saved_q,
                            saved_k,
                            saved_v,
                            list};
}
