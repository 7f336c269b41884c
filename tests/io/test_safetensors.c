/* The safetensors reader against the refusal catalogue (robustness rows S1-S13): each guard on both
 * sides of its limit, each message asserted. */
#include "support/test.h"

#include "io/safetensors.h"
#include "support/st_build.h"

#include <sys/stat.h>
#include <unistd.h>

#define ENTRY TEST_ST_ENTRY

static pare_status open_n(pare_st **s, const char *header, size_t n, size_t n_data,
                          pare_error *err) {
    test_bytes file = test_st_build(header, n, n_data);
    uint8_t *exact = malloc(file.n); /* so that a sanitizer sees a read past the end */
    memcpy(exact, file.p, file.n);
    pare_status st = pare_st_open_memory(s, exact, file.n, "x.st", err);
    free(exact);
    tb_free(&file);
    return st;
}

static void accept(const char *header, size_t n_data) {
    pare_st *s = NULL;
    assert_ok(open_n(&s, header, strlen(header), n_data, err));
    pare_st_close(s);
}

static void refuse_n(const char *header, size_t n, size_t n_data, const char *message) {
    pare_st *s = NULL;
    pare_error err = {0};
    pare_status st = open_n(&s, header, n, n_data, &err);
    if (st != PARE_ERR_INPUT || s || !strstr(err.message, message) ||
        strncmp(err.message, "x.st: ", 6) != 0)
        fail_msg("%.200s: found %s \"%s\", expected \"%s\"", header, pare_status_name(st),
                 err.message, message);
}

static void refuse(const char *header, size_t n_data, const char *message) {
    refuse_n(header, strlen(header), n_data, message);
}

static void reads_a_file(void **state) {
    (void)state;
    test_bytes file = test_st_build(TEST_ST_HEADER, strlen(TEST_ST_HEADER), TEST_ST_DATA);
    file.p[file.n - 3] = 0x77;
    const char *path = test_write("good.safetensors", file.p, file.n);
    pare_st *s;
    assert_ok(pare_st_open(&s, path, err));
    assert_int_equal(pare_st_n_tensors(s), 5);
    assert_int_equal(pare_st_n_files(s), 1);
    const pare_st_tensor *a = pare_st_find(s, "a.weight"), *half = pare_st_find(s, "half");
    assert_null(pare_st_find(s, "a"));
    assert_null(pare_st_find(s, "__metadata__"));
    assert_string_equal(a->dtype->name, "F32");
    assert_true(a->n_dims == 2 && a->dims[0] == 2 && a->dims[1] == 2 && a->dims[2] == 1);
    assert_int_equal(a->offset, 8 + strlen(TEST_ST_HEADER));
    assert_int_equal(pare_st_find(s, "empty")->n_bytes, 0);
    assert_int_equal(pare_st_find(s, "scalar")->n_elements, 1);
    assert_int_equal(half->n_elements, 6);
    assert_int_equal(half->n_bytes, 3);
    uint8_t byte = 0;
    assert_ok(pare_file_read_at(pare_st_file(s, half->file), &byte, 1, half->offset, err));
    assert_int_equal(byte, 0x77);
    assert_int_equal(pare_st_n_metadata(s), 2);
    assert_string_equal(pare_st_metadata(s, "format"), "pt");
    assert_null(pare_st_metadata(s, "former"));
    assert_string_equal(pare_st_metadata(s, "a"), "\xC3\xA9\n");
    pare_st_close(s);
    pare_st_close(NULL);
    tb_free(&file);
}

static void s1_short_files(void **state) {
    (void)state;
    pare_st *s;
    for (size_t n = 0; n < 8; n++)
        assert_fails(pare_st_open_memory(&s, "\2\0\0\0\0\0\0\0{}", n, "x.st", err), PARE_ERR_INPUT,
                     "expected 8 at least");
    assert_fails(pare_st_open_memory(&s, "\0\0\0\0\0\0\0\0", 8, "x.st", err), PARE_ERR_INPUT,
                 "found a header of 0 bytes");
    assert_ok(pare_st_open_memory(&s, "\2\0\0\0\0\0\0\0{}", 10, "x.st", err));
    pare_st_close(s);
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n";
    const char *path = test_write("lfs.safetensors", pointer, strlen(pointer));
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, "Git LFS pointer");
    const char *fifo = test_path("fifo.safetensors");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_fails(pare_st_open(&s, fifo, err), PARE_ERR_INPUT, "found a pipe");
    assert_fails(pare_st_open(&s, test_path("none.safetensors"), err), PARE_ERR_INPUT, "none.safe");
}

static void s2_header_length(void **state) {
    (void)state;
    static const struct {
        uint64_t n;
        const char *message;
    } bad[] = {{0, "a header of 0 bytes"},
               {3, "found a header of 3 bytes in a file of 10, expected at most 2"},
               {100000000, "in a file of 10"},
               {100000001, "found a header of 100000001 bytes, expected 1 to 100000000"},
               {(uint64_t)1 << 63, "expected 1 to 100000000"},
               {UINT64_MAX, "expected 1 to 100000000"},
               {UINT64_MAX - 7, "expected 1 to 100000000"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_bytes b = {0};
        tb_int(&b, bad[i].n, 8);
        tb_add(&b, "{}", 2);
        pare_st *s;
        assert_fails(pare_st_open_memory(&s, b.p, b.n, "x.st", err), PARE_ERR_INPUT,
                     bad[i].message);
        tb_free(&b);
    }
}

static void s3_syntax(void **state) {
    (void)state;
    accept("{}", 0);
    accept(" \n\t{}  ", 0);
    accept(" {\n\"a\" : { \"dtype\" :\t\"U8\" , \"shape\" : [ 1 , 2 ] , \"data_offsets\" : [ 0 , 2 "
           "] } "
           "} ",
           2);
    refuse("\xFF{}", 0, "header: found invalid UTF-8");
    refuse("\xEF\xBB\xBF{}", 0, "byte order mark");
    refuse("[]", 0, "found '[' at byte 8, expected '{'");
    refuse("\"a\"", 0, "expected '{'");
    refuse("  ", 0, "found the end of the header, expected '{'");
    refuse("{} x", 0, "found 'x' at byte 11, expected nothing but spaces");
    refuse("{}{}", 0, "nothing but spaces");
    refuse_n("{}\0", 3, 0, "found the byte 0x00 at byte 10");
    refuse_n("\0{}", 3, 0, "found the byte 0x00 at byte 8");
    refuse("{", 0, "found the end of the header");
    refuse("{\"a", 0, "expected the end of a string");
    refuse("{\"a\\", 0, "expected an escape");
    refuse("{\"a\\x\"", 0, "found 'x' at byte 12, expected an escape of JSON");
    refuse("{\"\\u12", 0, "four hexadecimal digits");
    refuse("{\"\\u12g4\"", 0, "four hexadecimal digits");
    refuse("{\"\\ud800\"", 0, "four hexadecimal digits that make a character");
    refuse("{\"\\udc00\"", 0, "that make a character");
    refuse("{\"\\ud800\\u0041\"", 0, "that make a character");
    refuse("{\"a\nb\"", 0, "found the byte 0x0a at byte 11, expected a string without control");
    refuse("{,}", 0, "found ',' at byte 9, expected a tensor's name");
    refuse("{\"a\"}", 0, "expected ':'");
    refuse("{" ENTRY("a", "U8", "[1]", "[0,1]") ",}", 1, "expected a tensor's name");
    refuse("{" ENTRY("a", "U8", "[1]", "[0,1]"), 1, "expected ',' or '}'");
    refuse("{\"a\":3}", 0, "tensor a: found '3' at byte 13, expected '{'");
    char *deep = malloc(700001);
    for (size_t i = 0; i < 100000; i++) memcpy(deep + 7 * i, "{\"abc\":", 7);
    deep[700000] = '\0';
    refuse(deep, 0, "tensor abc: found the field \"abc\"");
    memset(deep, '[', 700000);
    refuse(deep, 0, "expected '{'");
    free(deep);
    refuse("{\"\\udfff\"", 0, "that make a character");
    refuse("{\"\\ud83dx\\u0041\"", 0, "that make a character");
    refuse("{\"\\ud83d\\n0041\"", 0, "that make a character");
    refuse("{\"\\ud83d\\ue000\"", 0, "that make a character");
    refuse("{\"\\udbff\\udbff\"", 0, "that make a character");
    refuse("{\"\\u00G0\"", 0, "four hexadecimal digits");
    refuse("{\"\\u00g0\"", 0, "four hexadecimal digits");
    /* the first and last code points of each length, and all digits */
    pare_st *s;
    static const char points[] =
        "{\"__metadata__\":{\"k\":"
        "\"\\u0001\\u007f\\u0080\\u07ff\\u0800\\ud7ff\\ue000\\uffff\\ud800\\udc00"
        "\\udbff\\udfff\\u9aBc\\ucEdF\"}}";
    assert_ok(open_n(&s, points, strlen(points), 0, err));
    assert_string_equal(pare_st_metadata(s, "k"),
                        "\x01\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF"
                        "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\xE9\xAA\xBC\xEC\xBB\x9F");
    pare_st_close(s);
    /* escapes of all kinds in a name that is fine */
    static const char escaped[] =
        "{" ENTRY("\\\"\\\\\\/\\u0041\\u00e9\\u2581\\ud83d\\ude00", "U8", "[]", "[0,1]") "}";
    assert_ok(open_n(&s, escaped, strlen(escaped), 1, err));
    assert_string_equal(pare_st_tensor_at(s, 0)->name,
                        "\"\\/A\xC3\xA9\xE2\x96\x81\xF0\x9F\x98\x80");
    pare_st_close(s);
}

static void s4_duplicates(void **state) {
    (void)state;
    refuse("{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("a", "U8", "[1]", "[1,2]") "}", 2,
           "tensor a: found the name twice");
    refuse("{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("\\u0061", "U8", "[1]", "[1,2]") "}", 2,
           "tensor a: found the name twice");
    refuse("{" ENTRY("a", "U8", "[0]", "[0,0]") "," ENTRY("a", "U8", "[0]", "[0,0]") "}", 0,
           "tensor a: found the name twice");
    accept("{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("\\u0062", "U8", "[1]", "[1,2]") "}", 2);
    refuse("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
           "tensor a: found the field dtype twice");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
           "field shape twice");
    refuse("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "found __metadata__ twice");
    refuse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "found \"k\" twice in __metadata__");
}

static void s5_fields(void **state) {
    (void)state;
    accept("{" ENTRY("a", "BOOL", "[1]", "[0,1]") "}", 1);
    static const char *const dtypes[] = {"u8", "F31", "", "U8 ", "F8", "\\u0000", "U8\\u0000"};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        char header[200];
        snprintf(header, sizeof header, "{" ENTRY("a", "%s", "[1]", "[0,1]") "}", dtypes[i]);
        refuse(header, 1, "tensor a: found the dtype \"");
    }
    refuse("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor a: found no dtype");
    refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "found no shape");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "found no data_offsets");
    refuse("{\"a\":{}}", 1, "found no dtype");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1,
           "found the field \"x\", expected dtype, shape and data_offsets");
    refuse("{\"a\":{\"dtype\":\"U8\",\"Shape\":[1],\"data_offsets\":[0,1]}}", 1, "field \"Shape\"");
    refuse("{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "the dtype's name");
    static const char *const shapes[] = {
        "[-1]",
        "[2.0]",
        "[1e3]",
        "[18446744073709551616]",
        "[99999999999999999999999]",
        "[01]",
        "[+1]",
        "[\"1\"]",
        "[null]",
        "[[1]]",
        "[1,]",
        "[,1]",
        "[0x1]",
        "[1",
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        char header[200];
        snprintf(header, sizeof header, "{" ENTRY("a", "U8", "%s", "[0,1]") "}", shapes[i]);
        refuse(header, 1, "expected an integer 0 to 2^64-1 in plain digits");
    }
    refuse("{" ENTRY("a", "U8", "[1 2]", "[0,1]") "}", 1, "found '2' at byte");
    refuse("{" ENTRY("a", "U8", "1", "[0,1]") "}", 1, "expected the shape's '['");
    refuse("{" ENTRY("a", "U8", "{}", "[0,1]") "}", 1, "expected the shape's '['");
    refuse("{" ENTRY("a", "U8", "null", "[0,1]") "}", 1, "expected the shape's '['");
    static const char *const offsets[] = {"[0]",    "[0,1,2]", "[]",
                                          "[1,0]",  "[-1,0]",  "[0,1.0]",
                                          "[0,-1]", "\"0,1\"", "[0,18446744073709551616]"};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        char header[200];
        snprintf(header, sizeof header, "{" ENTRY("a", "U8", "[1]", "%s") "}", offsets[i]);
        refuse(header, 1, "tensor a: found");
    }
    accept("{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1]", "[0,1]") "}", 1);
    refuse("{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "more than 8 dimensions");
}

static void s6_products(void **state) {
    (void)state;
    static const char *const shapes[] = {
        "[2,18446744073709551614]",
        "[2,9223372036854775807]",
        "[4194305,4194305,211106198978564]", /* wraps to 4 elements */
        "[18446744073709551615]",
        "[4294967296,4294967296]",
        "[576460752303423488]",      /* 2^59 elements of 32 bits: 2^64 bits */
        "[0,9223372036854775808,2]", /* empty, but its products overflow */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        char header[300];
        snprintf(header, sizeof header, "{" ENTRY("a", "F32", "%s", "[0,16]") "}", shapes[i]);
        refuse(header, 16, "tensor a: found a shape whose size");
    }
    refuse("{" ENTRY("a", "F32", "[288230376151711743]", "[0,16]") "}", 16,
           "expected 1152921504606846972 bytes for its shape");
}

static void s7_sizes(void **state) {
    (void)state;
    static const struct {
        const char *dtype;
        unsigned bits;
    } all[] = {{"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6},
               {"U8", 8},      {"I8", 8},          {"F8_E5M2", 8},     {"F8_E4M3", 8},
               {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
               {"U16", 16},    {"F16", 16},        {"BF16", 16},       {"I32", 32},
               {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},
               {"I64", 64},    {"U64", 64}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char header[200];
        for (int over = -1; over <= 1; over++) {
            int n = (int)all[i].bits * 4 / 8 + over;
            snprintf(header, sizeof header,
                     "{\"a\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%d]}}",
                     all[i].dtype, n);
            if (over)
                refuse(header, (size_t)n, "tensor a: found data_offsets [0, ");
            else
                accept(header, (size_t)n);
        }
    }
    accept("{" ENTRY("a", "F4", "[2]", "[0,1]") "}", 1);
    refuse("{" ENTRY("a", "F4", "[3]", "[0,2]") "}", 2, "ends inside a byte (F4)");
    refuse("{" ENTRY("a", "F6_E2M3", "[2]", "[0,2]") "}", 2, "ends inside a byte");
}

static void s8_cover(void **state) {
    (void)state;
    refuse("{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[0,2]") "}", 2,
           "tensor b: found data that begin at 0, expected 2");
    refuse("{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[1,3]") "}", 3,
           "tensor b: found data that begin at 1, expected 2");
    refuse("{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[3,5]") "}", 5,
           "tensor b: found data that begin at 3, expected 2 (no holes");
    refuse("{" ENTRY("a", "U8", "[2]", "[1,3]") "}", 3, "begin at 1, expected 0");
    refuse("{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 3,
           "header: found 3 bytes of data in the file, expected 2");
    refuse("{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 1, "tensor a: found 1 bytes of data");
    refuse("{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 0, "tensor a: found 0 bytes of data");
    refuse("{}", 1, "found 1 bytes of data in the file, expected 0");
    refuse("{" ENTRY("a", "U8", "[18446744073709551]", "[0,18446744073709551]") "}", 4,
           "tensor a: found 4 bytes of data");
    /* entries in another order than the data, empty ones among them */
    accept("{" ENTRY("b", "U8", "[2]", "[2,4]") "," ENTRY("e", "U8", "[0]", "[2,2]") "," ENTRY(
               "a", "U8", "[2]", "[0,2]") "}",
           4);
    refuse("{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("e", "U8", "[0]", "[1,1]") "}", 2,
           "begin at 1, expected 2");
    /* 100,000 tensors on one range */
    test_bytes header = {0};
    for (int i = 0; i < 100000; i++)
        tb_print(&header, "%c" ENTRY("t%d", "U8", "[160000]", "[0,160000]"), i ? ',' : '{', i);
    tb_add(&header, "}", 1);
    refuse_n((char *)header.p, header.n, 160000, "begin at 0, expected 160000");
    tb_free(&header);
}

static void s9_names(void **state) {
    (void)state;
    accept("{\"__metadata__\":{}}", 0);
    accept("{" ENTRY("twelve bytes", "U8", "[1]", "[0,1]") "}", 1);
    accept("{\"__metadata__\":{\"\":\"\"}}", 0);
    refuse("{\"__metadata__\":{\"k\":1}}", 0, "found '1' at byte 29, expected a string");
    refuse("{\"__metadata__\":{\"k\":{\"n\":\"v\"}}}", 0, "expected a string");
    refuse("{\"__metadata__\":{\"k\":null}}", 0, "expected a string");
    refuse("{\"__metadata__\":[]}", 0, "expected '{' of __metadata__");
    refuse("{" ENTRY("__metadata__", "U8", "[1]", "[0,1]") "}", 1, "expected a string");
    refuse("{" ENTRY("", "U8", "[1]", "[0,1]") "}", 1, "a tensor name of 0 bytes");
    refuse("{" ENTRY("a\\u0000", "U8", "[1]", "[0,1]") "}", 1, "control bytes in the tensor name");
    refuse("{" ENTRY("a\\u001b[2J", "U8", "[1]", "[0,1]") "}", 1, "name \"a?[2J\"");
    refuse("{" ENTRY("a\\u007f", "U8", "[1]", "[0,1]") "}", 1, "control bytes");
    for (size_t n = 4096; n < 2000000; n = n == 4096 ? 4097 : n * 300) {
        test_bytes b = {0};
        char *name = malloc(n);
        memset(name, 'n', n);
        tb_add(&b, "{\"", 2);
        tb_add(&b, name, n);
        tb_print(&b, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
        free(name);
        if (n > 4096) {
            refuse_n((char *)b.p, b.n, 1, "bytes, expected 1 to 4096");
        } else {
            pare_st *s;
            assert_ok(open_n(&s, (char *)b.p, b.n, 1, err));
            pare_st_close(s);
        }
        tb_free(&b);
    }
}

/* 200,000 tensors in reverse order. The full row (1,000,000, 94 MB) takes five times as long. */
static void s10_many_tensors(void **state) {
    (void)state;
    enum { N = 200000 };
    test_bytes header = {0};
    for (int i = 0; i < N; i++)
        tb_print(&header, "%c" ENTRY("model.layers.%d.weight", "BF16", "[1]", "[%d,%d]"),
                 i ? ',' : '{', i, 2 * (N - 1 - i), 2 * (N - i));
    tb_add(&header, "}", 1);
    test_bytes file = test_st_build((char *)header.p, header.n, 2 * (size_t)N);
    pare_st *s;
    double start = pare_now_s();
    assert_ok(pare_st_open_memory(&s, file.p, file.n, "x.st", err));
    assert_true(pare_now_s() - start < 20.0);
    assert_int_equal(pare_st_n_tensors(s), N);
    assert_string_equal(pare_st_tensor_at(s, 0)->name, "model.layers.199999.weight");
    assert_int_equal(pare_st_find(s, "model.layers.7.weight")->offset,
                     8 + header.n + 2 * (N - 1 - 7));
    pare_st_close(s);
    tb_free(&header);
    tb_free(&file);
}

static void every_cut_is_refused(void **state) {
    (void)state;
    test_bytes file = test_st_build(TEST_ST_HEADER, strlen(TEST_ST_HEADER), TEST_ST_DATA);
    for (size_t n = 0; n < file.n; n++) {
        pare_st *s = NULL;
        pare_error err = {0};
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, file.p, n);
        pare_status st = pare_st_open_memory(&s, exact, n, "x.st", &err);
        if (st != PARE_ERR_INPUT || s || !err.message[0])
            fail_msg("cut at %zu: found %s", n, pare_status_name(st));
        free(exact);
    }
    /* the header cut at each byte, with a length that says so */
    for (size_t n = 1; n + 2 < strlen(TEST_ST_HEADER); n++)
        refuse_n(TEST_ST_HEADER, n, TEST_ST_DATA, "found");
    tb_free(&file);
}

/* --- S11: folders --- */

static void write_file(const char *folder, const char *name, const char *header, size_t n_data) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    test_bytes b = test_st_build(header, strlen(header), n_data);
    test_write(path, b.p, b.n);
    tb_free(&b);
}

static void write_text(const char *folder, const char *name, const char *text) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    test_write(path, text, strlen(text));
}

#define PART_1 "model-00001-of-00002.safetensors"
#define PART_2 "model-00002-of-00002.safetensors"
#define INDEX "model.safetensors.index.json"
#define GOOD_MAP "\"a\":\"" PART_1 "\",\"b\":\"" PART_2 "\",\"c\":\"" PART_2 "\""

/* A folder with two parts, a in the first, b and c in the second, and an index with that map. */
static const char *sharded(const char *folder, const char *total, const char *map) {
    const char *path = test_path(folder);
    assert_int_equal(mkdir(path, 0700), 0);
    write_file(folder, PART_1, "{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 2);
    write_file(folder, PART_2,
               "{" ENTRY("b", "U8", "[3]", "[0,3]") "," ENTRY("c", "U8", "[1]", "[3,4]") "}", 4);
    char text[2000];
    snprintf(text, sizeof text, "{\"metadata\":{%s},\"weight_map\":{%s}}", total, map);
    write_text(folder, INDEX, text);
    return path;
}

static void s11_index(void **state) {
    (void)state;
    pare_st *s;
    assert_ok(pare_st_open(&s, sharded("d1", "\"total_size\":6", GOOD_MAP), err));
    assert_int_equal(pare_st_n_files(s), 2);
    assert_int_equal(pare_st_n_tensors(s), 3);
    assert_int_equal(pare_st_n_warnings(s), 0);
    assert_int_equal(pare_st_find(s, "c")->file, 1);
    pare_st_close(s);
    assert_ok(pare_st_open(&s, sharded("d2", "\"total_size\":7", GOOD_MAP), err));
    assert_int_equal(pare_st_n_warnings(s), 1);
    assert_non_null(strstr(pare_st_warning(s, 0), "total_size: found 7, expected 6"));
    pare_st_close(s);
    assert_ok(pare_st_open(&s, sharded("d3", "", GOOD_MAP), err));
    assert_non_null(strstr(pare_st_warning(s, 0), "found none, expected 6"));
    pare_st_close(s);

    static const struct {
        const char *map, *message;
    } bad[] = {
        {"\"a\":\"" PART_1 "\",\"b\":\"" PART_2 "\"", "weight_map: c: found nothing, expected"},
        {GOOD_MAP ",\"d\":\"" PART_2 "\"", "weight_map: d: found no such tensor in"},
        {"\"a\":\"" PART_2 "\",\"b\":\"" PART_2 "\",\"c\":\"" PART_1 "\"", "weight_map: a: found"},
        {GOOD_MAP ",\"d\":\"none.safetensors\"", "none.safetensors: open"},
        {"\"a\":\"/etc/x.safetensors\"", "a: found /etc/x.safetensors, expected the name"},
        {"\"a\":\"../d1/" PART_1 "\"", "expected the name of a .safetensors file in the folder"},
        {"\"a\":\"sub\\\\x.safetensors\"", "expected the name"},
        {"\"a\":\"...safetensors\"", "expected the name"},
        {"\"a\":\"config.json\"", "expected the name"},
        {"\"a\":\"\"", "expected the name"},
        {"\"a\":\"x\\u0001.safetensors\"", "expected the name"},
        {"\"a\":3", "a: found no string, expected the name"},
        {"", "weight_map: found no tensors"},
        {"\"a\":\"" PART_1 "\",\"a\":\"" PART_2 "\"", "duplicate object key"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char folder[20];
        snprintf(folder, sizeof folder, "bad%zu", i);
        assert_fails(pare_st_open(&s, sharded(folder, "\"total_size\":6", bad[i].map), err),
                     PARE_ERR_INPUT, bad[i].message);
    }
    const char *path = sharded("d4", "", GOOD_MAP);
    write_text("d4", INDEX, "{\"weight_map\":[1]}");
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, "found an array, expected an object");
    write_text("d4", INDEX, "{}");
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, "weight_map: found none");
    write_text("d4", INDEX, "");
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, INDEX ": line 1");

    test_bytes many = {0};
    for (int n = 2048; n <= 2049; n++) {
        tb_print(&many, "{\"weight_map\":{");
        for (int i = 0; i < n; i++)
            tb_print(&many, "%s\"t%d\":\"f%d.safetensors\"", i ? "," : "", i, i);
        tb_add(&many, "}}", 3);
        write_text("d4", INDEX, (char *)many.p);
        tb_free(&many);
        assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT,
                     n == 2048 ? "f0.safetensors: open" : "found 2049 files, expected at most");
    }

    /* a tensor in two parts */
    path = sharded("d5", "", GOOD_MAP);
    write_file("d5", PART_1,
               "{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[1]", "[2,3]") "}", 3);
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, "weight_map: b: found");
    path = sharded("d6", "", GOOD_MAP);
    assert_int_equal(unlink(test_path("d6/" PART_2)), 0);
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, PART_2 ": open");
    path = sharded("d7", "", GOOD_MAP);
    write_text("d7", PART_2, "short");
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, PART_2 ": header: found a file of 5");
}

static void s11_links(void **state) {
    (void)state;
    pare_st *s;
    const char *outside = sharded("outside", "", GOOD_MAP);
    char target[600];
    snprintf(target, sizeof target, "%s/" PART_2, outside);
    const char *path = sharded("linked", "", GOOD_MAP), *part = test_path("linked/" PART_2);
    assert_int_equal(unlink(part), 0);
    assert_int_equal(symlink(target, part), 0);
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, "found a link to");
    /* a neighbour whose name begins alike is outside too */
    outside = sharded("linked2", "", GOOD_MAP);
    snprintf(target, sizeof target, "%s/" PART_2, outside);
    assert_int_equal(unlink(part), 0);
    assert_int_equal(symlink(target, part), 0);
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, "found a link to");
    /* a link inside the folder is fine */
    path = sharded("inside", "\"total_size\":6", GOOD_MAP);
    assert_int_equal(rename(test_path("inside/" PART_2), test_path("inside/blob")), 0);
    assert_int_equal(symlink("blob", test_path("inside/" PART_2)), 0);
    assert_ok(pare_st_open(&s, path, err));
    pare_st_close(s);
    /* and the layout of the hub's cache: snapshots/REVISION/FILE -> ../../blobs/HASH */
    assert_int_equal(mkdir(test_path("hub"), 0700), 0);
    assert_int_equal(mkdir(test_path("hub/snapshots"), 0700), 0);
    assert_int_equal(mkdir(test_path("hub/blobs"), 0700), 0);
    path = sharded("hub/snapshots/rev", "\"total_size\":6", GOOD_MAP);
    assert_int_equal(rename(test_path("hub/snapshots/rev/" PART_2), test_path("hub/blobs/1f")), 0);
    assert_int_equal(symlink("../../blobs/1f", test_path("hub/snapshots/rev/" PART_2)), 0);
    assert_ok(pare_st_open(&s, path, err));
    pare_st_close(s);
}

static void folders(void **state) {
    (void)state;
    pare_st *s;
    const char *path = test_path("empty");
    assert_int_equal(mkdir(path, 0700), 0);
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT,
                 "found 0 .safetensors files, expected model.safetensors or " INDEX);
    write_text("empty", "weights.pt", "x");
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_UNSUPPORTED, "weights.pt)");
    write_text("empty", "weights.pth", "x");
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_UNSUPPORTED, "weights.pth");
    write_text("empty", "pytorch_model.bin", "x");
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_UNSUPPORTED, "pickle");
    write_file("empty", "adapter.safetensors", "{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 2);
    assert_ok(pare_st_open(&s, path, err)); /* the only one */
    pare_st_close(s);
    write_file("empty", "other.safetensors", "{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 2);
    assert_fails(pare_st_open(&s, path, err), PARE_ERR_INPUT, "found 2 .safetensors files");
    write_file("empty", "model.safetensors", "{" ENTRY("m", "U8", "[2]", "[0,2]") "}", 2);
    write_text("empty", INDEX, "not read");
    assert_ok(pare_st_open(&s, path, err));
    assert_non_null(pare_st_find(s, "m"));
    pare_st_close(s);
}

static void s13_shrinking(void **state) {
    (void)state;
    test_bytes file = test_st_build(TEST_ST_HEADER, strlen(TEST_ST_HEADER), TEST_ST_DATA);
    const char *path = test_write("shrinks.safetensors", file.p, file.n);
    pare_st *s;
    assert_ok(pare_st_open(&s, path, err));
    assert_int_equal(truncate(path, (off_t)file.n - 1), 0);
    const pare_st_tensor *t = pare_st_find(s, "half");
    uint8_t data[3];
    assert_fails(pare_file_read_at(pare_st_file(s, 0), data, 3, t->offset, err), PARE_ERR_IO,
                 "the file ended");
    pare_st_close(s);
    tb_free(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_file),     cmocka_unit_test(s1_short_files),
        cmocka_unit_test(s2_header_length), cmocka_unit_test(s3_syntax),
        cmocka_unit_test(s4_duplicates),    cmocka_unit_test(s5_fields),
        cmocka_unit_test(s6_products),      cmocka_unit_test(s7_sizes),
        cmocka_unit_test(s8_cover),         cmocka_unit_test(s9_names),
        cmocka_unit_test(s10_many_tensors), cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(s11_index),        cmocka_unit_test(s11_links),
        cmocka_unit_test(folders),          cmocka_unit_test(s13_shrinking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
