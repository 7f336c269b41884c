#include "autograd/top_k.h"

#include "autograd/tape.h"
#include "kernels/select.h"

#include <math.h>
#include <string.h>

typedef struct top_k_record {
    pare_record head;
    float *dy;
    const uint64_t *bits; /* [n][words] what stayed */
    size_t n, width;
} top_k_record;

static void zero_rest(float *row, const uint64_t *bits, size_t width) {
    for (size_t i = 0; i < width; i += 64)
        pare_zero_word(row + i, bits[i / 64], width - i < 64 ? width - i : 64);
}

static void top_k_backward(pare_fwd *f, pare_record *record) {
    const top_k_record *r = (const top_k_record *)record;
    size_t begin, end;
    pare_share(f->w, r->n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        zero_rest(r->dy + i * r->width, r->bits + i * pare_bit_words(r->width), r->width);
    pare_barrier(f->w);
}

static size_t n_kept(size_t width, double share) {
    float keep = nearbyintf((float)width * (1.0f - (float)share)); /* in f32 as masks of weights */
    return keep < 1 ? 1 : (size_t)keep;
}

/* bits [words], or NULL */
static void select_row(float *row, uint64_t *bits, size_t width, const pare_top_k *k) {
    const float *score = k->score == PARE_TOP_K_VALUE ? row : NULL;
    size_t n = k->n, m = k->m;
    if (!m) {
        const pare_scored s = {.w = row, .score = score, .n = width, .bits = bits, .zero = row};
        pare_select(NULL, &s, 1, n_kept(width, k->share), PARE_TIES_FIRST_STAYS);
        return;
    }
    if (bits) memset(bits, 0, pare_bit_words(width) * sizeof *bits);
    for (size_t i = 0; i + m <= width; i += m) {
        uint64_t kept = pare_select_group(row + i, score ? row + i : NULL, (int)n, (int)m);
        pare_zero_word(row + i, kept, m);
        for (; bits && kept; kept &= kept - 1) {
            size_t at = i + (size_t)__builtin_ctzll(kept);
            bits[at / 64] |= (uint64_t)1 << at % 64;
        }
    }
}

void pare_op_top_k(pare_fwd *f, float *y, size_t n, size_t width, const pare_top_k *k) {
    if (!pare_top_k_is_on(k)) return;
    size_t words = pare_bit_words(width);
    uint64_t *bits = NULL;
    if (f->tape) {
        top_k_record *r = pare_tape_push(f, sizeof *r, top_k_backward);
        bits = pare_tape_save(f, n * words, sizeof *bits);
        if (r && f->w->id == 0) {
            r->dy = pare_tape_shadow(f, y);
            r->bits = bits;
            r->n = n;
            r->width = width;
        }
    }
    if (pare_fwd_planning(f) || !y) return; /* a plan has neither */
    /* one row is each thread's own (pare_fwd_alloc_rows): all compute it and none waits */
    bool own = (uintptr_t)y - (uintptr_t)f->own.base < f->own.capacity;
    size_t begin = 0, end = n;
    if (!own) pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        select_row(y + i * width, bits ? bits + i * words : NULL, width, k);
    if (!own) pare_barrier(f->w);
}
