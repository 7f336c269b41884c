/* Makes safetensors files for tests: the header is text, so a field is bent by writing it so. */
#ifndef PARE_TESTS_SUPPORT_ST_BUILD_H
#define PARE_TESTS_SUPPORT_ST_BUILD_H

#include "support/build.h"

/* Length, header, n_data bytes of data. */
static inline test_bytes test_st_build(const char *header, size_t n_header, size_t n_data) {
    test_bytes b = {0};
    tb_int(&b, n_header, 8);
    tb_add(&b, header, n_header);
    tb_zeros(&b, n_data);
    return b;
}

/* A valid one: every kind of entry once; 16 + 6 + 0 + 4 + 3 bytes of data. */
#define TEST_ST_HEADER                                                                             \
    "{\"__metadata__\":{\"format\":\"pt\",\"a\":\"\\u00e9\\n\"},"                                  \
    "\"a.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"                    \
    "\"b\":{\"data_offsets\":[16,22],\"dtype\":\"BF16\",\"shape\":[3]},"                           \
    "\"empty\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[22,22]},"                      \
    "\"scalar\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[22,26]},"                        \
    "\"half\":{\"dtype\":\"F4\",\"shape\":[2,3],\"data_offsets\":[26,29]}} "
enum { TEST_ST_DATA = 29 };

/* An entry with all of its fields. */
#define TEST_ST_ENTRY(name, dtype, shape, offsets)                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

#endif
