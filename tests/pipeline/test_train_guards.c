/* What pare_train must not do: go on with another run, read past a teacher, write or keep what is
 * not finite, tell of a model that it does not write. */
#include "support/toy_training.h"

#include "base/memory.h"
#include "base/os.h"
#include "support/model_files.h"
#include "support/tiny_model.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

static const char matrix[] = "model.layers.1.mlp.down_proj.weight";

/* In a folder's tokenizer; both names are of one length. */
static void rename_tokens(const char *folder, const char *from, const char *to) {
    char path[700], *text, *at;
    size_t n;
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    assert_ok(pare_file_read_all(&text, &n, path, 1 << 24, err));
    for (at = text; (at = strstr(at, from)); at++) memcpy(at, to, strlen(to));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    pare_free(text);
}

/* Robustness row F9: an option or a file that is gone, or whose bytes changed under the same time.
 */
static void another_run_is_refused(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o;
    char second[600], teacher[600];
    snprintf(second, sizeof second, "%s", test_write("second.txt", "It is a second text.\n", 21));
    snprintf(teacher, sizeof teacher, "%s", tiny_model("teacher", NULL));
    const char *files[] = {toy.text, second}, *turned[] = {second, toy.text};
#define REFUSED(before, after, field)                                                              \
    do {                                                                                           \
        o = toy_options();                                                                         \
        o.stop_at = 3;                                                                             \
        before;                                                                                    \
        toy_clean();                                                                               \
        assert_ok(toy_run(&r, &o, 1, NULL, err));                                                  \
        after;                                                                                     \
        assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, field);                          \
    } while (0)
    REFUSED(o.val = toy.text, o.val = NULL, "another val");
    REFUSED(o.distill = teacher, o.distill = NULL, "distill");
    REFUSED((o.data = files, o.n_data = 2), o.n_data = 1, "another data");
    REFUSED((o.data = files, o.n_data = 2), o.data = turned, "another data");
    struct stat info;
    assert_int_equal(stat(second, &info), 0);
    const struct timespec times[2] = {info.st_atim, info.st_mtim};
    REFUSED((o.data = files, o.n_data = 2),
            (test_write("second.txt", "It is another text.\n\n", 21),
             utimensat(AT_FDCWD, second, times, 0)),
            "another data");
    /* the tokenizer of a model, and of a new one */
    const char *base = tiny_model("tokens", NULL);
    REFUSED((o.shape = (pare_train_shape){0}, o.from = base),
            rename_tokens(base, "endoftext", "andoftext"), "another tokenizer");
    REFUSED(o.shape.tokenizer = base, rename_tokens(base, "andoftext", "endoftext"),
            "another tokenizer");
#undef REFUSED
    /* touched, and under another name: the same run */
    o = toy_options();
    o.data = files;
    o.n_data = 2;
    o.stop_at = 3;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    const char *moved = test_path("moved.txt");
    assert_int_equal(rename(second, moved), 0);
    files[1] = moved;
    o.stop_at = 0;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_true(r.finished);
    toy_clean();
}

static void teachers_fit(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    o.distill = fixture_path("gpt2"); /* a table of 64 positions */
    o.ctx = 65;
    toy_clean();
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "ctx: found 65, expected at most");
    o = toy_options();
    o.steps = 1;
    o.distill = tiny_model("others", NULL);
    rename_tokens(o.distill, "endoftext", "andoftext");
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "1 of 259 tokens are others"));
    rename_tokens(o.distill, "<|im_", "<|am_");
    toy_clean();
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_INPUT, "others for 3 of 259 tokens");
    toy_clean();
}

/* Rows N1 and N21. */
static void bad_weights_are_refused(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options_from(tiny_model("bad", &(tiny_options){.poison = NAN}));
    toy_clean();
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_INPUT, "expected a finite number");
    toy_clean();
    /* a finite gradient and a rate that together leave no finite weight */
    for (int every = 0; every < 2; every++) {
        o = toy_options_from(tiny_model("steep", &(tiny_options){.final_norm = 1e37f}));
        o.warmup = 0;
        o.schedule = "constant";
        o.optim = "sgd:lr=1000";
        o.clip = 0;
        o.steps = 1;
        o.save_every = (uint64_t)every;
        assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_INPUT,
                     "found NaN or infinity, expected finite weights");
        assert_false(pare_path_exists(toy.out));
        toy_clean();
    }
}

/* The average of weights whose first update left the optimizer out. */
static void averages_are_finite(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    o.sparsity = "rigl:sparsity=0.5,every=2,from=0";
    o.ema = 0.9;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_true(isfinite(r.val_loss));
    size_t n;
    float *w = toy_tensor(toy.out, matrix, &n);
    for (size_t i = 0; i < n; i++) assert_true(isfinite(w[i]));
    pare_free(w);
    toy_clean();
}

/* What is told of an average under masks is what the written model is worth. */
static void what_is_told_is_written(void **state) {
    (void)state;
    static const char *const sparse[] = {
        "magnitude:sparsity=0.6,every=3,from=2,until=11", "magnitude_ste:sparsity=0.6",
        "magnitude_ste:sparsity=0.6,embeddings=true", "rigl:sparsity=0.6,every=3"};
    for (size_t i = 0; i < sizeof sparse / sizeof *sparse; i++)
        for (int best = 0; best < 2; best++) {
            pare_train_report r, again;
            pare_train_options o = toy_options();
            o.sparsity = sparse[i];
            o.ema = 0.95;
            o.keep_best = best;
            o.steps = 30;
            toy_clean();
            assert_ok(toy_run(&r, &o, 1, NULL, err));
            assert_float_equal(r.sparsity, 0.6, 0.01);
            o = toy_options_from(toy_keep("told"));
            o.steps = 1;
            o.optim = "sgd:lr=0";
            toy_clean();
            assert_ok(toy_run(&again, &o, 1, NULL, err));
            if (!(fabs(again.first_val_loss - r.val_loss) < 1e-5))
                fail_msg("%s: told %.6f, written %.6f", sparse[i], r.val_loss,
                         again.first_val_loss);
        }
    toy_clean();
}

/* --- interrupts --- */

static volatile sig_atomic_t cancel;
static int reads = -1, last_read; /* counted from the line of step 0 on */

/* A window of tokens is a read. */
ssize_t pread(int fd, void *to, size_t n, off_t at) {
    if (reads >= 0 && ++reads == last_read) cancel = 1;
    return syscall(SYS_pread64, fd, to, n, at);
}

static void begin_counting(void *arg, const pare_train_line *line) {
    (void)arg;
    if (line->step == 0) reads = 0;
}

/* Between a step and its evaluation: the step is kept, and the log is that of an unbroken run. */
static void interrupts_in_evaluations_lose_nothing(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    char expected[65];
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    o.save_every = 0;
    o.on_line = begin_counting;
    last_read = 5 * (int)o.batch + 1; /* the first window of the evaluation after step 5 */
    assert_fails(toy_run(&r, &o, 1, &cancel, err), PARE_ERR_INTERRUPTED, "after step 5");
    assert_int_equal(reads, 5 * o.batch + o.batch); /* a micro-batch */
    reads = -1;
    o.on_line = NULL;
    o.resume = true;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    toy_clean();
}

static void options_that_do_nothing_are_refused(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    o.sparsity = "magnitude:sparsity=0.5,only=ffn,dense=ffn";
    toy_clean();
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "no tensor that is left to prune");
    toy_clean();
    o = toy_options();
    char empty[700];
    snprintf(empty, sizeof empty, "%s/.", test_path("empty"));
    assert_ok(pare_folder_make(test_path("empty"), err));
    o.out = empty;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_INPUT, "expected the name");
    o = toy_options();
    o.sparsity = "magnitude:sparsity=0.5,from=100,until=200,every=10";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_true(r.missed_sparsity);
    toy_clean();
    o = toy_options();
    o.keep_best = true;
    o.val_share = 0;
    toy_clean();
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "best: found no held-out text");
    char config[4000], path[700];
    o = toy_options();
    o.steps = 1;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    snprintf(path, sizeof path, "%s/config.json", toy_keep("shape"));
    char *text;
    size_t n;
    assert_ok(pare_file_read_all(&text, &n, path, 4000, err));
    const char *brace = strchr(text, '{');
    snprintf(config, sizeof config, "{\"attention_bias_\": 0, \"initializer_range\": 0.5,%s",
             brace + 1);
    test_write("half.json", config, strlen(config));
    o.shape = (pare_train_shape){.config = test_path("half.json"), .tokenizer = toy.tokenizer};
    o.optim = "sgd:lr=0";
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    float *w = toy_tensor(toy.out, "model.layers.0.mlp.up_proj.weight", &n);
    double squares = 0;
    for (size_t i = 0; i < n; i++) squares += (double)w[i] * (double)w[i];
    assert_float_equal(sqrt(squares / (double)n), 0.5, 0.02);
    pare_free(w);
    char *bias = strstr(text, "\"attention_bias\": false");
    if (bias) {
        memcpy(bias, "\"attention_bias\":  true", 23);
        test_write("biased.json", text, strlen(text));
        o.shape.config = test_path("biased.json");
        toy_clean();
        assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_UNSUPPORTED, "attention_bias");
    }
    pare_free(text);
    toy_clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(another_run_is_refused),
                                       cmocka_unit_test(teachers_fit),
                                       cmocka_unit_test(bad_weights_are_refused),
                                       cmocka_unit_test(averages_are_finite),
                                       cmocka_unit_test(what_is_told_is_written),
                                       cmocka_unit_test(interrupts_in_evaluations_lose_nothing),
                                       cmocka_unit_test(options_that_do_nothing_are_refused)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
