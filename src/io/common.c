#include "io/common.h"

#include "base/os.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool pare_utf8_valid(const char *s, size_t n) {
    const uint8_t *p = (const uint8_t *)s, *end = p + n;
    while (p < end) {
        uint64_t eight;
        if (end - p >= 8 && (memcpy(&eight, p, 8), (eight & 0x8080808080808080u) == 0)) {
            p += 8;
            continue;
        }
        uint8_t c = *p++;
        if (c < 0x80) continue;
        int more = c >= 0xC2 && c <= 0xDF   ? 1
                   : c >= 0xE0 && c <= 0xEF ? 2
                   : c >= 0xF0 && c <= 0xF4 ? 3
                                            : 0;
        if (!more || end - p < more) return false;
        /* the first continuation byte excludes overlong forms, surrogates and values past U+10FFFF
         */
        uint8_t low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
        uint8_t high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        if (*p < low || *p > high) return false;
        for (p++; --more; p++)
            if ((*p & 0xC0) != 0x80) return false;
    }
    return true;
}

bool pare_name_valid(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)s[i] < 0x20 || s[i] == 0x7F) return false;
    return pare_utf8_valid(s, n);
}

int pare_clip(const char *s, size_t n, int max) {
    if (n <= (size_t)max) return (int)n;
    int cut = max;
    while (cut > 0 && ((uint8_t)s[cut] & 0xC0) == 0x80) cut--;
    return cut;
}

void pare_buffer_add(pare_buffer *b, const void *data, size_t n) {
    size_t need;
    if (b->failed || n == 0) return;
    if (!pare_add_size(&need, b->n, n)) {
        b->failed = true;
        return;
    }
    if (need > b->capacity) {
        size_t capacity = need < 256 ? 256 : need + need / 2;
        uint8_t *more = pare_realloc(b->data, capacity, 1);
        if (!more) {
            b->failed = true;
            return;
        }
        b->data = more;
        b->capacity = capacity;
    }
    memcpy(b->data + b->n, data, n);
    b->n = need;
}

void pare_buffer_print(pare_buffer *b, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text)
        b->failed = true;
    else
        pare_buffer_add(b, text, (size_t)n);
}

void pare_buffer_free(pare_buffer *b) {
    pare_free(b->data);
    *b = (pare_buffer){0};
}

static uint64_t mix(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Eight bytes a step; without the key its collisions cannot be constructed. */
static uint64_t keyed_hash(uint64_t key, const char *s, size_t n) {
    uint64_t h = key ^ n;
    for (; n >= 8; n -= 8, s += 8) {
        uint64_t v;
        memcpy(&v, s, 8);
        h = mix(h ^ v, key ^ 0x9E3779B97F4A7C15u);
    }
    uint64_t v = 0;
    memcpy(&v, s, n);
    return mix(mix(h ^ v, key ^ 0x9E3779B97F4A7C15u), 0xE7037ED1A0B428DBu);
}

/* The tag, 32 more bits of the hash, spares a look at almost every name that is not the one. */
struct pare_name_slot {
    uint32_t number; /* 1 + number of the name; 0 = empty */
    uint32_t tag;
};

/* Large tables lie in huge pages: every look-up is a jump. */
enum { MANY_SLOTS = 1 << 18 };

static struct pare_name_slot *slots_alloc(size_t n) {
    size_t size = sizeof(struct pare_name_slot);
    return n >= MANY_SLOTS ? pare_big_alloc(n * size) : pare_calloc(n, size);
}

static void slots_free(pare_names *names) {
    if (names->mask + 1 >= MANY_SLOTS)
        pare_big_free(names->slots, (names->mask + 1) * sizeof *names->slots);
    else
        pare_free(names->slots);
}

/* The slot of a name with that hash, or the empty one where it belongs. */
static struct pare_name_slot *slot_of(const pare_names *names, const void *owner, pare_name_at at,
                                      const char *s, size_t n, uint64_t hash) {
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = (size_t)hash & names->mask;; i = (i + 1) & names->mask) {
        struct pare_name_slot *slot = &names->slots[i];
        if (!slot->number) return slot;
        if (slot->tag != tag) continue;
        pare_span other = at(owner, slot->number - 1);
        if (other.n == n && memcmp(other.s, s, n) == 0) return slot;
    }
}

/* Names whose slots are asked for before the first of them is used. */
enum { AHEAD = 32 };

/* Adds names first..end-1 (at most AHEAD); the first twin, or SIZE_MAX. */
static size_t add_names(pare_names *names, const void *owner, pare_name_at at, size_t first,
                        size_t end) {
    uint64_t hash[AHEAD];
    for (size_t i = first; i < end; i++) {
        pare_span name = at(owner, i);
        hash[i - first] = keyed_hash(names->key, name.s, name.n);
        __builtin_prefetch(&names->slots[(size_t)hash[i - first] & names->mask], 1);
    }
    for (size_t i = first; i < end; i++) {
        pare_span name = at(owner, i);
        struct pare_name_slot *slot = slot_of(names, owner, at, name.s, name.n, hash[i - first]);
        if (slot->number) return i;
        *slot = (struct pare_name_slot){(uint32_t)i + 1, (uint32_t)(hash[i - first] >> 32)};
    }
    return SIZE_MAX;
}

bool pare_names_build(pare_names *names, const void *owner, pare_name_at at, size_t n,
                      size_t *twin) {
    *twin = SIZE_MAX;
    size_t n_slots = 16;
    while (n_slots < 2 * n) n_slots *= 2;
    *names = (pare_names){slots_alloc(n_slots), n_slots - 1, 0};
    if (!names->slots) return false;
    /* the clock and the address are what an enemy cannot know in advance; order and results of all
     * lookups are the same for every key */
    double now = pare_now_s();
    memcpy(&names->key, &now, sizeof names->key);
    names->key = mix(names->key ^ (uint64_t)(uintptr_t)names->slots, 0xA0761D6478BD642Fu) | 1;
    for (size_t first = 0; first < n && *twin == SIZE_MAX; first += AHEAD) {
        size_t end = n - first < AHEAD ? n : first + AHEAD;
        *twin = add_names(names, owner, at, first, end);
    }
    return true;
}

size_t pare_names_find(const pare_names *names, const void *owner, pare_name_at at, const char *s,
                       size_t n) {
    if (!names->slots) return SIZE_MAX;
    uint32_t number = slot_of(names, owner, at, s, n, keyed_hash(names->key, s, n))->number;
    return number ? number - 1 : SIZE_MAX;
}

void pare_names_free(pare_names *names) {
    slots_free(names);
    *names = (pare_names){0};
}
