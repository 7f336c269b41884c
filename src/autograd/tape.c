#include "autograd/tape.h"

#include <string.h>

/* Values that a thread takes at once in element-wise operators, as in ops.c: a thread saves the
 * values that it is about to overwrite. */
enum { GRAIN = 256 };

float *pare_tape_shadow(const pare_fwd *f, const void *p) {
    uintptr_t at = (uintptr_t)p - (uintptr_t)f->arena.base;
    return p && at < f->arena.capacity ? (float *)(f->tape->shadow + at) : NULL;
}

const pare_leaf *pare_tape_leaf(const pare_tape *t, const void *key) {
    size_t low = 0, high = t->n_leaves;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if ((uintptr_t)t->leaves[mid].key < (uintptr_t)key)
            low = mid + 1;
        else
            high = mid;
    }
    return low < t->n_leaves && t->leaves[low].key == key ? &t->leaves[low] : NULL;
}

void *pare_tape_save(pare_fwd *f, size_t count, size_t size) {
    return pare_arena_alloc(&f->tape->saves, count, size);
}

void *pare_tape_push(pare_fwd *f, size_t bytes, void (*backward)(pare_fwd *, pare_record *)) {
    pare_tape *t = f->tape;
    pare_record *r = pare_tape_save(f, 1, bytes);
    if (!r) return NULL;
    if (f->w->id == 0) *r = (pare_record){backward, t->last};
    t->last = r;
    return r;
}

void pare_tape_backward(pare_fwd *f, pare_tape_mark until) {
    pare_tape *t = f->tape;
    if (!pare_fwd_planning(f)) {
        pare_barrier(f->w); /* records of thread 0 */
        while (t->last != until.last) {
            pare_record *r = t->last;
            r->backward(f, r);
            t->last = r->prev;
        }
    }
    t->saves.used = until.used;
}

/* Fills the fields of a record that only thread 0 writes. */
#define FILL(record, type, ...)                                                                    \
    do {                                                                                           \
        if ((record) && f->w->id == 0) {                                                           \
            pare_record head_ = (record)->head;                                                    \
            *(record) = (type){__VA_ARGS__};                                                       \
            (record)->head = head_;                                                                \
        }                                                                                          \
    } while (0)

typedef struct note_record {
    pare_record head;
    void (*fn)(void *arg, size_t number);
    void *arg;
    size_t number;
} note_record;

/* The operator behind it ended with a barrier. */
static void note_backward(pare_fwd *f, pare_record *record) {
    const note_record *r = (note_record *)record;
    if (f->w->id == 0) r->fn(r->arg, r->number);
}

void pare_tape_note(pare_fwd *f, void (*fn)(void *arg, size_t number), void *arg, size_t number) {
    note_record *r = pare_tape_push(f, sizeof *r, note_backward);
    FILL(r, note_record, .fn = fn, .arg = arg, .number = number);
}

/* A parameter's gradient is about to be added to: what a pass before left is forgotten where it is
 * fresh. Every thread calls it for its own part [begin, end) and passes a barrier before done(). */
static float *param_grad(const pare_leaf *p, size_t begin, size_t end) {
    if (*p->fresh) memset(p->grad + begin, 0, (end - begin) * sizeof *p->grad);
    return p->grad;
}
static void param_done(pare_fwd *f, const pare_leaf *p) {
    pare_barrier(f->w);
    if (p && f->w->id == 0) *p->fresh = false;
    pare_barrier(f->w);
}

/* ---- embeddings ---- */

typedef struct embed_record {
    pare_record head;
    const pare_leaf *param;
    float *dy;
    const int32_t *ids; /* rows of the table; or the positions of spans, as ids of their own */
    size_t n, dim;
    float scale;
    bool keep; /* dy stays: the row was added to what was there */
} embed_record;

/* Threads share columns, so that a row that is looked up twice has its sum in order. */
static void embed_backward(pare_fwd *f, pare_record *record) {
    embed_record *r = (embed_record *)record;
    size_t begin, end;
    pare_share(f->w, r->dim, 16, &begin, &end);
    if (r->param) {
        if (*r->param->fresh)
            for (size_t row = 0; row < r->param->rows; row++)
                param_grad(r->param, row * r->dim + begin, row * r->dim + end);
        for (size_t i = 0; i < r->n && begin < end; i++)
            f->k->grad->axpy(r->param->grad + (size_t)r->ids[i] * r->dim + begin,
                             r->dy + i * r->dim + begin, r->scale, end - begin);
    }
    if (!r->keep)
        for (size_t i = 0; i < r->n && begin < end; i++)
            memset(r->dy + i * r->dim + begin, 0, (end - begin) * sizeof(float));
    param_done(f, r->param);
}

void pare_tape_embed(pare_fwd *f, const float *y, const pare_tensor *table, const int32_t *ids,
                     size_t n, size_t dim, float scale) {
    embed_record *r = pare_tape_push(f, sizeof *r, embed_backward);
    FILL(r, embed_record, .param = pare_tape_leaf(f->tape, table->view.part[0]),
         .dy = pare_tape_shadow(f, y), .ids = ids, .n = n, .dim = dim, .scale = scale);
}

void pare_tape_positions(pare_fwd *f, const float *x, const pare_tensor *table,
                         const pare_attn_span *spans, size_t offset, size_t n, size_t dim) {
    embed_record *r = pare_tape_push(f, sizeof *r, embed_backward);
    int32_t *ids = pare_tape_save(f, n, sizeof *ids);
    if (ids && f->w->id == 0)
        for (size_t i = 0; i < n; i++) {
            size_t at = i;
            const pare_attn_span *span = pare_attn_span_of(spans, &at);
            ids[i] = (int32_t)(pare_attn_span_front(span) + span->pos0 + at + offset);
        }
    FILL(r, embed_record, .param = pare_tape_leaf(f->tape, table->view.part[0]),
         .dy = pare_tape_shadow(f, x), .ids = ids, .n = n, .dim = dim, .scale = 1, .keep = true);
}

/* ---- norms ---- */

typedef struct norm_record {
    pare_record head;
    const pare_leaf *g_param, *b_param;
    const float *g;
    float *dy, *dx, *dr; /* dr NULL: nothing was added */
    const float *x;      /* [n][n_heads][dim], as it was normalised */
    float *moments;      /* [n][n_heads][2]: mean, 1 / rms */
    size_t ldy, ldx, n, n_heads, dim;
    bool rms;
} norm_record;

static void norm_backward(pare_fwd *f, pare_record *record) {
    const norm_record *r = (norm_record *)record;
    size_t rows = r->n * r->n_heads, begin, end;
    if (r->g_param || r->b_param) { /* before dy is taken; threads share columns */
        float *scratch = NULL;      /* for a vector of which no gradient is wanted */
        pare_arena work = f->tape->work;
        if (!r->g_param) scratch = pare_arena_alloc(&work, r->dim, sizeof *scratch);
        pare_share(f->w, r->dim, 16, &begin, &end);
        float *dg = r->g_param ? param_grad(r->g_param, begin, end) : scratch;
        float *db = r->b_param ? param_grad(r->b_param, begin, end) : NULL;
        for (size_t j = 0; j < rows && begin < end; j++)
            f->k->grad->norm_weights(
                dg + begin, db ? db + begin : NULL,
                r->dy + j / r->n_heads * r->ldy + j % r->n_heads * r->dim + begin,
                r->x + j * r->dim + begin, r->moments[2 * j], r->moments[2 * j + 1], end - begin);
        param_done(f, r->g_param);
        param_done(f, r->b_param);
    }
    pare_share(f->w, rows, 1, &begin, &end);
    for (size_t j = begin; j < end; j++) {
        size_t i = j / r->n_heads, h = j % r->n_heads * r->dim;
        float *dx = r->dx + i * r->ldx + h;
        f->k->grad->norm(dx, r->dy + i * r->ldy + h, r->x + j * r->dim, r->g, r->moments[2 * j],
                         r->moments[2 * j + 1], r->dim, !r->rms);
        if (r->dr) f->k->act->add(r->dr + j * r->dim, r->dr + j * r->dim, dx, r->dim);
    }
    pare_barrier(f->w);
}

void pare_tape_norm(pare_fwd *f, const float *y, size_t ldy, const float *x, size_t ldx,
                    const float *added, const float *g, const float *b, size_t n, size_t n_heads,
                    size_t dim, float eps, bool rms) {
    norm_record *r = pare_tape_push(f, sizeof *r, norm_backward);
    size_t rows = n * n_heads, begin, end;
    float *saved = pare_tape_save(f, rows * dim, sizeof *saved);
    float *moments = pare_tape_save(f, rows * 2, sizeof *moments);
    pare_arena work = f->tape->work;
    pare_arena_alloc(&work, dim, sizeof(float));
    if (work.peak > f->tape->work.peak) f->tape->work.peak = work.peak;
    if (!r) return;
    pare_share(f->w, rows, 1, &begin, &end);
    for (size_t j = begin; j < end; j++) {
        const float *from = x + j / n_heads * ldx + j % n_heads * dim;
        if (added)
            f->k->act->add(saved + j * dim, from, added + j * dim, dim);
        else
            memcpy(saved + j * dim, from, dim * sizeof *saved);
        f->k->grad->moments(moments + 2 * j, moments + 2 * j + 1, saved + j * dim, dim, eps, rms);
    }
    FILL(r, norm_record, .g_param = pare_tape_leaf(f->tape, g),
         .b_param = b ? pare_tape_leaf(f->tape, b) : NULL, .g = g, .dy = pare_tape_shadow(f, y),
         .dx = pare_tape_shadow(f, x), .dr = added ? pare_tape_shadow(f, added) : NULL, .x = saved,
         .moments = moments, .ldy = ldy, .ldx = ldx, .n = n, .n_heads = n_heads, .dim = dim,
         .rms = rms);
}

/* ---- element-wise ---- */

typedef struct element_record {
    pare_record head;
    pare_tape_act kind;
    float *dy, *da, *db;
    const float *a, *b; /* saved */
    size_t count;
    float scale;
} element_record;

static void activation_backward(pare_fwd *f, pare_record *record) {
    const element_record *r = (element_record *)record;
    const pare_grad_kernels *k = f->k->grad;
    size_t i, end;
    pare_share(f->w, r->count, GRAIN, &i, &end);
    switch (r->kind) {
    case PARE_TAPE_SILU_MUL:
        k->silu_mul(r->da + i, r->db + i, r->dy + i, r->a + i, r->b + i, end - i);
        break;
    case PARE_TAPE_GELU_MUL:
        k->gelu_mul(r->da + i, r->db + i, r->dy + i, r->a + i, r->b + i, end - i);
        break;
    case PARE_TAPE_GELU:
        k->gelu(r->da + i, r->dy + i, r->a + i, end - i);
        break;
    case PARE_TAPE_RELU:
        k->relu(r->da + i, r->dy + i, r->a + i, end - i);
        break;
    }
    pare_barrier(f->w);
}

static float *save_part(pare_fwd *f, const float *x, size_t count) {
    float *saved = pare_tape_save(f, count, sizeof *saved);
    if (!saved) return NULL;
    size_t begin, end;
    pare_share(f->w, count, GRAIN, &begin, &end);
    memcpy(saved + begin, x + begin, (end - begin) * sizeof *saved);
    return saved;
}

void pare_tape_activation(pare_fwd *f, pare_tape_act kind, const float *y, const float *a,
                          const float *b, size_t count) {
    element_record *r = pare_tape_push(f, sizeof *r, activation_backward);
    const float *saved_a = save_part(f, a, count);
    bool two = kind == PARE_TAPE_SILU_MUL || kind == PARE_TAPE_GELU_MUL;
    const float *saved_b = two ? save_part(f, b, count) : NULL;
    FILL(r, element_record, .kind = kind, .dy = pare_tape_shadow(f, y),
         .da = pare_tape_shadow(f, a), .db = two ? pare_tape_shadow(f, b) : NULL, .a = saved_a,
         .b = saved_b, .count = count);
}

/* y = a + b; in place where da is dy: it goes through. */
static void sum_backward(pare_fwd *f, pare_record *record) {
    const element_record *r = (element_record *)record;
    size_t i, end;
    pare_share(f->w, r->count, GRAIN, &i, &end);
    size_t n = end - i;
    float *other = r->db == r->dy ? r->da : r->db;
    bool in_place = r->da == r->dy || r->db == r->dy;
    if (other != r->dy) {
        f->k->act->add(other + i, other + i, r->dy + i, n);
        if (!in_place) f->k->grad->scale(r->da + i, r->dy + i, 1, n);
    } else { /* y = y + y */
        f->k->act->scale(r->dy + i, r->dy + i, 2, n);
    }
    pare_barrier(f->w);
}

void pare_tape_sum(pare_fwd *f, const float *y, const float *a, const float *b, size_t count) {
    element_record *r = pare_tape_push(f, sizeof *r, sum_backward);
    FILL(r, element_record, .dy = pare_tape_shadow(f, y), .da = pare_tape_shadow(f, a),
         .db = pare_tape_shadow(f, b), .count = count);
}

static void scale_backward(pare_fwd *f, pare_record *record) {
    const element_record *r = (element_record *)record;
    size_t i, end;
    pare_share(f->w, r->count, GRAIN, &i, &end);
    f->k->grad->scale(r->da + i, r->dy + i, r->scale, end - i);
    pare_barrier(f->w);
}

void pare_tape_scale(pare_fwd *f, const float *y, const float *x, float s, size_t count) {
    element_record *r = pare_tape_push(f, sizeof *r, scale_backward);
    FILL(r, element_record, .dy = pare_tape_shadow(f, y), .da = pare_tape_shadow(f, x),
         .count = count, .scale = s);
}

/* ---- RoPE: a rotation, so that its adjoint is the rotation back ---- */

typedef struct rope_record {
    pare_record head;
    float *dx;
    size_t ldx, n, n_heads, half;
    const float *angles;
} rope_record;

static void rope_backward(pare_fwd *f, pare_record *record) {
    const rope_record *r = (rope_record *)record;
    size_t half = r->half, begin, end;
    float back[PARE_ROPE_MAX_HALF];
    pare_share(f->w, r->n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *c = r->angles + i * 2 * half;
        for (size_t j = 0; j < half; j++) back[j] = -c[half + j];
        for (size_t h = 0; h < r->n_heads; h++)
            f->k->rope->rotate(r->dx + i * r->ldx + h * 2 * half, c, back, half);
    }
    pare_barrier(f->w);
}

void pare_tape_rope(pare_fwd *f, const float *x, size_t ldx, size_t n, size_t n_heads, size_t half,
                    const float *angles) {
    rope_record *r = pare_tape_push(f, sizeof *r, rope_backward);
    FILL(r, rope_record, .dx = pare_tape_shadow(f, x), .ldx = ldx, .n = n, .n_heads = n_heads,
         .half = half, .angles = angles);
}
