/* What a training run begins with: its options checked, the work folder, the model, the text, the
 * optimizer and the pruner; and what it ends with. */
#include "pipeline/train_run.h"

#include "base/group.h"
#include "base/memory.h"
#include "methods/activation/activation_top_k.h"
#include "methods/optimizer.h"
#include "methods/pruner.h"
#include "methods/target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

pare_train_options pare_train_options_default(void) {
    return (pare_train_options){.val_share = 0.02,
                                .batch = 16,
                                .ctx = 256,
                                .optim = "adamw",
                                .schedule = "cosine",
                                .warmup = UINT64_MAX,
                                .min_lr = 0.1,
                                .clip = 1,
                                .temperature = 1,
                                .compute = PARE_COMPUTE_FAST,
                                .eval_every = 250,
                                .save_every = 250,
                                .log_every = 10,
                                .eval_windows = 64};
}

/* ---- options ---- */

static const char *const schedules[] = {"cosine", "linear", "wsd", "constant"};
enum { COSINE, LINEAR, WSD, CONSTANT, N_SCHEDULES };

static int schedule_of(const char *name) {
    for (int i = 0; i < N_SCHEDULES; i++)
        if (strcmp(name, schedules[i]) == 0) return i;
    return -1;
}

pare_status pare_train_check_options(const pare_train_options *o, pare_error *err) {
    if (!o->out || !o->data || !o->n_data)
        return pare_fail(err, PARE_ERR_ARG, "training: found no %s, expected one",
                         o->out ? "text" : "output");
    if (!o->steps || !o->batch || !o->ctx || !o->log_every)
        return pare_fail(err, PARE_ERR_ARG,
                         "training: found %llu steps of %zu sequences of %zu tokens, a line every "
                         "%llu: expected all above 0",
                         (unsigned long long)o->steps, o->batch, o->ctx,
                         (unsigned long long)o->log_every);
    if (schedule_of(o->schedule) < 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "schedule: found \"%s\", expected cosine, linear, wsd or constant",
                         o->schedule);
    if (!(o->ema >= 0 && o->ema < 1))
        return pare_fail(err, PARE_ERR_ARG, "ema: found %g, expected [0, 1)", o->ema);
    if (!(o->temperature > 0) || !(o->hard >= 0 && o->hard <= 1))
        return pare_fail(err, PARE_ERR_ARG,
                         "distillation: found a temperature of %g and a share of the text of %g, "
                         "expected more than 0, and [0, 1]",
                         o->temperature, o->hard);
    if (!(o->min_lr >= 0 && o->min_lr <= 1))
        return pare_fail(err, PARE_ERR_ARG, "min-lr: found %g, expected [0, 1]", o->min_lr);
    if (!(o->clip >= 0))
        return pare_fail(err, PARE_ERR_ARG, "clip: found %g, expected at least 0", o->clip);
    if (!(o->val_share >= 0 && o->val_share < 1))
        return pare_fail(err, PARE_ERR_ARG, "val-share: found %g, expected [0, 1)", o->val_share);
    if (o->keep_best && !o->val && o->val_share == 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "best: found no held-out text, expected a share of the data or a file");
    if (o->adapter && !o->from)
        return pare_fail(err, PARE_ERR_ARG,
                         "adapter: found one for a new model, expected a model that it is trained "
                         "beside (from)");
    if (o->adapter && o->sparsity)
        return pare_fail(err, PARE_ERR_ARG,
                         "sparsity: found it with an adapter, expected one of them: the model's "
                         "weights are not trained");
    if (o->adapter && o->act_sparsity)
        return pare_fail(err, PARE_ERR_ARG,
                         "act-sparsity: found it with an adapter, expected one of them: the "
                         "model's configuration stays as it is");
    if (!o->distill && (o->hard != 0 || o->temperature != 1))
        return pare_fail(err, PARE_ERR_ARG,
                         "hard, temperature: found them without a teacher, expected distill too");
    return PARE_OK;
}

uint64_t pare_train_warmup(const pare_train_options *o) {
    if (o->warmup != UINT64_MAX) return o->warmup;
    return o->steps / 20 < 1000 ? o->steps / 20 : 1000;
}

double pare_train_rate(const pare_train_options *o, uint64_t step) {
    uint64_t warmup = pare_train_warmup(o);
    if (step < warmup) return (double)(step + 1) / (double)warmup;
    if (step >= o->steps) return o->min_lr;
    double q = (double)(step - warmup) / (double)(o->steps - warmup), rest = 1 - o->min_lr;
    switch (schedule_of(o->schedule)) {
    case COSINE:
        return o->min_lr + rest * 0.5 * (1 + cos(3.14159265358979323846 * q));
    case LINEAR:
        return 1 - rest * q;
    case WSD:
        return q < 0.8 ? 1 : 1 - rest * (q - 0.8) / 0.2;
    default:
        return 1;
    }
}

uint64_t pare_train_trunk(const pare_train_options *o) {
    uint64_t warmup = pare_train_warmup(o);
    switch (schedule_of(o->schedule)) {
    case CONSTANT:
        return o->steps;
    case WSD: {
        if (warmup >= o->steps) return o->steps;
        uint64_t step = warmup + (uint64_t)(0.8 * (double)(o->steps - warmup));
        while (step < o->steps && pare_train_rate(o, step) == 1) step++;
        return step;
    }
    default:
        return 0;
    }
}

/* ---- opening ---- */

static char *in_work(const pare_train_run *r, const char *name) {
    return pare_path_join(pare_work_path(r->work), name);
}

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "training: out of memory");
}

static pare_status check_ctx(const pare_model *m, const char *path, size_t ctx, pare_error *err) {
    if (!pare_model_ctx_max(m) || ctx <= pare_model_ctx_max(m)) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG, "%s: ctx: found %zu, expected at most the model's %zu",
                     path, ctx, pare_model_ctx_max(m));
}

/* The activations' sparsity that was asked for. */
static pare_status set_top_k(pare_train_run *r, pare_error *err) {
    pare_model_config *c = &r->weights->model->config;
    const pare_top_k_options *o = r->top_k.options;
    if (!r->top_k.method) return PARE_OK;
    bool pattern = o->sparsity.m > 0;
    if (pattern && o->sparsity.n < 1)
        return pare_fail(err, PARE_ERR_ARG,
                         "act-sparsity: found %d:%d, expected at least one of each %d that stays",
                         o->sparsity.n, o->sparsity.m, o->sparsity.m);
    if (pattern && c->ffn_dim % (size_t)o->sparsity.m != 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "act-sparsity: found a pattern of %d in rows of %zu, expected a divisor",
                         o->sparsity.m, c->ffn_dim);
    c->top_k = (pare_top_k){.share = pattern ? 0 : o->sparsity.share,
                            .n = (size_t)o->sparsity.n,
                            .m = (size_t)o->sparsity.m,
                            .score = (pare_top_k_score)o->score};
    return PARE_OK;
}

/* For a plan: what reading the tokenizer leaves in use is its tables, and pieces that the system
 * does not get back. */
static size_t memory_in_use(const pare_train_run *r) {
    if (!r->planned) return 0;
    pare_peak_rss_reset(); /* the peak is then what is in use */
    return pare_peak_rss_bytes();
}

static void add_tokenizer(pare_train_run *r, size_t before) {
    size_t now = memory_in_use(r);
    if (now > before) r->tokenizer_bytes += now - before;
}

/* The model before the first step: given, or made in the work folder. */
static pare_status begin_model(pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    char *made = o->from ? NULL : in_work(r, "init");
    if (!o->from && !made) return fail_memory(err);
    pare_status st = PARE_OK;
    bool make = made && !pare_work_kept(r->work, "init");
    if (make && pare_group_rank() == 0) {
        if (pare_path_exists(made)) pare_folder_discard(made);
        size_t before = memory_in_use(r);
        st = pare_train_init(r->rt, &o->shape, o->ctx, made, err); /* reads it too */
        add_tokenizer(r, before);
        if (st == PARE_OK) st = pare_work_keep(r->work, "init", json_true(), err);
    }
    if (make && st == PARE_OK) pare_group_barrier();
    const char *path = made ? made : o->from;
    if (st == PARE_OK)
        st = r->adapter.method
                 ? pare_train_weights_open_lora(&r->weights, r->rt, path, r->adapter.options, err)
                 : pare_train_weights_open(&r->weights, r->rt, path,
                                           r->compute == PARE_COMPUTE_FAST, err);
    if (st == PARE_OK) st = set_top_k(r, err);
    size_t before = memory_in_use(r);
    if (st == PARE_OK) st = pare_tokenizer_load(&r->tok, path, err);
    add_tokenizer(r, before);
    if (st == PARE_OK) st = check_ctx(r->weights->model, path, o->ctx, err);
    pare_free(made);
    return st;
}

/* The model whose distributions are learnt, of the same tokens. */
static pare_status begin_teacher(pare_train_run *r, pare_error *err) {
    const char *path = r->o->distill;
    pare_tokenizer *tok;
    PARE_TRY(pare_model_load(&r->teacher, r->rt, path, err));
    PARE_TRY(check_ctx(r->teacher, path, r->o->ctx, err));
    PARE_TRY(pare_tokenizer_load(&tok, path, err));
    size_t n = pare_tokenizer_vocab_size(r->tok), others = 0;
    if (pare_tokenizer_vocab_size(tok) < n) n = pare_tokenizer_vocab_size(tok);
    for (size_t i = 0; i < n; i++) {
        const char *a = pare_tokenizer_token(r->tok, (int32_t)i),
                   *b = pare_tokenizer_token(tok, (int32_t)i);
        others += (a && b) ? strcmp(a, b) != 0 : a != b;
    }
    pare_tokenizer_free(tok);
    if (100 * others > n)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found a tokenizer that has others for %zu of %zu tokens, expected "
                         "that of the model that is trained",
                         path, others, n);
    if (others)
        pare_warn(r->rt, "%s: %zu of %zu tokens are others in its tokenizer", path, others, n);
    return PARE_OK;
}

/* sha256: of the files. */
static pare_status open_tokens(pare_train_run *r, pare_token_file *out, const char *name,
                               const char *const *files, const char (*sha256)[65], size_t n,
                               pare_error *err) {
    uint8_t fingerprint[32];
    bool fits;
    char *path = in_work(r, name);
    if (!path) return fail_memory(err);
    size_t vocab = r->weights->model->config.vocab_size;
    pare_token_file_fingerprint(fingerprint, r->tok, sha256, files, n);
    if (pare_group_rank() > 0) pare_group_barrier(); /* the first rank has it */
    pare_status st = pare_token_file_open(out, &fits, path, fingerprint, vocab, err);
    if (st == PARE_OK && !fits && pare_group_rank() > 0)
        st = pare_fail(err, PARE_ERR_IO,
                       "%s: found other tokens on rank %d, expected the first rank's: a folder "
                       "that all ranks see",
                       path, pare_group_rank());
    if (st == PARE_OK && !fits) {
        st = pare_token_file_build(r->rt, path, r->tok, files, n, fingerprint, err);
        if (st == PARE_OK) st = pare_token_file_open(out, &fits, path, fingerprint, vocab, err);
    }
    if (st == PARE_OK && pare_group_rank() == 0) pare_group_barrier();
    pare_free(path);
    return st;
}

static pare_status open_text(pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    PARE_TRY(open_tokens(r, &r->tokens, "tokens", o->data, (const char(*)[65])r->data_sha256,
                         o->n_data, err));
    double share = o->val ? 0 : o->val_share;
    PARE_TRY(
        pare_batches_init(&r->batches, &r->tokens, o->ctx, share, pare_runtime_seed(r->rt), err));
    if (!o->val) return PARE_OK;
    PARE_TRY(open_tokens(r, &r->val_tokens, "val-tokens", &o->val, &r->val_sha256, 1, err));
    if (r->val_tokens.n <= o->ctx)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found %llu tokens, expected more than %zu",
                         o->val, (unsigned long long)r->val_tokens.n, o->ctx);
    return PARE_OK;
}

static pare_status split_pruned(pare_train_run *r, pare_error *err) {
    bool *pruned = pare_calloc(r->weights->n, sizeof *pruned);
    if (!pruned) return fail_memory(err);
    for (size_t i = 0, k = 0; i < r->weights->n; i++)
        if (r->weights->tensors[i].grad) pruned[i] = !isnan(pare_pruner_target(r->pruner, k++));
    pare_status st = pare_train_weights_split(r->weights, pruned, err);
    pare_free(pruned);
    return st;
}

/* The pruner, with weights of their own for the forward pass where it needs them. Which tensors
 * those are shows when it is made: until then the weights themselves stand for them. */
static pare_status begin_pruner(pare_train_run *r, pare_error *err) {
    const char *spec = r->o->sparsity;
    if (!spec) return PARE_OK;
    for (size_t i = 0, k = 0; i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        if (t->grad) r->trained[k++].w_forward = t->half ? NULL : t->w;
    }
    int64_t steps = (int64_t)r->o->steps;
    PARE_TRY(pare_pruner_create(&r->pruner, r->rt, spec, r->trained, r->n_trained, steps, err));
    if (pare_pruner_is_straight_through(r->pruner)) PARE_TRY(split_pruned(r, err));
    for (size_t i = 0, k = 0; i < r->weights->n; i++) {
        const pare_train_tensor *t = &r->weights->tensors[i];
        if (!t->grad) continue;
        r->trained[k].w_forward = t->forward;
        pare_pruner_set_forward(r->pruner, k++, t->forward);
    }
    return PARE_OK;
}

static bool is_factor(double v) { return v > 0 && v <= 1e6; }

/* Rates of their own. */
static pare_status scale_rates(pare_train_run *r, pare_error *err) {
    const char *text = r->o->lr_scale;
    pare_target_values v;
    if (!text) return PARE_OK;
    PARE_TRY(pare_target_values_parse(&v, "lr-scale", text, is_factor,
                                      "a target and a factor above 0, such as embd=5 or "
                                      "/attn_v/=0.2",
                                      err));
    bool tied = true;
    for (size_t i = 0; i < r->n_trained; i++)
        tied &= strcmp(r->trained[i].name, "output.weight") != 0;
    for (size_t i = 0; i < r->n_trained; i++) {
        pare_trained *t = &r->trained[i];
        pare_target_values_find(&v, t->name, t->role == PARE_ROLE_OTHER, tied, &t->lr_factor);
    }
    pare_status st = pare_target_values_check_used(&v, "lr-scale", text, err);
    pare_target_values_free(&v);
    return st;
}

/* What optimizer and pruner see of the weights. */
static pare_status begin_optim(pare_train_run *r, pare_error *err) {
    pare_train_weights *w = r->weights;
    r->trained = pare_calloc(w->n, sizeof *r->trained);
    r->grads = pare_calloc(w->n, sizeof *r->grads);
    if (!r->trained || !r->grads) return fail_memory(err);
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        if (!t->grad) continue;
        pare_trained *to = &r->trained[r->n_trained];
        r->grads[r->n_trained++] = t->grad;
        *to = (pare_trained){.name = t->name,
                             .dims = {t->matrix ? t->rows : t->cols, t->cols},
                             .n_dims = t->matrix ? 2 : 1,
                             .w = t->w,
                             .w_bf16 = t->half,
                             .role = t->linear   ? PARE_ROLE_LINEAR
                                     : t->matrix ? PARE_ROLE_EMBEDDING
                                                 : PARE_ROLE_OTHER,
                             .no_decay = !t->matrix};
    }
    PARE_TRY(scale_rates(r, err));
    PARE_TRY(begin_pruner(r, err));
    PARE_TRY(pare_optim_create(&r->optim, r->rt, r->o->optim, r->trained, r->n_trained, err));
    if (!pare_optim_needs_hessian(r->optim)) return PARE_OK;
    r->masks = pare_calloc(r->n_trained, sizeof *r->masks);
    return r->masks ? pare_hessian_create(&r->hessian, w, pare_optim_hessian_samples(r->optim), err)
                    : fail_memory(err);
}

/* As asked for, but beside an adapter weights are multiplied as they are stored, and differences of
 * gradients need f32. */
static pare_status choose_compute(pare_train_run *r, pare_error *err) {
    pare_spec optim;
    PARE_TRY(pare_spec_parse(&optim, "optimizer", "optim", r->o->optim, err));
    const pare_optim_fns *fns = optim.method->optim;
    bool hessian = fns->needs_hessian;
    r->passes = 1;
    if (hessian) r->passes += 2 * (fns->hessian_samples ? fns->hessian_samples(optim.options) : 1);
    pare_spec_free(&optim);
    r->compute = r->o->adapter || hessian ? PARE_COMPUTE_EXACT : r->o->compute;
    return PARE_OK;
}

/* Gradients by layers, and how they are summed. */
static pare_status begin_sums(pare_train_run *r, pare_error *err) {
    size_t ranks = (size_t)pare_group_size();
    r->n_micro = (r->o->batch + r->micro - 1) / r->micro;
    r->nll = pare_calloc(r->n_micro, sizeof *r->nll);
    if (!r->nll) return fail_memory(err);
    PARE_TRY(pare_gradients_create(&r->sums, r->n_trained, err));
    for (size_t i = 0; i < r->n_trained; i++) {
        const pare_trained *t = &r->trained[i];
        bool layer = strncmp(t->name, "blk.", 4) == 0;
        r->sums.of[i] = (pare_gradient){.g = r->grads[i],
                                        .n = t->dims[0] * (t->n_dims == 2 ? t->dims[1] : 1),
                                        .layer = layer ? strtoul(t->name + 4, NULL, 10) : SIZE_MAX};
    }
    return pare_gradients_plan(&r->sums, pare_runtime_deterministic(r->rt), r->n_micro / ranks,
                               err);
}

/* Sequences computed at once; the ranks of a step get as many micro-batches each. */
static pare_status choose_micro(pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    size_t ranks = (size_t)pare_group_size();
    r->micro = o->micro_batch && o->micro_batch < o->batch ? o->micro_batch : o->batch;
    if (ranks == 1) return PARE_OK;
    if (!o->micro_batch) r->micro = o->batch / ranks;
    if (r->micro && o->batch % (ranks * r->micro) == 0) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "batch: found %zu sequences for %zu ranks with micro-batches of %zu, expected "
                     "a multiple of %zu",
                     o->batch, ranks, r->micro ? r->micro : 1, ranks * (r->micro ? r->micro : 1));
}

pare_status pare_train_open(pare_train_run *r, pare_error *err) {
    const pare_train_options *o = r->o;
    json_t *fingerprint = NULL;
    pare_status st = choose_micro(r, err);
    if (st == PARE_OK) st = choose_compute(r, err);
    if (st == PARE_OK && o->adapter)
        st = pare_spec_parse(&r->adapter, "adapter", "adapter", o->adapter, err);
    if (st == PARE_OK && o->act_sparsity)
        st =
            pare_spec_parse(&r->top_k, "activation_sparsity", "act-sparsity", o->act_sparsity, err);
    if (st == PARE_OK) st = pare_train_fingerprint(&fingerprint, r, err);
    if (st == PARE_OK) st = pare_folder_check(o->out, err);
    if (st == PARE_OK) st = pare_train_check_earlier(r, fingerprint, err);
    if (st == PARE_OK)
        st = pare_work_open(&r->work, r->rt, o->out, fingerprint, 0, o->restart, err);
    json_decref(fingerprint);
    PARE_TRY(st);
    PARE_TRY(begin_model(r, err));
    PARE_TRY(open_text(r, err));
    PARE_TRY(begin_optim(r, err));
    PARE_TRY(pare_train_begin_copies(r, err));
    size_t tokens = r->micro * o->ctx;
    r->window = pare_calloc(o->ctx + 1, sizeof *r->window);
    r->ids = pare_calloc(tokens, sizeof *r->ids);
    r->targets = pare_calloc(tokens, sizeof *r->targets);
    r->lengths = pare_calloc(r->micro, sizeof *r->lengths);
    if (!r->window || !r->ids || !r->targets || !r->lengths) return fail_memory(err);
    for (size_t i = 0; i < r->micro; i++) r->lengths[i] = o->ctx;
    PARE_TRY(begin_sums(r, err));
    if (o->distill) PARE_TRY(begin_teacher(r, err));
    pare_step_options so = {.n_tokens = tokens,
                            .n_spans = r->micro,
                            .compute = r->compute,
                            .recompute = o->recompute,
                            .teacher = r->teacher,
                            .temperature = (float)o->temperature,
                            .hard = (float)o->hard};
    PARE_TRY(pare_step_create(&r->step, r->weights, &so, err));
    const pare_model_config *c = &r->weights->model->config;
    /* beside an adapter no weight has a gradient */
    r->flop_per_token =
        (o->adapter ? 2 : 3) * (double)pare_model_flops_per_token(r->weights->model) +
        6.0 * (double)(c->n_layers * c->n_heads * c->head_dim * o->ctx);
    r->flop_per_token *= r->passes;
    r->state = (pare_train_state){
        .loss = NAN, .val_loss = NAN, .best_val_loss = NAN, .first_val_loss = NAN};
    pare_train_tell_begin(r);
    PARE_TRY(pare_train_restore(r, err));
    PARE_TRY(pare_train_check_steps(r, err));
    if (r->state.step < o->steps) PARE_TRY(pare_train_check_disk(r, err));
    if (pare_train_warmup(o) >= o->steps)
        pare_warn(r->rt,
                  "warmup: found %llu steps of %llu: the full learning rate is never reached",
                  (unsigned long long)pare_train_warmup(o), (unsigned long long)o->steps);
    if (o->resume && !r->state.step)
        return pare_fail(err, PARE_ERR_ARG, "%s: found no checkpoint to go on from",
                         pare_work_path(r->work));
    return PARE_OK;
}

void pare_train_close(pare_train_run *r, bool remove) {
    pare_step_free(r->step);
    pare_model_free(r->teacher);
    pare_pruner_free(r->pruner);
    pare_optim_free(r->optim);
    pare_free(r->trained);
    pare_free(r->grads);
    pare_free(r->masks);
    pare_hessian_free(r->hessian);
    pare_batches_free(&r->batches);
    pare_token_file_close(&r->tokens);
    pare_token_file_close(&r->val_tokens);
    pare_tokenizer_free(r->tok);
    pare_train_weights_free(r->weights);
    if (r->ema) pare_big_free(r->ema, r->n_values * sizeof *r->ema);
    if (r->best) pare_big_free(r->best, r->n_values * sizeof *r->best);
    pare_free(r->window);
    pare_free(r->ids);
    pare_free(r->targets);
    pare_free(r->lengths);
    pare_free(r->data_sha256);
    pare_free(r->was_zero);
    pare_free(r->nll);
    pare_gradients_free(&r->sums);
    pare_free(r->log.data);
    pare_spec_free(&r->adapter);
    pare_spec_free(&r->top_k);
    if (r->work && remove) pare_work_remove(r->work);
    pare_work_close(r->work);
}
