#include "text/token_file.h"

#include "base/hash.h"
#include "base/memory.h"
#include "text/unicode.h"

#include <jansson.h>
#include <string.h>

enum { HEADER = 64, PIECE = 1 << 16 };
static const char magic[8] = "PARETOK1";

static void put_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static void put_u64(uint8_t *p, uint64_t v) {
    put_u32(p, (uint32_t)v);
    put_u32(p + 4, (uint32_t)(v >> 32));
}
static uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t get_u64(const uint8_t *p) {
    return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

void pare_token_file_fingerprint(uint8_t out[32], const pare_tokenizer *tok,
                                 const char (*sha256)[65], const char *const *names,
                                 size_t n_files) {
    pare_sha256 h;
    pare_sha256_init(&h);
    const char *what = pare_tokenizer_describe(tok);
    pare_sha256_update(&h, what, strlen(what) + 1);
    for (size_t i = 0; i < pare_tokenizer_vocab_size(tok); i++) {
        const char *token = pare_tokenizer_token(tok, (int32_t)i);
        if (token) pare_sha256_update(&h, token, strlen(token) + 1);
    }
    for (size_t i = 0; i < n_files; i++) {
        pare_sha256_update(&h, sha256[i], sizeof sha256[i]);
        pare_sha256_update(&h, pare_ends_with(names[i], ".jsonl") ? "j" : "t", 1);
    }
    pare_sha256_final(&h, out);
}

typedef struct builder {
    pare_writer w;
    const pare_tokenizer *tok;
    size_t width;
    uint64_t n, n_documents;
    uint32_t crc;
    pare_ids ids;
} builder;

static pare_status put_ids(builder *b, const int32_t *ids, size_t n, pare_error *err) {
    uint8_t bytes[4 * 1024];
    for (size_t i = 0; i < n;) {
        size_t some = n - i < 1024 ? n - i : 1024;
        for (size_t k = 0; k < some; k++, i++)
            for (size_t j = 0; j < b->width; j++)
                bytes[k * b->width + j] = (uint8_t)((uint32_t)ids[i] >> (8 * j));
        b->crc = pare_crc32(b->crc, bytes, some * b->width);
        PARE_TRY(pare_writer_write(&b->w, bytes, some * b->width, err));
    }
    b->n += n;
    return PARE_OK;
}

static pare_status add_document(builder *b, const char *text, size_t len, pare_error *err) {
    int32_t bos = pare_tokenizer_bos(b->tok), eos = pare_tokenizer_eos(b->tok);
    bool first = pare_tokenizer_adds_bos(b->tok) && bos >= 0;
    b->ids.n = 0;
    PARE_TRY(pare_tokenizer_encode(b->tok, &b->ids, text, len, 0, err));
    if (b->ids.n == 0) return PARE_OK;
    b->n_documents++;
    if (first) PARE_TRY(put_ids(b, &bos, 1, err));
    PARE_TRY(put_ids(b, b->ids.data, b->ids.n, err));
    return !first && eos >= 0 ? put_ids(b, &eos, 1, err) : PARE_OK;
}

static pare_status add_line(builder *b, const char *file, size_t number, const char *line,
                            size_t len, pare_error *err) {
    json_error_t why;
    json_t *j = json_loadb(line, len, JSON_ALLOW_NUL, &why);
    json_t *text = json_object_get(j, "text");
    pare_status st;
    if (!json_is_string(text))
        st = pare_fail(err, PARE_ERR_INPUT,
                       "%s: line %zu: found %s, expected an object with \"text\"", file, number,
                       j ? "no such string" : "no JSON");
    else
        st = add_document(b, json_string_value(text), json_string_length(text), err);
    json_decref(j);
    return st;
}

/* Any bytes have ids, but a text in another encoding, or no text, is hardly what was meant. */
static void tell_bad_text(pare_runtime *rt, const char *path, const char *text, size_t len) {
    size_t first = 0, bad = 0;
    for (size_t i = 0; i < len;) {
        size_t good = pare_utf8_prefix(text + i, len - i);
        i += good;
        if (i >= len) break;
        if (!bad++) first = i;
        i++;
    }
    if (bad)
        pare_warn(rt,
                  "%s: byte %zu: found no UTF-8, expected text in it (%zu such bytes of %zu): they "
                  "are learned as they are",
                  path, first, bad, len);
}

static pare_status add_file(builder *b, pare_runtime *rt, const char *path, pare_error *err) {
    char *text;
    size_t len;
    PARE_TRY(pare_file_read_all(&text, &len, path, (size_t)1 << 30, err));
    pare_status st = PARE_OK;
    if (!pare_ends_with(path, ".jsonl")) {
        tell_bad_text(rt, path, text, len);
        st = add_document(b, text, len, err);
        if (st != PARE_OK) pare_fail_prefix(err, "%s", path);
    }
    size_t number = 1;
    for (size_t at = 0; pare_ends_with(path, ".jsonl") && at < len && st == PARE_OK; number++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end - text) - at : len - at;
        if (n) st = add_line(b, path, number, text + at, n, err);
        at += n + 1;
    }
    pare_free(text);
    return st;
}

static pare_status build(builder *b, pare_runtime *rt, const char *const *files, size_t n_files,
                         const uint8_t fingerprint[32], pare_error *err) {
    uint8_t header[HEADER] = {0};
    PARE_TRY(pare_writer_pad(&b->w, HEADER, err));
    for (size_t i = 0; i < n_files; i++) {
        pare_progress(rt, "tokenize", (double)i, (double)n_files, "files");
        PARE_TRY(pare_check_cancel(rt, err));
        PARE_TRY(add_file(b, rt, files[i], err));
    }
    pare_progress(rt, "tokenize", (double)n_files, (double)n_files, "files");
    if (b->n == 0)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found no text, expected some", files[0]);
    memcpy(header, magic, sizeof magic);
    put_u32(header + 8, (uint32_t)b->width);
    put_u32(header + 12, b->crc);
    put_u64(header + 16, b->n);
    put_u64(header + 24, b->n_documents);
    memcpy(header + 32, fingerprint, 32);
    PARE_TRY(pare_writer_write_at(&b->w, header, HEADER, 0, err));
    return pare_writer_commit(&b->w, err);
}

pare_status pare_token_file_build(pare_runtime *rt, const char *path, const pare_tokenizer *tok,
                                  const char *const *files, size_t n_files,
                                  const uint8_t fingerprint[32], pare_error *err) {
    builder b = {.tok = tok, .width = pare_tokenizer_vocab_size(tok) <= 65536 ? 2 : 4};
    PARE_TRY(pare_writer_open(&b.w, path, err));
    pare_status st = build(&b, rt, files, n_files, fingerprint, err);
    pare_writer_discard(&b.w);
    pare_ids_free(&b.ids);
    return st;
}

/* Narrow ids lie in the upper half of their room. */
static pare_status read_bytes(const pare_token_file *t, uint64_t first, size_t n, int32_t *ids,
                              uint8_t **bytes, pare_error *err) {
    *bytes = (uint8_t *)ids + n * (sizeof *ids - t->width);
    return pare_file_read_at(&t->file, *bytes, n * t->width, HEADER + first * t->width, err);
}

static void widen(const pare_token_file *t, const uint8_t *bytes, size_t n, int32_t *ids) {
    for (size_t i = 0; i < n; i++) {
        uint32_t id = 0;
        for (size_t j = 0; j < t->width; j++) id |= (uint32_t)bytes[i * t->width + j] << (8 * j);
        memcpy(&ids[i], &id, sizeof id);
    }
}

pare_status pare_token_file_read(const pare_token_file *t, uint64_t first, size_t n, int32_t *ids,
                                 pare_error *err) {
    uint8_t *bytes;
    PARE_TRY(read_bytes(t, first, n, ids, &bytes, err));
    widen(t, bytes, n, ids);
    return PARE_OK;
}

/* *whole: the ids are those that were written. */
static pare_status check_ids(const pare_token_file *t, uint32_t expected, size_t vocab_size,
                             bool *whole, pare_error *err) {
    int32_t *ids = pare_malloc(PIECE, sizeof *ids);
    if (!ids) return pare_fail(err, PARE_ERR_NOMEM, "%s: a piece", t->file.path);
    pare_status st = PARE_OK;
    uint32_t crc = 0, largest = 0;
    for (uint64_t at = 0; at < t->n && st == PARE_OK; at += PIECE) {
        size_t n = t->n - at < PIECE ? (size_t)(t->n - at) : PIECE;
        uint8_t *bytes;
        st = read_bytes(t, at, n, ids, &bytes, err);
        if (st != PARE_OK) break;
        crc = pare_crc32(crc, bytes, n * t->width);
        widen(t, bytes, n, ids);
        for (size_t i = 0; i < n; i++)
            if ((uint32_t)ids[i] > largest) largest = (uint32_t)ids[i];
    }
    pare_free(ids);
    *whole = st == PARE_OK && crc == expected;
    if (*whole && largest >= vocab_size)
        return pare_fail(
            err, PARE_ERR_INPUT,
            "%s: found id %u, expected less than %zu: the tokenizer is not the model's",
            t->file.path, (unsigned)largest, vocab_size);
    return st;
}

pare_status pare_token_file_open(pare_token_file *out, bool *fits, const char *path,
                                 const uint8_t fingerprint[32], size_t vocab_size,
                                 pare_error *err) {
    uint8_t header[HEADER] = {0};
    *out = (pare_token_file){.file = {.fd = -1}};
    *fits = false;
    if (!pare_path_exists(path)) return PARE_OK;
    PARE_TRY(pare_file_open(&out->file, path, err));
    pare_status st = PARE_OK;
    if (out->file.size >= HEADER) st = pare_file_read_at(&out->file, header, HEADER, 0, err);
    if (st == PARE_OK && out->file.size >= HEADER && memcmp(header, magic, sizeof magic) == 0 &&
        memcmp(header + 32, fingerprint, 32) == 0) {
        out->width = get_u32(header + 8);
        out->n = get_u64(header + 16);
        out->n_documents = get_u64(header + 24);
        uint64_t bytes = out->file.size - HEADER;
        *fits = (out->width == 2 || out->width == 4) && bytes % out->width == 0 &&
                bytes / out->width == out->n;
    }
    if (st == PARE_OK && *fits) st = check_ids(out, get_u32(header + 12), vocab_size, fits, err);
    if (st != PARE_OK || !*fits) pare_token_file_close(out);
    return st;
}

void pare_token_file_close(pare_token_file *t) {
    if (t->file.fd >= 0) pare_file_close(&t->file);
    t->file.fd = -1;
}
