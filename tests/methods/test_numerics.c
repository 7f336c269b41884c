/* What every method must survive (robustness, section 5): each method of the registry, with its
 * defaults and with every parameter at other values, on odd weights and odd inputs, over shapes
 * that end anywhere. A method that is added inherits all of it. */
#include "support/test.h"

#include "base/rng.h"
#include "methods/mask.h"
#include "methods/obs.h"
#include "tensor/encoding.h"
#include "tensor/grid.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_COLS = 128,
    MAX_ROWS = 17,
    MAX_VALUES = MAX_COLS * MAX_ROWS,
    MAX_TOKENS = 2 * MAX_COLS + 9
};

static pare_runtime *rt, *three;

/* ---- inputs ---- */

typedef enum inputs {
    IN_PLAIN,
    IN_NO_TOKEN,     /* nothing was seen (N8) */
    IN_DEAD,         /* a third of the inputs never was anything but 0 (N9) */
    IN_ONE_TOKEN,    /* a Hessian of rank 1 */
    IN_HUGE,         /* squares that f32 does not hold */
    IN_TINY,         /* squares that f32 rounds to 0 */
    IN_NOT_DEFINITE, /* a Hessian that has no factor (N10) */
    N_INPUTS
} inputs;

static const char *const input_names[N_INPUTS] = {
    "plain",       "no token",    "dead inputs",        "one token",
    "huge inputs", "tiny inputs", "no definite Hessian"};

typedef struct world {
    double h[MAX_COLS * MAX_COLS], squares[MAX_COLS], abs_sum[MAX_COLS];
    float abs_max[MAX_COLS], samples[MAX_TOKENS * MAX_COLS];
    pare_input_stats x;
} world;

static void make_world(world *world, inputs kind, size_t n) {
    double *h = world->h, *squares = world->squares, *abs_sum = world->abs_sum;
    float *abs_max = world->abs_max;
    size_t tokens = kind == IN_NO_TOKEN ? 0 : kind == IN_ONE_TOKEN ? 1 : 2 * n + 9;
    double scale = kind == IN_HUGE ? 1e25 : kind == IN_TINY ? 1e-25 : 1;
    for (size_t t = 0; t < tokens; t++) {
        double x[MAX_COLS], common = (double)pare_rng_normal(3, 0, t * 1000);
        for (size_t c = 0; c < n; c++) {
            x[c] = scale * (0.3 + (double)(c % 7)) *
                   ((double)pare_rng_normal(3, 0, t * 1000 + 1 + c) + 0.7 * common);
            if (kind == IN_DEAD && c % 3 == 1) x[c] = 0;
            abs_max[c] = fmaxf(abs_max[c], fabsf((float)x[c]));
            abs_sum[c] += fabs(x[c]);
            world->samples[t * n + c] = (float)x[c];
        }
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < n; k++) h[i * n + k] += x[i] * x[k];
    }
    for (size_t c = 0; c < n; c++) squares[c] = h[c * n + c];
    for (size_t i = 0; i < n * n && kind == IN_NOT_DEFINITE; i++)
        h[i] = i % (n + 1) == 0 ? 1 : -1e9;
    world->x = (pare_input_stats){n, tokens,         1,      squares, abs_max, abs_sum,
                                  h, world->samples, tokens, NULL,    NULL,    NULL};
}

/* ---- weights ---- */

typedef enum weights {
    W_NORMAL,
    W_ZERO,
    W_SIGNED_ZERO,
    W_DENORMAL,
    W_CONSTANT, /* ties everywhere */
    W_OUTLIER,
    W_ONE,   /* one weight of a row is not 0 */
    W_HALF,  /* every second one is 0, as a pruner left it */
    W_LARGE, /* more than f16 holds */
    W_LARGEST,
    N_WEIGHTS
} weights;

static const char *const weight_names[N_WEIGHTS] = {
    "normal",  "zero",      "signed zero", "denormal", "constant",
    "outlier", "one a row", "half zero",   "large",    "largest"};

static float weight(weights kind, size_t row, size_t col, size_t cols) {
    float normal = pare_rng_normal(5, 1, row * 1000 + col);
    switch (kind) {
    case W_ZERO:
        return 0.0f;
    case W_SIGNED_ZERO:
        return col % 2 ? 0.0f : -0.0f;
    case W_DENORMAL:
        return 1e-42f * (float)(1 + (row + col) % 9);
    case W_CONSTANT:
        return 0.25f;
    case W_OUTLIER:
        return col == 3 % cols ? 1000.0f : 1e-3f * normal;
    case W_ONE:
        return col == row % cols ? normal : 0.0f;
    case W_HALF:
        return col % 2 ? normal : 0.0f;
    case W_LARGE:
        return 1e8f * normal;
    case W_LARGEST:
        return (row + col) % 2 ? FLT_MAX : -FLT_MAX;
    default:
        return normal;
    }
}

/* ---- variants: every parameter alone at other values ---- */

typedef struct variant {
    const pare_method *m;
    char text[200]; /* for messages */
    char *options;
    bool unlike_defaults;
} variant;

/* The i-th value to try, or false. */
static bool value_of(const pare_param *p, int i, char *text, size_t n) {
    static const char *const sparsities[] = {"0", "1", "0.3", "2:4", "1:8"};
    static const char *const structures[] = {"block_2x4", "block_3x5", "channel_in", "channel_out"};
    static const int ints[] = {16, 32, 64, 128};
    switch (p->type) {
    case PARE_PARAM_FLOAT:
        snprintf(text, n, "%.9g", i == 0 ? p->min : p->max);
        return i < 2;
    case PARE_PARAM_INT:
        if (p->max - p->min < 10)
            snprintf(text, n, "%d", (int)p->min + i);
        else
            snprintf(text, n, "%d",
                     i == 0   ? (int)p->min
                     : i == 5 ? (int)p->max
                              : ints[(i - 1) % 4]);
        return p->max - p->min < 10 ? p->min + i <= p->max : i < 6;
    case PARE_PARAM_BOOL:
        snprintf(text, n, "%s", i ? "true" : "false");
        return i < 2;
    case PARE_PARAM_SPARSITY:
        snprintf(text, n, "%s", i < 5 ? sparsities[i] : "");
        return i < 5;
    case PARE_PARAM_STRUCTURE:
        snprintf(text, n, "%s", i < 4 ? structures[i] : "");
        return i < 4;
    case PARE_PARAM_CHOICE: {
        const char *at = p->choices;
        for (; i > 0 && at; i--) at = (at = strchr(at, '|')) ? at + 1 : NULL;
        if (at) snprintf(text, n, "%.*s", (int)strcspn(at, "|"), at);
        return at != NULL;
    }
    default:
        return false; /* lists of shares are settled before a method runs */
    }
}

/* The defaults (p NULL), or them with one value set; false when the method refuses it. */
static bool make_variant(variant *v, const pare_method *m, const pare_param *p, const char *value) {
    *v = (variant){.m = m, .options = calloc(1, m->options_size), .unlike_defaults = p != NULL};
    assert_non_null(v->options);
    pare_method_defaults(m, v->options);
    snprintf(v->text, sizeof v->text, "%s%s%s%s%s", m->name, p ? ":" : "", p ? p->name : "",
             p ? "=" : "", p ? value : "");
    pare_error err = {0};
    if (p && pare_param_set(p, v->options, value, &err) != PARE_OK) return false;
    return !m->check || m->check(v->options, &err) == PARE_OK;
}

/* ---- one run ---- */

static char place[400]; /* what is tried, for messages */

typedef struct outcome {
    pare_status st;
    pare_error err;
    int n_notes;
    float w[MAX_VALUES], scale[MAX_VALUES], input_scale[MAX_COLS];
    uint8_t zero[MAX_VALUES];
} outcome;

static void count_note(void *arg, const char *line) {
    assert_true(line[0]);
    ++*(int *)arg;
}

/* A loss that looks at the weights' change alone, weighed by the inputs. */
static pare_status weighed_change(void *arg, const float *const *w, double *loss, pare_error *err) {
    const pare_weight_job *job = arg;
    (void)err;
    *loss = 0;
    for (size_t i = 0; i < job->rows * job->cols; i++) {
        double d = (double)w[0][i] - (double)job->w[i];
        *loss += d * d * (job->x->squares[i % job->cols] + 1e-12);
    }
    return PARE_OK;
}

/* Scales of inputs are numbers that can be divided by. */
static void choose_scales(outcome *o, const variant *v, const pare_weight_job *job) {
    const float *w = job->w;
    pare_scale_job scales = {.rt = job->rt,
                             .name = job->name,
                             .n = 1,
                             .cols = job->cols,
                             .w = &w,
                             .rows = &job->rows,
                             .x = job->x,
                             .from_norm = true,
                             .loss = weighed_change,
                             .arg = (void *)job,
                             .note = count_note,
                             .note_arg = &o->n_notes};
    for (size_t c = 0; c < job->cols; c++) o->input_scale[c] = 1;
    o->st = v->m->scales(&scales, v->options, o->input_scale, &o->err);
    for (size_t c = 0; c < job->cols; c++)
        if (!isfinite(o->input_scale[c]) || !(o->input_scale[c] > 0))
            fail_msg("%s: input %zu: found scale %g", place, c, (double)o->input_scale[c]);
}

static void run(outcome *o, const variant *v, pare_runtime *on, const float *w, size_t rows,
                size_t cols, const pare_input_stats *x, bool keep_zeros) {
    memset(o, 0, sizeof *o);
    memcpy(o->w, w, rows * cols * sizeof *w);
    pare_weight_job job = {.rt = on,
                           .name = "blk.0.ffn_up.weight",
                           .stream = 7,
                           .w = o->w,
                           .rows = rows,
                           .cols = cols,
                           .x = v->m->needs || (v->m->uses && v->m->uses(v->options)) ? x : NULL,
                           .keep_zeros = keep_zeros,
                           .enc = v->m->encoding ? v->m->encoding(v->options) : NULL,
                           .scale = o->scale,
                           .zero = o->zero,
                           .note = count_note,
                           .note_arg = &o->n_notes};
    if (v->m->scales) choose_scales(o, v, &job);
    if (o->st == PARE_OK && v->m->run) o->st = v->m->run(&job, v->options, &o->err);
}

/* What is on a grid is stored as it is, or refused: scales have a smallest and a largest value. */
static bool encodes(const outcome *o, const variant *v, size_t rows, size_t cols, bool refusable) {
    const pare_encoding *enc = v->m->encoding(v->options);
    pare_tensor t = {0};
    pare_error err = {0};
    pare_status st =
        pare_tensor_encode_grid(rt, &t, enc, o->w, rows, cols, o->scale, o->zero, &err);
    if (st == PARE_ERR_ARG && (refusable || strstr(err.message, "columns, expected"))) return false;
    if (st != PARE_OK) fail_msg("%s: %s: %s", place, enc->name, err.message);
    float back[MAX_VALUES];
    pare_tensor_decode(rt, back, &t);
    for (size_t i = 0; i < rows * cols; i++)
        /* scales are stored in 16 bits: half a step of 11 of them */
        if (!(fabsf(back[i] - o->w[i]) <= 0x1p-11f * fabsf(o->w[i]) + 1e-7f))
            fail_msg("%s: value %zu: found %g, stored as %g", place, i, (double)o->w[i],
                     (double)back[i]);
    pare_tensor_free(&t);
    return true;
}

static size_t n_zeros(const float *w, size_t n) {
    size_t zeros = 0;
    for (size_t i = 0; i < n; i++) zeros += w[i] == 0.0f;
    return zeros;
}

/* Sparsity 0 changes nothing, N:M is exact, a share is met but for what whole rows, tiles and
 * blocks round away (N20). */
static void check_counts(const outcome *o, const variant *v, const float *w, size_t rows,
                         size_t cols) {
    const pare_prune_options *p = (const pare_prune_options *)v->options;
    size_t n = rows * cols, zeros = n_zeros(o->w, n);
    double want = (double)n * p->sparsity.share,
           slack = p->sparsity.m ? 0 : (double)rows + 1 + (double)n / 20;
    if (p->type.kind != PARE_STRUCTURE_WEIGHT) slack = (double)(rows + cols + 32);
    bool grid = v->m->encoding && v->m->encoding(v->options);
    if (grid ? (double)zeros < want - slack : fabs((double)zeros - want) > slack)
        fail_msg("%s: found %zu zeros, expected %g", place, zeros, want);
    if (p->sparsity.share == 0 && !grid && memcmp(o->w, w, n * sizeof *w) != 0)
        fail_msg("%s: weights changed", place);
}

/* What an error of the output costs against the simple method with the same parameters (N26). */
static void check_better_than_simple(const outcome *o, const variant *v, const float *w,
                                     size_t rows, const pare_input_stats *x) {
    static outcome simple;
    variant s;
    char value[PARE_PARAM_TEXT_MAX];
    assert_true(make_variant(&s, pare_method_find(v->m->prunes ? "magnitude" : "rtn"), NULL, NULL));
    for (const pare_param *p = s.m->params; p->name; p++)
        for (const pare_param *q = v->m->params; q->name; q++) {
            if (strcmp(p->name, q->name) != 0) continue;
            pare_param_text(q, v->options, value, sizeof value);
            assert_ok(pare_param_set(p, s.options, value, err));
        }
    run(&simple, &s, rt, w, rows, x->cols, x, false);
    double ours = pare_output_error(rt, x, o->w, w, rows),
           theirs = pare_output_error(rt, x, simple.w, w, rows);
    bool fair = n_zeros(o->w, rows * x->cols) <= n_zeros(simple.w, rows * x->cols);
    if (simple.st == PARE_OK && fair && !(ours <= theirs * (1 + 1e-9)))
        fail_msg("%s: found %g times the error of %s", place, ours / theirs, s.m->name);
    free(s.options);
}

static void check(const outcome *o, const variant *v, weights kind, inputs in, const float *w,
                  size_t rows, size_t cols, bool keep_zeros) {
    if (o->st != PARE_OK) { /* a shape that the parameters do not fit, values that do not */
        bool told = o->err.status == o->st && strstr(o->err.message, "found") &&
                    strstr(o->err.message, "blk.0.ffn_up.weight");
        bool may = o->st == PARE_ERR_ARG ? v->unlike_defaults || kind == W_LARGEST
                                         : o->st == PARE_ERR_INPUT && kind == W_LARGEST;
        if (!told || !may)
            fail_msg("%s: found %s \"%s\"", place, pare_status_name(o->st), o->err.message);
        return;
    }
    bool grid = v->m->encoding && v->m->encoding(v->options);
    if (grid && !encodes(o, v, rows, cols, kind == W_LARGE || kind == W_LARGEST)) return; /* N6 */
    for (size_t i = 0; i < rows * cols; i++) {
        if (!isfinite(o->w[i]) && kind == W_LARGEST && v->m->needs) return; /* the run refuses it */
        if (!isfinite(o->w[i]))
            fail_msg("%s: value %zu: found %g of %g", place, i, (double)o->w[i], (double)w[i]);
        if (w[i] == 0.0f && o->w[i] != 0.0f && (keep_zeros || kind <= W_SIGNED_ZERO))
            fail_msg("%s: value %zu: found %g, expected 0", place, i, (double)o->w[i]);
    }
    if ((v->m->needs & PARE_NEED_HESSIAN) && in == IN_NOT_DEFINITE && cols > 1 && !o->n_notes &&
        n_zeros(w, rows * cols) < rows * cols)
        fail_msg("%s: found no note", place);
}

enum { N_SHAPES = 6 };
static const size_t shapes[N_SHAPES][2] = {{3, 64}, {1, 64}, {5, 96}, {2, 33}, {4, 1}, {17, 128}};
static world (*worlds)[N_SHAPES]; /* [N_INPUTS] */

static void try_variant(const variant *v) {
    static outcome one, other;
    size_t turn = 0;
    for (int in = 0; in < N_INPUTS; in++)
        for (int kind = 0; kind < N_WEIGHTS; kind++) {
            size_t s = turn++ % N_SHAPES, rows = shapes[s][0], cols = shapes[s][1];
            if (test_is_slow() && turn % 3) continue;
            float w[MAX_VALUES];
            for (size_t i = 0; i < rows * cols; i++)
                w[i] = weight((weights)kind, i / cols, i % cols, cols);
            const pare_input_stats *x = &worlds[in][s].x;
            bool keep_zeros = kind == W_HALF || kind == W_ONE;
            snprintf(place, sizeof place, "%s, %s weights, %s, %zu x %zu", v->text,
                     weight_names[kind], input_names[in], rows, cols);
            run(&one, v, rt, w, rows, cols, x, keep_zeros);
            check(&one, v, (weights)kind, (inputs)in, w, rows, cols, keep_zeros);
            if (kind != W_NORMAL || one.st != PARE_OK) continue;
            if (v->m->prunes) check_counts(&one, v, w, rows, cols);
            bool promised = !strstr(v->text, "=published"); /* gptq's published form does not */
            if (in == IN_PLAIN && (v->m->needs & PARE_NEED_HESSIAN) && promised)
                check_better_than_simple(&one, v, w, rows, x);
            run(&other, v, three, w, rows, cols, x, keep_zeros);
            if (memcmp(one.w, other.w, sizeof one.w) != 0 ||
                memcmp(one.scale, other.scale, sizeof one.scale) != 0 ||
                memcmp(one.input_scale, other.input_scale, sizeof one.input_scale) != 0)
                fail_msg("%s: other bytes with 3 threads", place);
        }
}

static void every_variant(void **state) {
    (void)state;
    size_t n = 0;
    for (size_t i = 0; pare_step_method_at(i); i++) {
        const pare_method *m = pare_step_method_at(i);
        variant v;
        char value[64];
        assert_true(make_variant(&v, m, NULL, NULL));
        try_variant(&v);
        free(v.options);
        for (const pare_param *p = m->params; p->name; p++)
            for (int k = 0; value_of(p, k, value, sizeof value); k++) {
                bool good = make_variant(&v, m, p, value);
                if (good && !pare_param_is_default(p, v.options)) {
                    try_variant(&v);
                    n++;
                }
                free(v.options);
            }
    }
    assert_true(n > 30);
}

int main(void) {
    worlds = calloc(N_INPUTS, sizeof *worlds);
    if (!worlds) return 1;
    for (int in = 0; in < N_INPUTS; in++)
        for (size_t s = 0; s < N_SHAPES; s++) make_world(&worlds[in][s], (inputs)in, shapes[s][1]);
    rt = test_runtime(1, PARE_ISA_AMX);
    three = test_runtime(3, PARE_ISA_AMX);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_variant)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    pare_runtime_free(three);
    free(worlds);
    return failed;
}
