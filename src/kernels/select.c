#include "kernels/select.h"

#include <string.h>

enum {
    PIECE = 1024,      /* values whose keys are at hand */
    BINS = 2048,       /* of a pass */
    MAX_WORKERS = 1024 /* that a runtime may have */
};
static const int shifts[3] = {21, 10, 0}, widths[3] = {11, 11, 10};

const pare_select_kernels *pare_select_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX2) return &pare_select_avx2;
#endif
    (void)isa;
    return &pare_select_ref;
}

typedef struct select_job {
    const pare_select_kernels *k;
    const pare_scored *parts;
    size_t n_parts, n_words, keep;
    pare_ties ties;
    uint64_t count[3][BINS];     /* of all workers */
    uint64_t equal[MAX_WORKERS]; /* of each worker's share */
} select_job;

/* --- pieces of a share --- */

/* A place in a share, and the keys of the values from there on. */
typedef struct cursor {
    size_t part, at;      /* of the piece */
    size_t n, words_left; /* values of the piece; words of the share behind it */
    uint32_t key[PIECE];
} cursor;

static void cursor_begin(cursor *c, const select_job *j, size_t begin, size_t end) {
    c->part = 0;
    c->n = 0;
    c->words_left = end - begin;
    for (; c->part < j->n_parts; c->part++) {
        size_t words = pare_bit_words(j->parts[c->part].n);
        if (begin < words) break;
        begin -= words;
    }
    c->at = begin * 64;
}

/* Values outside `within` become the lowest, those of `forced` the highest; at is a multiple of 64,
 * and keys of the last word may be bent behind the piece's end. */
static void bend_keys(const pare_select_kernels *k, uint32_t *key, const pare_scored *s, size_t at,
                      size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        uint64_t low = s->within ? ~s->within[(at + i) / 64] : 0;
        k->bend(key + i, low, s->forced ? s->forced[(at + i) / 64] : 0);
    }
}

/* The next piece; false at the end of the share. */
static bool cursor_next(cursor *c, const select_job *j) {
    c->at += c->n;
    while (c->part < j->n_parts && c->at >= j->parts[c->part].n) {
        c->part++;
        c->at = 0;
    }
    if (c->words_left == 0 || c->part == j->n_parts) return false;
    const pare_scored *s = &j->parts[c->part];
    size_t left = s->n - c->at;
    c->n = left < PIECE ? left : PIECE;
    if (c->n > c->words_left * 64) c->n = c->words_left * 64;
    c->words_left -= pare_bit_words(c->n);
    j->k->keys(c->key, s, c->at, c->n);
    if (s->within || s->forced) bend_keys(j->k, c->key, s, c->at, c->n);
    return true;
}

/* Of the word that begins at `at` of the piece: what stands behind the last value is none. */
static uint64_t valid_bits(const cursor *c, size_t at) {
    return at + 64 <= c->n ? ~(uint64_t)0 : ((uint64_t)1 << (c->n - at)) - 1;
}

/* --- passes over a share of the words --- */

static void count_share(uint32_t *count, const select_job *j, size_t begin, size_t end, int pass,
                        uint32_t prefix) {
    const uint32_t digit = (1u << widths[pass]) - 1, above = pass ? ~0u << shifts[pass - 1] : 0;
    const int shift = shifts[pass];
    /* neighbours often fall into the same bin: two tables keep one from waiting for the other */
    uint32_t other[BINS] = {0};
    cursor c;
    memset(count, 0, BINS * sizeof *count);
    for (cursor_begin(&c, j, begin, end); cursor_next(&c, j);) {
        if (pass == 0) {
            size_t i = 0;
            for (; i + 2 <= c.n; i += 2) {
                count[c.key[i] >> shift]++;
                other[c.key[i + 1] >> shift]++;
            }
            if (i < c.n) count[c.key[i] >> shift]++;
        } else {
            for (size_t i = 0; i < c.n; i += 64)
                for (uint64_t bits = j->k->match(c.key + i, prefix, above) & valid_bits(&c, i);
                     bits; bits &= bits - 1)
                    count[c.key[i + (size_t)__builtin_ctzll(bits)] >> shift & digit]++;
        }
    }
    for (size_t i = 0; i < BINS; i++) count[i] += other[i];
}

/* Keys of the word that begins at `at` of the piece, filled up with the lowest. */
static const uint32_t *word_keys(uint32_t rest[64], const cursor *c, size_t at) {
    if (at + 64 <= c->n) return c->key + at;
    memset(rest, 0, 64 * sizeof *rest);
    memcpy(rest, c->key + at, (c->n - at) * sizeof *rest);
    return rest;
}

static uint64_t count_equal(const select_job *j, size_t begin, size_t end, uint32_t threshold) {
    uint64_t n = 0, above, equal;
    uint32_t rest[64];
    cursor c;
    for (cursor_begin(&c, j, begin, end); cursor_next(&c, j);)
        for (size_t at = 0; at < c.n; at += 64) {
            j->k->compare(&above, &equal, word_keys(rest, &c, at), threshold);
            n += (uint64_t)__builtin_popcountll(equal & valid_bits(&c, at));
        }
    return n;
}

/* Those of the equal values of a word, the first of which is number `at`, with lo <= number < hi.
 */
static uint64_t equal_between(uint64_t equal, uint64_t at, uint64_t lo, uint64_t hi) {
    uint64_t n = (uint64_t)__builtin_popcountll(equal), stay = 0;
    if (at >= lo && at + n <= hi) return equal;
    for (; equal; equal &= equal - 1, at++)
        if (at >= lo && at < hi) stay |= equal & (~equal + 1);
    return stay;
}

/* The outcome for n values from `at` on. */
static void put_word(const pare_scored *s, size_t at, uint64_t bits, size_t n) {
    if (s->bits) s->bits[at / 64] = bits;
    if (s->zero) pare_zero_word(s->zero + at, bits, n);
}

/* Equal values number [lo, hi) stay; the share's first is number `at`. */
static void write_share(const select_job *j, size_t begin, size_t end, uint32_t threshold,
                        uint64_t at, uint64_t lo, uint64_t hi) {
    uint64_t above, equal;
    uint32_t rest[64];
    cursor c;
    for (cursor_begin(&c, j, begin, end); cursor_next(&c, j);)
        for (size_t i = 0; i < c.n; i += 64) {
            j->k->compare(&above, &equal, word_keys(rest, &c, i), threshold);
            equal &= valid_bits(&c, i);
            put_word(&j->parts[c.part], c.at + i, above | equal_between(equal, at, lo, hi),
                     c.n - i < 64 ? c.n - i : 64);
            at += (uint64_t)__builtin_popcountll(equal);
        }
}

/* --- the whole --- */

/* Adds up the workers' counts and waits for all. */
static void add_counts(uint64_t *sum, const uint32_t *count, pare_worker *w) {
    for (size_t i = 0; i < BINS; i++) {
        if (!w)
            sum[i] = count[i];
        else if (count[i])
            __atomic_fetch_add(&sum[i], count[i], __ATOMIC_RELAXED);
    }
    if (w) pare_barrier(w);
}

/* Every worker (NULL: one alone) does its share of each pass, and draws the same conclusions. */
static void select_worker(pare_worker *w, void *arg) {
    select_job *j = arg;
    size_t begin = 0, end = j->n_words;
    if (w) pare_share(w, j->n_words, PIECE / 64, &begin, &end);
    uint32_t threshold = 0, count[BINS];
    uint64_t keep = j->keep, equal = 0; /* `keep` among those that have the threshold's prefix */
    for (int pass = 0; pass < 3; pass++) {
        count_share(count, j, begin, end, pass, threshold);
        add_counts(j->count[pass], count, w);
        uint32_t digit = (1u << widths[pass]) - 1;
        while (j->count[pass][digit] < keep) keep -= j->count[pass][digit--];
        threshold |= digit << shifts[pass];
        equal = j->count[pass][digit];
    }
    uint64_t lo = j->ties == PARE_TIES_FIRST_GOES ? equal - keep : 0, hi = lo + keep, at = 0;
    if (w && keep < equal) { /* some go: a worker's first one must know its number */
        j->equal[w->id] = count_equal(j, begin, end, threshold);
        pare_barrier(w);
        for (int i = 0; i < w->id; i++) at += j->equal[i];
    } else if (keep == equal) {
        hi = UINT64_MAX;
    }
    write_share(j, begin, end, threshold, at, lo, hi);
}

/* All stay, or all go. */
static void put_all(const pare_scored *s, bool stay) {
    for (size_t at = 0; at < s->n; at += 64) {
        size_t n = s->n - at < 64 ? s->n - at : 64;
        put_word(s, at, !stay ? 0 : n == 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1, n);
    }
}

void pare_select(pare_runtime *rt, const pare_scored *parts, size_t n_parts, size_t keep,
                 pare_ties ties) {
    size_t n = 0, n_words = 0;
    for (size_t i = 0; i < n_parts; i++) {
        n += parts[i].n;
        n_words += pare_bit_words(parts[i].n);
    }
    if (keep == 0 || keep >= n) {
        for (size_t i = 0; i < n_parts; i++) put_all(&parts[i], keep > 0);
        return;
    }
    select_job j; /* large: a small selection does not clear it */
    j.k = pare_select_kernels_get(rt ? pare_runtime_isa(rt) : pare_isa_best());
    j.parts = parts;
    j.n_parts = n_parts;
    j.n_words = n_words;
    j.keep = keep;
    j.ties = ties;
    if (rt && n_words > 8 * PIECE / 64) {
        memset(j.count, 0, sizeof j.count);
        pare_team_run(rt, select_worker, &j);
    } else {
        select_worker(NULL, &j);
    }
}

void pare_select_quads(pare_isa isa, const pare_scored *s, size_t begin, size_t end, int n) {
    const pare_select_kernels *k = pare_select_kernels_get(isa);
    uint32_t key[PIECE] = {0};
    for (size_t at = begin, count; at < end; at += count) {
        count = end - at < PIECE ? end - at : PIECE;
        k->keys(key, s, at, count);
        for (size_t i = 0; i < count; i += 64) {
            size_t left = count - i < 64 ? count - i : 64;
            uint64_t bits = k->quads(key + i, n);
            if (left < 64) bits &= ((uint64_t)1 << left) - 1;
            put_word(s, at + i, bits, left);
        }
    }
}

uint64_t pare_select_group(const float *w, const float *score, int n, int m) {
    const pare_scored s = {.w = w, .score = score, .n = (size_t)m};
    uint32_t key[64];
    uint64_t bits = 0;
    pare_select_ref.keys(key, &s, 0, (size_t)m);
    for (int i = 0; i < m; i++) {
        int higher = 0;
        for (int k = 0; k < m; k++) higher += key[k] > key[i] || (key[k] == key[i] && k > i);
        bits |= (uint64_t)(higher < n) << i;
    }
    return bits;
}
