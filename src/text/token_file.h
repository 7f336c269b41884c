/* Text for training as ids in one file: made once, read in pieces. The file is
 *
 *     "PARETOK1", u32 bytes of an id (2 or 4), u32 CRC-32 of the ids, u64 number of ids, u64 number
 * of documents, 32 bytes fingerprint of what it was made from, then the ids, little-endian
 *
 * A document is a file, or a line of a .jsonl file (its "text"). Documents follow each other, each
 * behind the tokenizer's BOS or before its EOS where it has them. */
#ifndef PARE_SRC_TEXT_TOKEN_FILE_H
#define PARE_SRC_TEXT_TOKEN_FILE_H

#include "base/os.h"
#include "base/runtime.h"
#include "pare/tokenizer.h"

typedef struct pare_token_file {
    pare_file file;
    uint64_t n, n_documents;
    size_t width;
} pare_token_file;

/* What the result depends on: the tokenizer (its description and vocabulary) and the files in their
 * order, each given by the SHA-256 of its bytes in hex, and whether it is .jsonl (name). */
void pare_token_file_fingerprint(uint8_t out[32], const pare_tokenizer *tok,
                                 const char (*sha256)[65], const char *const *names,
                                 size_t n_files);

/* Writes `path` from text files. Errors: PARE_ERR_INPUT (a .jsonl line without "text"; no ids at
 * all), those of the tokenizer, PARE_ERR_IO, PARE_ERR_INTERRUPTED. */
pare_status pare_token_file_build(pare_runtime *rt, const char *path, const pare_tokenizer *tok,
                                  const char *const *files, size_t n_files,
                                  const uint8_t fingerprint[32], pare_error *err);

/* Opens a file and checks it: every id is below vocab_size. *fits = false, PARE_OK: it is absent,
 * was made from something else, or is damaged. */
pare_status pare_token_file_open(pare_token_file *out, bool *fits, const char *path,
                                 const uint8_t fingerprint[32], size_t vocab_size, pare_error *err);
void pare_token_file_close(pare_token_file *t);

/* ids[n] from `first` on. */
pare_status pare_token_file_read(const pare_token_file *t, uint64_t first, size_t n, int32_t *ids,
                                 pare_error *err);

#endif
