/* The backward half of every operator: the gradient of a random linear function of its output
 * against central differences of a plain f64 reading of it, on one thread and on three, at every
 * level. Built a second time with PARE_EMULATE for levels that the machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/tape.h"
#include "autograd/top_k.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "kernels/tile.h"

enum { MAX = 4096 };

/* A case: values x[n_x] that are all inputs one after the other, and y[n_y] of them. */
typedef struct grad_case grad_case;
struct grad_case {
    const char *name;
    size_t n, dim, extra; /* rows; width; outputs, heads, ... */
    double param;
    size_t n_x, n_y;
    void (*reference)(double *y, const double *x, const grad_case *c);
    /* Runs the operator on the buffers: x lies in the arena from x on. Returns y. */
    float *(*run)(pare_fwd *f, float *x, const grad_case *c);
    /* Where the operator reads weights: these parts of x are parameters, copied to `weights` */
    size_t weights_at, n_weights, bias_at, n_bias;
};

typedef struct run_state {
    const grad_case *c;
    const float *x, *dy;
    float *y, *dx; /* results */
    float *weights, *grad;
    bool fresh[2];
    bool half;
    pare_isa isa;
    uint8_t *memory, *shadow, *saves, *work, *linear;
    size_t memory_bytes, saves_bytes, work_bytes, linear_bytes;
} run_state;

static bool in_bf16; /* attention's products, where the level has them: 8 bits of each factor */
static run_state *current; /* for operators that look weights up by address */

static void program(pare_fwd *f, run_state *s) {
    const grad_case *c = s->c;
    float *x = pare_fwd_alloc(f, c->n_x, sizeof *x);
    bool planning = pare_fwd_planning(f);
    if (!planning && f->w->id == 0) memcpy(x, s->x, c->n_x * sizeof *x);
    if (!planning) pare_barrier(f->w);
    float *y = c->run(f, x, c);
    if (!planning) {
        if (f->w->id == 0) {
            memcpy(s->y, y, c->n_y * sizeof *y);
            float *dy = pare_tape_shadow(f, y);
            for (size_t i = 0; i < c->n_y; i++) dy[i] += s->dy[i];
        }
        pare_barrier(f->w);
    }
    pare_tape_backward(f, (pare_tape_mark){0});
    if (!planning && f->w->id == 0) {
        float *dx = pare_tape_shadow(f, x);
        memcpy(s->dx, dx, c->n_x * sizeof *dx);
        for (size_t i = 0; i < c->n_weights; i++) s->dx[c->weights_at + i] += s->grad[i];
        for (size_t i = 0; i < c->n_bias; i++) s->dx[c->bias_at + i] += s->grad[c->n_weights + i];
        memset(dx, 0, c->n_x * sizeof *dx);
        for (size_t i = 0; i < s->memory_bytes; i++) /* the invariant of tape.h */
            if (s->shadow[i] && s->shadow[i] != 0x80) fail_msg("%s: a shadow is left", c->name);
    }
}

static void thread_main(pare_worker *w, void *arg) {
    run_state *s = arg;
    pare_leaf leaves[2] = {{s->weights, s->grad, &s->fresh[0], 1, 0, NULL},
                           {s->weights + s->c->n_weights, s->grad + s->c->n_weights, &s->fresh[1],
                            1, s->c->n_bias, NULL}};
    size_t cols = s->c->dim;
    leaves[0].cols = cols;
    leaves[0].rows = cols ? s->c->n_weights / cols : 0;
    pare_tape tape = {.saves = {.base = s->saves, .capacity = s->saves_bytes},
                      .work = {.base = s->work, .capacity = s->work_bytes},
                      .shadow = s->shadow,
                      .leaves = leaves,
                      .n_leaves = s->c->n_bias      ? 2
                                  : s->c->n_weights ? 1
                                                    : 0,
                      .half = s->half};
    pare_fwd f = {.w = w,
                  .isa = s->isa,
                  .compute = PARE_COMPUTE_EXACT,
                  .many = true,
                  .k = pare_op_kernels_get(s->isa),
                  .arena = {.base = s->memory, .capacity = s->memory_bytes},
                  .linear_scratch = s->linear,
                  .linear_bytes = s->linear_bytes,
                  .tape = &tape};
    program(&f, s);
}

/* dx of the case on `threads` threads. */
static void gradient(run_state *s, int threads) {
    current = s;
    pare_worker worker;
    pare_tape tape = {.saves = {.capacity = SIZE_MAX}, .work = {.capacity = SIZE_MAX}};
    pare_fwd plan = pare_fwd_plan(&worker, threads, s->isa, PARE_COMPUTE_EXACT);
    plan.own.capacity = 0;
    plan.many = true;
    plan.tape = &tape;
    program(&plan, s);
    s->memory_bytes = plan.arena.peak + 64;
    s->saves_bytes = tape.saves.peak + 64;
    s->work_bytes = tape.work.peak + 64;
    s->linear_bytes = plan.linear_bytes + 64;
    s->memory = pare_big_alloc(s->memory_bytes);
    s->shadow = pare_big_alloc(s->memory_bytes);
    s->saves = pare_big_alloc(s->saves_bytes);
    s->work = pare_big_alloc(s->work_bytes);
    s->linear = pare_big_alloc(s->linear_bytes);
    s->fresh[0] = s->fresh[1] = true;
    pare_runtime *rt = test_runtime(threads, s->isa);
    pare_team_run(rt, thread_main, s);
    pare_runtime_free(rt);
    pare_big_free(s->memory, s->memory_bytes);
    pare_big_free(s->shadow, s->memory_bytes);
    pare_big_free(s->saves, s->saves_bytes);
    pare_big_free(s->work, s->work_bytes);
    pare_big_free(s->linear, s->linear_bytes);
}

static double value(const grad_case *c, const double *x, const float *dy) {
    static double y[MAX];
    c->reference(y, x, c);
    double sum = 0;
    for (size_t i = 0; i < c->n_y; i++) sum += y[i] * (double)dy[i];
    return sum;
}

static void check(const grad_case *c) {
    static float x[MAX], dy[MAX], y[MAX], dx[MAX], first[MAX], weights[MAX], grad[MAX];
    static double xd[MAX], yd[MAX], want[MAX];
    assert_true(c->n_x <= MAX && c->n_y <= MAX);
    for (size_t i = 0; i < c->n_x; i++) x[i] = pare_rng_normal(7, 1, i);
    for (size_t i = 0; i < c->n_y; i++) dy[i] = pare_rng_normal(7, 2, i);
    for (size_t i = 0; i < c->n_x; i++) xd[i] = (double)x[i];
    memcpy(weights, x + c->weights_at, c->n_weights * sizeof *weights);
    memcpy(weights + c->n_weights, x + c->bias_at, c->n_bias * sizeof *weights);
    double size = 0;
    size_t step = c->n_x > 1000 ? 7 : 1; /* odd: it meets all columns */
    for (size_t i = 0; i < c->n_x; i += step) {
        const double h = 1e-5;
        xd[i] = (double)x[i] + h;
        double up = value(c, xd, dy);
        xd[i] = (double)x[i] - h;
        want[i] = (up - value(c, xd, dy)) / (2 * h);
        xd[i] = (double)x[i];
        size = fmax(size, fabs(want[i]));
    }
    c->reference(yd, xd, c);
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (int threads = 1; threads <= 3; threads += 2) {
            /* bits that the first call leaves must not be seen by the second */
            memset(grad, 0x7f, sizeof grad);
            run_state s = {.c = c,
                           .x = x,
                           .dy = dy,
                           .y = y,
                           .dx = dx,
                           .weights = weights,
                           .grad = grad,
                           .isa = (pare_isa)isa};
            gradient(&s, threads);
            double tol = in_bf16 && pare_tile_kernels_get(s.isa)->bf16 ? 2e-2 : 2e-5;
            for (size_t i = 0; i < c->n_y; i++)
                if (!(fabs((double)y[i] - yd[i]) <= tol * (1 + fabs(yd[i]))))
                    fail_msg("%s, %s: y[%zu] found %g, expected %g", c->name,
                             pare_isa_name((pare_isa)isa), i, (double)y[i], yd[i]);
            for (size_t i = 0; i < c->n_x; i += step)
                if (!(fabs((double)dx[i] - want[i]) <= tol * size + 1e-6))
                    fail_msg("%s, %s, %d threads: dx[%zu] found %g, expected %g", c->name,
                             pare_isa_name((pare_isa)isa), threads, i, (double)dx[i], want[i]);
            if (threads == 1)
                memcpy(first, dx, sizeof dx);
            else
                assert_memory_equal(first, dx, c->n_x * sizeof *dx);
        }
}

/* ---- the operators ---- */

static void rms_reference(double *y, const double *x, const grad_case *c) {
    const double *g = x + c->n * c->dim;
    for (size_t i = 0; i < c->n; i++) {
        double sum = 0;
        for (size_t j = 0; j < c->dim; j++) sum += x[i * c->dim + j] * x[i * c->dim + j];
        double r = 1 / sqrt(sum / (double)c->dim + c->param);
        for (size_t j = 0; j < c->dim; j++) y[i * c->dim + j] = g[j] * x[i * c->dim + j] * r;
    }
}
static float *rms_run(pare_fwd *f, float *x, const grad_case *c) {
    float *y = pare_fwd_alloc(f, c->n_y, sizeof *y);
    pare_op_rmsnorm(f, y, x, current->weights, c->n, c->dim, (float)c->param);
    return y;
}
static float *rms_in_place(pare_fwd *f, float *x, const grad_case *c) {
    pare_op_rmsnorm(f, x, x, current->weights, c->n, c->dim, (float)c->param);
    return x;
}

/* y = [x + r | norm(x + r)]: both go on */
static void add_rms_reference(double *y, const double *x, const grad_case *c) {
    size_t count = c->n * c->dim;
    double sums[MAX];
    for (size_t i = 0; i < count; i++) sums[i] = x[i] + x[count + i];
    memcpy(sums + count, x + 2 * count, c->dim * sizeof *sums);
    rms_reference(y + count, sums, c);
    memcpy(y, sums, count * sizeof *y);
}
static float *add_rms_run(pare_fwd *f, float *x, const grad_case *c) {
    size_t count = c->n * c->dim;
    float *y = pare_fwd_alloc(f, 2 * count, sizeof *y);
    float *h = pare_fwd_alloc(f, count, sizeof *h), *out = y ? y + count : NULL;
    pare_op_scale(f, h, x, 1, c->n, c->dim);
    pare_op_add_rmsnorm(f, out, h, x ? x + count : NULL, current->weights, c->n, c->dim,
                        (float)c->param);
    pare_op_scale(f, y, h, 1, c->n, c->dim);
    return y;
}

static void layer_reference(double *y, const double *x, const grad_case *c) {
    const double *g = x + c->n * c->dim, *b = g + c->dim;
    for (size_t i = 0; i < c->n; i++) {
        const double *row = x + i * c->dim;
        double mean = 0, var = 0;
        for (size_t j = 0; j < c->dim; j++) mean += row[j] / (double)c->dim;
        for (size_t j = 0; j < c->dim; j++)
            var += (row[j] - mean) * (row[j] - mean) / (double)c->dim;
        for (size_t j = 0; j < c->dim; j++)
            y[i * c->dim + j] = g[j] * (row[j] - mean) / sqrt(var + c->param) + b[j];
    }
}
static float *layer_run(pare_fwd *f, float *x, const grad_case *c) {
    const float *w = current->weights;
    pare_op_layernorm(f, x, x, w, w + c->dim, c->n, c->dim, (float)c->param);
    return x;
}

/* heads of width dim, `extra` of them, in rows of extra * dim + 3 */
static void head_rms_reference(double *y, const double *x, const grad_case *c) {
    size_t ld = c->extra * c->dim + 3;
    grad_case one = *c;
    one.n = 1;
    memcpy(y, x, c->n * ld * sizeof *y);
    for (size_t j = 0; j < c->n * c->extra; j++) {
        double part[MAX];
        size_t at = j / c->extra * ld + j % c->extra * c->dim;
        memcpy(part, x + at, c->dim * sizeof *part);
        memcpy(part + c->dim, x + c->n * ld, c->dim * sizeof *part);
        rms_reference(y + at, part, &one);
    }
}
static float *head_rms_run(pare_fwd *f, float *x, const grad_case *c) {
    size_t ld = c->extra * c->dim + 3;
    pare_op_head_rmsnorm(f, x, ld, x, ld, current->weights, c->n, c->extra, c->dim,
                         (float)c->param);
    return x;
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x * sigmoid(x); }
static double gelu(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}
static void silu_reference(double *y, const double *x, const grad_case *c) {
    for (size_t i = 0; i < c->n_y; i++) y[i] = silu(x[i]) * x[c->n_y + i];
}
static void gelu_mul_reference(double *y, const double *x, const grad_case *c) {
    for (size_t i = 0; i < c->n_y; i++) y[i] = gelu(x[i]) * x[c->n_y + i];
}
static void gelu_reference(double *y, const double *x, const grad_case *c) {
    for (size_t i = 0; i < c->n_y; i++) y[i] = gelu(x[i]);
}
static void relu_reference(double *y, const double *x, const grad_case *c) {
    for (size_t i = 0; i < c->n_y; i++) y[i] = x[i] > 0 ? x[i] : 0;
}
static float *silu_run(pare_fwd *f, float *x, const grad_case *c) { /* y lies where up lies */
    float *up = x ? x + c->n_y : NULL;
    pare_op_silu_mul(f, up, x, up, c->n, c->dim);
    return up;
}
static float *gelu_mul_run(pare_fwd *f, float *x, const grad_case *c) {
    float *y = pare_fwd_alloc(f, c->n_y, sizeof *y);
    pare_op_gelu_mul(f, y, x, x ? x + c->n_y : NULL, c->n, c->dim);
    return y;
}
static float *gelu_run(pare_fwd *f, float *x, const grad_case *c) {
    pare_op_gelu(f, x, x, c->n, c->dim);
    return x;
}
static float *relu_run(pare_fwd *f, float *x, const grad_case *c) {
    pare_op_relu(f, x, x, c->n, c->dim);
    return x;
}

/* The selection at the point itself: central differences do not move it. `extra` N of param M, or
 * the share param; an even number of rows: by magnitude. */
static pare_top_k top_k_of(const grad_case *c) {
    return (pare_top_k){.share = c->extra ? 0 : c->param,
                        .n = c->extra,
                        .m = c->extra ? (size_t)c->param : 0,
                        .score = c->n % 2 ? PARE_TOP_K_VALUE : PARE_TOP_K_MAGNITUDE};
}
static void top_k_reference(double *y, const double *x, const grad_case *c) {
    const pare_top_k k = top_k_of(c);
    size_t part = k.m ? k.m : c->dim,
           keep = k.m ? k.n : (size_t)nearbyint((double)c->dim * (1 - k.share));
    for (size_t i = 0; i < c->n_y; i++) {
        size_t begin = i - i % c->dim % part, above = 0;
        double own = k.score == PARE_TOP_K_VALUE ? x[i] : fabs(x[i]);
        for (size_t j = begin; j < begin + part; j++)
            above += (k.score == PARE_TOP_K_VALUE ? x[j] : fabs(x[j])) > own;
        y[i] = above < (keep ? keep : 1) ? x[i] : 0;
    }
}
static float *top_k_run(pare_fwd *f, float *x, const grad_case *c) {
    const pare_top_k k = top_k_of(c);
    pare_op_top_k(f, x, c->n, c->dim, &k);
    return x;
}

/* y = a + b, then a += y, then y scaled: sums in and out of place */
static void sum_reference(double *y, const double *x, const grad_case *c) {
    for (size_t i = 0; i < c->n_y; i++) y[i] = (2 * x[i] + x[c->n_y + i]) * c->param;
}
static float *sum_run(pare_fwd *f, float *x, const grad_case *c) {
    float *y = pare_fwd_alloc(f, c->n_y, sizeof *y);
    pare_op_add(f, y, x, x ? x + c->n_y : NULL, c->n, c->dim);
    pare_op_add(f, x, x, y, c->n, c->dim);
    pare_op_scale(f, y, x, (float)c->param, c->n, c->dim);
    return y;
}

static const pare_rope rope = {.half = 4, .scale = 1.25, .inv_freq = {1, 0.5, 0.25, 0.125}};
static void rope_reference(double *y, const double *x, const grad_case *c) {
    for (size_t i = 0; i < c->n; i++)
        for (size_t h = 0; h < c->extra; h++)
            for (size_t j = 0; j < 4; j++) {
                size_t at = i * c->dim + h * 8 + j;
                double angle = (double)i * rope.inv_freq[j];
                double cosine = cos(angle) * rope.scale, sine = sin(angle) * rope.scale;
                y[at] = x[at] * cosine - x[at + 4] * sine;
                y[at + 4] = x[at + 4] * cosine + x[at] * sine;
            }
}
static float *rope_run(pare_fwd *f, float *x, const grad_case *c) {
    static const pare_attn_span span = {.n = 9};
    float *angles = pare_fwd_alloc(f, pare_op_angles_len(&rope, c->n), sizeof *angles);
    pare_op_rope_angles(f, angles, &rope, &span, c->n);
    pare_op_rope(f, x, c->dim, c->n, c->extra, &rope, angles);
    return x;
}

/* y = x W^T + b, W [extra][dim] */
static void linear_reference(double *y, const double *x, const grad_case *c) {
    const double *w = x + c->n * c->dim, *b = w + c->extra * c->dim;
    for (size_t i = 0; i < c->n; i++)
        for (size_t o = 0; o < c->extra; o++) {
            double sum = b[o];
            for (size_t j = 0; j < c->dim; j++) sum += x[i * c->dim + j] * w[o * c->dim + j];
            y[i * c->extra + o] = sum;
        }
}
static float *linear_run(pare_fwd *f, float *x, const grad_case *c) {
    float *y = pare_fwd_alloc(f, c->n_y, sizeof *y);
    const float *weights = current->weights;
    pare_tensor w = pare_tensor_wrap(pare_encoding_find("f32"), weights, c->extra, c->dim);
    pare_op_out out = {
        .name = "w", .w = &w, .bias = weights + c->extra * c->dim, .y = y, .ldy = c->extra};
    pare_op_linear(f, x, c->dim, c->n, c->dim, &out, 1);
    return y;
}

/* y = x W^T + s (x A^T) B^T, W fixed: what is trained are A [rank][dim] and B [extra][rank] */
enum { RANK = 5 };
static float fixed_weight(size_t i) { return pare_rng_normal(7, 3, i); }
static void adapter_reference(double *y, const double *x, const grad_case *c) {
    const double *a = x + c->n * c->dim, *b = a + RANK * c->dim;
    for (size_t i = 0; i < c->n; i++) {
        const double *row = x + i * c->dim;
        double t[RANK] = {0};
        for (size_t r = 0; r < RANK; r++)
            for (size_t j = 0; j < c->dim; j++) t[r] += row[j] * a[r * c->dim + j];
        for (size_t o = 0; o < c->extra; o++) {
            double sum = 0;
            for (size_t j = 0; j < c->dim; j++)
                sum += row[j] * (double)fixed_weight(o * c->dim + j);
            for (size_t r = 0; r < RANK; r++) sum += c->param * t[r] * b[o * RANK + r];
            y[i * c->extra + o] = sum;
        }
    }
}
static float *adapter_run(pare_fwd *f, float *x, const grad_case *c) {
    static float fixed[MAX];
    float *y = pare_fwd_alloc(f, c->n_y, sizeof *y);
    const pare_encoding *f32 = pare_encoding_find("f32");
    if (pare_fwd_planning(f)) /* on one thread */
        for (size_t i = 0; i < c->extra * c->dim; i++) fixed[i] = fixed_weight(i);
    pare_tensor w = pare_tensor_wrap(f32, fixed, c->extra, c->dim);
    const pare_adapter adapter = {
        pare_tensor_wrap(f32, current->weights, RANK, c->dim),
        pare_tensor_wrap(f32, current->weights + RANK * c->dim, c->extra, RANK), (float)c->param};
    pare_op_out out = {.name = "w", .w = &w, .y = y, .ldy = c->extra, .adapter = &adapter};
    pare_op_linear(f, x, c->dim, c->n, c->dim, &out, 1);
    return y;
}

static const int32_t ids[] = {3, 0, 3, 5, 1, 3, 2};
static void embed_reference(double *y, const double *x, const grad_case *c) {
    for (size_t i = 0; i < c->n; i++)
        for (size_t j = 0; j < c->dim; j++)
            y[i * c->dim + j] = c->param * x[(size_t)ids[i] * c->dim + j] + x[i * c->dim + j];
}
static float *embed_run(pare_fwd *f, float *x, const grad_case *c) {
    static const pare_attn_span span = {.n = 7};
    float *y = pare_fwd_alloc(f, c->n_y, sizeof *y);
    (void)x;
    pare_tensor w =
        pare_tensor_wrap(pare_encoding_find("f32"), current->weights, c->n_x / c->dim, c->dim);
    pare_op_embed(f, y, &w, ids, c->n, c->dim, (float)c->param);
    pare_op_add_positions(f, y, &w, &span, 0, c->n, c->dim);
    return y;
}

/* Two sequences; x = q | k | v in rows; extra: kv heads; heads twice that. */
typedef struct attention_shape {
    size_t kv_heads, heads, head_dim, n[2], window;
    double scale, cap;
    size_t front; /* positions of a prefix, whose keys and values are parameters */
} attention_shape;
static attention_shape shape;

static void attention_reference(double *y, const double *x, const grad_case *c) {
    size_t hd = shape.head_dim, kv = shape.kv_heads, heads = shape.heads, ld = c->dim;
    size_t m = shape.front;
    const double *front = x + c->n * ld; /* keys, values */
    for (size_t s = 0, row0 = 0; s < 2; row0 += shape.n[s++])
        for (size_t i = 0; i < shape.n[s]; i++)
            for (size_t h = 0; h < heads; h++) {
                double p[256], sum = 0, most = -1e300;
                const double *q = x + (row0 + i) * ld + h * hd;
                size_t g = h / (heads / kv);
                size_t pos = m + i;
                size_t lo = shape.window && pos + 1 > shape.window ? pos + 1 - shape.window : 0;
                for (size_t j = lo; j <= pos; j++) {
                    const double *k = j < m ? front + (j * kv + g) * hd
                                            : x + (row0 + j - m) * ld + heads * hd + g * hd;
                    p[j] = 0;
                    for (size_t d = 0; d < hd; d++) p[j] += q[d] * k[d];
                    p[j] *= shape.scale;
                    if (shape.cap > 0) p[j] = shape.cap * tanh(p[j] / shape.cap);
                    most = fmax(most, p[j]);
                }
                for (size_t j = lo; j <= pos; j++) sum += p[j] = exp(p[j] - most);
                double *out = y + ((row0 + i) * heads + h) * hd;
                memset(out, 0, hd * sizeof *out);
                for (size_t j = lo; j <= pos; j++) {
                    const double *v = j < m ? front + ((m + j) * kv + g) * hd
                                            : x + (row0 + j - m) * ld + (heads + kv + g) * hd;
                    for (size_t d = 0; d < hd; d++) out[d] += p[j] / sum * v[d];
                }
            }
}
static float *attention_run(pare_fwd *f, float *x, const grad_case *c) {
    size_t hd = shape.head_dim, q_dim = shape.heads * hd, kv_dim = shape.kv_heads * hd;
    pare_attn a = {.n_heads = shape.heads,
                   .window = shape.window,
                   .scale = (float)shape.scale,
                   .softcap = (float)shape.cap,
                   .many = true,
                   .bf16 = in_bf16};
    static pare_kv_layer layers[2], front;
    static pare_attn_span spans[2];
    static pare_attn_prefix prefix;
    if (!x || f->w->id == 0) {
        const float *k = current->weights;
        front = pare_kv_layer_of(k, k + c->n_weights, kv_dim, shape.kv_heads, hd);
        prefix = (pare_attn_prefix){&front, shape.front};
        spans[0] = (pare_attn_span){.prefix = &prefix};
    }
    if (x && f->w->id == 0)
        for (size_t s = 0, row = 0; s < 2; row += shape.n[s++]) {
            const float *k = x + row * c->dim + q_dim;
            layers[s] = pare_kv_layer_of(k, k + kv_dim, c->dim, shape.kv_heads, hd);
            spans[s] = (pare_attn_span){.layers = &layers[s], .n = shape.n[s], .prefix = &prefix};
        }
    if (x) pare_barrier(f->w);
    float *y = pare_fwd_alloc(f, c->n * q_dim, sizeof *y);
    pare_op_attention(f, y, q_dim, x, c->dim, spans, 2, 0, &a, shape.kv_heads, hd, c->n);
    return y;
}

static void each_operator_has_its_gradient(void **state) {
    (void)state;
    const grad_case cases[] = {
        {"rmsnorm", 5, 33, 0, 1e-3, 5 * 33 + 33, 5 * 33, rms_reference, rms_run, 165, 33, 0, 0},
        {"rmsnorm in place", 3, 40, 0, 1e-3, 160, 120, rms_reference, rms_in_place, 120, 40, 0, 0},
        {"add_rmsnorm", 4, 21, 0, 1e-3, 4 * 42 + 21, 4 * 42, add_rms_reference, add_rms_run, 168,
         21, 0, 0},
        {"layernorm", 4, 37, 0, 1e-3, 4 * 37 + 74, 4 * 37, layer_reference, layer_run, 148, 37, 185,
         37},
        {"head_rmsnorm", 3, 10, 4, 1e-3, 3 * 43 + 10, 3 * 43, head_rms_reference, head_rms_run, 129,
         10, 0, 0},
        {"silu_mul", 5, 61, 0, 0, 610, 305, silu_reference, silu_run, 0, 0, 0, 0},
        {"gelu_mul", 5, 61, 0, 0, 610, 305, gelu_mul_reference, gelu_mul_run, 0, 0, 0, 0},
        {"gelu", 3, 35, 0, 0, 105, 105, gelu_reference, gelu_run, 0, 0, 0, 0},
        {"relu", 3, 35, 0, 0, 105, 105, relu_reference, relu_run, 0, 0, 0, 0},
        {"top_k, a share", 4, 77, 0, 0.7, 308, 308, top_k_reference, top_k_run, 0, 0, 0, 0},
        {"top_k, a share by value", 3, 64, 0, 0.5, 192, 192, top_k_reference, top_k_run, 0, 0, 0,
         0},
        {"top_k, all but one", 2, 70, 0, 1, 140, 140, top_k_reference, top_k_run, 0, 0, 0, 0},
        {"top_k, 2:4", 4, 76, 2, 4, 304, 304, top_k_reference, top_k_run, 0, 0, 0, 0},
        {"top_k, 3:5 by value", 3, 70, 3, 5, 210, 210, top_k_reference, top_k_run, 0, 0, 0, 0},
        {"add, scale", 4, 77, 0, 1.5, 616, 308, sum_reference, sum_run, 0, 0, 0, 0},
        {"rope", 9, 24, 3, 0, 216, 216, rope_reference, rope_run, 0, 0, 0, 0},
        {"linear", 19, 27, 21, 0, 19 * 27 + 21 * 28, 19 * 21, linear_reference, linear_run, 513,
         567, 1080, 21},
        {"adapter", 19, 27, 21, 0.75, 19 * 27 + RANK * (27 + 21), 19 * 21, adapter_reference,
         adapter_run, 19 * 27, RANK * 27, (19 + RANK) * 27, RANK * 21},
        {"adapter, one row", 1, 40, 35, 1.5, 40 + RANK * (40 + 35), 35, adapter_reference,
         adapter_run, 40, RANK * 40, (1 + RANK) * 40, RANK * 35},
        {"linear, one row", 1, 40, 35, 0, 40 + 35 * 41, 35, linear_reference, linear_run, 40, 1400,
         1440, 35},
        {"embed", 7, 19, 0, 2.5, 8 * 19, 7 * 19, embed_reference, embed_run, 0, 8 * 19, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check(&cases[i]);
}

static void attention_has_its_gradient(void **state) {
    (void)state;
    const attention_shape shapes[] = {
        {1, 2, 8, {70, 3}, 0, 0.4, 0, 0},    {2, 4, 6, {5, 20}, 4, 0.5, 0, 0},
        {2, 2, 5, {9, 17}, 0, 0.6, 1.5, 0},  {1, 1, 20, {66, 1}, 65, 0.2, 3, 0},
        {1, 2, 8, {50, 3}, 0, 0.4, 0, 3},    {2, 4, 6, {5, 20}, 9, 0.5, 0, 4},
        {2, 2, 5, {9, 17}, 3, 0.6, 1.5, 17}, {1, 2, 6, {66, 1}, 0, 0.3, 0, 1},
        {2, 2, 4, {20, 7}, 70, 0.3, 2, 66},  {1, 1, 32, {33, 2}, 0, 0.2, 0, 0},
        {1, 2, 32, {20, 3}, 11, 0.2, 2, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        shape = shapes[i];
        size_t n = shape.n[0] + shape.n[1];
        size_t width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        size_t front = shape.front * shape.kv_heads * shape.head_dim;
        grad_case c = {"attention",
                       n,
                       width,
                       0,
                       0,
                       n * width + 2 * front,
                       n * shape.heads * shape.head_dim,
                       attention_reference,
                       attention_run,
                       n * width,
                       front,
                       n * width + front,
                       front};
        in_bf16 = shape.head_dim % 32 == 0;
        check(&c);
        in_bf16 = false;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_operator_has_its_gradient),
                                       cmocka_unit_test(attention_has_its_gradient)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
