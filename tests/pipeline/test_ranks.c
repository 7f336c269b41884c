/* Several processes of mpirun: training and calibration give what one process gives, a rank that
 * dies ends all of them, and the same command goes on. */
#include "support/test.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/os.h"
#include "pare/base.h"
#include "support/program.h"
#include "support/tiny_model.h"

#define MPIRUN "mpirun --allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 1 -n "

static char model[600];

static const char *text_file(void) {
    char *t = pare_malloc(1 << 15, 1);
    size_t n = 0;
    for (int i = 0; n < (1 << 15) - 64; i++)
        n += (size_t)snprintf(t + n, 64, "the %s %s number %d.\n", i % 3 ? "cat" : "dog",
                              i % 2 ? "eats" : "sees", i % 10);
    const char *path = test_write("text.txt", t, n);
    pare_free(t);
    return path;
}

static bool has_mpirun(void) {
    const char *why = !pare_mpi_name()                                   ? "pare has no MPI"
                      : system("command -v mpirun >/dev/null 2>&1") != 0 ? "mpirun is not there"
                                                                         : NULL;
    if (why) printf("skipped: %s\n", why);
    return !why;
}

static int set_up(void **state) {
    (void)state;
    snprintf(model, sizeof model, "%s", tiny_model("base", NULL));
    text_file();
    return 0;
}

/* "pare train OUT ..." on so many ranks; without mpirun where it is 1. */
static program_result train(int ranks, const char *out, const char *more) {
    char start[128] = "";
    if (ranks > 1) snprintf(start, sizeof start, MPIRUN "%d ", ranks);
    return program_runf(NULL,
                        "%spare train %s --tokenizer %s --data text.txt --dim 32 --layers 2 "
                        "--heads 4 --batch 12 --ctx 16 --optim adamw:lr=1e-2 --seed 5 "
                        "--eval-windows 7 --log-every 1 %s",
                        start, out, model, more);
}

static void trained(int ranks, const char *out, const char *more) {
    test_remove(test_path(out));
    program_result r = train(ranks, out, more);
    if (r.code != 0) fail_msg("%d ranks, %s: code %d: %s", ranks, more, r.code, r.err);
    program_free(&r);
}

/* Weights and log of a trained model: its card tells the record's number too. */
static const char *bits_of(const char *out) {
    static char both[200];
    char path[700];
    snprintf(path, sizeof path, "%s/model.safetensors", test_path(out));
    snprintf(both, 80, "%s ", test_hash(path));
    snprintf(path, sizeof path, "%s/train_log.jsonl", test_path(out));
    snprintf(both + strlen(both), 80, "%s", test_hash(path));
    return both;
}

/* The losses of the log, in order; n of them at most. */
static size_t losses(const char *out, double *loss, size_t n) {
    char path[700], line[1000];
    size_t found = 0;
    snprintf(path, sizeof path, "%s/train_log.jsonl", test_path(out));
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (found < n && fgets(line, sizeof line, f)) {
        json_t *j = json_loads(line, 0, NULL);
        const json_t *l = json_object_get(j, "loss"), *v = json_object_get(j, "val_loss");
        if (json_is_number(l)) loss[found++] = json_number_value(l);
        if (json_is_number(v) && found < n) loss[found++] = json_number_value(v);
        json_decref(j);
    }
    fclose(f);
    return found;
}

/* Sums over ranks are in another order: gradients differ in their last bits, and the losses of some
 * steps by no more than this; a micro-batch that was left out or counted twice gives 1e-2. */
static void the_losses_of_one_rank(void **state) {
    (void)state;
    static const char *const cases[] = {
        "--arch llama --steps 8 --eval-every 4",
        "--arch gpt2 --steps 6 --micro-batch 2 --recompute",
        "--arch llama --steps 6 --untied --compute exact --ema 0.9"};
    if (!has_mpirun()) skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double one[32], many[32];
        trained(1, "one", cases[i]);
        size_t n = losses("one", one, 32);
        assert_true(n >= 6);
        int ranks = i == 0 ? 3 : 2;
        /* others add up in another order, which `fast` may round to bf16 */
        double bound = strstr(cases[i], "exact") ? 2e-5 : 2e-4;
        trained(ranks, "many", cases[i]);
        assert_int_equal(losses("many", many, 32), n);
        for (size_t k = 0; k < n; k++)
            if (!(fabs(one[k] - many[k]) < bound))
                fail_msg("%s: %d ranks, loss %zu: found %.8g, expected %.8g", cases[i], ranks, k,
                         many[k], one[k]);
    }
}

static void the_bits_of_one_rank(void **state) {
    (void)state;
    static const char *const cases[] = {
        "--arch llama --steps 6 --micro-batch 2 --eval-every 3",
        "--arch gpt2 --steps 5 --micro-batch 2 --recompute --best",
        "--arch llama --steps 10 --micro-batch 2 --sparsity rigl:sparsity=0.7,every=2",
        "--arch qwen3 --steps 6 --micro-batch 1 --sparsity magnitude_ste:sparsity=0.5"};
    if (!has_mpirun()) skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char options[300], one[200];
        snprintf(options, sizeof options, "%s --deterministic", cases[i]);
        trained(1, "one", options);
        snprintf(one, sizeof one, "%s", bits_of("one"));
        trained(i % 2 ? 3 : 2, "many", options);
        if (strcmp(bits_of("many"), one) != 0)
            fail_msg("%s: found another model than one rank's", cases[i]);
    }
}

#define LONG                                                                                       \
    "--arch llama --steps 400 --micro-batch 2 --deterministic --save-every 5 --log-every 50"

/* Of mpirun's process $job. */
#define KILL_RANK_1                                                                                \
    "for p in $(cat /proc/$job/task/*/children); do "                                              \
    "tr '\\0' '\\n' </proc/$p/environ | grep -qx OMPI_COMM_WORLD_RANK=1 && kill -9 $p; done; "

/* F13: one rank is killed; all end, and the same command goes on to the same bytes, with another
 * number of ranks too. */
static void a_killed_rank(void **state) {
    (void)state;
    char one[200];
    if (!has_mpirun()) skip();
    trained(1, "one", LONG);
    snprintf(one, sizeof one, "%s", bits_of("one"));
    test_remove(test_path("many"));
    program_result r = program_runf(
        NULL,
        MPIRUN
        "2 pare train many --tokenizer %s --data text.txt --dim 32 --layers 2 --heads 4 "
        "--batch 12 --ctx 16 --optim adamw:lr=1e-2 --seed 5 --eval-windows 7 " LONG " & job=$!; "
        "until ls many.work | grep -q ^checkpoint; do sleep 0.02; done 2>/dev/null; " KILL_RANK_1
        "wait $job",
        model);
    if (r.code == 0) fail_msg("a rank was killed: %s%s", r.out, r.err);
    program_free(&r);
    assert_false(pare_path_exists(test_path("many")));
    assert_true(pare_path_exists(test_path("many.work")));
    r = train(3, "many", LONG " --resume");
    if (r.code != 0) fail_msg("resumed: code %d: %s", r.code, r.err);
    program_free(&r);
    assert_string_equal(bits_of("many"), one);
}

static void stopped_and_gone_on_with_another_number(void **state) {
    (void)state;
    if (!has_mpirun()) skip();
    const char *options = "--arch llama --steps 8 --eval-every 4 --stop-at 3";
    test_remove(test_path("many"));
    program_result r = train(2, "many", options);
    assert_int_equal(r.code, 0);
    program_free(&r);
    r = train(3, "many", "--arch llama --steps 8 --eval-every 4 --resume");
    if (r.code != 0) fail_msg("%s", r.err);
    program_free(&r);
    assert_true(pare_path_exists(test_path("many")));
}

static json_t *compressed(int ranks, const char *out, const char *recipe) {
    char start[128] = "";
    if (ranks > 1) snprintf(start, sizeof start, MPIRUN "%d ", ranks);
    test_remove(test_path(out));
    program_result r = program_runf(NULL,
                                    "%spare compress %s -o %s -r '%s' --calib text.txt "
                                    "--calib-samples 7 --calib-ctx 24 --json",
                                    start, model, out, recipe);
    if (r.code != 0) fail_msg("%d ranks, %s: code %d: %s", ranks, recipe, r.code, r.err);
    json_t *j = json_loads(r.out, 0, NULL);
    program_free(&r);
    assert_non_null(j);
    return j;
}

/* Sums of statistics are in another order, which moves roundings of the Hessian's inverse: errors
 * of matrices agree within a percent; masks of wanda are the same. */
static void calibration_of_one_rank(void **state) {
    (void)state;
    static const char *const recipes[] = {"wanda:sparsity=0.5", "gptq:bits=4,group=32"};
    if (!has_mpirun()) skip();
    for (size_t i = 0; i < 2; i++) {
        char hash[65];
        json_t *one = compressed(1, "c1", recipes[i]), *a = json_object_get(one, "layers"), *layer;
        snprintf(hash, sizeof hash, "%s", test_hash(test_path("c1/model.safetensors")));
        for (int ranks = 2; ranks <= 3; ranks++) {
            json_t *many = compressed(ranks, "c2", recipes[i]),
                   *b = json_object_get(many, "layers");
            size_t k;
            assert_int_equal(json_array_size(a), json_array_size(b));
            json_array_foreach(a, k, layer) {
                double x = json_number_value(json_object_get(layer, "error")),
                       y = json_number_value(json_object_get(json_array_get(b, k), "error"));
                if (!(fabs(x - y) <= 0.01 * x))
                    fail_msg("%s: %d ranks, tensor %zu: error %g, expected %g", recipes[i], ranks,
                             k, y, x);
            }
            if (i == 0) assert_string_equal(test_hash(test_path("c2/model.safetensors")), hash);
            assert_false(pare_path_exists(test_path("c2.work")));
            json_decref(many);
        }
        json_decref(one);
    }
}

/* F13 for calibration: all end, and one process goes on from the blocks that are finished. */
static void a_killed_calibration(void **state) {
    (void)state;
    if (!has_mpirun()) skip();
    static const char rest[] = "-r wanda:sparsity=0.5 --calib text.txt --calib-samples 1500 "
                               "--calib-ctx 24 --records none";
    char hash[65];
    test_remove(test_path("c1"));
    test_remove(test_path("c2"));
    program_result r = program_runf(NULL, "pare compress %s -o c1 %s", model, rest);
    if (r.code != 0) fail_msg("code %d: %s", r.code, r.err);
    program_free(&r);
    snprintf(hash, sizeof hash, "%s", test_hash(test_path("c1/model.safetensors")));
    r = program_runf(
        NULL,
        MPIRUN "2 pare compress %s -o c2 %s & job=$!; "
               "until ls c2.work | grep -q ^unit; do sleep 0.01; done 2>/dev/null; " KILL_RANK_1
               "wait $job",
        model, rest);
    if (r.code == 0) fail_msg("a rank was killed: %s%s", r.out, r.err);
    program_free(&r);
    assert_false(pare_path_exists(test_path("c2")));
    assert_true(pare_path_exists(test_path("c2.work")));
    r = program_runf(NULL, "pare compress %s -o c2 %s", model, rest);
    if (r.code != 0) fail_msg("gone on: code %d: %s", r.code, r.err);
    program_free(&r);
    assert_string_equal(test_hash(test_path("c2/model.safetensors")), hash);
}

/* model, recipe, bits and perplexity of each run, and how many have a record. */
static json_t *sweep(int ranks, const char *name, const char *lines, size_t *n_records) {
    char start[128] = "";
    if (ranks > 1) snprintf(start, sizeof start, MPIRUN "%d ", ranks);
    char file[64];
    snprintf(file, sizeof file, "%s.txt", name);
    test_write(file, lines, strlen(lines));
    program_result r = program_runf(NULL,
                                    "%spare sweep %s -m %s -o %s --eval 'text.txt ctx=16 "
                                    "windows=2 compute=exact' --records %s.db --json --quiet",
                                    start, file, model, name, name);
    json_t *all = json_loads(r.out, 0, NULL), *kept = json_array(), *run;
    size_t i;
    if (!all) fail_msg("%d ranks: code %d: %s", ranks, r.code, r.err);
    *n_records = 0;
    json_array_foreach(json_object_get(all, "runs"), i, run) {
        *n_records += json_integer_value(json_object_get(run, "record_id")) > 0;
        json_object_del(run, "record_id");
        json_object_del(run, "out");
        json_array_append(kept, run);
    }
    json_decref(all);
    program_free(&r);
    return kept;
}

static size_t n_outputs(const char *folder) {
    char **names;
    size_t n;
    assert_int_equal(pare_folder_list(&names, &n, test_path(folder), NULL), PARE_OK);
    for (size_t i = 0; i < n; i++) pare_free(names[i]);
    pare_free(names);
    return n;
}

static void a_sweep(void **state) {
    (void)state;
    static const char lines[] =
        "format = gguf\nkeep = best\nq8_0\nq4_0\nbf16\nrtn:bits=4,group=32\nq5_0\n";
    size_t n_one, n_many;
    if (!has_mpirun()) skip();
    json_t *one = sweep(1, "swept1", lines, &n_one), *many = sweep(3, "swept3", lines, &n_many);
    assert_int_equal(json_array_size(one), 6);
    assert_true(json_equal(one, many));
    assert_int_equal(n_one, 6);
    assert_int_equal(n_many, 6);
    assert_int_equal(n_outputs("swept1"), 1);
    assert_int_equal(n_outputs("swept3"), 1);
    json_decref(many);
    many = sweep(2, "swept3", lines, &n_many); /* all there */
    size_t i;
    const json_t *run;
    json_array_foreach(many, i, run)
        assert_string_equal(json_string_value(json_object_get(run, "state")), "there");
    json_decref(one);
    json_decref(many);
}

static size_t count(const char *text, const char *part) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++) n++;
    return n;
}

static void errors_are_told_once(void **state) {
    (void)state;
    if (!has_mpirun()) skip();
    const struct {
        const char *command, *told;
    } cases[] = {
        {"pare train x --data absent.txt --from absent --steps 3", "absent"},
        {"pare train x --data text.txt --steps 3 --arch llama --dim 32 --layers 2 --heads 4 "
         "--ctx 16 --tokenizer absent",
         "absent"},
        {"pare info --cpu", "found 2 processes started together, expected one"},
        {"pare frobnicate", "unknown verb"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        program_result r = program_runf(NULL, MPIRUN "2 %s", cases[i].command);
        if (r.code == 0 || count(r.err, "pare: ") != 1 || !strstr(r.err, cases[i].told))
            fail_msg("%s: code %d: %s", cases[i].command, r.code, r.err);
        program_free(&r);
    }
    program_result r = train(2, "refused", "--arch llama --steps 3 --micro-batch 5");
    assert_int_equal(r.code, 2);
    assert_non_null(strstr(r.err, "found 12 sequences for 2 ranks with micro-batches of 5, "
                                  "expected a multiple of 10"));
    program_free(&r);
    r = program_run(NULL, MPIRUN "2 pare --version"); /* each of them prints it, or one */
    assert_int_equal(r.code, 0);
    assert_int_equal(count(r.out, "pare "), 1);
    program_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_losses_of_one_rank),
        cmocka_unit_test(the_bits_of_one_rank),
        cmocka_unit_test(a_killed_rank),
        cmocka_unit_test(a_killed_calibration),
        cmocka_unit_test(stopped_and_gone_on_with_another_number),
        cmocka_unit_test(calibration_of_one_rank),
        cmocka_unit_test(a_sweep),
        cmocka_unit_test(errors_are_told_once),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
