/* Sweeps: their files, the product, skipping what is there, failures that stop nothing else. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/os.h"
#include "pare/study.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pare_status parse(pare_sweep **s, const char *text, pare_error *err) {
    return pare_sweep_parse(s, text, strlen(text), "s.txt", NULL, 0, err);
}

static void file(void **state) {
    (void)state;
    pare_sweep *s;
    assert_ok(parse(&s,
                    "# two models\r\n"
                    "model = a b/m.gguf\nmodel=n   # the other\n\n"
                    " recipe = magnitude:sparsity=0.6 + q8_0 \n"
                    "q4_k_m\n"
                    "magnitude:sparsity=2:4\n"
                    "eval = my text.raw protocol=llama.cpp ctx=512 windows=10 against=yes\n"
                    "eval = x=y.txt\n"
                    "speed = decode=8 prefill=16\n"
                    "out = o",
                    err));
    assert_int_equal(pare_sweep_n_runs(s), 2 * 4 * 3);
    const pare_sweep_run *r = pare_sweep_run_at(s, 0);
    assert_string_equal(r->model, "a b/m.gguf");
    assert_string_equal(r->recipe, "");
    assert_null(r->out);
    assert_string_equal(r->eval, "my text.raw llama.cpp-512 10 windows against dense");
    assert_string_equal(pare_sweep_run_at(s, 1)->eval, "x=y.txt hf");
    assert_string_equal(pare_sweep_run_at(s, 2)->eval, "speed decode=8 prefill=16");
    r = pare_sweep_run_at(s, 3);
    assert_string_equal(r->recipe, "magnitude:sparsity=0.6 + q8_0");
    assert_non_null(strstr(r->out, "o/m-magnitude-sparsity-0.6-q8_0-"));
    for (size_t i = 0; i < 24; i++)
        for (size_t k = 0; k < i; k++) {
            const pare_sweep_run *a = pare_sweep_run_at(s, i), *b = pare_sweep_run_at(s, k);
            if (i / 3 != k / 3 && a->out && b->out) assert_string_not_equal(a->out, b->out);
        }
    pare_sweep_free(s);
}

static void bad_files(void **state) {
    (void)state;
    const struct {
        const char *text, *told;
    } cases[] = {
        {"", "found no model"},
        {"model = m\nq8_0\neval = t", "found no out"},
        {"model = m\neval = t\nout = o", "found no recipe"},
        {"modle = m", "line 1: found key 'modle', expected one of model"},
        {"\nmodel =", "line 2: model: found nothing"},
        {"q4_k_x", "line 1"},
        {"recipe = magnitude:sparsity=2", "line 1"},
        {"magnitude:sparsty=0.5", "line 1"},
        {"recipe = +", "line 1"},
        {"q8_0\nrecipe = q8_0", "line 2: found recipe 'q8_0' a second time"},
        {"model = a\nmodel = a", "a second time"},
        {"eval = t ctx=x", "ctx: found 'x', expected a whole number"},
        {"eval = t ctx=-1", "ctx: found '-1'"},
        {"eval = t ctx=99999999999999999999", "ctx: found"},
        {"eval = t protocol=hg", "protocol: found 'hg', expected hf|llama.cpp"},
        {"eval = t cxt=5", "found setting 'cxt', expected one of protocol, ctx"},
        {"speed = fast", "speed: found 'fast'"},
        {"speed = decode=0", "decode: found '0'"},
        {"keep = some", "found 'some', expected none|best|all"},
        {"format = exe", "expected hf|gguf"},
        {"dense = maybe", "expected no|yes"},
        {"out = a\nout = b", "found out a second time"},
        {"calib = c\ncalib = d", "found calib a second time"},
        {"calib = c samples=0", "samples: found '0'"},
        {"tasks = piqa,pika", "tasks: found 'pika', which is not known"},
        {"tasks = piqa,", "tasks: found ''"},
        {"tasks = piqa, piqa", "tasks: found 'piqa' a second time"},
        {"data = a\ndata = b", "found data a second time"},
        {"model = m\nq8_0\nout = o\ntasks = piqa", "expected 'data = FOLDER'"},
        {"model = \xFF", "no UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_sweep *s;
        assert_fails(parse(&s, cases[i].text, err), PARE_ERR_INPUT, cases[i].told);
        assert_null(s);
    }
    pare_sweep *s;
    const char *const more[] = {"model = m", "keep = x"};
    assert_fails(pare_sweep_parse(&s, "q8_0", 4, "s.txt", more, 2, err), PARE_ERR_INPUT,
                 "options: line 2: found 'x'");
}

/* --- runs --- */

static void write_text(void) {
    char text[8192];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + (i * i + i / 7) % 26);
    test_write("text", text, sizeof text);
}

static int make_models(void **state) {
    (void)state;
    tiny_model("one", NULL);
    tiny_model("two", &(tiny_options){.seed = 5});
    write_text();
    return 0;
}

/* A sweep of both models; recipes: lines. The caller frees it. */
static pare_sweep *sweep(const char *recipes, const char *more) {
    char text[4096];
    snprintf(
        text, sizeof text, "model = %s\nmodel = %s\n%s\neval = %s ctx=64 windows=2\nout = %s\n%s",
        test_path("one"), test_path("two"), recipes, test_path("text"), test_path("outs"), more);
    pare_sweep *s = NULL;
    assert_ok(parse(&s, text, err));
    return s;
}

typedef struct seen {
    size_t n, n_state[4], n_warnings;
    volatile sig_atomic_t cancel;
    size_t cancel_after;
} seen;

static void on_warning(void *arg, const char *line) {
    (void)line;
    ((seen *)arg)->n_warnings++;
}

static void on_run(void *arg, const pare_sweep_run *run, size_t n_done, size_t n_runs) {
    seen *s = arg;
    s->n++;
    s->n_state[run->state]++;
    assert_int_equal(n_done, s->n);
    assert_true(n_done <= n_runs);
    if (s->n == s->cancel_after) s->cancel = 1;
}

static pare_status run(pare_sweep *s, pare_records *db, seen *seen, int jobs, pare_error *err) {
    pare_sweep_options o = {.runtime = pare_options_default(),
                            .records = db,
                            .jobs = jobs,
                            .on_run = on_run,
                            .arg = seen};
    o.runtime.n_threads = 2;
    o.runtime.cancel = &seen->cancel;
    o.runtime.warn = on_warning;
    o.runtime.callback_arg = seen;
    return pare_sweep_run_all(s, &o, err);
}

static pare_records *open_new(const char *name) {
    pare_records *db;
    assert_ok(pare_records_open(&db, test_path(name), true, err));
    return db;
}

static size_t count_outputs(void) {
    char **names;
    size_t n = 0;
    assert_ok(pare_folder_list(&names, &n, test_path("outs"), err));
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
    return n;
}

/* All runs, then none again, then only the new ones. */
static void resumes(void **state) {
    (void)state;
    pare_records *db = open_new("resume.db");
    pare_sweep *s = sweep("q8_0\nmagnitude + q8_0", "format = gguf");
    seen all = {0};
    assert_ok(run(s, db, &all, 1, err));
    assert_int_equal(all.n_state[PARE_RUN_DONE], 6);
    double ppl = pare_sweep_run_at(s, 1)->ppl;
    assert_true(ppl > 1 && pare_sweep_run_at(s, 1)->bits_per_weight < 9.5);
    pare_sweep_free(s);
    assert_int_equal(count_outputs(), 0); /* keep = none */

    s = sweep("q8_0\nmagnitude + q8_0\nq4_0", "format = gguf\nkeep = all");
    seen again = {0};
    assert_ok(run(s, db, &again, 1, err));
    assert_int_equal(again.n_state[PARE_RUN_THERE], 6);
    assert_int_equal(again.n_state[PARE_RUN_DONE], 2);
    assert_true(pare_sweep_run_at(s, 1)->ppl == ppl);
    assert_int_equal(pare_sweep_run_at(s, 1)->record, 2);
    pare_sweep_free(s);
    assert_int_equal(count_outputs(), 2);

    pare_record_list list;
    pare_record_query q = {.details = true};
    assert_ok(pare_records_list(&list, db, &q, err));
    assert_int_equal(list.n, 8);
    const pare_record *newest = list.items[0];
    assert_string_equal(newest->verb, "sweep");
    assert_string_equal(newest->recipe, "q4_0");
    assert_int_equal(strlen(newest->out_sha256), 64);
    assert_int_equal(strlen(newest->run_key), 64);
    assert_true(newest->n_layers > 10 && newest->ppl > 1 && newest->seconds >= 0);
    pare_record_list_free(&list);

    /* another text, another seed, another model: other runs */
    FILE *f = fopen(test_path("text"), "ab");
    fputs("more", f);
    fclose(f);
    s = sweep("q8_0", "dense = no");
    seen changed = {0};
    assert_ok(run(s, db, &changed, 1, err));
    assert_int_equal(changed.n_state[PARE_RUN_DONE], 2);
    pare_sweep_free(s);
    write_text();
    pare_records_close(db);
}

static void interrupted(void **state) {
    (void)state;
    pare_records *db = open_new("interrupt.db");
    pare_sweep *s = sweep("q8_0\nq4_0", "");
    seen first = {.cancel_after = 2};
    assert_fails(run(s, db, &first, 1, err), PARE_ERR_INTERRUPTED, "interrupted");
    assert_int_equal(first.n_state[PARE_RUN_DONE], 2);
    pare_sweep_free(s);
    s = sweep("q8_0\nq4_0", "");
    seen second = {0};
    assert_ok(run(s, db, &second, 1, err));
    assert_int_equal(second.n_state[PARE_RUN_THERE], 2);
    assert_int_equal(second.n_state[PARE_RUN_DONE], 4);
    pare_sweep_free(s);
    pare_records_close(db);
}

/* A recipe that a container cannot hold fails; its record says why; the next time it is tried
 * again. */
static void failures(void **state) {
    (void)state;
    pare_records *db = open_new("failures.db");
    for (int turn = 0; turn < 2; turn++) {
        pare_sweep *s = sweep("magnitude + bitmap_q8\nq8_0", "format = gguf\ndense = no");
        seen seen = {0};
        assert_ok(run(s, db, &seen, 1, err));
        assert_int_equal(seen.n_state[PARE_RUN_FAILED], 2);
        assert_int_equal(seen.n_state[turn ? PARE_RUN_THERE : PARE_RUN_DONE], 2);
        assert_non_null(pare_sweep_run_at(s, 0)->message);
        pare_sweep_free(s);
    }
    const char *filter[] = {"status=failed"};
    pare_record_list list;
    pare_record_query q = {filter, 1, 0, false};
    assert_ok(pare_records_list(&list, db, &q, err));
    assert_int_equal(list.n, 4);
    assert_string_equal(list.items[0]->recipe, "magnitude + bitmap_q8");
    assert_non_null(list.items[0]->message);
    pare_record_list_free(&list);
    pare_records_close(db);
}

/* Several at once give the same numbers; without a database nothing is skipped. */
static void jobs(void **state) {
    (void)state;
    const char *recipes = "q8_0\nq4_0\nq5_0\nmagnitude + q8_0";
    pare_sweep *a = sweep(recipes, "keep = best"), *b = sweep(recipes, "");
    pare_records *db = open_new("jobs.db");
    seen one = {0}, three = {0};
    assert_ok(run(a, NULL, &one, 1, err));
    assert_ok(run(b, db, &three, 3, err));
    assert_int_equal(one.n, 10);
    assert_int_equal(three.n_state[PARE_RUN_DONE], 10);
    for (size_t i = 0; i < 10; i++)
        assert_true(pare_sweep_run_at(a, i)->ppl == pare_sweep_run_at(b, i)->ppl);
    pare_sweep_free(a);
    pare_sweep_free(b);
    pare_records_close(db);
}

/* With keep = best one output of each model stays: that with the least perplexity. */
static void best(void **state) {
    (void)state;
    pare_sweep *s = sweep("q2_k\nq8_0\nmagnitude:sparsity=0.9", "keep = best");
    seen seen = {0};
    assert_ok(run(s, NULL, &seen, 1, err));
    for (size_t m = 0; m < 2; m++) {
        size_t least = 4 * m + 1;
        for (size_t i = 4 * m + 1; i < 4 * m + 4; i++)
            if (pare_sweep_run_at(s, i)->ppl < pare_sweep_run_at(s, least)->ppl) least = i;
        for (size_t i = 4 * m + 1; i < 4 * m + 4; i++)
            assert_int_equal(pare_path_is_folder(pare_sweep_run_at(s, i)->out), i == least);
    }
    pare_sweep_free(s);
}

/* Recipes that measure inputs get the calibration text, and their records name it; others do not,
 * of which nobody is warned. */
static void calibrated(void **state) {
    (void)state;
    pare_records *db = open_new("calib.db");
    char more[1200];
    snprintf(more, sizeof more, "dense = no\ncalib = %s samples=2 ctx=32", test_path("text"));
    pare_sweep *s = sweep("gptq:bits=4,group=32\nbf16", more);
    seen seen = {0};
    assert_ok(run(s, db, &seen, 1, err));
    for (size_t i = 0; i < 4; i++)
        if (pare_sweep_run_at(s, i)->message) fail_msg("%s", pare_sweep_run_at(s, i)->message);
    assert_int_equal(seen.n_state[PARE_RUN_DONE], 4);
    assert_int_equal(seen.n_warnings, 0);
    pare_record_list list;
    assert_ok(pare_records_list(&list, db, NULL, err));
    for (size_t i = 0; i < 4; i++) {
        bool plain = strcmp(list.items[i]->recipe, "bf16") == 0;
        assert_int_equal(list.items[i]->calib_samples, plain ? 0 : 2);
        assert_int_equal(list.items[i]->calib_sha256 != NULL, !plain);
    }
    pare_record_list_free(&list);
    pare_sweep_free(s);
    pare_records_close(db);
}

/* Tasks: their accuracies are in the record; files that are not there are told before any work. */
static void tasks(void **state) {
    (void)state;
    const char *data = test_data("tasks");
    if (!data) skip();
    pare_records *db = open_new("tasks.db");
    char more[1200];
    snprintf(more, sizeof more, "dense = no\ntasks = copa, rte limit=3\ndata = %s", data);
    pare_sweep *s = sweep("q8_0", more);
    seen seen = {0};
    assert_ok(run(s, db, &seen, 1, err));
    assert_int_equal(seen.n_state[PARE_RUN_DONE], 4);
    pare_sweep_free(s);
    pare_record_list list;
    pare_record_query q = {.details = true};
    assert_ok(pare_records_list(&list, db, &q, err));
    assert_int_equal(list.items[0]->n_tasks, 2);
    assert_string_equal(list.items[0]->tasks[1].name, "rte");
    assert_int_equal(list.items[0]->tasks[1].n, 3);
    assert_int_equal(list.items[1]->n_tasks, 0);
    pare_record_list_free(&list);
    pare_records_close(db);
    s = sweep("q8_0", "tasks = copa\ndata = absent");
    assert_fails(run(s, NULL, &seen, 1, err), PARE_ERR_INPUT, "absent");
    pare_sweep_free(s);
}

static void missing_inputs(void **state) {
    (void)state;
    pare_sweep *s;
    seen seen = {0};
    char text[1000];
    snprintf(text, sizeof text, "model = %s\nq8_0\neval = %s\nout = %s", test_path("absent"),
             test_path("text"), test_path("never"));
    assert_ok(parse(&s, text, err));
    assert_fails(run(s, NULL, &seen, 1, err), PARE_ERR_INPUT, "absent");
    assert_int_equal(seen.n, 0);
    pare_sweep_free(s);
    snprintf(text, sizeof text, "model = %s\nq8_0\neval = %s\nout = %s", test_path("one"),
             test_path("absent"), test_path("never"));
    assert_ok(parse(&s, text, err));
    assert_fails(run(s, NULL, &seen, 1, err), PARE_ERR_INPUT, "absent");
    assert_fails(run(s, NULL, &seen, 65, err), PARE_ERR_ARG, "65 jobs");
    assert_false(pare_path_exists(test_path("never")));
    pare_sweep_free(s);
}

/* --- the verb --- */

static void verb(void **state) {
    (void)state;
    const char recipes[] = "q8_0 # eight bits\nmagnitude + bitmap_q8\n";
    test_write("recipes.txt", recipes, sizeof recipes - 1);
    const char *command = "pare sweep recipes.txt -m one -o kept --keep all --eval 'text ctx=64 "
                          "windows=2 against=yes' --speed decode=4 --records sweep.db";
    char line[400];
    snprintf(line, sizeof line, "%s --dry-run", command);
    json_t *o = program_json(NULL, line);
    json_t *runs = json_object_get(o, "runs");
    assert_int_equal(json_array_size(runs), 6);
    json_t *r = json_array_get(runs, 2);
    assert_string_equal(json_string_value(json_object_get(r, "state")), "waiting");
    assert_true(json_integer_value(json_object_get(r, "out_bytes")) > 0);
    assert_false(pare_path_exists(test_path("kept")));
    json_decref(o);

    o = program_json(NULL, command);
    runs = json_object_get(o, "runs");
    for (size_t i = 0; i < 6; i++) {
        r = json_array_get(runs, i);
        assert_string_equal(json_string_value(json_object_get(r, "state")), "done");
        assert_int_equal(json_integer_value(json_object_get(r, "record_id")), i + 1);
    }
    json_decref(o);
    o = program_json(NULL, "pare records show 3 --records sweep.db");
    r = json_array_get(json_object_get(o, "records"), 0);
    assert_true(json_real_value(json_object_get(r, "kl_mean")) >= 0);
    json_decref(o);
    o = program_json(NULL, "pare records show 4 --records sweep.db");
    r = json_array_get(json_object_get(o, "records"), 0);
    assert_true(json_real_value(json_object_get(r, "decode_tokens_per_s")) > 0);
    json_decref(o);
    program_result again = program_run(NULL, command);
    assert_int_equal(again.code, 0);
    assert_non_null(
        strstr(again.err, "[6/6] one magnitude + bitmap_q8, speed decode=4 prefill=0: there"));
    program_free(&again);

    snprintf(line, sizeof line, "%s --format gguf", command);
    program_result failing = program_run(NULL, line);
    assert_int_equal(failing.code, 1);
    assert_non_null(strstr(failing.err, "2 of 6 runs failed"));
    assert_non_null(strstr(failing.out, "failed"));
    program_free(&failing);
    program_refuses("pare sweep recipes.txt -m one -o x", "found no eval");
    program_refuses("pare sweep recipes.txt -m one -o x --eval text --keep some", "options: line");
    program_refuses("pare sweep absent.txt", "absent.txt");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file),           cmocka_unit_test(bad_files),  cmocka_unit_test(resumes),
        cmocka_unit_test(interrupted),    cmocka_unit_test(failures),   cmocka_unit_test(jobs),
        cmocka_unit_test(best),           cmocka_unit_test(calibrated), cmocka_unit_test(tasks),
        cmocka_unit_test(missing_inputs), cmocka_unit_test(verb),
    };
    return cmocka_run_group_tests(tests, make_models, NULL);
}
