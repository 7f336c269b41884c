/* How much the errors of a tensor's columns count: mean squares of its inputs, from an imatrix file
 * or from this run's calibration, which can also write such a file. */
#include "pipeline/compress_run.h"

#include "base/file_digest.h"
#include "base/memory.h"
#include "base/os.h"
#include "pipeline/model_output.h"

#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "importance: out of memory");
}

/* --- read --- */

/* Does a step scale the tensor's inputs? Then a file knows only what they were before. */
static const pare_method *scaled_by(const compress_run *c, const tensor_plan *p) {
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_step *step = &c->recipe->steps[i];
        if (step->method && step->method->scales &&
            pare_step_takes(step, p->t->canonical, p->n_dims, c->tied))
            return step->method;
    }
    return NULL;
}

static const pare_imatrix_entry *entry_of(const compress_run *c, const tensor_plan *p) {
    const char *name = p->t->canonical;
    const pare_imatrix_entry *e = name ? pare_imatrix_find(&c->imatrix, name) : NULL;
    return e && !scaled_by(c, p) ? e : NULL;
}

/* Found before hours of work, not at their end. */
static pare_status check_folder_of(const char *path, pare_error *err) {
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path) return PARE_OK;
    char *folder = pare_asprintf("%.*s", (int)(slash - path), path);
    if (!folder) return fail_memory(err);
    pare_status st = PARE_OK;
    if (!pare_path_is_folder(folder))
        st = pare_fail(err, PARE_ERR_ARG, "%s: write-imatrix: found no folder %s", path, folder);
    pare_free(folder);
    return st;
}

/* The matrix must not replace the model, the text or the output; one that was read it may. */
static pare_status check_written(const compress_run *c, pare_error *err) {
    const char *path = c->o->write_imatrix;
    const char *const others[] = {c->o->model, c->o->calib, c->o->out};
    bool same = pare_path_is_folder(path);
    for (size_t i = 0; i < 3 && !same; i++)
        same = others[i] && (strcmp(others[i], path) == 0 || pare_same_file(others[i], path));
    for (size_t i = 0; i < pare_source_n_files(c->source) && !same; i++)
        same = pare_same_file(pare_source_file(c->source, i)->path, path);
    if (!same) return check_folder_of(path, err);
    return pare_fail(err, PARE_ERR_ARG,
                     "%s: write-imatrix: found an input, the output or a folder, expected another "
                     "file",
                     path);
}

pare_status compress_open_imatrix(compress_run *c, pare_error *err) {
    const char *path = c->o->imatrix;
    if (c->o->write_imatrix && !c->o->calib)
        return pare_fail(err, PARE_ERR_ARG,
                         "write-imatrix: found no calibration text, expected --calib FILE");
    if (c->o->write_imatrix) PARE_TRY(check_written(c, err));
    if (!path) return PARE_OK;
    PARE_TRY(pare_imatrix_load(&c->imatrix, path, err));
    /* as it is read: the run may write another one under its name (--write-imatrix) */
    PARE_TRY(pare_file_sha256(c->report->imatrix_sha256, path, c->rt, err));
    c->report->info.imatrix_sha256 = c->report->imatrix_sha256;
    bool any = false;
    for (size_t i = 0; i < pare_source_n_tensors(c->source) && !any; i++) {
        const char *name = pare_source_tensor_at(c->source, i)->canonical;
        any = name && pare_imatrix_find(&c->imatrix, name);
    }
    if (any) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: found no tensor of this model (%s is its first entry), expected names "
                     "such as blk.0.attn_q.weight",
                     path, c->imatrix.entries[0].name);
}

pare_status compress_plan_importance(compress_run *c, tensor_plan *p, pare_error *err) {
    bool in_block = p->unit < pare_source_config(c->source)->n_layers;
    if (c->o->write_imatrix && in_block && p->n_dims == 2 &&
        pare_mix_takes(p->t->canonical, p->n_dims)) {
        const pare_method *m = scaled_by(c, p);
        if (m)
            return pare_fail(err, PARE_ERR_ARG,
                             "write-imatrix: found %s in the recipe, which scales inputs; expected "
                             "a recipe that leaves them as they are",
                             m->name);
        p->needs |= PARE_NEED_SQUARES;
    }
    /* encodings of whole numbers weigh errors by the inputs */
    if (!p->recode || p->quantizer || !p->enc->codes || p->n_dims != 2) return PARE_OK;
    const pare_imatrix_entry *e = entry_of(c, p);
    if (e && e->n != p->cols)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %zu values, expected %zu",
                         c->o->imatrix, e->name, e->n, p->cols);
    c->imatrix_used |= e != NULL;
    if (e || !in_block) return PARE_OK; /* embeddings and the output have no entry as a rule */
    if (c->o->calib)
        p->needs |= PARE_NEED_SQUARES;
    else if (c->o->imatrix)
        return compress_add_fallback(c, err, "%s: not in the imatrix: its errors count alike",
                                     p->t->canonical);
    return PARE_OK;
}

pare_status compress_importance(const compress_run *c, const tensor_plan *p,
                                const pare_input_stats *x, float **own, const float **importance,
                                pare_error *err) {
    const pare_imatrix_entry *e = entry_of(c, p);
    *own = NULL;
    *importance = e ? e->squares : NULL;
    if (e || !x || !x->squares || !x->n_tokens) return PARE_OK;
    if (!(*own = pare_malloc(x->cols, sizeof **own))) return fail_memory(err);
    for (size_t i = 0; i < x->cols; i++) /* as from the file that this run would write */
        (*own)[i] = (float)x->squares[i] / (float)x->n_tokens;
    *importance = *own;
    return PARE_OK;
}

/* --- written --- */

static bool is_measured(const compress_run *c, const tensor_plan *p) {
    return c->o->write_imatrix && (p->needs & PARE_NEED_SQUARES) &&
           p->unit < pare_source_config(c->source)->n_layers;
}

/* The sums of squares of a tensor's inputs under this name beside it in the unit's file. */
static char *sums_name(const tensor_plan *p) {
    return pare_asprintf("%s.in_sum2", p->t->canonical);
}

static pare_status wrap_sums(pare_tensor *out, const pare_input_stats *x, pare_error *err) {
    float *sums = pare_malloc(x->cols, sizeof *sums);
    if (!sums) return fail_memory(err);
    for (size_t i = 0; i < x->cols; i++) sums[i] = (float)x->squares[i];
    *out = pare_tensor_wrap(pare_encoding_find("f32"), sums, 1, x->cols);
    return PARE_OK;
}

pare_status compress_write_unit(const compress_run *c, const pare_calibration *cal, pare_work *work,
                                size_t unit, const size_t *plans, const pare_tensor *tensors,
                                size_t n, pare_error *err) {
    const char **names = pare_calloc(2 * n, sizeof *names);
    pare_tensor *all = pare_calloc(2 * n, sizeof *all);
    size_t total = n;
    pare_status st = names && all ? PARE_OK : fail_memory(err);
    for (size_t k = 0; k < n && st == PARE_OK; k++) {
        const tensor_plan *p = &c->plans[plans[k]];
        names[k] = p->t->canonical;
        all[k] = tensors[k];
        if (!is_measured(c, p)) continue;
        st = wrap_sums(&all[total], pare_calibration_inputs(cal, p->t->canonical), err);
        if (st == PARE_OK && !(names[total++] = sums_name(p))) st = fail_memory(err);
    }
    if (st == PARE_OK) st = pare_work_write_unit(work, unit, names, all, total, err);
    for (size_t k = n; k < total; k++) {
        pare_free((char *)(uintptr_t)names[k]);
        pare_free((void *)(uintptr_t)all[k].view.part[0]);
    }
    pare_free(names);
    pare_free(all);
    return st;
}

static pare_status read_sums(const pare_work *work, const tensor_plan *p, pare_tensor *out,
                             pare_error *err) {
    char *name = sums_name(p);
    pare_status st =
        name ? pare_work_read(work, p->unit, name, pare_encoding_find("f32"), 1, p->cols, out, err)
             : fail_memory(err);
    pare_free(name);
    return st;
}

pare_status compress_write_imatrix(const compress_run *c, const pare_work *work, pare_error *err) {
    if (!c->o->write_imatrix) return PARE_OK;
    pare_imatrix_item *items = pare_calloc(c->n_plans, sizeof *items);
    pare_tensor *sums = pare_calloc(c->n_plans, sizeof *sums);
    size_t n = 0;
    pare_status st = items && sums ? PARE_OK : fail_memory(err);
    for (size_t i = 0; i < c->n_plans && st == PARE_OK; i++) {
        const tensor_plan *p = &c->plans[i];
        if (!is_measured(c, p)) continue;
        st = read_sums(work, p, &sums[n], err);
        if (st != PARE_OK) break;
        items[n] = (pare_imatrix_item){p->t->canonical, p->cols, sums[n].view.part[0]};
        n++;
    }
    const pare_imatrix_origin origin = {c->o->calib, c->report->info.calib_samples,
                                        c->report->info.calib_ctx};
    if (st == PARE_OK) st = pare_imatrix_write(c->o->write_imatrix, items, n, &origin, err);
    for (size_t k = 0; k < n; k++) pare_tensor_free(&sums[k]);
    pare_free(items);
    pare_free(sums);
    return st;
}
