/* Recipes with methods: block by block, in the order of the layers. A block's inputs are those that
 * follow the compressed blocks before it (or the dense ones, where all methods say so). */
#include "pipeline/compress_run.h"

#include "base/file_digest.h"
#include "base/group.h"
#include "base/memory.h"
#include "base/os.h"
#include "io/json.h"
#include "tensor/pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "compress: out of memory");
}

static size_t n_layers_of(const compress_run *c) { return pare_source_config(c->source)->n_layers; }

/* --- what it takes --- */

/* Work space of the methods that take a tensor: the largest. */
static size_t largest_work(const compress_run *c, const tensor_plan *p) {
    size_t most = 0;
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_step *step = &c->recipe->steps[i];
        if (!step->method || !pare_step_takes(step, p->t->canonical, p->n_dims, c->tied)) continue;
        size_t bytes = step->method->work_bytes
                           ? step->method->work_bytes(step->options, p->rows, p->cols)
                           : 0;
        if (bytes > most) most = bytes;
    }
    return most;
}

unsigned compress_needs_of(void *arg, const char *name) {
    const compress_run *c = arg;
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].needs && strcmp(c->plans[i].t->canonical, name) == 0)
            return c->plans[i].needs;
    return 0;
}

/* What a matrix's inputs have to tell over all passes. */
static unsigned all_needs_of(void *arg, const char *name) {
    const compress_run *c = arg;
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].t->canonical && strcmp(c->plans[i].t->canonical, name) == 0)
            return c->plans[i].needs | c->plans[i].dense_needs;
    return 0;
}

/* The block's tensors after, before too where calibration runs through it, and the tensor at work.
 */
static uint64_t unit_memory(const compress_run *c, const pare_calibration *cal, size_t unit) {
    uint64_t tensors = 0, work = 0;
    for (size_t i = 0; i < c->n_plans; i++) {
        const tensor_plan *p = &c->plans[i];
        if (p->unit != unit) continue;
        tensors += (cal ? p->t->n_bytes : 0) + c->report->layers[i].out_bytes;
        uint64_t values = plan_is_whole(p) ? p->t->n_params * sizeof(float) : 0;
        bool hessian = p->needs & PARE_NEED_HESSIAN; /* then the values before are kept too */
        uint64_t bytes = largest_work(c, p) + values * (hessian ? 2 : 1) + p->t->n_bytes;
        if (bytes > work) work = bytes;
    }
    return tensors + work + (c->scales ? compress_scale_memory(c, cal, unit) : 0);
}

/* Outputs that lie in files beside the samples: a module's on them before and after, a block's that
 * tuning aims at. */
static uint64_t spilled_outputs(const compress_run *c, const pare_calibration *cal) {
    uint64_t sequence = pare_calibration_ctx(cal) * pare_source_config(c->source)->dim,
             compared = c->scales ? 2 * pare_calibration_samples(cal) : 0,
             aimed = c->tunes ? pare_calibration_sequences(cal) : 0;
    return (compared + aimed) * sequence * sizeof(float);
}

pare_status compress_check_disk(const compress_run *c, pare_error *err) {
    uint64_t room, out = 0, beside = c->report->info.disk_bytes;
    if (c->o->dry_run || !c->o->out || c->published) return PARE_OK;
    for (size_t i = 0; i < c->n_plans; i++) out += c->report->layers[i].out_bytes;
    if (beside) { /* what an earlier run left is there already */
        pare_work *earlier;
        PARE_TRY(pare_work_look(&earlier, c->rt, c->o->out, err));
        if (earlier) beside = 0;
        pare_work_close(earlier);
    }
    PARE_TRY(pare_disk_free(&room, c->o->out, err));
    if (room >= out + beside) return PARE_OK;
    return pare_fail(err, PARE_ERR_IO,
                     "%s: found %llu bytes free, expected %llu: %llu for it, %llu for %s.work",
                     c->o->out, (unsigned long long)room, (unsigned long long)(out + beside),
                     (unsigned long long)out, (unsigned long long)beside, c->o->out);
}

pare_status compress_plan_units(compress_run *c, pare_calibration *cal, pare_error *err) {
    pare_compress_info *info = &c->report->info;
    uint64_t most = 0, disk = 0, spilled = 0;
    for (size_t unit = 0; unit < n_layers_of(c); unit++) {
        uint64_t bytes = unit_memory(c, cal, unit);
        if (bytes > most) most = bytes;
    }
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].unit < n_layers_of(c)) disk += c->report->layers[i].out_bytes;
    if (cal) {
        const pare_source_tensor *table = pare_source_find(c->source, "token_embd.weight"),
                                 *head = pare_source_find(c->source, "output.weight");
        size_t statistics; /* of the first block: they are alike */
        PARE_TRY(pare_calibration_plan(cal, 0, all_needs_of, c, &statistics, &spilled, err));
        spilled += spilled_outputs(c, cal);
        most += statistics + pare_calibration_memory(cal) + (table ? table->n_bytes : 0) +
                (head ? head->n_bytes : 0);
        disk += 3 * pare_calibration_file_bytes(cal);
        if (c->tunes) { /* of the first block: they are alike */
            uint64_t tuning;
            PARE_TRY(compress_tune_memory(c, cal, 0, &tuning, err));
            most += tuning;
        }
        info->calib_samples = pare_calibration_sequences(cal);
        info->calib_ctx = pare_calibration_ctx(cal);
        info->calib_crc32 = pare_calibration_crc32(cal);
    }
    if (most > info->work_bytes) info->work_bytes = most;
    info->spill_bytes = c->spills ? spilled : 0;
    info->disk_bytes = disk + info->spill_bytes;
    return compress_check_disk(c, err);
}

/* --- the work folder --- */

/* A document is whole when jansson never was out of memory since `failures`. */
static json_t *whole(json_t *document, size_t failures) {
    if (document && pare_json_failures() == failures) return document;
    json_decref(document);
    return NULL;
}

/* What makes two calls the same run. *out is the caller's. */
static pare_status fingerprint(json_t **out, const compress_run *c, const pare_calibration *cal,
                               pare_error *err) {
    char sha[65];
    *out = NULL;
    size_t failures = pare_json_failures();
    PARE_TRY(pare_source_sha256(sha, c->source, c->rt, err));
    json_t *f = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:I, s:s}", "version", PARE_VERSION, "model", sha,
        "recipe", pare_recipe_text(c->recipe), "format", c->format->name, "keep",
        c->o->keep ? c->o->keep : "", "imatrix", c->report->imatrix_sha256, "write_imatrix",
        c->o->write_imatrix != NULL, "no_fallback", c->o->no_fallback, "seed",
        (json_int_t)pare_runtime_seed(c->rt), "isa", pare_isa_name(pare_runtime_isa(c->rt)));
    if (f && cal) {
        json_object_set_new(f, "calib", json_integer(pare_calibration_crc32(cal)));
        json_object_set_new(f, "calib_samples",
                            json_integer((json_int_t)pare_calibration_sequences(cal)));
        json_object_set_new(f, "calib_ctx", json_integer((json_int_t)pare_calibration_ctx(cal)));
        json_object_set_new(f, "prefix", json_string(c->report->prefix_sha256));
        json_object_set_new(f, "compute", json_integer(c->o->calib_compute));
        json_object_set_new(f, "true_sequential", json_boolean(c->o->true_sequential));
    }
    if (f && compress_prefix_step(c)) {
        pare_status hashed = pare_file_sha256(sha, c->o->calib, c->rt, err);
        if (hashed != PARE_OK) {
            json_decref(f);
            return hashed;
        }
        json_object_set_new(f, "search_text", json_string(sha));
        json_object_set_new(f, "search_start", json_string(c->report->prefix_sha256));
        json_object_set_new(f, "search_compute", json_integer(c->o->calib_compute));
    }
    *out = whole(f, failures);
    return *out ? PARE_OK : fail_memory(err);
}

pare_status compress_open_work(compress_run *c, const pare_calibration *cal, pare_work **work,
                               pare_error *err) {
    json_t *f;
    PARE_TRY(fingerprint(&f, c, cal, err));
    pare_status st = pare_work_open(work, c->rt, c->o->out, f, n_layers_of(c), c->o->restart, err);
    json_decref(f);
    return st;
}

pare_status compress_check_work(const compress_run *c, const pare_calibration *cal,
                                pare_error *err) {
    pare_work *earlier;
    json_t *f;
    if (!c->o->out || c->o->restart) return PARE_OK;
    PARE_TRY(pare_work_look(&earlier, c->rt, c->o->out, err));
    if (!earlier) return PARE_OK; /* nothing to compare: the model is not read for it */
    pare_status st = fingerprint(&f, c, cal, err);
    if (st == PARE_OK) st = pare_work_compare(earlier, f, err);
    json_decref(f);
    pare_work_close(earlier);
    return st;
}

/* --- reports of units, kept and brought back --- */

static json_t *unit_report(const compress_run *c, size_t unit, size_t first_fallback) {
    size_t failures = pare_json_failures();
    json_t *layers = json_object(), *fallbacks = json_array();
    for (size_t i = 0; i < c->n_plans; i++) {
        const pare_layer_report *l = &c->report->layers[i];
        if (c->plans[i].unit != unit) continue;
        json_t *line =
            json_pack("{s:I, s:f, s:f, s:f, s:f, s:b}", "bytes", (json_int_t)l->out_bytes,
                      "sparsity", l->sparsity, "error", l->error, "output_error", l->output_error,
                      "seconds", l->seconds, "changed", l->changed);
        pare_act_range r = c->plans[i].range;
        if (c->plans[i].act && r.min <= r.max) {
            json_object_set_new(line, "in_min", json_real((double)r.min));
            json_object_set_new(line, "in_max", json_real((double)r.max));
        }
        json_object_set_new(layers, l->name, line);
    }
    for (size_t i = first_fallback; i < c->report->info.n_fallbacks; i++)
        json_array_append_new(fallbacks, json_string(c->report->fallbacks[i]));
    return whole(json_pack("{s:o, s:o}", "layers", layers, "fallbacks", fallbacks), failures);
}

static pare_status restore_report(compress_run *c, size_t unit, const json_t *report,
                                  pare_error *err) {
    const json_t *layers = json_object_get(report, "layers"), *line;
    for (size_t i = 0; i < c->n_plans; i++) {
        pare_layer_report *l = &c->report->layers[i];
        if (c->plans[i].unit != unit) continue;
        const json_t *o = json_object_get(layers, l->name);
        l->out_bytes = (uint64_t)json_integer_value(json_object_get(o, "bytes"));
        l->bits_per_weight = l->n_params ? 8.0 * (double)l->out_bytes / (double)l->n_params : 0;
        l->sparsity = json_number_value(json_object_get(o, "sparsity"));
        l->error = json_number_value(json_object_get(o, "error"));
        l->output_error = json_number_value(json_object_get(o, "output_error"));
        l->seconds = json_number_value(json_object_get(o, "seconds"));
        l->changed = json_is_true(json_object_get(o, "changed"));
        if (json_object_get(o, "in_min"))
            c->plans[i].range =
                (pare_act_range){(float)json_number_value(json_object_get(o, "in_min")),
                                 (float)json_number_value(json_object_get(o, "in_max"))};
    }
    size_t k;
    json_array_foreach(json_object_get(report, "fallbacks"), k, line) {
        const char *text = json_string_value(line);
        if (text) PARE_TRY(compress_add_fallback(c, err, "%s", text));
    }
    return PARE_OK;
}

/* --- one unit --- */

typedef struct unit_job {
    compress_run *c;
    pare_calibration *cal;
    pare_work *work;
    size_t unit;
    bool dense_inputs;
    const char **names;   /* [n] */
    size_t *plans;        /* [n] */
    tensor_state *states; /* [n] */
    pare_tensor *tensors; /* [n], those that are done */
    size_t n;
    char *from, *to;    /* hidden states before and after; to NULL behind the last unit */
    pare_spill targets; /* with two streams: the dense block's outputs */
    uint32_t crc;       /* of `to` */
} unit_job;

/* Does the step take a tensor of this block? */
static bool step_is_here(const unit_job *job, const pare_step *step) {
    for (size_t k = 0; k < job->n; k++) {
        const tensor_plan *p = &job->c->plans[job->plans[k]];
        if (p->n_methods && pare_step_takes(step, p->t->canonical, p->n_dims, job->c->tied))
            return true;
    }
    return false;
}

static pare_status transform_one(unit_job *job, size_t k, pare_error *err) {
    compress_run *c = job->c;
    const tensor_plan *p = &c->plans[job->plans[k]];
    const pare_input_stats *x = NULL;
    PARE_TRY(pare_check_cancel(c->rt, err));
    if ((p->needs & ~PARE_NEED_TUNE) && !(x = pare_calibration_inputs(job->cal, p->t->canonical)))
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found no input that calibration could measure",
                         pare_source_path(c->source), p->t->canonical);
    compress_note_range(&c->plans[job->plans[k]], x);
    PARE_TRY(compress_tensor(c, job->plans[k], &job->states[k], x, &job->tensors[k], err));
    compress_state_free(&job->states[k], p);
    return PARE_OK;
}

/* --- one after the other: each input is measured behind what has been compressed before it --- */

/* The matrices that share an input. */
typedef struct group {
    const compress_run *c;
    const char *names[PARE_OP_MAX_OUTS];
    size_t n;
} group;

static bool is_in(const group *g, const char *name) {
    for (size_t i = 0; i < g->n; i++)
        if (strcmp(g->names[i], name) == 0) return true;
    return false;
}

static unsigned needs_in_group(void *arg, const char *name) {
    const group *g = arg;
    return is_in(g, name) ? compress_needs_of((void *)g->c, name) : 0;
}

static pare_status transform_group(unit_job *job, group *g, bool measured, pare_error *err) {
    unsigned needs = 0;
    for (size_t i = 0; i < g->n; i++) needs |= compress_needs_of(job->c, g->names[i]);
    if (!needs) return PARE_OK;
    if (!measured)
        PARE_TRY(pare_calibration_run(job->cal, job->unit, job->from, needs_in_group, g, NULL, NULL,
                                      err));
    for (size_t k = 0; k < job->n; k++) {
        if (!is_in(g, job->names[k])) continue;
        PARE_TRY(transform_one(job, k, err));
        pare_calibration_replace(job->cal, job->unit, job->names[k], &job->tensors[k]);
    }
    return PARE_OK;
}

static pare_status transform_in_sequence(unit_job *job, pare_error *err) {
    const char *const *names;
    group g = {.c = job->c};
    for (size_t i = 0; (names = pare_calibration_sharing(job->cal, i, &g.n)); i++) {
        memcpy(g.names, names, g.n * sizeof *names);
        PARE_TRY(transform_group(job, &g, i == 0, err));
    }
    return PARE_OK;
}

/* Each rank its matrices, in order; lines[k]: how many fallbacks there were before matrix k. */
static pare_status transform_own(unit_job *job, const int *owner, size_t *lines, pare_error *err) {
    pare_status st = PARE_OK;
    for (size_t k = 0; k < job->n && st == PARE_OK; k++) {
        lines[k] = job->c->report->info.n_fallbacks;
        if (owner[k] < 0 || owner[k] == pare_group_rank()) st = transform_one(job, k, err);
    }
    lines[job->n] = job->c->report->info.n_fallbacks;
    return st;
}

/* All ranks get all matrices; fallbacks come in the order of the matrices, whoever noted them.
 * held: this rank's, from number lines[0] on. */
static pare_status share_results(unit_job *job, const int *owner, const size_t *lines,
                                 char *const *held, pare_error *err) {
    compress_run *c = job->c;
    for (size_t k = 0; k < job->n; k++) {
        size_t first = c->report->info.n_fallbacks;
        for (size_t i = lines[k]; i < lines[k + 1]; i++)
            PARE_TRY(compress_add_fallback(c, err, "%s", held[i - lines[0]]));
        if (owner[k] >= 0)
            PARE_TRY(
                compress_share_result(c, job->plans[k], owner[k], first, &job->tensors[k], err));
    }
    return PARE_OK;
}

/* owner [n], lines [n + 1]. */
static pare_status transform_with(unit_job *job, int *owner, size_t *lines, pare_error *err) {
    pare_compress_report *r = job->c->report;
    PARE_TRY(compress_owners(job->c, job->plans, job->n, owner, err));
    PARE_TRY(transform_own(job, owner, lines, err));
    size_t n_held = lines[job->n] - lines[0];
    char **held = pare_calloc(n_held, sizeof *held);
    if (!held) return fail_memory(err);
    if (n_held) memcpy(held, r->fallbacks + lines[0], n_held * sizeof *held);
    r->info.n_fallbacks = lines[0];
    pare_status st = share_results(job, owner, lines, held, err);
    for (size_t i = 0; i < n_held; i++) pare_free(held[i]);
    pare_free(held);
    return st;
}

static pare_status transform_shared(unit_job *job, pare_error *err) {
    int *owner = pare_malloc(job->n, sizeof *owner);
    size_t *lines = pare_calloc(job->n + 1, sizeof *lines);
    pare_status st = owner && lines ? transform_with(job, owner, lines, err) : fail_memory(err);
    pare_free(owner);
    pare_free(lines);
    return st;
}

static pare_status transform(unit_job *job, pare_error *err) {
    compress_run *c = job->c;
    if (job->cal && c->o->true_sequential) PARE_TRY(transform_in_sequence(job, err));
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_step *step = &c->recipe->steps[i];
        if (step->method && step->method->scales && step_is_here(job, step))
            PARE_TRY(compress_scale_block(c, job->cal, job->unit, i, job->plans, job->states,
                                          job->n, err));
        if (step->method && step->method->tune && step_is_here(job, step))
            PARE_TRY(compress_tune_block(c, job->cal, job->unit, i, job->from, &job->targets,
                                         job->plans, job->states, job->n, err));
    }
    if (pare_group_size() > 1 && !c->o->true_sequential) return transform_shared(job, err);
    for (size_t k = 0; k < job->n; k++)
        if (!job->tensors[k].enc) PARE_TRY(transform_one(job, k, err));
    return PARE_OK;
}

/* The next block's inputs, through the compressed block. */
static pare_status run_compressed(unit_job *job, pare_error *err) {
    for (size_t k = 0; k < job->n; k++) {
        const tensor_plan *p = &job->c->plans[job->plans[k]];
        if (!p->recode || (p->n_dims == 1 && !p->feeds)) continue;
        if (!p->feeds)
            PARE_TRY(pare_tensor_repack(&job->tensors[k], pare_runtime_isa(job->c->rt), err));
        pare_calibration_replace(job->cal, job->unit, job->names[k], &job->tensors[k]);
    }
    return job->targets.data
               ? pare_calibration_run_compressed(job->cal, job->unit, job->from, &job->crc, err)
               : pare_calibration_run(job->cal, job->unit, job->from, NULL, NULL, job->to,
                                      &job->crc, err);
}

/* The dense block over the dense states: the targets, and half of what the next block gets. */
static pare_status run_dense(unit_job *job, pare_error *err) {
    size_t ctx = pare_calibration_ctx(job->cal), n = pare_calibration_sequences(job->cal);
    PARE_TRY(pare_spill_make(&job->targets, n * ctx * pare_source_config(job->c->source)->dim,
                             job->c->spill, err));
    return pare_calibration_run_dense(job->cal, job->unit, job->from, job->to, &job->targets, err);
}

/* Does a matrix of this block need to know what only a pass through it tells? */
static bool needs_statistics(const unit_job *job) {
    for (size_t k = 0; k < job->n; k++)
        if (job->c->plans[job->plans[k]].needs & ~PARE_NEED_TUNE) return true;
    return false;
}

static pare_status do_unit(unit_job *job, pare_error *err) {
    compress_run *c = job->c;
    size_t first_fallback = c->report->info.n_fallbacks;
    if (job->cal) {
        PARE_TRY(pare_calibration_load(job->cal, job->unit, err));
        if (c->tunes) PARE_TRY(run_dense(job, err));
        if (!c->tunes || needs_statistics(job))
            PARE_TRY(pare_calibration_run(job->cal, job->unit, job->from, compress_needs_of, c,
                                          job->dense_inputs ? job->to : NULL, &job->crc, err));
    }
    PARE_TRY(transform(job, err));
    for (size_t k = 0; k < job->n && job->cal; k++) { /* those of other ranks, too */
        tensor_plan *p = &c->plans[job->plans[k]];
        if (p->range.min > p->range.max)
            compress_note_range(p, pare_calibration_inputs(job->cal, job->names[k]));
        PARE_TRY(compress_check_range(p, err));
    }
    PARE_TRY(compress_write_unit(c, job->cal, job->work, job->unit, job->plans, job->tensors,
                                 job->n, err));
    if (job->to && !job->dense_inputs) PARE_TRY(run_compressed(job, err));
    json_t *report = unit_report(c, job->unit, first_fallback);
    if (!report) return fail_memory(err);
    pare_status st =
        pare_work_finish_unit(job->work, job->unit, report, job->to ? &job->crc : NULL, err);
    json_decref(report);
    return st;
}

static pare_status run_unit(compress_run *c, pare_calibration *cal, pare_work *work, size_t unit,
                            bool dense_inputs, pare_error *err) {
    unit_job job = {.c = c,
                    .cal = cal,
                    .work = work,
                    .unit = unit,
                    .dense_inputs = dense_inputs,
                    .names = pare_calloc(c->n_plans, sizeof *job.names),
                    .plans = pare_calloc(c->n_plans, sizeof *job.plans),
                    .states = pare_calloc(c->n_plans, sizeof *job.states),
                    .tensors = pare_calloc(c->n_plans, sizeof *job.tensors)};
    bool more = cal && unit + 1 < n_layers_of(c);
    if (cal) job.from = pare_work_states_path(work, unit);
    if (more) job.to = pare_work_states_path(work, unit + 1);
    pare_status st = job.names && job.plans && job.states && job.tensors && (job.from || !cal) &&
                             (job.to || !more)
                         ? PARE_OK
                         : fail_memory(err);
    for (size_t i = 0; i < c->n_plans && st == PARE_OK; i++)
        if (c->plans[i].unit == unit) {
            job.names[job.n] = c->plans[i].t->canonical;
            job.plans[job.n++] = i;
        }
    if (st == PARE_OK) st = do_unit(&job, err);
    if (cal) pare_calibration_drop(cal, unit);
    for (size_t k = 0; k < job.n; k++) {
        compress_state_free(&job.states[k], &c->plans[job.plans[k]]);
        pare_tensor_free(&job.tensors[k]);
    }
    pare_free(job.names);
    pare_free(job.plans);
    pare_free(job.states);
    pare_free(job.tensors);
    pare_spill_free(&job.targets);
    pare_free(job.from);
    pare_free(job.to);
    return st;
}

/* Dense inputs only where every method with statistics wants them. */
bool compress_wants_dense_inputs(const compress_run *c) {
    bool dense = !c->tunes;
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_method *m = c->recipe->steps[i].method;
        if (m && m->needs) dense &= m->dense_inputs;
    }
    return dense;
}

static pare_status embed(compress_run *c, pare_calibration *cal, pare_work *work, pare_error *err) {
    uint32_t crc = 0;
    char *path = pare_work_states_path(work, 0);
    pare_status st = path ? pare_calibration_embed(cal, path, &crc, err) : fail_memory(err);
    pare_free(path);
    (void)c;
    return st == PARE_OK ? pare_work_begin(work, crc, err) : st;
}

static pare_status do_units(compress_run *c, pare_calibration *cal, pare_work *work,
                            pare_error *err) {
    size_t done = pare_work_n_done(work), n = n_layers_of(c);
    c->report->info.n_resumed = done;
    for (size_t unit = 0; unit < done; unit++)
        PARE_TRY(restore_report(c, unit, pare_work_report(work, unit), err));
    if (cal && !pare_work_has_states(work)) PARE_TRY(embed(c, cal, work, err));
    for (size_t unit = done; unit < n; unit++) {
        PARE_TRY(run_unit(c, cal, work, unit, compress_wants_dense_inputs(c), err));
        pare_progress(c->rt, "blocks", (double)(unit + 1), (double)n, "blocks");
    }
    return PARE_OK;
}

pare_status compress_units(compress_run *c, pare_calibration *cal, pare_work *work,
                           pare_error *err) {
    char *spare = cal ? pare_work_spare_path(work) : NULL;
    if (cal && !spare) return fail_memory(err);
    if (cal) pare_calibration_set_spare(cal, spare);
    pare_status st = do_units(c, cal, work, err);
    if (cal) pare_calibration_set_spare(cal, NULL);
    pare_free(spare);
    return st;
}
