/* Arrays of a run that goes on where it was cut off, in one safetensors file. Who writes it notes
 * the CRC-32 in the manifest of the work folder once the file is complete. */
#ifndef PARE_SRC_PIPELINE_CHECKPOINT_H
#define PARE_SRC_PIPELINE_CHECKPOINT_H

#include "base/error.h"

/* One array of a checkpoint. */
typedef struct pare_saved {
    char name[256];
    const char *dtype; /* of safetensors: "F32", "U8" */
    void *data;        /* the caller's */
    size_t n_bytes;
} pare_saved;

/* Array number i; false past the last. */
typedef bool (*pare_saved_at)(void *arg, size_t i, pare_saved *out);

/* Of all arrays, in their order. */
uint32_t pare_checkpoint_crc32(pare_saved_at at, void *arg);

/* Errors: PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_checkpoint_write(const char *path, pare_saved_at at, void *arg, pare_error *err);

/* Fills all arrays. Errors: PARE_ERR_INPUT (one is missing or of another size; another checksum
 * than crc32: arrays may have changed), those of pare_st_open. */
pare_status pare_checkpoint_read(const char *path, uint32_t crc32, pare_saved_at at, void *arg,
                                 pare_error *err);

/* FOLDER/KIND-NUMBER.END; pare_free. NULL: out of memory. */
char *pare_checkpoint_path(const char *folder, const char *kind, uint64_t number, const char *end);

#endif
