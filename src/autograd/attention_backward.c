/* The backward half of attention, a tile of queries at a time, so that nothing of size tokens x
 * tokens exists. Of one head, with s = scale q K^T (capped, masked) and p = softmax(s):
 *
 *   dP = dO V^T      dS = p (dP - sum_j p_j dP_j) scale (and the cap's slope)
 *   dQ = dS K        dK += dS^T Q        dV += p^T dO
 *
 * p is computed again from the saved q and k. A task is one key/value head of one sequence, with
 * all query heads that read it: its sums have one order.
 *
 * Where the forward pass multiplies in bf16 (kernels/attention.h) the five products do too, of
 * inputs rounded for each; sums, softmax and its slope stay in f32.
 *
 * Keys and values of a prefix are the first of every sequence. Their gradients are kept apart for
 * each sequence and added up in order; they are parameters (tape.h), found by where they lie. */
#include "autograd/tape.h"
#include "kernels/tile.h"

#include <string.h>

enum { TILE = 64 /* queries */, KEYS = PARE_ATTN_KEYS, NR = PARE_ATTN_NR };

typedef struct attention_span {
    float *dk, *dv;
    size_t n, ldkv;
} attention_span;

/* What stands in front of all sequences of the call. */
typedef struct attention_front {
    size_t n, ld;              /* positions, 0 = none; floats from one to the next */
    const float *rows[2];      /* keys, values: [n][ld], as they lie in the model */
    const pare_leaf *param[2]; /* or NULL: frozen */
} attention_front;

typedef struct attention_record {
    pare_record head;
    pare_attn a;
    attention_front front;
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
    float *halves;              /* in bf16: q and dout, as they are and as panels */
} attention_space;

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static attention_space space_of(pare_arena *arena, int id, int n_threads, size_t longest,
                                size_t head_dim, const pare_attn *a) {
    bool capped = a->softcap > 0;
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
        if (a->bf16) s.halves = pare_arena_alloc(arena, 2 * TILE * s.dim, sizeof(float));
        if (t == id) mine = s;
    }
    return mine;
}

/* Gradients of the prefix from each sequence: [n_spans][keys, values][front][kv_dim]. */
static float *front_space(pare_arena *arena, size_t n_spans, size_t front, size_t kv_dim) {
    return front ? pare_arena_alloc(arena, n_spans * 2 * front * kv_dim, sizeof(float)) : NULL;
}

/* to[n][dim] from head columns of from[n][ld]; zeros in rows [n, rows), and past the head. */
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

/* ---- in bf16: panels are [k / 2][16][2], of which tile.h multiplies one at a time ---- */

/* The level's kernels where this attention goes in bf16, else NULL. */
static const pare_tile_kernels *bf16_kernels(const pare_fwd *f, const attention_record *r) {
    const pare_tile_kernels *k = pare_tile_kernels_get(f->isa);
    return r->a.bf16 && k->bf16 && r->head_dim % 32 == 0 ? k : NULL;
}

static void round_rows(const pare_tile_kernels *k, uint16_t *to, const float *x, size_t n) {
    k->split(&to, 1, x, n);
}

/* Panels of `rows` as right-hand side: [dim / 16][ld / 2][16][2], n <= ld of its rows. */
static void pair_rows(const pare_tile_kernels *k, uint32_t *to, const float *rows, size_t dim,
                      size_t n, size_t ld) {
    for (size_t d = 0; d < dim; d += NR) k->pair_f32(to + d * ld / 2, rows + d, dim, n);
}

/* Panels of their transpose: [n / 16][dim / 2][16][2]. room: [16][dim] bf16 */
static void pack_rows(const pare_tile_kernels *k, uint32_t *to, uint16_t *room, const float *rows,
                      size_t dim, size_t n) {
    for (size_t i = 0; i < n; i += NR) {
        round_rows(k, room, rows + i * dim, NR * dim);
        k->transpose(to + i * dim / 2, (const uint32_t *)room, dim / 2, dim / 2);
    }
}

/* to[n][TILE] = from[TILE][n]^T */
static void turn_rounded(const pare_tile_kernels *k, uint16_t *to, const float *from, size_t n) {
    uint32_t pairs[TILE / 2 * NR] __attribute__((aligned(64)));
    uint32_t block[NR * NR] __attribute__((aligned(64)));
    for (size_t c = 0; c < n; c += NR) {
        k->pair_f32(pairs, from + c, n, TILE);
        for (size_t t = 0; t < TILE; t += 2 * NR) {
            k->transpose(block, pairs + t / 2 * NR, NR, NR);
            for (size_t i = 0; i < NR; i++)
                memcpy(to + (c + i) * TILE + t, block + i * NR, NR * sizeof *block);
        }
    }
}

/* c[m][width] (+)= a[m][k] times panels `step` apart */
static void multiply(const pare_tile_kernels *t, float *c, size_t width, const uint16_t *a,
                     const uint32_t *panels, size_t step, size_t m, size_t k, bool add) {
    for (size_t j = 0; j < width; j += NR)
        t->bf16(c + j, width, a, k, (const uint16_t *)(panels + j / NR * step), m, k, add);
}

/* Where the parts of a space lie: those of f32 have twice the room. */
static uint32_t *key_pairs(const attention_space *s) {
    return (uint32_t *)s->k_packed + s->keys * s->dim / 2;
}
static uint16_t *half_of(const attention_space *s, size_t i) {
    return (uint16_t *)s->halves + i * TILE * s->dim;
}

static void pack_in_bf16(const pare_tile_kernels *t, const attention_space *s, size_t keys) {
    uint16_t *room = (uint16_t *)s->q;
    pack_rows(t, (uint32_t *)s->k_packed, room, s->k, s->dim, keys);
    pack_rows(t, (uint32_t *)s->v_packed, room, s->v, s->dim, keys);
    pair_rows(t, key_pairs(s), s->k, s->dim, keys, s->keys);
}

/* s->p = q K^T, s->ds = dout V^T for n keys from lo on. */
static void scores_in_bf16(const pare_tile_kernels *t, const attention_space *s, size_t lo,
                           size_t n, size_t m) {
    const float *rows[2] = {s->q, s->dout}, *panels[2] = {s->k_packed, s->v_packed};
    float *to[2] = {s->p, s->ds};
    for (size_t i = 0; i < 2; i++) {
        round_rows(t, half_of(s, i), rows[i], TILE * s->dim);
        multiply(t, to[i], n, half_of(s, i), (const uint32_t *)panels[i] + lo * s->dim / 2,
                 s->dim * NR / 2, m, s->dim, false);
    }
}

/* s->dq = ds K, dk += ds^T q, dv += p^T dout. */
static void gradients_in_bf16(const pare_tile_kernels *t, const attention_space *s, size_t lo,
                              size_t n, size_t m) {
    uint16_t *turned = (uint16_t *)s->turned, *ds = turned + s->keys * TILE;
    const float *from[2] = {s->ds, s->p}, *rows[2] = {s->q, s->dout};
    float *to[2] = {s->dk + lo * s->dim, s->dv + lo * s->dim};
    round_rows(t, ds, s->ds, m * n);
    multiply(t, s->dq, s->dim, ds, key_pairs(s) + lo / 2 * NR, s->keys / 2 * NR, m, n, false);
    for (size_t i = 0; i < 2; i++) {
        uint32_t *panels = (uint32_t *)half_of(s, 2 + i);
        pair_rows(t, panels, rows[i], s->dim, TILE, TILE);
        turn_rounded(t, turned, from[i], n);
        multiply(t, to[i], s->dim, turned, panels, TILE / 2 * NR, n, TILE, true);
    }
}

/* ---- in f32 ---- */

static void scores_in_f32(const pare_attn_kernels *k, const attention_space *s, size_t lo, size_t n,
                          size_t m) {
    pare_attn_panels keys = packed(s->k_packed + lo * s->dim, n, s->dim);
    pare_attn_panels values = packed(s->v_packed + lo * s->dim, n, s->dim);
    k->gemm(s->p, n, s->q, s->dim, m, &keys, s->dim, false);
    k->gemm(s->ds, n, s->dout, s->dim, m, &values, s->dim, false);
}

static void gradients_in_f32(const pare_attn_kernels *k, const pare_tile_kernels *tiles,
                             const attention_space *s, size_t lo, size_t n, size_t m) {
    pare_attn_panels k_rows = in_place(s->k + lo * s->dim, s->dim);
    k->gemm(s->dq, s->dim, s->ds, n, m, &k_rows, n, false);
    pare_attn_panels q_rows = in_place(s->q, s->dim), do_rows = in_place(s->dout, s->dim);
    turn(tiles, s->turned, s->ds, n, n);
    k->gemm(s->dk + lo * s->dim, s->dim, s->turned, TILE, n, &q_rows, TILE, true);
    turn(tiles, s->turned, s->p, n, n);
    k->gemm(s->dv + lo * s->dim, s->dim, s->turned, TILE, n, &do_rows, TILE, true);
}

/* ---- tiles and heads ---- */

/* Queries [i0, i0 + m) of head h of one sequence. Keys count from the prefix on. */
static void tile_backward(const pare_fwd *f, const attention_record *r, const attention_space *s,
                          const attention_span *span, size_t row0, size_t h, size_t i0) {
    const pare_attn_kernels *k = f->k->attn;
    const pare_attn *a = &r->a;
    size_t m = span->n - i0 < TILE ? span->n - i0 : TILE, hd = r->head_dim;
    size_t pos = r->front.n + i0;
    size_t lo = a->window && pos + 1 > a->window ? (pos + 1 - a->window) / KEYS * KEYS : 0;
    size_t n = round_up(pos + m, KEYS) - lo;
    float *dout = r->dout + (row0 + i0) * r->ldo + h * hd;
    gather(s->q, TILE, s->dim, r->q + ((row0 + i0) * a->n_heads + h) * hd, a->n_heads * hd, m, hd);
    gather(s->dout, TILE, s->dim, dout, r->ldo, m, hd);

    const pare_tile_kernels *bf16 = bf16_kernels(f, r);
    if (bf16)
        scores_in_bf16(bf16, s, lo, n, m);
    else
        scores_in_f32(k, s, lo, n, m);
    for (size_t i = 0; i < m; i++) {
        float *ds = s->ds + i * n, *capped = s->capped ? s->capped + i * n : NULL;
        probabilities(f, a, s->p + i * n, capped, lo, n, pos + i);
        f->k->grad->softmax(ds, s->p + i * n, a->scale, n);
        if (capped) f->k->grad->softcap(ds, capped, a->softcap, n);
    }
    memset(s->p + m * n, 0, (TILE - m) * n * sizeof *s->p);
    memset(s->ds + m * n, 0, (TILE - m) * n * sizeof *s->ds);

    if (bf16)
        gradients_in_bf16(bf16, s, lo, n, m);
    else
        gradients_in_f32(k, pare_tile_kernels_get(f->isa), s, lo, n, m);
    for (size_t i = 0; i < m; i++) {
        float *dq = r->dq + (row0 + i0 + i) * r->ldq + h * hd;
        f->k->act->add(dq, dq, s->dq + i * s->dim, hd);
        memset(dout + i * r->ldo, 0, hd * sizeof *dout);
    }
}

/* Key/value head g of one sequence, whose rows begin at row0. fronts: the sequence's gradients of
 * the prefix, or NULL. */
static void head_backward(const pare_fwd *f, const attention_record *r, const attention_space *s,
                          const attention_span *span, size_t row0, size_t g, float *fronts) {
    size_t hd = r->head_dim, ld = r->n_kv_heads * hd, group = r->a.n_heads / r->n_kv_heads;
    const attention_front *front = &r->front;
    size_t keys = round_up(front->n + span->n, KEYS), first = front->n * s->dim;
    const float *from[2] = {r->k + row0 * ld + g * hd, r->v + row0 * ld + g * hd};
    float *rows[2] = {s->k, s->v}, *panels[2] = {s->k_packed, s->v_packed};
    const pare_tile_kernels *bf16 = bf16_kernels(f, r);
    for (int i = 0; i < 2; i++) {
        gather(rows[i] + first, keys - front->n, s->dim, from[i], ld, span->n, hd);
        if (front->n)
            gather(rows[i], front->n, s->dim, front->rows[i] + g * hd, front->ld, front->n, hd);
        for (size_t block = 0; !bf16 && block < keys; block += KEYS)
            f->k->attn->pack_k(panels[i] + block * s->dim, rows[i] + block * s->dim, s->dim,
                               s->dim);
    }
    if (bf16) pack_in_bf16(bf16, s, keys);
    memset(s->dk, 0, keys * s->dim * sizeof *s->dk);
    memset(s->dv, 0, keys * s->dim * sizeof *s->dv);
    for (size_t h = g * group; h < (g + 1) * group; h++)
        for (size_t i0 = 0; i0 < span->n; i0 += TILE) tile_backward(f, r, s, span, row0, h, i0);
    for (size_t i = 0; i < span->n; i++) {
        float *dk = span->dk + i * span->ldkv + g * hd, *dv = span->dv + i * span->ldkv + g * hd;
        f->k->act->add(dk, dk, s->dk + first + i * s->dim, hd);
        f->k->act->add(dv, dv, s->dv + first + i * s->dim, hd);
    }
    for (size_t i = 0; fronts && i < front->n; i++) {
        memcpy(fronts + i * ld + g * hd, s->dk + i * s->dim, hd * sizeof *fronts);
        memcpy(fronts + (front->n + i) * ld + g * hd, s->dv + i * s->dim, hd * sizeof *fronts);
    }
}

/* Adds the sequences' gradients of the prefix to its own. */
static void front_backward(pare_fwd *f, const attention_record *r, const float *fronts) {
    size_t count = r->front.n * r->n_kv_heads * r->head_dim, begin, end;
    pare_share(f->w, count, 16, &begin, &end);
    for (size_t i = 0; i < 2; i++) {
        const pare_leaf *p = r->front.param[i];
        if (!p || begin == end) continue;
        if (*p->fresh) memset(p->grad + begin, 0, (end - begin) * sizeof *p->grad);
        for (size_t span = 0; span < r->n_spans; span++)
            f->k->act->add(p->grad + begin, p->grad + begin,
                           fronts + (2 * span + i) * count + begin, end - begin);
    }
    pare_barrier(f->w);
    for (size_t i = 0; i < 2 && f->w->id == 0; i++)
        if (r->front.param[i]) *r->front.param[i]->fresh = false;
    pare_barrier(f->w);
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
        space_of(&work, f->w->id, f->w->n, r->front.n + longest_span(r), r->head_dim, &r->a);
    bool wanted = r->front.param[0] || r->front.param[1];
    size_t kv_dim = r->n_kv_heads * r->head_dim, count = 2 * r->front.n * kv_dim;
    float *fronts = wanted ? front_space(&work, r->n_spans, r->front.n, kv_dim) : NULL;
    for (size_t task; (task = pare_take(f->w, 1)) < r->n_spans * r->n_kv_heads;) {
        size_t row0 = 0, span = task / r->n_kv_heads;
        for (size_t i = 0; i < span; i++) row0 += r->spans[i].n;
        head_backward(f, r, &s, &r->spans[span], row0, task % r->n_kv_heads,
                      fronts ? fronts + span * count : NULL);
    }
    pare_barrier(f->w);
    if (fronts) front_backward(f, r, fronts);
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

static attention_front front_of(const pare_tape *t, const pare_attn_span *span, size_t layer) {
    attention_front front = {.n = pare_attn_span_front(span)};
    if (!front.n) return front;
    const pare_kv_layer *kv = &span->prefix->layers[layer];
    front.ld = kv->row_stride / sizeof(float);
    front.rows[0] = (const float *)(uintptr_t)kv->k;
    front.rows[1] = (const float *)(uintptr_t)kv->v;
    for (size_t i = 0; i < 2; i++) front.param[i] = pare_tape_leaf(t, front.rows[i]);
    return front;
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
    /* a plan's spans may tell the prefix, no more */
    size_t front = spans ? pare_attn_span_front(&spans[0]) : 0, most = n_spans ? n_spans : n;
    pare_arena work = f->tape->work;
    space_of(&work, 0, f->w->n, front + n, head_dim, a);
    front_space(&work, most, front, kv_dim);
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
                            front_of(f->tape, &spans[0], layer),
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
