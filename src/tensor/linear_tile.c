/* Many rows. Three loops around a tile kernel:
 *
 *   slabs of SLAB inputs rows     brought into the kernels' form by all threads: [k block][row][KC]
 *   items: a few panels           taken by one thread each; their sums stay in its scratch
 *     blocks of KC inputs         the item's panels are unpacked into L2
 *       blocks of MC rows         their part of the slab (MC x KC) stays in L2
 *         panels                  one after the other in L1
 *
 * So a weight is unpacked once per slab. An output is summed over k blocks in order, whatever the
 * item, the thread or the row: results depend on neither the number of threads nor on n. */
#include "kernels/packed.h"
#include "tensor/linear_job.h"

#include <string.h>

enum {
    NR = PARE_TILE_NR,
    KC = PARE_TILE_KC,
    SLAB = 512,         /* rows of x at a time, at most */
    MC = 192,           /* at most, in equal blocks of whole kernel rows */
    KERNEL_ROWS = 12,   /* a multiple of every kernel's */
    ITEM_PANELS = 4,    /* panels of an item, at most */
    ITEMS_A_THREAD = 4, /* smaller items where there would be fewer */
    PARTS = 3,          /* bf16 parts of an f32 number in `exact` */
    SPLIT_ROWS = 64     /* with more threads than panels, rows are split too, not below this */
};

typedef enum form { FORM_F32, FORM_BF16, FORM_BF16X3, FORM_U8, FORM_S16, FORMS } form;

/* A block of KC inputs of a panel, in the form of its kernel. */
typedef struct panel_space {
    float *panel;             /* [KC][NR] */
    uint16_t *panel16[PARTS]; /* [KC / 2][NR][2] */
    float *scale, *offset;    /* [KC / 16][NR] */
    bool has_offset;
} panel_space;

/* What the forms need of x: block kb of KC inputs begins at row kb * slab of each array. */
typedef struct many_space {
    size_t slab, n_kb; /* slab: rows */
    float *x;          /* [n_kb][slab][KC]; x and x16 are the same memory */
    uint16_t *x16[PARTS];
    int8_t *q; /* [n_kb][slab][KC] */
    int16_t *q16;
    float *d;      /* [n_kb][slab][KC / 32] */
    float *sum[2]; /* d * (sum of q) per 16 and per 32: [n_kb][slab][KC / 16], [..][KC / 32] */
    /* of this thread */
    float *c;                        /* [ITEM_PANELS][slab][NR] */
    float *rows;                     /* [NR][KC]: decoded rows; codes of 8 or 16 bits */
    uint16_t *rows16[PARTS];         /* [NR][KC]: their bf16 parts */
    int8_t *codes;                   /* [KC / 4][NR][4] on their way to f32; rows16's memory */
    float *scale_rows, *offset_rows; /* [NR][KC / 16] */
    panel_space panels[ITEM_PANELS];
} many_space;

static void plan_thread(pare_arena *arena, many_space *s) {
    const size_t weights = (size_t)NR * KC;
    s->c = pare_arena_alloc(arena, ITEM_PANELS * s->slab * NR, sizeof(float));
    s->rows = pare_arena_alloc(arena, weights, sizeof(float));
    for (int p = 0; p < PARTS; p++)
        s->rows16[p] = pare_arena_alloc(arena, weights, sizeof(uint16_t));
    s->codes = (int8_t *)s->rows16[0];
    s->scale_rows = pare_arena_alloc(arena, weights / 16, sizeof(float));
    s->offset_rows = pare_arena_alloc(arena, weights / 16, sizeof(float));
    for (int i = 0; i < ITEM_PANELS; i++) {
        panel_space *to = &s->panels[i];
        to->panel = pare_arena_alloc(arena, weights, sizeof(float));
        for (int p = 0; p < PARTS; p++)
            to->panel16[p] = pare_arena_alloc(arena, weights, sizeof(uint16_t));
        to->scale = pare_arena_alloc(arena, weights / 16, sizeof(float));
        to->offset = pare_arena_alloc(arena, weights / 16, sizeof(float));
    }
}

static void many_plan(pare_arena *arena, many_space *s, int id, size_t slab, size_t in,
                      int n_threads, pare_compute compute) {
    s->slab = slab;
    s->n_kb = (in + KC - 1) / KC;
    size_t rows = s->slab * s->n_kb;
    bool fast = compute == PARE_COMPUTE_FAST;
    s->x = pare_arena_alloc(arena, rows * KC, fast ? sizeof(float) : PARTS * sizeof(uint16_t));
    for (size_t p = 0; s->x && p < PARTS; p++) s->x16[p] = (uint16_t *)s->x + p * rows * KC;
    size_t codes = fast ? rows * KC : 0; /* `exact` has none */
    s->q = pare_arena_alloc(arena, codes, 1);
    s->q16 = pare_arena_alloc(arena, codes, sizeof(int16_t));
    s->d = pare_arena_alloc(arena, codes / 32, sizeof(float));
    s->sum[0] = pare_arena_alloc(arena, codes / 16, sizeof(float));
    s->sum[1] = pare_arena_alloc(arena, codes / 32, sizeof(float));
    many_space other = *s;
    for (int t = 0; t < id; t++) plan_thread(arena, &other);
    plan_thread(arena, s);
    for (int t = id + 1; t < n_threads; t++) plan_thread(arena, &other);
}

size_t pare_linear_many_bytes(size_t n, size_t in, int n_threads, pare_compute compute) {
    pare_arena arena = {.capacity = SIZE_MAX};
    many_space s;
    many_plan(&arena, &s, 0, n < SLAB ? n : SLAB, in, n_threads, compute);
    return arena.peak;
}

static form form_of(const pare_linear_job *job, const pare_linear_out *out) {
    const pare_encoding *enc = out->w->enc;
    bool exact = job->compute == PARE_COMPUTE_EXACT;
    if (job->tiles->bf16) return exact ? FORM_BF16X3 : FORM_BF16;
    if (exact || out->transposed || !enc->codes) return FORM_F32;
    if (enc->code_max - enc->code_min <= job->tiles->u8_max) return FORM_U8;
    return enc->packed ? FORM_F32 : FORM_S16;
}

/* Inputs of block kb, and the same up to a multiple of 32. */
static size_t block_k(size_t in, size_t kb) { return in - kb * KC < KC ? in - kb * KC : KC; }
static size_t padded(size_t k) { return (k + 31) & ~(size_t)31; }

/* --- x in the forms that the matrices ask for --- */

/* Each of them: block kb of one row, `from` its first value. */

static void prepare_f32(const many_space *s, const float *from, size_t k, size_t kb, size_t row) {
    memcpy(s->x + (kb * s->slab + row) * KC, from, k * sizeof(float));
}

static void prepare_bf16(const pare_linear_job *job, const many_space *s, const float *from,
                         size_t k, size_t kb, size_t row, int n_parts) {
    float tail[KC];
    if (k % 32) {
        memset(tail, 0, sizeof tail);
        from = memcpy(tail, from, k * sizeof(float));
    }
    uint16_t *to[PARTS];
    for (int p = 0; p < PARTS; p++) to[p] = s->x16[p] + (kb * s->slab + row) * KC;
    job->tiles->split(to, n_parts, from, padded(k));
}

static void prepare_int(const pare_linear_job *job, const many_space *s, const float *from,
                        size_t k, size_t kb, size_t row, bool wide) {
    size_t at = kb * s->slab + row;
    pare_act a = {.n = 1,
                  .cols = padded(k),
                  .q = s->q + at * KC,
                  .d = s->d + at * (KC / 32),
                  .sum16 = s->sum[0] + at * (KC / 16),
                  .sum32 = s->sum[1] + at * (KC / 32),
                  .q_stride = KC,
                  .d_stride = KC / 32,
                  .sum_stride = KC / 16};
    job->dots->quantize(&a, from, job->ldx, 1, k);
    if (wide) job->unpack->widen(s->q16 + at * KC, a.q, a.cols);
}

/* to[NR][KC] = k values of up to NR rows of an x that lies transposed; `from` is the first value of
 * the first row. */
static void gather_rows(const pare_linear_job *job, float *to, const float *from, size_t n_rows,
                        size_t k) {
    float block[NR * NR] __attribute__((aligned(64)));
    size_t i = 0;
    for (; n_rows == NR && i + NR <= k; i += NR) {
        job->tiles->transpose((uint32_t *)block, (const uint32_t *)(from + i * job->ldx), job->ldx,
                              NR);
        for (size_t r = 0; r < NR; r++) memcpy(to + r * KC + i, block + r * NR, sizeof(float) * NR);
    }
    for (; i < k; i++)
        for (size_t r = 0; r < n_rows; r++) to[r * KC + i] = from[i * job->ldx + r];
}

static void prepare(pare_worker *w, const pare_linear_job *job, const many_space *s, const float *x,
                    size_t n) {
    bool wanted[FORMS] = {false};
    for (size_t o = 0; o < job->n_outs; o++) wanted[form_of(job, &job->outs[o])] = true;
    size_t begin, end;
    pare_share(w, n, job->x_transposed ? NR : 1, &begin, &end);
    for (size_t first = begin; first < end; first += NR)
        for (size_t kb = 0; kb < s->n_kb; kb++) {
            size_t n_rows = end - first < NR ? end - first : NR, ld = job->ldx;
            size_t k = block_k(job->in, kb);
            const float *from = x + first * ld + kb * KC;
            if (job->x_transposed) {
                gather_rows(job, s->rows, x + kb * KC * ld + first, n_rows, k);
                from = s->rows;
                ld = KC;
            }
            for (size_t row = first; row < first + n_rows; row++, from += ld) {
                if (wanted[FORM_F32]) prepare_f32(s, from, k, kb, row);
                if (wanted[FORM_BF16]) prepare_bf16(job, s, from, k, kb, row, 1);
                if (wanted[FORM_BF16X3]) prepare_bf16(job, s, from, k, kb, row, PARTS);
                if (wanted[FORM_U8] || wanted[FORM_S16])
                    prepare_int(job, s, from, k, kb, row, wanted[FORM_S16]);
            }
        }
    pare_barrier(w);
}

/* --- a panel: unpacked, multiplied --- */

/* Rows [row0, row0 + NR) of a matrix, or columns where it is transposed; fewer at its end, the
 * others count as zero. */
typedef struct panel_at {
    const pare_linear_out *out;
    size_t row0, n_rows;
    form form;
} panel_at;

/* Brings block kb of a panel into its form. */
typedef void unpack_fn(const pare_linear_job *job, const many_space *s, const panel_at *p,
                       size_t kb, panel_space *to);
/* Multiplies it with m rows from row m0 of the slab on, added to c[m][NR] but for kb 0. */
typedef void multiply_fn(const pare_linear_job *job, const many_space *s, const panel_at *p,
                         const panel_space *w, size_t kb, size_t m0, size_t m, float *c);

/* s->rows = the panel's codes: as they are for the f32 form, moved to begin at 0 for u8, widened
 * for s16; and each row's scales and offsets. Zeros up to a multiple of 32. */
static void unpack_codes(const pare_linear_job *job, const many_space *s, const panel_at *p,
                         size_t kb, size_t k, form to) {
    const pare_encoding *enc = p->out->w->enc;
    for (size_t r = 0; r < NR; r++) {
        float *scale = s->scale_rows + r * (KC / 16), *offset = s->offset_rows + r * (KC / 16);
        int8_t buffer[KC], *q = to == FORM_F32 ? (int8_t *)s->rows + r * KC : buffer;
        if (r >= p->n_rows || k % 32 != 0) {
            memset(q, 0, KC);
            memset(scale, 0, KC / 16 * sizeof *scale);
            memset(offset, 0, KC / 16 * sizeof *offset);
        }
        if (r < p->n_rows)
            pare_linear_codes(job, q, scale, offset, p->out->w, p->row0 + r, kb * KC, k);
        if (to == FORM_S16) job->unpack->widen((int16_t *)s->rows + r * KC, q, padded(k));
        if (to == FORM_U8)
            job->unpack->shift((uint8_t *)s->rows + r * KC, q, enc->code_min, padded(k));
    }
}

/* to->offset for codes that begin at `min` and are stored from 0 on. */
static void add_min(panel_space *to, size_t groups, bool has_offset, int min) {
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
static void unpack_scales(const pare_linear_job *job, const many_space *s, size_t groups,
                          bool has_offset, panel_space *to) {
    job->tiles->transpose((uint32_t *)to->scale, (const uint32_t *)s->scale_rows, KC / 16, groups);
    if (has_offset)
        job->tiles->transpose((uint32_t *)to->offset, (const uint32_t *)s->offset_rows, KC / 16,
                              groups);
    to->has_offset = has_offset;
}

/* s->codes, to->scale and to->offset from a packed panel. */
static void unpack_packed(const pare_linear_job *job, const many_space *s, const panel_at *p,
                          size_t kb, size_t k, panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    const pare_view *v = &p->out->w->view;
    const uint8_t *panel =
        (const uint8_t *)v->part[0] + p->row0 / NR * pare_packed_panel_bytes(*enc->packed, v->cols);
    job->unpack->packed[enc->dot](s->codes, to->scale, to->offset, panel, kb * KC, k);
    to->has_offset = enc->has_offset;
}

/* s->rows[NR][KC] = the panel's weights, zeros up to k_end. */
static void decode_rows(const pare_linear_job *job, const many_space *s, const panel_at *p,
                        size_t kb, size_t k, size_t k_end) {
    for (size_t r = 0; r < NR; r++) {
        float *row = s->rows + r * KC;
        size_t n = r < p->n_rows ? k : 0;
        if (n) pare_linear_decode(job, row, p->out->w, p->row0 + r, kb * KC, n);
        memset(row + n, 0, (k_end - n) * sizeof(float));
    }
}

/* Weights of 32 and 16 bits, brought into panel form without a copy of the rows; false when the
 * encoding is another, or the panel lies at an edge where pairs would not be complete. */
static bool plain_panel(const pare_linear_job *job, const many_space *s, const panel_at *p,
                        size_t kb, size_t k, float *panel) {
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

/* to->panel from a packed panel of codes. */
static void expand_packed(const pare_linear_job *job, const many_space *s, const panel_at *p,
                          size_t kb, size_t k, panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    unpack_packed(job, s, p, kb, k, to);
    job->unpack->expand_panel(to->panel, (const uint32_t *)s->codes, to->scale,
                              to->has_offset ? to->offset : NULL, enc->code_group, k);
}

/* y[NR] = the panel's columns of one row of the matrix. */
static void decode_columns(float *y, const panel_at *p, size_t row) {
    const pare_tensor *t = p->out->w;
    size_t len = t->enc->block_len > 32 ? t->enc->block_len : 32, col = p->row0;
    float window[PARE_TILE_KC];
    if (t->enc->span > len) len = t->enc->span;
    size_t first = col / len * len, n = t->view.cols - first < len ? t->view.cols - first : len;
    t->enc->decode(window, &t->view, row, first, n);
    memcpy(y, window + (col - first), p->n_rows * sizeof *y);
}

/* to->panel of a transposed matrix: k of its rows, 16 columns of each. */
static void unpack_columns(const panel_at *p, size_t kb, size_t k, panel_space *to) {
    const pare_view *v = &p->out->w->view;
    pare_dotf_id id = p->out->w->enc->dotf;
    for (size_t i = 0; i < k; i++) {
        float *y = to->panel + i * NR;
        size_t row = kb * KC + i;
        const uint8_t *from = (const uint8_t *)v->part[0] + row * v->row_bytes;
        if (p->n_rows < NR) memset(y, 0, NR * sizeof *y);
        if (id == PARE_DOTF_f32 && p->n_rows == NR)
            memcpy(y, from + p->row0 * sizeof *y, NR * sizeof *y);
        else if (id == PARE_DOTF_f32 || id == PARE_DOTF_f16 || id == PARE_DOTF_bf16)
            p->out->w->enc->decode(y, v, row, p->row0, p->n_rows);
        else
            decode_columns(y, p, row);
    }
}

static void unpack_f32(const pare_linear_job *job, const many_space *s, const panel_at *p,
                       size_t kb, panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    size_t k = block_k(job->in, kb);
    if (p->out->transposed) {
        unpack_columns(p, kb, k, to);
    } else if (enc->codes && enc->packed) {
        expand_packed(job, s, p, kb, k, to);
    } else if (enc->codes && k % 32 == 0) {
        unpack_codes(job, s, p, kb, k, FORM_F32);
        unpack_scales(job, s, k / enc->code_group, enc->has_offset, to);
        job->tiles->transpose((uint32_t *)s->codes, (const uint32_t *)s->rows, KC / 4, k / 4);
        job->unpack->expand_panel(to->panel, (const uint32_t *)s->codes, to->scale,
                                  to->has_offset ? to->offset : NULL, enc->code_group, k);
    } else if (!plain_panel(job, s, p, kb, k, to->panel)) {
        decode_rows(job, s, p, kb, k, k);
        job->tiles->transpose((uint32_t *)to->panel, (const uint32_t *)s->rows, KC, k);
    }
}

static void multiply_f32(const pare_linear_job *job, const many_space *s, const panel_at *p,
                         const panel_space *w, size_t kb, size_t m0, size_t m, float *c) {
    (void)p;
    job->tiles->f32(c, s->x + (kb * s->slab + m0) * KC, KC, w->panel, m, block_k(job->in, kb),
                    kb > 0);
}

/* Products of parts, the small ones first. Those left out are below 2^-24 of the whole: the last
 * bit of f32. */
static const struct { uint8_t x, w; } products[] = {{2, 0}, {1, 1}, {0, 2}, {1, 0}, {0, 1}, {0, 0}};
enum { N_PRODUCTS = sizeof products / sizeof *products };

static void unpack_bf16(const pare_linear_job *job, const many_space *s, const panel_at *p,
                        size_t kb, panel_space *to) {
    size_t k = padded(block_k(job->in, kb));
    int n_parts = p->form == FORM_BF16X3 ? PARTS : 1;
    const pare_encoding *enc = p->out->w->enc;
    if (p->out->transposed || (enc->codes && enc->packed)) { /* all 16 rows at once */
        if (p->out->transposed) {
            size_t filled = block_k(job->in, kb);
            unpack_columns(p, kb, filled, to);
            memset(to->panel + filled * NR, 0, (k - filled) * NR * sizeof *to->panel);
        } else {
            expand_packed(job, s, p, kb, k, to);
        }
        job->tiles->split(s->rows16, n_parts, to->panel, NR * k);
        for (int i = 0; i < n_parts; i++)
            job->unpack->pair_panel((uint32_t *)to->panel16[i], s->rows16[i], k);
        return;
    }
    decode_rows(job, s, p, kb, block_k(job->in, kb), k);
    for (size_t r = 0; r < NR; r++) {
        uint16_t *parts[PARTS];
        for (int i = 0; i < PARTS; i++) parts[i] = s->rows16[i] + r * KC;
        job->tiles->split(parts, n_parts, s->rows + r * KC, k);
    }
    for (int i = 0; i < n_parts; i++)
        job->tiles->transpose((uint32_t *)to->panel16[i], (const uint32_t *)s->rows16[i], KC / 2,
                              k / 2);
}

static void multiply_bf16(const pare_linear_job *job, const many_space *s, const panel_at *p,
                          const panel_space *w, size_t kb, size_t m0, size_t m, float *c) {
    int first = p->form == FORM_BF16X3 ? 0 : N_PRODUCTS - 1;
    for (int i = first; i < N_PRODUCTS; i++)
        job->tiles->bf16(c, s->x16[products[i].x] + (kb * s->slab + m0) * KC, KC,
                         w->panel16[products[i].w], m, padded(block_k(job->in, kb)),
                         kb > 0 || i > first);
}

static void unpack_int(const pare_linear_job *job, const many_space *s, const panel_at *p,
                       size_t kb, panel_space *to) {
    const pare_encoding *enc = p->out->w->enc;
    size_t k = block_k(job->in, kb), k_padded = padded(k);
    bool wide = p->form == FORM_S16;
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

static void multiply_int(const pare_linear_job *job, const many_space *s, const panel_at *p,
                         const panel_space *w, size_t kb, size_t m0, size_t m, float *c) {
    const pare_encoding *enc = p->out->w->enc;
    pare_tile_panel panel = {.q = w->panel,
                             .scale = w->scale,
                             .offset = w->has_offset ? w->offset : NULL,
                             .k = padded(block_k(job->in, kb)),
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
    (p->form == FORM_S16 ? job->tiles->s16 : job->tiles->u8)(c, &a, &panel, m, kb > 0);
}

/* Sums to their place, with the bias: for each row of x what the item's panels give it, so that
 * neighbours in memory are written together. */
static void write_panels(const many_space *s, const panel_at *panels, size_t n_panels, size_t y_row,
                         size_t m0, size_t m1) {
    float bias[ITEM_PANELS][NR] = {{0}};
    for (size_t i = 0; i < n_panels; i++)
        if (panels[i].out->bias)
            memcpy(bias[i], panels[i].out->bias + panels[i].row0, panels[i].n_rows * sizeof(float));
    for (size_t m = m0; m < m1; m++)
        for (size_t i = 0; i < n_panels; i++) {
            const panel_at *p = &panels[i];
            const float *c = s->c + (i * s->slab + m) * NR;
            float *y = p->out->y + (y_row + m) * p->out->ldy + (p->row0 - p->out->row0);
            float sums[NR];
            for (size_t r = 0; r < NR; r++) sums[r] = c[r] + bias[i][r];
            if (p->out->accumulate && p->n_rows == NR)
                for (size_t r = 0; r < NR; r++) y[r] += sums[r]; /* a constant count: vectors */
            else if (p->out->accumulate)
                for (size_t r = 0; r < p->n_rows; r++) y[r] += sums[r];
            else if (p->n_rows == NR)
                memcpy(y, sums, sizeof sums);
            else
                memcpy(y, sums, p->n_rows * sizeof *y);
        }
}

/* --- the loops --- */

static size_t rows_of(const pare_linear_out *o) {
    return o->rows ? o->rows : o->transposed ? o->w->view.cols : o->w->view.rows;
}
static size_t panels_of(const pare_linear_out *o) { return (rows_of(o) + NR - 1) / NR; }

/* Panel number i of all matrices in order. */
static panel_at find_panel(const pare_linear_job *job, size_t i) {
    const pare_linear_out *o = job->outs;
    while (i >= panels_of(o)) i -= panels_of(o++);
    size_t left = rows_of(o) - i * NR;
    return (panel_at){o, o->row0 + i * NR, left < NR ? left : NR, form_of(job, o)};
}

/* Panels [first, last) for rows [m0, m1) of the slab that begins at row y_row. */
static void run_item(const pare_linear_job *job, many_space *s, size_t first, size_t last,
                     size_t y_row, size_t m0, size_t m1) {
    panel_at panels[ITEM_PANELS];
    size_t n = last - first;
    for (size_t i = 0; i < n; i++) panels[i] = find_panel(job, first + i);
    static const struct {
        unpack_fn *unpack;
        multiply_fn *multiply;
    } forms[FORMS] = {[FORM_F32] = {unpack_f32, multiply_f32},
                      [FORM_BF16] = {unpack_bf16, multiply_bf16},
                      [FORM_BF16X3] = {unpack_bf16, multiply_bf16},
                      [FORM_U8] = {unpack_int, multiply_int},
                      [FORM_S16] = {unpack_int, multiply_int}};
    size_t blocks = (m1 - m0 + MC - 1) / MC, step = (m1 - m0 + blocks - 1) / blocks;
    step = (step + KERNEL_ROWS - 1) / KERNEL_ROWS * KERNEL_ROWS;
    for (size_t kb = 0; kb < s->n_kb; kb++) {
        for (size_t i = 0; i < n; i++)
            forms[panels[i].form].unpack(job, s, &panels[i], kb, &s->panels[i]);
        for (size_t m = m0; m < m1; m += step)
            for (size_t i = 0; i < n; i++)
                forms[panels[i].form].multiply(job, s, &panels[i], &s->panels[i], kb, m,
                                               m1 - m < step ? m1 - m : step,
                                               s->c + (i * s->slab + m) * NR);
    }
    write_panels(s, panels, n, y_row, m0, m1);
}

/* How the work of a slab is cut; results do not depend on it. */
typedef struct cut {
    size_t panels, item_panels, n_items, splits, split_rows;
} cut;

static cut cut_work(const pare_linear_job *job, size_t n, size_t n_threads) {
    cut c = {0};
    for (size_t o = 0; o < job->n_outs; o++) c.panels += panels_of(&job->outs[o]);
    c.item_panels = c.panels / (n_threads * ITEMS_A_THREAD);
    if (c.item_panels > ITEM_PANELS) c.item_panels = ITEM_PANELS;
    if (c.item_panels < 1) c.item_panels = 1;
    size_t groups = (c.panels + c.item_panels - 1) / c.item_panels;
    c.splits = 1;
    if (n_threads > 1 && groups < 2 * n_threads && groups) {
        c.splits = (2 * n_threads + groups - 1) / groups;
        size_t most = n / SPLIT_ROWS;
        if (c.splits > most) c.splits = most ? most : 1;
    }
    c.split_rows = (n + c.splits - 1) / c.splits;
    c.n_items = groups * c.splits;
    return c;
}

void pare_linear_many(pare_worker *w, const pare_linear_job *job) {
    many_space s = {0};
    pare_arena arena = {.base = job->scratch, .capacity = SIZE_MAX};
    size_t slabs = (job->n + SLAB - 1) / SLAB, slab = (job->n + slabs - 1) / slabs;
    many_plan(&arena, &s, w->id, slab, job->in, w->n, job->compute);
    for (size_t row = 0; row < job->n; row += s.slab) {
        size_t n = job->n - row < s.slab ? job->n - row : s.slab;
        prepare(w, job, &s, job->x + row * (job->x_transposed ? 1 : job->ldx), n);
        cut c = cut_work(job, n, (size_t)w->n);
        for (size_t item; (item = pare_take(w, 1)) < c.n_items;) {
            size_t first = item / c.splits * c.item_panels, last = first + c.item_panels;
            size_t m0 = item % c.splits * c.split_rows, m1 = m0 + c.split_rows;
            if (m0 < n)
                run_item(job, &s, first, last < c.panels ? last : c.panels, row, m0,
                         m1 < n ? m1 : n);
        }
        pare_barrier(w);
    }
}
