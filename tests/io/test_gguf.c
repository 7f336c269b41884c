/* The GGUF reader against the refusal catalogue (robustness rows G1-G21): each guard on both sides
 * of its limit, each message asserted. */
#include "support/test.h"

#include "io/ggml_types.h"
#include "io/gguf.h"
#include "support/gguf_build.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

/* Builds, opens from memory, frees the bytes: the reader must not need them. */
static pare_status open_spec(pare_gguf **g, test_gguf *s, pare_error *err) {
    test_bytes file = test_gguf_build(s);
    pare_status st = pare_gguf_open_memory(g, file.p, file.n, "x.gguf", err);
    tb_free(&file);
    return st;
}

static void accept(test_gguf *s) {
    pare_gguf *g = NULL;
    assert_ok(open_spec(&g, s, err));
    pare_gguf_close(g);
}

static void refuse(test_gguf *s, const char *message) {
    pare_gguf *g = NULL;
    pare_error err = {0};
    pare_status st = open_spec(&g, s, &err);
    if ((st != PARE_ERR_INPUT && st != PARE_ERR_UNSUPPORTED) || g ||
        !strstr(err.message, message) || strncmp(err.message, "x.gguf: ", 8) != 0)
        fail_msg("found %s \"%s\", expected \"%s\"", pare_status_name(st), err.message, message);
}

static pare_gguf *all_types(void) {
    test_gguf s = test_gguf_default();
    test_gguf_all_types(&s);
    pare_gguf *g = NULL;
    assert_ok(open_spec(&g, &s, err));
    return g;
}

/* --- what a good file gives --- */

static void reads_tensors(void **state) {
    (void)state;
    test_gguf s = test_gguf_default();
    test_bytes file = test_gguf_build(&s);
    file.p[file.n - 64] = 0x5A; /* the first byte of c.bias: 10 bytes, then padding */
    file.p[file.n - 32] = 0xA5;
    const char *path = test_write("good.gguf", file.p, file.n);
    pare_gguf *g;
    assert_ok(pare_gguf_open(&g, path, err));
    assert_int_equal(pare_gguf_version(g), 3);
    assert_int_equal(pare_gguf_alignment(g), 32);
    assert_int_equal(pare_gguf_n_files(g), 1);
    assert_int_equal(pare_gguf_n_warnings(g), 0);
    assert_int_equal(pare_gguf_n_tensors(g), 3);
    assert_string_equal(pare_gguf_path(g), path);
    const pare_gguf_tensor *b = pare_gguf_find(g, "b.weight"), *c = pare_gguf_tensor_at(g, 2);
    assert_ptr_equal(b, pare_gguf_tensor_at(g, 1));
    assert_null(pare_gguf_find(g, "b.weigh"));
    assert_null(pare_gguf_find(g, ""));
    assert_int_equal(b->n_bytes, 108);
    assert_int_equal(b->n_elements, 192);
    size_t n_dims, dims[4];
    pare_gguf_shape(b, &n_dims, dims);
    assert_int_equal(n_dims, 2);
    assert_int_equal(dims[0], 3);
    assert_int_equal(dims[1], 64);
    assert_int_equal(dims[2], 1);
    assert_string_equal(c->name, "c.bias");
    assert_int_equal(c->offset, file.n - 32);
    uint8_t first = 0;
    assert_ok(pare_file_read_at(pare_gguf_file(g, c->file), &first, 1, c->offset, err));
    assert_int_equal(first, 0xA5);
    pare_gguf_close(g);
    pare_gguf_close(NULL);
    tb_free(&file);
}

static void reads_scalars(void **state) {
    (void)state;
    pare_gguf *g = all_types();
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"t.u8", 200},   {"t.i8", -5},      {"t.u16", 60000},
                {"t.i16", -300}, {"t.i32", -70000}, {"llama.block_count", 2}};
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        int32_t v = 0, exact = (int32_t)ints[i].value;
        assert_ok(pare_gguf_i32(g, ints[i].key, PARE_REQUIRED, exact, exact, &v, err));
        assert_int_equal(v, exact);
        assert_fails(pare_gguf_i32(g, ints[i].key, PARE_REQUIRED, exact + 1, INT32_MAX, &v, err),
                     PARE_ERR_INPUT, "expected");
        assert_fails(pare_gguf_i32(g, ints[i].key, PARE_REQUIRED, INT32_MIN, exact - 1, &v, err),
                     PARE_ERR_INPUT, ints[i].key);
    }
    uint32_t u = 0;
    uint64_t w = 0;
    size_t n = 0;
    int32_t i = 0;
    assert_ok(pare_gguf_u32(g, "t.u32", PARE_REQUIRED, 0, UINT32_MAX, &u, err));
    assert_true(u == 4000000000u);
    assert_ok(pare_gguf_u64(g, "t.u64", PARE_REQUIRED, 0, UINT64_MAX, &w, err));
    assert_true(w == (uint64_t)1 << 40);
    assert_ok(pare_gguf_size(g, "t.u16", PARE_REQUIRED, 0, 60000, &n, err));
    assert_int_equal(n, 60000);
    assert_fails(pare_gguf_i32(g, "t.u32", PARE_REQUIRED, INT32_MIN, INT32_MAX, &i, err),
                 PARE_ERR_INPUT, "found 4000000000, expected -2147483648 to 2147483647");
    assert_fails(pare_gguf_i32(g, "t.i64", PARE_REQUIRED, INT32_MIN, INT32_MAX, &i, err),
                 PARE_ERR_INPUT, "found -1099511627776");
    assert_fails(pare_gguf_u32(g, "t.u64", PARE_REQUIRED, 0, UINT32_MAX, &u, err), PARE_ERR_INPUT,
                 "found 1099511627776");
    assert_fails(pare_gguf_u32(g, "t.i8", PARE_REQUIRED, 0, 5, &u, err), PARE_ERR_INPUT,
                 "x.gguf: key t.i8: found -5, expected 0 to 5");
    float f = 0;
    bool b = false;
    const char *text = NULL;
    assert_ok(pare_gguf_f32(g, "t.f32", PARE_REQUIRED, 0, 2, &f, err));
    assert_true(f == 1.5f);
    assert_ok(pare_gguf_f32(g, "t.f64", PARE_REQUIRED, -3, 0, &f, err));
    assert_true(f == -2.25f);
    assert_ok(pare_gguf_f32(g, "t.f32", PARE_REQUIRED, 1.5f, 1.5f, &f, err));
    assert_fails(pare_gguf_f32(g, "t.f32", PARE_REQUIRED, 0, 1.4f, &f, err), PARE_ERR_INPUT,
                 "found 1.5, expected 0 to 1.4");
    assert_fails(pare_gguf_f32(g, "t.f32", PARE_REQUIRED, 1.6f, 2, &f, err), PARE_ERR_INPUT,
                 "found 1.5, expected 1.6 to 2");
    assert_ok(pare_gguf_bool(g, "t.bool", PARE_REQUIRED, &b, err));
    assert_true(b);
    assert_ok(pare_gguf_str(g, "t.string", PARE_REQUIRED, &text, err));
    assert_string_equal(text, "text");
    pare_gguf_close(g);
}

static void reads_arrays(void **state) {
    (void)state;
    pare_gguf *g = all_types();
    pare_span *strings;
    float *f;
    int32_t *i;
    uint32_t *u, each[3];
    size_t n;
    assert_ok(pare_gguf_strings(g, "t.strings", PARE_REQUIRED, &strings, &n, err));
    assert_int_equal(n, 3);
    assert_int_equal(strings[0].n, 0);
    assert_memory_equal(strings[1].s, "b\0c", 3);
    assert_int_equal(strings[2].n, 4);
    pare_free(strings);
    assert_ok(pare_gguf_f32s(g, "t.f32s", PARE_REQUIRED, &f, &n, err));
    assert_true(n == 2 && f[0] == 0.5f && f[1] == -1.0f);
    pare_free(f);
    assert_ok(pare_gguf_i32s(g, "t.i32s", PARE_REQUIRED, &i, &n, err));
    assert_true(n == 3 && i[0] == 1 && i[1] == -2 && i[2] == 3);
    pare_free(i);
    assert_ok(pare_gguf_u32s(g, "t.u8s", PARE_REQUIRED, &u, &n, err));
    assert_true(n == 2 && u[0] == 1 && u[1] == 2);
    pare_free(u);
    assert_ok(pare_gguf_u32s(g, "t.empty", PARE_REQUIRED, &u, &n, err));
    assert_true(n == 0 && u != NULL);
    pare_free(u);
    assert_fails(pare_gguf_u32s(g, "t.i32s", PARE_REQUIRED, &u, &n, err), PARE_ERR_INPUT,
                 "key t.i32s, item 1: found -2");
    assert_null(u);
    assert_fails(pare_gguf_strings(g, "t.i32s", PARE_REQUIRED, &strings, &n, err), PARE_ERR_INPUT,
                 "found an array of i32, expected an array of strings");
    /* G9: scores as u8 items of the right count */
    assert_fails(pare_gguf_f32s(g, "t.u8s", PARE_REQUIRED, &f, &n, err), PARE_ERR_INPUT,
                 "found an array of u8, expected an array of f32");
    assert_fails(pare_gguf_i32s(g, "t.f32s", PARE_REQUIRED, &i, &n, err), PARE_ERR_INPUT,
                 "expected an array of integers");
    assert_fails(pare_gguf_f32s(g, "t.f32", PARE_REQUIRED, &f, &n, err), PARE_ERR_INPUT,
                 "found a value of type f32, expected an array of f32");
    assert_ok(pare_gguf_u32_each(g, "t.u8", PARE_REQUIRED, 0, 200, each, 3, err));
    assert_true(each[0] == 200 && each[2] == 200);
    assert_ok(pare_gguf_u32_each(g, "t.u8s", PARE_REQUIRED, 1, 2, each, 2, err));
    assert_true(each[0] == 1 && each[1] == 2);
    assert_fails(pare_gguf_u32_each(g, "t.u8s", PARE_REQUIRED, 1, 2, each, 3, err), PARE_ERR_INPUT,
                 "found 2 items, expected 3");
    assert_fails(pare_gguf_u32_each(g, "t.u8s", PARE_REQUIRED, 2, 2, each, 2, err), PARE_ERR_INPUT,
                 "item 0: found 1, expected 2");
    pare_gguf_close(g);
}

static void tells_absent_from_wrong(void **state) {
    (void)state;
    pare_gguf *g = all_types();
    uint32_t u = 7;
    float f = 7, *fs = &f;
    bool b = true;
    const char *text = "default";
    size_t n = 7;
    assert_true(pare_gguf_has(g, "t.u8"));
    assert_false(pare_gguf_has(g, "t.u"));
    assert_string_equal(pare_gguf_type_name(PARE_GGUF_F64), "f64");
    assert_string_equal(pare_gguf_type_name(13), "?");
    assert_int_equal(pare_gguf_type_bytes(13), 0);
    assert_ok(pare_gguf_u32(g, "none", PARE_OPTIONAL, 0, 1, &u, err));
    assert_ok(pare_gguf_f32(g, "none", PARE_OPTIONAL, 0, 1, &f, err));
    assert_ok(pare_gguf_bool(g, "none", PARE_OPTIONAL, &b, err));
    assert_ok(pare_gguf_str(g, "none", PARE_OPTIONAL, &text, err));
    assert_true(u == 7 && f == 7 && b && strcmp(text, "default") == 0);
    assert_ok(pare_gguf_f32s(g, "none", PARE_OPTIONAL, &fs, &n, err));
    assert_true(!fs && n == 0);
    assert_fails(pare_gguf_u32(g, "none", PARE_REQUIRED, 0, 1, &u, err), PARE_ERR_INPUT,
                 "x.gguf: key none: found none, expected an integer");
    assert_fails(pare_gguf_f32s(g, "none", PARE_REQUIRED, &fs, &n, err), PARE_ERR_INPUT,
                 "expected an array of f32");
    /* a wrong type is an error also where the key is optional */
    assert_fails(pare_gguf_u32(g, "t.string", PARE_OPTIONAL, 0, 1, &u, err), PARE_ERR_INPUT,
                 "found a value of type string, expected an integer");
    assert_fails(pare_gguf_u32(g, "t.f32", PARE_OPTIONAL, 0, 1, &u, err), PARE_ERR_INPUT, "f32");
    assert_fails(pare_gguf_u32(g, "t.bool", PARE_OPTIONAL, 0, 1, &u, err), PARE_ERR_INPUT, "bool");
    assert_fails(pare_gguf_f32(g, "t.u8", PARE_OPTIONAL, 0, 1, &f, err), PARE_ERR_INPUT, "u8");
    assert_fails(pare_gguf_bool(g, "t.u8", PARE_OPTIONAL, &b, err), PARE_ERR_INPUT, "a bool");
    assert_fails(pare_gguf_str(g, "t.strings", PARE_OPTIONAL, &text, err), PARE_ERR_INPUT,
                 "found an array of string, expected a string");
    pare_gguf_close(g);

    test_gguf s = test_gguf_default();
    gb_key(&s, "nul", 8);
    gb_string(&s.pairs, "a\0b", 3);
    gb_int(&s, "nan", 6, 0x7FC00000, 4);
    gb_int(&s, "inf", 12, 0x7FF0000000000000, 8);
    assert_ok(open_spec(&g, &s, err));
    assert_fails(pare_gguf_str(g, "nul", PARE_REQUIRED, &text, err), PARE_ERR_INPUT, "NUL inside");
    assert_fails(pare_gguf_f32(g, "nan", PARE_REQUIRED, -INFINITY, INFINITY, &f, err),
                 PARE_ERR_INPUT, "found nan");
    assert_fails(pare_gguf_f32(g, "inf", PARE_REQUIRED, -INFINITY, INFINITY, &f, err),
                 PARE_ERR_INPUT, "found inf");
    pare_gguf_close(g);
}

static void iterates_pairs(void **state) {
    (void)state;
    pare_gguf *g = all_types();
    pare_gguf_kv kv;
    assert_true(pare_gguf_kv_find(g, "t.strings", &kv));
    assert_int_equal(kv.type, PARE_GGUF_ARRAY);
    assert_int_equal(kv.item, PARE_GGUF_STRING);
    assert_int_equal(kv.n_bytes, 3 * 8 + 7);
    assert_false(pare_gguf_kv_find(g, "none", &kv));
    assert_int_equal(pare_gguf_n_kv(g), 20);
    kv = pare_gguf_kv_at(g, 0);
    assert_string_equal(kv.key, "general.architecture");
    assert_string_equal((const char *)kv.data, "llama");
    assert_int_equal(kv.n_bytes, 5);
    pare_gguf_close(g);
}

/* --- G1, G2: the beginning --- */

static void g1_not_a_gguf_file(void **state) {
    (void)state;
    pare_gguf *g;
    assert_fails(pare_gguf_open_memory(&g, "", 0, "x.gguf", err), PARE_ERR_INPUT, "found 0 bytes");
    assert_fails(pare_gguf_open_memory(&g, "GGU", 3, "x.gguf", err), PARE_ERR_INPUT,
                 "found 3 bytes");
    assert_fails(pare_gguf_open_memory(&g, "GGUF", 4, "x.gguf", err), PARE_ERR_INPUT,
                 "24 at least");
    assert_fails(pare_gguf_open(&g, test_write("empty.gguf", "", 0), err), PARE_ERR_INPUT,
                 "empty.gguf: header: found 0 bytes");
    test_gguf s = test_gguf_default();
    s.magic = "GGML";
    refuse(&s, "header: found the bytes 47 47 4d 4c, expected \"GGUF\"");
    s = test_gguf_default();
    s.magic = "version https://git-lfs.github.com/spec/v1\n";
    refuse(&s, "Git LFS pointer");

    const char *fifo = test_path("fifo.gguf");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_fails(pare_gguf_open(&g, fifo, err), PARE_ERR_INPUT, "found a pipe");
    assert_fails(pare_gguf_open(&g, test_folder(), err), PARE_ERR_INPUT, "found a folder");
    assert_fails(pare_gguf_open(&g, "/dev/zero", err), PARE_ERR_INPUT, "found a device");
    assert_fails(pare_gguf_open(&g, test_path("none.gguf"), err), PARE_ERR_INPUT, "none.gguf");
}

static void g2_version(void **state) {
    (void)state;
    for (uint32_t v = 2; v <= 3; v++) {
        test_gguf s = test_gguf_default();
        s.version = v;
        accept(&s);
    }
    static const uint32_t bad[] = {0, 1, 4, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        test_gguf s = test_gguf_default();
        s.version = bad[i];
        refuse(&s, "expected 2 or 3");
    }
    test_gguf s = test_gguf_default();
    s.version = 3u << 24;
    refuse(&s, "big-endian");
}

/* --- G3 - G9: counts and metadata --- */

static void g3_counts(void **state) {
    (void)state;
    static const uint64_t bad[] = {UINT64_MAX - 1, (uint64_t)1 << 63, UINT32_MAX, 100};
    for (size_t i = 0; i < 4; i++) {
        test_gguf s = test_gguf_default();
        s.n_pairs = bad[i];
        refuse(&s, "");
        s = test_gguf_default();
        s.n_tensors = bad[i];
        refuse(&s, "");
    }
    uint8_t file[24] = "GGUF\3\0\0";
    pare_gguf *g;
    assert_ok(pare_gguf_open_memory(&g, file, 24, "x.gguf", err)); /* nothing inside is legal */
    pare_gguf_close(g);
    memset(file + 8, 0xFF, 8);
    assert_fails(pare_gguf_open_memory(&g, file, 24, "x.gguf", err), PARE_ERR_INPUT,
                 "found 18446744073709551615 tensors, expected at most 0 in 0 bytes");
    memset(file + 8, 0, 8);
    memset(file + 16, 0xFF, 8);
    assert_fails(pare_gguf_open_memory(&g, file, 24, "x.gguf", err), PARE_ERR_INPUT,
                 "found 18446744073709551615 keys, expected at most 0");
    /* one pair more than there are */
    test_gguf s = test_gguf_default();
    s.n_pairs = 3;
    refuse(&s, "");
    s = test_gguf_default();
    s.n_pairs = 1;
    refuse(&s, "");
}

static void g4_strings(void **state) {
    (void)state;
    static const uint64_t bad[] = {UINT64_MAX - 7, (uint64_t)1 << 63, (uint64_t)1 << 32, 2000};
    for (size_t i = 0; i < 4; i++) {
        test_gguf s = test_gguf_default();
        gb_key(&s, "k", 8);
        tb_int(&s.pairs, bad[i], 8);
        refuse(&s, "key k: found a string of");
        s = test_gguf_default();
        tb_int(&s.pairs, bad[i], 8);
        s.true_pairs++;
        refuse(&s, "key number 2: found a string of");
        s = test_gguf_default();
        s.tensors[0].name_len = bad[i];
        refuse(&s, "tensor number 0: found");
    }
    /* 2^64-1: one more would wrap to 0 */
    test_gguf wraps = test_gguf_default();
    gb_key(&wraps, "k", 8);
    tb_int(&wraps.pairs, UINT64_MAX, 8);
    refuse(&wraps, "key k: found a string of 18446744073709551615 bytes");
    /* the rest of the file exactly, and one byte more */
    for (uint64_t over = 0; over < 2; over++) {
        test_gguf s = test_gguf_default();
        s.true_tensors = 0;
        s.no_last_padding = 1;
        gb_key(&s, "k", 8);
        tb_int(&s.pairs, 5 + over, 8);
        tb_add(&s.pairs, "abcde", 5);
        if (over)
            refuse(&s, "found a string of 6 bytes, expected at most the 5 left in the file");
        else
            accept(&s);
    }
}

/* A sparse file that claims a string: what it holds is there, so only the cap of 1 GiB stops it. */
static void g4_cap(void **state) {
    (void)state;
    test_bytes b = {0};
    tb_add(&b, "GGUF\3\0\0\0", 8);
    tb_int(&b, 0, 8);
    tb_int(&b, 1, 8);
    gb_string(&b, "k", 1);
    tb_int(&b, 8, 4);
    tb_int(&b, (uint64_t)1 << 30, 8);
    const char *path = test_write("cap.gguf", b.p, b.n);
    assert_int_equal(truncate(path, (off_t)b.n + ((off_t)1 << 31)), 0);
    pare_gguf *g;
    assert_fails(pare_gguf_open(&g, path, err), PARE_ERR_INPUT,
                 "key k: found more than 1073741824 bytes of metadata");
    /* 16 MiB is fine; the rest then counts as bytes after the end */
    b.n -= 8;
    tb_int(&b, 16 << 20, 8);
    path = test_write("cap.gguf", b.p, b.n);
    assert_int_equal(truncate(path, (off_t)b.n + (16 << 20)), 0);
    assert_ok(pare_gguf_open(&g, path, err));
    pare_gguf_close(g);
    tb_free(&b);
}

static void g5_arrays(void **state) {
    (void)state;
    static const uint64_t bad[] = {UINT64_MAX,        (uint64_t)1 << 62, ((uint64_t)1 << 61) + 1,
                                   (uint64_t)1 << 60, UINT32_MAX,        400};
    static const uint32_t items[] = {4, 12, 8};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        for (size_t k = 0; k < 3; k++) {
            test_gguf s = test_gguf_default();
            gb_array(&s, "k", items[k], bad[i]);
            refuse(&s, "key k: found an array of");
        }
    /* n strings need 8 n bytes: exactly those, and one string too many */
    for (uint64_t over = 0; over < 2; over++) {
        test_gguf s = test_gguf_default();
        s.true_tensors = 0;
        s.no_last_padding = 1;
        gb_array(&s, "k", 8, 3 + over);
        tb_zeros(&s.pairs, 24);
        if (over)
            refuse(&s, "found an array of 4 items, expected at most 3 in the bytes left");
        else
            accept(&s);
    }
    /* enough for the lengths, but the last string is longer than the file */
    test_gguf s = test_gguf_default();
    gb_array(&s, "k", 8, 2);
    gb_string(&s.pairs, "ab", 2);
    tb_int(&s.pairs, (uint64_t)1 << 33, 8);
    refuse(&s, "key k: found a string of 8589934592 bytes");
}

static void g6_nested_arrays(void **state) {
    (void)state;
    test_gguf s = test_gguf_default();
    gb_array(&s, "k", 9, 1);
    for (int i = 0; i < 100000; i++) {
        tb_int(&s.pairs, 9, 4);
        tb_int(&s.pairs, 1, 8);
    }
    refuse(&s, "key k: found an array of arrays");
}

static void g7_value_types(void **state) {
    (void)state;
    static const uint32_t bad[] = {13, UINT32_MAX, (uint32_t)1 << 31};
    for (size_t i = 0; i < 3; i++) {
        test_gguf s = test_gguf_default();
        gb_int(&s, "k", bad[i], 0, 8);
        refuse(&s, "key k: found the value type");
        s = test_gguf_default();
        gb_array(&s, "k", bad[i], 1);
        tb_zeros(&s.pairs, 8);
        refuse(&s, "key k: found the item type");
    }
    test_gguf s = test_gguf_default();
    gb_int(&s, "k", 7, 2, 1);
    refuse(&s, "key k: found the boolean 2, expected 0 or 1");
    s = test_gguf_default();
    gb_array(&s, "k", 7, 2);
    tb_add(&s.pairs, "\1\xFF", 2);
    refuse(&s, "found the boolean 255");
}

static void g8_keys(void **state) {
    (void)state;
    static const struct {
        const char *key;
        size_t n;
        const char *message;
    } bad[] = {
        {"", 0, "key number 2: found a name of 0 bytes, expected 1 to 65535"},
        {"a\0b", 3, "key number 2: found control bytes"},
        {"a\n", 2, "control bytes"},
        {"a\x7F", 2, "control bytes"},
        {"\xC3\x28", 2, "invalid UTF-8"},
        {"\xED\xA0\x80", 3, "invalid UTF-8"},
        {"\xC0\x80", 2, "invalid UTF-8"},
        {"\xF4\x90\x80\x80", 4, "invalid UTF-8"},
        {"general.architecture", 20, "key general.architecture: found the key twice"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_gguf s = test_gguf_default();
        gb_string(&s.pairs, bad[i].key, bad[i].n);
        tb_int(&s.pairs, 0, 4);
        tb_int(&s.pairs, 0, 1);
        s.true_pairs++;
        refuse(&s, bad[i].message);
    }
    char *key = malloc(65537);
    memset(key, 'k', 65536);
    key[65536] = '\0';
    test_gguf s = test_gguf_default();
    gb_int(&s, key, 0, 1, 1);
    refuse(&s, "found a name of 65536 bytes");
    key[65535] = '\0';
    s = test_gguf_default();
    gb_int(&s, key, 0, 1, 1);
    accept(&s);
    free(key);
}

/* R4: half a million distinct keys, then one twice. Some 0.2 s; comparing pairs would take minutes.
 */
static void g8_many_keys(void **state) {
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        test_gguf s = test_gguf_default();
        for (unsigned i = 0; i < 500000; i++) {
            char key[16];
            snprintf(key, sizeof key, "k%u", i);
            gb_int(&s, key, 0, i & 255, 1);
        }
        if (twice) gb_int(&s, "k250000", 0, 0, 1);
        double start = pare_now_s();
        if (twice)
            refuse(&s, "key k250000: found the key twice");
        else
            accept(&s);
        assert_true(pare_now_s() - start < 20.0);
    }
}

static void g9_g10_alignment(void **state) {
    (void)state;
    static const uint32_t good[] = {1, 8, 32, 64, 2048};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        test_gguf s = test_gguf_default();
        gb_int(&s, "general.alignment", 4, good[i], 4);
        s.alignment = good[i];
        accept(&s);
    }
    static const uint32_t bad[] = {0, 3, 13, 33};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_gguf s = test_gguf_default();
        gb_int(&s, "general.alignment", 4, bad[i], 4);
        refuse(&s, "key general.alignment: found");
    }
    /* a power of two, but then the second tensor does not lie where it must */
    test_gguf s = test_gguf_default();
    gb_int(&s, "general.alignment", 4, (uint64_t)1 << 31, 4);
    refuse(&s, "data offset 32, expected 2147483648");
    s = test_gguf_default();
    gb_int(&s, "general.alignment", 5, 32, 4);
    refuse(&s, "key general.alignment: found a value of type i32, expected u32");
    s = test_gguf_default();
    gb_text(&s, "general.alignment", "32");
    refuse(&s, "found a value of type string, expected u32");
}

/* --- G11 - G18: tensors --- */

static void g11_names(void **state) {
    (void)state;
    char name[65];
    memset(name, 'n', 64);
    name[64] = '\0';
    test_gguf s = test_gguf_default();
    s.tensors[1].name = name;
    refuse(&s, "tensor number 1: found a name of 64 bytes, expected 1 to 63");
    name[63] = '\0';
    s = test_gguf_default();
    s.tensors[1].name = name;
    accept(&s);
    s = test_gguf_default();
    s.tensors[1].name = "";
    refuse(&s, "found a name of 0 bytes");
    s = test_gguf_default();
    s.tensors[1].name = "b\0weight";
    s.tensors[1].name_len = 8;
    refuse(&s, "tensor number 1: found control bytes");
    s = test_gguf_default();
    s.tensors[2].name = "a.weight";
    refuse(&s, "tensor a.weight: found the name twice");
}

static void g12_dimensions(void **state) {
    (void)state;
    static const uint32_t bad[] = {5, 8, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        test_gguf s = test_gguf_default();
        s.tensors[0].n_dims = bad[i];
        refuse(&s, "tensor a.weight: found");
    }
    test_gguf s = test_gguf_default();
    s.tensors[0] = (test_gguf_tensor){"scalar", TEST_GGUF_AUTO, 0, {0}, 0, 4, TEST_GGUF_AUTO};
    s.tensors[2] =
        (test_gguf_tensor){"four", TEST_GGUF_AUTO, 4, {2, 3, 1, 2}, 28, 96, TEST_GGUF_AUTO};
    accept(&s);
}

static void g13_g14_shapes(void **state) {
    (void)state;
    /* the data of empty tensors begins where the next begins */
    test_gguf s = test_gguf_default();
    s.tensors[1] = (test_gguf_tensor){"empty", TEST_GGUF_AUTO, 2, {0, 7}, 0, 0, TEST_GGUF_AUTO};
    accept(&s);
    static const struct {
        uint64_t ne[4];
        uint32_t type;
    } bad[] = {
        {{(uint64_t)-1, 1, 1, 1}, 0},
        {{(uint64_t)1 << 63, 1, 1, 1}, 0},
        {{4, (uint64_t)-2, 1, 1}, 0},
        {{(uint64_t)1 << 32, (uint64_t)1 << 32, 1, 1}, 0},
        {{INT64_MAX, 2, 1, 1}, 24},
        {{4, ((uint64_t)1 << 30) - 1, ((uint64_t)1 << 30) + 1, 1}, 0},
        {{(uint64_t)1 << 61, 1, 1, 1}, 28},
        {{(uint64_t)1 << 21, (uint64_t)1 << 21, (uint64_t)1 << 21, (uint64_t)1 << 21}, 24},
        {{0, (uint64_t)1 << 62, 4, 1}, 0}, /* empty, but its products overflow */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        s = test_gguf_default();
        s.tensors[0].n_dims = 4;
        memcpy(s.tensors[0].ne, bad[i].ne, sizeof bad[i].ne);
        s.tensors[0].type = bad[i].type;
        refuse(&s, "tensor a.weight: found ");
    }
    s = test_gguf_default();
    s.tensors[0].ne[1] = (uint64_t)1 << 63;
    refuse(&s, "found the dimension 9223372036854775808, expected 0 to 2^63-1");
    /* one element more than the file holds */
    s = test_gguf_default();
    s.tensors[2].ne[0] = 16;
    accept(&s);
    s = test_gguf_default();
    s.tensors[2].ne[0] = 17;
    refuse(&s, "tensor c.bias: found a file of");
}

static void g15_sums(void **state) {
    (void)state;
    /* each fits 64 bits, their sum does not */
    test_gguf s = test_gguf_default();
    for (int i = 0; i < 3; i++) {
        s.tensors[i].n_dims = 1;
        s.tensors[i].ne[0] = (uint64_t)3 << 61;
        s.tensors[i].type = 24;
        s.tensors[i].offset = (uint64_t)i * ((uint64_t)3 << 61);
        s.tensors[i].n_bytes = 32;
    }
    s.tensors[0].ne[0] = s.tensors[1].ne[0] = INT64_MAX - 31;
    s.tensors[1].offset = (uint64_t)1 << 63;
    s.tensors[1].offset -= 32;
    s.tensors[2].ne[0] = INT64_MAX;
    s.tensors[2].offset = UINT64_MAX - 63;
    refuse(&s, "tensor c.bias: found 9223372036854775807 bytes, expected a sum");
    /* the sum fits, but not together with where the data begin */
    s = test_gguf_default();
    s.true_tensors = 2;
    for (int i = 0; i < 2; i++) {
        s.tensors[i].n_dims = 1;
        s.tensors[i].ne[0] = INT64_MAX - 31;
        s.tensors[i].type = 24;
        s.tensors[i].n_bytes = 32;
    }
    s.tensors[1].offset = ((uint64_t)1 << 63) - 32;
    refuse(&s, "tensor a.weight: found a file of");
}

static void g16_types(void **state) {
    (void)state;
    static const uint32_t bad[] = {43, UINT32_MAX, 4, 5, 31, 32, 33, 36, 37, 38, 137, 5000};
    static const char *const why[] = {"no type", "no type", "retired",      "retired",
                                      "retired", "retired", "retired",      "retired",
                                      "retired", "retired", "ik_llama.cpp", "no type"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_gguf s = test_gguf_default();
        s.tensors[0].type = bad[i];
        refuse(&s, why[i]);
    }
    test_gguf s = test_gguf_default();
    s.tensors[0].type = 137;
    pare_gguf *g;
    assert_fails(open_spec(&g, &s, err), PARE_ERR_UNSUPPORTED,
                 "tensor a.weight: found the type 137");
    /* every type that has a size, one block of it */
    for (uint32_t id = 0; id < 43; id++) {
        const pare_ggml_type *type = pare_ggml_type_at(id);
        if (!type) continue;
        s = test_gguf_default();
        s.tensors[2].type = id;
        s.tensors[2].ne[0] = type->block_len;
        s.tensors[2].n_bytes = type->block_bytes;
        accept(&s);
    }
}

static void g17_rows(void **state) {
    (void)state;
    test_gguf s = test_gguf_default();
    s.tensors[1].ne[0] = 100;
    refuse(&s, "tensor b.weight: found rows of 100 values, expected a multiple of 32 (q4_0)");
    s = test_gguf_default();
    s.tensors[1].ne[0] = 128;
    s.tensors[1].type = 12;
    refuse(&s, "found rows of 128 values, expected a multiple of 256 (q4_k)");
}

static void g18_offsets(void **state) {
    (void)state;
    static const uint64_t bad[] = {1, 31, 33, 0, 64, 16, UINT64_MAX - 255, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_gguf s = test_gguf_default();
        s.tensors[1].offset = bad[i];
        refuse(&s, "tensor b.weight: found the data offset");
    }
    test_gguf s = test_gguf_default();
    s.tensors[0].offset = 32;
    refuse(&s, "tensor a.weight: found the data offset 32, expected 0");
}

/* --- G19: cut at every byte --- */

static void g19_cut_files(void **state) {
    (void)state;
    test_gguf s = test_gguf_default();
    test_gguf_all_types(&s);
    test_bytes file = test_gguf_build(&s);
    size_t data_end = file.n - 22; /* the last tensor has 10 bytes of 32 */
    for (size_t n = 0; n < data_end; n++) {
        pare_gguf *g = NULL;
        pare_error err = {0};
        uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past the end */
        memcpy(exact, file.p, n);
        pare_status st = pare_gguf_open_memory(&g, exact, n, "x.gguf", &err);
        free(exact);
        if (st != PARE_ERR_INPUT || g || !err.message[0])
            fail_msg("cut at %zu of %zu: found %s", n, file.n, pare_status_name(st));
    }
    /* the same through files, at some places */
    for (size_t n = 0; n < data_end; n += 37) {
        pare_gguf *g = NULL;
        assert_fails(pare_gguf_open(&g, test_write("cut.gguf", file.p, n), err), PARE_ERR_INPUT,
                     "cut.gguf");
    }
    /* G21: missing padding is accepted */
    pare_gguf *g;
    assert_ok(pare_gguf_open_memory(&g, file.p, data_end, "x.gguf", err));
    assert_int_equal(pare_gguf_n_warnings(g), 0);
    pare_gguf_close(g);
    tb_free(&file);
}

/* S13 for GGUF: the file shrinks after its headers were read. */
static void a_shrunk_file_is_an_io_error(void **state) {
    (void)state;
    test_gguf s = test_gguf_default();
    test_bytes file = test_gguf_build(&s);
    const char *path = test_write("shrinks.gguf", file.p, file.n);
    pare_gguf *g;
    assert_ok(pare_gguf_open(&g, path, err));
    assert_int_equal(truncate(path, 100), 0);
    const pare_gguf_tensor *t = pare_gguf_tensor_at(g, 1);
    uint8_t data[108];
    assert_fails(pare_file_read_at(pare_gguf_file(g, 0), data, t->n_bytes, t->offset, err),
                 PARE_ERR_IO, "the file ended");
    pare_gguf_close(g);
    tb_free(&file);
}

static void g21_bytes_after_the_end(void **state) {
    (void)state;
    pare_gguf *g;
    test_gguf s = test_gguf_default();
    s.extra = 1;
    assert_ok(open_spec(&g, &s, err));
    assert_int_equal(pare_gguf_n_warnings(g), 1);
    assert_non_null(strstr(pare_gguf_warning(g, 0), "x.gguf: found 1 bytes after the last tensor"));
    pare_gguf_close(g);
}

/* --- G20: split files --- */

/* Part i of n: one tensor of its own. name NULL: of its number. */
static test_bytes split_part(unsigned no, unsigned count, unsigned total, const char *arch,
                             const char *name) {
    static char names[4][32];
    test_gguf s = {.magic = "GGUF",
                   .version = 3,
                   .n_tensors = TEST_GGUF_AUTO,
                   .n_pairs = TEST_GGUF_AUTO,
                   .true_tensors = 1,
                   .alignment = 32};
    snprintf(names[no % 4], sizeof names[0], "blk.%u.weight", no);
    s.tensors[0] = (test_gguf_tensor){
        name ? name : names[no % 4], TEST_GGUF_AUTO, 1, {8}, 0, 32, TEST_GGUF_AUTO};
    if (arch) gb_text(&s, "general.architecture", arch);
    gb_int(&s, "split.no", 2, no, 2);
    gb_int(&s, "split.count", 2, count, 2);
    gb_int(&s, "split.tensors.count", 5, total, 4);
    return test_gguf_build(&s);
}

static const char *write_part(const char *prefix, unsigned i, unsigned n, test_bytes b) {
    char name[128];
    snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", prefix, i + 1, n);
    const char *path = test_write(name, b.p, b.n);
    tb_free(&b);
    return path;
}

static const char *write_split(const char *prefix) {
    const char *first = write_part(prefix, 0, 3, split_part(0, 3, 3, "llama", NULL));
    write_part(prefix, 1, 3, split_part(1, 3, 3, NULL, NULL));
    write_part(prefix, 2, 3, split_part(2, 3, 3, "llama", NULL));
    return first;
}

static void g20_split_files(void **state) {
    (void)state;
    pare_gguf *g;
    const char *first = write_split("good");
    assert_ok(pare_gguf_open(&g, first, err));
    assert_int_equal(pare_gguf_n_files(g), 3);
    assert_int_equal(pare_gguf_n_tensors(g), 3);
    const pare_gguf_tensor *t = pare_gguf_find(g, "blk.2.weight");
    assert_int_equal(t->file, 2);
    assert_non_null(strstr(pare_gguf_file(g, 2)->path, "good-00003-of-00003.gguf"));
    float data[8];
    assert_ok(pare_file_read_at(pare_gguf_file(g, t->file), data, 32, t->offset, err));
    pare_gguf_close(g);

    assert_fails(pare_gguf_open(&g, test_path("good-00002-of-00003.gguf"), err), PARE_ERR_INPUT,
                 "key split.no: found part 2 of 3, expected the first part");
    first = write_split("missing");
    assert_int_equal(unlink(test_path("missing-00002-of-00003.gguf")), 0);
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT,
                 "missing-00002-of-00003.gguf: open");
    first = write_split("twice");
    write_part("twice", 2, 3, split_part(1, 3, 3, NULL, NULL));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT,
                 "twice-00003-of-00003.gguf: key split.no: found 1, expected 2");
    first = write_split("other");
    write_part("other", 1, 3, split_part(1, 3, 3, "gpt2", NULL));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT, "a part of another model");
    write_part("other", 1, 3, split_part(1, 3, 3, "llam", NULL));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT, "a part of another model");
    write_part("other", 1, 3, split_part(1, 3, 3, "llamb", NULL));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT, "a part of another model");
    first = write_split("count");
    write_part("count", 1, 3, split_part(1, 4, 3, NULL, NULL));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT, "key split.count: found 4");
    first = write_split("same");
    write_part("same", 1, 3, split_part(1, 3, 3, NULL, "blk.0.weight"));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT,
                 "tensor blk.0.weight: found the name twice");
    first = write_split("total");
    first = write_part("total", 0, 3, split_part(0, 3, 4, "llama", NULL));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT,
                 "key split.tensors.count: found 4, expected 3");
    /* a name that does not tell the others' */
    test_bytes b = split_part(0, 3, 3, "llama", NULL);
    first = test_write("renamed.gguf", b.p, b.n);
    tb_free(&b);
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT, "NAME-00001-of-00003.gguf");
    static const unsigned counts[] = {0, 513, 65535};
    for (size_t i = 0; i < 3; i++) {
        first = write_part("n", 0, counts[i], split_part(0, counts[i], 1, "llama", NULL));
        assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT, "key split.count: found");
    }
    first = write_part("n", 0, 512, split_part(0, 512, 1, "llama", NULL));
    assert_fails(pare_gguf_open(&g, first, err), PARE_ERR_INPUT, "n-00002-of-00512.gguf: open");
    first = write_part("n", 0, 1, split_part(0, 1, 1, "llama", NULL));
    assert_ok(pare_gguf_open(&g, first, err));
    pare_gguf_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(reads_scalars),
        cmocka_unit_test(reads_arrays),
        cmocka_unit_test(tells_absent_from_wrong),
        cmocka_unit_test(iterates_pairs),
        cmocka_unit_test(g1_not_a_gguf_file),
        cmocka_unit_test(g2_version),
        cmocka_unit_test(g3_counts),
        cmocka_unit_test(g4_strings),
        cmocka_unit_test(g4_cap),
        cmocka_unit_test(g5_arrays),
        cmocka_unit_test(g6_nested_arrays),
        cmocka_unit_test(g7_value_types),
        cmocka_unit_test(g8_keys),
        cmocka_unit_test(g8_many_keys),
        cmocka_unit_test(g9_g10_alignment),
        cmocka_unit_test(g11_names),
        cmocka_unit_test(g12_dimensions),
        cmocka_unit_test(g13_g14_shapes),
        cmocka_unit_test(g15_sums),
        cmocka_unit_test(g16_types),
        cmocka_unit_test(g17_rows),
        cmocka_unit_test(g18_offsets),
        cmocka_unit_test(g19_cut_files),
        cmocka_unit_test(a_shrunk_file_is_an_io_error),
        cmocka_unit_test(g20_split_files),
        cmocka_unit_test(g21_bytes_after_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
