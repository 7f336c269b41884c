/* Attention against a naive f64 computation over shapes, windows, caps, codecs, levels and thread
 * counts, and the properties that need no reference. Built a second time with PARE_EMULATE for
 * levels that the machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/ops.h"
#include "base/rng.h"
#include "kernels/tile.h"

typedef struct shape {
    size_t n_heads, n_kv_heads, head_dim, n, pos0, window;
    float softcap;
    const char *codec;
    bool ring; /* only blocks that the window still sees are there */
} shape;

/* A problem: queries and all keys and values of positions 0 .. pos0 + n - 1, behind a prefix. */
typedef struct problem {
    shape s;
    size_t q_dim, kv_dim, n_pos;
    float *q, *k, *v, *out;   /* q, out [n][q_dim]; k, v [n_pos][kv_dim] */
    float *front_k, *front_v; /* [prefix.n][kv_dim] */
    pare_kv_layer front;
    pare_attn_prefix prefix; /* layers NULL: none */
    pare_kv_layer layer;
    uint8_t *cache, **blocks; /* blocks of the cache in an order that is not the positions' */
    pare_attn attn;
} problem;

/* Normal numbers, millions a problem: from a table, whose prime length leaves no two rows alike. */
static float *random_floats(size_t n, uint64_t stream, float scale) {
    enum { N = 65521 };
    static float table[N];
    for (size_t i = 0; table[N - 1] == 0 && i < N; i++) table[i] = pare_rng_normal(11, 0, i);
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = scale * table[(9973 * stream + i) % N];
    return x;
}

static size_t blocks_of(const problem *p) {
    return (p->n_pos + PARE_ATTN_KEYS - 1) / PARE_ATTN_KEYS;
}

static problem make_problem_behind(shape s, size_t n_front) {
    problem p = {.s = s,
                 .prefix = {.n = n_front},
                 .q_dim = s.n_heads * s.head_dim,
                 .kv_dim = s.n_kv_heads * s.head_dim,
                 .n_pos = s.pos0 + s.n};
    p.q = random_floats(s.n * p.q_dim, 1, 2.0f);
    p.k = random_floats(p.n_pos * p.kv_dim, 2, 1.0f);
    p.v = random_floats(p.n_pos * p.kv_dim, 3, 1.0f);
    p.out = random_floats(s.n * p.q_dim, 4, 1.0f); /* must be overwritten */
    p.front_k = random_floats(n_front * p.kv_dim, 5, 1.0f);
    p.front_v = random_floats(n_front * p.kv_dim, 6, 1.0f);
    p.front = pare_kv_layer_of(p.front_k, p.front_v, p.kv_dim, s.n_kv_heads, s.head_dim);
    p.attn = (pare_attn){.n_heads = s.n_heads,
                         .window = s.window,
                         .scale = 1.0f / sqrtf((float)s.head_dim),
                         .softcap = s.softcap};
    const pare_kv_codec *codec = pare_kv_codec_find(s.codec);
    size_t row = pare_kv_row_bytes(codec, s.head_dim);
    size_t keys = s.n_kv_heads * PARE_ATTN_KEYS * row;
    size_t n_blocks = blocks_of(&p);
    p.cache = malloc(2 * keys * n_blocks);
    memset(p.cache, 0xFF, 2 * keys * n_blocks); /* NaN wherever nothing is stored */
    p.blocks = malloc((n_blocks + 1) * sizeof *p.blocks);
    p.layer = (pare_kv_layer){.codec = codec,
                              .blocks = p.blocks,
                              .v_at = keys,
                              .n_kv_heads = s.n_kv_heads,
                              .head_dim = s.head_dim,
                              .head_stride = PARE_ATTN_KEYS * row,
                              .row_stride = row};
    return p;
}

static problem make_problem(shape s) { return make_problem_behind(s, 0); }

static pare_attn_span span_of(const problem *p, size_t n, size_t pos0) {
    return (pare_attn_span){&p->layer, n, pos0, p->prefix.layers ? &p->prefix : NULL};
}

static void free_problem(problem *p) {
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->out);
    free(p->front_k);
    free(p->front_v);
    free(p->cache);
    free(p->blocks);
}

typedef struct job {
    problem *p;
    pare_isa isa;
    pare_arena arena;
    size_t piece; /* tokens a call; 0 = all */
} job;

static void attend(pare_fwd *f, const problem *p, float *out, const float *q,
                   const pare_attn_span *spans, size_t n_spans, size_t n) {
    pare_op_attention(f, out, p->q_dim, q, p->q_dim, spans, n_spans, 0, &p->attn, p->s.n_kv_heads,
                      p->s.head_dim, n);
}

static void store_and_attend(pare_worker *w, void *arg) {
    const job *j = arg;
    problem *p = j->p;
    shape s = p->s;
    pare_fwd f = {.w = w, .isa = j->isa, .k = pare_op_kernels_get(j->isa), .arena = j->arena};
    pare_attn_span span = span_of(p, s.pos0, 0);
    if (s.pos0) pare_op_kv_store(&f, &span, 0, p->k, p->kv_dim, p->v, p->kv_dim, s.pos0);
    if (s.ring && w->id == 0)
        for (size_t b = 0; (b + 1) * PARE_ATTN_KEYS + s.window <= s.pos0 + 1; b++)
            p->blocks[b] = NULL;
    pare_barrier(w);
    size_t piece = j->piece ? j->piece : s.n;
    for (size_t i = 0; i < s.n; i += piece) {
        size_t n = s.n - i < piece ? s.n - i : piece, pos = s.pos0 + i;
        span = span_of(p, n, pos);
        if (n)
            pare_op_kv_store(&f, &span, 0, p->k + pos * p->kv_dim, p->kv_dim,
                             p->v + pos * p->kv_dim, p->kv_dim, n);
        attend(&f, p, p->out + i * p->q_dim, p->q + i * p->q_dim, &span, 1, n);
    }
}

static void run(problem *p, pare_isa isa, int n_threads, size_t piece) {
    size_t n_blocks = blocks_of(p), bytes = 2 * p->layer.v_at;
    for (size_t b = 0; b < n_blocks; b++) p->blocks[b] = p->cache + (n_blocks - 1 - b) * bytes;
    if (p->prefix.n) p->prefix.layers = &p->front; /* the problem lies still by now */
    pare_worker worker;
    pare_fwd plan = pare_fwd_plan(&worker, n_threads, isa, PARE_COMPUTE_EXACT);
    attend(&plan, p, NULL, NULL, NULL, 1, p->s.n);
    void *memory = aligned_alloc(64, plan.arena.peak);
    job j = {p, isa, {.base = memory, .capacity = plan.arena.peak}, piece};
    pare_runtime *rt = test_runtime(n_threads, isa);
    pare_team_run(rt, store_and_attend, &j);
    pare_runtime_free(rt);
    free(memory);
}

/* What the cache gives back for k or v: [n_pos][kv_dim]. */
static float *through_codec(const problem *p, const float *x) {
    const pare_kv_functions *codec = pare_kv_codec_functions(p->layer.codec, PARE_ISA_REF);
    float *y = malloc(p->n_pos * p->kv_dim * sizeof *y);
    uint8_t *row = malloc(p->layer.row_stride);
    for (size_t i = 0; i < p->n_pos * p->s.n_kv_heads; i++) {
        codec->store(row, x + i * p->s.head_dim, p->s.head_dim);
        codec->load(y + i * p->s.head_dim, p->s.head_dim, row, p->layer.row_stride, 1,
                    p->s.head_dim);
    }
    free(row);
    return y;
}

/* Head g at position j, the prefix's counted. */
TEST_PLAIN static const float *row_at(const problem *p, const float *front, const float *x,
                                      size_t j, size_t g) {
    size_t m = p->prefix.n;
    return (j < m ? front + j * p->kv_dim : x + (j - m) * p->kv_dim) + g * p->s.head_dim;
}

/* 2^-8 of each factor, and of their product */
#define BF16_PRODUCT 0x1.02p-7

/* Does a level with products of bf16 take them? */
static bool in_bf16(const problem *p) {
    return p->attn.bf16 && (p->s.n > PARE_ATTN_FEW || p->attn.many) && p->s.head_dim % 32 == 0;
}

/* The naive computation of one query and head; returns the bound of an f32 result's error. */
TEST_PLAIN static double naive_row(double *out, const problem *p, const float *k, const float *v,
                                   size_t i, size_t h) {
    shape s = p->s;
    size_t g = h / (s.n_heads / s.n_kv_heads), dim = s.head_dim, pos = p->prefix.n + s.pos0 + i;
    size_t first = s.window && pos + 1 > s.window ? pos + 1 - s.window : 0;
    double *score = malloc((pos + 1) * sizeof *score), max = -INFINITY, sum = 0, top_v = 0;
    double score_error = 0;
    const bool bf16 = in_bf16(p);
    for (size_t j = first; j <= pos; j++) {
        const float *key = row_at(p, p->front_k, k, j, g), *value = row_at(p, p->front_v, v, j, g);
        double dot = 0, mag = 0;
        for (size_t d = 0; d < dim; d++) {
            double t = (double)p->q[i * p->q_dim + h * dim + d] * key[d];
            dot += t;
            mag += fabs(t);
            top_v = fmax(top_v, fabs((double)value[d]));
        }
        score[j] = dot * (double)p->attn.scale;
        if (s.softcap > 0) {
            score[j] = s.softcap * tanh(score[j] / s.softcap);
            assert_true(fabs(score[j]) < s.softcap);
        }
        max = fmax(max, score[j]);
        double rounding = (double)(dim + 4) * FLT_EPSILON + (bf16 ? BF16_PRODUCT : 0.0);
        score_error = fmax(score_error, rounding * mag * p->attn.scale);
    }
    for (size_t d = 0; d < dim; d++) out[d] = 0;
    for (size_t j = first; j <= pos; j++) {
        const float *value = row_at(p, p->front_v, v, j, g);
        double weight = exp(score[j] - max);
        sum += weight;
        for (size_t d = 0; d < dim; d++) out[d] += weight * value[d];
    }
    for (size_t d = 0; d < dim; d++) out[d] /= sum;
    free(score);
    double integers = 0;
    if (p->attn.integers && strchr(s.codec, 'q') && s.n <= PARE_ATTN_FEW) {
        /* of 16 bits: half a step of 1 / 32767 of the largest, in a query, and in each weight of a
         * block times a scale (which is at most the largest value over the largest code); a block's
         * largest weight is in the sum */
        double top = 0, keys = 0;
        for (size_t d = 0; d < dim; d++)
            top = fmax(top, fabs((double)p->q[i * p->q_dim + h * dim + d]));
        for (size_t j = first; j <= pos; j++) {
            const float *key = row_at(p, p->front_k, k, j, g);
            double all = 0;
            for (size_t d = 0; d < dim; d++) all += fabs((double)key[d]);
            keys = fmax(keys, all);
        }
        score_error += 0.5 / 32767 * top * p->attn.scale * keys;
        integers = 0.5 / 32767 * PARE_ATTN_KEYS;
    }
    /* weights are off by the scores' error (twice: numerator and sum) and the roundings of n
     * additions; the cap adds 4 ulp of its range */
    double n = (double)(pos + 1 - first);
    return top_v * (expm1(2 * (score_error + 4 * FLT_EPSILON * s.softcap)) +
                    (n + 64) * FLT_EPSILON + integers + (bf16 ? BF16_PRODUCT : 0.0));
}

static void check(problem *p, const char *what) {
    float *k = through_codec(p, p->k), *v = through_codec(p, p->v);
    double *want = malloc(p->s.head_dim * sizeof *want);
    for (size_t i = 0; i < p->s.n; i++)
        for (size_t h = 0; h < p->s.n_heads; h++) {
            double tol = naive_row(want, p, k, v, i, h);
            for (size_t d = 0; d < p->s.head_dim; d++) {
                float got = p->out[i * p->q_dim + h * p->s.head_dim + d];
                if (!(fabs((double)got - want[d]) <= tol))
                    fail_msg("%s: heads %zu/%zu x %zu, n %zu at %zu, window %zu, cap %g, %s: "
                             "token %zu head %zu [%zu]: found %g, expected %g +- %g",
                             what, p->s.n_heads, p->s.n_kv_heads, p->s.head_dim, p->s.n, p->s.pos0,
                             p->s.window, (double)p->s.softcap, p->s.codec, i, h, d, (double)got,
                             want[d], tol);
            }
        }
    free(k);
    free(v);
    free(want);
}

static const shape shapes[] = {
    {1, 1, 64, 1, 0, 0, 0, "f32", false},      {3, 1, 64, 1, 5, 0, 0, "f16", false},
    {4, 2, 64, 1, 63, 0, 0, "f32", false},     {4, 2, 64, 1, 64, 0, 0, "f16", false},
    {9, 3, 64, 3, 500, 0, 0, "f16", false},    {8, 2, 128, 8, 1000, 0, 50, "bf16", false},
    {4, 1, 256, 2, 700, 100, 0, "f16", true},  {2, 1, 32, 1, 9000, 0, 0, "q8_0", false},
    {2, 2, 64, 1, 300, 1, 0, "f32", true},     {8, 8, 32, 5, 130, 64, 20, "q8_0", true},
    {2, 1, 6, 4, 70, 0, 0, "f32", false},      {3, 3, 7, 1, 129, 33, 0, "f16", true},
    {4, 1, 64, 1, 101, 0, 0, "q8_0", false},   {4, 1, 64, 1, 99, 40, 0, "bf16", true},
    {7, 1, 32, 1, 66, 0, 0, "f32", false},     {4, 2, 96, 4, 200, 70, 30, "q8_0", true},
    {1, 1, 160, 1, 333, 0, 0, "f16", false},   {4, 4, 64, 7, 61, 0, 0, "bf16", false},
    {9, 3, 64, 9, 0, 0, 0, "f32", false},      {9, 3, 64, 64, 0, 0, 0, "f16", false},
    {9, 3, 64, 100, 37, 0, 0, "f16", false},   {4, 2, 128, 65, 200, 0, 50, "bf16", false},
    {4, 1, 256, 70, 300, 96, 0, "f16", true},  {2, 2, 64, 130, 0, 1, 0, "f32", true},
    {8, 2, 80, 33, 90, 17, 0, "f16", true},    {2, 1, 6, 40, 70, 0, 0, "f32", false},
    {2, 1, 16, 20, 31, 0, 5, "f32", false},    {3, 3, 7, 25, 64, 33, 0, "bf16", true},
    {2, 1, 32, 1, 9000, 0, 0, "q4_0", false},  {8, 8, 32, 5, 130, 64, 20, "q4_0", true},
    {4, 1, 64, 1, 101, 0, 0, "q4_0", false},   {9, 3, 64, 3, 500, 0, 0, "q4_0", false},
    {4, 2, 96, 4, 200, 70, 30, "q4_0", true},  {9, 3, 64, 100, 37, 0, 0, "q4_0", false},
    {32, 2, 32, 17, 10, 0, 0, "q8_0", false},  {98, 1, 8, 10, 3, 0, 0, "f32", false},
    {8, 1, 128, 1, 4097, 0, 0, "q8_0", false}, {8, 1, 256, 2, 300, 77, 0, "q4_0", true},
    {6, 1, 96, 3, 65, 0, 0, "q4_0", false},    {10, 2, 160, 8, 190, 130, 50, "q8_0", true},
    {7, 1, 64, 8, 57, 0, 0, "q4_0", false},    {16, 1, 64, 5, 530, 40, 0, "q8_0", true},
};

static void matches_naive(void **state) {
    (void)state;
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (size_t i = 0; i < 2 * sizeof shapes / sizeof shapes[0]; i++) {
            problem p = make_problem(shapes[i / 2]);
            p.attn.integers = p.attn.bf16 = i % 2;
            run(&p, (pare_isa)isa, 2, 0);
            check(&p, pare_isa_name((pare_isa)isa));
            free_problem(&p);
        }
}

/* A prefix of every length of interest before all of it: shorter than a block, more than one,
 * inside and past the window. */
static const size_t fronts[] = {1, 3, 8, 17, 64, 70};
enum { N_FRONTS = sizeof fronts / sizeof *fronts, N_SHAPES = sizeof shapes / sizeof *shapes };

static void matches_naive_behind_a_prefix(void **state) {
    (void)state;
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (size_t i = 0; i < 2 * N_SHAPES; i++)
            for (size_t m = i % 2; m < N_FRONTS; m += 2) {
                problem p = make_problem_behind(shapes[i / 2], fronts[m]);
                p.attn.integers = p.attn.bf16 = (i + m / 2) % 2;
                p.attn.many = i % 3 == 0;
                run(&p, (pare_isa)isa, 2, 0);
                check(&p, pare_isa_name((pare_isa)isa));
                free_problem(&p);
            }
}

/* A prefix in f32 before an f32 cache: the sums of one sequence that holds both, to rounding;
 * windows smaller than the text, as large as it and more, as large as all and more. */
static void prefix_is_the_beginning(void **state) {
    (void)state;
    static const size_t windows[] = {0, 1, 5, 39, 40, 41, 43, 50, 57, 58, 100};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
        for (size_t m = 0; m < N_FRONTS; m++)
            for (size_t n = 1; n < 60; n += 29) {
                shape s = {6, 2, 32, n, 40, windows[w], 0, "f32", false};
                problem p = make_problem_behind(s, fronts[m]);
                s.pos0 += fronts[m];
                problem whole = make_problem(s);
                size_t front = fronts[m] * p.kv_dim, rest = p.n_pos * p.kv_dim;
                memcpy(whole.k, p.front_k, front * sizeof(float));
                memcpy(whole.v, p.front_v, front * sizeof(float));
                memcpy(whole.k + front, p.k, rest * sizeof(float));
                memcpy(whole.v + front, p.v, rest * sizeof(float));
                run(&p, TOP_LEVEL, 2, 0);
                run(&whole, TOP_LEVEL, 2, 0);
                for (size_t i = 0; i < n * p.q_dim; i++) /* values of about 1: measured 7e-7 */
                    assert_true(fabsf(p.out[i] - whole.out[i]) <= 3e-6f);
                free_problem(&p);
                free_problem(&whole);
            }
}

/* A prefix of no positions gives the bits of none. */
static void empty_prefix(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        problem p = make_problem(shapes[i]);
        size_t bytes = p.s.n * p.q_dim * sizeof(float);
        run(&p, TOP_LEVEL, 2, 0);
        float *first = malloc(bytes);
        memcpy(first, p.out, bytes);
        p.prefix.layers = &p.front;
        run(&p, TOP_LEVEL, 2, 0);
        assert_memory_equal(first, p.out, bytes);
        free(first);
        free_problem(&p);
    }
}

static void threads_give_same_bits(void **state) {
    (void)state;
    static const int counts[] = {2, 3, 7};
    for (size_t i = 0; i < 2 * sizeof shapes / sizeof shapes[0]; i++) {
        problem p = make_problem_behind(shapes[i / 2], i / 2 % 3 * 4);
        size_t bytes = p.s.n * p.q_dim * sizeof(float);
        p.attn.integers = i % 2;
        run(&p, TOP_LEVEL, 1, 0);
        float *first = malloc(bytes);
        memcpy(first, p.out, bytes);
        for (size_t c = 0; c < 3; c++) {
            run(&p, TOP_LEVEL, counts[c], 0);
            assert_memory_equal(first, p.out, bytes);
        }
        free(first);
        free_problem(&p);
    }
}

/* Prefill in pieces of more than PARE_ATTN_FEW tokens gives the bits of prefill at once; smaller
 * pieces take the other path and agree within the bound of check(). */
static void pieces_equal_the_whole(void **state) {
    (void)state;
    shape s = {6, 2, 64, 100, 45, 0, 0, "f16", false};
    for (int i = 0; i < 8; i++) {
        bool windowed = i % 2;
        s.window = windowed ? 50 : 0;
        s.ring = windowed;
        problem p = make_problem_behind(s, (size_t)(i / 2 % 2) * 9);
        p.attn.bf16 = i / 4;
        size_t bytes = s.n * p.q_dim * sizeof(float);
        run(&p, TOP_LEVEL, 2, 0);
        float *whole = malloc(bytes);
        memcpy(whole, p.out, bytes);
        run(&p, TOP_LEVEL, 2, 10);
        assert_memory_equal(whole, p.out, bytes);
        static const size_t pieces[] = {1, 3, 8, 27};
        for (size_t j = 0; j < 4; j++) {
            run(&p, TOP_LEVEL, 2, pieces[j]);
            check(&p, "pieces");
        }
        free(whole);
        free_problem(&p);
    }
}

/* In bf16 the result is another one where a level has such products and the heads' size allows, and
 * else that of f32. */
static void bf16_where_it_can(void **state) {
    (void)state;
    const size_t dims[] = {32, 48, 64, 160};
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (size_t i = 0; i < 2 * sizeof dims / sizeof *dims; i++) {
            problem p = make_problem((shape){4, 2, dims[i / 2], 20, 70, 0, 0, "f16", false});
            size_t bytes = p.s.n * p.q_dim * sizeof(float);
            p.attn.many = i % 2;
            run(&p, (pare_isa)isa, 1, 0);
            float *f32 = memcpy(malloc(bytes), p.out, bytes);
            p.attn.bf16 = true;
            run(&p, (pare_isa)isa, 1, 0);
            bool other = in_bf16(&p) && pare_tile_kernels_get((pare_isa)isa)->bf16;
            assert_int_equal(memcmp(f32, p.out, bytes) != 0, other);
            free(f32);
            free_problem(&p);
        }
}

/* Up to pare_attention_alike tokens together get the bits that each gets alone, for every codec, in
 * windows that are cut into ranges, and where the ranges get longer. */
static void few_tokens_get_the_bits_of_one(void **state) {
    (void)state;
    static const struct {
        size_t pos0, window, alike;
    } at[] = {{250, 0, 8},   {700, 512, 8},  {573, 512, 8},   {7920, 0, 8},
              {7924, 0, 4},  {7927, 0, 1},   {7928, 0, 8},    {8189, 0, 8},
              {15860, 0, 4}, {8000, 100, 8}, {7924, 8000, 4}, {9000, 7000, 8}};
    static const char *const codecs[] = {"f32", "f16", "bf16", "q8_0", "q4_0"};
    enum { N = sizeof codecs / sizeof *codecs };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        for (size_t c = 0; c < N + 2; c++) { /* the last two again in integers */
            size_t n = pare_attention_alike(at[i].pos0, at[i].window);
            assert_int_equal(n, at[i].alike);
            const char *codec = codecs[c < N ? c : c - 2];
            shape s = {12, 2, 32, n, at[i].pos0, at[i].window, 0, codec, at[i].window != 0};
            problem p = make_problem_behind(s, i % 3 * 4);
            p.attn.integers = c >= N;
            size_t bytes = n * p.q_dim * sizeof(float);
            run(&p, TOP_LEVEL, 2, 0);
            float *together = malloc(bytes);
            memcpy(together, p.out, bytes);
            run(&p, TOP_LEVEL, 2, 1);
            assert_memory_equal(together, p.out, bytes);
            free(together);
            free_problem(&p);
        }
}

/* T <= w: local equals global, bit for bit. w = 1: the output is v_i. */
static void windows(void **state) {
    (void)state;
    for (size_t n = 1; n < 60; n += 29) {
        shape s = {4, 2, 64, n, 20, 0, 0, "f32", false};
        problem global = make_problem(s), local = make_problem(s);
        local.attn.window = n + 20;
        run(&global, TOP_LEVEL, 2, 0);
        run(&local, TOP_LEVEL, 2, 0);
        assert_memory_equal(global.out, local.out, n * global.q_dim * sizeof(float));
        local.attn.window = 1;
        run(&local, TOP_LEVEL, 2, 0);
        for (size_t i = 0; i < n * local.q_dim; i++) {
            size_t row = i / local.q_dim, h = i % local.q_dim / 64;
            float v = local.v[(20 + row) * local.kv_dim + h / 2 * 64 + i % 64];
            assert_true(local.out[i] == v);
        }
        free_problem(&global);
        free_problem(&local);
    }
}

/* GQA equals MHA whose kv heads are repeated interleaved (head h reads h / (H / G)); a huge cap
 * changes nothing beyond rounding. */
static void grouped_heads(void **state) {
    (void)state;
    for (size_t n = 2; n < 50; n += 40) {
        shape s = {6, 2, 32, n, 40, 0, 0, "f32", false}, m = s;
        m.n_kv_heads = 6;
        problem gqa = make_problem(s), mha = make_problem(m);
        for (size_t j = 0; j < gqa.n_pos; j++)
            for (size_t h = 0; h < 6; h++) {
                size_t to = j * mha.kv_dim + h * 32, from = j * gqa.kv_dim + h / 3 * 32;
                memcpy(mha.k + to, gqa.k + from, 32 * sizeof(float));
                memcpy(mha.v + to, gqa.v + from, 32 * sizeof(float));
            }
        run(&gqa, TOP_LEVEL, 2, 0);
        run(&mha, TOP_LEVEL, 2, 0);
        assert_memory_equal(gqa.out, mha.out, n * gqa.q_dim * sizeof(float));
        mha.attn.softcap = 1e6f;
        run(&mha, TOP_LEVEL, 2, 0);
        for (size_t i = 0; i < n * gqa.q_dim; i++)
            assert_true(fabsf(gqa.out[i] - mha.out[i]) < 1e-4f); /* 4 ulp of scores of about 10 */
        free_problem(&gqa);
        free_problem(&mha);
    }
}

/* Scores of -Inf weigh nothing and never give NaN; a NaN key spoils only the rows that see it; no
 * tokens is no work. */
static void odd_numbers(void **state) {
    (void)state;
    for (size_t n = 1; n < 30; n += 19) {
        shape s = {2, 2, 16, n, 70, 0, 0, "f32", false};
        problem p = make_problem(s);
        for (size_t i = 0; i < n * p.q_dim; i++) p.q[i] = 1.0f;
        for (size_t i = 0; i < p.n_pos * p.kv_dim; i++) p.k[i] = -INFINITY;
        run(&p, TOP_LEVEL, 2, 0);
        for (size_t i = 0; i < n * p.q_dim; i++) assert_true(p.out[i] == 0.0f);
        for (size_t d = 0; d < 16; d++) p.k[3 * p.kv_dim + d] = 1.0f; /* head 0 sees one key */
        run(&p, TOP_LEVEL, 2, 0);
        for (size_t i = 0; i < n * p.q_dim; i++) {
            float want = i % 32 < 16 ? p.v[3 * p.kv_dim + i % 16] : 0.0f;
            assert_true(p.out[i] == want);
        }
        free_problem(&p);

        p = make_problem(s);
        p.k[(p.n_pos - 1) * p.kv_dim + 5] = NAN;
        run(&p, TOP_LEVEL, 2, 0);
        for (size_t i = 0; i < n * p.q_dim; i++)
            assert_true(!isnan(p.out[i]) == !(i / p.q_dim == n - 1 && i % 32 < 16));
        p.s.n = 0;
        run(&p, TOP_LEVEL, 2, 0);
        free_problem(&p);
    }
}

/* Attention over plain activations is attention over an f32 cache. */
static void without_a_cache(void **state) {
    (void)state;
    shape s = {4, 2, 64, 40, 0, 9, 0, "f32", false};
    problem p = make_problem(s), plain = make_problem(s);
    run(&p, TOP_LEVEL, 2, 0);
    pare_worker worker;
    pare_fwd plan = pare_fwd_plan(&worker, 1, TOP_LEVEL, PARE_COMPUTE_EXACT);
    attend(&plan, &plain, NULL, NULL, NULL, 1, s.n);
    void *memory = aligned_alloc(64, plan.arena.peak);
    plain.layer = pare_kv_layer_of(plain.k, plain.v, plain.kv_dim, 2, 64);
    pare_attn_span span = span_of(&plain, s.n, 0);
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_team *team;
    assert_int_equal(pare_team_create(&team, 1, NULL), PARE_OK);
    pare_worker alone = {.team = team, .n = 1};
    pare_attention(&alone, TOP_LEVEL, memory, plain.out, plain.q_dim, plain.q, plain.q_dim, &span,
                   1, 0, &plain.attn);
    assert_memory_equal(p.out, plain.out, s.n * p.q_dim * sizeof(float));
    pare_team_free(team);
    pare_runtime_free(rt);
    free(memory);
    free_problem(&p);
    free_problem(&plain);
}

/* Sequences of all kinds in one call get the bits that each gets alone. */
typedef struct several {
    problem *p;
    pare_attn_span *spans;
    size_t n_spans, n;
    float *q, *out;
    pare_arena arena;
} several;

static void attend_several(pare_worker *w, void *arg) {
    const several *t = arg;
    pare_fwd f = {.w = w, .isa = TOP_LEVEL, .k = pare_op_kernels_get(TOP_LEVEL), .arena = t->arena};
    attend(&f, t->p, t->out, t->q, t->spans, t->n_spans, t->n);
}

static void sequences_are_independent(void **state) {
    (void)state;
    static const struct {
        size_t n, pos0;
    } all[] = {{1, 0}, {3, 700}, {40, 5}, {1, 3000}, {8, 250}, {9, 64}, {0, 10}, {2, 63}};
    enum { N = sizeof all / sizeof *all };
    for (int round = 0; round < 4; round++) {
        int n_threads = round ? round : 2;
        problem p[N];
        pare_attn_span spans[N];
        several t = {.p = &p[0], .spans = spans, .n_spans = N};
        for (size_t i = 0; i < N; i++) {
            shape s = {6, 2, 64, all[i].n, all[i].pos0, n_threads == 3 ? 100 : 0, 0, "f16", false};
            if (round == 0) s.codec = "q8_0";
            p[i] = make_problem_behind(s, i % 3 * 5);
            p[i].attn.integers = round == 0;
            for (size_t j = 0; j < p[i].n_pos * p[i].kv_dim; j++) p[i].k[j] *= 1 + 0.1f * (float)i;
            run(&p[i], TOP_LEVEL, n_threads, 0);
            spans[i] = span_of(&p[i], s.n, s.pos0);
            t.n += s.n;
        }
        size_t width = p[0].q_dim, first = 0;
        t.q = malloc(t.n * width * sizeof *t.q);
        t.out = malloc(t.n * width * sizeof *t.out);
        for (size_t i = 0; i < N; first += all[i++].n)
            memcpy(t.q + first * width, p[i].q, all[i].n * width * sizeof *t.q);
        pare_worker worker;
        pare_fwd plan = pare_fwd_plan(&worker, n_threads, TOP_LEVEL, PARE_COMPUTE_EXACT);
        attend(&plan, &p[0], NULL, NULL, NULL, N, t.n);
        t.arena =
            (pare_arena){.base = aligned_alloc(64, plan.arena.peak), .capacity = plan.arena.peak};
        pare_runtime *rt = test_runtime(n_threads, TOP_LEVEL);
        pare_team_run(rt, attend_several, &t);
        pare_runtime_free(rt);
        first = 0;
        for (size_t i = 0; i < N; first += all[i++].n) {
            assert_memory_equal(t.out + first * width, p[i].out, all[i].n * width * sizeof(float));
            free_problem(&p[i]);
        }
        free(t.arena.base);
        free(t.q);
        free(t.out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_naive),
        cmocka_unit_test(matches_naive_behind_a_prefix),
        cmocka_unit_test(prefix_is_the_beginning),
        cmocka_unit_test(empty_prefix),
        cmocka_unit_test(threads_give_same_bits),
        cmocka_unit_test(pieces_equal_the_whole),
        cmocka_unit_test(bf16_where_it_can),
        cmocka_unit_test(few_tokens_get_the_bits_of_one),
        cmocka_unit_test(windows),
        cmocka_unit_test(grouped_heads),
        cmocka_unit_test(odd_numbers),
        cmocka_unit_test(without_a_cache),
        cmocka_unit_test(sequences_are_independent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
