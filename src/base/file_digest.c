#include "base/file_digest.h"

#include "base/memory.h"

enum { PIECE = 1 << 20 };

pare_status pare_file_digest(const pare_file *f, pare_sha256 *h, uint32_t *crc, pare_runtime *rt,
                             pare_error *err) {
    uint8_t *piece = pare_malloc(PIECE, 1);
    if (!piece) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", f->path);
    pare_status st = PARE_OK;
    for (uint64_t at = 0; st == PARE_OK && at < f->size;) {
        size_t n = f->size - at < PIECE ? (size_t)(f->size - at) : PIECE;
        if (rt) st = pare_check_cancel(rt, err);
        if (st == PARE_OK) st = pare_file_read_at(f, piece, n, at, err);
        if (st != PARE_OK) break;
        if (h) pare_sha256_update(h, piece, n);
        if (crc) *crc = pare_crc32(*crc, piece, n);
        at += n;
        if (rt) pare_progress(rt, "hash", (double)at / 1e6, (double)f->size / 1e6, "MB");
    }
    pare_free(piece);
    return st;
}

pare_status pare_file_sha256(char hex[65], const char *path, pare_runtime *rt, pare_error *err) {
    pare_file f;
    pare_sha256 h;
    PARE_TRY(pare_file_open(&f, path, err));
    pare_sha256_init(&h);
    pare_status st = pare_file_digest(&f, &h, NULL, rt, err);
    pare_sha256_hex(&h, hex);
    pare_file_close(&f);
    return st;
}
