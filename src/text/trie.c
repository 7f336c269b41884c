#include "text/trie.h"

#include "text/text_buffer.h"

/* Children are a list: real vocabularies branch little below the first byte. Node 0 is unused. */
struct pare_trie_node {
    uint32_t child, sibling; /* 0 = none */
    int32_t value;           /* -1 = no text ends here */
    uint8_t byte;
};

bool pare_trie_add(pare_trie *trie, const char *text, size_t len, int32_t value, bool *twin) {
    const uint8_t *u = (const uint8_t *)text;
    *twin = false;
    /* room for all nodes first: `at` points into the array below */
    if (trie->n + len + 1 >= UINT32_MAX ||
        !pare_grow(&trie->nodes, &trie->capacity, trie->n + len + 1, sizeof *trie->nodes))
        return false;
    if (trie->n == 0) trie->nodes[trie->n++] = (struct pare_trie_node){.value = -1};
    uint32_t *at = &trie->root[u[0]], node = 0;
    for (size_t i = 0; i < len; i++) {
        while (*at && trie->nodes[*at].byte != u[i]) at = &trie->nodes[*at].sibling;
        if (!*at) {
            *at = (uint32_t)trie->n;
            trie->nodes[trie->n++] = (struct pare_trie_node){.value = -1, .byte = u[i]};
        }
        node = *at;
        at = &trie->nodes[node].child;
    }
    *twin = trie->nodes[node].value >= 0;
    if (!*twin) trie->nodes[node].value = value;
    return true;
}

void pare_trie_free(pare_trie *trie) {
    pare_free(trie->nodes);
    *trie = (pare_trie){0};
}

int32_t pare_trie_match(const pare_trie *trie, const char *s, size_t n, pare_trie_accept accept,
                        const void *arg, size_t *len) {
    const uint8_t *u = (const uint8_t *)s;
    int32_t found = -1;
    uint32_t node = n ? trie->root[u[0]] : 0;
    for (size_t i = 0; node;) {
        const struct pare_trie_node *t = &trie->nodes[node];
        if (t->value >= 0 && accept(arg, t->value)) {
            found = t->value;
            *len = i + 1;
        }
        if (++i == n) break;
        for (node = t->child; node && trie->nodes[node].byte != u[i];)
            node = trie->nodes[node].sibling;
    }
    return found;
}
