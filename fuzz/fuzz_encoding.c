/* Encodings: what pare_tensor_validate accepts can be decoded to finite numbers without leaving the
 * parts; what pare_tensor_encode accepts is valid.
 *
 * Input: u8 encoding (top bit: encode), u8 rows, u16 cols, u16 bytes of the first three parts (the
 * last one gets the rest), then the parts; or, to encode, u8 encoding | 128, u8 rows, u16 cols and
 * then f32 values. */
#include "seeds.h"

#include "base/memory.h"
#include "tensor/encoding.h"

#include <math.h>

enum { HEAD = 10, ENCODE_HEAD = 4, MAX_COLS = 1024 };

static pare_runtime *runtime(void) {
    static pare_runtime *rt;
    if (!rt) {
        pare_options o = pare_options_default();
        o.n_threads = 1;
        if (pare_runtime_create(&rt, &o, NULL) != PARE_OK) abort();
    }
    return rt;
}

static unsigned get16(const uint8_t *p) { return p[0] | (unsigned)p[1] << 8; }

/* Decodes every row as a whole and from each 256 columns on, in both forms. */
static void read_all(const pare_tensor *t) {
    static float whole[MAX_COLS], piece[MAX_COLS], scale[MAX_COLS], offset[MAX_COLS];
    static int8_t q[MAX_COLS];
    const pare_encoding *e = t->enc;
    size_t cols = t->view.cols;
    for (size_t r = 0; r < t->view.rows; r++) {
        e->decode(whole, &t->view, r, 0, cols);
        for (size_t c = 0; c < cols; c++) FUZZ_CHECK(isfinite(whole[c]));
        for (size_t col = 0; col < cols; col += 256) {
            size_t n = cols - col;
            e->decode(piece, &t->view, r, col, n);
            FUZZ_CHECK(memcmp(piece, whole + col, n * sizeof *piece) == 0);
            if (!e->codes) continue;
            e->codes(q, scale, offset, &t->view, r, col, n);
            for (size_t c = 0; c < n; c++) {
                float v = scale[c / e->code_group] * (float)q[c];
                if (e->has_offset) v += offset[c / e->code_group];
                FUZZ_CHECK(v == piece[c] && q[c] >= e->code_min && q[c] <= e->code_max);
            }
        }
    }
}

/* Parts in buffers of their exact size, so that a sanitizer sees a read past the end. */
static void check_stored(const pare_encoding *e, size_t rows, size_t cols, const uint8_t *sizes,
                         const uint8_t *data, size_t n) {
    void *part[PARE_MAX_PARTS] = {0};
    size_t bytes[PARE_MAX_PARTS] = {0};
    for (uint32_t i = 0; i < e->n_parts; i++) {
        size_t wanted = i + 1 < e->n_parts ? get16(sizes + 2 * i) : n;
        bytes[i] = wanted < n ? wanted : n;
        part[i] = malloc(bytes[i] ? bytes[i] : 1);
        if (!part[i]) abort();
        memcpy(part[i], data, bytes[i]);
        data += bytes[i];
        n -= bytes[i];
    }
    pare_tensor t;
    pare_error err = {0};
    if (pare_tensor_wrap_parts(&t, e, rows, cols, (const void *const *)part, bytes, &err) ==
            PARE_OK &&
        pare_tensor_validate(&t, &err) == PARE_OK)
        read_all(&t);
    else
        FUZZ_CHECK(err.status == PARE_ERR_INPUT && err.message[0]);
    for (uint32_t i = 0; i < e->n_parts; i++) free(part[i]);
}

static void check_encoder(const pare_encoding *e, size_t rows, size_t cols, const uint8_t *data,
                          size_t n) {
    if (cols == 0 || rows > n / 4 / cols) rows = cols ? n / 4 / cols : 0;
    float *x = malloc(rows * cols * 4 + 1);
    if (!x) abort();
    memcpy(x, data, rows * cols * 4);
    pare_tensor t;
    pare_error err = {0};
    if (pare_tensor_encode(runtime(), &t, e, x, rows, cols, NULL, &err) == PARE_OK) {
        FUZZ_CHECK(pare_tensor_validate(&t, &err) == PARE_OK);
        read_all(&t);
        pare_tensor_free(&t);
    } else {
        FUZZ_CHECK(err.status == PARE_ERR_ARG || err.status == PARE_ERR_UNSUPPORTED);
    }
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < HEAD) return 0;
    const pare_encoding *e = pare_encoding_at(data[0] & 127);
    size_t rows = data[1], cols = get16(data + 2);
    if (!e || cols > MAX_COLS) return 0;
    if (data[0] & 128)
        check_encoder(e, rows, cols, data + ENCODE_HEAD, n - ENCODE_HEAD);
    else
        check_stored(e, rows, cols, data + 4, data + HEAD, n - HEAD);
    return 0;
}

/* Seed i: encoding i / 2, stored or as values. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t capacity) {
    const pare_encoding *e = pare_encoding_at(i / 2);
    enum { ROWS = 2 };
    size_t cols = e && e->block_len > 64 ? 512 : 320, values = ROWS * cols * 4, at = HEAD;
    static float x[ROWS * 512];
    if (!e || capacity < HEAD + values) return 0;
    for (size_t k = 0; k < ROWS * cols; k++)
        x[k] = k % 4 < 2 ? 0.0f : (float)((k * 2654435761u >> 8) % 2001) / 1000.0f - 1.0f;
    memset(out, 0, HEAD);
    out[0] = (uint8_t)(i / 2 | (i & 1) << 7);
    out[1] = ROWS;
    out[2] = (uint8_t)cols;
    out[3] = (uint8_t)(cols >> 8);
    if (i & 1) {
        memcpy(out + ENCODE_HEAD, x, values);
        return ENCODE_HEAD + values;
    }
    pare_tensor t;
    if (pare_tensor_encode(runtime(), &t, e, x, ROWS, cols, NULL, NULL) != PARE_OK) {
        size_t bytes = ROWS * pare_encoding_row_bytes(e, cols); /* read only: any bytes */
        for (size_t k = 0; k < bytes; k++) out[at + k] = (uint8_t)(k * 7);
        return at + bytes;
    }
    for (uint32_t p = 0; p < e->n_parts; p++) {
        if (p + 1 < e->n_parts) {
            out[4 + 2 * p] = (uint8_t)t.part_bytes[p];
            out[5 + 2 * p] = (uint8_t)(t.part_bytes[p] >> 8);
        }
        memcpy(out + at, t.view.part[p], t.part_bytes[p]);
        at += t.part_bytes[p];
    }
    pare_tensor_free(&t);
    return at;
}
