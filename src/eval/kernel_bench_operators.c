/* What stands between linear layers and attention: the operators of a forward pass and of a sampler
 * on rows of in_dim, and the activations that become int8. The limit is reading as many bytes from
 * where they lie: the caches, for few rows. */
#include "eval/kernel_bench.h"

#include "base/memory.h"
#include "base/runtime.h"

#include <math.h>

typedef struct operator_bench {
    const pare_kernel_bench *b;
    const pare_dot_kernels *dots;
    size_t rows, dim;
    float *x, *y, *z; /* [max_rows][dim]; z: a second input */
    float *g;         /* [dim] ones */
    float *heads;     /* [max_rows][n_heads * head_dim] */
    float *angles;    /* [max_rows][2][head_dim / 2] */
    double *sums;     /* [max_rows] */
    pare_rope rope;
    pare_act act;
    double read_limit;
} operator_bench;

typedef void (*operator_fn)(pare_fwd *f, const operator_bench *d);

static void run_rmsnorm(pare_fwd *f, const operator_bench *d) {
    pare_op_rmsnorm(f, d->y, d->x, d->g, d->rows, d->dim, 1e-5f);
}
static void run_add_rmsnorm(pare_fwd *f, const operator_bench *d) {
    pare_op_add_rmsnorm(f, d->y, d->x, d->z, d->g, d->rows, d->dim, 1e-5f);
}
static void run_layernorm(pare_fwd *f, const operator_bench *d) {
    pare_op_layernorm(f, d->y, d->x, d->g, d->g, d->rows, d->dim, 1e-5f);
}
static void run_rope(pare_fwd *f, const operator_bench *d) {
    const pare_kernel_bench_options *o = d->b->o;
    pare_op_rope(f, d->heads, o->n_heads * o->head_dim, d->rows, o->n_heads, &d->rope, d->angles);
}
static void run_silu_mul(pare_fwd *f, const operator_bench *d) {
    pare_op_silu_mul(f, d->y, d->x, d->z, d->rows, d->dim);
}
static void run_gelu_mul(pare_fwd *f, const operator_bench *d) {
    pare_op_gelu_mul(f, d->y, d->x, d->z, d->rows, d->dim);
}
static void run_softcap(pare_fwd *f, const operator_bench *d) {
    pare_op_softcap(f, d->y, d->x, 30, d->rows, d->dim);
}
static void run_softmax(pare_fwd *f, const operator_bench *d) {
    size_t begin, end;
    pare_share(f->w, d->rows, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        f->k->softmax->softmax(d->y + i * d->dim, d->x + i * d->dim, 1, d->dim);
    pare_barrier(f->w);
}
static void run_logsumexp(pare_fwd *f, const operator_bench *d) {
    size_t begin, end;
    pare_share(f->w, d->rows, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        d->sums[i] = f->k->softmax->logsumexp(d->x + i * d->dim, d->dim);
    pare_barrier(f->w);
}
static void run_argmax(pare_fwd *f, const operator_bench *d) {
    size_t begin, end;
    pare_share(f->w, d->rows, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        d->sums[i] = (double)f->k->softmax->argmax(d->x + i * d->dim, d->dim);
    pare_barrier(f->w);
}
static void run_quantize(pare_fwd *f, const operator_bench *d) {
    size_t begin, end;
    pare_share(f->w, d->rows, 1, &begin, &end);
    pare_act a = pare_act_row(&d->act, begin);
    if (begin < end) d->dots->quantize(&a, d->x + begin * d->dim, d->dim, end - begin, d->dim);
    pare_barrier(f->w);
}

/* Fused operations of an exponential, as vmath.h has it. */
enum { EXP = 10 };

/* bytes: read and written, of a value of the row; fused: multiplications and fused operations on
 * it, where there are enough to bind (divisions left out). */
static const struct {
    const char *kernel, *encoding;
    double bytes;
    int fused;
    operator_fn run;
} operators[] = {
    {"rmsnorm", "f32", 8, 0, run_rmsnorm},
    {"add_rmsnorm", "f32", 16, 0, run_add_rmsnorm},
    {"layernorm", "f32", 8, 0, run_layernorm},
    {"rope", "f32", 8, 0, run_rope},
    {"softmax", "f32", 8, EXP + 2, run_softmax},
    {"logsumexp", "f32", 4, EXP + 1, run_logsumexp},
    {"argmax", "f32", 4, 0, run_argmax},
    {"silu_mul", "f32", 12, EXP + 1, run_silu_mul},
    {"gelu_mul", "f32", 12, EXP + 4, run_gelu_mul},
    {"softcap", "f32", 8, 0, run_softcap},
    /* int8, an f32 scale and sum per 32, a sum per 16 */
    {"quantize", "q8", 4 + 1 + 8.0 / 32 + 4.0 / 16, 0, run_quantize},
};
enum { N_OPERATORS = sizeof operators / sizeof *operators };

typedef struct operator_call {
    const operator_bench *d;
    operator_fn run;
} operator_call;

static void run_operator(pare_worker *w, void *arg, size_t i) {
    const operator_call *c = arg;
    pare_fwd f = pare_kernel_fwd(w, pare_runtime_isa(c->d->b->rt));
    (void)i;
    c->run(&f, c->d);
}

static pare_status measure_rows(operator_bench *d, pare_error *err) {
    const pare_kernel_bench *b = d->b;
    PARE_TRY(
        pare_limits_read_rate(&d->read_limit, b->rt, d->rows * d->dim * 2 * sizeof(float), err));
    for (size_t i = 0; i < N_OPERATORS; i++) {
        if (!pare_kernel_wanted(b, operators[i].kernel)) continue;
        size_t width = operators[i].run == run_rope ? b->o->n_heads * b->o->head_dim : d->dim;
        operator_call c = {.d = d, .run = operators[i].run};
        pare_kernel_row row = {.kernel = operators[i].kernel,
                               .encoding = operators[i].encoding,
                               .rows = d->rows,
                               .bytes = operators[i].bytes * (double)d->rows * (double)width,
                               .read_limit = d->read_limit,
                               .ops = 2.0 * operators[i].fused * (double)(d->rows * width),
                               .op_limit = b->limits.f32_flop_per_s,
                               .products = operators[i].fused ? "f32" : NULL,
                               .rms_error = NAN};
        PARE_TRY(pare_kernel_team_time(&row.seconds, b, run_operator, &c, err));
        b->o->on_row(b->o->arg, &row);
    }
    return PARE_OK;
}

/* Lays everything out in an arena; without memory it only plans. */
static void place(operator_bench *d, pare_arena *arena) {
    const pare_kernel_bench_options *o = d->b->o;
    size_t n = d->b->max_rows;
    d->x = pare_arena_alloc(arena, n * d->dim, sizeof(float));
    d->y = pare_arena_alloc(arena, n * d->dim, sizeof(float));
    d->z = pare_arena_alloc(arena, n * d->dim, sizeof(float));
    d->g = pare_arena_alloc(arena, d->dim, sizeof(float));
    d->heads = pare_arena_alloc(arena, n * o->n_heads * o->head_dim, sizeof(float));
    d->angles = pare_arena_alloc(arena, n * o->head_dim, sizeof(float));
    d->sums = pare_arena_alloc(arena, n, sizeof(double));
    void *base = pare_arena_alloc(arena, pare_act_place(&d->act, NULL, n, d->dim), 1);
    if (base) pare_act_place(&d->act, base, n, d->dim);
}

static void fill(operator_bench *d) {
    const pare_kernel_bench_options *o = d->b->o;
    size_t n = d->b->max_rows;
    pare_kernel_normals(d->b, d->x, n * d->dim, 1, 0);
    pare_kernel_normals(d->b, d->z, n * d->dim, 1e-3f, 1); /* add_rmsnorm adds it many times */
    pare_kernel_normals(d->b, d->heads, n * o->n_heads * o->head_dim, 1, 2);
    for (size_t i = 0; i < d->dim; i++) d->g[i] = 1;
    d->rope = (pare_rope){.half = o->head_dim / 2, .scale = 1};
    for (size_t i = 0; i < d->rope.half; i++)
        d->rope.inv_freq[i] = pow(10000, -(double)i / (double)d->rope.half);
    for (size_t i = 0; i < n; i++) {
        float *c = d->angles + i * o->head_dim;
        pare_rope_angles(c, c + d->rope.half, &d->rope, i);
    }
}

pare_status pare_kernel_bench_operators(const pare_kernel_bench *b, pare_error *err) {
    bool wanted = false;
    for (size_t i = 0; i < N_OPERATORS; i++) wanted |= pare_kernel_wanted(b, operators[i].kernel);
    if (!wanted) return PARE_OK;
    operator_bench d = {
        .b = b, .dots = pare_dot_kernels_get(pare_runtime_isa(b->rt)), .dim = b->o->in_dim};
    pare_arena arena = {.capacity = SIZE_MAX};
    place(&d, &arena);
    size_t bytes = arena.peak;
    arena = (pare_arena){.base = pare_big_alloc(bytes), .capacity = bytes};
    if (!arena.base)
        return pare_fail(err, PARE_ERR_NOMEM, "bench: found no memory for %zu rows of %zu",
                         b->max_rows, d.dim);
    place(&d, &arena);
    fill(&d);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < b->o->n_rows && st == PARE_OK; i++) {
        pare_progress(b->rt, "operators", (double)i, (double)b->o->n_rows, "numbers of rows");
        d.rows = b->o->rows[i];
        st = measure_rows(&d, err);
    }
    pare_progress(b->rt, "operators", (double)b->o->n_rows, (double)b->o->n_rows,
                  "numbers of rows");
    pare_big_free(arena.base, bytes);
    return st;
}
