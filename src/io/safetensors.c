/* safetensors: one file's header. A hand-written strict scanner: the header has one fixed form, so
 * it needs no recursion and no tree, and 100 MB of it cost what they should. Strings are unescaped
 * in place. */
#include "io/safetensors_internal.h"

#include <stdlib.h>
#include <string.h>

/* In the order in which the reference writer stores tensors. */
static const pare_st_dtype dtypes[] = {
    {"U64", 64},    {"I64", 64},        {"F64", 64},        {"C64", 64},    {"F32", 32},
    {"U32", 32},    {"I32", 32},        {"BF16", 16},       {"F16", 16},    {"U16", 16},
    {"I16", 16},    {"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E8M0", 8}, {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"I8", 8},          {"U8", 8},          {"F6_E3M2", 6}, {"F6_E2M3", 6},
    {"F4", 4},      {"BOOL", 8},
};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

const pare_st_dtype *pare_st_dtype_find(const char *name) {
    for (size_t i = 0; i < N_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}

size_t pare_st_dtype_rank(const pare_st_dtype *dtype) { return (size_t)(dtype - dtypes); }

bool pare_st_size(uint64_t *n_bytes, uint64_t *n_elements, const pare_st_dtype *dtype,
                  const size_t *dims, size_t n_dims) {
    /* with 1 for empty dimensions, so that the product of no subset can overflow later either */
    size_t full = 1, elements = 1, bits;
    for (size_t d = 0; d < n_dims; d++) {
        if (!pare_mul_size(&full, full, dims[d] ? dims[d] : 1)) return false;
        elements *= dims[d];
    }
    if (!pare_mul_size(&bits, full, dtype->bits)) return false;
    bits = elements * dtype->bits;
    *n_elements = elements;
    *n_bytes = bits / 8;
    return bits % 8 == 0;
}

/* --- scanning --- */

typedef struct scanner {
    const char *path;
    char *text;
    size_t n, pos;
    pare_span tensor; /* the entry being read, for messages */
    pare_error *err;
} scanner;

#define BAD(scan, format, ...)                                                                     \
    ((scan)->tensor.n                                                                              \
         ? pare_fail((scan)->err, PARE_ERR_INPUT, "%s: tensor %.*s: " format, (scan)->path,        \
                     pare_clip((scan)->tensor.s, (scan)->tensor.n, 100), (scan)->tensor.s,         \
                     ##__VA_ARGS__)                                                                \
         : pare_fail((scan)->err, PARE_ERR_INPUT, "%s: header: " format, (scan)->path,             \
                     ##__VA_ARGS__))

static char peek(scanner *s) {
    while (s->pos < s->n && (s->text[s->pos] == ' ' || s->text[s->pos] == '\n' ||
                             s->text[s->pos] == '\r' || s->text[s->pos] == '\t'))
        s->pos++;
    return s->pos < s->n ? s->text[s->pos] : '\0';
}

static pare_status unexpected(scanner *s, const char *expected) {
    if (s->pos >= s->n) return BAD(s, "found the end of the header, expected %s", expected);
    unsigned char c = (unsigned char)s->text[s->pos];
    if (c > 0x20 && c < 0x7F)
        return BAD(s, "found '%c' at byte %zu, expected %s", c, s->pos + 8, expected);
    return BAD(s, "found the byte 0x%02x at byte %zu, expected %s", c, s->pos + 8, expected);
}

static pare_status take(scanner *s, char c, const char *expected) {
    if (peek(s) != c || s->pos >= s->n) return unexpected(s, expected);
    s->pos++;
    return PARE_OK;
}

/* Four hexadecimal digits at s->pos, or -1. */
static int hex4(scanner *s) {
    if (s->n - s->pos < 4) return -1;
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = s->text[s->pos + (size_t)i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        v = v * 16 + digit;
    }
    s->pos += 4;
    return v;
}

/* What follows "\u": writes at most 3 bytes, 4 for a pair: never more than was read. 0 = malformed.
 */
static size_t take_code_point(scanner *s, char *out) {
    int v = hex4(s);
    if (v < 0 || (v >= 0xDC00 && v <= 0xDFFF)) return 0;
    if (v >= 0xD800 && v <= 0xDBFF) {
        if (s->n - s->pos < 6 || s->text[s->pos] != '\\' || s->text[s->pos + 1] != 'u') return 0;
        s->pos += 2;
        int low = hex4(s);
        if (low < 0xDC00 || low > 0xDFFF) return 0;
        v = 0x10000 + (v - 0xD800) * 0x400 + (low - 0xDC00);
    }
    if (v < 0x80) return out[0] = (char)v, 1;
    size_t n = v < 0x800 ? 2 : v < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, v >>= 6) out[i] = (char)(0x80 | (v & 0x3F));
    out[0] = (char)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | v);
    return n;
}

static pare_status take_escape(scanner *s, char *text, size_t *n) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = s->pos < s->n ? s->text[s->pos] : '\0';
    if (c == 'u') {
        s->pos++;
        size_t more = take_code_point(s, text + *n);
        if (!more) return unexpected(s, "four hexadecimal digits that make a character");
        *n += more;
        return PARE_OK;
    }
    const char *at = c ? strchr(from, c) : NULL;
    if (!at) return unexpected(s, "an escape of JSON");
    text[(*n)++] = to[at - from];
    s->pos++;
    return PARE_OK;
}

/* A string: unescaped in place, NUL-terminated. The header is valid UTF-8 already. */
static pare_status take_string(scanner *s, pare_span *out, const char *expected) {
    PARE_TRY(take(s, '"', expected));
    char *text = s->text + s->pos;
    size_t n = 0;
    for (; s->pos < s->n; s->pos++) {
        char c = s->text[s->pos];
        if (c == '"') {
            s->pos++;
            text[n] = '\0';
            *out = (pare_span){text, n};
            return PARE_OK;
        }
        if ((unsigned char)c < 0x20) return unexpected(s, "a string without control bytes");
        if (c == '\\') {
            s->pos++;
            PARE_TRY(take_escape(s, text, &n));
            s->pos--; /* the loop's step */
        } else {
            text[n++] = c;
        }
    }
    return unexpected(s, "the end of a string");
}

/* A u64 in plain decimal digits. */
static pare_status take_number(scanner *s, uint64_t *out) {
    static const char what[] = "an integer 0 to 2^64-1 in plain digits";
    size_t first = (peek(s), s->pos);
    uint64_t v = 0;
    for (; s->pos < s->n && s->text[s->pos] >= '0' && s->text[s->pos] <= '9'; s->pos++)
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s->text[s->pos] - '0'), &v))
            return unexpected(s, what);
    bool ends = s->pos < s->n && strchr(",] \t\r\n", s->text[s->pos]) && s->text[s->pos];
    if (s->pos == first || !ends) return unexpected(s, what);
    if (s->text[first] == '0' && s->pos - first > 1) {
        s->pos = first;
        return unexpected(s, what);
    }
    *out = v;
    return PARE_OK;
}

/* After an item of a list that ends with `close`: *more, or the end. */
static pare_status take_separator(scanner *s, char close, bool *more, const char *expected) {
    char c = peek(s);
    if (s->pos >= s->n || (c != ',' && c != close)) return unexpected(s, expected);
    s->pos++;
    *more = c == ',';
    return PARE_OK;
}

/* Begins a list; *more is false when it is empty. */
static pare_status take_open(scanner *s, char open, char close, bool *more, const char *expected) {
    PARE_TRY(take(s, open, expected));
    *more = peek(s) != close || s->pos >= s->n;
    if (!*more) s->pos++;
    return PARE_OK;
}

/* --- entries --- */

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4, HAS_ALL = 7 };

static pare_status take_shape(scanner *s, pare_st_tensor *t) {
    bool more = false;
    PARE_TRY(take_open(s, '[', ']', &more, "the shape's '['"));
    while (more) {
        if (t->n_dims == PARE_ST_MAX_DIMS)
            return BAD(s, "found more than %d dimensions, expected at most that", PARE_ST_MAX_DIMS);
        uint64_t v = 0;
        PARE_TRY(take_number(s, &v));
        t->dims[t->n_dims++] = (size_t)v;
        PARE_TRY(take_separator(s, ']', &more, "',' or ']' in the shape"));
    }
    return PARE_OK;
}

static pare_status take_offsets(scanner *s, uint64_t *begin, uint64_t *end) {
    bool more = false;
    PARE_TRY(take(s, '[', "the offsets' '['"));
    PARE_TRY(take_number(s, begin));
    PARE_TRY(take(s, ',', "',' and the second of two offsets"));
    PARE_TRY(take_number(s, end));
    PARE_TRY(take_separator(s, ']', &more, "']' after two offsets"));
    return more ? BAD(s, "found more than two data_offsets, expected [begin, end]") : PARE_OK;
}

static pare_status take_field(scanner *s, pare_st_tensor *t, uint64_t *end, unsigned *seen) {
    pare_span field = {.s = ""}, dtype = {.s = ""};
    PARE_TRY(take_string(s, &field, "a field's name"));
    unsigned which = strcmp(field.s, "dtype") == 0          ? HAS_DTYPE
                     : strcmp(field.s, "shape") == 0        ? HAS_SHAPE
                     : strcmp(field.s, "data_offsets") == 0 ? HAS_OFFSETS
                                                            : 0;
    if (!which || strlen(field.s) != field.n)
        return BAD(s, "found the field \"%.*s\", expected dtype, shape and data_offsets",
                   pare_clip(field.s, field.n, 40), field.s);
    if (*seen & which) return BAD(s, "found the field %s twice, expected once", field.s);
    *seen |= which;
    PARE_TRY(take(s, ':', "':'"));
    if (which == HAS_SHAPE) return take_shape(s, t);
    if (which == HAS_OFFSETS) return take_offsets(s, &t->offset, end);
    PARE_TRY(take_string(s, &dtype, "the dtype's name"));
    t->dtype = strlen(dtype.s) == dtype.n ? pare_st_dtype_find(dtype.s) : NULL;
    if (!t->dtype)
        return BAD(s, "found the dtype \"%.*s\", expected F32, F16, BF16, I8, ... (case matters)",
                   pare_clip(dtype.s, dtype.n, 40), dtype.s);
    return PARE_OK;
}

static pare_status take_tensor(scanner *s, pare_st_tensor *t) {
    bool more = false;
    unsigned seen = 0;
    uint64_t end = 0;
    for (size_t d = 0; d < PARE_ST_MAX_DIMS; d++) t->dims[d] = 1;
    PARE_TRY(take_open(s, '{', '}', &more, "'{' of a tensor's entry"));
    while (more) {
        PARE_TRY(take_field(s, t, &end, &seen));
        PARE_TRY(take_separator(s, '}', &more, "',' or '}' in a tensor's entry"));
    }
    if (seen != HAS_ALL)
        return BAD(s, "found no %s, expected dtype, shape and data_offsets",
                   !(seen & HAS_DTYPE)   ? "dtype"
                   : !(seen & HAS_SHAPE) ? "shape"
                                         : "data_offsets");
    if (!pare_st_size(&t->n_bytes, &t->n_elements, t->dtype, t->dims, t->n_dims))
        return BAD(s,
                   "found a shape whose size in bits overflows or ends inside a byte (%s), "
                   "expected whole bytes",
                   t->dtype->name);
    if (end < t->offset || end - t->offset != t->n_bytes)
        return BAD(s, "found data_offsets [%llu, %llu], expected %llu bytes for its shape",
                   (unsigned long long)t->offset, (unsigned long long)end,
                   (unsigned long long)t->n_bytes);
    return PARE_OK;
}

static pare_status out_of_memory(const scanner *s) {
    return pare_fail(s->err, PARE_ERR_NOMEM, "%s: out of memory", s->path);
}

/* Room for one more item in an array of *capacity. */
static bool grow(void **items, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity) return true;
    size_t bigger = *capacity ? *capacity + *capacity / 2 : 64;
    void *more = pare_realloc(*items, bigger, size);
    if (!more) return false;
    *items = more;
    *capacity = bigger;
    return true;
}

static pare_span metadata_key(const void *owner, size_t i) {
    const st_part *part = owner;
    return (pare_span){part->header + part->metadata[i].key_at, part->metadata[i].key_len};
}

static pare_status take_metadata(scanner *s, st_part *part) {
    bool more = false;
    size_t capacity = 0, twin;
    PARE_TRY(take_open(s, '{', '}', &more, "'{' of __metadata__"));
    while (more) {
        pare_span key = {0}, value = {0};
        PARE_TRY(take_string(s, &key, "a name in __metadata__"));
        PARE_TRY(take(s, ':', "':' in __metadata__"));
        PARE_TRY(take_string(s, &value, "a string (all values of __metadata__ are)"));
        void *items = part->metadata;
        bool room = grow(&items, part->n_metadata, &capacity, sizeof *part->metadata);
        part->metadata = items;
        if (!room) return out_of_memory(s);
        part->metadata[part->n_metadata++] =
            (st_entry){(uint32_t)(key.s - s->text), (uint32_t)key.n, (uint32_t)(value.s - s->text),
                       (uint32_t)value.n};
        PARE_TRY(take_separator(s, '}', &more, "',' or '}' in __metadata__"));
    }
    pare_names names;
    if (!pare_names_build(&names, part, metadata_key, part->n_metadata, &twin))
        return out_of_memory(s);
    pare_names_free(&names);
    if (twin == SIZE_MAX) return PARE_OK;
    pare_span key = metadata_key(part, twin);
    return BAD(s, "found \"%.*s\" twice in __metadata__, expected once",
               pare_clip(key.s, key.n, 60), key.s);
}

static pare_status check_name(scanner *s, pare_span name) {
    if (name.n == 0 || name.n > PARE_ST_MAX_NAME)
        return BAD(s, "found a tensor name of %zu bytes, expected 1 to %d", name.n,
                   PARE_ST_MAX_NAME);
    if (!pare_name_valid(name.s, name.n))
        return BAD(s, "found control bytes in the tensor name \"%.*s\", expected text",
                   pare_clip(name.s, name.n, 60), name.s);
    return PARE_OK;
}

/* The header's object: tensors are appended to `all`. */
static pare_status take_header(scanner *s, pare_st *all, size_t index) {
    bool more = false, metadata = false;
    PARE_TRY(take_open(s, '{', '}', &more, "'{'"));
    while (more) {
        pare_span name;
        s->tensor = (pare_span){0};
        PARE_TRY(take_string(s, &name, "a tensor's name"));
        PARE_TRY(take(s, ':', "':' after a tensor's name"));
        if (name.n == 12 && memcmp(name.s, "__metadata__", 12) == 0) {
            if (metadata) return BAD(s, "found __metadata__ twice, expected once");
            metadata = true;
            PARE_TRY(take_metadata(s, &all->parts[index]));
        } else {
            PARE_TRY(check_name(s, name));
            s->tensor = name;
            void *items = all->tensors;
            bool room = grow(&items, all->n_tensors, &all->tensor_capacity, sizeof *all->tensors);
            all->tensors = items;
            if (!room) return out_of_memory(s);
            st_tensor *t = &all->tensors[all->n_tensors];
            *t = (st_tensor){{.name = name.s, .file = index}, (uint32_t)name.n};
            PARE_TRY(take_tensor(s, &t->t));
            all->n_tensors++;
        }
        s->tensor = (pare_span){0};
        PARE_TRY(take_separator(s, '}', &more, "',' or '}' after an entry"));
    }
    peek(s);
    return s->pos == s->n ? PARE_OK : unexpected(s, "nothing but spaces after the header's '}'");
}

/* --- one file --- */

static int compare_places(const void *a, const void *b) {
    const pare_st_tensor *x = &((const st_tensor *)a)->t, *y = &((const st_tensor *)b)->t;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

/* The tensors from `first` on must cover the n_data bytes of their file exactly; offsets become
 * absolute. */
static pare_status check_cover(pare_st *all, scanner *s, size_t first, uint64_t start,
                               uint64_t n_data) {
    size_t n = all->n_tensors - first;
    st_tensor *tensors = n ? all->tensors + first : NULL;
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++)
        sorted = compare_places(&tensors[i - 1], &tensors[i]) < 0;
    if (!sorted) qsort(tensors, n, sizeof *tensors, compare_places);
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        pare_st_tensor *t = &tensors[i].t;
        s->tensor = (pare_span){t->name, tensors[i].name_len};
        if (t->offset != end)
            return BAD(s, "found data that begin at %llu, expected %llu (no holes, no overlap)",
                       (unsigned long long)t->offset, (unsigned long long)end);
        if (t->n_bytes > n_data - end)
            return BAD(s, "found %llu bytes of data in the file, expected %llu more from %llu on",
                       (unsigned long long)n_data, (unsigned long long)t->n_bytes,
                       (unsigned long long)end);
        end += t->n_bytes;
        t->offset += start;
    }
    s->tensor = (pare_span){0};
    if (end != n_data)
        return BAD(s, "found %llu bytes of data in the file, expected %llu",
                   (unsigned long long)n_data, (unsigned long long)end);
    return PARE_OK;
}

static pare_status read_bytes(const st_part *part, const void *data, void *out, size_t n,
                              uint64_t offset, pare_error *err) {
    if (!data) return pare_file_read_at(&part->file, out, n, offset, err);
    memcpy(out, (const char *)data + offset, n);
    return PARE_OK;
}

static pare_status check_start(scanner *s, const uint8_t *start, uint64_t size, uint64_t *n) {
    if (size < 8)
        return BAD(s, "found a file of %llu bytes, expected 8 at least", (unsigned long long)size);
    if (memcmp(start, "version ", 8) == 0)
        return BAD(s, "found a Git LFS pointer (the file itself was not downloaded), expected a "
                      "safetensors file");
    *n = 0;
    for (int i = 0; i < 8; i++) *n |= (uint64_t)start[i] << 8 * i;
    if (*n == 0 || *n > PARE_ST_MAX_HEADER)
        return BAD(s, "found a header of %llu bytes, expected 1 to %d", (unsigned long long)*n,
                   PARE_ST_MAX_HEADER);
    if (*n > size - 8)
        return BAD(s, "found a header of %llu bytes in a file of %llu, expected at most %llu",
                   (unsigned long long)*n, (unsigned long long)size,
                   (unsigned long long)(size - 8));
    return PARE_OK;
}

static pare_status parse_part(pare_st *all, size_t index, const void *data, pare_error *err) {
    st_part *part = &all->parts[index];
    scanner s = {.path = part->file.path, .err = err};
    uint64_t size = part->file.size, n = 0;
    uint8_t start[8] = {0};
    if (size >= 8) PARE_TRY(read_bytes(part, data, start, 8, 0, err));
    PARE_TRY(check_start(&s, start, size, &n));
    part->header = pare_malloc((size_t)n, 1);
    if (!part->header) return out_of_memory(&s);
    PARE_TRY(read_bytes(part, data, part->header, (size_t)n, 8, err));
    s.text = part->header;
    s.n = (size_t)n;
    if (n >= 3 && memcmp(s.text, "\xEF\xBB\xBF", 3) == 0)
        return BAD(&s, "found a byte order mark, expected '{'");
    if (!pare_utf8_valid(s.text, s.n)) return BAD(&s, "found invalid UTF-8, expected JSON");
    size_t first = all->n_tensors;
    PARE_TRY(take_header(&s, all, index));
    return check_cover(all, &s, first, 8 + n, size - 8 - n);
}

pare_status st_add_part(pare_st *s, pare_file file, const void *data, pare_error *err) {
    st_part *more = pare_realloc(s->parts, s->n_parts + 1, sizeof *more);
    if (!more) {
        pare_status st = pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", file.path);
        pare_file_close(&file);
        return st;
    }
    s->parts = more;
    s->parts[s->n_parts++] = (st_part){.file = file};
    return parse_part(s, s->n_parts - 1, data, err);
}

/* --- opening --- */

static pare_span name_of(const void *owner, size_t i) {
    const st_tensor *t = &((const pare_st *)owner)->tensors[i];
    return (pare_span){t->t.name, t->name_len};
}

pare_status st_index_names(pare_st *s, pare_error *err) {
    size_t twin;
    const char *path = s->parts[0].file.path;
    if (!pare_names_build(&s->names, s, name_of, s->n_tensors, &twin))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    if (twin == SIZE_MAX) return PARE_OK;
    const pare_st_tensor *t = &s->tensors[twin].t;
    return pare_fail(err, PARE_ERR_INPUT, "%s: tensor %.*s: found the name twice, expected once",
                     s->parts[t->file].file.path, pare_clip(t->name, strlen(t->name), 100),
                     t->name);
}

static pare_status open_file(pare_st *s, const char *path, pare_error *err) {
    pare_file file;
    PARE_TRY(pare_file_open(&file, path, err));
    PARE_TRY(st_add_part(s, file, NULL, err));
    return st_index_names(s, err);
}

static pare_status open_bytes(pare_st *s, const void *data, size_t n, const char *name,
                              pare_error *err) {
    pare_file file = {-1, n, pare_strdup(name)};
    if (!file.path) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    PARE_TRY(st_add_part(s, file, data ? data : "", err));
    return st_index_names(s, err);
}

static pare_status finish_open(pare_st **out, pare_st *s, pare_status st) {
    if (st == PARE_OK)
        *out = s;
    else
        pare_st_close(s);
    return st;
}

pare_status pare_st_open(pare_st **out, const char *path, pare_error *err) {
    *out = NULL;
    pare_st *s = pare_calloc(1, sizeof *s);
    if (!s) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    return finish_open(
        out, s, pare_path_is_folder(path) ? st_open_folder(s, path, err) : open_file(s, path, err));
}

pare_status pare_st_open_memory(pare_st **out, const void *data, size_t n, const char *name,
                                pare_error *err) {
    *out = NULL;
    pare_st *s = pare_calloc(1, sizeof *s);
    if (!s) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    return finish_open(out, s, open_bytes(s, data, n, name, err));
}

void pare_st_close(pare_st *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n_parts; i++) {
        pare_file_close(&s->parts[i].file);
        pare_free(s->parts[i].header);
        pare_free(s->parts[i].metadata);
    }
    for (size_t i = 0; i < s->n_warnings; i++) pare_free(s->warnings[i]);
    pare_free(s->parts);
    pare_free(s->tensors);
    pare_names_free(&s->names);
    pare_free(s);
}

/* --- what was found --- */

size_t pare_st_n_files(const pare_st *s) { return s->n_parts; }
const pare_file *pare_st_file(const pare_st *s, size_t i) { return &s->parts[i].file; }
size_t pare_st_n_tensors(const pare_st *s) { return s->n_tensors; }
const pare_st_tensor *pare_st_tensor_at(const pare_st *s, size_t i) { return &s->tensors[i].t; }
size_t pare_st_n_warnings(const pare_st *s) { return s->n_warnings; }
const char *pare_st_warning(const pare_st *s, size_t i) { return s->warnings[i]; }
size_t pare_st_n_metadata(const pare_st *s) { return s->parts[0].n_metadata; }

const pare_st_tensor *pare_st_find(const pare_st *s, const char *name) {
    size_t i = pare_names_find(&s->names, s, name_of, name, strlen(name));
    return i == SIZE_MAX ? NULL : &s->tensors[i].t;
}

void pare_st_metadata_at(const pare_st *s, size_t i, pare_span *key, pare_span *value) {
    const st_part *part = &s->parts[0];
    *key = metadata_key(part, i);
    *value = (pare_span){part->header + part->metadata[i].value_at, part->metadata[i].value_len};
}

const char *pare_st_metadata(const pare_st *s, const char *key) {
    for (size_t i = 0; i < pare_st_n_metadata(s); i++) {
        pare_span k, v;
        pare_st_metadata_at(s, i, &k, &v);
        if (k.n == strlen(key) && memcmp(k.s, key, k.n) == 0) return v.s;
    }
    return NULL;
}
