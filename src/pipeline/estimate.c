/* How long a run will take, from samples that take about a second: one block's forward pass over
 * one sequence, the statistics of some tokens, the methods and encoders on some rows, a search of
 * scales on some rows that counts how often it runs the module, the module once, a piece of a file.
 * What grows with a tensor's width is sampled up to WIDTH columns and carried on: statistics,
 * factors and sweeps grow with powers of it. */
#include "pipeline/compress_run.h"

#include "base/file_digest.h"
#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "io/common.h"
#include "model/feeder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 1536,
    ROWS = 192,
    TOKENS = 1024, /* of the statistics' samples */
    MAX_KINDS = 64
};

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "estimate: out of memory");
}

/* --- statistics of random inputs: their cost, and what methods are sampled with --- */

typedef struct feed {
    pare_statistics *s;
    const float *x; /* [TOKENS][cols] */
    size_t cols;
} feed;

static void feed_thread(pare_worker *w, void *arg) {
    const feed *f = arg;
    pare_statistics_add(w, f->s, f->x, f->cols, TOKENS);
}

static void fill(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = pare_rng_normal(1, 0xE57, i);
}

/* *seconds: of TOKENS tokens, n_samples of them kept. *s is the caller's. */
static pare_status sample_statistics(pare_statistics **s, double *seconds, pare_runtime *rt,
                                     pare_compute compute, size_t cols, unsigned needs,
                                     size_t n_samples, pare_error *err) {
    size_t bytes = TOKENS * cols * sizeof(float);
    PARE_TRY(pare_statistics_create(s, rt, compute, cols, needs, n_samples, NULL, err));
    float *x = pare_big_alloc(bytes);
    if (!x) {
        pare_statistics_free(*s);
        return fail_memory(err);
    }
    fill(x, TOKENS * cols);
    feed f = {*s, x, cols};
    double start = pare_now_s();
    pare_team_run(rt, feed_thread, &f);
    *seconds = pare_now_s() - start;
    pare_big_free(x, bytes);
    return PARE_OK;
}

/* How much more `cols` takes than what was sampled. */
static double grown(size_t cols, size_t sampled, double power) {
    return pow((double)cols / (double)sampled, power);
}

static pare_status statistics_seconds(double *seconds, pare_runtime *rt, pare_compute compute,
                                      size_t cols, unsigned needs, pare_error *err) {
    size_t n = cols < WIDTH ? cols : WIDTH;
    pare_statistics *s;
    PARE_TRY(sample_statistics(&s, seconds, rt, compute, n, needs, 0, err));
    pare_statistics_free(s);
    *seconds *= grown(cols, n, needs & PARE_NEED_HESSIAN ? 2 : 1);
    return PARE_OK;
}

/* --- tensors --- */

/* Tensors for which the same is done. */
typedef struct kind {
    const char *name; /* of the first */
    size_t rows, cols;
    const pare_encoding *enc;
    const pare_method *quantizer;
    size_t n_methods;
    unsigned needs;
    double seconds;
} kind;

/* Behind "blk.N": ".attn_q.weight"; a name outside of blocks as it is. */
static const char *role(const char *canonical) {
    const char *dot = strncmp(canonical, "blk.", 4) == 0 ? strchr(canonical + 4, '.') : NULL;
    return dot ? dot : canonical;
}

/* Methods that look at samples may do less for some layers (AWQ clips no q and k). */
static bool same_kind(const kind *k, const tensor_plan *p) {
    if ((p->needs & PARE_NEED_SAMPLES) && strcmp(role(k->name), role(p->t->canonical)) != 0)
        return false;
    return k->rows == p->rows && k->cols == p->cols && k->enc == p->enc &&
           k->quantizer == p->quantizer && k->n_methods == p->n_methods && k->needs == p->needs;
}

/* Seconds of `rows` rows of tensor i, `cols` wide. */
static pare_status sample_tensor(compress_run *c, size_t i, size_t rows, size_t cols,
                                 const pare_input_stats *x, double *seconds, pare_error *err) {
    size_t n = rows * cols;
    float *w = pare_big_alloc(n * sizeof *w);
    if (!w) return fail_memory(err);
    fill(w, n);
    pare_tensor in = pare_tensor_wrap(pare_encoding_find("f32"), w, rows, cols);
    double start = pare_now_s();
    pare_status st = compress_sample(c, i, &in, x, err);
    *seconds = pare_now_s() - start;
    pare_big_free(w, n * sizeof *w);
    return st;
}

/* Two samples tell what every row takes and what the tensor does. n_samples: tokens kept for
 * methods that compare outputs. */
static pare_status tensor_seconds(compress_run *c, size_t i, size_t n_samples, double *seconds,
                                  pare_error *err) {
    const tensor_plan *p = &c->plans[i];
    size_t cols = p->cols < WIDTH ? p->cols : WIDTH, few = p->rows < ROWS / 3 ? p->rows : ROWS / 3,
           many = p->rows < ROWS ? p->rows : ROWS;
    pare_statistics *s = NULL;
    const pare_input_stats *x = NULL;
    double unused, less = 0, more = 0;
    if (p->needs) {
        PARE_TRY(sample_statistics(&s, &unused, c->rt, PARE_COMPUTE_EXACT, cols, p->needs,
                                   n_samples, err));
        x = pare_statistics_result(s, 1);
    }
    pare_status st = sample_tensor(c, i, few, cols, x, &less, err); /* warms up, too */
    if (st == PARE_OK) st = sample_tensor(c, i, few, cols, x, &less, err);
    if (st == PARE_OK) st = sample_tensor(c, i, many, cols, x, &more, err);
    pare_statistics_free(s);
    if (st != PARE_OK) return st;
    double a_row = many > few ? fmax(more - less, 0) / (double)(many - few) : 0,
           whole = fmax(more - a_row * (double)many, 0);
    bool hessian = p->needs & PARE_NEED_HESSIAN;
    *seconds = whole * grown(p->cols, cols, hessian ? 3 : 1) +
               a_row * (double)p->rows * grown(p->cols, cols, hessian ? 2 : 1);
    return PARE_OK;
}

static pare_status tensors_seconds(compress_run *c, size_t n_samples, double *seconds,
                                   pare_error *err) {
    kind kinds[MAX_KINDS];
    size_t n_kinds = 0;
    for (size_t i = 0; i < c->n_plans; i++) {
        const tensor_plan *p = &c->plans[i];
        size_t k = 0;
        if (!p->recode || !p->rows || !p->cols) continue;
        while (k < n_kinds && !same_kind(&kinds[k], p)) k++;
        if (k == MAX_KINDS) k = MAX_KINDS - 1; /* the last one stands for all others */
        if (k == n_kinds) {
            PARE_TRY(pare_check_cancel(c->rt, err));
            kinds[n_kinds++] = (kind){p->t->canonical, p->rows,      p->cols,  p->enc,
                                      p->quantizer,    p->n_methods, p->needs, 0};
            PARE_TRY(tensor_seconds(c, i, n_samples, &kinds[k].seconds, err));
        }
        *seconds += kinds[k].seconds;
    }
    return PARE_OK;
}

/* --- scales of inputs --- */

/* In place of a module's loss: counts, and is less each time, so that all that follows is done. */
static pare_status count_loss(void *arg, const float *const *w, double *loss, pare_error *err) {
    size_t *n = arg;
    (void)w, (void)err;
    *loss = 1.0 / (double)++*n;
    return PARE_OK;
}

static const tensor_plan *plan_of(const compress_run *c, const char *name) {
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].t->canonical && strcmp(c->plans[i].t->canonical, name) == 0)
            return &c->plans[i];
    return NULL;
}

/* Blocks whose matrix of that role the step takes. */
static size_t count_taken(const compress_run *c, const pare_step *step, const char *name) {
    size_t n = 0;
    for (size_t i = 0; i < c->n_plans; i++) {
        const tensor_plan *p = &c->plans[i];
        n += p->n_methods && strcmp(role(p->t->canonical), role(name)) == 0 &&
             pare_step_takes(step, p->t->canonical, p->n_dims, c->tied);
    }
    return n;
}

/* An input's matrices: what a step is sampled on. */
typedef struct choice {
    const pare_step *step;
    const char *const *names;
    size_t n, n_samples;
    bool from_norm;
} choice;

/* The search itself on some rows of made-up weights w; *n_losses: how often it asks for a loss. */
static pare_status sample_choice(const compress_run *c, const choice *t, const float *w,
                                 const pare_input_stats *x, float *scale, double *seconds,
                                 size_t *n_losses, pare_error *err) {
    const float *each[PARE_OP_MAX_OUTS];
    size_t rows[PARE_OP_MAX_OUTS];
    double whole = 0, sampled = 0;
    for (size_t k = 0; k < t->n; k++) {
        const tensor_plan *p = plan_of(c, t->names[k]);
        each[k] = w;
        rows[k] = p->rows < ROWS ? p->rows : ROWS;
        whole += (double)p->rows * (double)p->cols;
        sampled += (double)rows[k] * (double)x->cols;
    }
    pare_scale_job job = {.rt = c->rt,
                          .name = t->names[0],
                          .n = t->n,
                          .cols = x->cols,
                          .w = each,
                          .rows = rows,
                          .x = x,
                          .from_norm = t->from_norm,
                          .loss = count_loss,
                          .arg = n_losses};
    for (size_t i = 0; i < x->cols; i++) scale[i] = 1.0f;
    double start = pare_now_s();
    PARE_TRY(t->step->method->scales(&job, t->step->options, scale, err));
    *seconds = (pare_now_s() - start) * whole / sampled;
    return PARE_OK;
}

static pare_status choice_seconds(const compress_run *c, const choice *t, double *seconds,
                                  size_t *n_losses, pare_error *err) {
    const tensor_plan *p = plan_of(c, t->names[0]);
    size_t cols = p->cols < WIDTH ? p->cols : WIDTH, bytes = ROWS * cols * sizeof(float);
    pare_statistics *s;
    double unused;
    PARE_TRY(sample_statistics(&s, &unused, c->rt, PARE_COMPUTE_EXACT, cols, t->step->method->needs,
                               t->n_samples, err));
    float *w = pare_big_alloc(bytes), *scale = pare_malloc(cols, sizeof *scale);
    pare_status st = w && scale ? PARE_OK : fail_memory(err);
    if (st == PARE_OK) {
        fill(w, ROWS * cols);
        st = sample_choice(c, t, w, pare_statistics_result(s, 1), scale, seconds, n_losses, err);
    }
    if (w) pare_big_free(w, bytes);
    pare_free(scale);
    pare_statistics_free(s);
    return st;
}

/* Adds what the step takes for input i of the loaded block 0, and those like it. */
static pare_status add_choice(const compress_run *c, pare_calibration *cal, const pare_step *step,
                              size_t i, double *seconds, pare_error *err) {
    char feeder[PARE_NAME_MAX], weight[PARE_NAME_MAX + 8];
    double own = 0, module = 0;
    choice t = {.step = step,
                .n_samples = pare_calibration_samples(cal) * pare_calibration_ctx(cal)};
    if (t.n_samples > TOKENS) t.n_samples = TOKENS;
    t.names = pare_calibration_sharing(cal, i, &t.n);
    size_t n_losses = 0, n_taken = count_taken(c, step, t.names[0]);
    if (!n_taken || !pare_feeder(feeder, pare_source_arch(c->source), pare_source_config(c->source),
                                 t.names[0]))
        return PARE_OK;
    snprintf(weight, sizeof weight, "%s.weight", feeder);
    const tensor_plan *from = plan_of(c, weight);
    t.from_norm = from && from->n_dims == 1;
    PARE_TRY(choice_seconds(c, &t, &own, &n_losses, err));
    if (step->method->needs & PARE_NEED_SAMPLES) { /* once more for the output before */
        PARE_TRY(pare_calibration_module_seconds(cal, 0, i, &module, err));
        n_losses++;
    }
    *seconds += (double)n_taken * (own + (double)n_losses * module);
    return PARE_OK;
}

static pare_status scales_seconds(const compress_run *c, pare_calibration *cal, double *seconds,
                                  pare_error *err) {
    size_t n;
    PARE_TRY(pare_calibration_load(cal, 0, err));
    pare_calibration_discover(cal, 0);
    pare_status st = PARE_OK;
    for (size_t s = 0; s < c->recipe->n_steps; s++) {
        const pare_step *step = &c->recipe->steps[s];
        if (!step->method || !step->method->scales) continue;
        for (size_t i = 0; st == PARE_OK && pare_calibration_sharing(cal, i, &n); i++)
            st = add_choice(c, cal, step, i, seconds, err);
        if (st == PARE_OK) st = pare_check_cancel(c->rt, err);
    }
    pare_calibration_drop(cal, 0);
    return st;
}

/* --- files --- */

/* Seconds for reading and hashing a byte. */
static double byte_seconds(const compress_run *c) {
    enum { PIECE = 8 << 20 };
    pare_file piece = *pare_source_file(c->source, 0);
    pare_sha256 h;
    if (piece.size > PIECE) piece.size = PIECE;
    pare_sha256_init(&h);
    double start = pare_now_s();
    pare_error err; /* the run itself will tell */
    (void)pare_file_digest(&piece, &h, NULL, NULL, &err);
    return piece.size ? (pare_now_s() - start) / (double)piece.size : 0;
}

pare_status compress_estimate(compress_run *c, pare_calibration *cal, pare_error *err) {
    pare_compress_info *info = &c->report->info;
    size_t samples = cal ? pare_calibration_samples(cal) * pare_calibration_ctx(cal) : 0;
    double tensors = 0, scales = 0, forward = 0, statistics = 0, a_byte = byte_seconds(c),
           model = 0, out = 0;
    double n_layers = (double)pare_source_config(c->source)->n_layers;
    for (size_t i = 0; i < pare_source_n_files(c->source); i++)
        model += (double)pare_source_file(c->source, i)->size;
    for (size_t i = 0; i < c->n_plans; i++) out += (double)c->report->layers[i].out_bytes;
    PARE_TRY(tensors_seconds(c, samples < TOKENS ? samples : TOKENS, &tensors, err));
    if (cal) {
        double sequence, n = (double)pare_calibration_sequences(cal),
                         tokens = n * (double)pare_calibration_ctx(cal);
        PARE_TRY(pare_calibration_time(cal, 0, compress_needs_of, c, statistics_seconds, &sequence,
                                       &statistics, err));
        /* once to measure, once through the compressed block but for the last; once before all */
        double passes = (compress_wants_dense_inputs(c) ? n_layers : 2 * n_layers - 1) +
                        (c->dense_pass ? n_layers : 0);
        if (c->o->true_sequential) passes += 3 * n_layers; /* blocks have about four inputs */
        forward = sequence * n * passes;
        statistics *= tokens / TOKENS * n_layers;
        if (c->scales) PARE_TRY(scales_seconds(c, cal, &scales, err));
    }
    /* read, and read back; with blocks hashed before, and each of them when it is finished */
    if (c->tunes) {
        double sequence, n = (double)pare_calibration_sequences(cal);
        PARE_TRY(compress_tune_seconds(cal, &sequence, err));
        for (size_t i = 0; i < c->recipe->n_steps; i++) {
            const pare_step *s = &c->recipe->steps[i];
            if (!s->method || !s->method->tune) continue;
            double batch = (double)s->method->batch(s->options);
            scales += n_layers * (double)s->method->steps(s->options) * sequence *
                      (batch < n ? batch : n);
        }
    }
    info->planned_seconds = tensors + forward + statistics + scales +
                            a_byte * (info->disk_bytes ? model + 2 * out : out);
    return PARE_OK;
}
