/* SignRound: of each weight a rounding offset and of each group the ends of its range are learned
 * by the signs of gradients, so that the quantized block reproduces the dense block's output.
 *
 * Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
 * LLMs", arXiv:2309.05516; details as in AutoRound.
 *
 *   s = sgn max(A, B) / m,  A = alpha max(w, 0), B = -beta min(w, 0), m = 2^(b-1)       (full)
 *   s = (hi - lo) / (2^b - 1),  lo = beta min(w, 0), hi = alpha max(w, 0), z = round(-lo / s)
 *   w' = s clamp(round(w / s + v), -z, 2^b - 1 - z),  z = m where the grid is full
 *   theta -= lr (1 - t / T) sign(dL / dtheta),  theta = v (from 0), alpha, beta (from 1, in [0, 1])
 *
 * The parameters of the step with the least loss are kept; step 0 is rounding to nearest. */
#include "methods/quant_options.h"

#include "base/memory.h"
#include "base/rng.h"
#include "kernels/blocks.h"
#include "kernels/round_learn.h"

#include <math.h>
#include <string.h>

typedef struct signround_options {
    pare_quant_options q;
    int iters, batch;
    double lr, minmax_lr; /* 0: 1 / iters */
    bool minmax, best;
} signround_options;

static const pare_param signround_params[] = {
    PARE_QUANT_PARAMS(signround_options, PARE_GRID_FULL, PARE_GRID_PLAIN),
    {.name = "iters",
     .type = PARE_PARAM_INT,
     .offset = offsetof(signround_options, iters),
     .def = 200,
     .min = 0,
     .max = 1e6,
     .help = "steps for each block; 0 rounds to nearest"},
    {.name = "batch",
     .type = PARE_PARAM_INT,
     .offset = offsetof(signround_options, batch),
     .def = 8,
     .min = 1,
     .max = 4096,
     .help = "calibration sequences of a step"},
    {.name = "lr",
     .type = PARE_PARAM_FLOAT,
     .offset = offsetof(signround_options, lr),
     .def = 0,
     .min = 0,
     .max = 1,
     .help =
         "first step of the offsets, in codes; 0 = 1 / iters (2 / iters from 1000 steps on with "
         "at most 3 bits)"},
    {.name = "minmax_lr",
     .type = PARE_PARAM_FLOAT,
     .offset = offsetof(signround_options, minmax_lr),
     .def = 0,
     .min = 0,
     .max = 1,
     .help = "first step of the ranges; 0 = lr"},
    {.name = "minmax",
     .type = PARE_PARAM_BOOL,
     .offset = offsetof(signround_options, minmax),
     .def = 1,
     .help = "learn the ranges of groups too"},
    {.name = "best",
     .type = PARE_PARAM_BOOL,
     .offset = offsetof(signround_options, best),
     .def = 1,
     .help = "keep the step of least loss; false: the last one"},
    {0},
};

/* A scale below this stands for a group of zeros. */
static const float SMALLEST = 1e-5f;

/* What is learned of one matrix; the best so far is kept beside it. */
typedef struct learned {
    const pare_weight_job *job;
    size_t groups, len;  /* of a row */
    float *v, *best_v;   /* [rows][cols] */
    float *alpha, *beta; /* [rows][groups] */
    float *best_alpha, *best_beta;
    float *low, *high; /* [rows][groups] min(w, 0), max(w, 0) of the group */
    float *w, *g;      /* [rows][cols] w', and the loss's gradient for it */
} learned;

typedef struct tuning {
    const pare_tune_job *job;
    const signround_options *o;
    pare_grid grid;
    const pare_round_kernels *k;
    learned *at; /* [n] */
    float lr, minmax_lr;
} tuning;

/* --- one group --- */

static float stored(float s) { return pare_f16_to_f32(pare_f32_to_f16(s)); }

/* The group's scale and codes' range from its alpha and beta, clamped here. side: 1 where alpha
 * makes the scale, -1 where beta does, 0: both. */
static pare_round_group group_of(const tuning *t, const learned *l, size_t i, float *zero,
                                 int *side) {
    float m = (float)(1 << (t->o->q.bits - 1)), max = 2 * m - 1;
    float a = l->alpha[i] = fminf(fmaxf(l->alpha[i], 0.0f), 1.0f);
    float b = l->beta[i] = fminf(fmaxf(l->beta[i], 0.0f), 1.0f);
    float hi = a * l->high[i], lo = b * l->low[i], s;
    if (pare_grid_symmetric(&t->grid)) {
        float down = -lo, sign = hi < down ? 1.0f : -1.0f;
        *side = hi > down ? 1 : hi < down ? -1 : 0;
        s = stored(sign * fmaxf(hi, down) / m);
        if (fabsf(s) < SMALLEST) s = copysignf(SMALLEST, s == 0.0f ? 1.0f : s);
        *zero = m;
    } else {
        *side = 0;
        s = fmaxf(stored((hi - lo) / max), SMALLEST);
        *zero = fminf(fmaxf(nearbyintf(-lo / s), 0.0f), max);
    }
    return (pare_round_group){s, -*zero, max - *zero, l->job->keep_zeros};
}

static size_t length_of(const learned *l, size_t group) {
    size_t left = l->job->cols - group * l->len;
    return left < l->len ? left : l->len;
}

static float sign_of(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }

/* Gradients of alpha and beta from those of scale and zero point (the sheet of equations in the
 * head, derived). */
static void step_range(const tuning *t, learned *l, size_t i, const pare_round_group *g, int side,
                       float ds, float dz) {
    float m = (float)(1 << (t->o->q.bits - 1)), max = 2 * m - 1, da, db;
    if (fabsf(g->s) <= SMALLEST) return;
    if (pare_grid_symmetric(&t->grid)) {
        float sign = g->s > 0.0f ? 1.0f : -1.0f, half = side == 0 ? 0.5f : 1.0f;
        da = side >= 0 ? half * ds * sign * l->high[i] / m : 0.0f;
        db = side <= 0 ? half * ds * sign * -l->low[i] / m : 0.0f;
    } else {
        float lo = l->beta[i] * l->low[i], k = ds + dz * lo / (g->s * g->s);
        da = k * l->high[i] / max;
        db = -k * l->low[i] / max - dz * l->low[i] / g->s;
    }
    l->alpha[i] -= t->minmax_lr * sign_of(da);
    l->beta[i] -= t->minmax_lr * sign_of(db);
}

/* --- all groups of rows [begin, end) of a matrix --- */

typedef struct rows_job {
    const tuning *t;
    learned *l;
} rows_job;

static void measure_rows(void *arg, size_t begin, size_t end) {
    const rows_job *j = arg;
    learned *l = j->l;
    for (size_t r = begin; r < end; r++)
        for (size_t k = 0; k < l->groups; k++) {
            const float *w = l->job->w + r * l->job->cols + k * l->len;
            size_t i = r * l->groups + k;
            l->low[i] = l->high[i] = 0.0f;
            l->alpha[i] = l->beta[i] = 1.0f;
            for (size_t c = 0; c < length_of(l, k); c++) {
                l->low[i] = fminf(l->low[i], w[c]);
                l->high[i] = fmaxf(l->high[i], w[c]);
            }
        }
}

static void quantize_rows(void *arg, size_t begin, size_t end) {
    const rows_job *j = arg;
    learned *l = j->l;
    for (size_t r = begin; r < end; r++)
        for (size_t k = 0; k < l->groups; k++) {
            size_t at = r * l->job->cols + k * l->len;
            float zero;
            int side;
            pare_round_group g = group_of(j->t, l, r * l->groups + k, &zero, &side);
            j->t->k->apply(l->w + at, l->job->w + at, l->v + at, &g, length_of(l, k));
        }
}

static void step_rows(void *arg, size_t begin, size_t end) {
    const rows_job *j = arg;
    learned *l = j->l;
    for (size_t r = begin; r < end; r++)
        for (size_t k = 0; k < l->groups; k++) {
            size_t at = r * l->job->cols + k * l->len, i = r * l->groups + k;
            float zero, ds, dz;
            int side;
            pare_round_group g = group_of(j->t, l, i, &zero, &side);
            j->t->k->step(l->v + at, &ds, &dz, l->g + at, l->job->w + at, &g, j->t->lr,
                          length_of(l, k));
            if (j->t->o->minmax) step_range(j->t, l, i, &g, side, ds, dz);
        }
}

/* The result: weights on their grid, scales and zero points. */
static void finish_rows(void *arg, size_t begin, size_t end) {
    const rows_job *j = arg;
    const learned *l = j->l;
    quantize_rows(arg, begin, end);
    for (size_t r = begin; r < end; r++) {
        size_t at = r * l->job->cols;
        memcpy(l->job->w + at, l->w + at, l->job->cols * sizeof(float));
        for (size_t k = 0; k < l->groups; k++) {
            float zero;
            int side;
            size_t i = r * l->groups + k;
            l->job->scale[i] = group_of(j->t, j->l, i, &zero, &side).s;
            l->job->zero[i] = (uint8_t)zero;
        }
    }
}

static void each_row(const tuning *t, void (*fn)(void *, size_t, size_t)) {
    for (size_t i = 0; i < t->job->n; i++) {
        rows_job j = {t, &t->at[i]};
        pare_parallel_for(t->job->rt, t->at[i].job->rows, 8, fn, &j);
    }
}

/* --- the steps --- */

static size_t values_of(const learned *l) { return l->job->rows * l->job->cols; }
static size_t scales_of(const learned *l) { return l->job->rows * l->groups; }

static void keep_best(const tuning *t) {
    for (size_t i = 0; i < t->job->n; i++) {
        learned *l = &t->at[i];
        memcpy(l->best_v, l->v, values_of(l) * sizeof *l->v);
        memcpy(l->best_alpha, l->alpha, scales_of(l) * sizeof *l->alpha);
        memcpy(l->best_beta, l->beta, scales_of(l) * sizeof *l->beta);
    }
}

static void take_best(const tuning *t) {
    for (size_t i = 0; i < t->job->n; i++) {
        learned *l = &t->at[i];
        memcpy(l->v, l->best_v, values_of(l) * sizeof *l->v);
        memcpy(l->alpha, l->best_alpha, scales_of(l) * sizeof *l->alpha);
        memcpy(l->beta, l->best_beta, scales_of(l) * sizeof *l->beta);
    }
}

/* The order of sequences; shuffled anew when fewer than a batch are left. */
typedef struct draw {
    size_t *order, n, next;
    uint64_t seed, stream, round;
} draw;

static const size_t *next_batch(draw *d, size_t batch) {
    if (d->round == 0 || d->n - d->next < batch) {
        for (size_t i = d->n; i > 1; i--) {
            uint32_t r[4];
            pare_philox(r, d->seed, d->stream, (d->round << 32) + i);
            size_t j = (size_t)((((uint64_t)r[0] << 32) | r[1]) % i), other = d->order[j];
            d->order[j] = d->order[i - 1];
            d->order[i - 1] = other;
        }
        d->round++;
        d->next = 0;
    }
    d->next += batch;
    return d->order + d->next - batch;
}

static pare_status run_steps(tuning *t, draw *d, size_t batch, const float **w, float **g,
                             pare_error *err) {
    double least = INFINITY, first = t->o->lr, first_range = t->o->minmax_lr;
    if (first == 0 && t->o->iters > 0)
        first = (t->o->iters >= 1000 && t->o->q.bits <= 3 ? 2.0 : 1.0) / (double)t->o->iters;
    if (first_range == 0) first_range = first;
    for (int i = 0; i < t->o->iters; i++) {
        double loss, rest = 1.0 - (double)i / (double)t->o->iters;
        each_row(t, quantize_rows);
        PARE_TRY(t->job->loss(t->job->arg, next_batch(d, batch), batch, w, g, &loss, err));
        if (loss < least || (!t->o->best && i + 1 == t->o->iters)) {
            least = loss;
            keep_best(t);
        }
        t->lr = (float)(first * rest);
        t->minmax_lr = (float)(first_range * rest);
        each_row(t, step_rows);
    }
    if (isfinite(least)) take_best(t);
    return PARE_OK;
}

/* --- memory --- */

static bool allocate(learned *l, const pare_weight_job *job, size_t group) {
    l->job = job;
    l->len = group ? group : job->cols;
    l->groups = (job->cols + l->len - 1) / l->len;
    float **values[] = {&l->v, &l->best_v, &l->w, &l->g};
    float **scales[] = {&l->alpha, &l->beta, &l->best_alpha, &l->best_beta, &l->low, &l->high};
    bool whole = true;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        whole &= (*values[i] = pare_big_alloc((values_of(l) + 16) * sizeof(float))) != NULL;
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        whole &= (*scales[i] = pare_malloc(scales_of(l), sizeof(float))) != NULL;
    return whole;
}

static void release(learned *l) {
    float *values[] = {l->v, l->best_v, l->w, l->g};
    float *scales[] = {l->alpha, l->beta, l->best_alpha, l->best_beta, l->low, l->high};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (values[i]) pare_big_free(values[i], (values_of(l) + 16) * sizeof(float));
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) pare_free(scales[i]);
}

static pare_status signround_tune(const pare_tune_job *job, const void *options, pare_error *err) {
    const signround_options *o = options;
    tuning t = {.job = job,
                .o = o,
                .grid = pare_quant_grid(&o->q),
                .k = pare_round_kernels_get(pare_runtime_isa(job->rt)),
                .at = pare_calloc(job->n, sizeof *t.at)};
    const float **w = pare_calloc(job->n, sizeof *w);
    float **g = pare_calloc(job->n, sizeof *g);
    draw d = {.order = pare_malloc(job->n_sequences, sizeof *d.order),
              .n = job->n_sequences,
              .seed = pare_runtime_seed(job->rt),
              .stream = ((uint64_t)0x51690 << 32) + job->stream};
    bool whole = t.at && w && g && d.order;
    for (size_t i = 0; whole && i < job->n; i++) {
        whole = allocate(&t.at[i], &job->weights[i], (size_t)o->q.group);
        w[i] = t.at[i].w;
        g[i] = t.at[i].g;
    }
    size_t batch = (size_t)o->batch < job->n_sequences ? (size_t)o->batch : job->n_sequences;
    for (size_t i = 0; d.order && i < d.n; i++) d.order[i] = i;
    pare_status st = whole ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "%s: signround", job->name);
    if (st == PARE_OK) {
        each_row(&t, measure_rows);
        if (batch) st = run_steps(&t, &d, batch, w, g, err);
    }
    if (st == PARE_OK) each_row(&t, finish_rows);
    for (size_t i = 0; t.at && i < job->n; i++)
        if (t.at[i].job) release(&t.at[i]);
    pare_free(t.at);
    pare_free(w);
    pare_free(g);
    pare_free(d.order);
    return st;
}

/* A tensor alone: no steps. */
static pare_status signround_run(const pare_weight_job *job, const void *options, pare_error *err) {
    signround_options o = *(const signround_options *)options;
    o.iters = 0;
    return signround_tune(
        &(pare_tune_job){.rt = job->rt, .name = job->name, .n = 1, .weights = job}, &o, err);
}

static const pare_encoding *signround_encoding(const void *options) {
    return pare_quant_encoding(&((const signround_options *)options)->q);
}

static size_t signround_batch(const void *options) {
    return (size_t)((const signround_options *)options)->batch;
}

static size_t signround_steps(const void *options) {
    return (size_t)((const signround_options *)options)->iters;
}

static pare_status signround_check(const void *options, pare_error *err) {
    const signround_options *o = options;
    PARE_TRY(pare_quant_check(&o->q, err));
    if ((o->q.grid != PARE_GRID_FULL && o->q.grid != PARE_GRID_GPTQ_ASYM) ||
        o->q.search != PARE_GRID_PLAIN)
        return pare_fail(err, PARE_ERR_ARG,
                         "grid, search: found others than signround learns, expected grid=full or "
                         "grid=gptq_asym and search=none");
    return PARE_OK;
}

static size_t signround_work(const void *options, size_t rows, size_t cols) {
    const signround_options *o = options;
    size_t groups = o->q.group ? cols / (size_t)o->q.group + 1 : 1;
    return (4 * rows * cols + 6 * rows * groups) * sizeof(float);
}

const pare_method pare_method_signround = {
    .name = "signround",
    .slot = "weight",
    .paper = "arXiv:2309.05516",
    .summary = "learns roundings and ranges of a block by signs of gradients (AutoRound)",
    .help = "Each weight has an offset that decides how it is rounded and each group two factors "
            "of its range; all of a block are moved by the signs of their gradients, in steps that "
            "shrink to nothing, so that the quantized block, on the inputs that the quantized "
            "blocks before it make, gives the dense block's output. Nothing of it is left in the "
            "result, which is a plain integer format. Takes a backward pass through the block for "
            "each step: iters x batch sequences.",
    .example = "signround:bits=4,group=64,iters=50",
    .options_size = sizeof(signround_options),
    .params = signround_params,
    .needs = PARE_NEED_TUNE,
    .check = signround_check,
    .encoding = signround_encoding,
    .work_bytes = signround_work,
    .tune = signround_tune,
    .batch = signround_batch,
    .steps = signround_steps,
    .run = signround_run,
};
