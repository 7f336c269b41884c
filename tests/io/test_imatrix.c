/* Importance matrices: both forms written and read back, what llama.cpp's files may hold, and every
 * bad file refused with its place. */
#include "support/gguf_build.h"
#include "support/test.h"

#include "io/imatrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void both_forms_come_back(void **state) {
    (void)state;
    static const char *const files[] = {"m.gguf", "m.dat", "m"};
    const float a[] = {8, 0, 16}, b[] = {4};
    for (size_t i = 0; i < 3; i++) {
        pare_imatrix_item items[] = {{"blk.1.b.weight", 1, b}, {"blk.0.a.weight", 3, a}};
        const pare_imatrix_origin origin = {"text.txt", 2, 4}; /* 8 tokens */
        char path[1024];
        snprintf(path, sizeof path, "%s", test_path(files[i]));
        assert_ok(pare_imatrix_write(path, items, 2, &origin, err));
        pare_imatrix m;
        assert_ok(pare_imatrix_load(&m, path, err));
        assert_int_equal(m.n_entries, 2);
        const pare_imatrix_entry *e = pare_imatrix_find(&m, "blk.0.a.weight");
        assert_non_null(e);
        assert_int_equal(e->n, 3);
        assert_true(e->squares[0] == 1 && e->squares[1] == 0 && e->squares[2] == 2);
        assert_true(pare_imatrix_find(&m, "blk.1.b.weight")->squares[0] == 0.5f);
        assert_null(pare_imatrix_find(&m, "blk.2.b.weight"));
        pare_imatrix_free(&m);
        assert_null(pare_imatrix_find(&m, "blk.0.a.weight"));
    }
}

/* ---- the legacy form, byte by byte ---- */

static void add_entry(test_bytes *b, const char *name, int32_t calls, const float *v, int32_t n) {
    tb_int(b, strlen(name), 4);
    tb_add(b, name, strlen(name));
    tb_int(b, (uint32_t)calls, 4);
    tb_int(b, (uint32_t)n, 4);
    tb_add(b, v, (size_t)n * sizeof *v);
}

static pare_status load_bytes(const test_bytes *b, pare_imatrix *m, pare_error *err) {
    return pare_imatrix_load(m, test_write("bytes", b->p, b->n), err);
}

static void legacy_files(void **state) {
    (void)state;
    const float v[] = {3, 6};
    test_bytes b = {0};
    tb_int(&b, 2, 4);
    add_entry(&b, "one", 3, v, 2);
    add_entry(&b, "none", 0, v, 2); /* without calls the values are as they are */
    size_t whole = b.n;
    pare_imatrix m;
    assert_ok(load_bytes(&b, &m, err)); /* no chunks behind */
    assert_true(pare_imatrix_find(&m, "one")->squares[1] == 2);
    assert_true(pare_imatrix_find(&m, "none")->squares[1] == 6);
    pare_imatrix_free(&m);
    tb_int(&b, 16, 4);
    tb_int(&b, 4, 4);
    tb_add(&b, "text", 4);
    assert_ok(load_bytes(&b, &m, err));
    pare_imatrix_free(&m);
    size_t end = b.n;
    for (b.n = 0; b.n < end; b.n++) { /* cut anywhere */
        if (b.n == whole) continue;
        pare_error err = {0};
        assert_int_equal(load_bytes(&b, &m, &err), PARE_ERR_INPUT);
        assert_true(err.message[0] && !m.entries);
    }
    tb_free(&b);
}

/* Nothing may stand behind the end, with or without the name of a data set. */
static void bytes_behind_the_end(void **state) {
    (void)state;
    const float v[] = {3};
    const uint32_t lengths[] = {0, 4, UINT32_MAX};
    pare_imatrix m;
    for (size_t i = 0; i < 3; i++)
        for (size_t more = 0; more < 2; more++) {
            test_bytes b = {0};
            tb_int(&b, 1, 4);
            add_entry(&b, "one", 1, v, 1);
            tb_int(&b, 16, 4);
            tb_int(&b, lengths[i], 4);
            if (lengths[i] == 4) tb_add(&b, "text", 4);
            tb_zeros(&b, more);
            if (lengths[i] <= 4 && !more) {
                assert_ok(load_bytes(&b, &m, err));
                pare_imatrix_free(&m);
            } else {
                assert_fails(load_bytes(&b, &m, err), PARE_ERR_INPUT, "byte 23, behind the last");
                assert_null(m.entries);
            }
            tb_free(&b);
        }
    test_bytes b = {0};
    tb_int(&b, 1, 4);
    add_entry(&b, "one", 1, v, 1);
    tb_zeros(&b, 1);
    assert_fails(load_bytes(&b, &m, err), PARE_ERR_INPUT, "found 1 bytes, expected the end");
    tb_free(&b);
}

static void bad_legacy_files(void **state) {
    (void)state;
    const float good[] = {1}, negative[] = {-1}, nan[] = {NAN}, inf[] = {INFINITY};
    static const struct {
        int32_t n, calls, n_values;
        const char *name, *part;
    } cases[] = {{0, 1, 1, "a", "no importance matrix"},
                 {-1, 1, 1, "a", "no importance matrix"},
                 {1 << 30, 1, 1, "a", "no importance matrix"},
                 {1, 1, 0, "abcd", "end of the file"},
                 {1, 1, -5, "abcd", "end of the file"},
                 {1, 1, 1 << 30, "abcd", "end of the file"},
                 {1, 1, 1, "", "no name"}};
    pare_imatrix m;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_bytes b = {0};
        tb_int(&b, (uint32_t)cases[i].n, 4);
        add_entry(&b, cases[i].name, cases[i].calls, good, 1);
        size_t at = 4 + 4 + strlen(cases[i].name) + 4;
        uint32_t n = (uint32_t)cases[i].n_values;
        memcpy(b.p + at, &n, 4);
        tb_zeros(&b, 8); /* behind the entries something may stand */
        assert_fails(load_bytes(&b, &m, err), PARE_ERR_INPUT, cases[i].part);
        tb_free(&b);
    }
    const float *const values[] = {negative, nan, inf};
    for (size_t i = 0; i < 3; i++) {
        test_bytes b = {0};
        tb_int(&b, 1, 4);
        add_entry(&b, "a", 1, values[i], 1);
        assert_fails(load_bytes(&b, &m, err), PARE_ERR_INPUT, "a: value 0");
        tb_free(&b);
    }
    test_bytes b = {0};
    tb_int(&b, 2, 4);
    add_entry(&b, "a", 1, good, 1);
    add_entry(&b, "a", 1, good, 1);
    assert_fails(load_bytes(&b, &m, err), PARE_ERR_INPUT, "twice");
    tb_free(&b);
    assert_fails(pare_imatrix_load(&m, test_path("absent"), err), PARE_ERR_INPUT, "absent");
    assert_fails(pare_imatrix_load(&m, test_folder(), err), PARE_ERR_INPUT, test_folder());
}

/* ---- GGUF ---- */

/* Two tensors; the bytes of both are those of `values`, written over the zeros at the end. */
static test_bytes gguf_of(const test_gguf_tensor *t, size_t n, const char *type,
                          const float *values, size_t n_values) {
    test_gguf s = test_gguf_default();
    tb_free(&s.pairs);
    s.pairs = (test_bytes){0};
    s.true_pairs = 0;
    if (type) gb_text(&s, "general.type", type);
    s.true_tensors = n;
    for (size_t i = 0; i < n; i++) s.tensors[i] = t[i];
    test_bytes b = test_gguf_build(&s);
    for (size_t i = 0; i < n_values; i++) /* one padded block of 32 bytes for each tensor */
        memcpy(b.p + b.n - 32 * n + 4 * i, &values[i], 4);
    return b;
}

static void gguf_files(void **state) {
    (void)state;
    enum { AUTO = -1 };
    /* three matrices of two inputs; the second saw nothing */
    const test_gguf_tensor experts[] = {
        {"x.in_sum2", TEST_GGUF_AUTO, 2, {2, 3}, 0, 24, TEST_GGUF_AUTO},
        {"x.counts", TEST_GGUF_AUTO, 2, {1, 3}, 0, 12, TEST_GGUF_AUTO}};
    const float values[] = {4, 8, 0, 0, 10, 20, 0, 0, /* padding */ 4, 0, 10};
    test_bytes b = gguf_of(experts, 2, "imatrix", values, 11);
    pare_imatrix m;
    assert_ok(load_bytes(&b, &m, err));
    const float expected[] = {1, 2, 1, 1, 1, 2};
    assert_int_equal(m.n_entries, 1);
    assert_int_equal(m.entries[0].n, 6);
    assert_memory_equal(m.entries[0].squares, expected, sizeof expected);
    pare_imatrix_free(&m);
    tb_free(&b);

    static const struct {
        test_gguf_tensor t[2];
        size_t n;
        const char *type, *part;
    } cases[] = {
        {{{"x.in_sum2", TEST_GGUF_AUTO, 2, {2, 3}, 0, 24, TEST_GGUF_AUTO}}, 1, "imatrix", "counts"},
        {{{"x.in_sum2", TEST_GGUF_AUTO, 2, {2, 3}, 0, 24, TEST_GGUF_AUTO},
          {"x.counts", TEST_GGUF_AUTO, 2, {1, 2}, 0, 8, TEST_GGUF_AUTO}},
         2,
         "imatrix",
         "counts"},
        {{{"x.in_sum2", TEST_GGUF_AUTO, 2, {2, 3}, 1, 12, TEST_GGUF_AUTO},
          {"x.counts", TEST_GGUF_AUTO, 2, {1, 3}, 0, 12, TEST_GGUF_AUTO}},
         2,
         "imatrix",
         "f32"},
        {{{"x.weight", TEST_GGUF_AUTO, 2, {2, 3}, 0, 24, TEST_GGUF_AUTO}}, 1, NULL, "no entries"},
        {{{"x.weight", TEST_GGUF_AUTO, 2, {2, 3}, 0, 24, TEST_GGUF_AUTO}},
         1,
         "model",
         "expected imatrix"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        b = gguf_of(cases[i].t, cases[i].n, cases[i].type, NULL, 0);
        assert_fails(load_bytes(&b, &m, err), PARE_ERR_INPUT, cases[i].part);
        tb_free(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_come_back), cmocka_unit_test(legacy_files),
        cmocka_unit_test(bytes_behind_the_end), cmocka_unit_test(bad_legacy_files),
        cmocka_unit_test(gguf_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
