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

static size_t slot_of(const pare_names *names, const void *owner, pare_name_at at, const char *s,
                      size_t n) {
    size_t i = (size_t)keyed_hash(names->key, s, n) & names->mask;
    for (; names->slots[i]; i = (i + 1) & names->mask) {
        pare_span other = at(owner, names->slots[i] - 1);
        if (other.n == n && memcmp(other.s, s, n) == 0) break;
    }
    return i;
}

bool pare_names_build(pare_names *names, const void *owner, pare_name_at at, size_t n,
                      size_t *twin) {
    *twin = SIZE_MAX;
    size_t n_slots = 16;
    while (n_slots < 2 * n) n_slots *= 2;
    *names = (pare_names){pare_calloc(n_slots, sizeof *names->slots), n_slots - 1, 0};
    if (!names->slots) return false;
    /* the clock and the address are what an enemy cannot know in advance; order and results of all
     * lookups are the same for every key */
    double now = pare_now_s();
    memcpy(&names->key, &now, sizeof names->key);
    names->key = mix(names->key ^ (uint64_t)(uintptr_t)names->slots, 0xA0761D6478BD642Fu) | 1;
    for (size_t i = 0; i < n; i++) {
        pare_span name = at(owner, i);
        size_t slot = slot_of(names, owner, at, name.s, name.n);
        if (names->slots[slot]) {
            *twin = i;
            return true;
        }
        names->slots[slot] = (uint32_t)i + 1;
    }
    return true;
}

size_t pare_names_find(const pare_names *names, const void *owner, pare_name_at at, const char *s,
                       size_t n) {
    if (!names->slots) return SIZE_MAX;
    size_t slot = slot_of(names, owner, at, s, n);
    return names->slots[slot] ? names->slots[slot] - 1 : SIZE_MAX;
}

void pare_names_free(pare_names *names) {
    pare_free(names->slots);
    *names = (pare_names){0};
}
