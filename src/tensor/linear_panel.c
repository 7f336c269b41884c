/* A panel of the path of many rows: unpacked from any encoding into the form of a tile kernel, and
 * multiplied. */
#include "tensor/linear_panel.h"

#include "kernels/blocks.h"
#include "kernels/packed.h"
#include "tensor/live.h"

#include <string.h>

enum { NR = PARE_TILE_NR, KC = PARE_TILE_KC, PARTS = PARE_BF16_PARTS };

/* --- codes --- */

/* s->rows = the panel's codes: as they are for the f32 form, moved to begin at 0 for u8, widened
 * for s16; and each row's scales and offsets. Zeros up to a multiple of 32. */
static void unpack_codes(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *p, size_t kb, size_t k, pare_form to) {
    const pare_encoding *enc = p->out->w->enc;
    for (size_t r = 0; r < NR; r++) {
        float *scale = s->scale_rows + r * (KC / 16), *offset = s->offset_rows + r * (KC / 16);
        int8_t buffer[KC], *q = to == PARE_FORM_F32 ? (int8_t *)s->rows + r * KC : buffer;
        if (r >= p->n_rows || k % 32 != 0) {
            memset(q, 0, KC);
            memset(scale, 0, KC / 16 * sizeof *scale);
            memset(offset, 0, KC / 16 * sizeof *offset);
        }
        if (r < p->n_rows)
            pare_linear_codes(job, q, scale, offset, p->out->w, p->row0 + r, kb * KC, k);
        if (to == PARE_FORM_S16) job->unpack->widen((int16_t *)s->rows + r * KC, q, pare_padded(k));
        if (to == PARE_FORM_U8)
            job->unpack->shift((uint8_t *)s->rows + r * KC, q, enc->code_min, pare_padded(k));
    }
}

/* to->offset for codes that begin at `min` and are stored from 0 on. */
static void add_min(pare_panel_space *to, size_t groups, bool has_offset, int min) {
    to->has_offset = has_offset || min != 0;
    if (min == 0) return;
    for (size_t g = 0; g < groups; g++) {
        const float *restrict scale = to->scale + g * NR;
        float *restrict offset = to->offset + g * NR;
        if (!has_offset) memset(offset, 0, NR * sizeof *offset);
        for (size_t r = 0; r < NR; r++) offset[r] += scale[r] * (float)min;
    }
}

/* to->scale, to->offset [groups][NR] from the rows' scales and offsets. */
static void unpack_scales(const pare_linear_job *job, const pare_many_space *s, size_t groups,
                          bool has_offset, pare_panel_space *to) {
    job->tiles->transpose((uint32_t *)to->scale, (const uint32_t *)s->scale_rows, KC / 16, groups);
    if (has_offset)
        job->tiles->transpose((uint32_t *)to->offset, (const uint32_t *)s->offset_rows, KC / 16,
                              groups);
    to->has_offset = has_offset;
}

static const uint8_t *packed_panel(const pare_panel_at *p) {
    const pare_packed *packed = p->out->w->enc->packed;
    const pare_view *v = &p->out->w->view;
    return (const uint8_t *)v->part[0] + p->row0 / NR * pare_packed_panel_bytes(*packed, v->cols);
}

/* s->codes, to->scale and to->offset from a packed panel. */
static void unpack_packed(const pare_linear_job *job, const pare_many_space *s,
                          const pare_panel_at *p, size_t kb, size_t k, pare_panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    job->unpack->packed[enc->dot](s->codes, to->scale, to->offset, packed_panel(p), kb * KC, k);
    to->has_offset = enc->has_offset;
}

/* s->rows[NR][KC] = the panel's weights, zeros up to k_end. */
static void decode_rows(const pare_linear_job *job, const pare_many_space *s,
                        const pare_panel_at *p, size_t kb, size_t k, size_t k_end) {
    for (size_t r = 0; r < NR; r++) {
        float *row = s->rows + r * KC;
        size_t n = r < p->n_rows ? k : 0;
        if (n) pare_linear_decode(job, row, p->out->w, p->row0 + r, kb * KC, n);
        memset(row + n, 0, (k_end - n) * sizeof(float));
    }
}

/* Weights of 32 and 16 bits, brought into panel form without a copy of the rows; false when the
 * encoding is another, or the panel lies at an edge where pairs would not be complete. */
static bool plain_panel(const pare_linear_job *job, const pare_many_space *s,
                        const pare_panel_at *p, size_t kb, size_t k, float *panel) {
    const pare_view *v = &p->out->w->view;
    pare_dotf_id id = p->out->w->enc->dotf;
    bool halves = id == PARE_DOTF_f16 || id == PARE_DOTF_bf16;
    if ((id != PARE_DOTF_f32 && !halves) || p->n_rows < NR || v->row_bytes % 4 != 0) return false;
    const char *rows = (const char *)v->part[0] + p->row0 * v->row_bytes;
    rows += kb * KC * (halves ? 2 : 4);
    uint32_t *to = halves ? (uint32_t *)s->rows : (uint32_t *)panel;
    job->tiles->transpose(to, (const uint32_t *)rows, v->row_bytes / 4, halves ? k / 2 : k);
    if (halves)
        (id == PARE_DOTF_f16 ? job->unpack->f16_panel : job->unpack->bf16_panel)(panel, to, k);
    return true;
}

/* s->codes, to->scale and to->offset from any encoding with codes; k a multiple of 32. */
static void panel_codes(const pare_linear_job *job, const pare_many_space *s,
                        const pare_panel_at *p, size_t kb, size_t k, pare_panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    if (enc->packed) {
        unpack_packed(job, s, p, kb, k, to);
        return;
    }
    unpack_codes(job, s, p, kb, k, PARE_FORM_F32);
    unpack_scales(job, s, k / enc->code_group, enc->has_offset, to);
    job->tiles->transpose((uint32_t *)s->codes, (const uint32_t *)s->rows, KC / 4, k / 4);
}

/* to->panel from codes. */
static void expand_codes(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *p, size_t kb, size_t k, pare_panel_space *to) {
    panel_codes(job, s, p, kb, k, to);
    job->unpack->expand_panel(to->panel, (const uint32_t *)s->codes, to->scale,
                              to->has_offset ? to->offset : NULL, p->out->w->enc->code_group, k);
}

/* --- f32 --- */

/* y[NR] = the panel's columns of one row of the matrix. */
static void decode_columns(float *y, const pare_panel_at *p, size_t row) {
    const pare_tensor *t = p->out->w;
    size_t len = t->enc->block_len > 32 ? t->enc->block_len : 32, col = p->row0;
    float window[PARE_TILE_KC];
    if (t->enc->span > len) len = t->enc->span;
    size_t first = col / len * len, n = t->view.cols - first < len ? t->view.cols - first : len;
    t->enc->decode(window, &t->view, row, first, n);
    memcpy(y, window + (col - first), p->n_rows * sizeof *y);
}

/* y[NR] from bf16: the inputs that a training keeps in `fast`. */
static void widen(float *y, const uint8_t *from) {
    uint16_t half[NR];
    uint32_t bits[NR];
    memcpy(half, from, sizeof half);
    for (size_t i = 0; i < NR; i++) bits[i] = (uint32_t)half[i] << 16;
    memcpy(y, bits, sizeof bits);
}

/* to->panel of a transposed matrix: k of its rows (of the block's, those listed), 16 columns of
 * each. */
static void unpack_columns(const pare_panel_at *p, size_t kb, size_t k, pare_panel_space *to) {
    const pare_view *v = &p->out->w->view;
    pare_dotf_id id = p->out->w->enc->dotf;
    for (size_t i = 0; i < k; i++) {
        float *y = to->panel + i * NR;
        size_t row = kb * KC + (to->listed ? to->inputs[i] : i);
        const uint8_t *from = (const uint8_t *)v->part[0] + row * v->row_bytes;
        if (p->n_rows < NR) memset(y, 0, NR * sizeof *y);
        if (id == PARE_DOTF_f32 && p->n_rows == NR)
            memcpy(y, from + p->row0 * sizeof *y, NR * sizeof *y);
        else if (id == PARE_DOTF_bf16 && p->n_rows == NR)
            widen(y, from + p->row0 * sizeof(uint16_t));
        else if (id == PARE_DOTF_f32 || id == PARE_DOTF_f16 || id == PARE_DOTF_bf16)
            p->out->w->enc->decode(y, v, row, p->row0, p->n_rows);
        else
            decode_columns(y, p, row);
    }
}

/* to->panel of the inputs that are listed: runs of neighbours are transposed at once. */
static void unpack_listed(const pare_linear_job *job, const pare_many_space *s,
                          const pare_panel_at *p, size_t kb, size_t k, pare_panel_space *to) {
    const pare_view *v = &p->out->w->view;
    const float *rows = s->rows;
    size_t ld = KC;
    if (p->out->w->enc->dotf == PARE_DOTF_f32 && p->n_rows == NR) {
        ld = v->row_bytes / sizeof *rows;
        rows = (const float *)v->part[0] + p->row0 * ld + kb * KC;
    } else {
        decode_rows(job, s, p, kb, k, k);
    }
    for (size_t i = 0, run; i < to->n_inputs; i += run) {
        for (run = 1; i + run < to->n_inputs && to->inputs[i + run] == to->inputs[i] + run;) run++;
        job->tiles->transpose((uint32_t *)to->panel + i * NR,
                              (const uint32_t *)rows + to->inputs[i], ld, run);
    }
}

/* The inputs that the panel has weights at: all, or a list where that is faster. */
static void list_inputs(const pare_linear_job *job, const pare_panel_at *p, size_t kb, size_t k,
                        pare_panel_space *to) {
    to->n_inputs = k;
    to->listed = false;
    if (!p->live || job->x_transposed) return;
    size_t n = pare_live_list(to->inputs, p->live, job->live_row0 + kb * KC, k);
    to->listed = pare_live_pays(n, k);
    if (to->listed) to->n_inputs = n;
}

static void unpack_f32(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                       size_t kb, pare_panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    size_t k = pare_block_k(job->in, kb);
    list_inputs(job, p, kb, k, to);
    if (p->out->transposed) {
        unpack_columns(p, kb, to->n_inputs, to);
    } else if (to->listed) {
        unpack_listed(job, s, p, kb, k, to);
    } else if (enc->codes && (enc->packed || k % 32 == 0)) {
        expand_codes(job, s, p, kb, k, to);
    } else if (!plain_panel(job, s, p, kb, k, to->panel)) {
        decode_rows(job, s, p, kb, k, k);
        job->tiles->transpose((uint32_t *)to->panel, (const uint32_t *)s->rows, KC, k);
    }
}

static void multiply_f32(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *p, const pare_panel_space *w, size_t kb, size_t m0,
                         size_t m, float *c) {
    const float *x = s->x_f32 + kb * s->x_block + m0 * s->x_ld;
    (void)p;
    if (w->listed)
        job->tiles->f32_inputs(c, x, s->x_ld, w->panel, w->inputs, m, w->n_inputs, kb > 0);
    else
        job->tiles->f32(c, x, s->x_ld, w->panel, m, w->n_inputs, kb > 0);
}

/* --- bf16 --- */

/* Products of parts, of as many parts of w as it has, neighbours with a part in common. Those left
 * out are below 2^-24 of the whole: the last bit of f32. */
static const struct { uint8_t x, w; } products[] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 2}, {0, 0}};
enum { N_PRODUCTS = sizeof products / sizeof *products };

/* Parts that hold every weight exactly: bf16 keeps 8 bits of a number, f16 has 11. */
int pare_panel_parts(const pare_panel_at *p) {
    if (p->form != PARE_FORM_BF16X3) return 1;
    if (pare_holds_bf16(p->out->w->enc)) return 1;
    return p->out->w->enc->dotf == PARE_DOTF_f16 ? 2 : PARTS;
}

/* A panel of one part straight from where its weights lie, f32 or bf16; false at edges, and where
 * it is another encoding. */
static bool paired_panel(const pare_linear_job *job, const pare_panel_at *p, size_t kb,
                         uint32_t *panel) {
    const pare_view *v = &p->out->w->view;
    pare_dotf_id id = p->out->w->enc->dotf;
    bool half = id == PARE_DOTF_bf16;
    size_t k = pare_block_k(job->in, kb), ld = v->row_bytes / (half ? 2 : 4);
    if ((!half && id != PARE_DOTF_f32) || p->n_rows < NR) return false;
    const uint8_t *from = v->part[0];
    if (p->out->transposed) {
        from += kb * KC * v->row_bytes + p->row0 * (half ? 2 : 4);
        memset(panel + k / 2 * NR, 0, (pare_padded(k) - k / 2 * 2) / 2 * NR * sizeof *panel);
        if (half)
            job->tiles->pair_bf16(panel, (const uint16_t *)(const void *)from, ld, k);
        else
            job->tiles->pair_f32(panel, (const float *)(const void *)from, ld, k);
        return true;
    }
    if (!half || ld % 2 || k % 32) return false;
    from += p->row0 * v->row_bytes + kb * KC * 2;
    job->tiles->transpose(panel, (const uint32_t *)(const void *)from, ld / 2, k / 2);
    return true;
}

/* The same from codes. */
static void paired_codes(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *p, size_t kb, size_t k, pare_panel_space *to) {
    panel_codes(job, s, p, kb, k, to);
    job->tiles->pair_codes((uint32_t *)to->panel16[0], (const uint32_t *)s->codes, to->scale,
                           to->has_offset ? to->offset : NULL, p->out->w->enc->code_group, k);
}

/* Of a panel of pairs those that it has weights at, where that is faster. */
static void list_pairs(const pare_linear_job *job, const pare_panel_at *p, size_t kb,
                       pare_panel_space *to) {
    size_t k = pare_block_k(job->in, kb), n;
    uint32_t *panel = (uint32_t *)to->panel16[0];
    to->listed = false;
    if (!p->live || job->x_transposed) return;
    n = pare_live_pairs(to->inputs, p->live, job->live_row0 + kb * KC, k);
    to->listed = pare_live_pays(2 * n, k);
    if (!to->listed) return;
    to->n_inputs = n;
    for (size_t i = 0; i < n; i++)
        memmove(panel + i * NR, panel + (size_t)to->inputs[i] * NR, NR * sizeof *panel);
}

static void unpack_whole_bf16(const pare_linear_job *job, const pare_many_space *s,
                              const pare_panel_at *p, size_t kb, pare_panel_space *to) {
    size_t k = pare_padded(pare_block_k(job->in, kb));
    const int n_parts = pare_panel_parts(p);
    const pare_encoding *enc = p->out->w->enc;
    if (n_parts == 1 && paired_panel(job, p, kb, (uint32_t *)to->panel16[0])) return;
    if (n_parts == 1 && job->tiles->pair_codes && !p->out->transposed && enc->codes &&
        (enc->packed || pare_block_k(job->in, kb) == k)) {
        paired_codes(job, s, p, kb, k, to);
        return;
    }
    if (p->out->transposed || (enc->codes && enc->packed)) { /* all 16 rows at once */
        if (p->out->transposed) {
            size_t filled = pare_block_k(job->in, kb);
            to->listed = false;
            unpack_columns(p, kb, filled, to);
            memset(to->panel + filled * NR, 0, (k - filled) * NR * sizeof *to->panel);
        } else {
            expand_codes(job, s, p, kb, k, to);
        }
        job->tiles->split(s->rows16, n_parts, to->panel, NR * k);
        for (int i = 0; i < n_parts; i++)
            job->unpack->pair_panel((uint32_t *)to->panel16[i], s->rows16[i], k);
        return;
    }
    decode_rows(job, s, p, kb, pare_block_k(job->in, kb), k);
    for (size_t r = 0; r < NR; r++) {
        uint16_t *parts[PARTS];
        for (int i = 0; i < PARTS; i++) parts[i] = s->rows16[i] + r * KC;
        job->tiles->split(parts, n_parts, s->rows + r * KC, k);
    }
    for (int i = 0; i < n_parts; i++)
        job->tiles->transpose((uint32_t *)to->panel16[i], (const uint32_t *)s->rows16[i], KC / 2,
                              k / 2);
}

static void unpack_bf16(const pare_linear_job *job, const pare_many_space *s,
                        const pare_panel_at *p, size_t kb, pare_panel_space *to) {
    unpack_whole_bf16(job, s, p, kb, to);
    list_pairs(job, p, kb, to);
}

static void multiply_bf16(const pare_linear_job *job, const pare_many_space *s,
                          const pare_panel_at *p, const pare_panel_space *w, size_t kb, size_t m0,
                          size_t m, float *c) {
    const int n_parts = pare_panel_parts(p);
    bool more = kb > 0;
    if (w->listed) {
        job->tiles->bf16_pairs(c, s->x16[0] + (kb * s->slab + m0) * KC, KC, w->panel16[0],
                               w->inputs, m, w->n_inputs, more);
        return;
    }
    for (int i = p->form == PARE_FORM_BF16X3 ? 0 : N_PRODUCTS - 1; i < N_PRODUCTS; i++) {
        if (products[i].w >= n_parts) continue;
        job->tiles->bf16(c, NR, s->x16[products[i].x] + (kb * s->slab + m0) * KC, KC,
                         w->panel16[products[i].w], m, pare_padded(pare_block_k(job->in, kb)),
                         more);
        more = true;
    }
}

size_t pare_panel_runs(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                       size_t kb, size_t n_blocks, size_t m0, const uint16_t *panels,
                       size_t block_stride, pare_tile_run runs[PARE_MAX_RUNS]) {
    const size_t n_parts = (size_t)pare_panel_parts(p);
    size_t n = 0;
    for (size_t j = 0; j < n_blocks; j++)
        for (int i = p->form == PARE_FORM_BF16X3 ? 0 : N_PRODUCTS - 1; i < N_PRODUCTS; i++) {
            if (products[i].w >= n_parts) continue;
            runs[n++] = (pare_tile_run){
                .a = s->x16[products[i].x] + ((kb + j) * s->slab + m0) * KC,
                .panels = panels + (j * n_parts + products[i].w) * block_stride,
                .bytes = pare_padded(pare_block_k(job->in, kb + j)) * sizeof(uint16_t)};
        }
    return n;
}

void pare_panel_multiply_rows(const pare_linear_job *job, const pare_many_space *s,
                              const pare_panel_at *p, const pare_panel_space *w, size_t kb,
                              size_t m0, const uint16_t *rows, size_t n, float *c) {
    if (p->form == PARE_FORM_BF16)
        job->tiles->bf16_rows(c, s->x16[0] + (kb * s->slab + m0) * KC, KC, rows, w->panel16[0], n,
                              pare_padded(pare_block_k(job->in, kb)), kb > 0);
    else
        job->tiles->f32_rows(c, s->x_f32 + kb * s->x_block + m0 * s->x_ld, s->x_ld, rows, w->panel,
                             n, w->n_inputs, kb > 0);
}

void pare_panel_place(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                      const pare_panel_space *w, size_t m0, size_t m, const float *c,
                      size_t y_row) {
    const pare_linear_out *o = p->out;
    size_t kb = s->n_kb - 1;
    job->tiles->bf16_place(o->y + y_row * o->ldy + (p->row0 - o->row0), o->ldy, kb ? c : NULL,
                           s->x16[0] + (kb * s->slab + m0) * KC, KC, w->panel16[0],
                           o->bias ? o->bias + p->row0 : NULL, m,
                           pare_padded(pare_block_k(job->in, kb)), o->accumulate);
}

/* --- int8 --- */

static void unpack_int(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                       size_t kb, pare_panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    size_t k = pare_block_k(job->in, kb), k_padded = pare_padded(k);
    bool wide = p->form == PARE_FORM_S16;
    size_t per_unit = wide ? 2 : 4; /* codes in 32 bits */
    if (enc->packed) {
        unpack_packed(job, s, p, kb, k, to);
        job->unpack->shift((uint8_t *)to->panel, s->codes, enc->code_min, NR * k);
    } else {
        unpack_codes(job, s, p, kb, k, p->form);
        unpack_scales(job, s, k_padded / enc->code_group, enc->has_offset, to);
        job->tiles->transpose((uint32_t *)to->panel, (const uint32_t *)s->rows, KC / per_unit,
                              k_padded / per_unit);
    }
    add_min(to, k_padded / enc->code_group, enc->has_offset, wide ? 0 : enc->code_min);
}

static void multiply_int(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *p, const pare_panel_space *w, size_t kb, size_t m0,
                         size_t m, float *c) {
    const pare_encoding *enc = p->out->w->enc;
    pare_tile_panel panel = {.q = w->panel,
                             .scale = w->scale,
                             .offset = w->has_offset ? w->offset : NULL,
                             .k = pare_padded(pare_block_k(job->in, kb)),
                             .group = enc->code_group,
                             .code_max = enc->code_max - enc->code_min};
    size_t at = kb * s->slab + m0, sums = KC / enc->code_group;
    pare_tile_act a = {.q = s->q + at * KC,
                       .q16 = s->q16 + at * KC,
                       .d = s->d + at * (KC / 32),
                       .sum = s->sum[enc->code_group == 32] + at * sums,
                       .q_stride = KC,
                       .d_stride = KC / 32,
                       .sum_stride = sums};
    (p->form == PARE_FORM_S16 ? job->tiles->s16 : job->tiles->u8)(c, &a, &panel, m, kb > 0);
}

bool pare_panel_row_scales(const pare_panel_at *p, float scale[PARE_TILE_NR]) {
    const pare_packed *packed = p->out->w->enc->packed;
    if (p->n_rows < NR || !packed || packed->bits != 8 || packed->kind != PARE_PACKED_D ||
        packed->two_four)
        return false;
    uint16_t d[NR];
    const uint8_t *panel = packed_panel(p);
    for (size_t b = 1; b < p->out->w->view.cols / 32; b++)
        if (memcmp(panel, panel + pare_packed_block_at(*packed, b), sizeof d) != 0) return false;
    memcpy(d, panel, sizeof d);
    for (size_t r = 0; r < NR; r++) scale[r] = pare_f16_to_f32(d[r]);
    return true;
}

void pare_panel_s8(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                   size_t kb, int8_t *codes) {
    size_t k = pare_block_k(job->in, kb);
    job->unpack->packed[p->out->w->enc->dot](codes, s->panels[0].scale, s->panels[0].offset,
                                             packed_panel(p), kb * KC, k);
    if (k % 64) memset(codes + k * NR, 0, (64 - k % 64) * NR);
}

static const struct {
    void (*unpack)(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                   size_t kb, pare_panel_space *to);
    void (*multiply)(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                     const pare_panel_space *w, size_t kb, size_t m0, size_t m, float *c);
} forms[PARE_FORMS] = {[PARE_FORM_F32] = {unpack_f32, multiply_f32},
                       [PARE_FORM_BF16] = {unpack_bf16, multiply_bf16},
                       [PARE_FORM_BF16X3] = {unpack_bf16, multiply_bf16},
                       [PARE_FORM_U8] = {unpack_int, multiply_int},
                       [PARE_FORM_S16] = {unpack_int, multiply_int}};

void pare_panel_unpack(const pare_linear_job *job, const pare_many_space *s, const pare_panel_at *p,
                       size_t kb, pare_panel_space *to) {
    forms[p->form].unpack(job, s, p, kb, to);
}

void pare_panel_multiply(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *p, const pare_panel_space *w, size_t kb, size_t m0,
                         size_t m, float *c) {
    forms[p->form].multiply(job, s, p, w, kb, m0, m, c);
}
