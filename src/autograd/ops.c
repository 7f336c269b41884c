#include "autograd/ops.h"

#include "autograd/tape.h"

#include <math.h>
#include <string.h>

/* Values that a thread takes at once in element-wise operators: 16 cache lines. */
enum { GRAIN = 256 };

pare_fwd pare_fwd_plan(pare_worker *worker, int n_threads, pare_isa isa, pare_compute compute) {
    *worker = (pare_worker){.n = n_threads};
    return (pare_fwd){.w = worker,
                      .isa = isa,
                      .compute = compute,
                      .k = pare_op_kernels_get(isa),
                      .arena = {.capacity = SIZE_MAX},
                      .own = {.capacity = SIZE_MAX}};
}

/* Is y this thread's own memory? Then the thread does all of an operator and waits for nobody. */
static bool is_own(const pare_fwd *f, const void *y) {
    return (uintptr_t)y - (uintptr_t)f->own.base < f->own.capacity;
}

/* The part [*begin, *end) of n items of output y that this thread computes. */
static void my_part(const pare_fwd *f, const void *y, size_t n, size_t grain, size_t *begin,
                    size_t *end) {
    *begin = 0;
    *end = n;
    if (!is_own(f, y)) pare_share(f->w, n, grain, begin, end);
}

static void wait_for(const pare_fwd *f, const void *y) {
    if (!is_own(f, y)) pare_barrier(f->w);
}

void pare_op_embed(pare_fwd *f, float *y, const pare_tensor *table, const int32_t *ids, size_t n,
                   size_t dim, float scale) {
    if (f->tape) pare_tape_embed(f, y, table, ids, n, dim, scale);
    if (pare_fwd_planning(f)) return;
    size_t begin, end;
    my_part(f, y, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        table->enc->decode(y + i * dim, &table->view, (size_t)ids[i], 0, dim);
        if (scale != 1.0f) f->k->act->scale(y + i * dim, y + i * dim, scale, dim);
    }
    wait_for(f, y);
}

void pare_op_add_positions(pare_fwd *f, float *x, const pare_tensor *table,
                           const pare_attn_span *spans, size_t offset, size_t n, size_t dim) {
    if (f->tape) pare_tape_positions(f, x, table, spans, offset, n, dim);
    pare_fwd_marks mark = pare_fwd_mark(f);
    float *row = NULL, *rows = NULL;
    if (pare_fwd_owns(f, n)) /* shared memory would need a barrier before it is given back */
        row = pare_fwd_alloc_rows(f, n, dim, sizeof *row);
    else
        rows = pare_fwd_alloc(f, (size_t)f->w->n * dim, sizeof *rows);
    if (!pare_fwd_planning(f)) {
        if (rows) row = rows + (size_t)f->w->id * dim;
        size_t begin, end;
        my_part(f, x, n, 1, &begin, &end);
        for (size_t i = begin; i < end; i++) {
            size_t at = i;
            const pare_attn_span *span = pare_attn_span_of(spans, &at);
            size_t pos = pare_attn_span_front(span) + span->pos0 + at;
            table->enc->decode(row, &table->view, pos + offset, 0, dim);
            f->k->act->add(x + i * dim, x + i * dim, row, dim);
        }
        wait_for(f, x);
    }
    pare_fwd_release(f, mark);
}

/* ---- normalisation ---- */

void pare_op_rmsnorm(pare_fwd *f, float *y, const float *x, const float *g, size_t n, size_t dim,
                     float eps) {
    if (f->tape) pare_tape_norm(f, y, dim, x, dim, NULL, g, NULL, n, 1, dim, eps, true);
    if (pare_fwd_planning(f)) return;
    size_t begin, end;
    my_part(f, y, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) f->k->norm->rmsnorm(y + i * dim, x + i * dim, g, dim, eps);
    wait_for(f, y);
}

void pare_op_add_rmsnorm(pare_fwd *f, float *y, float *x, const float *r, const float *g, size_t n,
                         size_t dim, float eps) {
    if (f->tape) pare_tape_norm(f, y, dim, x, dim, r, g, NULL, n, 1, dim, eps, true);
    if (pare_fwd_planning(f)) return;
    size_t begin, end;
    my_part(f, y, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        f->k->norm->add_rmsnorm(y + i * dim, x + i * dim, r + i * dim, g, dim, eps);
    wait_for(f, y);
}

void pare_op_layernorm(pare_fwd *f, float *y, const float *x, const float *g, const float *b,
                       size_t n, size_t dim, float eps) {
    if (f->tape) pare_tape_norm(f, y, dim, x, dim, NULL, g, b, n, 1, dim, eps, false);
    if (pare_fwd_planning(f)) return;
    size_t begin, end;
    my_part(f, y, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        f->k->norm->layernorm(y + i * dim, x + i * dim, g, b, dim, eps);
    wait_for(f, y);
}

void pare_op_head_rmsnorm(pare_fwd *f, float *y, size_t ldy, const float *x, size_t ldx,
                          const float *g, size_t n, size_t n_heads, size_t head_dim, float eps) {
    if (f->tape) pare_tape_norm(f, y, ldy, x, ldx, NULL, g, NULL, n, n_heads, head_dim, eps, true);
    if (pare_fwd_planning(f)) return;
    size_t begin, end;
    my_part(f, y, n * n_heads, 1, &begin, &end);
    for (size_t j = begin; j < end; j++) {
        size_t i = j / n_heads, h = j % n_heads * head_dim;
        f->k->norm->rmsnorm(y + i * ldy + h, x + i * ldx + h, g, head_dim, eps);
    }
    wait_for(f, y);
}

/* ---- element-wise ---- */

/* This thread's values [*begin, *begin + result). */
static size_t my_values(const pare_fwd *f, const float *y, size_t n, size_t dim, size_t *begin) {
    size_t end;
    my_part(f, y, n * dim, GRAIN, begin, &end);
    return end - *begin;
}

void pare_op_silu_mul(pare_fwd *f, float *y, const float *gate, const float *up, size_t n,
                      size_t dim) {
    if (f->tape) pare_tape_activation(f, PARE_TAPE_SILU_MUL, y, gate, up, n * dim);
    if (pare_fwd_planning(f)) return;
    size_t i, count = my_values(f, y, n, dim, &i);
    f->k->act->silu_mul(y + i, gate + i, up + i, count);
    wait_for(f, y);
}

void pare_op_gelu_mul(pare_fwd *f, float *y, const float *gate, const float *up, size_t n,
                      size_t dim) {
    if (f->tape) pare_tape_activation(f, PARE_TAPE_GELU_MUL, y, gate, up, n * dim);
    if (pare_fwd_planning(f)) return;
    size_t i, count = my_values(f, y, n, dim, &i);
    f->k->act->gelu_mul(y + i, gate + i, up + i, count);
    wait_for(f, y);
}

void pare_op_gelu(pare_fwd *f, float *y, const float *x, size_t n, size_t dim) {
    if (f->tape) pare_tape_activation(f, PARE_TAPE_GELU, y, x, NULL, n * dim);
    if (pare_fwd_planning(f)) return;
    size_t i, count = my_values(f, y, n, dim, &i);
    f->k->act->gelu(y + i, x + i, count);
    wait_for(f, y);
}

void pare_op_relu(pare_fwd *f, float *y, const float *x, size_t n, size_t dim) {
    if (f->tape) pare_tape_activation(f, PARE_TAPE_RELU, y, x, NULL, n * dim);
    if (pare_fwd_planning(f)) return;
    size_t i, count = my_values(f, y, n, dim, &i);
    f->k->act->relu(y + i, x + i, count);
    wait_for(f, y);
}

void pare_op_add(pare_fwd *f, float *y, const float *a, const float *b, size_t n, size_t dim) {
    if (f->tape) pare_tape_sum(f, y, a, b, n * dim);
    if (pare_fwd_planning(f)) return;
    size_t i, count = my_values(f, y, n, dim, &i);
    f->k->act->add(y + i, a + i, b + i, count);
    wait_for(f, y);
}

void pare_op_scale(pare_fwd *f, float *y, const float *x, float s, size_t n, size_t dim) {
    if (f->tape) pare_tape_scale(f, y, x, s, n * dim);
    if (pare_fwd_planning(f)) return;
    size_t i, count = my_values(f, y, n, dim, &i);
    f->k->act->scale(y + i, x + i, s, count);
    wait_for(f, y);
}

void pare_op_softcap(pare_fwd *f, float *y, const float *x, float c, size_t n, size_t dim) {
    if (pare_fwd_planning(f)) return;
    size_t i, count = my_values(f, y, n, dim, &i);
    if (c > 0)
        f->k->act->softcap(y + i, x + i, c, count);
    else if (y != x)
        memcpy(y + i, x + i, count * sizeof *y);
    wait_for(f, y);
}

/* ---- attention ---- */

void pare_op_rope_angles(pare_fwd *f, float *angles, const pare_rope *rope,
                         const pare_attn_span *spans, size_t n) {
    if (pare_fwd_planning(f)) return;
    size_t begin, end;
    my_part(f, angles, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        float *c = angles + i * 2 * rope->half;
        size_t at = i;
        const pare_attn_span *span = pare_attn_span_of(spans, &at);
        size_t pos = pare_attn_span_front(span) + span->pos0 + at;
        pare_rope_angles(c, c + rope->half, rope, pos);
    }
    wait_for(f, angles);
}

void pare_op_rope(pare_fwd *f, float *x, size_t ldx, size_t n, size_t n_heads,
                  const pare_rope *rope, const float *angles) {
    if (f->tape && rope->half) pare_tape_rope(f, x, ldx, n, n_heads, rope->half, angles);
    if (pare_fwd_planning(f) || rope->half == 0) return;
    size_t half = rope->half, begin, end;
    my_part(f, x, n * n_heads, 1, &begin, &end);
    for (size_t j = begin; j < end; j++) {
        size_t i = j / n_heads, h = j % n_heads;
        const float *c = angles + i * 2 * half;
        f->k->rope->rotate(x + i * ldx + h * 2 * half, c, c + half, half);
    }
    wait_for(f, x);
}

void pare_op_kv_store(pare_fwd *f, const pare_attn_span *spans, size_t layer, const float *k,
                      size_t ldk, const float *v, size_t ldv, size_t n) {
    if (pare_fwd_planning(f)) return;
    const pare_kv_layer *any = &spans->layers[layer];
    const pare_kv_functions *codec = pare_kv_codec_functions(any->codec, f->isa);
    size_t begin, end, dim = any->head_dim;
    pare_share(f->w, n * any->n_kv_heads, 1, &begin, &end);
    for (size_t j = begin; j < end; j++) {
        /* heads outside, so that a thread writes consecutive rows */
        size_t g = j / n, i = j % n, at = i;
        const pare_attn_span *span = pare_attn_span_of(spans, &at);
        const pare_kv_layer *kv = &span->layers[layer];
        codec->store(pare_kv_row(kv, false, g, span->pos0 + at), k + i * ldk + g * dim, dim);
        codec->store(pare_kv_row(kv, true, g, span->pos0 + at), v + i * ldv + g * dim, dim);
    }
    pare_barrier(f->w);
}

void pare_op_attention(pare_fwd *f, float *out, size_t ldo, const float *q, size_t ldq,
                       const pare_attn_span *spans, size_t n_spans, size_t layer,
                       const pare_attn *a, size_t n_kv_heads, size_t head_dim, size_t n) {
    if (f->tape)
        pare_tape_attention(f, out, ldo, q, ldq, spans, n_spans, layer, a, n_kv_heads, head_dim, n);
    pare_fwd_marks mark = pare_fwd_mark(f);
    size_t bytes = pare_attention_scratch_bytes(head_dim, n_kv_heads, a, n, f->w->n);
    void *scratch = pare_fwd_alloc(f, bytes, 1);
    if (!pare_fwd_planning(f))
        pare_attention(f->w, f->isa, scratch, out, ldo, q, ldq, spans, n_spans, layer, a);
    pare_fwd_release(f, mark);
}

pare_kv_layer pare_kv_layer_of(const float *k, const float *v, size_t ld, size_t n_kv_heads,
                               size_t head_dim) {
    return (pare_kv_layer){.codec = pare_kv_codec_find("f32"),
                           .k = (uint8_t *)(uintptr_t)k,
                           .v = (uint8_t *)(uintptr_t)v,
                           .n_kv_heads = n_kv_heads,
                           .head_dim = head_dim,
                           .head_stride = head_dim * sizeof(float),
                           .row_stride = ld * sizeof(float)};
}

/* ---- output ---- */

/* log(exp(a) + exp(b)); a NaN stays one (fmax and fmin would hide it). */
static double log_add(double a, double b) {
    double high = a > b ? a : b, low = a > b ? b : a;
    return low == -INFINITY ? high : high + log1p(exp(low - high));
}

void pare_op_logprob_block(pare_fwd *f, const pare_logprob *p, const float *logits, size_t ld,
                           size_t n, size_t first, size_t count) {
    if (pare_fwd_planning(f)) return;
    for (size_t i; (i = pare_take(f->w, 1)) < n;) {
        const float *row = logits + i * ld;
        double lse = f->k->softmax->logsumexp(row, count);
        p->lse[i] = first ? log_add(p->lse[i], lse) : lse;
        size_t target = (size_t)p->targets[i];
        if (target >= first && target - first < count) p->target[i] = row[target - first];
        if (!p->top) continue;
        size_t at = f->k->softmax->argmax(row, count);
        if (first == 0) p->largest[i] = -INFINITY, p->top[i] = -1;
        if (at == count || !(row[at] > p->largest[i])) continue; /* the row holds a NaN */
        p->largest[i] = row[at];
        p->top[i] = (int32_t)(first + at);
    }
    pare_barrier(f->w);
}

void pare_op_logprob_finish(pare_fwd *f, const pare_logprob *p, float *logprob, size_t n) {
    if (pare_fwd_planning(f)) return;
    size_t begin, end;
    pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) logprob[i] = (float)((double)p->target[i] - p->lse[i]);
    pare_barrier(f->w);
}
