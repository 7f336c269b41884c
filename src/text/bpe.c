#include "text/bpe.h"

#include "text/text_buffer.h"

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

/* --- short words: ranks of all neighbours side by side, the smallest merges --- */

static size_t merge_short(const pare_bpe *bpe, int32_t *ids, size_t n) {
    uint32_t rank[SHORT_WORD];
    int32_t result[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++) {
        const pare_pair *p = pare_bpe_find(bpe, ids[i], ids[i + 1]);
        rank[i] = p ? p->rank : PARE_BPE_NO_RANK;
        result[i] = p ? p->result : 0;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == PARE_BPE_NO_RANK) break;
        ids[best] = result[best];
        size_t tail = n - best - 2; /* symbols after the pair */
        memmove(ids + best + 1, ids + best + 2, tail * sizeof *ids);
        memmove(rank + best, rank + best + 1, tail * sizeof *rank);
        memmove(result + best, result + best + 1, tail * sizeof *result);
        n--;
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const pare_pair *p = pare_bpe_find(bpe, ids[i], ids[i + 1]);
            rank[i] = p ? p->rank : PARE_BPE_NO_RANK;
            result[i] = p ? p->result : 0;
        }
    }
    return n;
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

/* Looks up the pair that begins at place i; true when it merges. */
static bool rate_pair(const pare_bpe *bpe, struct pare_bpe_symbol *s, uint32_t i) {
    const pare_pair *p =
        s[i].next == UINT32_MAX ? NULL : pare_bpe_find(bpe, s[i].id, s[s[i].next].id);
    s[i].rank = p ? p->rank : PARE_BPE_NO_RANK;
    s[i].result = p ? p->result : 0;
    return p != NULL;
}

static uint64_t heap_item(const struct pare_bpe_symbol *s, uint32_t i) {
    return (uint64_t)s[i].rank << 32 | i;
}

static size_t merge_long(const pare_bpe *bpe, pare_bpe_scratch *scratch, int32_t *ids, size_t n) {
    /* each merge takes one entry and adds at most two, so 2n entries at once are enough */
    if (!pare_grow(&scratch->symbols, &scratch->symbols_capacity, n, sizeof *scratch->symbols) ||
        !pare_grow(&scratch->heap, &scratch->heap_capacity, 2 * n, sizeof *scratch->heap))
        return SIZE_MAX;
    struct pare_bpe_symbol *s = scratch->symbols;
    uint64_t *heap = scratch->heap;
    for (size_t i = 0; i < n; i++) {
        s[i].id = ids[i];
        s[i].prev = i ? (uint32_t)i - 1 : UINT32_MAX;
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX;
    }
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++)
        if (rate_pair(bpe, s, (uint32_t)i)) heap[n_heap++] = heap_item(s, (uint32_t)i);
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
        if (rate_pair(bpe, s, i)) heap_push(heap, n_heap++, heap_item(s, i));
        if (before != UINT32_MAX && rate_pair(bpe, s, before))
            heap_push(heap, n_heap++, heap_item(s, before));
    }
    size_t kept = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = s[i].next) ids[kept++] = s[i].id;
    return kept;
}

size_t pare_bpe_merge(const pare_bpe *bpe, pare_bpe_scratch *scratch, int32_t *ids, size_t n) {
    if (n <= SHORT_WORD) return merge_short(bpe, ids, n);
    return merge_long(bpe, scratch, ids, n);
}

void pare_bpe_scratch_free(pare_bpe_scratch *scratch) {
    pare_free(scratch->symbols);
    pare_free(scratch->heap);
    *scratch = (pare_bpe_scratch){0};
}
