/* Text checks, growing bytes and the index of names. */
#include "support/test.h"

#include "io/common.h"

#include <stdio.h>
#include <stdlib.h>

/* The definition, code point by code point: what UTF-8 may hold. */
static bool utf8_reference(const uint8_t *p, size_t n) {
    while (n) {
        uint32_t c = p[0];
        size_t len = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
        static const uint32_t first[] = {0, 0, 0x80, 0x800, 0x10000};
        if (!len || n < len) return false;
        if (len > 1) c &= 0x7Fu >> len;
        for (size_t i = 1; i < len; i++) {
            if (p[i] >> 6 != 2) return false;
            c = c << 6 | (p[i] & 0x3F);
        }
        if (c < first[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return false;
        p += len;
        n -= len;
    }
    return true;
}

static void utf8(void **state) {
    (void)state;
    /* all sequences of two bytes, all leads with chosen bytes behind, at both ends of the fast path
     */
    static const uint8_t tails[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90,
                                    0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
    enum { N = sizeof tails };
    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0; b < 256; b++)
            for (unsigned c = 0; c < N; c++)
                for (unsigned d = 0; d < N; d++) {
                    uint8_t s[12] = "aaaaaaaa";
                    uint8_t tail[4] = {(uint8_t)a, (uint8_t)b, tails[c], tails[d]};
                    memcpy(s + 7, tail, 4);
                    bool expected = utf8_reference(s, 11);
                    if (pare_utf8_valid((char *)s, 11) != expected ||
                        pare_utf8_valid((char *)tail, 4) != expected)
                        fail_msg("%02x %02x %02x %02x", a, b, tails[c], tails[d]);
                    if (c == 0 && d == 0 &&
                        pare_utf8_valid((char *)tail, 2) != utf8_reference(tail, 2))
                        fail_msg("%02x %02x", a, b);
                }
    assert_true(pare_utf8_valid("", 0));
    assert_true(pare_name_valid("\xC3\xA9 x", 4));
    assert_false(pare_name_valid("a\x1F", 2));
    assert_false(pare_name_valid("a\x7F", 2));
    assert_false(pare_name_valid("\xC3", 1));
}

static void clipping(void **state) {
    (void)state;
    assert_int_equal(pare_clip("abc", 3, 3), 3);
    assert_int_equal(pare_clip("abcd", 4, 3), 3);
    assert_int_equal(pare_clip("ab\xE2\x96\x81", 5, 5), 5);
    assert_int_equal(pare_clip("ab\xE2\x96\x81", 5, 4), 2);
    assert_int_equal(pare_clip("ab\xE2\x96\x81", 5, 3), 2);
    assert_int_equal(pare_clip("\x80\x80\x80", 3, 2), 0);
}

static pare_span number_name(const void *owner, size_t i) {
    const char(*names)[12] = owner;
    return (pare_span){names[i], strlen(names[i])};
}

static void names(void **state) {
    (void)state;
    static const size_t counts[] = {0, 1, 8, 9, 3000, 140000}; /* the last one in huge pages */
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        size_t n = counts[k], twin;
        char(*list)[12] = calloc(n + 1, sizeof *list);
        for (size_t i = 0; i < n; i++) snprintf(list[i], sizeof list[i], "%u", (unsigned)i * 7);
        pare_names index;
        assert_true(pare_names_build(&index, list, number_name, n, &twin));
        assert_true(twin == SIZE_MAX);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(pare_names_find(&index, list, number_name, list[i], strlen(list[i])),
                             i);
        assert_true(pare_names_find(&index, list, number_name, "1", 1) == SIZE_MAX);
        assert_true(pare_names_find(&index, list, number_name, "", 0) == SIZE_MAX);
        pare_names_free(&index);
        if (n > 1) { /* the last equals one in the middle */
            memcpy(list[n - 1], list[n / 2 - 1], sizeof list[0]);
            assert_true(pare_names_build(&index, list, number_name, n, &twin));
            assert_int_equal(twin, n - 1);
            pare_names_free(&index);
        }
        free(list);
    }
    pare_names empty = {0};
    assert_true(pare_names_find(&empty, NULL, number_name, "a", 1) == SIZE_MAX);
    pare_names_free(&empty);
}

static void buffers(void **state) {
    (void)state;
    pare_buffer b = {0};
    pare_buffer_add(&b, NULL, 0);
    for (int i = 0; i < 1000; i++) pare_buffer_print(&b, "%d,", i);
    assert_false(b.failed);
    assert_int_equal(b.n, 10 * 2 + 90 * 3 + 900 * 4);
    assert_memory_equal(b.data + b.n - 8, "998,999,", 8);
    char longer[600];
    memset(longer, 'x', 599);
    longer[599] = '\0';
    pare_buffer_print(&b, "%s", longer); /* too long for it: told, not cut */
    assert_true(b.failed);
    size_t n = b.n;
    pare_buffer_add(&b, "y", 1);
    assert_int_equal(b.n, n);
    pare_buffer_free(&b);
    pare_buffer_add(&b, "z", 1);
    pare_buffer_add(&b, "z", SIZE_MAX);
    assert_true(b.failed);
    pare_buffer_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8),
        cmocka_unit_test(clipping),
        cmocka_unit_test(names),
        cmocka_unit_test(buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
