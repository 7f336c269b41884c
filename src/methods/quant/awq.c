/* AWQ: input channels with large activations are protected by a scale before the weights are
 * rounded. The scale is a power of the mean |x|,
 *
 *     s = mean|x|^r / sqrt(max s min s),    W' = Q(W diag s) diag(s)^-1,
 *
 * with the r of least error of the module's output; then each group's range is clipped where that
 * lessens the error of its part of the output. Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan,
 * Han, arXiv:2306.00978.
 *
 * duo scaling, s = mean|x|^r / mean(|w| / group's max)^(1 - r), is AutoAWQ's. */
#include "methods/quant_options.h"

#include "base/memory.h"
#include "base/os.h"

#include <math.h>
#include <string.h>

enum { MAX_LAYERS = 16, CLIP_TOKENS = 512, CLIP_STEPS = 10, CLIP_PARTS = 20 };

typedef struct awq_options {
    pare_quant_options q;
    int points, samples;
    bool duo, clip, quantize;
} awq_options;

static const pare_param awq_params[] = {
    PARE_QUANT_PARAMS(awq_options, PARE_GRID_ASYM_MINMAX, PARE_GRID_PLAIN),
    PARE_PARAM(awq_options, points, PARE_PARAM_INT, 20, 1, 100,
               "powers r that are tried: 0, 1/points, .. 1 - 1/points"),
    PARE_PARAM(awq_options, duo, PARE_PARAM_BOOL, 0, 0, 1,
               "scales that look at the weights' size too"),
    PARE_PARAM(awq_options, clip, PARE_PARAM_BOOL, 1, 0, 1,
               "search a clipped range for each group, but of q and k"),
    PARE_PARAM(awq_options, samples, PARE_PARAM_INT, 2, 1, 65536,
               "calibration sequences on which outputs are compared"),
    PARE_PARAM(awq_options, quantize, PARE_PARAM_BOOL, 1, 0, 1,
               "round the weights; false: scales and clipping only, another step rounds"),
    {0},
};

/* --- scales --- */

/* The weights of all layers, scaled, rounded, scaled back: w[i][rows[i]][cols] in `all`. */
typedef struct candidate {
    float *all, *w[MAX_LAYERS];
    float *h; /* [cols] weights of the squared errors of a search for ranges; NULL: none weighs */
    size_t bytes;
} candidate;

static bool weighs(const awq_options *o) { return o->q.search == PARE_GRID_LEAST_SQUARES; }

static pare_status make_candidate(const pare_scale_job *job, candidate *c, pare_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < job->n; i++) n += job->rows[i] * job->cols;
    c->bytes = n * sizeof(float);
    c->all = pare_big_alloc(c->bytes);
    if (!c->all) return pare_fail(err, PARE_ERR_NOMEM, "%s: awq: weights to try", job->name);
    float *w = c->all;
    for (size_t i = 0; i < job->n; w += job->rows[i++] * job->cols) c->w[i] = w;
    return PARE_OK;
}

/* to[rows][cols] = w with its columns multiplied by s, or divided. */
typedef struct column_job {
    float *to;
    const float *w, *s;
    size_t cols;
    bool divide;
} column_job;

static void scale_columns(void *arg, size_t begin, size_t end) {
    const column_job *j = arg;
    for (size_t r = begin; r < end; r++) {
        const float *w = j->w + r * j->cols;
        float *to = j->to + r * j->cols;
        if (j->divide)
            for (size_t c = 0; c < j->cols; c++) to[c] = w[c] / j->s[c];
        else
            for (size_t c = 0; c < j->cols; c++) to[c] = w[c] * j->s[c];
    }
}

/* The inputs of the scaled columns are divided by s. */
static void weigh(const pare_scale_job *job, const float *s, float *h) {
    double n = fmax((double)job->x->n_tokens, 1);
    for (size_t i = 0; h && i < job->cols; i++)
        h[i] = (float)(job->x->squares[i] / n / ((double)s[i] * (double)s[i]));
}

static void round_scaled(const pare_scale_job *job, const awq_options *o, const float *s,
                         candidate *c) {
    pare_grid grid = pare_quant_grid(&o->q);
    weigh(job, s, c->h);
    for (size_t i = 0; i < job->n; i++) {
        size_t rows = job->rows[i], cols = job->cols;
        column_job into = {c->w[i], job->w[i], s, cols, false},
                   back = {c->w[i], c->w[i], s, cols, true};
        pare_parallel_for(job->rt, rows, 16, scale_columns, &into);
        pare_quant_round(job->rt, c->w[i], rows, cols, (size_t)o->q.group, &grid, c->h, NULL, NULL);
        pare_parallel_for(job->rt, rows, 16, scale_columns, &back);
    }
}

/* w_mean[cols] = mean over the rows of all layers of |w| / the largest of its group. */
static void mean_weights(const pare_scale_job *job, size_t group, float *w_mean) {
    size_t n_rows = 0, step = group ? group : job->cols;
    memset(w_mean, 0, job->cols * sizeof *w_mean);
    for (size_t i = 0; i < job->n; n_rows += job->rows[i++])
        for (size_t r = 0; r < job->rows[i]; r++)
            for (size_t c = 0; c < job->cols; c += step) {
                const float *w = job->w[i] + r * job->cols + c;
                size_t n = job->cols - c < step ? job->cols - c : step;
                float most = 0.0f;
                for (size_t k = 0; k < n; k++) most = fmaxf(most, fabsf(w[k]));
                for (size_t k = 0; k < n; k++) w_mean[c + k] += fabsf(w[k]) / (most + 1e-6f);
            }
    for (size_t c = 0; c < job->cols; c++) w_mean[c] /= (float)n_rows;
}

/* w_mean: NULL without duo scaling. false: the scales are not finite. */
static bool scales_of(const pare_scale_job *job, double r, const float *w_mean, float *s) {
    double least = INFINITY, most = 0, n = fmax((double)job->x->n_tokens, 1);
    for (size_t c = 0; c < job->cols; c++) {
        double x = job->x->abs_sum[c] / n, v = pow(x, r);
        if (w_mean) v /= pow((double)w_mean[c], 1 - r) + 1e-4;
        v = fmax(v, 1e-4);
        s[c] = (float)v;
        least = fmin(least, v);
        most = fmax(most, v);
    }
    double middle = sqrt(least * most);
    bool good = isfinite(middle);
    for (size_t c = 0; c < job->cols && good; c++) {
        s[c] = (float)((double)s[c] / middle);
        good = isfinite(s[c]) && s[c] > 0;
    }
    return good;
}

/* Takes s when its loss is less than *best. */
static pare_status try_scales(const pare_scale_job *job, const awq_options *o, candidate *c,
                              const float *s, double *best, float *best_s, pare_error *err) {
    double loss;
    round_scaled(job, o, s, c);
    PARE_TRY(job->loss(job->arg, (const float *const *)c->w, &loss, err));
    if (!isfinite(loss) || !(loss < *best)) return PARE_OK;
    *best = loss;
    memcpy(best_s, s, job->cols * sizeof *s);
    return PARE_OK;
}

static pare_status search(const pare_scale_job *job, const awq_options *o, candidate *c, float *try,
                          float *w_mean, float *s, pare_error *err) {
    double best = INFINITY;
    if (o->duo) { /* no scale at all is not among duo's */
        mean_weights(job, (size_t)o->q.group, w_mean);
        for (size_t i = 0; i < job->cols; i++) try[i] = 1.0f;
        PARE_TRY(try_scales(job, o, c, try, &best, s, err));
    }
    for (int i = 0; i < o->points; i++)
        if (scales_of(job, (double)i / o->points, o->duo ? w_mean : NULL, try))
            PARE_TRY(try_scales(job, o, c, try, &best, s, err));
    if (!isfinite(best)) pare_scale_note(job, "no scale with a finite loss: not scaled");
    return PARE_OK;
}

static pare_status awq_scales(const pare_scale_job *job, const void *options, float *s,
                              pare_error *err) {
    candidate c = {0};
    float *try = pare_malloc(3 * job->cols, sizeof *try);
    if (weighs(options) && try) c.h = try + 2 * job->cols;
    pare_status st = try ? make_candidate(job, &c, err)
                         : pare_fail(err, PARE_ERR_NOMEM, "%s: awq: scales", job->name);
    if (st == PARE_OK) st = search(job, options, &c, try, try + job->cols, s, err);
    if (c.all) pare_big_free(c.all, c.bytes);
    pare_free(try);
    return st;
}

/* --- clipping --- */

typedef struct clip_job {
    const pare_weight_job *weights;
    pare_grid grid;
    const pare_encode_kernels *k;
    size_t group;
    const float *h; /* [cols] weights of a search's errors, or NULL */
    float *gram;    /* for each group [n][n]: sum over some tokens of x x^T */
    float *space;   /* [n_threads][2][group] */
} clip_job;

/* Where a group's products begin. */
static size_t gram_at(size_t c, size_t group) { return c * group; }

static void add_grams(void *arg, size_t begin, size_t end) {
    clip_job *j = arg;
    const pare_input_stats *x = j->weights->x;
    size_t cols = j->weights->cols, stride = x->n_samples / CLIP_TOKENS;
    if (!stride) stride = 1;
    for (size_t g = begin; g < end; g++) {
        size_t c = g * j->group, n = cols - c < j->group ? cols - c : j->group;
        float *gram = j->gram + gram_at(c, j->group);
        memset(gram, 0, n * n * sizeof *gram);
        for (size_t t = 0; t < x->n_samples; t += stride) {
            const float *row = x->samples + t * cols + c;
            for (size_t a = 0; a < n; a++)
                for (size_t b = 0; b < n; b++) gram[a * n + b] += row[a] * row[b];
        }
    }
}

/* d^T gram d. */
static double error_of(const float *d, const float *gram, size_t n) {
    double sum = 0;
    for (size_t a = 0; a < n; a++) {
        float part = 0.0f;
        for (size_t b = 0; b < n; b++) part += gram[a * n + b] * d[b];
        sum += (double)d[a] * (double)part;
    }
    return sum;
}

/* Clips w[n] to the range of least error; space[2][n]. */
static void clip_group(const clip_job *j, float *w, const float *h, const float *gram, size_t n,
                       float *space) {
    float *clipped = space, *d = space + n, most = 0.0f, chosen;
    int max = (1 << j->grid.bits) - 1;
    double best = INFINITY;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(w[i]));
    chosen = most;
    for (int step = 0; step < CLIP_STEPS; step++) {
        float limit = most * (1.0f - (float)step / CLIP_PARTS), scale;
        uint8_t zero;
        for (size_t i = 0; i < n; i++) clipped[i] = fminf(fmaxf(w[i], -limit), limit);
        pare_grid_fit(&scale, &zero, &j->grid, j->k, clipped, h, n);
        for (size_t i = 0; i < n; i++)
            d[i] =
                pare_grid_value(pare_grid_code(clipped[i], scale, zero, max), scale, zero) - w[i];
        double error = error_of(d, gram, n);
        if (!(error < best)) continue;
        best = error;
        chosen = limit;
    }
    for (size_t i = 0; i < n; i++) w[i] = fminf(fmaxf(w[i], -chosen), chosen);
}

static void clip_rows(pare_worker *worker, void *arg) {
    clip_job *j = arg;
    size_t cols = j->weights->cols;
    float *space = j->space + (size_t)worker->id * 2 * j->group;
    for (size_t r; (r = pare_take(worker, 1)) < j->weights->rows;)
        for (size_t c = 0; c < cols; c += j->group) {
            size_t n = cols - c < j->group ? cols - c : j->group;
            clip_group(j, j->weights->w + r * cols + c, j->h ? j->h + c : NULL,
                       j->gram + gram_at(c, j->group), n, space);
        }
}

static pare_status clip(const pare_weight_job *job, const awq_options *o, const float *h,
                        pare_error *err) {
    size_t group = o->q.group ? (size_t)o->q.group : job->cols;
    if (group > job->cols) group = job->cols;
    size_t bytes = job->cols * group * sizeof(float);
    float *gram = pare_big_alloc(bytes),
          *space = pare_malloc(2 * group * (size_t)pare_runtime_threads(job->rt), sizeof *space);
    clip_job j = {job,
                  pare_quant_grid(&o->q),
                  pare_encode_kernels_get(pare_runtime_isa(job->rt)),
                  group,
                  h,
                  gram,
                  space};
    pare_status st = PARE_OK;
    if (gram && space) {
        pare_parallel_for(job->rt, (job->cols + group - 1) / group, 1, add_grams, &j);
        pare_team_run(job->rt, clip_rows, &j);
    } else {
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: awq: clipping", job->name);
    }
    if (gram) pare_big_free(gram, bytes);
    pare_free(space);
    return st;
}

/* q and k are not clipped: their products make attention, where an error of a few large values
 * counts more than the mean square says. */
static bool is_clipped(const char *name) {
    return !strstr(name, ".attn_q") && !strstr(name, ".attn_k");
}

static pare_status awq_run(const pare_weight_job *job, const void *options, pare_error *err) {
    const awq_options *o = options;
    pare_grid grid = pare_quant_grid(&o->q);
    float *h = weighs(o) ? pare_quant_importance(job) : NULL;
    if (weighs(o) && !h) return pare_fail(err, PARE_ERR_NOMEM, "%s: awq: out of memory", job->name);
    pare_status st = o->clip && is_clipped(job->name) ? clip(job, o, h, err) : PARE_OK;
    if (st == PARE_OK && o->quantize)
        pare_quant_round(job->rt, job->w, job->rows, job->cols, (size_t)o->q.group, &grid, h,
                         job->scale, job->zero);
    pare_free(h);
    return st;
}

static const pare_encoding *awq_encoding(const void *options) {
    const awq_options *o = options;
    return o->quantize ? pare_quant_encoding(&o->q) : NULL;
}

static pare_status awq_check(const void *options, pare_error *err) {
    return pare_quant_check(&((const awq_options *)options)->q, err);
}

static size_t awq_samples(const void *options) {
    return (size_t)((const awq_options *)options)->samples;
}

static size_t awq_work(const void *options, size_t rows, size_t cols) {
    const awq_options *o = options;
    (void)rows;
    return o->clip ? cols * (o->q.group ? (size_t)o->q.group : cols) * sizeof(float) : 0;
}

const pare_method pare_method_awq = {
    .name = "awq",
    .slot = "weight",
    .paper = "arXiv:2306.00978",
    .summary = "scales inputs so that the weights of large ones lose less by rounding",
    .help = "Layers that share an input get one scale per input channel, a power of its mean |x| "
            "chosen for the least error of attention's, the feed-forward part's or the layer's "
            "output; it is divided out of the norm or layer that makes the input, so nothing else "
            "changes. Then each group's range is clipped where that lessens its output's error, "
            "and weights are rounded to nearest. With quantize=false the rounding is left to a "
            "later step (gptq).",
    .example = "awq:bits=4,group=64",
    .options_size = sizeof(awq_options),
    .params = awq_params,
    .needs = PARE_NEED_ABS | PARE_NEED_SAMPLES,
    .dense_inputs = true,
    .check = awq_check,
    .encoding = awq_encoding,
    .work_bytes = awq_work,
    .samples = awq_samples,
    .scales = awq_scales,
    .run = awq_run,
};
