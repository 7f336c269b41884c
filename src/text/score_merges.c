/* SentencePiece models say which tokens there are and how good each is, not which pairs merge.
 * Encoding needs no list of these, tokenizer.json does. */
#include "text/tokenizer_tables.h"

#include <stdlib.h>

typedef struct ranked {
    float score;
    int32_t id;
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static int compare_merges(const void *a, const void *b) {
    const pare_merge *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

/* The symbol of a part of a token: one character, or a mergeable token. */
static int32_t part_symbol(const pare_tokenizer *tok, const char *s, size_t n) {
    int32_t cp;
    if (pare_utf8_next(s, n, &cp) == n) return pare_char_symbol(&tok->chars, cp);
    int32_t id = pare_tokenizer_lookup(tok, s, n);
    return id >= 0 && pare_token_mergeable(&tok->vocab->tokens[id]) ? id : -1;
}

typedef struct merge_list {
    pare_merge *data;
    size_t n, capacity;
} merge_list;

static bool add_splits(merge_list *list, const pare_tokenizer *tok, int32_t id) {
    const char *s = pare_vocab_text(tok->vocab, id);
    size_t n = tok->vocab->tokens[id].len, first = list->n;
    int32_t cp;
    for (size_t k = pare_utf8_next(s, n, &cp); k < n; k += pare_utf8_next(s + k, n - k, &cp)) {
        int32_t left = part_symbol(tok, s, k);
        int32_t right = left < 0 ? -1 : part_symbol(tok, s + k, n - k);
        if (right < 0) continue;
        if (!pare_grow(&list->data, &list->capacity, list->n + 1, sizeof *list->data)) return false;
        list->data[list->n++] = (pare_merge){left, right, id};
    }
    if (list->n - first > 1) /* data is not NULL then */
        qsort(list->data + first, list->n - first, sizeof *list->data, compare_merges);
    return true;
}

pare_status pare_score_merges(pare_merge **out, size_t *n, const pare_tokenizer *tok,
                              pare_error *err) {
    const pare_vocab *v = tok->vocab;
    merge_list list = {0};
    *out = NULL;
    *n = 0;
    ranked *order = pare_malloc(v->n, sizeof *order);
    bool ok = order != NULL;
    size_t n_order = 0;
    for (size_t i = 0; ok && i < v->n; i++)
        if (pare_token_mergeable(&v->tokens[i]))
            order[n_order++] = (ranked){v->tokens[i].score, (int32_t)i};
    if (ok) qsort(order, n_order, sizeof *order, compare_ranked);
    for (size_t i = 0; ok && i < n_order; i++) ok = add_splits(&list, tok, order[i].id);
    pare_free(order);
    if (!ok) {
        pare_free(list.data);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: merges: out of memory", v->source);
    }
    *out = list.data;
    *n = list.n;
    return PARE_OK;
}
