/* A compression run: every tensor is planned from the headers, then read, transformed, encoded,
 * measured and written, one at a time. Recipes with methods go block by block (units.c) and keep
 * what is finished. Memory: the input's and the output's bytes of one tensor, and its f32 values
 * where a method needs them all; with calibration one block and what its statistics take. */
#include "pipeline/compress_run.h"

#include "base/group.h"
#include "base/memory.h"
#include "base/os.h"
#include "model/feeder.h"
#include "pipeline/calibrate.h"
#include "pipeline/model_output.h"
#include "pipeline/work_folder.h"
#include "text/tokenizer_export.h"
#include "text/vocab.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "compress: out of memory");
}

/* --- the plan --- */

pare_status compress_add_fallback(compress_run *c, pare_error *err, const char *format, ...) {
    pare_compress_report *r = c->report;
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (r->info.n_fallbacks == r->fallback_capacity) {
        size_t n = r->fallback_capacity ? 2 * r->fallback_capacity : 16;
        char **more = pare_realloc(r->fallbacks, n, sizeof *more);
        if (!more) return fail_memory(err);
        r->fallbacks = more;
        r->fallback_capacity = n;
    }
    if (!(r->fallbacks[r->info.n_fallbacks] = pare_strdup(line))) return fail_memory(err);
    r->info.n_fallbacks++;
    return PARE_OK;
}

/* The encoding that the step wants for this tensor, after the fallback for narrow rows. */
static pare_status wanted_encoding(compress_run *c, const pare_step *step, tensor_plan *p,
                                   pare_error *err) {
    const pare_encode_options *e = step->options;
    const char *name = p->t->canonical;
    const pare_encoding *wanted =
        step->mix ? pare_mix_encoding(step->mix, pare_source_config(c->source), !c->tied, name,
                                      e->pure, c->o->calib || c->o->imatrix)
                  : step->enc;
    pare_fallback fallback = c->o->no_fallback ? PARE_FALLBACK_REFUSE : (pare_fallback)e->fallback;
    const pare_encoding *fits = pare_mix_fit(wanted, p->cols, fallback);
    if (!fits)
        return pare_fail(
            err, PARE_ERR_ARG, "%s: %s: found rows of %zu, expected a multiple of %u for %s",
            pare_source_path(c->source), name, p->cols, wanted->block_len, wanted->name);
    if (fits != wanted)
        PARE_TRY(compress_add_fallback(c, err,
                                       "%s: rows of %zu do not fit %s (blocks of %u); stored as %s",
                                       name, p->cols, wanted->name, wanted->block_len, fits->name));
    p->enc = fits;
    return PARE_OK;
}

/* Does the encoding give exact zeros back? Found by trying. */
static bool keeps_zeros(const pare_encoding *enc) {
    float x[256], y[256];
    uint8_t row[2048];
    size_t bytes = pare_encoding_row_bytes(enc, 256);
    if (bytes == 0) return true; /* sparse forms exist for them */
    for (size_t i = 0; i < 256; i++) x[i] = i % 2 ? 0.0f : 0.013f * (float)i - 1.0f;
    if (bytes > sizeof row || pare_encoding_encode_row(enc, row, x, 256, NULL, NULL) != PARE_OK ||
        pare_encoding_decode_row(enc, y, row, 256, NULL) != PARE_OK)
        return false;
    for (size_t i = 1; i < 256; i += 2)
        if (y[i] != 0.0f) return false;
    return true;
}

/* A method step that takes the tensor. */
static pare_status plan_method(compress_run *c, tensor_plan *p, size_t i, pare_error *err) {
    const pare_step *step = &c->recipe->steps[i];
    const pare_encoding *enc =
        step->method->encoding ? step->method->encoding(step->options) : NULL;
    p->n_methods++;
    bool in_block = p->unit < pare_source_config(c->source)->n_layers;
    p->needs |= step->method->needs;
    if (c->o->calib && in_block && step->method->uses)
        p->needs |= step->method->uses(step->options);
    if (step->method->needs && !in_block)
        return pare_fail(err, PARE_ERR_ARG,
                         "recipe: found %s for %s, expected tensors of blocks: others have no "
                         "calibration inputs",
                         step->method->name, p->t->canonical);
    if (!enc) return PARE_OK;
    p->quantizer = step->method;
    p->quantizer_options = step->options;
    p->enc = enc;
    if (p->cols % enc->block_len == 0) return PARE_OK;
    return pare_fail(
        err, PARE_ERR_ARG, "%s: %s: found rows of %zu, expected a multiple of %u for %s",
        pare_source_path(c->source), p->t->canonical, p->cols, enc->block_len, enc->name);
}

static pare_status apply_steps(compress_run *c, tensor_plan *p, pare_error *err) {
    bool encoded = false;
    const pare_method *pruner = NULL, *loose = NULL; /* loose: rounds to what no encoding holds */
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_step *step = &c->recipe->steps[i];
        if (!pare_step_takes(step, p->t->canonical, p->n_dims, c->tied)) continue;
        if (step->method && step->method->prunes) pruner = step->method;
        if (step->method && step->method->act) {
            bool weights;
            PARE_TRY(compress_plan_act(c, p, step, &weights, err));
            if (!weights) continue;
        }
        if (step->method) {
            if (encoded)
                return pare_fail(
                    err, PARE_ERR_ARG,
                    "recipe: %s comes after an encoding of %s, expected methods before encodings",
                    step->method->name, p->t->canonical);
            PARE_TRY(plan_method(c, p, i, err));
            encoded = p->quantizer != NULL;
            if (step->method->encoding && !step->method->prunes && !encoded) loose = step->method;
        } else if (p->quantizer && !step->target) {
            continue; /* for what no quantizer took */
        } else if (p->quantizer) {
            return pare_fail(err, PARE_ERR_ARG,
                             "recipe: %s is stored as %s by %s, expected no other encoding for it",
                             p->t->canonical, p->enc->name, p->quantizer->name);
        } else {
            PARE_TRY(wanted_encoding(c, step, p, err));
            encoded = true;
        }
    }
    if (loose && !encoded) {
        p->enc = pare_encoding_find("f32");
        PARE_TRY(compress_add_fallback(
            c, err, "%s: no encoding holds the groups that %s makes; it is stored as f32",
            p->t->canonical, loose->name));
    } else if (p->n_methods && !encoded && !keeps_zeros(p->t->enc)) {
        p->enc = pare_encoding_find("bf16");
        PARE_TRY(compress_add_fallback(
            c, err, "%s: %s does not hold zeros exactly; the pruned tensor is stored as bf16",
            p->t->canonical, p->t->enc->name));
    } else if (pruner && encoded && !p->quantizer && !keeps_zeros(p->enc)) {
        PARE_TRY(compress_add_fallback(
            c, err, "%s: %s does not hold zeros exactly: those of %s become small values",
            p->t->canonical, p->enc->name, pruner->name));
    }
    return PARE_OK;
}

/* The layer that a tensor belongs to, n_layers for none. */
static size_t unit_of(const compress_run *c, const pare_source_tensor *t) {
    size_t n_layers = pare_source_config(c->source)->n_layers;
    if (!t->canonical || strncmp(t->canonical, "blk.", 4) != 0) return n_layers;
    unsigned long layer = strtoul(t->canonical + 4, NULL, 10);
    return layer < n_layers ? layer : n_layers;
}

static void canonical_shape(tensor_plan *p) {
    const pare_source_tensor *t = p->t;
    p->n_dims = t->n_dims;
    memcpy(p->dims, t->dims, sizeof p->dims);
    if (t->canonical && (t->fix & PARE_FIX_TRANSPOSE)) {
        p->dims[0] = t->dims[1];
        p->dims[1] = t->dims[0];
    }
    p->cols = p->n_dims ? p->dims[p->n_dims - 1] : 1;
    p->rows = p->cols ? (size_t)(t->n_params / p->cols) : 0;
}

static bool has_scales(const compress_run *c) {
    for (size_t i = 0; i < c->recipe->n_steps; i++)
        if (c->recipe->steps[i].method && c->recipe->steps[i].method->scales) return true;
    return false;
}

static bool has_tuning(const compress_run *c) {
    for (size_t i = 0; i < c->recipe->n_steps; i++)
        if (c->recipe->steps[i].method && c->recipe->steps[i].method->tune) return true;
    return false;
}

/* What the format cannot hold is refused where the recipe asks for it; a tensor that it leaves
 * alone becomes plain in a format of other programs, and that is told. */
static pare_status fit_format(compress_run *c, tensor_plan *p, pare_error *err) {
    char reason[200];
    const char *name = p->t->canonical ? p->t->canonical : p->t->name;
    bool anew = p->n_methods || p->enc != p->t->enc;
    if (pare_export_fits(&p->stored, c->format, c->source, p->t->canonical, p->enc, p->rows,
                         p->cols, anew, reason))
        return PARE_OK;
    if (anew || !c->format->kind)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: format %s: %s",
                         pare_source_path(c->source), name, c->format->name, reason);
    p->enc = p->stored = pare_export_plain(c->source);
    return compress_add_fallback(c, err, "%s: format %s: %s; stored as %s", name, c->format->name,
                                 reason, p->enc->name);
}

static pare_status plan_tensor(compress_run *c, tensor_plan *p, pare_error *err) {
    const pare_source_tensor *t = p->t;
    if (!t->enc)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found type %s, which pare cannot decode",
                         pare_source_path(c->source), t->name, t->type);
    canonical_shape(p);
    p->enc = t->enc;
    p->unit = unit_of(c, t);
    bool kept = !t->canonical || (c->keep && pare_name_regex_match(c->keep, t->canonical));
    if (!kept) PARE_TRY(apply_steps(c, p, err));
    p->adapter = c->lora ? pare_lora_find(c->lora, t->canonical) : NULL;
    if (p->adapter && (kept || !c->recipe->n_steps)) p->enc = pare_encoding_find("f32");
    /* what the file keeps in 16 bits and GGUF readers expect in 32: norms, biases, positions */
    if (!c->same_format && t->canonical && strcmp(c->format->container, "gguf") == 0 &&
        !pare_mix_takes(t->canonical, p->n_dims))
        p->enc = pare_encoding_find("f32");
    /* scales go into norms and biases as f32 */
    p->feeds = !kept && c->scales && p->n_dims == 1 &&
               p->unit < pare_source_config(c->source)->n_layers &&
               pare_feeds(pare_source_arch(c->source), pare_source_config(c->source), t->canonical);
    if (p->feeds) p->enc = pare_encoding_find("f32");
    PARE_TRY(fit_format(c, p, err));
    p->recode = p->n_methods || p->feeds || p->enc != t->enc || p->adapter;
    if (t->canonical) PARE_TRY(compress_plan_importance(c, p, err));
    p->raw = c->same_format && !p->recode;
    return PARE_OK;
}

/* A format of packed matrices must get some; AWQ says one group size for all. */
static pare_status check_packing(const compress_run *c, pare_error *err) {
    const pare_encoding *first = NULL;
    for (size_t i = 0; i < c->n_plans; i++) {
        const pare_encoding *enc = c->plans[i].stored;
        if (!enc->grid) continue;
        if (!first) first = enc;
        if (c->format->kind == PARE_LAYOUT_AWQ && enc->grid->group != first->grid->group)
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "format awq: found %s and %s, expected one group size", first->name,
                             enc->name);
    }
    if (first || !c->format->kind) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "format %s: found no matrix of whole-number codes, expected a recipe with a "
                     "quantizer (rtn, gptq, ...)",
                     c->format->name);
}

static pare_status make_plan(compress_run *c, pare_error *err) {
    size_t n = pare_source_n_tensors(c->source);
    c->plans = pare_calloc(n, sizeof *c->plans);
    if (!c->plans) return fail_memory(err);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < n && st == PARE_OK; i++) {
        const pare_source_tensor *t = pare_source_tensor_at(c->source, i);
        if (!c->same_format && t->canonical && pare_output_absorbs(c->format, t->canonical))
            continue;
        if (!t->canonical && (!c->same_format || !t->enc)) {
            st = compress_add_fallback(c, err, "%s: not used by the model; left out of the %s file",
                                       t->name, c->format->name);
            continue;
        }
        tensor_plan *p = &c->plans[c->n_plans++];
        p->t = t;
        st = plan_tensor(c, p, err);
        c->needs |= p->needs;
    }
    return st == PARE_OK ? check_packing(c, err) : st;
}

/* A step whose target names no tensor does nothing: most likely a slip in the target. */
static pare_status tell_idle_steps(compress_run *c, pare_error *err) {
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_step *step = &c->recipe->steps[i];
        bool idle = !step->method || !step->method->prefix;
        for (size_t k = 0; k < c->n_plans && idle; k++) {
            const tensor_plan *p = &c->plans[k];
            idle = !p->t->canonical || !pare_step_takes(step, p->t->canonical, p->n_dims, c->tied);
        }
        if (idle)
            PARE_TRY(compress_add_fallback(
                c, err, "recipe: step %zu%s%s takes no tensor of this model", i + 1,
                step->target ? ", @" : "", step->target ? step->target : ""));
    }
    return PARE_OK;
}

/* --- sizes --- */

enum { SAMPLE_ROWS = 16 };

/* The share of zeros of rows spread over a tensor as it is in the file. */
static pare_status zeros_in_file(compress_run *c, const tensor_plan *p, double *share,
                                 pare_error *err) {
    pare_tensor t = {0};
    float *row = pare_malloc(p->cols, sizeof *row);
    size_t zeros = 0, n = p->rows < SAMPLE_ROWS ? p->rows : SAMPLE_ROWS;
    pare_status st = row ? pare_source_read(c->source, p->t, true, &t, err) : fail_memory(err);
    for (size_t r = 0; r < n && st == PARE_OK && t.enc; r++) {
        t.enc->decode(row, &t.view, r * p->rows / n, 0, p->cols);
        for (size_t i = 0; i < p->cols; i++) zeros += row[i] == 0.0f;
    }
    *share = n && p->cols ? (double)zeros / ((double)n * (double)p->cols) : 0;
    pare_tensor_free(&t);
    pare_free(row);
    return st;
}

/* Bytes of a form that stores what is not zero, from a few rows with as many zeros as the recipe
 * means, or the file has where it prunes nothing. */
static pare_status sample_sparse(compress_run *c, size_t plan, uint64_t *bytes, pare_error *err) {
    const tensor_plan *p = &c->plans[plan];
    size_t rows = p->rows < SAMPLE_ROWS ? p->rows : SAMPLE_ROWS, n = rows * p->cols;
    double share = compress_planned_sparsity(c, plan);
    if (share <= 0) PARE_TRY(zeros_in_file(c, p, &share, err));
    pare_tensor sample = {0};
    float *w = pare_malloc(n, sizeof *w);
    if (!w) return fail_memory(err);
    for (size_t i = 0; i < n; i++) /* spread evenly */
        w[i] = floor((double)(i + 1) * share) > floor((double)i * share) ? 0.0f : 1.0f;
    pare_status st = pare_tensor_encode(c->rt, &sample, p->enc, w, rows, p->cols, NULL, err);
    if (st == PARE_OK && rows)
        *bytes = (uint64_t)((double)pare_tensor_bytes(&sample) * (double)p->rows / (double)rows);
    pare_tensor_free(&sample);
    pare_free(w);
    return st;
}

static pare_status planned_bytes(compress_run *c, size_t plan, uint64_t *bytes, pare_error *err) {
    const tensor_plan *p = &c->plans[plan];
    size_t row = pare_encoding_row_bytes(p->enc, p->cols), part[PARE_MAX_PARTS] = {0};
    *bytes = p->recode ? (uint64_t)row * p->rows : p->t->n_bytes;
    if (!p->recode || row || !p->enc->part_sizes || !p->cols) return PARE_OK;
    if (!p->enc->part_sizes(part, p->rows, p->cols))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: a matrix of %zu x %zu", p->t->canonical, p->rows,
                         p->cols);
    for (size_t k = 0; k < p->enc->n_parts; k++) {
        if (part[k] == SIZE_MAX) return sample_sparse(c, plan, bytes, err);
        *bytes += part[k];
    }
    return PARE_OK;
}

static pare_status begin_report(compress_run *c, pare_error *err) {
    pare_compress_report *r = c->report;
    r->layers = pare_calloc(c->n_plans, sizeof *r->layers);
    r->names = pare_calloc(c->n_plans, sizeof *r->names);
    r->recipe = pare_strdup(pare_recipe_text(c->recipe));
    r->format = pare_strdup(c->format->name);
    if (c->o->keep) r->keep = pare_strdup(c->o->keep);
    if (!r->layers || !r->names || !r->recipe || !r->format || (c->o->keep && !r->keep))
        return fail_memory(err);
    r->info.keep = r->keep;
    r->info.calib_compute = c->o->calib_compute;
    r->info.true_sequential = c->o->true_sequential;
    r->info.lossless = true;
    for (size_t i = 0; i < c->n_plans; i++) {
        const tensor_plan *p = &c->plans[i];
        r->names[i] = pare_strdup(p->t->canonical ? p->t->canonical : p->t->name);
        if (!r->names[i]) return fail_memory(err);
        r->n_names++;
        uint64_t bytes;
        PARE_TRY(planned_bytes(c, i, &bytes, err));
        r->layers[i] = (pare_layer_report){
            .name = r->names[i],
            .from = p->t->enc->name,
            .encoding = p->stored->name,
            .n_params = p->t->n_params,
            .in_bytes = p->t->n_bytes,
            .out_bytes = bytes,
            .bits_per_weight = p->t->n_params ? 8.0 * (double)bytes / (double)p->t->n_params : 0,
            .sparsity = c->o->dry_run ? compress_planned_sparsity(c, i) : 0,
            .output_error = -1,
            .changed = p->recode,
        };
        uint64_t values = p->t->n_params;
        if (!plan_is_whole(p) && values > PARE_CHUNK_VALUES) values = PARE_CHUNK_VALUES;
        uint64_t work = p->t->n_bytes + (p->recode ? bytes + 4 * values : 0);
        if (work > r->info.work_bytes) r->info.work_bytes = work;
    }
    return PARE_OK;
}

static void sum_report(compress_run *c, double seconds) {
    pare_compress_info *info = &c->report->info;
    uint64_t params = 0;
    double zeros = 0;
    info->in_bytes = info->out_bytes = 0;
    for (size_t i = 0; i < c->n_plans; i++) {
        const pare_layer_report *l = &c->report->layers[i];
        params += l->n_params;
        zeros += l->sparsity * (double)l->n_params;
        info->in_bytes += l->in_bytes;
        info->out_bytes += l->out_bytes;
        if (l->changed) info->lossless = false;
    }
    info->bits_per_weight = params ? 8.0 * (double)info->out_bytes / (double)params : 0;
    info->sparsity = params ? zeros / (double)params : 0;
    info->seconds = seconds;
    info->dense_pass = c->dense_pass;
    info->recipe = c->report->recipe;
    info->format = c->report->format;
    info->layers = c->report->layers;
    info->n_layers = c->n_plans;
    info->fallbacks = (const char *const *)c->report->fallbacks;
    info->prefix_search = c->report->prefix_search;
}

/* --- the run --- */

enum { STILL_TO_COME = 2 << 20 }; /* code, stacks, buffers of files; measured: 1 to 1.6 MiB */

/* A tokenizer is opened before the work, also one that is copied: the output must be a model that
 * runs. One of a kind that pare does not know may still be right for others. What is resident while
 * input and tokenizer are open is what the run will have beside its work: about as much as its
 * output's headers and tokenizer take later. */
static pare_status check_tokenizer(compress_run *c, pare_error *err) {
    pare_tokenizer *tok;
    pare_error own = {0};
    pare_status st = pare_tokenizer_of_model(&tok, pare_source_gguf(c->source),
                                             pare_source_path(c->source), &own);
    c->resident = pare_rss_bytes() + STILL_TO_COME;
    if (st == PARE_OK && !tok)
        pare_warn(c->rt, "%s: found no tokenizer: neither has the output, which cannot be asked",
                  c->o->model);
    bool gguf = strcmp(c->format->container, "gguf") == 0;
    if (st == PARE_OK && tok && !c->same_format && !gguf) { /* takes memory, too */
        pare_status way = pare_tokenizer_write_json(tok, NULL, err);
        if (way != PARE_OK) {
            pare_tokenizer_free(tok);
            return way;
        }
    }
    pare_tokenizer_free(tok);
    pare_give_back();
    if (st == PARE_OK) return PARE_OK;
    if (st != PARE_ERR_UNSUPPORTED || !c->same_format) return pare_fail(err, st, "%s", own.message);
    pare_warn(c->rt, "%s; the tokenizer is copied as it is", own.message);
    return PARE_OK;
}

/* Where a tensor's final form comes from: the work folder for what is in a block of a recipe with
 * methods, else straight from its transformation. */
static pare_status final_tensor(compress_run *c, const pare_work *work, size_t i, pare_tensor *out,
                                pare_error *err) {
    const tensor_plan *p = &c->plans[i];
    if (!work || p->unit == pare_source_config(c->source)->n_layers)
        return compress_tensor(c, i, NULL, NULL, out, err);
    size_t rows = p->rows, cols = p->cols;
    if (!p->recode && p->raw) pare_source_shape(p->t, &rows, &cols);
    return pare_work_read(work, p->unit, p->t->canonical, p->enc, rows, cols, out, err);
}

/* False where the run has found no codes. */
static bool way_of(pare_export_way *way, const compress_run *c, const tensor_plan *p) {
    *way = (pare_export_way){.told.damp = -1, .true_sequential = c->o->true_sequential};
    if (p->quantizer && p->quantizer->tell) p->quantizer->tell(&way->told, p->quantizer_options);
    return p->quantizer != NULL;
}

static pare_status write_tensors(compress_run *c, pare_output *output, const pare_work *work,
                                 pare_error *err) {
    double total = 0, done = 0;
    for (size_t i = 0; i < c->n_plans; i++) {
        const tensor_plan *p = &c->plans[i];
        pare_output_item item = {.name = p->raw ? p->t->name : p->t->canonical,
                                 .canonical = p->t->canonical,
                                 .enc = p->enc,
                                 .stored = p->stored,
                                 .n_dims = p->n_dims,
                                 .raw = p->raw};
        pare_act_scheme scheme;
        PARE_TRY(compress_stored_act(c, p, &scheme, &item.act_grid, err));
        if (scheme.bits) item.act = &scheme;
        pare_export_way way;
        if (way_of(&way, c, p)) item.way = &way;
        memcpy(item.dims, p->raw ? p->t->dims : p->dims, sizeof item.dims);
        PARE_TRY(pare_output_declare(output, &item, err));
        total += (double)p->t->n_params;
    }
    const char *recipe = c->recipe->n_steps ? pare_recipe_text(c->recipe) : NULL;
    PARE_TRY(pare_output_begin(output, c->mix, recipe, err));
    pare_give_back(); /* what translating the tokenizer took */
    for (size_t i = 0; i < c->n_plans; i++) {
        PARE_TRY(pare_check_cancel(c->rt, err));
        pare_tensor t;
        PARE_TRY(final_tensor(c, work, i, &t, err));
        pare_status st = pare_output_write(output, &t, err);
        pare_tensor_free(&t);
        if (st != PARE_OK) return st;
        pare_layer_report *layer = &c->report->layers[i];
        layer->out_bytes = pare_output_bytes(output, i);
        if (layer->n_params)
            layer->bits_per_weight = 8.0 * (double)layer->out_bytes / (double)layer->n_params;
        done += (double)c->plans[i].t->n_params;
        pare_progress(c->rt, work ? "write" : "compress", done, total, "weights");
    }
    return pare_output_finish(output, err);
}

static pare_status write_all(compress_run *c, const pare_work *work, pare_error *err) {
    pare_output *output = NULL;
    pare_status st =
        pare_output_open(&output, c->rt, c->source, c->format, c->o->out, c->o->split_bytes, err);
    if (st == PARE_OK) pare_output_set_prefix(output, c->prefix);
    if (st == PARE_OK) st = write_tensors(c, output, work, err);
    pare_output_close(output);
    return st;
}

/* Did an earlier run that was cut off put OUT there? It noted that it was about to when all blocks
 * were finished; the same run then has nothing to write. */
static bool was_published(const compress_run *c) {
    pare_work *earlier;
    pare_error ignored = {0};
    if (c->o->restart || pare_work_look(&earlier, c->rt, c->o->out, &ignored) != PARE_OK)
        return false;
    char *config = pare_path_join(c->o->out, "config.json");
    bool there =
        earlier && pare_work_kept(earlier, "published") && config && pare_path_exists(config);
    pare_free(config);
    if (earlier) pare_work_close(earlier);
    return there;
}

static pare_status check_output(compress_run *c, pare_error *err) {
    pare_status st = pare_output_check(c->source, c->format, c->o->out, err);
    if (st == PARE_OK || !was_published(c)) return st;
    c->published = true;
    return PARE_OK;
}

/* The lines of the report that writing would have filled in: of tensors outside the blocks, of all
 * where `units` is NULL. */
static pare_status report_published(compress_run *c, const pare_work *units, pare_error *err) {
    for (size_t i = 0; i < c->n_plans; i++) {
        pare_tensor t;
        if (units && c->plans[i].unit < pare_source_config(c->source)->n_layers) continue;
        PARE_TRY(pare_check_cancel(c->rt, err));
        PARE_TRY(compress_tensor(c, i, NULL, NULL, &t, err));
        pare_tensor_free(&t);
    }
    return PARE_OK;
}

/* The output appears, and what belongs to the run goes, now or by pare_compress_settle. units:
 * where finished blocks lie, NULL: none do. */
static pare_status publish(compress_run *c, pare_work *work, const pare_work *units,
                           pare_error *err) {
    if (!c->published) PARE_TRY(pare_work_keep(work, "published", json_true(), err));
    if (pare_group_rank() == 0)
        PARE_TRY(c->published ? report_published(c, units, err) : write_all(c, units, err));
    if (!c->o->keep_work) {
        pare_work_remove(work);
        return PARE_OK;
    }
    c->report->work = pare_strdup(pare_work_path(work));
    return c->report->work ? PARE_OK : fail_memory(err);
}

/* --- recipes with methods, or with calibration --- */

static bool has_methods(const compress_run *c) {
    if (c->needs || compress_prefix_step(c)) return true;
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].n_methods && c->plans[i].unit < pare_source_config(c->source)->n_layers)
            return true;
    return false;
}

/* Sequences of samples: as many as the method that wants most. */
static size_t samples_of(const compress_run *c) {
    size_t most = 0;
    for (size_t i = 0; i < c->recipe->n_steps; i++) {
        const pare_step *step = &c->recipe->steps[i];
        if (!step->method || !step->method->samples) continue;
        size_t n = step->method->samples(step->options);
        if (n > most) most = n;
    }
    return most;
}

/* Within a block: q, k, v, then the output, then gate and up, then down. */
static pare_status check_true_sequential(const compress_run *c, pare_error *err) {
    if (!c->o->true_sequential) return PARE_OK;
    const char *found = !c->o->calib          ? "no calibration text"
                        : c->scales           ? "a step that scales a block's inputs together"
                        : c->tunes            ? "a step that tunes a block's layers together"
                        : c->o->write_imatrix ? "an importance matrix to write, of dense inputs"
                                              : NULL;
    if (!found) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "true-sequential: found %s, expected calibration and steps that take one "
                     "layer at a time",
                     found);
}

static pare_status open_calibration(compress_run *c, pare_calibration **cal, pare_error *err) {
    *cal = NULL;
    if (!c->needs) return PARE_OK;
    if (!c->o->calib)
        return pare_fail(
            err, PARE_ERR_ARG,
            "recipe: found a method that needs calibration text, expected --calib FILE");
    const pare_calibration_options o = {.text = c->o->calib,
                                        .prefix = c->prefix ? c->prefix : "",
                                        .n_sequences = c->o->calib_samples,
                                        .ctx = c->o->calib_ctx,
                                        .front = compress_longest_prefix(c),
                                        .n_samples = samples_of(c),
                                        .two_streams = c->tunes,
                                        .compute = c->o->calib_compute};
    return pare_calibration_open(cal, c->rt, c->o->model, &o, err);
}

static bool units_need_calibration(const compress_run *c) {
    for (size_t i = 0; i < c->n_plans; i++)
        if (c->plans[i].needs) return true;
    return false;
}

/* With the process itself; at least the run's peak so far (tokenizing a text takes memory too). */
static uint64_t planned_peak(const compress_run *c) {
    uint64_t planned = c->resident + c->report->info.work_bytes, peak = pare_peak_rss_bytes();
    return peak > c->peak_before && peak > planned ? peak : planned;
}

/* The plan counts the process; one that takes more than the caller allows is refused. */
static pare_status check_memory(compress_run *c, pare_error *err) {
    unsigned long long allowed = c->o->max_memory, work = c->report->info.work_bytes,
                       planned = planned_peak(c);
    c->report->info.memory_bytes = planned + PARE_RESIDENT_WANDERS;
    c->report->info.resident_bytes = c->resident + PARE_RESIDENT_WANDERS;
    if (!allowed || planned <= allowed) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "max-memory: found %llu bytes, expected at least %llu: %llu for what is at "
                     "work at once (a tensor, or a block with its statistics and the method's work "
                     "space), the rest for the program",
                     allowed, planned + PARE_RESIDENT_WANDERS, work);
}

/* What the run takes; with activations in files where it would be more than is allowed. */
static pare_status plan_memory(compress_run *c, pare_calibration *cal, pare_error *err) {
    uint64_t tensors = c->report->info.work_bytes;
    PARE_TRY(compress_plan_units(c, cal, err));
    if (cal && c->o->max_memory && planned_peak(c) > c->o->max_memory) {
        c->spills = true;
        pare_calibration_spill(cal, true, NULL);
        c->report->info.work_bytes = tensors;
        PARE_TRY(compress_plan_units(c, cal, err));
    }
    compress_plan_search(c);
    return check_memory(c, err);
}

static pare_status by_units(compress_run *c, pare_error *err) {
    pare_calibration *cal;
    pare_work *work = NULL;
    PARE_TRY(open_calibration(c, &cal, err));
    pare_give_back(); /* what tokenizing the text took */
    pare_status st = plan_memory(c, cal, err);
    if (st == PARE_OK) st = compress_check_search(c, err);
    if (st == PARE_OK && c->o->dry_run) st = compress_check_work(c, cal, err);
    if (st == PARE_OK && c->o->dry_run) st = compress_estimate(c, cal, err);
    if (st == PARE_OK && !c->o->dry_run) {
        st = compress_check_weights(c, err);
        if (st == PARE_OK) st = compress_open_work(c, cal, &work, err);
        if (st == PARE_OK && c->spills) {
            c->spill = pare_work_path(work);
            pare_calibration_spill(cal, true, c->spill);
        }
        if (st == PARE_OK) st = compress_search_prefix(c, cal, work, err);
        if (st == PARE_OK && c->dense_pass) st = compress_dense_pass(c, cal, work, err);
        if (!units_need_calibration(c)) { /* only the dense pass did */
            pare_calibration_close(cal);
            cal = NULL;
        }
        if (st == PARE_OK) st = compress_units(c, cal, work, err);
        bool writes = pare_group_rank() == 0;
        if (st == PARE_OK && writes) st = compress_write_imatrix(c, work, err);
        pare_calibration_close(cal); /* before the output's memory */
        cal = NULL;
        if (st == PARE_OK) st = publish(c, work, work, err);
        pare_work_close(work);
        if (st == PARE_ERR_INTERRUPTED)
            pare_fail_prefix(err, "finished blocks are kept, the same command goes on");
    }
    pare_calibration_close(cal);
    return st;
}

/* --- recipes of encodings alone --- */

/* A folder that is there would be refused where the caller was cut off behind it, a file replaced:
 * so a folder's run notes that it was about to appear. Nothing else is kept of such a run. */
static pare_status write_noted(compress_run *c, pare_error *err) {
    pare_work *work;
    PARE_TRY(compress_open_work(c, NULL, &work, err));
    pare_status st = publish(c, work, NULL, err);
    if (st != PARE_OK && !c->published) pare_work_remove(work);
    pare_work_close(work);
    return st;
}

static pare_status at_once(compress_run *c, pare_error *err) {
    PARE_TRY(check_memory(c, err));
    PARE_TRY(compress_check_disk(c, err));
    if (c->o->dry_run) return compress_estimate(c, NULL, err);
    if (c->o->keep_work && strcmp(c->format->container, "gguf") != 0) return write_noted(c, err);
    return pare_group_rank() == 0 ? write_all(c, NULL, err) : PARE_OK;
}

static const char *format_of(const compress_run *c, const pare_source *source) {
    const pare_compress_options *o = c->o;
    if (o->format) return o->format;
    if (c->acts && !(o->out && pare_ends_with(o->out, ".gguf"))) return compress_act_format(c);
    if (!o->out) return pare_source_format(source);
    size_t n = strlen(o->out);
    return n > 5 && strcmp(o->out + n - 5, ".gguf") == 0 ? "gguf" : "hf";
}

static pare_status run(compress_run *c, pare_error *err) {
    double start = pare_now_s();
    PARE_TRY(pare_recipe_parse(&c->recipe, c->o->recipe ? c->o->recipe : "", err));
    if (c->o->keep &&
        pare_name_regex_compile(&c->keep, c->o->keep, strlen(c->o->keep), err) != PARE_OK)
        return pare_fail_prefix(err, "keep");
    PARE_TRY(pare_source_open(&c->source, c->o->model, err));
    PARE_TRY(pare_source_check_complete(c->source, err));
    for (size_t i = 0; i < c->recipe->n_steps; i++)
        c->acts |= c->recipe->steps[i].method && c->recipe->steps[i].method->act;
    const char *format = format_of(c, c->source);
    if (!(c->format = pare_output_format_find(format)))
        return pare_fail(err, PARE_ERR_ARG, "format: found '%s', expected " PARE_OUTPUT_FORMATS,
                         format);
    if (!c->o->dry_run && (!c->o->out || !*c->o->out))
        return pare_fail(err, PARE_ERR_ARG, "output: found none, expected a file or folder name");
    if (c->o->out) PARE_TRY(check_output(c, err));
    c->same_format = strcmp(c->format->container, pare_source_format(c->source)) == 0;
    PARE_TRY(check_tokenizer(c, err));
    for (size_t i = 0; pare_source_note(c->source, i); i++)
        pare_warn(c->rt, "%s", pare_source_note(c->source, i));
    c->tied = !pare_source_find(c->source, "output.weight");
    for (size_t i = 0; i < c->recipe->n_steps; i++)
        if (c->recipe->steps[i].mix && !c->recipe->steps[i].target)
            c->mix = c->recipe->steps[i].mix;
    c->scales = has_scales(c);
    c->tunes = has_tuning(c);
    c->report = pare_calloc(1, sizeof *c->report);
    if (!c->report) return fail_memory(err);
    PARE_TRY(compress_plan_prefix(c, err));
    PARE_TRY(check_true_sequential(c, err));
    PARE_TRY(compress_open_imatrix(c, err));
    if (c->o->lora) PARE_TRY(pare_lora_load(&c->lora, c->source, c->o->lora, err));
    PARE_TRY(make_plan(c, err));
    PARE_TRY(compress_check_bmm(c, err));
    PARE_TRY(tell_idle_steps(c, err));
    PARE_TRY(compress_plan_sparsities(c, err));
    for (size_t i = 0; i < c->n_plans; i++) c->needs |= c->plans[i].dense_needs;
    if (c->tunes && c->dense_pass)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "recipe: found dist=owl and a step that tunes blocks, expected two runs, "
                         "one after the other");
    PARE_TRY(begin_report(c, err));
    if (pare_source_act(c->source) && !c->acts && !compress_carries_act(c))
        PARE_TRY(compress_add_fallback(c, err,
                                       "%s quantizes the inputs of its matrices, the output does "
                                       "not: only a step of the recipe (w8a8) has it do so",
                                       c->o->model));
    if (c->o->calib && !c->needs && !c->o->shared_inputs && !compress_prefix_step(c))
        pare_warn(c->rt, "%s: nothing in this recipe uses calibration text", c->o->calib);
    if (c->o->imatrix && !c->imatrix_used && !c->o->shared_inputs)
        pare_warn(c->rt, "%s: nothing in this recipe uses an importance matrix", c->o->imatrix);
    if (c->lora && (has_methods(c) || c->o->write_imatrix))
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "recipe: found methods and an adapter, expected two runs: the adapter is "
                         "merged first");
    PARE_TRY(has_methods(c) ? by_units(c, err) : at_once(c, err));
    if (c->prefix) c->report->info.prefix_file = c->report->prefix_file;
    sum_report(c, pare_now_s() - start);
    return PARE_OK;
}

pare_status pare_compress(pare_compress_report **out, pare_runtime *rt,
                          const pare_compress_options *options, pare_error *err) {
    *out = NULL;
    compress_run c = {.rt = rt, .o = options, .peak_before = pare_peak_rss_bytes()};
    pare_status st = run(&c, err);
    if (st == PARE_OK)
        *out = c.report;
    else
        pare_compress_report_free(c.report);
    pare_lora_free(c.lora);
    pare_free(c.prefix);
    pare_source_close(c.source);
    pare_recipe_free(c.recipe);
    pare_name_regex_free(c.keep);
    pare_free(c.plans);
    pare_free(c.shares);
    pare_imatrix_free(&c.imatrix);
    return st;
}

const pare_compress_info *pare_compress_result(const pare_compress_report *r) { return &r->info; }

void pare_compress_settle(const pare_compress_report *r) {
    if (r->work && pare_group_rank() == 0) pare_work_remove_folder(r->work);
}

void pare_compress_report_free(pare_compress_report *r) {
    if (!r) return;
    pare_free(r->work);
    for (size_t i = 0; i < r->n_names; i++) pare_free(r->names[i]);
    for (size_t i = 0; i < r->info.n_fallbacks; i++) pare_free(r->fallbacks[i]);
    pare_free(r->names);
    pare_free(r->fallbacks);
    pare_free(r->layers);
    pare_free(r->recipe);
    pare_free(r->format);
    pare_free(r->keep);
    pare_free(r->prefix_search);
    pare_free(r->prefix_file);
    pare_free(r);
}
