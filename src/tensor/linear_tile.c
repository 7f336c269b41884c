/* Many rows. Three loops around a tile kernel:
 *
 *   slabs of SLAB inputs rows     brought into the kernels' form by all threads: [k
 * block][row][KC], but for f32 rows that can be read where they are items: a few panels taken by
 * one thread each; their sums stay in its scratch blocks of KC inputs         the item's panels are
 * unpacked into L2 blocks of MC rows         their part of the slab (MC x KC) stays in L2 panels
 * one after the other in L1
 *
 * So a weight is unpacked once per slab. An output is summed over k blocks in order, whatever the
 * item, the thread or the row: results depend on neither the number of threads nor on n. */
#include "kernels/select.h"
#include "tensor/linear_panel.h"
#include "tensor/live.h"

#include <string.h>

enum {
    NR = PARE_TILE_NR,
    KC = PARE_TILE_KC,
    PIECE = PARE_TILE_PIECE,
    SLAB = PARE_SLAB,
    MC = 192,         /* at most, in equal blocks of whole kernel rows */
    KERNEL_ROWS = 24, /* a multiple of every kernel's */
    ITEM_PANELS = PARE_PANELS,
    ITEMS_A_THREAD = 4, /* smaller items where there would be fewer */
    RUN_PANELS = PARE_RUN_PANELS,
    RUN_CUTS = 4,
    PARTS = PARE_BF16_PARTS,
    RUN_BLOCKS = PARE_RUN_BLOCKS,
    F32_LD = KC + NR, /* between rows of f32: such that are KC apart share four sets of L1 */
    SPLIT_ROWS = 64,  /* with more threads than panels, rows are split too, not below this */
};

static void plan_thread(pare_arena *arena, pare_many_space *s) {
    const size_t weights = (size_t)NR * KC;
    s->c = pare_arena_alloc(arena, RUN_PANELS * s->slab * NR, sizeof(float));
    s->rows = pare_arena_alloc(arena, weights, sizeof(float));
    for (int p = 0; p < PARTS; p++)
        s->rows16[p] = pare_arena_alloc(arena, weights, sizeof(uint16_t));
    s->codes = (int8_t *)s->rows16[0];
    s->scale_rows = pare_arena_alloc(arena, weights / 16, sizeof(float));
    s->offset_rows = pare_arena_alloc(arena, weights / 16, sizeof(float));
    for (int i = 0; i < ITEM_PANELS; i++) {
        pare_panel_space *to = &s->panels[i];
        to->panel = pare_arena_alloc(arena, weights, sizeof(float));
        for (int p = 0; p < PARTS; p++)
            to->panel16[p] = pare_arena_alloc(arena, weights, sizeof(uint16_t));
        to->scale = pare_arena_alloc(arena, weights / 16, sizeof(float));
        to->offset = pare_arena_alloc(arena, weights / 16, sizeof(float));
    }
    s->runs = pare_arena_alloc(arena, RUN_BLOCKS * RUN_PANELS * weights, sizeof(uint16_t));
}

static void many_plan(pare_arena *arena, pare_many_space *s, int id, size_t slab, size_t in,
                      int n_threads, pare_compute compute) {
    s->slab = slab;
    s->n_kb = (in + KC - 1) / KC;
    size_t rows = s->slab * s->n_kb;
    bool fast = compute == PARE_COMPUTE_FAST;
    s->x = fast ? pare_arena_alloc(arena, rows * F32_LD, sizeof(float))
                : pare_arena_alloc(arena, rows * KC, PARTS * sizeof(uint16_t));
    size_t codes = fast ? rows * KC : 0; /* `exact` has none */
    s->q = pare_arena_alloc(arena, codes, 1);
    s->q16 = pare_arena_alloc(arena, codes, sizeof(int16_t));
    for (size_t p = 0; s->x && p < PARTS; p++) s->x16[p] = (uint16_t *)s->x + p * rows * KC;
    if (fast) s->x16[0] = (uint16_t *)s->q16; /* no level has both; the one part of `fast` */
    s->d = pare_arena_alloc(arena, codes / 32, sizeof(float));
    s->sum[0] = pare_arena_alloc(arena, codes / 16, sizeof(float));
    s->sum[1] = pare_arena_alloc(arena, codes / 32, sizeof(float));
    pare_many_space other = *s;
    for (int t = 0; t < id; t++) plan_thread(arena, &other);
    plan_thread(arena, s);
    for (int t = id + 1; t < n_threads; t++) plan_thread(arena, &other);
}

/* Slabs of about equal size; such that hold lists of single weights are of whole pieces. */
static size_t slab_rows(size_t n, bool by_weight) {
    size_t slabs = (n + SLAB - 1) / SLAB, slab = slabs ? (n + slabs - 1) / slabs : 0;
    return by_weight ? (slab + PIECE - 1) / PIECE * PIECE : slab;
}

size_t pare_linear_many_bytes(size_t n, size_t in, int n_threads, pare_compute compute) {
    pare_arena arena = {.capacity = SIZE_MAX};
    pare_many_space s;
    size_t slab = n < SLAB ? slab_rows(n, pare_live_takes_rows(n)) : SLAB;
    many_plan(&arena, &s, 0, slab, in, n_threads, compute);
    return arena.peak;
}

static pare_form form_of(const pare_linear_job *job, const pare_linear_out *out) {
    const pare_encoding *enc = out->w->enc;
    bool exact = job->compute == PARE_COMPUTE_EXACT;
    if (job->by_weight) return PARE_FORM_WEIGHTS;
    if (job->grids.grid && enc->code_max - enc->code_min <= job->tiles->u8_max)
        return PARE_FORM_U8; /* before bf16: x is to be these codes */
    if (job->tiles->bf16_first) return exact ? PARE_FORM_BF16X3 : PARE_FORM_BF16;
    if (job->tiles->bf16 && !exact && (out->transposed || !enc->codes)) return PARE_FORM_BF16;
    if (exact || out->transposed || !enc->codes) return PARE_FORM_F32;
    if (enc->code_max - enc->code_min <= job->tiles->u8_max) return PARE_FORM_U8;
    return enc->packed ? PARE_FORM_F32 : PARE_FORM_S16;
}

bool pare_linear_takes_codes(const pare_linear_job *job, const pare_linear_out *out) {
    pare_form form = form_of(job, out);
    return out->w->enc->codes && (form == PARE_FORM_U8 || form == PARE_FORM_S16);
}

/* --- x in the forms that the matrices ask for --- */

/* Each of them: block kb of one row, `from` its first value. */

static void prepare_f32(const pare_many_space *s, const float *from, size_t k, size_t kb,
                        size_t row) {
    memcpy(s->x + (kb * s->slab + row) * F32_LD, from, k * sizeof(float));
}

static void prepare_bf16(const pare_linear_job *job, const pare_many_space *s, const float *from,
                         size_t k, size_t kb, size_t row, int n_parts) {
    float tail[KC];
    if (k % 32) {
        memset(tail, 0, sizeof tail);
        from = memcpy(tail, from, k * sizeof(float));
    }
    uint16_t *to[PARTS];
    for (int p = 0; p < PARTS; p++) to[p] = s->x16[p] + (kb * s->slab + row) * KC;
    job->tiles->split(to, n_parts, from, pare_padded(k));
}

/* x_row: number of the row among all of x. */
static void prepare_int(const pare_linear_job *job, const pare_many_space *s, const float *from,
                        size_t k, size_t kb, size_t row, size_t x_row, bool wide) {
    size_t at = kb * s->slab + row;
    pare_act a = {.n = 1,
                  .cols = pare_padded(k),
                  .q = s->q + at * KC,
                  .d = s->d + at * (KC / 32),
                  .sum16 = s->sum[0] + at * (KC / 16),
                  .sum32 = s->sum[1] + at * (KC / 32),
                  .q_stride = KC,
                  .d_stride = KC / 32,
                  .sum_stride = KC / 16};
    if (job->grids.grid)
        pare_act_quantize_grid(&a, job->act, job->grids.grid + x_row * job->grids.step, 0, from,
                               job->ldx, 1, k);
    else
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

/* Block kb of rows [row, row + NR) in bf16, from an x that lies transposed. */
static void gather_bf16(const pare_linear_job *job, const pare_many_space *s, const float *from,
                        size_t k, size_t kb, size_t row) {
    uint32_t block[NR * NR] __attribute__((aligned(64))), *pairs = (uint32_t *)s->rows;
    size_t padded = pare_padded(k);
    memset(pairs + k / 2 * NR, 0, (padded - k / 2 * 2) / 2 * NR * sizeof *pairs);
    job->tiles->pair_f32(pairs, from, job->ldx, k);
    uint16_t *to = s->x16[0] + (kb * s->slab + row) * KC;
    for (size_t i = 0; i < padded; i += 2 * NR) {
        job->tiles->transpose(block, pairs + i / 2 * NR, NR, NR);
        for (size_t r = 0; r < NR; r++) memcpy(to + r * KC + i, block + r * NR, sizeof *block * NR);
    }
}

/* Rows that lie quarters of a page apart would fall into four sets of L1, or fewer. */
static bool reads_in_place(const pare_linear_job *job) {
    enum { QUARTER = 1024 };
    for (size_t o = 0; o < job->n_outs; o++)
        if (form_of(job, &job->outs[o]) != PARE_FORM_F32) return false;
    return !job->x_transposed && job->ldx * sizeof(float) % QUARTER != 0;
}

/* n rows from number x_row on, at x. */
static void prepare(pare_worker *w, const pare_linear_job *job, const pare_many_space *s,
                    const float *x, size_t x_row, size_t n) {
    bool wanted[PARE_FORMS] = {false};
    for (size_t o = 0; o < job->n_outs; o++) wanted[form_of(job, &job->outs[o])] = true;
    size_t begin, end;
    bool bf16_only = wanted[PARE_FORM_BF16] && job->x_transposed; /* of one matrix */
    pare_share(w, n, job->x_transposed ? NR : 1, &begin, &end);
    for (size_t first = begin; first < end; first += NR)
        for (size_t kb = 0; kb < s->n_kb; kb++) {
            size_t n_rows = end - first < NR ? end - first : NR, ld = job->ldx;
            size_t k = pare_block_k(job->in, kb);
            const float *from = x + first * ld + kb * KC;
            if (bf16_only && n_rows == NR) {
                gather_bf16(job, s, x + kb * KC * ld + first, k, kb, first);
                continue;
            }
            if (job->x_transposed) {
                gather_rows(job, s->rows, x + kb * KC * ld + first, n_rows, k);
                from = s->rows;
                ld = KC;
            }
            for (size_t row = first; row < first + n_rows; row++, from += ld) {
                if (wanted[PARE_FORM_F32]) prepare_f32(s, from, k, kb, row);
                if (wanted[PARE_FORM_BF16]) prepare_bf16(job, s, from, k, kb, row, 1);
                if (wanted[PARE_FORM_BF16X3]) prepare_bf16(job, s, from, k, kb, row, PARTS);
                if (wanted[PARE_FORM_U8] || wanted[PARE_FORM_S16])
                    prepare_int(job, s, from, k, kb, row, x_row + row, wanted[PARE_FORM_S16]);
            }
        }
    pare_barrier(w);
}

/* The sums c[m][NR] of one panel to their place: one at the edge of its matrix, or of codes that
 * were moved. */
static void write_panel(const pare_linear_job *job, const pare_panel_at *p, const float *c,
                        size_t y_row, size_t m, const float *bias) {
    const pare_linear_out *o = p->out;
    float *y = o->y + y_row * o->ldy + (p->row0 - o->row0);
    for (size_t i = 0; i < m; i++, y += o->ldy, c += NR) {
        float by = pare_linear_moved(job, y_row + i);
        for (size_t r = 0; r < p->n_rows; r++) {
            float sum = c[r] + bias[r];
            if (by != 0.0f) sum += by * (o->row_sums ? o->row_sums[p->row0 + r] : 0.0f);
            y[r] = o->accumulate ? y[r] + sum : sum;
        }
    }
}

/* Sums to their place, with the bias: for each row of x what the item's panels give it, so that
 * neighbours in memory are written together. */
static void write_panels(const pare_linear_job *job, const pare_many_space *s,
                         const pare_panel_at *panels, size_t n_panels, size_t y_row, size_t m0,
                         size_t m1) {
    float bias[ITEM_PANELS][NR] __attribute__((aligned(64))) = {{0}};
    for (size_t i = 0; i < n_panels; i++)
        if (panels[i].out->bias)
            memcpy(bias[i], panels[i].out->bias + panels[i].row0, panels[i].n_rows * sizeof(float));
    for (size_t i = 0, n; i < n_panels; i += n) {
        const pare_panel_at *p = &panels[i];
        const pare_linear_out *o = p->out;
        const float *c = s->c + (i * s->slab + m0) * NR;
        if (p->places) {
            n = 1;
            continue;
        }
        for (n = 0; i + n < n_panels && p[n].out == o && p[n].n_rows == NR; n++) continue;
        if (n == 0 || job->grids.grid) {
            n = 1;
            write_panel(job, p, c, y_row + m0, m1 - m0, bias[i]);
        } else {
            job->tiles->place(o->y + (y_row + m0) * o->ldy + (p->row0 - o->row0), o->ldy, c,
                              s->slab * NR, m1 - m0, n, bias[i], o->accumulate);
        }
    }
}

/* --- the loops --- */

static size_t rows_of(const pare_linear_out *o) {
    return o->rows ? o->rows : o->transposed ? o->w->view.cols : o->w->view.rows;
}
static size_t panels_of(const pare_linear_out *o) { return (rows_of(o) + NR - 1) / NR; }

/* Where the panel of a masked matrix has weights. */
static const uint64_t *live_of(const pare_linear_job *job, const pare_linear_out *o, size_t row0) {
    const pare_live *l = o->transposed ? job->live : o->w->live;
    pare_form form = form_of(job, o);
    if (!l || row0 % NR != 0) return NULL;
    if (form != PARE_FORM_F32 && !(form == PARE_FORM_BF16 && job->tiles->bf16_pairs)) return NULL;
    return o->transposed ? l->by_input + row0 / NR * pare_bit_words(l->rows)
                         : l->by_output + row0 / NR * pare_bit_words(l->cols);
}

/* Panel number i of all matrices in order. */
static pare_panel_at find_panel(const pare_linear_job *job, size_t i) {
    const pare_linear_out *o = job->outs;
    while (i >= panels_of(o)) i -= panels_of(o++);
    size_t row0 = o->row0 + i * NR, left = rows_of(o) - i * NR;
    pare_form form = form_of(job, o);
    const uint64_t *live = live_of(job, o, row0);
    bool places =
        form == PARE_FORM_BF16 && job->tiles->bf16_place && left >= NR && !job->grids.grid && !live;
    return (pare_panel_at){o, row0, left < NR ? left : NR, live, form, places};
}

/* The rows of an item that a panel is multiplied with: all, or a list. */
typedef struct row_list {
    bool listed;
    size_t n;
    uint16_t rows[SLAB]; /* from m0 on */
} row_list;

/* The gradient of a masked matrix is wanted where it has weights. */
static void list_rows(const pare_linear_job *job, const pare_panel_at *p, size_t y_row, size_t m0,
                      size_t m1, row_list *to) {
    to->listed = false;
    if (!p->live || !job->x_transposed) return;
    to->n = pare_live_list(to->rows, p->live, job->live_row0 + y_row + m0, m1 - m0);
    to->listed = pare_live_pays(to->n, m1 - m0);
}

/* run_item for lists of single weights. */
static void run_weights(const pare_linear_job *job, pare_many_space *s, size_t first, size_t last,
                        size_t y_row, size_t m0, size_t m1) {
    pare_panel_at panels[ITEM_PANELS];
    size_t n = last - first;
    for (size_t i = 0; i < n; i++) panels[i] = find_panel(job, first + i);
    for (size_t kb = 0; kb < s->n_kb; kb++) {
        pare_weights_list(job, s, panels, n, kb);
        for (size_t m = m0; m < m1; m += PIECE) {
            pare_weights_multiply(job, s, n, kb, m);
            if (kb + 1 == s->n_kb) /* while they are in L1 */
                write_panels(job, s, panels, n, y_row, m, m1 - m < PIECE ? m1 : m + PIECE);
        }
    }
}

/* Panels [first, last) for rows [m0, m1) of the slab that begins at row y_row. */
static void run_item(const pare_linear_job *job, pare_many_space *s, size_t first, size_t last,
                     size_t y_row, size_t m0, size_t m1) {
    pare_panel_at panels[ITEM_PANELS];
    row_list lists[ITEM_PANELS];
    size_t n = last - first, blocks = (m1 - m0 + MC - 1) / MC,
           step = (m1 - m0 + blocks - 1) / blocks;
    step = (step + KERNEL_ROWS - 1) / KERNEL_ROWS * KERNEL_ROWS;
    for (size_t i = 0; i < n; i++) {
        panels[i] = find_panel(job, first + i);
        list_rows(job, &panels[i], y_row, m0, m1, &lists[i]);
        if (lists[i].listed) /* the others' sums */
            memset(s->c + (i * s->slab + m0) * NR, 0, (m1 - m0) * NR * sizeof *s->c);
    }
    for (size_t kb = 0; kb < s->n_kb; kb++) {
        for (size_t i = 0; i < n; i++)
            if (!lists[i].listed || lists[i].n)
                pare_panel_unpack(job, s, &panels[i], kb, &s->panels[i]);
        for (size_t i = 0; i < n; i++)
            if (lists[i].listed)
                pare_panel_multiply_rows(job, s, &panels[i], &s->panels[i], kb, m0, lists[i].rows,
                                         lists[i].n, s->c + (i * s->slab + m0) * NR);
        for (size_t m = m0; m < m1; m += step)
            for (size_t i = 0; i < n; i++) {
                size_t rows = m1 - m < step ? m1 - m : step;
                float *c = s->c + (i * s->slab + m) * NR;
                if (panels[i].places && kb + 1 == s->n_kb)
                    pare_panel_place(job, s, &panels[i], &s->panels[i], m, rows, c, y_row + m);
                else if (!lists[i].listed)
                    pare_panel_multiply(job, s, &panels[i], &s->panels[i], kb, m, rows, c);
            }
    }
    write_panels(job, s, panels, n, y_row, m0, m1);
}

/* Blocks of inputs that are summed at once: as equal as may be, and of all parts together no more
 * than there is room for. */
static size_t run_blocks(const pare_panel_at *panels, size_t n, size_t n_kb) {
    size_t most = RUN_BLOCKS;
    for (size_t i = 0; i < n; i++)
        if (panels[i].form == PARE_FORM_BF16X3) most = 1;
    size_t times = (n_kb + most - 1) / most;
    return (n_kb + times - 1) / times;
}

/* Panels that one call of the kernel takes: whole ones of one matrix. */
static size_t run_panels(const pare_panel_at *p, size_t n) {
    size_t i = 1;
    while (p->n_rows == NR && i < n && p[i].out == p->out && p[i].n_rows == NR) i++;
    return i;
}

/* run_item in bf16 where the level sums many blocks and panels at once. */
static void run_blocks_item(const pare_linear_job *job, pare_many_space *s, size_t first,
                            size_t last, size_t y_row, size_t m0, size_t m1) {
    const size_t panel_size = (size_t)NR * KC, block_size = RUN_PANELS * panel_size;
    pare_panel_at panels[RUN_PANELS];
    float bias[RUN_PANELS][NR] = {{0}};
    size_t n = last - first;
    for (size_t i = 0; i < n; i++) {
        panels[i] = find_panel(job, first + i);
        const pare_panel_at *p = &panels[i];
        if (p->out->bias) memcpy(bias[i], p->out->bias + p->row0, p->n_rows * sizeof(float));
    }
    size_t step = run_blocks(panels, n, s->n_kb);
    for (size_t kb = 0; kb < s->n_kb; kb += step) {
        size_t n_blocks = s->n_kb - kb < step ? s->n_kb - kb : step;
        for (size_t j = 0; j < n_blocks; j++)
            for (size_t i = 0; i < n; i++) {
                pare_panel_space to = s->panels[0];
                size_t n_parts = (size_t)pare_panel_parts(&panels[i]);
                for (size_t part = 0; part < n_parts; part++)
                    to.panel16[part] = s->runs + (j * n_parts + part) * block_size + i * panel_size;
                pare_panel_unpack(job, s, &panels[i], kb + j, &to);
            }
        for (size_t i = 0, n_run; i < n; i += n_run) {
            const pare_panel_at *p = &panels[i];
            const pare_linear_out *o = p->out;
            pare_tile_run runs[PARE_MAX_RUNS];
            n_run = run_panels(p, n - i);
            bool whole = p->n_rows == NR && kb + n_blocks == s->n_kb;
            size_t n_runs = pare_panel_runs(job, s, p, kb, n_blocks, m0, s->runs + i * panel_size,
                                            block_size, runs);
            pare_tile_block b = {
                .runs = runs,
                .n_runs = n_runs,
                .laced = p->form == PARE_FORM_BF16X3 ? n_runs : 1, /* of one block */
                .lda = KC * sizeof(uint16_t),
                .panel_stride = panel_size * sizeof(uint16_t),
                .n_panels = n_run,
                .m = m1 - m0,
                .c = s->c + (i * s->slab + m0) * NR,
                .c_stride = s->slab * NR,
                .more = kb > 0,
                .y = whole ? o->y + (y_row + m0) * o->ldy + (p->row0 - o->row0) : NULL,
                .ldy = o->ldy,
                .bias = bias[i],
                .add = o->accumulate};
            job->tiles->bf16_block(&b);
        }
    }
    for (size_t i = 0; i < n; i++) /* at edges */
        if (panels[i].n_rows < NR)
            write_panel(job, &panels[i], s->c + (i * s->slab + m0) * NR, y_row + m0, m1 - m0,
                        bias[i]);
}

/* The first of the item's panels in s8, as many as have one scale a row and lie in one matrix;
 * their number. */
static size_t run_s8(const pare_linear_job *job, pare_many_space *s, size_t first, size_t last,
                     size_t y_row, size_t m0, size_t m1) {
    enum { BLOCKS = 2 * RUN_BLOCKS };
    const size_t panel_size = (size_t)NR * KC, block_size = RUN_PANELS * panel_size;
    pare_panel_at panels[RUN_PANELS];
    float scale[RUN_PANELS][NR], bias[RUN_PANELS][NR] = {{0}}, moved[SLAB];
    bool any_moved = false;
    size_t n = 0;
    for (; first + n < last; n++) {
        panels[n] = find_panel(job, first + n);
        if (panels[n].out != panels[0].out || !pare_panel_row_scales(&panels[n], scale[n])) break;
    }
    if (n == 0) return 0;
    const pare_linear_out *o = panels[0].out;
    for (size_t i = 0; i < m1 - m0; i++) {
        moved[i] = pare_linear_moved(job, y_row + m0 + i);
        any_moved |= moved[i] != 0.0f;
    }
    if (o->bias) memcpy(bias, o->bias + panels[0].row0, n * sizeof *bias);
    for (size_t kb = 0, n_blocks; kb < s->n_kb; kb += n_blocks) {
        pare_tile_run runs[BLOCKS];
        int8_t *codes = (int8_t *)s->runs;
        n_blocks = s->n_kb - kb < BLOCKS ? s->n_kb - kb : BLOCKS;
        for (size_t j = 0; j < n_blocks; j++) {
            for (size_t i = 0; i < n; i++)
                pare_panel_s8(job, s, &panels[i], kb + j, codes + j * block_size + i * panel_size);
            runs[j] = (pare_tile_run){s->q + ((kb + j) * s->slab + m0) * KC, codes + j * block_size,
                                      (pare_block_k(job->in, kb + j) + 63) / 64 * 64};
        }
        bool whole = kb + n_blocks == s->n_kb;
        const pare_tile_block b = {
            .runs = runs,
            .n_runs = n_blocks,
            .lda = KC,
            .panel_stride = panel_size,
            .n_panels = n,
            .m = m1 - m0,
            .c = s->c + m0 * NR,
            .c_stride = s->slab * NR,
            .more = kb > 0,
            .y = whole ? o->y + (y_row + m0) * o->ldy + (panels[0].row0 - o->row0) : NULL,
            .ldy = o->ldy,
            .bias = bias[0],
            .add = o->accumulate,
            .d = s->d + m0 * (KC / 32),
            .d_stride = KC / 32,
            .scale = scale[0],
            .moved = any_moved ? moved : NULL,
            .row_sums = any_moved ? o->row_sums + panels[0].row0 : NULL};
        job->tiles->s8_block(&b);
    }
    return n;
}

/* run_item for codes of grids, which have one scale a row of x. */
static void run_codes_item(const pare_linear_job *job, pare_many_space *s, size_t first,
                           size_t last, size_t y_row, size_t m0, size_t m1) {
    for (size_t n; first < last; first += n) {
        n = run_s8(job, s, first, last, y_row, m0, m1);
        if (n) continue;
        n = 1;
        run_item(job, s, first, first + 1, y_row, m0, m1);
    }
}

/* Sums of products of two s8 in s32. */
static bool takes_s8(const pare_linear_job *job) {
    return job->grids.grid && job->tiles->s8_block && job->in <= INT32_MAX / 128 / 128;
}

static bool takes_blocks(const pare_linear_job *job) {
    for (size_t o = 0; o < job->n_outs && job->tiles->bf16_block; o++) {
        pare_form form = form_of(job, &job->outs[o]);
        if (form != PARE_FORM_BF16 && form != PARE_FORM_BF16X3) return false;
    }
    return job->tiles->bf16_block;
}

/* How the work of a slab is cut; results do not depend on it. */
typedef struct cut {
    size_t panels, item_panels, n_items, splits, split_rows;
} cut;

static size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

/* Panels of an item, even: a tile serves two. Of few ways to cut the one whose threads have the
 * least to do; with as few items as may be, since x is read anew for each. */
static size_t run_item_panels(size_t panels, size_t n_threads, bool long_in) {
    size_t best = 0, least = SIZE_MAX;
    for (size_t a_thread = long_in ? 1 : 2, i = 0; i < RUN_CUTS; i++, a_thread++) {
        size_t size = divide_up(divide_up(panels, a_thread * n_threads), 2) * 2;
        if (size > RUN_PANELS) size = RUN_PANELS;
        size_t load = divide_up(divide_up(panels, size), n_threads) * size;
        if (load >= least) continue;
        least = load;
        best = size;
    }
    return best;
}

static cut cut_work(const pare_linear_job *job, size_t n, size_t n_threads, bool by_runs) {
    cut c = {0};
    for (size_t o = 0; o < job->n_outs; o++) c.panels += panels_of(&job->outs[o]);
    c.item_panels = c.panels / (n_threads * ITEMS_A_THREAD);
    if (c.item_panels > ITEM_PANELS) c.item_panels = ITEM_PANELS;
    if (c.item_panels < 1) c.item_panels = 1;
    if (by_runs && c.panels)
        c.item_panels = run_item_panels(c.panels, n_threads, job->in > RUN_BLOCKS * KC);
    size_t groups = (c.panels + c.item_panels - 1) / c.item_panels;
    c.splits = 1;
    if (n_threads > 1 && groups < 2 * n_threads && groups) {
        c.splits = (2 * n_threads + groups - 1) / groups;
        size_t most = n / SPLIT_ROWS;
        if (c.splits > most) c.splits = most ? most : 1;
    }
    c.split_rows = (n + c.splits - 1) / c.splits;
    if (job->by_weight) c.split_rows = (c.split_rows + PIECE - 1) / PIECE * PIECE;
    c.n_items = groups * c.splits;
    return c;
}

void pare_linear_many(pare_worker *w, const pare_linear_job *job) {
    pare_many_space s = {0};
    pare_arena arena = {.base = job->scratch, .capacity = SIZE_MAX};
    size_t slab = slab_rows(job->n, job->by_weight);
    many_plan(&arena, &s, w->id, slab, job->in, w->n, job->compute);
    bool in_place = reads_in_place(job);
    s.x_f32 = s.x;
    s.x_block = in_place ? KC : s.slab * F32_LD;
    s.x_ld = in_place ? job->ldx : F32_LD;
    void (*run)(const pare_linear_job *, pare_many_space *, size_t, size_t, size_t, size_t,
                size_t) = job->by_weight      ? run_weights
                          : takes_s8(job)     ? run_codes_item
                          : takes_blocks(job) ? run_blocks_item
                                              : run_item;
    bool by_runs = run == run_codes_item || run == run_blocks_item;
    for (size_t row = 0; row < job->n; row += s.slab) {
        size_t n = job->n - row < s.slab ? job->n - row : s.slab;
        const float *x = job->x + row * (job->x_transposed ? 1 : job->ldx);
        if (job->by_weight)
            pare_weights_prepare(w, job, &s, x, n);
        else if (in_place)
            s.x_f32 = x;
        else
            prepare(w, job, &s, x, row, n);
        cut c = cut_work(job, n, (size_t)w->n, by_runs);
        for (size_t item; (item = pare_take(w, 1)) < c.n_items;) {
            size_t first = item / c.splits * c.item_panels, last = first + c.item_panels;
            size_t m0 = item % c.splits * c.split_rows, m1 = m0 + c.split_rows;
            if (m0 < n)
                run(job, &s, first, last < c.panels ? last : c.panels, row, m0, m1 < n ? m1 : n);
        }
        pare_barrier(w);
    }
}
