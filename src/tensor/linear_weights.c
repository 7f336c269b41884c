/* A masked matrix as lists of its single weights: y = x w^T and dx = dy w cost what is left of it,
 * whatever the pattern. The lists are made anew for every slab of rows (8 weights at a time, a
 * hundredth of the product): nothing is kept that a step of training would have to follow.
 *
 * The rows of x go by 64 (vectors run along them), the inputs by 64 too: 16 KiB of x stay in L1
 * while all lists of an item pass. An output is one chain of sums in the order of inputs, begun
 * anew in every block of KC and then added, as dense products have it: the same bits. */
#include "tensor/linear_panel.h"

#include <string.h>

enum {
    NR = PARE_TILE_NR,
    KC = PARE_TILE_KC,
    T = PARE_TILE_PIECE,
    PIECES = KC / T,     /* of a block */
    PIECE_FLOATS = T * T /* of x */
};

static size_t pieces(size_t n) { return (n + T - 1) / T; }

/* Where x lies of rows [chunk T, + T) of a slab, inputs [kb KC + piece T, + T). */
static float *piece_of(const pare_many_space *s, size_t kb, size_t chunk, size_t piece) {
    return s->x + ((kb * (s->slab / T) + chunk) * PIECES + piece) * PIECE_FLOATS;
}

void pare_weights_prepare(pare_worker *w, const pare_linear_job *job, const pare_many_space *s,
                          const float *x, size_t n) {
    size_t begin, end, chunks = pieces(n);
    float tail[NR * T];
    pare_share(w, pieces(job->in) * chunks, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t piece = i / chunks, chunk = i % chunks, col = piece * T;
        size_t k = job->in - col < T ? job->in - col : T;
        float *to = piece_of(s, piece / PIECES, chunk, piece % PIECES);
        for (size_t row = chunk * T, r = 0; r < T; r += NR, to += T * NR) {
            const float *from = x + (row + r) * job->ldx + col;
            size_t ld = job->ldx;
            if (row + r + NR > n) { /* rows that are not there count as zero */
                memset(tail, 0, sizeof tail);
                for (size_t t = 0; row + r + t < n; t++)
                    memcpy(tail + t * T, from + t * ld, k * sizeof *tail);
                from = tail;
                ld = T;
            }
            job->tiles->transpose((uint32_t *)to, (const uint32_t *)from, ld, k);
        }
    }
    pare_barrier(w);
}

/* --- lists --- */

/* Columns col.. of up to T rows of the matrix as NR lines: turned[T / NR][NR][NR]. */
static void turn(const pare_linear_job *job, float *turned, const float *w, size_t ld, size_t k,
                 size_t n_lines) {
    float tail[NR * NR];
    for (size_t q = 0; q < T; q += NR, w += NR * ld, turned += NR * NR) {
        const float *from = w;
        size_t step = ld;
        if (q >= k) return;
        if (q + NR > k || n_lines < NR) {
            memset(tail, 0, sizeof tail);
            for (size_t i = 0; i < NR && q + i < k; i++)
                memcpy(tail + i * NR, w + i * ld, n_lines * sizeof *tail);
            from = tail;
            step = NR;
        }
        job->tiles->transpose((uint32_t *)turned, (const uint32_t *)from, step, NR);
    }
}

/* Block kb of the panel: to->panel and to->place as lists, piece by piece, line by line. */
static void list_panel(const pare_linear_job *job, const pare_panel_at *p, size_t kb,
                       pare_panel_space *to) {
    const pare_view *v = &p->out->w->view;
    size_t ld = v->row_bytes / sizeof(float), block = pare_block_k(job->in, kb), at = 0;
    uint8_t *place = (uint8_t *)to->panel16[0];
    float turned[T * NR] __attribute__((aligned(64)));
    for (size_t piece = 0; piece * T < block; piece++) {
        size_t first = kb * KC + piece * T, k = block - piece * T < T ? block - piece * T : T;
        to->piece_at[piece] = at;
        if (p->out->transposed)
            turn(job, turned, (const float *)v->part[0] + first * ld + p->row0, ld, k, p->n_rows);
        for (size_t line = 0; line < NR; line++) {
            const float *w = (const float *)v->part[0] + (p->row0 + line) * ld + first;
            size_t count = 0;
            if (line >= p->n_rows) {
            } else if (p->out->transposed) {
                for (size_t q = 0; q < k; q += NR)
                    count += job->tiles->pick(to->panel + at + count, place + at + count,
                                              turned + (q / NR * NR + line) * NR, NR, q);
            } else {
                count = job->tiles->pick(to->panel + at, place + at, w, k, 0);
            }
            to->count[piece][line] = (uint8_t)count;
            at += count;
        }
    }
}

/* --- products --- */

void pare_weights_list(const pare_linear_job *job, pare_many_space *s, const pare_panel_at *panels,
                       size_t n_panels, size_t kb) {
    for (size_t i = 0; i < n_panels; i++) list_panel(job, &panels[i], kb, &s->panels[i]);
}

/* Sums of the blocks before stand in s->c, [NR][T] for each panel and chunk; those of this block in
 * s->rows. */
void pare_weights_multiply(const pare_linear_job *job, const pare_many_space *s, size_t n_panels,
                           size_t kb, size_t m0) {
    size_t n_pieces = pieces(pare_block_k(job->in, kb)), chunk = m0 / T;
    for (size_t piece = 0; piece < n_pieces; piece++) {
        const float *xt = piece_of(s, kb, chunk, piece);
        bool last = piece + 1 == n_pieces, end = last && kb + 1 == s->n_kb;
        for (size_t i = 0; i < n_panels; i++) {
            const pare_panel_space *p = &s->panels[i];
            float *c = s->c + (i * s->slab + m0) * NR, *sum = s->rows + i * NR * T;
            job->tiles->weights(last && !end ? c : sum, piece ? sum : NULL, last && kb ? c : NULL,
                                xt, p->panel + p->piece_at[piece],
                                (const uint8_t *)p->panel16[0] + p->piece_at[piece],
                                p->count[piece], NR);
            if (end) job->tiles->transpose((uint32_t *)c, (const uint32_t *)sum, T, T);
        }
    }
}
