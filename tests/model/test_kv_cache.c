/* KV codecs against their formulas at all levels; sizes, rings, truncation and planned bytes of the
 * cache; RoPE frequencies of all scalings. */
#include "support/test.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/kv_cache.h"
#include "model/rope_config.h"

static const char *const codec_names[] = {"f32", "f16", "bf16", "q8_0", "q4_0"};
enum { N_CODECS = sizeof codec_names / sizeof *codec_names };

static void codecs_are_found(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CODECS; i++) {
        const pare_kv_codec *c = pare_kv_codec_find(codec_names[i]);
        assert_non_null(c);
        assert_ptr_equal(pare_kv_codec_at(i), c);
    }
    assert_null(pare_kv_codec_at(N_CODECS));
    assert_null(pare_kv_codec_find("q4_1"));
    assert_int_equal(pare_kv_row_bytes(pare_kv_codec_find("q4_0"), 96), 54);
    assert_int_equal(pare_kv_row_bytes(pare_kv_codec_find("q8_0"), 64), 68);
    assert_int_equal(pare_kv_row_bytes(pare_kv_codec_find("q8_0"), 48), 0);
    assert_int_equal(pare_kv_row_bytes(pare_kv_codec_find("f16"), 7), 14);
}

/* Bound of a stored value's error in a row with largest magnitude `top`. */
static double codec_error(const char *name, double x, double top) {
    if (strcmp(name, "f16") == 0) return fabs(x) * 0x1p-11 + 0x1p-25;
    if (strcmp(name, "bf16") == 0) return fabs(x) * 0x1p-8 + 0x1p-134;
    if (strcmp(name, "q8_0") == 0) return top / 127 * (0.5 + 127 * 0x1p-11) * 1.001 + 127 * 0x1p-25;
    /* half a step, or a whole one where +8 steps would be needed */
    if (strcmp(name, "q4_0") == 0) return top / 8 * (1 + 8 * 0x1p-11) * 1.001 + 8 * 0x1p-25;
    return 0;
}

/* All levels give the reference's bytes and values, within the bound; rows at odd strides. */
static void codecs_round_trip(void **state) {
    (void)state;
    static const size_t dims[] = {1, 7, 8, 32, 33, 64, 96, 256};
    for (size_t c = 0; c < N_CODECS; c++)
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
            for (int size = -30; size <= 15; size += 15) {
                const pare_kv_codec *codec = pare_kv_codec_find(codec_names[c]);
                size_t n = dims[d], bytes = pare_kv_row_bytes(codec, n);
                if (bytes == 0) continue;
                float *x = malloc(n * sizeof *x), *y = malloc(2 * n * sizeof *y);
                float *ref = malloc(n * sizeof *ref);
                for (size_t i = 0; i < n; i++)
                    x[i] = ldexpf(pare_rng_normal(3, (uint64_t)(d + 50), i), size) / 4;
                uint8_t *rows = malloc(2 * bytes + 2), *want = malloc(bytes);
                const pare_kv_functions *base = pare_kv_codec_functions(codec, PARE_ISA_REF);
                base->store(want, x, n);
                base->load(ref, n, want, bytes, 1, n);
                for (int isa = PARE_ISA_REF; isa <= (int)pare_isa_best(); isa++) {
                    const pare_kv_functions *f = pare_kv_codec_functions(codec, (pare_isa)isa);
                    memset(rows, 0xAB, 2 * bytes + 2);
                    size_t stride = bytes + (bytes % 4 == 2 ? 2 : 0); /* alignment is kept */
                    if (stride + bytes > 2 * bytes + 2) stride = bytes;
                    f->store(rows, x, n);
                    assert_memory_equal(rows, want, bytes);
                    assert_true(stride == bytes || rows[bytes] == 0xAB); /* nothing past the row */
                    f->store(rows + stride, x, n);
                    f->load(y, n, rows, stride, 2, n);
                    assert_memory_equal(y, ref, n * sizeof *y);
                    assert_memory_equal(y + n, ref, n * sizeof *y);
                }
                for (size_t i = 0; i < n; i++) {
                    double top = 0;
                    for (size_t j = i / 32 * 32; j < n && j < i / 32 * 32 + 32; j++)
                        top = fmax(top, fabs((double)x[j]));
                    assert_true(fabs((double)ref[i] - x[i]) <=
                                codec_error(codec_names[c], x[i], top));
                }
                free(x);
                free(y);
                free(ref);
                free(rows);
                free(want);
            }
}

static void odd_values(void **state) {
    (void)state;
    float x[32] = {1e6f, -1e6f, NAN, INFINITY, -INFINITY, 65519, 1e-9f, -0.0f}, y[32];
    uint8_t row[128];
    for (int isa = PARE_ISA_REF; isa <= (int)pare_isa_best(); isa++) {
        const pare_kv_functions *f =
            pare_kv_codec_functions(pare_kv_codec_find("f16"), (pare_isa)isa);
        f->store(row, x, 32);
        f->load(y, 32, row, 64, 1, 32);
        assert_true(y[0] == 65504 && y[1] == -65504 && isnan(y[2]) && y[3] == 65504 &&
                    y[4] == -65504 && y[5] == 65504 && y[6] == 0 && y[7] == 0);
        f = pare_kv_codec_functions(pare_kv_codec_find("bf16"), (pare_isa)isa);
        f->store(row, x, 32);
        f->load(y, 32, row, 64, 1, 32);
        assert_true(isnan(y[2]) && y[3] == INFINITY && y[4] == -INFINITY);
        f = pare_kv_codec_functions(pare_kv_codec_find("q8_0"), (pare_isa)isa);
        f->store(row, x, 32); /* a NaN spoils its block, and is not hidden */
        f->load(y, 32, row, 34, 1, 32);
        for (int i = 0; i < 32; i++) assert_true(isnan(y[i]));
        float zero[32] = {0}, tiny[32] = {1e-30f}, huge[32] = {3e38f, -3e38f, INFINITY, 1};
        f->store(row, zero, 32);
        f->load(y, 32, row, 34, 1, 32);
        assert_memory_equal(y, zero, sizeof y);
        f->store(row, tiny, 32);
        f->load(y, 32, row, 34, 1, 32);
        assert_memory_equal(y, zero, sizeof y);
        f->store(row, huge, 32);
        f->load(y, 32, row, 34, 1, 32);
        assert_true(y[0] == 127.0f * 65504 && y[1] == -y[0] && y[2] == y[0] && y[3] == 0);
        f = pare_kv_codec_functions(pare_kv_codec_find("q4_0"), (pare_isa)isa);
        f->store(row, x, 32);
        f->load(y, 32, row, 18, 1, 32);
        for (int i = 0; i < 32; i++) assert_true(isnan(y[i]));
        f->store(row, zero, 32);
        f->load(y, 32, row, 18, 1, 32);
        for (int i = 0; i < 32; i++) assert_true(y[i] == 0);
        f->store(row, huge, 32);
        f->load(y, 32, row, 18, 1, 32);
        assert_true(y[2] == 8.0f * 65504 && y[1] == -7.0f * 65504 && y[3] == 0);
        /* the first of two largest is exact, the other loses a step */
        float twins[32] = {[3] = -4, [20] = 4, [21] = 1};
        f->store(row, twins, 32);
        f->load(y, 32, row, 18, 1, 32);
        assert_true(y[3] == -4 && y[20] == 3.5f && y[21] == 1 && y[0] == 0);
    }
}

/* ---- the cache ---- */

static pare_kv_spec small_spec(const uint8_t *local) {
    return (pare_kv_spec){.n_layers = 3,
                          .n_kv_heads = 2,
                          .head_dim = 32,
                          .n_ctx = 1000,
                          .n_batch = 50,
                          .window = local ? 100 : 0,
                          .local = local,
                          .codec = pare_kv_codec_find("f16")};
}

static void bytes_and_layout(void **state) {
    (void)state;
    static const uint8_t local[3] = {1, 0, 1};
    pare_kv_spec spec = small_spec(NULL);
    size_t bytes;
    assert_ok(pare_kv_cache_bytes(&bytes, &spec, err));
    assert_int_equal(bytes, 16 * (64 + 3 * 2 * 2 * 64 * 64)); /* whole blocks of 64 positions */
    spec = small_spec(local);
    assert_ok(pare_kv_cache_bytes(&bytes, &spec, err));
    /* local layers: 100 + 128 + 50 positions in 6 blocks wherever they begin */
    assert_int_equal(bytes, 16 * (64 + 2 * 2 * 64 * 64) + 6 * (64 + 2 * 2 * 2 * 64 * 64));
    pare_kv_cache c;
    assert_ok(pare_kv_cache_init(&c, &spec, err));
    assert_int_equal(c.full_bytes, bytes);
    assert_ptr_equal(c.layers[0].blocks, c.layers[2].blocks);
    assert_ptr_not_equal(c.layers[0].blocks, c.layers[1].blocks);
    assert_int_equal(c.layers[1].k_at, 0);
    assert_int_equal(c.layers[2].v_at, 3 * 2 * 64 * 64);
    assert_int_equal(c.layers[1].head_stride, 64 * 64);
    assert_null(c.blocks[0][0]); /* nothing is taken before it is needed */
    /* a row of 64 bytes for each of 2 heads' keys and values; local layers stop at their window */
    assert_int_equal(pare_kv_cache_read_bytes(&c, 0), 3 * 2 * 2 * 64);
    assert_int_equal(pare_kv_cache_read_bytes(&c, 99), 100 * 3 * 2 * 2 * 64);
    assert_int_equal(pare_kv_cache_read_bytes(&c, 499), (500 + 2 * 100) * 2 * 2 * 64);
    pare_kv_cache_free(&c);
    pare_kv_cache_free(&c); /* a zeroed one is fine */
    spec.window = 990;      /* window + batch beyond the context */
    assert_ok(pare_kv_cache_bytes(&bytes, &spec, err));
    assert_int_equal(bytes, 16 * (64 + 2 * 2 * 64 * 64) + 16 * (64 + 2 * 2 * 2 * 64 * 64));
}

/* Marks the row of head 1 at position pos in layer l. */
static uint8_t *row_of(const pare_kv_cache *c, size_t l, size_t pos) {
    return pare_kv_row(&c->layers[l], true, 1, pos);
}

static void put(pare_kv_cache *c, size_t n, uint8_t mark) {
    assert_ok(pare_kv_cache_reserve(c, n, err));
    for (size_t i = 0; i < n; i++)
        for (size_t l = 0; l < 3; l++) memset(row_of(c, l, c->n_pos + i), mark, 64);
    pare_kv_cache_advance(c, n);
}

static void forks(void **state) {
    (void)state;
    static const uint8_t local[3] = {1, 0, 1};
    pare_kv_spec spec = small_spec(local);
    pare_kv_cache a, b, c;
    assert_ok(pare_kv_cache_init(&a, &spec, err));
    put(&a, 50, 1);
    put(&a, 20, 2); /* 70: a full block, and 6 positions of the next */
    assert_ok(pare_kv_cache_fork(&b, &a, err));
    assert_int_equal(b.n_pos, 70);
    for (size_t l = 0; l < 3; l++) assert_ptr_equal(row_of(&a, l, 69), row_of(&b, l, 69));
    put(&b, 2, 3);
    put(&a, 1, 4);
    assert_ok(pare_kv_cache_fork(&c, &b, err));
    for (size_t l = 0; l < 3; l++) {
        assert_ptr_equal(row_of(&a, l, 63), row_of(&b, l, 63)); /* nobody writes there */
        assert_ptr_not_equal(row_of(&a, l, 64), row_of(&b, l, 64));
        assert_int_equal(*row_of(&a, l, 69), 2);
        assert_int_equal(*row_of(&b, l, 69), 2); /* copied with the block */
        assert_int_equal(*row_of(&a, l, 70), 4);
        assert_int_equal(*row_of(&b, l, 70), 3);
        assert_ptr_equal(row_of(&c, l, 71), row_of(&b, l, 71));
    }
    assert_int_equal(pare_kv_cache_truncate(&c, 10), 10);
    put(&c, 3, 5); /* block 0 has three holders */
    assert_int_equal(*row_of(&a, 1, 10), 1);
    assert_int_equal(*row_of(&c, 1, 10), 5);
    uint8_t *kept = row_of(&b, 1, 64);
    pare_kv_cache_free(&a);
    assert_int_equal(*row_of(&b, 2, 5), 1);
    put(&b, 1, 6); /* the only holder: in place */
    assert_ptr_equal(row_of(&b, 1, 64), kept);
    /* forks may need more than the first allocation holds, and give back what they drop */
    pare_kv_cache more[4];
    for (int i = 0; i < 4; i++) {
        assert_ok(pare_kv_cache_fork(&more[i], &b, err));
        while (more[i].n_pos + 50 <= 1000) put(&more[i], 50, (uint8_t)(10 + i));
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(*row_of(&more[i], 1, 500), 10 + i);
        assert_int_equal(*row_of(&more[i], 1, 10), 1);
        assert_null(more[i].blocks[1][0]); /* long out of the window */
        assert_int_equal(*row_of(&more[i], 2, more[i].n_pos - 227), 10 + i);
    }
    for (int i = 0; i < 4; i++) pare_kv_cache_free(&more[i]);
    assert_int_equal(*row_of(&b, 2, 5), 1);
    pare_kv_cache_free(&b);
    pare_kv_cache_free(&c);
}

static void bad_sizes_are_refused(void **state) {
    (void)state;
    static const uint8_t local[3] = {1, 0, 1};
    size_t bytes;
    pare_error err = {0};
    pare_kv_spec good = small_spec(local), s = good;
    s.n_ctx = SIZE_MAX - 10;
    assert_int_equal(pare_kv_cache_bytes(&bytes, &s, &err), PARE_ERR_ARG);
    s.n_ctx = (size_t)1 << 58; /* the product of one layer wraps */
    assert_int_equal(pare_kv_cache_bytes(&bytes, &s, &err), PARE_ERR_ARG);
    s.n_ctx = (size_t)1 << 55; /* one layer fits, the sum does not */
    s.n_kv_heads = 4;
    assert_int_equal(pare_kv_cache_bytes(&bytes, &s, &err), PARE_ERR_ARG);
    s = good;
    s.window = SIZE_MAX - 20; /* such a window is no ring, and no error */
    assert_ok(pare_kv_cache_bytes(&bytes, &s, err));
    s = good;
    s.codec = pare_kv_codec_find("q8_0");
    assert_ok(pare_kv_cache_bytes(&bytes, &s, err));
    s.head_dim = 33;
    assert_int_equal(pare_kv_cache_bytes(&bytes, &s, &err), PARE_ERR_ARG);
    s = good;
    s.n_batch = 0;
    assert_int_equal(pare_kv_cache_bytes(&bytes, &s, &err), PARE_ERR_ARG);
    s = good;
    s.n_ctx = (size_t)1 << 50; /* fits the address range, not the machine */
    pare_kv_cache c;
    assert_int_equal(pare_kv_cache_init(&c, &s, &err), PARE_ERR_NOMEM);
    pare_kv_cache_free(&c);

    pare_model_config config = {.n_layers = 2, .n_kv_heads = 1, .head_dim = 48};
    pare_kv_spec made;
    assert_ok(pare_kv_spec_make(&made, &config, "bf16", 64, 8, err));
    assert_int_equal(pare_kv_spec_make(&made, &config, "q8_0", 64, 8, &err), PARE_ERR_ARG);
    assert_int_equal(pare_kv_spec_make(&made, &config, "f64", 64, 8, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "f64"));
}

static void step(pare_kv_cache *c, size_t n) {
    assert_ok(pare_kv_cache_reserve(c, n, err));
    pare_kv_cache_advance(c, n);
}

static void truncation(void **state) {
    (void)state;
    static const uint8_t local[3] = {1, 0, 1};
    pare_error err = {0};
    pare_kv_cache c;
    pare_kv_spec spec = small_spec(NULL);
    assert_ok(pare_kv_cache_init(&c, &spec, err));
    assert_int_equal(pare_kv_cache_reserve(&c, 51, &err), PARE_ERR_ARG);
    for (int i = 0; i < 20; i++) step(&c, 50);
    assert_int_equal(pare_kv_cache_reserve(&c, 1, &err), PARE_ERR_ARG); /* full */
    assert_ok(pare_kv_cache_reserve(&c, 0, err));
    assert_int_equal(pare_kv_cache_truncate(&c, 2000), 1000);
    assert_int_equal(pare_kv_cache_truncate(&c, 10), 10); /* no local layers: any length */
    pare_kv_cache_free(&c);

    /* a window of 100; 128 positions more are kept, from the beginning of a block on */
    spec = small_spec(local);
    assert_ok(pare_kv_cache_init(&c, &spec, err));
    for (int i = 0; i < 3; i++) step(&c, 50);
    assert_int_equal(pare_kv_cache_truncate(&c, 7), 7); /* all is there */
    for (int i = 0; i < 7; i++) step(&c, 50);           /* 357: the last step dropped at 307 */
    assert_int_equal(c.first, 64);                      /* 307 + 1 - 100 - 128 = 80 */
    assert_null(c.blocks[1][0]);
    assert_non_null(c.blocks[1][1]);
    assert_non_null(c.blocks[0][0]);
    assert_int_equal(pare_kv_cache_truncate(&c, 300), 300);
    assert_int_equal(pare_kv_cache_truncate(&c, 163), 163); /* needs 64 .. 162 */
    assert_null(c.blocks[0][3]);
    step(&c, 1);
    assert_int_equal(pare_kv_cache_truncate(&c, 163), 163); /* what is gone stays gone */
    assert_ok(pare_kv_cache_reserve(&c, 50, err));          /* a pass that fails half-way */
    assert_int_equal(c.n_pos, 163);
    step(&c, 10);
    assert_int_equal(pare_kv_cache_truncate(&c, 162), 0); /* would need 63 */
    assert_int_equal(c.n_pos, 0);
    assert_int_equal(c.first, 0);
    assert_null(c.blocks[0][0]);
    pare_kv_cache_free(&c);
}

/* ---- RoPE frequencies ---- */

static void rope_scalings(void **state) {
    (void)state;
    pare_rope r, base;
    pare_rope_config c = {.theta = 10000, .factor = 8};
    assert_ok(pare_rope_init(&base, &c, 128, NULL, err));
    assert_int_equal(base.half, 64);
    assert_true(base.inv_freq[0] == 1 && fabs(base.inv_freq[32] - 0.01) < 1e-15);
    c.scaling = PARE_ROPE_LINEAR;
    assert_ok(pare_rope_init(&r, &c, 128, NULL, err));
    for (size_t i = 0; i < 64; i++) assert_true(r.inv_freq[i] == base.inv_freq[i] / 8);

    c = (pare_rope_config){.theta = 500000,
                           .factor = 8,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .original_ctx = 8192};
    assert_ok(pare_rope_init(&base, &c, 128, NULL, err));
    c.scaling = PARE_ROPE_LLAMA3;
    assert_ok(pare_rope_init(&r, &c, 128, NULL, err));
    int kept = 0, stretched = 0;
    float divisors[64];
    for (size_t i = 0; i < 64; i++) { /* case by case, as formats.md has it */
        double f = base.inv_freq[i], w = 2 * M_PI / f, s = (8192 / w - 1) / 3, want;
        if (w < 8192.0 / 4)
            want = f, kept++;
        else if (w > 8192.0)
            want = f / 8, stretched++;
        else
            want = (1 - s) * f / 8 + s * f;
        assert_true(fabs(r.inv_freq[i] - want) <= 1e-12 * want);
        divisors[i] = (float)(f / want);
    }
    assert_true(kept > 10 && stretched > 10 && kept + stretched < 64);
    pare_rope factors; /* GGUF's rope_freqs.weight gives the same */
    c.scaling = PARE_ROPE_FACTORS;
    assert_ok(pare_rope_init(&factors, &c, 128, divisors, err));
    for (size_t i = 0; i < 64; i++)
        assert_true(fabs(factors.inv_freq[i] / r.inv_freq[i] - 1) <= FLT_EPSILON);

    c = (pare_rope_config){
        .theta = 10000, .factor = 4, .original_ctx = 4096, .scaling = PARE_ROPE_YARN};
    assert_ok(pare_rope_init(&r, &c, 128, NULL, err));
    c.scaling = PARE_ROPE_NONE;
    assert_ok(pare_rope_init(&base, &c, 128, NULL, err));
    /* low = floor(20.94..) = 20, high = ceil(45.02..) = 46 */
    for (size_t i = 0; i < 64; i++) {
        double ramp = i <= 20 ? 0 : i >= 46 ? 1 : (double)(i - 20) / 26;
        double want = base.inv_freq[i] * (1 - ramp + ramp / 4);
        assert_true(fabs(r.inv_freq[i] - want) <= 1e-12 * want);
    }
    assert_true(fabs(r.scale - (0.1 * log(4) + 1)) < 1e-12);
    float cosines[64], sines[64];
    pare_rope_angles(cosines, sines, &r, 0);
    assert_true(cosines[9] == (float)r.scale && sines[9] == 0);
    c.scaling = PARE_ROPE_YARN;
    c.attn_factor = 1.5f;
    assert_ok(pare_rope_init(&r, &c, 128, NULL, err));
    assert_true(r.scale == 1.5);
}

static void bad_rope_is_refused(void **state) {
    (void)state;
    pare_rope r;
    pare_error err = {0};
    pare_rope_config good = {.theta = 10000}, c = {0};
    assert_ok(pare_rope_init(&r, &c, 33, NULL, err)); /* theta 0: none, whatever the rest */
    assert_int_equal(r.half, 0);
    assert_ok(pare_rope_init(&r, &good, 2 * PARE_ROPE_MAX_HALF, NULL, err));
    assert_int_equal(pare_rope_init(&r, &good, 2 * PARE_ROPE_MAX_HALF + 2, NULL, &err),
                     PARE_ERR_INPUT);
    assert_int_equal(pare_rope_init(&r, &good, 33, NULL, &err), PARE_ERR_INPUT);
    static const float bad[] = {-1, NAN, INFINITY};
    for (int i = 0; i < 3; i++) {
        c = good;
        c.theta = bad[i];
        assert_int_equal(pare_rope_init(&r, &c, 64, NULL, &err), PARE_ERR_INPUT);
        c = good;
        c.scaling = PARE_ROPE_LINEAR;
        c.factor = bad[i];
        assert_int_equal(pare_rope_init(&r, &c, 64, NULL, &err), PARE_ERR_INPUT);
    }
    c.scaling = PARE_ROPE_LLAMA3;
    c.factor = 8;
    c.low_freq_factor = 1;
    c.high_freq_factor = 4;
    assert_int_equal(pare_rope_init(&r, &c, 64, NULL, &err), PARE_ERR_INPUT); /* no context */
    c.original_ctx = 8192;
    assert_ok(pare_rope_init(&r, &c, 64, NULL, err));
    c.high_freq_factor = 1;
    assert_int_equal(pare_rope_init(&r, &c, 64, NULL, &err), PARE_ERR_INPUT);
    c.scaling = PARE_ROPE_FACTORS;
    assert_int_equal(pare_rope_init(&r, &c, 64, NULL, &err), PARE_ERR_INPUT);
    float divisors[32] = {1};
    assert_int_equal(pare_rope_init(&r, &c, 64, divisors, &err), PARE_ERR_INPUT);
}

/* Angles at 10^6 against the sum of angles of 1,000 steps of 1,000 in f64. */
static void far_positions(void **state) {
    (void)state;
    pare_rope r;
    pare_rope_config c = {.theta = 10000};
    assert_ok(pare_rope_init(&r, &c, 64, NULL, err));
    float cosines[32], sines[32];
    pare_rope_angles(cosines, sines, &r, 1000000);
    for (size_t i = 0; i < 32; i++) {
        double re = 1, im = 0, dc = cos(1000 * r.inv_freq[i]), ds = sin(1000 * r.inv_freq[i]);
        for (int k = 0; k < 1000; k++) {
            double t = re * dc - im * ds;
            im = re * ds + im * dc;
            re = t;
        }
        assert_true(fabs(cosines[i] - re) < 2e-7 && fabs(sines[i] - im) < 2e-7);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codecs_are_found), cmocka_unit_test(codecs_round_trip),
        cmocka_unit_test(odd_values),       cmocka_unit_test(bytes_and_layout),
        cmocka_unit_test(truncation),       cmocka_unit_test(bad_sizes_are_refused),
        cmocka_unit_test(rope_scalings),    cmocka_unit_test(bad_rope_is_refused),
        cmocka_unit_test(far_positions),    cmocka_unit_test(forks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
