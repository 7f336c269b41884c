/* Memory that is out, at every allocation of optimizers and sparse trainings: an error, no leak,
 * and masks and weights that still go together. */
#include "support/alloc_faults.h"

#include "pare/methods.h"
#include "pare/sparsity.h"

#include <math.h>
#include <stdio.h>

#if FAULTS

enum { N = 600 * 64 }; /* more than a selection does alone */
static float w[N], g[N], forward[N], bias[64];

static pare_status train(pare_runtime *rt, const char *sparsity, const char *optimizer,
                         pare_error *err) {
    static float bias_g[64];
    const pare_trained t[] = {
        {.name = "w", .dims = {600, 64}, .n_dims = 2, .w = w, .w_forward = forward},
        {.name = "b", .dims = {64}, .n_dims = 1, .w = bias, .role = PARE_ROLE_OTHER}};
    float *gs[] = {g, bias_g};
    pare_pruner *p = NULL;
    pare_optim *o = NULL;
    for (size_t i = 0; i < N; i++) w[i] = (float)(i * 7919 % 1000) - 500, g[i] = w[i] * 1e-3f;
    pare_status st = pare_pruner_create(&p, rt, sparsity, t, 2, 8, err);
    if (st == PARE_OK) st = pare_optim_create(&o, rt, optimizer, t, 2, err);
    const pare_stepper s = pare_optim_stepper(o);
    for (int step = 0; st == PARE_OK && step < 3; step++) {
        pare_optim_args a = pare_optim_args_default();
        a.g = gs;
        a.hessian = (const float *const *)gs;
        st = pare_pruner_pre_forward(p, err);
        if (st == PARE_OK) st = pare_pruner_update(p, &s, &a, err);
    }
    pare_pruner_free(p);
    pare_optim_free(o);
    return st;
}

static void sweep(pare_runtime *rt, const char *sparsity, const char *optimizer) {
    for (long at = 1;; at++) {
        pare_error err = {0};
        count = live = 0;
        fail_at = at;
        armed = true;
        pare_status st = train(rt, sparsity, optimizer, &err);
        armed = false;
        if (live != 0)
            fail_msg("%s, %s: allocation %ld: %ld blocks left", sparsity, optimizer, at, live);
        if (st == PARE_OK && count < at) return; /* all of them failed once */
        if (st != PARE_ERR_NOMEM || err.status != PARE_ERR_NOMEM || !err.message[0])
            fail_msg("%s, %s: allocation %ld: found %s \"%s\"", sparsity, optimizer, at,
                     pare_status_name(st), err.message);
    }
}

static void every_method(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        char spec[100];
        const char *slot = pare_method_slot(m), *name = pare_method_name(m);
        if (strcmp(slot, "optimizer") == 0) sweep(rt, "no_prune", name);
        if (strcmp(slot, "sparse_training") != 0) continue;
        bool pattern = strcmp(name, "iterative_nm") == 0, every = false, from = false;
        for (const pare_param *p = pare_method_params(m); p->name; p++) {
            every |= strcmp(p->name, "every") == 0;
            from |= strcmp(p->name, "from") == 0;
        }
        snprintf(spec, sizeof spec, "%s%s%s%s", name, pattern ? ":sparsity=2:4" : "",
                 every ? (pattern ? ",every=1" : ":every=1") : "", from ? ",from=0" : "");
        sweep(rt, spec, "adam");
        for (const pare_param *p = pare_method_params(m); p->name; p++)
            if (strcmp(p->name, "type") == 0) {
                snprintf(spec, sizeof spec, "%s:type=block_4x4%s%s", name, every ? ",every=1" : "",
                         from ? ",from=0" : "");
                sweep(rt, spec, "adam");
            }
    }
    pare_runtime_free(rt);
}

#endif

int main(void) {
#if FAULTS
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_method)};
    return cmocka_run_group_tests(tests, NULL, NULL);
#else
    return 77; /* the allocator is not ours to replace */
#endif
}
