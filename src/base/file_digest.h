/* Checksums of whole files. */
#ifndef PARE_SRC_BASE_FILE_DIGEST_H
#define PARE_SRC_BASE_FILE_DIGEST_H

#include "base/hash.h"
#include "base/os.h"
#include "base/runtime.h"

/* Adds a file's bytes to h and to *crc (continued, 0 at first); either may be NULL. rt: progress
 * and cancellation, NULL = neither. Errors: PARE_ERR_IO, PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status pare_file_digest(const pare_file *f, pare_sha256 *h, uint32_t *crc, pare_runtime *rt,
                             pare_error *err);

/* SHA-256 of the file of that name. */
pare_status pare_file_sha256(char hex[65], const char *path, pare_runtime *rt, pare_error *err);

#endif
