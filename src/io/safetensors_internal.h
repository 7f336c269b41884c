/* The reader's inside, shared by safetensors.c (one file) and safetensors_folder.c (index and
 * parts). */
#ifndef PARE_SRC_IO_SAFETENSORS_INTERNAL_H
#define PARE_SRC_IO_SAFETENSORS_INTERNAL_H

#include "io/safetensors.h"

enum { ST_MAX_FILES = 2048, ST_MAX_WARNINGS = 16 };

/* Positions in the header of the first file: with pointers, many short entries would cost too much.
 */
typedef struct st_entry {
    uint32_t key_at, key_len, value_at, value_len;
} st_entry;

typedef struct st_tensor {
    pare_st_tensor t;
    uint32_t name_len;
} st_tensor;

typedef struct st_part {
    pare_file file; /* fd -1: from memory */
    char *header;   /* strings unescaped in place and NUL-terminated */
    st_entry *metadata;
    size_t n_metadata;
} st_part;

struct pare_st {
    st_part *parts;
    size_t n_parts;
    st_tensor *tensors;
    size_t n_tensors, tensor_capacity;
    pare_names names;
    char *warnings[ST_MAX_WARNINGS];
    size_t n_warnings;
};

/* Adds a part whose file is open (taken over, also on failure) and parses its header. data NULL, or
 * the file's bytes. */
pare_status st_add_part(pare_st *s, pare_file file, const void *data, pare_error *err);

/* Fills s with the files of a folder. */
pare_status st_open_folder(pare_st *s, const char *folder, pare_error *err);

/* Indexes all names; a name that stands in two files is an error. */
pare_status st_index_names(pare_st *s, pare_error *err);

#endif
