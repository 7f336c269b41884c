#include "text/bpe.h"

#include "text/text_buffer.h"

/* Remembered pairs; the newest of a place stays. 256 KiB: they should stay in the second level
 * cache. */
#define MEMO_BITS 14

/* Up to this length a scan for the best pair beats the heap (measured by bench_tokenizer). */
#define SHORT_WORD 32

static uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Keyed, so that a file cannot hold merges that all fall into one slot. */
static size_t pair_slot(const pare_bpe *bpe, uint64_t key) {
    uint64_t h = (key + bpe->seed) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 29) * 0xBF58476D1CE4E5B9u;
    return (size_t)(h ^ h >> 32) & bpe->mask;
}

bool pare_bpe_init(pare_bpe *bpe, size_t n) {
    size_t slots = 16;
    while (slots < n + n / 2) slots *= 2;
    bpe->slots = pare_malloc(slots, sizeof *bpe->slots);
    if (!bpe->slots) return false;
    memset(bpe->slots, 0xFF, slots * sizeof *bpe->slots);
    bpe->mask = slots - 1;
    bpe->n = 0;
    /* where the system puts memory is as random as it gets without a source of randomness */
    bpe->seed = (uint64_t)(uintptr_t)bpe->slots * 0xD1342543DE82EF95u;
    return true;
}

void pare_bpe_free(pare_bpe *bpe) {
    pare_free(bpe->slots);
    *bpe = (pare_bpe){0};
}

bool pare_bpe_add(pare_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t result) {
    uint64_t key = pair_key(left, right);
    size_t i = pair_slot(bpe, key);
    while (bpe->slots[i].key != UINT64_MAX) {
        if (bpe->slots[i].key == key) return false;
        i = (i + 1) & bpe->mask;
    }
    bpe->slots[i] = (pare_pair){key, rank, result};
    bpe->n++;
    return true;
}

const pare_pair *pare_bpe_find(const pare_bpe *bpe, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return NULL;
    uint64_t key = pair_key(left, right);
    for (size_t i = pair_slot(bpe, key);; i = (i + 1) & bpe->mask) {
        const pare_pair *p = &bpe->slots[i];
        if (p->key == key) return p;
        if (p->key == UINT64_MAX) return NULL;
    }
}

/* --- two neighbours --- */

/* A symbol of a word: its id and (of pairs by text) its place in the text. */
typedef struct neighbour {
    int32_t id;
    size_t begin, end;
} neighbour;

typedef struct merging {
    const pare_bpe *bpe;
    pare_pair *memo;
    pare_bpe_word *word;
} merging;

static pare_pair look_up_text(const merging *m, const neighbour *left, const neighbour *right) {
    pare_pair p = {pair_key(left->id, right->id), PARE_BPE_NO_RANK, 0};
    pare_pair *known = NULL;
    if (m->memo) {
        known = &m->memo[p.key * 0x9E3779B97F4A7C15u >> (64 - MEMO_BITS)];
        if (known->key == p.key) return *known;
    }
    if (!m->bpe->joined(m->bpe->arg, m->word->text + left->begin, right->end - left->begin, &p.rank,
                        &p.result))
        p.rank = PARE_BPE_NO_RANK;
    if (known) *known = p;
    return p;
}

/* The rank of a pair (PARE_BPE_NO_RANK: it does not merge), and what it becomes. */
static uint32_t rate(const merging *m, neighbour left, neighbour right, int32_t *result) {
    if (m->bpe->joined) {
        pare_pair p = look_up_text(m, &left, &right);
        *result = p.result;
        return p.rank;
    }
    const pare_pair *p = pare_bpe_find(m->bpe, left.id, right.id);
    *result = p ? p->result : 0;
    return p ? p->rank : PARE_BPE_NO_RANK;
}

/* --- short words: ranks of all neighbours side by side, the smallest merges --- */

/* begin: [n + 1] of pairs by text, the end of the word in begin[n]. */
static uint32_t rate_short(const merging *m, const uint32_t *begin, size_t i, int32_t *result) {
    const int32_t *ids = m->word->ids;
    if (!m->bpe->joined)
        return rate(m, (neighbour){.id = ids[i]}, (neighbour){.id = ids[i + 1]}, result);
    return rate(m, (neighbour){ids[i], begin[i], begin[i + 1]},
                (neighbour){ids[i + 1], begin[i + 1], begin[i + 2]}, result);
}

static void remove_at(void *array, size_t size, size_t i, size_t n) {
    char *p = array;
    memmove(p + i * size, p + (i + 1) * size, (n - i - 1) * size);
}

static void merge_short(const merging *m) {
    pare_bpe_word *w = m->word;
    const bool by_text = m->bpe->joined != NULL;
    uint32_t rank[SHORT_WORD], begin[SHORT_WORD + 1];
    int32_t result[SHORT_WORD];
    size_t n = w->n;
    if (by_text) {
        memcpy(begin, w->begin, n * sizeof *begin);
        begin[n] = (uint32_t)w->n_bytes;
    }
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rate_short(m, begin, i, &result[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == PARE_BPE_NO_RANK) break;
        w->ids[best] = result[best];
        remove_at(w->ids, sizeof *w->ids, best + 1, n);
        remove_at(rank, sizeof *rank, best, n - 1);
        remove_at(result, sizeof *result, best, n - 1);
        if (by_text) remove_at(begin, sizeof *begin, best + 1, n + 1);
        n--;
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++)
            rank[i] = rate_short(m, begin, i, &result[i]);
    }
    w->n = n;
}

/* --- long words: a list of symbols and a heap of (rank, place) ---
 * An entry is stale when the pair that now begins at its place has another rank, or its symbol is
 * gone: no entry is ever searched for or removed early. */

struct pare_bpe_symbol {
    int32_t id, result;  /* result: of the pair that begins here */
    uint32_t rank;       /* of that pair; PARE_BPE_NO_RANK = none, or the symbol is gone */
    uint32_t prev, next; /* places; UINT32_MAX = none */
};

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t item = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= item) break;
        heap[i] = heap[child];
    }
    heap[i] = item;
}

static void heap_push(uint64_t *heap, size_t n, uint64_t item) {
    size_t i = n;
    for (; i > 0 && heap[(i - 1) / 2] > item; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = item;
}

/* Looks up the pair that begins at place i; true when it merges. A symbol begins in the text where
 * the one did that was at its place at first. */
static bool rate_pair(const merging *m, struct pare_bpe_symbol *s, uint32_t i) {
    const pare_bpe_word *w = m->word;
    uint32_t right = s[i].next;
    s[i].rank = PARE_BPE_NO_RANK;
    if (right == UINT32_MAX) return false;
    neighbour a = {.id = s[i].id}, b = {.id = s[right].id};
    if (m->bpe->joined) {
        a.begin = w->begin[i];
        a.end = b.begin = w->begin[right];
        b.end = s[right].next == UINT32_MAX ? w->n_bytes : w->begin[s[right].next];
    }
    s[i].rank = rate(m, a, b, &s[i].result);
    return s[i].rank != PARE_BPE_NO_RANK;
}

static uint64_t heap_item(const struct pare_bpe_symbol *s, uint32_t i) {
    return (uint64_t)s[i].rank << 32 | i;
}

static bool merge_long(const merging *m, pare_bpe_scratch *scratch) {
    pare_bpe_word *w = m->word;
    size_t n = w->n;
    /* each merge takes one entry and adds at most two, so 2n entries at once are enough */
    if (!pare_grow(&scratch->symbols, &scratch->symbols_capacity, n, sizeof *scratch->symbols) ||
        !pare_grow(&scratch->heap, &scratch->heap_capacity, 2 * n, sizeof *scratch->heap))
        return false;
    struct pare_bpe_symbol *s = scratch->symbols;
    uint64_t *heap = scratch->heap;
    for (size_t i = 0; i < n; i++) {
        s[i].id = w->ids[i];
        s[i].prev = i ? (uint32_t)i - 1 : UINT32_MAX;
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX;
    }
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++)
        if (rate_pair(m, s, (uint32_t)i)) heap[n_heap++] = heap_item(s, (uint32_t)i);
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(heap, n_heap, i);

    while (n_heap) {
        uint64_t top = heap[0];
        heap[0] = heap[--n_heap];
        if (n_heap) sift_down(heap, n_heap, 0);
        uint32_t i = (uint32_t)top;
        if (s[i].rank != (uint32_t)(top >> 32)) continue;
        uint32_t right = s[i].next, after = s[right].next, before = s[i].prev;
        s[i].id = s[i].result;
        s[i].next = after;
        s[right].rank = PARE_BPE_NO_RANK;
        if (after != UINT32_MAX) s[after].prev = i;
        if (rate_pair(m, s, i)) heap_push(heap, n_heap++, heap_item(s, i));
        if (before != UINT32_MAX && rate_pair(m, s, before))
            heap_push(heap, n_heap++, heap_item(s, before));
    }
    w->n = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = s[i].next) w->ids[w->n++] = s[i].id;
    return true;
}

bool pare_bpe_merge(const pare_bpe *bpe, pare_bpe_scratch *scratch, pare_bpe_word *word) {
    const merging m = {bpe, scratch->memo, word};
    if (word->n > SHORT_WORD) return merge_long(&m, scratch);
    merge_short(&m);
    return true;
}

void pare_bpe_remember(pare_bpe_scratch *scratch) {
    size_t n = (size_t)1 << MEMO_BITS;
    scratch->memo = pare_malloc(n, sizeof *scratch->memo);
    if (scratch->memo) memset(scratch->memo, 0xFF, n * sizeof *scratch->memo);
}

void pare_bpe_scratch_free(pare_bpe_scratch *scratch) {
    pare_free(scratch->symbols);
    pare_free(scratch->heap);
    pare_free(scratch->memo);
    *scratch = (pare_bpe_scratch){0};
}
