#include "pipeline/calibrate_internal.h"

#include "base/group.h"
#include "base/hash.h"
#include "kernels/encode.h"
#include "model/prefix.h"
#include "pare/eval.h"
#include "pipeline/calib_text.h"

#include <math.h>
#include <string.h>

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "calibration: out of memory");
}

/* --- the region that all threads run --- */

static void run_module(pare_fwd *f, const pare_pass *pass, const region *r) {
    const pare_model *m = r->cal->m;
    if (r->module == ATTENTION) {
        pare_block_attention(f, m, pass, r->layer, r->y, r->x);
    } else if (r->module == FEED_FORWARD) {
        pare_block_ffn(f, m, pass, r->layer, r->y, r->x);
    } else {
        size_t in = r->matrix->w.view.cols;
        pare_op_out out = {.name = r->matrix->name,
                           .w = &r->matrix->w,
                           .bias = r->matrix->bias,
                           .y = r->y,
                           .ldy = m->config.dim};
        pare_op_linear(f, r->x, in, r->n, in, &out, 1);
    }
}

static void run_region(pare_fwd *f, const region *r) {
    const pare_attn_span alone = {.n = r->n, .prefix = pare_model_prefix(r->cal->m)};
    pare_pass pass = {.ids = r->ids, .n = r->n, .spans = &alone, .n_spans = 1};
    pare_fwd_marks mark = pare_fwd_mark(f);
    if (r->ids || pare_fwd_planning(f)) pare_pass_embed(f, r->cal->m, &pass, r->cal->h);
    if (!r->ids) {
        pare_pass_begin(f, r->cal->m, &pass);
        if (r->module)
            run_module(f, &pass, r);
        else
            pare_pass_layer(f, r->cal->m, &pass, r->layer, r->cal->h);
    }
    pare_fwd_release(f, mark);
}

void calibration_region(pare_worker *w, void *arg) {
    const region *r = arg;
    const pare_calibration *cal = r->cal;
    pare_fwd f = pare_pass_room_fwd(&cal->room, w, cal->rt, cal->compute);
    f.probe = r->probe;
    f.probe_arg = r->cal;
    run_region(&f, r);
}

static pare_status make_scratch(pare_calibration *cal, pare_error *err) {
    pare_worker worker;
    pare_fwd f = pare_fwd_plan(&worker, pare_runtime_threads(cal->rt), pare_runtime_isa(cal->rt),
                               cal->compute);
    run_region(&f, &(region){.cal = cal, .n = 2});
    run_region(&f, &(region){.cal = cal, .n = cal->ctx});
    if (!pare_mul_size(&cal->h_bytes, cal->ctx * sizeof(float), cal->m->config.dim))
        return fail_memory(err);
    PARE_TRY(pare_pass_room_make(&cal->room, &f, cal->rt, err));
    cal->h = pare_big_alloc(cal->h_bytes);
    return cal->h ? PARE_OK : fail_memory(err);
}

/* How ranks share the sequences. */
static pare_status plan_ranks(pare_calibration *cal, pare_error *err) {
    size_t ranks = (size_t)pare_group_size(), most = cal->n / ranks ? cal->n / ranks : 1;
    cal->shared = ranks > 1 && !cal->two_streams;
    size_t tokens = pare_statistics_tokens(cal->rt, cal->compute);
    cal->run_length = tokens % cal->ctx ? 1 : tokens / cal->ctx;
    if (cal->run_length > most) cal->run_length = most;
    if (!cal->shared || pare_group_rank() > 0) return PARE_OK;
    if (!pare_mul_size(&cal->round_bytes, cal->h_bytes, ranks * cal->run_length) ||
        !(cal->round = pare_big_alloc(cal->round_bytes)))
        return fail_memory(err);
    return PARE_OK;
}

static pare_status take_text(pare_calibration *cal, pare_error *err) {
    return pare_calib_text(&cal->ids, &cal->text_tokens, cal->m, cal->text, cal->n, cal->ctx, err);
}

static pare_status set_up(pare_calibration *cal, const char *model,
                          const pare_calibration_options *o, pare_error *err) {
    pare_source *source;
    PARE_TRY(pare_source_open(&source, model, err));
    PARE_TRY(pare_model_open(&cal->m, cal->rt, source, err));
    if (!o->prefix)
        PARE_TRY(pare_model_load_own_prefix(cal->m, err));
    else if (*o->prefix)
        PARE_TRY(pare_model_set_prefix(cal->m, o->prefix, err));
    cal->compute = o->compute;
    cal->two_streams = o->two_streams;
    cal->n = o->n_sequences ? o->n_sequences : 128;
    cal->n_samples = o->n_samples < cal->n ? o->n_samples : cal->n;
    size_t ctx_max = pare_model_ctx_max(cal->m), all = cal->m->config.ctx_max;
    size_t behind = all > o->front ? all - o->front : 1;
    if (all && behind < ctx_max) ctx_max = behind;
    PARE_TRY(pare_calib_ctx(&cal->ctx, o->ctx, ctx_max, err));
    cal->text = o->text;
    PARE_TRY(take_text(cal, err));
    PARE_TRY(make_scratch(cal, err));
    return plan_ranks(cal, err);
}

pare_status pare_calibration_open(pare_calibration **out, pare_runtime *rt, const char *model,
                                  const pare_calibration_options *o, pare_error *err) {
    pare_calibration *cal = pare_calloc(1, sizeof *cal);
    *out = NULL;
    if (!cal) return fail_memory(err);
    cal->rt = rt;
    pare_status st = set_up(cal, model, o, err);
    if (st == PARE_OK)
        *out = cal;
    else
        pare_calibration_close(cal);
    return st;
}

static void forget_inputs(pare_calibration *cal) {
    for (size_t i = 0; i < cal->n_inputs; i++) pare_statistics_free(cal->inputs[i].statistics);
    cal->n_inputs = 0;
}

void pare_calibration_close(pare_calibration *cal) {
    if (!cal) return;
    forget_inputs(cal);
    if (cal->half.open) pare_writer_discard(&cal->half.writer);
    pare_model_free(cal->m);
    pare_free(cal->ids);
    if (cal->h) pare_big_free(cal->h, cal->h_bytes);
    pare_pass_room_free(&cal->room);
    if (cal->round) pare_big_free(cal->round, cal->round_bytes);
    pare_free(cal);
}

size_t pare_calibration_sequences(const pare_calibration *cal) { return cal->n; }
size_t pare_calibration_ctx(const pare_calibration *cal) { return cal->ctx; }
size_t pare_calibration_text_tokens(const pare_calibration *cal) { return cal->text_tokens; }
uint32_t pare_calibration_crc32(const pare_calibration *cal) {
    return pare_ids_crc32(cal->ids, cal->n * cal->ctx);
}
uint64_t pare_calibration_file_bytes(const pare_calibration *cal) {
    return (uint64_t)cal->n * cal->h_bytes * (cal->two_streams ? 2 : 1);
}
void pare_calibration_spill(pare_calibration *cal, bool planned, const char *folder) {
    cal->spills = planned;
    cal->spill = folder;
}
size_t pare_calibration_memory(const pare_calibration *cal) {
    return cal->room.bytes + cal->h_bytes + cal->n * cal->ctx * sizeof(int32_t);
}

pare_status pare_calibration_set_prefix(pare_calibration *cal, pare_prefix *p, pare_error *err) {
    size_t n = p ? p->attn.n : 0, ctx_max = cal->m->config.ctx_max;
    pare_model_attach_prefix(cal->m, p);
    if (ctx_max && cal->ctx + n > ctx_max)
        return pare_fail(err, PARE_ERR_ARG,
                         "calib-ctx: found %zu behind a prefix of %zu, expected at most %zu "
                         "together (the model's maximum)",
                         cal->ctx, n, ctx_max);
    pare_free(cal->ids); /* whose BOS may be the prefix's now */
    return take_text(cal, err);
}

void pare_calibration_set_spare(pare_calibration *cal, const char *spare) { cal->spare = spare; }

/* --- embeddings and layers --- */

/* path NULL: none. The first rank writes. */
static pare_status output_open(output *o, const pare_calibration *cal, const char *path,
                               pare_error *err) {
    *o = (output){.wanted = path != NULL};
    if (!path || pare_group_rank() > 0) return PARE_OK;
    PARE_TRY(pare_writer_open_over(&o->writer, path, cal->spare, err));
    o->open = true;
    return PARE_OK;
}

static pare_status output_write(output *o, const pare_calibration *cal, const float *h,
                                pare_error *err) {
    if (!o->open) return PARE_OK;
    o->crc = pare_crc32(o->crc, h, cal->h_bytes);
    return pare_writer_write(&o->writer, h, cal->h_bytes, err);
}

static pare_status output_close(output *o, pare_status st, uint32_t *crc, pare_error *err) {
    if (o->open && st == PARE_OK) st = pare_writer_commit(&o->writer, err);
    if (o->open) pare_writer_discard(&o->writer);
    if (st == PARE_OK && o->wanted) {
        pare_group_broadcast(&o->crc, sizeof o->crc, 0); /* and the file is there for all */
        *crc = o->crc;
    }
    return st;
}

pare_status pare_calibration_embed(pare_calibration *cal, const char *to, uint32_t *crc,
                                   pare_error *err) {
    output out;
    pare_status st = output_open(&out, cal, to, err);
    for (size_t i = 0; i < (cal->two_streams ? 2 : 1) * cal->n && st == PARE_OK; i++) {
        region r = {.cal = cal, .ids = cal->ids + i % cal->n * cal->ctx, .n = cal->ctx};
        if (pare_group_rank() > 0) continue;
        pare_team_run(cal->rt, calibration_region, &r);
        st = output_write(&out, cal, cal->h, err);
        if (st == PARE_OK) st = pare_check_cancel(cal->rt, err);
    }
    return output_close(&out, st, crc, err);
}

pare_status pare_calibration_load(pare_calibration *cal, size_t layer, pare_error *err) {
    return pare_model_load_layers(cal->m, layer, layer + 1, err);
}

void pare_calibration_drop(pare_calibration *cal, size_t layer) {
    forget_inputs(cal);
    if (cal->m->weights.layers[layer].block) pare_model_drop_layer(cal->m, layer);
}

void pare_calibration_replace(pare_calibration *cal, size_t layer, const char *name,
                              const pare_tensor *t) {
    pare_linear *linear = pare_model_linear(cal->m, layer, name);
    const float **vector = linear ? NULL : pare_model_vector(cal->m, layer, name);
    if (vector) *vector = t->view.part[0];
    if (!linear) return;
    linear->w = *t;
    linear->w.storage = NULL; /* borrowed */
}

/* Notes which matrices share an input. */
static bool discover(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs, const float *x,
                     size_t ldx, size_t n, size_t in) {
    pare_calibration *cal = arg;
    (void)x, (void)ldx, (void)n;
    if (f->w->id != 0 || cal->n_inputs == PARE_CALIB_INPUTS) return true;
    shared_input *input = &cal->inputs[cal->n_inputs++];
    *input = (shared_input){.n_names = n_outs, .in = in};
    for (size_t i = 0; i < n_outs; i++) input->names[i] = outs[i].name;
    return true;
}

static shared_input *input_of(pare_calibration *cal, const char *name) {
    for (size_t i = 0; i < cal->n_inputs; i++)
        for (size_t k = 0; k < cal->inputs[i].n_names; k++)
            if (strcmp(cal->inputs[i].names[k], name) == 0) return &cal->inputs[i];
    return NULL;
}

static bool gather(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs, const float *x,
                   size_t ldx, size_t n, size_t in) {
    const pare_calibration *cal = arg;
    const shared_input *input = input_of(arg, outs[0].name);
    (void)n_outs, (void)in;
    if (input && input->statistics) pare_statistics_add(f->w, input->statistics, x, ldx, n);
    return !cal->last || !input || input < cal->last;
}

void pare_calibration_discover(pare_calibration *cal, size_t layer) {
    forget_inputs(cal);
    region r = {.cal = cal, .layer = layer, .n = 2, .probe = discover}; /* 1 takes another path */
    memset(cal->h, 0, cal->h_bytes);
    pare_team_run(cal->rt, calibration_region, &r);
}

static unsigned needs_of_input(const shared_input *input, pare_needs_fn needs, void *arg) {
    unsigned wanted = 0;
    for (size_t k = 0; k < input->n_names; k++) wanted |= needs(arg, input->names[k]);
    return wanted;
}

pare_status pare_calibration_plan(pare_calibration *cal, size_t layer, pare_needs_fn needs,
                                  void *arg, size_t *bytes, uint64_t *samples, pare_error *err) {
    size_t in_memory = (cal->spills ? 1 : cal->n_samples) * cal->ctx;
    PARE_TRY(pare_calibration_load(cal, layer, err));
    pare_calibration_discover(cal, layer);
    *bytes = 0;
    *samples = 0;
    for (size_t i = 0; i < cal->n_inputs; i++) {
        size_t in = cal->inputs[i].in;
        unsigned wanted = needs_of_input(&cal->inputs[i], needs, arg);
        if (wanted) *bytes += pare_statistics_bytes(in, wanted, in_memory);
        if (wanted & PARE_NEED_SAMPLES)
            *samples += (uint64_t)cal->n_samples * cal->ctx * in * sizeof(float);
    }
    pare_calibration_drop(cal, layer);
    return PARE_OK;
}

/* Seconds of n tokens of the first sequence. */
static double region_seconds(pare_calibration *cal, size_t layer, size_t n) {
    region embed = {.cal = cal, .ids = cal->ids, .n = n},
           pass = {.cal = cal, .layer = layer, .n = n};
    pare_team_run(cal->rt, calibration_region, &embed);
    double start = pare_now_s();
    pare_team_run(cal->rt, calibration_region, &pass);
    return pare_now_s() - start;
}

pare_status pare_calibration_time(pare_calibration *cal, size_t layer, pare_needs_fn needs,
                                  void *arg, pare_price_fn price, double *sequence,
                                  double *statistics, pare_error *err) {
    PARE_TRY(pare_calibration_load(cal, layer, err));
    pare_calibration_discover(cal, layer);
    pare_status st = PARE_OK;
    *statistics = 0;
    for (size_t i = 0; i < cal->n_inputs && st == PARE_OK; i++) {
        unsigned wanted = needs_of_input(&cal->inputs[i], needs, arg);
        double seconds = 0;
        if (wanted) st = price(&seconds, cal->rt, cal->compute, cal->inputs[i].in, wanted, err);
        *statistics += seconds;
    }
    size_t n = cal->ctx < 64 ? cal->ctx : 64; /* more where they are cheap; the first warms up */
    (void)region_seconds(cal, layer, n);
    *sequence = region_seconds(cal, layer, n) * (double)cal->ctx / (double)n;
    if (*sequence < 0.5) *sequence = region_seconds(cal, layer, cal->ctx);
    pare_calibration_drop(cal, layer);
    return st;
}

static pare_status make_statistics(pare_calibration *cal, size_t layer, pare_needs_fn needs,
                                   void *arg, pare_error *err) {
    pare_calibration_discover(cal, layer);
    for (size_t i = 0; i < cal->n_inputs; i++) {
        shared_input *input = &cal->inputs[i];
        unsigned wanted = needs_of_input(input, needs, arg);
        if (wanted)
            PARE_TRY(pare_statistics_create(&input->statistics, cal->rt, cal->compute, input->in,
                                            wanted, cal->n_samples * cal->ctx, cal->spill, err));
    }
    return PARE_OK;
}

/* The statistics so far, and the block's output where it was computed. */
static pare_status check_finite(const pare_calibration *cal, size_t layer, size_t sequence,
                                pare_error *err) {
    for (size_t i = 0; i < cal->n_inputs; i++) {
        const shared_input *input = &cal->inputs[i];
        if (input->statistics && !pare_statistics_finite(input->statistics))
            return pare_fail(err, PARE_ERR_INPUT,
                             "calibration: block %zu, input of %s, sequence %zu: found NaN or "
                             "infinity, expected finite activations",
                             layer, input->names[0], sequence);
    }
    if (cal->last) return PARE_OK;
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_runtime_isa(cal->rt));
    size_t values = cal->ctx * cal->m->config.dim, at = k->first_nonfinite(cal->h, values);
    if (at == values) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "calibration: block %zu, output, sequence %zu, token %zu: found %s, expected "
                     "finite activations",
                     layer, sequence, at / cal->m->config.dim,
                     isnan(cal->h[at]) ? "NaN" : "infinity");
}

/* One sequence through the layer, from its states in the file, numbered first + i there. */
static pare_status run_sequence(pare_calibration *cal, size_t layer, const pare_file *from,
                                size_t first, size_t i, pare_probe_fn probe, pare_error *err) {
    PARE_TRY(pare_check_cancel(cal->rt, err));
    PARE_TRY(pare_file_read_at(from, cal->h, cal->h_bytes, (first + i) * cal->h_bytes, err));
    for (size_t k = 0; probe && k < cal->n_inputs; k++)
        if (cal->inputs[k].statistics) pare_statistics_at(cal->inputs[k].statistics, i * cal->ctx);
    region r = {.cal = cal, .layer = layer, .n = cal->ctx, .probe = probe};
    pare_team_run(cal->rt, calibration_region, &r);
    return check_finite(cal, layer, i, err);
}

static void tell_done(pare_calibration *cal, size_t layer, bool second, size_t n) {
    double total = 2.0 * (double)cal->n * (double)cal->m->config.n_layers;
    cal->done = ((double)layer * 2 + second) * (double)cal->n + (double)n;
    pare_progress(cal->rt, "calibrate", cal->done, total, "sequences");
}

/* first: of the file's states; targets: the outputs are copied there, or NULL. */
static pare_status run_sequences(pare_calibration *cal, size_t layer, const pare_file *from,
                                 size_t first, pare_probe_fn probe, output *out,
                                 const pare_spill *targets, pare_error *err) {
    for (size_t i = 0; i < cal->n; i++) {
        PARE_TRY(run_sequence(cal, layer, from, first, i, probe, err));
        size_t values = cal->h_bytes / sizeof *cal->h;
        if (targets) {
            memcpy(targets->data + i * values, cal->h, cal->h_bytes);
            pare_spill_rest(targets, i * values, values);
        }
        PARE_TRY(output_write(out, cal, cal->h, err));
        tell_done(cal, layer, probe == NULL, i + 1);
    }
    return PARE_OK;
}

/* The same by all ranks: in a round each has run_length sequences that follow each other; the first
 * rank collects and writes them in their order. */
static pare_status share_sequences(pare_calibration *cal, size_t layer, const pare_file *from,
                                   pare_probe_fn probe, output *out, pare_error *err) {
    size_t ranks = (size_t)pare_group_size(), values = cal->h_bytes / sizeof *cal->h;
    size_t length = cal->run_length, per_round = ranks * length;
    for (size_t begin = 0; begin < cal->n; begin += per_round) {
        size_t left = cal->n - begin < per_round ? cal->n - begin : per_round;
        for (size_t k = 0; k < length; k++) {
            size_t mine = begin + (size_t)pare_group_rank() * length + k;
            if (mine < cal->n) PARE_TRY(run_sequence(cal, layer, from, 0, mine, probe, err));
            if (out->wanted)
                pare_group_collect_f32(cal->round ? cal->round + k * ranks * values : NULL, cal->h,
                                       values);
        }
        for (size_t i = 0; cal->round && i < left; i++)
            PARE_TRY(output_write(out, cal, cal->round + (i % length * ranks + i / length) * values,
                                  err));
        tell_done(cal, layer, probe == NULL, begin + left);
    }
    return PARE_OK;
}

pare_status pare_calibration_run(pare_calibration *cal, size_t layer, const char *from,
                                 pare_needs_fn needs, void *arg, const char *to, uint32_t *crc,
                                 pare_error *err) {
    pare_file file;
    output out;
    cal->last = NULL;
    if (needs) PARE_TRY(make_statistics(cal, layer, needs, arg, err));
    for (size_t i = 0; needs && !to && i < cal->n_inputs; i++)
        if (cal->inputs[i].statistics) cal->last = &cal->inputs[i];
    PARE_TRY(pare_file_open(&file, from, err));
    pare_status st = output_open(&out, cal, to, err);
    pare_probe_fn probe = needs ? gather : NULL;
    if (st == PARE_OK && cal->shared)
        st = share_sequences(cal, layer, &file, probe, &out, err);
    else if (st == PARE_OK)
        st =
            run_sequences(cal, layer, &file, cal->two_streams ? cal->n : 0, probe, &out, NULL, err);
    pare_file_close(&file);
    st = output_close(&out, st, crc, err);
    for (size_t i = 0; needs && st == PARE_OK && i < cal->n_inputs; i++)
        if (cal->inputs[i].statistics) {
            if (cal->shared) pare_statistics_sum_ranks(cal->inputs[i].statistics);
            cal->inputs[i].result = pare_statistics_result(cal->inputs[i].statistics, cal->n);
        }
    return st;
}

pare_status pare_calibration_run_dense(pare_calibration *cal, size_t layer, const char *from,
                                       const char *to, const pare_spill *targets, pare_error *err) {
    pare_file file;
    cal->last = NULL;
    if (cal->half.open) pare_writer_discard(&cal->half.writer);
    cal->half.open = false;
    PARE_TRY(pare_file_open(&file, from, err));
    pare_status st = output_open(&cal->half, cal, to, err);
    if (st == PARE_OK) st = run_sequences(cal, layer, &file, 0, NULL, &cal->half, targets, err);
    pare_file_close(&file);
    return st;
}

pare_status pare_calibration_run_compressed(pare_calibration *cal, size_t layer, const char *from,
                                            uint32_t *crc, pare_error *err) {
    pare_file file;
    cal->last = NULL;
    PARE_TRY(pare_file_open(&file, from, err));
    pare_status st = run_sequences(cal, layer, &file, cal->n, NULL, &cal->half, NULL, err);
    pare_file_close(&file);
    st = output_close(&cal->half, st, crc, err);
    cal->half.open = false;
    return st;
}

pare_model *pare_calibration_model(pare_calibration *cal) { return cal->m; }
pare_compute pare_calibration_compute(const pare_calibration *cal) { return cal->compute; }

pare_status pare_calibration_read(const pare_calibration *cal, const pare_file *from, size_t i,
                                  float *h, pare_error *err) {
    return pare_file_read_at(from, h, cal->h_bytes, (cal->n + i) * cal->h_bytes, err);
}

const pare_input_stats *pare_calibration_inputs(const pare_calibration *cal, const char *name) {
    for (size_t i = 0; i < cal->n_inputs; i++)
        for (size_t k = 0; k < cal->inputs[i].n_names; k++)
            if (strcmp(cal->inputs[i].names[k], name) == 0) return cal->inputs[i].result;
    return NULL;
}

const char *const *pare_calibration_sharing(const pare_calibration *cal, size_t i, size_t *n) {
    if (i >= cal->n_inputs) return NULL;
    *n = cal->inputs[i].n_names;
    return cal->inputs[i].names;
}

size_t pare_calibration_samples(const pare_calibration *cal) { return cal->n_samples; }

void pare_calibration_divide(pare_calibration *cal, size_t i, const float *scale) {
    pare_statistics_divide(cal->inputs[i].statistics, scale);
}
