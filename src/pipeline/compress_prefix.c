/* The prefix of a run: given, the input's own, or searched by a step of the recipe. It is a file
 * that calibration stands behind and that the output gets. */
#include "pipeline/compress_run.h"

#include "base/file_digest.h"
#include "base/group.h"
#include "base/memory.h"
#include "base/os.h"
#include "model/prefix.h"
#include "pipeline/cushion.h"

#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "compress: out of memory");
}

static bool searches(const pare_step *step) { return step->method && step->method->prefix; }

const pare_step *compress_prefix_step(const compress_run *c) {
    for (size_t i = 0; i < c->recipe->n_steps; i++)
        if (searches(&c->recipe->steps[i])) return &c->recipe->steps[i];
    return NULL;
}

static pare_status check_step(compress_run *c, const pare_step *step, pare_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < c->recipe->n_steps; i++) n += searches(&c->recipe->steps[i]);
    if (n > 1 || step != c->recipe->steps || step->target)
        return pare_fail(err, PARE_ERR_ARG,
                         "recipe: found %s%s, expected it once, as the first step, for no tensors "
                         "in particular",
                         step->method->name, n > 1 ? " more than once" : " elsewhere");
    if (!c->o->calib)
        return pare_fail(err, PARE_ERR_ARG,
                         "recipe: found %s, which searches on a text, expected --calib FILE",
                         step->method->name);
    const pare_cushion_options *o = step->options;
    const size_t ctx = pare_source_config(c->source)->ctx_max;
    if (ctx && (size_t)o->max_len + (size_t)o->n > ctx)
        return pare_fail(err, PARE_ERR_ARG,
                         "recipe: %s: found max_len=%d and n=%d, expected at most %zu together, "
                         "the model's context",
                         step->method->name, o->max_len, o->n, ctx);
    return PARE_OK;
}

size_t compress_longest_prefix(const compress_run *c) {
    const pare_step *step = compress_prefix_step(c);
    const pare_cushion_options *o = step ? step->options : NULL;
    return o ? (size_t)o->max_len : 0;
}

/* What the report says of the file. */
static pare_status describe(compress_run *c, const pare_prefix *p, pare_error *err) {
    c->report->info.prefix_length = p->attn.n;
    c->report->info.prefix_sha256 = c->report->prefix_sha256;
    return pare_file_sha256(c->report->prefix_sha256, c->prefix, c->rt, err);
}

pare_status compress_plan_prefix(compress_run *c, pare_error *err) {
    const pare_step *step = compress_prefix_step(c);
    pare_prefix *p;
    if (step) PARE_TRY(check_step(c, step, err));
    if (!step && !c->o->prefix)
        PARE_TRY(pare_prefix_path_of(&c->prefix, c->source, err));
    else if (c->o->prefix && *c->o->prefix && !(c->prefix = pare_strdup(c->o->prefix)))
        return fail_memory(err);
    if (!step && !c->prefix) return PARE_OK;
    const bool gguf = strcmp(c->format->container, "gguf") == 0;
    if (!c->o->dry_run &&
        !(c->report->prefix_file =
              gguf ? pare_strdup(c->o->out) : pare_path_join(c->o->out, PARE_PREFIX_FILE)))
        return fail_memory(err); /* when OUT is there nothing may fail any more */
    if (!c->prefix) return PARE_OK;
    PARE_TRY(pare_prefix_load(&p, pare_source_config(c->source), c->prefix, err));
    pare_status st = describe(c, p, err);
    pare_prefix_free(p);
    return st;
}

void compress_plan_search(compress_run *c) {
    const pare_step *step = compress_prefix_step(c);
    if (!step) return;
    const pare_model_config *config = pare_source_config(c->source);
    uint64_t bytes = pare_cushion_memory(step->options, config);
    for (size_t i = 0; i < c->n_plans; i++) bytes += c->plans[i].t->n_bytes;
    if (bytes > c->report->info.work_bytes) c->report->info.work_bytes = bytes;
    if (c->o->dry_run)
        pare_warn(c->rt,
                  "%s: at most %.3g million tokens pass through the model; the planned time is "
                  "without them",
                  step->method->name, 1e-6 * pare_cushion_tokens(step->options, config));
}

/* Of several ranks all search, the same way, and the first one writes. */
static pare_status keep(compress_run *c, const pare_prefix *p, const pare_work *work,
                        pare_error *err) {
    pare_free(c->prefix); /* what it began with */
    c->prefix = pare_path_join(pare_work_path(work), PARE_PREFIX_FILE);
    if (!c->prefix) return fail_memory(err);
    if (pare_group_rank() == 0)
        PARE_TRY(pare_prefix_save(p, pare_source_config(c->source), c->report->prefix_search,
                                  c->prefix, err));
    pare_group_barrier(); /* the file is there for all */
    return describe(c, p, err);
}

static pare_status add_fallback(void *arg, const char *line, pare_error *err) {
    return compress_add_fallback(arg, err, "recipe: %s", line);
}

/* The input's own cushion, which the step does not look at. */
static pare_status tell_own(compress_run *c, const pare_step *step, pare_error *err) {
    char *own;
    PARE_TRY(pare_prefix_path_of(&own, c->source, err));
    pare_status st =
        own ? compress_add_fallback(c, err,
                                    "recipe: %s: the input's own cushion (%s) is left out; "
                                    "--prefix FILE goes on from one",
                                    step->method->name, own)
            : PARE_OK;
    pare_free(own);
    return st;
}

static pare_cushion_input search_input(compress_run *c, const pare_step *step, pare_work *work) {
    return (pare_cushion_input){.model = c->o->model,
                                .text = c->o->calib,
                                .start = c->prefix,
                                .options = step->options,
                                .fallback = add_fallback,
                                .fallback_arg = c,
                                .compute = c->o->calib_compute,
                                .work = work};
}

pare_status compress_check_search(compress_run *c, pare_error *err) {
    const pare_step *step = compress_prefix_step(c);
    if (!step) return PARE_OK;
    const pare_cushion_input in = search_input(c, step, NULL);
    return pare_cushion_check(&in, pare_source_config(c->source), err);
}

pare_status compress_search_prefix(compress_run *c, pare_calibration *cal, pare_work *work,
                                   pare_error *err) {
    const pare_step *step = compress_prefix_step(c);
    pare_prefix *p;
    if (!step) return PARE_OK;
    if (!c->o->prefix) PARE_TRY(tell_own(c, step, err));
    const pare_cushion_input in = search_input(c, step, work);
    PARE_TRY(pare_cushion_make(&p, &c->report->prefix_search, c->rt, &in, err));
    if (!p)
        return compress_add_fallback(c, err, "recipe: %s: no token is worth it: there is no prefix",
                                     step->method->name);
    pare_status st = keep(c, p, work, err);
    if (st != PARE_OK || !cal) {
        pare_prefix_free(p);
        return st;
    }
    PARE_TRY(pare_calibration_set_prefix(cal, p, err)); /* takes it over */
    c->report->info.calib_crc32 = pare_calibration_crc32(cal);
    return PARE_OK;
}
