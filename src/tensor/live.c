#include "tensor/live.h"

#include "base/memory.h"
#include "base/runtime.h"
#include "kernels/select.h"
#include "kernels/tile.h"

#include <math.h>
#include <string.h>

enum { NR = PARE_TILE_NR };

static size_t panels(size_t lines) { return lines / NR + (lines % NR != 0); }
static size_t words_by_output(const pare_live *l) {
    return panels(l->rows) * pare_bit_words(l->cols);
}
static size_t words_by_input(const pare_live *l) {
    return panels(l->cols) * pare_bit_words(l->rows);
}

pare_status pare_live_create(pare_live **out, size_t rows, size_t cols, pare_error *err) {
    pare_live *l = pare_calloc(1, sizeof *l);
    *out = NULL;
    if (l) {
        l->rows = rows;
        l->cols = cols;
        l->kept = l->y = l->dx = l->dw = 1;
        l->by_output = pare_calloc(words_by_output(l) + words_by_input(l), sizeof *l->by_output);
    }
    if (!l || !l->by_output) {
        pare_free(l);
        return pare_fail(err, PARE_ERR_NOMEM, "sparsity: what is left of %zu x %zu weights", rows,
                         cols);
    }
    l->by_input = l->by_output + words_by_output(l);
    memset(l->by_output, 0xFF, (words_by_output(l) + words_by_input(l)) * sizeof *l->by_output);
    *out = l;
    return PARE_OK;
}

void pare_live_free(pare_live *l) {
    if (!l) return;
    pare_free(l->by_output);
    pare_free(l);
}

/* n <= 64 bits from bit `at` on. */
static uint64_t bits_at(const uint64_t *mask, size_t at, size_t n) {
    size_t shift = at % 64;
    uint64_t v = mask[at / 64] >> shift;
    if (shift && shift + n > 64) v |= mask[at / 64 + 1] << (64 - shift);
    return n < 64 ? v & (((uint64_t)1 << n) - 1) : v;
}

typedef struct set_job {
    const pare_live *l;
    const uint64_t *mask;
} set_job;

/* Blocks of 64 outputs: each has words of its own in both arrays. */
static void set_blocks(void *arg, size_t begin, size_t end) {
    const set_job *j = arg;
    const pare_live *l = j->l;
    size_t words = pare_bit_words(l->cols), row_words = pare_bit_words(l->rows);
    for (size_t b = begin; b < end; b++) {
        size_t last = b * 64 + 64 < l->rows ? b * 64 + 64 : l->rows;
        for (size_t p = 0; p < panels(l->cols); p++) l->by_input[p * row_words + b] = 0;
        for (size_t row = b * 64; row < last; row++) {
            uint64_t *outputs = l->by_output + row / NR * words;
            if (row % NR == 0) memset(outputs, 0, words * sizeof *outputs);
            for (size_t w = 0; w < words; w++) {
                size_t n = l->cols - w * 64 < 64 ? l->cols - w * 64 : 64;
                uint64_t v = bits_at(j->mask, row * l->cols + w * 64, n);
                outputs[w] |= v;
                for (size_t p = w * 4; v; p++, v >>= NR)
                    if (v & 0xFFFF) l->by_input[p * row_words + b] |= (uint64_t)1 << row % 64;
            }
        }
    }
}

/* The share of n_panels x n places that is multiplied, block by block of the products' sums. */
static double share(const uint64_t *bits, size_t n_panels, size_t n, bool pairs) {
    size_t done = 0;
    uint16_t list[PARE_TILE_KC];
    for (size_t p = 0; p < n_panels; p++, bits += pare_bit_words(n))
        for (size_t at = 0; at < n; at += PARE_TILE_KC) {
            size_t k = n - at < PARE_TILE_KC ? n - at : PARE_TILE_KC;
            size_t live =
                pairs ? 2 * pare_live_pairs(list, bits, at, k) : pare_live_list(list, bits, at, k);
            done += pare_live_pays(live, k) ? live : k;
        }
    return n_panels && n ? (double)done / ((double)n_panels * (double)n) : 1;
}

/* Times of a product in units of the whole one, fitted to what was measured with AVX2,
 * and right with AVX-512 (docs/sparse_training.md); a choice that never changes bits. */
static double time_of_panels(double multiplied) { return fmin(1, 0.14 + 0.95 * multiplied); }
static double time_of_weights(double kept) { return 0.27 + 1.15 * kept; }

static double share_of_weights(const uint64_t *mask, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < pare_bit_words(n); i++) kept += (size_t)__builtin_popcountll(mask[i]);
    return n ? (double)kept / (double)n : 1;
}

void pare_live_set(pare_runtime *rt, pare_live *l, const uint64_t *mask, bool bf16) {
    const pare_tile_kernels *tiles = pare_tile_kernels_get(pare_runtime_isa(rt));
    l->kept = l->y = l->dx = l->dw = 1;
    l->y_by_weight = l->dx_by_weight = false;
    if (!mask) {
        memset(l->by_output, 0xFF, (words_by_output(l) + words_by_input(l)) * sizeof *l->by_output);
        return;
    }
    set_job j = {l, mask};
    pare_parallel_for(rt, pare_bit_words(l->rows), 1, set_blocks, &j);
    l->kept = share_of_weights(mask, l->rows * l->cols);
    if (bf16 && !tiles->bf16_pairs) return;
    l->y = share(l->by_output, panels(l->rows), l->cols, bf16);
    l->dx = share(l->by_input, panels(l->cols), l->rows, bf16);
    l->dw = share(l->by_input, panels(l->cols), l->rows, false);
    if (bf16 || !tiles->weights) return;
    l->y_by_weight = time_of_weights(l->kept) < time_of_panels(l->y);
    l->dx_by_weight = time_of_weights(l->kept) < time_of_panels(l->dx);
    if (l->y_by_weight) l->y = l->kept;
    if (l->dx_by_weight) l->dx = l->kept;
}

size_t pare_live_list(uint16_t *list, const uint64_t *bits, size_t begin, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i += 64)
        for (uint64_t v = bits_at(bits, begin + i, n - i < 64 ? n - i : 64); v; v &= v - 1)
            list[count++] = (uint16_t)(i + (size_t)__builtin_ctzll(v));
    return count;
}

size_t pare_live_pairs(uint16_t *list, const uint64_t *bits, size_t begin, size_t n) {
    const uint64_t even = 0x5555555555555555;
    size_t count = 0;
    for (size_t i = 0; i < n; i += 64) {
        uint64_t v = bits_at(bits, begin + i, n - i < 64 ? n - i : 64);
        for (v = (v | v >> 1) & even; v; v &= v - 1)
            list[count++] = (uint16_t)((i + (size_t)__builtin_ctzll(v)) / 2);
    }
    return count;
}

bool pare_live_takes_rows(size_t n) {
    return n >= 4 * PARE_TILE_PIECE || (n && n % PARE_TILE_PIECE == 0);
}

bool pare_live_pays(size_t live, size_t n) { return live * 8 <= n * 7; }
