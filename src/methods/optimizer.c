#include "methods/optimizer.h"

#include "base/memory.h"
#include "base/runtime.h"
#include "kernels/blocks.h"
#include "methods/spec.h"

#include <math.h>
#include <string.h>

/* --- for the optimizers --- */

typedef struct block_job {
    void (*fn)(void *arg, size_t begin, size_t end);
    void *arg;
    size_t n;
} block_job;

static void run_blocks(void *arg, size_t begin, size_t end) {
    const block_job *j = arg;
    for (size_t b = begin; b < end; b++) {
        size_t first = b * PARE_UPDATE_BLOCK, last = first + PARE_UPDATE_BLOCK;
        j->fn(j->arg, first, last < j->n ? last : j->n);
    }
}

void pare_update_blocks(const pare_update *u, void (*fn)(void *arg, size_t begin, size_t end),
                        void *arg) {
    block_job j = {fn, arg, u->n};
    pare_parallel_for(u->rt, (u->n + PARE_UPDATE_BLOCK - 1) / PARE_UPDATE_BLOCK, 1, run_blocks, &j);
}

typedef struct rule_job {
    const pare_update *u;
    const pare_sgd_rule *sgd;
    const pare_adam_rule *adam;
} rule_job;

static void run_sgd(void *arg, size_t begin, size_t end) {
    const rule_job *j = arg;
    j->u->k->sgd(&j->u->a, j->sgd, begin, end);
}
static void run_adam(void *arg, size_t begin, size_t end) {
    const rule_job *j = arg;
    j->u->k->adam(&j->u->a, j->adam, begin, end);
}
static void run_mask(void *arg, size_t begin, size_t end) {
    const pare_update *u = arg;
    u->k->mask(&u->a, u->a.w, begin, end);
}

void pare_update_sgd(const pare_update *u, const pare_sgd_rule *r) {
    rule_job j = {.u = u, .sgd = r};
    pare_update_blocks(u, run_sgd, &j);
}

void pare_update_adam(const pare_update *u, const pare_adam_rule *r) {
    rule_job j = {.u = u, .adam = r};
    pare_update_blocks(u, run_adam, &j);
}

double pare_bias_correction(double beta, int64_t t) { return 1.0 - pow(beta, (double)t); }

pare_adam_rule pare_adam_rule_of(const pare_update *u, double beta1, double beta2, double eps,
                                 bool decoupled) {
    return (pare_adam_rule){
        .beta1 = (float)beta1,
        .rest1 = (float)(1.0 - beta1),
        .beta2 = (float)beta2,
        .rest2 = (float)(1.0 - beta2),
        .root_bias2 = (float)sqrt(pare_bias_correction(beta2, u->step)),
        .eps = (float)eps,
        .step = (float)(u->lr / pare_bias_correction(beta1, u->step)),
        .l2 = decoupled ? 0.0f : (float)u->decay,
        .keep = decoupled ? (float)(1.0 - u->lr * u->decay) : 1.0f,
    };
}

void pare_update_put(const pare_update_arrays *a, size_t i, float w) {
    a->w[i] = pare_update_kept(a, i) ? w : 0.0f;
    if (a->bf16) a->bf16[i] = pare_f32_to_bf16(a->w[i]);
}

size_t pare_update_n_kept(const uint64_t *mask, size_t begin, size_t end) {
    if (!mask) return end - begin;
    size_t n = 0;
    for (size_t i = begin; i < end;) {
        size_t stop = (i / 64 + 1) * 64 < end ? (i / 64 + 1) * 64 : end;
        uint64_t bits = mask[i / 64] >> i % 64;
        if (stop - i < 64) bits &= ((uint64_t)1 << (stop - i)) - 1;
        n += (size_t)__builtin_popcountll(bits);
        i = stop;
    }
    return n;
}

double pare_update_sum(const double *parts, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += parts[i];
    return sum;
}

/* --- the driver --- */

typedef struct state_array {
    char *name; /* owned */
    const char *moment;
    size_t tensor, n;
    float *data; /* owned */
} state_array;

struct pare_optim {
    pare_runtime *rt;
    pare_spec spec;
    pare_trained *tensors;
    pare_update *updates;  /* [n] what of a tensor's step stays the same */
    pare_optim_cuts *cuts; /* [n] */
    size_t n, n_arrays;
    state_array *arrays; /* [n * PARE_MAX_MOMENTS] */
    double *work;
    size_t work_bytes;
    int64_t count;
};

static const pare_optim_options *common(const pare_optim *o) { return o->spec.options; }

static pare_status check_tensor(size_t *n, const pare_trained *t, pare_error *err) {
    const char *name = t->name ? t->name : "a tensor";
    if (!t->name || !t->w || t->n_dims < 1 || t->n_dims > PARE_TRAINED_MAX_DIMS)
        return pare_fail(
            err, PARE_ERR_ARG,
            "optim: %s: found no name, no weights or %zu dimensions, expected both and "
            "1 to %d",
            name, t->n_dims, PARE_TRAINED_MAX_DIMS);
    *n = 1;
    for (size_t i = 0; i < t->n_dims; i++)
        if (t->dims[i] == 0 || !pare_mul_size(n, *n, t->dims[i]))
            return pare_fail(err, PARE_ERR_ARG, "optim: %s: found dimension %zu of %zu", name, i,
                             t->dims[i]);
    if (!(t->lr_factor >= 0) || isinf(t->lr_factor))
        return pare_fail(err, PARE_ERR_ARG, "optim: %s: found lr_factor %g, expected 0 or more",
                         name, t->lr_factor);
    return PARE_OK;
}

static pare_status add_array(pare_optim *o, size_t tensor, size_t k, size_t n, pare_error *err) {
    const char *moment = o->spec.method->optim->moments[k];
    state_array *a = &o->arrays[o->n_arrays++];
    *a = (state_array){.name = pare_asprintf("%s.%s", o->tensors[tensor].name, moment),
                       .moment = moment,
                       .tensor = tensor,
                       .n = n};
    size_t bytes;
    if (pare_mul_size(&bytes, n, sizeof *a->data)) a->data = pare_big_alloc(bytes);
    if (!a->name || !a->data)
        return pare_fail(err, PARE_ERR_NOMEM, "optim: %s: %zu values of state",
                         o->tensors[tensor].name, n);
    o->updates[tensor].moment[k] = a->data;
    return PARE_OK;
}

static pare_status add_tensor(pare_optim *o, size_t i, size_t *most_work, pare_error *err) {
    const pare_optim_fns *fns = o->spec.method->optim;
    const pare_trained *t = &o->tensors[i];
    pare_update *u = &o->updates[i];
    PARE_TRY(check_tensor(&u->n, t, err));
    u->rt = o->rt;
    u->k = pare_update_kernels_get(pare_runtime_isa(o->rt));
    u->cuts = &o->cuts[i];
    u->is_vector = t->n_dims == 1;
    u->rows = u->is_vector ? 1 : t->dims[0];
    u->cols = u->n / u->rows;
    for (size_t k = 0; k < PARE_MAX_MOMENTS && fns->moments[k]; k++) {
        size_t n = fns->moment_size ? fns->moment_size(o->spec.options, u, k) : u->n;
        if (n) PARE_TRY(add_array(o, i, k, n, err));
    }
    u->a = (pare_update_arrays){.w = t->w, .bf16 = t->w_bf16, .m = u->moment[0], .v = u->moment[1]};
    size_t work = fns->work ? fns->work(o->spec.options, u) : 0;
    if (work > *most_work) *most_work = work;
    return PARE_OK;
}

static pare_status make(pare_optim *o, const char *spec, const pare_trained *tensors, size_t n,
                        pare_error *err) {
    PARE_TRY(pare_spec_parse(&o->spec, "optimizer", "optim", spec, err));
    o->tensors = pare_calloc(n, sizeof *o->tensors);
    o->updates = pare_calloc(n, sizeof *o->updates);
    o->cuts = pare_calloc(n, sizeof *o->cuts);
    o->arrays = pare_calloc(n, PARE_MAX_MOMENTS * sizeof *o->arrays);
    if (!o->tensors || !o->updates || !o->cuts || !o->arrays)
        return pare_fail(err, PARE_ERR_NOMEM, "optim: %zu tensors", n);
    o->n = n;
    if (n) memcpy(o->tensors, tensors, n * sizeof *tensors);
    size_t work = 0;
    for (size_t i = 0; i < n; i++) PARE_TRY(add_tensor(o, i, &work, err));
    o->work_bytes = work * sizeof *o->work;
    o->work = pare_big_alloc(o->work_bytes);
    return o->work ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "optim: work space");
}

pare_status pare_optim_create(pare_optim **out, pare_runtime *rt, const char *spec,
                              const pare_trained *tensors, size_t n, pare_error *err) {
    *out = NULL;
    pare_optim *o = pare_calloc(1, sizeof *o);
    if (!o) return pare_fail(err, PARE_ERR_NOMEM, "optim: out of memory");
    o->rt = rt;
    pare_status st = make(o, spec, tensors, n, err);
    if (st == PARE_OK)
        *out = o;
    else
        pare_optim_free(o);
    return st;
}

void pare_optim_free(pare_optim *o) {
    if (!o) return;
    for (size_t i = 0; i < o->n_arrays; i++) {
        pare_free(o->arrays[i].name);
        if (o->arrays[i].data)
            pare_big_free(o->arrays[i].data, o->arrays[i].n * sizeof *o->arrays[i].data);
    }
    if (o->work) pare_big_free(o->work, o->work_bytes);
    pare_free(o->arrays);
    pare_free(o->updates);
    pare_free(o->cuts);
    pare_free(o->tensors);
    pare_spec_free(&o->spec);
    pare_free(o);
}

const char *pare_optim_text(const pare_optim *o) { return o->spec.text; }
double pare_optim_lr(const pare_optim *o) { return common(o)->lr; }
bool pare_optim_needs_hessian(const pare_optim *o) {
    const pare_optim_fns *fns = o->spec.method->optim;
    int every = fns->hessian_every ? fns->hessian_every(o->spec.options) : 1;
    return fns->needs_hessian && o->count % every == 0;
}
int pare_optim_hessian_samples(const pare_optim *o) {
    const pare_optim_fns *fns = o->spec.method->optim;
    return fns->hessian_samples ? fns->hessian_samples(o->spec.options) : 1;
}
int64_t pare_optim_count(const pare_optim *o) { return o->count; }
void pare_optim_set_count(pare_optim *o, int64_t count) { o->count = count > 0 ? count : 0; }

pare_optim_cuts pare_optim_cut_steps(const pare_optim *o, size_t tensor) { return o->cuts[tensor]; }

bool pare_optim_array_at(const pare_optim *o, size_t i, pare_optim_array *out) {
    if (i >= o->n_arrays) return false;
    const state_array *a = &o->arrays[i];
    *out = (pare_optim_array){
        .name = a->name, .moment = a->moment, .tensor = a->tensor, .data = a->data, .n = a->n};
    return true;
}

pare_optim_args pare_optim_args_default(void) {
    return (pare_optim_args){.g_scale = 1.0, .lr = NAN};
}

static pare_status check_args(const pare_optim *o, const pare_optim_args *a, pare_error *err) {
    if (!a->g) return pare_fail(err, PARE_ERR_ARG, "optim: found no gradients");
    if (!isfinite(a->g_scale))
        return pare_fail(err, PARE_ERR_ARG, "optim: found g_scale %g, expected a number",
                         a->g_scale);
    if (isinf(a->lr) || a->lr < 0)
        return pare_fail(err, PARE_ERR_ARG, "optim: found lr %g, expected 0 or more", a->lr);
    if (!pare_optim_needs_hessian(o)) return PARE_OK;
    for (size_t i = 0; i < o->n; i++)
        if (a->g[i] && (!a->hessian || !a->hessian[i]))
            return pare_fail(err, PARE_ERR_ARG,
                             "optim: %s: %s: found no estimate of the Hessian's diagonal",
                             o->spec.method->name, o->tensors[i].name);
    return PARE_OK;
}

pare_status pare_optim_step(pare_optim *o, const pare_optim_args *args, pare_error *err) {
    PARE_TRY(check_args(o, args, err));
    double lr = isnan(args->lr) ? common(o)->lr : args->lr;
    bool hessian = args->hessian && pare_optim_needs_hessian(o);
    o->count++;
    for (size_t i = 0; i < o->n; i++) {
        const pare_trained *t = &o->tensors[i];
        pare_update *u = &o->updates[i];
        u->a.mask = args->mask ? args->mask[i] : NULL;
        if (!args->g[i]) { /* it takes no step, but what is pruned is 0 */
            if (u->a.mask) pare_update_blocks(u, run_mask, u);
            continue;
        }
        u->a.g = args->g[i];
        u->a.g_scale = (float)args->g_scale;
        u->a.mask_gradient = args->mask_gradient && u->a.mask;
        u->hessian = hessian ? args->hessian[i] : NULL;
        u->lr = lr * (t->lr_factor > 0 ? t->lr_factor : 1.0);
        u->decay = t->no_decay ? 0 : common(o)->weight_decay;
        u->step = o->count;
        u->work = o->work;
        o->spec.method->optim->update(u, o->spec.options);
    }
    return PARE_OK;
}
