#include "tensor/grouped_row.h"

#include "kernels/blocks.h"

#include <string.h>

bool pare_grouped_row_alloc(pare_grouped_row *row, const pare_grid_form *form, size_t cols) {
    size_t groups = pare_grid_groups(form, cols);
    *row = (pare_grouped_row){pare_malloc(cols, 1), pare_malloc(groups, sizeof(uint16_t)),
                              pare_malloc(groups, 1)};
    if (row->codes && row->scale && row->zero) return true;
    pare_grouped_row_free(row);
    return false;
}

void pare_grouped_row_free(pare_grouped_row *row) {
    pare_free(row->codes);
    pare_free(row->scale);
    pare_free(row->zero);
    *row = (pare_grouped_row){0};
}

/* Blocks that are grouped integers: symmetric, groups of 32. */
static unsigned block_bits(const pare_encoding *enc) {
    static const struct {
        const char *name;
        unsigned bits;
    } blocks[] = {{"q4_0", 4}, {"q5_0", 5}, {"q8_0", 8}};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (strcmp(enc->name, blocks[i].name) == 0) return blocks[i].bits;
    return 0;
}

bool pare_grouped_form(pare_grid_form *form, const pare_encoding *enc) {
    unsigned bits = block_bits(enc);
    if (!enc->grid && !bits) return false;
    *form = enc->grid ? *enc->grid : (pare_grid_form){(uint8_t)bits, false, 32};
    return true;
}

const pare_encoding *pare_grouped_blocks(const pare_grid_form *form) {
    int bits = form->bits + form->asymmetric; /* of code - zero, signed */
    return bits > 8 ? NULL : pare_encoding_find(bits <= 4 ? "q4_0" : bits == 5 ? "q5_0" : "q8_0");
}

/* --- grouped integers: the layout of encodings/grouped_int.c --- */

static size_t header_bytes(const pare_grid_form *f) { return f->asymmetric ? 3 : 2; }

static size_t group_length(const pare_grid_form *f, size_t cols, size_t c) {
    return f->group && cols - c > f->group ? f->group : cols - c;
}

static void get_grouped(pare_grouped_row *row, const uint8_t *p, const pare_grid_form *f,
                        size_t cols) {
    unsigned mask = (1u << f->bits) - 1;
    for (size_t c = 0, g = 0; c < cols; g++) {
        size_t n = group_length(f, cols, c);
        memcpy(&row->scale[g], p, 2);
        row->zero[g] = f->asymmetric ? p[2] : (uint8_t)(1u << (f->bits - 1));
        p += header_bytes(f);
        for (size_t end = c + n; c < end; c += 8, p += f->bits) {
            uint64_t v = 0;
            memcpy(&v, p, f->bits);
            for (unsigned k = 0; k < 8; k++) row->codes[c + k] = (uint8_t)(v >> k * f->bits & mask);
        }
    }
}

static void put_grouped(uint8_t *p, const pare_grid_form *f, size_t cols,
                        const pare_grouped_row *row, size_t row_group) {
    for (size_t c = 0; c < cols;) {
        size_t n = group_length(f, cols, c), from = c / row_group;
        memcpy(p, &row->scale[from], 2);
        if (f->asymmetric) p[2] = row->zero[from];
        p += header_bytes(f);
        for (size_t end = c + n; c < end; c += 8, p += f->bits) {
            uint64_t v = 0;
            for (unsigned k = 0; k < 8; k++) v |= (uint64_t)row->codes[c + k] << k * f->bits;
            memcpy(p, &v, f->bits);
        }
    }
}

/* --- blocks of 32 --- */

static void get_blocks(pare_grouped_row *row, const pare_view *w, const pare_encoding *enc,
                       size_t r) {
    unsigned zero = (1u << block_bits(enc)) / 2;
    for (size_t c = 0; c < w->cols; c += 32) {
        int8_t q[32];
        float scale;
        enc->codes(q, &scale, NULL, w, r, c, 32);
        row->scale[c / 32] = pare_f32_to_f16(scale);
        row->zero[c / 32] = (uint8_t)zero;
        for (size_t i = 0; i < 32; i++) row->codes[c + i] = (uint8_t)(q[i] + (int)zero);
    }
}

/* Codes of one block: code - zero from -2^(bits-1) on. */
static void put_block(void *to, unsigned bits, uint16_t scale, const int *q) {
    if (bits == 8) {
        pare_q8_0 b = {.d = scale};
        for (size_t i = 0; i < 32; i++) b.q[i] = (int8_t)q[i];
        memcpy(to, &b, sizeof b);
        return;
    }
    pare_q5_0 b = {.d = scale};
    for (size_t i = 0; i < 32; i++) {
        unsigned code = (unsigned)(q[i] + (1 << (bits - 1)));
        b.qs[i % 16] |= (uint8_t)((code & 15) << (i < 16 ? 0 : 4));
        b.qh |= (code >> 4) << i;
    }
    if (bits == 5) {
        memcpy(to, &b, sizeof b);
        return;
    }
    pare_q4_0 b4 = {.d = scale};
    memcpy(b4.qs, b.qs, sizeof b4.qs);
    memcpy(to, &b4, sizeof b4);
}

static void put_blocks(uint8_t *to, const pare_encoding *enc, size_t cols,
                       const pare_grouped_row *row, size_t row_group) {
    unsigned bits = block_bits(enc);
    for (size_t c = 0; c < cols; c += 32, to += enc->block_bytes) {
        size_t from = c / row_group;
        int q[32];
        for (size_t i = 0; i < 32; i++) q[i] = row->codes[c + i] - row->zero[from];
        put_block(to, bits, row->scale[from], q);
    }
}

/* --- either --- */

void pare_grouped_get(pare_grouped_row *row, const pare_view *w, const pare_encoding *enc,
                      size_t r) {
    if (enc->grid)
        get_grouped(row, (const uint8_t *)w->part[0] + r * w->row_bytes, enc->grid, w->cols);
    else
        get_blocks(row, w, enc, r);
}

void pare_grouped_put(void *to, const pare_encoding *enc, size_t cols, const pare_grouped_row *row,
                      const pare_grid_form *form) {
    size_t row_group = form->group ? form->group : cols;
    if (enc->grid)
        put_grouped(to, enc->grid, cols, row, row_group);
    else
        put_blocks(to, enc, cols, row, row_group);
}
