#include "kernels/select.h"

#include <math.h>
#include <string.h>

/* Keys keep the order of scores; 0 and the largest are left for values that must go or stay. */
static uint32_t key_of(float score) {
    uint32_t u;
    memcpy(&u, &score, 4);
    if (isnan(score)) return 1;
    if (u == 0x80000000u) u = 0; /* -0 equals +0 */
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static void keys(uint32_t *key, const pare_scored *s, size_t at, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float score = s->score ? s->score[at + i] : fabsf(s->w[at + i]);
        key[i] = key_of(s->divisor > 0.0f ? score / s->divisor : score);
    }
}

static void compare(uint64_t *above, uint64_t *equal, const uint32_t key[64], uint32_t threshold) {
    *above = *equal = 0;
    for (int i = 0; i < 64; i++) {
        *above |= (uint64_t)(key[i] > threshold) << i;
        *equal |= (uint64_t)(key[i] == threshold) << i;
    }
}

static void bend(uint32_t key[64], uint64_t low, uint64_t high) {
    for (int i = 0; i < 64; i++) {
        if (low >> i & 1) key[i] = 0;
        if (high >> i & 1) key[i] = UINT32_MAX;
    }
}

static uint64_t match(const uint32_t key[64], uint32_t prefix, uint32_t mask) {
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) bits |= (uint64_t)((key[i] & mask) == prefix) << i;
    return bits;
}

static uint64_t quads(const uint32_t key[64], int n) {
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) {
        int higher = 0;
        for (int k = i & ~3; k < (i & ~3) + 4; k++)
            higher += key[k] > key[i] || (key[k] == key[i] && k > i);
        bits |= (uint64_t)(higher < n) << i;
    }
    return bits;
}

const pare_select_kernels pare_select_ref = {keys, compare, bend, match, quads};
