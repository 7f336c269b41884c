/* The GGUF and safetensors writers: what they write, our readers read back; nothing stands under
 * the name before the end; misuse is refused. */
#include "support/test.h"

#include "io/ggml_types.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/safetensors_writer.h"
#include "support/gguf_build.h"

#include <stdlib.h>
#include <sys/stat.h>

/* Byte i of tensor t. */
static uint8_t pattern(size_t t, size_t i) { return (uint8_t)(t * 37 + i * 11 + 1); }

static uint8_t *pattern_bytes(size_t t, size_t n) {
    uint8_t *p = malloc(n ? n : 1);
    for (size_t i = 0; i < n; i++) p[i] = pattern(t, i);
    return p;
}

static void check_pattern(const pare_file *file, uint64_t offset, size_t n, size_t t) {
    uint8_t *p = malloc(n ? n : 1);
    assert_ok(pare_file_read_at(file, p, n, offset, err));
    for (size_t i = 0; i < n; i++)
        if (p[i] != pattern(t, i)) fail_msg("tensor %zu, byte %zu: found %u", t, i, p[i]);
    free(p);
}

static uint8_t *whole_file(const char *path, size_t *n) {
    char *data;
    assert_ok(pare_file_read_all(&data, n, path, (size_t)1 << 30, err));
    return (uint8_t *)data;
}

/* --- GGUF --- */

static const struct {
    const char *name;
    uint32_t type;
    size_t n_dims, dims[4], n_bytes;
} gguf_tensors[] = {
    {"a.weight", PARE_GGML_F32, 2, {2, 4}, 32}, {"b.weight", PARE_GGML_Q4_0, 2, {3, 64}, 108},
    {"c.bias", PARE_GGML_F16, 1, {5}, 10},      {"empty", PARE_GGML_F32, 2, {0, 8}, 0},
    {"scalar", PARE_GGML_F32, 0, {0}, 4},       {"four", PARE_GGML_I8, 4, {2, 1, 3, 2}, 12},
};
enum { N_GGUF = sizeof gguf_tensors / sizeof gguf_tensors[0] };

static pare_gguf_writer *gguf_writer(const char *path, uint64_t split) {
    pare_gguf_writer *w;
    assert_ok(pare_gguf_writer_create(&w, path, split, err));
    assert_ok(pare_gguf_set_str(w, "general.architecture", "llama", err));
    for (size_t i = 0; i < N_GGUF; i++)
        assert_ok(pare_gguf_declare(w, gguf_tensors[i].name, gguf_tensors[i].type,
                                    gguf_tensors[i].dims, gguf_tensors[i].n_dims, err));
    return w;
}

/* In pieces, and not in file order. */
static void gguf_write_all(pare_gguf_writer *w) {
    for (size_t piece = 0; piece < 2; piece++)
        for (size_t i = N_GGUF; i-- > 0;) {
            size_t n = gguf_tensors[i].n_bytes, half = n / 3;
            uint8_t *p = pattern_bytes(i, n);
            if (piece == 0)
                assert_ok(pare_gguf_write(w, i, p, half, err));
            else
                assert_ok(pare_gguf_write(w, i, p + half, n - half, err));
            free(p);
        }
}

static void gguf_check(const pare_gguf *g) {
    assert_int_equal(pare_gguf_n_tensors(g), N_GGUF);
    assert_int_equal(pare_gguf_n_warnings(g), 0);
    for (size_t i = 0; i < N_GGUF; i++) {
        const pare_gguf_tensor *t = pare_gguf_tensor_at(g, i);
        size_t n_dims, dims[4];
        pare_gguf_shape(t, &n_dims, dims);
        assert_string_equal(t->name, gguf_tensors[i].name);
        assert_int_equal(t->type, gguf_tensors[i].type);
        assert_int_equal(n_dims, gguf_tensors[i].n_dims);
        for (size_t d = 0; d < n_dims; d++) assert_int_equal(dims[d], gguf_tensors[i].dims[d]);
        assert_int_equal(t->n_bytes, gguf_tensors[i].n_bytes);
        check_pattern(pare_gguf_file(g, t->file), t->offset, t->n_bytes, i);
    }
}

static void gguf_round_trip(void **state) {
    (void)state;
    const char *path = test_path("round.gguf");
    pare_gguf_writer *w = gguf_writer(path, 0);
    assert_int_equal(pare_gguf_declared_bytes(w), 32 + 108 + 10 + 4 + 12);
    assert_ok(pare_gguf_begin(w, err));
    gguf_write_all(w);
    assert_false(pare_path_exists(path));
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);
    pare_gguf *g;
    assert_ok(pare_gguf_open(&g, path, err));
    gguf_check(g);
    /* padded to 32 to the end */
    assert_int_equal(pare_gguf_file(g, 0)->size % 32, 0);
    pare_gguf_close(g);
}

/* Padding is zeros, and the bytes are those of the tests' own builder. */
static void gguf_bytes_are_the_builders(void **state) {
    (void)state;
    test_gguf s = test_gguf_default();
    test_gguf_all_types(&s);
    test_bytes expected = test_gguf_build(&s);
    pare_gguf *g;
    assert_ok(pare_gguf_open_memory(&g, expected.p, expected.n, "x.gguf", err));
    const char *path = test_path("copy.gguf");
    pare_gguf_writer *w;
    assert_ok(pare_gguf_writer_create(&w, path, 0, err));
    assert_ok(pare_gguf_copy(w, g, NULL, 0, err));
    uint8_t zeros[128] = {0};
    for (size_t i = 0; i < pare_gguf_n_tensors(g); i++) {
        const pare_gguf_tensor *t = pare_gguf_tensor_at(g, i);
        size_t n_dims, dims[4];
        pare_gguf_shape(t, &n_dims, dims);
        assert_ok(pare_gguf_declare(w, t->name, t->type, dims, n_dims, err));
    }
    assert_ok(pare_gguf_begin(w, err));
    for (size_t i = 0; i < pare_gguf_n_tensors(g); i++)
        assert_ok(pare_gguf_write(w, i, zeros, pare_gguf_tensor_at(g, i)->n_bytes, err));
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);
    pare_gguf_close(g);
    size_t n;
    uint8_t *found = whole_file(path, &n);
    assert_int_equal(n, expected.n);
    assert_memory_equal(found, expected.p, n);
    pare_free(found);
    tb_free(&expected);
}

static void gguf_keys(void **state) {
    (void)state;
    test_gguf s = test_gguf_default();
    test_gguf_all_types(&s);
    gb_int(&s, "general.alignment", 4, 32, 4);
    gb_int(&s, "split.count", 2, 1, 2);
    test_bytes bytes = test_gguf_build(&s);
    pare_gguf *from, *g;
    assert_ok(pare_gguf_open_memory(&from, bytes.p, bytes.n, "x.gguf", err));
    const char *path = test_path("keys.gguf");
    static const char *const except[] = {"t.u8", "general.*"};
    pare_gguf_writer *w;
    assert_ok(pare_gguf_writer_create(&w, path, 0, err));
    assert_ok(pare_gguf_copy(w, from, except, 2, err));
    pare_gguf_close(from);
    tb_free(&bytes);
    assert_ok(pare_gguf_set_u32(w, "t.u32", 5, err)); /* replaces, also the type */
    assert_ok(pare_gguf_set_f32(w, "t.string", 2.5f, err));
    assert_ok(pare_gguf_set_u16(w, "n.u16", 7, err));
    assert_ok(pare_gguf_set_i32(w, "n.i32", -7, err));
    assert_ok(pare_gguf_set_u64(w, "n.u64", (uint64_t)1 << 50, err));
    assert_ok(pare_gguf_set_bool(w, "n.bool", true, err));
    assert_ok(pare_gguf_set_f32s(w, "n.f32s", (float[]){1, 2}, 2, err));
    assert_ok(pare_gguf_set_i32s(w, "n.i32s", (int32_t[]){-1, 2, 3}, 3, err));
    assert_ok(pare_gguf_set_u32s(w, "n.u32s", (uint32_t[]){UINT32_MAX}, 1, err));
    assert_ok(pare_gguf_set_strings(w, "n.strings", (pare_span[]){{"a\0b", 3}, {"", 0}}, 2, err));
    assert_ok(pare_gguf_set_strings(w, "n.none", NULL, 0, err));
    assert_fails(pare_gguf_set_u32(w, "", 1, err), PARE_ERR_ARG, "no valid key");
    assert_fails(pare_gguf_set_u32(w, "a\n", 1, err), PARE_ERR_ARG, "no valid key");
    assert_fails(pare_gguf_set_u32(w, "general.alignment", 64, err), PARE_ERR_ARG, "writer itself");
    assert_fails(pare_gguf_set_u32(w, "split.no", 1, err), PARE_ERR_ARG, "writer itself");
    assert_ok(pare_gguf_begin(w, err));
    assert_fails(pare_gguf_set_u32(w, "late", 1, err), PARE_ERR_ARG, "after begin");
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);

    assert_ok(pare_gguf_open(&g, path, err));
    assert_false(pare_gguf_has(g, "t.u8"));
    assert_true(pare_gguf_has(g, "t.u8s"));
    assert_false(pare_gguf_has(g, "general.architecture"));
    assert_false(pare_gguf_has(g, "split.count"));
    uint32_t u = 0, *us;
    int32_t i = 0, *is;
    uint64_t v = 0;
    float f = 0, *fs;
    bool b = false;
    size_t n;
    pare_span *strings;
    assert_ok(pare_gguf_u32(g, "t.u32", PARE_REQUIRED, 5, 5, &u, err));
    assert_ok(pare_gguf_f32(g, "t.string", PARE_REQUIRED, 2.5f, 2.5f, &f, err));
    assert_ok(pare_gguf_u32(g, "n.u16", PARE_REQUIRED, 7, 7, &u, err));
    assert_ok(pare_gguf_i32(g, "n.i32", PARE_REQUIRED, -7, -7, &i, err));
    assert_ok(pare_gguf_u64(g, "n.u64", PARE_REQUIRED, (uint64_t)1 << 50, UINT64_MAX, &v, err));
    assert_ok(pare_gguf_bool(g, "n.bool", PARE_REQUIRED, &b, err));
    assert_true(b);
    assert_ok(pare_gguf_f32s(g, "n.f32s", PARE_REQUIRED, &fs, &n, err));
    assert_true(n == 2 && fs[1] == 2);
    assert_ok(pare_gguf_i32s(g, "n.i32s", PARE_REQUIRED, &is, &n, err));
    assert_true(n == 3 && is[0] == -1);
    assert_ok(pare_gguf_u32s(g, "n.u32s", PARE_REQUIRED, &us, &n, err));
    assert_true(n == 1 && us[0] == UINT32_MAX);
    assert_ok(pare_gguf_strings(g, "n.strings", PARE_REQUIRED, &strings, &n, err));
    assert_true(n == 2 && strings[0].n == 3 && memcmp(strings[0].s, "a\0b", 3) == 0);
    pare_free(fs);
    pare_free(is);
    pare_free(us);
    pare_free(strings);
    pare_gguf_close(g);
}

static void gguf_split(void **state) {
    (void)state;
    /* parts of at most 108 bytes of tensors: [a], [b], [c, empty, scalar, four] */
    const char *path = test_path("split.gguf");
    pare_gguf_writer *w = gguf_writer(path, 108);
    assert_ok(pare_gguf_begin(w, err));
    assert_int_equal(pare_gguf_writer_n_files(w), 3);
    char *first = pare_gguf_writer_file(w, 0);
    assert_non_null(strstr(first, "split-00001-of-00003.gguf"));
    gguf_write_all(w);
    assert_false(pare_path_exists(first));
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);
    assert_false(pare_path_exists(path));
    pare_gguf *g;
    assert_ok(pare_gguf_open(&g, first, err));
    assert_int_equal(pare_gguf_n_files(g), 3);
    gguf_check(g);
    const char *arch;
    assert_ok(pare_gguf_str(g, "general.architecture", PARE_REQUIRED, &arch, err));
    pare_gguf_close(g);
    pare_free(first);
    /* one part is enough: the plain name */
    w = gguf_writer(path, 1 << 20);
    assert_ok(pare_gguf_begin(w, err));
    gguf_write_all(w);
    assert_ok(pare_gguf_finish(w, err));
    pare_gguf_writer_free(w);
    assert_ok(pare_gguf_open(&g, path, err));
    assert_false(pare_gguf_has(g, "split.count"));
    gguf_check(g);
    pare_gguf_close(g);
}

static void gguf_misuse(void **state) {
    (void)state;
    const char *path = test_path("misuse.gguf");
    size_t dims[5] = {3, 33, 1, 1, 1}, huge[2] = {(size_t)1 << 40, (size_t)1 << 40};
    pare_gguf_writer *w = gguf_writer(path, 0);
    assert_fails(pare_gguf_declare(w, "a.weight", 0, dims, 2, err), PARE_ERR_ARG, "declared twice");
    assert_fails(pare_gguf_declare(w, "x", 2, dims, 2, err), PARE_ERR_ARG, "multiple of 32 (q4_0)");
    assert_fails(pare_gguf_declare(w, "x", 4, dims, 2, err), PARE_ERR_ARG, "retired");
    assert_fails(pare_gguf_declare(w, "x", 0, dims, 5, err), PARE_ERR_ARG, "found 5 dimensions");
    assert_fails(pare_gguf_declare(w, "x", 0, huge, 2, err), PARE_ERR_ARG, "overflows");
    assert_fails(pare_gguf_declare(w, "", 0, dims, 2, err), PARE_ERR_ARG, "name of 0 bytes");
    assert_fails(pare_gguf_write(w, 0, "", 0, err), PARE_ERR_ARG, "not open");
    assert_fails(pare_gguf_finish(w, err), PARE_ERR_ARG, "without begin");
    assert_ok(pare_gguf_begin(w, err));
    assert_fails(pare_gguf_begin(w, err), PARE_ERR_ARG, "twice");
    uint8_t bytes[64] = {0};
    assert_fails(pare_gguf_write(w, 0, bytes, 33, err), PARE_ERR_ARG,
                 "tensor a.weight: found 33 bytes more, expected at most 32");
    assert_fails(pare_gguf_write(w, N_GGUF, bytes, 1, err), PARE_ERR_ARG, "not open");
    gguf_write_all(w);
    assert_fails(pare_gguf_write(w, 0, bytes, 1, err), PARE_ERR_ARG, "at most 0");
    pare_gguf_writer_free(w); /* without finish: nothing stays */
    w = gguf_writer(path, 0);
    assert_ok(pare_gguf_begin(w, err));
    assert_fails(pare_gguf_finish(w, err), PARE_ERR_ARG, "tensor a.weight: found 0 bytes");
    pare_gguf_writer_free(w);
    pare_gguf_writer_free(NULL);
    char **names;
    size_t n;
    assert_ok(pare_folder_list(&names, &n, test_folder(), err));
    for (size_t i = 0; i < n; i++) {
        assert_null(strstr(names[i], "misuse"));
        pare_free(names[i]);
    }
    pare_free(names);
    w = gguf_writer(test_path("no/such/folder.gguf"), 0);
    assert_fails(pare_gguf_begin(w, err), PARE_ERR_INPUT, "no/such/folder.gguf");
    pare_gguf_writer_free(w);
}

static void gguf_too_many_parts(void **state) {
    (void)state;
    for (size_t n = 512; n <= 513; n++) {
        pare_gguf_writer *w;
        assert_ok(pare_gguf_writer_create(&w, test_path("parts.gguf"), 1, err));
        for (size_t i = 0; i < n; i++) {
            char name[24];
            snprintf(name, sizeof name, "t%zu", i);
            assert_ok(pare_gguf_declare(w, name, PARE_GGML_I8, (size_t[]){2}, 1, err));
        }
        if (n == 513) assert_fails(pare_gguf_begin(w, err), PARE_ERR_ARG, "found 513 parts of 1");
        pare_gguf_writer_free(w);
    }
    pare_gguf_writer *w;
    size_t large[1] = {INT64_MAX};
    assert_ok(pare_gguf_writer_create(&w, test_path("large.gguf"), 0, err));
    assert_ok(pare_gguf_declare(w, "a", PARE_GGML_I8, large, 1, err));
    assert_ok(pare_gguf_declare(w, "b", PARE_GGML_I8, large, 1, err));
    assert_fails(pare_gguf_begin(w, err), PARE_ERR_ARG, "total size that overflows");
    pare_gguf_writer_free(w);
}

/* A folder took the first part's name meanwhile: its rename fails, and the others vanish again. */
static void gguf_failing_commit(void **state) {
    (void)state;
    pare_gguf_writer *w = gguf_writer(test_path("late.gguf"), 108);
    assert_ok(pare_gguf_begin(w, err));
    gguf_write_all(w);
    assert_int_equal(mkdir(test_path("late-00001-of-00003.gguf"), 0700), 0);
    assert_fails(pare_gguf_finish(w, err), PARE_ERR_IO, "late-00001-of-00003.gguf: rename");
    pare_gguf_writer_free(w);
    assert_false(pare_path_exists(test_path("late-00002-of-00003.gguf")));
    assert_false(pare_path_exists(test_path("late-00003-of-00003.gguf")));
}

/* --- safetensors --- */

static const struct {
    const char *name, *dtype;
    size_t n_dims, dims[4], n_bytes;
} st_tensors[] = {
    {"z.weight", "BF16", 2, {3, 4}, 24}, {"b \"q\" \xC3\xA9", "U8", 1, {5}, 5},
    {"a.weight", "F32", 2, {2, 2}, 16},  {"c", "BF16", 1, {3}, 6},
    {"empty", "I64", 2, {2, 0}, 0},      {"scalar", "F64", 0, {0}, 8},
    {"half", "F4", 1, {6}, 3},
};
enum { N_ST = sizeof st_tensors / sizeof st_tensors[0] };

static void st_check(const char *path, size_t n_files) {
    pare_st *s;
    assert_ok(pare_st_open(&s, path, err));
    assert_int_equal(pare_st_n_files(s), n_files);
    assert_int_equal(pare_st_n_tensors(s), N_ST);
    assert_int_equal(pare_st_n_warnings(s), 0);
    assert_string_equal(pare_st_metadata(s, "format"), "pt");
    assert_string_equal(pare_st_metadata(s, "note"), "two\n\"lines\"");
    assert_null(pare_st_metadata(s, "none"));
    for (size_t i = 0; i < N_ST; i++) {
        const pare_st_tensor *t = pare_st_find(s, st_tensors[i].name);
        assert_non_null(t);
        assert_string_equal(t->dtype->name, st_tensors[i].dtype);
        assert_int_equal(t->n_dims, st_tensors[i].n_dims);
        for (size_t d = 0; d < t->n_dims; d++) assert_int_equal(t->dims[d], st_tensors[i].dims[d]);
        assert_int_equal(t->n_bytes, st_tensors[i].n_bytes);
        check_pattern(pare_st_file(s, t->file), t->offset, t->n_bytes, i);
    }
    pare_st_close(s);
}

static pare_st_writer *st_declared(const char *path, uint64_t shard) {
    pare_st_writer *w;
    assert_ok(pare_st_writer_create(&w, path, shard, err));
    assert_ok(pare_st_set_metadata(w, "note", "old", err));
    assert_ok(pare_st_set_metadata(w, "note", "two\n\"lines\"", err));
    for (size_t i = 0; i < N_ST; i++) {
        size_t number = 99;
        assert_ok(pare_st_declare(w, st_tensors[i].name, st_tensors[i].dtype, st_tensors[i].dims,
                                  st_tensors[i].n_dims, &number, err));
        assert_int_equal(number, i);
    }
    return w;
}

static void st_write_all(pare_st_writer *w) {
    for (size_t piece = 0; piece < 2; piece++)
        for (size_t i = N_ST; i-- > 0;) {
            size_t n = st_tensors[i].n_bytes, half = n / 3;
            uint8_t *p = pattern_bytes(i, n);
            if (piece == 0)
                assert_ok(pare_st_write(w, i, p, half, err));
            else
                assert_ok(pare_st_write(w, i, p + half, n - half, err));
            free(p);
        }
}

static void st_declared_sizes(void **state) {
    (void)state;
    const char *path = test_path("declared.safetensors");
    pare_st_writer *w = st_declared(path, 0);
    assert_int_equal(pare_st_writer_bytes(w), 62);
    assert_ok(pare_st_begin(w, err));
    st_write_all(w);
    assert_false(pare_path_exists(path));
    assert_ok(pare_st_finish(w, err));
    pare_st_writer_free(w);
    st_check(path, 1);
    /* the reference writer's order: widest first, then by name */
    static const char *const order[] = {"empty",    "scalar",           "a.weight", "c",
                                        "z.weight", "b \"q\" \xC3\xA9", "half"};
    pare_st *s;
    assert_ok(pare_st_open(&s, path, err));
    for (size_t i = 0; i < N_ST; i++) assert_string_equal(pare_st_tensor_at(s, i)->name, order[i]);
    assert_int_equal(pare_st_tensor_at(s, 0)->offset % 8, 0);
    pare_st_close(s);
}

static void st_expected_sizes(void **state) {
    (void)state;
    const char *path = test_path("expected.safetensors");
    pare_st_writer *w;
    assert_ok(pare_st_writer_create(&w, path, 0, err));
    assert_ok(pare_st_set_metadata(w, "note", "two\n\"lines\"", err));
    for (size_t i = 0; i < N_ST; i++) assert_ok(pare_st_expect(w, st_tensors[i].name, err));
    assert_fails(pare_st_declare(w, "d", "U8", NULL, 0, NULL, err), PARE_ERR_ARG, "expect");
    assert_fails(pare_st_append(w, "d", "U8", NULL, 0, NULL, err), PARE_ERR_ARG, "not open");
    assert_ok(pare_st_begin(w, err));
    for (size_t i = 0; i < N_ST; i++) {
        size_t number, n = st_tensors[i].n_bytes;
        assert_ok(pare_st_append(w, st_tensors[i].name, st_tensors[i].dtype, st_tensors[i].dims,
                                 st_tensors[i].n_dims, &number, err));
        assert_int_equal(number, i);
        uint8_t *p = pattern_bytes(i, n);
        assert_ok(pare_st_write(w, i, p, n / 2, err));
        if (n / 2 < n)
            assert_fails(pare_st_append(w, "early", "U8", NULL, 0, NULL, err), PARE_ERR_ARG,
                         "bytes, expected");
        assert_ok(pare_st_write(w, i, p + n / 2, n - n / 2, err));
        free(p);
    }
    assert_ok(pare_st_finish(w, err));
    pare_st_writer_free(w);
    st_check(path, 1);
    pare_st *s; /* in the order in which they came */
    assert_ok(pare_st_open(&s, path, err));
    assert_string_equal(pare_st_tensor_at(s, 0)->name, "z.weight");
    assert_string_equal(pare_st_tensor_at(s, N_ST - 1)->name, "half");
    pare_st_close(s);

    /* fewer tensors than expected, and none at all */
    for (size_t n = 0; n < 2; n++) {
        assert_ok(pare_st_writer_create(&w, path, 0, err));
        assert_ok(pare_st_expect(w, "a", err));
        assert_ok(pare_st_expect(w, "b", err));
        assert_ok(pare_st_begin(w, err));
        if (n) {
            assert_ok(pare_st_append(w, "b", "U8", (size_t[]){2}, 1, NULL, err));
            assert_ok(pare_st_write(w, 0, "xy", 2, err));
        }
        assert_ok(pare_st_finish(w, err));
        pare_st_writer_free(w);
        assert_ok(pare_st_open(&s, path, err));
        assert_int_equal(pare_st_n_tensors(s), n);
        pare_st_close(s);
    }
    /* more than the room reserved: refused, the old file stays */
    assert_ok(pare_st_writer_create(&w, path, 0, err));
    assert_ok(pare_st_expect(w, "a", err));
    assert_ok(pare_st_begin(w, err));
    for (size_t i = 0; i < 10; i++) {
        char name[24];
        snprintf(name, sizeof name, "t%zu", i);
        assert_ok(pare_st_append(w, name, "U8", (size_t[]){1}, 1, NULL, err));
        assert_ok(pare_st_write(w, i, "x", 1, err));
    }
    assert_fails(pare_st_finish(w, err), PARE_ERR_ARG, "reserved");
    pare_st_writer_free(w);
    assert_ok(pare_st_open(&s, path, err));
    assert_int_equal(pare_st_n_tensors(s), 1);
    pare_st_close(s);
}

static void st_shards(void **state) {
    (void)state;
    char *folder;
    const char *target = test_path("sharded");
    assert_ok(pare_folder_begin(&folder, target, err));
    char *path = pare_path_join(folder, "model.safetensors");
    pare_st_writer *w = st_declared(path, 24); /* [z], [b a], [c empty scalar half] */
    assert_ok(pare_st_begin(w, err));
    st_write_all(w);
    assert_ok(pare_st_finish(w, err));
    pare_st_writer_free(w);
    assert_ok(pare_folder_commit(folder, target, err));
    st_check(target, 3);
    assert_true(pare_path_exists(test_path("sharded/model-00002-of-00003.safetensors")));
    assert_false(pare_path_exists(test_path("sharded/model.safetensors")));
    pare_json j;
    size_t total = 0;
    assert_ok(
        pare_json_load(&j, test_path("sharded/model.safetensors.index.json"), 1 << 20, 0, err));
    assert_ok(pare_json_size(&j, "metadata.total_size", PARE_REQUIRED, 62, 62, &total, err));
    pare_json_free(&j);
    pare_free(folder);
    pare_free(path);

    /* sizes that show late */
    target = test_path("sharded2");
    assert_ok(pare_folder_begin(&folder, target, err));
    path = pare_path_join(folder, "model.safetensors");
    assert_ok(pare_st_writer_create(&w, path, 24, err));
    assert_ok(pare_st_set_metadata(w, "note", "two\n\"lines\"", err));
    for (size_t i = 0; i < N_ST; i++) assert_ok(pare_st_expect(w, st_tensors[i].name, err));
    assert_ok(pare_st_begin(w, err));
    for (size_t i = 0; i < N_ST; i++) {
        uint8_t *p = pattern_bytes(i, st_tensors[i].n_bytes);
        assert_ok(pare_st_append(w, st_tensors[i].name, st_tensors[i].dtype, st_tensors[i].dims,
                                 st_tensors[i].n_dims, NULL, err));
        assert_ok(pare_st_write(w, i, p, st_tensors[i].n_bytes, err));
        free(p);
    }
    assert_ok(pare_st_finish(w, err));
    pare_st_writer_free(w);
    assert_ok(pare_folder_commit(folder, target, err));
    st_check(target, 3);
    pare_free(folder);
    pare_free(path);
    /* all in one shard: the plain name, no index */
    w = st_declared(test_path("one.safetensors"), 1 << 20);
    assert_ok(pare_st_begin(w, err));
    st_write_all(w);
    assert_ok(pare_st_finish(w, err));
    pare_st_writer_free(w);
    st_check(test_path("one.safetensors"), 1);
    assert_false(pare_path_exists(test_path("one.safetensors.index.json")));
}

static void st_failing_commit(void **state) {
    (void)state;
    pare_st_writer *w = st_declared(test_path("late.safetensors"), 24);
    assert_ok(pare_st_begin(w, err));
    st_write_all(w);
    assert_int_equal(mkdir(test_path("late-00003-of-00003.safetensors"), 0700), 0);
    assert_fails(pare_st_finish(w, err), PARE_ERR_IO, "late-00003-of-00003.safetensors: rename");
    pare_st_writer_free(w);
    assert_false(pare_path_exists(test_path("late-00001-of-00003.safetensors")));
    assert_false(pare_path_exists(test_path("late.safetensors.index.json")));
}

static void st_limits(void **state) {
    (void)state;
    pare_st_writer *w;
    size_t large[1] = {(size_t)1 << 60};
    assert_ok(pare_st_writer_create(&w, test_path("large.safetensors"), 0, err));
    for (size_t i = 0; i < 9; i++) {
        char name[24];
        snprintf(name, sizeof name, "t%zu", i);
        assert_ok(pare_st_declare(w, name, "U8", large, 1, NULL, err));
    }
    assert_fails(pare_st_begin(w, err), PARE_ERR_ARG, "total size that overflows");
    pare_st_writer_free(w);
    /* names for a header of more than 100 MB */
    assert_ok(pare_st_writer_create(&w, test_path("large.safetensors"), 0, err));
    char name[4097];
    memset(name, 'n', 4096);
    name[4096] = '\0';
    for (size_t i = 0; i < 24000; i++) assert_ok(pare_st_expect(w, name, err));
    assert_fails(pare_st_begin(w, err), PARE_ERR_ARG, "bytes, expected at most 100000000");
    pare_st_writer_free(w);
}

static void st_misuse(void **state) {
    (void)state;
    const char *path = test_path("wrong.safetensors");
    size_t odd[1] = {3}, huge[2] = {(size_t)1 << 40, (size_t)1 << 40}, nine[9] = {1};
    pare_st_writer *w = st_declared(path, 0);
    assert_fails(pare_st_declare(w, "c", "U8", odd, 1, NULL, err), PARE_ERR_ARG, "twice");
    assert_fails(pare_st_declare(w, "x", "u8", odd, 1, NULL, err), PARE_ERR_ARG, "dtype u8");
    assert_fails(pare_st_declare(w, "x", "F4", odd, 1, NULL, err), PARE_ERR_ARG, "whole bytes");
    assert_fails(pare_st_declare(w, "x", "U8", huge, 2, NULL, err), PARE_ERR_ARG, "fit 64 bits");
    assert_fails(pare_st_declare(w, "x", "U8", nine, 9, NULL, err), PARE_ERR_ARG, "9 dimensions");
    assert_fails(pare_st_declare(w, "", "U8", odd, 1, NULL, err), PARE_ERR_ARG, "no valid name");
    assert_fails(pare_st_declare(w, "a\n", "U8", odd, 1, NULL, err), PARE_ERR_ARG, "no valid name");
    assert_fails(pare_st_declare(w, "__metadata__", "U8", odd, 1, NULL, err), PARE_ERR_ARG, "name");
    assert_fails(pare_st_set_metadata(w, "k", "\xFF", err), PARE_ERR_ARG, "UTF-8");
    assert_fails(pare_st_expect(w, "y", err), PARE_ERR_ARG, "declare");
    assert_fails(pare_st_write(w, 0, "", 0, err), PARE_ERR_ARG, "not open");
    assert_fails(pare_st_finish(w, err), PARE_ERR_ARG, "without begin");
    assert_ok(pare_st_begin(w, err));
    assert_fails(pare_st_begin(w, err), PARE_ERR_ARG, "twice");
    assert_fails(pare_st_append(w, "x", "U8", odd, 1, NULL, err), PARE_ERR_ARG, "not open");
    uint8_t bytes[32] = {0};
    assert_fails(pare_st_write(w, 0, bytes, 25, err), PARE_ERR_ARG, "expected at most 24");
    assert_fails(pare_st_finish(w, err), PARE_ERR_ARG, "tensor z.weight: found 0 bytes");
    pare_st_writer_free(w);
    pare_st_writer_free(NULL);
    assert_false(pare_path_exists(path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_round_trip),     cmocka_unit_test(gguf_bytes_are_the_builders),
        cmocka_unit_test(gguf_keys),           cmocka_unit_test(gguf_split),
        cmocka_unit_test(gguf_misuse),         cmocka_unit_test(st_declared_sizes),
        cmocka_unit_test(st_expected_sizes),   cmocka_unit_test(st_shards),
        cmocka_unit_test(st_misuse),           cmocka_unit_test(gguf_too_many_parts),
        cmocka_unit_test(gguf_failing_commit), cmocka_unit_test(st_failing_commit),
        cmocka_unit_test(st_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
