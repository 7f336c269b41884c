/* Makes a small valid GGUF file and lets one field be bent: fill a test_gguf by test_gguf_default,
 * change what the test is about, build.
 *
 *     test_gguf s = test_gguf_default();
 *     s.tensors[1].ne[0] = 33;
 *     test_bytes file = test_gguf_build(&s);   // frees the spec's own bytes
 *     ...
 *     tb_free(&file); */
#ifndef PARE_TESTS_SUPPORT_GGUF_BUILD_H
#define PARE_TESTS_SUPPORT_GGUF_BUILD_H

#include "support/build.h"

#define TEST_GGUF_AUTO UINT64_MAX /* computed */

typedef struct test_gguf_tensor {
    const char *name;
    uint64_t name_len; /* AUTO = strlen */
    uint32_t n_dims;
    uint64_t ne[8];
    uint32_t type;
    uint64_t n_bytes; /* of data written (padded); what type and shape need */
    uint64_t offset;  /* AUTO = sum of those before */
} test_gguf_tensor;

typedef struct test_gguf {
    const char *magic;
    uint32_t version;
    uint64_t n_tensors, n_pairs; /* as declared; AUTO = true */
    test_bytes pairs;            /* raw, `true_pairs` of them */
    uint64_t true_pairs;
    test_gguf_tensor tensors[8];
    uint64_t true_tensors;
    uint64_t alignment; /* of offsets and data */
    uint64_t extra;     /* bytes after the end */
    int no_last_padding;
} test_gguf;

static inline void gb_string(test_bytes *b, const char *s, size_t n) {
    tb_int(b, n, 8);
    tb_add(b, s, n);
}

/* A pair's key and type; the value follows by tb_*. */
static inline void gb_key(test_gguf *s, const char *key, uint32_t type) {
    gb_string(&s->pairs, key, strlen(key));
    tb_int(&s->pairs, type, 4);
    s->true_pairs++;
}
static inline void gb_int(test_gguf *s, const char *key, uint32_t type, uint64_t v, size_t size) {
    gb_key(s, key, type);
    tb_int(&s->pairs, v, size);
}
static inline void gb_text(test_gguf *s, const char *key, const char *v) {
    gb_key(s, key, 8);
    gb_string(&s->pairs, v, strlen(v));
}
/* An array's head; the items follow. */
static inline void gb_array(test_gguf *s, const char *key, uint32_t item, uint64_t count) {
    gb_key(s, key, 9);
    tb_int(&s->pairs, item, 4);
    tb_int(&s->pairs, count, 8);
}

static inline test_gguf test_gguf_default(void) {
    test_gguf s = {.magic = "GGUF",
                   .version = 3,
                   .n_tensors = TEST_GGUF_AUTO,
                   .n_pairs = TEST_GGUF_AUTO,
                   .true_tensors = 3,
                   .alignment = 32};
    s.tensors[0] = (test_gguf_tensor){"a.weight", TEST_GGUF_AUTO, 2, {4, 2}, 0, 32, TEST_GGUF_AUTO};
    s.tensors[1] =
        (test_gguf_tensor){"b.weight", TEST_GGUF_AUTO, 2, {64, 3}, 2, 108, TEST_GGUF_AUTO};
    s.tensors[2] = (test_gguf_tensor){"c.bias", TEST_GGUF_AUTO, 1, {5}, 1, 10, TEST_GGUF_AUTO};
    gb_text(&s, "general.architecture", "llama");
    gb_int(&s, "llama.block_count", 4, 2, 4);
    return s;
}

/* One pair of each type. */
static inline void test_gguf_all_types(test_gguf *s) {
    float f = 1.5f;
    double d = -2.25;
    gb_int(s, "t.u8", 0, 200, 1);
    gb_int(s, "t.i8", 1, (uint64_t)-5, 1);
    gb_int(s, "t.u16", 2, 60000, 2);
    gb_int(s, "t.i16", 3, (uint64_t)-300, 2);
    gb_int(s, "t.u32", 4, 4000000000u, 4);
    gb_int(s, "t.i32", 5, (uint64_t)-70000, 4);
    gb_key(s, "t.f32", 6);
    tb_add(&s->pairs, &f, 4);
    gb_int(s, "t.bool", 7, 1, 1);
    gb_text(s, "t.string", "text");
    gb_int(s, "t.u64", 10, (uint64_t)1 << 40, 8);
    gb_int(s, "t.i64", 11, (uint64_t) - ((int64_t)1 << 40), 8);
    gb_key(s, "t.f64", 12);
    tb_add(&s->pairs, &d, 8);
    gb_array(s, "t.strings", 8, 3);
    gb_string(&s->pairs, "", 0);
    gb_string(&s->pairs, "b\0c", 3);
    gb_string(&s->pairs, "\xE2\x96\x81x", 4);
    gb_array(s, "t.f32s", 6, 2);
    tb_add(&s->pairs, (float[]){0.5f, -1.0f}, 8);
    gb_array(s, "t.i32s", 5, 3);
    tb_add(&s->pairs, (int32_t[]){1, -2, 3}, 12);
    gb_array(s, "t.u8s", 0, 2);
    tb_add(&s->pairs, "\1\2", 2);
    gb_array(s, "t.bools", 7, 2);
    tb_add(&s->pairs, "\0\1", 2);
    gb_array(s, "t.empty", 4, 0);
}

static inline test_bytes test_gguf_build(test_gguf *s) {
    test_bytes b = {0};
    tb_add(&b, s->magic, strlen(s->magic));
    tb_int(&b, s->version, 4);
    tb_int(&b, s->n_tensors == TEST_GGUF_AUTO ? s->true_tensors : s->n_tensors, 8);
    tb_int(&b, s->n_pairs == TEST_GGUF_AUTO ? s->true_pairs : s->n_pairs, 8);
    tb_add(&b, s->pairs.p, s->pairs.n);
    uint64_t offset = 0;
    for (uint64_t i = 0; i < s->true_tensors; i++) {
        const test_gguf_tensor *t = &s->tensors[i];
        size_t n = strlen(t->name);
        tb_int(&b, t->name_len == TEST_GGUF_AUTO ? n : t->name_len, 8);
        tb_add(&b, t->name, t->name_len != TEST_GGUF_AUTO && t->name_len < 300 ? t->name_len : n);
        tb_int(&b, t->n_dims, 4);
        for (uint32_t d = 0; d < t->n_dims && d < 8; d++) tb_int(&b, t->ne[d], 8);
        tb_int(&b, t->type, 4);
        tb_int(&b, t->offset == TEST_GGUF_AUTO ? offset : t->offset, 8);
        offset += (t->n_bytes + s->alignment - 1) / s->alignment * s->alignment;
    }
    for (uint64_t i = 0; i < s->true_tensors; i++) {
        if (s->alignment > 0 && s->alignment < 4096) tb_zeros(&b, (size_t)(-b.n % s->alignment));
        tb_zeros(&b, (size_t)s->tensors[i].n_bytes);
    }
    if (!s->no_last_padding && s->alignment < 4096) tb_zeros(&b, (size_t)(-b.n % s->alignment));
    tb_zeros(&b, (size_t)s->extra);
    tb_free(&s->pairs);
    return b;
}

#endif
