/* Distributions of a recipe become a sparsity per tensor, before the first of them is worked on.
 * OWL looks at the dense model first: one pass of the calibration sequences through all blocks. */
#include "pipeline/compress_run.h"

#include "base/group.h"
#include "base/memory.h"
#include "io/json.h"
#include "methods/distribution.h"

#include <math.h>
#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "sparsity of tensors: out of memory");
}

static const pare_prune_options *prune_options(const pare_step *step) {
    return step->method && step->method->prunes ? step->options : NULL;
}

static bool is_owl(const pare_step *step) {
    const pare_prune_options *o = prune_options(step);
    return o && o->dist == PARE_DIST_OWL;
}

static bool step_takes(const compress_run *c, const pare_step *step, const tensor_plan *p) {
    return p->n_methods && pare_step_takes(step, p->t->canonical, p->n_dims, c->tied);
}

/* --- shares --- */

/* Shares that would lie below 0 or above 1 are cut there, and the mean is not what was asked for.
 */
static pare_status tell_cut_shares(compress_run *c, size_t s, const double *share, size_t n,
                                   pare_error *err) {
    double sum = 0, asked = prune_options(&c->recipe->steps[s])->sparsity.share;
    bool cut = false;
    for (size_t k = 0; k < n; k++) {
        sum += share[k];
        cut |= share[k] <= 0 || share[k] >= 1;
    }
    if (!cut || fabs(sum / (double)n - asked) < 1e-6) return PARE_OK;
    return compress_add_fallback(c, err,
                                 "step %zu: owl: shares end at 0 and 1: their mean is %.4f, not "
                                 "%.4f (a smaller owl_lambda keeps it)",
                                 s + 1, sum / (double)n, asked);
}

/* Shares of the tensors that a step takes. outliers [n_layers]: of owl. */
static pare_status share_out(compress_run *c, size_t s, const double *outliers, pare_error *err) {
    const pare_step *step = &c->recipe->steps[s];
    const pare_dist_blocks blocks = {pare_source_config(c->source)->n_layers, outliers};
    pare_dist_tensor *t = pare_calloc(c->n_plans, sizeof *t);
    size_t *plans = pare_calloc(c->n_plans, sizeof *plans), n = 0;
    double *share = pare_calloc(c->n_plans, sizeof *share);
    pare_status st = t && plans && share ? PARE_OK : fail_memory(err);
    for (size_t i = 0; i < c->n_plans && st == PARE_OK; i++) {
        const tensor_plan *p = &c->plans[i];
        if (!step_takes(c, step, p)) continue;
        plans[n] = i;
        t[n++] = (pare_dist_tensor){.name = p->t->canonical,
                                    .dims = {p->rows, p->cols},
                                    .n_dims = 2,
                                    .layer = p->unit < blocks.n ? p->unit : PARE_NO_LAYER,
                                    .fixed = NAN};
    }
    if (st == PARE_OK && n > 0) /* a step that takes nothing is told elsewhere */
        st = pare_distribution(share, t, n, prune_options(step), &blocks, err);
    for (size_t k = 0; k < n && st == PARE_OK; k++) c->shares[s * c->n_plans + plans[k]] = share[k];
    if (st == PARE_OK && n > 0 && is_owl(step)) st = tell_cut_shares(c, s, share, n, err);
    pare_free(t);
    pare_free(plans);
    pare_free(share);
    return st == PARE_OK ? st : pare_fail_prefix(err, "recipe: step %zu", s + 1);
}

pare_status compress_plan_sparsities(compress_run *c, pare_error *err) {
    size_t n = c->recipe->n_steps * c->n_plans;
    c->shares = pare_malloc(n, sizeof *c->shares);
    if (!c->shares) return fail_memory(err);
    for (size_t i = 0; i < n; i++) c->shares[i] = NAN;
    for (size_t s = 0; s < c->recipe->n_steps; s++) {
        const pare_prune_options *o = prune_options(&c->recipe->steps[s]);
        if (!o || o->sparsity.m) continue;
        if (o->dist == PARE_DIST_OWL)
            c->dense_pass = true;
        else
            PARE_TRY(share_out(c, s, NULL, err));
    }
    for (size_t i = 0; i < c->n_plans && c->dense_pass; i++)
        for (size_t s = 0; s < c->recipe->n_steps; s++) {
            const tensor_plan *p = &c->plans[i];
            if (!is_owl(&c->recipe->steps[s]) || !step_takes(c, &c->recipe->steps[s], p)) continue;
            if (p->unit == pare_source_config(c->source)->n_layers)
                return pare_fail(err, PARE_ERR_ARG,
                                 "recipe: step %zu: owl: found %s, expected tensors of blocks",
                                 s + 1, p->t->canonical);
            c->plans[i].dense_needs = PARE_NEED_SQUARES;
        }
    return PARE_OK;
}

void compress_step_options(const compress_run *c, size_t s, size_t plan, void *options) {
    const pare_step *step = &c->recipe->steps[s];
    double share = c->shares[s * c->n_plans + plan];
    memcpy(options, step->options, step->method->options_size);
    if (!isnan(share)) ((pare_prune_options *)options)->sparsity = (pare_sparsity){share, 0, 0};
}

double compress_planned_sparsity(const compress_run *c, size_t i) {
    double most = 0;
    for (size_t s = 0; s < c->recipe->n_steps; s++) {
        const pare_prune_options *o = prune_options(&c->recipe->steps[s]);
        if (!o || !step_takes(c, &c->recipe->steps[s], &c->plans[i])) continue;
        double share = c->shares[s * c->n_plans + i];
        most = fmax(most, isnan(share) ? o->sparsity.share : share);
    }
    return most;
}

/* --- owl: outliers of the dense model's scores --- */

/* Scores |w| ||x|| of one tensor: their sum, or how many lie above a limit; by rows, so that the
 * number of threads does not matter. */
typedef struct score_job {
    const pare_tensor *t;
    const float *norm; /* [cols] */
    double limit;      /* NAN: sums */
    double *result;    /* [rows] */
    float *rows;       /* [n_threads][cols] */
} score_job;

static void score_rows(pare_worker *w, void *arg) {
    const score_job *j = arg;
    size_t cols = j->t->view.cols;
    float *row = j->rows + (size_t)w->id * cols;
    for (size_t r; (r = pare_take(w, 1)) < j->t->view.rows;) {
        j->t->enc->decode(row, &j->t->view, r, 0, cols);
        double sum = 0;
        for (size_t i = 0; i < cols; i++) {
            double s = (double)(fabsf(row[i]) * j->norm[i]);
            sum += isnan(j->limit) ? s : (double)(s > j->limit);
        }
        j->result[r] = sum;
    }
}

static pare_status score_tensor(compress_run *c, const tensor_plan *p, const pare_input_stats *x,
                                double limit, double *sum, pare_error *err) {
    pare_tensor t = {0};
    PARE_TRY(pare_source_read(c->source, p->t, true, &t, err));
    size_t threads = (size_t)c->rt->options.n_threads;
    float *norm = pare_malloc(p->cols * (threads + 1), sizeof *norm);
    score_job j = {&t, norm, limit, pare_calloc(p->rows, sizeof(double)), NULL};
    pare_status st = PARE_OK;
    if (norm && j.result) {
        j.rows = norm + p->cols;
        for (size_t i = 0; i < p->cols; i++) norm[i] = (float)sqrt(x->squares[i]);
        pare_team_run(c->rt, score_rows, &j);
        for (size_t r = 0; r < p->rows; r++) *sum += j.result[r];
    } else {
        st = fail_memory(err);
    }
    pare_free(norm);
    pare_free(j.result);
    pare_tensor_free(&t);
    return st;
}

/* The share of a block's scores that are more than m times their mean; NAN when the step takes none
 * of its tensors. */
static pare_status block_outliers(compress_run *c, const pare_calibration *cal, const pare_step *s,
                                  size_t unit, double *out, pare_error *err) {
    double m = prune_options(s)->owl_m, n = 0, sum[2] = {0, 0};
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < c->n_plans; i++) {
            const tensor_plan *p = &c->plans[i];
            if (p->unit != unit || !step_takes(c, s, p)) continue;
            const pare_input_stats *x = pare_calibration_inputs(cal, p->t->canonical);
            if (!x)
                return pare_fail(err, PARE_ERR_UNSUPPORTED,
                                 "%s: %s: found no input that calibration could measure",
                                 pare_source_path(c->source), p->t->canonical);
            double limit = pass == 0 ? (double)NAN : m * sum[0] / n;
            PARE_TRY(score_tensor(c, p, x, limit, &sum[pass], err));
            if (pass == 0) n += (double)p->rows * (double)p->cols;
        }
    *out = n > 0 ? sum[1] / n : (double)NAN;
    return PARE_OK;
}

static unsigned dense_needs(void *arg, const char *name) {
    const compress_run *c = arg;
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].dense_needs && strcmp(c->plans[i].t->canonical, name) == 0)
            return c->plans[i].dense_needs;
    return 0;
}

/* outliers [n_steps][n_layers]; files: hidden states before and after a block, in turn. */
static pare_status run_dense(compress_run *c, pare_calibration *cal, char *const files[2],
                             double *outliers, pare_error *err) {
    size_t n = pare_source_config(c->source)->n_layers;
    uint32_t crc;
    PARE_TRY(pare_calibration_embed(cal, files[0], &crc, err));
    for (size_t unit = 0; unit < n; unit++) {
        const char *to = unit + 1 < n ? files[(unit + 1) % 2] : NULL;
        pare_status st = pare_calibration_load(cal, unit, err);
        if (st == PARE_OK)
            st = pare_calibration_run(cal, unit, files[unit % 2], dense_needs, c, to, &crc, err);
        for (size_t s = 0; s < c->recipe->n_steps && st == PARE_OK; s++)
            if (is_owl(&c->recipe->steps[s]))
                st = block_outliers(c, cal, &c->recipe->steps[s], unit, &outliers[s * n + unit],
                                    err);
        pare_calibration_drop(cal, unit);
        if (st != PARE_OK) return st;
    }
    return PARE_OK;
}

/* Outliers as the work folder keeps them: [steps][layers], null for a block without tensors of the
 * step. NULL: out of memory. */
static json_t *outliers_json(const compress_run *c, const double *outliers) {
    size_t failures = pare_json_failures(), n = pare_source_config(c->source)->n_layers;
    json_t *all = json_array();
    for (size_t i = 0; i < c->recipe->n_steps * n; i++)
        json_array_append_new(all, isnan(outliers[i]) ? json_null() : json_real(outliers[i]));
    if (pare_json_failures() == failures) return all;
    json_decref(all);
    return NULL;
}

static bool read_outliers(const compress_run *c, const json_t *kept, double *outliers) {
    size_t n = c->recipe->n_steps * pare_source_config(c->source)->n_layers;
    if (json_array_size(kept) != n) return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(kept, i);
        outliers[i] = json_is_number(v) ? json_number_value(v) : (double)NAN;
    }
    return true;
}

static pare_status measure_outliers(compress_run *c, pare_calibration *cal, pare_work *work,
                                    double *outliers, pare_error *err) {
    char *files[2];
    for (int i = 0; i < 2; i++) files[i] = pare_asprintf("%s/dense-%d", pare_work_path(work), i);
    pare_status st =
        files[0] && files[1] ? run_dense(c, cal, files, outliers, err) : fail_memory(err);
    if (st == PARE_OK) st = pare_work_keep(work, "outliers", outliers_json(c, outliers), err);
    for (int i = 0; i < 2; i++) {
        if (files[i] && pare_group_rank() == 0) pare_path_remove(files[i]);
        pare_free(files[i]);
    }
    return st;
}

pare_status compress_dense_pass(compress_run *c, pare_calibration *cal, pare_work *work,
                                pare_error *err) {
    size_t n = pare_source_config(c->source)->n_layers;
    double *outliers = pare_malloc(c->recipe->n_steps * n, sizeof *outliers);
    if (!outliers) return fail_memory(err);
    for (size_t i = 0; i < c->recipe->n_steps * n; i++) outliers[i] = NAN;
    pare_status st = PARE_OK;
    if (!read_outliers(c, pare_work_kept(work, "outliers"), outliers))
        st = measure_outliers(c, cal, work, outliers, err);
    for (size_t s = 0; s < c->recipe->n_steps && st == PARE_OK; s++)
        if (is_owl(&c->recipe->steps[s])) st = share_out(c, s, outliers + s * n, err);
    pare_free(outliers);
    return st;
}
