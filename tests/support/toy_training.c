#include "support/toy_training.h"

#include "base/memory.h"
#include "base/os.h"
#include "io/safetensors.h"
#include "support/tiny_model.h"

#include <stdio.h>

toy_paths toy;
static char warnings[4096];

static void write_text(void) {
    char *t = pare_malloc(1 << 15, 1);
    size_t n = 0;
    for (int i = 0; n < (1 << 15) - 64; i++)
        n += (size_t)snprintf(t + n, 64, "the %s %s number %d.\n", i % 3 ? "cat" : "dog",
                              i % 2 ? "eats" : "sees", i % 10);
    snprintf(toy.text, sizeof toy.text, "%s", test_write("text.txt", t, n));
    pare_free(t);
}

int toy_set_up(void **state) {
    (void)state;
    snprintf(toy.tokenizer, sizeof toy.tokenizer, "%s", tiny_model("base", NULL));
    snprintf(toy.out, sizeof toy.out, "%s", test_path("trained"));
    snprintf(toy.work, sizeof toy.work, "%s.work", toy.out);
    write_text();
    return 0;
}

pare_train_options toy_options(void) {
    static const char *files[1];
    files[0] = toy.text;
    pare_train_options o = pare_train_options_default();
    o.out = toy.out;
    o.shape = (pare_train_shape){
        .arch = "llama", .dim = 32, .n_layers = 2, .n_heads = 4, .tokenizer = toy.tokenizer};
    o.data = files;
    o.n_data = 1;
    o.steps = 12;
    o.batch = 3;
    o.ctx = 16;
    o.optim = "adamw:lr=1e-2";
    o.eval_every = 5;
    o.save_every = 4;
    o.log_every = 3;
    o.eval_windows = 4;
    return o;
}

pare_train_options toy_options_from(const char *model) {
    pare_train_options o = toy_options();
    o.shape = (pare_train_shape){0};
    o.from = model;
    return o;
}

static void keep_warning(void *arg, const char *line) {
    (void)arg;
    size_t n = strlen(warnings);
    snprintf(warnings + n, sizeof warnings - n, "%s\n", line);
}

pare_status toy_run(pare_train_report *report, const pare_train_options *o, int threads,
                    const volatile sig_atomic_t *cancel, pare_error *err) {
    const pare_options ro = {.n_threads = threads,
                             .isa = PARE_ISA_AMX,
                             .seed = 5,
                             .cancel = cancel,
                             .warn = keep_warning};
    pare_runtime *rt;
    warnings[0] = '\0';
    PARE_TRY(pare_runtime_create(&rt, &ro, err));
    pare_status st = pare_train(report, rt, o, err);
    pare_runtime_free(rt);
    return st;
}

const char *toy_warnings(void) { return warnings; }

void toy_clean(void) {
    test_remove(toy.out);
    test_remove(toy.work);
}

const char *toy_keep(const char *name) {
    const char *path = test_path(name);
    test_remove(path);
    assert_int_equal(rename(toy.out, path), 0);
    return path;
}

float *toy_tensor(const char *folder, const char *name, size_t *n) {
    pare_st *st = NULL;
    assert_ok(pare_st_open(&st, folder, err));
    const pare_st_tensor *t = pare_st_find(st, name);
    if (!t) fail_msg("%s: found no %s", folder, name);
    *n = t ? (size_t)t->n_bytes / sizeof(float) : 0;
    float *w = pare_malloc(*n, sizeof *w);
    assert_non_null(w);
    if (t)
        assert_ok(pare_file_read_at(pare_st_file(st, t->file), w, *n * sizeof *w, t->offset, err));
    pare_st_close(st);
    return w;
}
