/* The plain types: f32, f16, bf16. One block is one value. */
#include "tensor/encodings/encode_common.h"

/* Every value is a finite number. */
static pare_status validate(const pare_tensor *t, pare_error *err) {
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_isa_best());
    const pare_view *w = &t->view;
    float piece[1024];
    for (size_t r = 0; r < w->rows; r++)
        for (size_t c = 0; c < w->cols; c += 1024) {
            size_t n = w->cols - c < 1024 ? w->cols - c : 1024;
            t->enc->decode(piece, w, r, c, n);
            size_t i = k->first_nonfinite(piece, n);
            if (i < n)
                return pare_fail(err, PARE_ERR_INPUT,
                                 "row %zu, column %zu: found %g, expected a finite number", r,
                                 c + i, (double)piece[i]);
        }
    return PARE_OK;
}

static const uint8_t *at(const pare_view *w, size_t row, size_t col, size_t item) {
    return (const uint8_t *)w->part[0] + row * w->row_bytes + col * item;
}

/* ---- f32 ---- */

static void f32_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    memcpy(y, at(w, row, col, 4), n * 4);
}

static void f32_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                       const float *importance) {
    (void)k, (void)importance;
    memcpy(out, x, cols * 4);
}

const pare_encoding pare_enc_f32 = {
    .name = "f32",
    .summary = "32-bit floats",
    .ggml_type = 0,
    .safetensors_dtype = "F32",
    .block_len = 1,
    .block_bytes = 4,
    .max_abs = FLT_MAX,
    .n_parts = 1,
    .parts = {{"", "F32", 4, true}},
    .decode = f32_decode,
    .encode_row = f32_encode,
    .dotf = PARE_DOTF_f32,
    .validate = validate,
};

/* ---- f16 ---- */

/* The bytes may stand at an odd address in a file: the kernels take aligned halves. */
enum { PIECE = 512 };

static void f16_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    const pare_encode_kernels *k = pare_encode_kernels_get(pare_isa_best());
    const uint8_t *from = at(w, row, col, 2);
    uint16_t piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t len = n - i < PIECE ? n - i : PIECE;
        memcpy(piece, from + 2 * i, 2 * len);
        k->f16_to_f32(y + i, piece, len);
    }
}

static void f16_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                       const float *importance) {
    (void)importance;
    uint16_t piece[PIECE];
    for (size_t i = 0; i < cols; i += PIECE) {
        size_t len = cols - i < PIECE ? cols - i : PIECE;
        k->f32_to_f16(piece, x + i, len);
        memcpy((uint8_t *)out + 2 * i, piece, 2 * len);
    }
}

const pare_encoding pare_enc_f16 = {
    .name = "f16",
    .summary = "16-bit IEEE floats, |w| <= 65504",
    .ggml_type = 1,
    .safetensors_dtype = "F16",
    .block_len = 1,
    .block_bytes = 2,
    .max_abs = 65504.0f,
    .n_parts = 1,
    .parts = {{"", "F16", 2, true}},
    .decode = f16_decode,
    .encode_row = f16_encode,
    .dotf = PARE_DOTF_f16,
    .validate = validate,
};

/* ---- bf16 ---- */

static void widen(float *restrict y, const uint16_t *restrict x, size_t n) {
    uint32_t bits;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) /* of constant length: in vectors */
        for (size_t j = i; j < i + 16; j++) {
            bits = (uint32_t)x[j] << 16;
            memcpy(&y[j], &bits, 4);
        }
    for (; i < n; i++) y[i] = pare_bf16_to_f32(x[i]);
}

static void bf16_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    const uint8_t *from = at(w, row, col, 2);
    uint16_t piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t len = n - i < PIECE ? n - i : PIECE;
        memcpy(piece, from + 2 * i, 2 * len);
        widen(y + i, piece, len);
    }
}

static void bf16_encode(const pare_encode_kernels *k, void *out, const float *x, size_t cols,
                        const float *importance) {
    (void)k, (void)importance;
    for (size_t i = 0; i < cols; i++) {
        uint16_t b = pare_f32_to_bf16(x[i]);
        memcpy((uint8_t *)out + 2 * i, &b, 2);
    }
}

const pare_encoding pare_enc_bf16 = {
    .name = "bf16",
    .summary = "16-bit brain floats (upper half of an f32)",
    .ggml_type = 30,
    .safetensors_dtype = "BF16",
    .block_len = 1,
    .block_bytes = 2,
    .max_abs = 0x1.fep127f,
    .n_parts = 1,
    .parts = {{"", "BF16", 2, true}},
    .decode = bf16_decode,
    .encode_row = bf16_encode,
    .dotf = PARE_DOTF_bf16,
    .validate = validate,
};
