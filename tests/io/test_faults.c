/* Allocation faults (robustness row F5) over the readers and writers: the k-th allocation fails,
 * once and from then on, for every k. Always: no crash, no leak, a clear status, nothing under an
 * output's name. */
#include "support/alloc_faults.h"

#if !FAULTS
#include <stdio.h>

int main(void) {
    printf("skipped: the allocator cannot be replaced here\n");
    return 77;
}
#else

#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/safetensors_writer.h"
#include "support/gguf_build.h"
#include "support/st_build.h"

#include <sys/stat.h>

/* Runs a scenario for every k, both ways. It returns the status of its first failure and cleans up.
 * json: jansson is in it, which now and then takes a failed allocation for a wrong character. */
static void inject(pare_status (*scenario)(pare_error *err), const char *output, bool json) {
    for (int mode = 0; mode < 2; mode++) {
        for (long k = 1;; k++) {
            pare_error err = {0};
            persistent = mode;
            fail_at = k;
            count = live = 0;
            armed = true;
            pare_status st = scenario(&err);
            armed = false;
            if (live != 0) fail_msg("allocation %ld: %ld blocks leak", k, live);
            if (st == PARE_OK) {
                if (persistent && count >= k) fail_msg("allocation %ld failed without a trace", k);
                if (output) assert_true(pare_path_exists(output));
                if (count < k) break;
                /* what was not there for looking after leftovers is no failure */
                if (output) pare_path_remove(output);
                continue;
            }
            if ((st != PARE_ERR_NOMEM && !(json && st == PARE_ERR_INPUT)) || err.status != st ||
                !err.message[0])
                fail_msg("allocation %ld: found %s \"%s\"", k, pare_status_name(st), err.message);
            if (output && pare_path_exists(output))
                fail_msg("allocation %ld: %s exists", k, output);
            assert_true(k < 100000);
        }
        if (output) pare_path_remove(output);
    }
}

static const char *gguf_first, *st_folder, *json_file, *output;

static pare_status read_gguf(pare_error *err) {
    pare_gguf *g;
    pare_status st = pare_gguf_open(&g, gguf_first, err);
    if (st != PARE_OK) return st;
    pare_span *strings = NULL;
    float *f = NULL;
    int32_t *i = NULL;
    size_t n;
    st = pare_gguf_strings(g, "t.strings", PARE_REQUIRED, &strings, &n, err);
    if (st == PARE_OK) st = pare_gguf_f32s(g, "t.f32s", PARE_REQUIRED, &f, &n, err);
    if (st == PARE_OK) st = pare_gguf_i32s(g, "t.i32s", PARE_REQUIRED, &i, &n, err);
    pare_free(strings);
    pare_free(f);
    pare_free(i);
    pare_gguf_close(g);
    return st;
}

static pare_status read_folder(pare_error *err) {
    pare_st *s;
    pare_status st = pare_st_open(&s, st_folder, err);
    if (st == PARE_OK) pare_st_close(s);
    return st;
}

static pare_status read_json(pare_error *err) {
    pare_json j, part = {0};
    pare_status st = pare_json_load(&j, json_file, 4096, 0, err);
    if (st == PARE_OK) st = pare_json_part(&part, &j, "a", PARE_REQUIRED, err);
    pare_json_free(&part);
    pare_json_free(&j);
    return st;
}

static pare_status write_gguf(pare_error *err) {
    pare_gguf_writer *w;
    size_t dims[2] = {2, 4};
    pare_status st = pare_gguf_writer_create(&w, output, 0, err);
    if (st != PARE_OK) return st;
    st = pare_gguf_set_str(w, "a", "text", err);
    if (st == PARE_OK) st = pare_gguf_set_f32s(w, "b", (float[]){1, 2}, 2, err);
    if (st == PARE_OK) st = pare_gguf_set_strings(w, "a", (pare_span[]){{"x", 1}}, 1, err);
    if (st == PARE_OK) st = pare_gguf_declare(w, "t", 0, dims, 2, err);
    if (st == PARE_OK) st = pare_gguf_declare(w, "u", 24, dims, 1, err);
    if (st == PARE_OK) st = pare_gguf_begin(w, err);
    if (st == PARE_OK) st = pare_gguf_write(w, 0, (uint8_t[32]){0}, 32, err);
    if (st == PARE_OK) st = pare_gguf_write(w, 1, (uint8_t[2]){0}, 2, err);
    if (st == PARE_OK) st = pare_gguf_finish(w, err);
    pare_gguf_writer_free(w);
    return st;
}

static pare_status write_st(pare_error *err) {
    pare_st_writer *w;
    size_t dims[2] = {2, 4};
    pare_status st = pare_st_writer_create(&w, output, 0, err);
    if (st != PARE_OK) return st;
    st = pare_st_set_metadata(w, "note", "x", err);
    if (st == PARE_OK) st = pare_st_declare(w, "t", "F32", dims, 2, NULL, err);
    if (st == PARE_OK) st = pare_st_begin(w, err);
    if (st == PARE_OK) st = pare_st_write(w, 0, (uint8_t[32]){0}, 32, err);
    if (st == PARE_OK) st = pare_st_finish(w, err);
    pare_st_writer_free(w);
    return st;
}

static pare_status write_shards(pare_error *err) {
    pare_st_writer *w;
    size_t dims[2] = {2, 4}, t;
    pare_status st = pare_st_writer_create(&w, test_path("s.safetensors"), 32, err);
    if (st != PARE_OK) return st;
    st = pare_st_expect(w, "t", err);
    if (st == PARE_OK) st = pare_st_expect(w, "u", err);
    if (st == PARE_OK) st = pare_st_begin(w, err);
    for (int i = 0; i < 2 && st == PARE_OK; i++) {
        st = pare_st_append(w, i ? "t" : "u", "F32", dims, 2, &t, err);
        if (st == PARE_OK) st = pare_st_write(w, t, (uint8_t[32]){0}, 32, err);
    }
    if (st == PARE_OK) st = pare_st_finish(w, err);
    pare_st_writer_free(w);
    if (st != PARE_OK && (pare_path_exists(test_path("s-00001-of-00002.safetensors")) ||
                          pare_path_exists(test_path("s-00002-of-00002.safetensors"))))
        return pare_fail(err, PARE_ERR_INTERNAL, "a shard stays");
    for (int i = 1; i <= 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "s-%05d-of-00002.safetensors", i);
        pare_path_remove(test_path(name));
    }
    pare_path_remove(test_path("s.safetensors.index.json"));
    return st;
}

static void gguf_part(unsigned no) {
    test_gguf s = test_gguf_default();
    test_gguf_all_types(&s);
    gb_int(&s, "split.no", 2, no, 2);
    gb_int(&s, "split.count", 2, 2, 2);
    s.true_tensors = 1;
    s.tensors[0].name = no ? "x" : "y";
    s.extra = no; /* one warning */
    test_bytes b = test_gguf_build(&s);
    char name[64];
    snprintf(name, sizeof name, "m-%05u-of-00002.gguf", no + 1);
    test_write(name, b.p, b.n);
    tb_free(&b);
}

static void faults_in_readers(void **state) {
    (void)state;
    static char paths[3][600];
    gguf_part(0);
    gguf_part(1);
    snprintf(paths[0], sizeof paths[0], "%s", test_path("m-00001-of-00002.gguf"));
    gguf_first = paths[0];
    inject(read_gguf, NULL, false);

    snprintf(paths[1], sizeof paths[1], "%s", test_path("d"));
    st_folder = paths[1];
    assert_int_equal(mkdir(st_folder, 0700), 0);
    test_bytes b = test_st_build(TEST_ST_HEADER, strlen(TEST_ST_HEADER), TEST_ST_DATA);
    test_write("d/p.safetensors", b.p, b.n);
    inject(read_folder, NULL, false); /* the only file */
    static const char map[] = "{\"weight_map\":{\"a.weight\":\"p.safetensors\",\"b\":"
                              "\"p.safetensors\",\"empty\":\"p.safetensors\",\"scalar\":"
                              "\"p.safetensors\",\"half\":\"p.safetensors\"}}";
    test_write("d/model.safetensors.index.json", map, strlen(map));
    inject(read_folder, NULL, true);
    tb_free(&b);

    static const char text[] = "{\"a\": {\"b\": [1, 2.5, \"x\", null]}, \"c\": \"\\u00e9\"}";
    snprintf(paths[2], sizeof paths[2], "%s", test_write("x.json", text, strlen(text)));
    json_file = paths[2];
    inject(read_json, NULL, true);
}

static void faults_in_writers(void **state) {
    (void)state;
    static char path[600];
    snprintf(path, sizeof path, "%s", test_path("out.bin"));
    output = path;
    inject(write_gguf, output, false);
    inject(write_st, output, false);
    inject(write_shards, NULL, false);
    char **names;
    size_t n;
    assert_ok(pare_folder_list(&names, &n, test_folder(), err));
    for (size_t i = 0; i < n; i++) {
        assert_null(strstr(names[i], ".tmp-"));
        pare_free(names[i]);
    }
    pare_free(names);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_in_readers),
        cmocka_unit_test(faults_in_writers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
