/* Encodings: golden values of the reference (formats.md 7.2: made with ggml, gcc 12, no FMA
 * contraction), every variant of the kernels against plain C, round trips, and what untrusted bytes
 * and unusual numbers do. */
#include "support/test.h"

#include "base/hash.h"
#include "base/rng.h"
#include "kernels/blocks.h"
#include "tensor/encoding.h"
#include "tensor/pack.h"

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

/* ---- helpers ---- */

static bool writes(const pare_encoding *e) { return e->encode_row || e->encode_matrix; }
static bool is_sparse(const pare_encoding *e) { return e->block_bytes == 0; }

/* A width that every encoding takes and that ends in a short super-block where there are any. */
static size_t width(const pare_encoding *e) { return e->block_len <= 64 ? 576 : 768; }

/* Normal values; for N:M forms with the pattern (2:4 is 4:8 too). */
static float *matrix(const pare_encoding *e, size_t rows, size_t cols, float scale) {
    float *x = pare_malloc(rows * cols, sizeof *x);
    for (size_t i = 0; i < rows * cols; i++) {
        x[i] = scale * pare_rng_normal(3, 0, i);
        if (is_sparse(e) && e->block_len == 8 && (i + i / 4) % 4 < 2) x[i] = 0.0f;
    }
    return x;
}

static double relative_rms(const float *y, const float *x, size_t n) {
    double error = 0.0, power = 0.0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        power += (double)x[i] * x[i];
    }
    return sqrt(error / power);
}

/* ---- the registry ---- */

static void test_registry(void **state) {
    (void)state;
    size_t n = 0;
    for (const pare_encoding *e; (e = pare_encoding_at(n)); n++) {
        assert_ptr_equal(pare_encoding_find(e->name), e);
        assert_string_equal(pare_encoding_name(e), e->name);
        assert_true(strlen(pare_encoding_summary(e)) > 0 && e->n_parts >= 1 && e->decode);
        if (e->ggml_type >= 0) assert_ptr_equal(pare_encoding_from_ggml(e->ggml_type), e);
        if (e->safetensors_dtype)
            assert_ptr_equal(pare_encoding_from_dtype(e->safetensors_dtype), e);
        assert_true(!e->encode_row != !e->encode_matrix || !writes(e));
        assert_true(!writes(e) || e->max_abs >= 65504.0f);
        assert_true(!e->codes || e->code_group == 16 || e->code_group == 32);
        assert_true(is_sparse(e) ? pare_encoding_bits_per_weight(e) == 0.0
                                 : pare_encoding_bits_per_weight(e) > 1.0);
    }
    assert_int_equal(n, 33 + 48);
    assert_null(pare_encoding_find("q9_k"));
    assert_null(pare_encoding_from_ggml(-1));
    assert_null(pare_encoding_from_ggml(16));
    assert_null(pare_encoding_from_dtype("F64"));
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("q4_k"), 512), 288);
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("q4_k"), 576), 0);
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("q4_k_tail"), 576), 288 + 48);
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("q5_k_tail"), 640), 352 + 96);
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("q6_k_tail"), 64), 54);
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("q6_k_tail"), 32), 0);
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("q8_0"), SIZE_MAX - 31), 0);
    assert_int_equal(pare_encoding_row_bytes(pare_encoding_find("bitmap_q8"), 64), 0);
}

/* ---- round trips ---- */

/* Largest accepted relative RMS error on normal values; measured values in docs/encodings.md. */
static const struct {
    const char *name;
    double bound;
} bounds[] = {
    {"f32", 0.0},         {"f16", 0.0003},      {"bf16", 0.002},        {"q8_0", 0.006},
    {"q6_k", 0.019},      {"q6_k_tail", 0.019}, {"q5_k", 0.037},        {"q5_k_tail", 0.037},
    {"q5_1", 0.040},      {"q5_0", 0.045},      {"q4_k", 0.075},        {"q4_k_tail", 0.075},
    {"q4_1", 0.082},      {"q4_0", 0.091},      {"iq4_xs", 0.081},      {"iq4_nl", 0.079},
    {"mxfp4", 0.125},     {"q3_k", 0.16},       {"q2_k", 0.31},         {"tq2_0", 0.95},
    {"tq1_0", 0.95},      {"q1_0", 0.61},       {"bitmap_bf16", 0.002}, {"bitmap_q8", 0.007},
    {"nm24_bf16", 0.002}, {"nm24_q8", 0.006},   {"nm48_bf16", 0.002},   {"nm48_q8", 0.006},
    {"bitmap_q4", 0.11},  {"nm24_q4", 0.10},    {"nm48_q4", 0.10}};

static void test_round_trip(void **state) {
    (void)state;
    enum { ROWS = 19 };
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        const pare_encoding *e = pare_encoding_find(bounds[b].name);
        size_t cols = width(e);
        float *x = matrix(e, ROWS, cols, 0.02f), *y = pare_malloc(ROWS * cols, sizeof *y);
        pare_tensor t;
        assert_ok(pare_tensor_encode(rt, &t, e, x, ROWS, cols, NULL, err));
        assert_ok(pare_tensor_validate(&t, err));
        pare_tensor_decode(rt, y, &t);
        double error = relative_rms(y, x, ROWS * cols);
        if (!(error <= bounds[b].bound && error >= 0.8 * bounds[b].bound - 0.001))
            fail_msg("%s: relative RMS error %.4f, expected at most and near %.4f", e->name, error,
                     bounds[b].bound);
        assert_int_equal(t.n_flushed, 0);
        pare_tensor_free(&t);
        pare_free(x);
        pare_free(y);
    }
    pare_runtime_free(rt);
}

/* codes() and decode(), on stored bytes of any kind, in pieces and as a whole: the same bits. */
static void test_codes_equal_decode(void **state) {
    (void)state;
    enum { ROWS = 3 };
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        if (!e->codes) continue;
        size_t cols = width(e), row = pare_encoding_row_bytes(e, cols);
        pare_tensor t;
        uint8_t *bytes = NULL;
        if (is_sparse(e)) {
            float *x = matrix(e, ROWS, cols, 1.0f);
            assert_ok(pare_tensor_encode(rt, &t, e, x, ROWS, cols, NULL, err));
            pare_free(x);
        } else { /* random bytes: a block with NaN is made zero */
            bytes = pare_malloc(ROWS * row, 1);
            for (size_t k = 0; k < ROWS * row; k++)
                bytes[k] = (uint8_t)(pare_rng_uniform(5, i, k) * 256.0f);
            t = pare_tensor_wrap(e, bytes, ROWS, cols);
            if (pare_tensor_validate(&t, NULL) != PARE_OK) memset(bytes, 0x01, ROWS * row);
            assert_ok(pare_tensor_validate(&t, err));
        }
        float *y = pare_malloc(cols, 4), *scale = pare_malloc(cols, 4),
              *offset = pare_malloc(cols, 4);
        int8_t *q = pare_malloc(cols, 1);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t col = 0; col < cols; col += 256) {
                size_t n = col ? cols - col : cols; /* the whole row, then from each 256 on */
                e->decode(y, &t.view, r, col, n);
                e->codes(q, scale, offset, &t.view, r, col, n);
                for (size_t c = 0; c < n; c++) {
                    size_t g = c / e->code_group;
                    float v = scale[g] * (float)q[c];
                    if (e->has_offset) v += offset[g];
                    assert_in_range(q[c] - e->code_min, 0, (uintmax_t)(e->code_max - e->code_min));
                    if (v != y[c])
                        fail_msg("%s: column %zu: %g and %g", e->name, col + c, (double)v,
                                 (double)y[c]);
                }
            }
        pare_free(y);
        pare_free(scale);
        pare_free(offset);
        pare_free(q);
        pare_free(bytes);
        if (is_sparse(e)) pare_tensor_free(&t);
    }
    pare_runtime_free(rt);
}

/* The few-rows kernels that descriptors name, against decode() and the same 8-bit (or f32)
 * activations in f64. */
static void test_dot_agrees(void **state) {
    (void)state;
    enum { ROWS = 5, N = 3 };
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    static float act[N * 768], back[N * 768], y[N * ROWS], w[ROWS * 768];
    static _Alignas(64) uint8_t memory[1 << 16];
    for (int k = 0; k < N * 768; k++) act[k] = pare_rng_normal(8, 0, (uint64_t)k);
    for (pare_isa isa = PARE_ISA_REF; isa <= pare_isa_best(); isa++)
        for (size_t i = 0; pare_encoding_at(i); i++) {
            const pare_encoding *e = pare_encoding_at(i);
            const pare_dot_kernels *dots = pare_dot_kernels_get(isa);
            if (!writes(e) || (!e->dot && !e->dotf) || pare_encoding_packed(e)) continue;
            size_t cols = width(e);
            float *x = matrix(e, ROWS, cols, 1.0f);
            pare_tensor t;
            assert_ok(pare_tensor_encode(rt, &t, e, x, ROWS, cols, NULL, err));
            pare_tensor_decode(rt, w, &t);
            memcpy(back, act, sizeof act);
            if (e->dot) {
                pare_act a;
                assert_true(pare_act_place(&a, memory, N, cols) <= sizeof memory);
                dots->quantize(&a, act, 768, N, cols);
                for (size_t n = 0; n < N; n++)
                    for (size_t c = 0; c < cols; c++)
                        back[n * 768 + c] =
                            a.d[n * a.d_stride + c / PARE_ACT_GROUP] * a.q[n * a.q_stride + c];
                dots->dot[e->dot](y, ROWS, &t.view, 0, ROWS, &a);
            } else {
                dots->dotf[e->dotf](y, ROWS, &t.view, 0, ROWS, act, 768, N);
            }
            for (size_t n = 0; n < N; n++)
                for (size_t r = 0; r < ROWS; r++) {
                    double sum = 0.0, size = 0.0;
                    for (size_t c = 0; c < cols; c++) {
                        double p = (double)w[r * cols + c] * back[n * 768 + c];
                        sum += p;
                        size += fabs(p);
                    }
                    /* every product and sum in f32: cols roundings; offsets make terms of several
                     * times the products' size */
                    if (!(fabs(sum - y[n * ROWS + r]) <= 8.0 * (double)cols * FLT_EPSILON * size))
                        fail_msg("%s (%s): row %zu: found %g, expected %g", e->name,
                                 pare_isa_name(isa), r, (double)y[n * ROWS + r], sum);
                }
            pare_tensor_free(&t);
            pare_free(x);
        }
    pare_runtime_free(rt);
}

/* The same bytes with 1, 2 and 3 threads and on every level, with and without importance. */
static void test_same_bytes(void **state) {
    (void)state;
    enum { ROWS = 37 };
    pare_runtime *runtimes[4];
    for (int run = 0; run < 4; run++)
        runtimes[run] = test_runtime(run ? run : 1, run ? pare_isa_best() : PARE_ISA_REF);
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        if (!writes(e)) continue;
        size_t cols = width(e);
        float *x = matrix(e, ROWS, cols, 0.1f);
        float importance[768];
        for (size_t c = 0; c < cols; c++) importance[c] = pare_rng_uniform(9, 0, c);
        for (int informed = 0; informed < 2; informed++) {
            uint32_t first = 0;
            for (int run = 0; run < 4; run++) {
                pare_runtime *rt = runtimes[run];
                pare_tensor t;
                assert_ok(pare_tensor_encode(rt, &t, e, x, ROWS, cols, informed ? importance : NULL,
                                             err));
                uint32_t crc = 0;
                for (size_t p = 0; p < e->n_parts; p++)
                    crc = pare_crc32(crc, t.view.part[p], t.part_bytes[p]);
                if (run == 0) first = crc;
                if (crc != first) fail_msg("%s: run %d differs", e->name, run);
                pare_tensor_free(&t);
            }
        }
        pare_free(x);
    }
    for (int run = 0; run < 4; run++) pare_runtime_free(runtimes[run]);
}

/* A _tail form is its plain form where both fit, and Q4_K's short block is the start of a full one.
 */
static void test_tails(void **state) {
    (void)state;
    static const char *const names[3][2] = {
        {"q4_k", "q4_k_tail"}, {"q5_k", "q5_k_tail"}, {"q6_k", "q6_k_tail"}};
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_isa_best());
    float x[832], y[832];
    uint8_t a[1024], b[1024];
    for (int i = 0; i < 832; i++) x[i] = pare_rng_normal(4, 0, (uint64_t)i);
    for (int f = 0; f < 3; f++) {
        const pare_encoding *plain = pare_encoding_find(names[f][0]),
                            *tail = pare_encoding_find(names[f][1]);
        size_t full = pare_encoding_row_bytes(plain, 768);
        plain->encode_row(k, a, x, 768, NULL);
        for (size_t cols = 64; cols <= 832; cols += 64) {
            size_t n = pare_encoding_row_bytes(tail, cols);
            memset(b, 0xA5, sizeof b);
            tail->encode_row(k, b, x, cols, NULL);
            assert_int_equal(b[n], 0xA5); /* not a byte more */
            assert_memory_equal(a, b, cols / 256 * full / 3);
            assert_ok(pare_encoding_decode_row(tail, y, b, cols, err));
            assert_true(relative_rms(y, x, cols) < 0.09);
            if (cols % 256) { /* the short block stands for itself: the same without those before */
                size_t begin = cols / 256 * 256, bytes = n - pare_encoding_row_bytes(tail, begin);
                uint8_t alone[256];
                tail->encode_row(k, alone, x + begin, cols - begin, NULL);
                assert_memory_equal(alone, b + n - bytes, bytes);
            }
        }
    }
}

/* ---- unusual numbers: N4 to N7 ---- */

/* Groups with values that all came back as zeros. */
static size_t lost_groups(const float *y, const float *x, size_t n, size_t group) {
    size_t lost = 0;
    for (size_t g = 0; g < n; g += group) {
        float in = 0.0f, out = 0.0f;
        for (size_t i = g; i < n && i < g + group; i++) {
            in = fmaxf(in, fabsf(x[i]));
            out = fmaxf(out, fabsf(y[i]));
        }
        lost += in > 0.0f && out == 0.0f;
    }
    return lost;
}

static void test_zero_and_tiny_groups(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        if (!writes(e)) continue;
        size_t cols = width(e);
        bool keeps_tiny = e->max_abs > 1e30f;  /* an 8-bit exponent */
        for (int kind = 0; kind < 3; kind++) { /* all zero; denormal; below a half's range */
            static const float sizes[] = {0.0f, 1e-40f, 1e-10f};
            float *x = matrix(e, 1, cols, sizes[kind]), *y = pare_malloc(cols, sizeof *y);
            pare_tensor t;
            assert_ok(pare_tensor_encode(rt, &t, e, x, 1, cols, NULL, err));
            assert_ok(pare_tensor_validate(&t, err));
            pare_tensor_decode(rt, y, &t);
            for (size_t c = 0; c < cols; c++) {
                if (kind == 0) assert_true(y[c] == 0.0f);
                assert_true(fabsf(y[c] - x[c]) <= 5.0f * sizes[kind]);
            }
            /* counted where they were lost (plain f16: a value is its own block, not counted) */
            if (e->encode_matrix && e->codes)
                assert_int_equal(t.n_flushed, lost_groups(y, x, cols, e->code_group));
            else if (kind && !keeps_tiny && e->block_state)
                assert_true(t.n_flushed > 0);
            else
                assert_int_equal(t.n_flushed, 0);
            pare_tensor_free(&t);
            pare_free(x);
            pare_free(y);
        }
    }
    pare_runtime_free(rt);
}

/* A constant group and one outlier: the error stays below the step that the outlier demands. */
static void test_constant_and_outlier(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        if (!writes(e) || (is_sparse(e) && e->block_len == 8)) continue;
        size_t cols = width(e);
        for (int kind = 0; kind < 3; kind++) {
            float *x = pare_malloc(cols, sizeof *x), *y = pare_malloc(cols, sizeof *y);
            for (size_t c = 0; c < cols; c++)
                x[c] = kind == 0   ? 0.37f
                       : kind == 1 ? -0.37f
                                   : (c == 5 ? 1000.0f : 0.01f * pare_rng_normal(6, 0, c));
            pare_tensor t;
            assert_ok(pare_tensor_encode(rt, &t, e, x, 1, cols, NULL, err));
            pare_tensor_decode(rt, y, &t);
            float max = kind == 2 ? 1000.0f : 0.37f;
            /* bits b: at most half a step of 2 max / (2^b - 1), 2 bits at least (one for q1_0,
             * whose scale is the mean) */
            float step = kind == 2 && strcmp(e->name, "q1_0") == 0 ? 1000.0f : max / 3.0f;
            for (size_t c = 0; c < cols; c++)
                if (!(fabsf(y[c] - x[c]) <= step))
                    fail_msg("%s: kind %d, column %zu: %g became %g", e->name, kind, c,
                             (double)x[c], (double)y[c]);
            pare_tensor_free(&t);
            pare_free(x);
            pare_free(y);
        }
    }
    pare_runtime_free(rt);
}

static void expect_failure(pare_runtime *rt, const pare_encoding *e, const float *x, size_t rows,
                           size_t cols, const char *part) {
    pare_tensor t;
    pare_error err = {0};
    assert_int_equal(pare_tensor_encode(rt, &t, e, x, rows, cols, NULL, &err), PARE_ERR_ARG);
    assert_null(t.storage);
    if (!strstr(err.message, part)) fail_msg("%s: '%s' lacks '%s'", e->name, err.message, part);
}

static void test_refused_values(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        if (!writes(e)) continue;
        size_t cols = width(e), at = 29 * cols + 41;
        float *x = matrix(e, 31, cols, 1.0f), *y = pare_malloc(31 * cols, sizeof *y), was = x[at];
        if (is_sparse(e) && e->block_len == 8) memset(x + 29 * cols + 40, 0, 32), was = 0.0f;
        x[at] = NAN;
        expect_failure(rt, e, x, 31, cols, "row 29, column 41: found nan");
        x[at] = -INFINITY;
        x[30 * cols] = NAN; /* the first one is named */
        expect_failure(rt, e, x, 31, cols, "row 29, column 41: found -inf");
        x[30 * cols] = 0.0f;
        if (e->max_abs < FLT_MAX) {
            x[at] = nextafterf(e->max_abs, INFINITY);
            expect_failure(rt, e, x, 31, cols, "row 29, column 41: found ");
        }
        /* at the limit: stored with finite scales, or refused by its scale: never infinity */
        x[at] = -e->max_abs;
        pare_tensor t;
        pare_error err = {0};
        if (pare_tensor_encode(rt, &t, e, x, 31, cols, NULL, &err) == PARE_OK) {
            assert_ok(pare_tensor_validate(&t, err));
            pare_tensor_decode(rt, y, &t);
            for (size_t c = 0; c < 31 * cols; c++) assert_true(isfinite(y[c]));
            assert_true(y[at] <= -0.5f * e->max_abs || strcmp(e->name, "q1_0") == 0);
            pare_tensor_free(&t);
        } else {
            assert_non_null(strstr(err.message, "row 29, column"));
        }
        x[at] = was;
        if (e->block_len > 1) expect_failure(rt, e, x, 1, cols - 1, "expected a multiple of");
        pare_free(x);
        pare_free(y);
    }
    pare_tensor t;
    float x[64] = {0};
    assert_int_equal(pare_tensor_encode(rt, &t, pare_encoding_find("nvfp4"), x, 1, 64, NULL, NULL),
                     PARE_ERR_UNSUPPORTED);
    pare_runtime_free(rt);
}

/* Importance that is zero, negative or NaN in some groups: counted, and as good as uniform there.
 */
static void test_importance(void **state) {
    (void)state;
    enum { COLS = 768, ROWS = 5 };
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    float importance[COLS], clean[COLS];
    const float mean = (float)(639 * 2.0 / 640); /* of the 640 usable values */
    for (int c = 0; c < COLS; c++) {
        clean[c] = importance[c] = 2.0f;
        if (c / 32 >= 1 && c / 32 <= 4) clean[c] = mean;
        if (c / 32 == 1) importance[c] = 0.0f;
        if (c == 70) importance[c] = -1.0f;
        if (c == 100) importance[c] = NAN;
        if (c == 130) importance[c] = INFINITY;
        if (c == 200) importance[c] = clean[c] = 0.0f; /* a single zero is in order */
    }
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        if (!e->encode_row) continue;
        float *x = matrix(e, ROWS, COLS, 1.0f);
        pare_tensor a, b;
        assert_ok(pare_tensor_encode(rt, &a, e, x, ROWS, COLS, importance, err));
        assert_ok(pare_tensor_encode(rt, &b, e, x, ROWS, COLS, clean, err));
        assert_int_equal(a.n_flat_importance, 4);
        assert_int_equal(b.n_flat_importance, 0);
        assert_memory_equal(a.view.part[0], b.view.part[0], pare_tensor_bytes(&a));
        pare_tensor_free(&a);
        pare_tensor_free(&b);
        for (int c = 0; c < COLS; c++) clean[c] = 0.0f; /* nothing usable: uniform */
        assert_ok(pare_tensor_encode(rt, &a, e, x, ROWS, COLS, clean, err));
        assert_int_equal(a.n_flat_importance, COLS / 32);
        float *y = pare_malloc(ROWS * COLS, sizeof *y);
        pare_tensor_decode(rt, y, &a);
        assert_true(relative_rms(y, x, ROWS * COLS) < 1.0);
        pare_tensor_free(&a);
        pare_free(y);
        for (int c = 0; c < COLS; c++)
            clean[c] = c == 200 ? 0.0f : c / 32 >= 1 && c / 32 <= 4 ? mean : 2.0f;
        pare_free(x);
    }
    uint8_t row[2048];
    pare_error err = {0};
    float x[COLS] = {0};
    assert_int_equal(
        pare_encoding_encode_row(pare_encoding_find("q4_k"), row, x, COLS, importance, &err),
        PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "column 70"));
    pare_runtime_free(rt);
}

/* Importance lowers the weighted error (that is what it is for). */
static void test_importance_helps(void **state) {
    (void)state;
    enum { COLS = 768, ROWS = 16 };
    static const char *const names[] = {"q4_0",   "q4_1",      "q5_0",     "q5_1", "iq4_nl",
                                        "iq4_xs", "q2_k",      "q3_k",     "q4_k", "q5_k",
                                        "q6_k",   "q4_k_tail", "q6_k_tail"};
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    float importance[COLS];
    for (int c = 0; c < COLS; c++)
        importance[c] = pare_rng_uniform(1, 1, (uint64_t)c) < 0.2f ? 20.0f : 0.2f;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const pare_encoding *e = pare_encoding_find(names[i]);
        float *x = matrix(e, ROWS, COLS, 1.0f), *y = pare_malloc(ROWS * COLS, sizeof *y);
        double error[2] = {0};
        for (int informed = 0; informed < 2; informed++) {
            pare_tensor t;
            assert_ok(
                pare_tensor_encode(rt, &t, e, x, ROWS, COLS, informed ? importance : NULL, err));
            pare_tensor_decode(rt, y, &t);
            for (size_t k = 0; k < ROWS * COLS; k++)
                error[informed] += (double)importance[k % COLS] * (y[k] - x[k]) * (y[k] - x[k]);
            pare_tensor_free(&t);
        }
        if (!(error[1] < error[0]))
            fail_msg("%s: %g with importance, %g without", e->name, error[1], error[0]);
        pare_free(x);
        pare_free(y);
    }
    pare_runtime_free(rt);
}

/* ---- untrusted bytes: D3 ---- */

/* NaN and infinity in every scale of the last block are found, the largest finite half is not. */
static void test_bad_scales(void **state) {
    (void)state;
    enum { COLS = 768 };
    static uint8_t bytes[2 * 4 * COLS];
    for (int g = 0; g < N_GOLDENS; g++) {
        const pare_encoding *e = pare_encoding_find(goldens[g].name);
        size_t row = pare_encoding_row_bytes(e, COLS);
        pare_tensor t = pare_tensor_wrap(e, bytes, 2, COLS);
        for (int h = 0; h < 2 && goldens[g].half[h] >= 0; h++) {
            static const uint16_t halves[] = {0x7BFF, 0x7C00, 0xFC00, 0x7C01, 0xFFFF};
            for (int k = 0; k < 5; k++) {
                pare_error err = {0};
                memset(bytes, 0, sizeof bytes);
                memcpy(bytes + 2 * row - e->block_bytes + goldens[g].half[h], &halves[k], 2);
                assert_int_equal(pare_tensor_validate(&t, &err), k ? PARE_ERR_INPUT : PARE_OK);
                if (k)
                    assert_non_null(strstr(err.message, e->block_len == 256 ? "row 1, column 512"
                                                                            : "row 1, column 736"));
            }
        }
    }
    /* the others: the half stands at the end or at the start */
    static const struct {
        const char *name;
        size_t cols, at;
    } others[] = {{"tq1_0", 256, 52},   {"tq2_0", 256, 64},      {"q1_0", 128, 0},
                  {"q2_0", 64, 0},      {"f16", 8, 14},          {"q4_k_tail", 64, 0},
                  {"q4_k_tail", 64, 2}, {"q4_k_tail", 320, 144}, {"q5_k_tail", 128, 2},
                  {"q6_k_tail", 64, 0}, {"q6_k_tail", 320, 210}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const uint16_t inf = 0x7C00, max = 0x7BFF;
        memset(bytes, 0, sizeof bytes);
        pare_tensor t =
            pare_tensor_wrap(pare_encoding_find(others[i].name), bytes, 1, others[i].cols);
        memcpy(bytes + others[i].at, &max, 2);
        assert_ok(pare_tensor_validate(&t, err));
        memcpy(bytes + others[i].at, &inf, 2);
        assert_int_equal(pare_tensor_validate(&t, NULL), PARE_ERR_INPUT);
    }
    memset(bytes, 0, sizeof bytes);
    pare_tensor t = pare_tensor_wrap(pare_encoding_find("mxfp4"), bytes, 1, 32);
    bytes[0] = 252;
    assert_ok(pare_tensor_validate(&t, err));
    bytes[0] = 253;
    assert_int_equal(pare_tensor_validate(&t, NULL), PARE_ERR_INPUT);
    memset(bytes, 0, sizeof bytes);
    t = pare_tensor_wrap(pare_encoding_find("bf16"), bytes, 3, 1500);
    const uint16_t infinity = 0xFF80;
    memcpy(bytes + 2 * (1500 + 1100), &infinity, 2);
    pare_error err = {0};
    assert_int_equal(pare_tensor_validate(&t, &err), PARE_ERR_INPUT);
    assert_non_null(strstr(err.message, "row 1, column 1100: found -inf"));
}

static void test_wrong_sizes(void **state) {
    (void)state;
    static uint8_t bytes[512];
    const pare_encoding *e = pare_encoding_find("q4_k");
    const void *part[1] = {bytes};
    size_t size[1] = {288};
    pare_tensor t;
    pare_error err = {0};
    assert_ok(pare_tensor_wrap_parts(&t, e, 2, 256, part, size, err));
    assert_int_equal(t.view.row_bytes, 144);
    assert_int_equal(pare_tensor_wrap_parts(&t, e, 2, 255, part, size, &err), PARE_ERR_INPUT);
    assert_int_equal(pare_tensor_wrap_parts(&t, e, 3, 256, part, size, &err), PARE_ERR_INPUT);
    assert_non_null(strstr(err.message, "found 288 bytes, expected 432"));
    assert_int_equal(pare_tensor_wrap_parts(&t, e, SIZE_MAX, 256, part, size, &err),
                     PARE_ERR_INPUT);
    size[0] = 0;
    assert_ok(pare_tensor_wrap_parts(&t, e, 0, 256, part, size, err));
    assert_ok(pare_tensor_validate(&t, err));
}

/* Stored bytes may stand anywhere: decoding at odd addresses. */
static void test_unaligned(void **state) {
    (void)state;
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_isa_best());
    static uint8_t bytes[4 * 768 + 64 + 3];
    static float x[768], y[768], z[768];
    for (int i = 0; i < 768; i++) x[i] = pare_rng_normal(2, 0, (uint64_t)i);
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        if (!e->encode_row) continue;
        size_t cols = width(e);
        e->encode_row(k, bytes + 3, x, cols, NULL);
        assert_ok(pare_encoding_decode_row(e, y, bytes + 3, cols, err));
        memmove(bytes, bytes + 3, pare_encoding_row_bytes(e, cols));
        assert_ok(pare_encoding_decode_row(e, z, bytes, cols, err));
        assert_memory_equal(y, z, 4 * cols);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_decode),
        cmocka_unit_test(test_golden_encode),
        cmocka_unit_test(test_registry),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_codes_equal_decode),
        cmocka_unit_test(test_dot_agrees),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_tails),
        cmocka_unit_test(test_zero_and_tiny_groups),
        cmocka_unit_test(test_constant_and_outlier),
        cmocka_unit_test(test_refused_values),
        cmocka_unit_test(test_importance),
        cmocka_unit_test(test_importance_helps),
        cmocka_unit_test(test_bad_scales),
        cmocka_unit_test(test_wrong_sizes),
        cmocka_unit_test(test_unaligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
