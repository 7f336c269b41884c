/* The gradient of a prefix's keys and values through whole models, entry by entry, beside central
 * differences of a plain model in f64 (CushionCache's sheet, check 5): of the model's loss, of L_q
 * with its grids and codes held, and of the loss behind quantized inputs, whose gradient passes
 * straight through.
 *
 * A pass of pare's says where values fall: codes of L_q, and what rounding moves inputs by. The
 * plain model computes with these held, so that what it computes has a derivative, which is the one
 * that is meant. */
#include "support/model_files.h"
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/act.h"
#include "model/prefix.h"
#include "train/prefix_loss.h"

enum { M = 3, N = 10, TEXTS = 2, ROWS = TEXTS * N, MAX_LAYERS = 4, MAX_WIDTH = 256 };
enum { OUTPUT, INPUT, SITES }; /* X: of blocks, of their matrices */
enum { TENSOR, TOKEN, GRIDS }; /* grids of L_q: of a text's tokens, or of each */
enum { MAX_X = 1 << 17, BITS = 4, FORWARD_BITS = 5 };

/* --- the plain model --- */

typedef struct matrix {
    double *w; /* [rows][cols] */
    const float *bias;
    size_t rows, cols;
} matrix;

typedef struct plain {
    const pare_model *m;
    matrix embd, head, layer[MAX_LAYERS][7]; /* q, k, v, output, gate, up, down */
    double *kv[2 * MAX_LAYERS];              /* [M][kv_dim] keys and values of the prefix */
    const int32_t *ids;                      /* [TEXTS][N] */
    float *x, *held[GRIDS], *shift;          /* of all X, each [ROWS][its width]: what a pass had,
                                                q(x), what rounding adds to inputs */
    bool moves;                              /* inputs are quantized */
    size_t at, text;
    double pred, error[SITES][GRIDS], off; /* off: the most that X is off x, of its largest */
} plain;

static matrix matrix_of(const pare_linear *l) {
    matrix t = {.bias = l->bias, .rows = l->w.view.rows, .cols = l->w.view.cols};
    float *row = pare_calloc(t.cols, sizeof *row);
    t.w = pare_calloc(t.rows * t.cols, sizeof *t.w);
    for (size_t r = 0; r < t.rows; r++) {
        l->w.enc->decode(row, &l->w.view, r, 0, t.cols);
        for (size_t c = 0; c < t.cols; c++) t.w[r * t.cols + c] = (double)row[c];
    }
    pare_free(row);
    return t;
}

static void open_plain(plain *p, const pare_model *m, const int32_t *ids) {
    *p = (plain){.m = m, .ids = ids, .embd = matrix_of(&m->weights.token_embd)};
    assert_true(m->config.n_layers <= MAX_LAYERS);
    p->head = matrix_of(m->head);
    p->x = pare_calloc(MAX_X, sizeof *p->x);
    p->shift = pare_calloc(MAX_X, sizeof *p->shift);
    for (int g = 0; g < GRIDS; g++) p->held[g] = pare_calloc(MAX_X, sizeof *p->held[g]);
    for (size_t l = 0; l < m->config.n_layers; l++) {
        const pare_layer *y = &m->weights.layers[l];
        const pare_linear *const of[] = {&y->attn_q,   &y->attn_k, &y->attn_v,  &y->attn_output,
                                         &y->ffn_gate, &y->ffn_up, &y->ffn_down};
        for (size_t i = 0; i < 7; i++) p->layer[l][i] = matrix_of(of[i]);
        for (size_t v = 0; v < 2; v++) {
            const size_t n = M * m->prefix->kv_dim;
            p->kv[2 * l + v] = pare_calloc(n, sizeof(double));
            for (size_t i = 0; i < n; i++)
                p->kv[2 * l + v][i] = (double)pare_prefix_rows(m->prefix, l, v)[i];
        }
    }
}

static void close_plain(plain *p) {
    pare_free(p->embd.w);
    pare_free(p->head.w);
    pare_free(p->x);
    pare_free(p->shift);
    for (int g = 0; g < GRIDS; g++) pare_free(p->held[g]);
    for (size_t l = 0; l < p->m->config.n_layers; l++) {
        for (size_t i = 0; i < 7; i++) pare_free(p->layer[l][i].w);
        pare_free(p->kv[2 * l]);
        pare_free(p->kv[2 * l + 1]);
    }
}

TEST_PLAIN static void multiply(double *y, const matrix *t, const double *x) {
    for (size_t i = 0; i < N; i++)
        for (size_t r = 0; r < t->rows; r++) {
            double sum = t->bias ? (double)t->bias[r] : 0;
            for (size_t c = 0; c < t->cols; c++) sum += t->w[r * t->cols + c] * x[i * t->cols + c];
            y[i * t->rows + r] = sum;
        }
}

/* y may be x. */
TEST_PLAIN static void rmsnorm(double *y, const double *x, const float *w, size_t n, double eps) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
    const double scale = 1 / sqrt(sum / (double)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = x[i] * scale * (double)w[i];
}

TEST_PLAIN static void norm_rows(double *y, const double *x, const pare_norm *norm, size_t n,
                                 double eps) {
    for (size_t i = 0; i < N; i++) rmsnorm(y + i * n, x + i * n, norm->w, n, eps);
}

/* X of the text at work: its error, and where inputs are quantized what rounding adds. */
TEST_PLAIN static void meet(plain *p, double *x, size_t width, int site) {
    const size_t first = p->at + p->text * N * width;
    double most = 0, off = 0;
    for (size_t i = 0; i < N * width; i++) {
        const double was = (double)p->x[first + i];
        most = fmax(most, fabs(was));
        off = fmax(off, fabs(was - x[i]));
        for (int g = 0; g < GRIDS; g++) {
            const double e = x[i] - (double)p->held[g][first + i];
            p->error[site][g] += e * e / TEXTS;
        }
        if (site == INPUT && p->moves) x[i] += (double)p->shift[first + i];
    }
    p->off = fmax(p->off, off / most);
    p->at += ROWS * width;
}

TEST_PLAIN static void rotate(double *x, const pare_rope *rope, size_t pos) {
    for (size_t i = 0; i < rope->half; i++) {
        const double angle = (double)pos * rope->inv_freq[i], c = cos(angle) * rope->scale,
                     s = sin(angle) * rope->scale, a = x[i], b = x[i + rope->half];
        x[i] = a * c - b * s;
        x[i + rope->half] = b * c + a * s;
    }
}

/* Key or value number j of what stands in front and of the text's. */
static const double *row_of(const plain *p, size_t kv, const double *own, size_t j, size_t dim) {
    return j < M ? p->kv[kv] + j * dim : own + (j - M) * dim;
}

TEST_PLAIN static void attention(const plain *p, size_t layer, double *out, const double *q,
                                 const double *k, const double *v) {
    const pare_model_config *c = &p->m->config;
    const size_t d = c->head_dim, kv_dim = c->n_kv_heads * d;
    for (size_t i = 0; i < N; i++)
        for (size_t h = 0; h < c->n_heads; h++) {
            const size_t at = h / (c->n_heads / c->n_kv_heads) * d;
            double score[M + N], sum = 0, *o = out + i * c->n_heads * d + h * d;
            size_t first = 0;
            if (c->window && c->local[layer] && M + i + 1 > c->window)
                first = M + i + 1 - c->window;
            for (size_t j = first; j <= M + i; j++) {
                score[j] = 0;
                for (size_t e = 0; e < d; e++)
                    score[j] += q[i * c->n_heads * d + h * d + e] *
                                row_of(p, 2 * layer, k, j, kv_dim)[at + e];
                sum += score[j] = exp(score[j] * (double)c->attn_scale);
            }
            memset(o, 0, d * sizeof *o);
            for (size_t j = first; j <= M + i; j++)
                for (size_t e = 0; e < d; e++)
                    o[e] += score[j] / sum * row_of(p, 2 * layer + 1, v, j, kv_dim)[at + e];
        }
}

TEST_PLAIN static void heads(const plain *p, size_t layer, double *x, size_t n_heads,
                             const pare_norm *norm) {
    const pare_model_config *c = &p->m->config;
    const pare_rope *rope = c->window && c->local[layer] ? &p->m->rope_local : &p->m->rope;
    for (size_t i = 0; i < N; i++)
        for (size_t h = 0; h < n_heads; h++) {
            double *head = x + (i * n_heads + h) * c->head_dim;
            if (norm->w) rmsnorm(head, head, norm->w, c->head_dim, (double)c->norm_eps);
            rotate(head, rope, M + i);
        }
}

TEST_PLAIN static void run_layer(plain *p, size_t l, double *h) {
    static double x[N * MAX_WIDTH], q[N * MAX_WIDTH], k[N * MAX_WIDTH], v[N * MAX_WIDTH],
        o[N * MAX_WIDTH], part[N * MAX_WIDTH];
    const pare_model_config *c = &p->m->config;
    const pare_layer *y = &p->m->weights.layers[l];
    const matrix *w = p->layer[l];
    norm_rows(x, h, &y->attn_norm, c->dim, (double)c->norm_eps);
    meet(p, x, c->dim, INPUT);
    multiply(q, &w[0], x);
    multiply(k, &w[1], x);
    multiply(v, &w[2], x);
    heads(p, l, q, c->n_heads, &y->attn_q_norm);
    heads(p, l, k, c->n_kv_heads, &y->attn_k_norm);
    attention(p, l, o, q, k, v);
    meet(p, o, w[3].cols, INPUT);
    multiply(part, &w[3], o);
    for (size_t i = 0; i < N * c->dim; i++) h[i] += part[i];
    norm_rows(x, h, &y->ffn_norm, c->dim, (double)c->norm_eps);
    meet(p, x, c->dim, INPUT);
    multiply(q, &w[4], x);
    multiply(k, &w[5], x);
    for (size_t i = 0; i < N * c->ffn_dim; i++) q[i] = q[i] / (1 + exp(-q[i])) * k[i];
    meet(p, q, c->ffn_dim, INPUT);
    multiply(part, &w[6], q);
    for (size_t i = 0; i < N * c->dim; i++) h[i] += part[i];
    meet(p, h, c->dim, OUTPUT);
}

/* The losses: mean negative log-likelihood of all tokens but the first, and errors. */
TEST_PLAIN static void run_plain(plain *p) {
    static double h[N * MAX_WIDTH], logits[N * MAX_WIDTH];
    const pare_model_config *c = &p->m->config;
    assert_true(c->vocab_size <= MAX_WIDTH && c->ffn_dim <= MAX_WIDTH);
    p->pred = p->off = 0;
    memset(p->error, 0, sizeof p->error);
    for (p->text = 0; p->text < TEXTS; p->text++) {
        const int32_t *ids = p->ids + p->text * N;
        for (size_t i = 0; i < N * c->dim; i++)
            h[i] =
                (double)c->embed_scale * p->embd.w[(size_t)ids[i / c->dim] * c->dim + i % c->dim];
        p->at = 0;
        for (size_t l = 0; l < c->n_layers; l++) run_layer(p, l, h);
        norm_rows(h, h, &p->m->weights.output_norm, c->dim, (double)c->norm_eps);
        multiply(logits, &p->head, h);
        for (size_t i = 0; i + 1 < N; i++) {
            double sum = 0;
            const double *z = logits + i * c->vocab_size;
            for (size_t v = 0; v < c->vocab_size; v++) sum += exp(z[v]);
            p->pred += (log(sum) - z[ids[i + 1]]) / (TEXTS * (N - 1));
        }
    }
}

/* --- what a pass of pare's had --- */

static const pare_act_scheme grids[GRIDS] = {
    {.granularity = PARE_ACT_PER_TENSOR_DYNAMIC, .bits = BITS},
    {.granularity = PARE_ACT_PER_TOKEN, .bits = BITS}};

static void note(plain *p, const float *x, size_t ldx, size_t in) {
    float *to = p->x + p->at;
    assert_true(p->at + ROWS * in <= MAX_X);
    for (size_t i = 0; i < ROWS; i++) memcpy(to + i * in, x + i * ldx, in * sizeof *to);
    for (size_t t = 0; t < TEXTS; t++) {
        const float *from = to + t * N * in;
        const pare_act_range all = pare_act_range_of(PARE_ISA_REF, from, in, N, in);
        for (int g = 0; g < GRIDS; g++) {
            const pare_act_grid grid = pare_act_grid_of(&grids[g], all);
            pare_act_quantize_rows(&grids[g], g == TOKEN ? NULL : &grid, PARE_ISA_REF,
                                   p->held[g] + p->at + t * N * in, in, from, in, N, in);
        }
    }
}

static void see_output(void *arg, pare_fwd *f, size_t layer, float *h, size_t n) {
    plain *p = arg;
    (void)layer, (void)n;
    if (f->w->id != 0 || pare_fwd_planning(f)) return;
    note(p, h, p->m->config.dim, p->m->config.dim);
    p->at += ROWS * p->m->config.dim;
}

/* All rows of the pass share a grid where it is one of a tensor. */
static bool see_input(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                      const float *x, size_t ldx, size_t n, size_t in) {
    plain *p = arg;
    const pare_act_site *site = outs[0].act;
    (void)n_outs, (void)n;
    if (f->w->id != 0 || pare_fwd_planning(f)) return true;
    note(p, x, ldx, in);
    float *from = p->x + p->at, *to = p->shift + p->at;
    if (site) {
        const pare_act_grid joint =
            pare_act_grid_of(site->scheme, pare_act_range_of(PARE_ISA_REF, from, in, ROWS, in));
        const pare_act_grid *grid = site->scheme->granularity == PARE_ACT_PER_TOKEN ? NULL
                                    : site->scheme->granularity == PARE_ACT_PER_TENSOR_STATIC
                                        ? &site->grid
                                        : &joint;
        pare_act_quantize_rows(site->scheme, grid, PARE_ISA_REF, to, in, from, in, ROWS, in);
        for (size_t i = 0; i < ROWS * in; i++) to[i] -= from[i];
    }
    p->at += ROWS * in;
    return true;
}

static void look(plain *p, pare_train_weights *w) {
    const pare_step_options so = {.n_tokens = ROWS,
                                  .n_spans = TEXTS,
                                  .compute = PARE_COMPUTE_EXACT,
                                  .on_output = see_output,
                                  .on_output_arg = p,
                                  .probe = see_input,
                                  .probe_arg = p};
    const size_t lengths[TEXTS] = {N, N};
    int32_t targets[ROWS];
    pare_step *s;
    double nll;
    for (size_t i = 0; i < ROWS; i++) targets[i] = i ? -1 : 0;
    assert_ok(pare_step_create(&s, w, &so, err));
    p->at = 0;
    assert_ok(pare_step_run(s, &(pare_batch){p->ids, targets, lengths, ROWS, TEXTS}, false, 0, &nll,
                            err));
    pare_step_free(s);
    run_plain(p);
    if (!(p->off < 2e-5)) fail_msg("the plain model is off by %g", p->off); /* found: 2e-6 */
}

/* --- beside each other --- */

typedef struct slopes {
    double pred, error[SITES][GRIDS];
} slopes;

/* f(kv + h) - f(kv - h) over 2 h of every stride'th entry. */
static slopes *differences(plain *p, size_t n_values, size_t stride) {
    const size_t of_one = M * p->m->prefix->kv_dim;
    const double h = 1e-5;
    slopes *all = pare_calloc(n_values, sizeof *all);
    for (size_t i = 0; i < n_values; i += stride) {
        double *value = &p->kv[i / of_one][i % of_one], was = *value;
        slopes *s = &all[i];
        for (int side = 1; side >= -1; side -= 2) {
            *value = was + side * h;
            run_plain(p);
            s->pred += side * p->pred / (2 * h);
            for (int k = 0; k < SITES * GRIDS; k++)
                s->error[k / GRIDS][k % GRIDS] += side * p->error[k / GRIDS][k % GRIDS] / (2 * h);
        }
        *value = was;
    }
    return all;
}

/* Of f32 through three layers, and of L_q's codes held; found: 6.5e-5 of the largest. */
#define LIMIT 3e-4
static double most_off; /* of all ways, for whoever changes the limit */

/* L_q's slope with the tensors that count: outputs, inputs or both. */
static double slope_of(const slopes *s, int site, int grid) {
    return (site != 1 ? s->error[OUTPUT][grid] : 0) + (site != 0 ? s->error[INPUT][grid] : 0);
}

/* way 0: L_pred alone; then every X on every grid, as sums and as means, with a weight that makes
 * both parts alike. */
static void compare(const plain *p, pare_train_weights *w, const slopes *want, size_t n_values,
                    size_t stride, const char *name, int way) {
    const pare_model_config *c = &p->m->config;
    const int site = way ? (way - 1) % 3 : 0, grid = way ? (way - 1) / 3 % GRIDS : 0;
    const size_t inputs = 2 * c->dim + c->n_heads * c->head_dim + c->ffn_dim,
                 width = (site != 1 ? c->dim : 0) + (site != 0 ? inputs : 0),
                 of_one = M * p->m->prefix->kv_dim;
    double of_pred = 0, of_error = 0, most = 0, off = 0;
    for (size_t i = 0; i < n_values; i += stride) {
        of_pred = fmax(of_pred, fabs(want[i].pred));
        of_error = fmax(of_error, fabs(slope_of(&want[i], site, grid)));
    }
    assert_true(of_error > 0);
    pare_prefix_loss_options o = {.scheme = grids[grid],
                                  .outputs = site != 1,
                                  .inputs = site != 0,
                                  .mean = way % 2,
                                  .n = N,
                                  .n_texts = TEXTS,
                                  .compute = PARE_COMPUTE_EXACT};
    const double part = o.mean ? (double)(N * width) : 1;
    o.lambda = way ? of_pred / (of_error / part) : 0;
    pare_prefix_loss *l;
    pare_prefix_losses losses;
    assert_ok(pare_prefix_loss_create(&l, w, &o, err));
    pare_train_weights_clear(w);
    assert_ok(pare_prefix_loss_run(l, p->ids, TEXTS, true, &losses, err));
    pare_prefix_loss_free(l);
    for (size_t i = 0; i < n_values; i += stride) {
        const double slope = want[i].pred + o.lambda / part * slope_of(&want[i], site, grid),
                     got = (double)w->tensors[i / of_one].grad[i % of_one];
        most = fmax(most, fabs(slope));
        off = fmax(off, fabs(slope - got));
    }
    most_off = fmax(most_off, off / most);
    /* with a straight-through estimator in L_q its part would be 0: half of the sum is off then */
    if (!(off < LIMIT * most))
        fail_msg("%s, way %d: a gradient is off by %g of %g", name, way, off, most);
}

/* granularity -1: inputs as they are. */
static void gradients(const char *name, int granularity, size_t stride) {
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    int32_t ids[M + ROWS];
    pare_model *m;
    pare_train_weights *w;
    plain p;
    fixture_ids(ids, M + ROWS, name);
    assert_ok(pare_model_load(&m, rt, fixture_path(name), err));
    assert_ok(pare_model_set_prefix_ids(m, ids, M, err));
    assert_ok(pare_train_weights_of_prefix(&w, m, err));
    open_plain(&p, m, ids + M);
    if (granularity >= 0) {
        const pare_act_scheme scheme = {.granularity = (pare_act_granularity)granularity,
                                        .bits = FORWARD_BITS};
        pare_act_sites *a;
        assert_ok(pare_act_sites_create(&a, m, &scheme, err));
        pare_model_attach_act(m, a);
        if (granularity == PARE_ACT_PER_TENSOR_STATIC) /* of one text: some of the other is cut */
            assert_ok(pare_act_calibrate(m, ids + M, 1, N, PARE_COMPUTE_EXACT, err));
        p.moves = true;
    }
    look(&p, w);
    const size_t n_values = 2 * m->config.n_layers * M * m->prefix->kv_dim;
    slopes *want = differences(&p, n_values, stride);
    for (int way = 0; way <= 6; way++) compare(&p, w, want, n_values, stride, name, way);
    pare_free(want);
    close_plain(&p);
    pare_train_weights_free(w);
    pare_runtime_free(rt);
}

static void whole_models(void **state) {
    (void)state;
    gradients("qwen2", -1, 1); /* three layers, biases, YaRN, windows: every entry */
    gradients("llama", -1, 5);
    gradients("mistral", -1, 5); /* windows that leave the prefix */
    gradients("qwen3", -1, 5);   /* norms of heads */
    print_message("off by at most %.2g of the largest entry\n", most_off);
}

static void behind_quantized_inputs(void **state) {
    (void)state;
    for (int g = 0; g < 3; g++) gradients(g == 1 ? "llama" : "qwen2", g, 7);
    print_message("off by at most %.2g of the largest entry\n", most_off);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_models),
                                       cmocka_unit_test(behind_quantized_inputs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
