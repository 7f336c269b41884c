/* ggml's tensor types: what a GGUF file may name. All are known by size, so that a file can be
 * listed and checked also where pare cannot decode a type. */
#ifndef PARE_SRC_IO_GGML_TYPES_H
#define PARE_SRC_IO_GGML_TYPES_H

#include <stdint.h>

typedef struct pare_ggml_type {
    const char *name;     /* lower case, e.g. "q4_k" */
    uint32_t block_len;   /* values per block */
    uint32_t block_bytes; /* bytes per block */
} pare_ggml_type;

/* The ids that pare itself names. */
enum {
    PARE_GGML_F32 = 0,
    PARE_GGML_F16 = 1,
    PARE_GGML_Q4_0 = 2,
    PARE_GGML_Q8_0 = 8,
    PARE_GGML_Q4_K = 12,
    PARE_GGML_I8 = 24,
    PARE_GGML_BF16 = 30
};

/* The type of an id, or NULL: retired, of another program, or not a type at all. */
const pare_ggml_type *pare_ggml_type_at(uint32_t id);

/* Why pare_ggml_type_at gave NULL: "a retired type", "a type of ik_llama.cpp", "no type"; static.
 */
const char *pare_ggml_type_problem(uint32_t id);

#endif
