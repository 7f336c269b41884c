/* All layouts go through tiles of 32 rows: 32 codes of b bits are b words, so zero points that are
 * packed along the rows end at words with the tile. */
#include "io/quant_layout.h"

#include "kernels/blocks.h"
#include "tensor/grouped_row.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TILE = 32 };

static size_t words_of(size_t n, unsigned bits) { return (n * bits + 31) / 32; }

static unsigned codes_per_word(unsigned bits) { return 32 / bits; }

static bool is_gptq(const pare_layout *l) {
    return l->kind == PARE_LAYOUT_GPTQ || l->kind == PARE_LAYOUT_GPTQ_V2;
}

/* Words of a stream of n codes along one direction. */
static size_t stream_words(const pare_layout *l, size_t n) {
    unsigned per = codes_per_word(l->bits);
    return l->padded ? n / per + (n % per != 0) : words_of(n, l->bits);
}

/* --- what there is --- */

static pare_layout_part pack_part(const pare_layout *l, int which, const char *scale) {
    size_t groups = pare_layout_groups(l);
    switch (which) {
    case PARE_LAYOUT_CODES:
        return (pare_layout_part){"weight_packed", "I32", 2, {l->rows, stream_words(l, l->cols)}};
    case PARE_LAYOUT_SCALES:
        return (pare_layout_part){"weight_scale", scale, 2, {l->rows, groups}};
    case PARE_LAYOUT_ZEROS:
        if (!l->asymmetric) break;
        return (pare_layout_part){
            "weight_zero_point", "I32", 2, {stream_words(l, l->rows), groups}};
    case PARE_LAYOUT_G_IDX:
        if (!l->g_idx) break;
        return (pare_layout_part){"weight_g_idx", "I32", 1, {l->cols, 1}};
    case PARE_LAYOUT_SHAPE:
        return (pare_layout_part){"weight_shape", "I64", 1, {2, 1}};
    }
    return (pare_layout_part){0};
}

static pare_layout_part int_part(const pare_layout *l, int which, const char *scale) {
    size_t groups = pare_layout_groups(l), n_dims = l->one_scale ? 1 : 2,
           rows = l->one_scale ? 1 : l->rows;
    if (which == PARE_LAYOUT_CODES)
        return (pare_layout_part){"weight", "I8", 2, {l->rows, l->cols}};
    if (which == PARE_LAYOUT_SCALES)
        return (pare_layout_part){"weight_scale", scale, n_dims, {rows, groups}};
    if (which == PARE_LAYOUT_ZEROS && l->asymmetric)
        return (pare_layout_part){"weight_zero_point", "I8", n_dims, {rows, groups}};
    return (pare_layout_part){0};
}

static pare_layout_part gptq_part(const pare_layout *l, int which, const char *scale) {
    size_t groups = pare_layout_groups(l);
    bool awq = l->kind == PARE_LAYOUT_AWQ;
    if (which == PARE_LAYOUT_CODES)
        return awq ? (pare_layout_part){"qweight", "I32", 2, {l->cols, words_of(l->rows, l->bits)}}
                   : (pare_layout_part){"qweight", "I32", 2, {words_of(l->cols, l->bits), l->rows}};
    if (which == PARE_LAYOUT_SCALES)
        return (pare_layout_part){"scales", scale, 2, {groups, l->rows}};
    if (which == PARE_LAYOUT_ZEROS)
        return (pare_layout_part){"qzeros", "I32", 2, {groups, words_of(l->rows, l->bits)}};
    if (which == PARE_LAYOUT_G_IDX && l->g_idx && !awq)
        return (pare_layout_part){"g_idx", "I32", 1, {l->cols, 1}};
    return (pare_layout_part){0};
}

pare_layout_part pare_layout_part_at(const pare_layout *l, int which) {
    static const char *const dtypes[] = {"F16", "BF16", "F32"};
    if (l->kind == PARE_LAYOUT_PACK) return pack_part(l, which, dtypes[l->scale]);
    if (l->kind == PARE_LAYOUT_INT) return int_part(l, which, dtypes[l->scale]);
    return gptq_part(l, which, dtypes[l->scale]);
}

size_t pare_layout_part_bytes(const pare_layout *l, int which) {
    pare_layout_part p = pare_layout_part_at(l, which);
    if (!p.suffix) return 0;
    size_t item = 4;
    if (which == PARE_LAYOUT_SCALES) item = l->scale == PARE_SCALE_F32 ? 4 : 2;
    if (which == PARE_LAYOUT_SHAPE) item = 8;
    if (strcmp(p.dtype, "I8") == 0) item = 1;
    return item * p.dims[0] * (p.n_dims == 2 ? p.dims[1] : 1);
}

bool pare_layout_holds(const pare_layout *l, char reason[160]) {
    unsigned b = l->bits;
    bool whole = b == 2 || b == 4 || b == 8;
    *reason = '\0';
    if (l->kind == PARE_LAYOUT_INT && b != 8)
        snprintf(reason, 160, "found %u bits, expected 8", b);
    else if (l->kind == PARE_LAYOUT_AWQ && b != 4)
        snprintf(reason, 160, "found %u bits, expected 4", b);
    else if (is_gptq(l) && !whole && b != 3)
        snprintf(reason, 160, "found %u bits, expected 2, 3, 4 or 8", b);
    else if (l->kind == PARE_LAYOUT_PACK && (b < 2 || b > 8))
        snprintf(reason, 160, "found %u bits, expected 2 to 8", b);
    else if (is_gptq(l) && l->cols % 32)
        snprintf(reason, 160, "found rows of %zu, expected a multiple of 32", l->cols);
    else if ((is_gptq(l) || l->kind == PARE_LAYOUT_AWQ) && l->rows * b % 32)
        snprintf(reason, 160, "found %zu rows of %u bits, expected a multiple of 32 bits", l->rows,
                 b);
    return !*reason;
}

/* --- bits --- */

/* n codes <-> the words of a stream, or of words that hold floor(32 / bits). */
static void spread(uint8_t *codes, size_t n, const uint32_t *words, const pare_layout *l) {
    unsigned b = l->bits, per = codes_per_word(b), mask = (1u << b) - 1;
    for (size_t k = 0; k < n; k++) {
        size_t bit = l->padded ? k / per * 32 + k % per * b : k * b, w = bit / 32, s = bit % 32;
        uint32_t v = words[w] >> s;
        if (s + b > 32) v |= words[w + 1] << (32 - s);
        codes[k] = (uint8_t)(v & mask);
    }
}

static void collect(uint32_t *words, const uint8_t *codes, size_t n, unsigned b) {
    memset(words, 0, words_of(n, b) * sizeof *words);
    for (size_t k = 0; k < n; k++) {
        size_t bit = k * b, w = bit / 32, s = bit % 32;
        words[w] |= (uint32_t)codes[k] << s;
        if (s + b > 32) words[w + 1] |= (uint32_t)codes[k] >> (32 - s);
    }
}

/* Nibble k of an AWQ word holds this column of its eight. */
static const uint8_t awq_column[8] = {0, 2, 4, 6, 1, 3, 5, 7};

static uint32_t word_at(const void *p, size_t i) {
    uint32_t w;
    memcpy(&w, (const uint8_t *)p + 4 * i, sizeof w);
    return w;
}

static void put_word(void *p, size_t i, uint32_t w) { memcpy((uint8_t *)p + 4 * i, &w, sizeof w); }

/* --- a tile of rows --- */

typedef struct tile {
    size_t first, n; /* rows */
    uint8_t *codes;  /* [TILE][cols] */
    float *scale;    /* [TILE][groups] */
    uint8_t *zero;   /* [TILE][groups] */
    uint32_t *words; /* scratch: of a row, at least 8 */
    size_t n_groups;
} tile;

static pare_status tile_alloc(tile *t, const pare_layout *l, pare_error *err) {
    *t = (tile){.n_groups = pare_layout_groups(l)};
    t->codes = pare_malloc(TILE * l->cols, 1);
    t->scale = pare_malloc(TILE * t->n_groups, sizeof *t->scale);
    t->zero = pare_malloc(TILE * t->n_groups, 1);
    t->words = pare_malloc(stream_words(l, l->cols > TILE ? l->cols : TILE), sizeof *t->words);
    if (t->codes && t->scale && t->zero && t->words) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "%zu rows: out of memory", l->rows);
}

static void tile_free(tile *t) {
    pare_free(t->codes);
    pare_free(t->scale);
    pare_free(t->zero);
    pare_free(t->words);
}

static void read_codes(tile *t, const pare_layout *l, const void *part) {
    size_t n = l->cols, row_words = stream_words(l, n);
    if (l->kind == PARE_LAYOUT_INT) {
        const int8_t *q = (const int8_t *)part + t->first * n;
        for (size_t i = 0; i < t->n * n; i++) t->codes[i] = (uint8_t)(q[i] + 128);
    } else if (l->kind == PARE_LAYOUT_PACK) {
        for (size_t r = 0; r < t->n; r++) {
            memcpy(t->words, (const uint8_t *)part + 4 * (t->first + r) * row_words, 4 * row_words);
            spread(t->codes + r * n, n, t->words, l);
        }
    } else if (is_gptq(l)) {
        for (size_t c = 0; c < n; c += 32)
            for (size_t r = 0; r < t->n; r++) {
                for (unsigned k = 0; k < l->bits; k++)
                    t->words[k] = word_at(part, (c / 32 * l->bits + k) * l->rows + t->first + r);
                spread(t->codes + r * n + c, 32, t->words, l);
            }
    } else {
        for (size_t c = 0; c < n; c++)
            for (size_t r = 0; r < t->n; r += 8) {
                uint32_t w = word_at(part, (c * l->rows + t->first + r) / 8);
                for (unsigned k = 0; k < 8; k++)
                    t->codes[(r + awq_column[k]) * n + c] = (uint8_t)(w >> 4 * k & 15);
            }
    }
}

static void write_codes(const tile *t, const pare_layout *l, void *part) {
    size_t n = l->cols, row_words = words_of(n, l->bits);
    if (l->kind == PARE_LAYOUT_INT) {
        int8_t *q = (int8_t *)part + t->first * n;
        for (size_t i = 0; i < t->n * n; i++) q[i] = (int8_t)(t->codes[i] - 128);
    } else if (l->kind == PARE_LAYOUT_PACK) {
        for (size_t r = 0; r < t->n; r++) {
            collect(t->words, t->codes + r * n, n, l->bits);
            memcpy((uint8_t *)part + 4 * (t->first + r) * row_words, t->words, 4 * row_words);
        }
    } else if (is_gptq(l)) {
        for (size_t c = 0; c < n; c += 32)
            for (size_t r = 0; r < t->n; r++) {
                collect(t->words, t->codes + r * n + c, 32, l->bits);
                for (unsigned k = 0; k < l->bits; k++)
                    put_word(part, (c / 32 * l->bits + k) * l->rows + t->first + r, t->words[k]);
            }
    } else {
        for (size_t c = 0; c < n; c++)
            for (size_t r = 0; r < t->n; r += 8) {
                uint32_t w = 0;
                for (unsigned k = 0; k < 8; k++)
                    w |= (uint32_t)t->codes[(r + awq_column[k]) * n + c] << 4 * k;
                put_word(part, (c * l->rows + t->first + r) / 8, w);
            }
    }
}

/* Word k of the tile's zero points of group g. */
static size_t zero_word(const tile *t, const pare_layout *l, size_t g, size_t k) {
    if (l->kind == PARE_LAYOUT_PACK) {
        size_t first = l->padded ? 0 : t->first / TILE * l->bits;
        return (first + k) * t->n_groups + g;
    }
    return g * words_of(l->rows, l->bits) + t->first / TILE * l->bits + k;
}

static void read_zeros(tile *t, const pare_layout *l, const void *part) {
    unsigned middle = 1u << (l->bits - 1), mask = (1u << l->bits) - 1;
    if (!part) {
        memset(t->zero, (int)middle, t->n * t->n_groups);
        return;
    }
    for (size_t g = 0; g < t->n_groups; g++) {
        uint8_t z[TILE] = {0};
        if (l->kind == PARE_LAYOUT_INT) {
            const int8_t *zero = part;
            for (size_t r = 0; r < t->n; r++)
                z[r] = (uint8_t)(zero[l->one_scale ? 0 : (t->first + r) * t->n_groups + g] + 128);
        } else if (l->kind == PARE_LAYOUT_AWQ) {
            for (size_t r = 0; r < t->n; r += 8) {
                uint32_t w = word_at(part, (g * l->rows + t->first + r) / 8);
                for (unsigned k = 0; k < 8; k++) z[r + awq_column[k]] = (uint8_t)(w >> 4 * k & 15);
            }
        } else if (l->padded) { /* words do not end with tiles */
            unsigned per = codes_per_word(l->bits);
            for (size_t r = 0; r < t->n; r++) {
                size_t k = t->first + r;
                z[r] = (uint8_t)(word_at(part, zero_word(t, l, g, k / per)) >> k % per * l->bits &
                                 mask);
            }
        } else {
            uint32_t words[8];
            for (size_t k = 0; k < words_of(t->n, l->bits); k++)
                words[k] = word_at(part, zero_word(t, l, g, k));
            spread(z, t->n, words, l);
        }
        unsigned add = l->kind == PARE_LAYOUT_GPTQ ? 1 : 0;
        for (size_t r = 0; r < t->n; r++)
            t->zero[r * t->n_groups + g] = (uint8_t)((z[r] + add) & mask);
    }
}

static pare_status write_zeros(const tile *t, const pare_layout *l, void *part, pare_error *err) {
    unsigned less = l->kind == PARE_LAYOUT_GPTQ ? 1 : 0;
    for (size_t g = 0; part && g < t->n_groups; g++) {
        uint8_t z[TILE] = {0};
        for (size_t r = 0; r < t->n; r++) {
            unsigned zero = t->zero[r * t->n_groups + g];
            if (zero < less)
                return pare_fail(err, PARE_ERR_UNSUPPORTED,
                                 "row %zu, group %zu: found zero point 0, which GPTQ of version 1 "
                                 "cannot say; expected format gptq-v2",
                                 t->first + r, g);
            z[r] = (uint8_t)(zero - less);
        }
        if (l->kind == PARE_LAYOUT_INT) {
            int8_t *zero = part;
            for (size_t r = 0; r < t->n; r++)
                zero[(t->first + r) * t->n_groups + g] = (int8_t)(z[r] - 128);
        } else if (l->kind == PARE_LAYOUT_AWQ) {
            for (size_t r = 0; r < t->n; r += 8) {
                uint32_t w = 0;
                for (unsigned k = 0; k < 8; k++) w |= (uint32_t)z[r + awq_column[k]] << 4 * k;
                put_word(part, (g * l->rows + t->first + r) / 8, w);
            }
        } else {
            uint32_t words[8];
            collect(words, z, t->n, l->bits);
            for (size_t k = 0; k < words_of(t->n, l->bits); k++)
                put_word(part, zero_word(t, l, g, k), words[k]);
        }
    }
    return PARE_OK;
}

/* Where the scale of a row and group stands. */
static size_t scale_at(const pare_layout *l, size_t row, size_t g, size_t n_groups) {
    if (l->one_scale) return 0;
    bool by_row = l->kind == PARE_LAYOUT_PACK || l->kind == PARE_LAYOUT_INT;
    return by_row ? row * n_groups + g : g * l->rows + row;
}

static void read_scales(tile *t, const pare_layout *l, const void *part) {
    for (size_t r = 0; r < t->n; r++)
        for (size_t g = 0; g < t->n_groups; g++) {
            size_t at = scale_at(l, t->first + r, g, t->n_groups);
            float *s = &t->scale[r * t->n_groups + g];
            uint16_t h;
            if (l->scale == PARE_SCALE_F32) {
                memcpy(s, (const uint8_t *)part + 4 * at, 4);
                continue;
            }
            memcpy(&h, (const uint8_t *)part + 2 * at, 2);
            *s = l->scale == PARE_SCALE_F16 ? pare_f16_to_f32(h) : pare_bf16_to_f32(h);
        }
}

static void write_scales(const tile *t, const pare_layout *l, void *part) {
    for (size_t r = 0; r < t->n; r++)
        for (size_t g = 0; g < t->n_groups; g++) {
            uint16_t h = pare_f32_to_f16(t->scale[r * t->n_groups + g]);
            memcpy((uint8_t *)part + 2 * scale_at(l, t->first + r, g, t->n_groups), &h, 2);
        }
}

/* --- writing --- */

static void get_rows(tile *t, const pare_layout *l, const pare_tensor *from,
                     const pare_grid_form *form, pare_grouped_row *row) {
    size_t row_group = form->group ? form->group : l->cols;
    for (size_t r = 0; r < t->n; r++) {
        pare_grouped_get(row, &from->view, from->enc, t->first + r);
        memcpy(t->codes + r * l->cols, row->codes, l->cols);
        for (size_t g = 0; g < t->n_groups; g++) {
            t->scale[r * t->n_groups + g] = pare_f16_to_f32(row->scale[g * l->group / row_group]);
            t->zero[r * t->n_groups + g] = row->zero[g * l->group / row_group];
        }
    }
}

static void write_constants(const pare_layout *l, void *const part[PARE_LAYOUT_PARTS]) {
    if (pare_layout_part_at(l, PARE_LAYOUT_G_IDX).suffix)
        for (size_t i = 0; i < l->cols; i++)
            put_word(part[PARE_LAYOUT_G_IDX], i, (uint32_t)(i / l->group));
    int64_t shape[2] = {(int64_t)l->rows, (int64_t)l->cols};
    if (pare_layout_part_at(l, PARE_LAYOUT_SHAPE).suffix)
        memcpy(part[PARE_LAYOUT_SHAPE], shape, sizeof shape);
}

pare_status pare_layout_pack(void *const part[PARE_LAYOUT_PARTS], const pare_layout *l,
                             const pare_tensor *from, pare_error *err) {
    pare_grid_form form;
    pare_grouped_row row = {0};
    tile t;
    if (!pare_grouped_form(&form, from->enc))
        return pare_fail(err, PARE_ERR_INTERNAL, "%s: no grouped integers", from->enc->name);
    bool zeros = pare_layout_part_at(l, PARE_LAYOUT_ZEROS).suffix != NULL;
    pare_status st = tile_alloc(&t, l, err);
    if (st == PARE_OK && !pare_grouped_row_alloc(&row, &form, l->cols))
        st = pare_fail(err, PARE_ERR_NOMEM, "a row of %zu: out of memory", l->cols);
    for (size_t r = 0; r < l->rows && st == PARE_OK; r += TILE) {
        t.first = r;
        t.n = l->rows - r < TILE ? l->rows - r : TILE;
        get_rows(&t, l, from, &form, &row);
        write_codes(&t, l, part[PARE_LAYOUT_CODES]);
        write_scales(&t, l, part[PARE_LAYOUT_SCALES]);
        st = write_zeros(&t, l, zeros ? part[PARE_LAYOUT_ZEROS] : NULL, err);
    }
    write_constants(l, part);
    pare_grouped_row_free(&row);
    tile_free(&t);
    return st;
}

/* --- reading --- */

pare_status pare_layout_check_g_idx(bool *in_order, const pare_layout *l, const void *g_idx,
                                    pare_error *err) {
    size_t n_groups = pare_layout_groups(l);
    *in_order = true;
    for (size_t i = 0; i < l->cols; i++) {
        uint32_t g = word_at(g_idx, i);
        if (g >= n_groups)
            return pare_fail(err, PARE_ERR_INPUT,
                             "g_idx: input %zu: found group %d, expected 0 to %zu", i, (int32_t)g,
                             n_groups - 1);
        *in_order &= g == i / l->group;
    }
    return PARE_OK;
}

const pare_encoding *pare_layout_encoding(const pare_layout *l, bool in_order) {
    const pare_encoding *floats = pare_encoding_find("f16");
    if (!in_order || l->cols % 8) return floats;
    size_t group = 0;
    if (l->group < l->cols)
        for (group = 128; group >= 32 && l->group % group; group /= 2) {
        }
    if (group && group < 32) return floats;
    const pare_encoding *enc = pare_encoding_of_grid((int)l->bits, l->asymmetric, group);
    return enc ? enc : floats;
}

/* As f16, where it is that number but for its last bits. */
static bool half_of(uint16_t *h, float x) {
    *h = pare_f32_to_f16(x);
    float back = pare_f16_to_f32(*h);
    return fabsf(x) <= 65504.0f && fabsf(back - x) <= fabsf(x) * 0x1p-8f;
}

static pare_status bad_scale(size_t row, size_t g, float s, pare_error *err) {
    return pare_fail(err, PARE_ERR_INPUT,
                     "scale of row %zu, group %zu: found %g, expected a number that f16 can hold",
                     row, g, (double)s);
}

/* A group of a symmetric matrix has the middle code for zero. */
static pare_status check_zeros(const tile *t, const pare_layout *l, pare_error *err) {
    unsigned middle = 1u << (l->bits - 1);
    for (size_t i = 0; !l->asymmetric && i < t->n * t->n_groups; i++)
        if (t->zero[i] != middle)
            return pare_fail(err, PARE_ERR_INPUT,
                             "zero point of row %zu, group %zu: found %u, expected %u of a "
                             "symmetric grid%s",
                             t->first + i / t->n_groups, i % t->n_groups, t->zero[i], middle,
                             is_gptq(l) ? " (or another checkpoint_format)" : "");
    return PARE_OK;
}

static pare_status put_integers(uint8_t *to, const pare_encoding *enc, const pare_layout *l,
                                const tile *t, uint16_t *scale, pare_error *err) {
    const pare_grid_form form = {(uint8_t)l->bits, l->asymmetric, (uint32_t)l->group};
    size_t row_bytes = pare_encoding_row_bytes(enc, l->cols);
    for (size_t r = 0; r < t->n; r++) {
        for (size_t g = 0; g < t->n_groups; g++) {
            float s = t->scale[r * t->n_groups + g];
            if (!half_of(&scale[g], s)) return bad_scale(t->first + r, g, s, err);
        }
        pare_grouped_row row = {t->codes + r * l->cols, scale, t->zero + r * t->n_groups};
        pare_grouped_put(to + (t->first + r) * row_bytes, enc, l->cols, &row, &form);
    }
    return PARE_OK;
}

static pare_status put_floats(uint8_t *to, const pare_layout *l, const tile *t, const void *g_idx,
                              pare_error *err) {
    for (size_t r = 0; r < t->n; r++)
        for (size_t i = 0; i < l->cols; i++) {
            size_t g = g_idx ? word_at(g_idx, i) : i / l->group;
            float s = t->scale[r * t->n_groups + g];
            float w = s * (float)(t->codes[r * l->cols + i] - t->zero[r * t->n_groups + g]);
            if (!(fabsf(w) <= 65504.0f)) return bad_scale(t->first + r, g, s, err);
            uint16_t h = pare_f32_to_f16(w);
            memcpy(to + 2 * ((t->first + r) * l->cols + i), &h, 2);
        }
    return PARE_OK;
}

static pare_status check_shape(const pare_layout *l, const void *part, pare_error *err) {
    int64_t shape[2];
    if (!part) return PARE_OK;
    memcpy(shape, part, sizeof shape);
    if (shape[0] == (int64_t)l->rows && shape[1] == (int64_t)l->cols) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT, "weight_shape: found [%lld, %lld], expected [%zu, %zu]",
                     (long long)shape[0], (long long)shape[1], l->rows, l->cols);
}

pare_status pare_layout_unpack(void *to, const pare_encoding *enc, const pare_layout *l,
                               const void *const part[PARE_LAYOUT_PARTS], pare_error *err) {
    bool in_order = true;
    const void *g_idx = part[PARE_LAYOUT_G_IDX];
    PARE_TRY(check_shape(l, part[PARE_LAYOUT_SHAPE], err));
    if (g_idx) PARE_TRY(pare_layout_check_g_idx(&in_order, l, g_idx, err));
    if (enc->grid && !in_order)
        return pare_fail(err, PARE_ERR_INPUT, "g_idx: found groups that are not in order");
    tile t;
    pare_status st = tile_alloc(&t, l, err);
    uint16_t *scale = st == PARE_OK ? pare_malloc(t.n_groups, sizeof *scale) : NULL;
    if (st == PARE_OK && !scale)
        st = pare_fail(err, PARE_ERR_NOMEM, "%zu scales: out of memory", t.n_groups);
    for (size_t r = 0; r < l->rows && st == PARE_OK; r += TILE) {
        t.first = r;
        t.n = l->rows - r < TILE ? l->rows - r : TILE;
        read_codes(&t, l, part[PARE_LAYOUT_CODES]);
        read_scales(&t, l, part[PARE_LAYOUT_SCALES]);
        read_zeros(&t, l, part[PARE_LAYOUT_ZEROS]);
        st = check_zeros(&t, l, err);
        if (st != PARE_OK) break;
        st = enc->grid ? put_integers(to, enc, l, &t, scale, err)
                       : put_floats(to, l, &t, g_idx, err);
    }
    pare_free(scale);
    tile_free(&t);
    return st;
}
