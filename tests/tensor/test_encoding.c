/* Encodings: golden values of the reference (formats.md 7.2: made with ggml, gcc 12, no FMA
 * contraction), every variant of the kernels against plain C, round trips, and what untrusted bytes
 * and unusual numbers do. */
#include "support/test.h"

#include "base/hash.h"
#include "base/rng.h"
#include "kernels/blocks.h"
#include "tensor/encoding.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { DECODED = 2048, GOLDEN_ROWS = 4, GOLDEN_COLS = 1024 };

/* ---- golden values ---- */

static uint32_t lcg; /* the generator of the golden values */
static uint32_t next(void) { return lcg = lcg * 1664525u + 1013904223u; }

typedef struct golden {
    const char *name;
    int half[2]; /* offsets of the half floats in a block; -1 = none */
    uint32_t block_crc, decoded_crc;
    float y0, y1, y2047;
    uint32_t encoded_crc, informed_crc;
} golden;

static const golden goldens[] = {
    {"q4_0",
     {0, -1},
     0x8bf2340c,
     0x20c45f30,
     0.0329360962f,
     -0.0658721924f,
     -0.0281982422f,
     0x904ec01a,
     0x51f04182},
    {"q4_1",
     {0, 2},
     0xc3c9b8df,
     0xbafcc305,
     0.137565613f,
     0.19985199f,
     0.0556793213f,
     0x16cdcb51,
     0xd32c3a4f},
    {"q5_0",
     {0, -1},
     0x7dc458c5,
     0x7efd339a,
     0.15562439f,
     0.133392334f,
     -0.0823364258f,
     0x192fcf50,
     0xcfb2f2dc},
    {"q5_1",
     {0, 2},
     0x17696a2d,
     0x206bb7cd,
     0.0915603638f,
     0.0915603638f,
     0.271934509f,
     0xcaff00cf,
     0x0422b2a2},
    {"q8_0",
     {0, -1},
     0x27fa03dd,
     0x5a088008,
     -1.43714905f,
     -1.15463257f,
     1.18331909f,
     0x44065b46,
     0x44065b46},
    {"q2_k",
     {80, 82},
     0xc2e88463,
     0x1dd7f10e,
     0.0637054443f,
     0.0637054443f,
     0.0203704834f,
     0xc95d9096,
     0xf272135a},
    {"q3_k",
     {108, -1},
     0xf04badee,
     0xf90c03ce,
     0.113708496f,
     -0.113708496f,
     -0.23135376f,
     0xe5a89d22,
     0x5f5f8c3c},
    {"q4_k",
     {0, 2},
     0xbf33c8e6,
     0x015d939f,
     1.43786621f,
     1.43786621f,
     2.79865265f,
     0xf517d7c8,
     0x56f24115},
    {"q5_k",
     {0, 2},
     0x6165df58,
     0x9ceec13b,
     6.39642334f,
     7.66229248f,
     0.268783569f,
     0x51e8e7d8,
     0x86701194},
    {"q6_k",
     {208, -1},
     0x96b5c580,
     0xef5244ab,
     23.0352402f,
     21.938324f,
     -0.116500854f,
     0x3d6788eb,
     0x7bb97e90},
    {"iq4_nl",
     {0, -1},
     0x8bf2340c,
     0xce9bff6f,
     0.417190552f,
     -0.911231995f,
     -0.310180664f,
     0x8aad98f6,
     0x80e6d635},
    {"iq4_xs",
     {0, -1},
     0xe82d5888,
     0xb174ebed,
     0.31036377f,
     0.31036377f,
     -16.0923615f,
     0x193895aa,
     0x0124474b},
};
enum { N_GOLDENS = sizeof goldens / sizeof goldens[0] };

static void test_golden_decode(void **state) {
    (void)state;
    static uint8_t bytes[64 * 256];
    static float y[DECODED];
    for (int g = 0; g < N_GOLDENS; g++) {
        const golden *gold = &goldens[g];
        const pare_encoding *e = pare_encoding_find(gold->name);
        size_t row = pare_encoding_row_bytes(e, DECODED);
        lcg = 12345;
        for (size_t at = 0; at < row; at += e->block_bytes) {
            for (size_t i = 0; i < e->block_bytes; i++) bytes[at + i] = (uint8_t)(next() >> 24);
            for (int h = 0; h < 2 && gold->half[h] >= 0; h++) {
                uint16_t half = (uint16_t)(0x2000 + (next() >> 22));
                memcpy(bytes + at + gold->half[h], &half, 2);
            }
        }
        assert_ok(pare_encoding_decode_row(e, y, bytes, DECODED, err));
        if (pare_crc32(0, bytes, row) != gold->block_crc ||
            pare_crc32(0, y, sizeof y) != gold->decoded_crc || y[0] != gold->y0 ||
            y[1] != gold->y1 || y[DECODED - 1] != gold->y2047)
            fail_msg("%s: blocks %08x, decoded %08x, y %.9g %.9g %.9g", gold->name,
                     pare_crc32(0, bytes, row), pare_crc32(0, y, sizeof y), (double)y[0],
                     (double)y[1], (double)y[DECODED - 1]);
    }
}

static void golden_input(float x[GOLDEN_ROWS * GOLDEN_COLS], float importance[GOLDEN_COLS]) {
    lcg = 777;
    for (int i = 0; i < GOLDEN_ROWS * GOLDEN_COLS; i++) {
        float sum = 0.0f;
        for (int k = 0; k < 4; k++) sum += (float)(next() >> 16);
        x[i] = (sum - 131070.0f) / 32768.0f;
    }
    for (int i = 0; i < GOLDEN_COLS; i++) importance[i] = 1.0f + (float)(next() >> 24) / 64.0f;
    assert_int_equal(pare_crc32(0, x, sizeof(float) * GOLDEN_ROWS * GOLDEN_COLS), 0xdd2afe9d);
    assert_int_equal(pare_crc32(0, importance, sizeof(float) * GOLDEN_COLS), 0xf067ecbb);
}

static void test_golden_encode(void **state) {
    (void)state;
    static float x[GOLDEN_ROWS * GOLDEN_COLS], importance[GOLDEN_COLS];
    golden_input(x, importance);
    for (pare_isa isa = PARE_ISA_REF; isa <= pare_isa_best(); isa++) {
        pare_runtime *rt = test_runtime(2, isa);
        for (int g = 0; g < N_GOLDENS; g++) {
            const golden *gold = &goldens[g];
            const pare_encoding *e = pare_encoding_find(gold->name);
            for (int informed = 0; informed < 2; informed++) {
                pare_tensor t;
                assert_ok(pare_tensor_encode(rt, &t, e, x, GOLDEN_ROWS, GOLDEN_COLS,
                                             informed ? importance : NULL, err));
                uint32_t crc = pare_crc32(0, t.view.part[0], pare_tensor_bytes(&t));
                uint32_t expected = informed ? gold->informed_crc : gold->encoded_crc;
                if (crc != expected)
                    fail_msg("%s (%s, importance %d): found %08x, expected %08x", gold->name,
                             pare_isa_name(isa), informed, crc, expected);
                pare_tensor_free(&t);
            }
        }
        pare_runtime_free(rt);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_decode),
        cmocka_unit_test(test_golden_encode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
